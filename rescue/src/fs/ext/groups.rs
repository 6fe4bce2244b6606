//! Group descriptors: where the bitmaps and inode tables are, and what they should count to.
//!
//! ```text
//!  0 block bitmap, inode bitmap, inode table (low halves, 4 bytes each)
//! 12 free blocks, free inodes, directories (low)  18 flags  24 bitmap checksums (low)  28 unused inodes  30 checksum
//! 32 high halves, where descriptors are 64 bytes or longer: bitmap, inode bitmap, inode table, counts, checksums
//! ```
//!
//! Source: Linux kernel, Documentation/filesystems/ext4/group_descr.rst.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    checksum::{crc16, crc32c},
    superblock::{Geometry, Superblock, feature},
};
use crate::{
    block::{self, ReadAt},
    bytes::{Fields, Truncated},
    extent::{Extent, ExtentSet},
    fs::{checked::right, reader::SmallReader},
};

/// The group's inode bitmap and table were never written.
pub const INODE_UNINIT: u16 = 1;
/// The group's block bitmap was never written: only metadata is in use.
pub const BLOCK_UNINIT: u16 = 2;
/// The group's inode table was zeroed, by whoever made the file system or later: all that is in it is of this one.
pub const INODE_ZEROED: u16 = 4;

/// One group descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Block of the block bitmap.
    pub block_bitmap: u64,
    /// Block of the inode bitmap.
    pub inode_bitmap: u64,
    /// First block of the inode table.
    pub inode_table: u64,
    /// Clusters the bitmap should call free.
    pub free_clusters: u32,
    /// Inodes the inode bitmap should call free.
    pub free_inodes: u32,
    /// Inodes that are directories.
    pub used_dirs: u32,
    /// Inodes at the end of the table that were never used; only with descriptor checksums.
    pub unused_inodes: u32,
    /// `INODE_UNINIT`, `BLOCK_UNINIT`, `INODE_ZEROED`; 0 where descriptors have no checksums to protect the flags.
    pub flags: u16,
    /// Checksum of the block bitmap, as far as the descriptor holds it.
    pub bitmap_checksum: u32,
    /// Whether the descriptor's own checksum is right (always, where there is none).
    pub intact: bool,
}

/// How descriptors of a file system are read and checked.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Bytes of a descriptor.
    pub desc_size: u64,
    /// What checksums of metadata start with.
    pub seed: u32,
    uuid: [u8; 16],
    metadata_csum: bool,
    gdt_csum: bool,
    inode_checksums: bool,
}

impl Format {
    /// Takes the format from a superblock.
    #[must_use]
    pub fn new(sb: &Superblock, geometry: &Geometry) -> Self {
        Self {
            desc_size: geometry.desc_size,
            seed: sb.checksum_seed(),
            uuid: sb.s_uuid,
            metadata_csum: sb.has_ro(feature::RO_METADATA_CSUM),
            gdt_csum: sb.has_ro(feature::RO_GDT_CSUM),
            // Others than Linux keep something else where the checksum is.
            inode_checksums: sb.has_ro(feature::RO_METADATA_CSUM) && sb.s_creator_os == 0,
        }
    }

    /// Tells whether bitmaps have checksums.
    #[must_use]
    pub const fn bitmap_checksums(&self) -> bool {
        self.metadata_csum
    }

    /// Reads the descriptor of `group` from its bytes.
    ///
    /// # Errors
    /// [`Truncated`] when they are fewer than 32.
    pub fn parse(&self, bytes: &[u8], group: u64) -> Result<Descriptor, Truncated> {
        let f = Fields(bytes);
        let wide = self.desc_size >= 64;
        let high32 = |offset| if wide { f.u32(offset).map(u64::from) } else { Ok(0) };
        let high16 = |offset| if wide { f.u16(offset).map(u32::from) } else { Ok(0) };
        let checksums = self.metadata_csum || self.gdt_csum;
        Ok(Descriptor {
            block_bitmap: high32(32)? << 32 | u64::from(f.u32(0)?),
            inode_bitmap: high32(36)? << 32 | u64::from(f.u32(4)?),
            inode_table: high32(40)? << 32 | u64::from(f.u32(8)?),
            free_clusters: high16(44)? << 16 | u32::from(f.u16(12)?),
            free_inodes: high16(46)? << 16 | u32::from(f.u16(14)?),
            used_dirs: high16(48)? << 16 | u32::from(f.u16(16)?),
            unused_inodes: if checksums { high16(50)? << 16 | u32::from(f.u16(28)?) } else { 0 },
            flags: if checksums { f.u16(18)? } else { 0 },
            bitmap_checksum: high16(56)? << 16 | u32::from(f.u16(24)?),
            intact: !checksums || right(self.checksum(f, group)? == f.u16(30)?),
        })
    }

    fn checksum(&self, f: Fields<'_>, group: u64) -> Result<u16, Truncated> {
        let number = u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes();
        let (head, tail) = (f.slice(0, 30)?, f.0.get(32..).unwrap_or(&[]));
        if self.metadata_csum {
            let crc = crc32c(self.seed, &[&number, head, &[0, 0], tail]);
            return Ok(u16::try_from(crc & 0xffff).unwrap_or(0));
        }
        Ok(crc16(&[&self.uuid, &number, head, tail]))
    }

    /// Tells whether `inode`, all bytes of it, has the checksum of inode `number`; `None` where inodes have none.
    ///
    /// Source: Linux kernel, Documentation/filesystems/ext4/checksums.rst and inodes.rst.
    #[must_use]
    pub fn inode_intact(&self, inode: &[u8], number: u64) -> Option<bool> {
        self.inode_checksums.then(|| right(self.inode_matches(Fields(inode), number) == Ok(true)))
    }

    fn inode_matches(&self, f: Fields<'_>, number: u64) -> Result<bool, Truncated> {
        let number = u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        let (low, generation) = (u32::from(f.u16(124)?), f.slice(100, 4)?);
        let crc = crc32c(self.seed, &[&number, generation, f.slice(0, 124)?, &[0, 0], f.slice(126, 2)?]);
        let Some(behind) = f.0.get(128..).filter(|behind| !behind.is_empty()) else { return Ok(crc & 0xffff == low) };
        // The high half counts where the inode says that it reaches so far.
        if f.u16(128)? >= 4 {
            let crc = crc32c(crc, &[f.slice(128, 2)?, &[0, 0], f.0.get(132..).unwrap_or_default()]);
            return Ok(crc == u32::from(f.u16(130)?) << 16 | low);
        }
        Ok(crc32c(crc, &[behind]) & 0xffff == low)
    }

    /// Tells whether `bitmap` (whole bytes for `clusters_per_group` bits) has the checksum its descriptor names.
    #[must_use]
    pub fn bitmap_intact(&self, bitmap: &[u8], clusters_per_group: u64, desc: &Descriptor) -> bool {
        if !self.metadata_csum {
            return true;
        }
        let len = usize::try_from(clusters_per_group / 8).unwrap_or(usize::MAX);
        let Some(covered) = bitmap.get(..len) else { return false };
        let crc = crc32c(self.seed, &[covered]);
        // Short descriptors have room for the low half alone.
        right(if self.desc_size >= 64 { crc == desc.bitmap_checksum } else { crc & 0xffff == desc.bitmap_checksum })
    }
}

/// What is wrong with the place of a group's metadata: the whole map then rests on nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A descriptor block cannot be read.
    #[error("group descriptors at byte {offset:#x} cannot be read: {source}")]
    Unreadable {
        /// Where.
        offset: u64,
        /// Why.
        source: block::Error,
    },
    /// A descriptor block is too short for its descriptors.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A bitmap or table lies where it cannot be.
    #[error("the {what} of group {group} is at blocks {start} to {end}, outside blocks {first} to {last}")]
    Outside {
        /// `block bitmap`, `inode bitmap`, `inode table`.
        what: &'static str,
        /// Whose.
        group: u64,
        /// First block.
        start: u64,
        /// Block behind.
        end: u64,
        /// First block it may use.
        first: u64,
        /// Block behind those it may use.
        last: u64,
    },
    /// Two pieces of metadata share a block.
    #[error("metadata overlaps: {0} bytes are named, {1} of them distinct")]
    Overlap(u64, u64),
}

/// All groups of a file system, and the blocks their own structures lie in.
#[derive(Debug)]
pub struct Groups {
    /// One descriptor each, in order.
    pub descriptors: Vec<Descriptor>,
    /// Bytes of superblocks, descriptors, bitmaps and inode tables.
    pub metadata: ExtentSet,
    /// Those of them that no broken descriptor names.
    pub sure: ExtentSet,
}

impl Groups {
    /// Reads every primary descriptor, and checks that what they name lies where it may.
    ///
    /// # Errors
    /// [`Error`]: then no bitmap can be trusted to be one.
    pub fn read(region: &dyn ReadAt, geometry: &Geometry, format: &Format, flex_bg: bool) -> Result<Self, Error> {
        let mut reader = SmallReader::new(region);
        let mut descriptors = Vec::new();
        let (mut pieces, mut doubtful) = (Vec::new(), Vec::new());
        let mut named = 0u64;
        let desc_len = usize::try_from(geometry.desc_size).unwrap_or(usize::MAX);
        let block_len = usize::try_from(geometry.block_size).unwrap_or(usize::MAX);
        for group in 0..geometry.groups {
            let per_block = geometry.descs_per_block().max(1);
            let offset =
                geometry.desc_block(group.checked_div(per_block).unwrap_or(0)).saturating_mul(geometry.block_size);
            let block = reader.read(offset, block_len).map_err(|source| Error::Unreadable { offset, source })?;
            let at = group.checked_rem(per_block).unwrap_or(0).saturating_mul(geometry.desc_size);
            let bytes = Fields(block).slice(usize::try_from(at).unwrap_or(usize::MAX), desc_len)?;
            let desc = format.parse(bytes, group)?;
            let heads = geometry.head_of(group).map(|(start, end)| geometry.bytes(start, end));
            let own = Self::check(geometry, group, &desc, flex_bg)?;
            // A broken descriptor may well name blocks of others: they are kept, but not taken for doubly used.
            let (own, claimed) = if desc.intact { (own, Vec::new()) } else { (Vec::new(), own) };
            doubtful.extend(claimed);
            for extent in heads.into_iter().chain(own).filter(|extent| !extent.is_empty()) {
                named = named.saturating_add(extent.len());
                pieces.push(extent);
            }
            descriptors.push(desc);
        }
        let sure = ExtentSet::from_unsorted(pieces);
        let distinct = sure.total();
        if distinct != named {
            return Err(Error::Overlap(named, distinct));
        }
        let metadata = sure.union(&ExtentSet::from_unsorted(doubtful));
        Ok(Self { descriptors, metadata, sure })
    }

    /// Returns the bytes of a group's bitmaps and inode table; those of a broken descriptor as far as they are possible.
    fn check(geometry: &Geometry, group: u64, desc: &Descriptor, flex_bg: bool) -> Result<Vec<Extent>, Error> {
        let (first, last) = if flex_bg {
            (geometry.first_block, geometry.blocks)
        } else {
            (geometry.group_start(group), geometry.group_end(group))
        };
        let mut own = Vec::with_capacity(3);
        for (what, start, len) in [
            ("block bitmap", desc.block_bitmap, 1),
            ("inode bitmap", desc.inode_bitmap, 1),
            ("inode table", desc.inode_table, geometry.itable_blocks),
        ] {
            let end = start.saturating_add(len);
            if start >= first && end <= last {
                own.push(geometry.bytes(start, end));
            } else if desc.intact {
                return Err(Error::Outside { what, group, start, end, first, last });
            }
        }
        Ok(own)
    }
}

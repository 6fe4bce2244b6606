//! The XFS superblock: one sector at the start of every allocation group, and what can be computed from it alone.
//!
//! ```text
//!   0 magic "XFSB", block size, data blocks, realtime blocks, realtime extents, 32 UUID
//!  48 first block of the log (0: another device)  84 blocks in a group, groups  96 blocks in the log
//! 100 version and its features  102 sector, inode size, inodes in a block  108 label
//! 120 log2 of: block, sector, inode, inodes in a block, blocks in a group  126 in progress
//! 128 inodes, free inodes, free blocks, free realtime extents  196 stripe unit of the log, more features
//! 208 compatible, read-only compatible, incompatible, log incompatible features  224 checksum  248 metadata UUID
//! ```
//!
//! Big endian, but for the checksum. Only the first is kept up to date; the copies change when the file system grows.
//! Source: Linux kernel, fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`, and xfs_sb.c for what a mount checks.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use uuid::Uuid;

use crate::{
    bytes::{Fields, Truncated},
    fs::{checked::right, ext::checksum::crc32c},
};

/// The longest sector a superblock may fill, in bytes.
pub const MAX_SECTOR: usize = 32768;
/// Allocation groups that are read; mkfs makes none under 16 MiB, so these are 4 TiB of the smallest.
const MAX_GROUPS: u64 = 1 << 18;
/// The longest log the format allows, in bytes.
const MAX_LOG: u64 = 1 << 31;

/// Feature bits, by the field they are in.
pub mod feature {
    #![allow(missing_docs)]
    pub const V4_LOGV2: u16 = 0x400;
    pub const V4_DIRV2: u16 = 0x2000;
    /// All there are but the shared superblock, which nobody knows.
    pub const V4_UNKNOWN: u16 = 0x200;
    pub const V4_MOREBITS: u16 = 0x8000;
    pub const V2_LAZY_COUNTERS: u32 = 0x2;
    /// Lazy counters, attr2, 32-bit project ids, checksums, file types in directories.
    pub const V2_KNOWN: u32 = 0x2 | 0x8 | 0x80 | 0x100 | 0x200;
    pub const RO_FINOBT: u32 = 0x1;
    pub const RO_RMAPBT: u32 = 0x2;
    pub const RO_REFLINK: u32 = 0x4;
    pub const RO_INOBTCOUNT: u32 = 0x8;
    pub const RO_KNOWN: u32 = RO_FINOBT | RO_RMAPBT | RO_REFLINK | RO_INOBTCOUNT;
    pub const INCOMPAT_SPARSE_INODES: u32 = 0x2;
    pub const INCOMPAT_META_UUID: u32 = 0x4;
    pub const INCOMPAT_NEEDSREPAIR: u32 = 0x10;
    pub const INCOMPAT_METADIR: u32 = 0x100;
    /// File types, sparse inodes, metadata UUID, big times, needs repair, 64-bit extent counters, exchange-range,
    /// parent pointers, metadata directories. Not in here: zoned, whose free space is counted otherwise.
    pub const INCOMPAT_KNOWN: u32 = 0x1ff;
}
use feature::*;

/// Why a superblock cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few bytes.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// No magic number.
    #[error("the magic number is {0:#010x}, not 0x58465342")]
    Magic(u32),
    /// The checksum does not match.
    #[error("the superblock's checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// On disk.
        stored: u32,
        /// From the bytes.
        computed: u32,
    },
    /// A version we do not read.
    #[error("version {0} of the format is not read")]
    Version(u16),
    /// Features we do not know.
    #[error("unknown {set} features {bits:#x}")]
    Features {
        /// `version`, `compatible`, `incompatible`, `read-only compatible`.
        set: &'static str,
        /// The unknown ones.
        bits: u32,
    },
    /// The file system says it is longer than its region.
    #[error("the file system is {need} bytes long, its region {have}")]
    TooLong {
        /// Bytes of the file system.
        need: u128,
        /// Bytes of the region.
        have: u64,
    },
    /// More groups than we read.
    #[error("{0} groups, more than are read")]
    Groups(u64),
    /// Two numbers that cannot be true together, or one that cannot be at all.
    #[error("the superblock contradicts itself: {0}")]
    Geometry(String),
}

/// The fields of a superblock that we use, unchecked but for the checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the format")]
pub struct Superblock {
    pub sb_blocksize: u32,
    pub sb_dblocks: u64,
    pub sb_rblocks: u64,
    pub sb_uuid: [u8; 16],
    pub sb_logstart: u64,
    pub sb_agblocks: u32,
    pub sb_agcount: u32,
    pub sb_logblocks: u32,
    pub sb_versionnum: u16,
    pub sb_sectsize: u16,
    pub sb_inodesize: u16,
    pub sb_inopblock: u16,
    pub sb_fname: [u8; 12],
    pub sb_blocklog: u8,
    pub sb_sectlog: u8,
    pub sb_inodelog: u8,
    pub sb_inopblog: u8,
    pub sb_agblklog: u8,
    pub sb_inprogress: u8,
    pub sb_icount: u64,
    pub sb_fdblocks: u64,
    pub sb_logsunit: u32,
    pub sb_features2: u32,
    pub sb_features_compat: u32,
    pub sb_features_ro_compat: u32,
    pub sb_features_incompat: u32,
    pub sb_meta_uuid: [u8; 16],
}

impl Superblock {
    /// Reads a superblock and checks its checksum where it has one.
    ///
    /// * `bytes`: the whole sector, or as many bytes as a sector may have.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Magic`], [`Error::Checksum`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        let magic = f.u32_be(0)?;
        if magic != 0x5846_5342 {
            return Err(Error::Magic(magic));
        }
        let sb = Self::fields(f)?;
        if sb.is_v5() {
            let sector = f.slice(0, usize::from(sb.sb_sectsize))?;
            let (stored, computed) = (f.u32(224)?, checksum(sector, 224));
            if !right(stored == computed) {
                return Err(Error::Checksum { stored, computed });
            }
        }
        Ok(sb)
    }

    /// Reads the fields, trusting nothing: for naming a file system whose checksum is wrong.
    ///
    /// # Errors
    /// [`Truncated`] when `f` is shorter than a superblock.
    pub fn fields(f: Fields<'_>) -> Result<Self, Truncated> {
        let versionnum = f.u16_be(100)?;
        let v5 = versionnum & 0xf == 5;
        let extended = |offset| if v5 { f.u32_be(offset) } else { Ok(0) };
        Ok(Self {
            sb_blocksize: f.u32_be(4)?,
            sb_dblocks: f.u64_be(8)?,
            sb_rblocks: f.u64_be(16)?,
            sb_uuid: f.array(32)?,
            sb_logstart: f.u64_be(48)?,
            sb_agblocks: f.u32_be(84)?,
            sb_agcount: f.u32_be(88)?,
            sb_logblocks: f.u32_be(96)?,
            sb_versionnum: versionnum,
            sb_sectsize: f.u16_be(102)?,
            sb_inodesize: f.u16_be(104)?,
            sb_inopblock: f.u16_be(106)?,
            sb_fname: f.array(108)?,
            sb_blocklog: f.u8(120)?,
            sb_sectlog: f.u8(121)?,
            sb_inodelog: f.u8(122)?,
            sb_inopblog: f.u8(123)?,
            sb_agblklog: f.u8(124)?,
            sb_inprogress: f.u8(126)?,
            sb_icount: f.u64_be(128)?,
            sb_fdblocks: f.u64_be(144)?,
            sb_logsunit: f.u32_be(196)?,
            // Old 64-bit kernels wrote the second word instead of the first.
            sb_features2: f.u32_be(200)? | f.u32_be(204)?,
            sb_features_compat: extended(208)?,
            sb_features_ro_compat: extended(212)?,
            sb_features_incompat: extended(216)?,
            sb_meta_uuid: f.array(248)?,
        })
    }

    /// Returns the UUID as `blkid` shows it.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        (self.sb_uuid != [0; 16]).then(|| Uuid::from_bytes(self.sb_uuid).to_string())
    }

    /// Tells whether this is version 5: metadata have checksums, owners and UUIDs.
    #[must_use]
    pub const fn is_v5(&self) -> bool {
        self.sb_versionnum & 0xf == 5
    }

    /// Tells whether a read-only compatible feature is on.
    #[must_use]
    pub const fn has_ro(&self, bits: u32) -> bool {
        self.sb_features_ro_compat & bits != 0
    }

    /// Tells whether an incompatible feature is on.
    #[must_use]
    pub const fn has_incompat(&self, bits: u32) -> bool {
        self.sb_features_incompat & bits != 0
    }

    /// Tells whether free blocks are counted in the groups, and in the superblock when it is unmounted.
    #[must_use]
    pub const fn lazy_counters(&self) -> bool {
        self.is_v5() || self.sb_features2 & V2_LAZY_COUNTERS != 0
    }

    /// Returns the UUID that metadata carry.
    #[must_use]
    pub const fn metadata_uuid(&self) -> [u8; 16] {
        if self.has_incompat(INCOMPAT_META_UUID) { self.sb_meta_uuid } else { self.sb_uuid }
    }

    fn check_features(&self) -> Result<(), Error> {
        let refuse = |set, bits| if bits == 0 { Ok(()) } else { Err(Error::Features { set, bits }) };
        match self.sb_versionnum & 0xf {
            4 => {
                refuse("version", u32::from(self.sb_versionnum & V4_UNKNOWN))?;
                if self.sb_versionnum & V4_DIRV2 == 0 {
                    return Err(Error::Features { set: "version", bits: u32::from(self.sb_versionnum) });
                }
                let more = self.sb_versionnum & V4_MOREBITS != 0;
                refuse("version", if more { self.sb_features2 & !V2_KNOWN } else { 0 })
            }
            5 => {
                refuse("compatible", self.sb_features_compat)?;
                refuse("read-only compatible", self.sb_features_ro_compat & !RO_KNOWN)?;
                refuse("incompatible", self.sb_features_incompat & !INCOMPAT_KNOWN)
            }
            other => Err(Error::Version(other)),
        }
    }

    /// Checks that the numbers fit together and into a region of `region_len` bytes.
    ///
    /// # Errors
    /// [`Error::Version`], [`Error::Features`], [`Error::TooLong`], [`Error::Groups`], [`Error::Geometry`].
    pub fn geometry(&self, region_len: u64) -> Result<Geometry, Error> {
        self.check_features()?;
        let wrong = |what: &str| Err(Error::Geometry(what.to_owned()));
        let is = |value: u32, log: u8, least: u32, most: u32| {
            (least..=most).contains(&value) && 1u32.checked_shl(u32::from(log)) == Some(value)
        };
        let least = if self.is_v5() { 1024 } else { 512 };
        if !is(self.sb_blocksize, self.sb_blocklog, least, 65536) {
            return wrong(&format!("blocks of {} bytes", self.sb_blocksize));
        }
        if !is(u32::from(self.sb_sectsize), self.sb_sectlog, 512, 32768) {
            return wrong(&format!("sectors of {} bytes", self.sb_sectsize));
        }
        if u32::from(self.sb_sectsize) > self.sb_blocksize {
            return wrong("sectors longer than blocks");
        }
        if !is(u32::from(self.sb_inodesize), self.sb_inodelog, 256, 2048)
            || self.sb_blocklog.checked_sub(self.sb_inodelog) != Some(self.sb_inopblog)
            || u32::from(self.sb_inopblock) != 1 << self.sb_inopblog
        {
            return wrong(&format!("inodes of {} bytes, {} in a block", self.sb_inodesize, self.sb_inopblock));
        }
        let (blocks, per_group, groups) = (self.sb_dblocks, u64::from(self.sb_agblocks), u64::from(self.sb_agcount));
        let log = 64u32.saturating_sub(per_group.saturating_sub(1).leading_zeros());
        if per_group < 64 || log > 31 || u32::from(self.sb_agblklog) != log {
            return wrong(&format!("groups of {per_group} blocks, of which the logarithm is {}", self.sb_agblklog));
        }
        if groups == 0 || blocks.div_ceil(per_group) != groups {
            return wrong(&format!("{blocks} blocks in {groups} groups of {per_group}"));
        }
        let need = u128::from(blocks).saturating_mul(u128::from(self.sb_blocksize));
        if need > u128::from(region_len) {
            return Err(Error::TooLong { need, have: region_len });
        }
        if groups > MAX_GROUPS {
            return Err(Error::Groups(groups));
        }
        let geometry = Geometry {
            block_size: u64::from(self.sb_blocksize),
            blocks,
            group_blocks: per_group,
            groups,
            group_log: u32::from(self.sb_agblklog),
            sector: u64::from(self.sb_sectsize),
            inode_size: u64::from(self.sb_inodesize),
            inodes_log: u32::from(self.sb_inopblog),
            v5: self.is_v5(),
            uuid: self.metadata_uuid(),
        };
        self.check_log(&geometry)?;
        Ok(geometry)
    }

    /// Checks that an internal log lies in one group.
    fn check_log(&self, geometry: &Geometry) -> Result<(), Error> {
        if self.sb_logstart == 0 {
            return Ok(());
        }
        let len = u64::from(self.sb_logblocks);
        let fits = geometry.run(self.sb_logstart, len).is_some();
        if !fits || len == 0 || len.saturating_mul(geometry.block_size) > MAX_LOG {
            return Err(Error::Geometry(format!("a log of {len} blocks at block {:#x}", self.sb_logstart)));
        }
        Ok(())
    }
}

/// Numbers of a file system that were found to fit together.
///
/// A file system block number has the group in its upper bits and the block in the group in its lower
/// [`Geometry::group_log`] bits: between groups whose length is no power of two are numbers that do not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a block.
    pub block_size: u64,
    /// Blocks of the data section.
    pub blocks: u64,
    /// Blocks in every group but the last.
    pub group_blocks: u64,
    /// Allocation groups.
    pub groups: u64,
    /// Bits of a block number that name the block in its group.
    pub group_log: u32,
    /// Bytes in a sector.
    pub sector: u64,
    /// Bytes in an inode.
    pub inode_size: u64,
    /// Bits of an inode number that name the inode in its block.
    pub inodes_log: u32,
    /// Whether metadata have checksums.
    pub v5: bool,
    /// The UUID that metadata carry.
    pub uuid: [u8; 16],
}

impl Geometry {
    /// Returns how many blocks `group` has.
    #[must_use]
    pub const fn group_len(&self, group: u64) -> u64 {
        let left = self.blocks.saturating_sub(group.saturating_mul(self.group_blocks));
        if left < self.group_blocks { left } else { self.group_blocks }
    }

    /// Returns the byte where block `block` of `group` begins.
    #[must_use]
    pub const fn offset(&self, group: u64, block: u64) -> u64 {
        group.saturating_mul(self.group_blocks).saturating_add(block).saturating_mul(self.block_size)
    }

    /// Splits a file system block number into group and block.
    #[must_use]
    pub const fn split(&self, block: u64) -> (u64, u64) {
        let mask = 1u64.wrapping_shl(self.group_log).wrapping_sub(1);
        (block.wrapping_shr(self.group_log), block & mask)
    }

    /// Returns the bytes of `len` blocks at file system block `start`, or `None` where they are not all in one group.
    #[must_use]
    pub fn run(&self, start: u64, len: u64) -> Option<crate::extent::Extent> {
        let (group, block) = self.split(start);
        let end = block.checked_add(len)?;
        let fits = group < self.groups && end <= self.group_len(group);
        fits.then(|| crate::extent::Extent::new(self.offset(group, block), self.offset(group, end)))
    }
}

/// Computes the checksum of a structure that holds it at `at`, in four bytes taken for zero.
#[must_use]
pub fn checksum(bytes: &[u8], at: usize) -> u32 {
    let head = bytes.get(..at).unwrap_or(&[]);
    let tail = bytes.get(at.saturating_add(4)..).unwrap_or(&[]);
    !crc32c(!0, &[head, &[0; 4], tail])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::xfs::testing::sector;

    fn geometry(change: impl Fn(&mut Vec<u8>)) -> Result<Geometry, Error> {
        let mut bytes = sector();
        change(&mut bytes);
        Superblock::parse(&bytes)?.geometry(3500 * 4096)
    }

    #[test]
    fn block_numbers_are_split_between_group_and_block() {
        let geometry = geometry(|_| ()).unwrap();
        assert_eq!(geometry.split(2 << 10 | 100), (2, 100));
        assert_eq!((geometry.group_len(2), geometry.group_len(3), geometry.group_len(4)), (1000, 500, 0));
        assert_eq!(geometry.run(3 << 10 | 400, 100).unwrap().end, 3500 * 4096);
        assert_eq!(geometry.run(3 << 10 | 400, 101), None, "behind the last group");
        assert_eq!(geometry.run(1 << 10 | 990, 20), None, "over the end of a group");
        assert_eq!(geometry.run(1 << 10 | 1010, 1), None, "between groups");
        assert_eq!(geometry.run(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 13] = [
            ("magic number is 0x58585342", |b| b[1] = b'X'),
            ("blocks of 4097 bytes", |b| b[7] = 1),
            ("sectors of 513 bytes", |b| b[103] = 1),
            ("inodes of 256 bytes, 17 in a block", |b| b[107] = 17),
            ("groups of 1000 blocks, of which the logarithm is 11", |b| b[124] = 11),
            ("3500 blocks in 5 groups of 1000", |b| b[91] = 5),
            ("0 groups", |b| b[91] = 0),
            ("14340096 bytes long, its region 14336000", |b| b[15] += 1),
            ("a log of 2000 blocks", |b| b[98..100].copy_from_slice(&[7, 0xd0])),
            ("version 3", |b| b[101] = 0xa3),
            ("unknown version features 0x200", |b| b[100] |= 2),
            ("unknown version features 0x10", |b| b[203] |= 0x10),
            ("checksum is 0x00000000", |b| b[101] = 0xa5),
        ];
        for (says, change) in cases {
            let error = geometry(change).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn unknown_features_of_version_5_are_named() {
        for (at, bits, says) in [
            (208, 1u32, "unknown compatible features 0x1"),
            (212, 0x13, "unknown read-only compatible features 0x10"),
            (216, 0x203, "unknown incompatible features 0x200"),
        ] {
            let error = geometry(|b| {
                b[101] = 0xa5;
                b[at..][..4].copy_from_slice(&bits.to_be_bytes());
                let crc = checksum(b, 224).to_le_bytes();
                b[224..228].copy_from_slice(&crc);
            });
            assert_eq!(error.unwrap_err().to_string(), says);
        }
    }
}

//! Inodes and the blocks they use: extent trees and indirect blocks.
//!
//! ```text
//! inode:  0 mode  4 size  26 links  28 sectors (low)  32 flags  40 60 bytes of extent tree root or block numbers
//!         104 attribute block (low)  108 size (high)  116 sectors (high)  118 attribute block (high)
//! extent tree node:  0 magic f30a, entries, room, depth  then 12 bytes each
//!         leaf:  0 logical block  4 length (> 32768: unwritten)  6 start (high)  8 start (low)
//!         index: 0 logical block  4 child (low)  8 child (high)
//! ```
//!
//! Source: Linux kernel, Documentation/filesystems/ext4/inodes.rst and ifork.rst.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Volume, superblock::feature};
use crate::{
    block,
    bytes::{Fields, Truncated},
    fs::reader::SmallReader,
};

const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;
/// The kernel's `EXT4_MAX_EXTENT_DEPTH`.
const MAX_DEPTH: u16 = 5;

/// Why the blocks of an inode could not all be listed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A structure ends too early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A block cannot be read.
    #[error(transparent)]
    Unreadable(#[from] block::Error),
    /// A block number that the file system does not have.
    #[error("blocks {start}+{len} are not in the file system")]
    Outside {
        /// First block.
        start: u64,
        /// How many.
        len: u64,
    },
    /// Not a node of an extent tree, or one at a wrong depth.
    #[error("an extent tree node has magic {magic:#06x}, {entries} entries, depth {depth}")]
    Node {
        /// Must be 0xf30a.
        magic: u16,
        /// Must fit in the node.
        entries: u16,
        /// Must be one less than the parent's.
        depth: u16,
    },
    /// More tree blocks than this survey is willing to read.
    #[error("its tree is larger than the walk goes")]
    Budget,
}

/// A run of blocks in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Block of the file; `None` for tree blocks and attribute blocks.
    pub logical: Option<u64>,
    /// Block of the file system.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// Whether what the blocks hold is the file's; the others are reserved, and read as zeros.
    pub written: bool,
}

/// One inode, as far as its blocks need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permissions.
    pub mode: u16,
    /// Hard links; 0 for an inode not in use.
    pub links: u16,
    /// Length in bytes.
    pub size: u64,
    /// Flags.
    pub flags: u32,
    sectors: u64,
    attributes: u64,
    root: [u8; 60],
}

impl Inode {
    /// Reads an inode from its first 128 bytes.
    ///
    /// * `wide`: block numbers have 48 bits; without the feature the high half of one is not to be trusted.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn parse(bytes: &[u8], wide: bool) -> Result<Self, Truncated> {
        let f = Fields(bytes);
        Ok(Self {
            mode: f.u16(0)?,
            links: f.u16(26)?,
            size: u64::from(f.u32(108)?) << 32 | u64::from(f.u32(4)?),
            flags: f.u32(32)?,
            sectors: u64::from(f.u16(116)?) << 32 | u64::from(f.u32(28)?),
            attributes: if wide { u64::from(f.u16(118)?) << 32 } else { 0 } | u64::from(f.u32(104)?),
            root: f.array(40)?,
        })
    }

    /// Tells whether the 60 bytes in the inode point to blocks.
    fn has_blocks(&self, block_size: u64) -> bool {
        let attribute_sectors = if self.attributes == 0 { 0 } else { block_size / 512 };
        match self.mode & 0xf000 {
            _ if self.flags & INLINE_DATA != 0 => false,
            0x8000 | 0x4000 => true,
            // A short symbolic link is its target; anything longer has a block.
            0xa000 => self.flags & EXTENTS != 0 || self.size >= 60 || self.sectors > attribute_sectors,
            // Reserved inodes (bad blocks, boot loader, resize) have no type.
            0 => true,
            _ => false,
        }
    }
}

/// Lists runs of blocks, and counts the blocks that had to be read to find them.
pub struct Lister<'v, 'a> {
    volume: &'v Volume<'a>,
    reader: SmallReader<'a>,
    /// Tree blocks that may still be read.
    pub budget: u64,
}

impl<'v, 'a> Lister<'v, 'a> {
    /// Lists files of `volume`, reading at most `budget` tree blocks.
    pub(super) const fn new(volume: &'v Volume<'a>, budget: u64) -> Self {
        Self { volume, reader: SmallReader::new(volume.region), budget }
    }

    /// Calls `each` for every run of blocks that `inode` uses, in no particular order.
    ///
    /// # Errors
    /// [`Error`]; some runs may have been listed before.
    pub fn list(&mut self, inode: &Inode, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        if inode.attributes != 0 {
            self.run(Run { logical: None, start: inode.attributes, len: 1, written: true }, each)?;
        }
        if !inode.has_blocks(self.volume.geometry.block_size) {
            return Ok(());
        }
        if inode.flags & EXTENTS != 0 {
            return self.node(&inode.root, None, each);
        }
        let mut logical = 0u64;
        for (index, level) in (0..12).map(|i| (i, 0u32)).chain([(12, 1), (13, 2), (14, 3)]) {
            let pointer = Fields(&inode.root).u32(4usize.saturating_mul(index))?;
            self.pointer(u64::from(pointer), level, &mut logical, each)?;
        }
        Ok(())
    }

    fn run(&self, run: Run, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        if !self.volume.holds(run.start, run.len) {
            return Err(Error::Outside { start: run.start, len: run.len });
        }
        each(run);
        Ok(())
    }

    fn tree_block(&mut self, block: u64, each: &mut dyn FnMut(Run)) -> Result<Vec<u8>, Error> {
        self.run(Run { logical: None, start: block, len: 1, written: true }, each)?;
        self.budget = self.budget.checked_sub(1).ok_or(Error::Budget)?;
        Ok(self.volume.block(&mut self.reader, block)?.to_vec())
    }

    fn node(&mut self, bytes: &[u8], parent: Option<u16>, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        let f = Fields(bytes);
        let (magic, entries, depth) = (f.u16(0)?, f.u16(2)?, f.u16(6)?);
        let right_depth = parent.map_or(depth <= MAX_DEPTH, |parent| parent.checked_sub(1) == Some(depth));
        let room = (bytes.len() / 12).saturating_sub(1);
        if magic != 0xf30a || !right_depth || usize::from(entries) > room {
            return Err(Error::Node { magic, entries, depth });
        }
        for entry in bytes.chunks_exact(12).skip(1).take(usize::from(entries)).map(Fields) {
            if depth == 0 {
                let len = u64::from(entry.u16(4)?);
                let written = len <= 32768;
                let len = if written { len } else { len.saturating_sub(32768) };
                let start = u64::from(entry.u16(6)?) << 32 | u64::from(entry.u32(8)?);
                self.run(Run { logical: Some(u64::from(entry.u32(0)?)), start, len, written }, each)?;
            } else {
                let child = u64::from(entry.u16(8)?) << 32 | u64::from(entry.u32(4)?);
                let bytes = self.tree_block(child, each)?;
                self.node(&bytes, Some(depth), each)?;
            }
        }
        Ok(())
    }

    /// Follows one block number; `level` 0 is a block of the file, above that a block of numbers.
    fn pointer(&mut self, block: u64, level: u32, at: &mut u64, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        let per_block = self.volume.geometry.block_size / 4;
        if block == 0 {
            *at = at.saturating_add(per_block.saturating_pow(level));
            return Ok(());
        }
        if level == 0 {
            self.run(Run { logical: Some(*at), start: block, len: 1, written: true }, each)?;
            *at = at.saturating_add(1);
            return Ok(());
        }
        let bytes = self.tree_block(block, each)?;
        for number in bytes.as_chunks::<4>().0 {
            self.pointer(u64::from(u32::from_le_bytes(*number)), level.saturating_sub(1), at, each)?;
        }
        Ok(())
    }
}

impl Volume<'_> {
    /// Tells whether block numbers have more than 32 bits.
    pub(super) const fn wide(&self) -> bool {
        self.sb.has_incompat(feature::INCOMPAT_64BIT)
    }

    /// Reads inode `number` (from 1), or `None` where there is no such inode or its table cannot be read.
    pub(super) fn inode(&self, number: u32) -> Option<Inode> {
        Inode::parse(&self.inode_bytes(number)?, self.wide()).ok()
    }

    /// Returns all bytes of inode `number`, as [`Self::inode`] does.
    pub(super) fn inode_bytes(&self, number: u32) -> Option<Vec<u8>> {
        let index = u64::from(number).checked_sub(1)?;
        let group = index.checked_div(self.geometry.inodes_per_group)?;
        let within = index.checked_rem(self.geometry.inodes_per_group)?;
        let desc = self.groups.descriptors.get(usize::try_from(group).ok()?).filter(|desc| desc.intact)?;
        let table = desc.inode_table.checked_mul(self.geometry.block_size)?;
        let offset = within.checked_mul(self.geometry.inode_size)?.checked_add(table)?;
        // At most a block: 64 KiB.
        let mut bytes = vec![0; usize::try_from(self.geometry.inode_size).ok()?];
        self.region.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

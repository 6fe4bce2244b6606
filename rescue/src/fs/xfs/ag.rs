//! The headers of an allocation group: four sectors at its start.
//!
//! ```text
//! sector 0 a copy of the superblock
//! sector 1 AGF:  0 magic, version, number, length  16 roots and 28 levels of the trees by block, by size, by owner
//!               40 first, last, count of the free list  52 free blocks, longest run, tree blocks  64 UUID
//!               88 root and level of the reference count tree  216 checksum
//! sector 2 AGI:  0 magic, version, number, length  16 inodes  20 root, level of the inode tree  28 free inodes
//!              296 UUID, checksum  328 root, level of the tree of chunks with free inodes
//! sector 3 AGFL: blocks kept for the trees to grow; before them, in version 5, magic, number, UUID, 32 checksum
//! ```
//!
//! Big endian, but for checksums. Source: Linux kernel, fs/xfs/libxfs/xfs_format.h.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    View,
    superblock::{Geometry, Superblock, checksum, feature},
};
use crate::{
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Block in the group.
    pub block: u64,
    /// Levels, leaves included.
    pub levels: u32,
}

/// What is in use and what is free in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agf {
    /// Free runs by block.
    pub by_block: Root,
    /// Free runs by length.
    pub by_size: Root,
    /// Used runs by block and owner, where the file system has it.
    pub rmap: Option<Root>,
    /// Runs used more than once, where the file system has it.
    pub refcount: Option<Root>,
    /// First used entry of the free list.
    pub first: u32,
    /// Last used entry.
    pub last: u32,
    /// Used entries.
    pub count: u32,
    /// Blocks in the trees of free runs.
    pub free_blocks: u64,
    /// Blocks in the longest of them.
    pub longest: u64,
    /// Blocks of the trees, but for the two roots; 0 without lazy counters.
    pub tree_blocks: u64,
}

/// Where the inodes of a group are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agi {
    /// Inodes in all chunks.
    pub inodes: u64,
    /// Chunks of inodes.
    pub chunks: Root,
    /// Chunks with free inodes, where the file system has it.
    pub free_chunks: Option<Root>,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A bad sector.
    #[error("cannot be read")]
    Unreadable,
    /// Another magic number, version, number, length or UUID than it should have.
    #[error("is not its own")]
    Foreign,
    /// The checksum is wrong.
    #[error("has a wrong checksum")]
    Checksum,
    /// A number in it is impossible.
    #[error("is impossible")]
    Impossible,
    /// The copy of the superblock is of another file system's shape.
    #[error("is of a file system of another shape")]
    Geometry,
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::Foreign
    }
}

impl Agf {
    /// Reads and checks the header of `group`'s free space.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(view: &View<'_>, group: u64) -> Result<Self, Error> {
        let bytes = header(view, group, 1, b"XAGF", 216, 64)?;
        let f = Fields(&bytes);
        let sb = view.volume.sb;
        let len = view.volume.geometry.group_len(group);
        let root = |block, level| Root::at(f, block, level, len);
        let agf = Self {
            by_block: root(16, 28)?,
            by_size: root(20, 32)?,
            rmap: sb.has_ro(feature::RO_RMAPBT).then(|| root(24, 36)).transpose()?,
            refcount: sb.has_ro(feature::RO_REFLINK).then(|| root(88, 92)).transpose()?,
            first: f.u32_be(40)?,
            last: f.u32_be(44)?,
            count: f.u32_be(48)?,
            free_blocks: u64::from(f.u32_be(52)?),
            longest: u64::from(f.u32_be(56)?),
            tree_blocks: u64::from(f.u32_be(60)?),
        };
        let possible = agf.free_blocks <= len && agf.longest <= agf.free_blocks && agf.tree_blocks <= len;
        if possible { Ok(agf) } else { Err(Error::Impossible) }
    }
}

impl Agi {
    /// Reads and checks the header of `group`'s inodes.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(view: &View<'_>, group: u64) -> Result<Self, Error> {
        let bytes = header(view, group, 2, b"XAGI", 312, 296)?;
        let f = Fields(&bytes);
        let len = view.volume.geometry.group_len(group);
        let finobt = view.volume.sb.has_ro(feature::RO_FINOBT);
        let agi = Self {
            inodes: u64::from(f.u32_be(16)?),
            chunks: Root::at(f, 20, 24, len)?,
            free_chunks: finobt.then(|| Root::at(f, 328, 332, len)).transpose()?,
        };
        let possible = agi.inodes <= len.checked_shl(view.volume.geometry.inodes_log).unwrap_or(u64::MAX);
        if possible { Ok(agi) } else { Err(Error::Impossible) }
    }
}

impl Root {
    fn at(f: Fields<'_>, block: usize, level: usize, len: u64) -> Result<Self, Error> {
        let root = Self { block: u64::from(f.u32_be(block)?), levels: f.u32_be(level)? };
        let possible = root.block > 0 && root.block < len && (1..=super::btree::MAX_LEVELS).contains(&root.levels);
        if possible { Ok(root) } else { Err(Error::Impossible) }
    }
}

/// Returns the blocks in the free list of `group`, of which `agf` says where it begins and ends.
///
/// # Errors
/// [`Error`]. Lists that wrap where old kernels thought that one entry fewer fitted are impossible as well.
pub fn free_list(view: &View<'_>, group: u64, agf: &Agf) -> Result<Vec<u64>, Error> {
    let geometry = &view.volume.geometry;
    let sector = sector(view, group, 3)?;
    let f = Fields(&sector.bytes);
    let start = if geometry.v5 {
        let own = f.has(0, b"XAFL") && u64::from(f.u32_be(4)?) == group && f.array(8)? == geometry.uuid;
        if !own {
            return Err(Error::Foreign);
        }
        if !sector.replayed && !right(f.u32(32)? == checksum(&sector.bytes, 32)) {
            return Err(Error::Checksum);
        }
        36
    } else {
        0
    };
    let list = sector.bytes.get(start..).unwrap_or(&[]).as_chunks::<4>().0;
    let (entries, first, last) = (list.len() as u64, u64::from(agf.first), u64::from(agf.last));
    if first >= entries || last >= entries {
        return Err(Error::Impossible);
    }
    // An empty list has its end just before its beginning.
    let span = last.saturating_add(entries).saturating_sub(first).saturating_add(1).checked_rem(entries).unwrap_or(0);
    let count = u64::from(agf.count);
    if span != count && !(span == 0 && count == entries) {
        return Err(Error::Impossible);
    }
    let used = list.iter().cycle().skip(usize::try_from(first).unwrap_or(0)).take(usize::try_from(count).unwrap_or(0));
    let blocks = used.map(|entry| u64::from(u32::from_be_bytes(*entry))).collect::<Vec<_>>();
    let len = geometry.group_len(group);
    if blocks.iter().all(|block| *block > 0 && *block < len) { Ok(blocks) } else { Err(Error::Impossible) }
}

/// Checks the copy of the superblock in `group` against the first.
///
/// # Errors
/// [`Error`].
pub fn check_copy(view: &View<'_>, group: u64) -> Result<(), Error> {
    let (copy, first) = (sector(view, group, 0)?.bytes, sector(view, 0, 0)?.bytes);
    let sb = Superblock::parse(&copy).map_err(|error| match error {
        super::superblock::Error::Checksum { .. } => Error::Checksum,
        _ => Error::Foreign,
    })?;
    if sb.is_v5() != view.volume.geometry.v5 || sb.metadata_uuid() != view.volume.geometry.uuid {
        return Err(Error::Foreign);
    }
    // Block size and count, log, groups, sector and inode sizes, logarithms.
    let same = [(4, 12), (48, 8), (84, 8), (96, 4), (102, 6), (120, 5)]
        .iter()
        .all(|(at, len)| Fields(&copy).slice(*at, *len) == Fields(&first).slice(*at, *len));
    if same { Ok(()) } else { Err(Error::Geometry) }
}

struct Sector {
    bytes: Vec<u8>,
    replayed: bool,
}

/// Reads one of the four sectors of `group`.
fn sector(view: &View<'_>, group: u64, index: u64) -> Result<Sector, Error> {
    let Geometry { sector, .. } = view.volume.geometry;
    let offset = view.volume.geometry.offset(group, 0).saturating_add(index.saturating_mul(sector));
    let len = usize::try_from(sector).unwrap_or(0);
    let (bytes, replayed) = view.read(offset, len).map_err(|_| Error::Unreadable)?;
    Ok(Sector { bytes, replayed })
}

/// Reads an AGF or AGI and checks what both begin with.
fn header(view: &View<'_>, group: u64, index: u64, magic: &[u8], crc: usize, uuid: usize) -> Result<Vec<u8>, Error> {
    let geometry = &view.volume.geometry;
    let sector = sector(view, group, index)?;
    let f = Fields(&sector.bytes);
    let own = f.has(0, magic)
        && f.u32_be(4)? == 1
        && u64::from(f.u32_be(8)?) == group
        && u64::from(f.u32_be(12)?) == geometry.group_len(group)
        && (!geometry.v5 || f.array(uuid)? == geometry.uuid);
    if !own {
        return Err(Error::Foreign);
    }
    if geometry.v5 && !sector.replayed && !right(f.u32(crc)? == checksum(&sector.bytes, crc)) {
        return Err(Error::Checksum);
    }
    Ok(sector.bytes)
}

//! The two checkpoint packs of F2FS: the newest that is whole says which copy of each table block is in force.
//!
//! ```text
//! pack ┌────────────┬─────────┬─────────┬──────────────────────┬────────────┐
//!      │ checkpoint │ payload │ orphans │ summaries, journals  │ checkpoint │  at most one segment
//!      └────────────┴─────────┴─────────┴──────────────────────┴────────────┘
//! ```
//!
//! Source: Linux kernel, include/linux/f2fs_fs.h, `struct f2fs_checkpoint`, and fs/f2fs/checkpoint.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::superblock::{BLOCK, SEGMENT, Superblock, crc32};
use crate::{
    block::{self, ReadAt},
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Flags of a checkpoint.
pub mod flag {
    /// Written when the file system was unmounted.
    pub const UMOUNT: u32 = 0x1;
    /// Summaries are packed.
    pub const COMPACT_SUM: u32 = 0x4;
    /// Writing failed, or structures contradicted each other.
    pub const ERROR: u32 = 0x8;
    /// It asks to be checked.
    pub const FSCK: u32 = 0x10;
    /// Summaries of nodes are there although it was not unmounted.
    pub const FASTBOOT: u32 = 0x20;
    /// Nodes written later carry this checkpoint's checksum.
    pub const CRC_RECOVERY: u32 = 0x40;
    /// That checksum does not count.
    pub const NOCRC_RECOVERY: u32 = 0x200;
    /// The version bitmap of the NAT comes first and may be long.
    pub const LARGE_NAT_BITMAP: u32 = 0x400;
    /// Quotas need a check.
    pub const QUOTA_NEED_FSCK: u32 = 0x800;
    /// Checkpoints were switched off.
    pub const DISABLED: u32 = 0x1000;
    /// Quotas need repair.
    pub const QUOTA_NEED_REPAIR: u32 = 0x2000;
    /// It was being resized.
    pub const RESIZEFS: u32 = 0x4000;
    /// All whose meaning is known.
    pub const KNOWN: u32 = 0x7fff;
}

/// Where the version bitmaps begin, and the least offset of the checksum.
const BITMAPS: usize = 192;
/// The checksum at the end of the block.
const CRC_LAST: usize = 4092;
/// Bytes of a summary block before its journal.
const SUM_ENTRIES: usize = 7 * 512;
/// Bytes of a journal: what a summary block has left.
pub const JOURNAL: usize = 4096 - SUM_ENTRIES - 5;

/// Why a pack is not whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bad sectors, or the end of the region.
    #[error("it cannot be read: {0}")]
    Read(#[from] block::Error),
    /// Nothing but zeros: none was ever written there.
    #[error("it is empty")]
    Empty,
    /// The bytes are not those that were written.
    #[error("the checksum at byte {at} is {said:#x}, that of the bytes {computed:#x}")]
    Checksum {
        /// Where it is in the block.
        at: u32,
        /// What it says.
        said: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A number that cannot be.
    #[error("{what} is {found}")]
    Range {
        /// Which.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// First and last block are of different checkpoints.
    #[error("it begins as version {first:#x} and ends as version {last:#x}")]
    Torn {
        /// Version of the first block.
        first: u64,
        /// Version of the last block.
        last: u64,
    },
    /// Too short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// A checkpoint pack that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its version: the newest counts.
    pub version: u64,
    /// Valid blocks, reserved ones that have no place yet included.
    pub valid_blocks: u64,
    /// Segments of the main area without valid blocks.
    pub free_segments: u64,
    /// Valid nodes.
    pub valid_nodes: u64,
    /// Flags.
    pub flags: u32,
    /// Segments that are being written: hot, warm and cold nodes, then data.
    pub current: Vec<u64>,
    /// The block where the next warm node goes, from which recovery reads on.
    pub next_node: u64,
    /// What nodes written after it carry as their version.
    node_version: u64,
    /// Which copy of each SIT block is in force, high bit of each byte first.
    sit_versions: Vec<u8>,
    /// Which copy of each NAT block is in force.
    nat_versions: Vec<u8>,
    /// Changes to the NAT that have not reached it.
    pub nat_journal: Vec<u8>,
    /// Changes to the SIT that have not reached it.
    pub sit_journal: Vec<u8>,
}

impl Checkpoint {
    /// Reads the pack that begins at block `start`.
    ///
    /// # Errors
    /// Why it is not whole.
    pub fn read(region: &dyn ReadAt, sb: &Superblock, start: u64) -> Result<Self, Error> {
        let first = read_block(region, start)?;
        if first.iter().all(|byte| *byte == 0) {
            return Err(Error::Empty);
        }
        let f = Fields(&first);
        check_crc(f)?;
        let blocks = u64::from(f.u32(136)?);
        if !(2..=SEGMENT).contains(&blocks) {
            return Err(Error::Range { what: "its number of blocks", found: blocks });
        }
        let end = start.saturating_add(blocks);
        let last = read_block(region, end.saturating_sub(1))?;
        check_crc(Fields(&last))?;
        let (version, closing) = (f.u64(0)?, Fields(&last).u64(0)?);
        if version != closing {
            return Err(Error::Torn { first: version, last: closing });
        }
        let mut pack = first.clone();
        for index in 0..sb.cp_payload {
            pack.extend(read_block(region, start.saturating_add(index).saturating_add(1))?);
        }
        let (sit_versions, nat_versions) = version_bitmaps(Fields(&pack), sb)?;
        let (nat_journal, sit_journal) = journals(region, f, start, end)?;
        let (current, next_node) = current(f, sb)?;
        Ok(Self {
            version,
            valid_blocks: f.u64(16)?,
            free_segments: u64::from(f.u32(32)?),
            valid_nodes: u64::from(f.u32(144)?),
            flags: f.u32(132)?,
            current,
            next_node,
            node_version: node_version(f)?,
            sit_versions,
            nat_versions,
            nat_journal,
            sit_journal,
        })
    }

    /// Tells whether a flag is set.
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Tells whether the newer of two packs is this one. Versions wrap around.
    #[must_use]
    pub const fn is_after(&self, other: &Self) -> bool {
        self.version.wrapping_sub(other.version).cast_signed() > 0
    }

    /// Returns where the valid copy of SIT block `index` is, and which of the two that is.
    #[must_use]
    pub fn sit_block(&self, sb: &Superblock, index: u64) -> (u64, bool) {
        let second = bit(&self.sit_versions, index);
        (sb.sit.saturating_add(index).saturating_add(if second { sb.sit_blocks } else { 0 }), second)
    }

    /// Returns where the valid copy of NAT block `index` is, and which of the two that is.
    #[must_use]
    pub fn nat_block(&self, sb: &Superblock, index: u64) -> (u64, bool) {
        let second = bit(&self.nat_versions, index);
        // Copies take turns by segment.
        let pair = (index / SEGMENT).saturating_mul(2 * SEGMENT).saturating_add(index % SEGMENT);
        (sb.nat.saturating_add(pair).saturating_add(if second { SEGMENT } else { 0 }), second)
    }

    /// Tells whether a node with this version in its footer was written after the checkpoint, so that a mount takes it up.
    #[must_use]
    pub const fn is_followed_by(&self, version: u64) -> bool {
        if self.has(flag::NOCRC_RECOVERY) {
            return version << 32 == self.node_version << 32;
        }
        version == self.node_version
    }
}

/// Tells whether bit `index` is set, high bit of each byte first.
fn bit(bitmap: &[u8], index: u64) -> bool {
    let byte = usize::try_from(index / 8).ok().and_then(|at| bitmap.get(at)).copied().unwrap_or(0);
    byte & (0x80 >> (index % 8)) != 0
}

fn read_block(region: &dyn ReadAt, number: u64) -> Result<Vec<u8>, block::Error> {
    let mut bytes = vec![0; 4096];
    region.read_exact_at(&mut bytes, number.saturating_mul(BLOCK))?;
    Ok(bytes)
}

fn check_crc(f: Fields<'_>) -> Result<(), Error> {
    let at = f.u32(164)?;
    let offset = usize::try_from(at).unwrap_or(usize::MAX);
    if !(BITMAPS..=CRC_LAST).contains(&offset) {
        return Err(Error::Range { what: "the place of its checksum", found: u64::from(at) });
    }
    let behind = offset.saturating_add(4);
    let rest = f.slice(behind, f.0.len().saturating_sub(behind))?;
    let (said, computed) = (f.u32(offset)?, crc32(&[f.slice(0, offset)?, rest]));
    if right(said == computed) { Ok(()) } else { Err(Error::Checksum { at, said, computed }) }
}

/// Returns the version bitmaps of SIT and NAT; `pack` is the checkpoint block with its payload.
fn version_bitmaps(pack: Fields<'_>, sb: &Superblock) -> Result<(Vec<u8>, Vec<u8>), Error> {
    for (what, said, blocks) in [
        ("the length of the SIT's version bitmap", pack.u32(156)?, sb.sit_blocks),
        ("the length of the NAT's version bitmap", pack.u32(160)?, sb.nat_blocks),
    ] {
        if u64::from(said) != blocks / 8 {
            return Err(Error::Range { what, found: u64::from(said) });
        }
    }
    let len = |at: usize| pack.u32(at).map(|len| usize::try_from(len).unwrap_or(usize::MAX));
    let (sit_len, nat_len) = (len(156)?, len(160)?);
    let large = pack.u32(132)? & flag::LARGE_NAT_BITMAP != 0;
    let (sit, nat) = if large {
        // The checksum may stand before the bitmaps, to leave them room.
        let from = BITMAPS.saturating_add(if len(164)? == BITMAPS { 4 } else { 0 });
        (from.saturating_add(nat_len), from)
    } else if sb.cp_payload > 0 {
        (4096, BITMAPS)
    } else {
        (BITMAPS, BITMAPS.saturating_add(sit_len))
    };
    Ok((pack.slice(sit, sit_len)?.to_vec(), pack.slice(nat, nat_len)?.to_vec()))
}

/// Returns the journals of NAT and SIT from the summary blocks of the pack at blocks `start..end`.
fn journals(region: &dyn ReadAt, f: Fields<'_>, start: u64, end: u64) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let inside = |number: u64| {
        let in_pack = number > start && number < end;
        if in_pack { Ok(number) } else { Err(Error::Range { what: "the block of a journal", found: number }) }
    };
    let flags = f.u32(132)?;
    if flags & flag::COMPACT_SUM != 0 {
        let block = read_block(region, inside(start.saturating_add(u64::from(f.u32(140)?)))?)?;
        let f = Fields(&block);
        return Ok((f.slice(0, JOURNAL)?.to_vec(), f.slice(JOURNAL, JOURNAL)?.to_vec()));
    }
    // Summaries of data logs, then of node logs where they are written, then the closing block.
    let summaries = if flags & (flag::UMOUNT | flag::FASTBOOT) != 0 { 6 } else { 3 };
    let base = end.saturating_sub(summaries).saturating_sub(1);
    let journal = |log: u64| -> Result<Vec<u8>, Error> {
        let block = read_block(region, inside(base.saturating_add(log))?)?;
        Ok(Fields(&block).slice(SUM_ENTRIES, JOURNAL)?.to_vec())
    };
    Ok((journal(0)?, journal(2)?))
}

/// Returns the segments that are being written, and where the next warm node goes.
fn current(f: Fields<'_>, sb: &Superblock) -> Result<(Vec<u64>, u64), Error> {
    let mut segments = Vec::new();
    // In a read-only volume only the first log of each kind is in use.
    let logs = if sb.has(super::superblock::feature::RO) { 1 } else { 3 };
    for (segments_at, blocks_at) in [([36, 40, 44], [68, 70, 72]), ([84, 88, 92], [116, 118, 120])] {
        for (segment_at, block_at) in segments_at.into_iter().zip(blocks_at).take(logs) {
            let segment = u64::from(f.u32(segment_at)?);
            let block = u64::from(f.u16(block_at)?);
            if segment >= sb.main_segments || block >= SEGMENT {
                return Err(Error::Range { what: "the segment of a log", found: segment });
            }
            segments.push(segment);
        }
    }
    let warm = u64::from(f.u32(40)?).saturating_mul(SEGMENT).saturating_add(u64::from(f.u16(70)?));
    Ok((segments, sb.main.saturating_add(warm)))
}

fn node_version(f: Fields<'_>) -> Result<u64, Error> {
    let (version, flags) = (f.u64(0)?, f.u32(132)?);
    if flags & flag::CRC_RECOVERY == 0 {
        return Ok(version);
    }
    let crc = f.u32(usize::try_from(f.u32(164)?).unwrap_or(usize::MAX))?;
    Ok(version | u64::from(crc) << 32)
}

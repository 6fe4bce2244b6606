//! Tails of inode tables that no inode ever was in: kept as zeros without being read.
//!
//! A large ext4 volume is one or two hundredths inode tables, most of them never touched. Where descriptors have
//! checksums, they say from which inode on a table was never used, and whether that tail was zeroed; the kernel zeroes
//! the others after the next mount. So an image that holds zeros there holds what the file system wants there. Something
//! may lie in a tail all the same: inodes deleted before a checker lowered the mark, or what was on the disk before. It
//! means nothing, yet a copy that differs for no need is a question nobody should have to ask: the tails are looked into
//! at intervals, and one in which anything is found is read like any other table.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume,
    groups::{Descriptor, INODE_UNINIT},
};
use crate::{
    extent::{Extent, ExtentSet},
    fs::reader::SmallReader,
    units::MIB,
};

/// How far apart the blocks are that are looked at; tables are rarely longer.
const STEP: u64 = 8 * MIB;

/// Lists the bytes of inode tables that are kept as zeros. Only for a volume whose journal is empty, whose groups agree
/// and whose files were all seen to lie elsewhere.
///
/// * `traces`: groups whose tail was seen to begin with something, in order; the others' begin with zeros.
pub(super) fn zeros(volume: &Volume<'_>, traces: &[u64]) -> ExtentSet {
    let free = volume.groups.descriptors.iter().map(|desc| u64::from(desc.free_inodes));
    if free.fold(0u64, u64::saturating_add) != u64::from(volume.sb.s_free_inodes_count) {
        // A descriptor block may be older than the rest, and its checksums as right as ever.
        return ExtentSet::new();
    }
    let mut bitmaps = SmallReader::new(volume.region);
    let mut zeros = Vec::new();
    for (group, desc) in (0u64..).zip(&volume.groups.descriptors) {
        let Some(tail) = tail(volume, desc).filter(|_| traces.binary_search(&group).is_err()) else { continue };
        if agrees(volume, &mut bitmaps, desc) && looks_zero(volume, tail) {
            zeros.push(tail);
        }
    }
    ExtentSet::from_unsorted(zeros)
}

/// Returns how many inodes at the front of a group's table its descriptor says were ever in use.
pub(super) fn ever_used(volume: &Volume<'_>, desc: &Descriptor) -> u64 {
    let never = desc.flags & INODE_UNINIT != 0;
    let used = volume.geometry.inodes_per_group.saturating_sub(u64::from(desc.unused_inodes));
    if never { 0 } else { used }
}

/// Returns the blocks behind the last inode that ever was in use.
fn tail(volume: &Volume<'_>, desc: &Descriptor) -> Option<Extent> {
    let geometry = &volume.geometry;
    let blocks = ever_used(volume, desc).saturating_mul(geometry.inode_size).div_ceil(geometry.block_size);
    let end = desc.inode_table.saturating_add(geometry.itable_blocks);
    let start = desc.inode_table.saturating_add(blocks);
    (desc.intact && start < end).then(|| geometry.bytes(start, end))
}

/// Tells whether descriptor and inode bitmap call every inode behind the mark free.
fn agrees<'a>(volume: &Volume<'a>, reader: &mut SmallReader<'a>, desc: &Descriptor) -> bool {
    let inodes = volume.geometry.inodes_per_group;
    if desc.flags & INODE_UNINIT != 0 {
        let none = [desc.unused_inodes, desc.free_inodes].iter().all(|count| u64::from(*count) == inodes);
        return none && desc.used_dirs == 0;
    }
    let Ok(bitmap) = volume.block(reader, desc.inode_bitmap) else { return false };
    let from = inodes.saturating_sub(u64::from(desc.unused_inodes));
    let bit =
        |index: u64| usize::try_from(index / 8).ok().and_then(|at| bitmap.get(at)).map(|byte| byte >> (index % 8) & 1);
    (from..inodes).all(|index| bit(index) == Some(0))
}

/// Tells whether the last block of a tail, and one every few MiB, hold nothing but zeros. Inodes fill a table from its
/// front: one that is in use after all was found there by the walk.
fn looks_zero(volume: &Volume<'_>, tail: Extent) -> bool {
    let block = volume.geometry.block_size;
    let step = usize::try_from(STEP.max(block)).unwrap_or(usize::MAX);
    let mut bytes = vec![0xff; volume.block_len()];
    let mut is_zero = |at| volume.region.read_exact_at(&mut bytes, at).is_ok() && bytes.iter().all(|byte| *byte == 0);
    is_zero(tail.end.saturating_sub(block)) && (tail.start..tail.end).step_by(step).skip(1).all(is_zero)
}

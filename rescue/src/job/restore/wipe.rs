//! Where an earlier life of the target would show through: places that tools look for signatures in.
//!
//! An allocation map leaves free blocks out, and what the target held there stays. Superblocks of other file systems, RAID
//! and volume managers lie at fixed places of a partition; one that survives in a free block makes the restored partition
//! look like what was there before.

use crate::{
    extent::{Extent, ExtentSet},
    store::Manifest,
    units::{GIB, KIB, MIB},
};

/// Bytes at either end of a region that signatures lie in: all that `blkid` knows, ZFS labels and MD 0.90 included.
const ENDS: u64 = MIB;

/// Further places: the second and third superblock of Btrfs.
///
/// Source: Btrfs on-disk format, "Superblock".
const MIRRORS: [u64; 2] = [64 * MIB, 256 * GIB];

/// Lists the free bytes of every region, from the start of the disk, that are zeroed.
pub(super) fn extents(manifest: &Manifest) -> ExtentSet {
    let mut out = Vec::new();
    for image in &manifest.regions {
        let (start, len) = (image.region.range.start, image.region.range.len());
        let mirrors = MIRRORS.map(|at| Extent::new(at, at + 4 * KIB));
        let ends = [Extent::new(0, ENDS), Extent::new(len.saturating_sub(ENDS), len)];
        let places = mirrors.into_iter().chain(ends).map(|place| place.intersect(Extent::new(0, len)));
        let free = places.collect::<ExtentSet>().subtract(&image.allocated);
        out.extend(free.iter().map(|extent| Extent::new(start + extent.start, start + extent.end)));
    }
    out.into_iter().collect()
}

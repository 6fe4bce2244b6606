//! Tables that real tools make, tables that nobody should make, and what becomes of each.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod build;
mod crosscheck;
mod damage;
mod faults;
mod fresh;
mod gpt_traps;
mod mbr_traps;
mod regions;
mod tools;

use super::{sparse::Sparse, *};
use crate::{
    block::ReadAt,
    extent::Extent,
    units::{GIB, Lba, MIB, TIB},
};

pub(super) const B512: SectorSize = SectorSize::B512;
pub(super) const B4096: SectorSize = SectorSize::B4096;

/// Checks what must hold of every layout, whatever the disk says.
pub(super) fn assert_sane(layout: &Layout, disk: &dyn ReadAt) {
    let whole = Extent::new(0, layout.disk_len);
    let regions = layout.regions();
    let mut at = 0;
    for region in &regions {
        assert_eq!(region.range.start, at, "regions do not tile: {regions:?}");
        assert!(!region.range.is_empty(), "{regions:?}");
        at = region.range.end;
    }
    assert_eq!(at, layout.disk_len, "{regions:?}");
    for partition in &layout.partitions {
        assert!(!partition.range.is_empty() && whole.covers(partition.range), "{partition:?}");
    }
    for region in regions.iter().filter(|region| matches!(region.kind, RegionKind::Partition(_))) {
        let listed = layout.partitions.iter().find(|p| RegionKind::Partition(p.number) == region.kind).unwrap();
        assert_eq!(listed.range, region.range);
        let others = layout.partitions.iter().filter(|p| p.number != listed.number);
        assert!(others.into_iter().all(|other| !other.range.overlaps(region.range)), "{regions:?}");
        assert!(layout.pieces.iter().all(|piece| !piece.range().overlaps(region.range)), "{regions:?}");
    }
    let mut total = 0;
    for piece in &layout.pieces {
        assert!(whole.covers(piece.range()), "{piece:?}");
        assert!(layout.sector_size.aligns(piece.offset) && layout.sector_size.aligns(piece.bytes.len() as u64));
        let mut there = vec![0; piece.bytes.len()];
        disk.read_exact_at(&mut there, piece.offset).unwrap();
        assert_eq!(there, piece.bytes, "{piece:?} is not verbatim");
        total += piece.bytes.len();
    }
    assert!(total < 5 << 20, "{total} bytes of pieces");
    assert!(layout.problems.len() <= 65);
}

/// Reads the table of `disk` and checks what must hold of every layout.
pub(super) fn read_sane(disk: &dyn ReadAt, size: SectorSize) -> Result<Layout, Error> {
    let layout = read(disk, size)?;
    assert_sane(&layout, disk);
    Ok(layout)
}

/// Lays the table out on a disk of `new_len` bytes and reads it there.
pub(super) fn moved(layout: &Layout, new_len: u64) -> (Sparse, Layout) {
    let pieces = for_target(layout, new_len).unwrap();
    let disk = Sparse::with_pieces(new_len, &pieces).unwrap();
    let back = read_sane(&disk, layout.sector_size).unwrap();
    (disk, back)
}

pub(super) fn bytes_at(disk: &dyn ReadAt, offset: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    disk.read_exact_at(&mut out, offset).unwrap();
    out
}

/// Tells whether some problem says `what`.
pub(super) fn says(layout: &Layout, what: &str) -> bool {
    layout.problems.iter().any(|problem| problem.what.contains(what))
}

/// Lists regions in short: `head 0..1048576`.
pub(super) fn shown(layout: &Layout) -> Vec<String> {
    layout.regions().iter().map(|r| format!("{} {}..{}", r.kind, r.range.start, r.range.end)).collect()
}

//! Whether a manifest makes sense. Whatever it says is hostile until it passed here: its checksum only proves that it is
//! what somebody wrote.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashSet;

use super::{
    ChunkId, FileId, Manifest,
    config::{check_chunk_len, check_known},
    manifest::{ChunkRun, ImageState, RegionImage},
};
use crate::{
    extent::{Extent, ExtentSet},
    table::RegionKind,
};

/// More partitions, gaps or EBRs than any disk has.
const MAX_REGIONS: usize = 1 << 16;
/// More bytes than any disk has.
const MAX_DISK: u64 = 1 << 62;

type Checked = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

impl Manifest {
    /// Checks that the manifest makes sense in itself: regions tile the disk, extents and chunks lie inside their regions,
    /// every allocated byte lies in a chunk, and no number is beyond what a disk can have.
    ///
    /// * `chunk_len`: the store's; images of one store all have it.
    ///
    /// # Errors
    /// A clause naming the two things that disagree.
    pub fn validate(&self, chunk_len: u64) -> Result<(), String> {
        check_known("the manifest", self.version, &self.features).map_err(|e| e.to_string())?;
        ensure(FileId::parse(&self.id).is_some(), || "its id is not 32 hexadecimal digits".to_owned())?;
        for time in [&self.created, &self.finished] {
            ensure(time.parse::<jiff::Timestamp>().is_ok(), || format!("{time:?} is not a time"))?;
        }
        check_chunk_len(self.chunk_len)?;
        ensure(self.chunk_len == chunk_len, || {
            format!("its chunks have {} bytes, and those of the store {chunk_len}", self.chunk_len)
        })?;
        let disk = Extent::new(0, self.disk.len);
        ensure((1..=MAX_DISK).contains(&self.disk.len), || format!("no disk has {} bytes", self.disk.len))?;
        self.check_pieces(disk)?;
        self.check_unreadable(disk)?;
        self.check_regions(disk)?;
        self.regions.iter().try_for_each(|region| region.check(self.chunk_len, disk))
    }

    fn check_pieces(&self, disk: Extent) -> Checked {
        ensure(self.pieces.len() <= MAX_REGIONS, || format!("it has {} pieces of a table", self.pieces.len()))?;
        self.pieces.iter().try_for_each(|piece| {
            let range = Extent::with_len(piece.offset, piece.bytes.len() as u64);
            let inside = range.is_some_and(|range| !range.is_empty() && disk.covers(range));
            ensure(inside, || format!("the table's {piece:?} is not inside a disk of {:#x} bytes", disk.end))
        })
    }

    fn check_unreadable(&self, disk: Extent) -> Checked {
        let last = self.unreadable.as_slice().last().copied().unwrap_or(Extent::new(0, 0));
        ensure(disk.covers(last), || format!("unreadable {last} are not inside a disk of {:#x} bytes", disk.end))?;
        ensure(self.unreadable.is_empty() || self.state == ImageState::Partial, || {
            "it calls itself complete, and lists unreadable bytes".to_owned()
        })
    }

    /// Regions tile the disk, and no partition is there twice.
    fn check_regions(&self, disk: Extent) -> Checked {
        ensure(self.regions.len() <= MAX_REGIONS, || format!("it has {} regions", self.regions.len()))?;
        let (mut at, mut seen) = (0, HashSet::new());
        for region in &self.regions {
            let range = region.region.range;
            ensure(range.start == at && range.start < range.end, || {
                format!("the {} at {:#x}..{:#x} does not begin at {at:#x}", region.kind(), range.start, range.end)
            })?;
            if let RegionKind::Partition(number) = region.kind() {
                ensure(seen.insert(number), || format!("it has partition {number} twice"))?;
            }
            at = range.end;
        }
        ensure(at == disk.end, || format!("its regions end at {at:#x}, and the disk at {:#x}", disk.end))
    }
}

impl RegionImage {
    /// Returns the bytes of chunk `number`, counted from the region's start; the last chunk is shorter.
    #[must_use]
    pub fn chunk_range(&self, number: u64, chunk_len: u64) -> Extent {
        self.chunks_range(number, 1, chunk_len)
    }

    /// Returns the bytes of `count` chunks from `first` on, counted from the region's start.
    pub(super) fn chunks_range(&self, first: u64, count: u64, chunk_len: u64) -> Extent {
        let end = first.saturating_add(count).saturating_mul(chunk_len).min(self.len());
        Extent::new(first.saturating_mul(chunk_len), end)
    }

    /// Returns how many bytes the region has.
    fn len(&self) -> u64 {
        let range = self.region.range;
        range.end.saturating_sub(range.start)
    }

    fn check(&self, chunk_len: u64, disk: Extent) -> Checked {
        let name = self.kind();
        let last = self.allocated.as_slice().last().copied().unwrap_or(Extent::new(0, 0));
        ensure(last.end <= self.len(), || format!("{name} keeps {last} and has only {:#x}", self.len()))?;
        if let Some(partition) = &self.partition {
            let range = partition.range;
            ensure(range.start < range.end && disk.covers(range), || format!("{name} is said to be at {range:?}"))?;
        }
        let (mut next, mut covered) = (0, ExtentSet::new());
        for run in &self.chunks {
            let (first, count) = match run {
                ChunkRun::Zero { first, count } => (*first, *count),
                ChunkRun::Data { first, ids } => {
                    ensure(!ids.contains(&ChunkId::ZERO), || format!("{name} has the zero chunk in a run with ids"))?;
                    (*first, ids.len() as u64)
                }
            };
            let end = first.checked_add(count);
            let fits = first >= next && count > 0 && end.is_some_and(|end| end <= self.len().div_ceil(chunk_len));
            ensure(fits, || format!("{name} has {count} chunks from number {first}, after number {next}"))?;
            next = first.saturating_add(count);
            covered.insert(self.chunks_range(first, count, chunk_len));
        }
        let bare = self.allocated.iter().find(|extent| !covered.covers(*extent));
        ensure(bare.is_none(), || format!("{name} keeps {} in no chunk", bare.unwrap_or(last)))
    }
}

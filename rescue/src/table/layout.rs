//! Regions: the disk cut into runs with one treatment each.
//!
//! ```text
//! | head | partition 1 | gap | partition 2 | tail |      tiles the disk, whatever the table says
//! ```
//!
//! Only a partition that overlaps nothing is a region of its own. Partitions that overlap each other or the table
//! become one gap, because gaps are kept whole and partitions are kept as far as their file system says.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Layout, PieceKind, Region, RegionKind, TableKind, TablePiece, mbr};
use crate::extent::{Extent, ExtentSet};

impl Layout {
    /// Tiles the disk with regions, in order.
    ///
    /// Exactly `0..disk_len`, each region at least one byte. A disk without partitions is one [`RegionKind::Whole`]
    /// when it has no table or an empty MBR; every other table has at least a head.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        let disk = Extent::new(0, self.disk_len);
        if disk.is_empty() {
            return Vec::new();
        }
        if self.is_one_region() {
            return vec![Region { kind: RegionKind::Whole, range: disk }];
        }
        let head = self.head_end();
        let mut out: Vec<Region> = Vec::new();
        let mut at = 0;
        let behind_head = Extent::new(head, self.disk_len);
        let runs = self.runs().into_iter().map(|(range, kind)| (range.intersect(behind_head), kind));
        for (range, kind) in runs.filter(|(range, _)| !range.is_empty()) {
            let before = if out.is_empty() { RegionKind::Head } else { RegionKind::Gap };
            push(&mut out, before, Extent::new(at, range.start));
            push(&mut out, kind, range);
            at = range.end;
        }
        if out.is_empty() && head > 0 {
            push(&mut out, RegionKind::Head, Extent::new(0, head));
            at = head;
        }
        push(&mut out, RegionKind::Tail, Extent::new(at, self.disk_len));
        out
    }

    fn is_one_region(&self) -> bool {
        let empty_mbr = || self.piece(PieceKind::Mbr).is_some_and(|piece| mbr::is_empty(&piece.bytes));
        match self.kind {
            TableKind::None => true,
            TableKind::Mbr => self.partitions.is_empty() && empty_mbr(),
            TableKind::Gpt | TableKind::HybridGpt => false,
        }
    }

    /// Returns the end of the table bytes that lead the disk without a gap.
    fn head_end(&self) -> u64 {
        let table: ExtentSet = self.pieces.iter().map(TablePiece::range).collect();
        table.iter().next().filter(|first| first.start == 0).map_or(0, |first| first.end.min(self.disk_len))
    }

    /// Lists partitions in disk order, with those that overlap merged. A run with more than one partition in it, or
    /// with bytes of the table, is a gap.
    fn runs(&self) -> Vec<(Extent, RegionKind)> {
        let partitions = self.partitions.iter().map(|p| (p.range, Some(RegionKind::Partition(p.number))));
        let mut items: Vec<(Extent, Option<RegionKind>)> = partitions.collect();
        items.extend(self.pieces.iter().map(|piece| (piece.range(), None)));
        items.retain(|(range, _)| !range.is_empty());
        items.sort_by_key(|(range, _)| *range);
        let mut runs: Vec<(Extent, Option<RegionKind>)> = Vec::new();
        for (range, kind) in items {
            match runs.last_mut() {
                Some((run, held)) if run.overlaps(range) => {
                    *run = Extent::new(run.start, run.end.max(range.end));
                    *held = held.or(kind).map(|_| RegionKind::Gap);
                }
                _ => runs.push((range, kind)),
            }
        }
        runs.into_iter().filter_map(|(range, kind)| kind.map(|kind| (range, kind))).collect()
    }

    /// Returns the first piece of `kind`.
    pub(super) fn piece(&self, kind: PieceKind) -> Option<&TablePiece> {
        self.pieces.iter().find(|piece| piece.kind == kind)
    }
}

impl TablePiece {
    /// Returns the bytes of the disk it covers.
    #[must_use]
    pub fn range(&self) -> Extent {
        Extent::new(self.offset, self.offset.saturating_add(self.bytes.len() as u64))
    }
}

/// Adds a region; nothing when it is empty, and gaps that touch become one.
fn push(out: &mut Vec<Region>, kind: RegionKind, range: Extent) {
    match out.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.kind == RegionKind::Gap && kind == RegionKind::Gap => {
            last.range = Extent::new(last.range.start, range.end);
        }
        _ => out.push(Region { kind, range }),
    }
}

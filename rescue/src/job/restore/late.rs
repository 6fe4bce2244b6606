//! What is written after everything else: the tables, and last of all the head of the disk.

use std::collections::BTreeMap;

use super::{RestorePlan, pen::Pen};
use crate::{
    block::{self, TargetDisk},
    extent::{Extent, ExtentSet},
    job::{Monitor, Phase, error::Error, meter::Meter, report::Draft},
    table::TablePiece,
    units::MIB,
};

/// The bytes at the start of a disk that firmware may run or read a table from.
const BOOT_AREA: u64 = MIB;

/// Bytes of late extents that came out of chunks, by offset on the disk.
pub(super) type Held = BTreeMap<u64, Vec<u8>>;

/// Returns the bytes of the target that are written late: its boot area, and every place of the table, old or new.
pub(super) fn extents(pieces: &[TablePiece], superseded: &[Extent], target_len: u64) -> ExtentSet {
    let disk = Extent::new(0, target_len);
    let pieces = pieces.iter().map(TablePiece::range).chain(superseded.iter().copied());
    pieces.map(|range| range.intersect(disk)).chain([boot_area(target_len)]).collect()
}

fn boot_area(target_len: u64) -> Extent {
    Extent::new(0, BOOT_AREA.min(target_len))
}

impl RestorePlan {
    /// Returns what of `extents` is not late.
    pub(super) fn without_late(&self, extents: &ExtentSet) -> ExtentSet {
        let Some((first, last)) = extents.as_slice().first().zip(extents.as_slice().last()) else {
            return ExtentSet::new();
        };
        extents.subtract(&self.late.clip(Extent::new(first.start, last.end)))
    }

    /// Writes what was held back, from the end of the disk to its start, and reads it back.
    pub(super) fn write_late(
        &self,
        pen: &Pen<'_>,
        held: Held,
        monitor: &dyn Monitor,
        draft: &mut Draft<'_>,
    ) -> Result<(), Error> {
        let meter = Meter::begin(monitor, Phase::WritingTable, self.late.total());
        let boot = boot_area(self.target.len());
        let parts = self.late_parts(held)?;
        // The sectors of the protective MBR and of the primary header make a table of the rest: they are the very last.
        let last = Extent::new(0, 2 * self.target.sector_size().bytes()).intersect(boot);
        let order: [&dyn Fn(Extent) -> bool; 3] =
            [&|extent| !boot.covers(extent), &|extent| boot.covers(extent) && !last.covers(extent), &|extent| {
                last.covers(extent)
            }];
        for turn in order {
            for (offset, bytes) in parts.iter().rev() {
                if turn(Extent::new(*offset, offset + bytes.len() as u64)) {
                    pen.write(bytes, *offset)?;
                    meter.add(bytes.len() as u64);
                }
            }
            self.target.sync()?;
        }
        self.target.drop_caches()?;
        for (offset, bytes) in &parts {
            compare(self.target.as_ref(), *offset, bytes)?;
        }
        draft.report.stages.push(meter.finish());
        Ok(())
    }

    /// Puts together the bytes of every late extent: zeros, then what the image holds, then the table for this target.
    fn late_parts(&self, held: Held) -> Result<BTreeMap<u64, Vec<u8>>, Error> {
        let boot = boot_area(self.target.len());
        let last = Extent::new(0, 2 * self.target.sector_size().bytes()).intersect(boot);
        let mut parts = BTreeMap::new();
        for extent in self.late.iter() {
            // Split where the order of writing changes.
            let cuts = [extent.start, last.end, boot.end, extent.end];
            for pair in cuts.windows(2) {
                let part = extent.intersect(Extent::new(pair[0], pair[1]));
                if !part.is_empty() {
                    let len = usize::try_from(part.len()).map_err(|_| too_large(part))?;
                    parts.insert(part.start, vec![0u8; len]);
                }
            }
        }
        for (offset, bytes) in &held {
            overlay(&mut parts, *offset, bytes);
        }
        for place in &self.superseded {
            // A second backup in the middle of a larger disk would be found by the next tool that looks for one.
            let zeros = vec![0; usize::try_from(place.len()).map_err(|_| too_large(*place))?];
            overlay(&mut parts, place.start, &zeros);
        }
        for piece in &self.pieces {
            overlay(&mut parts, piece.offset, &piece.bytes);
        }
        Ok(parts)
    }
}

fn too_large(part: Extent) -> Error {
    Error::Failed(format!("{part} of the table do not fit in memory"))
}

/// Copies `bytes` at `offset` over the parts they overlap.
fn overlay(parts: &mut BTreeMap<u64, Vec<u8>>, offset: u64, bytes: &[u8]) {
    let source = Extent::new(offset, offset.saturating_add(bytes.len() as u64));
    for (start, part) in parts.iter_mut() {
        let both = source.intersect(Extent::new(*start, start + part.len() as u64));
        if both.is_empty() {
            continue;
        }
        let within = |at: u64, base: u64| usize::try_from(at - base).expect("both lie in memory");
        let from = &bytes[within(both.start, offset)..within(both.end, offset)];
        part[within(both.start, *start)..within(both.end, *start)].copy_from_slice(from);
    }
}

fn compare(target: &dyn TargetDisk, offset: u64, want: &[u8]) -> Result<(), Error> {
    let have = block::read_vec(target, offset, want.len())?;
    match have.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(Error::Failed(format!(
            "byte {:#x} of {} reads back as {:#04x}, {:#04x} was written",
            offset + at as u64,
            target.identity().path,
            have[at],
            want[at]
        ))),
    }
}

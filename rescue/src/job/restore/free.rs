//! What becomes of the target's free bytes: left, discarded, or zeroed.
//!
//! Discards come before every write to the regions and lie in nothing that is written, rounded inwards to what the disk
//! takes: what a disk does with the rest of a unit it was told of in part is its own business. What has to read as zeros
//! is written as zeros, because a discarded range reads as whatever the disk likes.

use super::{RestorePlan, cancelled, compare::Same, pen::Pen};
use crate::{
    block::TargetDisk,
    extent::{Extent, ExtentSet},
    job::{Cancel, Free, Monitor, Phase, error, error::Error, meter::Meter, report::Draft},
    store::Manifest,
    units::{Bytes, GIB, MIB},
};

/// Bytes that are zeroed, or looked at, in one go: often enough to look at the cancel flag.
pub(super) const PIECE: u64 = 256 * MIB;
/// Bytes that are discarded in one go at most.
const DISCARDED: u64 = GIB;

/// Decides what becomes of free bytes; with a warning where that is not what was asked for.
///
/// Unasked, a solid-state disk is told of its free bytes, because it writes faster and lasts longer then; nothing else
/// gains by it, and a file keeps what it takes.
pub(super) fn decide(asked: Option<Free>, target: &dyn TargetDisk) -> (Free, Option<String>) {
    match (asked, target.can_discard()) {
        (Some(Free::Discard), None) => {
            let path = &target.identity().path;
            (Free::Leave, Some(format!("{path} cannot discard: free bytes keep what they hold now")))
        }
        (Some(asked), _) => (asked, None),
        (None, Some(discard)) if discard.solid_state => (Free::Discard, None),
        (None, _) => (Free::Leave, None),
    }
}

/// Lists the bytes of the target that the image says nothing of: free ones of its regions, and what lies behind them.
pub(super) fn extents(manifest: &Manifest, target_len: u64) -> ExtentSet {
    let on_disk = |start: u64, extent: Extent| Extent::new(start + extent.start, start + extent.end);
    let allocated = manifest.regions.iter().flat_map(|image| {
        let start = image.region.range.start;
        image.allocated.iter().map(move |extent| on_disk(start, extent))
    });
    allocated.collect::<ExtentSet>().complement(target_len)
}

/// Says what becomes of `free` bytes of a region.
pub(super) fn words(free: Free, bytes: u64) -> String {
    let bytes = Bytes(bytes);
    match free {
        Free::Leave => format!("leave {bytes} free, but zero old signatures"),
        Free::Discard => format!("discard {bytes} free, and zero old signatures"),
        Free::Zero => format!("zero {bytes} free"),
    }
}

/// Splits a set into extents of at most `len` bytes.
pub(super) fn pieces(set: &ExtentSet, len: u64) -> impl Iterator<Item = Extent> + Send + '_ {
    set.iter().flat_map(move |extent| {
        let mut at = extent.start;
        std::iter::from_fn(move || {
            let piece = Extent::new(at, at.saturating_add(len).min(extent.end));
            at = piece.end;
            (!piece.is_empty()).then_some(piece)
        })
    })
}

impl RestorePlan {
    /// Lists in pieces the free bytes that have to read as zeros.
    pub(super) fn wiped_pieces(&self) -> impl Iterator<Item = Extent> + Send + '_ {
        pieces(&self.wiped, PIECE)
    }

    /// Discards what is to be discarded, and zeroes what has to read as zeros and does not yet.
    pub(super) fn free(
        &self,
        pen: &Pen<'_>,
        same: &Same,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<(), Error> {
        let zeroed = same.lacks(&self.wiped);
        let meter = Meter::begin(monitor, Phase::Freeing, self.discarded.total().saturating_add(zeroed.total()));
        let unit = self.target.can_discard().map_or(1, |discard| discard.granularity.max(1));
        for piece in pieces(&self.discarded, (DISCARDED - DISCARDED % unit).max(unit)) {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            if let Err(failed) = self.target.discard(piece) {
                // Nothing of the image is lost by it.
                draft.problem(format!("free bytes were left as they are: {}", error::chain(&failed)));
                break;
            }
            meter.add(piece.len());
        }
        for piece in pieces(&zeroed, PIECE) {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            pen.write_zeros(piece)?;
            meter.add(piece.len());
        }
        draft.report.stages.push(meter.finish());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_set_and_nothing_else() {
        let set: ExtentSet = [Extent::new(3, 10), Extent::new(20, 24)].into_iter().collect();
        let got: Vec<(u64, u64)> = pieces(&set, 4).map(|piece| (piece.start, piece.end)).collect();
        assert_eq!(got, [(3, 7), (7, 10), (20, 24)]);
        assert_eq!(pieces(&set, u64::MAX).count(), 2);
    }
}

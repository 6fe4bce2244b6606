//! The bytes of a file, as the kernel reads them: what lies in no block, or in one that was never written, is zero.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume,
    inode::{Inode, Lister, Run},
};
use crate::{
    block::{Error, ReadAt, check_range},
    extent::Extent,
};

/// Runs of one file remembered at most.
pub(super) const MAX_RUNS: usize = 1 << 18;

/// Lists the blocks that hold the bytes of `inode`, each run with its first block of the file, in the file's order.
///
/// * `budget`: tree blocks read at most.
///
/// Returns `None` where they could not all be listed, are too many, or two runs claim the same place in the file.
pub(super) fn runs(volume: &Volume<'_>, inode: &Inode, budget: u64) -> Option<Vec<(u64, Run)>> {
    let (mut runs, mut too_many) = (Vec::new(), false);
    let listed = Lister::new(volume, budget).list(inode, &mut |run: Run| {
        let Some(logical) = run.logical else { return };
        too_many |= runs.len() >= MAX_RUNS;
        if !too_many {
            runs.push((logical, run));
        }
    });
    listed.ok().filter(|()| !too_many)?;
    runs.sort_unstable_by_key(|(logical, _)| *logical);
    let apart = runs.iter().zip(runs.iter().skip(1)).all(|((a, run), (b, _))| a.saturating_add(run.len) <= *b);
    apart.then_some(runs)
}

/// A file whose bytes are in blocks.
pub(super) struct Content<'a> {
    region: &'a dyn ReadAt,
    /// Where bytes are in the file, and where the region has them; in the file's order.
    pieces: Vec<(Extent, u64)>,
    len: u64,
}

impl<'a> Content<'a> {
    /// Takes `runs` as [`runs`] lists them for `inode`.
    pub(super) fn new(volume: &Volume<'a>, inode: &Inode, runs: &[(u64, Run)]) -> Self {
        let geometry = &volume.geometry;
        let written = runs.iter().filter(|(_, run)| run.written);
        let pieces = written.map(|(logical, run)| {
            let place = geometry.bytes(*logical, logical.saturating_add(run.len));
            (place, run.start.saturating_mul(geometry.block_size))
        });
        Self { region: volume.region, pieces: pieces.collect(), len: inode.size }
    }
}

impl ReadAt for Content<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let len = buf.len() as u64;
        check_range("the file", self.len, offset, len)?;
        let window = Extent::new(offset, offset.saturating_add(len));
        buf.fill(0);
        let first = self.pieces.partition_point(|(place, _)| place.end <= offset);
        for (place, start) in self.pieces.get(first..).unwrap_or_default() {
            let here = place.intersect(window);
            if here.is_empty() {
                break;
            }
            let at = |byte: u64| usize::try_from(byte.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let Some(part) = buf.get_mut(at(here.start)..at(here.end)) {
                self.region.read_exact_at(part, start.saturating_add(here.start.saturating_sub(place.start)))?;
            }
        }
        Ok(())
    }
}

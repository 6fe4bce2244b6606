//! The allocation bitmap: one bit for each cluster, in a chain of clusters that the root directory names.
//!
//! TexFAT has two, which may legitimately differ while a change is under way: what either calls used is kept.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    boot::Boot,
    claims::Claims,
    fat::{Error, Links, Place, Run},
};
use crate::{
    block::{self, ReadAt},
    extent::{Extent, ExtentSet},
    fs::map::{MapBuilder, runs_of_ones},
};

/// Bytes of a bitmap held at once.
const STEP: u64 = 256 << 10;

/// Content that lies in runs of clusters.
pub struct Content {
    /// Where it begins in the content, and where that lies, in bytes.
    runs: Vec<(u64, Extent)>,
}

impl Content {
    /// Finds the clusters of what lies at `place`.
    ///
    /// # Errors
    /// [`Error`] when the chain does not hold its length.
    pub fn find(links: &mut Links<'_>, boot: &Boot, place: &Place) -> Result<Self, Error> {
        let (mut runs, mut at) = (Vec::new(), 0u64);
        links.list(place, &mut |run| {
            let extent = bytes_of(boot, run);
            runs.push((at, extent));
            at = at.saturating_add(extent.len());
            at < place.len
        })?;
        Ok(Self { runs })
    }

    /// Reads from byte `at` of the content on.
    ///
    /// # Errors
    /// Those of the region, and [`block::Error::Beyond`] behind the end.
    pub fn read(&self, region: &dyn ReadAt, at: u64, buf: &mut [u8]) -> Result<(), block::Error> {
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let here = at.saturating_add(done as u64);
            let (len, size) = (rest.len() as u64, self.runs.last().map_or(0, |(at, run)| at.saturating_add(run.len())));
            let beyond = || block::Error::Beyond { disk: "the chain".to_owned(), offset: here, len, size };
            let after = self.runs.partition_point(|(start, _)| *start <= here);
            let (start, run) = after.checked_sub(1).and_then(|index| self.runs.get(index)).ok_or_else(beyond)?;
            let within = here.saturating_sub(*start);
            let len = len.min(run.len().checked_sub(within).filter(|left| *left > 0).ok_or_else(beyond)?);
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let part = rest.get_mut(..len).ok_or_else(beyond)?;
            region.read_exact_at(part, run.start.saturating_add(within))?;
            done = done.saturating_add(len);
        }
        Ok(())
    }
}

/// Returns the set of the clusters that lie in `map` as a whole.
#[must_use]
pub fn clusters_of(boot: &Boot, map: &ExtentSet) -> Claims {
    let mut clusters = Claims::new(boot.clusters);
    for extent in map.iter() {
        let index = |offset: u64| offset.saturating_sub(boot.heap_offset);
        let first = index(extent.start).div_ceil(boot.cluster);
        let end = index(extent.end).checked_div(boot.cluster).unwrap_or(0).min(boot.clusters);
        // The extents of a set do not overlap, so that none is claimed before.
        clusters.insert(first, end.saturating_sub(first));
    }
    clusters
}

/// Returns the bytes of a run of clusters.
#[must_use]
pub fn bytes_of(boot: &Boot, run: Run) -> Extent {
    let index = run.first.saturating_sub(2);
    Extent::new(boot.index_offset(index), boot.index_offset(index.saturating_add(run.count)))
}

/// What the bitmaps say.
#[derive(Debug, Default)]
pub struct Count {
    /// Clusters the bitmap that counts calls used.
    pub used: u64,
    /// Clusters the bitmaps do not agree about.
    pub differing: u64,
}

/// Adds to `map`, in ascending order, every cluster that some bitmap calls used.
///
/// * `bitmaps`: those there are, the one that counts first.
///
/// # Errors
/// Those of the region.
pub fn unite(
    region: &dyn ReadAt,
    boot: &Boot,
    bitmaps: &[Content],
    map: &mut MapBuilder,
) -> Result<Count, block::Error> {
    let mut count = Count::default();
    let len = boot.clusters.div_ceil(8);
    let mut at = 0u64;
    while at < len {
        let step = usize::try_from(STEP.min(len.saturating_sub(at))).unwrap_or(0);
        let first = at.saturating_mul(8);
        let bits = boot.clusters.saturating_sub(first);
        let mut all = vec![0; step];
        for (number, bitmap) in bitmaps.iter().enumerate() {
            let mut bytes = vec![0; step];
            bitmap.read(region, at, &mut bytes)?;
            if number == 0 {
                runs_of_ones(&bytes, bits, |from, to| count.used = count.used.saturating_add(to.saturating_sub(from)));
            } else {
                let differing = bytes.iter().zip(&all).map(|(one, other)| one ^ other).collect::<Vec<_>>();
                runs_of_ones(&differing, bits, |from, to| {
                    count.differing = count.differing.saturating_add(to.saturating_sub(from));
                });
            }
            all.iter_mut().zip(&bytes).for_each(|(all, one)| *all |= one);
        }
        runs_of_ones(&all, bits, |from, to| {
            let at = |index: u64| boot.index_offset(first.saturating_add(index));
            map.insert(Extent::new(at(from), at(to)));
        });
        at = at.saturating_add(STEP);
    }
    Ok(count)
}

//! Which chunks of a region a job goes through, and turning what came of them into the runs of a manifest.

use crate::{
    extent::{Extent, ExtentSet},
    store::{ChunkId, manifest::ChunkRun},
};

/// Lists the chunks of a region that hold an allocated byte: number, and bytes from the region's start.
///
/// * `chunk_len`: bytes in a chunk; not zero.
pub fn slots(allocated: &ExtentSet, region_len: u64, chunk_len: u64) -> impl Iterator<Item = (u64, Extent)> + '_ {
    let mut next = 0;
    allocated.iter().filter(|extent| !extent.is_empty()).flat_map(move |extent| {
        let first = (extent.start / chunk_len).max(next);
        let last = (extent.end - 1) / chunk_len;
        next = last + 1;
        (first..=last).map(move |number| (number, slot(number, region_len, chunk_len)))
    })
}

/// Returns the bytes of chunk `number`, from the region's start; the last chunk of a region is shorter.
#[must_use]
pub fn slot(number: u64, region_len: u64, chunk_len: u64) -> Extent {
    let start = number.saturating_mul(chunk_len);
    Extent::new(start, start.saturating_add(chunk_len).min(region_len))
}

/// Collects what came of a region's chunks, in any order, into the runs of a manifest.
#[derive(Debug, Default)]
pub struct Runs {
    zero: Vec<(u64, u64)>,
    data: Vec<(u64, ChunkId)>,
}

impl Runs {
    /// Adds one chunk.
    pub fn add(&mut self, number: u64, id: ChunkId) {
        if id == ChunkId::ZERO {
            self.zero.push((number, 1));
        } else {
            self.data.push((number, id));
        }
    }

    /// Adds `count` chunks that are all zero.
    pub fn add_zero(&mut self, first: u64, count: u64) {
        self.zero.push((first, count));
    }

    /// Puts the chunks in order.
    #[must_use]
    pub fn finish(mut self) -> Vec<ChunkRun> {
        self.zero.sort_unstable();
        self.data.sort_unstable();
        let (mut runs, mut zero) = (Vec::new(), self.zero.into_iter().peekable());
        for (number, id) in self.data {
            while let Some((first, count)) = zero.next_if(|(first, _)| *first < number) {
                push_zero(&mut runs, first, count);
            }
            match runs.last_mut() {
                Some(ChunkRun::Data { first, ids }) if *first + ids.len() as u64 == number => ids.push(id),
                _ => runs.push(ChunkRun::Data { first: number, ids: vec![id] }),
            }
        }
        for (first, count) in zero {
            push_zero(&mut runs, first, count);
        }
        runs
    }
}

fn push_zero(runs: &mut Vec<ChunkRun>, first: u64, more: u64) {
    match runs.last_mut() {
        Some(ChunkRun::Zero { first: start, count }) if *start + *count == first => *count += more,
        _ => runs.push(ChunkRun::Zero { first, count: more }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(extents: &[(u64, u64)]) -> ExtentSet {
        extents.iter().map(|&(start, end)| Extent::new(start, end)).collect()
    }

    #[test]
    fn every_chunk_with_an_allocated_byte_is_listed_once() {
        for (name, allocated, region_len, want) in [
            ("nothing", set(&[]), 100, vec![]),
            ("two extents in one chunk", set(&[(0, 1), (5, 9)]), 100, vec![(0, 0, 10)]),
            ("across a border", set(&[(9, 11)]), 100, vec![(0, 0, 10), (1, 10, 20)]),
            ("ends at a border", set(&[(0, 10), (20, 30)]), 100, vec![(0, 0, 10), (2, 20, 30)]),
            ("short last chunk", set(&[(29, 33)]), 33, vec![(2, 20, 30), (3, 30, 33)]),
            ("meets in a chunk", set(&[(0, 15), (17, 25)]), 33, vec![(0, 0, 10), (1, 10, 20), (2, 20, 30)]),
        ] {
            let got: Vec<_> = slots(&allocated, region_len, 10).map(|(n, e)| (n, e.start, e.end)).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn runs_come_out_in_order_whatever_order_they_came_in() {
        let id = |n: u8| ChunkId([n; 32]);
        let mut runs = Runs::default();
        for (number, chunk) in [(7, id(7)), (2, id(2)), (1, id(1)), (3, ChunkId::ZERO), (8, ChunkId::ZERO)] {
            runs.add(number, chunk);
        }
        runs.add_zero(4, 3);
        assert_eq!(
            runs.finish(),
            [
                ChunkRun::Data { first: 1, ids: vec![id(1), id(2)] },
                ChunkRun::Zero { first: 3, count: 4 },
                ChunkRun::Data { first: 7, ids: vec![id(7)] },
                ChunkRun::Zero { first: 8, count: 1 },
            ]
        );
    }
}

//! Which chunks of a region a job goes through, and turning what came of them into the runs of a manifest.

use crate::{
    extent::Extent,
    store::{ChunkId, manifest::ChunkRun},
};

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

    #[test]
    fn the_last_chunk_of_a_region_is_as_long_as_what_is_left() {
        assert_eq!(slot(2, 33, 10), Extent::new(20, 30));
        assert_eq!(slot(3, 33, 10), Extent::new(30, 33));
        assert_eq!(slot(u64::MAX, 33, 10).len(), 0);
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

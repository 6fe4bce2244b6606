//! Building an allocation map from runs that arrive in order, in bounded memory.
//!
//! A badly fragmented volume of many tebibytes has more runs than memory has room for. Past a limit the builder keeps
//! the smallest gaps between runs as if they were allocated: the map may keep too much, never too little.

use crate::extent::{Extent, ExtentSet};

/// Runs kept before small gaps are closed: 16 MiB of memory.
const MAX_RUNS: usize = 1 << 20;

/// Collects runs of bytes in ascending order of their starts.
#[derive(Debug)]
pub struct MapBuilder {
    runs: Vec<Extent>,
    /// Gaps shorter than this many bytes are closed.
    min_gap: u64,
    max_runs: usize,
}

impl MapBuilder {
    /// Starts an empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new(), min_gap: 0, max_runs: MAX_RUNS }
    }

    /// Adds a run. A start before the last run's start joins everything between: callers add in ascending order.
    pub fn insert(&mut self, run: Extent) {
        if run.is_empty() {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if run.start <= last.end.saturating_add(self.min_gap) => {
                *last = Extent::new(last.start.min(run.start), last.end.max(run.end));
            }
            _ => self.runs.push(run),
        }
        if self.runs.len() > self.max_runs {
            self.thin();
        }
    }

    /// Doubles the gap that is closed until half the runs are gone.
    fn thin(&mut self) {
        while self.runs.len() > self.max_runs / 2 {
            self.min_gap = self.min_gap.saturating_mul(2).max(512);
            let min_gap = self.min_gap;
            self.runs.dedup_by(|next, kept| {
                let joins = next.start <= kept.end.saturating_add(min_gap);
                if joins {
                    // A run out of order may begin before the one it joins.
                    *kept = Extent::new(kept.start.min(next.start), kept.end.max(next.end));
                }
                joins
            });
        }
    }

    /// Returns the map, and the length in bytes up to which gaps were closed (0: none was).
    #[must_use]
    pub fn finish(self) -> (ExtentSet, u64) {
        (ExtentSet::from_unsorted(self.runs), self.min_gap)
    }
}

impl Default for MapBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the sentence that says gaps were closed, where they were.
#[must_use]
pub fn closed_gaps(min_gap: u64) -> Option<String> {
    (min_gap > 0).then(|| {
        format!("the free space is in so many pieces that those of up to {} are kept", crate::units::Bytes(min_gap))
    })
}

/// Calls `each` with every run `from..to` of bits that are set among the first `bits`, low bit of each byte first.
pub fn runs_of_ones(bitmap: &[u8], bits: u64, mut each: impl FnMut(u64, u64)) {
    let mut open: Option<u64> = None;
    for (number, byte) in (0u64..).zip(bitmap) {
        let first = number.saturating_mul(8);
        if first >= bits {
            break;
        }
        // Whole bytes of one kind are the rule; single bits the exception.
        if (*byte == 0xff && open.is_some() || *byte == 0 && open.is_none()) && first.saturating_add(8) <= bits {
            continue;
        }
        for bit in 0..bits.saturating_sub(first).min(8) {
            let at = first.saturating_add(bit);
            match (byte >> bit & 1 == 1, open) {
                (true, None) => open = Some(at),
                (false, Some(from)) => {
                    each(from, at);
                    open = None;
                }
                _ => {}
            }
        }
    }
    let end = bits.min((bitmap.len() as u64).saturating_mul(8));
    if let Some(from) = open.filter(|from| *from < end) {
        each(from, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_thinned_map_keeps_every_run_and_few_extents(gaps in proptest::collection::vec((1..9000u64, 1..9000u64), 1..400)) {
            let mut builder = MapBuilder { max_runs: 16, ..MapBuilder::new() };
            let (mut at, mut runs) = (0, Vec::new());
            for (gap, len) in gaps {
                runs.push(Extent::new(at + gap, at + gap + len));
                at += gap + len;
                builder.insert(*runs.last().unwrap());
            }
            let (map, min_gap) = builder.finish();
            prop_assert!(map.as_slice().len() <= 17);
            prop_assert!(runs.iter().all(|run| map.covers(*run)));
            prop_assert!(min_gap > 0 || map == ExtentSet::from_unsorted(runs));
        }
    }

    proptest! {
        #[test]
        fn runs_out_of_order_are_kept_as_well(runs in proptest::collection::vec((0..1_000_000u64, 1..3000u64), 1..400)) {
            let mut builder = MapBuilder { max_runs: 16, ..MapBuilder::new() };
            let runs = runs.iter().map(|(start, len)| Extent::new(*start, start + len)).collect::<Vec<_>>();
            runs.iter().for_each(|run| builder.insert(*run));
            let (map, _) = builder.finish();
            prop_assert!(runs.iter().all(|run| map.covers(*run)));
        }
    }

    #[test]
    fn runs_cross_bytes_and_ignore_padding() {
        for (name, bitmap, bits, want) in [
            ("run across a byte", vec![0x80, 0x01], 16, vec![(7, 9)]),
            ("padding ignored", vec![0x01, 0xff], 8, vec![(0, 1)]),
            ("all", vec![0xff, 0xff], 16, vec![(0, 16)]),
            ("cut in a byte", vec![0xff, 0xff], 12, vec![(0, 12)]),
            ("bitmap too short", vec![0xff], 16, vec![(0, 8)]),
            ("none", vec![0, 0], 16, vec![]),
        ] {
            let mut got = Vec::new();
            runs_of_ones(&bitmap, bits, |from, to| got.push((from, to)));
            assert_eq!(got, want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn runs_are_the_set_bits(bitmap in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..24), cut in 0..8u64) {
            let bits = (bitmap.len() as u64 * 8).saturating_sub(cut);
            let mut seen = vec![false; usize::try_from(bits).unwrap()];
            runs_of_ones(&bitmap, bits, |from, to| (from..to).for_each(|bit| seen[usize::try_from(bit).unwrap()] = true));
            let want = (0..seen.len()).map(|bit| bitmap[bit / 8] >> (bit % 8) & 1 == 1).collect::<Vec<_>>();
            prop_assert_eq!(seen, want);
        }
    }
}

//! Sets of clusters, such as those some file has already laid claim to: a bitmap that takes memory only where files are.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Clusters in a page; its bits are 4 KiB.
const PAGE: u64 = 1 << 15;

/// The clusters of one page.
enum Page {
    Empty,
    Some { bits: Box<[u64]>, set: u64 },
    Full,
}

/// A set of clusters that nothing may be in twice.
pub struct Claims {
    pages: Vec<Page>,
}

impl Claims {
    /// Starts with `clusters` clusters that nobody has claimed.
    #[must_use]
    pub fn new(clusters: u64) -> Self {
        // At most 2^32 clusters, so 2^17 pages.
        let pages = usize::try_from(clusters.div_ceil(PAGE)).unwrap_or(0);
        Self { pages: std::iter::repeat_with(|| Page::Empty).take(pages).collect() }
    }

    /// Claims `count` clusters from index `first` on; `false` when one of them was claimed before or does not exist.
    pub fn insert(&mut self, first: u64, count: u64) -> bool {
        let (mut at, end) = (first, first.saturating_add(count));
        while at < end {
            let to = end.min((at / PAGE).saturating_add(1).saturating_mul(PAGE));
            let page = usize::try_from(at / PAGE).ok().and_then(|number| self.pages.get_mut(number));
            let from = at % PAGE;
            if !page.is_some_and(|page| page.insert(from, to.saturating_sub(at))) {
                return false;
            }
            at = to;
        }
        true
    }
}

impl Claims {
    /// Tells whether the cluster with this index was claimed.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        match usize::try_from(index / PAGE).ok().and_then(|number| self.pages.get(number)) {
            Some(Page::Full) => true,
            Some(Page::Some { bits, .. }) => {
                let word = usize::try_from(index % PAGE / 64).ok().and_then(|number| bits.get(number));
                word.is_some_and(|word| word >> (index % 64) & 1 == 1)
            }
            _ => false,
        }
    }
}

impl Page {
    fn insert(&mut self, from: u64, count: u64) -> bool {
        if count == PAGE {
            let fresh = matches!(self, Self::Empty);
            *self = Self::Full;
            return fresh;
        }
        if matches!(self, Self::Empty) {
            *self = Self::Some { bits: vec![0; 512].into_boxed_slice(), set: 0 };
        }
        let Self::Some { bits, set } = self else { return false };
        let (skip, behind) = (from / 64, from.saturating_add(count).div_ceil(64));
        let range = usize::try_from(skip).unwrap_or(usize::MAX)..usize::try_from(behind).unwrap_or(usize::MAX);
        let Some(words) = bits.get_mut(range) else { return false };
        for (first, word) in (skip.saturating_mul(64)..).step_by(64).zip(words) {
            let low = from.saturating_sub(first).min(64);
            let high = from.saturating_add(count).saturating_sub(first).min(64);
            let below = |bits: u64| {
                1u64.checked_shl(u32::try_from(bits).unwrap_or(64)).map_or(u64::MAX, |bit| bit.wrapping_sub(1))
            };
            let mask = below(high) & !below(low);
            if *word & mask != 0 {
                return false;
            }
            *word |= mask;
        }
        *set = set.saturating_add(count);
        if *set == PAGE {
            *self = Self::Full;
        }
        true
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_claimed_twice(runs in proptest::collection::vec((0..100_000u64, prop_oneof![1..3u64, 1..40_000u64]), 1..12)) {
            let (mut claims, mut model) = (Claims::new(100_000), vec![false; 100_000]);
            for (first, count) in runs {
                let range = usize::try_from(first).unwrap()..usize::try_from((first + count).min(100_000)).unwrap();
                let fresh = first + count <= PAGE * 4 && model[range.clone()].iter().all(|claimed| !claimed);
                prop_assert_eq!(claims.insert(first, count), fresh);
                if !fresh {
                    return Ok(());
                }
                model[range].fill(true);
                prop_assert!((0u64..).zip(&model).all(|(index, claimed)| claims.contains(index) == *claimed));
            }
        }
    }

    #[test]
    fn whole_pages_take_no_memory() {
        let mut claims = Claims::new(1 << 32);
        assert!(claims.insert(5, (1 << 32) - 5));
        assert!(claims.insert(0, 5));
        assert!(claims.pages.iter().all(|page| matches!(page, Page::Full)));
        assert!(!claims.insert(77, 1));
        assert!(!claims.insert(1 << 32, 1));
    }
}

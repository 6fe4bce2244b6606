//! Sets of byte ranges: the algebra that allocation maps, plans and restores are made of.
//!
//! An [`ExtentSet`] is a sorted list of half-open extents that neither overlap nor touch, so two sets with the
//! same bytes are equal. Operations on whole sets are linear; [`ExtentSet::insert`] is cheap at the end, where
//! readers of bitmaps add.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A run of bytes `start..end`, half open. May be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub start: u64,
    /// First byte after the run; never less than `start`.
    pub end: u64,
}

impl Extent {
    /// Returns `start..end`; an `end` before `start` gives the empty extent at `start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// Returns the extent of `len` bytes at `start`, or `None` where its end has no `u64`.
    #[must_use]
    pub const fn with_len(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Tells whether the extent holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Tells whether `offset` lies in the extent.
    #[must_use]
    pub const fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Tells whether every byte of `other` lies in the extent.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Returns the bytes both extents hold.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Tells whether the extents share a byte.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {:#x} to {:#x}", self.start, self.end)
    }
}

/// A set of bytes, kept as sorted extents that neither overlap nor touch.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExtentSet(Vec<Extent>);

impl ExtentSet {
    /// Returns the empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns the set of every byte in `0..len`.
    #[must_use]
    pub fn full(len: u64) -> Self {
        Self::from(Extent::new(0, len))
    }

    /// Adds `extent`. Amortised constant when nothing in the set lies behind it, else linear in what does.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if extent.start > last.end => self.0.push(extent),
            Some(last) if extent.start >= last.start => last.end = last.end.max(extent.end),
            None => self.0.push(extent),
            Some(_) => self.insert_inside(extent),
        }
    }

    fn insert_inside(&mut self, extent: Extent) {
        let first = self.0.partition_point(|e| e.end < extent.start);
        let after = self.0.partition_point(|e| e.start <= extent.end);
        let merged =
            self.0[first..after].iter().fold(extent, |all, e| Extent::new(all.start.min(e.start), all.end.max(e.end)));
        self.0.splice(first..after, [merged]);
    }

    /// Takes every byte of `extent` out of the set.
    pub fn remove(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let first = self.0.partition_point(|e| e.end <= extent.start);
        let after = self.0.partition_point(|e| e.start < extent.end);
        if first >= after {
            return;
        }
        let before = Extent::new(self.0[first].start, extent.start);
        let behind = Extent::new(extent.end, self.0[after - 1].end);
        self.0.splice(first..after, [before, behind].into_iter().filter(|e| !e.is_empty()));
    }

    /// Returns the bytes in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Extent> = Vec::with_capacity(self.0.len() + other.0.len());
        all.extend_from_slice(&self.0);
        all.extend_from_slice(&other.0);
        Self::from_unsorted(all)
    }

    /// Returns the bytes in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut out, mut a, mut b) = (Vec::new(), self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&left), Some(&&right)) = (a.peek(), b.peek()) {
            let both = left.intersect(right);
            if !both.is_empty() {
                out.push(both);
            }
            if left.end <= right.end {
                a.next()
            } else {
                b.next()
            };
        }
        Self(out)
    }

    /// Returns the bytes of this set that are not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        match self.0.last() {
            Some(last) => self.intersect(&other.complement(last.end)),
            None => Self::new(),
        }
    }

    /// Returns the bytes of `0..len` that are not in the set.
    #[must_use]
    pub fn complement(&self, len: u64) -> Self {
        let mut out = Vec::with_capacity(self.0.len() + 1);
        let mut at = 0;
        for extent in &self.0 {
            if extent.start >= len {
                break;
            }
            if at < extent.start {
                out.push(Extent::new(at, extent.start));
            }
            at = extent.end;
        }
        if at < len {
            out.push(Extent::new(at, len));
        }
        Self(out)
    }

    /// Returns the part of the set that lies in `window`.
    #[must_use]
    pub fn clip(&self, window: Extent) -> Self {
        Self(self.within(window).collect())
    }

    /// Lists the parts of the set that lie in `window`, in order; starts by binary search.
    pub fn within(&self, window: Extent) -> impl Iterator<Item = Extent> + '_ {
        let first = self.0.partition_point(|e| e.end <= window.start);
        self.0[first..]
            .iter()
            .take_while(move |e| e.start < window.end)
            .map(move |e| e.intersect(window))
            .filter(|e| !e.is_empty())
    }

    /// Returns the set with every extent rounded outwards to multiples of `unit` bytes, and clipped to `0..len`.
    #[must_use]
    pub fn round_out(&self, unit: u64, len: u64) -> Self {
        let unit = unit.max(1);
        let mut out = Self::new();
        for extent in self.within(Extent::new(0, len)) {
            let end = extent.end.checked_next_multiple_of(unit).unwrap_or(len).min(len);
            out.insert(Extent::new(extent.start - extent.start % unit, end));
        }
        out
    }

    /// Returns the set with every extent rounded inwards to multiples of `unit` bytes.
    #[must_use]
    pub fn round_in(&self, unit: u64) -> Self {
        let unit = unit.max(1);
        let inner = |e: &Extent| {
            let start = e.start.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
            Extent::new(start, e.end - e.end % unit)
        };
        Self(self.0.iter().map(inner).filter(|e| !e.is_empty()).collect())
    }

    /// Tells whether every byte of `extent` is in the set.
    #[must_use]
    pub fn covers(&self, extent: Extent) -> bool {
        let first = self.0.partition_point(|e| e.end < extent.end);
        extent.is_empty() || self.0.get(first).is_some_and(|e| e.covers(extent))
    }

    /// Tells whether the byte at `offset` is in the set.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        let first = self.0.partition_point(|e| e.end <= offset);
        self.0.get(first).is_some_and(|e| e.contains(offset))
    }

    /// Returns how many bytes the set holds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|e| e.len()).sum()
    }

    /// Lists the extents in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Extent> + DoubleEndedIterator + '_ {
        self.0.iter().copied()
    }

    /// Returns the extents in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }

    /// Tells whether the set holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Builds a set from extents in any order, overlapping or not.
    #[must_use]
    pub fn from_unsorted(mut extents: Vec<Extent>) -> Self {
        extents.sort_unstable();
        let mut set = Self(Vec::with_capacity(extents.len()));
        for extent in extents {
            set.insert(extent);
        }
        set
    }
}

impl From<Extent> for ExtentSet {
    fn from(extent: Extent) -> Self {
        Self(if extent.is_empty() { Vec::new() } else { vec![extent] })
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        Self::from_unsorted(extents.into_iter().collect())
    }
}

impl fmt::Debug for ExtentSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: u64 = 96;

    fn any_set() -> impl Strategy<Value = ExtentSet> {
        proptest::collection::vec((0..SPAN, 0..24u64), 0..12)
            .prop_map(|runs| runs.into_iter().map(|(start, len)| Extent::new(start, (start + len).min(SPAN))).collect())
    }

    fn bytes(set: &ExtentSet) -> Vec<bool> {
        (0..SPAN).map(|offset| set.contains(offset)).collect()
    }

    fn assert_canonical(set: &ExtentSet) {
        assert!(set.as_slice().iter().all(|e| !e.is_empty()), "{set:?}");
        assert!(set.as_slice().windows(2).all(|w| w[0].end < w[1].start), "{set:?}");
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_bytes(a in any_set(), b in any_set(), start in 0..SPAN, len in 0..SPAN) {
            let window = Extent::new(start, (start + len).min(SPAN));
            let model = |f: &dyn Fn(u64) -> bool| (0..SPAN).map(f).collect::<Vec<_>>();
            let mut inserted = a.clone();
            inserted.insert(window);
            let mut removed = a.clone();
            removed.remove(window);
            for (got, want) in [
                (a.union(&b), model(&|o| a.contains(o) || b.contains(o))),
                (a.intersect(&b), model(&|o| a.contains(o) && b.contains(o))),
                (a.subtract(&b), model(&|o| a.contains(o) && !b.contains(o))),
                (a.complement(SPAN), model(&|o| !a.contains(o))),
                (a.clip(window), model(&|o| a.contains(o) && window.contains(o))),
                (inserted, model(&|o| a.contains(o) || window.contains(o))),
                (removed, model(&|o| a.contains(o) && !window.contains(o))),
                (a.round_in(8), model(&|o| (o / 8 * 8..o / 8 * 8 + 8).all(|p| a.contains(p)))),
                (a.round_out(8, SPAN), model(&|o| (o / 8 * 8..o / 8 * 8 + 8).any(|p| a.contains(p)))),
            ] {
                assert_canonical(&got);
                prop_assert_eq!(bytes(&got), want);
            }
            prop_assert_eq!(a.total(), bytes(&a).iter().filter(|b| **b).count() as u64);
            prop_assert_eq!(a.covers(window), (window.start..window.end).all(|o| a.contains(o)));
        }
    }

    #[test]
    fn extents_at_the_end_of_u64_do_not_wrap() {
        let mut set = ExtentSet::from(Extent::new(u64::MAX - 8, u64::MAX));
        set.insert(Extent::new(0, 1));
        assert_eq!(set.total(), 9);
        assert_eq!(set.round_out(4096, u64::MAX).as_slice()[1].end, u64::MAX);
        assert_eq!(Extent::with_len(u64::MAX, 1), None);
    }
}

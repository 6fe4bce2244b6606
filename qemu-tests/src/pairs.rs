//! Combinations of options: every pair of values of two options occurs in one of them.
//!
//! Faults hide where two options meet far more often than where three do, and pairs need tens of volumes where all
//! combinations need thousands.

use std::collections::BTreeSet;

/// Lists combinations that cover all pairs of values which `valid` allows together.
///
/// * `axes`: the number of values each option has.
/// * `valid`: whether a combination, one value for each option, makes sense.
///
/// Combinations of nothing but first values come first where they are valid.
#[must_use]
pub fn pairs(axes: &[usize], valid: impl Fn(&[usize]) -> bool) -> Vec<Vec<usize>> {
    let all: Vec<Vec<usize>> = product(axes).into_iter().filter(|row| valid(row)).collect();
    let mut open: BTreeSet<Pair> = all.iter().flat_map(|row| pairs_of(row)).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        // The one that covers most; the first of several, so that the list is always the same.
        let gain = |row: &Vec<usize>| pairs_of(row).filter(|pair| open.contains(pair)).count();
        let best = all.iter().rev().max_by_key(|row| gain(row));
        let Some(best) = best else { break };
        for pair in pairs_of(best) {
            open.remove(&pair);
        }
        chosen.push(best.clone());
    }
    chosen
}

/// Two options and the value each has.
type Pair = (usize, usize, usize, usize);

fn pairs_of(row: &[usize]) -> impl Iterator<Item = Pair> + '_ {
    let pair = move |one: usize| (one + 1..row.len()).map(move |other| (one, row[one], other, row[other]));
    (0..row.len()).flat_map(pair)
}

fn product(axes: &[usize]) -> Vec<Vec<usize>> {
    axes.iter().fold(vec![Vec::new()], |rows, values| {
        let with = |row: &Vec<usize>, value| row.iter().copied().chain([value]).collect();
        rows.iter().flat_map(|row| (0..*values).map(move |value| with(row, value))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_occurs_in_far_fewer_combinations_than_there_are() {
        let axes = [3, 4, 2, 4];
        let valid = |row: &[usize]| !(row[0] == 1 && row[1] == 2);
        let rows = pairs(&axes, valid);
        assert_eq!(rows[0], [0, 0, 0, 0]);
        assert!(rows.len() <= 20, "{} of {}", rows.len(), 3 * 4 * 2 * 4);
        for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            for (a, b) in (0..axes[one]).flat_map(|a| (0..axes[other]).map(move |b| (a, b))) {
                let found = rows.iter().any(|row| row[one] == a && row[other] == b);
                let allowed = !(one == 0 && other == 1 && a == 1 && b == 2);
                assert_eq!(found, allowed, "option {one} = {a}, option {other} = {b}");
            }
        }
        assert!(rows.iter().all(|row| valid(row)));
    }
}

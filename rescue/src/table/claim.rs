//! From what table entries claim to what is believed: ranges inside the disk that no doubtful entry touches.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Partition, Problem, TablePiece, sectors::Sectors};
use crate::{
    extent::{Extent, ExtentSet},
    units::Lba,
};

/// What one entry says about one partition.
pub(super) struct Claim {
    /// Where the entry lies, in bytes from the start of the disk.
    pub(super) at: u64,
    pub(super) first_lba: u64,
    /// Inclusive.
    pub(super) last_lba: u64,
    /// The partition, its range still empty.
    pub(super) partition: Partition,
}

/// Sorts claims into partitions inside the disk and problems.
///
/// An entry that reaches beyond the disk is not listed, and neither is one it overlaps: what lies there is then
/// between partitions, where every byte is kept.
pub(super) fn believe(
    claims: Vec<Claim>,
    sectors: &Sectors<'_>,
    pieces: &[TablePiece],
) -> (Vec<Partition>, Vec<Problem>) {
    let (mut listed, mut problems, mut doubtful) = (Vec::new(), Vec::new(), ExtentSet::new());
    for Claim { at, first_lba, last_lba, mut partition } in claims {
        let inside = clip(first_lba, last_lba, sectors);
        partition.range = inside;
        match contradiction(first_lba, last_lba, sectors.count) {
            Some(what) => {
                doubtful.insert(inside);
                problems.push(Problem { offset: at, what: format!("partition {} {what}", partition.number) });
            }
            None => listed.push((at, partition)),
        }
    }
    let (kept, dropped): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|(_, partition)| doubtful.within(partition.range).next().is_none());
    problems.extend(dropped.into_iter().map(|(at, partition)| Problem {
        offset: at,
        what: format!("partition {} overlaps an entry that makes no sense", partition.number),
    }));
    problems.extend(overlaps(&kept));
    problems.extend(over_the_table(&kept, pieces));
    (kept.into_iter().map(|(_, partition)| partition).collect(), problems)
}

/// Returns the part of `first..=last` that lies on the disk, in bytes.
fn clip(first: u64, last: u64, sectors: &Sectors<'_>) -> Extent {
    let end = last.saturating_add(1).min(sectors.count);
    Extent::new(sectors.offset(Lba(first.min(sectors.count))), sectors.offset(Lba(end)))
}

fn contradiction(first: u64, last: u64, count: u64) -> Option<String> {
    if last < first {
        Some(format!("starts at LBA {first} and ends before that, at LBA {last}"))
    } else if last >= count {
        Some(format!("lies at LBA {first} to {last}, beyond the disk, which has {count} sectors"))
    } else {
        None
    }
}

/// Reports each partition that begins before an earlier one has ended.
fn overlaps(listed: &[(u64, Partition)]) -> Vec<Problem> {
    let mut order: Vec<&(u64, Partition)> = listed.iter().collect();
    order.sort_by_key(|(_, partition)| (partition.range, partition.number));
    let (mut problems, mut reach): (Vec<Problem>, Option<&Partition>) = (Vec::new(), None);
    for (at, partition) in order {
        if let Some(other) = reach.filter(|other| other.range.overlaps(partition.range)) {
            let both = other.range.intersect(partition.range);
            let what = format!("partitions {} and {} overlap in {both}", other.number, partition.number);
            problems.push(Problem { offset: *at, what });
        }
        if reach.is_none_or(|other| other.range.end < partition.range.end) {
            reach = Some(partition);
        }
    }
    problems
}

/// Reports each partition that lies over bytes of the table itself.
fn over_the_table(listed: &[(u64, Partition)], pieces: &[TablePiece]) -> Vec<Problem> {
    let table: ExtentSet = pieces.iter().map(TablePiece::range).collect();
    let touching = listed.iter().filter_map(|(at, partition)| {
        let both = table.within(partition.range).next()?;
        let what = format!("partition {} lies over the partition table, in {both}", partition.number);
        Some(Problem { offset: *at, what })
    });
    touching.collect()
}

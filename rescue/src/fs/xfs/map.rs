//! From the free-space trees to the allocation map, one group at a time.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    View, Volume, Whole,
    ag::{self, Agf},
    btree::{self, BY_BLOCK, BY_SIZE},
    log::Log,
    replay::Copies,
    walk,
};
use crate::{
    bytes::Fields,
    extent::{Extent, ExtentSet},
    fs::{
        Detected, State, Survey, Usage,
        map::{self, MapBuilder},
    },
};

/// Different reasons that are told; of more, only that there are more.
const MAX_REASONS: usize = 24;

/// Which groups are kept whole, and why.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    reasons: BTreeMap<String, Vec<u64>>,
    groups: BTreeSet<u64>,
}

impl Doubts {
    /// Has `group` kept whole because of `reason`; the first reason for a group is told.
    pub(super) fn add(&mut self, group: u64, reason: String) {
        if !self.groups.insert(group) {
            return;
        }
        let known = self.reasons.len() < MAX_REASONS || self.reasons.contains_key(&reason);
        let reason = if known { reason } else { "for many different reasons".to_owned() };
        self.reasons.entry(reason).or_default().push(group);
    }
}

/// What the free-space trees of a group say.
struct Part {
    used: ExtentSet,
    /// Gaps up to this many bytes were closed.
    min_gap: u64,
    /// Blocks of the trees, and those kept for them to grow.
    own: Vec<u64>,
    /// Blocks that the superblock should count as free for this group.
    free: u64,
    /// The same, as it was counted before lazy counters.
    free_of_old: u64,
}

/// Builds the map of `volume`; `copies` holds what a replay of its log would change.
pub(super) fn build(volume: &Volume<'_>, copies: Option<&Copies>, detected: &Detected) -> Result<Survey, Whole> {
    let geometry = &volume.geometry;
    let touched = copies.map(|copies| copies.groups(volume)).unwrap_or_default();
    let (disk, after) = (View { volume, copies: None }, View { volume, copies });
    let mut builder = MapBuilder::new();
    let mut doubts = Doubts::default();
    let (mut own, mut halfway) = (Vec::new(), BTreeSet::new());
    let (mut free, mut free_of_old, mut min_gap) = (0u64, 0u64, 0u64);
    for group in 0..geometry.groups {
        match ag::check_copy(&disk, group) {
            Err(ag::Error::Geometry) => {
                return Err(Whole::damaged(format_args!("the superblock's copy in group {group} is of another shape")));
            }
            Err(error) => doubts.add(group, format!("the copy of the superblock {error}")),
            Ok(()) => {}
        }
        let mut part = used(&after, group);
        if touched.contains(&group) {
            part = part.and_then(|part| match used(&disk, group) {
                Ok(before) => Ok(unite(part, before)),
                Err(reason) => {
                    halfway.insert(group);
                    Err(format!("before a replay of the log, {reason}"))
                }
            });
        }
        let window = Extent::new(geometry.offset(group, 0), geometry.offset(group, geometry.group_len(group)));
        match part {
            Ok(part) => {
                if doubts.groups.contains(&group) {
                    builder.insert(window);
                } else {
                    part.used.iter().for_each(|run| builder.insert(run));
                }
                min_gap = min_gap.max(part.min_gap);
                free = free.saturating_add(part.free);
                free_of_old = free_of_old.saturating_add(part.free_of_old);
                own.push((group, part.own));
            }
            Err(reason) => {
                builder.insert(window);
                doubts.add(group, reason);
            }
        }
    }
    builder.insert(Extent::new(geometry.blocks.saturating_mul(geometry.block_size), volume.region.len()));
    let (allocated, closed) = builder.finish();
    let mut survey = Survey::new(Some(detected.clone()), allocated);
    check_own(volume, &own, &survey.allocated, &mut doubts);
    let complete = doubts.groups.is_empty();
    walk::unite(&after, copies.is_none(), &mut doubts, &mut survey)?;
    finish(volume, &doubts, &touched, &halfway, &mut survey);
    survey.widened.extend(map::closed_gaps(min_gap.max(closed)));
    survey.name_slack(geometry.blocks.saturating_mul(geometry.block_size), volume.region);
    if complete {
        count(volume, copies.is_none(), (free, free_of_old), &mut survey)?;
    }
    Ok(survey)
}

/// Keeps the groups in doubt, and says so.
fn finish(volume: &Volume<'_>, doubts: &Doubts, touched: &BTreeSet<u64>, halfway: &BTreeSet<u64>, survey: &mut Survey) {
    let geometry = &volume.geometry;
    let whole = doubts
        .groups
        .iter()
        .map(|group| Extent::new(geometry.offset(*group, 0), geometry.offset(*group, geometry.group_len(*group))));
    survey.allocated = survey.allocated.union(&whole.collect());
    let mut why = doubts
        .reasons
        .iter()
        .map(|(reason, groups)| format!("{} kept whole: {reason}", name(groups)))
        .collect::<Vec<_>>();
    why.append(&mut survey.widened);
    survey.widened = why;
    let plain = touched.difference(&doubts.groups).copied().collect::<Vec<_>>();
    if !plain.is_empty() {
        survey.widened.push(format!("{}: what is in use before or after a replay of the log is kept", name(&plain)));
    }
    // A group that was halfway to its next state is no more than that.
    if let (false, Some(detected)) = (doubts.groups.is_subset(halfway), &mut survey.detected) {
        detected.state = State::Damaged;
    }
}

/// Names groups, without all the numbers of thousands.
fn name(groups: &[u64]) -> String {
    let mut out = String::from(if groups.len() == 1 { "group" } else { "groups" });
    for (index, group) in groups.iter().take(8).enumerate() {
        let _ = write!(out, "{} {group}", if index == 0 { "" } else { "," });
    }
    if groups.len() > 8 {
        let _ = write!(out, " and {} more", groups.len().saturating_sub(8));
    }
    out
}

/// Compares the superblock's free count with the groups' and takes it for the books' word.
fn count(volume: &Volume<'_>, settled: bool, groups: (u64, u64), survey: &mut Survey) -> Result<(), Whole> {
    let (said, blocks, size) = (volume.sb.sb_fdblocks, volume.geometry.blocks, volume.geometry.block_size);
    let (free, free_of_old) = groups;
    let fits = said == free || (!volume.sb.lazy_counters() && said == free_of_old);
    // Lazy counters are written when the file system is unmounted.
    if settled && !fits {
        if said < free {
            // The superblock knows of used blocks that no group does.
            return Err(Whole::damaged(format_args!("the superblock counts {said} free blocks, the groups {free}")));
        }
        let note = format!("the superblock counts {said} free blocks, the groups {free}; the groups are believed");
        survey.notes.push(note);
    }
    let free = if settled && fits { said } else { free };
    let used = blocks.saturating_sub(free).saturating_mul(size);
    survey.usage = Some(Usage { used, free: free.saturating_mul(size) });
    Ok(())
}

/// Returns what either side calls used.
fn unite(after: Part, before: Part) -> Part {
    Part {
        used: after.used.union(&before.used),
        min_gap: after.min_gap.max(before.min_gap),
        own: [after.own, before.own].concat(),
        free: after.free,
        free_of_old: after.free_of_old,
    }
}

/// Checks that no free run has the structures of a group in it: headers, free list, trees, the log.
fn check_own(volume: &Volume<'_>, own: &[(u64, Vec<u64>)], allocated: &ExtentSet, doubts: &mut Doubts) {
    let geometry = &volume.geometry;
    let log = Log::place(volume.sb, geometry);
    for (group, blocks) in own {
        let start = geometry.offset(*group, 0);
        let headers = Extent::new(start, start.saturating_add(geometry.sector.saturating_mul(4)));
        let blocks = blocks.iter().map(|block| {
            Extent::new(geometry.offset(*group, *block), geometry.offset(*group, block.saturating_add(1)))
        });
        let log = log.filter(|log| log.overlaps(Extent::new(start, geometry.offset(group.saturating_add(1), 0))));
        if !blocks.chain([headers]).chain(log).all(|extent| allocated.covers(extent)) {
            doubts.add(*group, OWN.to_owned());
        }
    }
}

/// Said of groups whose trees call free what they themselves are made of.
pub(super) const OWN: &str = "its free-space trees call the file system's own structures free";

/// A set of free runs, as far as two lists of the same runs have the same.
#[derive(Debug, Default, PartialEq, Eq)]
struct Runs {
    count: u64,
    blocks: u64,
    longest: u64,
    /// Sum of a hash of each run.
    mixed: u64,
}

impl Runs {
    fn add(&mut self, start: u64, len: u64) {
        self.count = self.count.saturating_add(1);
        self.blocks = self.blocks.saturating_add(len);
        self.longest = self.longest.max(len);
        let mut hash = (start << 32 | len).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.mixed = self.mixed.wrapping_add(hash ^ hash >> 32);
    }
}

fn run(f: Fields<'_>) -> (u64, u64) {
    (f.u32_be(0).map_or(0, u64::from), f.u32_be(4).map_or(0, u64::from))
}

/// Reads what is in use in `group`, or says why that cannot be told.
fn used(view: &View<'_>, group: u64) -> Result<Part, String> {
    let geometry = &view.volume.geometry;
    let len = geometry.group_len(group);
    let agf = Agf::read(view, group).map_err(|error| format!("the header of its free space {error}"))?;
    let mut own = ag::free_list(view, group, &agf).map_err(|error| format!("its free list {error}"))?;
    let reserve = own.len() as u64;
    let (mut builder, mut by_block, mut next) = (MapBuilder::new(), Runs::default(), 0u64);
    let take = |f: Fields<'_>| {
        let (start, blocks) = run(f);
        let end = start.saturating_add(blocks);
        if start < next || blocks == 0 || end > len {
            return false;
        }
        builder.insert(Extent::new(geometry.offset(group, next), geometry.offset(group, start)));
        by_block.add(start, blocks);
        next = end;
        true
    };
    btree::walk(view, group, agf.by_block, BY_BLOCK, &mut own, take)
        .map_err(|error| format!("its tree of free runs by block is broken: {error}"))?;
    builder.insert(Extent::new(geometry.offset(group, next), geometry.offset(group, len)));
    let (mut by_size, mut last) = (Runs::default(), (0u64, 0u64));
    let take = |f: Fields<'_>| {
        let (start, blocks) = run(f);
        let rises = (blocks, start) > last && start.saturating_add(blocks) <= len;
        last = (blocks, start);
        by_size.add(start, blocks);
        rises
    };
    btree::walk(view, group, agf.by_size, BY_SIZE, &mut own, take)
        .map_err(|error| format!("its tree of free runs by length is broken: {error}"))?;
    if by_block != by_size {
        return Err("its trees of free runs by block and by length disagree".to_owned());
    }
    if (by_block.blocks, by_block.longest) != (agf.free_blocks, agf.longest) {
        return Err("its trees of free runs and the counters in its header disagree".to_owned());
    }
    let (used, min_gap) = builder.finish();
    let free_of_old = agf.free_blocks.saturating_add(reserve);
    Ok(Part { used, min_gap, own, free: free_of_old.saturating_add(agf.tree_blocks), free_of_old })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_blamed_once_and_in_few_words() {
        let mut doubts = Doubts::default();
        (0..20).for_each(|group| doubts.add(group, "one".to_owned()));
        doubts.add(3, "two".to_owned());
        assert_eq!(doubts.reasons.len(), 1);
        assert_eq!(name(&doubts.reasons["one"]), "groups 0, 1, 2, 3, 4, 5, 6, 7 and 12 more");
        (20..90).for_each(|group| doubts.add(group, format!("reason {group}")));
        assert_eq!(doubts.reasons.len(), MAX_REASONS + 1);
        assert_eq!(doubts.groups.len(), 90);
    }

    #[test]
    fn lists_of_runs_are_compared_in_any_order() {
        let runs = |list: &[(u64, u64)]| {
            let mut runs = Runs::default();
            list.iter().for_each(|(start, len)| runs.add(*start, *len));
            runs
        };
        assert_eq!(runs(&[(1, 2), (5, 3), (9, 9)]), runs(&[(9, 9), (1, 2), (5, 3)]));
        assert_ne!(runs(&[(1, 2), (5, 3)]), runs(&[(1, 3), (5, 2)]));
        assert_ne!(runs(&[(1, 2), (5, 3)]), runs(&[(1, 2), (6, 3)]));
    }
}

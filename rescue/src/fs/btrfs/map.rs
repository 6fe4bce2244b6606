//! From logical addresses to the allocation map of this device.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Report, Volume, Whole,
    chunks::{Chunk, Chunks},
    devices,
    extents::{Extents, FreeSpace},
    log, proof,
    roots::{Roots, object},
    superblock::{self, feature},
};
use crate::{
    extent::{Extent, ExtentSet},
    fs::{Detected, State, Survey, Usage, map::closed_gaps},
    units::{Bytes, MIB},
};

/// The kernel's `BTRFS_DEVICE_RANGE_RESERVED`: boot loaders live there.
const RESERVED: u64 = MIB;

/// Why a block group is kept whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Unread,
    Contradiction,
    Uncounted,
    Length,
    Counter,
    FreeSpace,
}

impl Doubt {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Unread => "a part of the extent tree that may tell of it cannot be read or is broken",
            Self::Contradiction => "two of its extents overlap, or one is not possible",
            Self::Uncounted => "the chunk is there, its block group is not",
            Self::Length => "it has another length than its chunk",
            Self::Counter => "its extents and its counter disagree",
            Self::FreeSpace => "its extents and the free-space tree disagree",
        }
    }
}

/// Builds the map of `volume`.
///
/// * `system`: the chunks the superblock lists.
pub(super) fn build(
    volume: &Volume<'_>,
    system: &Chunks,
    mut report: Report,
    detected: &Detected,
) -> Result<Survey, Whole> {
    let sb = &volume.sb;
    if volume.chunks.iter().flat_map(|chunk| chunk.uuids_of(sb.devid)).any(|uuid| uuid != sb.dev_uuid) {
        return Err(Whole::damaged("the chunks are on a device with another UUID"));
    }
    let chunks = volume.chunks.on_device(sb.devid, sb.dev_total_bytes).map_err(Whole::damaged)?;
    let roots = Roots::read(volume);
    let allocated = devices::allocated(volume, &roots, chunks, &mut report)?;
    if roots.balance {
        report.notes.push("a balance was interrupted, and is continued when it is mounted".to_owned());
    }
    if sb.log_root.is_some() {
        report.notes.push("its log tree is waiting to be replayed".to_owned());
    }
    let mut usage = Usage { used: sb.dev_bytes_used, free: sb.dev_total_bytes.saturating_sub(sb.dev_bytes_used) };
    let mut pieces = outside(volume);
    let differs = |chunk: &&Chunk| volume.chunks.holding(chunk.logical.start) != Some(chunk);
    for chunk in system.iter().filter(differs) {
        report.damaged = true;
        report.widened.push(format!(
            "the superblock and the chunk tree have another chunk at logical byte {:#x}, and both are kept",
            chunk.logical.start
        ));
        pieces.extend(chunk.on_device(sb.devid));
    }
    match used(volume, &roots, &mut report) {
        Ok(used) => {
            usage = Usage { used: used.bytes, free: sb.dev_total_bytes.saturating_sub(used.bytes) };
            pieces.extend(used.pieces);
            pieces.extend(allocated.subtract(&used.chunks).iter());
        }
        Err(reason) => {
            report.widened.push(format!("all chunks kept whole: {reason}"));
            pieces.extend(allocated.iter());
        }
    }
    Ok(finish(volume, report, detected, pieces, usage))
}

fn finish(
    volume: &Volume<'_>,
    mut report: Report,
    detected: &Detected,
    mut pieces: Vec<Extent>,
    usage: Usage,
) -> Survey {
    let (named, count) = volume.bad_copies.take();
    let more = count.saturating_sub(named.len() as u64);
    report.damaged |= count > 0;
    report.notes.extend(named);
    if more > 0 {
        report.notes.push(format!("{more} more copies of tree blocks are broken, and have a good mirror"));
    }
    let len = volume.region.len();
    pieces.iter_mut().for_each(|piece| *piece = piece.intersect(Extent::new(0, len)));
    let mut survey = Survey::new(Some(detected.clone()), ExtentSet::from_unsorted(pieces));
    if let Some(detected) = &mut survey.detected {
        detected.state = match () {
            () if report.damaged => State::Damaged,
            () if volume.sb.log_root.is_some() => State::Dirty,
            () => State::Clean,
        };
    }
    survey.usage = Some(usage);
    survey.widened = report.widened;
    survey.notes = report.notes;
    survey.name_slack(volume.sb.dev_total_bytes, volume.region);
    survey
}

/// Returns what lies outside of all chunks: the boot area, the superblocks, and the slack behind the file system.
fn outside(volume: &Volume<'_>) -> Vec<Extent> {
    let len = volume.region.len();
    let mut all = superblock::places(len);
    all.push(Extent::new(0, RESERVED.min(len)));
    all.push(Extent::new(volume.sb.dev_total_bytes, len));
    all
}

/// What is used inside of chunks.
struct Used {
    /// Bytes of the device.
    pieces: Vec<Extent>,
    /// Bytes of the device that the chunks in question lie on.
    chunks: ExtentSet,
    /// What the counters say, every mirror counted.
    bytes: u64,
}

/// Finds what is used inside of chunks, or why that cannot be told.
fn used(volume: &Volume<'_>, roots: &Roots, report: &mut Report) -> Result<Used, String> {
    let sb = &volume.sb;
    if sb.num_devices != 1 {
        return Err(format!("the file system is spread over {} devices", sb.num_devices));
    }
    if volume.is_spread() {
        return Err("some of them are on another device".to_owned());
    }
    if let Some(reason) = report.coarse.take() {
        return Err(reason);
    }
    let Some(tree) = roots.tree(object::EXTENT_TREE) else {
        report.damaged = true;
        let why = roots.lost.as_ref().map_or_else(|| "it is not there".to_owned(), ToString::to_string);
        return Err(format!("the extent tree cannot be found ({why})"));
    };
    let mut extents = Extents::read(volume, tree, roots.tree(object::BLOCK_GROUP_TREE));
    let (runs, min_gap) = std::mem::take(&mut extents.map).finish();
    let doubts = doubts(volume, roots, &extents, report);
    check_totals(volume, &extents, &doubts, report)?;
    report.widened.extend(closed_gaps(min_gap));

    let mut logical = runs;
    if !doubts.is_empty() {
        logical = logical
            .union(&doubts.keys().filter_map(|start| volume.chunks.holding(*start)).map(|c| c.logical).collect());
    }
    if let Some(root) = &sb.log_root {
        let log = log::pieces(volume, root).map_err(|error| format!("the log tree cannot be read: {error}"))?;
        logical = widen(logical, log, "the log tree uses", report);
    }
    let missing = proof::missing(volume, roots, &logical, report);
    if let Some(reason) = report.coarse.take() {
        report.damaged = true;
        return Err(reason);
    }
    report.damaged |= !missing.is_empty();
    logical = widen(logical, missing, "trees and files use and the extent tree calls free", report);
    let older = proof::older(volume, &logical);
    if !older.is_empty() {
        logical = logical.union(&older.into_iter().collect());
    }
    Ok(place(volume, &logical, &extents))
}

/// Adds `more` to `logical` and says how much that was.
fn widen(logical: ExtentSet, more: Vec<Extent>, who: &str, report: &mut Report) -> ExtentSet {
    let more = ExtentSet::from_unsorted(more).subtract(&logical);
    if more.is_empty() {
        return logical;
    }
    report.widened.push(format!("{} that {who} are kept", Bytes(more.total())));
    logical.union(&more)
}

/// Finds the chunks whose extents cannot be believed, and says so.
fn doubts(volume: &Volume<'_>, roots: &Roots, extents: &Extents<'_>, report: &mut Report) -> BTreeMap<u64, Doubt> {
    let free = free_space(volume, roots, report);
    let lost = ExtentSet::from_unsorted(extents.lost.clone());
    let mut doubts = BTreeMap::new();
    for chunk in volume.chunks.iter() {
        if let Some(doubt) = doubt(chunk, extents, &lost, free.as_ref()) {
            doubts.insert(chunk.logical.start, doubt);
        }
    }
    if let Some(error) = &extents.error {
        report.damaged = true;
        report.notes.push(format!("the extent tree is broken: {error}"));
    }
    report.damaged |= !doubts.is_empty();
    let mut by_doubt: BTreeMap<Doubt, Vec<u64>> = BTreeMap::new();
    for (start, doubt) in &doubts {
        by_doubt.entry(*doubt).or_default().push(*start);
    }
    report.widened.extend(by_doubt.iter().map(|(doubt, groups)| blame(*doubt, groups)));
    doubts
}

/// Reads the free-space tree where it is there and says of itself that it is right.
fn free_space<'v>(volume: &'v Volume<'_>, roots: &Roots, report: &mut Report) -> Option<FreeSpace<'v>> {
    let valid = feature::RO_FREE_SPACE_TREE | feature::RO_FREE_SPACE_TREE_VALID;
    let tree = roots.tree(object::FREE_SPACE_TREE).filter(|_| volume.sb.compat_ro & valid == valid)?;
    let free = FreeSpace::read(volume, tree);
    if let Some(error) = &free.error {
        report.damaged = true;
        report.notes.push(format!("the free-space tree is broken: {error}"));
        return None;
    }
    Some(free)
}

fn doubt(chunk: &Chunk, extents: &Extents<'_>, lost: &ExtentSet, free: Option<&FreeSpace<'_>>) -> Option<Doubt> {
    let (start, len) = (chunk.logical.start, chunk.logical.len());
    if lost.within(chunk.logical).next().is_some() {
        return Some(Doubt::Unread);
    }
    if extents.contradictions.contains(&start) {
        return Some(Doubt::Contradiction);
    }
    let Some(group) = extents.groups.get(&start) else { return Some(Doubt::Uncounted) };
    let sum = extents.sums.get(&start).copied().unwrap_or(0);
    match () {
        () if group.len != len => Some(Doubt::Length),
        () if group.used != sum => Some(Doubt::Counter),
        () if free.is_some_and(|free| free.of(start) != len.saturating_sub(sum)) => Some(Doubt::FreeSpace),
        () => None,
    }
}

/// Compares the superblock's counter with the block groups' sum, and looks for extents that are nowhere.
fn check_totals(
    volume: &Volume<'_>,
    extents: &Extents<'_>,
    doubts: &BTreeMap<u64, Doubt>,
    report: &mut Report,
) -> Result<(), String> {
    if extents.strays > 0 {
        report.damaged = true;
        return Err(format!("{} extents are in none of them", extents.strays));
    }
    let sum = extents.groups.values().fold(0u64, |sum, group| sum.saturating_add(group.used));
    let said = volume.sb.bytes_used;
    if sum == said {
        return Ok(());
    }
    report.damaged = true;
    let sentence = format!("the superblock counts {} in use, the block groups {}", Bytes(said), Bytes(sum));
    if said > sum && doubts.is_empty() {
        return Err(sentence);
    }
    report.notes.push(sentence);
    Ok(())
}

/// Finds the places of logical bytes on the device.
fn place(volume: &Volume<'_>, logical: &ExtentSet, extents: &Extents<'_>) -> Used {
    let devid = volume.sb.devid;
    let (mut pieces, mut chunks, mut bytes) = (Vec::new(), Vec::new(), 0u64);
    for chunk in volume.chunks.iter() {
        let mirrors = chunk.on_device(devid).count() as u64;
        let used = extents.groups.get(&chunk.logical.start).map_or(0, |group| group.used);
        bytes = bytes.saturating_add(used.saturating_mul(mirrors));
        chunks.extend(chunk.on_device(devid));
        if chunk.is_mirrored() {
            pieces.extend(logical.within(chunk.logical).flat_map(|run| chunk.places(devid, run)));
        } else {
            pieces.extend(chunk.on_device(devid));
        }
    }
    Used { pieces, chunks: ExtentSet::from_unsorted(chunks), bytes }
}

/// Says which block groups are kept whole and why, without a line for each of thousands.
fn blame(doubt: Doubt, groups: &[u64]) -> String {
    let mut out = String::from(if groups.len() == 1 { "the block group" } else { "the block groups" });
    for (index, start) in groups.iter().take(8).enumerate() {
        let _ = write!(out, "{} {start:#x}", if index == 0 { " at" } else { "," });
    }
    if groups.len() > 8 {
        let _ = write!(out, " and {} more", groups.len().saturating_sub(8));
    }
    let _ = write!(out, " kept whole: {}", doubt.sentence());
    out
}

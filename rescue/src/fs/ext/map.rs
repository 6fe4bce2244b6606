//! From bitmaps to the allocation map, one group at a time.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Volume, Whole,
    groups::{BLOCK_UNINIT, Descriptor},
    journal::Log,
    superblock::feature,
    swapfile, unused, walk,
};
use crate::{
    extent::{Extent, ExtentSet},
    fs::{
        Detected, Options, State, Survey, Usage,
        map::{self, MapBuilder, runs_of_ones},
        reader::SmallReader,
    },
};

/// Why all blocks of a group are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Descriptor,
    Unreadable,
    Checksum,
    Counter,
    Metadata,
}

impl Doubt {
    const fn sentence(self) -> &'static str {
        match self {
            Self::Descriptor => "the descriptor's checksum is wrong",
            Self::Unreadable => "the block bitmap cannot be read",
            Self::Checksum => "the block bitmap's checksum is wrong",
            Self::Counter => "the block bitmap and the free count of its descriptor disagree",
            Self::Metadata => "the block bitmap calls the file system's own structures free",
        }
    }
}

/// Builds the map of `volume`; `log` holds what its journal would still change.
pub(super) fn build(volume: &Volume<'_>, log: &Log, detected: &Detected, options: &Options) -> Result<Survey, Whole> {
    let geometry = &volume.geometry;
    let mut builder = MapBuilder::new();
    let mut doubts: BTreeMap<Doubt, Vec<u64>> = BTreeMap::new();
    let mut bitmaps = Bitmaps { volume, log, reader: SmallReader::new(volume.region) };
    let mut free_clusters = 0u64;
    for (group, desc) in (0u64..).zip(&volume.groups.descriptors) {
        let window = geometry.bytes(geometry.group_start(group), geometry.group_end(group));
        match bitmaps.used(group, desc) {
            Ok(used) => used.iter().for_each(|run| builder.insert(run.intersect(window))),
            Err(doubt) => {
                builder.insert(window);
                doubts.entry(doubt).or_default().push(group);
            }
        }
        free_clusters = free_clusters.saturating_add(u64::from(desc.free_clusters));
    }
    let (bits, min_gap) = builder.finish();
    let allocated = bits.union(&volume.groups.metadata).union(&log.targets).union(&outside(volume));
    let mut survey = Survey::new(Some(detected.clone()), allocated);
    survey.widened = doubts.iter().map(|(doubt, groups)| blame(*doubt, groups)).collect();
    survey.widened.extend(map::closed_gaps(min_gap));
    survey.widened.extend(log.widened.iter().cloned());
    if let (false, Some(detected)) = (doubts.is_empty(), &mut survey.detected) {
        detected.state = State::Damaged;
    }
    check_total(volume, free_clusters.saturating_mul(geometry.cluster_ratio), &mut survey)?;
    survey.usage = Some(usage(volume, free_clusters));
    survey.name_slack(geometry.bytes(0, geometry.blocks).end, volume.region);
    if let Some(reason) = volume.suspect {
        survey.notes.push(format!("{reason}; every file was compared with them"));
    }
    let mut swap = swapfile::find(volume, log, options, &survey);
    let walked = walk::unite(volume, log.is_empty(), &mut swap, &mut survey)?;
    swap.leave_out(volume, walked.all_listed, &mut survey);
    let clean = survey.detected.as_ref().is_some_and(|detected| detected.state == State::Clean);
    if log.is_empty() && clean && walked.all_listed {
        survey.zeros = unused::zeros(volume, &walked.traces).subtract(&outside(volume));
    }
    Ok(survey)
}

/// Returns what the group descriptors count.
fn usage(volume: &Volume<'_>, free_clusters: u64) -> Usage {
    let geometry = &volume.geometry;
    // The last cluster may be cut short, and be free.
    let free = free_clusters.saturating_mul(geometry.cluster_ratio).min(geometry.blocks);
    let bytes = |blocks: u64| blocks.saturating_mul(geometry.block_size);
    Usage { used: bytes(geometry.blocks.saturating_sub(free)), free: bytes(free) }
}

/// Compares the superblock's free count with the descriptors' sum. A journal that is not replayed explains any.
fn check_total(volume: &Volume<'_>, free: u64, survey: &mut Survey) -> Result<(), Whole> {
    let said = volume.sb.s_free_blocks_count;
    if volume.sb.has_incompat(feature::INCOMPAT_RECOVER) || said == free {
        return Ok(());
    }
    if said < free {
        // The superblock knows of used blocks that no group does.
        return Err(Whole::damaged(format_args!("the superblock counts {said} free blocks, the groups {free}")));
    }
    survey.notes.push(format!("the superblock counts {said} free blocks, the groups {free}; the groups are believed"));
    Ok(())
}

/// Returns what lies before the first group and behind the last: the boot block, and the slack of the partition.
fn outside(volume: &Volume<'_>) -> ExtentSet {
    let geometry = &volume.geometry;
    let boot = Extent::new(0, 2048.max(geometry.bytes(0, geometry.first_block).end))
        .intersect(Extent::new(0, volume.region.len()));
    let mut set = ExtentSet::from(boot);
    set.insert(Extent::new(geometry.bytes(0, geometry.blocks).end, volume.region.len()));
    // What tells other machines that it is mounted is reached from the superblock alone.
    let mmp = volume.sb.s_mmp_block;
    if volume.sb.has_incompat(feature::INCOMPAT_MMP) && volume.holds(mmp, 1) {
        set.insert(geometry.bytes(mmp, mmp.saturating_add(1)));
    }
    set
}

/// Says which groups are kept whole and why, without a line for each of thousands.
fn blame(doubt: Doubt, groups: &[u64]) -> String {
    let mut out = String::from(if groups.len() == 1 { "group" } else { "groups" });
    for (index, group) in groups.iter().take(8).enumerate() {
        let _ = write!(out, "{} {group}", if index == 0 { "" } else { "," });
    }
    if groups.len() > 8 {
        let _ = write!(out, " and {} more", groups.len().saturating_sub(8));
    }
    let _ = write!(out, " kept whole: {}", doubt.sentence());
    out
}

struct Bitmaps<'v, 'a> {
    volume: &'v Volume<'a>,
    log: &'v Log,
    reader: SmallReader<'a>,
}

impl Bitmaps<'_, '_> {
    /// Returns the bytes of `group` that are in use, or why that cannot be told.
    fn used(&mut self, group: u64, desc: &Descriptor) -> Result<ExtentSet, Doubt> {
        if !desc.intact {
            return Err(Doubt::Descriptor);
        }
        let pending = self.log.group(group);
        let uninit = desc.flags & BLOCK_UNINIT != 0 && pending.is_none_or(|pending| !pending.initialised);
        let has_copies = self.log.has_copies(desc.block_bitmap);
        let mut set = if uninit && !has_copies {
            self.without_bitmap(group)
        } else {
            let mut bitmap = vec![0; self.volume.block_len()];
            if !uninit {
                self.on_disk(desc, &mut bitmap)?;
            }
            self.log.unite(self.volume.region, desc.block_bitmap, &mut bitmap).map_err(|_| Doubt::Unreadable)?;
            self.runs(group, &bitmap)
        };
        if has_copies {
            // What a copy calls free may still be in use by the transactions before it; uninitialised metadata as well.
            set = set.union(&self.without_bitmap(group));
        } else {
            self.check(group, desc, &set, pending.is_some())?;
        }
        Ok(set)
    }

    fn on_disk(&mut self, desc: &Descriptor, bitmap: &mut [u8]) -> Result<(), Doubt> {
        let bytes = self.volume.block(&mut self.reader, desc.block_bitmap).map_err(|_| Doubt::Unreadable)?;
        bitmap.copy_from_slice(bytes);
        let clusters = self.volume.geometry.clusters_per_group();
        let fits = |desc: &Descriptor| self.volume.format.bitmap_intact(bitmap, clusters, desc);
        // Bitmaps and descriptors reach the disk at different times; the journal has the descriptors between.
        let pending = self.log.descriptors_at(desc.block_bitmap);
        if fits(desc) || pending.iter().any(fits) { Ok(()) } else { Err(Doubt::Checksum) }
    }

    /// Checks a bitmap against its descriptor's count and the structures that must be in it.
    fn check(&self, group: u64, desc: &Descriptor, set: &ExtentSet, counts_pending: bool) -> Result<(), Doubt> {
        let geometry = &self.volume.geometry;
        let window = geometry.bytes(geometry.group_start(group), geometry.group_end(group));
        let cluster = geometry.block_size.saturating_mul(geometry.cluster_ratio);
        let used = set.iter().fold(0u64, |sum, run| sum.saturating_add(run.len().div_ceil(cluster)));
        let free = geometry.clusters_in(group).saturating_sub(used);
        if !counts_pending && free != u64::from(desc.free_clusters) {
            return Err(Doubt::Counter);
        }
        let own = self.volume.groups.metadata.within(window).all(|extent| set.covers(extent));
        if own { Ok(()) } else { Err(Doubt::Metadata) }
    }

    /// Returns what is in use in a group whose bitmap was never written.
    fn without_bitmap(&self, group: u64) -> ExtentSet {
        let geometry = &self.volume.geometry;
        let (start, end) = (geometry.group_start(group), geometry.group_end(group));
        let window = geometry.bytes(start, end);
        let cluster = geometry.block_size.saturating_mul(geometry.cluster_ratio).max(1);
        let mut set = ExtentSet::new();
        for extent in self.volume.groups.metadata.within(window) {
            let from = extent.start.saturating_sub(window.start).checked_div(cluster).unwrap_or(0);
            let to = extent.end.saturating_sub(window.start).div_ceil(cluster);
            set.insert(clusters(window, cluster, from, to));
        }
        set
    }

    fn runs(&self, group: u64, bitmap: &[u8]) -> ExtentSet {
        let geometry = &self.volume.geometry;
        let window = geometry.bytes(geometry.group_start(group), geometry.group_end(group));
        let cluster = geometry.block_size.saturating_mul(geometry.cluster_ratio);
        let mut set = ExtentSet::new();
        runs_of_ones(bitmap, geometry.clusters_in(group), |from, to| set.insert(clusters(window, cluster, from, to)));
        set
    }
}

/// Returns the bytes of clusters `from..to` of a group; the last cluster may be cut short by the end of the group.
fn clusters(window: Extent, cluster: u64, from: u64, to: u64) -> Extent {
    let at = |number: u64| window.start.saturating_add(number.saturating_mul(cluster)).min(window.end);
    Extent::new(at(from), at(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_groups_are_blamed_in_one_line() {
        assert_eq!(
            blame(Doubt::Counter, &[3]).as_str(),
            "group 3 kept whole: the block bitmap and the free count of its descriptor disagree"
        );
        let many = blame(Doubt::Checksum, &(0..20).collect::<Vec<_>>());
        assert_eq!(many, "groups 0, 1, 2, 3, 4, 5, 6, 7 and 12 more kept whole: the block bitmap's checksum is wrong");
    }
}

//! FAT12, FAT16 and FAT32: the allocation map from every copy of the FAT, checked against the directories.

pub mod bpb;
pub mod table;
pub mod walk;

use super::{
    Detected, State, Survey, Usage,
    map::{self, MapBuilder, runs_of_ones},
};
use crate::{
    block::ReadAt,
    extent::{Extent, ExtentSet},
};
use bpb::{Bpb, Kind};
use walk::Doubt;

/// Names the FAT file system in `region`.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let bpb = read_bpb(region).ok()?;
    let dirty = bpb.dirty || table::says_dirty(region, &bpb).unwrap_or(false);
    Some(Detected {
        name: "vfat".to_owned(),
        version: Some(bpb.kind.name().to_owned()),
        label: walk::label(region, &bpb),
        uuid: bpb.serial.map(|serial| format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)),
        block_size: u32::try_from(bpb.cluster).ok(),
        state: if dirty { State::Dirty } else { State::Clean },
    })
}

fn read_bpb(region: &dyn ReadAt) -> Result<Bpb, String> {
    let mut sector = [0; 512];
    region.read_exact_at(&mut sector, 0).map_err(|error| format!("the boot sector cannot be read: {error}"))?;
    Bpb::parse(&sector).map_err(|error| format!("the boot sector is broken: {error}"))
}

/// Finds the bytes of the FAT file system in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, mut detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(reason) => {
            detected.state = State::Damaged;
            Survey::whole(region.len(), Some(detected), format_args!("kept whole: {reason}"))
        }
    }
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, String> {
    let bpb = read_bpb(region)?;
    if bpb.len > region.len() {
        return Err(format!("the file system is {} bytes long, its region {}", bpb.len, region.len()));
    }
    if !bpb.mirrored && bpb.active >= bpb.fats {
        return Err(format!("FAT {} is in use, there are {}", bpb.active, bpb.fats));
    }
    if let Some(named) = bpb.named.filter(|named| *named != bpb.kind) {
        // Drivers go by the number of clusters, but whoever made it may not have, as on an Atari.
        return Err(format!("it calls itself {} and has as many clusters as {}", named.name(), bpb.kind.name()));
    }
    check_places(region, &bpb)?;
    let mut table = table::read(region, &bpb).map_err(|error| format!("the FAT cannot be read: {error}"))?;
    let mut survey = Survey::new(Some(detected.clone()), ExtentSet::new());
    let behind = match walk::check(region, &bpb, &table) {
        Ok(behind) => behind,
        Err(Doubt::Damage(reason)) => return Err(reason),
        // Nothing contradicts the FAT, but nothing vouches for it either.
        Err(Doubt::TooMany) => {
            let reason = "kept whole: it has more directories than are compared with the FAT";
            return Ok(Survey::whole(region.len(), Some(detected.clone()), reason));
        }
    };
    let count = behind.into_iter().filter(|cluster| table.keep(u64::from(*cluster))).count();
    if count > 0 {
        survey.widened.push(format!("{count} free clusters are named behind the end of a directory, and are kept"));
    }
    let mut builder = MapBuilder::new();
    builder.insert(Extent::new(0, bpb.data_offset));
    runs_of_ones(&table.used, bpb.clusters, |from, to| {
        let at = |index: u64| bpb.data_offset.saturating_add(index.saturating_mul(bpb.cluster));
        builder.insert(Extent::new(at(from), at(to)));
    });
    // Behind the last cluster with an entry lie clusters without one, and the slack of the partition.
    builder.insert(Extent::new(bpb.data_offset.saturating_add(bpb.clusters.saturating_mul(bpb.cluster)), region.len()));
    let (allocated, min_gap) = builder.finish();
    survey.allocated = allocated;
    survey.widened.extend(map::closed_gaps(min_gap));
    survey.name_slack(bpb.len, region);
    remark(region, &bpb, &table, &mut survey);
    Ok(survey)
}

/// Checks that the boot sector leads to FATs, and that its copy agrees: a wrong one would shift every cluster.
fn check_places(region: &dyn ReadAt, bpb: &Bpb) -> Result<(), String> {
    let media = table::media(region, bpb).map_err(|error| format!("the FAT cannot be read: {error}"))?;
    if media.is_none() {
        return Err("the FAT does not begin with a media byte".to_owned());
    }
    if matches!(bpb.backup, 0 | 0xffff) {
        return Ok(());
    }
    let mut sector = [0; 512];
    region
        .read_exact_at(&mut sector, bpb.backup.saturating_mul(bpb.sector))
        .map_err(|error| format!("the copy of the boot sector cannot be read: {error}"))?;
    match Bpb::parse(&sector) {
        Ok(copy) if copy.same_places(bpb) => Ok(()),
        Ok(_) => Err("the boot sector and its copy disagree".to_owned()),
        Err(error) => Err(format!("the copy of the boot sector is broken: {error}")),
    }
}

fn remark(region: &dyn ReadAt, bpb: &Bpb, table: &table::Table, survey: &mut Survey) {
    if bpb.clusters_without_entry > 0 {
        survey.widened.push(format!("{} clusters have no entry in the FAT and are kept", bpb.clusters_without_entry));
    }
    if table.differing > 0 {
        let count = table.differing;
        survey.widened.push(if bpb.mirrored {
            format!("the copies of the FAT differ in {count} entries; what any of them calls used is kept")
        } else {
            format!("FAT {} alone is in use, others differ in {count} entries; what any calls used is kept", bpb.active)
        });
        if bpb.mirrored {
            survey.detected.iter_mut().for_each(|detected| detected.state = State::Damaged);
        }
    }
    if table.dangling > 0 {
        survey.widened.push(format!("{} free clusters follow in chains, and are kept", table.dangling));
        survey.detected.iter_mut().for_each(|detected| detected.state = State::Damaged);
    }
    let bytes = |clusters: u64| clusters.saturating_mul(bpb.cluster);
    survey.usage = Some(Usage { used: bytes(bpb.clusters.saturating_sub(table.free)), free: bytes(table.free) });
    if table.bad > 0 {
        let bad = table.bad;
        survey.notes.push(format!("{bad} clusters are marked bad; no file is in them, and they are not kept"));
    }
    if survey.detected.as_ref().is_some_and(|detected| detected.state == State::Dirty) {
        survey.notes.push("it was not unmounted in order, or a disk error was seen".to_owned());
    }
    let said = table::fsinfo_free(region, bpb).filter(|said| bpb.kind == Kind::Fat32 && *said != table.free);
    if let Some(said) = said {
        survey.notes.push(format!("FSInfo counts {said} free clusters, the FAT {}; the FAT is believed", table.free));
    }
}

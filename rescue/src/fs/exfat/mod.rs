//! exFAT: the allocation map from every copy of the allocation bitmap, united with the directory tree.
//!
//! The bitmap says which clusters are in use; the tree is walked to see whether it can be believed. Where boot regions,
//! chains, entry sets or claims contradict each other, everything is kept.

pub mod bitmap;
pub mod boot;
pub mod claims;
pub mod entries;
pub mod fat;
pub mod walk;

use super::{
    Detected, State, Survey, Usage,
    map::{self, MapBuilder},
};
use crate::{
    block::ReadAt,
    extent::{Extent, ExtentSet},
    fs::checked::right,
    units::Bytes,
};
use bitmap::Content;
use boot::Boot;
use fat::{Links, Place};
use walk::{Doubt, Root, Walk};

/// The longest up-case table: 65536 characters of two bytes.
const MAX_UPCASE: u64 = 131_072;
/// Bytes of the FATs compared at once.
const STEP: u64 = 256 << 10;

/// Finds the bytes of the exFAT file system in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, mut detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(doubt) => {
            let reason = match doubt {
                Doubt::Damage(reason) => {
                    detected.state = State::Damaged;
                    reason
                }
                Doubt::Unknown(reason) => reason,
                Doubt::TooMany => "it has more directories and fragments than are compared with the bitmap".to_owned(),
            };
            Survey::whole(region.len(), Some(detected), format_args!("kept whole: {reason}"))
        }
    }
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, Doubt> {
    let mut notes = Vec::new();
    let boot = read_boot(region, &mut notes)?;
    if boot.len > region.len() {
        return damage(format!("the file system is {} bytes long, its region {}", boot.len, region.len()));
    }
    let root = Walk::new(region, &boot, boot.active).root()?;
    let places = bitmaps(&boot, &root)?;
    let mut links = Links::new(region, &boot, boot.active);
    // What a bitmap has beyond its last cluster is nobody's; how much that is need not be true.
    let contents = places.iter().map(|place| Place { len: boot.clusters.div_ceil(8), ..*place });
    let contents = contents.map(|place| Content::find(&mut links, &boot, &place)).collect::<Result<Vec<_>, _>>();
    let contents = contents.map_err(|error| Doubt::Damage(format!("of the allocation bitmap: {error}")))?;
    let upcase = check_upcase(region, &boot, &mut links, &root)?;

    let mut builder = MapBuilder::new();
    builder.insert(Extent::new(0, boot.heap_offset));
    let count = bitmap::unite(region, &boot, &contents, &mut builder)
        .map_err(|error| Doubt::Damage(format!("the allocation bitmap cannot be read: {error}")))?;
    // Behind the last cluster lie the rest of the volume and the slack of the partition.
    builder.insert(Extent::new(boot.heap_end(), region.len()));
    let (bits, min_gap) = builder.finish();
    let differing = differing_links(region, &boot)?;
    let mut missing = Walk::new(region, &boot, 0).tree(&bits)?;
    if differing > 0 {
        missing = missing.union(&Walk::new(region, &boot, 1).tree(&bits)?);
    }
    // Drivers read these tables in one run from their first cluster, chain or not.
    let tables = places.iter().chain([&upcase]).map(|place| unchained(&boot, place)).collect();
    let mut survey = Survey::new(Some(detected.clone()), bits.union(&missing).union(&tables));
    survey.usage = Some(Usage {
        used: count.used.saturating_mul(boot.cluster),
        free: boot.clusters.saturating_sub(count.used).saturating_mul(boot.cluster),
    });
    survey.notes = notes;
    survey.widened.extend(map::closed_gaps(min_gap));
    survey.name_slack(boot.len, region);
    remark(&boot, &count, differing, &missing, &mut survey);
    Ok(survey)
}

fn damage<T>(reason: String) -> Result<T, Doubt> {
    Err(Doubt::Damage(reason))
}

/// Reads the main boot region and compares it with its backup. A main region with the right checksum is believed
/// though its backup is broken; two that are both right and lead to different places are not.
fn read_boot(region: &dyn ReadAt, notes: &mut Vec<String>) -> Result<Boot, Doubt> {
    let mut sector = [0; 512];
    let read = region.read_exact_at(&mut sector, 0);
    read.map_err(|error| Doubt::Damage(format!("the boot sector cannot be read: {error}")))?;
    let boot = Boot::parse(&sector).map_err(|error| match error {
        boot::Error::Field { field: "major revision", .. } => Doubt::Unknown(error.to_string()),
        _ => Doubt::Damage(format!("the boot sector is broken: {error}")),
    })?;
    let len = boot.sector.saturating_mul(boot::SECTORS);
    let copy_at = |offset| -> Result<Boot, String> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        region.read_exact_at(&mut bytes, offset).map_err(|error| error.to_string())?;
        boot::check_region(&bytes, boot.sector).map_err(|error| error.to_string())?;
        Boot::parse(&bytes).map_err(|error| error.to_string())
    };
    copy_at(0).map_err(|error| Doubt::Damage(format!("the boot region is broken: {error}")))?;
    match copy_at(len) {
        Ok(copy) if copy.same_places(&boot) => {}
        Ok(_) => return damage("the boot region and its backup disagree".to_owned()),
        Err(error) => notes.push(format!("the backup boot region is broken: {error}; the main one is believed")),
    }
    Ok(boot)
}

/// Picks the bitmaps the volume must have, the one that counts first.
fn bitmaps(boot: &Boot, root: &Root) -> Result<Vec<Place>, Doubt> {
    let [first, second] = root.bitmaps;
    let found = match (boot.fats, first, second, boot.active) {
        (1, Some(first), None, _) => vec![first],
        (2, Some(first), Some(second), 0) => vec![first, second],
        (2, Some(first), Some(second), _) => vec![second, first],
        _ => {
            let count = usize::from(first.is_some()).saturating_add(usize::from(second.is_some()));
            return damage(format!("it has {} FATs and {count} allocation bitmaps", boot.fats));
        }
    };
    let need = boot.clusters.div_ceil(8);
    match found.iter().find(|place| place.len < need) {
        Some(short) => damage(format!("the allocation bitmap is {} bytes long, not {need}", short.len)),
        None => Ok(found),
    }
}

/// Checks the up-case table: without it no name is found, so that nothing else is worth believing.
fn check_upcase(region: &dyn ReadAt, boot: &Boot, links: &mut Links<'_>, root: &Root) -> Result<Place, Doubt> {
    let Some((stored, place)) = root.upcase else { return damage("it has no up-case table".to_owned()) };
    if place.len == 0 || place.len > MAX_UPCASE {
        return damage(format!("the up-case table is {} bytes long", place.len));
    }
    let mut bytes = vec![0; usize::try_from(place.len).unwrap_or(0)];
    let content = Content::find(links, boot, &place);
    let content = content.map_err(|error| Doubt::Damage(format!("of the up-case table: {error}")))?;
    let read = content.read(region, 0, &mut bytes);
    read.map_err(|error| Doubt::Damage(format!("the up-case table cannot be read: {error}")))?;
    let computed = bytes.iter().fold(0u32, |sum, byte| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
    if !right(computed == stored) {
        return damage(format!("the up-case table's checksum is {stored:#010x}, its bytes give {computed:#010x}"));
    }
    Ok(place)
}

/// Returns the bytes of a table as if it lay in one run, clipped to the clusters there are.
fn unchained(boot: &Boot, place: &Place) -> Extent {
    let start = boot.cluster_offset(place.first).unwrap_or_else(|| boot.heap_end());
    let end = start.saturating_add(place.len.div_ceil(boot.cluster).saturating_mul(boot.cluster));
    Extent::new(start, end.min(boot.heap_end()))
}

/// Counts the links that are not the same in both FATs of TexFAT.
fn differing_links(region: &dyn ReadAt, boot: &Boot) -> Result<u64, Doubt> {
    let mut differing = 0u64;
    let len = boot.clusters.saturating_add(2).saturating_mul(4);
    let mut at = if boot.fats == 2 { 0 } else { len };
    while at < len {
        let step = usize::try_from(STEP.min(len.saturating_sub(at))).unwrap_or(0);
        let (mut one, mut other) = (vec![0; step], vec![0; step]);
        let first = boot.fat_offset.saturating_add(at);
        let read = region.read_exact_at(&mut one, first);
        read.and_then(|()| region.read_exact_at(&mut other, first.saturating_add(boot.fat_len)))
            .map_err(|error| Doubt::Damage(format!("the FAT cannot be read: {error}")))?;
        let pairs = one.as_chunks::<4>().0.iter().zip(other.as_chunks::<4>().0);
        differing = differing.saturating_add(pairs.filter(|(one, other)| one != other).count() as u64);
        at = at.saturating_add(STEP);
    }
    Ok(differing)
}

fn remark(boot: &Boot, count: &bitmap::Count, links: u64, missing: &ExtentSet, survey: &mut Survey) {
    if count.differing > 0 {
        survey.widened.push(format!(
            "the two allocation bitmaps differ in {} clusters; what either calls used is kept",
            count.differing
        ));
    }
    if links > 0 {
        survey.widened.push(format!("the two FATs differ in {links} links; what either leads to is kept"));
    }
    if !missing.is_empty() {
        let bytes = Bytes(missing.total());
        survey.widened.push(format!("{bytes} that files use are free in the allocation bitmap, and kept"));
        // A volume in use may have written its directories and not yet its bitmap.
        let surprise = survey.detected.iter_mut().filter(|detected| detected.state == State::Clean);
        surprise.for_each(|detected| detected.state = State::Damaged);
    }
    if boot.dirty {
        survey.notes.push("it was not unmounted in order".to_owned());
    }
    if boot.failed {
        survey.notes.push("it says of itself that its medium had failures".to_owned());
    }
}

//! LVM2 physical volumes: free extents are dropped, and linear logical volumes are looked into.
//!
//! ```text
//! | label, header | metadata | extent 0 | extent 1 | ...        | slack | metadata (where there are two areas) |
//!                            ^ pe_start
//! ```
//!
//! Kept whole are the extents of whatever is not one linear, visible logical volume wholly on this physical volume, or
//! is a part of something else: what a snapshot is made of is read through the snapshot as well, where the file system
//! in it knows nothing of what is still needed. Everything that is no extent is kept. Whatever in label, header or
//! metadata is broken, unknown or contradictory keeps the physical volume whole.
//!
//! Source: LVM2, lib/format_text, lib/metadata.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod area;
mod group;
mod label;
mod text;

use area::Held;
use group::{Group, Logical};

use super::{
    Detected, Options, State, Survey, Usage,
    mapped::Mapped,
    nested::{Depth, Gathered, names},
};
use crate::{
    block::ReadAt,
    escape::Escaped,
    extent::{Extent, ExtentSet},
    units::MIB,
};

/// Names the physical volume in `region`.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let (version, uuid) = label::name(region)?;
    let state = if label::find(region).is_ok() { State::Unknown } else { State::Damaged };
    Some(Detected { name: "LVM2_member".to_owned(), version, label: None, uuid, block_size: None, state })
}

/// Why a physical volume is kept whole.
#[derive(Debug)]
struct Whole {
    reason: String,
    damaged: bool,
}

fn damaged(reason: impl std::fmt::Display) -> Whole {
    Whole { reason: format!("kept whole: {reason}"), damaged: true }
}

fn because(reason: impl std::fmt::Display) -> Whole {
    Whole { reason: format!("kept whole: {reason}"), damaged: false }
}

/// A physical volume whose metadata is understood.
struct Open {
    group: Group,
    /// Which of the group's physical volumes it is.
    this: usize,
    /// The bytes of all its extents.
    extents: Extent,
    /// Bytes in use, by logical volume: its place in the group, and each run of extents.
    used: Vec<(usize, Extent)>,
}

/// Returns the bytes in which signatures are those of logical volumes, where the physical volume in `region` is sound.
///
/// Formats have theirs in the first MiB of a region or at its end. In the first MiB it is that of whatever was made last,
/// which need not be the physical volume, even where that has extents there.
pub(super) fn given(region: &dyn ReadAt) -> Option<ExtentSet> {
    let extents = open(region).ok()?.extents;
    Some(ExtentSet::from(Extent::new(extents.start.max(MIB), extents.end)))
}

/// Finds the bytes of the physical volume in `region` that must be kept.
pub(super) fn survey(region: &dyn ReadAt, mut detected: Detected, options: &Options, depth: &Depth<'_>) -> Survey {
    match open(region) {
        Ok(open) => {
            detected.state = State::Clean;
            open.survey(region, detected, options, depth)
        }
        Err(whole) => {
            if whole.damaged {
                detected.state = State::Damaged;
            }
            Survey::whole(region.len(), Some(detected), whole.reason)
        }
    }
}

fn open(region: &dyn ReadAt) -> Result<Open, Whole> {
    let label = label::find(region).map_err(damaged)?;
    if label.version != "LVM2 001" {
        return Err(because(format_args!("{} is not read yet", Escaped(&label.version))));
    }
    let text = metadata(region, &label)?;
    let text = String::from_utf8_lossy(&text);
    let root = text::parse(&text).map_err(|error| because(format_args!("its metadata is not understood: {error}")))?;
    let group = group::read(&root).map_err(because)?;
    let mut same = group.physical.iter().enumerate().filter(|(_, pv)| pv.uuid == label.uuid);
    let (Some((this, pv)), None) = (same.next(), same.next()) else {
        return Err(because(format_args!("its volume group {} does not list it", Escaped(&group.name))));
    };
    if pv.missing {
        return Err(because(format_args!(
            "the volume group {} was changed while it was missing",
            Escaped(&group.name)
        )));
    }
    let len = pv.extents.checked_mul(group.extent_len);
    let extents = len.and_then(|len| Extent::with_len(pv.start, len)).filter(|extents| extents.end <= region.len());
    let extents = extents.ok_or_else(|| {
        let (have, each) = (region.len(), group.extent_len);
        because(format_args!(
            "its {} extents of {each} bytes from byte {:#x} on leave its {have} bytes",
            pv.extents, pv.start
        ))
    })?;
    let outside = label.metadata.iter().find(|area| area.overlaps(extents)).copied();
    if let Some(area) = outside.or_else(|| (pv.start < 4 * label::SECTOR).then_some(extents)) {
        return Err(damaged(format_args!("its metadata at {area} lies in its extents")));
    }
    let used = used(&group, this, extents).map_err(damaged)?;
    Ok(Open { group, this, extents, used })
}

/// Returns the metadata in force; every copy that counts must be sound and the same.
fn metadata(region: &dyn ReadAt, label: &label::Label) -> Result<Vec<u8>, Whole> {
    let mut found: Option<Vec<u8>> = None;
    let (mut nothing, mut ignored) = (false, false);
    for area in &label.metadata {
        let held = area::read(region, *area)
            .map_err(|what| damaged(format_args!("the metadata area at byte {:#x} {what}", area.start)))?;
        match held {
            Held::Ignored => ignored = true,
            Held::Nothing => nothing = true,
            Held::Committing => return Err(because("a change of its volume group was not finished")),
            Held::Text(text) if found.as_ref().is_some_and(|other| *other != text) => {
                return Err(because("its two copies of the metadata differ"));
            }
            Held::Text(text) => found = Some(text),
        }
    }
    match found {
        Some(_) if nothing => Err(because("one of its metadata areas is empty")),
        Some(text) => Ok(text),
        None if nothing && !ignored => Err(because("it is in no volume group")),
        None => Err(because("the metadata of its volume group is on other disks")),
    }
}

/// Lists the runs of bytes that logical volumes use of a physical volume, in the order of the volumes.
fn used(group: &Group, this: usize, extents: Extent) -> Result<Vec<(usize, Extent)>, String> {
    let mut used = Vec::new();
    for (index, volume) in group.logical.iter().enumerate() {
        let areas = volume.segments.iter().flat_map(|segment| &segment.areas).filter(|area| area.physical == this);
        for area in areas {
            let bytes = |count: u64| count.checked_mul(group.extent_len);
            let start = bytes(area.first).and_then(|offset| extents.start.checked_add(offset));
            let run = start.zip(bytes(area.extents)).and_then(|(start, len)| Extent::with_len(start, len));
            let run = run.filter(|run| extents.covers(*run));
            used.push((
                index,
                run.ok_or_else(|| format!("logical volume {} lies beyond its extents", Escaped(&volume.name)))?,
            ));
        }
    }
    let mut sorted = used.iter().collect::<Vec<_>>();
    sorted.sort_unstable_by_key(|(_, run)| *run);
    let name = |index: usize| group.logical.get(index).map_or("", |volume| volume.name.as_str());
    match sorted.iter().zip(sorted.iter().skip(1)).find(|(a, b)| a.1.overlaps(b.1)) {
        Some((a, b)) => {
            let (a, b) = (Escaped(name(a.0)).to_string(), Escaped(name(b.0)).to_string());
            Err(format!("the logical volumes {a} and {b} lie on the same extents"))
        }
        None => Ok(used),
    }
}

/// Logical volumes that are kept whole, by reason.
#[derive(Default)]
struct KeptWhole {
    parts: Vec<String>,
    not_linear: Vec<String>,
    elsewhere: Vec<String>,
}

impl Open {
    fn survey(&self, region: &dyn ReadAt, mut detected: Detected, options: &Options, depth: &Depth<'_>) -> Survey {
        detected.block_size = u32::try_from(self.group.extent_len).ok();
        let mut gathered = Gathered::new(detected);
        let mut kept = ExtentSet::full(region.len());
        kept.remove(self.extents);
        gathered.keep(&kept);
        let mut whole = KeptWhole::default();
        // The runs of one volume follow each other.
        for runs in self.used.chunk_by(|a, b| a.0 == b.0) {
            let Some(volume) = runs.first().and_then(|(index, _)| self.group.logical.get(*index)) else { continue };
            let runs = runs.iter().map(|(_, run)| *run).collect::<Vec<_>>();
            let name = format!("{}/{}", self.group.name, volume.name);
            if let Some(mapped) = self.simple(volume, &mut whole).then(|| Mapped::new(region, &runs).ok()).flatten() {
                let what = format!("logical volume {}", Escaped(&volume.name));
                gathered.look_into(&what, &name, &mapped, options, depth);
            } else {
                let runs = ExtentSet::from_unsorted(runs);
                gathered.list(&name, volume.extents.saturating_mul(self.group.extent_len), runs.total());
                gathered.keep(&runs);
            }
        }
        self.remark(&whole, &mut gathered);
        let used = self.used.iter().map(|(_, run)| run.len()).fold(0, u64::saturating_add);
        let mut survey = gathered.finish();
        survey.usage = Some(Usage { used, free: self.extents.len().saturating_sub(used) });
        survey
    }

    /// Tells whether `volume` is nothing but a row of extents here; where it is not, says in `whole` why.
    fn simple(&self, volume: &Logical, whole: &mut KeptWhole) -> bool {
        let here = |segment: &group::Segment| segment.areas.iter().all(|area| area.physical == self.this);
        let list = if volume.part_of_other || !volume.plain {
            &mut whole.parts
        } else if !volume.segments.iter().all(|segment| segment.linear) {
            &mut whole.not_linear
        } else if !volume.segments.iter().all(here) {
            &mut whole.elsewhere
        } else {
            return true;
        };
        let other = volume.segments.iter().find(|segment| !segment.linear);
        list.push(other.map_or_else(|| volume.name.clone(), |segment| format!("{} ({})", volume.name, segment.kind)));
        false
    }

    fn remark(&self, whole: &KeptWhole, gathered: &mut Gathered) {
        for (list, why) in [
            (&whole.parts, "other volumes are made of them, or they are hidden"),
            (&whole.not_linear, "they are not linear"),
            (&whole.elsewhere, "they lie partly on other disks"),
        ] {
            if !list.is_empty() {
                gathered.widened(format!("logical volumes kept whole because {why}: {}", names(list)));
            }
        }
        let (name, count) = (Escaped(&self.group.name), self.group.physical.len());
        if count > 1 {
            gathered.note(format!(
                "it is one of {count} physical volumes of the volume group {name}; the others belong with it"
            ));
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests;

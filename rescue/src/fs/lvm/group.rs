//! A volume group, out of its metadata: physical volumes, logical volumes and what each segment lies on.
//!
//! Only segments of type `striped` are understood. Of every other kind is known which volumes it names, and that it
//! lies nowhere but where it names a physical volume.
//!
//! Source: LVM2, lib/format_text/export.c, import_vsn1.c, flags.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{HashMap, HashSet};

use super::{
    label::SECTOR,
    text::{Section, Value},
};

/// What volume groups are: anything else may mean that extents are in use in a way not known here.
const GROUP_STATUS: [&str; 8] =
    ["RESIZEABLE", "READ", "WRITE", "WRITE_LOCKED", "EXPORTED", "CLUSTERED", "SHARED", "PARTIAL"];
/// What logical volumes are that a file system may simply lie in.
const PLAIN_STATUS: [&str; 5] = ["READ", "WRITE", "VISIBLE", "FIXED_MINOR", "ACTIVATION_SKIP"];

/// A volume group.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Bytes of an extent; not 0.
    pub extent_len: u64,
    /// Its physical volumes.
    pub physical: Vec<Physical>,
    /// Its logical volumes.
    pub logical: Vec<Logical>,
}

/// A physical volume of the group.
#[derive(Debug)]
pub struct Physical {
    /// Its name in the metadata: `pv0`.
    pub name: String,
    /// Its UUID without hyphens.
    pub uuid: String,
    /// Bytes before the first extent.
    pub start: u64,
    /// How many extents it has.
    pub extents: u64,
    /// Whether the group was changed while it was not there.
    pub missing: bool,
}

/// A logical volume.
#[derive(Debug)]
pub struct Logical {
    /// Its name.
    pub name: String,
    /// How many extents it has.
    pub extents: u64,
    /// Whether people see it, and nothing is said of it that is not known here.
    pub plain: bool,
    /// Whether other logical volumes are made of it.
    pub part_of_other: bool,
    /// Its segments, in order and without holes.
    pub segments: Vec<Segment>,
}

/// A run of extents of a logical volume.
#[derive(Debug)]
pub struct Segment {
    /// Its type: `striped`, `thin-pool` ….
    pub kind: String,
    /// How many extents it has.
    pub extents: u64,
    /// Where its data is on physical volumes, an upper bound for what is not understood.
    pub areas: Vec<Area>,
    /// Whether it is one run of extents on one physical volume.
    pub linear: bool,
}

/// Extents of a physical volume.
#[derive(Debug)]
pub struct Area {
    /// Which physical volume: its place in [`Group::physical`].
    pub physical: usize,
    /// First extent.
    pub first: u64,
    /// How many.
    pub extents: u64,
}

/// Reads the volume group out of the parsed metadata.
///
/// # Errors
/// What is not understood, as a clause.
pub fn read(root: &Section<'_>) -> Result<Group, String> {
    if root.text("contents") != Some("Text Format Volume Group") || root.number("version") != Some(1) {
        return Err("its metadata is of an unknown version".to_owned());
    }
    let mut sections = root.sections();
    let (Some((name, group)), None) = (sections.next(), sections.next()) else {
        return Err("its metadata does not describe one volume group".to_owned());
    };
    if group.text("format").is_some_and(|format| format != "lvm2") {
        return Err("its metadata is of an unknown format".to_owned());
    }
    known("the volume group", group, &GROUP_STATUS)?;
    let extent_len = group.number("extent_size").and_then(|sectors| sectors.checked_mul(SECTOR));
    let extent_len = extent_len.filter(|len| *len > 0).ok_or("its metadata names no size of extents")?;
    let physical = physical_volumes(group)?;
    let logical = logical_volumes(group, &physical)?;
    Ok(Group { name: name.to_owned(), extent_len, physical, logical })
}

/// Checks that nothing but `known` words are said of `what`.
fn known(what: &str, section: &Section<'_>, known: &[&str]) -> Result<(), String> {
    let words = section
        .words("status")
        .zip(section.words("flags"))
        .ok_or_else(|| format!("the status of {what} is no list"))?;
    match words.0.iter().chain(&words.1).find(|word| !known.contains(*word)) {
        Some(word) => Err(format!("{what} is in the state {}", crate::escape::Escaped(word))),
        None => Ok(()),
    }
}

fn physical_volumes(group: &Section<'_>) -> Result<Vec<Physical>, String> {
    let all = group.section("physical_volumes").ok_or("its metadata lists no physical volumes")?;
    let read = |(name, section): (&str, &Section<'_>)| {
        Some(Physical {
            name: name.to_owned(),
            uuid: section.text("id")?.replace('-', ""),
            start: section.number("pe_start")?.checked_mul(SECTOR)?,
            extents: section.number("pe_count")?,
            missing: section.words("status")?.contains(&"MISSING") || section.words("flags")?.contains(&"MISSING"),
        })
    };
    all.sections().map(|pv| read(pv).ok_or_else(|| format!("physical volume {} is incomplete", pv.0))).collect()
}

fn logical_volumes(group: &Section<'_>, physical: &[Physical]) -> Result<Vec<Logical>, String> {
    // A group without logical volumes has no such section.
    let Some(all) = group.section("logical_volumes") else { return Ok(Vec::new()) };
    let by_name = physical.iter().enumerate().map(|(index, pv)| (pv.name.as_str(), index)).collect::<HashMap<_, _>>();
    let mut named = HashSet::new();
    let mut out = Vec::new();
    for (name, section) in all.sections() {
        let mut volume = Logical {
            name: name.to_owned(),
            extents: 0,
            plain: known(name, section, &PLAIN_STATUS).is_ok()
                && section.words("status").is_some_and(|words| words.contains(&"VISIBLE")),
            part_of_other: false,
            segments: Vec::new(),
        };
        if [section.words("status"), section.words("flags")].iter().flatten().flatten().any(|word| *word == "PVMOVE") {
            return Err(format!("extents are being moved ({name})"));
        }
        segments(section, &by_name, &mut volume, &mut named)
            .map_err(|what| format!("logical volume {name}: {what}"))?;
        out.push(volume);
    }
    for volume in &mut out {
        volume.part_of_other = named.contains(&volume.name);
    }
    Ok(out)
}

/// Reads the segments of one volume; `named` collects every name in them.
fn segments(
    section: &Section<'_>,
    physical: &HashMap<&str, usize>,
    volume: &mut Logical,
    named: &mut HashSet<String>,
) -> Result<(), String> {
    let mut all = Vec::new();
    for (name, segment) in section.sections() {
        let number = name.strip_prefix("segment").and_then(|number| number.parse::<u64>().ok());
        all.push((number.ok_or_else(|| format!("it has a section {name}"))?, segment));
    }
    all.sort_unstable_by_key(|(number, _)| *number);
    if section.number("segment_count") != Some(all.len() as u64) {
        return Err("the number of its segments is another than it says".to_owned());
    }
    for (number, segment) in all {
        let start = segment.number("start_extent");
        let segment = read_segment(segment, physical, named).map_err(|what| format!("segment {number} {what}"))?;
        if start != Some(volume.extents) {
            return Err(format!("segment {number} does not follow the one before it"));
        }
        volume.extents = volume.extents.checked_add(segment.extents).ok_or("it has too many extents")?;
        volume.segments.push(segment);
    }
    Ok(())
}

fn read_segment(
    section: &Section<'_>,
    physical: &HashMap<&str, usize>,
    named: &mut HashSet<String>,
) -> Result<Segment, String> {
    let kind = section.text("type").ok_or("has no type")?.to_owned();
    let extents = section.number("extent_count").filter(|count| *count > 0).ok_or("has no extents")?;
    let striped = kind == "striped";
    let stripes = if striped { section.number("stripe_count").filter(|n| *n > 0).ok_or("has no stripes")? } else { 1 };
    let mut areas = Vec::new();
    let mut members = 0u64;
    names(section, &mut |name, number| {
        members = members.saturating_add(1);
        match (physical.get(name), number) {
            (Some(index), Some(first)) => {
                areas.push(Area { physical: *index, first, extents: extents.div_ceil(stripes) });
            }
            (Some(_), None) => return Err(format!("names {name} without an extent")),
            // A physical volume's name in its place is never that of a logical volume, even where there is one.
            (None, _) => {
                named.insert(name.to_owned());
            }
        }
        Ok(())
    })?;
    if striped && members != stripes {
        return Err(format!("has {members} stripes instead of {stripes}"));
    }
    let linear = striped && stripes == 1 && areas.len() == 1;
    Ok(Segment { kind, extents, areas, linear })
}

/// Takes a name and the number behind it in its list.
type Each<'e> = &'e mut dyn FnMut(&str, Option<u64>) -> Result<(), String>;

/// Calls `each` with every name in a segment.
fn names(section: &Section<'_>, each: Each<'_>) -> Result<(), String> {
    for (key, value) in section.values() {
        match value {
            Value::Text(name) if key != "type" => each(name, None)?,
            Value::List(values) if key != "tags" => {
                let behind = values.iter().skip(1).map(Some).chain([None]);
                for (value, next) in values.iter().zip(behind) {
                    let number = match next {
                        Some(Value::Number(number)) => Some(*number),
                        _ => None,
                    };
                    if let Value::Text(name) = value {
                        each(name, number)?;
                    }
                }
            }
            _ => {}
        }
    }
    section.sections().try_for_each(|(_, deeper)| names(deeper, each))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::{super::text::parse, *};

    /// Metadata of a group with two physical volumes and the logical volumes in `logical`.
    fn group(logical: &str) -> Result<Group, String> {
        let text = format!(
            "contents = \"Text Format Volume Group\"\nversion = 1\nvg {{ seqno = 3 format = \"lvm2\" extent_size = 8\n\
            status = [\"READ\", \"RESIZEABLE\"]\nphysical_volumes {{\n\
            pv0 {{ id = \"a-b\" pe_start = 2048 pe_count = 100 flags = [] }}\n\
            pv1 {{ id = \"c\" pe_start = 2048 pe_count = 50 flags = [\"MISSING\"] }} }}\nlogical_volumes {{ {logical} }} }}"
        );
        read(&parse(&text).unwrap())
    }

    fn volume(name: &str, status: &str, segments: &[&str]) -> String {
        let count = segments.len();
        let segments = segments.iter().enumerate().map(|(n, text)| format!("segment{} {{ {text} }}", n + 1));
        let segments = segments.collect::<Vec<_>>().join("\n");
        format!("{name} {{ status = [{status}] segment_count = {count} {segments} }}\n")
    }

    const VISIBLE: &str = "\"READ\", \"VISIBLE\"";
    const LINEAR: &str = "start_extent = 0 extent_count = 5 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 7]";

    #[test]
    fn segments_say_where_they_lie() {
        let more =
            "start_extent = 5 extent_count = 4 type = \"striped\" stripe_count = 2 stripes = [\"pv0\", 1, \"pv1\", 2]";
        let snapshot = "start_extent = 0 extent_count = 5 type = \"snapshot\" origin = \"root\" cow_store = \"cow\"";
        let text = volume("root", VISIBLE, &[LINEAR, more])
            + &volume("cow", VISIBLE, &[&LINEAR.replace('7', "20")])
            + &volume("snapshot0", VISIBLE, &[snapshot])
            + &volume("free", VISIBLE, &[&LINEAR.replace('7', "30")])
            + &volume("hidden", "\"READ\"", &[&LINEAR.replace('7', "40")])
            + &volume("new", "\"VISIBLE\", \"NEW\"", &[&LINEAR.replace('7', "50")]);
        let group = group(&text).unwrap();
        assert_eq!((group.name.as_str(), group.extent_len), ("vg", 4096));
        let pv = &group.physical[1];
        assert_eq!((pv.uuid.as_str(), pv.start, pv.extents, pv.missing), ("c", 1 << 20, 50, true));
        let seen = group.logical.iter().map(|lv| (lv.name.as_str(), lv.extents, lv.plain, lv.part_of_other));
        let want = [
            ("root", 9, true, true),
            ("cow", 5, true, true),
            ("snapshot0", 5, true, false),
            ("free", 5, true, false),
            ("hidden", 5, false, false),
            ("new", 5, false, false),
        ];
        assert_eq!(seen.collect::<Vec<_>>(), want);
        let alike = volume("pv0", VISIBLE, &[LINEAR]) + &volume("data", VISIBLE, &[&LINEAR.replace('7', "20")]);
        assert!(self::group(&alike).unwrap().logical.iter().all(|lv| lv.plain && !lv.part_of_other));
        let areas =
            |segment: &Segment| segment.areas.iter().map(|a| (a.physical, a.first, a.extents)).collect::<Vec<_>>();
        let root = &group.logical[0].segments;
        assert_eq!((root[0].linear, areas(&root[0])), (true, vec![(0, 7, 5)]));
        assert_eq!((root[1].linear, areas(&root[1])), (false, vec![(0, 1, 2), (1, 2, 2)]));
        assert!(group.logical[2].segments[0].areas.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (name, text, want) in [
            ("unknown stripe count", LINEAR.replace("= 1", "= 2"), "has 1 stripes instead of 2"),
            ("no stripes", LINEAR.replace("= 1", "= 0"), "has no stripes"),
            ("no type", LINEAR.replace("type", "kind"), "has no type"),
            ("no extents", LINEAR.replace("= 5", "= 0"), "has no extents"),
            ("a hole", LINEAR.replace("start_extent = 0", "start_extent = 1"), "does not follow"),
            ("a volume without a place", LINEAR.replace("\"pv0\", 7", "\"pv0\""), "names pv0 without an extent"),
            ("mirror", "start_extent = 0 extent_count = 5 type = \"x\" log = \"pv1\"".to_owned(), "names pv1 without"),
        ] {
            let error = group(&volume("root", VISIBLE, &[&text])).unwrap_err();
            assert!(error.contains(want), "{name}: {error}");
        }
        let moved = group(&volume("pvmove0", "\"PVMOVE\"", &[LINEAR])).unwrap_err();
        assert_eq!(moved, "extents are being moved (pvmove0)");
        let strange = group(&volume("root", VISIBLE, &[LINEAR]).replace("segment_count = 1", "segment_count = 2"));
        assert!(strange.unwrap_err().contains("number of its segments"));
        for text in ["", "contents = \"Text Format Volume Group\" version = 2", "vg {}"] {
            assert!(read(&parse(text).unwrap()).unwrap_err().contains("unknown version"), "{text}");
        }
        let two = "contents = \"Text Format Volume Group\" version = 1 a {} b {}";
        assert!(read(&parse(two).unwrap()).unwrap_err().contains("one volume group"));
    }
}

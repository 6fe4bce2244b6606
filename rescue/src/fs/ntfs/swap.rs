//! Files of the root folder that no restarted system reads: page, swap and hibernation files.
//!
//! ```text
//! index root: 8 bytes in a block  16 header: first entry, length, allocated (4 each), flags
//! index block: "INDX"  4 update sequence  24 header, as above
//! entry: file (8)  8 length (2)  10 key length (2)  12 flags (2: last)  16 key: 0 parent (8)  64 name: length, space, text
//! ```
//!
//! Windows makes them hidden files of the system; one that is not is somebody's file by that name, and kept. Anybody may
//! call a file so, on a stick or a data volume.
//!
//! Their first page is kept all the same: Windows looks there for a hibernated system or for a crash dump, and whatever
//! a target held before must not be taken for either. Where one is found, the file is kept.
//!
//! A hibernated volume is kept whole. The memory in `hiberfil.sys`, also that of a fast start-up, has the volume
//! mounted and goes on from there; it may know of clusters that are free in every structure on the disk.
//!
//! Source: ntfs-3g, include/ntfs-3g/layout.h and libntfs-3g/volume.c (`ntfs_volume_check_hiberfile`).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use super::{
    Volume, Whole,
    mft::{Error, Stream},
    record::{Attribute, HIDDEN_SYSTEM, Record, kind, number, unfix},
};
use crate::{
    bytes::{Fields, Truncated},
    extent::{Extent, ExtentSet},
    fs::{LeftOut, State, Survey, label::utf16},
};

/// Record of the root folder.
const ROOT: u64 = 5;
/// The index over file names, in UTF-16.
const I30: [u8; 8] = *b"$\0I\x003\x000\0";
/// Bytes of the root folder that are searched: some hundred thousand files in it.
const MAX_ROOT: u64 = 256 << 20;
/// Bytes at the start of each file that are kept and looked at.
const HEADER: u64 = 4096;
/// Steps in which further pages of a hibernation file are looked at, from its second to its last.
const SAMPLES: u64 = 16;

/// What a file is, by its name in the root folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Paging,
    Hibernation,
}

impl Role {
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "pagefile.sys" | "swapfile.sys" => Some(Self::Paging),
            "hiberfil.sys" => Some(Self::Hibernation),
            _ => None,
        }
    }
}

/// One of those files.
#[derive(Debug)]
struct Special {
    number: u64,
    name: String,
    /// Bytes of it that need not be kept.
    spare: ExtentSet,
}

/// All of those files.
#[derive(Debug, Default)]
pub(super) struct Specials {
    files: Vec<Special>,
    /// What a person should know of them.
    notes: Vec<String>,
}

/// Tells whether `attribute` names a file `hiberfil.sys` in the root folder.
pub(super) fn is_hibernation(attribute: &Attribute<'_>) -> bool {
    let named = |value: &[u8]| {
        file_name(value).is_some_and(|(parent, name)| parent == ROOT && Role::of(&name) == Some(Role::Hibernation))
    };
    attribute.kind == kind::FILE_NAME && attribute.value().is_some_and(named)
}

/// Returns parent and name of a file name, as in attributes and keys.
fn file_name(value: &[u8]) -> Option<(u64, String)> {
    let f = Fields(value);
    let len = usize::from(f.u8(64).ok()?).saturating_mul(2);
    // Nothing else is looked for, and most names are of another length.
    let name = f.slice(66, len).ok().filter(|_| len == 24)?;
    Some((number(f.u64(0).ok()?), utf16(name)?))
}

impl Specials {
    /// Finds the files in the root folder of `volume`.
    ///
    /// # Errors
    /// Why everything must be kept: a hibernated system, or a root folder that may hide one.
    pub(super) fn find(volume: &Volume<'_>) -> Result<Self, Whole> {
        let mut found = Self::default();
        let mut listed = Vec::new();
        root_entries(volume, &mut |reference, name, role| listed.push((reference, name, role)))?;
        listed.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        for (reference, name, role) in listed.into_iter().take(16) {
            found.look(volume, reference, name, role)?;
        }
        Ok(found)
    }

    fn look(&mut self, volume: &Volume<'_>, reference: u64, name: String, role: Role) -> Result<(), Whole> {
        let (mft, number) = (&volume.mft, number(reference));
        let bytes = match mft.record(volume.region, number) {
            Ok(bytes) => bytes,
            Err(error @ Error::Unreadable(..)) if role == Role::Hibernation => {
                return Err(Whole::damaged(format_args!("{name} may be a hibernated system: {error}")));
            }
            // What an index block remembers of old times may point anywhere. The walk meets every record in use.
            Err(_) => return Ok(()),
        };
        let Ok(record) = Record::parse(&bytes) else { return Ok(()) };
        let current = record.in_use && record.base.is_none() && u64::from(record.sequence) == reference >> 48;
        if !current || self.knows(number) {
            return Ok(());
        }
        let names = record.attributes().filter_map(Result::ok).filter(|attribute| attribute.kind == kind::FILE_NAME);
        let names = names.filter_map(|attribute| attribute.value()).collect::<Vec<_>>();
        let is_this = |(parent, own): (u64, String)| parent == ROOT && own.eq_ignore_ascii_case(&name);
        let here = names.iter().any(|value| file_name(value).is_some_and(is_this));
        let long = names.iter().filter(|value| !Fields(value).has(65, &[DOS])).count();
        let linked_once = long == 1 && usize::from(record.links) == names.len();
        let attributes = record.attributes().filter_map(Result::ok).find_map(|attribute| attribute.file_attributes());
        let of_system = attributes.is_some_and(|flags| flags & HIDDEN_SYSTEM == HIDDEN_SYSTEM);
        let Some((stream, header)) = Self::open(volume, number, &name, role)? else { return Ok(()) };
        let idle = self.judge(&name, role, &header)? && here && linked_once && of_system;
        let idle = idle && self.is_empty(volume, &name, role, &stream);
        let spare = if idle { spare(volume, &stream) } else { ExtentSet::new() };
        self.files.push(Special { number, name, spare });
        Ok(())
    }

    /// Returns content and first page of a file; `None` for a page file without one that can be read.
    fn open(volume: &Volume<'_>, number: u64, name: &str, role: Role) -> Result<Option<(Stream, Vec<u8>)>, Whole> {
        let hidden = |error: &dyn fmt::Display| match role {
            Role::Paging => Ok(None),
            Role::Hibernation => Err(Whole::damaged(format_args!("{name} may be a hibernated system: {error}"))),
        };
        let stream = match volume.mft.stream(volume.region, number, kind::DATA, &[]) {
            Ok(stream) => stream,
            Err(error) => return hidden(&error),
        };
        let mut header = vec![0; usize::try_from(HEADER.min(stream.size())).unwrap_or(0)];
        match stream.read(volume.region, volume.mft.boot.cluster, 0, &mut header) {
            Ok(()) => Ok(Some((stream, header))),
            Err(error) => hidden(&error),
        }
    }

    /// Tells whether the content of a file is of no use, by its first page.
    fn judge(&mut self, name: &str, role: Role, header: &[u8]) -> Result<bool, Whole> {
        let f = Fields(header);
        let signature = f.array::<4>(0).unwrap_or_default().to_ascii_uppercase();
        match role {
            Role::Paging if f.has(0, b"PAGEDUMP") || f.has(0, b"PAGEDU64") => {
                self.notes.push(format!("{name} holds a crash dump and is kept"));
                Ok(false)
            }
            Role::Paging => Ok(true),
            // On a volume without a system, Windows leaves a short file for a sign.
            Role::Hibernation if (header.len() as u64) < HEADER => {
                Err(Whole::hibernated("a hibernated Windows on another volume uses it"))
            }
            Role::Hibernation if matches!(&signature[..], b"HIBR" | b"RSTR" | b"LINK") => Err(Whole::hibernated(
                "a hibernated Windows, or one shut down for a fast start-up, is in hiberfil.sys; it has the volume \
                 mounted and may know of more than is on the disk",
            )),
            Role::Hibernation if header.iter().any(|byte| *byte != 0) => {
                let woken = if signature == b"WAKE" { ", a system that was woken," } else { "" };
                self.notes.push(format!("{name} holds something{woken} and is kept"));
                Ok(false)
            }
            Role::Hibernation => Ok(true),
        }
    }

    /// Tells whether samples of a hibernation file are as empty as its first page. Of what else is in it, nothing but
    /// that page says that it is stale.
    fn is_empty(&mut self, volume: &Volume<'_>, name: &str, role: Role, stream: &Stream) -> bool {
        if role != Role::Hibernation {
            return true;
        }
        let mut page = vec![0; usize::try_from(HEADER).unwrap_or(0)];
        let last = stream.size().checked_div(HEADER).unwrap_or(0).saturating_sub(1);
        let empty = (0..=SAMPLES).all(|sample| {
            let number = last.saturating_mul(sample).checked_div(SAMPLES).unwrap_or(0).max(1).min(last);
            let at = number.saturating_mul(HEADER);
            let read = stream.read(volume.region, volume.mft.boot.cluster, at, &mut page);
            read.is_ok() && page.iter().all(|byte| *byte == 0)
        });
        if !empty {
            self.notes.push(format!("{name} holds something behind an empty first page and is kept"));
        }
        empty
    }

    /// Tells whether record `number` is one of them.
    pub(super) fn knows(&self, number: u64) -> bool {
        self.files.iter().any(|file| file.number == number)
    }

    /// Says that `extent` is part of a file, which is one of these only with its plain content.
    ///
    /// * `file`: the base record, where the extent is of the unnamed data of it.
    pub(super) fn claim(&mut self, file: Option<u64>, extent: Extent) {
        for special in &mut self.files {
            if Some(special.number) != file && special.spare.within(extent).next().is_some() {
                self.notes.push(format!("{} shares clusters with another file and is kept", special.name));
                special.spare = ExtentSet::new();
            }
        }
    }

    /// Takes the files out of the map of `survey`, where the volume is in order and nobody wants them.
    pub(super) fn leave_out(mut self, keep: bool, survey: &mut Survey) {
        survey.notes.append(&mut self.notes);
        let clean = survey.detected.as_ref().is_some_and(|detected| detected.state == State::Clean);
        if keep || !clean {
            return;
        }
        for file in self.files.into_iter().filter(|file| !file.spare.is_empty()) {
            let before = survey.allocated.total();
            survey.allocated = survey.allocated.subtract(&file.spare);
            let bytes = before.saturating_sub(survey.allocated.total());
            survey.left_out.push(LeftOut { path: format!("/{}", file.name), bytes });
        }
    }
}

/// The name space of a short name, which stands beside the real one.
const DOS: u8 = 2;

/// Returns the bytes of a plain file behind its header.
fn spare(volume: &Volume<'_>, stream: &Stream) -> ExtentSet {
    let Stream::Runs { runs, flags, .. } = stream else { return ExtentSet::new() };
    if flags & super::record::TRANSFORMED != 0 || runs.has_holes() {
        return ExtentSet::new();
    }
    let mut header = HEADER.div_ceil(volume.mft.boot.cluster);
    let extents = runs.on_volume().map(|(start, len)| {
        let skipped = header.min(len);
        header = header.saturating_sub(skipped);
        volume.mft.boot.bytes(start.saturating_add(skipped), len.saturating_sub(skipped))
    });
    extents.collect()
}

type Entry<'f> = dyn FnMut(u64, String, Role) + 'f;

/// Calls `each` with reference, name and role of every file of interest that the root folder lists, or listed.
fn root_entries(volume: &Volume<'_>, each: &mut Entry<'_>) -> Result<(), Whole> {
    let (mft, region) = (&volume.mft, volume.region);
    let broken = |_: Truncated| Whole::damaged("the root folder is broken");
    let root = mft.stream(region, ROOT, kind::INDEX_ROOT, &I30).map_err(Whole::damaged)?;
    let Stream::Resident(root) = root else { return Err(Whole::damaged("the root folder is broken")) };
    let f = Fields(&root);
    entries(f, 16, each).map_err(broken)?;
    let len = usize::try_from(f.u32(8).map_err(broken)?).unwrap_or(0);
    let blocks = match mft.stream(region, ROOT, kind::INDEX_ALLOCATION, &I30) {
        Ok(blocks) => blocks,
        Err(Error::Lacking(ROOT)) => return Ok(()),
        Err(error) => return Err(Whole::damaged(error)),
    };
    if !len.is_power_of_two() || !(512..=2 << 20).contains(&len) || blocks.size() > MAX_ROOT {
        return Err(Whole::damaged(format_args!("the root folder has {} bytes in blocks of {len}", blocks.size())));
    }
    let mut block = vec![0; len];
    for index in 0..blocks.size().checked_div(len as u64).unwrap_or(0) {
        blocks
            .read(region, mft.boot.cluster, index.saturating_mul(len as u64), &mut block)
            .map_err(|error| Whole::damaged(format_args!("the root folder cannot be read: {error}")))?;
        // Blocks that are not in use hold old entries, which lead to records that know better, or nothing at all.
        if !block.starts_with(b"INDX") {
            continue;
        }
        unfix(&mut block, b"INDX")
            .map_err(|error| Whole::damaged(format_args!("block {index} of the root folder is broken: {error}")))?;
        entries(Fields(&block), 24, each).map_err(broken)?;
    }
    Ok(())
}

/// Lists the entries behind the index header at `header`.
fn entries(f: Fields<'_>, header: usize, each: &mut Entry<'_>) -> Result<(), Truncated> {
    let to_len = |len: u32| usize::try_from(len).unwrap_or(usize::MAX);
    let first = to_len(f.u32(header)?);
    let node = Fields(f.slice(header, to_len(f.u32(header.saturating_add(4))?))?);
    let mut at = first;
    // Entries have at least 16 bytes, so the loop ends with the node.
    loop {
        let len = usize::from(node.u16(at.saturating_add(8))?);
        let entry = Fields(node.slice(at, len.max(16))?);
        if entry.u16(12)? & 2 != 0 {
            return Ok(());
        }
        let key = entry.slice(16, usize::from(entry.u16(10)?))?;
        if let Some((role, name)) = file_name(key).and_then(|(_, name)| Some((Role::of(&name)?, name))) {
            each(entry.u64(0)?, name, role);
        }
        at = at.saturating_add(len.max(16));
    }
}

//! `damaged/ID.json`: what a verify found, so that the next capture of the same data stores it anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Error, FileId, Problem,
    backend::{Backend, Listing, read_file, remove},
    config::{check_known, open_text},
    error::told,
    pack::Flaw,
    sealed,
    shelf::Shelf,
};
use crate::extent::Extent;

/// The longest record that is read.
const MAX_RECORD: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    features: Vec<String>,
    packs: Vec<RecordPack>,
}

#[derive(Serialize, Deserialize)]
struct RecordPack {
    pack: FileId,
    /// Nothing in the pack is to be trusted.
    all: bool,
    /// Offsets of damaged frames in the pack.
    frames: Vec<u32>,
}

/// Marks on the shelf what earlier verifies found.
pub(super) fn load(backend: &dyn Backend, shelf: &mut Shelf, problems: &mut Vec<Problem>) -> Result<(), Error> {
    const WHAT: &str = "a verify found it damaged";
    for file in list(backend)? {
        match read(backend, &file.name) {
            Ok(record) => {
                for listed in record.packs {
                    let Some(number) = shelf.number(listed.pack) else { continue };
                    if listed.all {
                        let len = shelf.pack(number).map_or(0, |pack| pack.len);
                        shelf.set_flaw(number, Some(Flaw::new(Extent::new(0, len), WHAT)));
                    }
                    listed.frames.iter().for_each(|offset| shelf.mark_bad(number, *offset, WHAT.to_owned()));
                }
            }
            Err(error) => problems.push(Problem { file: file.name, what: told(&error) }),
        }
    }
    Ok(())
}

fn list(backend: &dyn Backend) -> Result<Vec<Listing>, Error> {
    let mut files = backend.list("damaged").map_err(Error::io("listing", "damaged"))?;
    files.retain(|file| file.name.ends_with(".json"));
    Ok(files)
}

fn read(backend: &dyn Backend, name: &str) -> Result<Record, Error> {
    let bytes = read_file(backend, name, MAX_RECORD).map_err(Error::io("reading", name))?;
    let text = open_text(name, &bytes)?;
    let record: Record = serde_json::from_str(text).map_err(|e| Error::corrupt(name, 0, e.to_string()))?;
    check_known(name, record.version, &record.features)?;
    Ok(record)
}

/// Writes down what is bad on the shelf now, in place of all earlier records.
pub(super) fn save(backend: &dyn Backend, shelf: &Shelf) -> Result<(), Error> {
    let old = list(backend)?;
    let record = record_of(shelf);
    if old.is_empty() && record.packs.is_empty() {
        return Ok(());
    }
    if !record.packs.is_empty() {
        let id = FileId::random().map_err(Error::io("naming", "damaged"))?;
        let json = serde_json::to_string_pretty(&record).map_err(|e| Error::Refused(e.to_string()))?;
        let (name, text) = (format!("damaged/{id}.json"), sealed::seal_text(&json));
        backend.put(&name, text.as_bytes()).map_err(Error::writing(backend, &name, text.len() as u64))?;
    }
    for file in old {
        remove(backend, &file.name).map_err(Error::io("removing", &file.name))?;
    }
    Ok(())
}

fn record_of(shelf: &Shelf) -> Record {
    let mut packs: BTreeMap<u32, RecordPack> = BTreeMap::new();
    let mut entry = |number: u32, all: bool, frame: Option<u32>| {
        let Some(pack) = shelf.pack(number) else { return };
        let listed = packs.entry(number).or_insert(RecordPack { pack: pack.id, all: false, frames: Vec::new() });
        listed.all |= all;
        listed.frames.extend(frame);
    };
    (0..).zip(shelf.packs()).filter(|(_, pack)| pack.flaw.is_some()).for_each(|(number, _)| entry(number, true, None));
    shelf.bad().for_each(|(number, offset)| entry(number, false, Some(offset)));
    Record { version: u32::from(super::VERSION), features: Vec::new(), packs: packs.into_values().collect() }
}

/// Lists what is wrong with the records themselves.
pub(super) fn check(backend: &dyn Backend) -> Result<Vec<Problem>, Error> {
    let files = list(backend)?;
    let check = |name: String| {
        let error = read(backend, &name).err()?;
        Some(Problem { what: told(&error), file: name })
    };
    Ok(files.into_iter().filter_map(|file| check(file.name)).collect())
}

//! What is damaged, as a person needs to know it: which bytes of which pack, and which bytes of which disk that costs.
//!
//! `damaged/ID.json` keeps what a verify found, so that the next capture of the same data stores it anew.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    ChunkId, Error, FileId, Manifest, Problem, Store,
    backend::{Backend, Listing, read_file},
    config::{check_known, open_text},
    error::told,
    manifest::ChunkRun,
    pack::Flaw,
    sealed,
    shelf::{Place, Shelf},
};
use crate::{extent::Extent, table::RegionKind};

/// The longest record that is read.
const MAX_RECORD: u64 = 64 << 20;

/// Damaged bytes of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDamage {
    /// Which pack.
    pub pack: FileId,
    /// Bytes of the pack file.
    pub range: Extent,
    /// The chunks that are not to be trusted because of it.
    pub chunks: Vec<ChunkId>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for PackDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pack {}, {}: {} ({} chunks)", self.pack, self.range, self.what, self.chunks.len())
    }
}

/// Bytes of an image's disk that the store cannot give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDamage {
    /// Image id.
    pub image: String,
    /// The region of the disk.
    pub region: RegionKind,
    /// The bytes of the disk, from its start.
    pub range: Extent,
    /// The chunk that should be there; of several in a row, the first.
    pub chunk: ChunkId,
    /// The pack it is in; `None` when it is in none.
    pub pack: Option<FileId>,
    /// The damaged bytes of the pack file.
    pub pack_range: Option<Extent>,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ImageDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image {}, {}, {} of the disk: chunk {}", self.image, self.region, self.range, self.chunk)?;
        match (&self.pack, &self.pack_range) {
            (Some(pack), Some(range)) => write!(f, " in pack {pack}, {range}: {}", self.what),
            _ => write!(f, ": {}", self.what),
        }
    }
}

/// What a verify found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Packs read.
    pub packs: u64,
    /// Frames read, decompressed and hashed.
    pub frames: u64,
    /// Bytes of packs read.
    pub bytes: u64,
    /// Images whose chunks were all looked for.
    pub images: u64,
    /// Damaged bytes of packs.
    pub damage: Vec<PackDamage>,
    /// What that costs which image.
    pub image_damage: Vec<ImageDamage>,
    /// Everything else that is not as it should be: indexes, manifests, missing packs.
    pub problems: Vec<Problem>,
}

impl Verified {
    /// Tells whether everything was as it should be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.image_damage.is_empty() && self.problems.is_empty()
    }
}

impl Store {
    /// Lists the bytes of an image's disk that the store cannot give back, as far as known now: chunks that are in no pack,
    /// and chunks in places that were found damaged. Reads nothing.
    #[must_use]
    pub fn damaged_uses(&self, image: &Manifest) -> Vec<ImageDamage> {
        let shelf = self.shelf();
        let mut out: Vec<ImageDamage> = Vec::new();
        for region in &image.regions {
            for run in &region.chunks {
                let ChunkRun::Data { first, ids } = run else { continue };
                for (number, id) in (*first..).zip(ids) {
                    let inside = region.chunk_range(number, image.chunk_len);
                    let start = region.region.range.start;
                    let range = Extent::new(start.saturating_add(inside.start), start.saturating_add(inside.end));
                    if let Some((pack, pack_range, what)) = fault_of(&shelf, id, inside.len()) {
                        let (image, region) = (image.id.clone(), region.kind());
                        push(&mut out, ImageDamage { image, region, range, chunk: *id, pack, pack_range, what });
                    }
                }
            }
        }
        out
    }
}

/// Adds damage; chunks in a row that suffer from the same become one line.
fn push(out: &mut Vec<ImageDamage>, damage: ImageDamage) {
    match out.last_mut() {
        Some(last)
            if last.range.end == damage.range.start
                && (last.region, last.pack, last.pack_range, &last.what)
                    == (damage.region, damage.pack, damage.pack_range, &damage.what) =>
        {
            last.range.end = damage.range.end;
        }
        _ => out.push(damage),
    }
}

type Blame = (Option<FileId>, Option<Extent>, String);

/// Returns why a chunk of `len` bytes cannot be had; `None` when nothing bad is known of it.
fn fault_of(shelf: &Shelf, id: &ChunkId, len: u64) -> Option<Blame> {
    let places = shelf.places(id);
    let Some(place) = places.first().copied() else { return Some((None, None, "no pack has it".to_owned())) };
    let pack = shelf.pack(place.pack).map(|pack| pack.id);
    if let Some((range, what)) = shelf.reason(place) {
        return Some((pack, Some(range), what));
    }
    let have = u64::from(place.plain_len);
    (have != len).then(|| (pack, Some(place.range()), format!("it has {have} bytes, and its place on the disk {len}")))
}

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
pub(super) fn load_records(backend: &dyn Backend, shelf: &mut Shelf, problems: &mut Vec<Problem>) -> Result<(), Error> {
    const WHAT: &str = "a verify found it damaged";
    for file in list_records(backend)? {
        match read_record(backend, &file.name) {
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

fn list_records(backend: &dyn Backend) -> Result<Vec<Listing>, Error> {
    let mut files = backend.list("damaged").map_err(Error::io("listing", "damaged"))?;
    files.retain(|file| file.name.ends_with(".json"));
    Ok(files)
}

fn read_record(backend: &dyn Backend, name: &str) -> Result<Record, Error> {
    let bytes = read_file(backend, name, MAX_RECORD).map_err(Error::io("reading", name))?;
    let text = open_text(name, &bytes)?;
    let record: Record = serde_json::from_str(text).map_err(|e| Error::corrupt(name, 0, e.to_string()))?;
    check_known(name, record.version, &record.features)?;
    Ok(record)
}

/// Writes down what is bad on the shelf now, in place of all earlier records.
pub(super) fn save_records(store: &Store) -> Result<(), Error> {
    let old = list_records(store.backend())?;
    let record = record_of(&store.shelf());
    if old.is_empty() && record.packs.is_empty() {
        return Ok(());
    }
    if !record.packs.is_empty() {
        let id = FileId::random().map_err(Error::io("naming", "damaged"))?;
        let json = serde_json::to_string_pretty(&record).map_err(|e| Error::Refused(e.to_string()))?;
        store.put(&format!("damaged/{id}.json"), sealed::seal_text(&json).as_bytes())?;
    }
    for file in old {
        store.backend().delete(&file.name).map_err(Error::io("removing", &file.name))?;
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
pub(super) fn check_records(store: &Store) -> Result<Vec<Problem>, Error> {
    let files = list_records(store.backend())?;
    let check = |name: String| {
        let error = read_record(store.backend(), &name).err()?;
        Some(Problem { what: told(&error), file: name })
    };
    Ok(files.into_iter().filter_map(|file| check(file.name)).collect())
}

/// Damage of one frame.
pub(super) fn frame_damage(pack: FileId, id: ChunkId, place: Place, what: String) -> PackDamage {
    PackDamage { pack, range: place.range(), chunks: vec![id], what }
}

/// Damage of a pack's own structure: nothing in it is trusted.
pub(super) fn structure_damage(pack: FileId, flaw: &Flaw, chunks: Vec<ChunkId>) -> PackDamage {
    PackDamage { pack, range: flaw.range, chunks, what: flaw.what.clone() }
}

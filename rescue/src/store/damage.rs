//! What is damaged, as a person needs to know it: which bytes of which pack, and which bytes of which disk that costs.

use std::fmt;

use super::{
    ChunkId, FileId, Manifest, Problem, Store,
    manifest::ChunkRun,
    pack::Flaw,
    shelf::{Place, Shelf},
};
use crate::{extent::Extent, table::RegionKind};

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

/// Damage of one frame.
pub(super) fn frame_damage(pack: FileId, id: ChunkId, place: Place, what: String) -> PackDamage {
    PackDamage { pack, range: place.range(), chunks: vec![id], what }
}

/// Damage of a pack's own structure: nothing in it is trusted.
pub(super) fn structure_damage(pack: FileId, flaw: &Flaw, chunks: Vec<ChunkId>) -> PackDamage {
    PackDamage { pack, range: flaw.range, chunks, what: flaw.what.clone() }
}

//! The index in memory: some 48 bytes a chunk, several places for one chunk where there are, what deltas are to, and which
//! places are not to be trusted.

use std::collections::HashMap;

use super::{
    ChunkId, FileId, frame,
    index::PackListing,
    pack::{self, Entry, Flaw},
};
use crate::extent::Extent;

/// Chunks stored in this session before they are sorted in with the others.
const RECENT: usize = 128 << 10;

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the pack on the shelf.
    pub pack: u32,
    /// Where the frame's header begins in the pack.
    pub offset: u32,
    /// Bytes that follow the header.
    pub stored_len: u32,
    /// Bytes of the chunk.
    pub plain_len: u32,
}

impl Place {
    /// Returns the bytes of the frame in the pack, header included.
    pub fn range(self) -> Extent {
        let start = u64::from(self.offset);
        Extent::new(start, start + frame::HEADER_LEN as u64 + u64::from(self.stored_len))
    }

    pub fn of(pack: u32, entry: &Entry) -> Self {
        Self { pack, offset: entry.offset, stored_len: entry.stored_len, plain_len: entry.plain_len }
    }
}

/// A pack, as far as its chunks are known.
#[derive(Clone, Debug)]
pub(super) struct PackState {
    pub id: FileId,
    /// Length of its file when it was listed.
    pub len: u64,
    /// XXH3-64 of its entries as an index file lists them, to be compared with the pack's own.
    pub listed_as: Option<u64>,
    /// Why nothing in it is trusted.
    pub flaw: Option<Flaw>,
}

/// Which pack holds which chunk.
#[derive(Default)]
pub(super) struct Shelf {
    packs: Vec<PackState>,
    numbers: HashMap<FileId, u32>,
    /// Sorted by id, once [`Shelf::sort`] ran.
    sorted: Vec<(ChunkId, Place)>,
    /// Stored since then.
    recent: HashMap<ChunkId, Place>,
    /// The chunk that the delta in a place is to, by pack and offset.
    bases: HashMap<(u32, u32), ChunkId>,
    /// Places where a chunk was found damaged, by pack and offset, and what was found.
    bad: HashMap<(u32, u32), String>,
}

impl Shelf {
    /// Adds a pack; call [`Shelf::sort`] after the last one.
    pub fn load(&mut self, listing: &PackListing, listed: bool, flaw: Option<Flaw>) {
        let number = self.add_pack(listing, listed, flaw);
        self.sorted.reserve(listing.entries.len());
        self.sorted.extend(listing.entries.iter().map(|entry| (entry.id, Place::of(number, entry))));
    }

    pub fn sort(&mut self) {
        self.sorted.shrink_to_fit();
        self.sorted.sort_unstable_by_key(|(id, _)| *id);
    }

    /// Adds a pack that this session wrote; its chunks are found first.
    pub fn add(&mut self, listing: &PackListing) {
        let number = self.add_pack(listing, false, None);
        self.recent.extend(listing.entries.iter().map(|entry| (entry.id, Place::of(number, entry))));
        if self.recent.len() > RECENT.max(self.sorted.len() / 8) {
            // Of all there is in memory this is the largest; twice its length for a moment would be too much.
            self.sorted.reserve_exact(self.recent.len());
            self.sorted.extend(self.recent.drain());
            self.sort();
        }
    }

    fn add_pack(&mut self, listing: &PackListing, listed: bool, flaw: Option<Flaw>) -> u32 {
        let number = u32::try_from(self.packs.len()).expect("a store of 2^32 packs does not fit in memory");
        let listed_as = listed.then(|| entries_sum(&listing.entries));
        let deltas = listing.entries.iter().filter_map(|entry| Some(((number, entry.offset), entry.base?)));
        self.bases.extend(deltas);
        self.packs.push(PackState { id: listing.pack, len: listing.len, listed_as, flaw });
        self.numbers.insert(listing.pack, number);
        number
    }

    /// Returns how many packs there are: their numbers count from 0.
    pub fn pack_count(&self) -> u32 {
        u32::try_from(self.packs.len()).unwrap_or(u32::MAX)
    }

    pub fn packs(&self) -> &[PackState] {
        &self.packs
    }

    pub fn pack(&self, number: u32) -> Option<&PackState> {
        self.packs.get(usize::try_from(number).ok()?)
    }

    pub fn number(&self, pack: FileId) -> Option<u32> {
        self.numbers.get(&pack).copied()
    }

    /// Lists every place of a chunk, trusted ones first.
    pub fn places(&self, id: &ChunkId) -> Vec<Place> {
        let mut out: Vec<Place> = self.all_places(id).collect();
        out.sort_by_key(|place| !self.is_trusted(*place));
        out
    }

    /// Returns a place of a chunk that nothing bad is known of.
    pub fn trusted(&self, id: &ChunkId) -> Option<Place> {
        self.all_places(id).find(|place| self.is_trusted(*place))
    }

    fn all_places(&self, id: &ChunkId) -> impl Iterator<Item = Place> + '_ {
        let id = *id;
        let first = self.sorted.partition_point(|(known, _)| *known < id);
        let sorted = self.sorted.get(first..).unwrap_or_default().iter();
        let sorted = sorted.take_while(move |(known, _)| *known == id).map(|(_, place)| *place);
        self.recent.get(&id).copied().into_iter().chain(sorted)
    }

    /// Tells whether nothing bad is known of a place, nor of the chunk that the delta in it is to.
    pub fn is_trusted(&self, place: Place) -> bool {
        self.is_sound(place) && self.base(place).is_none_or(|base| self.trusted_base(&base).is_some())
    }

    fn is_sound(&self, place: Place) -> bool {
        self.pack(place.pack).is_some_and(|pack| pack.flaw.is_none())
            && !self.bad.contains_key(&(place.pack, place.offset))
    }

    /// Returns the chunk that the delta in a place is to; `None` where there is no delta.
    pub fn base(&self, place: Place) -> Option<ChunkId> {
        self.bases.get(&(place.pack, place.offset)).copied()
    }

    /// Lists every place of a chunk where it is no delta, trusted ones first: no other can be a base.
    pub fn base_places(&self, id: &ChunkId) -> Vec<Place> {
        let mut out: Vec<Place> = self.all_places(id).filter(|place| self.base(*place).is_none()).collect();
        out.sort_by_key(|place| !self.is_sound(*place));
        out
    }

    /// Returns a place of a chunk where it is no delta and that nothing bad is known of.
    pub fn trusted_base(&self, id: &ChunkId) -> Option<Place> {
        self.all_places(id).find(|place| self.base(*place).is_none() && self.is_sound(*place))
    }

    /// Says why a place is not trusted, and which bytes of the pack that is about.
    pub fn reason(&self, place: Place) -> Option<(Extent, String)> {
        let pack = self.pack(place.pack)?;
        let bad = self.bad.get(&(place.pack, place.offset)).map(|what| (place.range(), what.clone()));
        bad.or_else(|| pack.flaw.as_ref().map(|flaw| (flaw.range, flaw.what.clone()))).or_else(|| {
            let base = self.base(place).filter(|base| self.trusted_base(base).is_none())?;
            let why = self.base_places(&base).first().and_then(|place| self.reason(*place));
            let why = why.map_or_else(|| "no pack has it".to_owned(), |(_, what)| what);
            Some((place.range(), format!("it is a delta to chunk {base}: {why}")))
        })
    }

    pub fn mark_bad(&mut self, pack: u32, offset: u32, what: String) {
        self.bad.insert((pack, offset), what);
    }

    pub fn mark_good(&mut self, pack: u32, offset: u32) {
        self.bad.remove(&(pack, offset));
    }

    pub fn set_flaw(&mut self, pack: u32, flaw: Option<Flaw>) {
        if let Some(state) = usize::try_from(pack).ok().and_then(|n| self.packs.get_mut(n)) {
            state.flaw = flaw;
        }
    }

    /// Lists the chunks in a pack, by going through all: for the rare case that a pack is damaged.
    pub fn chunks_in(&self, pack: u32) -> Vec<ChunkId> {
        let recent = self.recent.iter().map(|(id, place)| (*id, *place));
        let all = self.sorted.iter().copied().chain(recent);
        all.filter(|(_, place)| place.pack == pack).map(|(id, _)| id).collect()
    }

    /// Lists the places marked as bad: pack number and offset.
    pub fn bad(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.bad.keys().copied()
    }

    /// Returns how many places of chunks are known.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sorted.len() + self.recent.len()
    }
}

/// Returns the XXH3-64 of entries as an index writes them.
pub(super) fn entries_sum(entries: &[Entry]) -> u64 {
    let mut bytes = Vec::new();
    pack::write_entries(entries, &mut bytes);
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::frame::Kind;

    fn listing(pack: u8, chunks: &[u8]) -> PackListing {
        let entries = chunks
            .iter()
            .zip(0..)
            .map(|(chunk, n)| Entry {
                id: ChunkId([*chunk; 32]),
                offset: n * 100,
                stored_len: 36,
                plain_len: 36,
                kind: Kind::Raw,
                base: None,
            })
            .collect();
        PackListing { pack: FileId([pack; 16]), len: 1000, entries }
    }

    #[test]
    fn a_good_place_is_preferred_to_a_bad_one() {
        let mut shelf = Shelf::default();
        shelf.load(&listing(1, &[3, 1, 2]), true, None);
        shelf.load(&listing(2, &[2, 4]), true, None);
        shelf.sort();
        let id = ChunkId([2; 32]);
        let packs = |shelf: &Shelf| shelf.places(&id).iter().map(|place| place.pack).collect::<Vec<_>>();
        assert_eq!(packs(&shelf).len(), 2);
        shelf.mark_bad(0, 200, "test".to_owned());
        assert_eq!(packs(&shelf), [1, 0]);
        assert_eq!(shelf.trusted(&id).unwrap().pack, 1);
        shelf.set_flaw(1, Some(Flaw::new(Extent::new(0, 1), "test")));
        assert_eq!(shelf.trusted(&id), None);
        shelf.add(&listing(3, &[2]));
        assert_eq!(shelf.trusted(&id).unwrap().pack, 2);
        assert_eq!(shelf.trusted(&ChunkId([9; 32])), None);
    }

    #[test]
    fn a_delta_is_trusted_as_far_as_its_base() {
        let mut shelf = Shelf::default();
        let mut deltas = listing(2, &[7, 8]);
        for entry in &mut deltas.entries {
            (entry.kind, entry.base) = (Kind::Delta, Some(ChunkId([1; 32])));
        }
        shelf.load(&deltas, true, None);
        let [delta, base] = [7, 1].map(|n| ChunkId([n; 32]));
        assert_eq!(shelf.trusted(&delta), None);
        let (range, what) = shelf.reason(shelf.places(&delta)[0]).unwrap();
        assert_eq!((range, what), (Extent::new(0, 100), format!("it is a delta to chunk {base}: no pack has it")));
        // A delta that is said to be a base is none.
        deltas.pack = FileId([3; 16]);
        deltas.entries[0].id = base;
        shelf.load(&deltas, true, None);
        shelf.sort();
        assert_eq!((shelf.trusted(&delta), shelf.trusted(&base)), (None, None));
        shelf.add(&listing(4, &[1]));
        assert_eq!(shelf.trusted(&delta).unwrap().pack, 0);
        assert_eq!(shelf.trusted_base(&base).unwrap().pack, 2);
        shelf.mark_bad(2, 0, "test".to_owned());
        assert_eq!(shelf.trusted(&delta), None);
        assert!(shelf.reason(shelf.places(&delta)[0]).unwrap().1.ends_with(": test"));
    }

    #[test]
    fn an_entry_takes_48_bytes() {
        assert_eq!(size_of::<(ChunkId, Place)>(), 48);
    }
}

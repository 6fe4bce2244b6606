//! Giving chunks back: a chunk is returned only after its hash matched.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::{
    ChunkId, Error, Store,
    fault::Fault,
    frame::{self, Base, Decoder, FrameHeader},
    pack,
    shelf::Place,
};

/// Pauses before a read that failed is tried again: network mounts report errors that are gone a moment later.
const RETRIES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// Reads chunks of a store. One a thread: it keeps its buffer and its zstd context.
pub struct Reader {
    store: Store,
    decoder: Decoder,
    frame: Vec<u8>,
    /// The chunk that the last delta was to.
    base: Vec<u8>,
    /// What was read of packs since somebody asked, and how long that took.
    fetched: (u64, Duration),
}

impl Clone for Reader {
    fn clone(&self) -> Self {
        Self::new(self.store.clone())
    }
}

impl Store {
    /// Returns what reads chunks. Cheap; one a thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }
}

impl Reader {
    fn new(store: Store) -> Self {
        Self { store, decoder: Decoder::new(), frame: Vec::new(), base: Vec::new(), fetched: (0, Duration::ZERO) }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Reads a chunk into `plain`, from the first of its places that holds it undamaged.
    ///
    /// # Errors
    /// [`Error::Missing`] when no pack has it, and for the zero chunk; [`Error::Chunk`] when all places are damaged.
    /// `plain` is empty then.
    pub fn read_chunk(&mut self, id: &ChunkId, plain: &mut Vec<u8>) -> Result<(), Error> {
        plain.clear();
        self.first_good(id, |reader, place| reader.decode(id, place, plain))
    }

    /// Checks the header and the stored bytes of a chunk's frame, without decompressing it. Of a delta that is half of what
    /// it takes: its base is another chunk's frame.
    ///
    /// # Errors
    /// As [`Reader::read_chunk`].
    pub fn check_frame(&mut self, id: &ChunkId) -> Result<(), Error> {
        self.first_good(id, |reader, place| reader.scrub(id, place))
    }

    /// Returns how many bytes of packs were read since this was asked before, and how long the store took to give them.
    pub const fn fetched(&mut self) -> (u64, Duration) {
        std::mem::replace(&mut self.fetched, (0, Duration::ZERO))
    }

    fn first_good(
        &mut self,
        id: &ChunkId,
        mut attempt: impl FnMut(&mut Self, Place) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        let places = self.store.shelf().places(id);
        let mut first = None;
        for place in places {
            match attempt(self, place) {
                Ok(()) => return Ok(()),
                Err(fault) => first = first.or(Some((place, fault))),
            }
        }
        let Some((place, fault)) = first else { return Err(Error::Missing { chunk: *id }) };
        let shelf = self.store.shelf();
        let pack = shelf.pack(place.pack).map(|pack| pack.id).ok_or(Error::Missing { chunk: *id })?;
        Err(Error::Chunk { chunk: *id, pack, range: place.range(), fault })
    }

    pub(super) fn scrub(&mut self, id: &ChunkId, place: Place) -> Result<(), Fault> {
        let header = self.fetch(id, place)?;
        header.check_stored(self.frame.get(frame::HEADER_LEN..).unwrap_or_default())
    }

    /// Checks everything of a frame and returns its chunk's plain bytes.
    pub(super) fn decode(&mut self, id: &ChunkId, place: Place, plain: &mut Vec<u8>) -> Result<(), Fault> {
        let base = self.store.shelf().base(place);
        let mut bytes = std::mem::take(&mut self.base);
        let result = (|| {
            if let Some(base) = base {
                self.read_base(&base, &mut bytes).map_err(|fault| Fault::Base { base, fault: Box::new(fault) })?;
            }
            let header = self.fetch(id, place)?;
            let stored = self.frame.get(frame::HEADER_LEN..).unwrap_or_default();
            self.decoder.decode(&header, stored, base.map(|id| Base { id, plain: &bytes }), plain)
        })();
        self.base = bytes;
        result
    }

    /// Reads a chunk from the first of its places that holds it undamaged and as no delta.
    ///
    /// # Errors
    /// What was wrong with the first place, or [`Fault::Missing`]. `plain` is empty then.
    pub(super) fn read_base(&mut self, id: &ChunkId, plain: &mut Vec<u8>) -> Result<(), Fault> {
        let places = self.store.shelf().base_places(id);
        let mut first = Fault::Missing;
        for (n, place) in places.into_iter().enumerate() {
            let read = self.fetch(id, place).and_then(|header| {
                let stored = self.frame.get(frame::HEADER_LEN..).unwrap_or_default();
                self.decoder.decode(&header, stored, None, plain)
            });
            match read {
                Ok(()) => return Ok(()),
                Err(fault) if n == 0 => first = fault,
                Err(_) => {}
            }
        }
        plain.clear();
        Err(first)
    }

    /// Reads the frame at `place` and checks its header against what the index says.
    fn fetch(&mut self, id: &ChunkId, place: Place) -> Result<FrameHeader, Fault> {
        let name = self.store.shelf().pack(place.pack).map(|pack| pack::path(pack.id)).ok_or(Fault::Truncated)?;
        // At most the longest chunk and a header: `Entry::read` bounded it.
        let len = usize::try_from(place.range().len()).map_err(|_| Fault::Truncated)?;
        self.frame.resize(len, 0);
        self.read(&name, u64::from(place.offset))?;
        let header = FrameHeader::parse(&self.frame)?;
        if (header.id, header.stored_len, header.plain_len) == (*id, place.stored_len, place.plain_len) {
            Ok(header)
        } else {
            Err(Fault::Index)
        }
    }

    fn read(&mut self, name: &str, offset: u64) -> Result<(), Fault> {
        let began = Instant::now();
        let result = self.read_patiently(name, offset);
        let (bytes, time) = self.fetched;
        self.fetched = (bytes.saturating_add(self.frame.len() as u64), time.saturating_add(began.elapsed()));
        result
    }

    fn read_patiently(&mut self, name: &str, offset: u64) -> Result<(), Fault> {
        let mut pauses = RETRIES.iter();
        loop {
            let Err(error) = self.store.backend().read_range(name, offset, &mut self.frame) else { return Ok(()) };
            match pauses.next() {
                _ if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Fault::Truncated),
                Some(pause) => thread::sleep(*pause),
                None => return Err(Fault::Io(error.to_string())),
            }
        }
    }
}

//! Giving chunks back: a chunk is returned only after its hash matched.

use std::{io, thread, time::Duration};

use super::{
    ChunkId, Error, Store,
    fault::Fault,
    frame::{self, Decoder, FrameHeader},
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
        Self { store, decoder: Decoder::new(), frame: Vec::new() }
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
        self.first_good(id, |reader, place| {
            let header = reader.fetch(id, place)?;
            let stored = reader.frame.get(frame::HEADER_LEN..).unwrap_or_default();
            reader.decoder.decode(&header, stored, plain)
        })
    }

    /// Checks the header and the stored bytes of a chunk's frame, without decompressing it.
    ///
    /// # Errors
    /// As [`Reader::read_chunk`].
    pub fn check_frame(&mut self, id: &ChunkId) -> Result<(), Error> {
        self.first_good(id, |reader, place| reader.scrub(id, place))
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

    /// Checks everything of a frame, plain bytes included.
    pub(super) fn decode(&mut self, id: &ChunkId, place: Place, plain: &mut Vec<u8>) -> Result<(), Fault> {
        let header = self.fetch(id, place)?;
        self.decoder.decode(&header, self.frame.get(frame::HEADER_LEN..).unwrap_or_default(), plain)
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

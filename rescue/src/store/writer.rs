//! Storing chunks and committing an image.
//!
//! The order is the promise: a pack is written, synced and renamed; then the index that lists it; then, after every chunk
//! the manifest names was found in a pack of the right length, the manifest. Killed anywhere, the store holds whole
//! images and packs that the next run uses again.
//!
//! A full pack is synced by a thread of its own while the next one fills: storage takes its time for a sync, and nobody
//! else should have to wait for it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::{
    ChunkId, EncodedFrame, Error, FileId, Manifest, Reader, Store,
    backend::Sink,
    images, index,
    index::PackListing,
    manifest::ChunkRun,
    pack::{self, Entry},
};

/// Full packs that are synced at the same time: one that storage works on, and one that waits for its turn.
const SYNCING: usize = 2;

/// Stores chunks and commits images. Workers claim from several threads; dropped without a commit it leaves its
/// finished packs for the next run.
pub struct Writer {
    store: Store,
    claimed: Mutex<HashSet<ChunkId>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<OpenPack>,
    /// Packs that are being synced, in the order they were begun.
    syncing: VecDeque<JoinHandle<Result<PackListing, Error>>>,
    /// Finished packs that no index file lists yet.
    unlisted: Vec<PackListing>,
    stored: u64,
    /// Deltas were stored: packs that begin now say that they may have some.
    deltas: bool,
    /// A write failed: what is on the disk now is no longer known, so nothing more is written.
    failed: bool,
}

struct OpenPack {
    id: FileId,
    /// Whether its header says that deltas may be in it.
    deltas: bool,
    sink: Box<dyn Sink>,
    entries: Vec<Entry>,
    at: u64,
}

impl Store {
    /// Announces this process as a writer and returns what stores chunks.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::NoSpace`] when nothing can be written.
    pub fn writer(&self) -> Result<Writer, Error> {
        self.backend().lock().map_err(Error::writing(self.backend(), "locks", 0))?;
        self.repair()?;
        Ok(Writer { store: self.clone(), claimed: Mutex::default(), state: Mutex::default() })
    }
}

impl Writer {
    /// Tells whether the store has no good copy of a chunk and nobody claimed it before: then the caller must encode
    /// and [`Writer::put`] it. `true` exactly once a chunk and writer.
    #[must_use]
    pub fn claim(&self, id: &ChunkId) -> bool {
        // Under the lock, because a finished pack moves its chunks from here to the shelf.
        let mut claimed = locked(&self.claimed);
        !claimed.contains(id) && !self.is_known(id) && claimed.insert(*id)
    }

    /// Tells whether the store has a chunk already, in a place that nothing bad is known of. The zero chunk it has.
    #[must_use]
    pub fn is_known(&self, id: &ChunkId) -> bool {
        *id == ChunkId::ZERO || self.store.shelf().trusted(id).is_some()
    }

    /// Reads a chunk that another one may be stored as a delta to: `like` itself, or where that is a delta, what it is a
    /// delta to. Returns its id; `None` where the store has no such chunk in a place that nothing bad is known of, or
    /// cannot give it back: a chunk can always do without a base.
    ///
    /// * `reader`: of the same store.
    /// * `plain`: takes the chunk's bytes.
    pub fn read_base(&self, like: &ChunkId, reader: &mut Reader, plain: &mut Vec<u8>) -> Option<ChunkId> {
        let base = {
            let shelf = self.store.shelf();
            match shelf.trusted_base(like) {
                Some(_) => *like,
                None => shelf.base(shelf.trusted(like)?)?,
            }
        };
        reader.read_base(&base, plain).ok()?;
        Some(base)
    }

    /// Puts a frame into the open pack, and finishes the pack when it is full. Called from one thread.
    ///
    /// # Errors
    /// [`Error::NoSpace`] or [`Error::Io`]; this writer then stores nothing more.
    pub fn put(&self, frame: &EncodedFrame) -> Result<(), Error> {
        let mut state = self.writable()?;
        let result = self.put_frame(&mut state, frame);
        settle(&mut state, result)
    }

    fn put_frame(&self, state: &mut State, frame: &EncodedFrame) -> Result<(), Error> {
        if u64::from(frame.header.plain_len) > self.store.chunk_len() {
            let (len, max) = (frame.header.plain_len, self.store.chunk_len());
            return Err(Error::Refused(format!(
                "a chunk of {len} bytes does not belong in a store with chunks of {max}"
            )));
        }
        state.deltas |= frame.base.is_some();
        let takes = |open: &OpenPack| {
            pack::has_room(open.at, open.entries.len(), frame) && (open.deltas || frame.base.is_none())
        };
        if !state.open.as_ref().is_none_or(takes) {
            self.finish_pack(state)?;
        }
        let open = match &mut state.open {
            Some(open) => open,
            none => none.insert(self.begin_pack(frame, state.deltas)?),
        };
        let name = pack::path(open.id);
        let frames = open.entries.len() + 1;
        let needed = frame.len() + pack::ending_len(frames, frames);
        open.sink.write_all(&frame.bytes).map_err(Error::writing(self.store.backend(), &name, needed as u64))?;
        let offset = u32::try_from(open.at).map_err(|_| Error::Refused("a pack grew beyond 64 MiB".to_owned()))?;
        open.entries.push(Entry::of(&frame.header, frame.base, offset));
        open.at += frame.len() as u64;
        state.stored += frame.len() as u64;
        Ok(())
    }

    fn begin_pack(&self, first: &EncodedFrame, deltas: bool) -> Result<OpenPack, Error> {
        let id = FileId::random().map_err(Error::io("naming", "packs"))?;
        let (backend, name) = (self.store.backend(), pack::path(id));
        let chunk_len = u32::try_from(self.store.chunk_len()).unwrap_or(u32::MAX);
        let header = pack::Header { store: self.store.id(), pack: id, chunk_len, deltas }.to_bytes();
        let needed = (header.len() + first.len() + pack::ending_len(1, 1)) as u64;
        let mut sink = backend.create(&name).map_err(Error::writing(backend, &name, needed))?;
        sink.write_all(&header).map_err(Error::writing(backend, &name, needed))?;
        Ok(OpenPack { id, deltas, sink, entries: Vec::new(), at: header.len() as u64 })
    }

    /// Ends the open pack, and leaves it to a thread to make it durable.
    fn finish_pack(&self, state: &mut State) -> Result<(), Error> {
        let Some(mut open) = state.open.take() else { return Ok(()) };
        while state.syncing.len() >= SYNCING {
            self.take_synced(state)?;
        }
        let (store, name) = (self.store.clone(), pack::path(open.id));
        let ending = pack::ending(open.id, &open.entries);
        let needed = ending.len() as u64;
        open.sink.write_all(&ending).map_err(Error::writing(store.backend(), &name, needed))?;
        let len = open.at + needed;
        let sync = move || {
            open.sink.finish().map_err(Error::writing(store.backend(), &name, needed))?;
            check_len(&store, &name, len)?;
            Ok(PackListing { pack: open.id, len, entries: open.entries })
        };
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(sync);
        state.syncing.push_back(thread.map_err(Error::io("starting a thread for", "packs"))?);
        Ok(())
    }

    /// Waits for the pack that is synced first, and has the shelf know its chunks.
    fn take_synced(&self, state: &mut State) -> Result<(), Error> {
        let Some(thread) = state.syncing.pop_front() else { return Ok(()) };
        let broken = |_| Error::Refused("the thread that synced a pack broke off".to_owned());
        let listing = thread.join().map_err(broken)??;
        self.store.shelf_mut().add(&listing);
        let claimed: Vec<_> = listing.entries.iter().map(|entry| entry.id).collect();
        state.unlisted.push(listing);
        if state.unlisted.iter().map(|list| list.entries.len()).sum::<usize>() >= index::ENTRIES {
            self.list_packs(state)?;
        }
        // The shelf knows them now; forgetting them here keeps a long capture's memory flat.
        let mut set = locked(&self.claimed);
        claimed.iter().for_each(|id| {
            set.remove(id);
        });
        Ok(())
    }

    /// Ends the open pack and waits until every pack is durable; the first error is kept, and later packs all the same.
    fn finish_all(&self, state: &mut State) -> Result<(), Error> {
        let mut result = self.finish_pack(state);
        while !state.syncing.is_empty() {
            result = result.and(self.take_synced(state));
        }
        result
    }

    fn list_packs(&self, state: &mut State) -> Result<(), Error> {
        self.store.write_index(&state.unlisted)?;
        state.unlisted.clear();
        Ok(())
    }

    /// Makes everything stored so far durable, then the image: its manifest appears last.
    ///
    /// The image gets a new id, and as `stored_bytes` what this writer stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the manifest contradicts itself, [`Error::Refused`] when it is longer than any reader takes,
    /// [`Error::Missing`] when it names a chunk that no good
    /// pack holds, or what a write ended with. There is no image then.
    pub fn commit(&self, manifest: Manifest) -> Result<Manifest, Error> {
        let mut state = self.writable()?;
        let result = self.commit_image(&mut state, manifest);
        settle(&mut state, result)
    }

    fn commit_image(&self, state: &mut State, mut manifest: Manifest) -> Result<Manifest, Error> {
        let id = FileId::random().map_err(Error::io("naming", "images"))?;
        let name = images::path(id);
        manifest.version = u32::from(super::VERSION);
        manifest.id = id.to_string();
        manifest.stored_bytes = state.stored;
        manifest.validate(self.store.chunk_len()).map_err(|what| Error::Invalid { file: name.clone(), what })?;
        let measured = images::measure(id, &manifest)?;
        self.finish_all(state)?;
        self.list_packs(state)?;
        self.check_chunks(&manifest)?;
        if let Err(error) = images::write(&self.store, id, &measured) {
            // Some storage fails and has the file all the same. A run that failed leaves no image.
            let _ = self.store.backend().delete(&name);
            return Err(error);
        }
        Ok(manifest)
    }

    /// Checks that every chunk the manifest names is there, in a pack whose file still has its length.
    fn check_chunks(&self, manifest: &Manifest) -> Result<(), Error> {
        let files: HashMap<String, u64> =
            self.store.list("packs")?.into_iter().map(|file| (file.name, file.len)).collect();
        let shelf = self.store.shelf();
        let whole: Vec<bool> =
            shelf.packs().iter().map(|pack| files.get(&pack::path(pack.id)) == Some(&pack.len)).collect();
        for region in &manifest.regions {
            for run in &region.chunks {
                let ChunkRun::Data { first, ids } = run else { continue };
                for (number, id) in (*first..).zip(ids) {
                    let place = shelf.trusted(id).ok_or(Error::Missing { chunk: *id })?;
                    let want = region.chunk_range(number, manifest.chunk_len).len();
                    if u64::from(place.plain_len) != want {
                        let what = format!("chunk {id} has {} bytes, its place on the disk {want}", place.plain_len);
                        return Err(Error::Invalid { file: images::path_of(&manifest.id), what });
                    }
                    let is_whole = |pack: u32| usize::try_from(pack).is_ok_and(|n| whole.get(n) == Some(&true));
                    if !is_whole(place.pack) {
                        return Err(Error::Missing { chunk: *id });
                    }
                    if let Some(base) = shelf.base(place)
                        && !shelf.trusted_base(&base).is_some_and(|place| is_whole(place.pack))
                    {
                        return Err(Error::Missing { chunk: base });
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps and lists what was stored, for the next run to use.
    fn wind_up(&self) -> Result<(), Error> {
        let mut state = locked(&self.state);
        if state.failed {
            // The unfinished pack goes first: on a full disk its space is what the index needs.
            state.open = None;
        }
        let finished = self.finish_all(&mut state);
        finished.and(self.list_packs(&mut state))
    }

    fn writable(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = locked(&self.state);
        if state.failed {
            return Err(Error::Refused("an earlier write to the store failed, so nothing more is written".to_owned()));
        }
        Ok(state)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody is left to tell; the next writer finds unlisted packs by itself.
        let _ = self.wind_up();
    }
}

/// Asks the storage how long a file is that it just took. Some have said yes and kept less.
fn check_len(store: &Store, name: &str, len: u64) -> Result<(), Error> {
    let kept = store.backend().len(name).map_err(Error::io("checking", name))?;
    if kept == len {
        return Ok(());
    }
    Err(Error::corrupt(name, kept.min(len), format!("{len} bytes were written, and the storage kept {kept}")))
}

fn settle<T>(state: &mut State, result: Result<T, Error>) -> Result<T, Error> {
    if result.is_err() {
        state.failed = true;
        state.open = None;
    }
    result
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

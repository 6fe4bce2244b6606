//! Opening a store: indexes first, then packs, and whatever is wrong is noted and gone round.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    CONFIG, Error, FileId, Problem,
    backend::{Backend, FolderBackend, read_file, remove},
    config::{self, Config, CreateOptions},
    error::told,
    index::{self, PackListing},
    pack::{self, Flaw},
    records,
    shelf::Shelf,
};
use crate::extent::Extent;

/// A store, open. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    config: Config,
    repairs: Mutex<Repairs>,
    shelf: RwLock<Shelf>,
    problems: Vec<Problem>,
}

/// What the next writer sets right.
#[derive(Default)]
struct Repairs {
    /// The config file could not be used, and was worked out from the packs.
    config: bool,
    /// Index files whose bytes are not what was written.
    indexes: Vec<String>,
    /// Packs that no index file lists.
    unlisted: Vec<PackListing>,
}

impl Store {
    /// Makes a store on a backend that holds none.
    ///
    /// # Errors
    /// [`Error::Refused`] when a store is there.
    pub fn create_on(backend: Arc<dyn Backend>, options: CreateOptions) -> Result<Self, Error> {
        let random = FileId::random().map_err(Error::io("naming", CONFIG))?;
        let bytes = Config::new(random, options)?.to_bytes();
        let packs = backend.list("packs").map_err(Error::io("listing", "packs"))?;
        if backend.len(CONFIG).is_ok() || !packs.is_empty() {
            return Err(Error::Refused(format!("{} is a store already", backend.place())));
        }
        backend.put(CONFIG, &bytes).map_err(Error::writing(&*backend, CONFIG, bytes.len() as u64))?;
        Self::open_on(backend)
    }

    /// Opens the store in `path`. Writes nothing; a read-only mount will do.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Unsupported`], or [`Error::Corrupt`] when what the store agrees on is lost.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let backend = FolderBackend::new(path).map_err(Error::io("opening", &path.display().to_string()))?;
        Self::open_on(Arc::new(backend)).map_err(|error| match error {
            Error::NotAStore { .. } => Error::NotAStore { path: path.to_owned() },
            other => other,
        })
    }

    /// Opens the store on a backend.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let (config, config_lost) = read_config(&*backend, &mut problems)?;
        let (shelf, mut repairs) =
            Loader { backend: &*backend, store: config.store, problems: &mut problems }.load()?;
        repairs.config = config_lost;
        let (shelf, repairs) = (RwLock::new(shelf), Mutex::new(repairs));
        Ok(Self { inner: Arc::new(Inner { backend, config, repairs, shelf, problems }) })
    }

    /// Returns the store's own id.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.inner.config.store
    }

    /// Returns how many bytes a chunk has.
    #[must_use]
    pub fn chunk_len(&self) -> u64 {
        self.inner.config.chunk_len
    }

    /// Returns how many bytes are free where the store is; `None` where that cannot be told.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        self.backend().free().ok().flatten()
    }

    /// Returns what was wrong with the store when it was opened. It can be used all the same.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.inner.problems
    }

    /// Writes anew what was found damaged when the store was opened and follows from the packs. Nothing is lost: what is
    /// replaced is kept in `damaged/`. Another writer may have done the same in the meantime.
    pub(super) fn repair(&self) -> Result<(), Error> {
        let mut repairs = self.inner.repairs.lock().unwrap_or_else(PoisonError::into_inner);
        if repairs.config {
            if read_file(self.backend(), CONFIG, config::MAX_LEN).is_ok_and(|bytes| Config::parse(&bytes).is_err()) {
                self.set_aside(CONFIG)?;
            }
            self.put(CONFIG, &self.inner.config.to_bytes())?;
            repairs.config = false;
        }
        self.write_index(&repairs.unlisted)?;
        repairs.unlisted.clear();
        while let Some(file) = repairs.indexes.pop() {
            self.set_aside(&file)?;
            remove(self.backend(), &file).map_err(Error::io("removing", &file))?;
        }
        Ok(())
    }

    fn set_aside(&self, file: &str) -> Result<(), Error> {
        // What is not there, or cannot be read, leaves nothing to keep.
        let Ok(bytes) = read_file(self.backend(), file, index::MAX_LEN) else { return Ok(()) };
        let leaf = file.rsplit('/').next().unwrap_or(file);
        self.put(&format!("damaged/{leaf}.was"), &bytes)
    }

    pub(super) fn write_index(&self, packs: &[PackListing]) -> Result<(), Error> {
        if packs.is_empty() {
            return Ok(());
        }
        let id = FileId::random().map_err(Error::io("naming", "index"))?;
        self.put(&index::path(id), &index::to_bytes(self.id(), id, packs))
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.backend().put(name, bytes).map_err(Error::writing(self.backend(), name, bytes.len() as u64))
    }

    pub(super) fn list(&self, folder: &str) -> Result<Vec<super::backend::Listing>, Error> {
        self.backend().list(folder).map_err(Error::io("listing", folder))
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    pub(super) fn shelf(&self) -> RwLockReadGuard<'_, Shelf> {
        self.inner.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shelf_mut(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.inner.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what the store agrees on; where the file is lost or damaged, the packs tell it as well.
fn read_config(backend: &dyn Backend, problems: &mut Vec<Problem>) -> Result<(Config, bool), Error> {
    let error = match read_file(backend, CONFIG, config::MAX_LEN) {
        Ok(bytes) => match Config::parse(&bytes) {
            Ok(config) => return Ok((config, false)),
            Err(error @ Error::Corrupt { .. }) => error,
            Err(error) => return Err(error),
        },
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Error::NotAStore { path: backend.place().into() }
        }
        Err(e) => return Err(Error::io("reading", CONFIG)(e)),
    };
    let packs = backend.list("packs").unwrap_or_default();
    let header = packs.iter().find_map(|file| pack::read_header(backend, pack::from_path(&file.name)?).ok());
    let Some(header) = header else { return Err(error) };
    let options = CreateOptions { chunk_len: u64::from(header.chunk_len) };
    let Ok(config) = Config::new(header.store, options) else { return Err(error) };
    let what = format!("{error}; its content is taken from a pack, and the next writer writes it again");
    problems.push(Problem { file: CONFIG.to_owned(), what });
    Ok((config, true))
}

/// Fills the index in memory.
struct Loader<'a> {
    backend: &'a dyn Backend,
    store: FileId,
    problems: &'a mut Vec<Problem>,
}

impl Loader<'_> {
    fn load(mut self) -> Result<(Shelf, Repairs), Error> {
        let (mut shelf, mut repairs) = (Shelf::default(), Repairs::default());
        // Indexes before packs: a pack that another writer finishes in between is adopted, not missed.
        for file in self.backend.list("index").map_err(Error::io("listing", "index"))? {
            self.index(&file.name, &mut shelf, &mut repairs);
        }
        let files = self.backend.list("packs").map_err(Error::io("listing", "packs"))?;
        let mut packs: HashMap<FileId, u64> =
            files.iter().filter_map(|file| Some((pack::from_path(&file.name)?, file.len))).collect();
        self.check_lens(&mut shelf, &mut packs);
        for (id, len) in packs {
            self.adopt(&mut shelf, &mut repairs, id, len);
        }
        shelf.sort();
        records::load(self.backend, &mut shelf, self.problems)?;
        Ok((shelf, repairs))
    }

    fn index(&mut self, file: &str, shelf: &mut Shelf, repairs: &mut Repairs) {
        let Some(id) = index::from_path(file) else { return };
        let bytes = read_file(self.backend, file, index::MAX_LEN).map_err(Error::io("reading", file));
        match bytes.and_then(|bytes| index::parse(&bytes, self.store, id)) {
            Ok(listings) => {
                for listing in
                    listings.iter().filter(|listing| shelf.number(listing.pack).is_none()).collect::<Vec<_>>()
                {
                    shelf.load(listing, true, None);
                }
            }
            Err(error) => {
                self.problem(file, format!("{}; the packs themselves are asked instead", told(&error)));
                if matches!(error, Error::Corrupt { .. }) {
                    repairs.indexes.push(file.to_owned());
                }
            }
        }
    }

    /// Compares the packs on the shelf with the files there are, and takes them out of `packs`.
    fn check_lens(&mut self, shelf: &mut Shelf, packs: &mut HashMap<FileId, u64>) {
        for number in 0..shelf.pack_count() {
            let Some((id, want)) = shelf.pack(number).map(|pack| (pack.id, pack.len)) else { continue };
            let (range, what) = match packs.remove(&id) {
                Some(len) if len == want => continue,
                Some(len) => {
                    let range = Extent::new(len.min(want), len.max(want));
                    (range, format!("it has {len} bytes, and the index says {want}"))
                }
                None => (Extent::new(0, want), "it is missing, and the index lists chunks in it".to_owned()),
            };
            self.problem(&pack::path(id), what.clone());
            shelf.set_flaw(number, Some(Flaw::new(range, what)));
        }
    }

    /// Takes in a pack that no index lists, by its own index, or frame by frame where that is lost too.
    fn adopt(&mut self, shelf: &mut Shelf, repairs: &mut Repairs, id: FileId, len: u64) {
        match self.ours(id).and_then(|()| pack::read_entries(self.backend, id, len)) {
            Ok(entries) => {
                let listing = PackListing { pack: id, len, entries };
                shelf.load(&listing, false, None);
                repairs.unlisted.push(listing);
            }
            Err(flaw) => {
                let entries = pack::rescan(self.backend, id, len);
                self.problem(
                    &pack::path(id),
                    format!("{flaw}; {} frames were found in it all the same", entries.len()),
                );
                shelf.load(&PackListing { pack: id, len, entries }, false, Some(flaw));
            }
        }
    }

    /// Checks that a pack's header can be understood and is for this store.
    fn ours(&self, id: FileId) -> Result<(), Flaw> {
        let header = pack::read_header(self.backend, id)?;
        if header.store == self.store {
            return Ok(());
        }
        Err(Flaw::new(Extent::new(0, pack::HEADER_LEN as u64), format!("it was written for store {}", header.store)))
    }

    fn problem(&mut self, file: &str, what: String) {
        self.problems.push(Problem { file: file.to_owned(), what });
    }
}

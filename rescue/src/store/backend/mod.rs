//! Where a store's files live: a folder now, object storage later.
//!
//! Names are relative, with `/` between folders: `packs/3f/3f….pack`. A name appears with all its bytes or not at
//! all, and when [`Backend::put`] or [`Sink::finish`] has returned it survives a power cut.

pub mod faulty;
pub mod folder;
pub mod memory;

use std::io::{self, Read, Write};

pub use self::{
    faulty::{Fault, FaultyBackend},
    folder::FolderBackend,
    memory::MemoryBackend,
};

/// One file of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listing {
    /// Its name, folders included.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Files by name. Methods may be called from several threads at once.
pub trait Backend: Send + Sync {
    /// Returns what messages call the place.
    fn place(&self) -> String;

    /// Writes a whole file, replacing one of that name. Atomic, and durable on return.
    ///
    /// # Errors
    /// The system's; a name that is new then means nothing, and one that was there its old bytes or all of the new ones.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Begins a file that is written in pieces and appears only with [`Sink::finish`].
    ///
    /// # Errors
    /// The system's.
    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>>;

    /// Fills `buf` from byte `offset` of a file on.
    ///
    /// # Errors
    /// The system's; a file that ends too early is `UnexpectedEof`.
    fn read_range(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Returns the length of a file in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self, name: &str) -> io::Result<u64>;

    /// Lists the files in `folder` and the folders below it. Unfinished files are not listed; a folder that is not
    /// there holds nothing.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, folder: &str) -> io::Result<Vec<Listing>>;

    /// Removes a file, for good.
    ///
    /// # Errors
    /// The system's.
    fn delete(&self, name: &str) -> io::Result<()>;

    /// Announces this process as a writer until the backend is dropped, and clears away what dead ones left
    /// unfinished. May be called again.
    ///
    /// # Errors
    /// The system's, for example on a read-only mount.
    fn lock(&self) -> io::Result<()>;

    /// Returns how many bytes are free, where that can be told.
    ///
    /// # Errors
    /// The system's.
    fn free(&self) -> io::Result<Option<u64>>;
}

/// A file being written. Dropped before [`Sink::finish`] it never existed.
pub trait Sink: Send {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// The system's; nothing but dropping the sink makes sense then.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// The system's; the file does not exist then.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl Write for dyn Sink + '_ {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Sink::write_all(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file from its start to its end, for whoever takes it in pieces.
pub struct FileReader<'a> {
    backend: &'a dyn Backend,
    name: &'a str,
    at: u64,
    len: u64,
}

impl<'a> FileReader<'a> {
    /// Begins to read a file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(backend: &'a dyn Backend, name: &'a str) -> io::Result<Self> {
        Ok(Self { backend, name, at: 0, len: backend.len(name)? })
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let Some(buf) = buf.get_mut(..len).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        self.backend.read_range(self.name, self.at, buf)?;
        self.at = self.at.saturating_add(len as u64);
        Ok(len)
    }
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// The system's; `FileTooLarge` before any memory is taken.
pub fn read_file(backend: &dyn Backend, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let len = backend.len(name)?;
    if len > limit {
        let what = format!("{len} bytes long, and no such file has more than {limit}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    backend.read_range(name, 0, &mut bytes)?;
    Ok(bytes)
}

/// Removes a file that another writer may be removing as well.
///
/// # Errors
/// The system's, but for a file that is gone already.
pub fn remove(backend: &dyn Backend, name: &str) -> io::Result<()> {
    match backend.delete(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Tells whether an error means that the store's disk or a quota is full.
#[must_use]
pub fn no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

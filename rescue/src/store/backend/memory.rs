//! A store in memory, for tests: as real as a folder, and quick.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Backend, Listing, Sink};

type Files = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

/// Files in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    files: Files,
}

impl MemoryBackend {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a copy whose files change apart from these.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { files: Arc::new(Mutex::new(self.files().clone())) }
    }

    /// Returns the bytes of a file.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.files().get(name).map(|bytes| bytes.to_vec())
    }

    /// Puts a file there, past all that a real backend would do.
    pub fn set(&self, name: &str, bytes: Vec<u8>) {
        self.files().insert(name.to_owned(), Arc::new(bytes));
    }

    /// Takes a file away.
    pub fn unset(&self, name: &str) {
        self.files().remove(name);
    }

    /// Returns the names of all files, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.files().keys().cloned().collect()
    }
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no {name}"))
}

impl Backend for MemoryBackend {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.set(name, bytes.to_vec());
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(MemorySink { backend: self.clone(), name: name.to_owned(), bytes: Vec::new() }))
    }

    fn read_range(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.files().get(name).cloned().ok_or_else(|| not_found(name))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start.checked_add(buf.len()).and_then(|end| bytes.get(start..end));
        buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.files().get(name).map(|bytes| bytes.len() as u64).ok_or_else(|| not_found(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listing>> {
        let inside =
            |name: &str| folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        Ok(self
            .files()
            .iter()
            .filter(|(name, _)| inside(name))
            .map(|(name, bytes)| Listing { name: name.clone(), len: bytes.len() as u64 })
            .collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(drop).ok_or_else(|| not_found(name))
    }

    fn lock(&self) -> io::Result<()> {
        Ok(())
    }

    fn free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

struct MemorySink {
    backend: MemoryBackend,
    name: String,
    bytes: Vec<u8>,
}

impl Sink for MemorySink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.backend.set(&self.name, self.bytes);
        Ok(())
    }
}

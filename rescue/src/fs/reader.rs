//! Small reads from a region, served from one larger read: bitmaps and tables of neighbours lie side by side.

use crate::block::{Error, ReadAt};

/// Bytes read at once.
const WINDOW: u64 = 256 << 10;

/// Reads small pieces of a region. Not shared between threads; each user has its own.
pub struct SmallReader<'a> {
    region: &'a dyn ReadAt,
    start: u64,
    window: Vec<u8>,
    own: Vec<u8>,
}

impl<'a> SmallReader<'a> {
    /// Reads from `region`.
    #[must_use]
    pub const fn new(region: &'a dyn ReadAt) -> Self {
        Self { region, start: 0, window: Vec::new(), own: Vec::new() }
    }

    /// Returns the `len` bytes at `offset`, at most 256 KiB.
    ///
    /// # Errors
    /// Those of the region; a bad sector near the wanted bytes is none.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<&[u8], Error> {
        let beyond =
            || Error::Beyond { disk: "the region".to_owned(), offset, len: len as u64, size: self.region.len() };
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.region.len()).ok_or_else(beyond)?;
        if len as u64 > WINDOW {
            return Err(beyond());
        }
        let window_end = self.start.saturating_add(self.window.len() as u64);
        if offset < self.start || end > window_end {
            self.refill(offset, len)?;
        }
        if offset < self.start || end > self.start.saturating_add(self.window.len() as u64) {
            return Ok(&self.own);
        }
        let from = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let too_far = Error::Beyond { disk: "the region".to_owned(), offset, len: len as u64, size: self.region.len() };
        self.window.get(from..from.saturating_add(len)).ok_or(too_far)
    }

    fn refill(&mut self, offset: u64, len: usize) -> Result<(), Error> {
        let want = WINDOW.min(self.region.len().saturating_sub(offset));
        let want = usize::try_from(want).unwrap_or(len).max(len);
        self.window.resize(want, 0);
        self.start = offset;
        if self.region.read_exact_at(&mut self.window, offset).is_err() {
            // Somewhere in the window is a bad sector; it matters only when it lies in the bytes asked for.
            self.window.clear();
            self.own.resize(len, 0);
            self.own.fill(0);
            self.region.read_exact_at(&mut self.own, offset)?;
        }
        Ok(())
    }
}

//! Small reads from a region, served from one larger read: bitmaps and tables of neighbours lie side by side.

use crate::{
    block::{Error, ReadAt},
    extent::Extent,
};

/// Bytes read at once.
const WINDOW: u64 = 256 << 10;

/// Reads small pieces of a region. Not shared between threads; each user has its own.
pub struct SmallReader<'a> {
    region: &'a dyn ReadAt,
    start: u64,
    window: Vec<u8>,
    own: Vec<u8>,
}

/// Tells how far a region holds zeros that need not be read, because a file has a hole there. Asked in ascending order it
/// looks once for each hole.
pub struct Holes<'a> {
    region: &'a dyn ReadAt,
    /// Bytes that were looked at last, up to the end of what was found there.
    known: Extent,
    /// Where what is not a hole begins among them.
    data: u64,
}

impl<'a> Holes<'a> {
    /// Looks at `region`.
    #[must_use]
    pub const fn new(region: &'a dyn ReadAt) -> Self {
        Self { region, known: Extent { start: 0, end: 0 }, data: 0 }
    }

    /// Returns how many bytes from `offset` on are known to be zero; 0 where they have to be read.
    pub fn bytes_from(&mut self, offset: u64) -> u64 {
        if !self.known.contains(offset) {
            let rest = Extent::new(offset, self.region.len());
            // What cannot be told has to be read.
            let found = self.region.next_data(offset).unwrap_or(Some(rest)).unwrap_or(Extent::new(rest.end, rest.end));
            (self.data, self.known) = (found.start, Extent::new(offset, found.end));
        }
        self.data.saturating_sub(offset)
    }
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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;
    use crate::{
        block::{MemoryDisk, file::FileDisk},
        units::{KIB, MIB, SectorSize},
    };

    #[test]
    fn holes_are_told_from_what_has_to_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(4 * MIB).unwrap();
        file.write_all_at(&[7; 64 << 10], MIB).unwrap();
        let sparse = FileDisk::open_source(&path, None).unwrap();
        let mut holes = Holes::new(&sparse);
        for (offset, want) in [
            (0, MIB),
            (MIB - 512, 512),
            (MIB, 0),
            (MIB + 64 * KIB - 1, 0),
            (MIB + 64 * KIB, 3 * MIB - 64 * KIB),
            (4 * MIB - 1, 1),
            // Backwards it looks again.
            (512, MIB - 512),
        ] {
            assert_eq!(holes.bytes_from(offset), want, "{offset}");
        }
        // What cannot tell has no holes.
        let memory = MemoryDisk::new(vec![0; 1 << 20], SectorSize::B512);
        assert_eq!(Holes::new(&memory).bytes_from(4096), 0);
    }
}

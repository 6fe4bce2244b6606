//! A disk of any length in memory, of which only the bytes written take room; the rest reads as zeros.
//!
//! Tables are rehearsed on it: pieces of a table are laid out where they belong on a disk of terabytes, and our own
//! reader or a third-party one reads them there. A write beyond the end is an error, because a library that writes
//! past the end of the disk it was given must not get away with it.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Seek, SeekFrom, Write},
};

use super::TablePiece;
use crate::block::{self, ReadAt, check_range};

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;

/// See the module.
#[derive(Clone)]
pub(super) struct Sparse {
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    len: u64,
    at: u64,
}

impl fmt::Debug for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sparse({} pages of {} bytes)", self.pages.len(), self.len)
    }
}

impl Sparse {
    pub(super) const fn new(len: u64) -> Self {
        Self { pages: BTreeMap::new(), len, at: 0 }
    }

    /// Lays `pieces` out on a disk of `len` bytes.
    ///
    /// # Errors
    /// [`block::Error::Beyond`] when one lies beyond the end.
    pub(super) fn with_pieces(len: u64, pieces: &[TablePiece]) -> Result<Self, block::Error> {
        let mut disk = Self::new(len);
        for piece in pieces {
            disk.put(piece.offset, &piece.bytes)?;
        }
        Ok(disk)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// [`block::Error::Beyond`] when they do not fit.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), block::Error> {
        check_range("the rehearsal disk", self.len, offset, bytes.len() as u64)?;
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (page, from, n) = step(at, rest.len());
            let (now, later) = rest.split_at(n);
            let slot = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE]));
            if let Some(to) = slot.get_mut(from..from.saturating_add(n)) {
                to.copy_from_slice(now);
            }
            (at, rest) = (at.saturating_add(n as u64), later);
        }
        Ok(())
    }

    fn get(&self, offset: u64, buf: &mut [u8]) {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (page, from, n) = step(at, rest.len());
            let (now, later) = rest.split_at_mut(n);
            match self.pages.get(&page).and_then(|bytes| bytes.get(from..from.saturating_add(n))) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            (at, rest) = (at.saturating_add(n as u64), later);
        }
    }

    /// Returns how many of `wanted` bytes lie before the end, from the cursor on.
    fn room(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX).min(wanted)
    }

    fn advance(&mut self, n: usize) {
        self.at = self.at.saturating_add(n as u64);
    }
}

/// Returns the page of `at`, the place in it, and how many of `left` bytes it takes.
fn step(at: u64, left: usize) -> (u64, usize, usize) {
    let from = usize::try_from(at % PAGE_BYTES).unwrap_or(0);
    (at / PAGE_BYTES, from, left.min(PAGE.saturating_sub(from)))
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        check_range("the rehearsal disk", self.len, offset, buf.len() as u64)?;
        self.get(offset, buf);
        Ok(())
    }
}

impl Read for Sparse {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.room(buf.len());
        if let Some(now) = buf.get_mut(..n) {
            self.get(self.at, now);
        }
        self.advance(n);
        Ok(n)
    }
}

impl Write for Sparse {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.room(buf.len());
        self.put(self.at, buf.get(..n).unwrap_or_default()).map_err(io::Error::other)?;
        self.advance(n);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_the_end_holds() {
        let mut disk = Sparse::new(u64::MAX / 2);
        disk.seek(SeekFrom::End(-3)).unwrap();
        assert_eq!(disk.write(b"abcdef").unwrap(), 3, "only what fits");
        assert_eq!(disk.write(b"def").unwrap(), 0);
        disk.put(4094, b"across").unwrap();
        let mut back = [0; 8];
        disk.read_exact_at(&mut back, 4093).unwrap();
        assert_eq!(&back, b"\0across\0");
        assert!(disk.put(u64::MAX / 2 - 1, b"xy").is_err());
        assert!(disk.pages.len() <= 3);
    }
}

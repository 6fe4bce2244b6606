//! Small reads from a region, served from one larger read: bitmaps and tables of neighbours lie side by side.

use crate::{
    block::{Error, ReadAt},
    bytes::Fields,
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

/// Bytes of a table that are read and remembered together.
const PAGE: u64 = 16 << 10;
/// Pages remembered at once: 40 MiB, more than the FAT of 1 TiB in clusters of 128 KiB.
const SLOTS: u64 = 2560;

/// Reads fields of one table in any order. It remembers pages, each in the one slot that its number gives it, so that
/// a table which fits is read once, and of one that does not no more than a page is read for a field.
pub struct Pages<'a> {
    region: &'a dyn ReadAt,
    table: Extent,
    slots: Vec<Option<(u64, Vec<u8>)>>,
    loads: u64,
}

impl<'a> Pages<'a> {
    /// Reads from the `len` bytes at `start` of `region`.
    #[must_use]
    pub fn new(region: &'a dyn ReadAt, start: u64, len: u64) -> Self {
        let table = Extent::new(start, start.saturating_add(len));
        let slots = usize::try_from(len.div_ceil(PAGE).clamp(1, SLOTS)).unwrap_or(1);
        Self { region, table, slots: vec![None; slots], loads: 0 }
    }

    /// Returns how many pages the table has.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.table.len().div_ceil(PAGE)
    }

    /// Returns how many pages were read, each as often as it was.
    #[must_use]
    pub const fn loads(&self) -> u64 {
        self.loads
    }

    /// Returns the `N` bytes at `at` of the table, zeros for what lies behind its end.
    ///
    /// # Errors
    /// Those of the region.
    pub fn read<const N: usize>(&mut self, at: u64) -> Result<[u8; N], Error> {
        if let Ok(field) = Fields(self.from(at)?).array(0) {
            return Ok(field);
        }
        // It begins in one page and ends in the next.
        let mut field = [0; N];
        for (byte, at) in field.iter_mut().zip(at..) {
            *byte = self.from(at)?.first().copied().unwrap_or(0);
        }
        Ok(field)
    }

    /// Returns the bytes from `at` to the end of their page.
    fn from(&mut self, at: u64) -> Result<&[u8], Error> {
        if at >= self.table.len() {
            return Ok(&[]);
        }
        let page = at / PAGE;
        let number = page.checked_rem(self.slots.len() as u64).and_then(|number| usize::try_from(number).ok());
        let Some(slot) = number.and_then(|number| self.slots.get_mut(number)) else { return Ok(&[]) };
        if slot.as_ref().is_none_or(|(held, _)| *held != page) {
            let start = self.table.start.saturating_add(page.saturating_mul(PAGE));
            let len = PAGE.min(self.table.end.saturating_sub(start));
            let mut bytes = slot.take().map_or_else(Vec::new, |(_, bytes)| bytes);
            bytes.resize(usize::try_from(len).unwrap_or(0), 0);
            self.region.read_exact_at(&mut bytes, start)?;
            self.loads = self.loads.saturating_add(1);
            *slot = Some((page, bytes));
        }
        let within = usize::try_from(at % PAGE).unwrap_or(usize::MAX);
        Ok(slot.as_ref().and_then(|(_, bytes)| bytes.get(within..)).unwrap_or(&[]))
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
    fn pages_hold_fields_of_any_place_and_are_read_once() {
        let bytes = (0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        let disk = MemoryDisk::new(bytes.clone(), SectorSize::B512);
        let mut pages = Pages::new(&disk, 512, 40_000);
        for at in [0, 16_383, 30_000, 16_382, 39_996, 5] {
            let from = usize::try_from(at).unwrap() + 512;
            assert_eq!(pages.read::<4>(at).unwrap(), bytes[from..from + 4], "{at}");
        }
        assert_eq!((pages.loads(), pages.count()), (3, 3));
        assert_eq!(pages.read::<4>(39_998).unwrap(), [bytes[40_510], bytes[40_511], 0, 0]);
        assert_eq!(pages.read::<4>(1 << 40).unwrap(), [0; 4]);
        // A table of more pages than there are slots: two pages that share one take turns.
        let disk = MemoryDisk::new(vec![1; usize::try_from((SLOTS + 1) * PAGE).unwrap()], SectorSize::B512);
        let mut pages = Pages::new(&disk, 0, disk.len());
        for at in [0, SLOTS * PAGE, 0, PAGE, 1] {
            assert_eq!(pages.read::<2>(at).unwrap(), [1, 1]);
        }
        assert_eq!(pages.loads(), 4);
    }

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

//! A disk counted in sectors, for the table readers: every read is checked against the end of the disk, and an
//! unreadable sector counts as a damaged one.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Error, Problem};
use crate::{
    block::{self, ReadAt, read_vec},
    units::{Lba, SectorSize},
};

/// A disk of whole sectors. Bytes after the last whole sector are not part of it.
#[derive(Clone, Copy)]
pub(super) struct Sectors<'a> {
    disk: &'a dyn ReadAt,
    pub(super) size: SectorSize,
    /// How many whole sectors there are.
    pub(super) count: u64,
}

/// Why a structure could not be had.
#[derive(Debug)]
pub(super) enum Miss {
    /// The disk is gone, or cut short: nothing else can be believed either.
    Disk(block::Error),
    /// This one place is unreadable or makes no sense.
    Damaged(Problem),
}

impl From<Problem> for Miss {
    fn from(problem: Problem) -> Self {
        Self::Damaged(problem)
    }
}

impl From<Miss> for Error {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Disk(error) => Self::Disk(error),
            Miss::Damaged(problem) => problem.into(),
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Corrupt { offset: problem.offset, what: problem.what }
    }
}

impl<'a> Sectors<'a> {
    pub(super) fn new(disk: &'a dyn ReadAt, size: SectorSize) -> Self {
        Self { disk, size, count: size.sectors_in(disk.len()) }
    }

    /// Returns the same disk with sectors of another size.
    pub(super) fn with_size(&self, size: SectorSize) -> Self {
        Self::new(self.disk, size)
    }

    /// Returns the byte offset of `lba`; numbers too large for one give the largest.
    pub(super) fn offset(&self, lba: Lba) -> u64 {
        self.size.offset_of(lba).unwrap_or(u64::MAX)
    }

    /// Returns how many sectors `len` bytes take.
    pub(super) const fn sectors_for(&self, len: u64) -> u64 {
        len.div_ceil(self.size.bytes())
    }

    /// Reads `n` sectors at `lba`. The caller bounds `n`; the end of the disk is checked here.
    pub(super) fn read(&self, lba: Lba, n: u64) -> Result<Vec<u8>, Miss> {
        let offset = self.offset(lba);
        let inside = lba.0.checked_add(n).is_some_and(|end| end <= self.count);
        let len = n.checked_mul(self.size.bytes()).and_then(|len| usize::try_from(len).ok());
        let (true, Some(len)) = (inside, len) else {
            let what = format!("{n} sectors at {lba} lie beyond the disk, which has {} sectors", self.count);
            return Err(Problem { offset: offset.min(self.offset(Lba(self.count))), what }.into());
        };
        read_vec(self.disk, offset, len).map_err(|error| match error {
            block::Error::Io { .. } => Problem { offset, what: "the sector cannot be read".to_owned() }.into(),
            other => Miss::Disk(other),
        })
    }
}

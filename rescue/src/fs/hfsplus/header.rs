//! The volume header of HFS+ and HFSX, and the HFS volume that may be wrapped around it.
//!
//! ```text
//! 0      boot blocks
//! 1024   volume header, 512 bytes: sizes, counts, and the extents of five special files
//!        allocation blocks 0 .. totalBlocks: everything, these headers included
//! end − 1024   its copy
//! ```
//!
//! Source: Apple, Technical Note TN1150; big endian.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{
    block::ReadAt,
    bytes::{Fields, Truncated},
    extent::Extent,
};

/// Where the volume header is, from the start of the volume.
pub const OFFSET: u64 = 1024;
/// Bytes in a volume header.
pub const LEN: usize = 512;

/// Attribute bits of a volume.
pub mod attribute {
    /// Unmounted in order.
    pub const UNMOUNTED: u32 = 1 << 8;
    /// Started from and not shut down, or found broken.
    pub const BOOT_INCONSISTENT: u32 = 1 << 11;
    /// It has a journal.
    pub const JOURNALED: u32 = 1 << 13;
    /// Found broken, and not yet repaired.
    pub const INCONSISTENT: u32 = 1 << 14;
}

/// Why a volume header is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another format, or nothing.
    #[error("there is no volume header of version 4 or 5")]
    Magic,
    /// Blocks of a size that does not exist, or none.
    #[error("it has {blocks} blocks of {size} bytes")]
    Blocks {
        /// How many.
        blocks: u64,
        /// Bytes in each.
        size: u64,
    },
    /// More blocks are free than there are.
    #[error("{free} of {blocks} blocks are free")]
    Free {
        /// Free ones.
        free: u64,
        /// All.
        blocks: u64,
    },
    /// Too short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// A run of allocation blocks: first and count.
pub type Run = (u64, u64);

/// A stream of a file: its length and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fork {
    /// Bytes in it.
    pub size: u64,
    /// Blocks in it, those beyond the first eight runs included.
    pub blocks: u64,
    /// Its first runs, at most eight; all of them once it was completed.
    runs: Vec<Run>,
    /// How many blocks each run and those before it have.
    ends: Vec<u64>,
}

impl Fork {
    /// Reads the 80 bytes at `offset`.
    ///
    /// # Errors
    /// They lie beyond the structure.
    pub fn parse(f: Fields<'_>, offset: usize) -> Result<Self, Truncated> {
        let bytes = Fields(f.slice(offset, 80)?);
        let mut fork = Self { size: bytes.u64_be(0)?, blocks: u64::from(bytes.u32_be(12)?), ..Self::default() };
        fork.extend(&runs(bytes.slice(16, 64)?));
        Ok(fork)
    }

    /// Adds runs at its end.
    pub fn extend(&mut self, runs: &[Run]) {
        for run in runs {
            self.ends.push(self.listed().saturating_add(run.1));
            self.runs.push(*run);
        }
    }

    /// Returns its runs.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Returns how many blocks the runs have.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Returns the runs from block `index` of the fork on, the first of them cut.
    pub fn from(&self, index: u64) -> impl Iterator<Item = Run> + '_ {
        let skip = self.ends.partition_point(|end| *end <= index);
        let before = skip.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        let cut = index.saturating_sub(before);
        let first = self.runs.get(skip).map(|(start, count)| (start.saturating_add(cut), count.saturating_sub(cut)));
        first.into_iter().chain(self.runs.iter().skip(skip.saturating_add(1)).copied())
    }
}

/// Reads the runs in a record of eight; the first empty one ends it.
#[must_use]
pub fn runs(record: &[u8]) -> Vec<Run> {
    let pairs = record.as_chunks::<8>().0.iter().map(|raw| {
        let f = Fields(raw);
        (u64::from(f.u32_be(0).unwrap_or(0)), u64::from(f.u32_be(4).unwrap_or(0)))
    });
    pairs.take_while(|(_, count)| *count > 0).collect()
}

/// A volume header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether names may differ in case alone (HFSX).
    pub extended: bool,
    /// Attribute bits.
    pub attributes: u32,
    /// The block that says where the journal is.
    pub journal_info: u64,
    /// Bytes in an allocation block.
    pub block_size: u64,
    /// Allocation blocks.
    pub blocks: u64,
    /// Free allocation blocks.
    pub free: u64,
    /// What a UUID is made of.
    pub id: [u8; 8],
    /// The bitmap of used blocks.
    pub allocation: Fork,
    /// The tree of runs that files do not hold themselves.
    pub extents: Fork,
    /// The tree of files and folders.
    pub catalog: Fork,
    /// The tree of extended attributes.
    pub attribute_file: Fork,
    /// What other systems start from.
    pub startup: Fork,
}

impl Header {
    /// Reads a volume header of [`LEN`] bytes.
    ///
    /// # Errors
    /// [`Error`], for whatever makes it none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        let extended = f.has(0, b"HX\0\x05");
        if !extended && !f.has(0, b"H+\0\x04") {
            return Err(Error::Magic);
        }
        let word = |at: usize| f.u32_be(at).map(u64::from);
        let header = Self {
            extended,
            attributes: f.u32_be(4)?,
            journal_info: word(12)?,
            block_size: word(40)?,
            blocks: word(44)?,
            free: word(48)?,
            id: f.array(104)?,
            allocation: Fork::parse(f, 112)?,
            extents: Fork::parse(f, 192)?,
            catalog: Fork::parse(f, 272)?,
            attribute_file: Fork::parse(f, 352)?,
            startup: Fork::parse(f, 432)?,
        };
        let (blocks, size, free) = (header.blocks, header.block_size, header.free);
        if !size.is_power_of_two() || size < 512 || blocks == 0 {
            return Err(Error::Blocks { blocks, size });
        }
        if free > blocks {
            return Err(Error::Free { free, blocks });
        }
        Ok(header)
    }

    /// Returns how many bytes its allocation blocks have.
    #[must_use]
    pub const fn span(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }

    /// Tells whether an attribute bit is set.
    #[must_use]
    pub const fn has(&self, attribute: u32) -> bool {
        self.attributes & attribute != 0
    }

    /// Tells whether both describe the same blocks.
    #[must_use]
    pub fn same_blocks(&self, other: &Self) -> bool {
        (self.extended, self.block_size, self.blocks, self.id)
            == (other.extended, other.block_size, other.blocks, other.id)
    }
}

/// Returns where the HFS+ volume in `region` is: everything, or the part of an HFS volume that is wrapped around it.
#[must_use]
pub fn place(region: &dyn ReadAt) -> Option<Extent> {
    let mut bytes = [0; LEN];
    region.read_exact_at(&mut bytes, OFFSET).ok()?;
    let f = Fields(&bytes);
    if f.has(0, b"H+\0\x04") || f.has(0, b"HX\0\x05") {
        return Some(Extent::new(0, region.len()));
    }
    if !f.has(0, b"BD") || !f.has(124, b"H+") {
        return None;
    }
    let block = u64::from(f.u32_be(20).ok()?);
    let first = u64::from(f.u16_be(28).ok()?).checked_mul(512)?;
    let start = u64::from(f.u16_be(126).ok()?).checked_mul(block)?.checked_add(first)?;
    let len = u64::from(f.u16_be(128).ok()?).checked_mul(block)?;
    Extent::with_len(start, len).filter(|place| place.end <= region.len() && !place.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_read_from_any_block_on() {
        let mut fork = Fork::default();
        fork.extend(&[(10, 2), (50, 3)]);
        fork.extend(&[(7, 1)]);
        for (index, want) in [
            (0, vec![(10, 2), (50, 3), (7, 1)]),
            (1, vec![(11, 1), (50, 3), (7, 1)]),
            (2, vec![(50, 3), (7, 1)]),
            (4, vec![(52, 1), (7, 1)]),
            (5, vec![(7, 1)]),
            (6, vec![]),
        ] {
            assert_eq!(fork.from(index).collect::<Vec<_>>(), want, "block {index}");
        }
        assert_eq!(fork.listed(), 6);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut good = vec![0; LEN];
        good[..4].copy_from_slice(b"H+\0\x04");
        good[42] = 0x10;
        good[47] = 100;
        good[51] = 60;
        let header = Header::parse(&good).unwrap();
        assert_eq!((header.block_size, header.blocks, header.free), (4096, 100, 60));
        for (name, at, value, want) in [
            ("version", 3, 5, "there is no volume header of version 4 or 5"),
            ("block size", 43, 1, "it has 100 blocks of 4097 bytes"),
            ("no blocks", 47, 0, "it has 0 blocks of 4096 bytes"),
            ("free", 51, 101, "101 of 100 blocks are free"),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(Header::parse(&bytes).unwrap_err().to_string(), want, "{name}");
        }
        assert!(matches!(Header::parse(&good[..500]), Err(Error::Truncated(_))));
    }
}

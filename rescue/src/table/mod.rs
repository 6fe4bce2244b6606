//! Partition tables: reading GPT and MBR into one [`Layout`], and moving a table to another disk.
//!
//! The crates `gpt` and `mbrman` read, cross-check and make fresh tables behind the checks of this module. What an
//! existing table needs (verbatim bytes, the backup at a new end, a resized protective MBR) is our own code, because
//! their writers renumber slots, move entry arrays and wrap offsets.

mod claim;
mod crosscheck;
pub mod fresh;
mod gpt;
mod layout;
mod mbr;
mod read;
mod sectors;
mod sparse;
mod target;
#[cfg(test)]
mod tests;
mod types;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    block::{self, ReadAt},
    extent::Extent,
    units::SectorSize,
};

/// What kind of table a disk carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableKind {
    /// GUID partition table behind a protective MBR.
    Gpt,
    /// GUID partition table whose MBR lists partitions of its own as well.
    HybridGpt,
    /// Master boot record, with an EBR chain where there are logical partitions.
    Mbr,
    /// No table: a file system directly on the disk, or nothing known.
    None,
}

/// One partition, as its table describes it. Strings are raw: escape before showing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The number the kernel gives it: GPT slot + 1; 1 to 4 primary; 5 and up logical.
    pub number: u32,
    /// Its bytes; always inside the disk and never empty.
    pub range: Extent,
    /// Type GUID in lower case with hyphens, or the MBR type as `0x83`.
    pub type_id: String,
    /// What the type is called, where known.
    pub type_name: Option<String>,
    /// Partition GUID (GPT), in lower case with hyphens.
    pub guid: Option<String>,
    /// Partition name (GPT).
    pub name: Option<String>,
    /// Attribute bits (GPT), or the boot flag byte (MBR).
    pub attributes: u64,
}

/// Bytes of the disk that belong to the table itself, as read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePiece {
    /// What it is.
    pub kind: PieceKind,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// Its bytes, verbatim; whole sectors.
    #[serde(with = "crate::bytes::base64")]
    pub bytes: Vec<u8>,
}

impl fmt::Debug for TablePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:#x}+{:#x}", self.kind, self.offset, self.bytes.len())
    }
}

/// What a [`TablePiece`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PieceKind {
    /// LBA 0: boot code and MBR, protective or not.
    Mbr,
    /// The GPT header near the start.
    PrimaryHeader,
    /// The partition entry array near the start.
    PrimaryEntries,
    /// The partition entry array near the end.
    BackupEntries,
    /// The GPT header in the last sector.
    BackupHeader,
    /// An extended boot record.
    Ebr,
}

/// Something about a table that a person should know before trusting it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, in bytes from the start of the disk.
    pub offset: u64,
    /// What, as a sentence without the place.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {:#x}: {}", self.offset, self.what)
    }
}

/// A disk's table, validated: whatever the disk says, ranges here lie inside the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// What kind of table it is.
    pub kind: TableKind,
    /// The unit its sector numbers count in.
    pub sector_size: SectorSize,
    /// Bytes of the disk it was read from.
    pub disk_len: u64,
    /// Disk GUID (GPT), or the disk signature as `0x1234abcd` (MBR).
    pub disk_id: Option<String>,
    /// Partitions in the order of their numbers. Extended partitions are containers and are not listed.
    pub partitions: Vec<Partition>,
    /// The table's own bytes, in disk order.
    pub pieces: Vec<TablePiece>,
    /// What is wrong with it, and could be read round.
    pub problems: Vec<Problem>,
}

/// Why a table could not be read, or cannot be written to a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk could not be read.
    #[error("reading the partition table")]
    Disk(#[from] block::Error),
    /// There is a table, and it makes no sense.
    #[error("partition table at byte {offset:#x}: {what}")]
    Corrupt {
        /// Where, in bytes from the start of the disk.
        offset: u64,
        /// What disagrees.
        what: String,
    },
    /// The table is in order, and cannot go where it should.
    #[error("{0}")]
    Refused(String),
}

/// What a region of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "number")]
pub enum RegionKind {
    /// From the start of the disk to the first partition.
    Head,
    /// A partition, by number.
    Partition(u32),
    /// Between partitions, EBRs included; also partitions that overlap each other, which are kept whole.
    Gap,
    /// From the last partition to the end of the disk.
    Tail,
    /// The whole of a disk without a table.
    Whole,
}

impl fmt::Display for RegionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.pad("head"),
            Self::Partition(number) => f.pad(&format!("partition {number}")),
            Self::Gap => f.pad("gap"),
            Self::Tail => f.pad("tail"),
            Self::Whole => f.pad("whole disk"),
        }
    }
}

/// A run of the disk with one treatment. Regions tile the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// What it is.
    pub kind: RegionKind,
    /// Its bytes.
    pub range: Extent,
}

/// Reads the table of `disk`. A table with a damaged copy is read from the other one and the damage listed.
///
/// # Errors
/// [`Error::Disk`] when the disk cannot be read; [`Error::Corrupt`] when there is a table of which no copy makes sense,
/// when LBA 0 is unreadable, or when it may be two things at once. Such a disk is kept whole.
pub fn read(disk: &dyn ReadAt, sector_size: SectorSize) -> Result<Layout, Error> {
    read::read(disk, sector_size)
}

/// Works out the table's bytes for a disk of `new_len` bytes with the same sector size: verbatim on a disk of the same
/// size; on a larger one the backup GPT at the new end, and headers and protective MBR telling of it.
///
/// Only `kind`, `sector_size`, `disk_len` and `pieces` of the layout are looked at, and the pieces are checked again:
/// they may come from a store.
///
/// # Errors
/// [`Error::Refused`] when the disk is too small, or has no room for a backup GPT; [`Error::Corrupt`] when the pieces
/// hold no sound GPT.
pub fn for_target(layout: &Layout, new_len: u64) -> Result<Vec<TablePiece>, Error> {
    target::for_target(layout, new_len)
}

/// Lists the bytes where the backup GPT was and, on a disk of `new_len` bytes, is not any more. They belong to no
/// partition, and should be zeroed, or the end of the old table stays in the middle of the larger disk.
#[must_use]
pub fn superseded(layout: &Layout, new_len: u64) -> Vec<Extent> {
    target::superseded(layout, new_len)
}

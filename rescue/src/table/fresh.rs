//! Fresh tables for disks that have none: GPT by the `gpt` crate on a rehearsal disk, MBR with logical partitions by
//! our own few lines, because `mbrman` 0.6 counts the bytes of an EBR's place in 32 bits.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use gpt::{GptConfig, disk::LogicalBlockSize, mbr::ProtectiveMBR, partition::Partition as Slot, partition_types::Type};
use uuid::Uuid;

use super::{Error, Layout, TablePiece, mbr, read, sparse::Sparse};
use crate::units::{Lba, SectorSize};

/// A partition to be made in a GPT. Slots are filled in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GptPartition {
    /// First sector.
    pub first: Lba,
    /// Sectors in it.
    pub len_sectors: u64,
    /// Type GUID.
    pub type_guid: Uuid,
    /// Partition GUID.
    pub guid: Uuid,
    /// Attribute bits.
    pub attributes: u64,
    /// Name; 36 UTF-16 units are kept.
    pub name: String,
}

/// A partition to be made in an MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MbrPartition {
    /// First sector. The sector before that of a logical partition holds its EBR.
    pub first: u32,
    /// Sectors in it.
    pub len_sectors: u32,
    /// Type.
    pub kind: u8,
    /// Marked for booting.
    pub active: bool,
}

/// Makes a GPT for a disk of `disk_len` bytes: protective MBR, both copies, 128 slots of 128 bytes.
///
/// # Errors
/// [`Error::Refused`] when the disk is too small, its sectors are neither 512 nor 4096 bytes, or a partition overlaps
/// another one or leaves the usable sectors.
pub fn fresh_gpt(
    disk_len: u64,
    sector_size: SectorSize,
    disk_guid: Uuid,
    partitions: &[GptPartition],
) -> Result<Vec<TablePiece>, Error> {
    let size = LogicalBlockSize::try_from(sector_size.bytes())
        .map_err(|_| Error::Refused(format!("no GPT for sectors of {sector_size} bytes")))?;
    let last = sector_size.sectors_in(disk_len).saturating_sub(1);
    let mut disk = Sparse::new(disk_len);
    let protective = ProtectiveMBR::with_lb_size(u32::try_from(last).unwrap_or(u32::MAX));
    let mut lba0 = protective.to_bytes().to_vec();
    lba0.resize(sector_size.usize(), 0);
    disk.put(0, &lba0)?;
    let make = || -> Result<Sparse, gpt::GptError> {
        let config = GptConfig::new().writable(true).logical_block_size(size);
        let mut table = config.create_from_device(disk, Some(disk_guid))?;
        table.update_partitions(slots(partitions))?;
        table.write()
    };
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(Ok(disk)) => rehearsed(&disk, sector_size, partitions.len()).map(|layout| layout.pieces),
        Ok(Err(error)) => Err(Error::Refused(format!("no GPT for a disk of {disk_len} bytes: {error}"))),
        Err(_) => Err(Error::Refused(format!("no GPT for a disk of {disk_len} bytes"))),
    }
}

fn slots(partitions: &[GptPartition]) -> BTreeMap<u32, Slot> {
    let slot = |partition: &GptPartition| Slot {
        part_type_guid: Type::from(partition.type_guid),
        part_guid: partition.guid,
        first_lba: partition.first.0,
        last_lba: partition.first.0.saturating_add(partition.len_sectors).saturating_sub(1),
        flags: partition.attributes,
        name: partition.name.clone(),
    };
    (1..).zip(partitions.iter().map(slot)).collect()
}

/// Reads a fresh table back. Whatever our reader finds wrong with it was wrong in what was asked for.
fn rehearsed(disk: &Sparse, sector_size: SectorSize, partitions: usize) -> Result<Layout, Error> {
    let layout = read(disk, sector_size)?;
    match layout.problems.first() {
        Some(problem) => Err(Error::Refused(format!("no such table: {}", problem.what))),
        None if layout.partitions.len() != partitions => {
            let (have, want) = (layout.partitions.len(), partitions);
            Err(Error::Refused(format!("no such table: {have} partitions came out of {want}")))
        }
        None => Ok(layout),
    }
}

/// Makes an MBR for a disk of `disk_len` bytes, with an extended partition behind the primary ones when there are
/// logical ones. Logical partitions are in disk order.
///
/// # Errors
/// [`Error::Refused`] when there are too many, when partitions overlap or leave the disk, or when no sector is left for
/// an EBR.
pub fn fresh_mbr(
    disk_len: u64,
    sector_size: SectorSize,
    signature: u32,
    primary: &[MbrPartition],
    logical: &[MbrPartition],
) -> Result<Vec<TablePiece>, Error> {
    let refuse = |what: &str| Error::Refused(format!("no such table: {what}"));
    let mut main: Vec<MbrPartition> = primary.to_vec();
    let container = container(logical).ok_or_else(|| refuse("logical partitions out of order"))?;
    main.extend(container);
    if main.len() > 4 {
        return Err(refuse("more than four entries"));
    }
    let mut disk = Sparse::new(disk_len);
    disk.put(0, &record(sector_size, signature, &main))?;
    let base = container.map_or(0, |container| container.first);
    for (at, partition) in logical.iter().enumerate() {
        let ebr = partition.first.saturating_sub(1);
        let mut entries = vec![MbrPartition { first: 1, ..*partition }];
        entries.extend(at.checked_add(1).and_then(|next| logical.get(next)).map(|next| MbrPartition {
            first: next.first.saturating_sub(1).saturating_sub(base),
            len_sectors: next.len_sectors.saturating_add(1),
            kind: 0x05,
            active: false,
        }));
        let offset = sector_size.offset_of(Lba(ebr.into())).ok_or_else(|| refuse("an EBR beyond 2^64 bytes"))?;
        disk.put(offset, &record(sector_size, 0, &entries))?;
    }
    let expected = primary.len().saturating_add(logical.len());
    rehearsed(&disk, sector_size, expected).map(|layout| layout.pieces)
}

/// Returns the extended partition around `logical`; the outer `None` when they are out of order.
fn container(logical: &[MbrPartition]) -> Option<Option<MbrPartition>> {
    let (Some(first), Some(last)) = (logical.first(), logical.last()) else { return Some(None) };
    let start = first.first.checked_sub(1)?;
    let len_sectors = last.first.checked_add(last.len_sectors)?.checked_sub(start)?;
    Some(Some(MbrPartition { first: start, len_sectors, kind: 0x0f, active: false }))
}

/// Returns the sector of a boot record. CHS fields are for show: they follow from the numbers in the entry itself.
fn record(sector_size: SectorSize, signature: u32, entries: &[MbrPartition]) -> Vec<u8> {
    let mut sector = vec![0; 440];
    sector.extend(signature.to_le_bytes());
    sector.extend([0; 2]);
    for entry in entries {
        let last = u64::from(entry.first).saturating_add(entry.len_sectors.into()).saturating_sub(1);
        sector.push(if entry.active { 0x80 } else { 0 });
        sector.extend(mbr::chs(entry.first.into()));
        sector.push(entry.kind);
        sector.extend(mbr::chs(last));
        sector.extend(entry.first.to_le_bytes());
        sector.extend(entry.len_sectors.to_le_bytes());
    }
    sector.resize(510, 0);
    sector.extend(mbr::SIGNATURE);
    sector.resize(sector_size.usize(), 0);
    sector
}

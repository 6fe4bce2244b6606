//! A second opinion: the crates `gpt` and `mbrman` read the same table, and disagreement is a problem to be shown.
//!
//! Both panic, wrap or give up on tables that are legal, so they are asked only when what they assume holds, on a
//! rehearsal disk that holds the table's own bytes, behind `catch_unwind`. What they say changes nothing.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use gpt::{GptConfig, disk::LogicalBlockSize};

use super::{
    Layout, Problem,
    gpt::{Copies, Entry, Header, MIN_ENTRY, MIN_HEADER, PRIMARY},
    mbr::Table,
    sectors::Sectors,
    sparse::Sparse,
};
use crate::{
    escape::Escaped,
    units::{Lba, SectorSize},
};

/// Asks the `gpt` crate. It asserts entries of 128 bytes, knows headers of 92 bytes only, reads the primary array
/// only, and believes in a backup header at the end of the disk only.
pub(super) fn gpt(layout: &Layout, sectors: &Sectors<'_>, copies: &Copies, ours: &[Entry]) -> Option<Problem> {
    let ((header, _), (backup, _)) = (copies.primary.whole()?, copies.backup.whole()?);
    let usual = |header: &Header| header.header_size == MIN_HEADER && u64::from(header.entry_size) == MIN_ENTRY;
    let at_end = copies.backup_lba.0.checked_add(1) == Some(sectors.count);
    if !usual(header) || !usual(backup) || header.entry_lba != 2 || !at_end {
        return None;
    }
    let size = match sectors.size {
        SectorSize::B512 => LogicalBlockSize::Lb512,
        SectorSize::B4096 => LogicalBlockSize::Lb4096,
        _ => return None,
    };
    let disk = Sparse::with_pieces(sectors.offset(Lba(sectors.count)), &layout.pieces).ok()?;
    let read = || GptConfig::new().logical_block_size(size).only_valid_headers(true).open_from_device(disk);
    let what = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(theirs)) => gpt_disagrees(&theirs, header, ours)?,
        Ok(Err(error)) => format!("a second GPT reader refuses the table: {error}"),
        Err(_) => "a second GPT reader fails on the table".to_owned(),
    };
    Some(Problem { offset: sectors.offset(PRIMARY), what })
}

fn gpt_disagrees(theirs: &gpt::GptDisk<Sparse>, header: &Header, ours: &[Entry]) -> Option<String> {
    let head = theirs.header();
    if (head.disk_guid, head.first_usable, head.last_usable)
        != (header.disk_guid, header.first_usable_lba, header.last_usable_lba)
    {
        return Some("a second GPT reader sees another disk GUID or other usable sectors".to_owned());
    }
    let used: Vec<Entry> = theirs
        .partitions()
        .iter()
        .filter(|(_, partition)| partition.is_used())
        .map(|(number, partition)| Entry {
            number: *number,
            type_guid: partition.part_type_guid.guid,
            guid: partition.part_guid,
            first_lba: partition.first_lba,
            last_lba: partition.last_lba,
            attributes: partition.flags,
            name: partition.name.clone(),
        })
        .collect();
    if used.len() != ours.len() {
        return Some(format!("a second GPT reader sees {} partitions, expected {}", used.len(), ours.len()));
    }
    let (other, our) = used.iter().zip(ours).find(|(other, our)| other != our)?;
    let name = Escaped(&other.name);
    Some(format!("a second GPT reader sees partition {} “{name}” other than partition {}", other.number, our.number))
}

/// Asks `mbrman`. It adds sectors of a chain unchecked in 32 bits, refuses chains that do not ascend and every flag but
/// 00 and 80, and counts an EBR without a partition as one.
pub(super) fn mbr(layout: &Layout, sectors: &Sectors<'_>, table: &Table) -> Option<Problem> {
    let starts_right = table.seen.iter().all(|seen| seen.entry.start != 0 && !matches!(seen.entry.kind, 0xc5 | 0xd5));
    if !table.is_plain || !starts_right || table.seen.is_empty() {
        return None;
    }
    let mut disk = Sparse::with_pieces(sectors.offset(Lba(sectors.count)), &layout.pieces).ok()?;
    let size = u32::from(sectors.size);
    let what = match catch_unwind(AssertUnwindSafe(|| mbrman::MBR::read_from(&mut disk, size))) {
        Ok(Ok(theirs)) => mbr_disagrees(&theirs, table)?,
        Ok(Err(error)) => format!("a second MBR reader refuses the table: {error}"),
        Err(_) => "a second MBR reader fails on the table".to_owned(),
    };
    Some(Problem { offset: 0, what })
}

fn mbr_disagrees(theirs: &mbrman::MBR, table: &Table) -> Option<String> {
    let mut used: Vec<(u64, u64, u64, u8)> = theirs
        .iter()
        .filter(|(_, entry)| entry.is_used() && !entry.is_extended())
        .map(|(number, entry)| (number as u64, entry.starting_lba.into(), entry.sectors.into(), entry.sys))
        .collect();
    let mut ours: Vec<(u64, u64, u64, u8)> = table
        .seen
        .iter()
        .map(|seen| (seen.number.into(), seen.first, seen.entry.size.into(), seen.entry.kind))
        .collect();
    used.sort_unstable();
    ours.sort_unstable();
    let differs = used.iter().zip(&ours).find(|(other, our)| other != our).map(|(_, our)| our.0);
    match differs {
        Some(number) => Some(format!("a second MBR reader sees partition {number} elsewhere")),
        None if used.len() != ours.len() => {
            Some(format!("a second MBR reader sees {} partitions, expected {}", used.len(), ours.len()))
        }
        None => None,
    }
}

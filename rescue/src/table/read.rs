//! From sectors to a [`Layout`]: which table is in force, and what of it is believed.
//!
//! A GPT is in force behind a protective MBR, as for the Linux kernel and UEFI firmware. Without one it is believed
//! only when LBA 0 is no boot record at all and the primary copy is whole: on a disk that was formatted as a whole
//! later, or got an MBR, an old GPT may be left behind, and the partitions it describes are long gone.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

use super::{
    Error, Layout, Partition, PieceKind, Problem, TableKind, TablePiece,
    claim::{Claim, believe},
    crosscheck,
    gpt::{self, Copies, Copy},
    mbr::{self, First, PROTECTIVE},
    sectors::Sectors,
    types,
};
use crate::{
    block::ReadAt,
    extent::Extent,
    units::{Lba, SectorSize},
};

/// More problems than this are counted, not listed.
const MAX_PROBLEMS: usize = 64;

pub(super) fn read(disk: &dyn ReadAt, size: SectorSize) -> Result<Layout, Error> {
    let sectors = Sectors::new(disk, size);
    let mut layout = Layout {
        kind: TableKind::None,
        sector_size: size,
        disk_len: disk.len(),
        disk_id: None,
        partitions: Vec::new(),
        pieces: Vec::new(),
        problems: Vec::new(),
    };
    if sectors.count == 0 {
        return Ok(layout);
    }
    let lba0 = sectors.read(Lba(0), 1)?;
    let copies = Copies::find(&sectors)?;
    match First::of(&lba0, sectors.count) {
        First::Protective { hybrid } => {
            layout.kind = if hybrid { TableKind::HybridGpt } else { TableKind::Gpt };
            fill_gpt(&mut layout, &sectors, lba0, &copies)?;
        }
        First::Nothing if copies.primary.is_signed() => {
            layout.kind = TableKind::Gpt;
            fill_bare_gpt(&mut layout, &sectors, lba0, &copies)?;
        }
        First::Mbr | First::Empty => {
            layout.kind = TableKind::Mbr;
            layout.problems.extend(left_behind(&sectors, &copies));
            fill_mbr(&mut layout, &sectors, lba0)?;
        }
        First::BootSector | First::Nothing => layout.problems.extend(left_behind(&sectors, &copies)),
        First::Nonsense(what) => return Err(Error::Corrupt { offset: 0, what: hint(&sectors, &lba0, what) }),
    }
    cap(&mut layout.problems);
    Ok(layout)
}

/// Reports a GPT that is not in force.
fn left_behind(sectors: &Sectors<'_>, copies: &Copies) -> Option<Problem> {
    let both = [(&copies.primary, gpt::PRIMARY), (&copies.backup, copies.backup_lba)];
    let (_, lba) = both.into_iter().find(|(copy, _)| copy.is_signed())?;
    let what = "a GPT header without a protective MBR, left behind by an earlier table and not used";
    Some(Problem { offset: sectors.offset(lba), what: what.to_owned() })
}

fn fill_bare_gpt(layout: &mut Layout, sectors: &Sectors<'_>, lba0: Vec<u8>, copies: &Copies) -> Result<(), Error> {
    if let Some(fault) = &copies.primary.fault {
        let what = format!("a GPT without a protective MBR, whose primary copy is damaged: {}", fault.what);
        return Err(Error::Corrupt { offset: fault.offset, what });
    }
    let what = "no protective MBR before the GPT; firmware and kernels will not see its partitions";
    layout.problems.push(Problem { offset: 0, what: what.to_owned() });
    fill_gpt(layout, sectors, lba0, copies)
}

fn fill_gpt(layout: &mut Layout, sectors: &Sectors<'_>, lba0: Vec<u8>, copies: &Copies) -> Result<(), Error> {
    let other = other_sector_size(sectors)?;
    let Some((copy, header, array)) = copies.best() else { return Err(unusable(sectors, copies, other)) };
    let entries = gpt::entries(header, array);
    layout.disk_id = Some(header.disk_guid.to_string());
    layout.problems.extend(copies.problems(sectors));
    layout.problems.extend(other);
    layout.problems.extend(protective_problems(sectors, &lba0, &entries));
    layout.pieces = gpt_pieces(sectors, lba0, copies);
    let array_offset = sectors.offset(copy.array_lba);
    let place = |number: u32| {
        let before = u64::from(number.saturating_sub(1)).saturating_mul(header.entry_size.into());
        array_offset.saturating_add(before)
    };
    let mut guids = BTreeSet::new();
    for entry in &entries {
        let usable = header.first_usable_lba <= entry.first_lba && entry.last_lba <= header.last_usable_lba;
        if !usable {
            let (first, last) = (header.first_usable_lba, header.last_usable_lba);
            let what = format!("partition {} leaves the usable sectors, LBA {first} to {last}", entry.number);
            layout.problems.push(Problem { offset: place(entry.number), what });
        }
        if !guids.insert(entry.guid) {
            let what = format!("partition {} has a GUID that another one has as well: {}", entry.number, entry.guid);
            layout.problems.push(Problem { offset: place(entry.number), what });
        }
    }
    layout.problems.extend(crosscheck::gpt(layout, sectors, copies, &entries));
    let claims = entries.into_iter().map(|entry| Claim {
        at: place(entry.number),
        first_lba: entry.first_lba,
        last_lba: entry.last_lba,
        partition: partition_of(entry),
    });
    let (partitions, problems) = believe(claims.collect(), sectors, &layout.pieces);
    layout.partitions = partitions;
    layout.problems.extend(problems);
    Ok(())
}

fn partition_of(entry: gpt::Entry) -> Partition {
    let type_id = entry.type_guid.to_string();
    Partition {
        number: entry.number,
        range: Extent::new(0, 0),
        type_name: types::of_gpt(&type_id).map(str::to_owned),
        type_id,
        guid: Some(entry.guid.to_string()),
        name: Some(entry.name),
        attributes: entry.attributes,
    }
}

/// Lists the bytes of both copies in disk order, damaged ones as far as their place is known.
fn gpt_pieces(sectors: &Sectors<'_>, lba0: Vec<u8>, copies: &Copies) -> Vec<TablePiece> {
    let array =
        |copy: &Copy, kind| TablePiece { kind, offset: sectors.offset(copy.array_lba), bytes: copy.array.clone() };
    let header = |copy: &Copy, kind, lba| TablePiece { kind, offset: sectors.offset(lba), bytes: copy.sector.clone() };
    let mut pieces = vec![
        TablePiece { kind: PieceKind::Mbr, offset: 0, bytes: lba0 },
        header(&copies.primary, PieceKind::PrimaryHeader, gpt::PRIMARY),
        array(&copies.primary, PieceKind::PrimaryEntries),
    ];
    if copies.backup.is_signed() {
        pieces.push(array(&copies.backup, PieceKind::BackupEntries));
        pieces.push(header(&copies.backup, PieceKind::BackupHeader, copies.backup_lba));
    }
    pieces.retain(|piece| !piece.bytes.is_empty());
    pieces.sort_by_key(|piece| (piece.offset, piece.kind));
    pieces
}

/// Reports a table that was written for sectors of another size, which makes all its numbers mean something else.
fn other_sector_size(sectors: &Sectors<'_>) -> Result<Option<Problem>, Error> {
    for size in [SectorSize::B512, SectorSize::B4096] {
        if size != sectors.size
            && let Some(offset) = gpt::is_written_for(sectors, size)?
        {
            let what = format!("a GPT written for {size}-byte sectors, on a disk with {}-byte sectors", sectors.size);
            return Ok(Some(Problem { offset, what }));
        }
    }
    Ok(None)
}

fn unusable(sectors: &Sectors<'_>, copies: &Copies, other: Option<Problem>) -> Error {
    if let Some(other) = other {
        return other.into();
    }
    let faults: Vec<String> = copies.problems(sectors).iter().map(ToString::to_string).collect();
    let what = format!("a protective MBR, and no sound copy of the GPT ({})", faults.join("; "));
    Error::Corrupt { offset: sectors.offset(gpt::PRIMARY), what }
}

/// Reports what is unusual in the MBR before a GPT.
fn protective_problems(sectors: &Sectors<'_>, lba0: &[u8], entries: &[gpt::Entry]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, (slot, entry)) in (1..5).zip(mbr::entries(lba0).into_iter().flatten().enumerate()) {
        let offset = mbr::entry_at(slot) as u64;
        let mut say = |what: String| problems.push(Problem { offset, what });
        let (start, end) = (u64::from(entry.start), entry.end());
        if !entry.is_used() {
            continue;
        }
        let twin = |gpt: &gpt::Entry| gpt.first_lba == start && gpt.last_lba.checked_add(1) == Some(end);
        if entry.kind != PROTECTIVE && !entries.iter().any(twin) {
            say(format!("hybrid MBR entry {number} (LBA {start} to {end}) is not one of the GPT's partitions"));
        }
        if entry.kind == PROTECTIVE && slot == 0 && start != 1 {
            say(format!("the protective MBR entry starts at LBA {start}, expected 1"));
        }
        if entry.kind != PROTECTIVE && end > sectors.count {
            say(format!("hybrid MBR entry {number} ends at LBA {end}, beyond the disk of {} sectors", sectors.count));
        }
    }
    problems
}

fn fill_mbr(layout: &mut Layout, sectors: &Sectors<'_>, lba0: Vec<u8>) -> Result<(), Error> {
    let table = mbr::Table::read(sectors, &lba0)?;
    let hinted = hint(sectors, &lba0, String::new());
    layout.disk_id = mbr::disk_signature(&lba0);
    layout.problems.extend(table.problems.iter().cloned());
    layout.pieces.push(TablePiece { kind: PieceKind::Mbr, offset: 0, bytes: lba0 });
    layout.pieces.extend(table.ebrs.iter().cloned());
    layout.problems.extend(crosscheck::mbr(layout, sectors, &table));
    let claims = table.seen.iter().map(|seen| Claim {
        at: seen.at,
        first_lba: seen.first,
        last_lba: seen.first.saturating_add(u64::from(seen.entry.size).saturating_sub(1)),
        partition: Partition {
            number: seen.number,
            range: Extent::new(0, 0),
            type_id: format!("{:#04x}", seen.entry.kind),
            type_name: types::of_mbr(seen.entry.kind).map(str::to_owned),
            guid: None,
            name: None,
            attributes: seen.entry.flag.into(),
        },
    });
    let (mut partitions, problems) = believe(claims.collect(), sectors, &layout.pieces);
    partitions.sort_by_key(|partition| partition.number);
    if !problems.is_empty() && !hinted.is_empty() {
        layout.problems.push(Problem { offset: 0, what: hinted });
    }
    layout.partitions = partitions;
    layout.problems.extend(problems);
    Ok(())
}

/// Adds to `what` that the numbers would make sense with sectors of another size.
fn hint(sectors: &Sectors<'_>, lba0: &[u8], what: String) -> String {
    let len = sectors.offset(Lba(sectors.count));
    let fits = |size| mbr::fits_sectors_of(size, lba0, len);
    if fits(sectors.size) || !fits(SectorSize::B512) {
        return what;
    }
    let joint = if what.is_empty() { "" } else { "; " };
    format!("{what}{joint}the table fits a disk with 512-byte sectors, this one's are {}", sectors.size)
}

fn cap(problems: &mut Vec<Problem>) {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if more > 0 {
        problems.push(Problem { offset: 0, what: format!("{more} more problems like these") });
    }
}

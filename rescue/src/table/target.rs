//! A table for another disk: what changes when the disk is larger, and nothing else.
//!
//! The bytes of the source's table are laid out on a rehearsal disk and read again with the same checks, because they
//! come from a store. On a larger disk a GPT needs its backup at the new end and four fields that tell of it; entry
//! arrays stay as they are byte for byte, and the primary one where it is.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Error, Layout, PieceKind, TableKind, TablePiece,
    gpt::{self, Copies, Header},
    mbr::{self, PROTECTIVE},
    sectors::Sectors,
    sparse::Sparse,
};
use crate::{
    extent::{Extent, ExtentSet},
    units::{Bytes, Lba},
};

pub(super) fn for_target(layout: &Layout, new_len: u64) -> Result<Vec<TablePiece>, Error> {
    if new_len < layout.disk_len {
        let (have, need) = (new_len, layout.disk_len);
        let shown = (Bytes(have), Bytes(need));
        let what = format!("the disk holds {have} bytes ({}), its table needs {need} ({})", shown.0, shown.1);
        return Err(Error::Refused(what));
    }
    check_pieces(layout)?;
    let (old, new) = (layout.sector_size.sectors_in(layout.disk_len), layout.sector_size.sectors_in(new_len));
    match layout.kind {
        TableKind::Gpt | TableKind::HybridGpt if new > old => grow(layout, old, new),
        _ => Ok(layout.pieces.clone()),
    }
}

/// Checks that every piece is whole sectors inside the disk it is said to come from.
fn check_pieces(layout: &Layout) -> Result<(), Error> {
    let disk = Extent::new(0, layout.disk_len);
    for piece in &layout.pieces {
        let (offset, len) = (piece.offset, piece.bytes.len() as u64);
        let inside = Extent::with_len(offset, len).is_some_and(|range| disk.covers(range));
        let whole = len > 0 && layout.sector_size.aligns(offset) && layout.sector_size.aligns(len);
        let misplaced = piece.kind == PieceKind::Mbr && (offset != 0 || len != layout.sector_size.bytes());
        if !inside || !whole || misplaced {
            let what = format!(
                "a piece of {len} bytes ({:?}) has no place on a disk of {} bytes",
                piece.kind, layout.disk_len
            );
            return Err(Error::Corrupt { offset, what });
        }
    }
    Ok(())
}

/// Lists the bytes of the old backup GPT that a larger disk does not need any more: the place of its header and
/// entries, as far as no partition lies there.
///
/// They hold the end of the table as it was; a program that looks there would find a disk of the old size.
pub(super) fn superseded(layout: &Layout, new_len: u64) -> Vec<Extent> {
    let Ok(pieces) = for_target(layout, new_len) else { return Vec::new() };
    let is_backup = |kind| matches!(kind, PieceKind::BackupHeader | PieceKind::BackupEntries);
    let old = layout.pieces.iter().filter(|piece| is_backup(piece.kind)).map(TablePiece::range);
    let mut partitions: ExtentSet = layout.partitions.iter().map(|partition| partition.range).collect();
    for claimed in claimed(layout).unwrap_or_default() {
        partitions.insert(claimed);
    }
    let written: ExtentSet = pieces.iter().map(TablePiece::range).collect();
    old.collect::<ExtentSet>().subtract(&partitions).subtract(&written).iter().collect()
}

/// Lists what the entries claim on the old disk. A layout made from an image lists only partitions that are regions of
/// their own; overlapping ones are known to the table alone.
fn claimed(layout: &Layout) -> Result<Vec<Extent>, Error> {
    let rehearsal = Sparse::with_pieces(layout.disk_len, &layout.pieces)?;
    let sectors = Sectors::new(&rehearsal, layout.sector_size);
    let copies = Copies::find(&sectors)?;
    let Some((_, header, array)) = copies.best() else { return Ok(Vec::new()) };
    let range = |entry: gpt::Entry| {
        let start = sectors.offset(Lba(entry.first_lba));
        Extent::new(start, sectors.offset(Lba(entry.last_lba.saturating_add(1))))
    };
    Ok(gpt::entries(header, array).into_iter().map(range).collect())
}

/// Where everything goes on the larger disk.
struct Move {
    primary_array: Lba,
    backup_array: Lba,
    last: u64,
    last_usable: u64,
}

fn grow(layout: &Layout, old: u64, new: u64) -> Result<Vec<TablePiece>, Error> {
    let size = layout.sector_size;
    let rehearsal = Sparse::with_pieces(layout.disk_len, &layout.pieces)?;
    let sectors = Sectors::new(&rehearsal, size);
    let copies = Copies::find(&sectors)?;
    let Some((copy, header, array)) = copies.best() else {
        let what = "no copy of the GPT kept with the image is sound".to_owned();
        return Err(Error::Corrupt { offset: sectors.offset(gpt::PRIMARY), what });
    };
    let places = place(&copies, header, array, &sectors, new)?;
    let last = Lba(places.last);
    let primary = header_at(copy.sector.clone(), header, gpt::PRIMARY, places.primary_array, last, places.last_usable);
    let backup = header_at(copy.sector.clone(), header, last, places.backup_array, gpt::PRIMARY, places.last_usable);
    let piece = |kind, lba, bytes: Vec<u8>| match size.offset_of(lba) {
        Some(offset) => Ok(TablePiece { kind, offset, bytes }),
        None => Err(Error::Refused(format!("{lba} lies beyond 2^64 bytes"))),
    };
    let mut pieces = vec![
        piece(PieceKind::PrimaryHeader, gpt::PRIMARY, primary)?,
        piece(PieceKind::PrimaryEntries, places.primary_array, copy.array.clone())?,
        piece(PieceKind::BackupEntries, places.backup_array, copy.array.clone())?,
        piece(PieceKind::BackupHeader, last, backup)?,
    ];
    if let Some(lba0) = layout.piece(PieceKind::Mbr) {
        let mut bytes = lba0.bytes.clone();
        grow_protective(&mut bytes, old, new);
        pieces.push(TablePiece { bytes, ..lba0.clone() });
    }
    pieces.sort_by_key(|piece| (piece.offset, piece.kind));
    Ok(pieces)
}

/// Decides where the arrays go: the primary one stays, the backup goes right before the last sector, or, when the old
/// table uses that place, stays as well.
fn place(copies: &Copies, header: &Header, array: &[u8], sectors: &Sectors<'_>, new: u64) -> Result<Move, Error> {
    let n = sectors.sectors_for(header.array_len());
    let last = new.saturating_sub(1);
    let entries = gpt::entries(header, array);
    let inside = entries.iter().filter(|entry| entry.first_lba <= entry.last_lba && entry.last_lba < sectors.count);
    let busy: Vec<(u64, u64)> = inside.map(|entry| (entry.first_lba, entry.last_lba.saturating_add(1))).collect();
    let is_free = |lba: u64| {
        let end = lba.saturating_add(n);
        lba > gpt::PRIMARY.0 && end <= last && !busy.iter().any(|(start, after)| lba < *after && *start < end)
    };
    let apart = |one: u64, two: u64| one.saturating_add(n) <= two || two.saturating_add(n) <= one;
    let refuse = |which: &str, why: &str| Error::Refused(format!("no place for the {which} GPT entries: {why}"));

    // Where the primary array was is its place, whatever lies at LBA 2: some boot loaders do.
    let primary_array = if copies.primary.array.is_empty() { Lba(2) } else { copies.primary.array_lba };
    let was_there = copies
        .primary
        .header
        .as_ref()
        .is_some_and(|own| own.entry_lba == primary_array.0 && sectors.sectors_for(own.array_len()) == n);
    if !was_there && !is_free(primary_array.0) {
        return Err(refuse("primary", "a partition lies there"));
    }
    let at_end = last.saturating_sub(n);
    let old_place = copies.backup.whole().map(|(header, _)| header.entry_lba);
    let fits = |lba: &u64| is_free(*lba) && apart(*lba, primary_array.0);
    let backup_array = [Some(at_end), old_place].into_iter().flatten().find(fits);
    let backup_array = backup_array.ok_or_else(|| refuse("backup", "partitions reach to the end of the disk"))?;
    let last_usable = if backup_array == at_end { at_end.saturating_sub(1) } else { header.last_usable_lba };
    Ok(Move { primary_array, backup_array: Lba(backup_array), last, last_usable })
}

/// Returns the header's sector with the fields that depend on its place set, and its checksum made right.
fn header_at(mut sector: Vec<u8>, header: &Header, my: Lba, array: Lba, alternate: Lba, last_usable: u64) -> Vec<u8> {
    put(&mut sector, 24, &my.0.to_le_bytes());
    put(&mut sector, 32, &alternate.0.to_le_bytes());
    put(&mut sector, 48, &last_usable.to_le_bytes());
    put(&mut sector, 72, &array.0.to_le_bytes());
    let crc = gpt::header_crc(&sector, header.header_size);
    put(&mut sector, 16, &crc.to_le_bytes());
    sector
}

/// Makes the protective entry reach the new end. Entries of a hybrid MBR, and a protective entry that ended before
/// the disk did to make room for them, stay as they are.
fn grow_protective(lba0: &mut [u8], old: u64, new: u64) {
    let Some(entries) = mbr::entries(lba0) else { return };
    let is_hybrid = entries.iter().any(|entry| entry.is_used() && entry.kind != PROTECTIVE);
    for (slot, entry) in entries.iter().enumerate() {
        let protects = entry.kind == PROTECTIVE && entry.is_used() && entry.start == 1;
        let reached_end = entry.end() >= old;
        if !protects || entry.size == u32::MAX || (is_hybrid && !reached_end) {
            continue;
        }
        let at = mbr::entry_at(slot);
        let size = u32::try_from(new.saturating_sub(entry.start.into())).unwrap_or(u32::MAX);
        put(lba0, at.saturating_add(5), &mbr::chs(new.saturating_sub(1)));
        put(lba0, at.saturating_add(12), &size.to_le_bytes());
    }
}

/// Writes `bytes` at `at`; nothing when they do not fit.
fn put(sector: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = at.checked_add(bytes.len()).and_then(|end| sector.get_mut(at..end)) {
        place.copy_from_slice(bytes);
    }
}

//! What a partition table must look like after a restore, computed from the source alone.
//!
//! ```text
//! same size     every byte as it was
//! larger disk   protective MBR: sectors of the first 0xEE entry         primary header: backup LBA, last usable LBA, CRC
//!               primary entries, EBRs, boot code: as they were          backup entries and header: at the new end
//! ```
//!
//! Source of the offsets: UEFI 2.10, section 5.3.2 "GPT Header".

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use crate::{At as _, Error, Result, disk::TestDisk, ensure};

/// Bytes that must be found on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub name: String,
    /// Where it is on the source, in bytes.
    pub from: u64,
    /// Where it must be on the target, in bytes.
    pub to: u64,
    /// What must be there.
    pub bytes: Vec<u8>,
}

/// Reads `len` bytes of a file at `offset`.
///
/// # Errors
/// [`Error::File`] when they are not there.
pub fn read(path: &Path, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|error| Error::Wrong(error.to_string()))?];
    File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset)).at(path)?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn put(bytes: &mut [u8], at: usize, len: usize, value: u64) {
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

/// Lists every piece of the table of `source` as it must be on a target of `target_len` bytes.
///
/// # Errors
/// [`Error::Wrong`] when the source has no table like the one it was made with.
pub fn expected(source: &TestDisk, target_len: u64) -> Result<Vec<Piece>> {
    if source.gpt { gpt(source, target_len) } else { mbr(source) }
}

fn gpt(source: &TestDisk, target_len: u64) -> Result<Vec<Piece>> {
    let sector = source.sector;
    let mut mbr = read(&source.path, 0, sector)?;
    let mut header = read(&source.path, sector, sector)?;
    ensure!(header.starts_with(b"EFI PART"), "{}: no GPT header", source.path.display());
    let entries_len = number(&header, 80, 4) * number(&header, 84, 4);
    let entries_sectors = entries_len.div_ceil(sector);
    let primary_entries = number(&header, 72, 8);
    let entries = read(&source.path, primary_entries * sector, entries_sectors * sector)?;
    let (old_last, last) = (source.len / sector - 1, target_len / sector - 1);
    let mut backup = read(&source.path, old_last * sector, sector)?;
    let backup_entries = number(&backup, 72, 8);
    if last != old_last {
        // The protective entry covers the disk, or all that 32 bits can count.
        put(&mut mbr, 446 + 12, 4, last.min(0xffff_ffff));
        put(&mut mbr, 446 + 5, 3, chs(last));
        for (header, own, other, entries) in
            [(&mut header, 1, last, primary_entries), (&mut backup, last, 1, last - (old_last - backup_entries))]
        {
            put(header, 24, 8, own);
            put(header, 32, 8, other);
            put(header, 48, 8, last - entries_sectors - 1);
            put(header, 72, 8, entries);
            seal(header);
        }
    }
    let piece = |name: &str, from: u64, to: u64, bytes: Vec<u8>| {
        let (from, to) = (from * sector, to * sector);
        Piece { name: name.to_owned(), from, to, bytes }
    };
    Ok(vec![
        piece("protective MBR", 0, 0, mbr),
        piece("primary header", 1, 1, header),
        piece("primary entries", primary_entries, primary_entries, entries.clone()),
        piece("backup entries", backup_entries, last - (old_last - backup_entries), entries),
        piece("backup header", old_last, last, backup),
    ])
}

/// Returns an LBA as the three bytes of cylinder, head and sector that a protective MBR has for it.
fn chs(lba: u64) -> u64 {
    let (cylinder, head, sector) = (lba / (255 * 63), lba / 63 % 255, lba % 63 + 1);
    if cylinder > 1023 { 0xff_ffff } else { head | sector << 8 | (cylinder >> 8) << 14 | (cylinder & 0xff) << 16 }
}

/// Computes the checksum of a header again.
fn seal(header: &mut [u8]) {
    let len = usize::try_from(number(header, 12, 4)).unwrap_or(92).min(header.len());
    put(header, 16, 4, 0);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&header[..len]);
    put(header, 16, 4, sum.into());
}

fn mbr(source: &TestDisk) -> Result<Vec<Piece>> {
    let bytes = read(&source.path, 0, 512)?;
    ensure!(bytes[510..] == [0x55, 0xaa], "{}: no MBR", source.path.display());
    let entry = |record: &[u8], slot: usize| {
        let at = 446 + 16 * slot;
        (record[at + 4], number(record, at + 8, 4))
    };
    let extended = (0..4).map(|slot| entry(&bytes, slot)).find(|(kind, _)| [0x05, 0x0f, 0x85].contains(kind));
    let mut pieces = vec![Piece { name: "MBR".to_owned(), from: 0, to: 0, bytes }];
    let Some((_, base)) = extended else { return Ok(pieces) };
    let mut next = Some(base);
    while let Some(lba) = next {
        ensure!(pieces.len() < 100, "{}: the EBR chain does not end", source.path.display());
        let bytes = read(&source.path, lba * 512, 512)?;
        ensure!(bytes[510..] == [0x55, 0xaa], "{}: no EBR at LBA {lba}", source.path.display());
        let (kind, offset) = entry(&bytes, 1);
        next = (kind != 0).then_some(base + offset);
        pieces.push(Piece { name: format!("EBR at LBA {lba}"), from: lba * 512, to: lba * 512, bytes });
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        MIB,
        disk::{self, DiskBuilder, Holds},
        tools::{run, tool},
    };

    fn swap() -> Holds {
        Holds::Swap { label: "swap".to_owned() }
    }

    #[test]
    fn a_table_on_a_larger_disk_is_what_sgdisk_makes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskBuilder::gpt(20 * MIB).part(4 * MIB, swap()).part(2 * MIB, swap());
        let disk = disk.build(&dir.path().join("disk")).unwrap();
        let larger = dir.path().join("larger");
        disk::copy(&disk.path, &larger).unwrap();
        File::options().write(true).open(&larger).unwrap().set_len(33 * MIB).unwrap();
        run(tool("sgdisk").arg("-e").arg(&larger)).unwrap();
        for piece in expected(&disk, 33 * MIB).unwrap() {
            assert!(piece.bytes == read(&larger, piece.to, piece.bytes.len() as u64).unwrap(), "{}", piece.name);
        }
    }

    #[test]
    fn every_ebr_of_a_chain_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let disk =
            (0..3).fold(DiskBuilder::mbr(20 * MIB).part(2 * MIB, swap()), |disk, _| disk.logical(2 * MIB, swap()));
        let disk = disk.build(&dir.path().join("disk")).unwrap();
        let pieces = expected(&disk, disk.len).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.to / MIB).collect::<Vec<_>>(), [0, 3, 6, 9]);
    }
}

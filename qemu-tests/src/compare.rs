//! Whether a restored disk equals its source, judged on the host: no word of the product is believed.
//!
//! Compared are the table, byte for byte; every extent the image lists, byte for byte; every block that `dumpe2fs`, or
//! the FAT, says is in use, byte for byte; the verdict of `e2fsck -fn` and `fsck.fat -n`; and every file by its hash.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use rescue::{
    extent::{Extent, ExtentSet},
    store::manifest::Manifest,
};

use crate::{
    At as _, Error, Result,
    disk::{Holds, Placed, TestDisk, within},
    ensure, extract,
    table::{self, Piece, read},
    tools::{run, tool},
    tree::What,
};

/// What was compared, for the report; everything counted here was equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Equal {
    /// Pieces of the table.
    pub table_pieces: u64,
    /// Extents the image lists.
    pub extents: u64,
    /// Bytes in them.
    pub extent_bytes: u64,
    /// Bytes that other tools say are in use; all of them lie in the extents.
    pub used_bytes: u64,
    /// File systems that were checked.
    pub file_systems: u64,
    /// Files whose hashes were compared.
    pub files: u64,
    /// Bytes in them.
    pub file_bytes: u64,
}

/// Compares the disk `target` with `source`, from which the image `manifest` was made.
///
/// # Errors
/// [`Error::Wrong`] with the first difference.
pub fn compare(source: &TestDisk, target: &Path, manifest: &Manifest) -> Result<Equal> {
    let target_len = target.metadata().at(target)?.len();
    let pieces = table::expected(source, target_len)?;
    tables(target, &pieces)?;
    let listed = listed_extents(source, manifest, &pieces)?;
    let moved = ExtentSet::from_unsorted(pieces.iter().map(|p| at(p.from, p.bytes.len() as u64)).collect());
    for extent in listed.subtract(&moved).iter() {
        same_bytes(&source.path, target, extent, "an allocated extent")?;
    }
    let mut equal = Equal {
        table_pieces: pieces.len() as u64,
        extents: listed.as_slice().len() as u64,
        extent_bytes: listed.total(),
        ..Equal::default()
    };
    for part in &source.parts {
        partition(source, target, part, &listed, &mut equal)?;
    }
    Ok(equal)
}

const fn at(start: u64, len: u64) -> Extent {
    Extent { start, end: start + len }
}

fn tables(target: &Path, pieces: &[Piece]) -> Result<()> {
    for piece in pieces {
        let found = read(target, piece.to, piece.bytes.len() as u64)?;
        if let Some(byte) = found.iter().zip(&piece.bytes).position(|(found, want)| found != want) {
            let (name, offset) = (&piece.name, piece.to + byte as u64);
            return Err(Error::Wrong(format!(
                "{}: {name}: byte {offset:#x} (byte {byte} of it) is {:#04x}, must be {:#04x}",
                target.display(),
                found[byte],
                piece.bytes[byte]
            )));
        }
    }
    Ok(())
}

/// Returns the extents that the image keeps, from the start of the disk, after checking that they make sense.
fn listed_extents(source: &TestDisk, manifest: &Manifest, pieces: &[Piece]) -> Result<ExtentSet> {
    let (mut end, mut all) = (0, ExtentSet::new());
    for region in &manifest.regions {
        let range = region.region.range;
        ensure!(range.start == end, "the image's regions leave {end:#x}..{:#x} out", range.start);
        end = range.end;
        for extent in region.allocated.iter() {
            all.insert(Extent::new(range.start + extent.start, range.start + extent.end));
        }
    }
    ensure!(end == source.len, "the image's regions end at {end:#x}, the disk at {:#x}", source.len);
    for piece in pieces {
        // A backup that every restore writes anew need not be among the extents; what lies at the start must be.
        let extent = at(piece.from, piece.bytes.len() as u64);
        let kept = manifest.pieces.iter().any(|p| p.offset == piece.from) || all.covers(extent);
        ensure!(kept, "the image holds no {} ({extent:?})", piece.name);
    }
    Ok(all)
}

/// Compares a run of bytes at the same place of two files.
fn same_bytes(source: &Path, target: &Path, extent: Extent, what: &str) -> Result<()> {
    let (one, other) = (File::open(source).at(source)?, File::open(target).at(target)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = extent.start;
    while offset < extent.end {
        let step = usize::try_from(extent.end - offset).unwrap_or(usize::MAX).min(left.len());
        one.read_exact_at(&mut left[..step], offset).at(source)?;
        other.read_exact_at(&mut right[..step], offset).at(target)?;
        if left[..step] != right[..step] {
            let byte = left.iter().zip(&right).position(|(a, b)| a != b).unwrap_or(0) as u64 + offset;
            return Err(Error::Wrong(format!("{}: {what} ({extent:?}) differs at byte {byte:#x}", target.display())));
        }
        offset += step as u64;
    }
    Ok(())
}

fn partition(source: &TestDisk, target: &Path, part: &Placed, listed: &ExtentSet, equal: &mut Equal) -> Result<()> {
    let used = used(&source.path, part)?;
    for extent in used.iter() {
        let extent = Extent::new(part.start + extent.start, part.start + extent.end);
        ensure!(listed.covers(extent), "partition {}: the image leaves out {extent:?}, which is in use", part.number);
        same_bytes(&source.path, target, extent, "a run in use")?;
    }
    equal.used_bytes += used.total();
    check(target, part)?;
    let (Some(want), Some(found)) = (extract::files(&source.path, part)?, extract::files(target, part)?) else {
        return Ok(());
    };
    equal.file_systems += 1;
    ensure!(want.len() == found.len(), "partition {}: {} entries, must be {}", part.number, found.len(), want.len());
    for (want, found) in want.iter().zip(&found) {
        ensure!(want == found, "partition {}: {found:?}, must be {want:?}", part.number);
        if let What::File(len, _) = want.what {
            equal.files += 1;
            equal.file_bytes += len;
        }
    }
    Ok(())
}

/// Finds the bytes of a partition that its file system uses, without the product.
fn used(disk: &Path, part: &Placed) -> Result<ExtentSet> {
    match part.holds {
        Holds::Ext { .. } => used_by_ext(disk, part),
        Holds::Fat { .. } => used_by_fat(disk, part),
        Holds::Swap { .. } => Ok(ExtentSet::from(Extent::new(0, 4096))),
    }
}

fn used_by_ext(disk: &Path, part: &Placed) -> Result<ExtentSet> {
    let text = run(tool("dumpe2fs").arg(within(disk, part.start)))?;
    let wrong = || Error::Wrong(format!("{}: dumpe2fs prints something else than expected", disk.display()));
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse::<u64>().ok()
    };
    let block = field("Block size:").ok_or_else(wrong)?;
    let mut free = Vec::new();
    // The lists of the groups are indented; the line without indentation is the count of the whole volume.
    for list in text.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for run in list.split(", ").filter(|run| !run.is_empty()) {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            let (first, last): (u64, u64) =
                (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
            free.push(Extent::new(first * block, (last + 1) * block));
        }
    }
    let free = ExtentSet::from_unsorted(free);
    let counted = field("Free blocks:").ok_or_else(wrong)? * block;
    ensure!(free.total() == counted, "dumpe2fs lists {} free bytes and counts {counted}", free.total());
    Ok(free.complement(part.len))
}

/// Reads the FAT itself. Source: Microsoft, FAT32 File System Specification 1.03.
fn used_by_fat(disk: &Path, part: &Placed) -> Result<ExtentSet> {
    let boot = read(disk, part.start, 512)?;
    let field = |at: usize, len: usize| boot[at..at + len].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
    let sector = field(11, 2);
    let cluster = field(13, 1) * sector;
    let fat_start = field(14, 2) * sector;
    let fat_len = if field(22, 2) == 0 { field(36, 4) } else { field(22, 2) } * sector;
    let data = fat_start + fat_len * field(16, 1) + field(17, 2) * 32;
    let sectors = if field(19, 2) == 0 { field(32, 4) } else { field(19, 2) };
    let clusters = (sectors * sector - data) / cluster;
    let fat = read(disk, part.start + fat_start, fat_len)?;
    let entry = |n: usize| match clusters {
        ..4085 => {
            let pair = u32::from(fat[n * 3 / 2]) | u32::from(fat[n * 3 / 2 + 1]) << 8;
            if n.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }
        }
        4085..65525 => u32::from(fat[n * 2]) | u32::from(fat[n * 2 + 1]) << 8,
        _ => u32::from_le_bytes([fat[n * 4], fat[n * 4 + 1], fat[n * 4 + 2], fat[n * 4 + 3]]) & 0x0fff_ffff,
    };
    let mut used = ExtentSet::from(Extent::new(0, data));
    for number in (0..clusters).filter(|n| usize::try_from(n + 2).is_ok_and(|n| entry(n) != 0)) {
        used.insert(at(data + number * cluster, cluster));
    }
    Ok(used)
}

/// Lets the file system's own checker look at the restored volume.
fn check(disk: &Path, part: &Placed) -> Result<()> {
    match part.holds {
        Holds::Ext { .. } => run(tool("e2fsck").arg("-fn").arg(within(disk, part.start))).map(drop),
        Holds::Fat { .. } => {
            // It takes no offset: the volume is looked at in a file of its own.
            let aside = disk.with_extension("volume");
            std::fs::write(&aside, read(disk, part.start, part.len)?).at(&aside)?;
            let checked = run(tool("fsck.fat").arg("-n").arg(&aside)).map(drop);
            std::fs::remove_file(&aside).at(&aside)?;
            checked
        }
        Holds::Swap { .. } => {
            let start = read(disk, part.start, 4096)?;
            ensure!(start.ends_with(b"SWAPSPACE2"), "{}: partition {} is no swap area", disk.display(), part.number);
            Ok(())
        }
    }
}

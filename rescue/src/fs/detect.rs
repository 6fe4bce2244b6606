//! What a region holds, by name: every signature that is there, with label and UUID as `blkid` shows them.
//!
//! More than one signature means that one of them is stale or that something is stacked on something else: who acts on
//! a name must then take none of them for granted.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod containers;
mod linux;
mod odd;
mod optical;
mod simple;
mod windows;
mod zfs;

use uuid::Uuid;

use super::{Detected, State, apfs, btrfs, ext, f2fs, fat, hfsplus, ntfs, swap};
use crate::{block::ReadAt, bytes::Fields};

/// Lists everything `region` has the signature of, containers (RAID, encryption, volume managers) first.
#[must_use]
pub fn all(region: &dyn ReadAt) -> Vec<Detected> {
    let probe = Probe { region };
    let mut found = containers::all(&probe);
    found.extend(linux::all(&probe));
    found.extend(windows::all(&probe));
    found.extend(simple::all(&probe));
    found.extend(zfs::detect(&probe));
    found.extend(optical::detect(&probe));
    found.extend(ext::detect(region));
    found.extend(f2fs::detect(region));
    found.extend(hfsplus::detect(region));
    found.extend(apfs::detect(region));
    found.extend(swap::detect(region));
    // The boot sectors of NTFS, exFAT, ReFS and BitLocker resemble that of FAT; theirs are told apart by name.
    let boot_sector = ["ntfs", "exfat", "ReFS", "BitLocker"];
    if !found.iter().any(|other| boot_sector.contains(&other.name.as_str())) {
        found.extend(fat::detect(region));
    }
    if found.is_empty() {
        // What is left of a file system whose first superblock is gone.
        let copy = ext::detect_by_backup(region).map(|(detected, _)| detected);
        let copy = copy.or_else(|| ntfs::detect_by_backup(region).map(|(detected, _)| detected));
        let copy = copy.or_else(|| btrfs::detect_by_copy(region)).or_else(|| f2fs::detect_by_backup(region));
        found.extend(copy.or_else(|| odd::minix(&probe)));
    }
    found
}

/// Names the firmware RAID that `disk` is a member of.
#[must_use]
pub fn firmware_raid(disk: &dyn ReadAt) -> Option<String> {
    containers::firmware(&Probe { region: disk }).next().map(|found| found.name)
}

/// Reads pieces of a region; what cannot be read is not there.
struct Probe<'a> {
    region: &'a dyn ReadAt,
}

impl Probe<'_> {
    fn len(&self) -> u64 {
        self.region.len()
    }

    /// Returns `len` bytes at `offset`; callers ask for at most some tens of KiB.
    fn at(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.region.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    }

    /// Returns `len` bytes that begin `back` bytes before the end.
    fn before_end(&self, back: u64, len: usize) -> Option<Vec<u8>> {
        self.at(self.len().checked_sub(back)?, len)
    }

    fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.at(offset, magic.len()).is_some_and(|bytes| bytes == magic)
    }
}

/// Starts a [`Detected`] with nothing but a name.
fn named(name: &str) -> Detected {
    Detected { name: name.to_owned(), version: None, label: None, uuid: None, block_size: None, state: State::Unknown }
}

/// Returns the UUID in the 16 bytes at `offset`, where it is not all zero.
pub(super) fn uuid_at(bytes: &[u8], offset: usize) -> Option<String> {
    let raw: [u8; 16] = Fields(bytes).array(offset).ok()?;
    (raw != [0; 16]).then(|| Uuid::from_bytes(raw).to_string())
}

//! NTFS, exFAT, ReFS, BitLocker.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, State, named};
use crate::{bytes::Fields, fs::label::utf16};

/// Lists what is there; at most one, since all begin in the boot sector.
pub fn all(probe: &Probe<'_>) -> Vec<Detected> {
    [ntfs, exfat, refs, bitlocker].iter().find_map(|format| format(probe)).into_iter().collect()
}

fn ntfs(probe: &Probe<'_>) -> Option<Detected> {
    crate::fs::ntfs::detect(probe.region)
}

/// Source: Microsoft, exFAT file system specification 1.0.
fn exfat(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.at(0, 512).filter(|bytes| Fields(bytes).has(3, b"EXFAT   "))?;
    let f = Fields(&bytes);
    let (sector_shift, cluster_shift) = (u32::from(f.u8(108).ok()?), u32::from(f.u8(109).ok()?));
    let shift = sector_shift.checked_add(cluster_shift).filter(|shift| *shift <= 25)?;
    if !(9..=12).contains(&sector_shift) || !f.has(510, &[0x55, 0xaa]) {
        return None;
    }
    let serial = f.u32(100).ok()?;
    let state = match f.u16(106).ok()? & 6 {
        0 => State::Clean,
        2 => State::Dirty,
        // The medium had failures.
        _ => State::Damaged,
    };
    Some(Detected {
        version: Some(format!("{}.{}", f.u8(105).ok()?, f.u8(104).ok()?)),
        label: exfat_label(probe, f, sector_shift, shift),
        uuid: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)),
        block_size: Some(1 << shift),
        state,
        ..named("exfat")
    })
}

/// Looks for the label entry (type 83) in the root directory.
fn exfat_label(probe: &Probe<'_>, boot: Fields<'_>, sector_shift: u32, shift: u32) -> Option<String> {
    let (fat, heap) = (u64::from(boot.u32(80).ok()?), u64::from(boot.u32(88).ok()?));
    let (clusters, mut cluster) = (u64::from(boot.u32(92).ok()?), u64::from(boot.u32(96).ok()?));
    let cluster_len = 1u64.checked_shl(shift)?;
    // A label stands near the start; a directory of more than a thousand clusters is searched no further.
    for _ in 0..1000 {
        let index = cluster.checked_sub(2).filter(|index| *index < clusters)?;
        let offset = heap.checked_shl(sector_shift)?.checked_add(index.checked_mul(cluster_len)?)?;
        for part in 0..cluster_len.div_ceil(65536) {
            let len = usize::try_from(cluster_len.min(65536)).ok()?;
            let bytes = probe.at(offset.checked_add(part.checked_mul(65536)?)?, len)?;
            for entry in bytes.chunks_exact(32).map(Fields) {
                match entry.u8(0).ok()? {
                    0 => return None,
                    0x83 => {
                        let len = usize::from(entry.u8(1).ok()?).min(11).checked_mul(2)?;
                        return utf16(entry.slice(2, len).ok()?);
                    }
                    _ => {}
                }
            }
        }
        let link = fat.checked_shl(sector_shift)?.checked_add(cluster.checked_mul(4)?)?;
        cluster = u64::from(Fields(&probe.at(link, 4)?).u32(0).ok()?);
    }
    None
}

fn refs(probe: &Probe<'_>) -> Option<Detected> {
    probe.has(0, b"\0\0\0ReFS\0").then(|| named("ReFS"))
}

/// BitLocker's own boot sector, and the one that lets old systems see a FAT volume ("To Go").
fn bitlocker(probe: &Probe<'_>) -> Option<Detected> {
    let to_go = [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];
    let fve = probe.has(3, b"-FVE-FS-") || (probe.has(3, b"MSWIN4.1") && probe.has(424, &to_go));
    fve.then(|| named("BitLocker"))
}

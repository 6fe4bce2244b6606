//! What other file systems lie inside of: encryption, volume managers, RAID members.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, named};
use crate::{
    bytes::Fields,
    fs::{label::text, luks, lvm, md},
};

/// Lists what is there.
pub fn all(probe: &Probe<'_>) -> Vec<Detected> {
    let readers = [luks::detect, lvm::detect, md::detect];
    let read = readers.iter().filter_map(|detect| detect(probe.region));
    read.chain(firmware(probe)).chain(drbd(probe)).collect()
}

/// Lists the firmware RAIDs that the region is a member of.
pub fn firmware<'p>(probe: &'p Probe<'_>) -> impl Iterator<Item = Detected> + 'p {
    let formats = [isw, ddf, nvidia, lsi, promise, highpoint, adaptec, silicon, via, jmicron];
    formats.into_iter().filter_map(|format| format(probe))
}

/// Intel firmware RAID.
fn isw(probe: &Probe<'_>) -> Option<Detected> {
    [512u64, 4096].iter().find_map(|sector| {
        let bytes = probe.before_end(sector.saturating_mul(2), 48)?;
        let f = Fields(&bytes);
        f.has(0, b"Intel Raid ISM Cfg Sig. ")
            .then(|| Detected { version: f.slice(24, 6).ok().and_then(text), ..named("isw_raid_member") })
    })
}

/// SNIA's common format; its anchor is in the last sector, with Adaptec 257 sectors from the end.
fn ddf(probe: &Probe<'_>) -> Option<Detected> {
    [512u64, 257 * 512].iter().find_map(|back| {
        let bytes = probe.before_end(*back, 512)?;
        let f = Fields(&bytes);
        let found = f.has(0, b"\xde\x11\xde\x11") || f.has(0, b"\x11\xde\x11\xde");
        found.then(|| Detected {
            version: f.slice(32, 8).ok().and_then(text),
            uuid: f.slice(8, 24).ok().and_then(text),
            ..named("ddf_raid_member")
        })
    })
}

fn nvidia(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(1024, 18).filter(|bytes| Fields(bytes).has(0, b"NVIDIA"))?;
    let version = Fields(&bytes).u16(16).ok().map(|version| version.to_string());
    Some(Detected { version, ..named("nvidia_raid_member") })
}

fn lsi(probe: &Probe<'_>) -> Option<Detected> {
    probe.before_end(512, 6).filter(|bytes| bytes == b"$XIDE$").map(|_| named("lsi_mega_raid_member"))
}

fn promise(probe: &Probe<'_>) -> Option<Detected> {
    let sectors = [63u64, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087];
    sectors.iter().find_map(|sectors| {
        let bytes = probe.before_end(sectors.saturating_mul(512), 24)?;
        (bytes == b"Promise Technology, Inc.").then(|| named("promise_fasttrack_raid_member"))
    })
}

fn highpoint(probe: &Probe<'_>) -> Option<Detected> {
    let magic = |bytes: &[u8]| matches!(Fields(bytes).u32(0), Ok(0x5a78_16f0 | 0x5a78_16f3 | 0x5a78_16fd));
    if probe.at(9 * 512 + 32, 4).is_some_and(|bytes| magic(&bytes)) {
        return Some(named("hpt37x_raid_member"));
    }
    let hpt45x = |bytes: &[u8]| matches!(Fields(bytes).u32(0), Ok(0x5a78_16f3 | 0x5a78_16fd));
    probe.before_end(11 * 512, 4).filter(|bytes| hpt45x(bytes)).map(|_| named("hpt45x_raid_member"))
}

fn adaptec(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 512)?;
    let f = Fields(&bytes);
    let found = f.u32_be(0).ok()? == 0x37fc_4d1e && f.has(256, b"DPTM");
    (found || f.u32_be(0).ok()? == 0x9007_65c4).then(|| named("adaptec_raid_member"))
}

fn silicon(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 512)?;
    let f = Fields(&bytes);
    let mut sum = 0u16;
    for at in (0..0x13e).step_by(2) {
        sum = sum.wrapping_add(f.u16(at).ok()?);
    }
    let right = sum.wrapping_neg() == f.u16(0x13e).ok()?;
    let version = format!("{}.{}", f.u16(0x10a).ok()?, f.u16(0x108).ok()?);
    (f.u32(0x60).ok()? == 0x2f00_0000 && right)
        .then(|| Detected { version: Some(version), ..named("silicon_medley_raid_member") })
}

fn via(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 64)?;
    let f = Fields(&bytes);
    let sum = f.slice(0, 50).ok()?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let version = f.u8(2).ok()?;
    (f.u16(0).ok()? == 0xaa55 && version <= 1 && sum == f.u8(50).ok()?)
        .then(|| Detected { version: Some(version.to_string()), ..named("via_raid_member") })
}

fn jmicron(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 128).filter(|bytes| Fields(bytes).has(0, b"JM"))?;
    let sum = bytes.as_chunks::<2>().0.iter().fold(0u16, |sum, pair| sum.wrapping_add(u16::from_le_bytes(*pair)));
    let version = bytes.get(3).zip(bytes.get(2)).map(|(major, minor)| format!("{major}.{minor}"));
    (sum <= 1).then(|| Detected { version, ..named("jmicron_raid_member") })
}

/// DRBD's metadata at the end of what it replicates.
fn drbd(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(4096, 512)?;
    let f = Fields(&bytes);
    let (version, at) = match f.u32_be(60).ok()? {
        0x8374_026b | 0x8374_026c => ("v08", 40),
        0x8374_026d => ("v09", 48),
        _ => return None,
    };
    let uuid = f.u64_be(at).ok().filter(|uuid| *uuid != 0).map(|uuid| format!("{uuid:x}"));
    Some(Detected { version: Some(version.to_owned()), uuid, ..named("drbd") })
}

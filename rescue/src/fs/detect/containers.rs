//! What other file systems lie inside of: encryption, volume managers, RAID members.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use uuid::Uuid;

use super::{Detected, Probe, named, uuid_at};
use crate::{bytes::Fields, fs::label::text, units::KIB};

/// Lists what is there.
pub fn all(probe: &Probe<'_>) -> Vec<Detected> {
    let formats =
        [luks, lvm2, md, md_old, isw, ddf, nvidia, lsi, promise, highpoint, adaptec, silicon, via, jmicron, drbd];
    formats.iter().filter_map(|format| format(probe)).collect()
}

/// Source: LUKS1 and LUKS2 on-disk format specifications; big endian. LUKS2 repeats its header further behind.
fn luks(probe: &Probe<'_>) -> Option<Detected> {
    let first = probe.at(0, 512).filter(|bytes| Fields(bytes).has(0, b"LUKS\xba\xbe"));
    let bytes = first.or_else(|| {
        (14..=22u32).filter_map(|shift| probe.at(1 << shift, 512)).find(|bytes| Fields(bytes).has(0, b"SKUL\xba\xbe"))
    })?;
    let version = Fields(&bytes).u16_be(6).ok()?;
    Some(Detected {
        version: Some(version.to_string()),
        label: (version == 2).then(|| bytes.get(24..72).and_then(text)).flatten(),
        uuid: bytes.get(168..208).and_then(text),
        ..named("crypto_LUKS")
    })
}

/// Source: LVM2, lib/format_text/layout.h: a label in one of the first four sectors.
fn lvm2(probe: &Probe<'_>) -> Option<Detected> {
    (0..4u64).find_map(|sector| {
        let bytes = probe.at(sector.saturating_mul(512), 512)?;
        let f = Fields(&bytes);
        if !f.has(0, b"LABELONE") || !f.has(24, b"LVM2 001") {
            return None;
        }
        let raw = String::from_utf8_lossy(f.slice(32, 32).ok()?).into_owned();
        let mut uuid = String::new();
        for (index, c) in raw.chars().enumerate() {
            if [6, 10, 14, 18, 22, 26].contains(&index) {
                uuid.push('-');
            }
            uuid.push(c);
        }
        Some(Detected { version: text(f.slice(24, 8).ok()?), uuid: Some(uuid), ..named("LVM2_member") })
    })
}

/// Linux software RAID, superblocks of version 1. Source: Linux kernel, include/uapi/linux/raid/md_p.h.
fn md(probe: &Probe<'_>) -> Option<Detected> {
    let from_end = (probe.len() / 512).checked_sub(16).map(|sector| (sector & !7).saturating_mul(512));
    let places = [from_end, Some(0), Some(4096)];
    places.into_iter().enumerate().find_map(|(minor, place)| {
        let bytes = probe.at(place?, 256)?;
        let f = Fields(&bytes);
        let own_place = f.u64(144).ok()?.checked_mul(512)? == place?;
        (f.u32(0).ok()? == 0xa92b_4efc && f.u32(4).ok()? == 1 && own_place).then(|| Detected {
            version: Some(format!("1.{minor}")),
            label: bytes.get(32..64).and_then(text),
            uuid: uuid_at(&bytes, 16),
            ..named("linux_raid_member")
        })
    })
}

/// Linux software RAID, superblocks of version 0.90, in the byte order of the machine that made them.
fn md_old(probe: &Probe<'_>) -> Option<Detected> {
    let place = (probe.len() / (64 * KIB)).checked_sub(1)?.checked_mul(64 * KIB)?;
    let bytes = probe.at(place, 256)?;
    let f = Fields(&bytes);
    let (little, big) = (f.u32(0).ok()? == 0xa92b_4efc, f.u32_be(0).ok()? == 0xa92b_4efc);
    let word = |at| if little { f.u32(at) } else { f.u32_be(at) };
    if !(little || big) || word(4).ok()? != 0 {
        return None;
    }
    let mut raw = Vec::new();
    for at in [20, 52, 56, 60] {
        raw.extend(word(at).ok()?.to_be_bytes());
    }
    Some(Detected {
        version: Some(format!("{}.{}.{}", word(4).ok()?, word(8).ok()?, word(12).ok()?)),
        uuid: Uuid::from_slice(&raw).ok().map(|uuid| uuid.to_string()),
        ..named("linux_raid_member")
    })
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
        found.then(|| Detected { version: f.slice(32, 8).ok().and_then(text), ..named("ddf_raid_member") })
    })
}

fn nvidia(probe: &Probe<'_>) -> Option<Detected> {
    probe.before_end(1024, 6).filter(|bytes| bytes == b"NVIDIA").map(|_| named("nvidia_raid_member"))
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
    (f.u32_be(0).ok()? == 0x9007_65c4).then(|| named("adaptec_raid_member"))
}

fn silicon(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 512)?;
    let f = Fields(&bytes);
    let mut sum = 0u16;
    for at in (0..0x13e).step_by(2) {
        sum = sum.wrapping_add(f.u16(at).ok()?);
    }
    let right = sum.wrapping_neg() == f.u16(0x13e).ok()?;
    (f.u32(0x60).ok()? == 0x2f00_0000 && right).then(|| named("silicon_medley_raid_member"))
}

fn via(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 64)?;
    let f = Fields(&bytes);
    let sum = f.slice(0, 50).ok()?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    (f.u16(0).ok()? == 0xaa55 && f.u8(2).ok()? <= 1 && sum == f.u8(50).ok()?).then(|| named("via_raid_member"))
}

fn jmicron(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(512, 128).filter(|bytes| Fields(bytes).has(0, b"JM"))?;
    let sum = bytes.as_chunks::<2>().0.iter().fold(0u16, |sum, pair| sum.wrapping_add(u16::from_le_bytes(*pair)));
    (sum <= 1).then(|| named("jmicron_raid_member"))
}

fn drbd(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.before_end(4096, 512)?;
    let magic = Fields(&bytes).u32_be(60).ok()?;
    matches!(magic, 0x8374_026b..=0x8374_026d).then(|| named("drbd"))
}

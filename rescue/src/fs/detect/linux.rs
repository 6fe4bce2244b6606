//! XFS, Btrfs, NILFS2, squashfs, HFS: formats whose magic number alone is not enough.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, named, uuid_at};
use crate::{bytes::Fields, fs::label::text};

/// Lists what is there.
pub fn all(probe: &Probe<'_>) -> Vec<Detected> {
    [xfs, xfs_log, btrfs, nilfs2, squashfs, hfs].iter().filter_map(|format| format(probe)).collect()
}

fn xfs(probe: &Probe<'_>) -> Option<Detected> {
    crate::fs::xfs::detect(probe.region)
}

/// An external log begins with a log record: magic, cycle, version 1 or 2.
fn xfs_log(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.at(0, 512)?;
    let f = Fields(&bytes);
    let found = f.u32_be(0).ok()? == 0xfeed_babe && (1..=2).contains(&f.u32_be(8).ok()?);
    found.then(|| Detected { uuid: uuid_at(&bytes, 304), ..named("xfs_external_log") })
}

fn btrfs(probe: &Probe<'_>) -> Option<Detected> {
    crate::fs::btrfs::detect(probe.region)
}

/// Source: Linux kernel, include/uapi/linux/nilfs2_ondisk.h. The magic number is short, so revision and length as well.
fn nilfs2(probe: &Probe<'_>) -> Option<Detected> {
    let is = |bytes: &[u8]| {
        let f = Fields(bytes);
        f.u16(6) == Ok(0x3434) && f.u32(0) == Ok(2) && f.u16(8).is_ok_and(|len| (96..=1024).contains(&len))
    };
    // The second superblock is in the last whole 4 KiB but one.
    let second = (probe.len() / 4096).saturating_sub(1).saturating_mul(4096);
    let bytes = [1024, second].iter().find_map(|offset| probe.at(*offset, 1024).filter(|bytes| is(bytes)))?;
    Some(Detected {
        version: Fields(&bytes).u32(0).ok().map(|revision| revision.to_string()),
        label: bytes.get(168..248).and_then(text),
        uuid: uuid_at(&bytes, 152),
        ..named("nilfs2")
    })
}

/// In the byte order of the machine that made it; the formats before version 4 go by another name.
fn squashfs(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.at(0, 32)?;
    let f = Fields(&bytes);
    let (major, minor) = match bytes.get(..4)? {
        b"hsqs" => (f.u16(28).ok()?, f.u16(30).ok()?),
        b"sqsh" => (f.u16_be(28).ok()?, f.u16_be(30).ok()?),
        _ => return None,
    };
    Some(Detected {
        version: Some(format!("{major}.{minor}")),
        ..named(if major < 4 { "squashfs3" } else { "squashfs" })
    })
}

/// HFS without an HFS+ volume inside.
fn hfs(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.at(1024, 512)?;
    let f = Fields(&bytes);
    let allocation = f.u32_be(20).ok()?;
    let plausible = allocation > 0 && allocation.is_multiple_of(512);
    (f.has(0, b"BD") && plausible && !f.has(124, b"H+")).then(|| named("hfs"))
}

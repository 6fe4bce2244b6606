//! Labels and UUIDs of formats that have them in a form of their own.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, named, uuid_at};
use crate::{bytes::Fields, fs::label::text};

/// Adds to what was found by its magic number what else `bytes`, from the same base on, say.
pub fn completed(mut found: Detected, bytes: &[u8]) -> Detected {
    let f = Fields(bytes);
    let label = |at: usize, len: usize| f.slice(at, len).ok().and_then(text);
    let byte = |at: usize| f.u8(at).ok().map(|number| number.to_string());
    match found.name.as_str() {
        // The primary device of a file system and the one with its data differ in a flag.
        "scoutfs" => {
            let meta = f.u8(48).is_ok_and(|flags| flags & 1 != 0);
            if meta { "scoutfs_meta" } else { "scoutfs_data" }.clone_into(&mut found.name);
        }
        "reiserfs" => found.version = reiserfs_version(f),
        "reiser4" => found.version = Some("4".to_owned()),
        "vxfs" if f.has(0, b"\xa5\x01\xfc\xf5") => found.version = f.u32_be(4).ok().map(|number| number.to_string()),
        "vxfs" => found.version = f.u32(4).ok().map(|number| number.to_string()),
        "ocfs2" => {
            let revision = f.u16(192).ok().zip(f.u16(194).ok());
            found.version = revision.map(|(major, minor)| format!("{major}.{minor}"));
        }
        "ubifs" => {
            let formats = f.u32(80).ok().zip(f.u32(124).ok());
            found.version = formats.map(|(write, read)| format!("w{write}r{read}"));
        }
        "befs" => found.label = label(0, 32),
        "cramfs" => found.label = label(48, 16),
        "romfs" => found.label = label(16, 128),
        "ubi" => {
            found.uuid = f.u32_be(24).ok().map(|sequence| sequence.to_string());
            found.version = byte(4);
        }
        "drbdmanage_control_volume" => found.uuid = label(11, 32),
        "VMFS" => (found.label, found.uuid, found.version) = (label(29, 128), vmfs_uuid(bytes, 9), byte(8)),
        "VMFS_volume_member" => (found.uuid, found.version) = (vmfs_uuid(bytes, 0x254), byte(4)),
        // An early bcachefs has the magic number of bcache, but versions beyond bcache's.
        "bcache" if f.u16(16).is_ok_and(|version| version >= 10) => {
            "bcachefs".clone_into(&mut found.name);
            found.uuid = uuid_at(bytes, 56);
        }
        _ => {}
    }
    found
}

fn reiserfs_version(f: Fields<'_>) -> Option<String> {
    let magics: [(&[u8], &str); 3] = [(b"ReIsErFs", "3.5"), (b"ReIsEr2Fs", "3.6"), (b"ReIsEr3Fs", "JR")];
    magics.iter().find(|(magic, _)| f.has(52, magic)).map(|(_, version)| (*version).to_owned())
}

/// VMware's UUIDs: two numbers of four bytes and one of two, little endian, and a MAC address.
fn vmfs_uuid(bytes: &[u8], at: usize) -> Option<String> {
    let f = Fields(bytes);
    let (first, second) = (f.u32(at).ok()?, f.u32(at.checked_add(4)?).ok()?);
    let (third, mac) = (f.u16(at.checked_add(8)?).ok()?, f.slice(at.checked_add(10)?, 6).ok()?);
    let mac = mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(format!("{first:08x}-{second:08x}-{third:04x}-{mac}"))
}

/// HPFS has label and serial number in the boot sector, as FAT has.
pub fn hpfs(probe: &Probe<'_>, found: &mut Detected) {
    let Some(boot) = probe.at(0, 512).filter(|bytes| Fields(bytes).u8(38) == Ok(0x28)) else { return };
    found.version = probe.at(0x2008, 1).and_then(|bytes| bytes.first().map(u8::to_string));
    found.label = boot.get(43..54).and_then(text);
    found.uuid = Fields(&boot).u32(39).ok().map(|serial| format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff));
}

/// UFS: a number of eight bytes in the byte order of the machine that made it.
pub fn ufs(bytes: &[u8], second: bool, big: bool, found: &mut Detected) {
    let f = Fields(bytes);
    found.version = Some(if second { "2" } else { "1" }.to_owned());
    let word = |at| if big { f.u32_be(at) } else { f.u32(at) };
    found.uuid = word(144).ok().zip(word(148).ok()).filter(|id| *id != (0, 0)).map(|(a, b)| format!("{a:08x}{b:08x}"));
}

/// Minix, whose magic number has two bytes: asked for where nothing else was found.
pub fn minix(probe: &Probe<'_>) -> Option<Detected> {
    let bytes = probe.at(1024, 64)?;
    let f = Fields(&bytes);
    let version = |magic| match magic {
        0x137f | 0x138f => Some(1u8),
        0x2468 | 0x2478 => Some(2),
        _ => None,
    };
    let third = [f.u16(24).ok()?, f.u16_be(24).ok()?].contains(&0x4d5a);
    let version = version(f.u16(16).ok()?).or(version(f.u16_be(16).ok()?)).or(third.then_some(3))?;
    // Bitmaps of inodes and zones have a block at least each.
    let bitmaps = if version == 3 { [6, 8] } else { [4, 6] };
    let plausible = bitmaps.iter().all(|at| f.u16(*at).is_ok_and(|blocks| blocks != 0));
    plausible.then(|| Detected { version: Some(version.to_string()), ..named("minix") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_labels_and_uuids_are_read() {
        let with = |name: &str, at: usize, value: &[u8]| {
            let mut bytes = vec![0; 1024];
            bytes[at..at.saturating_add(value.len())].copy_from_slice(value);
            completed(named(name), &bytes)
        };
        assert_eq!(with("cramfs", 48, b"label").label.as_deref(), Some("label"));
        assert_eq!(with("ubi", 24, &[0x4f, 0x3c, 0x5a, 0x5b]).uuid.as_deref(), Some("1329355355"));
        let raw = [0x44, 0xf8, 0xed, 0x49, 0xf3, 0x28, 0xfc, 0xeb, 0xcb, 0x65, 0, 0x21, 0x28, 0, 0x83, 0xcf];
        let uuid = Some("49edf844-ebfc28f3-65cb-0021280083cf");
        assert_eq!(with("VMFS", 9, &raw).uuid.as_deref(), uuid);
        assert_eq!(with("VMFS_volume_member", 0x254, &raw).uuid.as_deref(), uuid);
        assert_eq!(with("bcache", 16, &[6]).name, "bcache");
        assert_eq!(with("bcache", 16, &[24]).name, "bcachefs");
        assert_eq!(completed(named("VMFS"), &[]).uuid, None);
        let mut found = named("ufs");
        let id = [vec![0; 144], vec![0x0a, 0x64, 0x0e, 0x4b, 0x70, 0xac, 0x56, 0xec]].concat();
        ufs(&id, true, false, &mut found);
        assert_eq!(found.uuid.as_deref(), Some("4b0e640aec56ac70"));
    }
}

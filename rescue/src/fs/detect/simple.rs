//! Formats that a magic number at a fixed place tells apart, one line each.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, named, odd, uuid_at};
use crate::fs::label::text;

/// Where a magic number is, and where label and UUID are, counted from `base`.
struct Signature {
    name: &'static str,
    base: u64,
    magic_at: u64,
    magic: &'static [u8],
    /// Offset and length.
    label: Option<(usize, usize)>,
    uuid: Option<usize>,
}

const fn sig(name: &'static str, base: u64, magic_at: u64, magic: &'static [u8]) -> Signature {
    Signature { name, base, magic_at, magic, label: None, uuid: None }
}

const fn full(
    name: &'static str,
    base: u64,
    magic_at: u64,
    magic: &'static [u8],
    label: (usize, usize),
    uuid: usize,
) -> Signature {
    Signature { name, base, magic_at, magic, label: Some(label), uuid: Some(uuid) }
}

const SIGNATURES: &[Signature] = &[
    full("jfs", 0x8000, 0, b"JFS1", (152, 16), 136),
    full("reiserfs", 0x10000, 52, b"ReIsErFs", (100, 16), 84),
    full("reiserfs", 0x10000, 52, b"ReIsEr2Fs", (100, 16), 84),
    full("reiserfs", 0x10000, 52, b"ReIsEr3Fs", (100, 16), 84),
    sig("reiserfs", 0x2000, 52, b"ReIsErFs"),
    full("reiser4", 0x10000, 0, b"ReIsEr4", (36, 16), 20),
    full("erofs", 1024, 0, b"\xe2\xe1\xf5\xe0", (64, 16), 48),
    sig("cramfs", 0, 0, b"\x45\x3d\xcd\x28"),
    sig("cramfs", 0, 0, b"\x28\xcd\x3d\x45"),
    sig("romfs", 0, 0, b"-rom1fs-"),
    full("mpool", 0, 0, b"mpoolDev", (8, 32), 40),
    sig("drbdmanage_control_volume", 0, 0, b"$DRBDmgr=q"),
    sig("ubi", 0, 0, b"UBI#"),
    full("ubifs", 0, 0, b"\x31\x18\x10\x06", (0, 0), 108),
    sig("vxfs", 0x400, 0, b"\xf5\xfc\x01\xa5"),
    sig("vxfs", 0x2000, 0, b"\xa5\x01\xfc\xf5"),
    sig("bfs", 0, 0, b"\xce\xfa\xad\x1b"),
    sig("hpfs", 0x2000, 0, b"\x49\xe8\x95\xf9"),
    full("gfs2", 0x10000, 0, b"\x01\x16\x19\x70\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x64\x00\x00\x00\x00\x00\x00\x07\x09", (160, 64), 256),
    sig("gfs", 0x10000, 0, b"\x01\x16\x19\x70\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x64\x00\x00\x00\x00\x00\x00\x05\x1d"),
    full("ocfs2", 0x400, 0, b"OCFSV2", (272, 64), 336),
    full("ocfs2", 0x800, 0, b"OCFSV2", (272, 64), 336),
    full("ocfs2", 0x1000, 0, b"OCFSV2", (272, 64), 336),
    full("ocfs2", 0x2000, 0, b"OCFSV2", (272, 64), 336),
    sig("ocfs", 0, 8, b"OracleCFS"),
    full("nss", 0x1000, 0, b"SPB5", (0, 0), 0x15c),
    sig("befs", 512, 0x20, b"1SFB"),
    sig("befs", 512, 0x20, b"BFS1"),
    sig("befs", 0, 0x20, b"1SFB"),
    sig("ufs", 0x2000, 0x55c, b"\x54\x19\x01\x00"),
    sig("ufs", 0x2000, 0x55c, b"\x00\x01\x19\x54"),
    sig("ufs", 0x10000, 0x55c, b"\x19\x01\x54\x19"),
    sig("ufs", 0x10000, 0x55c, b"\x19\x54\x01\x19"),
    sig("ufs", 0, 0x55c, b"\x54\x19\x01\x00"),
    sig("ufs", 0x40000, 0x55c, b"\x19\x01\x54\x19"),
    sig("VMFS", 0x20_0000, 0, b"\x5e\xf1\xab\x2f"),
    sig("zonefs", 0, 0, b"SFOZ"),
    sig("VMFS_volume_member", 0x10_0000, 0, b"\x0d\xd0\x01\xc0"),
    sig("LVM1_member", 0, 0, b"HM\x01\x00"),
    sig("LVM1_member", 0, 0, b"HM\x02\x00"),
    full("scoutfs", 0x1_0000, 4, b"\x8b\x42\x3c\x10", (0, 0), 56),
    sig("DM_snapshot_cow", 0, 0, b"SnAp"),
    full("DM_verity_hash", 0, 0, b"verity\0\0", (0, 0), 16),
    sig("DM_integrity", 0, 0, b"integrt\0"),
    full("vdo", 0, 0, b"dmvdo001", (0, 0), 40),
    sig("stratis", 512, 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    sig("stratis", 9 * 512, 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    full("bcache", 4096, 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", (72, 32), 40),
    full("bcachefs", 4096, 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", (72, 32), 56),
    full("bcachefs", 4096, 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x82", (72, 32), 56),
    sig("ceph_bluestore", 0, 0, b"bluestore block device"),
    sig("exfs", 0, 0, b"EXFS"),
    sig("cs_fvault2", 0, 88, b"CS"),
];

/// Lists the formats whose magic number is there, each once.
pub fn all(probe: &Probe<'_>) -> Vec<Detected> {
    let mut found: Vec<Detected> = Vec::new();
    for signature in SIGNATURES {
        let there = probe.has(signature.base.saturating_add(signature.magic_at), signature.magic);
        if !there || found.iter().any(|other| other.name == signature.name) {
            continue;
        }
        let bytes = probe.at(signature.base, 1024).unwrap_or_default();
        let label = signature.label.and_then(|(at, len)| text(bytes.get(at..at.saturating_add(len))?));
        let uuid = signature.uuid.and_then(|at| uuid_at(&bytes, at));
        let mut detected = Detected { label, uuid, ..named(signature.name) };
        match signature.name {
            "hpfs" => odd::hpfs(probe, &mut detected),
            // 0x00011954 in the first version, 0x19540119 in the second, in the byte order of the machine.
            "ufs" => {
                let second = !signature.magic.contains(&0);
                let big = matches!(signature.magic.get(..2), Some([0, 1] | [0x19, 0x54]));
                odd::ufs(&bytes, second, big, &mut detected);
            }
            _ => detected = odd::completed(detected, &bytes),
        }
        found.push(detected);
    }
    found
}

//! A partition table inside a region: what a virtual machine's disk looks like that lies in a partition or a volume, and
//! a partition that BSD or Solaris divided further.
//!
//! ```text
//! MBR      sector 0: 446 four entries of 16 bytes: flag 00 or 80, 4 type, 8 first LBA, 12 sectors   510 55 aa
//! BSD      sector 1, or byte 64 of sector 0: 0 magic  132 the magic again, in the byte order of the machine
//! Sun      sector 0: 508 da be, big endian            Solaris x86   sector 1: 12 sanity, little endian
//! SGI      sector 0: 0 0b e5 a9 41                    Apple         sector 0: "ER"   block 1: "PM"
//! GPT      sector 1: "EFI PART"                       GEOM          last sector: "GEOM::"
//! ```
//!
//! Tools that write a table leave all of its neighbours alone: a swap header or what FAT keeps in its boot sector outlives
//! them, and says nothing of what the partitions inside have in use.
//!
//! Source: Linux kernel, block/partitions/{msdos,sun,sgi,mac,efi}.c and msdos.c's `struct bsd_disklabel` and `struct
//! solaris_x86_vtoc`; FreeBSD, sys/disklabel.h (`LABELSECTOR` and `LABELOFFSET` differ from one machine to the next) and
//! geom's metadata (`G_MIRROR_MAGIC` and the like).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{block::ReadAt, bytes::Fields};

/// `BSD_DISKMAGIC`.
const BSD: u32 = 0x8256_4557;
/// `SOLARIS_X86_VTOC_SANE`.
const SOLARIS: u32 = 0x600d_deee;
/// Where sector 1 lies, for sectors of 512 and of 4096 bytes.
const SECOND: [usize; 2] = [512, 4096];
/// Bytes at the start of a region in which all but the last kind of table lie.
const HEAD: usize = 8192;

/// Tells whether `head` (the first sector, and what follows as far as it is known) holds a partition table.
///
/// * `len`: bytes of the region: an entry of an MBR that begins behind them is none.
#[must_use]
pub fn has_table(head: &[u8], len: u64) -> bool {
    named(head, len).is_some()
}

/// Names the partition table that `region` has inside.
#[must_use]
pub fn table(region: &dyn ReadAt) -> Option<&'static str> {
    let len = region.len();
    // One sector that cannot be read hides no table in another.
    let mut head = vec![0; HEAD.min(usize::try_from(len).unwrap_or(HEAD))];
    if region.read_exact_at(&mut head, 0).is_err() {
        for (at, sector) in (0u64..).step_by(512).zip(head.chunks_mut(512)) {
            if region.read_exact_at(sector, at).is_err() {
                sector.fill(0);
            }
        }
    }
    named(&head, len).or_else(|| {
        let ends = [512, 4096].into_iter().filter_map(|back| len.checked_sub(back));
        let geom = |at| {
            let mut magic = [0; 6];
            region.read_exact_at(&mut magic, at).is_ok() && magic == *b"GEOM::"
        };
        ends.into_iter().any(geom).then_some("GEOM's record of a provider")
    })
}

fn named(head: &[u8], len: u64) -> Option<&'static str> {
    let f = Fields(head);
    let bsd = |at: usize| {
        let again = at.saturating_add(132);
        f.has(at, &BSD.to_le_bytes()) && f.has(again, &BSD.to_le_bytes())
            || f.has(at, &BSD.to_be_bytes()) && f.has(again, &BSD.to_be_bytes())
    };
    let at_second = |offset: usize, magic: &[u8]| SECOND.iter().any(|at| f.has(at.saturating_add(offset), magic));
    if is_mbr(f, len) {
        return Some("a partition table");
    }
    if [64, 0].into_iter().chain(SECOND).any(bsd) {
        return Some("a BSD disklabel");
    }
    if at_second(12, &SOLARIS.to_le_bytes()) {
        return Some("a Solaris label");
    }
    if f.has(508, &[0xda, 0xbe]) && sun_sum(f) {
        return Some("a Sun label");
    }
    if f.has(0, &[0x0b, 0xe5, 0xa9, 0x41]) {
        return Some("an SGI label");
    }
    // The first may be gone: the second is what lists partitions.
    if f.has(0, b"ER") && [512, 1024, 2048].into_iter().any(|at| f.has(at, b"PM")) || f.has(512, b"PM\0\0") {
        return Some("an Apple partition map");
    }
    at_second(0, b"EFI PART").then_some("a GPT")
}

/// Tells whether all 16-bit words of the first sector are 0 by exclusive or, as `sun_partition` asks for: two bytes alone
/// are the end of some boot code once in 65536 times.
fn sun_sum(f: Fields<'_>) -> bool {
    let words = (0usize..512).step_by(2).map(|at| f.u16_be(at));
    words.into_iter().try_fold(0u16, |sum, word| word.map(|word| sum ^ word)) == Ok(0)
}

/// Tells whether the first sector is an MBR, as `msdos_partition` does: every flag is 00 or 80, and any slot may be odd
/// in other ways, which then counts for nothing. What the kernel does not ask for is that one begins in the region.
///
/// A FAT or NTFS boot sector has code or text where the flags would be, which are hardly ever all of these two.
fn is_mbr(f: Fields<'_>, len: u64) -> bool {
    let slots = [446usize, 462, 478, 494];
    let flagged = slots.iter().all(|at| f.u8(*at).is_ok_and(|flag| flag & 0x7f == 0));
    // One that starts at LBA 0 is the file system itself, as some tools list it. The kernel makes a partition of one
    // without a type as well.
    let possible = |at: &usize| {
        let (start, count) = (f.u32(at.saturating_add(8)), f.u32(at.saturating_add(12)));
        let (Ok(start), Ok(count)) = (start.map(u64::from), count) else { return false };
        start > 0 && count > 0 && start < len / 512
    };
    f.has(510, &[0x55, 0xaa]) && flagged && slots.iter().any(possible)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    fn sector(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        for (slot, (flag, kind, start, count)) in bytes[446..510].chunks_exact_mut(16).zip(entries) {
            (slot[0], slot[4]) = (*flag, *kind);
            slot[8..12].copy_from_slice(&start.to_le_bytes());
            slot[12..].copy_from_slice(&count.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_table_has_entries_that_can_be_and_nothing_else() {
        let len = 4 << 20;
        for (name, entries, want) in [
            ("one", vec![(0, 0x83, 2048, 4096)], true),
            ("protective", vec![(0, 0xee, 1, u32::MAX)], true),
            ("none", vec![], false),
            ("of a file system", vec![(0x80, 0xc, 0, 8192)], false),
            ("text", vec![(0x80, 0x83, 2048, 64), (b'r', b'd', 9, 9)], false),
            ("beyond", vec![(0, 0x83, 9000, 64)], false),
            // What the kernel lists partitions of all the same: fdisk and others leave such slots behind.
            ("active and empty", vec![(0, 0x83, 2048, 4096), (0x80, 0, 0, 0)], true),
            ("no length", vec![(0, 0x83, 2048, 4096), (0, 0x83, 0, 0)], true),
            ("no length but a start", vec![(0, 0, 6144, 0), (0, 0x83, 2048, 4096)], true),
            ("one beyond", vec![(0, 0x83, 2048, 4096), (0, 0x83, 1 << 20, 4096)], true),
            ("one at 0", vec![(0, 0xcd, 0, 100_000), (0, 0xef, 2048, 4096)], true),
            ("no type", vec![(0, 0, 2048, 4096)], true),
            ("flag", vec![(1, 0x83, 2048, 4096)], false),
        ] {
            assert_eq!(has_table(&sector(&entries), len), want, "{name}");
        }
        assert!(!has_table(&[0; 512], len) && !has_table(&[], len));
    }

    #[test]
    fn the_code_of_boot_sectors_is_no_table() {
        // NTFS of Windows 8 and later: the NUL between two messages stands where the first flag would be.
        let mut bytes = vec![0; 512];
        let text =
            b"\r\nA disk read error occurred\0\r\nBOOTMGR is compressed\0\r\nPress Ctrl+Alt+Del to restart\r\n\0";
        bytes[0x188..0x188 + text.len()].copy_from_slice(text);
        bytes[504..].copy_from_slice(&[0x8a, 1, 0xa7, 1, 0xbf, 1, 0x55, 0xaa]);
        assert!(!has_table(&bytes, 1 << 30));
    }

    #[test]
    fn labels_of_other_systems_are_named() {
        let bsd = 0x8256_4557_u32;
        let two = |at: usize, magic: [u8; 4]| vec![(at, magic.to_vec()), (at + 132, magic.to_vec())];
        for (name, pieces, want) in [
            ("BSD", two(512, bsd.to_le_bytes()), Some("a BSD disklabel")),
            ("BSD, big endian", two(512, bsd.to_be_bytes()), Some("a BSD disklabel")),
            ("BSD, Alpha", two(64, bsd.to_le_bytes()), Some("a BSD disklabel")),
            ("BSD, half", two(512, bsd.to_le_bytes())[..1].to_vec(), None),
            ("Sun", vec![(508, vec![0xda, 0xbe, 0xda, 0xbe])], Some("a Sun label")),
            ("Sun, sum", vec![(508, vec![0xda, 0xbe, 0xda, 0xbf])], None),
            ("SGI", vec![(0, vec![0x0b, 0xe5, 0xa9, 0x41])], Some("an SGI label")),
            ("Solaris", vec![(524, vec![0xee, 0xde, 0x0d, 0x60])], Some("a Solaris label")),
            ("Apple", vec![(0, b"ER".to_vec()), (2048, b"PM".to_vec())], Some("an Apple partition map")),
            ("Apple, no block 0", vec![(512, b"PM\0\0".to_vec())], Some("an Apple partition map")),
            ("GPT", vec![(512, b"EFI PART".to_vec())], Some("a GPT")),
            ("GPT, 4096", vec![(4096, b"EFI PART".to_vec())], Some("a GPT")),
            ("GEOM", vec![(16384 - 512, b"GEOM::LABEL".to_vec())], Some("GEOM's record of a provider")),
            ("GEOM, 4096", vec![(16384 - 4096, b"GEOM::MIRROR".to_vec())], Some("GEOM's record of a provider")),
            ("none", vec![], None),
        ] {
            let mut bytes = vec![0; 16384];
            for (at, piece) in pieces {
                bytes[at..at + piece.len()].copy_from_slice(&piece);
            }
            let disk = |bytes: &[u8]| MemoryDisk::new(bytes.to_vec(), SectorSize::B512);
            assert_eq!(table(&disk(&bytes)), want, "{name}");
            // However short the region is.
            for len in [0, 1, 511, 512, 513, 4096, 4100, 8192] {
                let _ = table(&disk(&bytes[..len]));
            }
        }
    }
}

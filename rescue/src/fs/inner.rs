//! A partition table inside a region: what a virtual machine's disk looks like that lies in a partition or a volume.
//!
//! ```text
//! sector 0:  446 four entries of 16 bytes: flag 00 or 80, 4 type, 8 first LBA, 12 sectors   510 55 aa
//! ```
//!
//! Tools that write a table leave all of the first sector's neighbours alone: a swap header or what FAT keeps in its boot
//! sector outlives them, and says nothing of what the partitions inside have in use.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::bytes::Fields;

/// Tells whether `sector` (at least 512 bytes) holds a partition table whose entries lie in `len` bytes.
#[must_use]
pub fn has_table(sector: &[u8], len: u64) -> bool {
    let f = Fields(sector);
    if !f.has(510, &[0x55, 0xaa]) {
        return false;
    }
    let mut used = 0u32;
    for at in [446, 462, 478, 494] {
        let Ok(entry) = f.slice(at, 16).map(Fields) else { return false };
        if entry.0.iter().all(|byte| *byte == 0) {
            continue;
        }
        let (Ok(flag), Ok(kind), Ok(start), Ok(count)) = (entry.u8(0), entry.u8(4), entry.u32(8), entry.u32(12)) else {
            return false;
        };
        // One that starts at LBA 0 is the file system itself, as some tools list it.
        let possible = flag & 0x7f == 0 && kind != 0 && start > 0 && count > 0;
        if !possible || u64::from(start) >= len / 512 {
            return false;
        }
        used = used.saturating_add(1);
    }
    used > 0
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert_eq!(has_table(&sector(&entries), len), want, "{name}");
        }
        assert!(!has_table(&[0; 512], len) && !has_table(&[], len));
    }
}

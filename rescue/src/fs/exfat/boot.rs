//! The boot region of exFAT: twelve sectors, and the same twelve once more.
//!
//! ```text
//! | main boot region | backup boot region | ... | FAT | second FAT (TexFAT) | ... | cluster 2, 3, 4 ... | slack |
//! sector 0: 3 "EXFAT   "  11 zeros (53)  64 partition offset  72 volume length  80 FAT offset  84 FAT length
//!           88 heap offset  92 clusters  96 root cluster  100 serial  104 revision  106 flags  108 log2(sector)
//!           109 log2(sectors per cluster)  110 FATs  112 percent in use  510 55 aa
//! sectors 1 to 8: more boot code   9: parameters   11: the checksum of sectors 0 to 10, over and over
//! ```
//!
//! Lengths and offsets are in sectors. The percentage is not looked at: Linux never brings it up to date.
//!
//! Source: Microsoft, exFAT file system specification, sections 2 and 3.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Sectors in a boot region.
pub const SECTORS: u64 = 12;
/// The volume was not unmounted in order.
const DIRTY: u16 = 0x2;
/// The medium had failures.
const FAILED: u16 = 0x4;

/// Why a sector is no boot sector of exFAT, or its numbers cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few bytes.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// No signature.
    #[error("it has no signature")]
    Signature,
    /// A field with an impossible value.
    #[error("{field} is {value}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The checksum does not match.
    #[error("its checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// On disk.
        stored: u32,
        /// From the bytes.
        computed: u32,
    },
}

/// A boot sector whose numbers are possible; every offset is in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Bytes in a sector: 512 to 4096.
    pub sector: u64,
    /// Bytes in a cluster: at most 32 MiB.
    pub cluster: u64,
    /// Where the first FAT begins.
    pub fat_offset: u64,
    /// Bytes in a FAT.
    pub fat_len: u64,
    /// How many FATs (and allocation bitmaps) there are: 1, or 2 for TexFAT.
    pub fats: u64,
    /// The FAT (and bitmap) that counts.
    pub active: u64,
    /// Where cluster 2 begins.
    pub heap_offset: u64,
    /// How many clusters there are; the first is number 2.
    pub clusters: u64,
    /// First cluster of the root directory.
    pub root: u64,
    /// Bytes of the volume as the boot sector says.
    pub len: u64,
    /// Volume serial number.
    pub serial: u32,
    /// Major and minor revision.
    pub revision: (u8, u8),
    /// Whether the volume was not unmounted in order.
    pub dirty: bool,
    /// Whether the medium had failures.
    pub failed: bool,
}

fn ensure(ok: bool, field: &'static str, value: u64) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Field { field, value }) }
}

impl Boot {
    /// Reads a boot sector.
    ///
    /// * `bytes`: at least 512.
    ///
    /// # Errors
    /// [`Error`] when it is none, or when its numbers cannot be true together.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        if !f.has(3, b"EXFAT   ") || !f.has(510, &[0x55, 0xaa]) {
            return Err(Error::Signature);
        }
        let zero = f.slice(11, 53)?.iter().find(|byte| **byte != 0);
        ensure(zero.is_none(), "a byte that must be zero", u64::from(zero.copied().unwrap_or(0)))?;
        let (sector_shift, cluster_shift) = (u32::from(f.u8(108)?), u32::from(f.u8(109)?));
        ensure((9..=12).contains(&sector_shift), "log2 of its sectors", u64::from(sector_shift))?;
        let shift = sector_shift.saturating_add(cluster_shift);
        ensure(shift <= 25, "log2 of its clusters", u64::from(shift))?;
        let sector = 1u64 << sector_shift;
        // Fields of 32 bits times 4096 do not reach 2^44; the length is the only one that could overflow.
        let bytes_of = |sectors: u32| u64::from(sectors).saturating_mul(sector);
        let sectors = f.u64(72)?;
        let len = sectors.checked_mul(sector).ok_or(Error::Field { field: "volume length", value: sectors })?;
        let flags = f.u16(106)?;
        let boot = Self {
            sector,
            cluster: 1u64 << shift,
            fat_offset: bytes_of(f.u32(80)?),
            fat_len: bytes_of(f.u32(84)?),
            fats: u64::from(f.u8(110)?),
            active: u64::from(flags & 1),
            heap_offset: bytes_of(f.u32(88)?),
            clusters: u64::from(f.u32(92)?),
            root: u64::from(f.u32(96)?),
            len,
            serial: f.u32(100)?,
            revision: (f.u8(105)?, f.u8(104)?),
            dirty: flags & DIRTY != 0,
            failed: flags & FAILED != 0,
        };
        boot.check()?;
        Ok(boot)
    }

    fn check(&self) -> Result<(), Error> {
        ensure(self.revision.0 == 1, "major revision", u64::from(self.revision.0))?;
        ensure((1..=2).contains(&self.fats), "number of FATs", self.fats)?;
        ensure(self.active < self.fats, "number of the active FAT", self.active)?;
        ensure(self.clusters > 0 && self.clusters <= 0xffff_fff5, "number of clusters", self.clusters)?;
        let regions = self.sector.saturating_mul(SECTORS).saturating_mul(2);
        ensure(self.fat_offset >= regions, "FAT offset", self.fat_offset)?;
        let needed = self.clusters.saturating_add(2).saturating_mul(4);
        ensure(self.fat_len >= needed, "FAT length", self.fat_len)?;
        let fats_end = self.fat_offset.saturating_add(self.fats.saturating_mul(self.fat_len));
        ensure(self.heap_offset >= fats_end, "heap offset", self.heap_offset)?;
        ensure(self.heap_end() <= self.len, "volume length", self.len)?;
        ensure(self.cluster_offset(self.root).is_some(), "root cluster", self.root)
    }

    /// Tells whether `other` puts everything where this boot sector does; the flags may differ.
    #[must_use]
    pub fn same_places(&self, other: &Self) -> bool {
        let places = |boot: &Self| Self { dirty: false, failed: false, active: 0, ..boot.clone() };
        places(self) == places(other)
    }

    /// Returns where `cluster` begins, in bytes, if there is such a cluster.
    #[must_use]
    pub fn cluster_offset(&self, cluster: u64) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
        Some(self.index_offset(index))
    }

    /// Returns where the cluster with bit `index` in the bitmap begins, in bytes.
    #[must_use]
    pub const fn index_offset(&self, index: u64) -> u64 {
        // At most 2^32 clusters of 2^25 bytes.
        self.heap_offset.saturating_add(index.saturating_mul(self.cluster))
    }

    /// Returns where the last cluster ends, in bytes.
    #[must_use]
    pub const fn heap_end(&self) -> u64 {
        self.index_offset(self.clusters)
    }
}

/// Checks the checksum of a boot region.
///
/// * `region`: twelve sectors of `sector` bytes.
///
/// # Errors
/// [`Error::Checksum`] when some repetition of it is wrong, [`Error::Truncated`].
pub fn check_region(region: &[u8], sector: u64) -> Result<(), Error> {
    let sector = usize::try_from(sector).unwrap_or(usize::MAX);
    let covered = Fields(region).slice(0, sector.saturating_mul(11))?;
    let computed = covered.iter().enumerate().fold(0u32, |sum, (at, byte)| match at {
        // Flags and percentage change without a new checksum.
        106 | 107 | 112 => sum,
        _ => sum.rotate_right(1).wrapping_add(u32::from(*byte)),
    });
    let stored = Fields(region).slice(sector.saturating_mul(11), sector)?;
    let wrong =
        stored.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw)).find(|sum| !right(*sum == computed));
    wrong.map_or(Ok(()), |stored| Err(Error::Checksum { stored, computed }))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::*;

    /// A region of 512-byte sectors with 100 clusters of 4 KiB.
    fn region() -> Vec<u8> {
        let mut bytes = vec![0; 12 * 512];
        bytes[3..11].copy_from_slice(b"EXFAT   ");
        for (at, value) in [(80, 24u32), (84, 8), (88, 32), (92, 100), (96, 5), (100, 0x1234_5678), (72, 900)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes[105] = 1;
        bytes[108..111].copy_from_slice(&[9, 3, 1]);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        seal(&mut bytes);
        bytes
    }

    fn seal(bytes: &mut [u8]) {
        let Err(Error::Checksum { computed, .. }) = check_region(bytes, 512) else { return };
        bytes[11 * 512..].chunks_exact_mut(4).for_each(|slot| slot.copy_from_slice(&computed.to_le_bytes()));
    }

    #[test]
    fn a_boot_sector_is_read() {
        let boot = Boot::parse(&region()).unwrap();
        assert_eq!((boot.sector, boot.cluster, boot.fat_offset, boot.fat_len), (512, 4096, 24 * 512, 8 * 512));
        assert_eq!((boot.heap_offset, boot.heap_end(), boot.len), (32 * 512, 832 * 512, 900 * 512));
        assert_eq!((boot.cluster_offset(1), boot.cluster_offset(102)), (None, None));
        assert_eq!(boot.cluster_offset(101), Some(32 * 512 + 99 * 4096));
    }

    #[test]
    fn impossible_numbers_are_named() {
        for (at, bytes, says) in [
            (3, &b"NTFS"[..], "it has no signature"),
            (63, &[7], "a byte that must be zero is 7"),
            (108, &[8], "log2 of its sectors is 8"),
            (109, &[17], "log2 of its clusters is 26"),
            (110, &[3], "number of FATs is 3"),
            (110, &[2], "heap offset is 16384"),
            (106, &[1], "number of the active FAT is 1"),
            (105, &[2], "major revision is 2"),
            (80, &[23], "FAT offset is 11776"),
            (84, &[0], "FAT length is 0"),
            (88, &[31], "heap offset is 15872"),
            (72, &[63, 3], "volume length is 425472"),
            (76, &[0, 0, 0, 0x80], "volume length is 9223372036854776708"),
            (92, &[0], "number of clusters is 0"),
            (96, &[102], "root cluster is 102"),
            (96, &[1], "root cluster is 1"),
        ] {
            let mut region = region();
            region[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Boot::parse(&region).unwrap_err().to_string(), says);
        }
        assert!(matches!(Boot::parse(&region()[..300]), Err(Error::Signature)));
    }

    #[test]
    fn the_checksum_leaves_out_what_changes() {
        let good = region();
        assert_eq!(check_region(&good, 512), Ok(()));
        for (at, wrong) in [(106, false), (107, false), (112, false), (113, true), (5000, true), (6143, true)] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert_eq!(check_region(&bytes, 512).is_err(), wrong, "byte {at}");
        }
    }
}

//! The boot sector, its places and sizes, and its copy in the last sector of the volume.
//!
//! ```text
//!   3 "NTFS    "  11 bytes in a sector (2)  13 sectors in a cluster (1)  14 reserved, FATs … (all zero)
//!  40 sectors of the volume (8), without the last one, which holds the copy
//!  48 cluster of $MFT (8)  56 cluster of $MFTMirr (8)
//!  64 MFT record (1)  68 index block (1): clusters, or from 0x80 on a negative power of two bytes
//!  72 serial (8)  510 55 aa
//! ```
//!
//! Source: ntfs-3g, include/ntfs-3g/layout.h; Linux kernel, fs/ntfs3/ntfs.h.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{
    bytes::{Fields, Truncated},
    extent::Extent,
};

/// Bytes of a boot sector that are read.
pub const LEN: usize = 512;
/// Bytes at the start of the volume that belong to `$Boot`: boot sector and boot code.
pub const BOOT_AREA: u64 = 8192;
/// The largest cluster there is, in bytes.
const MAX_CLUSTER: u64 = 2 << 20;

/// Why a boot sector is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The sector is too short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// It does not say NTFS.
    #[error("it does not say NTFS")]
    Magic,
    /// No power of two from 256 to 4096.
    #[error("it has sectors of {0} bytes")]
    Sector(u16),
    /// No size a cluster can have.
    #[error("its cluster size is coded {0:#04x}")]
    Cluster(u8),
    /// No size an MFT record or an index block can have.
    #[error("its record size is coded {0:#04x}")]
    Record(u8),
    /// A field that NTFS leaves zero is not.
    #[error("it has FAT fields that are not zero")]
    Fat,
    /// A structure outside of the volume.
    #[error("cluster {cluster} of {what} lies beyond its {clusters} clusters")]
    Place {
        /// The structure.
        what: &'static str,
        /// Where it should be.
        cluster: u64,
        /// How many clusters there are.
        clusters: u64,
    },
}

/// What a boot sector says. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Bytes in a sector.
    pub sector: u64,
    /// Bytes in a cluster.
    pub cluster: u64,
    /// Sectors of the volume; the copy of the boot sector lies behind them.
    pub sectors: u64,
    /// Whole clusters of the volume.
    pub clusters: u64,
    /// First cluster of `$MFT`.
    pub mft: u64,
    /// First cluster of `$MFTMirr`.
    pub mirror: u64,
    /// Bytes in an MFT record.
    pub record: usize,
    /// Bytes in an index block.
    pub index: usize,
    /// Serial number.
    pub serial: u64,
}

impl Boot {
    /// Reads a boot sector.
    ///
    /// # Errors
    /// Says which field cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        if !f.has(3, b"NTFS    ") {
            return Err(Error::Magic);
        }
        let raw_sector = f.u16(11)?;
        let sector = u64::from(raw_sector);
        if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
            return Err(Error::Sector(raw_sector));
        }
        let per_cluster = f.u8(13)?;
        let cluster = cluster_len(sector, per_cluster).ok_or(Error::Cluster(per_cluster))?;
        // Reserved sectors, FATs, root entries, sectors (16 bit), sectors in a FAT, sectors (32 bit).
        if f.slice(14, 7)? != [0; 7] || f.u16(22)? != 0 || f.u32(32)? != 0 {
            return Err(Error::Fat);
        }
        let sectors = f.u64(40)?;
        let clusters = sectors.checked_mul(sector).and_then(|len| len.checked_div(cluster)).unwrap_or(0);
        let place = |what, offset| {
            let at = f.u64(offset)?;
            if at < clusters { Ok(at) } else { Err(Error::Place { what, cluster: at, clusters }) }
        };
        let (record, index) = (f.u8(64)?, f.u8(68)?);
        Ok(Self {
            sector,
            cluster,
            sectors,
            clusters,
            mft: place("$MFT", 48)?,
            mirror: place("$MFTMirr", 56)?,
            record: record_len(cluster, record).filter(|len| *len <= 65536).ok_or(Error::Record(record))?,
            index: record_len(cluster, index).ok_or(Error::Record(index))?,
            serial: f.u64(72)?,
        })
    }

    /// Returns the bytes of clusters `start..start + len`, which lie in the volume.
    #[must_use]
    pub const fn bytes(&self, start: u64, len: u64) -> Extent {
        Extent::new(start.saturating_mul(self.cluster), start.saturating_add(len).saturating_mul(self.cluster))
    }

    /// Returns the length of the volume in bytes, without the copy of the boot sector.
    #[must_use]
    pub const fn volume_len(&self) -> u64 {
        self.sectors.saturating_mul(self.sector)
    }
}

fn cluster_len(sector: u64, per_cluster: u8) -> Option<u64> {
    // From 0x80 on the field is a negative power of two: clusters of more than 128 sectors.
    let sectors = match per_cluster {
        small @ ..=0x80 => u64::from(small),
        large => 1u64.checked_shl(256u32.checked_sub(u32::from(large))?)?,
    };
    sectors.checked_mul(sector).filter(|len| len.is_power_of_two() && *len <= MAX_CLUSTER)
}

fn record_len(cluster: u64, code: u8) -> Option<usize> {
    let len = match code {
        clusters @ ..=0x7f => u64::from(clusters).checked_mul(cluster)?,
        power => 1u64.checked_shl(256u32.checked_sub(u32::from(power))?)?,
    };
    // Index blocks may be as large as clusters.
    usize::try_from(len).ok().filter(|len| len.is_power_of_two() && (512..=2 << 20).contains(len))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the boot sector of a volume of `sectors` sectors.
    pub fn sample(sector: u16, per_cluster: u8, record: u8, sectors: u64) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        bytes[3..11].copy_from_slice(b"NTFS    ");
        bytes[11..13].copy_from_slice(&sector.to_le_bytes());
        bytes[13] = per_cluster;
        bytes[40..48].copy_from_slice(&sectors.to_le_bytes());
        bytes[48..56].copy_from_slice(&4u64.to_le_bytes());
        bytes[56..64].copy_from_slice(&2u64.to_le_bytes());
        bytes[64] = record;
        bytes[68] = 0xf4;
        bytes[72..80].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
        bytes
    }

    #[test]
    fn every_coding_of_sizes_is_read() {
        for (name, sector, per_cluster, record, want) in [
            ("usual", 512, 8, 0xf6, (4096, 1024)),
            ("smallest", 512, 1, 2, (512, 1024)),
            ("64 KiB", 512, 128, 0xf6, (65536, 1024)),
            ("128 KiB", 512, 0xf8, 0xf6, (131_072, 1024)),
            ("2 MiB", 512, 0xf4, 0xf6, (2 << 20, 1024)),
            ("4096-byte sectors", 4096, 1, 1, (4096, 4096)),
            ("2 MiB of 4096-byte sectors", 4096, 0xf7, 0xf4, (2 << 20, 4096)),
        ] {
            let boot = Boot::parse(&sample(sector, per_cluster, record, 1 << 20)).unwrap();
            assert_eq!((boot.cluster, boot.record), want, "{name}");
            assert_eq!(boot.clusters, (u64::from(sector) << 20) / boot.cluster, "{name}");
            assert_eq!(boot.index, 4096, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let cases: [(&str, usize, &[u8], Error); 9] = [
            ("magic", 3, b"MSDOS", Error::Magic),
            ("odd sector", 11, &[1, 2], Error::Sector(513)),
            ("large sector", 11, &[0, 32], Error::Sector(8192)),
            ("no cluster", 13, &[0], Error::Cluster(0)),
            ("odd cluster", 13, &[3], Error::Cluster(3)),
            ("large cluster", 13, &[0xf3], Error::Cluster(0xf3)),
            ("huge cluster", 13, &[0x81], Error::Cluster(0x81)),
            ("small record", 64, &[0xf8], Error::Record(0xf8)),
            ("FATs", 16, &[2], Error::Fat),
        ];
        for (name, at, patch, want) in cases {
            let mut bytes = sample(512, 8, 0xf6, 1 << 20);
            bytes[at..at + patch.len()].copy_from_slice(patch);
            assert_eq!(Boot::parse(&bytes), Err(want), "{name}");
        }
        let mut bytes = sample(512, 8, 0xf6, 80);
        assert!(Boot::parse(&bytes).is_ok());
        bytes[48] = 10;
        assert_eq!(Boot::parse(&bytes), Err(Error::Place { what: "$MFT", cluster: 10, clusters: 10 }));
        bytes[48] = 4;
        assert!(matches!(Boot::parse(&bytes[..70]), Err(Error::Truncated(_))));
    }
}

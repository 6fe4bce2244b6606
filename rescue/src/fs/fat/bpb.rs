//! The boot sector of FAT12, FAT16 and FAT32, and where everything lies.
//!
//! ```text
//!  0 jump  3 OEM  11 bytes per sector  13 sectors per cluster  14 reserved sectors  16 FATs  17 root entries
//! 19 sectors (16-bit)  21 media  22 sectors per FAT (16-bit)  32 sectors (32-bit)
//! FAT12/16: 37 state  38 signature 29  39 serial  43 label (11)  54 "FAT16   "
//! FAT32:    36 sectors per FAT  40 flags  42 version  44 root cluster  48 FSInfo  50 backup  65 state  66 signature
//!           67 serial  71 label (11)  82 "FAT32   "
//! 510 55 aa
//! ```
//!
//! `| reserved sectors | FAT | FAT copy | root directory (FAT12/16) | cluster 2, 3, 4 ... | slack |`
//!
//! Source: Microsoft, FAT32 File System Specification 1.03; where drivers differ, Linux fs/fat/inode.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::bytes::{Fields, Truncated};

/// Entry width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 12 bits.
    Fat12,
    /// 16 bits.
    Fat16,
    /// 32 bits, of which 28 count.
    Fat32,
}

impl Kind {
    /// Returns the name `blkid` gives the version.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
        }
    }

    /// Returns how many entries fit in `len` bytes.
    #[must_use]
    pub const fn entries_in(self, len: u64) -> u64 {
        let bits = len.saturating_mul(8);
        match self {
            Self::Fat12 => bits / 12,
            Self::Fat16 => bits / 16,
            Self::Fat32 => bits / 32,
        }
    }

    /// Returns the entry of a bad cluster.
    #[must_use]
    pub const fn bad(self) -> u64 {
        match self {
            Self::Fat12 => 0xff7,
            Self::Fat16 => 0xfff7,
            Self::Fat32 => 0x0fff_fff7,
        }
    }

    /// Returns bits in an entry.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// Why a sector is no boot sector of a FAT file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few bytes.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Neither 55 aa at its end nor the name of the file system in it.
    #[error("no boot signature at byte 0x1fe")]
    Signature,
    /// A field with an impossible value.
    #[error("{field} is {value}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says.
        value: u64,
    },
}

/// A boot sector whose numbers are possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bpb {
    /// Entry width, by the number of clusters.
    pub kind: Kind,
    /// Entry width by the name in the boot sector, where it names one.
    pub named: Option<Kind>,
    /// Bytes in a sector: 512 to 4096.
    pub sector: u64,
    /// Bytes in a cluster.
    pub cluster: u64,
    /// Where the first FAT begins, in bytes: the end of the reserved sectors.
    pub fat_offset: u64,
    /// Bytes in a FAT.
    pub fat_len: u64,
    /// How many FATs there are: 1 to 4.
    pub fats: u64,
    /// Whether all FATs are written alike.
    pub mirrored: bool,
    /// The FAT that counts.
    pub active: u64,
    /// Where the fixed root directory begins, in bytes (FAT12/16).
    pub root_offset: u64,
    /// Bytes in it; 0 for FAT32.
    pub root_len: u64,
    /// First cluster of the root directory (FAT32).
    pub root_cluster: u64,
    /// Where cluster 2 begins, in bytes.
    pub data_offset: u64,
    /// How many clusters there are, the first being number 2; every one has an entry in the FAT.
    pub clusters: u64,
    /// How many more clusters there would be if the FAT had room for their entries.
    pub clusters_without_entry: u64,
    /// Bytes of the file system as the boot sector says.
    pub len: u64,
    /// Whether the boot sector says the volume is in use or has errors.
    pub dirty: bool,
    /// Volume serial number.
    pub serial: Option<u32>,
    /// Media byte; the FAT begins with it.
    pub media: u64,
    /// Sector of the copy of the boot sector, 0 where there is none (FAT32).
    pub backup: u64,
    /// Sector of FSInfo (FAT32).
    pub fsinfo: u64,
}

/// Tells whether a byte can stand for a kind of medium.
#[must_use]
pub const fn is_media(byte: u64) -> bool {
    byte == 0xf0 || (byte >= 0xf8 && byte <= 0xff)
}

fn ensure(ok: bool, field: &'static str, value: u64) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Field { field, value }) }
}

impl Bpb {
    /// Reads a boot sector.
    ///
    /// * `bytes`: at least 512.
    ///
    /// # Errors
    /// [`Error`] when it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        let named =
            [(54, "FAT"), (54, "MSDOS"), (82, "FAT32"), (82, "MSWIN")].iter().any(|(at, s)| f.has(*at, s.as_bytes()));
        if !f.has(510, &[0x55, 0xaa]) && !named {
            return Err(Error::Signature);
        }
        let (sector, per_cluster) = (u64::from(f.u16(11)?), u64::from(f.u8(13)?));
        let (reserved, fats, entries) = (u64::from(f.u16(14)?), u64::from(f.u8(16)?), u64::from(f.u16(17)?));
        ensure(sector.is_power_of_two() && (512..=4096).contains(&sector), "bytes per sector", sector)?;
        ensure(per_cluster.is_power_of_two(), "sectors per cluster", per_cluster)?;
        ensure(reserved > 0, "reserved sectors", reserved)?;
        ensure((1..=4).contains(&fats), "number of FATs", fats)?;
        let media = u64::from(f.u8(21)?);
        ensure(is_media(media), "media", media)?;
        let sectors = match u64::from(f.u16(19)?) {
            0 => u64::from(f.u32(32)?),
            small => small,
        };
        let (short_fat, long_fat) = (u64::from(f.u16(22)?), u64::from(f.u32(36)?));
        let wide = short_fat == 0;
        let fat_sectors = if wide { long_fat } else { short_fat };
        ensure(fat_sectors > 0, "sectors per FAT", fat_sectors)?;
        // No sum below reaches 2^50: every number has at most 32 bits and a sector at most 4096 bytes.
        let root_sectors = entries.saturating_mul(32).div_ceil(sector);
        let front = reserved.saturating_add(fats.saturating_mul(fat_sectors)).saturating_add(root_sectors);
        ensure(front < sectors, "number of sectors", sectors)?;
        let all = sectors.saturating_sub(front).checked_div(per_cluster).unwrap_or(0);
        ensure(all > 0 && all <= 0x0fff_fff5, "number of clusters", all)?;
        let kind = match (wide, all) {
            (true, _) => Kind::Fat32,
            (false, ..4085) => Kind::Fat12,
            _ => Kind::Fat16,
        };
        let room = kind.entries_in(fat_sectors.saturating_mul(sector));
        let clusters = all.min(room.saturating_sub(2));
        let flags = if wide { u64::from(f.u16(40)?) } else { 0 };
        let tail = if wide { 64usize } else { 36 };
        let fat_len = fat_sectors.saturating_mul(sector);
        let fat_offset = reserved.saturating_mul(sector);
        let root_offset = fat_offset.saturating_add(fats.saturating_mul(fat_len));
        let signature = f.u8(tail.saturating_add(2))?;
        let named = |at: usize, kind: Kind| f.has(at, kind.name().as_bytes()).then_some(kind);
        Ok(Self {
            kind,
            named: if wide { None } else { named(54, Kind::Fat12).or_else(|| named(54, Kind::Fat16)) },
            sector,
            cluster: per_cluster.saturating_mul(sector),
            fat_offset,
            fat_len,
            fats,
            mirrored: flags & 0x80 == 0,
            active: if flags & 0x80 == 0 { 0 } else { flags & 0xf },
            root_offset,
            root_len: entries.saturating_mul(32),
            root_cluster: if wide { u64::from(f.u32(44)?) } else { 0 },
            data_offset: front.saturating_mul(sector),
            clusters,
            clusters_without_entry: all.saturating_sub(clusters),
            len: sectors.saturating_mul(sector),
            dirty: f.u8(tail.saturating_add(1))? & 3 != 0 && signature == 0x29,
            serial: (signature == 0x29 || signature == 0x28).then(|| f.u32(tail.saturating_add(3))).transpose()?,
            media,
            backup: if wide { u64::from(f.u16(50)?) } else { 0 },
            fsinfo: if wide { u64::from(f.u16(48)?) } else { 0 },
        })
    }

    /// Tells whether `other` puts everything where this boot sector does; state and serial may differ.
    #[must_use]
    pub fn same_places(&self, other: &Self) -> bool {
        let places = |bpb: &Self| Self { dirty: false, serial: None, ..bpb.clone() };
        places(self) == places(other)
    }

    /// Returns where `cluster` begins, in bytes, if there is such a cluster.
    #[must_use]
    pub fn cluster_offset(&self, cluster: u64) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
        index.checked_mul(self.cluster)?.checked_add(self.data_offset)
    }
}

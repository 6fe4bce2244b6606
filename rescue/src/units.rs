//! Units that can be confused: sector numbers, sector sizes and byte counts.
//!
//! Everywhere else in this crate `offset` and `len` are bytes; a sector number is an [`Lba`] and becomes
//! bytes only through a [`SectorSize`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a kibibyte.
pub const KIB: u64 = 1 << 10;
/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;
/// Bytes in a tebibyte.
pub const TIB: u64 = 1 << 40;

/// A sector number, counted from the start of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lba(pub u64);

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LBA {}", self.0)
    }
}

/// Bytes in one addressable unit of a disk: a power of two from 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SectorSize(u32);

/// A sector size that no disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a sector size (a power of two from 512 to 65536)")]
pub struct BadSectorSize(pub u64);

impl SectorSize {
    /// 512 bytes.
    pub const B512: Self = Self(512);
    /// 4096 bytes.
    pub const B4096: Self = Self(4096);

    /// Accepts a power of two from 512 to 65536.
    ///
    /// # Errors
    /// [`BadSectorSize`] for any other number.
    pub fn new(bytes: u64) -> Result<Self, BadSectorSize> {
        match u32::try_from(bytes) {
            Ok(small) if small.is_power_of_two() && (512..=65536).contains(&small) => Ok(Self(small)),
            _ => Err(BadSectorSize(bytes)),
        }
    }

    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Returns the size in bytes as a length of memory.
    #[must_use]
    pub const fn usize(self) -> usize {
        self.0 as usize
    }

    /// Returns the byte offset of `lba`, or `None` beyond the reach of `u64`.
    #[must_use]
    pub const fn offset_of(self, lba: Lba) -> Option<u64> {
        lba.0.checked_mul(self.bytes())
    }

    /// Returns how many whole sectors fit in `len` bytes.
    #[must_use]
    pub const fn sectors_in(self, len: u64) -> u64 {
        len / self.bytes()
    }

    /// Tells whether `offset` is a multiple of the sector size.
    #[must_use]
    pub const fn aligns(self, offset: u64) -> bool {
        offset.is_multiple_of(self.bytes())
    }
}

impl TryFrom<u32> for SectorSize {
    type Error = BadSectorSize;

    fn try_from(bytes: u32) -> Result<Self, BadSectorSize> {
        Self::new(u64::from(bytes))
    }
}

impl From<SectorSize> for u32 {
    fn from(size: SectorSize) -> Self {
        size.0
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Shows a byte count for people: three significant figures and a binary unit, `1.46 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "shown with three significant figures")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        if self.0 < KIB {
            return f.pad(&format!("{} B", self.0));
        }
        let mut unit = "";
        for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            value /= 1024.0;
            unit = next;
            // 999.5 would print as 1000, four figures; the next unit shows it better.
            if value < 999.5 {
                break;
            }
        }
        let decimals = match value {
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        f.pad(&format!("{value:.decimals$} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_sector_sizes_are_accepted() {
        for (bytes, ok) in [(512, true), (4096, true), (520, false), (0, false), (256, false), (1 << 32, false)] {
            assert_eq!(SectorSize::new(bytes).is_ok(), ok, "{bytes}");
        }
    }

    #[test]
    fn an_lba_beyond_u64_has_no_offset() {
        assert_eq!(SectorSize::B4096.offset_of(Lba(u64::MAX / 2)), None);
        assert_eq!(SectorSize::B4096.offset_of(Lba(3)), Some(12288));
    }

    #[test]
    fn byte_counts_have_three_figures() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1023 * KIB, "1.00 MiB"),
            (GIB + GIB / 2, "1.50 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }
}

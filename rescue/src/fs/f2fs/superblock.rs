//! The superblock of F2FS: where the six areas of the volume are.
//!
//! ```text
//! block 0   superblock at byte 1024        block 1   its copy, at byte 5120
//! segment0 ┌────────────┬─────┬─────┬─────┬──────────────────────────────┐
//!          │ checkpoint │ SIT │ NAT │ SSA │ main area: nodes and data    │
//!          │ 2 packs    │ 2 × │ 2 × │     │ in segments of 512 blocks    │
//!          └────────────┴─────┴─────┴─────┴──────────────────────────────┘
//! ```
//!
//! Source: Linux kernel, include/linux/f2fs_fs.h, `struct f2fs_super_block`; little endian.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crc::{Algorithm, Crc, Table};

use crate::{
    bytes::{Fields, Truncated},
    extent::Extent,
    fs::{checked::right, label::utf16},
};

/// Where the two superblocks are, in bytes.
pub const OFFSETS: [u64; 2] = [1024, 4096 + 1024];
/// Bytes in a superblock.
pub const LEN: usize = 3072;
/// The magic number, which is also where checksums start.
pub const MAGIC: u32 = 0xf2f5_2010;
/// Bytes in a block.
pub const BLOCK: u64 = 4096;
/// Blocks in a segment.
pub const SEGMENT: u64 = 512;
/// Where the checksum is.
const CRC_AT: usize = 3068;
/// Segments a volume has at most: 16 TiB.
const MAX_SEGMENTS: u64 = 1 << 23;

/// Feature flags of the superblock.
pub mod feature {
    /// A zoned device is among those it is on.
    pub const BLKZONED: u32 = 0x2;
    /// The length of inline extended attributes is in the inode.
    pub const FLEXIBLE_INLINE_XATTR: u32 = 0x40;
    /// The superblock has a checksum.
    pub const SB_CHKSUM: u32 = 0x800;
    /// Made to be read only.
    pub const RO: u32 = 0x4000;
    /// All whose effect on maps is known: none but those above have any.
    pub const KNOWN: u32 = 0x7fff;
}

static CRC32: Crc<u32, Table<16>> =
    Crc::<u32, Table<16>>::new(&Algorithm { init: 0, xorout: 0, ..crc::CRC_32_ISO_HDLC });

/// Computes a checksum as F2FS does: CRC-32 that starts with the magic number and is not inverted.
#[must_use]
pub fn crc32(parts: &[&[u8]]) -> u32 {
    let mut digest = CRC32.digest_with_initial(MAGIC.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// Why a superblock is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another format, or nothing.
    #[error("the magic number is {0:#x}")]
    Magic(u32),
    /// The bytes are not those that were written.
    #[error("its checksum is {said:#x}, that of its bytes {computed:#x}")]
    Checksum {
        /// What it says.
        said: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Blocks and segments of a size that does not exist.
    #[error("it has blocks of 2^{block} bytes and segments of 2^{segment} blocks")]
    Units {
        /// `log_blocksize`.
        block: u32,
        /// `log_blocks_per_seg`.
        segment: u32,
    },
    /// Areas that do not follow each other.
    #[error("the {area} begins at block {found}, not at block {expected}")]
    Area {
        /// Its name.
        area: &'static str,
        /// Where it is.
        found: u64,
        /// Where it must be.
        expected: u64,
    },
    /// Counts that cannot be.
    #[error("it counts {count} {what}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
    },
    /// Too short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// One of the two superblocks. Addresses and counts are blocks unless they say segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Major and minor version of the format.
    pub version: (u16, u16),
    /// Volume label.
    pub label: Option<String>,
    /// Volume UUID.
    pub uuid: [u8; 16],
    /// Feature flags.
    pub feature: u32,
    /// Whether it names devices: it is on more than this one.
    pub devices: bool,
    /// What went wrong with it before, by kind.
    pub errors: bool,
    /// First checkpoint pack; the second is a segment behind it.
    pub cp: u64,
    /// Segment information table.
    pub sit: u64,
    /// Blocks in one of its two copies.
    pub sit_blocks: u64,
    /// Node address table.
    pub nat: u64,
    /// Blocks in one of its two copies.
    pub nat_blocks: u64,
    /// Main area.
    pub main: u64,
    /// Segments in the main area.
    pub main_segments: u64,
    /// Blocks of a checkpoint pack behind its first that go on with the version bitmaps.
    pub cp_payload: u64,
}

impl Superblock {
    /// Reads a superblock of [`LEN`] bytes and checks that its areas follow each other.
    ///
    /// # Errors
    /// [`Error`], for whatever makes it none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        if f.u32(0)? != MAGIC {
            return Err(Error::Magic(f.u32(0)?));
        }
        let feature = f.u32(2180)?;
        if feature & feature::SB_CHKSUM != 0 {
            let (said, computed) = (f.u32(CRC_AT)?, crc32(&[f.slice(0, CRC_AT)?]));
            if !right(said == computed) {
                return Err(Error::Checksum { said, computed });
            }
        }
        let (block, segment) = (f.u32(16)?, f.u32(20)?);
        if (block, segment) != (12, 9) {
            return Err(Error::Units { block, segment });
        }
        let at = |offset: usize| f.u32(offset).map(u64::from);
        let sb = Self {
            version: (f.u16(4)?, f.u16(6)?),
            label: utf16(f.slice(124, 1024)?),
            uuid: f.array(108)?,
            feature,
            devices: f.u8(2201)? != 0,
            errors: f.slice(2794, 16)?.iter().any(|byte| *byte != 0),
            cp: at(76)?,
            sit: at(80)?,
            sit_blocks: at(56)?.saturating_mul(SEGMENT) / 2,
            nat: at(84)?,
            nat_blocks: at(60)?.saturating_mul(SEGMENT) / 2,
            main: at(92)?,
            main_segments: at(68)?,
            cp_payload: at(1664)?,
        };
        sb.check(f)?;
        Ok(sb)
    }

    fn check(&self, f: Fields<'_>) -> Result<(), Error> {
        let segments = u64::from(f.u32(48)?);
        let mut expected = u64::from(f.u32(72)?);
        // Two superblocks lie before, and segment 0 is on a boundary of what the device likes to erase.
        if expected < 2 {
            return Err(Error::Area { area: "first segment", found: expected, expected: 2 });
        }
        let end = expected.saturating_add(segments.saturating_mul(SEGMENT));
        for (area, found, count_at) in [
            ("checkpoint area", self.cp, 52),
            ("segment information table", self.sit, 56),
            ("node address table", self.nat, 60),
            ("segment summary area", u64::from(f.u32(88)?), 64),
            ("main area", self.main, 68),
        ] {
            if found != expected {
                return Err(Error::Area { area, found, expected });
            }
            expected = expected.saturating_add(u64::from(f.u32(count_at)?).saturating_mul(SEGMENT));
        }
        // A few segments at the end may belong to no section, and so to no area.
        if segments > MAX_SEGMENTS || expected > end {
            return Err(Error::Count { what: "segments", count: segments });
        }
        if self.main_segments == 0 {
            return Err(Error::Count { what: "main segments", count: 0 });
        }
        let checkpoints = u64::from(f.u32(52)?);
        if checkpoints < 2 {
            return Err(Error::Count { what: "checkpoint segments", count: checkpoints });
        }
        for (what, count) in [("SIT segments", f.u32(56)?), ("NAT segments", f.u32(60)?)] {
            if count == 0 || count % 2 != 0 {
                return Err(Error::Count { what, count: u64::from(count) });
            }
        }
        if self.cp_payload > SEGMENT.saturating_sub(2) {
            return Err(Error::Count { what: "payload blocks of a checkpoint", count: self.cp_payload });
        }
        Ok(())
    }

    /// Tells whether both lead to the same places.
    #[must_use]
    pub fn same_places(&self, other: &Self) -> bool {
        let places = |sb: &Self| {
            (sb.cp, sb.sit, sb.sit_blocks, sb.nat, sb.nat_blocks, sb.main, sb.main_segments, sb.cp_payload, sb.feature)
        };
        places(self) == places(other) && self.uuid == other.uuid && self.devices == other.devices
    }

    /// Returns the first block behind the main area.
    #[must_use]
    pub const fn main_end(&self) -> u64 {
        self.main.saturating_add(self.main_segments.saturating_mul(SEGMENT))
    }

    /// Tells whether `block` is in the main area.
    #[must_use]
    pub const fn in_main(&self, block: u64) -> bool {
        block >= self.main && block < self.main_end()
    }

    /// Tells whether a feature flag is set.
    #[must_use]
    pub const fn has(&self, feature: u32) -> bool {
        self.feature & feature != 0
    }
}

/// Returns the bytes of blocks `from..to`.
#[must_use]
pub const fn bytes(from: u64, to: u64) -> Extent {
    Extent::new(from.saturating_mul(BLOCK), to.saturating_mul(BLOCK))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A superblock of 27 segments: one SIT pair, one NAT pair, one of SSA, twenty main.
    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, MAGIC);
        for (at, value) in [(16, 12), (20, 9), (48, 27), (52, 2), (56, 2), (60, 2), (64, 1), (68, 20)] {
            put(at, value);
        }
        for (at, segment) in [(72, 1), (76, 1), (80, 3), (84, 5), (88, 7), (92, 8)] {
            put(at, segment * 512);
        }
        bytes
    }

    #[test]
    fn a_superblock_says_where_the_areas_are() {
        let sb = Superblock::parse(&sample()).unwrap();
        assert_eq!((sb.cp, sb.sit, sb.sit_blocks, sb.nat, sb.main, sb.main_end()), (512, 1536, 512, 2560, 4096, 14336));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (name, at, value, want) in [
            ("magic", 0, 1, "the magic number is 0x1"),
            ("block", 16, 14, "it has blocks of 2^14 bytes and segments of 2^9 blocks"),
            ("segment", 20, 8, "it has blocks of 2^12 bytes and segments of 2^8 blocks"),
            ("place", 84, 2561, "the node address table begins at block 2561, not at block 2560"),
            ("count", 48, 20, "it counts 20 segments"),
            ("payload", 1664, 511, "it counts 511 payload blocks of a checkpoint"),
            ("no superblock before", 72, 1, "the first segment begins at block 1, not at block 2"),
        ] {
            let mut bytes = sample();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert_eq!(Superblock::parse(&bytes).unwrap_err().to_string(), want, "{name}");
        }
        let mut bytes = sample();
        bytes[2181] = 8;
        assert!(matches!(Superblock::parse(&bytes), Err(Error::Checksum { said: 0, .. })));
        let crc = crc32(&[&bytes[..CRC_AT]]).to_le_bytes();
        bytes[CRC_AT..].copy_from_slice(&crc);
        assert!(Superblock::parse(&bytes).is_ok());
        assert!(matches!(Superblock::parse(&bytes[..100]), Err(Error::Truncated(_))));
    }
}

//! The four checksums of Btrfs: over a superblock or tree block from byte 32 on, stored in its first bytes.
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `enum btrfs_csum_type`; the algorithms by their own documents.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use blake2::Blake2b256;
use sha2::{Digest, Sha256};

use crate::fs::{checked::right, ext::checksum::crc32c};

/// Room for a checksum at the start of every block.
pub const ROOM: usize = 32;

/// How blocks of a file system are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32C, 4 bytes.
    Crc32c,
    /// XXH64 without a seed, 8 bytes.
    Xxhash64,
    /// SHA-256, 32 bytes.
    Sha256,
    /// BLAKE2b of 256 bits, 32 bytes.
    Blake2b,
}

impl Checksum {
    /// Returns the checksum that a superblock means by `csum_type`.
    #[must_use]
    pub const fn of_type(csum_type: u16) -> Option<Self> {
        match csum_type {
            0 => Some(Self::Crc32c),
            1 => Some(Self::Xxhash64),
            2 => Some(Self::Sha256),
            3 => Some(Self::Blake2b),
            _ => None,
        }
    }

    /// Returns the bytes of a checksum.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no checksum is empty")]
    pub const fn len(self) -> u64 {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// Tells whether `block` has the checksum in its first bytes that the rest of it has; `false` for a short one.
    #[must_use]
    pub fn fits(self, block: &[u8]) -> bool {
        let Some((stored, rest)) = block.split_at_checked(ROOM) else { return false };
        right(match self {
            Self::Crc32c => stored.starts_with(&(!crc32c(!0, &[rest])).to_le_bytes()),
            Self::Xxhash64 => stored.starts_with(&xxhash_rust::xxh64::xxh64(rest, 0).to_le_bytes()),
            Self::Sha256 => stored == Sha256::digest(rest).as_slice(),
            Self::Blake2b => stored == Blake2b256::digest(rest).as_slice(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_their_published_values() {
        // All of "abc"; the numbers, CRC and XXH64, in the order of their bytes on disk.
        for (checksum, hex) in [
            (Checksum::Crc32c, "b73f4b36"),
            (Checksum::Xxhash64, "990977adf52cbc44"),
            (Checksum::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (Checksum::Blake2b, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"),
        ] {
            let mut stored = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            stored.resize(ROOM, 0);
            let mut block = [stored.as_slice(), b"abc"].concat();
            assert!(checksum.fits(&block), "{checksum:?}");
            block[34] ^= 1;
            assert!(!checksum.fits(&block), "{checksum:?}");
            assert!(!checksum.fits(&block[..20]), "{checksum:?}");
        }
        assert_eq!(Checksum::of_type(4), None);
    }
}

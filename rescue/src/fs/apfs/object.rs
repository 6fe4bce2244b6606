//! Objects of APFS: blocks that begin with a checksum, a number, the transaction that wrote them and a type.
//!
//! Source: Apple File System Reference, "Objects"; little endian.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{
    block,
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Types of objects, without the flags in the upper half.
pub mod kind {
    /// A container superblock.
    pub const CONTAINER: u32 = 0x1;
    /// The root node of a tree.
    pub const TREE: u32 = 0x2;
    /// Any other node of a tree.
    pub const NODE: u32 = 0x3;
    /// The space manager.
    pub const SPACEMAN: u32 = 0x5;
    /// A block of addresses of chunk-info blocks.
    pub const CAB: u32 = 0x6;
    /// A chunk-info block.
    pub const CIB: u32 = 0x7;
    /// An object map.
    pub const OMAP: u32 = 0xb;
    /// A block of a checkpoint's map.
    pub const CHECKPOINT_MAP: u32 = 0xc;
    /// A volume superblock.
    pub const VOLUME: u32 = 0xd;
    /// What firmware starts from.
    pub const EFI: u32 = 0x14;
}

/// Why an object is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bad sectors, or the end of the region.
    #[error("block {at} cannot be read: {source}")]
    Read {
        /// Its first block.
        at: u64,
        /// What the region said.
        source: block::Error,
    },
    /// The bytes are not those that were written.
    #[error("the checksum of block {at} is wrong")]
    Checksum {
        /// Its first block.
        at: u64,
    },
    /// Another object.
    #[error("block {at} holds an object of type {found:#x}, not {expected:#x}")]
    Kind {
        /// Its first block.
        at: u64,
        /// Its type.
        found: u32,
        /// The type it must have.
        expected: u32,
    },
    /// A number that cannot be.
    #[error("{what} in block {at}: {found}")]
    Range {
        /// Its first block.
        at: u64,
        /// Which.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A tree is deeper or larger than what is followed.
    #[error("there is more than is followed")]
    Budget,
    /// A structure is too short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

/// Tells whether the checksum of an object fits its bytes: Fletcher's with 64 bits, over all behind it.
#[must_use]
pub fn intact(bytes: &[u8]) -> bool {
    let Some((said, rest)) = bytes.split_at_checked(8) else { return false };
    let (mut first, mut second) = (0u64, 0u64);
    for word in rest.as_chunks::<4>().0 {
        first = first.wrapping_add(u64::from(u32::from_le_bytes(*word))) % 0xffff_ffff;
        second = second.wrapping_add(first) % 0xffff_ffff;
    }
    let low = 0xffff_ffffu64.saturating_sub(first.wrapping_add(second) % 0xffff_ffff);
    let high = 0xffff_ffffu64.saturating_sub(first.wrapping_add(low) % 0xffff_ffff);
    right(Fields(said).u64(0) == Ok(high << 32 | low))
}

/// Returns type and transaction of an object.
///
/// # Errors
/// It is shorter than a header.
pub fn header(bytes: &[u8]) -> Result<(u32, u64), Truncated> {
    let f = Fields(bytes);
    Ok((f.u32(24)? & 0xffff, f.u64(16)?))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_fits_only_its_bytes() {
        let mut bytes = vec![0; 4096];
        bytes.iter_mut().skip(8).zip(0u32..).for_each(|(byte, n)| *byte = n.wrapping_mul(37).to_le_bytes()[0]);
        // Found by the definition: both sums over everything, the checksum last, are zero.
        assert!(!intact(&bytes));
        let sealed = seal(&bytes).to_le_bytes();
        bytes[..8].copy_from_slice(&sealed);
        assert!(intact(&bytes));
        bytes[4095] ^= 1;
        assert!(!intact(&bytes));
        assert!(!intact(&[0; 7]));
    }

    fn seal(bytes: &[u8]) -> u64 {
        let modulus = 0xffff_ffffu128;
        let words = bytes[8..].as_chunks::<4>().0;
        let plain = words.iter().map(|word| u128::from(u32::from_le_bytes(*word))).sum::<u128>();
        let weights = (1..=words.len() as u128).rev();
        let weighted =
            weights.zip(words).map(|(weight, word)| weight * u128::from(u32::from_le_bytes(*word))).sum::<u128>();
        let low = modulus - (plain + weighted) % modulus;
        let high = modulus - (plain + low) % modulus;
        u64::try_from(high << 32 | low).unwrap()
    }
}

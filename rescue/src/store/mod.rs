//! The store: a folder of packs, indexes and images from any number of machines. `docs/FORMAT.md` is its contract.
//!
//! Every distinct chunk is stored once, every image lists all its chunks, and the appearance of a manifest is the
//! commit: before it there is no image, after it nothing it needs is missing.

pub mod manifest;

use std::fmt;

use data_encoding::HEXLOWER;

pub use self::manifest::Manifest;

/// Names a chunk: the BLAKE3 hash of its plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The reserved id of a chunk that is all zero, of whatever length; it has no frame.
    pub const ZERO: Self = Self([0; 32]);

    /// Returns the id of a chunk with these plain bytes.
    #[must_use]
    pub fn of(plain: &[u8]) -> Self {
        if plain.iter().all(|byte| *byte == 0) { Self::ZERO } else { Self(*blake3::hash(plain).as_bytes()) }
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

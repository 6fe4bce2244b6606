//! The store: a folder of packs, indexes and images from any number of machines. `docs/FORMAT.md` is its contract.
//!
//! Every distinct chunk is stored once, every image lists all its chunks, and the appearance of a manifest is the
//! commit: before it there is no image, after it nothing it needs is missing.
//!
//! [`Store::look`] tells what a path is before anything is written there; [`Store::open`] reads indexes and adopts packs that have none, [`Store::writer`] stores chunks and commits an image,
//! [`Store::reader`] gives chunks back, [`Store::verify`] reads everything there is.

pub mod backend;
pub mod config;
mod create;
pub mod damage;
pub mod error;
pub mod frame;
pub mod images;
pub mod index;
pub mod manifest;
mod open;
pub mod pack;
mod reader;
mod sealed;
mod shelf;
#[cfg(test)]
mod tests;
pub mod undo;
mod validate;
mod verify;
mod writer;

use std::{fmt, io};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

pub use self::{
    config::CreateOptions,
    create::Look,
    damage::{ImageDamage, PackDamage, Verified},
    error::{Error, Problem},
    frame::{Decoder, EncodedFrame, Encoder},
    images::{Listed, RegionSummary, Summary},
    manifest::Manifest,
    open::Store,
    reader::Reader,
    writer::Writer,
};

/// The version of the format this program writes, and the only one it reads.
pub const VERSION: u16 = 1;

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

/// Names a store, or a file in it: 128 random bits, 32 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// Returns a new id.
    ///
    /// # Errors
    /// The system's, when it gives no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        Ok(Self(id))
    }

    /// Reads 32 hexadecimal digits in lower case; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl TryFrom<String> for FileId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "an id is 32 hexadecimal digits in lower case".to_owned())
    }
}

impl From<FileId> for String {
    fn from(id: FileId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

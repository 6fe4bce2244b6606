//! The names that everything in a store has: ids, the one file that is always called the same, the format's version.

use std::{fmt, io};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The file that says what the whole store agrees on: who looks for stores looks for it.
pub const CONFIG: &str = "rescue-store.json";
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

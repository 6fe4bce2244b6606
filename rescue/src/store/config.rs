//! `rescue-store.json`: what the whole store agrees on. Written once, when the store is made.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};

use super::{
    CONFIG, Error, FileId,
    frame::{MAX_CHUNK_LEN, MIN_CHUNK_LEN},
    sealed,
};
use crate::units::MIB;

/// The longest such file.
pub(super) const MAX_LEN: u64 = 64 << 10;

/// How a new store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes in a chunk: a power of two from 4 KiB to 32 MiB.
    pub chunk_len: u64,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { chunk_len: MIB }
    }
}

/// What the whole store agrees on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Format version; this is 1.
    pub format: u32,
    /// The store's own id.
    pub store: FileId,
    /// Bytes in a chunk.
    pub chunk_len: u64,
    /// What a reader must know to read the store; an unknown name is refused.
    pub features: Vec<String>,
    /// How frames are encrypted; only `none` is known.
    pub encryption: String,
}

/// The part that tells whether the rest can be understood. Everything else may have another shape in a later version.
#[derive(Deserialize)]
struct Outline {
    format: u32,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    encryption: serde_json::Value,
}

impl Config {
    /// Returns what a new store agrees on.
    ///
    /// # Errors
    /// [`Error::Refused`] for a chunk length no store has.
    pub fn new(store: FileId, options: CreateOptions) -> Result<Self, Error> {
        check_chunk_len(options.chunk_len).map_err(Error::Refused)?;
        let encryption = "none".to_owned();
        let format = u32::from(super::VERSION);
        Ok(Self { format, store, chunk_len: options.chunk_len, features: Vec::new(), encryption })
    }

    /// Returns the file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string_pretty(self).expect("strings and numbers are always JSON");
        sealed::seal_text(&json).into_bytes()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming what is not known; [`Error::Corrupt`] when a single bit is not as it was written.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let text = open_text(CONFIG, bytes)?;
        let json = |e: serde_json::Error| Error::corrupt(CONFIG, 0, e.to_string());
        let outline: Outline = serde_json::from_str(text).map_err(json)?;
        check_known(CONFIG, outline.format, &outline.features)?;
        if outline.encryption != "none" {
            let what = format!("encryption {}", outline.encryption);
            return Err(Error::Unsupported { file: CONFIG.to_owned(), what });
        }
        let config: Self = serde_json::from_str(text).map_err(json)?;
        check_chunk_len(config.chunk_len).map_err(|what| Error::corrupt(CONFIG, 0, what))?;
        Ok(config)
    }
}

pub(super) fn check_chunk_len(len: u64) -> Result<(), String> {
    if len.is_power_of_two() && (MIN_CHUNK_LEN..=MAX_CHUNK_LEN).contains(&len) {
        Ok(())
    } else {
        Err(format!("a chunk length of {len} bytes is not a power of two from {MIN_CHUNK_LEN} to {MAX_CHUNK_LEN}"))
    }
}

/// Refuses politely what a newer program wrote. No feature has a name yet.
pub(super) fn check_known(file: &str, version: u32, features: &[String]) -> Result<(), Error> {
    let what = match features.first() {
        _ if version != u32::from(super::VERSION) => format!("format version {version}"),
        Some(feature) => format!("feature {:?}", crate::escape::Escaped(feature).to_string()),
        None => return Ok(()),
    };
    Err(Error::Unsupported { file: file.to_owned(), what })
}

pub(super) fn open_text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    sealed::open_text(bytes).map_err(|fault| seal_error(file, fault))
}

pub(super) fn seal_error(file: &str, fault: sealed::Fault) -> Error {
    match fault {
        sealed::Fault::Damaged { offset, what } => Error::Corrupt { file: file.to_owned(), offset, what },
        sealed::Fault::Version(_) => Error::Unsupported { file: file.to_owned(), what: fault.to_string() },
    }
}

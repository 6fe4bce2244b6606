//! Two containers for JSON in which any changed bit shows: plain text with its hash in the last line, and a zstd frame
//! with its hash in a skippable frame behind it.
//!
//! ```text
//! text    {␤ …␤  "check": "64 hexadecimal digits: BLAKE3 of all before the quote that opens `check`"␤}␤
//! packed  | zstd frame with content checksum | 5E 2A 4D 18 | 48 00 00 00 | 72 bytes |
//!          0  8 magic: what kind of file       24 16 id, the file's name
//!          8  8 length of the JSON in bytes    40 32 BLAKE3 of all bytes of the file before these 32
//!         16  4 format version, 1
//!         20  4 zero
//! ```
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{Read, Write};

use data_encoding::HEXLOWER;

use super::FileId;
use crate::bytes::{Fields, Truncated};

const TAIL_BEFORE: &str = "\"check\": \"";
const TAIL_AFTER: &str = "\"\n}\n";
const TAIL_LEN: usize = TAIL_BEFORE.len() + 64 + TAIL_AFTER.len();
const FOOTER_LEN: usize = 80;
/// A skippable frame of 72 bytes: every zstd program passes over it.
const SKIPPABLE: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 72, 0, 0, 0];
/// The longest JSON that is taken from a packed file: a manifest of some ten million chunks.
const MAX_JSON: u64 = 1 << 30;
/// Memory that a zstd frame may ask for as its window, as a power of two.
const WINDOW_LOG: u32 = 27;

/// What a packed file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// A manifest.
    Image,
    /// What a target held before a restore.
    Undo,
}

impl Packed {
    const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Image => b"RSIMAGE\n",
            Self::Undo => b"RSUNDO\r\n",
        }
    }
}

/// What is wrong with a sealed file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its bytes are not those that were written.
    #[error("{what}")]
    Damaged {
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// What disagrees.
        what: String,
    },
    /// It is intact, and of a version this program does not know.
    #[error("format version {0}")]
    Version(u32),
}

fn damaged(offset: usize, what: impl Into<String>) -> Fault {
    Fault::Damaged { offset: offset as u64, what: what.into() }
}

/// Adds the hash to a JSON object of at least one field, written by `serde_json::to_string_pretty`.
pub fn seal_text(object: &str) -> String {
    let body = object.trim_end().trim_end_matches('}').trim_end();
    let mut out = format!("{body},\n  ");
    let check = blake3::hash(out.as_bytes());
    out.extend([TAIL_BEFORE, &HEXLOWER.encode(check.as_bytes()), TAIL_AFTER]);
    out
}

/// Checks a text's hash and returns the text, which is JSON as it stands.
///
/// # Errors
/// [`Fault::Damaged`].
pub fn open_text(bytes: &[u8]) -> Result<&str, Fault> {
    let at = bytes.len().checked_sub(TAIL_LEN).ok_or_else(|| damaged(0, "it is too short"))?;
    let (body, tail) = bytes.split_at(at);
    let mut want = TAIL_BEFORE.to_owned();
    want.extend([&HEXLOWER.encode(blake3::hash(body).as_bytes()), TAIL_AFTER]);
    if tail != want.as_bytes() {
        return Err(damaged(0, "its last line is not the check of the rest"));
    }
    std::str::from_utf8(bytes).map_err(|e| damaged(e.valid_up_to(), "it is not UTF-8"))
}

/// Compresses JSON and adds the footer.
///
/// # Errors
/// zstd's, out of memory for one.
pub fn pack(kind: Packed, id: FileId, json: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(json.len() as u64))?;
    encoder.write_all(json)?;
    let mut out = encoder.finish()?;
    out.extend_from_slice(&SKIPPABLE);
    out.extend_from_slice(kind.magic());
    out.extend_from_slice(&(json.len() as u64).to_le_bytes());
    out.extend_from_slice(&u32::from(super::VERSION).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&id.0);
    let check = blake3::hash(&out);
    out.extend_from_slice(check.as_bytes());
    Ok(out)
}

/// Checks every byte of a packed file and returns its JSON.
///
/// * `id`: the id in the file's name.
///
/// # Errors
/// A [`Fault`].
pub fn unpack(kind: Packed, id: FileId, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let at = bytes.len().checked_sub(FOOTER_LEN).ok_or_else(|| damaged(0, "it is too short"))?;
    let (stored, footer) = bytes.split_at(at);
    let fields = Fields(footer);
    let read = || {
        let numbers = (fields.u64(16)?, fields.u32(24)?, fields.u32(28)?);
        Ok::<_, Truncated>((numbers, FileId(fields.array(32)?), fields.array::<32>(48)?))
    };
    let ((json_len, version, zero), says, check) = read().map_err(|e| damaged(at, e.to_string()))?;
    let covered = bytes.len().checked_sub(check.len()).and_then(|end| bytes.get(..end)).unwrap_or_default();
    if blake3::hash(covered).as_bytes() != &check {
        return Err(damaged(0, "its bytes do not have the BLAKE3 that its last 32 bytes say"));
    }
    if !fields.has(0, &SKIPPABLE) || !fields.has(8, kind.magic()) || zero != 0 {
        return Err(damaged(at, "its footer is that of another kind of file"));
    }
    if version != u32::from(super::VERSION) {
        return Err(Fault::Version(version));
    }
    if says != id {
        return Err(damaged(at, format!("it is {says} by its footer and {id} by its name")));
    }
    if json_len > MAX_JSON {
        return Err(damaged(
            at,
            format!("its footer says {json_len} bytes of JSON, and no file has more than {MAX_JSON}"),
        ));
    }
    let json = inflate(stored, json_len).map_err(|e| damaged(0, format!("it cannot be decompressed: {e}")))?;
    if json.len() as u64 == json_len {
        Ok(json)
    } else {
        Err(damaged(at, format!("its footer says {json_len} bytes of JSON, and it holds {} or more", json.len())))
    }
}

/// Decompresses one byte more than `limit` at most. Memory grows with what really comes.
fn inflate(stored: &[u8], limit: u64) -> std::io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::with_buffer(stored)?.single_frame();
    decoder.window_log_max(WINDOW_LOG)?;
    let mut json = Vec::new();
    decoder.by_ref().take(limit.saturating_add(1)).read_to_end(&mut json)?;
    if json.len() as u64 <= limit && !decoder.finish().is_empty() {
        return Err(std::io::Error::other("more than one zstd frame"));
    }
    Ok(json)
}

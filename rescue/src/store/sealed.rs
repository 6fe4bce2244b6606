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

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use data_encoding::HEXLOWER;
use serde::{Serialize, de::DeserializeOwned};

use super::FileId;
use crate::bytes::{Fields, Truncated};

const TAIL_BEFORE: &str = "\"check\": \"";
const TAIL_AFTER: &str = "\"\n}\n";
const TAIL_LEN: usize = TAIL_BEFORE.len() + 64 + TAIL_AFTER.len();
const FOOTER_LEN: usize = 80;
/// A skippable frame of 72 bytes: every zstd program passes over it.
const SKIPPABLE: [u8; 8] = [0x5e, 0x2a, 0x4d, 0x18, 72, 0, 0, 0];
/// The longest JSON in a packed file: a manifest of some 25 million chunks.
pub const MAX_JSON: u64 = 1 << 30;
/// Bytes that are read back at once.
const PIECE: usize = 256 << 10;
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

/// Hashes and counts the bytes that pass on their way to or from `inner`.
struct Hashing<T> {
    inner: T,
    hash: blake3::Hasher,
    len: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: blake3::Hasher::new(), len: 0 }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.len = self.len.saturating_add(bytes.len() as u64);
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.note(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.note(buf.get(..got).unwrap_or_default());
        Ok(got)
    }
}

/// A value whose JSON was written once for its length and its hash. What comes later must have both.
pub struct Measured<'a, T> {
    value: &'a T,
    json_len: u64,
    json: blake3::Hash,
}

/// Measures a value's JSON, which is kept nowhere.
///
/// # Errors
/// `FileTooLarge` when no packed file may hold it, with both lengths.
pub fn measure<T: Serialize>(value: &T) -> io::Result<Measured<'_, T>> {
    let mut out = BufWriter::new(Hashing::new(io::sink()));
    serde_json::to_writer(&mut out, value)?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let json_len = check_json_len(out.len)?;
    Ok(Measured { value, json_len, json: out.hash.finalize() })
}

fn check_json_len(len: u64) -> io::Result<u64> {
    if len <= MAX_JSON {
        return Ok(len);
    }
    let what = format!("{len} bytes of JSON, and no such file has more than {MAX_JSON}");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, what))
}

/// What a packed file must be when it is read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Seal {
    json_len: u64,
    json: blake3::Hash,
    file: blake3::Hash,
}

impl<T: Serialize> Measured<'_, T> {
    /// Returns the length of the JSON in bytes; the file is shorter for all but the smallest values.
    pub const fn json_len(&self) -> u64 {
        self.json_len
    }

    /// Writes the packed file to `out`, in pieces: memory does not grow with the value.
    ///
    /// # Errors
    /// Those of `out`, and zstd's, out of memory for one.
    pub fn write(&self, kind: Packed, id: FileId, out: impl Write) -> io::Result<Seal> {
        let file = stream(kind, id, self.json_len, out, |json| Ok(serde_json::to_writer(json, self.value)?))?;
        Ok(Seal { json_len: self.json_len, json: self.json, file })
    }
}

/// Writes a packed file around the `json_len` bytes that `write_json` gives; returns the hash of the whole file.
fn stream(
    kind: Packed,
    id: FileId,
    json_len: u64,
    out: impl Write,
    write_json: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<blake3::Hash> {
    let mut zstd = zstd::Encoder::new(Hashing::new(out), 3)?;
    zstd.include_checksum(true)?;
    zstd.set_pledged_src_size(Some(json_len))?;
    let mut json = BufWriter::new(zstd);
    write_json(&mut json)?;
    let mut out = json.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    let mut footer = Vec::with_capacity(FOOTER_LEN);
    footer.extend_from_slice(&SKIPPABLE);
    footer.extend_from_slice(kind.magic());
    footer.extend_from_slice(&json_len.to_le_bytes());
    footer.extend_from_slice(&u32::from(super::VERSION).to_le_bytes());
    footer.extend_from_slice(&[0; 4]);
    footer.extend_from_slice(&id.0);
    out.write_all(&footer)?;
    let check = out.hash.finalize();
    out.write_all(check.as_bytes())?;
    out.flush()?;
    Ok(out.hash.finalize())
}

/// Packs JSON as it stands, sense or not.
#[cfg(test)]
pub fn pack(kind: Packed, id: FileId, json: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    stream(kind, id, json.len() as u64, &mut out, |to| to.write_all(json)).expect("memory takes everything");
    out
}

/// Reads a file back that was just written, and compares it and the JSON in it with what was to be written. Returns what
/// the JSON says to `T`; memory does not grow with the file.
///
/// # Errors
/// Those of `file`; `InvalidData` when a single bit is another one.
pub fn check<T: DeserializeOwned>(seal: &Seal, file: impl Read) -> io::Result<T> {
    let different = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("it came back different: {what}"));
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(PIECE, Hashing::new(file)))?.single_frame();
    decoder.window_log_max(WINDOW_LOG)?;
    let mut json = Hashing::new(decoder.by_ref().take(seal.json_len.saturating_add(1)));
    let value = serde_json::from_reader(BufReader::new(&mut json))?;
    if (json.len, json.hash.finalize()) != (seal.json_len, seal.json) {
        return Err(different("its JSON has another hash"));
    }
    let mut rest = decoder.finish();
    while !rest.fill_buf()?.is_empty() {
        let len = rest.buffer().len();
        rest.consume(len);
    }
    if rest.get_ref().hash.finalize() == seal.file { Ok(value) } else { Err(different("it has another hash")) }
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
fn inflate(stored: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::with_buffer(stored)?.single_frame();
    decoder.window_log_max(WINDOW_LOG)?;
    // A manifest is mostly hashes in base64, which shrink to three quarters. Whatever the footer says, a small file
    // takes little memory until it has given more.
    let hint = limit.min((stored.len() as u64).saturating_mul(2));
    let mut json = Vec::with_capacity(usize::try_from(hint).unwrap_or(0));
    decoder.by_ref().take(limit.saturating_add(1)).read_to_end(&mut json)?;
    if json.len() as u64 <= limit && !decoder.finish().is_empty() {
        return Err(io::Error::other("more than one zstd frame"));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_must_be_what_was_written() {
        let value = (1..200u32).collect::<Vec<_>>();
        let measured = measure(&value).unwrap();
        let mut bytes = Vec::new();
        let seal = measured.write(Packed::Image, FileId([7; 16]), &mut bytes).unwrap();
        assert_eq!(check::<Vec<u32>>(&seal, &bytes[..]).unwrap(), value);
        assert_eq!(unpack(Packed::Image, FileId([7; 16]), &bytes).unwrap(), serde_json::to_vec(&value).unwrap());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check::<Vec<u32>>(&seal, &bytes[..]).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..bytes.len() {
            assert!(check::<Vec<u32>>(&seal, &bytes[..len]).is_err(), "cut to {len}");
        }
        bytes.push(0);
        assert!(check::<Vec<u32>>(&seal, &bytes[..]).is_err(), "a byte more");
    }

    #[test]
    fn a_value_that_changed_since_it_was_measured_is_not_taken() {
        let cell = std::cell::Cell::new(1);
        let measured = measure(&cell).unwrap();
        cell.set(2);
        let mut bytes = Vec::new();
        let seal = measured.write(Packed::Image, FileId([7; 16]), &mut bytes).unwrap();
        assert!(check::<u32>(&seal, &bytes[..]).is_err(), "a bit that fell over in memory");
        cell.set(10);
        assert!(measured.write(Packed::Image, FileId([7; 16]), io::sink()).is_err(), "one byte longer");
    }
}

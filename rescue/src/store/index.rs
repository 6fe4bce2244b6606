//! An index file: which pack holds which chunk. A copy of what the packs say of themselves, so that opening a store does
//! not read every pack; it can be made again from them at any time.
//!
//! ```text
//! | header, 64 B | packs ... | BLAKE3 of all before, 32 B |
//!
//! header                          pack
//!  0  8 magic "RSINDEX\n"          0 16 pack id
//!  8  2 format version, 1         16  8 length of the pack
//! 10  2 length of this header     24  4 number of entries
//! 12  4 feature bits              28  4 number of deltas
//! 16 16 store id                  32    entries of 48 B and bases of 32 B, as in the pack's own index
//! 32 16 index id
//! 48  4 number of packs, 52 12 zero
//! ```
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Error, FileId,
    pack::{self, Entry},
};
use crate::bytes::{Fields, Truncated};

/// The longest index file that is read. Writers begin another long before.
pub(super) const MAX_LEN: u64 = 256 << 20;
/// Entries after which a writer ends an index file: 6 MiB.
pub(super) const ENTRIES: usize = 128 << 10;

const MAGIC: &[u8; 8] = b"RSINDEX\n";
const HEADER_LEN: usize = 64;
const PACK_LEN: usize = 32;
const CHECK_LEN: usize = 32;

/// One pack, as an index lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackListing {
    /// Which pack.
    pub pack: FileId,
    /// Length of its file in bytes.
    pub len: u64,
    /// Its frames, in order.
    pub entries: Vec<Entry>,
}

/// Returns the name of an index file.
#[must_use]
pub fn path(index: FileId) -> String {
    format!("index/{index}.idx")
}

/// Returns the index a file's name stands for; `None` for files that are none.
#[must_use]
pub fn from_path(name: &str) -> Option<FileId> {
    FileId::parse(name.strip_prefix("index/")?.strip_suffix(".idx")?)
}

/// Returns the bytes of an index file.
#[must_use]
pub fn to_bytes(store: FileId, index: FileId, packs: &[PackListing]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&super::VERSION.to_le_bytes());
    out.extend_from_slice(&64u16.to_le_bytes());
    let any = packs.iter().any(|listing| pack::deltas(&listing.entries) > 0);
    out.extend_from_slice(&if any { pack::DELTAS } else { 0 }.to_le_bytes());
    out.extend_from_slice(&store.0);
    out.extend_from_slice(&index.0);
    out.extend_from_slice(&u32::try_from(packs.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    for listing in packs {
        out.extend_from_slice(&listing.pack.0);
        out.extend_from_slice(&listing.len.to_le_bytes());
        for count in [listing.entries.len(), pack::deltas(&listing.entries)] {
            out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        pack::write_entries(&listing.entries, &mut out);
    }
    let check = blake3::hash(&out);
    out.extend_from_slice(check.as_bytes());
    out
}

/// Reads an index file.
///
/// * `index`: the id in the file's name.
///
/// # Errors
/// [`Error::Unsupported`] or [`Error::Corrupt`].
pub fn parse(bytes: &[u8], store: FileId, index: FileId) -> Result<Vec<PackListing>, Error> {
    let file = path(index);
    let corrupt = |offset: usize, what: String| Error::corrupt(&file, offset as u64, what);
    let end = bytes.len().checked_sub(CHECK_LEN).ok_or_else(|| corrupt(0, "it is too short".to_owned()))?;
    let (body, check) = bytes.split_at(end);
    if blake3::hash(body).as_bytes() != check {
        return Err(corrupt(0, "its bytes do not have the BLAKE3 that its last 32 bytes say".to_owned()));
    }
    let fields = Fields(body);
    let read = || {
        let ids = (FileId(fields.array(16)?), FileId(fields.array(32)?));
        Ok::<_, Truncated>(((fields.u16(8)?, fields.u32(12)?), fields.u16(10)?, ids, fields.u32(48)?))
    };
    let ((version, features), header_len, ids, packs) = read().map_err(|e| corrupt(0, e.to_string()))?;
    if !fields.has(0, MAGIC) {
        return Err(corrupt(0, "it does not begin as an index".to_owned()));
    }
    if version != super::VERSION || features & !pack::DELTAS != 0 {
        let what = format!("index version {version} with features {features:#x}");
        return Err(Error::Unsupported { file, what });
    }
    if ids != (store, index) || header_len != 64 || !fields.has(52, &[0; 12]) {
        return Err(corrupt(16, format!("it is index {} of store {}", ids.1, ids.0)));
    }
    let (mut at, mut out) = (HEADER_LEN, Vec::new());
    for _ in 0..packs {
        let (listing, next) = parse_pack(fields, at).map_err(|what| corrupt(at, what))?;
        out.push(listing);
        at = next;
    }
    if at == body.len() { Ok(out) } else { Err(corrupt(at, format!("it goes on after its {packs} packs"))) }
}

/// Reads one pack's part at `at`; returns where the next one begins. Memory is taken only for bytes that are there.
fn parse_pack(fields: Fields<'_>, at: usize) -> Result<(PackListing, usize), String> {
    let head: [u8; PACK_LEN] = fields.array(at).map_err(|e| e.to_string())?;
    let head = Fields(&head);
    let read = || Ok::<_, Truncated>((FileId(head.array(0)?), head.u64(16)?, head.u32(24)?, head.u32(28)?));
    let (pack, len, count, deltas) = read().map_err(|e| e.to_string())?;
    let [count, deltas] = [count, deltas].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let first = at.saturating_add(PACK_LEN);
    let bytes = pack::entries_len(count, deltas);
    fields.slice(first, bytes).map_err(|e| e.to_string())?;
    let entries = pack::read_entries_at(fields, first, count, deltas)?;
    let frames_end = pack::contiguous(&entries)?;
    let ending = pack::ending_len(count, deltas) as u64;
    if frames_end.checked_add(ending) != Some(len) || len > pack::MAX_LEN {
        return Err(format!("pack {pack} of {len} bytes cannot hold {count} frames that end at {frames_end:#x}"));
    }
    Ok((PackListing { pack, len, entries }, first.saturating_add(bytes)))
}

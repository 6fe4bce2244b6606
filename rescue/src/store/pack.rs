//! A pack: an immutable file of frames, at most 64 MiB, in which every byte is under some checksum.
//!
//! ```text
//! | header, 64 B | frames ... | index: 16 B + 48 B a frame + 32 B a delta | trailer, 64 B |
//!
//! header                          index                       trailer
//!  0  8 magic "RSPACK\r\n"         0  8 magic "RSPINDEX"       0  8 magic "RSPTRAIL"
//!  8  2 format version, 1          8  4 number of frames       8  8 offset of the index
//! 10  2 length of this header     12  4 number of deltas      16  4 number of frames
//! 12  4 feature bits              16    entries, bases        20  4 number of deltas
//! 16 16 store id                  entry                       24  8 length of the pack
//! 32 16 pack id                    0 32 chunk id              32 16 pack id
//! 48  4 chunk length              32  4 offset of the frame   48  8 XXH3-64 of the index
//! 52  4 zero                      36  4 stored length         56  8 XXH3-64 of bytes 0..56
//! 56  8 XXH3-64 of bytes 0..56    40  4 plain length
//!                                 44  1 kind, 45 3 zero
//! ```
//!
//! Behind the entries lie the bases: for each entry that is a delta, in their order, the id of the chunk it is a delta to.
//! Feature bit 0 says that there may be any.
//!
//! Frames lie from byte 64 to the index without a gap, in the order of the index. The trailer is written last: a pack
//! without one was cut short, and its frames can still be found one after the other.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    ChunkId, FileId,
    backend::Backend,
    frame::{self, EncodedFrame, FrameHeader, Kind, lengths_fit},
};
use crate::{
    bytes::{Fields, Truncated},
    extent::Extent,
    units::MIB,
};

/// The longest a pack may be, so that no file system's limit matters.
pub const MAX_LEN: u64 = 64 * MIB;
/// Bytes in a pack's header.
pub const HEADER_LEN: usize = 64;
/// Bytes in a pack's trailer.
pub const TRAILER_LEN: usize = 64;
/// Bytes of a pack's index before its entries.
pub const INDEX_HEAD_LEN: usize = 16;
/// Bytes in an entry of an index.
pub const ENTRY_LEN: usize = 48;
/// The length of a pack without frames; writers make none, and readers need not mind.
const MIN_LEN: u64 = (HEADER_LEN + INDEX_HEAD_LEN + TRAILER_LEN) as u64;
/// Bytes in the name of a delta's base, behind the entries of an index.
pub const BASE_LEN: usize = 32;
/// The feature bit of files that may speak of deltas.
pub const DELTAS: u32 = 1;
/// Feature bits this program knows.
const KNOWN_FEATURES: u32 = DELTAS;

const HEADER_MAGIC: &[u8; 8] = b"RSPACK\r\n";
const INDEX_MAGIC: &[u8; 8] = b"RSPINDEX";
const TRAILER_MAGIC: &[u8; 8] = b"RSPTRAIL";

/// Something wrong with a pack, and the bytes that it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{range}: {what}")]
pub struct Flaw {
    /// Bytes of the pack file.
    pub range: Extent,
    /// What disagrees.
    pub what: String,
    /// Whether it is intact and only too new for this program.
    pub unsupported: bool,
}

impl Flaw {
    pub(super) fn new(range: Extent, what: impl Into<String>) -> Self {
        Self { range, what: what.into(), unsupported: false }
    }
}

/// Returns the name of a pack's file.
#[must_use]
pub fn path(pack: FileId) -> String {
    let id = pack.to_string();
    let (folder, _) = id.split_at(2);
    format!("packs/{folder}/{id}.pack")
}

/// Returns the pack a file's name stands for; `None` for files that are none.
#[must_use]
pub fn from_path(name: &str) -> Option<FileId> {
    let id = FileId::parse(name.strip_suffix(".pack")?.rsplit('/').next()?)?;
    (path(id) == name).then_some(id)
}

/// Where a frame lies and what is in it, as an index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which chunk.
    pub id: ChunkId,
    /// Where its frame's header begins in the pack.
    pub offset: u32,
    /// Bytes that follow the frame's header.
    pub stored_len: u32,
    /// Bytes of the chunk.
    pub plain_len: u32,
    /// How it is stored.
    pub kind: Kind,
    /// The chunk it is a delta to; `None` for every other kind.
    pub base: Option<ChunkId>,
}

impl Entry {
    /// Returns the bytes of the frame in the pack, header included.
    #[must_use]
    pub fn range(&self) -> Extent {
        let start = u64::from(self.offset);
        let len = u64::from(self.stored_len).saturating_add(frame::HEADER_LEN as u64);
        Extent::new(start, start.saturating_add(len))
    }

    /// Tells whether a frame's own header says the same.
    #[must_use]
    pub fn agrees(&self, header: &FrameHeader) -> bool {
        (self.id, self.stored_len, self.plain_len, self.kind)
            == (header.id, header.stored_len, header.plain_len, header.kind)
    }

    pub(super) const fn of(header: &FrameHeader, base: Option<ChunkId>, offset: u32) -> Self {
        let FrameHeader { id, stored_len, plain_len, kind, .. } = *header;
        Self { id, offset, stored_len, plain_len, kind, base }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        for field in [self.offset, self.stored_len, self.plain_len] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[self.kind.code(), 0, 0, 0]);
    }

    /// Reads the entry at `at`; `what` says what is wrong with it.
    pub(super) fn read(fields: Fields<'_>, at: usize) -> Result<Self, String> {
        let raw: [u8; ENTRY_LEN] = fields.array(at).map_err(|e| e.to_string())?;
        let entry = Fields(&raw);
        let read = || {
            Ok::<_, Truncated>((
                ChunkId(entry.array(0)?),
                entry.u32(32)?,
                entry.u32(36)?,
                entry.u32(40)?,
                entry.u8(44)?,
            ))
        };
        let (id, offset, stored_len, plain_len, kind) = read().map_err(|e| e.to_string())?;
        let kind = Kind::from_code(kind).map_err(|fault| format!("chunk {id}: {fault}"))?;
        if !entry.has(45, &[0; 3]) || !lengths_fit(kind, stored_len, plain_len) {
            return Err(format!("the entry of chunk {id} says {stored_len} stored bytes for {plain_len} plain ones"));
        }
        Ok(Self { id, offset, stored_len, plain_len, kind, base: None })
    }
}

/// Returns how many of `entries` are deltas.
pub(super) fn deltas(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| entry.kind == Kind::Delta).count()
}

/// Appends entries and bases, as every index has them.
pub(super) fn write_entries(entries: &[Entry], out: &mut Vec<u8>) {
    entries.iter().for_each(|entry| entry.write(out));
    entries.iter().filter_map(|entry| entry.base).for_each(|base| out.extend_from_slice(&base.0));
}

/// Returns how long entries and bases are in an index.
pub(super) const fn entries_len(frames: usize, deltas: usize) -> usize {
    ENTRY_LEN.saturating_mul(frames).saturating_add(BASE_LEN.saturating_mul(deltas))
}

/// Reads `frames` entries and `deltas` bases from `at` on; says what is wrong with them. The caller made sure that the bytes are
/// there, so that no number can ask for more memory than they take.
pub(super) fn read_entries_at(
    fields: Fields<'_>,
    at: usize,
    frames: usize,
    deltas: usize,
) -> Result<Vec<Entry>, String> {
    let places = (0..frames).map(|n| n.saturating_mul(ENTRY_LEN).saturating_add(at));
    let mut entries = places.map(|at| Entry::read(fields, at)).collect::<Result<Vec<_>, _>>()?;
    let found = self::deltas(&entries);
    if found != deltas {
        return Err(format!("{found} of its frames are deltas, and it says {deltas}"));
    }
    let first = at.saturating_add(ENTRY_LEN.saturating_mul(frames));
    for (n, entry) in entries.iter_mut().filter(|entry| entry.kind == Kind::Delta).enumerate() {
        let base = fields.array(n.saturating_mul(BASE_LEN).saturating_add(first)).map_err(|e| e.to_string())?;
        entry.base = Some(ChunkId(base));
        if [entry.id, ChunkId::ZERO].contains(&ChunkId(base)) {
            return Err(format!("chunk {} is said to be a delta to chunk {}", entry.id, ChunkId(base)));
        }
    }
    Ok(entries)
}

/// Checks that frames follow each other without a gap from the header on, and returns where the last one ends.
pub(super) fn contiguous(entries: &[Entry]) -> Result<u64, String> {
    entries.iter().try_fold(HEADER_LEN as u64, |at, entry| {
        let range = entry.range();
        if range.start == at && range.end <= MAX_LEN {
            Ok(range.end)
        } else {
            Err(format!("the frame of chunk {} is said to begin at {:#x}, not {at:#x}", entry.id, range.start))
        }
    })
}

/// What a pack's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The store it was written for.
    pub store: FileId,
    /// Its own id.
    pub pack: FileId,
    /// The store's chunk length in bytes.
    pub chunk_len: u32,
    /// Whether deltas may be in it.
    pub deltas: bool,
}

impl Header {
    /// Returns the header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(HEADER_MAGIC);
        out.extend_from_slice(&super::VERSION.to_le_bytes());
        out.extend_from_slice(&64u16.to_le_bytes());
        out.extend_from_slice(&if self.deltas { DELTAS } else { 0 }.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.pack.0);
        out.extend_from_slice(&self.chunk_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        seal(&mut out);
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// A [`Flaw`] when it is damaged, or of a version or with features this program does not know.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let all = Extent::new(0, HEADER_LEN as u64);
        let flaw = |what: String| Flaw::new(all, what);
        let fields = Fields(bytes);
        check_seal(fields, HEADER_MAGIC, "header").map_err(flaw)?;
        let read = || {
            Ok::<_, Truncated>((
                (fields.u16(8)?, fields.u32(12)?, (fields.u16(10)?, fields.u32(52)?)),
                Self {
                    store: FileId(fields.array(16)?),
                    pack: FileId(fields.array(32)?),
                    chunk_len: fields.u32(48)?,
                    deltas: fields.u32(12)? & DELTAS != 0,
                },
            ))
        };
        let ((version, features, fixed), header) = read().map_err(|e| flaw(e.to_string()))?;
        if version != super::VERSION || features & !KNOWN_FEATURES != 0 {
            let what = format!(
                "the pack is of format version {version} with features {features:#x}, which this program does not know: \
                 use a newer one"
            );
            return Err(Flaw { unsupported: true, ..flaw(what) });
        }
        if fixed != (64, 0) {
            return Err(flaw(format!("the header's fixed fields are {fixed:x?}")));
        }
        Ok(header)
    }
}

/// Appends the XXH3-64 of everything so far.
fn seal(out: &mut Vec<u8>) {
    out.extend_from_slice(&xxh3_64(out).to_le_bytes());
}

/// Checks magic and checksum of a 64-byte structure.
fn check_seal(fields: Fields<'_>, magic: &[u8], name: &str) -> Result<(), String> {
    let (Ok(stored), Ok(bytes)) = (fields.u64(56), fields.slice(0, 56)) else {
        return Err(format!("the {name} is cut short"));
    };
    if !fields.has(0, magic) {
        return Err(format!("no {name} begins here"));
    }
    let found = xxh3_64(bytes);
    if found == stored { Ok(()) } else { Err(format!("the {name} has XXH3 {found:016x}, and says {stored:016x}")) }
}

/// Returns index and trailer of a pack whose frames are `entries`.
#[must_use]
pub fn ending(pack: FileId, entries: &[Entry]) -> Vec<u8> {
    let index_offset = entries.last().map_or(HEADER_LEN as u64, |entry| entry.range().end);
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let deltas = deltas(entries);
    let (len, deltas) = (ending_len(entries.len(), deltas), u32::try_from(deltas).unwrap_or(u32::MAX));
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(INDEX_MAGIC);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&deltas.to_le_bytes());
    write_entries(entries, &mut out);
    let mut trailer = Vec::with_capacity(TRAILER_LEN);
    trailer.extend_from_slice(TRAILER_MAGIC);
    trailer.extend_from_slice(&index_offset.to_le_bytes());
    trailer.extend_from_slice(&count.to_le_bytes());
    trailer.extend_from_slice(&deltas.to_le_bytes());
    trailer.extend_from_slice(&index_offset.saturating_add(len as u64).to_le_bytes());
    trailer.extend_from_slice(&pack.0);
    trailer.extend_from_slice(&xxh3_64(&out).to_le_bytes());
    seal(&mut trailer);
    out.extend_from_slice(&trailer);
    out
}

/// Returns how long index and trailer of a pack with `frames` frames are, of which `deltas` are deltas.
#[must_use]
pub const fn ending_len(frames: usize, deltas: usize) -> usize {
    INDEX_HEAD_LEN.saturating_add(entries_len(frames, deltas)).saturating_add(TRAILER_LEN)
}

/// Tells whether a pack that is `at` bytes long so far, with `frames` frames, has room for one more.
#[must_use]
pub fn has_room(at: u64, frames: usize, frame: &EncodedFrame) -> bool {
    // As if all were deltas: some bytes of 64 MiB are not worth counting them.
    let frames = frames.saturating_add(1);
    let ending = ending_len(frames, frames) as u64;
    at.saturating_add(frame.len() as u64).saturating_add(ending) <= MAX_LEN
}

/// Where a pack's index lies, from its trailer.
struct Trailer {
    index: Extent,
    count: usize,
    deltas: usize,
    index_sum: u64,
}

fn parse_trailer(bytes: &[u8], pack: FileId, len: u64) -> Result<Trailer, Flaw> {
    let all = Extent::new(len.saturating_sub(TRAILER_LEN as u64), len);
    let flaw = |what: String| Flaw::new(all, what);
    let fields = Fields(bytes);
    check_seal(fields, TRAILER_MAGIC, "trailer").map_err(flaw)?;
    let read = || {
        Ok::<_, Truncated>((
            (fields.u64(8)?, fields.u32(16)?, fields.u32(20)?),
            (fields.u64(24)?, FileId(fields.array(32)?), fields.u64(48)?),
        ))
    };
    let ((start, count, deltas), (says, id, index_sum)) = read().map_err(|e| flaw(e.to_string()))?;
    if says != len {
        return Err(flaw(format!("the trailer says the pack has {says} bytes, and it has {len}")));
    }
    if id != pack {
        return Err(flaw(format!("the trailer is that of pack {id}")));
    }
    let [count, deltas] = [count, deltas].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let index = Extent::new(start, all.start);
    let fits = start >= HEADER_LEN as u64 && start.checked_add(ending_len(count, deltas) as u64) == Some(len);
    if !fits || deltas > count {
        return Err(flaw(format!(
            "the trailer puts an index of {count} entries, {deltas} of them deltas, at {start:#x} of {len:#x} bytes"
        )));
    }
    Ok(Trailer { index, count, deltas, index_sum })
}

fn parse_index(bytes: &[u8], trailer: &Trailer) -> Result<Vec<Entry>, Flaw> {
    let flaw = |what: String| Flaw::new(trailer.index, what);
    let found = xxh3_64(bytes);
    if found != trailer.index_sum {
        return Err(flaw(format!(
            "the pack's index has XXH3 {found:016x}, and should have {:016x}",
            trailer.index_sum
        )));
    }
    let fields = Fields(bytes);
    let [count, deltas] = [trailer.count, trailer.deltas].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    if !fields.has(0, INDEX_MAGIC) || fields.u32(8) != Ok(count) || fields.u32(12) != Ok(deltas) {
        return Err(flaw("the pack's index does not begin as one".to_owned()));
    }
    // All of them are there: the trailer's sums were checked against the length of the file.
    let entries = read_entries_at(fields, INDEX_HEAD_LEN, trailer.count, trailer.deltas).map_err(flaw)?;
    let end = contiguous(&entries).map_err(flaw)?;
    if end == trailer.index.start {
        Ok(entries)
    } else {
        Err(flaw(format!("the frames end at {end:#x}, and the index begins at {:#x}", trailer.index.start)))
    }
}

/// Reads trailer and index of a pack of `len` bytes from its end.
///
/// # Errors
/// A [`Flaw`] naming the first thing that is wrong with either.
pub fn read_entries(backend: &dyn Backend, pack: FileId, len: u64) -> Result<Vec<Entry>, Flaw> {
    if !(MIN_LEN..=MAX_LEN).contains(&len) {
        return Err(Flaw::new(Extent::new(0, len), format!("no pack has {len} bytes")));
    }
    let name = path(pack);
    let start = len.saturating_sub(TRAILER_LEN as u64);
    let mut bytes = vec![0; TRAILER_LEN];
    read(backend, &name, Extent::new(start, len), &mut bytes)?;
    let trailer = parse_trailer(&bytes, pack, len)?;
    bytes.resize(usize::try_from(trailer.index.len()).unwrap_or(0), 0);
    read(backend, &name, trailer.index, &mut bytes)?;
    parse_index(&bytes, &trailer)
}

/// Reads the header of a pack.
///
/// # Errors
/// A [`Flaw`] when it is damaged or unknown, or speaks of another pack.
pub fn read_header(backend: &dyn Backend, pack: FileId) -> Result<Header, Flaw> {
    let mut bytes = [0; HEADER_LEN];
    let range = Extent::new(0, HEADER_LEN as u64);
    read(backend, &path(pack), range, &mut bytes)?;
    let header = Header::parse(&bytes)?;
    if header.pack == pack {
        Ok(header)
    } else {
        Err(Flaw::new(range, format!("the header is that of pack {}", header.pack)))
    }
}

fn read(backend: &dyn Backend, name: &str, range: Extent, buf: &mut [u8]) -> Result<(), Flaw> {
    backend.read_range(name, range.start, buf).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Flaw::new(range, "the pack ends before that"),
        _ => Flaw::new(range, format!("it cannot be read: {e}")),
    })
}

/// Finds the frames of a pack whose index is lost, by their own headers. What lies between intact headers is skipped.
pub(super) fn rescan(backend: &dyn Backend, pack: FileId, len: u64) -> Vec<Entry> {
    let name = path(pack);
    let mut entries = Vec::new();
    let mut at = HEADER_LEN as u64;
    while let Some((start, header)) = next_header(backend, &name, at, len.min(MAX_LEN)) {
        let mut entry = Entry::of(&header, None, u32::try_from(start).unwrap_or(u32::MAX));
        if header.kind == Kind::Delta {
            let mut base = [0; BASE_LEN];
            // A name that is damaged names nothing: the frame's checksum will say so.
            let _ = backend.read_range(&name, start.saturating_add(frame::HEADER_LEN as u64), &mut base);
            entry.base = Some(ChunkId(base));
        }
        let end = entry.range().end;
        at = if end <= len {
            entries.push(entry);
            end
        } else {
            start.saturating_add(1)
        };
    }
    entries
}

/// Returns the first intact frame header that begins at or after `at`.
fn next_header(backend: &dyn Backend, name: &str, mut at: u64, len: u64) -> Option<(u64, FrameHeader)> {
    const OVERLAP: u64 = frame::HEADER_LEN as u64 - 1;
    let mut window = frame::HEADER_LEN as u64;
    while at.checked_add(frame::HEADER_LEN as u64)? <= len {
        let mut buf = vec![0; usize::try_from(window.min(len.saturating_sub(at))).ok()?];
        backend.read_range(name, at, &mut buf).ok()?;
        let found = buf.windows(frame::HEADER_LEN).enumerate().find_map(|(skip, bytes)| {
            let header = bytes.starts_with(frame::MAGIC).then(|| FrameHeader::parse(bytes).ok())??;
            Some((at.checked_add(skip as u64)?, header))
        });
        if found.is_some() {
            return found;
        }
        // A header may lie across the border of two windows. They grow, so that the bytes read stay in proportion to
        // the distance to the next header, whatever the pack holds.
        at = at.checked_add(buf.len() as u64)?.checked_sub(OVERLAP)?;
        window = window.saturating_mul(2).min(64 << 10);
    }
    None
}

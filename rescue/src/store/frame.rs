//! One chunk in a pack: `| header, 64 B | stored bytes |`, with nothing between one frame and the next.
//!
//! ```text
//!  0  4  magic "RSfr"           12  4  length of the plain chunk
//!  4  1  kind                   16 32  chunk id
//!  5  3  zero                   48  8  XXH3-64 of the stored bytes
//!  8  4  length of the stored   56  8  XXH3-64 of bytes 0..56
//! ```
//!
//! Integers are little endian. A chunk is believed only after the BLAKE3 of its plain bytes matched its id; the
//! XXH3s are for scrubbing without decompressing, and later without a key.
//!
//! The stored bytes of a delta are `| id of the base, 32 B | zstd frame |`: the plain bytes of another chunk, the base, were the
//! prefix that zstd found matches in. A base is never a delta itself, so nothing is ever more than two frames away.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use xxhash_rust::xxh3::xxh3_64;
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::{CCtx, CParameter, DCtx, get_error_name},
};

use super::{ChunkId, Error, fault::Fault};
use crate::{bytes::Fields, units::MIB};

/// Bytes in a frame's header.
pub const HEADER_LEN: usize = 64;
/// The largest chunk of any store, so that a chunk that does not shrink still fits in a pack.
pub const MAX_CHUNK_LEN: u64 = 32 * MIB;
/// The smallest chunk length of any store.
pub const MIN_CHUNK_LEN: u64 = 4096;
/// Bytes of a delta's stored bytes that name its base.
const BASE_LEN: u32 = 32;
/// From this level on zstd takes long to find out that a chunk does not shrink: measured, 0.5 ms a MiB of noise at level 3,
/// 7 ms at level 6, 470 ms at level 19. Level 1 finds the same in 0.3 ms.
const SLOW_LEVEL: i32 = 5;
/// A delta this much shorter than its chunk is taken without trying what the chunk is by itself.
const CLEARLY_SHORTER: usize = 16;

pub(super) const MAGIC: &[u8; 4] = b"RSfr";

/// How a frame stores its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Raw,
    /// As one zstd frame, without dictionary.
    Zstd,
    /// As the id of another chunk and one zstd frame that has that chunk as prefix.
    Delta,
}

impl Kind {
    /// Returns the number the format has for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 1,
            Self::Zstd => 2,
            Self::Delta => 3,
        }
    }

    pub(super) const fn from_code(code: u8) -> Result<Self, Fault> {
        match code {
            1 => Ok(Self::Raw),
            2 => Ok(Self::Zstd),
            3 => Ok(Self::Delta),
            _ => Err(Fault::Kind(code)),
        }
    }
}

/// The header of a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// How the chunk is stored.
    pub kind: Kind,
    /// Bytes that follow the header.
    pub stored_len: u32,
    /// Bytes of the chunk.
    pub plain_len: u32,
    /// Which chunk.
    pub id: ChunkId,
    /// XXH3-64 of the bytes that follow.
    pub stored_sum: u64,
}

impl FrameHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// A [`Fault`] when it is not one, its checksum is wrong, or its lengths are beyond what any store may hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let fields = Fields(bytes);
        let parsed = (|| {
            Ok::<_, crate::bytes::Truncated>((
                fields.u8(4)?,
                fields.slice(5, 3)?,
                Self {
                    kind: Kind::Raw,
                    stored_len: fields.u32(8)?,
                    plain_len: fields.u32(12)?,
                    id: ChunkId(fields.array(16)?),
                    stored_sum: fields.u64(48)?,
                },
                fields.u64(56)?,
                xxh3_64(fields.slice(0, 56)?),
            ))
        })();
        let Ok((kind, zero, header, stored, found)) = parsed else { return Err(Fault::Truncated) };
        if !fields.has(0, MAGIC) {
            return Err(Fault::Magic);
        }
        if stored != found {
            return Err(Fault::Header { stored, found });
        }
        if zero != [0; 3] {
            return Err(Fault::Kind(kind));
        }
        let header = Self { kind: Kind::from_code(kind)?, ..header };
        if lengths_fit(header.kind, header.stored_len, header.plain_len) {
            Ok(header)
        } else {
            Err(Fault::Lengths { stored: header.stored_len, plain: header.plain_len })
        }
    }

    /// Returns the header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut head = Vec::with_capacity(HEADER_LEN);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&[self.kind.code(), 0, 0, 0]);
        head.extend_from_slice(&self.stored_len.to_le_bytes());
        head.extend_from_slice(&self.plain_len.to_le_bytes());
        head.extend_from_slice(&self.id.0);
        head.extend_from_slice(&self.stored_sum.to_le_bytes());
        head.extend_from_slice(&xxh3_64(&head).to_le_bytes());
        let mut out = [0; HEADER_LEN];
        out.copy_from_slice(&head);
        out
    }

    /// Checks the stored bytes against the header, without decompressing them.
    ///
    /// # Errors
    /// [`Fault::Stored`].
    pub fn check_stored(&self, stored: &[u8]) -> Result<(), Fault> {
        let found = xxh3_64(stored);
        if found == self.stored_sum { Ok(()) } else { Err(Fault::Stored { stored: self.stored_sum, found }) }
    }
}

/// Tells whether a frame of this kind may have these lengths. zstd never needs more than the chunk's own length here,
/// because a chunk that does not shrink is stored raw.
pub(super) fn lengths_fit(kind: Kind, stored: u32, plain: u32) -> bool {
    let plain_fits = plain > 0 && u64::from(plain) <= MAX_CHUNK_LEN;
    plain_fits
        && match kind {
            Kind::Raw => stored == plain,
            Kind::Zstd => stored > 0 && stored < plain,
            Kind::Delta => stored > BASE_LEN && stored < plain,
        }
}

/// A frame, ready to be put into a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    pub(super) header: FrameHeader,
    /// The chunk it is a delta to.
    pub(super) base: Option<ChunkId>,
    /// Header and stored bytes.
    pub(super) bytes: Vec<u8>,
}

impl EncodedFrame {
    /// Returns the id of the chunk in it.
    #[must_use]
    pub const fn id(&self) -> ChunkId {
        self.header.id
    }

    /// Returns how many bytes it takes in a pack, header included.
    #[expect(clippy::len_without_is_empty, reason = "a frame has a header at least")]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A chunk of the store in its plain bytes, for another to be compared with.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub plain: &'a [u8],
}

/// Makes frames. One a thread: it keeps its zstd context.
pub struct Encoder {
    level: i32,
    zstd: Compressor<'static>,
    /// Tells chunks that do not shrink from others, where `zstd` is slow to.
    quick: Option<Compressor<'static>>,
    decoder: Decoder,
    /// What zstd made of a chunk, and of it as a delta.
    packed: Vec<u8>,
    delta: Vec<u8>,
    back: Vec<u8>,
}

impl Encoder {
    /// Returns an encoder that compresses with zstd's `level`, 1 to 19.
    ///
    /// # Errors
    /// [`Error::Refused`] for another level, or when zstd gets no memory.
    pub fn new(level: i32) -> Result<Self, Error> {
        if !(1..=19).contains(&level) {
            return Err(Error::Refused(format!("compression level {level} is not one of 1 to 19")));
        }
        let start = |level| Compressor::new(level).map_err(|e| Error::Refused(format!("zstd cannot start: {e}")));
        let (zstd, quick) = (start(level)?, (level >= SLOW_LEVEL).then(|| start(1)).transpose()?);
        let (packed, delta, back) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { level, zstd, quick, decoder: Decoder::new(), packed, delta, back })
    }

    /// Makes the frame of one chunk, decodes it again and compares the result with the chunk's id.
    ///
    /// * `id`: [`ChunkId::of`] of the bytes, taken when they came from the disk.
    /// * `plain`: the chunk, 1 byte to [`MAX_CHUNK_LEN`].
    /// * `base`: a chunk that it may be much like; must not be stored as a delta itself. Where it is no help, the frame does
    ///   without it.
    ///
    /// # Errors
    /// [`Error::Memory`] when what was made does not decode to the chunk; [`Error::Refused`] for the zero chunk, which
    /// has no frame, and for a length no store has.
    pub fn encode(&mut self, id: ChunkId, plain: &[u8], base: Option<Base<'_>>) -> Result<EncodedFrame, Error> {
        let plain_len = match u32::try_from(plain.len()) {
            Ok(len) if id != ChunkId::ZERO && lengths_fit(Kind::Raw, len, len) => len,
            _ => return Err(Error::Refused(format!("chunk {id} of {} bytes has no frame", plain.len()))),
        };
        let kind = self.choose(plain, base);
        let parts: [&[u8]; 2] = match (kind, &base) {
            (Kind::Delta, Some(base)) => [&base.id.0, &self.delta],
            (Kind::Zstd, _) => [&self.packed, &[]],
            _ => [plain, &[]],
        };
        let mut bytes = Vec::with_capacity(parts.iter().fold(HEADER_LEN, |sum, part| sum.saturating_add(part.len())));
        bytes.extend_from_slice(&[0; HEADER_LEN]);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let (head, stored) = bytes.split_at_mut(HEADER_LEN);
        let stored_len = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        let header = FrameHeader { kind, stored_len, plain_len, id, stored_sum: xxh3_64(stored) };
        head.copy_from_slice(&header.to_bytes());
        let base = base.filter(|_| kind == Kind::Delta);
        // From the finished bytes, as a restore will: a wrong bit in either copy in memory shows here.
        FrameHeader::parse(head)
            .and_then(|header| self.decoder.decode(&header, stored, base, &mut self.back))
            .map_err(|fault| Error::Memory { chunk: id, fault })?;
        Ok(EncodedFrame { header, base: base.map(|base| base.id), bytes })
    }

    /// Compresses the chunk in the ways that may be worth it, and says which is the shortest.
    fn choose(&mut self, plain: &[u8], base: Option<Base<'_>>) -> Kind {
        let worth = plain.len().saturating_sub(plain.len() / 64);
        let delta = base.and_then(|base| self.try_delta(plain, base.plain, worth));
        if delta.is_some_and(|len| len <= plain.len() / CLEARLY_SHORTER) {
            return Kind::Delta;
        }
        let shrinks = match &mut self.quick {
            Some(quick) => pack(quick, plain, worth, &mut self.packed).is_some(),
            None => true,
        };
        let packed = if shrinks { pack(&mut self.zstd, plain, worth, &mut self.packed) } else { None };
        match (packed, delta) {
            (Some(packed), Some(delta)) if packed <= delta => Kind::Zstd,
            (_, Some(_)) => Kind::Delta,
            (Some(_), None) => Kind::Zstd,
            (None, None) => Kind::Raw,
        }
    }

    /// Compresses the chunk with a prefix; returns how many bytes that takes, the name of the base included, when it is
    /// less than `worth`.
    fn try_delta(&mut self, plain: &[u8], base: &[u8], worth: usize) -> Option<usize> {
        self.delta.clear();
        self.delta.reserve_exact(worth);
        // The window has to reach from the end of the chunk to the start of the base, else nothing is found. Matches at
        // long distance are looked for on their own: the low levels' match finders forget the prefix before they reach it.
        // With that, level 1 takes half the time of level 3 and finds as much: measured, 0.9 ms a MiB with 1, 4 or 16 new pages,
        // for 1.04, 1.01 and 0.98 times their length.
        let window =
            usize::BITS.saturating_sub(plain.len().saturating_add(base.len()).saturating_sub(1).leading_zeros());
        let level = if self.level < SLOW_LEVEL { 1 } else { self.level };
        let mut zstd = CCtx::create();
        let packed = zstd
            .set_parameter(CParameter::CompressionLevel(level))
            .and_then(|_| zstd.set_parameter(CParameter::WindowLog(window)))
            .and_then(|_| zstd.set_parameter(CParameter::EnableLongDistanceMatching(true)))
            .and_then(|_| zstd.ref_prefix(base))
            .and_then(|_| zstd.compress2(&mut self.delta, plain));
        let len = packed.ok()?.saturating_add(usize::try_from(BASE_LEN).ok()?);
        (len < worth).then_some(len)
    }
}

/// Compresses a chunk into `out`; returns how many bytes that takes when it is less than `worth`.
fn pack(zstd: &mut Compressor<'_>, plain: &[u8], worth: usize, out: &mut Vec<u8>) -> Option<usize> {
    out.clear();
    out.reserve_exact(worth);
    // Too little room is how zstd says that the chunk does not shrink enough; any other failure means raw as well.
    zstd.compress_to_buffer(plain, out).ok().filter(|len| *len < worth)
}

/// Takes frames apart. One a thread: it keeps its zstd context.
#[derive(Default)]
pub struct Decoder {
    zstd: Decompressor<'static>,
}

impl Decoder {
    /// Returns a decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks the stored bytes, decompresses them into `plain` and compares the result with the chunk's id.
    ///
    /// * `base`: the chunk that a delta is to; not looked at for other kinds.
    ///
    /// # Errors
    /// A [`Fault`]; `plain` is empty then.
    pub fn decode(
        &mut self,
        header: &FrameHeader,
        stored: &[u8],
        base: Option<Base<'_>>,
        plain: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let result = self.unpack(header, stored, base, plain);
        if result.is_err() {
            plain.clear();
        }
        result
    }

    fn unpack(
        &mut self,
        header: &FrameHeader,
        stored: &[u8],
        base: Option<Base<'_>>,
        plain: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        plain.clear();
        header.check_stored(stored)?;
        let plain_len = header.plain_len;
        let want = usize::try_from(plain_len).map_err(|_| Fault::Truncated)?;
        match header.kind {
            Kind::Raw => plain.extend_from_slice(stored),
            Kind::Zstd => {
                // The length was bounded when the header was parsed. zstd writes into the spare room and never beyond.
                plain.reserve_exact(want);
                self.zstd
                    .decompress_to_buffer(stored, plain)
                    .map_err(|e| Fault::Decompress { plain: plain_len, what: e.to_string() })?;
            }
            Kind::Delta => {
                let (named, packed) = split_delta(stored)?;
                let base = base.filter(|base| base.id == named).ok_or(Fault::Index)?;
                plain.reserve_exact(want);
                let mut zstd = DCtx::create();
                zstd.ref_prefix(base.plain)
                    .and_then(|_| zstd.decompress(plain, packed))
                    .map_err(|code| Fault::Decompress { plain: plain_len, what: get_error_name(code).to_owned() })?;
            }
        }
        if plain.len() != want {
            return Err(Fault::Decompress { plain: plain_len, what: format!("{} bytes came", plain.len()) });
        }
        let found = ChunkId::of(plain);
        if found == header.id { Ok(()) } else { Err(Fault::Hash { found }) }
    }
}

/// Returns the id of the base and the zstd frame in the stored bytes of a delta.
///
/// # Errors
/// [`Fault::Truncated`].
pub(super) fn split_delta(stored: &[u8]) -> Result<(ChunkId, &[u8]), Fault> {
    let (id, packed) = stored.split_first_chunk().ok_or(Fault::Truncated)?;
    Ok((ChunkId(*id), packed))
}

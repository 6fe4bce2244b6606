//! MFT records and their attributes, from bytes.
//!
//! ```text
//! record: "FILE"  4 update sequence: offset, count  16 sequence number  20 first attribute  22 flags
//!         24 bytes in use, bytes allocated  32 base record (8)  44 own number (3.1 and later)
//! attribute: type (4), length (4)  8 non-resident  9 name: length, offset  12 flags  14 instance
//!   resident:     16 length of the value (4), offset (2)
//!   non-resident: 16 first and last cluster (8 each)  32 offset of the runs  40 allocated, real, initialised size
//! ```
//!
//! The last two bytes of every 512 of a record hold a number that changes with each write; the bytes that belong there
//! stand in the update sequence array. A torn write shows by numbers that differ.
//!
//! Source: ntfs-3g, include/ntfs-3g/layout.h; Linux kernel, fs/ntfs3/ntfs.h.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::runs;
use crate::{
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Bytes between two update sequence numbers, whatever the sectors are.
const STRIDE: usize = 512;

/// Attribute types.
pub mod kind {
    #![allow(missing_docs, reason = "the format's own names")]
    pub const STANDARD_INFORMATION: u32 = 0x10;
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    pub const FILE_NAME: u32 = 0x30;
    pub const VOLUME_NAME: u32 = 0x60;
    pub const VOLUME_INFORMATION: u32 = 0x70;
    pub const DATA: u32 = 0x80;
    pub const INDEX_ROOT: u32 = 0x90;
    pub const INDEX_ALLOCATION: u32 = 0xa0;
    pub const BITMAP: u32 = 0xb0;
    pub const END: u32 = 0xffff_ffff;
}

/// Attribute flags: compressed, sparse, encrypted.
pub const TRANSFORMED: u16 = 0x00ff | 0x4000 | 0x8000;

/// File attributes in the standard information: hidden, and one of the system's.
pub const HIDDEN_SYSTEM: u32 = 0x2 | 0x4;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field lies outside.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Another magic than the one that belongs there.
    #[error("it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// The update sequence array does not fit.
    #[error("its update sequence of {count} numbers at byte {offset} does not fit {len} bytes")]
    Sequence {
        /// Where the array is said to be.
        offset: u16,
        /// How many numbers it is said to have.
        count: u16,
        /// Bytes of the record.
        len: usize,
    },
    /// A part has another update sequence number than the rest.
    #[error("a write of it was torn: the 512 bytes at {0} are of another time")]
    Torn(usize),
    /// More bytes in use than there are.
    #[error("it uses {used} bytes of {len}")]
    Used {
        /// Bytes said to be in use.
        used: u32,
        /// Bytes of the record.
        len: usize,
    },
    /// An attribute that cannot be.
    #[error("the attribute at its byte {0} does not fit")]
    Attribute(usize),
    /// Runs that cannot be.
    #[error("{0}")]
    Runs(#[from] runs::Error),
}

/// Puts back the bytes that update sequence numbers stand for.
///
/// * `magic`: what the record must begin with.
///
/// # Errors
/// [`Error::Magic`], [`Error::Sequence`] or [`Error::Torn`]; the bytes are then half put back.
pub fn unfix(record: &mut [u8], magic: &[u8; 4]) -> Result<(), Error> {
    let len = record.len();
    let f = Fields(record);
    let found = f.array(0)?;
    if found != *magic {
        return Err(Error::Magic(found));
    }
    let (offset, count) = (f.u16(4)?, f.u16(6)?);
    let strides = usize::from(count).checked_sub(1).filter(|strides| strides.checked_mul(STRIDE) == Some(len));
    let bytes = strides.map(|strides| strides.saturating_add(1).saturating_mul(2));
    // The array lies in the first part, and before that part's own number.
    let array = bytes.and_then(|bytes| f.slice(usize::from(offset), bytes).ok());
    let fits = array.filter(|array| usize::from(offset).saturating_add(array.len()) <= STRIDE.saturating_sub(2));
    let array = fits.ok_or(Error::Sequence { offset, count, len })?.to_vec();
    let (number, originals) = array.split_at_checked(2).ok_or(Error::Sequence { offset, count, len })?;
    for (index, (part, original)) in record.chunks_exact_mut(STRIDE).zip(originals.chunks_exact(2)).enumerate() {
        let torn = Error::Torn(index.saturating_mul(STRIDE));
        let last = part.get_mut(STRIDE.saturating_sub(2)..).ok_or(torn)?;
        if !right(last == number) {
            return Err(torn);
        }
        last.copy_from_slice(original);
    }
    Ok(())
}

/// An MFT record whose header was checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    used: Fields<'a>,
    first: usize,
    /// A file or folder, or a part of one, is in it.
    pub in_use: bool,
    /// How often the record was used anew.
    pub sequence: u16,
    /// How many names the file has, short ones included.
    pub links: u16,
    /// Number of the record this one continues; `None` for one that stands for itself.
    pub base: Option<u64>,
}

impl<'a> Record<'a> {
    /// Reads a record whose update sequence was put back.
    ///
    /// # Errors
    /// [`Error::Used`] and [`Error::Truncated`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        let used = f.u32(24)?;
        let len = usize::try_from(used).ok().filter(|used| *used <= bytes.len());
        let len = len.ok_or(Error::Used { used, len: bytes.len() })?;
        let base = f.u64(32)?;
        Ok(Self {
            used: Fields(f.slice(0, len)?),
            first: usize::from(f.u16(20)?),
            in_use: f.u16(22)? & 1 != 0,
            sequence: f.u16(16)?,
            links: f.u16(18)?,
            base: (base != 0).then(|| number(base)),
        })
    }

    /// Lists the attributes; after an error nothing follows.
    pub fn attributes(&self) -> impl Iterator<Item = Result<Attribute<'a>, Error>> + use<'a> {
        let (used, mut at, mut over) = (self.used, self.first, false);
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            let next = Attribute::at(used, at);
            match &next {
                Ok(Some(attribute)) => at = at.saturating_add(attribute.bytes.0.len()),
                _ => over = true,
            }
            next.transpose()
        })
    }
}

/// Returns the record number in a reference, which has a sequence number in its upper 16 bits.
#[must_use]
pub const fn number(reference: u64) -> u64 {
    reference & 0xffff_ffff_ffff
}

/// One attribute, or one piece of one.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    bytes: Fields<'a>,
    /// Its type, as in [`kind`].
    pub kind: u32,
    /// Its name in UTF-16, little endian; empty for most.
    pub name: &'a [u8],
    /// Compressed, sparse, encrypted.
    pub flags: u16,
    /// What it holds.
    pub content: Content<'a>,
}

/// What an attribute holds.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Its value.
    Resident(&'a [u8]),
    /// Where its value lies.
    Runs {
        /// First cluster of this piece in the attribute.
        first: u64,
        /// How many clusters this piece has.
        clusters: u64,
        /// Mapping pairs.
        pairs: &'a [u8],
        /// Real and initialised size in bytes; `None` in all pieces but the first.
        sizes: Option<(u64, u64)>,
    },
}

impl<'a> Attribute<'a> {
    /// Reads the attribute at `at`; `None` where the list ends.
    fn at(used: Fields<'a>, at: usize) -> Result<Option<Self>, Error> {
        let broken = Error::Attribute(at);
        let kind = used.u32(at).map_err(|_| broken)?;
        if kind == kind::END {
            return Ok(None);
        }
        let len = usize::try_from(used.u32(at.saturating_add(4))?).ok().filter(|len| *len >= 24 && len % 8 == 0);
        let bytes = Fields(used.slice(at, len.ok_or(broken)?).map_err(|_| broken)?);
        let name_len = usize::from(bytes.u8(9)?).saturating_mul(2);
        let name = if name_len == 0 { &[] } else { bytes.slice(usize::from(bytes.u16(10)?), name_len)? };
        let content = match bytes.u8(8)? {
            0 => {
                let value = usize::try_from(bytes.u32(16)?).map_err(|_| broken)?;
                Content::Resident(bytes.slice(usize::from(bytes.u16(20)?), value)?)
            }
            1 => Self::runs(bytes).ok_or(broken)?,
            _ => return Err(broken),
        };
        Ok(Some(Self { bytes, kind, name, flags: bytes.u16(12)?, content }))
    }

    fn runs(bytes: Fields<'a>) -> Option<Content<'a>> {
        let (first, last) = (bytes.u64(16).ok()?, bytes.u64(24).ok()?);
        // An attribute without clusters ends before it begins, at -1.
        let clusters = last.wrapping_add(1).checked_sub(first)?;
        let pairs = bytes.0.get(usize::from(bytes.u16(32).ok()?)..)?;
        let sizes = (first == 0).then(|| Some((bytes.u64(48).ok()?, bytes.u64(56).ok()?)));
        let sizes = if let Some(sizes) = sizes { Some(sizes?) } else { None };
        Some(Content::Runs { first, clusters, pairs, sizes })
    }

    /// Tells whether this is (a piece of) the attribute of that type and name.
    #[must_use]
    pub fn is(&self, kind: u32, name: &[u8]) -> bool {
        self.kind == kind && self.name == name
    }

    /// Returns all bytes of the attribute.
    #[must_use]
    pub const fn raw(&self) -> &'a [u8] {
        self.bytes.0
    }

    /// Returns the value of a resident attribute.
    #[must_use]
    pub const fn value(&self) -> Option<&'a [u8]> {
        match self.content {
            Content::Resident(value) => Some(value),
            Content::Runs { .. } => None,
        }
    }

    /// Returns the file attributes, where this is the standard information.
    #[must_use]
    pub fn file_attributes(&self) -> Option<u32> {
        let value = self.value().filter(|_| self.is(kind::STANDARD_INFORMATION, &[]))?;
        Fields(value).u32(32).ok()
    }

    /// Calls `each` with every run of a non-resident attribute.
    ///
    /// * `clusters`: how many the volume has.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn each_run(&self, clusters: u64, each: &mut dyn FnMut(runs::Run)) -> Result<(), runs::Error> {
        let Content::Runs { clusters: want, pairs, .. } = self.content else { return Ok(()) };
        let have = runs::decode(pairs, clusters, each)?;
        // Some writers leave the last cluster of an empty attribute at 0.
        if have == want || (have == 0 && want == 1) { Ok(()) } else { Err(runs::Error::Count { have, want }) }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
pub(super) mod tests {
    use super::*;

    /// Makes a resident attribute without a name.
    pub fn resident(kind: u32, value: &[u8]) -> Vec<u8> {
        let len = (24 + value.len()).next_multiple_of(8);
        let mut bytes = vec![0; len];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        bytes[20] = 24;
        bytes[24..24 + value.len()].copy_from_slice(value);
        bytes
    }

    /// Makes a piece of a non-resident attribute without a name.
    pub fn non_resident(kind: u32, first: u64, clusters: u64, pairs: &[u8], size: u64) -> Vec<u8> {
        let len = (64 + pairs.len()).next_multiple_of(8);
        let mut bytes = vec![0; len];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        bytes[8] = 1;
        bytes[16..24].copy_from_slice(&first.to_le_bytes());
        bytes[24..32].copy_from_slice(&(first + clusters).wrapping_sub(1).to_le_bytes());
        bytes[32] = 64;
        for at in [40, 48, 56] {
            bytes[at..at + 8].copy_from_slice(&size.to_le_bytes());
        }
        bytes[64..64 + pairs.len()].copy_from_slice(pairs);
        bytes
    }

    /// Makes a record in use of 1024 bytes with update sequence numbers.
    pub fn record(base: u64, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..8].copy_from_slice(b"FILE\x30\0\x03\0");
        (bytes[16], bytes[20], bytes[22]) = (1, 56, 1);
        bytes[32..40].copy_from_slice(&base.to_le_bytes());
        let all = [attributes.concat(), vec![0xff; 4], vec![0; 4]].concat();
        bytes[56..56 + all.len()].copy_from_slice(&all);
        bytes[24..28].copy_from_slice(&u32::try_from(56 + all.len()).unwrap().to_le_bytes());
        fix(&mut bytes);
        bytes
    }

    /// Puts update sequence numbers in.
    pub fn fix(bytes: &mut [u8]) {
        let at = usize::from(bytes[4]);
        bytes[at..at + 2].copy_from_slice(&[7, 7]);
        for part in 0..bytes.len() / 512 {
            let last = part * 512 + 510;
            let original = [bytes[last], bytes[last + 1]];
            bytes[at + 2 + part * 2..at + 4 + part * 2].copy_from_slice(&original);
            bytes[last..last + 2].copy_from_slice(&[7, 7]);
        }
    }

    #[test]
    fn attributes_are_listed_behind_the_fixups() {
        let long = (0u8..=255).cycle().take(600).collect::<Vec<_>>();
        let data = non_resident(kind::DATA, 0, 3, &[0x11, 3, 9, 0], 1500);
        let mut bytes = record(0, &[resident(kind::FILE_NAME, &long), data]);
        assert_ne!(bytes[510], 0);
        unfix(&mut bytes, b"FILE").unwrap();
        let record = Record::parse(&bytes).unwrap();
        let all = record.attributes().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(all.iter().map(|a| a.kind).collect::<Vec<_>>(), [kind::FILE_NAME, kind::DATA]);
        assert_eq!(all[0].value(), Some(&long[..]));
        let mut runs = Vec::new();
        all[1].each_run(100, &mut |run| runs.push(run)).unwrap();
        assert_eq!(runs, [runs::Run { start: Some(9), len: 3 }]);
        assert_eq!(all[1].each_run(11, &mut |_| ()), Err(runs::Error::Outside));
        assert!(matches!(all[1].content, Content::Runs { sizes: Some((1500, 1500)), .. }));
        assert!(record.in_use && record.base.is_none());
    }

    #[test]
    fn each_defect_is_one_error() {
        let good = record(5, &[resident(kind::FILE_NAME, b"abc")]);
        let fixed = |patch: &[(usize, u8)]| {
            let mut bytes = good.clone();
            patch.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            let out = unfix(&mut bytes, b"FILE").map(|()| bytes.clone());
            out.and_then(|bytes| Record::parse(&bytes)?.attributes().try_for_each(|a| a.map(|_| ())))
        };
        assert_eq!(fixed(&[]), Ok(()));
        for (name, patch, want) in [
            ("magic", vec![(0, b'B')], Error::Magic(*b"BILE")),
            ("torn", vec![(1023, 8)], Error::Torn(512)),
            ("count", vec![(6, 2)], Error::Sequence { offset: 48, count: 2, len: 1024 }),
            ("place", vec![(5, 2)], Error::Sequence { offset: 560, count: 3, len: 1024 }),
            ("used", vec![(25, 9)], Error::Used { used: 2304 + 96, len: 1024 }),
            ("attribute too long", vec![(60, 0xf8)], Error::Attribute(56)),
            ("attribute too short", vec![(60, 16)], Error::Attribute(56)),
            ("odd attribute", vec![(60, 33)], Error::Attribute(56)),
            ("neither resident nor not", vec![(64, 2)], Error::Attribute(56)),
            ("list not ended", vec![(24, 88)], Error::Attribute(88)),
            ("value outside", vec![(72, 99)], Error::Truncated(Truncated { offset: 24, len: 99, have: 32 })),
        ] {
            assert_eq!(fixed(&patch), Err(want), "{name}");
        }
    }
}

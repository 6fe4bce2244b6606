//! Directories of exFAT: sets of 32-byte entries.
//!
//! ```text
//! entry: 0 type: 80 in use, 40 secondary, 20 benign; 0 ends the directory
//! 81 allocation bitmap:  1 flags (1: the second)  20 first cluster  24 length
//! 82 up-case table:      4 checksum  20 first cluster  24 length
//! 83 label:              1 characters  2 text
//! 85 file:               1 entries that follow  2 checksum of the set  4 attributes
//! c0 stream extension:   1 flags: 1 has clusters, 2 contiguous   8 valid length  20 first cluster  24 length
//! c1 name                e0 vendor extension   e1 vendor allocation: as the stream extension
//! ```
//!
//! Source: Microsoft, exFAT file system specification, sections 6 and 7.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::fat::Place;
use crate::{
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Bytes in an entry.
pub const LEN: usize = 32;
const IN_USE: u8 = 0x80;
const SECONDARY: u8 = 0x40;
const BENIGN: u8 = 0x20;
const NAME: u8 = 0xc1;
const STREAM: u8 = 0xc0;
const VENDOR: u8 = 0xe0;
const DIRECTORY: u16 = 0x10;

/// Why a directory cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few bytes.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The entries of a set are not all there.
    #[error("a set of entries is cut short")]
    Cut,
    /// A secondary entry that belongs to nothing.
    #[error("an entry of type {0:#04x} belongs to no set")]
    Stray(u8),
    /// The checksum of a set does not match.
    #[error("the checksum of a set of entries is {stored:#06x}, its bytes give {computed:#06x}")]
    Checksum {
        /// On disk.
        stored: u16,
        /// From the bytes.
        computed: u16,
    },
    /// A file without a stream extension behind its first entry.
    #[error("a file has no stream extension")]
    NoStream,
    /// A critical entry that the specification does not have.
    #[error("it has a critical entry of the unknown type {0:#04x}")]
    Unknown(u8),
}

/// What a directory names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// An allocation bitmap: 0 the first, 1 the second.
    Bitmap(u8, Place),
    /// The up-case table with its checksum.
    Upcase(u32, Place),
    /// The clusters of a file.
    File(Place),
    /// The clusters of a directory.
    Directory(Place),
}

/// What of a set has been read so far.
struct Set {
    left: u8,
    stored: u16,
    computed: u16,
    directory: bool,
    stream: bool,
    items: Vec<Item>,
}

/// Reads entries one after another, across the borders of clusters.
#[derive(Default)]
pub struct Sets {
    open: Option<Set>,
    /// Secondary entries of a benign entry that nobody needs to know are passed over.
    ignoring: bool,
}

impl Sets {
    /// Takes one entry and calls `each` with what it, or the set it ends, names; `false` at the end of the directory.
    ///
    /// * `entry`: 32 bytes.
    ///
    /// # Errors
    /// [`Error`]: then entries cannot be told apart any more.
    pub fn push(&mut self, entry: &[u8], each: &mut dyn FnMut(Item)) -> Result<bool, Error> {
        let f = Fields(entry);
        let kind = f.u8(0)?;
        if kind & IN_USE == 0 || kind & SECONDARY == 0 {
            if self.open.is_some() {
                return Err(Error::Cut);
            }
            self.ignoring = false;
            if kind & IN_USE != 0 {
                self.primary(kind, f, each)?;
            }
            return Ok(kind != 0);
        }
        match &mut self.open {
            Some(set) => set.secondary(kind, f)?,
            None if self.ignoring => return Ok(true),
            None => return Err(Error::Stray(kind)),
        }
        if let Some(set) = self.open.take_if(|set| set.left == 0) {
            set.finish()?.into_iter().for_each(each);
        }
        Ok(true)
    }

    /// Tells that the directory's clusters are at their end.
    ///
    /// # Errors
    /// [`Error::Cut`] when a set is not.
    pub const fn end(&self) -> Result<(), Error> {
        if self.open.is_some() { Err(Error::Cut) } else { Ok(()) }
    }

    fn primary(&mut self, kind: u8, f: Fields<'_>, each: &mut dyn FnMut(Item)) -> Result<(), Error> {
        let place = || Ok::<_, Error>(Place { first: u64::from(f.u32(20)?), len: f.u64(24)?, contiguous: false });
        match kind {
            0x81 => each(Item::Bitmap(f.u8(1)? & 1, place()?)),
            0x82 => each(Item::Upcase(f.u32(4)?, place()?)),
            0x83 => {}
            0x85 => {
                let left = f.u8(1)?;
                if left == 0 {
                    return Err(Error::NoStream);
                }
                self.open = Some(Set {
                    left,
                    stored: f.u16(2)?,
                    computed: sum(f.slice(4, 28)?, sum(f.slice(0, 2)?, 0)),
                    directory: f.u16(4)? & DIRECTORY != 0,
                    stream: false,
                    items: Vec::new(),
                });
            }
            _ if kind & BENIGN != 0 => self.ignoring = true,
            _ => return Err(Error::Unknown(kind)),
        }
        Ok(())
    }
}

impl Set {
    fn secondary(&mut self, kind: u8, f: Fields<'_>) -> Result<(), Error> {
        self.left = self.left.saturating_sub(1);
        self.computed = sum(f.slice(0, LEN)?, self.computed);
        let flags = f.u8(1)?;
        let place = Place { first: u64::from(f.u32(20)?), len: f.u64(24)?, contiguous: flags & 2 != 0 };
        match kind {
            STREAM if !self.stream => {
                self.stream = true;
                if flags & 1 != 0 && (place.first != 0 || place.len != 0) {
                    self.items.push(if self.directory { Item::Directory(place) } else { Item::File(place) });
                }
            }
            // Whatever must come first; a second stream extension is none.
            _ if !self.stream || kind == STREAM => return Err(Error::NoStream),
            NAME | VENDOR => {}
            _ if flags & 1 != 0 && (place.first != 0 || place.len != 0) => self.items.push(Item::File(place)),
            _ if kind & BENIGN != 0 => {}
            _ => return Err(Error::Unknown(kind)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Item>, Error> {
        if !right(self.computed == self.stored) {
            return Err(Error::Checksum { stored: self.stored, computed: self.computed });
        }
        Ok(self.items)
    }
}

/// Goes on with the checksum of a set of entries.
fn sum(bytes: &[u8], start: u16) -> u16 {
    bytes.iter().fold(start, |sum, byte| sum.rotate_right(1).wrapping_add(u16::from(*byte)))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::*;

    fn entry(kind: u8, fields: &[(usize, &[u8])]) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0] = kind;
        fields.iter().for_each(|(at, value)| bytes[*at..*at + value.len()].copy_from_slice(value));
        bytes
    }

    /// A file or directory with one name entry, in 2000 contiguous bytes from cluster 9 on.
    fn set(attributes: u8) -> Vec<[u8; 32]> {
        let stream = entry(0xc0, &[(1, &[3]), (20, &[9]), (24, &[0xd0, 7])]);
        seal(vec![entry(0x85, &[(1, &[2]), (4, &[attributes])]), stream, entry(0xc1, &[(2, b"A\0")])])
    }

    fn seal(mut set: Vec<[u8; 32]>) -> Vec<[u8; 32]> {
        set[0][1] = u8::try_from(set.len() - 1).unwrap();
        let all = set.concat();
        let checksum = sum(&all[4..], sum(&all[..2], 0));
        set[0][2..4].copy_from_slice(&checksum.to_le_bytes());
        set
    }

    fn items(entries: &[[u8; 32]]) -> Result<Vec<Item>, Error> {
        let (mut sets, mut found) = (Sets::default(), Vec::new());
        for entry in entries {
            if !sets.push(entry, &mut |item| found.push(item))? {
                return Ok(found);
            }
        }
        sets.end().map(|()| found)
    }

    #[test]
    fn sets_name_what_lies_in_clusters() {
        let place = Place { first: 9, len: 2000, contiguous: true };
        assert_eq!(items(&set(0)), Ok(vec![Item::File(place)]));
        assert_eq!(items(&set(0x10)), Ok(vec![Item::Directory(place)]));
        let root = [
            entry(0x83, &[(1, &[1])]),
            entry(0x81, &[(1, &[1]), (20, &[2]), (24, &[7])]),
            entry(0x05, &[]),
            entry(0x82, &[(4, &[1, 2]), (20, &[3]), (24, &[8])]),
            entry(0xa0, &[]),
            entry(0, &[]),
            entry(0xff, &[]),
        ];
        let chain = |first, len| Place { first, len, contiguous: false };
        assert_eq!(items(&root), Ok(vec![Item::Bitmap(1, chain(2, 7)), Item::Upcase(0x201, chain(3, 8))]));
        let mut more = set(0);
        more.push(entry(0xe1, &[(1, &[1]), (20, &[7]), (24, &[5])]));
        assert_eq!(items(&seal(more)), Ok(vec![Item::File(place), Item::File(chain(7, 5))]));
        let benign = [vec![entry(0xa5, &[]), entry(0xe5, &[(1, &[1])])], set(0)].concat();
        assert_eq!(items(&benign), Ok(vec![Item::File(place)]));
    }

    #[test]
    fn what_is_no_set_is_an_error() {
        let changed = |number: usize, at: usize, value: u8| {
            let mut set = set(0);
            set[number][at] = value;
            set
        };
        assert_eq!(items(&set(0)[..2]), Err(Error::Cut));
        assert_eq!(items(&[&set(0)[..2], &set(0)].concat()), Err(Error::Cut));
        assert_eq!(items(&set(0)[1..]), Err(Error::Stray(0xc0)));
        assert!(matches!(items(&changed(1, 25, 9)), Err(Error::Checksum { .. })));
        assert_eq!(items(&changed(1, 0, 0xc1)), Err(Error::NoStream));
        assert_eq!(items(&changed(2, 0, 0xc0)), Err(Error::NoStream));
        assert_eq!(items(&changed(0, 1, 0)), Err(Error::NoStream));
        assert_eq!(items(&changed(0, 0, 0x86)), Err(Error::Unknown(0x86)));
        assert_eq!(items(&changed(2, 0, 0xc2)), Err(Error::Unknown(0xc2)));
        assert_eq!(items(&[[0x85; 32].map(|_| 0x85)]), Err(Error::Cut));
    }
}

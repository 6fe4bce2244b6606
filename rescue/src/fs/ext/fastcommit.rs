//! Fast commits: what has changed since the last transaction, in the last blocks of the journal.
//!
//! ```text
//! block: tags, little endian:  0 tag  2 length  4 value
//! tag:   1 add range: inode, extent (12)   2 del range   3 create  4 link  5 unlink   6 inode: number, inode
//!        7 padding   8 tail: transaction, checksum   9 head: features, transaction
//! ```
//!
//! A replay reads the tags behind a head for as long as they make sense, and puts ranges and inodes back. We do not ask
//! how far it gets: every range that any tag of any block names is kept. What else a replay needs it takes from free
//! blocks, which it writes before it reads them.
//!
//! Source: Linux kernel, fs/ext4/fast_commit.h, and `ext4_fc_replay_scan` for what a replay reads.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume,
    inode::{Inode, Lister, Run},
};
use crate::{bytes::Fields, extent::Extent};

const ADD_RANGE: u16 = 1;
const INODE: u16 = 6;
const LAST_TAG: u16 = 9;
/// Tree blocks read for all inodes together.
const BUDGET: u64 = 1 << 14;
/// Extents longer than this are unwritten; their length is what exceeds it.
const UNWRITTEN: u64 = 32768;

/// Lists the bytes that fast commits may make part of files.
pub(super) struct Ranges<'v, 'a> {
    volume: &'v Volume<'a>,
    lister: Lister<'v, 'a>,
}

impl<'v, 'a> Ranges<'v, 'a> {
    pub(super) const fn new(volume: &'v Volume<'a>) -> Self {
        Self { volume, lister: Lister::new(volume, BUDGET) }
    }

    /// Adds what the tags in one block of the journal name to `found`.
    pub(super) fn block(&mut self, bytes: &[u8], found: &mut Vec<Extent>) {
        let mut rest = bytes;
        // A tag has at least its own four bytes.
        while let Some((tag, value, behind)) = next_tag(rest) {
            match tag {
                ADD_RANGE => self.range(value, found),
                INODE => self.inode(value, found),
                _ => {}
            }
            rest = behind;
        }
    }

    fn range(&self, value: &[u8], found: &mut Vec<Extent>) {
        let f = Fields(value);
        let (Ok(len), Ok(high), Ok(low)) = (f.u16(8), f.u16(10), f.u32(12)) else { return };
        let len = u64::from(len);
        let len = if len > UNWRITTEN { len.saturating_sub(UNWRITTEN) } else { len };
        let start = u64::from(high) << 32 | u64::from(low);
        // What is left over from earlier commits may be of another file system; no replay can use it.
        if self.volume.holds(start, len) {
            found.push(self.volume.geometry.bytes(start, start.saturating_add(len)));
        }
    }

    fn inode(&mut self, value: &[u8], found: &mut Vec<Extent>) {
        let raw = value.get(4..).unwrap_or_default();
        let Ok(inode) = Inode::parse(raw, self.volume.wide()) else { return };
        let geometry = &self.volume.geometry;
        // A replay takes the extents from the ranges; those here may be half of the truth, and only add.
        let _ = self.lister.list(&inode, &mut |run: Run| {
            found.push(geometry.bytes(run.start, run.start.saturating_add(run.len)));
        });
    }
}

/// Returns the first tag, its value, and what lies behind it.
fn next_tag(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let f = Fields(bytes);
    let tag = f.u16(0).ok().filter(|tag| (1..=LAST_TAG).contains(tag))?;
    let len = usize::from(f.u16(2).ok()?);
    let value = f.slice(4, len).ok()?;
    Some((tag, value, bytes.get(len.checked_add(4)?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_far_as_they_make_sense() {
        let bytes = [9, 0, 2, 0, 7, 7, 7, 0, 0, 0, 1, 0, 200, 0, 1];
        let (tag, value, rest) = next_tag(&bytes).unwrap();
        assert_eq!((tag, value), (9, &[7, 7][..]));
        let (tag, value, rest) = next_tag(rest).unwrap();
        assert_eq!((tag, value), (7, &[][..]));
        assert_eq!(next_tag(rest), None, "a value that ends behind the block");
        assert_eq!(next_tag(&[0, 0, 0, 0]), None, "no tag");
        assert_eq!(next_tag(&[10, 0, 0, 0]), None, "an unknown tag");
        assert_eq!(next_tag(&[]), None);
    }
}

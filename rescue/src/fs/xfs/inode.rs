//! Inodes: which blocks a file uses.
//!
//! ```text
//!   0 magic "IN", mode, version, format of the data fork  24 extents (64 bits), where flags 2 say so
//!  76 extents, of attributes  82 attribute fork (in 8 bytes), its format  90 flags
//! 100 checksum  120 flags 2  152 inode number, UUID              (version 3 from 100)
//! 100 or 176 data fork, then attribute fork: extents of 16 bytes, or the root of a tree of them
//! extent: 1 bit unwritten, 54 file block, 52 block, 21 blocks
//! ```
//!
//! Big endian, but for the checksum. Source: Linux kernel, fs/xfs/libxfs/xfs_format.h, `struct xfs_dinode`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume,
    superblock::{Geometry, checksum},
};
use crate::{
    bytes::{Fields, Truncated},
    extent::Extent,
    fs::checked::right,
};

const EXTENTS: u8 = 2;
const BTREE: u8 = 3;
/// Inodes of version 3: flags 2 say that extent counters are wide.
const WIDE_COUNTERS: u64 = 1 << 4;
/// The blocks of the file are on the realtime device.
const REALTIME: u16 = 1;
const MAX_LEVEL: u16 = 9;

/// Why the blocks of an inode cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It contradicts itself or its file system.
    #[error("it is broken")]
    Broken,
    /// A block of its tree has a bad sector.
    #[error("its tree cannot be read")]
    Unreadable,
    /// More tree blocks than are read.
    #[error("its tree is too large")]
    Budget,
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::Broken
    }
}

/// Tells whether `bytes` are inode `number` and undamaged, as far as can be told.
#[must_use]
pub fn intact(bytes: &[u8], number: u64, geometry: &Geometry) -> bool {
    let f = Fields(bytes);
    let version = f.u8(4);
    if !geometry.v5 {
        return f.has(0, b"IN") && (version == Ok(1) || version == Ok(2));
    }
    f.has(0, b"IN")
        && version == Ok(3)
        && f.u64_be(152) == Ok(number)
        && f.array(160) == Ok(geometry.uuid)
        && right(f.u32(100) == Ok(checksum(bytes, 100)))
}

/// One of the two forks of an inode.
struct Fork<'a> {
    format: u8,
    bytes: &'a [u8],
    extents: u64,
    /// Whether its extents are on another device.
    elsewhere: bool,
}

/// Returns the forks of the inode in `bytes`.
fn forks(bytes: &[u8]) -> Result<Vec<Fork<'_>>, Error> {
    let f = Fields(bytes);
    let version = f.u8(4)?;
    let core = if version >= 3 { 176 } else { 100 };
    let literal = bytes.get(core..).ok_or(Error::Broken)?;
    let wide = version >= 3 && f.u64_be(120)? & WIDE_COUNTERS != 0;
    let (data, attributes) = if wide {
        (f.u64_be(24)?, u64::from(f.u32_be(76)?))
    } else {
        (u64::from(f.u32_be(76)?), u64::from(f.u16_be(80)?))
    };
    let (offset, flags) = (usize::from(f.u8(82)?).saturating_mul(8), f.u16_be(90)?);
    if offset >= literal.len() {
        return Err(Error::Broken);
    }
    let (first, second) =
        if offset == 0 { (literal, None) } else { (literal.get(..offset).unwrap_or(&[]), literal.get(offset..)) };
    let mut out = vec![Fork { format: f.u8(5)?, bytes: first, extents: data, elsewhere: flags & REALTIME != 0 }];
    let format = f.u8(83)?;
    out.extend(second.map(|bytes| Fork { format, bytes, extents: attributes, elsewhere: false }));
    Ok(out)
}

/// Lists the blocks of inodes, reading a bounded number of tree blocks.
pub struct Lister<'v, 'a> {
    volume: &'v Volume<'a>,
    budget: u64,
}

/// What is checked from one leaf of a tree to the next.
struct Order {
    /// File block behind the last extent.
    next: u64,
    extents: u64,
}

impl<'v, 'a> Lister<'v, 'a> {
    /// Reads at most `budget` tree blocks.
    pub(super) const fn new(volume: &'v Volume<'a>, budget: u64) -> Self {
        Self { volume, budget }
    }

    /// Calls `each` with every run of bytes that the inode in `bytes` uses, its tree included.
    ///
    /// # Errors
    /// [`Error`]; `each` has seen what was found until then.
    pub fn list(&mut self, number: u64, bytes: &[u8], each: &mut impl FnMut(Extent)) -> Result<(), Error> {
        let mut result = Ok(());
        for fork in forks(bytes)? {
            result = result.and(self.fork(number, &fork, each));
        }
        result
    }

    fn fork(&mut self, number: u64, fork: &Fork<'_>, each: &mut impl FnMut(Extent)) -> Result<(), Error> {
        let mut order = Order { next: 0, extents: 0 };
        match fork.format {
            EXTENTS => {
                let count = usize::try_from(fork.extents).map_err(|_| Error::Broken)?;
                let records = Fields(fork.bytes).slice(0, count.checked_mul(16).ok_or(Error::Broken)?)?;
                self.records(records, fork.elsewhere, &mut order, each)
            }
            BTREE => {
                let f = Fields(fork.bytes);
                let (level, count) = (f.u16_be(0)?, usize::from(f.u16_be(2)?));
                let most = fork.bytes.len().saturating_sub(4) / 16;
                if level == 0 || level > MAX_LEVEL || count == 0 || count > most {
                    return Err(Error::Broken);
                }
                let at = most.saturating_mul(8).saturating_add(4);
                let children = f.slice(at, count.saturating_mul(8))?;
                self.children(number, children, level, fork.elsewhere, &mut order, each)?;
                if order.extents == fork.extents { Ok(()) } else { Err(Error::Broken) }
            }
            // Small contents, device numbers, and the trees of a realtime device lie in no block of their own here.
            _ => Ok(()),
        }
    }

    fn records(
        &self,
        records: &[u8],
        elsewhere: bool,
        order: &mut Order,
        each: &mut impl FnMut(Extent),
    ) -> Result<(), Error> {
        for record in records.as_chunks::<16>().0 {
            let f = Fields(record);
            let (high, low) = (f.u64_be(0)?, f.u64_be(8)?);
            let file = (high >> 9) & ((1 << 54) - 1);
            let (block, len) = ((high & 0x1ff) << 43 | low >> 21, low & 0x1f_ffff);
            if file < order.next || len == 0 {
                return Err(Error::Broken);
            }
            order.next = file.saturating_add(len);
            order.extents = order.extents.saturating_add(1);
            if !elsewhere {
                each(self.volume.geometry.run(block, len).ok_or(Error::Broken)?);
            }
        }
        Ok(())
    }

    fn children(
        &mut self,
        number: u64,
        children: &[u8],
        level: u16,
        elsewhere: bool,
        order: &mut Order,
        each: &mut impl FnMut(Extent),
    ) -> Result<(), Error> {
        let level = level.checked_sub(1).ok_or(Error::Broken)?;
        for child in children.as_chunks::<8>().0 {
            let place = self.volume.geometry.run(u64::from_be_bytes(*child), 1).ok_or(Error::Broken)?;
            each(place);
            self.budget = self.budget.checked_sub(1).ok_or(Error::Budget)?;
            let mut bytes = vec![0; usize::try_from(place.len()).unwrap_or(0)];
            self.volume.region.read_exact_at(&mut bytes, place.start).map_err(|_| Error::Unreadable)?;
            let body = self.node(number, &bytes, place.start, level)?;
            if level == 0 {
                self.records(body, elsewhere, order, each)?;
            } else {
                self.children(number, body, level, elsewhere, order, each)?;
            }
        }
        Ok(())
    }

    /// Checks a block of a tree and returns its records, or the numbers of its children.
    fn node<'b>(&self, number: u64, bytes: &'b [u8], offset: u64, level: u16) -> Result<&'b [u8], Error> {
        let (f, geometry) = (Fields(bytes), &self.volume.geometry);
        let count = usize::from(f.u16_be(6)?);
        let (magic, start) = if geometry.v5 { (b"BMA3", 72) } else { (b"BMAP", 24) };
        let own = f.has(0, magic) && f.u16_be(4)? == level && count > 0;
        let placed = !geometry.v5
            || (f.u64_be(24)? == offset >> 9
                && f.array(40)? == geometry.uuid
                && f.u64_be(56)? == number
                && right(f.u32(64)? == checksum(bytes, 64)));
        if !own || !placed {
            return Err(Error::Broken);
        }
        let most = bytes.len().saturating_sub(start) / 16;
        if count > most {
            return Err(Error::Broken);
        }
        let (at, size) = if level == 0 { (start, 16usize) } else { (start.saturating_add(most.saturating_mul(8)), 8) };
        Ok(f.slice(at, count.saturating_mul(size))?)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test's own making")]
mod tests {
    use super::*;
    use crate::fs::xfs::testing::{node, with_volume};

    /// An extent: file block, group and block in it, length.
    fn extent(file: u64, group: u64, block: u64, len: u64) -> Vec<u8> {
        let block = group << 10 | block;
        [(file << 9 | block >> 43).to_be_bytes(), (block << 21 | len).to_be_bytes()].concat()
    }

    /// An inode of 256 bytes and version 2 whose data fork has `format` and begins with `fork`.
    fn inode(format: u8, extents: u8, fork: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 256];
        out[..6].copy_from_slice(&[b'I', b'N', 0x81, 0xa4, 2, format]);
        out[79] = extents;
        out[100..][..fork.len()].copy_from_slice(fork);
        out
    }

    fn list(bytes: &[u8], tree: &[(usize, Vec<u8>)], budget: u64) -> (Result<(), Error>, Vec<(u64, u64)>) {
        let mut disk = vec![0; 3500 * 4096];
        for (block, bytes) in tree {
            disk[block * 4096..][..4096].copy_from_slice(bytes);
        }
        with_volume(disk, |volume| {
            let mut found = Vec::new();
            let mut each = |run: Extent| found.push((run.start / 4096, run.end / 4096));
            let result = Lister::new(volume, budget).list(1, bytes, &mut each);
            (result, found)
        })
    }

    #[test]
    fn extents_lie_in_the_inode() {
        let two = [extent(0, 0, 50, 3), extent(9, 3, 490, 10)].concat();
        let mut plain = inode(EXTENTS, 2, &two);
        assert_eq!(list(&plain, &[], 0), (Ok(()), vec![(50, 53), (3490, 3500)]));
        // The attribute fork, 64 bytes on, has another.
        plain[81] = 1;
        plain[82..84].copy_from_slice(&[8, EXTENTS]);
        plain[164..180].copy_from_slice(&extent(0, 1, 0, 1));
        assert_eq!(list(&plain, &[], 0), (Ok(()), vec![(50, 53), (3490, 3500), (1000, 1001)]));
        plain[91] = 1;
        assert_eq!(list(&plain, &[], 0), (Ok(()), vec![(1000, 1001)]), "data on the realtime device");
        for (format, name) in [(0, "device"), (1, "small contents"), (5, "trees of the realtime device")] {
            assert_eq!(list(&inode(format, 2, &two), &[], 0), (Ok(()), vec![]), "{name}");
        }
    }

    #[test]
    fn impossible_extents_are_errors() {
        for (name, bytes) in [
            ("out of order", inode(EXTENTS, 2, &[extent(4, 0, 50, 3), extent(6, 0, 60, 1)].concat())),
            ("behind the group", inode(EXTENTS, 1, &extent(0, 3, 499, 2))),
            ("empty", inode(EXTENTS, 1, &extent(0, 0, 50, 0))),
            ("more than fit", inode(EXTENTS, 10, &[])),
            ("a tree without levels", inode(BTREE, 1, &[0, 0, 0, 1])),
            ("a tree of many levels", inode(BTREE, 1, &[0, 99, 0, 1])),
            ("a tree without children", inode(BTREE, 1, &[0, 1, 0, 0])),
        ] {
            assert_eq!(list(&bytes, &[], 9).0, Err(Error::Broken), "{name}");
        }
    }

    #[test]
    fn large_files_have_trees() {
        // The root has room for nine children; the second word of a tree block of a file is half a neighbour.
        let mut root = vec![0, 1, 0, 1];
        root.extend([0; 72]);
        root.extend((1u64 << 10 | 7).to_be_bytes());
        let words =
            |bytes: Vec<u8>| bytes.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect::<Vec<_>>();
        let records = [vec![0; 8], extent(0, 0, 50, 3), extent(9, 2, 0, 1)].concat();
        let leaf = node(b"BMAP", 0, 2, [u32::MAX; 2], &words(records));
        let tree = vec![(1007, leaf)];
        let want = vec![(1007, 1008), (50, 53), (2000, 2001)];
        assert_eq!(list(&inode(BTREE, 2, &root), &tree, 1), (Ok(()), want.clone()));
        assert_eq!(list(&inode(BTREE, 3, &root), &tree, 1), (Err(Error::Broken), want), "another count");
        assert_eq!(list(&inode(BTREE, 2, &root), &tree, 0).0, Err(Error::Budget));
        assert_eq!(list(&inode(BTREE, 2, &root), &[], 1).0, Err(Error::Broken), "no tree there");
    }
}

//! Tree blocks: checked, and walked in the order of their keys.
//!
//! ```text
//! header:  0 checksum    32 fsid    48 own logical address    56 flags    80 generation    88 owner
//!         96 items    100 level    101 …
//! level 0: per item   0 key    17 place of its data behind the header    21 length     25
//! above:   per child  0 key    17 logical address    25 generation                     33
//! key:      0 object    8 type    9 offset    17
//! ```
//!
//! A child's keys lie between its own and its neighbour's, and it is one level lower than its parent: so a walk
//! enters no block twice, however the tree was damaged, and ends.
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `struct btrfs_header`; fs/btrfs/tree-checker.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Volume, superblock::MAX_LEVEL};
use crate::{
    bytes::{Fields, Truncated},
    extent::Extent,
};

const HEADER: usize = 101;
const ITEM: usize = 25;
const CHILD: usize = 33;

/// Where an item stands in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// What it is about: an inode, a logical address, a tree.
    pub object: u64,
    /// What kind of item it is.
    pub kind: u8,
    /// Which of several, or a length.
    pub offset: u64,
}

/// The types of items that are read, by the kernel's names.
pub mod kind {
    #![expect(missing_docs, reason = "the names are the kernel's")]
    pub const EXTENT_DATA: u8 = 108;
    pub const EXTENT_CSUM: u8 = 128;
    pub const ROOT_ITEM: u8 = 132;
    pub const EXTENT_ITEM: u8 = 168;
    pub const METADATA_ITEM: u8 = 169;
    pub const BLOCK_GROUP_ITEM: u8 = 192;
    pub const FREE_SPACE_EXTENT: u8 = 199;
    pub const FREE_SPACE_BITMAP: u8 = 200;
    pub const DEV_EXTENT: u8 = 204;
    pub const DEV_ITEM: u8 = 216;
    pub const CHUNK_ITEM: u8 = 228;
    pub const PERSISTENT_ITEM: u8 = 249;
    pub const TEMPORARY_ITEM: u8 = 248;
}

impl Key {
    /// Before all others.
    pub const MIN: Self = Self { object: 0, kind: 0, offset: 0 };

    /// Reads the key at `at`.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn parse(f: Fields<'_>, at: usize) -> Result<Self, Truncated> {
        let own = Fields(f.slice(at, 17)?);
        Ok(Self { object: own.u64(0)?, kind: own.u8(8)?, offset: own.u64(9)? })
    }
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Logical address of its first block.
    pub logical: u64,
    /// When that was written.
    pub generation: u64,
    /// Levels below it.
    pub level: u8,
}

/// A tree block as its parent describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The first key it may have.
    pub from: Key,
    /// The key it may not reach; `None` for the last.
    pub to: Option<Key>,
    /// Its logical address.
    pub logical: u64,
    /// When it was written.
    pub generation: u64,
    /// Levels below it.
    pub level: u8,
    /// The tree it belongs to, where no other may share it.
    pub owner: Option<u64>,
}

impl Pointer {
    /// Points to the root of a tree, of which other trees have no part if `owner` is given.
    #[must_use]
    pub const fn to_root(root: &Root, owner: Option<u64>) -> Self {
        let Root { logical, generation, level } = *root;
        Self { from: Key::MIN, to: None, logical, generation, level, owner }
    }

    /// Returns the logical bytes of the block.
    #[must_use]
    pub const fn extent(&self, nodesize: u32) -> Extent {
        Extent::new(self.logical, self.logical.saturating_add(nodesize as u64))
    }
}

/// Why a tree block could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No chunk has its address.
    #[error("no chunk holds logical byte {0:#x}")]
    NoChunk(u64),
    /// It is on another device.
    #[error("tree block {0:#x} is on another device")]
    Elsewhere(u64),
    /// A bad sector.
    #[error("tree block {logical:#x} at byte {offset:#x} cannot be read")]
    Unreadable {
        /// Its logical address.
        logical: u64,
        /// Its place on this device.
        offset: u64,
    },
    /// Its bytes are not what was written.
    #[error("the checksum of tree block {logical:#x} at byte {offset:#x} is wrong")]
    Checksum {
        /// Its logical address.
        logical: u64,
        /// Its place on this device.
        offset: u64,
    },
    /// It is another block, an older one, or one of another file system.
    #[error("tree block {logical:#x} has {what} {have:#x} in place of {want:#x}")]
    Wrong {
        /// Its logical address.
        logical: u64,
        /// The field.
        what: &'static str,
        /// What it says.
        have: u64,
        /// What was expected.
        want: u64,
    },
    /// Its keys or items contradict each other.
    #[error("the items of tree block {logical:#x} contradict each other: item {item} of {items}")]
    Items {
        /// Its logical address.
        logical: u64,
        /// The item.
        item: u32,
        /// How many it should have.
        items: u32,
    },
}

/// Receives what a walk finds.
pub trait Visitor {
    /// Decides whether `block` is read. The walk ends early if nothing is entered any more.
    fn enter(&mut self, _block: &Pointer) -> bool {
        true
    }

    /// Takes an item of a leaf.
    fn item(&mut self, key: &Key, data: &[u8]);

    /// Is told that `block` and everything below it could not be had.
    fn lost(&mut self, block: &Pointer, error: Error);
}

/// Walks a tree in the order of its keys.
pub(super) fn walk(volume: &Volume<'_>, root: &Pointer, visitor: &mut dyn Visitor) {
    if !visitor.enter(root) {
        return;
    }
    match volume.block(root) {
        Ok(bytes) => inside(volume, root, &bytes, visitor),
        Err(error) => visitor.lost(root, error),
    }
}

/// Goes through a block that was found sound; at most [`MAX_LEVEL`] deep.
fn inside(volume: &Volume<'_>, block: &Pointer, bytes: &[u8], visitor: &mut dyn Visitor) {
    let f = Fields(bytes);
    for index in 0..f.u32(96).unwrap_or(0) {
        if block.level == 0 {
            if let Ok((key, data)) = item(f, index) {
                visitor.item(&key, data);
            }
        } else if let Ok(pointer) = child(f, block, index) {
            walk(volume, &pointer, visitor);
        }
    }
}

fn slot(index: u32, len: usize) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(len).saturating_add(HEADER)
}

fn item(f: Fields<'_>, index: u32) -> Result<(Key, &[u8]), Truncated> {
    let at = slot(index, ITEM);
    let key = Key::parse(f, at)?;
    let number = |at| f.u32(at).map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let (place, len) = (number(at.saturating_add(17))?, number(at.saturating_add(21))?);
    Ok((key, f.slice(place.saturating_add(HEADER), len)?))
}

fn child(f: Fields<'_>, parent: &Pointer, index: u32) -> Result<Pointer, Truncated> {
    let at = slot(index, CHILD);
    let last = index.saturating_add(1) >= f.u32(96)?;
    Ok(Pointer {
        from: Key::parse(f, at)?,
        to: if last { parent.to } else { Some(Key::parse(f, slot(index.saturating_add(1), CHILD))?) },
        logical: f.u64(at.saturating_add(17))?,
        generation: f.u64(at.saturating_add(25))?,
        level: parent.level.saturating_sub(1),
        owner: parent.owner,
    })
}

/// Checks that `bytes` are the block `expected` points to, of the file system with `fsid`; its checksum was checked.
///
/// # Errors
/// [`Error::Wrong`] and [`Error::Items`].
pub fn check(bytes: &[u8], expected: &Pointer, fsid: &[u8; 16]) -> Result<(), Error> {
    let (f, logical) = (Fields(bytes), expected.logical);
    let short = |_| Error::Items { logical, item: 0, items: 0 };
    let wrong = |what, have: u64, want: u64| Err(Error::Wrong { logical, what, have, want });
    if !f.has(32, fsid) {
        let word = |id: &[u8]| Fields(id).u64_be(0).unwrap_or(0);
        return wrong("file system", word(f.slice(32, 16).map_err(short)?), word(fsid));
    }
    for (what, have, want) in [
        ("address", f.u64(48).map_err(short)?, logical),
        ("generation", f.u64(80).map_err(short)?, expected.generation),
        ("level", f.u8(100).map_err(short)?.into(), expected.level.into()),
    ] {
        if have != want {
            return wrong(what, have, want);
        }
    }
    let owner = f.u64(88).map_err(short)?;
    if let Some(want) = expected.owner.filter(|want| *want != owner) {
        return wrong("owner", owner, want);
    }
    if expected.level >= MAX_LEVEL {
        return wrong("level", expected.level.into(), MAX_LEVEL.saturating_sub(1).into());
    }
    check_items(f, expected)
}

/// Checks that keys rise within their bounds and that items lie in the block.
fn check_items(f: Fields<'_>, expected: &Pointer) -> Result<(), Error> {
    let items = f.u32(96).unwrap_or(u32::MAX);
    let broken = |item| Error::Items { logical: expected.logical, item, items };
    let leaf = expected.level == 0;
    // Only a tree without anything in it has a block without anything in it.
    if items == 0 && !(leaf && expected.from == Key::MIN && expected.to.is_none()) {
        return Err(broken(0));
    }
    let width = if leaf { ITEM } else { CHILD };
    let table_end = slot(items, width);
    if table_end > f.0.len() {
        return Err(broken(items));
    }
    let mut last: Option<Key> = None;
    for index in 0..items {
        let key = Key::parse(f, slot(index, width)).map_err(|_| broken(index))?;
        let rises = last.is_none_or(|last| last < key);
        if !rises || key < expected.from || expected.to.is_some_and(|to| key >= to) {
            return Err(broken(index));
        }
        last = Some(key);
        if leaf {
            let (_, data) = item(f, index).map_err(|_| broken(index))?;
            let from = f.u32(slot(index, ITEM).saturating_add(17)).unwrap_or(0);
            let from = usize::try_from(from).unwrap_or(0).saturating_add(HEADER);
            if from < table_end && !data.is_empty() {
                return Err(broken(index));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const FSID: [u8; 16] = [9; 16];

    const fn key(object: u64) -> Key {
        Key { object, kind: kind::EXTENT_ITEM, offset: 1 }
    }

    fn pointer(level: u8) -> Pointer {
        Pointer { from: key(10), to: Some(key(20)), logical: 65536, generation: 7, level, owner: Some(2) }
    }

    /// A block with these objects as keys, and items of 4 bytes each from its end on.
    fn block(level: u8, objects: &[u64]) -> Vec<u8> {
        let mut out = vec![0; 4096];
        out[32..48].copy_from_slice(&FSID);
        out[48..56].copy_from_slice(&65536u64.to_le_bytes());
        out[80..88].copy_from_slice(&7u64.to_le_bytes());
        out[88..96].copy_from_slice(&2u64.to_le_bytes());
        out[96..100].copy_from_slice(&u32::try_from(objects.len()).unwrap().to_le_bytes());
        out[100] = level;
        for (index, object) in (0u32..).zip(objects) {
            let at = slot(index, if level == 0 { ITEM } else { CHILD });
            out[at..at + 8].copy_from_slice(&object.to_le_bytes());
            out[at + 8] = kind::EXTENT_ITEM;
            out[at + 9] = 1;
            if level == 0 {
                let place = 4096 - 101 - 4 * (index + 1);
                out[at + 17..at + 21].copy_from_slice(&place.to_le_bytes());
                out[at + 21..at + 25].copy_from_slice(&4u32.to_le_bytes());
            }
        }
        out
    }

    #[test]
    fn what_is_wrong_with_a_block_is_said() {
        let with = |at: usize, byte: u8| {
            let mut out = block(0, &[10, 11]);
            out[at] = byte;
            out
        };
        for (name, bytes, level, want) in [
            ("good", block(0, &[10, 11, 19]), 0, None),
            ("good, above", block(1, &[10, 19]), 1, None),
            (
                "another file system",
                with(32, 1),
                0,
                Some("has file system 0x109090909090909 in place of 0x909090909090909"),
            ),
            ("another place", with(50, 2), 0, Some("has address 0x20000 in place of 0x10000")),
            ("older", with(80, 6), 0, Some("has generation 0x6 in place of 0x7")),
            ("lower", block(0, &[10]), 1, Some("has level 0x0 in place of 0x1")),
            ("too high", block(8, &[10]), 8, Some("has level 0x8 in place of 0x7")),
            ("another tree", with(88, 5), 0, Some("has owner 0x5 in place of 0x2")),
            ("empty", block(0, &[]), 0, Some("item 0 of 0")),
            ("too many", with(98, 1), 0, Some("item 65538 of 65538")),
            ("falling", block(0, &[11, 10]), 0, Some("item 1 of 2")),
            ("twice", block(0, &[11, 11]), 0, Some("item 1 of 2")),
            ("before the parent's key", block(0, &[9]), 0, Some("item 0 of 1")),
            ("the neighbour's key", block(0, &[10, 20]), 0, Some("item 1 of 2")),
            ("data beyond the end", with(101 + 22, 1), 0, Some("item 0 of 2")),
            ("data among the items", with(101 + 18, 0), 0, None),
        ] {
            let got = check(&bytes, &pointer(level), &FSID).err().map(|error| error.to_string());
            assert!(got.is_some() == want.is_some(), "{name}: {got:?}");
            assert!(got.is_none_or(|got| got.ends_with(want.unwrap())), "{name}");
        }
        assert!(check(&[0; 50], &pointer(0), &FSID).is_err());
    }
}

//! The B+trees of XFS: those of an allocation group, and the extent trees of large files.
//!
//! ```text
//!        in a group                       of a file
//!  0 magic, 4 level, 6 records      0 magic, 4 level, 6 records
//!  8 left, right neighbour          8 left, right neighbour
//! 16 place, log sequence, UUID     24 place, log sequence, UUID       (version 5 from here)
//! 48 group, 52 checksum            56 inode, 64 checksum
//! 56 records, or keys then blocks  72 records, or keys then blocks
//! ```
//!
//! Keys fill their part as if a node were full, so that the block numbers begin in the same place in all nodes.
//! A walk reads every node once: levels fall by one from a node to its children, so that no walk goes round, and
//! whoever receives the records checks that they rise, so that no leaf comes twice.
//!
//! Big endian, but for checksums. Source: Linux kernel, fs/xfs/libxfs/xfs_format.h and xfs_btree.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{View, ag::Root, superblock::checksum};
use crate::{
    bytes::{Fields, Truncated},
    fs::checked,
};

/// Levels a tree may have.
pub const MAX_LEVELS: u32 = 9;
const NULL: u32 = u32::MAX;

/// What a tree holds, and how its blocks look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Magic number of version 4, where it has the tree.
    pub plain: &'static [u8; 4],
    /// Magic number of version 5.
    pub checked: &'static [u8; 4],
    /// Bytes of a record.
    pub record: usize,
    /// Bytes of a key; of both keys where a node has the lowest and the highest.
    pub key: usize,
}

/// Free runs by block: start, length.
pub const BY_BLOCK: Kind = Kind { plain: b"ABTB", checked: b"AB3B", record: 8, key: 8 };
/// Free runs by length.
pub const BY_SIZE: Kind = Kind { plain: b"ABTC", checked: b"AB3C", record: 8, key: 8 };
/// Chunks of 64 inodes: first inode, holes, count, free inodes, mask of the free.
pub const INODES: Kind = Kind { plain: b"IABT", checked: b"IAB3", record: 16, key: 4 };
/// Chunks with free inodes.
pub const FREE_INODES: Kind = Kind { plain: b"FIBT", checked: b"FIB3", record: 16, key: 4 };
/// Used runs: start, length, owner, offset in it.
pub const RMAP: Kind = Kind { plain: b"RMB3", checked: b"RMB3", record: 24, key: 40 };
/// Runs with several owners: start, length, how many.
pub const REFCOUNT: Kind = Kind { plain: b"R3FC", checked: b"R3FC", record: 12, key: 4 };

/// Why a tree cannot be walked to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A bad sector.
    #[error("block {0} cannot be read")]
    Unreadable(u64),
    /// A block that is no node of this tree in this place.
    #[error("block {0} is no part of it")]
    Foreign(u64),
    /// A wrong checksum.
    #[error("block {0} has a wrong checksum")]
    Checksum(u64),
    /// Records out of order, out of range or contradicting each other.
    #[error("the records in block {0} are impossible")]
    Records(u64),
    /// More blocks than the group has.
    #[error("it has more blocks than its group")]
    TooLarge,
}

/// A node while its children are walked.
struct Node {
    bytes: Vec<u8>,
    count: usize,
    next: usize,
}

/// Walks the tree at `root` in `group`, leaves from left to right.
///
/// * `nodes`: receives every block of the tree.
/// * `each`: receives every record; `false` when it cannot follow the one before.
///
/// # Errors
/// [`Error`]; `each` has seen the records before the broken block.
pub fn walk(
    view: &View<'_>,
    group: u64,
    root: Root,
    kind: Kind,
    nodes: &mut Vec<u64>,
    mut each: impl FnMut(Fields<'_>) -> bool,
) -> Result<(), Error> {
    let len = view.volume.geometry.group_len(group);
    let before = nodes.len() as u64;
    // The right neighbour that the last node of each level named, and that node.
    let mut beside: Vec<Option<(u32, u32)>> = vec![None; usize::try_from(root.levels).unwrap_or(0)];
    let mut stack: Vec<Node> = Vec::new();
    let mut wanted = Some(root.block);
    loop {
        if let Some(block) = wanted.take() {
            if (nodes.len() as u64).saturating_sub(before) >= len {
                return Err(Error::TooLarge);
            }
            let level = usize::try_from(root.levels).unwrap_or(0).saturating_sub(stack.len()).saturating_sub(1);
            let node = read(view, group, block, kind, level, beside.get_mut(level))?;
            nodes.push(block);
            if level > 0 {
                stack.push(node);
            } else {
                records(view, &node, kind, block, &mut each)?;
            }
        }
        let Some(node) = stack.last_mut() else { break };
        if node.next < node.count {
            wanted = Some(child(view, node, kind).map_err(|_| Error::Foreign(0))?);
            node.next = node.next.saturating_add(1);
        } else {
            stack.pop();
        }
    }
    // The last node of each level has no right neighbour.
    match beside.iter().flatten().find(|(_, right)| *right != NULL) {
        Some((block, _)) => Err(Error::Foreign(u64::from(*block))),
        None => Ok(()),
    }
}

const fn head(v5: bool) -> usize {
    if v5 { 56 } else { 16 }
}

fn records(
    view: &View<'_>,
    node: &Node,
    kind: Kind,
    block: u64,
    each: &mut impl FnMut(Fields<'_>) -> bool,
) -> Result<(), Error> {
    let start = head(view.volume.geometry.v5);
    let records = node.bytes.get(start..).unwrap_or(&[]).chunks_exact(kind.record).take(node.count);
    for record in records {
        if !each(Fields(record)) {
            return Err(Error::Records(block));
        }
    }
    Ok(())
}

fn child(view: &View<'_>, node: &Node, kind: Kind) -> Result<u64, Truncated> {
    let start = head(view.volume.geometry.v5);
    let most = node.bytes.len().saturating_sub(start).checked_div(kind.key.saturating_add(4)).unwrap_or(0);
    let at = start.saturating_add(most.saturating_mul(kind.key)).saturating_add(node.next.saturating_mul(4));
    Fields(&node.bytes).u32_be(at).map(u64::from)
}

/// Reads a node and checks all that can be checked of one.
fn read(
    view: &View<'_>,
    group: u64,
    block: u64,
    kind: Kind,
    level: usize,
    beside: Option<&mut Option<(u32, u32)>>,
) -> Result<Node, Error> {
    let geometry = &view.volume.geometry;
    if block == 0 || block >= geometry.group_len(group) {
        return Err(Error::Foreign(block));
    }
    let (start, offset) = (head(geometry.v5), geometry.offset(group, block));
    let len = usize::try_from(geometry.block_size).unwrap_or(0);
    let (bytes, replayed) = view.read(offset, len).map_err(|_| Error::Unreadable(block))?;
    let magic = if geometry.v5 { kind.checked } else { kind.plain };
    let f = Fields(&bytes);
    let own = || -> Result<(bool, usize, u32, u32), Truncated> {
        let (found, count) = (usize::from(f.u16_be(4)?), usize::from(f.u16_be(6)?));
        let size = if level > 0 { kind.key.saturating_add(4) } else { kind.record };
        let most = len.saturating_sub(start).checked_div(size).unwrap_or(0);
        let placed = !geometry.v5
            || (f.u64_be(16)? == offset >> 9 && f.array(32)? == geometry.uuid && u64::from(f.u32_be(48)?) == group);
        let own = f.has(0, magic) && found == level && count <= most && placed && (count > 0 || level == 0);
        Ok((own, count, f.u32_be(8)?, f.u32_be(12)?))
    };
    let (own, count, left, right) = own().map_err(|_| Error::Foreign(block))?;
    if !own {
        return Err(Error::Foreign(block));
    }
    if geometry.v5 && !replayed && !checked::right(f.u32(52).ok() == Some(checksum(&bytes, 52))) {
        return Err(Error::Checksum(block));
    }
    let number = u32::try_from(block).unwrap_or(NULL);
    if let Some(beside) = beside {
        let fits = match *beside {
            None => left == NULL,
            Some((before, named)) => left == before && named == number && count > 0,
        };
        if !fits {
            return Err(Error::Foreign(block));
        }
        *beside = Some((number, right));
    }
    Ok(Node { bytes, count, next: 0 })
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test's own making")]
mod tests {
    use super::*;
    use crate::fs::xfs::testing::{node, with_volume};

    const END: u32 = NULL;

    /// Walks a tree of one node and two leaves in blocks 10, 20 and 30 of the second group.
    fn list(change: impl Fn(&mut [Vec<u8>; 3])) -> Result<Vec<(u64, u64)>, Error> {
        let mut keys = vec![1, 2, 5, 3];
        keys.resize(340 * 2, 0);
        keys.extend([20, 30]);
        let mut blocks = [
            node(b"ABTB", 1, 2, [END, END], &keys),
            node(b"ABTB", 0, 2, [END, 30], &[1, 2, 4, 1]),
            node(b"ABTB", 0, 1, [20, END], &[5, 3]),
        ];
        change(&mut blocks);
        let mut bytes = vec![0; 3500 * 4096];
        for (place, block) in [1010, 1020, 1030].iter().zip(blocks) {
            bytes[place * 4096..][..4096].copy_from_slice(&block);
        }
        with_volume(bytes, |volume| {
            let (mut nodes, mut found) = (Vec::new(), Vec::new());
            let root = Root { block: 10, levels: 2 };
            walk(&View { volume, copies: None }, 1, root, BY_BLOCK, &mut nodes, |f| {
                let run = (u64::from(f.u32_be(0).unwrap()), u64::from(f.u32_be(4).unwrap()));
                let rises = found.last().is_none_or(|last| *last < run);
                found.push(run);
                rises
            })?;
            assert_eq!(nodes, [10, 20, 30]);
            Ok(found)
        })
    }

    #[test]
    fn records_come_in_order() {
        assert_eq!(list(|_| ()).unwrap(), [(1, 2), (4, 1), (5, 3)]);
    }

    #[test]
    fn a_broken_tree_is_an_error_in_its_block() {
        type Change = fn(&mut [Vec<u8>; 3]);
        let cases: [(&str, Change, Error); 10] = [
            ("magic number", |b| b[1][3] = b'C', Error::Foreign(20)),
            ("level", |b| b[2][5] = 1, Error::Foreign(30)),
            ("root's level", |b| b[0][5] = 2, Error::Foreign(10)),
            ("too many records", |b| b[2][6] = 0xff, Error::Foreign(30)),
            ("an empty leaf beside another", |b| b[2][7] = 0, Error::Foreign(30)),
            ("left neighbour", |b| b[2][11] = 21, Error::Foreign(30)),
            ("right neighbour", |b| b[1][15] = 31, Error::Foreign(30)),
            ("one more to the right", |b| b[2][12..16].copy_from_slice(&[0, 0, 0, 40]), Error::Foreign(30)),
            ("order", |b| b[1][19] = 9, Error::Records(20)),
            ("the same child twice", |b| b[0][16 + 340 * 8 + 7] = 20, Error::Foreign(20)),
        ];
        for (name, change, error) in cases {
            assert_eq!(list(change), Err(error), "{name}");
        }
        assert_eq!(list(|b| b[0][16 + 340 * 8] = 1), Err(Error::Foreign(1 << 24 | 20)), "outside the group");
    }
}

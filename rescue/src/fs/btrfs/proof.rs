//! The trees' word against the extent tree's: a block that a tree has and an extent that a file has is kept,
//! whatever the extent tree says. And the trees of the last commits, as far as they are still there.
//!
//! ```text
//! file extent:  20 kind (0: in the item, 1: written, 2: preallocated)    21 logical address    29 length on disk
//! ```
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `struct btrfs_file_extent_item`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashSet;

use super::{
    Report, Volume,
    roots::{Roots, Tree, object},
    tree::{self, Error, Key, Pointer, Visitor, kind},
};
use crate::{
    bytes::{Fields, Truncated},
    extent::{Extent, ExtentSet},
};

/// Blocks above the leaves that are read at most, of all trees: those of 100 GiB of metadata.
const MAX_INNER: u64 = 1 << 16;
/// Bytes of leaves with file extents that are read at most; of more files the extent tree alone tells.
const MAX_LEAVES: u64 = 128 << 20;
/// Runs missing from the extent tree that are remembered before all chunks are kept whole.
const MAX_MISSING: usize = 1 << 16;
/// Blocks of older generations that are read at least and at most, and which share of the map they are between.
const MIN_OLD: u64 = 64;
const MAX_OLD: u64 = 1 << 12;
const OLD_SHARE: u64 = 200;

/// Returns the logical bytes of a file extent; none where it has none of its own.
///
/// # Errors
/// [`Truncated`].
pub fn file_extent(data: &[u8]) -> Result<Option<Extent>, Truncated> {
    let f = Fields(data);
    if f.u8(20)? == 0 {
        return Ok(None);
    }
    let (start, len) = (f.u64(21)?, f.u64(29)?);
    Ok((start != 0).then(|| Extent::new(start, start.saturating_add(len))))
}

/// Returns what trees and files use and `map` has not, in logical bytes.
pub(super) fn missing(volume: &Volume<'_>, roots: &Roots, map: &ExtentSet, report: &mut Report) -> Vec<Extent> {
    let mut proof = Proof {
        map,
        nodesize: volume.sb.nodesize,
        sectorsize: volume.sb.sectorsize.into(),
        files: false,
        inner: 0,
        leaves: 0,
        missing: Vec::new(),
        seen: HashSet::new(),
        lost: 0,
        error: None,
        unread: roots.left_out,
    };
    let root = Tree { object: object::ROOT_TREE, root: volume.sb.root, removed: false };
    let chunk = Tree { object: object::CHUNK_TREE, root: volume.sb.chunk_root, removed: false };
    for tree in [&root, &chunk].into_iter().chain(&roots.trees) {
        // A tree that is being removed has lost blocks that were used anew.
        if !tree.removed && tree.object != object::TREE_RELOC {
            proof.files = tree.has_files();
            tree::walk(volume, &tree.pointer(), &mut proof);
        }
    }
    if let Some(error) = proof.error {
        report.damaged = true;
        report.notes.push(format!("{} tree blocks cannot be read or are broken, the first: {error}", proof.lost));
    }
    if proof.unread > 0 {
        report.notes.push(format!("{} leaves of file trees were taken from the extent tree alone", proof.unread));
    }
    if proof.missing.len() >= MAX_MISSING {
        report.coarse = Some("files use many extents that the extent tree calls free".to_owned());
    }
    proof.missing
}

struct Proof<'m> {
    map: &'m ExtentSet,
    nodesize: u32,
    sectorsize: u64,
    /// Whether the leaves of this tree have file extents.
    files: bool,
    inner: u64,
    leaves: u64,
    missing: Vec<Extent>,
    seen: HashSet<u64>,
    lost: u64,
    error: Option<Error>,
    unread: u64,
}

impl Proof<'_> {
    fn whole_sectors(&self, extent: Extent) -> Extent {
        let before = extent.start.checked_rem(self.sectorsize).unwrap_or(0);
        let end = extent.end.checked_next_multiple_of(self.sectorsize).unwrap_or(extent.end);
        Extent::new(extent.start.saturating_sub(before), end)
    }

    fn used(&mut self, extent: Extent) {
        if !self.map.covers(extent) && self.missing.len() < MAX_MISSING {
            self.missing.push(extent);
        }
    }
}

impl Visitor for Proof<'_> {
    fn enter(&mut self, block: &Pointer) -> bool {
        self.used(block.extent(self.nodesize));
        let leaf = block.level == 0;
        if leaf && !self.files {
            return false;
        }
        let within =
            if leaf { self.leaves.saturating_mul(self.nodesize.into()) < MAX_LEAVES } else { self.inner < MAX_INNER };
        if self.seen.contains(&block.logical) {
            return false;
        }
        if !within {
            self.unread = self.unread.saturating_add(1);
            return false;
        }
        let count = if leaf { &mut self.leaves } else { &mut self.inner };
        *count = count.saturating_add(1);
        self.seen.insert(block.logical)
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        if key.kind != kind::EXTENT_DATA || !self.files {
            return;
        }
        if let Ok(Some(extent)) = file_extent(data) {
            self.used(self.whole_sectors(extent));
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.lost = self.lost.saturating_add(1);
        self.error.get_or_insert(error);
    }
}

/// Returns the logical bytes of tree blocks of the last generations that the superblock still names, and that were
/// not written over: with them a file system is repaired whose last commit went wrong. A generation of which there is
/// too much, and the ones before it, are not kept: the books call all of it free.
pub(super) fn older(volume: &Volume<'_>, map: &ExtentSet) -> Vec<Extent> {
    let nodesize = u64::from(volume.sb.nodesize);
    let share = map.total().checked_div(nodesize.saturating_mul(OLD_SHARE)).unwrap_or(0);
    let mut old = Old {
        map,
        nodesize: volume.sb.nodesize,
        left: share.clamp(MIN_OLD, MAX_OLD),
        kept: HashSet::new(),
        own: Vec::new(),
        todo: Vec::new(),
    };
    let mut backups = volume.sb.backups.iter().collect::<Vec<_>>();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.roots.iter().map(|root| root.generation).max()));
    for backup in backups {
        old.todo.extend(backup.roots.iter().map(|root| Pointer::to_root(root, None)));
        while let Some(root) = old.todo.pop() {
            tree::walk(volume, &root, &mut old);
        }
        let own = std::mem::take(&mut old.own);
        if old.left == 0 {
            own.iter().for_each(|logical| _ = old.kept.remove(logical));
            break;
        }
    }
    old.kept.into_iter().map(|logical| Extent::new(logical, logical.saturating_add(nodesize))).collect()
}

struct Old<'m> {
    map: &'m ExtentSet,
    nodesize: u32,
    /// Blocks that may still be read.
    left: u64,
    kept: HashSet<u64>,
    /// Those of this generation.
    own: Vec<u64>,
    todo: Vec<Pointer>,
}

impl Visitor for Old<'_> {
    /// Below a block that is still in use there is nothing that is not.
    fn enter(&mut self, block: &Pointer) -> bool {
        if self.left == 0 || self.map.covers(block.extent(self.nodesize)) || !self.kept.insert(block.logical) {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.own.push(block.logical);
        true
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        // Not more trees than could be read.
        if key.kind == kind::ROOT_ITEM && (self.todo.len() as u64) < MAX_OLD {
            self.todo.extend(Tree::parse(key, data).map(|tree| Pointer::to_root(&tree.root, None)));
        }
    }

    fn lost(&mut self, block: &Pointer, _error: Error) {
        self.kept.remove(&block.logical);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_extents_are_where_they_say() {
        let data = |kind: u8, start: u64, len: u64| {
            let mut out = vec![0; 53];
            out[20] = kind;
            out[21..29].copy_from_slice(&start.to_le_bytes());
            out[29..37].copy_from_slice(&len.to_le_bytes());
            out
        };
        for (name, data, want) in [
            ("written", data(1, 65536, 4096), Some(Extent::new(65536, 69632))),
            ("preallocated", data(2, 65536, 4096), Some(Extent::new(65536, 69632))),
            ("a hole", data(1, 0, 0), None),
            ("in the item", data(0, 65536, 4096)[..24].to_vec(), None),
        ] {
            assert_eq!(file_extent(&data), Ok(want), "{name}");
        }
        assert!(file_extent(&data(1, 65536, 4096)[..30]).is_err());
    }
}

//! The log tree: files that were synced since the last commit, in blocks and extents the extent tree does not know.
//!
//! The log's root tree has a root item for each subvolume's log; those hold what is replayed when the file system is
//! mounted. New chunks are never part of a log: the kernel commits instead.
//!
//! Source: Linux kernel, fs/btrfs/tree-log.c; `btrfs_set_log_full_commit` in fs/btrfs/block-group.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashSet;

use super::{
    Volume,
    proof::file_extent,
    roots::{Tree, object},
    tree::{self, Error, Key, Pointer, Root, Visitor, kind},
};
use crate::extent::Extent;

/// Blocks and extents of a log at most: 16 MiB of memory, more than a transaction takes.
const MAX_PIECES: usize = 1 << 20;

/// Lists the logical bytes of the log that begins at `root`.
///
/// # Errors
/// Says why they are not all known.
pub(super) fn pieces(volume: &Volume<'_>, root: &Root) -> Result<Vec<Extent>, String> {
    let mut log =
        Log { nodesize: volume.sb.nodesize, pieces: Vec::new(), seen: HashSet::new(), logs: Vec::new(), error: None };
    tree::walk(volume, &Pointer::to_root(root, Some(object::TREE_LOG)), &mut log);
    for tree in std::mem::take(&mut log.logs) {
        tree::walk(volume, &Pointer::to_root(&tree.root, Some(object::TREE_LOG)), &mut log);
    }
    match log.error {
        None => Ok(log.pieces),
        Some(error) => Err(error),
    }
}

struct Log {
    nodesize: u32,
    pieces: Vec<Extent>,
    seen: HashSet<u64>,
    logs: Vec<Tree>,
    error: Option<String>,
}

impl Log {
    fn add(&mut self, extent: Extent) {
        if self.pieces.len() < MAX_PIECES {
            self.pieces.push(extent);
        } else {
            self.error.get_or_insert_with(|| format!("it has more than {MAX_PIECES} pieces"));
        }
    }
}

impl Visitor for Log {
    fn enter(&mut self, block: &Pointer) -> bool {
        self.add(block.extent(self.nodesize));
        self.error.is_none() && self.seen.insert(block.logical)
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        if key.kind == kind::ROOT_ITEM {
            match Tree::parse(key, data) {
                Ok(tree) => self.logs.push(tree),
                Err(error) => self.error = Some(error.to_string()),
            }
        } else if key.kind == kind::EXTENT_DATA {
            match file_extent(data) {
                Ok(Some(extent)) => self.add(extent),
                Ok(None) => {}
                Err(error) => self.error = Some(error.to_string()),
            }
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.error.get_or_insert(error.to_string());
    }
}

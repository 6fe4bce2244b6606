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
    let mut log = Log {
        nodesize: volume.sb.nodesize,
        sectorsize: volume.sb.sectorsize.into(),
        checksum_len: volume.sb.checksum.len(),
        in_root: true,
        pieces: Vec::new(),
        seen: HashSet::new(),
        logs: Vec::new(),
        error: None,
    };
    tree::walk(volume, &Pointer::to_root(root, Some(object::TREE_LOG)), &mut log);
    log.in_root = false;
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
    sectorsize: u64,
    checksum_len: u64,
    /// Whether this is the log's root tree.
    in_root: bool,
    pieces: Vec<Extent>,
    seen: HashSet<u64>,
    logs: Vec<Tree>,
    error: Option<String>,
}

impl Log {
    /// Adds an extent that a file has.
    fn file(&mut self, extent: Extent) {
        let odd = |at: &u64| !at.is_multiple_of(self.sectorsize);
        if extent.is_empty() || [extent.start, extent.end].iter().any(odd) {
            self.error.get_or_insert_with(|| format!("an extent in it is at logical {extent}"));
        } else {
            self.add(extent);
        }
    }

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
        let found = match key.kind {
            kind::ROOT_ITEM if self.in_root => Tree::parse(key, data).map(|tree| self.logs.push(tree)),
            kind::EXTENT_DATA => {
                file_extent(data).map(|extent| extent.into_iter().for_each(|extent| self.file(extent)))
            }
            // A file's checksums say a second time where it is.
            kind::EXTENT_CSUM => {
                let sectors = (data.len() as u64).checked_div(self.checksum_len).unwrap_or(0);
                let len = sectors.saturating_mul(self.sectorsize);
                self.file(Extent::new(key.offset, key.offset.saturating_add(len)));
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = found {
            self.error = Some(error.to_string());
        }
        if self.in_root && key.kind != kind::ROOT_ITEM {
            self.error.get_or_insert_with(|| format!("its root tree has an item of type {}", key.kind));
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.error.get_or_insert(error.to_string());
    }
}

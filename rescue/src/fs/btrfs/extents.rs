//! The extent tree: which logical addresses are used, and what block groups and the free-space tree say of it.
//!
//! ```text
//! extent:         logical start, EXTENT_ITEM, length          tree block:   logical start, METADATA_ITEM, level
//! block group:    logical start, BLOCK_GROUP_ITEM, length     0 bytes used  8 chunk  16 type
//! free space:     logical start, FREE_SPACE_EXTENT, length    or FREE_SPACE_BITMAP, a bit for each free sector
//! ```
//!
//! Block groups are among the extents, or in a tree of their own, or in both while they are being moved.
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h; fs/btrfs/extent-tree.c, free-space-tree.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Volume,
    chunks::Chunks,
    roots::Tree,
    superblock::Superblock,
    tree::{self, Error, Key, Pointer, Visitor, kind},
};
use crate::{bytes::Fields, extent::Extent, fs::map::MapBuilder};

/// A block group: a chunk's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Bytes of the chunk.
    pub len: u64,
    /// Bytes in use, mirrors counted once.
    pub used: u64,
}

/// What the extent tree and the block group tree say.
pub struct Extents<'v> {
    chunks: &'v Chunks,
    nodesize: u64,
    sectorsize: u64,
    /// Used runs of logical bytes.
    pub map: MapBuilder,
    /// Bytes of extents in each chunk.
    pub sums: BTreeMap<u64, u64>,
    /// Block groups by their first logical byte.
    pub groups: BTreeMap<u64, Group>,
    /// Chunks in which two extents claim the same bytes, or one ends outside.
    pub contradictions: BTreeSet<u64>,
    /// Extents that lie in no chunk.
    pub strays: u64,
    /// Logical bytes whose extents could not be read.
    pub lost: Vec<Extent>,
    /// Why not: the first error.
    pub error: Option<Error>,
    open: Option<u64>,
    end: u64,
    /// The chunk extents were last found in.
    at: Extent,
}

impl<'v> Extents<'v> {
    /// Reads the tree of extents, and that of block groups where there is one.
    pub(super) fn read(volume: &'v Volume<'_>, extents: &Tree, groups: Option<&Tree>) -> Self {
        let mut found = Self::new(&volume.chunks, &volume.sb);
        tree::walk(volume, &extents.pointer(), &mut found);
        found.close(u64::MAX);
        if let Some(groups) = groups {
            // A block group that is not found here keeps its chunk whole.
            let mut only = Groups { groups: &mut found.groups, error: &mut found.error };
            tree::walk(volume, &groups.pointer(), &mut only);
        }
        found
    }

    fn new(chunks: &'v Chunks, sb: &Superblock) -> Self {
        Self {
            chunks,
            nodesize: sb.nodesize.into(),
            sectorsize: sb.sectorsize.into(),
            map: MapBuilder::new(),
            sums: BTreeMap::new(),
            groups: BTreeMap::new(),
            contradictions: BTreeSet::new(),
            strays: 0,
            lost: Vec::new(),
            error: None,
            open: None,
            end: 0,
            at: Extent::new(0, 0),
        }
    }

    /// Ends a run of lost items: whatever they were, they began before `at`.
    fn close(&mut self, at: u64) {
        if let Some(from) = self.open.take() {
            self.lost.push(Extent::new(from, at));
        }
    }

    fn extent(&mut self, start: u64, len: u64) {
        self.close(start);
        if !self.at.contains(start) {
            let Some(chunk) = self.chunks.holding(start) else {
                self.strays = self.strays.saturating_add(1);
                return;
            };
            self.at = chunk.logical;
        }
        let extent = Extent::new(start, start.saturating_add(len));
        let odd = len == 0 || !len.is_multiple_of(self.sectorsize) || !start.is_multiple_of(self.sectorsize);
        if odd || start < self.end || !self.at.covers(extent) {
            self.contradictions.insert(self.at.start);
        }
        self.end = self.end.max(extent.end);
        self.map.insert(extent);
        let sum = self.sums.entry(self.at.start).or_default();
        *sum = sum.saturating_add(len);
    }
}

impl Visitor for Extents<'_> {
    fn item(&mut self, key: &Key, data: &[u8]) {
        match key.kind {
            kind::EXTENT_ITEM => self.extent(key.object, key.offset),
            kind::METADATA_ITEM => self.extent(key.object, self.nodesize),
            kind::BLOCK_GROUP_ITEM => group(&mut self.groups, key, data),
            _ => {}
        }
    }

    fn lost(&mut self, block: &Pointer, error: Error) {
        self.open.get_or_insert(block.from.object);
        self.error.get_or_insert(error);
    }
}

fn group(groups: &mut BTreeMap<u64, Group>, key: &Key, data: &[u8]) {
    if let Ok(used) = Fields(data).u64(0) {
        groups.insert(key.object, Group { len: key.offset, used });
    }
}

struct Groups<'e> {
    groups: &'e mut BTreeMap<u64, Group>,
    error: &'e mut Option<Error>,
}

impl Visitor for Groups<'_> {
    fn item(&mut self, key: &Key, data: &[u8]) {
        if key.kind == kind::BLOCK_GROUP_ITEM {
            group(self.groups, key, data);
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.error.get_or_insert(error);
    }
}

/// What the free-space tree says.
pub struct FreeSpace<'v> {
    chunks: &'v Chunks,
    sectorsize: u64,
    /// Free bytes of each chunk.
    pub sums: BTreeMap<u64, u64>,
    /// Why a part could not be had: the first error.
    pub error: Option<Error>,
}

impl<'v> FreeSpace<'v> {
    /// Reads the tree.
    pub(super) fn read(volume: &'v Volume<'_>, tree: &Tree) -> Self {
        let sectorsize = volume.sb.sectorsize.into();
        let mut found = Self { chunks: &volume.chunks, sectorsize, sums: BTreeMap::new(), error: None };
        tree::walk(volume, &tree.pointer(), &mut found);
        found
    }

    /// Returns the free bytes of the chunk at `start`.
    #[must_use]
    pub fn of(&self, start: u64) -> u64 {
        self.sums.get(&start).copied().unwrap_or(0)
    }
}

impl Visitor for FreeSpace<'_> {
    fn item(&mut self, key: &Key, data: &[u8]) {
        let free = match key.kind {
            kind::FREE_SPACE_EXTENT => key.offset,
            kind::FREE_SPACE_BITMAP => {
                let bits = data.iter().fold(0u64, |sum, byte| sum.saturating_add(byte.count_ones().into()));
                bits.saturating_mul(self.sectorsize)
            }
            _ => return,
        };
        if let Some(chunk) = self.chunks.holding(key.object) {
            let sum = self.sums.entry(chunk.logical.start).or_default();
            *sum = sum.saturating_add(free);
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.error.get_or_insert(error);
    }
}

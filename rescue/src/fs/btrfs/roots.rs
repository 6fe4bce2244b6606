//! The chunk tree, and the root tree that says where all others begin.
//!
//! ```text
//! root item:  160 generation    176 logical address    216 references    220 key of progress of its removal    238 level
//! ```
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `struct btrfs_root_item`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume, Whole,
    chunks::{self, Chunk, Chunks},
    superblock::Superblock,
    tree::{self, Error, Key, Pointer, Root, Visitor, kind},
};
use crate::bytes::{Fields, Truncated};

/// The trees, by the kernel's names.
pub mod object {
    #![expect(missing_docs, reason = "the names are the kernel's")]
    pub const ROOT_TREE: u64 = 1;
    pub const EXTENT_TREE: u64 = 2;
    pub const CHUNK_TREE: u64 = 3;
    pub const DEV_TREE: u64 = 4;
    pub const FS_TREE: u64 = 5;
    pub const CSUM_TREE: u64 = 7;
    pub const FREE_SPACE_TREE: u64 = 10;
    pub const BLOCK_GROUP_TREE: u64 = 11;
    pub const FIRST_FREE: u64 = 256;
    pub const LAST_FREE: u64 = u64::MAX - 255;
    pub const BALANCE: u64 = u64::MAX - 3;
    pub const TREE_LOG: u64 = u64::MAX - 5;
    pub const TREE_RELOC: u64 = u64::MAX - 7;
}

/// Trees that are remembered; a file system with more snapshots keeps them by the extent tree alone.
const MAX_ROOTS: usize = 1 << 18;

/// Reads all chunks of a volume that knows those in its superblock.
///
/// # Errors
/// Without all of them nothing on the device has a meaning.
pub(super) fn chunks(volume: &Volume<'_>) -> Result<Chunks, Whole> {
    let mut found = FoundChunks { chunks: Chunks::default(), error: None, sb: &volume.sb };
    let root = Pointer::to_root(&volume.sb.chunk_root, Some(object::CHUNK_TREE));
    tree::walk(volume, &root, &mut found);
    match found.error {
        None => Ok(found.chunks),
        Some(ChunkError::Lost(error @ Error::Elsewhere(_))) => {
            Err(Whole::because(format_args!("the chunk tree is not on this device ({error})")))
        }
        Some(ChunkError::Lost(error)) => Err(Whole::damaged(format_args!("the chunk tree is broken ({error})"))),
        Some(ChunkError::Chunk(error)) => Err(Whole::damaged(format_args!("the chunk tree is broken ({error})"))),
    }
}

enum ChunkError {
    Lost(Error),
    Chunk(chunks::Error),
}

struct FoundChunks<'s> {
    chunks: Chunks,
    error: Option<ChunkError>,
    sb: &'s Superblock,
}

impl Visitor for FoundChunks<'_> {
    fn enter(&mut self, _block: &Pointer) -> bool {
        self.error.is_none()
    }

    fn item(&mut self, key: &Key, data: &[u8]) {
        if key.kind != kind::CHUNK_ITEM || self.error.is_some() {
            return;
        }
        let parsed = Chunk::parse(key.offset, data, self.sb.sectorsize);
        self.error = parsed.and_then(|chunk| self.chunks.insert(chunk)).err().map(ChunkError::Chunk);
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.error.get_or_insert(ChunkError::Lost(error));
    }
}

/// A tree in the root tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Which tree it is.
    pub object: u64,
    /// Where it begins.
    pub root: Root,
    /// Whether it is being removed: parts of it may be gone.
    pub removed: bool,
}

impl Tree {
    /// Reads a root item.
    ///
    /// # Errors
    /// [`Truncated`].
    pub fn parse(key: &Key, data: &[u8]) -> Result<Self, Truncated> {
        let f = Fields(data);
        let root = Root { logical: f.u64(176)?, generation: f.u64(160)?, level: f.u8(238)? };
        let begun = Key::parse(f, 220)? != Key::MIN;
        Ok(Self { object: key.object, root, removed: begun || f.u32(216)? == 0 })
    }

    /// Tells whether the tree holds files.
    #[must_use]
    pub fn has_files(&self) -> bool {
        let subvolumes = object::FIRST_FREE..=object::LAST_FREE;
        matches!(self.object, object::FS_TREE | object::ROOT_TREE) || subvolumes.contains(&self.object)
    }

    /// Returns a pointer to its first block.
    #[must_use]
    pub fn pointer(&self) -> Pointer {
        // Subvolumes share blocks with their snapshots.
        let shared = self.has_files() && self.object != object::ROOT_TREE;
        let owner = (!shared && self.object != object::TREE_RELOC).then_some(self.object);
        Pointer::to_root(&self.root, owner)
    }
}

/// What the root tree says.
#[derive(Debug, Default)]
pub struct Roots {
    /// Every tree but the root and the chunk tree.
    pub trees: Vec<Tree>,
    /// Trees that are not in `trees`, because there are too many.
    pub left_out: u64,
    /// Whether a balance is to be continued.
    pub balance: bool,
    /// Why a part of the root tree could not be had: the first error.
    pub lost: Option<Error>,
}

impl Roots {
    /// Reads the root tree of `volume`.
    pub(super) fn read(volume: &Volume<'_>) -> Self {
        let mut roots = Self::default();
        let root = Pointer::to_root(&volume.sb.root, Some(object::ROOT_TREE));
        tree::walk(volume, &root, &mut roots);
        roots
    }

    /// Returns the tree `object`.
    #[must_use]
    pub fn tree(&self, object: u64) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.object == object)
    }
}

impl Visitor for Roots {
    fn item(&mut self, key: &Key, data: &[u8]) {
        self.balance |= key.object == object::BALANCE && key.kind == kind::TEMPORARY_ITEM;
        if key.kind != kind::ROOT_ITEM {
            return;
        }
        match Tree::parse(key, data) {
            Ok(tree) if self.trees.len() < MAX_ROOTS => self.trees.push(tree),
            _ => self.left_out = self.left_out.saturating_add(1),
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.lost.get_or_insert(error);
    }
}

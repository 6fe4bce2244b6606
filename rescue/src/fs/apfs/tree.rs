//! Trees of APFS whose nodes are at physical addresses: object maps, and the lists of extents.
//!
//! ```text
//! node  32: flags, level, number of keys · 40: place of the table · 56: table, keys ▶ … ◀ values [root: 40 bytes about the tree]
//! ```
//!
//! Source: Apple File System Reference, "B-Trees", `btree_node_phys_t`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

use super::{
    container::Blocks,
    object::{Error, kind},
};
use crate::bytes::Fields;

/// Bytes of all trees together that are read at most.
const BUDGET: u64 = 128 << 20;
/// Nodes that wait to be read at most.
const MAX_TODO: usize = 1 << 18;
/// Where the table, keys and values are.
const DATA: usize = 56;
/// Bytes about the tree at the end of its root.
const INFO: usize = 40;
/// The offset of a value that is not there.
const NO_VALUE: u16 = 0xffff;
/// Flags of a node.
mod flag {
    pub const ROOT: u16 = 0x1;
    pub const LEAF: u16 = 0x2;
    pub const FIXED: u16 = 0x4;
}

/// Walks trees and remembers what it has read.
#[derive(Default)]
pub struct Walker {
    seen: BTreeSet<u64>,
    /// Whether trees were too large to be read to the end.
    pub cut_short: bool,
}

impl Walker {
    /// Calls `each` with key and value of every leaf record of the tree at block `root`, and `node` with every node's block.
    ///
    /// # Errors
    /// A node is broken, or in the tree twice.
    pub fn walk(
        &mut self,
        blocks: Blocks<'_>,
        root: u64,
        each: &mut dyn FnMut(Fields<'_>, Fields<'_>) -> Result<(), Error>,
        node: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut todo = vec![(root, None)];
        while let Some((at, level)) = todo.pop() {
            if (self.seen.len() as u64).saturating_mul(blocks.size) >= BUDGET || todo.len() > MAX_TODO {
                self.cut_short = true;
                return Ok(());
            }
            if !self.seen.insert(at) {
                return Err(Error::Range { at, what: "the same node twice", found: at });
            }
            node(at);
            let expected = if level.is_none() { kind::TREE } else { kind::NODE };
            let bytes = blocks.object(at, blocks.size, expected)?;
            let found = Fields(&bytes).u16(34)?;
            if level.is_some_and(|level| level != found) {
                return Err(Error::Range { at, what: "the level of a node", found: u64::from(found) });
            }
            records(&bytes, at, &mut |key, value| {
                if found == 0 {
                    return each(key, value);
                }
                todo.push((value.u64(0)?, found.checked_sub(1)));
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Calls `each` with key and value of every record of a node.
fn records(
    bytes: &[u8],
    at: u64,
    each: &mut dyn FnMut(Fields<'_>, Fields<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let f = Fields(bytes);
    let (flags, count) = (f.u16(32)?, usize::try_from(f.u32(36)?).unwrap_or(usize::MAX));
    if (flags & flag::LEAF != 0) != (f.u16(34)? == 0) {
        return Err(Error::Range { at, what: "the flags of a node", found: u64::from(flags) });
    }
    let table = usize::from(f.u16(40)?).saturating_add(DATA);
    let keys = table.saturating_add(usize::from(f.u16(42)?));
    let end = bytes.len().saturating_sub(if flags & flag::ROOT != 0 { INFO } else { 0 });
    let entry_len: usize = if flags & flag::FIXED != 0 { 4 } else { 8 };
    let entries = f.slice(table, keys.saturating_sub(table))?.chunks_exact(entry_len);
    if count > entries.len() {
        return Err(Error::Range { at, what: "the number of keys", found: count as u64 });
    }
    for entry in entries.take(count).map(Fields) {
        let (key, value) = (entry.u16(0)?, entry.u16(entry_len / 2)?);
        let key_at = keys.saturating_add(usize::from(key));
        let key = f.slice(key_at, end.saturating_sub(key_at))?;
        let value: &[u8] = if value == NO_VALUE {
            &[]
        } else {
            let from = end.checked_sub(usize::from(value)).filter(|from| *from >= keys);
            let from = from.ok_or(Error::Range { at, what: "the place of a value", found: u64::from(value) })?;
            f.slice(from, end.saturating_sub(from))?
        };
        each(Fields(key), Fields(value))?;
    }
    Ok(())
}

/// Returns where the tree of the object map at block `at` is.
///
/// # Errors
/// It is not an object map.
pub fn omap_tree(blocks: Blocks<'_>, at: u64) -> Result<u64, Error> {
    let bytes = blocks.object(at, blocks.size, kind::OMAP)?;
    Ok(Fields(&bytes).u64(48)?)
}

/// What is said about a virtual object.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Its number.
    pub oid: u64,
    /// The transaction that wrote it.
    pub xid: u64,
    /// Its first block.
    pub at: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Reads a record of an object map; `None` for one that only says that the object is gone.
///
/// # Errors
/// It is too short.
pub fn mapping(key: Fields<'_>, value: Fields<'_>) -> Result<Option<Mapping>, Error> {
    let deleted = value.u32(0)? & 1 != 0;
    let found = Mapping { oid: key.u64(0)?, xid: key.u64(8)?, at: value.u64(8)?, len: u64::from(value.u32(4)?) };
    Ok((!deleted).then_some(found))
}

/// What a volume superblock names.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name.
    pub name: Option<String>,
    /// Its object map.
    pub omap: u64,
    /// Its list of extents, and its list of snapshots, where they are at physical addresses; 0 otherwise.
    pub trees: [u64; 2],
}

impl Volume {
    /// Reads the volume superblock at block `at`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(blocks: Blocks<'_>, at: u64) -> Result<Self, Error> {
        let bytes = blocks.object(at, blocks.size, kind::VOLUME)?;
        let f = Fields(&bytes);
        let physical = |kind_at: usize, oid_at: usize| -> Result<u64, Error> {
            let physical = f.u32(kind_at)? & 0xc000_0000 == 0x4000_0000;
            Ok(if physical { f.u64(oid_at)? } else { 0 })
        };
        Ok(Self {
            name: crate::fs::label::text(f.slice(0x2c0, 256)?),
            omap: f.u64(0x80)?,
            trees: [physical(0x78, 0x90)?, physical(0x7c, 0x98)?],
        })
    }
}

/// Reads a record of a list of extents: first block and length.
///
/// # Errors
/// It is too short.
pub fn extent(key: Fields<'_>, value: Fields<'_>) -> Result<Option<(u64, u64)>, Error> {
    let id = key.u64(0)?;
    // Type 2 is an extent; the length shares its field with four bits about who made it.
    if id >> 60 != 2 {
        return Ok(None);
    }
    Ok(Some((id & (u64::MAX >> 4), value.u64(0)? & (u64::MAX >> 4))))
}

/// Returns the blocks that firmware's driver is in, the block that lists them included.
///
/// # Errors
/// The list is broken.
pub fn efi(blocks: Blocks<'_>, at: u64) -> Result<Vec<(u64, u64)>, Error> {
    let bytes = blocks.object(at, blocks.size, kind::EFI)?;
    let f = Fields(&bytes);
    let count = usize::try_from(f.u32(44)?).unwrap_or(usize::MAX);
    let list = f.slice(176, count.saturating_mul(16))?.as_chunks::<16>().0;
    let mut found = vec![(at, 1)];
    for raw in list.iter().map(|raw| Fields(raw)) {
        found.push((raw.u64(0)?, raw.u64(8)?));
    }
    Ok(found)
}

//! Nodes of F2FS: the blocks that say where a file's blocks are, found by the node address table.
//!
//! ```text
//! inode   fields · 360: 923 addresses (or inline data) · 4052: five node numbers · 4072: footer
//! direct  0: 1018 addresses                                                        · 4072: footer
//! ```
//!
//! Source: Linux kernel, include/linux/f2fs_fs.h, `struct f2fs_node`, and fs/f2fs/node.h.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Volume,
    checkpoint::JOURNAL,
    superblock::{BLOCK, feature},
};
use crate::{
    bytes::{Fields, Truncated},
    fs::{reader::SmallReader, whole::Whole},
};

/// Bytes in an entry of the node address table.
const NAT_ENTRY: usize = 9;
/// Entries in a block of it.
const PER_BLOCK: u64 = 455;
/// Entries a journal has room for.
const JOURNAL_ENTRIES: usize = (JOURNAL - 2) / (NAT_ENTRY + 4);
/// Blocks of the table that are read at most: 256 MiB, more than any volume up to 1 TiB has.
const NAT_BUDGET: u64 = 1 << 16;
/// The first node numbers stand for the tables themselves.
const FIRST_NODE: u64 = 3;
/// Nodes that recovery follows at most: 256 MiB of them.
const CHAIN_BUDGET: usize = 1 << 16;
/// Blocks that they may name.
const CHAIN_BLOCKS: usize = 1 << 20;
/// An address of a block that is reserved and has no place yet.
const NEW: u32 = u32::MAX;
/// What stands in the place of an address before those of a compressed cluster.
const COMPRESSED: u32 = u32::MAX - 1;
/// The offset that marks a block of extended attributes.
const XATTR: u32 = 0x1fff_ffff;
/// Node numbers in an indirect node.
const NIDS: u32 = 1018;

/// What a node says.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub nid: u64,
    /// The checkpoint it was written after.
    pub version: u64,
    /// Where the next node of the same log was to go.
    pub next: u64,
    /// Its blocks, reserved ones not included.
    pub blocks: Vec<u64>,
    /// How many of its addresses stand for no place.
    pub placeless: u64,
}

impl Node {
    /// Reads a node.
    ///
    /// * `flexible`: inodes say how long their inline attributes are.
    ///
    /// # Errors
    /// A field lies beyond the block.
    pub fn parse(bytes: &[u8], flexible: bool) -> Result<Self, Truncated> {
        let f = Fields(bytes);
        let (nid, ino, flags) = (f.u32(4072)?, f.u32(4076)?, f.u32(4080)?);
        let mut node = Self {
            nid: u64::from(nid),
            version: f.u64(4084)?,
            next: u64::from(f.u32(4092)?),
            blocks: Vec::new(),
            placeless: 0,
        };
        let slots = if nid == ino {
            inode_addresses(f, flexible)?
        } else if has_addresses(flags >> 3) {
            f.slice(0, 1018 * 4)?
        } else {
            &[]
        };
        for slot in slots.as_chunks::<4>().0 {
            match u32::from_le_bytes(*slot) {
                0 => {}
                NEW | COMPRESSED => node.placeless = node.placeless.saturating_add(1),
                address => node.blocks.push(u64::from(address)),
            }
        }
        Ok(node)
    }
}

/// Returns the bytes of an inode that are addresses.
fn inode_addresses(f: Fields<'_>, flexible: bool) -> Result<&[u8], Truncated> {
    let (mode, inline) = (f.u16(0)?, f.u8(3)?);
    // Devices, pipes and sockets have a device number there; inline data and entries fill the whole space.
    let has_blocks = matches!(mode & 0xf000, 0x8000 | 0x4000 | 0xa000);
    if !has_blocks || inline & 0x06 != 0 {
        return Ok(&[]);
    }
    let extra = if inline & 0x20 != 0 { usize::from(f.u16(360)?) } else { 0 };
    let xattr = if flexible {
        if inline & 0x20 != 0 { usize::from(f.u16(362)?).saturating_mul(4) } else { 0 }
    } else if inline & 0x01 != 0 {
        200
    } else {
        0
    };
    let len = (923usize * 4).saturating_sub(extra).saturating_sub(xattr);
    f.slice(extra.saturating_add(360), len)
}

/// Tells by its offset in the file's tree whether a node has addresses, and not node numbers or attributes.
fn has_addresses(offset: u32) -> bool {
    if offset == XATTR || offset == 3 || offset == 4 + NIDS || offset == 5 + 2 * NIDS {
        return false;
    }
    offset.checked_sub(6 + 2 * NIDS).is_none_or(|below| below % (NIDS + 1) != 0)
}

/// Calls `each` with number and block of every node; returns whether the whole table could be read.
///
/// # Errors
/// The journal of the table is broken, or an address leads out of the main area.
pub fn each_node(volume: &Volume<'_>, mut each: impl FnMut(u64, u64) -> Result<(), Whole>) -> Result<bool, Whole> {
    let sb = &volume.sb;
    let journal = journal(volume)?;
    let mut readers = [SmallReader::new(volume.region), SmallReader::new(volume.region)];
    let mut complete = sb.nat_blocks <= NAT_BUDGET;
    for index in 0..sb.nat_blocks.min(NAT_BUDGET) {
        let (number, second) = volume.checkpoint.nat_block(sb, index);
        let [first_copy, second_copy] = &mut readers;
        let reader = if second { second_copy } else { first_copy };
        let Ok(block) = reader.read(number.saturating_mul(BLOCK), 4096) else {
            complete = false;
            continue;
        };
        let first = index.saturating_mul(PER_BLOCK);
        for (nid, raw) in (first..first.saturating_add(PER_BLOCK)).zip(block.chunks_exact(NAT_ENTRY)) {
            let address = match journal.get(&nid) {
                Some(address) => *address,
                None => Fields(raw).u32(5).unwrap_or(0),
            };
            if nid < FIRST_NODE || address == 0 || address == NEW {
                continue;
            }
            let address = u64::from(address);
            if !sb.in_main(address) {
                return Err(Whole::damaged(format_args!("node {nid} is at block {address}, outside the main area")));
            }
            each(nid, address)?;
        }
    }
    Ok(complete)
}

/// Reads the entries that wait in the checkpoint.
fn journal(volume: &Volume<'_>) -> Result<BTreeMap<u64, u32>, Whole> {
    let f = Fields(&volume.checkpoint.nat_journal);
    let count = usize::from(f.u16(0).map_err(Whole::damaged)?);
    if count > JOURNAL_ENTRIES {
        return Err(Whole::damaged(format_args!("the journal of nodes counts {count} entries")));
    }
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let at = index.saturating_mul(NAT_ENTRY + 4).saturating_add(2);
        let parsed = f.u32(at).and_then(|nid| Ok((u64::from(nid), f.u32(at.saturating_add(9))?)));
        let (nid, address) = parsed.map_err(Whole::damaged)?;
        entries.insert(nid, address);
    }
    Ok(entries)
}

/// What was synced after the last checkpoint, and comes back at the next mount.
#[derive(Debug, Default)]
pub struct Chain {
    /// Nodes written after the checkpoint.
    pub nodes: usize,
    /// Their blocks, those of their data, and the block at which recovery stops: what stands there must stay, or a
    /// leftover of the target could continue the chain.
    pub blocks: Vec<u64>,
}

/// Follows the log of warm nodes from where the checkpoint left it.
///
/// # Errors
/// The chain is too long to be followed, or part of it cannot be read.
pub fn chain(volume: &Volume<'_>) -> Result<Chain, Whole> {
    let mut chain = Chain::default();
    if volume.sb.has(feature::RO) {
        return Ok(chain);
    }
    let flexible = volume.sb.has(feature::FLEXIBLE_INLINE_XATTR);
    let mut seen = BTreeSet::new();
    let mut at = volume.checkpoint.next_node;
    let mut bytes = vec![0; 4096];
    while volume.sb.in_main(at) && seen.insert(at) {
        if seen.len() > CHAIN_BUDGET || chain.blocks.len() > CHAIN_BLOCKS {
            return Err(Whole::because("more was synced after the last checkpoint than is followed"));
        }
        volume.region.read_exact_at(&mut bytes, at.saturating_mul(BLOCK)).map_err(|error| {
            Whole::because(format_args!("what was synced after the last checkpoint cannot be read: {error}"))
        })?;
        chain.blocks.push(at);
        let node = Node::parse(&bytes, flexible).map_err(Whole::damaged)?;
        if !volume.checkpoint.is_followed_by(node.version) {
            break;
        }
        chain.nodes = chain.nodes.saturating_add(1);
        chain.blocks.extend(node.blocks.into_iter().filter(|block| volume.sb.in_main(*block)));
        at = node.next;
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_taken_for_addresses() {
        let node = |mode: u16, inline: u8, offset: u32, ino: u32| {
            let mut bytes = vec![0; 4096];
            bytes[..2].copy_from_slice(&mode.to_le_bytes());
            bytes[3] = inline;
            for at in (360..4052).step_by(4) {
                bytes[at..at + 4].copy_from_slice(&77u32.to_le_bytes());
            }
            bytes[360..364].copy_from_slice(&[24, 0, 10, 0]);
            bytes[4072] = 9;
            bytes[4076..4080].copy_from_slice(&ino.to_le_bytes());
            bytes[4080..4084].copy_from_slice(&(offset << 3).to_le_bytes());
            bytes
        };
        for (name, mode, inline, offset, ino, flexible, want) in [
            ("file", 0x81a4, 0, 0, 9, false, 923),
            ("extra fields", 0x81a4, 0x20, 0, 9, false, 917),
            ("inline attributes", 0x81a4, 0x01, 0, 9, false, 873),
            ("their length in the inode", 0x81a4, 0x21, 0, 9, true, 907),
            ("inline data", 0x81a4, 0x02, 0, 9, false, 0),
            ("inline entries", 0x41ed, 0x04, 0, 9, false, 0),
            ("device", 0x21a4, 0, 0, 9, false, 0),
            ("indirect", 0, 0, 3, 8, false, 0),
            ("below the double indirect", 0, 0, 6 + 2 * NIDS, 8, false, 0),
            ("attributes", 0, 0, XATTR, 8, false, 0),
        ] {
            let node = Node::parse(&node(mode, inline, offset, ino), flexible).unwrap();
            assert_eq!(node.blocks.len(), want, "{name}");
        }
        let direct = Node::parse(&node(0, 0, 1, 8), false).unwrap();
        assert!(direct.blocks.len() > 900 && direct.nid == 9);
        assert!(Node::parse(&[0; 4095], false).is_err());
    }
}

//! The container superblock of APFS and its checkpoints.
//!
//! ```text
//! block 0                a copy of some container superblock
//! descriptor area        a ring: … maps · superblock · maps · superblock …   one checkpoint each
//! data area              a ring: the objects that the maps name, the space manager among them
//! ```
//!
//! Source: Apple File System Reference, "Container", `nx_superblock_t` and `checkpoint_map_phys_t`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::object::{self, Error, kind};
use crate::{block::ReadAt, bytes::Fields, extent::Extent};

/// The magic number, behind the object's header.
pub const MAGIC: &[u8] = b"NXSB";
/// Blocks that the descriptor area has at most; containers of many tebibytes have a few hundred.
const MAX_RING: u64 = 1 << 14;
/// The bit of an area's length that says that the area is in pieces, which a tree lists.
const IN_PIECES: u64 = 1 << 31;
/// Bytes of an object in the data area at most: a space manager of 8 EiB has less.
const MAX_OBJECT: u64 = 64 << 20;

/// Incompatible features.
pub mod incompat {
    /// The format of every release since 10.13.
    pub const VERSION2: u64 = 0x2;
    /// It is spread over a fast and a slow device.
    pub const FUSION: u64 = 0x100;
}

/// A container superblock. Addresses and counts are blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Bytes in a block.
    pub block_size: u64,
    /// Blocks in the container.
    pub blocks: u64,
    /// The transaction that wrote it.
    pub xid: u64,
    /// Incompatible features, and those that only reading is compatible with.
    pub features: (u64, u64),
    /// Container UUID.
    pub uuid: [u8; 16],
    /// First block and length of the descriptor area and of the data area.
    pub rings: [(u64, u64); 2],
    /// First block of this checkpoint in the descriptor area, counted from the area's start, and its length.
    pub maps: (u64, u64),
    /// The space manager's number.
    pub spaceman: u64,
    /// Where the object map is.
    pub omap: u64,
    /// The volumes' numbers.
    pub volumes: Vec<u64>,
    /// What firmware starts from; 0 for none.
    pub efi: u64,
    /// First block and length of the keys of the container and of its media.
    pub keys: [(u64, u64); 2],
}

impl Container {
    /// Reads a container superblock; its block size must be known to be right.
    ///
    /// # Errors
    /// It is none, or names numbers that cannot be.
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self, Error> {
        let f = Fields(bytes);
        let (found, xid) = object::header(bytes)?;
        if found != kind::CONTAINER || !f.has(32, MAGIC) {
            return Err(Error::Kind { at, found, expected: kind::CONTAINER });
        }
        let pair = |offset: usize| Ok::<_, Error>((f.u64(offset)?, f.u64(offset.saturating_add(8))?));
        let container = Self {
            block_size: u64::from(f.u32(36)?),
            blocks: f.u64(40)?,
            xid,
            features: (f.u64(64)?, f.u64(56)?),
            uuid: f.array(72)?,
            rings: [(f.u64(112)?, u64::from(f.u32(104)?)), (f.u64(120)?, u64::from(f.u32(108)?))],
            maps: (u64::from(f.u32(136)?), u64::from(f.u32(140)?)),
            spaceman: f.u64(152)?,
            omap: f.u64(160)?,
            volumes: f.slice(184, 800)?.as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw)).collect(),
            efi: f.u64(1272)?,
            keys: [pair(1296)?, pair(1392)?],
        };
        container.check(at)?;
        Ok(container)
    }

    fn check(&self, at: u64) -> Result<(), Error> {
        let range = |what: &'static str, found: u64| Err(Error::Range { at, what, found });
        if !self.block_size.is_power_of_two() || !(4096..=65536).contains(&self.block_size) {
            return range("the block size", self.block_size);
        }
        for ((first, len), limit) in self.rings.into_iter().zip([MAX_RING, IN_PIECES]) {
            if len == 0 || len >= limit || first.checked_add(len).is_none_or(|end| end > self.blocks) {
                return range("the length of a checkpoint area", len);
            }
        }
        if self.maps.0 >= self.rings[0].1 || self.maps.1 > self.rings[0].1 || self.maps.1 < 2 {
            return range("the length of the checkpoint", self.maps.1);
        }
        Ok(())
    }

    /// Returns the bytes of `len` blocks at `first`.
    #[must_use]
    pub const fn bytes(&self, first: u64, len: u64) -> Extent {
        let end = first.saturating_add(len);
        Extent::new(first.saturating_mul(self.block_size), end.saturating_mul(self.block_size))
    }

    /// Tells whether both describe the same blocks.
    #[must_use]
    pub fn same_places(&self, other: &Self) -> bool {
        (self.block_size, self.uuid, self.rings) == (other.block_size, other.uuid, other.rings)
    }
}

/// A region with the size of its blocks.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    /// The bytes.
    pub region: &'a dyn ReadAt,
    /// Bytes in a block.
    pub size: u64,
}

impl Blocks<'_> {
    /// Reads one block.
    ///
    /// # Errors
    /// Those of the region.
    pub fn read(&self, at: u64) -> Result<Vec<u8>, Error> {
        self.read_long(at, self.size)
    }

    /// Reads `len` bytes from block `at` on.
    ///
    /// # Errors
    /// Those of the region, or `len` is more than any object has.
    pub fn read_long(&self, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        let bounded = usize::try_from(len).ok().filter(|_| len <= MAX_OBJECT);
        let len = bounded.ok_or(Error::Range { at, what: "the length of an object", found: len })?;
        let offset = at.saturating_mul(self.size);
        crate::block::read_vec(self.region, offset, len).map_err(|source| Error::Read { at, source })
    }

    /// Reads an object and checks its checksum and type.
    ///
    /// # Errors
    /// It is not what it must be.
    pub fn object(&self, at: u64, len: u64, expected: u32) -> Result<Vec<u8>, Error> {
        let bytes = self.read_long(at, len)?;
        if !object::intact(&bytes) {
            return Err(Error::Checksum { at });
        }
        match object::header(&bytes)? {
            (found, _) if found == expected => Ok(bytes),
            (found, _) => Err(Error::Kind { at, found, expected }),
        }
    }
}

/// What the descriptor area holds.
#[derive(Debug)]
pub struct Ring {
    /// The newest superblock that is whole.
    pub newest: Option<Container>,
    /// Superblocks that are not whole.
    pub broken: u64,
    /// The newest transaction of anything whole.
    pub last_xid: u64,
}

/// Reads the descriptor area that `first` names.
///
/// # Errors
/// Part of it cannot be read.
pub fn ring(blocks: Blocks<'_>, first: &Container) -> Result<Ring, Error> {
    let (start, len) = first.rings[0];
    let mut ring = Ring { newest: None, broken: 0, last_xid: 0 };
    for at in start..start.saturating_add(len) {
        let bytes = blocks.read(at)?;
        let is_container = Fields(&bytes).has(32, MAGIC);
        if !object::intact(&bytes) {
            ring.broken = ring.broken.saturating_add(u64::from(is_container));
            continue;
        }
        let (_, xid) = object::header(&bytes)?;
        ring.last_xid = ring.last_xid.max(xid);
        if !is_container || ring.newest.as_ref().is_some_and(|newest| newest.xid >= xid) {
            continue;
        }
        ring.newest = Some(Container::parse(&bytes, at)?);
    }
    Ok(ring)
}

/// Returns block and length in bytes of the object with number `oid` in the data area, by the maps of the checkpoint.
///
/// # Errors
/// The maps are broken or do not name it.
pub fn ephemeral(blocks: Blocks<'_>, container: &Container, oid: u64) -> Result<(u64, u64), Error> {
    let (start, len) = container.rings[0];
    let mut found = None;
    // The last block of a checkpoint is its superblock.
    for index in 0..container.maps.1.saturating_sub(1) {
        let slot = container.maps.0.saturating_add(index).checked_rem(len).unwrap_or(0);
        let at = start.saturating_add(slot);
        let bytes = blocks.object(at, blocks.size, kind::CHECKPOINT_MAP)?;
        let f = Fields(&bytes);
        let (_, xid) = object::header(&bytes)?;
        if xid != container.xid {
            return Err(Error::Range { at, what: "the transaction of a checkpoint's map", found: xid });
        }
        let count = usize::try_from(f.u32(36)?).unwrap_or(usize::MAX);
        let entries = f.0.get(40..).unwrap_or_default().chunks_exact(40);
        if count > entries.len() {
            return Err(Error::Range { at, what: "the length of a checkpoint's map", found: count as u64 });
        }
        for entry in entries.take(count).map(Fields) {
            if entry.u64(24)? == oid {
                found = Some((entry.u64(32)?, u64::from(entry.u32(8)?)));
            }
        }
    }
    found.ok_or(Error::Range { at: start, what: "no map names object", found: oid })
}

//! The space manager of APFS: a bitmap for each chunk of the container, found through chunk-info blocks.
//!
//! ```text
//! space manager ─ addresses ─▶ [cab: addresses ─▶] cib: per chunk · address, blocks, free, bitmap ─▶ bitmap
//! ```
//!
//! Source: Apple File System Reference, "Space Manager", `spaceman_phys_t`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    container::{Blocks, Container},
    object::{Error, kind},
};
use crate::{
    bytes::Fields,
    fs::map::{MapBuilder, runs_of_ones},
};

/// The counts in a chunk's entry have 20 bits.
const COUNT: u32 = 0xf_ffff;

/// The space manager's own numbers. Addresses and counts are blocks.
#[derive(Debug)]
pub struct Spaceman {
    /// Blocks it manages.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks of a second device.
    pub second_device: u64,
    /// Flags that are not known.
    pub unknown_flags: u32,
    /// First block and length of the pool that bitmaps and chunk-info blocks live in, and of that pool's own bitmaps.
    pub pools: [(u64, u64); 2],
    /// Blocks in a chunk, all that one bitmap has bits for.
    pub chunk: u64,
    chunks: u64,
    chunks_per_cib: u64,
    cibs_per_cab: u64,
    cibs: u64,
    cabs: u64,
    addresses: Vec<u64>,
}

impl Spaceman {
    /// Reads the object at block `at`.
    ///
    /// # Errors
    /// It is not a space manager, or its numbers do not fit each other or the container.
    pub fn read(blocks: Blocks<'_>, at: u64, len: u64, container: &Container) -> Result<Self, Error> {
        let bytes = blocks.object(at, len, kind::SPACEMAN)?;
        let f = Fields(&bytes);
        let word = |offset: usize| f.u32(offset).map(u64::from);
        let mut sm = Self {
            blocks: f.u64(48)?,
            free: f.u64(72)?,
            second_device: f.u64(96)?,
            unknown_flags: f.u32(144)? & !1,
            pools: [(f.u64(176)?, f.u64(152)?), (f.u64(168)?, word(164)?)],
            chunk: word(36)?,
            chunks: f.u64(56)?,
            chunks_per_cib: word(40)?,
            cibs_per_cab: word(44)?,
            cibs: word(64)?,
            cabs: word(68)?,
            addresses: Vec::new(),
        };
        sm.check(at, word(32)?, container)?;
        let count = if sm.cabs > 0 { sm.cabs } else { sm.cibs };
        let len = usize::try_from(count.saturating_mul(8)).unwrap_or(usize::MAX);
        let list = f.slice(usize::try_from(f.u32(80)?).unwrap_or(usize::MAX), len)?;
        sm.addresses = list.as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw)).collect();
        Ok(sm)
    }

    fn check(&self, at: u64, block_size: u64, container: &Container) -> Result<(), Error> {
        let limit = container.block_size;
        let chunks = self.blocks.div_ceil(self.chunk.max(1));
        for (what, found, right) in [
            ("the space manager's block size", block_size, block_size == limit),
            ("the space manager's number of blocks", self.blocks, self.blocks == container.blocks),
            ("the number of free blocks", self.free, self.free <= self.blocks),
            ("the number of blocks in a chunk", self.chunk, self.chunk == limit.saturating_mul(8)),
            ("the number of chunks", self.chunks, self.chunks == chunks),
            ("the number of chunks in a block", self.chunks_per_cib, (1..limit).contains(&self.chunks_per_cib)),
            ("the number of addresses in a block", self.cibs_per_cab, (1..limit).contains(&self.cibs_per_cab)),
            ("the number of chunk-info blocks", self.cibs, self.cibs == chunks.div_ceil(self.chunks_per_cib.max(1))),
            (
                "the number of address blocks",
                self.cabs,
                self.cabs == 0 || self.cabs == self.cibs.div_ceil(self.cibs_per_cab.max(1)),
            ),
        ] {
            if !right {
                return Err(Error::Range { at, what, found });
            }
        }
        for (first, len) in self.pools {
            if first.checked_add(len).is_none_or(|end| end > self.blocks) {
                return Err(Error::Range { at, what: "the place of the internal pool", found: first });
            }
        }
        Ok(())
    }

    /// Adds the used blocks to `map`; returns the chunks kept whole because count and bitmap disagree, or the bitmap
    /// cannot be read.
    ///
    /// # Errors
    /// Chunks are not described as they must be, or their free blocks are not as many as the space manager counts.
    pub fn read_chunks(
        &self,
        blocks: Blocks<'_>,
        container: &Container,
        map: &mut MapBuilder,
    ) -> Result<Vec<u64>, Error> {
        let mut doubts = Vec::new();
        let (mut chunk, mut free, mut number) = (0u64, 0u64, 0u64);
        let mut each_cib = |at: u64| -> Result<(), Error> {
            let bytes = blocks.object(at, blocks.size, kind::CIB)?;
            let f = Fields(&bytes);
            let (index, count) = (u64::from(f.u32(32)?), u64::from(f.u32(36)?));
            let expected = self.chunks.saturating_sub(chunk).min(self.chunks_per_cib);
            if index != number || count != expected {
                return Err(Error::Range { at, what: "the number of chunks", found: count });
            }
            number = number.saturating_add(1);
            for entry in f.0.get(40..).unwrap_or_default().chunks_exact(32).take(usize::try_from(count).unwrap_or(0)) {
                let f = Fields(entry);
                let first = chunk.saturating_mul(self.chunk);
                let len = self.blocks.saturating_sub(first).min(self.chunk);
                let (said, said_free) = (u64::from(f.u32(16)? & COUNT), u64::from(f.u32(20)? & COUNT));
                if f.u64(8)? != first || said != len || said_free > len {
                    return Err(Error::Range { at, what: "the place of a chunk", found: f.u64(8)? });
                }
                free = free.saturating_add(said_free);
                if !self.chunk_map(blocks, container, (first, len), said_free, f.u64(24)?, map) {
                    map.insert(container.bytes(first, len));
                    doubts.push(chunk);
                }
                chunk = chunk.saturating_add(1);
            }
            Ok(())
        };
        for (index, at) in (0u64..).zip(&self.addresses) {
            if self.cabs == 0 {
                each_cib(*at)?;
                continue;
            }
            let bytes = blocks.object(*at, blocks.size, kind::CAB)?;
            let f = Fields(&bytes);
            let listed = self.cibs.saturating_sub(index.saturating_mul(self.cibs_per_cab)).min(self.cibs_per_cab);
            if u64::from(f.u32(32)?) != index || u64::from(f.u32(36)?) != listed {
                return Err(Error::Range {
                    at: *at,
                    what: "the number of chunk-info blocks",
                    found: u64::from(f.u32(36)?),
                });
            }
            let len = usize::try_from(listed.saturating_mul(8)).unwrap_or(usize::MAX);
            for raw in f.slice(40, len)?.as_chunks::<8>().0 {
                each_cib(u64::from_le_bytes(*raw))?;
            }
        }
        if chunk != self.chunks {
            return Err(Error::Range { at: 0, what: "the number of chunks found", found: chunk });
        }
        if free != self.free {
            return Err(Error::Range { at: 0, what: "the sum of free blocks of all chunks", found: free });
        }
        Ok(doubts)
    }

    /// Adds one chunk's used blocks to `map`; `false` when that cannot be told.
    fn chunk_map(
        &self,
        blocks: Blocks<'_>,
        container: &Container,
        (first, len): (u64, u64),
        free: u64,
        bitmap: u64,
        map: &mut MapBuilder,
    ) -> bool {
        if bitmap == 0 {
            // A chunk without a bitmap has no used block.
            return free == len;
        }
        let Ok(bytes) = blocks.read(bitmap) else { return false };
        let mut used = 0u64;
        runs_of_ones(&bytes, len, |from, to| used = used.saturating_add(to.saturating_sub(from)));
        if bitmap >= self.blocks || used != len.saturating_sub(free) {
            return false;
        }
        runs_of_ones(&bytes, len, |from, to| {
            map.insert(container.bytes(first.saturating_add(from), to.saturating_sub(from)));
        });
        true
    }
}

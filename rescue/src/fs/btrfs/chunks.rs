//! Chunks: which logical addresses lie where on which device.
//!
//! ```text
//! key:   256, CHUNK_ITEM, logical start
//! chunk:  0 length    16 stripe length    24 type    44 stripes    46 stripes that mirror each other    48 …
//! stripe, 32 bytes each: 0 device    8 place on it    16 its UUID
//! ```
//!
//! The superblock holds the chunks in which the chunk tree lies, the chunk tree holds all.
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `struct btrfs_chunk`; fs/btrfs/volumes.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use super::tree::{Key, kind};
use crate::{
    bytes::{Fields, Truncated},
    extent::{Extent, ExtentSet},
};

/// Bytes of a stripe: the format has a field for it, the kernel only this value.
const STRIPE: u64 = 64 << 10;
/// Chunk types: data, system, metadata.
const KINDS: u64 = 7;
const RAID0: u64 = 1 << 3;
const RAID1: u64 = 1 << 4;
const DUP: u64 = 1 << 5;
const RAID10: u64 = 1 << 6;
const RAID5: u64 = 1 << 7;
const RAID6: u64 = 1 << 8;
const RAID1C3: u64 = 1 << 9;
const RAID1C4: u64 = 1 << 10;
const SYSTEM: u64 = 2;

/// What is wrong with a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It ends too early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A field has an impossible value.
    #[error("the {what} of the chunk at logical byte {start:#x} is {value:#x}")]
    Field {
        /// Which chunk.
        start: u64,
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Something else stands where chunks must.
    #[error("the superblock's list of chunks holds something else")]
    NoChunk,
    /// Two chunks have the same address.
    #[error("two chunks hold logical byte {0:#x}")]
    Logical(u64),
    /// Two chunks use the same place.
    #[error("two chunks lie at byte {0:#x} of the device")]
    Physical(u64),
    /// A chunk lies where the device ends.
    #[error("a chunk lies at bytes {0:#x} to {1:#x} of a device of {2} bytes")]
    Outside(u64, u64, u64),
}

/// How a chunk's bytes are spread over its stripes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Every stripe holds all of it.
    Mirrored,
    /// Stripes take turns, each with so many mirrors.
    Striped(u64),
    /// Stripes take turns, so many hold parity.
    Parity(u64),
}

/// One stripe of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stripe {
    devid: u64,
    offset: u64,
    uuid: [u8; 16],
}

/// A run of logical addresses and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its logical bytes.
    pub logical: Extent,
    /// Whether it may hold the chunk tree.
    pub system: bool,
    layout: Layout,
    stripes: Vec<Stripe>,
}

impl Chunk {
    /// Reads a chunk.
    ///
    /// * `start`: its first logical byte, from its key.
    /// * `sectorsize`: what its length must be a multiple of.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(start: u64, data: &[u8], sectorsize: u32) -> Result<Self, Error> {
        let f = Fields(data);
        let (len, kind, count) = (f.u64(0)?, f.u64(24)?, f.u16(44)?);
        let field = |what, value| Error::Field { start, what, value };
        let logical = Extent::with_len(start, len).ok_or_else(|| field("length", len))?;
        if len == 0 || !len.is_multiple_of(sectorsize.into()) || !start.is_multiple_of(sectorsize.into()) {
            return Err(field("length", len));
        }
        if f.u64(16)? != STRIPE {
            return Err(field("stripe length", f.u64(16)?));
        }
        let (n, mirrors) = (u64::from(count), u64::from(f.u16(46)?));
        let (layout, possible) = match kind & !KINDS {
            0 | RAID1C3 | RAID1C4 | RAID1 | DUP => (Layout::Mirrored, n >= 1),
            RAID0 => (Layout::Striped(1), n >= 1),
            RAID10 => (Layout::Striped(mirrors), mirrors >= 1 && n >= mirrors && n.is_multiple_of(mirrors.max(1))),
            RAID5 => (Layout::Parity(1), n > 1),
            RAID6 => (Layout::Parity(2), n > 2),
            _ => return Err(field("type", kind)),
        };
        let alone = kind & !KINDS == 0 && n != 1;
        if !possible || alone {
            return Err(field("number of stripes", n));
        }
        let stripes = (0..usize::from(count)).map(|index| stripe(f, index)).collect::<Result<_, _>>()?;
        Ok(Self { logical, system: kind & SYSTEM != 0, layout, stripes })
    }

    fn count(&self) -> u64 {
        self.stripes.len() as u64
    }

    /// Returns the bytes of each stripe on its device.
    fn stripe_len(&self) -> u64 {
        let per = |data: u64| {
            let stripes = self.logical.len().div_ceil(STRIPE);
            stripes.div_ceil(data.max(1)).saturating_mul(STRIPE)
        };
        match self.layout {
            Layout::Mirrored => self.logical.len(),
            Layout::Striped(_) if self.count() == 1 => self.logical.len(),
            Layout::Striped(mirrors) => per(self.count().checked_div(mirrors).unwrap_or(1)),
            Layout::Parity(parity) => per(self.count().saturating_sub(parity)),
        }
    }

    /// Lists the bytes of device `devid` that belong to the chunk.
    pub fn on_device(&self, devid: u64) -> impl Iterator<Item = Extent> + '_ {
        let len = self.stripe_len();
        self.own(devid).map(move |stripe| Extent::new(stripe.offset, stripe.offset.saturating_add(len)))
    }

    fn own(&self, devid: u64) -> impl Iterator<Item = &Stripe> + '_ {
        self.stripes.iter().filter(move |stripe| stripe.devid == devid)
    }

    /// Tells whether a part of the chunk is on another device than `devid`.
    #[must_use]
    pub fn is_elsewhere(&self, devid: u64) -> bool {
        self.stripes.iter().any(|stripe| stripe.devid != devid)
    }

    /// Lists the UUIDs that stripes give the device `devid`.
    pub fn uuids_of(&self, devid: u64) -> impl Iterator<Item = [u8; 16]> + '_ {
        self.own(devid).map(|stripe| stripe.uuid)
    }

    /// Lists the places of `run` on device `devid`, a mirror each. Empty where the run is not whole in one piece there.
    pub fn places(&self, devid: u64, run: Extent) -> Vec<Extent> {
        if !self.logical.covers(run) {
            return Vec::new();
        }
        let within = run.start.saturating_sub(self.logical.start);
        let at = |stripe: &Stripe, within: u64| {
            let start = stripe.offset.saturating_add(within);
            Extent::new(start, start.saturating_add(run.len()))
        };
        match self.layout {
            Layout::Mirrored => self.own(devid).map(|stripe| at(stripe, within)).collect(),
            Layout::Striped(_) if self.count() == 1 => self.own(devid).map(|stripe| at(stripe, within)).collect(),
            Layout::Striped(mirrors) => {
                let (number, inside) = (within / STRIPE, within % STRIPE);
                if inside.saturating_add(run.len()) > STRIPE {
                    return Vec::new();
                }
                let columns = self.count().checked_div(mirrors).unwrap_or(1).max(1);
                let (row, column) = (number.checked_div(columns), number.checked_rem(columns));
                let row = row.unwrap_or(0).saturating_mul(STRIPE).saturating_add(inside);
                let first = usize::try_from(column.unwrap_or(0).saturating_mul(mirrors)).unwrap_or(usize::MAX);
                let mirrors = usize::try_from(mirrors).unwrap_or(usize::MAX);
                let here = self.stripes.iter().skip(first).take(mirrors).filter(|stripe| stripe.devid == devid);
                here.map(|stripe| at(stripe, row)).collect()
            }
            Layout::Parity(_) => Vec::new(),
        }
    }

    /// Tells whether every stripe holds the whole chunk in its order.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        matches!(self.layout, Layout::Mirrored) || (matches!(self.layout, Layout::Striped(_)) && self.count() == 1)
    }
}

fn stripe(f: Fields<'_>, index: usize) -> Result<Stripe, Truncated> {
    let own = Fields(f.slice(index.saturating_mul(32).saturating_add(48), 32)?);
    Ok(Stripe { devid: own.u64(0)?, offset: own.u64(8)?, uuid: own.array(16)? })
}

/// All chunks of a file system, by their first logical byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks(BTreeMap<u64, Chunk>);

impl Chunks {
    /// Reads the superblock's list of the chunks that hold the chunk tree.
    ///
    /// # Errors
    /// [`Error`].
    pub fn of_system(list: &[u8], sectorsize: u32) -> Result<Self, Error> {
        let (mut chunks, mut rest) = (Self::default(), list);
        while !rest.is_empty() {
            let key = Key::parse(Fields(rest), 0)?;
            let data = rest.get(17..).unwrap_or_default();
            let chunk = Chunk::parse(key.object_of_chunk()?, data, sectorsize)?;
            let len = chunk.stripes.len().saturating_mul(32).saturating_add(48);
            rest = data.get(len..).unwrap_or_default();
            if !chunk.system {
                return Err(Error::NoChunk);
            }
            chunks.insert(chunk)?;
        }
        Ok(chunks)
    }

    /// Adds a chunk.
    ///
    /// # Errors
    /// [`Error::Logical`] when its addresses are taken.
    pub fn insert(&mut self, chunk: Chunk) -> Result<(), Error> {
        let before = self.0.range(..chunk.logical.end).next_back();
        if before.is_some_and(|(_, before)| before.logical.overlaps(chunk.logical)) {
            return Err(Error::Logical(chunk.logical.start));
        }
        self.0.insert(chunk.logical.start, chunk);
        Ok(())
    }

    /// Returns the chunk that holds the logical byte `at`.
    #[must_use]
    pub fn holding(&self, at: u64) -> Option<&Chunk> {
        self.0.range(..=at).next_back().map(|(_, chunk)| chunk).filter(|chunk| chunk.logical.contains(at))
    }

    /// Lists all in the order of their logical addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> + '_ {
        self.0.values()
    }

    /// Returns the bytes of device `devid` that belong to any chunk.
    ///
    /// # Errors
    /// [`Error::Outside`] and [`Error::Physical`] where chunks cannot all lie on a device of `len` bytes.
    pub fn on_device(&self, devid: u64, len: u64) -> Result<ExtentSet, Error> {
        let mut all = self.iter().flat_map(|chunk| chunk.on_device(devid)).collect::<Vec<_>>();
        all.sort_unstable();
        let mut end = 0;
        for extent in &all {
            if extent.end > len {
                return Err(Error::Outside(extent.start, extent.end, len));
            }
            if extent.start < end {
                return Err(Error::Physical(extent.start));
            }
            end = extent.end;
        }
        Ok(ExtentSet::from_unsorted(all))
    }
}

impl Key {
    /// Returns the logical address in a chunk's key.
    fn object_of_chunk(self) -> Result<u64, Error> {
        if self.kind == kind::CHUNK_ITEM { Ok(self.offset) } else { Err(Error::NoChunk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: u32 = 4096;

    fn chunk_bytes(len: u64, kind: u64, mirrors: u16, stripes: &[(u64, u64)]) -> Vec<u8> {
        let mut out = vec![0; 48];
        out[0..8].copy_from_slice(&len.to_le_bytes());
        out[16..24].copy_from_slice(&STRIPE.to_le_bytes());
        out[24..32].copy_from_slice(&kind.to_le_bytes());
        out[44..46].copy_from_slice(&u16::try_from(stripes.len()).unwrap().to_le_bytes());
        out[46..48].copy_from_slice(&mirrors.to_le_bytes());
        for (devid, offset) in stripes {
            out.extend(devid.to_le_bytes());
            out.extend(offset.to_le_bytes());
            out.extend([7; 16]);
        }
        out
    }

    fn chunk(start: u64, len: u64, kind: u64, mirrors: u16, stripes: &[(u64, u64)]) -> Chunk {
        Chunk::parse(start, &chunk_bytes(len, kind, mirrors, stripes), SECTOR).unwrap()
    }

    #[test]
    fn every_profile_is_found_on_its_device() {
        const MIB: u64 = 1 << 20;
        let node = |at: u64| Extent::new(at, at + 16384);
        let four = [(1, MIB), (2, 2 * MIB), (3, 3 * MIB), (1, 64 * MIB)];
        for (name, kind, mirrors, stripes, device, places) in [
            ("single", 4, 1, &four[..1], vec![(MIB, 8 * MIB)], vec![MIB + 3 * STRIPE]),
            (
                "DUP",
                4 | DUP,
                1,
                &[four[0], four[3]][..],
                vec![(MIB, 8 * MIB), (64 * MIB, 8 * MIB)],
                vec![MIB + 3 * STRIPE, 64 * MIB + 3 * STRIPE],
            ),
            ("RAID1", 4 | RAID1, 1, &four[..2], vec![(MIB, 8 * MIB)], vec![MIB + 3 * STRIPE]),
            ("RAID0, elsewhere", 1 | RAID0, 1, &four[..2], vec![(MIB, 4 * MIB)], vec![]),
            ("RAID0, here", 1 | RAID0, 1, &[four[1], four[0]][..], vec![(MIB, 4 * MIB)], vec![MIB + STRIPE]),
            ("RAID0 of one", 1 | RAID0, 1, &four[..1], vec![(MIB, 8 * MIB)], vec![MIB + 3 * STRIPE]),
            (
                "RAID10",
                1 | RAID10,
                2,
                &[four[1], four[2], four[0], (4, 0)][..],
                vec![(MIB, 4 * MIB)],
                vec![MIB + STRIPE],
            ),
            ("RAID5", 1 | RAID5, 1, &four[..3], vec![(MIB, 4 * MIB)], vec![]),
            ("RAID6", 1 | RAID6, 1, &[four[0], four[1], four[2], (4, 0)][..], vec![(MIB, 4 * MIB)], vec![]),
        ] {
            let chunk = chunk(32 * MIB, 8 * MIB, kind, mirrors, stripes);
            let want = device.iter().map(|(start, len)| Extent::new(*start, start + len)).collect::<Vec<_>>();
            assert_eq!(chunk.on_device(1).collect::<Vec<_>>(), want, "{name}");
            let got = chunk.places(1, node(32 * MIB + 3 * STRIPE)).iter().map(|place| place.start).collect::<Vec<_>>();
            assert_eq!(got, places, "{name}");
        }
    }

    #[test]
    fn impossible_chunks_are_errors() {
        for (name, len, kind, mirrors, stripes, want) in [
            ("no length", 0, 4, 1, vec![(1, 0)], "the length of the chunk at logical byte 0x10000 is 0x0"),
            ("odd length", 5, 4, 1, vec![(1, 0)], "the length of the chunk at logical byte 0x10000 is 0x5"),
            ("no stripes", 4096, 4, 1, vec![], "the number of stripes of the chunk at logical byte 0x10000 is 0x0"),
            (
                "two of one",
                4096,
                4,
                1,
                vec![(1, 0), (2, 0)],
                "the number of stripes of the chunk at logical byte 0x10000 is 0x2",
            ),
            (
                "two profiles",
                4096,
                RAID0 | RAID1,
                1,
                vec![(1, 0)],
                "the type of the chunk at logical byte 0x10000 is 0x18",
            ),
            ("new profile", 4096, 1 << 11, 1, vec![(1, 0)], "the type of the chunk at logical byte 0x10000 is 0x800"),
            (
                "no mirrors",
                4096,
                RAID10,
                0,
                vec![(1, 0)],
                "the number of stripes of the chunk at logical byte 0x10000 is 0x1",
            ),
            (
                "parity alone",
                4096,
                RAID6,
                1,
                vec![(1, 0), (2, 0)],
                "the number of stripes of the chunk at logical byte 0x10000 is 0x2",
            ),
        ] {
            let error = Chunk::parse(65536, &chunk_bytes(len, kind, mirrors, &stripes), SECTOR).unwrap_err();
            assert_eq!(error.to_string(), want, "{name}");
        }
    }

    #[test]
    fn chunks_that_share_a_place_are_errors() {
        let mut chunks = Chunks::default();
        chunks.insert(chunk(1 << 20, 1 << 20, 4, 1, &[(1, 0)])).unwrap();
        assert_eq!(chunks.insert(chunk((1 << 20) - 4096, 8192, 4, 1, &[(1, 1 << 30)])), Err(Error::Logical(0xff000)));
        chunks.insert(chunk(1 << 30, 1 << 20, 4, 1, &[(1, 4096), (2, 0)].as_slice()[..1])).unwrap();
        assert_eq!(chunks.on_device(1, 1 << 30), Err(Error::Physical(4096)));
        assert_eq!(chunks.on_device(1, 8192), Err(Error::Outside(0, 1 << 20, 8192)));
        assert_eq!(chunks.on_device(2, 8192), Ok(ExtentSet::new()));
        assert_eq!(chunks.holding((1 << 20) + 5).unwrap().logical.start, 1 << 20);
        assert_eq!(chunks.holding(5), None);
    }

    #[test]
    fn the_superblock_lists_system_chunks_only() {
        let entry = |kind_of_key: u8, kind: u64| {
            let mut out = 256u64.to_le_bytes().to_vec();
            out.push(kind_of_key);
            out.extend((1u64 << 20).to_le_bytes());
            out.extend(chunk_bytes(4096, kind, 1, &[(1, 1 << 20)]));
            out
        };
        let good = entry(kind::CHUNK_ITEM, SYSTEM);
        assert_eq!(Chunks::of_system(&good, SECTOR).unwrap().iter().count(), 1);
        assert_eq!(Chunks::of_system(&entry(kind::DEV_ITEM, SYSTEM), SECTOR), Err(Error::NoChunk));
        assert_eq!(Chunks::of_system(&entry(kind::CHUNK_ITEM, 4), SECTOR), Err(Error::NoChunk));
        assert!(matches!(Chunks::of_system(&good[..60], SECTOR), Err(Error::Truncated(_))));
        assert_eq!(Chunks::of_system(&[good.clone(), good].concat(), SECTOR), Err(Error::Logical(1 << 20)));
    }
}

//! The word of inodes and of the tree of used runs against the free-space trees': what either uses is kept.
//!
//! ```text
//! chunk of 64 inodes: 0 first inode  4 free inodes, or holes (a bit for 4 inodes), count, free inodes  8 mask of the free
//! used run:           0 block, length, 8 owner, offset      run with several owners: 0 block, length, owners
//! ```

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    View, Volume, Whole,
    ag::{Agf, Agi},
    btree::{self, FREE_INODES, INODES, REFCOUNT, RMAP},
    inode::{self, Error, Lister},
    map::{Doubts, OWN},
    superblock::feature,
};
use crate::{
    bytes::Fields,
    extent::{Extent, ExtentSet},
    fs::{State, Survey},
};

/// Blocks of extent trees read at most. Few files need one.
const BUDGET: u64 = 1 << 16;
/// Runs missing from the map that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;
/// Marks a run that is only reserved for a copy; the rest of the number is its block.
const COPY_RESERVED: u64 = 1 << 31;

/// Adds what inodes and used runs name to the map of `survey`, and doubts groups whose own structures are not in it.
///
/// * `settled`: no log is waiting, so that everything on disk must fit together; otherwise oddities are passed over.
pub(super) fn unite(view: &View<'_>, settled: bool, doubts: &mut Doubts, survey: &mut Survey) -> Result<(), Whole> {
    let volume = view.volume;
    let mut walk = Walk {
        volume,
        map: &survey.allocated,
        lister: Lister::new(volume, BUDGET),
        missing: Vec::new(),
        broken: 0,
        first_broken: 0,
        unlisted: 0,
        unknown: 0,
        chunk: Vec::new(),
    };
    for group in 0..volume.geometry.groups {
        if let Err(reason) = walk.inodes(view, group).and_then(|()| walk.runs(view, group)) {
            doubts.add(group, reason);
        }
        if walk.missing.len() >= MAX_MISSING {
            return Err(Whole::damaged("files use many blocks that the free-space trees call free"));
        }
    }
    let Walk { missing, broken, first_broken, unlisted, unknown, .. } = walk;
    finish(survey, missing, unknown, settled)?;
    if unlisted > 0 {
        survey.notes.push(format!("{unlisted} large or unreadable files were taken from the free-space trees alone"));
    }
    if settled && broken > 0 {
        let files = if broken == 1 { "1 inode is broken".to_owned() } else { format!("{broken} inodes are broken") };
        survey.notes.push(format!("{files}, the first of them {first_broken}"));
        if let Some(detected) = &mut survey.detected {
            detected.state = State::Damaged;
        }
    }
    Ok(())
}

/// Keeps what is missing; on a volume without a log to replay, everything.
///
/// The trees of inodes are written with those of free space, and are as old: what the free-space trees do not know, files
/// in chunks that the trees of inodes do not list, may have blocks of any group. A reader that comes along the folders
/// finds those files.
fn finish(survey: &mut Survey, missing: Vec<Extent>, unknown: u64, settled: bool) -> Result<(), Whole> {
    let missing = ExtentSet::from_unsorted(missing);
    let bytes = crate::units::Bytes(missing.total());
    match (missing.is_empty(), settled) {
        (true, false) => {}
        // The kernel takes an inode that is free in its tree and has a mode for corruption: `xfs_iget_check_free_state`.
        (true, true) if unknown > 0 => {
            let inodes = if unknown == 1 { "1 inode".to_owned() } else { format!("{unknown} inodes") };
            return Err(Whole::damaged(format_args!(
                "{inodes} in use are free in the trees of inodes, which may not know of other files either"
            )));
        }
        (true, true) => {}
        (false, true) => {
            return Err(Whole::damaged(format_args!(
                "{bytes} that files use are free in the free-space trees, which may not know of other files either"
            )));
        }
        // Before a replay inodes may be ahead of or behind the trees.
        (false, false) => {
            survey.widened.push(format!("{bytes} that files use are free in the free-space trees, and kept"));
            survey.allocated = survey.allocated.union(&missing);
        }
    }
    Ok(())
}

struct Walk<'v, 'a> {
    volume: &'v Volume<'a>,
    map: &'v ExtentSet,
    lister: Lister<'v, 'a>,
    missing: Vec<Extent>,
    broken: u64,
    first_broken: u64,
    unlisted: u64,
    /// Inodes in use that their tree calls free.
    unknown: u64,
    chunk: Vec<u8>,
}

/// A chunk of inodes.
struct Chunk {
    first: u64,
    holes: u16,
    count: u64,
    free: u64,
}

impl Walk<'_, '_> {
    /// Walks the inodes of a group; an error is a reason to doubt it.
    fn inodes(&mut self, view: &View<'_>, group: u64) -> Result<(), String> {
        let agi = Agi::read(view, group).map_err(|error| format!("the header of its inodes {error}"))?;
        let sparse = self.volume.sb.has_incompat(feature::INCOMPAT_SPARSE_INODES);
        let (mut nodes, mut next, mut inodes, mut outside) = (Vec::new(), 0u64, 0u64, false);
        let walked = btree::walk(view, group, agi.chunks, INODES, &mut nodes, |f| {
            let Some(chunk) = Chunk::parse(f, sparse).filter(|chunk| chunk.first >= next) else { return false };
            next = chunk.first.saturating_add(64);
            inodes = inodes.saturating_add(chunk.count);
            let inside = self.chunk(group, &chunk);
            outside |= !inside;
            true
        });
        walked.map_err(|error| format!("its tree of inodes is broken: {error}"))?;
        if let Some(root) = agi.free_chunks {
            let walked = btree::walk(view, group, root, FREE_INODES, &mut nodes, |_| true);
            walked.map_err(|error| format!("its tree of free inodes is broken: {error}"))?;
        }
        if inodes != agi.inodes {
            return Err(format!("its tree has {inodes} inodes, its header {}", agi.inodes));
        }
        if outside || !self.own(group, &nodes) { Err(OWN.to_owned()) } else { Ok(()) }
    }

    /// Walks the trees of used runs, where there are any.
    fn runs(&mut self, view: &View<'_>, group: u64) -> Result<(), String> {
        if !self.volume.sb.has_ro(feature::RO_RMAPBT | feature::RO_REFLINK) {
            return Ok(());
        }
        let geometry = &self.volume.geometry;
        // What is wrong with the header was said when the free space was read.
        let Ok(agf) = Agf::read(view, group) else { return Ok(()) };
        let (len, mut nodes) = (geometry.group_len(group), Vec::new());
        for (root, kind, what) in [(agf.rmap, RMAP, "used runs"), (agf.refcount, REFCOUNT, "shared runs")] {
            let Some(root) = root else { continue };
            let mut last = 0u64;
            let (map, missing) = (self.map, &mut self.missing);
            let walked = btree::walk(view, group, root, kind, &mut nodes, |f| {
                let (Ok(start), Ok(blocks)) = (f.u32_be(0), f.u32_be(4)) else { return false };
                let (key, blocks) = (u64::from(start), u64::from(blocks));
                let start = if kind == REFCOUNT { key & !COPY_RESERVED } else { key };
                let end = start.saturating_add(blocks);
                if key < last || blocks == 0 || end > len {
                    return false;
                }
                last = key;
                miss(map, missing, Extent::new(geometry.offset(group, start), geometry.offset(group, end)));
                true
            });
            walked.map_err(|error| format!("its tree of {what} is broken: {error}"))?;
        }
        if self.own(group, &nodes) { Ok(()) } else { Err(OWN.to_owned()) }
    }

    fn own(&self, group: u64, nodes: &[u64]) -> bool {
        let at = |block| self.volume.geometry.offset(group, block);
        nodes.iter().all(|block| self.map.covers(Extent::new(at(*block), at(block.saturating_add(1)))))
    }

    /// Walks the inodes of a chunk; tells whether its blocks are in the group and in the map.
    fn chunk(&mut self, group: u64, chunk: &Chunk) -> bool {
        let geometry = &self.volume.geometry;
        let (start, size) = (geometry.offset(group, 0), geometry.inode_size);
        let end = geometry.offset(group, geometry.group_len(group));
        let mut inside = true;
        let mut index = 0u64;
        while index < 64 {
            let count = chunk.run(index);
            if count == 0 {
                index = index.saturating_add(4);
                continue;
            }
            let from = start.saturating_add(chunk.first.saturating_add(index).saturating_mul(size));
            let bytes = Extent::new(from, from.saturating_add(count.saturating_mul(size)));
            if bytes.end > end {
                return false;
            }
            inside &= self.map.covers(bytes);
            self.part(group, chunk, index, bytes);
            index = index.saturating_add(count);
        }
        inside
    }

    /// Walks inodes that lie side by side.
    fn part(&mut self, group: u64, chunk: &Chunk, index: u64, place: Extent) {
        let mut bytes = std::mem::take(&mut self.chunk);
        bytes.resize(usize::try_from(place.len()).unwrap_or(0), 0);
        if self.volume.region.read_exact_at(&mut bytes, place.start).is_err() {
            // A bad sector is the job's to report: its bytes are in the map, their meaning is unknown to all.
            self.unlisted =
                self.unlisted.saturating_add(place.len().checked_div(self.volume.geometry.inode_size).unwrap_or(0));
        } else {
            let size = usize::try_from(self.volume.geometry.inode_size).unwrap_or(1).max(1);
            for (index, inode) in (index..).zip(bytes.chunks_exact(size)) {
                self.inode(group, chunk, index, inode);
            }
        }
        self.chunk = bytes;
    }

    fn inode(&mut self, group: u64, chunk: &Chunk, index: u64, bytes: &[u8]) {
        let geometry = &self.volume.geometry;
        let free = chunk.free.checked_shr(u32::try_from(index).unwrap_or(64)).unwrap_or(0) & 1 == 1;
        let in_use = Fields(bytes).has(0, b"IN") && Fields(bytes).u16_be(2).is_ok_and(|mode| mode != 0);
        if free && !in_use {
            return;
        }
        let group_bits = geometry.group_log.saturating_add(geometry.inodes_log);
        let number = group.checked_shl(group_bits).unwrap_or(0) | chunk.first.saturating_add(index);
        let intact = in_use && inode::intact(bytes, number, geometry);
        self.unknown = self.unknown.saturating_add(u64::from(free && intact));
        let (map, missing) = (self.map, &mut self.missing);
        let listed = if in_use { self.lister.list(number, bytes, &mut |run| miss(map, missing, run)) } else { Ok(()) };
        match listed {
            Err(Error::Budget | Error::Unreadable) => self.unlisted = self.unlisted.saturating_add(1),
            Ok(()) if intact => {}
            _ => {
                self.first_broken = if self.broken == 0 { number } else { self.first_broken };
                self.broken = self.broken.saturating_add(1);
            }
        }
    }
}

/// Remembers `run` where the map has not all of it.
fn miss(map: &ExtentSet, missing: &mut Vec<Extent>, run: Extent) {
    if missing.len() < MAX_MISSING && !map.covers(run) {
        missing.push(run);
    }
}

impl Chunk {
    fn parse(f: Fields<'_>, sparse: bool) -> Option<Self> {
        let first = u64::from(f.u32_be(0).ok()?);
        let free = f.u64_be(8).ok()?;
        if !sparse {
            return (f.u32_be(4).ok()? <= 64).then_some(Self { first, holes: 0, count: 64, free });
        }
        let (holes, count) = (f.u16_be(4).ok()?, u64::from(f.u8(6).ok()?));
        let there = u64::from(holes.count_zeros()).saturating_mul(4);
        (count == there).then_some(Self { first, holes, count, free })
    }

    /// Returns how many inodes follow `index` without a hole.
    fn run(&self, index: u64) -> u64 {
        let bits = self.holes.checked_shr(u32::try_from(index / 4).unwrap_or(16));
        let there = bits.map_or(0, |bits| u64::from(bits.trailing_zeros()).min(16));
        there.saturating_mul(4).min(64u64.saturating_sub(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_chunks_have_holes() {
        let mut record = [0u8; 16];
        record[..8].copy_from_slice(&[0, 0, 1, 0, 0xf0, 0x0f, 32, 5]);
        let chunk = Chunk::parse(Fields(&record), true).unwrap();
        assert_eq!((chunk.first, chunk.count), (256, 32));
        assert_eq!((0..64).step_by(4).map(|index| chunk.run(index)).collect::<Vec<_>>(), {
            vec![0, 0, 0, 0, 32, 28, 24, 20, 16, 12, 8, 4, 0, 0, 0, 0]
        });
        record[6] = 31;
        assert!(Chunk::parse(Fields(&record), true).is_none(), "count and holes disagree");
        record[4..8].copy_from_slice(&[0, 0, 0, 9]);
        let chunk = Chunk::parse(Fields(&record), false).unwrap();
        assert_eq!((chunk.count, chunk.run(0), chunk.run(60)), (64, 64, 4));
    }
}

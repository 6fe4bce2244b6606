//! The inodes' word against the bitmaps': blocks that a file uses are kept, whatever a bitmap says.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume, Whole,
    groups::{Descriptor, INODE_ZEROED},
    inode::{Error, Inode, Lister},
    swapfile::SwapFiles,
    unused,
};
use crate::{
    bytes::Fields,
    extent::{Extent, ExtentSet},
    fs::{
        State, Survey,
        reader::{Holes, SmallReader},
    },
    units::KIB,
};

/// Tree blocks read at most. Files in extents need few; old volumes full of indirect blocks would take longer to
/// walk than to copy, and their bitmaps agree with every counter before the walk begins.
const BUDGET: u64 = 1 << 16;
/// The inode of bad blocks, which no directory names.
const BAD_BLOCKS: u64 = 1;
/// The inode of the blocks that are reserved for more descriptors, and of what was reserved beside their copies.
const RESIZE: u64 = 7;
/// Bytes behind the last inode of a table that are looked at, and from there on as long as there is anything in as many.
const LOOK: u64 = 16 * KIB;
/// Runs missing from the bitmaps that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;

/// What the walk over all inodes found.
pub(super) struct Walked {
    /// Whether the blocks of every file were listed.
    pub all_listed: bool,
    /// Groups with something in the tail of their inode table, in order.
    pub traces: Vec<u64>,
}

/// Adds what inodes use to the map of `survey`, and shows `swap` what they use.
///
/// * `settled`: no journal is waiting, so that everything on disk must fit together; otherwise oddities are passed over.
pub(super) fn unite(
    volume: &Volume<'_>,
    settled: bool,
    swap: &mut SwapFiles,
    survey: &mut Survey,
) -> Result<Walked, Whole> {
    let lister = Lister::new(volume, BUDGET);
    let mut walk = Walk { volume, swap, lister, tables: tables(volume), missing: Vec::new(), unlisted: 0, settled };
    let (mut reader, mut holes) = (SmallReader::new(volume.region), Holes::new(volume.region));
    let mut traces = Vec::new();
    for (group, desc) in (0u64..).zip(&volume.groups.descriptors) {
        let mut inodes = unused::ever_used(volume, desc);
        if let Some(reason) = volume.suspect {
            // What the descriptors say of unused inodes is as old as the bitmaps.
            inodes = volume.geometry.inodes_per_group;
            if !desc.intact {
                return Err(Whole::because(reason));
            }
        } else if !desc.intact {
            continue;
        }
        let mut index = 0;
        while index < inodes {
            let (number, offset) = place(volume, group, desc, index);
            // Zeros are no inodes, and a file knows where it holds nothing else.
            match holes.bytes_from(offset).checked_div(volume.geometry.inode_size).unwrap_or(0) {
                0 => index = index.saturating_add(1),
                skipped => {
                    index = index.saturating_add(skipped);
                    continue;
                }
            }
            // An unreadable table is the job's to report: its bytes are in the map, their meaning is unknown to all.
            let Ok(bytes) = reader.read(offset, 128) else {
                walk.unlisted = walk.unlisted.saturating_add(1);
                continue;
            };
            if number != BAD_BLOCKS && bytes.get(26..28).is_none_or(|links| links == [0, 0]) {
                continue;
            }
            let inode = Inode::parse(bytes, volume.wide()).map_err(Whole::damaged)?;
            walk.inode(number, &inode, &survey.allocated)?;
        }
        if walk.behind(group, desc, inodes, &mut holes, &survey.allocated)? {
            traces.push(group);
        }
    }
    let all_listed = walk.unlisted == 0;
    if let Some(reason) = volume.suspect.filter(|_| !all_listed) {
        return Err(Whole::because(reason));
    }
    walk.finish(survey);
    Ok(Walked { all_listed, traces })
}

/// Returns number and byte of inode `index` of a group.
fn place(volume: &Volume<'_>, group: u64, desc: &Descriptor, index: u64) -> (u64, u64) {
    let geometry = &volume.geometry;
    let number = group.saturating_mul(geometry.inodes_per_group).saturating_add(index).saturating_add(1);
    let table = desc.inode_table.saturating_mul(geometry.block_size);
    (number, table.saturating_add(index.saturating_mul(geometry.inode_size)))
}

/// Returns the bytes of all inode tables.
fn tables(volume: &Volume<'_>) -> ExtentSet {
    let geometry = &volume.geometry;
    let sound = volume.groups.descriptors.iter().filter(|desc| desc.intact);
    let table =
        |desc: &Descriptor| geometry.bytes(desc.inode_table, desc.inode_table.saturating_add(geometry.itable_blocks));
    ExtentSet::from_unsorted(sound.map(table).collect())
}

struct Walk<'v, 'a> {
    volume: &'v Volume<'a>,
    lister: Lister<'v, 'a>,
    tables: ExtentSet,
    missing: Vec<Extent>,
    unlisted: u64,
    settled: bool,
    swap: &'v mut SwapFiles,
}

impl Walk<'_, '_> {
    /// Looks at the inodes behind the first `used` of a group's table, which its descriptor calls never used, as far as
    /// there is anything; tells whether there is, in the blocks that hold none of the first.
    ///
    /// Descriptors and bitmaps may be older than the tables, where a disk lost what was written to the front of a volume:
    /// they agree with each other, and only the inodes know.
    fn behind(
        &mut self,
        group: u64,
        desc: &Descriptor,
        used: u64,
        holes: &mut Holes<'_>,
        map: &ExtentSet,
    ) -> Result<bool, Whole> {
        let volume = self.volume;
        let (block, per_group) = (volume.geometry.block_size, volume.geometry.inodes_per_group);
        let (_, end) = place(volume, group, desc, per_group);
        let (mut number, mut at) = place(volume, group, desc, used);
        let inode_len = usize::try_from(volume.geometry.inode_size).unwrap_or(usize::MAX);
        let (mut bytes, mut anything) = (Vec::new(), false);
        while at < end {
            let tail = at.is_multiple_of(block);
            let to = if tail { at.saturating_add(LOOK.max(block)) } else { at.next_multiple_of(block) }.min(end);
            let len = to.saturating_sub(at);
            if tail && holes.bytes_from(at) >= len {
                break;
            }
            bytes.resize(usize::try_from(len).unwrap_or(0), 0);
            if volume.region.read_exact_at(&mut bytes, at).is_err() {
                self.unlisted = self.unlisted.saturating_add(1);
                return Ok(true);
            }
            at = to;
            let mut own = false;
            if bytes.iter().any(|byte| *byte != 0) {
                anything |= tail;
                for raw in bytes.chunks_exact(inode_len) {
                    own |= self.unused(number, raw, desc, map)?;
                    number = number.saturating_add(1);
                }
            }
            if tail && !own {
                break;
            }
        }
        Ok(anything)
    }

    /// Looks at one inode that should not be in use; tells whether this file system wrote it.
    fn unused(&mut self, number: u64, raw: &[u8], desc: &Descriptor, map: &ExtentSet) -> Result<bool, Whole> {
        // What was on the disk before lies there until the kernel zeroes the table after the first mount.
        let intact = self.volume.format.inode_intact(raw, number);
        if raw.iter().all(|byte| *byte == 0) || intact == Some(false) {
            return Ok(false);
        }
        let inode = Inode::parse(raw, self.volume.wide()).map_err(Whole::damaged)?;
        let deleted = Fields(raw).u32(20).map_err(Whole::damaged)? != 0;
        let kind = matches!(inode.mode >> 12, 1 | 2 | 4 | 6 | 8 | 10 | 12);
        if deleted || inode.links == 0 || !kind {
            return Ok(true);
        }
        if !self.settled {
            // The journal has yet to move the mark.
            self.inode(number, &inode, map)?;
            return Ok(true);
        }
        let what = format!("inode {number} is in use, and its group calls it never used");
        if intact.is_none() && desc.flags & INODE_ZEROED == 0 {
            return Err(Whole::because(format_args!("{what}; its table was not zeroed, so it may be older than both")));
        }
        Err(Whole::damaged(format_args!("{what}: bitmaps and descriptors are older than the inodes")))
    }

    fn inode(&mut self, number: u64, inode: &Inode, map: &ExtentSet) -> Result<(), Whole> {
        let (volume, tables) = (self.volume, &self.tables);
        let (missing, swap) = (&mut self.missing, &mut *self.swap);
        // Blocks reserved for descriptors belong to an inode, bad ones of a superblock's copy to another.
        let may_hold_heads = matches!(number, BAD_BLOCKS | RESIZE);
        let mut over = None;
        let listed = self.lister.list(inode, &mut |run| {
            let extent = volume.geometry.bytes(run.start, run.start.saturating_add(run.len));
            if missing.len() < MAX_MISSING && !map.covers(extent) {
                missing.push(extent);
            }
            let structures = if may_hold_heads { tables } else { &volume.groups.sure };
            over = over.or_else(|| structures.within(extent).next());
            if !swap.is_empty() {
                swap.claimed(number, extent);
            }
        });
        if let Some(over) = over.filter(|_| self.settled) {
            return Err(Whole::damaged(format_args!("inode {number} has blocks of the file system's own, {over}")));
        }
        if self.missing.len() >= MAX_MISSING {
            return Err(Whole::damaged("files use many blocks that the block bitmaps call free"));
        }
        match listed {
            Ok(()) => Ok(()),
            Err(Error::Budget | Error::Unreadable(_)) => {
                self.unlisted = self.unlisted.saturating_add(1);
                Ok(())
            }
            Err(_) if !self.settled => Ok(()),
            Err(error) => Err(Whole::damaged(format_args!("inode {number} is broken: {error}"))),
        }
    }

    fn finish(self, survey: &mut Survey) {
        if self.unlisted > 0 {
            survey.notes.push(format!("{} large or unreadable files were taken from the bitmaps alone", self.unlisted));
        }
        if self.missing.is_empty() {
            return;
        }
        let missing = ExtentSet::from_unsorted(self.missing);
        survey.widened.push(format!(
            "{} that files use are free in the block bitmaps, and kept",
            crate::units::Bytes(missing.total())
        ));
        survey.allocated = survey.allocated.union(&missing);
        if let Some(detected) = survey.detected.as_mut().filter(|detected| detected.state == State::Clean) {
            // Before a recovery inodes may be ahead of or behind the bitmaps, and so they may be in a dirty volume.
            if self.settled {
                detected.state = State::Damaged;
            }
        }
    }
}

//! The inodes' word against the bitmaps': blocks that a file uses are kept, whatever a bitmap says.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume, Whole,
    groups::INODE_UNINIT,
    inode::{Error, Inode, Lister},
    swapfile::SwapFiles,
};
use crate::{
    extent::{Extent, ExtentSet},
    fs::{State, Survey, reader::SmallReader},
};

/// Tree blocks read at most. Files in extents need few; old volumes full of indirect blocks would take longer to
/// walk than to copy, and their bitmaps agree with every counter before the walk begins.
const BUDGET: u64 = 1 << 16;
/// The inode of bad blocks, which no directory names.
const BAD_BLOCKS: u64 = 1;
/// Runs missing from the bitmaps that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;

/// Adds what inodes use to the map of `survey`, and shows `swap` what they use; tells whether all of them were listed.
///
/// * `settled`: no journal is waiting, so that everything on disk must fit together; otherwise oddities are passed over.
pub(super) fn unite(
    volume: &Volume<'_>,
    settled: bool,
    swap: &mut SwapFiles,
    survey: &mut Survey,
) -> Result<bool, Whole> {
    let mut walk = Walk { swap, lister: Lister::new(volume, BUDGET), missing: Vec::new(), unlisted: 0, settled };
    let mut tables = SmallReader::new(volume.region);
    for (group, desc) in (0u64..).zip(&volume.groups.descriptors) {
        let mut inodes = volume.geometry.inodes_per_group.saturating_sub(u64::from(desc.unused_inodes));
        if let Some(reason) = volume.suspect {
            // What the descriptors say of unused inodes is as old as the bitmaps.
            inodes = volume.geometry.inodes_per_group;
            if !desc.intact {
                return Err(Whole::because(reason));
            }
        } else if !desc.intact || desc.flags & INODE_UNINIT != 0 {
            continue;
        }
        let table = desc.inode_table.saturating_mul(volume.geometry.block_size);
        for index in 0..inodes {
            let offset = table.saturating_add(index.saturating_mul(volume.geometry.inode_size));
            // An unreadable table is the job's to report: its bytes are in the map, their meaning is unknown to all.
            let Ok(bytes) = tables.read(offset, 128) else {
                walk.unlisted = walk.unlisted.saturating_add(1);
                continue;
            };
            let number = group.saturating_mul(volume.geometry.inodes_per_group).saturating_add(index).saturating_add(1);
            if number != BAD_BLOCKS && bytes.get(26..28).is_none_or(|links| links == [0, 0]) {
                continue;
            }
            let inode = Inode::parse(bytes, volume.wide()).map_err(Whole::damaged)?;
            walk.inode(volume, number, &inode, &survey.allocated)?;
        }
    }
    let all_listed = walk.unlisted == 0;
    if let Some(reason) = volume.suspect.filter(|_| !all_listed) {
        return Err(Whole::because(reason));
    }
    walk.finish(survey);
    Ok(all_listed)
}

struct Walk<'v, 'a> {
    lister: Lister<'v, 'a>,
    missing: Vec<Extent>,
    unlisted: u64,
    settled: bool,
    swap: &'v mut SwapFiles,
}

impl Walk<'_, '_> {
    fn inode(&mut self, volume: &Volume<'_>, number: u64, inode: &Inode, map: &ExtentSet) -> Result<(), Whole> {
        let (missing, swap) = (&mut self.missing, &mut *self.swap);
        let listed = self.lister.list(inode, &mut |run| {
            let extent = volume.geometry.bytes(run.start, run.start.saturating_add(run.len));
            if missing.len() < MAX_MISSING && !map.covers(extent) {
                missing.push(extent);
            }
            if !swap.is_empty() {
                swap.claimed(number, extent);
            }
        });
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

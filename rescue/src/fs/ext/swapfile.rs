//! Swap files: no system reads their pages again after a restart, so that only the header is kept.
//!
//! ```text
//! | header page: SWAPSPACE2 in its last ten bytes | pages that may be swapped to ... last page | (anything) |
//! |                    kept                       |              left out                      |   kept     |
//! ```
//!
//! A file is left out when it stands where swap files stand or where `/etc/fstab` of the same file system says, has a
//! sound header and is nothing else by any sign, has no hole, and shares no block with anything else; and only where the
//! file system is clean.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

use super::{
    Volume,
    content::{self, Content, MAX_RUNS},
    dirs::{Dirs, fstab_paths},
    inode::{Inode, Run},
    journal::Log,
    superblock::feature,
};
use crate::{
    block::ReadAt as _,
    bytes::Fields,
    extent::{Extent, ExtentSet},
    fs::{LeftOut, Options, State, Survey, detect, inner},
};

/// Where distributions and their guides put swap files.
const USUAL: [&str; 10] = [
    "/swapfile",
    "/swap.img",
    "/swap",
    "/.swapfile",
    "/swapfile.img",
    "/swap/swapfile",
    "/swap/swap.img",
    "/var/swap",
    "/var/swapfile",
    "/var/swap/swapfile",
];
/// Bytes before the header, which the header leaves to boot code and labels of partitions.
const BOOT: usize = 1024;
/// Tree blocks read of one file at most: a terabyte in small extents.
const BUDGET: u64 = 1 << 12;
const ENCRYPTED: u32 = 0x800;
const EA_INODE: u32 = 0x20_0000;
const VERITY: u32 = 0x10_0000;
const INLINE_DATA: u32 = 0x1000_0000;

/// Swap files that may be left out, and what the walk over all inodes finds in their blocks.
#[derive(Default)]
pub(super) struct SwapFiles {
    files: Vec<SwapFile>,
    inodes: BTreeSet<u64>,
    extents: ExtentSet,
    shared: Vec<Extent>,
    hibernated: Option<String>,
}

struct SwapFile {
    path: String,
    /// Bytes of the region whose content means nothing.
    pages: ExtentSet,
}

/// Finds the swap files of `volume`: none, where anything about it is in doubt or nobody wants them left out.
pub(super) fn find(volume: &Volume<'_>, log: &Log, options: &Options, survey: &Survey) -> SwapFiles {
    let mut found = SwapFiles::default();
    let clean = survey.detected.as_ref().is_some_and(|detected| detected.state == State::Clean);
    let waiting = volume.sb.has_incompat(feature::INCOMPAT_RECOVER) || !log.is_empty();
    if options.keep_swap_files || waiting || !clean || !survey.widened.is_empty() {
        return found;
    }
    let mut dirs = Dirs::new(volume);
    let table = dirs.find("/etc/fstab").and_then(|number| dirs.content(number, 1 << 16)).unwrap_or_default();
    let paths = USUAL.iter().map(|path| (*path).to_owned()).chain(fstab_paths(&table)).collect::<BTreeSet<_>>();
    for path in paths {
        let Some(number) = dirs.find(&path) else { continue };
        if !found.inodes.contains(&u64::from(number)) {
            found.add(volume, path, number);
        }
    }
    found
}

impl SwapFiles {
    fn add(&mut self, volume: &Volume<'_>, path: String, number: u32) {
        let Some(inode) = volume.inode(number) else { return };
        let Some(runs) = data_runs(volume, &inode) else { return };
        let Some((page, last_page)) = header(&Content::new(volume, &inode, &runs)) else { return };
        let Some(page) = page else {
            self.hibernated = Some(path);
            return;
        };
        let block_size = volume.geometry.block_size;
        let end = last_page.saturating_add(1).saturating_mul(page);
        if end > inode.size || last_page == 0 {
            return;
        }
        let (first, behind) = (page.div_ceil(block_size), end.checked_div(block_size).unwrap_or(0));
        let pieces = runs.iter().filter_map(|(logical, run)| {
            let from = first.max(*logical);
            let to = behind.min(logical.saturating_add(run.len));
            let skipped = from.saturating_sub(*logical);
            let start = run.start.saturating_add(skipped);
            (from < to).then(|| volume.geometry.bytes(start, start.saturating_add(to.saturating_sub(from))))
        });
        let pieces = pieces.collect::<Vec<_>>();
        let named = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.len()));
        let pages = ExtentSet::from_unsorted(pieces);
        // A hole, or one block in two places: no kernel would swap to it.
        let whole = named == behind.saturating_sub(first).saturating_mul(block_size) && pages.total() == named;
        if whole && pages.intersect(&volume.groups.metadata).is_empty() && pages.intersect(&self.extents).is_empty() {
            self.extents = self.extents.union(&pages);
            self.inodes.insert(u64::from(number));
            self.files.push(SwapFile { path, pages });
        }
    }

    /// Tells whether the walk has to show what it finds.
    pub(super) const fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Takes note of bytes that inode `number` uses.
    pub(super) fn claimed(&mut self, number: u64, extent: Extent) {
        if !self.inodes.contains(&number) {
            self.shared.extend(self.extents.within(extent));
            // Whoever shares that many blocks shares them all.
            if self.shared.len() > MAX_RUNS {
                self.files.clear();
                self.shared.clear();
            }
        }
    }

    /// Takes the pages out of the map of `survey`, unless the walk left something unlisted.
    pub(super) fn leave_out(self, volume: &Volume<'_>, all_listed: bool, survey: &mut Survey) {
        if let Some(path) = self.hibernated {
            survey.notes.push(format!("a hibernated system is in the swap file {path}, which is kept"));
            survey.detected.iter_mut().for_each(|detected| detected.state = State::Hibernated);
            return;
        }
        if !all_listed || !survey.widened.is_empty() {
            return;
        }
        let shared = ExtentSet::from_unsorted(self.shared);
        for file in self.files {
            if !file.pages.intersect(&shared).is_empty() {
                survey.notes.push(format!("the swap file {} shares blocks with other files, and is kept", file.path));
                continue;
            }
            let pages = whole_clusters(volume, &file.pages);
            survey.allocated = survey.allocated.subtract(&pages);
            survey.left_out.push(LeftOut { path: file.path, bytes: pages.total() });
        }
    }
}

/// Returns the runs of a regular file, each with its first block of the file.
fn data_runs(volume: &Volume<'_>, inode: &Inode) -> Option<Vec<(u64, Run)>> {
    let plain = inode.flags & (ENCRYPTED | EA_INODE | VERITY | INLINE_DATA) == 0;
    if inode.mode & 0xf000 != 0x8000 || inode.links == 0 || !plain {
        return None;
    }
    content::runs(volume, inode, BUDGET)
}

/// Reads the header of a swap file: the page size, `None` where a hibernated system is in it, and the last page.
fn header(content: &Content<'_>) -> Option<(Option<u64>, u64)> {
    let mut head = [0; BOOT.saturating_add(12)];
    content.read_exact_at(&mut head, 0).ok()?;
    // A disk of a virtual machine may have taken its place.
    if inner::has_table(&head, u64::MAX) {
        return None;
    }
    let found = detect::all(content);
    if found.iter().any(|found| found.name == "swsuspend") {
        return Some((None, 0));
    }
    // What else was made in the file may have spared the header, and labels of partitions stand before it: only a file
    // that can be nothing but swap is.
    let [found] = found.as_slice() else { return None };
    if found.name != "swap" || !head.iter().take(BOOT).all(|byte| *byte == 0) {
        return None;
    }
    let f = Fields(&head);
    let (version, last_page, bad_pages) = (f.u32(1024).ok()?, f.u32(1028).ok()?, f.u32(1032).ok()?);
    // A page that is no good is listed behind the label, where there is room for 637 of them in the smallest page.
    let sound = found.version.as_deref() == Some("1") && version == 1 && bad_pages <= 637;
    sound.then_some((Some(u64::from(found.block_size?)), u64::from(last_page)))
}

/// Rounds every extent inwards to clusters: a bit of the bitmap stands for all blocks of one.
fn whole_clusters(volume: &Volume<'_>, pages: &ExtentSet) -> ExtentSet {
    let geometry = &volume.geometry;
    let cluster = geometry.block_size.saturating_mul(geometry.cluster_ratio).max(1);
    // Clusters are counted from the first block, which is the first of the region wherever they are not blocks.
    let inwards = pages.iter().filter_map(|extent| {
        let start = extent.start.checked_next_multiple_of(cluster)?;
        let end = extent.end.saturating_sub(extent.end.checked_rem(cluster)?);
        (start < end).then(|| Extent::new(start, end))
    });
    inwards.collect()
}

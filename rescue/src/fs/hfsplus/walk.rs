//! What the trees of HFS+ say about blocks, to be united with the bitmap.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use super::{
    Volume,
    btree::{Error, Tree},
    header::{Fork, Run, runs},
};
use crate::bytes::{Fields, Truncated};

/// Bytes of all trees that are read at most. Larger volumes are taken from the bitmap, which agrees with its count.
const BUDGET: u64 = 128 << 20;
/// Records of runs of special files that are remembered; a sound volume has few.
const MAX_SPECIAL: usize = 1 << 16;
/// The catalog's own number in the tree of extents.
pub const CATALOG: u32 = 4;
/// The number of the file that holds bad blocks.
const BAD_BLOCKS: u32 = 5;
/// The bitmap's number.
pub const ALLOCATION: u32 = 6;
/// The number of the start-up file.
const STARTUP: u32 = 7;
/// The number of the tree of attributes.
pub const ATTRIBUTES: u32 = 8;
/// The parent of the root folder.
const ROOT_PARENT: u32 = 1;

/// What trees say.
#[derive(Debug, Default)]
pub struct Walk {
    /// Runs of the special files, by file number, from the tree of extents.
    special: BTreeMap<u32, Vec<(u64, Vec<Run>)>>,
    /// Trees that were not read to the end.
    pub unread: Vec<&'static str>,
    /// Whether there is a file of bad blocks.
    pub bad_blocks: bool,
    budget: u64,
}

impl Walk {
    /// Starts a walk with nothing read.
    #[must_use]
    pub fn new() -> Self {
        Self { budget: BUDGET, ..Self::default() }
    }

    /// Reads the tree of extents; its runs go to `each`.
    ///
    /// # Errors
    /// It is broken.
    pub fn extents(&mut self, volume: &Volume<'_>, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        let Some(tree) = Tree::open(volume, &volume.header.extents)? else { return Ok(()) };
        let (special, bad_blocks, mut remembered) = (&mut self.special, &mut self.bad_blocks, 0usize);
        let read = tree.leaves(volume, &mut self.budget, &mut |record| {
            let (file, first) = (record.u32_be(4)?, u64::from(record.u32_be(8)?));
            let found = runs(record.slice(12, 64)?);
            found.iter().for_each(|run| each(*run));
            *bad_blocks |= file == BAD_BLOCKS;
            let known = remembered < MAX_SPECIAL;
            if known && matches!(file, CATALOG | ALLOCATION | STARTUP | ATTRIBUTES) {
                // A file of which some were forgotten is found incomplete later.
                remembered = remembered.saturating_add(1);
                special.entry(file).or_default().push((first, found));
            }
            Ok(true)
        });
        self.settle("the tree of extents", read)
    }

    /// Returns `fork` with the runs the tree of extents has of it. They must follow each other without a hole.
    #[must_use]
    pub fn complete(&self, file: u32, fork: &Fork) -> Option<Fork> {
        let mut whole = fork.clone();
        for (first, found) in self.special.get(&file).into_iter().flatten() {
            if *first != whole.listed() {
                return None;
            }
            whole.extend(found);
        }
        (whole.listed() >= whole.blocks).then_some(whole)
    }

    /// Reads the catalog; the runs of all files go to `each`.
    ///
    /// # Errors
    /// It is broken.
    pub fn catalog(&mut self, volume: &Volume<'_>, fork: &Fork, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        let Some(tree) = Tree::open(volume, fork)? else { return Ok(()) };
        let read = tree.leaves(volume, &mut self.budget, &mut |record| {
            let data = behind_key(record)?;
            if data.u16_be(0)? == 2 {
                for offset in [88, 168] {
                    Fork::parse(data, offset)?.runs().iter().for_each(|run| each(*run));
                }
            }
            Ok(true)
        });
        self.settle("the catalog", read)
    }

    /// Reads the tree of attributes; the runs of those with blocks of their own go to `each`.
    ///
    /// # Errors
    /// It is broken.
    pub fn attributes(&mut self, volume: &Volume<'_>, fork: &Fork, each: &mut dyn FnMut(Run)) -> Result<(), Error> {
        let Some(tree) = Tree::open(volume, fork)? else { return Ok(()) };
        let read = tree.leaves(volume, &mut self.budget, &mut |record| {
            let data = behind_key(record)?;
            match data.u32_be(0)? {
                0x20 => Fork::parse(data, 8)?.runs().iter().for_each(|run| each(*run)),
                0x30 => runs(data.slice(8, 64)?).into_iter().for_each(&mut *each),
                _ => {}
            }
            Ok(true)
        });
        self.settle("the tree of attributes", read)
    }

    fn settle(&mut self, tree: &'static str, read: Result<(), Error>) -> Result<(), Error> {
        if let Err(Error::Budget) = read {
            self.unread.push(tree);
            return Ok(());
        }
        read
    }
}

/// Returns what follows the key of a record.
fn behind_key(record: Fields<'_>) -> Result<Fields<'_>, Truncated> {
    let at = usize::from(record.u16_be(0)?).saturating_add(2).next_multiple_of(2);
    Ok(Fields(record.slice(at, record.0.len().saturating_sub(at))?))
}

/// Returns the volume's name: that of the root folder, the first in the catalog.
#[must_use]
pub fn label(volume: &Volume<'_>) -> Option<String> {
    let tree = Tree::open(volume, &volume.header.catalog).ok()??;
    let mut name = None;
    // Whatever goes wrong behind the first record is not asked for here.
    let _ = tree.leaves(volume, &mut { 1 << 20 }, &mut |record| {
        if record.u32_be(2)? == ROOT_PARENT {
            let len = usize::from(record.u16_be(6)?).saturating_mul(2);
            let units = record.slice(8, len)?.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
            let text = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>();
            name = Some(text).filter(|text| !text.is_empty());
        }
        Ok(false)
    });
    name
}

//! The directory tree's word against the bitmap's: clusters that a file uses are kept, whatever the bitmap says.
//!
//! A tree in which every entry set, chain and claim is right names every cluster that can be reached, so that it needs
//! no bitmap; a bitmap beside a tree with an error in it has nothing that vouches for it, and everything is kept.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    bitmap::bytes_of,
    boot::Boot,
    claims::Claims,
    entries::{self, Item, Sets},
    fat::{self, Links, Place},
};
use crate::{
    block::ReadAt,
    extent::{Extent, ExtentSet},
};

/// Bytes of directories read at most (ten million files or so); a volume with more is kept whole.
const BUDGET: u64 = 1 << 30;
/// Runs of chains followed at most: what a walk of seconds can do.
const MAX_RUNS: u64 = 1 << 26;
/// Bytes of a directory read at once.
const STEP: u64 = 64 << 10;
/// The longest directory, by the specification.
const MAX_DIR: u64 = 256 << 20;
/// Runs missing from the bitmap that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;

/// Why the tree does not vouch for the bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Something is broken: the reason.
    Damage(String),
    /// Something is newer than we are: the reason.
    Unknown(String),
    /// There is more of it than is read, so that nobody knows.
    TooMany,
}

impl Doubt {
    fn damage(reason: impl std::fmt::Display) -> Self {
        Self::Damage(reason.to_string())
    }

    fn of(error: entries::Error, place: &Place) -> Self {
        let reason = format!("in the directory at cluster {}: {error}", place.first);
        match error {
            entries::Error::Unknown(_) => Self::Unknown(reason),
            _ => Self::Damage(reason),
        }
    }
}

/// What the root directory says about the volume.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// The first and the second allocation bitmap.
    pub bitmaps: [Option<Place>; 2],
    /// The up-case table with its checksum.
    pub upcase: Option<(u32, Place)>,
}

/// Walks the tree through one copy of the FAT.
pub struct Walk<'w> {
    region: &'w dyn ReadAt,
    boot: &'w Boot,
    links: Links<'w>,
    claims: Claims,
    budget: u64,
    runs: u64,
}

impl<'w> Walk<'w> {
    /// Begins a walk through FAT `number`.
    #[must_use]
    pub fn new(region: &'w dyn ReadAt, boot: &'w Boot, number: u64) -> Self {
        let (links, claims) = (Links::new(region, boot, number), Claims::new(boot.clusters));
        Self { region, boot, links, claims, budget: BUDGET, runs: MAX_RUNS }
    }

    const fn root_place(&self) -> Place {
        Place { first: self.boot.root, len: 0, contiguous: false }
    }

    /// Reads what the root directory says about the volume.
    ///
    /// # Errors
    /// [`Doubt`].
    pub fn root(&mut self) -> Result<Root, Doubt> {
        let (mut root, mut twice) = (Root::default(), false);
        self.directory(&self.root_place(), &mut |item| match item {
            Item::Bitmap(number, place) => {
                let slot = if number == 0 { &mut root.bitmaps[0] } else { &mut root.bitmaps[1] };
                twice |= slot.replace(place).is_some();
            }
            Item::Upcase(checksum, place) => twice |= root.upcase.replace((checksum, place)).is_some(),
            Item::File(_) | Item::Directory(_) => {}
        })?;
        if twice { Err(Doubt::damage("the root directory names the same table twice")) } else { Ok(root) }
    }

    /// Walks the whole tree and returns what of it is not in `map`.
    ///
    /// # Errors
    /// [`Doubt`].
    pub fn tree(&mut self, map: &ExtentSet) -> Result<ExtentSet, Doubt> {
        self.claims = Claims::new(self.boot.clusters);
        let (mut missing, mut todo) = (Vec::new(), Vec::new());
        let mut next = Some(self.root_place());
        while let Some(place) = next {
            let mut files = Vec::new();
            self.claim(&place, map, &mut missing)?;
            self.directory(&place, &mut |item| match item {
                Item::Directory(place) => todo.push(place),
                Item::File(place) | Item::Bitmap(_, place) | Item::Upcase(_, place) => files.push(place),
            })?;
            files.iter().try_for_each(|file| self.claim(file, map, &mut missing))?;
            next = todo.pop();
        }
        Ok(ExtentSet::from_unsorted(missing))
    }

    /// Claims the clusters of what lies at `place`, and remembers those that are not in `map`.
    fn claim(&mut self, place: &Place, map: &ExtentSet, missing: &mut Vec<Extent>) -> Result<(), Doubt> {
        let Self { boot, links, claims, runs, .. } = self;
        let mut twice = None;
        links
            .list(place, &mut |run| {
                *runs = runs.saturating_sub(1);
                if !claims.insert(run.first.saturating_sub(2), run.count) {
                    twice = Some(run);
                    return false;
                }
                let extent = bytes_of(boot, run);
                if !map.covers(extent) && missing.len() < MAX_MISSING {
                    missing.push(extent);
                }
                *runs > 0
            })
            .map_err(|error| match error {
                fat::Error::Unreadable(_) => Doubt::damage(error),
                _ => Doubt::damage(format_args!("of the file or directory at cluster {}: {error}", place.first)),
            })?;
        if let Some(run) = twice {
            return Err(Doubt::damage(format_args!("clusters {}+{} are used twice", run.first, run.count)));
        }
        if self.runs == 0 {
            return Err(Doubt::TooMany);
        }
        if missing.len() >= MAX_MISSING {
            return Err(Doubt::damage("files use many clusters that the bitmap calls free"));
        }
        Ok(())
    }

    /// Calls `each` with what the directory at `place` names.
    fn directory(&mut self, place: &Place, each: &mut dyn FnMut(Item)) -> Result<(), Doubt> {
        if place.len > MAX_DIR {
            return Err(Doubt::damage(format_args!("the directory at cluster {} is too long", place.first)));
        }
        // The root directory has no length: it ends with its chain.
        let mut left = if place.len == 0 { MAX_DIR } else { place.len };
        let mut extents = Vec::new();
        let boot = self.boot;
        let listed = self.links.list(place, &mut |run| {
            let extent = bytes_of(boot, run);
            let part = extent.len().min(left);
            extents.push(Extent::new(extent.start, extent.start.saturating_add(part)));
            left = left.saturating_sub(part);
            left > 0
        });
        listed.map_err(|error| Doubt::damage(format_args!("of the directory at cluster {}: {error}", place.first)))?;
        let mut sets = Sets::default();
        for extent in extents {
            let mut at = extent.start;
            while at < extent.end {
                let len = STEP.min(extent.end.saturating_sub(at));
                self.budget = self.budget.checked_sub(len).ok_or(Doubt::TooMany)?;
                let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
                let unreadable = |error| Doubt::damage(format_args!("a directory cannot be read: {error}"));
                self.region.read_exact_at(&mut bytes, at).map_err(unreadable)?;
                for entry in bytes.chunks_exact(entries::LEN) {
                    if !sets.push(entry, each).map_err(|error| Doubt::of(error, place))? {
                        return Ok(());
                    }
                }
                at = at.saturating_add(len);
            }
        }
        sets.end().map_err(|error| Doubt::of(error, place))
    }
}

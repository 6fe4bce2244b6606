//! The directory tree's word against the bitmap's: clusters that a file uses are kept, whatever the bitmap says.
//!
//! A tree in which every entry set, chain and claim is right names every cluster that can be reached, so that it needs
//! no bitmap; a bitmap beside a tree with an error in it has nothing that vouches for it, and everything is kept.
//!
//! A directory ends with an entry of type 0. The specification says that only such entries follow, and Linux, Windows
//! and fsck.exfat read no further; nor do we, so that a directory in a large cluster costs no more than its entries.
//!
//! Chains are followed link by link, unless they lead through the FAT in leaps that make it be read over and over. Those
//! of files are then left, and one reading of the whole FAT in order tells as much of all of them: a link of a cluster
//! that is used, and whose file was not followed, must lead to another such cluster to which no other link leads.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    bitmap::{bytes_of, clusters_of},
    boot::Boot,
    claims::Claims,
    entries::{self, Item, Sets},
    fat::{self, Links, Patience, Place, Run},
};
use crate::{
    block::ReadAt,
    extent::{Extent, ExtentSet},
};

/// Bytes of directories read at most, each read taken for [`FIRST`] at least: four million directories, or files past
/// counting. A volume with more is kept whole.
const BUDGET: u64 = 16 << 30;
/// Bytes of a directory read first: most end there, and the rest of their clusters, however large, is not read.
const FIRST: u64 = 4 << 10;
/// Bytes of a directory read at once.
const STEP: u64 = 64 << 10;
/// Directories waiting to be read: 48 MiB of memory.
const MAX_WAITING: usize = 2 << 20;
/// How often the FAT may be read over before the chains of files are checked all at once.
const READINGS: u64 = 4;
/// Pages of the FAT that may be read for files, and once more for directories: what a walk of seconds can do.
const MAX_LOADS: u64 = 1 << 21;
/// Runs of chains that may be followed, in the same way.
const MAX_JUMPS: u64 = 1 << 26;
/// Clusters of which chains are checked all at once: a FAT of 4 GiB.
const MAX_SETTLED: u64 = 1 << 30;
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

/// Chains that were left, to be looked at all at once.
struct Left {
    /// Clusters that something leads to.
    linked: Claims,
    /// Clusters that the files need beyond those that were followed.
    needed: u64,
}

/// A directory that is being read.
struct Folder {
    place: Place,
    now: Extent,
    rest: std::vec::IntoIter<Extent>,
    step: u64,
    sets: Sets,
}

/// Walks the tree through one copy of the FAT.
pub struct Walk<'w> {
    region: &'w dyn ReadAt,
    boot: &'w Boot,
    links: Links<'w>,
    claims: Claims,
    left: Option<Left>,
    budget: u64,
    for_files: Patience,
    for_folders: Patience,
    buffer: Vec<u8>,
}

impl<'w> Walk<'w> {
    /// Begins a walk through FAT `number`.
    #[must_use]
    pub fn new(region: &'w dyn ReadAt, boot: &'w Boot, number: u64) -> Self {
        let (links, claims) = (Links::new(region, boot, number), Claims::new(boot.clusters));
        let loads = links.pages().saturating_mul(READINGS).min(MAX_LOADS);
        let patience = Patience { loads, jumps: MAX_JUMPS };
        let (left, budget, buffer) = (None, BUDGET, Vec::new());
        let walk =
            Self { region, boot, links, claims, left, budget, for_files: patience, for_folders: patience, buffer };
        walk.within(budget, patience)
    }

    /// Changes what the walk may cost: `budget` bytes of directories, and `patience` with the chains of files.
    #[must_use]
    pub const fn within(mut self, budget: u64, patience: Patience) -> Self {
        let (loads, jumps) = (patience.loads.saturating_add(MAX_LOADS), patience.jumps.saturating_add(MAX_JUMPS));
        (self.budget, self.for_files, self.for_folders) = (budget, patience, Patience { loads, jumps });
        self
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
        let (mut folder, mut items) = (self.open(&self.root_place())?, Vec::new());
        while self.read(&mut folder, &mut items)? {
            for item in items.drain(..) {
                match item {
                    Item::Bitmap(number, place) => {
                        let slot = if number == 0 { &mut root.bitmaps[0] } else { &mut root.bitmaps[1] };
                        twice |= slot.replace(place).is_some();
                    }
                    Item::Upcase(checksum, place) => twice |= root.upcase.replace((checksum, place)).is_some(),
                    Item::File(_) | Item::Directory(_) => {}
                }
            }
        }
        if twice { Err(Doubt::damage("the root directory names the same table twice")) } else { Ok(root) }
    }

    /// Walks the whole tree and returns what of it is not in `map`.
    ///
    /// # Errors
    /// [`Doubt`].
    pub fn tree(&mut self, map: &ExtentSet) -> Result<ExtentSet, Doubt> {
        self.claims = Claims::new(self.boot.clusters);
        let (mut missing, mut todo, mut items) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(self.root_place());
        while let Some(place) = next {
            self.links.patience = self.for_folders;
            if self.claim(&place, map, &mut missing)?.is_some() {
                return Err(Doubt::TooMany);
            }
            let mut folder = self.open(&place)?;
            self.links.patience = self.for_files;
            while self.read(&mut folder, &mut items)? {
                for item in items.drain(..) {
                    match item {
                        Item::Directory(_) if todo.len() >= MAX_WAITING => return Err(Doubt::TooMany),
                        Item::Directory(place) => todo.push(place),
                        Item::File(place) | Item::Bitmap(_, place) | Item::Upcase(_, place) => {
                            if let Some((next, have)) = self.claim(&place, map, &mut missing)? {
                                self.leave(next, place.clusters(self.boot).saturating_sub(have), map)?;
                            }
                        }
                    }
                }
            }
            next = todo.pop();
        }
        self.settle(map)?;
        Ok(ExtentSet::from_unsorted(missing))
    }

    /// Claims the clusters of what lies at `place`, and remembers those that are not in `map`. Returns the cluster from
    /// which on the chain was not followed, if it was not, and how many were before it.
    fn claim(
        &mut self,
        place: &Place,
        map: &ExtentSet,
        missing: &mut Vec<Extent>,
    ) -> Result<Option<(u64, u64)>, Doubt> {
        let Self { boot, links, claims, .. } = self;
        let mut twice = None;
        let listed = links.list(place, &mut |run| {
            if !claims.insert(run.first.saturating_sub(2), run.count) {
                twice = Some(run);
                return false;
            }
            let extent = bytes_of(boot, run);
            if !map.covers(extent) && missing.len() < MAX_MISSING {
                missing.push(extent);
            }
            true
        });
        if let Some(run) = twice {
            return Err(Doubt::damage(format_args!("clusters {}+{} are used twice", run.first, run.count)));
        }
        if missing.len() >= MAX_MISSING {
            return Err(Doubt::damage("files use many clusters that the bitmap calls free"));
        }
        match listed {
            Ok(()) => Ok(None),
            Err(fat::Error::Patience { next, have }) => Ok(Some((next, have))),
            Err(error @ fat::Error::Unreadable(_)) => Err(Doubt::damage(error)),
            Err(error) => {
                Err(Doubt::damage(format_args!("of the file or directory at cluster {}: {error}", place.first)))
            }
        }
    }

    /// Leaves the rest of a chain, `needed` clusters from `first` on, to [`Walk::settle`].
    fn leave(&mut self, first: u64, needed: u64, map: &ExtentSet) -> Result<(), Doubt> {
        let clusters = self.boot.clusters;
        let left = self.left.get_or_insert_with(|| Left { linked: Claims::new(clusters), needed: 0 });
        left.needed = left.needed.saturating_add(needed);
        if !map.covers(bytes_of(self.boot, Run { first, count: 1 })) {
            return Err(Doubt::damage(format_args!("a chain leads to cluster {first}, which the bitmap calls free")));
        }
        if !left.linked.insert(first.saturating_sub(2), 1) {
            return Err(Doubt::damage(format_args!("clusters {first}+1 are used twice")));
        }
        Ok(())
    }

    /// Checks the chains that were left. Where every link of a used cluster leads to a used one, none of them leaves the
    /// map; where no two lead to the same, none of them shares a cluster or runs in a circle.
    fn settle(&mut self, map: &ExtentSet) -> Result<(), Doubt> {
        let Some(Left { mut linked, needed }) = self.left.take() else { return Ok(()) };
        if self.boot.clusters > MAX_SETTLED {
            return Err(Doubt::TooMany);
        }
        let (boot, claims, used) = (self.boot, &self.claims, clusters_of(self.boot, map));
        let (mut wrong, mut have) = (None, 0u64);
        let read = self.links.all(&mut |cluster, to| {
            let index = cluster.saturating_sub(2);
            if !used.contains(index) {
                return true;
            }
            if claims.contains(index) {
                wrong = linked.contains(index).then(|| format!("clusters {cluster}+1 are used twice"));
                return wrong.is_none();
            }
            have = have.saturating_add(1);
            // An entry that is no link ends a chain, or belongs to a used cluster that no file has.
            if boot.cluster_offset(to).is_some() {
                let index = to.saturating_sub(2);
                if !used.contains(index) {
                    wrong = Some(format!("a chain leads to cluster {to}, which the bitmap calls free"));
                } else if claims.contains(index) || !linked.insert(index, 1) {
                    wrong = Some(format!("clusters {to}+1 are used twice"));
                }
            }
            wrong.is_none()
        });
        read.map_err(|error| Doubt::damage(format_args!("the FAT cannot be read: {error}")))?;
        match wrong {
            Some(reason) => Err(Doubt::Damage(reason)),
            None if have < needed => Err(Doubt::damage(format_args!("chains have {have} of {needed} clusters"))),
            None => Ok(()),
        }
    }

    /// Finds where the directory at `place` lies.
    fn open(&mut self, place: &Place) -> Result<Folder, Doubt> {
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
        listed.map_err(|error| match error {
            fat::Error::Patience { .. } => Doubt::TooMany,
            _ => Doubt::damage(format_args!("of the directory at cluster {}: {error}", place.first)),
        })?;
        let (now, rest) = (Extent::new(0, 0), extents.into_iter());
        Ok(Folder { place: *place, now, rest, step: FIRST, sets: Sets::default() })
    }

    /// Reads on in a directory and adds what it names to `items`; `false` at its end.
    fn read(&mut self, folder: &mut Folder, items: &mut Vec<Item>) -> Result<bool, Doubt> {
        if folder.now.is_empty() {
            let Some(next) = folder.rest.next() else {
                return folder.sets.end().map(|()| false).map_err(|error| Doubt::of(error, &folder.place));
            };
            folder.now = next;
        }
        let (at, len) = (folder.now.start, folder.step.min(folder.now.len()));
        self.budget = self.budget.checked_sub(len.max(FIRST)).ok_or(Doubt::TooMany)?;
        folder.now.start = at.saturating_add(len);
        folder.step = folder.step.saturating_mul(2).min(STEP);
        self.buffer.resize(usize::try_from(len).unwrap_or(0), 0);
        let unreadable = |error| Doubt::damage(format_args!("a directory cannot be read: {error}"));
        self.region.read_exact_at(&mut self.buffer, at).map_err(unreadable)?;
        for entry in self.buffer.chunks_exact(entries::LEN) {
            let more = folder.sets.push(entry, &mut |item| items.push(item));
            if !more.map_err(|error| Doubt::of(error, &folder.place))? {
                (folder.now, folder.rest) = (Extent::new(0, 0), Vec::new().into_iter());
                break;
            }
        }
        Ok(true)
    }
}

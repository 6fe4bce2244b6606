//! The directories' word against the FAT's: a file whose first cluster the FAT calls free has lost its chain.
//!
//! ```text
//! directory entry, 32 bytes: 0 name (11)  11 attributes  20 first cluster (high)  26 first cluster (low)  28 length
//! ```
//!
//! An entry that begins with 0 is free, and so should be all behind it. mtools, blkid and Windows read no further; Linux
//! and fsck.fat pass over it as over any free entry. What stands behind it may be a file to one of them, or what an
//! earlier use left in a cluster that was not cleared: it contradicts nothing. A driver takes the first cluster of a
//! file from the entry without asking the FAT, and finds no other where the FAT calls that one free; so it is kept, and
//! the volume is believed. Directories named there are read in the same way, after all others.
//!
//! Source: Linux fs/fat/dir.c and cache.c; dosfstools src/check.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    bpb::{Bpb, Kind},
    table::{Clusters, Links, Table},
};
use crate::{block::ReadAt, bytes::Fields, fs::label::text};

const DIRECTORY: u8 = 0x10;
const LABEL: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// Bytes of directories read at most, each read taken for [`MIN_READ`] at least: a million directories in clusters of
/// 64 KiB, sixteen million in small ones. A volume with more is kept whole.
const BUDGET: u64 = 64 << 30;
/// What reading a few bytes costs, in the time of which bytes could be read.
const MIN_READ: u64 = 4096;
/// Bytes of a cluster of a directory read at once.
const STEP: u64 = 64 << 10;
/// Pages of the FAT read at most: one for each link of a directory that leads far away.
const MAX_LOADS: u64 = 1 << 22;
/// Directories waiting to be read, and free clusters named behind an end, at most: 32 MiB of memory each.
const MAX_WAITING: usize = 8 << 20;
/// The longest directory: 65536 entries.
const MAX_DIR: u64 = 65536 * 32;

/// Why the directories do not vouch for the FAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// They contradict it, or cannot be read: the reason.
    Damage(String),
    /// There are more of them than are read, so that nobody knows.
    TooMany,
}

/// Why reading a directory ended before its end.
enum Stop {
    Unreadable,
    Budget,
}

/// Where a directory is.
#[derive(Clone, Copy)]
enum Dir {
    /// The fixed area of FAT12 and FAT16.
    Fixed,
    /// A chain of clusters.
    Chain(u64),
}

const fn root(bpb: &Bpb) -> Dir {
    match bpb.kind {
        Kind::Fat32 => Dir::Chain(bpb.root_cluster),
        _ => Dir::Fixed,
    }
}

/// Reads directories, each cluster once.
struct Reader<'a> {
    region: &'a dyn ReadAt,
    bpb: &'a Bpb,
    links: Links<'a>,
    seen: Clusters,
    buffer: Vec<u8>,
    /// Bytes that may still be read.
    budget: u64,
}

impl<'a> Reader<'a> {
    fn new(region: &'a dyn ReadAt, bpb: &'a Bpb, budget: u64) -> Self {
        let (links, seen) = (Links::new(region, bpb), Clusters::new(bpb));
        Self { region, bpb, links, seen, buffer: Vec::new(), budget }
    }

    /// Calls `each` with the entries of a directory that are not free, and whether they stand behind its end, until it
    /// returns `false`.
    fn entries(&mut self, dir: Dir, each: &mut dyn FnMut(Fields<'_>, bool) -> bool) -> Result<(), Stop> {
        let mut ended = false;
        let Dir::Chain(mut cluster) = dir else {
            return self.read(self.bpb.root_offset, self.bpb.root_len, &mut ended, each).map(|_| ());
        };
        self.seen.insert(cluster);
        for _ in 0..MAX_DIR.div_ceil(self.bpb.cluster.max(1)) {
            let Some(offset) = self.bpb.cluster_offset(cluster) else { break };
            if !self.read(offset, self.bpb.cluster, &mut ended, each)? {
                break;
            }
            // Where chains meet, the rest of both was read.
            match self.links.next(cluster).filter(|next| self.seen.insert(*next)) {
                Some(next) => cluster = next,
                None => break,
            }
            if self.links.loads() > MAX_LOADS {
                return Err(Stop::Budget);
            }
        }
        Ok(())
    }

    /// Passes on the entries in `len` bytes at `offset`; `false` when `each` wants no more.
    fn read(
        &mut self,
        offset: u64,
        len: u64,
        ended: &mut bool,
        each: &mut dyn FnMut(Fields<'_>, bool) -> bool,
    ) -> Result<bool, Stop> {
        let mut at = 0;
        while at < len {
            let step = STEP.min(len.saturating_sub(at));
            self.budget = self.budget.checked_sub(step.max(MIN_READ)).ok_or(Stop::Budget)?;
            self.buffer.resize(usize::try_from(step).unwrap_or(0), 0);
            self.region.read_exact_at(&mut self.buffer, offset.saturating_add(at)).map_err(|_| Stop::Unreadable)?;
            for entry in self.buffer.chunks_exact(32) {
                match entry.first() {
                    Some(0) => *ended = true,
                    Some(0xe5) => {}
                    _ if !each(Fields(entry), *ended) => return Ok(false),
                    _ => {}
                }
            }
            at = at.saturating_add(step);
        }
        Ok(true)
    }
}

/// Returns the volume label in the root directory.
#[must_use]
pub fn label(region: &dyn ReadAt, bpb: &Bpb) -> Option<String> {
    let mut found = None;
    // A label that cannot be read is none: what else is there is for `check` to say.
    let _ = Reader::new(region, bpb, MAX_DIR.max(MIN_READ)).entries(root(bpb), &mut |entry, behind| {
        let kind = entry.u8(11).unwrap_or(0);
        if !behind && kind & (LABEL | DIRECTORY) == LABEL && kind != LONG_NAME {
            // A first byte of 5 stands for e5, which marks deleted entries.
            let mut name = entry.array::<11>(0).unwrap_or([b' '; 11]);
            if name.first() == Some(&5) {
                name.iter_mut().take(1).for_each(|byte| *byte = 0xe5);
            }
            found = text(&name);
        }
        !behind && found.is_none()
    });
    found
}

/// Checks that the first cluster of every file and directory is in `table`. Returns the free clusters that are named as
/// the first of a file behind the end of a directory, some of them perhaps twice.
///
/// # Errors
/// Why the volume is kept whole: a chain is lost, a directory is not where it must be, or there are too many to tell.
pub fn check(region: &dyn ReadAt, bpb: &Bpb, table: &Table) -> Result<Vec<u32>, Doubt> {
    check_within(region, bpb, table, BUDGET)
}

/// Does what [`check`] does, and reads at most `budget` bytes of directories.
///
/// # Errors
/// Those of [`check`].
pub fn check_within(region: &dyn ReadAt, bpb: &Bpb, table: &Table, budget: u64) -> Result<Vec<u32>, Doubt> {
    if let (Kind::Fat32, false) = (bpb.kind, table.is_used(bpb.root_cluster)) {
        return Err(Doubt::Damage(format!("the root directory is at cluster {}, which is free", bpb.root_cluster)));
    }
    let (mut reader, mut started) = (Reader::new(region, bpb, budget), Clusters::new(bpb));
    started.insert(bpb.root_cluster);
    let mut found = Found::default();
    found.read(&mut reader, root(bpb), true, table)?;
    loop {
        let believed = !found.todo.is_empty();
        let Some(cluster) = found.todo.pop().or_else(|| found.behind.pop()).map(u64::from) else { break };
        // Every directory names itself and the one above it.
        if !started.insert(cluster) {
            continue;
        }
        found.read(&mut reader, Dir::Chain(cluster), believed, table)?;
        if found.todo.len().max(found.behind.len()).max(found.free.len()) > MAX_WAITING {
            return Err(Doubt::TooMany);
        }
    }
    Ok(found.free)
}

/// What the directories read so far name, by first clusters: these have 28 bits.
#[derive(Default)]
struct Found {
    /// Directories.
    todo: Vec<u32>,
    /// Directories named behind the end of one.
    behind: Vec<u32>,
    /// Free clusters named behind the end of a directory.
    free: Vec<u32>,
}

impl Found {
    /// Reads a directory.
    ///
    /// * `believed`: it was not named behind the end of another.
    fn read(&mut self, reader: &mut Reader<'_>, dir: Dir, believed: bool, table: &Table) -> Result<(), Doubt> {
        let (bpb, mut lost) = (reader.bpb, None);
        let mut expect_dot = match dir {
            Dir::Chain(cluster) if cluster != bpb.root_cluster => Some(cluster),
            _ => None,
        };
        let Self { todo, behind: behind_end, free } = self;
        let read = reader.entries(dir, &mut |entry, behind| {
            let kind = entry.u8(11).unwrap_or(0);
            if kind & 0x3f == LONG_NAME || kind & LABEL != 0 {
                return true;
            }
            let high = if bpb.kind == Kind::Fat32 { u64::from(entry.u16(20).unwrap_or(0)) } else { 0 };
            let cluster = high << 16 | u64::from(entry.u16(26).unwrap_or(0));
            // A directory that does not begin with itself is none: something leads to the wrong place.
            let expected = expect_dot.take().filter(|_| !(behind && believed));
            if let Some(own) = expected.filter(|own| behind || cluster != *own || !entry.has(0, b".          ")) {
                lost = believed.then(|| format!("the directory at cluster {own} does not begin with itself"));
                return false;
            }
            let (doubtful, used) = (behind || !believed, table.is_used(cluster));
            let here = bpb.cluster_offset(cluster).and_then(|_| u32::try_from(cluster).ok());
            match here {
                _ if cluster == 0 => {}
                Some(cluster) if doubtful && !used => free.push(cluster),
                _ if !used && !doubtful => {
                    lost = Some(format!("a directory names free cluster {cluster} as the first of a file"));
                    return false;
                }
                _ => {}
            }
            if let Some(cluster) = here.filter(|_| kind & DIRECTORY != 0) {
                if doubtful { behind_end.push(cluster) } else { todo.push(cluster) }
            }
            true
        });
        if let Some(lost) = lost {
            return Err(Doubt::Damage(lost));
        }
        match read {
            Err(Stop::Budget) => Err(Doubt::TooMany),
            Err(Stop::Unreadable) if believed => Err(Doubt::Damage("a directory cannot be read".to_owned())),
            _ => Ok(()),
        }
    }
}

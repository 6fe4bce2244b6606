//! The directories' word against the FAT's: a file whose first cluster the FAT calls free has lost its chain.
//!
//! ```text
//! directory entry, 32 bytes: 0 name (11)  11 attributes  20 first cluster (high)  26 first cluster (low)  28 length
//! ```

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

use super::{
    bpb::{Bpb, Kind},
    table::{Links, Table},
};
use crate::{block::ReadAt, bytes::Fields, fs::label::text};

const DIRECTORY: u8 = 0x10;
const LABEL: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// Bytes of directories read at most (ten million files or so); a volume with more is kept whole.
const BUDGET: u64 = 1 << 30;
/// Bytes of a cluster of a directory read at once: most end soon.
const STEP: u64 = 4096;
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

/// Calls `each` with the entries of a directory until it returns `false`.
///
/// * `budget`: bytes that may be read of chains; what was read is taken from it.
fn entries(
    region: &dyn ReadAt,
    bpb: &Bpb,
    dir: Dir,
    budget: &mut u64,
    each: &mut dyn FnMut(Fields<'_>) -> bool,
) -> Result<(), Stop> {
    let read = |offset: u64, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        region.read_exact_at(&mut bytes, offset).map(|()| bytes).map_err(|_| Stop::Unreadable)
    };
    let mut feed = |bytes: &[u8]| {
        bytes.chunks_exact(32).map(Fields).all(|entry| entry.u8(0).is_ok_and(|first| first != 0) && each(entry))
    };
    let mut links = Links::new(region, bpb);
    match dir {
        Dir::Fixed => {
            feed(&read(bpb.root_offset, bpb.root_len)?);
            Ok(())
        }
        Dir::Chain(mut cluster) => {
            let mut left = MAX_DIR.div_ceil(bpb.cluster.max(1));
            loop {
                let Some(offset) = bpb.cluster_offset(cluster) else { return Ok(()) };
                let mut at = 0;
                while at < bpb.cluster {
                    let len = STEP.min(bpb.cluster.saturating_sub(at));
                    *budget = budget.checked_sub(len).ok_or(Stop::Budget)?;
                    if !feed(&read(offset.saturating_add(at), len)?) {
                        return Ok(());
                    }
                    at = at.saturating_add(len);
                }
                left = left.saturating_sub(1);
                match links.next(cluster).filter(|_| left > 0) {
                    Some(next) => cluster = next,
                    None => return Ok(()),
                }
            }
        }
    }
}

/// Returns the volume label in the root directory.
#[must_use]
pub fn label(region: &dyn ReadAt, bpb: &Bpb) -> Option<String> {
    let mut found = None;
    // A label that cannot be read is none: what else is there is for `check` to say.
    let _ = entries(region, bpb, root(bpb), &mut { MAX_DIR }, &mut |entry| {
        let deleted = entry.u8(0) == Ok(0xe5);
        let kind = entry.u8(11).unwrap_or(0);
        if !deleted && kind & (LABEL | DIRECTORY) == LABEL && kind != LONG_NAME {
            // A first byte of 5 stands for e5, which marks deleted entries.
            let mut name = entry.array::<11>(0).unwrap_or([b' '; 11]);
            if name.first() == Some(&5) {
                name.iter_mut().take(1).for_each(|byte| *byte = 0xe5);
            }
            found = text(&name);
            return false;
        }
        true
    });
    found
}

/// Checks that the first cluster of every file and directory is in `table`.
///
/// # Errors
/// Why the volume is kept whole: a chain is lost, a directory is not where it must be, or there are too many to tell.
pub fn check(region: &dyn ReadAt, bpb: &Bpb, table: &Table) -> Result<(), Doubt> {
    check_within(region, bpb, table, BUDGET)
}

/// Does what [`check`] does, and reads at most `budget` bytes of directories.
///
/// # Errors
/// Those of [`check`].
pub fn check_within(region: &dyn ReadAt, bpb: &Bpb, table: &Table, mut budget: u64) -> Result<(), Doubt> {
    let (mut todo, mut seen) = (vec![root(bpb)], BTreeSet::new());
    if let (Kind::Fat32, false) = (bpb.kind, table.is_used(bpb.root_cluster)) {
        return Err(Doubt::Damage(format!("the root directory is at cluster {}, which is free", bpb.root_cluster)));
    }
    while let Some(dir) = todo.pop() {
        let mut lost = None;
        let mut expect_dot = match dir {
            Dir::Chain(cluster) if cluster != bpb.root_cluster => Some(cluster),
            _ => None,
        };
        let read = entries(region, bpb, dir, &mut budget, &mut |entry| {
            let first = entry.u8(0).unwrap_or(0xe5);
            let kind = entry.u8(11).unwrap_or(0);
            if first == 0xe5 || kind & 0x3f == LONG_NAME || kind & LABEL != 0 {
                return true;
            }
            let high = if bpb.kind == Kind::Fat32 { u64::from(entry.u16(20).unwrap_or(0)) } else { 0 };
            let cluster = high << 16 | u64::from(entry.u16(26).unwrap_or(0));
            if let Some(own) = expect_dot.take() {
                // A directory that does not begin with itself is none: something leads to the wrong place.
                if !entry.has(0, b".          ") || cluster != own {
                    lost = Some(format!("the directory at cluster {own} does not begin with itself"));
                    return false;
                }
            }
            if cluster == 0 {
                return true;
            }
            if !table.is_used(cluster) {
                lost = Some(format!("a directory names free cluster {cluster} as the first of a file"));
                return false;
            }
            if kind & DIRECTORY != 0 && seen.insert(cluster) {
                todo.push(Dir::Chain(cluster));
            }
            true
        });
        if let Some(lost) = lost {
            return Err(Doubt::Damage(lost));
        }
        read.map_err(|stop| match stop {
            Stop::Unreadable => Doubt::Damage("a directory cannot be read".to_owned()),
            Stop::Budget => Doubt::TooMany,
        })?;
    }
    Ok(())
}

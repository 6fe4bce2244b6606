//! File systems, from bytes: what a region holds, and which of its bytes must be kept.
//!
//! Nothing is mounted and nothing is written. An allocation map may keep too much, never too little: whatever is not
//! understood widens the map, at the worst to the whole region, and says so in [`Survey::widened`].

pub mod detect;
pub mod ext;
pub mod fat;
mod label;
pub mod map;
mod reader;
pub mod swap;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{block::ReadAt, extent::ExtentSet};

/// In which state a file system was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Unmounted in order.
    Clean,
    /// In use or not unmounted: its journal or its check has yet to run.
    Dirty,
    /// It says of itself that it has errors, or its structures contradict each other.
    Damaged,
    /// A hibernated system is in it.
    Hibernated,
    /// The format does not say, or we do not read it.
    Unknown,
}

/// What a region holds. Strings are raw: escape before showing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detected {
    /// The file system or container by its usual name: `ext4`, `vfat`, `ntfs`, `xfs`, `swap`, `LVM2_member` ….
    pub name: String,
    /// Its version, where the format has one: `FAT32`, `1`.
    pub version: Option<String>,
    /// Volume label.
    pub label: Option<String>,
    /// Volume UUID or serial, as `blkid` shows it.
    pub uuid: Option<String>,
    /// Bytes in a block or cluster.
    pub block_size: Option<u32>,
    /// The state it was left in.
    pub state: State,
}

/// What a region holds and which of its bytes must be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// What was found; `None` where nothing was recognised.
    pub detected: Option<Detected>,
    /// The bytes to keep, counted from the start of the region.
    pub allocated: ExtentSet,
    /// Why the map keeps more than the file system's own books say, one sentence each.
    pub widened: Vec<String>,
    /// What a person should know (dirty, damaged, contradictory counters), one sentence each.
    pub notes: Vec<String>,
}

impl Survey {
    /// Keeps every byte of a region of `len` bytes, because of `reason`.
    #[must_use]
    pub fn whole(len: u64, detected: Option<Detected>, reason: impl fmt::Display) -> Self {
        Self { detected, allocated: ExtentSet::full(len), widened: vec![reason.to_string()], notes: Vec::new() }
    }
}

/// Names what `region` holds, without reading its allocation map. Unreadable bytes count as unrecognised.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    detect::all(region).into_iter().next()
}

/// Finds what `region` holds and which of its bytes must be kept. Anything unreadable or not understood widens the map.
///
/// * `region`: the bytes of one partition, or of a whole disk without a table.
#[must_use]
pub fn survey(region: &dyn ReadAt) -> Survey {
    let mut found = detect::all(region).into_iter();
    let Some(first) = found.next() else {
        return Survey::whole(region.len(), None, "kept whole: nothing was recognised in it");
    };
    let others = found.map(|other| other.name).collect::<Vec<_>>();
    if !others.is_empty() {
        let reason = format!("kept whole: it looks like {} and also like {}", first.name, others.join(", "));
        return Survey::whole(region.len(), Some(first), reason);
    }
    match first.name.as_str() {
        "ext2" | "ext3" | "ext4" | "ext4dev" | "jbd" => ext::survey(region, first),
        "vfat" => fat::survey(region, first),
        "swap" | "swsuspend" => swap::survey(region, first),
        name => {
            let reason = format!("kept whole: {name} is not read yet");
            Survey::whole(region.len(), Some(first), reason)
        }
    }
}

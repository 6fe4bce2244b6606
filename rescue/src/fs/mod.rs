//! File systems, from bytes: what a region holds, and which of its bytes must be kept.
//!
//! Nothing is mounted and nothing is written. An allocation map may keep too much, never too little: whatever is not
//! understood widens the map, at the worst to the whole region, and says so in [`Survey::widened`].

pub mod apfs;
pub mod btrfs;
mod checked;
pub mod detect;
pub mod disk;
pub mod exfat;
pub mod ext;
pub mod f2fs;
pub mod fat;
pub mod hfsplus;
mod inner;
mod kept;
mod label;
pub mod luks;
pub mod lvm;
pub mod map;
pub mod mapped;
pub mod md;
mod nested;
pub mod ntfs;
mod reader;
pub mod swap;
mod whole;
pub mod xfs;

use std::{cell::Cell, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    block::ReadAt,
    extent::ExtentSet,
    units::{Bytes, MIB},
};

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

/// What a person may choose about allocation maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep the contents of swap, page and hibernation files, which no system reads again after a restart.
    pub keep_swap_files: bool,
}

/// What a file system's own books say, in bytes of its blocks or clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes in use, the file system's own structures included.
    pub used: u64,
    /// Bytes free.
    pub free: u64,
}

/// A file whose contents are not kept, because no system reads them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its path from the root of the file system, raw: escape before showing.
    pub path: String,
    /// Bytes of it that are left out.
    pub bytes: u64,
}

/// A volume found inside a container: a logical volume, the data of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// Its name in the container, raw: escape before showing.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it holds, where that was recognised.
    pub detected: Option<Detected>,
    /// Bytes of it that are kept.
    pub kept: u64,
}

/// What a region holds and which of its bytes must be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// What was found; `None` where nothing was recognised.
    pub detected: Option<Detected>,
    /// The bytes to keep, counted from the start of the region.
    pub allocated: ExtentSet,
    /// Bytes of `allocated` that are zero, or mean nothing to the file system: an image holds zeros there without
    /// reading them.
    pub zeros: ExtentSet,
    /// What the file system's own books say; `None` where there are none, or they could not be read.
    pub usage: Option<Usage>,
    /// Files whose contents are not in `allocated` although the books call their blocks used.
    pub left_out: Vec<LeftOut>,
    /// What a container holds.
    pub inside: Vec<Inside>,
    /// Why the map keeps more than the file system's own books say, one sentence each.
    pub widened: Vec<String>,
    /// What a person should know (dirty, damaged, contradictory counters), one sentence each.
    pub notes: Vec<String>,
}

impl Survey {
    /// Keeps `allocated`, with nothing to say about it.
    #[must_use]
    pub const fn new(detected: Option<Detected>, allocated: ExtentSet) -> Self {
        Self {
            detected,
            allocated,
            zeros: ExtentSet::new(),
            usage: None,
            left_out: Vec::new(),
            inside: Vec::new(),
            widened: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Keeps every byte of a region of `len` bytes, because of `reason`.
    #[must_use]
    pub fn whole(len: u64, detected: Option<Detected>, reason: impl fmt::Display) -> Self {
        Self { widened: vec![reason.to_string()], ..Self::new(detected, ExtentSet::full(len)) }
    }

    /// Says what is kept behind the end of the file system, where that is worth a word: a partition that is larger than what
    /// it holds may hold something else there as well.
    ///
    /// * `end`: byte of the region where the file system ends.
    fn name_slack(&mut self, end: u64, region: &dyn ReadAt) {
        let slack = region.len().saturating_sub(end);
        if slack > NAMED_SLACK && slack > self.allocated.total() / 100 {
            self.widened.push(format!("{} behind the end of the file system are kept", Bytes(slack)));
        }
    }
}

/// Bytes behind a file system that nobody asks about: what its blocks and segments do not fill.
const NAMED_SLACK: u64 = 8 * MIB;

/// Names what `region` holds, without reading its allocation map. Unreadable bytes count as unrecognised.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    detect::all(region).into_iter().next()
}

/// Finds what `region` holds and which of its bytes must be kept. Anything unreadable or not understood widens the map.
///
/// * `region`: the bytes of one partition, of a whole disk without a table, or of a volume in a container.
#[must_use]
pub fn survey(region: &dyn ReadAt, options: &Options) -> Survey {
    survey_in(region, options, &nested::Depth::start(&Cell::new(0)))
}

/// Surveys a region that may be a volume in a container.
fn survey_in(region: &dyn ReadAt, options: &Options, depth: &nested::Depth<'_>) -> Survey {
    let mut found = detect::all(region);
    if found.len() > 1 {
        let Some(owner) = nested::explains_all(region, &found).cloned() else {
            return ambiguous(region, found);
        };
        found = vec![owner];
    }
    let Some(only) = found.pop() else {
        return Survey::whole(region.len(), None, "kept whole: nothing was recognised in it");
    };
    if let Some(table) = inner::table(region) {
        let reason = format!("kept whole: it looks like {} and has {table} inside", only.name);
        return Survey::whole(region.len(), Some(only), reason);
    }
    match only.name.as_str() {
        "LVM2_member" => lvm::survey(region, only, options, depth),
        "linux_raid_member" => md::survey(region, only, options, depth),
        _ => survey_as(only, region, options),
    }
}

/// Keeps a region whole that several formats claim.
fn ambiguous(region: &dyn ReadAt, found: Vec<Detected>) -> Survey {
    let mut found = found.into_iter();
    let first = found.next();
    let others = found.map(|other| other.name).collect::<Vec<_>>().join(", ");
    let name = first.as_ref().map_or("nothing", |first| first.name.as_str());
    let reason = format!("kept whole: it looks like {name} and also like {others}");
    Survey::whole(region.len(), first, reason)
}

/// Surveys what is known to be `found`.
fn survey_as(found: Detected, region: &dyn ReadAt, options: &Options) -> Survey {
    match found.name.as_str() {
        "ext2" | "ext3" | "ext4" | "ext4dev" | "jbd" => ext::survey(region, found, options),
        "exfat" => exfat::survey(region, found),
        "apfs" => apfs::survey(region, found),
        "f2fs" => f2fs::survey(region, found),
        "vfat" => fat::survey(region, found),
        "ntfs" => ntfs::survey(region, found, options),
        "BitLocker" => Survey::whole(region.len(), Some(found), "kept whole: it is encrypted by BitLocker"),
        "btrfs" => btrfs::survey(region, found),
        "hfsplus" => hfsplus::survey(region, found),
        "swap" | "swsuspend" => swap::survey(region, found),
        "xfs" => xfs::survey(region, found),
        "crypto_LUKS" => luks::survey(region, found),
        name => {
            let reason = kept::reason(name);
            Survey::whole(region.len(), Some(found), reason)
        }
    }
}

//! Linux software RAID (MD): members of mirrors are looked into, all others are kept whole.
//!
//! ```text
//! 0.90, 1.0   | data ............................ | slack, bitmap, superblock |
//! 1.1, 1.2    | superblock, bitmap, bad blocks | data ..................... | slack |
//! ```
//!
//! The data of a mirror's member is the volume itself. Everything else of the region is kept. A member is kept whole
//! when anything says that its data may not be what the array holds: a resync or recovery that is not finished, an array
//! that was not stopped in order, a spare, known bad blocks, a change of shape.
//!
//! Source: Linux kernel, include/uapi/linux/raid/md_p.h, drivers/md/md.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod v0;
mod v1;

use super::{
    Detected, Options, State, Survey,
    mapped::Mapped,
    nested::{Depth, Gathered},
};
use crate::{
    block::ReadAt,
    extent::{Extent, ExtentSet},
};

/// First bytes of every superblock.
const MAGIC: u32 = 0xa92b_4efc;

/// A member of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Version of the superblock: `1.2`, `0.90.0`.
    version: String,
    label: Option<String>,
    uuid: Option<String>,
    level: i32,
    /// Its number in the array and how many members that has; `None` for spares and the like.
    role: Option<u32>,
    disks: u32,
    /// The bytes that belong to the array, where the superblock names such that there are.
    data: Option<Extent>,
    /// The superblock itself.
    superblock: Extent,
    /// The checksum is right.
    sound: bool,
    /// Why its data may not be what the array holds.
    doubt: Option<String>,
}

impl Member {
    fn state(&self) -> State {
        if !self.sound || self.data.is_none() {
            State::Damaged
        } else if self.doubt.is_some() {
            State::Dirty
        } else {
            State::Clean
        }
    }

    fn detected(&self) -> Detected {
        Detected {
            name: "linux_raid_member".to_owned(),
            version: Some(self.version.clone()),
            label: self.label.clone(),
            uuid: self.uuid.clone(),
            block_size: None,
            state: self.state(),
        }
    }

    /// Returns the data, where it can be looked into; else why not.
    fn mirrored(&self) -> Result<Extent, String> {
        if !self.sound {
            return Err("the superblock of the RAID has a wrong checksum".to_owned());
        }
        if self.level != 1 {
            return Err(format!("it is a member of a {} array of {}", level(self.level), disks(self.disks)));
        }
        let data = self.data.filter(|data| !data.overlaps(self.superblock));
        let data = data.ok_or("the superblock of the RAID puts the data where it cannot be")?;
        if let Some(doubt) = &self.doubt {
            return Err(doubt.clone());
        }
        self.role.map(|_| data).ok_or_else(|| "it is no active member of its RAID1 array".to_owned())
    }
}

fn level(level: i32) -> String {
    match level {
        -1 => "linear".to_owned(),
        -4 => "multipath".to_owned(),
        -5 => "faulty".to_owned(),
        number => format!("RAID{number}"),
    }
}

fn disks(count: u32) -> String {
    if count == 1 { "1 disk".to_owned() } else { format!("{count} disks") }
}

/// Finds the superblock in `region`, those of version 1 first.
fn find(region: &dyn ReadAt) -> Option<Member> {
    v1::find(region).or_else(|| v0::find(region))
}

/// Names the RAID member in `region`.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    find(region).map(|member| member.detected())
}

/// Returns the bytes that the member in `region` gives to its array; `None` where that is not known.
pub(super) fn given(region: &dyn ReadAt) -> Option<ExtentSet> {
    let member = find(region).filter(|member| member.sound)?;
    member.data.filter(|data| !data.overlaps(member.superblock)).map(ExtentSet::from)
}

/// Returns why `partitions` of a disk that is a member as a whole may not be what they look like; `None` where it is
/// no member, or where its data is that of the array and begins where the disk does.
pub(super) fn over_partitions(disk: &dyn ReadAt, partitions: &[Extent]) -> Option<String> {
    let member = find(disk)?;
    let holds = |part: Extent| partitions.iter().any(|partition| partition.overlaps(part));
    if holds(member.superblock) || member.data.is_some_and(|data| !holds(data)) {
        return None;
    }
    match member.mirrored() {
        Ok(data) if data.start == 0 => None,
        Ok(data) => Some(format!("its data begins at byte {:#x}, not where the partition table is", data.start)),
        Err(doubt) => Some(doubt),
    }
}

/// Finds the bytes of the RAID member in `region` that must be kept.
pub(super) fn survey(region: &dyn ReadAt, detected: Detected, options: &Options, depth: &Depth<'_>) -> Survey {
    let member = find(region);
    let data = member.as_ref().ok_or_else(|| "its superblock is gone".to_owned()).and_then(Member::mirrored);
    let mapped = data.and_then(|data| Mapped::new(region, &[data]).map_err(|error| error.to_string()));
    let (mapped, member) = match (mapped, member) {
        (Ok(mapped), Some(member)) => (mapped, member),
        (Err(reason), _) => return Survey::whole(region.len(), Some(detected), format_args!("kept whole: {reason}")),
        (Ok(_), None) => return Survey::whole(region.len(), Some(detected), "kept whole: its superblock is gone"),
    };
    let mut gathered = Gathered::new(detected);
    gathered.keep(&mapped.pieces().complement(region.len()));
    let name = member.label.as_deref().filter(|label| !label.is_empty()).unwrap_or("data");
    gathered.look_into("data of the RAID1", name, &mapped, options, depth);
    gathered.note(format!(
        "it is one of {} of a RAID1 array; once restored it may differ from the others where no file is",
        disks(member.disks)
    ));
    gathered.finish()
}

//! Disks with partitions that are members of a RAID: the table then is the array's, and its partitions may be striped
//! over several disks although the first bytes of one are where the table says.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{detect, md};
use crate::{block::ReadAt, extent::Extent};

/// Returns why the partitions of `disk` cannot be taken for what they look like, as a clause; `None` where the disk is
/// no member of an array, or of a mirror that was stopped in order.
///
/// * `partitions`: their places on the disk. A superblock in one of them is that partition's.
#[must_use]
pub fn member(disk: &dyn ReadAt, partitions: &[Extent]) -> Option<String> {
    if let Some(name) = detect::firmware_raid(disk) {
        return Some(format!("the disk is a member of a firmware RAID ({name}), which may lay out its partitions"));
    }
    let doubt = md::over_partitions(disk, partitions)?;
    Some(format!("the disk as a whole is a member of a RAID: {doubt}"))
}

//! Finding disks through sysfs, and what they are in use by.

use serde::{Deserialize, Serialize};

use super::{Error, Identity};

/// What kind of block device it is. Only [`DiskClass::Disk`] is offered for imaging unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskClass {
    /// A disk.
    Disk,
    /// Memory: `ram`, `zram`.
    Ram,
    /// A file seen as a disk: `loop`.
    Loop,
    /// An optical drive.
    Optical,
    /// A hardware boot or RPMB partition of an eMMC.
    BootPartition,
    /// Made of other devices: device mapper, MD.
    Stacked,
    /// A floppy, or anything else.
    Other,
}

/// One block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The kernel's name, `nvme0n1`.
    pub name: String,
    /// What tells it from others; `path` is its device node.
    pub identity: Identity,
    /// What kind it is.
    pub class: DiskClass,
    /// Whether it has moving parts, as the kernel says.
    pub rotational: bool,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// What it, or a part of it, is in use by.
    pub in_use: Vec<Use>,
}

/// One use of a disk or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The part, by kernel name: `sda1`.
    pub part: String,
    /// By what: `mounted at /`, `swap`, `dm-0 (vg-root)`.
    pub by: String,
    /// Whether that use can write to it.
    pub writes: bool,
}

/// Lists every block device that is not a partition, in the kernel's order of names.
///
/// # Errors
/// [`Error::Open`] when sysfs cannot be read.
pub fn disks() -> Result<Vec<DiskInfo>, Error> {
    Ok(Vec::new())
}

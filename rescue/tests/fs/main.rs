//! Allocation maps against real file systems: made by the real tools, judged by the real checkers, compared by content.
//!
//! The oracle is a copy of the volume in which every byte that is not in the map is noise. What the checker says of it
//! and what every file holds must be the same as on the original.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apfs;
mod btrfs;
mod damage;
mod detect;
mod exfat;
mod exfat_volume;
mod ext;
mod f2fs;
mod fastcommit;
mod fat;
mod hfsplus;
mod inner;
mod journal;
mod luks;
mod lvm;
mod md;
mod ntfs;
mod regressions;
mod swapfile;
mod tools;
mod whole;
mod xfs;
mod xfs_damage;
mod xfs_mounted;

//! Looking at disks and stores without changing them.

use std::path::Path;

use super::{
    plan,
    view::{DiskView, StoreView},
};
use crate::{block::DiskRef, units::SectorSize};

/// Lists the disks of the machine with their tables and file systems. `used` of regions is left out: it takes long.
///
/// # Errors
/// [`plan::Error::Failed`] when sysfs cannot be read. A disk that cannot be read is listed with its error.
pub fn disks() -> Result<Vec<DiskView>, plan::Error> {
    Ok(Vec::new())
}

/// Looks at one disk, allocation maps included.
///
/// # Errors
/// [`plan::Error`] when it cannot be opened.
pub fn disk(_disk: &DiskRef, _sector_size: Option<SectorSize>) -> Result<DiskView, plan::Error> {
    Err(plan::Error::Failed("not yet".to_owned()))
}

/// Lists the images of a store, newest first.
///
/// # Errors
/// [`plan::Error`] when there is no store, or it is of a kind this program cannot read.
pub fn images(_store: &Path) -> Result<StoreView, plan::Error> {
    Ok(StoreView { images: Vec::new(), problems: Vec::new() })
}

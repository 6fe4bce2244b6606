//! What a restore must never overwrite.

use std::path::Path;

use super::error::Error;
use crate::block::{DiskRef, Identity, discovery};

/// Refuses a target that lies in the store it would be restored from.
///
/// # Errors
/// [`Error::Refused`] with both paths.
pub fn target_is_not_under_store(disk: &DiskRef, store: &Path) -> Result<(), Error> {
    let DiskRef::Path(path) = disk else { return Ok(()) };
    let (Ok(target), Ok(store)) = (Path::new(path).canonicalize(), store.canonicalize()) else { return Ok(()) };
    if target.starts_with(&store) {
        return Err(Error::Refused(format!("{path} lies in the store {}", store.display())));
    }
    Ok(())
}

/// Refuses a target that the store lives on, through whatever lies between.
///
/// # Errors
/// [`Error::Refused`] with the disk and the store.
pub fn target_does_not_hold_store(target: &Identity, store: &Path) -> Result<(), Error> {
    let name = Path::new(&target.path).canonicalize().unwrap_or_else(|_| target.path.clone().into());
    let holds = discovery::backing_disks(store).iter().any(|disk| Path::new("/dev").join(disk) == name);
    if holds {
        return Err(Error::Refused(format!("{} holds the store {}", target.path, store.display())));
    }
    Ok(())
}

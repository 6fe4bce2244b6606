//! A disk behind an NBD socket.

use super::{Error, MemoryDisk};
use crate::units::SectorSize;

/// A disk behind an NBD socket.
#[derive(Debug)]
pub struct NbdDisk;

impl NbdDisk {
    fn not_yet(export: &str) -> Result<MemoryDisk, Error> {
        Err(Error::Refused { disk: format!("nbd:{export}"), reason: "NBD exports cannot be opened yet".to_owned() })
    }

    /// Opens an export for reading.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn open_source(export: &str, _: Option<SectorSize>) -> Result<MemoryDisk, Error> {
        Self::not_yet(export)
    }

    /// Opens an export for reading and writing.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn open_target(export: &str, _: Option<SectorSize>) -> Result<MemoryDisk, Error> {
        Self::not_yet(export)
    }
}

//! From what a person typed to an open disk.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Disk, Error, TargetDisk};
use crate::units::SectorSize;

/// How a job names a disk. As text: a path, `nbd:unix:PATH`, `nbd:HOST:PORT`, `serial:…`, `wwn:…`, `guid:…` (GPT disk
/// GUID).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum DiskRef {
    /// A device node or a file.
    Path(String),
    /// An NBD export: what follows `nbd:`.
    Nbd(String),
    /// The one device with this serial number.
    Serial(String),
    /// The one device with this world wide name.
    Wwn(String),
    /// The one device whose GPT has this disk GUID.
    Guid(String),
}

impl DiskRef {
    /// Tells whether the name stays with the disk when the kernel names disks in another order.
    #[must_use]
    pub const fn is_identity(&self) -> bool {
        matches!(self, Self::Serial(_) | Self::Wwn(_) | Self::Guid(_))
    }
}

impl From<String> for DiskRef {
    fn from(text: String) -> Self {
        for (prefix, make) in [
            ("nbd:", Self::Nbd as fn(String) -> Self),
            ("serial:", Self::Serial),
            ("wwn:", Self::Wwn),
            ("guid:", Self::Guid),
        ] {
            if let Some(rest) = text.strip_prefix(prefix) {
                return make(rest.to_owned());
            }
        }
        Self::Path(text)
    }
}

impl From<DiskRef> for String {
    fn from(disk: DiskRef) -> Self {
        disk.to_string()
    }
}

impl fmt::Display for DiskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Nbd(export) => write!(f, "nbd:{export}"),
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::Wwn(wwn) => write!(f, "wwn:{wwn}"),
            Self::Guid(guid) => write!(f, "guid:{guid}"),
        }
    }
}

/// Opens a disk for reading, and keeps everybody else from writing to it for as long as it is open.
///
/// * `sector_size`: for files and NBD exports; a device says its own.
///
/// # Errors
/// [`Error::Refused`] when no disk or more than one matches an identity, or the disk is in use; [`Error::Open`].
pub fn open_source(_disk: &DiskRef, _sector_size: Option<SectorSize>) -> Result<Box<dyn Disk>, Error> {
    Err(Error::Refused { disk: _disk.to_string(), reason: "not yet".to_owned() })
}

/// Opens a disk for writing, exclusively.
///
/// * `sector_size`: for files and NBD exports; a device says its own.
///
/// # Errors
/// As [`open_source`]; also [`Error::Refused`] for a read-only disk or a mounted one.
pub fn open_target(_disk: &DiskRef, _sector_size: Option<SectorSize>) -> Result<Box<dyn TargetDisk>, Error> {
    Err(Error::Refused { disk: _disk.to_string(), reason: "not yet".to_owned() })
}

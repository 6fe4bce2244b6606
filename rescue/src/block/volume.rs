//! A partition, or a disk without any, open for a look at its labels.
//!
//! Read through the page cache and without keeping anybody from anything, because it may well be mounted: what is seen is
//! what its users see. No job reads a disk this way.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use nix::sys::stat::{major, minor};

use super::{Error, ReadAt, check_range, transfer};
use crate::sys::ioctl;

/// A block device of any kind, open for a look.
#[derive(Debug)]
pub struct VolumeLook {
    file: File,
    name: String,
    len: u64,
    number: (u64, u64),
}

impl VolumeLook {
    /// Opens the device whose node is at `path`.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no block device; [`Error::Open`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let failed = |action, source| Error::Open { action, disk: name.clone(), source };
        // Looked at before it is opened: opening a pipe waits for somebody to write to it.
        let kind = path.metadata().map_err(|e| failed("looking at", e))?.file_type();
        if !kind.is_block_device() {
            return Err(Error::Refused { disk: name, reason: "it is no block device".to_owned() });
        }
        let file = File::open(path).map_err(|e| failed("opening", e))?;
        let rdev = file.metadata().map_err(|e| failed("looking at", e))?.rdev();
        let len = ioctl::size(&file).map_err(|e| failed("asking for the size of", e))?;
        Ok(Self { file, len, number: (major(rdev), minor(rdev)), name })
    }

    /// Returns its device number, major and minor.
    #[must_use]
    pub const fn number(&self) -> (u64, u64) {
        self.number
    }
}

impl ReadAt for VolumeLook {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        check_range(&self.name, self.len, offset, buf.len() as u64)?;
        transfer::read_full(&self.name, buf, offset, |buf, at| self.file.read_at(buf, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/dev/null"), Path::new("/")] {
            let error = VolumeLook::open(path).unwrap_err();
            assert_eq!(error.to_string(), format!("{}: it is no block device", path.display()));
        }
        assert!(matches!(VolumeLook::open(Path::new("/nonexistent")), Err(Error::Open { .. })));
    }
}

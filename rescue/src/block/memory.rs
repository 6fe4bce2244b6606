//! A disk in memory, for tests and for rehearsing tables before a target is touched.

use std::sync::{Mutex, PoisonError};

use super::{Discard, Disk, Error, Identity, ReadAt, TargetDisk, Transport, check_range};
use crate::{extent::Extent, units::SectorSize};

/// A disk whose bytes are in memory.
#[derive(Debug)]
pub struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    identity: Identity,
}

impl MemoryDisk {
    /// Wraps `bytes` as a disk with sectors of `sector_size`.
    #[must_use]
    pub fn new(bytes: Vec<u8>, sector_size: SectorSize) -> Self {
        let identity = Identity {
            path: "memory".to_owned(),
            model: None,
            serial: None,
            wwn: None,
            transport: Transport::Memory,
            len: bytes.len() as u64,
            sector_size,
            physical_sector_size: sector_size,
        };
        Self { bytes: Mutex::new(bytes), identity }
    }

    /// Returns the bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, offset: u64, len: u64, f: impl FnOnce(&mut [u8]) -> T) -> Result<T, Error> {
        check_range(&self.identity.path, self.identity.len, offset, len)?;
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let beyond = || Error::Beyond { disk: self.identity.path.clone(), offset, len, size: self.identity.len };
        let start = usize::try_from(offset).map_err(|_| beyond())?;
        let len_here = usize::try_from(len).map_err(|_| beyond())?;
        bytes.get_mut(start..start + len_here).map(f).ok_or_else(beyond)
    }
}

impl ReadAt for MemoryDisk {
    fn len(&self) -> u64 {
        self.identity.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.with(offset, buf.len() as u64, |bytes| buf.copy_from_slice(bytes))
    }
}

impl Disk for MemoryDisk {
    fn sector_size(&self) -> SectorSize {
        self.identity.sector_size
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl TargetDisk for MemoryDisk {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.with(offset, buf.len() as u64, |bytes| bytes.copy_from_slice(buf))
    }

    fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        self.with(range.start, range.len(), |bytes| bytes.fill(0))
    }

    fn can_discard(&self) -> Option<Discard> {
        Some(Discard { granularity: self.identity.sector_size.bytes(), solid_state: true })
    }

    /// Fills it with what nobody wrote: a medium may read as anything after a discard.
    fn discard(&self, range: Extent) -> Result<(), Error> {
        self.with(range.start, range.len(), |bytes| bytes.fill(0xdc))
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn drop_caches(&self) -> Result<(), Error> {
        Ok(())
    }

    fn reread_table(&self) -> Result<(), Error> {
        Ok(())
    }
}

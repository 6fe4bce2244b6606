//! A target that does something else than it is asked to.

use crate::{
    block::{Disk, Error, Identity, ReadAt, TargetDisk, file::FileDisk},
    extent::Extent,
    units::SectorSize,
};

type Writing = dyn Fn(&FileDisk, &[u8], u64) -> Result<(), Error> + Send + Sync;
type Zeroing = dyn Fn(&FileDisk, Extent) -> Result<(), Error> + Send + Sync;

/// A file that writes and zeros in its own way, and that cannot discard.
pub(super) struct Odd {
    disk: FileDisk,
    write: Box<Writing>,
    zero: Box<Zeroing>,
}

impl Odd {
    /// Does all as `disk` does.
    pub(super) fn new(disk: FileDisk) -> Self {
        let write = Box::new(|disk: &FileDisk, buf: &[u8], offset| disk.write_all_at(buf, offset));
        Self { disk, write, zero: Box::new(|disk, range| disk.write_zeros(range)) }
    }

    /// Writes by `write`.
    pub(super) fn writing(
        self,
        write: impl Fn(&FileDisk, &[u8], u64) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        Self { write: Box::new(write), ..self }
    }

    /// Zeros by `zero`.
    pub(super) fn zeroing(self, zero: impl Fn(&FileDisk, Extent) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self { zero: Box::new(zero), ..self }
    }
}

impl ReadAt for Odd {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.disk.read_exact_at(buf, offset)
    }
}

impl Disk for Odd {
    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }

    fn identity(&self) -> &Identity {
        self.disk.identity()
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.disk.check_unchanged()
    }
}

impl TargetDisk for Odd {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        (self.write)(&self.disk, buf, offset)
    }

    fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        (self.zero)(&self.disk, range)
    }

    fn sync(&self) -> Result<(), Error> {
        self.disk.sync()
    }

    fn drop_caches(&self) -> Result<(), Error> {
        self.disk.drop_caches()
    }

    fn reread_table(&self) -> Result<(), Error> {
        self.disk.reread_table()
    }
}

//! The one hand that writes to the target, and remembers where.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    block::{Error, TargetDisk},
    extent::{Extent, ExtentSet},
};

/// Writes to the target. Shared by the threads of a restore.
pub(super) struct Pen<'a> {
    target: &'a dyn TargetDisk,
    written: Mutex<Vec<Extent>>,
    bytes: AtomicU64,
}

impl<'a> Pen<'a> {
    pub(super) fn new(target: &'a dyn TargetDisk) -> Self {
        Self { target, written: Mutex::new(Vec::new()), bytes: AtomicU64::new(0) }
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As [`TargetDisk::write_all_at`].
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.note(Extent::new(offset, offset.saturating_add(bytes.len() as u64)));
        self.target.write_all_at(bytes, offset)
    }

    /// Makes `range` read as zeros.
    ///
    /// # Errors
    /// As [`TargetDisk::write_zeros`].
    pub(super) fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        self.note(range);
        self.target.write_zeros(range)
    }

    // Before the write: one that fails may have changed something.
    fn note(&self, range: Extent) {
        self.bytes.fetch_add(range.len(), Ordering::Relaxed);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(range);
    }

    /// Returns every byte that was written so far.
    pub(super) fn written(&self) -> ExtentSet {
        ExtentSet::from_unsorted(self.written.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Returns how many bytes were written so far; what was written twice counts twice.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

//! Reading a chunk from a disk that may be failing: what can be read is read, the rest is listed.

use super::error::Error;
use crate::{
    block::{self, Disk},
    extent::{Extent, ExtentSet},
};

/// Extents closer than this are read in one go: a seek costs more than the bytes between them.
const COALESCE: u64 = 64 << 10;

/// Reads the allocated bytes of one chunk into `buf` and zeroes the rest.
///
/// * `chunk`: the chunk's bytes on the disk; `buf` is as long.
/// * `allocated`: the allocated extents on the disk that lie in `chunk`, in order.
/// * `stop`: looked at before every try after the first error; a dying disk takes seconds for each.
///
/// Returns the sectors that could not be read; `buf` holds zeros there.
///
/// # Errors
/// [`Error::Failed`] when the disk is gone or changed, or the job stopped. A medium error is not one.
pub fn read_chunk(
    disk: &dyn Disk,
    chunk: Extent,
    allocated: &[Extent],
    buf: &mut [u8],
    stop: &dyn Fn() -> bool,
) -> Result<ExtentSet, Error> {
    let mut salvage = Salvage { disk, stop, bad: ExtentSet::new(), checked: false };
    for run in joined(allocated) {
        salvage.read(run, part(buf, chunk, run))?;
    }
    let mut at = chunk.start;
    for extent in allocated {
        part(buf, chunk, Extent::new(at, extent.start)).fill(0);
        at = extent.end;
    }
    part(buf, chunk, Extent::new(at, chunk.end)).fill(0);
    // What is unreadable between the extents is nobody's loss.
    Ok(salvage.bad.intersect(&allocated.iter().copied().collect()))
}

/// Joins extents that lie close to each other.
fn joined(extents: &[Extent]) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for extent in extents {
        match runs.last_mut() {
            Some(run) if extent.start - run.end < COALESCE => run.end = extent.end,
            _ => runs.push(*extent),
        }
    }
    runs
}

fn part(buf: &mut [u8], chunk: Extent, range: Extent) -> &mut [u8] {
    // Both lie in one chunk, which is as long as a buffer in memory.
    let at = |offset: u64| usize::try_from(offset - chunk.start).expect("a chunk fits in memory");
    &mut buf[at(range.start)..at(range.end)]
}

struct Salvage<'a> {
    disk: &'a dyn Disk,
    stop: &'a dyn Fn() -> bool,
    bad: ExtentSet,
    /// Whether the disk was asked, since the chunk began, if it is still the same.
    checked: bool,
}

impl Salvage<'_> {
    /// Reads `run`; on a medium error halves it until single sectors are left, each tried twice.
    fn read(&mut self, run: Extent, buf: &mut [u8]) -> Result<(), Error> {
        if run.is_empty() {
            return Ok(());
        }
        let Err(error) = self.disk.read_exact_at(buf, run.start) else { return Ok(()) };
        if !is_medium_error(&error) {
            return Err(error.into());
        }
        self.check_disk()?;
        if (self.stop)() {
            return Err(Error::Failed("stopped while reading damaged sectors".to_owned()));
        }
        let sector = self.disk.sector_size().bytes();
        if run.len() <= sector {
            if self.disk.read_exact_at(buf, run.start).is_err() {
                buf.fill(0);
                self.bad.insert(run);
            }
            return Ok(());
        }
        let half = (run.len() / 2).next_multiple_of(sector);
        let middle = run.start + half;
        let (left, right) = buf.split_at_mut(usize::try_from(half).expect("a chunk fits in memory"));
        self.read(Extent::new(run.start, middle), left)?;
        self.read(Extent::new(middle, run.end), right)
    }

    /// Tells a bad sector from a disk that was pulled: both answer with the same error. Once a chunk, because it costs a
    /// walk through the system's tables; the end of the job asks again.
    fn check_disk(&mut self) -> Result<(), Error> {
        if !self.checked {
            self.disk.check_unchanged()?;
            self.checked = true;
        }
        Ok(())
    }
}

/// Tells a sector that cannot be read from a disk that cannot be reached.
fn is_medium_error(error: &block::Error) -> bool {
    use nix::libc::{EBADMSG, EILSEQ, EIO, ENODATA, EREMOTEIO, ETIMEDOUT};
    let block::Error::Io { source, .. } = error else { return false };
    matches!(source.raw_os_error(), Some(EIO | ENODATA | EILSEQ | EBADMSG | EREMOTEIO | ETIMEDOUT))
}

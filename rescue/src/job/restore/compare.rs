//! Finding what the target holds already, before anything is written: what is equal is neither fetched from the store
//! nor written, so that restoring an image again, or going on after an interruption, costs one reading of the target.
//!
//! A chunk is equal when its allocated bytes are: the id is the hash of the chunk with its free bytes as zeros, and so
//! it is compared without the store. What was found equal was read from the medium and counts as read back, unless
//! something is written so close to it that the write may have passed over it as well.
//!
//! A target that holds something else must not be read whole for nothing. Each few chunks in a row that differ double
//! the distance to the next one that is looked at, up to one in [`MAX_STRIDE`], which is less than two percent of a
//! reading. A chunk that is equal brings back the full watch, forwards and, over what was passed by, backwards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    RestorePlan, ends,
    target::{read_extents, zeros_in},
    write::Batch,
};
use crate::{
    block::buffer::{ALIGNMENT, AlignedBuf},
    extent::{Extent, ExtentSet},
    job::{
        Cancel, Monitor, Phase,
        chunks::Runs,
        error::Error,
        failure::Failure,
        meter::Meter,
        pipeline,
        report::{Draft, Effort},
    },
    store::{ChunkId, Manifest},
};

/// Chunks that may differ in a row before the distance to the next one that is looked at doubles.
const PATIENCE: u32 = 4;
/// Of so many chunks in a row one is looked at in any case.
const MAX_STRIDE: usize = 64;

/// What the target holds already.
#[derive(Debug, Default)]
pub(super) struct Same {
    /// Bytes of the disk that are as the image wants them.
    extents: ExtentSet,
    /// How many of them are allocated ones.
    pub(super) allocated: u64,
}

impl Same {
    /// Tells whether all of `extents` are as they should be.
    pub(super) fn holds(&self, extents: &ExtentSet) -> bool {
        extents.iter().all(|extent| self.extents.covers(extent))
    }

    /// Returns what of `extents` has to be written.
    pub(super) fn lacks(&self, extents: &ExtentSet) -> ExtentSet {
        let Some((first, last)) = extents.as_slice().first().zip(extents.as_slice().last()) else {
            return ExtentSet::new();
        };
        extents.subtract(&self.extents.clip(Extent::new(first.start, last.end)))
    }
}

/// One thing to look at, and what was passed by to come to it.
struct Task {
    batch: Batch,
    passed: Vec<Batch>,
    /// Whether it lies behind what was looked at before.
    forwards: bool,
}

/// Decides what is looked at.
struct Queue<I> {
    all: I,
    passed: Vec<Batch>,
    /// Passed by and of interest after all, the nearest last.
    backlog: Vec<Batch>,
    /// Chunks in a row that differed.
    misses: u32,
}

impl<I: Iterator<Item = Batch>> Queue<I> {
    const fn new(all: I) -> Self {
        Self { all, passed: Vec::new(), backlog: Vec::new(), misses: 0 }
    }

    fn stride(&self) -> usize {
        1usize.checked_shl(self.misses / PATIENCE).unwrap_or(MAX_STRIDE).min(MAX_STRIDE)
    }

    fn next(&mut self) -> Option<Task> {
        if let Some(batch) = self.backlog.pop() {
            return Some(Task { batch, passed: Vec::new(), forwards: false });
        }
        loop {
            let batch = self.all.next()?;
            match batch {
                Batch::Zero { .. } => return Some(Task { batch, passed: Vec::new(), forwards: false }),
                Batch::Chunk { .. } if self.passed.len() + 1 < self.stride() => self.passed.push(batch),
                Batch::Chunk { .. } => {
                    return Some(Task { batch, passed: std::mem::take(&mut self.passed), forwards: true });
                }
            }
        }
    }

    /// Takes note of what came of a task.
    fn tell(&mut self, task: Task, equal: bool) {
        match (equal, task.forwards) {
            (true, _) => {
                self.misses = 0;
                self.backlog.extend(task.passed);
            }
            (false, true) => self.misses = self.misses.saturating_add(1),
            // On the way back: here ends what is equal.
            (false, false) => self.backlog.clear(),
        }
    }
}

impl RestorePlan {
    /// Reads the target and finds what need not be written. Writes nothing.
    pub(super) fn compare(&self, monitor: &dyn Monitor, cancel: &Cancel, draft: &mut Draft<'_>) -> Result<Same, Error> {
        // Only what is on the medium counts; a run that was interrupted may have left pages that never came there.
        self.target.sync()?;
        self.target.drop_caches()?;
        let meter = Meter::begin(monitor, Phase::Comparing, self.allocated().saturating_add(self.wiped.total()));
        let failure = Failure::default();
        let queue = Mutex::new(Queue::new(self.batches()));
        let found = Mutex::new((Vec::new(), 0));
        let wiped = Mutex::new(self.wiped_pieces());
        let stop = || cancel.is_cancelled() || failure.is_set();
        let workers = pipeline::transfer_workers(self.manifest.chunk_len);
        meter.threads(&[Effort::Reading, Effort::Hashing], workers);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    failure.guard(|| {
                        self.compare_batches(&queue, &found, &meter, &stop);
                        self.compare_wiped(&wiped, &found, &meter, &stop);
                        Ok(())
                    });
                });
            }
        });
        if cancel.is_cancelled() {
            return Err(Error::Failed("cancelled before anything was written".to_owned()));
        }
        failure.result()?;
        let (extents, allocated) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        meter.set_of(meter.done(), meter.done());
        draft.report.stages.push(meter.finish());
        draft.report.unchanged_bytes = allocated;
        Ok(Same { extents: ExtentSet::from_unsorted(extents), allocated })
    }

    fn compare_batches(
        &self,
        queue: &Mutex<Queue<impl Iterator<Item = Batch>>>,
        found: &Mutex<(Vec<Extent>, u64)>,
        meter: &Meter<'_>,
        stop: &dyn Fn() -> bool,
    ) {
        let mut buf = AlignedBuf::zeroed(self.chunk_memory());
        // What is going to be overwritten in any case is not looked at.
        let restless = self.late.union(&self.near(&ends(self.target.len())));
        while !stop() {
            let Some(task) = lock(queue).next() else { return };
            let (region, first, count) = task.batch.place();
            let (chunk, allocated) = self.place(region, first, count);
            let total = allocated.total();
            let equal = match task.batch {
                Batch::Zero { .. } => zeros_in(self.target.as_ref(), &allocated.subtract(&restless), &mut buf, stop),
                Batch::Chunk { id, .. } => {
                    let touched = !allocated.intersect(&restless.clip(chunk)).is_empty();
                    let equal = !touched && self.is_equal(chunk, &allocated, id, meter, &mut buf);
                    if !touched {
                        let passed = task.passed.len() as u64;
                        lock(queue).tell(task, equal);
                        if !equal {
                            meter.less(passed.saturating_mul(self.manifest.chunk_len));
                        }
                    }
                    if equal { allocated } else { ExtentSet::new() }
                }
            };
            let mut found = lock(found);
            found.1 += equal.total();
            found.0.extend(equal.iter());
            drop(found);
            meter.add(total);
        }
    }

    /// Looks for zeros where free bytes have to be zero.
    fn compare_wiped(
        &self,
        wiped: &Mutex<impl Iterator<Item = Extent>>,
        found: &Mutex<(Vec<Extent>, u64)>,
        meter: &Meter<'_>,
        stop: &dyn Fn() -> bool,
    ) {
        let mut buf = AlignedBuf::zeroed(self.chunk_memory());
        while !stop() {
            let Some(piece) = lock(wiped).next() else { return };
            let zeros = zeros_in(self.target.as_ref(), &piece.into(), &mut buf, stop);
            lock(found).0.extend(zeros.iter());
            meter.add(piece.len());
        }
    }

    /// Tells whether the target holds a chunk. One that cannot be read does not hold it: writing may even mend it.
    fn is_equal(&self, chunk: Extent, allocated: &ExtentSet, id: ChunkId, meter: &Meter<'_>, buf: &mut [u8]) -> bool {
        let buf = &mut buf[..usize::try_from(chunk.len()).expect("a chunk lies in memory")];
        let read = || read_extents(self.target.as_ref(), chunk, allocated, buf).is_ok();
        meter.time(Effort::Reading, allocated.total(), read)
            && meter.time(Effort::Hashing, chunk.len(), || ChunkId::of(buf)) == id
    }

    /// Returns what a write of `extents` may pass over: a page of a file, a sector of the medium.
    fn near(&self, extents: &ExtentSet) -> ExtentSet {
        let unit = self.target.identity().physical_sector_size.bytes().max(self.target.sector_size().bytes());
        extents.round_out(unit.max(ALIGNMENT as u64), self.target.len())
    }

    /// Returns what of `same` still counts as read from the medium after `written` was written.
    pub(super) fn undisturbed(&self, same: &Same, written: &ExtentSet) -> Same {
        Same { extents: same.extents.subtract(&self.near(written)), allocated: same.allocated }
    }

    /// Tells whether something of a chunk has to come out of the store.
    pub(super) fn is_needed(&self, region: usize, number: u64, same: &Same) -> bool {
        let (_, allocated) = self.place(region, number, 1);
        !same.holds(&allocated) || allocated.iter().any(|extent| self.late.within(extent).next().is_some())
    }

    /// Returns the manifest with only those chunks that have to come out of the store.
    pub(super) fn needed(&self, same: &Same) -> Manifest {
        let mut manifest = self.manifest.clone();
        for (region, image) in manifest.regions.iter_mut().enumerate() {
            let mut runs = Runs::default();
            for (number, id) in self.manifest.regions[region].chunks() {
                if id != ChunkId::ZERO && self.is_needed(region, number, same) {
                    runs.add(number, id);
                }
            }
            image.chunks = runs.finish();
        }
        manifest
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks through `equal` as a restore does, one at a time; returns how many were looked at, and which were found.
    fn look(equal: &[bool]) -> (usize, Vec<bool>) {
        let chunk = |number: usize| Batch::Chunk { region: 0, number: number as u64, id: ChunkId::ZERO };
        let mut queue = Queue::new((0..equal.len()).map(chunk));
        let (mut looks, mut found) = (0, vec![false; equal.len()]);
        while let Some(task) = queue.next() {
            let number = usize::try_from(task.batch.place().1).unwrap();
            looks += 1;
            found[number] = equal[number];
            queue.tell(task, equal[number]);
        }
        (looks, found)
    }

    #[test]
    fn a_foreign_target_is_hardly_looked_at() {
        let (looks, found) = look(&[false; 100_000]);
        assert!(looks < 100_000 / 64 + 40, "{looks}");
        assert!(!found.contains(&true));
    }

    #[test]
    fn everything_equal_is_found_and_looked_at_once() {
        assert_eq!(look(&[true; 5000]), (5000, vec![true; 5000]));
        // One of a few that changed never makes it look away.
        let scattered: Vec<bool> = (0..5000).map(|n| n % 4 != 0).collect();
        assert_eq!(look(&scattered), (5000, scattered.clone()));
    }

    #[test]
    fn the_borders_of_what_is_equal_are_found_exactly() {
        for (from, to) in [(0, 3000), (1000, 3000), (2999, 3200), (4000, 10_000), (9000, 10_000)] {
            let equal: Vec<bool> = (0..10_000).map(|n| (from..to).contains(&n)).collect();
            let (looks, found) = look(&equal);
            assert_eq!(found, equal, "{from}..{to}");
            let ideal = to - from + (10_000 - (to - from)) / 64;
            assert!(looks < ideal + 150, "{from}..{to}: {looks}, {ideal}");
        }
    }
}

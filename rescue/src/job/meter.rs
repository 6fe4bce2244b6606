//! Counting what a job does: progress while a phase runs, figures for the report after it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Event, Monitor, Phase, Progress,
    report::{Effort, Stage, Work},
};
use crate::store::{self, ChunkId, Reader};

/// How often progress is reported at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// Counts one phase. Shared by the threads that do it.
pub struct Meter<'a> {
    monitor: &'a dyn Monitor,
    phase: Phase,
    total: AtomicU64,
    done: AtomicU64,
    stored: AtomicU64,
    efforts: [Spent; Effort::ALL.len()],
    began: Instant,
    reported: Mutex<Instant>,
}

/// What one kind of work took so far.
#[derive(Default)]
struct Spent {
    threads: AtomicU64,
    /// The first of the kinds of work that the same threads do.
    group: AtomicU64,
    bytes: AtomicU64,
    nanos: AtomicU64,
}

impl<'a> Meter<'a> {
    /// Tells `monitor` that `phase` begins, which will go through `total` bytes.
    pub fn begin(monitor: &'a dyn Monitor, phase: Phase, total: u64) -> Self {
        monitor.event(Event::Phase { phase });
        let now = Instant::now();
        let meter = Self {
            monitor,
            phase,
            total: AtomicU64::new(total),
            done: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            efforts: Default::default(),
            began: now,
            reported: Mutex::new(now),
        };
        meter.report();
        meter
    }

    /// Counts `bytes` as done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.report_sometimes();
    }

    /// Sets how many bytes are done.
    pub fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
        self.report_sometimes();
    }

    /// Sets how many bytes are done, of how many.
    pub fn set_of(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.set(done);
    }

    /// Takes `bytes` from what the phase will go through.
    pub fn less(&self, bytes: u64) {
        let less = |total: u64| Some(total.saturating_sub(bytes));
        let _ = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Counts `bytes` as new in the store.
    pub fn add_stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many threads do these kinds of work in turns; what nobody does is not in the report.
    pub fn threads(&self, efforts: &[Effort], threads: usize) {
        for effort in efforts {
            let spent = self.spent(*effort);
            spent.threads.store(threads as u64, Ordering::Relaxed);
            spent.group.store(efforts[0] as u64, Ordering::Relaxed);
        }
    }

    /// Does a piece of work on `bytes` bytes and counts the time.
    pub fn time<T>(&self, effort: Effort, bytes: u64, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = work();
        self.took(effort, bytes, began.elapsed());
        result
    }

    /// Counts the time that a piece of work on `bytes` bytes took.
    pub fn took(&self, effort: Effort, bytes: u64, time: Duration) {
        let spent = self.spent(effort);
        spent.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        spent.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads a chunk of a store, and counts the time that takes as [`Effort::Fetching`] and [`Effort::Decoding`].
    ///
    /// # Errors
    /// As [`Reader::read_chunk`].
    pub fn read_chunk(&self, reader: &mut Reader, id: &ChunkId, plain: &mut Vec<u8>) -> Result<(), store::Error> {
        let began = Instant::now();
        let read = reader.read_chunk(id, plain);
        let (took, (stored, fetching)) = (began.elapsed(), reader.fetched());
        self.took(Effort::Fetching, stored, fetching);
        self.took(Effort::Decoding, plain.len() as u64, took.saturating_sub(fetching));
        read
    }

    const fn spent(&self, effort: Effort) -> &Spent {
        &self.efforts[effort as usize]
    }

    /// Returns how many bytes are done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Ends the phase.
    pub fn finish(self) -> Stage {
        self.report();
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let work = Effort::ALL.into_iter().zip(&self.efforts).map(|(effort, spent)| Work {
            effort,
            threads: spent.threads.load(Ordering::Relaxed),
            group: spent.group.load(Ordering::Relaxed),
            bytes: spent.bytes.load(Ordering::Relaxed),
            millis: spent.nanos.load(Ordering::Relaxed) / 1_000_000,
        });
        let work = work.filter(|work| work.threads > 0).collect();
        Stage { phase: self.phase, bytes: self.done(), millis, work }
    }

    fn report_sometimes(&self) {
        // Whoever finds the lock taken need not wait: somebody else is reporting.
        let Ok(mut reported) = self.reported.try_lock().or_else(|error| match error {
            std::sync::TryLockError::Poisoned(poisoned) => Ok(PoisonError::into_inner(poisoned)),
            std::sync::TryLockError::WouldBlock => Err(()),
        }) else {
            return;
        };
        if reported.elapsed() >= INTERVAL {
            *reported = Instant::now();
            self.report();
        }
    }

    fn report(&self) {
        let progress = Progress {
            done: self.done(),
            // The last figure must be the whole: what a file system's books and its map say may differ by a little.
            total: self.total.load(Ordering::Relaxed).max(self.done()),
            stored: self.stored.load(Ordering::Relaxed),
        };
        self.monitor.event(Event::Progress { phase: self.phase, progress });
    }
}

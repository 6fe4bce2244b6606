//! Writing the regions: each worker takes a chunk out of the store, checks it, and puts its allocated bytes in place.
//!
//! Several write at once: while one waits for the disk others decode, and a disk that takes more than one request at a
//! time gets more than one. They take chunks in the order of the disk, so that a disk with a head moves it little.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{RestorePlan, cancelled, compare::Same, late::Held, pen::Pen};
use crate::{
    block::buffer::AlignedBuf,
    extent::{Extent, ExtentSet},
    job::{
        Cancel, Monitor, Phase, chunks,
        error::Error,
        failure::Failure,
        meter::Meter,
        pipeline,
        report::{Draft, Effort},
    },
    store::{ChunkId, Reader, manifest::ChunkRun},
};

/// Zero chunks that are written in one go: often enough to look at the cancel flag.
const ZERO_BATCH: usize = 256;

/// Chunks of one region that are written in one go.
pub(super) enum Batch {
    /// One chunk with an id.
    Chunk {
        /// Index of the region.
        region: usize,
        /// Its number.
        number: u64,
        /// Its id.
        id: ChunkId,
    },
    /// Chunks that are all zero.
    Zero {
        /// Index of the region.
        region: usize,
        /// Number of the first one.
        first: u64,
        /// How many.
        count: u64,
    },
}

impl Batch {
    /// Returns region, number of the first chunk, and how many.
    pub(super) const fn place(&self) -> (usize, u64, u64) {
        match *self {
            Self::Chunk { region, number, .. } => (region, number, 1),
            Self::Zero { region, first, count } => (region, first, count),
        }
    }
}

impl RestorePlan {
    /// Lists what the image holds, in the order of the disk.
    pub(super) fn batches(&self) -> impl Iterator<Item = Batch> + Send + '_ {
        self.manifest.regions.iter().enumerate().flat_map(|(region, image)| {
            image.chunks.iter().flat_map(move |run| -> Box<dyn Iterator<Item = Batch> + Send + '_> {
                match run {
                    ChunkRun::Zero { first, count } => {
                        let end = first.saturating_add(*count);
                        let starts = (*first..end).step_by(ZERO_BATCH);
                        Box::new(starts.map(move |first| Batch::Zero {
                            region,
                            first,
                            count: (end - first).min(ZERO_BATCH as u64),
                        }))
                    }
                    ChunkRun::Data { first, ids } => {
                        Box::new((*first..).zip(ids).map(move |(number, id)| Batch::Chunk { region, number, id: *id }))
                    }
                }
            })
        })
    }

    /// Returns the bytes of chunks on the disk, and the allocated ones among them.
    pub(super) fn place(&self, region: usize, first: u64, count: u64) -> (Extent, ExtentSet) {
        let image = &self.manifest.regions[region];
        let (start, len) = (image.region.range.start, image.region.range.len());
        let from = chunks::slot(first, len, self.manifest.chunk_len).start;
        let to = chunks::slot(first.saturating_add(count.saturating_sub(1)), len, self.manifest.chunk_len).end;
        let on_disk = |extent: Extent| Extent::new(start + extent.start, start + extent.end);
        let window = Extent::new(from, to);
        (on_disk(window), image.allocated.within(window).map(on_disk).collect())
    }

    /// Writes every allocated byte that is not late and that the target does not hold already, and returns the late ones
    /// that came out of chunks.
    pub(super) fn write_regions(
        &self,
        pen: &Pen<'_>,
        same: &Same,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<Held, Error> {
        let meter = Meter::begin(monitor, Phase::Writing, self.allocated().saturating_sub(same.allocated));
        let failure = Failure::default();
        let held = Mutex::new(Held::new());
        let batches = Mutex::new(self.batches());
        let workers = pipeline::transfer_workers(self.manifest.chunk_len);
        meter.threads(&[Effort::Fetching, Effort::Decoding, Effort::Writing], workers);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let mut worker = Worker {
                    plan: self,
                    pen,
                    same,
                    meter: &meter,
                    held: &held,
                    reader: self.store.reader(),
                    plain: Vec::new(),
                    aligned: self.target.wants_aligned().then(|| AlignedBuf::zeroed(self.chunk_memory())),
                };
                let (batches, failure) = (&batches, &failure);
                scope.spawn(move || failure.guard(|| worker.run(batches, failure, cancel)));
            }
        });
        failure.result()?;
        self.target.sync()?;
        draft.report.stages.push(meter.finish());
        Ok(held.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the bytes of memory that a chunk needs.
    pub(super) fn chunk_memory(&self) -> usize {
        usize::try_from(self.manifest.chunk_len).expect("checked when the image was loaded")
    }

    pub(super) fn damaged(&self, region: usize, chunk: Extent, error: &crate::store::Error) -> Error {
        let image = &self.manifest.regions[region];
        Error::failed(
            &format!(
                "image {}, {}, {chunk} of the disk",
                self.manifest.id,
                super::region_name(image.kind(), image.detected.as_ref())
            ),
            error,
        )
    }
}

/// One of the threads that write.
struct Worker<'a> {
    plan: &'a RestorePlan,
    pen: &'a Pen<'a>,
    same: &'a Same,
    meter: &'a Meter<'a>,
    held: &'a Mutex<Held>,
    reader: Reader,
    plain: Vec<u8>,
    /// Where a chunk is copied to that goes past the page cache: what is not aligned would be copied piece by piece.
    aligned: Option<AlignedBuf>,
}

impl Worker<'_> {
    fn run(
        &mut self,
        batches: &Mutex<impl Iterator<Item = Batch>>,
        failure: &Failure,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        failure.each(batches, cancel, cancelled, |batch| match batch {
            Batch::Zero { .. } => self.zeros(&batch),
            Batch::Chunk { region, number, id } if self.plan.is_needed(region, number, self.same) => {
                self.chunk(region, number, &id)
            }
            Batch::Chunk { .. } => Ok(()),
        })
    }

    fn zeros(&self, batch: &Batch) -> Result<(), Error> {
        let (region, first, count) = batch.place();
        let wanted = self.same.lacks(&self.plan.place(region, first, count).1);
        for extent in self.plan.without_late(&wanted).iter() {
            self.meter.time(Effort::Writing, extent.len(), || self.pen.write_zeros(extent))?;
        }
        self.meter.add(wanted.total());
        Ok(())
    }

    fn chunk(&mut self, region: usize, number: u64, id: &ChunkId) -> Result<(), Error> {
        let (chunk, allocated) = self.plan.place(region, number, 1);
        let read = self.meter.read_chunk(&mut self.reader, id, &mut self.plain);
        read.map_err(|error| self.plan.damaged(region, chunk, &error))?;
        if self.plain.len() as u64 != chunk.len() {
            return Err(Error::Failed(format!(
                "chunk {id} holds {} bytes, its place at {chunk} has {}",
                self.plain.len(),
                chunk.len()
            )));
        }
        let memory = match &mut self.aligned {
            Some(aligned) => {
                aligned[..self.plain.len()].copy_from_slice(&self.plain);
                &**aligned
            }
            None => &*self.plain,
        };
        let bytes = |extent: Extent| {
            let at = |offset: u64| usize::try_from(offset - chunk.start).expect("a chunk lies in memory");
            &memory[at(extent.start)..at(extent.end)]
        };
        let now = self.plan.without_late(&allocated);
        if !self.same.holds(&now) {
            for extent in now.iter() {
                self.meter.time(Effort::Writing, extent.len(), || self.pen.write(bytes(extent), extent.start))?;
            }
        }
        for extent in allocated.subtract(&now).iter() {
            lock(self.held).insert(extent.start, bytes(extent).to_vec());
        }
        self.meter.add(allocated.total());
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Writing the regions: workers read and check chunks, one writer puts their allocated bytes in place.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{RestorePlan, cancelled, late::Held};
use crate::{
    extent::{Extent, ExtentSet},
    job::{Cancel, Monitor, Phase, chunks, error::Error, failure::Failure, meter::Meter, pipeline, report::Draft},
    store::{ChunkId, manifest::ChunkRun},
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

/// A chunk on its way from a worker to the writer.
struct Ready {
    /// Its bytes on the disk.
    chunk: Extent,
    /// Its allocated extents on the disk.
    allocated: Vec<Extent>,
    plain: Vec<u8>,
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

    /// Returns a chunk's bytes on the disk, and the allocated ones among them.
    pub(super) fn place(&self, region: usize, first: u64, count: u64) -> (Extent, Vec<Extent>) {
        let image = &self.manifest.regions[region];
        let (start, len) = (image.region.range.start, image.region.range.len());
        let from = chunks::slot(first, len, self.manifest.chunk_len).start;
        let to = chunks::slot(first.saturating_add(count.saturating_sub(1)), len, self.manifest.chunk_len).end;
        let on_disk = |extent: Extent| Extent::new(start + extent.start, start + extent.end);
        let window = Extent::new(from, to);
        (on_disk(window), image.allocated.within(window).map(on_disk).collect())
    }

    /// Writes every allocated byte that is not late, and returns the late ones that came out of chunks.
    pub(super) fn write_regions(
        &self,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<Held, Error> {
        let meter = Meter::begin(monitor, Phase::Writing, self.allocated());
        let workers = pipeline::workers(self.manifest.chunk_len);
        let failure = Failure::default();
        let held = Mutex::new(Held::new());
        let batches = Mutex::new(self.batches());
        let (ready_in, ready) = bounded::<Ready>(2 * workers);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let (ready_in, batches, failure, meter) = (ready_in.clone(), &batches, &failure, &meter);
                scope.spawn(move || failure.guard(|| self.decode(batches, &ready_in, failure, meter, cancel)));
            }
            drop(ready_in);
            failure.guard(|| self.write_ready(&ready, &failure, &meter, &held));
            // Workers must not wait for a writer that has stopped.
            ready.iter().for_each(drop);
        });
        failure.result()?;
        for extent in self.wiped.iter() {
            self.target.write_zeros(extent)?;
        }
        self.target.sync()?;
        draft.report.stages.push(meter.finish());
        Ok(held.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn decode(
        &self,
        batches: &Mutex<impl Iterator<Item = Batch>>,
        ready: &Sender<Ready>,
        failure: &Failure,
        meter: &Meter<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut reader = self.store.reader();
        loop {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            if failure.is_set() {
                return Ok(());
            }
            let next = lock(batches).next();
            match next {
                None => return Ok(()),
                Some(Batch::Zero { region, first, count }) => {
                    let (_, allocated) = self.place(region, first, count);
                    for extent in ExtentSet::from_unsorted(allocated.clone()).subtract(&self.late).iter() {
                        self.target.write_zeros(extent)?;
                    }
                    meter.add(allocated.iter().map(|extent| extent.len()).sum());
                }
                Some(Batch::Chunk { region, number, id }) => {
                    let (chunk, allocated) = self.place(region, number, 1);
                    let mut plain = Vec::new();
                    reader.read_chunk(&id, &mut plain).map_err(|error| self.damaged(region, chunk, &error))?;
                    if plain.len() as u64 != chunk.len() {
                        return Err(Error::Failed(format!(
                            "chunk {id} holds {} bytes, its place at {chunk} has {}",
                            plain.len(),
                            chunk.len()
                        )));
                    }
                    if ready.send(Ready { chunk, allocated, plain }).is_err() {
                        return Ok(());
                    }
                }
            }
        }
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

    fn write_ready(
        &self,
        ready: &Receiver<Ready>,
        failure: &Failure,
        meter: &Meter<'_>,
        held: &Mutex<Held>,
    ) -> Result<(), Error> {
        for Ready { chunk, allocated, plain } in ready {
            if failure.is_set() {
                return Ok(());
            }
            let bytes = |extent: Extent| {
                let at = |offset: u64| usize::try_from(offset - chunk.start).expect("a chunk lies in memory");
                &plain[at(extent.start)..at(extent.end)]
            };
            let allocated = ExtentSet::from_unsorted(allocated);
            for extent in allocated.subtract(&self.late).iter() {
                self.target.write_all_at(bytes(extent), extent.start)?;
            }
            for extent in allocated.intersect(&self.late).iter() {
                lock(held).insert(extent.start, bytes(extent).to_vec());
            }
            meter.add(allocated.total());
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

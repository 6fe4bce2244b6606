//! Reading back from the medium what was written, and comparing it with what the image says.

use std::sync::{Mutex, PoisonError};

use super::{RestorePlan, cancelled, write::Batch};
use crate::{
    block::buffer::AlignedBuf,
    extent::{Extent, ExtentSet},
    job::{Cancel, Monitor, Phase, error::Error, failure::Failure, meter::Meter, pipeline, report::Draft},
    store::ChunkId,
    units::MIB,
};

impl RestorePlan {
    /// Reads every allocated byte that is not late from the medium and compares it.
    pub(super) fn read_back_regions(
        &self,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<(), Error> {
        self.target.drop_caches()?;
        let meter = Meter::begin(monitor, Phase::ReadingBack, self.allocated());
        let failure = Failure::default();
        let batches = Mutex::new(self.batches());
        let workers = pipeline::workers(self.manifest.chunk_len);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| failure.guard(|| self.read_back(&batches, &failure, &meter, cancel)));
            }
        });
        failure.result()?;
        let mut buf = AlignedBuf::zeroed(usize::try_from(MIB).expect("a MiB fits in memory"));
        self.compare_zeros(self.wiped.as_slice(), &mut buf)?;
        draft.report.stages.push(meter.finish());
        Ok(())
    }

    fn read_back(
        &self,
        batches: &Mutex<impl Iterator<Item = Batch>>,
        failure: &Failure,
        meter: &Meter<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let chunk_len = usize::try_from(self.manifest.chunk_len).expect("checked when the image was loaded");
        let mut buf = AlignedBuf::zeroed(chunk_len);
        loop {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            if failure.is_set() {
                return Ok(());
            }
            let next = batches.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                None => return Ok(()),
                Some(Batch::Zero { region, first, count }) => {
                    let (_, allocated) = self.place(region, first, count);
                    self.compare_zeros(&allocated, &mut buf)?;
                    meter.add(allocated.iter().map(|extent| extent.len()).sum());
                }
                Some(Batch::Chunk { region, number, id }) => {
                    meter.add(self.compare_chunk(region, number, id, &mut buf)?);
                }
            }
        }
    }

    /// Compares one chunk by its hash, or byte for byte where parts of it are late.
    fn compare_chunk(&self, region: usize, number: u64, id: ChunkId, buf: &mut AlignedBuf) -> Result<u64, Error> {
        let (chunk, allocated) = self.place(region, number, 1);
        let total = allocated.iter().map(|extent| extent.len()).sum();
        let at = |offset: u64| usize::try_from(offset - chunk.start).expect("a chunk lies in memory");
        let allocated = ExtentSet::from_unsorted(allocated);
        let now = allocated.subtract(&self.late);
        let buf = &mut buf[..at(chunk.end)];
        buf.fill(0);
        for extent in now.iter() {
            self.target.read_exact_at(&mut buf[at(extent.start)..at(extent.end)], extent.start)?;
        }
        let equal = if now.total() == allocated.total() {
            ChunkId::of(buf) == id
        } else {
            let mut plain = Vec::new();
            self.store.reader().read_chunk(&id, &mut plain).map_err(|e| self.damaged(region, chunk, &e))?;
            now.iter().all(|extent| {
                let range = at(extent.start)..at(extent.end);
                plain.get(range.clone()) == Some(&buf[range])
            })
        };
        if equal { Ok(total) } else { Err(self.differs(region, chunk)) }
    }

    fn compare_zeros(&self, allocated: &[Extent], buf: &mut [u8]) -> Result<(), Error> {
        let expected = ExtentSet::from_unsorted(allocated.to_vec()).subtract(&self.late);
        for extent in expected.iter() {
            let mut at = extent.start;
            // A sparse file knows its holes; a device answers with everything.
            while let Some(data) = self.target.next_data(at)?.map(|data| data.intersect(extent)) {
                if data.is_empty() {
                    break;
                }
                let step = MIB.min(data.len()).min(buf.len() as u64);
                let part = &mut buf[..usize::try_from(step).expect("at most a chunk")];
                self.target.read_exact_at(part, data.start)?;
                if let Some(wrong) = part.iter().position(|byte| *byte != 0) {
                    return Err(Error::Failed(format!(
                        "byte {:#x} of {} reads back as {:#04x}, zero was written",
                        data.start + wrong as u64,
                        self.target.identity().path,
                        part[wrong]
                    )));
                }
                at = data.start + step;
                if at >= extent.end {
                    break;
                }
            }
        }
        Ok(())
    }

    fn differs(&self, region: usize, chunk: Extent) -> Error {
        let image = &self.manifest.regions[region];
        Error::Failed(format!(
            "{}, {chunk} of {}: what reads back is not what was written; the disk, its cable or this machine's memory \
             cannot be trusted",
            super::region_name(image.kind(), image.detected.as_ref()),
            self.target.identity().path
        ))
    }
}

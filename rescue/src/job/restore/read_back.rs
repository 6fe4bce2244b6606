//! Reading back from the medium what was written, and comparing it with what the image says.

use std::sync::Mutex;

use super::{
    RestorePlan, cancelled,
    compare::Same,
    free::{PIECE, pieces},
    pen::Pen,
    target::{is_zero, read_extents},
    write::Batch,
};
use crate::{
    block::buffer::AlignedBuf,
    extent::{Extent, ExtentSet},
    job::{
        Cancel, Monitor, Phase,
        error::Error,
        failure::Failure,
        meter::Meter,
        pipeline,
        report::{Draft, Effort},
    },
    store::ChunkId,
};

impl RestorePlan {
    /// Reads every byte that was written and is not late from the medium and compares it, and with it those that were
    /// found equal but may have been passed over by a write since.
    pub(super) fn read_back_regions(
        &self,
        pen: &Pen<'_>,
        same: &Same,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<(), Error> {
        self.target.drop_caches()?;
        let proven = &self.undisturbed(same, &pen.written());
        let wiped = proven.lacks(&self.wiped);
        let written = self.allocated().saturating_sub(same.allocated);
        let meter = Meter::begin(monitor, Phase::ReadingBack, written.saturating_add(wiped.total()));
        let failure = Failure::default();
        let batches = Mutex::new(self.batches());
        let zeros = Mutex::new(pieces(&wiped, PIECE));
        let workers = pipeline::transfer_workers(self.manifest.chunk_len);
        meter.threads(&[Effort::Reading, Effort::Hashing], workers);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    failure.guard(|| {
                        self.read_back(&batches, proven, &failure, &meter, cancel)?;
                        self.read_back_wiped(&zeros, &failure, &meter, cancel)
                    });
                });
            }
        });
        failure.result()?;
        draft.report.stages.push(meter.finish());
        Ok(())
    }

    fn read_back(
        &self,
        batches: &Mutex<impl Iterator<Item = Batch>>,
        proven: &Same,
        failure: &Failure,
        meter: &Meter<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut buf = AlignedBuf::zeroed(self.chunk_memory());
        failure.each(batches, cancel, cancelled, |batch| {
            let done = match batch {
                Batch::Zero { region, first, count } => {
                    let wanted = proven.lacks(&self.place(region, first, count).1);
                    self.compare_zeros(&self.without_late(&wanted), meter, &mut buf)?;
                    wanted.total()
                }
                Batch::Chunk { region, number, id } => {
                    self.compare_chunk(region, number, id, proven, meter, &mut buf)?
                }
            };
            meter.add(done);
            Ok(())
        })
    }

    fn read_back_wiped(
        &self,
        zeros: &Mutex<impl Iterator<Item = Extent>>,
        failure: &Failure,
        meter: &Meter<'_>,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        let mut buf = AlignedBuf::zeroed(self.chunk_memory());
        failure.each(zeros, cancel, cancelled, |piece| {
            self.compare_zeros(&piece.into(), meter, &mut buf)?;
            meter.add(piece.len());
            Ok(())
        })
    }

    /// Compares one chunk by its hash, or byte for byte where parts of it are late. Returns how many bytes that was about.
    fn compare_chunk(
        &self,
        region: usize,
        number: u64,
        id: ChunkId,
        proven: &Same,
        meter: &Meter<'_>,
        buf: &mut AlignedBuf,
    ) -> Result<u64, Error> {
        let (chunk, allocated) = self.place(region, number, 1);
        let now = self.without_late(&allocated);
        if proven.holds(&now) {
            return Ok(if now.is_empty() { allocated.total() } else { 0 });
        }
        let at = |offset: u64| usize::try_from(offset - chunk.start).expect("a chunk lies in memory");
        let buf = &mut buf[..at(chunk.end)];
        meter.time(Effort::Reading, now.total(), || read_extents(self.target.as_ref(), chunk, &now, buf))?;
        let equal = if now.total() == allocated.total() {
            meter.time(Effort::Hashing, chunk.len(), || ChunkId::of(buf)) == id
        } else {
            let mut plain = Vec::new();
            self.store.reader().read_chunk(&id, &mut plain).map_err(|e| self.damaged(region, chunk, &e))?;
            now.iter().all(|extent| {
                let range = at(extent.start)..at(extent.end);
                plain.get(range.clone()) == Some(&buf[range])
            })
        };
        if equal { Ok(allocated.total()) } else { Err(self.differs(region, chunk)) }
    }

    fn compare_zeros(&self, expected: &ExtentSet, meter: &Meter<'_>, buf: &mut [u8]) -> Result<(), Error> {
        for extent in expected.iter() {
            let mut at = extent.start;
            // A sparse file knows its holes; a device answers with everything.
            while at < extent.end {
                let Some(data) = self.target.next_data(at)?.map(|data| data.intersect(extent)) else { break };
                if data.is_empty() {
                    break;
                }
                at = data.start;
                while at < data.end {
                    let step = (data.end - at).min(buf.len() as u64);
                    let part = &mut buf[..usize::try_from(step).expect("no longer than the buffer")];
                    meter.time(Effort::Reading, step, || self.target.read_exact_at(part, at))?;
                    if !is_zero(part) {
                        return Err(self.not_zero(at, part));
                    }
                    at += step;
                }
            }
        }
        Ok(())
    }

    fn not_zero(&self, offset: u64, part: &[u8]) -> Error {
        let wrong = part.iter().position(|byte| *byte != 0).unwrap_or_default();
        Error::Failed(format!(
            "byte {:#x} of {} reads back as {:#04x}, zero was written",
            offset + wrong as u64,
            self.target.identity().path,
            part.get(wrong).copied().unwrap_or_default()
        ))
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

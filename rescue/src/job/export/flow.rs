//! From chunks to bytes in order: workers decode, one writer puts what they decoded where it goes.

use std::{collections::VecDeque, iter, thread};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{ExportPlan, name, sink::Sink};
use crate::{
    extent::Extent,
    job::{Cancel, Output, error::Error, failure::Failure, meter::Meter, pipeline, report::Effort},
    store::{
        self, ChunkId, Reader,
        manifest::{ChunkRun, RegionImage},
    },
};

/// What progress counts.
#[derive(Clone, Copy)]
pub(super) enum Count {
    /// Bytes the image keeps.
    Allocated,
    /// Every byte.
    All,
}

/// A run of the output.
struct Piece<'a> {
    image: &'a RegionImage,
    /// Its bytes, from the region's start.
    range: Extent,
    /// Its chunk; `None` where all of it is zero.
    id: Option<ChunkId>,
}

/// A chunk for a worker to read, memory to read it into, and where to send what came.
struct Order {
    id: ChunkId,
    plain: Vec<u8>,
    reply: Sender<Result<Vec<u8>, store::Error>>,
}

/// A piece that was begun, and the bytes that will come where it is a chunk.
type Begun<'a> = (Piece<'a>, Option<Receiver<Result<Vec<u8>, store::Error>>>);

impl ExportPlan {
    /// Writes every byte of the regions into `sink`, from the first to the last.
    pub(super) fn write(&self, sink: &mut dyn Sink, meter: &Meter<'_>, cancel: &Cancel) -> Result<(), Error> {
        let workers = pipeline::workers(self.manifest.chunk_len);
        let depth = 3 * workers;
        meter.threads(&[Effort::Fetching, Effort::Decoding], workers);
        meter.threads(&[Effort::Writing], 1);
        let failure = Failure::default();
        let written = thread::scope(|scope| {
            let (orders_in, orders) = bounded::<Order>(depth);
            for _ in 0..workers {
                let (orders, failure, reader) = (orders.clone(), &failure, self.store.reader());
                scope.spawn(move || {
                    failure.guard(|| {
                        decode(&orders, reader, meter);
                        Ok(())
                    });
                });
            }
            let mut writer = Writer { plan: self, sink, meter, spare: Vec::new() };
            // Takes the orders' sender with it, so that the workers end when it does.
            writer.run(orders_in, depth, cancel)
        });
        // What a worker's panic said comes before the reply that then never came.
        failure.result().and(written)
    }

    /// Lists the runs of every region, in order and without a gap.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let chunk_len = self.manifest.chunk_len;
        self.regions().iter().flat_map(move |image| {
            let zero = move |start, end| Piece { image, range: Extent::new(start, end), id: None };
            let mut at = 0;
            let of_runs = image.chunks.iter().flat_map(move |run| -> Box<dyn Iterator<Item = Piece<'_>>> {
                let range = bytes_of(run, image, chunk_len);
                let free = zero(std::mem::replace(&mut at, range.end), range.start);
                match run {
                    ChunkRun::Zero { .. } => Box::new([free, zero(range.start, range.end)].into_iter()),
                    ChunkRun::Data { first, ids } => {
                        let chunk = move |(number, id): (u64, &ChunkId)| Piece {
                            image,
                            range: image.chunk_range(number, chunk_len),
                            id: Some(*id),
                        };
                        Box::new(iter::once(free).chain((*first..).zip(ids).map(chunk)))
                    }
                }
            });
            let behind = image.chunks.last().map_or(0, |run| bytes_of(run, image, chunk_len).end);
            of_runs.chain(iter::once(zero(behind, image.region.range.len())))
        })
    }

    fn cancelled(&self) -> Error {
        Error::Failed(match self.output {
            Output::File(_) => "cancelled; no file was made".to_owned(),
            Output::Stdout => "cancelled; what was written to standard output is not whole".to_owned(),
        })
    }
}

/// Returns the bytes of a run, from the region's start.
fn bytes_of(run: &ChunkRun, image: &RegionImage, chunk_len: u64) -> Extent {
    let (first, count) = match run {
        ChunkRun::Zero { first, count } => (*first, *count),
        ChunkRun::Data { first, ids } => (*first, ids.len() as u64),
    };
    let last = first.saturating_add(count).saturating_sub(1);
    Extent::new(image.chunk_range(first, chunk_len).start, image.chunk_range(last, chunk_len).end)
}

/// Zeroes what the image does not keep of a chunk: that it is zero already is for its writer to see to, and to be seen.
fn clear_free(plain: &mut [u8], range: Extent, image: &RegionImage) {
    let at = |offset: u64| usize::try_from(offset - range.start).expect("a chunk lies in memory");
    let mut from = 0;
    for extent in image.allocated.within(range) {
        plain[from..at(extent.start)].fill(0);
        from = at(extent.end);
    }
    plain[from..].fill(0);
}

/// Reads chunks until no more are ordered.
fn decode(orders: &Receiver<Order>, mut reader: Reader, meter: &Meter<'_>) {
    for Order { id, mut plain, reply } in orders {
        let read = meter.read_chunk(&mut reader, &id, &mut plain).map(|()| plain);
        // Nobody waits for it any more where the writer has failed.
        let _ = reply.send(read);
    }
}

/// Puts pieces where they go, in order.
struct Writer<'a> {
    plan: &'a ExportPlan,
    sink: &'a mut dyn Sink,
    meter: &'a Meter<'a>,
    /// Memory of chunks that were written.
    spare: Vec<Vec<u8>>,
}

impl<'a> Writer<'a> {
    /// * `orders`: to the workers.
    /// * `depth`: pieces that are begun before the first of them is written.
    fn run(&mut self, orders: Sender<Order>, depth: usize, cancel: &Cancel) -> Result<(), Error> {
        let mut begun: VecDeque<Begun<'a>> = VecDeque::with_capacity(depth);
        for piece in self.plan.pieces() {
            if cancel.is_cancelled() {
                return Err(self.plan.cancelled());
            }
            if begun.len() >= depth
                && let Some(first) = begun.pop_front()
            {
                self.put(first)?;
            }
            let reply = match piece.id {
                None => None,
                Some(id) => {
                    let (reply, coming) = bounded(1);
                    let plain = self.spare.pop().unwrap_or_default();
                    orders.send(Order { id, plain, reply }).map_err(|_| stopped())?;
                    Some(coming)
                }
            };
            begun.push_back((piece, reply));
        }
        for piece in begun {
            if cancel.is_cancelled() {
                return Err(self.plan.cancelled());
            }
            self.put(piece)?;
        }
        Ok(())
    }

    fn put(&mut self, (piece, coming): Begun<'a>) -> Result<(), Error> {
        let Piece { image, range, .. } = piece;
        match coming {
            None => self.meter.time(Effort::Writing, range.len(), || self.sink.zeros(range.len()))?,
            Some(coming) => {
                let plain = coming.recv().map_err(|_| stopped())?;
                let mut plain = plain.map_err(|error| self.damaged(image, range, &error))?;
                if plain.len() as u64 != range.len() {
                    return Err(Error::Failed(format!(
                        "the chunk at {range} of {} holds {} bytes instead of {}",
                        name(image),
                        plain.len(),
                        range.len()
                    )));
                }
                clear_free(&mut plain, range, image);
                self.meter.time(Effort::Writing, range.len(), || self.sink.data(&plain))?;
                self.spare.push(plain);
            }
        }
        self.meter.add(match self.plan.count() {
            Count::All => range.len(),
            Count::Allocated => image.allocated.within(range).map(Extent::len).sum(),
        });
        Ok(())
    }

    fn damaged(&self, image: &RegionImage, range: Extent, error: &store::Error) -> Error {
        let start = image.region.range.start;
        let on_disk = Extent::new(start.saturating_add(range.start), start.saturating_add(range.end));
        Error::failed(&format!("image {}, {}, {on_disk} of the disk", self.plan.manifest.id, name(image)), error)
    }
}

fn stopped() -> Error {
    Error::Failed("a thread that reads chunks stopped".to_owned())
}

//! Capture: a disk into a store.
//!
//! Readers fill chunk-sized buffers from the disk, workers hash, look up and compress them, and one writer appends the
//! new frames to packs. The manifest comes last: until it is there, there is no image.

use std::{
    borrow::Cow,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::{
    Cancel, CaptureJob, Event, Monitor, Phase,
    analysis::{Analysis, RegionAnalysis, analyse, region_name},
    chunks::{self, Runs},
    error::Error,
    failure::Failure,
    meter::Meter,
    pipeline,
    predecessor::Predecessor,
    report::{Draft, Effort, Outcome, Report, Stage},
    salvage,
    stores::free_bytes,
    view::{PlanView, Step},
    words,
};
use crate::{
    block::{Disk, buffer::AlignedBuf, open_source},
    extent::{Extent, ExtentSet},
    fs,
    store::{
        Base, ChunkId, EncodedFrame, Encoder, Manifest, Store, Writer,
        manifest::{ImageState, RegionImage},
    },
    units::Bytes,
};

/// Threads that read the source.
const READERS: usize = 2;
/// Unreadable chunks that are told as they come; the report lists all.
const TOLD: u64 = 20;
/// After so many chunks in a row that cannot be read at all, the disk is asked for one that could.
const PROBE_AFTER: u64 = 16;

/// A disk, looked at, and the store it will go to.
pub struct CapturePlan {
    job: CaptureJob,
    disk: Box<dyn Disk>,
    analysis: Analysis,
    planning: Stage,
    warnings: Vec<String>,
}

impl CapturePlan {
    /// Opens the disk, reads its table and allocation maps, and looks at the store. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] for a disk in use, a level out of range or a store that cannot take the image;
    /// [`Error::Failed`] when the disk cannot be read.
    pub fn new(job: &CaptureJob, cancel: &Cancel) -> Result<Self, Error> {
        if !(1..=19).contains(&job.level) {
            return Err(Error::Refused(format!("compression level {} is not one of 1 to 19", job.level)));
        }
        Self::of_disk(job, open_source(&job.disk, job.sector_size)?, cancel)
    }

    /// Plans the capture of a disk that is open already.
    ///
    /// # Errors
    /// As [`CapturePlan::new`].
    pub fn of_disk(job: &CaptureJob, disk: Box<dyn Disk>, cancel: &Cancel) -> Result<Self, Error> {
        let began = Instant::now();
        let options = fs::Options { keep_swap_files: job.keep_swap_files };
        let analysis = analyse(disk.as_ref(), &options, cancel)?;
        let warnings = warnings(&job.store, &analysis)?;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let planning = Stage::plain(Phase::Planning, 0, millis);
        Ok(Self { job: job.clone(), disk, analysis, planning, warnings })
    }

    #[cfg(test)]
    pub(super) const fn analysis(&self) -> &Analysis {
        &self.analysis
    }

    /// Shows what will be read, and what will not.
    #[must_use]
    pub fn view(&self) -> PlanView {
        let steps = self.analysis.regions.iter().map(|region| {
            let len = region.region.range.len();
            Step {
                region: region_name(region.region.kind, region.survey.detected.as_ref()),
                range: region.region.range,
                what: words::reading(len, &region.survey),
                bytes: region.survey.allocated.total(),
            }
        });
        PlanView {
            job: "capture".to_owned(),
            title: format!("Image {} into the store {}", self.disk.identity().path, self.job.store.display()),
            disk: Some(self.disk.identity().clone()),
            steps: steps.collect(),
            bytes: self.analysis.allocated(),
            warnings: self.warnings.clone(),
            confirm: None,
        }
    }

    /// Reads the disk into the store.
    #[must_use]
    pub fn run(self, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        let mut draft = Draft::new("capture", monitor);
        draft.report.disk.clone_from(&self.disk.identity().path);
        draft.report.disk_bytes = self.disk.len();
        draft.report.allocated_bytes = self.analysis.allocated();
        draft.report.stages.push(self.planning.clone());
        let result = self.store_image(monitor, cancel, &mut draft);
        draft.finish(result)
    }

    fn store_image(&self, monitor: &dyn Monitor, cancel: &Cancel, draft: &mut Draft<'_>) -> Result<Outcome, Error> {
        let created = now();
        let store = Store::open_or_create(&self.job.store).map_err(|e| Error::failed("opening the store", &e))?;
        let writer = store.writer().map_err(|e| Error::failed("writing to the store", &e))?;
        let layout = &self.analysis.layout;
        let regions = self.analysis.regions.iter().map(|region| (region.region, region.partition.as_ref()));
        let predecessor = Predecessor::find(&store, self.disk.identity(), layout, machine_name().as_deref(), regions);
        let meter = Meter::begin(monitor, Phase::Capturing, self.analysis.allocated());
        let flow = Flow::new(self, &store, &writer, predecessor, &meter, monitor, cancel);
        flow.run()?;
        let (regions, unreadable) = flow.finish(draft);
        draft.report.stages.push(meter.finish());

        // A disk that was pulled or swapped can still have answered every read.
        self.disk.check_unchanged()?;
        let meter = Meter::begin(monitor, Phase::Syncing, 0);
        let state = if unreadable.is_empty() { ImageState::Complete } else { ImageState::Partial };
        let manifest = self.manifest(&store, created, state, regions, unreadable, draft);
        let manifest = writer.commit(manifest).map_err(|e| Error::failed("committing the image", &e))?;
        meter.set(draft.report.stored_bytes);
        draft.report.stages.push(meter.finish());
        draft.report.image = Some(manifest.id);
        Ok(match state {
            ImageState::Complete => Outcome::Complete,
            ImageState::Partial => Outcome::Partial,
        })
    }

    fn manifest(
        &self,
        store: &Store,
        created: String,
        state: ImageState,
        regions: Vec<RegionImage>,
        unreadable: ExtentSet,
        draft: &Draft<'_>,
    ) -> Manifest {
        let layout = &self.analysis.layout;
        Manifest {
            version: 1,
            features: Vec::new(),
            // The writer names it when it commits it.
            id: String::new(),
            created,
            finished: now(),
            state,
            machine: machine_name(),
            note: self.job.note.clone(),
            program: concat!("rescue ", env!("CARGO_PKG_VERSION")).to_owned(),
            disk: self.disk.identity().clone(),
            table: layout.kind,
            disk_id: layout.disk_id.clone(),
            pieces: layout.pieces.clone(),
            chunk_len: store.chunk_len(),
            regions,
            unreadable,
            stored_bytes: draft.report.stored_bytes,
        }
    }
}

/// A file that only the boot environment has.
const BOOTED: &str = "/etc/rescue-release";

/// Tells whether a folder lies in a file system made of memory.
fn is_in_memory(path: &Path) -> bool {
    const RAMFS: FsType = FsType(0x8584_58f6);
    statfs(path).is_ok_and(|fs| [TMPFS_MAGIC, RAMFS].contains(&fs.filesystem_type()))
}

/// What a person should know before the capture runs; refuses what cannot end well.
fn warnings(store: &Path, analysis: &Analysis) -> Result<Vec<String>, Error> {
    let mut out: Vec<String> = analysis.table_error.iter().cloned().collect();
    out.extend(analysis.layout.problems.iter().map(ToString::to_string));
    for region in &analysis.regions {
        let name = region_name(region.region.kind, region.survey.detected.as_ref());
        out.extend(words::remarks(&region.survey).map(|text| format!("{name}: {text}")));
    }
    Store::look(store).map_err(|error| Error::Refused(super::error::chain(&error)))?;
    let existing = store.ancestors().find(|path| path.exists() && !path.as_os_str().is_empty());
    let existing = existing.unwrap_or(Path::new("."));
    if is_in_memory(existing) {
        // In the boot environment nothing but memory is writable before a disk is mounted: an image there is lost at
        // power-off, and the report would have said that it is safe.
        if Path::new(BOOTED).exists() {
            return Err(Error::Refused(format!(
                "{} is in memory, not on a disk: an image there would be lost",
                store.display()
            )));
        }
        out.push(format!("{} is in memory: the image is lost when this machine stops", store.display()));
    }
    if let Some(free) = free_bytes(existing).filter(|free| *free < analysis.allocated()) {
        out.push(format!(
            "{} has {} free; the image needs up to {} before compression and deduplication",
            store.display(),
            Bytes(free),
            Bytes(analysis.allocated())
        ));
    }
    Ok(out)
}

/// The threads of one capture and what passes between them.
struct Flow<'a> {
    plan: &'a CapturePlan,
    store: &'a Store,
    writer: &'a Writer,
    predecessor: Predecessor,
    meter: &'a Meter<'a>,
    monitor: &'a dyn Monitor,
    cancel: &'a Cancel,
    chunk_len: u64,
    failure: Failure,
    runs: Vec<Mutex<Runs>>,
    found: Mutex<Found>,
}

/// What the workers counted.
#[derive(Default)]
struct Found {
    unreadable: ExtentSet,
    /// Chunks that something of could not be read.
    bad_chunks: u64,
    /// Chunks nothing of could be read, since the last that read well.
    bad_in_a_row: u64,
    /// Where the last chunk lies that something of read well.
    last_good: u64,
    stored: u64,
    deduplicated: u64,
}

/// One chunk on its way from a reader to a worker.
struct Filled {
    region: usize,
    number: u64,
    allocated: u64,
    len: usize,
    buf: AlignedBuf,
}

impl<'a> Flow<'a> {
    fn new(
        plan: &'a CapturePlan,
        store: &'a Store,
        writer: &'a Writer,
        predecessor: Predecessor,
        meter: &'a Meter<'a>,
        monitor: &'a dyn Monitor,
        cancel: &'a Cancel,
    ) -> Self {
        let runs = plan.analysis.regions.iter().map(|_| Mutex::new(Runs::default())).collect();
        let chunk_len = store.chunk_len();
        let found = Mutex::new(Found::default());
        let failure = Failure::default();
        Self { plan, store, writer, predecessor, meter, monitor, cancel, chunk_len, failure, runs, found }
    }

    fn run(&self) -> Result<(), Error> {
        let workers = pipeline::workers(self.chunk_len);
        self.meter.threads(&[Effort::Reading], READERS);
        self.meter.threads(&[Effort::Hashing, Effort::Compressing], workers);
        self.meter.threads(&[Effort::Storing], 1);
        let buffers = READERS + 2 * workers;
        let (free_in, free) = bounded(buffers);
        let (filled_in, filled) = bounded::<Filled>(buffers);
        let (frames_in, frames) = bounded::<EncodedFrame>(2 * workers);
        let chunk_len = usize::try_from(self.chunk_len).expect("a store's chunk length fits in memory");
        for _ in 0..buffers {
            free_in.send(AlignedBuf::zeroed(chunk_len)).expect("the channel holds every buffer");
        }
        let slots = Mutex::new(Slots::new(self.plan, self.chunk_len));
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                let (free, filled_in) = (free.clone(), filled_in.clone());
                let slots = &slots;
                scope.spawn(move || self.failure.guard(|| self.read(slots, &free, &filled_in)));
            }
            for _ in 0..workers {
                let (filled, free_in, frames_in) = (filled.clone(), free_in.clone(), frames_in.clone());
                scope.spawn(move || self.failure.guard(|| self.work(&filled, &free_in, &frames_in)));
            }
            drop((filled_in, filled, free_in, free, frames_in));
            self.failure.guard(|| self.write(&frames));
            // Workers must not wait for a writer that has stopped.
            frames.iter().for_each(drop);
        });
        self.failure.result()
    }

    fn stopped(&self) -> bool {
        if self.cancel.is_cancelled() {
            self.failure.set(Error::Failed("cancelled; no image was made".to_owned()));
        }
        self.failure.is_set()
    }

    fn read(
        &self,
        slots: &Mutex<Slots<'_>>,
        free: &Receiver<AlignedBuf>,
        filled: &Sender<Filled>,
    ) -> Result<(), Error> {
        loop {
            if self.stopped() {
                return Ok(());
            }
            let next = lock(slots).next()?;
            match next {
                None => return Ok(()),
                Some(Next::Zero { region, first, count, allocated }) => {
                    lock(&self.runs[region]).add_zero(first, count);
                    self.meter.add(allocated);
                }
                Some(Next::Read { region, number, chunk, wanted, allocated }) => {
                    // The workers give every buffer back; a closed channel means that they are gone.
                    let Ok(mut buf) = free.recv() else { return Ok(()) };
                    let len = usize::try_from(chunk.len()).expect("a chunk fits in memory");
                    let disk = self.plan.disk.as_ref();
                    let asked = wanted.iter().map(|extent| extent.len()).sum();
                    let bad = self.meter.time(Effort::Reading, asked, || {
                        salvage::read_chunk(disk, chunk, &wanted, &mut buf[..len], &|| self.stopped())
                    })?;
                    self.note_unreadable(chunk, asked, &bad)?;
                    if filled.send(Filled { region, number, allocated, len, buf }).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Keeps what could not be read of a chunk, and says it while it happens: a dying disk takes hours.
    ///
    /// * `asked`: bytes of the chunk that were to be read.
    fn note_unreadable(&self, chunk: Extent, asked: u64, bad: &ExtentSet) -> Result<(), Error> {
        let mut found = lock(&self.found);
        if bad.total() < asked {
            (found.last_good, found.bad_in_a_row) = (chunk.start, 0);
        }
        if bad.is_empty() {
            return Ok(());
        }
        found.unreadable = found.unreadable.union(bad);
        found.bad_chunks += 1;
        if found.bad_chunks <= TOLD {
            let what = format!("{} of {chunk} of the disk cannot be read; going on", Bytes(bad.total()));
            self.monitor.event(Event::Problem { what });
        }
        if bad.total() < asked {
            return Ok(());
        }
        found.bad_in_a_row += 1;
        let probe = found.bad_in_a_row.is_multiple_of(PROBE_AFTER).then_some(found.last_good);
        drop(found);
        probe.map_or(Ok(()), |offset| self.probe(offset))
    }

    /// Reads again what read well before. Where that fails as well, it is the disk that is gone and not its sectors.
    fn probe(&self, offset: u64) -> Result<(), Error> {
        let disk = self.plan.disk.as_ref();
        let mut sector = AlignedBuf::zeroed(disk.sector_size().usize());
        let read = disk.read_exact_at(&mut sector, offset);
        read.map_err(|error| Error::failed("the disk does not answer any more, not even where it did before", &error))
    }

    fn work(
        &self,
        filled: &Receiver<Filled>,
        free: &Sender<AlignedBuf>,
        frames: &Sender<EncodedFrame>,
    ) -> Result<(), Error> {
        let mut encoder = Encoder::new(self.plan.job.level).map_err(|e| Error::failed("starting zstd", &e))?;
        let (mut reader, mut base) = (self.store.reader(), Vec::new());
        for chunk in filled {
            if self.stopped() {
                return Ok(());
            }
            let plain = &chunk.buf[..chunk.len];
            let len = plain.len() as u64;
            let id = self.meter.time(Effort::Hashing, len, || ChunkId::of(plain));
            if id != ChunkId::ZERO {
                if self.writer.claim(&id) {
                    let before = self.predecessor.chunk(chunk.region, chunk.number);
                    let frame = self.meter.time(Effort::Compressing, len, || {
                        let like = before.and_then(|like| self.writer.read_base(&like, &mut reader, &mut base));
                        encoder.encode(id, plain, like.map(|id| Base { id, plain: &base }))
                    });
                    let frame = frame.map_err(|e| Error::failed("compressing a chunk", &e))?;
                    if frames.send(frame).is_err() {
                        return Ok(());
                    }
                } else {
                    lock(&self.found).deduplicated += chunk.allocated;
                }
            }
            lock(&self.runs[chunk.region]).add(chunk.number, id);
            self.meter.add(chunk.allocated);
            // Nobody waits for buffers any more once the readers are done.
            let _ = free.send(chunk.buf);
        }
        Ok(())
    }

    fn write(&self, frames: &Receiver<EncodedFrame>) -> Result<(), Error> {
        for frame in frames {
            if self.failure.is_set() {
                return Ok(());
            }
            let bytes = frame.len() as u64;
            let put = self.meter.time(Effort::Storing, bytes, || self.writer.put(&frame));
            put.map_err(|error| Error::failed("writing to the store", &error))?;
            self.meter.add_stored(bytes);
            lock(&self.found).stored += bytes;
        }
        Ok(())
    }

    fn finish(self, draft: &mut Draft<'_>) -> (Vec<RegionImage>, ExtentSet) {
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        draft.report.stored_bytes = found.stored;
        draft.report.deduplicated_bytes = found.deduplicated;
        for extent in found.unreadable.iter() {
            let what = format!("{extent} of the disk could not be read; the image holds zeros there");
            draft.report.problems.push(what);
        }
        let runs = self.runs.into_iter().map(|runs| runs.into_inner().unwrap_or_else(PoisonError::into_inner));
        let regions = self.plan.analysis.regions.iter().zip(runs).map(|(region, runs)| RegionImage {
            region: region.region,
            partition: region.partition.clone(),
            detected: region.survey.detected.clone(),
            allocated: region.survey.allocated.clone(),
            widened: region.survey.widened.clone(),
            usage: region.survey.usage,
            left_out: region.survey.left_out.clone(),
            inside: region.survey.inside.clone(),
            chunks: runs.finish(),
        });
        (regions.collect(), found.unreadable)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reader does next.
enum Next {
    /// A chunk to read: `wanted` of it, from the start of the disk.
    Read { region: usize, number: u64, chunk: Extent, wanted: Vec<Extent>, allocated: u64 },
    /// Chunks that the disk or the file system knows to be zero.
    Zero { region: usize, first: u64, count: u64, allocated: u64 },
}

/// Walks every allocated chunk of the disk once, in order. A hole of a sparse disk is one step, however large.
struct Slots<'a> {
    plan: &'a CapturePlan,
    chunk_len: u64,
    /// Of each region what must be read: what is allocated, but for what its file system knows to be zero.
    wanted: Vec<Cow<'a, ExtentSet>>,
    region: usize,
    /// Number of the next chunk of the region.
    number: u64,
    /// The next bytes that may be other than zero, as the disk said; nothing before them is.
    data: Option<Extent>,
}

impl<'a> Slots<'a> {
    fn new(plan: &'a CapturePlan, chunk_len: u64) -> Self {
        let wanted = plan.analysis.regions.iter().map(|region| match &region.survey {
            survey if survey.zeros.is_empty() => Cow::Borrowed(&survey.allocated),
            survey => Cow::Owned(survey.allocated.subtract(&survey.zeros)),
        });
        Self { plan, chunk_len, wanted: wanted.collect(), region: 0, number: 0, data: Some(Extent::new(0, 0)) }
    }

    fn next(&mut self) -> Result<Option<Next>, Error> {
        let plan = self.plan;
        loop {
            let Some(region) = plan.analysis.regions.get(self.region) else { return Ok(None) };
            let rest = Extent::new(self.number.saturating_mul(self.chunk_len), u64::MAX);
            let Some(extent) = region.survey.allocated.within(rest).next() else {
                (self.region, self.number) = (self.region + 1, 0);
                continue;
            };
            return self.step(region, extent).map(Some);
        }
    }

    /// Takes the chunk that `extent` begins in, or all of the extent's chunks that lie in a hole.
    fn step(&mut self, region: &RegionAnalysis, extent: Extent) -> Result<Next, Error> {
        let (start, len) = (region.region.range.start, region.region.range.len());
        let first = extent.start / self.chunk_len;
        let slot = chunks::slot(first, len, self.chunk_len);
        let chunk = Extent::new(start + slot.start, start + slot.end);
        let data = self.data_from(chunk.start)?.saturating_sub(start);
        let rest = Extent::new(slot.start, u64::MAX);
        let data = data.max(self.wanted[self.region].within(rest).next().map_or(u64::MAX, |extent| extent.start));
        if data < slot.end {
            self.number = first + 1;
            let parts = self.wanted[self.region].within(slot);
            let wanted = parts.map(|extent| Extent::new(start + extent.start, start + extent.end)).collect();
            let allocated = region.survey.allocated.within(slot).map(|extent| extent.len()).sum();
            return Ok(Next::Read { region: self.region, number: first, chunk, wanted, allocated });
        }
        // Every chunk up to the data, or the end of the extent, is zero.
        let chunks_before_data = if data >= len { len.div_ceil(self.chunk_len) } else { data / self.chunk_len };
        let end = chunks_before_data.min((extent.end - 1) / self.chunk_len + 1);
        self.number = end;
        let window = Extent::new(slot.start, chunks::slot(end - 1, len, self.chunk_len).end);
        let allocated = region.survey.allocated.within(window).map(|extent| extent.len()).sum();
        Ok(Next::Zero { region: self.region, first, count: end - first, allocated })
    }

    /// Returns where on the disk, from `offset` on, anything but zeros may be.
    fn data_from(&mut self, offset: u64) -> Result<u64, Error> {
        if self.data.is_some_and(|data| data.end <= offset) {
            self.data = self.plan.disk.next_data(offset)?;
        }
        Ok(self.data.map_or(u64::MAX, |data| data.start))
    }
}

/// Returns the time, RFC 3339 in UTC. Finer than seconds: "latest" must be one image.
fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Microsecond).unwrap_or(now).to_string()
}

/// Returns what to call this machine: its host name, or what its firmware says where it has none.
fn machine_name() -> Option<String> {
    let named = |name: &String| !name.is_empty() && name != "(none)" && name != "localhost" && name != "rescue";
    let host = nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
    host.filter(named).or_else(|| {
        let id = Path::new("/sys/class/dmi/id");
        let read = |file: &str| std::fs::read_to_string(id.join(file)).ok().map(|text| text.trim().to_owned());
        let (vendor, product) = (read("sys_vendor")?, read("product_name")?);
        Some(format!("{vendor} {product}").trim().to_owned()).filter(|name| !name.is_empty())
    })
}

//! Reading back what the store holds: whole packs with every chunk decompressed and hashed, or only what one image needs.
//!
//! Packs stream: a thread holds one frame at a time. Threads share a list of packs and report through a channel, so that
//! progress and cancel are called from the caller's thread alone.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::{
    CONFIG, ChunkId, Error, FileId, ImageDamage, Manifest, PackDamage, Problem, Reader, Store, Verified,
    backend::read_file,
    config::{self, Config, seal_error},
    damage,
    error::told,
    images, index,
    manifest::ChunkRun,
    pack::{self, Entry, Flaw},
    records,
    shelf::{Place, entries_sum},
    undo,
};
use crate::extent::Extent;

/// Called with bytes done and bytes in all.
type Progress<'a> = &'a dyn Fn(u64, u64);
/// Asked now and then whether to stop.
type Cancelled<'a> = &'a dyn Fn() -> bool;

/// How often the caller hears of progress and is asked whether to stop.
const TICK: Duration = Duration::from_millis(100);

/// How much of a frame is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Header and XXH3 of the stored bytes.
    Scrub,
    /// That, and the id of the plain bytes.
    Decode,
}

/// One pack to look at.
struct Task {
    pack: u32,
    /// Which frames; `None` for all that are in it.
    frames: Option<Vec<(ChunkId, Place)>>,
}

/// What was found in one pack.
struct Scan {
    pack: u32,
    id: FileId,
    /// What is wrong with header, index, trailer or length.
    flaws: Vec<Flaw>,
    /// Frames that are as they should be, by offset.
    good: Vec<u32>,
    bad: Vec<(ChunkId, Place, String)>,
}

impl Scan {
    fn damage(&self, chunks: &[ChunkId]) -> Vec<PackDamage> {
        let structure = self.flaws.iter().map(|flaw| damage::structure_damage(self.id, flaw, chunks.to_vec()));
        let frames = self.bad.iter().map(|(id, place, what)| damage::frame_damage(self.id, *id, *place, what.clone()));
        structure.chain(frames).collect()
    }
}

impl Store {
    /// Reads everything: each byte of each pack, each chunk decompressed and hashed, each index and manifest, and looks
    /// for each chunk of each image. What is found damaged is written down where the store can be written, so that the
    /// next capture of the same data stores it anew.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or [`Error::Io`] when folders cannot be listed. Damage is a result, not an error.
    pub fn verify(&self, progress: &dyn Fn(u64, u64), cancel: &dyn Fn() -> bool) -> Result<Verified, Error> {
        let tasks: Vec<Task> = (0..self.shelf().pack_count()).map(|pack| Task { pack, frames: None }).collect();
        let mut found = Verified { problems: self.check_small_files()?, ..Verified::default() };
        let scans = self.run(tasks, Depth::Decode, threads(), progress, cancel)?;
        self.apply(&scans, Depth::Decode);
        self.sum_up(&scans, &mut found);
        for id in self.image_ids()? {
            match images::read(self, id) {
                Ok(image) => {
                    found.images += 1;
                    found.image_damage.extend(self.damaged_uses(&image));
                }
                Err(error) => found.problems.push(Problem { file: images::path(id), what: told(&error) }),
            }
        }
        self.write_down(&mut found);
        Ok(found)
    }

    /// Reads everything that one image needs: its chunks decompressed and hashed, and header, index and trailer of the
    /// packs they are in.
    ///
    /// * `wanted`: as for [`Store::load`].
    ///
    /// # Errors
    /// As [`Store::load`], and [`Error::Cancelled`].
    pub fn verify_image(
        &self,
        wanted: &str,
        progress: &dyn Fn(u64, u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<Verified, Error> {
        let image = self.load(wanted)?;
        let mut found = Verified { images: 1, ..Verified::default() };
        let scans = self.check_image(&image, Depth::Decode, threads(), progress, cancel)?;
        self.sum_up(&scans, &mut found);
        found.image_damage = self.damaged_uses(&image);
        self.write_down(&mut found);
        Ok(found)
    }

    /// Checks before a restore that an image can be given back whole: reads its frames in the order they lie in the packs,
    /// with their checksums, and header, index and trailer of those packs. Decompresses nothing, writes nothing.
    ///
    /// # Errors
    /// [`Error::Cancelled`]. Damage is a result, not an error.
    pub fn precheck_image(
        &self,
        image: &Manifest,
        progress: &dyn Fn(u64, u64),
        cancel: &dyn Fn() -> bool,
    ) -> Result<Vec<ImageDamage>, Error> {
        self.check_image(image, Depth::Scrub, 1, progress, cancel)?;
        Ok(self.damaged_uses(image))
    }

    /// Looks at every frame an image needs. A chunk whose frame is bad is looked for in its other places.
    fn check_image(
        &self,
        image: &Manifest,
        depth: Depth,
        threads: usize,
        progress: Progress<'_>,
        cancel: Cancelled<'_>,
    ) -> Result<Vec<Scan>, Error> {
        let mut seen: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut all: Vec<Scan> = Vec::new();
        loop {
            let tasks = self.tasks_for(image, depth, &mut seen);
            if tasks.is_empty() {
                return Ok(all);
            }
            // Only the first round is long enough to be shown.
            let quiet: Progress<'_> = &|_, _| {};
            let scans = self.run(tasks, depth, threads, if all.is_empty() { progress } else { quiet }, cancel)?;
            self.apply(&scans, depth);
            all.extend(scans);
        }
    }

    /// Lists the frames an image needs that were not looked at yet, by pack and in the order they lie there.
    ///
    /// * `seen`: offsets looked at already, sorted, by pack; those listed now are added.
    fn tasks_for(&self, image: &Manifest, depth: Depth, seen: &mut HashMap<u32, Vec<u32>>) -> Vec<Task> {
        let shelf = self.shelf();
        let mut frames: HashMap<u32, Vec<(ChunkId, Place)>> = HashMap::new();
        let data = image.regions.iter().flat_map(|region| &region.chunks).filter_map(|run| match run {
            ChunkRun::Data { ids, .. } => Some(ids),
            ChunkRun::Zero { .. } => None,
        });
        let unseen =
            |place: &Place| seen.get(&place.pack).is_none_or(|offsets| offsets.binary_search(&place.offset).is_err());
        for id in data.flatten() {
            // A full check may find that what was bad is good again; a scrub trusts nothing that was ever found bad.
            let next = |place: &Place| shelf.is_trusted(*place) || (depth == Depth::Decode && unseen(place));
            let Some(place) = shelf.places(id).into_iter().find(next) else { continue };
            let mut ask = |id: ChunkId, place: Place| {
                if unseen(&place) {
                    frames.entry(place.pack).or_default().push((id, place));
                }
            };
            ask(*id, place);
            // A delta that is decoded has its base read with it.
            if depth == Depth::Scrub
                && let Some(base) = shelf.base(place)
                && let Some(place) = shelf.trusted_base(&base)
            {
                ask(base, place);
            }
        }
        let mut tasks: Vec<Task> = Vec::with_capacity(frames.len());
        for (pack, mut frames) in frames {
            frames.sort_unstable_by_key(|(_, place)| place.offset);
            frames.dedup_by_key(|(_, place)| place.offset);
            let offsets = seen.entry(pack).or_default();
            offsets.extend(frames.iter().map(|(_, place)| place.offset));
            offsets.sort_unstable();
            tasks.push(Task { pack, frames: Some(frames) });
        }
        tasks.sort_unstable_by_key(|task| task.pack);
        tasks
    }

    /// Looks at packs with several threads.
    fn run(
        &self,
        tasks: Vec<Task>,
        depth: Depth,
        threads: usize,
        progress: Progress<'_>,
        cancel: Cancelled<'_>,
    ) -> Result<Vec<Scan>, Error> {
        let total = tasks.iter().map(|task| self.bytes_of(task)).sum();
        let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let mut scans = Vec::with_capacity(tasks.len());
        thread::scope(|scope| {
            for _ in 0..threads.min(tasks.len()) {
                let (send, tasks, next) = (send.clone(), &tasks, &next);
                let mut scanner = Scanner { reader: self.reader(), plain: Vec::new(), depth, done: &done, stop: &stop };
                scope.spawn(move || {
                    while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if scanner.stop.load(Ordering::Relaxed) || send.send(scanner.scan(task)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(send);
            loop {
                match receive.recv_timeout(TICK) {
                    Ok(scan) => scans.push(scan),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                progress(done.load(Ordering::Relaxed).min(total), total);
                if cancel() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        progress(total, total);
        scans.sort_unstable_by_key(|scan| scan.pack);
        Ok(scans)
    }

    fn bytes_of(&self, task: &Task) -> u64 {
        match &task.frames {
            Some(frames) => frames.iter().map(|(_, place)| place.range().len()).sum(),
            None => self.shelf().pack(task.pack).map_or(0, |pack| pack.len),
        }
    }

    /// Marks on the shelf what was found.
    fn apply(&self, scans: &[Scan], depth: Depth) {
        let mut shelf = self.shelf_mut();
        for scan in scans {
            match scan.flaws.first() {
                Some(flaw) => shelf.set_flaw(scan.pack, Some(flaw.clone())),
                None if depth == Depth::Decode => shelf.set_flaw(scan.pack, None),
                None => {}
            }
            if depth == Depth::Decode {
                scan.good.iter().for_each(|offset| shelf.mark_good(scan.pack, *offset));
            }
            scan.bad.iter().for_each(|(_, place, what)| shelf.mark_bad(scan.pack, place.offset, what.clone()));
        }
    }

    fn sum_up(&self, scans: &[Scan], found: &mut Verified) {
        for scan in scans {
            found.packs += 1;
            found.frames += (scan.good.len() + scan.bad.len()) as u64;
            found.bytes += self.shelf().pack(scan.pack).map_or(0, |pack| pack.len);
            let chunks = if scan.flaws.is_empty() { Vec::new() } else { self.chunks_in(scan.pack) };
            found.damage.extend(scan.damage(&chunks));
        }
    }

    fn chunks_in(&self, pack: u32) -> Vec<ChunkId> {
        self.shelf().chunks_in(pack)
    }

    /// Keeps what was found for the next capture. A store that cannot be written keeps it in memory only.
    fn write_down(&self, found: &mut Verified) {
        if let Err(error) = records::save(self.backend(), &self.shelf())
            && !found.damage.is_empty()
        {
            let what =
                format!("the damage cannot be written down, so a later capture may rely on it: {}", told(&error));
            found.problems.push(Problem { file: "damaged".to_owned(), what });
        }
    }

    /// Checks everything but packs and images.
    fn check_small_files(&self) -> Result<Vec<Problem>, Error> {
        let mut out = Vec::new();
        let mut note = |file: &str, result: Result<(), Error>| {
            if let Err(error) = result {
                out.push(Problem { file: file.to_owned(), what: told(&error) });
            }
        };
        let read = |name: &str, limit| read_file(self.backend(), name, limit).map_err(Error::io("reading", name));
        note(CONFIG, read(CONFIG, config::MAX_LEN).and_then(|bytes| Config::parse(&bytes)).map(drop));
        for file in self.list("index")? {
            let Some(id) = index::from_path(&file.name) else { continue };
            let parsed = read(&file.name, index::MAX_LEN).and_then(|bytes| index::parse(&bytes, self.id(), id));
            note(&file.name, parsed.map(drop));
        }
        for file in self.list("undo")? {
            let Some(id) = undo::id_of(&file.name) else { continue };
            let bytes = read(&file.name, undo::MAX_LEN);
            note(
                &file.name,
                bytes.and_then(|bytes| undo::parse(id, &bytes).map_err(|f| seal_error(&file.name, f)).map(drop)),
            );
        }
        out.extend(records::check(self.backend())?);
        Ok(out)
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(2, NonZero::get).clamp(2, 8)
}

/// Looks at packs, one after the other.
struct Scanner<'a> {
    reader: Reader,
    plain: Vec<u8>,
    depth: Depth,
    done: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Scanner<'_> {
    fn scan(&mut self, task: &Task) -> Scan {
        let state = self.reader.store().shelf().pack(task.pack).cloned();
        let Some(state) = state else {
            return Scan { pack: task.pack, id: FileId([0; 16]), flaws: Vec::new(), good: Vec::new(), bad: Vec::new() };
        };
        let mut scan = Scan { pack: task.pack, id: state.id, flaws: Vec::new(), good: Vec::new(), bad: Vec::new() };
        let entries = self.structure(&state, &mut scan.flaws);
        let whole: Vec<(ChunkId, Place)>;
        let frames = match &task.frames {
            Some(frames) => frames,
            None => {
                whole = entries.iter().map(|entry| (entry.id, Place::of(task.pack, entry))).collect();
                &whole
            }
        };
        for (id, place) in frames {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let result = match self.depth {
                Depth::Scrub => self.reader.scrub(id, *place),
                Depth::Decode => self.reader.decode(id, *place, &mut self.plain),
            };
            match result {
                Ok(()) => scan.good.push(place.offset),
                Err(fault) => scan.bad.push((*id, *place, fault.to_string())),
            }
            self.done.fetch_add(place.range().len(), Ordering::Relaxed);
        }
        scan
    }

    /// Checks length, header, trailer and index of a pack, and returns its frames.
    fn structure(&self, state: &super::shelf::PackState, flaws: &mut Vec<Flaw>) -> Vec<Entry> {
        let store = self.reader.store();
        let backend = store.backend();
        let len = match backend.len(&pack::path(state.id)) {
            Ok(len) => len,
            Err(e) => {
                flaws.push(Flaw::new(Extent::new(0, state.len), format!("it cannot be read: {e}")));
                return Vec::new();
            }
        };
        let header = pack::read_header(backend, state.id);
        let deltas = header.as_ref().is_ok_and(|header| header.deltas);
        match header {
            Ok(header) if (header.store, u64::from(header.chunk_len)) != (store.id(), store.chunk_len()) => {
                let what = format!("the header is for store {} with chunks of {}", header.store, header.chunk_len);
                flaws.push(Flaw::new(Extent::new(0, pack::HEADER_LEN as u64), what));
            }
            Ok(_) => {}
            Err(flaw) => flaws.push(flaw),
        }
        if len != state.len {
            let range = Extent::new(len.min(state.len), len.max(state.len));
            flaws.push(Flaw::new(range, format!("it has {len} bytes, and the index says {}", state.len)));
        }
        match pack::read_entries(backend, state.id, len) {
            Ok(entries) => {
                if !deltas && pack::deltas(&entries) > 0 {
                    let range = Extent::new(0, pack::HEADER_LEN as u64);
                    flaws.push(Flaw::new(range, "the header says that there are no deltas, and there are"));
                }
                if state.listed_as.is_some_and(|sum| sum != entries_sum(&entries)) {
                    flaws.push(Flaw::new(Extent::new(0, len), "the index lists other frames than the pack does"));
                }
                entries
            }
            Err(flaw) => {
                flaws.push(flaw);
                pack::rescan(backend, state.id, len)
            }
        }
    }
}

//! Restore: an image onto a disk.
//!
//! Order is what makes it safe: the target is compared, and every stored frame that it needs is checked before the first
//! write; the target's old head and tail are kept in the store; then head and tail are cleared, what differed in the
//! regions is written and read back from the medium, and the tables are written, the head of the disk last. A restore
//! that stopped half-way leaves nothing firmware could boot, and the next one finds what it wrote and goes on.

mod compare;
mod free;
mod late;
mod pen;
mod read_back;
mod target;
mod wipe;
mod write;

use std::time::Instant;

use self::{compare::Same, pen::Pen};
use super::{
    Cancel, Free, Monitor, Phase, RestoreJob,
    analysis::{read_layout, region_name},
    error::Error,
    guard,
    meter::Meter,
    report::{Draft, Outcome, Report, Stage},
    view::{Confirm, PlanView, Step},
    words,
};
use crate::{
    block::{TargetDisk, open_target},
    escape::Escaped,
    extent::{Extent, ExtentSet},
    store::{self, Manifest, Store, manifest::ImageState},
    table::{self, Layout, TablePiece},
    units::{Bytes, MIB},
};

/// Bytes at either end of the target that are cleared first: what firmware looks at.
const CLEARED: u64 = MIB;

/// An image and the disk it will be written to.
pub struct RestorePlan {
    store: Store,
    manifest: Manifest,
    target: Box<dyn TargetDisk>,
    /// The table's bytes for this target.
    pieces: Vec<TablePiece>,
    /// Where the source's backup GPT was and this target must have none.
    superseded: Vec<Extent>,
    /// Free bytes that are zeroed, because signatures of what was there before may lie in them.
    wiped: ExtentSet,
    /// What becomes of the other free bytes.
    free: Free,
    /// Free bytes that are discarded.
    discarded: ExtentSet,
    /// Bytes of the disk that are written after everything else: the boot area and the tables.
    late: ExtentSet,
    planning: Stage,
    warnings: Vec<String>,
}

impl RestorePlan {
    /// Loads the image, opens the target, and works out the table it will get. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] when the target is too small, has other sectors, is in use or holds the store, or the image
    /// is partial and that was not accepted; [`Error::Failed`] when image or target cannot be read.
    pub fn new(job: &RestoreJob) -> Result<Self, Error> {
        let store = Store::open(&job.store).map_err(|e| Error::failed("opening the store", &e))?;
        let manifest = super::load_image(&store, &job.image)?;
        guard::target_is_not_under_store(&job.disk, &job.store)?;
        let target = open_target(&job.disk, job.sector_size.or(Some(manifest.disk.sector_size)))?;
        guard::target_does_not_hold_store(target.identity(), &job.store)?;
        Self::onto(job, store, manifest, target)
    }

    /// Plans the restore of a loaded image onto a disk that is open already.
    ///
    /// # Errors
    /// As [`RestorePlan::new`].
    pub fn onto(
        job: &RestoreJob,
        store: Store,
        manifest: Manifest,
        target: Box<dyn TargetDisk>,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        check_fit(&manifest, target.as_ref())?;
        if manifest.state == ImageState::Partial && !job.accept_partial {
            return Err(Error::Refused(format!(
                "image {} is partial: {} of its source could not be read; restoring it needs your consent \
                 (--accept-partial)",
                manifest.id,
                Bytes(manifest.unreadable.total())
            )));
        }
        let layout = layout_of(&manifest);
        let pieces = table::for_target(&layout, target.len());
        let pieces = pieces.map_err(|error| Error::Refused(super::error::chain(&error)))?;
        let superseded = table::superseded(&layout, target.len());
        let late = late::extents(&pieces, &superseded, target.len());
        let (free, not_so) = free::decide(job.free, target.as_ref());
        let all_free = free::extents(&manifest, target.len()).subtract(&late);
        let wiped = if free == Free::Zero { all_free.clone() } else { wipe::extents(&manifest).subtract(&late) };
        let discarded = match target.can_discard() {
            // The ends are cleared, and have to stay so.
            Some(discard) if free == Free::Discard => {
                all_free.subtract(&wiped).subtract(&ends(target.len())).round_in(discard.granularity)
            }
            _ => ExtentSet::new(),
        };
        let mut warnings = warnings(&manifest, target.as_ref());
        warnings.extend(not_so);
        warnings.extend(super::other_disks(&store, &manifest, &job.image));
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let planning = Stage::plain(Phase::Planning, 0, millis);
        Ok(Self { store, manifest, target, pieces, superseded, wiped, free, discarded, late, planning, warnings })
    }

    fn allocated(&self) -> u64 {
        self.manifest.regions.iter().map(|region| region.allocated.total()).sum()
    }

    /// Shows what will be written.
    #[must_use]
    pub fn view(&self) -> PlanView {
        let identity = self.target.identity();
        let mut steps = vec![
            step(
                "target",
                Extent::new(0, self.target.len()),
                "keep its first and last MiB and its table in the store",
                0,
            ),
            step("head", Extent::new(0, CLEARED.min(self.target.len())), "clear", CLEARED),
            step("tail", Extent::new(self.target.len().saturating_sub(CLEARED), self.target.len()), "clear", CLEARED),
        ];
        for region in &self.manifest.regions {
            let (range, bytes) = (region.region.range, region.allocated.total());
            let what = match range.len() - bytes {
                0 => "write what differs and read it back".to_owned(),
                free => format!("write what differs and read it back; {}", free::words(self.free, free)),
            };
            steps.push(step(&region_name(region.kind(), region.detected.as_ref()), range, &what, bytes));
        }
        let behind = Extent::new(self.manifest.disk.len, self.target.len());
        if !behind.is_empty() {
            steps.push(step("behind", behind, self.free.word(), 0));
        }
        for piece in self.pieces.iter().rev() {
            let len = piece.bytes.len() as u64;
            let name = serde_json::to_value(piece.kind).ok().and_then(|name| name.as_str().map(str::to_owned));
            let range = Extent::new(piece.offset, piece.offset.saturating_add(len));
            steps.push(step(&name.unwrap_or_default(), range, "write last, read back", len));
        }
        let source = &self.manifest.disk;
        PlanView {
            job: "restore".to_owned(),
            title: format!(
                "Overwrite {} ({}) with the image of {} made {}",
                identity.path,
                Bytes(identity.len),
                Escaped(source.model.as_deref().unwrap_or(&source.path)),
                self.manifest.created.split('.').next().unwrap_or_default()
            ),
            disk: Some(identity.clone()),
            steps,
            bytes: self.allocated(),
            warnings: self.warnings.clone(),
            confirm: Some(Confirm::of(identity)),
        }
    }

    /// Writes the image onto the target and proves it.
    #[must_use]
    pub fn run(self, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        let mut draft = Draft::new("restore", monitor);
        draft.report.disk.clone_from(&self.target.identity().path);
        draft.report.image = Some(self.manifest.id.clone());
        draft.report.disk_bytes = self.target.len();
        draft.report.allocated_bytes = self.allocated();
        draft.report.stages.push(self.planning.clone());
        let pen = Pen::new(self.target.as_ref());
        let result = self.restore(&pen, monitor, cancel, &mut draft);
        draft.report.written_bytes = pen.bytes();
        draft.finish(result)
    }

    fn restore(
        &self,
        pen: &Pen<'_>,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<Outcome, Error> {
        // The plan may have waited for its confirmation for hours.
        self.target.check_unchanged()?;
        let same = self.compare(monitor, cancel, draft)?;
        self.check_store(&same, monitor, cancel, draft)?;
        self.target.check_unchanged()?;
        self.keep_old_ends(draft);
        self.clear_ends(pen, monitor, draft)?;
        self.free(pen, &same, monitor, cancel, draft)?;
        let held = self.write_regions(pen, &same, monitor, cancel, draft)?;
        self.read_back_regions(pen, &same, monitor, cancel, draft)?;
        self.write_late(pen, held, monitor, draft)?;
        self.target.check_unchanged()?;
        if let Err(error) = self.target.reread_table() {
            draft.problem(format!(
                "the kernel did not read the new table ({}); it will after the next start",
                super::error::chain(&error)
            ));
        }
        Ok(match self.manifest.state {
            ImageState::Complete => Outcome::Complete,
            ImageState::Partial => {
                for extent in self.manifest.unreadable.iter() {
                    draft.problem(format!("{extent} could not be read when the image was made; zeros were written"));
                }
                Outcome::Partial
            }
        })
    }

    /// Reads every stored frame that the target needs, so that damage is known before the target is touched.
    fn check_store(
        &self,
        same: &Same,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<(), Error> {
        let meter = Meter::begin(monitor, Phase::Checking, 0);
        let damage = self
            .store
            .precheck_image(&self.needed(same), &|done, total| meter.set_of(done, total), &|| cancel.is_cancelled());
        let damage = damage.map_err(|error| match error {
            store::Error::Cancelled => Error::Failed("cancelled before anything was written".to_owned()),
            other => Error::failed("checking the image in the store", &other),
        })?;
        draft.report.stages.push(meter.finish());
        let Some(first) = damage.first() else { return Ok(()) };
        for each in &damage {
            draft.problem(each.to_string());
        }
        Err(Error::Refused(format!(
            "the store is damaged, nothing was written: {first}{}",
            match damage.len() {
                1 => String::new(),
                more => format!(" (and {} more places)", more - 1),
            }
        )))
    }

    /// Keeps what the target held at its ends, so that a mistake can be undone as far as its tables go.
    fn keep_old_ends(&self, draft: &mut Draft<'_>) {
        let len = self.target.len();
        let mut ends = vec![Extent::new(0, CLEARED.min(len)), Extent::new(len.saturating_sub(CLEARED), len)];
        // An EBR chain reaches into the disk.
        if let Ok((layout, _)) = read_layout(self.target.as_ref()) {
            ends.extend(layout.pieces.iter().map(TablePiece::range));
        }
        let ends = ExtentSet::from_unsorted(ends);
        let mut parts = Vec::new();
        for extent in ends.iter() {
            let size = usize::try_from(extent.len()).expect("the ends and a table of bounded size");
            match crate::block::read_vec(self.target.as_ref(), extent.start, size) {
                Ok(bytes) => parts.push((extent.start, bytes)),
                Err(error) => {
                    return draft
                        .problem(format!("the old ends of the target were not kept: {}", super::error::chain(&error)));
                }
            }
        }
        let pieces: Vec<(u64, &[u8])> = parts.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
        // A store on a read-only medium is no reason not to restore from it.
        if let Err(error) = self.store.save_undo(&describe(self.target.identity()), &pieces) {
            draft.problem(format!("the old ends of the target were not kept: {}", super::error::chain(&error)));
        }
    }

    fn clear_ends(&self, pen: &Pen<'_>, monitor: &dyn Monitor, draft: &mut Draft<'_>) -> Result<(), Error> {
        let ends = ends(self.target.len());
        let meter = Meter::begin(monitor, Phase::Clearing, ends.total());
        for extent in ends.iter() {
            pen.write_zeros(extent)?;
            meter.add(extent.len());
        }
        self.target.sync()?;
        draft.report.stages.push(meter.finish());
        Ok(())
    }
}

/// Returns the ends of a target of `len` bytes that are cleared first.
fn ends(len: u64) -> ExtentSet {
    [Extent::new(0, CLEARED.min(len)), Extent::new(len.saturating_sub(CLEARED), len)].into_iter().collect()
}

/// Names a disk for the file that keeps its old ends.
fn describe(disk: &crate::block::Identity) -> String {
    let said = [Some(disk.path.as_str()), disk.model.as_deref(), disk.serial.as_deref()];
    said.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn cancelled() -> Error {
    Error::Failed("cancelled; the target is incomplete and cannot start. Restoring again finishes it".to_owned())
}

fn step(region: &str, range: Extent, what: &str, bytes: u64) -> Step {
    Step { region: region.to_owned(), range, what: what.to_owned(), bytes }
}

fn check_fit(manifest: &Manifest, target: &dyn TargetDisk) -> Result<(), Error> {
    let (source, path) = (&manifest.disk, &target.identity().path);
    if target.sector_size() != source.sector_size {
        return Err(Error::Refused(format!(
            "{path} has sectors of {} bytes, the image is of a disk with sectors of {}; tables count in sectors and are \
             not converted yet",
            target.sector_size(),
            source.sector_size
        )));
    }
    if target.len() < source.len {
        return Err(Error::Refused(format!(
            "{path} holds {} bytes, the image needs {}: {} too few",
            target.len(),
            source.len,
            Bytes(source.len - target.len())
        )));
    }
    Ok(())
}

/// Returns the table as it was read from the source.
fn layout_of(manifest: &Manifest) -> Layout {
    Layout {
        kind: manifest.table,
        sector_size: manifest.disk.sector_size,
        disk_len: manifest.disk.len,
        disk_id: manifest.disk_id.clone(),
        partitions: manifest.regions.iter().filter_map(|region| region.partition.clone()).collect(),
        pieces: manifest.pieces.clone(),
        problems: Vec::new(),
    }
}

/// Says what the target holds now, and what is special about the image.
fn warnings(manifest: &Manifest, target: &dyn TargetDisk) -> Vec<String> {
    let mut out = Vec::new();
    match read_layout(target) {
        Ok((layout, None)) if layout.partitions.is_empty() => {
            if let Some(detected) = crate::fs::detect(target) {
                let name = region_name(table::RegionKind::Whole, Some(&detected));
                out.push(format!("the target holds no partitions; what is on it will be lost: {name}"));
            }
        }
        Ok((layout, None)) => {
            let count = layout.partitions.len();
            let held: Vec<String> = layout.partitions.iter().map(|partition| held_by(target, partition)).collect();
            out.push(format!("the target holds {count} partitions, which will be lost: {}", held.join(", ")));
        }
        Ok((_, Some(error))) => out.push(format!("the target's own table: {error}")),
        Err(error) => out.push(format!("what the target holds now could not be read: {error}")),
    }
    if manifest.state == ImageState::Partial {
        out.push(format!("the image is partial: {} could not be read", Bytes(manifest.unreadable.total())));
    }
    if target.len() > manifest.disk.len {
        let more = Bytes(target.len() - manifest.disk.len);
        out.push(format!("the target is {more} larger; the partitions keep their size and that space stays unused"));
    }
    for region in &manifest.regions {
        let name = region_name(region.kind(), region.detected.as_ref());
        out.extend(region.left_out.iter().map(|file| format!("{name}: {}", words::not_in_image(file))));
    }
    out.push("source and target will have the same identifiers: do not start a machine with both attached".to_owned());
    out
}

fn held_by(target: &dyn TargetDisk, partition: &table::Partition) -> String {
    let window = crate::block::Window::new(target, partition.range);
    let detected = crate::fs::detect(&window);
    let kind = table::RegionKind::Partition(partition.number);
    format!("{}, {}", region_name(kind, detected.as_ref()), Bytes(partition.range.len()))
}

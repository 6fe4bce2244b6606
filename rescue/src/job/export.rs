//! Export: an image, or one region of it, as the raw bytes of the disk, in a file or on standard output.
//!
//! Every byte the image does not keep is zero; in a file, runs of zeros are holes. A file gets its name after all of it
//! was synced, so nothing half written is ever called what was asked for. A chunk is written only after its hash matched,
//! as everywhere; what was written is not read back: unlike a disk's head, a file can be exported again.

mod flow;
mod sink;

use std::{ops::Range, time::Instant};

use self::{flow::Count, sink::Sink};
use super::{
    Cancel, ExportJob, Monitor, Output, Phase,
    analysis::region_name,
    error::Error,
    load_image,
    meter::Meter,
    other_disks,
    report::{Draft, Outcome, Report, Stage},
    view::{PlanView, Step},
    words,
};
use crate::{
    escape::Escaped,
    extent::{Extent, ExtentSet},
    store::{
        Manifest, Store,
        manifest::{ImageState, RegionImage},
    },
    table::RegionKind,
    units::Bytes,
};

/// An image, what of it is wanted, and where it goes.
pub struct ExportPlan {
    store: Store,
    manifest: Manifest,
    /// Indexes of the regions that are written.
    regions: Range<usize>,
    /// Their bytes on the disk.
    range: Extent,
    /// Those of them that could not be read when the image was made.
    lost: ExtentSet,
    output: Output,
    overwrite: bool,
    planning: Stage,
    warnings: Vec<String>,
}

impl ExportPlan {
    /// Loads the image and looks at where it is to go. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] when the output is there already, is no file, or lies in the store, when the image has not
    /// exactly one such region, or when bytes are missing from it and that was not accepted; [`Error::Failed`] when the
    /// image cannot be read.
    pub fn new(job: &ExportJob) -> Result<Self, Error> {
        let store = Store::open(&job.store).map_err(|e| Error::failed("opening the store", &e))?;
        let manifest = load_image(&store, &job.image)?;
        Self::of(job, store, manifest)
    }

    /// Plans the export of a loaded image.
    ///
    /// # Errors
    /// As [`ExportPlan::new`].
    pub fn of(job: &ExportJob, store: Store, manifest: Manifest) -> Result<Self, Error> {
        let began = Instant::now();
        let regions = chosen(&manifest, job.region)?;
        let range = bytes_of(&manifest.regions[regions.clone()]);
        let lost = manifest.unreadable.clip(range);
        if is_partial(&manifest, range) && !job.accept_partial {
            return Err(Error::Refused(format!(
                "image {} is partial: {} of what is asked for could not be read; exporting it needs your consent \
                 (--accept-partial)",
                manifest.id,
                Bytes(lost.total())
            )));
        }
        sink::check(&job.output, job.overwrite, &job.store)?;
        let mut warnings = warnings(&manifest, regions.clone(), &lost);
        warnings.extend(other_disks(&store, &manifest, &job.image));
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let planning = Stage::plain(Phase::Planning, 0, millis);
        let (output, overwrite) = (job.output.clone(), job.overwrite);
        let mut plan = Self { store, manifest, regions, range, lost, output, overwrite, planning, warnings };
        plan.warnings.extend(sink::short_of_space(&plan.output, plan.allocated()));
        Ok(plan)
    }

    fn regions(&self) -> &[RegionImage] {
        &self.manifest.regions[self.regions.clone()]
    }

    fn allocated(&self) -> u64 {
        self.regions().iter().map(|region| region.allocated.total()).sum()
    }

    /// What progress counts: a file takes no time for its holes, a stream writes them all.
    const fn count(&self) -> Count {
        match self.output {
            Output::File(_) => Count::Allocated,
            Output::Stdout => Count::All,
        }
    }

    fn bytes(&self) -> u64 {
        match self.count() {
            Count::Allocated => self.allocated(),
            Count::All => self.range.len(),
        }
    }

    /// Shows what will be written.
    #[must_use]
    pub fn view(&self) -> PlanView {
        let rest = match self.output {
            Output::File(_) => "stay holes",
            Output::Stdout => "are zeros",
        };
        let steps = self.regions().iter().map(|image| {
            let (range, bytes) = (image.region.range, image.allocated.total());
            let what = match range.len() - bytes {
                0 => "write".to_owned(),
                free => format!("write {} in use; {} free {rest}", Bytes(bytes), Bytes(free)),
            };
            Step { region: name(image), range, what, bytes }
        });
        let source = &self.manifest.disk;
        let part = match self.regions() {
            [one] if one.kind() != RegionKind::Whole => format!("{} of the image", name(one)),
            _ => "the image".to_owned(),
        };
        PlanView {
            job: "export".to_owned(),
            title: format!(
                "Write {part} of {} made {} to {}, {} bytes",
                Escaped(source.model.as_deref().unwrap_or(&source.path)),
                self.manifest.created.split('.').next().unwrap_or_default(),
                self.output,
                self.range.len()
            ),
            disk: None,
            steps: steps.collect(),
            bytes: self.bytes(),
            warnings: self.warnings.clone(),
            confirm: None,
        }
    }

    /// Writes it.
    #[must_use]
    pub fn run(self, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        self.run_into(monitor, cancel, || {
            let sink: Box<dyn Sink> = match &self.output {
                Output::File(path) => Box::new(sink::FileSink::begin(path, self.range.len(), self.overwrite)?),
                Output::Stdout => Box::new(sink::StreamSink::stdout(cancel)?),
            };
            Ok(sink)
        })
    }

    fn run_into(
        &self,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        open: impl FnOnce() -> Result<Box<dyn Sink>, Error>,
    ) -> Report {
        let mut draft = Draft::new("export", monitor);
        draft.report.disk = self.output.to_string();
        draft.report.image = Some(self.manifest.id.clone());
        draft.report.disk_bytes = self.range.len();
        draft.report.allocated_bytes = self.allocated();
        draft.report.stages.push(self.planning.clone());
        let result = open().and_then(|sink| self.export(sink, monitor, cancel, &mut draft));
        draft.finish(result)
    }

    fn export(
        &self,
        mut sink: Box<dyn Sink>,
        monitor: &dyn Monitor,
        cancel: &Cancel,
        draft: &mut Draft<'_>,
    ) -> Result<Outcome, Error> {
        let meter = Meter::begin(monitor, Phase::Writing, self.bytes());
        self.write(sink.as_mut(), &meter, cancel)?;
        draft.report.stages.push(meter.finish());
        let meter = Meter::begin(monitor, Phase::Syncing, 0);
        sink.finish()?;
        draft.report.stages.push(meter.finish());
        if !is_partial(&self.manifest, self.range) {
            return Ok(Outcome::Complete);
        }
        for extent in self.lost.iter() {
            draft
                .problem(format!("{extent} of the disk could not be read when the image was made; zeros were written"));
        }
        Ok(Outcome::Partial)
    }
}

fn name(image: &RegionImage) -> String {
    region_name(image.kind(), image.detected.as_ref())
}

/// Returns the indexes of all regions, or of the one of this kind.
fn chosen(manifest: &Manifest, wanted: Option<RegionKind>) -> Result<Range<usize>, Error> {
    let Some(wanted) = wanted else { return Ok(0..manifest.regions.len()) };
    let mut found = (0..).zip(&manifest.regions).filter(|(_, image)| image.kind() == wanted).map(|(at, _)| at);
    match (found.next(), found.count()) {
        (Some(at), 0) => Ok(at..at + 1),
        (Some(_), more) => Err(Error::Refused(format!("the image has {} regions called {wanted}", more + 1))),
        (None, _) => {
            let held: Vec<String> = manifest.regions.iter().map(name).collect();
            Err(Error::Refused(format!("the image has no {wanted}; it has: {}", held.join(", "))))
        }
    }
}

/// Returns the bytes on the disk of regions that lie one behind the other.
fn bytes_of(regions: &[RegionImage]) -> Extent {
    match (regions.first(), regions.last()) {
        (Some(first), Some(last)) => Extent::new(first.region.range.start, last.region.range.end),
        _ => Extent::new(0, 0),
    }
}

/// Tells whether bytes of `range` are missing. Elsewhere they do no harm to a region that is exported alone.
fn is_partial(manifest: &Manifest, range: Extent) -> bool {
    let whole = range.len() == manifest.disk.len;
    manifest.state == ImageState::Partial && (whole || manifest.unreadable.within(range).next().is_some())
}

fn warnings(manifest: &Manifest, regions: Range<usize>, lost: &ExtentSet) -> Vec<String> {
    let mut out = Vec::new();
    if !lost.is_empty() {
        out.push(format!("{} of it could not be read when the image was made", Bytes(lost.total())));
    }
    for image in &manifest.regions[regions] {
        out.extend(image.left_out.iter().map(|file| format!("{}: {}", name(image), words::not_in_image(file))));
    }
    out
}

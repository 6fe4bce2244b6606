//! Verify: every byte of a store, or of one image of it, read and checked.

use std::{collections::BTreeSet, time::Instant};

use super::{
    Cancel, Monitor, Phase, VerifyJob,
    error::Error,
    load_image,
    meter::Meter,
    report::{Draft, Outcome, Report, Stage},
    view::PlanView,
};
use crate::store::{self, Manifest, Store, Verified};

/// A store, and the image of it that is asked for.
pub struct VerifyPlan {
    store: Store,
    path: String,
    image: Option<Manifest>,
    planning: Stage,
}

impl VerifyPlan {
    /// Opens the store.
    ///
    /// # Errors
    /// [`Error::Failed`] when it cannot be read, or the image is not there.
    pub fn new(job: &VerifyJob) -> Result<Self, Error> {
        let began = Instant::now();
        let store = Store::open(&job.store).map_err(|e| Error::failed("opening the store", &e))?;
        let image = job.image.as_ref().map(|image| load_image(&store, image)).transpose()?;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let planning = Stage::plain(Phase::Planning, 0, millis);
        Ok(Self { store, path: job.store.display().to_string(), image, planning })
    }

    /// Shows what will be read.
    #[must_use]
    pub fn view(&self) -> PlanView {
        let title = match &self.image {
            Some(image) => format!("Check image {} of the store {}", image.id, self.path),
            None => format!("Check every byte of the store {}", self.path),
        };
        PlanView {
            job: "verify".to_owned(),
            title,
            disk: None,
            steps: Vec::new(),
            bytes: 0,
            warnings: self.store.problems().iter().map(ToString::to_string).collect(),
            confirm: None,
        }
    }

    /// Reads and checks; changes nothing but the store's own list of damage.
    #[must_use]
    pub fn run(self, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        let mut draft = Draft::new("verify", monitor);
        draft.report.image = self.image.as_ref().map(|image| image.id.clone());
        draft.report.stages.push(self.planning.clone());
        let result = self.check(monitor, cancel, &mut draft);
        draft.finish(result)
    }

    fn check(&self, monitor: &dyn Monitor, cancel: &Cancel, draft: &mut Draft<'_>) -> Result<Outcome, Error> {
        let meter = Meter::begin(monitor, Phase::Verifying, 0);
        let progress = |done, total| meter.set_of(done, total);
        let cancelled = || cancel.is_cancelled();
        let found = match &self.image {
            Some(image) => self.store.verify_image(&image.id, &progress, &cancelled),
            None => self.store.verify(&progress, &cancelled),
        };
        let found = found.map_err(|error| match error {
            store::Error::Cancelled => Error::Failed("cancelled before everything was checked".to_owned()),
            other => Error::failed("reading the store", &other),
        })?;
        draft.report.stages.push(meter.finish());
        if found.is_sound() {
            return Ok(Outcome::Complete);
        }
        found.problems.iter().for_each(|problem| draft.problem(problem.to_string()));
        found.damage.iter().for_each(|damage| draft.problem(damage.to_string()));
        found.image_damage.iter().for_each(|damage| draft.problem(damage.to_string()));
        let places = found.problems.len() + found.damage.len();
        let what = if places == 0 { "chunks are missing".to_owned() } else { format!("damaged in {places} places") };
        Err(Error::Failed(format!("the store is not whole: {what}; {}", cost(&found))))
    }
}

/// Says what damage costs.
fn cost(found: &Verified) -> String {
    let images: BTreeSet<&str> = found.image_damage.iter().map(|damage| damage.image.as_str()).collect();
    match images.len() {
        0 => "every image can still be restored".to_owned(),
        1 => "1 image cannot be restored whole".to_owned(),
        more => format!("{more} images cannot be restored whole"),
    }
}

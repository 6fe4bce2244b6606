//! From a job to a plan that can be shown and run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    Cancel, Job, Monitor, Report, capture::CapturePlan, export::ExportPlan, restore::RestorePlan, verify::VerifyPlan,
    view::PlanView,
};
pub use super::{
    error::{Error, chain},
    failure::panic_text,
};

/// Everything a job will read and write, decided.
pub struct Plan {
    view: PlanView,
    kind: Kind,
}

enum Kind {
    Capture(Box<CapturePlan>),
    Restore(Box<RestorePlan>),
    Verify(Box<VerifyPlan>),
    Export(Box<ExportPlan>),
}

impl Plan {
    /// Decides what `job` will do. Reads only; every refusal that needs no reading of the image happens here.
    ///
    /// # Errors
    /// [`Error::Refused`] when it must not be done, [`Error::Failed`] when something it needs cannot be read.
    pub fn new(job: &Job, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Self, Error> {
        monitor.event(super::Event::Phase { phase: super::Phase::Planning });
        Ok(match job {
            Job::Capture(job) => {
                let plan = CapturePlan::new(job, cancel)?;
                Self { view: plan.view(), kind: Kind::Capture(Box::new(plan)) }
            }
            Job::Restore(job) => {
                let plan = RestorePlan::new(job)?;
                Self { view: plan.view(), kind: Kind::Restore(Box::new(plan)) }
            }
            Job::Verify(job) => {
                let plan = VerifyPlan::new(job)?;
                Self { view: plan.view(), kind: Kind::Verify(Box::new(plan)) }
            }
            Job::Export(job) => {
                let plan = ExportPlan::new(job)?;
                Self { view: plan.view(), kind: Kind::Export(Box::new(plan)) }
            }
        })
    }

    /// Returns what the plan will do, for showing.
    #[must_use]
    pub const fn view(&self) -> &PlanView {
        &self.view
    }

    /// Does it: the one call in the program that writes to a disk.
    #[must_use]
    pub fn run(self, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        let Self { view, kind } = self;
        let run = AssertUnwindSafe(move || match kind {
            Kind::Capture(plan) => plan.run(monitor, cancel),
            Kind::Restore(plan) => plan.run(monitor, cancel),
            Kind::Verify(plan) => plan.run(monitor, cancel),
            Kind::Export(plan) => plan.run(monitor, cancel),
        });
        // A defect ends the job, never the process that shows its outcome: that may be PID 1's only child.
        catch_unwind(run).unwrap_or_else(|panic| {
            let disk = view.disk.map(|disk| disk.path).unwrap_or_default();
            Report::failed(&view.job, disk, &Error::Failed(panic_text(panic.as_ref())))
        })
    }
}

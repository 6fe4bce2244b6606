//! From a job to a plan that can be shown and run.

use super::{Cancel, Job, Monitor, Report, view::PlanView};

/// Why a job cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was touched, and must not be: the reason, and the way out where there is one.
    #[error("{0}")]
    Refused(String),
    /// Something could not be read.
    #[error("{0}")]
    Failed(String),
}

/// Everything a job will read and write, decided.
pub struct Plan {
    view: PlanView,
}

impl Plan {
    /// Decides what `job` will do. Reads only; every refusal happens here.
    ///
    /// # Errors
    /// [`Error::Refused`] when it must not be done, [`Error::Failed`] when something it needs cannot be read.
    pub fn new(_job: &Job, _monitor: &dyn Monitor, _cancel: &Cancel) -> Result<Self, Error> {
        Err(Error::Refused("not yet".to_owned()))
    }

    /// Returns what the plan will do, for showing.
    #[must_use]
    pub const fn view(&self) -> &PlanView {
        &self.view
    }

    /// Does it: the one call in the program that writes to a disk.
    #[must_use]
    pub fn run(self, _monitor: &dyn Monitor, _cancel: &Cancel) -> Report {
        unreachable!("a plan cannot be made yet")
    }
}

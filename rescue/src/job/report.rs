//! How a job ended: one outcome, and the figures that go with it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Event, Job, Monitor, Phase, error};
use crate::exit;

/// How a job ended: a value, never a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Everything planned was done and synced, and for a restore read back.
    Complete,
    /// Something could not be read; what could be is kept, and marked as partial.
    Partial,
    /// It was not done.
    Failed,
}

impl Outcome {
    /// Returns the exit code of a process that ran the job.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Complete => exit::COMPLETE,
            Self::Failed => exit::FAILED,
            Self::Partial => exit::PARTIAL,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Complete => "COMPLETE",
            Self::Partial => "PARTIAL",
            Self::Failed => "FAILED",
        })
    }
}

/// What one phase of a job did and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Which phase.
    pub phase: Phase,
    /// Bytes it went through.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// How a job ended, with its figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `capture`, `restore` or `verify`.
    pub job: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The disk, as the person named it; empty for a verify.
    pub disk: String,
    /// The image made, restored or verified.
    pub image: Option<String>,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Bytes kept by the allocation maps.
    pub allocated_bytes: u64,
    /// Bytes that are new in the store.
    pub stored_bytes: u64,
    /// Bytes of the allocated ones whose chunks the store held already.
    pub deduplicated_bytes: u64,
    /// Phases in order, with figures.
    pub stages: Vec<Stage>,
    /// What went wrong, one sentence each.
    pub problems: Vec<String>,
    /// Why the job failed, with every reason below it.
    pub error: Option<String>,
    /// Whether it was refused before anything was written.
    pub refused: bool,
}

impl Report {
    /// Returns the exit code of a process that ran the job, one of [`exit`]: COMPLETE, FAILED, REFUSED, PARTIAL.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if self.refused { exit::REFUSED } else { self.outcome.exit_code() }
    }

    /// Returns the report of a job that could not be planned or was not confirmed.
    #[must_use]
    pub fn not_run(job: &Job, error: &error::Error) -> Self {
        let (name, disk) = match job {
            Job::Capture(job) => ("capture", job.disk.to_string()),
            Job::Restore(job) => ("restore", job.disk.to_string()),
            Job::Verify(_) => ("verify", String::new()),
        };
        Self::failed(name, disk, error)
    }

    /// Returns the report of a job that came to nothing.
    ///
    /// * `job`: `capture`, `restore` or `verify`.
    /// * `disk`: as the person named it; empty for a verify.
    #[must_use]
    pub fn failed(job: &str, disk: String, error: &error::Error) -> Self {
        let mut report = Self::empty(job);
        report.disk = disk;
        report.fail(error);
        report
    }

    fn empty(job: &str) -> Self {
        Self {
            job: job.to_owned(),
            outcome: Outcome::Failed,
            disk: String::new(),
            image: None,
            disk_bytes: 0,
            allocated_bytes: 0,
            stored_bytes: 0,
            deduplicated_bytes: 0,
            stages: Vec::new(),
            problems: Vec::new(),
            error: None,
            refused: false,
        }
    }

    fn fail(&mut self, error: &error::Error) {
        self.outcome = Outcome::Failed;
        self.refused = matches!(error, error::Error::Refused(_));
        self.error = Some(error.to_string());
    }
}

/// A report in the making.
pub(super) struct Draft<'a> {
    /// What is known so far.
    pub report: Report,
    monitor: &'a dyn Monitor,
}

impl<'a> Draft<'a> {
    /// Starts the report of a job that has done nothing yet.
    pub fn new(job: &str, monitor: &'a dyn Monitor) -> Self {
        Self { report: Report::empty(job), monitor }
    }

    /// Notes something that went wrong and does not end the job.
    pub fn problem(&mut self, what: String) {
        self.monitor.event(Event::Problem { what: what.clone() });
        self.report.problems.push(what);
    }

    /// Ends the report with what the job came to.
    pub fn finish(mut self, result: Result<Outcome, error::Error>) -> Report {
        match result {
            Ok(outcome) => self.report.outcome = outcome,
            Err(error) => self.report.fail(&error),
        }
        self.report
    }
}

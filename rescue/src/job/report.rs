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
    /// What its threads did meanwhile, where that was measured: the busiest are what the phase waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub work: Vec<Work>,
}

impl Stage {
    /// A phase of which nothing more is known than how long it took.
    #[must_use]
    pub const fn plain(phase: Phase, bytes: u64, millis: u64) -> Self {
        Self { phase, bytes, millis, work: Vec::new() }
    }

    /// Returns which part of their time the threads spent on a piece of work, in percent.
    #[must_use]
    pub fn share(&self, work: &Work) -> u64 {
        let time = self.millis.saturating_mul(work.threads).max(1);
        work.millis.saturating_mul(100).checked_div(time).unwrap_or(0).min(100)
    }

    /// Returns what the phase waited for: the largest piece of the work that the busiest threads did. `None` where nothing
    /// was measured, or nobody was busy.
    #[must_use]
    pub fn bottleneck(&self) -> Option<Effort> {
        let busy = |work: &Work| -> u64 {
            let together = self.work.iter().filter(|other| other.group == work.group);
            together.map(|other| self.share(other)).sum()
        };
        let most = self.work.iter().max_by_key(|work| (busy(work), self.share(work)))?;
        (busy(most) >= BUSY).then_some(most.effort)
    }
}

/// Threads that are busy for less of their time, in percent, hold nobody up.
const BUSY: u64 = 50;

/// One kind of work of a phase, summed over the threads that do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What.
    pub effort: Effort,
    /// How many threads do it.
    pub threads: u64,
    /// Which ones: those with the same number do each kind of work in turns.
    #[serde(default)]
    pub group: u64,
    /// Bytes they went through.
    pub bytes: u64,
    /// How long they were at it, all together, in milliseconds. Waiting for each other does not count.
    pub millis: u64,
}

/// What a thread can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// Reading the disk.
    Reading,
    /// Hashing chunks.
    Hashing,
    /// Compressing chunks, and decoding them again to compare.
    Compressing,
    /// Writing to the store.
    Storing,
    /// Reading from the store.
    Fetching,
    /// Checking and decompressing chunks.
    Decoding,
    /// Writing the disk.
    Writing,
}

impl Effort {
    /// All of them, in the order data goes through them.
    pub const ALL: [Self; 7] =
        [Self::Reading, Self::Hashing, Self::Compressing, Self::Storing, Self::Fetching, Self::Decoding, Self::Writing];

    /// Returns what a person calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading the disk",
            Self::Hashing => "hashing",
            Self::Compressing => "compressing",
            Self::Storing => "writing to the store",
            Self::Fetching => "reading the store",
            Self::Decoding => "decoding",
            Self::Writing => "writing the disk",
        }
    }
}

/// How a job ended, with its figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `capture`, `restore`, `verify` or `export`.
    pub job: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The disk, or the file an export wrote, as the person named it; empty for a verify.
    pub disk: String,
    /// The image made, restored, verified or exported.
    pub image: Option<String>,
    /// Bytes of the disk, or of what an export wrote.
    pub disk_bytes: u64,
    /// Bytes kept by the allocation maps.
    pub allocated_bytes: u64,
    /// Bytes that are new in the store.
    pub stored_bytes: u64,
    /// Bytes of the allocated ones whose chunks the store held already.
    pub deduplicated_bytes: u64,
    /// Bytes a restore wrote to the disk, zeros included.
    #[serde(default)]
    pub written_bytes: u64,
    /// Bytes of the allocated ones that the target of a restore held already; they were read and not written.
    #[serde(default)]
    pub unchanged_bytes: u64,
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
            Job::Export(job) => ("export", job.output.to_string()),
        };
        Self::failed(name, disk, error)
    }

    /// Returns the report of a job that came to nothing.
    ///
    /// * `job`: `capture`, `restore`, `verify` or `export`.
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
            written_bytes: 0,
            unchanged_bytes: 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_phase_waited_for_has_a_name() {
        let stage = |works: [(Effort, u64, u64, u64); 4]| Stage {
            phase: Phase::Capturing,
            bytes: 1,
            millis: 1000,
            work: works
                .map(|(effort, threads, group, millis)| Work { effort, threads, group, bytes: 1, millis })
                .to_vec(),
        };
        let [reading, hashing, compressing, storing, ..] = Effort::ALL;
        for (millis, want) in [
            ([2000, 100, 1000, 100], Some(reading)),
            // The same threads hash and compress: together they are what is waited for, though writing is longer than either.
            ([100, 700, 1200, 900], Some(compressing)),
            ([100, 100, 100, 990], Some(storing)),
            ([100, 1300, 100, 300], Some(hashing)),
            ([100, 100, 100, 100], None),
        ] {
            let [a, b, c, d] = millis;
            let stage = stage([(reading, 2, 0, a), (hashing, 2, 1, b), (compressing, 2, 1, c), (storing, 1, 3, d)]);
            assert_eq!(stage.bottleneck(), want, "{millis:?}");
        }
        assert_eq!(Stage::plain(Phase::Planning, 0, 0).bottleneck(), None);
    }
}

//! How a job ended: one outcome, and the figures that go with it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Phase;

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
            Self::Complete => 0,
            Self::Failed => 1,
            Self::Partial => 4,
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
    /// Returns the exit code of a process that ran the job: 0 COMPLETE, 1 FAILED, 3 refused, 4 PARTIAL.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if self.refused { 3 } else { self.outcome.exit_code() }
    }
}

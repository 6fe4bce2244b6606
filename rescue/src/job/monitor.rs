//! What a running job tells whoever watches. Jobs know nothing of screens.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What a job is doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading tables and file systems to decide what to do.
    Planning,
    /// Reading the target to find what it holds already.
    Comparing,
    /// Checking the stored frames of the image before the first write.
    Checking,
    /// Reading the source and storing its chunks.
    Capturing,
    /// Making what was written durable.
    Syncing,
    /// Clearing the head and tail of the target.
    Clearing,
    /// Discarding or zeroing free bytes of the target.
    Freeing,
    /// Writing the target.
    Writing,
    /// Reading back what was written.
    ReadingBack,
    /// Writing tail and head of the target.
    WritingTable,
    /// Reading and checking the store.
    Verifying,
}

impl Phase {
    /// Returns what is being done, in words for a line of text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Comparing => "comparing",
            Self::Checking => "checking the image",
            Self::Capturing => "capturing",
            Self::Syncing => "making it durable",
            Self::Clearing => "clearing head and tail",
            Self::Freeing => "clearing free space",
            Self::Writing => "writing",
            Self::ReadingBack => "reading back",
            Self::WritingTable => "writing the tables",
            Self::Verifying => "verifying",
        }
    }
}

/// How far a phase is. All counts are bytes of the disk, but for `stored`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done so far in this phase.
    pub done: u64,
    /// What the phase will have done at its end.
    pub total: u64,
    /// Bytes new in the store so far.
    pub stored: u64,
}

/// One thing a running job says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A phase began.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// The phase went on; at most a few times a second.
    Progress {
        /// Which phase.
        phase: Phase,
        /// How far.
        #[serde(flatten)]
        progress: Progress,
    },
    /// Something went wrong and the job goes on.
    Problem {
        /// What and where, as a sentence.
        what: String,
    },
}

/// Receives what a job says; called from several threads.
pub trait Monitor: Send + Sync {
    /// Takes one event. Must be quick: workers wait for it.
    fn event(&self, event: Event);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _: Event) {}
}

/// Keeps every event, for tests.
#[derive(Debug, Default)]
pub struct Collect(Mutex<Vec<Event>>);

impl Collect {
    /// Returns what was said so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Monitor for Collect {
    fn event(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

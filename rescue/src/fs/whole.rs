//! Why a region is kept whole.

use std::fmt;

use super::{Detected, State, Survey};

/// Why a region is kept whole, as a sentence for [`Survey::widened`].
#[derive(Debug)]
pub struct Whole {
    /// The sentence.
    pub reason: String,
    /// The state that this tells of, where it does.
    pub state: Option<State>,
}

impl Whole {
    /// The structures contradict each other, or cannot be read.
    pub fn damaged(reason: impl fmt::Display) -> Self {
        Self { reason: format!("kept whole: {reason}"), state: Some(State::Damaged) }
    }

    /// A journal or a log is ahead of the books.
    pub fn dirty(reason: impl fmt::Display) -> Self {
        Self { reason: format!("kept whole: {reason}"), state: Some(State::Dirty) }
    }

    /// Nothing is known to be wrong, but the books cannot be believed or are not read.
    pub fn because(reason: impl fmt::Display) -> Self {
        Self { reason: format!("kept whole: {reason}"), state: None }
    }

    /// Keeps every byte of a region of `len` bytes.
    #[must_use]
    pub fn survey(self, len: u64, mut detected: Detected) -> Survey {
        detected.state = self.state.unwrap_or(detected.state);
        Survey::whole(len, Some(detected), self.reason)
    }
}

//! Why a region is kept whole.

use std::fmt;

use super::{Detected, State, Survey};

/// Why a region is kept whole, as a sentence for [`Survey::widened`].
#[derive(Debug)]
pub struct Whole {
    /// The sentence.
    pub reason: String,
    /// Whether the file system is damaged, rather than only not understood.
    pub damaged: bool,
}

impl Whole {
    /// The structures contradict each other, or cannot be read.
    pub fn damaged(reason: impl fmt::Display) -> Self {
        Self { reason: format!("kept whole: {reason}"), damaged: true }
    }

    /// Nothing is known to be wrong, but the books cannot be believed or are not read.
    pub fn because(reason: impl fmt::Display) -> Self {
        Self { reason: format!("kept whole: {reason}"), damaged: false }
    }

    /// Keeps every byte of a region of `len` bytes.
    #[must_use]
    pub fn survey(self, len: u64, mut detected: Detected) -> Survey {
        if self.damaged {
            detected.state = State::Damaged;
        }
        Survey::whole(len, Some(detected), self.reason)
    }
}

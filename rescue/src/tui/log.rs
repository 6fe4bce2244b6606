//! What happened, for the log screen: a ring of the last lines.

use std::{collections::VecDeque, time::Duration};

/// Lines kept; older ones fall out.
const KEPT: usize = 500;

/// The last lines of what happened, with the time since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log(VecDeque<(Duration, String)>);

impl Log {
    /// Adds a line; `when` since the start of the program.
    pub fn add(&mut self, when: Duration, line: impl Into<String>) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((when, line.into()));
    }

    /// Lists the lines, oldest first.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &(Duration, String)> + ExactSizeIterator {
        self.0.iter()
    }

    /// Returns how many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_forgets_its_oldest_lines() {
        let mut log = Log::default();
        for number in 0..=KEPT {
            log.add(Duration::ZERO, format!("line {number}"));
        }
        assert_eq!(log.len(), KEPT);
        assert_eq!(log.lines().next().map(|(_, line)| line.as_str()), Some("line 1"));
    }
}

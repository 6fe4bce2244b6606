//! Showing a running job on a terminal, in a log, or to a program.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    job::{Event, Monitor, Phase, Progress},
    units::Bytes,
};

/// How often a log gets a line.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Characters of the bar.
const BAR: u64 = 28;

/// Shows a job on standard error.
pub struct Shown {
    style: Style,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One line, redrawn.
    Bar,
    /// A line now and then.
    Lines,
    /// Every event as JSON.
    Json,
}

struct State {
    began: Instant,
    said: Instant,
    drawn: bool,
}

impl Shown {
    /// Chooses how to show: JSON lines, a bar where standard error is a terminal, else plain lines.
    #[must_use]
    pub fn new(json: bool) -> Self {
        let style = match (json, stderr().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Bar,
            (false, false) => Style::Lines,
        };
        let now = Instant::now();
        Self { style, state: Mutex::new(State { began: now, said: now, drawn: false }) }
    }

    /// Ends the line of a bar, so that what comes next has one of its own.
    pub fn end(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.drawn) {
            let _ = writeln!(stderr());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, phase: Phase, progress: Progress) {
        let mut state = self.state();
        let line = line(phase, progress, state.began.elapsed());
        // A closed standard error is no reason to stop a restore.
        match self.style {
            Style::Bar => {
                state.drawn = true;
                let _ = write!(stderr(), "\r{line}\x1b[K");
            }
            Style::Lines if state.said.elapsed() >= LOG_INTERVAL => {
                state.said = Instant::now();
                let _ = writeln!(stderr(), "{line}");
            }
            _ => {}
        }
    }
}

impl Monitor for Shown {
    fn event(&self, event: Event) {
        if self.style == Style::Json {
            if let Ok(line) = serde_json::to_string(&event) {
                let _ = writeln!(stderr(), "{line}");
            }
            return;
        }
        match event {
            Event::Phase { phase } => {
                self.end();
                self.state().began = Instant::now();
                if self.style == Style::Lines {
                    let _ = writeln!(stderr(), "{}", phase.name());
                }
            }
            Event::Progress { phase, progress } => self.progress(phase, progress),
            Event::Problem { what } => {
                self.end();
                let _ = writeln!(stderr(), "problem: {what}");
            }
        }
    }
}

fn line(phase: Phase, progress: Progress, elapsed: Duration) -> String {
    let Progress { done, total, stored } = progress;
    let filled = usize::try_from(done.saturating_mul(BAR).checked_div(total).unwrap_or(BAR).min(BAR)).unwrap_or(0);
    let width = usize::try_from(BAR).unwrap_or(0);
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(width.saturating_sub(filled)));
    let speed = rate(done, elapsed);
    let mut text =
        format!("{:<22} [{bar}] {:>9} of {:>9}  {:>9}/s", phase.name(), Bytes(done), Bytes(total), Bytes(speed));
    let left = total.saturating_sub(done).checked_div(speed);
    if let (true, Some(left)) = (elapsed.as_secs() >= 2, left) {
        text.push_str(&format!("  {} left", clock(left)));
    }
    if stored > 0 {
        text.push_str(&format!("  {} new", Bytes(stored)));
    }
    text
}

/// Returns bytes per second.
#[must_use]
pub fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / millis
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_phase_share_speed_and_time_left() {
        let progress = Progress { done: 1 << 30, total: 4 << 30, stored: 1 << 20 };
        assert_eq!(
            line(Phase::Capturing, progress, Duration::from_secs(4)),
            "capturing              [#######.....................]  1.00 GiB of  4.00 GiB    256 MiB/s  0:12 left  1.00 MiB new"
        );
        assert!(line(Phase::Syncing, Progress::default(), Duration::ZERO).contains("############################"));
    }
}

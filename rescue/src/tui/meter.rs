//! Speed and time left of a running phase, from what was done when. Pure: the time is told, never asked for.

use std::{collections::VecDeque, time::Duration};

/// How far back the shown speed looks.
const SPEED_WINDOW: Duration = Duration::from_secs(5);
/// How far back the time left looks: long enough not to jump with every cache that fills.
const LEFT_WINDOW: Duration = Duration::from_secs(30);
/// No time left is shown before this: the first second of a phase says little.
const SETTLE: Duration = Duration::from_secs(3);
/// Seconds of history kept for the graph.
const HISTORY: usize = 300;

/// What was done when, in one phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meter {
    samples: VecDeque<(Duration, u64)>,
    began: Duration,
    /// Bytes a second, one for each second since the job began; phases follow each other in it.
    rates: VecDeque<u64>,
    last_second: Option<(Duration, u64)>,
}

impl Meter {
    /// Starts a new phase at `now`; the graph goes on.
    pub fn restart(&mut self, now: Duration) {
        self.samples.clear();
        self.samples.push_back((now, 0));
        self.began = now;
        self.last_second = Some((now, 0));
    }

    /// Notes that `done` bytes of the phase are done at `now`.
    pub fn note(&mut self, now: Duration, done: u64) {
        if self.samples.back().is_some_and(|(last, _)| now.saturating_sub(*last) < Duration::from_millis(200)) {
            return;
        }
        self.samples.push_back((now, done));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(first, _)| now.saturating_sub(*first) > LEFT_WINDOW)
        {
            self.samples.pop_front();
        }
        let (second, before) = *self.last_second.get_or_insert((now, done));
        let passed = now.saturating_sub(second);
        if passed >= Duration::from_secs(1) {
            if self.rates.len() == HISTORY {
                self.rates.pop_front();
            }
            self.rates.push_back(per_second(done.saturating_sub(before), passed));
            self.last_second = Some((now, done));
        }
    }

    /// Returns the speed of the last seconds in bytes a second; nothing before there is one.
    #[must_use]
    pub fn speed(&self) -> Option<u64> {
        self.over(SPEED_WINDOW)
    }

    /// Returns the time the phase still takes at the speed of the last half minute.
    #[must_use]
    pub fn left(&self, total: u64) -> Option<Duration> {
        let (now, done) = *self.samples.back()?;
        if now.saturating_sub(self.began) < SETTLE {
            return None;
        }
        let speed = self.over(LEFT_WINDOW).filter(|speed| *speed > 0)?;
        Some(Duration::from_secs(total.saturating_sub(done) / speed))
    }

    /// Lists bytes a second for each second of the job, the newest last.
    pub fn rates(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
        self.rates.iter().copied()
    }

    fn over(&self, window: Duration) -> Option<u64> {
        let (now, done) = *self.samples.back()?;
        let (then, before) = *self.samples.iter().find(|(when, _)| now.saturating_sub(*when) <= window)?;
        let passed = now.checked_sub(then).filter(|passed| *passed >= Duration::from_millis(500))?;
        Some(per_second(done.saturating_sub(before), passed))
    }
}

/// Divides bytes by a time that is not zero.
fn per_second(bytes: u64, passed: Duration) -> u64 {
    let millis = passed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_job_has_its_speed_and_time_left() {
        let mut meter = Meter::default();
        meter.restart(Duration::ZERO);
        for tick in 1..=40u64 {
            meter.note(Duration::from_millis(tick * 250), tick * 25);
        }
        assert_eq!(meter.speed(), Some(100));
        assert_eq!(meter.left(2000), Some(Duration::from_secs(10)));
        assert_eq!(meter.rates().collect::<Vec<_>>(), vec![100; 10]);
    }

    #[test]
    fn a_phase_that_just_began_promises_nothing() {
        let mut meter = Meter::default();
        meter.restart(Duration::from_secs(7));
        meter.note(Duration::from_millis(7300), 10);
        assert_eq!((meter.speed(), meter.left(100)), (None, None));
    }

    #[test]
    fn a_stalled_job_has_no_time_left() {
        let mut meter = Meter::default();
        meter.restart(Duration::ZERO);
        for tick in 1..=60u64 {
            meter.note(Duration::from_secs(tick), 5);
        }
        assert_eq!((meter.speed(), meter.left(100)), (Some(0), None));
    }
}

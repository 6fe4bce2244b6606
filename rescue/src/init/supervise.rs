//! What follows when a screen or an unattended job ends: pure decisions, and the question a crash asks.
//!
//! A child says by its exit code what it wants ([`crate::exit`]); every other end is a crash. A crash never brings
//! PID 1 down: it is shown, and the person is asked. Somebody who is not there to answer finds the screen started
//! again, up to a bound; a job is never started again by itself.

use std::time::Duration;

use super::cmdline::Then;
use crate::{exit, sys::process::End};

/// A screen that crashed within this time after its start crashed at once.
const QUICK: Duration = Duration::from_secs(10);
/// So many crashes at once in a row, and nothing happens by itself any more.
const MAX_QUICK: u32 = 3;
/// How long the question waits before the screen is started again by itself.
const PAUSE: Duration = Duration::from_secs(60);

/// What runs on a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// The screens.
    Tui,
    /// The unattended job, and what follows when it does not get to say it.
    Unattended {
        /// What follows a result that is not COMPLETE.
        failed: Then,
    },
    /// A shell.
    Shell,
}

/// What to do next on a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start this.
    Start(Child),
    /// Power the machine off.
    PowerOff,
    /// Start the machine again.
    Reboot,
    /// Show `message` and ask; without an answer start the screens after the time, if there is one.
    Ask {
        /// What happened, a sentence.
        message: String,
        /// When to stop waiting.
        limit: Option<Duration>,
    },
    /// Tell on the report port that the job died, with this sentence, then do what was asked for a failure.
    Died {
        /// What happened, a sentence.
        message: String,
        /// What follows.
        then: Then,
    },
}

/// What a person answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The screens, again.
    Restart,
    /// A shell.
    Shell,
    /// Power off.
    PowerOff,
    /// Start the machine again.
    Reboot,
}

impl Answer {
    /// Reads a key.
    #[must_use]
    pub const fn of_key(key: u8) -> Option<Self> {
        match key.to_ascii_lowercase() {
            b'r' => Some(Self::Restart),
            b's' => Some(Self::Shell),
            b'p' => Some(Self::PowerOff),
            b'b' => Some(Self::Reboot),
            _ => None,
        }
    }
}

/// The memory of one console.
#[derive(Clone, Copy, Debug, Default)]
pub struct Supervisor {
    quick: u32,
}

impl Supervisor {
    /// Decides what follows when `child` ended after it `ran` so long.
    pub fn ended(&mut self, child: Child, end: End, ran: Duration) -> Next {
        match (child, end) {
            (_, End::Code(code)) if code == i32::from(exit::POWER_OFF) => Next::PowerOff,
            (_, End::Code(code)) if code == i32::from(exit::REBOOT) => Next::Reboot,
            (Child::Shell, _) => self.start(ran, "the shell ended"),
            (Child::Tui, End::Code(code)) if code == i32::from(exit::STAY) => Next::Start(Child::Shell),
            (Child::Tui, End::Code(0)) => self.start(ran, "the screen ended"),
            (Child::Unattended { .. }, End::Code(code)) if code == i32::from(exit::STAY) => {
                Next::Ask { message: "The unattended job has ended; its result stands above.".to_owned(), limit: None }
            }
            (Child::Tui, end) => self.crashed(&format!("The screen stopped: {}.", describe(end)), ran),
            (Child::Unattended { failed }, end) => {
                Next::Died { message: format!("the unattended job stopped: {}", describe(end)), then: failed }
            }
        }
    }

    /// Decides what follows when a child could not be started.
    pub fn not_started(&mut self, child: Child, why: &str) -> Next {
        match child {
            Child::Unattended { failed } => {
                Next::Died { message: format!("the unattended job could not be started: {why}"), then: failed }
            }
            Child::Tui => self.crashed(&format!("The screen could not be started: {why}."), Duration::ZERO),
            Child::Shell => self.crashed(&format!("The shell could not be started: {why}."), Duration::ZERO),
        }
    }

    /// Decides what follows an answer; `None` is no answer within the time.
    pub fn answered(&mut self, answer: Option<Answer>) -> Next {
        match answer {
            Some(Answer::Restart) => {
                self.quick = 0;
                Next::Start(Child::Tui)
            }
            None => Next::Start(Child::Tui),
            Some(Answer::Shell) => Next::Start(Child::Shell),
            Some(Answer::PowerOff) => Next::PowerOff,
            Some(Answer::Reboot) => Next::Reboot,
        }
    }

    fn start(&mut self, ran: Duration, what: &str) -> Next {
        self.count(ran);
        if self.quick >= MAX_QUICK {
            return Next::Ask { message: format!("Again and again {what} at once."), limit: None };
        }
        Next::Start(Child::Tui)
    }

    fn crashed(&mut self, message: &str, ran: Duration) -> Next {
        self.count(ran);
        Next::Ask { message: message.to_owned(), limit: (self.quick < MAX_QUICK).then_some(PAUSE) }
    }

    fn count(&mut self, ran: Duration) {
        self.quick = if ran < QUICK { self.quick.saturating_add(1) } else { 0 };
    }
}

/// Says how a process ended, as a clause.
#[must_use]
pub fn describe(end: End) -> String {
    match (end, end.signal_name()) {
        (End::Code(101), _) => "it found a fault in itself".to_owned(),
        (End::Code(code), _) => format!("it ended with code {code}"),
        (End::Signal(number), Some(name)) => format!("it was killed by {name} (signal {number})"),
        (End::Signal(number), None) => format!("it was killed by signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_secs(1);
    const JOB: Child = Child::Unattended { failed: Then::Reboot };

    #[test]
    fn every_end_has_one_answer() {
        for (name, child, end, want) in [
            ("the screen asks for power-off", Child::Tui, End::Code(80), Next::PowerOff),
            ("the screen asks for a reboot", Child::Tui, End::Code(81), Next::Reboot),
            ("the screen asks for a shell", Child::Tui, End::Code(82), Next::Start(Child::Shell)),
            ("the screen just ends", Child::Tui, End::Code(0), Next::Start(Child::Tui)),
            ("the shell ends", Child::Shell, End::Code(1), Next::Start(Child::Tui)),
            ("the shell is killed", Child::Shell, End::Signal(9), Next::Start(Child::Tui)),
            ("the job asks for power-off", JOB, End::Code(80), Next::PowerOff),
            ("the job asks for a reboot", JOB, End::Code(81), Next::Reboot),
        ] {
            assert_eq!(Supervisor::default().ended(child, end, LONG), want, "{name}");
        }
        let stay = Supervisor::default().ended(JOB, End::Code(82), LONG);
        assert!(matches!(stay, Next::Ask { limit: None, .. }), "{stay:?}");
    }

    #[test]
    fn a_job_that_dies_is_told_and_not_started_again() {
        for (end, clause) in [
            (End::Signal(9), "killed by SIGKILL (signal 9)"),
            (End::Code(101), "a fault in itself"),
            (End::Code(0), "code 0"),
            (End::Code(1), "code 1"),
            (End::Signal(40), "signal 40"),
        ] {
            match Supervisor::default().ended(JOB, end, SHORT) {
                Next::Died { message, then: Then::Reboot } => assert!(message.contains(clause), "{message}"),
                other => panic!("{end:?} led to {other:?}"),
            }
        }
    }

    #[test]
    fn the_third_crash_at_once_waits_for_a_person() {
        let mut console = Supervisor::default();
        let limits: Vec<_> = (0..4)
            .map(|_| match console.ended(Child::Tui, End::Signal(11), SHORT) {
                Next::Ask { limit, .. } => limit.is_some(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(limits, [true, true, false, false]);
        assert_eq!(console.answered(Some(Answer::Restart)), Next::Start(Child::Tui));
        assert!(matches!(console.ended(Child::Tui, End::Signal(11), SHORT), Next::Ask { limit: Some(_), .. }));
        assert!(matches!(console.ended(Child::Tui, End::Signal(11), LONG), Next::Ask { limit: Some(_), .. }));
    }

    #[test]
    fn a_screen_that_ends_at_once_does_not_spin() {
        let mut console = Supervisor::default();
        let ends: Vec<_> = (0..3).map(|_| console.ended(Child::Tui, End::Code(0), Duration::ZERO)).collect();
        assert_eq!(ends[..2], [Next::Start(Child::Tui), Next::Start(Child::Tui)]);
        assert!(matches!(ends[2], Next::Ask { limit: None, .. }));
    }

    #[test]
    fn keys_in_both_cases() {
        for (key, want) in [
            (b'r', Some(Answer::Restart)),
            (b'S', Some(Answer::Shell)),
            (b'p', Some(Answer::PowerOff)),
            (b'B', Some(Answer::Reboot)),
            (b'\r', None),
            (0x1b, None),
        ] {
            assert_eq!(Answer::of_key(key), want, "{key:#x}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn nothing_happens_by_itself_for_ever(ends in proptest::collection::vec((0i32..256, any::<bool>(), 0u64..9), 3..30)) {
            // However screens end at once, and whether or not anybody answers: the third in a row waits for a person.
            let mut console = Supervisor::default();
            let mut alone = 0;
            for (number, signal, seconds) in ends {
                let end = if signal { End::Signal(number) } else { End::Code(number) };
                match console.ended(Child::Tui, end, Duration::from_secs(seconds)) {
                    Next::Ask { limit: None, .. } => alone = 0,
                    Next::Ask { limit: Some(_), .. } | Next::Start(Child::Tui) => alone += 1,
                    Next::Start(_) | Next::PowerOff | Next::Reboot => {}
                    Next::Died { .. } => prop_assert!(false, "a screen is no job"),
                }
                prop_assert!(alone < 3);
            }
        }
    }
}

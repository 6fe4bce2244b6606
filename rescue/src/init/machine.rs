//! What PID 1's threads share, and the signals that ask for an end.
//!
//! The kernel drops a signal that PID 1 neither handles nor blocks. Where the first thread blocks it and another one
//! does not, the signal is kept, delivered to that other thread, and kills PID 1. So the block comes before all
//! threads: [`EndSignals`] stands for it, and there is no [`Machine`] without.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use crossbeam_channel::Sender;
use nix::sys::signal::{SigSet, Signal};

use super::{cmdline, hotplug::Devices};
use crate::sys::process::Reaper;

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It goes off.
    PowerOff,
    /// It starts again.
    Reboot,
}

/// The signals that ask PID 1 for an end: Ctrl-Alt-Del, and what `poweroff`, `halt` and `reboot` of busybox send.
const END_SIGNALS: [(Signal, Ending); 5] = [
    (Signal::SIGINT, Ending::Reboot),
    (Signal::SIGTERM, Ending::Reboot),
    (Signal::SIGUSR1, Ending::PowerOff),
    (Signal::SIGUSR2, Ending::PowerOff),
    (Signal::SIGPWR, Ending::PowerOff),
];

/// The signals that ask for an end, blocked in this thread and every thread that comes from it. Programs start without
/// the block ([`Reaper::spawn`]).
pub(super) struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks them. To be called by the first thread while it is the only one.
    pub(super) fn block() -> Self {
        let set: SigSet = END_SIGNALS.iter().map(|(signal, _)| *signal).collect();
        // It fails for a kernel that does not know the operation, and for no other.
        let _ = set.thread_block();
        Self(set)
    }

    /// Waits for one of them. What came since the block is not lost.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn next(&self) -> io::Result<(Signal, Ending)> {
        let signal = self.0.wait()?;
        let known = END_SIGNALS.iter().find(|(known, _)| *known == signal);
        known.copied().ok_or_else(|| io::Error::other(format!("{signal} was not waited for")))
    }
}

/// What PID 1's threads share.
pub(super) struct Machine {
    pub(super) reaper: Reaper,
    pub(super) devices: Devices,
    pub(super) parsed: cmdline::Parsed,
    pub(super) signals: EndSignals,
    endings: Sender<Ending>,
    ending: AtomicBool,
}

impl Machine {
    /// Returns a machine that nobody has asked to end; who asks is heard at the other side of `endings`.
    pub(super) fn new(devices: Devices, parsed: cmdline::Parsed, signals: EndSignals, endings: Sender<Ending>) -> Self {
        Self { reaper: Reaper::new(), devices, parsed, signals, endings, ending: AtomicBool::new(false) }
    }

    /// Asks for the machine's end; the first to ask decides.
    pub(super) fn end(&self, how: Ending) {
        if !self.ending.swap(true, Ordering::SeqCst) {
            let _ = self.endings.send(how);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Lets the end be asked for again: the kernel did not end.
    pub(super) fn go_on(&self) {
        self.ending.store(false, Ordering::SeqCst);
    }
}

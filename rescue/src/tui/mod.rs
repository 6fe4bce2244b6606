//! The screens: state, update, draw. They know jobs, never disks.
//!
//! ```text
//! keys, ticks, worker reports ──Msg──► State::update ──Effect──► worker threads ──► Backend
//!                                          │
//!                                          └──► screens::draw(&State)
//! ```
//!
//! `state` is plain data and `app` changes it, by way of `flow` (the steps of a job), `running` and `disks`. `keymap` turns
//! keys into commands, `text` holds every word, `theme` every colour, `run` the only loop. The state never touches a
//! terminal, a disk or a clock, so that tests drive every flow by messages.

mod app;
mod backend;
#[cfg(any(test, feature = "demo"))]
#[doc(hidden)]
pub mod demo;
mod disks;
mod engine;
mod flow;
mod keymap;
mod log;
mod machine;
mod message;
mod meter;
mod run;
mod running;
mod screens;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod theme;
mod widgets;

use std::{fs, io, path::PathBuf};

use self::{machine::Machine, theme::Theme};
use crate::exit;

/// How the screens are started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The folder offered for a store.
    pub store: Option<PathBuf>,
    /// Without colours, whatever the terminal can do. `NO_COLOR` in the environment does the same.
    pub monochrome: bool,
}

/// Why the screens were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The operator is done, or the program was asked to end.
    Quit,
    /// The machine should be powered off.
    PowerOff,
    /// The machine should be restarted.
    Reboot,
    /// A shell is wanted.
    Shell,
}

impl Exit {
    /// Returns the exit code that tells PID 1 what is wanted.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Quit => exit::COMPLETE,
            Self::PowerOff => exit::POWER_OFF,
            Self::Reboot => exit::REBOOT,
            Self::Shell => exit::STAY,
        }
    }
}

/// Why there are no screens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input or output is no terminal.
    #[error("{0} is not a terminal; the screens need one (rescue --help lists the commands that do not)")]
    NoTerminal(&'static str),
    /// The terminal failed.
    #[error("{action} the terminal failed")]
    Terminal {
        /// `setting up`, `drawing on`, `reading`.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Shows the screens until the operator leaves. As a child of this program as PID 1, or with `RESCUE_INIT=1` in the
/// environment, they are the screens of the boot environment: power and shell exist, and the exit code tells PID 1 which
/// was chosen.
///
/// # Errors
/// [`Error`] when there is no terminal or it fails; a job that was running is stopped first.
pub fn main(options: &Options) -> Result<Exit, Error> {
    let no_colour = options.monochrome || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let options = state::Options {
        booted: is_booted(),
        store: options.store.clone(),
        machine: machine_name(),
        theme: if no_colour { Theme::monochrome() } else { Theme::colour() },
    };
    run::run(options, Machine::default())
}

fn is_booted() -> bool {
    let told = std::env::var_os("RESCUE_INIT").is_some_and(|value| value == "1");
    let same_program = || match (fs::read_link("/proc/1/exe"), fs::read_link("/proc/self/exe")) {
        (Ok(parent), Ok(own)) => parent == own,
        _ => false,
    };
    told || (nix::unistd::getppid().as_raw() == 1 && same_program())
}

fn machine_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    // The kernel's placeholder is nobody's name.
    if name == "(none)" { String::new() } else { name }
}

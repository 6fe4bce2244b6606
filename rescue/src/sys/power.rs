//! The end of a running kernel: power-off, restart, and the three keys that ask for it.

use std::io;

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};

/// Brings what every file system holds to its medium.
pub fn sync() {
    nix::unistd::sync();
}

/// Powers the machine off at once: whoever calls has synced.
///
/// # Errors
/// What the kernel said; it does not return otherwise.
pub fn power_off() -> io::Error {
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Starts the machine again at once: whoever calls has synced.
///
/// # Errors
/// What the kernel said; it does not return otherwise.
pub fn restart() -> io::Error {
    match reboot(RebootMode::RB_AUTOBOOT) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Makes Ctrl-Alt-Del send SIGINT to PID 1, where the kernel would restart without a sync.
///
/// # Errors
/// What the kernel said.
pub fn catch_ctrl_alt_del() -> io::Result<()> {
    Ok(set_cad_enabled(false)?)
}

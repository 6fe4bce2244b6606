//! What a process of this program says by ending: its exit codes, one meaning each.
//!
//! 0 to 4 are for whoever called the command. 80 to 82 are spoken between a screen or an unattended job and the PID 1
//! that supervises it; every other end of such a child is a crash.

/// Done: the job is COMPLETE.
pub const COMPLETE: u8 = 0;
/// The job is FAILED.
pub const FAILED: u8 = 1;
/// The command line made no sense; nothing was touched.
pub const USAGE: u8 = 2;
/// The job must not be done as asked; nothing was touched.
pub const REFUSED: u8 = 3;
/// The job is PARTIAL.
pub const PARTIAL: u8 = 4;

/// Asks PID 1 to power the machine off.
pub const POWER_OFF: u8 = 80;
/// Asks PID 1 to start the machine again.
pub const REBOOT: u8 = 81;
/// Asks PID 1 for a shell on this console; an unattended job asks it to stay as it is.
pub const STAY: u8 = 82;

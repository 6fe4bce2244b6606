//! The log: lines into the kernel's own ring buffer, so that one place tells in order what kernel and PID 1 did, and
//! a third screen that shows it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use crate::{escape::Escaped, job::plan::chain, sys::tty};

/// How bad a line is: the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error = 3,
    /// Something may not work.
    Warning = 4,
    /// What was done.
    Info = 6,
}

/// Longer lines are cut by the kernel.
const MAX_LINE: usize = 900;

/// Writes a line into the kernel log. Before `/dev` is there it goes nowhere.
pub fn line(level: Level, text: impl std::fmt::Display) {
    let text = text.to_string();
    let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") else { return };
    for part in text.lines() {
        let shown: String = Escaped(part).to_string().chars().take(MAX_LINE).collect();
        // One write is one record.
        let _ = kmsg.write_all(format!("<{}>rescue: {shown}\n", level as u8).as_bytes());
    }
}

/// Writes an error with all its reasons into the kernel log.
pub fn error(what: &str, error: &dyn std::error::Error) {
    line(Level::Error, format!("{what}: {}", chain(error)));
}

/// Copies the kernel log to a terminal, from its start on, until the terminal is gone.
///
/// # Errors
/// When the terminal or `/dev/kmsg` cannot be opened, or the terminal is gone.
pub fn show_on(terminal: &Path) -> io::Result<()> {
    let mut kmsg = File::open("/dev/kmsg")?;
    let mut screen = tty::open(terminal)?;
    let mut record = vec![0; 16 << 10];
    loop {
        match kmsg.read(&mut record) {
            Ok(len) => screen.write_all(shown(record.get(..len).unwrap_or_default()).as_bytes())?,
            // EPIPE says that records were overwritten before they were read; the next read goes on behind them.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => screen.write_all(b"[...]\n")?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Turns a record, `6,1234,5678901,-;text\n KEY=value\n`, into a line.
///
/// Source: Linux kernel, ABI/testing/dev-kmsg.
fn shown(record: &[u8]) -> String {
    let record = String::from_utf8_lossy(record);
    let Some((head, text)) = record.split_once(';') else { return String::new() };
    let micros: u64 = head.split(',').nth(2).and_then(|field| field.parse().ok()).unwrap_or(0);
    let text = text.lines().next().unwrap_or_default();
    format!("[{:5}.{:06}] {}\n", micros / 1_000_000, micros % 1_000_000, Escaped(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_a_line_and_its_codes_are_not_obeyed() {
        let record = b"6,339,5140900,-;sda: label \x1b[2J\n SUBSYSTEM=block\n";
        assert_eq!(shown(record), "[    5.140900] sda: label \\u{1b}[2J\n");
        assert_eq!(shown(b"rubbish"), "");
        assert_eq!(shown(b""), "");
    }
}

//! Lines to a terminal or port whose reader may sleep.
//!
//! A port that nobody reads, a screen with Scroll Lock, a serial line after Ctrl-S: each blocks its writer for ever.
//! No job and no power-off must wait for that. Lines go through a bounded queue to a thread of their own; what does
//! not matter is dropped when the queue is full, what matters waits a limited time.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};

use crate::sys::tty;

/// Lines that may wait for a slow reader.
const QUEUE: usize = 64;

enum Message {
    Line(String),
    Flush(Sender<()>),
}

/// A queue of lines and the thread that writes them.
pub struct Lines {
    queue: Sender<Message>,
    /// Nobody read for as long as a line could wait: until somebody does, no line waits again.
    stuck: AtomicBool,
}

impl Lines {
    /// Starts the thread, which writes to `file` until the queue is dropped.
    ///
    /// # Errors
    /// What the kernel said to another thread.
    pub fn start(mut file: File) -> io::Result<Self> {
        let (sender, receiver) = bounded(QUEUE);
        let write_all = move || {
            for message in receiver {
                match message {
                    Message::Line(line) => {
                        // The other end may be unplugged; the job goes on without it.
                        let _ = file.write_all(line.as_bytes());
                        tty::drain(&file);
                    }
                    Message::Flush(done) => {
                        // Others may have written to the same terminal.
                        tty::drain(&file);
                        let _ = done.send(());
                    }
                }
            }
        };
        std::thread::Builder::new().name("lines".to_owned()).spawn(write_all)?;
        Ok(Self { queue: sender, stuck: AtomicBool::new(false) })
    }

    /// Starts the thread for what standard output is, and lets it flow whoever stopped it.
    ///
    /// # Errors
    /// When there is no standard output, or no other thread.
    pub fn to_console() -> io::Result<Self> {
        let console = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        // A file or pipe has nothing to be stopped by.
        let _ = tty::never_stop(&console);
        Self::start(console)
    }

    /// Sends a line that may be lost when nobody reads.
    pub fn try_say(&self, line: String) {
        let _ = self.queue.try_send(Message::Line(line));
    }

    /// Sends a line, and waits up to `patience` for a reader: once. A disk with a thousand bad sectors has a thousand
    /// lines, and a job must not stand still for each.
    pub fn say(&self, line: String, patience: Duration) {
        let patience = if self.stuck.load(Ordering::Relaxed) { Duration::ZERO } else { patience };
        let sent = self.queue.send_timeout(Message::Line(line), patience);
        self.stuck.store(sent.is_err(), Ordering::Relaxed);
    }

    /// Sends the last line and waits until it has left, up to `patience` for each place on the way. Tells whether it
    /// has.
    #[must_use]
    pub fn say_last(&self, line: String, patience: Duration) -> bool {
        self.queue.send_timeout(Message::Line(line), patience).is_ok() && self.flush(patience)
    }

    /// Waits until all that was sent has left, up to `patience` for a place in the queue and again for the rest. Tells
    /// whether it has.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let (done, wait) = bounded(1);
        self.queue.send_timeout(Message::Flush(done), patience).is_ok() && wait.recv_timeout(patience).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::{fd::OwnedFd, unix::net::UnixStream},
        time::Instant,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_arrive_in_order_and_the_last_one_is_waited_for() {
        let (mut read, write) = UnixStream::pair().unwrap();
        let lines = Lines::start(File::from(OwnedFd::from(write))).unwrap();
        for n in 0..9 {
            lines.say(format!("{n}\n"), LONG);
        }
        assert!(lines.say_last("9\n".to_owned(), LONG));
        drop(lines);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, (0..10).map(|n| format!("{n}\n")).collect::<String>());
    }

    #[test]
    fn a_reader_that_sleeps_is_waited_for_once() {
        let (_unread, write) = UnixStream::pair().unwrap();
        let lines = Lines::start(File::from(OwnedFd::from(write))).unwrap();
        let long = "x".repeat(10_000);
        let start = Instant::now();
        for _ in 0..1000 {
            lines.try_say(long.clone());
        }
        let patience = Duration::from_millis(300);
        for _ in 0..1000 {
            lines.say(long.clone(), patience);
        }
        assert!(!lines.say_last(long, patience));
        assert!(!lines.flush(patience));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

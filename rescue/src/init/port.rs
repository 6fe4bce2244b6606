//! The report port: JSON lines to whoever watches a machine without a screen.
//!
//! A port whose other end does not read blocks its writer for ever. The job must not wait for that: lines go through
//! a bounded queue to a thread of their own, progress is dropped when the queue is full, and what matters waits a
//! limited time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};
use serde_json::Value;

use crate::sys::tty;

/// Lines that may wait for a slow reader.
const QUEUE: usize = 64;
/// How long a line that matters waits for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(10);

enum Message {
    Line(String),
    Flush(Sender<()>),
}

/// An open report port.
pub struct Port {
    queue: Sender<Message>,
    /// Nobody read for all of [`PATIENCE`]: until somebody does, no line waits again but the last one.
    stuck: AtomicBool,
}

/// Finds the device node that `name` means: `ttyS1`, `/dev/hvc0`, `/dev/virtio-ports/NAME`, or a virtio port's NAME.
///
/// # Errors
/// `NotFound` when there is no such character device (yet).
pub fn resolve(name: &str) -> io::Result<PathBuf> {
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let virtio = virtio_port(Path::new("/sys/class/virtio-ports"), bare.strip_prefix("virtio-ports/").unwrap_or(bare));
    let path = match virtio {
        Some(node) => Path::new("/dev").join(node),
        None if name.starts_with('/') => PathBuf::from(name),
        None => Path::new("/dev").join(bare),
    };
    let kind = fs::metadata(&path)?.file_type();
    if kind.is_char_device() { Ok(path) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
}

/// devtmpfs knows ports as `vport0p1` only; their names, which are links where there is udev, stand in sysfs.
fn virtio_port(class: &Path, wanted: &str) -> Option<String> {
    let nodes = fs::read_dir(class).ok()?.flatten();
    let mut named = nodes.filter(|node| fs::read_to_string(node.path().join("name")).is_ok_and(|n| n.trim() == wanted));
    named.next()?.file_name().into_string().ok()
}

impl Port {
    /// Opens the port called `name`.
    ///
    /// # Errors
    /// When there is none (yet), or it cannot be opened.
    pub fn open(name: &str) -> io::Result<Self> {
        let path = resolve(name)?;
        let file = match tty::open(&path) {
            Ok(terminal) => terminal,
            // A virtio port opens for one side only where the other does not read.
            Err(_) => OpenOptions::new().write(true).custom_flags(nix::libc::O_NOCTTY).open(&path)?,
        };
        // Anything but a terminal has no modes to set.
        let _ = tty::make_raw(&file);
        Self::start(file)
    }

    fn start(mut file: File) -> io::Result<Self> {
        let (sender, receiver) = bounded(QUEUE);
        let write_all = move || {
            for message in receiver {
                match message {
                    Message::Line(line) => {
                        // The port may be unplugged; the job goes on without it.
                        let _ = file.write_all(line.as_bytes());
                        tty::drain(&file);
                    }
                    Message::Flush(done) => drop(done.send(())),
                }
            }
        };
        std::thread::Builder::new().name("report".to_owned()).spawn(write_all)?;
        Ok(Self { queue: sender, stuck: AtomicBool::new(false) })
    }

    /// Sends a line that may be lost when nobody reads.
    pub fn try_say(&self, value: &Value) {
        let _ = self.queue.try_send(Message::Line(format!("{value}\n")));
    }

    /// Sends a line, and waits a limited time for a reader: once. A disk with a thousand bad sectors has a thousand
    /// lines, and a job must not stand still for each.
    pub fn say(&self, value: &Value) {
        let patience = if self.stuck.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let sent = self.queue.send_timeout(Message::Line(format!("{value}\n")), patience);
        self.stuck.store(sent.is_err(), Ordering::Relaxed);
    }

    /// Sends the last line and waits a limited time until it has left. Tells whether it has.
    #[must_use]
    pub fn say_last(&self, value: &Value) -> bool {
        let (done, wait) = bounded(1);
        self.queue.send_timeout(Message::Line(format!("{value}\n")), PATIENCE).is_ok()
            && self.queue.send_timeout(Message::Flush(done), PATIENCE).is_ok()
            && wait.recv_timeout(PATIENCE).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_virtio_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (node, name) in [("vport0p1", "org.qemu.guest"), ("vport0p2", "report")] {
            fs::create_dir(class.path().join(node)).unwrap();
            fs::write(class.path().join(node).join("name"), format!("{name}\n")).unwrap();
        }
        assert_eq!(virtio_port(class.path(), "report").as_deref(), Some("vport0p2"));
        assert_eq!(virtio_port(class.path(), "other"), None);
        assert_eq!(virtio_port(Path::new("/nowhere"), "report"), None);
    }

    #[test]
    fn only_character_devices_are_ports() {
        assert!(resolve("/dev/null").is_ok());
        assert!(resolve("null").is_ok());
        assert!(resolve("/etc/passwd").is_err());
        assert!(resolve("no-such-port").is_err());
    }

    #[test]
    fn lines_arrive_in_order_and_the_last_one_is_waited_for() {
        let (mut read, write) = std::os::unix::net::UnixStream::pair().unwrap();
        let port = Port::start(File::from(std::os::fd::OwnedFd::from(write))).unwrap();
        for n in 0..9 {
            port.say(&json!({ "n": n }));
        }
        assert!(port.say_last(&json!({ "n": 9 })));
        drop(port);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 10);
        assert!(text.starts_with("{\"n\":0}\n") && text.ends_with("{\"n\":9}\n"));
    }

    #[test]
    fn a_reader_that_sleeps_stops_neither_progress_nor_problems() {
        let (_unread, write) = std::os::unix::net::UnixStream::pair().unwrap();
        let port = Port::start(File::from(std::os::fd::OwnedFd::from(write))).unwrap();
        let long = "x".repeat(10_000);
        for _ in 0..1000 {
            port.try_say(&json!({ "long": long }));
        }
        port.stuck.store(true, Ordering::Relaxed);
        for _ in 0..1000 {
            port.say(&json!({ "long": long }));
        }
    }
}

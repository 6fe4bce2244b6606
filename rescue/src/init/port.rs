//! The report port: JSON lines to whoever watches a machine without a screen.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::lines::Lines;
use crate::sys::tty;

/// How long a line that matters waits for a place in the queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open report port.
pub struct Port(Lines);

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
        Ok(Self(Lines::start(file)?))
    }

    /// Sends a line that may be lost when nobody reads.
    pub fn try_say(&self, value: &Value) {
        self.0.try_say(format!("{value}\n"));
    }

    /// Sends a line, and waits a limited time for a reader: once.
    pub fn say(&self, value: &Value) {
        self.0.say(format!("{value}\n"), PATIENCE);
    }

    /// Sends the last line and waits a limited time until it has left. Tells whether it has.
    #[must_use]
    pub fn say_last(&self, value: &Value) -> bool {
        self.0.say_last(format!("{value}\n"), PATIENCE)
    }
}

#[cfg(test)]
mod tests {
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
}

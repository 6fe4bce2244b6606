//! Drivers for devices: those that are there at the start, and those that come later.
//!
//! The socket is opened before the walk over `/sys/devices`: a device that appears during the walk is announced, and
//! one whose parent was announced is found or announced itself. None is missed; some are seen twice.

use std::{
    collections::HashSet,
    fs, io,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    log::{self, Level},
    modules::{Error, Loader},
};
use crate::{
    escape::Escaped,
    sys::uevent::{Event, Heard, Listener},
};

/// The devices folder of no machine is nested deeper, and links are not followed.
const MAX_DEPTH: u32 = 40;

/// Loaded whether a device asks or not: their devices have no alias, or not one that leads to all that is needed.
const ALWAYS: [&str; 8] = ["i8042", "atkbd", "usbhid", "hid_generic", "sd_mod", "usb_storage", "uas", "loop"];

/// What goes on with devices; shared by PID 1's threads.
pub struct Devices {
    loader: Mutex<Loader>,
    activity: Mutex<Activity>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    last: Instant,
    block_events: u64,
}

impl Devices {
    /// Starts with nothing loaded.
    #[must_use]
    pub fn new(loader: Loader) -> Self {
        let activity = Activity { last: Instant::now(), block_events: 0 };
        Self { loader: Mutex::new(loader), activity: Mutex::new(activity), changed: Condvar::new() }
    }

    fn loader(&self) -> MutexGuard<'_, Loader> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, block: bool) -> u64 {
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        activity.last = Instant::now();
        activity.block_events += u64::from(block);
        self.changed.notify_all();
        activity.block_events
    }

    /// Loads the drivers of every device there is, and those that are always loaded.
    pub fn coldplug(&self) {
        for name in ALWAYS {
            self.report(name, self.loader().load(name));
        }
        let mut aliases = HashSet::new();
        collect_aliases(Path::new("/sys/devices"), MAX_DEPTH, &mut aliases);
        let mut aliases: Vec<String> = aliases.into_iter().collect();
        // The order of a walk is chance; two starts of one machine should do the same.
        aliases.sort_unstable();
        for alias in &aliases {
            self.load_for(alias);
        }
        log::line(Level::Info, format!("looked at {} kinds of devices", aliases.len()));
    }

    fn load_for(&self, alias: &str) {
        let result = self.loader().load_for_device(alias);
        self.report(alias, result);
    }

    fn report(&self, what: &str, result: Result<Vec<String>, Error>) {
        match result {
            Ok(new) if new.is_empty() => {}
            Ok(new) => {
                self.touch(false);
                log::line(Level::Info, format!("{}: loaded {}", Escaped(what), new.join(" ")));
            }
            Err(Error::Unknown(_)) => {}
            // The driver's hardware is not there after all, or is another driver's already.
            Err(Error::Insert { source, .. })
                if matches!(source.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::EBUSY)) => {}
            Err(error) => log::error("loading a driver", &error),
        }
    }

    /// Loads drivers for devices that come, for as long as the machine runs. Only returns when the socket is broken.
    ///
    /// # Errors
    /// What the kernel said of the socket.
    pub fn listen(&self, listener: &Listener) -> io::Result<()> {
        loop {
            match listener.next(Duration::from_secs(3600))? {
                Heard::Event(event) => self.heard(&event),
                Heard::Lost => {
                    log::line(Level::Warning, "device announcements were lost; looking at all devices again");
                    self.coldplug();
                }
                Heard::Silence => {}
            }
        }
    }

    fn heard(&self, event: &Event) {
        if let Some(alias) = event.modalias.as_deref().filter(|_| event.action == "add") {
            self.load_for(alias);
        }
        let count = self.touch(event.is_block());
        if event.is_block() && matches!(event.action.as_str(), "add" | "remove") {
            let kind = event.kind.as_deref().unwrap_or("block device");
            let node = event.node.as_deref().unwrap_or_default();
            log::line(Level::Info, format!("{} {kind} {node}", event.action));
            // Whoever shows disks can look at this number instead of at all disks.
            let _ = fs::write("/run/rescue/block-events", format!("{count}\n"));
        }
    }

    /// Waits until no device was announced and no driver loaded for `quiet`, but no longer than `limit`. Tells whether
    /// it became quiet.
    pub fn settle(&self, quiet: Duration, limit: Duration) -> bool {
        let start = Instant::now();
        let mut activity = self.activity.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let silent = activity.last.elapsed();
            if silent >= quiet {
                return true;
            }
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { return false };
            let pause = left.min(quiet.saturating_sub(silent));
            activity = self.changed.wait_timeout(activity, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Adds the alias of every device below `folder`: from `uevent`, which all have, else from `modalias`.
fn collect_aliases(folder: &Path, depth: u32, into: &mut HashSet<String>) {
    let from_uevent = fs::read_to_string(folder.join("uevent")).ok().and_then(|text| alias_in_uevent(&text));
    let alias = from_uevent.or_else(|| fs::read_to_string(folder.join("modalias")).ok());
    if let Some(alias) = alias.map(|alias| alias.trim().to_owned()).filter(|alias| !alias.is_empty()) {
        into.insert(alias);
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_aliases(&entry.path(), depth, into);
        }
    }
}

fn alias_in_uevent(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("MODALIAS=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_collected_from_both_files_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, file: &str, text: &str| {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join(file), text).unwrap();
        };
        make("pci0/dev1", "uevent", "DRIVER=x\nMODALIAS=pci:v1\n");
        make("pci0/dev1/usb", "modalias", "usb:v2\n");
        make("pci0/dev1/mmc", "uevent", "MODALIAS=mmc:block\n");
        make("pci0/dev1/mmc", "modalias", "not:this\n");
        make("virtual/empty", "modalias", "\n");
        std::os::unix::fs::symlink("..", root.path().join("pci0/dev1/loop")).unwrap();
        let mut found = HashSet::new();
        collect_aliases(root.path(), MAX_DEPTH, &mut found);
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort();
        assert_eq!(found, ["mmc:block", "pci:v1", "usb:v2"]);
    }

    #[test]
    fn settling_ends_when_it_is_quiet_or_late() {
        let devices = Devices::new(Loader::for_running_kernel(""));
        assert!(devices.settle(Duration::from_millis(20), Duration::from_secs(20)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..40 {
                    devices.touch(true);
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            assert!(!devices.settle(Duration::from_secs(10), Duration::from_millis(60)));
        });
    }
}

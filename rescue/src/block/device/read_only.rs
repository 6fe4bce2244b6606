//! The kernel's read-only flag on a source, for as long as somebody reads it.
//!
//! Several jobs may read one disk, and a job may be killed, so who last let go must be known outside any process. Each
//! holder keeps a shared lock on a small file in `/run/rescue/read-only`, named by device number and run of the machine;
//! it lists the devices whose flag was down before the first holder. Whoever gets the lock alone is the last one and
//! puts those flags down again. A killed job's lock is gone with it, and the next holder does its part.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
};

use crate::{block::discovery::Node, sys::ioctl};

const DIR: &str = "/run/rescue/read-only";

/// The flag, set; put back when dropped.
#[derive(Debug)]
pub(super) struct ReadOnly {
    disk: Node,
    /// Names of the devices whose flag this holder set itself.
    set: Vec<String>,
    /// Absent where the machine has no writable `/run`.
    lease: Option<Lease>,
}

impl ReadOnly {
    /// Sets the flag on `disk` and its partitions.
    ///
    /// * `file`: the disk itself, open.
    ///
    /// # Errors
    /// What the system says; flags set so far are put back.
    pub(super) fn set(disk: &Node, file: &File) -> io::Result<Self> {
        // The lease first: while another holder lets go, the flag is about to change.
        let mut this = Self { disk: disk.clone(), set: Vec::new(), lease: Lease::take(disk).ok() };
        // Partitions first: once the flag of the disk is set, theirs seems set whatever it is.
        for part in disk.partitions() {
            match File::open(part.path()) {
                Ok(part_file) => this.set_one(&part.name, &part_file)?,
                // A partition without a node has nobody who writes through it, and the flag of the disk covers it.
                Err(_) => continue,
            }
        }
        this.set_one(&disk.name, file)?;
        if !ioctl::read_only(file)? {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(this)
    }

    fn set_one(&mut self, name: &str, file: &File) -> io::Result<()> {
        if ioctl::read_only(file)? {
            return Ok(());
        }
        // Noted before it is done: if this process dies in between, a flag that is down is put down once more.
        self.set.push(name.to_owned());
        if let Some(lease) = &mut self.lease {
            lease.note(name)?;
        }
        ioctl::set_read_only(file, true)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        match self.lease.take() {
            Some(lease) => {
                lease.release(&self.disk);
            }
            None => clear(&self.disk, &self.set),
        }
    }
}

/// Puts down the flags of those devices in `names` that are `disk` or its partitions. The disk goes first, as the
/// flag of a partition cannot be asked for below it.
fn clear(disk: &Node, names: &[String]) {
    for node in std::iter::once(disk.clone()).chain(disk.partitions()) {
        if names.contains(&node.name) {
            // A disk that was pulled has no flag to put down.
            let _ = File::open(node.path()).and_then(|file| ioctl::set_read_only(&file, false));
        }
    }
}

/// Puts down flags that a killed job left behind; tells whether a running job holds them instead.
pub(super) fn release_stale(disk: &Node) -> bool {
    let lease = lease_path(disk).exists().then(|| Lease::take(disk).ok()).flatten();
    lease.is_some_and(|lease| !lease.release(disk))
}

/// Names the file by device number alone, and not by the disk: the flag belongs to the drive, and stays when a killed
/// job's medium is changed for another.
fn lease_path(disk: &Node) -> PathBuf {
    // Where `/run` outlives the machine's run, what a run before this one noted is void.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Path::new(DIR).join(format!("{}:{}-{}", disk.dev.0, disk.dev.1, boot.trim()))
}

/// A shared lock on the file that lists the flags to put down.
#[derive(Debug)]
struct Lease(Flock<File>);

impl Lease {
    fn take(disk: &Node) -> io::Result<Self> {
        fs::create_dir_all(DIR)?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
            .open(lease_path(disk))?;
        // Waits for nobody longer than it takes to put down a few flags: the lock is held alone only for that.
        Flock::lock(file, FlockArg::LockShared).map(Self).map_err(|(_, errno)| errno.into())
    }

    fn note(&mut self, name: &str) -> io::Result<()> {
        self.0.write_all(format!("{name}\n").as_bytes())
    }

    /// Lets go; the last holder puts down the flags. Tells whether this was the last one.
    fn release(self, disk: &Node) -> bool {
        if self.0.relock(FlockArg::LockExclusiveNonblock).is_err() {
            return false;
        }
        let mut file = &*self.0;
        let mut names = String::new();
        if file.rewind().and_then(|()| file.read_to_string(&mut names)).is_ok() {
            clear(disk, &names.lines().map(str::to_owned).collect::<Vec<_>>());
            let _ = file.set_len(0);
        }
        true
    }
}

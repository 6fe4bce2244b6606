//! What is mounted at the start, and how all of it ends.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::log::{self, Level};
use crate::sys::mount::{Mounted, MsFlags, mount, mounts, remount_read_only, unmount};

/// One file system of the environment.
struct Entry {
    fs: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: &'static str,
    /// Mounted only where this exists.
    needs: Option<&'static str>,
}

const NONE: MsFlags = MsFlags::MS_NOSUID;
const DATA: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const INFO: MsFlags = DATA.union(MsFlags::MS_NOEXEC);

/// In this order: later ones lie in earlier ones. The EFI variables come last, for their driver may be a module; they
/// are read-only, because a careless write there can keep a machine from ever starting.
const TABLE: [Entry; 7] = [
    Entry { fs: "proc", target: "/proc", flags: INFO, options: "", needs: None },
    Entry { fs: "sysfs", target: "/sys", flags: INFO, options: "", needs: None },
    Entry { fs: "devtmpfs", target: "/dev", flags: NONE, options: "mode=0755", needs: None },
    Entry { fs: "devpts", target: "/dev/pts", flags: NONE, options: "mode=620,ptmxmode=666", needs: None },
    Entry { fs: "tmpfs", target: "/run", flags: DATA, options: "mode=0755", needs: None },
    Entry { fs: "tmpfs", target: "/tmp", flags: DATA, options: "mode=1777", needs: None },
    Entry {
        fs: "efivarfs",
        target: "/sys/firmware/efi/efivars",
        flags: INFO.union(MsFlags::MS_RDONLY),
        options: "",
        needs: Some("/sys/firmware/efi/efivars"),
    },
];

/// Mounts the table. One that fails does not keep the others from being mounted.
///
/// # Errors
/// The last that failed.
pub fn mount_all() -> io::Result<()> {
    let mut result = Ok(());
    for entry in TABLE {
        if entry.needs.is_some_and(|path| !Path::new(path).exists()) {
            continue;
        }
        if entry.fs == "efivarfs" {
            let _ = provide_modprobe();
        }
        if let Err(error) = mount_one(&entry) {
            result = Err(io::Error::new(error.kind(), format!("{} on {}: {error}", entry.fs, entry.target)));
        }
    }
    for (link, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let _ = symlink(format!("/proc/self/fd{to}"), Path::new("/dev").join(link));
    }
    fs::create_dir_all("/run/rescue")?;
    result
}

fn mount_one(entry: &Entry) -> io::Result<()> {
    if !Path::new(entry.target).exists() {
        fs::create_dir_all(entry.target)?;
    }
    match mount(OsStr::new(entry.fs), Path::new(entry.target), entry.fs, entry.flags, entry.options) {
        // A kernel may have mounted devtmpfs by itself.
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => Ok(()),
        result => result,
    }
}

/// Makes sure that the kernel finds us as `modprobe` when it wants a module by name.
///
/// # Errors
/// When `/run` or `/proc` cannot be written.
pub fn provide_modprobe() -> io::Result<()> {
    let mut path = PathBuf::from("/sbin/modprobe");
    if !path.exists() {
        path = PathBuf::from("/run/rescue/bin/modprobe");
        fs::create_dir_all("/run/rescue/bin")?;
        match symlink(fs::read_link("/proc/self/exe")?, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::write("/proc/sys/kernel/modprobe", format!("{}\n", path.display()))
}

/// File systems on devices, the last mounted first: what must be unmounted before the machine ends.
fn on_devices(all: &[Mounted]) -> impl Iterator<Item = &Mounted> {
    all.iter().rev().filter(|mounted| mounted.is_on_device())
}

/// Unmounts every file system on a device; one that cannot be is made read-only, which is as good for its content.
pub fn unmount_all() {
    let all = mounts().unwrap_or_default();
    for mounted in on_devices(&all) {
        let target = mounted.target.display();
        match unmount(&mounted.target).or_else(|_| remount_read_only(&mounted.target)) {
            Ok(()) => log::line(Level::Info, format!("unmounted {target}")),
            Err(error) => log::error(&format!("unmounting {target}"), &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount::parse_mountinfo;

    #[test]
    fn devices_are_unmounted_last_first_and_nothing_else_is() {
        let text = b"20 1 0:1 / /proc rw - proc proc rw\n30 1 8:1 / /run/rescue/stores/sda1 rw - ext4 /dev/sda1 rw\n\
            31 30 8:2 / /run/rescue/stores/sda1/sub rw - vfat /dev/sda2 rw\n32 1 0:2 / /run rw - tmpfs tmpfs rw\n";
        let all = parse_mountinfo(text);
        let targets: Vec<_> = on_devices(&all).map(|m| m.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/run/rescue/stores/sda1/sub", "/run/rescue/stores/sda1"]);
    }

    #[test]
    fn what_lies_in_another_is_mounted_after_it() {
        for (at, entry) in TABLE.iter().enumerate() {
            let inside =
                TABLE[at..].iter().skip(1).find(|later| entry.target.starts_with(&format!("{}/", later.target)));
            assert!(inside.is_none(), "{}", entry.target);
        }
    }
}

//! File systems on attached disks that may hold stores: finding them with our own readers, mounting them with the
//! kernel's drivers.
//!
//! Only what somebody chose as a store is ever mounted, below [`MOUNT_ROOT`]; a source or target never is.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use crate::{
    block::{
        ReadAt, VolumeLook,
        discovery::{self, Volume},
    },
    escape::Escaped,
    fs::{State, detect},
    sys::mount::{Mounted, MsFlags, mount, mounts, unmount},
};

/// Where stores are mounted, one folder each.
pub const MOUNT_ROOT: &str = "/run/rescue/stores";

/// What `fs` calls a file system, what the kernel's driver is called, and its options.
///
/// FAT: names of files in a store are plain ASCII, and `flush` writes early what would be lost by pulling the stick.
const DRIVERS: [(&str, &str, &str); 8] = [
    ("ext2", "ext4", ""),
    ("ext3", "ext4", ""),
    ("ext4", "ext4", ""),
    ("xfs", "xfs", ""),
    ("btrfs", "btrfs", ""),
    ("vfat", "vfat", "utf8=1,flush"),
    ("exfat", "exfat", ""),
    ("ntfs", "ntfs3", ""),
];

/// Why a file system could not be mounted or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was mounted, and must not be.
    #[error("{0}")]
    Refused(String),
    /// The kernel did not mount it.
    #[error("mounting {} ({fs}) failed", device.display())]
    Mount {
        /// The device node.
        device: PathBuf,
        /// The kernel's driver.
        fs: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is still in use.
    #[error("unmounting {} failed", path.display())]
    Unmount {
        /// Where it is mounted.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A file system that the kernel can mount. Strings are raw: escape before showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundStore {
    /// Its device node, `/dev/sdb1`.
    pub device: PathBuf,
    /// The kernel's name of the disk it is on, `sdb`.
    pub disk: String,
    /// Volume label.
    pub label: Option<String>,
    /// Volume UUID or serial, as `blkid` shows it.
    pub uuid: Option<String>,
    /// The file system, `ext4`.
    pub fs: String,
    /// Bytes of the partition.
    pub len: u64,
    /// Where it is mounted now.
    pub mounted_at: Option<PathBuf>,
}

/// A store's file system, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedStore {
    /// Where.
    pub path: PathBuf,
    /// Whether nothing can be written to it.
    pub read_only: bool,
}

/// What a store's file system is mounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A capture: without writing it makes no sense.
    Write,
    /// A restore: the undo file wants writing, but what is there can be read.
    PreferWrite,
    /// A verify: nothing is written to the store.
    Read,
}

/// Lists the file systems on partitions, and on disks without partitions, that the kernel can mount, in the order of
/// their names. What cannot be read is left out.
#[must_use]
pub fn find_stores() -> Vec<FoundStore> {
    let mounted = mounts().unwrap_or_default();
    discovery::volumes().into_iter().filter_map(|volume| look_at(volume, &mounted)).collect()
}

fn look_at(volume: Volume, mounted: &[Mounted]) -> Option<FoundStore> {
    let open = VolumeLook::open(&volume.path).ok()?;
    let found = detect(&open)?;
    driver(&found.name)?;
    // Btrfs shows a device number of its own, so its node counts as well.
    let at = mounted.iter().find(|m| m.device == open.number() || m.source == volume.path);
    Some(FoundStore {
        mounted_at: at.map(|m| m.target.clone()),
        device: volume.path,
        disk: volume.disk,
        label: found.label.filter(|label| !label.is_empty()),
        uuid: found.uuid,
        fs: found.name,
        len: open.len(),
    })
}

/// Returns how many bytes can still be written to the file system `path` is in; `None` where it does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let space = statvfs(path).ok()?;
    space.blocks_available().checked_mul(space.fragment_size())
}

fn driver(fs: &str) -> Option<(&'static str, &'static str)> {
    DRIVERS.iter().find(|(name, ..)| *name == fs).map(|(_, driver, options)| (*driver, *options))
}

/// Mounts `found` below [`MOUNT_ROOT`], or returns where it is mounted already. The kernel loads the driver.
///
/// # Errors
/// [`Error::Refused`] for a hibernated file system, and when it can only be read and must be written;
/// [`Error::Mount`].
pub fn mount_store(found: &FoundStore, access: Access) -> Result<MountedStore, Error> {
    let shown = found.device.display();
    let Some((fs, options)) = driver(&found.fs) else {
        return Err(Error::Refused(format!("{shown}: {} cannot be mounted here", Escaped(&found.fs))));
    };
    if let Some(path) = &found.mounted_at {
        let list = mounts().unwrap_or_default();
        let read_only = list.iter().any(|m| m.target == *path && m.read_only);
        if read_only && access == Access::Write {
            return Err(Error::Refused(format!("{shown} is mounted read-only at {}", path.display())));
        }
        return Ok(MountedStore { path: path.clone(), read_only });
    }
    refuse_hibernated(found)?;
    let path = Path::new(MOUNT_ROOT).join(folder_name(found));
    fs::create_dir_all(&path).map_err(|source| Error::Mount { device: found.device.clone(), fs, source })?;
    let common = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let try_mount = |flags| mount(found.device.as_os_str(), &path, fs, common | flags, options);
    let result = match access {
        Access::Read => try_mount(MsFlags::MS_RDONLY).map(|()| true),
        Access::Write => try_mount(MsFlags::empty()).map(|()| false),
        Access::PreferWrite => {
            try_mount(MsFlags::empty()).map(|()| false).or_else(|_| try_mount(MsFlags::MS_RDONLY).map(|()| true))
        }
    };
    match result {
        Ok(asked_read_only) => {
            // Some drivers turn a volume with errors read-only without a word.
            let list = mounts().unwrap_or_default();
            let read_only = asked_read_only || list.iter().any(|m| m.target == path && m.read_only);
            if read_only && access == Access::Write {
                let _ = unmount(&path);
                return Err(Error::Refused(format!("{shown} can be mounted read-only and not otherwise")));
            }
            Ok(MountedStore { path, read_only })
        }
        Err(source) => {
            let _ = fs::remove_dir(&path);
            Err(Error::Mount { device: found.device.clone(), fs, source })
        }
    }
}

fn refuse_hibernated(found: &FoundStore) -> Result<(), Error> {
    let Ok(open) = VolumeLook::open(&found.device) else { return Ok(()) };
    match detect(&open) {
        Some(detected) if detected.state == State::Hibernated => Err(Error::Refused(format!(
            "{}: a hibernated system is in this file system; writing to it would destroy both",
            found.device.display()
        ))),
        _ => Ok(()),
    }
}

/// The folder a store is mounted on: the node's name, which is unique while it is there.
fn folder_name(found: &FoundStore) -> String {
    found.device.strip_prefix("/dev").unwrap_or(&found.device).to_string_lossy().replace('/', "!")
}

/// Unmounts a store that [`mount_store`] mounted, which brings all it holds to the medium. What was mounted by others
/// stays.
///
/// # Errors
/// [`Error::Unmount`] when something in it is open.
pub fn unmount_store(path: &Path) -> Result<(), Error> {
    if !path.starts_with(MOUNT_ROOT) {
        return Ok(());
    }
    unmount(path).map_err(|source| Error::Unmount { path: path.to_owned(), source })?;
    let _ = fs::remove_dir(path);
    Ok(())
}

/// How a person names a store's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// By volume label.
    Label(&'a str),
    /// By UUID, in any case.
    Uuid(&'a str),
}

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(label) => write!(f, "labelled {}", Escaped(label)),
            Self::Uuid(uuid) => write!(f, "with the UUID {}", Escaped(uuid)),
        }
    }
}

/// Finds those of `stores` that `name` means.
#[must_use]
pub fn matching<'a>(stores: &'a [FoundStore], name: Name<'_>) -> Vec<&'a FoundStore> {
    let means = |found: &&FoundStore| match name {
        Name::Label(label) => found.label.as_deref() == Some(label),
        Name::Uuid(uuid) => found.uuid.as_deref().is_some_and(|have| have.eq_ignore_ascii_case(uuid)),
    };
    stores.iter().filter(means).collect()
}

/// Picks the one of `stores` that `name` means, and that is not on one of `forbidden` disks.
///
/// # Errors
/// [`Error::Refused`] when none or several match, or the one is on a forbidden disk.
pub fn pick<'a>(stores: &'a [FoundStore], name: Name<'_>, forbidden: &[&str]) -> Result<&'a FoundStore, Error> {
    match matching(stores, name).as_slice() {
        [] => Err(Error::Refused(format!("no file system {name} was found"))),
        [one] if forbidden.contains(&one.disk.as_str()) => Err(Error::Refused(format!(
            "the file system {name} is {}, which is on the very disk the job is about",
            one.device.display()
        ))),
        [one] => Ok(one),
        several => {
            let list: Vec<_> = several.iter().map(|found| found.device.display().to_string()).collect();
            Err(Error::Refused(format!("{} file systems are {name}: {}", list.len(), list.join(", "))))
        }
    }
}

/// Tells which mounted store `path` lies in, if it is one of ours.
#[must_use]
pub fn mount_of(path: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(MOUNT_ROOT).ok()?;
    let first: &OsStr = rest.components().next()?.as_os_str();
    Some(Path::new(MOUNT_ROOT).join(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(device: &str, disk: &str, label: &str, uuid: &str) -> FoundStore {
        FoundStore {
            device: device.into(),
            disk: disk.to_owned(),
            label: (!label.is_empty()).then(|| label.to_owned()),
            uuid: Some(uuid.to_owned()),
            fs: "ext4".to_owned(),
            len: 1 << 30,
            mounted_at: None,
        }
    }

    #[test]
    fn exactly_one_file_system_or_a_refusal() {
        let stores = [
            found("/dev/sda1", "sda", "SYSTEM", "1111-AAAA"),
            found("/dev/sdb1", "sdb", "BACKUP", "2222-BBBB"),
            found("/dev/sdc1", "sdc", "TWICE", "3333-CCCC"),
            found("/dev/sdd", "sdd", "TWICE", "4444-DDDD"),
            found("/dev/sde1", "sde", "", "1111-AAAA"),
        ];
        for (name, forbidden, want) in [
            (Name::Label("BACKUP"), vec!["sda"], Ok("/dev/sdb1")),
            (Name::Uuid("2222-bbbb"), vec![], Ok("/dev/sdb1")),
            (Name::Label("backup"), vec![], Err("no file system labelled backup was found")),
            (Name::Label(""), vec![], Err("no file system labelled  was found")),
            (Name::Label("TWICE"), vec![], Err("2 file systems are labelled TWICE: /dev/sdc1, /dev/sdd")),
            (
                Name::Uuid("1111-AAAA"),
                vec!["sda"],
                Err("2 file systems are with the UUID 1111-AAAA: /dev/sda1, /dev/sde1"),
            ),
            (
                Name::Label("BACKUP"),
                vec!["sdb"],
                Err("the file system labelled BACKUP is /dev/sdb1, which is on the very disk the job is about"),
            ),
        ] {
            let got = pick(&stores, name, &forbidden).map(|f| f.device.to_str().unwrap()).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn free_bytes_are_those_of_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).is_some_and(|free| free > 0));
        assert_eq!(free_bytes(&dir.path().join("nowhere")), None);
    }

    #[test]
    fn only_our_own_mounts_are_unmounted() {
        assert_eq!(mount_of(Path::new("/run/rescue/stores/sdb1/a/b")), Some("/run/rescue/stores/sdb1".into()));
        assert_eq!(mount_of(Path::new("/mnt/x")), None);
        assert!(unmount_store(Path::new("/mnt/x")).is_ok());
    }

    #[test]
    fn every_kind_of_store_has_a_driver() {
        for fs in ["ext4", "xfs", "btrfs", "vfat", "exfat", "ntfs"] {
            assert!(driver(fs).is_some(), "{fs}");
        }
        assert_eq!(driver("swap"), None);
    }
}

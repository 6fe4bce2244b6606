//! Mounting, unmounting and the list of what is mounted.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

pub use nix::mount::MsFlags;
use nix::mount::{MntFlags, mount as sys_mount, umount2};

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number of this mount.
    pub id: u64,
    /// Major and minor number of the device; major 0 where there is none.
    pub device: (u64, u64),
    /// Where it is mounted.
    pub target: PathBuf,
    /// The file system's name, `ext4`.
    pub fs: String,
    /// What was mounted: a device node, or a word.
    pub source: OsString,
    /// Whether nothing can be written through this mount.
    pub read_only: bool,
    /// Whether the file system may write to its device, be it through this mount or another.
    pub writes: bool,
}

impl Mounted {
    /// Tells whether the file system is on a device node: not in memory, and not on another machine.
    #[must_use]
    pub fn is_on_device(&self) -> bool {
        Path::new(&self.source).starts_with("/dev/")
    }
}

/// Finds the file system of `all`, in the order they were mounted, that holds `path`, which is free of links.
#[must_use]
pub fn holding<'a>(all: &'a [Mounted], path: &Path) -> Option<&'a Mounted> {
    let around = all.iter().filter(|mounted| path.starts_with(&mounted.target));
    // Of two on one folder the later one is seen, and `max_by_key` returns the later one.
    around.max_by_key(|mounted| mounted.target.components().count())
}

/// Mounts `source` on `target`.
///
/// # Errors
/// What the kernel said; `ENODEV` when it does not know the file system.
pub fn mount(source: &OsStr, target: &Path, fs: &str, flags: MsFlags, options: &str) -> io::Result<()> {
    let options = (!options.is_empty()).then_some(options);
    Ok(sys_mount(Some(source), target, Some(fs), flags, options)?)
}

/// Unmounts `target`; a mount that is in use stays.
///
/// # Errors
/// What the kernel said; `EBUSY` when something is open in it.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(umount2(target, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Makes the file system at `target` read-only, which brings all it holds to the medium.
///
/// # Errors
/// What the kernel said; `EBUSY` when something is open for writing in it.
pub fn remount_read_only(target: &Path) -> io::Result<()> {
    Ok(sys_mount(None::<&str>, target, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)?)
}

/// Lists what is mounted, in the order it was mounted.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn mounts() -> io::Result<Vec<Mounted>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

/// Parses `mountinfo`: `36 35 98:0 /root /target opts [tags…] - fs source superopts`. Lines that make no sense are
/// left out.
///
/// Source: Linux kernel, filesystems/proc.rst, section 3.5.
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<Mounted> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut words = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(words.nth(1)?).ok()?.split_once(':')?;
    let target = unescape(words.nth(1)?);
    let options = words.next()?;
    words.find(|word| *word == b"-")?;
    let fs = String::from_utf8_lossy(&unescape(words.next()?)).into_owned();
    let source = OsString::from_vec(unescape(words.next()?));
    let super_options = words.next().unwrap_or_default();
    let read_only = |options: &[u8]| options.split(|b| *b == b',').any(|option| option == b"ro");
    Some(Mounted {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        target: PathBuf::from(OsStr::from_bytes(&target)),
        fs,
        source,
        read_only: read_only(options) || read_only(super_options),
        // A read-only mount of a writable file system does not keep that file system from writing.
        writes: !read_only(super_options),
    })
}

/// Undoes the kernel's `\040` for spaces, tabs, newlines and backslashes.
#[must_use]
pub fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_tags_and_escapes() {
        let text = b"22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
            40 22 8:17 /sub /run/My\\040Disk\\134x ro,noatime - ext4 /dev/sdb1 rw,errors=remount-ro\n\
            41 22 8:18 / /m rw shared:1 master:2 - vfat /dev/sdb2 ro\nnonsense\n\n1 2 x:y / /z rw - a b c\n";
        let got = parse_mountinfo(text);
        assert_eq!(got.len(), 3);
        assert_eq!(got[0].fs, "proc");
        assert!(!got[0].read_only);
        assert_eq!((got[1].device, got[1].target.as_path()), ((8, 17), Path::new("/run/My Disk\\x")));
        assert_eq!((got[0].id, got[1].id, got[2].id), (22, 40, 41));
        assert!(got[1].read_only && got[2].read_only, "by the mount, by the superblock");
        assert_eq!((got[1].writes, got[2].writes), (true, false), "the superblock alone keeps it from writing");
        assert_eq!(got[2].source, "/dev/sdb2");
    }

    #[test]
    fn a_path_is_held_by_the_deepest_mount_and_of_two_by_the_later() {
        let text = b"1 1 0:2 / / rw - rootfs rootfs rw\n2 1 0:3 / /run rw - tmpfs tmpfs rw\n\
            3 2 8:1 / /run/disk rw - ext4 /dev/sda1 rw\n4 1 8:2 / /twice rw - ext4 /dev/sda2 rw\n\
            5 4 0:4 / /twice rw - tmpfs tmpfs rw\n6 1 0:5 / /pool rw - btrfs /dev/sdb rw\n";
        let all = parse_mountinfo(text);
        for (path, fs, on_device) in [
            ("/store", "rootfs", false),
            ("/run/store", "tmpfs", false),
            ("/run/disk", "ext4", true),
            ("/run/disk/a/b", "ext4", true),
            ("/run/disks", "tmpfs", false),
            ("/twice/a", "tmpfs", false),
            ("/pool/a", "btrfs", true),
        ] {
            let held = holding(&all, Path::new(path)).unwrap();
            assert_eq!((held.fs.as_str(), held.is_on_device()), (fs, on_device), "{path}");
        }
        assert_eq!(holding(&all, Path::new("relative")), None);
    }

    #[test]
    fn octal_escapes_are_undone_and_others_kept() {
        for (word, want) in [
            ("a\\040b\\134", "a b\\"),
            ("\\04", "\\04"),
            ("\\999", "\\999"),
            ("\\+12", "\\+12"),
            ("\\", "\\"),
            ("\\303\\274", "ü"),
        ] {
            assert_eq!(unescape(word.as_bytes()), want.as_bytes(), "{word}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out() {
        for line in
            ["36 35 8:1 / /mnt rw ext4 /dev/sda1 rw", "36 35 8 / /mnt rw - ext4 /dev/sda1 rw", "x 35 8:1 / / rw - a b"]
        {
            assert_eq!(parse_mountinfo(line.as_bytes()), [], "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_mountinfo_makes_it_panic(text in "[0-9: /\\\\a-z\n-]{0,120}") {
            let _ = parse_mountinfo(text.as_bytes());
        }
    }
}

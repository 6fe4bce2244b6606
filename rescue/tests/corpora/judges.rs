//! Programs nobody here wrote, which say whether a file system is sound and what files it has.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::files;

/// A checker, or a reader of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    Apfsck,
    Blkid,
    BtrfsCheck,
    BtrfsRestore,
    Debugfs,
    E2fsck,
    FsckExfat,
    FsckF2fs,
    FsckFat,
    FsckHfs,
    Mcopy,
    TskRecover,
    XfsRepair,
}

/// The name the image has for every judge, in a folder of its own: so what they say of it is the same wherever it is.
const IMAGE: &str = "image";
/// The name of the folder that files are taken out to, beside the image.
const OUT: &str = "out";
/// Some damaged images keep their checker busy for minutes.
const SECONDS: &str = "20";
/// A file of a damaged image may claim any size; in units of 512 bytes.
const MOST: &str = "524288";

/// What a judge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its exit code; `None` where it was killed, or took too long.
    pub code: Option<i32>,
    pub output: String,
    /// The files it took out, by path: their hashes.
    pub files: BTreeMap<String, String>,
}

impl Verdict {
    /// Tells whether there is a verdict that can be compared with another.
    pub fn is_reached(&self) -> bool {
        self.code.is_some()
    }
}

impl Judge {
    fn command(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Apfsck => ("apfsck", "apfsprogs", &["-c", "-u", IMAGE]),
            Self::Blkid => ("blkid", "util-linux", &["-p", "-o", "value", "-s", "TYPE", IMAGE]),
            Self::BtrfsCheck => ("btrfs", "btrfs-progs", &["check", "--readonly", "--check-data-csum", IMAGE]),
            Self::BtrfsRestore => ("btrfs", "btrfs-progs", &["restore", "-i", "-S", IMAGE, OUT]),
            Self::Debugfs => ("debugfs", "e2fsprogs", &["-R", "rdump / out", IMAGE]),
            Self::E2fsck => ("e2fsck", "e2fsprogs", &["-fn", IMAGE]),
            Self::FsckExfat => ("fsck.exfat", "exfatprogs", &["-n", IMAGE]),
            Self::FsckF2fs => ("fsck.f2fs", "f2fs-tools", &["--dry-run", IMAGE]),
            Self::FsckFat => ("fsck.fat", "dosfstools", &["-n", IMAGE]),
            Self::FsckHfs => ("fsck.hfsplus", "hfsprogs", &["-n", "-f", IMAGE]),
            Self::Mcopy => ("mcopy", "mtools", &["-s", "-n", "-i", IMAGE, "::/", OUT]),
            Self::TskRecover => ("tsk_recover", "sleuthkit", &["-a", IMAGE, OUT]),
            Self::XfsRepair => ("xfs_repair", "xfsprogs", &["-n", "-f", IMAGE]),
        }
    }

    /// Asks for a verdict on the volume at `path`, which is only read.
    pub fn ask(self, path: &Path) -> Verdict {
        let (program, package, args) = self.command();
        let dir = TempDir::new().unwrap();
        std::os::unix::fs::symlink(path, dir.path().join(IMAGE)).unwrap();
        fs::create_dir(dir.path().join(OUT)).unwrap();
        let limits = format!("ulimit -f {MOST}; exec timeout -s KILL {SECONDS} \"$@\"");
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut child = Command::new("sh")
            // One pipe for both, so that their order tells nothing.
            .args(["-c", &format!("{limits} 2>&1"), "-", program])
            .args(args)
            .current_dir(dir.path())
            .envs([("LC_ALL", "C"), ("TZ", "UTC"), ("MTOOLS_SKIP_CHECK", "1"), ("PATH", &path)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(status.code() != Some(127), "{program} is needed: install the package {package}");
        // 137 is what `timeout` ends with after it killed.
        let code = status.code().filter(|code| *code != 137);
        Verdict {
            code,
            output: self.tidy(&String::from_utf8_lossy(&said)),
            files: files::hashes(&dir.path().join(OUT)),
        }
    }

    /// Returns the lines of a judge's output that must be the same again.
    fn tidy(self, text: &str) -> String {
        // A checker that crashes prints where it was in memory, which is never the same.
        let trace = |line: &str| line.contains("(+0x") || line.contains(")[0x");
        let mut lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !trace(line)).collect();
        if self == Self::XfsRepair {
            // Its threads speak in any order.
            lines.sort_unstable();
        }
        lines.join("\n")
    }
}

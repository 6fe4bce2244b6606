//! Running the real tools, and the noise copy.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{FileExt, MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
};

use rescue::{
    block::{Error, MemoryDisk, ReadAt},
    extent::Extent,
    fs::{Options, Survey, survey},
    units::SectorSize,
};
use tempfile::TempDir;

/// Finds a tool; administrators' folders are not in everybody's path.
pub fn tool(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let package = match name {
        "mke2fs" | "debugfs" | "dumpe2fs" | "e2fsck" | "tune2fs" => "e2fsprogs",
        "mkfs.fat" | "fsck.fat" => "dosfstools",
        "mcopy" | "mdel" | "mmd" => "mtools",
        "mkfs.xfs" | "xfs_db" | "xfs_repair" | "xfs_io" => "xfsprogs",
        "grub-fstest" => "grub-common",
        "mount" | "umount" | "losetup" => "mount",
        "mkfs.btrfs" | "btrfs" | "btrfstune" => "btrfs-progs",
        "mkfs.ntfs" | "mkntfs" | "ntfs-3g" | "ntfscp" | "ntfsls" | "ntfscat" => "ntfs-3g",
        "ntfsclone" | "ntfsfix" | "ntfsresize" | "ntfsinfo" => "ntfs-3g",
        "mkfs.exfat" | "fsck.exfat" | "dump.exfat" => "exfatprogs",
        "tsk_recover" | "fls" | "icat" => "sleuthkit",
        "cp" => "coreutils",
        "blkid" | "mkswap" | "mkfs.minix" | "mkfs.bfs" => "util-linux",
        "mkudffs" => "udftools",
        "sfdisk" => "fdisk",
        "mdadm" => "mdadm",
        "cryptsetup" => "cryptsetup-bin",
        "mkfs.f2fs" | "sload.f2fs" | "fsck.f2fs" | "dump.f2fs" | "resize.f2fs" => "f2fs-tools",
        "mkapfs" | "apfsck" => "apfsprogs",
        "fsapfsinfo" => "libfsapfs-utils",
        "mkfs.hfsplus" | "fsck.hfsplus" => "hfsprogs",
        other => panic!("no package is known for {other}"),
    };
    let found = places.map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is needed: install the package {package}"))
}

/// Says that something is not tested here, past the capture of what passing tests print.
pub fn not_run(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT RUN: {what}");
}

/// Tells whether this process may mount file systems of `kind`; where not, `test` is said not to run.
pub fn may_mount(kind: &str, test: &str) -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0);
    let known = fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.split_whitespace().any(|at| at == kind));
    if !root || !known {
        not_run(&format!("{test} needs root and a kernel with {kind}"));
    }
    root && known
}

/// Runs a tool, whatever its exit status.
pub fn run_any(name: &str, args: &[&str]) -> Output {
    Command::new(tool(name)).args(args).env("LC_ALL", "C").env("MTOOLS_SKIP_CHECK", "1").output().unwrap()
}

/// Runs a tool that must succeed, and returns what it said.
pub fn run(name: &str, args: &[&str]) -> String {
    let output = run_any(name, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {}\n{text}{errors}", output.status);
    text
}

/// A folder with images, gone with its owner.
pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes a file of `len` zero bytes and returns its path.
    pub fn blank(&self, name: &str, len: u64) -> String {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(len).unwrap();
        path
    }

    /// Makes a folder full of files that a file system finds interesting, and returns its path.
    pub fn tree(&self, fancy: bool) -> String {
        let root = self.dir.path().join("tree");
        let mut bytes = Noise(7);
        for folder in ["etc", "usr/share/doc", "var/lib/deep/er/still"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            for number in 0..24u64 {
                let len = [0, 1, 59, 1000, 4096, 5000, 30_000, 70_001][usize::try_from(number % 8).unwrap()];
                fs::write(root.join(folder).join(format!("file{number}.dat")), bytes.take(len)).unwrap();
            }
        }
        fs::write(root.join("large"), bytes.take(1_800_000)).unwrap();
        if fancy {
            symlink("etc/file1.dat", root.join("short-link")).unwrap();
            symlink("x".repeat(200), root.join("long-link")).unwrap();
            fs::hard_link(root.join("large"), root.join("etc/large-too")).unwrap();
            let sparse = File::create(root.join("sparse")).unwrap();
            for index in 0..40u64 {
                sparse.write_all_at(&bytes.take(5000), index * 100_000).unwrap();
            }
        }
        root.to_str().unwrap().to_owned()
    }
}

/// A disk that counts the bytes read of it.
pub struct Counting<D> {
    pub disk: D,
    pub read: AtomicU64,
}

impl<D: ReadAt> Counting<D> {
    pub const fn new(disk: D) -> Self {
        Self { disk, read: AtomicU64::new(0) }
    }
}

impl<D: ReadAt> ReadAt for Counting<D> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.disk.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        self.disk.next_data(offset)
    }
}

/// Bytes that look like data and are the same every time.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Surveys bytes as one region.
pub fn survey_bytes(bytes: &[u8]) -> Survey {
    let survey = survey(&MemoryDisk::new(bytes.to_vec(), SectorSize::B512), &Options::default());
    let region = Extent::new(0, bytes.len() as u64);
    assert!(survey.allocated.iter().all(|extent| region.covers(extent)), "the map leaves the region");
    survey
}

/// Returns `bytes` with everything that is not in the map of `survey` overwritten.
pub fn with_noise(bytes: &[u8], survey: &Survey) -> Vec<u8> {
    let mut copy = vec![0xa5; bytes.len()];
    for extent in survey.allocated.iter() {
        let range = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap();
        copy[range.clone()].copy_from_slice(&bytes[range]);
    }
    copy
}

/// Hashes every file below `root`; links by their target.
pub fn hashes(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let content = if kind.is_dir() {
                todo.push(path.clone());
                "folder".to_owned()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().to_str().unwrap().to_owned()
            } else {
                blake3::hash(&fs::read(&path).unwrap()).to_string()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    found
}

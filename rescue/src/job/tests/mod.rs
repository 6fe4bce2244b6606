//! Whole jobs on small real disks: a table, an ext4 and a FAT with files in them, noise everywhere else.

mod delta;
mod export;
mod faults;
mod free;
mod odd;
mod round_trip;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    Cancel, CaptureJob, ImageRef, Report, RestoreJob, capture::CapturePlan, monitor::Silent, restore::RestorePlan,
};
use crate::{
    block::{Disk, DiskRef, TargetDisk, file::FileDisk},
    extent::{Extent, ExtentSet},
    store::{Manifest, Store},
    units::{KIB, MIB, SectorSize},
};

/// Bytes of the test disk.
const DISK: u64 = 24 * MIB;
/// Where its partitions lie.
const EXT4: Extent = Extent { start: MIB, end: 13 * MIB };
const FAT: Extent = Extent { start: 14 * MIB, end: 20 * MIB };

/// A folder with a source disk, a store and targets in it.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: TempDir::new().unwrap() };
        let mut disk = noise(1, DISK);
        disk[..512].copy_from_slice(&mbr(&[(0x83, EXT4), (0x0c, FAT)]));
        bench.files();
        let ext4 = bench.path("ext4");
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-L", "root", "-d", &bench.text("files"), &ext4.display().to_string(), "12M"],
        );
        place(&mut disk, EXT4, &fs::read(ext4).unwrap());
        let fat = bench.text("fat");
        run("mkfs.fat", &["-C", "-n", "DATA", &fat, &(FAT.len() / KIB).to_string()]);
        run("mcopy", &["-s", "-i", &fat, &bench.text("files/a"), &bench.text("files/b"), "::"]);
        place(&mut disk, FAT, &fs::read(&fat).unwrap());
        fs::write(bench.path("source"), disk).unwrap();
        bench
    }

    /// Files of noise, of zeros, and of text, as many as fit well.
    fn files(&self) {
        let files = self.path("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("a"), noise(2, 3 * MIB)).unwrap();
        fs::write(files.join("b"), "all work and no play ".repeat(20_000)).unwrap();
        fs::write(files.join("zero"), vec![0; 700_000]).unwrap();
        for n in 0..40 {
            fs::write(files.join(format!("small{n}")), noise(n, 900 * n)).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn capture_job(&self) -> CaptureJob {
        CaptureJob {
            disk: DiskRef::Path(self.text("source")),
            store: self.path("store"),
            level: 1,
            note: None,
            sector_size: None,
            keep_swap_files: false,
        }
    }

    fn source(&self) -> FileDisk {
        FileDisk::open_source(&self.path("source"), Some(SectorSize::B512)).unwrap()
    }

    /// Captures the source, seen through `disk`.
    fn capture(&self, disk: impl Disk + 'static) -> Report {
        let plan = CapturePlan::of_disk(&self.capture_job(), Box::new(disk), &Cancel::new()).unwrap();
        plan.run(&Silent, &Cancel::new())
    }

    /// Makes a target full of noise.
    fn target(&self, len: u64) -> FileDisk {
        fs::write(self.path("target"), noise(77, len)).unwrap();
        self.target_as_is()
    }

    fn target_as_is(&self) -> FileDisk {
        FileDisk::open_target(&self.path("target"), Some(SectorSize::B512)).unwrap()
    }

    fn restore_job(&self) -> RestoreJob {
        RestoreJob {
            store: self.path("store"),
            image: ImageRef::Latest,
            disk: DiskRef::Path(self.text("target")),
            sector_size: None,
            accept_partial: false,
            free: None,
        }
    }

    /// Restores the newest image onto `target`.
    fn restore(&self, target: impl TargetDisk + 'static) -> Report {
        self.plan(&self.restore_job(), target).run(&Silent, &Cancel::new())
    }

    /// Plans the restore of the newest image onto `target`.
    fn plan(&self, job: &RestoreJob, target: impl TargetDisk + 'static) -> RestorePlan {
        let store = Store::open(&self.path("store")).unwrap();
        let manifest = store.load("latest").unwrap();
        RestorePlan::onto(job, store, manifest, Box::new(target)).unwrap()
    }

    fn image(&self) -> Manifest {
        Store::open(&self.path("store")).unwrap().load("latest").unwrap()
    }

    fn image_count(&self) -> usize {
        Store::open(&self.path("store")).map_or(0, |store| store.images().unwrap().len())
    }

    /// Asserts that the target holds the image, and outside of it what it held before.
    fn assert_restored(&self, len: u64) {
        let (source, target) = (fs::read(self.path("source")).unwrap(), fs::read(self.path("target")).unwrap());
        let allocated = allocated(&self.image());
        for extent in allocated.iter() {
            assert!(bytes(&source, extent) == bytes(&target, extent), "{extent} differ");
        }
        let before = noise(77, len);
        let mut cleared = vec![Extent::new(0, MIB), Extent::new(len - MIB, len)];
        for region in self.image().regions {
            let range = region.region.range;
            cleared.extend([Extent::new(range.start, range.start + MIB), Extent::new(range.end - MIB, range.end)]);
        }
        let cleared = ExtentSet::from_unsorted(cleared);
        for extent in ExtentSet::full(len).subtract(&allocated).subtract(&cleared).iter() {
            assert!(bytes(&before, extent) == bytes(&target, extent), "{extent} were not to be touched");
        }
    }
}

/// Returns the allocated bytes of an image, from the start of the disk.
fn allocated(image: &Manifest) -> ExtentSet {
    let regions = image.regions.iter().flat_map(|region| {
        let start = region.region.range.start;
        region.allocated.iter().map(move |extent| Extent::new(start + extent.start, start + extent.end))
    });
    regions.collect()
}

fn bytes(disk: &[u8], extent: Extent) -> &[u8] {
    &disk[usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap()]
}

fn place(disk: &mut [u8], extent: Extent, bytes: &[u8]) {
    assert_eq!(bytes.len() as u64, extent.len());
    disk[usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap()].copy_from_slice(bytes);
}

/// Returns `len` bytes that no file system would write: xorshift64 from `seed`.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(usize::try_from(len).unwrap() + 8);
    while (out.len() as u64) < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(usize::try_from(len).unwrap());
    out
}

/// Returns an MBR with primary partitions.
fn mbr(partitions: &[(u8, Extent)]) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..440].copy_from_slice(&noise(9, 440));
    for (slot, (kind, extent)) in partitions.iter().enumerate() {
        let entry = &mut sector[446 + 16 * slot..462 + 16 * slot];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&u32::try_from(extent.start / 512).unwrap().to_le_bytes());
        entry[12..16].copy_from_slice(&u32::try_from(extent.len() / 512).unwrap().to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Runs a tool that must succeed.
fn run(tool: &str, args: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool).args(args).env("PATH", path).env("MTOOLS_SKIP_CHECK", "1").output();
    let output = output.unwrap_or_else(|e| panic!("{tool}: {e} (packages e2fsprogs, dosfstools, mtools)"));
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn checksum(path: &Path) -> blake3::Hash {
    blake3::hash(&fs::read(path).unwrap())
}

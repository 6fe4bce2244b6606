//! What the kernel wrote and what it reads back: churn, several devices, files synced and not committed.
//!
//! These mount loop devices, for which they need root and a kernel that has Btrfs; without, they say loudly that they
//! did not run. One at a time: the kernel takes file systems with the same UUID for one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rescue::{block::ReadAt, extent::Extent, fs::State};

use super::{
    edit_super,
    oracle::{FileRegion, MIB, check_image, dump, noise_copy, survey_file, verdict, with_fixed},
};
use crate::tools::{Bench, Noise, hashes, may_mount, run, run_any};

static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other test mounts; `None` where `test` may not.
fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
    may_mount("btrfs", test).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Images on loop devices; detached and forgotten when dropped.
struct Loops(Vec<String>);

impl Loops {
    fn attach(images: &[String]) -> Self {
        let mut loops = Self(Vec::new());
        for image in images {
            loops.0.push(run("losetup", &["--find", "--show", image]).trim().to_owned());
        }
        for device in &loops.0 {
            run("btrfs", &["device", "scan", device]);
        }
        loops
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            // A second file system with the same UUID must not meet this one. One that was mounted alone is forgotten already.
            let _ = run_any("btrfs", &["device", "scan", "--forget", device]);
            let _ = run_any("losetup", &["--detach", device]);
        }
    }
}

/// A mounted file system; unmounted when dropped.
struct Mount {
    dir: PathBuf,
    _loops: Loops,
}

impl Mount {
    fn new(bench: &Bench, images: &[String], options: &str) -> Self {
        let dir = bench.dir.path().join("mounted");
        fs::create_dir_all(&dir).unwrap();
        let loops = Loops::attach(images);
        run("mount", &["-t", "btrfs", "-o", options, loops.names()[0], dir.to_str().unwrap()]);
        Self { dir, _loops: loops }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn root(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn sync(&self) {
        run("btrfs", &["filesystem", "sync", self.root()]);
    }

    /// Reads every mirror of everything, and every file.
    fn read_all(&self) -> BTreeMap<PathBuf, String> {
        let output = run_any("btrfs", &["scrub", "start", "-B", "-R", "-r", self.root()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        // An old superblock is no old file.
        for line in text.lines().filter(|line| line.contains("_errors:") && !line.contains("super_errors:")) {
            assert!(line.trim_end().ends_with(": 0"), "{text}");
        }
        hashes(&self.dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever looks at new mounts, or is between fork and exec, holds this one for a moment.
        for _ in 0..50 {
            if run_any("umount", &[self.root()]).status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

fn mkfs(bench: &Bench, options: &str, count: usize, len: u64) -> Vec<String> {
    let images = (1..=count).map(|number| bench.blank(&format!("disk{number}"), len)).collect::<Vec<_>>();
    let mut args = vec!["-q", "-f"];
    args.extend(options.split_whitespace());
    args.extend(images.iter().map(String::as_str));
    run("mkfs.btrfs", &args);
    images
}

/// Writes, overwrites and removes files, with commits between, so that free space is in pieces.
fn churn(dir: &Path, mut sync: impl FnMut()) {
    let mut noise = Noise(11);
    fs::create_dir_all(dir).unwrap();
    for round in 0..4u64 {
        for number in 0..60u64 {
            let len = [100, 3000, 4096, 9000, 40_000, 150_000][usize::try_from((number + round) % 6).unwrap()];
            fs::write(dir.join(format!("file{number}")), noise.take(len)).unwrap();
        }
        sync();
        for number in (round..60).step_by(4) {
            fs::remove_file(dir.join(format!("file{number}"))).unwrap();
        }
        sync();
        let file = File::options().write(true).open(dir.join(format!("file{}", round + 5))).unwrap();
        file.write_all_at(&noise.take(5000), 2000).unwrap();
        fs::write(dir.join(format!("text{round}")), "the same line again\n".repeat(20_000)).unwrap();
    }
}

#[test]
fn what_the_kernel_wrote_is_kept_on_every_mirror() {
    let Some(_turn) = turn("what_the_kernel_wrote_is_kept_on_every_mirror") else { return };
    for (options, mount, len) in [
        ("-m dup -d single", "nodiscard", 256 * MIB),
        ("-m dup -d dup", "discard", 256 * MIB),
        ("-m single -d single -n 4096", "nodiscard,compress=zstd", 256 * MIB),
        ("--mixed -n 4096", "nodiscard,compress-force=lzo", 200 * MIB),
        ("-R ^free-space-tree", "nodiscard,space_cache=v1", 256 * MIB),
        ("-R ^free-space-tree -O ^no-holes,^skinny-metadata", "nodiscard,nospace_cache", 256 * MIB),
        ("--csum blake2", "nodiscard,autodefrag", 256 * MIB),
        ("--csum sha256 -n 65536", "nodiscard,nodatacow", 256 * MIB),
    ] {
        let bench = Bench::new();
        let images = mkfs(&bench, options, 1, len);
        let mounted = Mount::new(&bench, &images, mount);
        run("btrfs", &["subvolume", "create", &mounted.path("sub")]);
        churn(&mounted.dir.join("sub/deep"), || mounted.sync());
        run("btrfs", &["subvolume", "snapshot", &mounted.path("sub"), &mounted.path("snapshot")]);
        churn(&mounted.dir.join("sub/other"), || mounted.sync());
        run("cp", &["--reflink=auto", &mounted.path("sub/deep/text1"), &mounted.path("sub/reflink")]);
        run("btrfs", &["subvolume", "snapshot", &mounted.path("sub"), &mounted.path("gone")]);
        mounted.sync();
        run("btrfs", &["subvolume", "delete", "-c", &mounted.path("gone")]);
        if !options.contains("--mixed") {
            run("btrfs", &["balance", "start", "-dusage=90", mounted.root()]);
        }
        let want = hashes(&mounted.dir);
        assert!(want.len() > 150, "{} files", want.len());
        drop(mounted);
        let (code, said) = verdict(&images[0]);
        assert_eq!(code, Some(0), "{options}: {said}");
        let survey = check_image(&bench, options, &images[0]);
        assert!(survey.allocated.total() < len * 2 / 3, "{options}");
        let copy = bench.path("copy");
        noise_copy(&images[0], &copy, &survey);
        let again = Mount::new(&bench, &[copy], "nodiscard");
        assert_eq!(again.read_all(), want, "{options}");
    }
}

#[test]
fn a_nearly_full_file_system_keeps_every_file() {
    let Some(_turn) = turn("a_nearly_full_file_system_keeps_every_file") else { return };
    let bench = Bench::new();
    let images = mkfs(&bench, "-m dup -d single", 1, 200 * MIB);
    let mounted = Mount::new(&bench, &images, "nodiscard");
    let mut noise = Noise(3);
    let mut number = 0u64;
    while fs::write(mounted.dir.join(format!("file{number}")), noise.take(300_000)).is_ok() {
        number += 1;
    }
    assert!(number > 100);
    mounted.sync();
    drop(mounted);
    let want = Mount::new(&bench, &images, "ro").read_all();
    let survey = check_image(&bench, "nearly full", &images[0]);
    let copy = bench.path("copy");
    noise_copy(&images[0], &copy, &survey);
    assert_eq!(Mount::new(&bench, &[copy], "nodiscard").read_all(), want);
}

#[test]
fn members_are_captured_one_by_one_and_mounted_together() {
    let Some(_turn) = turn("members_are_captured_one_by_one_and_mounted_together") else { return };
    for (count, options) in [
        (2, "-m raid1 -d raid0"),
        (2, "-m raid1 -d raid1"),
        (2, "-m raid0 -d single"),
        (3, "-m raid1c3 -d raid5"),
        (3, "-m raid1 -d single"),
        (4, "-m raid10 -d raid10"),
        (4, "-m raid1c4 -d raid6"),
    ] {
        let bench = Bench::new();
        let images = mkfs(&bench, options, count, 300 * MIB);
        let mounted = Mount::new(&bench, &images, "nodiscard");
        churn(&mounted.dir.join("files"), || mounted.sync());
        let want = hashes(&mounted.dir);
        drop(mounted);
        let names = images.iter().map(String::as_str).collect::<Vec<_>>();
        let dump = dump(&names);
        let mut copies = Vec::new();
        for (devid, image) in (1..).zip(&images) {
            let survey = survey_file(image);
            let lost = with_fixed(&dump.on_device(devid), 300 * MIB).subtract(&survey.allocated);
            assert!(lost.is_empty(), "{options}, device {devid}: {lost:?}");
            let copy = bench.path(&format!("copy{devid}"));
            noise_copy(image, &copy, &survey);
            copies.push(copy);
        }
        let judge = |images: &[String]| {
            let loops = Loops::attach(images);
            let (code, said) = verdict(loops.names()[0]);
            (code, said.lines().filter(|line| !line.contains("/dev/loop")).collect::<Vec<_>>().join("\n"))
        };
        let before = judge(&images);
        // The checker does not compute parity well, and says the same of both.
        assert!(before.0 == Some(0) || options.contains("-d raid5") || options.contains("-d raid6"), "{}", before.1);
        assert_eq!(judge(&copies), before, "{options}");
        assert_eq!(Mount::new(&bench, &copies, "nodiscard").read_all(), want, "{options}");
    }
}

#[test]
fn a_member_whose_superblock_is_a_commit_behind_keeps_what_came_after() {
    let Some(_turn) = turn("a_member_whose_superblock_is_a_commit_behind_keeps_what_came_after") else { return };
    let bench = Bench::new();
    let images = mkfs(&bench, "-m raid1 -d single", 2, 300 * MIB);
    let mounted = Mount::new(&bench, &images, "nodiscard,commit=300");
    churn(&mounted.dir.join("files"), || mounted.sync());
    mounted.sync();
    // Power fails between the superblocks of one commit: the first device has the new one, the second the old one.
    let mut old = vec![0; 4096];
    FileRegion::open(&images[1]).read_exact_at(&mut old, 65536).unwrap();
    churn(&mounted.dir.join("more"), || {});
    let want = hashes(&mounted.dir);
    drop(mounted);
    let fields = [(72usize, 8usize), (80, 24), (112, 16), (164, 8), (198, 3), (217, 8), (2859, 672)];
    for offset in [65536, 64 * MIB] {
        let edits = fields.map(|(at, len)| (at, &old[at..at + len]));
        edit_super(&images[1], offset, &edits);
    }
    let mut copies = Vec::new();
    for (number, image) in (1..).zip(&images) {
        let copy = bench.path(&format!("copy{number}"));
        noise_copy(image, &copy, &survey_file(image));
        copies.push(copy);
    }
    assert_eq!(Mount::new(&bench, &copies, "nodiscard").read_all(), want);
}

#[test]
fn a_seed_and_what_grew_from_it_are_kept() {
    let Some(_turn) = turn("a_seed_and_what_grew_from_it_are_kept") else { return };
    let bench = Bench::new();
    let images = mkfs(&bench, "", 1, 256 * MIB);
    let mounted = Mount::new(&bench, &images, "nodiscard");
    churn(&mounted.dir.join("seed"), || mounted.sync());
    drop(mounted);
    run("btrfstune", &["-S", "1", &images[0]]);
    let seed = survey_file(&images[0]);
    assert_eq!((&seed.widened, seed.detected.as_ref().unwrap().state), (&vec![], State::Clean));
    assert_eq!(seed.notes, ["it is a seed for other file systems"]);

    let sprout = bench.blank("sprout", 300 * MIB);
    let mounted = Mount::new(&bench, &images, "nodiscard");
    let added = run("losetup", &["--find", "--show", &sprout]).trim().to_owned();
    run("btrfs", &["device", "add", "-f", &added, mounted.root()]);
    run("mount", &["-o", "remount,rw", mounted.root()]);
    churn(&mounted.dir.join("grown"), || mounted.sync());
    let want = hashes(&mounted.dir);
    drop(mounted);
    run("losetup", &["--detach", &added]);
    let mut copies = Vec::new();
    for (name, image) in [("copy2", &sprout), ("copy1", &images[0])] {
        let survey = survey_file(image);
        eprintln!("{name}: {} kept, {:?}", survey.allocated.total(), survey.widened);
        copies.push(bench.path(name));
        noise_copy(image, &copies[copies.len() - 1], &survey);
    }
    // A scrub takes the seed's UUID in its blocks for an error.
    assert_eq!(hashes(&Mount::new(&bench, &copies, "nodiscard").dir), want);
}

/// Writes one part of files to the last commit, another to the log, a third to nowhere.
fn leave_a_log(mounted: &Mount) {
    churn(&mounted.dir.join("committed"), || mounted.sync());
    mounted.sync();
    let mut noise = Noise(5);
    for number in 0..40u64 {
        let path = mounted.dir.join(format!("synced{number}"));
        let file = File::create(&path).unwrap();
        file.write_all_at(&noise.take(usize::try_from(number * 3000 + 10).unwrap()), 0).unwrap();
        file.sync_all().unwrap();
        fs::write(mounted.dir.join(format!("forgotten{number}")), noise.take(5000)).unwrap();
    }
    let file = File::options().write(true).open(mounted.dir.join("committed/file5")).unwrap();
    file.write_all_at(&noise.take(20_000), 100_000).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn files_synced_and_not_committed_are_replayed_from_the_copy() {
    let Some(_turn) = turn("files_synced_and_not_committed_are_replayed_from_the_copy") else { return };
    for (options, mount) in [
        ("-m dup -d single", "nodiscard,commit=300"),
        ("-m single -d single -n 4096", "nodiscard,commit=300,compress=zstd"),
        ("--mixed -m dup -d dup -n 4096", "nodiscard,commit=300"),
        ("--csum xxhash", "discard,commit=300"),
    ] {
        let bench = Bench::new();
        let images = mkfs(&bench, options, 1, 256 * MIB);
        let mounted = Mount::new(&bench, &images, mount);
        leave_a_log(&mounted);
        let image = bench.path("cut");
        fs::copy(&images[0], &image).unwrap();
        drop(mounted);

        let survey = survey_file(&image);
        assert_eq!(survey.detected.as_ref().unwrap().state, State::Dirty, "{options}: {:?}", survey.notes);
        assert!(survey.notes[0].contains("log tree"), "{options}: {:?}", survey.notes);
        assert!(survey.widened[0].contains("that the log tree uses are kept"), "{options}: {:?}", survey.widened);
        assert!(survey.allocated.total() < 100 * MIB, "{options}: {}", survey.allocated.total());
        let copy = bench.path("copy");
        noise_copy(&image, &copy, &survey);
        assert_eq!(verdict(&copy), verdict(&image), "{options}");
        let want = Mount::new(&bench, std::slice::from_ref(&image), "nodiscard").read_all();
        assert!((0..40).all(|number| want.contains_key(Path::new(&format!("synced{number}")))), "{options}");
        assert_eq!(Mount::new(&bench, &[copy], "nodiscard").read_all(), want, "{options}");
    }
}

#[test]
fn a_log_that_cannot_be_read_keeps_all_chunks() {
    let Some(_turn) = turn("a_log_that_cannot_be_read_keeps_all_chunks") else { return };
    let bench = Bench::new();
    let images = mkfs(&bench, "-m single -d single", 1, 256 * MIB);
    let mounted = Mount::new(&bench, &images, "nodiscard,commit=300");
    leave_a_log(&mounted);
    let image = bench.path("cut");
    fs::copy(&images[0], &image).unwrap();
    drop(mounted);
    let log_root = {
        let mut sb = vec![0; 4096];
        FileRegion::open(&image).read_exact_at(&mut sb, 65536).unwrap();
        u64::from_le_bytes(sb[96..104].try_into().unwrap())
    };
    let before = survey_file(&image);
    let dump = dump(&[&image]);
    let chunk = dump.chunks.iter().find(|chunk| chunk.logical.contains(log_root)).unwrap();
    let place = chunk.stripes[0].1 + log_root - chunk.logical.start;
    assert!(before.allocated.covers(Extent::new(place, place + 16384)));
    File::options().write(true).open(&image).unwrap().write_all_at(&[0x77; 32], place + 300).unwrap();
    let survey = survey_file(&image);
    assert!(survey.widened[0].contains("the log tree cannot be read"), "{:?}", survey.widened);
    assert_eq!(survey.allocated, with_fixed(&dump.allocated(1), 256 * MIB));
}

#[test]
fn the_roots_of_the_last_commits_are_kept_as_long_as_they_are_there() {
    let Some(_turn) = turn("the_roots_of_the_last_commits_are_kept_as_long_as_they_are_there") else { return };
    let bench = Bench::new();
    let images = mkfs(&bench, "-m single -d single", 1, 256 * MIB);
    let mounted = Mount::new(&bench, &images, "nodiscard");
    churn(&mounted.dir.join("files"), || mounted.sync());
    drop(mounted);
    let copy = bench.path("copy");
    noise_copy(&images[0], &copy, &survey_file(&images[0]));
    // The last commit's root is broken on both.
    for image in [&images[0], &copy] {
        let mut sb = vec![0; 4096];
        FileRegion::open(image).read_exact_at(&mut sb, 65536).unwrap();
        let root = u64::from_le_bytes(sb[80..88].try_into().unwrap());
        let dump = dump(&[image]);
        let chunk = dump.chunks.iter().find(|chunk| chunk.logical.contains(root)).unwrap();
        let place = chunk.stripes[0].1 + root - chunk.logical.start;
        File::options().write(true).open(image).unwrap().write_all_at(&[0x77; 64], place + 200).unwrap();
    }
    let want = {
        let mounted = Mount::new(&bench, &images, "ro,rescue=usebackuproot");
        hashes(&mounted.dir)
    };
    assert!(want.len() > 40);
    let mounted = Mount::new(&bench, &[copy], "ro,rescue=usebackuproot");
    assert_eq!(hashes(&mounted.dir), want);
}

//! XFS as the kernel leaves it: fragmented, full, shared, frozen, and not unmounted.
//!
//! These tests mount, for which they need root and a kernel that has XFS; without, they say loudly that they did not run.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use rescue::fs::State;

use crate::{
    tools::{Bench, Noise, hashes, may_mount, run, run_any, survey_bytes, with_noise},
    xfs::{MIB, check_clean, mkfs, verdict},
};

/// A mounted image, unmounted by its owner's end.
struct Mounted {
    dir: String,
}

impl Mounted {
    fn new(bench: &Bench, image: &str, options: &str) -> Self {
        let dir = bench.path("mounted");
        fs::create_dir_all(&dir).unwrap();
        run("mount", &["-t", "xfs", "-o", &format!("loop,{options}"), image, &dir]);
        Self { dir }
    }

    fn path(&self) -> &Path {
        Path::new(&self.dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut done = run_any("umount", &[&self.dir]);
        for _ in 0..50 {
            if done.status.success() {
                break;
            }
            // Whoever looks at new mounts holds this one for a moment.
            std::thread::sleep(std::time::Duration::from_millis(100));
            done = run_any("umount", &[&self.dir]);
        }
        if !std::thread::panicking() {
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

/// Fills a folder with files, holes between them, and a file in many pieces.
fn fill(root: &Path, seed: u64, pieces: u64) {
    let mut noise = Noise(seed);
    for folder in 0..8 {
        let dir = root.join(format!("{seed}/{folder}/deep/er"));
        fs::create_dir_all(&dir).unwrap();
        for number in 0..60 {
            let len = [0, 10, 700, 4096, 9000, 60_000][usize::try_from(noise.next() % 6).unwrap()];
            fs::write(dir.join(format!("file{number}")), noise.take(len)).unwrap();
        }
    }
    let sparse = File::create(root.join(format!("{seed}/sparse"))).unwrap();
    for index in 0..pieces {
        sparse.write_all_at(&noise.take(3000), index * 70_000).unwrap();
    }
    for folder in 0..8 {
        let dir = root.join(format!("{seed}/{folder}/deep/er"));
        (0..60).step_by(3).for_each(|number| fs::remove_file(dir.join(format!("file{number}"))).unwrap());
    }
    std::os::unix::fs::symlink("x".repeat(900), root.join(format!("{seed}/link"))).unwrap();
}

fn contents(bench: &Bench, image: &str, options: &str) -> BTreeMap<PathBuf, String> {
    hashes(Mounted::new(bench, image, options).path())
}

#[test]
fn fragmented_volumes_keep_every_file() {
    if !may_mount("xfs", "fragmented_volumes_keep_every_file") {
        return;
    }
    for (name, options, pieces) in [
        ("defaults", "", 1500),
        ("small blocks, all trees", "-b size=1024 -m rmapbt=1 -d agcount=5", 3000),
        ("nothing new", "-m reflink=0,finobt=0,inobtcount=0,bigtime=0 -i sparse=0", 1500),
        ("wide counters, large sectors", "-i nrext64=1,size=1024 -s size=4096 -d agcount=7", 1500),
    ] {
        let bench = Bench::new();
        let image = bench.blank("image", 240 * MIB);
        mkfs(&image, options, &[]);
        {
            let mounted = Mounted::new(&bench, &image, "rw");
            fill(mounted.path(), 1, pieces);
            let (from, to) = (mounted.path().join("1/sparse"), mounted.path().join("clone"));
            if !options.contains("reflink=0") {
                let both = [from, to].map(|path| path.to_str().unwrap().to_owned());
                let copied = Command::new("cp").args(["--reflink=always", &both[0], &both[1]]).status().unwrap();
                assert!(copied.success());
                let clone = File::options().write(true).open(&both[1]).unwrap();
                (0..200).for_each(|index| clone.write_all_at(b"changed", index * 210_000).unwrap());
            }
        }
        let copy = check_clean(&bench, name, &image);
        let (want, got) = (contents(&bench, &image, "ro,norecovery"), contents(&bench, &copy, "ro,norecovery"));
        assert!(want.len() > 300, "{name}");
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn full_and_emptied_volumes_keep_every_file() {
    if !may_mount("xfs", "full_and_emptied_volumes_keep_every_file") {
        return;
    }
    let bench = Bench::new();
    let image = bench.blank("image", 120 * MIB);
    mkfs(&image, "-b size=1024 -m rmapbt=1", &[]);
    {
        let mounted = Mounted::new(&bench, &image, "rw");
        let (mut noise, bytes) = (Noise(3), Noise(4).take(1 << 20));
        for number in 0.. {
            let len = usize::try_from(noise.next() % (1 << 18)).unwrap();
            if fs::write(mounted.path().join(format!("file{number}")), &bytes[..len]).is_err() {
                break;
            }
        }
        // Every second one goes, and is filled with pieces again.
        for number in (0..100_000).step_by(2) {
            let Ok(()) = fs::remove_file(mounted.path().join(format!("file{number}"))) else { break };
        }
        for number in 0.. {
            if fs::write(mounted.path().join(format!("small{number}")), &bytes[..3000]).is_err() {
                break;
            }
        }
    }
    let copy = check_clean(&bench, "full", &image);
    assert_eq!(contents(&bench, &copy, "ro,norecovery"), contents(&bench, &image, "ro,norecovery"));
    {
        let mounted = Mounted::new(&bench, &image, "rw");
        for entry in fs::read_dir(mounted.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::write(mounted.path().join("left"), "something").unwrap();
    }
    let copy = check_clean(&bench, "emptied", &image);
    assert_eq!(contents(&bench, &copy, "ro,norecovery"), contents(&bench, &image, "ro,norecovery"));
}

/// Makes a volume with a log to replay; `end` is how it comes to its end.
fn unclean(bench: &Bench, options: &str, end: impl Fn(&Mounted)) -> String {
    let image = bench.blank("image", 240 * MIB);
    mkfs(&image, options, &[]);
    fill(Mounted::new(bench, &image, "rw").path(), 1, 1000);
    let mounted = Mounted::new(bench, &image, "rw");
    fill(mounted.path(), 2, 500);
    run_any("xfs_io", &["-c", "syncfs", &mounted.dir]);
    fs::remove_dir_all(mounted.path().join("1/3")).unwrap();
    fs::remove_file(mounted.path().join("1/sparse")).unwrap();
    fill(mounted.path(), 3, 500);
    end(&mounted);
    image
}

fn shut_down(how: &str) -> impl Fn(&Mounted) {
    let how = how.to_owned();
    move |mounted| {
        run("xfs_io", &["-x", "-c", &how, &mounted.dir]);
    }
}

/// Checks an image whose log waits: what a replay makes of it and of its noise copy must be the same.
fn check_unclean(bench: &Bench, name: &str, image: &str) {
    let bytes = fs::read(image).unwrap();
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.detected.as_ref().unwrap().state, State::Dirty, "{name}: {:?}", survey.widened);
    assert!(survey.notes.iter().any(|note| note.contains("log waits to be replayed")), "{name}: {:?}", survey.notes);
    assert!(survey.allocated.total() < bytes.len() as u64 * 4 / 5, "{name}: {:?}", survey.widened);
    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
    assert_eq!(verdict(&copy), verdict(image), "{name}");
    let [want, got] = [image, &copy].map(|image| contents(bench, image, "rw"));
    assert!(want.len() > 300, "{name}: {}", want.len());
    assert_eq!(got, want, "{name}");
    assert_eq!(verdict(&copy), verdict(image), "{name}: after the replay");
    let after = survey_bytes(&fs::read(image).unwrap());
    let lost = after.allocated.subtract(&survey.allocated);
    // What the replay itself takes holds what the replay writes.
    assert!(lost.total() < 2 * MIB, "{name}: {lost:?}");
}

#[test]
fn volumes_with_a_log_to_replay_keep_every_file() {
    if !may_mount("xfs", "volumes_with_a_log_to_replay_keep_every_file") {
        return;
    }
    for (name, options) in [
        ("defaults", ""),
        ("small blocks, all trees", "-b size=1024 -m rmapbt=1 -d agcount=5"),
        ("log of large stripes", "-l size=32m,su=256k -m reflink=0"),
        ("log of large sectors", "-s size=4096 -l size=16m -m rmapbt=1"),
        ("log of small stripes", "-l size=16m,su=4k -m finobt=0,inobtcount=0"),
    ] {
        for how in ["shutdown -f", "shutdown"] {
            let bench = Bench::new();
            let image = unclean(&bench, options, shut_down(how));
            check_unclean(&bench, &format!("{name}, {how}"), &image);
        }
    }
}

#[test]
fn a_log_that_went_round_several_times_is_read() {
    if !may_mount("xfs", "a_log_that_went_round_several_times_is_read") {
        return;
    }
    let bench = Bench::new();
    let image = bench.blank("image", 120 * MIB);
    mkfs(&image, "-l size=4m -b size=1024 -m rmapbt=0,reflink=0", &[]);
    for turn in 0..3 {
        {
            let mounted = Mounted::new(&bench, &image, "rw");
            for round in 0..4 {
                fill(mounted.path(), 10 + turn * 4 + round, 200);
                run("xfs_io", &["-c", "syncfs", &mounted.dir]);
                fs::remove_dir_all(mounted.path().join((10 + turn * 4 + round).to_string())).unwrap();
            }
            fill(mounted.path(), 100 + turn, 200);
        }
        check_clean(&bench, &format!("turn {turn}"), &image);
    }
    {
        let mounted = Mounted::new(&bench, &image, "rw");
        for round in 0..3 {
            fill(mounted.path(), 50 + round, 300);
        }
        shut_down("shutdown -f")(&mounted);
    }
    check_unclean(&bench, "several times around", &image);
}

#[test]
fn a_frozen_volume_is_kept_as_it_is() {
    if !may_mount("xfs", "a_frozen_volume_is_kept_as_it_is") {
        return;
    }
    let bench = Bench::new();
    let image = unclean(&bench, "", |mounted| {
        run("xfs_io", &["-x", "-c", "freeze", &mounted.dir]);
        fs::copy(bench.path("image"), bench.path("snapshot")).unwrap();
        run("xfs_io", &["-x", "-c", "thaw", &mounted.dir]);
    });
    check_unclean(&bench, "snapshot", &bench.path("snapshot"));
    check_clean(&bench, "unmounted", &image);
}

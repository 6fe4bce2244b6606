//! `rescue export` as a person or a pipe meets it: a GPT disk with an ext4 in it, imaged, and written out again as raw bytes.
#![allow(clippy::unwrap_used)] // what tests share may unwrap as tests do

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const MIB: u64 = 1 << 20;
const DISK: u64 = 48 * MIB;
const EXT4: u64 = 2 * MIB;

/// A store with the image of a disk, and that disk.
struct Bench {
    dir: tempfile::TempDir,
    source: Vec<u8>,
}

impl Bench {
    /// Makes a disk full of noise, a GPT and an ext4 with files on it, and images it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::write(&source, noise(3, DISK)).unwrap();
        // What sgdisk finds where tables may be must be none.
        let disk = File::options().write(true).open(&source).unwrap();
        for at in [0, DISK - MIB] {
            std::os::unix::fs::FileExt::write_all_at(&disk, &vec![0; 1 << 20], at).unwrap();
        }
        tool("sgdisk", &["-n", "1:4096:+32M", "-t", "1:8300", path(&source)]);
        let files = dir.path().join("files");
        fs::create_dir(&files).unwrap();
        for n in 0..60 {
            fs::write(files.join(n.to_string()), noise(n, n * 7000)).unwrap();
        }
        fs::write(files.join("zeros"), vec![0; 2 << 20]).unwrap();
        tool(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-E",
                &format!("offset={EXT4},nodiscard"),
                "-d",
                path(&files),
                path(&source),
                "32M",
            ],
        );
        let bench = Self { source: fs::read(&source).unwrap(), dir };
        assert_eq!(bench.run(&["capture", "source", "store"]).status.code(), Some(0));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rescue"));
        command.args(args).current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Returns the source with everything zero that `show --extents` does not list.
    fn expected(&self) -> Vec<u8> {
        let shown = self.run(&["show", "source", "--extents", "--json"]);
        let extents: Vec<Value> = serde_json::from_slice(&shown.stdout).unwrap();
        let mut out = vec![0; self.source.len()];
        for extent in &extents {
            let at = |name: &str| usize::try_from(extent[name].as_u64().unwrap()).unwrap();
            out[at("start")..at("end")].copy_from_slice(&self.source[at("start")..at("end")]);
        }
        assert!(out != self.source, "some of the noise is free");
        out
    }

    /// Asserts that no export left anything behind.
    fn assert_nothing_made(&self) {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("raw")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tool(name: &str, args: &[&str]) {
    let places = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(name).args(args).env("PATH", places).output().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state ^ (state >> 29)).to_le_bytes()
    });
    let mut out: Vec<u8> = words.collect();
    out.truncate(usize::try_from(len).unwrap());
    out
}

fn last_line(text: &[u8]) -> Value {
    let text = String::from_utf8(text.to_vec()).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_else(|| panic!("nothing was said"))).unwrap()
}

#[test]
fn a_file_and_standard_output_hold_the_disk_and_a_region_is_a_file_system() {
    let bench = Bench::new();
    let expected = bench.expected();
    let done = bench.run(&["export", "store", "latest", "-o", "disk.raw", "--json"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let report = last_line(&done.stdout);
    assert_eq!((&report["outcome"], &report["disk_bytes"]), (&Value::from("COMPLETE"), &Value::from(DISK)));
    assert!(fs::read(bench.path("disk.raw")).unwrap() == expected);
    assert!(fs::metadata(bench.path("disk.raw")).unwrap().blocks() * 512 < DISK - 8 * MIB, "it is sparse");
    tool("sgdisk", &["-v", path(&bench.path("disk.raw"))]);
    tool("e2fsck", &["-fn", &format!("{}?offset={EXT4}", path(&bench.path("disk.raw")))]);

    // Standard output gets nothing but the disk, whatever else there is to say.
    for json in [&[][..], &["--json"]] {
        let done = bench.run(&[&["export", "store", "latest", "-o", "-"], json].concat());
        assert_eq!(done.status.code(), Some(0));
        assert!(done.stdout == expected);
        let said = String::from_utf8(done.stderr.clone()).unwrap();
        assert!(said.contains("COMPLETE"), "{said}");
        assert!(json.is_empty() || last_line(&done.stderr)["outcome"] == "COMPLETE");
    }

    let done = bench.run(&["export", "store", "latest", "-o", "part.raw", "--region", "1"]);
    assert_eq!(done.status.code(), Some(0));
    let partition = usize::try_from(EXT4).unwrap()..usize::try_from(EXT4 + 32 * MIB).unwrap();
    assert!(fs::read(bench.path("part.raw")).unwrap() == expected[partition.clone()]);
    tool("e2fsck", &["-fn", path(&bench.path("part.raw"))]);
    let done = bench.run(&["export", "store", "latest", "-o", "-", "--region", "1"]);
    assert!(done.stdout == expected[partition]);
}

#[test]
fn a_plan_writes_nothing_and_a_file_that_exists_is_refused() {
    let bench = Bench::new();
    let plan = bench.run(&["export", "store", "latest", "-o", "disk.raw", "--dry-run"]);
    let shown = String::from_utf8(plan.stdout).unwrap();
    assert_eq!(plan.status.code(), Some(0));
    assert!(shown.contains("partition 1 (ext4)") && shown.contains("to disk.raw, 50331648 bytes"), "{shown}");
    let plan = bench.run(&["export", "store", "latest", "-o", "-", "--dry-run", "--json"]);
    assert!(plan.stdout.is_empty());
    assert_eq!(last_line(&plan.stderr)["bytes"], DISK);
    bench.assert_nothing_made();

    fs::write(bench.path("disk.raw"), "mine").unwrap();
    let refused = bench.run(&["export", "store", "latest", "-o", "disk.raw", "--json"]);
    assert_eq!((refused.status.code(), &last_line(&refused.stdout)["refused"]), (Some(3), &Value::Bool(true)));
    assert_eq!(fs::read(bench.path("disk.raw")).unwrap(), b"mine");
    let done = bench.run(&["export", "store", "latest", "-o", "disk.raw", "--overwrite"]);
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(fs::metadata(bench.path("disk.raw")).unwrap().len(), DISK);
}

#[test]
fn a_reader_that_goes_away_and_a_full_device_are_failures_with_a_reason() {
    let bench = Bench::new();
    let mut child = bench
        .command(&["export", "store", "latest", "-o", "-", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    let report = last_line(&done.stderr);
    assert_eq!(report["outcome"], "FAILED");
    assert!(report["error"].as_str().unwrap().contains("whoever read standard output went away"), "{report}");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let done = bench.command(&["export", "store", "latest", "-o", "-"]).stdout(full).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(said.contains("FAILED: writing to standard output, after 0 bytes: No space left"), "{said}");
}

#[test]
fn a_store_that_is_damaged_makes_no_file() {
    let bench = Bench::new();
    for folder in fs::read_dir(bench.path("store/packs")).unwrap() {
        for pack in fs::read_dir(folder.unwrap().path()).unwrap() {
            let pack = pack.unwrap().path();
            let mut bytes = fs::read(&pack).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(pack, bytes).unwrap();
        }
    }
    for output in ["disk.raw", "-"] {
        let done = bench.run(&["export", "store", "latest", "-o", output]);
        let said = String::from_utf8([done.stderr, done.stdout[..done.stdout.len().min(1)].to_vec()].concat());
        assert_eq!(done.status.code(), Some(1), "{said:?}");
    }
    bench.assert_nothing_made();
}

#[test]
fn where_a_file_does_not_fit_none_is_made() {
    let bench = Bench::new();
    // A limit stands for file systems that cannot hold a file so long.
    let script = format!("trap '' XFSZ; ulimit -f 20000; exec '{}' \"$@\"", env!("CARGO_BIN_EXE_rescue"));
    let limited = |args: &[&str]| {
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).args(args).current_dir(bench.dir.path()).output().unwrap()
    };
    let done = limited(&["export", "store", "latest", "-o", "disk.raw", "--json"]);
    assert_eq!(done.status.code(), Some(1));
    let report = last_line(&done.stdout);
    assert!(report["error"].as_str().unwrap().contains("File too large"), "{report}");
    bench.assert_nothing_made();

    let small = bench.path("small");
    fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=1m none small && \"$@\"; echo \"$? $(ls -A small | wc -l)\"";
    let done = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "bash", "-c", script, "bash", env!("CARGO_BIN_EXE_rescue")])
        .args(["export", "store", "latest", "-o", "small/disk.raw"])
        .current_dir(bench.dir.path())
        .output()
        .unwrap();
    let (said, result) = (String::from_utf8(done.stderr).unwrap(), String::from_utf8(done.stdout).unwrap());
    if result.is_empty() || said.contains("mount:") {
        let what = "NOT RUN: export into a full file system: this kernel lets no user mount a tmpfs";
        let _ = writeln!(std::io::stderr(), "{what}");
        return;
    }
    assert!(said.contains("small has 1.00 MiB free"), "{said}");
    assert!(result.contains("FAILED: writing ") && result.contains("No space left"), "{result}");
    assert!(result.ends_with("1 0\n"), "{result}");
}

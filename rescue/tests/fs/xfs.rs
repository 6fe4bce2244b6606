//! XFS in every shape that mkfs.xfs makes, judged by xfs_repair, compared with xfs_db, read back by GRUB's reader.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rescue::{
    extent::{Extent, ExtentSet},
    fs::{State, Survey},
};

use crate::tools::{Bench, hashes, run, run_any, survey_bytes, tool, with_noise};

pub const MIB: u64 = 1 << 20;

/// Writes the description of `dir` that mkfs.xfs fills a new file system from.
fn describe(dir: &Path, out: &mut String) {
    let mut entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_symlink() {
            writeln!(out, "{name} l--777 0 0 {}", fs::read_link(&path).unwrap().display()).unwrap();
        } else if path.is_dir() {
            writeln!(out, "{name} d--755 0 0").unwrap();
            describe(&path, out);
            out.push_str("$\n");
        } else {
            writeln!(out, "{name} ---644 0 0 {}", path.display()).unwrap();
        }
    }
}

/// Runs mkfs.xfs, in the mode in which it makes file systems smaller than it recommends.
pub fn mkfs(image: &str, options: &str, args: &[&str]) {
    let mut command = Command::new(tool("mkfs.xfs"));
    command.args(["-q", "-f"]).args(options.split_whitespace()).args(args).arg(image);
    for name in ["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"] {
        command.env(name, "small");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "mkfs.xfs {options}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a file system with the files of `tree` in it.
pub fn make_with(bench: &Bench, tree: &str, options: &str, len: u64) -> String {
    let mut proto = String::from("none\n0 0\nd--755 0 0\n");
    describe(Path::new(tree), &mut proto);
    proto.push_str("$\n");
    let list = bench.path("proto");
    fs::write(&list, proto).unwrap();
    let image = bench.blank("image", len);
    mkfs(&image, options, &["-p", &list]);
    image
}

/// Makes a file system with files in it.
pub fn make(bench: &Bench, options: &str, len: u64) -> (String, Vec<u8>) {
    let image = make_with(bench, &bench.tree(true), options, len);
    let bytes = fs::read(&image).unwrap();
    (image, bytes)
}

/// Runs commands of xfs_db that read.
pub fn db(image: &str, commands: &[&str]) -> String {
    let mut args = vec!["-r", "-f"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    args.push(image);
    run("xfs_db", &args)
}

/// Returns a number that xfs_db prints.
pub fn number(image: &str, place: &str, field: &str) -> u64 {
    let said = db(image, &[place, &format!("p {field}")]);
    let value = said.trim().rsplit(' ').next().unwrap();
    let parsed = value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.unwrap_or_else(|_| panic!("{place} {field}: {said}"))
}

/// Returns the bytes that xfs_db calls free, free lists included, and the number of bytes in the free lists.
fn free(image: &str) -> (ExtentSet, u64) {
    let [block, per_group, groups] = ["blocksize", "agblocks", "agcount"].map(|field| number(image, "sb 0", field));
    let listed = db(image, &["freesp -d"]);
    let runs = listed.lines().skip(1).map_while(|line| {
        let words = line.split_whitespace().map(|word| word.parse::<u64>()).collect::<Result<Vec<_>, _>>().ok()?;
        let [group, start, len] = words[..] else { return None };
        let start = (group * per_group + start) * block;
        Some(Extent::new(start, start + len * block))
    });
    let lists = (0..groups).map(|group| number(image, &format!("agf {group}"), "flcount")).sum::<u64>();
    (runs.collect(), lists * block)
}

/// Returns the words that xfs_repair says of an image, sorted, without its own addresses and the time of day: its threads
/// all speak at once.
pub fn verdict(image: &str) -> (Option<i32>, Vec<String>) {
    let output = run_any("xfs_repair", &["-n", "-f", image]);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let address = |word: &str| {
        let digits = word.trim_start_matches("0x").trim_end_matches([',', ':']);
        digits.len() >= 10 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    let time = |word: &str| {
        let parts = word.trim_end_matches(':').split(':').collect::<Vec<_>>();
        parts.len() == 3 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let own = |word: &&str| !address(word) && !time(word);
    let mut words = text.split_whitespace().filter(own).map(str::to_owned).collect::<Vec<_>>();
    // It prints from several threads: how often it says what it does differs from run to run.
    words.sort();
    words.dedup();
    (output.status.code(), words)
}

/// Returns the files of `tree` as GRUB reads them from an image.
fn contents(image: &str, tree: &BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let read = |path: &Path, content: &String| {
        if content.len() != 64 || path.ends_with("long-link") {
            return content.clone();
        }
        let output = run_any("grub-fstest", &[image, "cat", &format!("/{}", path.display())]);
        assert!(output.status.success(), "{path:?}");
        blake3::hash(&output.stdout).to_string()
    };
    tree.iter().map(|(path, content)| (path.clone(), read(path, content))).collect()
}

/// Checks that the map has exactly what xfs_db does not call free, and what the trees keep to grow.
pub fn compare_with_db(name: &str, image: &str, survey: &Survey) {
    let len = fs::metadata(image).unwrap().len();
    let (free, lists) = free(image);
    let needed = free.complement(len);
    let missing = needed.subtract(&survey.allocated);
    assert!(missing.is_empty(), "{name}: {missing:?}");
    assert_eq!(survey.allocated.total() - needed.total(), lists, "{name}: more than the free lists");
}

/// Checks a clean image in every way there is, but for its files; returns the copy with noise.
pub fn check_clean(bench: &Bench, name: &str, image: &str) -> String {
    let bytes = fs::read(image).unwrap();
    let survey = survey_bytes(&bytes);
    assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
    assert_eq!(survey.detected.as_ref().unwrap().state, State::Clean, "{name}");
    compare_with_db(name, image, &survey);
    let [block, blocks, free] = ["blocksize", "dblocks", "fdblocks"].map(|field| number(image, "sb 0", field));
    let usage = survey.usage.unwrap();
    assert_eq!((usage.used, usage.free), ((blocks - free) * block, free * block), "{name}");
    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
    assert_eq!(verdict(&copy), verdict(image), "{name}");
    copy
}

fn check_all(cases: &[(&str, &str, u64)]) {
    let bench = Bench::new();
    let tree = bench.tree(true);
    let want = hashes(Path::new(&tree));
    assert!(want.len() > 50);
    for (name, options, len) in cases {
        let image = make_with(&bench, &tree, options, len * MIB);
        let copy = check_clean(&bench, name, &image);
        assert_eq!(contents(&copy, &want), want, "{name}");
    }
}

#[test]
fn version_5_keeps_every_file() {
    check_all(&[
        ("defaults", "", 320),
        ("nothing new", "-m reflink=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0", 64),
        ("free inode tree alone", "-m reflink=0,finobt=1,bigtime=0,inobtcount=0 -i sparse=0", 64),
        ("reflink without free inode tree", "-m reflink=1,finobt=0,inobtcount=0 -i sparse=1", 64),
        ("tree of used runs", "-m rmapbt=1,reflink=0", 64),
        ("tree of used and of shared runs", "-m rmapbt=1,reflink=1,bigtime=1 -d agcount=3", 96),
        ("large extent counters", "-i nrext64=1 -m rmapbt=1", 64),
        ("large inodes", "-i size=2048,sparse=1 -m inobtcount=0", 64),
        ("few inodes", "-i maxpct=1,size=1024 -m reflink=0", 64),
    ]);
}

#[test]
fn block_and_sector_sizes_keep_every_file() {
    check_all(&[
        ("1 KiB", "-b size=1024 -m rmapbt=1", 64),
        ("2 KiB", "-b size=2048 -i size=512,sparse=0", 64),
        ("8 KiB", "-b size=8192 -n size=16384", 64),
        ("16 KiB", "-b size=16384 -i size=1024", 128),
        ("64 KiB", "-b size=65536", 320),
        ("64 KiB, large inodes", "-b size=65536 -i size=2048 -m finobt=0,inobtcount=0", 320),
        ("sectors of 4 KiB", "-s size=4096", 64),
        ("sectors of 4 KiB, large blocks", "-s size=4096 -b size=8192 -m rmapbt=1", 96),
        ("sectors of 2 KiB", "-s size=2048 -b size=2048", 64),
        ("large folder blocks", "-n size=65536 -b size=1024", 64),
    ]);
}

#[test]
fn groups_and_stripes_keep_every_file() {
    check_all(&[
        ("one group", "-d agcount=1", 64),
        ("groups of no power of two", "-d agsize=20m", 101),
        ("many groups", "-d agsize=16m -l size=6m", 336),
        ("a short last group", "-d agsize=32m", 120),
        ("stripes", "-d su=64k,sw=4", 96),
        ("stripes and many groups", "-d agcount=5,sunit=128,swidth=512 -m rmapbt=1", 160),
        ("the log in another group", "-d agcount=4 -l agnum=3", 128),
        ("a small log of small stripes", "-l size=8m,su=4k", 64),
        ("a log of large stripes", "-l size=16m,su=256k -b size=1024", 96),
        ("a log of large sectors", "-s size=4096 -l size=8m,su=32k", 64),
    ]);
}

#[test]
fn version_4_keeps_every_file() {
    check_all(&[
        ("version 4", "-m crc=0", 320),
        ("without free inode tree", "-m crc=0,finobt=0", 64),
        ("old log, old counters", "-m crc=0,finobt=0 -l version=1,lazy-count=0", 64),
        ("old attributes, small projects", "-m crc=0,finobt=0 -i attr=1,projid32bit=0", 64),
        ("512-byte blocks", "-m crc=0,finobt=0 -b size=512 -l version=1", 64),
        ("512-byte blocks and large folders", "-m crc=0,finobt=0 -b size=512 -n size=4096", 64),
        ("large blocks", "-m crc=0,finobt=0 -b size=32768 -i size=256", 96),
        ("small inodes in large blocks", "-m crc=0,finobt=0 -b size=65536 -i size=256", 320),
        ("types in folders", "-m crc=0,finobt=0 -n ftype=1 -s size=4096", 64),
        ("many groups", "-m crc=0,finobt=0 -d agsize=16m -l size=4m,su=32k", 168),
    ]);
}

#[test]
fn the_bytes_behind_the_file_system_are_kept() {
    let bench = Bench::new();
    let tree = bench.tree(true);
    let small = make_with(&bench, &tree, "-b size=4096", 64 * MIB);
    let mut bytes = fs::read(small).unwrap();
    bytes.resize(bytes.len() + 5_000_000, 1);
    let survey = survey_bytes(&bytes);
    assert!(survey.allocated.covers(Extent::new(64 * MIB, 64 * MIB + 5_000_000)));
    assert!(survey.allocated.total() < 40 * MIB);
    assert_eq!(survey.widened, [""; 0], "nobody asks about so little");
    bytes.resize(bytes.len() + 10_000_000, 1);
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.widened, ["14.3 MiB behind the end of the file system are kept"]);
    let survey = survey_bytes(&bytes[..60_000_000]);
    assert_eq!(survey.allocated.total(), 60_000_000);
    assert!(survey.widened[0].contains("67108864 bytes long"), "{:?}", survey.widened);
}

#[test]
fn what_is_on_other_devices_is_said() {
    let bench = Bench::new();
    let log = bench.blank("log", 16 * MIB);
    let image = bench.blank("image", 64 * MIB);
    mkfs(&image, &format!("-l logdev={log},size=8m"), &[]);
    let survey = survey_bytes(&fs::read(&image).unwrap());
    assert_eq!(survey.allocated.total(), 64 * MIB);
    assert!(survey.widened[0].contains("log is on another device"), "{:?}", survey.widened);
    assert_eq!(survey.detected.unwrap().state, State::Unknown);
    let survey = survey_bytes(&fs::read(&log).unwrap());
    assert_eq!(survey.detected.unwrap().name, "xfs_external_log");
    assert_eq!(survey.allocated.total(), 16 * MIB);

    let rt = bench.blank("rt", 64 * MIB);
    let image = bench.blank("image", 64 * MIB);
    mkfs(&image, &format!("-r rtdev={rt},extsize=64k"), &[]);
    let survey = survey_bytes(&fs::read(&image).unwrap());
    assert_eq!(survey.widened, Vec::<String>::new());
    assert_eq!(survey.notes, ["its realtime section, 64.0 MiB, is on another device and not in here"]);
    compare_with_db("realtime", &image, &survey);
}

#[test]
fn what_other_tools_changed_keeps_every_file() {
    let bench = Bench::new();
    let tree = bench.tree(true);
    let want = hashes(Path::new(&tree));
    for (name, options, log_starts_anew) in [
        ("repaired", "-m rmapbt=1 -d agcount=3", vec!["xfs_repair", "-f", "-L"]),
        ("old and repaired", "-m crc=0,finobt=0", vec!["xfs_repair", "-f", "-L"]),
        ("another UUID", "-b size=1024", vec!["xfs_db", "-x", "-c", "uuid generate"]),
        ("old, with another UUID", "-m crc=0,finobt=0", vec!["xfs_db", "-x", "-c", "uuid generate"]),
        ("another label", "-l su=64k,size=16m", vec!["xfs_db", "-x", "-c", "label other"]),
    ] {
        let image = make_with(&bench, &tree, options, 96 * MIB);
        let (tool, args) = log_starts_anew.split_first().unwrap();
        run(tool, &[args, &[&*image]].concat());
        let copy = check_clean(&bench, name, &image);
        assert_eq!(contents(&copy, &want), want, "{name}");
    }
}

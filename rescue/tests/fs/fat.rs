//! FAT12, FAT16 and FAT32, made by mkfs.fat and filled by mtools.

use std::{collections::BTreeMap, fs, path::PathBuf};

use rescue::{
    extent::Extent,
    fs::{State, Survey},
};

use crate::tools::{Bench, hashes, run, run_any, survey_bytes, with_noise};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Makes a volume with files, some of them removed again.
pub fn make(bench: &Bench, options: &str, len: u64) -> String {
    let image = bench.blank("image", len);
    let mut args = options.split_whitespace().collect::<Vec<_>>();
    args.push(&image);
    run("mkfs.fat", &args);
    let tree = bench.tree(false);
    let room = len > 8 * MIB;
    let folders: &[&str] = if room { &["etc", "usr", "var"] } else { &["etc"] };
    for folder in folders {
        run("mcopy", &["-s", "-i", &image, &format!("{tree}/{folder}"), "::"]);
        if *folder == "etc" {
            run("mdel", &["-i", &image, "::etc/file2.dat", "::etc/file6.dat", "::etc/file12.dat"]);
        }
    }
    image
}

fn contents(bench: &Bench, image: &str, name: &str) -> BTreeMap<PathBuf, String> {
    let out = bench.path(name);
    fs::create_dir(&out).unwrap();
    run("mcopy", &["-s", "-n", "-i", image, "::*", &out]);
    hashes(out.as_ref())
}

fn verdict(image: &str) -> (Option<i32>, String) {
    let output = run_any("fsck.fat", &["-n", "-v", image]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).replace(image, ""))
}

/// Returns used and all clusters, and bytes in one, from what the checker says.
fn clusters(verdict: &str) -> (u64, u64, u64) {
    let line = verdict.lines().find(|line| line.ends_with(" clusters")).unwrap();
    let (used, all) = line.trim_end_matches(" clusters").rsplit(' ').next().unwrap().split_once('/').unwrap();
    let size = verdict.lines().find(|line| line.contains("bytes per cluster")).unwrap();
    let size = size.split_whitespace().next().unwrap();
    (used.parse().unwrap(), all.parse().unwrap(), size.parse().unwrap())
}

#[test]
fn every_kind_of_volume_keeps_every_file() {
    for (name, options, len, kind) in [
        ("floppy", "-F 12", 1440 * KIB, "FAT12"),
        ("FAT12, large clusters", "-F 12 -s 16", 16 * MIB, "FAT12"),
        ("FAT16", "-F 16 -n STICK", 24 * MIB, "FAT16"),
        ("FAT16, 4096-byte sectors", "-F 16 -S 4096 -s 1", 24 * MIB, "FAT16"),
        ("FAT16, one FAT", "-F 16 -f 1 -s 2", 24 * MIB, "FAT16"),
        ("FAT16, many reserved sectors", "-F 16 -R 77 -r 1024", 24 * MIB, "FAT16"),
        ("FAT32", "-F 32 -n STICK", 40 * MIB, "FAT32"),
        ("FAT32, two sectors per cluster", "-F 32 -s 2", 72 * MIB, "FAT32"),
    ] {
        let bench = Bench::new();
        let image = make(&bench, options, len);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        let detected = survey.detected.clone().unwrap();
        assert_eq!((detected.name.as_str(), detected.version.as_deref()), ("vfat", Some(kind)), "{name}");
        assert_eq!((&survey.widened, detected.state), (&vec![], State::Clean), "{name}");
        let said = verdict(&image);
        let (used, all, size) = clusters(&said.1);
        assert_eq!(survey.allocated.total(), len - (all - used) * size, "{name}: exactly what is not free is kept");

        let copy = bench.path("copy");
        fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
        assert_eq!(verdict(&copy), said, "{name}");
        let want = contents(&bench, &image, "want");
        assert!(want.len() > 15, "{name}: {} files", want.len());
        assert_eq!(contents(&bench, &copy, "got"), want, "{name}");
    }
}

/// Changes bytes of a small FAT16 volume; `place` gets FAT start, FAT length and the first cluster of a file.
fn damaged(place: impl Fn(&mut Vec<u8>, usize, usize, usize)) -> Survey {
    let bench = Bench::new();
    let image = make(&bench, "-F 16 -s 1", 12 * MIB);
    let mut bytes = fs::read(&image).unwrap();
    let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (fat, len) = (word(14) * 512, word(22) * 512);
    let root = fat + 2 * len;
    let etc = (0..512).map(|n| root + n * 32).find(|at| bytes[*at..].starts_with(b"ETC     ")).unwrap();
    let data = root + word(17) * 32;
    let cluster_at = |cluster: usize| data + (cluster - 2) * 512;
    let dir = cluster_at(word(etc + 26));
    let file = (0..512).map(|n| dir + n * 32).find(|at| bytes[*at..].starts_with(b"FILE7   DAT")).unwrap();
    let first = word(file + 26);
    place(&mut bytes, fat, len, first);
    survey_bytes(&bytes)
}

#[test]
fn doubt_about_the_fat_keeps_more() {
    let clean = damaged(|_, _, _, _| {});
    assert!(clean.widened.is_empty(), "{:?}", clean.widened);

    let differing = damaged(|bytes, fat, len, first| bytes[fat + len + first * 2..][..2].fill(0));
    assert!(differing.widened[0].contains("differ in 1 entries"), "{:?}", differing.widened);
    assert_eq!(differing.allocated, clean.allocated);

    let lost = damaged(|bytes, fat, len, first| {
        bytes[fat + first * 2..][..2].fill(0);
        bytes[fat + len + first * 2..][..2].fill(0);
    });
    assert!(lost.widened[0].contains("names free cluster"), "{:?}", lost.widened);
    assert_eq!(lost.allocated.total(), 12 * MIB);

    let dangling = damaged(|bytes, fat, len, first| {
        bytes[fat + (first + 1) * 2..][..2].fill(0);
        bytes[fat + len + (first + 1) * 2..][..2].fill(0);
    });
    assert!(dangling.widened[0].contains("1 free clusters follow"), "{:?}", dangling.widened);
    assert_eq!(dangling.allocated, clean.allocated);

    let dirty = damaged(|bytes, fat, _, _| bytes[fat + 3] &= 0x7f);
    assert_eq!(dirty.detected.unwrap().state, State::Dirty);

    let media = damaged(|bytes, fat, _, _| bytes[fat] = 0x12);
    assert!(media.widened[0].contains("media byte"), "{:?}", media.widened);
}

#[test]
fn a_boot_sector_that_its_copy_contradicts_is_not_believed() {
    let bench = Bench::new();
    let image = make(&bench, "-F 32 -s 2", 70 * MIB);
    let mut bytes = fs::read(&image).unwrap();
    let clean = survey_bytes(&bytes);
    assert!(clean.widened.is_empty());
    bytes[13] = 4;
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.allocated.total(), 70 * MIB);
    assert!(survey.widened[0].contains("disagree"), "{:?}", survey.widened);
}

#[test]
fn the_slack_behind_the_last_cluster_is_kept_and_fsinfo_is_not_believed() {
    let bench = Bench::new();
    // mtools takes so few clusters for FAT16, so there is nothing in it.
    let image = bench.blank("image", 40 * MIB);
    run("mkfs.fat", &["-F", "32", "-S", "4096", "-s", "1", &image]);
    let mut bytes = fs::read(&image).unwrap();
    bytes.extend([0x5a; 3000]);
    bytes[4096 + 488] ^= 1;
    let survey = survey_bytes(&bytes);
    assert!(survey.allocated.covers(Extent::new(40 * MIB, 40 * MIB + 3000)));
    assert!(survey.notes[0].contains("FSInfo"), "{:?}", survey.notes);
    assert!(survey.allocated.total() < 20 * MIB);
}

#[test]
fn more_directories_than_are_read_keep_the_volume_whole() {
    let bench = Bench::new();
    let len = 300 * MIB;
    let image = bench.blank("image", len);
    // Clusters of 64 KiB: each folder takes one, and 64 MiB of them are read.
    run("mkfs.fat", &["-F", "16", "-s", "128", &image]);
    let folders = (0..1100).map(|number| format!("::up/{number}")).collect::<Vec<_>>();
    let mut args = vec!["-i", &image, "::up"];
    args.extend(folders.iter().take(900).map(String::as_str));
    run("mmd", &args);
    let few = survey_bytes(&fs::read(&image).unwrap());
    assert!(few.widened.is_empty() && few.allocated.total() < 100 * MIB, "{:?}", few.widened);

    let mut args = vec!["-i", &image];
    args.extend(folders.iter().skip(900).map(String::as_str));
    run("mmd", &args);
    let many = survey_bytes(&fs::read(&image).unwrap());
    assert_eq!(many.allocated.total(), len);
    assert!(many.widened[0].contains("more directories than are compared"), "{:?}", many.widened);
    assert_eq!(many.detected.unwrap().state, State::Clean, "nothing is known to be damaged");
}

//! Swap files on ext: their pages are left out of the map, their header and everything else is kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rescue::{
    block::MemoryDisk,
    extent::ExtentSet,
    fs::{LeftOut, Options, State, Survey, survey},
    units::SectorSize,
};

use crate::{
    ext::{contents, verdict},
    tools::{Bench, Noise, run, survey_bytes, with_noise},
};

const MIB: u64 = 1 << 20;
const SWAP: usize = 3 << 20;

/// Makes a tree with swap files of 3 MiB at `paths`, and returns it.
fn tree(bench: &Bench, paths: &[&str], fstab: &str) -> PathBuf {
    let root = PathBuf::from(bench.tree(false));
    fs::write(root.join("etc/fstab"), fstab).unwrap();
    let mut noise = Noise(11);
    for path in paths {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, noise.take(SWAP)).unwrap();
        run("mkswap", &["-q", "-p", "4096", path.to_str().unwrap()]);
    }
    root
}

fn make(bench: &Bench, tree: &Path, options: &str, len: u64) -> String {
    let image = bench.blank("image", len);
    let mut args = vec!["-q", "-F", "-d", tree.to_str().unwrap()];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mke2fs", &args);
    image
}

fn kept_with(bytes: &[u8]) -> Survey {
    survey(&MemoryDisk::new(bytes.to_vec(), SectorSize::B512), &Options { keep_swap_files: true })
}

fn left_out(survey: &Survey) -> Vec<(&str, u64)> {
    survey.left_out.iter().map(|LeftOut { path, bytes }| (path.as_str(), *bytes)).collect()
}

#[test]
fn the_pages_of_swap_files_are_left_out_and_nothing_else() {
    let fstab =
        "# table\n/swap.img none swap sw 0 0\n/var/my\\040swap none swap sw 0 0\n/etc/file7.dat none swap sw 0 0\n";
    for (name, options, cluster) in [
        ("ext2", "-t ext2 -b 1024", 1024),
        ("ext3", "-t ext3 -b 4096", 4096),
        ("ext4", "-t ext4", 1024),
        ("ext4, 64 KiB", "-t ext4 -b 65536 -O ^has_journal", 65536),
        ("inline data", "-t ext4 -O inline_data -I 1024", 1024),
        ("clusters", "-t ext4 -O bigalloc -b 1024 -C 16384", 16384),
        ("no checksums", "-t ext4 -O ^metadata_csum,uninit_bg -b 2048", 2048),
    ] {
        let bench = Bench::new();
        let paths = ["/swapfile", "/swap.img", "/var/my swap", "/usr/share/unnamed"];
        let tree = tree(&bench, &paths, fstab);
        let image = make(&bench, &tree, options, 64 * MIB);
        // An indexed root directory, made by the checker.
        run("e2fsck", &["-fyD", &image]);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
        let pages = SWAP as u64 - cluster.max(4096);
        let want = [("/swap.img", pages), ("/swapfile", pages), ("/var/my swap", pages)];
        assert_eq!(left_out(&survey), want, "{name}");

        let all = kept_with(&bytes);
        assert_eq!((left_out(&all), all.usage), (vec![], survey.usage), "{name}");
        assert_eq!(survey.allocated.total() + 3 * pages, all.allocated.total(), "{name}");
        assert!(survey.allocated.subtract(&all.allocated).is_empty(), "{name}");

        let copy = bench.path("copy");
        fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
        assert_eq!(verdict(&copy), verdict(&image), "{name}");
        let (mut original, mut restored) = (contents(&bench, &image, "want"), contents(&bench, &copy, "got"));
        for path in paths.iter().take(3).map(|path| path.trim_start_matches('/')) {
            assert_ne!(original.remove(path.as_ref() as &Path), restored.remove(path.as_ref() as &Path), "{name}");
            let read = |folder: &str| fs::read(bench.dir.path().join(folder).join(path)).unwrap();
            let (before, after) = (read("want"), read("got"));
            assert_eq!((before.len(), &before[..4096]), (after.len(), &after[..4096]), "{name}: the header is kept");
        }
        assert!(original.len() > 50, "{name}");
        assert_eq!(original, restored, "{name}");
    }
}

#[test]
fn what_is_no_sound_swap_file_is_kept() {
    type Change = fn(&Path);
    let cases: [(&str, Change); 10] = [
        ("hole", |path| {
            let header = fs::read(path).unwrap()[..4096].to_vec();
            fs::write(path, header).unwrap();
            fs::File::options().write(true).open(path).unwrap().set_len(SWAP as u64).unwrap();
        }),
        ("cut short", |path| fs::File::options().write(true).open(path).unwrap().set_len(SWAP as u64 - 8192).unwrap()),
        ("no signature", |path| patch(path, 4086, b"SWAPSPACE9")),
        ("old version", |path| patch(path, 4086, b"SWAP-SPACE")),
        ("unknown version", |path| patch(path, 1024, &[2])),
        ("boot code", |path| patch(path, 700, &[1])),
        ("a Sun label", |path| patch(path, 508, b"\xda\xbe")),
        ("a BSD label", |path| patch(path, 512, b"WEV\x82")),
        ("JFS", |path| patch(path, 32768, b"JFS1")),
        ("UDF", |path| drop(run("mkudffs", &["--bootarea=preserve", path.to_str().unwrap()]))),
    ];
    for (name, change) in cases {
        let bench = Bench::new();
        let tree = tree(&bench, &["/swapfile"], "");
        change(&tree.join("swapfile"));
        let image = make(&bench, &tree, "-t ext4", 32 * MIB);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!((left_out(&survey), &survey.notes), (vec![], &vec![]), "{name}");
        assert_eq!(survey.allocated, kept_with(&bytes).allocated, "{name}");
    }
}

fn patch(path: &Path, at: usize, bytes: &[u8]) {
    let mut all = fs::read(path).unwrap();
    all[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, all).unwrap();
}

#[test]
fn a_header_that_was_never_written_is_none() {
    for (name, ranges) in [("whole", vec!["0 767"]), ("header", vec!["0 0"]), ("a page", vec!["1 1"])] {
        let bench = Bench::new();
        let tree = tree(&bench, &["/old", "/swapfile"], "");
        let header = fs::read(tree.join("swapfile")).unwrap()[..8192].to_vec();
        let image = make(&bench, &tree, "-t ext4 -b 4096", 32 * MIB);
        let was = survey_bytes(&fs::read(&image).unwrap());
        assert_eq!(left_out(&was).len(), 1, "{name}");

        // Blocks reserved for the file over those that another one, or a swap space, had before.
        let script = bench.path("script");
        let punched = ranges.iter().map(|range| format!("punch /swapfile {range}\nfallocate /swapfile {range}\n"));
        fs::write(&script, punched.collect::<String>()).unwrap();
        run("debugfs", &["-w", "-f", &script, &image]);
        let mut bytes = fs::read(&image).unwrap();
        let listed = run("debugfs", &["-R", "blocks /swapfile", &image]);
        for (number, block) in listed.split_whitespace().take(2).enumerate() {
            let at = block.parse::<usize>().unwrap() * 4096;
            bytes[at..at + 4096].copy_from_slice(&header[number * 4096..][..4096]);
        }
        let survey = survey_bytes(&bytes);
        let unwritten = run("debugfs", &["-R", "ex /swapfile", &image]).contains("Uninit");
        assert!(unwritten, "{name}");
        let want = if name == "a page" { 1 } else { 0 };
        assert_eq!((left_out(&survey).len(), &survey.widened), (want, &vec![]), "{name}: {:?}", survey.left_out);
        if want == 0 {
            assert_eq!(survey.allocated, kept_with(&bytes).allocated, "{name}");
        }
    }
}

#[test]
fn a_hibernated_system_keeps_every_page_and_is_said() {
    for signature in [&b"S1SUSPEND\0"[..], b"ULSUSPEND\0"] {
        let bench = Bench::new();
        let tree = tree(&bench, &["/swapfile", "/swap.img"], "");
        patch(&tree.join("swapfile"), 4086, signature);
        let image = make(&bench, &tree, "-t ext4", 32 * MIB);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.notes, ["a hibernated system is in the swap file /swapfile, which is kept"]);
        assert_eq!((left_out(&survey), survey.detected.as_ref().unwrap().state), (vec![], State::Hibernated));
        assert_eq!(survey.allocated, kept_with(&bytes).allocated);
    }
}

#[test]
fn a_block_that_something_else_uses_keeps_the_file() {
    let bench = Bench::new();
    let tree = tree(&bench, &["/swapfile", "/swap.img"], "");
    let image = make(&bench, &tree, "-t ext2 -b 1024", 32 * MIB);
    let before = survey_bytes(&fs::read(&image).unwrap());
    let listed = run("debugfs", &["-R", "blocks /swapfile", &image]);
    let block = listed.split_whitespace().nth(1000).unwrap();
    run("debugfs", &["-w", "-R", &format!("sif /etc/file1.dat block[0] {block}"), &image]);
    let survey = survey_bytes(&fs::read(&image).unwrap());
    assert_eq!(left_out(&before).len(), 2);
    assert_eq!(left_out(&survey), &left_out(&before)[..1], "the other one is not concerned");
    assert_eq!(survey.notes, ["the swap file /swapfile shares blocks with other files, and is kept"]);
    let lost: ExtentSet = before.allocated.subtract(&survey.allocated);
    assert!(lost.is_empty());
}

#[test]
fn a_volume_in_doubt_keeps_its_swap_files() {
    let bench = Bench::new();
    let tree = tree(&bench, &["/swapfile"], "");
    let image = make(&bench, &tree, "-t ext2 -b 1024", 32 * MIB);
    run("debugfs", &["-w", "-R", "set_bg 2 free_blocks_count 17", &image]);
    let bytes = fs::read(&image).unwrap();
    let survey = survey_bytes(&bytes);
    assert!(!survey.widened.is_empty());
    assert_eq!(left_out(&survey), []);
    assert_eq!(survey.allocated, kept_with(&bytes).allocated);
}

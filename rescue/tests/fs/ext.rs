//! ext2/3/4 in every shape that mke2fs of today and of ten years ago makes.

use std::{collections::BTreeMap, fs, path::PathBuf};

use rescue::fs::State;

use crate::tools::{Bench, hashes, run, run_any, survey_bytes, with_noise};

const MIB: u64 = 1 << 20;

/// Returns every file of an ext image by content, read by debugfs.
pub fn contents(bench: &Bench, image: &str, name: &str) -> BTreeMap<PathBuf, String> {
    let out = bench.dir.path().join(name);
    fs::create_dir(&out).unwrap();
    run("debugfs", &["-R", &format!("rdump / {}", out.to_str().unwrap()), image]);
    hashes(&out)
}

/// Returns a number that dumpe2fs prints.
pub fn number(dump: &str, key: &str) -> u64 {
    let line = dump.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {dump}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn check(name: &str, options: &str, len: u64) {
    let bench = Bench::new();
    let tree = bench.tree(true);
    check_with(&bench, &tree, name, options, len);
}

fn check_with(bench: &Bench, tree: &str, name: &str, options: &str, len: u64) {
    let image = bench.blank("image", len);
    let mut args = vec!["-q", "-F", "-d", tree];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mke2fs", &args);
    fragment(&image);

    let dump = run("dumpe2fs", &["-h", &image]);
    let bytes = fs::read(&image).unwrap();
    let survey = survey_bytes(&bytes);
    assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
    assert_eq!(survey.detected.as_ref().unwrap().state, State::Clean, "{name}");
    let block_size = number(&dump, "Block size:");
    let blocks = number(&dump, "Block count:");
    let used = (blocks - number(&dump, "Free blocks:")) * block_size;
    let slack = len - blocks * block_size;
    assert_eq!(survey.allocated.total(), used + slack, "{name}: exactly what is not free is kept");
    assert!(survey.allocated.total() < len * 2 / 3, "{name}");
    for extent in survey.zeros.iter() {
        let range = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap();
        assert!(bytes[range].iter().all(|byte| *byte == 0), "{name}: {extent} is not zero");
        assert!(survey.allocated.covers(extent), "{name}");
    }
    let checksums = ["uninit_bg", "metadata_csum"].iter().any(|feature| dump.contains(feature));
    assert!(survey.zeros.is_empty() || checksums, "{name}: nothing says that a table is zero");

    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
    assert_eq!(verdict(&copy), verdict(&image), "{name}");
    let (want, got) = (contents(bench, &image, "want"), contents(bench, &copy, "got"));
    ["want", "got"].iter().for_each(|name| fs::remove_dir_all(bench.path(name)).unwrap());
    assert!(want.len() > 50, "{name}: {} files", want.len());
    assert_eq!(got, want, "{name}");
}

/// Returns what the checker says. It is no reason to fail by itself: mke2fs does not count the files it copies into quotas.
pub fn verdict(image: &str) -> (Option<i32>, String) {
    let output = run_any("e2fsck", &["-fn", image]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).replace(image, ""))
}

/// Removes every third file, so that bitmaps have holes.
fn fragment(image: &str) {
    let mut script = String::new();
    for folder in ["etc", "usr/share/doc", "var/lib/deep/er/still"] {
        (0..24).step_by(3).for_each(|number| script.push_str(&format!("rm /{folder}/file{number}.dat\n")));
    }
    let list = format!("{image}.script");
    fs::write(&list, script).unwrap();
    run("debugfs", &["-w", "-f", &list, image]);
}

#[test]
fn an_inode_table_is_zero_only_where_nothing_speaks_against_it() {
    let bench = Bench::new();
    let tree = bench.tree(true);
    let image = bench.blank("image", 40 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-d", &tree, &image]);
    let bytes = fs::read(&image).unwrap();
    let zeros = survey_bytes(&bytes).zeros;
    assert!(zeros.total() > MIB, "{zeros:?}");
    let groups = run("dumpe2fs", &[&image]).matches("ITABLE_ZEROED").count();
    assert_eq!(groups, 5);

    // What a deleted inode left behind the mark is read, and not taken for zero.
    for extent in zeros.iter() {
        for at in [extent.start + 40, extent.end - 1000] {
            let mut stale = bytes.clone();
            stale[usize::try_from(at).unwrap()] = 1;
            let after = survey_bytes(&stale);
            assert!(!after.zeros.contains(at), "{at:#x}: {:?}", after.zeros);
            assert_eq!(after.allocated, survey_bytes(&bytes).allocated);
        }
    }

    // Descriptors that do not add up to the superblock's count may be old, and their checksums right all the same.
    let script = bench.path("script");
    fs::write(&script, "set_bg 1 free_inodes_count 7\nset_bg 1 checksum calc\n").unwrap();
    run("debugfs", &["-w", "-f", &script, &image]);
    let stale = survey_bytes(&fs::read(&image).unwrap());
    assert!(stale.zeros.is_empty() && stale.allocated == survey_bytes(&bytes).allocated, "{:?}", stale.widened);
    fs::write(&image, &bytes).unwrap();

    // A volume that was not unmounted in order may use what its descriptors call unused.
    let script = bench.path("script");
    fs::write(&script, "ssv state 0\n").unwrap();
    run("debugfs", &["-w", "-f", &script, &image]);
    assert!(survey_bytes(&fs::read(&image).unwrap()).zeros.is_empty());
}

fn check_all(cases: &[(&str, &str)]) {
    let bench = Bench::new();
    let tree = bench.tree(true);
    cases.iter().for_each(|(name, options)| check_with(&bench, &tree, name, options, 40 * MIB));
}

#[test]
fn old_and_plain_volumes_keep_every_file() {
    check_all(&[
        ("ext2", "-t ext2"),
        ("ext2, revision 0", "-t ext2 -r 0 -O none"),
        ("ext2, no features", "-t ext2 -O none -b 1024"),
        ("ext2, 2 KiB", "-t ext2 -b 2048"),
        ("ext2, 4 KiB", "-t ext2 -b 4096"),
        ("ext2, every group has a superblock", "-t ext2 -O ^sparse_super,^resize_inode -b 1024"),
        ("ext3", "-t ext3"),
        ("ext3, 4 KiB", "-t ext3 -b 4096 -J size=4"),
        ("small inodes", "-t ext3 -I 128"),
        ("small groups", "-t ext2 -b 1024 -g 1024"),
        ("of the Hurd", "-t ext2 -o hurd"),
    ]);
}

#[test]
fn volumes_of_ten_years_ago_keep_every_file() {
    check_all(&[
        ("ext4 with crc16 descriptors", "-t ext4 -O ^64bit,^metadata_csum,uninit_bg"),
        ("ext4 with crc16 and 64-bit descriptors", "-t ext4 -O 64bit,^metadata_csum,uninit_bg -b 4096"),
        ("ext4 without checksums", "-t ext4 -O ^metadata_csum,^uninit_bg"),
        ("ext4 without flexible groups", "-t ext4 -O ^flex_bg"),
        ("ext4 without flexible groups and checksums", "-t ext4 -O ^flex_bg,^metadata_csum,uninit_bg -b 1024"),
        ("ext4, four groups together", "-t ext4 -G 4 -b 1024"),
        ("ext4 without extents", "-t ext4 -O ^extents,^64bit"),
        ("ext4 with short checksummed descriptors", "-t ext4 -O ^64bit,metadata_csum"),
    ]);
}

#[test]
fn volumes_of_today_keep_every_file() {
    check_all(&[
        ("ext4", "-t ext4"),
        ("ext4, 1 KiB", "-t ext4 -b 1024"),
        ("ext4, 2 KiB", "-t ext4 -b 2048"),
        ("ext4, 4 KiB", "-t ext4 -b 4096"),
        ("ext4, 64 KiB", "-t ext4 -b 65536 -O ^has_journal"),
        ("no journal", "-t ext4 -O ^has_journal"),
        ("long descriptors", "-t ext4 -O 64bit -E desc_size=128"),
        ("packed metadata", "-t ext4 -E packed_meta_blocks=1"),
        ("large inodes", "-t ext4 -I 1024"),
        ("many inodes", "-t ext4 -N 40000 -b 1024"),
    ]);
    check("short last group and slack", "-t ext4 -b 4096", 48 * MIB - 3 * 4096 - 1536);
    check("short last group of small blocks", "-t ext2 -b 1024", 33 * MIB + 700 * 1024);
}

#[test]
fn rare_layouts_keep_every_file() {
    check_all(&[
        ("meta groups", "-t ext4 -O meta_bg,^resize_inode -b 1024"),
        ("meta groups with crc16", "-t ext4 -O meta_bg,^resize_inode,^metadata_csum,uninit_bg -b 1024"),
        ("meta groups without flexible groups", "-t ext4 -O meta_bg,^resize_inode,^flex_bg -b 1024 -g 1024"),
        ("meta groups on ext2", "-t ext2 -O meta_bg,^resize_inode -b 1024 -g 256"),
        ("two backups", "-t ext4 -O sparse_super2,^resize_inode -b 1024"),
        ("one backup", "-t ext4 -O sparse_super2,^resize_inode -b 1024 -E num_backup_sb=1"),
        ("no backup", "-t ext4 -O sparse_super2,^resize_inode -b 1024 -E num_backup_sb=0"),
        ("two backups and the resize inode", "-t ext4 -O sparse_super2 -b 1024"),
    ]);
}

#[test]
fn clusters_are_not_blocks() {
    check_all(&[
        ("clusters", "-t ext4 -O bigalloc -b 4096 -C 16384"),
        ("large clusters", "-t ext4 -O bigalloc -b 4096 -C 65536"),
        ("clusters of small blocks", "-t ext4 -O bigalloc -b 1024 -C 8192"),
        ("clusters with crc16", "-t ext4 -O bigalloc,^metadata_csum,uninit_bg -b 1024 -C 4096"),
        ("clusters without checksums", "-t ext4 -O bigalloc,^metadata_csum,^uninit_bg -b 4096 -C 32768"),
        ("clusters and meta groups", "-t ext4 -O bigalloc,meta_bg,^resize_inode -b 1024 -C 4096"),
        ("clusters in small groups", "-t ext4 -O bigalloc -b 1024 -C 4096 -g 8192"),
    ]);
    check("clusters and a short last one", "-t ext4 -O bigalloc -b 1024 -C 16384", 33 * MIB + 5 * 1024);
}

#[test]
fn features_that_change_files_change_no_map() {
    check_all(&[
        ("inline data", "-t ext4 -O inline_data"),
        ("quota", "-t ext4 -O quota,project"),
        ("multiple mount protection", "-t ext4 -O mmp"),
        ("encryption, verity, case folding", "-t ext4 -O encrypt,verity,casefold,stable_inodes"),
        ("orphan file", "-t ext4 -O orphan_file"),
        ("attribute inodes, large folders", "-t ext4 -O ea_inode,large_dir"),
        ("checksum seed", "-t ext4 -O metadata_csum,metadata_csum_seed"),
        ("fast commits, empty", "-t ext4 -O fast_commit"),
        ("uninitialised tables", "-t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -b 1024"),
    ]);
}

fn make(bench: &Bench, options: &str, len: u64) -> (String, Vec<u8>) {
    let image = bench.blank("image", len);
    let tree = bench.tree(true);
    let mut args = vec!["-q", "-F", "-d", &tree];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mke2fs", &args);
    let bytes = fs::read(&image).unwrap();
    (image, bytes)
}

/// Applies debugfs commands to an image and returns its bytes.
fn edit(image: &str, commands: &[&str]) -> Vec<u8> {
    let list = format!("{image}.edit");
    fs::write(&list, commands.join("\n")).unwrap();
    run("debugfs", &["-w", "-f", &list, image]);
    fs::read(image).unwrap()
}

#[test]
fn what_is_not_understood_is_kept_whole_and_said() {
    for (name, options, commands, says) in [
        ("of the Hurd, not unmounted", "-t ext2 -o hurd", vec!["ssv state 0"], "not unmounted"),
        ("errors and orphans", "-t ext4", vec!["ssv state 2", "ssv last_orphan 12"], "errors"),
        (
            "errors and a broken file",
            "-t ext2 -b 1024",
            vec!["ssv state 3", "sif /etc/file1.dat block[0] 99999999"],
            "is broken: blocks 99999999+1",
        ),
        (
            "not unmounted and a broken descriptor",
            "-t ext4 -b 1024 -O ^has_journal",
            vec!["ssv state 0", "set_bg 1 checksum 1"],
            "not unmounted",
        ),
        (
            "unknown incompatible",
            "-t ext4",
            vec!["ssv feature_incompat 0x800002c2"],
            "unknown incompatible features 0x80000000",
        ),
        ("unknown read-only", "-t ext2", vec!["ssv feature_ro_compat 0x40000003"], "unknown read-only"),
        ("unknown compatible", "-t ext2", vec!["ssv feature_compat 0x40000038"], "unknown compatible"),
        (
            "journal elsewhere, in need",
            "-t ext3",
            vec!["ssv journal_inum 0", "ssv journal_dev 0x801", "ssv feature_incompat 6"],
            "another device",
        ),
        ("bitmap outside", "-t ext2 -b 1024", vec!["set_bg 1 block_bitmap 99999999"], "block bitmap of group 1"),
        (
            "bitmaps shared",
            "-t ext2 -b 1024",
            vec!["set_bg 1 block_bitmap 8200", "set_bg 1 inode_bitmap 8200"],
            "overlap",
        ),
    ] {
        let bench = Bench::new();
        let (image, _) = make(&bench, options, 24 * MIB);
        let survey = survey_bytes(&edit(&image, &commands));
        assert_eq!(survey.allocated.total(), 24 * MIB, "{name}: {survey:?}");
        assert!(survey.widened.iter().any(|why| why.contains(says)), "{name}: {:?}", survey.widened);
    }
}

#[test]
fn a_group_that_contradicts_itself_is_kept_whole() {
    for (name, options, commands, says) in [
        (
            "free count",
            "-t ext2 -b 1024",
            vec!["set_bg 1 free_blocks_count 17"],
            "group 1 kept whole: the block bitmap and the free count",
        ),
        (
            "bitmap",
            "-t ext2 -b 1024",
            vec!["freeb 9000 100", "setb 8193 100", "set_bg 1 free_blocks_count 5"],
            "group 1 kept whole",
        ),
        ("checksum", "-t ext4 -b 1024", vec!["set_bg 1 checksum 1"], "group 1 kept whole: the descriptor's checksum"),
        (
            "bitmap checksum",
            "-t ext4 -b 1024",
            vec!["set_bg 2 block_bitmap_csum 1", "set_bg 2 checksum calc"],
            "group 2 kept whole: the block bitmap's checksum",
        ),
    ] {
        let bench = Bench::new();
        let (image, before) = make(&bench, options, 24 * MIB);
        let clean = survey_bytes(&before);
        let survey = survey_bytes(&edit(&image, &commands));
        assert!(survey.widened.iter().any(|why| why.contains(says)), "{name}: {:?}", survey.widened);
        assert_eq!(survey.detected.unwrap().state, State::Damaged, "{name}");
        assert!(survey.allocated.total() < 24 * MIB, "{name}: other groups are not kept whole");
        assert!(clean.allocated.subtract(&survey.allocated).is_empty(), "{name}: nothing is lost");
    }
}

#[test]
fn a_file_that_the_bitmap_forgot_is_kept() {
    let bench = Bench::new();
    let (image, _) = make(&bench, "-t ext4 -O ^metadata_csum,^uninit_bg,^has_journal -b 1024", 24 * MIB);
    let listed = run("debugfs", &["-R", "blocks /large", &image]);
    let blocks = listed.split_whitespace().map(|block| block.parse::<u64>().unwrap()).collect::<Vec<_>>();
    assert!(blocks.len() > 1000);
    // As many blocks are called used elsewhere, so that every counter agrees.
    let first = blocks[100];
    let free = run("debugfs", &["-R", "ffb 1 20000", &image]);
    let other = free.split_whitespace().last().unwrap().to_owned();
    let bytes = edit(&image, &[&format!("freeb {first} 1"), &format!("setb {other} 1")]);
    let survey = survey_bytes(&bytes);
    assert!(
        survey.allocated.covers(rescue::extent::Extent::new(first * 1024, first * 1024 + 1024)),
        "{:?}",
        survey.widened
    );
    assert!(!survey.widened.is_empty());
}

/// Returns the bytes of the superblock, all descriptors and all bitmaps of an image: what lies before the first table.
fn front(image: &str) -> usize {
    let dump = run("dumpe2fs", &[image]);
    let table = dump.split("Inode table at ").nth(1).unwrap().split('-').next().unwrap();
    usize::try_from(table.parse::<u64>().unwrap() * number(&dump, "Block size:")).unwrap()
}

#[test]
fn inodes_behind_the_mark_of_unused_ones_keep_everything() {
    for (name, options, state) in [
        ("checksums", "-t ext4 -b 4096", State::Damaged),
        ("small inodes", "-t ext4 -b 1024 -I 128", State::Damaged),
        ("tables not zeroed", "-t ext4 -b 4096 -E lazy_itable_init=1,nodiscard", State::Damaged),
        (
            "checksums of descriptors",
            "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg -E lazy_itable_init=0",
            State::Damaged,
        ),
        (
            "nothing to tell them by",
            "-t ext4 -b 4096 -O ^metadata_csum,uninit_bg -E lazy_itable_init=1,nodiscard",
            State::Clean,
        ),
    ] {
        let bench = Bench::new();
        let (image, before) = make(&bench, options, 24 * MIB);
        assert_eq!(survey_bytes(&before).widened, Vec::<String>::new(), "{name}");
        let (file, _) = (bench.path("file"), fs::write(bench.path("file"), [7; 20_000]).unwrap());
        let new = (0..40).map(|number| format!("write {file} new{number}")).collect::<Vec<_>>();
        let mut bytes = edit(&image, &new.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(survey_bytes(&bytes).widened, Vec::<String>::new(), "{name}");

        // What was written to the front of the disk is lost: all that is there is of one time, and in order.
        let end = front(&image);
        bytes[..end].copy_from_slice(&before[..end]);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 24 * MIB, "{name}: {survey:?}");
        assert!(survey.widened[0].contains("is in use, and its group calls it never used"), "{:?}", survey.widened);
        assert_eq!((survey.detected.unwrap().state, survey.zeros.is_empty()), (state, true), "{name}");
    }
}

#[test]
fn what_else_lies_behind_the_mark_of_unused_inodes_widens_nothing() {
    // Tables of the file system that was there before, which the kernel has yet to zero.
    for size in ["256", "128"] {
        let bench = Bench::new();
        let (image, old) = make(&bench, &format!("-t ext4 -b 1024 -I {size} -N 6000"), 24 * MIB);
        let options = format!("-q -F -t ext4 -b 1024 -I {size} -N 6000 -E lazy_itable_init=1,nodiscard");
        run("mke2fs", &options.split(' ').chain([image.as_str()]).collect::<Vec<_>>());
        let bytes = fs::read(&image).unwrap();
        let end = front(&image);
        let kept = bytes[end + 4096..].iter().zip(&old[end + 4096..]).take(8192).filter(|(a, b)| a == b && **a != 0);
        assert!(kept.count() > 500, "nothing is left of the old tables");
        let survey = survey_bytes(&bytes);
        let dump = run("dumpe2fs", &["-h", &image]);
        let used = (number(&dump, "Block count:") - number(&dump, "Free blocks:")) * 1024;
        assert_eq!((survey.allocated.total(), &survey.widened), (used, &vec![]), "{size}");
        assert_eq!(survey.detected.unwrap().state, State::Clean);
        assert!(survey.zeros.iter().all(|extent| {
            let range = usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap();
            bytes[range].iter().all(|byte| *byte == 0)
        }));
    }

    // Inodes that were deleted before a checker lowered the mark.
    let bench = Bench::new();
    let (image, _) = make(&bench, "-t ext4 -b 4096", 24 * MIB);
    let file = bench.path("file");
    fs::write(&file, [7; 20_000]).unwrap();
    let unused = |image: &str| {
        let dump = run("dumpe2fs", &[image]);
        let line = dump.lines().find(|line| line.contains("unused inodes")).unwrap().to_owned();
        line.split(", ").last().unwrap().split(' ').next().unwrap().to_owned()
    };
    let mark = unused(&image);
    let new = (0..80).map(|number| format!("write {file} new{number}"));
    let gone = (0..80).map(|number| format!("rm new{number}"));
    let lowered = [format!("set_bg 0 itable_unused {mark}"), "set_bg 0 checksum calc".to_owned()];
    let commands = new.chain(gone).chain(lowered).collect::<Vec<_>>();
    let survey = survey_bytes(&edit(&image, &commands.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!((unused(&image), &survey.widened), (mark, &vec![]));
    assert_eq!(survey.detected.unwrap().state, State::Clean);
}

#[test]
fn a_file_on_the_structures_of_the_file_system_keeps_everything() {
    for options in [
        "-t ext4 -b 1024 -O ^extents,^64bit,^metadata_csum,uninit_bg -E lazy_itable_init=0",
        "-t ext4 -b 1024 -O ^extents,^64bit",
    ] {
        let bench = Bench::new();
        let (image, before) = make(&bench, options, 24 * MIB);
        let zeros = survey_bytes(&before).zeros;
        let tail = zeros.iter().max_by_key(|extent| extent.len()).unwrap();
        // Neither the first block of the tail, nor the last.
        let block = (tail.start + tail.len() / 2) / 1024;
        let mut bytes = edit(&image, &[&format!("sif /etc/file3.dat block[0] {block}")]);
        let at = usize::try_from(block * 1024).unwrap();
        bytes[at..at + 1000].fill(7);
        let survey = survey_bytes(&bytes);
        assert_eq!((survey.allocated.total(), survey.zeros.total()), (24 * MIB, 0), "{options}: {survey:?}");
        assert!(survey.widened[0].contains("has blocks of the file system's own"), "{:?}", survey.widened);
        assert_eq!(survey.detected.unwrap().state, State::Damaged, "{options}");
    }
}

#[test]
fn files_vouch_for_the_bitmaps_where_nothing_else_does() {
    for (name, options, state, says) in [
        ("errors", "-t ext4 -b 1024", 3, State::Damaged),
        ("errors, not unmounted", "-t ext2 -b 1024", 2, State::Damaged),
        ("not unmounted", "-t ext2 -b 1024", 0, State::Dirty),
        ("not unmounted, checksums", "-t ext4 -b 1024 -O ^has_journal", 0, State::Dirty),
        ("not unmounted, lazy tables", "-t ext4 -b 1024 -O ^has_journal -E lazy_itable_init=1", 0, State::Dirty),
    ]
    .map(|(name, options, value, state)| (name, options, format!("ssv state {value}"), state))
    {
        let bench = Bench::new();
        let (image, before) = make(&bench, options, 24 * MIB);
        let clean = survey_bytes(&before);
        let survey = survey_bytes(&edit(&image, &[&state]));
        assert_eq!((&survey.allocated, &survey.widened), (&clean.allocated, &vec![]), "{name}");
        assert!(survey.notes[0].contains("every file was compared"), "{name}: {:?}", survey.notes);
        assert_eq!(survey.detected.unwrap().state, says, "{name}");
        if options.contains("ext2") {
            // The bitmap is as old as before the file was written.
            let listed = run("debugfs", &["-R", "blocks /large", &image]);
            let first: u64 = listed.split_whitespace().nth(40).unwrap().parse().unwrap();
            let bytes = edit(&image, &[&format!("freeb {first} 20")]);
            let survey = survey_bytes(&bytes);
            assert!(clean.allocated.subtract(&survey.allocated).is_empty(), "{name}");
            assert!(!survey.widened.is_empty(), "{name}");
        }
    }
}

#[test]
fn a_broken_primary_superblock_is_found_by_its_copy_and_everything_is_kept() {
    for options in ["-t ext4 -b 1024 -L lost", "-t ext2 -b 2048 -L lost", "-t ext4 -b 1024 -O ^metadata_csum -L lost"] {
        let bench = Bench::new();
        let (_, mut bytes) = make(&bench, options, 48 * MIB);
        bytes[1024..2048].fill(0);
        let survey = survey_bytes(&bytes);
        let found = survey.detected.unwrap();
        assert_eq!((found.label.as_deref(), found.state), (Some("lost"), State::Damaged), "{options}");
        assert_eq!(survey.allocated.total(), 48 * MIB);
        assert!(survey.widened[0].contains("superblock"), "{:?}", survey.widened);
    }
}

#[test]
fn the_bytes_behind_the_file_system_are_kept() {
    let bench = Bench::new();
    let image = bench.blank("image", 24 * MIB + 5000);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", &image, "16m"]);
    let survey = survey_bytes(&fs::read(&image).unwrap());
    assert!(survey.allocated.covers(rescue::extent::Extent::new(16 * MIB, 24 * MIB + 5000)));
    assert!(survey.allocated.total() < 20 * MIB);
}

#[test]
fn a_file_system_longer_than_its_region_is_kept_whole() {
    let bench = Bench::new();
    let (_, bytes) = make(&bench, "-t ext4 -b 1024", 24 * MIB);
    let survey = survey_bytes(&bytes[..20_000_000]);
    assert_eq!(survey.allocated.total(), 20_000_000);
    assert!(survey.widened[0].contains("25165824 bytes long"), "{:?}", survey.widened);
}

#[test]
fn a_journal_device_is_kept_whole() {
    let bench = Bench::new();
    let image = bench.blank("journal", 8 * MIB);
    run("mke2fs", &["-q", "-F", "-O", "journal_dev", "-b", "1024", &image]);
    let survey = survey_bytes(&fs::read(&image).unwrap());
    assert_eq!(survey.detected.unwrap().name, "jbd");
    assert_eq!(survey.allocated.total(), 8 * MIB);
}

#[test]
fn the_noise_is_seen_by_the_oracle() {
    let bench = Bench::new();
    let (image, bytes) = make(&bench, "-t ext4 -b 4096", 24 * MIB);
    let mut survey = survey_bytes(&bytes);
    let listed = run("debugfs", &["-R", "blocks /large", &image]);
    let block: u64 = listed.split_whitespace().nth(3).unwrap().parse().unwrap();
    survey.allocated.remove(rescue::extent::Extent::new(block * 4096, block * 4096 + 4096));
    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
    assert!(run_any("e2fsck", &["-fn", &copy]).status.success(), "a checker does not look into files");
    assert_ne!(contents(&bench, &copy, "got"), contents(&bench, &image, "want"));
}

//! Btrfs in every shape that mkfs.btrfs makes, judged by `btrfs check`, by what `dump-tree` prints, and by content.

mod damage;
mod mounted;
mod oracle;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use rescue::{block::ReadAt, extent::Extent, fs::State};

use crate::tools::{Bench, run, run_any};
use oracle::{
    FileRegion, MIB, check_image, dump, noise_copy, numbers, run_at, survey_file, tree_blocks, verdict, with_fixed,
};

fn make(bench: &Bench, options: &str, len: u64) -> String {
    let image = bench.blank("image", len);
    let tree = bench.path("tree");
    if !PathBuf::from(&tree).exists() {
        bench.tree(true);
    }
    let mut args = vec!["-q", "-f", "-L", "some label", "--rootdir", &tree];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mkfs.btrfs", &args);
    image
}

fn check_all(len: u64, cases: &[&str]) {
    let bench = Bench::new();
    for options in cases {
        let image = make(&bench, options, len);
        let (code, said) = verdict(&image);
        assert_eq!(code, Some(0), "{options}: {said}");
        check_image(&bench, options, &image);
    }
}

#[test]
fn every_pair_of_profiles_keeps_every_mirror() {
    check_all(
        160 * MIB,
        &[
            "-m dup -d single",
            "-m single -d single",
            "-m dup -d dup",
            "-m single -d dup",
            "--mixed -m single -d single",
            "--mixed -m dup -d dup -n 4096",
            "-m raid0 -d raid0",
        ],
    );
}

#[test]
fn every_size_of_blocks_keeps_every_file() {
    check_all(
        160 * MIB,
        &["-n 4096", "-n 8192 -m single", "-n 32768", "-n 65536", "-s 16384 -n 16384", "-s 65536 -n 65536"],
    );
}

#[test]
fn every_checksum_is_checked() {
    check_all(128 * MIB, &["--csum crc32c", "--csum xxhash", "--csum sha256", "--csum blake2"]);
}

#[test]
fn features_that_change_trees_keep_every_file() {
    check_all(
        128 * MIB,
        &[
            "-O ^no-holes",
            "-O ^skinny-metadata",
            "-O ^skinny-metadata,^no-holes,^extref -n 4096",
            "-R free-space-tree",
            "-R ^free-space-tree",
            "-R quota",
            "-O raid1c34,raid56",
        ],
    );
}

/// Tells whether this mkfs.btrfs makes file systems with `feature`, and says so where it does not.
fn offers(feature: &str) -> bool {
    // The list goes to standard error.
    let output = run_any("mkfs.btrfs", &["-O", "list-all"]);
    let text = [output.stdout, output.stderr].concat();
    let found = String::from_utf8_lossy(&text).lines().any(|line| line.starts_with(&format!("{feature} ")));
    if !found {
        crate::tools::not_run(&format!("this mkfs.btrfs is too old to make file systems with {feature}"));
    }
    found
}

#[test]
fn features_of_newer_tools_keep_every_file() {
    for feature in ["block-group-tree", "squota"] {
        if offers(feature) {
            check_all(
                128 * MIB,
                &[&format!("-O {feature}"), &format!("-O ^{feature}"), &format!("-n 4096 -O {feature}")],
            );
        }
    }
    for (feature, says) in
        [("raid-stripe-tree", "it has a stripe tree"), ("extent-tree-v2", "second version of the extent tree")]
    {
        if offers(feature) {
            let bench = Bench::new();
            let image = bench.blank("image", 160 * MIB);
            run("mkfs.btrfs", &["-q", "-f", "-O", feature, &image]);
            let survey = survey_file(&image);
            assert_eq!(survey.allocated.total(), 160 * MIB, "{feature}");
            assert!(survey.widened[0].contains(says), "{feature}: {:?}", survey.widened);
        }
    }
}

#[test]
fn a_changed_uuid_changes_no_map() {
    for change in ["-m", "-u"] {
        let bench = Bench::new();
        let image = make(&bench, "", 128 * MIB);
        let before = survey_file(&image).detected.unwrap().uuid;
        run("btrfstune", &["-f", change, &image]);
        let survey = check_image(&bench, change, &image);
        assert_ne!(survey.detected.unwrap().uuid, before);
    }
}

#[test]
fn a_second_superblock_beyond_64_mebibytes_is_kept_and_the_slack_as_well() {
    let bench = Bench::new();
    let image = make(&bench, "-b 134217728", 128 * MIB);
    File::options().write(true).open(&image).unwrap().set_len(128 * MIB + 5000).unwrap();
    let survey = survey_file(&image);
    assert!(survey.allocated.covers(Extent::new(128 * MIB, 128 * MIB + 5000)));
    assert!(survey.allocated.covers(Extent::new(64 * MIB, 64 * MIB + 4096)));
    assert!(survey.allocated.total() < 40 * MIB);
    let found = survey.detected.unwrap();
    assert_eq!((found.label.as_deref(), found.block_size), (Some("some label"), Some(4096)));
}

/// Changes bytes of the superblock at `offset`, with a right checksum.
fn edit_super(image: &str, offset: u64, edits: &[(usize, &[u8])]) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut sb = vec![0; 4096];
    file.read_exact_at(&mut sb, offset).unwrap();
    edits.iter().for_each(|(at, bytes)| sb[*at..at + bytes.len()].copy_from_slice(bytes));
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&sb[32..]);
    sb[..4].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&sb, offset).unwrap();
}

#[test]
fn what_is_not_understood_is_kept_whole_and_said() {
    for (name, at, bytes, says) in [
        ("zoned", 189, vec![0x13], "zoned"),
        ("second extent tree", 189, vec![0x23], "second version of the extent tree"),
        ("stripe tree", 189, vec![0x43], "stripe tree"),
        ("remap tree", 190, vec![0x02], "remap tree"),
        ("unknown incompatible", 193, vec![1], "unknown incompatible features 0x10000000000"),
        ("unknown read-only", 181, vec![1], "unknown read-only compatible features 0x100"),
        ("unknown compatible", 172, vec![4], "unknown compatible features 0x4"),
        ("old references", 188, vec![0x40], "before 2009"),
        ("errors", 56, vec![5], "has errors"),
        ("UUID in change", 60, vec![8], "UUID in all its tree blocks"),
        ("checksums in change", 61, vec![1], "checksums of its tree blocks"),
        ("unknown flag", 63, vec![1], "unknown flags 0x100000000000000"),
        ("replacement's target", 201, vec![0], "replacement"),
        ("another device", 267, vec![0x5a; 16], "another UUID"),
        ("too long", 209, (129 * MIB).to_le_bytes().to_vec(), "uses 135266304 bytes of its device"),
        ("chunk root", 88, (1u64 << 40).to_le_bytes().to_vec(), "the chunk tree is broken"),
        ("chunk generation", 164, vec![99], "has generation"),
    ] {
        let bench = Bench::new();
        let image = make(&bench, "", 128 * MIB);
        edit_super(&image, 65536, &[(at, &bytes)]);
        edit_super(&image, 64 * MIB, &[(at, &bytes)]);
        let survey = survey_file(&image);
        assert_eq!(survey.allocated.total(), 128 * MIB, "{name}: {survey:?}");
        assert!(survey.widened.iter().any(|why| why.contains(says)), "{name}: {:?}", survey.widened);
    }
}

#[test]
fn a_counter_of_more_chunks_than_there_are_is_believed_unless_two_trees_speak_against_it() {
    let bench = Bench::new();
    let image = make(&bench, "-m single", 128 * MIB);
    let clean = survey_file(&image).allocated;
    edit_super(&image, 65536, &[(217, &(120 * MIB).to_le_bytes())]);
    let survey = survey_file(&image);
    assert!(survey.notes[0].contains("counts 120 MiB in chunks"), "{:?}", survey.notes);
    assert_eq!(survey.allocated, clean);

    let place = tree_blocks(&image)["DEV_TREE"][0][0];
    File::options().write(true).open(&image).unwrap().write_all_at(&[0x77; 64], place + 200).unwrap();
    let survey = survey_file(&image);
    assert!(survey.widened[0].contains("no device tree confirms"), "{:?}", survey.widened);
    assert_eq!(survey.allocated.total(), 128 * MIB);
}

#[test]
fn superblocks_that_disagree_are_said() {
    let bench = Bench::new();
    let image = make(&bench, "", 128 * MIB);
    let clean = survey_file(&image).allocated;
    let before = fs::read(&image).unwrap();
    let file = File::options().write(true).open(&image).unwrap();

    file.write_all_at(&[0; 512], 65536).unwrap();
    let survey = survey_file(&image);
    let found = survey.detected.unwrap();
    assert_eq!((found.label.as_deref(), found.state), (Some("some label"), State::Damaged));
    assert!(survey.widened[0].contains("(there is none); there is a copy at byte 0x4000000"), "{:?}", survey.widened);
    assert_eq!(survey.allocated.total(), 128 * MIB);

    file.write_all_at(&before[65536..65536 + 512], 65536).unwrap();
    file.write_all_at(b"broken", 65536 + 1000).unwrap();
    let survey = survey_file(&image);
    let found = survey.detected.unwrap();
    assert_eq!((found.label.as_deref(), found.state), (Some("some label"), State::Damaged));
    assert!(
        survey.widened[0].contains("(its checksum is wrong); there is a copy at byte 0x4000000"),
        "{:?}",
        survey.widened
    );
    assert!(clean.subtract(&survey.allocated).is_empty());
    assert!(survey.allocated.total() < 128 * MIB);

    file.write_all_at(&before[65536..65536 + 4096], 65536).unwrap();
    edit_super(&image, 64 * MIB, &[(72, &1u64.to_le_bytes())]);
    let survey = survey_file(&image);
    assert!(survey.notes[0].contains("is of generation 1"), "{:?}", survey.notes);
    assert_eq!(survey.allocated, clean);

    edit_super(&image, 64 * MIB, &[(72, &999u64.to_le_bytes())]);
    let survey = survey_file(&image);
    assert!(survey.widened[0].contains("is of generation 999"), "{:?}", survey.widened);
    assert_eq!(survey.allocated.total(), 128 * MIB);

    file.write_all_at(b"broken", 64 * MIB + 100).unwrap();
    let survey = survey_file(&image);
    assert!(survey.notes[0].contains("the superblock at byte 0x4000000 is broken"), "{:?}", survey.notes);
    assert_eq!(survey.allocated, clean);
}

#[test]
fn a_broken_first_mirror_is_read_from_the_second() {
    let bench = Bench::new();
    let image = make(&bench, "-m dup", 160 * MIB);
    let clean = survey_file(&image);
    let before = verdict(&image);
    assert_eq!(before.0, Some(0));
    let file = File::options().write(true).open(&image).unwrap();
    for (owner, blocks) in tree_blocks(&image) {
        let place = blocks[0][0];
        let mut was = vec![0; 4096];
        FileRegion::open(&image).read_exact_at(&mut was, place).unwrap();
        file.write_all_at(&[0x77; 64], place + 200).unwrap();
        let survey = survey_file(&image);
        assert_eq!(survey.allocated, clean.allocated, "{owner}");
        if ["ROOT_TREE", "CHUNK_TREE", "EXTENT_TREE", "DEV_TREE", "FS_TREE"].contains(&owner.as_str()) {
            assert_eq!(survey.detected.unwrap().state, State::Damaged, "{owner}");
            assert!(survey.notes[0].contains("a mirror of it is good"), "{owner}: {:?}", survey.notes);
        }
        file.write_all_at(&was, place).unwrap();
    }
}

#[test]
fn broken_trees_keep_what_they_can_no_longer_tell() {
    for (owner, whole, says) in [
        ("CHUNK_TREE", true, "the chunk tree is broken"),
        ("ROOT_TREE", true, "no device tree confirms the chunk tree"),
        ("DEV_TREE", true, "no device tree confirms the chunk tree"),
        ("EXTENT_TREE", false, "that may tell of it cannot be read"),
    ] {
        let bench = Bench::new();
        let image = make(&bench, "-m single", 160 * MIB);
        let clean = survey_file(&image);
        let file = File::options().write(true).open(&image).unwrap();
        let blocks = tree_blocks(&image);
        blocks[owner].iter().flatten().for_each(|place| file.write_all_at(&[0x77; 64], place + 200).unwrap());
        let survey = survey_file(&image);
        assert!(survey.widened.iter().any(|why| why.contains(says)), "{owner}: {:?}", survey.widened);
        assert_eq!(survey.detected.unwrap().state, State::Damaged, "{owner}");
        assert!(clean.allocated.subtract(&survey.allocated).is_empty(), "{owner}");
        assert_eq!(survey.allocated.total() == 160 * MIB, whole, "{owner}");
    }
}

#[test]
fn the_noise_is_seen_by_the_oracle() {
    let bench = Bench::new();
    let image = make(&bench, "-m dup -d single", 128 * MIB);
    let mut survey = survey_file(&image);
    let text = run("btrfs", &["inspect-internal", "dump-tree", "-t", "fs", &image]);
    let line = text.lines().find(|line| line.contains("extent data disk byte")).unwrap();
    let logical = numbers(line)[0];
    let dump = dump(&[&image]);
    let chunk = dump.chunks.iter().find(|chunk| chunk.logical.contains(logical)).unwrap();
    survey.allocated.remove(run_at(chunk.stripes[0].1 + logical - chunk.logical.start, 4096));
    let copy = bench.path("copy");
    noise_copy(&image, &copy, &survey);
    assert_ne!(verdict(&copy), verdict(&image));
}

#[test]
fn members_of_several_devices_keep_what_they_hold() {
    for (count, options) in [
        (2, "-m raid1 -d raid0"),
        (2, "-m raid1 -d raid1"),
        (2, "-m raid0 -d raid0"),
        (2, "-m dup -d single"),
        (2, "-m single -d single"),
        (3, "-m raid1 -d single"),
        (3, "-m raid1c3 -d raid5"),
        (3, "-m raid5 -d raid5"),
        (4, "-m raid10 -d raid10"),
        (4, "-m raid1c4 -d raid6"),
        (4, "-m raid6 -d raid0"),
    ] {
        let bench = Bench::new();
        let devices = (1..=count).map(|number| bench.blank(&format!("disk{number}"), 300 * MIB)).collect::<Vec<_>>();
        let mut args = vec!["-q", "-f"];
        args.extend(options.split_whitespace());
        args.extend(devices.iter().map(String::as_str));
        run("mkfs.btrfs", &args);
        let names = devices.iter().map(String::as_str).collect::<Vec<_>>();
        let dump = dump(&names);
        for (devid, device) in (1..).zip(&devices) {
            let what = format!("{options}, device {devid}");
            let survey = survey_file(device);
            let needed = with_fixed(&dump.on_device(devid), 300 * MIB);
            let lost = needed.subtract(&survey.allocated);
            assert!(lost.is_empty(), "{what}: {lost:?} is in use and not kept: {:?}", survey.widened);
            assert_eq!(survey.widened.len(), 1, "{what}: {:?}", survey.widened);
            if survey.allocated.total() == 300 * MIB {
                assert!(survey.widened[0].contains("the chunk tree is not on this device"), "{:?}", survey.widened);
            } else {
                let says = format!("spread over {count} devices");
                assert!(survey.widened[0].contains(&says), "{what}: {:?}", survey.widened);
                assert_eq!(survey.allocated, with_fixed(&dump.allocated(devid), 300 * MIB), "{what}");
                assert_eq!(survey.detected.unwrap().state, State::Clean, "{what}: {:?}", survey.notes);
            }
        }
    }
}

//! Journals that need recovery: what a recovery brings back must have been kept.
//!
//! A file is written to a copy of the volume. Its data goes into the original as well (data reaches the disk before
//! the transaction that makes it part of a file), its metadata only as a transaction in the journal. Recovering the
//! volume, or its noise copy, must then give the file back.

use std::{fs, path::Path};

use rescue::{extent::Extent, fs::State};

use crate::{
    ext::contents,
    tools::{Bench, Noise, run, run_any, survey_bytes, with_noise},
};

const BLOCK: usize = 1024;
const LEN: u64 = 24 << 20;

/// A volume whose newest file exists only in its journal.
struct Dirty {
    bench: Bench,
    image: String,
    /// Blocks of the new file's data.
    data: Vec<u64>,
}

/// * `open`: options for opening the journal, which choose its checksums.
/// * `commit`: whether the transaction is complete.
fn dirty(options: &str, open: &str, commit: bool) -> Dirty {
    let bench = Bench::new();
    let (tree, image, after) = (bench.tree(false), bench.blank("image", LEN), bench.path("after"));
    let mut args = vec!["-q", "-F", "-b", "1024", "-d", &tree];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mke2fs", &args);
    fs::write(bench.path("new"), Noise(99).take(3_000_000)).unwrap();
    fs::copy(&image, &after).unwrap();
    debugfs(&after, &[format!("write {} /new", bench.path("new"))]);
    let listed = run("debugfs", &["-R", "blocks /new", &after]);
    let data = listed.split_whitespace().map(|block| block.parse::<u64>().unwrap()).collect::<Vec<_>>();

    let (mut old, new) = (fs::read(&image).unwrap(), fs::read(&after).unwrap());
    let range = |block: u64| usize::try_from(block).unwrap() * BLOCK..(usize::try_from(block).unwrap() + 1) * BLOCK;
    data.iter().for_each(|block| old[range(*block)].copy_from_slice(&new[range(*block)]));
    fs::write(&image, &old).unwrap();
    // The superblock's counters are made anew by any recovery.
    let metadata = (2..LEN / 1024).filter(|block| old[range(*block)] != new[range(*block)]).collect::<Vec<_>>();
    let copies = metadata.iter().flat_map(|block| new[range(*block)].to_vec()).collect::<Vec<_>>();
    fs::write(bench.path("copies"), copies).unwrap();
    let list = metadata.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut commands = vec![format!("jo {open}")];
    if commit {
        commands.push(format!("jw -b {list} {}", bench.path("copies")));
    } else {
        // Only behind a complete transaction does an incomplete one look like a crash.
        fs::write(bench.path("zeros"), [0; BLOCK]).unwrap();
        commands.push(format!("jw -b 20000 {}", bench.path("zeros")));
        commands.push(format!("jw -c -b {list} {}", bench.path("copies")));
    }
    commands.push("jc".to_owned());
    debugfs(&image, &commands);
    Dirty { bench, image, data }
}

fn debugfs(image: &str, commands: &[String]) {
    let list = format!("{image}.commands");
    fs::write(&list, commands.join("\n")).unwrap();
    run("debugfs", &["-w", "-f", &list, image]);
}

/// Lets the checker recover a volume, and returns its files.
fn recovered(dirty: &Dirty, bytes: &[u8], name: &str) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    let path = dirty.bench.path(&format!("{name}.img"));
    fs::write(&path, bytes).unwrap();
    let status = run_any("e2fsck", &["-fy", &path]).status.code().unwrap();
    assert!(status <= 1, "e2fsck ends with {status}");
    run("e2fsck", &["-fn", &path]);
    contents(&dirty.bench, &path, name)
}

#[test]
fn what_a_recovery_brings_back_was_kept() {
    for (name, options, open) in [
        ("ext4, no checksums", "-t ext4", ""),
        ("ext4, checksums 2", "-t ext4", "-c -v 2"),
        ("ext4, checksums 3", "-t ext4", "-c -v 3"),
        ("ext4, 32 bit", "-t ext4 -O ^64bit", ""),
        ("ext4, 32 bit, checksums 2", "-t ext4 -O ^64bit", "-c -v 2"),
        ("ext4, 32 bit, checksums 3", "-t ext4 -O ^64bit", "-c -v 3"),
        ("ext3", "-t ext3", ""),
        ("crc16 descriptors, uninitialised groups", "-t ext4 -O ^metadata_csum,uninit_bg", ""),
        ("clusters", "-t ext4 -O bigalloc -C 8192", "-c -v 3"),
    ] {
        let dirty = dirty(options, open, true);
        let bytes = fs::read(&dirty.image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.detected.as_ref().unwrap().state, State::Dirty, "{name}: {:?}", survey.widened);
        assert!(survey.widened.iter().any(|why| why.contains("journal")), "{name}: {:?}", survey.widened);
        assert!(survey.allocated.total() < LEN * 3 / 4, "{name}: {:?}", survey.widened);
        for block in &dirty.data {
            assert!(survey.allocated.covers(Extent::new(block * 1024, block * 1024 + 1024)), "{name}: block {block}");
        }
        let want = recovered(&dirty, &bytes, "want");
        assert!(want.contains_key(Path::new("new")), "{name}: the recovery works");
        assert_eq!(recovered(&dirty, &with_noise(&bytes, &survey), "got"), want, "{name}");
    }
}

#[test]
fn a_transaction_without_its_end_counts_as_well() {
    let dirty = dirty("-t ext4", "-c -v 3", false);
    let survey = survey_bytes(&fs::read(&dirty.image).unwrap());
    for block in &dirty.data {
        assert!(survey.allocated.covers(Extent::new(block * 1024, block * 1024 + 1024)));
    }
}

#[test]
fn a_damaged_log_keeps_everything() {
    let dirty = dirty("-t ext4", "-c -v 3", true);
    let listed = run("debugfs", &["-R", "blocks <8>", &dirty.image]);
    let log = listed.split_whitespace().map(|block| block.parse::<usize>().unwrap()).collect::<Vec<_>>();
    let bytes = fs::read(&dirty.image).unwrap();
    // The superblock of the journal, the descriptor with its tags, a copy.
    for (what, block, at) in
        [("superblock", 0, 0x1c), ("superblock", 0, 0), ("descriptor", 1, 20), ("descriptor", 1, 0), ("copy", 3, 5)]
    {
        let mut bytes = bytes.clone();
        bytes[log[block] * BLOCK + at] ^= 0x41;
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), LEN, "{what}, byte {at}: {:?}", survey.widened);
        assert!(survey.widened[0].contains("journal"), "{:?}", survey.widened);
    }
}

#[test]
fn a_journal_with_data_is_read_although_the_flag_is_gone() {
    let dirty = dirty("-t ext4", "", true);
    debugfs(&dirty.image, &["feature ^needs_recovery".to_owned()]);
    let survey = survey_bytes(&fs::read(&dirty.image).unwrap());
    for block in &dirty.data {
        assert!(survey.allocated.covers(Extent::new(block * 1024, block * 1024 + 1024)));
    }
}

#[test]
fn a_revoked_block_and_an_escaped_one_do_no_harm() {
    let dirty = dirty("-t ext4", "-c -v 3", true);
    // A block that begins like the journal itself is escaped in the log.
    let mut magic = vec![0xc0, 0x3b, 0x39, 0x98];
    magic.resize(BLOCK, 7);
    fs::write(dirty.bench.path("magic"), magic).unwrap();
    let write = format!("jw -b 20001 {}", dirty.bench.path("magic"));
    debugfs(&dirty.image, &["jo -c -v 3".to_owned(), write, "jw -r 20002".to_owned(), "jc".to_owned()]);
    let survey = survey_bytes(&fs::read(&dirty.image).unwrap());
    assert!(survey.allocated.covers(Extent::new(20001 * 1024, 20002 * 1024)), "{:?}", survey.widened);
    assert!(survey.allocated.total() < LEN);
}

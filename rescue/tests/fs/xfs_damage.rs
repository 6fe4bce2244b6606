//! Damaged and unusual XFS: what is not understood is kept, and said.

use std::{
    fs,
    time::{Duration, Instant},
};

use crc::{Algorithm, Crc};
use rescue::{
    extent::{Extent, ExtentSet},
    fs::{Options, State, survey},
};

use crate::{
    damage::{Patched, changes},
    tools::{Bench, Noise, survey_bytes},
    xfs::{MIB, make, make_with, number},
};

const CASES: usize = 300;

/// Makes the checksum of the structure of `len` bytes at `start` right again.
fn fix(bytes: &mut [u8], start: usize, len: usize, at: usize) {
    static CRC: Crc<u32> = Crc::<u32>::new(&Algorithm { ..crc::CRC_32_ISCSI });
    bytes[start + at..start + at + 4].fill(0);
    let crc = CRC.checksum(&bytes[start..start + len]);
    bytes[start + at..start + at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The places of a group's structures in an image.
struct Group {
    start: usize,
    /// Roots of the trees by block and by length, of inodes, and, where there are any, of free inodes, used runs.
    roots: Vec<usize>,
}

const SMALL: &str = "-b size=1024 -d agcount=3 -l size=6m";

fn group(image: &str, group: u64) -> Group {
    let [block, per_group] = ["blocksize", "agblocks"].map(|field| number(image, "sb 0", field));
    let (agf, agi) = (format!("agf {group}"), format!("agi {group}"));
    let at = |block_in_group: u64| usize::try_from((group * per_group + block_in_group) * block).unwrap();
    let mut roots = vec![number(image, &agf, "bnoroot"), number(image, &agf, "cntroot"), number(image, &agi, "root")];
    if number(image, "sb 0", "features_ro_compat") & 1 != 0 {
        roots.push(number(image, &agi, "free_root"));
    }
    if number(image, "sb 0", "features_ro_compat") & 2 != 0 {
        roots.push(number(image, &agf, "rmaproot"));
    }
    Group { start: at(0), roots: roots.into_iter().map(at).collect() }
}

#[test]
fn what_is_not_understood_is_kept_whole_and_said() {
    type Edit = fn(&mut [u8]);
    let cases: [(&str, &str, Edit, &str, State); 8] = [
        ("unknown incompatible", "", |b| b[218] |= 2, "unknown incompatible features 0x200", State::Unknown),
        (
            "unknown read-only",
            "",
            |b| b[212] |= 0x80,
            "unknown read-only compatible features 0x80000000",
            State::Unknown,
        ),
        ("unknown compatible", "", |b| b[211] |= 1, "unknown compatible features 0x1", State::Unknown),
        ("needs repair", "", |b| b[219] |= 0x10, "needs a repair", State::Damaged),
        ("in progress", "", |b| b[126] = 1, "never finished", State::Damaged),
        ("half the group", "", |b| b[86] ^= 1, "the superblock contradicts itself", State::Damaged),
        ("free blocks", "", |b| b[151] = b[151].wrapping_sub(1), "free blocks, the groups", State::Damaged),
        (
            "another shape",
            "-m crc=0,finobt=0",
            |b| b[13..16].copy_from_slice(&[0, 0xff, 0xff]),
            "is of another shape",
            State::Damaged,
        ),
    ];
    for (name, options, edit, says, state) in cases {
        let bench = Bench::new();
        let (_, mut bytes) = make(&bench, &format!("{SMALL} {options}"), 64 * MIB);
        edit(&mut bytes);
        if options.is_empty() {
            fix(&mut bytes, 0, 512, 224);
        }
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 64 * MIB, "{name}: {:?}", survey.widened);
        assert!(survey.widened[0].contains(says), "{name}: {:?}", survey.widened);
        assert_eq!(survey.detected.unwrap().state, state, "{name}");
    }
}

#[test]
fn new_features_that_move_no_free_space_are_read() {
    let bench = Bench::new();
    let (_, mut bytes) = make(&bench, SMALL, 64 * MIB);
    let clean = survey_bytes(&bytes);
    // Exchange-range, parent pointers, metadata directories.
    bytes[218] |= 1;
    bytes[219] |= 0xc0;
    fix(&mut bytes, 0, 512, 224);
    let survey = survey_bytes(&bytes);
    assert_eq!((survey.widened, survey.allocated), (vec![], clean.allocated));
}

#[test]
fn a_broken_superblock_keeps_everything() {
    let bench = Bench::new();
    let (_, mut bytes) = make(&bench, "-L lost -b size=1024", 64 * MIB);
    bytes[150] ^= 1;
    let survey = survey_bytes(&bytes);
    let found = survey.detected.unwrap();
    assert_eq!((found.label.as_deref(), found.state), (Some("lost"), State::Damaged));
    assert_eq!(survey.allocated.total(), 64 * MIB);
    assert!(survey.widened[0].contains("checksum"), "{:?}", survey.widened);
}

#[test]
fn a_group_that_contradicts_itself_is_kept_whole() {
    type Edit = fn(&mut [u8], &Group);
    let plain = "-m crc=0,finobt=0";
    let cases: [(&str, &str, Edit, &str); 15] = [
        ("AGF", "", |b, g| b[g.start + 512 + 55] ^= 1, "the header of its free space has a wrong checksum"),
        ("AGI", "", |b, g| b[g.start + 1024 + 19] ^= 1, "the header of its inodes has a wrong checksum"),
        ("AGFL", "", |b, g| b[g.start + 1536 + 40] ^= 1, "its free list has a wrong checksum"),
        ("copy", "", |b, g| b[g.start + 130] ^= 1, "the copy of the superblock has a wrong checksum"),
        ("copy gone", plain, |b, g| b[g.start] ^= 1, "the copy of the superblock is not its own"),
        ("by block", "", |b, g| b[g.roots[0] + 60] ^= 1, "free runs by block is broken: block"),
        ("by length", "", |b, g| b[g.roots[1] + 60] ^= 1, "free runs by length is broken: block"),
        ("inodes", "", |b, g| b[g.roots[2] + 60] ^= 1, "its tree of inodes is broken"),
        ("free inodes", "", |b, g| b[g.roots[3] + 60] ^= 1, "its tree of free inodes is broken"),
        ("used runs", "-m rmapbt=1", |b, g| b[g.roots[4] + 60] ^= 1, "its tree of used runs is broken"),
        ("longer run", plain, |b, g| b[g.roots[0] + 20 + 3] ^= 1, "disagree"),
        (
            "both longer",
            plain,
            |b, g| {
                b[g.roots[0] + 16 + 7] ^= 1;
                b[g.roots[1] + 16 + 7] ^= 1;
            },
            "",
        ),
        ("counter", plain, |b, g| b[g.start + 512 + 55] ^= 1, "the counters in its header disagree"),
        ("number", plain, |b, g| b[g.start + 512 + 11] ^= 1, "the header of its free space is not its own"),
        ("free list", plain, |b, g| b[g.start + 512 + 51] ^= 1, "its free list is impossible"),
    ];
    for (name, options, edit, says) in cases {
        let bench = Bench::new();
        let (image, before) = make(&bench, &format!("{SMALL} {options}"), 64 * MIB);
        let clean = survey_bytes(&before);
        let mut bytes = before.clone();
        edit(&mut bytes, &group(&image, 2));
        let survey = survey_bytes(&bytes);
        let said = survey.widened.iter().any(|why| why.starts_with("group 2 kept whole: ") && why.contains(says));
        assert!(said, "{name}: {:?}", survey.widened);
        assert_eq!(survey.detected.unwrap().state, State::Damaged, "{name}");
        assert!(survey.allocated.total() < 64 * MIB, "{name}: other groups are not kept whole");
        assert!(clean.allocated.subtract(&survey.allocated).is_empty(), "{name}: nothing is lost");
    }
}

#[test]
fn a_file_that_the_trees_forgot_is_kept() {
    let bench = Bench::new();
    let (image, mut bytes) = make(&bench, "-m crc=0,finobt=0 -b size=1024 -d agcount=1", 64 * MIB);
    // The last free run begins behind the last file: it takes 64 blocks of it, and the counters as well.
    let group = group(&image, 0);
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let add = |bytes: &mut [u8], at: usize, number: i64| {
        let sum = u32::try_from(i64::from(word(bytes, at)) + number).unwrap();
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    };
    let records = usize::from(u16::from_be_bytes([bytes[group.roots[0] + 6], bytes[group.roots[0] + 7]]));
    let (mut at, mut start) = (0, 0);
    for index in 0..records {
        let record = group.roots[0] + 16 + index * 8;
        if word(&bytes, record + 4) > 1000 {
            (at, start) = (record, word(&bytes, record));
            break;
        }
    }
    assert!(start > 64);
    let same = (0..records).map(|index| group.roots[1] + 16 + index * 8).find(|at| word(&bytes, *at) == start).unwrap();
    for record in [at, same] {
        add(&mut bytes, record, -64);
        add(&mut bytes, record + 4, 64);
    }
    add(&mut bytes, 512 + 52, 64);
    let longest = word(&bytes, 512 + 56) == word(&bytes, same + 4) - 64;
    assert!(longest, "the longest run is the one that grows");
    add(&mut bytes, 512 + 56, 64);
    add(&mut bytes, 148, 64);
    older_than_its_files(&bytes, "that files use are free in the free-space trees");
}

/// Checks that everything is kept because the trees know less than the inodes.
fn older_than_its_files(bytes: &[u8], says: &str) {
    let survey = survey_bytes(bytes);
    assert_eq!(survey.allocated, ExtentSet::full(bytes.len() as u64), "{says}: {:?}", survey.widened);
    assert!(survey.widened.len() == 1 && survey.widened[0].contains(says), "{says}: {:?}", survey.widened);
    assert_eq!(survey.detected.unwrap().state, State::Damaged, "{says}");
}

/// Makes a file system with `files` files of `len` bytes, always with the same UUID.
fn make_numbered(bench: &Bench, options: &str, files: usize, len: usize) -> (String, Vec<u8>) {
    let tree = bench.dir.path().join("numbered");
    fs::create_dir(&tree).unwrap();
    let mut noise = Noise(11);
    (0..files).for_each(|file| fs::write(tree.join(format!("file{file:04}")), noise.take(len)).unwrap());
    let uuid = "uuid=11111111-2222-3333-4444-555555555555";
    let options = format!("{SMALL} -m {uuid}{options}");
    let image = make_with(bench, tree.to_str().unwrap(), &options, 64 * MIB);
    let bytes = fs::read(&image).unwrap();
    (image, bytes)
}

#[test]
fn a_group_older_than_its_files_keeps_everything() {
    for (options, files, len, says) in [
        // The files of new chunks of inodes are met nowhere but in folders; the root folder's blocks give it away.
        ("", 200, 20_000, "that files use are free in the free-space trees"),
        (",crc=0,finobt=0", 200, 20_000, "that files use are free in the free-space trees"),
        // So few that the root folder keeps their names in its inode, and none has a block.
        ("", 5, 0, "5 inodes in use are free in the trees of inodes"),
    ] {
        let (before, after) = (Bench::new(), Bench::new());
        let (image, old) = make_numbered(&before, options, 0, 0);
        let (_, new) = make_numbered(&after, options, files, len);
        let clean = survey_bytes(&new);
        assert_eq!((clean.widened.len(), clean.detected.unwrap().state), (0, State::Clean));
        let mut bytes = new;
        let group = group(&image, 0);
        bytes[..2048].copy_from_slice(&old[..2048]);
        for root in group.roots {
            bytes[root..root + 1024].copy_from_slice(&old[root..root + 1024]);
        }
        older_than_its_files(&bytes, says);
    }
}

#[test]
fn a_log_that_is_none_keeps_everything() {
    let bench = Bench::new();
    let (image, bytes) = make(&bench, SMALL, 64 * MIB);
    let [block, per_group, start, log] =
        ["blocksize", "agblocks", "logstart", "agblklog"].map(|field| number(&image, "sb 0", field));
    let at = usize::try_from(((start >> log) * per_group + (start & ((1 << log) - 1))) * block).unwrap();
    for (name, place, says) in [
        ("no magic number", at, "its log is broken"),
        ("zeros before ones", at + 7, "its log is broken"),
        ("no unmount", at + 512 + 9, "its log is broken"),
        ("length", at + 14, "its log needs a replay, and what was written last did not all arrive"),
    ] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 0x21;
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 64 * MIB, "{name}");
        assert!(survey.widened[0].contains(says), "{name}: {:?}", survey.widened);
        assert_ne!(survey.detected.unwrap().state, State::Clean, "{name}");
    }
}

/// Changes one to four bytes of a copy of `base`, and makes checksums right again where `fixes` says how.
fn patch(base: &[u8], places: &[Extent], fixes: &[(usize, usize, usize)], noise: &mut Noise) -> Vec<(usize, Vec<u8>)> {
    let mut out = changes(base, places, noise);
    for (start, len, at) in fixes {
        let mut part = base[*start..start + len].to_vec();
        let mut hit = false;
        for (place, byte) in &out {
            if (*start..start + len).contains(place) && byte.len() == 1 {
                part[place - start] = byte[0];
                hit = true;
            }
        }
        if hit {
            fix(&mut part, 0, *len, *at);
            out.push((*start, part));
        }
    }
    out
}

/// Surveys many damaged copies: never a panic, never slow, and never less than before.
pub fn endure(name: &str, base: &[u8], places: &[Extent], fixes: &[(usize, usize, usize)]) {
    let clean = survey_bytes(base).allocated;
    let mut noise = Noise(0x5eed);
    let mut narrow = 0;
    for case in 0..CASES {
        let patches = patch(base, places, fixes, &mut noise);
        let disk = Patched { base, patches };
        let begun = Instant::now();
        let survey = survey(&disk, &Options::default());
        let what = format!("{name} case {case}: {:?}", survey.widened);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        assert!(survey.allocated.iter().all(|extent| extent.end <= base.len() as u64), "{what}");
        let lost = clean.subtract(&survey.allocated);
        assert!(lost.is_empty(), "{what} lost {lost:?}");
        narrow += usize::from(survey.allocated.total() < base.len() as u64);
    }
    assert!(narrow > 0, "{name}: the damage reaches no further than the door");
}

fn range(start: usize, len: usize) -> Extent {
    Extent::new(start as u64, (start + len) as u64)
}

#[test]
fn damage_loses_nothing() {
    for (options, fixed) in [
        ("-m rmapbt=1,reflink=1", false),
        ("-m rmapbt=1,reflink=1", true),
        ("-m reflink=0", true),
        ("-m crc=0,finobt=0", false),
        ("-m crc=0,finobt=0 -l lazy-count=0 -s size=1024", false),
    ] {
        let bench = Bench::new();
        let (image, base) = make(&bench, &format!("{SMALL} {options}"), 64 * MIB);
        let sector = if options.contains("size=1024") { 1024 } else { 512 };
        let groups = (0..3).map(|number| group(&image, number)).collect::<Vec<_>>();
        let roots = groups.iter().flat_map(|group| group.roots.iter().copied()).collect::<Vec<_>>();
        let headers = groups.iter().flat_map(|group| (1..4).map(|index| group.start + index * sector));
        let mut places = headers.map(|start| range(start, 340)).collect::<Vec<_>>();
        places.extend(roots.iter().flat_map(|root| [range(*root, 100), range(*root, 200)]));
        let mut fixes = Vec::new();
        if fixed {
            fixes.extend(roots.iter().map(|root| (*root, 1024, 52)));
            for group in &groups {
                let at = |index| group.start + index * sector;
                fixes.extend([(at(1), sector, 216), (at(2), sector, 312), (at(3), sector, 32)]);
            }
        }
        endure(&format!("{options} groups, fixed: {fixed}"), &base, &places, &fixes);
        let fixes = if fixed { vec![(0, sector, 224)] } else { vec![] };
        let places = vec![range(0, 264), range(80, 60), range(groups[2].start, 264)];
        endure(&format!("{options} superblock, fixed: {fixed}"), &base, &places, &fixes);
    }
}

#[test]
fn damaged_inodes_and_logs_lose_nothing() {
    for options in ["-m crc=0,finobt=0", ""] {
        let bench = Bench::new();
        let (image, base) = make(&bench, &format!("{SMALL} {options}"), 64 * MIB);
        let root = number(&image, "sb 0", "rootino");
        let size = number(&image, "sb 0", "inodesize");
        let at = usize::try_from(root * size).unwrap();
        endure(&format!("{options} inodes"), &base, &[range(at, 40_000)], &[]);
        let start = number(&image, "sb 0", "logstart") - (1 << number(&image, "sb 0", "agblklog"));
        let at = usize::try_from((number(&image, "sb 0", "agblocks") + start) * 1024).unwrap();
        endure(&format!("{options} log"), &base, &[range(at, 1024), range(at, 8192), range(at, 6 << 20)], &[]);
    }
}

/// A volume that the kernel left with a log to replay; `fixtures/xfs-dirty.sh` made it.
fn dirty() -> Vec<u8> {
    zstd::decode_all(&include_bytes!("fixtures/xfs-dirty.img.zst")[..]).unwrap()
}

/// Where its log begins and ends, in the second group.
const LOG: (usize, usize) = ((16896 + 5) << 10, (16896 + 5 + 3072) << 10);

#[test]
fn a_log_to_replay_is_laid_over_the_trees() {
    let bytes = dirty();
    assert_eq!(bytes[LOG.0..LOG.0 + 4], [0xfe, 0xed, 0xba, 0xbe]);
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.detected.unwrap().state, State::Dirty);
    assert_eq!(survey.widened, ["group 0: what is in use before or after a replay of the log is kept"]);
    // What xfs_db called free when the kernel had replayed the log: group, block, blocks.
    let listed = include_str!("fixtures/xfs-dirty.free").lines().map(|line| {
        let words = line.split_whitespace().map(|word| word.parse::<u64>().unwrap()).collect::<Vec<_>>();
        let start = (words[0] * 16896 + words[1]) << 10;
        Extent::new(start, start + (words[2] << 10))
    });
    let free = listed.collect::<ExtentSet>();
    let used = free.complement(bytes.len() as u64);
    let lost = used.subtract(&survey.allocated);
    assert!(lost.is_empty(), "{lost:?}");
    // More are the free lists and what was in use before.
    assert!(survey.allocated.total() - used.total() < 1 << 20, "{}", survey.allocated.total() - used.total());
    // Without a log, three megabytes of the newest file are free: the test would see the replay missing.
    let mut before = bytes;
    let one = record_that_says_unmount(&before);
    before[LOG.0..LOG.1].fill(0);
    before[LOG.0..LOG.0 + 1024].copy_from_slice(&one);
    let before = survey_bytes(&before);
    assert!(used.subtract(&before.allocated).total() > 2 << 20);
}

/// Takes the record that mkfs wrote to the beginning of the log.
fn record_that_says_unmount(bytes: &[u8]) -> Vec<u8> {
    let record = bytes[LOG.0..LOG.0 + 1024].to_vec();
    assert_eq!(record[40..44], [0, 0, 0, 1]);
    record
}

#[test]
fn damage_to_a_volume_with_a_log_to_replay_loses_nothing() {
    let base = dirty();
    let written = base[LOG.0..LOG.1].chunks(512).position(|sector| sector[..4] == [0; 4]).unwrap() * 512;
    assert!(written > 8192 && written < LOG.1 - LOG.0);
    endure("all of the log", &base, &[range(LOG.0, written)], &[]);
    let records = base[LOG.0..LOG.0 + written].chunks(512).enumerate();
    let heads = records.filter(|(_, sector)| sector[..4] == [0xfe, 0xed, 0xba, 0xbe]);
    let heads = heads.map(|(index, _)| range(LOG.0 + index * 512, 330)).collect::<Vec<_>>();
    endure("records of the log", &base, &heads, &[]);
    endure("groups", &base, &[range(512, 1536), range(16896 << 10, 2048), range(5 << 10, 4096)], &[]);
}

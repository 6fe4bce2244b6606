//! Fast commits: a file that exists only in the last blocks of a journal must come back from a copy too.
//!
//! No tool writes them without a kernel, so that the tags are written here; e2fsck replays them.

use std::fs;

use crc::{Algorithm, Crc};
use rescue::{extent::Extent, fs::State};

use crate::{
    ext::{contents, number},
    tools::{Bench, Noise, run, run_any, survey_bytes, with_noise},
};

const BLOCK: usize = 1024;
const LEN: u64 = 24 << 20;
/// Where the journal superblock has its features.
const INCOMPAT: usize = 40;
const FAST_COMMIT: u8 = 0x20;

pub struct Pending {
    bench: Bench,
    pub bytes: Vec<u8>,
    /// Blocks of the new file's data.
    data: Vec<usize>,
    /// Blocks of the journal.
    pub log: Vec<usize>,
}

fn debugfs(image: &str, commands: &[&str]) {
    let list = format!("{image}.commands");
    fs::write(&list, commands.join("\n")).unwrap();
    run("debugfs", &["-w", "-f", &list, image]);
}

fn blocks(image: &str, file: &str) -> Vec<usize> {
    let listed = run("debugfs", &["-R", &format!("blocks {file}"), image]);
    listed.split_whitespace().map(|block| block.parse().unwrap()).collect()
}

fn tag(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &u16::try_from(value.len()).unwrap().to_le_bytes(), value].concat()
}

fn le(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}

fn crc32c(bytes: &[u8]) -> u32 {
    static CRC: Crc<u32> = Crc::<u32>::new(&Algorithm { init: 0, xorout: 0, ..crc::CRC_32_ISCSI });
    CRC.checksum(bytes)
}

/// A volume with one full transaction and, behind it, a fast commit that adds a file.
pub fn pending(options: &str) -> Pending {
    let bench = Bench::new();
    let (tree, image, after) = (bench.tree(false), bench.blank("image", LEN), bench.path("after"));
    let mut args = vec!["-q", "-F", "-b", "1024", "-t", "ext4", "-d", &tree];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mke2fs", &args);
    fs::write(bench.path("new"), Noise(99).take(300_000)).unwrap();
    fs::copy(&image, &after).unwrap();
    debugfs(&after, &[&format!("write {} /new", bench.path("new"))]);
    let data = blocks(&after, "/new");
    let dump = run("debugfs", &["-R", "stat /new", &after]);
    let inode = usize::try_from(number(&dump.replace("   Type", "\nType"), "Inode:")).unwrap();
    let place = run("debugfs", &["-R", &format!("imap <{inode}>"), &after]);
    let (block, offset) = place.rsplit_once("block ").unwrap().1.split_once(", offset 0x").unwrap();
    let at = block.parse::<usize>().unwrap() * BLOCK + usize::from_str_radix(offset.trim(), 16).unwrap();

    fs::write(bench.path("zeros"), [0; BLOCK]).unwrap();
    debugfs(&image, &["jo", &format!("jw -b 20000 {}", bench.path("zeros")), "jc"]);
    let log = blocks(&image, "<8>");
    let (mut bytes, new) = (fs::read(&image).unwrap(), fs::read(&after).unwrap());
    data.iter().for_each(|block| bytes[block * BLOCK..][..BLOCK].copy_from_slice(&new[block * BLOCK..][..BLOCK]));
    let head = log[0] * BLOCK;
    let word = |at: usize| usize::try_from(u32::from_be_bytes(bytes[head + at..][..4].try_into().unwrap())).unwrap();
    let (len, fast, transaction) = (word(16), word(84), le(word(24) + 1));

    let mut body = tag(9, &[le(0), transaction].concat());
    body.extend(tag(6, &[&le(inode)[..], &new[at..at + 256]].concat()));
    for (logical, block) in data.iter().enumerate().step_by(100) {
        let len = u16::try_from((data.len() - logical).min(100)).unwrap().to_le_bytes();
        assert!(data[logical..].iter().take(100).enumerate().all(|(index, other)| *other == block + index));
        body.extend(tag(1, &[&le(inode)[..], &le(logical), &len, &[0, 0], &le(*block)].concat()));
    }
    body.extend(tag(3, &[&le(2)[..], &le(inode), b"new"].concat()));
    body.extend([&8u16.to_le_bytes()[..], &8u16.to_le_bytes(), &transaction].concat());
    body.extend(crc32c(&body).to_le_bytes());
    // Drivers begin one block behind the end of the log.
    bytes[log[len - fast + 1] * BLOCK..][..body.len()].copy_from_slice(&body);
    bytes[head + INCOMPAT + 3] |= FAST_COMMIT;
    Pending { bench, bytes, data, log }
}

#[test]
fn a_file_in_a_fast_commit_comes_back() {
    for (name, options) in [
        ("checksums", "-O fast_commit"),
        ("no checksums", "-O fast_commit,^metadata_csum,^64bit"),
        ("clusters", "-O fast_commit,bigalloc -C 8192"),
    ] {
        let pending = pending(options);
        let survey = survey_bytes(&pending.bytes);
        assert_eq!(survey.detected.as_ref().unwrap().state, State::Dirty, "{name}: {:?}", survey.widened);
        assert!(survey.widened[0].contains("fast commits"), "{name}: {:?}", survey.widened);
        assert!(survey.allocated.total() < LEN * 3 / 4, "{name}: {:?}", survey.widened);
        for block in &pending.data {
            assert!(
                survey.allocated.covers(Extent::with_len((block * BLOCK) as u64, 1024).unwrap()),
                "{name}: {block}"
            );
        }
        let recovered = |bytes: &[u8], copy: &str| {
            let path = pending.bench.path(&format!("{copy}.img"));
            fs::write(&path, bytes).unwrap();
            assert!(run_any("e2fsck", &["-fy", &path]).status.code().unwrap() <= 1, "{name}");
            contents(&pending.bench, &path, copy)
        };
        let want = recovered(&pending.bytes, "want");
        assert!(want.contains_key("new".as_ref() as &std::path::Path), "{name}: the replay works");
        assert_eq!(recovered(&with_noise(&pending.bytes, &survey), "got"), want, "{name}");
    }
}

#[test]
fn old_fast_commits_are_passed_over_and_a_log_around_its_end_is_not_read() {
    let mut pending = pending("-O fast_commit");
    let image = pending.bench.path("edited");
    fs::write(&image, &pending.bytes).unwrap();
    debugfs(&image, &["feature ^needs_recovery"]);
    let mut clean = fs::read(&image).unwrap();
    let head = pending.log[0] * BLOCK;
    clean[head + 28..][..4].fill(0);
    let survey = survey_bytes(&clean);
    assert_eq!((survey.detected.unwrap().state, survey.widened), (State::Clean, vec![]));

    // The log begins in its last block but one, and so goes around.
    let len = u32::from_be_bytes(pending.bytes[head + 16..][..4].try_into().unwrap());
    let fast = u32::from_be_bytes(pending.bytes[head + 84..][..4].try_into().unwrap());
    let start = len - fast - 2;
    let transaction = pending.bytes[pending.log[1] * BLOCK..][..2 * BLOCK].to_vec();
    for (index, part) in transaction.chunks(BLOCK).enumerate() {
        let block = pending.log[usize::try_from(start).unwrap() + index];
        pending.bytes[block * BLOCK..][..BLOCK].copy_from_slice(part);
    }
    pending.bytes[head + 28..][..4].copy_from_slice(&start.to_be_bytes());
    let survey = survey_bytes(&pending.bytes);
    assert_eq!(survey.widened, ["kept whole: its journal needs recovery, has fast commits and goes around its end"]);
}

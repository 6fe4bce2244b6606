//! F2FS, made by mkfs.f2fs and filled by sload.f2fs.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use rescue::{
    extent::{Extent, ExtentSet},
    fs::State,
};

use crate::{
    damage::{Damage, endure},
    tools::{Bench, hashes, run, run_any, survey_bytes, tool, with_noise},
};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const MAGIC: u32 = 0xf2f5_2010;

/// Makes a volume with files; each pass adds the tree once more, in a folder of its own.
fn make(bench: &Bench, options: &str, load: &str, len: u64, passes: usize) -> String {
    let image = bench.blank("image", len);
    let mut args = vec!["-f", "-q"];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mkfs.f2fs", &args);
    let tree = bench.tree(false);
    for pass in 0..passes {
        let target = format!("/pass{pass}");
        let mut args = vec!["-f", &tree, "-t", &target];
        args.extend(load.split_whitespace());
        args.push(&image);
        run("sload.f2fs", &args);
    }
    image
}

/// Returns what the checker says, without what is different at every run.
fn verdict(image: &str) -> String {
    let output = run_any("fsck.f2fs", &["--dry-run", image]);
    let text = String::from_utf8_lossy(&output.stdout).replace(image, "");
    let lines = text.lines().filter(|line| !line.starts_with("Done:")).collect::<Vec<_>>();
    format!("{:?}\n{}", output.status.code(), lines.join("\n"))
}

/// Runs dump.f2fs in a folder of its own, where it leaves files, and returns that folder's path.
fn dump(bench: &Bench, name: &str, image: &str, requests: &[&[&str]]) -> String {
    let out = bench.path(name);
    fs::create_dir_all(&out).unwrap();
    for request in requests {
        let mut command = Command::new(tool("dump.f2fs"));
        command.args(*request).arg(image).current_dir(&out).env("LC_ALL", "C");
        // It asks whether to write each file.
        let answer = fs::File::open(bench.path("yes")).unwrap();
        assert!(command.stdin(answer).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }
    out
}

/// Returns every file by its inode number.
fn contents(bench: &Bench, name: &str, image: &str) -> BTreeMap<String, String> {
    fs::write(bench.path("yes"), "Y\n").unwrap();
    let tables = dump(bench, &format!("{name}-nat"), image, &[&["-n", "0~-1"]]);
    let text = fs::read_to_string(format!("{tables}/dump_nat")).unwrap();
    let field = |line: &str, key: &str| -> Option<u64> {
        let rest = line.split_once(key)?.1;
        rest.split_whitespace().next()?.parse().ok()
    };
    let inodes = text.lines().filter(|line| field(line, "nid:") == field(line, "ino:"));
    let numbers = inodes.filter_map(|line| field(line, "ino:")).collect::<Vec<_>>();
    let mut found = BTreeMap::new();
    // One run a file takes long; every third is as good.
    for number in numbers.iter().step_by(3) {
        let out = dump(bench, &format!("{name}-file"), image, &[&["-i", &number.to_string()]]);
        for (path, hash) in hashes(out.as_ref()) {
            if hash != "folder" {
                found.insert(format!("{number}: {}", path.display()), hash);
            }
        }
        fs::remove_dir_all(out).unwrap();
    }
    found
}

/// Returns the bytes that the tool's own dump of the segment information table calls valid.
fn valid(bench: &Bench, image: &str, main: u64) -> ExtentSet {
    fs::write(bench.path("yes"), "Y\n").unwrap();
    let tables = dump(bench, "sit", image, &[&["-s", "0~-1"]]);
    let text = fs::read_to_string(format!("{tables}/dump_sit")).unwrap();
    let (mut out, mut at) = (Vec::new(), 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("segno:") {
            let segment: u64 = rest.split_whitespace().next().unwrap().parse().unwrap();
            at = main + segment * 512;
        } else if line.starts_with("  ") {
            for byte in line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()) {
                let set = (0..8u64).filter(|bit| byte & (0x80 >> bit) != 0);
                out.extend(set.map(|bit| Extent::new((at + bit) * BLOCK, (at + bit + 1) * BLOCK)));
                at += 8;
            }
        }
    }
    ExtentSet::from_unsorted(out)
}

fn word(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

/// The first block of the main area, and the first behind it.
fn main_area(bytes: &[u8]) -> (u64, u64) {
    let main = word(bytes, 1024 + 92);
    (main, main + word(bytes, 1024 + 68) * 512)
}

/// Where the newest checkpoint pack begins, in bytes.
fn newest(bytes: &[u8]) -> u64 {
    let first = word(bytes, 1024 + 76) * BLOCK;
    let second = first + 512 * BLOCK;
    let version = |at: u64| word(bytes, at) | word(bytes, at + 4) << 32;
    if version(second) > version(first) { second } else { first }
}

fn crc32(bytes: &[u8]) -> u32 {
    let table = crc::Crc::<u32>::new(&crc::Algorithm { init: 0, xorout: 0, ..crc::CRC_32_ISO_HDLC });
    let mut digest = table.digest_with_initial(MAGIC.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// Changes both blocks of the newest checkpoint and makes their checksums right again.
fn patch_checkpoint(bytes: &mut [u8], change: impl Fn(&mut [u8])) {
    let start = newest(bytes);
    let last = start + (word(bytes, start + 136) - 1) * BLOCK;
    for at in [start, last] {
        let at = usize::try_from(at).unwrap();
        let block = &mut bytes[at..at + 4096];
        change(block);
        let crc = crc32(&block[..4092]);
        block[4092..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn check(name: &str, options: &str, load: &str, len: u64, passes: usize) {
    let bench = Bench::new();
    let image = make(&bench, options, load, len, passes);
    check_image(&bench, name, &image);
}

fn check_image(bench: &Bench, name: &str, image: &str) {
    let bytes = fs::read(image).unwrap();
    let len = bytes.len() as u64;
    let survey = survey_bytes(&bytes);
    assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
    let detected = survey.detected.as_ref().unwrap();
    assert_eq!((detected.name.as_str(), detected.state), ("f2fs", State::Clean), "{name}");
    let (main, end) = main_area(&bytes);
    let mut want = valid(bench, image, main);
    assert!(want.total() > 0, "{name}");
    assert_eq!(survey.usage.unwrap().used, main * BLOCK + want.total(), "{name}: the checkpoint counts the same");
    want.insert(Extent::new(0, main * BLOCK));
    want.insert(Extent::new(end * BLOCK, len));
    // One block more: the one that recovery looks at must go on saying that there is nothing to recover.
    let more = survey.allocated.subtract(&want);
    assert!(want.subtract(&survey.allocated).is_empty() && more.total() <= BLOCK, "{name}: {more:?}");

    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
    assert_eq!(verdict(&copy), verdict(image), "{name}");
    if name.contains("compress") {
        // The tool does not read compressed files back; their blocks are in the comparison above.
        return;
    }
    let want = contents(bench, "want", image);
    assert_eq!(contents(bench, "got", &copy), want, "{name}");
    assert!(want.len() > 20, "{name}: {} files", want.len());
}

#[test]
fn plain_volumes_keep_every_file() {
    check("plain", "", "", 96 * MIB, 1);
    check("4096-byte sectors", "-w 4096 -l four", "", 96 * MIB, 2);
    check("heap allocation, long node bitmap", "-a 1 -i -o 15", "", 128 * MIB, 2);
    check("sections of two segments", "-s 2 -z 2", "", 256 * MIB, 1);
    check("nearly full", "", "", 96 * MIB, 6);
}

#[test]
fn volumes_with_every_feature_keep_every_file() {
    check("attributes and checksums", "-O extra_attr,inode_checksum,sb_checksum,inode_crtime", "", 96 * MIB, 1);
    check("lost+found", "-O extra_attr,lost_found,verity,inode_crtime", "", 96 * MIB, 1);
    check("quotas", "-O extra_attr,quota,project_quota,sb_checksum", "", 96 * MIB, 1);
    check("names of any case", "-O extra_attr,casefold,encrypt -C utf8", "", 96 * MIB, 1);
    check("compressed", "-O extra_attr,compression,sb_checksum", "-c", 96 * MIB, 1);
    check("read only", "-O extra_attr,ro", "", 96 * MIB, 1);
    check("read only, compressed", "-O extra_attr,ro,compression", "-c -r", 96 * MIB, 1);
}

#[test]
fn a_volume_that_grew_keeps_every_file() {
    let bench = Bench::new();
    let image = make(&bench, "", "", 128 * MIB, 1);
    fs::File::options().write(true).open(&image).unwrap().set_len(200 * MIB + 3 * 512).unwrap();
    run("resize.f2fs", &[&image]);
    check_image(&bench, "grown", &image);
}

#[test]
fn a_volume_that_was_not_unmounted_keeps_what_recovery_finds() {
    let bench = Bench::new();
    let mut bytes = fs::read(make(&bench, "", "", 96 * MIB, 1)).unwrap();
    let clean = survey_bytes(&bytes);
    patch_checkpoint(&mut bytes, |block| block[132] &= !1);
    // Without the flag, node summaries are in the segment summary area; three blocks less lie in the pack.
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.detected.as_ref().unwrap().state, State::Dirty);
    assert!(survey.notes[0].contains("not unmounted"), "{:?}", survey.notes);
    assert_eq!(survey.allocated, clean.allocated);

    // A node where recovery looks, of the version that it looks for, with data far away and a second one behind it.
    let start = newest(&bytes);
    let (main, end) = main_area(&bytes);
    let first = main + word(&bytes, start + 40) * 512 + (word(&bytes, start + 68) >> 16);
    let crc = if word(&bytes, start + 132) & 0x240 == 0x40 { word(&bytes, start + 4092) << 32 } else { 0 };
    let version = word(&bytes, start) | word(&bytes, start + 4) << 32 | crc;
    let second = end - 600;
    for (node, next, data) in [(first, second, end - 3), (second, end - 700, end - 5)] {
        let at = usize::try_from(node * BLOCK).unwrap();
        let block = &mut bytes[at..at + 4096];
        block.fill(0);
        block[..4].copy_from_slice(&u32::try_from(data).unwrap().to_le_bytes());
        block[4072..4084].copy_from_slice(&[99, 0, 0, 0, 98, 0, 0, 0, 2 | 1 << 3, 0, 0, 0]);
        block[4084..4092].copy_from_slice(&version.to_le_bytes());
        block[4092..].copy_from_slice(&u32::try_from(next).unwrap().to_le_bytes());
    }
    let survey = survey_bytes(&bytes);
    assert!(survey.widened[0].starts_with("2 nodes were synced after"), "{:?}", survey.widened);
    for block in [first, second, end - 700, end - 3, end - 5] {
        assert!(survey.allocated.contains(block * BLOCK), "block {block}");
    }
    assert!(survey.allocated.total() < clean.allocated.total() + 8 * BLOCK);

    // A mount that wrote no checkpoint before the power went leaves the old one, which says unmounted.
    patch_checkpoint(&mut bytes, |block| block[132] |= 1);
    let survey = survey_bytes(&bytes);
    if crc == 0 {
        assert_eq!(survey.detected.unwrap().state, State::Dirty);
        assert!(survey.allocated.contains((end - 5) * BLOCK));
    }
}

#[test]
fn doubt_keeps_more() {
    let bench = Bench::new();
    let clean = fs::read(make(&bench, "", "", 96 * MIB, 1)).unwrap();
    let map = survey_bytes(&clean).allocated;
    let start = usize::try_from(newest(&clean)).unwrap();
    let sit = usize::try_from(word(&clean, 1024 + 80) * BLOCK).unwrap();
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = clean.clone();
        change(&mut bytes);
        survey_bytes(&bytes)
    };
    for (name, want, change) in [
        ("unknown feature", "features that are not known (feature 0x400000)", {
            let both: &dyn Fn(&mut Vec<u8>) = &|bytes| [1024, 5120].iter().for_each(|at| bytes[at + 2182] = 0x40);
            both
        }),
        ("several devices", "several devices", &|bytes| {
            [1024, 5120].iter().for_each(|at| bytes[at + 2201] = b'/');
        }),
        ("remembered errors", "remembers", &|bytes| [1024, 5120].iter().for_each(|at| bytes[at + 2794] = 1)),
        ("copies differ", "disagree", &|bytes| bytes[5120 + 108] ^= 1),
        ("both gone", "both superblocks are broken: ", &|bytes| [1024, 5120].iter().for_each(|at| bytes[at + 72] ^= 1)),
        ("errors", "errors", &|bytes| patch_checkpoint(bytes, |block| block[132] |= 8)),
        ("fsck", "asks to be checked", &|bytes| patch_checkpoint(bytes, |block| block[132] |= 0x10)),
        ("disabled", "switched off", &|bytes| patch_checkpoint(bytes, |block| block[133] |= 0x10)),
        ("resizing", "resized", &|bytes| patch_checkpoint(bytes, |block| block[133] |= 0x40)),
        ("unknown flag", "flags that are not known", &|bytes| patch_checkpoint(bytes, |block| block[135] |= 0x40)),
        ("fewer valid blocks", "valid blocks", &|bytes| patch_checkpoint(bytes, |block| block[16] = 1)),
        ("more valid blocks", "without a place", &|bytes| patch_checkpoint(bytes, |block| block[18] += 1)),
        ("fewer free segments", "free segments", &|bytes| patch_checkpoint(bytes, |block| block[32] -= 1)),
        ("other nodes", "nodes, the node address table", &|bytes| patch_checkpoint(bytes, |block| block[144] ^= 1)),
        ("one checkpoint broken", "one of the two checkpoints is broken", &|bytes| bytes[start + 40] ^= 1),
        ("region cut", "its region at", &|bytes| bytes.truncate(60 << 20)),
    ] {
        let survey = damaged(change);
        assert!(survey.widened[0].contains(want), "{name}: {:?}", survey.widened);
        let len = if name == "region cut" { 60 * MIB } else { 96 * MIB };
        assert_eq!(survey.allocated.total(), len, "{name}");
    }
    let survey = damaged(&|bytes| bytes[1024 + 16] = 3);
    assert!(survey.notes[0].contains("its copy is believed"), "{:?}", survey.notes);
    assert_eq!((survey.allocated, survey.detected.unwrap().state), (map.clone(), State::Damaged));

    // Unless the journal has a newer entry, a flipped bit keeps its segment whole.
    let survey = damaged(&|bytes| {
        for entry in 0..30 {
            bytes[sit + entry * 74 + 30] ^= 1;
            bytes[sit + entry * 74 + 512 * 4096 + 30] ^= 1;
        }
    });
    assert!(survey.widened[0].contains("kept whole: the count"), "{:?}", survey.widened);
    assert!(map.subtract(&survey.allocated).is_empty());
}

#[test]
fn damage_loses_nothing() {
    for options in ["", "-O extra_attr,inode_checksum,sb_checksum"] {
        let bench = Bench::new();
        let base = fs::read(make(&bench, options, "", 72 * MIB, 1)).unwrap();
        let blocks = |first: u64, count: u64| Extent::new(first * BLOCK, (first + count) * BLOCK);
        let (sit, nat) = (word(&base, 1024 + 80), word(&base, 1024 + 84));
        let cp = newest(&base) / BLOCK;
        let main = main_area(&base).0;
        for (name, places) in [
            (
                "superblocks",
                vec![Extent::new(1024, 1024 + 110), Extent::new(5120, 5120 + 110), Extent::new(3200, 3300)],
            ),
            ("checkpoint", vec![blocks(cp, 1), blocks(cp, word(&base, cp * BLOCK + 136))]),
            ("tables", vec![blocks(sit, 1), blocks(sit + 512, 1), blocks(nat, 1), blocks(nat + 512, 1)]),
            ("nodes", vec![blocks(main, 4)]),
        ] {
            endure(&base, &Damage { name, places, nothing_lost: true, fix: false });
        }
    }
}

#[test]
fn a_lost_table_entry_is_made_up_for_by_nodes() {
    let bench = Bench::new();
    let mut bytes = fs::read(make(&bench, "", "", 96 * MIB, 1)).unwrap();
    let clean = survey_bytes(&bytes);
    let sit = usize::try_from(word(&bytes, 1024 + 80) * BLOCK).unwrap();
    // Takes one block out of every segment that has two, in both copies, with a count that fits.
    for entry in (0..30).flat_map(|entry| [sit + entry * 74, sit + entry * 74 + 512 * 4096]) {
        if bytes[entry] >= 2 {
            let byte = (entry + 2..entry + 66).rev().find(|byte| bytes[*byte] != 0).unwrap();
            bytes[byte] &= bytes[byte] - 1;
            bytes[entry] -= 1;
        }
    }
    let survey = survey_bytes(&bytes);
    assert!(clean.allocated.subtract(&survey.allocated).is_empty());
    assert!(survey.widened[0].contains("that nodes use are free"), "{:?}", survey.widened);
}

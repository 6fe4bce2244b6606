//! LVM2: physical volumes made by the LVM2 tools (`fixtures/lvm/make.sh`), filled with real file systems where `pvs`
//! says that their extents are.

use std::{fs, path::Path};

use rescue::{
    extent::{Extent, ExtentSet},
    fs::State,
};

use crate::{
    damage::{Damage, endure},
    tools::{Bench, Noise, run, run_any, survey_bytes, with_noise},
};

const MIB: u64 = 1 << 20;

/// A physical volume and what `pvs --segments` says of it.
struct Fixture {
    bytes: Vec<u8>,
    /// Names of logical volumes (empty: free) and where their runs are, in the order of the volume.
    runs: Vec<(String, Vec<Extent>)>,
}

/// Unpacks one of the files of the folder.
macro_rules! fixture {
    ($name:literal) => {
        Fixture::new(
            include_bytes!(concat!("fixtures/lvm/", $name, ".zst")),
            include_str!(concat!("fixtures/lvm/", $name, ".txt")),
        )
    };
}

fn at(extent: Extent) -> std::ops::Range<usize> {
    usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap()
}

impl Fixture {
    fn new(packed: &[u8], said: &str) -> Self {
        let bytes = zstd::bulk::decompress(packed, 64 << 20).unwrap();
        let mut found = said.lines().map(Self::line).collect::<Vec<_>>();
        found.sort();
        let mut runs: Vec<(String, Vec<Extent>)> = Vec::new();
        for (name, _, extent) in found {
            match runs.last_mut().filter(|last| last.0 == name) {
                Some(last) => last.1.push(extent),
                None => runs.push((name, vec![extent])),
            }
        }
        Self { bytes, runs }
    }

    /// Reads a line of `pvs`: start and size of extents, first extent and how many, place in the volume, type, name.
    fn line(line: &str) -> (String, u64, Extent) {
        let fields = line.split_whitespace().collect::<Vec<_>>();
        let number = |index: usize| fields[index].parse::<u64>().unwrap();
        let start = number(0) + number(1) * number(2);
        let name = fields.get(6).map_or("", |name| name.trim_matches(['[', ']']));
        (name.to_owned(), number(4), Extent::new(start, start + number(1) * number(3)))
    }

    fn runs(&self, name: &str) -> &[Extent] {
        self.runs.iter().find(|(other, _)| other == name).map_or(&[], |(_, runs)| runs)
    }

    fn set(&self, name: &str) -> ExtentSet {
        self.runs(name).iter().copied().collect()
    }

    /// Writes `volume` where the logical volume `name` lies.
    fn put(&mut self, name: &str, volume: &[u8]) {
        let mut rest = volume;
        for run in self.runs(name).to_vec() {
            let (now, later) = rest.split_at(at(run).len().min(rest.len()));
            self.bytes[at(run)][..now.len()].copy_from_slice(now);
            rest = later;
        }
        assert!(rest.is_empty(), "{name} is too small");
    }

    /// Reads the logical volume `name` out of `bytes`.
    fn get(&self, bytes: &[u8], name: &str) -> Vec<u8> {
        self.runs(name).iter().flat_map(|run| bytes[at(*run)].iter().copied()).collect()
    }

    /// Overwrites the free extents: nobody may rely on zeros there.
    fn litter(&mut self) {
        for run in self.runs("").to_vec() {
            let bytes = Noise(run.start).take(at(run).len());
            self.bytes[at(run)].copy_from_slice(&bytes);
        }
    }
}

/// Returns a physical volume with nothing in its logical volumes.
pub fn first() -> Vec<u8> {
    fixture!("first").bytes
}

/// Makes a file system of `mib` MiB; with files, where they fit.
fn make(mib: u64, options: &str) -> Vec<u8> {
    let bench = Bench::new();
    let (image, tree) = (bench.blank("image", mib * MIB), bench.tree(true));
    let mut args = vec!["-q", "-F"];
    args.extend(options.split_whitespace());
    if mib >= 10 {
        args.extend(["-d", &tree]);
    }
    args.push(&image);
    run("mke2fs", &args);
    fs::read(&image).unwrap()
}

/// Returns what the checker says of `volume` and all its files.
fn judged(bench: &Bench, volume: &[u8]) -> (String, std::collections::BTreeMap<std::path::PathBuf, String>) {
    let (image, out) = (bench.path("judged"), bench.path("out"));
    fs::write(&image, volume).unwrap();
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    run("debugfs", &["-R", &format!("rdump / {out}"), &image]);
    let verdict = run_any("e2fsck", &["-fn", &image]);
    (String::from_utf8_lossy(&verdict.stdout).into_owned(), crate::tools::hashes(Path::new(&out)))
}

#[test]
fn linear_volumes_are_looked_into_and_free_extents_dropped() {
    let bench = Bench::new();
    let mut disk = fixture!("linear");
    assert_eq!(disk.runs("root").len(), 2, "the fixture is fragmented");
    let (root, home) = (make(26, "-t ext4"), make(10, "-t ext2"));
    disk.put("root", &root);
    disk.put("home", &home);
    let swap = bench.blank("swap", 4 * MIB);
    run("mkswap", &["-q", &swap]);
    disk.put("swap", &fs::read(&swap).unwrap());
    disk.litter();
    let survey = survey_bytes(&disk.bytes);
    assert_eq!(survey.widened, [""; 0]);
    let found = survey.detected.clone().unwrap();
    let (name, version, state) = (found.name.as_str(), found.version.as_deref(), found.state);
    assert_eq!((name, version, state), ("LVM2_member", Some("LVM2 001"), State::Clean));
    assert!(survey.allocated.intersect(&disk.set("")).is_empty(), "free extents are kept");
    let usage = survey.usage.unwrap();
    assert_eq!((usage.used, usage.free), (40 * MIB, 22 * MIB));
    // What every volume keeps is what it keeps alone.
    let mut seen = Vec::new();
    for (inside, bytes) in survey.inside.iter().zip([&root, &fs::read(&swap).unwrap(), &home]) {
        let alone = survey_bytes(bytes);
        assert_eq!((inside.bytes, inside.kept), (bytes.len() as u64, alone.allocated.total()), "{}", inside.name);
        assert_eq!(inside.detected, alone.detected);
        seen.push(inside.name.as_str());
    }
    assert_eq!(seen, ["main/root", "main/swap", "main/home"]);
    let kept = survey.inside.iter().map(|inside| inside.kept).sum::<u64>();
    assert_eq!(survey.allocated.total(), kept + 2 * MIB, "all of the metadata and nothing more");
    let copy = with_noise(&disk.bytes, &survey);
    for (name, original) in [("root", &root), ("home", &home)] {
        let volume = disk.get(&copy, name);
        assert!(volume != *original, "{name}: nothing was left out");
        assert_eq!(judged(&bench, &volume), judged(&bench, original), "{name}");
    }
}

#[test]
fn metadata_that_goes_round_its_area_is_read() {
    let mut disk = fixture!("wrapped");
    disk.put("data", &make(12, "-t ext4 -J size=1"));
    disk.litter();
    let survey = survey_bytes(&disk.bytes);
    assert_eq!(survey.widened, [""; 0]);
    assert_eq!(survey.inside.len(), 1);
    assert!(survey.inside[0].kept < 8 * MIB && survey.inside[0].detected.as_ref().unwrap().name == "ext4");
    assert!(survey.allocated.intersect(&disk.set("")).is_empty());
}

#[test]
fn volumes_that_others_are_made_of_are_kept_whole() {
    let mut disk = fixture!("first");
    for (name, mib) in [("alone", 10), ("origin", 8), ("readonly", 4), ("over", 4), ("hidden", 2), ("snap", 4)] {
        disk.put(name, &make(mib, "-t ext2 -N 200"));
    }
    disk.litter();
    let survey = survey_bytes(&disk.bytes);
    assert!(survey.allocated.intersect(&disk.set("")).is_empty());
    for (name, runs) in &disk.runs {
        let set = runs.iter().copied().collect::<ExtentSet>();
        let kept = survey.allocated.intersect(&set).total();
        let inside = survey.inside.iter().find(|inside| inside.name == format!("pair/{name}"));
        match name.as_str() {
            "" => {}
            "alone" | "readonly" => assert!(kept < set.total(), "{name} is looked into"),
            _ => assert_eq!((kept, inside.unwrap().kept), (set.total(), set.total()), "{name} is kept whole"),
        }
    }
    assert_eq!(
        survey.widened,
        [
            "logical volumes kept whole because other volumes are made of them, or they are hidden: \
             origin, snap, pool_tdata, pool_tmeta, hidden",
            "logical volumes kept whole because they are not linear: stripes (striped)",
            "logical volumes kept whole because they lie partly on other disks: over",
        ]
    );
    assert!(survey.notes[0].contains("one of 2 physical volumes of the volume group pair"), "{:?}", survey.notes);
    let second = fixture!("second");
    let survey = survey_bytes(&second.bytes);
    assert_eq!(survey.allocated, second.set("").complement(32 * MIB));
}

#[test]
fn physical_volumes_that_are_not_understood_are_kept_whole() {
    for (disk, why) in [
        (fixture!("moving"), "extents are being moved (pvmove0)"),
        (fixture!("orphan"), "it is in no volume group"),
        (fixture!("follow"), "the metadata of its volume group is on other disks"),
        (fixture!("blind"), "the metadata of its volume group is on other disks"),
    ] {
        let survey = survey_bytes(&disk.bytes);
        assert_eq!(survey.allocated.total(), 24 * MIB, "{why}");
        assert_eq!(survey.widened, [format!("kept whole: {why}")]);
        assert_eq!(survey.detected.unwrap().state, State::Unknown, "{why}");
    }
    let lead = fixture!("lead");
    let survey = survey_bytes(&lead.bytes);
    assert_eq!(survey.allocated, lead.set("").complement(24 * MIB));
}

#[test]
fn two_copies_of_the_metadata_must_agree() {
    let clean = fixture!("linear").bytes;
    let (first, second) = (4096, 63 * (1 << 20));
    let older = fixture!("moving").bytes;
    for (name, change, why) in [
        ("second broken", &(|disk: &mut Vec<u8>| disk[second] ^= 1) as &dyn Fn(&mut Vec<u8>), "has the checksum"),
        ("first text broken", &|disk| disk[first + 512..first + 60_000].fill(b'x'), "says its text has the checksum"),
        ("label broken", &|disk| disk[512 + 40] ^= 1, "the label in sector 1 has the checksum"),
        ("cut off", &|disk| disk.truncate(60 << 20), "metadata area at byte 0x3f00000"),
        (
            "of another group",
            &|disk| disk[4096..1 << 20].copy_from_slice(&older[4096..1 << 20]),
            "copies of the metadata",
        ),
    ] {
        let mut disk = clean.clone();
        change(&mut disk);
        let survey = survey_bytes(&disk);
        assert_eq!(survey.allocated.total(), disk.len() as u64, "{name}");
        assert!(survey.widened[0].contains(why), "{name}: {:?}", survey.widened);
    }
}

#[test]
fn damage_to_metadata_loses_nothing() {
    let mut disk = fixture!("linear");
    disk.put("root", &make(26, "-t ext4 -J size=1"));
    disk.put("home", &make(10, "-t ext2"));
    let texts = Extent::new(4096, 4096 + 20_000);
    let places = vec![Extent::new(512, 1024), Extent::new(4096, 4608), texts, Extent::new(63 * MIB, 63 * MIB + 512)];
    endure(&disk.bytes, &Damage { name: "physical volume", places, nothing_lost: true, fix: false });
}

#[test]
fn what_lies_in_extents_is_explained_by_the_physical_volume() {
    // The last free extent reaches to the end of the disk, where firmware RAIDs have their metadata.
    let mut disk = fixture!("first");
    let end = disk.bytes.len();
    disk.bytes[end - 512..end - 508].copy_from_slice(b"\xde\x11\xde\x11");
    let survey = survey_bytes(&disk.bytes);
    assert!(survey.allocated.intersect(&disk.set("")).is_empty(), "{:?}", survey.widened);
    assert_eq!(survey.detected.unwrap().name, "LVM2_member");
    // VMFS begins where the first extent does: the physical volume may be what was there before.
    let mut disk = fixture!("first");
    disk.bytes[1 << 20..][..4].copy_from_slice(b"\x0d\xd0\x01\xc0");
    let survey = survey_bytes(&disk.bytes);
    assert_eq!(survey.widened, ["kept whole: it looks like LVM2_member and also like VMFS_volume_member"]);
    // Behind the extents nothing is explained.
    let mut disk = fixture!("linear");
    let end = disk.bytes.len();
    disk.bytes[end - 512..end - 508].copy_from_slice(b"\xde\x11\xde\x11");
    let survey = survey_bytes(&disk.bytes);
    assert_eq!(survey.allocated.total(), 64 * MIB);
    assert_eq!(survey.widened, ["kept whole: it looks like LVM2_member and also like ddf_raid_member"]);
}

#[test]
fn encrypted_volumes_and_groups_in_mirrors_are_kept_as_they_must() {
    let mut disk = fixture!("linear");
    disk.put("root", &make(20, "-t ext4"));
    disk.put("home", b"LUKS\xba\xbe\0\x01");
    disk.litter();
    let alone = survey_bytes(&disk.bytes);
    assert!(
        alone.widened.iter().any(|line| line.starts_with("logical volume home: kept whole: it is encrypted (LUKS1)"))
    );
    assert!(alone.allocated.covers(disk.runs("home")[0]));
    let mirror = crate::md::mirror_of(&disk.bytes);
    let survey = survey_bytes(&mirror);
    let names = survey.inside.iter().map(|inside| inside.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["host:data", "host:data/main/root", "host:data/main/swap", "host:data/main/home"]);
    assert_eq!(survey.allocated.total(), alone.allocated.total() + (mirror.len() - disk.bytes.len()) as u64);
    let copy = with_noise(&mirror, &survey);
    assert!(alone.allocated.iter().all(|run| copy[at(run)] == disk.bytes[at(run)]), "the data begins the disk");
}

#[test]
fn a_file_system_made_over_a_physical_volume_is_not_explained_by_it() {
    // Its extents begin at 44 KiB: the superblock of Btrfs lies in the first.
    let mut disk = fixture!("wrapped");
    disk.bytes[65536 + 64..65536 + 72].copy_from_slice(b"_BHRfS_M");
    let survey = survey_bytes(&disk.bytes);
    assert_eq!(survey.widened, ["kept whole: it looks like LVM2_member and also like btrfs"]);
    assert_eq!(survey.allocated.total(), 24 * MIB);
}

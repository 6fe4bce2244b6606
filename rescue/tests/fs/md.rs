//! Linux software RAID: superblocks written here and judged by `mdadm`, with real file systems as the array's data.

use std::fs;

use rescue::{
    extent::{Extent, ExtentSet},
    fs::State,
};

use crate::{
    damage::{Damage, endure},
    tools::{Bench, Noise, run, run_any, survey_bytes, with_noise},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Bytes of the disks here; a few more than a multiple of 64 KiB, as partitions have.
const DISK: usize = 16 * MIB + 37 * KIB;

/// A member of an array, as its superblock describes it.
#[derive(Clone, Debug)]
struct Member {
    version: &'static str,
    level: i32,
    disks: u32,
    role: u16,
    data: Extent,
    features: u32,
    resync: u64,
    bitmap: i32,
}

fn bytes(from: usize, to: usize) -> Extent {
    Extent::new(from as u64, to as u64)
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap()
}

impl Member {
    /// One of two members of a mirror that was stopped in order.
    fn mirror(version: &'static str) -> Self {
        let data = match version {
            "1.1" | "1.2" => bytes(MIB, 15 * MIB),
            _ => bytes(0, 15 * MIB),
        };
        Self { version, level: 1, disks: 2, role: 1, data, features: 0, resync: u64::MAX, bitmap: 0 }
    }

    /// Where the superblock is on a disk of `len` bytes.
    fn place(&self, len: usize) -> usize {
        match self.version {
            "1.0" => (len / 512 - 16) / 8 * 8 * 512,
            "1.1" => 0,
            "1.2" => 4096,
            _ => (len / 65536 - 1) * 65536,
        }
    }

    fn write(&self, disk: &mut [u8]) {
        let place = self.place(disk.len());
        if self.version.starts_with("0.90") {
            let sb = self.v0();
            disk[place..place + sb.len()].copy_from_slice(&sb);
            return;
        }
        let mut sb = vec![0; 256 + 2 * 16];
        sb[256..].fill(0xff);
        for (at, value) in [(0, 0xa92b_4efc), (4, 1), (8, self.features), (92, self.disks), (160, 3), (220, 16)] {
            sb[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        sb[16..32].copy_from_slice(&[0x11; 16]);
        sb[32..41].copy_from_slice(b"host:data");
        sb[72..76].copy_from_slice(&self.level.to_le_bytes());
        sb[96..100].copy_from_slice(&self.bitmap.to_le_bytes());
        let sectors = self.data.len() / 512;
        let size = if self.level == 0 { 0 } else { sectors };
        for (at, value) in [
            (80, size),
            (128, self.data.start / 512),
            (136, sectors + 8),
            (144, place as u64 / 512),
            (200, 17),
            (208, self.resync),
        ] {
            sb[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        sb[168..184].copy_from_slice(&[0x22; 16]);
        for (number, role) in [(0, 0u16), (1, 0xfffe), (2, 0xffff), (3, self.role)] {
            sb[256 + 2 * number..258 + 2 * number].copy_from_slice(&role.to_le_bytes());
        }
        seal(&mut sb);
        disk[place..place + sb.len()].copy_from_slice(&sb);
    }

    fn v0(&self) -> Vec<u8> {
        let mut words = vec![0u32; 1024];
        let clean = u32::from(self.resync == u64::MAX);
        for (word, value) in [
            (0, 0xa92b_4efc),
            (2, 90),
            (5, 0x1111_1111),
            (7, self.level.cast_unsigned()),
            (8, if self.level == 0 { 0 } else { u32::try_from(self.data.len() / 1024).unwrap() }),
            (9, self.disks),
            (10, self.disks),
            (13, 0x2222_2222),
            (33, clean | self.features),
            (34, self.disks),
            (39, 17),
            (992, 1),
            (995, u32::from(self.role)),
            (996, 6),
        ] {
            words[word] = value;
        }
        for disk in 0..self.disks {
            let at = 128 + 32 * usize::try_from(disk).unwrap();
            words[at..at + 5].copy_from_slice(&[disk, 8, disk, disk, 6]);
        }
        let sum = words.iter().map(|word| u64::from(*word)).sum::<u64>();
        words[38] = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
        let big = self.version.ends_with("big");
        words.iter().flat_map(|word| if big { word.to_be_bytes() } else { word.to_le_bytes() }).collect()
    }
}

/// Makes the checksum of a superblock of version 1 right.
fn seal(sb: &mut [u8]) {
    sb[216..220].fill(0);
    let sum = sb.chunks_exact(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum::<u64>();
    sb[216..220].copy_from_slice(&u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap().to_le_bytes());
}

fn ext4(len: u64) -> Vec<u8> {
    let bench = Bench::new();
    let (image, tree) = (bench.blank("image", len), bench.tree(true));
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-J", "size=1", "-d", &tree, &image]);
    fs::read(&image).unwrap()
}

/// Makes a disk that is `member` and holds `volume`, with noise in all other places.
fn disk(member: &Member, volume: &[u8]) -> Vec<u8> {
    let mut disk = Noise(3).take(DISK);
    let start = range(member.data).start;
    disk[start..start + volume.len()].copy_from_slice(volume);
    let place = member.place(DISK);
    disk[place..place + 4096].fill(0);
    member.write(&mut disk);
    disk
}

/// Makes a member of a mirror whose data, `volume`, begins at its start.
pub fn mirror_of(volume: &[u8]) -> Vec<u8> {
    let mut disk = [volume, &vec![0; 64 * KIB]].concat();
    Member { data: bytes(0, volume.len()), ..Member::mirror("1.0") }.write(&mut disk);
    disk
}

fn empty(member: &Member) -> Vec<u8> {
    let mut disk = vec![0; DISK / 4096 * 4096];
    member.write(&mut disk);
    disk
}

/// Makes an empty member of a mirror.
pub fn member(version: &'static str) -> Vec<u8> {
    empty(&Member::mirror(version))
}

/// Makes an empty member of a stripe set.
pub fn stripes(version: &'static str) -> Vec<u8> {
    empty(&Member { level: 0, ..Member::mirror(version) })
}

/// Returns what `mdadm` says of a disk.
fn examine(bench: &Bench, disk: &[u8]) -> String {
    let image = bench.path("member");
    fs::write(&image, disk).unwrap();
    run("mdadm", &["--examine", &image])
}

#[test]
fn members_of_mirrors_are_looked_into() {
    let bench = Bench::new();
    for version in ["0.90", "0.90 big", "1.0", "1.1", "1.2"] {
        let mut member = Member::mirror(version);
        if version == "1.2" {
            (member.features, member.bitmap) = (1, 8);
        }
        let volume = ext4(member.data.len());
        let mut disk = disk(&member, &volume);
        if member.bitmap != 0 {
            disk[8192..8200].copy_from_slice(b"bitm\x04\0\0\0");
            disk[8200..8216].fill(0x11);
        }
        if version != "0.90 big" {
            let said = examine(&bench, &disk);
            let has = |key: &str, value: &str| {
                let line = said.lines().find(|line| line.trim_start().starts_with(key));
                assert!(line.is_some_and(|line| line.contains(value)), "{version}: {key} {value}\n{said}");
            };
            has("Version", version);
            has("Raid Level", "raid1");
            has("State", "clean");
            has("Checksum", "correct");
            if member.bitmap != 0 {
                has("Internal Bitmap", "8 sectors from superblock");
            }
            if version != "0.90" {
                if version != "1.0" {
                    has("Data Offset", &format!("{} sectors", member.data.start / 512));
                }
                has("Used Dev Size", &format!("{} sectors", member.data.len() / 512));
                has("Device Role", "Active device 1");
            }
        }
        let survey = survey_bytes(&disk);
        assert_eq!(survey.widened, [""; 0], "{version}");
        let found = survey.detected.clone().unwrap();
        assert_eq!((found.name.as_str(), found.state), ("linux_raid_member", State::Clean), "{version}");
        let alone = survey_bytes(&volume);
        let inside = &survey.inside[0];
        assert_eq!((inside.bytes, inside.kept), (member.data.len(), alone.allocated.total()), "{version}");
        assert_eq!(inside.detected, alone.detected, "{version}");
        let start = member.data.start;
        let moved = alone.allocated.iter().map(|e| Extent::new(start + e.start, start + e.end)).collect::<ExtentSet>();
        let outside = ExtentSet::from(member.data).complement(DISK as u64);
        assert_eq!(survey.allocated, moved.union(&outside), "{version}");
        let copy = with_noise(&disk, &survey);
        let judge = |volume: &[u8]| {
            let image = bench.path("volume");
            fs::write(&image, volume).unwrap();
            String::from_utf8(run_any("e2fsck", &["-fn", &image]).stdout).unwrap().replace(&image, "")
        };
        assert_eq!(judge(&copy[range(member.data)]), judge(&volume), "{version}");
        assert!(copy[range(member.data)] != volume[..], "{version}: nothing was left out");
    }
}

#[test]
fn members_that_may_differ_from_their_array_are_kept_whole() {
    let mirror = Member::mirror("1.2");
    let old = Member::mirror("0.90");
    for (name, member, why) in [
        ("stripes", Member { level: 0, ..mirror.clone() }, "member of a RAID0 array of 2 disks"),
        ("parity", Member { level: 5, ..mirror.clone() }, "member of a RAID5 array"),
        ("linear", Member { level: -1, ..mirror.clone() }, "member of a linear array"),
        ("old stripes", Member { level: 0, ..old.clone() }, "member of a RAID0 array"),
        ("spare", Member { role: 0xffff, ..mirror.clone() }, "no active member"),
        ("faulty", Member { role: 0xfffe, ..mirror.clone() }, "no active member"),
        ("too many", Member { role: 2, ..mirror.clone() }, "no active member"),
        ("resync", Member { resync: 4096, ..mirror.clone() }, "a resync is not finished"),
        ("running", Member { resync: 0, ..old.clone() }, "a resync is not finished"),
        ("errors", Member { features: 2, ..old }, "its array reports errors"),
        ("recovery", Member { features: 2, ..mirror.clone() }, "recovery of this member"),
        ("reshape", Member { features: 4, ..mirror.clone() }, "changing its shape"),
        ("bad blocks", Member { features: 8, ..mirror.clone() }, "lists bad blocks"),
        ("replacing", Member { features: 16, ..mirror.clone() }, "replacing another member"),
        ("journal", Member { features: 512, ..mirror.clone() }, "has a journal"),
        ("unknown", Member { features: 1 << 20, ..mirror.clone() }, "unknown features 0x100000"),
        ("bitmap", Member { features: 1, bitmap: 4096, ..mirror.clone() }, "bitmap lies in its data"),
        ("beyond", Member { data: bytes(4 * MIB, 40 * MIB), ..mirror.clone() }, "where it cannot be"),
        ("nothing", Member { data: bytes(MIB, MIB), ..mirror.clone() }, "where it cannot be"),
        ("on itself", Member { data: bytes(0, 4 * MIB), ..mirror.clone() }, "where it cannot be"),
    ] {
        let survey = survey_bytes(&disk(&member, &[]));
        assert_eq!(survey.allocated.total(), DISK as u64, "{name}");
        assert!(survey.widened[0].contains(why), "{name}: {:?}", survey.widened);
    }
    let mut broken = disk(&mirror, &[]);
    broken[4096 + 200] ^= 1;
    let survey = survey_bytes(&broken);
    assert!(survey.widened[0].contains("wrong checksum"), "{:?}", survey.widened);
    assert_eq!(survey.detected.unwrap().state, State::Damaged);
}

#[test]
fn a_member_is_no_bare_file_system() {
    // The first member of a stripe set begins as the file system in the array does.
    let stripes = Member { level: 0, ..Member::mirror("1.0") };
    let survey = survey_bytes(&disk(&stripes, &ext4(stripes.data.len())));
    assert_eq!(survey.widened, ["kept whole: it is a member of a RAID0 array of 2 disks"]);
    assert_eq!(survey.allocated.total(), DISK as u64);
    // What lies before the data is not explained by the array.
    let member = Member::mirror("1.2");
    let volume = ext4(member.data.len());
    let mut stale = disk(&member, &volume);
    stale[1024..2048].copy_from_slice(&volume[1024..2048]);
    let survey = survey_bytes(&stale);
    assert_eq!(survey.widened, ["kept whole: it looks like linux_raid_member and also like ext4"]);
    assert_eq!(survey.allocated.total(), DISK as u64);
}

#[test]
fn what_a_mirror_holds_may_be_a_container_again() {
    let outer = Member::mirror("1.0");
    let mut encrypted = vec![0; 4096];
    encrypted[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    let survey = survey_bytes(&disk(&outer, &encrypted));
    assert_eq!(survey.allocated.total(), DISK as u64);
    assert!(survey.widened[0].starts_with("data of the RAID1: kept whole: it is encrypted (LUKS1)"));
    // Mirrors in mirrors, each a little smaller.
    let mut disk = Noise(1).take(DISK);
    for level in 0..6 {
        let (from, to) = (level * 128 * KIB, DISK - level * 4096);
        let member = Member { data: bytes(128 * KIB, to - from - 4096), ..Member::mirror("1.1") };
        member.write(&mut disk[from..to]);
    }
    let survey = survey_bytes(&disk);
    assert_eq!(survey.allocated.total(), DISK as u64);
    assert!(
        survey.widened[0].ends_with("kept whole: volumes lie in each other more than 4 deep"),
        "{:?}",
        survey.widened
    );
    assert_eq!(survey.inside.len(), 5);
}

#[test]
fn damaged_superblocks_lose_nothing() {
    for version in ["0.90", "1.0", "1.2"] {
        let member = Member::mirror(version);
        let base = disk(&member, &ext4(member.data.len()));
        let place = member.place(DISK);
        let places = vec![bytes(place, place + 288), bytes(place, place + 160)];
        endure(&base, &Damage { name: version, places, nothing_lost: true, fix: false });
    }
}

#[test]
fn superblocks_with_a_right_checksum_may_say_anything() {
    let mut noise = Noise(11);
    for version in ["1.0", "1.1", "1.2"] {
        let member = Member::mirror(version);
        let base = disk(&member, &[]);
        let place = member.place(DISK);
        for _ in 0..200 {
            let mut disk = base.clone();
            for _ in 0..=noise.next() % 3 {
                let at = place + 8 + usize::try_from(noise.next() % 248).unwrap();
                disk[at] = if noise.next().is_multiple_of(2) { 0xff } else { noise.next().to_le_bytes()[0] };
            }
            seal(&mut disk[place..place + 256 + 2 * 16]);
            let survey = survey_bytes(&disk);
            let outside = bytes(place, place + 256);
            assert!(survey.allocated.covers(outside), "{version}: the superblock is kept");
        }
    }
}

//! FAT12, FAT16 and FAT32, made by mkfs.fat and filled by mtools.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::atomic::Ordering,
};

use rescue::{
    block::{Error, MemoryDisk, ReadAt, file::FileDisk},
    extent::Extent,
    fs::{
        self as volume, Options, State, Survey,
        fat::{bpb::Bpb, table, walk},
    },
    units::SectorSize,
};

use crate::tools::{Bench, Counting, hashes, run, run_any, survey_bytes, with_noise};

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
fn more_directories_than_are_read_leave_a_doubt() {
    let bench = Bench::new();
    let image = make(&bench, "-F 16 -s 1", 12 * MIB);
    let disk = MemoryDisk::new(fs::read(&image).unwrap(), SectorSize::B512);
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, 0).unwrap();
    let bpb = Bpb::parse(&sector).unwrap();
    let table = table::read(&disk, &bpb).unwrap();
    assert_eq!(walk::check(&disk, &bpb, &table), Ok(vec![]));
    assert_eq!(walk::check_within(&disk, &bpb, &table, 512), Err(walk::Doubt::TooMany));
}

/// Makes a FAT16 volume with `fats` FATs and returns where they begin and how long each is.
fn with_fats(fats: usize) -> (Vec<u8>, usize, usize) {
    let bench = Bench::new();
    let bytes = fs::read(make(&bench, &format!("-F 16 -s 1 -f {fats}"), 12 * MIB)).unwrap();
    let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (fat, len) = (word(14) * 512, word(22) * 512);
    (bytes, fat, len)
}

#[test]
fn one_fat_or_four_are_read_and_usage_is_told() {
    for fats in [1, 2, 3, 4] {
        let (mut bytes, fat, len) = with_fats(fats);
        let clean = survey_bytes(&bytes);
        assert!(clean.widened.is_empty(), "{fats} FATs: {:?}", clean.widened);
        let usage = clean.usage.unwrap();
        assert_eq!(clean.allocated.total() + usage.free, 12 * MIB, "{fats} FATs");
        // A cluster that the last copy alone calls used.
        bytes[fat + (fats - 1) * len + 20_000..][..2].fill(0xff);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), clean.allocated.total() + 512, "{fats} FATs");
        assert_eq!(survey.widened.is_empty(), fats == 1, "{fats} FATs: {:?}", survey.widened);
    }
}

#[test]
fn bad_clusters_are_not_kept_unless_a_chain_leads_there() {
    let (mut bytes, fat, len) = with_fats(2);
    let clean = survey_bytes(&bytes);
    for copy in [fat, fat + len] {
        bytes[copy + 20_000..][..2].copy_from_slice(&0xfff7u16.to_le_bytes());
    }
    let survey = survey_bytes(&bytes);
    assert_eq!((&survey.allocated, &survey.widened), (&clean.allocated, &vec![]));
    assert_eq!(survey.notes, ["1 clusters are marked bad; no file is in them, and they are not kept"]);
    let usage = survey.usage.unwrap();
    assert_eq!(usage.free, clean.usage.unwrap().free - 512, "nor are they free");

    for copy in [fat, fat + len] {
        bytes[copy + 20_100..][..2].copy_from_slice(&10_000u16.to_le_bytes());
    }
    let linked = survey_bytes(&bytes);
    assert_eq!(linked.allocated.total(), clean.allocated.total() + 1024);
}

#[test]
fn a_fat_that_is_not_mirrored_counts_and_so_do_the_others() {
    let bench = Bench::new();
    let mut bytes = fs::read(make(&bench, "-F 32 -s 1", 40 * MIB)).unwrap();
    let clean = survey_bytes(&bytes);
    let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (fat, len) = (word(14) * 512, word(36) * 512);
    // Boot sector and copy: FAT 1 is active. FAT 0 is as it was at some time before.
    for sector in [0, 6 * 512] {
        bytes[sector + 40] = 0x81;
    }
    let stale = (fat + len / 2) / 4 * 4;
    bytes[stale..][..8].copy_from_slice(&[0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0x0f]);
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.widened, ["FAT 1 alone is in use, others differ in 2 entries; what any calls used is kept"]);
    assert_eq!(survey.allocated.total(), clean.allocated.total() + 1024);
    assert_eq!((survey.detected.unwrap().state, survey.usage), (State::Clean, clean.usage));

    for sector in [0, 6 * 512] {
        bytes[sector + 40] = 0x82;
    }
    let survey = survey_bytes(&bytes);
    assert!(survey.widened[0].contains("FAT 2 is in use, there are 2"), "{:?}", survey.widened);
}

#[test]
fn a_volume_that_calls_itself_by_another_width_is_kept_whole() {
    let (mut bytes, ..) = with_fats(2);
    bytes[54..59].copy_from_slice(b"FAT12");
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.allocated.total(), 12 * MIB);
    assert!(survey.widened[0].contains("calls itself FAT12 and has as many clusters as FAT16"), "{:?}", survey.widened);
    bytes[54..59].copy_from_slice(b"FAT  ");
    assert!(survey_bytes(&bytes).widened.is_empty(), "most tools put some name there");
}

#[test]
fn a_media_byte_of_another_kind_is_no_damage() {
    let (mut bytes, fat, len) = with_fats(2);
    let clean = survey_bytes(&bytes);
    (bytes[fat], bytes[fat + len]) = (0xf0, 0xf0);
    let survey = survey_bytes(&bytes);
    assert_eq!((survey.allocated, survey.widened), (clean.allocated, clean.widened));
}

#[test]
fn tiny_disks_keep_every_file() {
    for (options, len) in
        [("-F 12 -r 16 -s 1", 40 * KIB), ("-F 12 -f 1 -r 16 -R 1 -s 1", 64 * KIB + 512), ("-F 12 -s 128", 10 * MIB)]
    {
        let bench = Bench::new();
        let image = bench.blank("image", len);
        let mut args = options.split_whitespace().collect::<Vec<_>>();
        args.push(&image);
        run("mkfs.fat", &args);
        for (name, len) in [("A", 1), ("B", 700), ("C", 5000)] {
            fs::write(bench.path(name), vec![b'x'; len]).unwrap();
            run("mcopy", &["-i", &image, &bench.path(name), "::"]);
        }
        run("mdel", &["-i", &image, "::B"]);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert!(survey.widened.is_empty(), "{options}: {:?}", survey.widened);
        assert_eq!(survey.allocated.total(), len - survey.usage.unwrap().free, "{options}");
        let copy = bench.path("copy");
        fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
        assert_eq!(verdict(&copy), verdict(&image), "{options}");
        assert_eq!(contents(&bench, &copy, "got"), contents(&bench, &image, "want"), "{options}");
    }
}

/// Returns an entry of a directory, or of a file with attribute 0x20.
fn dir_entry(name: &str, kind: u8, cluster: u32) -> [u8; 32] {
    let mut entry = [b' '; 32];
    entry[..name.len()].copy_from_slice(name.as_bytes());
    entry[11..].fill(0);
    entry[11] = kind;
    let [low, high] = [cluster & 0xffff, cluster >> 16].map(|half| u16::try_from(half).unwrap().to_le_bytes());
    entry[20..22].copy_from_slice(&high);
    entry[26..28].copy_from_slice(&low);
    entry[28..].copy_from_slice(&1000u32.to_le_bytes());
    entry
}

#[test]
fn what_stands_behind_the_end_of_a_directory_is_kept_as_well() {
    let (empty, fat, len) = {
        let bench = Bench::new();
        let image = bench.blank("image", 12 * MIB);
        run("mkfs.fat", &["-F", "16", "-s", "1", &image]);
        let bytes = fs::read(&image).unwrap();
        let word = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let (fat, len) = (word(14) * 512, word(22) * 512);
        (bytes, fat, len)
    };
    let (root, data) = (fat + 2 * len, fat + 2 * len + 512 * 32);
    let at = |cluster: usize| data + (cluster - 2) * 512;
    let kept = |survey: &Survey| {
        let clusters =
            (2..200).filter(|cluster| survey.allocated.covers(Extent::with_len(at(*cluster) as u64, 512).unwrap()));
        clusters.collect::<Vec<_>>()
    };
    let put = |bytes: &mut Vec<u8>, at: usize, entry: [u8; 32]| bytes[at..at + 32].copy_from_slice(&entry);

    let mut bytes = empty.clone();
    for copy in [fat, fat + len] {
        bytes[copy + 4..][..2].fill(0xff);
    }
    put(&mut bytes, root, dir_entry("FIRST", 0x20, 2));
    let clean = survey_bytes(&bytes);
    assert_eq!((kept(&clean), &clean.widened), (vec![2], &vec![]));
    // A file, a directory with a file in it, what calls itself a directory and is none, and what leads nowhere.
    put(&mut bytes, root + 64, dir_entry("SECOND", 0x20, 10));
    put(&mut bytes, root + 96, dir_entry("FOLDER", 0x10, 20));
    put(&mut bytes, at(20), dir_entry(".", 0x10, 20));
    put(&mut bytes, at(20) + 64, dir_entry("INNER", 0x20, 30));
    put(&mut bytes, root + 160, dir_entry("NONE", 0x10, 40));
    put(&mut bytes, at(40), dir_entry("NOBODY", 0x20, 50));
    put(&mut bytes, root + 192, dir_entry("FAR", 0x20, 60_000));
    put(&mut bytes, root + 224, dir_entry("USED", 0x20, 2));
    let survey = survey_bytes(&bytes);
    assert_eq!(kept(&survey), [2, 10, 20, 30, 40]);
    assert_eq!(survey.widened, ["4 free clusters are named behind the end of a directory, and are kept"]);
    assert_eq!(survey.allocated.total(), clean.allocated.total() + 4 * 512);
    // Before the end it is a file that lost its chain, and so it is where both name it.
    put(&mut bytes, root + 32, dir_entry("SECOND", 0x20, 10));
    let lost = survey_bytes(&bytes);
    assert!(lost.widened[0].contains("names free cluster 10"), "{:?}", lost.widened);
}

/// A FAT32 volume that is computed where it is read: every directory has sixteen in it, as many as there are, and is
/// `length` clusters long. All are in the order of a heap.
struct Forest {
    directories: u32,
    length: u32,
    cluster: u32,
}

impl Forest {
    const FAT: u64 = 32 * 512;

    fn clusters(&self) -> u32 {
        self.directories * self.length
    }

    fn fat_sectors(&self) -> u32 {
        (self.clusters() + 2).div_ceil(128)
    }

    fn data(&self) -> u64 {
        Self::FAT + u64::from(self.fat_sectors()) * 512
    }

    fn first(&self, directory: u32) -> u32 {
        2 + directory * self.length
    }

    fn boot(&self) -> [u8; 512] {
        let mut sector = [0; 512];
        let per_cluster = u8::try_from(self.cluster / 512).unwrap();
        sector[11..17].copy_from_slice(&[0, 2, per_cluster, 32, 0, 1]);
        sector[21] = 0xf8;
        let sectors = u32::try_from(self.len() / 512).unwrap();
        for (at, value) in [(32, sectors), (36, self.fat_sectors()), (44, 2)] {
            sector[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        sector[82..90].copy_from_slice(b"FAT32   ");
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    fn link(&self, cluster: u32) -> u32 {
        match cluster {
            0 => 0x0fff_fff8,
            _ if cluster < 2 || (cluster - 1).is_multiple_of(self.length) => 0x0fff_ffff,
            _ => cluster + 1,
        }
    }

    fn fill(&self, index: u32, cluster: &mut [u8]) {
        let directory = index / self.length;
        if index.is_multiple_of(self.length) {
            let children = (directory * 16 + 1..).take(16).filter(|child| *child < self.directories);
            let own = [(".", self.first(directory)), ("..", 0)];
            let entries = own.into_iter().skip(if directory == 0 { 2 } else { 0 });
            let entries = entries.chain(children.map(|child| ("CHILD", self.first(child))));
            let slots = cluster.chunks_exact_mut(32);
            slots.zip(entries).for_each(|(slot, (name, to))| slot.copy_from_slice(&dir_entry(name, 0x10, to)));
        }
    }
}

impl ReadAt for Forest {
    fn len(&self) -> u64 {
        self.data() + u64::from(self.clusters()) * u64::from(self.cluster)
    }

    /// Reads whole sectors of one part, as a survey does.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        buf.fill(0);
        if let Some(within) = offset.checked_sub(self.data()) {
            let index = u32::try_from(within / u64::from(self.cluster)).unwrap();
            self.fill(index, buf);
        } else if let Some(within) = offset.checked_sub(Self::FAT) {
            let links = (u32::try_from(within / 4).unwrap()..).map(|cluster| self.link(cluster).to_le_bytes());
            buf.chunks_exact_mut(4).zip(links).for_each(|(slot, link)| slot.copy_from_slice(&link));
        } else if offset == 0 {
            buf.iter_mut().zip(self.boot()).for_each(|(slot, byte)| *slot = byte);
        }
        Ok(())
    }
}

#[test]
fn hundreds_of_thousands_of_directories_are_read() {
    let forest = Forest { directories: 300_000, length: 1, cluster: 4096 };
    let survey = volume::survey(&forest, &Options::default());
    assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]));
    assert_eq!(survey.usage.unwrap().free, 0);
}

#[test]
fn the_fat_is_read_once_for_all_directories() {
    let forest = Counting::new(Forest { directories: 2000, length: 2, cluster: 1024 });
    let survey = volume::survey(&forest, &Options::default());
    assert!(survey.widened.is_empty(), "{:?}", survey.widened);
    let read = forest.read.load(Ordering::Relaxed);
    assert!(read < forest.len() * 5 / 4, "{read} bytes were read of {}", forest.len());
}

#[test]
fn holes_in_the_fat_are_not_read() {
    const CLUSTERS: u32 = 60_000_000;
    let shape = Forest { directories: CLUSTERS, length: 1, cluster: 4096 };
    let bench = Bench::new();
    let image = bench.blank("image", shape.len());
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&shape.boot(), 0).unwrap();
    let entries = |links: &[u32]| links.iter().flat_map(|link| link.to_le_bytes()).collect::<Vec<_>>();
    file.write_all_at(&entries(&[0x0fff_fff8, 0x0fff_ffff, 0x0fff_ffff]), Forest::FAT).unwrap();
    file.write_all_at(&entries(&[50_000_001, 0x0fff_ffff]), Forest::FAT + 200_000_000).unwrap();
    let disk = Counting::new(FileDisk::open_source(image.as_ref(), None).unwrap());
    let survey = volume::survey(&disk, &Options::default());
    assert!(survey.widened.is_empty(), "{:?}", survey.widened);
    assert_eq!(survey.usage.unwrap().free, u64::from(CLUSTERS - 3) * 4096);
    assert_eq!(survey.allocated.total(), shape.data() + 3 * 4096);
    let read = disk.read.load(Ordering::Relaxed);
    assert!(read < 2 * MIB, "{read} bytes were read of a FAT of {}", shape.data());
}

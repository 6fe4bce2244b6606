//! Damaged structures: never a panic, never slow, never a byte outside, and never less than the whole volume's map had.

use std::{
    fs,
    time::{Duration, Instant},
};

use crc::{Algorithm, Crc};
use rescue::{
    block::{Error, MemoryDisk, ReadAt},
    extent::{Extent, ExtentSet},
    fs::{Options, survey},
    units::SectorSize,
};

use crate::{
    exfat_volume::{Shape, Volume},
    fastcommit, fat,
    tools::{Bench, Noise, run, survey_bytes},
};

const CASES: usize = 300;
const MIB: u64 = 1 << 20;

/// Bytes with a few others laid over them.
pub struct Patched<'a> {
    pub base: &'a [u8],
    pub patches: Vec<(usize, Vec<u8>)>,
}

impl ReadAt for Patched<'_> {
    fn len(&self) -> u64 {
        self.base.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let (size, len) = (self.len(), buf.len() as u64);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::Beyond { disk: "patched".to_owned(), offset, len, size });
        }
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.base[start..start + buf.len()]);
        for (at, bytes) in &self.patches {
            for (index, byte) in bytes.iter().enumerate() {
                if let Some(slot) = (at + index).checked_sub(start).and_then(|at| buf.get_mut(at)) {
                    *slot = *byte;
                }
            }
        }
        Ok(())
    }
}

/// What a case of damage is.
pub struct Damage<'a> {
    pub name: &'a str,
    /// Where bytes are changed.
    pub places: Vec<Extent>,
    /// Whether the map must still hold all that it held before.
    pub nothing_lost: bool,
    /// Whether the superblock's checksum is made right again.
    pub fix: bool,
}

fn crc32c(bytes: &[u8]) -> u32 {
    static CRC: Crc<u32> = Crc::<u32>::new(&Algorithm { xorout: 0, ..crc::CRC_32_ISCSI });
    CRC.checksum(bytes)
}

/// Chooses one to four bytes in the places, and what they become.
pub fn changes(base: &[u8], places: &[Extent], noise: &mut Noise) -> Vec<(usize, Vec<u8>)> {
    let mut out = Vec::new();
    for _ in 0..=noise.next() % 4 {
        let place = places[usize::try_from(noise.next()).unwrap() % places.len()];
        let at = usize::try_from(place.start + noise.next() % place.len()).unwrap();
        let byte = match noise.next() % 5 {
            0 => 0,
            1 => 0xff,
            2 => noise.next().to_le_bytes()[0],
            _ => base[at] ^ (1 << (noise.next() % 8)),
        };
        out.push((at, vec![byte]));
    }
    out
}

fn patches(base: &[u8], damage: &Damage<'_>, noise: &mut Noise) -> Vec<(usize, Vec<u8>)> {
    let mut out = changes(base, &damage.places, noise);
    if damage.fix {
        let mut sb = base[1024..2048].to_vec();
        out.iter().filter(|(at, _)| (1024..2044).contains(at)).for_each(|(at, byte)| sb[at - 1024] = byte[0]);
        out.push((2044, crc32c(&sb[..1020]).to_le_bytes().to_vec()));
    }
    out
}

pub fn endure(base: &[u8], damage: &Damage<'_>) {
    let clean = survey_bytes(base).allocated;
    let mut noise = Noise(0x5eed);
    let mut narrow = 0;
    for case in 0..CASES {
        let disk = Patched { base, patches: patches(base, damage, &mut noise) };
        let begun = Instant::now();
        let survey = survey(&disk, &Options::default());
        let what = format!("{} case {case}: {:?}: {:?}", damage.name, disk.patches, survey.widened);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        assert!(survey.allocated.iter().all(|extent| extent.end <= disk.len()), "{what}");
        let lost: ExtentSet = clean.subtract(&survey.allocated);
        assert!(!damage.nothing_lost || lost.is_empty(), "{what} lost {lost:?}");
        narrow += usize::from(survey.allocated.total() < disk.len());
    }
    assert!(narrow > 0, "{}: the damage reaches no further than the door", damage.name);
}

fn ext(options: &str) -> Vec<u8> {
    let bench = Bench::new();
    let image = bench.blank("image", 20 * MIB);
    let tree = bench.tree(false);
    let mut args = vec!["-q", "-F", "-b", "1024", "-N", "256", "-d", &tree];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mke2fs", &args);
    fs::read(&image).unwrap()
}

fn blocks(first: u64, count: u64) -> Extent {
    Extent::new(first * 1024, (first + count) * 1024)
}

/// Returns the blocks of the bitmaps of every group.
fn bitmaps(base: &[u8], desc_size: usize) -> Vec<Extent> {
    let table = &base[2048..];
    let word = |at: usize| u64::from(u32::from_le_bytes(table[at..at + 4].try_into().unwrap()));
    (0..3)
        .flat_map(|group| [word(group * desc_size), word(group * desc_size + 4)])
        .map(|block| blocks(block, 1))
        .collect()
}

#[test]
fn ext2_without_checksums_loses_nothing_by_damage() {
    let base = ext("-t ext2");
    let mut places = bitmaps(&base, 32);
    endure(&base, &Damage { name: "bitmaps", places: places.clone(), nothing_lost: true, fix: false });
    places = vec![blocks(2, 1).intersect(Extent::new(2048, 2048 + 96))];
    endure(&base, &Damage { name: "descriptors", places: places.clone(), nothing_lost: true, fix: false });
    places = vec![Extent::new(1024, 1024 + 264), Extent::new(1024, 1024 + 104)];
    endure(&base, &Damage { name: "superblock", places, nothing_lost: true, fix: false });
}

#[test]
fn ext4_with_checksums_loses_nothing_by_damage() {
    let base = ext("-t ext4 -J size=1");
    let places = vec![Extent::new(1024, 2044)];
    endure(&base, &Damage { name: "superblock, checksum right", places, nothing_lost: true, fix: true });
    let mut places = bitmaps(&base, 64);
    places.push(Extent::new(2048, 2048 + 192));
    endure(&base, &Damage { name: "descriptors and bitmaps", places, nothing_lost: true, fix: false });
}

#[test]
fn other_ext_volumes_lose_nothing_by_damage() {
    for options in [
        "-t ext4 -O ^metadata_csum,uninit_bg,^64bit -J size=1",
        "-t ext4 -O bigalloc,^metadata_csum -C 4096 -J size=1",
        "-t ext3 -O meta_bg,^resize_inode -J size=1",
    ] {
        let base = ext(options);
        let mut places = bitmaps(&base, if options.contains("^64bit") || options.contains("ext3") { 32 } else { 64 });
        places.extend([Extent::new(1024, 1400), Extent::new(2048, 2048 + 192)]);
        endure(&base, &Damage { name: options, places, nothing_lost: true, fix: false });
    }
}

#[test]
fn damage_to_a_waiting_journal_loses_nothing() {
    let bench = Bench::new();
    let image = bench.path("image");
    fs::write(&image, ext("-t ext4 -J size=1")).unwrap();
    let base = fs::read(&image).unwrap();
    let bitmap = bitmaps(&base, 64)[0];
    let mut full = base[usize::try_from(bitmap.start).unwrap()..usize::try_from(bitmap.end).unwrap()].to_vec();
    full[600..700].fill(0xff);
    fs::write(bench.path("full"), full).unwrap();
    let commands = format!("jo -c -v 3\njw -b {},5000,5001 {}\njc\n", bitmap.start / 1024, bench.path("three"));
    let three = [fs::read(bench.path("full")).unwrap(), vec![1; 2048]].concat();
    fs::write(bench.path("three"), three).unwrap();
    fs::write(bench.path("commands"), commands).unwrap();
    run("debugfs", &["-w", "-f", &bench.path("commands"), &image]);
    let listed = run("debugfs", &["-R", "blocks <8>", &image]);
    let log = listed.split_whitespace().map(|block| block.parse::<u64>().unwrap()).take(6);
    let places = log.map(|block| blocks(block, 1)).collect();
    let base = fs::read(&image).unwrap();
    endure(&base, &Damage { name: "journal", places, nothing_lost: true, fix: false });
}

#[test]
fn damaged_inodes_and_extent_trees_do_no_harm() {
    let base = ext("-t ext4 -O ^metadata_csum -J size=1");
    let word = |at: usize| u64::from(u32::from_le_bytes(base[at..at + 4].try_into().unwrap()));
    let places = vec![blocks(word(2048 + 8), 20)];
    endure(&base, &Damage { name: "inode table", places, nothing_lost: true, fix: false });
}

#[test]
fn damaged_fat_volumes_do_no_harm() {
    for (options, len) in [("-F 12", 4 * MIB), ("-F 16 -s 1", 12 * MIB), ("-F 32 -s 1", 40 * MIB)] {
        let bench = Bench::new();
        let base = fs::read(fat::make(&bench, options, len)).unwrap();
        let sector = |at: usize| u64::from(u16::from_le_bytes([base[at], base[at + 1]]));
        let start = sector(14) * 512;
        let places = vec![Extent::new(start, start + 1500)];
        endure(&base, &Damage { name: options, places, nothing_lost: true, fix: false });
        let places = vec![Extent::new(3, 90), Extent::new(11, 64), Extent::new(start, start + 1500)];
        endure(&base, &Damage { name: options, places, nothing_lost: false, fix: false });
    }
}

#[test]
fn damaged_exfat_volumes_lose_nothing() {
    for fats in [1, 2] {
        let mut volume = Volume::new(512, 512, 3000, fats, Shape::Run);
        let mut noise = Noise(3);
        let files = (0..20).map(|number| {
            let shape = if number % 2 == 0 { Shape::Run } else { Shape::Scattered };
            volume.file(&format!("FILE{number}"), &noise.take(number * 700), shape)
        });
        let files = files.collect::<Vec<_>>();
        let folder = volume.directory("FOLDER", &files, Shape::Scattered);
        let volume = volume.finish(&[folder]);
        let extent = |at: usize, len: usize| Extent::with_len(at as u64, len as u64).unwrap();
        let folder = volume.at(usize::from(u16::from_le_bytes({
            let stream = volume.find("FOLDER") - 32;
            [volume.bytes[stream + 20], volume.bytes[stream + 21]]
        })));
        let root = volume.find("FOLDER") / 512 * 512;
        for (name, places) in [
            ("boot regions", vec![extent(0, 12 * 512), extent(3, 112), extent(12 * 512, 512)]),
            (
                "FAT",
                vec![extent(volume.fat_offset, 1600), extent(volume.fat_offset + volume.fat_len * (fats - 1), 1600)],
            ),
            ("bitmap", vec![extent(volume.at(2), volume.clusters / 8)]),
            ("directories", vec![extent(root, 512), extent(folder, 512)]),
            ("up-case table", vec![extent(volume.at(volume.upcase[0]), 60)]),
        ] {
            let damage = Damage { name, places, nothing_lost: true, fix: false };
            endure(&volume.bytes, &damage);
        }
    }
}

#[test]
fn damaged_swap_files_lose_nothing_of_others() {
    let bench = Bench::new();
    let tree = bench.tree(false);
    let swap = format!("{tree}/swapfile");
    fs::write(&swap, Noise(4).take(1 << 20)).unwrap();
    run("mkswap", &["-q", "-p", "4096", &swap]);
    fs::write(format!("{tree}/etc/fstab"), "/swapfile none swap sw 0 0\n/large none swap sw 0 0\n").unwrap();
    for options in ["-t ext4 -O ^metadata_csum,uninit_bg -J size=1", "-t ext2"] {
        let image = bench.blank("image", 20 * MIB);
        let mut args = vec!["-q", "-F", "-b", "1024", "-N", "256", "-d", &tree];
        args.extend(options.split_whitespace());
        args.push(&image);
        run("mke2fs", &args);
        let base = fs::read(&image).unwrap();
        let of = |file: &str| {
            let listed = run("debugfs", &["-R", &format!("blocks {file}"), &image]);
            listed.split_whitespace().map(|block| blocks(block.parse().unwrap(), 1)).collect::<Vec<_>>()
        };
        let stat = run("debugfs", &["-R", "imap /swapfile", &image]);
        let (block, offset) = stat.rsplit_once("block ").unwrap().1.split_once(", offset 0x").unwrap();
        let inode = block.parse::<u64>().unwrap() * 1024 + u64::from_str_radix(offset.trim(), 16).unwrap();
        assert_eq!(survey(&MemoryDisk::new(base.clone(), SectorSize::B512), &Options::default()).left_out.len(), 1);
        let header = of("/swapfile")[0];
        for (name, places) in [
            ("inode", vec![Extent::with_len(inode, 128).unwrap(), Extent::with_len(inode + 40, 60).unwrap()]),
            ("header", vec![Extent::with_len(header.start + 1024, 60).unwrap(), of("/swapfile")[3]]),
            ("directories", vec![of("/")[0], of("/etc")[0], of("/etc/fstab")[0]]),
        ] {
            let places = places.into_iter().map(|place| place.intersect(Extent::new(0, 20 * MIB))).collect();
            endure(&base, &Damage { name: &format!("{options}: {name}"), places, nothing_lost: true, fix: false });
        }
    }
}

#[test]
fn damaged_fast_commits_do_no_harm() {
    let pending = fastcommit::pending("-O fast_commit,^metadata_csum");
    let log = |number: usize| blocks(pending.log[number] as u64, 1);
    let last = pending.log.len();
    let places = vec![log(0).intersect(Extent::new(log(0).start, log(0).start + 100)), log(1), log(last - 15)];
    endure(&pending.bytes, &Damage { name: "fast commits", places, nothing_lost: false, fix: false });
}

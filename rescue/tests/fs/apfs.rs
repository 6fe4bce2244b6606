//! APFS containers, made by mkapfs. No tool fills one without mounting it; blocks are put in use by hand.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use rescue::{
    block::{Error, ReadAt},
    extent::Extent,
    fs::{Options, State, Survey, survey},
};

use crate::{
    damage::{Damage, Patched, endure},
    tools::{Bench, Noise, run, run_any, survey_bytes, with_noise},
};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

fn make(bench: &Bench, options: &str, len: u64) -> String {
    let image = bench.blank("image", len);
    let mut args = options.split_whitespace().collect::<Vec<_>>();
    args.push(&image);
    run("mkapfs", &args);
    image
}

fn long(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

/// Makes the checksum of the object at byte `at` right again.
fn seal(bytes: &mut [u8], at: usize, len: usize) {
    let modulus = 0xffff_ffffu64;
    let (mut first, mut second) = (0, 0);
    for chunk in bytes[at + 8..at + len].chunks_exact(4) {
        first = (first + u64::from(u32::from_le_bytes(chunk.try_into().unwrap()))) % modulus;
        second = (second + first) % modulus;
    }
    let low = modulus - (first + second) % modulus;
    let high = modulus - (first + low) % modulus;
    bytes[at..at + 8].copy_from_slice(&(high << 32 | low).to_le_bytes());
}

/// The parts of a container with one checkpoint, as bytes into it.
struct Parts {
    /// The newest container superblock.
    newest: usize,
    map: usize,
    spaceman: usize,
    spaceman_len: usize,
    cib: usize,
    bitmap: usize,
    omap: usize,
    tree: usize,
}

fn parts(bytes: &[u8]) -> Parts {
    let (desc, count) = (long(bytes, 112), word(bytes, 104));
    let blocks = (desc..desc + count).map(|block| block * BLOCK);
    let newest = blocks.filter(|at| &bytes[at + 32..at + 36] == b"NXSB").max_by_key(|at| long(bytes, at + 16)).unwrap();
    let map = (desc + word(bytes, newest + 136)) * BLOCK;
    let mappings = (0..word(bytes, map + 36)).map(|index| map + 40 + index * 40);
    let entry = mappings.into_iter().find(|at| long(bytes, at + 24) == long(bytes, newest + 152)).unwrap();
    let (spaceman, spaceman_len) = (long(bytes, entry + 32) * BLOCK, word(bytes, entry + 8));
    let cib = long(bytes, spaceman + word(bytes, spaceman + 80)) * BLOCK;
    let omap = long(bytes, newest + 160) * BLOCK;
    let (bitmap, tree) = (long(bytes, cib + 64) * BLOCK, long(bytes, omap + 48) * BLOCK);
    Parts { newest, map, spaceman, spaceman_len, cib, bitmap, omap, tree }
}

/// Puts every block for which `take` is true and that is free in use, in the first chunk.
fn fill(bytes: &mut [u8], take: impl Fn(usize) -> bool) -> Vec<usize> {
    let parts = parts(bytes);
    let blocks = word(bytes, parts.cib + 56).min(long(bytes, 40));
    let mut taken = Vec::new();
    for block in (0..blocks).filter(|block| take(*block)) {
        let (byte, bit) = (parts.bitmap + block / 8, 1 << (block % 8));
        if bytes[byte] & bit == 0 {
            bytes[byte] |= bit;
            taken.push(block);
        }
    }
    let free = word(bytes, parts.cib + 60) - taken.len();
    bytes[parts.cib + 60..parts.cib + 64].copy_from_slice(&u32::try_from(free).unwrap().to_le_bytes());
    seal(bytes, parts.cib, BLOCK);
    let free = long(bytes, parts.spaceman + 72) - taken.len();
    bytes[parts.spaceman + 72..parts.spaceman + 80].copy_from_slice(&(free as u64).to_le_bytes());
    seal(bytes, parts.spaceman, parts.spaceman_len);
    taken
}

/// What checker and second reader say.
fn verdict(image: &str) -> String {
    ["apfsck", "fsapfsinfo"]
        .map(|tool| {
            let options: &[&str] = if tool == "apfsck" { &["-cuw", image] } else { &[image] };
            let output = run_any(tool, options);
            let text = [output.stdout, output.stderr].concat();
            format!("{:?}\n{}", output.status.code(), String::from_utf8_lossy(&text).replace(image, ""))
        })
        .join("\n")
}

#[test]
fn every_kind_of_container_is_the_same_without_its_free_blocks() {
    for (name, options, len) in [
        ("plain", "-L Mac", 129 * MIB),
        ("any case", "-s -L Case", 200 * MIB),
        ("odd length", "-L Odd", 150 * MIB + 3 * 512),
    ] {
        let bench = Bench::new();
        let image = make(&bench, options, len);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
        let detected = survey.detected.clone().unwrap();
        assert_eq!((detected.name.as_str(), detected.state), ("apfs", State::Unknown), "{name}");
        let label = options.rsplit(' ').next().filter(|label| !label.is_empty()).unwrap_or("untitled");
        assert_eq!(detected.label.as_deref(), Some(label), "{name}");
        let uuid = run("blkid", &["-p", "-o", "value", "-s", "UUID", &image]);
        assert_eq!(detected.uuid.as_deref(), Some(uuid.trim()), "{name}");

        let free = long(&bytes, parts(&bytes).spaceman + 72) * BLOCK;
        assert_eq!(survey.allocated.total(), len - free as u64, "{name}: exactly what is not free is kept");
        assert!(survey.allocated.total() < len / 3, "{name}");
        let copy = bench.path("copy");
        fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
        assert_eq!(verdict(&copy), verdict(&image), "{name}");
    }
}

/// A large image that does not fit into memory.
struct Image(File, u64);

impl ReadAt for Image {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let (len, size) = (buf.len() as u64, self.1);
        let beyond = || Error::Beyond { disk: "image".to_owned(), offset, len, size };
        offset.checked_add(len).filter(|end| *end <= size).ok_or_else(beyond)?;
        self.0.read_exact_at(buf, offset).map_err(|_| beyond())
    }
}

#[test]
fn containers_with_many_chunks_are_read() {
    for gib in [40u64, 1024, 4000] {
        let bench = Bench::new();
        let len = gib << 30;
        let image = make(&bench, "", len);
        let disk = Image(File::open(&image).unwrap(), len);
        let survey: Survey = survey(&disk, &Options::default());
        assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{gib} GiB");
        let usage = survey.usage.unwrap();
        assert_eq!((survey.allocated.total(), usage.used + usage.free), (usage.used, len), "{gib} GiB");
        assert!(survey.allocated.total() < len / 1000, "{gib} GiB");
    }
}

#[test]
fn used_blocks_are_kept_one_by_one() {
    let bench = Bench::new();
    let mut bytes = fs::read(make(&bench, "", 129 * MIB)).unwrap();
    let before = survey_bytes(&bytes).allocated;
    let taken = fill(&mut bytes, |block| block % 3 == 0 || block % 1000 > 900);
    let survey = survey_bytes(&bytes);
    assert!(survey.widened.is_empty(), "{:?}", survey.widened);
    assert!(taken.len() > 5000);
    let block = |number: usize| Extent::new((number * BLOCK) as u64, ((number + 1) * BLOCK) as u64);
    assert!(taken.iter().all(|number| survey.allocated.covers(block(*number))));
    assert_eq!(survey.allocated.total(), before.total() + (taken.len() * BLOCK) as u64);

    // All of the first chunk, up to its last block; the second is one MiB and has no bitmap.
    fill(&mut bytes, |_| true);
    let survey = survey_bytes(&bytes);
    assert_eq!(survey.usage.unwrap().free, MIB);
    assert_eq!(survey.allocated.as_slice(), [Extent::new(0, 128 * MIB)]);
}

#[test]
fn doubt_keeps_more() {
    let bench = Bench::new();
    let clean = fs::read(make(&bench, "", 129 * MIB)).unwrap();
    let parts = parts(&clean);
    // The superblock of block 0 and that of the checkpoint are alike.
    let both = |bytes: &mut Vec<u8>, at: usize, value: u8| {
        for start in [0, parts.newest] {
            bytes[start + at] = value;
            seal(bytes, start, BLOCK);
        }
    };
    for (name, want, change) in [
        (
            "block 0",
            "the container superblock is broken",
            &(|bytes: &mut Vec<u8>| bytes[100] ^= 1) as &dyn Fn(&mut Vec<u8>),
        ),
        ("checkpoint", "no checkpoint is whole", &|bytes| bytes[parts.newest + 100] ^= 1),
        ("torn", "parts of transaction", &|bytes| {
            let (desc, count) = (long(bytes, 112), word(bytes, 104));
            let at = (desc + count - 1) * BLOCK;
            bytes.copy_within(parts.map..parts.map + BLOCK, at);
            bytes[at + 17] = 9;
            seal(bytes, at, BLOCK);
        }),
        ("unknown feature", "features that are not known", &|bytes| both(bytes, 65, 2)),
        ("fusion", "two devices", &|bytes| both(bytes, 65, 1)),
        ("read-only feature", "features that are not known", &|bytes| both(bytes, 57, 1)),
        ("map", "the space manager is broken", &|bytes| bytes[parts.map + 60] ^= 1),
        ("space manager", "the checksum of block", &|bytes| bytes[parts.spaceman + 60] ^= 1),
        ("second device", "two devices", &|bytes| {
            bytes[parts.spaceman + 96] = 1;
            seal(bytes, parts.spaceman, parts.spaceman_len);
        }),
        ("unknown flags", "flags that are not known", &|bytes| {
            bytes[parts.spaceman + 144] |= 0x10;
            seal(bytes, parts.spaceman, parts.spaceman_len);
        }),
        ("free blocks", "the sum of free blocks", &|bytes| {
            bytes[parts.spaceman + 72] ^= 1;
            seal(bytes, parts.spaceman, parts.spaceman_len);
        }),
        ("chunk", "the place of a chunk", &|bytes| {
            bytes[parts.cib + 48] ^= 1;
            seal(bytes, parts.cib, BLOCK);
        }),
        ("object map", "its trees are broken", &|bytes| bytes[parts.omap + 60] ^= 1),
        ("tree", "its trees are broken", &|bytes| bytes[parts.tree + 60] ^= 1),
        ("cut", "the container is", &|bytes| bytes.truncate(120 << 20)),
    ] {
        let mut bytes = clean.clone();
        change(&mut bytes);
        let survey = survey_bytes(&bytes);
        assert!(survey.widened[0].contains(want), "{name}: {:?}", survey.widened);
        assert_eq!(survey.allocated.total(), bytes.len() as u64, "{name}");
    }
    let mut bytes = clean.clone();
    bytes[parts.bitmap + 600] ^= 1;
    let survey = survey_bytes(&bytes);
    assert!(survey.widened[0].contains("1 chunks kept whole"), "{:?}", survey.widened);
    assert_eq!(survey.detected.unwrap().state, State::Damaged);
}

#[test]
fn blocks_that_trees_name_are_kept_whatever_the_bitmap_says() {
    let bench = Bench::new();
    let mut bytes = fs::read(make(&bench, "", 129 * MIB)).unwrap();
    let clean = survey_bytes(&bytes).allocated;
    let parts = parts(&bytes);
    let block = parts.tree / BLOCK;
    bytes[parts.bitmap + block / 8] &= !(1 << (block % 8));
    let free = word(&bytes, parts.cib + 60) + 1;
    bytes[parts.cib + 60..parts.cib + 64].copy_from_slice(&u32::try_from(free).unwrap().to_le_bytes());
    seal(&mut bytes, parts.cib, BLOCK);
    let free = long(&bytes, parts.spaceman + 72) + 1;
    bytes[parts.spaceman + 72..parts.spaceman + 80].copy_from_slice(&(free as u64).to_le_bytes());
    seal(&mut bytes, parts.spaceman, parts.spaceman_len);
    let survey = survey_bytes(&bytes);
    assert!(survey.widened[0].contains("that volumes use are free"), "{:?}", survey.widened);
    assert!(clean.subtract(&survey.allocated).is_empty());
    assert!(survey.allocated.covers(Extent::new(0, 128 * MIB)), "the bitmap is not believed in anything");
}

#[test]
fn damage_loses_nothing() {
    let bench = Bench::new();
    let mut bytes = fs::read(make(&bench, "", 129 * MIB)).unwrap();
    let mut noise = Noise(9);
    let picks = (0..600).map(|_| usize::try_from(noise.next()).unwrap() % 30000).collect::<Vec<_>>();
    fill(&mut bytes, |block| picks.contains(&block));
    let parts = parts(&bytes);
    let place = |at: usize| Extent::new(at as u64, (at + BLOCK) as u64);
    for (name, places) in [
        ("superblocks", vec![Extent::new(36, 1400), place(parts.newest), place(parts.map)]),
        ("books", vec![place(parts.spaceman), place(parts.cib), place(parts.bitmap)]),
        ("trees", vec![place(parts.omap), place(parts.tree), place(parts.bitmap)]),
    ] {
        endure(&bytes, &Damage { name, places, nothing_lost: true, fix: false });
    }
}

#[test]
fn wrong_numbers_with_right_checksums_do_no_harm() {
    let bench = Bench::new();
    let clean = fs::read(make(&bench, "", 129 * MIB)).unwrap();
    let parts = parts(&clean);
    let mut noise = Noise(5);
    let objects = [0, parts.newest, parts.map, parts.spaceman, parts.cib, parts.omap, parts.tree];
    let mut whole = 0;
    for case in 0..400usize {
        let at = objects[case % objects.len()];
        let len = if at == parts.spaceman { parts.spaceman_len } else { BLOCK };
        let mut object = clean[at..at + len].to_vec();
        for _ in 0..=noise.next() % 3 {
            let field = usize::try_from(noise.next()).unwrap() % 260 + 16;
            object[field] = noise.next().to_le_bytes()[0];
        }
        seal(&mut object, 0, len);
        let disk = Patched { base: &clean, patches: vec![(at, object)] };
        let survey = survey(&disk, &Options::default());
        whole += usize::from(survey.allocated.total() == disk.len());
        assert!(survey.allocated.contains(0) && survey.allocated.contains(parts.newest as u64), "case {case}");
    }
    assert!(whole > 100, "{whole} of 400 were found out");
}

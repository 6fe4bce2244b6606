//! Page files, hibernation, logs, lies and damage.

use std::{fs, path::Path};

use rescue::{
    block::{Error, MemoryDisk, ReadAt},
    extent::{Extent, ExtentSet},
    fs::{Options, State, Survey, detect, survey},
    units::SectorSize,
};

use super::{
    MIB,
    access::{Mounted, contents, copy_flat, fuse},
    edit::{BITMAP, DATA, Image, attributes, set_attributes},
    fill, format, round_trip,
};
use crate::{
    damage::{Damage, endure},
    tools::{Bench, Noise, survey_bytes, with_noise},
};

const CLUSTER: u64 = 4096;

/// What Windows gives those files: hidden, one of the system's, to be archived.
const HIDDEN_SYSTEM: u8 = 0x26;
const SPECIAL: [&str; 3] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys"];

/// Makes a volume with files, and with `files` in its root folder; page and hibernation files as Windows makes them.
fn volume(bench: &Bench, files: &[(&str, Vec<u8>)]) -> Image {
    let tree = bench.tree(false);
    let image = format(bench, "-c 4096 -L Windows", 24 * MIB);
    fill(bench, &tree, &image);
    let folder = bench.dir.path().join("more");
    fs::create_dir(&folder).unwrap();
    files.iter().for_each(|(name, content)| fs::write(folder.join(name), content).unwrap());
    copy_flat(&folder, &image);
    let path = image;
    let mut image = Image::new(fs::read(&path).unwrap());
    for (name, _) in files.iter().filter(|(name, _)| SPECIAL.contains(&name.to_ascii_lowercase().as_str())) {
        let number = image.find(name);
        set_file_attributes(&mut image, number, HIDDEN_SYSTEM);
    }
    fs::write(path, &image.bytes).unwrap();
    image
}

/// Sets the attributes of a file in its standard information.
fn set_file_attributes(image: &mut Image, number: u64, flags: u8) {
    image.edit(number, |record| {
        let mut parts = attributes(record);
        let information = parts.iter_mut().find(|part| part[0] == 0x10).unwrap();
        let value = usize::from(information[20]);
        information[value + 32..value + 36].copy_from_slice(&[flags, 0, 0, 0]);
        set_attributes(record, &parts);
    });
}

/// Returns what an idle hibernation file of `pages` pages holds.
fn idle(pages: usize) -> Vec<u8> {
    vec![0; pages * 4096]
}

/// Returns noise with `start` in front, `pages` pages long.
fn file(start: &[u8], pages: usize) -> Vec<u8> {
    let mut bytes = Noise(5).take(pages * 4096);
    bytes[..4096].fill(0);
    bytes[..start.len()].copy_from_slice(start);
    bytes
}

fn state(survey: &Survey) -> State {
    survey.detected.as_ref().unwrap().state
}

fn extents(clusters: &[u64]) -> ExtentSet {
    clusters.iter().map(|cluster| Extent::new(cluster * CLUSTER, (cluster + 1) * CLUSTER)).collect()
}

/// Checks that everything is kept, with a reason.
fn whole(bytes: &[u8], name: &str, want: State, says: &str) {
    let survey = survey_bytes(bytes);
    assert_eq!(survey.allocated, ExtentSet::full(bytes.len() as u64), "{name}");
    assert_eq!(survey.detected.as_ref().map(|found| found.name.as_str()), Some("ntfs"), "{name}");
    assert_eq!(state(&survey), want, "{name}");
    assert!(survey.widened.len() == 1 && survey.widened[0].contains(says), "{name}: {:?}", survey.widened);
    assert!(survey.left_out.is_empty(), "{name}");
}

#[test]
fn of_page_files_only_the_first_page_is_kept() {
    let bench = Bench::new();
    let names = ["pagefile.sys", "SwapFile.sys", "hiberfil.sys"];
    let image = volume(&bench, &[(names[0], file(b"old", 500)), (names[1], file(b"", 70)), (names[2], idle(300))]);
    let path = bench.path("image");
    let survey = survey_bytes(&image.bytes);
    assert_eq!((state(&survey), survey.widened.len(), survey.notes.len()), (State::Clean, 0, 0));
    let mut left = survey.left_out.iter().map(|file| (file.path.as_str(), file.bytes / CLUSTER)).collect::<Vec<_>>();
    left.sort_unstable();
    assert_eq!(left, [("/SwapFile.sys", 69), ("/hiberfil.sys", 299), ("/pagefile.sys", 499)]);
    let keep = Options { keep_swap_files: true };
    let all = rescue::fs::survey(&MemoryDisk::new(image.bytes.clone(), SectorSize::B512), &keep);
    assert_eq!((all.left_out.len(), all.usage), (0, survey.usage));
    let without = all.allocated.subtract(&survey.allocated);
    let spare = names.map(|name| image.clusters(image.find(name), DATA)[1..].to_vec()).concat();
    assert_eq!(without, extents(&spare));

    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&image.bytes, &survey)).unwrap();
    let (want, got) = (contents(&bench, &path), contents(&bench, &copy));
    let differing = want.iter().filter(|(name, hash)| got.get(*name) != Some(*hash)).map(|(name, _)| name.clone());
    let mut differing = differing.collect::<Vec<_>>();
    differing.sort();
    let mut want = names.map(|name| Path::new(name).to_owned()).to_vec();
    want.sort();
    assert_eq!(differing, want, "no other file differs");
    let header = |name: &str| {
        let at = image.byte(image.find(name), DATA, 0);
        survey.allocated.covers(Extent::new(at as u64, at as u64 + CLUSTER))
    };
    assert!(names.into_iter().all(header));
}

#[test]
fn page_files_that_somebody_wants_are_kept() {
    let bench = Bench::new();
    let sizes = [("pagefile.sys", file(b"", 300)), ("hiberfil.sys", idle(300)), ("other", file(b"", 20))];
    let image = volume(&bench, &sizes);
    let (page, hiber, other) = (image.find("pagefile.sys"), image.find("hiberfil.sys"), image.find("other"));
    type Change<'a> = &'a dyn Fn(&mut Image);
    let write = |image: &mut Image, number: u64, text: &[u8]| {
        let at = image.byte(number, DATA, 0);
        image.bytes[at..at + text.len()].copy_from_slice(text);
    };
    let last = image.byte(hiber, DATA, 299 * 4096);
    let cases: [(&str, Change<'_>, &[&str], &str); 11] = [
        ("crash dump", &|image| write(image, page, b"PAGEDU64"), &["/hiberfil.sys"], "crash dump"),
        ("woken", &|image| write(image, hiber, b"WAKE"), &["/pagefile.sys"], "woken"),
        ("odd", &|image| write(image, hiber, b"odd"), &["/pagefile.sys"], "holds something"),
        (
            "shared",
            &|image| {
                let clusters = image.clusters(page, DATA)[100..120].to_vec();
                image.set_clusters(other, &clusters);
            },
            &["/hiberfil.sys"],
            "shares clusters",
        ),
        (
            "compressed",
            &|image| {
                image.edit(page, |record| {
                    let mut parts = attributes(record);
                    parts.iter_mut().filter(|part| part[0] == 0x80).for_each(|part| part[12] = 1);
                    set_attributes(record, &parts);
                });
            },
            &["/hiberfil.sys"],
            "",
        ),
        // By their name alone they may be anybody's.
        ("no attributes", &|image| set_file_attributes(image, page, 0x20), &["/hiberfil.sys"], ""),
        ("hidden", &|image| set_file_attributes(image, page, 0x22), &["/hiberfil.sys"], ""),
        ("of the system", &|image| set_file_attributes(image, hiber, 0x24), &["/pagefile.sys"], ""),
        ("last page", &|image| image.bytes[last + 77] = 1, &["/pagefile.sys"], "behind an empty first page"),
        (
            "second page",
            &|image| {
                let at = image.byte(hiber, DATA, 4096);
                image.bytes[at] = 1;
            },
            &["/pagefile.sys"],
            "behind an empty first page",
        ),
        ("two names", &|image| image.edit(page, |record| record[18] = 3), &["/hiberfil.sys"], ""),
    ];
    for (name, change, left, says) in cases {
        let mut image = Image::new(image.bytes.clone());
        change(&mut image);
        let survey = survey_bytes(&image.bytes);
        assert_eq!(state(&survey), State::Clean, "{name}: {:?}", survey.widened);
        let paths = survey.left_out.iter().map(|file| file.path.as_str()).collect::<Vec<_>>();
        assert_eq!(paths, left, "{name}");
        assert_eq!(says.is_empty(), survey.notes.is_empty(), "{name}: {:?}", survey.notes);
        assert!(survey.notes.iter().all(|note| note.contains(says)), "{name}: {:?}", survey.notes);
    }
    if fuse() {
        let mounted = Mounted::new(&bench, &bench.path("image"), "");
        fs::rename(mounted.root.join("pagefile.sys"), mounted.root.join("deep/pagefile.sys")).unwrap();
        drop(mounted);
        let survey = survey_bytes(&fs::read(bench.path("image")).unwrap());
        assert_eq!(survey.left_out.len(), 1, "a page file is in the root folder");
        let mounted = Mounted::new(&bench, &bench.path("image"), "");
        fs::hard_link(mounted.root.join("hiberfil.sys"), mounted.root.join("x")).unwrap();
        drop(mounted);
        let survey = survey_bytes(&fs::read(bench.path("image")).unwrap());
        assert_eq!(survey.left_out.len(), 0, "it has another name");
    }
}

#[test]
fn files_that_only_have_the_names_are_kept() {
    let bench = Bench::new();
    let tree = bench.dir.path().join("data");
    fs::create_dir(&tree).unwrap();
    SPECIAL.iter().for_each(|name| fs::write(tree.join(name), file(b"", 300)).unwrap());
    let image = format(&bench, "-c 4096", 24 * MIB);
    copy_flat(&tree, &image);
    let survey = survey_bytes(&fs::read(&image).unwrap());
    assert_eq!((state(&survey), &survey.left_out[..]), (State::Clean, &[][..]), "{:?}", survey.widened);
    let copy = bench.path("copy");
    fs::write(&copy, with_noise(&fs::read(&image).unwrap(), &survey)).unwrap();
    assert_eq!(contents(&bench, &copy), contents(&bench, &image));
}

#[test]
fn hibernated_volumes_are_kept_whole() {
    let bench = Bench::new();
    let image = volume(&bench, &[("pagefile.sys", file(b"", 300)), ("hiberfil.sys", idle(300))]);
    let at = image.byte(image.find("hiberfil.sys"), DATA, 0);
    for signature in [b"HIBR", b"hibr", b"RSTR", b"LINK"] {
        let mut bytes = image.bytes.clone();
        bytes[at..at + 4].copy_from_slice(signature);
        whole(&bytes, "signature", State::Hibernated, "fast start-up");
    }
    let short = volume(&Bench::new(), &[("hiberfil.sys", vec![1; 600])]);
    whole(&short.bytes, "short", State::Hibernated, "another volume");
    // The root folder loses the file: what a system hides there cannot be ruled out.
    let mut lost = Image::new(image.bytes.clone());
    let name = "hiberfil.sys".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let number = lost.find("hiberfil.sys");
    let own = lost.place(number)..lost.place(number) + lost.record;
    let places = (0..lost.bytes.len() - 24).filter(|at| lost.bytes[*at..*at + 24] == name && !own.contains(at));
    let places = places.collect::<Vec<_>>();
    places.iter().for_each(|at| lost.bytes[*at] = b'x');
    assert!(!places.is_empty());
    whole(&lost.bytes, "hidden", State::Damaged, "root folder does not list");
}

/// Writes two restart pages into the log.
fn restart(image: &mut Image, in_use: u16, flags: u16, version: u16) {
    for page in 0..2 {
        let at = image.byte(2, DATA, page * 4096);
        let bytes = &mut image.bytes[at..at + 4096];
        bytes.fill(0);
        bytes[..4].copy_from_slice(b"RSTR");
        (bytes[4], bytes[6], bytes[17], bytes[21], bytes[24]) = (30, 9, 16, 16, 48);
        bytes[28..30].copy_from_slice(&version.to_le_bytes());
        bytes[26] = u8::from(version == 1);
        (bytes[48], bytes[56]) = (5, 1);
        bytes[60..62].copy_from_slice(&in_use.to_le_bytes());
        bytes[62..64].copy_from_slice(&flags.to_le_bytes());
    }
}

fn set_flags(image: &mut Image, version: (u8, u8), flags: u8) {
    image.edit(3, |record| {
        let mut parts = attributes(record);
        let information = parts.iter_mut().find(|part| part[0] == 0x70).unwrap();
        (information[32], information[33], information[34]) = (version.0, version.1, flags);
        set_attributes(record, &parts);
    });
}

#[test]
fn logs_and_flags_say_the_state() {
    let bench = Bench::new();
    let image = volume(&bench, &[("pagefile.sys", file(b"", 300))]);
    let with = |change: &dyn Fn(&mut Image)| {
        let mut image = Image::new(image.bytes.clone());
        change(&mut image);
        image.bytes
    };
    for (name, bytes) in [
        ("clean log", with(&|image| restart(image, 0, 2, 1))),
        ("closed log", with(&|image| restart(image, 0xffff, 0, 1))),
        ("old version", with(&|image| set_flags(image, (1, 2), 0))),
        ("before XP", with(&|image| set_flags(image, (3, 0), 0))),
    ] {
        let survey = survey_bytes(&bytes);
        assert_eq!((state(&survey), survey.left_out.len()), (State::Clean, 1), "{name}: {:?}", survey.widened);
        assert!(survey.allocated.total() < bytes.len() as u64 / 2, "{name}");
    }
    whole(&with(&|image| restart(image, 0, 0, 1)), "open log", State::Dirty, "changes wait in it");
    whole(&with(&|image| restart(image, 0, 0, 2)), "cached", State::Dirty, "fast start-up");
    whole(&with(&|image| restart(image, 0, 2, 2)), "odd version", State::Dirty, "version 2.0");
    whole(&with(&|image| set_flags(image, (9, 9), 0)), "unknown", State::Unknown, "NTFS 9.9");

    let dirty = with(&|image| set_flags(image, (3, 1), 1));
    let survey = survey_bytes(&dirty);
    assert_eq!((state(&survey), survey.left_out.len()), (State::Dirty, 0));
    assert!(survey.notes[0].contains("chkdsk") && survey.widened.is_empty(), "{survey:?}");
    let kept = survey_bytes(&image.bytes).allocated.union(&extents(&image.clusters(image.find("pagefile.sys"), DATA)));
    assert_eq!(survey.allocated, kept, "a dirty volume is not kept whole, but its page files are");
    let found = detect(&MemoryDisk::new(dirty, SectorSize::B512)).unwrap();
    assert_eq!((found.state, found.label.as_deref()), (State::Dirty, Some("Windows")));
}

#[test]
fn broken_and_contradicting_structures_are_kept_whole() {
    let bench = Bench::new();
    let image = volume(&bench, &[("victim", file(b"", 30))]);
    let (victim, end) = (image.find("victim"), image.bytes.len());
    let with = |change: &dyn Fn(&mut Image)| {
        let mut image = Image::new(image.bytes.clone());
        change(&mut image);
        image.bytes
    };
    let (mirror, place) = (usize::from(image.bytes[56]) + 256 * usize::from(image.bytes[57]), image.place(victim));
    // Where the copy of record 0 has its second run, or the length of its first.
    let data = image.attribute(0, DATA);
    let record = image.record(0);
    let elsewhere = record.windows(data.len()).position(|part| part == data).unwrap() + usize::from(data[32]) + 1;
    let elsewhere = mirror * image.cluster + elsewhere;
    for (name, bytes, says) in [
        ("copy elsewhere", with(&|image| image.bytes[end - 512 + 48] ^= 1), "copy disagree"),
        ("shorter", with(&|image| image.bytes.truncate(end - 8192)), "its region"),
        ("no boot sector", with(&|image| image.bytes[..512].fill(0)), "there is a copy at byte"),
        ("broken boot sector", with(&|image| image.bytes[13] = 3), "coded 0x03"),
        ("no MFT", with(&|image| image.bytes[48] ^= 0x40), "disagree"),
        ("record torn", with(&|image| image.bytes[place + 510] ^= 1), "a write of it was torn"),
        ("record gone", with(&|image| image.bytes[place..place + 1024].fill(1)), "begins with [01, 01, 01, 01]"),
        ("record marked bad", with(&|image| image.bytes[place..place + 4].copy_from_slice(b"BAAD")), "begins with"),
        ("mirror leads elsewhere", with(&|image| image.bytes[elsewhere] ^= 1), "disagree about where"),
        (
            "bitmap empty",
            with(&|image| {
                let at = image.byte(6, DATA, 0);
                image.bytes[at..at + 700].fill(0);
            }),
            "system's own file 0",
        ),
        ("run outside", with(&|image| image.set_clusters(victim, &[9_000_000])), "leaves the volume"),
    ] {
        whole(&bytes, name, State::Damaged, says);
    }
}

#[test]
fn what_the_bitmap_forgot_is_kept() {
    let bench = Bench::new();
    let image = volume(&bench, &[("victim", file(b"text", 30))]);
    let path = bench.path("image");
    let clean = survey_bytes(&image.bytes);
    let mut lying = Image::new(image.bytes.clone());
    let clusters = lying.clusters(lying.find("victim"), DATA);
    clusters[3..23].iter().for_each(|cluster| lying.mark(*cluster, false));
    fs::write(&path, &lying.bytes).unwrap();
    let survey = survey_bytes(&lying.bytes);
    assert_eq!((survey.allocated.clone(), state(&survey)), (clean.allocated.clone(), State::Damaged));
    assert!(survey.widened[0].starts_with("80 KiB (81920 bytes)") || survey.widened[0].contains("80"), "{survey:?}");
    round_trip(&bench, &path, &lying.bytes, "lying bitmap");

    let mut unlisted = Image::new(image.bytes.clone());
    let number = usize::try_from(unlisted.find("victim")).unwrap();
    let at = unlisted.byte(0, BITMAP, number / 8);
    unlisted.bytes[at] &= !(1 << (number % 8));
    let survey = survey_bytes(&unlisted.bytes);
    assert_eq!((survey.allocated.clone(), state(&survey)), (clean.allocated.clone(), State::Damaged));
    assert!(survey.notes[0].contains("1 files are in use"), "{:?}", survey.notes);

    let mut blank = image.bytes.clone();
    let place = image.place(image.find("victim"));
    blank[place..place + 1024].fill(0);
    let survey = survey_bytes(&blank);
    assert_eq!((survey.allocated.clone(), state(&survey)), (clean.allocated.clone(), State::Damaged));
    assert!(survey.notes[0].contains("1 records of the MFT are empty"), "{:?}", survey.notes);

    let mirror = usize::from(image.bytes[56]) + 256 * usize::from(image.bytes[57]);
    for (record, at) in [(2, 70), (0, 70), (0, 0)] {
        let mut second = Image::new(image.bytes.clone());
        second.bytes[mirror * second.cluster + record * second.record + at] ^= 1;
        let survey = survey_bytes(&second.bytes);
        assert_eq!((survey.allocated.clone(), state(&survey)), (clean.allocated.clone(), State::Damaged));
        assert!(survey.notes[0].contains(&format!("differ in records [{record}]")), "{:?}", survey.notes);
    }

    let mut copy = image.bytes.clone();
    let end = copy.len();
    copy[end - 512..].fill(0);
    let survey = survey_bytes(&copy);
    assert_eq!((survey.allocated.clone(), state(&survey)), (clean.allocated, State::Clean));
    assert!(survey.notes[0].contains("copy of the boot sector"), "{:?}", survey.notes);
}

/// A disk with a sector that cannot be read.
struct Faulty(MemoryDisk, Extent);

impl ReadAt for Faulty {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        if Extent::new(offset, offset + buf.len() as u64).overlaps(self.1) {
            return Err(Error::Beyond { disk: "faulty".to_owned(), offset, len: buf.len() as u64, size: self.len() });
        }
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn bad_sectors_cost_what_they_must() {
    let bench = Bench::new();
    let image = volume(&bench, &[("victim", file(b"", 30))]);
    let clean = survey_bytes(&image.bytes).allocated;
    let bad = |at: usize| {
        let at = at as u64 / 512 * 512;
        survey(
            &Faulty(MemoryDisk::new(image.bytes.clone(), SectorSize::B512), Extent::new(at, at + 512)),
            &Options::default(),
        )
    };
    let record = bad(image.place(image.find("victim")));
    assert_eq!((&record.allocated, state(&record)), (&clean, State::Damaged));
    assert!(record.notes[0].contains("1 records of the MFT cannot be read"), "{:?}", record.notes);
    let whole = ExtentSet::full(image.bytes.len() as u64);
    for (name, at, says) in [
        ("bitmap", image.byte(6, DATA, 0), "$Bitmap cannot be read"),
        ("bitmap of the MFT", image.byte(0, BITMAP, 0), "bitmap of the MFT cannot be read"),
        ("record 0", image.place(0), "record 0 of the MFT cannot be read"),
        ("log", image.byte(2, DATA, 0), "its log cannot be read"),
    ] {
        let survey = bad(at);
        assert_eq!(survey.allocated, whole, "{name}");
        assert!(survey.widened[0].contains(says), "{name}: {:?}", survey.widened);
    }
}

#[test]
fn damage_loses_nothing() {
    let bench = Bench::new();
    let mut image = volume(&bench, &[("pagefile.sys", file(b"", 40)), ("hiberfil.sys", idle(40))]);
    let one = |place: usize, len: usize| Extent::new(place as u64, (place + len) as u64);
    let all = |image: &Image| {
        let records = |numbers: &[u64]| numbers.iter().map(|n| one(image.place(*n), 1024)).collect::<Vec<_>>();
        let files = (24..90).collect::<Vec<_>>();
        let heads = (0..90).map(|n| one(image.place(n), 60)).collect::<Vec<_>>();
        vec![
            ("boot sector", vec![one(0, 90), one(image.bytes.len() - 512, 90)]),
            ("system records", records(&[0, 1, 2, 3, 5, 6, 7, 8])),
            ("files", records(&files)),
            ("heads of records", heads),
            ("bitmap", vec![one(image.byte(6, DATA, 0), 768)]),
            ("bitmap of the MFT", vec![one(image.byte(0, BITMAP, 0), 16)]),
            ("log", vec![one(image.byte(2, DATA, 0), 100), one(image.byte(2, DATA, 4096), 100)]),
            ("page files", vec![one(image.byte(image.find("hiberfil.sys"), DATA, 0), 64)]),
        ]
    };
    for (name, places) in all(&image) {
        endure(&image.bytes, &Damage { name, places, nothing_lost: true, fix: false });
    }
    restart(&mut image, 0, 2, 1);
    let place = one(image.byte(2, DATA, 0), 80);
    endure(&image.bytes, &Damage { name: "restart page", places: vec![place], nothing_lost: true, fix: false });
}

#[test]
fn bitlocker_is_named_and_kept_whole() {
    let id = [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];
    let bench = Bench::new();
    // "To Go" volumes show old systems a FAT volume with a reader in it.
    let fat = bench.blank("fat", 40 * MIB);
    crate::tools::run("mkfs.fat", &["-F", "32", &fat]);
    let fat = fs::read(fat).unwrap();
    for (name, at, magic, more) in [("fixed", 3, b"-FVE-FS-", 160), ("to go", 3, b"MSWIN4.1", 424)] {
        let mut bytes = fat.clone();
        bytes[at..at + 8].copy_from_slice(magic);
        bytes[more..more + 16].copy_from_slice(&id);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.detected.as_ref().unwrap().name, "BitLocker", "{name}");
        assert_eq!(survey.widened, ["kept whole: it is encrypted by BitLocker"], "{name}");
        assert_eq!(survey.allocated.total(), 40 * MIB, "{name}");
    }
}

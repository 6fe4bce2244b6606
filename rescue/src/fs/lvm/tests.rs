//! Physical volumes made of bytes: what the tools do not make, and what must not be believed.

use std::{cell::Cell, fmt::Write, time::Instant};

use super::*;
use crate::{block::MemoryDisk, units::SectorSize};

/// Metadata is in the first of eight MiB, or in the first four of 32.
const AREA: Extent = Extent::new(4096, MIB);

/// Describes a group with extents of 4 KiB on one physical volume.
fn text(volumes: &str) -> String {
    format!(
        "contents = \"Text Format Volume Group\"\nversion = 1\nvg {{ extent_size = 8 status = [\"READ\"] flags = []\n\
        physical_volumes {{ pv0 {{ id = \"012345-6789-abcd-efgh-ijkl-mnop-qrstuv\" status = [] flags = []\n\
        pe_start = 2048 pe_count = 1700 }} }}\nlogical_volumes {{ {volumes} }} }}"
    )
}

/// Describes a volume with one segment.
fn volume(name: &str, status: &str, segment: &str) -> String {
    format!("{name} {{ status = [{status}] flags = [] segment_count = 1 segment1 {{ start_extent = 0 {segment} }} }}\n")
}

fn linear(first: u64, count: u64) -> String {
    format!("extent_count = {count} type = \"striped\" stripe_count = 1 stripes = [\"pv0\", {first}]")
}

const VISIBLE: &str = "\"READ\", \"VISIBLE\"";

fn disk(text: &str) -> Vec<u8> {
    let mut disk = vec![0x77; usize::try_from(8 * MIB).unwrap()];
    disk[..usize::try_from(MIB).unwrap()].fill(0);
    label::tests::write(&mut disk, &[AREA]);
    area::tests::write(&mut disk, AREA, text.as_bytes(), 512);
    disk
}

fn look(disk: Vec<u8>) -> Survey {
    let disk = MemoryDisk::new(disk, SectorSize::B512);
    let left = Cell::new(0);
    survey(&disk, detect(&disk).unwrap(), &Options::default(), &Depth::start(&left))
}

/// Returns the extents that are kept, as numbers.
fn kept(survey: &Survey) -> Vec<(u64, u64)> {
    let extents = survey.allocated.clip(Extent::new(MIB, MIB + 1700 * 4096));
    extents.iter().map(|run| ((run.start - MIB) / 4096, (run.end - MIB) / 4096)).collect()
}

#[test]
fn every_kind_of_segment_is_kept_where_it_lies() {
    let members = "extent_count = 9 stripes = [\"a_0\", 0] device_count = 2 raids = [\"a_0\", \"a_1\"]";
    for kind in [
        "mirror",
        "raid0",
        "raid1",
        "raid4",
        "raid5_ls",
        "raid6_zr",
        "raid10",
        "thin-pool",
        "thin",
        "cache",
        "cache-pool",
        "writecache",
        "vdo",
        "vdo-pool",
        "integrity",
        "era",
        "striped+NEW",
        "something new",
    ] {
        let top = volume("top", VISIBLE, &format!("type = \"{kind}\" {members}"));
        let parts = volume("a_0", "\"READ\"", &linear(10, 4)) + &volume("a_1", VISIBLE, &linear(20, 4));
        let survey = look(disk(&text(&(top + &parts))));
        assert_eq!(kept(&survey), [(10, 14), (20, 24)], "{kind}");
        assert!(survey.widened[0].contains("a_0, a_1"), "{kind}: {:?}", survey.widened);
        // Where it names a physical volume itself, as much is kept as it may use at the most.
        let direct = format!("type = \"{kind}\" extent_count = 6 areas = [\"pv0\", 30, \"pv0\", 40]");
        assert_eq!(kept(&look(disk(&text(&volume("top", VISIBLE, &direct))))), [(30, 36), (40, 46)], "{kind}");
    }
    let none = volume("hole", VISIBLE, "type = \"error\" extent_count = 6");
    assert_eq!(kept(&look(disk(&text(&none)))), []);
    assert_eq!(look(disk(&text(""))).usage, Some(Usage { used: 0, free: 1700 * 4096 }));
}

#[test]
fn what_contradicts_itself_is_kept_whole() {
    let two = |a: &str, b: &str| text(&(volume("a", VISIBLE, a) + &volume("b", VISIBLE, b)));
    let good = two(&linear(0, 4), &linear(4, 4));
    assert_eq!(kept(&look(disk(&good))), [(0, 8)]);
    for (name, text, why) in [
        ("twice", two(&linear(0, 5), &linear(4, 4)), "a and b lie on the same extents"),
        ("beyond", two(&linear(0, 5), &linear(1699, 2)), "b lies beyond its extents"),
        ("far beyond", two(&linear(0, 5), &linear(u64::MAX, 2)), "b lies beyond its extents"),
        ("stranger", good.replace("012345", "x12345"), "does not list it"),
        ("missing", good.replacen("flags = []\npe", "flags = [\"MISSING\"]\npe", 1), "while it was missing"),
        ("too large", good.replace("1700", "1800"), "leave its 8388608 bytes"),
        ("huge", good.replace("1700", "9223372036854775807"), "leave its 8388608 bytes"),
        ("on its metadata", good.replace("2048", "1024"), "lies in its extents"),
        ("no extents", good.replace("extent_size = 8", "extent_size = 0"), "no size of extents"),
        ("status", good.replace("[\"READ\"]", "[\"NEW\"]"), "the volume group is in the state NEW"),
        ("format", good.replace("vg {", "vg { format = \"lvm9\""), "unknown format"),
        ("moving", good.replace("\"VISIBLE\"", "\"PVMOVE\""), "extents are being moved"),
        ("no text", "vg {".to_owned(), "its metadata is not understood: byte 4"),
    ] {
        let survey = look(disk(&text));
        assert_eq!(survey.allocated.total(), 8 * MIB, "{name}");
        assert!(survey.widened[0].contains(why), "{name}: {:?}", survey.widened);
    }
    let mut disk = disk(&good);
    (disk[4160], disk[4168]) = (1, 1);
    area::tests::seal(&mut disk[4096..4608]);
    assert!(look(disk).widened[0].contains("a change of its volume group was not finished"));
}

#[test]
fn a_group_of_thousands_of_volumes_takes_no_time() {
    let mut volumes = String::new();
    for number in 0..20_000u64 {
        write!(volumes, "{}", volume(&format!("lv{number}"), VISIBLE, &linear(number, 1))).unwrap();
    }
    let text = text(&volumes).replace("pe_start = 2048 pe_count = 1700", "pe_start = 24576 pe_count = 20000");
    let (area, len) = (Extent::new(4096, 12 * MIB), usize::try_from(12 * MIB + 20_000 * 4096).unwrap());
    let mut disk = vec![0; len];
    label::tests::write(&mut disk, &[area]);
    area::tests::write(&mut disk, area, text.as_bytes(), 512);
    let begun = Instant::now();
    let survey = look(disk);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    assert_eq!((survey.inside.len(), survey.allocated.total()), (20_000, len as u64));
    assert_eq!(survey.widened.len(), 101);
    let reason = "logical volume lv7: kept whole: nothing was recognised in it";
    assert!(survey.widened.iter().any(|line| line == reason), "{:?}", survey.widened);
}

#[test]
fn metadata_with_a_right_checksum_may_say_anything() {
    let good = text(&(volume("a", VISIBLE, &linear(0, 5)) + &volume("b", VISIBLE, &linear(5, 4))));
    let mut state = 0x5eed_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((state >> 33) % below as u64).unwrap()
    };
    let mut narrow = 0;
    for _ in 0..500 {
        let mut text = good.clone().into_bytes();
        for _ in 0..=next(3) {
            let at = next(text.len());
            match next(4) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, b"0123456789{}[]=\"#,"[next(18)]),
                2 => text[at] = u8::try_from(next(256)).unwrap(),
                _ => text.truncate(text.len() - next(8)),
            }
        }
        let mut disk = disk("");
        area::tests::write(&mut disk, AREA, &text, 512);
        let header = [Extent::new(4096 + 24, 4096 + 64), Extent::new(512 + 32, 512 + 160)][next(2)];
        if next(4) == 0 {
            disk[usize::try_from(header.start).unwrap() + next(usize::try_from(header.len()).unwrap())] = 0xff;
            area::tests::seal(&mut disk[4096..4608]);
            label::tests::seal(&mut disk[512..1024]);
        }
        let survey = look(disk);
        assert!(survey.allocated.iter().all(|run| run.end <= 8 * MIB));
        assert!(survey.allocated.covers(Extent::new(0, MIB)), "what is no extent is kept");
        narrow += usize::from(survey.allocated.total() < 8 * MIB);
    }
    assert!(narrow > 0);
}

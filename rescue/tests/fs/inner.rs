//! A partition that became the disk of a virtual machine: what it held before is still recognised, and means nothing.

use std::{fs, io::Write as _, process::Stdio};

use rescue::{extent::Extent, fs::State};

use crate::tools::{Bench, run, survey_bytes, tool};

const MIB: u64 = 1 << 20;

/// Makes a swap area of `pages` pages of 4096 bytes at the start of a region of 64 MiB.
fn swap(bench: &Bench, pages: u64) -> String {
    let image = bench.blank("swap", 64 * MIB);
    run("mkswap", &["-q", "-p", "4096", &image, &(pages * 4).to_string()]);
    image
}

/// Writes a partition table and leaves alone what was there.
fn partition(image: &str, label: &str, script: &str) {
    let mut child = std::process::Command::new(tool("sfdisk"))
        .args(["-q", "--no-reread", "--wipe", "never", "--label", label, image])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_partition_table_inside_keeps_everything() {
    for (mkfs, options, start) in [("mkswap", "", 2048), ("mkfs.fat", "-F 32", 65536)] {
        let bench = Bench::new();
        let image = bench.blank("image", 64 * MIB);
        let mut args = options.split_whitespace().collect::<Vec<_>>();
        args.push(&image);
        run(mkfs, &args);
        let before = survey_bytes(&fs::read(&image).unwrap());
        assert!(before.allocated.total() < 4 * MIB, "{mkfs}: {before:?}");

        partition(&image, "dos", &format!("start={start},type=83\n"));
        let after = survey_bytes(&fs::read(&image).unwrap());
        assert_eq!(after.allocated.total(), 64 * MIB, "{mkfs}: {after:?}");
        assert!(after.widened[0].contains("partition table inside") || after.detected.is_none(), "{mkfs}: {after:?}");
    }
}

#[test]
fn swap_with_any_table_inside_is_kept_whole() {
    let two = "start=20480,size=40960,type=83\nstart=61440,size=60000,type=83\n";
    // What fdisk and others leave in slots that they do not use: a flag, a type, a place.
    let slots: [&[(usize, u8)]; 4] = [&[], &[(446 + 48, 0x80)], &[(446 + 52, 0x83)], &[(446 + 32 + 9, 0x18)]];
    for slot in slots {
        let bench = Bench::new();
        let image = swap(&bench, 16384);
        partition(&image, "dos", two);
        let mut bytes = fs::read(&image).unwrap();
        slot.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 64 * MIB, "{slot:?}: {survey:?}");
        assert!(survey.widened[0].contains("has a partition table inside"), "{slot:?}: {survey:?}");
    }
    for label in ["sun", "sgi"] {
        let bench = Bench::new();
        let image = swap(&bench, 16384);
        partition(&image, label, "32MiB,16MiB\n");
        let survey = survey_bytes(&fs::read(&image).unwrap());
        assert_eq!(survey.allocated.total(), 64 * MIB, "{label}: {survey:?}");
        assert!(survey.widened[0].ends_with(" inside"), "{label}: {survey:?}");
    }
    let bsd = 0x8256_4557_u32.to_le_bytes();
    let geom = 64 * 1024 * 1024 - 512;
    type Pieces<'a> = &'a [(usize, &'a [u8])];
    let cases: [(&str, Pieces<'_>); 5] = [
        ("a BSD disklabel", &[(512, &bsd), (644, &bsd)]),
        ("an Apple partition map", &[(0, b"ER\x02\0"), (512, b"PM\0\0")]),
        ("a GPT", &[(4096, b"EFI PART")]),
        ("GEOM's record", &[(geom, b"GEOM::LABEL")]),
        ("something in front of its header", &[(3, b"LILO")]),
    ];
    for (says, pieces) in cases {
        let bench = Bench::new();
        let mut bytes = fs::read(swap(&bench, 16384)).unwrap();
        pieces.iter().for_each(|(at, piece)| bytes[*at..*at + piece.len()].copy_from_slice(piece));
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 64 * MIB, "{says}: {survey:?}");
        assert!(survey.widened[0].contains(says), "{says}: {survey:?}");
    }
}

#[test]
fn a_swap_area_of_version_0_ends_with_its_bitmap() {
    let mut bytes = vec![7; 256 * 4096];
    bytes[..4096].fill(0);
    bytes[4086..4096].copy_from_slice(b"SWAP-SPACE");
    // Pages 1 to 199 of 256 are good.
    bytes[..25].fill(0xff);
    bytes[0] = 0xfe;
    let survey = survey_bytes(&bytes);
    let kept = [Extent::new(0, 4096), Extent::new(200 * 4096, 256 * 4096)];
    assert_eq!(survey.allocated.iter().collect::<Vec<_>>(), kept, "{survey:?}");
    // A first page that counts itself, a gap, and more pages than there are.
    for (at, byte) in [(0, 0xff), (9, 0xfe), (40, 1)] {
        let mut odd = bytes.clone();
        odd[at] = byte;
        assert_eq!(survey_bytes(&odd).allocated.total(), 1 << 20, "byte {at}");
    }
}

#[test]
fn what_lies_behind_a_swap_area_is_kept() {
    let bench = Bench::new();
    let clean = fs::read(swap(&bench, 4096)).unwrap();
    let survey = survey_bytes(&clean);
    assert_eq!(survey.allocated.iter().collect::<Vec<_>>(), [Extent::new(0, 4096), Extent::new(16 * MIB, 64 * MIB)]);
    assert!(survey.widened[0].contains("behind the last page of the swap area"), "{survey:?}");
    assert_eq!(survey.detected.as_ref().unwrap().state, State::Clean);
    let usage = survey.usage.unwrap();
    assert_eq!((usage.used, usage.free), (4096, 16 * MIB - 4096));

    // A machine of the other byte order counts the same; a last page of none, or beyond the region, is believed by no kernel.
    let with = |version: [u8; 4], last: [u8; 4]| {
        let mut bytes = clean.clone();
        bytes[1024..1028].copy_from_slice(&version);
        bytes[1028..1032].copy_from_slice(&last);
        survey_bytes(&bytes)
    };
    let other = with(1u32.to_be_bytes(), 4095u32.to_be_bytes());
    assert_eq!((&other.allocated, &other.widened), (&survey.allocated, &survey.widened));
    for last in [0, 16384, u32::MAX] {
        let survey = with(1u32.to_le_bytes(), last.to_le_bytes());
        assert_eq!(survey.allocated.total(), 64 * MIB, "{last}: {survey:?}");
        assert!(survey.widened[0].contains("its last page is"), "{last}: {survey:?}");
    }
    let full = with(1u32.to_le_bytes(), 16383u32.to_le_bytes());
    assert_eq!((full.allocated.total(), full.widened.len()), (4096, 0));
}

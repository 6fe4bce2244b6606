//! GPTs that are legal or half damaged, and that other programs trip over.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::gpt::GptConfig;

use super::{
    build::{GptSpec, flip, poke, seal},
    *,
};

const SECTORS: u64 = 20_000;

fn numbers(layout: &Layout) -> Vec<u32> {
    layout.partitions.iter().map(|p| p.number).collect()
}

/// Reads the built table, which must be sound, and moves it to a larger disk, which must leave it sound.
fn sound_and_movable(spec: &GptSpec) -> (Layout, Layout) {
    let layout = read_sane(&spec.build(), spec.size).unwrap();
    assert_eq!(layout.problems, []);
    let (_, back) = moved(&layout, spec.len() * 3);
    assert_eq!(back.problems, []);
    assert_eq!(back.partitions, layout.partitions);
    let array = |layout: &Layout, kind| layout.piece(kind).unwrap().bytes.clone();
    assert_eq!(array(&back, PieceKind::PrimaryEntries), array(&layout, PieceKind::PrimaryEntries));
    assert_eq!(array(&back, PieceKind::BackupEntries), array(&layout, PieceKind::PrimaryEntries));
    (layout, back)
}

#[test]
fn entries_of_256_bytes_and_more_where_the_gpt_crate_panics() {
    for (entry_size, count) in [(256, 128), (512, 40), (4096, 16), (128, 1024), (128, 5)] {
        for size in [B512, B4096] {
            let spec = GptSpec { entry_size, count, ..GptSpec::new(size, SECTORS) };
            let (layout, _) = sound_and_movable(&spec);
            assert_eq!(numbers(&layout), [1, 4], "{entry_size}");
            assert_eq!(layout.partitions[1].name.as_deref(), Some("part 4"));
        }
    }
    let disk = GptSpec { entry_size: 256, ..GptSpec::new(B512, SECTORS) }.build();
    let crate_read = catch_unwind(AssertUnwindSafe(|| GptConfig::new().open_from_device(disk).map(|_| ())));
    assert!(crate_read.is_err(), "the gpt crate has learned about entries of 256 bytes: cross-check those too");
}

#[test]
fn headers_longer_than_92_bytes_which_the_gpt_crate_rejects() {
    for (size, header_size) in [(B512, 96), (B512, 512), (B4096, 512), (B4096, 4096)] {
        let spec = GptSpec { header_size, ..GptSpec::new(size, SECTORS) };
        let (layout, back) = sound_and_movable(&spec);
        let tail = |layout: &Layout| layout.piece(PieceKind::PrimaryHeader).unwrap().bytes[92..].to_vec();
        assert_eq!(tail(&back), tail(&layout), "what the header holds beyond the specification stays");
    }
    let disk = GptSpec { header_size: 512, ..GptSpec::new(B512, SECTORS) }.build();
    assert!(GptConfig::new().open_from_device(disk).is_err(), "the gpt crate reads longer headers now");
}

#[test]
fn a_damaged_primary_array_with_a_whole_backup_where_the_gpt_crate_gives_up() {
    let spec = GptSpec::new(B512, SECTORS);
    let mut disk = spec.build();
    flip(&mut disk, spec.offset(2) + 128 * 3 + 40, 1);
    assert!(GptConfig::new().open_from_device(disk.clone()).is_err());
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(layout.problems.len(), 1);
    assert!(says(&layout, "primary GPT: GPT entries checksum"));
    assert_eq!(layout.partitions, read(&spec.build(), B512).unwrap().partitions);
    assert_eq!(for_target(&layout, spec.len()).unwrap(), layout.pieces, "the same size is verbatim");
    let (_, back) = moved(&layout, spec.len() * 2);
    assert_eq!(back.problems, [], "a larger disk gets two whole copies");
    assert_eq!(back.partitions, layout.partitions);
}

#[test]
fn one_whole_copy_is_enough_and_makes_two_on_a_larger_disk() {
    let spec = GptSpec::new(B512, SECTORS);
    let wanted = read(&spec.build(), B512).unwrap().partitions;
    let wipe = |disk: &mut Sparse, lba, sectors: u64| {
        disk.put(spec.offset(lba), &vec![0xff; spec.offset(sectors) as usize]).unwrap();
    };
    type Damage<'a> = &'a dyn Fn(&mut Sparse);
    let cases: [(&str, Damage<'_>, &str); 8] = [
        ("primary header bit", &|disk| flip(disk, spec.offset(1) + 57, 4), "primary GPT: GPT header checksum"),
        ("primary header gone", &|disk| wipe(disk, 1, 1), "primary GPT: no GPT header"),
        ("primary gone", &|disk| wipe(disk, 1, 33), "primary GPT: no GPT header"),
        ("primary array gone", &|disk| wipe(disk, 2, 32), "primary GPT: GPT entries checksum"),
        ("backup header bit", &|disk| flip(disk, spec.offset(spec.last()) + 90, 1), "backup GPT: GPT header checksum"),
        ("backup header gone", &|disk| wipe(disk, spec.last(), 1), "backup GPT: no GPT header"),
        ("backup array gone", &|disk| wipe(disk, spec.backup_array(), 32), "backup GPT: GPT entries checksum"),
        ("backup gone", &|disk| wipe(disk, spec.backup_array(), 33), "backup GPT: no GPT header"),
    ];
    for (name, damage, problem) in cases {
        let mut disk = spec.build();
        damage(&mut disk);
        let layout = read_sane(&disk, B512).unwrap();
        assert_eq!(layout.partitions, wanted, "{name}");
        assert!(says(&layout, problem), "{name}: {:?}", layout.problems);
        assert_eq!(layout.problems.len(), 1, "{name}: {:?}", layout.problems);
        assert_eq!(for_target(&layout, spec.len()).unwrap(), layout.pieces, "{name}");
        let (_, back) = moved(&layout, spec.len() + 512);
        assert_eq!((back.partitions, back.problems), (wanted.clone(), vec![]), "{name}");
    }
}

#[test]
fn no_whole_copy_is_an_error_that_names_both() {
    let spec = GptSpec::new(B512, SECTORS);
    let mut disk = spec.build();
    flip(&mut disk, spec.offset(1) + 57, 4);
    flip(&mut disk, spec.offset(spec.backup_array()), 4);
    let error = read(&disk, B512).unwrap_err().to_string();
    assert!(error.starts_with("partition table at byte 0x200: a protective MBR, and no sound copy"), "{error}");
    assert!(error.contains("primary GPT: GPT header checksum") && error.contains("backup GPT: GPT entries"), "{error}");
}

#[test]
fn slots_with_gaps_stay_where_they_are_though_the_gpt_crate_renumbers_them() {
    let spec =
        GptSpec { partitions: vec![(2, 40, 99), (7, 100, 199), (128, 5000, 5000)], ..GptSpec::new(B512, SECTORS) };
    let (layout, back) = sound_and_movable(&spec);
    assert_eq!(numbers(&layout), [2, 7, 128]);
    assert_eq!(numbers(&back), [2, 7, 128]);
    let table = GptConfig::new().writable(true).open_from_device(spec.build()).unwrap();
    let rewritten = read(&table.write().unwrap(), B512).unwrap();
    assert_eq!(numbers(&rewritten), [1, 2, 3], "the gpt crate keeps slots now");
}

#[test]
fn an_array_that_is_not_at_lba_2_is_not_moved_over_what_lies_there() {
    let spec = GptSpec { array_lba: 1000, ..GptSpec::new(B512, SECTORS) };
    let mut disk = spec.build();
    let loader = vec![0xb0; 512 * 998];
    disk.put(1024, &loader).unwrap();
    let damaged = |lba: u64, at: u64| {
        let mut disk = disk.clone();
        flip(&mut disk, spec.offset(lba) + at, 1);
        disk
    };
    for (name, disk) in [
        ("whole", disk.clone()),
        ("primary header damaged", damaged(1, 60)),
        ("primary header without signature", damaged(1, 0)),
        ("primary array damaged", damaged(1000, 20)),
        ("backup header damaged", damaged(spec.last(), 60)),
    ] {
        let layout = read_sane(&disk, B512).unwrap();
        for new_len in [spec.len(), spec.len() * 2] {
            let pieces = for_target(&layout, new_len).unwrap();
            let place = Extent::new(1024, spec.offset(1000));
            let found = |kind| pieces.iter().find(|piece| piece.kind == kind).unwrap().offset;
            if name != "primary header without signature" {
                assert_eq!(found(PieceKind::PrimaryEntries), spec.offset(1000), "{name}");
                assert!(pieces.iter().all(|piece| !piece.range().overlaps(place)), "{name}: {pieces:?}");
            }
        }
    }
    let table = GptConfig::new().writable(true).open_from_device(disk.clone()).unwrap();
    let written = table.write().unwrap();
    assert_ne!(bytes_at(&written, 1024, 512 * 32), loader[..512 * 32], "the gpt crate leaves LBA 2 alone now");
}

#[test]
fn nothing_is_written_past_the_end_of_a_smaller_disk() {
    let spec = GptSpec::new(B512, SECTORS);
    let layout = read(&spec.build(), B512).unwrap();
    for new_len in [spec.len() - 1, spec.len() - 512, spec.len() / 2, 0] {
        match for_target(&layout, new_len) {
            Err(Error::Refused(what)) => {
                assert!(what.contains(&new_len.to_string()) && what.contains(&spec.len().to_string()), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
    for new_len in (spec.len()..spec.len() + 8192).step_by(511) {
        let pieces = for_target(&layout, new_len).unwrap();
        assert!(pieces.iter().all(|piece| piece.range().end <= new_len), "{new_len}");
    }
}

#[test]
fn numbers_without_measure_under_a_right_checksum() {
    let spec = GptSpec::new(B512, SECTORS);
    let fields: [(&str, u64, usize, u64); 12] = [
        ("count", 80, 4, u32::MAX.into()),
        ("count", 80, 4, 0),
        ("count", 80, 4, 8193),
        ("entry size", 84, 4, 0),
        ("entry size", 84, 4, 127),
        ("entry size", 84, 4, 129),
        ("entry size", 84, 4, 1 << 31),
        ("entry LBA", 72, 8, u64::MAX),
        ("entry LBA", 72, 8, 0),
        ("entry LBA", 72, 8, SECTORS - 1),
        ("header size", 12, 4, 91),
        ("header size", 12, 4, 513),
    ];
    for (name, at, len, value) in fields {
        let mut disk = spec.build();
        poke(&mut disk, spec.offset(1) + at, value, len);
        seal(&mut disk, B512, 1);
        let layout = read_sane(&disk, B512).unwrap();
        assert!(says(&layout, "primary GPT: "), "{name} {value}: {:?}", layout.problems);
        assert_eq!(numbers(&layout), [1, 4], "{name} {value}: the backup is read");
        poke(&mut disk, spec.offset(spec.last()) + at, value, len);
        seal(&mut disk, B512, spec.last());
        assert!(matches!(read(&disk, B512), Err(Error::Corrupt { .. })), "{name} {value}");
    }
}

#[test]
fn a_header_is_believed_only_in_its_own_place() {
    let spec = GptSpec::new(B512, SECTORS);
    let mut disk = spec.build();
    let backup = bytes_at(&disk, spec.offset(spec.last()), 512);
    disk.put(512, &backup).unwrap();
    let layout = read_sane(&disk, B512).unwrap();
    assert!(says(&layout, "says that it belongs at LBA 19999"), "{:?}", layout.problems);
}

#[test]
fn the_backup_is_found_where_the_primary_says_on_a_disk_that_has_grown() {
    let spec = GptSpec::new(B512, SECTORS);
    let small = read(&spec.build(), B512).unwrap();
    let mut disk = Sparse::with_pieces(spec.len() * 2, &small.pieces).unwrap();
    for (name, at, problem) in [
        ("whole", None, "the backup GPT belongs at LBA 19999, the disk ends at LBA 39999"),
        ("primary header damaged", Some(60), "primary GPT: GPT header checksum"),
    ] {
        if let Some(at) = at {
            flip(&mut disk, spec.offset(1) + at, 1);
        }
        let layout = read_sane(&disk, B512).unwrap();
        assert!(says(&layout, problem), "{name}: {:?}", layout.problems);
        assert_eq!(layout.partitions, small.partitions, "{name}");
        assert_eq!(for_target(&layout, spec.len() * 2).unwrap(), layout.pieces, "{name}: verbatim");
        assert_eq!(moved(&layout, spec.len() * 3).1.problems, [], "{name}");
    }
}

#[test]
fn two_sound_copies_that_differ_are_reported_and_the_primary_wins() {
    let spec = GptSpec::new(B512, SECTORS);
    for (name, lba, at, value, what) in [
        ("entries", spec.backup_array(), 3 * 128 + 40, 6001, "entry 4"),
        ("GUID", spec.last(), 56, 1, "disk GUID is d1d1d1d1-"),
        ("usable", spec.last(), 48, 9000, "last usable LBA is 19966 and 9000"),
        ("back link", spec.last(), 32, 2, "LBA of the other header is 1 and 2"),
    ] {
        let mut disk = spec.build();
        poke(&mut disk, spec.offset(lba) + at, value, 8);
        seal(&mut disk, B512, spec.last());
        let layout = read_sane(&disk, B512).unwrap();
        assert!(says(&layout, &format!("both copies of the GPT are sound, and differ: {what}")), "{name}: {layout:?}");
        assert_eq!(layout.partitions[1].range.end, 6001 * 512, "{name}");
        assert_eq!(moved(&layout, spec.len() * 2).1.partitions, layout.partitions, "{name}");
    }
}

#[test]
fn entries_beyond_the_disk_are_reported_and_what_they_touch_is_kept_whole() {
    let partitions = vec![
        (1, 2048, 4095),
        (2, 15_000, u64::MAX),
        (3, u64::MAX, u64::MAX),
        (4, 4096, 6000),
        (5, 6100, 6099),
        (6, 16_000, 16_999),
        (7, SECTORS, SECTORS),
    ];
    let spec = GptSpec { partitions, ..GptSpec::new(B512, SECTORS) };
    let layout = read_sane(&spec.build(), B512).unwrap();
    assert_eq!(numbers(&layout), [1, 4]);
    for what in [
        "partition 2 lies at LBA 15000 to 18446744073709551615, beyond the disk, which has 20000 sectors",
        "partition 3 lies at LBA 18446744073709551615",
        "partition 5 starts at LBA 6100 and ends before that, at LBA 6099",
        "partition 6 overlaps an entry that makes no sense",
        "partition 7 lies at LBA 20000 to 20000",
    ] {
        assert!(says(&layout, what), "{what}: {:?}", layout.problems);
    }
    let end = 6001 * 512;
    let tail = format!("tail {end}..{}", spec.len());
    assert_eq!(
        shown(&layout),
        [
            "head 0..1048576".to_owned(),
            "partition 1 1048576..2097152".to_owned(),
            format!("partition 4 2097152..{end}"),
            tail,
        ]
    );
}

#[test]
fn a_table_written_for_the_other_sector_size_is_named_and_not_misread() {
    for (written, seen) in [(B512, B4096), (B4096, B512)] {
        let spec = GptSpec::new(written, 40_000);
        let whole = spec.build();
        let mut backup_only = whole.clone();
        flip(&mut backup_only, written.bytes() + 60, 1);
        for disk in [whole, backup_only] {
            let error = read(&disk, seen).unwrap_err();
            let wanted = format!("a GPT written for {written}-byte sectors, on a disk with {seen}-byte sectors");
            assert!(error.to_string().contains(&wanted), "{error}");
        }
    }
}

#[test]
fn the_protective_entry_grows_with_the_disk_up_to_its_limit() {
    let spec = GptSpec::new(B512, SECTORS);
    let layout = read(&spec.build(), B512).unwrap();
    for (new_len, size) in
        [(spec.len() + 512, 20_000), (2 * TIB, u32::MAX), (2 * TIB - 512, u32::MAX - 1), (40 * TIB, u32::MAX)]
    {
        let (_, back) = moved(&layout, new_len);
        let entry = mbr::entries(&back.pieces[0].bytes).unwrap()[0];
        assert_eq!((entry.start, entry.size, entry.kind), (1, size, 0xee), "{new_len}");
    }
}

#[test]
fn the_old_backup_is_named_for_clearing_and_partitions_are_not_touched() {
    let spec = GptSpec::new(B512, SECTORS);
    let layout = read(&spec.build(), B512).unwrap();
    assert_eq!(superseded(&layout, spec.len()), []);
    let old = Extent::new(spec.offset(spec.backup_array()), spec.len());
    assert_eq!(superseded(&layout, spec.len() * 2), [old]);
    let near = spec.len() + 512 * 4;
    assert_eq!(
        superseded(&layout, near),
        [Extent::new(old.start, old.start + 512 * 4)],
        "the new backup is not cleared"
    );
    let over = GptSpec { partitions: vec![(1, 2048, SECTORS - 1)], ..spec.clone() };
    let layout = read_sane(&over.build(), B512).unwrap();
    assert!(says(&layout, "partition 1 lies over the partition table"), "{:?}", layout.problems);
    let unlisted = Layout { partitions: Vec::new(), ..layout.clone() };
    assert_eq!(superseded(&layout, spec.len() * 2), []);
    assert_eq!(superseded(&unlisted, spec.len() * 2), [], "an image does not list it, its table does");
}

#[test]
fn a_gpt_without_a_protective_mbr_counts_only_when_nothing_else_is_there() {
    let spec = GptSpec::new(B512, SECTORS);
    let mut blank = spec.build();
    blank.put(0, &[0; 512]).unwrap();
    let layout = read_sane(&blank, B512).unwrap();
    assert_eq!((layout.kind, layout.partitions.len()), (TableKind::Gpt, 2));
    assert!(says(&layout, "no protective MBR"));

    let mut damaged = blank.clone();
    flip(&mut damaged, 512 + 60, 1);
    assert!(matches!(read(&damaged, B512), Err(Error::Corrupt { .. })), "only the backup is whole");

    let mut formatted = blank.clone();
    formatted.put(512, &[0; 512]).unwrap();
    let layout = read_sane(&formatted, B512).unwrap();
    assert_eq!(layout.kind, TableKind::None, "a whole-disk file system leaves a backup GPT behind");
    assert!(says(&layout, "left behind"));

    let mut repartitioned = blank;
    repartitioned.put(0, &build::boot_record(B512, 1, &[(2048, 1000, 0x83)])).unwrap();
    let layout = read_sane(&repartitioned, B512).unwrap();
    assert_eq!((layout.kind, layout.partitions.len()), (TableKind::Mbr, 1));
    assert!(says(&layout, "left behind"));
}

#[test]
fn what_is_unusual_is_said() {
    let spec = GptSpec { partitions: vec![(1, 34, 19_999 - 33), (2, 3000, 3999)], ..GptSpec::new(B512, SECTORS) };
    let mut disk = spec.build();
    disk.put(spec.offset(2) + 128 + 16, &[1; 16]).unwrap();
    poke(&mut disk, spec.offset(1) + 8, 0x0002_0000, 4);
    poke(&mut disk, spec.offset(1) + 48, 30_000, 8);
    seal(&mut disk, B512, 1);
    disk.put(0, &build::boot_record(B512, 0, &[(1, 100, 0xee), (3001, 999, 0x83), (19_000, 9000, 0x83)])).unwrap();
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(layout.kind, TableKind::HybridGpt);
    for what in [
        "GPT revision 0x00020000, expected 0x00010000",
        "usable sectors are LBA 34 to 30000, the disk ends at LBA 19999",
        "partition 2 has a GUID that another one has as well",
        "partitions 1 and 2 overlap in bytes",
        "hybrid MBR entry 2 (LBA 3001 to 4000) is not one of the GPT's partitions",
        "hybrid MBR entry 3 ends at LBA 28000, beyond the disk",
        "differ: last usable LBA is 30000 and 19966",
    ] {
        assert!(says(&layout, what), "{what}: {:#?}", layout.problems);
    }
}

#[test]
fn the_usable_sectors_end_before_the_new_backup() {
    let spec = GptSpec::new(B512, SECTORS);
    let (disk, _) = moved(&read(&spec.build(), B512).unwrap(), spec.len() * 2);
    let last_usable = |lba: u64| u64::from_le_bytes(bytes_at(&disk, lba * 512 + 48, 8).try_into().unwrap());
    assert_eq!((last_usable(1), last_usable(2 * SECTORS - 1)), (2 * SECTORS - 34, 2 * SECTORS - 34));
}

#[test]
fn a_protective_entry_that_makes_room_for_hybrid_ones_does_not_grow_over_them() {
    let spec = GptSpec::new(B512, SECTORS);
    for (name, protective, hybrid, grown) in [
        ("in front", (1, 2047, 0xee), (2048, 2048, 0x83), 2047),
        ("to the end", (1, SECTORS as u32 - 1, 0xee), (2048, 2048, 0x83), 2 * SECTORS as u32 - 1),
    ] {
        let mut disk = spec.build();
        disk.put(0, &build::boot_record(B512, 0, &[protective, hybrid])).unwrap();
        let (_, back) = moved(&read_sane(&disk, B512).unwrap(), spec.len() * 2);
        let entries = mbr::entries(&back.pieces[0].bytes).unwrap();
        assert_eq!((entries[0].size, entries[1].start, entries[1].size), (grown, 2048, 2048), "{name}");
    }
}

#[test]
fn the_backup_entries_stay_where_they_are_when_partitions_reach_the_end() {
    // The backup entries lie in front of a partition that ends right before the backup header.
    let spec = GptSpec { partitions: vec![(1, 4096, SECTORS - 2)], ..GptSpec::new(B512, SECTORS) };
    let mut disk = spec.build();
    let array = bytes_at(&disk, spec.offset(2), 32 * 512);
    disk.put(spec.offset(2100), &array).unwrap();
    for lba in [1, spec.last()] {
        poke(&mut disk, spec.offset(lba) + 48, SECTORS - 2, 8);
        poke(&mut disk, spec.offset(spec.last()) + 72, 2100, 8);
        seal(&mut disk, B512, lba);
    }
    disk.put(spec.offset(spec.backup_array()), &[0; 32 * 512]).unwrap();
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(layout.problems, []);
    for (more, place) in [(1, 2100), (31, 2100), (32, SECTORS - 1), (1000, SECTORS + 1000 - 33)] {
        let (_, back) = moved(&layout, spec.len() + more * 512);
        assert_eq!(back.problems, [], "{more}");
        assert_eq!(back.piece(PieceKind::BackupEntries).unwrap().offset, spec.offset(place), "{more}");
        assert_eq!(back.partitions, layout.partitions, "{more}");
    }
    flip(&mut disk, spec.offset(2100), 1);
    let layout = read_sane(&disk, B512).unwrap();
    assert!(matches!(for_target(&layout, spec.len() + 512), Err(Error::Refused(_))), "no old place to go back to");
}

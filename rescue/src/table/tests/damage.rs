//! Damaged tables by the thousand: whatever the bytes, no panic, everything stays inside the disk, and a table that
//! was moved to a larger disk is whole there.

use proptest::{prelude::*, sample::select};

use super::{
    build::{GptSpec, flip, mbr_disk, poke, seal},
    *,
};

const SECTORS: u64 = 12_000;

/// Numbers that break things.
fn evil() -> impl Strategy<Value = u64> {
    prop_oneof![
        select(vec![0, 1, 2, 3, 33, 34, 63, 92, 127, 128, 129, 256, 512, 513, 2047, 2048, 4096, 6000, 8192, 8193]),
        select(vec![SECTORS - 34, SECTORS - 33, SECTORS - 2, SECTORS - 1, SECTORS, SECTORS + 1, 2 * SECTORS]),
        select(vec![1 << 31, (1 << 31) - 1, u64::from(u32::MAX), 1 << 32, 1 << 52, 1 << 55, 1 << 61]),
        select(vec![1 << 63, u64::MAX / 512, u64::MAX / 4096, u64::MAX - 1, u64::MAX]),
        0..SECTORS,
        any::<u64>(),
    ]
}

/// One thing that happens to a GPT. Numbers are reduced to what the table has.
#[derive(Clone, Debug)]
enum Blow {
    /// A field of a header: which copy, which field, its new value.
    Header(bool, usize, u64),
    /// A field of an entry: which copy, which slot, which field, its new value.
    Entry(bool, u64, usize, u64),
    /// Bits of a byte in the table: where, counted through all of its sectors.
    Flip(u64, u8),
    /// A sector of the table overwritten.
    Fill(u64, u8),
    /// A sector of the table copied over another one.
    Copy(u64, u64),
    /// A number in the MBR.
    Mbr(u64, u64, usize),
}

const HEADER_FIELDS: [(u64, usize); 12] =
    [(8, 4), (12, 4), (16, 4), (24, 8), (32, 8), (40, 8), (48, 8), (56, 8), (72, 8), (80, 4), (84, 4), (88, 4)];
const ENTRY_FIELDS: [(u64, usize); 6] = [(0, 8), (16, 8), (32, 8), (40, 8), (48, 8), (56, 8)];

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        4 => (any::<bool>(), 0..12usize, evil()).prop_map(|(copy, field, value)| Blow::Header(copy, field, value)),
        4 => (any::<bool>(), 0..8u64, 0..6usize, evil()).prop_map(|(c, slot, field, v)| Blow::Entry(c, slot, field, v)),
        2 => (any::<u64>(), 1..=255u8).prop_map(|(at, mask)| Blow::Flip(at, mask)),
        1 => (any::<u64>(), select(vec![0, 0x55, 0xff])).prop_map(|(at, byte)| Blow::Fill(at, byte)),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(from, to)| Blow::Copy(from, to)),
        1 => (440..512u64, evil(), select(vec![1, 2, 4])).prop_map(|(at, value, len)| Blow::Mbr(at, value, len)),
    ]
}

fn spec() -> impl Strategy<Value = GptSpec> {
    let shape = select(vec![(128, 128), (128, 16), (256, 32), (512, 8), (128, 300)]);
    (select(vec![B512, B4096]), shape, select(vec![92, 92, 512]), select(vec![2, 2, 700])).prop_map(
        |(size, (entry_size, count), header_size, array_lba)| GptSpec {
            entry_size,
            count,
            header_size,
            array_lba,
            partitions: vec![(1, 2048, 4095), (2, 4096, 5000), (4, 5001, 9000), (8, 9100, 10_000)],
            ..GptSpec::new(size, SECTORS)
        },
    )
}

fn strike(spec: &GptSpec, disk: &mut Sparse, blow: &Blow) {
    let table: Vec<u64> = [0, 1]
        .into_iter()
        .chain(spec.array_lba..spec.array_lba + spec.array_sectors())
        .chain(spec.backup_array()..spec.sectors)
        .collect();
    let sector = |n: u64| spec.offset(table[(n % table.len() as u64) as usize]);
    let (headers, arrays) = ([1, spec.last()], [spec.array_lba, spec.backup_array()]);
    match *blow {
        Blow::Header(copy, field, value) => {
            let (at, len) = HEADER_FIELDS[field];
            poke(disk, spec.offset(headers[usize::from(copy)]) + at, value, len);
        }
        Blow::Entry(copy, slot, field, value) => {
            let (at, len) = ENTRY_FIELDS[field];
            let array = spec.offset(arrays[usize::from(copy)]);
            poke(disk, array + slot * u64::from(spec.entry_size) + at, value, len);
        }
        Blow::Flip(at, mask) => flip(disk, sector(at) + at / 7 % spec.size.bytes(), mask),
        Blow::Fill(at, byte) => disk.put(sector(at), &vec![byte; spec.size.usize()]).unwrap(),
        Blow::Copy(from, to) => {
            let bytes = bytes_at(disk, sector(from), spec.size.usize());
            disk.put(sector(to), &bytes).unwrap();
        }
        Blow::Mbr(at, value, len) => poke(disk, at.min(512 - len as u64), value, len),
    }
}

/// Reads a disk, checks what must hold, and moves the table to disks of other sizes.
fn survive(disk: &Sparse, size: SectorSize) {
    let layout = match read(disk, size) {
        Ok(layout) => layout,
        Err(Error::Corrupt { offset, what }) => {
            assert!(offset <= disk.len() && !what.is_empty(), "{offset} {what}");
            return;
        }
        Err(other) => panic!("{other}"),
    };
    assert_sane(&layout, disk);
    assert!(layout.problems.iter().all(|problem| problem.offset < disk.len()), "{:?}", layout.problems);
    let len = disk.len();
    assert_eq!(for_target(&layout, len).unwrap(), layout.pieces);
    assert!(matches!(for_target(&layout, len - 1), Err(Error::Refused(_))));
    for new_len in [len + size.bytes(), len + 40 * size.bytes() + 7, 64 * TIB] {
        let pieces = match for_target(&layout, new_len) {
            Ok(pieces) => pieces,
            Err(Error::Refused(what)) => {
                assert!(what.starts_with("no place for the "), "{what}");
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let larger = Sparse::with_pieces(new_len, &pieces).unwrap();
        let back = read_sane(&larger, size).unwrap();
        assert_eq!(back.kind, layout.kind);
        assert_eq!(back.disk_id, layout.disk_id);
        if matches!(layout.kind, TableKind::Gpt | TableKind::HybridGpt) {
            assert!(!says(&back, "primary GPT: ") && !says(&back, "backup GPT: "), "{:?}", back.problems);
            assert!(!says(&back, "the backup GPT belongs") && !says(&back, "differ: "), "{:?}", back.problems);
        }
        if !says(&layout, "beyond the disk") && !says(&layout, "more problems like these") {
            assert_eq!(back.partitions, layout.partitions);
        }
        let cleared = superseded(&layout, new_len);
        assert!(cleared.iter().all(|e| pieces.iter().all(|piece| !piece.range().overlaps(*e))), "{cleared:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gpts_are_survived(
        spec in spec(),
        blows in proptest::collection::vec(blow(), 1..5),
        sealed in any::<bool>(),
        twice in any::<bool>(),
        cut in proptest::option::weighted(0.1, 1..SECTORS),
    ) {
        let mut disk = spec.build();
        for blow in &blows {
            strike(&spec, &mut disk, blow);
            // Damage that only one copy has is the rarer half: a program that writes nonsense writes it twice.
            if twice && let Blow::Header(copy, field, value) = *blow {
                strike(&spec, &mut disk, &Blow::Header(!copy, field, value));
            } else if twice && let Blow::Entry(copy, slot, field, value) = *blow {
                strike(&spec, &mut disk, &Blow::Entry(!copy, slot, field, value));
            }
        }
        if sealed {
            seal(&mut disk, spec.size, 1);
            seal(&mut disk, spec.size, spec.last());
        }
        if let Some(sectors) = cut {
            let shorter = bytes_at(&disk, 0, (sectors.min(400) * 512) as usize);
            disk = Sparse::new(sectors.max(400) * 512 + 13);
            disk.put(0, &shorter).unwrap();
        }
        survive(&disk, spec.size);
        survive(&disk, if spec.size == B512 { B4096 } else { B512 });
    }

    #[test]
    fn damaged_boot_records_and_chains_are_survived(
        size in select(vec![B512, B4096]),
        blows in proptest::collection::vec((0..6usize, 0..4u64, 0..5usize, evil(), 1..=255u8), 1..8),
        len in select(vec![SECTORS, 30_000, 1 << 33]),
    ) {
        const RECORDS: [u64; 6] = [0, 6000, 7000, 8000, 9000, 10_000];
        let mut disk = mbr_disk(size, len * size.bytes(), &[
            (0, &[(63, 1000, 0x800c), (2048, 2000, 0x83), (6000, 5000, 0x0f), (11_500, 400, 0x82)]),
            (6000, &[(63, 900, 0x83), (1000, 1000, 0x05)]),
            (7000, &[(63, 900, 0x83), (2000, 1000, 0x05)]),
            (8000, &[(63, 900, 0x82), (3000, 1000, 0x05)]),
            (9000, &[(63, 900, 0x83), (4000, 1000, 0x05)]),
            (10_000, &[(63, 900, 0x83)]),
        ]);
        for (record, slot, field, value, mask) in blows {
            let record = RECORDS[record] * size.bytes();
            let entry = record + 446 + slot * 16;
            match field {
                0 => poke(&mut disk, entry + 8, value, 4),
                1 => poke(&mut disk, entry + 12, value, 4),
                2 => poke(&mut disk, entry + 4, [0x00, 0x05, 0x0f, 0x83, 0x85, 0xee, 0xc5][value as usize % 7], 1),
                3 => poke(&mut disk, entry, [0x00, 0x80, 0x80, 0x01][value as usize % 4], 1),
                _ => flip(&mut disk, record + value % 512, mask),
            }
        }
        survive(&disk, size);
        survive(&disk, if size == B512 { B4096 } else { B512 });
    }

    #[test]
    fn any_bytes_in_the_table_places_are_survived(
        entries in proptest::collection::vec(any::<u8>(), 72),
        small in proptest::collection::vec((0..3u8, 0..8usize, 0..SECTORS as u32, 0..SECTORS as u32), 0..4),
        front in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut disk = Sparse::new(SECTORS * 512);
        disk.put(0, &front).unwrap();
        disk.put(438, &entries).unwrap();
        for (slot, (flag, kind, start, sectors)) in small.into_iter().enumerate() {
            let entry = 446 + slot as u64 * 16;
            poke(&mut disk, entry, [0, 0x80, 0x41][usize::from(flag)], 1);
            poke(&mut disk, entry + 4, [0, 0x05, 0x07, 0x0c, 0x0f, 0x83, 0x85, 0xee][kind], 1);
            poke(&mut disk, entry + 8, start.into(), 4);
            poke(&mut disk, entry + 12, sectors.into(), 4);
        }
        disk.put(510, &[0x55, 0xaa]).unwrap();
        survive(&disk, B512);
    }

    #[test]
    fn pieces_from_a_store_are_not_believed(
        spec in spec(),
        blows in proptest::collection::vec((0..5usize, any::<u64>(), 1..=255u8, evil()), 1..4),
    ) {
        let mut layout = read(&spec.build(), spec.size).unwrap();
        for (piece, at, mask, value) in blows {
            let piece = piece % layout.pieces.len();
            let piece = &mut layout.pieces[piece];
            match at % 8 {
                0 => piece.offset = value,
                1 => piece.bytes.truncate((value % 600) as usize),
                2 => piece.kind = PieceKind::Mbr,
                3 => layout.disk_len = value,
                _ => {
                    let len = piece.bytes.len() as u64;
                    if let Some(byte) = piece.bytes.get_mut((at / 8 % len.max(1)) as usize) {
                        *byte ^= mask;
                    }
                }
            }
        }
        for new_len in [spec.len(), spec.len() + 512, spec.len() * 4, u64::MAX] {
            if let Ok(pieces) = for_target(&layout, new_len) {
                prop_assert!(pieces.iter().all(|piece| piece.range().end <= new_len));
            }
            prop_assert!(superseded(&layout, new_len).iter().all(|range| range.end <= new_len));
        }
    }
}

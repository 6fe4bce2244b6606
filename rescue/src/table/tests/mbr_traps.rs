//! MBRs and EBR chains as the world makes them, and boot sectors that look like one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    build::{Record, boot_record, mbr_disk},
    *,
};

/// Number, first sector, sectors of each partition.
fn seen(layout: &Layout) -> Vec<(u32, u64, u64)> {
    let size = layout.sector_size.bytes();
    layout.partitions.iter().map(|p| (p.number, p.range.start / size, p.range.len() / size)).collect()
}

#[test]
fn an_ebr_at_10_gib_where_mbrman_wraps() {
    let far = (10 * GIB / 512) as u32;
    let disk = mbr_disk(
        B512,
        20 * GIB,
        &[
            (0, &[(2048, 2048, 0x83), (8192, far + 500_000, 0x0f)]),
            (8192, &[(2048, 4096, 0x83), (far, 200_000, 0x05)]),
            (8192 + u64::from(far), &[(2048, 100_000, 0x83)]),
        ],
    );
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(layout.problems, []);
    let start = 8192 + u64::from(far) + 2048;
    assert_eq!(seen(&layout), [(1, 2048, 2048), (5, 10_240, 4096), (6, start, 100_000)]);
    let ebr = layout.pieces.last().unwrap();
    assert_eq!((ebr.kind, ebr.offset), (PieceKind::Ebr, (8192 + u64::from(far)) * 512));

    // The crate reads this table and, told to write it unchanged, writes the second EBR elsewhere or panics.
    let mut copy = disk.clone();
    let rewrite = || {
        let mut table = mbrman::MBR::read_from(&mut copy, 512).unwrap();
        table.write_into(&mut copy).map(|()| copy.clone())
    };
    match catch_unwind(AssertUnwindSafe(rewrite)) {
        Ok(Ok(written)) => {
            assert_ne!(bytes_at(&written, 2 * GIB + 8192 * 512, 512), [0; 512], "mbrman counts right now")
        }
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => {}
    }
}

#[test]
fn a_logical_start_beyond_32_bits_is_counted_right() {
    let disk = mbr_disk(
        B512,
        6 * TIB,
        &[
            (0, &[(0xffff_0000, 0xffff_0000, 0x0f)]),
            (0xffff_0000, &[(0x1_0000, 5000, 0x83), (0x8000_0000, 9000, 0x05)]),
            (0xffff_0000 + 0x8000_0000, &[(0x8000_0000, 7000, 0x83)]),
        ],
    );
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(seen(&layout), [(5, 0x1_0000_0000, 5000), (6, 0x1_ffff_0000, 7000)]);
    assert!(says(&layout, "logical partition 6 leaves the extended partition"), "{:?}", layout.problems);
}

#[test]
fn a_chain_that_does_not_ascend_is_read_in_its_own_order() {
    let disk = mbr_disk(
        B512,
        100 * MIB,
        &[
            (0, &[(2048, 100_000, 0x05)]),
            (2048, &[(2048, 1000, 0x83), (50_000, 5000, 0x05)]),
            (52_048, &[(2048, 1000, 0x82), (20_000, 5000, 0x05)]),
            (22_048, &[(2048, 1000, 0x07)]),
        ],
    );
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(layout.problems, [], "legal, and no disagreement: the second reader is not asked");
    assert_eq!(seen(&layout), [(5, 4096, 1000), (6, 54_096, 1000), (7, 24_096, 1000)]);
    let offsets: Vec<u64> = layout.pieces.iter().map(|piece| piece.offset / 512).collect();
    assert_eq!(offsets, [0, 2048, 22_048, 52_048], "in disk order");
}

#[test]
fn chains_that_break_are_read_up_to_the_break() {
    let good: Record<'_> = (2048, &[(2048, 1000, 0x83), (50_000, 5000, 0x05)]);
    for (name, second, problem) in [
        ("to itself", vec![(52_048, vec![(2048, 1000, 0x83), (50_000, 5000, 0x05)])], "leads back to itself"),
        ("to the first", vec![(52_048, vec![(2048, 1000, 0x83), (0, 5000, 0x05)])], "leads back to itself"),
        ("no signature", vec![], "leads to a sector that is not an EBR"),
        ("beyond", vec![(52_048, vec![(2048, 1000, 0x83), (4_000_000_000, 5, 0x05)])], "beyond the disk"),
    ] {
        let mut records = vec![(0, &[(2048, 100_000, 0x05)][..]), good];
        records.extend(second.iter().map(|(lba, entries)| (*lba, &entries[..])));
        let disk = mbr_disk(B512, 100 * MIB, &records);
        let layout = read_sane(&disk, B512).unwrap();
        assert!(says(&layout, problem), "{name}: {:?}", layout.problems);
        assert_eq!(seen(&layout)[0], (5, 4096, 1000), "{name}");
        assert_eq!(seen(&layout).len(), 1 + second.len(), "{name}");
    }
}

#[test]
fn a_chain_without_end_ends() {
    let mut disk = mbr_disk(B512, GIB, &[(0, &[(1, 2_000_000, 0x05)])]);
    for lba in 1..3000u32 {
        disk.put(u64::from(lba) * 512, &boot_record(B512, 0, &[(0, 0, 0), (lba, 1, 0x05)])).unwrap();
    }
    let layout = read_sane(&disk, B512).unwrap();
    assert!(says(&layout, "longer than 512"), "{:?}", layout.problems);
}

#[test]
fn logical_partitions_get_the_kernels_numbers() {
    let disk = mbr_disk(
        B512,
        100 * MIB,
        &[
            (0, &[(2048, 100_000, 0x05), (0, 0, 0), (150_000, 1000, 0x83), (160_000, 20_000, 0x85)]),
            (2048, &[(0, 0, 0), (10_000, 5000, 0x05)]),
            (12_048, &[(20_000, 5000, 0x0f), (2048, 1000, 0x83)]),
            (22_048, &[(2048, 100, 0x83), (3000, 100, 0x82), (3200, 100, 0x83), (9_999_999, 7, 0x83)]),
            (160_000, &[(63, 100, 0x83)]),
        ],
    );
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(
        seen(&layout),
        [
            (3, 150_000, 1000),
            (5, 14_096, 1000),
            (6, 24_096, 100),
            (7, 25_048, 100),
            (8, 25_248, 100),
            (9, 160_063, 100),
        ]
    );
    assert!(says(&layout, "a second extended partition"));
}

#[test]
fn an_odd_boot_flag_is_a_problem_and_not_a_refusal() {
    let disk = mbr_disk(B512, 100 * MIB, &[(0, &[(2048, 1000, 0x0183), (4096, 1000, 0x8083)])]);
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(seen(&layout), [(1, 2048, 1000), (2, 4096, 1000)]);
    assert!(says(&layout, "entry 1 has boot flag 0x01, expected 0x00 or 0x80"));
    assert!(mbrman::MBR::read_from(&mut disk.clone(), 512).is_err(), "mbrman accepts odd flags now");
}

#[test]
fn out_of_range_and_overlapping_entries_are_kept_whole() {
    let sectors = (100 * MIB / 512) as u32;
    let disk = mbr_disk(
        B512,
        100 * MIB,
        &[(0, &[(2048, 10_000, 0x83), (6000, 20_000, 0x83), (100_000, sectors, 0x83), (40_000, 1000, 0x83)])],
    );
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(seen(&layout), [(1, 2048, 10_000), (2, 6000, 20_000), (4, 40_000, 1000)]);
    assert!(says(&layout, "partitions 1 and 2 overlap"));
    assert!(says(&layout, "partition 3 lies at LBA 100000 to 304799, beyond the disk, which has 204800 sectors"));
    assert_eq!(
        shown(&layout),
        ["head 0..1048576", "gap 1048576..20480000", "partition 4 20480000..20992000", "tail 20992000..104857600",]
    );
}

fn fat_sector(total: u32) -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    sector[3..11].copy_from_slice(b"mkfs.fat");
    sector[11..13].copy_from_slice(&512u16.to_le_bytes());
    (sector[13], sector[14], sector[16], sector[21]) = (8, 32, 2, 0xf8);
    sector[32..36].copy_from_slice(&total.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn boot_sectors_of_file_systems_are_no_tables() {
    let sectors = (100 * MIB / 512) as u32;
    let named = |name: &[u8; 8]| {
        let mut sector = boot_record(B512, 0, &[]);
        sector[3..11].copy_from_slice(name);
        sector
    };
    let with_code = |mut sector: Vec<u8>| {
        (446..510).for_each(|at| sector[at] = (at * 37) as u8 | 1);
        sector
    };
    let with_entries = |mut sector: Vec<u8>, entries: &[(u32, u32, u16)]| {
        sector[446..512].copy_from_slice(&boot_record(B512, 0, entries)[446..512]);
        sector
    };
    let none = Some(TableKind::None);
    let mbr = Some(TableKind::Mbr);
    let fat = || fat_sector(sectors);
    for (name, sector, wanted) in [
        ("FAT", fat(), none),
        ("FAT with code over the entries", with_code(fat()), none),
        ("NTFS", named(b"NTFS    "), none),
        ("NTFS with code over the entries", with_code(named(b"NTFS    ")), none),
        ("exFAT", with_code(named(b"EXFAT   ")), none),
        ("BitLocker", with_code(named(b"-FVE-FS-")), none),
        ("FAT listing itself", with_entries(fat(), &[(0, sectors, 0x800c)]), none),
        ("FAT and partitions in one", with_entries(fat(), &[(2048, 9000, 0x83)]), None),
        ("MBR that kept a BPB of a small volume", with_entries(fat_sector(63), &[(2048, 9000, 0x83)]), mbr),
        ("nothing", vec![0; 512], none),
        ("a signature alone", boot_record(B512, 0, &[]), none),
        ("an empty MBR", boot_record(B512, 7, &[]), mbr),
        ("code and no table", with_code(boot_record(B512, 0, &[])), None),
        ("all beyond the disk", boot_record(B512, 7, &[(sectors, 100, 0x83)]), None),
        ("entries without a type", boot_record(B512, 7, &[(2048, 100, 0)]), None),
        ("an MBR", boot_record(B512, 7, &[(2048, 100, 0x83)]), mbr),
    ] {
        let mut disk = Sparse::new(100 * MIB);
        disk.put(0, &sector).unwrap();
        match (read_sane(&disk, B512), wanted) {
            (Ok(layout), Some(kind)) => assert_eq!(layout.kind, kind, "{name}"),
            (Err(Error::Corrupt { .. }), None) => {}
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn sectors_of_4096_bytes_and_an_mbr_for_512() {
    let records: [Record<'_>; 2] = [(0, &[(256, 1000, 0x83), (2000, 4000, 0x05)]), (2000, &[(256, 1000, 0x83)])];
    let layout = read_sane(&mbr_disk(B4096, 64 * MIB, &records), B4096).unwrap();
    assert_eq!(layout.problems, []);
    assert_eq!(seen(&layout), [(1, 256, 1000), (5, 2256, 1000)]);
    assert!(layout.pieces.iter().all(|piece| piece.bytes.len() == 4096));

    let foreign = mbr_disk(B512, 64 * MIB, &[(0, &[(2048, 100_000, 0x83)])]);
    let layout = read_sane(&foreign, B4096).unwrap();
    assert!(says(&layout, "the table fits a disk with 512-byte sectors, this one's are 4096"), "{:?}", layout.problems);
    assert_eq!(layout.partitions, []);
    let foreign = mbr_disk(B512, 64 * MIB, &[(0, &[(50_000, 50_000, 0x83)])]);
    let error = read(&foreign, B4096).unwrap_err().to_string();
    assert!(error.contains("fits a disk with 512-byte sectors"), "{error}");
}

#[test]
fn an_mbr_stays_verbatim_on_a_larger_disk() {
    let disk = mbr_disk(B512, GIB, &[(0, &[(2048, 1000, 0x83), (8192, 90_000, 0x0f)]), (8192, &[(63, 500, 0x83)])]);
    let layout = read_sane(&disk, B512).unwrap();
    assert_eq!(for_target(&layout, GIB).unwrap(), layout.pieces);
    assert_eq!(for_target(&layout, 5 * TIB).unwrap(), layout.pieces);
    assert!(matches!(for_target(&layout, GIB - 1), Err(Error::Refused(_))));
}

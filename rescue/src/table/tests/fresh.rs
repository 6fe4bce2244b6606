//! Fresh tables, read back.

use uuid::Uuid;

use super::*;
use crate::table::fresh::{GptPartition, MbrPartition, fresh_gpt, fresh_mbr};

fn linux(first: u64, len_sectors: u64, guid: u128) -> GptPartition {
    GptPartition {
        first: Lba(first),
        len_sectors,
        type_guid: Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4),
        guid: Uuid::from_u128(guid),
        attributes: 1 << 60,
        name: format!("part {guid} ä"),
    }
}

#[test]
fn a_fresh_gpt_holds_what_was_asked_for() {
    for (size, len) in [(B512, 100 * MIB), (B4096, 100 * MIB), (B512, 8 * TIB), (B4096, 20 * TIB)] {
        let wanted = [linux(2048, 4096, 1), linux(8192, 1000, 2)];
        let pieces = fresh_gpt(len, size, Uuid::from_u128(99), &wanted).unwrap();
        assert_eq!(fresh_gpt(len, size, Uuid::from_u128(99), &wanted).unwrap(), pieces, "the same each time");
        let layout = read_sane(&Sparse::with_pieces(len, &pieces).unwrap(), size).unwrap();
        assert_eq!((layout.kind, &layout.problems[..]), (TableKind::Gpt, &[][..]));
        assert_eq!(layout.disk_id, Some(Uuid::from_u128(99).to_string()));
        let second = &layout.partitions[1];
        assert_eq!(second.range, Extent::new(8192 * size.bytes(), 9192 * size.bytes()));
        assert_eq!((second.name.as_deref(), second.attributes), (Some("part 2 ä"), 1 << 60));
        assert_eq!(second.type_name.as_deref(), Some("Linux file system"));
    }
}

#[test]
fn impossible_gpts_are_refused() {
    for (name, len, partitions) in [
        ("too small", 10 * 512, vec![]),
        ("overlap", 100 * MIB, vec![linux(2048, 4096, 1), linux(4000, 10, 2)]),
        ("same GUID", 100 * MIB, vec![linux(2048, 10, 1), linux(4000, 10, 1)]),
        ("beyond the end", 100 * MIB, vec![linux(2048, 1 << 40, 1)]),
        ("over the table", 100 * MIB, vec![linux(2, 10, 1)]),
        ("no sectors", 100 * MIB, vec![linux(2048, 0, 1)]),
        ("2^64", 100 * MIB, vec![linux(u64::MAX, u64::MAX, 1)]),
    ] {
        let result = fresh_gpt(len, B512, Uuid::from_u128(9), &partitions);
        assert!(matches!(result, Err(Error::Refused(_))), "{name}: {result:?}");
    }
}

#[test]
fn a_fresh_mbr_has_its_logical_partitions_even_beyond_4_gib() {
    let part = |first, len_sectors, kind| MbrPartition { first, len_sectors, kind, active: first == 2048 };
    let far = (10 * GIB / 512) as u32;
    for size in [B512, B4096] {
        let primary = [part(2048, 4096, 0x0c), part(8192, 4096, 0x83)];
        let logical = [part(20_000, 1000, 0x83), part(40_000, 1000, 0x82), part(far, 5000, 0x83)];
        let len = u64::from(far) * size.bytes() + GIB;
        let pieces = fresh_mbr(len, size, 0xcafe_f00d, &primary, &logical).unwrap();
        let layout = read_sane(&Sparse::with_pieces(len, &pieces).unwrap(), size).unwrap();
        assert_eq!((layout.kind, &layout.problems[..]), (TableKind::Mbr, &[][..]));
        assert_eq!(layout.disk_id.as_deref(), Some("0xcafef00d"));
        let seen: Vec<(u32, u64)> =
            layout.partitions.iter().map(|p| (p.number, p.range.start / size.bytes())).collect();
        assert_eq!(seen, [(1, 2048), (2, 8192), (5, 20_000), (6, 40_000), (7, u64::from(far))]);
    }
}

#[test]
fn impossible_mbrs_are_refused() {
    let part = |first, len_sectors| MbrPartition { first, len_sectors, kind: 0x83, active: false };
    for (name, primary, logical) in [
        ("five", vec![part(10, 1), part(20, 1), part(30, 1), part(40, 1), part(50, 1)], vec![]),
        ("four and logical", vec![part(10, 1), part(20, 1), part(30, 1), part(40, 1)], vec![part(60, 1)]),
        ("overlap", vec![part(10, 20), part(20, 10)], vec![]),
        ("no room for an EBR", vec![], vec![part(10, 10), part(20, 10)]),
        ("out of order", vec![], vec![part(50, 10), part(20, 10)]),
        ("beyond the end", vec![part(10, u32::MAX)], vec![]),
        ("an EBR beyond the end", vec![], vec![part(10, 10), part(u32::MAX - 10, 5)]),
        ("at LBA 0", vec![part(0, 10)], vec![]),
        ("no sectors", vec![part(10, 0)], vec![]),
    ] {
        let result = fresh_mbr(MIB, B512, 1, &primary, &logical);
        assert!(matches!(result, Err(Error::Refused(_) | Error::Disk(_))), "{name}: {result:?}");
    }
}

//! Disks without a partition table: the table reader must leave them to the file system readers.

use std::fs;

use rescue::{
    block::MemoryDisk,
    extent::Extent,
    fs::{detect, disk},
    table::{self, RegionKind, TableKind},
    units::SectorSize,
};

use crate::tools::{Bench, Noise, run};

const MIB: u64 = 1 << 20;

/// Checks that a disk with `bytes` is one region that holds `name`.
fn check(what: &str, bytes: Vec<u8>, name: &str) {
    for sector_size in [SectorSize::B512, SectorSize::B4096] {
        let disk = MemoryDisk::new(bytes.clone(), sector_size);
        let layout = table::read(&disk, sector_size).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((layout.kind, layout.problems.len()), (TableKind::None, 0), "{what}: {:?}", layout.problems);
        let regions = layout.regions();
        assert_eq!(regions.len(), 1, "{what}: {regions:?}");
        assert_eq!((regions[0].kind, regions[0].range.len()), (RegionKind::Whole, bytes.len() as u64), "{what}");
        let found = detect::all(&disk).into_iter().map(|found| found.name).collect::<Vec<_>>();
        assert_eq!(found, [name], "{what}");
    }
}

#[test]
fn volumes_on_whole_disks_are_no_tables() {
    for (tool, args, len, name) in [
        ("mkfs.fat", "-I -F 12", 4, "vfat"),
        ("mkfs.fat", "-I -F 16", 24, "vfat"),
        ("mkfs.fat", "-I -F 32", 64, "vfat"),
        ("mkfs.fat", "-I -F 32 -S 4096 -s 1", 300, "vfat"),
        ("mkfs.fat", "-I -F 32 --mbr=y", 64, "vfat"),
        ("mkfs.ntfs", "-q -F -f", 16, "ntfs"),
        ("mkfs.ntfs", "-q -F -f -s 4096", 16, "ntfs"),
        ("mkfs.exfat", "", 16, "exfat"),
        ("mkfs.xfs", "-q -f", 320, "xfs"),
        ("mkfs.btrfs", "-q -f", 128, "btrfs"),
        ("mke2fs", "-q -F -t ext4", 16, "ext4"),
        ("mke2fs", "-q -F -t ext2 -b 1024", 16, "ext2"),
        ("mkswap", "-q", 8, "swap"),
        ("mkfs.minix", "", 1, "minix"),
        ("mkudffs", "-b 512", 8, "udf"),
    ] {
        let bench = Bench::new();
        let image = bench.blank("image", len * MIB);
        let mut list = args.split_whitespace().collect::<Vec<_>>();
        list.push(&image);
        run(tool, &list);
        check(&format!("{tool} {args}"), fs::read(&image).unwrap(), name);
    }
}

#[test]
fn containers_on_whole_disks_are_no_tables() {
    check("LVM2", crate::lvm::first(), "LVM2_member");
    for version in ["0.90", "1.0", "1.1", "1.2"] {
        check(version, crate::md::member(version), "linux_raid_member");
    }
    for kind in ["luks1", "luks2"] {
        let bench = Bench::new();
        check(kind, fs::read(crate::luks::format(&bench, 20, &format!("--type {kind}"))).unwrap(), "crypto_LUKS");
    }
    // Noise ends in a boot sector's signature once in 65536 times; with one it is still no table.
    let mut noise = Noise(5).take(1 << 20);
    noise[510..512].copy_from_slice(&[0x55, 0xaa]);
    let layout = table::read(&MemoryDisk::new(noise, SectorSize::B512), SectorSize::B512);
    assert!(layout.is_err(), "kept whole for a table that makes no sense");
}

#[test]
fn partitions_of_an_array_are_no_partitions_of_its_disks() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = crate::md::member("1.0");
        change(&mut bytes);
        bytes
    };
    let member = |bytes: &[u8], partitions: &[Extent]| {
        disk::member(&MemoryDisk::new(bytes.to_vec(), SectorSize::B512), partitions)
    };
    let inside = [Extent::new(MIB, 12 * MIB)];
    let clean = with(&|_| {});
    let (place, end) = (clean.len() - 8192, clean.len() as u64);
    assert_eq!(member(&clean, &inside), None, "the partitions of a mirror are where they look to be");
    let broken = with(&|bytes| bytes[place + 72] = 5);
    assert!(member(&broken, &inside).unwrap().contains("wrong checksum"));
    assert_eq!(member(&broken, &[Extent::new(MIB, end)]), None, "the superblock is in a partition");
    let stripes = crate::md::stripes("1.0");
    assert!(member(&stripes, &inside).unwrap().contains("member of a RAID0 array of 2 disks"));
    assert!(member(&stripes, &inside).unwrap().starts_with("the disk as a whole is a member of a RAID: "));
    assert_eq!(
        member(&stripes, &[Extent::new(15 * MIB + 4096, 15 * MIB + 8192)]),
        None,
        "no partition in the array's data"
    );
    assert!(member(&crate::md::member("1.2"), &inside).unwrap().contains("begins at byte 0x100000"));
    let firmware = with(&|bytes| bytes[place + 8192 - 1024..][..24].copy_from_slice(b"Intel Raid ISM Cfg Sig. "));
    assert!(member(&firmware, &inside).unwrap().contains("firmware RAID (isw_raid_member)"));
    assert_eq!(member(&[0; 65536], &inside), None);
}

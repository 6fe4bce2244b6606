//! Names, labels and UUIDs against `blkid`; swap; what is ambiguous.

use std::fs;

use rescue::fs::{State, detect::all};
use rescue::{block::MemoryDisk, units::SectorSize};

use crate::tools::{Bench, run, survey_bytes};

const MIB: u64 = 1 << 20;

/// Returns one value of what `blkid` finds by probing.
fn blkid(image: &str, key: &str) -> Option<String> {
    let out = run("blkid", &["-p", "-o", "value", "-s", key, image]);
    Some(out.trim().to_owned()).filter(|value| !value.is_empty())
}

#[test]
fn names_labels_and_uuids_are_those_of_blkid() {
    for (tool, args, len) in [
        ("mke2fs", "-q -F -t ext2 -L two", 8),
        ("mke2fs", "-q -F -t ext3 -L three", 16),
        ("mke2fs", "-q -F -t ext4 -L sixteen-letters-", 16),
        ("mke2fs", "-q -F -O journal_dev", 8),
        ("mkfs.fat", "-F 12 -n TWELVE", 2),
        ("mkfs.fat", "-F 16 -n SIXTEEN", 24),
        ("mkfs.fat", "-F 32", 40),
        ("mkfs.fat", "-F 32 -n ESP", 40),
        ("mkfs.f2fs", "-q -f -l flashy", 64),
        ("mkfs.hfsplus", "-v Mac", 20),
        ("mkfs.hfsplus", "-s -J -v Case", 40),
        ("mkfs.hfsplus", "-w -v Wrapped", 40),
        ("mkfs.xfs", "-q -f -L store", 320),
        ("mkfs.xfs", "-q -f -L fourk -s size=4096", 320),
        ("mkfs.btrfs", "-q -f -L butter", 128),
        ("mkfs.btrfs", "-q -f", 128),
        ("mkfs.exfat", "-L sticky", 16),
        ("mkfs.exfat", "-c 131072", 16),
        ("mkfs.ntfs", "-q -F -f -L Windows", 16),
        ("mkfs.ntfs", "-q -F -f -c 65536 -s 512", 16),
        ("mkswap", "-q -L swappy", 8),
        ("mkswap", "-q -p 65536", 8),
        ("mkfs.minix", "-1", 1),
        ("mkfs.minix", "-2", 1),
        ("mkfs.minix", "-3", 1),
        ("mkfs.bfs", "", 1),
        ("mkudffs", "-b 512 --label disc", 8),
        ("mkudffs", "--u8 -b 4096 --label disque-\u{e9}", 8),
        ("mkudffs", "--u8 -b 2048 -m cdr --label \u{1f600}", 8),
    ] {
        let bench = Bench::new();
        let image = bench.blank("image", len * MIB);
        let mut list = args.split_whitespace().collect::<Vec<_>>();
        list.push(&image);
        run(tool, &list);
        let survey = survey_bytes(&fs::read(&image).unwrap());
        let found = survey.detected.unwrap();
        let name = format!("{tool} {args}");
        assert_eq!(Some(found.name), blkid(&image, "TYPE"), "{name}");
        assert_eq!(found.label, blkid(&image, "LABEL"), "{name}");
        assert_eq!(found.uuid, blkid(&image, "UUID"), "{name}");
        if !["mkfs.xfs", "mkfs.btrfs", "mkfs.ntfs"].contains(&tool) {
            assert_eq!(found.version, blkid(&image, "VERSION"), "{name}");
        }
    }
}

#[test]
fn of_swap_only_the_header_is_kept() {
    for page in [4096u64, 8192, 16384, 32768, 65536] {
        let bench = Bench::new();
        let image = bench.blank("swap", 8 * MIB);
        run("mkswap", &["-q", "-p", &page.to_string(), &image]);
        let mut bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), page);
        assert!(survey.allocated.contains(0));
        // Hibernation puts its own signature in the place of swap's.
        let at = usize::try_from(page).unwrap() - 10;
        for signature in [b"S1SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"] {
            bytes[at..at + 10].copy_from_slice(signature);
            let survey = survey_bytes(&bytes);
            assert_eq!(survey.allocated.total(), 8 * MIB);
            assert_eq!(survey.detected.unwrap().state, State::Hibernated);
        }
        bytes[at..at + 10].copy_from_slice(b"SWAPSPACE2");
        bytes[..8].copy_from_slice(b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c");
        assert_eq!(survey_bytes(&bytes).allocated.total(), 8 * MIB, "a TuxOnIce image");
    }
}

#[test]
fn two_signatures_are_one_too_many() {
    let bench = Bench::new();
    let image = bench.blank("image", 16 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", &image]);
    let clean = fs::read(&image).unwrap();
    assert!(survey_bytes(&clean).allocated.total() < 8 * MIB);
    let (raid, lvm) = (0xa92b_4efc_u32.to_le_bytes(), b"LABELONE");
    let end = clean.len() - 65536;
    for (name, at, magic) in [
        ("crypto_LUKS", 0, b"LUKS\xba\xbe\0\x02".as_slice()),
        ("linux_raid_member", end, &[&raid[..], &[0, 0, 0, 0, 90, 0, 0, 0]].concat()),
        ("LVM2_member", 512, &[&lvm[..], &[0; 16], b"LVM2 001"].concat()),
        ("btrfs", 65536 + 64, b"_BHRfS_M"),
        ("bcache", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ] {
        let mut bytes = clean.clone();
        bytes[at..at + magic.len()].copy_from_slice(magic);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 16 * MIB, "{name}");
        assert!(survey.widened[0].contains(name) && survey.widened[0].contains("ext4"), "{:?}", survey.widened);
    }
}

#[test]
fn a_file_system_in_a_member_of_a_firmware_raid_is_not_taken_for_a_bare_one() {
    let bench = Bench::new();
    let image = bench.blank("image", 16 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-J", "size=1", &image, "15M"]);
    let clean = fs::read(&image).unwrap();
    assert!(survey_bytes(&clean).allocated.total() < 8 * MIB);
    for (name, back, magic) in [
        ("isw_raid_member", 1024, b"Intel Raid ISM Cfg Sig. 1.0.00".as_slice()),
        ("ddf_raid_member", 512, b"\xde\x11\xde\x11"),
        ("nvidia_raid_member", 1024, b"NVIDIA"),
        ("lsi_mega_raid_member", 512, b"$XIDE$"),
        ("promise_fasttrack_raid_member", 63 * 512, b"Promise Technology, Inc."),
        ("drbd", 4096 - 60, b"\x83\x74\x02\x6b"),
    ] {
        let mut bytes = clean.clone();
        let at = bytes.len() - back;
        bytes[at..at + magic.len()].copy_from_slice(magic);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), 16 * MIB, "{name}");
        assert_eq!(survey.widened, [format!("kept whole: it looks like {name} and also like ext4")]);
    }
}

#[test]
fn nothing_and_noise_are_kept_whole() {
    for bytes in [vec![0; 1 << 20], vec![0xa5; 1 << 20], vec![], vec![1], vec![0; 511]] {
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), bytes.len() as u64);
        assert_eq!(survey.detected, None);
    }
    assert!(all(&MemoryDisk::new(vec![0xff; 1 << 20], SectorSize::B512)).is_empty());
}

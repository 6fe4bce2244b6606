//! Discovery on a sysfs and a procfs made by hand.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    block::Transport,
    units::{GIB, SectorSize},
};

/// A folder with `sys` and `proc` in it, laid out as the kernel does: devices below `sys/devices`, links elsewhere.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for dir in ["sys/block", "sys/class/block", "sys/dev/block", "proc/self"] {
            fs::create_dir_all(tree.0.path().join(dir)).unwrap();
        }
        tree
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots { sys: self.0.path().join("sys"), proc: self.0.path().join("proc") }
    }

    /// Adds a disk of 1 GiB on the device at `device`, a path below `sys`.
    pub(crate) fn disk(&self, name: &str, dev: &str, device: &str) -> &Self {
        let dir = format!("{device}/block/{name}");
        self.set(&format!("{dir}/size"), (GIB / 512).to_string());
        self.announce(name, dev, &dir);
        self.link(&format!("sys/block/{name}"), self.0.path().join("sys").join(&dir));
        if !device.ends_with("virtual") {
            self.link(&format!("sys/{dir}/device"), self.0.path().join("sys").join(device));
        }
        self
    }

    /// Adds a partition to a disk.
    pub(crate) fn partition(&self, disk: &str, name: &str, dev: &str) -> &Self {
        let whole = fs::canonicalize(self.0.path().join("sys/block").join(disk)).unwrap();
        let dir = whole.strip_prefix(fs::canonicalize(self.0.path().join("sys")).unwrap()).unwrap().join(name);
        let dir = dir.to_str().unwrap();
        self.set(&format!("{dir}/partition"), "1");
        self.announce(name, dev, dir)
    }

    fn announce(&self, name: &str, dev: &str, dir: &str) -> &Self {
        self.set(&format!("{dir}/dev"), dev);
        self.link(&format!("sys/class/block/{name}"), self.0.path().join("sys").join(dir));
        self.link(&format!("sys/dev/block/{dev}"), self.0.path().join("sys").join(dir))
    }

    /// Notes that `upper` is made of `lower`, a disk or `disk/partition`.
    pub(crate) fn holder(&self, lower: &str, upper: &str) -> &Self {
        let sys = self.0.path().join("sys");
        let name = lower.rsplit('/').next().unwrap();
        self.link(&format!("sys/block/{lower}/holders/{upper}"), sys.join("block").join(upper));
        self.link(&format!("sys/block/{upper}/slaves/{name}"), sys.join("class/block").join(name))
    }

    /// Writes an attribute, a path below `sys`.
    pub(crate) fn set(&self, path: &str, value: impl AsRef<[u8]>) -> &Self {
        let path = self.0.path().join("sys").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, to: impl AsRef<Path>) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    fn only(&self) -> DiskInfo {
        let [disk] = disks_in(&self.roots()).unwrap().try_into().unwrap();
        disk
    }
}

#[test]
fn a_sata_disk_is_described() {
    let tree = Tree::new();
    let device = "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    tree.disk("sda", "8:0", device)
        .set(&format!("{device}/vendor"), "ATA     \n")
        .set(&format!("{device}/model"), "WDC WD10EZEX-08W\n")
        .set(&format!("{device}/vpd_pg80"), b"\0\x80\0\x14     WD-WCC6Y7LKTJ2K")
        .set(&format!("{device}/wwid"), "naa.50014ee2ba7bd3b3\n")
        .set("block/sda/queue/rotational", "1\n")
        .set("block/sda/queue/logical_block_size", "512\n")
        .set("block/sda/queue/physical_block_size", "4096\n")
        .set("block/sda/removable", "0\n")
        .set("block/sda/ro", "0\n");
    let want = DiskInfo {
        name: "sda".to_owned(),
        identity: Identity {
            path: "/dev/sda".to_owned(),
            model: Some("WDC WD10EZEX-08W".to_owned()),
            serial: Some("WD-WCC6Y7LKTJ2K".to_owned()),
            wwn: Some("naa.50014ee2ba7bd3b3".to_owned()),
            transport: Transport::Ata,
            len: GIB,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B4096,
        },
        class: DiskClass::Disk,
        rotational: true,
        discard: None,
        removable: false,
        read_only: false,
        in_use: Vec::new(),
    };
    assert_eq!(tree.only(), want);
}

#[test]
fn every_kind_of_attachment_is_told_apart() {
    for (name, device, attributes, transport, model, serial, wwn) in [
        (
            "nvme0n1",
            "devices/pci0/nvme/nvme0",
            &[("device/model", "Samsung SSD 980 "), ("device/serial", "S649NX0T "), ("wwid", "eui.0025385a01020304")][..],
            Transport::Nvme,
            Some("Samsung SSD 980"),
            Some("S649NX0T"),
            Some("eui.0025385a01020304"),
        ),
        (
            "nvme1n1",
            "devices/pci0/nvme/nvme1",
            &[("nguid", "00000000-0000-0000-0000-000000000000"), ("eui", "00 25 38 5a 01 02 03 04")],
            Transport::Nvme,
            None,
            None,
            Some("eui.0025385a01020304"),
        ),
        (
            "vda",
            "devices/pci0/virtio1",
            &[("serial", "disk-1"), ("device/vendor", "0x1af4"), ("device/device", "0x0002")],
            Transport::Virtio,
            None,
            Some("disk-1"),
            None,
        ),
        (
            "mmcblk0",
            "devices/platform/mmc_host/mmc0/mmc0:0001",
            &[("device/name", "SD32G"), ("device/serial", "0x1234abcd"), ("device/cid", "035344")],
            Transport::Mmc,
            Some("SD32G"),
            Some("0x1234abcd"),
            None,
        ),
        (
            "sdb",
            "devices/pci0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0",
            &[
                ("device/vendor", "SanDisk "),
                ("device/model", "Ultra Fit"),
                ("device/../../../../idVendor", "0781"),
                ("device/../../../../serial", "4C530001"),
            ],
            Transport::Usb,
            Some("SanDisk Ultra Fit"),
            Some("4C530001"),
            None,
        ),
        (
            "sdc",
            "devices/pci0/host2/port-2:0/end_device-2:0/target2:0:0/2:0:0:0",
            &[("device/vendor", "SEAGATE"), ("device/model", "SEAGATE ST600"), ("device/wwid", "t10.A  B")],
            Transport::Scsi,
            Some("SEAGATE ST600"),
            None,
            Some("t10.A  B"),
        ),
        ("sdd", "devices/pci0/virtio3/host3/target3:0:0/3:0:0:0", &[], Transport::Virtio, None, None, None),
        ("sde", "devices/LNXSYSTM:00/VMBUS:00/x/host1/target1:0:0/1:0:0:0", &[], Transport::Virtual, None, None, None),
        ("xvda", "devices/vbd-768", &[], Transport::Virtual, None, None, None),
    ] {
        let tree = Tree::new();
        tree.disk(name, "8:0", device);
        for (attribute, value) in attributes {
            tree.set(&format!("block/{name}/{attribute}"), value);
        }
        let identity = tree.only().identity;
        assert_eq!(identity.transport, transport, "{name}");
        let strings = (identity.model.as_deref(), identity.serial.as_deref(), identity.wwn.as_deref());
        assert_eq!(strings, (model, serial, wwn), "{name}");
    }
}

#[test]
fn classes_follow_from_names() {
    for (name, class) in [
        ("sda", DiskClass::Disk),
        ("nvme0n1", DiskClass::Disk),
        ("mmcblk0", DiskClass::Disk),
        ("nbd0", DiskClass::Disk),
        ("mmcblk0boot0", DiskClass::BootPartition),
        ("mmcblk0rpmb", DiskClass::BootPartition),
        ("ram0", DiskClass::Ram),
        ("zram0", DiskClass::Ram),
        ("loop12", DiskClass::Loop),
        ("sr0", DiskClass::Optical),
        ("dm-3", DiskClass::Stacked),
        ("md127", DiskClass::Stacked),
        ("md_d0", DiskClass::Stacked),
        ("bcache0", DiskClass::Stacked),
        ("fd0", DiskClass::Other),
        ("mtdblock0", DiskClass::Other),
    ] {
        assert_eq!(class_of(name), class, "{name}");
    }
}

#[test]
fn what_holds_nothing_is_left_out_and_the_rest_is_in_natural_order() {
    let tree = Tree::new();
    for (index, name) in ["sdaa", "sdb", "nvme10n1", "nvme2n1", "loop0", "loop1", "sr0", "nvme0c0n1"].iter().enumerate()
    {
        tree.disk(name, &format!("9:{index}"), &format!("devices/pci0/{index}"));
    }
    tree.set("block/loop1/loop/backing_file", "/a/file");
    tree.set("block/sr0/size", "0");
    tree.set("block/nvme0c0n1/hidden", "1");
    let names: Vec<_> = disks_in(&tree.roots()).unwrap().into_iter().map(|disk| disk.name).collect();
    assert_eq!(names, ["loop1", "nvme2n1", "nvme10n1", "sdb", "sdaa"]);
}

#[test]
fn volumes_are_partitions_and_disks_without_any() {
    let tree = Tree::new();
    for (index, name) in
        ["sda", "sdb", "dm-0", "ram0", "loop0", "loop1", "sr0", "nvme0c0n1", "cciss!c0d0"].iter().enumerate()
    {
        tree.disk(name, &format!("9:{index}"), &format!("devices/pci0/{index}"));
    }
    tree.set("block/nvme0c0n1/hidden", "1");
    tree.partition("sda", "sda10", "8:10").partition("sda", "sda2", "8:2").partition("loop1", "loop1p1", "259:0");
    let volumes = volumes_in(&tree.roots());
    let got: Vec<_> = volumes.iter().map(|one| (one.path.to_str().unwrap(), one.disk.as_str())).collect();
    let want = [
        ("/dev/cciss/c0d0", "cciss!c0d0"),
        ("/dev/dm-0", "dm-0"),
        ("/dev/loop1p1", "loop1"),
        ("/dev/sda2", "sda"),
        ("/dev/sda10", "sda"),
        ("/dev/sdb", "sdb"),
    ];
    assert_eq!(got, want);
}

#[test]
fn the_fingerprint_follows_disks_and_media() {
    let tree = Tree::new();
    let mut seen = vec![fingerprint_in(&tree.roots())];
    let mut another = |what: &str| {
        let now = fingerprint_in(&tree.roots());
        assert!(!seen.contains(&now), "{what} is not seen");
        assert_eq!(fingerprint_in(&tree.roots()), now, "it stays the same while nothing happens");
        seen.push(now);
    };
    tree.disk("sda", "8:0", "devices/pci0/0").set("block/sda/diskseq", "4");
    another("a disk");
    tree.set("block/sda/diskseq", "5");
    another("another disk of the same name and size");
    tree.set("block/sda/size", "0");
    another("a medium taken out");
    tree.disk("sr0", "11:0", "devices/pci0/1");
    another("a second disk");
    std::fs::remove_file(tree.roots().sys.join("block/sda")).unwrap();
    another("a disk that is gone");
}

#[test]
fn uses_of_a_disk_and_its_parts_are_found() {
    let tree = Tree::new();
    tree.disk("sda", "8:0", "devices/pci0/ata1/host0/target0/0:0:0:0");
    for number in 1..=5 {
        tree.partition("sda", &format!("sda{number}"), &format!("8:{number}"));
    }
    tree.disk("dm-0", "253:0", "devices/virtual").set("block/dm-0/dm/name", "vg-root\n").set("block/dm-0/ro", "0\n");
    tree.disk("md0", "9:0", "devices/virtual").set("block/md0/ro", "1\n");
    tree.disk("loop0", "7:0", "devices/virtual").set("block/loop0/loop/backing_file", "/dev/sda5\n");
    tree.holder("sda/sda3", "dm-0").holder("sda/sda4", "md0");
    tree.set(
        "../proc/self/mountinfo",
        "20 1 8:1 / /boot\\040x rw - vfat /dev/sda1 ro\n\
         21 1 0:40 /@ / rw - btrfs /dev/sda2 rw\n\
         22 1 0:40 /@home /home rw - btrfs /dev/sda2 rw\n\
         23 1 8:17 / /other rw - ext4 /dev/sdb1 rw\n",
    );
    // What the first process sees counts as well, but once.
    tree.set("../proc/1/mountinfo", "21 1 0:40 /@ / rw - btrfs /dev/sda2 rw\n90 1 8:1 / /mnt rw - vfat /dev/sda1 ro\n");
    tree.set(
        "../proc/swaps",
        "Filename Type Size Used Priority\n/dev/sda4 partition 1000 0 -2\n/swapfile file 1 0 -3\n",
    );
    let disks = disks_in(&tree.roots()).unwrap();
    let uses: Vec<_> = disks
        .iter()
        .find(|disk| disk.name == "sda")
        .unwrap()
        .in_use
        .iter()
        .map(|one| (one.part.as_str(), one.by.as_str(), one.writes))
        .collect();
    let want = [
        ("sda1", "mounted at /boot x", false),
        ("sda1", "mounted at /mnt", false),
        ("sda2", "mounted at /", true),
        ("sda2", "mounted at /home", true),
        ("sda3", "dm-0 (vg-root)", true),
        ("sda4", "swap", true),
        ("sda4", "md0", false),
        ("sda5", "loop0", true),
    ];
    assert_eq!(uses, want);
}

#[test]
fn every_device_of_a_btrfs_is_in_use() {
    let tree = Tree::new();
    tree.disk("sda", "8:0", "devices/pci0/0").disk("sdb", "8:16", "devices/pci0/1").disk(
        "sdc",
        "8:32",
        "devices/pci0/2",
    );
    for member in ["sda", "sdc"] {
        tree.link(&format!("sys/fs/btrfs/1c3f/devices/{member}"), tree.roots().sys.join("block").join(member));
    }
    tree.set("../proc/self/mountinfo", "21 1 0:40 / /data rw - btrfs /dev/sda rw\n");
    let used: Vec<_> =
        disks_in(&tree.roots()).unwrap().into_iter().map(|disk| (disk.name, !disk.in_use.is_empty())).collect();
    let want = [("sda", true), ("sdb", false), ("sdc", true)].map(|(name, used)| (name.to_owned(), used));
    assert_eq!(used, want);
}

#[test]
fn attributes_that_make_no_sense_do_no_harm() {
    let tree = Tree::new();
    tree.disk("sda", "8:0", "devices/pci0/0");
    for (attribute, value) in [
        ("size", &b"18446744073709551615"[..]),
        ("size", b"-1"),
        ("size", b"\xff\xfe"),
        ("size", b""),
        ("dev", b"8"),
        ("dev", b"a:b"),
    ] {
        tree.set(&format!("block/sda/{attribute}"), value);
        assert_eq!(disks_in(&tree.roots()).unwrap(), [], "{attribute} {value:?}");
    }
    tree.set("block/sda/dev", "8:0").set("block/sda/size", "8");
    tree.set("block/sda/queue/logical_block_size", "520").set("block/sda/device/model", b"\xffbad\x1b[2J\n");
    let disk = tree.only();
    assert_eq!((disk.identity.len, disk.identity.sector_size), (4096, SectorSize::B512));
    assert_eq!(disk.identity.model.as_deref(), Some("\u{fffd}bad\u{1b}[2J"), "raw here, escaped where it is shown");
}

#[test]
fn without_a_sysfs_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots { sys: dir.path().to_owned(), proc: dir.path().to_owned() };
    assert!(matches!(disks_in(&roots), Err(Error::Open { action: "listing", .. })));
}

#[test]
fn the_machine_at_hand_can_be_listed() {
    for disk in disks().unwrap() {
        assert!(disk.identity.len > 0 && disk.identity.path.starts_with("/dev/"), "{disk:?}");
    }
}

#[test]
fn discards_are_as_the_kernel_says() {
    let said = |most: &str, granularity: &str, rotational: &str, sector: &str| {
        let tree = Tree::new();
        tree.disk("sda", "8:0", "devices/pci0/0")
            .set("block/sda/queue/discard_max_bytes", most)
            .set("block/sda/queue/discard_granularity", granularity)
            .set("block/sda/queue/rotational", rotational)
            .set("block/sda/queue/logical_block_size", sector);
        tree.only().discard
    };
    let some = |granularity, solid_state| Some(Discard { granularity, solid_state });
    assert_eq!(said("0\n", "512\n", "0\n", "512\n"), None);
    assert_eq!(said("", "", "", "512"), None);
    assert_eq!(said("2147450880", "4096", "0", "512"), some(4096, true));
    assert_eq!(said("2147450880", "0", "1", "4096"), some(4096, false));
    assert_eq!(said("1", "5000", "", "512"), some(5120, false));
    assert_eq!(said("1", "18446744073709551615", "0", "512"), None);
}

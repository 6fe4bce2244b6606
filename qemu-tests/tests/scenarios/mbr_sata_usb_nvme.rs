//! An MBR disk with logical partitions on SATA, captured into a store on a FAT32 stick, restored onto a larger NVMe disk.

use qemu_tests::{
    MIB, Result,
    disk::{self, DiskBuilder, Holds},
    ensure, noise,
    tools::{run, sha256, tool},
    vm::{Bus, Drive, Work},
};

use crate::common;

#[test]
fn an_mbr_disk_with_logical_partitions_moves_from_sata_to_nvme() -> Result<()> {
    let work = Work::new("mbr-sata-usb-nvme")?;
    let (plain, unix) = common::trees(&work, 20 * MIB)?;
    let fat = Holds::Fat { bits: 16, label: "DATA".to_owned(), tree: Some(plain) };
    let ext3 =
        Holds::Ext { kind: "ext3", label: "home".to_owned(), tree: Some(unix.clone()), deleted: vec!["/plain".into()] };
    let disk = DiskBuilder::mbr(300 * MIB).ext4("root", 100 * MIB, &unix);
    let disk =
        disk.logical(24 * MIB, fat).logical(100 * MIB, ext3).logical(16 * MIB, Holds::Swap { label: "s".to_owned() });
    let source = disk.build(&work.path("source"))?;
    // Boot code is no part of the table and is restored all the same.
    noise::noise_at(&source.path, 0, 440, 5)?;
    noise::noise_at(&source.path, 512, 60 * 512, 6)?;
    let (stick, target) = (work.path("stick"), work.path("target"));
    disk::store_disk(&stick, 300 * MIB, "vfat", "STICK")?;
    noise::noise_file(&target, 333 * MIB, 2)?;
    let before = sha256(&source.path)?;

    let stick = || Drive::new(Bus::Usb, &stick, "STICK-1");
    let from = Drive::new(Bus::Sata, &source.path, "SATA-1");
    let words = "rescue.disk=serial:SATA-1 rescue.store=label:STICK:/rescue rescue.level=1";
    let captured = common::capture(&work, from, stick(), words)?;
    ensure!(sha256(&source.path)? == before, "the source was written to");
    let onto = Drive::new(Bus::Nvme, &target, "NVME-1");
    let words = "rescue.disk=serial:NVME-1 rescue.store=label:STICK:/rescue rescue.image=latest";
    common::restore(&work, onto, stick(), words)?;

    let manifest = common::only_image(&work.path("stick"), "vfat")?;
    common::equal(&source, &target, &manifest, &captured)?;
    let listed = |disk| {
        run(tool("sfdisk").arg("-d").arg(disk)).map(|text| text.replace(&work.path("").display().to_string(), ""))
    };
    let (want, found) = (listed(&source.path)?.replace("source", "X"), listed(&target)?.replace("target", "X"));
    ensure!(want == found, "sfdisk reads another table:\n{found}\nmust be\n{want}");
    work.finish()
}

//! A store is found by its label on every file system the kernel can mount, and what was captured is there after a boot.

use qemu_tests::{
    MIB, Result,
    disk::{self, DiskBuilder},
    ensure, noise,
    vm::{Bus, Drive, Machine, Work},
};

use crate::common;

/// Captures a small disk into a store on a file system of this kind, and verifies it in another boot.
fn store_on(kind: &str, len: u64) -> Result<()> {
    let work = Work::new(&format!("store-{kind}"))?;
    let (_, unix) = common::trees(&work, 4 * MIB)?;
    let source = DiskBuilder::gpt(64 * MIB).ext4("root", 40 * MIB, &unix).build(&work.path("source"))?;
    let store = work.path("store");
    disk::store_disk(&store, len, kind, "BACKUP")?;
    // A disk of noise beside it: nothing is looked for in it, and nothing is found.
    noise::noise_file(&work.path("other"), 8 * MIB, 4)?;

    let drive = || Drive::new(Bus::Virtio, &store, "STO-1");
    let from = Drive::new(Bus::Virtio, &source.path, "SRC-1").read_only();
    let captured =
        common::capture(&work, from, drive(), "rescue.disk=serial:SRC-1 rescue.store=label:BACKUP:/a/store")?;
    let machine =
        Machine::new(&work, "verify").drive(Drive::new(Bus::Virtio, &work.path("other"), "OTHER")).drive(drive());
    let words = "rescue.job=verify rescue.store=label:BACKUP:/a/store rescue.image=latest";
    let verified = machine.job(words).boot()?.wait_power_off()?.complete()?;
    ensure!(verified.image == captured.image, "{:?} was verified, {:?} captured", verified.image, captured.image);
    work.finish()
}

#[test]
fn a_store_on_xfs_is_found_by_its_label() -> Result<()> {
    store_on("xfs", 400 * MIB)
}

#[test]
fn a_store_on_btrfs_is_found_by_its_label() -> Result<()> {
    store_on("btrfs", 200 * MIB)
}

#[test]
fn a_store_on_exfat_is_found_by_its_label() -> Result<()> {
    store_on("exfat", 100 * MIB)
}

#[test]
fn a_store_on_ntfs_is_found_by_its_label() -> Result<()> {
    store_on("ntfs", 100 * MIB)
}

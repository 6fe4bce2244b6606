//! A GPT disk of 4096-byte sectors, restored onto a larger one: the backup table goes to the new end.

use qemu_tests::{
    MIB, Result,
    disk::{self, DiskBuilder},
    ensure, noise,
    tools::{run, sha256, tool},
    vm::{Bus, Drive, Work},
};

use crate::common;

/// Captures a GPT disk with sectors of `sector` bytes on virtio and restores it onto a larger NVMe disk.
fn onto_a_larger_disk(name: &str, sector: u64) -> Result<()> {
    let work = Work::new(name)?;
    let (plain, unix) = common::trees(&work, 16 * MIB)?;
    let disk = DiskBuilder::gpt(220 * MIB).sector(sector).esp(48 * MIB, &plain).ext4("root", 120 * MIB, &unix);
    let source = disk.swap(16 * MIB).build(&work.path("source"))?;
    let (store, target) = (work.path("store"), work.path("target"));
    disk::store_disk(&store, 200 * MIB, "ext4", "STORE")?;
    noise::noise_file(&target, 271 * MIB, 3)?;
    let before = sha256(&source.path)?;

    let store_drive = || Drive::new(Bus::Virtio, &store, "STO-1");
    let from = Drive::new(Bus::Virtio, &source.path, "SRC-1").sector(sector);
    let words = "rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue rescue.level=1";
    let captured = common::capture(&work, from, store_drive(), words)?;
    ensure!(sha256(&source.path)? == before, "the source was written to");
    let onto = Drive::new(Bus::Nvme, &target, "NVME-1").sector(sector);
    let words = "rescue.disk=serial:NVME-1 rescue.store=label:STORE:/rescue rescue.image=latest";
    common::restore(&work, onto, store_drive(), words)?;

    let manifest = common::only_image(&store, "ext4")?;
    common::equal(&source, &target, &manifest, &captured)?;
    if sector == 512 {
        let said = run(tool("sgdisk").arg("-v").arg(&target))?;
        ensure!(said.contains("No problems found"), "sgdisk -v: {said}");
    }
    work.finish()
}

#[test]
fn a_gpt_of_512_byte_sectors_moves_to_a_larger_disk() -> Result<()> {
    onto_a_larger_disk("larger-512", 512)
}

#[test]
fn a_gpt_of_4096_byte_sectors_moves_to_a_larger_disk() -> Result<()> {
    onto_a_larger_disk("larger-4096", 4096)
}

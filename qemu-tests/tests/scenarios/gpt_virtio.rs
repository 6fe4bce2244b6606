//! A GPT disk with ESP, ext4 and swap on virtio, captured into a store on ext4, restored onto a disk of the same size.

use qemu_tests::{
    MIB, Result,
    disk::{self, DiskBuilder},
    ensure, noise,
    tools::{run, sha256, tool},
    vm::{Bus, Drive, Work},
};

use crate::common;

#[test]
fn a_gpt_disk_on_virtio_is_captured_and_restored() -> Result<()> {
    let work = Work::new("gpt-virtio")?;
    let (plain, unix) = common::trees(&work, 30 * MIB)?;
    let disk = DiskBuilder::gpt(320 * MIB).esp(48 * MIB, &plain).ext4("root", 200 * MIB, &unix).swap(32 * MIB);
    let source = disk.build(&work.path("source"))?;
    let (store, target) = (work.path("store"), work.path("target"));
    disk::store_disk(&store, 256 * MIB, "ext4", "STORE")?;
    noise::noise_file(&target, source.len, 1)?;
    let before = sha256(&source.path)?;

    let drive = |path, serial| Drive::new(Bus::Virtio, path, serial);
    let from = drive(&source.path, "SRC-1").read_only();
    let captured = common::capture(
        &work,
        from,
        drive(&store, "STO-1"),
        "rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue rescue.level=1",
    )?;
    ensure!(sha256(&source.path)? == before, "the source was written to");
    common::restore(
        &work,
        drive(&target, "TGT-1"),
        drive(&store, "STO-1"),
        "rescue.disk=serial:TGT-1 rescue.store=label:STORE:/rescue rescue.image=latest",
    )?;

    let manifest = common::only_image(&store, "ext4")?;
    common::equal(&source, &target, &manifest, &captured)?;
    let said = run(tool("sgdisk").arg("-v").arg(&target))?;
    ensure!(said.contains("No problems found"), "sgdisk -v: {said}");
    work.finish()
}

//! A job that names no disk, or two, is refused, and nothing is written.

use qemu_tests::{
    MIB, Result,
    disk::{self, DiskBuilder},
    ensure, extract, noise,
    tools::sha256,
    vm::{Bus, Drive, Machine, Work},
};

use crate::common;

#[test]
fn a_disk_that_is_not_there_is_refused_and_nothing_is_written() -> Result<()> {
    let work = Work::new("identity-missing")?;
    let (source, store) = (work.path("source"), work.path("store"));
    noise::noise_file(&source, 32 * MIB, 1)?;
    disk::store_disk(&store, 64 * MIB, "ext4", "STORE")?;
    let before = sha256(&source)?;

    let machine = Machine::new(&work, "capture")
        .drive(Drive::new(Bus::Virtio, &source, "SRC-10"))
        .drive(Drive::new(Bus::Virtio, &store, "STO-1"))
        // The serial of no disk, though the beginning of one.
        .job("rescue.job=capture rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue rescue.wait=3");
    let reason = machine.boot()?.wait_power_off()?.refusal()?;

    ensure!(reason.contains("SRC-1"), "the refusal does not name what was looked for: {reason}");
    ensure!(sha256(&source)? == before, "the disk was written to");
    ensure!(!extract::ext_has(&store, "/rescue")?, "a store was made");
    work.finish()
}

#[test]
fn two_disks_with_one_serial_are_refused_and_neither_is_written() -> Result<()> {
    let work = Work::new("identity-twice")?;
    let (_, unix) = common::trees(&work, 4 * MIB)?;
    let source = DiskBuilder::gpt(64 * MIB).ext4("root", 40 * MIB, &unix).build(&work.path("source"))?;
    let store = work.path("store");
    disk::store_disk(&store, 64 * MIB, "ext4", "STORE")?;
    let words = "rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue";
    let drive = |path, serial| Drive::new(Bus::Virtio, path, serial);
    common::capture(&work, drive(&source.path, "SRC-1"), drive(&store, "STO-1"), words)?;

    let targets = [work.path("one"), work.path("other")];
    for target in &targets {
        noise::noise_file(target, 64 * MIB, 9)?;
    }
    let before = sha256(&targets[0])?;
    let machine = Machine::new(&work, "restore").drive(drive(&store, "STO-1"));
    let machine = targets.iter().fold(machine, |machine, target| machine.drive(drive(target, "SAME-1")));
    let words = "rescue.disk=serial:SAME-1 rescue.store=label:STORE:/rescue rescue.image=latest rescue.wait=3";
    let reason = machine.job(&format!("rescue.job=restore {words}")).boot()?.wait_power_off()?.refusal()?;

    ensure!(reason.contains("SAME-1"), "the refusal does not name what was looked for: {reason}");
    for target in &targets {
        ensure!(sha256(target)? == before, "{} was written to", target.display());
    }
    work.finish()
}

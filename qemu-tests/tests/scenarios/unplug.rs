//! The source is pulled out in mid-capture, and then reads as end of file: FAILED, and no image.

use std::time::Duration;

use qemu_tests::{
    MIB, Result,
    disk::{self, DiskBuilder},
    ensure, extract,
    vm::{Bus, Drive, MINUTE, Machine, Work},
};
use rescue::job::Outcome;

use crate::common;

#[test]
fn a_source_unplugged_in_mid_capture_fails_and_leaves_no_image() -> Result<()> {
    let work = Work::new("unplug")?;
    let (_, unix) = common::trees(&work, 80 * MIB)?;
    let source = DiskBuilder::gpt(200 * MIB).ext4("root", 160 * MIB, &unix).build(&work.path("source"))?;
    let store = work.path("store");
    disk::store_disk(&store, 200 * MIB, "ext4", "STORE")?;

    let mut vm = Machine::new(&work, "capture")
        .drive(Drive::new(Bus::Virtio, &source.path, "SRC-1").throttle(4 * MIB))
        .drive(Drive::new(Bus::Sata, &store, "STO-1"))
        .job("rescue.job=capture rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue rescue.level=1")
        .boot()?;
    vm.wait_for("the middle of the capture", 2 * MINUTE, |vm| {
        let report = vm.report();
        let done = report.events("progress").filter(|line| line["phase"] == "capturing");
        done.filter_map(|line| line["done"].as_u64()).any(|done| done > 8 * MIB).then_some(())
    })?;
    vm.unplug(0)?;
    vm.wait_for("the result", Duration::from_secs(60), |vm| vm.report().ended().then_some(()))?;
    let report = vm.wait_power_off()?.result()?;

    ensure!(report.outcome == Outcome::Failed, "the job ended as {}", report.outcome);
    ensure!(report.error.is_some(), "the report says nothing of why");
    let images = extract::manifests(&store, "ext4", "/rescue")?;
    ensure!(images.is_empty(), "the store holds an image of a disk that was pulled out: {}", images[0].id);
    work.finish()
}

//! The video console shows the disks: a picture of it is left in `out/tui.png`.

use std::{fs, thread, time::Duration};

use qemu_tests::{
    At as _, MIB, Result,
    disk::{self, DiskBuilder},
    ensure,
    vm::{Bus, Drive, MINUTE, Machine, Work},
    workspace,
};

use crate::common;

#[test]
fn the_video_console_shows_the_disks() -> Result<()> {
    let work = Work::new("screenshot")?;
    let (plain, unix) = common::trees(&work, 60 * MIB)?;
    let disk = DiskBuilder::gpt(960 * MIB).esp(64 * MIB, &plain).ext4("root", 560 * MIB, &unix).swap(128 * MIB);
    let source = disk.build(&work.path("source"))?;
    let stick = work.path("stick");
    disk::store_disk(&stick, 2000 * MIB, "ext4", "BACKUP")?;
    let empty = work.path("empty");
    fs::File::create(&empty).and_then(|file| file.set_len(1920 * MIB)).at(&empty)?;

    let mut vm = Machine::new(&work, "video")
        .drive(Drive::new(Bus::Nvme, &source.path, "S6B1NS0W-7041"))
        .drive(Drive::new(Bus::Sata, &empty, "WD-WX52A31K"))
        .drive(Drive::new(Bus::Usb, &stick, "0951-1666"))
        .limit(5 * MINUTE)
        .boot()?;
    // Both consoles show the same; what the serial one says can be read.
    vm.expect_text("0951-1666", 2 * MINUTE)?;
    vm.wait_for("what is used to be counted", MINUTE, |vm| (!vm.text().contains("counting")).then_some(()))?;
    thread::sleep(Duration::from_secs(3));
    let picture = workspace().join("out").join("tui.png");
    vm.screenshot(&picture)?;
    let bytes = fs::read(&picture).at(&picture)?;
    ensure!(bytes.starts_with(b"\x89PNG"), "{} is no PNG", picture.display());
    // One colour all over compresses to next to nothing.
    ensure!(bytes.len() > 4000, "{} shows nothing", picture.display());
    drop(vm);
    work.finish()
}

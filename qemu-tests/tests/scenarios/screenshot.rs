//! The video console shows the disks: a picture of it is left in `out/tui.png`.

use std::{fs, path::PathBuf, thread, time::Duration};

use qemu_tests::{
    At as _, MIB, Result,
    disk::{self, DiskBuilder, Holds, ext4},
    ensure, noise,
    vm::{Bus, Drive, MINUTE, Machine, Work},
    workspace,
};

/// Makes a folder with one file of `len` bytes.
fn folder(work: &Work, name: &str, len: u64) -> Result<PathBuf> {
    let path = work.path(name);
    fs::create_dir(&path).at(&path)?;
    noise::noise_file(&path.join("file"), len, len)?;
    Ok(path)
}

#[test]
fn the_video_console_shows_the_disks() -> Result<()> {
    let work = Work::new("screenshot")?;
    let system = folder(&work, "system", 410 * MIB)?;
    let disk = DiskBuilder::gpt(960 * MIB).esp(96 * MIB, &folder(&work, "esp", 38 * MIB)?);
    let system = disk.ext4("root", 680 * MIB, &system).swap(180 * MIB).build(&work.path("system.img"))?;
    let data = folder(&work, "data", 330 * MIB)?;
    let disk = DiskBuilder::mbr(1920 * MIB).ext4("home", 1100 * MIB, &data);
    let fat = Holds::Fat { bits: 32, label: "SHARED".to_owned(), tree: Some(folder(&work, "shared", 90 * MIB)?) };
    let data = disk.logical(220 * MIB, fat).logical(500 * MIB, ext4("photos", &data)).build(&work.path("data.img"))?;
    let stick = work.path("stick");
    disk::store_disk(&stick, 2000 * MIB, "ext4", "BACKUP")?;

    let mut vm = Machine::new(&work, "video")
        .drive(Drive::new(Bus::Nvme, &system.path, "S6B1NS0W-7041"))
        .drive(Drive::new(Bus::Sata, &data.path, "WD-WX52A31K"))
        .drive(Drive::new(Bus::Usb, &stick, "0951-1666"))
        .limit(5 * MINUTE)
        .boot()?;
    // Both consoles show the same; what the serial one says can be read.
    vm.expect_text("0951-1666", 2 * MINUTE)?;
    vm.wait_for("what is used to be counted", MINUTE, |vm| (!vm.text().contains('▒')).then_some(()))?;
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

//! What several scenarios do.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use qemu_tests::{
    At as _, MIB, Result, built,
    compare::{Equal, compare},
    disk::TestDisk,
    ensure, extract, tree,
    vm::{Drive, Machine, Work},
};
use rescue::{job::Report, store::manifest::Manifest};

/// Returns a command of the built program, run on the host.
pub fn rescue(words: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new(built("rescue"));
    command.args(words).args(paths).stdin(Stdio::null());
    command
}

/// Makes a folder of plain files, and one with what only Unix file systems hold besides.
pub fn trees(work: &Work, bytes: u64) -> Result<(PathBuf, PathBuf)> {
    let (plain, unix) = (work.path("plain"), work.path("unix"));
    for (path, bytes) in [(&plain, 2 * MIB), (&unix, bytes)] {
        std::fs::create_dir(path).at(path)?;
        tree::plant(path, bytes, bytes)?;
    }
    tree::plant_unix(&unix)?;
    Ok((plain, unix))
}

/// Boots a machine with a disk and a store for an unattended capture, which must be COMPLETE.
pub fn capture(work: &Work, disk: Drive, store: Drive, words: &str) -> Result<Report> {
    let machine = Machine::new(work, "capture").drive(disk).drive(store);
    machine.job(&format!("rescue.job=capture {words}")).boot()?.wait_power_off()?.complete()
}

/// Boots a machine with a store and a disk for an unattended restore, which must be COMPLETE.
pub fn restore(work: &Work, disk: Drive, store: Drive, words: &str) -> Result<Report> {
    let machine = Machine::new(work, "restore").drive(store).drive(disk);
    machine.job(&format!("rescue.job=restore {words}")).boot()?.wait_power_off()?.complete()
}

/// Returns the one image of a store.
pub fn only_image(store: &Path, kind: &str) -> Result<Manifest> {
    let mut images = extract::manifests(store, kind, "/rescue")?;
    ensure!(images.len() == 1, "the store holds {} images, must be 1", images.len());
    Ok(images.remove(0))
}

/// Compares source and target through the one image of the store, and what the report says with what was found.
pub fn equal(source: &TestDisk, target: &Path, manifest: &Manifest, report: &Report) -> Result<Equal> {
    ensure!(report.image.as_ref() == Some(&manifest.id), "the report names image {:?}", report.image);
    let equal = compare(source, target, manifest)?;
    let unused = source.len - equal.used_bytes;
    // A map that keeps everything would pass every comparison.
    ensure!(equal.extent_bytes < source.len - unused / 2, "the image keeps {} of {}", equal.extent_bytes, source.len);
    Ok(equal)
}

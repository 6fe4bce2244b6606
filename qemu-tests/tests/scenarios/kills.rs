//! A capture killed at random moments, twenty times in a row: no finished image is lost, and the next run succeeds.
//!
//! The program that goes into the initramfs runs here on the host, on files, where a kill takes effect at any instruction.

use std::{
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use qemu_tests::{
    At as _, MIB, Result,
    compare::compare,
    disk::{DiskBuilder, TestDisk},
    ensure, extract,
    noise::{self, Noise},
    tools::run,
    tree,
    vm::Work,
};

use crate::common::{self, rescue};

const KILLS: u32 = 20;

/// Restores an image onto noise and compares the result with the disk it was made of.
fn restorable(work: &Work, store: &Path, id: &str, source: &TestDisk) -> Result<()> {
    let target = work.path("target");
    noise::noise_file(&target, source.len, 8)?;
    run(rescue(&["restore", "--yes"], &[store, Path::new(id), &target]).arg("--json"))?;
    let manifest = extract::manifest(&store.join("images").join(format!("{id}.json.zst")))?;
    compare(source, &target, &manifest).map(drop)
}

fn images(store: &Path) -> Result<Vec<String>> {
    let text = run(&mut rescue(&["images", "--json"], &[store]))?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&text)
        .map_err(|error| qemu_tests::Error::Wrong(format!("images --json: {error} in {text}")))?;
    Ok(list.iter().filter_map(|image| image["id"].as_str()).map(str::to_owned).collect())
}

#[test]
fn a_capture_killed_twenty_times_loses_no_image_and_then_succeeds() -> Result<()> {
    let work = Work::new("kills")?;
    let store = work.path("store");
    let (_, unix) = common::trees(&work, 6 * MIB)?;
    let first = DiskBuilder::gpt(48 * MIB).ext4("first", 40 * MIB, &unix).build(&work.path("first"))?;
    run(&mut rescue(&["capture", "--json"], &[&first.path, &store]))?;
    let kept = images(&store)?;
    ensure!(kept.len() == 1, "one capture made {} images", kept.len());

    // A second disk, with content the store has not seen: there is something to write until the end.
    let more = work.path("more");
    std::fs::create_dir(&more).at(&more)?;
    tree::plant(&more, 40 * MIB, 77)?;
    let second = DiskBuilder::gpt(80 * MIB).ext4("second", 70 * MIB, &more).build(&work.path("second"))?;
    let began = Instant::now();
    run(&mut rescue(&["capture", "--json"], &[&second.path, &work.path("other store")]))?;
    let mut whole = began.elapsed();

    let mut noise = Noise::new(20);
    for kill in 0..KILLS {
        let mut child = rescue(&["capture", "--json"], &[&second.path, &store]);
        let began = Instant::now();
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().at("rescue")?;
        let at = whole * u32::try_from(noise.below(1000)).unwrap_or(0) / 1000;
        thread::sleep(at.max(Duration::from_millis(1)));
        // What earlier kills left is found and skipped, so that runs grow shorter: later kills come earlier.
        if child.try_wait().at("rescue")?.is_some() {
            whole = whole.min(began.elapsed()) * 3 / 4;
        }
        child.kill().at("rescue")?;
        child.wait().at("rescue")?;
        let all = images(&store)?;
        ensure!(all.contains(&kept[0]), "kill {kill}, {at:?} into the capture: the first image is gone");
        // The first image each time, and one of those that were finished before their kill.
        let finished: Vec<&String> = all.iter().filter(|id| **id != kept[0]).collect();
        let one = finished.get(usize::try_from(noise.below(20)).unwrap_or(0) % finished.len().max(1));
        for (id, source) in [(&kept[0], &first)].into_iter().chain(one.map(|id| (*id, &second))) {
            restorable(&work, &store, id, source).map_err(|error| {
                qemu_tests::Error::Wrong(format!("after kill {kill}, {at:?} into the capture, image {id}: {error}"))
            })?;
        }
    }
    let before = images(&store)?;
    ensure!(before.contains(&kept[0]), "the first image is gone");
    run(&mut rescue(&["capture", "--json"], &[&second.path, &store]))?;
    let after = images(&store)?;
    let new: Vec<&String> = after.iter().filter(|id| !before.contains(id)).collect();
    ensure!(new.len() == 1, "the last capture made {} images", new.len());
    restorable(&work, &store, new[0], &second)?;
    run(&mut rescue(&["verify", "--json"], &[&store]))?;
    work.finish()
}

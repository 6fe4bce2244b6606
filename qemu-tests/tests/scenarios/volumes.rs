//! What the scenarios about file systems share: volumes captured, restored onto noise and looked at from all sides.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use qemu_tests::{
    At as _, Error, MIB, Result, ensure, extract,
    guest::{Guest, orders::Answer},
    noise,
    tools::run,
    vm::Work,
    volume::{Kind, Recipe, check},
};
use rescue::{
    job::{Outcome, Report},
    store::manifest::RegionImage,
};

use crate::common::rescue;

/// The first process of the helper guest.
const PROGRAM: &str = env!("CARGO_BIN_EXE_guest");

/// Tells whether the long form of the scenarios was asked for.
pub fn full() -> bool {
    std::env::var_os("RESCUE_FULL").is_some_and(|value| value == "1")
}

/// Prepares a helper guest.
pub fn guest<'a>(work: &'a Work, name: &str) -> Guest<'a> {
    Guest::new(work, name, Path::new(PROGRAM))
}

/// Where the file of a volume is, and where it is restored to.
pub fn paths(work: &Work, recipe: &Recipe) -> (PathBuf, PathBuf) {
    (work.path(&format!("{}.source", recipe.name)), work.path(&format!("{}.restored", recipe.name)))
}

/// Captures a volume and restores it onto noise; returns what the image says of it.
pub fn onto_noise(work: &Work, recipe: &Recipe) -> Result<RegionImage> {
    let (source, target) = paths(work, recipe);
    file_onto_noise(work, &source, &target, recipe.sector)
}

/// Captures the file of a disk without a table and restores it onto noise; returns what the image says of it.
pub fn file_onto_noise(work: &Work, source: &Path, target: &Path, sector: u64) -> Result<RegionImage> {
    let (store, sector) = (work.path("store"), sector.to_string());
    let len = source.metadata().at(source)?.len();
    let before = modified(source)?;
    let words = ["capture", "--json", "--level", "1", "--sector-size", sector.as_str()];
    let captured = report(&words, &[source, &store])?;
    ensure!(modified(source)? == before, "the source was written to");
    let id = captured.image.unwrap_or_default();
    noise::noise_file(target, len, len)?;
    report(&["restore", "--json", "--yes", "--sector-size", &sector], &[&store, Path::new(&id), target])?;
    let mut image = extract::manifest(&store.join("images").join(format!("{id}.json.zst")))?;
    ensure!(image.regions.len() == 1, "a volume without a table has {} regions", image.regions.len());
    Ok(image.regions.remove(0))
}

fn report(words: &[&str], paths: &[&Path]) -> Result<Report> {
    let text = run(&mut rescue(words, paths))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|error| Error::Wrong(format!("{words:?}: {error} in {text}")))?;
    ensure!(report.outcome == Outcome::Complete, "{words:?} ended as {}: {text}", report.outcome);
    Ok(report)
}

fn modified(path: &Path) -> Result<SystemTime> {
    path.metadata().and_then(|meta| meta.modified()).at(path)
}

/// Demands that the checker says of the restored volume what it says of its source, and that it is clean if it must be.
pub fn same_verdict(kind: Kind, source: &Path, target: &Path, clean: bool) -> Result<()> {
    let (want, found) = (check(kind, source)?, check(kind, target)?);
    ensure!(want.agrees(&found), "the checker says\n{}\nof the source it said\n{}", found.shown(), want.shown());
    ensure!(!clean || want.clean, "the checker finds fault with both\n{}", want.shown());
    Ok(())
}

/// Demands that what is read keeps little of what is free, and what is not read is known by name and kept whole.
pub fn map_fits(recipe: &Recipe, image: &RegionImage, filled: &Answer) -> Result<()> {
    let (kept, len) = (image.allocated.total(), recipe.len());
    if !recipe.kind.read {
        ensure!(kept == len, "{kept} of {len} bytes are kept: is {} read now? Say so in its Kind", recipe.kind.name);
        return Ok(());
    }
    ensure!(image.widened.is_empty(), "more was kept than needed: {:?}", image.widened);
    // Drivers count what is free in their own ways, and cannot give away all of it.
    let most = len - filled.free + len / 50 + MIB / 2;
    ensure!(kept <= most, "{kept} of {len} bytes are kept, must be {most} at the most: {} are free", filled.free);
    Ok(())
}

/// Runs something for each volume to its end, and then fails with all that went wrong.
pub fn each(recipes: &[Recipe], mut one: impl FnMut(usize, &Recipe) -> Result<()>) -> Result<()> {
    let failed = recipes.iter().enumerate().filter_map(|(number, recipe)| {
        let error = one(number, recipe).err()?;
        Some(format!("{}: {error}", recipe.about()))
    });
    let failed: Vec<String> = failed.collect();
    ensure!(failed.is_empty(), "{} of {} volumes failed\n{}", failed.len(), recipes.len(), failed.join("\n\n"));
    Ok(())
}

/// Removes the files of volumes that went well.
pub fn remove(work: &Work, recipes: &[Recipe]) -> Result<()> {
    for recipe in recipes {
        let (source, target) = paths(work, recipe);
        [source, target].into_iter().try_for_each(|path| fs::remove_file(&path).at(path))?;
    }
    let store = work.path("store");
    fs::remove_dir_all(&store).at(store)
}

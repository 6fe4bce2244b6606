//! Volumes of every kind, filled and read by the kernel's own drivers, captured and restored onto noise in between.
//!
//! Each run takes the volumes of [`volume::usual`]; with `RESCUE_FULL=1` those of [`volume::all`] instead, where every
//! pair of options occurs. `RESCUE_VOLUMES=ntfs` takes those alone whose names begin with that.

use qemu_tests::{
    Result, ensure,
    guest::orders::{Answer, Style, Task, difference},
    vm::Work,
    volume::{self, Recipe},
};

use crate::volumes::{each, full, guest, map_fits, onto_noise, paths, remove, same_verdict};

/// Volumes in one boot: what a boot costs is shared, and a failure does not take long to come.
const BATCH: usize = 20;

fn round_trips(name: &str, kinds: &[&str]) -> Result<()> {
    let recipes = if full() { volume::all() } else { volume::usual() };
    let recipes = recipes.into_iter().filter(|recipe| kinds.contains(&recipe.kind.name));
    let only = std::env::var("RESCUE_VOLUMES").unwrap_or_default();
    let recipes: Vec<Recipe> = recipes.filter(|recipe| recipe.name.starts_with(&only)).collect();
    ensure!(!recipes.is_empty(), "no volume is named {only}...");
    let work = Work::new(name)?;
    let failed: Vec<String> = recipes
        .chunks(BATCH)
        .filter_map(|batch| round_trip(&work, batch).err())
        .map(|error| error.to_string())
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    work.finish()
}

fn round_trip(work: &Work, recipes: &[Recipe]) -> Result<()> {
    let filled = fill(work, recipes)?;
    each(recipes, |number, recipe| {
        let (source, target) = paths(work, recipe);
        let image = onto_noise(work, recipe)?;
        map_fits(recipe, &image, &filled[number])?;
        same_verdict(recipe.kind, &source, &target, recipe.stays_clean())
    })?;
    let mut reader = guest(work, "read");
    for recipe in recipes {
        reader = reader.read_only_disk(&paths(work, recipe).1, &recipe.name, recipe.sector);
        reader = reader.order(recipe.order(Task::List));
    }
    let read = reader.run()?;
    each(recipes, |number, _| {
        let (want, found) = (&filled[number], &read[number]);
        let different = difference(&want.files, &found.files);
        ensure!(different.is_none(), "the kernel reads {}", different.unwrap_or_default());
        let (want, found) = ((want.total, want.free), (found.total, found.free));
        ensure!(want == found, "the kernel counts {found:?} bytes in all and free, must be {want:?}");
        Ok(())
    })?;
    remove(work, recipes)
}

/// Makes all volumes and has them filled; returns what the kernel then reads on each.
fn fill(work: &Work, recipes: &[Recipe]) -> Result<Vec<Answer>> {
    let mut filler = guest(work, "fill");
    for (number, recipe) in recipes.iter().enumerate() {
        let path = paths(work, recipe).0;
        recipe.make(&path)?;
        filler = filler.disk(&path, &recipe.name, recipe.sector);
        if let Some(words) = recipe.made_in_guest() {
            filler = filler.tool("mkfs.exfat").order(recipe.order(Task::Run(words)));
        }
        filler = filler.order(recipe.fill(number as u64));
    }
    let answers: Vec<Answer> = filler.run()?.into_iter().filter(|answer| !answer.files.is_empty()).collect();
    ensure!(answers.len() == recipes.len(), "{} volumes were filled of {}", answers.len(), recipes.len());
    each(recipes, |number, recipe| {
        let answer = &answers[number];
        let (files, free) = (answer.files.len(), answer.free);
        ensure!(answer.unreadable().is_none(), "{:?} cannot be read", answer.unreadable());
        match recipe.style {
            Style::Empty => ensure!(files < 10, "{files} files on an empty volume"),
            // NTFS keeps a place for its table of files; Btrfs may be full of metadata before it is of content.
            Style::Full => ensure!(
                free < recipe.len() / if recipe.kind == volume::BTRFS { 3 } else { 6 },
                "{free} bytes are free on a full volume"
            ),
            Style::Files | Style::Churned => ensure!(files > 20, "no more than {files} files"),
        }
        Ok(())
    })?;
    Ok(answers)
}

#[test]
fn file_systems_of_linux_come_back_on_noise() -> Result<()> {
    round_trips("filesystems-linux", &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"])
}

#[test]
fn file_systems_of_other_systems_come_back_on_noise() -> Result<()> {
    round_trips("filesystems-others", &["vfat", "exfat", "ntfs", "hfsplus"])
}

//! File systems cut off in mid-write: a guest that writes on all of them at once is killed, three times.
//!
//! What is left is captured and restored onto noise. Then the kernel mounts the source and the restored volume, each
//! in a boot of its own, replays what journal there is, and must see the same files on both.

use std::time::Duration;

use qemu_tests::{
    Result, ensure,
    guest::orders::{Answer, Task, difference},
    noise::Noise,
    tree::What,
    vm::Work,
    volume::{self, Recipe, recipe, says_dirty},
};

use crate::volumes::{each, full, guest, onto_noise, paths, remove, same_verdict};

/// How many changes every volume has seen, at the least, before the power goes.
const MOMENTS: [u64; 3] = [3, 40, 250];

/// One volume of each kind that the kernel writes on.
fn recipes(moment: usize) -> Vec<Recipe> {
    let named = |kind: volume::Kind, mib, options| recipe(&format!("{}-{moment}", kind.name), kind, mib, options);
    vec![
        named(volume::EXT2, 32, ""),
        named(volume::EXT4, 48, ""),
        named(volume::FAT, 40, "-F 32 -s 1"),
        named(volume::EXFAT, 40, "-c 4096"),
        named(volume::NTFS, 48, "-c 4096"),
        named(volume::XFS, 300, ""),
        named(volume::BTRFS, 160, ""),
        named(volume::F2FS, 80, ""),
        named(volume::HFSPLUS, 40, ""),
    ]
}

/// Has the volumes written on, and the machine killed in the midst of it.
fn cut_off(work: &Work, recipes: &[Recipe], seed: u64, changes: u64) -> Result<()> {
    let mut writer = guest(work, "write");
    for recipe in recipes {
        let path = paths(work, recipe).0;
        recipe.make(&path)?;
        writer = writer.disk(&path, &recipe.name, recipe.sector).order(recipe.order(Task::Write { seed }));
    }
    let longer = Duration::from_millis(Noise::new(seed).below(1500));
    writer.boot()?.kill_after(changes, longer)
}

/// Lets the kernel mount the volumes for writing; `which` of source and restored one is looked at.
fn replay(work: &Work, recipes: &[Recipe], name: &str, restored: bool) -> Result<Vec<Answer>> {
    let mut mender = guest(work, name);
    for recipe in recipes {
        let (source, target) = paths(work, recipe);
        let path = if restored { target } else { source };
        mender = mender.disk(&path, &recipe.name, recipe.sector).order(recipe.order(Task::Replay));
    }
    let mut answers = mender.run()?;
    for folder in answers.iter_mut().flat_map(|answer| &mut answer.files).filter(|seen| seen.what == What::Folder) {
        // Names that are made again while a journal is replayed are made now: so F2FS.
        folder.changed = 0;
    }
    Ok(answers)
}

fn killed(name: &str, rounds: u64) -> Result<()> {
    let work = Work::new(name)?;
    for round in 0..rounds {
        let mut all = Vec::new();
        for (moment, changes) in MOMENTS.into_iter().enumerate() {
            let recipes = recipes(moment);
            cut_off(&work, &recipes, 10 * round + moment as u64, changes)?;
            all.extend(recipes);
        }
        each(&all, |_, recipe| {
            let (source, target) = paths(&work, recipe);
            let dirty = says_dirty(recipe.kind, &source)?;
            ensure!(dirty != Some(false), "the volume says it was unmounted");
            onto_noise(&work, recipe)?;
            same_verdict(recipe.kind, &source, &target, false)
        })?;
        let want = replay(&work, &all, "source", false)?;
        let found = replay(&work, &all, "restored", true)?;
        each(&all, |number, recipe| {
            let (source, target) = paths(&work, recipe);
            let different = difference(&want[number].files, &found[number].files);
            ensure!(different.is_none(), "the kernel reads {}", different.unwrap_or_default());
            ensure!(want[number].files.len() > 8, "nothing was written before the power went");
            let lost = want[number].unreadable().filter(|_| recipe.kind.mends);
            ensure!(lost.is_none(), "{lost:?} cannot be read after the journal was replayed");
            same_verdict(recipe.kind, &source, &target, recipe.kind.mends)
        })?;
        remove(&work, &all)?;
    }
    work.finish()
}

#[test]
fn a_volume_cut_off_in_mid_write_replays_to_the_same_files() -> Result<()> {
    killed("dirty", if full() { 4 } else { 1 })
}

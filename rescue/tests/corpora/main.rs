//! All public test images, damaged and odd ones too: capture → restore onto noise → the same bytes, the same verdict of
//! the file system's own checker, the same files.
//!
//! The images lie beside the repository in `../shared/corpora`; `RESCUE_CORPORA` names another folder. Where there are
//! none the test says NOT RUN, and `scripts/test` repeats that at its end. It has a `main` of its own, so that its table
//! is seen of a pass as well; each image counts as one test. A word on the command line picks the images whose
//! `archive/name` contains it.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

mod files;
mod judges;
mod kinds;
mod measure;
mod noise;
mod tally;
mod trip;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Mutex,
    thread,
};

use tally::Tally;
use tempfile::TempDir;

/// The archives, and how many images each must have: one that lost some proves less.
const ARCHIVES: [(&str, usize); 12] = [
    ("btrfs-raw", 19),
    ("cryptsetup", 32),
    ("dfvfs", 7),
    ("dosfstools", 42),
    ("e2fsprogs", 122),
    ("exfatprogs", 12),
    ("ext4-view", 4),
    ("misc-rust", 8),
    ("util-linux-fs", 129),
    ("util-linux-pt", 9),
    ("xfuse", 3),
    ("zfs", 34),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--measure") => return measure::child(&args[1..]),
        // What lists tests before it runs them finds none that it could run alone.
        Some("--list") => return ExitCode::SUCCESS,
        _ => {}
    }
    let filter = args.iter().find(|arg| !arg.starts_with('-')).cloned().unwrap_or_default();
    let Some(folder) = folder() else { return not_run() };
    let mut tally = Tally::default();
    // A name that begins with its archive, as a failure prints it, spares the others.
    let named = ARCHIVES.iter().any(|(archive, _)| filter.starts_with(archive));
    for (archive, count) in ARCHIVES.iter().filter(|(archive, _)| !named || filter.starts_with(archive)) {
        run_archive(&folder, archive, *count, &filter, &mut tally);
    }
    tally.print();
    tally.result(filter.is_empty())
}

fn folder() -> Option<PathBuf> {
    let named = env::var_os("RESCUE_CORPORA").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"));
    folder.is_dir().then_some(folder)
}

fn not_run() -> ExitCode {
    println!(
        "NOT RUN: the public test images are in no folder ../shared/corpora beside the repository; RESCUE_CORPORA names another"
    );
    println!("test result: ok. 0 passed; 0 failed; 421 ignored; 0 measured; 0 filtered out");
    // Whoever names a folder wants them run.
    ExitCode::from(u8::from(env::var_os("RESCUE_CORPORA").is_some()))
}

/// Extracts an archive and sends each of its images through a capture and a restore, as many at once as there are
/// processors.
fn run_archive(folder: &Path, archive: &str, count: usize, filter: &str, tally: &mut Tally) {
    let dir = TempDir::new().unwrap();
    let file = folder.join(format!("{archive}.tar.zst"));
    let unpack = "zstd -dcq -- \"$1\" | tar -xS -C \"$2\"";
    let done = Command::new("bash").args(["-o", "pipefail", "-c", unpack, "-"]).arg(&file).arg(dir.path()).status();
    if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return tally.broken(archive, format!("{} cannot be extracted: {done:?}", file.display()));
    }
    let mut images = files::below(dir.path());
    if images.len() != count {
        tally.broken(archive, format!("{} holds {} images and not {count}", file.display(), images.len()));
    }
    let name_of = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
    images.retain(|path| format!("{archive}/{}", name_of(path)).contains(filter));
    // The large ones first, so that none of them runs alone at the end.
    images.sort_by_key(|path| path.metadata().unwrap().len());
    let (images, results) = (Mutex::new(images), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // In a statement of its own: a lock in the loop's head would be held through its body.
                let next = || images.lock().unwrap().pop();
                while let Some(path) = next() {
                    let name = name_of(&path);
                    let trip = catch_unwind(AssertUnwindSafe(|| trip::run(archive, &path)));
                    results.lock().unwrap().push((name, trip));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, trip) in results {
        match trip {
            Ok(trip) => tally.add(archive, &name, trip),
            Err(panic) => tally.broken(archive, format!("{name}: {}", said(panic.as_ref()))),
        }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

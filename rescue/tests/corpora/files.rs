//! Files of a folder, sparse copies, hashes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Whence, lseek};
use rescue::extent::{Extent, ExtentSet};

/// Bytes read or written at once.
const STEP: u64 = 1 << 20;

/// Lists the regular files below a folder.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Hashes the regular files below a folder, by their paths from it.
pub fn hashes(dir: &Path) -> BTreeMap<String, String> {
    let hash = |path: PathBuf| {
        let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
        (name, hash(&path))
    };
    below(dir).into_iter().map(hash).collect()
}

/// Hashes a file: its length, and where its data lies, and the data.
pub fn hash(path: &Path) -> String {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&len.to_le_bytes());
    let mut buf = vec![0; usize::try_from(STEP).unwrap()];
    for part in data(&file, Extent::new(0, len)).into_iter().flat_map(steps) {
        let buf = &mut buf[..usize::try_from(part.len()).unwrap()];
        file.read_exact_at(buf, part.start).unwrap();
        // Zeros that are written and zeros in a hole are the same file.
        if buf.iter().any(|byte| *byte != 0) {
            hasher.update(&part.start.to_le_bytes()).update(buf);
        }
    }
    hasher.finalize().to_string()
}

/// Lists where a file is no hole, within `range`, in whole steps counted from the start of the file.
pub fn data(file: &File, range: Extent) -> Vec<Extent> {
    let seek =
        |at: u64, whence| lseek(file, i64::try_from(at).unwrap(), whence).ok().and_then(|at| u64::try_from(at).ok());
    let (mut at, mut found) = (range.start, Vec::new());
    while at < range.end {
        let Some(start) = seek(at, Whence::SeekData).filter(|start| *start < range.end) else { break };
        let end = seek(start, Whence::SeekHole).unwrap_or(range.end);
        let whole = Extent::new((start / STEP * STEP).max(at), end.next_multiple_of(STEP).min(range.end));
        at = whole.end;
        found.push(whole);
    }
    found
}

/// Cuts an extent into pieces that end at whole steps.
pub fn steps(extent: Extent) -> impl Iterator<Item = Extent> {
    let mut at = extent.start;
    std::iter::from_fn(move || {
        let end = ((at / STEP + 1) * STEP).min(extent.end);
        let part = Extent::new(at, end);
        at = end;
        (!part.is_empty()).then_some(part)
    })
}

/// Copies `range` of a file into a new one, holes as holes.
pub fn carve(from: &Path, range: Extent, to: &Path) {
    let (source, target) = (File::open(from).unwrap(), File::create(to).unwrap());
    let held = source.metadata().unwrap().len().min(range.end);
    target.set_len(range.len()).unwrap();
    let mut buf = vec![0; usize::try_from(STEP).unwrap()];
    for part in data(&source, Extent::new(range.start, held)).into_iter().flat_map(steps) {
        let buf = &mut buf[..usize::try_from(part.len()).unwrap()];
        source.read_exact_at(buf, part.start).unwrap();
        target.write_all_at(buf, part.start - range.start).unwrap();
    }
}

/// Finds the first piece of `extents` in which two files differ.
pub fn first_difference(a: &Path, b: &Path, extents: &[Extent]) -> Option<Extent> {
    let (a, b) = (File::open(a).unwrap(), File::open(b).unwrap());
    let held = a.metadata().unwrap().len();
    let mut bufs = [vec![0; usize::try_from(STEP).unwrap()], vec![0; usize::try_from(STEP).unwrap()]];
    for extent in extents {
        let extent = Extent::new(extent.start, extent.end.min(held));
        // Where both are holes they are the same, however large.
        let parts = ExtentSet::from_unsorted([data(&a, extent), data(&b, extent)].concat());
        for part in parts.iter().flat_map(steps) {
            let len = usize::try_from(part.len()).unwrap();
            let [left, right] = &mut bufs;
            a.read_exact_at(&mut left[..len], part.start).unwrap();
            b.read_exact_at(&mut right[..len], part.start).unwrap();
            if left[..len] != right[..len] {
                return Some(part);
            }
        }
    }
    None
}

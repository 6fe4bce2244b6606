//! Folders of files to put on a disk: the shapes file systems treat differently.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{At as _, Result, ensure, noise::Noise};

/// Fills `folder` with about `total` bytes of files; the same `seed` gives the same files.
///
/// Half of the content is text that compresses, half is noise that does not. Links and holes are left out, so that the
/// same files fit on FAT; [`plant_unix`] adds them.
///
/// # Errors
/// [`crate::Error::File`] when the folder cannot be written.
pub fn plant(folder: &Path, total: u64, seed: u64) -> Result<()> {
    let mut noise = Noise::new(seed);
    let (mut left, mut number) = (total, 0u32);
    while left > 0 {
        // One of each size first, then any of them.
        let sizes = [0, 1, 511, 4096, 4097, 60_000, 300_000, 1_500_000];
        let size = if number < 8 { u64::from(number) } else { noise.below(8) };
        let len = (sizes[usize::try_from(size).unwrap_or(0)] + u64::from(number / 8)).min(left);
        let within = folder.join(format!("d{}", number % 5)).join(format!("e{}", number % 3));
        fs::create_dir_all(&within).at(&within)?;
        let path = within.join(format!("file number {number} of the tree.bin"));
        fs::write(&path, content(&mut noise, len, number % 2 == 0)).at(&path)?;
        left -= len;
        number += 1;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "the length of a test file")]
fn content(noise: &mut Noise, len: u64, text: bool) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    noise.fill(&mut bytes);
    if text {
        bytes.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu\n\n\n"[usize::from(*byte & 15)]);
    }
    bytes
}

/// Adds what only Unix file systems hold: symbolic and hard links, a file with holes, a long name, a large folder.
///
/// # Errors
/// [`crate::Error::File`] when the folder cannot be written.
pub fn plant_unix(folder: &Path) -> Result<()> {
    let plain = folder.join("plain");
    fs::write(&plain, b"linked twice").at(&plain)?;
    fs::hard_link(&plain, folder.join("hard link")).at(&plain)?;
    symlink("plain", folder.join("short link")).at(&plain)?;
    symlink(format!("plain{}", "/../plain".repeat(20)), folder.join("long link")).at(&plain)?;
    let holes = folder.join("holes");
    let file = File::create(&holes).at(&holes)?;
    for offset in [0, 700_000, 5_000_000] {
        file.write_all_at(b"between holes", offset).at(&holes)?;
    }
    let long = folder.join("n".repeat(255));
    File::create(&long).and_then(|mut file| file.write_all(b"a long name")).at(&long)?;
    let many = folder.join("many");
    fs::create_dir(&many).at(&many)?;
    for number in 0..600 {
        let path = many.join(format!("{number:040}"));
        fs::write(&path, number.to_string()).at(&path)?;
    }
    Ok(())
}

/// One entry of a folder tree, as far as two trees are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Path below the top.
    pub path: PathBuf,
    /// What it holds.
    pub what: What,
}

/// What an [`Entry`] holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// A folder.
    Folder,
    /// Length and BLAKE3 of a file.
    File(u64, String),
    /// Target of a symbolic link.
    Link(PathBuf),
    /// Device, socket, pipe.
    Other,
    /// What the system said instead of letting it be read.
    Unreadable(String),
}

/// Lists everything below `top` with hashes, sorted by path.
///
/// # Errors
/// [`crate::Error::File`] when something cannot be read.
pub fn list(top: &Path) -> Result<Vec<Entry>> {
    walk(top, |path, error| Err(error).at(path))
}

/// Lists everything below `top` as [`list`] does, and what cannot be read as [`What::Unreadable`]: a file system that
/// was cut off in mid-write may name what is not there.
///
/// # Errors
/// [`crate::Error::Wrong`] when folders hold each other without end.
pub fn list_damaged(top: &Path) -> Result<Vec<Entry>> {
    walk(top, |_, error| Ok(What::Unreadable(error.kind().to_string())))
}

/// No tree of a test is so deep; folders that hold themselves are.
const DEPTH: usize = 40;

fn walk(top: &Path, unreadable: impl Fn(&Path, io::Error) -> Result<What>) -> Result<Vec<Entry>> {
    let (mut out, mut todo) = (Vec::new(), vec![top.to_path_buf()]);
    while let Some(folder) = todo.pop() {
        let below = |path: &Path| path.strip_prefix(top).unwrap_or(path).to_path_buf();
        ensure!(below(&folder).components().count() < DEPTH, "{} does not end", folder.display());
        let names = fs::read_dir(&folder).and_then(|entries| {
            let names = entries.map(|entry| Ok(entry?.path()));
            names.collect::<io::Result<Vec<PathBuf>>>()
        });
        let names = match names {
            Ok(names) => names,
            Err(error) => {
                let what = unreadable(&folder, error)?;
                out.push(Entry { path: below(&folder), what });
                continue;
            }
        };
        for path in names {
            let what = match look(&path) {
                Ok(what) => what,
                Err(error) => unreadable(&path, error)?,
            };
            if what == What::Folder {
                todo.push(path.clone());
            }
            out.push(Entry { path: below(&path), what });
        }
    }
    out.sort_unstable();
    Ok(out)
}

fn look(path: &Path) -> io::Result<What> {
    let kind = path.symlink_metadata()?.file_type();
    if kind.is_dir() {
        Ok(What::Folder)
    } else if kind.is_symlink() {
        fs::read_link(path).map(What::Link)
    } else if kind.is_file() {
        let mut hasher = blake3::Hasher::new();
        let len = io::copy(&mut File::open(path)?, &mut hasher)?;
        Ok(What::File(len, hasher.finalize().to_hex().to_string()))
    } else {
        Ok(What::Other)
    }
}

/// Copies up to `total` bytes of real files of this machine, from `from`, taken in the order of their paths.
///
/// Files above 64 MiB, links out of the tree and what cannot be read are left out, so that every machine gives a mix of
/// programs, libraries and texts.
///
/// # Errors
/// [`crate::Error::File`] when `into` cannot be written.
pub fn copy_real_files(from: &Path, into: &Path, total: u64) -> Result<u64> {
    let (mut copied, mut todo) = (0, vec![from.to_path_buf()]);
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort_unstable_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
        let within = into.join(folder.strip_prefix(from).unwrap_or(&folder));
        fs::create_dir_all(&within).at(&within)?;
        for path in paths.iter().rev() {
            let Ok(meta) = path.symlink_metadata() else { continue };
            let Some(name) = path.file_name() else { continue };
            let to = within.join(name);
            if meta.is_symlink() {
                let target = fs::read_link(path).at(path)?;
                symlink(target, &to).at(&to)?;
            } else if meta.is_file() && meta.len() <= 64 << 20 && copied + meta.len() <= total {
                // A file of another user that cannot be read is no loss: there are plenty.
                copied += fs::copy(path, &to).unwrap_or(0);
            }
        }
        todo.extend(paths.into_iter().filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir())));
        if copied + (1 << 20) > total {
            break;
        }
    }
    Ok(copied)
}

//! What years do to a file system, in seconds: files made, grown, rewritten, cut, renamed and deleted, by chance.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::noise::Noise;

/// A life of changes in one folder; the same seed makes the same ones.
#[derive(Debug)]
pub struct Churn {
    top: PathBuf,
    noise: Noise,
    files: Vec<(PathBuf, u64)>,
    bytes: u64,
    budget: u64,
    made: u64,
    /// Whether changes are made durable now and then.
    sync: bool,
}

impl Churn {
    /// Begins to live in `top`, with files of no more than `budget` bytes in all.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(top: &Path, seed: u64, budget: u64, sync: bool) -> io::Result<Self> {
        for folder in 0..8 {
            fs::create_dir_all(top.join(format!("folder {folder}")))?;
        }
        let noise = Noise::new(seed);
        Ok(Self { top: top.to_path_buf(), noise, files: Vec::new(), bytes: 0, budget, made: 0, sync })
    }

    /// Makes one change. A volume that is full loses a few files instead.
    ///
    /// # Errors
    /// What the system says, other than that the volume is full.
    pub fn step(&mut self) -> io::Result<()> {
        let chance = if self.bytes > self.budget { 99 } else { self.noise.below(100) };
        let done = match (chance, self.files.is_empty()) {
            (0..45, _) | (_, true) => self.make(),
            (45..65, _) => self.grow(),
            (65..75, _) => self.rewrite(),
            (75..80, _) => self.cut(),
            (80..85, _) => self.rename(),
            _ => self.delete(),
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                (0..4).try_for_each(|_| if self.files.is_empty() { Ok(()) } else { self.delete() })
            }
            other => other,
        }
    }

    fn some(&mut self) -> usize {
        let count = self.files.len().max(1) as u64;
        usize::try_from(self.noise.below(count)).unwrap_or(0)
    }

    fn content(&mut self) -> Vec<u8> {
        // Most files are small, most bytes are in large ones.
        let limit = [3_000, 20_000, 20_000, 150_000][usize::try_from(self.noise.below(4)).unwrap_or(0)];
        let len = self.noise.below(limit).min(self.budget / 8);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.noise.fill(&mut bytes);
        bytes
    }

    fn path(&mut self) -> PathBuf {
        self.made += 1;
        let folder = self.noise.below(8);
        self.top.join(format!("folder {folder}")).join(format!("{} of a life.dat", self.made))
    }

    fn settle(&mut self, file: &File) -> io::Result<()> {
        // Chances are drawn in any case: what is written must not depend on what is made durable.
        let (content, name) = (self.noise.below(3) == 0, self.noise.below(12) == 0);
        if self.sync && (content || name) {
            file.sync_all()?;
        }
        if self.sync && name { File::open(&self.top)?.sync_all() } else { Ok(()) }
    }

    fn make(&mut self) -> io::Result<()> {
        let (path, bytes) = (self.path(), self.content());
        let mut file = File::create(&path)?;
        self.files.push((path, 0));
        file.write_all(&bytes)?;
        let len = bytes.len() as u64;
        if let Some(last) = self.files.last_mut() {
            last.1 = len;
        }
        self.bytes += len;
        self.settle(&file)
    }

    fn grow(&mut self) -> io::Result<()> {
        let (at, bytes) = (self.some(), self.content());
        let mut file = File::options().append(true).open(&self.files[at].0)?;
        file.write_all(&bytes)?;
        let len = bytes.len() as u64;
        self.files[at].1 += len;
        self.bytes += len;
        self.settle(&file)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let (at, bytes) = (self.some(), self.content());
        let (path, len) = self.files[at].clone();
        let keep = usize::try_from(len).unwrap_or(0).min(bytes.len());
        let file = File::options().write(true).open(path)?;
        let offset = self.noise.below(len + 1 - keep as u64);
        file.write_all_at(&bytes[..keep], offset)?;
        self.settle(&file)
    }

    fn cut(&mut self) -> io::Result<()> {
        let at = self.some();
        let (path, len) = self.files[at].clone();
        let rest = self.noise.below(len + 1);
        let file = File::options().write(true).open(path)?;
        file.set_len(rest)?;
        self.files[at].1 = rest;
        self.bytes -= len - rest;
        self.settle(&file)
    }

    fn rename(&mut self) -> io::Result<()> {
        let (at, to) = (self.some(), self.path());
        fs::rename(&self.files[at].0, &to)?;
        self.files[at].0 = to;
        Ok(())
    }

    fn delete(&mut self) -> io::Result<()> {
        let at = self.some();
        let (path, len) = self.files.swap_remove(at);
        self.bytes = self.bytes.saturating_sub(len);
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn the_same_seed_lives_the_same_life_within_its_budget() {
        let dir = tempfile::tempdir().unwrap();
        let budget = 300_000;
        for (name, seed) in [("one", 1), ("same", 1), ("other", 2)] {
            let mut churn = Churn::new(&dir.path().join(name), seed, budget, name == "one").unwrap();
            (0..300).try_for_each(|_| churn.step()).unwrap();
            assert!(churn.bytes < 2 * budget, "{} bytes", churn.bytes);
            assert!(churn.files.len() > 3);
        }
        let list = |name: &str| tree::list(&dir.path().join(name)).unwrap();
        assert_eq!(list("one").len(), list("same").len());
        assert_eq!(list("one"), list("same"));
        assert_ne!(list("one"), list("other"));
    }
}

//! A disk made of a seed image and patches: small inputs reach any byte of a large volume.
//!
//! ```text
//! input: | seed, 1 | sector, 1 | record ... |
//! record: | page, 2 | offset, 2 | how, 1 | bytes, 1 to 32 |
//! ```
//!
//! `page` counts the pages of the seed that hold anything: that is where structures lie. `how` is the number of bytes
//! in its low five bits; with its high bit set the page is counted from the start of the volume instead, so that what
//! is zero can be written as well.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rescue::{
    block::{Error, ReadAt, check_range, file::FileDisk},
    extent::Extent,
};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A volume, of which only the pages that hold anything are in memory.
#[derive(Debug)]
pub struct Seed {
    /// What it is called.
    pub name: String,
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    /// The numbers of the pages.
    numbers: Vec<u64>,
}

impl Seed {
    /// Reads every seed image of a folder, in the order of their names.
    ///
    /// # Panics
    /// Where there are none: fuzzing would find nothing.
    #[must_use]
    pub fn all(kind: &str) -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(kind);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}: run ./make-seeds", folder.display()));
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} is empty: run ./make-seeds", folder.display());
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let file = FileDisk::open_source(path, None).expect("a seed that was listed");
        let (len, mut pages, mut at) = (file.len(), BTreeMap::new(), 0);
        // What is a hole in the file is not read: some volumes are large, and every start of a target reads all.
        while let Some(data) = file.next_data(at).expect("a seed reads") {
            at = data.end.next_multiple_of(PAGE);
            for number in data.start / PAGE..at / PAGE {
                let mut page = vec![0; 4096];
                let here = usize::try_from((len - number * PAGE).min(PAGE)).expect("a page fits in memory");
                file.read_exact_at(&mut page[..here], number * PAGE).expect("a seed reads");
                if page.iter().any(|byte| *byte != 0) {
                    pages.insert(number, page);
                }
            }
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let numbers = pages.keys().copied().collect();
        Self { name, len, pages, numbers }
    }

    /// Returns the page that covers `offset`, where it holds anything.
    fn page(&self, number: u64) -> Option<&[u8]> {
        self.pages.get(&number).map(Vec::as_slice)
    }
}

/// A seed with patches over it.
#[derive(Debug)]
pub struct Patched<'a> {
    seed: &'a Seed,
    over: BTreeMap<u64, Vec<u8>>,
}

impl<'a> Patched<'a> {
    /// Applies the records of an input.
    #[must_use]
    pub fn new(seed: &'a Seed, mut records: &[u8]) -> Self {
        let mut over: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        while let [p0, p1, o0, o1, how, rest @ ..] = records {
            let (bytes, behind) = rest.split_at(usize::from(how & 0x1f).min(rest.len()));
            records = behind;
            let page = u64::from(u16::from_le_bytes([*p0, *p1]));
            let number = match how & 0x80 {
                0 if seed.numbers.is_empty() => break,
                0 => seed.numbers[usize::try_from(page).unwrap_or(0) % seed.numbers.len()],
                _ => page % seed.len.div_ceil(PAGE).max(1),
            };
            let at = usize::from(u16::from_le_bytes([*o0, *o1])) % 4096;
            let fresh = || seed.page(number).map_or_else(|| vec![0; 4096], <[u8]>::to_vec);
            let target = over.entry(number).or_insert_with(fresh);
            let end = (at + bytes.len()).min(4096);
            target[at..end].copy_from_slice(&bytes[..end - at]);
        }
        Self { seed, over }
    }

    fn page(&self, number: u64) -> Option<&[u8]> {
        self.over.get(&number).map(Vec::as_slice).or_else(|| self.seed.page(number))
    }

    /// Writes the volume to a file, for a fixture.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) {
        use std::os::unix::fs::FileExt as _;
        let file = fs::File::create(path).expect("the file can be made");
        file.set_len(self.seed.len).expect("the file takes its length");
        for number in self.seed.pages.keys().chain(self.over.keys()) {
            let at = number * PAGE;
            let here = usize::try_from((self.seed.len - at).min(PAGE)).unwrap_or(0);
            let page = self.page(*number).expect("a page that was listed");
            file.write_all_at(&page[..here], at).expect("the file takes its bytes");
        }
    }
}

impl ReadAt for Patched<'_> {
    fn len(&self) -> u64 {
        self.seed.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        check_range("seed", self.seed.len, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = usize::try_from(at % PAGE).unwrap_or(0);
            let here = (4096 - inside).min(buf.len() - done);
            match self.page(at / PAGE) {
                Some(page) => buf[done..done + here].copy_from_slice(&page[inside..inside + here]),
                None => buf[done..done + here].fill(0),
            }
            done += here;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        let first = |pages: &BTreeMap<u64, Vec<u8>>| pages.range(offset / PAGE..).next().map(|(number, _)| *number);
        let Some(number) = first(&self.seed.pages).into_iter().chain(first(&self.over)).min() else { return Ok(None) };
        let start = (number * PAGE).max(offset);
        Ok((start < self.seed.len).then(|| Extent::new(start, ((number + 1) * PAGE).min(self.seed.len))))
    }
}

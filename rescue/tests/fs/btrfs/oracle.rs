//! What Btrfs' own tools say is in use, and what they say of a copy that has noise everywhere else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use rescue::{
    block::{Error, ReadAt},
    extent::{Extent, ExtentSet},
    fs::{Options, State, Survey, survey},
};

use crate::tools::{Bench, hashes, run, run_any};

pub const MIB: u64 = 1 << 20;

/// A file as a region; volumes are sparse, and too many to be held in memory.
pub struct FileRegion(File);

impl FileRegion {
    pub fn open(path: &str) -> Self {
        Self(File::open(path).unwrap())
    }
}

impl ReadAt for FileRegion {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let (size, len) = (self.len(), buf.len() as u64);
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::Beyond { disk: "file".to_owned(), offset, len, size });
        }
        self.0.read_exact_at(buf, offset).unwrap();
        Ok(())
    }
}

pub fn survey_file(path: &str) -> Survey {
    let region = FileRegion::open(path);
    let survey = survey(&region, &Options::default());
    let all = Extent::new(0, region.len());
    assert!(survey.allocated.iter().all(|extent| all.covers(extent)), "the map leaves the region");
    survey
}

/// Makes `copy` of `image`, noise wherever the map has nothing.
pub fn noise_copy(image: &str, copy: &str, survey: &Survey) {
    let (from, to) = (FileRegion::open(image), File::create(copy).unwrap());
    to.set_len(from.len()).unwrap();
    let noise = vec![0xa5; 1 << 20];
    for gap in survey.allocated.complement(from.len()).iter() {
        for start in (gap.start..gap.end).step_by(noise.len()) {
            let len = usize::try_from((gap.end - start).min(noise.len() as u64)).unwrap();
            to.write_all_at(&noise[..len], start).unwrap();
        }
    }
    let mut buffer = vec![0; 1 << 20];
    for extent in survey.allocated.iter() {
        for start in (extent.start..extent.end).step_by(buffer.len()) {
            let len = usize::try_from((extent.end - start).min(buffer.len() as u64)).unwrap();
            from.read_exact_at(&mut buffer[..len], start).unwrap();
            if buffer[..len].iter().any(|byte| *byte != 0) {
                to.write_all_at(&buffer[..len], start).unwrap();
            }
        }
    }
}

/// Returns what the checker says.
pub fn verdict(image: &str) -> (Option<i32>, String) {
    let output = run_any("btrfs", &["check", "--readonly", "--check-data-csum", image]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).replace(image, ""))
}

/// Returns every file of an image by content, read by `btrfs restore`.
pub fn contents(bench: &Bench, image: &str) -> BTreeMap<PathBuf, String> {
    let out = bench.dir.path().join("restored");
    fs::create_dir(&out).unwrap();
    run("btrfs", &["restore", "-S", "-s", image, out.to_str().unwrap()]);
    let found = hashes(&out);
    fs::remove_dir_all(&out).unwrap();
    found
}

/// A chunk as `dump-tree` prints it.
#[derive(Debug)]
pub struct Chunk {
    pub logical: Extent,
    profile: String,
    /// Device and offset.
    pub stripes: Vec<(u64, u64)>,
}

/// What `dump-tree` says is in use, in logical bytes.
#[derive(Debug, Default)]
pub struct Dump {
    pub chunks: Vec<Chunk>,
    used: Vec<Extent>,
    /// Extents of the extent tree alone.
    extents: u64,
    /// Bytes of a tree block.
    pub nodesize: u64,
    sectorsize: u64,
}

pub fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

pub fn run_at(start: u64, len: u64) -> Extent {
    Extent::new(start, start + len)
}

/// Reads all trees of file systems on one or several images.
pub fn dump(images: &[&str]) -> Dump {
    let super_text = run("btrfs", &["inspect-internal", "dump-super", images[0]]);
    let field = |name: &str| {
        let line = super_text.lines().find(|line| line.starts_with(name)).unwrap();
        numbers(line).last().copied().unwrap()
    };
    let nodesize = field("nodesize");
    let args = [&["inspect-internal", "dump-tree"][..], images].concat();
    let text = run("btrfs", &args);
    let mut dump = Dump { nodesize, sectorsize: field("sectorsize"), ..Dump::default() };
    for line in text.lines() {
        let word = line.trim_start();
        if line.starts_with("leaf ") || line.starts_with("node ") {
            dump.used.push(run_at(numbers(line)[0], nodesize));
        } else if word.starts_with("item ") && word.contains(" EXTENT_ITEM ") {
            let found = numbers(word);
            dump.used.push(run_at(found[1], found[2]));
            dump.extents += 1;
        } else if word.starts_with("item ") && word.contains(" METADATA_ITEM ") {
            dump.used.push(run_at(numbers(word)[1], nodesize));
            dump.extents += 1;
        } else if word.starts_with("item ") && word.contains(" CHUNK_ITEM ") {
            dump.chunks.push(Chunk { logical: run_at(numbers(word)[1], 0), profile: String::new(), stripes: vec![] });
        } else if word.starts_with("length ") && word.contains("stripe_len") {
            let chunk = dump.chunks.last_mut().unwrap();
            chunk.logical.end = chunk.logical.start + numbers(word)[0];
            chunk.profile = word.rsplit("type ").next().unwrap().to_owned();
        } else if word.starts_with("stripe ") && word.contains(" devid ") {
            let found = numbers(word);
            dump.chunks.last_mut().unwrap().stripes.push((found[1], found[2]));
        } else if word.starts_with("extent data disk byte ") || word.starts_with("prealloc data disk byte ") {
            let found = numbers(word);
            if found[0] != 0 {
                dump.used.push(run_at(found[0], found[1]));
            }
        }
    }
    assert!(dump.extents > 5 && dump.chunks.len() > 1, "the dump was not understood: {text}");
    dump
}

impl Dump {
    /// Finds the used bytes on one device, a 4 KiB piece at a time.
    pub fn on_device(&self, devid: u64) -> ExtentSet {
        let logical = ExtentSet::from_unsorted(self.used.clone());
        let mut out = Vec::new();
        for chunk in &self.chunks {
            let n = chunk.stripes.len() as u64;
            for run in logical.within(chunk.logical) {
                for at in (run.start..run.end).step_by(4096) {
                    let within = at - chunk.logical.start;
                    let (row, inside) = (within / 65536, within % 65536);
                    let (columns, copies) = match () {
                        () if chunk.profile.contains("RAID10") => (n / 2, 2),
                        () if chunk.profile.contains("RAID0") => (n, 1),
                        () if chunk.profile.contains("RAID5") || chunk.profile.contains("RAID6") => (0, n),
                        () => (1, n),
                    };
                    for (number, (device, offset)) in (0..).zip(&chunk.stripes) {
                        let place = match columns {
                            // With parity the whole row counts.
                            0 => {
                                let parity = if chunk.profile.contains("RAID5") { 1 } else { 2 };
                                offset + row / (n - parity) * 65536
                            }
                            _ if row % columns * copies <= number && number < (row % columns + 1) * copies => {
                                offset + row / columns * 65536 + inside
                            }
                            _ if columns == 1 => offset + within,
                            _ => continue,
                        };
                        if *device == devid {
                            out.push(run_at(place, if columns == 0 { 65536 } else { 4096 }));
                        }
                    }
                }
            }
        }
        ExtentSet::from_unsorted(out)
    }

    /// Returns the bytes of a device in chunks.
    pub fn allocated(&self, devid: u64) -> ExtentSet {
        let mut out = Vec::new();
        for chunk in &self.chunks {
            let n = chunk.stripes.len() as u64;
            let data = match () {
                () if chunk.profile.contains("RAID10") => n / 2,
                () if chunk.profile.contains("RAID0") => n,
                () if chunk.profile.contains("RAID5") => n - 1,
                () if chunk.profile.contains("RAID6") => n - 2,
                () => 1,
            };
            let len = chunk.logical.len() / data;
            out.extend(chunk.stripes.iter().filter(|(id, _)| *id == devid).map(|(_, offset)| run_at(*offset, len)));
        }
        ExtentSet::from_unsorted(out)
    }
}

/// Adds the places that are kept on every device of `len` bytes to `set`.
pub fn with_fixed(set: &ExtentSet, len: u64) -> ExtentSet {
    let fixed = [run_at(0, MIB), run_at(64 * MIB, 4096), run_at(256 << 30, 4096)];
    set.union(&fixed.into_iter().filter(|place| place.end <= len).collect())
}

/// Checks the map of a clean file system on one device against what the tools say.
pub fn check_image(bench: &Bench, name: &str, image: &str) -> Survey {
    let survey = survey_file(image);
    let len = fs::metadata(image).unwrap().len();
    assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
    assert_eq!(survey.detected.as_ref().unwrap().state, State::Clean, "{name}");
    let dump = dump(&[image]);
    let needed = with_fixed(&dump.on_device(1), len);
    let lost = needed.subtract(&survey.allocated);
    assert!(lost.is_empty(), "{name}: {lost:?} is in use and not kept");
    let usage = survey.usage.unwrap();
    assert_eq!(usage.used + usage.free, len, "{name}");
    assert_eq!(usage.used, dump.on_device(1).total(), "{name}: the counters");
    // More than 1 % only by the trees of the last commits: up to 64 blocks, on each mirror.
    let extra = survey.allocated.subtract(&needed).total();
    eprintln!("{name}: {} kept, {} needed, {extra} more", survey.allocated.total(), needed.total());
    assert!(extra <= needed.total() / 100 + 2 * 64 * dump.nodesize, "{name}: {extra} bytes more than needed");

    let copy = bench.path("copy");
    noise_copy(image, &copy, &survey);
    assert_eq!(verdict(&copy), verdict(image), "{name}");
    // The tool that restores breaks off at larger sectors; the checker reads every file's checksums.
    if dump.sectorsize == 4096 {
        let want = contents(bench, image);
        assert!(want.len() > 50, "{name}: {} files", want.len());
        assert_eq!(contents(bench, &copy), want, "{name}");
    }
    // Every mirror, not only the one that is read first.
    for extent in needed.iter() {
        let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
        for at in (extent.start..extent.end).step_by(4096) {
            FileRegion::open(image).read_exact_at(&mut a, at).unwrap();
            FileRegion::open(&copy).read_exact_at(&mut b, at).unwrap();
            assert!(a == b, "{name}: byte {at:#x}");
        }
    }
    fs::remove_file(&copy).unwrap();
    survey
}

/// The tree blocks of an image, by the trees they belong to; each with its places on the device.
pub fn tree_blocks(image: &str) -> BTreeMap<String, Vec<Vec<u64>>> {
    let dump = dump(&[image]);
    let text = run("btrfs", &["inspect-internal", "dump-tree", image]);
    let mut out: BTreeMap<String, Vec<Vec<u64>>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("leaf ") || line.starts_with("node ")) {
        let Some(owner) = line.split(" owner ").nth(1) else { continue };
        let at = numbers(line)[0];
        let chunk = dump.chunks.iter().find(|chunk| chunk.logical.contains(at)).unwrap();
        let places = chunk.stripes.iter().map(|(_, offset)| offset + at - chunk.logical.start).collect();
        out.entry(owner.trim().to_owned()).or_default().push(places);
    }
    out
}

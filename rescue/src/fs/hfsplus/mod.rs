//! HFS+ and HFSX, alone or inside an HFS volume: the allocation map from the allocation file.
//!
//! The bitmap must have as many free blocks as the volume header counts, the headers and special files must lie in it,
//! and what catalog, extents and attributes say about blocks is united with it. A volume that was not unmounted, and
//! one whose journal is not empty, is kept whole.

pub mod btree;
pub mod header;
pub mod journal;
pub mod md5;
pub mod walk;

use super::{
    Detected, State, Survey, Usage,
    map::{self, MapBuilder, runs_of_ones},
    whole::Whole,
};
use crate::{
    block::{self, ReadAt},
    extent::{Extent, ExtentSet},
};
use header::{Fork, Header, LEN, OFFSET, Run, attribute};
use walk::Walk;

/// Bytes of the bitmap that are read at once.
const PIECE: u64 = 256 << 10;
/// Blocks that 4 KiB of the bitmap stand for.
const PAGE: u64 = 4096 * 8;
/// Runs missing from the bitmap that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;

/// A volume whose header is one.
pub struct Volume<'a> {
    region: &'a dyn ReadAt,
    /// Where it is in the region.
    place: Extent,
    header: Header,
}

impl<'a> Volume<'a> {
    fn open(region: &'a dyn ReadAt) -> Result<Self, Whole> {
        let place = header::place(region).ok_or_else(|| Whole::damaged("the HFS+ volume in it is out of place"))?;
        let mut bytes = vec![0; LEN];
        region
            .read_exact_at(&mut bytes, place.start.saturating_add(OFFSET))
            .map_err(|error| Whole::damaged(format_args!("the volume header cannot be read: {error}")))?;
        let header = Header::parse(&bytes)
            .map_err(|error| Whole::damaged(format_args!("the volume header is broken: {error}")))?;
        Ok(Self { region, place, header })
    }

    /// Returns the bytes of `count` blocks from `first` on, counted from the start of the volume.
    fn blocks(&self, first: u64, count: u64) -> Extent {
        let at = |block: u64| block.saturating_mul(self.header.block_size).min(self.header.span());
        Extent::new(at(first), at(first.saturating_add(count)))
    }

    /// Reads at a byte of the volume.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), block::Error> {
        self.region.read_exact_at(bytes, self.place.start.saturating_add(offset))
    }

    /// Reads at a byte of a file.
    fn read(&self, fork: &Fork, offset: u64, bytes: &mut [u8]) -> Result<(), btree::Error> {
        let size = self.header.block_size.max(1);
        let (index, mut skip) = (offset / size, offset % size);
        let (mut runs, mut bytes) = (fork.from(index), bytes);
        while !bytes.is_empty() {
            let (first, count) = runs.next().ok_or(btree::Error::Beyond(offset))?;
            let run = self.blocks(first, count);
            let len = usize::try_from(run.len().saturating_sub(skip)).unwrap_or(usize::MAX).min(bytes.len());
            let (part, rest) = bytes.split_at_mut(len);
            self.read_at(run.start.saturating_add(skip), part)?;
            (skip, bytes) = (0, rest);
        }
        Ok(())
    }
}

/// Names the HFS+ volume in `region`, also one inside of HFS.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    header::place(region)?;
    let mut found = Detected {
        name: "hfsplus".to_owned(),
        version: None,
        label: None,
        uuid: None,
        block_size: None,
        state: State::Damaged,
    };
    if let Ok(volume) = Volume::open(region) {
        found.label = walk::label(&volume);
        found.uuid = md5::uuid(volume.header.id);
        found.block_size = u32::try_from(volume.header.block_size).ok();
        found.state = state(&volume.header);
    }
    Some(found)
}

const fn state(header: &Header) -> State {
    if header.has(attribute::INCONSISTENT | attribute::BOOT_INCONSISTENT) {
        State::Damaged
    } else if header.has(attribute::UNMOUNTED) {
        State::Clean
    } else {
        State::Dirty
    }
}

/// Finds the bytes of the HFS+ volume in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(whole) => whole.survey(region.len(), detected),
    }
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, Whole> {
    let volume = Volume::open(region)?;
    let header = &volume.header;
    if header.has(attribute::INCONSISTENT | attribute::BOOT_INCONSISTENT) {
        return Err(Whole::damaged("it says of itself that it is inconsistent, so its bitmap may be wrong"));
    }
    if header.span() > volume.place.len() {
        return Err(Whole::damaged(format_args!(
            "the volume is {} bytes long, its place {}",
            header.span(),
            volume.place.len()
        )));
    }
    check_copy(&volume)?;
    let mut own = journal::check(&volume)?;
    let mut walk = Walk::new();
    let mut runs = Runs { volume: &volume, found: MapBuilder::new(), listed: Vec::new(), beyond: None, thinned: false };
    for fork in [&header.allocation, &header.extents, &header.catalog, &header.attribute_file, &header.startup] {
        fork.runs().iter().for_each(|run| runs.add(*run));
    }
    walk.extents(&volume, &mut |run| runs.add(run)).map_err(|error| broken("tree of extents", &error))?;
    let complete = |file: u32, fork: &Fork, name: &str| {
        let whole = walk.complete(file, fork);
        whole.ok_or_else(|| Whole::damaged(format_args!("parts of the {name} are not in the tree of extents")))
    };
    let allocation = complete(walk::ALLOCATION, &header.allocation, "allocation file")?;
    let catalog = complete(walk::CATALOG, &header.catalog, "catalog")?;
    let attributes = complete(walk::ATTRIBUTES, &header.attribute_file, "tree of attributes")?;
    walk.catalog(&volume, &catalog, &mut |run| runs.add(run)).map_err(|error| broken("catalog", &error))?;
    walk.attributes(&volume, &attributes, &mut |run| runs.add(run))
        .map_err(|error| broken("tree of attributes", &error))?;
    let (walked, thinned) = runs.finish()?;
    own.extend([
        Extent::new(0, OFFSET.saturating_add(LEN as u64)),
        Extent::new(header.span().saturating_sub(1024), header.span()),
    ]);

    let mut survey = Survey::new(Some(detected.clone()), ExtentSet::new());
    let bits = bitmap(&volume, &allocation, &mut survey)?;
    unite(&volume, &bits, &walked, own, &mut survey)?;
    if thinned {
        survey.notes.push("its files are in so many pieces that gaps between them are kept as well".to_owned());
    }
    if !header.has(attribute::UNMOUNTED) {
        survey.notes.push("it was not unmounted; its journal is empty".to_owned());
    }
    for tree in &walk.unread {
        survey.notes.push(format!("{tree} is too large to be compared with the bitmap"));
    }
    if walk.bad_blocks {
        survey.notes.push("it has bad blocks on record".to_owned());
    }
    survey.usage = Some(Usage {
        used: header.blocks.saturating_sub(header.free).saturating_mul(header.block_size),
        free: header.free.saturating_mul(header.block_size),
    });
    Ok(survey)
}

fn broken(name: &str, error: &btree::Error) -> Whole {
    match error {
        btree::Error::Read(_) => Whole::because(format_args!("the {name} is broken: {error}")),
        _ => Whole::damaged(format_args!("the {name} is broken: {error}")),
    }
}

/// Compares the volume header with its copy: a wrong block size or count would shift or cut the map.
fn check_copy(volume: &Volume<'_>) -> Result<(), Whole> {
    let ends = [volume.place.len(), volume.header.span()];
    let copies = ends.map(|end| {
        let mut bytes = vec![0; LEN];
        volume.read_at(end.checked_sub(1024)?, &mut bytes).ok()?;
        Header::parse(&bytes).ok()
    });
    match copies.into_iter().flatten().next() {
        Some(copy) if copy.same_blocks(&volume.header) => Ok(()),
        Some(copy) => Err(Whole::damaged(format_args!(
            "the volume header has {} blocks of {} bytes, its copy {} of {}",
            volume.header.blocks, volume.header.block_size, copy.blocks, copy.block_size
        ))),
        None => Err(Whole::damaged("the copy of the volume header is broken")),
    }
}

/// Collects runs, in any order and in bounded memory.
struct Runs<'v, 'a> {
    volume: &'v Volume<'a>,
    found: MapBuilder,
    listed: Vec<Extent>,
    /// The first run that leaves the volume.
    beyond: Option<Run>,
    /// Whether gaps between runs were closed to save memory.
    thinned: bool,
}

impl Runs<'_, '_> {
    fn add(&mut self, run: Run) {
        if run.0.saturating_add(run.1) > self.volume.header.blocks {
            self.beyond.get_or_insert(run);
        }
        self.listed.push(self.volume.blocks(run.0, run.1));
        if self.listed.len() >= MAX_MISSING * 16 {
            self.settle();
        }
    }

    /// Joins what was listed with what was found before.
    fn settle(&mut self) {
        let (before, min_gap) = std::mem::take(&mut self.found).finish();
        self.thinned |= min_gap > 0;
        let all = before.union(&ExtentSet::from_unsorted(std::mem::take(&mut self.listed)));
        all.iter().for_each(|extent| self.found.insert(extent));
    }

    fn finish(mut self) -> Result<(ExtentSet, bool), Whole> {
        if let Some((first, count)) = self.beyond {
            return Err(Whole::damaged(format_args!(
                "a file has {count} blocks at block {first}, the volume {} blocks",
                self.volume.header.blocks
            )));
        }
        self.settle();
        let (set, min_gap) = self.found.finish();
        Ok((set, self.thinned || min_gap > 0))
    }
}

/// Reads the bitmap, in bytes of the volume, and compares it with the count of free blocks.
fn bitmap(volume: &Volume<'_>, fork: &Fork, survey: &mut Survey) -> Result<ExtentSet, Whole> {
    let header = &volume.header;
    if fork.size < header.blocks.div_ceil(8) {
        return Err(Whole::damaged(format_args!("the bitmap has {} bytes for {} blocks", fork.size, header.blocks)));
    }
    let mut builder = MapBuilder::new();
    let (mut used, mut first, mut unreadable) = (0u64, 0u64, 0u64);
    while first < header.blocks {
        let count = header.blocks.saturating_sub(first).min(PIECE.saturating_mul(8));
        let mut bytes = vec![0; usize::try_from(count.div_ceil(8)).unwrap_or(0)];
        if volume.read(fork, first / 8, &mut bytes).is_err() {
            builder.insert(volume.blocks(first, count));
            unreadable = unreadable.saturating_add(count);
        }
        bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        runs_of_ones(&bytes, count, |from, to| {
            used = used.saturating_add(to.saturating_sub(from));
            builder.insert(volume.blocks(first.saturating_add(from), to.saturating_sub(from)));
        });
        first = first.saturating_add(count);
    }
    if unreadable > 0 {
        survey.widened.push(format!("{unreadable} blocks are kept: the bitmap cannot be read there"));
    } else if used != header.blocks.saturating_sub(header.free) {
        return Err(Whole::damaged(format_args!(
            "the volume header counts {} used blocks, the bitmap {used}",
            header.blocks.saturating_sub(header.free)
        )));
    }
    let (set, min_gap) = builder.finish();
    survey.widened.extend(map::closed_gaps(min_gap));
    Ok(set)
}

/// Unites the bitmap with what must be in it and with what files use, and moves all to its place in the region.
fn unite(
    volume: &Volume<'_>,
    bits: &ExtentSet,
    walked: &ExtentSet,
    own: Vec<Extent>,
    survey: &mut Survey,
) -> Result<(), Whole> {
    let own = ExtentSet::from_unsorted(own);
    if !own.subtract(bits).is_empty() {
        return Err(Whole::damaged("the bitmap calls the volume's own structures free"));
    }
    let missing = walked.subtract(bits);
    if missing.as_slice().len() > MAX_MISSING {
        return Err(Whole::damaged("files use many blocks that the bitmap calls free"));
    }
    if !missing.is_empty() {
        let bytes = crate::units::Bytes(missing.total());
        survey.widened.push(format!("{bytes} that files use are free in the bitmap; everything around them is kept"));
        survey.detected.iter_mut().for_each(|detected| detected.state = State::Damaged);
    }
    // A bitmap that is wrong in one place may be wrong in others: all that a page of it stands for is kept.
    let around = volume.header.block_size.saturating_mul(PAGE);
    let inside = bits.union(&missing.round_out(around, volume.header.span()));
    let shift = volume.place.start;
    let mut builder = MapBuilder::new();
    builder.insert(Extent::new(0, shift));
    for extent in inside.iter() {
        builder.insert(Extent::new(extent.start.saturating_add(shift), extent.end.saturating_add(shift)));
    }
    builder.insert(Extent::new(shift.saturating_add(volume.header.span()), volume.region.len()));
    survey.allocated = builder.finish().0;
    // The copy of the header is at the end of the place, which may be in the last block or behind it.
    survey.allocated.insert(Extent::new(volume.place.end.saturating_sub(1024), volume.place.end));
    survey.name_slack(volume.place.end, volume.region);
    Ok(())
}

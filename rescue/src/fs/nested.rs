//! Volumes inside of volumes: what of a region a container gives to others, and what those keep of it.
//!
//! A container that is sound explains every signature that lies in the bytes it gives to volumes: the superblock of a
//! file system at the start of a mirror's member, of a RAID in a logical volume. What it does not give away it must
//! explain itself.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::cell::Cell;

use super::{Detected, Inside, Options, Survey, detect, lvm, map, map::MapBuilder, mapped::Mapped, md};
use crate::{
    block::{Error, ReadAt},
    escape::Escaped,
    extent::{Extent, ExtentSet},
};

/// Containers inside of each other that are looked into.
const MAX_DEPTH: u8 = 4;
/// Volumes looked into in one region, those inside of others included.
const MAX_VOLUMES: u32 = 4096;
/// Runs of bytes collected before their small gaps are closed: 32 MiB of memory.
const MAX_RUNS: usize = 2 << 20;
/// Sentences of each kind that are handed on.
const MAX_SENTENCES: usize = 100;

/// How far into a region a look may go.
pub(super) struct Depth<'a> {
    level: u8,
    /// Volumes that may yet be looked into.
    left: &'a Cell<u32>,
}

impl<'a> Depth<'a> {
    /// Starts at a region; `left` lives as long as the look does.
    pub(super) fn start(left: &'a Cell<u32>) -> Self {
        left.set(MAX_VOLUMES);
        Self { level: 0, left }
    }

    /// Returns the depth of the volumes in a container, or why they are not looked into.
    fn enter(&self) -> Result<Self, String> {
        if self.level >= MAX_DEPTH {
            return Err(format!("kept whole: volumes lie in each other more than {MAX_DEPTH} deep"));
        }
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| format!("kept whole: more than {MAX_VOLUMES} volumes lie in it"))?);
        Ok(Self { level: self.level.saturating_add(1), left: self.left })
    }
}

/// Returns the one of `found` that explains all the others; `None` where none does, or more than one.
pub(super) fn explains_all<'f>(region: &dyn ReadAt, found: &'f [Detected]) -> Option<&'f Detected> {
    // Its first bytes are a MiB or two behind the start: where a volume begins, not where one would hold them.
    if found.iter().any(|other| other.name.starts_with("VMFS")) {
        return None;
    }
    let mut owners = found.iter().filter(|owner| {
        let given = match owner.name.as_str() {
            "LVM2_member" => lvm::given(region),
            "linux_raid_member" => md::given(region),
            _ => None,
        };
        given.is_some_and(|given| {
            let rest = detect::all(&Masked { region, hidden: &given });
            matches!(rest.as_slice(), [only] if only == *owner)
        })
    });
    owners.next().filter(|_| owners.next().is_none())
}

/// A region in which some bytes read as zeros.
struct Masked<'a> {
    region: &'a dyn ReadAt,
    hidden: &'a ExtentSet,
}

impl ReadAt for Masked<'_> {
    fn len(&self) -> u64 {
        self.region.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let window = Extent::new(offset, offset.saturating_add(buf.len() as u64));
        if self.hidden.covers(window) && window.end <= self.len() {
            buf.fill(0);
            return Ok(());
        }
        self.region.read_exact_at(buf, offset)?;
        for hidden in self.hidden.within(window) {
            let place = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let Some(bytes) = buf.get_mut(place(hidden.start)..place(hidden.end)) {
                bytes.fill(0);
            }
        }
        Ok(())
    }
}

/// What the volumes of a container keep, counted in bytes of the container.
pub(super) struct Gathered {
    /// What is to be said and listed; its map is empty until [`Gathered::finish`].
    survey: Survey,
    runs: Vec<Extent>,
    zeros: Vec<Extent>,
    min_gap: u64,
    max_runs: usize,
}

impl Gathered {
    pub(super) const fn new(detected: Detected) -> Self {
        let survey = Survey::new(Some(detected), ExtentSet::new());
        Self { survey, runs: Vec::new(), zeros: Vec::new(), min_gap: 0, max_runs: MAX_RUNS }
    }

    /// Keeps `set`, which no volume looked into holds.
    pub(super) fn keep(&mut self, set: &ExtentSet) {
        self.runs.extend(set.iter());
        self.thin();
    }

    /// Lists a volume of `bytes` bytes that is not looked into.
    pub(super) fn list(&mut self, name: &str, bytes: u64, kept: u64) {
        self.survey.inside.push(Inside { name: name.to_owned(), bytes, detected: None, kept });
    }

    /// Says why more is kept than the books say.
    pub(super) fn widened(&mut self, sentence: String) {
        self.survey.widened.push(sentence);
    }

    /// Says what a person should know.
    pub(super) fn note(&mut self, sentence: String) {
        self.survey.notes.push(sentence);
    }

    /// Looks into `volume` and keeps what is needed of it.
    ///
    /// * `what`: how sentences name it: `logical volume root`.
    /// * `name`: how it is listed.
    pub(super) fn look_into(
        &mut self,
        what: &str,
        name: &str,
        volume: &Mapped<'_>,
        options: &Options,
        depth: &Depth<'_>,
    ) {
        let inner = match depth.enter() {
            Ok(depth) => super::survey_in(volume, options, &depth),
            Err(reason) => Survey::whole(volume.len(), None, reason),
        };
        let kept = inner.allocated.total();
        self.survey.inside.push(Inside { name: name.to_owned(), bytes: volume.len(), detected: inner.detected, kept });
        let within = |place: &str| format!("{name}/{place}");
        self.survey
            .inside
            .extend(inner.inside.into_iter().map(|deeper| Inside { name: within(&deeper.name), ..deeper }));
        let said = |sentence: String| format!("{what}: {sentence}");
        self.survey.widened.extend(inner.widened.into_iter().map(said));
        self.survey.notes.extend(inner.notes.into_iter().map(said));
        let left_out = inner.left_out.into_iter();
        self.survey
            .left_out
            .extend(left_out.map(|file| super::LeftOut { path: format!("{name}:{}", file.path), ..file }));
        self.runs.extend(volume.to_region(&inner.allocated).iter());
        self.zeros.extend(volume.to_region(&inner.zeros).iter());
        self.thin();
    }

    /// Closes small gaps where there are too many runs.
    fn thin(&mut self) {
        if self.runs.len() > self.max_runs {
            let (set, min_gap) = build(std::mem::take(&mut self.runs));
            self.runs = set.as_slice().to_vec();
            self.min_gap = self.min_gap.max(min_gap);
        }
        // What is not listed as zeros is read: nothing is lost with them.
        if self.zeros.len() > self.max_runs {
            self.zeros = Vec::new();
        }
    }

    /// Returns the survey of the whole container.
    pub(super) fn finish(mut self) -> Survey {
        let (set, min_gap) = build(self.runs);
        self.survey.zeros = ExtentSet::from_unsorted(self.zeros).intersect(&set);
        self.survey.allocated = set;
        self.survey.widened.extend(map::closed_gaps(self.min_gap.max(min_gap)));
        shorten(&mut self.survey.widened);
        shorten(&mut self.survey.notes);
        self.survey
    }
}

fn shorten(sentences: &mut Vec<String>) {
    let more = sentences.len().saturating_sub(MAX_SENTENCES);
    if more > 0 {
        sentences.truncate(MAX_SENTENCES);
        sentences.push(format!("and {more} more of the kind"));
    }
}

fn build(runs: Vec<Extent>) -> (ExtentSet, u64) {
    let mut builder = MapBuilder::new();
    ExtentSet::from_unsorted(runs).iter().for_each(|run| builder.insert(run));
    builder.finish()
}

/// Joins names for a sentence: the first few, and how many more.
pub(super) fn names(all: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = all.iter().take(SHOWN).map(|name| Escaped(name).to_string()).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    #[test]
    fn hidden_bytes_read_as_zeros() {
        let region = MemoryDisk::new(vec![7; 64], SectorSize::B512);
        let hidden = [Extent::new(8, 16), Extent::new(30, 64)].into_iter().collect::<ExtentSet>();
        let masked = Masked { region: &region, hidden: &hidden };
        let mut bytes = [1; 64];
        masked.read_exact_at(&mut bytes, 0).unwrap();
        let want = (0..64).map(|at| if hidden.contains(at) { 0 } else { 7 }).collect::<Vec<_>>();
        assert_eq!(bytes[..], want);
        masked.read_exact_at(&mut bytes[..10], 54).unwrap();
        assert_eq!(bytes[..10], [0; 10]);
        assert!(masked.read_exact_at(&mut bytes[..10], 55).is_err());
        assert!(masked.read_exact_at(&mut bytes[..10], u64::MAX).is_err());
    }

    #[test]
    fn too_many_runs_close_their_gaps() {
        let mut gathered = Gathered { max_runs: 8, ..Gathered::new(detect_nothing()) };
        for number in 0..40u64 {
            gathered.keep(&ExtentSet::from(Extent::new(number * 1000, number * 1000 + 100)));
            gathered.widened("because".to_owned());
        }
        assert!(gathered.runs.len() <= 40);
        let survey = gathered.finish();
        assert!((0..40).all(|number| survey.allocated.covers(Extent::new(number * 1000, number * 1000 + 100))));
        let names = (0..10).map(|number| format!("lv{number}")).collect::<Vec<_>>();
        assert_eq!(super::names(&names), "lv0, lv1, lv2, lv3, lv4, lv5, lv6, lv7 and 2 more");
        let mut many = vec![String::new(); 130];
        shorten(&mut many);
        assert_eq!((many.len(), many[100].as_str()), (101, "and 30 more of the kind"));
    }

    fn detect_nothing() -> Detected {
        Detected {
            name: "nothing".to_owned(),
            version: None,
            label: None,
            uuid: None,
            block_size: None,
            state: crate::fs::State::Unknown,
        }
    }
}

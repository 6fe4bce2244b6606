//! The records' word against the bitmap's: clusters that any record in use has are kept, whatever `$Bitmap` says.
//!
//! Every record of the MFT is looked at, base records and those that continue others alike, so that no list has to be
//! followed to reach a run. A record is in use if it says so or if the bitmap of the MFT says so. One that is in use
//! and contradicts itself may have any cluster: then everything is kept. One of nothing but zeros, or in a bad sector,
//! tells nobody of any: then the bitmap alone decides, and a note says so.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume, Whole,
    mft::Stream,
    record::{Attribute, Record, kind, unfix},
    swap::{self, Specials},
};
use crate::{
    bytes::Fields,
    extent::{Extent, ExtentSet},
    fs::{State, Survey},
    units::Bytes,
};

/// Bytes of the MFT read at once.
const WINDOW: usize = 1 << 20;
/// Runs missing from the bitmap that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;

/// Records looked at; to read more would take longer than to keep what they stand for is worth.
const MAX_RECORDS: u64 = 1 << 26;
/// Records below this are the system's own files: a bitmap that calls their clusters free is no bitmap.
const SYSTEM: u64 = 16;

/// Adds what records have to the map of `survey`, and takes from `specials` what somebody else has as well.
pub(super) fn unite(volume: &Volume<'_>, specials: &mut Specials, survey: &mut Survey) -> Result<(), Whole> {
    let mft = &volume.mft;
    if mft.records > MAX_RECORDS {
        let reason = format_args!("it has {} files, more than are compared with $Bitmap", mft.records);
        return Err(Whole::new(State::Unknown, reason));
    }
    let in_use = InUse::open(volume)?;
    let mut walk = Walk { volume, in_use, specials, missing: Vec::new(), unreadable: 0, blank: 0, unlisted: 0 };
    let mut window = vec![0; WINDOW];
    let mut number = 0;
    while number < mft.records {
        let left = mft.records.saturating_sub(number).saturating_mul(mft.boot.record as u64);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW);
        let Some(bytes) = window.get_mut(..len).filter(|bytes| !bytes.is_empty()) else { break };
        let offset = number.saturating_mul(mft.boot.record as u64);
        let whole = mft.runs.read(volume.region, mft.boot.cluster, offset, bytes).is_ok();
        for (index, record) in (0u64..).zip(bytes.chunks_exact_mut(mft.boot.record)) {
            let offset = offset.saturating_add(index.saturating_mul(mft.boot.record as u64));
            // Somewhere in the window is a bad sector; it matters only to the records it lies in.
            if whole || mft.runs.read(volume.region, mft.boot.cluster, offset, record).is_ok() {
                walk.record(number, record, &survey.allocated)?;
            } else {
                walk.unreadable = walk.unreadable.saturating_add(1);
            }
            number = number.saturating_add(1);
        }
    }
    walk.finish(survey);
    Ok(())
}

/// The bitmap of the MFT: which records are in use.
struct InUse<'v, 'a> {
    volume: &'v Volume<'a>,
    stream: Stream,
    first: u64,
    bytes: Vec<u8>,
}

impl<'v, 'a> InUse<'v, 'a> {
    fn open(volume: &'v Volume<'a>) -> Result<Self, Whole> {
        let stream = volume.mft.stream(volume.region, 0, kind::BITMAP, &[]).map_err(Whole::damaged)?;
        let (bytes, records) = (stream.size(), volume.mft.records);
        if bytes < records.div_ceil(8) || !stream.is_plain() {
            return Err(Whole::damaged(format_args!(
                "the bitmap of the MFT has {bytes} bytes, or holes, for {records} records"
            )));
        }
        Ok(Self { volume, stream, first: 0, bytes: Vec::new() })
    }

    fn has(&mut self, number: u64) -> Result<bool, Whole> {
        let at = number >> 3;
        if at < self.first || at.saturating_sub(self.first) >= self.bytes.len() as u64 {
            let len = self.stream.size().saturating_sub(at).min(WINDOW as u64);
            self.bytes.resize(usize::try_from(len).unwrap_or(0), 0);
            self.first = at;
            self.stream
                .read(self.volume.region, self.volume.mft.boot.cluster, at, &mut self.bytes)
                .map_err(|error| Whole::damaged(format_args!("the bitmap of the MFT cannot be read: {error}")))?;
        }
        let byte = usize::try_from(at.saturating_sub(self.first)).ok().and_then(|index| self.bytes.get(index));
        Ok(byte.is_some_and(|byte| byte >> (number & 7) & 1 == 1))
    }
}

struct Walk<'v, 'a, 's> {
    volume: &'v Volume<'a>,
    in_use: InUse<'v, 'a>,
    specials: &'s mut Specials,
    missing: Vec<Extent>,
    /// Records in bad sectors.
    unreadable: u64,
    /// Records that should be in use and are nothing but zeros.
    blank: u64,
    /// Records in use that the bitmap of the MFT calls free.
    unlisted: u64,
}

impl Walk<'_, '_, '_> {
    fn record(&mut self, number: u64, bytes: &mut [u8], map: &ExtentSet) -> Result<(), Whole> {
        let listed = self.in_use.has(number)?;
        let f = Fields(bytes);
        let says_so = f.has(0, b"FILE") && f.u16(22).is_ok_and(|flags| flags & 1 != 0);
        if !listed && !says_so {
            return Ok(());
        }
        self.unlisted = self.unlisted.saturating_add(u64::from(!listed));
        // One that was never written, as after a power cut, says nothing of clusters to any reader.
        if bytes.iter().all(|byte| *byte == 0) {
            self.blank = self.blank.saturating_add(1);
            return Ok(());
        }
        let broken = |error| Whole::damaged(format_args!("record {number} of the MFT is broken: {error}"));
        unfix(bytes, b"FILE").map_err(broken)?;
        let record = Record::parse(bytes).map_err(broken)?;
        let before = self.missing.len();
        for attribute in record.attributes() {
            let attribute = attribute.map_err(broken)?;
            if swap::is_hibernation(&attribute) && !self.specials.knows(record.base.unwrap_or(number)) {
                return Err(Whole::damaged(format_args!(
                    "record {number} of the MFT is a hibernation file that the root folder does not list"
                )));
            }
            self.attribute(record.base.unwrap_or(number), &attribute, map).map_err(|error| broken(error.into()))?;
        }
        if self.missing.len() > before && record.base.unwrap_or(number) < SYSTEM {
            return Err(Whole::damaged(format_args!("$Bitmap calls clusters of the system's own file {number} free")));
        }
        if self.missing.len() >= MAX_MISSING {
            return Err(Whole::damaged("files have many clusters that $Bitmap calls free"));
        }
        Ok(())
    }

    fn attribute(&mut self, file: u64, attribute: &Attribute<'_>, map: &ExtentSet) -> Result<(), super::runs::Error> {
        let boot = &self.volume.mft.boot;
        let Self { specials, missing, .. } = self;
        let own = attribute.is(kind::DATA, &[]).then_some(file);
        attribute.each_run(boot.clusters, &mut |run| {
            let Some(start) = run.start else { return };
            let extent = boot.bytes(start, run.len);
            specials.claim(own, extent);
            if missing.len() < MAX_MISSING && !map.covers(extent) {
                missing.push(extent);
            }
        })
    }

    fn finish(self, survey: &mut Survey) {
        if self.unreadable > 0 {
            survey.notes.push(format!(
                "{} records of the MFT cannot be read; their clusters were taken from $Bitmap alone",
                self.unreadable
            ));
        }
        if self.blank > 0 {
            survey.notes.push(format!(
                "{} records of the MFT are empty that its bitmap calls in use; their clusters were taken from $Bitmap alone",
                self.blank
            ));
        }
        if self.unlisted > 0 {
            survey.notes.push(format!("{} files are in use that the bitmap of the MFT calls free", self.unlisted));
        }
        if !self.missing.is_empty() {
            let missing = ExtentSet::from_unsorted(self.missing).subtract(&survey.allocated);
            survey.widened.push(format!("{} that files have are free in $Bitmap, and kept", Bytes(missing.total())));
            survey.allocated = survey.allocated.union(&missing);
        }
        let contradictory = [self.unreadable, self.blank, self.unlisted].iter().any(|count| *count > 0);
        if let (true, Some(detected)) = (contradictory || !survey.widened.is_empty(), &mut survey.detected)
            // What was cut off in mid-write may contradict itself.
            && detected.state != State::Dirty
        {
            detected.state = State::Damaged;
        }
    }
}

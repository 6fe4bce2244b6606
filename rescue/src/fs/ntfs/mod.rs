//! NTFS: the allocation map from `$Bitmap`, checked against every record of the MFT.
//!
//! ```text
//! | boot sector | clusters ...                                        | copy of the boot sector | slack |
//!                $MFT: records of all files, wherever its own record 0 says its pieces are
//!                0 $MFT 1 $MFTMirr 2 $LogFile 3 $Volume 5 root folder 6 $Bitmap 7 $Boot 8 $BadClus ...
//! ```
//!
//! Everything is a file, the bitmap and the MFT included, so one walk over all records meets every cluster that is in
//! use. Bitmap and walk are united. Where the way to them is in doubt (boot sector and copy, MFT and mirror, records,
//! root folder), or the memory of some system knows more than the disk (a log that is not clean, hibernation), the
//! region is kept whole.
//!
//! Source: ntfs-3g, include/ntfs-3g/layout.h; Linux kernel, fs/ntfs3; nothing official is published.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod bitmap;
pub mod boot;
pub mod log;
pub mod mft;
pub mod record;
pub mod runs;
mod swap;
mod walk;

use std::fmt;

use super::{Detected, Options, State, Survey, Usage, label::utf16, map};
use crate::{
    block::ReadAt,
    bytes::Fields,
    extent::{Extent, ExtentSet},
};
use boot::Boot;
use log::Log;
use mft::Mft;
use record::{Attribute, Record, kind, unfix};

const MIRROR: u64 = 1;
const LOG: u64 = 2;
const VOLUME: u64 = 3;
/// Records that `$MFTMirr` has at least.
const MIRRORED: u64 = 4;
/// `$Volume`: to be checked, or a check was cut off.
const DIRTY: u16 = 1 | 0x4000;

/// A volume whose MFT was found.
pub(super) struct Volume<'a> {
    region: &'a dyn ReadAt,
    mft: Mft,
}

/// Why a region is kept whole.
#[derive(Debug)]
pub(super) struct Whole {
    reason: String,
    state: State,
}

impl Whole {
    fn new(state: State, reason: impl fmt::Display) -> Self {
        Self { reason: format!("kept whole: {reason}"), state }
    }

    fn damaged(reason: impl fmt::Display) -> Self {
        Self::new(State::Damaged, reason)
    }

    fn hibernated(reason: impl fmt::Display) -> Self {
        Self::new(State::Hibernated, reason)
    }
}

/// What `$Volume` says.
#[derive(Debug, Default)]
struct About {
    label: Option<String>,
    version: (u8, u8),
    flags: u16,
}

/// Names the NTFS file system in `region`; one whose boot sector contradicts itself as damaged.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let bytes = sector(region, 0)?;
    match Boot::parse(&bytes) {
        Ok(boot) => {
            let about = Mft::open(region, boot).ok().and_then(|mft| about(&Volume { region, mft }).ok());
            Some(describe(&boot, about.as_ref()))
        }
        Err(boot::Error::Magic | boot::Error::Fat | boot::Error::Truncated(_)) => None,
        Err(_) => Some(Detected { state: State::Damaged, ..unnamed() }),
    }
}

/// Names the NTFS file system whose boot sector is gone but whose copy is in the last sector of `region`.
#[must_use]
pub fn detect_by_backup(region: &dyn ReadAt) -> Option<(Detected, u64)> {
    [512, 1024, 2048, 4096, 256].into_iter().find_map(|back| {
        let offset = region.len().checked_sub(back)?;
        // The last sector of 256 bytes is all there is of it; the rest of a boot sector is code.
        let mut bytes = vec![0; usize::try_from(back.min(512)).ok()?];
        region.read_exact_at(&mut bytes, offset).ok()?;
        let boot = Boot::parse(&bytes).ok().filter(|boot| boot.volume_len() == offset)?;
        Some((Detected { state: State::Damaged, ..describe(&boot, None) }, offset))
    })
}

fn sector(region: &dyn ReadAt, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; boot::LEN];
    region.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
}

fn unnamed() -> Detected {
    Detected {
        name: "ntfs".to_owned(),
        version: None,
        label: None,
        uuid: None,
        block_size: None,
        state: State::Unknown,
    }
}

fn describe(boot: &Boot, about: Option<&About>) -> Detected {
    Detected {
        version: about.map(|about| format!("{}.{}", about.version.0, about.version.1)),
        label: about.and_then(|about| about.label.clone()),
        uuid: Some(format!("{:016X}", boot.serial)),
        block_size: u32::try_from(boot.cluster).ok(),
        state: about.map_or(State::Unknown, |about| if about.flags & DIRTY == 0 { State::Clean } else { State::Dirty }),
        ..unnamed()
    }
}

/// Finds the bytes of the NTFS file system in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected, options: &Options) -> Survey {
    let mut survey = Survey::new(Some(detected), ExtentSet::new());
    if let Err(whole) = fill(region, options, &mut survey) {
        survey.allocated = ExtentSet::full(region.len());
        survey.widened = vec![whole.reason];
        if let Some(detected) = &mut survey.detected {
            detected.state = whole.state;
        }
    }
    survey
}

fn fill(region: &dyn ReadAt, options: &Options, survey: &mut Survey) -> Result<(), Whole> {
    let boot = read_boot(region, survey)?;
    let volume = Volume { region, mft: Mft::open(region, boot).map_err(Whole::damaged)? };
    let bits = bitmap::read(&volume)?;
    let to_bytes = |clusters: u64| clusters.saturating_mul(boot.cluster);
    survey.usage =
        Some(Usage { used: to_bytes(bits.clusters), free: to_bytes(boot.clusters.saturating_sub(bits.clusters)) });
    check_about(&volume, survey)?;
    // What is hibernated leaves a log that is not clean; its name says more.
    let mut specials = swap::Specials::find(&volume)?;
    check_log(&volume)?;
    check_mirror(&volume, survey)?;
    survey.allocated = bits.used.union(&outside(&volume));
    survey.name_slack(volume.mft.boot.volume_len(), volume.region);
    walk::unite(&volume, &mut specials, survey)?;
    survey.widened.extend(map::closed_gaps(bits.min_gap));
    specials.leave_out(options.keep_swap_files, survey);
    Ok(())
}

/// Reads the boot sector and compares it with its copy: a wrong one would shift every cluster.
fn read_boot(region: &dyn ReadAt, survey: &mut Survey) -> Result<Boot, Whole> {
    let broken = |error: &dyn fmt::Display| {
        Whole::damaged(match detect_by_backup(region) {
            Some((_, offset)) => {
                format!("the boot sector is broken ({error}); there is a copy at byte {offset:#x}")
            }
            None => format!("the boot sector is broken ({error})"),
        })
    };
    let bytes = sector(region, 0).ok_or_else(|| broken(&"it cannot be read"))?;
    let boot = Boot::parse(&bytes).map_err(|error| broken(&error))?;
    if boot.volume_len() > region.len() {
        return Err(Whole::damaged(format_args!(
            "the volume is {} bytes long, its region {}",
            boot.volume_len(),
            region.len()
        )));
    }
    // A copy of another volume's serial number is still one of this volume's places.
    match sector(region, boot.volume_len()).map(|bytes| Boot::parse(&bytes)) {
        Some(Ok(copy)) if (Boot { serial: boot.serial, ..copy }) == boot => {}
        Some(Ok(_)) => return Err(Whole::damaged("the boot sector and its copy disagree")),
        _ => survey.notes.push("the copy of the boot sector behind the volume is missing or broken".to_owned()),
    }
    Ok(boot)
}

/// Reads label, version and flags from `$Volume`.
fn about(volume: &Volume<'_>) -> Result<About, Whole> {
    let bytes = volume.mft.record(volume.region, VOLUME).map_err(Whole::damaged)?;
    let broken = |error| Whole::damaged(mft::Error::Broken(VOLUME, error));
    let record = Record::parse(&bytes).map_err(broken)?;
    let (mut about, mut found) = (About::default(), false);
    for attribute in record.attributes() {
        let attribute: Attribute<'_> = attribute.map_err(broken)?;
        let Some(value) = attribute.value() else { continue };
        match attribute.kind {
            kind::VOLUME_NAME => about.label = utf16(value),
            kind::VOLUME_INFORMATION => {
                let f = Fields(value);
                let fields = || Ok((f.u8(8)?, f.u8(9)?, f.u16(10)?));
                let (major, minor, flags) = fields().map_err(|error: crate::bytes::Truncated| broken(error.into()))?;
                (about.version, about.flags, found) = ((major, minor), flags, true);
            }
            _ => {}
        }
    }
    if found { Ok(about) } else { Err(Whole::damaged(mft::Error::Lacking(VOLUME))) }
}

fn check_about(volume: &Volume<'_>, survey: &mut Survey) -> Result<(), Whole> {
    let about = about(volume)?;
    survey.detected = Some(describe(&volume.mft.boot, Some(&about)));
    if !matches!(about.version, (1, 1 | 2) | (2, _) | (3, 0 | 1)) {
        let (major, minor) = about.version;
        return Err(Whole::new(State::Unknown, format_args!("NTFS {major}.{minor} is not read yet")));
    }
    if about.flags & DIRTY != 0 {
        survey.notes.push("it is marked to be checked by chkdsk".to_owned());
    }
    Ok(())
}

fn check_log(volume: &Volume<'_>) -> Result<(), Whole> {
    let log = volume.mft.stream(volume.region, LOG, kind::DATA, &[]).map_err(Whole::damaged)?;
    let read = |at: u64, buf: &mut [u8]| log.read(volume.region, volume.mft.boot.cluster, at, buf);
    match log::state(log.size(), &read) {
        Ok(Log::Clean) => Ok(()),
        Ok(Log::Waits(reason)) => Err(Whole::new(State::Dirty, reason)),
        Err(error) => Err(Whole::new(State::Dirty, format_args!("its log cannot be read: {error}"))),
    }
}

/// Compares the first records with their copies. A copy is read only where the original cannot be, so one that is old
/// or broken harms nobody; but where the copy of record 0 leads to another MFT, either may be the true one.
fn check_mirror(volume: &Volume<'_>, survey: &mut Survey) -> Result<(), Whole> {
    let boot = &volume.mft.boot;
    let mirror = volume.mft.stream(volume.region, MIRROR, kind::DATA, &[]).map_err(Whole::damaged)?;
    let mft::Stream::Runs { runs, .. } = &mirror else {
        return Err(Whole::damaged("$MFTMirr has no clusters"));
    };
    if runs.on_volume().next().is_none_or(|(start, _)| start != boot.mirror) {
        return Err(Whole::damaged("$MFTMirr is not where the boot sector says"));
    }
    let mut differing = Vec::new();
    for number in 0..MIRRORED.min(volume.mft.records) {
        let original = volume.mft.record(volume.region, number).map_err(Whole::damaged)?;
        let mut copy = vec![0; boot.record];
        let offset = number.saturating_mul(boot.record as u64);
        let read = mirror.read(volume.region, boot.cluster, offset, &mut copy).is_ok();
        let intact = read && unfix(&mut copy, b"FILE").is_ok();
        if number == 0 && intact && !mft::continues(&original, &copy, boot.clusters) {
            return Err(Whole::damaged("$MFT and its copy in $MFTMirr disagree about where the MFT is"));
        }
        if !intact || in_use_part(&copy) != in_use_part(&original) {
            differing.push(number);
        }
    }
    if !differing.is_empty() {
        survey.notes.push(format!("$MFT and $MFTMirr differ in records {differing:?}; $MFT is believed"));
        match &mut survey.detected {
            // What was cut off in mid-write may have an old copy.
            Some(detected) if detected.state != State::Dirty => detected.state = State::Damaged,
            _ => {}
        }
    }
    Ok(())
}

/// Returns the part of a record that means something, without the number that changes with each write.
fn in_use_part(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let f = Fields(record);
    let used = usize::try_from(f.u32(24).ok()?).ok()?.min(record.len());
    let first = usize::from(f.u16(20).ok()?).min(used);
    Some((record.get(16..44)?, record.get(first..used)?))
}

/// Returns what is kept without asking the bitmap: boot area, the places the boot sector names, and all behind the
/// last cluster, where the copy of the boot sector is. NT 3.51 and older put that copy in the middle.
fn outside(volume: &Volume<'_>) -> ExtentSet {
    let boot = &volume.mft.boot;
    let all = Extent::new(0, volume.region.len());
    let record = boot.record as u64;
    let mut extents = vec![
        Extent::new(0, boot::BOOT_AREA),
        boot.bytes(boot.mft, record.div_ceil(boot.cluster)),
        boot.bytes(boot.mirror, record.saturating_mul(MIRRORED).div_ceil(boot.cluster)),
        Extent::new(boot.bytes(0, boot.clusters).end, all.end),
    ];
    let middle = (boot.sectors >> 1).saturating_mul(boot.sector);
    if sector(volume.region, middle).is_some_and(|bytes| Boot::parse(&bytes).is_ok()) {
        extents.push(Extent::new(middle, middle.saturating_add(boot::LEN as u64)));
    }
    extents.into_iter().map(|extent| extent.intersect(all)).collect()
}

//! Btrfs: the allocation map from chunk tree and extent tree, for every mirror on this device.
//!
//! ```text
//! superblock → system chunks → chunk tree → all chunks: logical address → places on devices
//!            → root tree → extent tree: used logical addresses
//!                        → block groups, free-space tree, device tree, file trees: what must agree with them
//!            → log tree: what was synced since, and the extent tree does not know
//!            → roots of the last generations, as far as they are still there
//! ```
//!
//! Space that no chunk was made of is free. A block group whose counter, extents and free space do not agree is kept
//! whole. What cannot be told by the trees keeps all chunks whole, and a chunk tree that is not sound, or that no device
//! tree confirms, the region.
//!
//! A device of several knows what it held at its own superblock's commit; one of the others may be a commit ahead, with
//! data of it here. So all chunks of such a device are kept whole, too.
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h and fs/btrfs; the on-disk format's page of Btrfs' documentation.

pub mod checksum;
pub mod chunks;
pub mod devices;
pub mod extents;
pub mod log;
pub mod map;
pub mod proof;
pub mod roots;
pub mod superblock;
pub mod tree;

use std::cell::RefCell;

use super::{Detected, State, Survey, label::text, whole::Whole};
use crate::{
    block::ReadAt,
    bytes::Fields,
    extent::Extent,
    units::{KIB, MIB},
};
use chunks::Chunks;
use superblock::{Copy, Superblock, feature};
use tree::Pointer;

/// Copies of tree blocks that are named before they are only counted.
const NAMED: usize = 4;

/// A file system whose chunks are known.
pub(super) struct Volume<'a> {
    region: &'a dyn ReadAt,
    sb: Superblock,
    chunks: Chunks,
    /// Why a copy of a tree block was not taken although another one was good: the first ones, and how many.
    bad_copies: RefCell<(Vec<String>, u64)>,
}

impl Volume<'_> {
    /// Tells whether the file system has parts on other devices.
    fn is_spread(&self) -> bool {
        self.sb.num_devices != 1 || self.chunks.iter().any(|chunk| chunk.is_elsewhere(self.sb.devid))
    }

    /// Reads and checks the tree block `pointer` points to, from the first of its mirrors on this device that is good.
    fn block(&self, pointer: &Pointer) -> Result<Vec<u8>, tree::Error> {
        let logical = pointer.logical;
        let chunk = self.chunks.holding(logical).ok_or(tree::Error::NoChunk(logical))?;
        let mut first = None;
        for place in chunk.places(self.sb.devid, pointer.extent(self.sb.nodesize)) {
            match self.copy(pointer, place) {
                Ok(bytes) => {
                    if let Some(error) = first {
                        self.remember(&error);
                    }
                    return Ok(bytes);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(tree::Error::Elsewhere(logical)))
    }

    fn copy(&self, pointer: &Pointer, place: Extent) -> Result<Vec<u8>, tree::Error> {
        let (logical, offset) = (pointer.logical, place.start);
        let mut bytes = vec![0; self.sb.node_len()];
        self.region.read_exact_at(&mut bytes, offset).map_err(|_| tree::Error::Unreadable { logical, offset })?;
        if !self.sb.checksum.fits(&bytes) {
            return Err(tree::Error::Checksum { logical, offset });
        }
        tree::check(&bytes, pointer, &self.sb.metadata_uuid)?;
        Ok(bytes)
    }

    fn remember(&self, error: &tree::Error) {
        let mut bad = self.bad_copies.borrow_mut();
        bad.1 = bad.1.saturating_add(1);
        if bad.0.len() < NAMED {
            bad.0.push(format!("{error}; a mirror of it is good"));
        }
    }
}

/// Names the Btrfs in `region`; one with a broken superblock as damaged.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    describe(region, 64 * KIB)
}

/// Names the Btrfs whose first superblock is gone but which has a copy.
#[must_use]
pub fn detect_by_copy(region: &dyn ReadAt) -> Option<Detected> {
    let copy = superblock::read_all(region).into_iter().skip(1).find(|copy| copy.found.is_ok())?;
    describe(region, copy.offset).map(|found| Detected { state: State::Damaged, ..found })
}

fn describe(region: &dyn ReadAt, offset: u64) -> Option<Detected> {
    let mut bytes = vec![0; superblock::LEN];
    region.read_exact_at(&mut bytes, offset).ok()?;
    let f = Fields(&bytes);
    let state = match Superblock::parse(&bytes, offset) {
        Ok(sb) if sb.flags & feature::FLAG_ERROR != 0 => State::Damaged,
        Ok(sb) if sb.log_root.is_some() => State::Dirty,
        Ok(_) => State::Clean,
        Err(superblock::Error::Magic) => return None,
        Err(superblock::Error::ChecksumType(_)) => State::Unknown,
        Err(_) => State::Damaged,
    };
    Some(Detected {
        name: "btrfs".to_owned(),
        version: None,
        label: bytes.get(299..555).and_then(text),
        uuid: f.array(32).ok().map(|raw: [u8; 16]| uuid::Uuid::from_bytes(raw).to_string()),
        block_size: f.u32(144).ok(),
        state,
    })
}

/// Finds the bytes of the Btrfs in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(whole) => whole.survey(region.len(), detected),
    }
}

/// What is found out on the way to a map.
#[derive(Debug, Default)]
struct Report {
    widened: Vec<String>,
    notes: Vec<String>,
    damaged: bool,
    /// Why the trees say too little about the chunks' contents.
    coarse: Option<String>,
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, Whole> {
    let copies = superblock::read_all(region);
    let mut report = Report::default();
    let sb = choose(&copies, &mut report)?;
    check_features(&sb, &mut report)?;
    check_device(&sb, region.len())?;
    let system = Chunks::of_system(&sb.sys_chunks, sb.sectorsize).map_err(Whole::damaged)?;
    let mut volume = Volume { region, sb, chunks: system, bad_copies: RefCell::default() };
    let all = roots::chunks(&volume)?;
    let system = std::mem::replace(&mut volume.chunks, all);
    map::build(&volume, &system, report, detected)
}

/// Takes the first superblock, or else the newest copy, and says where others differ from it.
fn choose(copies: &[Copy], report: &mut Report) -> Result<Superblock, Whole> {
    let good = || copies.iter().filter_map(|copy| Some((copy.offset, copy.found.as_ref().ok()?)));
    let first = copies.first().ok_or_else(|| Whole::damaged("it is too short for a superblock"))?;
    let sb = match &first.found {
        Ok(sb) => sb,
        Err(error) => {
            let broken = format!("the superblock at byte {:#x} is broken ({error})", first.offset);
            let Some((offset, newest)) = good().max_by_key(|(_, sb)| sb.generation) else {
                return Err(Whole::damaged(broken));
            };
            let sentence = format!("{broken}; there is a copy at byte {offset:#x}");
            if matches!(error, superblock::Error::Magic | superblock::Error::Unreadable) {
                // Copies outlive their file system: something else may be here that nobody recognised.
                return Err(Whole::damaged(sentence));
            }
            // Only the first superblock knows of a log tree: what was synced last may be in any chunk.
            report.damaged = true;
            report.coarse = Some(sentence);
            newest
        }
    };
    // Copies beyond the end of the file system are not its own; the kernel writes none that ends with it, either.
    let inside = |copy: &&Copy| copy.offset.saturating_add(superblock::LEN as u64) < sb.dev_total_bytes;
    for copy in copies.iter().skip(1).filter(inside) {
        let at = copy.offset;
        match &copy.found {
            Ok(other) if !other.is_copy_of(sb) => {
                report.notes.push(format!("the superblock at byte {at:#x} is one of another file system"));
            }
            Ok(other) if other.generation > sb.generation => {
                return Err(Whole::damaged(format_args!(
                    "the superblock at byte {at:#x} is of generation {}, the first one of {}",
                    other.generation, sb.generation
                )));
            }
            Ok(other) if other.generation < sb.generation => report.notes.push(format!(
                "the superblock at byte {at:#x} is of generation {}, the first one of {}",
                other.generation, sb.generation
            )),
            Ok(_) => {}
            Err(error) => report.notes.push(format!("the superblock at byte {at:#x} is broken: {error}")),
        }
    }
    Ok(sb.clone())
}

/// Refuses to read what is laid out in ways that are not read here.
fn check_features(sb: &Superblock, report: &mut Report) -> Result<(), Whole> {
    use feature::*;
    for (bit, what) in [
        (INCOMPAT_ZONED, "it is on a zoned device"),
        (INCOMPAT_EXTENT_TREE_V2, "it has the second version of the extent tree, which is not read yet"),
        (INCOMPAT_RAID_STRIPE_TREE, "it has a stripe tree, which is not read yet"),
        (INCOMPAT_REMAP_TREE, "it has a remap tree, which is not read yet"),
    ] {
        if sb.incompat & bit != 0 {
            return Err(Whole::because(what));
        }
    }
    for (kind, unknown) in [
        ("incompatible", sb.incompat & !INCOMPAT_READ),
        ("read-only compatible", sb.compat_ro & !RO_READ),
        ("compatible", sb.compat),
    ] {
        if unknown != 0 {
            return Err(Whole::because(format_args!("it has unknown {kind} features {unknown:#x}")));
        }
    }
    if sb.incompat & INCOMPAT_MIXED_BACKREF == 0 {
        return Err(Whole::because("its extent references are of before 2009"));
    }
    check_flags(sb, report)
}

fn check_flags(sb: &Superblock, report: &mut Report) -> Result<(), Whole> {
    use feature::*;
    for (bit, what) in [
        (FLAG_ERROR, "it says of itself that it has errors"),
        (FLAG_CHANGING_FSID, "a change of the UUID in all its tree blocks was interrupted"),
        (FLAG_CHANGING_META_CSUM, "a change of the checksums of its tree blocks was interrupted"),
        (FLAG_METADUMP, "it is a dump of metadata"),
    ] {
        if sb.flags & bit != 0 {
            return Err(Whole::damaged(what));
        }
    }
    for (bit, what) in [
        (FLAG_SEEDING, "it is a seed for other file systems"),
        (FLAG_METADUMP_V2, "it was restored from a dump of metadata"),
        (FLAG_CHANGING_FSID_V2, "a change of its UUID was interrupted"),
        (FLAG_CHANGING_BG_TREE, "a conversion of its block groups was interrupted"),
        (FLAG_CHANGING_DATA_CSUM, "a change of the checksums of its files was interrupted"),
    ] {
        if sb.flags & bit != 0 {
            report.notes.push(what.to_owned());
        }
    }
    let known = FLAG_SEEDING
        | FLAG_METADUMP_V2
        | FLAG_CHANGING_FSID_V2
        | FLAG_CHANGING_BG_TREE
        | FLAG_CHANGING_DATA_CSUM
        // Written, relocated: of every tree block.
        | 3;
    if sb.flags & !known != 0 {
        return Err(Whole::because(format_args!("its superblock has unknown flags {:#x}", sb.flags & !known)));
    }
    Ok(())
}

fn check_device(sb: &Superblock, len: u64) -> Result<(), Whole> {
    if sb.devid == 0 {
        return Err(Whole::because("it is the target of a device replacement that did not end"));
    }
    if sb.dev_total_bytes > len {
        return Err(Whole::damaged(format_args!(
            "the file system uses {} bytes of its device, the region has {len}",
            sb.dev_total_bytes
        )));
    }
    if sb.dev_total_bytes < MIB {
        return Err(Whole::damaged(format_args!("the file system uses {} bytes of its device", sb.dev_total_bytes)));
    }
    Ok(())
}

//! XFS, versions 4 and 5: the allocation map from the free-space trees of all allocation groups.
//!
//! ```text
//! region: | group 0 | group 1 | ... | last group, often shorter | slack |
//! group:  | superblock, AGF, AGI, AGFL | blocks: trees, inodes, files, in one group the log; what is left is free |
//! ```
//!
//! Each group has two trees of its free runs, by block and by length, and says how many blocks are in them and how long
//! the longest is. A group in which these four do not agree, or of which a header or a tree block is damaged, is kept
//! whole. Headers, trees, free lists, the log and inode chunks must not be free; what inodes use, or the tree of used
//! runs names, is kept whatever the trees say. A log that is not clean is read: what is free both before and after
//! a replay is free.
//!
//! A realtime device is another device: its blocks are not of this region, and what the groups say holds without it.

pub mod ag;
pub mod btree;
pub mod inode;
pub mod log;
pub mod map;
pub mod replay;
pub mod superblock;
#[cfg(test)]
mod testing;
pub mod walk;

use super::{Detected, State, Survey, label::text, whole::Whole};
use crate::{
    block::{self, ReadAt},
    bytes::Fields,
    units::Bytes,
};
use log::Log;
use replay::Copies;
use superblock::{Geometry, Superblock, feature};

/// An XFS file system whose superblock was found sound enough to read its groups.
pub(super) struct Volume<'a> {
    region: &'a dyn ReadAt,
    sb: &'a Superblock,
    geometry: Geometry,
}

/// The blocks of a volume as they are on disk, or as a replay of its log would leave them.
#[derive(Clone, Copy)]
pub struct View<'v> {
    volume: &'v Volume<'v>,
    copies: Option<&'v Copies>,
}

impl View<'_> {
    /// Returns the `len` bytes at `offset`, and whether they come from the log: those have no checksum yet.
    fn read(&self, offset: u64, len: usize) -> Result<(Vec<u8>, bool), block::Error> {
        if let Some(copy) = self.copies.and_then(|copies| copies.get(offset, len)) {
            return Ok((copy.to_vec(), true));
        }
        let mut bytes = vec![0; len];
        self.volume.region.read_exact_at(&mut bytes, offset).map(|()| (bytes, false))
    }
}

/// Names the XFS file system in `region`; one with a wrong checksum as damaged.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let bytes = primary(region)?;
    match Superblock::parse(&bytes) {
        Ok(sb) => Some(describe(&sb, state(region, &sb))),
        Err(superblock::Error::Checksum { .. }) => {
            Some(describe(&Superblock::fields(Fields(&bytes)).ok()?, State::Damaged))
        }
        Err(_) => None,
    }
}

/// Reads the first superblock's sector.
fn primary(region: &dyn ReadAt) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 512];
    region.read_exact_at(&mut bytes, 0).ok()?;
    let f = Fields(&bytes);
    let (block, sector, inode) = (f.u32_be(4).ok()?, f.u16_be(102).ok()?, f.u16_be(104).ok()?);
    let possible = (512..=65536).contains(&block)
        && block.is_power_of_two()
        && (512..=32768).contains(&sector)
        && sector.is_power_of_two()
        && (256..=2048).contains(&inode)
        && f.u32_be(88).ok()? > 0;
    if !f.has(0, b"XFSB") || !possible {
        return None;
    }
    bytes.resize(usize::from(sector), 0);
    region.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
}

fn describe(sb: &Superblock, state: State) -> Detected {
    Detected {
        name: "xfs".to_owned(),
        version: Some(format!("v{}", sb.sb_versionnum & 0xf)),
        label: text(&sb.sb_fname),
        uuid: sb.uuid(),
        block_size: Some(sb.sb_blocksize),
        state,
    }
}

fn state(region: &dyn ReadAt, sb: &Superblock) -> State {
    if sb.sb_inprogress != 0 || sb.has_incompat(feature::INCOMPAT_NEEDSREPAIR) {
        return State::Damaged;
    }
    let Ok(geometry) = sb.geometry(region.len()) else { return State::Unknown };
    match Log::new(region, sb, &geometry).map(|log| log.state()) {
        None => State::Unknown,
        Some(Ok(log::State::Clean)) => State::Clean,
        Some(Ok(log::State::Dirty { .. }) | Err(log::Error::Unfinished(_))) => State::Dirty,
        Some(Err(_)) => State::Damaged,
    }
}

/// Finds the bytes of the XFS file system in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(whole) => whole.survey(region.len(), detected),
    }
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, Whole> {
    let bytes = primary(region).ok_or_else(|| Whole::damaged("the superblock cannot be read"))?;
    let sb = Superblock::parse(&bytes)
        .map_err(|error| Whole::damaged(format_args!("the superblock is broken ({error})")))?;
    if sb.sb_inprogress != 0 {
        return Err(Whole::damaged("it says of itself that it was never finished"));
    }
    if sb.has_incompat(feature::INCOMPAT_NEEDSREPAIR) {
        return Err(Whole::damaged("it says of itself that it needs a repair"));
    }
    let geometry = sb.geometry(region.len()).map_err(|error| match error {
        superblock::Error::Features { .. } | superblock::Error::Version(_) | superblock::Error::Groups(_) => {
            Whole::because(error)
        }
        _ => Whole::damaged(error),
    })?;
    let volume = Volume { region, sb: &sb, geometry };
    let Some(log) = Log::new(region, &sb, &volume.geometry) else {
        return Err(Whole::because("its log is on another device, so that nobody here can tell whether it is clean"));
    };
    let state = log.state().map_err(|error| match error {
        log::Error::Unfinished(_) => Whole::because(error),
        _ => Whole::damaged(error),
    })?;
    let copies = match state {
        log::State::Clean => None,
        log::State::Dirty { tail, head } => Some(replay::read(&volume, &log, tail, head).map_err(Whole::because)?),
    };
    let mut survey = map::build(&volume, copies.as_ref(), detected)?;
    if copies.is_some() {
        survey.notes.push("it was not unmounted: its log waits to be replayed".to_owned());
    }
    if sb.sb_rblocks > 0 {
        let bytes = sb.sb_rblocks.saturating_mul(volume.geometry.block_size);
        survey.notes.push(format!("its realtime section, {}, is on another device and not in here", Bytes(bytes)));
    }
    Ok(survey)
}

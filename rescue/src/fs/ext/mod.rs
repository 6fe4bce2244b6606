//! ext2, ext3 and ext4: the allocation map from block bitmaps, journal and inodes.
//!
//! The bitmaps say which blocks are in use; everything else here asks whether they can be believed. A group whose
//! descriptor, bitmap and counters do not agree is kept whole, a file system whose structures are not all where
//! they must be is kept whole, bitmaps waiting in the journal are united with those on disk, and blocks that inodes
//! use are kept whatever the bitmaps say. Where nothing vouches for the bitmaps, because there was neither an unmount
//! nor a journal, the inodes must: every one of them is read, and one that is not sound keeps everything.

pub mod checksum;
mod content;
mod dirs;
mod fastcommit;
pub mod groups;
pub mod inode;
pub mod journal;
pub mod map;
pub mod superblock;
mod swapfile;
mod unused;
pub mod walk;

use super::{Detected, Options, State, Survey, label::text, reader::SmallReader, whole::Whole};
use crate::{block::ReadAt, bytes::Fields, units::KIB};
use groups::{Format, Groups};
use superblock::{Geometry, Superblock, feature};

/// An ext file system whose structure was found sound enough to read its bitmaps.
pub(super) struct Volume<'a> {
    region: &'a dyn ReadAt,
    sb: &'a Superblock,
    geometry: Geometry,
    format: Format,
    groups: Groups,
    /// Why the bitmaps may be old or wrong, where they may be.
    suspect: Option<&'static str>,
}

/// Names the ext file system in `region`; one with a wrong checksum as damaged.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let bytes = primary(region)?;
    match Superblock::parse(&bytes) {
        Ok(sb) => Some(describe(&sb, state(&sb))),
        Err(superblock::Error::Checksum { .. }) => {
            Some(describe(&Superblock::fields(Fields(&bytes)).ok()?, State::Damaged))
        }
        Err(_) => None,
    }
}

/// Names the ext file system whose primary superblock is gone but which has a copy in group 1, with the copy's place.
#[must_use]
pub fn detect_by_backup(region: &dyn ReadAt) -> Option<(Detected, u64)> {
    (0..=6u32).find_map(|log| {
        let block_size = KIB << log;
        let offset = (block_size * 8 + u64::from(block_size == KIB)) * block_size;
        let mut bytes = vec![0; superblock::LEN];
        region.read_exact_at(&mut bytes, offset).ok()?;
        let sb = Superblock::parse(&bytes).ok()?;
        let plausible = sb.s_block_group_nr == 1 && sb.s_log_block_size == log && sb.geometry(u64::MAX).is_ok();
        plausible.then(|| (describe(&sb, State::Damaged), offset))
    })
}

fn primary(region: &dyn ReadAt) -> Option<Vec<u8>> {
    let mut bytes = vec![0; superblock::LEN];
    region.read_exact_at(&mut bytes, superblock::OFFSET).ok()?;
    Some(bytes)
}

fn describe(sb: &Superblock, state: State) -> Detected {
    Detected {
        name: sb.name().to_owned(),
        version: Some(format!("{}.{}", sb.s_rev_level, sb.s_minor_rev_level)),
        label: text(&sb.s_volume_name),
        uuid: sb.uuid(),
        block_size: sb.block_size(),
        state,
    }
}

const fn state(sb: &Superblock) -> State {
    if sb.s_state & 2 != 0 {
        State::Damaged
    } else if sb.s_state & 1 == 0 || sb.has_incompat(feature::INCOMPAT_RECOVER) {
        State::Dirty
    } else {
        State::Clean
    }
}

/// Finds the bytes of the ext file system in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected, options: &Options) -> Survey {
    match try_survey(region, &detected, options) {
        Ok(survey) => survey,
        Err(whole) => whole.survey(region.len(), detected),
    }
}

fn try_survey(region: &dyn ReadAt, detected: &Detected, options: &Options) -> Result<Survey, Whole> {
    let bytes = primary(region).ok_or_else(|| Whole::damaged("the superblock cannot be read"))?;
    let sb = Superblock::parse(&bytes).map_err(|error| match detect_by_backup(region) {
        Some((_, offset)) => {
            Whole::damaged(format_args!("the superblock is broken ({error}); there is a copy at byte {offset:#x}"))
        }
        None => Whole::damaged(format_args!("the superblock is broken ({error})")),
    })?;
    let suspect = check_features(&sb)?;
    let geometry = sb.geometry(region.len()).map_err(|error| match error {
        superblock::Error::Features { .. } => Whole::because(error),
        _ => Whole::damaged(error),
    })?;
    let format = Format::new(&sb, &geometry);
    let flex_bg = sb.has_incompat(feature::INCOMPAT_FLEX_BG);
    let groups = Groups::read(region, &geometry, &format, flex_bg).map_err(Whole::damaged)?;
    let volume = Volume { region, sb: &sb, geometry, format, groups, suspect };
    let log = journal::read(&volume)?;
    map::build(&volume, &log, detected, options)
}

/// Refuses to trust the bitmaps of what no bitmap can be trusted of; returns why those of others need the inodes' word.
fn check_features(sb: &Superblock) -> Result<Option<&'static str>, Whole> {
    use feature::*;
    if sb.has_incompat(INCOMPAT_JOURNAL_DEV) {
        return Err(Whole::because("it is the journal of another file system"));
    }
    let suspect = match sb.s_state & 3 {
        1 => None,
        0 => Some("it was not unmounted and has no journal, so its bitmaps may be old"),
        _ => Some("it says of itself that it has errors, so its bitmaps may be wrong"),
    };
    let orphans = sb.s_last_orphan != 0 || sb.has_ro(RO_ORPHAN_PRESENT);
    // Other systems than Linux keep block numbers where the walk does not look, such as the Hurd's translators.
    let strange = sb.s_creator_os != 0;
    if let Some(reason) = suspect.filter(|_| orphans || strange || sb.has_incompat(INCOMPAT_RECOVER)) {
        return Err(Whole::because(reason));
    }
    if !sb.has_incompat(INCOMPAT_RECOVER) {
        return Ok(suspect);
    }
    if !sb.has_compat(COMPAT_HAS_JOURNAL) {
        return Err(Whole::damaged("its journal needs recovery, but it has none"));
    }
    if sb.s_journal_inum == 0 {
        return Err(Whole::because("its journal needs recovery and is on another device"));
    }
    Ok(None)
}

impl Volume<'_> {
    fn block_len(&self) -> usize {
        usize::try_from(self.geometry.block_size).unwrap_or(0)
    }

    /// Reads one block that was checked to lie in the file system.
    fn block<'r>(&self, reader: &'r mut SmallReader<'_>, block: u64) -> Result<&'r [u8], crate::block::Error> {
        reader.read(block.saturating_mul(self.geometry.block_size), self.block_len())
    }

    /// Tells whether blocks `start..start + len` can belong to a file.
    fn holds(&self, start: u64, len: u64) -> bool {
        start >= self.geometry.first_block.max(1) && start.saturating_add(len) <= self.geometry.blocks
    }
}

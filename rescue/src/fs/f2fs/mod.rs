//! F2FS: the allocation map from the segment information table of the newest checkpoint.
//!
//! The table and the checkpoint's counters must agree, every node the node address table names must lie in the map, and
//! so must what nodes name, as far as they are read. What was synced after the last checkpoint lies in blocks no table
//! knows of; it is found as the kernel finds it, along the log of warm nodes. Everything before the main area
//! (superblocks, checkpoints, tables, summaries) is kept.

pub mod checkpoint;
pub mod node;
pub mod sit;
pub mod superblock;

use super::{
    Detected, State, Survey, Usage,
    map::{self, MapBuilder},
    whole::Whole,
};
use crate::{
    block::ReadAt,
    extent::{Extent, ExtentSet},
};
use checkpoint::{Checkpoint, flag};
use node::{Chain, Node};
use superblock::{BLOCK, OFFSETS, SEGMENT, Superblock, bytes, feature};

/// Nodes whose addresses are compared with the map: 64 MiB of them.
const NODE_BUDGET: u64 = 1 << 14;
/// Blocks missing from the map that are remembered before everything is kept.
const MAX_MISSING: usize = 1 << 16;

/// An F2FS volume whose superblock and checkpoint were found sound enough to read its tables.
pub struct Volume<'a> {
    region: &'a dyn ReadAt,
    sb: Superblock,
    checkpoint: Checkpoint,
}

/// Names the F2FS volume in `region` whose first superblock is whole.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let mut bytes = vec![0; superblock::LEN];
    region.read_exact_at(&mut bytes, OFFSETS[0]).ok()?;
    let f = crate::bytes::Fields(&bytes);
    if f.u32(0) != Ok(superblock::MAGIC) {
        return None;
    }
    let Ok(sb) = Superblock::parse(&bytes) else {
        let version = Some(format!("{}.{}", f.u16(4).ok()?, f.u16(6).ok()?));
        let label = f.slice(124, 1024).ok().and_then(super::label::utf16);
        let uuid = f.array(108).ok().and_then(uuid);
        let state = State::Damaged;
        return Some(Detected { name: "f2fs".to_owned(), version, label, uuid, block_size: None, state });
    };
    Some(describe(region, &sb))
}

/// Names the F2FS volume in `region` whose first superblock is gone but has a copy.
#[must_use]
pub fn detect_by_backup(region: &dyn ReadAt) -> Option<Detected> {
    let sb = superblock_at(region, OFFSETS[1]).ok()?;
    Some(Detected { state: State::Damaged, ..describe(region, &sb) })
}

fn uuid(raw: [u8; 16]) -> Option<String> {
    (raw != [0; 16]).then(|| uuid::Uuid::from_bytes(raw).to_string())
}

fn describe(region: &dyn ReadAt, sb: &Superblock) -> Detected {
    let state = newest(region, sb).map_or(State::Damaged, |checkpoint| state(&checkpoint));
    Detected {
        name: "f2fs".to_owned(),
        version: Some(format!("{}.{}", sb.version.0, sb.version.1)),
        label: sb.label.clone(),
        uuid: uuid(sb.uuid),
        block_size: u32::try_from(BLOCK).ok(),
        state,
    }
}

const fn state(checkpoint: &Checkpoint) -> State {
    if checkpoint.has(flag::ERROR | flag::FSCK) {
        State::Damaged
    } else if checkpoint.has(flag::UMOUNT) {
        State::Clean
    } else {
        State::Dirty
    }
}

fn superblock_at(region: &dyn ReadAt, offset: u64) -> Result<Superblock, String> {
    let mut bytes = vec![0; superblock::LEN];
    region.read_exact_at(&mut bytes, offset).map_err(|error| format!("it cannot be read: {error}"))?;
    Superblock::parse(&bytes).map_err(|error| error.to_string())
}

/// Finds the bytes of the F2FS volume in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(whole) => whole.survey(region.len(), detected),
    }
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, Whole> {
    let mut notes = Vec::new();
    let sb = both_superblocks(region, &mut notes)?;
    check_features(&sb)?;
    let end = sb.main_end().saturating_mul(BLOCK);
    if end > region.len() {
        return Err(Whole::damaged(format_args!("its main area ends at byte {end}, its region at {}", region.len())));
    }
    let checkpoint = newest(region, &sb)?;
    check_flags(&checkpoint)?;
    let volume = Volume { region, sb, checkpoint };
    let mut survey = Survey::new(Some(detected.clone()), ExtentSet::new());
    survey.notes = notes;
    build(&volume, &mut survey)?;
    Ok(survey)
}

/// Reads both superblocks; one alone is believed, two that disagree are not.
fn both_superblocks(region: &dyn ReadAt, notes: &mut Vec<String>) -> Result<Superblock, Whole> {
    let [first, second] = OFFSETS.map(|offset| superblock_at(region, offset));
    match (first, second) {
        (Ok(first), Ok(second)) if first.same_places(&second) => Ok(first),
        (Ok(_), Ok(_)) => Err(Whole::damaged("the superblock and its copy disagree")),
        (Ok(sb), Err(error)) => {
            notes.push(format!("the copy of the superblock is broken: {error}"));
            Ok(sb)
        }
        (Err(error), Ok(sb)) => {
            notes.push(format!("the superblock is broken ({error}); its copy is believed"));
            Ok(sb)
        }
        (Err(error), Err(_)) => Err(Whole::damaged(format_args!("both superblocks are broken: {error}"))),
    }
}

fn check_features(sb: &Superblock) -> Result<(), Whole> {
    let unknown = sb.feature & !feature::KNOWN;
    if unknown != 0 {
        return Err(Whole::because(format_args!("it has features that are not known (feature {unknown:#x})")));
    }
    if sb.devices {
        return Err(Whole::because("it is spread over several devices"));
    }
    if sb.has(feature::BLKZONED) {
        return Err(Whole::because("it is on a zoned device"));
    }
    if sb.errors {
        return Err(Whole::damaged("its superblock remembers that structures contradicted each other"));
    }
    Ok(())
}

/// Returns the checkpoint that a mount would use, unless there is doubt about which one that is.
fn newest(region: &dyn ReadAt, sb: &Superblock) -> Result<Checkpoint, Whole> {
    let pack = |start: u64| Checkpoint::read(region, sb, start);
    match (pack(sb.cp), pack(sb.cp.saturating_add(SEGMENT))) {
        // Of two of one version the first counts: tools copy a checkpoint to the second place and rewrite the first.
        (Ok(first), Ok(second)) => Ok(if second.is_after(&first) { second } else { first }),
        // A volume that was just resized has one.
        (Ok(only), Err(checkpoint::Error::Empty)) | (Err(checkpoint::Error::Empty), Ok(only)) => Ok(only),
        // Blocks may have been freed and used again since the one that is left.
        (Ok(left), Err(error)) | (Err(error), Ok(left)) => Err(Whole::because(format_args!(
            "one of the two checkpoints is broken ({error}), and nobody knows whether the other, version {:#x}, is newer",
            left.version
        ))),
        (Err(first), Err(_)) => Err(Whole::damaged(format_args!("both checkpoints are broken: {first}"))),
    }
}

fn check_flags(checkpoint: &Checkpoint) -> Result<(), Whole> {
    let unknown = checkpoint.flags & !flag::KNOWN;
    if unknown != 0 {
        return Err(Whole::because(format_args!("its checkpoint has flags that are not known ({unknown:#x})")));
    }
    if checkpoint.has(flag::ERROR) {
        return Err(Whole::damaged("it says of itself that it has errors, so its tables may be wrong"));
    }
    if checkpoint.has(flag::FSCK) {
        return Err(Whole::damaged("it asks to be checked, so its tables may be wrong"));
    }
    if checkpoint.has(flag::DISABLED) {
        return Err(Whole::because("its checkpoints were switched off"));
    }
    if checkpoint.has(flag::RESIZEFS) {
        return Err(Whole::because("it was being resized"));
    }
    Ok(())
}

fn build(volume: &Volume<'_>, survey: &mut Survey) -> Result<(), Whole> {
    let (sb, checkpoint) = (&volume.sb, &volume.checkpoint);
    let mut builder = MapBuilder::new();
    builder.insert(bytes(0, sb.main));
    let books = sit::read(volume, &mut builder)?;
    builder.insert(Extent::new(sb.main_end().saturating_mul(BLOCK), volume.region.len()));
    let (mut map, min_gap) = builder.finish();
    survey.widened = books.sentences();
    survey.widened.extend(map::closed_gaps(min_gap));
    survey.allocated.clone_from(&map);
    survey.name_slack(sb.main_end().saturating_mul(BLOCK), volume.region);
    if !books.in_doubt() {
        check_counts(checkpoint, &books)?;
    }
    let chain = node::chain(volume)?;
    remark(volume, &books, &chain, survey);
    map = map.union(&set_of(&chain.blocks));
    let missing = unite(volume, &books, &map)?;
    if !missing.is_empty() {
        let bytes = crate::units::Bytes(set_of(&missing).total());
        survey.widened.push(format!(
            "{bytes} that nodes use are free in the segment information table; the segments they are in are kept whole"
        ));
        survey.detected.iter_mut().for_each(|detected| detected.state = State::Damaged);
        map = map.union(&segments_of(sb, &missing));
    }
    survey.allocated = map;
    survey.usage = Some(Usage {
        used: sb.main.saturating_add(checkpoint.valid_blocks).saturating_mul(BLOCK),
        free: sb.main_segments.saturating_mul(SEGMENT).saturating_sub(checkpoint.valid_blocks).saturating_mul(BLOCK),
    });
    Ok(())
}

fn set_of(blocks: &[u64]) -> ExtentSet {
    blocks.iter().map(|block| bytes(*block, block.saturating_add(1))).collect()
}

/// Returns the segments of the main area that `blocks` are in: an entry that is wrong in one bit may be in others.
fn segments_of(sb: &Superblock, blocks: &[u64]) -> ExtentSet {
    let segment = |block: &u64| {
        let start = block.saturating_sub(block.saturating_sub(sb.main) % SEGMENT);
        bytes(start, start.saturating_add(SEGMENT))
    };
    blocks.iter().map(segment).collect()
}

/// Compares the table with the checkpoint's counters. Blocks without a place yet are counted only there.
fn check_counts(checkpoint: &Checkpoint, books: &sit::Books) -> Result<(), Whole> {
    if books.valid > checkpoint.valid_blocks {
        return Err(Whole::damaged(format_args!(
            "the checkpoint counts {} valid blocks, the segment information table {}",
            checkpoint.valid_blocks, books.valid
        )));
    }
    if books.free_segments > checkpoint.free_segments {
        return Err(Whole::damaged(format_args!(
            "the checkpoint counts {} free segments, the segment information table {}",
            checkpoint.free_segments, books.free_segments
        )));
    }
    Ok(())
}

fn remark(volume: &Volume<'_>, books: &sit::Books, chain: &Chain, survey: &mut Survey) {
    let Some(detected) = &mut survey.detected else { return };
    if books.in_doubt() || !survey.notes.is_empty() {
        detected.state = State::Damaged;
    } else if chain.nodes > 0 && detected.state == State::Clean {
        // A mount alone writes no checkpoint: the last one may still say that it was unmounted.
        detected.state = State::Dirty;
    }
    if chain.nodes > 0 {
        survey
            .widened
            .push(format!("{} nodes were synced after the last checkpoint; they and their data are kept", chain.nodes));
    } else if !volume.checkpoint.has(flag::UMOUNT) {
        survey.notes.push("it was not unmounted; nothing was synced after its last checkpoint".to_owned());
    }
    if volume.checkpoint.has(flag::QUOTA_NEED_FSCK | flag::QUOTA_NEED_REPAIR) {
        survey.notes.push("it says that its quotas need a check".to_owned());
    }
}

/// Returns the blocks that nodes are in or use and that are not in `map`.
fn unite(volume: &Volume<'_>, books: &sit::Books, map: &ExtentSet) -> Result<Vec<u64>, Whole> {
    let flexible = volume.sb.has(feature::FLEXIBLE_INLINE_XATTR);
    let (mut nodes, mut read, mut placeless) = (0u64, 0u64, 0u64);
    let mut missing = Vec::new();
    let mut bytes = vec![0; 4096];
    let complete = node::each_node(volume, |nid, address| {
        nodes = nodes.saturating_add(1);
        let mut keep = |block: u64| {
            if !map.contains(block.saturating_mul(BLOCK)) {
                missing.push(block);
            }
        };
        keep(address);
        if nodes <= NODE_BUDGET && volume.region.read_exact_at(&mut bytes, address.saturating_mul(BLOCK)).is_ok() {
            let node = Node::parse(&bytes, flexible).map_err(Whole::damaged)?;
            if node.nid != nid {
                return Err(Whole::damaged(format_args!(
                    "node {} is where node {nid} must be, at block {address}",
                    node.nid
                )));
            }
            read = read.saturating_add(1);
            placeless = placeless.saturating_add(node.placeless);
            node.blocks.into_iter().filter(|block| volume.sb.in_main(*block)).for_each(keep);
        }
        if missing.len() > MAX_MISSING {
            return Err(Whole::damaged("nodes use many blocks that the segment information table calls free"));
        }
        Ok(())
    })?;
    let counted = volume.checkpoint.valid_nodes;
    if complete && nodes != counted {
        return Err(Whole::damaged(format_args!(
            "the checkpoint counts {counted} nodes, the node address table {nodes}"
        )));
    }
    // Where every node was read, nothing is left to explain blocks that only the checkpoint counts.
    let explained = books.valid.saturating_add(placeless).saturating_add(missing.len() as u64);
    if complete && read == nodes && !books.in_doubt() && explained < volume.checkpoint.valid_blocks {
        return Err(Whole::damaged(format_args!(
            "the checkpoint counts {} valid blocks, the segment information table {} and nodes {placeless} without a place",
            volume.checkpoint.valid_blocks, books.valid
        )));
    }
    Ok(missing)
}

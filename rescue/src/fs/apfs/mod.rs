//! APFS containers: the allocation map from the space manager of the newest checkpoint.
//!
//! Nothing is ever written over what a checkpoint uses, so the newest one that is whole tells the truth, whether the
//! container was unmounted or not. Both checkpoint areas, the pool that bitmaps live in, keys and firmware's driver are
//! kept whole; object maps and lists of extents of all volumes are united with the bitmaps. Encrypted volumes change
//! nothing: what says where their blocks are is not encrypted.

pub mod container;
pub mod object;
pub mod spaceman;
pub mod tree;

use std::collections::BTreeMap;

use super::{
    Detected, State, Survey, Usage,
    map::{self, MapBuilder},
    whole::Whole,
};
use crate::{
    block::ReadAt,
    bytes::Fields,
    extent::{Extent, ExtentSet},
};
use container::{Blocks, Container, MAGIC, incompat};
use object::Error;
use spaceman::Spaceman;
use tree::{Volume, Walker};

/// Runs found by walking that are remembered.
const MAX_WALKED: usize = 1 << 20;

/// Names the APFS container in `region`; its label is that of the first volume.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let mut bytes = [0; 4096];
    region.read_exact_at(&mut bytes, 0).ok()?;
    let f = Fields(&bytes);
    if !f.has(32, MAGIC) {
        return None;
    }
    let raw: [u8; 16] = f.array(72).ok()?;
    let newest = newest(region).ok();
    Some(Detected {
        name: "apfs".to_owned(),
        version: None,
        label: newest.as_ref().and_then(|(blocks, container)| label(*blocks, container)),
        uuid: (raw != [0; 16]).then(|| uuid::Uuid::from_bytes(raw).to_string()),
        block_size: f.u32(36).ok(),
        // Nothing says whether a container was unmounted, and nothing depends on it.
        state: if newest.is_some() { State::Unknown } else { State::Damaged },
    })
}

fn label(blocks: Blocks<'_>, container: &Container) -> Option<String> {
    let mut found = BTreeMap::new();
    let root = tree::omap_tree(blocks, container.omap).ok()?;
    let mut each = |key: Fields<'_>, value: Fields<'_>| {
        if let Some(mapping) = tree::mapping(key, value)? {
            if found.len() >= MAX_WALKED {
                return Err(Error::Budget);
            }
            found.insert((mapping.oid, mapping.xid), mapping.at);
        }
        Ok(())
    };
    Walker::default().walk(blocks, root, &mut each, &mut |_| {}).ok()?;
    let first = container.volumes.iter().copied().find(|oid| *oid != 0)?;
    let (_, at) = found.range((first, 0)..=(first, container.xid)).next_back()?;
    Volume::read(blocks, *at).ok()?.name
}

/// Finds the bytes of the APFS container in `region` that must be kept.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    match try_survey(region, &detected) {
        Ok(survey) => survey,
        Err(whole) => whole.survey(region.len(), detected),
    }
}

/// Returns the container superblock of the newest checkpoint, unless there is doubt about which one that is.
fn newest(region: &dyn ReadAt) -> Result<(Blocks<'_>, Container), Whole> {
    let broken = |error: Error| Whole::damaged(format_args!("the container superblock is broken: {error}"));
    let smallest = Blocks { region, size: 4096 };
    let size = u64::from(Fields(&smallest.read(0).map_err(broken)?).u32(36).map_err(Whole::damaged)?);
    if !size.is_power_of_two() || !(4096..=65536).contains(&size) {
        return Err(Whole::damaged(format_args!("the container has blocks of {size} bytes")));
    }
    let blocks = Blocks { region, size };
    let bytes = blocks.object(0, size, object::kind::CONTAINER).map_err(broken)?;
    let first = Container::parse(&bytes, 0).map_err(broken)?;
    let ring = container::ring(blocks, &first)
        .map_err(|error| Whole::damaged(format_args!("the checkpoint area is broken: {error}")))?;
    let newest = ring.newest.ok_or_else(|| Whole::damaged("no checkpoint is whole"))?;
    if ring.broken > 0 {
        return Err(Whole::damaged(format_args!("{} checkpoints are broken, and may be newer", ring.broken)));
    }
    if ring.last_xid > newest.xid || first.xid > newest.xid {
        let last = ring.last_xid.max(first.xid);
        return Err(Whole::dirty(format_args!(
            "the newest checkpoint is of transaction {}, but there are parts of transaction {last}",
            newest.xid
        )));
    }
    if !newest.same_places(&first) {
        return Err(Whole::damaged("the container superblock and the newest checkpoint disagree"));
    }
    Ok((blocks, newest))
}

fn try_survey(region: &dyn ReadAt, detected: &Detected) -> Result<Survey, Whole> {
    let (blocks, container) = newest(region)?;
    check_features(&container)?;
    let len = container.blocks.saturating_mul(container.block_size);
    if len > region.len() {
        return Err(Whole::damaged(format_args!("the container is {len} bytes long, its region {}", region.len())));
    }
    let broken = |error: Error| Whole::damaged(format_args!("the space manager is broken: {error}"));
    let (at, size) = container::ephemeral(blocks, &container, container.spaceman).map_err(broken)?;
    let spaceman = Spaceman::read(blocks, at, size, &container).map_err(broken)?;
    if spaceman.second_device != 0 {
        return Err(Whole::because("it is spread over two devices"));
    }
    if spaceman.unknown_flags != 0 {
        return Err(Whole::because(format_args!(
            "its space manager has flags that are not known ({:#x})",
            spaceman.unknown_flags
        )));
    }
    let mut builder = MapBuilder::new();
    let doubts = spaceman.read_chunks(blocks, &container, &mut builder).map_err(broken)?;
    builder.insert(Extent::new(len, region.len()));
    let (bits, min_gap) = builder.finish();

    let mut survey = Survey::new(Some(detected.clone()), ExtentSet::new());
    survey.widened.extend(map::closed_gaps(min_gap));
    if let Some(first) = doubts.first() {
        survey.widened.push(format!(
            "{} chunks kept whole, the first of them chunk {first}: the bitmap and the count of free blocks disagree",
            doubts.len()
        ));
        survey.detected.iter_mut().for_each(|detected| detected.state = State::Damaged);
    }
    unite(blocks, &container, &spaceman, bits, &mut survey)?;
    survey.usage = Some(Usage {
        used: spaceman.blocks.saturating_sub(spaceman.free).saturating_mul(container.block_size),
        free: spaceman.free.saturating_mul(container.block_size),
    });
    survey.name_slack(len, region);
    Ok(survey)
}

fn check_features(container: &Container) -> Result<(), Whole> {
    let (incompatible, read_only) = container.features;
    if incompatible & incompat::FUSION != 0 {
        return Err(Whole::because("it is spread over two devices"));
    }
    if incompatible != incompat::VERSION2 || read_only != 0 {
        return Err(Whole::because(format_args!(
            "it has features that are not known (incompatible {incompatible:#x}, read-only {read_only:#x})"
        )));
    }
    Ok(())
}

/// Unites the bitmaps with what must be kept whatever they say, and with what trees say.
fn unite(
    blocks: Blocks<'_>,
    container: &Container,
    spaceman: &Spaceman,
    bits: ExtentSet,
    survey: &mut Survey,
) -> Result<(), Whole> {
    let mut own = vec![(0, 1)];
    own.extend(container.rings);
    own.extend(spaceman.pools);
    own.extend(container.keys);
    let broken = |error: Error| Whole::damaged(format_args!("its trees are broken: {error}"));
    let (walked, cut_short) = walk(blocks, container).map_err(broken)?;
    if cut_short {
        survey.notes.push("its trees are too large to be compared with the bitmaps to the end".to_owned());
    }
    if container.efi != 0 {
        own.extend(tree::efi(blocks, container.efi).map_err(broken)?);
    }
    let beyond = own.iter().chain(&walked).find(|(first, len)| first.saturating_add(*len) > container.blocks);
    if let Some((first, len)) = beyond {
        return Err(Whole::damaged(format_args!(
            "something has {len} blocks at block {first}, the container {} blocks",
            container.blocks
        )));
    }
    let set =
        |runs: &[(u64, u64)]| runs.iter().map(|(first, len)| container.bytes(*first, *len)).collect::<ExtentSet>();
    let missing = set(&walked).subtract(&bits);
    if !missing.is_empty() {
        let bytes = crate::units::Bytes(missing.total());
        survey
            .widened
            .push(format!("{bytes} that volumes use are free in the bitmaps; the chunks they are in are kept whole"));
        survey.detected.iter_mut().for_each(|detected| detected.state = State::Damaged);
    }
    // A bitmap that is wrong in one place may be wrong in others.
    let chunk = spaceman.chunk.saturating_mul(container.block_size);
    let missing = missing.round_out(chunk, container.blocks.saturating_mul(container.block_size));
    survey.allocated = bits.union(&missing).union(&set(&own));
    Ok(())
}

/// Lists the blocks that object maps and lists of extents name, first and length; and whether some were left out.
fn walk(blocks: Blocks<'_>, container: &Container) -> Result<(Vec<(u64, u64)>, bool), Error> {
    let mut walker = Walker::default();
    let (mut found, mut nodes, mut latest) = (vec![(container.omap, 1)], Vec::new(), BTreeMap::new());
    let root = tree::omap_tree(blocks, container.omap)?;
    let mut each = |key: Fields<'_>, value: Fields<'_>| {
        if let Some(mapping) = tree::mapping(key, value)? {
            if found.len() >= MAX_WALKED {
                return Err(Error::Budget);
            }
            found.push((mapping.at, mapping.len.div_ceil(blocks.size.max(1))));
            latest.insert((mapping.oid, mapping.xid), mapping.at);
        }
        Ok(())
    };
    walker.walk(blocks, root, &mut each, &mut |at| nodes.push((at, 1)))?;
    let mut full = false;
    for oid in container.volumes.iter().copied().filter(|oid| *oid != 0) {
        let newest = latest.range((oid, 0)..=(oid, container.xid)).next_back();
        let (_, at) = newest.ok_or(Error::Range { at: root, what: "no object map names volume", found: oid })?;
        let volume = Volume::read(blocks, *at)?;
        found.push((volume.omap, 1));
        let root = tree::omap_tree(blocks, volume.omap)?;
        let mut add = |first: u64, len: u64| {
            full |= found.len() >= MAX_WALKED;
            if !full {
                found.push((first, len));
            }
        };
        let mut each = |key: Fields<'_>, value: Fields<'_>| {
            if let Some(mapping) = tree::mapping(key, value)? {
                add(mapping.at, mapping.len.div_ceil(blocks.size.max(1)));
            }
            Ok(())
        };
        walker.walk(blocks, root, &mut each, &mut |at| nodes.push((at, 1)))?;
        for root in volume.trees.into_iter().filter(|root| *root != 0) {
            let mut each = |key: Fields<'_>, value: Fields<'_>| {
                if let Some((first, len)) = tree::extent(key, value)? {
                    add(first, len);
                }
                Ok(())
            };
            walker.walk(blocks, root, &mut each, &mut |at| nodes.push((at, 1)))?;
        }
    }
    found.extend(nodes);
    Ok((found, walker.cut_short || full))
}

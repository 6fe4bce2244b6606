//! The image that the same disk had before: what a chunk is likely to be much like.
//!
//! It is a guess and nothing depends on it being right: a wrong one costs space, never bytes.

use crate::{
    block::Identity,
    store::{ChunkId, Manifest, Origin, Store, manifest::ChunkRun},
    table::{Layout, Partition, Region},
};

/// The chunks of an earlier image, by the regions of the disk as it is now.
#[derive(Debug, Default)]
pub struct Predecessor {
    regions: Vec<Vec<ChunkRun>>,
}

impl Predecessor {
    /// Looks for the newest image of a disk in a store.
    ///
    /// * `machine`: what this machine is called; tells files of one name apart.
    /// * `regions`: those of the disk, each with its partition.
    pub fn find<'a>(
        store: &Store,
        disk: &Identity,
        layout: &Layout,
        machine: Option<&str>,
        regions: impl Iterator<Item = (Region, Option<&'a Partition>)>,
    ) -> Self {
        let fits = |origin: &Origin| is_of(origin, disk, layout.disk_id.as_deref(), machine);
        // A store whose images cannot be listed says so when the image is committed.
        let Ok(Some(mut image)) = store.newest(fits) else { return Self::default() };
        Self { regions: regions.map(|(region, partition)| take(&mut image, region, partition)).collect() }
    }

    /// Returns what chunk `number` of a region was; `None` where it was not kept, or all zeros.
    pub fn chunk(&self, region: usize, number: u64) -> Option<ChunkId> {
        let runs = self.regions.get(region)?;
        let after = runs.partition_point(|run| first_of(run) <= number);
        match runs.get(after.checked_sub(1)?)? {
            ChunkRun::Data { first, ids } => ids.get(usize::try_from(number - first).ok()?).copied(),
            ChunkRun::Zero { .. } => None,
        }
    }
}

const fn first_of(run: &ChunkRun) -> u64 {
    match run {
        ChunkRun::Zero { first, .. } | ChunkRun::Data { first, .. } => *first,
    }
}

/// Tells whether an image is of this disk: by the id in its table, else by its numbers, else by its path.
fn is_of(origin: &Origin, disk: &Identity, disk_id: Option<&str>, machine: Option<&str>) -> bool {
    let same = |old: Option<&str>, new: Option<&str>| old.is_some() && old == new;
    let was = &origin.disk;
    same(origin.disk_id.as_deref(), disk_id)
        || same(was.wwn.as_deref(), disk.wwn.as_deref())
        || same(was.serial.as_deref(), disk.serial.as_deref())
        || (was.path == disk.path && was.len == disk.len && same(origin.machine.as_deref(), machine))
}

/// Takes the chunks of the region that was `region` out of the image: the partition with its GUID, else what began there.
fn take(image: &mut Manifest, region: Region, partition: Option<&Partition>) -> Vec<ChunkRun> {
    let guid = partition.and_then(|partition| partition.guid.as_deref());
    let by_guid = guid.and_then(|guid| {
        let guid_of = |partition: &Partition| partition.guid.as_deref() == Some(guid);
        image.regions.iter().position(|old| old.partition.as_ref().is_some_and(guid_of))
    });
    let by_place = || image.regions.iter().position(|old| old.region.range.start == region.range.start);
    let found = by_guid.or_else(by_place).and_then(|at| image.regions.get_mut(at));
    found.map(|old| std::mem::take(&mut old.chunks)).unwrap_or_default()
}

//! The file allocation table: which clusters any of its copies calls used.
//!
//! Entry 0 and 1 are not clusters; entry 1 carries the bits "unmounted in order" and "no errors seen". An entry of 0
//! is a free cluster, a link or an end is kept, and so is a cluster that a link leads to.
//!
//! A cluster marked bad belongs to no file, and no driver reads it. It is not kept: on a disk that deserves the mark
//! reading it fails, and an image of everything anyone can reach would count as one with losses.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::bpb::{self, Bpb, Kind};
use crate::{
    block::{Error, ReadAt},
    bytes::Fields,
    fs::reader::Pages,
};

/// Bytes of each copy held at once; a multiple of 3, so that no 12-bit entry pair is cut.
const STEP: u64 = 192 << 10;

/// What the copies of the FAT say, united.
#[derive(Debug, Default)]
pub struct Table {
    /// Bit `n` is cluster `n + 2`: used in some copy, or linked to.
    pub used: Vec<u8>,
    /// Entries that are not the same in all copies.
    pub differing: u64,
    /// Clusters free in every copy that a link leads to.
    pub dangling: u64,
    /// Free entries in the first (or active) copy.
    pub free: u64,
    /// Entries of the active copy that say the cluster is bad.
    pub bad: u64,
}

impl Table {
    /// Tells whether `cluster` is kept.
    #[must_use]
    pub fn is_used(&self, cluster: u64) -> bool {
        cluster.checked_sub(2).is_some_and(|index| get(&self.used, index))
    }

    /// Keeps `cluster` as well, whatever the FAT says; `false` where it was kept before.
    pub fn keep(&mut self, cluster: u64) -> bool {
        let fresh = !self.is_used(cluster);
        cluster.checked_sub(2).into_iter().for_each(|index| set(&mut self.used, index));
        fresh
    }
}

/// A set of clusters, a bit for each.
pub struct Clusters(Vec<u8>);

impl Clusters {
    /// Starts with none of those of `bpb`: at most 32 MiB.
    #[must_use]
    pub fn new(bpb: &Bpb) -> Self {
        Self(vec![0; usize::try_from(bpb.clusters.div_ceil(8)).unwrap_or(0)])
    }

    /// Adds a cluster; `false` where it was in the set before, or is none.
    pub fn insert(&mut self, cluster: u64) -> bool {
        let Some(index) = cluster.checked_sub(2) else { return false };
        let fresh = !get(&self.0, index);
        set(&mut self.0, index);
        fresh && get(&self.0, index)
    }
}

fn get(bits: &[u8], index: u64) -> bool {
    let byte = usize::try_from(index / 8).ok().and_then(|at| bits.get(at));
    byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

fn set(bits: &mut [u8], index: u64) {
    if let Some(byte) = usize::try_from(index / 8).ok().and_then(|at| bits.get_mut(at)) {
        *byte |= 1 << (index % 8);
    }
}

/// Reads every copy of the FAT.
///
/// # Errors
/// Those of the region, where no copy of some part can be read.
pub fn read(region: &dyn ReadAt, bpb: &Bpb) -> Result<Table, Error> {
    // At most 2^28 clusters, each inside the region: 32 MiB.
    let bytes = usize::try_from(bpb.clusters.div_ceil(8)).unwrap_or(0);
    let (mut used, mut linked) = (vec![0u8; bytes], vec![0u8; bytes]);
    let mut table = Table::default();
    let needed = bpb.clusters.saturating_add(2).saturating_mul(bpb.kind.bits()).div_ceil(8).min(bpb.fat_len);
    let mut at = 0u64;
    while at < needed {
        let len = STEP.min(needed.saturating_sub(at));
        let copies = read_step(region, bpb, at, len)?;
        let first = bpb.kind.entries_in(at);
        let count = bpb.kind.entries_in(len);
        for within in 0..count {
            let cluster = first.saturating_add(within);
            let Some(index) = cluster.checked_sub(2).filter(|index| *index < bpb.clusters) else { continue };
            let bad = bpb.kind.bad();
            let mut values = copies.iter().map(|(_, copy)| entry(copy, bpb.kind, within));
            let first_value = values.next().unwrap_or(0);
            let in_use = |value: u64| value != 0 && value != bad;
            let (mut any, mut differs) = (in_use(first_value), false);
            for value in values {
                any |= in_use(value);
                differs |= value != first_value;
            }
            if any {
                set(&mut used, index);
                for (_, copy) in &copies {
                    if let Some(next) = entry(copy, bpb.kind, within).checked_sub(2).filter(|next| *next < bpb.clusters)
                    {
                        set(&mut linked, next);
                    }
                }
            }
            let counts = copies.iter().find(|(number, _)| *number == bpb.active);
            let counts = counts.map_or(first_value, |(_, copy)| entry(copy, bpb.kind, within));
            table.free = table.free.saturating_add(u64::from(counts == 0));
            table.bad = table.bad.saturating_add(u64::from(counts == bad));
            table.differing = table.differing.saturating_add(u64::from(differs));
        }
        at = at.saturating_add(len);
    }
    for (used, linked) in used.iter_mut().zip(&linked) {
        table.dangling = table.dangling.saturating_add(u64::from((linked & !*used).count_ones()));
        *used |= linked;
    }
    table.used = used;
    Ok(table)
}

/// Reads the same part of every copy, with the copy's number; all must be readable.
fn read_step(region: &dyn ReadAt, bpb: &Bpb, at: u64, len: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    (0..bpb.fats)
        .map(|number| {
            let offset = fat_offset(bpb, number).saturating_add(at);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            region.read_exact_at(&mut bytes, offset)?;
            Ok((number, bytes))
        })
        .collect()
}

const fn fat_offset(bpb: &Bpb, number: u64) -> u64 {
    bpb.fat_offset.saturating_add(number.saturating_mul(bpb.fat_len))
}

/// Returns entry `index` of a part of a FAT, 0 where it lies beyond.
fn entry(bytes: &[u8], kind: Kind, index: u64) -> u64 {
    let f = Fields(bytes);
    let Ok(index) = usize::try_from(index) else { return 0 };
    match kind {
        Kind::Fat32 => f.u32(index.saturating_mul(4)).map_or(0, |entry| u64::from(entry & 0x0fff_ffff)),
        Kind::Fat16 => f.u16(index.saturating_mul(2)).map_or(0, u64::from),
        Kind::Fat12 => {
            let at = index.saturating_mul(3) / 2;
            // The last entry may end in the middle of the last byte that was read.
            let low = f.u8(at).map_or(0, u64::from);
            let high = f.u8(at.saturating_add(1)).map_or(0, u64::from);
            let pair = high << 8 | low;
            if index % 2 == 0 { pair & 0xfff } else { pair >> 4 }
        }
    }
}

/// Reads single entries, for following the chains of directories.
pub struct Links<'a> {
    pages: Pages<'a>,
    bpb: &'a Bpb,
}

impl<'a> Links<'a> {
    /// Follows the active FAT.
    #[must_use]
    pub fn new(region: &'a dyn ReadAt, bpb: &'a Bpb) -> Self {
        Self { pages: Pages::new(region, fat_offset(bpb, bpb.active), bpb.fat_len), bpb }
    }

    /// Returns how many pages of the FAT were read.
    #[must_use]
    pub const fn loads(&self) -> u64 {
        self.pages.loads()
    }

    /// Returns the cluster behind `cluster`, or `None` at the end of a chain or where it breaks.
    pub fn next(&mut self, cluster: u64) -> Option<u64> {
        self.bpb.cluster_offset(cluster)?;
        let value = match self.bpb.kind {
            Kind::Fat32 => entry(&self.pages.read::<4>(cluster.checked_mul(4)?).ok()?, Kind::Fat32, 0),
            Kind::Fat16 => entry(&self.pages.read::<2>(cluster.checked_mul(2)?).ok()?, Kind::Fat16, 0),
            Kind::Fat12 => {
                entry(&self.pages.read::<3>(cluster.checked_div(2)?.checked_mul(3)?).ok()?, Kind::Fat12, cluster % 2)
            }
        };
        self.bpb.cluster_offset(value).map(|_| value)
    }
}

/// Returns the media byte with which the active FAT begins; `None` where it does not begin with one and ones, as
/// every FAT does. It need not be that of the boot sector: no driver compares them.
///
/// # Errors
/// Those of the region.
pub fn media(region: &dyn ReadAt, bpb: &Bpb) -> Result<Option<u64>, Error> {
    let mut bytes = [0; 8];
    region.read_exact_at(&mut bytes, bpb.fat_offset.saturating_add(bpb.active.saturating_mul(bpb.fat_len)))?;
    let ones = match bpb.kind {
        Kind::Fat12 => 0xf00,
        Kind::Fat16 => 0xff00,
        Kind::Fat32 => 0x0fff_ff00,
    };
    let first = entry(&bytes, bpb.kind, 0);
    Ok(Some(first & 0xff).filter(|media| first == ones | media && bpb::is_media(*media)))
}

/// Tells whether the first FAT says that the volume was not unmounted or that a disk error was seen.
///
/// # Errors
/// Those of the region.
pub fn says_dirty(region: &dyn ReadAt, bpb: &Bpb) -> Result<bool, Error> {
    let mut bytes = [0; 8];
    region.read_exact_at(&mut bytes, bpb.fat_offset)?;
    let entry = entry(&bytes, bpb.kind, 1);
    Ok(match bpb.kind {
        Kind::Fat12 => false,
        Kind::Fat16 => entry & 0xc000 != 0xc000,
        Kind::Fat32 => entry & 0x0c00_0000 != 0x0c00_0000,
    })
}

/// Returns how many clusters FSInfo says are free, where it says so.
#[must_use]
pub fn fsinfo_free(region: &dyn ReadAt, bpb: &Bpb) -> Option<u64> {
    let mut bytes = [0; 512];
    region.read_exact_at(&mut bytes, bpb.fsinfo.checked_mul(bpb.sector)?).ok()?;
    let f = Fields(&bytes);
    let free = f.u32(488).ok().filter(|free| *free != u32::MAX)?;
    (f.has(0, b"RRaA") && f.has(484, b"rrAa")).then_some(u64::from(free))
}

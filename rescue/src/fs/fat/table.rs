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
/// Bytes of a FAT in which zeros are passed over at once; a part of [`STEP`], and a multiple of 3 as well.
const BLOCK: usize = 192;

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
    let mut scan = Scan { bpb, linked: vec![0; bytes], table: Table { used: vec![0; bytes], ..Table::default() } };
    let needed = bpb.clusters.saturating_add(2).saturating_mul(bpb.kind.bits()).div_ceil(8).min(bpb.fat_len);
    let mut copies = Vec::new();
    let mut at = 0u64;
    while at < needed {
        let data = data_from(region, bpb, at).min(needed);
        let data = data.saturating_sub(data % STEP);
        if data > at {
            scan.free(bpb.kind.entries_in(at), bpb.kind.entries_in(data));
            at = data;
            continue;
        }
        let len = STEP.min(needed.saturating_sub(at));
        read_step(region, bpb, at, len, &mut copies)?;
        scan.step(bpb.kind.entries_in(at), bpb.kind.entries_in(len), &copies);
        at = at.saturating_add(len);
    }
    let Scan { linked, mut table, .. } = scan;
    for (used, linked) in table.used.iter_mut().zip(&linked) {
        table.dangling = table.dangling.saturating_add(u64::from((linked & !*used).count_ones()));
        *used |= linked;
    }
    Ok(table)
}

/// Returns where in the FATs, at or behind byte `at` of each, the first of them may hold anything but zeros. An image
/// file of an empty volume of 1 TiB has gigabytes of holes there.
fn data_from(region: &dyn ReadAt, bpb: &Bpb, at: u64) -> u64 {
    let data = (0..bpb.fats).map(|number| {
        let offset = fat_offset(bpb, number).saturating_add(at);
        // Where this cannot be told, reading tells.
        let data = region.next_data(offset).map(|data| data.map_or(u64::MAX, |data| data.start));
        at.saturating_add(data.unwrap_or(offset).saturating_sub(offset))
    });
    data.min().unwrap_or(at)
}

const fn fat_offset(bpb: &Bpb, number: u64) -> u64 {
    bpb.fat_offset.saturating_add(number.saturating_mul(bpb.fat_len))
}

/// Reads the same part of every copy; all must be readable.
fn read_step(region: &dyn ReadAt, bpb: &Bpb, at: u64, len: u64, copies: &mut Vec<Vec<u8>>) -> Result<(), Error> {
    copies.resize_with(usize::try_from(bpb.fats).unwrap_or(0), Vec::new);
    for (number, bytes) in (0..).zip(copies) {
        bytes.resize(usize::try_from(len).unwrap_or(0), 0);
        region.read_exact_at(bytes, fat_offset(bpb, number).saturating_add(at))?;
    }
    Ok(())
}

/// A table in the making.
struct Scan<'a> {
    bpb: &'a Bpb,
    linked: Vec<u8>,
    table: Table,
}

impl Scan<'_> {
    /// Counts entries that are 0 in every copy.
    fn free(&mut self, from: u64, to: u64) {
        let end = self.bpb.clusters.saturating_add(2);
        let count = to.min(end).saturating_sub(from.max(2));
        self.table.free = self.table.free.saturating_add(count);
    }

    /// Looks at `count` entries from `first` on.
    fn step(&mut self, first: u64, count: u64, copies: &[Vec<u8>]) {
        let kind = self.bpb.kind;
        let counts = usize::try_from(self.bpb.active).ok().and_then(|active| copies.get(active)).or(copies.first());
        let Some(counts) = counts else { return };
        // Copies are the same nearly everywhere, and a copy that says the same says nothing.
        let same = copies.iter().all(|copy| copy == counts);
        let block = kind.entries_in(BLOCK as u64);
        for (number, bytes) in (0u64..).zip(counts.chunks(BLOCK)) {
            let from = number.saturating_mul(block);
            let to = from.saturating_add(block).min(count);
            if same && bytes.iter().all(|byte| *byte == 0) {
                self.free(first.saturating_add(from), first.saturating_add(to));
                continue;
            }
            for within in from..to {
                let cluster = first.saturating_add(within);
                let Some(index) = cluster.checked_sub(2).filter(|index| *index < self.bpb.clusters) else { continue };
                let value = entry(counts, kind, within);
                self.table.free = self.table.free.saturating_add(u64::from(value == 0));
                self.table.bad = self.table.bad.saturating_add(u64::from(value == kind.bad()));
                if same {
                    if value != 0 && value != kind.bad() {
                        self.used(index, value);
                    }
                } else {
                    self.united(index, within, value, copies);
                }
            }
        }
    }

    /// Takes an entry as all copies together have it.
    fn united(&mut self, index: u64, within: u64, counts: u64, copies: &[Vec<u8>]) {
        let kind = self.bpb.kind;
        let values = || copies.iter().map(|copy| entry(copy, kind, within));
        if values().any(|value| value != 0 && value != kind.bad()) {
            values().for_each(|value| self.used(index, value));
        }
        self.table.differing = self.table.differing.saturating_add(u64::from(values().any(|value| value != counts)));
    }

    fn used(&mut self, index: u64, value: u64) {
        set(&mut self.table.used, index);
        if let Some(next) = value.checked_sub(2).filter(|next| *next < self.bpb.clusters) {
            set(&mut self.linked, next);
        }
    }
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

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A volume of `clusters` clusters with `fats` FATs of the sort `kind`.
    fn volume(kind: Kind, fats: u8, clusters: u16) -> Bpb {
        let mut sector = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        (put)(510, &[0x55, 0xaa]);
        let sectors = clusters + 1 + u16::from(fats) * 100;
        (put)(11, &[0, 2, 1, 1, 0, fats, 0, 0, sectors.to_le_bytes()[0], sectors.to_le_bytes()[1], 0xf8]);
        (put)(if kind == Kind::Fat32 { 36 } else { 22 }, &[100, 0]);
        let bpb = Bpb::parse(&sector).unwrap();
        assert_eq!((bpb.kind, bpb.clusters), (kind, u64::from(clusters)));
        bpb
    }

    proptest! {
        #[test]
        fn passing_over_zeros_and_equal_copies_changes_nothing(
            kind in prop_oneof![Just((Kind::Fat12, 4000)), Just((Kind::Fat16, 5000)), Just((Kind::Fat32, 5000))],
            fats in 1..4u8,
            first in 0..4u64,
            runs in proptest::collection::vec((0..700usize, proptest::collection::vec(any::<u8>(), 1..9)), 0..6),
            bad in 0..90u64,
            other in proptest::option::of((0..900usize, any::<u8>())),
        ) {
            let bpb = volume(kind.0, fats, kind.1);
            let kind = bpb.kind;
            let mut copy = vec![0u8; 768];
            runs.iter().for_each(|(at, bytes)| copy[*at..*at + bytes.len()].copy_from_slice(bytes));
            if kind == Kind::Fat32 {
                let at = usize::try_from(bad).unwrap() * 4;
                copy[at..at + 4].copy_from_slice(&0x0fff_fff7u32.to_le_bytes());
            }
            let mut copies = vec![copy; usize::from(fats)];
            if let Some((at, value)) = other.filter(|(at, _)| *at < 768) {
                copies.last_mut().unwrap()[at] = value;
            }
            let count = kind.entries_in(768);
            let empty = || vec![0; 625];
            let mut scan = Scan { bpb: &bpb, linked: empty(), table: Table { used: empty(), ..Table::default() } };
            scan.step(first, count, &copies);

            let (mut used, mut linked, mut free, mut bad, mut differing) = (empty(), empty(), 0, 0, 0);
            for within in (0..count).filter(|within| first + within >= 2) {
                let values = copies.iter().map(|copy| entry(copy, kind, within)).collect::<Vec<_>>();
                free += u64::from(values[0] == 0);
                bad += u64::from(values[0] == kind.bad());
                differing += u64::from(values.iter().any(|value| *value != values[0]));
                if values.iter().any(|value| *value != 0 && *value != kind.bad()) {
                    set(&mut used, first + within - 2);
                    values.iter().filter(|to| (2..bpb.clusters + 2).contains(*to)).for_each(|to| set(&mut linked, to - 2));
                }
            }
            prop_assert_eq!((scan.table.used, scan.linked), (used, linked));
            prop_assert_eq!((scan.table.free, scan.table.bad, scan.table.differing), (free, bad, differing));
        }
    }
}

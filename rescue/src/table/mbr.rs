//! Master boot record: the four entries of LBA 0, and the chain of extended boot records behind an extended one.
//!
//! ```text
//! LBA 0, and each EBR:  0 boot code … | 440 disk signature | 446 four entries | 510 55 AA
//! entry:                0 boot flag | 1 first CHS | 4 type | 5 last CHS | 8 start | 12 sectors
//!
//! | MBR | … | extended: | EBR | logical 5 | EBR | logical 6 |
//!               base ─────┴── data: from this EBR; link to the next EBR: from base
//! ```
//!
//! Integers are little endian; CHS is ignored, as by every system since disks passed 8 GB. A boot sector of a file
//! system ends in 55 AA as well, and its code lies where the entries would be. The chain is walked as the Linux
//! kernel walks it (`block/partitions/msdos.c`), so that logical partitions get the kernel's numbers.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;

use super::{
    Error, PieceKind, Problem, TablePiece,
    sectors::{Miss, Sectors},
};
use crate::{
    bytes::Fields,
    units::{Lba, SectorSize},
};

/// Where the entries begin in the sector.
pub(super) const ENTRIES: usize = 446;
pub(super) const ENTRY: usize = 16;
const SIGNATURE_AT: usize = 510;
pub(super) const SIGNATURE: &[u8; 2] = &[0x55, 0xaa];
/// Type of the entry that protects a GPT from programs that know only MBR.
pub(super) const PROTECTIVE: u8 = 0xee;
/// The chain is followed through this many EBRs; the kernel has room for 256 partitions.
const MAX_EBRS: usize = 512;
const FIRST_LOGICAL: u32 = 5;

/// One of the four entries of a boot record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) flag: u8,
    pub(super) kind: u8,
    pub(super) start: u32,
    pub(super) size: u32,
}

impl Entry {
    pub(super) const fn is_used(self) -> bool {
        self.kind != 0 && self.size != 0
    }

    /// Tells whether it is a container of logical partitions.
    pub(super) const fn is_extended(self) -> bool {
        self.size != 0 && matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    const fn has_sane_flag(self) -> bool {
        matches!(self.flag, 0x00 | 0x80)
    }

    /// Returns the first sector after it.
    pub(super) const fn end(self) -> u64 {
        (self.start as u64).saturating_add(self.size as u64)
    }
}

/// Reads the entries of a boot record; `None` when it does not end in 55 AA.
pub(super) fn entries(sector: &[u8]) -> Option<[Entry; 4]> {
    let raw = Fields(sector);
    if !raw.has(SIGNATURE_AT, SIGNATURE) {
        return None;
    }
    let entry = |slot: usize| {
        let raw = Fields(raw.slice(entry_at(slot), ENTRY).ok()?);
        let (flag, kind) = (raw.u8(0).ok()?, raw.u8(4).ok()?);
        Some(Entry { flag, kind, start: raw.u32(8).ok()?, size: raw.u32(12).ok()? })
    };
    Some([entry(0)?, entry(1)?, entry(2)?, entry(3)?])
}

/// Returns the place of an entry in its sector.
pub(super) const fn entry_at(slot: usize) -> usize {
    ENTRIES.saturating_add(slot.saturating_mul(ENTRY))
}

/// Tells whether LBA 0 holds an MBR without a single entry.
pub(super) fn is_empty(sector: &[u8]) -> bool {
    Fields(sector).has(ENTRIES, &[0; ENTRY * 4]) && Fields(sector).has(SIGNATURE_AT, SIGNATURE)
}

/// Returns the disk signature as `0x1234abcd`; `None` when there is none.
pub(super) fn disk_signature(sector: &[u8]) -> Option<String> {
    let signature = Fields(sector).u32(440).ok().filter(|signature| *signature != 0)?;
    Some(format!("{signature:#010x}"))
}

/// What LBA 0 turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Not a boot record.
    Nothing,
    /// The boot sector of a file system on the whole disk.
    BootSector,
    /// An MBR without partitions.
    Empty,
    /// The MBR that stands before a GPT.
    Protective {
        /// It lists partitions of its own as well.
        hybrid: bool,
    },
    /// An MBR with partitions.
    Mbr,
    /// Something that cannot be told: why.
    Nonsense(String),
}

impl First {
    /// Tells what LBA 0 is, on a disk of `count` sectors.
    pub(super) fn of(sector: &[u8], count: u64) -> Self {
        let Some(entries) = entries(sector) else { return Self::Nothing };
        let used: Vec<Entry> = entries.into_iter().filter(|entry| entry.is_used()).collect();
        let (boot, flags) = (volume(sector), entries.into_iter().all(Entry::has_sane_flag));
        let protects = |entry: &&Entry| entry.kind == PROTECTIVE && (entry.start == 1 || (flags && boot.is_none()));
        if used.iter().any(|entry| protects(&entry)) {
            return Self::Protective { hybrid: used.iter().any(|entry| entry.kind != PROTECTIVE) };
        }
        match boot {
            Some(volume) => Self::of_boot_sector(volume, flags, &used, count),
            None if used.is_empty() => Self::of_unused(sector, flags, &entries),
            None => Self::of_record(flags, &used, count),
        }
    }

    /// A file system's boot sector that lists partitions as well is one of two things, and each reading may lose what
    /// the other one needs. `mkfs.fat` lists one that starts at LBA 0, which is the file system itself.
    fn of_boot_sector(volume: Volume, flags: bool, used: &[Entry], count: u64) -> Self {
        let plausible = flags && !used.is_empty() && are_in_order(used, count);
        if !plausible || used.iter().any(|entry| entry.start == 0) {
            return Self::BootSector;
        }
        match volume.sectors {
            Some(len) if used.iter().all(|entry| len <= u64::from(entry.start)) => Self::Mbr,
            _ => Self::Nonsense("both the boot sector of a file system and a partition table".to_owned()),
        }
    }

    fn of_unused(sector: &[u8], flags: bool, entries: &[Entry; 4]) -> Self {
        if is_empty(sector) {
            let looks_made = disk_signature(sector).is_some() && Fields(sector).has(444, &[0; 2]);
            return if looks_made { Self::Empty } else { Self::Nothing };
        }
        if flags && entries.iter().any(|entry| entry.size != 0) {
            return Self::Nonsense("a partition table whose entries have no type".to_owned());
        }
        Self::Nothing
    }

    fn of_record(flags: bool, used: &[Entry], count: u64) -> Self {
        let starts_inside = used.iter().any(|entry| u64::from(entry.start) < count);
        if !starts_inside {
            return Self::Nonsense(format!("no partition starts on the disk, which has {count} sectors"));
        }
        if flags || are_in_order(used, count) {
            return Self::Mbr;
        }
        Self::Nonsense("entries with impossible boot flags and places: not a partition table".to_owned())
    }
}

/// Tells whether all entries lie on the disk, none over another.
fn are_in_order(used: &[Entry], count: u64) -> bool {
    let mut sorted = used.to_vec();
    sorted.sort_by_key(|entry| entry.start);
    let mut reach = 0;
    sorted.into_iter().all(|entry| {
        let after = u64::from(entry.start) >= reach;
        reach = entry.end();
        after && reach <= count
    })
}

/// A file system that begins with a boot sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Volume {
    /// How many sectors it says it has, where that is known.
    sectors: Option<u64>,
}

/// Tells whether `sector` is the boot sector of a FAT, NTFS, exFAT, `ReFS` or BitLocker volume.
fn volume(sector: &[u8]) -> Option<Volume> {
    let raw = Fields(sector);
    let names: [&[u8]; 4] = [b"NTFS    ", b"EXFAT   ", b"-FVE-FS-", b"ReFS\0\0\0\0"];
    if names.iter().any(|name| raw.has(3, name)) {
        return Some(Volume { sectors: None });
    }
    let (bytes, cluster, reserved) = (raw.u16(11).ok()?, raw.u8(13).ok()?, raw.u16(14).ok()?);
    let (fats, media) = (raw.u8(16).ok()?, raw.u8(21).ok()?);
    let is_fat = (512..=4096).contains(&bytes)
        && bytes.is_power_of_two()
        && cluster.is_power_of_two()
        && reserved != 0
        && fats != 0
        && (media == 0xf0 || media >= 0xf8)
        && (raw.has(0, &[0xeb]) || raw.has(0, &[0xe9]));
    let sectors = match raw.u16(19).ok()? {
        0 => u64::from(raw.u32(32).ok()?),
        small => u64::from(small),
    };
    is_fat.then_some(Volume { sectors: Some(sectors) })
}

/// One partition of an MBR, as its entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) number: u32,
    /// Where the entry lies, in bytes from the start of the disk.
    pub(super) at: u64,
    pub(super) entry: Entry,
    /// The first sector, from the start of the disk.
    pub(super) first: u64,
}

/// An MBR with its chain, read.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) seen: Vec<Seen>,
    pub(super) ebrs: Vec<TablePiece>,
    pub(super) problems: Vec<Problem>,
    /// Nothing in it is out of the ordinary: one container at most, its chain ascending and complete.
    pub(super) is_plain: bool,
}

impl Table {
    /// Reads the entries of `lba0` and the chains they lead to.
    ///
    /// # Errors
    /// [`Error::Disk`] when the disk is gone.
    pub(super) fn read(sectors: &Sectors<'_>, lba0: &[u8]) -> Result<Self, Error> {
        let mut table = Self { is_plain: true, ..Self::default() };
        let mut containers = Vec::new();
        for (number, (slot, entry)) in (1..).zip(entries(lba0).into_iter().flatten().enumerate()) {
            let at = entry_at(slot) as u64;
            table.check_entry(number, at, entry);
            if entry.is_extended() {
                containers.push((at, entry));
            } else if entry.is_used() {
                table.seen.push(Seen { number, at, entry, first: entry.start.into() });
            }
        }
        if let Some((at, _)) = containers.get(1) {
            table.say(*at, "a second extended partition");
        }
        table.check_containers(sectors, &containers);
        let mut next = FIRST_LOGICAL;
        for (at, container) in containers {
            let mut chain = Chain { table: &mut table, sectors, at, container, next, visited: BTreeSet::new() };
            chain.walk()?;
            next = chain.next;
        }
        table.ebrs.sort_by_key(|piece| piece.offset);
        Ok(table)
    }

    fn say(&mut self, offset: u64, what: impl Into<String>) {
        self.is_plain = false;
        self.problems.push(Problem { offset, what: what.into() });
    }

    fn check_entry(&mut self, number: u32, at: u64, entry: Entry) {
        if !entry.has_sane_flag() {
            self.say(at, format!("entry {number} has boot flag {:#04x}, expected 0x00 or 0x80", entry.flag));
        }
        if !entry.is_used() && (entry.kind != 0 || entry.size != 0) {
            let Entry { kind, size, .. } = entry;
            self.say(at, format!("entry {number} has type {kind:#04x} and {size} sectors, and was not used"));
        }
    }

    fn check_containers(&mut self, sectors: &Sectors<'_>, containers: &[(u64, Entry)]) {
        for (at, container) in containers {
            let (start, end, count) = (container.start, container.end(), sectors.count);
            if end > count {
                self.say(*at, format!("extended partition ends at sector {end}, beyond the disk of {count} sectors"));
            }
            let inside =
                |seen: &&Seen| seen.first < end && seen.first.saturating_add(seen.entry.size.into()) > u64::from(start);
            if let Some(number) = self.seen.iter().find(inside).map(|seen| seen.number) {
                self.say(*at, format!("partition {number} overlaps the extended partition"));
            }
        }
    }
}

/// A walk along the EBRs of one extended partition.
struct Chain<'a> {
    table: &'a mut Table,
    sectors: &'a Sectors<'a>,
    /// Where the container's entry lies, in bytes from the start of the disk.
    at: u64,
    container: Entry,
    next: u32,
    visited: BTreeSet<u64>,
}

impl Chain<'_> {
    fn walk(&mut self) -> Result<(), Error> {
        let base = u64::from(self.container.start);
        let (mut here, mut room, mut from) = (base, u64::from(self.container.size), self.at);
        loop {
            if let Some(why) = self.may_not_enter(here, from) {
                self.table.say(from, why);
                return Ok(());
            }
            let sector = match self.sectors.read(Lba(here), 1) {
                Ok(sector) => sector,
                Err(Miss::Disk(error)) => return Err(error.into()),
                Err(Miss::Damaged(problem)) => {
                    self.table.say(from, format!("the chain of logical partitions breaks off: {}", problem.what));
                    return Ok(());
                }
            };
            let offset = self.sectors.offset(Lba(here));
            let Some(entries) = entries(&sector) else {
                self.table.say(offset, "the chain of logical partitions leads to a sector that is not an EBR");
                return Ok(());
            };
            self.table.ebrs.push(TablePiece { kind: PieceKind::Ebr, offset, bytes: sector });
            self.take_data(here, room, &entries);
            let Some(link) = self.link(offset, &entries) else { return Ok(()) };
            let to = base.saturating_add(link.start.into());
            self.table.is_plain &= to > here;
            (here, room, from) = (to, link.size.into(), offset);
        }
    }

    /// Tells why the walk ends before `here`, where the link at byte `from` leads.
    fn may_not_enter(&mut self, here: u64, from: u64) -> Option<String> {
        if !self.visited.insert(here) {
            return Some("the chain of logical partitions leads back to itself".to_owned());
        }
        if self.table.ebrs.len() >= MAX_EBRS {
            return Some(format!("the chain of logical partitions is longer than {MAX_EBRS}"));
        }
        if here == 0 {
            return Some("the extended partition starts at LBA 0".to_owned());
        }
        if here < u64::from(self.container.start) || here >= self.container.end() {
            self.table.say(from, format!("an EBR at LBA {here} lies outside the extended partition"));
        }
        None
    }

    /// Notes the data partitions of one EBR. The third and fourth entry sometimes hold garbage and count only when
    /// they lie inside.
    fn take_data(&mut self, here: u64, room: u64, entries: &[Entry; 4]) {
        let (base, end) = (u64::from(self.container.start), self.container.end());
        for (slot, entry) in entries.iter().enumerate() {
            self.table.is_plain &= entry.has_sane_flag() && (slot == 0 || slot == 1 || *entry == UNUSED);
            if entry.size == 0 || entry.is_extended() {
                self.table.is_plain &= slot != 0 && (entry.size != 0 || *entry == UNUSED);
                continue;
            }
            let first = here.saturating_add(entry.start.into());
            let last_end = first.saturating_add(entry.size.into());
            if slot >= 2 && (entry.end() > room || first < base || last_end > end) {
                continue;
            }
            let at = self.sectors.offset(Lba(here)).saturating_add(entry_at(slot) as u64);
            let number = self.next;
            self.next = self.next.saturating_add(1);
            self.table.is_plain &= slot == 0 && u32::try_from(last_end).is_ok();
            if !entry.has_sane_flag() {
                self.table.say(at, format!("partition {number} has boot flag {:#04x}", entry.flag));
            }
            if first < base || last_end > end {
                self.table.say(at, format!("logical partition {number} leaves the extended partition"));
            }
            if entry.kind == 0 {
                self.table.say(at, format!("logical partition {number} has no type, and was not used"));
            } else {
                self.table.seen.push(Seen { number, at, entry: *entry, first });
            }
        }
    }

    /// Returns the entry that leads to the next EBR.
    fn link(&mut self, offset: u64, entries: &[Entry; 4]) -> Option<Entry> {
        let mut links = entries.iter().enumerate().filter(|(_, entry)| entry.is_extended());
        let (slot, link) = links.next()?;
        self.table.is_plain &= slot == 1;
        if links.next().is_some() {
            self.table.say(offset, "an EBR with two links; the first one was followed");
        }
        Some(*link)
    }
}

const UNUSED: Entry = Entry { flag: 0, kind: 0, start: 0, size: 0 };

/// Tells whether the entries would lie on the disk if it had sectors of `size`.
pub(super) fn fits_sectors_of(size: SectorSize, lba0: &[u8], disk_len: u64) -> bool {
    let used: Vec<Entry> = entries(lba0).into_iter().flatten().filter(|entry| entry.is_used()).collect();
    !used.is_empty() && used.iter().all(|entry| entry.end() <= size.sectors_in(disk_len))
}

/// Returns `lba` as cylinder, head and sector on the geometry everybody assumes, 255 heads of 63 sectors. Beyond its
/// reach all bits are set, as UEFI asks.
pub(super) fn chs(lba: u64) -> [u8; 3] {
    const HEADS: u64 = 255;
    const SECTORS: u64 = 63;
    let (cylinder, in_cylinder) = (lba / (HEADS * SECTORS), lba % (HEADS * SECTORS));
    let (head, sector) = (in_cylinder / SECTORS, (in_cylinder % SECTORS).saturating_add(1));
    match (u8::try_from(head), u8::try_from(sector | (cylinder >> 8) << 6), cylinder < 1024) {
        (Ok(head), Ok(sector), true) => [head, sector, cylinder.to_le_bytes()[0]],
        _ => [0xff; 3],
    }
}

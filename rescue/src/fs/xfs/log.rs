//! The log: a ring of records, of which the newest says whether the file system was unmounted.
//!
//! ```text
//! record:  0 magic feedbabe, cycle, version, bytes  16 its own place, 24 the tail's (cycle << 32 | sector)
//!         32 checksum (little endian), place of the record before, operations
//!         44 the first words of 64 sectors  300 byte order, 304 UUID, 320 length of the log's buffers
//!         (more sectors with a cycle and 64 words each, where buffers are longer than 32 KiB)
//!         data, in each sector of which the first word is replaced by the cycle
//! ```
//!
//! Each turn around the ring has its own cycle number, so that the head, behind the newest record, is where the number
//! falls by one. Several records are under way at once and may arrive in any order: where newer ones follow the first
//! place that is older than it should be, or the last one is cut short, a replay leaves some out; nobody can tell that
//! from damage, and we do not try. The log is clean when the record before the head is alone in saying "unmount".
//!
//! Big endian. Source: Linux kernel, fs/xfs/libxfs/xfs_log_format.h, and fs/xfs/xfs_log_recover.c for the search.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::superblock::{Geometry, Superblock};
use crate::{
    block::{self, ReadAt},
    bytes::{Fields, Truncated},
    extent::Extent,
    fs::{checked::right, ext::checksum::crc32c},
};

const SECTOR: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// Sectors that may be under way at once: eight records of 256 KiB.
const WINDOW: u64 = 4096;
/// Sectors of the longest record, headers included.
const MAX_RECORD: u64 = 520;
/// Sectors each header has the first words of.
const WORDS: u64 = 64;
/// Flag of the operation that says "unmount".
const UNMOUNT: u8 = 0x20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A bad sector.
    #[error("its log cannot be read: {0}")]
    Unreadable(#[from] block::Error),
    /// A structure ended before its time.
    #[error("its log is broken: {0}")]
    Truncated(#[from] Truncated),
    /// Cycle numbers that no ring has.
    #[error("its log is broken: sector {sector} is of cycle {cycle}")]
    Cycle {
        /// Which sector of the log.
        sector: u64,
        /// What it says.
        cycle: u32,
    },
    /// No record where one must be.
    #[error("its log is broken: there is no whole record before its sector {0}")]
    NoRecord(u64),
    /// Records that did not all arrive before it stopped: a replay would leave out the last ones.
    #[error("its log needs a replay, and what was written last did not all arrive, near its sector {0}")]
    Unfinished(u64),
    /// A record that cannot be.
    #[error("its log is broken: the record in its sector {0} is impossible")]
    Record(u64),
    /// A wrong checksum.
    #[error("its log is broken: the record in its sector {0} has a wrong checksum")]
    Checksum(u64),
    /// More to replay than is read.
    #[error("its log has {0} to replay, more than is read")]
    TooLong(crate::units::Bytes),
    /// What a computer of another byte order left.
    #[error("its log was written in another byte order or for another file system, and needs a replay")]
    Foreign,
}

/// Where the log is and whether it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing to replay.
    Clean,
    /// Records from sector `tail` up to sector `head` wait to be replayed.
    Dirty {
        /// Oldest record that may be needed.
        tail: u64,
        /// Sector behind the newest record.
        head: u64,
    },
}

/// The internal log of a file system.
pub struct Log<'a> {
    region: &'a dyn ReadAt,
    start: u64,
    sectors: u64,
    must_check: bool,
}

/// A record with the first words of its sectors put back.
pub struct Record {
    /// Sectors it fills, headers included.
    pub sectors: u64,
    /// Operations in it.
    pub operations: u32,
    /// Cycle and sector of the oldest record needed.
    pub tail: u64,
    /// Byte order: 1 is little endian.
    pub format: u32,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// Whether it has the checksum that its version of the format asks for.
    pub checked: bool,
    /// Its operations.
    pub data: Vec<u8>,
}

impl Record {
    /// Tells whether "unmount" is all it says.
    fn unmounts(&self) -> bool {
        self.operations == 1 && self.data.get(9).is_some_and(|flags| flags & UNMOUNT != 0)
    }
}

impl<'a> Log<'a> {
    /// Takes the place of the log from the superblock; `None` where it is on another device.
    #[must_use]
    pub fn new(region: &'a dyn ReadAt, sb: &Superblock, geometry: &Geometry) -> Option<Self> {
        let place = Self::place(sb, geometry)?;
        Some(Self { region, start: place.start, sectors: place.len() / SECTOR, must_check: geometry.v5 })
    }

    /// Returns the bytes of the log; `None` where it is on another device.
    #[must_use]
    pub fn place(sb: &Superblock, geometry: &Geometry) -> Option<Extent> {
        if sb.sb_logstart == 0 { None } else { geometry.run(sb.sb_logstart, u64::from(sb.sb_logblocks)) }
    }

    /// Returns how many sectors the log has.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Reads `count` sectors at `sector`, around the end where need be.
    fn read(&self, sector: u64, count: u64) -> Result<Vec<u8>, Error> {
        let count = count.min(self.sectors);
        let first = count.min(self.sectors.saturating_sub(sector));
        let bytes = |sectors: u64| usize::try_from(sectors.saturating_mul(SECTOR)).unwrap_or(0);
        let mut out = vec![0; bytes(count)];
        let (head, rest) = out.split_at_mut(bytes(first));
        self.region.read_exact_at(head, self.start.saturating_add(sector.saturating_mul(SECTOR)))?;
        if !rest.is_empty() {
            self.region.read_exact_at(rest, self.start)?;
        }
        Ok(out)
    }

    /// Returns the cycles of the sectors from `from` up to `to`.
    fn cycles(&self, from: u64, to: u64) -> Result<Vec<u32>, Error> {
        let bytes = self.read(from, to.saturating_sub(from))?;
        let cycle = |sector: &[u8; 512]| {
            let f = Fields(sector);
            if f.u32_be(0)? == MAGIC { f.u32_be(4) } else { f.u32_be(0) }
        };
        Ok(bytes.as_chunks::<512>().0.iter().map(cycle).collect::<Result<_, _>>()?)
    }

    fn cycle(&self, sector: u64) -> Result<u32, Error> {
        let cycles = self.cycles(sector, sector.saturating_add(1))?;
        cycles.first().copied().ok_or(Error::NoRecord(sector))
    }

    /// Finds out whether the log needs a replay.
    ///
    /// # Errors
    /// [`Error`]: then nothing is known of what is in use.
    pub fn state(&self) -> Result<State, Error> {
        let end = self.sectors;
        let (first, last) = (self.cycle(0)?, self.cycle(end.saturating_sub(1))?);
        if first == 0 {
            // Never written to. Nobody writes its end before its beginning.
            let odd = self.cycles(0, end.min(WINDOW))?.iter().any(|cycle| *cycle != 0) || last != 0;
            return if odd { Err(Error::Cycle { sector: 0, cycle: first }) } else { Ok(State::Clean) };
        }
        let old = if first == last { last.saturating_sub(1) } else { last };
        if old.checked_add(1) != Some(first) {
            return Err(Error::Cycle { sector: end.saturating_sub(1), cycle: last });
        }
        if self.cleared(first, old)? {
            return Ok(State::Clean);
        }
        let guess = if first == last { end } else { self.bisect(first, old)? };
        let (head, ragged) = self.settle(guess, first, old)?;
        self.before(head.checked_rem(end).unwrap_or(0), ragged)
    }

    /// Recognises what xfs_repair and xfs_admin leave: a record that says "unmount", zeros up to the next multiple of
    /// 256 KiB, and records of the cycle before up to the end, which say the same. The next mount fills the gap.
    fn cleared(&self, new: u32, old: u32) -> Result<bool, Error> {
        let cycles = self.cycles(0, self.sectors.min(WINDOW))?;
        let written = cycles.iter().take_while(|cycle| **cycle == new).count();
        let mut rest = cycles.iter().skip(written).skip_while(|cycle| **cycle == 0).peekable();
        if old == 0 || cycles.get(written) != Some(&0) || rest.peek().is_none() || rest.any(|cycle| *cycle != old) {
            return Ok(false);
        }
        let (last, first) = (self.record_before(0)?, self.record(0)?);
        let fits = first.sectors == written as u64 && self.header(last)?.sectors == self.distance(last, 0);
        Ok(fits && first.unmounts() && self.record(last)?.unmounts())
    }

    /// Finds a sector of cycle `old` with one of cycle `new` before it.
    fn bisect(&self, new: u32, old: u32) -> Result<u64, Error> {
        let (mut low, mut high) = (0u64, self.sectors.saturating_sub(1));
        while high.saturating_sub(low) > 1 {
            let sector = low.midpoint(high);
            match self.cycle(sector)? {
                cycle if cycle == new => low = sector,
                cycle if cycle == old => high = sector,
                cycle => return Err(Error::Cycle { sector, cycle }),
            }
        }
        Ok(high)
    }

    /// Returns the first sector near `guess` that is older than it should be, and whether newer ones follow.
    fn settle(&self, guess: u64, new: u32, old: u32) -> Result<(u64, bool), Error> {
        let (from, to) = (guess.saturating_sub(WINDOW), guess.saturating_add(WINDOW).min(self.sectors));
        let mut head = None;
        let mut ragged = false;
        for (sector, cycle) in (from..).zip(self.cycles(from, to)?) {
            match cycle {
                cycle if cycle == new => ragged |= head.is_some(),
                cycle if cycle == old => head = head.or(Some(sector)),
                cycle => return Err(Error::Cycle { sector, cycle }),
            }
        }
        // What was written before the turn must all have arrived; a zeroed rest was never written.
        let behind = WINDOW.saturating_sub(guess).min(self.sectors);
        let from = self.sectors.saturating_sub(behind);
        for (sector, cycle) in (from..).zip(self.cycles(from, self.sectors)?) {
            if cycle != old && cycle != new {
                return Err(Error::Cycle { sector, cycle });
            }
        }
        Ok((head.unwrap_or(guess), ragged))
    }

    /// Judges by the newest whole record before `head`.
    fn before(&self, head: u64, ragged: bool) -> Result<State, Error> {
        let at = self.record_before(head)?;
        if ragged || self.header(at)?.sectors != self.distance(at, head) {
            return Err(Error::Unfinished(head));
        }
        let record = self.record(at)?;
        if record.unmounts() {
            return Ok(State::Clean);
        }
        let tail = record.tail & u64::from(u32::MAX);
        if tail >= self.sectors {
            return Err(Error::Record(at));
        }
        Ok(State::Dirty { tail, head })
    }

    fn distance(&self, from: u64, to: u64) -> u64 {
        if to > from { to.saturating_sub(from) } else { to.saturating_add(self.sectors).saturating_sub(from) }
    }

    /// Finds the header of the record that ends at or was begun before `head`.
    fn record_before(&self, head: u64) -> Result<u64, Error> {
        let span = MAX_RECORD.min(self.sectors);
        let from = if head >= span {
            head.saturating_sub(span)
        } else {
            head.saturating_add(self.sectors).saturating_sub(span)
        };
        let bytes = self.read(from, span)?;
        let back = bytes.as_chunks::<512>().0.iter().rev().position(|sector| sector.starts_with(&MAGIC.to_be_bytes()));
        let back = back.ok_or(Error::NoRecord(head))? as u64;
        let at = head.saturating_add(self.sectors).saturating_sub(back).saturating_sub(1);
        Ok(at.checked_rem(self.sectors).unwrap_or(0))
    }

    fn header(&self, sector: u64) -> Result<Header, Error> {
        let bytes = self.read(sector, 1)?;
        let f = Fields(&bytes);
        let (version, len, size) = (f.u32_be(8)?, u64::from(f.u32_be(12)?), u64::from(f.u32_be(320)?));
        let long = version & 2 != 0 && size > WORDS.saturating_mul(SECTOR);
        let headers = if long { size.div_ceil(WORDS.saturating_mul(SECTOR)) } else { 1 };
        let sectors = headers.saturating_add(len.div_ceil(SECTOR));
        let possible = f.u32_be(0)? == MAGIC
            && f.u32_be(16)? != 0
            && (1..=2).contains(&version)
            && (1..=8).contains(&headers)
            && (12..=256 << 10).contains(&len)
            && sectors < self.sectors;
        if possible { Ok(Header { headers, sectors, len }) } else { Err(Error::Record(sector)) }
    }

    /// Reads the record in `sector`.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Checksum`], [`Error::Unreadable`].
    pub fn record(&self, sector: u64) -> Result<Record, Error> {
        let header = self.header(sector)?;
        let mut head = self.read(sector, header.sectors)?;
        let split = usize::try_from(header.headers.saturating_mul(SECTOR)).unwrap_or(usize::MAX);
        if split > head.len() {
            return Err(Error::Record(sector));
        }
        let mut data = head.split_off(split);
        data.truncate(usize::try_from(header.len).unwrap_or(0));
        let f = Fields(&head);
        let stored = f.u32(32)?;
        // What mkfs and xfs_repair write has none.
        let fits = right(checked(&head, &data, stored));
        if !fits && stored != 0 {
            return Err(Error::Checksum(sector));
        }
        for (index, chunk) in (0u64..).zip(data.chunks_mut(512)) {
            let (page, word) = (index / WORDS, index % WORDS);
            if page >= header.headers {
                // Old mkfs padded its record beyond what its one header has the words of.
                break;
            }
            let words = if page == 0 { 44 } else { page.saturating_mul(SECTOR).saturating_add(4) };
            let at = usize::try_from(words.saturating_add(word.saturating_mul(4))).unwrap_or(usize::MAX);
            let saved: [u8; 4] = Fields(&head).array(at).map_err(|_| Error::Record(sector))?;
            chunk.iter_mut().zip(saved).for_each(|(to, from)| *to = from);
        }
        let f = Fields(&head);
        Ok(Record {
            sectors: header.sectors,
            operations: f.u32_be(40)?,
            tail: f.u64_be(24)?,
            format: f.u32_be(300)?,
            uuid: f.array(304)?,
            checked: fits || !self.must_check,
            data,
        })
    }
}

struct Header {
    headers: u64,
    sectors: u64,
    len: u64,
}

/// Tells whether a record as it is on disk has the checksum `stored`.
fn checked(head: &[u8], data: &[u8], stored: u32) -> bool {
    // The structure is padded to eight bytes where pointers are of eight.
    [328, 324].iter().any(|len| {
        let (Some(before), Some(after)) = (head.get(..32), head.get(36..*len)) else { return false };
        let mut crc = crc32c(!0, &[before, &[0; 4], after]);
        for extended in head.chunks(512).skip(1) {
            crc = crc32c(crc, &[extended.get(..260).unwrap_or(&[])]);
        }
        !crc32c(crc, &[data]) == stored
    })
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test's own making")]
mod tests {
    use super::*;
    use crate::{
        block::MemoryDisk,
        fs::xfs::testing::{UNMOUNT, record},
        units::SectorSize,
    };

    const SECTORS: usize = 40;
    const WORK: [(u32, u8, &[u8]); 2] = [(9, 1, b""), (9, 0, &[1; 1200])];

    fn judge(ring: &[u8]) -> Result<State, Error> {
        let disk = MemoryDisk::new(ring.to_vec(), SectorSize::B512);
        Log { region: &disk, start: 0, sectors: ring.len() as u64 / SECTOR, must_check: false }.state()
    }

    /// Fills a ring with records of four sectors; returns it and where the next one goes.
    fn turns(records: usize) -> (Vec<u8>, usize, u32) {
        let (mut ring, mut at, mut cycle) = (vec![0; SECTORS * 512], 0, 1);
        for _ in 0..records {
            let next = record(&mut ring, at, cycle, u64::from(cycle) << 32 | at as u64, &WORK);
            cycle += u32::from(next < at);
            at = next;
        }
        (ring, at, cycle)
    }

    #[test]
    fn a_log_is_clean_when_its_last_record_says_unmount() {
        for records in 0..33 {
            let (mut ring, at, cycle) = turns(records);
            if records > 0 {
                let last = (at + SECTORS - 4) % SECTORS;
                let want = State::Dirty { tail: last as u64, head: at as u64 };
                assert_eq!(judge(&ring).unwrap(), want, "{records}");
            } else {
                assert_eq!(judge(&ring).unwrap(), State::Clean, "never written to");
            }
            let next = record(&mut ring, at, cycle, 0, &UNMOUNT);
            assert_eq!(judge(&ring).unwrap(), State::Clean, "{records}");
            let cycle = cycle + u32::from(next < at);
            let behind = record(&mut ring, next, cycle, 0, &WORK);
            assert!(matches!(judge(&ring), Ok(State::Dirty { head, .. }) if head == behind as u64), "{records}");
        }
    }

    #[test]
    fn records_go_around_the_end() {
        let (mut ring, mut at, mut cycle) = (vec![0; SECTORS * 512], 0, 1);
        for _ in 0..100 {
            let next = record(&mut ring, at, cycle, 0, &[(9, 0, &[2; 3000])]);
            cycle += u32::from(next < at);
            at = next;
            assert!(matches!(judge(&ring), Ok(State::Dirty { head, .. }) if head == at as u64), "{at}");
        }
    }

    #[test]
    fn what_did_not_all_arrive_is_unfinished() {
        let (whole, at, cycle) = turns(15);
        for sector in 0..4 {
            let mut ring = whole.clone();
            record(&mut ring, at, cycle, 0, &WORK);
            let range = (at + sector) * 512..(at + sector + 1) * 512;
            ring[range.clone()].copy_from_slice(&whole[range]);
            assert!(matches!(judge(&ring), Err(Error::Unfinished(_))), "{sector}: {:?}", judge(&ring));
        }
    }

    #[test]
    fn what_is_no_log_is_an_error() {
        let (ring, at, _) = turns(15);
        type Damage = fn(&mut [u8], usize);
        let cases: [(&str, Damage); 6] = [
            ("sector 39 is of cycle 1", |b, _| b[..4].copy_from_slice(&[0, 0, 0, 9])),
            ("sector 3 is of cycle 9", |b, at| b[(at / 4 * 4 - 17) * 512 + 3] = 9),
            ("no whole record", |b, _| {
                b.chunks_mut(512).for_each(|s| {
                    if s[0] == 0xfe {
                        s.copy_within(4..8, 0)
                    }
                })
            }),
            ("is impossible", |b, at| b[(at - 4) * 512 + 11] = 3),
            ("is impossible", |b, at| b[(at - 4) * 512 + 28..][..4].fill(0x7f)),
            ("sector 0 is of cycle 0", |b, _| b[..8].fill(0)),
        ];
        for (says, damage) in cases {
            let mut ring = ring.clone();
            damage(&mut ring, at);
            let error = judge(&ring).unwrap_err().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn a_log_begun_anew_is_clean() {
        let mut ring = vec![0; 1200 * 512];
        record(&mut ring, 0, 5, 4 << 32 | 1198, &UNMOUNT);
        for (at, len) in [(512, 512), (1024, 176)] {
            let end = record(&mut ring, at, 4, 0, &[(1, 0x20, &vec![0; (len - 1) * 512 - 12])]);
            assert_eq!(end, (at + len) % 1200);
        }
        assert_eq!(judge(&ring).unwrap(), State::Clean);
        ring[1024 * 512 + 43] = 2;
        assert!(judge(&ring).is_err(), "the records before do not say unmount");
    }
}

//! What a replay of the log would write to the free-space trees.
//!
//! ```text
//! operation: 0 transaction, 4 bytes, 8 client, 9 flags; then that many bytes: one region of an item
//! item of a buffer: first region: 0 type 123c, 2 regions, 4 flags, 6 sectors, 8 place (sector), 16 words, 20 bits
//!                   then the bytes of each run of bits, 128 bytes to a bit
//! ```
//!
//! A replay writes the changed parts of metadata blocks, transaction by transaction, to their places. We lay them
//! over the disk instead, for blocks of trees and group headers alone, and read the trees through them. What is free
//! before as well as after is free; everything else is kept. That the result fits together (two trees, three counters)
//! is checked as without a log. Intents that recovery would finish only free what both sides still call used.
//!
//! Items are in the byte order of the computer that wrote them. Source: Linux kernel,
//! fs/xfs/libxfs/xfs_log_format.h, fs/xfs/xfs_log_recover.c, fs/xfs/xfs_buf_item_recover.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Volume,
    log::{Error, Log},
};
use crate::{
    block::{self, ReadAt},
    bytes::{Fields, Truncated},
    units::Bytes,
};

/// Bytes of copies held at once, and of transactions that are not finished.
const MAX_BYTES: usize = 32 << 20;
/// Bytes of the log that are replayed at most.
const MAX_ACTIVE: u64 = 1 << 30;

const BUFFER: u16 = 0x123c;
const CANCEL: u16 = 2;
/// Unknown, trees, AGF, AGFL, AGI, superblock: the buffers that matter here, by the upper bits of their flags.
const KINDS: [u16; 6] = [0, 4, 5, 6, 7, 18];
const CHUNK: usize = 128;

const START: u8 = 1;
const COMMIT: u8 = 2;
const CONTINUE: u8 = 4;
const WAS_CONTINUED: u8 = 8;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;

/// Blocks as a replay would leave them, by the byte they begin at.
#[derive(Debug, Default)]
pub struct Copies {
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Copies {
    /// Returns the `len` bytes at `offset` where a replay would change them.
    #[must_use]
    pub fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        self.blocks.get(&offset).and_then(|block| block.get(..len))
    }

    /// Lists the groups in which something would change.
    pub(super) fn groups(&self, volume: &Volume<'_>) -> BTreeSet<u64> {
        let bytes = volume.geometry.offset(1, 0).max(1);
        self.blocks.keys().filter_map(|offset| offset.checked_div(bytes)).collect()
    }
}

#[derive(Default)]
struct Item {
    regions: Vec<Vec<u8>>,
    expected: usize,
    seen: usize,
}

impl Item {
    /// Tells whether the bytes of its regions are of use.
    fn wanted(&self) -> bool {
        let Some(format) = self.regions.first() else { return true };
        let f = Fields(format);
        f.u16(0) == Ok(BUFFER) && f.u16(4).map_or(true, |flags| KINDS.contains(&(flags >> 11)))
    }
}

#[derive(Default)]
struct Transaction {
    /// Bytes of its header that are still to come.
    header: usize,
    items: Vec<Item>,
}

/// Reads the log from `tail` up to `head`.
///
/// # Errors
/// [`Error`]: then everything may be in use.
pub(super) fn read(volume: &Volume<'_>, log: &Log<'_>, tail: u64, head: u64) -> Result<Copies, Error> {
    let mut replay = Replay { region: volume.region, open: BTreeMap::new(), copies: Copies::default(), held: 0 };
    let (mut at, mut read) = (tail, 0u64);
    while at != head {
        let record = log.record(at)?;
        if record.format != 1 || (record.uuid != volume.sb.sb_uuid && record.uuid != [0; 16]) {
            return Err(Error::Foreign);
        }
        if !record.checked {
            return Err(Error::Checksum(at));
        }
        read = read.saturating_add(record.sectors);
        if read > log.sectors() {
            return Err(Error::Record(at));
        }
        if read.saturating_mul(512) > MAX_ACTIVE {
            return Err(Error::TooLong(Bytes(read.saturating_mul(512))));
        }
        replay.record(&record.data, record.operations).map_err(|error| error.at(at))?;
        at = at.saturating_add(record.sectors).checked_rem(log.sectors()).unwrap_or(0);
    }
    Ok(replay.copies)
}

/// What goes wrong within a record.
enum Wrong {
    Record,
    Unreadable(block::Error),
    TooLong,
}

impl From<Truncated> for Wrong {
    fn from(_: Truncated) -> Self {
        Self::Record
    }
}

impl Wrong {
    fn at(self, sector: u64) -> Error {
        match self {
            Self::Record => Error::Record(sector),
            Self::Unreadable(error) => Error::Unreadable(error),
            Self::TooLong => Error::TooLong(Bytes(MAX_BYTES as u64)),
        }
    }
}

struct Replay<'a> {
    region: &'a dyn ReadAt,
    open: BTreeMap<u32, Transaction>,
    copies: Copies,
    /// Bytes of copies and of transactions that are open.
    held: usize,
}

impl Replay<'_> {
    fn record(&mut self, data: &[u8], operations: u32) -> Result<(), Wrong> {
        let (f, mut at) = (Fields(data), 0usize);
        for _ in 0..operations {
            let head = Fields(f.slice(at, 12)?);
            let (number, len) = (head.u32_be(0)?, usize::try_from(head.u32_be(4)?).unwrap_or(usize::MAX));
            let (client, flags) = (head.u8(8)?, head.u8(9)?);
            at = at.saturating_add(12);
            let bytes = f.slice(at, len)?;
            at = at.saturating_add(len);
            if client != 0x69 && client != 0xaa {
                return Err(Wrong::Record);
            }
            self.operation(number, flags, bytes)?;
        }
        Ok(())
    }

    fn operation(&mut self, number: u32, flags: u8, bytes: &[u8]) -> Result<(), Wrong> {
        if flags & START != 0 {
            if self.open.len() > 1 << 12 {
                return Err(Wrong::TooLong);
            }
            self.open.insert(number, Transaction { header: 16, items: Vec::new() });
            return Ok(());
        }
        // What was begun before the tail has long been written.
        let Some(transaction) = self.open.get_mut(&number) else { return Ok(()) };
        let mut flags = flags & !END;
        if flags & WAS_CONTINUED != 0 {
            flags &= !CONTINUE;
        }
        match flags {
            0 | CONTINUE => self.held = self.held.saturating_add(transaction.begin(bytes)?),
            WAS_CONTINUED => self.held = self.held.saturating_add(transaction.go_on(bytes)?),
            COMMIT => {
                let done = self.open.remove(&number).unwrap_or_default();
                let held = done
                    .items
                    .iter()
                    .filter(|item| item.wanted())
                    .flat_map(|item| &item.regions)
                    .map(Vec::len)
                    .sum::<usize>();
                self.held = self.held.saturating_sub(held);
                for item in &done.items {
                    self.apply(item)?;
                }
            }
            UNMOUNT => drop(self.open.remove(&number)),
            _ => return Err(Wrong::Record),
        }
        if self.held > MAX_BYTES { Err(Wrong::TooLong) } else { Ok(()) }
    }

    /// Lays the changed parts of a buffer over what it was.
    fn apply(&mut self, item: &Item) -> Result<(), Wrong> {
        let Some((format, regions)) = item.regions.split_first() else { return Ok(()) };
        if !item.wanted() {
            return Ok(());
        }
        let f = Fields(format);
        let (flags, sectors, place) = (f.u16(4)?, usize::from(f.u16(6)?), f.u64(8)?);
        let offset = place.checked_mul(512).ok_or(Wrong::Record)?;
        if flags & CANCEL != 0 {
            let gone = self.copies.blocks.remove(&offset);
            self.held = self.held.saturating_sub(gone.map_or(0, |block| block.len()));
            return Ok(());
        }
        if item.seen < item.expected || !(1..=128).contains(&sectors) {
            return Err(Wrong::Record);
        }
        let words = usize::try_from(f.u32(16)?).unwrap_or(usize::MAX).min(format.len());
        let bits = f.slice(20, words.saturating_mul(4))?;
        let mut block = match self.copies.blocks.remove(&offset) {
            Some(block) if block.len() == sectors.saturating_mul(512) => block,
            other => {
                self.held = self.held.saturating_sub(other.map_or(0, |block| block.len()));
                let mut block = vec![0; sectors.saturating_mul(512)];
                self.region.read_exact_at(&mut block, offset).map_err(Wrong::Unreadable)?;
                self.held = self.held.saturating_add(block.len());
                block
            }
        };
        let mut regions = regions.iter();
        let mut next = 0u64;
        let mut broken = false;
        crate::fs::map::runs_of_ones(bits, (bits.len() as u64).saturating_mul(8), |from, to| {
            // One run of bits may come in several regions.
            next = from;
            while next < to && !broken {
                broken |= regions.next().is_none_or(|region| {
                    let room = usize::try_from(to.saturating_sub(next)).unwrap_or(0).saturating_mul(CHUNK);
                    let take = region.len().min(room) / CHUNK;
                    let at = usize::try_from(next).unwrap_or(usize::MAX).saturating_mul(CHUNK);
                    let len = take.saturating_mul(CHUNK);
                    next = next.saturating_add(take as u64);
                    let target = block.get_mut(at..at.saturating_add(len));
                    match (target, region.get(..len)) {
                        (Some(target), Some(bytes)) if take > 0 => target.copy_from_slice(bytes),
                        _ => return true,
                    }
                    false
                });
            }
        });
        if broken {
            return Err(Wrong::Record);
        }
        self.copies.blocks.insert(offset, block);
        Ok(())
    }
}

impl Transaction {
    /// Adds a region; returns the bytes held for it.
    fn begin(&mut self, bytes: &[u8]) -> Result<usize, Wrong> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.header > 0 {
            // "TRAN", in the byte order of the items.
            if self.header == 16 && !bytes.starts_with(b"NART") {
                return Err(Wrong::Record);
            }
            self.header = self.header.checked_sub(bytes.len()).ok_or(Wrong::Record)?;
            return Ok(0);
        }
        if self.items.last().is_none_or(|item| item.seen == item.expected) {
            self.items.pop_if(|item| !item.wanted());
            let expected = usize::from(Fields(bytes).u16(2)?);
            if expected == 0 {
                return Err(Wrong::Record);
            }
            self.items.push(Item { expected, ..Item::default() });
        }
        let Some(item) = self.items.last_mut() else { return Ok(0) };
        item.seen = item.seen.saturating_add(1);
        if item.seen > 1 && !item.wanted() {
            return Ok(0);
        }
        item.regions.push(bytes.to_vec());
        // Of what is not wanted, the format alone is held, until the next item comes.
        Ok(if item.wanted() { bytes.len() } else { 0 })
    }

    /// Adds the rest of a region that did not fit into the record before.
    fn go_on(&mut self, bytes: &[u8]) -> Result<usize, Wrong> {
        if self.header > 0 {
            self.header = self.header.checked_sub(bytes.len()).ok_or(Wrong::Record)?;
            return Ok(0);
        }
        let item = self.items.last_mut().ok_or(Wrong::Record)?;
        if item.seen > 1 && !item.wanted() {
            return Ok(0);
        }
        item.regions.last_mut().ok_or(Wrong::Record)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::xfs::testing::{record, with_volume};

    /// The log of the test volume begins in the third group.
    const START: usize = (2000 + 100) * 4096;
    const HEADER: &[u8] = b"NART\x28\0\0\0\0\0\0\0\x01\0\0\0";

    /// Describes a change to a block of 4096 bytes: its sector, flags, which chunks.
    fn format(sector: u64, flags: u16, bits: u32, regions: u16) -> Vec<u8> {
        let words = [BUFFER, regions, flags, 8].map(u16::to_le_bytes).concat();
        [&words[..], &sector.to_le_bytes(), &1u32.to_le_bytes(), &bits.to_le_bytes(), &[0; 4]].concat()
    }

    fn replay(records: &[&[(u32, u8, &[u8])]]) -> Result<BTreeMap<u64, Vec<u8>>, Error> {
        let mut bytes = vec![0x11; 3500 * 4096];
        let ring = &mut bytes[START..][..200 * 4096];
        ring.fill(0);
        let head = records.iter().fold(0, |at, operations| record(ring, at, 1, 0, operations));
        with_volume(bytes, |volume| {
            let log = Log::new(volume.region, volume.sb, &volume.geometry).unwrap();
            read(volume, &log, 0, head as u64).map(|copies| copies.blocks)
        })
    }

    #[test]
    fn changes_are_laid_over_the_disk_when_their_transaction_ends() {
        let (one, two) = (format(800, 4 << 11, 0b1000_0110, 3), [[7; 256].to_vec(), [9; 128].to_vec()]);
        let begun: &[(u32, u8, &[u8])] = &[(5, START_FLAG, b""), (5, 0, HEADER), (5, 0, &one), (5, 0, &two[0])];
        let ended: &[(u32, u8, &[u8])] = &[(5, 0, &two[1]), (5, COMMIT, b"")];
        assert!(replay(&[begun]).unwrap().is_empty(), "not ended");
        let blocks = replay(&[begun, ended]).unwrap();
        let block = &blocks[&(800 * 512)];
        let chunk = |index: usize| block[index * 128];
        assert_eq!((0..9).map(chunk).collect::<Vec<_>>(), [0x11, 7, 7, 0x11, 0x11, 0x11, 0x11, 9, 0x11]);
        assert_eq!(block.len(), 4096);
    }

    #[test]
    fn regions_are_continued_in_the_next_record() {
        let one = format(800, 5 << 11, 1, 2);
        let first: &[(u32, u8, &[u8])] =
            &[(5, START_FLAG, b""), (5, CONTINUE, &HEADER[..8]), (6, START_FLAG, b""), (6, 0, HEADER)];
        let second: &[(u32, u8, &[u8])] =
            &[(5, WAS_CONTINUED | END, &HEADER[8..]), (5, 0, &one), (5, CONTINUE, &[3; 100]), (6, COMMIT, b"")];
        let third: &[(u32, u8, &[u8])] = &[(5, WAS_CONTINUED | END, &[4; 28]), (5, COMMIT, b"")];
        let blocks = replay(&[first, second, third]).unwrap();
        assert_eq!(blocks[&(800 * 512)][98..130], [[3; 2].to_vec(), [4; 28].to_vec(), [0x11; 2].to_vec()].concat());
    }

    #[test]
    fn what_is_freed_or_of_another_kind_is_passed_over() {
        let (tree, inodes) = (format(800, 4 << 11, 1, 2), format(1600, 9 << 11, 1, 2));
        let other = [0x3b, 0x12, 3, 0, 0, 0, 0, 0];
        let make: &[(u32, u8, &[u8])] = &[
            (5, START_FLAG, b""),
            (5, 0, HEADER),
            (5, 0, &other),
            (5, 0, &[1; 40]),
            (5, 0, &[2; 40]),
            (5, 0, &inodes),
            (5, 0, &[3; 128]),
            (5, 0, &tree),
            (5, 0, &[4; 128]),
            (5, COMMIT, b""),
        ];
        assert_eq!(replay(&[make]).unwrap().keys().collect::<Vec<_>>(), [&(800 * 512)]);
        let cancel = format(800, 4 << 11 | CANCEL, 0, 1);
        let free: &[(u32, u8, &[u8])] = &[(6, START_FLAG, b""), (6, 0, HEADER), (6, 0, &cancel), (6, COMMIT, b"")];
        assert!(replay(&[make, free]).unwrap().is_empty());
        assert_eq!(replay(&[free, make]).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let beyond = format(u64::from(u32::MAX), 4 << 11, 1, 2);
        let wide = format(800, 4 << 11, 1 << 31, 2);
        let short = format(800, 4 << 11, 3, 2);
        for (name, region, bytes, header) in [
            ("behind the end", &beyond, 128, HEADER),
            ("half a chunk", &wide, 64, HEADER),
            ("fewer regions than bits", &short, 128, HEADER),
            ("no header", &short, 256, &[0; 16][..]),
        ] {
            let data = vec![5; bytes];
            let operations: &[(u32, u8, &[u8])] =
                &[(5, START_FLAG, b""), (5, 0, header), (5, 0, region), (5, 0, &data), (5, COMMIT, b"")];
            assert!(replay(&[operations]).is_err(), "{name}");
        }
        assert!(replay(&[&[(5, START_FLAG, b""), (5, 0x40, b"")]]).is_err(), "unknown flags");
        assert!(replay(&[&[(5, 0, b"begun before the tail")]]).is_ok());
    }

    const START_FLAG: u8 = super::START;
}

//! The segment information table of F2FS: which blocks of each segment of the main area are valid.
//!
//! Each entry has 74 bytes: a type and a count of valid blocks (6 and 10 bits), 512 bits, high bit of each byte first,
//! and an age. Count and bits vouch for each other; 55 entries make a block.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Volume,
    checkpoint::JOURNAL,
    superblock::{BLOCK, SEGMENT, bytes},
};
use crate::{
    bytes::{Fields, Truncated},
    fs::{
        map::{MapBuilder, runs_of_ones},
        reader::SmallReader,
        whole::Whole,
    },
};

/// Bytes in an entry.
const ENTRY: usize = 74;
/// Entries in a block.
const PER_BLOCK: u64 = 55;
/// Entries a journal has room for, each with the number of its segment before it.
const JOURNAL_ENTRIES: usize = (JOURNAL - 2) / (ENTRY + 4);
/// Segments in doubt that are named one by one.
const NAMED: usize = 8;

/// What the table says of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    valid: u64,
    /// Low bit of each byte first.
    bits: [u8; 64],
}

impl Entry {
    fn parse(bytes: &[u8]) -> Result<Self, Truncated> {
        let f = Fields(bytes);
        let mut bits: [u8; 64] = f.array(2)?;
        bits.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        Ok(Self { valid: u64::from(f.u16(0)? & 0x3ff), bits })
    }

    fn is_consistent(&self) -> bool {
        self.valid == self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()
    }
}

/// What was read out of the table.
#[derive(Debug, Default)]
pub struct Books {
    /// Valid blocks by the bits of all segments that are not in doubt.
    pub valid: u64,
    /// Segments without valid blocks that no log is writing to.
    pub free_segments: u64,
    /// Segments kept whole because count and bits disagree.
    pub contradicted: Vec<u64>,
    /// Segments kept whole because their entry cannot be read.
    pub unreadable: Vec<u64>,
}

impl Books {
    /// Tells whether any segment is in doubt.
    #[must_use]
    pub const fn in_doubt(&self) -> bool {
        !self.contradicted.is_empty() || !self.unreadable.is_empty()
    }

    /// Says which segments are kept whole, and why.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let doubts = [
            (&self.contradicted, "the count of valid blocks and the bits for them disagree"),
            (&self.unreadable, "the segment information table cannot be read there"),
        ];
        doubts.iter().filter(|(segments, _)| !segments.is_empty()).map(|(segments, why)| blame(segments, why)).collect()
    }
}

fn blame(segments: &[u64], why: &str) -> String {
    let mut out = String::from(if segments.len() == 1 { "segment" } else { "segments" });
    for (index, segment) in segments.iter().take(NAMED).enumerate() {
        let _ = write!(out, "{} {segment}", if index == 0 { "" } else { "," });
    }
    if segments.len() > NAMED {
        let _ = write!(out, " and {} more", segments.len().saturating_sub(NAMED));
    }
    let _ = write!(out, " kept whole: {why}");
    out
}

/// Adds the valid blocks of the main area to `map`.
///
/// # Errors
/// The journal of the table is broken: what it holds is then known of no segment.
pub fn read(volume: &Volume<'_>, map: &mut MapBuilder) -> Result<Books, Whole> {
    let sb = &volume.sb;
    let journal = journal(volume)?;
    let mut readers = [SmallReader::new(volume.region), SmallReader::new(volume.region)];
    let mut books = Books::default();
    let current = &volume.checkpoint.current;
    for index in 0..sb.main_segments.div_ceil(PER_BLOCK) {
        let (number, second) = volume.checkpoint.sit_block(sb, index);
        let [first_copy, second_copy] = &mut readers;
        let reader = if second { second_copy } else { first_copy };
        let block = reader.read(number.saturating_mul(BLOCK), 4096).ok();
        let first = index.saturating_mul(PER_BLOCK);
        let entries = block.unwrap_or_default().chunks_exact(ENTRY).map(Some).chain(std::iter::repeat(None));
        for (segment, raw) in (first..sb.main_segments.min(first.saturating_add(PER_BLOCK))).zip(entries) {
            let entry = match journal.get(&segment) {
                Some(entry) => Some(entry.clone()),
                None => raw.and_then(|raw| Entry::parse(raw).ok()),
            };
            let start = sb.main.saturating_add(segment.saturating_mul(SEGMENT));
            let whole = bytes(start, start.saturating_add(SEGMENT));
            match entry {
                Some(entry) if entry.is_consistent() => {
                    runs_of_ones(&entry.bits, SEGMENT, |from, to| {
                        map.insert(bytes(start.saturating_add(from), start.saturating_add(to)));
                    });
                    books.valid = books.valid.saturating_add(entry.valid);
                    let free = entry.valid == 0 && !current.contains(&segment);
                    books.free_segments = books.free_segments.saturating_add(u64::from(free));
                }
                Some(_) => {
                    map.insert(whole);
                    books.contradicted.push(segment);
                }
                None => {
                    map.insert(whole);
                    books.unreadable.push(segment);
                }
            }
        }
    }
    Ok(books)
}

/// Reads the entries that wait in the checkpoint.
fn journal(volume: &Volume<'_>) -> Result<BTreeMap<u64, Entry>, Whole> {
    let f = Fields(&volume.checkpoint.sit_journal);
    let count = usize::from(f.u16(0).map_err(Whole::damaged)?);
    if count > JOURNAL_ENTRIES {
        return Err(Whole::damaged(format_args!("the journal of segments counts {count} entries")));
    }
    let mut entries = BTreeMap::new();
    for index in 0..count {
        let at = index.saturating_mul(ENTRY + 4).saturating_add(2);
        let parsed = f
            .u32(at)
            .and_then(|segment| Ok((u64::from(segment), Entry::parse(f.slice(at.saturating_add(4), ENTRY)?)?)));
        let (segment, entry) = parsed.map_err(Whole::damaged)?;
        if segment >= volume.sb.main_segments {
            return Err(Whole::damaged(format_args!(
                "the journal of segments names segment {segment} of {}",
                volume.sb.main_segments
            )));
        }
        entries.insert(segment, entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_and_bits_vouch_for_each_other() {
        let mut bytes = [0; ENTRY];
        bytes[2] = 0x80;
        bytes[65] = 0x01;
        bytes[..2].copy_from_slice(&(2u16 | 3 << 10).to_le_bytes());
        let entry = Entry::parse(&bytes).unwrap();
        assert!(entry.is_consistent());
        let mut runs = Vec::new();
        runs_of_ones(&entry.bits, SEGMENT, |from, to| runs.push((from, to)));
        assert_eq!(runs, [(0, 1), (511, 512)]);
        bytes[30] = 1;
        assert!(!Entry::parse(&bytes).unwrap().is_consistent());
        assert!(Entry::parse(&bytes[..40]).is_err());
    }

    #[test]
    fn long_lists_are_cut_short() {
        let books = Books { contradicted: (0..20).collect(), unreadable: vec![7], ..Books::default() };
        let said = books.sentences();
        assert!(said[0].starts_with("segments 0, 1, 2, 3, 4, 5, 6, 7 and 12 more kept whole: "), "{said:?}");
        assert!(said[1].starts_with("segment 7 kept whole: "), "{said:?}");
    }
}

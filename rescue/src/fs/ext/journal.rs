//! The journal (jbd2): which copies of bitmaps and descriptors wait in it to be written to their places.
//!
//! ```text
//! log block 0: journal superblock (big endian, as everything here)
//!   0 magic c03b3998, type 3 or 4, sequence   12 block size, length, first block, first sequence, start (0: empty)
//!  36 compatible, incompatible, read-only features  48 UUID  252 checksum
//! transaction: | descriptor | copies of blocks ... | (descriptor, revoke) ... | commit |, wrapping at the end
//! descriptor: 12-byte header, then tags: block number, flags, checksum, and a UUID where flags lack "same"
//! ```
//!
//! A replay writes each copy of every committed transaction. We do not replay: a block that the bitmap on disk or any
//! copy of it calls used is kept, which is what holds before a replay, after it, and after half of one. Revoke
//! records only take copies away and are therefore not needed. Transactions without a commit count as well.
//!
//! Source: Linux kernel, Documentation/filesystems/ext4/journal.rst, and fs/jbd2/recovery.c for when a replay ends.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Volume, Whole,
    checksum::{crc32_be, crc32c},
    fastcommit::Ranges,
    groups::{BLOCK_UNINIT, Descriptor},
    inode::{Error as InodeError, Lister},
    superblock::{self, Superblock, feature},
};
use crate::{
    block::{self, ReadAt},
    bytes::{Fields, Truncated},
    extent::{Extent, ExtentSet},
    fs::{checked::right, reader::SmallReader},
};

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
const COMPAT_CHECKSUM: u32 = 1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// Revoke, 64-bit, checksums 2 and 3, fast commits. Not async commits: where they end cannot be told for sure.
const INCOMPAT_READ: u32 = 0x1 | INCOMPAT_64BIT | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3 | INCOMPAT_FAST_COMMIT;
/// Blocks for fast commits where the journal does not say.
const FAST_BLOCKS: u64 = 256;
/// The shortest log that leaves room for fast commits behind it.
const MIN_LOG: u64 = 1024;
/// The longest log that is read block by block: 8 GiB with 4 KiB blocks; mke2fs makes 1 GiB unless told otherwise.
const MAX_LOG: u64 = 1 << 21;
/// Versions of one descriptor that are remembered; more only make the map larger.
const MAX_VERSIONS: usize = 256;

/// Why a journal cannot be read; everything is kept then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal's inode is missing or its table is unreadable.
    #[error("its journal, inode {0}, cannot be read")]
    NoInode(u32),
    /// The journal's blocks cannot be listed.
    #[error("the blocks of its journal cannot be listed: {0}")]
    Blocks(#[from] InodeError),
    /// A block of the journal cannot be read.
    #[error("its journal cannot be read: {0}")]
    Unreadable(#[from] block::Error),
    /// A block of the journal ends within a structure.
    #[error("its journal is broken: {0}")]
    Truncated(#[from] Truncated),
    /// The log has a block that no extent of its inode holds.
    #[error("block {0} of its journal does not exist")]
    Hole(u64),
    /// The journal superblock is none, or contradicts itself.
    #[error("its journal superblock is broken: {0}")]
    Superblock(String),
    /// Features we do not read.
    #[error("its journal needs recovery and has features {0:#x}, which are not read yet")]
    Features(u32),
    /// A checksum does not match.
    #[error("its journal needs recovery and the checksum of its block {0} is wrong")]
    Checksum(u64),
    /// The log goes on behind a gap.
    #[error("its journal needs recovery and is interrupted before its block {0}")]
    Interrupted(u64),
    /// A log with fast commits behind it that goes around its end: drivers differ in where that is.
    #[error("its journal needs recovery, has fast commits and goes around its end")]
    Around,
    /// A replay would move metadata, as after growing.
    #[error("its journal needs recovery and changes where {0}")]
    Moves(&'static str),
}

impl From<Error> for Whole {
    fn from(error: Error) -> Self {
        match error {
            Error::Features(_) | Error::Moves(_) | Error::Around => Self::because(error),
            _ => Self::damaged(error),
        }
    }
}

/// A copy of a block in the log.
#[derive(Clone, Copy, Debug)]
struct Copy {
    /// Where the copy lies in the file system, in bytes.
    offset: u64,
    /// Its first four bytes were the journal's magic and are written as zeros.
    escaped: bool,
}

/// What the journal says of one group's descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    /// A copy of the descriptor says that its block bitmap has been written.
    pub(super) initialised: bool,
}

/// What a replay may still write.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Bytes that a replay writes.
    pub(super) targets: ExtentSet,
    /// Sentences for the person.
    pub(super) widened: Vec<String>,
    copies: BTreeMap<u64, Vec<Copy>>,
    pending: BTreeMap<u64, Pending>,
    versions: BTreeMap<u64, Vec<Descriptor>>,
}

impl Log {
    /// Tells whether a replay would write nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Returns what copies of the descriptor of `group` say, where there are any.
    pub(super) fn group(&self, group: u64) -> Option<Pending> {
        self.pending.get(&group).copied()
    }

    /// Returns the descriptors in the journal whose block bitmap is `block`.
    pub(super) fn descriptors_at(&self, block: u64) -> &[Descriptor] {
        self.versions.get(&block).map_or(&[], Vec::as_slice)
    }

    /// Tells whether the journal has a copy of `block`, a bitmap.
    pub(super) fn has_copies(&self, block: u64) -> bool {
        self.copies.contains_key(&block)
    }

    /// Sets every bit in `bitmap` that a copy of it, block `block`, has set.
    pub(super) fn unite(&self, region: &dyn ReadAt, block: u64, bitmap: &mut [u8]) -> Result<(), block::Error> {
        let mut bytes = vec![0; bitmap.len()];
        for copy in self.copies.get(&block).into_iter().flatten() {
            copy.read(region, &mut bytes)?;
            bitmap.iter_mut().zip(&bytes).for_each(|(all, one)| *all |= one);
        }
        Ok(())
    }
}

impl Copy {
    fn read(self, region: &dyn ReadAt, bytes: &mut [u8]) -> Result<(), block::Error> {
        region.read_exact_at(bytes, self.offset)?;
        if self.escaped {
            bytes.iter_mut().zip(MAGIC.to_be_bytes()).for_each(|(byte, magic)| *byte = magic);
        }
        Ok(())
    }
}

/// Reads the journal of `volume`; an empty [`Log`] where there is none or nothing waits in it.
///
/// # Errors
/// Why the region must be kept whole: whatever leaves a doubt about what a replay would write.
pub(super) fn read(volume: &Volume<'_>) -> Result<Log, Whole> {
    let number = volume.sb.s_journal_inum;
    if !volume.sb.has_compat(feature::COMPAT_HAS_JOURNAL) || (number == 0 && volume.sb.s_journal_dev != 0) {
        return Ok(Log::default());
    }
    let mut scan = Scan::open(volume, number)?;
    if scan.start != 0 {
        scan.run()?;
    }
    let fast = scan.fast_commits()?;
    scan.targets.extend(fast.iter());
    let mut log = scan.log;
    log.targets = ExtentSet::from_unsorted(scan.targets);
    read_descriptors(volume, &mut log, &scan.heads)?;
    if log.is_empty() {
        return Ok(log);
    }
    if !fast.is_empty() {
        let bytes = crate::units::Bytes(fast.total());
        log.widened.push(format!("its journal has fast commits: {bytes} that they name are kept"));
    }
    log.widened.push(format!(
        "its journal needs recovery: bitmaps of {} groups in the journal are united with those on disk, and {} that a \
         recovery writes are kept",
        log.copies.len(),
        crate::units::Bytes(log.targets.total())
    ));
    Ok(log)
}

struct Scan<'v, 'a> {
    volume: &'v Volume<'a>,
    reader: SmallReader<'a>,
    /// Runs of the journal inode: first log block, first block, length.
    runs: Vec<(u64, u64, u64)>,
    first: u64,
    /// Behind the log: fast commits, where there are any.
    last: u64,
    /// Blocks of the journal.
    len: u64,
    start: u64,
    sequence: u32,
    compat: u32,
    incompat: u32,
    seed: u32,
    log: Log,
    targets: Vec<Extent>,
    /// Copies of superblock and descriptors.
    heads: BTreeMap<u64, Vec<Copy>>,
    bitmaps: BTreeSet<u64>,
    head_blocks: BTreeSet<u64>,
}

/// One block number in a descriptor.
struct Tag {
    target: u64,
    escaped: bool,
    checksum: u32,
    log_block: u64,
}

impl<'v, 'a> Scan<'v, 'a> {
    fn open(volume: &'v Volume<'a>, number: u32) -> Result<Self, Error> {
        let inode = volume.inode(number).ok_or(Error::NoInode(number))?;
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        // An indirect journal of the longest kind has this many blocks of numbers.
        let mut lister = Lister::new(volume, MAX_LOG / 128);
        let mut too_many = false;
        lister.list(&inode, &mut |run| {
            let Some(logical) = run.logical else { return };
            let room = runs.len() < 1 << 20;
            match runs.last_mut() {
                Some((at, start, len))
                    if at.saturating_add(*len) == logical && start.saturating_add(*len) == run.start =>
                {
                    *len = len.saturating_add(run.len);
                }
                _ if room => runs.push((logical, run.start, run.len)),
                _ => too_many = true,
            }
        })?;
        if too_many {
            return Err(Error::Superblock("it is in more than a million pieces".to_owned()));
        }
        runs.sort_unstable();
        let descs = volume.geometry.groups.div_ceil(volume.geometry.descs_per_block().max(1));
        let mut scan = Self {
            volume,
            reader: SmallReader::new(volume.region),
            runs,
            first: 0,
            last: 0,
            len: 0,
            start: 0,
            sequence: 0,
            compat: 0,
            incompat: 0,
            seed: 0,
            log: Log::default(),
            targets: Vec::new(),
            heads: BTreeMap::new(),
            bitmaps: volume.groups.descriptors.iter().map(|desc| desc.block_bitmap).collect(),
            head_blocks: (0..descs).map(|n| volume.geometry.desc_block(n)).collect(),
        };
        scan.head_blocks.insert(volume.geometry.block_of_byte(superblock::OFFSET));
        scan.superblock()?;
        Ok(scan)
    }

    fn superblock(&mut self) -> Result<(), Error> {
        let bytes = self.read(0)?;
        let f = Fields(&bytes);
        let (magic, kind) = (f.u32_be(0)?, f.u32_be(4)?);
        if magic != MAGIC || !(3..=4).contains(&kind) {
            return Err(Error::Superblock(format!("magic {magic:#010x}, type {kind}")));
        }
        let (block_size, len) = (u64::from(f.u32_be(12)?), u64::from(f.u32_be(16)?));
        (self.first, self.last) = (u64::from(f.u32_be(20)?), len);
        (self.sequence, self.start) = (f.u32_be(24)?, u64::from(f.u32_be(28)?));
        if kind == 4 {
            (self.compat, self.incompat) = (f.u32_be(36)?, f.u32_be(40)?);
        }
        if self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0 {
            self.seed = crc32c(!0, &[f.slice(48, 16)?]);
            let computed = crc32c(!0, &[f.slice(0, 252)?, &[0; 4], f.slice(256, 768)?]);
            if !right(computed == f.u32_be(252)?) {
                return Err(Error::Superblock("its checksum is wrong".to_owned()));
            }
        }
        self.len = len;
        if self.incompat & INCOMPAT_FAST_COMMIT != 0 {
            let said = u64::from(f.u32_be(84)?);
            let last = len.checked_sub(if said == 0 { FAST_BLOCKS } else { said });
            self.last = last.filter(|last| *last >= MIN_LOG).unwrap_or(len);
        } else if self.start == 0 {
            return Ok(());
        }
        let unread = self.incompat & !INCOMPAT_READ;
        if unread != 0 || f.u32_be(44)? != 0 {
            return Err(Error::Features(unread));
        }
        if self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) == INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3 {
            return Err(Error::Superblock("it has checksums of two versions".to_owned()));
        }
        let started = self.start == 0 || (self.first..self.last).contains(&self.start);
        let possible = self.first >= 1 && self.first < self.last && started;
        if block_size != self.volume.geometry.block_size || len > MAX_LOG || !possible {
            let Self { first, last, start, .. } = self;
            return Err(Error::Superblock(format!("{block_size}-byte blocks {first} to {last}, started at {start}")));
        }
        Ok(())
    }

    fn offset(&self, log_block: u64) -> Result<u64, Error> {
        let after = self.runs.partition_point(|(at, ..)| *at <= log_block);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        run.and_then(|(at, start, len)| {
            let within = log_block.checked_sub(*at).filter(|within| within < len)?;
            start.checked_add(within)?.checked_mul(self.volume.geometry.block_size)
        })
        .ok_or(Error::Hole(log_block))
    }

    fn read(&mut self, log_block: u64) -> Result<Vec<u8>, Error> {
        let offset = self.offset(log_block)?;
        Ok(self.reader.read(offset, self.volume.block_len())?.to_vec())
    }

    const fn next(&self, log_block: u64) -> u64 {
        let next = log_block.saturating_add(1);
        if next >= self.last { self.first } else { next }
    }

    /// Follows the log as a replay does: to the first block that does not continue it.
    fn run(&mut self) -> Result<(), Error> {
        let (mut at, mut sequence, mut seen) = (self.start, self.sequence, 0u64);
        let mut open: Vec<Tag> = Vec::new();
        let mut crc = !0u32;
        let round = self.last.saturating_sub(self.first);
        while seen < round {
            let bytes = self.read(at)?;
            let f = Fields(&bytes);
            if f.u32_be(0)? != MAGIC || f.u32_be(8)? != sequence {
                break;
            }
            let kind = f.u32_be(4)?;
            let here = at;
            (at, seen) = (self.next(at), seen.saturating_add(1));
            match kind {
                DESCRIPTOR => {
                    self.check_tail(&bytes, here)?;
                    crc = crc32_be(crc, &bytes);
                    let tags = self.tags(&bytes, &mut at)?;
                    seen = seen.saturating_add(tags.len() as u64);
                    if self.compat & COMPAT_CHECKSUM != 0 {
                        for tag in &tags {
                            crc = crc32_be(crc, &self.read(tag.log_block)?);
                        }
                    }
                    tags.iter().try_for_each(|tag| self.remember(tag))?;
                    open.extend(tags);
                }
                COMMIT => {
                    self.check_commit(&bytes, here, crc)?;
                    self.check_copies(&open, sequence)?;
                    open.clear();
                    crc = !0;
                    sequence = sequence.wrapping_add(1);
                }
                REVOKE => self.check_tail(&bytes, here)?,
                _ => break,
            }
        }
        if self.incompat & INCOMPAT_FAST_COMMIT != 0 && self.start.saturating_add(seen) >= self.last {
            return Err(Error::Around);
        }
        self.check_end(at, round.saturating_sub(seen), sequence)
    }

    /// Returns what fast commits name, whether a replay would get as far or not.
    fn fast_commits(&mut self) -> Result<ExtentSet, Error> {
        let mut found = Vec::new();
        // A file system that was unmounted leaves old ones behind.
        if self.incompat & INCOMPAT_FAST_COMMIT != 0 && self.volume.sb.has_incompat(feature::INCOMPAT_RECOVER) {
            let mut ranges = Ranges::new(self.volume);
            for log_block in self.last..self.len {
                let bytes = self.read(log_block)?;
                ranges.block(&bytes, &mut found);
            }
        }
        Ok(ExtentSet::from_unsorted(found))
    }

    /// Checks that nothing newer follows the block where a replay stops. What is left over from earlier rounds is older;
    /// a newer transaction means that the log was broken off in its middle, and blocks were used that we do not see.
    fn check_end(&mut self, mut at: u64, count: u64, sequence: u32) -> Result<(), Error> {
        for _ in 0..count {
            let bytes = self.read(at)?;
            let f = Fields(&bytes);
            let newer = f.u32_be(8)?.wrapping_sub(sequence) < 1 << 31;
            let part = matches!(f.u32_be(4)?, DESCRIPTOR | COMMIT | REVOKE);
            if f.u32_be(0)? == MAGIC && part && newer {
                return Err(Error::Interrupted(at));
            }
            at = self.next(at);
        }
        Ok(())
    }

    /// Reads the tags of a descriptor block; `at` is the log block of the first copy and becomes the one behind.
    fn tags(&self, bytes: &[u8], at: &mut u64) -> Result<Vec<Tag>, Error> {
        let f = Fields(bytes);
        let (v3, v2) = (self.incompat & INCOMPAT_CSUM_V3 != 0, self.incompat & INCOMPAT_CSUM_V2 != 0);
        let wide = self.incompat & INCOMPAT_64BIT != 0;
        let len = match (v3, v2, wide) {
            (true, ..) => 16,
            (_, true, true) => 14,
            (_, true, false) => 10,
            (_, _, true) => 12,
            _ => 8,
        };
        let end = bytes.len().saturating_sub(if v2 || v3 { 4 } else { 0 });
        let (mut offset, mut tags) = (12usize, Vec::new());
        while offset.saturating_add(len) <= end {
            let (flags, checksum) = if v3 {
                (f.u32_be(offset.saturating_add(4))?, f.u32_be(offset.saturating_add(12))?)
            } else {
                let checksum = u32::from(f.u16_be(offset.saturating_add(4))?);
                (u32::from(f.u16_be(offset.saturating_add(6))?), checksum)
            };
            let high = if wide { u64::from(f.u32_be(offset.saturating_add(8))?) } else { 0 };
            let target = high << 32 | u64::from(f.u32_be(offset)?);
            tags.push(Tag { target, escaped: flags & 1 != 0, checksum, log_block: *at });
            *at = self.next(*at);
            offset = offset.saturating_add(len).saturating_add(if flags & 2 == 0 { 16 } else { 0 });
            if flags & 8 != 0 {
                break;
            }
        }
        Ok(tags)
    }

    fn remember(&mut self, tag: &Tag) -> Result<(), Error> {
        let geometry = &self.volume.geometry;
        if tag.target >= geometry.blocks {
            return Err(Error::Moves("the file system ends"));
        }
        self.targets.push(geometry.bytes(tag.target, tag.target.saturating_add(1)));
        let copy = Copy { offset: self.offset(tag.log_block)?, escaped: tag.escaped };
        if self.bitmaps.contains(&tag.target) {
            self.log.copies.entry(tag.target).or_default().push(copy);
        }
        if self.head_blocks.contains(&tag.target) {
            self.heads.entry(tag.target).or_default().push(copy);
        }
        Ok(())
    }

    /// Checks the checksum at the end of a descriptor or revoke block.
    fn check_tail(&self, bytes: &[u8], log_block: u64) -> Result<(), Error> {
        if self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) == 0 {
            return Ok(());
        }
        let tail = bytes.len().saturating_sub(4);
        let computed = crc32c(self.seed, &[Fields(bytes).slice(0, tail)?, &[0; 4]]);
        if right(computed == Fields(bytes).u32_be(tail)?) { Ok(()) } else { Err(Error::Checksum(log_block)) }
    }

    fn check_commit(&self, bytes: &[u8], log_block: u64, crc: u32) -> Result<(), Error> {
        let f = Fields(bytes);
        let intact = if self.incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0 {
            let rest = f.slice(20, bytes.len().saturating_sub(20))?;
            crc32c(self.seed, &[f.slice(0, 16)?, &[0; 4], rest]) == f.u32_be(16)?
        } else if self.compat & COMPAT_CHECKSUM != 0 {
            let (kind, size, stored) = (f.u8(12)?, f.u8(13)?, f.u32_be(16)?);
            (kind, size, stored) == (0, 0, 0) || (kind, size, stored) == (1, 4, crc)
        } else {
            true
        };
        if right(intact) { Ok(()) } else { Err(Error::Checksum(log_block)) }
    }

    /// Checks the copies of a committed transaction against their tags.
    fn check_copies(&mut self, tags: &[Tag], sequence: u32) -> Result<(), Error> {
        let v3 = self.incompat & INCOMPAT_CSUM_V3 != 0;
        if !v3 && self.incompat & INCOMPAT_CSUM_V2 == 0 {
            return Ok(());
        }
        for tag in tags {
            let crc = crc32c(self.seed, &[&sequence.to_be_bytes(), &self.read(tag.log_block)?]);
            let matches = if v3 { crc == tag.checksum } else { crc & 0xffff == tag.checksum };
            if !right(matches) {
                return Err(Error::Checksum(tag.log_block));
            }
        }
        Ok(())
    }
}

/// Reads the copies of superblock and descriptors: nothing may move, and groups may have got their first bitmap.
fn read_descriptors(volume: &Volume<'_>, log: &mut Log, heads: &BTreeMap<u64, Vec<Copy>>) -> Result<(), Error> {
    let geometry = &volume.geometry;
    let per_block = geometry.descs_per_block().max(1);
    let mut bytes = vec![0; volume.block_len()];
    let super_block = geometry.block_of_byte(superblock::OFFSET);
    for copy in heads.get(&super_block).into_iter().flatten() {
        copy.read(volume.region, &mut bytes)?;
        let at = superblock::OFFSET.saturating_sub(geometry.bytes(0, super_block).end);
        let at = usize::try_from(at).unwrap_or(0);
        let moved = Superblock::fields(Fields(Fields(&bytes).slice(at, 1024)?))?.geometry(volume.region.len());
        if moved.as_ref() != Ok(geometry) {
            return Err(Error::Moves("the groups are"));
        }
    }
    for n in 0..geometry.groups.div_ceil(per_block) {
        for copy in heads.get(&geometry.desc_block(n)).into_iter().flatten() {
            copy.read(volume.region, &mut bytes)?;
            let first = n.saturating_mul(per_block);
            let desc_len = usize::try_from(geometry.desc_size).unwrap_or(usize::MAX);
            for (group, raw) in (first..geometry.groups).zip(bytes.chunks_exact(desc_len.max(1))) {
                let desc = volume.format.parse(raw, group)?;
                let Some(on_disk) = usize::try_from(group).ok().and_then(|i| volume.groups.descriptors.get(i)) else {
                    break;
                };
                remember_version(log, group, &desc, on_disk)?;
            }
        }
    }
    Ok(())
}

fn remember_version(log: &mut Log, group: u64, desc: &Descriptor, on_disk: &Descriptor) -> Result<(), Error> {
    let place = |desc: &Descriptor| (desc.block_bitmap, desc.inode_bitmap, desc.inode_table);
    if !desc.intact || (on_disk.intact && place(desc) != place(on_disk)) {
        return Err(Error::Moves("the bitmaps are"));
    }
    log.pending.entry(group).or_default().initialised |= desc.flags & BLOCK_UNINIT == 0;
    let versions = log.versions.entry(desc.block_bitmap).or_default();
    let known = versions.iter().any(|version| version.bitmap_checksum == desc.bitmap_checksum);
    if !known && versions.len() < MAX_VERSIONS {
        versions.push(*desc);
    }
    Ok(())
}

//! The MFT as a file of records, and attributes gathered from all records they are spread over.
//!
//! An attribute too large for its record is cut in pieces by clusters; the attribute list of the base record names the
//! record of each piece. `$MFT` itself can be such a file: its first piece is in record 0, and each further piece must
//! lie in a record that the pieces before it reach.
//!
//! ```text
//! entry of a list: type (4), length (2)  6 name: length, offset  8 first cluster (8)  16 record (8)  24 instance
//! ```
//!
//! Source: ntfs-3g, include/ntfs-3g/layout.h, libntfs-3g/mft.c; Linux kernel, fs/ntfs3/attrlist.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    boot::Boot,
    record::{self, Attribute, Content, Record, TRANSFORMED, kind, number, unfix},
    runs::{self, Run, Runlist},
};
use crate::{
    block::{self, ReadAt},
    bytes::Fields,
};

/// Bytes of an attribute list that are read; NTFS makes none of more than 256 KiB.
const MAX_LIST: u64 = 1 << 20;

/// Why an attribute of the MFT cannot be read. Displays as the part of a sentence behind "kept whole: ".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The region cannot be read there.
    #[error("record {0} of the MFT cannot be read: {1}")]
    Unreadable(u64, #[source] block::Error),
    /// The record is none, or does not hold together.
    #[error("record {0} of the MFT is broken: {1}")]
    Broken(u64, #[source] record::Error),
    /// The record is not in use, or has no such attribute.
    #[error("record {0} of the MFT lacks an attribute that belongs there")]
    Lacking(u64),
    /// The attribute list cannot be.
    #[error("the attribute list of record {0} of the MFT is broken")]
    List(u64),
}

/// What an attribute holds, however many pieces it is in.
#[derive(Clone, Debug)]
pub enum Stream {
    /// A value in the record itself.
    Resident(Vec<u8>),
    /// A value on the volume.
    Runs {
        /// Where it lies.
        runs: Runlist,
        /// Bytes of it that count.
        size: u64,
        /// Bytes of it that were written; behind them it reads as zeros.
        initialised: u64,
        /// Compressed, sparse, encrypted.
        flags: u16,
    },
}

impl Stream {
    /// Returns how many bytes the value has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::Resident(value) => value.len() as u64,
            Self::Runs { size, .. } => *size,
        }
    }

    /// Tells whether the value lies on the volume as it is: neither transformed nor with holes.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Resident(_) => true,
            Self::Runs { runs, flags, .. } => flags & TRANSFORMED == 0 && !runs.has_holes(),
        }
    }

    /// Returns how many bytes of the value were written; behind them it reads as zeros.
    #[must_use]
    pub fn written(&self) -> u64 {
        match self {
            Self::Resident(value) => value.len() as u64,
            Self::Runs { size, initialised, .. } => *initialised.min(size),
        }
    }

    /// Reads bytes of the value. What was never written reads as zeros.
    ///
    /// * `cluster`: bytes in a cluster.
    ///
    /// # Errors
    /// Those of the region; [`block::Error::Beyond`] behind the end of the value.
    pub fn read(&self, region: &dyn ReadAt, cluster: u64, offset: u64, buf: &mut [u8]) -> Result<(), block::Error> {
        let (size, len) = (self.size(), buf.len() as u64);
        let beyond = || block::Error::Beyond { disk: "an attribute".to_owned(), offset, len, size };
        offset.checked_add(len).filter(|end| *end <= size).ok_or_else(beyond)?;
        match self {
            Self::Resident(value) => {
                let from = usize::try_from(offset).map_err(|_| beyond())?;
                buf.copy_from_slice(Fields(value).slice(from, buf.len()).map_err(|_| beyond())?);
                Ok(())
            }
            Self::Runs { runs, initialised, .. } => {
                let written = usize::try_from(initialised.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
                let (now, never) = buf.split_at_mut(written);
                never.fill(0);
                runs.read(region, cluster, offset, now)
            }
        }
    }
}

/// The MFT of a volume.
#[derive(Debug)]
pub struct Mft {
    /// The boot sector that led to it.
    pub boot: Boot,
    /// Where the records lie.
    pub runs: Runlist,
    /// How many records were ever written.
    pub records: u64,
}

impl Mft {
    /// Finds the MFT that `boot` points to.
    ///
    /// # Errors
    /// Says which record is unreadable or broken.
    pub fn open(region: &dyn ReadAt, boot: Boot) -> Result<Self, Error> {
        let broken = |error: runs::Error| Error::Broken(0, error.into());
        let mut mft = Self { boot, runs: Runlist::default(), records: 1 };
        let len = (boot.record as u64).div_ceil(boot.cluster).min(boot.clusters.saturating_sub(boot.mft));
        mft.runs.push(Run { start: Some(boot.mft), len }).map_err(broken)?;
        let bytes = mft.record(region, 0)?;
        let base = Record::parse(&bytes).map_err(|error| Error::Broken(0, error))?;
        let holders = mft.holders(region, 0, &base, kind::DATA, &[])?;
        let mut sizes = None;
        for (index, (first, holder)) in holders.into_iter().enumerate() {
            let piece = mft.piece(region, (0, &base), holder, first, kind::DATA, &[])?;
            if index == 0 {
                mft = Self { runs: Runlist::default(), records: u64::MAX, ..mft };
                sizes = piece.sizes;
            }
            // Each piece makes more of the MFT readable: the next one's record must lie in what is known by now.
            piece.append(&mut mft.runs).map_err(broken)?;
        }
        let (size, initialised) = sizes.ok_or(Error::Lacking(0))?;
        let room = mft.runs.clusters().saturating_mul(boot.cluster);
        if mft.runs.has_holes() || mft.runs.clusters() > boot.clusters || size > room || initialised > size {
            return Err(broken(runs::Error::Outside));
        }
        mft.records = initialised.checked_div(boot.record as u64).unwrap_or(0);
        Ok(mft)
    }

    /// Returns record `number` with its update sequence put back.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Broken`], and [`Error::Lacking`] behind the last record.
    pub fn record(&self, region: &dyn ReadAt, number: u64) -> Result<Vec<u8>, Error> {
        if number >= self.records {
            return Err(Error::Lacking(number));
        }
        let mut bytes = vec![0; self.boot.record];
        let offset = number.saturating_mul(self.boot.record as u64);
        self.runs
            .read(region, self.boot.cluster, offset, &mut bytes)
            .map_err(|error| Error::Unreadable(number, error))?;
        unfix(&mut bytes, b"FILE").map_err(|error| Error::Broken(number, error))?;
        Ok(bytes)
    }

    /// Returns the attribute of that type and name of base record `number`.
    ///
    /// # Errors
    /// [`Error::Lacking`] where the record is not in use or has no such attribute, else what is broken.
    pub fn stream(&self, region: &dyn ReadAt, number: u64, kind: u32, name: &[u8]) -> Result<Stream, Error> {
        let bytes = self.record(region, number)?;
        let base = Record::parse(&bytes).map_err(|error| Error::Broken(number, error))?;
        if !base.in_use {
            return Err(Error::Lacking(number));
        }
        let (mut runs, mut sizes, mut all_flags) = (Runlist::default(), None, 0);
        for (first, holder) in self.holders(region, number, &base, kind, name)? {
            let piece = self.piece(region, (number, &base), holder, first, kind, name)?;
            if let Some(value) = piece.value {
                return Ok(Stream::Resident(value));
            }
            sizes = sizes.or(piece.sizes);
            all_flags |= piece.flags;
            piece.append(&mut runs).map_err(|error| Error::Broken(number, error.into()))?;
        }
        let (size, initialised) = sizes.ok_or(Error::Lacking(number))?;
        Ok(Stream::Runs { runs, size, initialised, flags: all_flags })
    }

    /// Lists first cluster and record of each piece an attribute of base record `number` is in.
    fn holders(
        &self,
        region: &dyn ReadAt,
        number: u64,
        base: &Record<'_>,
        kind: u32,
        name: &[u8],
    ) -> Result<Vec<(u64, u64)>, Error> {
        for attribute in base.attributes() {
            let attribute = attribute.map_err(|error| Error::Broken(number, error))?;
            if attribute.kind == kind::ATTRIBUTE_LIST {
                let list = self.list(region, number, &attribute)?;
                return entries(&list, kind, name).ok_or(Error::List(number));
            }
        }
        Ok(vec![(0, number)])
    }

    /// Reads the piece of an attribute that begins at cluster `first` and is in record `holder`.
    fn piece(
        &self,
        region: &dyn ReadAt,
        (number, base): (u64, &Record<'_>),
        holder: u64,
        first: u64,
        kind: u32,
        name: &[u8],
    ) -> Result<Piece, Error> {
        let broken = |error: record::Error| Error::Broken(holder, error);
        let other = if holder == number { None } else { Some(self.record(region, holder)?) };
        let record = match &other {
            None => *base,
            Some(bytes) => Record::parse(bytes).map_err(broken)?,
        };
        if !record.in_use || (holder != number && record.base != Some(number)) {
            return Err(Error::List(number));
        }
        for attribute in record.attributes() {
            let attribute = attribute.map_err(broken)?;
            if attribute.is(kind, name) && begins(&attribute, first) {
                return Piece::read(&attribute, self.boot.clusters).map_err(|error| broken(error.into()));
            }
        }
        Err(Error::Lacking(holder))
    }

    /// Reads an attribute list, which may itself lie on the volume but is never in pieces.
    fn list(&self, region: &dyn ReadAt, number: u64, attribute: &Attribute<'_>) -> Result<Vec<u8>, Error> {
        if let Some(value) = attribute.value() {
            return Ok(value.to_vec());
        }
        let broken = |error: runs::Error| Error::Broken(number, error.into());
        let piece = Piece::read(attribute, self.boot.clusters).map_err(broken)?;
        let (size, _) = piece.sizes.filter(|(size, _)| *size <= MAX_LIST).ok_or(Error::List(number))?;
        let mut runs = Runlist::default();
        piece.append(&mut runs).map_err(broken)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Error::List(number))?];
        runs.read(region, self.boot.cluster, 0, &mut bytes).map_err(|error| Error::Unreadable(number, error))?;
        Ok(bytes)
    }
}

/// Tells whether the MFT that record 0 `newer` describes is that of `older`, or has grown out of it.
///
/// * `clusters`: how many the volume has.
#[must_use]
pub fn continues(newer: &[u8], older: &[u8], clusters: u64) -> bool {
    let (Some((new, new_list)), Some((old, old_list))) = (own_piece(newer, clusters), own_piece(older, clusters))
    else {
        return false;
    };
    let grown = new.sizes >= old.sizes && new.runs.len() >= old.runs.len();
    // Only the last run can have become longer.
    let last = old.runs.len().saturating_sub(1);
    let alike = |(index, (old, new)): (usize, (&Run, &Run))| {
        old == new || (index == last && old.start == new.start && old.len < new.len)
    };
    grown && new_list == old_list && old.runs.iter().zip(&new.runs).enumerate().all(alike)
}

/// Returns the first piece of the MFT in its record 0, and the bytes of the attribute list.
fn own_piece(record: &[u8], clusters: u64) -> Option<(Piece, Option<Vec<u8>>)> {
    let (mut piece, mut list) = (None, None);
    for attribute in Record::parse(record).ok()?.attributes() {
        let attribute = attribute.ok()?;
        if attribute.kind == kind::ATTRIBUTE_LIST {
            list = Some(attribute.raw().to_vec());
        } else if attribute.is(kind::DATA, &[]) {
            piece = Some(Piece::read(&attribute, clusters).ok()?);
        }
    }
    Some((piece?, list))
}

/// One piece of an attribute.
struct Piece {
    /// The value of a resident attribute, which is always in one piece.
    value: Option<Vec<u8>>,
    first: u64,
    runs: Vec<Run>,
    sizes: Option<(u64, u64)>,
    flags: u16,
}

impl Piece {
    fn read(attribute: &Attribute<'_>, clusters: u64) -> Result<Self, runs::Error> {
        let (first, sizes) = match attribute.content {
            Content::Resident(_) => (0, None),
            Content::Runs { first, sizes, .. } => (first, sizes),
        };
        let mut runs = Vec::new();
        attribute.each_run(clusters, &mut |run| runs.push(run))?;
        Ok(Self { value: attribute.value().map(<[u8]>::to_vec), first, runs, sizes, flags: attribute.flags })
    }

    /// Adds the runs behind those of the pieces before.
    fn append(self, all: &mut Runlist) -> Result<(), runs::Error> {
        if self.value.is_some() || self.first != all.clusters() {
            return Err(runs::Error::Gap(all.clusters()));
        }
        self.runs.into_iter().try_for_each(|run| all.push(run))
    }
}

/// Tells whether `attribute` is the piece that begins at cluster `first`.
const fn begins(attribute: &Attribute<'_>, first: u64) -> bool {
    match attribute.content {
        Content::Resident(_) => first == 0,
        Content::Runs { first: found, .. } => found == first,
    }
}

/// Lists first cluster and record of each piece of an attribute; `None` where the list is broken.
fn entries(list: &[u8], kind: u32, name: &[u8]) -> Option<Vec<(u64, u64)>> {
    let (mut at, mut found) = (0usize, Vec::new());
    // Entries have at least 24 bytes, so the loop ends with the list.
    while at < list.len() {
        let head = Fields(list.get(at..)?);
        let len = usize::from(head.u16(4).ok()?);
        let entry = Fields(head.slice(0, len).ok().filter(|_| len >= 24)?);
        let name_len = usize::from(entry.u8(6).ok()?).checked_mul(2)?;
        let entry_name = entry.slice(usize::from(entry.u8(7).ok()?), name_len).ok()?;
        if entry.u32(0).ok()? == kind && entry_name == name {
            found.push((entry.u64(8).ok()?, number(entry.u64(16).ok()?)));
        }
        at = at.checked_add(len)?;
    }
    found.sort_unstable();
    Some(found)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::{
        super::{
            boot,
            record::tests::{non_resident, record, resident},
        },
        *,
    };
    use crate::{block::MemoryDisk, units::SectorSize};

    /// Makes an entry of a list for the unnamed data.
    fn entry(first: u64, holder: u64) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[..8].copy_from_slice(&[0x80, 0, 0, 0, 32, 0, 0, 26]);
        bytes[8..16].copy_from_slice(&first.to_le_bytes());
        bytes[16..24].copy_from_slice(&(holder | 7 << 48).to_le_bytes());
        bytes
    }

    /// Makes a volume of 64 clusters of 1024 bytes with an MFT at 4 and 5, 20 and 21, and 10.
    fn volume() -> Vec<u8> {
        let mut bytes = boot::tests::sample(512, 2, 1, 128);
        bytes.resize(65536, 0);
        let list = resident(kind::ATTRIBUTE_LIST, &[entry(4, 3), entry(0, 0), entry(2, 1)].concat());
        let pieces = [(0, &[0x11, 2, 4, 0]), (2, &[0x11, 2, 20, 0]), (4, &[0x11, 1, 10, 0])];
        let [first, second, third] =
            pieces.map(|(first, pairs)| non_resident(kind::DATA, first, if first == 4 { 1 } else { 2 }, pairs, 5120));
        // The base of a piece is record 0 with its sequence number, 1: a reference of zero is none.
        for (at, content) in [
            (4, record(0, &[list, first])),
            (5, record(1 << 48, &[second])),
            (20, record(0, &[resident(kind::VOLUME_NAME, b"x\0")])),
            (21, record(1 << 48, &[third])),
            (10, record(0, &[resident(kind::DATA, b"last")])),
        ] {
            bytes[at * 1024..at * 1024 + 1024].copy_from_slice(&content);
        }
        bytes
    }

    fn open(bytes: &[u8]) -> (MemoryDisk, Result<Mft, Error>) {
        let disk = MemoryDisk::new(bytes.to_vec(), SectorSize::B512);
        let mft = Mft::open(&disk, Boot::parse(bytes).unwrap());
        (disk, mft)
    }

    #[test]
    fn an_mft_is_found_piece_by_piece() {
        let (disk, mft) = open(&volume());
        let mft = mft.unwrap();
        assert_eq!(mft.runs.on_volume().collect::<Vec<_>>(), [(4, 2), (20, 2), (10, 1)]);
        assert_eq!(mft.records, 5);
        let last = mft.stream(&disk, 4, kind::DATA, &[]).unwrap();
        assert!(matches!(&last, Stream::Resident(value) if value == b"last"));
        assert!(matches!(mft.stream(&disk, 4, kind::BITMAP, &[]), Err(Error::Lacking(4))));
        assert!(matches!(mft.record(&disk, 5), Err(Error::Lacking(5))));
    }

    #[test]
    fn pieces_that_do_not_fit_are_errors() {
        let place = |cluster: usize, at: usize| cluster * 1024 + 56 + 24 + at;
        for (name, at, byte, says) in [
            ("a piece in a record not yet known", place(4, 64 + 16), 3, "record 3 of the MFT cannot be read"),
            ("another file's piece", 5 * 1024 + 32, 9, "attribute list of record 0"),
            ("a piece missing", 5 * 1024 + 56 + 16, 3, "lacks an attribute"),
            ("an entry without length", place(4, 4), 0, "attribute list of record 0"),
            ("a record that is not in use", 21 * 1024 + 22, 0, "attribute list of record 0"),
        ] {
            let mut bytes = volume();
            bytes[at] = byte;
            let error = open(&bytes).1.unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn a_mirror_may_be_older_but_not_of_another_mft() {
        let made = |clusters: u64, pairs: &[u8], size| {
            let mut bytes = record(0, &[non_resident(kind::DATA, 0, clusters, pairs, size)]);
            unfix(&mut bytes, b"FILE").unwrap();
            bytes
        };
        let old = made(5, &[0x11, 2, 4, 0x11, 3, 9, 0], 5000);
        for (name, new, want) in [
            ("the same", old.clone(), true),
            ("longer", made(6, &[0x11, 2, 4, 0x11, 4, 9, 0], 6000), true),
            ("another run", made(6, &[0x11, 2, 4, 0x11, 3, 9, 0x11, 1, 9, 0], 6000), true),
            ("shorter", made(4, &[0x11, 2, 4, 0x11, 2, 9, 0], 4000), false),
            ("smaller", made(5, &[0x11, 2, 4, 0x11, 3, 9, 0], 4000), false),
            ("elsewhere", made(5, &[0x11, 2, 4, 0x11, 3, 8, 0], 5000), false),
            ("longer in the middle", made(6, &[0x11, 3, 4, 0x11, 3, 9, 0], 6000), false),
            ("none", made(0, &[0], 0), false),
        ] {
            assert_eq!(continues(&new, &old, 64), want, "{name}");
        }
    }
}

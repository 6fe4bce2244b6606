//! Runs: where the clusters of an attribute lie.
//!
//! ```text
//! | length and offset sizes (1) | length in clusters | offset from the last run's start, signed | ... | 00 |
//! ```
//!
//! The low half of the first byte is the size of the length, the high half that of the offset; no offset means a hole.
//!
//! Source: ntfs-3g, libntfs-3g/runlist.c; Linux kernel, fs/ntfs3/run.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{
    block::{self, ReadAt},
    extent::Extent,
};

/// Runs kept of one attribute: 24 MiB of memory. Only what is read through its runs is kept, not what is walked.
const MAX_RUNS: usize = 1 << 20;

/// Why runs cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end within a run.
    #[error("its runs are cut off")]
    Cut,
    /// Sizes of more than eight bytes, or a run of no clusters.
    #[error("one of its runs is coded {0:#04x}")]
    Code(u8),
    /// A run outside of the volume.
    #[error("one of its runs leaves the volume")]
    Outside,
    /// The runs are more or fewer than the attribute says.
    #[error("its runs have {have} clusters where {want} belong")]
    Count {
        /// Clusters in the runs.
        have: u64,
        /// Clusters the attribute names.
        want: u64,
    },
    /// An attribute in pieces that do not follow each other.
    #[error("a piece of it is missing at cluster {0}")]
    Gap(u64),
    /// More runs than are kept.
    #[error("it is in more than a million pieces")]
    TooMany,
}

/// One run of an attribute, in clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First cluster on the volume; `None` for a hole.
    pub start: Option<u64>,
    /// How many clusters; never zero.
    pub len: u64,
}

/// Decodes mapping pairs, calling `each` with every run.
///
/// * `clusters`: how many the volume has; runs beyond are an error.
/// * Returns how many clusters the runs have, holes included.
///
/// # Errors
/// The first run that cannot be.
pub fn decode(mut bytes: &[u8], clusters: u64, each: &mut dyn FnMut(Run)) -> Result<u64, Error> {
    let (mut last, mut total) = (0i64, 0u64);
    loop {
        let (code, rest) = bytes.split_first().ok_or(Error::Cut)?;
        if *code == 0 {
            return Ok(total);
        }
        let (len_size, start_size) = (usize::from(code & 15), usize::from(code >> 4));
        if !(1..=8).contains(&len_size) || start_size > 8 {
            return Err(Error::Code(*code));
        }
        let (len, rest) = rest.split_at_checked(len_size).ok_or(Error::Cut)?;
        let (offset, rest) = rest.split_at_checked(start_size).ok_or(Error::Cut)?;
        let len = u64::try_from(signed(len)).ok().filter(|len| *len > 0).ok_or(Error::Code(*code))?;
        let mut start = None;
        if start_size > 0 {
            last = last.checked_add(signed(offset)).ok_or(Error::Outside)?;
            // Before version 3.0 a hole is a run at -1.
            if last != -1 {
                let first = u64::try_from(last).map_err(|_| Error::Outside)?;
                first.checked_add(len).filter(|end| *end <= clusters).ok_or(Error::Outside)?;
                start = Some(first);
            }
        }
        total = total.checked_add(len).ok_or(Error::Outside)?;
        each(Run { start, len });
        bytes = rest;
    }
}

/// Reads a little-endian signed number of up to eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut raw = [if negative { 0xff } else { 0 }; 8];
    raw.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    i64::from_le_bytes(raw)
}

/// The runs of a whole attribute, in the order of its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runlist {
    /// First cluster of each run in the attribute, and the run.
    runs: Vec<(u64, Run)>,
    clusters: u64,
}

impl Runlist {
    /// Adds a run behind the others.
    ///
    /// # Errors
    /// [`Error::TooMany`], or [`Error::Outside`] where the attribute grows beyond every volume.
    pub fn push(&mut self, run: Run) -> Result<(), Error> {
        if self.runs.len() >= MAX_RUNS {
            return Err(Error::TooMany);
        }
        let end = self.clusters.checked_add(run.len).ok_or(Error::Outside)?;
        self.runs.push((self.clusters, run));
        self.clusters = end;
        Ok(())
    }

    /// Returns how many clusters the runs have, holes included.
    #[must_use]
    pub const fn clusters(&self) -> u64 {
        self.clusters
    }

    /// Tells whether a run is a hole.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.runs.iter().any(|(_, run)| run.start.is_none())
    }

    /// Lists the clusters on the volume: first and count of each run that is no hole.
    pub fn on_volume(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().filter_map(|(_, run)| run.start.map(|start| (start, run.len)))
    }

    /// Reads bytes of the attribute; holes read as zeros.
    ///
    /// * `cluster`: bytes in a cluster.
    ///
    /// # Errors
    /// Those of the region; [`block::Error::Beyond`] behind the last run.
    pub fn read(&self, region: &dyn ReadAt, cluster: u64, offset: u64, buf: &mut [u8]) -> Result<(), block::Error> {
        let beyond = block::Error::Beyond {
            disk: "an attribute".to_owned(),
            offset,
            len: buf.len() as u64,
            size: self.clusters.saturating_mul(cluster),
        };
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let Some((piece, hole)) = self.place(cluster, at, rest.len() as u64) else { return Err(beyond) };
            let len = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            let Some((now, later)) = rest.split_at_mut_checked(len) else { return Err(beyond) };
            if hole {
                now.fill(0);
            } else {
                region.read_exact_at(now, piece.start)?;
            }
            at = at.saturating_add(piece.len());
            rest = later;
        }
        Ok(())
    }

    /// Returns where the bytes from `offset` on lie in the region, at most `len` and never none, and whether that is a
    /// hole, which lies nowhere.
    fn place(&self, cluster: u64, offset: u64, len: u64) -> Option<(Extent, bool)> {
        let wanted = offset.checked_div(cluster)?;
        let after = self.runs.partition_point(|(first, _)| *first <= wanted);
        let (first, run) = self.runs.get(after.checked_sub(1)?)?;
        let skipped = offset.checked_sub(first.checked_mul(cluster)?)?;
        let left = run.len.checked_mul(cluster)?.checked_sub(skipped)?.min(len);
        let start = run.start.map_or(Some(0), |start| start.checked_mul(cluster)?.checked_add(skipped))?;
        Extent::with_len(start, left).filter(|extent| !extent.is_empty()).map(|extent| (extent, run.start.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    fn list(bytes: &[u8], clusters: u64) -> Result<Vec<(Option<u64>, u64)>, Error> {
        let mut out = Vec::new();
        decode(bytes, clusters, &mut |run| out.push((run.start, run.len))).map(|_| out)
    }

    #[test]
    fn runs_go_forwards_backwards_and_nowhere() {
        for (name, bytes, want) in [
            ("none", &[0][..], Ok(vec![])),
            ("one", &[0x11, 3, 5, 0], Ok(vec![(Some(5), 3)])),
            ("back", &[0x11, 3, 50, 0x11, 2, 0xf0, 0], Ok(vec![(Some(50), 3), (Some(34), 2)])),
            ("hole", &[0x11, 3, 5, 0x01, 9, 0x11, 1, 5, 0], Ok(vec![(Some(5), 3), (None, 9), (Some(10), 1)])),
            ("old hole", &[0x11, 3, 0xff, 0], Ok(vec![(None, 3)])),
            ("wide", &[0x22, 0x10, 0, 0x20, 0, 0], Ok(vec![(Some(32), 16)])),
            ("to the end", &[0x11, 10, 90, 0], Ok(vec![(Some(90), 10)])),
            ("beyond", &[0x11, 11, 90, 0], Err(Error::Outside)),
            ("before", &[0x11, 1, 0xf0, 0], Err(Error::Outside)),
            ("not ended", &[0x11, 3, 5], Err(Error::Cut)),
            ("cut", &[0x11, 3], Err(Error::Cut)),
            ("empty", &[], Err(Error::Cut)),
            ("no length", &[0x10, 3, 0], Err(Error::Code(0x10))),
            ("length 0", &[0x11, 0, 3, 0], Err(Error::Code(0x11))),
            ("negative length", &[0x11, 0x80, 3, 0], Err(Error::Code(0x11))),
            ("too wide", &[0x91, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], Err(Error::Code(0x91))),
            ("overflow", &[0x18, 255, 255, 255, 255, 255, 255, 255, 127, 3, 0], Err(Error::Outside)),
        ] {
            assert_eq!(list(bytes, 100), want, "{name}");
        }
    }

    #[test]
    fn bytes_are_read_through_runs_and_holes() {
        let disk = MemoryDisk::new((0u8..64).collect(), SectorSize::B512);
        let mut runs = Runlist::default();
        decode(&[0x11, 2, 4, 0x01, 1, 0x11, 1, 0xfd, 0], 8, &mut |run| runs.push(run).unwrap()).unwrap();
        let mut buf = [9; 32];
        runs.read(&disk, 8, 0, &mut buf).unwrap();
        assert_eq!(buf[..16], (32u8..48).collect::<Vec<_>>());
        assert_eq!(buf[16..24], [0; 8]);
        assert_eq!(buf[24..], (8u8..16).collect::<Vec<_>>());
        let mut few = [9; 10];
        runs.read(&disk, 8, 12, &mut few).unwrap();
        assert_eq!(few, [44, 45, 46, 47, 0, 0, 0, 0, 0, 0]);
        assert!(runs.read(&disk, 8, 24, &mut few).is_err());
        assert_eq!((runs.clusters(), runs.has_holes()), (4, true));
    }
}

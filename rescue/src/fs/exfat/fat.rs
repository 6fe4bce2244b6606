//! The FAT of exFAT: 32-bit links, which count for what is not marked as contiguous.
//!
//! An entry is the number of the next cluster, ffffffff at the end of a chain, fffffff7 for a bad cluster. Entries of
//! contiguous files and of free clusters mean nothing and may hold anything, so that the FAT alone says nothing about
//! what is in use.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashMap;

use super::boot::Boot;
use crate::{
    block::{self, ReadAt},
    bytes::Fields,
};

/// Bytes of the FAT that are read and remembered together.
const PAGE: u64 = 16 << 10;
/// Pages remembered at once: 40 MiB, more than the FAT of 1 TiB in clusters of 128 KiB.
const MAX_PAGES: usize = 2560;
/// What comes after the last link of a chain; drivers take everything above a bad cluster for it.
const END: u64 = 0xffff_fff8;

/// Why the clusters of a file could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The FAT cannot be read.
    #[error("the FAT cannot be read: {0}")]
    Unreadable(#[from] block::Error),
    /// A link to something that is no cluster.
    #[error("cluster {from} is followed by {to:#x}, which is none")]
    Link {
        /// Whose entry.
        from: u64,
        /// What it says.
        to: u64,
    },
    /// A first cluster, or one of a contiguous run, that does not exist.
    #[error("clusters {first}+{count} do not exist")]
    Outside {
        /// First cluster.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A chain that ends too early.
    #[error("a chain ends after {have} of {need} clusters")]
    Short {
        /// Clusters in it.
        have: u64,
        /// Clusters its length needs.
        need: u64,
    },
    /// A chain that goes on for more clusters than there are.
    #[error("the chain from cluster {0} does not end")]
    Endless(u64),
}

/// A run of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first cluster; 2 is the first there is.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Follows chains through one copy of the FAT.
pub struct Links<'a> {
    region: &'a dyn ReadAt,
    boot: &'a Boot,
    offset: u64,
    pages: HashMap<u64, Vec<u8>>,
}

impl<'a> Links<'a> {
    /// Follows the links in FAT `number`.
    #[must_use]
    pub fn new(region: &'a dyn ReadAt, boot: &'a Boot, number: u64) -> Self {
        let offset = boot.fat_offset.saturating_add(number.saturating_mul(boot.fat_len));
        Self { region, boot, offset, pages: HashMap::new() }
    }

    /// Returns the cluster behind `cluster`, `None` at the end of a chain.
    fn next(&mut self, cluster: u64) -> Result<Option<u64>, Error> {
        let at = cluster.saturating_mul(4);
        let (page, within) = (at / PAGE, at % PAGE);
        if !self.pages.contains_key(&page) {
            if self.pages.len() >= MAX_PAGES {
                self.pages.clear();
            }
            let start = page.saturating_mul(PAGE);
            let len = PAGE.min(self.boot.fat_len.saturating_sub(start));
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            self.region.read_exact_at(&mut bytes, self.offset.saturating_add(start))?;
            self.pages.insert(page, bytes);
        }
        let bytes = self.pages.get(&page).map_or(&[][..], Vec::as_slice);
        let to = Fields(bytes).u32(usize::try_from(within).unwrap_or(usize::MAX)).map_or(0, u64::from);
        match to {
            END.. => Ok(None),
            _ if self.boot.cluster_offset(to).is_some() => Ok(Some(to)),
            _ => Err(Error::Link { from: cluster, to }),
        }
    }

    /// Calls `each` with the runs of the chain that begins at `first`, until it returns `false`; returns its clusters.
    ///
    /// # Errors
    /// [`Error`]; the runs before were passed on.
    pub fn chain(&mut self, first: u64, each: &mut dyn FnMut(Run) -> bool) -> Result<u64, Error> {
        if self.boot.cluster_offset(first).is_none() {
            return Err(Error::Outside { first, count: 1 });
        }
        let (mut run, mut total) = (Run { first, count: 1 }, 1u64);
        loop {
            let last = run.first.saturating_add(run.count).saturating_sub(1);
            let next = self.next(last);
            match next {
                Ok(Some(to)) if to == last.saturating_add(1) => run.count = run.count.saturating_add(1),
                _ if !each(run) => return Ok(total),
                _ => match next? {
                    Some(to) => run = Run { first: to, count: 1 },
                    None => return Ok(total),
                },
            }
            total = total.saturating_add(1);
            if total > self.boot.clusters {
                return Err(Error::Endless(first));
            }
        }
    }

    /// Calls `each` with the runs of what lies at `place`, until it returns `false`. A chain is followed to its end, though
    /// its length needs less of it.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Short`] when a chain ends before its length does.
    pub fn list(&mut self, place: &Place, each: &mut dyn FnMut(Run) -> bool) -> Result<(), Error> {
        let need = place.len.div_ceil(self.boot.cluster);
        if place.contiguous {
            let run = Run { first: place.first, count: need };
            let last = place.first.checked_add(need).and_then(|end| end.checked_sub(1));
            let exists = |cluster| self.boot.cluster_offset(cluster).is_some();
            if !exists(place.first) || !last.is_some_and(exists) {
                return Err(Error::Outside { first: run.first, count: run.count });
            }
            each(run);
            return Ok(());
        }
        let mut stopped = false;
        let have = self.chain(place.first, &mut |run| {
            stopped = !each(run);
            !stopped
        })?;
        if have < need && !stopped { Err(Error::Short { have, need }) } else { Ok(()) }
    }
}

/// Where the content of a file or directory lies, as its entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First cluster.
    pub first: u64,
    /// Length in bytes.
    pub len: u64,
    /// One run, for which the FAT does not count.
    pub contiguous: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    /// Lists what `fat`, entries from cluster 2 on of a volume with 8 clusters, holds at `place`.
    fn runs(fat: &[u32], place: Place) -> (Vec<(u64, u64)>, Result<(), String>) {
        let mut bytes = vec![0u8; 512];
        for (slot, value) in bytes.chunks_exact_mut(4).skip(2).zip(fat) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        let boot = Boot {
            sector: 512,
            cluster: 512,
            fat_offset: 0,
            fat_len: 512,
            fats: 1,
            active: 0,
            heap_offset: 512,
            clusters: 8,
            root: 2,
            len: 512 * 9,
            serial: 0,
            revision: (1, 0),
            dirty: false,
            failed: false,
        };
        let disk = MemoryDisk::new(bytes, SectorSize::B512);
        let mut found = Vec::new();
        let listed = Links::new(&disk, &boot, 0).list(&place, &mut |run| {
            found.push((run.first, run.count));
            true
        });
        (found, listed.map_err(|error| error.to_string()))
    }

    #[test]
    fn chains_are_followed_to_their_end_and_no_further() {
        let chained = |first, len| Place { first, len, contiguous: false };
        let end = u32::MAX;
        for (name, fat, place, want, says) in [
            ("one cluster", &[end][..], chained(2, 1), vec![(2, 1)], Ok(())),
            ("runs", &[3, 6, 0, 0, 7, end], chained(2, 2000), vec![(2, 2), (6, 2)], Ok(())),
            ("backwards", &[end, 2], chained(3, 600), vec![(3, 1), (2, 1)], Ok(())),
            ("longer than its length", &[3, end], chained(2, 1), vec![(2, 2)], Ok(())),
            ("too short", &[end], chained(2, 513), vec![(2, 1)], Err("a chain ends after 1 of 2 clusters")),
            ("free", &[3, 0], chained(2, 9), vec![(2, 2)], Err("cluster 3 is followed by 0x0, which is none")),
            (
                "bad",
                &[0xffff_fff7],
                chained(2, 9),
                vec![(2, 1)],
                Err("cluster 2 is followed by 0xfffffff7, which is none"),
            ),
            ("outside", &[10], chained(2, 9), vec![(2, 1)], Err("cluster 2 is followed by 0xa, which is none")),
            ("no first", &[end], chained(1, 9), vec![], Err("clusters 1+1 do not exist")),
            ("contiguous", &[77], Place { first: 8, len: 1024, contiguous: true }, vec![(8, 2)], Ok(())),
            (
                "contiguous, too long",
                &[],
                Place { first: 8, len: 1025, contiguous: true },
                vec![],
                Err("clusters 8+3 do not exist"),
            ),
            (
                "contiguous, far too long",
                &[],
                Place { first: 8, len: u64::MAX, contiguous: true },
                vec![],
                Err("clusters 8+36028797018963968 do not exist"),
            ),
        ] {
            assert_eq!(runs(fat, place), (want, says.map_err(str::to_owned)), "{name}");
        }
        let (_, circle) = runs(&[3, 2], chained(2, 9));
        assert_eq!(circle, Err("the chain from cluster 2 does not end".to_owned()));
    }
}

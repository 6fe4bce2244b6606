//! The FAT of exFAT: 32-bit links, which count for what is not marked as contiguous.
//!
//! An entry is the number of the next cluster, ffffffff at the end of a chain, fffffff7 for a bad cluster. Entries of
//! contiguous files and of free clusters mean nothing and may hold anything, so that the FAT alone says nothing about
//! what is in use.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::boot::Boot;
use crate::{
    block::{self, ReadAt},
    fs::reader::Pages,
};

/// Bytes of the FAT read at once by [`Links::all`].
const STEP: u64 = 256 << 10;
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
    /// A chain that was not followed to its end: that takes longer than [`Links::patience`] allows.
    #[error("the chain is not followed from cluster {next} on")]
    Patience {
        /// The cluster of it that would have been next.
        next: u64,
        /// Clusters before that one.
        have: u64,
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

/// How much following chains may cost.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Pages of the FAT that may be read: a chain may lead to another one with every link.
    pub loads: u64,
    /// Links that may lead elsewhere than to the next cluster.
    pub jumps: u64,
}

/// Follows chains through one copy of the FAT.
pub struct Links<'a> {
    boot: &'a Boot,
    region: &'a dyn ReadAt,
    offset: u64,
    pages: Pages<'a>,
    jumps: u64,
    /// When to give up, counted from the beginning.
    pub patience: Patience,
}

impl<'a> Links<'a> {
    /// Follows the links in FAT `number`, with all patience there is.
    #[must_use]
    pub fn new(region: &'a dyn ReadAt, boot: &'a Boot, number: u64) -> Self {
        let offset = boot.fat_offset.saturating_add(number.saturating_mul(boot.fat_len));
        let pages = Pages::new(region, offset, boot.fat_len);
        Self { boot, region, offset, pages, jumps: 0, patience: Patience { loads: u64::MAX, jumps: u64::MAX } }
    }

    /// Returns how many pages the FAT has.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages.count()
    }

    /// Returns the cluster behind `cluster`, `None` at the end of a chain.
    fn next(&mut self, cluster: u64) -> Result<Option<u64>, Error> {
        match u64::from(u32::from_le_bytes(self.pages.read(cluster.saturating_mul(4))?)) {
            END.. => Ok(None),
            to if self.boot.cluster_offset(to).is_some() => Ok(Some(to)),
            to => Err(Error::Link { from: cluster, to }),
        }
    }

    /// Calls `each` with every cluster and what its entry says, in the order of the FAT, until it returns `false`.
    ///
    /// # Errors
    /// Those of the region.
    pub fn all(&self, each: &mut dyn FnMut(u64, u64) -> bool) -> Result<(), block::Error> {
        let (len, mut at) = (self.boot.clusters.saturating_add(2).saturating_mul(4), 0u64);
        let mut bytes = Vec::new();
        while at < len {
            bytes.resize(usize::try_from(STEP.min(len.saturating_sub(at))).unwrap_or(0), 0);
            self.region.read_exact_at(&mut bytes, self.offset.saturating_add(at))?;
            let entries = bytes.as_chunks::<4>().0.iter().map(|entry| u64::from(u32::from_le_bytes(*entry)));
            if !(at / 4..).zip(entries).skip_while(|(cluster, _)| *cluster < 2).all(|(cluster, to)| each(cluster, to)) {
                break;
            }
            at = at.saturating_add(STEP);
        }
        Ok(())
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
        self.ask_patience(first, 0)?;
        loop {
            let last = run.first.saturating_add(run.count).saturating_sub(1);
            let next = self.next(last);
            match next {
                Ok(Some(to)) if to == last.saturating_add(1) => run.count = run.count.saturating_add(1),
                _ if !each(run) => return Ok(total),
                _ => match next? {
                    Some(to) => {
                        run = Run { first: to, count: 1 };
                        self.jumps = self.jumps.saturating_add(1);
                        self.ask_patience(to, total)?;
                    }
                    None => return Ok(total),
                },
            }
            total = total.saturating_add(1);
            if total > self.boot.clusters {
                return Err(Error::Endless(first));
            }
        }
    }

    const fn ask_patience(&self, next: u64, have: u64) -> Result<(), Error> {
        if self.pages.loads() > self.patience.loads || self.jumps > self.patience.jumps {
            return Err(Error::Patience { next, have });
        }
        Ok(())
    }

    /// Calls `each` with the runs of what lies at `place`, until it returns `false`. A chain is followed to its end, though
    /// its length needs less of it.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Short`] when a chain ends before its length does.
    pub fn list(&mut self, place: &Place, each: &mut dyn FnMut(Run) -> bool) -> Result<(), Error> {
        let need = place.clusters(self.boot);
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

impl Place {
    /// Returns how many clusters its length needs.
    #[must_use]
    pub const fn clusters(&self, boot: &Boot) -> u64 {
        self.len.div_ceil(boot.cluster)
    }
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

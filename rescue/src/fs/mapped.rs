//! A volume made of pieces of a region: how a file system sees a logical volume, and where its bytes really are.
//!
//! ```text
//! volume   |  piece 0  |   piece 1   |p2|          one after the other, without holes
//!               |             |        `---.
//! region   ...[ piece 0 ]...[p2]....[  piece 1  ]...   anywhere, in any order, never twice
//! ```

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{
    block::{Error, ReadAt},
    extent::{Extent, ExtentSet},
};

/// Pieces of one volume that are followed; no volume manager makes as many.
const MAX_PIECES: usize = 1 << 16;

/// Why pieces make no volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A piece lies beyond the region.
    #[error("{0} lie beyond a region of {1} bytes")]
    Beyond(Extent, u64),
    /// The same bytes are two pieces.
    #[error("{0} are claimed twice")]
    Twice(Extent),
    /// More pieces than are followed.
    #[error("{0} pieces are too many")]
    TooMany(usize),
}

/// One piece.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it begins in the volume, in bytes.
    at: u64,
    /// Where it is in the region.
    from: Extent,
}

impl Piece {
    /// Where it is in the volume.
    const fn place(&self) -> Extent {
        Extent::new(self.at, self.at.saturating_add(self.from.len()))
    }
}

/// The bytes of several extents of a region, one after the other.
pub struct Mapped<'a> {
    region: &'a dyn ReadAt,
    /// In the order of the volume.
    pieces: Vec<Piece>,
    /// Which pieces lie where in the region: places in `pieces`, in the order of the region.
    by_place: Vec<usize>,
    len: u64,
}

impl<'a> Mapped<'a> {
    /// Puts `extents` of `region` one after the other; empty ones count for nothing.
    ///
    /// # Errors
    /// [`Wrong`], where they leave the region, lie on top of each other or are too many.
    pub fn new(region: &'a dyn ReadAt, extents: &[Extent]) -> Result<Self, Wrong> {
        if extents.len() > MAX_PIECES {
            return Err(Wrong::TooMany(extents.len()));
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut len = 0u64;
        for from in extents.iter().copied().filter(|from| !from.is_empty()) {
            if from.end > region.len() {
                return Err(Wrong::Beyond(from, region.len()));
            }
            pieces.push(Piece { at: len, from });
            // Cannot overflow for pieces that do not overlap, which is checked below.
            len = len.saturating_add(from.len());
        }
        let mut by_place = (0..pieces.len()).collect::<Vec<_>>();
        by_place.sort_unstable_by_key(|index| pieces.get(*index).map(|piece| piece.from));
        let places = || by_place.iter().filter_map(|index| pieces.get(*index)).map(|piece| piece.from);
        let twice = places().zip(places().skip(1)).find(|(a, b)| a.overlaps(*b));
        if let Some((a, b)) = twice {
            return Err(Wrong::Twice(a.intersect(b)));
        }
        Ok(Self { region, pieces, by_place, len })
    }

    /// Returns where in the region the bytes `set` of the volume are.
    #[must_use]
    pub fn to_region(&self, set: &ExtentSet) -> ExtentSet {
        let mut out = Vec::new();
        for piece in &self.pieces {
            out.extend(set.within(piece.place()).filter_map(|part| shift(part, piece.at, piece.from.start)));
        }
        ExtentSet::from_unsorted(out)
    }

    /// Returns where in the volume the bytes `set` of the region are; those of no piece are in no volume.
    #[must_use]
    pub fn to_volume(&self, set: &ExtentSet) -> ExtentSet {
        let mut out = Vec::new();
        for piece in self.by_place.iter().filter_map(|index| self.pieces.get(*index)) {
            out.extend(set.within(piece.from).filter_map(|part| shift(part, piece.from.start, piece.at)));
        }
        ExtentSet::from_unsorted(out)
    }

    /// Returns the bytes of the region that are in the volume.
    #[must_use]
    pub fn pieces(&self) -> ExtentSet {
        self.pieces.iter().map(|piece| piece.from).collect()
    }

    /// Returns the place in `pieces` of the one that holds the byte `offset` of the volume.
    fn piece_at(&self, offset: u64) -> usize {
        self.pieces.partition_point(|piece| piece.at <= offset).saturating_sub(1)
    }
}

/// Moves `extent` from what begins at `from` to what begins at `to`.
fn shift(extent: Extent, from: u64, to: u64) -> Option<Extent> {
    Extent::with_len(extent.start.checked_sub(from)?.checked_add(to)?, extent.len())
}

impl ReadAt for Mapped<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let wanted = buf.len() as u64;
        let beyond = || Error::Beyond { disk: "the volume".to_owned(), offset, len: wanted, size: self.len };
        offset.checked_add(wanted).filter(|end| *end <= self.len).ok_or_else(beyond)?;
        let (mut rest, mut at) = (buf, offset);
        for piece in self.pieces.get(self.piece_at(offset)..).unwrap_or_default() {
            if rest.is_empty() {
                return Ok(());
            }
            let skip = at.saturating_sub(piece.at);
            let here = usize::try_from(piece.from.len().saturating_sub(skip)).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            self.region.read_exact_at(now, piece.from.start.saturating_add(skip))?;
            at = at.saturating_add(here as u64);
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(beyond()) }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    fn disk() -> MemoryDisk {
        MemoryDisk::new((0..=255).collect(), SectorSize::B512)
    }

    #[test]
    fn pieces_are_read_one_after_the_other() {
        let disk = disk();
        let extents = [Extent::new(100, 110), Extent::new(7, 7), Extent::new(0, 3), Extent::new(250, 256)];
        let volume = Mapped::new(&disk, &extents).unwrap();
        assert_eq!(volume.len(), 19);
        let mut all = [0; 19];
        volume.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all[8..], [108, 109, 0, 1, 2, 250, 251, 252, 253, 254, 255]);
        assert!(matches!(volume.read_exact_at(&mut all, 1), Err(Error::Beyond { size: 19, .. })));
        assert!(matches!(volume.read_exact_at(&mut all[..1], u64::MAX), Err(Error::Beyond { .. })));
        volume.read_exact_at(&mut [], 19).unwrap();
        let set = ExtentSet::from(Extent::new(9, 14));
        assert_eq!(
            volume.to_region(&set).as_slice(),
            [Extent::new(0, 3), Extent::new(109, 110), Extent::new(250, 251)]
        );
    }

    #[test]
    fn pieces_that_cannot_be_are_refused() {
        let disk = disk();
        let new = |extents: &[Extent]| Mapped::new(&disk, extents).map(|volume| volume.len());
        assert_eq!(new(&[Extent::new(250, 257)]), Err(Wrong::Beyond(Extent::new(250, 257), 256)));
        let twice = new(&[Extent::new(50, 60), Extent::new(0, 1), Extent::new(40, 52)]);
        assert_eq!(twice, Err(Wrong::Twice(Extent::new(50, 52))));
        assert_eq!(new(&vec![Extent::new(0, 0); MAX_PIECES + 1]), Err(Wrong::TooMany(MAX_PIECES + 1)));
        assert_eq!(new(&[]), Ok(0));
    }

    proptest! {
        #[test]
        fn reading_and_maps_agree_byte_for_byte(
            cuts in proptest::collection::btree_set(0..256u64, 2..12),
            order in any::<u64>(),
            from in 0..256u64,
            len in 0..256u64,
        ) {
            let disk = disk();
            let cuts = cuts.into_iter().collect::<Vec<_>>();
            let mut extents = cuts.chunks_exact(2).map(|pair| Extent::new(pair[0], pair[1])).collect::<Vec<_>>();
            let turn = usize::try_from(order % extents.len() as u64).unwrap();
            extents.rotate_left(turn);
            let volume = Mapped::new(&disk, &extents).unwrap();
            let window = Extent::new(from, from + len).intersect(Extent::new(0, volume.len()));
            let mut bytes = vec![0; usize::try_from(window.len()).unwrap()];
            volume.read_exact_at(&mut bytes, window.start.min(volume.len())).unwrap();
            let set = ExtentSet::from(window);
            let there = volume.to_region(&set);
            // Byte n of the disk holds n: what is read names the place it came from.
            let want: ExtentSet = bytes.iter().map(|byte| Extent::new(u64::from(*byte), u64::from(*byte) + 1)).collect();
            prop_assert_eq!(&there, &want);
            prop_assert_eq!(volume.to_volume(&there), set);
            prop_assert_eq!(volume.to_volume(&ExtentSet::full(256)), ExtentSet::full(volume.len()));
            prop_assert_eq!(volume.to_region(&ExtentSet::full(256)), volume.pieces());
        }
    }
}

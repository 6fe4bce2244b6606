//! Transfers of any length over a medium that only takes whole units at aligned memory.
//!
//! ```text
//!            offset                    offset + len
//!   | unit      [.. | unit | unit | unit ..]   | unit |
//!   ^ head is read and cut           tail is read and cut ^
//! ```
//!
//! What is aligned already passes straight through; the rest takes a detour over a bounce buffer of bounded size. A
//! write that covers part of a unit reads the unit first.

use super::{
    Error,
    buffer::{ALIGNMENT, AlignedBuf},
};
use crate::extent::Extent;

/// Bytes in a bounce buffer at most.
const BOUNCE: u64 = 1 << 20;

/// Rounds `range` outwards to multiples of `unit`, a power of two. The end saturates, which the caller's range check
/// makes impossible.
fn widen(range: Extent, unit: u64) -> Extent {
    let start = range.start - range.start % unit;
    Extent::new(start, range.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX))
}

/// Tells whether a transfer can go to the medium as it is.
fn passes(memory: *const u8, offset: u64, len: usize, unit: u64) -> bool {
    let memory_unit = usize::try_from(unit).map_or(ALIGNMENT, |unit| unit.min(ALIGNMENT));
    memory.addr().is_multiple_of(memory_unit) && offset.is_multiple_of(unit) && (len as u64).is_multiple_of(unit)
}

/// Splits `range` where a bounce buffer ends; every piece but the first starts at a unit.
fn pieces(range: Extent, unit: u64) -> impl Iterator<Item = Extent> {
    let step = BOUNCE.max(unit);
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = (at - at % unit).saturating_add(step).min(range.end);
        let piece = Extent::new(at, end);
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Returns the bytes of `piece` as indexes into a buffer that starts at `origin`.
fn span(piece: Extent, origin: u64) -> std::ops::Range<usize> {
    let index = |at: u64| usize::try_from(at - origin).expect("a piece is no longer than its buffer");
    index(piece.start)..index(piece.end)
}

/// Fills `buf` from `offset` on by calls of `read`, each of whole units into aligned memory.
///
/// # Errors
/// Those of `read`.
pub(super) fn read(
    buf: &mut [u8],
    offset: u64,
    unit: u64,
    read: impl Fn(&mut [u8], u64) -> Result<(), Error>,
) -> Result<(), Error> {
    if passes(buf.as_ptr(), offset, buf.len(), unit) {
        return read(buf, offset);
    }
    for piece in pieces(Extent::new(offset, offset + buf.len() as u64), unit) {
        let whole = widen(piece, unit);
        let mut bounce = AlignedBuf::zeroed(span(whole, whole.start).len());
        read(&mut bounce, whole.start)?;
        buf[span(piece, offset)].copy_from_slice(&bounce[span(piece, whole.start)]);
    }
    Ok(())
}

/// Writes `buf` at `offset` by calls of `write`, each of whole units from aligned memory. Two writers of one unit must
/// be kept apart by the caller where [`splits_units`] says so.
///
/// # Errors
/// Those of `read` and `write`.
pub(super) fn write(
    buf: &[u8],
    offset: u64,
    unit: u64,
    read: impl Fn(&mut [u8], u64) -> Result<(), Error>,
    write: impl Fn(&[u8], u64) -> Result<(), Error>,
) -> Result<(), Error> {
    if passes(buf.as_ptr(), offset, buf.len(), unit) {
        return write(buf, offset);
    }
    for piece in pieces(Extent::new(offset, offset + buf.len() as u64), unit) {
        let whole = widen(piece, unit);
        let mut bounce = AlignedBuf::zeroed(span(whole, whole.start).len());
        for edge in partial_units(piece, unit) {
            read(&mut bounce[span(edge, whole.start)], edge.start)?;
        }
        bounce[span(piece, whole.start)].copy_from_slice(&buf[span(piece, offset)]);
        write(&bounce, whole.start)?;
    }
    Ok(())
}

/// Tells whether a write of `range` covers only part of some unit.
pub(super) const fn splits_units(range: Extent, unit: u64) -> bool {
    !range.start.is_multiple_of(unit) || !range.end.is_multiple_of(unit)
}

/// Returns the units that `range` covers in part: none, one or two.
fn partial_units(range: Extent, unit: u64) -> impl Iterator<Item = Extent> {
    let first = widen(Extent::new(range.start, range.start + 1), unit);
    let last = widen(Extent::new(range.end - 1, range.end), unit);
    let head = (!range.covers(first)).then_some(first);
    let tail = (!range.covers(last) && last != first).then_some(last);
    head.into_iter().chain(tail)
}

/// Splits `range` into whole units and the two ragged ends around them, any of which may be empty.
pub(super) fn whole_units(range: Extent, unit: u64) -> (Extent, Extent, Extent) {
    let start = range.start.checked_next_multiple_of(unit).unwrap_or(u64::MAX).min(range.end);
    let end = (range.end - range.end % unit).max(start);
    (Extent::new(range.start, start), Extent::new(start, end), Extent::new(end, range.end))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    const DISK: usize = 3 << 20;

    fn disk() -> RefCell<Vec<u8>> {
        let mut bytes = (0..=250).collect::<Vec<u8>>().repeat(DISK / 251 + 1);
        bytes.truncate(DISK);
        RefCell::new(bytes)
    }

    fn read_units(disk: &RefCell<Vec<u8>>, unit: u64, buf: &mut [u8], at: u64) -> Result<(), Error> {
        assert!(passes(buf.as_ptr(), at, buf.len(), unit), "{at}+{} is not aligned", buf.len());
        let at = usize::try_from(at).unwrap();
        buf.copy_from_slice(&disk.borrow()[at..at + buf.len()]);
        Ok(())
    }

    fn write_units(disk: &RefCell<Vec<u8>>, unit: u64, buf: &[u8], at: u64) -> Result<(), Error> {
        assert!(passes(buf.as_ptr(), at, buf.len(), unit), "{at}+{} is not aligned", buf.len());
        let at = usize::try_from(at).unwrap();
        disk.borrow_mut()[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    #[test]
    fn units_covered_in_part_are_found() {
        for (name, range, want) in [
            ("whole", (512, 1536), vec![]),
            ("inside one", (520, 530), vec![(512, 1024)]),
            ("head", (520, 1024), vec![(512, 1024)]),
            ("tail", (512, 1030), vec![(1024, 1536)]),
            ("both", (520, 1030), vec![(512, 1024), (1024, 1536)]),
        ] {
            let got: Vec<_> =
                partial_units(Extent::new(range.0, range.1), 512).map(|unit| (unit.start, unit.end)).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn a_range_falls_into_ragged_ends_and_whole_units() {
        for (range, want) in [
            ((512, 1024), ((512, 512), (512, 1024), (1024, 1024))),
            ((1, 511), ((1, 511), (511, 511), (511, 511))),
            ((1, 1025), ((1, 512), (512, 1024), (1024, 1025))),
        ] {
            let (head, body, tail) = whole_units(Extent::new(range.0, range.1), 512);
            let pairs = [head, body, tail].map(|e| (e.start, e.end));
            assert_eq!((pairs[0], pairs[1], pairs[2]), want, "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn any_transfer_equals_a_plain_copy(
            unit in prop_oneof![Just(512u64), Just(4096), Just(65536)],
            offset in 0..DISK, len in 1usize..=2 << 20, shift in 0..3usize,
        ) {
            let len = len.min(DISK - offset);
            let medium = disk();
            let mut memory = AlignedBuf::zeroed(len + shift);
            let buf = &mut memory[shift..];
            read(buf, offset as u64, unit, |b, at| read_units(&medium, unit, b, at)).unwrap();
            prop_assert!(buf == &medium.borrow()[offset..offset + len]);

            let mut want = medium.borrow().clone();
            buf.fill(0xee);
            want[offset..offset + len].fill(0xee);
            write(
                buf, offset as u64, unit,
                |b, at| read_units(&medium, unit, b, at),
                |b, at| write_units(&medium, unit, b, at),
            ).unwrap();
            prop_assert!(*medium.borrow() == want);
        }
    }
}

//! The journal of HFS+: whether anything waits in it.
//!
//! Source: Apple, xnu, bsd/vfs/vfs_journal.h, `struct journal_header`, in the byte order of the machine that wrote it.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Volume, header::attribute};
use crate::{
    bytes::Fields,
    extent::Extent,
    fs::{checked::right, whole::Whole},
};

/// Bytes of the journal's header that its checksum covers.
const HEADER: usize = 44;
/// The journal is in the volume itself.
const IN_VOLUME: u32 = 1;
/// The journal has yet to be made.
const NEEDS_INIT: u32 = 4;

/// Returns where journal and the block that names it are, in bytes of the volume.
///
/// # Errors
/// Something waits in the journal, it is on another device, or it cannot be read.
pub fn check(volume: &Volume<'_>) -> Result<Vec<Extent>, Whole> {
    let header = &volume.header;
    if !header.has(attribute::JOURNALED) {
        return if header.has(attribute::UNMOUNTED) {
            Ok(Vec::new())
        } else {
            Err(Whole::dirty("it was not unmounted and has no journal, so its bitmap may be old"))
        };
    }
    let unreadable = |error: crate::block::Error| Whole::because(format_args!("its journal cannot be read: {error}"));
    let place = volume.blocks(header.journal_info, 1);
    let mut bytes = vec![0; 512];
    volume.read_at(place.start, &mut bytes).map_err(unreadable)?;
    let f = Fields(&bytes);
    let info = (|| Ok::<_, crate::bytes::Truncated>((f.u32_be(0)?, f.u64_be(36)?, f.u64_be(44)?)))();
    let (flags, offset, size) = info.map_err(Whole::damaged)?;
    if flags & IN_VOLUME == 0 {
        return if header.has(attribute::UNMOUNTED) {
            Ok(vec![place])
        } else {
            Err(Whole::dirty("it was not unmounted and its journal is on another device"))
        };
    }
    let journal = Extent::with_len(offset, size).filter(|journal| journal.end <= header.span());
    let journal = journal.ok_or_else(|| {
        Whole::damaged(format_args!("its journal is said to be {size} bytes at byte {offset}, outside the volume"))
    })?;
    if flags & NEEDS_INIT == 0 {
        let mut bytes = vec![0; HEADER];
        volume.read_at(journal.start, &mut bytes).map_err(unreadable)?;
        check_empty(&bytes)?;
    }
    Ok(vec![place, journal])
}

/// Checks that the journal with this header is whole and empty.
fn check_empty(bytes: &[u8]) -> Result<(), Whole> {
    let f = Fields(bytes);
    let little = f.has(0, b"xLNJ\x78\x56\x34\x12");
    if !little && !f.has(0, b"JNLx\x12\x34\x56\x78") {
        return Err(Whole::damaged("its journal does not begin as one"));
    }
    let word = |at: usize| if little { f.u32(at) } else { f.u32_be(at) };
    let long = |at: usize| if little { f.u64(at) } else { f.u64_be(at) };
    let fields = (|| Ok::<_, crate::bytes::Truncated>((long(8)?, long(16)?, word(36)?)))();
    let (start, end, said) = fields.map_err(Whole::damaged)?;
    let computed = checksum(bytes);
    if !right(said == computed) {
        return Err(Whole::damaged(format_args!(
            "its journal's checksum is {said:#x}, that of its bytes {computed:#x}"
        )));
    }
    if start != end {
        return Err(Whole::dirty("its journal waits to be replayed, and may hold newer bitmaps"));
    }
    Ok(())
}

/// The checksum of a header, its own field counted as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let sum = (0usize..).zip(bytes).fold(0u32, |sum, (at, byte)| {
        let byte = if (36..40).contains(&at) { 0 } else { u32::from(*byte) };
        sum << 8 ^ sum.wrapping_add(byte)
    });
    !sum
}

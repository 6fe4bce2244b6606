//! Superblocks of version 0.90: 4 KiB at the last multiple of 64 KiB that leaves room for 64 KiB, in the byte order of
//! the machine that made them. The data begins at the start of the region.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use uuid::Uuid;

use super::{MAGIC, Member};
use crate::{
    block::ReadAt,
    bytes::{Fields, Truncated},
    extent::Extent,
    fs::checked::right,
    units::KIB,
};

const LEN: usize = 4096;
/// Where the checksum is, in bytes.
const CHECKSUM: usize = 38 * 4;
/// Where the description of this member is, in words.
const THIS_DISK: usize = 992;
/// The array was stopped in order.
const CLEAN: u32 = 1;
/// What the array's and the member's state may say of a mirror besides: it has a bitmap; it is active and in sync,
/// and it is written to rather than read from.
const BITMAP: u32 = 1 << 8;
const ACTIVE_SYNC: u32 = 2 | 4;
const WRITE_MOSTLY: u32 = 1 << 9 | 1 << 10;

/// The words of a superblock in their byte order.
#[derive(Clone, Copy)]
struct Words<'a> {
    f: Fields<'a>,
    big: bool,
}

impl Words<'_> {
    fn get(self, word: usize) -> Result<u32, Truncated> {
        let at = word.saturating_mul(4);
        if self.big { self.f.u32_be(at) } else { self.f.u32(at) }
    }

    fn checksum(self) -> Result<u32, Truncated> {
        let mut sum = 0u64;
        for word in 0..LEN / 4 {
            sum = sum.wrapping_add(u64::from(self.get(word)?));
        }
        sum = sum.wrapping_sub(u64::from(self.get(CHECKSUM / 4)?));
        Ok(u32::try_from((sum & 0xffff_ffff).wrapping_add(sum >> 32) & 0xffff_ffff).unwrap_or(0))
    }
}

/// Finds the superblock in `region`.
pub fn find(region: &dyn ReadAt) -> Option<Member> {
    let place = (region.len() / (64 * KIB)).checked_sub(1)?.checked_mul(64 * KIB)?;
    let mut bytes = vec![0; LEN];
    region.read_exact_at(&mut bytes, place).ok()?;
    let f = Fields(&bytes);
    let big = f.u32_be(0) == Ok(MAGIC);
    if (f.u32(0) != Ok(MAGIC) && !big) || (Words { f, big }).get(1) != Ok(0) {
        return None;
    }
    parse(Words { f, big }, place, region.len()).ok()
}

fn parse(words: Words<'_>, place: u64, len: u64) -> Result<Member, Truncated> {
    let mut raw = Vec::new();
    for word in [5, 13, 14, 15] {
        raw.extend(words.get(word)?.to_be_bytes());
    }
    let (minor, disks) = (words.get(2)?, words.get(10)?);
    let state = words.get(33)?;
    let (number, own_state) = (words.get(THIS_DISK.saturating_add(3))?, words.get(THIS_DISK.saturating_add(4))?);
    let active = own_state & !WRITE_MOSTLY == ACTIVE_SYNC && number < disks;
    let level = words.get(7)?.cast_signed();
    // Only what has copies or parity has a size by member.
    let used = u64::from(words.get(8)?).saturating_mul(KIB);
    let data = Extent::new(0, if used == 0 && level != 1 { place } else { used });
    let doubt = if minor != 90 {
        Some("its array is changing its shape")
    } else if state & CLEAN == 0 {
        Some("its array was not stopped in order, or a resync is not finished")
    } else if state & !(CLEAN | BITMAP) != 0 {
        Some("its array reports errors")
    } else {
        None
    };
    Ok(Member {
        version: format!("0.{minor}.{}", words.get(3)?),
        label: None,
        uuid: Uuid::from_slice(&raw).ok().map(|uuid| uuid.to_string()),
        level,
        role: active.then_some(number),
        disks,
        data: Some(data).filter(|data| data.end <= len && !data.is_empty()),
        superblock: Extent::new(place, place.saturating_add(LEN as u64)),
        sound: right(words.checksum()? == words.get(CHECKSUM / 4)?),
        doubt: doubt.map(str::to_owned),
    })
}

//! Superblocks of version 1, little endian: at the end (1.0), at the start (1.1) or 4 KiB behind it (1.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{MAGIC, Member};
use crate::{
    block::ReadAt,
    bytes::{Fields, Truncated},
    extent::Extent,
    fs::{checked::right, detect::uuid_at, label::text},
};

/// Bytes of the superblock before the roles of the members.
const FIXED: usize = 256;
/// Roles for which there is room.
const MAX_ROLES: u32 = 1920;
/// A member that is not in the array at present has a role from here on.
const FIRST_NO_ROLE: u16 = 0xfffd;
/// The whole array is in sync.
const IN_SYNC: u64 = u64::MAX;

/// Feature flags.
const BITMAP_OFFSET: u32 = 1;
/// What a mirror may have without a doubt about its data: a bitmap, and the layout that only RAID0 looks at.
const HARMLESS: u32 = BITMAP_OFFSET | 4096;
const DOUBTS: [(u32, &str); 8] = [
    (2, "the recovery of this member of a RAID1 is not finished"),
    (4, "its array is changing its shape"),
    (8, "its superblock lists bad blocks, whose data only other members have"),
    (16, "it is replacing another member of its array"),
    (32, "its array is changing its shape"),
    (64, "its array is changing its shape"),
    (128, "the recovery of this member of a RAID1 is not finished"),
    (512, "its array has a journal"),
];

/// Finds the superblock in `region`.
pub fn find(region: &dyn ReadAt) -> Option<Member> {
    let from_end = (region.len() / 512).checked_sub(16).and_then(|sector| (sector & !7).checked_mul(512));
    [(0, from_end), (1, Some(0)), (2, Some(4096))].into_iter().find_map(|(minor, place)| {
        let place = place?;
        let mut bytes = vec![0; FIXED];
        region.read_exact_at(&mut bytes, place).ok()?;
        let f = Fields(&bytes);
        let here = f.u64(144).ok()?.checked_mul(512) == Some(place);
        if f.u32(0) != Ok(MAGIC) || f.u32(4) != Ok(1) || !here {
            return None;
        }
        let roles = f.u32(220).ok()?.min(MAX_ROLES);
        bytes.resize(usize::try_from(roles).ok()?.checked_mul(2)?.checked_add(FIXED)?, 0);
        // A superblock whose end cannot be read is there all the same; its checksum will be wrong.
        let whole = region.read_exact_at(&mut bytes, place).is_ok();
        let mut member = parse(&bytes, minor, place, region.len()).ok()?;
        member.sound &= whole;
        Some(member)
    })
}

fn parse(bytes: &[u8], minor: u32, place: u64, len: u64) -> Result<Member, Truncated> {
    let f = Fields(bytes);
    let level = f.u32(72)?.cast_signed();
    let features = f.u32(8)?;
    let roles = f.u32(220)?;
    let number = f.u32(160)?;
    let role = (number < roles.min(MAX_ROLES))
        .then(|| f.u16(FIXED.saturating_add(usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(2))));
    let disks = f.u32(92)?;
    let role = role.transpose()?.filter(|role| *role < FIRST_NO_ROLE).map(u32::from).filter(|role| *role < disks);
    let sectors = |at: usize| f.u64(at).map(|sectors| sectors.checked_mul(512));
    // A mirror uses no more of a member than its size, which is less than what the member has room for.
    let (start, room, size) = (sectors(128)?, sectors(136)?, sectors(80)?);
    let used = if level == 1 { size.filter(|size| room.is_some_and(|room| *size <= room)) } else { room };
    let data = start.zip(used).and_then(|(start, used)| Extent::with_len(start, used));
    let data = data.filter(|data| data.end <= len && !data.is_empty());
    let superblock = Extent::new(place, place.saturating_add(4096));
    Ok(Member {
        version: format!("1.{minor}"),
        label: bytes.get(32..64).and_then(text),
        uuid: uuid_at(bytes, 16),
        level,
        role,
        disks,
        data,
        superblock,
        sound: roles <= MAX_ROLES && right(checksum(bytes) == Some(f.u32(216)?)),
        doubt: doubt(f, features, place, data)?,
    })
}

fn doubt(f: Fields<'_>, features: u32, place: u64, data: Option<Extent>) -> Result<Option<String>, Truncated> {
    if let Some((_, doubt)) = DOUBTS.iter().find(|(flag, _)| features & flag != 0) {
        return Ok(Some((*doubt).to_owned()));
    }
    if features & !HARMLESS != 0 {
        return Ok(Some(format!("its superblock has the unknown features {:#x}", features & !HARMLESS)));
    }
    if f.u64(208)? != IN_SYNC {
        return Ok(Some("its array was not stopped in order, or a resync is not finished".to_owned()));
    }
    let bitmap = i64::from(f.u32(96)?.cast_signed()).saturating_mul(512);
    let bitmap = place.checked_add_signed(bitmap).filter(|_| features & BITMAP_OFFSET != 0);
    if bitmap.zip(data).is_some_and(|(bitmap, data)| data.contains(bitmap)) {
        return Ok(Some("its bitmap lies in its data".to_owned()));
    }
    Ok(None)
}

/// Sums the superblock in words of 32 bits, its own checksum counted as zero.
fn checksum(bytes: &[u8]) -> Option<u32> {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = words.iter().map(|word| u64::from(u32::from_le_bytes(*word))).fold(0, u64::wrapping_add);
    if let [a, b, ..] = rest {
        sum = sum.wrapping_add(u64::from(u16::from_le_bytes([*a, *b])));
    }
    sum = sum.wrapping_sub(u64::from(Fields(bytes).u32(216).ok()?));
    u32::try_from((sum & 0xffff_ffff).wrapping_add(sum >> 32) & 0xffff_ffff).ok()
}

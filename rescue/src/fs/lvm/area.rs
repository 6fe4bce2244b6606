//! A metadata area: a header, and behind it a ring in which the newest text lies.
//!
//! ```text
//! | 0 CRC of 4..512  4 magic (16)  20 version  24 offset of the area  32 its length
//! | 40 slots: offset, length, CRC, flags (24 bytes each): the text in force, and one that is being committed
//! | 512 .. length: the ring; a text that reaches the end goes on at 512
//! ```
//!
//! Source: LVM2, lib/format_text/layout.h, lib/format_text/format-text.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::label::CRC;
use crate::{block::ReadAt, bytes::Fields, extent::Extent, fs::checked::right};

const HEADER: u64 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// Set in a slot's flags: this copy is not kept up to date.
const IGNORED: u32 = 1;
/// Bytes of text that are read; some hundred thousand volumes.
const MAX_TEXT: u64 = 16 << 20;

/// What an area holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    /// The text in force.
    Text(Vec<u8>),
    /// Nothing: the physical volume is in no group.
    Nothing,
    /// A copy that is not kept up to date.
    Ignored,
    /// A text in force and another that was being committed.
    Committing,
}

/// One place of a text.
struct Slot {
    offset: u64,
    len: u64,
    crc: u32,
    flags: u32,
}

fn slot(header: Fields<'_>, at: usize) -> Option<Slot> {
    let word = |offset: usize| at.checked_add(offset);
    Some(Slot {
        offset: header.u64(at).ok()?,
        len: header.u64(word(8)?).ok()?,
        crc: header.u32(word(16)?).ok()?,
        flags: header.u32(word(20)?).ok()?,
    })
}

/// Reads what the area at `area` holds.
///
/// # Errors
/// What is wrong with it, as a clause.
pub fn read(region: &dyn ReadAt, area: Extent) -> Result<Held, String> {
    let mut header = [0; 512];
    region.read_exact_at(&mut header, area.start).map_err(|error| format!("cannot be read: {error}"))?;
    let f = Fields(&header);
    let cut = |_| "is cut off".to_owned();
    let (want, have) = (f.u32(0).map_err(cut)?, CRC.checksum(header.get(4..).unwrap_or_default()));
    if !right(want == have) {
        return Err(format!("has the checksum {want:#010x}, its bytes have {have:#010x}"));
    }
    if !f.has(4, MAGIC) || f.u32(20) != Ok(1) {
        return Err("is of an unknown version".to_owned());
    }
    if f.u64(24) != Ok(area.start) || f.u64(32) != Ok(area.len()) || area.end > region.len() {
        return Err("is not where its header says it is".to_owned());
    }
    let first = slot(f, 40).ok_or("is cut off")?;
    let second = slot(f, 64).ok_or("is cut off")?;
    if first.flags & IGNORED != 0 {
        return Ok(Held::Ignored);
    }
    let same = second.offset == first.offset && second.len == first.len && second.crc == first.crc;
    if second.len != 0 && second.offset != 0 && !same {
        return Ok(Held::Committing);
    }
    if first.offset == 0 || first.len == 0 {
        return Ok(Held::Nothing);
    }
    read_text(region, area, &first).map(Held::Text)
}

fn read_text(region: &dyn ReadAt, area: Extent, slot: &Slot) -> Result<Vec<u8>, String> {
    let ring = Extent::new(HEADER, area.len());
    if !ring.contains(slot.offset) || slot.len > ring.len() || slot.len > MAX_TEXT {
        return Err(format!("says its text of {} bytes is at byte {:#x} of {}", slot.len, slot.offset, area.len()));
    }
    let first = slot.len.min(ring.end.saturating_sub(slot.offset));
    let mut text = Vec::new();
    for (offset, len) in [(slot.offset, first), (ring.start, slot.len.saturating_sub(first))] {
        let from = text.len();
        text.resize(from.saturating_add(usize::try_from(len).unwrap_or(0)), 0);
        let place = area.start.saturating_add(offset);
        region
            .read_exact_at(text.get_mut(from..).unwrap_or_default(), place)
            .map_err(|error| format!("cannot be read: {error}"))?;
    }
    let have = CRC.checksum(&text);
    if !right(have == slot.crc) {
        return Err(format!("says its text has the checksum {:#010x}, its bytes have {have:#010x}", slot.crc));
    }
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
pub mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    /// Writes the area at `area` of `disk` with `text` at `offset` of its ring.
    pub fn write(disk: &mut [u8], area: Extent, text: &[u8], offset: u64) {
        let start = usize::try_from(area.start).unwrap();
        let area_len = usize::try_from(area.len()).unwrap();
        for (index, byte) in text.iter().enumerate() {
            let at = usize::try_from(offset).unwrap() + index;
            disk[start + if at < area_len { at } else { at - area_len + 512 }] = *byte;
        }
        let header = &mut disk[start..start + 512];
        header[4..20].copy_from_slice(MAGIC);
        header[20] = 1;
        header[24..32].copy_from_slice(&area.start.to_le_bytes());
        header[32..40].copy_from_slice(&area.len().to_le_bytes());
        header[40..48].copy_from_slice(&offset.to_le_bytes());
        header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
        header[56..60].copy_from_slice(&CRC.checksum(text).to_le_bytes());
        seal(header);
    }

    pub fn seal(header: &mut [u8]) {
        let crc = CRC.checksum(&header[4..512]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn texts_are_found_in_the_ring() {
        let area = Extent::new(4096, 8192);
        let text = (0..1000u32).flat_map(u32::to_le_bytes).take(3000).collect::<Vec<_>>();
        for offset in [512, 1000, 3000, 4095] {
            let mut disk = vec![0; 8192];
            write(&mut disk, area, &text, offset);
            assert_eq!(read(&MemoryDisk::new(disk, SectorSize::B512), area), Ok(Held::Text(text.clone())), "{offset}");
        }
    }

    #[test]
    fn what_cannot_be_trusted_is_told_apart() {
        let area = Extent::new(4096, 8192);
        let with = |change: &dyn Fn(&mut [u8]), sealed: bool| {
            let mut disk = vec![0; 8192];
            write(&mut disk, area, b"text", 512);
            change(&mut disk);
            if sealed {
                seal(&mut disk[4096..4608]);
            }
            read(&MemoryDisk::new(disk, SectorSize::B512), area)
        };
        assert_eq!(with(&|_| {}, false), Ok(Held::Text(b"text".to_vec())));
        assert_eq!(with(&|disk| disk[4096 + 60] = 1, true), Ok(Held::Ignored));
        assert_eq!(with(&|disk| disk[4096 + 40..4096 + 64].fill(0), true), Ok(Held::Nothing));
        assert_eq!(with(&|disk| disk.copy_within(4136..4160, 4160), true), Ok(Held::Text(b"text".to_vec())));
        assert_eq!(with(&|disk| (disk[4160], disk[4168]) = (1, 1), true), Ok(Held::Committing));
        for (name, change, sealed, want) in [
            ("header", &(|disk: &mut [u8]| disk[4096 + 50] = 1) as &dyn Fn(&mut [u8]), false, "has the checksum"),
            ("magic", &|disk| disk[4100] = 1, true, "unknown version"),
            ("version", &|disk| disk[4116] = 2, true, "unknown version"),
            ("place", &|disk| disk[4121] = 1, true, "not where its header says"),
            ("length", &|disk| disk[4129] = 1, true, "not where its header says"),
            ("offset", &|disk| disk[4137] = 0x40, true, "says its text of 4 bytes"),
            ("text length", &|disk| disk[4145] = 0x40, true, "says its text of"),
            ("text", &|disk| disk[4609] = 1, true, "says its text has the checksum"),
        ] {
            let error = with(change, sealed).unwrap_err();
            assert!(error.contains(want), "{name}: {error}");
        }
        let disk = MemoryDisk::new(vec![0; 4096], SectorSize::B512);
        assert!(read(&disk, area).unwrap_err().contains("cannot be read"));
    }
}

//! LUKS: encrypted, so kept whole; what its header says of itself is named.
//!
//! ```text
//! LUKS1   | 0 LUKS, ba be  6 version 1  8 cipher ...  104 payload, in sectors  168 UUID (40) | keys | payload |
//! LUKS2   | 0 LUKS, ba be  6 version 2  8 length of header and JSON  16 sequence  24 label (48)
//!         |   72 checksum's name (32)  168 UUID (40)  208 subsystem (48)  256 own offset  448 checksum (64)
//!         | JSON | the same again, beginning SKUL | keys | payload |
//! ```
//!
//! Integers are big endian. A LUKS2 header whose first copy is gone is recognised by the second, which is at one of
//! nine places. Source: LUKS1 and LUKS2 on-disk format specifications.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, State, Survey, label::text};
use crate::{block::ReadAt, bytes::Fields, escape::Escaped};

const FIRST: &[u8] = b"LUKS\xba\xbe";
const SECOND: &[u8] = b"SKUL\xba\xbe";
/// Bytes of a binary header that are looked at.
const LEN: usize = 512;

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    version: u16,
    label: Option<String>,
    subsystem: Option<String>,
    uuid: Option<String>,
    /// LUKS2: where it says it is, bytes of header and JSON, and how often it was changed.
    second: Option<(u64, u64, u64)>,
}

fn header(region: &dyn ReadAt, offset: u64, magic: &[u8]) -> Option<Header> {
    let mut bytes = [0; LEN];
    region.read_exact_at(&mut bytes, offset).ok()?;
    let f = Fields(&bytes);
    if !f.has(0, magic) {
        return None;
    }
    let version = f.u16_be(6).ok()?;
    let only = |at: usize, len: usize| f.slice(at, len).ok().and_then(text).filter(|_| version == 2);
    Some(Header {
        version,
        label: only(24, 48),
        subsystem: only(208, 48),
        uuid: f.slice(168, 40).ok().and_then(text),
        second: (version == 2).then(|| Some((f.u64_be(256).ok()?, f.u64_be(8).ok()?, f.u64_be(16).ok()?))).flatten(),
    })
}

/// Lists where a second header may be: 16 KiB to 4 MiB from the start.
fn places() -> impl Iterator<Item = u64> {
    (14..=22u32).map(|shift| 1u64 << shift)
}

/// Finds the second header of LUKS2, whatever it says of its own place.
fn second(region: &dyn ReadAt) -> Option<(u64, Header)> {
    places().find_map(|place| Some((place, header(region, place, SECOND)?)))
}

/// Names the encrypted volume in `region`.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    let first = header(region, 0, FIRST);
    let state = if first.is_some() { State::Unknown } else { State::Damaged };
    let header = first.or_else(|| second(region).map(|(_, header)| header))?;
    Some(Detected {
        name: "crypto_LUKS".to_owned(),
        version: Some(header.version.to_string()),
        label: header.label,
        uuid: header.uuid,
        block_size: None,
        state,
    })
}

/// Keeps the encrypted volume in `region` whole, and says what its headers say.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    let version = Escaped(detected.version.as_deref().unwrap_or_default()).to_string();
    let reason = format!("kept whole: it is encrypted (LUKS{version}), so what is free in it cannot be known");
    let mut survey = Survey::whole(region.len(), Some(detected), reason);
    let first = header(region, 0, FIRST);
    if let Some(subsystem) = first.as_ref().and_then(|header| header.subsystem.as_deref()) {
        survey.notes.push(format!("its header names the subsystem {}", Escaped(subsystem)));
    }
    survey.notes.extend(copies(region, first.as_ref()));
    survey
}

/// Says how the two headers of LUKS2 stand to each other, where something is wrong with them.
fn copies(region: &dyn ReadAt, first: Option<&Header>) -> Option<String> {
    let Some(first) = first else {
        let (place, _) = second(region)?;
        return Some(format!("its first header is broken; the second is at byte {place:#x}"));
    };
    let (own, len, seqno) = first.second?;
    if own != 0 || !places().any(|place| place == len) {
        return Some(format!("its header says it is at byte {own:#x} and {len} bytes long, which cannot be"));
    }
    match header(region, len, SECOND).and_then(|header| header.second) {
        None => Some(format!("its second header, at byte {len:#x}, is broken")),
        Some((.., other)) if other != seqno => {
            Some(format!("its headers were changed {seqno} and {other} times: one of them is old"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    fn write(disk: &mut [u8], at: usize, magic: &[u8], version: u8) {
        disk[at..at + 6].copy_from_slice(magic);
        disk[at + 7] = version;
        disk[at + 24..at + 27].copy_from_slice(b"lbl");
        disk[at + 168..at + 172].copy_from_slice(b"uuid");
        disk[at + 208..at + 211].copy_from_slice(b"sub");
        disk[at + 8..at + 16].copy_from_slice(&(16384u64).to_be_bytes());
        disk[at + 256..at + 264].copy_from_slice(&(at as u64).to_be_bytes());
    }

    fn look(disk: &[u8]) -> Option<(Survey, Detected)> {
        let disk = MemoryDisk::new(disk.to_vec(), SectorSize::B512);
        let survey = survey(&disk, detect(&disk)?);
        assert_eq!(survey.allocated.total(), disk.len());
        let detected = survey.detected.clone()?;
        Some((survey, detected))
    }

    #[test]
    fn headers_are_named_and_compared() {
        let mut disk = vec![0; 65536];
        assert!(look(&disk).is_none());
        write(&mut disk, 0, FIRST, 2);
        write(&mut disk, 16384, SECOND, 2);
        let (survey, found) = look(&disk).unwrap();
        assert_eq!((found.label.as_deref(), found.uuid.as_deref()), (Some("lbl"), Some("uuid")));
        assert_eq!((found.version.as_deref(), found.state), (Some("2"), State::Unknown));
        assert_eq!(survey.notes, ["its header names the subsystem sub"]);
        assert_eq!(survey.widened, ["kept whole: it is encrypted (LUKS2), so what is free in it cannot be known"]);
        let note = |disk: &[u8]| look(disk).unwrap().0.notes.pop().unwrap();
        let changed = |at: usize, byte: u8| {
            let mut disk = disk.clone();
            disk[at] = byte;
            disk
        };
        assert!(note(&changed(0, 0)).contains("the second is at byte 0x4000"));
        assert_eq!(look(&changed(0, 0)).unwrap().1.state, State::Damaged);
        assert!(note(&changed(16384, 0)).contains("its second header, at byte 0x4000, is broken"));
        assert!(note(&changed(14, 0x41)).contains("16640 bytes long, which cannot be"));
        assert!(note(&changed(23, 7)).contains("changed 7 and 0 times"));
        write(&mut disk, 0, FIRST, 1);
        let (survey, found) = look(&disk).unwrap();
        assert_eq!((found.version.as_deref(), found.label, survey.notes.len()), (Some("1"), None, 0));
        disk[..8].fill(0);
        disk.copy_within(16384..16384 + 512, 32768);
        disk[16384..16384 + 512].fill(0);
        assert!(look(&disk).is_some(), "in another place than it says");
    }
}

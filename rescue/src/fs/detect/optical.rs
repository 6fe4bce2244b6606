//! ISO 9660 and UDF, alone or both on one medium.
//!
//! Source: ECMA-119, ECMA-167, OSTA UDF 2.60, the Joliet specification.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, named};
use crate::{bytes::Fields, fs::label::text, units::KIB};

/// How far apart descriptors are, and the sector sizes of media on which they are.
const SECTORS: [(u64, &[u64]); 2] = [(2048, &[2048, 512, 1024]), (4096, &[4096])];

/// Names what is there; a medium that has both, so that every system can read it, by UDF.
pub fn detect(probe: &Probe<'_>) -> Option<Detected> {
    udf(probe).or_else(|| iso9660(probe))
}

/// Descriptors are in sectors from the 16th on: type 1 is the primary one, type 2 with an escape sequence Joliet's.
fn iso9660(probe: &Probe<'_>) -> Option<Detected> {
    let descriptors = (16..32u64).map_while(|sector| probe.at(sector.saturating_mul(2048), 2048));
    let descriptors = descriptors.filter(|bytes| Fields(bytes).has(1, b"CD001") || Fields(bytes).has(9, b"CDROM"));
    let (mut primary, mut joliet) = (None, None);
    for bytes in descriptors {
        let f = Fields(&bytes);
        let escapes = [b"%/@", b"%/C", b"%/E"];
        if f.has(8, b"\x01CDROM") || f.u8(0).ok()? == 1 {
            primary.get_or_insert(bytes);
        } else if f.u8(0).ok()? == 2 && escapes.iter().any(|escape| f.has(88, *escape)) {
            joliet.get_or_insert(bytes);
        }
    }
    let primary = primary?;
    let long = primary.get(40..72).and_then(text);
    let wide = joliet.as_deref().and_then(|bytes| bytes.get(40..72)).and_then(utf16_be);
    // Either date, when it was changed or else made.
    let dates = [830usize, 813].into_iter();
    Some(Detected {
        version: joliet.as_ref().map(|_| "Joliet Extension".to_owned()),
        label: match (wide, long) {
            (Some(wide), Some(long)) => Some(joined(&wide, &long)),
            (wide, long) => wide.or(long),
        },
        uuid: dates.filter_map(|at| date(&primary, at)).next(),
        block_size: Some(2048),
        ..named("iso9660")
    })
}

/// Continues a Joliet label, which has room for 16 letters, with the plain one, where that begins with the same letters
/// or `_` for those it cannot write.
fn joined(wide: &str, long: &str) -> String {
    let same = |(a, b): (char, char)| a.eq_ignore_ascii_case(&b) || b == '_';
    let begins = wide.chars().count() == 16 && wide.chars().zip(long.chars()).all(same);
    let rest = long.chars().skip(16);
    if begins { wide.chars().chain(rest).collect() } else { wide.to_owned() }
}

/// Writes a date as UUID: digits of year, month, day, hour, minute, second and hundredth.
fn date(descriptor: &[u8], at: usize) -> Option<String> {
    let digits = Fields(descriptor).slice(at, 17).ok()?;
    let blank = digits.iter().take(16).all(|byte| *byte == b'0' || *byte == 0) && digits.last() == Some(&0);
    let digits = digits.get(..16).filter(|digits| !blank && digits.is_ascii())?;
    let mut out = String::new();
    for (index, digit) in digits.iter().enumerate() {
        if [4, 6, 8, 10, 12, 14].contains(&index) {
            out.push('-');
        }
        out.push(char::from(*digit));
    }
    Some(out)
}

fn utf16_be(field: &[u8]) -> Option<String> {
    let units = field.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).take_while(|unit| *unit != 0);
    let text = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>();
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
}

/// The volume recognition sequence from byte 32768 on; its descriptors follow each other by sector, but by no less than
/// 2048 bytes.
fn udf(probe: &Probe<'_>) -> Option<Detected> {
    let mut known = SECTORS.iter().filter(|(step, _)| recognised(probe, *step) == Some(true)).peekable();
    known.peek()?;
    let volume = known.flat_map(|(_, sectors)| *sectors).find_map(|sector| udf_volume(probe, *sector));
    Some(volume.unwrap_or_else(|| named("udf")))
}

fn recognised(probe: &Probe<'_>, step: u64) -> Option<bool> {
    let sectors = (0..64u64).map(|n| n.saturating_mul(step).saturating_add(32 * KIB));
    let mut begun = false;
    for offset in sectors {
        let bytes = probe.at(offset, 6)?;
        let f = Fields(&bytes);
        if f.has(1, b"NSR02") || f.has(1, b"NSR03") {
            return Some(begun);
        }
        begun |= f.has(1, b"BEA01");
        if !(f.has(1, b"BEA01") || f.has(1, b"CD001") || f.has(1, b"BOOT2") || f.has(1, b"CDW02")) {
            return None;
        }
    }
    None
}

/// Follows the anchor in sector 256 to the descriptors of the volume.
fn udf_volume(probe: &Probe<'_>, sector: u64) -> Option<Detected> {
    let anchor = probe.at(sector.checked_mul(256)?, 512)?;
    let f = Fields(&anchor);
    if f.u16(0).ok()? != 2 || f.u32(12).ok()? != 256 {
        return None;
    }
    let (len, first) = (u64::from(f.u32(16).ok()?), u64::from(f.u32(20).ok()?));
    let mut detected = named("udf");
    for number in 0..len.div_ceil(sector).min(64) {
        let bytes = probe.at(first.checked_add(number)?.checked_mul(sector)?, 512)?;
        let f = Fields(&bytes);
        match f.u16(0).ok()? {
            1 if detected.uuid.is_none() => detected.uuid = set_uuid(f.slice(72, 128).ok()?),
            6 => {
                detected.label = dstring(f.slice(84, 128).ok()?);
                detected.block_size = f.u32(212).ok();
                let revision = f.u16(240).ok()?;
                detected.version = Some(format!("{:x}.{:02x}", revision >> 8, revision & 0xff));
            }
            8 => break,
            _ => {}
        }
    }
    Some(detected)
}

/// Reads a string whose first byte names the bytes of a letter in bits and whose last its length.
fn dstring(field: &[u8]) -> Option<String> {
    let (last, all) = field.split_last()?;
    let (kind, letters) = all.get(..usize::from(*last))?.split_first()?;
    match kind {
        8 => Some(letters.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()),
        16 => utf16_be(letters),
        _ => None,
    }
    .filter(|text: &String| !text.is_empty())
}

/// Makes a UUID of the volume set's name, whose first 16 letters are hexadecimal digits as a rule.
fn set_uuid(field: &[u8]) -> Option<String> {
    let name = dstring(field)?;
    let mut bytes = name.into_bytes();
    bytes.resize(bytes.len().max(16), 0);
    let digits = bytes.iter().take(16).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let kept = match digits {
        16.. => 16usize,
        8..16 => 8,
        _ => 0,
    };
    let mut out = bytes.iter().take(kept).map(|byte| char::from(byte.to_ascii_lowercase())).collect::<String>();
    let rest = 16usize.saturating_sub(kept) / 2;
    bytes.iter().skip(kept).take(rest).for_each(|byte| out.push_str(&format!("{byte:02x}")));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    /// Makes an ISO 9660 medium with a plain label, and a Joliet one.
    fn medium(long: &[u8], wide: &str) -> Option<Detected> {
        let mut disk = vec![0; 64 << 10];
        disk[32768..32774].copy_from_slice(b"\x01CD001");
        disk[32768 + 40..32768 + 72].fill(b' ');
        disk[32808..][..long.len()].copy_from_slice(long);
        disk[32768 + 813..][..16].copy_from_slice(b"2009092410344000");
        disk[34816..34822].copy_from_slice(b"\x02CD001");
        disk[34816 + 88..34816 + 91].copy_from_slice(b"%/E");
        let wide = wide.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        disk[34816 + 40..][..wide.len()].copy_from_slice(&wide);
        detect(&Probe { region: &MemoryDisk::new(disk, SectorSize::B512) })
    }

    #[test]
    fn labels_of_media_are_joined() {
        for (name, long, wide, want) in [
            ("both", &b"SHORT"[..], "Short one", "Short one"),
            ("cut after 16", b"NA_VE_AND_VERY_LONG_LABEL", "Naïve and very l", "Naïve and very lONG_LABEL"),
            ("of other kinds", b"SOMETHING_ELSE_ALTOGETHER", "Naïve and very l", "Naïve and very l"),
            ("plain", b"PLAIN", "", "PLAIN"),
        ] {
            let found = medium(long, wide).unwrap();
            assert_eq!(found.label.as_deref(), Some(want), "{name}");
            assert_eq!(found.uuid.as_deref(), Some("2009-09-24-10-34-40-00"), "{name}");
        }
    }

    #[test]
    fn names_of_volume_sets_make_uuids() {
        let field = |kind: u8, text: &[u8]| {
            let mut field = [vec![kind], text.to_vec(), vec![0; 128]].concat();
            field.truncate(127);
            field.push(u8::try_from(text.len()).unwrap().saturating_add(1));
            field
        };
        for (text, want) in [
            (&b"5906E052003d522aLinuxUDF"[..], "5906e052003d522a"),
            (b"691EED13 (Mac OS X newfs_udf)", "691eed1320284d61"),
            (b"20c624ac", "20c624ac00000000"),
            (b"disc", "6469736300000000"),
        ] {
            assert_eq!(set_uuid(&field(8, text)).as_deref(), Some(want));
        }
        assert_eq!(dstring(&field(16, &[0xd8, 0x3d, 0xde, 0])).as_deref(), Some("\u{1f600}"));
        assert_eq!(dstring(&field(9, b"text")), None);
        assert_eq!(dstring(&[]), None);
        assert_eq!(set_uuid(&[8, b'x', 0xff]), None, "longer than its field");
    }
}

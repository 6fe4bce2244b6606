//! The label and the header of a physical volume, in one of the first four sectors.
//!
//! ```text
//! sector   0 LABELONE   8 sector   16 CRC of 20..512   20 where the header is   24 type: LVM2 001
//! header   0 UUID (32)  32 bytes of the device   40 areas: offset, length; a list each for data and metadata, both
//!          end with a pair of zeros   then an extension: version, flags, boot loader areas
//! ```
//!
//! Integers are little endian, sectors have 512 bytes whatever the disk says. Source: LVM2, lib/label/label.h,
//! lib/format_text/layout.h.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crc::{Algorithm, Crc};

use crate::{
    block::ReadAt,
    bytes::{Fields, Truncated},
    extent::Extent,
    fs::checked::right,
};

/// LVM counts in sectors of this many bytes on every disk.
pub const SECTOR: u64 = 512;
/// Sectors in which a label may be.
const PLACES: u64 = 4;
/// Areas a sector has room for.
const MAX_AREAS: usize = 32;

/// CRC-32 of every structure and of the metadata: the usual polynomial, another start, no final inversion.
pub static CRC: Crc<u32> = {
    static LVM: Algorithm<u32> =
        Algorithm { init: 0xf597_a6cf_u32.reverse_bits(), xorout: 0, check: 0, residue: 0, ..crc::CRC_32_ISO_HDLC };
    Crc::<u32>::new(&LVM)
};

/// A physical volume, as its header has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its UUID: 32 characters without hyphens.
    pub uuid: String,
    /// Type and version: `LVM2 001`.
    pub version: String,
    /// Where its metadata is; `end` is not checked against anything.
    pub metadata: Vec<Extent>,
}

/// What is wrong with a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No label.
    #[error("no sector of the first {PLACES} has a label")]
    None,
    /// A wrong checksum.
    #[error("the label in sector {0} has the checksum {1:#010x}, its bytes have {2:#010x}")]
    Checksum(u64, u32, u32),
    /// A label of another place.
    #[error("the label in sector {0} says it is in sector {1}")]
    Place(u64, u64),
    /// An area whose end has no number, or more areas than there is room for.
    #[error("the header lists areas that cannot be")]
    Areas,
    /// Two labels that differ.
    #[error("it has two labels that differ")]
    Two,
    /// A header that leaves its sector.
    #[error("the header of the physical volume is cut off: {0}")]
    Short(#[from] Truncated),
}

/// Finds the label in `region`.
///
/// # Errors
/// [`Error`]; a label that is broken is an error although another may be sound.
pub fn find(region: &dyn ReadAt) -> Result<Label, Error> {
    let mut found: Option<Label> = None;
    for (sector, bytes) in candidates(region) {
        let label = parse(&bytes, sector)?;
        if found.as_ref().is_some_and(|other| *other != label) {
            return Err(Error::Two);
        }
        found = Some(label);
    }
    found.ok_or(Error::None)
}

/// Names the physical volume in `region`, sound or not: type and UUID.
pub fn name(region: &dyn ReadAt) -> Option<(Option<String>, Option<String>)> {
    let (_, bytes) = candidates(region).next()?;
    let header = header(&bytes).ok();
    let uuid = header.and_then(|f| f.slice(0, 32).ok()).map(|raw| hyphens(&String::from_utf8_lossy(raw)));
    Some((crate::fs::label::text(Fields(&bytes).slice(24, 8).ok()?), uuid))
}

fn candidates(region: &dyn ReadAt) -> impl Iterator<Item = (u64, [u8; 512])> + '_ {
    (0..PLACES).filter_map(|sector| {
        let mut bytes = [0; 512];
        region.read_exact_at(&mut bytes, sector.saturating_mul(SECTOR)).ok()?;
        let f = Fields(&bytes);
        (f.has(0, b"LABELONE") && f.has(24, b"LVM2 ")).then_some((sector, bytes))
    })
}

fn header(sector: &[u8]) -> Result<Fields<'_>, Truncated> {
    let f = Fields(sector);
    let at = usize::try_from(f.u32(20)?).unwrap_or(usize::MAX);
    f.slice(at, sector.len().saturating_sub(at)).map(Fields)
}

/// Reads the label of `sector`.
fn parse(bytes: &[u8; 512], sector: u64) -> Result<Label, Error> {
    let f = Fields(bytes);
    let (want, have) = (f.u32(16)?, CRC.checksum(f.slice(20, 492)?));
    if !right(want == have) {
        return Err(Error::Checksum(sector, want, have));
    }
    if f.u64(8)? != sector {
        return Err(Error::Place(sector, f.u64(8)?));
    }
    let header = header(bytes)?;
    let (_, at) = areas(header, 40)?;
    let (metadata, _) = areas(header, at)?;
    Ok(Label {
        uuid: String::from_utf8_lossy(header.slice(0, 32)?).into_owned(),
        version: String::from_utf8_lossy(f.slice(24, 8)?).into_owned(),
        metadata,
    })
}

/// Reads a list of areas and returns where the next list begins. An area of length 0 reaches to the device's end.
fn areas(header: Fields<'_>, mut at: usize) -> Result<(Vec<Extent>, usize), Error> {
    let mut out = Vec::new();
    while out.len() < MAX_AREAS {
        let (offset, len) = (header.u64(at)?, header.u64(at.saturating_add(8))?);
        at = at.saturating_add(16);
        if offset == 0 {
            return Ok((out, at));
        }
        out.push(Extent::with_len(offset, len).ok_or(Error::Areas)?);
    }
    Err(Error::Areas)
}

/// Writes a UUID as people see it.
#[must_use]
pub fn hyphens(uuid: &str) -> String {
    let mut out = String::new();
    for (index, c) in uuid.chars().enumerate() {
        if [6, 10, 14, 18, 22, 26].contains(&index) {
            out.push('-');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    /// Writes the label of a physical volume with metadata in `areas` into sector 1 of `disk`.
    pub fn write(disk: &mut [u8], areas: &[Extent]) {
        let mut sector = [0; 512];
        sector[..8].copy_from_slice(b"LABELONE");
        sector[8] = 1;
        sector[20] = 32;
        sector[24..32].copy_from_slice(b"LVM2 001");
        sector[32..64].copy_from_slice(b"0123456789abcdefghijklmnopqrstuv");
        sector[72..80].copy_from_slice(&(1u64 << 20).to_le_bytes());
        for (area, slot) in areas.iter().zip(sector[104..].chunks_exact_mut(16)) {
            slot[..8].copy_from_slice(&area.start.to_le_bytes());
            slot[8..].copy_from_slice(&area.len().to_le_bytes());
        }
        seal(&mut sector);
        disk[512..1024].copy_from_slice(&sector);
    }

    pub fn seal(sector: &mut [u8]) {
        let crc = CRC.checksum(&sector[20..]);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
    }

    fn look(disk: &[u8]) -> Result<Label, Error> {
        find(&MemoryDisk::new(disk.to_vec(), SectorSize::B512))
    }

    #[test]
    fn a_label_is_found_and_checked() {
        let mut disk = vec![0; 4096];
        assert_eq!(look(&disk), Err(Error::None));
        let area = Extent::new(4096, 1 << 20);
        write(&mut disk, &[area]);
        let good = look(&disk).unwrap();
        assert_eq!((good.metadata.as_slice(), good.version.as_str()), (&[area][..], "LVM2 001"));
        assert_eq!(hyphens(&good.uuid), "012345-6789-abcd-efgh-ijkl-mnop-qrstuv");
        disk[600] ^= 1;
        assert!(matches!(look(&disk), Err(Error::Checksum(1, ..))));
        disk[600] ^= 1;
        disk.copy_within(512..1024, 1024);
        assert_eq!(look(&disk), Err(Error::Place(2, 1)));
        disk[1032] = 2;
        assert_eq!(look(&disk), Ok(good), "twice the same");
        disk[1024 + 32] = b'x';
        seal(&mut disk[1024..1536]);
        assert_eq!(look(&disk), Err(Error::Two));
        write(&mut disk, &[Extent::new(u64::MAX - 1, u64::MAX)]);
        disk[512 + 112] = 9;
        seal(&mut disk[512..1024]);
        assert_eq!(look(&disk), Err(Error::Areas));
        disk[532] = 0xf0;
        disk[533] = 1;
        seal(&mut disk[512..1024]);
        assert!(matches!(look(&disk), Err(Error::Short(_))));
        assert!(name(&MemoryDisk::new(disk, SectorSize::B512)).is_some(), "named although broken");
    }
}

//! GUID partition table: headers and entry arrays, primary and backup, as they lie on the disk.
//!
//! ```text
//! LBA 0           LBA 1            usually LBA 2 …             … last-n        last
//! protective MBR  primary header   primary entries  partitions  backup entries  backup header
//!
//! header: 0 "EFI PART" | 8 revision | 12 header size | 16 CRC | 20 reserved | 24 my LBA | 32 alternate LBA
//!         40 first usable LBA | 48 last usable LBA | 56 disk GUID | 72 entry LBA | 80 count | 84 entry size | 88 CRC
//! entry:  0 type GUID | 16 partition GUID | 32 first LBA | 40 last LBA, inclusive | 48 attributes | 56 name, UTF-16
//! ```
//!
//! Integers are little endian. Every number is hostile until its copy's checksums held, and bounded after that as
//! well: a checksum is no proof of sense. Source: UEFI specification 2.10, section 5.3.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crc::{CRC_32_ISO_HDLC, Crc};
use uuid::Uuid;

use super::{
    Error, Problem,
    sectors::{Miss, Sectors},
};
use crate::{
    bytes::{Fields, Truncated},
    units::{Lba, MIB, SectorSize},
};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION_1_0: u32 = 0x0001_0000;
/// Bytes of a header that the specification defines.
pub(super) const MIN_HEADER: usize = 92;
/// Bytes of an entry that the specification defines; larger ones are this times a power of two.
pub(super) const MIN_ENTRY: u64 = 128;
/// Entry arrays are at most this many bytes: 8192 entries of the usual size. Usual is 16 KiB.
pub(super) const MAX_ARRAY: u64 = MIB;
/// The primary header's place, by definition.
pub(super) const PRIMARY: Lba = Lba(1);
const USUAL_ARRAY: u64 = 2;
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// A GPT header whose checksum held and whose numbers are in bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) revision: u32,
    pub(super) header_size: usize,
    pub(super) my_lba: u64,
    pub(super) alternate_lba: u64,
    pub(super) first_usable_lba: u64,
    pub(super) last_usable_lba: u64,
    pub(super) disk_guid: Uuid,
    pub(super) entry_lba: u64,
    pub(super) entry_count: u32,
    pub(super) entry_size: u32,
    pub(super) entries_crc: u32,
}

impl Header {
    /// Reads the header in `sector`, which lies at `lba`, `offset` bytes from the start of the disk.
    fn parse(sector: &[u8], lba: Lba, offset: u64) -> Result<Self, Problem> {
        let fault = |what: String| Problem { offset, what };
        let short = |e: Truncated| Problem { offset, what: format!("GPT header: {e}") };
        let raw = Fields(sector);
        if !raw.has(0, SIGNATURE) {
            return Err(fault("no GPT header (the signature EFI PART is missing)".to_owned()));
        }
        let header_size = raw.u32(12).map_err(short)?;
        let size = usize::try_from(header_size).unwrap_or(usize::MAX);
        if size < MIN_HEADER || size > sector.len() {
            let room = sector.len();
            return Err(fault(format!("a GPT header of {header_size} bytes, expected {MIN_HEADER} to {room}")));
        }
        let (stored, computed) = (raw.u32(16).map_err(short)?, header_crc(sector, size));
        if stored != computed {
            return Err(fault(format!("GPT header checksum is {stored:#010x}, its bytes give {computed:#010x}")));
        }
        let header = Self {
            revision: raw.u32(8).map_err(short)?,
            header_size: size,
            my_lba: raw.u64(24).map_err(short)?,
            alternate_lba: raw.u64(32).map_err(short)?,
            first_usable_lba: raw.u64(40).map_err(short)?,
            last_usable_lba: raw.u64(48).map_err(short)?,
            disk_guid: Uuid::from_bytes_le(raw.array(56).map_err(short)?),
            entry_lba: raw.u64(72).map_err(short)?,
            entry_count: raw.u32(80).map_err(short)?,
            entry_size: raw.u32(84).map_err(short)?,
            entries_crc: raw.u32(88).map_err(short)?,
        };
        if header.my_lba != lba.0 {
            return Err(fault(format!("the GPT header here says that it belongs at LBA {}", header.my_lba)));
        }
        header.check_array().map_err(fault)?;
        Ok(header)
    }

    /// Checks size and number of the entries, which bound everything done with them later.
    fn check_array(&self) -> Result<(), String> {
        let size = u64::from(self.entry_size);
        if size < MIN_ENTRY || !size.is_power_of_two() {
            return Err(format!("GPT entries of {size} bytes, expected {MIN_ENTRY} times a power of two"));
        }
        if self.entry_count == 0 || self.array_len() > MAX_ARRAY {
            let count = self.entry_count;
            return Err(format!("{count} GPT entries of {size} bytes, expected 1 to {MAX_ARRAY} bytes in all"));
        }
        Ok(())
    }

    /// Returns the bytes in the entry array, without the rest of its last sector.
    pub(super) fn array_len(&self) -> u64 {
        u64::from(self.entry_count).saturating_mul(u64::from(self.entry_size))
    }
}

/// Returns the checksum of the first `size` bytes of `sector`, with the checksum field read as zero.
pub(super) fn header_crc(sector: &[u8], size: usize) -> u32 {
    let mut digest = CRC.digest();
    digest.update(sector.get(..16).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(sector.get(20..size).unwrap_or_default());
    digest.finalize()
}

/// One copy of the table, as far as it could be read.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// The header's sector; empty when unreadable.
    pub(super) sector: Vec<u8>,
    /// The header, when it is sound by itself.
    pub(super) header: Option<Header>,
    /// Where its entry array lies, as the header says or as found.
    pub(super) array_lba: Lba,
    /// The array's sectors, damaged or not; empty when unreadable or in no known place.
    pub(super) array: Vec<u8>,
    /// What is wrong with the copy.
    pub(super) fault: Option<Problem>,
}

impl Copy {
    fn damaged(fault: Problem) -> Self {
        Self { sector: Vec::new(), header: None, array_lba: Lba(0), array: Vec::new(), fault: Some(fault) }
    }

    /// Reads the copy whose header should be at `lba`.
    ///
    /// # Errors
    /// [`Error::Disk`] when the disk is gone; all else is [`Copy::fault`].
    fn read(sectors: &Sectors<'_>, lba: Lba) -> Result<Self, Error> {
        let offset = sectors.offset(lba);
        let sector = match sectors.read(lba, 1) {
            Ok(sector) => sector,
            Err(Miss::Damaged(fault)) => return Ok(Self::damaged(fault)),
            Err(Miss::Disk(error)) => return Err(error.into()),
        };
        let header = match Header::parse(&sector, lba, offset) {
            Ok(header) => header,
            Err(fault) => return Ok(Self { sector, ..Self::damaged(fault) }),
        };
        let array_lba = Lba(header.entry_lba);
        let (array, fault) = match read_array(sectors, array_lba, &header) {
            Ok(array) => {
                let fault = check_array(&array, sectors.offset(array_lba), &header).err();
                (array, fault)
            }
            Err(Miss::Damaged(fault)) => (Vec::new(), Some(fault)),
            Err(Miss::Disk(error)) => return Err(error.into()),
        };
        Ok(Self { sector, header: Some(header), array_lba, array, fault })
    }

    /// Returns header and entry array when both are sound.
    pub(super) fn whole(&self) -> Option<(&Header, &[u8])> {
        match (&self.fault, &self.header) {
            (None, Some(header)) => Some((header, self.entries())),
            _ => None,
        }
    }

    /// Tells whether something here once was a GPT header.
    pub(super) fn is_signed(&self) -> bool {
        Fields(&self.sector).has(0, SIGNATURE)
    }

    /// Returns the array without the rest of its last sector.
    fn entries(&self) -> &[u8] {
        let len = self.header.as_ref().map_or(0, Header::array_len);
        usize::try_from(len).ok().and_then(|len| self.array.get(..len)).unwrap_or_default()
    }

    /// Looks for the entry array of a copy whose header is damaged: where the other, sound header's checksum holds.
    /// When it is nowhere, the first of `places` that lies on the disk is taken for its place.
    fn find_array(&mut self, sectors: &Sectors<'_>, sound: &Header, places: &[u64]) -> Result<(), Error> {
        if self.header.is_some() {
            return Ok(());
        }
        let mut fallback = None;
        for &place in places {
            match read_array(sectors, Lba(place), sound) {
                Ok(array) if check_array(&array, 0, sound).is_ok() => {
                    (self.array_lba, self.array) = (Lba(place), array);
                    return Ok(());
                }
                Ok(array) => fallback = fallback.or(Some((Lba(place), array))),
                Err(Miss::Damaged(_)) => {}
                Err(Miss::Disk(error)) => return Err(error.into()),
            }
        }
        if let Some(found) = fallback {
            (self.array_lba, self.array) = found;
        }
        Ok(())
    }
}

/// Reads the sectors of an entry array as large as `header` says, at `lba`.
fn read_array(sectors: &Sectors<'_>, lba: Lba, header: &Header) -> Result<Vec<u8>, Miss> {
    let n = sectors.sectors_for(header.array_len());
    let at_header = |what| Problem { offset: sectors.offset(Lba(header.my_lba)), what };
    let over_header = lba.0 <= header.my_lba && header.my_lba.saturating_sub(lba.0) < n;
    if lba.0 <= PRIMARY.0 || over_header {
        return Err(
            at_header(format!("the GPT header puts {n} sectors of entries at {lba}, over itself or the MBR")).into()
        );
    }
    if lba.0.checked_add(n).is_none_or(|end| end > sectors.count) {
        let count = sectors.count;
        return Err(
            at_header(format!("the GPT header puts {n} sectors of entries at {lba}, the disk has {count}")).into()
        );
    }
    sectors.read(lba, n)
}

/// Checks `array` against the checksum in `header`.
fn check_array(array: &[u8], offset: u64, header: &Header) -> Result<(), Problem> {
    let len = usize::try_from(header.array_len()).unwrap_or(usize::MAX);
    let computed = CRC.checksum(array.get(..len).unwrap_or_default());
    if computed == header.entries_crc {
        return Ok(());
    }
    let stored = header.entries_crc;
    Err(Problem { offset, what: format!("GPT entries checksum is {stored:#010x}, their bytes give {computed:#010x}") })
}

/// Both copies, wherever they were found.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    pub(super) primary: Copy,
    pub(super) backup: Copy,
    /// Where the backup header was looked for last, or found.
    pub(super) backup_lba: Lba,
}

impl Copies {
    /// Looks for both copies: the primary at LBA 1; the backup where a sound primary header says, and at the end.
    ///
    /// # Errors
    /// [`Error::Disk`] when the disk is gone.
    pub(super) fn find(sectors: &Sectors<'_>) -> Result<Self, Error> {
        let mut primary = Copy::read(sectors, PRIMARY)?;
        let last = sectors.count.saturating_sub(1);
        // A damaged header's word is good enough for looking: what is found there proves itself.
        let claim = |offset: usize| Fields(&primary.sector).u64(offset).ok().filter(|_| primary.is_signed());
        let (told, claimed_array) = (claim(32).filter(|told| *told > PRIMARY.0).unwrap_or(last), claim(72));
        let mut backup_lba = Lba(told);
        let mut backup = Self::read_backup(sectors, backup_lba)?;
        if backup.whole().is_none() && backup_lba.0 != last {
            let at_end = Self::read_backup(sectors, Lba(last))?;
            if at_end.whole().is_some() || !backup.is_signed() {
                (backup, backup_lba) = (at_end, Lba(last));
            }
        }
        if let Some(sound) = backup.whole().map(|(header, _)| header.clone()) {
            let before_first = sound.first_usable_lba.saturating_sub(sectors.sectors_for(sound.array_len()));
            let claimed = claimed_array.filter(|place| *place <= before_first);
            let places: Vec<u64> = claimed.into_iter().chain([USUAL_ARRAY, before_first]).collect();
            primary.find_array(sectors, &sound, &places)?;
        } else if let Some(sound) = primary.whole().map(|(header, _)| header.clone())
            && backup.is_signed()
        {
            let array = sectors.sectors_for(sound.array_len());
            backup.find_array(sectors, &sound, &[backup_lba.0.saturating_sub(array)])?;
        }
        Ok(Self { primary, backup, backup_lba })
    }

    fn read_backup(sectors: &Sectors<'_>, lba: Lba) -> Result<Copy, Error> {
        if lba.0 > PRIMARY.0 {
            return Copy::read(sectors, lba);
        }
        let what = format!("a disk of {} sectors has no room for a backup GPT", sectors.count);
        Ok(Copy::damaged(Problem { offset: 0, what }))
    }

    /// Returns the copy to believe, the primary if it is whole.
    pub(super) fn best(&self) -> Option<(&Copy, &Header, &[u8])> {
        [&self.primary, &self.backup]
            .into_iter()
            .find_map(|copy| copy.whole().map(|(header, array)| (copy, header, array)))
    }

    /// Lists what is wrong with either copy, and where they contradict each other.
    pub(super) fn problems(&self, sectors: &Sectors<'_>) -> Vec<Problem> {
        let mut found: Vec<Problem> = Vec::new();
        for (copy, name) in [(&self.primary, "primary"), (&self.backup, "backup")] {
            if let Some(fault) = &copy.fault {
                found.push(Problem { offset: fault.offset, what: format!("{name} GPT: {}", fault.what) });
            }
        }
        let Some((_, header, _)) = self.best() else { return found };
        let mut say = |lba: Lba, what: String| found.push(Problem { offset: sectors.offset(lba), what });
        let here = Lba(header.my_lba);
        if header.revision != REVISION_1_0 {
            say(here, format!("GPT revision {:#010x}, expected {REVISION_1_0:#010x}", header.revision));
        }
        let last = sectors.count.saturating_sub(1);
        if self.backup_lba.0 != last || (header.my_lba == PRIMARY.0 && header.alternate_lba != last) {
            let told = if header.my_lba == PRIMARY.0 { header.alternate_lba } else { self.backup_lba.0 };
            say(here, format!("the backup GPT belongs at LBA {told}, the disk ends at LBA {last}"));
        }
        if header.last_usable_lba > last || header.first_usable_lba > header.last_usable_lba {
            let (first, end) = (header.first_usable_lba, header.last_usable_lba);
            say(here, format!("usable sectors are LBA {first} to {end}, the disk ends at LBA {last}"));
        }
        if let (Some(primary), Some(backup)) = (self.primary.whole(), self.backup.whole())
            && let Some(what) = contradiction(primary, backup)
        {
            say(self.backup_lba, format!("both copies of the GPT are sound, and differ: {what}; the primary was used"));
        }
        found
    }
}

/// Names the first thing two sound copies disagree in.
fn contradiction((one, entries): (&Header, &[u8]), (two, others): (&Header, &[u8])) -> Option<String> {
    let numbers = [
        ("LBA of the other header", one.alternate_lba, two.my_lba),
        ("LBA of the other header", one.my_lba, two.alternate_lba),
        ("first usable LBA", one.first_usable_lba, two.first_usable_lba),
        ("last usable LBA", one.last_usable_lba, two.last_usable_lba),
        ("number of entries", one.entry_count.into(), two.entry_count.into()),
        ("size of entries", one.entry_size.into(), two.entry_size.into()),
    ];
    if one.disk_guid != two.disk_guid {
        return Some(format!("disk GUID is {} and {}", one.disk_guid, two.disk_guid));
    }
    if let Some((name, a, b)) = numbers.into_iter().find(|(_, a, b)| a != b) {
        return Some(format!("{name} is {a} and {b}"));
    }
    let slot = entries.iter().zip(others).position(|(a, b)| a != b)?;
    let size = usize::try_from(one.entry_size).unwrap_or(usize::MAX);
    Some(format!("entry {}", slot.checked_div(size)?.saturating_add(1)))
}

/// Tells whether the disk carries a sound GPT for sectors of `size`, or at least its header.
///
/// # Errors
/// [`Error::Disk`] when the disk is gone.
pub(super) fn is_written_for(sectors: &Sectors<'_>, size: SectorSize) -> Result<Option<u64>, Error> {
    let other = sectors.with_size(size);
    if other.count <= 2 {
        return Ok(None);
    }
    let copies = Copies::find(&other)?;
    let sound = [(&copies.primary, PRIMARY), (&copies.backup, copies.backup_lba)];
    Ok(sound.into_iter().find(|(copy, _)| copy.header.is_some()).map(|(_, lba)| other.offset(lba)))
}

/// A used slot of the entry array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Slot + 1.
    pub(super) number: u32,
    pub(super) type_guid: Uuid,
    pub(super) guid: Uuid,
    pub(super) first_lba: u64,
    /// Inclusive.
    pub(super) last_lba: u64,
    pub(super) attributes: u64,
    pub(super) name: String,
}

/// Lists the used slots of an array, whose checksum held.
pub(super) fn entries(header: &Header, array: &[u8]) -> Vec<Entry> {
    let size = usize::try_from(header.entry_size).unwrap_or(usize::MAX).max(1);
    (1u32..).zip(array.chunks_exact(size)).filter_map(|(number, raw)| entry(number, raw).ok().flatten()).collect()
}

fn entry(number: u32, raw: &[u8]) -> Result<Option<Entry>, Truncated> {
    let raw = Fields(raw);
    let type_guid = Uuid::from_bytes_le(raw.array(0)?);
    if type_guid.is_nil() {
        return Ok(None);
    }
    Ok(Some(Entry {
        number,
        type_guid,
        guid: Uuid::from_bytes_le(raw.array(16)?),
        first_lba: raw.u64(32)?,
        last_lba: raw.u64(40)?,
        attributes: raw.u64(48)?,
        name: name(raw.slice(56, 72)?),
    }))
}

/// Reads a name up to its first NUL; halves of surrogate pairs become U+FFFD.
fn name(raw: &[u8]) -> String {
    let (units, _) = raw.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

//! Tables put together byte by byte, so that a test can ask for any of them.

use crc::{CRC_32_ISO_HDLC, Crc};

use super::*;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// A GPT to be built. What is not said is as the usual tools do it.
#[derive(Clone, Debug)]
pub(super) struct GptSpec {
    pub(super) size: SectorSize,
    pub(super) sectors: u64,
    pub(super) header_size: u32,
    pub(super) entry_size: u32,
    pub(super) count: u32,
    pub(super) array_lba: u64,
    /// Slot from 1, first LBA, last LBA.
    pub(super) partitions: Vec<(u32, u64, u64)>,
}

impl GptSpec {
    /// A disk of `sectors` with two partitions, in slots 1 and 4.
    pub(super) fn new(size: SectorSize, sectors: u64) -> Self {
        let partitions = vec![(1, 2048, 4095), (4, 4096, 6000)];
        Self { size, sectors, header_size: 92, entry_size: 128, count: 128, array_lba: 2, partitions }
    }

    pub(super) fn len(&self) -> u64 {
        self.sectors * self.size.bytes()
    }

    pub(super) fn last(&self) -> u64 {
        self.sectors - 1
    }

    pub(super) fn array_sectors(&self) -> u64 {
        (u64::from(self.entry_size) * u64::from(self.count)).div_ceil(self.size.bytes())
    }

    pub(super) fn backup_array(&self) -> u64 {
        self.last() - self.array_sectors()
    }

    pub(super) fn offset(&self, lba: u64) -> u64 {
        lba * self.size.bytes()
    }

    fn array(&self) -> Vec<u8> {
        let mut array = vec![0; (self.entry_size * self.count) as usize];
        for (slot, first, last) in &self.partitions {
            let at = ((slot - 1) * self.entry_size) as usize;
            array[at..at + 16].copy_from_slice(&LINUX);
            array[at + 16..at + 32].fill(*slot as u8);
            array[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            array[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
            let name: Vec<u8> = format!("part {slot}").encode_utf16().flat_map(u16::to_le_bytes).collect();
            array[at + 56..at + 56 + name.len()].copy_from_slice(&name);
            // What the specification does not define yet must survive as well.
            array[at + 128..at + self.entry_size as usize].fill(0xe0 | *slot as u8);
        }
        array
    }

    fn header(&self, my: u64, alternate: u64, array_lba: u64) -> Vec<u8> {
        let mut sector = vec![0; self.size.usize()];
        let first_usable = if self.array_lba == 2 { 2 + self.array_sectors() } else { 2048 };
        sector[..8].copy_from_slice(b"EFI PART");
        sector[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        sector[12..16].copy_from_slice(&self.header_size.to_le_bytes());
        for (at, value) in
            [(24, my), (32, alternate), (40, first_usable), (48, self.backup_array() - 1), (72, array_lba)]
        {
            sector[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        sector[56..72].fill(0xd1);
        sector[80..84].copy_from_slice(&self.count.to_le_bytes());
        sector[84..88].copy_from_slice(&self.entry_size.to_le_bytes());
        if self.header_size > 92 {
            sector[92..self.header_size as usize].fill(0x77);
        }
        sector
    }

    pub(super) fn build(&self) -> Sparse {
        let mut disk = Sparse::new(self.len());
        let protective = (1, u32::try_from(self.last()).unwrap_or(u32::MAX), 0xee);
        disk.put(0, &boot_record(self.size, 0, &[protective])).unwrap();
        for (my, alternate, array_lba) in [(1, self.last(), self.array_lba), (self.last(), 1, self.backup_array())] {
            disk.put(self.offset(array_lba), &self.array()).unwrap();
            disk.put(self.offset(my), &self.header(my, alternate, array_lba)).unwrap();
            seal(&mut disk, self.size, my);
        }
        disk
    }
}

/// Writes a little-endian number of `len` bytes.
pub(super) fn poke(disk: &mut Sparse, offset: u64, value: u64, len: usize) {
    disk.put(offset, &value.to_le_bytes()[..len]).unwrap();
}

/// Flips bits of one byte.
pub(super) fn flip(disk: &mut Sparse, offset: u64, mask: u8) {
    let byte = bytes_at(disk, offset, 1)[0] ^ mask;
    disk.put(offset, &[byte]).unwrap();
}

/// Makes both checksums of the header at `lba` right, as far as its numbers allow.
pub(super) fn seal(disk: &mut Sparse, size: SectorSize, lba: u64) {
    let at = lba * size.bytes();
    let sector = bytes_at(disk, at, size.usize());
    let number = |from: usize, len: usize| {
        let mut raw = [0; 8];
        raw[..len].copy_from_slice(&sector[from..from + len]);
        u64::from_le_bytes(raw)
    };
    let (array_lba, len) = (number(72, 8), number(80, 4).saturating_mul(number(84, 4)));
    let end = array_lba.checked_mul(size.bytes()).and_then(|start| start.checked_add(len));
    if end.is_some_and(|end| end <= disk.len()) && len <= 4 << 20 {
        let array = bytes_at(disk, array_lba * size.bytes(), len as usize);
        poke(disk, at + 88, CRC.checksum(&array).into(), 4);
    }
    let mut sector = bytes_at(disk, at, size.usize());
    sector[16..20].fill(0);
    let covered = (number(12, 4) as usize).min(sector.len());
    poke(disk, at + 16, CRC.checksum(&sector[..covered]).into(), 4);
}

/// A boot record with entries of (start, sectors, type); a type over 0xff carries the boot flag in its upper byte.
pub(super) fn boot_record(size: SectorSize, signature: u32, entries: &[(u32, u32, u16)]) -> Vec<u8> {
    let mut sector = vec![0; size.usize()];
    sector[440..444].copy_from_slice(&signature.to_le_bytes());
    for (slot, (start, len, kind)) in entries.iter().enumerate() {
        let at = 446 + slot * 16;
        let [kind, flag] = kind.to_le_bytes();
        (sector[at], sector[at + 4]) = (flag, kind);
        sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    }
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A boot record's place and entries, as [`boot_record`] takes them.
pub(super) type Record<'a> = (u64, &'a [(u32, u32, u16)]);

/// A disk with an MBR and EBRs: sector number and entries of each.
pub(super) fn mbr_disk(size: SectorSize, len: u64, records: &[Record<'_>]) -> Sparse {
    let mut disk = Sparse::new(len);
    for (lba, entries) in records {
        let signature = if *lba == 0 { 0x1234_abcd } else { 0 };
        disk.put(lba * size.bytes(), &boot_record(size, signature, entries)).unwrap();
    }
    disk
}

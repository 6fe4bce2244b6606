//! Small hand-built pieces of XFS for the tests of this folder.

use super::{
    Volume,
    superblock::{Geometry, Superblock},
};
use crate::{block::MemoryDisk, units::SectorSize};

/// Makes a version 4 superblock: four groups of 1000 blocks of 4 KiB, the last of 500, the log in the third.
pub fn sector() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let mut put = |at: usize, field: &[u8]| bytes[at..][..field.len()].copy_from_slice(field);
    put(0, b"XFSB");
    put(4, &4096u32.to_be_bytes());
    put(8, &3500u64.to_be_bytes());
    put(32, &[7; 16]);
    put(48, &(2u64 << 10 | 100).to_be_bytes());
    put(84, &1000u32.to_be_bytes());
    put(88, &4u32.to_be_bytes());
    put(96, &200u32.to_be_bytes());
    put(100, &0xb4a4u16.to_be_bytes());
    put(102, &[2, 0, 1, 0, 0, 16]);
    put(108, b"label");
    put(120, &[12, 9, 8, 4, 10]);
    put(200, &0xau32.to_be_bytes());
    bytes
}

/// The superblock in [`sector`] and its geometry.
pub fn parsed() -> (Superblock, Geometry) {
    let sb = Superblock::parse(&sector()).unwrap();
    let geometry = sb.geometry(3500 * 4096).unwrap();
    (sb, geometry)
}

/// Shows `disk` as the file system of [`sector`] to `test`.
pub fn with_volume<T>(bytes: Vec<u8>, test: impl FnOnce(&Volume<'_>) -> T) -> T {
    let (sb, geometry) = parsed();
    let disk = MemoryDisk::new(bytes, SectorSize::B512);
    test(&Volume { region: &disk, sb: &sb, geometry })
}

/// Writes a record into a ring of sectors, around its end where need be; returns the sector behind it.
///
/// * `operations`: transaction, flags, bytes.
pub fn record(ring: &mut [u8], at: usize, cycle: u32, tail: u64, operations: &[(u32, u8, &[u8])]) -> usize {
    let mut data = Vec::new();
    for (number, flags, bytes) in operations {
        data.extend(number.to_be_bytes());
        data.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        data.extend([0x69, *flags, 0, 0]);
        data.extend(*bytes);
    }
    data.resize(data.len().next_multiple_of(512), 0);
    let mut head = vec![0; 512];
    let mut put = |at: usize, field: &[u8]| head[at..][..field.len()].copy_from_slice(field);
    for (at, word) in [(0, 0xfeed_babe), (4, cycle), (8, 2), (12, u32::try_from(data.len()).unwrap()), (16, cycle)] {
        put(at, &word.to_be_bytes());
    }
    put(24, &tail.to_be_bytes());
    put(40, &u32::try_from(operations.len()).unwrap().to_be_bytes());
    put(300, &1u32.to_be_bytes());
    put(304, &[7; 16]);
    let sectors = ring.len() / 512;
    for (index, chunk) in data.chunks_mut(512).enumerate() {
        if index < 64 {
            put(44 + index * 4, &chunk[..4]);
        }
        let turned = u32::from(at + 1 + index >= sectors);
        chunk[..4].copy_from_slice(&(cycle + turned).to_be_bytes());
    }
    head.extend(data);
    for (index, sector) in head.chunks(512).enumerate() {
        ring[(at + index) % sectors * 512..][..512].copy_from_slice(sector);
    }
    (at + head.len() / 512) % sectors
}

/// The operation of a record that says "unmount".
pub const UNMOUNT: [(u32, u8, &[u8]); 1] = [(1, 0x20, b"nU\0\0\0\0\0\0")];

/// Writes a tree block of version 4: magic number, level, neighbours, what follows.
pub fn node(magic: &[u8; 4], level: u16, count: u16, beside: [u32; 2], body: &[u32]) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend(level.to_be_bytes());
    out.extend(count.to_be_bytes());
    beside.iter().chain(body).for_each(|word| out.extend(word.to_be_bytes()));
    out.resize(4096, 0);
    out
}

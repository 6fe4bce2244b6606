//! Committing an image takes the memory of its manifest and no more, however many chunks it has: a machine that captures a
//! large disk may have little. A test of its own, because the peak of a process is measured.
#![allow(clippy::unwrap_used)] // what tests share may unwrap as tests do

use std::{fs, path::Path};

use rescue::{
    block::{Identity, Transport},
    extent::{Extent, ExtentSet},
    store::{
        ChunkId, CreateOptions, Encoder, Manifest, Store,
        manifest::{ChunkRun, ImageState, RegionImage},
    },
    table::{Region, RegionKind, TableKind},
    units::SectorSize,
};

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 1 << 20;
const DISTINCT: u64 = 1 << 10;

/// The most memory this process had so far, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn manifest(ids: Vec<ChunkId>) -> Manifest {
    let len = ids.len() as u64 * CHUNK;
    let now = || "2026-01-01T00:00:00Z".to_owned();
    Manifest {
        version: 1,
        features: Vec::new(),
        id: String::new(),
        created: now(),
        finished: now(),
        state: ImageState::Complete,
        machine: None,
        note: None,
        program: "test".to_owned(),
        disk: Identity {
            path: "disk.raw".to_owned(),
            model: None,
            serial: None,
            wwn: None,
            transport: Transport::File,
            len,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B512,
        },
        table: TableKind::None,
        disk_id: None,
        pieces: Vec::new(),
        chunk_len: CHUNK,
        regions: vec![RegionImage {
            region: Region { kind: RegionKind::Whole, range: Extent::new(0, len) },
            partition: None,
            detected: None,
            allocated: ExtentSet::full(len),
            widened: Vec::new(),
            usage: None,
            left_out: Vec::new(),
            inside: Vec::new(),
            chunks: vec![ChunkRun::Data { first: 0, ids }],
        }],
        unreadable: ExtentSet::new(),
        stored_bytes: 0,
    }
}

#[test]
fn a_commit_takes_no_memory_for_each_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(Path::new(dir.path()), CreateOptions { chunk_len: CHUNK }).unwrap();
    let writer = store.writer().unwrap();
    let mut encoder = Encoder::new(1).unwrap();
    let mut distinct = Vec::new();
    for number in 1..=DISTINCT {
        let plain = number.to_le_bytes().repeat(512);
        let id = ChunkId::of(&plain);
        assert!(writer.claim(&id));
        writer.put(&encoder.encode(id, &plain, None).unwrap()).unwrap();
        distinct.push(id);
    }
    let mut ids = Vec::with_capacity(usize::try_from(CHUNKS).unwrap());
    // In no order, so that the manifest is not one that shrinks to nothing.
    ids.extend((0..CHUNKS).map(|n| distinct[usize::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54).unwrap()]));
    let image = manifest(ids);
    let before = peak();
    let made = writer.commit(image).unwrap();
    let grown = peak() - before;
    assert!(grown / CHUNKS < 24, "{grown} bytes, {} a chunk", grown / CHUNKS);
    assert_eq!(store.load(&made.id).unwrap(), made);
}

//! Writes the sample store that `docs/FORMAT.md` takes apart: `cargo run -p rescue --example store-sample -- FOLDER`.
//!
//! The disk is small enough to be read in a hex dump and has one of everything: a raw frame, zstd frames, a chunk twice,
//! a chunk of zeros, free space in the middle of a chunk, a short last chunk.

use std::{env, error::Error, path::Path};

use rescue::{
    block::{Identity, Transport},
    extent::{Extent, ExtentSet},
    fs::{Detected, State},
    store::{
        ChunkId, CreateOptions, Encoder, Manifest, Store,
        manifest::{ChunkRun, ImageState, RegionImage},
    },
    table::{Partition, PieceKind, Region, RegionKind, TableKind, TablePiece},
    units::SectorSize,
};

const CHUNK: u64 = 4096;
const LEN: usize = 37_376;

/// The disk as an image of it gives it back: free bytes are zero.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; LEN];
    for (at, byte) in disk[..4096].iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).expect("less than 251");
    }
    let mut state = 1u64;
    for byte in &mut disk[4096..8192] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    for (from, to) in [(8192, 12_288), (12_288, 16_384), (24_576, 25_600), (36_864, LEN)] {
        disk[from..to].iter_mut().zip(b"rescue ".iter().cycle()).for_each(|(byte, letter)| *byte = *letter);
    }
    disk
}

fn region(kind: RegionKind, range: Extent, allocated: &[(u64, u64)], runs: &[(u64, u64)], disk: &[u8]) -> RegionImage {
    let mut region = RegionImage {
        region: Region { kind, range },
        partition: None,
        detected: None,
        allocated: allocated.iter().map(|(start, end)| Extent::new(*start, *end)).collect(),
        widened: Vec::new(),
        usage: None,
        left_out: Vec::new(),
        inside: Vec::new(),
        chunks: Vec::new(),
    };
    for (first, end) in runs {
        let ids: Vec<ChunkId> = (*first..*end).map(|number| ChunkId::of(bytes(&region, number, disk))).collect();
        region.chunks.push(if ids.contains(&ChunkId::ZERO) {
            ChunkRun::Zero { first: *first, count: end - first }
        } else {
            ChunkRun::Data { first: *first, ids }
        });
    }
    region
}

fn bytes<'a>(region: &RegionImage, number: u64, disk: &'a [u8]) -> &'a [u8] {
    let inside = region.chunk_range(number, CHUNK);
    let place = |offset: u64| usize::try_from(region.region.range.start + offset).expect("a small disk");
    &disk[place(inside.start)..place(inside.end)]
}

fn manifest(disk: &[u8]) -> Manifest {
    let head = region(RegionKind::Head, Extent::new(0, 4096), &[(0, 4096)], &[(0, 1)], disk);
    let range = Extent::new(4096, 36_864);
    // Chunk 3 is allocated and zero; 4, 6 and 7 are free; of chunk 5 only the first 1024 bytes are allocated.
    let mut root =
        region(RegionKind::Partition(1), range, &[(0, 16_384), (20_480, 21_504)], &[(0, 3), (3, 4), (5, 6)], disk);
    root.partition = Some(Partition {
        number: 1,
        range,
        type_id: "0x83".to_owned(),
        type_name: Some("Linux".to_owned()),
        guid: None,
        name: None,
        attributes: 0,
    });
    root.detected = Some(Detected {
        name: "ext4".to_owned(),
        version: None,
        label: Some("root".to_owned()),
        uuid: Some("7ab3f5c0-13d5-4b3f-9c5e-0d8f9e6a1b2c".to_owned()),
        block_size: Some(1024),
        state: State::Clean,
    });
    let tail = region(RegionKind::Tail, Extent::new(36_864, 37_376), &[(0, 512)], &[(0, 1)], disk);
    Manifest {
        version: 1,
        features: Vec::new(),
        id: String::new(),
        created: "2026-11-23T12:00:00Z".to_owned(),
        finished: "2026-11-23T12:00:01Z".to_owned(),
        state: ImageState::Complete,
        machine: Some("sample".to_owned()),
        note: Some("the store in FORMAT.md".to_owned()),
        program: format!("rescue {}", env!("CARGO_PKG_VERSION")),
        disk: Identity {
            path: "disk.raw".to_owned(),
            model: None,
            serial: None,
            wwn: None,
            transport: Transport::File,
            len: disk.len() as u64,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B512,
        },
        table: TableKind::Mbr,
        disk_id: Some("0x1234abcd".to_owned()),
        pieces: vec![TablePiece { kind: PieceKind::Mbr, offset: 0, bytes: disk[..512].to_vec() }],
        chunk_len: CHUNK,
        regions: vec![head, root, tail],
        unreadable: ExtentSet::new(),
        stored_bytes: 0,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).ok_or("usage: store-sample FOLDER")?;
    let disk = disk();
    let store = Store::create(Path::new(&folder), CreateOptions { chunk_len: CHUNK })?;
    let writer = store.writer()?;
    let mut encoder = Encoder::new(3)?;
    let manifest = manifest(&disk);
    for region in &manifest.regions {
        for (number, id) in region.chunks().filter(|(_, id)| *id != ChunkId::ZERO) {
            if writer.claim(&id) {
                writer.put(&encoder.encode(id, bytes(region, number, &disk), None)?)?;
            }
        }
    }
    println!("{}", writer.commit(manifest)?.id);
    Ok(())
}

//! Small disks, and capture and restore of them as a job does it.

use std::sync::Arc;

use super::super::{
    backend::{Backend, MemoryBackend},
    manifest::{ChunkRun, ImageState, RegionImage},
    *,
};
use crate::{
    block::{Identity, Transport},
    extent::{Extent, ExtentSet},
    table::{PieceKind, Region, RegionKind, TableKind, TablePiece},
    units::SectorSize,
};

pub const CHUNK: u64 = 4096;
pub const LEN: usize = 4096;

pub struct Disk {
    pub machine: String,
    pub bytes: Vec<u8>,
    /// Regions: kind, bytes, and what of them is allocated, from the region's start.
    pub regions: Vec<(RegionKind, Extent, ExtentSet)>,
}

impl Disk {
    /// A disk of `chunks` chunks: a head of 2, a partition, a tail of half a chunk. Bytes outside the extents are zero,
    /// one chunk in three compresses well, one not at all, one in seven is zero.
    pub fn sample(seed: u64, chunks: usize) -> Self {
        let len = (chunks * LEN + LEN / 2) as u64;
        let (head, tail) = (2 * CHUNK, len - CHUNK / 2);
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        for (number, chunk) in bytes.chunks_mut(LEN).enumerate() {
            match number {
                n if n % 7 == 6 => {}
                n if n % 3 == 0 => chunk.fill(u8::try_from((n as u64 + seed * 61) % 251 + 1).unwrap()),
                n if n % 3 == 1 => noise.fill(chunk),
                _ => noise.fill(&mut chunk[..LEN / 4]),
            }
        }
        let inner = tail - head;
        let mut allocated = ExtentSet::full(inner);
        allocated.remove(Extent::new(inner / 2, inner / 2 + 3 * CHUNK + 512));
        for hole in allocated.complement(inner).iter() {
            let (from, to) = (usize::try_from(head + hole.start).unwrap(), usize::try_from(head + hole.end).unwrap());
            bytes[from..to].fill(0);
        }
        let regions = vec![
            (RegionKind::Head, Extent::new(0, head), ExtentSet::full(head)),
            (RegionKind::Partition(1), Extent::new(head, tail), allocated),
            (RegionKind::Tail, Extent::new(tail, len), ExtentSet::full(len - tail)),
        ];
        Self { machine: "host".to_owned(), bytes, regions }
    }

    /// The same disk some days later: in every other chunk that holds anything, a few bytes are others.
    pub fn changed(&self, seed: u64) -> Self {
        let mut bytes = self.bytes.clone();
        let mut noise = blake3::Hasher::new().update(b"changed").update(&seed.to_le_bytes()).finalize_xof();
        for chunk in bytes.chunks_mut(LEN).step_by(2).filter(|chunk| chunk.iter().any(|byte| *byte != 0)) {
            noise.fill(&mut chunk[40..80]);
        }
        let (machine, regions) = (self.machine.clone(), self.regions.clone());
        Self { machine, bytes, regions }
    }

    pub fn slice(&self, range: Extent) -> &[u8] {
        &self.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    /// The manifest of this disk, its chunks included.
    pub fn manifest(&self) -> Manifest {
        let regions = self.regions.iter().map(|(kind, range, allocated)| {
            let mut region = RegionImage {
                region: Region { kind: *kind, range: *range },
                partition: None,
                detected: None,
                allocated: allocated.clone(),
                widened: Vec::new(),
                usage: None,
                left_out: Vec::new(),
                inside: Vec::new(),
                chunks: Vec::new(),
            };
            for number in 0..range.len().div_ceil(CHUNK) {
                let inside = region.chunk_range(number, CHUNK);
                if allocated.within(inside).next().is_none() {
                    continue;
                }
                let id = ChunkId::of(self.slice(Extent::new(range.start + inside.start, range.start + inside.end)));
                match region.chunks.last_mut() {
                    Some(ChunkRun::Data { first, ids })
                        if id != ChunkId::ZERO && *first + ids.len() as u64 == number =>
                    {
                        ids.push(id);
                    }
                    Some(ChunkRun::Zero { first, count }) if id == ChunkId::ZERO && *first + *count == number => {
                        *count += 1;
                    }
                    _ if id == ChunkId::ZERO => region.chunks.push(ChunkRun::Zero { first: number, count: 1 }),
                    _ => region.chunks.push(ChunkRun::Data { first: number, ids: vec![id] }),
                }
            }
            region
        });
        Manifest {
            version: 1,
            features: Vec::new(),
            id: "00".repeat(16),
            created: jiff::Timestamp::now().to_string(),
            finished: jiff::Timestamp::now().to_string(),
            state: ImageState::Complete,
            machine: Some(self.machine.clone()),
            note: None,
            program: "test 1".to_owned(),
            disk: Identity {
                path: "disk.raw".to_owned(),
                model: Some("Model".to_owned()),
                serial: Some("S1".to_owned()),
                wwn: None,
                transport: Transport::File,
                len: self.bytes.len() as u64,
                sector_size: SectorSize::B512,
                physical_sector_size: SectorSize::B512,
            },
            table: TableKind::Mbr,
            disk_id: Some("0x1234abcd".to_owned()),
            pieces: vec![TablePiece { kind: PieceKind::Mbr, offset: 0, bytes: self.bytes[..512].to_vec() }],
            chunk_len: CHUNK,
            regions: regions.collect(),
            unreadable: ExtentSet::new(),
            stored_bytes: 0,
        }
    }

    /// The data chunks with their bytes, in disk order.
    pub fn chunks(&self) -> Vec<(ChunkId, Vec<u8>)> {
        let manifest = self.manifest();
        let chunks = manifest.regions.iter().flat_map(|region| {
            region.chunks().filter(|(_, id)| *id != ChunkId::ZERO).map(|(number, id)| {
                let (inside, start) = (region.chunk_range(number, CHUNK), region.region.range.start);
                (id, self.slice(Extent::new(start + inside.start, start + inside.end)).to_vec())
            })
        });
        chunks.collect()
    }
}

pub fn memory_store() -> Store {
    store_on(MemoryBackend::default())
}

pub fn store_on(backend: impl Backend + 'static) -> Store {
    Store::create_on(Arc::new(backend), CreateOptions { chunk_len: CHUNK }).unwrap()
}

pub fn reopen(backend: &MemoryBackend) -> Store {
    Store::open_on(Arc::new(backend.clone())).unwrap()
}

pub fn verify(store: &Store) -> Verified {
    store.verify(&|_, _| {}, &|| false).unwrap()
}

pub fn precheck(store: &Store, image: &Manifest) -> Vec<ImageDamage> {
    store.precheck_image(image, &|_, _| {}, &|| false).unwrap()
}

/// The names of the packs of a store in memory.
pub fn packs(backend: &MemoryBackend) -> Vec<String> {
    backend.names().into_iter().filter(|name| name.starts_with("packs/")).collect()
}

/// Stores the chunks of a disk and commits its image.
pub fn capture(store: &Store, disk: &Disk) -> Result<Manifest, Error> {
    let writer = store.writer()?;
    store_chunks(&writer, disk)?;
    writer.commit(disk.manifest())
}

pub fn store_chunks(writer: &Writer, disk: &Disk) -> Result<(), Error> {
    let mut encoder = Encoder::new(3)?;
    for (id, plain) in disk.chunks() {
        if writer.claim(&id) {
            writer.put(&encoder.encode(id, &plain, None)?)?;
        }
    }
    Ok(())
}

/// Stores the chunks of a disk as deltas to those of an earlier image of it where that is shorter, and commits its image.
pub fn capture_again(store: &Store, disk: &Disk, before: &Manifest) -> Result<Manifest, Error> {
    let writer = store.writer()?;
    let (mut encoder, mut reader, mut plain) = (Encoder::new(3)?, store.reader(), Vec::new());
    let manifest = disk.manifest();
    for (region, old) in manifest.regions.iter().zip(&before.regions) {
        let old: std::collections::HashMap<u64, ChunkId> = old.chunks().collect();
        for (number, id) in region.chunks().filter(|(_, id)| *id != ChunkId::ZERO) {
            if writer.claim(&id) {
                let like = old.get(&number).and_then(|like| writer.read_base(like, &mut reader, &mut plain));
                let like = like.map(|id| Base { id, plain: &plain });
                let (inside, start) = (region.chunk_range(number, CHUNK), region.region.range.start);
                let bytes = disk.slice(Extent::new(start + inside.start, start + inside.end));
                writer.put(&encoder.encode(id, bytes, like)?)?;
            }
        }
    }
    writer.commit(manifest)
}

/// Gives an image back as the bytes of its disk.
pub fn restore(store: &Store, image: &Manifest) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; usize::try_from(image.disk.len).unwrap()];
    let (mut reader, mut plain) = (store.reader(), Vec::new());
    for region in &image.regions {
        for (number, id) in region.chunks() {
            if id != ChunkId::ZERO {
                reader.read_chunk(&id, &mut plain)?;
                let at = usize::try_from(region.region.range.start + number * image.chunk_len).unwrap();
                out[at..at + plain.len()].copy_from_slice(&plain);
            }
        }
    }
    Ok(out)
}

//! A store's files as an enemy would write them: with the checksums right, so that what lies behind them is reached.

use std::{fs, path::Path, sync::Arc, sync::OnceLock};

use rescue::store::{
    FileId, Manifest, Store,
    backend::{Backend as _, MemoryBackend},
    index as index_file,
};
use xxhash_rust::xxh3::xxh3_64;

const STORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/store-v1");

/// The sample store, by file name.
fn sample() -> &'static [(String, Vec<u8>)] {
    static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut found = Vec::new();
        let mut todo = vec![Path::new(STORE).to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).expect("the sample store").map(|entry| entry.expect("a listing").path()) {
                if entry.is_dir() {
                    todo.push(entry);
                } else {
                    let name = entry.strip_prefix(STORE).expect("it is below").to_string_lossy().into_owned();
                    found.push((name, fs::read(entry).expect("the sample store reads")));
                }
            }
        }
        found
    })
}

/// Opens the sample store with one of its files replaced, and reads all there is.
fn open_with(folder: &str, bytes: Vec<u8>) {
    let backend = MemoryBackend::default();
    for (name, sample) in sample() {
        let bytes = if name.starts_with(folder) { bytes.clone() } else { sample.clone() };
        backend.put(name, &bytes).expect("memory takes it");
    }
    let Ok(store) = Store::open_on(Arc::new(backend)) else { return };
    let _ = store.verify(&|_, _| {}, &|| false);
    if let Ok(image) = store.load("latest") {
        let mut plain = Vec::new();
        for (_, id) in image.regions.iter().flat_map(|region| region.chunks().take(64)) {
            let _ = store.reader().read_chunk(&id, &mut plain);
        }
    }
}

/// The id in the name of the sample's file in `folder`.
fn id(folder: &str) -> FileId {
    let name = sample().iter().find(|(name, _)| name.starts_with(folder)).map(|(name, _)| name.as_str());
    let name = name.and_then(|name| name.rsplit('/').next()).and_then(|name| name.split('.').next());
    name.and_then(FileId::parse).expect("the sample store has one")
}

/// Reads an index file: `| flags, 1 | bytes |`; flag 1 puts the right checksum behind the bytes.
pub fn index(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 != 0 {
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
    }
    let store = sample().iter().find(|(name, _)| name == "rescue-store.json").map(|(_, bytes)| bytes.as_slice());
    let config: serde_json::Value = serde_json::from_slice(store.unwrap_or_default()).unwrap_or_default();
    let store = config["store"].as_str().and_then(FileId::parse).expect("the sample store has an id");
    let _ = index_file::parse(&bytes, store, id("index/"));
    open_with("index/", bytes);
}

/// Reads a pack: `| flags, 1 | bytes |`; flags 1, 2 and 4 set the checksums of header, frames and trailer right.
pub fn pack(data: &[u8]) {
    let Some((flags, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if flags & 1 != 0 {
        seal(&mut bytes, 0);
    }
    if flags & 2 != 0 {
        seal_frames(&mut bytes);
    }
    if flags & 4 != 0 {
        seal_trailer(&mut bytes);
    }
    open_with("packs/", bytes);
}

/// Sets the checksum of the 64-byte structure at `at`.
fn seal(bytes: &mut [u8], at: usize) {
    if let Some(part) = bytes.get_mut(at..at.saturating_add(64)) {
        let check = xxh3_64(&part[..56]);
        part[56..].copy_from_slice(&check.to_le_bytes());
    }
}

fn seal_frames(bytes: &mut [u8]) {
    let mut at = 64;
    while bytes.get(at..at + 4) == Some(b"RSfr") && at + 64 <= bytes.len() {
        let len = u32::from_le_bytes([bytes[at + 8], bytes[at + 9], bytes[at + 10], bytes[at + 11]]);
        let end = (at + 64).saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        if let Some(stored) = bytes.get(at + 64..end) {
            let check = xxh3_64(stored);
            bytes[at + 48..at + 56].copy_from_slice(&check.to_le_bytes());
        }
        seal(bytes, at);
        at = end;
    }
}

fn seal_trailer(bytes: &mut [u8]) {
    let Some(at) = bytes.len().checked_sub(64) else { return };
    let start: [u8; 8] = bytes[at + 8..at + 16].try_into().expect("eight bytes");
    let start = usize::try_from(u64::from_le_bytes(start)).unwrap_or(usize::MAX);
    if let Some(index) = bytes.get(start..at) {
        let check = xxh3_64(index);
        bytes[at + 48..at + 56].copy_from_slice(&check.to_le_bytes());
    }
    seal(bytes, at);
}

/// Reads a manifest's JSON, checks it, and writes it again.
///
/// # Panics
/// When what was written reads back as something else.
pub fn manifest(data: &[u8]) {
    let Ok(image) = serde_json::from_slice::<Manifest>(data) else { return };
    if image.validate(4096).is_ok() {
        let text = serde_json::to_vec(&image).expect("a manifest is plain data");
        let again: Manifest = serde_json::from_slice(&text).expect("what was written can be read");
        assert!(image == again, "a manifest changed on its way");
    }
}

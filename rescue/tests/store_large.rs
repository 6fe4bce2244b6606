//! A store of 4 TiB of distinct chunks costs the memory of its index: opened by a capture, it takes less than 512 MiB.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use nix::sys::resource::{UsageWho, getrusage};
use rescue::store::{
    ChunkId, CreateOptions, FileId, Store,
    frame::Kind,
    index::{self, PackListing},
    pack::{self, Entry},
};

const MIB: u64 = 1 << 20;
/// Chunks of 1 MiB in 4 TiB.
const CHUNKS: u64 = 4 << 20;
/// Frames in a pack, at half a chunk each.
const FRAMES: u64 = 120;
/// Packs in an index file.
const LISTED: u64 = 1024;

/// Lists pack `number` as an index would, full of chunks that nothing else has.
fn listing(number: u64) -> PackListing {
    let frames = FRAMES.min(CHUNKS - number * FRAMES);
    let mut offset = 64;
    let entries = (0..frames).map(|frame| {
        let id = *blake3::hash(&(number * FRAMES + frame).to_le_bytes()).as_bytes();
        let stored_len = 500_000;
        let entry = Entry { id: ChunkId(id), offset, stored_len, plain_len: 1 << 20, kind: Kind::Zstd, base: None };
        offset += 64 + stored_len;
        entry
    });
    let entries = entries.collect::<Vec<_>>();
    let len = u64::from(offset) + pack::ending_len(entries.len(), 0) as u64;
    PackListing { pack: file_id(number), len, entries }
}

fn file_id(number: u64) -> FileId {
    let mut id = [0; 16];
    // Spread over the folders, as random ids are.
    id[0] = u8::try_from(number % 256).unwrap();
    id[8..].copy_from_slice(&number.to_be_bytes());
    FileId(id)
}

/// Adds packs to a store as far as an opening looks at them: the files' lengths, and the index.
fn fill(store: &Path) {
    let id = Store::create(store, CreateOptions { chunk_len: MIB }).unwrap().id();
    let packs = CHUNKS.div_ceil(FRAMES);
    for first in (0..packs).step_by(usize::try_from(LISTED).unwrap()) {
        let listings = (first..packs.min(first + LISTED)).map(listing).collect::<Vec<_>>();
        for listing in &listings {
            let file = store.join(pack::path(listing.pack));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            File::create(file).unwrap().set_len(listing.len).unwrap();
        }
        let index = file_id(first);
        let file = store.join(index::path(index));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, index::to_bytes(id, index, &listings)).unwrap();
    }
}

#[test]
fn a_store_of_four_tebibytes_is_opened_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (store, disk) = (dir.path().join("store"), dir.path().join("disk"));
    fill(&store);
    fs::write(&disk, blake3::hash(b"disk").as_bytes().repeat(1 << 20)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rescue")).args(["capture", "--json"]).arg(&disk).arg(&store).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "COMPLETE");
    assert!(report["problems"].as_array().unwrap().is_empty(), "{report}");
    let peak = u64::try_from(getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss()).unwrap() << 10;
    println!("a capture into a store of 4 TiB of distinct chunks: {} MiB", peak / MIB);
    assert!(peak > CHUNKS * 48, "{} MiB: the index was not read", peak / MIB);
    assert!(peak < 512 * MIB, "{} MiB", peak / MIB);
}

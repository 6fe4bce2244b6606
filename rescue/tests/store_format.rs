//! `docs/FORMAT.md` against the sample store: a reader written from the page alone gives the disk back byte for byte, the
//! page's hex lines are what the files hold, and the library reads the store the same way.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test reader: what surprises it fails it")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use data_encoding::{BASE64, HEXLOWER};
use rescue::{
    fs::Usage,
    store::{Base, ChunkId, Encoder, Manifest, Store, manifest::ChunkRun},
};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1")
}

/// The disk in the sample store, as section 12 and `examples/store-sample.rs` describe it.
fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0..37_376u32).map(|at| if at < 4096 { (at % 251) as u8 } else { 0 }).collect();
    let mut state = 1u64;
    for byte in &mut disk[4096..8192] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    for (start, end) in [(8192, 12_288), (12_288, 16_384), (24_576, 25_600), (36_864, 37_376)] {
        (start..end).for_each(|at| disk[at] = b"rescue "[(at - start) % 7]);
    }
    disk
}

/// A reader of the format, written from the page. It checks what the page says a reader checks.
mod reader {
    use super::*;

    fn u16_at(bytes: &[u8], at: usize) -> u64 {
        u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
    }

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    fn id_of(path: &Path) -> Vec<u8> {
        let name = path.file_name().unwrap().to_str().unwrap();
        HEXLOWER.decode(name.split('.').next().unwrap().as_bytes()).unwrap()
    }

    /// Section 3.
    pub fn config(root: &Path) -> Value {
        let bytes = fs::read(root.join("rescue-store.json")).unwrap();
        let (body, tail) = bytes.split_at(bytes.len() - 78);
        assert_eq!(tail, format!("\"check\": \"{}\"\n}}\n", blake3::hash(body).to_hex()).as_bytes());
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&config["format"], &config["encryption"]), (&1.into(), &"none".into()));
        assert_eq!(config["features"], Value::Array(Vec::new()));
        config
    }

    /// Section 5: every chunk of every pack, by id.
    pub fn chunks(root: &Path, config: &Value) -> HashMap<Vec<u8>, Vec<u8>> {
        let (mut chunks, mut waiting) = (HashMap::new(), Vec::new());
        for folder in files(&root.join("packs")) {
            for file in files(&folder) {
                let pack = fs::read(&file).unwrap();
                let store = HEXLOWER.decode(config["store"].as_str().unwrap().as_bytes()).unwrap();
                assert_eq!(&pack[..8], b"RSPACK\r\n");
                let deltas_allowed = u32_at(&pack, 12) == 1;
                assert_eq!((u16_at(&pack, 8), u16_at(&pack, 10), u32_at(&pack, 12) & !1), (1, 64, 0));
                assert_eq!((&pack[16..32], &pack[32..48]), (&store[..], &id_of(&file)[..]));
                assert_eq!((u32_at(&pack, 48) as u64, u32_at(&pack, 52)), (config["chunk_len"].as_u64().unwrap(), 0));
                assert_eq!(u64_at(&pack, 56), xxh3_64(&pack[..56]));

                let trailer = &pack[pack.len() - 64..];
                assert_eq!(&trailer[..8], b"RSPTRAIL");
                assert_eq!(u64_at(trailer, 24), pack.len() as u64);
                assert_eq!(u64_at(trailer, 56), xxh3_64(&trailer[..56]));
                assert_eq!(trailer[32..48], id_of(&file)[..]);
                let (start, count, deltas) = (u64_at(trailer, 8) as usize, u32_at(trailer, 16), u32_at(trailer, 20));
                assert_eq!(start + 16 + 48 * count + 32 * deltas + 64, pack.len());
                assert!(deltas == 0 || deltas_allowed);
                let index = &pack[start..pack.len() - 64];
                assert_eq!(u64_at(trailer, 48), xxh3_64(index));
                assert_eq!((&index[..8], u32_at(index, 8), u32_at(index, 12)), (&b"RSPINDEX"[..], count, deltas));
                let (entries, bases) = index[16..].split_at(48 * count);
                let mut bases = bases.chunks(32);

                let mut at = 64;
                for entry in entries.chunks(48) {
                    let frame = &pack[at..];
                    assert_eq!((&frame[..4], &frame[5..8]), (&b"RSfr"[..], &[0; 3][..]));
                    assert_eq!(u64_at(frame, 56), xxh3_64(&frame[..56]));
                    let (kind, stored, plain) = (frame[4], u32_at(frame, 8), u32_at(frame, 12));
                    assert_eq!((&entry[..32], u32_at(entry, 32)), (&frame[16..48], at));
                    assert_eq!((u32_at(entry, 36), u32_at(entry, 40), entry[44]), (stored, plain, kind));
                    let bytes = &frame[64..64 + stored];
                    assert_eq!(u64_at(frame, 48), xxh3_64(bytes));
                    let chunk = match kind {
                        1 => bytes.to_vec(),
                        2 => zstd::decode_all(bytes).unwrap(),
                        3 => {
                            assert_eq!(bases.next().unwrap(), &bytes[..32]);
                            waiting.push((frame[16..48].to_vec(), bytes.to_vec(), plain));
                            at += 64 + stored;
                            continue;
                        }
                        other => panic!("frame kind {other} needs a newer program"),
                    };
                    assert_eq!(chunk.len(), plain);
                    assert_eq!(blake3::hash(&chunk).as_bytes()[..], frame[16..48]);
                    chunks.insert(frame[16..48].to_vec(), chunk);
                    at += 64 + stored;
                }
                assert_eq!((at, bases.next()), (start, None));
            }
        }
        for (id, bytes, plain) in waiting {
            let mut chunk = Vec::with_capacity(plain);
            {
                let mut zstd = zstd::zstd_safe::DCtx::create();
                zstd.ref_prefix(&chunks[&bytes[..32]]).unwrap();
                zstd.decompress(&mut chunk, &bytes[32..]).unwrap();
            }
            assert_eq!((chunk.len(), &blake3::hash(&chunk).as_bytes()[..]), (plain, &id[..]));
            chunks.insert(id, chunk);
        }
        chunks
    }

    /// Section 8.
    pub fn manifest(file: &Path) -> Value {
        let bytes = fs::read(file).unwrap();
        let (zstd_frame, footer) = bytes.split_at(bytes.len() - 80);
        assert_eq!(footer[..16], *b"\x5e\x2a\x4d\x18\x48\0\0\0RSIMAGE\n");
        assert_eq!((u32_at(footer, 24), u32_at(footer, 28)), (1, 0));
        assert_eq!(footer[32..48], id_of(file)[..]);
        assert_eq!(blake3::hash(&bytes[..bytes.len() - 32]).as_bytes()[..], footer[48..]);
        let json = zstd::decode_all(zstd_frame).unwrap();
        assert_eq!(json.len() as u64, u64_at(footer, 16));
        let manifest: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&manifest["version"], &manifest["features"]), (&1.into(), &Value::Array(Vec::new())));
        assert_eq!(HEXLOWER.decode(manifest["id"].as_str().unwrap().as_bytes()).unwrap(), id_of(file));
        manifest
    }

    /// Section 9: the ranges of `[skip, keep, skip, keep, …]`.
    fn extents(list: &Value) -> Vec<(usize, usize)> {
        let mut at = 0;
        let runs: Vec<usize> = list.as_array().unwrap().iter().map(|run| run.as_u64().unwrap() as usize).collect();
        runs.chunks(2)
            .map(|run| {
                at += run[0] + run[1];
                (at - run[1], at)
            })
            .collect()
    }

    /// Section 11, onto `disk`.
    pub fn restore(manifest: &Value, chunks: &HashMap<Vec<u8>, Vec<u8>>, disk: &mut [u8]) {
        let chunk_len = manifest["chunk_len"].as_u64().unwrap() as usize;
        for region in manifest["regions"].as_array().unwrap() {
            let start = region["range"]["start"].as_u64().unwrap() as usize;
            let len = region["range"]["end"].as_u64().unwrap() as usize - start;
            let mut plain = vec![None; len];
            for run in region["chunks"].as_array().unwrap() {
                let first = run["first"].as_u64().unwrap() as usize * chunk_len;
                if run["run"] == "zero" {
                    let end = first + run["count"].as_u64().unwrap() as usize * chunk_len;
                    plain[first..end.min(len)].fill(Some(0));
                    continue;
                }
                let ids = BASE64.decode(run["ids"].as_str().unwrap().as_bytes()).unwrap();
                for (number, id) in ids.chunks(32).enumerate() {
                    let (at, chunk) = (first + number * chunk_len, &chunks[id]);
                    assert_eq!(chunk.len(), chunk_len.min(len - at));
                    plain[at..at + chunk.len()].iter_mut().zip(chunk).for_each(|(place, byte)| *place = Some(*byte));
                }
            }
            for (from, to) in extents(&region["allocated"]) {
                (from..to).for_each(|at| disk[start + at] = plain[at].expect("every allocated byte lies in a chunk"));
            }
        }
    }
}

/// The file that a pattern of the page names.
fn image_file() -> PathBuf {
    fs::read_dir(root().join("images")).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_reader_written_from_the_page_restores_the_sample() {
    let config = reader::config(&root());
    let chunks = reader::chunks(&root(), &config);
    let manifest = reader::manifest(&image_file());
    assert_eq!(chunks.len(), 5);
    let mut target = vec![0xee; 37_376];
    reader::restore(&manifest, &chunks, &mut target);
    let mut want = disk();
    // What is free stays as it was on the target.
    want[20_480..24_576].fill(0xee);
    want[25_600..36_864].fill(0xee);
    assert!(target == want);
}

#[test]
fn the_library_reads_the_sample_the_same_way() {
    let store = Store::open(&root()).unwrap();
    assert_eq!(store.problems(), []);
    assert_eq!(store.chunk_len(), 4096);
    let image = store.load("latest").unwrap();
    let (mut reader, mut plain, mut back) = (store.reader(), Vec::new(), vec![0; 37_376]);
    for region in &image.regions {
        for (number, id) in region.chunks().filter(|(_, id)| *id != ChunkId::ZERO) {
            reader.read_chunk(&id, &mut plain).unwrap();
            let at = usize::try_from(region.region.range.start + number * image.chunk_len).unwrap();
            back[at..at + plain.len()].copy_from_slice(&plain);
        }
    }
    assert!(back == disk());
    // On a copy, because a checkout may be read by several at once.
    let dir = tempfile::tempdir().unwrap();
    copy(&root(), dir.path());
    let found = Store::open(dir.path()).unwrap().verify(&|_, _| {}, &|| false).unwrap();
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.packs, found.frames, found.images), (1, 5, 1));
}

#[test]
fn a_reader_written_from_the_page_restores_deltas() {
    let dir = tempfile::tempdir().unwrap();
    copy(&root(), dir.path());
    let store = Store::open(dir.path()).unwrap();
    let mut image = store.load("latest").unwrap();
    let old = image.id.clone();
    // Some bytes of the noise change.
    let mut want = disk();
    want[4096 + 1000..4096 + 1020].fill(7);
    let id = ChunkId::of(&want[4096..8192]);
    let Some(ChunkRun::Data { ids, .. }) = image.regions[1].chunks.first_mut() else { panic!("noise comes first") };
    let before = std::mem::replace(&mut ids[0], id);
    let (writer, mut plain) = (store.writer().unwrap(), Vec::new());
    let base = writer.read_base(&before, &mut store.reader(), &mut plain).unwrap();
    let base = Base { id: base, plain: &plain };
    let frame = Encoder::new(3).unwrap().encode(id, &want[4096..8192], Some(base)).unwrap();
    assert!(frame.len() < 64 + 32 + 80, "{}", frame.len());
    assert!(writer.claim(&id));
    writer.put(&frame).unwrap();
    let made = writer.commit(image).unwrap();

    let config = reader::config(dir.path());
    let chunks = reader::chunks(dir.path(), &config);
    let mut target = vec![0; 37_376];
    let files = [made.id, old].map(|id| dir.path().join(format!("images/{id}.json.zst")));
    reader::restore(&reader::manifest(&files[0]), &chunks, &mut target);
    assert!(target == want);
    reader::restore(&reader::manifest(&files[1]), &chunks, &mut target);
    assert!(target == disk());
}

#[test]
fn what_is_only_for_people_may_be_absent_or_unknown() {
    let mut json = reader::manifest(&image_file());
    let read = |json: &Value| serde_json::from_value::<Manifest>(json.clone()).unwrap();
    let old = read(&json);
    assert!(old.regions.iter().all(|region| region.usage.is_none() && region.left_out.is_empty()));
    assert_eq!(serde_json::to_value(&old).unwrap(), json, "nothing is written where there is nothing to say");

    let region = &mut json["regions"][0];
    region["usage"] = json!({ "used": 4096, "free": 512 });
    region["left_out"] = json!([{ "path": "pagefile.sys", "bytes": 4096 }]);
    region["inside"] = json!([{ "name": "vg/root", "bytes": 8192, "detected": null, "kept": 4096 }]);
    let new = read(&json);
    assert_eq!(new.regions[0].usage, Some(Usage { used: 4096, free: 512 }));
    assert_eq!((&new.regions[0].left_out[0].path[..], new.regions[0].inside[0].kept), ("pagefile.sys", 4096));
    assert_eq!(serde_json::to_value(&new).unwrap(), json);
    json["regions"][0]["not-yet-invented"] = json!([1]);
    assert_eq!(read(&json), new);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}

#[test]
fn the_hex_in_the_page_is_what_the_files_hold() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md")).unwrap();
    let config = fs::read_to_string(root().join("rescue-store.json")).unwrap();
    assert!(page.contains(&format!("```json\n{config}```")), "section 3 shows the sample's own file");
    let (mut lines, mut file) = (0, None);
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(fence) => file = fence.strip_prefix("hex ").map(|name| fs::read(root().join(name)).unwrap()),
            None => {
                let Some(bytes) = &file else { continue };
                let mut fields = line.splitn(2, "  ");
                let at = usize::from_str_radix(fields.next().unwrap(), 16).unwrap();
                let hex = fields.next().unwrap().trim_start().split("   ").next().unwrap().trim().replace(' ', "");
                let said = HEXLOWER.decode(hex.as_bytes()).unwrap();
                assert_eq!(bytes[at..at + said.len()], said, "{line}");
                lines += 1;
            }
        }
    }
    assert!(lines > 40, "{lines}");
}

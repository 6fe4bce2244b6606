//! Several writers, in one process and side by side.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{support::*, *};

#[test]
fn a_chunk_is_claimed_once_however_many_ask() {
    let store = memory_store();
    let writer = store.writer().unwrap();
    let disk = Disk::sample(1, 60);
    let chunks = disk.chunks();
    let (claims, start) = (AtomicUsize::new(0), Barrier::new(4));
    let (send, receive) = std::sync::mpsc::sync_channel(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            let (send, writer, chunks, claims, start) = (send.clone(), &writer, &chunks, &claims, &start);
            scope.spawn(move || {
                let mut encoder = Encoder::new(1).unwrap();
                start.wait();
                for (id, plain) in chunks {
                    if writer.claim(id) {
                        claims.fetch_add(1, Ordering::Relaxed);
                        send.send(encoder.encode(*id, plain, None).unwrap()).unwrap();
                    }
                }
            });
        }
        drop(send);
        receive.iter().for_each(|frame| writer.put(&frame).unwrap());
    });
    let mut ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(claims.load(Ordering::Relaxed), ids.len());
    assert!(!writer.claim(&ids[0]) && !writer.claim(&ChunkId::ZERO));
    let image = writer.commit(disk.manifest()).unwrap();
    assert_eq!(store.shelf().len(), ids.len());
    assert!(!writer.claim(&ids[0]), "known now");
    assert_eq!(restore(&store, &image).unwrap(), disk.bytes);
}

#[test]
fn two_processes_may_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path(), CreateOptions { chunk_len: CHUNK }).unwrap();
    let disks = [Disk::sample(1, 40), Disk::sample(1, 40), Disk::sample(2, 40)];
    let start = Barrier::new(disks.len());
    let images: Vec<Vec<Manifest>> = thread::scope(|scope| {
        let runs = disks.each_ref().map(|disk| {
            let (start, root) = (&start, dir.path());
            scope.spawn(move || {
                start.wait();
                (0..5).map(|_| capture(&Store::open(root).unwrap(), disk).unwrap()).collect()
            })
        });
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.problems(), []);
    assert_eq!(store.images().unwrap().len(), 15);
    for (disk, images) in disks.iter().zip(&images) {
        assert!(images.iter().all(|image| restore(&store, image).unwrap() == disk.bytes));
        assert!(images[1..].iter().all(|image| image.stored_bytes == 0), "the second run finds the first");
    }
    assert!(verify(&store).is_sound());
}

#[test]
fn packs_end_before_64_mib_and_long_captures_begin_new_ones() {
    let backend = backend::MemoryBackend::default();
    let options = CreateOptions { chunk_len: 1 << 20 };
    let store = Store::create_on(std::sync::Arc::new(backend.clone()), options).unwrap();
    let writer = store.writer().unwrap();
    let mut encoder = Encoder::new(1).unwrap();
    let mut plain = vec![0; 1 << 20];
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut ids = Vec::new();
    for _ in 0..130 {
        noise.fill(&mut plain);
        let id = ChunkId::of(&plain);
        assert!(writer.claim(&id));
        writer.put(&encoder.encode(id, &plain, None).unwrap()).unwrap();
        ids.push(id);
    }
    assert!(ids.iter().all(|id| !writer.claim(id)), "whether their pack is open, being synced or finished");
    drop(writer);
    let lens: Vec<u64> = packs(&backend).iter().map(|name| backend.get(name).unwrap().len() as u64).collect();
    assert_eq!(lens.len(), 3);
    assert!(lens.iter().all(|len| *len <= pack::MAX_LEN), "{lens:?}");
    assert_eq!(lens.iter().filter(|len| **len > 62 << 20).count(), 2, "{lens:?}");
    let (store, mut back) = (reopen(&backend), Vec::new());
    ids.iter().for_each(|id| store.reader().read_chunk(id, &mut back).unwrap());
    let found = verify(&store);
    assert!(found.is_sound());
    assert_eq!((found.packs, found.frames), (3, 130));
    let cancelled = store.verify(&|_, _| {}, &|| true);
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn an_image_that_no_reader_would_take_is_refused_before_it_is_written() {
    let backend = backend::MemoryBackend::default();
    let store = store_on(backend.clone());
    let disk = Disk::sample(1, 9);
    let writer = store.writer().unwrap();
    store_chunks(&writer, &disk).unwrap();
    let mut image = disk.manifest();
    // Each of these bytes takes six in JSON.
    image.note = Some("\u{1}".repeat((1 << 30) / 6));
    let error = writer.commit(image).unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let text = error.to_string();
    let (start, end) = ("the image has more chunks than one image can have: its manifest would have 10737", "longer");
    assert!(
        text.starts_with(start) && text.contains("no such file has more than 1073741824") && text.contains(end),
        "{text}"
    );
    assert!(!backend.names().iter().any(|name| name.starts_with("images/")));
}

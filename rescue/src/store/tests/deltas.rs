//! Chunks stored as deltas: small, never further than one step from a whole chunk, and worth no more trust than their base.

use super::{super::backend::MemoryBackend, support::*, *};
use crate::store::{frame::Kind, pack::Entry};

/// A store with an image and one of the same disk with changes.
fn sample() -> (MemoryBackend, [Disk; 2], [Manifest; 2]) {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    let changed = disk.changed(1);
    let store = store_on(backend.clone());
    let first = capture(&store, &disk).unwrap();
    let second = capture_again(&store, &changed, &first).unwrap();
    (backend, [disk, changed], [first, second])
}

fn entries(backend: &MemoryBackend) -> Vec<(String, Entry)> {
    let packs = packs(backend).into_iter();
    let all = packs.flat_map(|name| {
        let id = pack::from_path(&name).unwrap();
        let entries = pack::read_entries(backend, id, backend.get(&name).unwrap().len() as u64).unwrap();
        entries.into_iter().map(move |entry| (name.clone(), entry))
    });
    all.collect()
}

fn deltas(backend: &MemoryBackend) -> Vec<Entry> {
    entries(backend).into_iter().map(|(_, entry)| entry).filter(|entry| entry.kind == Kind::Delta).collect()
}

/// Flips a bit in the last stored byte of a chunk's frame.
fn damage(backend: &MemoryBackend, chunk: ChunkId) {
    let (name, entry) = entries(backend).into_iter().find(|(_, entry)| entry.id == chunk).unwrap();
    let mut bytes = backend.get(&name).unwrap();
    bytes[usize::try_from(entry.range().end).unwrap() - 1] ^= 1;
    backend.set(&name, bytes);
}

fn check_all(backend: &MemoryBackend, disks: &[Disk], images: &[Manifest]) {
    let store = reopen(backend);
    assert!(verify(&store).is_sound());
    for (disk, image) in disks.iter().zip(images) {
        assert_eq!(precheck(&store, image), []);
        assert_eq!(restore(&store, image).unwrap(), disk.bytes);
        assert!(store.verify_image(&image.id, &|_, _| {}, &|| false).unwrap().is_sound());
    }
}

#[test]
fn what_changed_a_little_costs_little_and_comes_back() {
    let (backend, disks, images) = sample();
    let found = deltas(&backend);
    let changed = images[1].regions.iter().zip(&images[0].regions);
    let changed = changed.flat_map(|(new, old)| new.chunks().zip(old.chunks())).filter(|(new, old)| new != old).count();
    assert!(changed > 5 && found.len() + 3 >= changed, "{} deltas for {changed} changed chunks", found.len());
    // 40 bytes of noise each, their place, and the name of the base.
    assert!(images[1].stored_bytes < 256 * changed as u64, "{} for {changed}", images[1].stored_bytes);
    check_all(&backend, &disks, &images);
    // Without any index file the packs say the same of themselves.
    let bare = backend.fork();
    bare.names().iter().filter(|name| name.starts_with("index/")).for_each(|name| bare.unset(name));
    check_all(&bare, &disks, &images);
}

#[test]
fn a_base_is_never_a_delta() {
    let (backend, [disk, changed], [first, mut before]) = sample();
    let (mut disks, mut images) = (vec![disk, changed], vec![first, before.clone()]);
    for seed in 2..6 {
        let next = disks[0].changed(seed);
        before = capture_again(&reopen(&backend), &next, &before).unwrap();
        disks.push(next);
        images.push(before.clone());
    }
    let (all, deltas) = (entries(&backend), deltas(&backend));
    assert!(deltas.len() > 30, "{}", deltas.len());
    for delta in deltas {
        let base = all.iter().find(|(_, entry)| Some(entry.id) == delta.base).unwrap();
        assert_ne!(base.1.kind, Kind::Delta);
    }
    check_all(&backend, &disks, &images);
}

#[test]
fn what_changed_all_over_is_stored_whole() {
    let backend = MemoryBackend::default();
    let store = store_on(backend.clone());
    let image = capture(&store, &Disk::sample(1, 20)).unwrap();
    let other = Disk::sample(2, 20);
    capture_again(&store, &other, &image).unwrap();
    let noise = entries(&backend).into_iter().filter(|(_, entry)| entry.kind == Kind::Raw).count();
    assert!(noise >= 12, "{noise}");
    assert!(!entries(&backend).iter().any(|(_, entry)| entry.kind == Kind::Delta && entry.stored_len > 3500));
}

#[test]
fn damage_of_a_base_is_damage_of_its_deltas() {
    let (backend, disks, images) = sample();
    let delta = deltas(&backend)[0];
    damage(&backend, delta.base.unwrap());
    let store = reopen(&backend);
    let refused = precheck(&store, &images[1]);
    assert_eq!(refused.iter().map(|damage| damage.chunk).collect::<Vec<_>>(), [delta.id]);
    let base = delta.base.unwrap();
    let said = refused[0].to_string();
    assert!(said.contains(&format!("it is a delta to chunk {base}: its bytes have XXH3")), "{said}");
    let error = restore(&reopen(&backend), &images[1]).unwrap_err();
    assert!(matches!(error, Error::Chunk { chunk, fault: fault::Fault::Base { .. }, .. } if chunk == delta.id));

    let found = verify(&reopen(&backend));
    assert_eq!(found.image_damage.len(), 2, "one chunk of either image: {found:?}");
    // Both are stored anew by the next captures, and all images are whole again.
    let store = reopen(&backend);
    for disk in &disks {
        let image = capture(&store, disk).unwrap();
        assert_eq!(restore(&store, &image).unwrap(), disk.bytes);
    }
    for (disk, image) in disks.iter().zip(&images) {
        assert_eq!(restore(&reopen(&backend), image).unwrap(), disk.bytes);
    }
}

#[test]
fn a_lost_pack_takes_its_deltas_with_it() {
    let (backend, disks, images) = sample();
    let delta = deltas(&backend)[0];
    let (pack, _) = entries(&backend).into_iter().find(|(_, entry)| Some(entry.id) == delta.base).unwrap();
    backend.unset(&pack);
    let store = reopen(&backend);
    assert!(!precheck(&store, &images[1]).is_empty());
    // A capture does not rely on what is left of it.
    let again = capture(&store, &disks[1]).unwrap();
    assert_eq!(restore(&reopen(&backend), &again).unwrap(), disks[1].bytes);
}

#[test]
fn a_bit_flipped_anywhere_in_a_pack_of_deltas_is_found_and_never_believed() {
    let (backend, disks, images) = sample();
    let (name, _) = entries(&backend).into_iter().find(|(_, entry)| entry.kind == Kind::Delta).unwrap();
    let bytes = backend.get(&name).unwrap();
    for at in 0..bytes.len() {
        let flipped = backend.fork();
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        flipped.set(&name, bytes);
        let store = reopen(&flipped);
        if let Ok(restored) = restore(&store, &images[1]) {
            assert!(restored == disks[1].bytes, "byte {at:#x}: wrong data");
        }
        assert!(!precheck(&store, &images[1]).is_empty(), "byte {at:#x}: a restore must refuse");
        assert!(!verify(&store).is_sound(), "byte {at:#x}: not found");
        assert_eq!(
            restore(&store, &images[0]).unwrap(),
            disks[0].bytes,
            "byte {at:#x}: the first image needs no delta"
        );
    }
}

//! Every byte of every file of a small store, flipped: a verify finds it, and nothing wrong is ever given back.

use super::{super::backend::MemoryBackend, support::*, *};

fn sample() -> (MemoryBackend, Disk, Manifest) {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 5);
    let store = store_on(backend.clone());
    let image = capture(&store, &disk).unwrap();
    store.save_undo("disk.raw", &[(0, b"old head")]).unwrap();
    (backend, disk, image)
}

fn flip(backend: &MemoryBackend, name: &str, at: usize, bit: usize) -> MemoryBackend {
    let flipped = backend.fork();
    let mut bytes = backend.get(name).unwrap();
    bytes[at] ^= 1 << bit;
    flipped.set(name, bytes);
    flipped
}

#[test]
fn a_bit_flipped_anywhere_is_found_and_never_believed() {
    let (backend, disk, image) = sample();
    let mut flips = 0;
    for name in backend.names() {
        for at in 0..backend.get(&name).unwrap().len() {
            let place = format!("byte {at:#x} of {name}");
            let flipped = flip(&backend, &name, at, at % 8);
            flips += 1;
            let store = match Store::open_on(std::sync::Arc::new(flipped)) {
                Ok(store) => store,
                Err(error) => panic!("{place}: the store must open: {error}"),
            };
            if let Ok(loaded) = store.load(&image.id) {
                assert_eq!(loaded, image, "{place}");
                if let Ok(bytes) = restore(&store, &loaded) {
                    assert!(bytes == disk.bytes, "{place}: wrong data");
                }
                if name.starts_with("packs/") {
                    assert!(!precheck(&store, &loaded).is_empty(), "{place}: a restore must refuse");
                }
            } else {
                assert!(name.starts_with("images/"), "{place}");
            }
            let found = verify(&store);
            assert!(!found.is_sound(), "{place}: not found");
            if name.starts_with("packs/") {
                assert!(found.image_damage.iter().all(|damage| damage.image == image.id), "{place}");
                assert!(!found.image_damage.is_empty(), "{place}");
                let hit = |damage: &PackDamage| damage.range.contains(at as u64);
                assert!(found.damage.iter().any(hit), "{place}: {:?}", found.damage);
            }
        }
    }
    assert!(flips > 8_000, "{flips}");
}

#[test]
fn every_bit_of_a_frame_header_and_of_a_trailer_counts() {
    let (backend, _, image) = sample();
    let name = packs(&backend).remove(0);
    let len = backend.get(&name).unwrap().len();
    let places = (0..pack::HEADER_LEN + frame::HEADER_LEN).chain(len - pack::TRAILER_LEN - pack::ENTRY_LEN..len);
    for at in places {
        for bit in 0..8 {
            let store = reopen(&flip(&backend, &name, at, bit));
            assert!(!precheck(&store, &image).is_empty(), "bit {bit} of byte {at:#x}");
        }
    }
}

#[test]
fn a_pack_that_is_longer_or_shorter_is_found() {
    let (backend, _, image) = sample();
    let name = packs(&backend).remove(0);
    let whole = backend.get(&name).unwrap();
    for len in [0, 1, 63, 64, 65, 200, whole.len() - 1, whole.len() + 1, whole.len() + 64] {
        let left = backend.fork();
        let mut bytes = whole.clone();
        bytes.resize(len, 0);
        left.set(&name, bytes);
        let store = reopen(&left);
        assert!(!store.problems().is_empty(), "{len}");
        assert!(!verify(&store).is_sound(), "{len}");
        assert!(!precheck(&store, &image).is_empty(), "{len}");
    }
}

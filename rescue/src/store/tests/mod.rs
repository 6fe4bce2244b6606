//! The store as a whole, on a folder and in memory.

mod crash;
mod damage;
mod deltas;
mod flips;
mod hostile;
mod look;
mod support;
mod writers;

use std::fs;

use support::*;

use super::*;

#[test]
fn a_disk_comes_back_from_a_folder_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/store");
    let disk = Disk::sample(1, 40);
    let store = Store::create(&root, CreateOptions { chunk_len: CHUNK }).unwrap();
    let made = capture(&store, &disk).unwrap();
    drop(store);

    let store = Store::open(&root).unwrap();
    assert_eq!(store.problems(), []);
    assert_eq!(store.load("latest").unwrap(), made);
    assert_eq!(store.load(&made.id[..6]).unwrap(), made);
    assert_eq!(restore(&store, &made).unwrap(), disk.bytes);
    let found = store.verify(&|_, _| {}, &|| false).unwrap();
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.packs, found.images), (1, 1));
    assert_eq!(store.precheck_image(&made, &|_, _| {}, &|| false).unwrap(), []);
    let names: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with('.')), "{names:?}");
    assert_eq!(fs::read_dir(root.join("locks")).unwrap().count(), 0, "the writer's lock is gone");
}

#[test]
fn images_of_several_machines_share_chunks() {
    let store = memory_store();
    let first = Disk::sample(1, 40);
    let mut second = Disk::sample(1, 40);
    second.machine = "other".to_owned();
    second.bytes[5 * LEN + 7] ^= 1;
    let one = capture(&store, &first).unwrap();
    let two = capture(&store, &second).unwrap();
    assert!(one.stored_bytes > 10 * CHUNK, "{}", one.stored_bytes);
    assert!(two.stored_bytes < 2 * CHUNK, "one changed chunk took {}", two.stored_bytes);
    let again = capture(&store, &first).unwrap();
    assert_eq!(again.stored_bytes, 0);
    for (image, disk) in [(&one, &first), (&two, &second), (&again, &first)] {
        assert_eq!(restore(&store, image).unwrap(), disk.bytes);
    }
    let listed = store.images().unwrap();
    assert_eq!(listed.len(), 3);
}

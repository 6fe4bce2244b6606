//! What is damaged is found, named, gone round where there is another copy, and stored anew by the next capture.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use super::{
    super::backend::{Backend, Fault, FaultyBackend, MemoryBackend},
    support::*,
    *,
};
use crate::{extent::Extent, store::manifest::ChunkRun, table::RegionKind};

/// Flips one bit in the stored bytes of the `number`th frame of the only pack; returns its chunk.
fn damage_frame(backend: &MemoryBackend, number: usize) -> ChunkId {
    let name = packs(backend).remove(0);
    let mut bytes = backend.get(&name).unwrap();
    let id = pack::from_path(&name).unwrap();
    let entry = pack::read_entries(backend, id, bytes.len() as u64).unwrap()[number];
    bytes[usize::try_from(entry.range().end).unwrap() - 1] ^= 0x10;
    backend.set(&name, bytes);
    entry.id
}

#[test]
fn a_flipped_bit_is_named_by_image_region_and_byte_range_and_stored_anew() {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    let image = capture(&store_on(backend.clone()), &disk).unwrap();
    let chunk = damage_frame(&backend, 3);
    let number = disk.chunks().iter().position(|(id, _)| *id == chunk).unwrap() as u64;
    assert_eq!(number, 3, "frames lie in the order they were put");

    let store = reopen(&backend);
    assert_eq!(store.problems(), [], "an opening reads no frame");
    let refused = precheck(&store, &image);
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].region, refused[0].chunk), (RegionKind::Partition(1), chunk));
    assert_eq!(refused[0].range, Extent::new(3 * CHUNK, 4 * CHUNK));
    let text = refused[0].to_string();
    let start = format!("image {}, partition 1, bytes 0x3000 to 0x4000 of the disk: chunk {chunk} in pack ", image.id);
    assert!(text.starts_with(&start), "{text}");

    let store = reopen(&backend);
    let error = restore(&store, &image).unwrap_err();
    assert!(matches!(&error, Error::Chunk { chunk: bad, fault: fault::Fault::Stored { .. }, .. } if *bad == chunk));

    let store = reopen(&backend);
    let found = verify(&store);
    assert_eq!((found.damage.len(), found.image_damage.len(), found.problems.len()), (1, 1, 0), "{found:?}");
    assert_eq!(found.damage[0].chunks, [chunk]);
    assert_eq!(found.image_damage[0].range, Extent::new(3 * CHUNK, 4 * CHUNK));

    // The record outlives the process, and makes the next capture store the chunk again: then both images are whole.
    let store = reopen(&backend);
    let again = capture(&store, &disk).unwrap();
    assert!((1..2 * CHUNK).contains(&again.stored_bytes), "{}", again.stored_bytes);
    let store = reopen(&backend);
    for image in [&image, &again] {
        assert_eq!(precheck(&store, image), []);
        assert_eq!(restore(&store, image).unwrap(), disk.bytes);
    }
    let found = verify(&store);
    assert_eq!((found.damage.len(), found.image_damage.len()), (1, 0), "the pack is still damaged, no image is");
    assert!(store.verify_image(&image.id, &|_, _| {}, &|| false).unwrap().is_sound());
}

#[test]
fn a_capture_that_saw_no_record_still_reads_round_the_damage() {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    let store = store_on(backend.clone());
    let image = capture(&store, &disk).unwrap();
    // The same chunks once more in a pack of another machine that began before the first had finished.
    let (twin, left) = (backend.fork(), backend.clone());
    packs(&twin).iter().for_each(|name| twin.unset(name));
    twin.names().iter().filter(|name| name.starts_with("index/")).for_each(|name| twin.unset(name));
    capture(&reopen(&twin), &disk).unwrap();
    packs(&twin).iter().for_each(|name| left.set(name, twin.get(name).unwrap()));
    let chunk = damage_frame(&left, 2);
    let store = reopen(&left);
    assert_eq!(precheck(&store, &image), []);
    assert_eq!(restore(&reopen(&left), &image).unwrap(), disk.bytes);
    assert!(reopen(&left).verify_image("latest", &|_, _| {}, &|| false).unwrap().image_damage.is_empty());
    let mut plain = Vec::new();
    store.reader().read_chunk(&chunk, &mut plain).unwrap();
    store.reader().check_frame(&chunk).unwrap();
}

#[test]
fn every_copy_of_a_chunk_is_tried_before_it_is_given_up() {
    // Two packs with the same chunks: the second was stored while the first was known as damaged.
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    capture(&store_on(backend.clone()), &disk).unwrap();
    let (first, good) = (packs(&backend).remove(0), backend.fork());
    let spoil = |backend: &MemoryBackend, name: &str, at: usize| {
        let mut bytes = backend.get(name).unwrap();
        bytes[at] ^= 1;
        backend.set(name, bytes);
    };
    spoil(&backend, &first, 9);
    assert!(!verify(&reopen(&backend)).is_sound());
    let image = capture(&reopen(&backend), &disk).unwrap();
    let second = packs(&backend).into_iter().find(|name| *name != first).unwrap();
    assert_eq!(precheck(&reopen(&backend), &image), []);

    // Now the second is damaged, and the first is mended though still on record: a full check finds that out.
    let frame_end = pack::HEADER_LEN + frame::HEADER_LEN + 10;
    spoil(&backend, &second, frame_end);
    backend.set(&first, good.get(&first).unwrap());
    assert!(!precheck(&reopen(&backend), &image).is_empty());
    assert_eq!(restore(&reopen(&backend), &image).unwrap(), disk.bytes);
    let found = reopen(&backend).verify_image(&image.id, &|_, _| {}, &|| false).unwrap();
    assert_eq!((found.damage.len(), found.image_damage.len()), (1, 0), "{found:?}");
    assert_eq!(precheck(&reopen(&backend), &image), []);
    // And with both damaged, nothing wrong is given back.
    spoil(&backend, &first, frame_end);
    assert!(restore(&reopen(&backend), &image).is_err());
    assert_eq!(precheck(&reopen(&backend), &image).len(), 1);
}

#[test]
fn a_read_that_fails_once_is_tried_again() {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 8);
    let image = capture(&store_on(backend.clone()), &disk).unwrap();
    let opening = {
        let faulty = Arc::new(FaultyBackend::new(backend.clone(), Fault::ReadOnce(u64::MAX)));
        Store::open_on(faulty.clone()).unwrap();
        faulty.reads()
    };
    for read in opening..opening + 5 {
        let faulty = FaultyBackend::new(backend.clone(), Fault::ReadOnce(read));
        let store = Store::open_on(Arc::new(faulty)).unwrap();
        assert_eq!(restore(&store, &image).unwrap(), disk.bytes, "{read}");
    }
}

#[test]
fn damage_that_is_mended_is_forgotten_by_the_next_verify() {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    let image = capture(&store_on(backend.clone()), &disk).unwrap();
    let good = backend.fork();
    damage_frame(&backend, 0);
    assert!(!verify(&reopen(&backend)).is_sound());
    packs(&good).iter().for_each(|name| backend.set(name, good.get(name).unwrap()));
    assert_eq!(precheck(&reopen(&backend), &image).len(), 1, "a scrub proves less than the verify that complained");
    assert!(verify(&reopen(&backend)).is_sound());
    assert_eq!(backend.names(), good.names(), "the record is gone");
    assert_eq!(precheck(&reopen(&backend), &image), []);
}

#[test]
fn a_store_without_any_index_is_the_same_store() {
    let backend = MemoryBackend::default();
    let disks = [Disk::sample(1, 20), Disk::sample(2, 20)];
    let images = disks.each_ref().map(|disk| capture(&reopen_or_new(&backend), disk).unwrap());
    let frames = reopen(&backend).shelf().len();
    let indexes: Vec<_> = backend.names().into_iter().filter(|name| name.starts_with("index/")).collect();
    assert_eq!(indexes.len(), 2);
    for (name, spoil) in [("lost", None), ("cut short", Some(7)), ("empty", Some(0))] {
        let left = backend.fork();
        for file in &indexes {
            left.unset(file);
            if let Some(len) = spoil {
                left.set(file, backend.get(file).unwrap()[..len].to_vec());
            }
        }
        let store = reopen(&left);
        assert_eq!(store.shelf().len(), frames, "{name}");
        assert_eq!(store.problems().len(), if spoil.is_some() { 2 } else { 0 }, "{name}");
        assert_eq!(restore(&store, &images[0]).unwrap(), disks[0].bytes, "{name}");
        // A writer lists the packs again, and keeps the damaged files aside.
        assert_eq!(capture(&store, &disks[1]).unwrap().stored_bytes, 0, "{name}");
        let store = reopen(&left);
        assert_eq!(store.problems(), [], "{name}");
        assert!(verify(&store).is_sound(), "{name}");
        assert_eq!(store.shelf().len(), frames, "{name}");
        assert_eq!(left.names().iter().filter(|name| name.starts_with("index/")).count(), 1, "{name}");
    }
}

/// A store whose config and index are damaged, with a record of damage, and what the config was.
fn in_need_of_repair() -> (MemoryBackend, Disk, Vec<u8>) {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    capture(&store_on(backend.clone()), &disk).unwrap();
    damage_frame(&backend, 3);
    verify(&reopen(&backend));
    let config = backend.get(CONFIG).unwrap();
    for name in backend.names().iter().filter(|name| *name == CONFIG || name.starts_with("index/")) {
        let bytes = backend.get(name).unwrap();
        backend.set(name, bytes[..bytes.len() - 1].to_vec());
    }
    (backend, disk, config)
}

#[test]
fn two_writers_may_repair_the_same_store() {
    let (backend, disk, config) = in_need_of_repair();
    let damaged = backend.get(CONFIG).unwrap();
    let stores = [reopen(&backend), reopen(&backend)];
    let writers = stores.each_ref().map(|store| store.writer().unwrap());
    assert_eq!(backend.get(CONFIG).unwrap(), config);
    assert_eq!(backend.get(&format!("damaged/{CONFIG}.was")).unwrap(), damaged, "the second keeps what the first kept");
    drop(writers);
    assert_eq!(reopen(&backend).problems(), []);
    stores.iter().for_each(|store| assert_eq!(restore(store, &capture(store, &disk).unwrap()).unwrap(), disk.bytes));
}

#[test]
fn a_file_that_another_writer_removes_first_is_removed() {
    let (backend, disk, _) = in_need_of_repair();
    for at in 0.. {
        let left = backend.fork();
        let faulty = Arc::new(FaultyBackend::new(left.clone(), Fault::Gone(at)));
        let store = Store::open_on(faulty.clone()).unwrap();
        let image = capture(&store, &disk).unwrap();
        let found = verify(&store);
        assert_eq!(found.problems, [], "{at}");
        assert_eq!(restore(&reopen(&left), &image).unwrap(), disk.bytes, "{at}");
        if faulty.operations() <= at {
            return;
        }
    }
}

fn reopen_or_new(backend: &MemoryBackend) -> Store {
    if backend.names().is_empty() { store_on(backend.clone()) } else { reopen(backend) }
}

#[test]
fn a_pack_cut_short_or_missing_is_seen_at_once_and_costs_only_itself() {
    let backend = MemoryBackend::default();
    let disks = [Disk::sample(1, 20), Disk::sample(2, 20)];
    let images = disks.each_ref().map(|disk| capture(&reopen_or_new(&backend), disk).unwrap());
    let name = {
        let store = reopen(&backend);
        let first = disks[0].chunks()[0].0;
        let shelf = store.shelf();
        pack::path(shelf.pack(shelf.places(&first)[0].pack).unwrap().id)
    };
    let whole = backend.get(&name).unwrap();
    for (case, keep) in
        [("missing", None), ("empty", Some(0)), ("half", Some(whole.len() / 2)), ("all but one", Some(whole.len() - 1))]
    {
        for indexed in [true, false] {
            let left = backend.fork();
            left.unset(&name);
            if let Some(keep) = keep {
                left.set(&name, whole[..keep].to_vec());
            }
            if !indexed {
                left.names().iter().filter(|name| name.starts_with("index/")).for_each(|name| left.unset(name));
            }
            let store = reopen(&left);
            assert_eq!(store.problems().is_empty(), case == "missing" && !indexed, "{case}: {:?}", store.problems());
            assert!(!precheck(&store, &images[0]).is_empty(), "{case}");
            assert_eq!(restore(&store, &images[1]).unwrap(), disks[1].bytes, "{case}");
            assert!(!verify(&store).is_sound(), "{case}");
            let again = capture(&reopen(&left), &disks[0]).unwrap();
            let store = reopen(&left);
            assert_eq!(restore(&store, &again).unwrap(), disks[0].bytes, "{case}");
            assert_eq!(precheck(&store, &images[0]), [], "{case}: the old image is whole again as well");
        }
    }
}

#[test]
fn a_lost_config_is_taken_from_the_packs() {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 20);
    let image = capture(&store_on(backend.clone()), &disk).unwrap();
    let config = backend.get(CONFIG).unwrap();
    for (name, bytes) in [("lost", None), ("empty", Some(Vec::new())), ("cut short", Some(config[..40].to_vec()))] {
        let left = backend.fork();
        left.unset(CONFIG);
        if let Some(bytes) = bytes {
            left.set(CONFIG, bytes);
        }
        let store = reopen(&left);
        assert_eq!(store.problems().len(), 1, "{name}");
        assert_eq!(restore(&store, &image).unwrap(), disk.bytes, "{name}");
        capture(&store, &disk).unwrap();
        assert_eq!(left.get(CONFIG).unwrap(), config, "{name}: written again");
        assert_eq!(reopen(&left).problems(), [], "{name}");
    }
}

#[test]
fn a_commit_never_names_a_chunk_that_is_not_there() {
    let backend = MemoryBackend::default();
    let store = store_on(backend.clone());
    let disk = Disk::sample(1, 21);
    let writer = store.writer().unwrap();
    let error = writer.commit(disk.manifest()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    assert!(matches!(writer.commit(disk.manifest()), Err(Error::Refused(_))), "after a failure nothing is written");

    capture(&store, &disk).unwrap();
    let writer = store.writer().unwrap();
    packs(&backend).iter().for_each(|name| backend.unset(name));
    assert!(matches!(writer.commit(disk.manifest()), Err(Error::Missing { .. })), "packs are looked for once more");

    let mut wrong = disk.manifest();
    if let ChunkRun::Data { ids, .. } = &mut wrong.regions[2].chunks[0] {
        ids[0] = disk.chunks()[0].0;
    }
    let writer = reopen_or_new(&MemoryBackend::default()).writer().unwrap();
    store_chunks(&writer, &disk).unwrap();
    let error = writer.commit(wrong).unwrap_err().to_string();
    assert!(error.ends_with("has 4096 bytes, its place on the disk 2048"), "{error}");
}

#[test]
fn a_frame_is_proved_before_it_is_stored() {
    let mut encoder = Encoder::new(3).unwrap();
    let mut noise = vec![0; LEN];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let text = b"the same again ".repeat(200);
    for (name, plain, kind) in [("noise", &noise, frame::Kind::Raw), ("text", &text, frame::Kind::Zstd)] {
        let frame = encoder.encode(ChunkId::of(plain), plain, None).unwrap();
        assert_eq!(frame.header.kind, kind, "{name}");
        let mut back = Vec::new();
        Decoder::new().decode(&frame.header, &frame.bytes[frame::HEADER_LEN..], None, &mut back).unwrap();
        assert_eq!(back, *plain, "{name}");

        // A bit that flipped in memory after the chunk was hashed.
        let mut flipped = plain.clone();
        flipped[100] ^= 4;
        let error = encoder.encode(ChunkId::of(plain), &flipped, None).unwrap_err();
        assert!(matches!(error, Error::Memory { fault: fault::Fault::Hash { .. }, .. }), "{name}: {error}");
    }
    assert!(encoder.encode(ChunkId::ZERO, &[0; 512], None).is_err(), "the zero chunk has no frame");
    assert!(Encoder::new(0).is_err() && Encoder::new(20).is_err());
}

#[test]
fn undo_files_come_back_as_they_were() {
    let backend = MemoryBackend::default();
    let store = store_on(backend.clone());
    let id = store.save_undo("/dev/vda", &[(0, b"head"), (1 << 40, b"tail")]).unwrap();
    let undo = store.load_undo(id).unwrap();
    assert_eq!(undo.disk, "/dev/vda");
    assert_eq!(undo.pieces[1], undo::Piece { offset: 1 << 40, bytes: b"tail".to_vec() });
    let name = format!("undo/{id}.json.zst");
    let mut bytes = backend.get(&name).unwrap();
    bytes[20] ^= 1;
    backend.set(&name, bytes);
    assert!(matches!(store.load_undo(id), Err(Error::Corrupt { .. })));
    assert_eq!(verify(&store).problems.len(), 1);
}

#[test]
fn folders_that_are_not_stores_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = CreateOptions { chunk_len: CHUNK };
    assert!(matches!(Store::open(dir.path()), Err(Error::NotAStore { .. })));
    assert!(matches!(Store::open(&dir.path().join("none")), Err(Error::NotAStore { .. })));
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    let error = Store::open_or_create(dir.path()).err().unwrap().to_string();
    assert!(error.ends_with("is not empty and not a store: it holds \"letter.txt\""), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let stick = dir.path().join("stick");
    fs::create_dir_all(stick.join("lost+found")).unwrap();
    Store::create(&stick, options).unwrap();
    assert!(matches!(Store::create(&stick, options), Err(Error::Refused(_))));
    assert_eq!(Store::open_or_create(&stick).unwrap().chunk_len(), CHUNK);
    for chunk_len in [0, 4095, 12288, 64 << 20, u64::MAX] {
        let refused = Store::create(&dir.path().join("x"), CreateOptions { chunk_len });
        assert!(matches!(refused, Err(Error::Refused(_))), "{chunk_len}");
    }
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::sample(1, 20);
    let root = dir.path().join("store");
    let image = capture(&Store::create(&root, CreateOptions { chunk_len: CHUNK }).unwrap(), &disk).unwrap();
    let chmod = |mode| fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
    let before = fs::read_dir(&root).unwrap().count();
    chmod(0o555);
    let store = Store::open(&root).unwrap();
    assert_eq!(restore(&store, &image).unwrap(), disk.bytes);
    assert!(verify(&store).is_sound());
    chmod(0o755);
    assert_eq!(fs::read_dir(&root).unwrap().count(), before);
}

#[test]
fn images_are_found_by_the_first_digits_of_their_ids() {
    let backend = MemoryBackend::default();
    let store = store_on(backend.clone());
    assert!(matches!(store.load("latest"), Err(Error::NoImage { .. })));
    let ids: Vec<_> = (0..17).map(|_| capture(&store, &Disk::sample(1, 4)).unwrap().id).collect();
    assert_eq!(store.load("latest").unwrap().id, ids[16]);
    let digit = "0123456789abcdef".chars().find(|c| ids.iter().filter(|id| id.starts_with(*c)).count() > 1).unwrap();
    let Err(Error::Ambiguous { matches, .. }) = store.load(&digit.to_string()) else { panic!("17 images, 16 digits") };
    assert!(matches.len() > 1 && matches.iter().all(|id| id.starts_with(digit)));
    assert_eq!(store.load(&ids[3].to_uppercase()).unwrap().id, ids[3]);
    for wanted in ["", "x", "../../etc/passwd", &format!("{}0", ids[3])] {
        assert!(matches!(store.load(wanted), Err(Error::NoImage { .. })), "{wanted}");
    }
    let name = images::path_of(&ids[16]);
    backend.set(&name, b"rubbish".to_vec());
    let listed = store.images().unwrap();
    assert!(matches!(&listed[16], Listed::Damaged { file, .. } if *file == name));
    assert_eq!(store.load("latest").unwrap().id, ids[15]);
}

#[test]
fn what_a_newer_program_wrote_is_refused_by_name() {
    let config = |change: fn(&mut config::Config)| {
        let backend = MemoryBackend::default();
        drop(store_on(backend.clone()));
        let mut config = config::Config::parse(&backend.get(CONFIG).unwrap()).unwrap();
        change(&mut config);
        backend.put(CONFIG, &config.to_bytes()).unwrap();
        Store::open_on(Arc::new(backend)).err().unwrap().to_string()
    };
    let all = "rescue-store.json needs";
    let end = ", which this program does not know: use a newer one";
    assert_eq!(config(|c| c.format = 2), format!("{all} format version 2{end}"));
    assert_eq!(config(|c| c.features.push("delta".into())), format!("{all} feature \"delta\"{end}"));
    assert_eq!(config(|c| c.encryption = "xchacha".into()), format!("{all} encryption \"xchacha\"{end}"));

    let header =
        pack::Header { store: FileId([1; 16]), pack: FileId([2; 16]), chunk_len: 4096, deltas: false }.to_bytes();
    for (name, at, value, want) in [
        ("version", 8, 2, "format version 2 with features 0x0"),
        ("feature", 12, 8, "format version 1 with features 0x8"),
    ] {
        let mut bytes = header.clone();
        bytes[at] = value;
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        let flaw = pack::Header::parse(&bytes).unwrap_err();
        assert!(flaw.unsupported && flaw.what.contains(want), "{name}: {flaw}");
    }
    for (kind, want) in [(4, "kind 4 (encrypted)"), (9, "kind 9")] {
        let fault = frame::Kind::from_code(kind).unwrap_err().to_string();
        assert_eq!(fault, format!("it is of {want}{end}"));
    }
}

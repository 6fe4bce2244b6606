//! Stopped at any write, cut short, lied to, or out of space: earlier images stay whole, and the next run succeeds.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    super::backend::{Fault, FaultyBackend, FolderBackend},
    support::*,
    *,
};
use crate::store::backend::MemoryBackend;

/// A store with one image, and the disk it is of.
fn with_one_image() -> (MemoryBackend, Disk, Manifest) {
    let backend = MemoryBackend::default();
    let disk = Disk::sample(1, 12);
    let image = capture(&store_on(backend.clone()), &disk).unwrap();
    (backend, disk, image)
}

/// Opens what a failed run left, checks that the first image is whole, and that the same capture now succeeds.
fn assert_recovers(name: &str, backend: &MemoryBackend, first: (&Disk, &Manifest), next: &Disk, acknowledged: bool) {
    let store = reopen(backend);
    let images = store.images().unwrap();
    assert!(images.iter().all(|listed| matches!(listed, Listed::Image(_))) || !acknowledged, "{name}: {images:?}");
    assert_eq!(store.load(&first.1.id).unwrap(), *first.1, "{name}");
    assert_eq!(restore(&store, first.1).unwrap(), first.0.bytes, "{name}");
    for listed in &images {
        if let Listed::Image(image) = listed {
            let image = store.load(&image.id).unwrap();
            let want = if image.id == first.1.id { &first.0.bytes } else { &next.bytes };
            assert_eq!(restore(&store, &image).unwrap(), *want, "{name}: an image that exists has all its chunks");
        }
    }
    let again = capture(&store, next).unwrap_or_else(|e| panic!("{name}: the next run failed: {e}"));
    let store = reopen(backend);
    assert_eq!(restore(&store, &again).unwrap(), next.bytes, "{name}");
    assert_eq!(precheck(&store, &again), [], "{name}");
}

#[test]
fn stopped_at_any_operation_earlier_images_are_whole_and_the_next_run_succeeds() {
    let (backend, disk, image) = with_one_image();
    let next = Disk::sample(2, 12);
    for stop in 0.. {
        let left = backend.fork();
        let faulty = Arc::new(FaultyBackend::new(left.clone(), Fault::Stop(stop)));
        let result = Store::open_on(faulty.clone()).and_then(|store| capture(&store, &next));
        assert_recovers(&format!("stop at {stop}"), &left, (&disk, &image), &next, true);
        if result.is_ok() {
            assert!(stop > 10, "a capture takes more than {stop} operations");
            return;
        }
        assert_eq!(reopen(&left).images().unwrap().len(), 2, "{stop}: one made before, one by the next run");
    }
}

#[test]
fn an_operation_that_fails_once_fails_the_run_and_nothing_else() {
    let (backend, disk, image) = with_one_image();
    let next = Disk::sample(2, 12);
    for at in 0.. {
        let left = backend.fork();
        let faulty = Arc::new(FaultyBackend::new(left.clone(), Fault::Once(at)));
        let result = Store::open_on(faulty.clone()).and_then(|store| capture(&store, &next));
        assert_recovers(&format!("fail at {at}"), &left, (&disk, &image), &next, true);
        if result.is_ok() && faulty.operations() <= at {
            return;
        }
    }
}

#[test]
fn storage_that_keeps_less_than_it_took_gives_no_image() {
    let (backend, disk, image) = with_one_image();
    let next = Disk::sample(2, 12);
    for (fault, name) in [(Fault::Cut as fn(u64) -> Fault, "cut"), (Fault::Lose, "lose")] {
        for at in 0.. {
            let left = backend.fork();
            let faulty = Arc::new(FaultyBackend::new(left.clone(), fault(at)));
            let result = Store::open_on(faulty.clone()).and_then(|store| capture(&store, &next));
            if faulty.operations() <= at {
                assert!(result.is_ok());
                break;
            }
            if let Ok(made) = &result {
                // A lie about an index file costs nothing: it follows from the packs.
                assert_eq!(restore(&reopen(&left), made).unwrap(), next.bytes, "{name} {at}");
            }
            assert_recovers(&format!("{name} at {at}"), &left, (&disk, &image), &next, false);
        }
    }
}

#[test]
fn an_image_that_was_not_acknowledged_is_not_there() {
    let (backend, disk, image) = with_one_image();
    let next = Disk::sample(2, 12);
    for at in 0.. {
        let left = backend.fork();
        let faulty = Arc::new(FaultyBackend::new(left.clone(), Fault::Late(at)));
        let result = Store::open_on(faulty.clone()).and_then(|store| capture(&store, &next));
        assert_eq!(reopen(&left).images().unwrap().len(), if result.is_ok() { 2 } else { 1 }, "late at {at}");
        assert_recovers(&format!("late at {at}"), &left, (&disk, &image), &next, true);
        if faulty.operations() <= at {
            return;
        }
    }
}

#[test]
fn a_full_disk_is_told_with_both_numbers_and_the_store_stays_usable() {
    let (backend, disk, image) = with_one_image();
    let next = Disk::sample(2, 12);
    let mut told = 0;
    for room in (0..).step_by(97) {
        let left = backend.fork();
        let faulty = Arc::new(FaultyBackend::new(left.clone(), Fault::Full(room)));
        let result = Store::open_on(faulty).and_then(|store| capture(&store, &next));
        assert_recovers(&format!("room for {room}"), &left, (&disk, &image), &next, true);
        match result {
            Ok(_) => break,
            Err(Error::NoSpace { needed, free: Some(free), .. }) => {
                assert!(needed > free, "{needed} needed, {free} free");
                told += 1;
            }
            Err(other) => panic!("room for {room}: {other}"),
        }
    }
    assert!(told > 100, "{told}");
}

#[test]
fn what_a_failed_run_stored_is_used_by_the_next() {
    let backend = MemoryBackend::default();
    let store = store_on(backend.clone());
    let disk = Disk::sample(3, 30);
    let writer = store.writer().unwrap();
    store_chunks(&writer, &disk).unwrap();
    drop(writer);
    assert_eq!(reopen(&backend).images().unwrap().len(), 0);

    // Killed between pack and index, the pack itself is asked.
    let killed = backend.fork();
    killed.names().iter().filter(|name| name.starts_with("index/")).for_each(|name| killed.unset(name));
    for left in [backend, killed] {
        let store = reopen(&left);
        assert_eq!(store.problems(), []);
        assert_eq!(capture(&store, &disk).unwrap().stored_bytes, 0);
        assert!(left.names().iter().any(|name| name.starts_with("index/")), "the writer lists what it found");
    }
}

const CHILD: &str = "RESCUE_TEST_KILLED_STORE";

/// Captures one disk after the other until killed.
fn capture_for_ever(root: &Path) -> ! {
    for seed in u64::from(std::process::id()) << 20.. {
        let store = Store::open(root).unwrap();
        capture(&store, &Disk::sample(seed, 60)).unwrap();
    }
    unreachable!()
}

#[test]
fn killed_twenty_times_at_random_moments_every_image_is_whole() {
    if let Some(root) = env::var_os(CHILD) {
        capture_for_ever(Path::new(&root));
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::sample(1, 60);
    let first = {
        let store = Store::create(dir.path(), CreateOptions { chunk_len: CHUNK }).unwrap();
        capture(&store, &disk).unwrap()
    };
    let name = "store::tests::crash::killed_twenty_times_at_random_moments_every_image_is_whole";
    for run in 0..20u64 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Once the child writes, an odd while more.
        let limit = Instant::now() + Duration::from_secs(60);
        while fs::read_dir(dir.path().join("locks")).unwrap().count() == 0 {
            assert!(Instant::now() < limit, "the child never began to write");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(run * run * 331 % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.problems(), [], "run {run}");
        for listed in store.images().unwrap() {
            let Listed::Image(image) = listed else { panic!("run {run}: {listed:?}") };
            assert_eq!(precheck(&store, &store.load(&image.id).unwrap()), [], "run {run}");
        }
        // Its lock is free, so whoever writes next clears what it left.
        let backend = FolderBackend::new(dir.path()).unwrap();
        super::super::backend::Backend::lock(&backend).unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(restore(&store, &first).unwrap(), disk.bytes);
    let last = capture(&store, &Disk::sample(2, 60)).unwrap();
    assert_eq!(restore(&store, &last).unwrap(), Disk::sample(2, 60).bytes);
    assert!(verify(&store).is_sound());
    let left: Vec<_> = walk(dir.path()).into_iter().filter(|name| name.contains(".tmp-")).collect();
    assert_eq!(left, Vec::<String>::new());
}

fn walk(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path) } else { vec![path.display().to_string()] }
        })
        .collect()
}

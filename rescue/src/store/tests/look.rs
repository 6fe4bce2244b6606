//! What a path is before anything is written there.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    thread,
};

use super::{support::*, *};

/// Says what a look finds, or why it refuses, and checks that nothing changed.
fn look(path: &Path, top: &Path) -> Result<&'static str, String> {
    let before = tree(top);
    let found = match Store::look(path) {
        Ok(Look::Store(_)) => Ok("store"),
        Ok(Look::Creatable) => Ok("creatable"),
        Err(error) => Err(error::told(&error).replace(&top.display().to_string(), "TOP")),
    };
    assert_eq!(tree(top), before, "a look writes nothing");
    found
}

fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            out.extend(tree(&entry.path()));
        }
        out.push(entry.path());
    }
    out.sort();
    out
}

#[test]
fn a_look_tells_stores_from_places_for_one_and_from_everything_else() {
    let temp = tempfile::tempdir().unwrap();
    let top = temp.path();
    let id = "00112233445566778899aabbccddeeff";
    let options = CreateOptions { chunk_len: CHUNK };
    let made = Store::create(&top.join("store"), options).unwrap();
    capture(&made, &Disk::sample(1, 9)).unwrap();
    drop(made);
    for file in [
        "file".to_owned(),
        "photos/2019.jpg".to_owned(),
        "side/2019.jpg".to_owned(),
        "album/images/2019.jpg".to_owned(),
        "scratch/.tmp-notes".to_owned(),
        "deep/packs/aa/bb/file".to_owned(),
        "stick/lost+found/1".to_owned(),
        format!("begun/locks/{id}.lock"),
        format!("begun/.tmp-{id}-rescue-store.json"),
    ] {
        fs::create_dir_all(top.join(&file).parent().unwrap()).unwrap();
        fs::write(top.join(file), "").unwrap();
    }
    fs::create_dir_all(top.join("begun/packs/aa")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    symlink("nowhere", top.join("link")).unwrap();
    symlink("store", top.join("other")).unwrap();
    let newer = config::Config { format: 2, ..config::Config::new(FileId([1; 16]), options).unwrap() };
    fs::create_dir(top.join("newer")).unwrap();
    fs::write(top.join("newer").join(CONFIG), newer.to_bytes()).unwrap();

    let foreign =
        |path: &str, found: &str| Err(format!("TOP/{path} is not empty and not a store: it holds \"{found}\""));
    let cases = [
        ("store", Ok("store")),
        ("other", Ok("store")),
        ("empty", Ok("creatable")),
        ("stick", Ok("creatable")),
        ("begun", Ok("creatable")),
        ("new", Ok("creatable")),
        ("side/new/store", Ok("creatable")),
        ("photos", foreign("photos", "2019.jpg")),
        ("album", foreign("album", "images/2019.jpg")),
        ("scratch", foreign("scratch", ".tmp-notes")),
        ("deep", foreign("deep", "packs/aa/bb")),
        ("file", Err("TOP/file is not a folder".to_owned())),
        ("file/new/store", Err("TOP/file is not a folder".to_owned())),
        ("link", Err("TOP/link is a link to something that is not there".to_owned())),
        (
            "newer",
            Err("rescue-store.json needs format version 2, which this program does not know: use a newer one"
                .to_owned()),
        ),
    ];
    for (path, want) in cases {
        assert_eq!(look(&top.join(path), top), want, "{path}");
        // Who then goes on to make one comes to the same end.
        let opened = Store::open_or_create(&top.join(path)).is_ok();
        assert_eq!(opened, want.is_ok(), "{path}");
    }
}

#[test]
fn a_look_refuses_what_cannot_be_written_to() {
    let temp = tempfile::tempdir().unwrap();
    let top = temp.path();
    let shut = |folder: &str| fs::set_permissions(top.join(folder), fs::Permissions::from_mode(0o555)).unwrap();
    for store in ["store", "shared"] {
        capture(&Store::create(&top.join(store), CreateOptions { chunk_len: CHUNK }).unwrap(), &Disk::sample(1, 9))
            .unwrap();
    }
    fs::create_dir(top.join("empty")).unwrap();
    for folder in ["locks", "packs", "index", "images"] {
        fs::set_permissions(top.join("shared").join(folder), fs::Permissions::from_mode(0o777)).unwrap();
    }
    ["store", "store/images", "shared", "empty", "."].into_iter().for_each(shut);
    // What modes say does not bind root: nobody looks, in a thread of its own.
    let found = thread::scope(|scope| {
        let looks = scope.spawn(|| {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            ["store", "shared", "empty", "new"].map(|path| look(&top.join(path), top))
        });
        looks.join().unwrap()
    });
    fs::set_permissions(top, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = |path: &str| Err(format!("TOP{path} cannot be written to: Permission denied (os error 13)"));
    assert!(found[0].clone().is_err_and(|e| e.contains("cannot be written to")), "{found:?}");
    assert_eq!(found[1..], [Ok("store"), refused("/empty"), refused("")]);
}

#[test]
fn several_that_make_the_same_store_at_once_all_have_it() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = dir.path().join(round.to_string());
        let open = || Store::open_or_create(&path).map(|store| store.id());
        let ids = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            all.into_iter().map(|one| one.join().unwrap().unwrap()).collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}

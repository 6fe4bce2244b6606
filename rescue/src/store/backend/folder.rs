//! A store in a folder, local or mounted.
//!
//! A file is written under a name that begins with `.tmp-SESSION-`, synced, renamed, and its folder synced. `SESSION` is
//! also the name of a file in `locks/` that a living writer holds locked (`flock`): a lock that is free belongs to a
//! writer that died, and what it left unfinished is removed. On a file system without locks nothing is removed, and on a
//! network mount only what is a day old.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Backend, Listing, Sink};
use crate::store::FileId;

const TEMP: &str = ".tmp-";
const LOCKS: &str = "locks";
/// How often a lock is made again that others took for a dead one.
const LOCK_TRIES: u32 = 16;
/// How old something unfinished must be on a network mount before it counts as dead: locks may not reach across machines
/// there, and a living writer touches its files all the time.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// Packs kept open for reading: one a thread, and some.
const OPEN_FILES: usize = 16;
/// The folders of a store. Elsewhere in it may be anything: a store can share the top of a stick with other things.
pub(in crate::store) const FOLDERS: [&str; 7] = ["packs", "index", "images", "undo", "damaged", "keys", LOCKS];
/// Levels of folders below the root: `packs/AA` is the deepest.
const DEPTH: u32 = 2;

/// Files in a folder.
pub struct FolderBackend {
    root: PathBuf,
    session: FileId,
    system: System,
    lock: Mutex<Option<Lock>>,
    open: Mutex<VecDeque<(String, Arc<File>)>>,
}

/// What not every file system can do, and what tests make fail.
#[derive(Clone, Copy)]
struct System {
    try_lock: fn(&File) -> Result<(), TryLockError>,
    sync_folder: fn(&Path) -> io::Result<()>,
}

impl Default for System {
    fn default() -> Self {
        Self { try_lock: File::try_lock, sync_folder }
    }
}

/// Held while this process may write. `None` where the file system has no locks.
struct Lock(Option<(File, PathBuf)>);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((_held, path)) = &self.0 {
            // Still locked here, so nobody else can have taken it for a dead one. A lock left behind does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

impl FolderBackend {
    /// Returns the files in `root`, which must be a folder already. Nothing is written.
    ///
    /// # Errors
    /// The system's, when it gives no random numbers.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let session = FileId::random()?;
        let (system, lock, open) = (System::default(), Mutex::default(), Mutex::default());
        Ok(Self { root: root.into(), session, system, lock, open })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn cached(&self, name: &str) -> io::Result<Arc<File>> {
        let mut open = held(&self.open);
        if let Some(at) = open.iter().position(|(known, _)| known == name)
            && let Some(entry) = open.remove(at)
        {
            let file = Arc::clone(&entry.1);
            open.push_back(entry);
            return Ok(file);
        }
        let file = Arc::new(retry(|| File::open(self.path(name)))?);
        if open.len() >= OPEN_FILES {
            open.pop_front();
        }
        open.push_back((name.to_owned(), Arc::clone(&file)));
        Ok(file)
    }

    fn forget(&self, name: &str) {
        held(&self.open).retain(|(known, _)| known != name);
    }

    fn begin(&self, name: &str) -> io::Result<FolderSink> {
        self.lock()?;
        let path = self.path(name);
        let (Some(folder), Some(leaf)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
        };
        make_folders(folder)?;
        let temp = folder.join(format!("{TEMP}{}-{}", self.session, leaf.to_string_lossy()));
        let file = retry(|| OpenOptions::new().write(true).create(true).truncate(true).open(&temp))?;
        Ok(FolderSink { file: Some(file), temp, folder: folder.to_owned(), path, sync_folder: self.system.sync_folder })
    }

    fn walk(&self, folder: &Path, depth: u32, found: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            // A file may vanish between being listed and being looked at: another writer finished it.
            let Ok(info) = entry.metadata() else { continue };
            if info.is_dir() && depth > 0 {
                self.walk(&entry.path(), depth - 1, found)?;
            } else if info.is_file() {
                found.push((entry.path(), info.len()));
            }
        }
        Ok(())
    }

    /// Removes what dead writers left. Only called with the own lock held.
    fn clear_leftovers(&self) -> io::Result<()> {
        // First the unfinished files, then the locks: whoever began a file had locked before.
        let mut all = Vec::new();
        self.walk(&self.root, 0, &mut all)?;
        for folder in FOLDERS {
            self.walk(&self.path(folder), DEPTH - 1, &mut all)?;
        }
        let unfinished: Vec<_> = all.iter().filter_map(|(path, _)| Some((path, session_of(path)?))).collect();
        let patience = if is_remote(&self.root) { PATIENCE } else { Duration::ZERO };
        let is_old = |path: &Path| patience.is_zero() || age(path).is_some_and(|age| age >= patience);
        let mut living = HashSet::from([self.session]);
        let mut locks = Vec::new();
        self.walk(&self.path(LOCKS), 0, &mut locks)?;
        for (path, _) in locks {
            let Some(session) = session_of_lock(&path) else { continue };
            if session != self.session && (!is_old(&path) || !clear_dead_lock(&path)) {
                living.insert(session);
            }
        }
        for (path, session) in unfinished {
            if !living.contains(&session) && is_old(path) {
                // Another writer may be clearing as well.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

/// Returns the session an unfinished file belongs to; `None` for every other file, however its name begins.
pub(in crate::store) fn session_of(path: &Path) -> Option<FileId> {
    FileId::parse(path.file_name()?.to_str()?.strip_prefix(TEMP)?.split_once('-')?.0)
}

/// Returns the session a lock belongs to; `None` for every other file.
pub(in crate::store) fn session_of_lock(path: &Path) -> Option<FileId> {
    FileId::parse(path.file_name()?.to_str()?.strip_suffix(".lock")?)
}

/// Tells whether other machines may see the folder as well.
fn is_remote(folder: &Path) -> bool {
    // NFS, SMB twice, CIFS, FUSE (which may be sshfs), 9p, Ceph, AFS: numbers from linux/magic.h.
    const REMOTE: [u64; 8] =
        [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x6573_5546, 0x0102_1997, 0x00c3_6400, 0x5346_414f];
    let kind = nix::sys::statfs::statfs(folder).ok().and_then(|info| u64::try_from(info.filesystem_type().0).ok());
    kind.is_some_and(|kind| REMOTE.contains(&kind))
}

fn age(path: &Path) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

/// Removes a lock nobody holds. Where that cannot be told it counts as held.
fn clear_dead_lock(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return !path.exists() };
    file.try_lock().is_ok() && fs::remove_file(path).is_ok()
}

fn take_lock(root: &Path, session: FileId, try_lock: fn(&File) -> Result<(), TryLockError>) -> io::Result<Lock> {
    let folder = root.join(LOCKS);
    make_folders(&folder)?;
    let path = folder.join(format!("{session}.lock"));
    for _ in 0..LOCK_TRIES {
        let file = retry(|| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path))?;
        match try_lock(&file) {
            Ok(()) => {}
            // Somebody is looking whether it is a dead one; then it is removed, and we make it anew.
            Err(TryLockError::WouldBlock) => file.lock()?,
            Err(TryLockError::Error(_)) => {
                let _ = fs::remove_file(&path);
                return Ok(Lock(None));
            }
        }
        if fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| there.ino() == ours.ino())) {
            return Ok(Lock(Some((file, path))));
        }
    }
    // A file system that gives one file two numbers; nothing more can be asked of it.
    Ok(Lock(None))
}

/// Creates `folder` and what is missing above it, each one durable in its parent.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folders(parent)?;
        match fs::create_dir(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => sync_folder(parent)?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match retry(|| File::open(folder))?.sync_all() {
        // Some network file systems cannot sync a folder, and say so this way.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// Calls again what a signal interrupted: network mounts report that even where local ones never do.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for FolderBackend {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut sink = self.begin(name)?;
        sink.write_all(bytes)?;
        self.forget(name);
        Box::new(sink).finish()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(self.begin(name)?))
    }

    fn read_range(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let result = self.cached(name)?.read_exact_at(buf, offset);
        if result.is_err() {
            // The handle itself may be what went bad.
            self.forget(name);
        }
        result
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(retry(|| fs::metadata(self.path(name)))?.len())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listing>> {
        let mut found = Vec::new();
        self.walk(&self.path(folder), DEPTH, &mut found)?;
        let mut out: Vec<Listing> = found
            .into_iter()
            .filter(|(path, _)| session_of(path).is_none())
            .filter_map(|(path, len)| {
                Some(Listing { name: path.strip_prefix(&self.root).ok()?.to_str()?.to_owned(), len })
            })
            .collect();
        out.sort_unstable();
        Ok(out)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.lock()?;
        self.forget(name);
        let path = self.path(name);
        retry(|| fs::remove_file(&path))?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    fn lock(&self) -> io::Result<()> {
        let mut lock = held(&self.lock);
        if lock.is_none() {
            let taken = lock.insert(take_lock(&self.root, self.session, self.system.try_lock)?);
            // Without locks a living writer looks like a dead one.
            if taken.0.is_some() {
                self.clear_leftovers()?;
            }
        }
        Ok(())
    }

    fn free(&self) -> io::Result<Option<u64>> {
        let info = nix::sys::statvfs::statvfs(&self.root)?;
        Ok(info.blocks_available().checked_mul(info.fragment_size()))
    }
}

struct FolderSink {
    file: Option<File>,
    temp: PathBuf,
    folder: PathBuf,
    path: PathBuf,
    sync_folder: fn(&Path) -> io::Result<()>,
}

impl Sink for FolderSink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_all()?;
            let is_new = fs::symlink_metadata(&self.path).is_err();
            retry(|| fs::rename(&self.temp, &self.path))?;
            self.file = None;
            if let Err(error) = (self.sync_folder)(&self.folder) {
                // Nobody can say whether the name would survive a power cut; what failed is not to be found later.
                if is_new {
                    let _ = fs::remove_file(&self.path);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for FolderSink {
    fn drop(&mut self) {
        if self.file.is_some() {
            // What cannot be removed now, the next writer removes.
            let _ = fs::remove_file(&self.temp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let backend = FolderBackend::new(folder).unwrap();
        let mut found = Vec::new();
        backend.walk(folder, DEPTH, &mut found).unwrap();
        let mut names: Vec<_> =
            found.iter().map(|(path, _)| path.strip_prefix(folder).unwrap().display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let backend = FolderBackend::new(dir.path()).unwrap();
        let mut sink = backend.create("packs/ab/one").unwrap();
        sink.write_all(b"half").unwrap();
        assert_eq!(backend.list("packs").unwrap(), []);
        drop(sink);
        assert!(!names(dir.path()).iter().any(|name| name.contains(TEMP)), "{:?}", names(dir.path()));

        let mut sink = backend.create("packs/ab/two").unwrap();
        sink.write_all(b"who").unwrap();
        sink.write_all(b"le").unwrap();
        sink.finish().unwrap();
        assert_eq!(backend.list("packs").unwrap(), [Listing { name: "packs/ab/two".into(), len: 5 }]);
        let mut buf = [0; 3];
        backend.read_range("packs/ab/two", 2, &mut buf).unwrap();
        assert_eq!(&buf, b"ole");
        assert_eq!(backend.read_range("packs/ab/two", 3, &mut buf).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_what_dead_writers_left_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let living = FolderBackend::new(dir.path()).unwrap();
        let unfinished = living.create("packs/aa/living").unwrap();
        let id = "00ff".repeat(8);
        let write = |name: &str| {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), "x").unwrap();
        };
        let dead = [
            format!("packs/aa/{TEMP}{id}-dead.pack"),
            format!("{TEMP}{id}-rescue-store.json"),
            format!("locks/{id}.lock"),
        ];
        // Of other programs, at the top of a stick that also holds a store.
        let foreign = [
            format!("{TEMP}notes"),
            format!("{TEMP}00ff-notes"),
            format!("images/{TEMP}{id}"),
            format!("letters/{TEMP}{id}-letter.txt"),
            format!("letters/2019/{TEMP}{id}-letter.txt"),
            "locks/door.lock".to_owned(),
        ];
        dead.iter().chain(&foreign).for_each(|name| write(name));

        let next = FolderBackend::new(dir.path()).unwrap();
        next.put("index/a", b"").unwrap();
        unfinished.finish().unwrap();
        drop((living, next));
        let mut left = foreign.to_vec();
        left.extend(["index/a".to_owned(), "packs/aa/living".to_owned()]);
        left.sort();
        assert_eq!(names(dir.path()), left);
    }

    #[test]
    fn without_locks_nothing_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let mut backend = FolderBackend::new(dir.path()).unwrap();
            backend.system.try_lock = |_| Err(TryLockError::Error(io::ErrorKind::Unsupported.into()));
            backend
        };
        let living = open();
        let mut unfinished = living.create("packs/aa/living").unwrap();
        unfinished.write_all(b"whole").unwrap();
        open().put("index/a", b"").unwrap();
        unfinished.finish().unwrap();
        assert_eq!(names(dir.path()), ["index/a", "packs/aa/living"]);
    }

    #[test]
    fn a_name_that_may_not_be_durable_is_taken_away_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = FolderBackend::new(dir.path()).unwrap();
        backend.put("images/old", b"old").unwrap();
        backend.system.sync_folder = |_| Err(io::Error::from_raw_os_error(nix::libc::EIO));
        backend.put("images/new", b"new").unwrap_err();
        backend.create("images/pieces").unwrap().finish().unwrap_err();
        backend.put("images/old", b"two").unwrap_err();
        assert_eq!(names(dir.path()), ["images/old", format!("locks/{}.lock", backend.session).as_str()]);
        assert_eq!(fs::read(dir.path().join("images/old")).unwrap(), b"two", "old or new, and never nothing");
    }

    #[test]
    fn a_replaced_file_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let backend = FolderBackend::new(dir.path()).unwrap();
        for text in [b"one", b"two"] {
            backend.put("a", text).unwrap();
            let mut buf = [0; 3];
            backend.read_range("a", 0, &mut buf).unwrap();
            assert_eq!(&buf, text);
        }
    }
}

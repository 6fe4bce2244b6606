//! What a path is before anything is written there, and making a store in it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{AccessFlags, faccessat},
};

use super::{
    CONFIG, CreateOptions, Error, Store,
    backend::{
        FolderBackend,
        folder::{FOLDERS, session_of, session_of_lock},
    },
};

/// What file systems put at their top by themselves; a folder that holds nothing else is empty.
const SYSTEM: [&str; 3] = ["lost+found", "System Volume Information", "$RECYCLE.BIN"];
/// The deepest folder of a store that was never finished: `packs/AA`.
const DEPTH: u32 = 1;

/// What a capture finds at a path.
pub enum Look {
    /// A store, and as far as can be told without writing it takes more images.
    Store(Box<Store>),
    /// Nothing yet; [`Store::create`] can make a store there.
    Creatable,
}

impl Store {
    /// Tells whether images can be stored in `path`: in the store that is there, or in one that can be made. Writes
    /// nothing.
    ///
    /// # Errors
    /// Why not: [`Error::Foreign`] for a folder with other things in it, [`Error::Refused`] for what is no folder or
    /// cannot be written to, and everything that keeps [`Store::open`] from opening the store that is there.
    pub fn look(path: &Path) -> Result<Look, Error> {
        match Self::open(path) {
            Ok(store) => {
                check_takes_more(path)?;
                Ok(Look::Store(Box::new(store)))
            }
            Err(Error::NotAStore { .. }) => check_creatable(path).map(|()| Look::Creatable),
            Err(error) => Err(error),
        }
    }

    /// Opens the store in `path`, or makes one with chunks of 1 MiB where there is none.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Store::create`].
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        match Self::open(path) {
            Err(Error::NotAStore { .. }) => {
                let created = Self::create(path, CreateOptions::default());
                // Another run may have made it meanwhile: the first night of a fleet.
                created.or_else(|error| Self::open(path).map_err(|_| error))
            }
            other => other,
        }
    }

    /// Makes a store in `path`, an empty folder or one that does not exist yet.
    ///
    /// # Errors
    /// [`Error::Foreign`] when something else lives there, [`Error::Refused`] when a store does.
    pub fn create(path: &Path, options: CreateOptions) -> Result<Self, Error> {
        let name = path.display().to_string();
        fs::create_dir_all(path).map_err(Error::io("creating", &name))?;
        // Two that create the same store at once would each know another id. Without locks that risk remains.
        let folder = File::open(path).map_err(Error::io("opening", &name))?;
        let _ = folder.lock();
        check_empty(path)?;
        let backend = FolderBackend::new(path).map_err(Error::io("opening", &name))?;
        let store = Self::create_on(Arc::new(backend), options)?;
        if let Some(parent) = path.parent() {
            // Some file systems cannot sync a folder; the store itself is durable.
            let _ = File::open(parent).and_then(|folder| folder.sync_all());
        }
        Ok(store)
    }
}

/// Checks that the folders a writer writes to can be written to, and made where they are missing.
fn check_takes_more(path: &Path) -> Result<(), Error> {
    for folder in ["locks", "packs", "index", "images"] {
        let folder = path.join(folder);
        check_writable(if folder.exists() { &folder } else { path })?;
    }
    Ok(())
}

fn check_creatable(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(info) if info.is_dir() => {
            check_empty(path)?;
            check_writable(path)
        }
        Ok(_) => Err(Error::Refused(format!("{} is not a folder", path.display()))),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|info| info.is_symlink()) => {
            Err(Error::Refused(format!("{} is a link to something that is not there", path.display())))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => match path.parent() {
            // The folders above are made along with it.
            Some(parent) if parent != Path::new("") => check_parent(parent),
            _ => check_writable(Path::new(".")),
        },
        Err(e) => Err(Error::io("looking at", &path.display().to_string())(e)),
    }
}

/// Checks that a folder can be made below `path`, whatever else lives there.
fn check_parent(path: &Path) -> Result<(), Error> {
    if path.is_dir() { check_writable(path) } else { check_creatable(path) }
}

/// Asks the system, as the user this program acts for. The answer covers read-only mounts as well.
fn check_writable(folder: &Path) -> Result<(), Error> {
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, folder, wanted, AtFlags::AT_EACCESS).map_err(|e| {
        let reason = io::Error::from(e);
        Error::Refused(format!("{} cannot be written to: {reason}", folder.display()))
    })
}

fn check_empty(path: &Path) -> Result<(), Error> {
    // A store is not foreign; who makes stores refuses it by another name.
    if path.join(CONFIG).exists() {
        return Ok(());
    }
    match first_foreign(path).map_err(Error::io("listing", &path.display().to_string()))? {
        Some(found) => Err(Error::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// Returns the first thing in a folder that keeps it from becoming a store: all but what file systems put there, and
/// what a store leaves that was never finished.
fn first_foreign(path: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let is = |known: &[&str]| known.iter().any(|known| name == OsStr::new(known));
        if is(&SYSTEM) || session_of(&entry.path()).is_some() {
            continue;
        }
        if !is(&FOLDERS) || !entry.file_type()?.is_dir() {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
        if let Some(found) = first_file(&entry.path(), DEPTH)? {
            return Ok(Some(format!("{}/{found}", name.to_string_lossy())));
        }
    }
    Ok(None)
}

/// Returns the first thing below one of a store's folders that is neither a lock, nor unfinished, nor a folder.
fn first_file(folder: &Path, depth: u32) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if session_of(&path).or_else(|| session_of_lock(&path)).is_some() {
            continue;
        }
        match depth.checked_sub(1) {
            Some(depth) if entry.file_type()?.is_dir() => {
                if let Some(found) = first_file(&path, depth)? {
                    return Ok(Some(format!("{name}/{found}")));
                }
            }
            _ => return Ok(Some(name)),
        }
    }
    Ok(None)
}

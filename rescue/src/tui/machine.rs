//! The machine this program runs on, as the screens see it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    backend::{Backend, Holds, Need, Place, Planned},
    text,
};
use crate::{
    block::{DiskRef, discovery},
    job::{
        Cancel, Job, Monitor, Plan, Report,
        plan::{self, chain},
        stores::{self, Access, FoundStore},
        survey,
        view::{DiskView, PlanView, StoreView},
    },
};

/// The file that makes a folder a store.
const STORE_FILE: &str = "rescue-store.json";
/// The folder made for a store on a file system that has none.
const NEW_FOLDER: &str = "rescue";
/// Folders looked into for a store, beside the file system's own.
const LOOKED_INTO: usize = 1000;

/// The machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// What was mounted for the screens, and has to be unmounted.
    mounted: Mutex<Vec<PathBuf>>,
}

impl Planned for Plan {
    fn view(&self) -> &PlanView {
        Self::view(self)
    }

    fn run(self: Box<Self>, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        Self::run(*self, monitor, cancel)
    }
}

impl Backend for Machine {
    fn inventory(&self) -> String {
        discovery::fingerprint()
    }

    fn disks(&self) -> Result<Vec<DiskView>, String> {
        survey::disks().map_err(|error| error.to_string())
    }

    fn measure(&self, path: &str) -> Result<DiskView, String> {
        let found = survey::disk(&DiskRef::Path(path.to_owned()), None, &crate::fs::Options::default());
        found.map(|found| found.view).map_err(|error| error.to_string())
    }

    fn places(&self) -> Result<Vec<Place>, String> {
        // Without its own start-up files a system does not start: nobody keeps images beside them.
        let system = |place: &Place| place.mounted_at.as_ref().is_some_and(|at| at.starts_with("/boot"));
        Ok(stores::find_stores().iter().map(place).filter(|place| !system(place)).collect())
    }

    fn open_place(&self, place: &Place, need: Need) -> Result<PathBuf, String> {
        let mut mounted = self.lock();
        // The list may be old: the disk is looked up again, and must still be the one that was shown.
        let mut found = look_up(place)?;
        if let Some(at) = found.mounted_at.clone()
            && need != Need::Check
            && mounted.contains(&at)
        {
            // It may have been mounted for reading alone before.
            stores::unmount_store(&at).map_err(|error| chain(&error))?;
            mounted.retain(|other| *other != at);
            found = look_up(place)?;
        }
        let access = match need {
            Need::Store => Access::Write,
            Need::Read => Access::PreferWrite,
            Need::Check => Access::Read,
        };
        let store = stores::mount_store(&found, access).map_err(|error| chain(&error))?;
        if stores::mount_of(&store.path).is_some() && !mounted.contains(&store.path) {
            mounted.push(store.path.clone());
        }
        match (store_in(&store.path), need) {
            (Some(folder), _) => Ok(folder),
            (None, Need::Store) => Ok(store.path.join(NEW_FOLDER)),
            (None, _) => Err(text::no_store_on(&place.device)),
        }
    }

    fn close_places(&self) -> Result<(), String> {
        let mut mounted = self.lock();
        let mut failed = Vec::new();
        mounted.retain(|path| match stores::unmount_store(path) {
            Ok(()) => false,
            Err(error) => {
                failed.push(chain(&error));
                true
            }
        });
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    fn images(&self, store: &Path) -> Result<StoreView, String> {
        survey::images(store).map_err(|error| error.to_string())
    }

    fn plan(&self, job: &Job, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Box<dyn Planned>, plan::Error> {
        Ok(Box::new(Plan::new(job, monitor, cancel)?))
    }
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the file system a person chose, as it is now.
fn look_up(place: &Place) -> Result<FoundStore, String> {
    let same = |found: &FoundStore| {
        found.device.as_os_str() == place.device.as_str() && found.uuid == place.uuid && found.len == place.len
    };
    stores::find_stores().into_iter().find(same).ok_or_else(|| text::place_gone(&place.device))
}

fn place(found: &FoundStore) -> Place {
    let holds = match &found.mounted_at {
        Some(at) => store_in(at).map_or(Holds::NoStore, Holds::Store),
        None => Holds::Unknown,
    };
    Place {
        device: found.device.display().to_string(),
        disk: format!("/dev/{}", found.disk.replace('!', "/")),
        fs: found.fs.clone(),
        label: found.label.clone(),
        uuid: found.uuid.clone(),
        len: found.len,
        free: found.mounted_at.as_deref().and_then(stores::free_bytes),
        mounted_at: found.mounted_at.clone(),
        holds,
    }
}

/// Finds the store on a mounted file system: its top folder, or one of the folders in it, the first by name.
fn store_in(root: &Path) -> Option<PathBuf> {
    let is_store = |folder: &Path| folder.join(STORE_FILE).is_file();
    if is_store(root) {
        return Some(root.to_owned());
    }
    let entries = fs::read_dir(root).ok()?.filter_map(Result::ok).take(LOOKED_INTO);
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_store(path)).collect();
    folders.sort_unstable();
    folders.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_found_at_the_top_or_one_folder_below() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(store_in(root.path()), None);
        for name in ["b", "a", "empty"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("b").join(STORE_FILE), "{}").unwrap();
        fs::write(root.path().join("a").join(STORE_FILE), "{}").unwrap();
        assert_eq!(store_in(root.path()), Some(root.path().join("a")));
        fs::write(root.path().join(STORE_FILE), "{}").unwrap();
        assert_eq!(store_in(root.path()), Some(root.path().to_owned()));
        assert_eq!(store_in(&root.path().join("nowhere")), None);
    }
}

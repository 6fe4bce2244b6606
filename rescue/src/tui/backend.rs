//! What the screens need of the rest of the program, as one small trait: the machine it runs on, or a made-up one.

use std::path::{Path, PathBuf};

use crate::job::{
    Cancel, Job, Monitor, Report, plan,
    view::{DiskView, PlanView, StoreView},
};

/// A place a store can be: a file system on an attached disk. Strings are raw: escape before showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition or disk, `/dev/sdb1`.
    pub device: String,
    /// The disk it is on, `/dev/sdb`.
    pub disk: String,
    /// The file system, `ext4`.
    pub fs: String,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID or serial.
    pub uuid: Option<String>,
    /// Its bytes.
    pub len: u64,
    /// Bytes free in it, where known.
    pub free: Option<u64>,
    /// Where it is mounted now.
    pub mounted_at: Option<PathBuf>,
    /// The store in it, where it could be looked into.
    pub holds: Holds,
}

/// What is known of the store in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It was not looked into: it is not mounted.
    Unknown,
    /// There is none.
    NoStore,
    /// There is one, in this folder.
    Store(PathBuf),
}

/// What a place is made usable for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// An image will be stored; a store is made where there is none.
    Store,
    /// Images will be read; where it can be written, an undo file is kept there.
    Read,
    /// Images will be checked; nothing is written.
    Check,
}

/// A job that was planned and may be run.
pub trait Planned: Send {
    /// Returns what it will do.
    fn view(&self) -> &PlanView;

    /// Does it.
    fn run(self: Box<Self>, monitor: &dyn Monitor, cancel: &Cancel) -> Report;
}

/// The machine, as the screens see it. Every call may take long; none is made from the thread that draws.
pub trait Backend: Send + Sync + 'static {
    /// Returns a text that differs once a disk came or went. Cheap: asked every second.
    fn inventory(&self) -> String;

    /// Lists the disks, as [`crate::job::survey::disks`].
    ///
    /// # Errors
    /// Why they cannot be listed, as a sentence.
    fn disks(&self) -> Result<Vec<DiskView>, String>;

    /// Looks at one disk, with what is used of it, as [`crate::job::survey::disk`].
    ///
    /// # Errors
    /// Why it cannot be read, as a sentence.
    fn measure(&self, path: &str) -> Result<DiskView, String>;

    /// Lists the places on attached disks where a store is or could be.
    ///
    /// # Errors
    /// Why they cannot be listed, as a sentence.
    fn places(&self) -> Result<Vec<Place>, String>;

    /// Makes a place usable and returns the store's folder in it; for [`Need::Store`] one that need not exist yet.
    ///
    /// # Errors
    /// Why it cannot be used, as a sentence.
    fn open_place(&self, place: &Place, need: Need) -> Result<PathBuf, String>;

    /// Lists the images of a store, newest first.
    ///
    /// # Errors
    /// Why it cannot be read, as a sentence.
    fn images(&self, store: &Path) -> Result<StoreView, String>;

    /// Decides what a job will do; reads only.
    ///
    /// # Errors
    /// As [`crate::job::Plan::new`].
    fn plan(&self, job: &Job, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Box<dyn Planned>, plan::Error>;

    /// Lets go of every place that was made usable: what was written to it is on its medium afterwards.
    ///
    /// # Errors
    /// Which could not be let go, and why, as a sentence.
    fn close_places(&self) -> Result<(), String>;
}

//! Jobs: what the screens, the command line, a job file or the kernel command line ask for, as plan and run.
//!
//! A [`Job`] is data. [`plan`] decides everything a job will read and write, and makes every refusal; only
//! [`Plan::run`] writes. Runs report to a [`Monitor`] and look at a [`Cancel`] once a chunk, and end as exactly one
//! [`Outcome`].

pub mod analysis;
pub mod cancel;
mod capture;
mod chunks;
mod error;
mod export;
pub mod failure;
mod guard;
mod meter;
pub mod monitor;
mod pipeline;
pub mod plan;
mod predecessor;
pub mod report;
mod restore;
mod salvage;
pub mod stores;
pub mod survey;
mod verify;
pub mod view;
mod words;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    cancel::Cancel,
    monitor::{Event, Monitor, Phase, Progress},
    plan::Plan,
    report::{Outcome, Report},
};
use crate::{
    block::DiskRef,
    escape::Escaped,
    store::{Listed, Manifest, Store},
    table::RegionKind,
};

/// What to do, to which disk, with which store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "job")]
pub enum Job {
    /// Images a disk into a store.
    Capture(CaptureJob),
    /// Writes an image back onto a disk.
    Restore(RestoreJob),
    /// Reads back and checks what a store holds.
    Verify(VerifyJob),
    /// Writes an image as a raw disk.
    Export(ExportJob),
}

/// Images `disk` into `store`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureJob {
    /// The disk to read.
    pub disk: DiskRef,
    /// The store's folder; made when there is none.
    pub store: PathBuf,
    /// zstd level, 1 to 19.
    #[serde(default = "default_level")]
    pub level: i32,
    /// A person's note, kept with the image.
    #[serde(default)]
    pub note: Option<String>,
    /// Bytes in a sector, where the disk is a file.
    #[serde(default)]
    pub sector_size: Option<crate::units::SectorSize>,
    /// Keep the contents of swap, page and hibernation files.
    #[serde(default)]
    pub keep_swap_files: bool,
}

/// The zstd level a capture uses where none is asked for.
#[must_use]
pub const fn default_level() -> i32 {
    3
}

/// Writes `image` of `store` onto `disk`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// The store's folder.
    pub store: PathBuf,
    /// Which image.
    pub image: ImageRef,
    /// The disk to overwrite.
    pub disk: DiskRef,
    /// Bytes in a sector, where the disk is a file.
    #[serde(default)]
    pub sector_size: Option<crate::units::SectorSize>,
    /// Restore an image although sectors of its source were unreadable.
    #[serde(default)]
    pub accept_partial: bool,
    /// What becomes of the target's free bytes; `None` for what suits the disk.
    #[serde(default)]
    pub free: Option<Free>,
}

/// What a restore does with bytes that are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Free {
    /// They keep what the target held there.
    Leave,
    /// The target is told that they are not needed; what they read as then is its business.
    Discard,
    /// They are zeroed, and read back.
    Zero,
}

impl Free {
    /// Returns the word for it, `leave`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Discard => "discard",
            Self::Zero => "zero",
        }
    }
}

impl std::str::FromStr for Free {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "leave" => Ok(Self::Leave),
            "discard" => Ok(Self::Discard),
            "zero" => Ok(Self::Zero),
            other => Err(format!("{other:?} is not leave, discard or zero")),
        }
    }
}

/// Checks `store`, or one image of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyJob {
    /// The store's folder.
    pub store: PathBuf,
    /// One image, or everything.
    #[serde(default)]
    pub image: Option<ImageRef>,
}

/// Writes `image` of `store` as a raw disk, or one region of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportJob {
    /// The store's folder.
    pub store: PathBuf,
    /// Which image.
    pub image: ImageRef,
    /// Where the bytes go.
    pub output: Output,
    /// One region alone; there must be exactly one of it.
    #[serde(default)]
    pub region: Option<RegionKind>,
    /// Replace a file that exists.
    #[serde(default)]
    pub overwrite: bool,
    /// Export although sectors of the source were unreadable.
    #[serde(default)]
    pub accept_partial: bool,
}

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PathBuf", into = "PathBuf")]
pub enum Output {
    /// A file.
    File(PathBuf),
    /// Standard output: `-`.
    Stdout,
}

impl From<PathBuf> for Output {
    fn from(path: PathBuf) -> Self {
        if path.as_os_str() == "-" { Self::Stdout } else { Self::File(path) }
    }
}

impl From<Output> for PathBuf {
    fn from(output: Output) -> Self {
        match output {
            Output::File(path) => path,
            Output::Stdout => "-".into(),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.pad("standard output"),
        }
    }
}

/// Names an image of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ImageRef {
    /// The newest one.
    Latest,
    /// By id, or the first digits of it.
    Id(String),
}

impl From<String> for ImageRef {
    fn from(text: String) -> Self {
        if text == "latest" { Self::Latest } else { Self::Id(text) }
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        match image {
            ImageRef::Latest => "latest".to_owned(),
            ImageRef::Id(id) => id,
        }
    }
}

/// Loads the image a job names.
fn load_image(store: &Store, image: &ImageRef) -> Result<Manifest, error::Error> {
    let name: String = image.clone().into();
    store.load(&name).map_err(|error| error::Error::failed("loading the image", &error))
}

/// Says that the newest image of a store that holds several disks may not be the one that is meant.
fn other_disks(store: &Store, manifest: &Manifest, image: &ImageRef) -> Option<String> {
    if *image != ImageRef::Latest {
        return None;
    }
    let ours = (&manifest.disk.serial, &manifest.disk_id, &manifest.machine);
    let listed = store.images().ok()?;
    let others = listed.iter().filter(|entry| match entry {
        Listed::Image(other) => (&other.disk.serial, &other.disk_id, &other.machine) != ours,
        Listed::Damaged { .. } => false,
    });
    let machine = Escaped(manifest.machine.as_deref().unwrap_or("a machine without a name")).to_string();
    let count = others.count();
    (count > 0).then(|| format!("the newest image of all is of {machine}; the store holds {count} of other disks"))
}

#[cfg(test)]
mod tests;

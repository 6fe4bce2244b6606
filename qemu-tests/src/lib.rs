//! The harness of the boot scenarios: virtual disks made without root, QEMU, and a host that judges with other tools.
//!
//! ```text
//! tools    the programs of the distribution, found or named by package
//! noise    deterministic noise: targets are filled with it, files are made of it
//! tree     folders of files to put on a disk
//! disk     whole disks as sparse raw files: tables, file systems, stores
//! accel    KVM where it was seen to boot a kernel, TCG otherwise
//! vm       one QEMU, its command line, consoles and limits      qmp      its control socket
//! screen   what a serial terminal would show                     report   the JSON lines of an unattended job
//! table    what a restored partition table must look like        compare  whether two disks are equal
//! guest    a Linux that mounts volumes with the kernel's own drivers, fills them, lists them, dies in mid-write
//! volume   file systems with the options that matter, by mkfs     pairs    which combinations of options are tried
//! ```
//!
//! Nothing here uses the product to judge the product, but for one thing: the allocated extents an image lists are
//! compared byte for byte, besides those that `dumpe2fs` and a small FAT reader find by themselves.

pub mod accel;
pub mod compare;
pub mod disk;
pub mod extract;
pub mod guest;
pub mod noise;
pub mod pairs;
pub mod qmp;
pub mod report;
pub mod screen;
pub mod table;
pub mod tools;
pub mod tree;
pub mod vm;
pub mod volume;

use std::{fmt, io, path::PathBuf};

pub use rescue::units::{GIB, KIB, MIB};

/// What went wrong in a scenario. `Debug` prints what `Display` prints, because that is what a failed test shows.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file of the host could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program of the host failed.
    #[error("`{command}` failed ({status})\n{output}")]
    Tool {
        /// Its command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// The machine did not do what was expected of it.
    #[error(
        "{machine}: {what}\n--- end of the console\n{console}\n--- end of the report\n{report}\n--- run it by hand\n{command}"
    )]
    Machine {
        /// The scenario's name for the machine.
        machine: String,
        /// What was expected.
        what: String,
        /// The last lines of its console.
        console: String,
        /// The last lines of its report port.
        report: String,
        /// The QEMU command line.
        command: String,
    },
    /// The control socket of QEMU gave an error or nothing.
    #[error("QMP: {0}")]
    Qmp(String),
    /// Something is not as it must be.
    #[error("{0}")]
    Wrong(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What every function here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Puts the file's name before what the system said.
pub trait At<T> {
    /// Names the file the operation was about.
    ///
    /// # Errors
    /// [`Error::File`] where `self` is an error.
    fn at(self, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File { path: path.into(), source })
    }
}

/// Fails with a sentence unless `condition` holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err($crate::Error::Wrong(format!($($sentence)+)));
        }
    };
}

/// Returns the top of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Returns a file of the built environment.
///
/// # Panics
/// When it is not there: nothing can be booted then, and passing silently would be a lie.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let path = workspace().join("out").join(name);
    assert!(path.exists(), "{} is missing: run scripts/build first", path.display());
    path
}

//! What the host asks of the guest, and what the guest answers. Both are JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tree::What;

/// One thing to do with one volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Serial number of the disk that holds the volume.
    pub disk: String,
    /// What is mounted instead of the disk: a device that programs run before have made of it.
    pub device: Option<String>,
    /// The kernel's name for its file system.
    pub driver: String,
    /// Mount options besides `ro` and `noatime`.
    pub options: String,
    /// What to do.
    pub task: Task,
}

/// What to do with a volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Run a program of the host on it while it is not mounted; the word `DEVICE` stands for the path of the disk.
    Run(Vec<String>),
    /// Mount it for writing, fill it, unmount it, mount it read-only and list it.
    Fill(Fill),
    /// Mount it for writing, make files in folders of a thousand, unmount it: too many to be listed.
    Crowd {
        /// How many folders; every eighth file holds a byte, every sixteenth is deleted again.
        folders: u64,
    },
    /// Mount it read-only and list it.
    List,
    /// Mount it for writing, which replays its journal, list it, unmount it.
    Replay,
    /// Mount it for writing and write until the machine is killed, beside all others with this task.
    Write {
        /// Decides what is written.
        seed: u64,
    },
}

/// How a volume is filled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fill {
    /// Decides what is written.
    pub seed: u64,
    /// How much, and in what manner.
    pub style: Style,
    /// Whether links, holes and names of 255 characters may be among the files.
    pub unix: bool,
}

/// How much is written on a volume, and in what manner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// One small file.
    Empty,
    /// Files written once, in order.
    Files,
    /// Files, then hundreds of changes: deleted, rewritten, grown, cut, renamed.
    Churned,
    /// Until nothing fits, in pieces: what was deleted in between is filled again.
    Full,
}

/// What was found on a volume, or why nothing was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Serial number of the disk.
    pub disk: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// What went wrong, with the kernel's last words.
    pub error: Option<String>,
    /// Bytes of the volume, as the driver counts them.
    pub total: u64,
    /// Bytes that are free, as the driver counts them.
    pub free: u64,
    /// All files, sorted by path.
    pub files: Vec<Seen>,
}

/// A file, a folder or a link as a driver of the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// Path below the top of the volume.
    pub path: PathBuf,
    /// What it holds.
    pub what: What,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names; folders have theirs counted differently by each driver, always the same way.
    pub links: u64,
    /// Last change of the content, in nanoseconds since 1970.
    pub changed: i128,
}

impl Answer {
    /// Returns the first file that could not be read.
    #[must_use]
    pub fn unreadable(&self) -> Option<&Seen> {
        self.files.iter().find(|seen| matches!(seen.what, What::Unreadable(_)))
    }
}

/// Says where two lists of files part, in one sentence; nothing when they are equal.
#[must_use]
pub fn difference(want: &[Seen], found: &[Seen]) -> Option<String> {
    if want == found {
        return None;
    }
    let pair = want.iter().zip(found).find(|(want, found)| want != found);
    let counts = format!("{} entries, must be {}", found.len(), want.len());
    Some(match pair {
        Some((want, found)) => format!("{counts}; first difference: {found:?}, must be {want:?}"),
        None => format!("{counts}; one list is the start of the other"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &str, hash: &str) -> Seen {
        Seen { path: path.into(), what: What::File(1, hash.to_owned()), mode: 0o100_644, links: 1, changed: 5 }
    }

    #[test]
    fn the_first_difference_is_named() {
        let want = [seen("a", "1"), seen("b", "2")];
        assert_eq!(difference(&want, &want), None);
        assert!(difference(&want, &want[..1]).unwrap().contains("1 entries, must be 2"));
        let other = difference(&want, &[seen("a", "1"), seen("b", "3")]).unwrap();
        assert!(other.contains("\"3\"") && other.contains("must be") && !other.contains("\"a\""), "{other}");
    }
}

//! What goes wrong with a store, told apart by what a person has to do about it.

use std::{io, path::PathBuf};

use super::{
    CONFIG, ChunkId, FileId,
    backend::{Backend, no_space},
    fault::Fault,
};
use crate::{escape::Escaped, extent::Extent, units::Bytes};

/// Why something could not be done with a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no store here.
    #[error("{} is not a store: it has no {}", .path.display(), CONFIG)]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// A store was to be made in a folder that other things live in; nothing was touched.
    #[error("{} is not empty and not a store: it holds {:?}", .path.display(), Escaped(.found).to_string())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// A newer program or another option wrote it; it is intact as far as this program can tell.
    #[error("{file} needs {what}, which this program does not know: use a newer one")]
    Unsupported {
        /// File in the store.
        file: String,
        /// What is not known, by name.
        what: String,
    },
    /// Bytes in the store are not what was written.
    #[error("{file} is damaged at byte {offset:#x}: {what}")]
    Corrupt {
        /// File in the store.
        file: String,
        /// Where, in bytes from the start of the file.
        offset: u64,
        /// What disagrees.
        what: String,
    },
    /// The operating system reported an error.
    #[error("{action} {file} of the store failed")]
    Io {
        /// `reading`, `writing`, `listing` ….
        action: &'static str,
        /// File in the store.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store's disk is full. Finished images are whole, and what was stored so far will be used again.
    #[error("the store is full: writing {file} needs {}, {} are free", Bytes(*needed), free.map_or("an unknown number".to_owned(), |n| Bytes(n).to_string()))]
    NoSpace {
        /// File in the store.
        file: String,
        /// Bytes that were to be written in this step.
        needed: u64,
        /// Bytes free now, where the system can tell.
        free: Option<u64>,
    },
    /// No image has this name.
    #[error("no image matches {:?}", Escaped(.wanted).to_string())]
    NoImage {
        /// What was asked for.
        wanted: String,
    },
    /// Several images begin with these digits.
    #[error("{wanted} matches {} images: {}", .matches.len(), .matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The images it could mean.
        matches: Vec<String>,
    },
    /// A chunk is in no pack.
    #[error("chunk {chunk} is not in the store")]
    Missing {
        /// Which.
        chunk: ChunkId,
    },
    /// A chunk is in a pack, and its bytes there are bad.
    #[error("chunk {chunk} in pack {pack}, {range}, is damaged: {fault}")]
    Chunk {
        /// Which chunk.
        chunk: ChunkId,
        /// The pack it is in.
        pack: FileId,
        /// The bytes of its frame in the pack file.
        range: Extent,
        /// What is wrong with them.
        fault: Fault,
    },
    /// A chunk did not survive being compressed and decompressed: memory or processor are suspect, not the store.
    #[error(
        "chunk {chunk} came back different after compression ({fault}): the memory of this machine may be faulty, \
         nothing was stored of it"
    )]
    Memory {
        /// Which chunk.
        chunk: ChunkId,
        /// What was wrong with the frame just made.
        fault: Fault,
    },
    /// A manifest contradicts itself.
    #[error("{file} makes no sense: {what}")]
    Invalid {
        /// File in the store.
        file: String,
        /// The two things that disagree.
        what: String,
    },
    /// It must not be done; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// Somebody raised the flag.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(super) fn corrupt(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, what: what.into() }
    }

    pub(super) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, file: file.to_owned(), source }
    }

    /// Maps the failure of a write of `needed` bytes; a full disk is told with both numbers.
    pub(super) fn writing(backend: &dyn Backend, file: &str, needed: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if no_space(&source) {
                Self::NoSpace { file: file.to_owned(), needed, free: backend.free().ok().flatten() }
            } else {
                Self::Io { action: "writing", file: file.to_owned(), source }
            }
        }
    }
}

/// Says what went wrong together with the reasons below it, as one line.
pub(super) fn told(error: &Error) -> String {
    let mut out = error.to_string();
    let mut below = std::error::Error::source(error);
    while let Some(reason) = below {
        out = format!("{out}: {reason}");
        below = reason.source();
    }
    out
}

/// Something wrong with a store that does not keep it from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File in the store.
    pub file: String,
    /// What is wrong with it, as a sentence without the name.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

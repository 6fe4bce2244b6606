//! The archive as a table of entries, and its newc form.
//!
//! ```text
//! | header, 110 bytes of ASCII hex | name, NUL, pad to 4 | content, pad to 4 | ... | "TRAILER!!!" entry |
//! ```
//!
//! Two archives with the same entries have the same bytes: paths sort, owners are 0, every time is the same,
//! and inode numbers count from 1 in that order. Folders on the way to an entry are made by themselves, and the
//! sorting puts them before what they hold, as the kernel's unpacker needs it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::io::{self, Write};

use cpio::newc::{self, ModeFileType};

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A regular file with its content.
    File(Vec<u8>),
    /// A symbolic link and the path it names.
    Link(String),
    /// A character device.
    Char {
        /// Device number, upper part.
        major: u32,
        /// Device number, lower part.
        minor: u32,
    },
}

/// One entry: permission bits and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Content.
    pub kind: Kind,
}

/// Why an entry cannot stand in the archive, or the archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The path is empty, absolute, climbs, or cannot be told from the end of the archive.
    #[error("{path:?} is no path for an archive: it must be relative, without '.', '..' and empty parts")]
    Path {
        /// The path as given.
        path: String,
    },
    /// Two rows of the table want the same path.
    #[error("/{path} is there twice")]
    Twice {
        /// The path both want.
        path: String,
    },
    /// A path leads through something that is not a folder.
    #[error("/{path} cannot be made: /{through} is not a folder")]
    Through {
        /// The path asked for.
        path: String,
        /// The entry in its way.
        through: String,
    },
    /// newc has 32 bits for a length.
    #[error("/{path} holds {len} bytes, the archive format ends at {}", u32::MAX)]
    TooLong {
        /// The path of the file.
        path: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The output failed.
    #[error("writing the archive")]
    Write(#[from] io::Error),
}

/// Entries by path, relative and with `/` between the parts.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a folder with permission bits `mode`; one that is there already takes the new bits.
    ///
    /// # Errors
    /// [`ArchiveError::Path`], [`ArchiveError::Through`] or [`ArchiveError::Twice`] for a path that is no folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<(), ArchiveError> {
        self.make_parents(path)?;
        match self.entries.entry(path.to_owned()) {
            Slot::Vacant(slot) => drop(slot.insert(Entry { mode, kind: Kind::Folder })),
            Slot::Occupied(mut slot) if slot.get().kind == Kind::Folder => slot.get_mut().mode = mode,
            Slot::Occupied(_) => return Err(ArchiveError::Twice { path: path.to_owned() }),
        }
        Ok(())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// As [`Archive::add`].
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Result<(), ArchiveError> {
        self.add(path, mode, Kind::File(content.into()))
    }

    /// Adds a symbolic link at `path` that names `to`.
    ///
    /// # Errors
    /// As [`Archive::add`].
    pub fn link(&mut self, path: &str, to: &str) -> Result<(), ArchiveError> {
        self.add(path, 0o777, Kind::Link(to.to_owned()))
    }

    /// Adds one entry, and the folders that lead to it.
    ///
    /// # Errors
    /// [`ArchiveError::Path`], [`ArchiveError::Through`], [`ArchiveError::Twice`]; [`ArchiveError::TooLong`] for a
    /// content of 4 GiB or more.
    pub fn add(&mut self, path: &str, mode: u32, kind: Kind) -> Result<(), ArchiveError> {
        let len = kind.content().len();
        if u32::try_from(len).is_err() {
            return Err(ArchiveError::TooLong { path: path.to_owned(), len });
        }
        self.make_parents(path)?;
        match self.entries.entry(path.to_owned()) {
            Slot::Vacant(slot) => drop(slot.insert(Entry { mode, kind })),
            Slot::Occupied(_) => return Err(ArchiveError::Twice { path: path.to_owned() }),
        }
        Ok(())
    }

    /// The entries in the order of the archive.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Writes the archive; every entry carries `mtime`, in seconds since 1970.
    ///
    /// # Errors
    /// [`ArchiveError::Write`] when `out` fails.
    pub fn write(&self, mut out: impl Write, mtime: u32) -> Result<(), ArchiveError> {
        for (ino, (path, entry)) in (1..).zip(&self.entries) {
            let (content, file_type) = (entry.kind.content(), entry.kind.file_type());
            let links = if entry.kind == Kind::Folder { 2 } else { 1 };
            let mut head = newc::Builder::new(path).ino(ino).mode(entry.mode).nlink(links).mtime(mtime);
            head = head.uid(0).gid(0).set_mode_file_type(file_type);
            if let Kind::Char { major, minor } = entry.kind {
                head = head.rdev_major(major).rdev_minor(minor);
            }
            let len = u32::try_from(content.len())
                .map_err(|_| ArchiveError::TooLong { path: path.clone(), len: content.len() })?;
            let mut writer = head.write(out, len);
            writer.write_all(content)?;
            out = writer.finish()?;
        }
        newc::trailer(out)?.flush()?;
        Ok(())
    }

    fn make_parents(&mut self, path: &str) -> Result<(), ArchiveError> {
        if !is_clean(path) {
            return Err(ArchiveError::Path { path: path.to_owned() });
        }
        for (at, _) in path.match_indices('/') {
            let (parent, _) = path.split_at(at);
            let folder = Entry { mode: 0o755, kind: Kind::Folder };
            if self.entries.entry(parent.to_owned()).or_insert(folder).kind != Kind::Folder {
                return Err(ArchiveError::Through { path: path.to_owned(), through: parent.to_owned() });
            }
        }
        Ok(())
    }
}

impl Kind {
    fn content(&self) -> &[u8] {
        match self {
            Kind::File(content) => content,
            Kind::Link(to) => to.as_bytes(),
            Kind::Folder | Kind::Char { .. } => &[],
        }
    }

    fn file_type(&self) -> ModeFileType {
        match self {
            Kind::Folder => ModeFileType::Directory,
            Kind::File(_) => ModeFileType::Regular,
            Kind::Link(_) => ModeFileType::Symlink,
            Kind::Char { .. } => ModeFileType::Char,
        }
    }
}

fn is_clean(path: &str) -> bool {
    !path.contains('\0') && path != "TRAILER!!!" && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(archive: &Archive, mtime: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write(&mut bytes, mtime).unwrap();
        bytes
    }

    #[test]
    fn order_of_the_calls_does_not_matter() {
        let (mut one, mut other) = (Archive::default(), Archive::default());
        one.file("b/x", 0o644, "x").unwrap();
        one.link("b-link", "b/x").unwrap();
        one.folder("a", 0o700).unwrap();
        other.folder("a", 0o700).unwrap();
        other.link("b-link", "b/x").unwrap();
        other.folder("b", 0o755).unwrap();
        other.file("b/x", 0o644, "x").unwrap();
        assert_eq!(bytes_of(&one, 0), bytes_of(&other, 0));
        assert_ne!(bytes_of(&one, 0), bytes_of(&one, 1), "the time is in the archive");
    }

    #[test]
    fn folders_come_before_what_they_hold() {
        let mut archive = Archive::default();
        for path in ["a/b/c", "a-b", "a.b/c", "a/b.d"] {
            archive.file(path, 0o644, "").unwrap();
        }
        let paths: Vec<_> = archive.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a-b", "a.b", "a.b/c", "a/b", "a/b.d", "a/b/c"]);
    }

    #[test]
    fn reads_back_what_was_written() {
        let mut archive = Archive::default();
        archive.add("dev/console", 0o600, Kind::Char { major: 5, minor: 1 }).unwrap();
        archive.file("bin/five", 0o755, "12345").unwrap();
        archive.link("init", "bin/five").unwrap();
        let bytes = bytes_of(&archive, 7);
        let (mut rest, mut seen) = (bytes.as_slice(), Vec::new());
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 7), "{}", entry.name());
            seen.push((entry.name().to_owned(), entry.ino(), entry.mode(), entry.rdev_major(), content));
            rest = reader.finish().unwrap();
        }
        let row = |name: &str, ino, mode, rdev, content: &[u8]| (name.to_owned(), ino, mode, rdev, content.to_vec());
        let want = [
            row("bin", 1, 0o040_755, 0, b""),
            row("bin/five", 2, 0o100_755, 0, b"12345"),
            row("dev", 3, 0o040_755, 0, b""),
            row("dev/console", 4, 0o020_600, 5, b""),
            row("init", 5, 0o120_777, 0, b"bin/five"),
        ];
        assert_eq!(seen, want);
    }

    #[test]
    fn refuses_paths_that_would_surprise() {
        for path in ["", "/init", "a//b", "a/", "./a", "a/../b", "..", "a\0b", "TRAILER!!!"] {
            let refused = Archive::default().file(path, 0o644, "");
            assert!(matches!(refused, Err(ArchiveError::Path { .. })), "{path:?}");
        }
        let mut archive = Archive::default();
        archive.file("a", 0o644, "").unwrap();
        assert!(matches!(archive.file("a", 0o644, ""), Err(ArchiveError::Twice { .. })));
        assert!(matches!(archive.file("a/b", 0o644, ""), Err(ArchiveError::Through { .. })));
        assert!(matches!(archive.folder("a", 0o755), Err(ArchiveError::Twice { .. })));
    }
}

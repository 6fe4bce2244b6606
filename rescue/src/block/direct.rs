//! Transfers of a file that pass by the page cache, where its file system lets them.
//!
//! ```text
//!   offset        whole pages at aligned memory          offset + len
//!     | page cache | straight to and from the medium | page cache |
//! ```
//!
//! A restore writes each byte once and must read it back from the medium: copying it into the page cache and out again
//! is all that the cache would do. Only whole pages go straight, so that no page is ever written both ways.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    unistd::{SysconfVar, sysconf},
};

use super::buffer::ALIGNMENT;

/// A file, open a second time, past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// Bytes that offsets and lengths are multiples of: a page, at least [`ALIGNMENT`].
    unit: u64,
    /// Set once the file system refused, for good: some take the flag when the file is opened and no transfer.
    refused: AtomicBool,
}

/// How a transfer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// This many bytes go straight.
    Straight(usize),
    /// This many bytes go through the page cache.
    Cached(usize),
}

impl Direct {
    /// Opens the file at `path` past the page cache, for reading and writing.
    ///
    /// * `inode`: device and inode number of the file that is meant.
    ///
    /// Returns `None` where its file system cannot do that, or the path leads to another file by now.
    pub(super) fn open(path: &Path, inode: (u64, u64)) -> Option<Self> {
        let flags = OFlag::O_DIRECT | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path).ok()?;
        let meta = file.metadata().ok()?;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()?.and_then(|page| u64::try_from(page).ok())?;
        let unit = page.max(ALIGNMENT as u64);
        ((meta.dev(), meta.ino()) == inode).then(|| Self { file, unit, refused: AtomicBool::new(false) })
    }

    /// Tells whether transfers still go straight.
    pub(super) fn is_on(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }

    /// Reads the beginning of `buf` from `offset` on, one way or the other; `cached` is the file with its page cache.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn read(&self, cached: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.way(buf.as_ptr(), buf.len(), offset) {
            Way::Straight(len) => match self.file.read_at(&mut buf[..len], offset) {
                Err(error) if self.refuses(&error) => cached.read_at(&mut buf[..len], offset),
                done => done,
            },
            Way::Cached(len) => cached.read_at(&mut buf[..len], offset),
        }
    }

    /// Writes the beginning of `buf` at `offset`, one way or the other.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn write(&self, cached: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
        match self.way(buf.as_ptr(), buf.len(), offset) {
            Way::Straight(len) => match self.file.write_at(&buf[..len], offset) {
                Err(error) if self.refuses(&error) => cached.write_at(&buf[..len], offset),
                done => done,
            },
            Way::Cached(len) => cached.write_at(&buf[..len], offset),
        }
    }

    fn way(&self, memory: *const u8, len: usize, offset: u64) -> Way {
        // Bytes up to the next page; memory and offset must reach theirs at once.
        let ahead = usize::try_from(offset.next_multiple_of(self.unit) - offset).unwrap_or(len);
        if !self.is_on() || ahead >= len || !memory.addr().wrapping_add(ahead).is_multiple_of(ALIGNMENT) {
            return Way::Cached(len);
        }
        if ahead > 0 {
            return Way::Cached(ahead);
        }
        match usize::try_from(len as u64 / self.unit * self.unit) {
            Ok(whole) if whole > 0 => Way::Straight(whole),
            _ => Way::Cached(len),
        }
    }

    /// Tells whether `error` means that this way is closed, and remembers it.
    fn refuses(&self, error: &io::Error) -> bool {
        let closed = [Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOSYS];
        let refused = error.raw_os_error().is_some_and(|code| closed.contains(&Errno::from_raw(code)));
        if refused {
            self.refused.store(true, Ordering::Relaxed);
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::buffer::AlignedBuf;

    fn direct(unit: u64) -> Direct {
        let file = tempfile::tempfile().unwrap();
        Direct { file, unit, refused: AtomicBool::new(false) }
    }

    #[test]
    fn only_whole_pages_at_aligned_memory_go_straight() {
        let buf = AlignedBuf::zeroed(1 << 20);
        let at = |skip: usize| buf[skip..].as_ptr();
        for (unit, skip, len, offset, want) in [
            (4096, 0, 1 << 20, 0, Way::Straight(1 << 20)),
            (4096, 0, 10_000, 4096 * 7, Way::Straight(8192)),
            (4096, 512, 10_000, 4096 * 7 + 512, Way::Cached(3584)),
            (4096, 512, 3000, 4096 * 7 + 512, Way::Cached(3000)),
            (4096, 0, 4095, 0, Way::Cached(4095)),
            // Memory and offset never come to a page at once.
            (4096, 0, 1 << 20, 512, Way::Cached(1 << 20)),
            (4096, 512, 8192, 0, Way::Cached(8192)),
            // Larger pages than what memory is aligned to.
            (65536, 4096, 1 << 19, 65536, Way::Straight(1 << 19)),
            (65536, 4096, 1 << 19, 4096, Way::Cached(61440)),
            (65536, 4096, 32768, 65536, Way::Cached(32768)),
            (4096, 0, 0, 0, Way::Cached(0)),
            (4096, 0, 8192, u64::MAX - 4095, Way::Straight(8192)),
        ] {
            assert_eq!(direct(unit).way(at(skip), len, offset), want, "{unit} {skip} {len} {offset}");
        }
    }

    #[test]
    fn a_file_system_that_refuses_is_asked_once() {
        let direct = direct(4096);
        assert!(!direct.refuses(&Errno::ENOSPC.into()) && direct.is_on());
        assert!(direct.refuses(&Errno::EINVAL.into()) && !direct.is_on());
        let buf = AlignedBuf::zeroed(8192);
        assert_eq!(direct.way(buf.as_ptr(), 8192, 0), Way::Cached(8192));
    }

    #[test]
    fn another_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, [0; 4096]).unwrap();
        let meta = path.metadata().unwrap();
        assert!(Direct::open(&path, (meta.dev(), meta.ino() + 1)).is_none());
        assert!(Direct::open(&dir.path().join("missing"), (meta.dev(), meta.ino())).is_none());
    }
}

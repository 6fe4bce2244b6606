//! A file standing in for a disk.
//!
//! A source holds a shared advisory lock (`flock`), a target an exclusive one, for as long as it is open. Holes are
//! told from data, so that a sparse file of 2 TiB costs what it holds. A file that ends within a sector is a disk that
//! ends with it: what the file lacks of the sector reads as zeros, and the file grows by it only where other bytes are
//! written there. A target is written and read past the page cache where that is possible.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, Flock, FlockArg, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise},
    unistd::{Whence, lseek},
};

use super::{
    Discard, Disk, Error, Identity, ReadAt, TargetDisk, Transport, check_range,
    direct::Direct,
    discovery::{self, Roots},
    transfer::{self, SyncState},
};
use crate::{extent::Extent, units::SectorSize};

/// A file, open as a disk.
#[derive(Debug)]
pub struct FileDisk {
    file: Held,
    /// A target's second way, past the page cache. A source stays where others may have read it already.
    direct: Option<Direct>,
    path: PathBuf,
    identity: Identity,
    /// Bytes of the file; less than the disk's, where it ends within a sector.
    held: AtomicU64,
    /// Device and inode number: what the path must still name at the end.
    inode: (u64, u64),
    /// Bytes of a block of its file system.
    block: u64,
    synced: SyncState,
}

/// The open file, locked where its file system can lock.
#[derive(Debug)]
enum Held {
    Locked(Flock<File>),
    Unlocked(File),
}

impl std::ops::Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Locked(file) => file,
            Self::Unlocked(file) => file,
        }
    }
}

impl FileDisk {
    /// Opens `path` for reading; other sources may read it at the same time.
    ///
    /// * `sector_size`: 512 bytes where none is given.
    ///
    /// # Errors
    /// [`Error::Refused`] where the file is empty, or is being written as a target or through a loop device;
    /// [`Error::Open`].
    pub fn open_source(path: &Path, sector_size: Option<SectorSize>) -> Result<Self, Error> {
        Self::open(path, sector_size, false)
    }

    /// Opens `path` for reading and writing, alone.
    ///
    /// # Errors
    /// As [`FileDisk::open_source`]; also [`Error::Refused`] where the file cannot be written, is open as a source or
    /// target, or lies behind a loop device.
    pub fn open_target(path: &Path, sector_size: Option<SectorSize>) -> Result<Self, Error> {
        Self::open(path, sector_size, true)
    }

    fn open(path: &Path, sector_size: Option<SectorSize>, target: bool) -> Result<Self, Error> {
        let name = path.display().to_string();
        let sector_size = sector_size.unwrap_or(SectorSize::B512);
        let file = OpenOptions::new()
            .read(true)
            .write(target)
            // A pipe in the place of the file must not block the open.
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
            .open(path)
            .map_err(|source| open_error(&name, target, source))?;
        let meta =
            file.metadata().map_err(|source| Error::Open { action: "looking at", disk: name.clone(), source })?;
        check_shape(&name, &meta)?;
        let file = lock(file, &name, target)?;
        check_loops(&name, &meta, target)?;
        let identity = Identity {
            path: name,
            model: None,
            serial: None,
            wwn: None,
            transport: Transport::File,
            len: meta.len().next_multiple_of(sector_size.bytes()),
            sector_size,
            physical_sector_size: sector_size,
        };
        let inode = (meta.dev(), meta.ino());
        let held = AtomicU64::new(meta.len());
        let block = meta.blksize();
        let direct = if target { Direct::open(path, inode) } else { None };
        Ok(Self { file, direct, path: path.to_owned(), identity, held, inode, block, synced: SyncState::default() })
    }

    fn changed(&self, what: String) -> Error {
        Error::Changed { disk: self.identity.path.clone(), what }
    }

    fn io(&self, action: &'static str, range: Extent, errno: Errno) -> Error {
        let disk = self.identity.path.clone();
        Error::Io { action, disk, offset: range.start, len: range.len(), source: errno.into() }
    }

    /// Compares the length now with the one at opening. A file that was cut has no holes behind its end, but a seek
    /// for data there says the same as in a hole.
    fn check_len(&self) -> Result<(), Error> {
        let now = self.file.metadata().map_err(|e| self.changed(format!("it cannot be looked at any more ({e})")))?;
        let held = self.held();
        if now.len() == held {
            return Ok(());
        }
        Err(self.changed(format!("it held {held} bytes and now holds {}", now.len())))
    }

    fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Returns how many of `len` bytes from `offset` on lie in the file.
    fn inside(&self, offset: u64, len: usize) -> usize {
        usize::try_from(self.held().saturating_sub(offset)).map_or(len, |inside| inside.min(len))
    }

    /// Makes a hole of `range`; what lies beyond the end of the file stays beyond.
    fn punch(&self, range: Extent) -> Result<(), Errno> {
        let start = i64::try_from(range.start).map_err(|_| Errno::EOPNOTSUPP)?;
        let len = i64::try_from(range.len()).map_err(|_| Errno::EOPNOTSUPP)?;
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            match fallocate(&*self.file, how, start, len) {
                Err(Errno::EINTR) => {}
                done => return done,
            }
        }
    }

    /// Seeks for data or a hole; `None` where only a hole follows.
    fn seek(&self, offset: u64, whence: Whence) -> Result<Option<u64>, Errno> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        match lseek(&*self.file, offset, whence) {
            Ok(at) => Ok(u64::try_from(at).ok()),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn open_error(name: &str, target: bool, source: io::Error) -> Error {
    let refused = [Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ETXTBSY];
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) if target && refused.contains(&errno) => {
            Error::Refused { disk: name.to_owned(), reason: format!("it cannot be written: {}", errno.desc()) }
        }
        _ => Error::Open { action: "opening", disk: name.to_owned(), source },
    }
}

fn check_shape(name: &str, meta: &std::fs::Metadata) -> Result<(), Error> {
    let reason = if !meta.is_file() {
        "it is not a regular file".to_owned()
    } else if meta.len() == 0 {
        "it is empty".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Refused { disk: name.to_owned(), reason })
}

fn lock(file: File, name: &str, target: bool) -> Result<Held, Error> {
    let how = if target { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
    match Flock::lock(file, how) {
        Ok(file) => Ok(Held::Locked(file)),
        Err((_, Errno::EWOULDBLOCK)) => {
            let reason = if target { "another job has it open" } else { "another job is writing it" };
            Err(Error::Refused { disk: name.to_owned(), reason: reason.to_owned() })
        }
        // Some network file systems cannot lock. The lock is a courtesy between jobs, not what keeps data safe.
        Err((file, Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EBADF)) => Ok(Held::Unlocked(file)),
        Err((_, errno)) => Err(Error::Open { action: "locking", disk: name.to_owned(), source: errno.into() }),
    }
}

/// Refuses a target that is behind a loop device, and a source that a loop device may write to.
fn check_loops(name: &str, meta: &std::fs::Metadata, target: bool) -> Result<(), Error> {
    for looped in discovery::loops_over(&Roots::system(), meta.dev(), meta.ino()) {
        if target || looped.writes {
            let reason = format!("it is in use by {}", looped.by);
            return Err(Error::Refused { disk: name.to_owned(), reason });
        }
    }
    Ok(())
}

impl ReadAt for FileDisk {
    fn len(&self) -> u64 {
        self.identity.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, offset, buf.len() as u64)?;
        let (inside, lacking) = buf.split_at_mut(self.inside(offset, buf.len()));
        lacking.fill(0);
        transfer::read_full(&self.identity.path, inside, offset, |buf, at| match &self.direct {
            Some(direct) => direct.read(&self.file, buf, at),
            None => self.file.read_at(buf, at),
        })
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        let rest = Extent::new(offset, self.identity.len);
        if rest.is_empty() {
            return Ok(None);
        }
        let found = (|| {
            let Some(start) = self.seek(offset, Whence::SeekData)? else { return Ok(None) };
            let end = self.seek(start, Whence::SeekHole)?.unwrap_or(rest.end);
            Ok(Some(Extent::new(start, end).intersect(rest)).filter(|data| !data.is_empty()))
        })();
        match found {
            Ok(None) => self.check_len().map(|()| None),
            Ok(data) => Ok(data),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS) => Ok(Some(rest)),
            Err(errno) => Err(self.io("seeking data in", rest, errno)),
        }
    }
}

impl Disk for FileDisk {
    fn sector_size(&self) -> SectorSize {
        self.identity.sector_size
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.check_len()?;
        let named = std::fs::metadata(&self.path)
            .map_err(|e| self.changed(format!("its path does not lead to it any more ({e})")))?;
        if (named.dev(), named.ino()) != self.inode {
            return Err(self.changed("its path now names another file".to_owned()));
        }
        Ok(())
    }
}

impl TargetDisk for FileDisk {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, offset, buf.len() as u64)?;
        let (inside, lacking) = buf.split_at(self.inside(offset, buf.len()));
        let grows = lacking.iter().any(|byte| *byte != 0);
        let written = if grows { buf } else { inside };
        transfer::write_full(&self.identity.path, written, offset, |buf, at| match &self.direct {
            Some(direct) => direct.write(&self.file, buf, at),
            None => self.file.write_at(buf, at),
        })?;
        if grows {
            self.held.fetch_max(offset + buf.len() as u64, Ordering::AcqRel);
        }
        Ok(())
    }

    fn wants_aligned(&self) -> bool {
        self.direct.as_ref().is_some_and(Direct::is_on)
    }

    fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, range.start, range.len())?;
        if range.is_empty() {
            return Ok(());
        }
        match self.punch(range) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => transfer::write_zero_bytes(self, range),
            Err(errno) => Err(self.io("zeroing", range, errno)),
        }
    }

    fn can_discard(&self) -> Option<Discard> {
        let sector = self.identity.sector_size.bytes();
        let granularity = self.block.max(1).checked_next_multiple_of(sector).unwrap_or(sector);
        Some(Discard { granularity, solid_state: false })
    }

    fn discard(&self, range: Extent) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, range.start, range.len())?;
        if range.is_empty() {
            return Ok(());
        }
        self.punch(range).map_err(|errno| self.io("discarding", range, errno))
    }

    fn sync(&self) -> Result<(), Error> {
        self.synced.sync(&self.identity.path, || (&*self.file).flush().and_then(|()| self.file.sync_all()))
    }

    fn drop_caches(&self) -> Result<(), Error> {
        let whole = Extent::new(0, self.identity.len);
        posix_fadvise(&*self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|errno| self.io("dropping caches of", whole, errno))
    }

    fn reread_table(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        block::{
            read_vec,
            testing::{chain, compare_with_model},
        },
        units::{GIB, KIB, MIB, TIB},
    };

    fn sparse(len: u64) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        File::create(&path).unwrap().set_len(len).unwrap();
        (dir, path)
    }

    fn refusal(result: Result<FileDisk, Error>) -> String {
        match result {
            Err(Error::Refused { reason, .. }) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn transfers_of_every_alignment_equal_a_model() {
        let (_dir, path) = sparse(3 * MIB);
        for (sector_size, seed) in [(None, 1), (Some(SectorSize::B4096), 0x2545_f491_4f6c_dd1d)] {
            let disk = FileDisk::open_target(&path, sector_size).unwrap();
            assert_eq!(disk.sector_size(), sector_size.unwrap_or(SectorSize::B512));
            compare_with_model(&disk, seed, 300);
            disk.drop_caches().unwrap();
            disk.reread_table().unwrap();
        }
    }

    #[test]
    fn holes_of_a_large_file_are_told_from_data() {
        let (_dir, path) = sparse(2 * TIB);
        let target = FileDisk::open_target(&path, None).unwrap();
        let extents = [Extent::new(0, 64 * KIB), Extent::new(GIB, GIB + MIB), Extent::new(2 * TIB - MIB, 2 * TIB)];
        for extent in extents {
            target.write_all_at(&vec![1; usize::try_from(extent.len()).unwrap()], extent.start).unwrap();
        }
        let (mut at, mut found) = (0, Vec::new());
        while let Some(data) = target.next_data(at).unwrap() {
            found.push(data);
            at = data.end;
        }
        assert_eq!(found, extents);
        assert_eq!(target.next_data(GIB + 5000).unwrap(), Some(Extent::new(GIB + 5000, GIB + MIB)));
        assert_eq!(target.next_data(2 * TIB).unwrap(), None);
        assert_eq!(target.next_data(u64::MAX).unwrap(), None);
    }

    #[test]
    fn zeroing_frees_what_it_can_and_keeps_the_length() {
        let (_dir, path) = sparse(8 * MIB);
        let disk = FileDisk::open_target(&path, None).unwrap();
        disk.write_all_at(&vec![7; 8 << 20], 0).unwrap();
        disk.sync().unwrap();
        let before = path.metadata().unwrap().blocks();
        disk.write_zeros(Extent::new(1, 8 * MIB - 1)).unwrap();
        disk.write_zeros(Extent::new(5, 5)).unwrap();
        disk.sync().unwrap();
        let after = path.metadata().unwrap();
        assert_eq!(after.len(), 8 * MIB);
        assert!(after.blocks() < before / 2, "{} blocks of {before} are left", after.blocks());
        let bytes = read_vec(&disk, 0, 8 << 20).unwrap();
        assert!(bytes[0] == 7 && bytes[(8 << 20) - 1] == 7 && bytes[1..(8 << 20) - 1].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn files_that_are_no_disks_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("empty"), []).unwrap();
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        for (name, want) in
            [("empty", "it is empty"), ("pipe", "it is not a regular file"), (".", "it is not a regular file")]
        {
            assert_eq!(refusal(FileDisk::open_source(&at(name), None)), want, "{name}");
        }
        let missing = FileDisk::open_source(&at("missing"), None).unwrap_err();
        assert!(chain(&missing).ends_with("missing failed: No such file or directory (os error 2)"), "{missing:?}");
    }

    #[test]
    fn a_file_that_ends_within_a_sector_is_filled_up_with_zeros() {
        let (_dir, path) = sparse(4608);
        std::fs::write(&path, [3; 4700]).unwrap();
        let length = || path.metadata().unwrap().len();
        for (sector_size, len) in [(SectorSize::B512, 5120), (SectorSize::B4096, 8192)] {
            let source = FileDisk::open_source(&path, Some(sector_size)).unwrap();
            assert_eq!(source.len(), len);
            let bytes = read_vec(&source, 0, usize::try_from(len).unwrap()).unwrap();
            assert!(bytes[..4700].iter().all(|byte| *byte == 3) && bytes[4700..].iter().all(|byte| *byte == 0));
            assert_eq!(read_vec(&source, 4800, 20).unwrap(), [0; 20]);
            source.check_unchanged().unwrap();
        }
        let target = FileDisk::open_target(&path, None).unwrap();
        let mut sector = [0; 512];
        sector[..92].fill(5);
        target.write_all_at(&sector, 4608).unwrap();
        target.write_zeros(Extent::new(4700, 5120)).unwrap();
        assert_eq!((length(), read_vec(&target, 4608, 512).unwrap()), (4700, sector.to_vec()));
        target.check_unchanged().unwrap();
        sector[300] = 9;
        target.write_all_at(&sector, 4608).unwrap();
        assert_eq!((length(), read_vec(&target, 4608, 512).unwrap()), (5120, sector.to_vec()));
        target.check_unchanged().unwrap();
    }

    #[test]
    fn sources_share_a_file_and_a_target_has_it_alone() {
        let (dir, path) = sparse(MIB);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let source = FileDisk::open_source(&path, None).unwrap();
        let second = FileDisk::open_source(&link, None).unwrap();
        assert_eq!(second.identity().path, link.display().to_string());
        assert_eq!(refusal(FileDisk::open_target(&link, None)), "another job has it open");
        drop((source, second));
        let target = FileDisk::open_target(&path, None).unwrap();
        assert_eq!(refusal(FileDisk::open_source(&path, None)), "another job is writing it");
        assert_eq!(refusal(FileDisk::open_target(&path, None)), "another job has it open");
        drop(target);
        FileDisk::open_source(&path, None).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_no_target() {
        for (errno, want) in [(Errno::EROFS, "Read-only file system"), (Errno::EACCES, "Permission denied")] {
            let said = open_error("disk.raw", true, errno.into()).to_string();
            assert_eq!(said, format!("disk.raw: it cannot be written: {want}"));
            assert!(matches!(open_error("disk.raw", false, errno.into()), Error::Open { .. }));
        }
    }

    #[test]
    fn a_file_cut_while_it_is_read_is_short_and_changed_and_not_zeros() {
        let (_dir, path) = sparse(MIB);
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let disk = FileDisk::open_source(&path, None).unwrap();
        disk.check_unchanged().unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
        let short = disk.read_exact_at(&mut [0; 1024], 512).unwrap_err();
        assert!(matches!(short, Error::Short { offset: 512, wanted: 1024, got: 488, .. }), "{short:?}");
        assert!(matches!(disk.next_data(4096), Err(Error::Changed { .. })));
        assert!(chain(&disk.check_unchanged().unwrap_err()).ends_with("it held 1048576 bytes and now holds 1000"));
    }

    #[test]
    fn a_file_replaced_or_removed_is_changed() {
        let (dir, path) = sparse(MIB);
        let disk = FileDisk::open_source(&path, None).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        assert!(matches!(disk.check_unchanged(), Err(Error::Changed { .. })));
        File::create(&path).unwrap().set_len(MIB).unwrap();
        let changed = disk.check_unchanged().unwrap_err();
        assert!(chain(&changed).ends_with("its path now names another file"), "{changed:?}");
    }

    #[test]
    fn nothing_beyond_the_end_is_transferred() {
        let (_dir, path) = sparse(MIB);
        let disk = FileDisk::open_target(&path, None).unwrap();
        let results = [
            disk.read_exact_at(&mut [0; 2], MIB - 1),
            disk.write_all_at(&[0; 2], MIB - 1),
            disk.write_zeros(Extent::new(MIB - 1, MIB + 1)),
            disk.write_all_at(&[0; 2], u64::MAX),
        ];
        assert!(results.iter().all(|result| matches!(result, Err(Error::Beyond { size: MIB, .. }))), "{results:?}");
        assert_eq!(path.metadata().unwrap().len(), MIB);
    }
}

//! A whole block device as a disk.
//!
//! ```text
//! source   O_RDONLY, direct, the kernel's read-only flag set on disk and partitions while it is open
//! look     O_RDONLY, direct, nothing set: for tables and labels of disks that somebody else uses
//! target   O_RDWR, direct, exclusive
//! ```
//!
//! Direct I/O, because the page cache would answer a read-back from memory and would keep a failed write to itself;
//! and a write-back error that nobody waits for is lost.

mod read_only;

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise},
    sys::stat::{major, minor},
};

use self::read_only::ReadOnly;
use super::{
    Discard, Disk, Error, Identity, ReadAt, TargetDisk, align, check_range,
    discovery::{self, DiskInfo, Node, Roots},
    transfer::{self, SyncState},
};
use crate::{escape::Escaped, extent::Extent, sys::ioctl, units::SectorSize};

/// Bytes zeroed by one call; the kernel cannot be interrupted in it.
const ZERO_PIECE: u64 = 64 << 20;

/// How often, and after which pause, the kernel is asked again to read a table while somebody (udev, mostly) looks at
/// the disk.
const REREAD_TRIES: u32 = 20;
const REREAD_PAUSE: Duration = Duration::from_millis(100);

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Source,
    Look,
    Target,
}

/// A block device, open.
#[derive(Debug)]
pub struct DeviceDisk {
    // Dropped in this order: nothing may be writable again before the device is closed.
    file: File,
    _read_only: Option<ReadOnly>,
    node: Node,
    sequence: Option<u64>,
    identity: Identity,
    direct: bool,
    discard: Option<Discard>,
    /// Held by writes that cover part of a sector: two of them in one sector must not read before either writes.
    splitting: Mutex<()>,
    synced: SyncState,
}

impl DeviceDisk {
    /// Opens a disk for reading and keeps everybody, this program included, from writing to it while it is open.
    ///
    /// # Errors
    /// [`Error::Refused`] for a partition, or where something that is mounted or running may write to the disk;
    /// [`Error::Open`].
    pub fn open_source(path: &Path) -> Result<Self, Error> {
        Self::open(path, Purpose::Source)
    }

    /// Opens a disk for a look: reading, without keeping anybody from anything. What is read may change meanwhile.
    ///
    /// # Errors
    /// As [`DeviceDisk::open_source`], but for disks in use.
    pub fn open_look(path: &Path) -> Result<Self, Error> {
        Self::open(path, Purpose::Look)
    }

    /// Opens a disk for reading and writing, alone.
    ///
    /// # Errors
    /// [`Error::Refused`] for a partition, a read-only disk or one with any use; [`Error::Open`].
    pub fn open_target(path: &Path) -> Result<Self, Error> {
        Self::open(path, Purpose::Target)
    }

    /// Tells whether reads and writes pass by the page cache. Some drivers cannot.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    fn open(path: &Path, purpose: Purpose) -> Result<Self, Error> {
        let roots = Roots::system();
        let name = path.display().to_string();
        let node = whole_disk_at(&roots, path, &name)?;
        if purpose == Purpose::Target && read_only::release_stale(&node) {
            return Err(Error::Refused { disk: name, reason: "another job is reading it".to_owned() });
        }
        let info = known(&roots, &node, &name)?;
        refuse_use(&name, &info, purpose)?;
        let (file, direct, exclusive) = open_node(path, &name, purpose)?;
        check_number(&file, &node, &name)?;
        let flagged = ask(&name, "asking for the read-only flag of", ioctl::read_only(&file))?;
        if purpose == Purpose::Target && flagged {
            return Err(Error::Refused { disk: name, reason: "it is read-only".to_owned() });
        }
        let read_only = if purpose == Purpose::Source {
            refuse_hidden_use(&name, &info, exclusive, flagged)?;
            let flag = ask(&name, "setting the read-only flag of", ReadOnly::set(&node, &file))?;
            // Once more, now that nobody new can start to write.
            refuse_use(&name, &known(&roots, &node, &name)?, purpose)?;
            Some(flag)
        } else {
            None
        };
        let discard = info.discard;
        let identity = measure(&file, &name, info.identity)?;
        Ok(Self {
            file,
            _read_only: read_only,
            sequence: node.sequence(),
            node,
            identity,
            direct,
            discard,
            splitting: Mutex::new(()),
            synced: SyncState::default(),
        })
    }

    fn unit(&self) -> u64 {
        self.identity.sector_size.bytes()
    }

    fn name(&self) -> &str {
        &self.identity.path
    }

    fn read_units(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        transfer::read_full(self.name(), buf, offset, |buf, at| self.file.read_at(buf, at))
    }

    fn write_units(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        transfer::write_full(self.name(), buf, offset, |buf, at| self.file.write_at(buf, at))
    }

    fn io(&self, action: &'static str, range: Extent, source: io::Error) -> Error {
        Error::Io { action, disk: self.name().to_owned(), offset: range.start, len: range.len(), source }
    }

    /// Zeroes whole sectors.
    fn zero_units(&self, range: Extent) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let piece = Extent::new(at, range.end.min(at.saturating_add(ZERO_PIECE)));
            match ioctl::zero_out(&self.file, piece.start, piece.len()) {
                Ok(()) => at = piece.end,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_one_of(&e, &[Errno::ENOTTY, Errno::EINVAL, Errno::EOPNOTSUPP]) => {
                    return transfer::write_zero_bytes(self, Extent::new(at, range.end));
                }
                Err(e) => return Err(self.io("zeroing", piece, e)),
            }
        }
        Ok(())
    }

    fn changed(&self, what: String) -> Error {
        Error::Changed { disk: self.name().to_owned(), what }
    }
}

fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|code| errnos.contains(&Errno::from_raw(code)))
}

fn ask<T>(disk: &str, action: &'static str, answer: io::Result<T>) -> Result<T, Error> {
    answer.map_err(|source| Error::Open { action, disk: disk.to_owned(), source })
}

/// Finds the disk in sysfs that `path` is the node of.
fn whole_disk_at(roots: &Roots, path: &Path, name: &str) -> Result<Node, Error> {
    let refused = |reason: String| Error::Refused { disk: name.to_owned(), reason };
    let meta = ask(name, "looking at", std::fs::metadata(path))?;
    if !meta.file_type().is_block_device() {
        return Err(refused("it is no block device".to_owned()));
    }
    let number = (major(meta.rdev()), minor(meta.rdev()));
    let node = Node::by_number(roots, number)
        .ok_or_else(|| refused(format!("the kernel knows no device {}:{}", number.0, number.1)))?;
    match node.whole_disk() {
        Some(disk) if disk == node => Ok(node),
        Some(disk) => Err(refused(format!("it is a partition; name the whole disk ({})", disk.path().display()))),
        None => Err(refused("it is a partition of no disk".to_owned())),
    }
}

/// Checks that what was opened is what was looked up: a name can come to mean another device in between.
fn check_number(file: &File, node: &Node, name: &str) -> Result<(), Error> {
    let rdev = ask(name, "looking at", file.metadata())?.rdev();
    if (major(rdev), minor(rdev)) == node.dev {
        return Ok(());
    }
    Err(Error::Changed { disk: name.to_owned(), what: "another device took its name while it was opened".to_owned() })
}

fn known(roots: &Roots, node: &Node, name: &str) -> Result<DiskInfo, Error> {
    discovery::disk_in(roots, node).ok_or_else(|| Error::Refused {
        disk: name.to_owned(),
        reason: "it holds nothing: a drive without a medium, or a device that is not set up".to_owned(),
    })
}

fn refuse_use(name: &str, info: &DiskInfo, purpose: Purpose) -> Result<(), Error> {
    let conflict = info.in_use.iter().find(|one| match purpose {
        Purpose::Source => one.writes,
        Purpose::Look => false,
        Purpose::Target => true,
    });
    match conflict {
        Some(one) if one.part == info.name => {
            Err(Error::Refused { disk: name.to_owned(), reason: format!("it is in use: {}", Escaped(&one.by)) })
        }
        Some(one) => {
            let reason = format!("its part {} is in use: {}", one.part, Escaped(&one.by));
            Err(Error::Refused { disk: name.to_owned(), reason })
        }
        None => Ok(()),
    }
}

/// Refuses a source that somebody has open exclusively without showing it: an external journal, a ZFS pool. Another
/// job that reads the same disk is told by the read-only flag. This comes before the flag is set, because a writer
/// would see its writes fail from then on.
fn refuse_hidden_use(name: &str, info: &DiskInfo, exclusive: bool, flagged: bool) -> Result<(), Error> {
    if exclusive || flagged || !info.in_use.is_empty() {
        return Ok(());
    }
    let reason = "something that does not show itself has it open exclusively and may write to it".to_owned();
    Err(Error::Refused { disk: name.to_owned(), reason })
}

/// Opens the node; tells whether for direct I/O and whether exclusively.
fn open_node(path: &Path, name: &str, purpose: Purpose) -> Result<(File, bool, bool), Error> {
    let attempt = |direct: bool, exclusive: bool| {
        let mut flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        flags.set(OFlag::O_DIRECT, direct);
        flags.set(OFlag::O_EXCL, exclusive);
        OpenOptions::new().read(true).write(purpose == Purpose::Target).custom_flags(flags.bits()).open(path)
    };
    let (mut direct, mut exclusive) = (true, purpose != Purpose::Look);
    loop {
        match attempt(direct, exclusive) {
            Ok(file) => return Ok((file, direct, exclusive)),
            Err(e) if direct && is_one_of(&e, &[Errno::EINVAL]) => direct = false,
            Err(e) if exclusive && purpose == Purpose::Source && is_one_of(&e, &[Errno::EBUSY]) => exclusive = false,
            Err(e) if is_one_of(&e, &[Errno::EINTR]) => {}
            Err(e) => return Err(open_error(name, purpose, e)),
        }
    }
}

fn open_error(name: &str, purpose: Purpose, source: io::Error) -> Error {
    let reason = if purpose != Purpose::Target {
        None
    } else if is_one_of(&source, &[Errno::EBUSY]) {
        Some("something has it open exclusively")
    } else if is_one_of(&source, &[Errno::EROFS]) {
        Some("it is read-only")
    } else {
        None
    };
    match reason {
        Some(reason) => Error::Refused { disk: name.to_owned(), reason: reason.to_owned() },
        None => Error::Open { action: "opening", disk: name.to_owned(), source },
    }
}

/// Replaces what sysfs says of size and sectors by what the open device says.
fn measure(file: &File, name: &str, mut identity: Identity) -> Result<Identity, Error> {
    identity.path = name.to_owned();
    identity.len = ask(name, "asking for the size of", ioctl::size(file))?;
    let sector = ask(name, "asking for the sector size of", ioctl::logical_sector(file))?;
    identity.sector_size =
        SectorSize::new(sector).map_err(|e| Error::Refused { disk: name.to_owned(), reason: e.to_string() })?;
    identity.physical_sector_size =
        ioctl::physical_sector(file).ok().and_then(|size| SectorSize::new(size).ok()).unwrap_or(identity.sector_size);
    let reason = if identity.len == 0 {
        "it holds no bytes".to_owned()
    } else if !identity.sector_size.aligns(identity.len) {
        format!("its {} bytes are no whole number of sectors of {} bytes", identity.len, identity.sector_size)
    } else {
        return Ok(identity);
    };
    Err(Error::Refused { disk: name.to_owned(), reason })
}

impl ReadAt for DeviceDisk {
    fn len(&self) -> u64 {
        self.identity.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        check_range(self.name(), self.identity.len, offset, buf.len() as u64)?;
        align::read(buf, offset, self.unit(), |buf, at| self.read_units(buf, at))
    }
}

impl Disk for DeviceDisk {
    fn sector_size(&self) -> SectorSize {
        self.identity.sector_size
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let len =
            ioctl::size(&self.file).map_err(|e| self.changed(format!("it does not tell its size any more ({e})")))?;
        if len != self.identity.len {
            return Err(self.changed(format!("it held {} bytes and now holds {len}", self.identity.len)));
        }
        let roots = Roots::system();
        let gone = || self.changed("the kernel has no such device any more".to_owned());
        let node = Node::by_number(&roots, self.node.dev).ok_or_else(gone)?;
        if node.name != self.node.name || node.sequence() != self.sequence {
            return Err(self.changed("another disk took its place".to_owned()));
        }
        let now = discovery::disk_in(&roots, &node).ok_or_else(gone)?.identity;
        for (what, then, now) in
            [("serial number", &self.identity.serial, &now.serial), ("world wide name", &self.identity.wwn, &now.wwn)]
        {
            if then != now {
                let shown = |text: &Option<String>| text.as_deref().unwrap_or("none").to_owned();
                let (then, now) = (shown(then), shown(now));
                return Err(self.changed(format!("its {what} was {} and now is {}", Escaped(&then), Escaped(&now))));
            }
        }
        Ok(())
    }
}

impl TargetDisk for DeviceDisk {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        check_range(self.name(), self.identity.len, offset, buf.len() as u64)?;
        let range = Extent::new(offset, offset + buf.len() as u64);
        let _guard = align::splits_units(range, self.unit())
            .then(|| self.splitting.lock().unwrap_or_else(PoisonError::into_inner));
        align::write(buf, offset, self.unit(), |buf, at| self.read_units(buf, at), |buf, at| self.write_units(buf, at))
    }

    fn wants_aligned(&self) -> bool {
        self.direct
    }

    fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        check_range(self.name(), self.identity.len, range.start, range.len())?;
        let (head, body, tail) = align::whole_units(range, self.unit());
        transfer::write_zero_bytes(self, head)?;
        self.zero_units(body)?;
        transfer::write_zero_bytes(self, tail)
    }

    fn can_discard(&self) -> Option<Discard> {
        self.discard
    }

    fn discard(&self, range: Extent) -> Result<(), Error> {
        check_range(self.name(), self.identity.len, range.start, range.len())?;
        let (_, body, _) = align::whole_units(range, self.unit());
        if body.is_empty() {
            return Ok(());
        }
        loop {
            match ioctl::discard(&self.file, body.start, body.len()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map_err(|e| self.io("discarding", body, e)),
            }
        }
    }

    fn sync(&self) -> Result<(), Error> {
        self.synced.sync(self.name(), || self.file.sync_all())
    }

    fn drop_caches(&self) -> Result<(), Error> {
        let whole = Extent::new(0, self.identity.len);
        let action = "dropping caches of";
        ioctl::flush_buffers(&self.file).map_err(|e| self.io(action, whole, e))?;
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|errno| self.io(action, whole, errno.into()))
    }

    fn reread_table(&self) -> Result<(), Error> {
        for _ in 1..REREAD_TRIES {
            match ioctl::reread_table(&self.file) {
                Err(e) if is_one_of(&e, &[Errno::EBUSY, Errno::EINTR]) => std::thread::sleep(REREAD_PAUSE),
                done => return self.reread_done(done),
            }
        }
        self.reread_done(ioctl::reread_table(&self.file))
    }
}

impl DeviceDisk {
    fn reread_done(&self, done: io::Result<()>) -> Result<(), Error> {
        match done {
            // A device that never has partitions has no table to read.
            Err(e) if is_one_of(&e, &[Errno::EINVAL, Errno::ENOTTY]) => Ok(()),
            Err(e) => Err(self.io("reading the table of", Extent::new(0, self.identity.len), e)),
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::discovery::{Use, tests::Tree};

    fn used(by: &[(&str, &str, bool)]) -> DiskInfo {
        let tree = Tree::new();
        tree.disk("sdz", "8:400", "devices/pci0/0");
        let node = Node::by_number(&tree.roots(), (8, 400)).unwrap();
        let mut info = discovery::disk_in(&tree.roots(), &node).unwrap();
        let one = |&(part, by, writes): &(&str, &str, bool)| Use { part: part.to_owned(), by: by.to_owned(), writes };
        info.in_use = by.iter().map(one).collect();
        info
    }

    #[test]
    fn uses_stand_in_the_way_of_some_purposes() {
        let part = |by| Some(format!("/dev/sdz: its part sdz1 is in use: {by}"));
        for (uses, source, target) in [
            (&[][..], None, None),
            (&[("sdz1", "mounted at /", true)], part("mounted at /"), part("mounted at /")),
            (&[("sdz1", "mounted at /a\u{1b}", false)], None, part("mounted at /a\\u{1b}")),
            (&[("sdz1", "mounted at /", false), ("sdz1", "swap", true)], part("swap"), part("mounted at /")),
            (
                &[("sdz", "dm-0 (x)", true)],
                Some("/dev/sdz: it is in use: dm-0 (x)".to_owned()),
                Some("/dev/sdz: it is in use: dm-0 (x)".to_owned()),
            ),
        ] {
            let info = used(uses);
            let said = |purpose| refuse_use("/dev/sdz", &info, purpose).err().map(|e| e.to_string());
            assert_eq!([said(Purpose::Source), said(Purpose::Look), said(Purpose::Target)], [source, None, target]);
        }
    }

    #[test]
    fn an_exclusive_user_that_does_not_show_itself_stands_in_the_way_of_a_source() {
        let (free, mounted) = (used(&[]), used(&[("sdz1", "mounted at /", false)]));
        for (name, info, exclusive, flagged, ok) in [
            ("opened exclusively", &free, true, false, true),
            ("nobody shows", &free, false, false, false),
            ("another job reads it", &free, false, true, true),
            ("a read-only mount", &mounted, false, false, true),
        ] {
            assert_eq!(refuse_hidden_use("sdz", info, exclusive, flagged).is_ok(), ok, "{name}");
        }
    }

    #[test]
    fn errors_of_opening_a_target_say_what_is_the_matter() {
        for (errno, purpose, want) in [
            (Errno::EBUSY, Purpose::Target, "sdz: something has it open exclusively"),
            (Errno::EROFS, Purpose::Target, "sdz: it is read-only"),
            (Errno::EACCES, Purpose::Target, "opening sdz failed"),
            (Errno::EROFS, Purpose::Source, "opening sdz failed"),
        ] {
            assert_eq!(open_error("sdz", purpose, errno.into()).to_string(), want);
        }
    }

    #[test]
    fn what_is_no_block_device_is_refused() {
        let error = DeviceDisk::open_source(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "/dev/null: it is no block device");
    }
}

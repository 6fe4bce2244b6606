//! A disk that fails as it is told to, and remembers what was asked of it. For tests.
//!
//! ```
//! use rescue::{block::{MemoryDisk, ReadAt, faulty::{FaultyDisk, Kind, Repeat}}, units::SectorSize};
//!
//! let disk = MemoryDisk::new(vec![0; 4096], SectorSize::B512);
//! let disk = FaultyDisk::new(disk).fails_at(Kind::Read, 2, Repeat::Once);
//! let log = disk.log();
//! let mut sector = [0; 512];
//! assert!(disk.read_exact_at(&mut sector, 0).is_ok());
//! assert!(disk.read_exact_at(&mut sector, 512).is_err());
//! assert!(disk.read_exact_at(&mut sector, 512).is_ok());
//! assert_eq!(log.reads().len(), 3);
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use super::{Discard, Disk, Error, Identity, ReadAt, TargetDisk};
use crate::{
    extent::{Extent, ExtentSet},
    units::SectorSize,
};

/// One thing asked of a disk, whether it was done or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of these bytes.
    Read(Extent),
    /// A write of these bytes.
    Write(Extent),
    /// These bytes made to read as zeros.
    Zero(Extent),
    /// These bytes discarded.
    Discard(Extent),
    /// A flush to the medium.
    Sync,
    /// Caches dropped.
    DropCaches,
    /// The table read again.
    RereadTable,
    /// Size and identity compared.
    CheckUnchanged,
}

/// What kind of thing is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Op::Read`].
    Read,
    /// [`Op::Write`] and [`Op::Zero`].
    Write,
    /// [`Op::Sync`].
    Sync,
    /// [`Op::DropCaches`].
    DropCaches,
    /// [`Op::RereadTable`].
    RereadTable,
    /// [`Op::CheckUnchanged`].
    CheckUnchanged,
    /// [`Op::Discard`].
    Discard,
}

impl Op {
    const fn kind(self) -> Kind {
        match self {
            Self::Read(_) => Kind::Read,
            Self::Write(_) | Self::Zero(_) => Kind::Write,
            Self::Discard(_) => Kind::Discard,
            Self::Sync => Kind::Sync,
            Self::DropCaches => Kind::DropCaches,
            Self::RereadTable => Kind::RereadTable,
            Self::CheckUnchanged => Kind::CheckUnchanged,
        }
    }

    const fn extent(self) -> Extent {
        match self {
            Self::Read(extent) | Self::Write(extent) | Self::Zero(extent) | Self::Discard(extent) => extent,
            _ => Extent::new(0, 0),
        }
    }
}

/// Whether a fault strikes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// That one time.
    Once,
    /// That time and every later one.
    FromThenOn,
}

/// What was asked of a disk, in order. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    ops: Vec<Op>,
    /// How many of each [`Kind`].
    counts: [usize; 7],
}

impl Log {
    /// Returns everything in order.
    #[must_use]
    pub fn ops(&self) -> Vec<Op> {
        self.with(|noted| noted.ops.clone())
    }

    /// Returns the reads in order.
    #[must_use]
    pub fn reads(&self) -> Vec<Extent> {
        self.extents(Kind::Read)
    }

    /// Returns the writes in order, zeroing included.
    #[must_use]
    pub fn writes(&self) -> Vec<Extent> {
        self.extents(Kind::Write)
    }

    /// Returns every byte that was written or zeroed.
    #[must_use]
    pub fn written(&self) -> ExtentSet {
        self.writes().into_iter().collect()
    }

    /// Returns every byte that was discarded.
    #[must_use]
    pub fn discarded(&self) -> ExtentSet {
        self.extents(Kind::Discard).into_iter().collect()
    }

    /// Returns how often something of this kind was asked.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.with(|noted| noted.counts[kind as usize])
    }

    /// Forgets what was asked so far; counting starts anew.
    pub fn clear(&self) {
        self.with(|noted| *noted = Noted::default());
    }

    fn extents(&self, kind: Kind) -> Vec<Extent> {
        self.with(|noted| noted.ops.iter().filter(|op| op.kind() == kind).map(|op| op.extent()).collect())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Noted) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes `op`; returns its number among those of its kind, counted from 1, and how many transfers
    /// there were.
    fn note(&self, op: Op) -> Numbers {
        self.with(|noted| {
            noted.ops.push(op);
            noted.counts[op.kind() as usize] += 1;
            let transfers = noted.counts[Kind::Read as usize] + noted.counts[Kind::Write as usize];
            Numbers { of_kind: noted.counts[op.kind() as usize], transfers }
        })
    }
}

#[derive(Clone, Copy)]
struct Numbers {
    of_kind: usize,
    transfers: usize,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Medium errors in these bytes.
    Bad(Kind, Extent),
    /// An error at the n-th operation of a kind.
    At(Kind, usize, Repeat, Errno),
    /// The disk ends here, whatever it said.
    EndsAt(u64),
    /// The disk is gone after so many reads and writes.
    GoneAfter(usize),
    /// The n-th write stores something else, and says nothing.
    Corrupts(usize),
}

/// A disk with faults around another one.
#[derive(Debug)]
pub struct FaultyDisk<D> {
    inner: D,
    faults: Vec<Fault>,
    log: Log,
}

impl<D: Disk> FaultyDisk<D> {
    /// Wraps `inner`, without a fault yet.
    #[must_use]
    pub fn new(inner: D) -> Self {
        Self { inner, faults: Vec::new(), log: Log::default() }
    }

    /// Lets every operation of this kind that touches `extent` fail with `EIO`.
    #[must_use]
    pub fn bad_at(self, kind: Kind, extent: Extent) -> Self {
        self.with(Fault::Bad(kind, extent))
    }

    /// Lets the `nth` operation of this kind fail with `EIO`; the first one is 1.
    #[must_use]
    pub fn fails_at(self, kind: Kind, nth: usize, repeat: Repeat) -> Self {
        self.fails_with(kind, nth, repeat, Errno::EIO)
    }

    /// Lets the `nth` operation of this kind fail with `errno`; the first one is 1.
    #[must_use]
    pub fn fails_with(self, kind: Kind, nth: usize, repeat: Repeat, errno: Errno) -> Self {
        self.with(Fault::At(kind, nth, repeat, errno))
    }

    /// Lets the disk end at `offset`, as one that shrank after it was opened: transfers beyond are short.
    #[must_use]
    pub fn ends_at(self, offset: u64) -> Self {
        self.with(Fault::EndsAt(offset))
    }

    /// Unplugs the disk after `transfers` reads and writes: it then reads as end of file, and is known as changed.
    #[must_use]
    pub fn gone_after(self, transfers: usize) -> Self {
        self.with(Fault::GoneAfter(transfers))
    }

    /// Lets the `nth` write store a flipped bit in its middle, and succeed; the first one is 1.
    #[must_use]
    pub fn corrupts_write(self, nth: usize) -> Self {
        self.with(Fault::Corrupts(nth))
    }

    /// Returns the log of what is asked of the disk.
    #[must_use]
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Returns the disk inside.
    #[must_use]
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    fn with(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    fn name(&self) -> String {
        self.inner.identity().path.clone()
    }

    /// Returns the size the faults leave, after so many transfers.
    fn size_after(&self, transfers: usize) -> u64 {
        let cut = |fault: &Fault| match *fault {
            Fault::EndsAt(offset) => Some(offset),
            Fault::GoneAfter(limit) if transfers > limit => Some(0),
            _ => None,
        };
        self.faults.iter().filter_map(cut).min().unwrap_or_else(|| self.inner.len())
    }

    /// Returns what the faults say to this operation.
    fn strikes(&self, op: Op, numbers: Numbers) -> Option<Errno> {
        self.faults.iter().find_map(|fault| match *fault {
            Fault::Bad(kind, extent) if kind == op.kind() && extent.overlaps(op.extent()) => Some(Errno::EIO),
            Fault::At(kind, nth, Repeat::Once, errno) if kind == op.kind() && numbers.of_kind == nth => Some(errno),
            Fault::At(kind, nth, Repeat::FromThenOn, errno) if kind == op.kind() && numbers.of_kind >= nth => {
                Some(errno)
            }
            _ => None,
        })
    }

    /// Notes a transfer and fails it if it must.
    fn transfer(&self, action: &'static str, op: Op) -> Result<Numbers, Error> {
        let numbers = self.log.note(op);
        let (extent, disk) = (op.extent(), self.name());
        let size = self.size_after(numbers.transfers);
        if extent.end > size && extent.end <= self.inner.len() {
            let [wanted, got] = [extent.len(), Extent::new(extent.start, size).len()]
                .map(|len| usize::try_from(len).unwrap_or(usize::MAX));
            return Err(Error::Short { disk, offset: extent.start, wanted, got });
        }
        match self.strikes(op, numbers) {
            Some(errno) => {
                Err(Error::Io { action, disk, offset: extent.start, len: extent.len(), source: errno.into() })
            }
            None => Ok(numbers),
        }
    }
}

fn extent_of(offset: u64, buf: &[u8]) -> Extent {
    Extent::new(offset, offset.saturating_add(buf.len() as u64))
}

impl<D: Disk> ReadAt for FaultyDisk<D> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.transfer("reading", Op::Read(extent_of(offset, buf)))?;
        self.inner.read_exact_at(buf, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        self.inner.next_data(offset)
    }
}

impl<D: Disk> Disk for FaultyDisk<D> {
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }

    fn identity(&self) -> &Identity {
        self.inner.identity()
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let numbers = self.log.note(Op::CheckUnchanged);
        let (then, now) = (self.inner.len(), self.size_after(numbers.transfers.saturating_add(1)));
        if now != then {
            let what = format!("it held {then} bytes and now holds {now}");
            return Err(Error::Changed { disk: self.name(), what });
        }
        match self.strikes(Op::CheckUnchanged, numbers) {
            Some(errno) => Err(Error::Changed { disk: self.name(), what: errno.desc().to_owned() }),
            None => self.inner.check_unchanged(),
        }
    }
}

impl<D: TargetDisk> TargetDisk for FaultyDisk<D> {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let numbers = self.transfer("writing", Op::Write(extent_of(offset, buf)))?;
        let corrupts = |fault: &Fault| matches!(*fault, Fault::Corrupts(nth) if nth == numbers.of_kind);
        if !self.faults.iter().any(corrupts) {
            return self.inner.write_all_at(buf, offset);
        }
        let mut other = buf.to_vec();
        let middle = other.len() / 2;
        if let Some(byte) = other.get_mut(middle) {
            *byte ^= 0x10;
        }
        self.inner.write_all_at(&other, offset)
    }

    fn wants_aligned(&self) -> bool {
        self.inner.wants_aligned()
    }

    fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        self.transfer("zeroing", Op::Zero(range))?;
        self.inner.write_zeros(range)
    }

    fn can_discard(&self) -> Option<Discard> {
        self.inner.can_discard()
    }

    fn discard(&self, range: Extent) -> Result<(), Error> {
        self.transfer("discarding", Op::Discard(range))?;
        self.inner.discard(range)
    }

    fn sync(&self) -> Result<(), Error> {
        let numbers = self.log.note(Op::Sync);
        let gone = self.size_after(numbers.transfers) == 0;
        match self.strikes(Op::Sync, numbers).or(gone.then_some(Errno::EIO)) {
            Some(errno) => Err(Error::Sync { disk: self.name(), source: errno.into() }),
            None => self.inner.sync(),
        }
    }

    fn drop_caches(&self) -> Result<(), Error> {
        self.transfer("dropping caches of", Op::DropCaches)?;
        self.inner.drop_caches()
    }

    fn reread_table(&self) -> Result<(), Error> {
        self.transfer("reading the table of", Op::RereadTable)?;
        self.inner.reread_table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDisk;

    fn disk() -> FaultyDisk<Arc<MemoryDisk>> {
        FaultyDisk::new(Arc::new(MemoryDisk::new(vec![7; 8192], SectorSize::B512)))
    }

    fn read(disk: &impl ReadAt, offset: u64) -> Result<(), Error> {
        disk.read_exact_at(&mut [0; 512], offset)
    }

    #[test]
    fn bad_sectors_fail_reads_and_leave_writes_alone() {
        let disk = disk().bad_at(Kind::Read, Extent::new(1024, 1025));
        assert!(read(&disk, 512).is_ok());
        assert!(matches!(read(&disk, 1000), Err(Error::Io { action: "reading", offset: 1000, len: 512, .. })));
        disk.write_all_at(&[1; 512], 1024).unwrap();
        disk.check_unchanged().unwrap();
    }

    #[test]
    fn a_fault_strikes_once_or_from_then_on() {
        for (repeat, want) in
            [(Repeat::Once, [true, false, true, true]), (Repeat::FromThenOn, [true, false, false, false])]
        {
            let disk = disk().fails_at(Kind::Read, 2, repeat);
            assert_eq!([0, 1, 2, 3].map(|n| read(&disk, n * 512).is_ok()), want, "{repeat:?}");
        }
    }

    #[test]
    fn an_unplugged_disk_reads_short_and_is_known_as_changed() {
        let disk = disk().gone_after(2);
        assert!(read(&disk, 0).is_ok());
        disk.check_unchanged().unwrap();
        assert!(read(&disk, 512).is_ok());
        assert!(matches!(disk.check_unchanged(), Err(Error::Changed { .. })));
        assert!(matches!(read(&disk, 0), Err(Error::Short { got: 0, .. })));
        assert!(matches!(disk.sync(), Err(Error::Sync { .. })));
    }

    #[test]
    fn a_shrunk_disk_gives_what_is_left() {
        let disk = disk().ends_at(600);
        assert!(read(&disk, 0).is_ok());
        assert!(matches!(read(&disk, 512), Err(Error::Short { wanted: 512, got: 88, .. })));
        assert!(matches!(read(&disk, 8192), Err(Error::Beyond { .. })));
        assert!(matches!(disk.check_unchanged(), Err(Error::Changed { .. })));
    }

    #[test]
    fn a_corrupted_write_succeeds_and_differs() {
        let disk = disk().corrupts_write(2);
        disk.write_all_at(&[1; 512], 0).unwrap();
        disk.write_all_at(&[1; 512], 512).unwrap();
        let mut buf = [0; 1024];
        disk.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf.iter().filter(|byte| **byte != 1).count(), 1);
    }

    #[test]
    fn the_log_has_everything_in_order() {
        let disk = disk().fails_at(Kind::Sync, 1, Repeat::Once);
        disk.write_all_at(&[1; 512], 512).unwrap();
        disk.write_zeros(Extent::new(1024, 2048)).unwrap();
        assert!(disk.sync().is_err());
        disk.sync().unwrap();
        let [first, second] = [Extent::new(512, 1024), Extent::new(1024, 2048)];
        assert_eq!(disk.log().ops(), [Op::Write(first), Op::Zero(second), Op::Sync, Op::Sync]);
        assert_eq!(disk.log().written(), ExtentSet::from(Extent::new(512, 2048)));
    }
}

//! What every disk over a file descriptor does the same way: whole transfers, zeros by hand, syncs that stay failed.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Error, TargetDisk, buffer::AlignedBuf};
use crate::extent::Extent;

/// Bytes of zeros written at once where nothing cheaper makes zeros.
const ZEROS: usize = 1 << 20;

/// Fills `buf` by calls of `read`, each of which may transfer less than asked. No bytes before the end is
/// [`Error::Short`]: a disk that was unplugged reads as end of file.
///
/// # Errors
/// [`Error::Short`] or [`Error::Io`].
pub(super) fn read_full(
    disk: &str,
    buf: &mut [u8],
    offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> Result<(), Error> {
    let wanted = buf.len();
    whole(disk, "reading", offset, wanted, |done| read(&mut buf[done..], offset + done as u64))
}

/// Writes all of `buf` by calls of `write`, each of which may transfer less than asked.
///
/// # Errors
/// [`Error::Short`] or [`Error::Io`].
pub(super) fn write_full(
    disk: &str,
    buf: &[u8],
    offset: u64,
    write: impl Fn(&[u8], u64) -> io::Result<usize>,
) -> Result<(), Error> {
    whole(disk, "writing", offset, buf.len(), |done| write(&buf[done..], offset + done as u64))
}

fn whole(
    disk: &str,
    action: &'static str,
    offset: u64,
    wanted: usize,
    mut step: impl FnMut(usize) -> io::Result<usize>,
) -> Result<(), Error> {
    let mut done = 0;
    while done < wanted {
        match step(done) {
            Ok(0) => return Err(Error::Short { disk: disk.to_owned(), offset, wanted, got: done }),
            Ok(got) => done += got.min(wanted - done),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let (offset, len) = (offset + done as u64, (wanted - done) as u64);
                return Err(Error::Io { action, disk: disk.to_owned(), offset, len, source });
            }
        }
    }
    Ok(())
}

/// Writes zeros over `range`, for disks that have no cheaper way.
///
/// # Errors
/// Those of [`TargetDisk::write_all_at`].
pub(super) fn write_zero_bytes(disk: &dyn TargetDisk, range: Extent) -> Result<(), Error> {
    let zeros = AlignedBuf::zeroed(usize::try_from(range.len()).unwrap_or(ZEROS).min(ZEROS));
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(ZEROS).min(zeros.len());
        disk.write_all_at(&zeros[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

/// Remembers that a sync failed. The kernel reports a failed write-back once and then calls the pages clean, so a
/// later sync that succeeds proves nothing.
#[derive(Debug, Default)]
pub(super) struct SyncState {
    failed: AtomicBool,
}

impl SyncState {
    /// Runs `sync`, unless one failed before.
    ///
    /// # Errors
    /// [`Error::Sync`], from the first failure on for good.
    pub(super) fn sync(&self, disk: &str, sync: impl FnOnce() -> io::Result<()>) -> Result<(), Error> {
        let result =
            if self.failed.load(Ordering::Acquire) { Err(io::Error::other("an earlier flush failed")) } else { sync() };
        result.map_err(|source| {
            self.failed.store(true, Ordering::Release);
            Error::Sync { disk: disk.to_owned(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn interrupted_and_short_transfers_go_on() {
        let calls = std::cell::Cell::new(0);
        let mut buf = [0; 10];
        read_full("d", &mut buf, 100, |buf, at| {
            calls.set(calls.get() + 1);
            if calls.get() == 2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = buf.len().min(3);
            buf[..len].fill(u8::try_from(at - 100).unwrap() + 1);
            Ok(len)
        })
        .unwrap();
        assert_eq!(buf, [1, 1, 1, 4, 4, 4, 7, 7, 7, 10]);
    }

    #[test]
    fn nothing_read_before_the_end_is_short() {
        let got = read_full("d", &mut [0; 8], 40, |buf, at| if at < 44 { Ok(buf.len().min(4)) } else { Ok(0) });
        assert!(matches!(got, Err(Error::Short { offset: 40, wanted: 8, got: 4, .. })), "{got:?}");
    }

    #[test]
    fn an_error_says_where_it_struck() {
        let got =
            write_full("d", &[0; 8], 40, |buf, at| if at < 44 { Ok(buf.len().min(4)) } else { Err(Errno::EIO.into()) });
        assert!(matches!(got, Err(Error::Io { action: "writing", offset: 44, len: 4, .. })), "{got:?}");
    }

    #[test]
    fn a_failed_sync_stays_failed() {
        let state = SyncState::default();
        state.sync("d", || Ok(())).unwrap();
        assert!(matches!(state.sync("d", || Err(Errno::EIO.into())), Err(Error::Sync { .. })));
        assert!(matches!(state.sync("d", || Ok(())), Err(Error::Sync { .. })));
    }
}

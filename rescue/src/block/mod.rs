//! Disks as sectors: the one small trait that stands between logic and hardware.
//!
//! Parsers take a [`ReadAt`] and nothing else. A job reads a [`Disk`] and writes a [`TargetDisk`]; devices, files,
//! NBD exports, memory and fault-injecting test disks implement them, so that every job runs on each.
//!
//! Rules that hold for every implementation: a read or write is whole or an error (a disk that is unplugged reads
//! as end of file, which is [`Error::Short`]); offsets are bytes from the start; methods take `&self` and may be
//! called from several threads at once.

mod align;
pub mod buffer;
pub mod device;
mod direct;
pub mod discovery;
pub mod faulty;
pub mod file;
pub mod memory;
pub mod nbd;
pub mod open;
#[cfg(test)]
mod testing;
mod transfer;
pub mod volume;
pub mod window;

use std::{fmt, io, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    memory::MemoryDisk,
    open::{DiskRef, open_look, open_source, open_target},
    volume::VolumeLook,
    window::Window,
};
use crate::{extent::Extent, units::SectorSize};

/// What went wrong on the way to or from a disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk gave or took fewer bytes than it said it holds: unplugged, or shrunk meanwhile.
    #[error("{disk} ended at byte {offset:#x}: {got} of {wanted} bytes came (was it unplugged?)")]
    Short {
        /// The disk, as the person named it.
        disk: String,
        /// Where the transfer began.
        offset: u64,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes that came.
        got: usize,
    },
    /// The operating system reported an error.
    #[error("{action} {len} bytes at byte {offset:#x} of {disk} failed")]
    Io {
        /// `reading`, `writing`, `zeroing`, `discarding`.
        action: &'static str,
        /// The disk, as the person named it.
        disk: String,
        /// Where the transfer began.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A request beyond the end of the disk; nothing was transferred.
    #[error("bytes {offset:#x}+{len:#x} lie beyond {disk}, which holds {size} bytes")]
    Beyond {
        /// The disk, as the person named it.
        disk: String,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes the disk holds.
        size: u64,
    },
    /// Flushing to the medium failed: nothing written since the last good flush can be trusted.
    #[error("flushing {disk} to its medium failed; nothing written since the last flush can be trusted")]
    Sync {
        /// The disk, as the person named it.
        disk: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Opening, asking for the size or setting a flag failed.
    #[error("{action} {disk} failed")]
    Open {
        /// `opening`, `locking`, `reading the size of` ….
        action: &'static str,
        /// The disk, as the person named it.
        disk: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The disk is not the one that was opened: gone, replaced, or of another size.
    #[error("{disk} changed while it was in use: {what}")]
    Changed {
        /// The disk, as the person named it.
        disk: String,
        /// The two things that disagree.
        what: String,
    },
    /// The disk must not be used for this; nothing was touched.
    #[error("{disk}: {reason}")]
    Refused {
        /// The disk, as the person named it.
        disk: String,
        /// Why, as a clause.
        reason: String,
    },
}

/// A run of bytes that can be read at any offset, from several threads.
#[expect(clippy::len_without_is_empty, reason = "a disk without bytes is refused when it is opened")]
pub trait ReadAt: Send + Sync {
    /// Returns how many bytes there are.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// [`Error::Beyond`], [`Error::Short`] or [`Error::Io`]; what `buf` then holds is undefined.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error>;

    /// Returns the first extent at or after `offset` that may hold anything but zeros, without reading it; `None`
    /// when only zeros follow. Disks that cannot tell answer with everything from `offset` on.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        Ok((offset < self.len()).then(|| Extent::new(offset, self.len())))
    }
}

/// Reads `len` bytes at `offset` into new memory. The caller bounds `len`.
///
/// # Errors
/// As [`ReadAt::read_exact_at`]; a range beyond the end is found before memory is taken.
pub fn read_vec(disk: &dyn ReadAt, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
    check_range("the disk", disk.len(), offset, len as u64)?;
    let mut out = vec![0; len];
    disk.read_exact_at(&mut out, offset)?;
    Ok(out)
}

/// Checks that `offset..offset + len` lies in a disk of `size` bytes.
///
/// # Errors
/// [`Error::Beyond`] when it does not.
pub fn check_range(disk: &str, size: u64, offset: u64, len: u64) -> Result<(), Error> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::Beyond { disk: disk.to_owned(), offset, len, size }),
    }
}

/// A whole disk, open for reading.
pub trait Disk: ReadAt {
    /// Returns the addressable unit.
    fn sector_size(&self) -> SectorSize;

    /// Returns what tells this disk from others, as read when it was opened.
    fn identity(&self) -> &Identity;

    /// Asks again for size and identity and compares them with what was true when the disk was opened.
    ///
    /// # Errors
    /// [`Error::Changed`] when the disk is gone, replaced or of another size.
    fn check_unchanged(&self) -> Result<(), Error>;
}

/// A whole disk, open for writing as well.
pub trait TargetDisk: Disk {
    /// Writes all of `buf` at `offset`. Durable only after [`TargetDisk::sync`].
    ///
    /// # Errors
    /// [`Error::Beyond`], [`Error::Short`] or [`Error::Io`].
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error>;

    /// Tells whether writes from an [`buffer::AlignedBuf`] save a copy.
    fn wants_aligned(&self) -> bool {
        false
    }

    /// Makes `range` read as zeros, by the cheapest way the disk has that guarantees it.
    ///
    /// # Errors
    /// As [`TargetDisk::write_all_at`].
    fn write_zeros(&self, range: Extent) -> Result<(), Error>;

    /// Returns how the disk takes the news that bytes are not needed any more; `None` where it does not.
    fn can_discard(&self) -> Option<Discard> {
        None
    }

    /// Tells the disk that what `range` holds is not needed any more. Of units that it holds in part nothing changes; the
    /// rest may read as anything from then on.
    ///
    /// # Errors
    /// As [`TargetDisk::write_all_at`]; `EOPNOTSUPP` where the disk cannot.
    fn discard(&self, range: Extent) -> Result<(), Error> {
        let disk = self.identity().path.clone();
        let source = nix::errno::Errno::EOPNOTSUPP.into();
        Err(Error::Io { action: "discarding", disk, offset: range.start, len: range.len(), source })
    }

    /// Brings everything written so far to the medium.
    ///
    /// # Errors
    /// [`Error::Sync`]: all that was written since the last good flush is then in doubt.
    fn sync(&self) -> Result<(), Error>;

    /// Drops what caches hold of the disk, so that the next read comes from the medium. After [`TargetDisk::sync`].
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    fn drop_caches(&self) -> Result<(), Error>;

    /// Lets the kernel read the partition table again. Nothing to do for anything but a device.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    fn reread_table(&self) -> Result<(), Error>;
}

macro_rules! shared {
    ($pointer:ident) => {
        impl<T: ReadAt + ?Sized> ReadAt for $pointer<T> {
            fn len(&self) -> u64 {
                (**self).len()
            }

            fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
                (**self).read_exact_at(buf, offset)
            }

            fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
                (**self).next_data(offset)
            }
        }

        impl<T: Disk + ?Sized> Disk for $pointer<T> {
            fn sector_size(&self) -> SectorSize {
                (**self).sector_size()
            }

            fn identity(&self) -> &Identity {
                (**self).identity()
            }

            fn check_unchanged(&self) -> Result<(), Error> {
                (**self).check_unchanged()
            }
        }

        impl<T: TargetDisk + ?Sized> TargetDisk for $pointer<T> {
            fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
                (**self).write_all_at(buf, offset)
            }

            fn wants_aligned(&self) -> bool {
                (**self).wants_aligned()
            }

            fn write_zeros(&self, range: Extent) -> Result<(), Error> {
                (**self).write_zeros(range)
            }

            fn can_discard(&self) -> Option<Discard> {
                (**self).can_discard()
            }

            fn discard(&self, range: Extent) -> Result<(), Error> {
                (**self).discard(range)
            }

            fn sync(&self) -> Result<(), Error> {
                (**self).sync()
            }

            fn drop_caches(&self) -> Result<(), Error> {
                (**self).drop_caches()
            }

            fn reread_table(&self) -> Result<(), Error> {
                (**self).reread_table()
            }
        }
    };
}

shared!(Arc);
shared!(Box);

/// How a disk takes the news that bytes are not needed any more: TRIM, UNMAP, deallocate, or a hole in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// Bytes in a unit, a multiple of the sector size; what covers a unit in part changes nothing.
    pub granularity: u64,
    /// Whether the medium gains by it: it has no moving parts, as the kernel says.
    pub solid_state: bool,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// NVM Express.
    Nvme,
    /// Serial ATA or parallel ATA.
    Ata,
    /// SAS, Fibre Channel, or a RAID controller that speaks SCSI.
    Scsi,
    /// USB mass storage.
    Usb,
    /// SD card or eMMC.
    Mmc,
    /// A paravirtual disk.
    Virtio,
    /// A Xen, Hyper-V or VMware paravirtual disk.
    Virtual,
    /// Network block device.
    Nbd,
    /// A file standing in for a disk.
    File,
    /// Memory, in tests.
    Memory,
    /// Something else.
    Other,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nvme => "NVMe",
            Self::Ata => "ATA",
            Self::Scsi => "SCSI",
            Self::Usb => "USB",
            Self::Mmc => "MMC",
            Self::Virtio => "virtio",
            Self::Virtual => "virtual",
            Self::Nbd => "NBD",
            Self::File => "file",
            Self::Memory => "memory",
            Self::Other => "other",
        })
    }
}

/// What tells one disk from another, and what a person recognises it by. Strings are raw: escape before showing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What the person named it by: `/dev/nvme0n1`, `disk.raw`, `nbd:…`.
    pub path: String,
    /// Model, as the device says.
    pub model: Option<String>,
    /// Serial number, as the device says.
    pub serial: Option<String>,
    /// World wide name, as the device says: `naa.…`, `eui.…`, `nvme.…`.
    pub wwn: Option<String>,
    /// How it is attached.
    pub transport: Transport,
    /// Size in bytes.
    pub len: u64,
    /// Addressable unit in bytes.
    pub sector_size: SectorSize,
    /// The medium's own unit in bytes.
    pub physical_sector_size: SectorSize,
}

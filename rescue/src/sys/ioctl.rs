//! Block device ioctls.
//!
//! Source: Linux kernel, `include/uapi/linux/fs.h` (numbers) and `block/ioctl.c` (argument types: several are
//! declared without a type but take a pointer to an `int`).

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

use nix::libc::c_int;

mod raw {
    use nix::libc::{c_int, c_uint};

    /// `_IO(0x12, number)`.
    const fn plain(number: u8) -> nix::sys::ioctl::ioctl_num_type {
        nix::request_code_none!(0x12, number)
    }

    const BLKROSET: nix::sys::ioctl::ioctl_num_type = plain(93);
    const BLKROGET: nix::sys::ioctl::ioctl_num_type = plain(94);
    const BLKRRPART: nix::sys::ioctl::ioctl_num_type = plain(95);
    const BLKFLSBUF: nix::sys::ioctl::ioctl_num_type = plain(97);
    const BLKSSZGET: nix::sys::ioctl::ioctl_num_type = plain(104);
    const BLKPBSZGET: nix::sys::ioctl::ioctl_num_type = plain(123);
    const BLKDISCARD: nix::sys::ioctl::ioctl_num_type = plain(119);
    const BLKZEROOUT: nix::sys::ioctl::ioctl_num_type = plain(127);

    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blkroget, BLKROGET, c_int);
    nix::ioctl_read_bad!(blksszget, BLKSSZGET, c_int);
    nix::ioctl_read_bad!(blkpbszget, BLKPBSZGET, c_uint);
    nix::ioctl_write_ptr_bad!(blkroset, BLKROSET, c_int);
    nix::ioctl_write_ptr_bad!(blkzeroout, BLKZEROOUT, [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkdiscard, BLKDISCARD, [u64; 2]);
    nix::ioctl_none_bad!(blkrrpart, BLKRRPART);
    nix::ioctl_none_bad!(blkflsbuf, BLKFLSBUF);
}

fn get<T: Default>(device: &File, call: unsafe fn(RawFd, *mut T) -> nix::Result<c_int>) -> io::Result<T> {
    let mut value = T::default();
    // SAFETY: the file is open for as long as it is borrowed, and `call` writes one `T` to a pointer to one.
    unsafe { call(device.as_raw_fd(), &raw mut value) }?;
    Ok(value)
}

/// Returns how many bytes the device holds (`BLKGETSIZE64`).
///
/// # Errors
/// What the system says; `ENOTTY` where the file is no block device.
pub fn size(device: &File) -> io::Result<u64> {
    get(device, raw::blkgetsize64)
}

/// Returns the bytes in an addressable sector (`BLKSSZGET`).
///
/// # Errors
/// What the system says.
pub fn logical_sector(device: &File) -> io::Result<u64> {
    Ok(u64::try_from(get(device, raw::blksszget)?).unwrap_or(0))
}

/// Returns the bytes in the medium's own sector (`BLKPBSZGET`).
///
/// # Errors
/// What the system says.
pub fn physical_sector(device: &File) -> io::Result<u64> {
    Ok(u64::from(get(device, raw::blkpbszget)?))
}

/// Tells whether the kernel refuses writes to the device (`BLKROGET`).
///
/// # Errors
/// What the system says.
pub fn read_only(device: &File) -> io::Result<bool> {
    Ok(get(device, raw::blkroget)? != 0)
}

/// Makes the kernel refuse writes to the device, or allow them again (`BLKROSET`).
///
/// # Errors
/// What the system says; `EACCES` without `CAP_SYS_ADMIN`.
pub fn set_read_only(device: &File, on: bool) -> io::Result<()> {
    let value = c_int::from(on);
    // SAFETY: the file is open for as long as it is borrowed, and the kernel reads one `int` from the pointer.
    unsafe { raw::blkroset(device.as_raw_fd(), &raw const value) }?;
    Ok(())
}

/// Lets the kernel read the partition table again (`BLKRRPART`).
///
/// # Errors
/// `EBUSY` while a partition is in use; `EINVAL` for a device that has no partitions.
pub fn reread_table(device: &File) -> io::Result<()> {
    // SAFETY: the file is open for as long as it is borrowed, and the call takes no argument.
    unsafe { raw::blkrrpart(device.as_raw_fd()) }?;
    Ok(())
}

/// Writes out and forgets what the page cache holds of the device (`BLKFLSBUF`).
///
/// # Errors
/// What the system says; `EACCES` without `CAP_SYS_ADMIN`.
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: the file is open for as long as it is borrowed, and the call takes no argument.
    unsafe { raw::blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// Makes `len` bytes from `offset` on read as zeros (`BLKZEROOUT`), both multiples of the sector size.
///
/// # Errors
/// What the system says; `EINVAL` for a range that is not whole sectors or lies beyond the end.
pub fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the file is open for as long as it is borrowed, and the kernel reads two `u64` from the pointer.
    unsafe { raw::blkzeroout(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// Tells the device that `len` bytes from `offset` on are not needed any more (`BLKDISCARD`), both multiples of the
/// sector size. What they then read as is open.
///
/// # Errors
/// What the system says; `EOPNOTSUPP` where the device cannot.
pub fn discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the file is open for as long as it is borrowed, and the kernel reads two `u64` from the pointer.
    unsafe { raw::blkdiscard(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

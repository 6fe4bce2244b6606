//! The log, `$LogFile`: whether anything waits in it.
//!
//! ```text
//! | restart page | restart page | log pages ... |   or all ff: emptied, as by mkntfs and ntfs-3g
//! restart page: "RSTR" or "CHKD"  4 update sequence  8 LSN of chkdsk  16 page size  24 offset of the area  26 version
//! restart area: 0 LSN  8 clients  10 first free, 12 first in use client (ffff: none)  14 flags (2: volume is clean)
//! ```
//!
//! A clean log has no client, or says that the volume is clean. In any other the changes of its last minutes wait to be
//! made again, those of `$Bitmap` among them. A crash is only one way to get there: hibernation and fast start-up leave
//! the volumes of the machine, data volumes as well, mounted in the memory image, and that memory knows of clusters that
//! neither the bitmap nor the log on the disk has: data is written without waiting for either. What is free on such a
//! volume cannot be proved from its bytes; so a log that is not clean keeps the region whole. Free clusters that hold
//! zeros, as a disk that was trimmed has, cost nothing in an image.
//!
//! Windows leaves version 2.0 while a volume is mounted and goes back to 1.1 when it dismounts it in order; a log of
//! version 2.0 is therefore not taken for a clean one, whatever its flags say.
//!
//! Source: ntfs-3g, include/ntfs-3g/logfile.h, libntfs-3g/logfile.c and volume.c; Linux kernel, fs/ntfs3/fslog.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::record::unfix;
use crate::{block, bytes::Fields};

/// Where a restart page may begin: the first at 0, the second behind it, pages being a power of two long.
const PLACES: [u64; 9] = [0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
const NO_CLIENT: u16 = 0xffff;
const IS_CLEAN: u16 = 2;

/// What a log says of its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nothing waits in it.
    Clean,
    /// Changes wait in it, or we cannot tell; as the part of a sentence behind "kept whole: ".
    Waits(String),
}

/// A restart page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Restart {
    lsn: u64,
    clean: bool,
    version: (u16, u16),
}

/// Fills a buffer with the bytes of a log from an offset on.
pub type Read<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), block::Error> + 'a;

/// Looks at the restart pages of a log of `size` bytes, which `read` reads.
///
/// # Errors
/// Those of `read`.
pub fn state(size: u64, read: &Read<'_>) -> Result<Log, block::Error> {
    let (mut newest, mut empty) = (None::<Restart>, true);
    for at in PLACES.into_iter().filter(|at| at.saturating_add(512) <= size) {
        let mut head = [0; 512];
        read(at, &mut head)?;
        empty &= head.iter().all(|byte| *byte == 0xff);
        if head.starts_with(b"RCRD") {
            break;
        }
        if !head.starts_with(b"RSTR") && !head.starts_with(b"CHKD") {
            continue;
        }
        let len = Fields(&head).u32(16).ok().and_then(|len| usize::try_from(len).ok());
        // A page lies at the start or one page behind it; elsewhere the magic is somebody's data.
        let len = len.filter(|len| len.is_power_of_two() && (512..=65536).contains(len));
        let Some(len) = len.filter(|len| at == 0 || at == *len as u64) else { continue };
        let mut page = vec![0; len];
        read(at, &mut page)?;
        let Some(restart) = restart(&mut page) else {
            return Ok(Log::Waits(format!("the restart page at byte {at} of its log is broken")));
        };
        if newest.is_none_or(|newest| restart.lsn > newest.lsn) {
            newest = Some(restart);
        }
    }
    Ok(match newest {
        None if empty => Log::Clean,
        None => Log::Waits("its log has no restart page".to_owned()),
        Some(Restart { clean: false, version: (2.., _), .. }) => Log::Waits(
            "its log is not clean: it was cut off, or a Windows that is hibernated or shut down for a fast start-up has \
             it mounted and may know of more than is on the disk"
                .to_owned(),
        ),
        Some(Restart { clean: false, .. }) => {
            Log::Waits("its log is not clean: changes wait in it that may not be on the disk yet".to_owned())
        }
        Some(Restart { version: (major @ 2.., minor), .. }) if major < 0x8000 => Log::Waits(format!(
            "its log is of version {major}.{minor}, which an orderly dismount does not leave"
        )),
        Some(_) => Log::Clean,
    })
}

/// Reads a restart page; `None` for a broken one.
fn restart(page: &mut [u8]) -> Option<Restart> {
    let chkdsk = page.starts_with(b"CHKD");
    // What chkdsk leaves may be without an update sequence.
    if !(chkdsk && Fields(page).u16(6).ok()? == 0) {
        unfix(page, if chkdsk { b"CHKD" } else { b"RSTR" }).ok()?;
    }
    let f = Fields(page);
    let area = Fields(page.get(usize::from(f.u16(24).ok()?)..)?);
    let lsn = if chkdsk { f.u64(8) } else { area.u64(0) }.ok()?;
    let (clients, in_use, flags) = (area.u16(8).ok()?, area.u16(12).ok()?, area.u16(14).ok()?);
    if in_use != NO_CLIENT && in_use >= clients {
        return None;
    }
    let version = (f.u16(28).ok()?, f.u16(26).ok()?);
    Some(Restart { lsn, clean: in_use == NO_CLIENT || flags & IS_CLEAN != 0, version })
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::{super::record::tests::fix, *};

    /// Makes a restart page of 4096 bytes.
    fn page(magic: &[u8; 4], lsn: u64, in_use: u16, flags: u16, version: u16) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(magic);
        (bytes[4], bytes[6]) = (30, 9);
        bytes[8..16].copy_from_slice(&if magic == b"CHKD" { lsn } else { 0 }.to_le_bytes());
        bytes[16..20].copy_from_slice(&4096u32.to_le_bytes());
        bytes[24] = 48;
        bytes[28..30].copy_from_slice(&version.to_le_bytes());
        bytes[48..56].copy_from_slice(&lsn.to_le_bytes());
        bytes[56] = 1;
        bytes[60..62].copy_from_slice(&in_use.to_le_bytes());
        bytes[62..64].copy_from_slice(&flags.to_le_bytes());
        fix(&mut bytes);
        bytes
    }

    fn look(log: &[u8]) -> Log {
        let read = |at: u64, buf: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&log[at..at + buf.len()]);
            Ok(())
        };
        state(log.len() as u64, &read).unwrap()
    }

    #[test]
    fn the_newest_restart_page_decides() {
        let (clean, open) = (page(b"RSTR", 5, 0, 2, 1), page(b"RSTR", 6, 0, 0, 1));
        let closed = page(b"RSTR", 7, 0xffff, 0, 1);
        for (name, pages, want) in [
            ("clean", vec![clean.clone(), clean.clone()], None),
            ("open", vec![open.clone(), open.clone()], Some("changes wait")),
            ("open is newer", vec![clean.clone(), open.clone()], Some("changes wait")),
            ("closed is newer", vec![open.clone(), closed.clone()], None),
            ("chkdsk", vec![page(b"CHKD", 9, 0xffff, 0, 1), open.clone()], None),
            ("cut off", vec![page(b"RSTR", 5, 0, 0, 2)], Some("fast start-up")),
            ("new version", vec![page(b"RSTR", 5, 0, 2, 2)], Some("version 2.0")),
            ("client that is none", vec![page(b"RSTR", 5, 3, 2, 1)], Some("at byte 0 of its log is broken")),
            ("emptied", vec![vec![0xff; 4096], vec![0xff; 4096]], None),
            ("zeros", vec![vec![0; 8192]], Some("no restart page")),
            ("torn", vec![clean.clone(), [&open[..4094], &[8, 8]].concat()], Some("at byte 4096 of its log is broken")),
        ] {
            let mut log = pages.concat();
            log.resize(200_000, if name == "emptied" { 0xff } else { 0 });
            match (look(&log), want) {
                (Log::Clean, None) => {}
                (Log::Waits(reason), Some(want)) if reason.contains(want) => {}
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}

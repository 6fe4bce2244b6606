//! Linux swap: only its first page means anything, unless a hibernated system lies in it. It may end before its region
//! does, and what lies behind it is somebody else's.
//!
//! ```text
//! page 0:  0 (zeros)  1024 version, last page, bad pages (4 bytes each)  1036 UUID  1052 label (16)
//!          last 10 bytes: SWAPSPACE2, SWAP-SPACE (version 0: a bitmap of good pages before it), or the signature of
//!          a hibernated system
//! ```
//!
//! Source: Linux kernel, include/linux/swap.h (`union swap_header`), mm/swapfile.c (`read_swap_header`),
//! kernel/power/swap.c; util-linux mkswap.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use uuid::Uuid;

use super::{Detected, State, Survey, Usage, label::text, whole::Whole};
use crate::{
    block::ReadAt,
    bytes::Fields,
    extent::{Extent, ExtentSet},
    units::Bytes,
};

/// Page sizes of the architectures Linux runs on, in bytes.
const PAGE_SIZES: [usize; 5] = [4096, 8192, 16384, 32768, 65536];
/// What hibernation writes over the signature, in the kernel and outside of it.
const HIBERNATED: [(&[u8], &str); 4] = [
    (b"S1SUSPEND", "s1suspend"),
    (b"S2SUSPEND", "s2suspend"),
    (b"ULSUSPEND", "ulsuspend"),
    (b"LINHIB0001", "linhib0001"),
];

/// Bytes in front of the version, for a boot loader or a disk label.
const BOOT: usize = 1024;
/// Where the number of the last page is.
const LAST_PAGE: usize = 1028;
/// Bytes that are read for these two.
const HEADER: usize = 2048;

/// What TuxOnIce writes.
const TUXONICE: &[u8] = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c";

/// Names the swap space in `region`.
#[must_use]
pub fn detect(region: &dyn ReadAt) -> Option<Detected> {
    PAGE_SIZES.iter().find_map(|page| detect_with(region, *page))
}

fn detect_with(region: &dyn ReadAt, page: usize) -> Option<Detected> {
    let mut bytes = vec![0; page];
    region.read_exact_at(&mut bytes, 0).ok()?;
    let f = Fields(&bytes);
    let at = page.checked_sub(10)?;
    let header = f.u32(1024).ok()? == 1 || f.u32_be(1024).ok()? == 1;
    let detected = |name: &str, version: &str, state| {
        let uuid: [u8; 16] = f.array(1036).ok()?;
        Some(Detected {
            name: name.to_owned(),
            version: Some(version.to_owned()),
            label: text(f.slice(1052, 16).ok()?).filter(|_| header),
            uuid: (header && uuid != [0; 16]).then(|| Uuid::from_bytes(uuid).to_string()),
            block_size: u32::try_from(page).ok(),
            state,
        })
    };
    // TuxOnIce writes at the start of the page and leaves the signature at its end.
    if f.has(0, TUXONICE) {
        return detected("swsuspend", "tuxonice", State::Hibernated);
    }
    if f.has(at, b"SWAPSPACE2") && header {
        return detected("swap", "1", State::Clean);
    }
    if f.has(at, b"SWAP-SPACE") {
        return detected("swap", "0", State::Clean);
    }
    let found = HIBERNATED.iter().find(|(signature, _)| f.has(at, signature));
    found.and_then(|(_, version)| detected("swsuspend", version, State::Hibernated))
}

/// Keeps the header page of the swap space in `region` and what lies behind its last page; everything, where a system is
/// hibernated in it or something else may be.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    if detected.state != State::Clean {
        return Survey::whole(region.len(), Some(detected), "kept whole: a hibernated system is in it");
    }
    let pages = match pages(region, &detected) {
        Ok(pages) => pages,
        Err(reason) => return Whole::because(reason).survey(region.len(), detected),
    };
    let tail = Extent::new(pages.end, region.len());
    let allocated = ExtentSet::from(Extent::new(0, pages.start)).union(&ExtentSet::from(tail));
    let usage = Usage { used: pages.start, free: pages.len() };
    let mut survey = Survey { usage: Some(usage), ..Survey::new(Some(detected), allocated) };
    if !tail.is_empty() {
        survey.widened.push(format!("{} behind the last page of the swap area are kept", Bytes(tail.len())));
    }
    survey
}

/// Returns the number of the last page of a swap area of version 0, which has a bit for every page in its first one: none for
/// itself, and then as many as there are without a gap. `None` where it is none, or says that pages are bad.
fn last_of_version_0(region: &dyn ReadAt, page: u64) -> Option<u64> {
    let mut header = vec![0; usize::try_from(page).ok()?];
    region.read_exact_at(&mut header, 0).ok()?;
    let (bitmap, signature) = header.split_at_checked(header.len().checked_sub(10)?)?;
    if signature != b"SWAP-SPACE" {
        return None;
    }
    let is_set = |bit: u64| {
        let byte = usize::try_from(bit / 8).ok().and_then(|at| bitmap.get(at)).copied().unwrap_or(0);
        byte >> (bit % 8) & 1 == 1
    };
    let last = (1..).take_while(|bit| is_set(*bit)).last()?;
    let set = bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    (!is_set(0) && set == last).then_some(last)
}

/// Returns the bytes of the pages that the kernel swaps to, or why nothing may be left out.
fn pages(region: &dyn ReadAt, detected: &Detected) -> Result<Extent, String> {
    let page = u64::from(detected.block_size.unwrap_or(65536)).max(4096);
    if let Some(last) = last_of_version_0(region, page) {
        let pages = Extent::new(page, last.saturating_add(1).saturating_mul(page));
        return if pages.end <= region.len() { Ok(pages) } else { Err("it is longer than its place".to_owned()) };
    }
    let mut header = [0; HEADER];
    region.read_exact_at(&mut header, 0).map_err(|error| format!("its header cannot be read: {error}"))?;
    let f = Fields(&header);
    // mkswap clears these bytes unless it finds a partition table, and the kernel never writes them. What is there was
    // put there later, or the header is what is left of an older use.
    if !f.has(0, &[0; BOOT]) {
        return Err("there is something in front of its header that is no part of a swap area".to_owned());
    }
    let truncated = |error: crate::bytes::Truncated| error.to_string();
    let last_page = match (f.u32(BOOT), f.u32_be(BOOT)) {
        (Ok(1), _) => f.u32(LAST_PAGE),
        (_, Ok(1)) => f.u32_be(LAST_PAGE),
        _ => return Err("its header does not say where it ends".to_owned()),
    };
    let last_page = u64::from(last_page.map_err(truncated)?);
    // `read_swap_header` refuses both: an empty one, and one that is longer than its device.
    let end = last_page.checked_add(1).and_then(|pages| pages.checked_mul(page));
    match end.filter(|end| last_page > 0 && *end <= region.len()) {
        Some(end) => Ok(Extent::new(page, end)),
        None => Err(format!("its last page is {last_page}, which does not fit its {} bytes", region.len())),
    }
}

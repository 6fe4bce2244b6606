//! Linux swap: only its first page means anything, unless a hibernated system lies in it.
//!
//! ```text
//! page 0:  1024 version, last page, bad pages (4 bytes each)  1036 UUID  1052 label (16)
//!          last 10 bytes: SWAPSPACE2, SWAP-SPACE (version 0: a bitmap of good pages before it), or the signature of
//!          a hibernated system
//! ```
//!
//! Source: Linux kernel, include/linux/swap.h (`union swap_header`), kernel/power/swap.c; util-linux mkswap.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use uuid::Uuid;

use super::{Detected, State, Survey, Usage, label::text};
use crate::{
    block::ReadAt,
    bytes::Fields,
    extent::{Extent, ExtentSet},
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

/// Keeps the header page of the swap space in `region`; everything, where a system is hibernated in it.
#[must_use]
pub fn survey(region: &dyn ReadAt, detected: Detected) -> Survey {
    if detected.state != State::Clean {
        return Survey::whole(region.len(), Some(detected), "kept whole: a hibernated system is in it");
    }
    let page = u64::from(detected.block_size.unwrap_or(65536));
    // A page of another size may have been the header before; its bytes cost nothing to keep.
    let header = Extent::new(0, page.max(4096)).intersect(Extent::new(0, region.len()));
    let usage = Usage { used: header.len(), free: region.len().saturating_sub(header.len()) };
    Survey { usage: Some(usage), ..Survey::new(Some(detected), ExtentSet::from(header)) }
}

//! ZFS: four labels of 256 KiB, two at each end, each with the pool's description and a ring of uberblocks.
//!
//! ```text
//! | 8 KiB blank | 8 KiB boot header | 112 KiB name-value pairs (XDR, big endian) | 128 KiB uberblocks |
//! ```
//!
//! Source: OpenZFS, include/sys/vdev_impl.h, module/nvpair/nvpair.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Detected, Probe, named};
use crate::{bytes::Fields, fs::label::text, units::KIB};

const LABEL: u64 = 256 * KIB;
const MAGIC: u64 = 0x00ba_b10c;
/// Types of values.
const UINT64: u32 = 8;
const STRING: u32 = 9;

/// Names the member of a pool.
pub fn detect(probe: &Probe<'_>) -> Option<Detected> {
    let end = probe.len() & !LABEL.wrapping_sub(1);
    let labels = [Some(0), Some(LABEL), end.checked_sub(LABEL.saturating_mul(2)), end.checked_sub(LABEL)];
    let mut uberblocks = 0u32;
    for label in labels.into_iter().flatten() {
        let Some(ring) = probe.at(label.saturating_add(128 * KIB), 128 << 10) else { continue };
        for uberblock in ring.chunks_exact(1024).map(Fields) {
            let there = uberblock.u64(0).is_ok_and(|found| found == MAGIC || found.swap_bytes() == MAGIC);
            uberblocks = uberblocks.saturating_add(u32::from(there));
        }
    }
    // A few are left over on disks that were in a pool once.
    if uberblocks < 4 {
        return None;
    }
    let pairs = labels.into_iter().flatten().filter_map(|label| probe.at(label.saturating_add(16 * KIB), 112 << 10));
    let pool = pairs.filter_map(|bytes| describe(&bytes)).next();
    Some(pool.unwrap_or_else(|| named("zfs_member")))
}

/// Reads name, version and GUID of the pool out of the pairs of a label.
fn describe(bytes: &[u8]) -> Option<Detected> {
    let f = Fields(bytes);
    if f.u8(0).ok()? != 1 {
        return None;
    }
    let mut detected = named("zfs_member");
    // Behind the encoding come version and flags of the list.
    let mut at = 12usize;
    loop {
        let len = usize::try_from(f.u32_be(at).ok()?).ok()?;
        // The last pair is one of length 0; each takes more bytes than its own lengths do.
        if len < 16 {
            break;
        }
        let pair = Fields(f.slice(at, len).ok()?);
        let (name, value) = string(pair, 8)?;
        let (kind, value) = (pair.u32_be(value).ok()?, value.checked_add(8)?);
        match (name, kind) {
            (b"name", STRING) => detected.label = string(pair, value).and_then(|(label, _)| text(label)),
            (b"version", UINT64) => detected.version = Some(pair.u64_be(value).ok()?.to_string()),
            (b"pool_guid", UINT64) => detected.uuid = Some(pair.u64_be(value).ok()?.to_string()),
            _ => {}
        }
        at = at.checked_add(len)?;
    }
    detected.uuid.is_some().then_some(detected)
}

/// Returns the string at `at` and where what follows begins, a multiple of four bytes further.
fn string(pair: Fields<'_>, at: usize) -> Option<(&[u8], usize)> {
    let len = usize::try_from(pair.u32_be(at).ok()?).ok()?;
    let start = at.checked_add(4)?;
    Some((pair.slice(start, len).ok()?, start.checked_add(len.checked_next_multiple_of(4)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(list: &mut Vec<u8>, value: u32) {
        list.extend(value.to_be_bytes());
    }

    /// Adds a pair whose value is `value`, padded already.
    fn pair(list: &mut Vec<u8>, name: &[u8; 4], kind: u32, value: &[u8]) {
        let len = u32::try_from(value.len()).unwrap().saturating_add(24);
        [len, len, 4].into_iter().for_each(|number| word(list, number));
        list.extend(name);
        [kind, 1].into_iter().for_each(|number| word(list, number));
        list.extend(value);
    }

    #[test]
    fn pairs_name_the_pool() {
        let mut list = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        pair(&mut list, b"name", STRING, b"\0\0\0\x05tank1\0\0\0");
        pair(&mut list, b"othr", UINT64, &7u64.to_be_bytes());
        let without = describe(&list);
        assert_eq!(without, None, "a label without a GUID names no pool");
        [32u32, 32, 9].into_iter().for_each(|number| word(&mut list, number));
        list.extend(b"pool_guid\0\0\0");
        [UINT64, 1].into_iter().for_each(|number| word(&mut list, number));
        list.extend(1_782_036_546_311_300_980u64.to_be_bytes());
        let len = u32::try_from(list.len()).unwrap();
        assert_eq!(len, 12 + 36 + 32 + 40);
        // The length of the last pair was a guess.
        let at = list.len().saturating_sub(40);
        list[at..at.saturating_add(4)].copy_from_slice(&40u32.to_be_bytes());
        list.extend([0; 8]);
        let found = describe(&list).unwrap();
        assert_eq!((found.label.as_deref(), found.uuid.as_deref()), (Some("tank1"), Some("1782036546311300980")));
        for cut in 0..list.len().saturating_sub(8) {
            let _ = describe(&list[..cut]);
        }
        list[12..16].fill(0xff);
        assert_eq!(describe(&list), None);
    }
}

//! `$Bitmap`: one bit for each cluster, low bit of each byte first.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Volume, Whole, record::kind};
use crate::{
    extent::ExtentSet,
    fs::map::{MapBuilder, runs_of_ones},
};

/// Record of `$Bitmap`.
const RECORD: u64 = 6;
/// Bytes of the bitmap read at once: the bits of 8 GiB with the usual clusters.
const WINDOW: u64 = 256 << 10;

/// What the bitmap says.
pub(super) struct Bits {
    /// The bytes of all clusters in use.
    pub(super) used: ExtentSet,
    /// How many clusters are in use.
    pub(super) clusters: u64,
    /// Gaps of up to this many bytes were closed.
    pub(super) min_gap: u64,
}

/// Reads the bitmap of `volume`.
pub(super) fn read(volume: &Volume<'_>) -> Result<Bits, Whole> {
    let boot = &volume.mft.boot;
    let stream = volume.mft.stream(volume.region, RECORD, kind::DATA, &[]).map_err(Whole::damaged)?;
    let need = boot.clusters.div_ceil(8);
    if stream.written() < need || !stream.is_plain() {
        let (bytes, clusters) = (stream.written(), boot.clusters);
        return Err(Whole::damaged(format_args!("$Bitmap has {bytes} bytes, or holes, for {clusters} clusters")));
    }
    let (mut builder, mut clusters, mut at) = (MapBuilder::new(), 0u64, 0u64);
    let mut window = vec![0; usize::try_from(WINDOW.min(need)).unwrap_or(0)];
    while at < need {
        let len = usize::try_from(need.saturating_sub(at)).unwrap_or(usize::MAX).min(window.len());
        let Some(bytes) = window.get_mut(..len).filter(|bytes| !bytes.is_empty()) else { break };
        stream
            .read(volume.region, boot.cluster, at, bytes)
            .map_err(|error| Whole::damaged(format_args!("$Bitmap cannot be read: {error}")))?;
        let first = at.saturating_mul(8);
        runs_of_ones(bytes, boot.clusters.saturating_sub(first), |from, to| {
            clusters = clusters.saturating_add(to.saturating_sub(from));
            builder.insert(boot.bytes(first.saturating_add(from), to.saturating_sub(from)));
        });
        at = at.saturating_add(len as u64);
    }
    let (used, min_gap) = builder.finish();
    Ok(Bits { used, clusters, min_gap })
}

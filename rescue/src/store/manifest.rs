//! The manifest: one image, complete in itself, as JSON inside a zstd frame.
//!
//! It names what a person recognises and all that a restore needs. Regions tile the disk; chunk `n` of a region is the
//! slice of `chunk_len` bytes at `n * chunk_len` from the region's start (the last one is shorter), with every byte
//! that is not allocated read as zero. Only chunks that hold an allocated byte are listed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ChunkId;
use crate::{
    block::Identity,
    extent::{Extent, ExtentSet},
    fs::Detected,
    table::{Region, RegionKind, TableKind, TablePiece},
};

/// Whether all of the source could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    /// Every allocated byte is in the image.
    Complete,
    /// Some sectors were unreadable: [`Manifest::unreadable`] lists them, and the image holds zeros there.
    Partial,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version; this is 1.
    pub version: u32,
    /// Features a reader must know to read the image right; an unknown one is refused.
    pub features: Vec<String>,
    /// Image id: 32 hexadecimal digits, also its file's name.
    pub id: String,
    /// When the capture began, RFC 3339 in UTC.
    pub created: String,
    /// When it ended, RFC 3339 in UTC.
    pub finished: String,
    /// Whether all of the source could be read.
    pub state: ImageState,
    /// The machine's name, where it has one.
    pub machine: Option<String>,
    /// A person's note.
    pub note: Option<String>,
    /// The program that made it, with version.
    pub program: String,
    /// The disk.
    pub disk: Identity,
    /// What kind of table the disk had.
    pub table: TableKind,
    /// Disk GUID or MBR signature.
    pub disk_id: Option<String>,
    /// The table's own bytes, verbatim.
    pub pieces: Vec<TablePiece>,
    /// Bytes in a chunk.
    pub chunk_len: u64,
    /// The regions, tiling the disk, in order.
    pub regions: Vec<RegionImage>,
    /// Bytes of the disk that could not be read, from the start of the disk.
    #[serde(with = "extents")]
    pub unreadable: ExtentSet,
    /// Bytes that were new in the store with this image.
    pub stored_bytes: u64,
}

/// One region of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionImage {
    /// What it is and where.
    #[serde(flatten)]
    pub region: Region,
    /// Partition name, type, GUID as the table had them; nothing for what is not a partition.
    pub partition: Option<crate::table::Partition>,
    /// What it held.
    pub detected: Option<Detected>,
    /// Bytes kept, counted from the region's start.
    #[serde(with = "extents")]
    pub allocated: ExtentSet,
    /// Why more was kept than the file system's own books say.
    pub widened: Vec<String>,
    /// The chunks that hold allocated bytes, in runs.
    pub chunks: Vec<ChunkRun>,
}

/// Consecutive chunks of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "run")]
pub enum ChunkRun {
    /// Chunks that are all zero.
    Zero {
        /// Number of the first one.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Chunks with ids.
    Data {
        /// Number of the first one.
        first: u64,
        /// Their ids, in order.
        #[serde(with = "ids")]
        ids: Vec<ChunkId>,
    },
}

impl RegionImage {
    /// Lists the region's chunks with their numbers, in order; zero chunks have [`ChunkId::ZERO`].
    pub fn chunks(&self) -> impl Iterator<Item = (u64, ChunkId)> + '_ {
        self.chunks.iter().flat_map(|run| -> Box<dyn Iterator<Item = (u64, ChunkId)>> {
            match run {
                ChunkRun::Zero { first, count } => {
                    Box::new((*first..first.saturating_add(*count)).map(|number| (number, ChunkId::ZERO)))
                }
                ChunkRun::Data { first, ids } => Box::new((*first..).zip(ids.iter().copied())),
            }
        })
    }

    /// Returns the name a message gives the region.
    #[must_use]
    pub const fn kind(&self) -> RegionKind {
        self.region.kind
    }
}

/// An [`ExtentSet`] in JSON: `[skip, keep, skip, keep, …]` in bytes, from the start.
mod extents {
    use super::*;

    pub fn serialize<S: Serializer>(set: &ExtentSet, out: S) -> Result<S::Ok, S::Error> {
        let mut at = 0;
        out.collect_seq(set.iter().flat_map(|extent| {
            let runs = [extent.start - at, extent.len()];
            at = extent.end;
            runs
        }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<ExtentSet, D::Error> {
        let runs = Vec::<u64>::deserialize(input)?;
        let (mut set, mut at) = (ExtentSet::new(), 0u64);
        for pair in runs.chunks(2) {
            let &[skip, keep] = pair else { return Err(serde::de::Error::custom("a run of extents has no length")) };
            let extent = at.checked_add(skip).and_then(|start| Extent::with_len(start, keep));
            let extent = extent.ok_or_else(|| serde::de::Error::custom("an extent lies beyond 2^64"))?;
            at = extent.end;
            set.insert(extent);
        }
        Ok(set)
    }
}

/// Chunk ids in JSON: one base64 string of 32 bytes each.
mod ids {
    use super::*;

    pub fn serialize<S: Serializer>(ids: &[ChunkId], out: S) -> Result<S::Ok, S::Error> {
        crate::bytes::base64::serialize(&ids.iter().flat_map(|id| id.0).collect::<Vec<_>>(), out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<ChunkId>, D::Error> {
        let bytes = crate::bytes::base64::deserialize(input)?;
        let (ids, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(serde::de::Error::custom("chunk ids are 32 bytes each"));
        }
        Ok(ids.iter().copied().map(ChunkId).collect())
    }
}

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
    fs::{Detected, Inside, LeftOut, Usage},
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
    /// What the file system's own books said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Files whose contents were not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// The volumes of a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inside: Vec<Inside>,
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

/// Chunk ids in JSON: one base64 string of 32 bytes each. A run may be all of a disk, so nothing of its length is made
/// on the way but the ids themselves.
mod ids {
    use std::fmt;

    use data_encoding::BASE64;
    use serde::de;

    use super::*;

    /// Ids that are encoded at once: their bytes fill base64's groups of three.
    const IDS: usize = 24;
    const RAW: usize = IDS * 32;
    const TEXT: usize = RAW / 3 * 4;

    struct Base64<'a>(&'a [ChunkId]);

    impl fmt::Display for Base64<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut text = [0; TEXT];
            for ids in self.0.chunks(IDS) {
                let raw: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
                let len = BASE64.encode_len(raw.len());
                f.write_str(BASE64.encode_mut_str(&raw, &mut text[..len]))?;
            }
            Ok(())
        }
    }

    pub fn serialize<S: Serializer>(ids: &[ChunkId], out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&Base64(ids))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<ChunkId>, D::Error> {
        input.deserialize_str(Visitor)
    }

    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = Vec<ChunkId>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("chunk ids in base64")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<ChunkId>, E> {
            // The decoder takes several texts in a row, each with its padding.
            if text.trim_end_matches('=').contains('=') {
                return Err(E::custom("padding inside the ids"));
            }
            let mut ids = Vec::with_capacity(text.len() / 4 * 3 / 32);
            let mut raw = [0; RAW];
            for text in text.as_bytes().chunks(TEXT) {
                let len = BASE64.decode_len(text.len()).map_err(E::custom)?;
                let len = BASE64.decode_mut(text, &mut raw[..len]).map_err(|e| E::custom(e.error))?;
                let (whole, rest) = raw[..len].as_chunks::<32>();
                if !rest.is_empty() {
                    return Err(E::custom("chunk ids are 32 bytes each"));
                }
                ids.extend(whole.iter().copied().map(ChunkId));
            }
            Ok(ids)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Ids(#[serde(with = "super")] Vec<ChunkId>);

        #[test]
        fn ids_are_plain_base64_however_many() {
            for count in [0, 1, 2, 3, 23, 24, 25, 47, 48, 49, 1000] {
                let ids = Ids((0..count).map(|n: u32| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect());
                let text = serde_json::to_string(&ids).unwrap();
                let raw: Vec<u8> = ids.0.iter().flat_map(|id| id.0).collect();
                assert_eq!(text, format!("\"{}\"", BASE64.encode(&raw)), "{count}");
                assert_eq!(serde_json::from_str::<Ids>(&text).unwrap(), ids, "{count}");
            }
        }

        #[test]
        fn half_ids_and_text_behind_padding_are_refused() {
            let ids = |count: usize| BASE64.encode(&vec![7; count * 32]);
            // 767 bytes and one of padding, then more: as long as a whole piece, and one byte short of whole ids.
            let padded = BASE64.encode(&[7; RAW - 1]);
            for text in [
                BASE64.encode(&[7; 31]),
                BASE64.encode(&[7; 33]),
                BASE64.encode(&[7; RAW + 1]),
                ids(1) + &ids(1),
                padded.clone(),
                padded + &ids(1),
                ids(1).trim_end_matches('=').to_owned(),
                format!("{}*", &ids(1)[..43]),
                ids(24) + " ",
            ] {
                assert!(serde_json::from_str::<Ids>(&format!("\"{text}\"")).is_err(), "{text}");
            }
        }
    }
}

//! What can be wrong with a frame. Everything above frames speaks of it; it knows nothing but chunk ids.

use std::fmt;

use super::ChunkId;

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The pack ends before the frame does.
    #[error("the pack ends inside it")]
    Truncated,
    /// The bytes could not be read.
    #[error("it cannot be read: {0}")]
    Io(String),
    /// No frame begins here.
    #[error("no frame begins here")]
    Magic,
    /// The header's checksum does not match.
    #[error("its header has XXH3 {found:016x}, and says {stored:016x}")]
    Header {
        /// As stored.
        stored: u64,
        /// Of the bytes read.
        found: u64,
    },
    /// The header contradicts itself, though its checksum is right.
    #[error("its header says {stored} stored bytes for {plain} plain ones")]
    Lengths {
        /// Length of the stored bytes.
        stored: u32,
        /// Length of the chunk.
        plain: u32,
    },
    /// A kind this program does not know, or bits it does not know.
    #[error("it is of {}, which this program does not know: use a newer one", KindName(*.0))]
    Kind(u8),
    /// The index speaks of another frame than the one that is there.
    #[error("the index says otherwise than the frame itself")]
    Index,
    /// The checksum of the stored bytes does not match.
    #[error("its bytes have XXH3 {found:016x}, and should have {stored:016x}")]
    Stored {
        /// As stored.
        stored: u64,
        /// Of the bytes read.
        found: u64,
    },
    /// The stored bytes cannot be decompressed to a chunk of the length in the header.
    #[error("it does not decompress to {plain} bytes: {what}")]
    Decompress {
        /// Length of the chunk.
        plain: u32,
        /// What zstd says.
        what: String,
    },
    /// The chunk it is a delta to cannot be had.
    #[error("it is a delta to chunk {base}: {fault}")]
    Base {
        /// That chunk.
        base: ChunkId,
        /// What is wrong with it.
        fault: Box<Fault>,
    },
    /// No pack has the chunk.
    #[error("no pack has it")]
    Missing,
    /// The plain bytes are not those of this chunk.
    #[error("its plain bytes have id {found}")]
    Hash {
        /// Of the bytes decompressed.
        found: ChunkId,
    },
}

struct KindName(u8);

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            4 => f.write_str("kind 4 (encrypted)"),
            other => write!(f, "kind {other}"),
        }
    }
}

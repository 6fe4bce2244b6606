//! Undo files: what the head and tail of a target held before a restore overwrote them.

use serde::{Deserialize, Serialize};

use super::{
    Error, FileId, Store,
    backend::read_file,
    config::{check_known, seal_error},
    sealed::{self, Packed},
};

/// The longest undo file that is read.
pub(super) const MAX_LEN: u64 = 256 << 20;

/// What a target held before a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// Format version; this is 1.
    pub version: u32,
    /// What a reader must know; an unknown name is refused.
    pub features: Vec<String>,
    /// The file's id: 32 hexadecimal digits, also its name.
    pub id: String,
    /// When it was saved, RFC 3339 in UTC.
    pub created: String,
    /// The target, as the person named it.
    pub disk: String,
    /// Its old bytes.
    pub pieces: Vec<Piece>,
}

/// Bytes of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where they were, in bytes from the start of the disk.
    pub offset: u64,
    /// The bytes.
    #[serde(with = "crate::bytes::base64")]
    pub bytes: Vec<u8>,
}

fn path(id: FileId) -> String {
    format!("undo/{id}.json.zst")
}

pub(super) fn id_of(file: &str) -> Option<FileId> {
    FileId::parse(file.strip_prefix("undo/")?.strip_suffix(".json.zst")?)
}

pub(super) fn parse(id: FileId, bytes: &[u8]) -> Result<Undo, sealed::Fault> {
    let json = sealed::unpack(Packed::Undo, id, bytes)?;
    serde_json::from_slice(&json).map_err(|e| sealed::Fault::Damaged { offset: 0, what: e.to_string() })
}

impl Store {
    /// Keeps what a disk holds at some offsets, before something is written there. Durable on return.
    ///
    /// * `disk`: the disk, as the person named it.
    ///
    /// # Errors
    /// [`Error::NoSpace`] or [`Error::Io`].
    pub fn save_undo(&self, disk: &str, pieces: &[(u64, &[u8])]) -> Result<FileId, Error> {
        let id = FileId::random().map_err(Error::io("naming", "undo"))?;
        let name = path(id);
        let undo = Undo {
            version: u32::from(super::VERSION),
            features: Vec::new(),
            id: id.to_string(),
            created: jiff::Timestamp::now().to_string(),
            disk: disk.to_owned(),
            pieces: pieces.iter().map(|(offset, bytes)| Piece { offset: *offset, bytes: bytes.to_vec() }).collect(),
        };
        let mut bytes = Vec::new();
        sealed::measure(&undo)
            .and_then(|undo| undo.write(Packed::Undo, id, &mut bytes))
            .map_err(Error::io("compressing", &name))?;
        self.put(&name, &bytes)?;
        Ok(id)
    }

    /// Loads what [`Store::save_undo`] kept.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`] or [`Error::Unsupported`].
    pub fn load_undo(&self, id: FileId) -> Result<Undo, Error> {
        let name = path(id);
        let bytes = read_file(self.backend(), &name, MAX_LEN).map_err(Error::io("reading", &name))?;
        let undo = parse(id, &bytes).map_err(|fault| seal_error(&name, fault))?;
        check_known(&name, undo.version, &undo.features)?;
        Ok(undo)
    }
}

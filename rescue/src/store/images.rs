//! The images of a store: listing, finding and loading them.

use std::io;

use serde::Deserialize;

use super::{
    Error, FileId, Manifest, Store,
    backend::{FileReader, read_file},
    config::{check_known, seal_error},
    error::told,
    manifest::ImageState,
    sealed::{self, Measured, Packed},
};
use crate::{
    block::Identity,
    escape::Escaped,
    extent::ExtentSet,
    fs::Detected,
    table::{Partition, Region, TableKind},
};

/// The longest manifest file that is read.
const MAX_LEN: u64 = 1 << 30;

/// One file in `images/`.
#[derive(Clone, Debug)]
pub enum Listed {
    /// An image.
    Image(Box<Summary>),
    /// A file that cannot be read as one.
    Damaged {
        /// File in the store.
        file: String,
        /// Why not.
        error: String,
    },
}

/// What a list of images needs of a manifest: all but the chunks. Fields are those of [`Manifest`].
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Image id.
    pub id: String,
    /// When the capture began, RFC 3339 in UTC.
    pub created: String,
    /// When it ended, RFC 3339 in UTC.
    pub finished: String,
    /// Whether all of the source could be read.
    pub state: ImageState,
    /// The machine's name.
    pub machine: Option<String>,
    /// A person's note.
    pub note: Option<String>,
    /// The program that made it.
    pub program: String,
    /// The disk.
    pub disk: Identity,
    /// What kind of table the disk had.
    pub table: TableKind,
    /// Disk GUID or MBR signature.
    pub disk_id: Option<String>,
    /// The regions, tiling the disk, in order.
    pub regions: Vec<RegionSummary>,
    /// Bytes of the disk that could not be read.
    pub unreadable: ExtentSet,
    /// Bytes that were new in the store with this image.
    pub stored_bytes: u64,
}

/// One region of a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct RegionSummary {
    /// What it is and where.
    pub region: Region,
    /// Its entry in the table.
    pub partition: Option<Partition>,
    /// What it held.
    pub detected: Option<Detected>,
    /// Bytes kept, counted from the region's start.
    pub allocated: ExtentSet,
}

impl From<Manifest> for Summary {
    fn from(image: Manifest) -> Self {
        let regions = image.regions.into_iter().map(|region| RegionSummary {
            region: region.region,
            partition: region.partition,
            detected: region.detected,
            allocated: region.allocated,
        });
        Self {
            id: image.id,
            created: image.created,
            finished: image.finished,
            state: image.state,
            machine: image.machine,
            note: image.note,
            program: image.program,
            disk: image.disk,
            table: image.table,
            disk_id: image.disk_id,
            regions: regions.collect(),
            unreadable: image.unreadable,
            stored_bytes: image.stored_bytes,
        }
    }
}

/// The part of a manifest that tells whether the rest can be understood.
#[derive(Deserialize)]
struct Outline {
    version: u32,
    #[serde(default)]
    features: Vec<String>,
    id: String,
}

/// What a manifest says of where it is from. Fields are those of [`Manifest`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Origin {
    /// When the capture began, RFC 3339 in UTC.
    pub created: String,
    /// The machine's name.
    pub machine: Option<String>,
    /// The disk.
    pub disk: Identity,
    /// Disk GUID or MBR signature.
    pub disk_id: Option<String>,
}

pub(super) fn path(image: FileId) -> String {
    path_of(&image.to_string())
}

pub(super) fn path_of(id: &str) -> String {
    format!("images/{id}.json.zst")
}

fn id_of(file: &str) -> Option<FileId> {
    FileId::parse(file.strip_prefix("images/")?.strip_suffix(".json.zst")?)
}

/// Measures a manifest.
///
/// # Errors
/// [`Error::Refused`] when no reader would take it.
pub(super) fn measure(id: FileId, manifest: &Manifest) -> Result<Measured<'_, Manifest>, Error> {
    sealed::measure(manifest).map_err(|e| {
        let what = "the image has more chunks than one image can have: its manifest would have";
        match e.kind() {
            io::ErrorKind::FileTooLarge => Error::Refused(format!("{what} {e}; longer chunks would make it shorter")),
            _ => Error::Invalid { file: path(id), what: e.to_string() },
        }
    })
}

/// Writes a manifest piece by piece, and reads it back: the image exists only if the file is what was written.
///
/// # Errors
/// [`Error::NoSpace`] or [`Error::Io`]. Whether the file is there then is not known.
pub(super) fn write(store: &Store, id: FileId, manifest: &Measured<'_, Manifest>) -> Result<(), Error> {
    let (backend, name, needed) = (store.backend(), path(id), manifest.json_len());
    let mut sink = backend.create(&name).map_err(Error::writing(backend, &name, needed))?;
    let seal = manifest.write(Packed::Image, id, &mut sink).map_err(Error::writing(backend, &name, needed))?;
    sink.finish().map_err(Error::writing(backend, &name, needed))?;
    let back = FileReader::open(backend, &name).and_then(|file| sealed::check(&seal, file));
    check_outline(id, &back.map_err(Error::io("reading back", &name))?)
}

fn read_json(store: &Store, id: FileId) -> Result<Vec<u8>, Error> {
    let name = path(id);
    let bytes = read_file(store.backend(), &name, MAX_LEN).map_err(Error::io("reading", &name))?;
    parse_outline(id, &bytes)
}

/// Checks every byte of a manifest file, and that this program can understand it; returns its JSON.
fn parse_outline(id: FileId, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let name = path(id);
    let json = sealed::unpack(Packed::Image, id, bytes).map_err(|fault| seal_error(&name, fault))?;
    let outline = serde_json::from_slice(&json).map_err(|e| Error::corrupt(&name, 0, e.to_string()))?;
    check_outline(id, &outline)?;
    Ok(json)
}

fn check_outline(id: FileId, outline: &Outline) -> Result<(), Error> {
    let name = path(id);
    check_known(&name, outline.version, &outline.features)?;
    if outline.id == id.to_string() {
        Ok(())
    } else {
        let what = format!("it is image {:?} inside", Escaped(&outline.id).to_string());
        Err(Error::corrupt(&name, 0, what))
    }
}

fn from_json(id: FileId, json: &[u8], chunk_len: u64) -> Result<Manifest, Error> {
    let name = path(id);
    let manifest: Manifest = serde_json::from_slice(json).map_err(|e| Error::corrupt(&name, 0, e.to_string()))?;
    manifest.validate(chunk_len).map_err(|what| Error::Invalid { file: name, what })?;
    Ok(manifest)
}

pub(super) fn read(store: &Store, id: FileId) -> Result<Manifest, Error> {
    from_json(id, &read_json(store, id)?, store.chunk_len())
}

impl Store {
    /// Lists the images, newest first; files that cannot be read as images come last.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn images(&self) -> Result<Vec<Listed>, Error> {
        let mut images: Vec<(Option<jiff::Timestamp>, Listed)> = Vec::new();
        for id in self.image_ids()? {
            images.push(match read(self, id) {
                Ok(image) => (image.created.parse().ok(), Listed::Image(Box::new(Summary::from(image)))),
                Err(error) => (None, Listed::Damaged { file: path(id), error: told(&error) }),
            });
        }
        images.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
        Ok(images.into_iter().map(|(_, listed)| listed).collect())
    }

    /// Loads the newest image that `fits`; `None` where there is none, or where it cannot be read.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn newest(&self, fits: impl Fn(&Origin) -> bool) -> Result<Option<Manifest>, Error> {
        let mut newest: Option<(jiff::Timestamp, FileId)> = None;
        for id in self.image_ids()? {
            let Ok(json) = read_json(self, id) else { continue };
            let Ok(origin) = serde_json::from_slice::<Origin>(&json) else { continue };
            let Ok(created) = origin.created.parse() else { continue };
            if fits(&origin) && newest.is_none_or(|(newest, _)| newest < created) {
                newest = Some((created, id));
            }
        }
        Ok(newest.and_then(|(_, id)| read(self, id).ok()))
    }

    /// Loads an image and checks that it makes sense.
    ///
    /// * `wanted`: an id, the first digits of one, or `latest`.
    ///
    /// # Errors
    /// [`Error::NoImage`], [`Error::Ambiguous`], or what is wrong with the manifest.
    pub fn load(&self, wanted: &str) -> Result<Manifest, Error> {
        read(self, self.find(wanted)?)
    }

    fn find(&self, wanted: &str) -> Result<FileId, Error> {
        let none = || Error::NoImage { wanted: wanted.to_owned() };
        if wanted == "latest" {
            return self
                .images()?
                .iter()
                .find_map(|listed| match listed {
                    Listed::Image(image) => FileId::parse(&image.id),
                    Listed::Damaged { .. } => None,
                })
                .ok_or_else(none);
        }
        let wanted = wanted.to_ascii_lowercase();
        let mut matches = self.image_ids()?;
        matches.retain(|id| !wanted.is_empty() && id.to_string().starts_with(&wanted));
        match matches.as_slice() {
            [] => Err(none()),
            [one] => Ok(*one),
            many => Err(Error::Ambiguous { wanted, matches: many.iter().map(FileId::to_string).collect() }),
        }
    }

    pub(super) fn image_ids(&self) -> Result<Vec<FileId>, Error> {
        Ok(self.list("images")?.iter().filter_map(|file| id_of(&file.name)).collect())
    }
}

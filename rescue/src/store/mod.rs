//! The store: a folder of packs, indexes and images from any number of machines. `docs/FORMAT.md` is its contract.
//!
//! Every distinct chunk is stored once, every image lists all its chunks, and the appearance of a manifest is the
//! commit: before it there is no image, after it nothing it needs is missing.
//!
//! [`Store::look`] tells what a path is before anything is written there; [`Store::open`] reads indexes and adopts packs that have none, [`Store::writer`] stores chunks and commits an image,
//! [`Store::reader`] gives chunks back, [`Store::verify`] reads everything there is.

pub mod backend;
pub mod config;
mod create;
pub mod damage;
pub mod error;
pub mod fault;
pub mod frame;
pub mod images;
pub mod index;
pub mod manifest;
mod names;
mod open;
pub mod pack;
mod reader;
mod records;
mod sealed;
mod shelf;
#[cfg(test)]
mod tests;
pub mod undo;
mod validate;
mod verify;
mod writer;

pub use self::{
    config::CreateOptions,
    create::Look,
    damage::{ImageDamage, PackDamage, Verified},
    error::{Error, Problem},
    frame::{Base, Decoder, EncodedFrame, Encoder},
    images::{Listed, Origin, RegionSummary, Summary},
    manifest::Manifest,
    names::{CONFIG, ChunkId, FileId, VERSION},
    open::Store,
    reader::Reader,
    writer::Writer,
};

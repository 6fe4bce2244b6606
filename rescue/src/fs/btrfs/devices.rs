//! The device tree: what it says is allocated on this device, against what the chunks say.
//!
//! ```text
//! device extent:   device, DEV_EXTENT, place on it    24 length
//! replacement:     0, 250, 0                          32 state (1: running, 4: suspended)
//! ```
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `struct btrfs_dev_extent`, `struct btrfs_dev_replace_item`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Report, Volume, Whole,
    roots::{Roots, object},
    tree::{self, Error, Key, Pointer, Visitor, kind},
};
use crate::{
    bytes::Fields,
    extent::{Extent, ExtentSet},
    fs::map::MapBuilder,
    units::Bytes,
};

const DEV_REPLACE: u8 = 250;

struct Devices {
    devid: u64,
    extents: MapBuilder,
    replaces: bool,
    error: Option<Error>,
}

impl Visitor for Devices {
    fn item(&mut self, key: &Key, data: &[u8]) {
        let f = Fields(data);
        if key.kind == kind::DEV_EXTENT && key.object == self.devid {
            let len = f.u64(24).unwrap_or(0);
            self.extents.insert(Extent::new(key.offset, key.offset.saturating_add(len)));
        } else if key.kind == DEV_REPLACE && key.object == 0 {
            self.replaces |= matches!(f.u64(32), Ok(1 | 4));
        }
    }

    fn lost(&mut self, _block: &Pointer, error: Error) {
        self.error.get_or_insert(error);
    }
}

/// Returns the bytes of this device that are allocated, by the chunks and by the device tree as far as it is here.
///
/// * `chunks`: what the chunks say.
///
/// # Errors
/// When nothing on this device confirms what the chunks say, although all of the file system is here. When the
/// superblock counts more than both know of; old kernels left its counter behind: where chunks and device tree agree,
/// they are believed.
pub(super) fn allocated(
    volume: &Volume<'_>,
    roots: &Roots,
    chunks: ExtentSet,
    report: &mut Report,
) -> Result<ExtentSet, Whole> {
    let (all, agreed) = united(volume, roots, chunks, report)?;
    let (said, known) = (volume.sb.dev_bytes_used, all.total());
    if said == known {
        return Ok(all);
    }
    let sentence =
        format!("the superblock counts {} in chunks on this device, the trees {}", Bytes(said), Bytes(known));
    if said > known && !agreed {
        return Err(Whole::damaged(sentence));
    }
    report.notes.push(sentence);
    Ok(all)
}

/// Returns what is in chunks or in the device tree, and whether both were read and say the same.
fn united(
    volume: &Volume<'_>,
    roots: &Roots,
    chunks: ExtentSet,
    report: &mut Report,
) -> Result<(ExtentSet, bool), Whole> {
    let unconfirmed =
        |why: &dyn std::fmt::Display| Whole::damaged(format_args!("no device tree confirms the chunk tree: {why}"));
    let Some(tree) = roots.tree(object::DEV_TREE) else {
        return match &roots.lost {
            _ if volume.is_spread() => Ok((chunks, false)),
            Some(error) => Err(unconfirmed(error)),
            None => Err(unconfirmed(&"it is not there")),
        };
    };
    let mut found = Devices { devid: volume.sb.devid, extents: MapBuilder::new(), replaces: false, error: None };
    tree::walk(volume, &tree.pointer(), &mut found);
    if found.replaces {
        report.notes.push("the replacement of a device was interrupted".to_owned());
    }
    let (extents, _) = found.extents.finish();
    let more = extents.subtract(&chunks);
    match found.error {
        None if extents == chunks => return Ok((chunks, true)),
        None => report.notes.push("the device tree and the chunk tree disagree".to_owned()),
        // On a device of several it may be elsewhere.
        Some(Error::Elsewhere(_)) if more.is_empty() => return Ok((chunks, false)),
        Some(error) if !volume.is_spread() => return Err(unconfirmed(&error)),
        Some(error) => report.notes.push(format!("the device tree is broken: {error}")),
    }
    report.damaged = true;
    if !more.is_empty() {
        report.widened.push(format!("{} that only the device tree calls allocated are kept", Bytes(more.total())));
    }
    Ok((extents.union(&chunks), false))
}

//! A target that holds noise wherever a lost byte would matter.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use rescue::extent::{Extent, ExtentSet};

use super::files;

/// A disk up to so many bytes is noise from end to end.
const WHOLE: u64 = 64 << 20;
/// Of a larger one so much at its ends, and around all that is kept.
const AROUND: u64 = 1 << 20;

/// Makes a target as long as the source.
///
/// * `kept`: what an image of the source keeps. On a large disk noise lies where the source has data, and around what is
///   kept: whatever is lost of a structure is found there.
pub fn target(path: &Path, source: &Path, kept: &[Extent]) {
    let source = File::open(source).unwrap();
    let len = source.metadata().unwrap().len();
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    let mut noise = ExtentSet::new();
    if len <= WHOLE {
        noise = ExtentSet::full(len);
    } else {
        let mut places = files::data(&source, Extent::new(0, len));
        places.extend([Extent::new(0, AROUND), Extent::new(len - AROUND, len)]);
        for extent in kept {
            let before = Extent::new(extent.start.saturating_sub(AROUND), (extent.start + AROUND).min(len));
            let behind = Extent::new(extent.end.saturating_sub(AROUND), (extent.end + AROUND).min(len));
            places.extend([before, behind].into_iter().filter(|place| !place.is_empty()));
        }
        noise = noise.union(&ExtentSet::from_unsorted(places));
    }
    let bytes = bytes();
    for part in noise.iter().flat_map(files::steps) {
        file.write_all_at(&bytes[..usize::try_from(part.len()).unwrap()], part.start).unwrap();
    }
}

/// A mebibyte of what no file system writes.
fn bytes() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = (0..AROUND / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

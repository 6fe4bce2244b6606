//! Volumes that a reader once stumbled over: each `fixtures/damaged/KIND-WHAT.img.zst` is surveyed again.
//!
//! They come from the fuzz targets: `fuzz/README.md` says how. A volume is zstd of its bytes; `KIND` is the target.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::tools::survey_bytes;

/// A damaged volume must not take longer, even in a debug build.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn what_once_broke_a_reader_breaks_none_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/damaged");
    // There is none as long as nothing broke.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let volume = zstd::decode_all(fs::File::open(&path).unwrap()).unwrap();
        let began = Instant::now();
        survey_bytes(&volume);
        assert!(began.elapsed() < LIMIT, "{} took {:?}", path.display(), began.elapsed());
    }
}

//! What the fuzz targets run. A target fails by a panic, by an answer that makes no sense, or by taking too long or too
//! much memory (the fuzzer's `-timeout` and `-rss_limit_mb`).

mod overlay;
mod stores;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, set_hook},
    process::abort,
    sync::{Once, OnceLock},
};

use rescue::{
    extent::Extent,
    fs::{self, Options},
    table,
    units::SectorSize,
};

pub use overlay::{Patched, Seed};
pub use stores::{index, manifest, pack};

/// Makes the volume that an input stands for.
///
/// # Panics
/// Where the kind has no seeds.
pub fn volume(kind: &str, data: &[u8]) -> Option<Patched<'static>> {
    static SEEDS: OnceLock<Vec<Seed>> = OnceLock::new();
    let seeds = SEEDS.get_or_init(|| Seed::all(kind));
    let (first, records) = data.split_first()?;
    Some(Patched::new(&seeds[usize::from(*first) % seeds.len()], records))
}

/// Surveys a patched seed of one kind.
///
/// # Panics
/// When the map leaves the region, or says of a byte both that it is kept and that it is none.
pub fn survey(kind: &str, data: &[u8]) {
    use rescue::block::ReadAt as _;
    let Some(volume) = volume(kind, data) else { return };
    let keep_swap_files = data.len() % 2 == 1;
    let survey = fs::survey(&volume, &Options { keep_swap_files });
    let region = Extent::new(0, volume.len());
    assert!(survey.allocated.iter().all(|extent| region.covers(extent)), "the map leaves the region");
    assert!(survey.zeros.subtract(&survey.allocated).is_empty(), "zeros that are not kept");
    assert!(survey.widened.iter().chain(&survey.notes).all(|text| text.len() < 4096), "a sentence without end");
}

/// Reads a partition table, and moves it to a larger disk.
pub fn table(data: &[u8]) {
    // What the crates below panic about is caught and kept whole: only what leaves our own code counts.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| set_hook(Box::new(|_| {})));
    let Some(disk) = volume("table", data) else { return };
    let sector_size = if data.len() % 2 == 1 { SectorSize::B4096 } else { SectorSize::B512 };
    let done = catch_unwind(AssertUnwindSafe(|| {
        use rescue::block::ReadAt as _;
        let Ok(layout) = table::read(&disk, sector_size) else { return };
        let mut at = 0;
        for region in layout.regions() {
            assert_eq!(region.range.start, at, "regions tile the disk");
            at = region.range.end;
        }
        assert_eq!(at, disk.len(), "regions tile the disk");
        let _ = table::for_target(&layout, disk.len() * 2);
        let _ = table::superseded(&layout, disk.len() * 2);
    }));
    if let Err(panic) = done {
        eprintln!("{}", rescue::job::plan::panic_text(panic.as_ref()));
        abort();
    }
}

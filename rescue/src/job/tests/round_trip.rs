//! Jobs that go well.

use super::*;
use crate::{
    block::faulty::FaultyDisk,
    job::{Outcome, Phase, report::Effort},
};

#[test]
fn every_phase_that_moves_bytes_says_how_fast_each_kind_of_work_was() {
    let bench = Bench::new();
    let captured = bench.capture(bench.source());
    let restored = bench.restore(bench.target(DISK));
    for (report, phase, efforts) in [
        (&captured, Phase::Capturing, &[Effort::Reading, Effort::Hashing, Effort::Compressing, Effort::Storing][..]),
        (&restored, Phase::Writing, &[Effort::Fetching, Effort::Decoding, Effort::Writing]),
        (&restored, Phase::ReadingBack, &[Effort::Reading, Effort::Hashing]),
    ] {
        let stage = report.stages.iter().find(|stage| stage.phase == phase).unwrap();
        assert_eq!(stage.work.iter().map(|work| work.effort).collect::<Vec<_>>(), efforts, "{phase:?}");
        // Frames are shorter than what they hold; nothing else may be missing.
        for work in stage.work.iter().filter(|work| ![Effort::Storing, Effort::Fetching].contains(&work.effort)) {
            assert!(work.bytes > MIB && work.bytes < 2 * DISK, "{phase:?} {work:?}");
        }
        assert!(stage.work.iter().all(|work| work.threads > 0 && work.bytes > 0), "{stage:?}");
    }
}

#[test]
fn an_image_comes_back_and_nothing_else_changes() {
    let bench = Bench::new();
    let before = checksum(&bench.path("source"));
    let report = bench.capture(bench.source());
    assert_eq!((report.outcome, &report.error), (Outcome::Complete, &None));
    assert!(report.allocated_bytes < DISK - 4 * MIB, "free blocks are left out: {report:?}");
    assert_eq!(checksum(&bench.path("source")), before, "the source is never written");

    let report = bench.restore(bench.target(DISK));
    assert_eq!((report.outcome, &report.error), (Outcome::Complete, &None));
    bench.assert_restored(DISK);
}

#[test]
fn a_larger_disk_keeps_its_own_end() {
    let bench = Bench::new();
    assert_eq!(bench.capture(bench.source()).outcome, Outcome::Complete);
    let len = DISK + 5 * MIB + 512;
    assert_eq!(bench.restore(bench.target(len)).outcome, Outcome::Complete);
    bench.assert_restored(len);
}

#[test]
fn the_second_image_stores_nothing_new() {
    let bench = Bench::new();
    let first = bench.capture(bench.source());
    let second = bench.capture(bench.source());
    assert_eq!(second.outcome, Outcome::Complete);
    assert!(first.stored_bytes > 3 * MIB);
    assert_eq!(second.stored_bytes, 0);
    assert_eq!(bench.image_count(), 2);
}

#[test]
fn the_second_image_of_a_changed_disk_stores_what_changed() {
    const PAGE: u64 = 4 * KIB;
    let bench = Bench::new();
    let first = bench.capture(bench.source());
    let image = bench.image();
    // Every sixteenth page of what is kept of the ext4 that holds noise anyhow.
    let mut disk = fs::read(bench.path("source")).unwrap();
    let kept: Vec<Extent> = allocated(&image).within(EXT4).filter(|extent| extent.len() > MIB).collect();
    let pages: Vec<u64> = kept.iter().flat_map(|extent| (extent.start..extent.end - PAGE).step_by(1 << 16)).collect();
    assert!(pages.len() > 20);
    for page in &pages {
        place(&mut disk, Extent::new(*page, page + PAGE), &noise(*page, PAGE));
    }
    fs::write(bench.path("source"), &disk).unwrap();
    let second = bench.capture(bench.source());
    assert_eq!(second.outcome, Outcome::Complete);
    let changed = pages.len() as u64 * PAGE;
    assert!(second.stored_bytes < changed + changed / 8, "{} stored for {changed} changed bytes", second.stored_bytes);
    assert!(first.stored_bytes > 10 * second.stored_bytes);
    assert_eq!(bench.restore(bench.target(DISK)).outcome, Outcome::Complete);
    bench.assert_restored(DISK);
    // It was a delta to the first image, and so is the third: what changed twice is not stored twice as much.
    place(&mut disk, Extent::new(pages[0], pages[0] + PAGE), &noise(1, PAGE));
    fs::write(bench.path("source"), &disk).unwrap();
    let third = bench.capture(bench.source());
    assert!(third.stored_bytes < MIB / 2, "{}", third.stored_bytes);
    assert_eq!(bench.restore(bench.target(DISK)).outcome, Outcome::Complete);
    bench.assert_restored(DISK);
}

#[test]
fn a_disk_without_a_table_is_kept_whole_or_by_its_file_system() {
    let bench = Bench::new();
    let ext4 = fs::read(bench.path("ext4")).unwrap();
    for (name, bytes, whole) in [("noise", noise(5, 4 * MIB), true), ("ext4", ext4, false)] {
        fs::write(bench.path("source"), &bytes).unwrap();
        let report = bench.capture(bench.source());
        assert_eq!(
            (report.outcome, report.allocated_bytes == bytes.len() as u64),
            (Outcome::Complete, whole),
            "{name}"
        );
        let len = bytes.len() as u64;
        assert_eq!(bench.restore(bench.target(len)).outcome, Outcome::Complete, "{name}");
        bench.assert_restored(len);
    }
}

#[test]
fn what_no_inode_ever_was_in_is_not_read_and_comes_back_as_zeros() {
    let bench = Bench::new();
    let disk = FaultyDisk::new(bench.source());
    let log = disk.log();
    let plan = CapturePlan::of_disk(&bench.capture_job(), Box::new(disk), &Cancel::new()).unwrap();
    let (number, region) = plan.analysis().regions.iter().enumerate().find(|(_, r)| r.region.range == EXT4).unwrap();
    let survey = &region.survey;
    let zeros: ExtentSet = survey.zeros.iter().map(|e| Extent::new(EXT4.start + e.start, EXT4.start + e.end)).collect();
    assert!(zeros.total() > 512 * KIB, "the table of a few files is mostly unused: {zeros:?}");
    assert!(zeros.iter().all(|extent| bytes(&fs::read(bench.path("source")).unwrap(), extent).iter().all(|b| *b == 0)));
    assert!(plan.view().steps[number].what.contains("count as zero"), "{:?}", plan.view());

    log.clear();
    assert_eq!(plan.run(&Silent, &Cancel::new()).outcome, Outcome::Complete);
    let read = log.reads().into_iter().collect::<ExtentSet>();
    assert!(read.intersect(&zeros).total() < 64 * KIB, "{:?}", read.intersect(&zeros));
    assert_eq!(bench.restore(bench.target(DISK)).outcome, Outcome::Complete);
    bench.assert_restored(DISK);
}

#[test]
fn a_target_that_does_not_fit_is_refused_with_the_numbers() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let refusal = |len: u64, sector_size| {
        fs::write(bench.path("target"), noise(77, len)).unwrap();
        let target = FileDisk::open_target(&bench.path("target"), Some(sector_size)).unwrap();
        let store = Store::open(&bench.path("store")).unwrap();
        let manifest = store.load("latest").unwrap();
        let plan = RestorePlan::onto(&bench.restore_job(), store, manifest, Box::new(target));
        let error = plan.err().expect("it cannot fit").to_string();
        assert_eq!(fs::read(bench.path("target")).unwrap(), noise(77, len), "nothing was written");
        error
    };
    let small = refusal(DISK - 512, SectorSize::B512);
    assert!(small.contains("holds 25165312 bytes, the image needs 25165824"), "{small}");
    let sectors = refusal(DISK, SectorSize::B4096);
    assert!(sectors.contains("sectors of 4096 bytes, the image is of a disk with sectors of 512"), "{sectors}");
}

#[test]
fn a_target_in_the_store_or_being_read_is_refused() {
    let bench = Bench::new();
    bench.capture(bench.source());
    fs::write(bench.path("store/disk.raw"), noise(1, DISK)).unwrap();
    let mut job = bench.restore_job();
    job.disk = DiskRef::Path(bench.text("store/disk.raw"));
    let error = RestorePlan::new(&job).err().expect("it lies in the store").to_string();
    assert!(error.contains("lies in the store"), "{error}");

    let held = bench.source();
    job.disk = DiskRef::Path(bench.text("source"));
    assert!(RestorePlan::new(&job).is_err(), "somebody reads it");
    drop(held);
}

#[test]
fn a_store_that_cannot_take_an_image_is_refused_by_the_plan() {
    let bench = Bench::new();
    fs::create_dir(bench.path("foreign")).unwrap();
    fs::write(bench.path("foreign/holiday.jpg"), "x").unwrap();
    for (path, why) in [("foreign", "holiday.jpg"), ("source", "folder")] {
        let mut job = bench.capture_job();
        job.store = bench.path(path);
        let plan = CapturePlan::of_disk(&job, Box::new(bench.source()), &Cancel::new());
        match plan.err() {
            Some(crate::job::plan::Error::Refused(text)) => assert!(text.contains(why) || path == "foreign", "{text}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    assert_eq!(fs::read_dir(bench.path("foreign")).unwrap().count(), 1, "nothing was made there");
}

#[test]
fn a_dynamic_disk_is_kept_whole_whatever_lies_in_it() {
    let bench = Bench::new();
    let mut disk = fs::read(bench.path("source")).unwrap();
    disk[..512].copy_from_slice(&mbr(&[(0x42, EXT4), (0x42, FAT)]));
    fs::write(bench.path("source"), disk).unwrap();
    let report = bench.capture(bench.source());
    assert_eq!((report.outcome, report.allocated_bytes), (Outcome::Complete, DISK));
}

#[test]
fn no_second_backup_table_stays_in_the_middle_of_a_larger_disk() {
    let bench = Bench::new();
    run("sgdisk", &["-Z", &bench.text("source")]);
    run("sgdisk", &["-n", "1:2048:+8M", "-n", "5:30000:+2M", &bench.text("source")]);
    assert_eq!(bench.capture(bench.source()).outcome, Outcome::Complete);
    assert_eq!(bench.restore(bench.target(DISK + 3 * MIB)).outcome, Outcome::Complete);
    let target = fs::read(bench.path("target")).unwrap();
    let old_end = usize::try_from(DISK).unwrap();
    assert!(target[old_end - 33 * 512..old_end].iter().all(|byte| *byte == 0));
    assert_eq!(&target[target.len() - 512..][..8], b"EFI PART");
    run("sgdisk", &["-v", &bench.text("target")]);
    let source = fs::read(bench.path("source")).unwrap();
    assert!(source[1024..34 * 512] == target[1024..34 * 512], "the entries are as they were, gaps in numbers included");
}

#[test]
fn a_target_with_a_history_is_recognised_as_what_was_restored() {
    use crate::{block::Window, fs};
    let bench = Bench::new();
    let swap = bench.path("swap");
    std::fs::write(&swap, vec![0; usize::try_from(FAT.len()).unwrap()]).unwrap();
    run("mkswap", &["-q", "-L", "pages", &swap.display().to_string()]);
    let mut disk = std::fs::read(bench.path("source")).unwrap();
    place(&mut disk, FAT, &std::fs::read(swap).unwrap());
    std::fs::write(bench.path("source"), disk).unwrap();
    assert_eq!(bench.capture(bench.source()).outcome, Outcome::Complete);

    // Superblocks of Btrfs in the swap's free space, and of MD 1.0 at the end of the ext4's.
    let mut target = noise(77, DISK);
    let at = |extent: Extent, offset: u64| usize::try_from(extent.start + offset).unwrap();
    target[at(FAT, 64 * KIB + 64)..][..8].copy_from_slice(b"_BHRfS_M");
    target[at(EXT4, EXT4.len() - 8 * KIB)..][..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    std::fs::write(bench.path("target"), target).unwrap();
    assert_eq!(bench.restore(bench.target_as_is()).outcome, Outcome::Complete);
    let disk = bench.target_as_is();
    for (extent, name, label) in [(EXT4, "ext4", "root"), (FAT, "swap", "pages")] {
        let found = fs::detect(&Window::new(&disk, extent)).expect("something is there");
        assert_eq!((found.name.as_str(), found.label.as_deref()), (name, Some(label)));
    }
    drop(disk);
    let target = std::fs::read(bench.path("target")).unwrap();
    assert!(target[at(FAT, 64 * KIB + 64)..][..8].iter().all(|byte| *byte == 0));
    bench.assert_restored(DISK);
}

#[test]
fn a_hole_of_any_size_is_one_run() {
    let bench = Bench::new();
    let len = 8 << 40;
    std::fs::File::create(bench.path("source")).unwrap().set_len(len).unwrap();
    let report = bench.capture(bench.source());
    assert_eq!((report.outcome, report.stored_bytes), (Outcome::Complete, 0));
    let image = bench.image();
    assert!(image.regions.iter().map(|region| region.chunks.len()).sum::<usize>() <= 2, "{:?}", image.regions);
}

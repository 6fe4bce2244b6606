//! Disks that fail, lie, or go away in the middle of a job.

use super::*;
use crate::{
    block::faulty::{FaultyDisk, Kind, Op, Repeat},
    job::{Event, Monitor, Outcome},
    store::manifest::ImageState,
};

#[test]
fn unreadable_sectors_make_a_partial_image_that_names_them() {
    let bench = Bench::new();
    let bad = [Extent::new(13 * MIB + 512, 13 * MIB + 1024), Extent::new(22 * MIB, 22 * MIB + 1536)];
    let mut disk = FaultyDisk::new(bench.source());
    for extent in bad {
        disk = disk.bad_at(Kind::Read, extent);
    }
    let report = bench.capture(disk);
    assert_eq!(report.outcome, Outcome::Partial);
    assert_eq!(report.problems.len(), 2);
    let image = bench.image();
    assert_eq!(image.state, ImageState::Partial);
    assert_eq!(image.unreadable, bad.into_iter().collect());

    let mut job = bench.restore_job();
    drop(bench.target(DISK));
    let refused = RestorePlan::new(&job).err().expect("consent is missing").to_string();
    assert!(refused.contains("--accept-partial"), "{refused}");
    job.accept_partial = true;
    let report = RestorePlan::new(&job).unwrap().run(&Silent, &Cancel::new());
    assert_eq!(report.outcome, Outcome::Partial);
    let target = fs::read(bench.path("target")).unwrap();
    assert!(bytes(&target, bad[1]).iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_whose_first_or_last_sector_is_bad_is_captured_all_the_same() {
    let bench = Bench::new();
    for bad in [Extent::new(0, 512), Extent::new(512, 1024), Extent::new(DISK - 512, DISK)] {
        let report = bench.capture(FaultyDisk::new(bench.source()).bad_at(Kind::Read, bad));
        assert_eq!((report.outcome, report.error), (Outcome::Partial, None), "{bad}");
        assert_eq!(bench.image().unreadable, ExtentSet::from(bad));
    }
}

#[test]
fn a_disk_that_answers_nothing_any_more_has_failed() {
    let bench = Bench::new();
    fs::write(bench.path("source"), noise(3, 48 * MIB)).unwrap();
    let first = FaultyDisk::new(bench.source());
    let log = first.log();
    let plan = CapturePlan::of_disk(&bench.capture_job(), Box::new(first), &Cancel::new()).unwrap();
    let planned = log.count(Kind::Read);
    drop(plan);
    let dying = FaultyDisk::new(bench.source()).fails_at(Kind::Read, planned + 6, Repeat::FromThenOn);
    let report = bench.capture(dying);
    assert_eq!((report.outcome, bench.image_count()), (Outcome::Failed, 0));
    assert!(report.error.as_deref().is_some_and(|error| error.contains("does not answer")), "{report:?}");
}

#[test]
fn a_bad_sector_in_free_space_is_nobodys_loss() {
    let bench = Bench::new();
    assert_eq!(bench.capture(bench.source()).outcome, Outcome::Complete);
    let free = ExtentSet::full(DISK).subtract(&allocated(&bench.image()));
    let hole = free.iter().max_by_key(|extent| extent.len()).unwrap();
    let report = bench.capture(FaultyDisk::new(bench.source()).bad_at(Kind::Read, hole));
    assert_eq!(report.outcome, Outcome::Complete);
}

#[test]
fn a_source_that_is_unplugged_never_becomes_an_image() {
    let bench = Bench::new();
    let probe = FaultyDisk::new(bench.source());
    let log = probe.log();
    let plan = CapturePlan::of_disk(&bench.capture_job(), Box::new(probe), &Cancel::new()).unwrap();
    let planned = log.count(Kind::Read);
    assert_eq!(plan.run(&Silent, &Cancel::new()).outcome, Outcome::Complete);
    let all = log.count(Kind::Read);
    for reads in [planned, planned + 1, usize::midpoint(planned, all), all - 1, all] {
        let report = bench.capture(FaultyDisk::new(bench.source()).gone_after(reads));
        assert_eq!(report.outcome, Outcome::Failed, "after {reads} of {all} reads");
        assert_eq!(bench.image_count(), 1, "after {reads} of {all} reads");
    }
    let shrunk = FaultyDisk::new(bench.source()).ends_at(15 * MIB);
    assert!(
        CapturePlan::of_disk(&bench.capture_job(), Box::new(shrunk), &Cancel::new()).is_err(),
        "its end cannot be read"
    );
}

#[test]
fn the_head_of_the_disk_is_written_last() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let target = FaultyDisk::new(bench.target(DISK));
    let log = target.log();
    assert_eq!(bench.restore(target).outcome, Outcome::Complete);
    let ops = log.ops();
    let boots = |op: &Op| matches!(op, Op::Write(extent) if extent.start < MIB);
    let first = ops.iter().position(boots).unwrap();
    let caches = ops[..first].iter().rposition(|op| matches!(op, Op::DropCaches)).unwrap();
    let before = |wanted: &dyn Fn(&Op) -> bool| ops[..caches].iter().any(wanted);
    assert!(
        before(&|op| matches!(op, Op::Write(_))) && !ops[caches..first].iter().any(|op| matches!(op, Op::Write(_)))
    );
    assert!(ops[caches..first].iter().any(|op| matches!(op, Op::Read(_))), "regions were read back before");
    let rest = &ops[first..];
    assert!(!rest.iter().any(|op| matches!(op, Op::Write(extent) if extent.end > MIB)), "nothing else after the head");
    let last = ops.iter().rposition(boots).unwrap();
    assert!(matches!(ops[last], Op::Write(extent) if extent.start == 0), "LBA 0 is the very last");
    assert!(ops[last..].contains(&Op::Sync));
    assert!(matches!(ops[ops.len() - 2..], [Op::CheckUnchanged, Op::RereadTable]));
}

#[test]
fn every_write_that_fails_leaves_a_disk_that_cannot_start_and_can_be_finished() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let target = FaultyDisk::new(bench.target(DISK));
    let log = target.log();
    assert_eq!(bench.restore(target).outcome, Outcome::Complete);
    let (writes, syncs) = (log.count(Kind::Write), log.count(Kind::Sync));
    let faults = (1..=writes).step_by(writes / 24 + 1).map(|nth| (Kind::Write, nth));
    for (kind, nth) in faults.chain([(Kind::Write, writes)]).chain((1..=syncs).map(|nth| (Kind::Sync, nth))) {
        let report = bench.restore(FaultyDisk::new(bench.target(DISK)).fails_at(kind, nth, Repeat::FromThenOn));
        assert_eq!(report.outcome, Outcome::Failed, "{kind:?} {nth}");
        let target = fs::read(bench.path("target")).unwrap();
        // The last sync fails after the head was handed over; before that, nothing may look like a table.
        if (kind, nth) != (Kind::Sync, syncs) && (kind, nth) != (Kind::Write, 1) {
            assert_ne!(&target[510..512], &[0x55, 0xaa], "{kind:?} {nth}");
        }
        let report = bench.restore(bench.target_as_is());
        assert_eq!(report.outcome, Outcome::Complete, "{kind:?} {nth}");
        bench.assert_restored(DISK);
    }
}

#[test]
fn a_write_that_is_stored_wrong_is_found_by_reading_back() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let target = FaultyDisk::new(bench.target(DISK));
    let log = target.log();
    assert_eq!(bench.restore(target).outcome, Outcome::Complete);
    let writes = log.count(Kind::Write);
    let mut struck = 0;
    for nth in (1..=writes).step_by(writes / 24 + 1).chain([writes]) {
        let target = FaultyDisk::new(bench.target(DISK)).corrupts_write(nth);
        let log = target.log();
        let report = bench.restore(target);
        let ops: Vec<Op> = log.ops().into_iter().filter(|op| matches!(op, Op::Write(_) | Op::Zero(_))).collect();
        // Several threads write: the nth write is not the same one each time, and may be of zeros, which is not struck.
        if matches!(ops[nth - 1], Op::Zero(_)) {
            continue;
        }
        struck += 1;
        assert_eq!(report.outcome, Outcome::Failed, "write {nth} of {writes}");
        let error = report.error.unwrap();
        assert!(error.contains("read"), "{error}");
    }
    assert!(struck > 10, "{struck} of {writes}");
}

#[test]
fn a_damaged_store_is_refused_before_the_target_is_touched() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let pack = walk(&bench.path("store/packs")).pop().unwrap();
    let whole = fs::read(&pack).unwrap();
    for at in [whole.len() / 3, whole.len() / 2, whole.len() - 9] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&pack, damaged).unwrap();
        let report = bench.restore(bench.target(DISK));
        assert_eq!((report.outcome, report.refused), (Outcome::Failed, true), "byte {at}");
        let error = report.error.unwrap();
        assert!(error.contains(&bench.image().id), "names the image: {error}");
        assert_eq!(fs::read(bench.path("target")).unwrap(), noise(77, DISK), "byte {at}");
    }
}

pub(super) fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Raises a flag when a phase has gone on for a while.
pub(super) struct CancelIn(pub crate::job::Phase, pub Cancel);

impl Monitor for CancelIn {
    fn event(&self, event: Event) {
        if matches!(event, Event::Phase { phase } if phase == self.0) {
            self.1.cancel();
        }
    }
}

#[test]
fn cancelling_leaves_no_image_and_a_disk_that_cannot_start() {
    use crate::job::Phase;
    let bench = Bench::new();
    let cancel = Cancel::new();
    let plan = CapturePlan::of_disk(&bench.capture_job(), Box::new(bench.source()), &Cancel::new()).unwrap();
    let report = plan.run(&CancelIn(Phase::Capturing, cancel.clone()), &cancel);
    assert_eq!((report.outcome, bench.image_count()), (Outcome::Failed, 0));

    bench.capture(bench.source());
    for phase in [Phase::Comparing, Phase::Checking, Phase::Writing, Phase::ReadingBack] {
        drop(bench.target(DISK));
        let cancel = Cancel::new();
        let plan = RestorePlan::new(&bench.restore_job()).unwrap();
        let report = plan.run(&CancelIn(phase, cancel.clone()), &cancel);
        assert_eq!(report.outcome, Outcome::Failed, "{phase:?}");
        let error = report.error.unwrap();
        assert!(error.starts_with("cancelled"), "{error}");
        let target = fs::read(bench.path("target")).unwrap();
        let untouched = matches!(phase, Phase::Comparing | Phase::Checking);
        assert_eq!(target == noise(77, DISK), untouched, "{phase:?}");
        assert_ne!(&target[510..512], &[0x55, 0xaa], "{phase:?}");
    }
}

//! What becomes of a target's free bytes.

use std::sync::Arc;

use super::{odd::Odd, *};
use crate::{
    block::{
        Discard, MemoryDisk,
        faulty::{FaultyDisk, Kind, Log, Op, Repeat},
        read_vec,
    },
    job::{Free, Outcome},
};

/// Bytes of the targets: larger than the source.
const LARGER: u64 = DISK + 3 * MIB;

/// Restores in one mode onto a solid-state disk full of noise; returns what was asked of it and what it holds then.
fn restored(bench: &Bench, free: Option<Free>) -> (Log, Vec<u8>) {
    let memory = Arc::new(MemoryDisk::new(noise(77, LARGER), SectorSize::B512));
    let target = FaultyDisk::new(Arc::clone(&memory));
    let log = target.log();
    let job = RestoreJob { free, ..bench.restore_job() };
    let report = bench.plan(&job, target).run(&Silent, &Cancel::new());
    assert_eq!((report.outcome, &report.error, &report.problems), (Outcome::Complete, &None, &Vec::new()), "{free:?}");
    (log, read_vec(&*memory, 0, usize::try_from(LARGER).unwrap()).unwrap())
}

/// Free bytes of the target that nothing else is written to.
fn untouched(bench: &Bench) -> ExtentSet {
    let mut taken = vec![Extent::new(0, MIB), Extent::new(LARGER - MIB, LARGER)];
    for region in bench.image().regions {
        let range = region.region.range;
        taken.extend([Extent::new(range.start, range.start + MIB), Extent::new(range.end - MIB, range.end)]);
    }
    ExtentSet::full(LARGER).subtract(&allocated(&bench.image())).subtract(&ExtentSet::from_unsorted(taken))
}

#[test]
fn a_target_full_of_noise_comes_out_right_in_every_mode() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let source = fs::read(bench.path("source")).unwrap();
    let kept = allocated(&bench.image());
    let free = untouched(&bench);
    assert!(free.total() > 4 * MIB && free.covers(Extent::new(DISK, LARGER - MIB)), "{free:?}");
    for mode in [None, Some(Free::Leave), Some(Free::Discard), Some(Free::Zero)] {
        let (log, target) = restored(&bench, mode);
        assert!(kept.iter().all(|extent| bytes(&source, extent) == bytes(&target, extent)), "{mode:?}");
        let discarded = log.discarded();
        match mode {
            Some(Free::Leave) => {
                let before = noise(77, LARGER);
                assert!(free.iter().all(|extent| bytes(&before, extent) == bytes(&target, extent)));
                assert!(discarded.is_empty());
            }
            // A solid-state disk is told unasked.
            None | Some(Free::Discard) => {
                assert_eq!(free.subtract(&discarded), ExtentSet::new());
                assert_eq!(discarded.intersect(&kept.union(&log.written())), ExtentSet::new());
                assert!(discarded.iter().all(|extent| bytes(&target, extent).iter().all(|byte| *byte == 0xdc)));
                let ops = log.ops();
                let last = ops.iter().rposition(|op| matches!(op, Op::Discard(_))).unwrap();
                assert!(ops[..last].iter().all(|op| !matches!(op, Op::Write(_))), "discards come first");
            }
            Some(Free::Zero) => {
                let zero = ExtentSet::full(LARGER).subtract(&kept).subtract(&Extent::new(0, MIB).into());
                assert!(zero.iter().all(|extent| bytes(&target, extent).iter().all(|byte| *byte == 0)));
                assert!(discarded.is_empty());
            }
        }
    }
}

#[test]
fn a_file_keeps_its_free_bytes_unless_asked_and_gets_holes_of_whole_blocks() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let target = FaultyDisk::new(bench.target(DISK));
    let log = target.log();
    assert_eq!(bench.restore(target).outcome, Outcome::Complete);
    assert_eq!(log.count(Kind::Discard), 0);
    let job = RestoreJob { free: Some(Free::Discard), ..bench.restore_job() };
    let target = FaultyDisk::new(bench.target(DISK));
    let (log, unit) = (target.log(), target.can_discard().unwrap().granularity);
    let report = bench.plan(&job, target).run(&Silent, &Cancel::new());
    assert_eq!((report.outcome, &report.problems), (Outcome::Complete, &Vec::new()));
    let discarded = log.discarded();
    assert!(unit > 512 && discarded.total() > MIB);
    assert!(discarded.iter().all(|extent| extent.start.is_multiple_of(unit) && extent.end.is_multiple_of(unit)));
    let (source, target) = (fs::read(bench.path("source")).unwrap(), fs::read(bench.path("target")).unwrap());
    assert!(discarded.iter().all(|extent| bytes(&target, extent).iter().all(|byte| *byte == 0)));
    assert!(allocated(&bench.image()).iter().all(|extent| bytes(&source, extent) == bytes(&target, extent)));
}

#[test]
fn a_discard_that_fails_is_said_and_fails_nothing() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let job = RestoreJob { free: Some(Free::Discard), ..bench.restore_job() };
    let target = FaultyDisk::new(bench.target(DISK)).fails_at(Kind::Discard, 2, Repeat::FromThenOn);
    let log = target.log();
    let report = bench.plan(&job, target).run(&Silent, &Cancel::new());
    assert_eq!((report.outcome, report.problems.len(), log.count(Kind::Discard)), (Outcome::Complete, 1, 2));
    assert!(report.problems[0].starts_with("free bytes were left as they are: discarding"), "{report:?}");
}

#[test]
fn zeroing_again_writes_nothing_again() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let job = RestoreJob { free: Some(Free::Zero), ..bench.restore_job() };
    assert_eq!(bench.plan(&job, bench.target(DISK)).run(&Silent, &Cancel::new()).outcome, Outcome::Complete);
    let memory = MemoryDisk::new(fs::read(bench.path("target")).unwrap(), SectorSize::B512);
    let target = FaultyDisk::new(memory);
    let log = target.log();
    assert_eq!(bench.plan(&job, target).run(&Silent, &Cancel::new()).outcome, Outcome::Complete);
    let ends: ExtentSet = [Extent::new(0, MIB), Extent::new(DISK - MIB, DISK)].into_iter().collect();
    assert_eq!(log.written().subtract(&ends), ExtentSet::new());
}

/// A disk that says that it zeroed some bytes and did not, and that cannot discard.
fn idle(disk: FileDisk, hole: Extent) -> Odd {
    Odd::new(disk).zeroing(move |disk, range| if range.overlaps(hole) { Ok(()) } else { disk.write_zeros(range) })
}

#[test]
fn free_bytes_that_were_not_zeroed_are_found_by_reading_back() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let hole = untouched(&bench).iter().max_by_key(|extent| extent.len()).unwrap();
    let job = RestoreJob { free: Some(Free::Zero), ..bench.restore_job() };
    let report = bench.plan(&job, idle(bench.target(DISK), hole)).run(&Silent, &Cancel::new());
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.error.as_deref().is_some_and(|error| error.contains("zero was written")), "{report:?}");
    assert_eq!(bench.restore(idle(bench.target(DISK), hole)).outcome, Outcome::Complete, "nobody asked for zeros");
}

#[test]
fn the_plan_says_what_becomes_of_free_bytes() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let said = |free, target: Box<dyn TargetDisk>| {
        let view = bench.plan(&RestoreJob { free, ..bench.restore_job() }, target).view();
        let all: Vec<String> = view.steps.into_iter().map(|step| step.what).chain(view.warnings).collect();
        all.join("\n")
    };
    type Make<'a> = &'a dyn Fn() -> Box<dyn TargetDisk>;
    let file: Make<'_> = &|| Box::new(bench.target(LARGER));
    let memory: Make<'_> = &|| Box::new(MemoryDisk::new(noise(7, LARGER), SectorSize::B512));
    let idle: Make<'_> = &|| Box::new(idle(bench.target(LARGER), Extent::new(0, 0)));
    for (free, target, want) in [
        (None, file, "; leave "),
        (None, file, "MiB free, but zero old signatures"),
        (None, memory, "; discard "),
        (Some(Free::Zero), memory, "; zero "),
        (Some(Free::Zero), file, "; zero "),
        (Some(Free::Discard), file, "; discard "),
        (Some(Free::Discard), idle, "cannot discard: free bytes keep what they hold now"),
        (Some(Free::Discard), idle, "; leave "),
    ] {
        let said = said(free, target());
        assert!(said.contains(want), "{free:?}: {said}");
    }
    assert_eq!(idle().can_discard(), None);
    assert_eq!(memory().can_discard(), Some(Discard { granularity: 512, solid_state: true }));
}

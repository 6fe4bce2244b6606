//! Restores onto targets that hold some of the image already.

use super::{odd::Odd, *};
use crate::{
    block::{
        ReadAt,
        faulty::{FaultyDisk, Kind, Log, Op, Repeat},
    },
    job::Outcome,
};

impl Bench {
    /// A bench whose target holds the newest image already.
    fn restored() -> Self {
        let bench = Self::new();
        assert_eq!(bench.capture(bench.source()).outcome, Outcome::Complete);
        assert_eq!(bench.restore(bench.target(DISK)).outcome, Outcome::Complete);
        bench
    }

    /// Restores onto the target as it is; tells what was asked of it.
    fn again(&self) -> (Report, Log) {
        let target = FaultyDisk::new(self.target_as_is());
        let log = target.log();
        (self.restore(target), log)
    }

    /// Changes bytes of the target.
    fn scratch(&self, offset: u64) {
        let mut target = fs::read(self.path("target")).unwrap();
        target[usize::try_from(offset).unwrap()] ^= 0x40;
        fs::write(self.path("target"), target).unwrap();
    }
}

/// What every restore writes: the ends that are cleared, and what is late, which lies in them.
fn always() -> ExtentSet {
    [Extent::new(0, MIB), Extent::new(DISK - MIB, DISK)].into_iter().collect()
}

#[test]
fn a_second_restore_writes_the_ends_and_nothing_else() {
    let bench = Bench::restored();
    let (report, log) = bench.again();
    assert_eq!((report.outcome, &report.error), (Outcome::Complete, &None));
    assert_eq!(log.written().subtract(&always()), ExtentSet::new());
    let rest = allocated(&bench.image()).subtract(&always());
    assert_eq!(report.unchanged_bytes, rest.total());
    assert!(report.written_bytes <= 4 * MIB, "{report:?}");
    let read: u64 = log.reads().iter().map(|extent| extent.len()).sum();
    assert!(read < rest.total() + 8 * MIB, "what is equal is read once: {read} of {}", rest.total());
    bench.assert_restored(DISK);
}

#[test]
fn only_what_changed_is_written_and_free_bytes_are_noise() {
    let bench = Bench::restored();
    let free = ExtentSet::full(DISK).subtract(&allocated(&bench.image())).subtract(&always());
    let hole = free.iter().max_by_key(|extent| extent.len()).unwrap();
    bench.scratch(hole.start + hole.len() / 2);
    let (report, log) = bench.again();
    assert_eq!(report.outcome, Outcome::Complete);
    assert_eq!(log.written().subtract(&always()), ExtentSet::new());

    let data = allocated(&bench.image()).clip(FAT);
    let at = data.iter().max_by_key(|extent| extent.len()).unwrap().start + 5000;
    bench.scratch(at);
    let (report, log) = bench.again();
    assert_eq!(report.outcome, Outcome::Complete);
    let written = log.written().subtract(&always());
    assert!(written.contains(at) && written.total() <= MIB, "{written:?}");
    bench.scratch(hole.start + hole.len() / 2);
    bench.assert_restored(DISK);
}

#[test]
fn a_zero_that_is_not_zero_any_more_is_zeroed_again() {
    let bench = Bench::restored();
    let source = fs::read(bench.path("source")).unwrap();
    let zero = allocated(&bench.image()).subtract(&always()).iter().find_map(|extent| {
        let at = bytes(&source, extent).windows(256 << 10).position(|run| run.iter().all(|byte| *byte == 0));
        at.map(|at| extent.start + at as u64 + 100_000)
    });
    bench.scratch(zero.expect("a file of zeros is in the image"));
    assert_eq!(bench.again().0.outcome, Outcome::Complete);
    bench.assert_restored(DISK);
}

#[test]
fn an_interrupted_restore_goes_on_where_it_stopped() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let target = FaultyDisk::new(bench.target(DISK));
    let log = target.log();
    let full = bench.restore(target);
    let writes = log.count(Kind::Write);
    let mut random = 12_345u64;
    for _ in 0..8 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let nth = 1 + usize::try_from(random >> 33).unwrap() % writes;
        let target = FaultyDisk::new(bench.target(DISK)).fails_at(Kind::Write, nth, Repeat::FromThenOn);
        let first = bench.restore(target);
        assert_eq!(first.outcome, Outcome::Failed, "write {nth}");
        let (second, _) = bench.again();
        assert_eq!((second.outcome, &second.error), (Outcome::Complete, &None), "write {nth}");
        bench.assert_restored(DISK);
        // What each thread was at is written again, and the ends always are.
        let slack = 6 * MIB + 4 * MIB;
        let both = first.written_bytes + second.written_bytes;
        assert!(both <= full.written_bytes + slack, "write {nth}: {first:?} {second:?} {full:?}");
    }
}

#[test]
fn what_a_delta_writes_wrong_is_found_by_reading_back() {
    let bench = Bench::restored();
    let data = allocated(&bench.image()).clip(EXT4);
    let at = data.iter().max_by_key(|extent| extent.len()).unwrap().start;
    bench.scratch(at);
    let target = bench.target_as_is();
    fs::copy(bench.path("target"), bench.path("before")).unwrap();
    let target = FaultyDisk::new(target);
    let log = target.log();
    assert_eq!(bench.restore(target).outcome, Outcome::Complete);
    let writes: Vec<Op> = log.ops().into_iter().filter(|op| matches!(op, Op::Write(_) | Op::Zero(_))).collect();
    let nth = 1 + writes.iter().position(|op| matches!(op, Op::Write(extent) if extent.contains(at))).unwrap();
    fs::copy(bench.path("before"), bench.path("target")).unwrap();
    let mut failed = 0;
    // The threads take turns: one of the writes close to it is the one.
    for nth in nth.saturating_sub(2)..=nth + 2 {
        fs::copy(bench.path("before"), bench.path("target")).unwrap();
        let report = bench.restore(FaultyDisk::new(bench.target_as_is()).corrupts_write(nth));
        failed += usize::from(report.outcome == Outcome::Failed);
    }
    assert!(failed > 0, "none of the writes that were struck was found");
}

#[test]
fn frames_the_target_does_not_need_may_be_damaged() {
    let bench = Bench::restored();
    let pack = super::faults::walk(&bench.path("store/packs")).pop().unwrap();
    let mut damaged = fs::read(&pack).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    fs::write(&pack, damaged).unwrap();
    let (report, _) = bench.again();
    assert_eq!((report.outcome, &report.error), (Outcome::Complete, &None));
    bench.assert_restored(DISK);
    assert!(bench.restore(bench.target(DISK)).refused, "a target that needs it");
}

/// A disk whose writes spoil the byte behind and the byte before them where they end within 4 KiB, as a medium may that
/// reads and writes whole sectors and goes wrong in between. Not in the first MiB, which is read back after all else.
fn smearing(disk: FileDisk) -> Odd {
    Odd::new(disk).writing(|disk, buf, offset| {
        let end = offset + buf.len() as u64;
        for (border, at) in [(offset, offset.saturating_sub(1)), (end, end)] {
            if !border.is_multiple_of(4096) && (MIB + 1..disk.len()).contains(&border) {
                let mut byte = [0];
                disk.read_exact_at(&mut byte, at)?;
                disk.write_all_at(&[byte[0] ^ 1], at)?;
            }
        }
        disk.write_all_at(buf, offset)
    })
}

#[test]
fn what_a_write_passes_over_is_read_back_although_it_was_equal() {
    let bench = Bench::new();
    let start = 2 * MIB + 63 * 512;
    let mut disk = noise(1, DISK);
    disk[..512].copy_from_slice(&mbr(&[(0x83, Extent::new(start, 20 * MIB))]));
    fs::write(bench.path("source"), disk).unwrap();
    assert_eq!(bench.capture(bench.source()).outcome, Outcome::Complete);
    assert_eq!(bench.restore(bench.target(DISK)).outcome, Outcome::Complete);
    assert_eq!(bench.restore(smearing(bench.target_as_is())).outcome, Outcome::Complete, "nothing is written there");
    bench.scratch(start + 5 * MIB);
    let report = bench.restore(smearing(bench.target_as_is()));
    assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
    assert!(report.error.as_deref().is_some_and(|error| error.contains("reads back")), "{report:?}");
}

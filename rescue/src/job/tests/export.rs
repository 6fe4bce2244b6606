//! Images as raw disks in files.

use std::os::unix::fs::{MetadataExt as _, symlink};

use super::{faults::CancelIn, *};
use crate::{
    block::faulty::{FaultyDisk, Kind},
    job::{ExportJob, Outcome, Output, Phase, export::ExportPlan, plan::Error},
    table::RegionKind,
};

impl Bench {
    fn export_job(&self) -> ExportJob {
        ExportJob {
            store: self.path("store"),
            image: ImageRef::Latest,
            output: Output::File(self.path("raw")),
            region: None,
            overwrite: false,
            accept_partial: false,
        }
    }

    /// Returns the names in the folder that begin with the output's.
    fn outputs(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with("raw")).collect()
    }

    /// Returns what an export of the newest image holds: the source's allocated bytes, and zeros.
    fn expected(&self) -> Vec<u8> {
        let source = fs::read(self.path("source")).unwrap();
        let mut out = vec![0; source.len()];
        for extent in allocated(&self.image()).iter() {
            place(&mut out, extent, bytes(&source, extent));
        }
        out
    }
}

fn export(job: &ExportJob) -> Report {
    ExportPlan::new(job).unwrap().run(&Silent, &Cancel::new())
}

fn refusal(job: &ExportJob) -> String {
    match ExportPlan::new(job).err() {
        Some(Error::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_file_holds_what_the_image_keeps_and_holes() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let report = export(&bench.export_job());
    assert_eq!((report.outcome, &report.error), (Outcome::Complete, &None));
    assert_eq!((report.disk_bytes, report.allocated_bytes), (DISK, allocated(&bench.image()).total()));
    let expected = bench.expected();
    assert!(fs::read(bench.path("raw")).unwrap() == expected);
    assert_eq!(bench.outputs(), ["raw"]);
    let data = expected.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count() as u64;
    let on_disk = fs::metadata(bench.path("raw")).unwrap().blocks() * 512;
    assert!(on_disk <= data * 4096 + 64 * KIB, "{on_disk} bytes for {} blocks of data", data);
}

#[test]
fn each_region_alone_is_a_part_of_the_whole() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let whole = bench.expected();
    for image in bench.image().regions {
        let region = image.region;
        let job = ExportJob { region: Some(region.kind), overwrite: true, ..bench.export_job() };
        let report = export(&job);
        assert_eq!((report.outcome, report.disk_bytes), (Outcome::Complete, region.range.len()), "{}", region.kind);
        assert!(fs::read(bench.path("raw")).unwrap() == bytes(&whole, region.range), "{}", region.kind);
    }
    let job = ExportJob { region: Some(RegionKind::Partition(7)), overwrite: true, ..bench.export_job() };
    let reason = refusal(&job);
    assert!(reason.contains("no partition 7; it has: head, partition 1 (ext4 \"root\"), gap,"), "{reason}");
}

#[test]
fn what_lies_in_a_chunk_and_is_not_kept_is_zero() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let (mut manifest, mut expected) = (bench.image(), bench.expected());
    // As if another program had left in its chunks what was free. The gap behind the ext4 is noise, and kept whole.
    let free = Extent::new(EXT4.end + 1000, EXT4.end + 300_000);
    let gap = manifest.regions.iter_mut().find(|image| image.region.range.start == EXT4.end).unwrap();
    gap.allocated.remove(Extent::new(1000, 300_000));
    place(&mut expected, free, &vec![0; usize::try_from(free.len()).unwrap()]);
    let store = Store::open(&bench.path("store")).unwrap();
    let plan = ExportPlan::of(&bench.export_job(), store, manifest).unwrap();
    assert_eq!(plan.run(&Silent, &Cancel::new()).outcome, Outcome::Complete);
    assert!(fs::read(bench.path("raw")).unwrap() == expected);
}

#[test]
fn a_hole_of_any_size_is_exported_as_one() {
    let bench = Bench::new();
    let len = (8 << 40) + 512;
    fs::File::create(bench.path("source")).unwrap().set_len(len).unwrap();
    bench.capture(bench.source());
    let report = export(&bench.export_job());
    assert_eq!((report.outcome, &report.error), (Outcome::Complete, &None));
    let made = fs::metadata(bench.path("raw")).unwrap();
    assert_eq!((made.len(), made.blocks()), (len, 0));
}

#[test]
fn missing_bytes_need_consent_where_they_are_asked_for() {
    let bench = Bench::new();
    let bad = Extent::new(13 * MIB + 512, 13 * MIB + 1024);
    bench.capture(FaultyDisk::new(bench.source()).bad_at(Kind::Read, bad));
    let reason = refusal(&bench.export_job());
    assert!(reason.contains("512 B of what is asked for") && reason.contains("--accept-partial"), "{reason}");
    let report = export(&ExportJob { accept_partial: true, ..bench.export_job() });
    assert_eq!((report.outcome, report.problems.len()), (Outcome::Partial, 1));
    let mut expected = bench.expected();
    place(&mut expected, bad, &[0; 512]);
    assert!(fs::read(bench.path("raw")).unwrap() == expected);

    let whole = ExportJob { region: Some(RegionKind::Partition(1)), overwrite: true, ..bench.export_job() };
    assert_eq!(export(&whole).outcome, Outcome::Complete, "none of the partition is missing");
}

#[test]
fn damage_leaves_no_file_and_the_old_one_as_it_was() {
    let bench = Bench::new();
    bench.capture(bench.source());
    for pack in faults::walk(&bench.path("store/packs")) {
        let mut damaged = fs::read(&pack).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        fs::write(pack, damaged).unwrap();
    }
    let report = export(&bench.export_job());
    assert_eq!((report.outcome, report.refused), (Outcome::Failed, false));
    let error = report.error.unwrap();
    assert!(error.contains(&bench.image().id) && error.contains("of the disk"), "{error}");
    assert_eq!(bench.outputs(), [""; 0]);

    fs::write(bench.path("raw"), "an older export").unwrap();
    assert_eq!(export(&ExportJob { overwrite: true, ..bench.export_job() }).outcome, Outcome::Failed);
    assert_eq!(fs::read(bench.path("raw")).unwrap(), b"an older export");
    assert_eq!(bench.outputs(), ["raw"]);
}

#[test]
fn cancelling_leaves_no_file() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let cancel = Cancel::new();
    let plan = ExportPlan::new(&bench.export_job()).unwrap();
    let report = plan.run(&CancelIn(Phase::Writing, cancel.clone()), &cancel);
    assert_eq!((report.outcome, report.error.as_deref()), (Outcome::Failed, Some("cancelled; no file was made")));
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn what_is_there_is_replaced_only_when_told() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let late = ExportPlan::new(&bench.export_job()).unwrap();
    fs::write(bench.path("raw"), "somebody's").unwrap();
    let reason = refusal(&bench.export_job());
    assert!(reason.contains("exists already; --overwrite"), "{reason}");
    let report = late.run(&Silent, &Cancel::new());
    assert_eq!((report.outcome, report.refused), (Outcome::Failed, true), "it came after the plan");
    assert_eq!(fs::read(bench.path("raw")).unwrap(), b"somebody's");
    assert_eq!(export(&ExportJob { overwrite: true, ..bench.export_job() }).outcome, Outcome::Complete);
    assert!(fs::read(bench.path("raw")).unwrap() == bench.expected());
}

#[test]
fn only_files_outside_the_store_are_written() {
    let bench = Bench::new();
    bench.capture(bench.source());
    let block = fs::read_dir("/sys/class/block").unwrap().map(|entry| entry.unwrap().file_name());
    let block = block.map(|name| Path::new("/dev").join(name)).find(|path| path.exists());
    fs::create_dir(bench.path("folder")).unwrap();
    symlink(bench.path("nowhere"), bench.path("link")).unwrap();
    let mut cases = vec![
        (bench.path("folder"), "is a folder"),
        (bench.path("link"), "is a symbolic link"),
        (bench.path("store/disk.raw"), "lies in the store"),
        (bench.path("folder/../store/packs/disk.raw"), "lies in the store"),
        (PathBuf::from("/dev/null"), "is not a file"),
    ];
    if let Some(device) = &block {
        symlink(device, bench.path("device")).unwrap();
        cases.extend([(device.clone(), "`rescue restore`"), (bench.path("device"), "`rescue restore`")]);
    }
    for (path, why) in cases {
        let shown = path.display().to_string();
        let job = ExportJob { output: Output::File(path), overwrite: true, ..bench.export_job() };
        let reason = refusal(&job);
        assert!(reason.contains(why), "{shown}: {reason}");
    }
    let job = ExportJob { output: Output::File(bench.path("nowhere/disk.raw")), ..bench.export_job() };
    let error = ExportPlan::new(&job).err().unwrap().to_string();
    assert!(error.contains("the folder of") && error.contains("No such file"), "{error}");
}

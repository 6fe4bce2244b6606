//! One image: looked at, captured, restored onto noise, and judged before and after.

use std::{path::Path, time::Duration};

use rescue::{escape::Escaped, extent::Extent};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    files,
    judges::{Judge, Verdict},
    kinds::{self, Kind},
    measure::{Run, rescue},
    noise,
};

/// What a run of the program may take.
const TIME: Duration = Duration::from_secs(20);
/// And how much memory.
const MEMORY: u64 = 256 << 20;

/// How the trip of one image went. Each list is empty where all went well.
#[derive(Debug, Default)]
pub struct Trip {
    /// Bytes of the disk, and how many of them are kept.
    pub len: u64,
    pub kept: u64,
    /// Jobs that did not end as COMPLETE.
    pub refused: Vec<String>,
    /// Panics, signals and hangs.
    pub crashed: Vec<String>,
    /// Bytes that are kept, or of the source, that are not what they were; maps that are not.
    pub bytes: Vec<String>,
    /// Checkers that say something else than before.
    pub verdicts: Vec<String>,
    /// Kinds that another program calls something else.
    pub names: Vec<String>,
    /// Files that are not what they were.
    pub files: Vec<String>,
    /// Volumes that are kept whole although they are of a kind that is read, and clean.
    pub whole: Vec<String>,
    /// Runs beyond the limits of time and memory.
    pub limits: Vec<String>,
    /// Volumes that a checker said something about, and how many of them are of a kind that is read, and clean.
    pub judged: usize,
    pub clean: usize,
    /// Files that were compared.
    pub compared: usize,
    /// The slowest run of the program, and the largest.
    pub time: Duration,
    pub peak: u64,
}

impl Trip {
    /// Lists all that went wrong, each with what kind of failure it is.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let kinds = [
            ("refused", &self.refused),
            ("crashed", &self.crashed),
            ("bytes", &self.bytes),
            ("verdict", &self.verdicts),
            ("names", &self.names),
            ("files", &self.files),
            ("whole", &self.whole),
            ("limits", &self.limits),
        ];
        kinds.into_iter().flat_map(|(kind, list)| list.iter().map(move |what| (kind, what)))
    }

    fn run(&mut self, scratch: &Path, args: &[&str]) -> Run {
        let run = rescue(scratch, args);
        self.time = self.time.max(run.time);
        self.peak = self.peak.max(run.peak);
        if run.time > TIME || run.peak > MEMORY {
            self.limits.push(format!("{} took {:.1?} and {} MiB", args[0], run.time, run.peak >> 20));
        }
        self.crashed.extend(run.crash().map(|how| format!("{}: {how}", args[0])));
        if run.code != Some(0) {
            let said = [run.stderr.trim(), run.stdout.trim()].join(" ");
            self.refused.push(format!("{}: {:?}: {}", args[0], run.code, Escaped(&said)));
        }
        run
    }
}

/// Sends the image at `source` through a capture and a restore.
pub fn run(archive: &str, source: &Path) -> Trip {
    let dir = TempDir::new().unwrap();
    let [store, target] = ["store", "target"].map(|name| dir.path().join(name).display().to_string());
    let name = source.display().to_string();
    let mut trip = Trip::default();
    let sectors: &[&str] = if name.contains("gpt-4096") { &["--sector-size", "4096"] } else { &[] };
    let with = |args: &[&'static str], rest: &[&str]| -> Vec<String> {
        args.iter().chain(rest).chain(sectors).map(|&arg| arg.to_owned()).collect()
    };
    let job = |trip: &mut Trip, args: &[&'static str], rest: &[&str]| {
        let args = with(args, rest);
        trip.run(dir.path(), &args.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let hash = files::hash(source);
    let seen = job(&mut trip, &["show", "--json"], &[&name]).json();
    let map = job(&mut trip, &["show", "--extents"], &[&name]).stdout;
    let kept = extents(&map);
    trip.len = source.metadata().unwrap().len();
    trip.kept = kept.iter().map(|extent| extent.len()).sum();

    let report = job(&mut trip, &["capture", "--json", "--level", "1"], &[&name, &store]);
    if report.json()["outcome"] != "COMPLETE" {
        return trip;
    }
    noise::target(Path::new(&target), source, &kept);
    job(&mut trip, &["restore", "--json", "--yes"], &[&store, "latest", &target]);

    if files::hash(source) != hash {
        trip.bytes.push("the source was written".to_owned());
    }
    if let Some(part) = files::first_difference(source, Path::new(&target), &kept) {
        trip.bytes.push(format!("{part} differ"));
    }
    if job(&mut trip, &["show", "--extents"], &[&target]).stdout != map {
        trip.bytes.push("the map of the restored disk is another one".to_owned());
    }
    if archive == "util-linux-fs" {
        compare_names(&mut trip, &seen, source);
    }
    for region in seen["regions"].as_array().unwrap_or(&Vec::new()) {
        judge(&mut trip, archive, region, [source, Path::new(&target)], dir.path());
    }
    trip
}

/// Reads what `rescue show --extents` prints.
fn extents(map: &str) -> Vec<Extent> {
    let extent = |line: &str| {
        let mut fields = line.split('\t').skip(1).map(|field| field.parse().unwrap());
        Extent::new(fields.next().unwrap(), fields.next().unwrap())
    };
    map.lines().map(extent).collect()
}

/// Compares what a disk without a table is called with what `blkid` calls it.
fn compare_names(trip: &mut Trip, seen: &Value, disk: &Path) {
    let verdict = Judge::Blkid.ask(disk);
    let theirs = verdict.output;
    let ours = seen["regions"][0]["detected"]["name"].as_str();
    let known = ours.is_none() && kinds::UNNAMED.contains(&theirs.as_str());
    // It names nothing that may be two things, and nothing newer than itself.
    if verdict.code == Some(0) && ours != Some(&theirs) && !known {
        trip.names.push(format!("blkid calls it {theirs}, and we {ours:?}"));
    }
}

/// Has a region judged on source and target.
fn judge(trip: &mut Trip, archive: &str, region: &Value, disks: [&Path; 2], dir: &Path) {
    let whole = region["kind"] == "whole";
    if !whole && region["kind"] != "partition" {
        return;
    }
    let kind =
        region["detected"]["name"].as_str().map_or_else(|| kinds::of_archive(archive).filter(|_| whole), kinds::of);
    let Some(kind) = kind else { return };
    let range: Extent = serde_json::from_value(region["range"].clone()).unwrap();
    let carved = ["before", "after"].map(|name| dir.join(name));
    let volumes = if whole { disks } else { [carved[0].as_path(), carved[1].as_path()] };
    if !whole {
        files::carve(disks[0], range, volumes[0]);
        files::carve(disks[1], range, volumes[1]);
    }
    let verdict = kind.checker.and_then(|checker| compare(trip, kind, checker, volumes));
    trip.judged += usize::from(verdict.is_some());
    // A checker passes over a journal that has yet to be replayed, and over what a file system says of its own errors.
    let clean = region["detected"]["state"] == "clean"
        && (kind.checker.is_none() || verdict.is_some_and(|verdict| verdict.code == Some(0)));
    if let Some(reader) = kind.reader {
        trip.compared += compare(trip, kind, reader, volumes).map_or(0, |verdict| verdict.files.len());
    }
    if clean && kind.read && region["detected"]["name"] == kind.name {
        trip.clean += 1;
        let full = region["usage"]["free"] == 0;
        if region["used"].as_u64() == Some(range.len()) && !full {
            trip.whole.push(format!("{} of {range}: {}", kind.name, region["widened"]));
        }
    }
}

/// Asks a judge before and after; returns what it said before, if it came to a verdict.
fn compare(trip: &mut Trip, kind: &Kind, judge: Judge, volumes: [&Path; 2]) -> Option<Verdict> {
    let before = judge.ask(volumes[0]);
    if !before.is_reached() {
        return None;
    }
    let after = judge.ask(volumes[1]);
    if (before.code, &before.output) != (after.code, &after.output) {
        let pair = before.output.lines().zip(after.output.lines()).find(|(before, after)| before != after);
        let what = format!("{judge:?} on {}: {:?} and now {:?}: {pair:?}", kind.name, before.code, after.code);
        trip.verdicts.push(what);
    }
    if before.files != after.files {
        let differs = |path: &&String| before.files.get(*path) != after.files.get(*path);
        let path = before.files.keys().chain(after.files.keys()).find(differs);
        let (left, right) = (before.files.len(), after.files.len());
        trip.files.push(format!("{judge:?} on {}: {left} files and now {right}, {path:?} differs", kind.name));
    }
    Some(before)
}

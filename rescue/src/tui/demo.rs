//! A made-up machine behind the screens: for looking at them, and for the tests that drive them. Nothing of it touches
//! a disk.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Error, Exit,
    backend::{Backend, Holds, Need, Place, Planned},
    run,
    state::Options,
    theme::Theme,
};
use crate::{
    block::{Identity, Transport, discovery::Use},
    extent::Extent,
    fs::{Detected, State},
    job::{
        Cancel, Event, ImageRef, Job, Monitor, Outcome, Phase, Progress, Report, plan,
        report::Stage,
        view::{Confirm, DiskView, ImageView, PlanView, RegionView, Step, StoreView},
    },
    store::manifest::ImageState,
    table::{Partition, Problem, RegionKind, TableKind},
    units::{GIB, MIB, SectorSize, TIB},
};

/// Shows the screens of the made-up machine.
///
/// # Errors
/// As [`super::main`].
pub fn show(booted: bool, monochrome: bool) -> Result<Exit, Error> {
    let theme = if monochrome { Theme::monochrome() } else { Theme::colour() };
    let options = Options { booted, store: None, machine: "tower".to_owned(), theme };
    run::run(options, Demo { pace: Duration::from_millis(60), ..Demo::default() })
}

/// What the next job does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    #[default]
    Complete,
    /// Some sectors cannot be read.
    Partial,
    /// The disk goes away.
    Fail,
    /// It is refused.
    Refuse,
    /// The program has a defect.
    Panic,
}

/// The made-up machine.
pub struct Demo {
    /// Its disks.
    pub disks: Vec<DiskView>,
    /// Where its stores are.
    pub places: Vec<Place>,
    /// What each of them holds.
    pub images: Vec<ImageView>,
    /// How long each piece of work takes.
    pub pace: Duration,
    /// How jobs end.
    pub fate: Fate,
    /// Counts the runs of plans.
    pub runs: AtomicUsize,
    /// What was asked for, in order.
    pub asked: Mutex<Vec<String>>,
}

impl Default for Demo {
    fn default() -> Self {
        Self {
            disks: disks(),
            places: places(),
            images: images(),
            pace: Duration::ZERO,
            fate: Fate::Complete,
            runs: AtomicUsize::new(0),
            asked: Mutex::default(),
        }
    }
}

impl Demo {
    fn note(&self, what: String) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl Backend for Demo {
    fn inventory(&self) -> String {
        String::new()
    }

    fn disks(&self) -> Result<Vec<DiskView>, String> {
        thread::sleep(self.pace * 4);
        let mut disks = self.disks.clone();
        disks.iter_mut().flat_map(|disk| &mut disk.regions).for_each(|region| region.used = None);
        Ok(disks)
    }

    fn measure(&self, path: &str) -> Result<DiskView, String> {
        thread::sleep(self.pace * 10);
        let found = self.disks.iter().find(|disk| disk.identity.path == path);
        found.cloned().ok_or_else(|| format!("{path} is gone"))
    }

    fn places(&self) -> Result<Vec<Place>, String> {
        thread::sleep(self.pace * 4);
        Ok(self.places.clone())
    }

    fn open_place(&self, place: &Place, need: Need) -> Result<PathBuf, String> {
        self.note(format!("open {} {need:?}", place.device));
        let folder = place.mounted_at.clone().unwrap_or_else(|| PathBuf::from("/run/rescue/stores/x"));
        match &place.holds {
            Holds::Store(folder) => Ok(folder.clone()),
            Holds::NoStore if need != Need::Store => Err(format!("there is no store on {}", place.device)),
            _ => Ok(folder.join("rescue")),
        }
    }

    fn close_places(&self) -> Result<(), String> {
        self.note("close".to_owned());
        Ok(())
    }

    fn images(&self, store: &Path) -> Result<StoreView, String> {
        self.note(format!("images {}", store.display()));
        if store.starts_with("/nowhere") {
            return Err(format!("there is no store in {}", store.display()));
        }
        Ok(StoreView { images: self.images.clone(), problems: Vec::new() })
    }

    fn plan(&self, job: &Job, _monitor: &dyn Monitor, _cancel: &Cancel) -> Result<Box<dyn Planned>, plan::Error> {
        thread::sleep(self.pace * 8);
        self.note(format!("plan {}", serde_json::to_string(job).unwrap_or_default()));
        if self.fate == Fate::Refuse {
            let why = "the store holds 12 GiB free, the image may need 214 GiB; choose another store".to_owned();
            return Err(plan::Error::Refused(why));
        }
        self.runs.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(DemoPlan { view: self.view(job)?, job: job.clone(), pace: self.pace, fate: self.fate }))
    }
}

impl Demo {
    fn view(&self, job: &Job) -> Result<PlanView, plan::Error> {
        let find = |path: &str| {
            let found = self.disks.iter().find(|disk| disk.identity.path == path);
            found.ok_or_else(|| plan::Error::Failed(format!("{path} is gone")))
        };
        Ok(match job {
            Job::Capture(job) => {
                let disk = find(&job.disk.to_string())?;
                let steps = steps(disk, |region| match region.used {
                    Some(used) if used < region.range.len() => "keep the blocks in use",
                    _ => "keep every block",
                });
                PlanView {
                    job: "capture".to_owned(),
                    title: format!("Image {} into {}", job.disk, job.store.display()),
                    disk: Some(disk.identity.clone()),
                    bytes: steps.iter().map(|step| step.bytes).sum(),
                    steps,
                    warnings: vec!["partition 3 (ext4) was not unmounted: its journal is kept as it is".to_owned()],
                    confirm: None,
                }
            }
            Job::Restore(job) => {
                let disk = find(&job.disk.to_string())?;
                let source = find("/dev/nvme0n1")?;
                let serial = disk.identity.serial.clone().unwrap_or_default();
                let answer: String = match serial.len().checked_sub(4) {
                    Some(from) => serial.get(from..).unwrap_or(&serial).to_owned(),
                    None => disk.identity.path.trim_start_matches("/dev/").to_owned(),
                };
                let prompt =
                    if serial.is_empty() { "the disk's name" } else { "the last 4 characters of the serial number" };
                let steps = steps(source, |_| "write the blocks in use");
                PlanView {
                    job: "restore".to_owned(),
                    title: format!("Write image {} onto {}", String::from(job.image.clone()), job.disk),
                    disk: Some(disk.identity.clone()),
                    bytes: steps.iter().map(|step| step.bytes).sum(),
                    steps,
                    warnings: vec!["the disk is larger than the image's: 465 GiB at its end stay unused".to_owned()],
                    confirm: Some(Confirm { prompt: prompt.to_owned(), answer }),
                }
            }
            Job::Verify(job) => PlanView {
                job: "verify".to_owned(),
                title: match &job.image {
                    Some(image) => format!("Check image {} in {}", String::from(image.clone()), job.store.display()),
                    None => format!("Check everything in {}", job.store.display()),
                },
                disk: None,
                steps: Vec::new(),
                bytes: 61 * GIB,
                warnings: Vec::new(),
                confirm: None,
            },
            Job::Export(_) => return Err(plan::Error::Refused("the screens export nothing".to_owned())),
        })
    }
}

fn steps(disk: &DiskView, what: impl Fn(&RegionView) -> &'static str) -> Vec<Step> {
    let line = |region: &RegionView| Step {
        region: match &region.detected {
            Some(detected) => format!("{} {}", region.kind, detected.name),
            None => region.kind.to_string(),
        },
        range: region.range,
        what: what(region).to_owned(),
        bytes: region.used.unwrap_or(region.range.len()),
    };
    disk.regions.iter().map(line).collect()
}

struct DemoPlan {
    view: PlanView,
    job: Job,
    pace: Duration,
    fate: Fate,
}

impl Planned for DemoPlan {
    fn view(&self) -> &PlanView {
        &self.view
    }

    fn run(self: Box<Self>, monitor: &dyn Monitor, cancel: &Cancel) -> Report {
        const PIECES: u64 = 200;
        assert!(self.fate != Fate::Panic, "a made-up defect");
        let mut stages = Vec::new();
        let mut problems = Vec::new();
        let phases: &[Phase] = match self.job {
            Job::Capture(_) => &[Phase::Capturing, Phase::Syncing],
            Job::Restore(_) => &[
                Phase::Comparing,
                Phase::Checking,
                Phase::Clearing,
                Phase::Freeing,
                Phase::Writing,
                Phase::ReadingBack,
                Phase::WritingTable,
            ],
            Job::Verify(_) => &[Phase::Verifying],
            Job::Export(_) => &[Phase::Writing, Phase::Syncing],
        };
        let mut error = None;
        'job: for phase in phases {
            monitor.event(Event::Phase { phase: *phase });
            let short = matches!(phase, Phase::Syncing | Phase::Clearing | Phase::Freeing | Phase::WritingTable);
            let (pieces, total) = if short { (4, 8 * MIB) } else { (PIECES, self.view.bytes) };
            for piece in 1..=pieces {
                thread::sleep(self.pace);
                let done = total / pieces * piece;
                let stored = if *phase == Phase::Capturing { done / 3 } else { 0 };
                monitor.event(Event::Progress { phase: *phase, progress: Progress { done, total, stored } });
                if self.fate == Fate::Partial && piece % 60 == 0 {
                    let what = format!("bytes {:#x}+0x1000 of partition 2 could not be read", done & !0xfff);
                    problems.push(what.clone());
                    monitor.event(Event::Problem { what });
                }
                if self.fate == Fate::Fail && piece == 50 {
                    error = Some(format!(
                        "reading 1048576 bytes at byte {done:#x} failed: Input/output error (os error 5)"
                    ));
                    break 'job;
                }
                if cancel.is_cancelled() {
                    error = Some("stopped by the operator".to_owned());
                    break 'job;
                }
            }
            let millis = u64::try_from(self.pace.as_millis()).unwrap_or(0) * pieces + 1;
            stages.push(Stage::plain(*phase, total, millis));
        }
        let outcome = match (&error, problems.is_empty()) {
            (Some(_), _) => Outcome::Failed,
            (None, false) => Outcome::Partial,
            (None, true) => Outcome::Complete,
        };
        self.report(outcome, stages, problems, error)
    }
}

impl DemoPlan {
    fn report(&self, outcome: Outcome, stages: Vec<Stage>, problems: Vec<String>, error: Option<String>) -> Report {
        let image = match &self.job {
            Job::Capture(_) => (outcome != Outcome::Failed).then(|| "5b1d0c9e7a3f4e21b8c6d4f2a1908e77".to_owned()),
            Job::Restore(job) => Some(String::from(job.image.clone())),
            Job::Export(job) => Some(String::from(job.image.clone())),
            Job::Verify(job) => job.image.as_ref().map(|image| match image {
                ImageRef::Id(id) => id.clone(),
                ImageRef::Latest => "latest".to_owned(),
            }),
        };
        Report {
            job: self.view.job.clone(),
            outcome,
            disk: self.view.disk.as_ref().map(|disk| disk.path.clone()).unwrap_or_default(),
            image,
            disk_bytes: self.view.disk.as_ref().map_or(0, |disk| disk.len),
            allocated_bytes: self.view.bytes,
            stored_bytes: self.view.bytes / 3,
            deduplicated_bytes: self.view.bytes / 4,
            written_bytes: self.view.bytes / 3 * 2,
            unchanged_bytes: self.view.bytes / 3,
            stages,
            problems,
            error,
            refused: false,
        }
    }
}

/// Builds a disk from its partitions.
pub fn disk(path: &str, model: &str, serial: &str, transport: Transport, len: u64, parts: &[Part]) -> DiskView {
    let mut regions = Vec::new();
    let mut at = MIB;
    let region = |kind, start, end| RegionView::new(kind, Extent::new(start, end));
    regions.push(region(RegionKind::Head, 0, at));
    for (number, part) in (1..).zip(parts) {
        let end = at + part.len;
        let mut entry = region(RegionKind::Partition(number), at, end);
        entry.partition = Some(Partition {
            number,
            range: entry.range,
            type_id: String::new(),
            type_name: Some(part.type_name.to_owned()),
            guid: None,
            name: None,
            attributes: 0,
        });
        entry.detected = (!part.fs.is_empty()).then(|| Detected {
            name: part.fs.to_owned(),
            version: None,
            label: (!part.label.is_empty()).then(|| part.label.to_owned()),
            uuid: None,
            block_size: Some(4096),
            state: part.state,
        });
        entry.used = part.used;
        regions.push(entry);
        at = end;
    }
    regions.push(region(RegionKind::Tail, at, len));
    if parts.is_empty() {
        regions = vec![region(RegionKind::Whole, 0, len)];
    } else if let Some(tail) = regions.last_mut() {
        tail.used = Some(33 * 512);
    }
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    DiskView {
        identity: Identity {
            path: path.to_owned(),
            model: text(model),
            serial: text(serial),
            wwn: None,
            transport,
            len,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B4096,
        },
        rotational: false,
        removable: transport == Transport::Usb,
        read_only: false,
        in_use: Vec::new(),
        table: Some(if parts.is_empty() { TableKind::None } else { TableKind::Gpt }),
        disk_id: None,
        regions,
        problems: Vec::new(),
        error: None,
    }
}

/// A partition of a made-up disk.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// File system; empty for none.
    pub fs: &'static str,
    /// Its label.
    pub label: &'static str,
    /// The partition's type.
    pub type_name: &'static str,
    /// Bytes.
    pub len: u64,
    /// Bytes used.
    pub used: Option<u64>,
    /// The state it was left in.
    pub state: State,
}

/// Builds a partition.
pub const fn part(fs: &'static str, label: &'static str, len: u64, used: Option<u64>) -> Part {
    Part { fs, label, type_name: "Linux filesystem", len, used, state: State::Clean }
}

fn disks() -> Vec<DiskView> {
    let mut dirty = part("ext4", "home", 260 * GIB, Some(181 * GIB));
    dirty.state = State::Dirty;
    let mut esp = part("vfat", "EFI", 512 * MIB, Some(38 * MIB));
    esp.type_name = "EFI System";
    let mut swap = part("swap", "", 32 * GIB, Some(4096));
    swap.type_name = "Linux swap";
    let system = disk(
        "/dev/nvme0n1",
        "Samsung SSD 970 EVO Plus 500GB",
        "S4EVNX0M802034K",
        Transport::Nvme,
        465 * GIB + 760 * MIB,
        &[esp, part("ext4", "root", 120 * GIB, Some(33 * GIB)), dirty, swap],
    );
    let mut windows = disk(
        "/dev/sda",
        "WDC WD10EZEX-08WN4A0",
        "WD-WCC6Y3AR1FTH",
        Transport::Ata,
        931 * GIB + 512 * MIB,
        &[
            part("ntfs", "System", 100 * MIB, Some(30 * MIB)),
            part("ntfs", "Windows", 600 * GIB, Some(214 * GIB)),
            part("ntfs", "Daten", 300 * GIB, Some(2 * GIB)),
        ],
    );
    windows.rotational = true;
    windows.table = Some(TableKind::Mbr);
    let mut stick = disk(
        "/dev/sdb",
        "SanDisk Extreme Pro",
        "AA011014180741381732",
        Transport::Usb,
        2 * TIB,
        &[part("ext4", "BACKUP", 2 * TIB - 2 * MIB, Some(TIB / 2))],
    );
    stick.problems.push(Problem { offset: 2 * TIB - 512, what: "the backup header is damaged".to_owned() });
    stick.in_use.push(Use { part: "sdb1".to_owned(), by: "mounted at /media/backup".to_owned(), writes: true });
    vec![system, windows, stick]
}

fn places() -> Vec<Place> {
    let place = |device: &str, disk: &str, fs: &str, label: &str, len: u64| Place {
        device: device.to_owned(),
        disk: disk.to_owned(),
        fs: fs.to_owned(),
        label: (!label.is_empty()).then(|| label.to_owned()),
        uuid: None,
        len,
        free: None,
        mounted_at: None,
        holds: Holds::Unknown,
    };
    let mut backup = place("/dev/sdb1", "/dev/sdb", "ext4", "BACKUP", 2 * TIB);
    backup.free = Some(TIB + 400 * GIB);
    backup.mounted_at = Some(PathBuf::from("/media/backup"));
    backup.holds = Holds::Store(PathBuf::from("/media/backup/rescue"));
    vec![
        place("/dev/nvme0n1p2", "/dev/nvme0n1", "ext4", "root", 120 * GIB),
        place("/dev/sda3", "/dev/sda", "ntfs", "Daten", 300 * GIB),
        backup,
    ]
}

fn images() -> Vec<ImageView> {
    let disks = disks();
    let image = |id: &str, created: &str, machine: &str, disk: &DiskView, label: &str, state| ImageView {
        id: id.to_owned(),
        created: created.to_owned(),
        state,
        machine: Some(machine.to_owned()),
        disk: disk.identity.path.clone(),
        identity: disk.identity.clone(),
        label: label.to_owned(),
        bytes: disk.identity.len,
        allocated: disk.regions.iter().filter_map(|region| region.used).sum(),
        stored: 9 * GIB + 300 * MIB,
        needs: disk.identity.len,
    };
    let list = disks.iter().collect::<Vec<_>>();
    let (Some(first), Some(second)) = (list.first(), list.get(1)) else { return Vec::new() };
    vec![
        image(
            "9f2c4b1d8e07a6355c10f4e2b9d8a7c6",
            "2026-11-22T18:03:11Z",
            "tower",
            first,
            "EFI, root, home",
            ImageState::Complete,
        ),
        image(
            "03d1e5f7a9b8c6d4e2f1a0b9c8d7e6f5",
            "2026-11-15T18:01:40Z",
            "tower",
            first,
            "before the upgrade",
            ImageState::Complete,
        ),
        image(
            "77a0c1b2d3e4f5061728394a5b6c7d8e",
            "2026-10-02T09:44:00Z",
            "reception",
            second,
            "System, Windows, Daten",
            ImageState::Partial,
        ),
    ]
}

//! A job that the kernel command line asks for, with nobody there: find the disk, find the store, plan, run, report.
//!
//! Runs as a child of PID 1 and ends with one of the codes 80 to 82 after it has reported. JSON lines on the report
//! port: `{"event":"start",…}`, `{"event":"matched",…}`, what the job says ([`crate::job::Event`]), perhaps
//! `{"event":"refused","reason":…}`, and always last `{"event":"result",…}` with the fields of [`Report`] and `exit`,
//! the exit code the same job has on the command line.
//!
//! A restore needs no typed confirmation here because the disk is named by what stays with it and was matched
//! exactly once; a device node is never accepted.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    cmdline::{self, Kind, Parsed, Request, StoreRef, Then},
    lines::Lines,
    port::Port,
};
use crate::{
    block::{
        DiskRef,
        discovery::{self, DiskInfo},
        open::{guid_of, matching, only},
    },
    escape::Escaped,
    exit,
    job::{
        Cancel, CaptureJob, Event, Job, Monitor, Outcome, Phase, Plan, Report, RestoreJob, VerifyJob,
        plan::{Error, panic_text},
        stores::{self, Access, FoundStore, Name, mount_store, unmount_store},
    },
    sys::{
        mount::{Mounted, holding, mounts},
        uevent::{Heard, Listener},
    },
    units::Bytes,
};

/// Disks must have been quiet for so long before one match counts as the only one.
const QUIET: Duration = Duration::from_secs(1);
/// Why one match that is there does not count.
const RESTLESS: &str = "disks keep coming and going; whether one match is the only one cannot be told";
/// They are looked at so often without an announcement.
const POLL: Duration = Duration::from_millis(500);
/// Progress on the console comes so often.
const CONSOLE_PROGRESS: Duration = Duration::from_secs(10);
/// How long the result waits for a console that does not take its lines.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the job of `/proc/cmdline`; the exit code says what PID 1 is to do then.
#[must_use]
pub fn main() -> ExitCode {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let parsed = cmdline::parse(&line);
    let cancel = Cancel::new();
    for signal in [nix::libc::SIGTERM, nix::libc::SIGINT] {
        let _ = signal_hook::flag::register(signal, cancel.flag());
    }
    let watch = Watch::new(open_port(&parsed));
    watch.tell(&start_line(&parsed));
    let result = catch_unwind(AssertUnwindSafe(|| run(&parsed, &watch, &cancel)));
    let result = result.unwrap_or_else(|panic| Err(Error::Failed(panic_text(panic.as_ref()))));
    let report = result.unwrap_or_else(|error| {
        if let Error::Refused(reason) = &error {
            watch.tell(&json!({ "event": "refused", "reason": reason }));
        }
        not_run(&parsed, &error)
    });
    watch.conclude(&report);
    ExitCode::from(end_code(&parsed, report.outcome))
}

/// Says what PID 1 is to do after `outcome`.
fn end_code(parsed: &Parsed, outcome: Outcome) -> u8 {
    match if outcome == Outcome::Complete { parsed.then } else { parsed.failed } {
        Then::Poweroff => exit::POWER_OFF,
        Then::Reboot => exit::REBOOT,
        Then::Stay => exit::STAY,
    }
}

/// Opens the report port, waiting for it as long as for disks: its driver may be late as well.
fn open_port(parsed: &Parsed) -> Option<Port> {
    let name = parsed.report.as_deref()?;
    let start = Instant::now();
    loop {
        match Port::open(name) {
            Ok(port) => return Some(port),
            Err(_) if start.elapsed() < parsed.wait => std::thread::sleep(POLL),
            Err(_) => return None,
        }
    }
}

/// Tells on the report port that the job process died; PID 1 does that for it.
pub(super) fn report_death(parsed: &Parsed, message: &str, words: &[String]) {
    let reason = std::iter::once(message).chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(": ");
    let report = not_run(parsed, &Error::Failed(reason));
    Watch::new(parsed.report.as_deref().and_then(|name| Port::open(name).ok())).conclude(&report);
}

/// The report of a job that did not run, or died.
fn not_run(parsed: &Parsed, error: &Error) -> Report {
    let request = parsed.request.as_ref();
    let disk = request.and_then(|request| request.disk.as_ref()).map(ToString::to_string).unwrap_or_default();
    let mut report = Report::failed(parsed.job.as_deref().unwrap_or_default(), disk, error);
    report.image = request.and_then(|request| request.image.clone()).map(String::from);
    report
}

fn start_line(parsed: &Parsed) -> Value {
    let request = parsed.request.as_ref();
    let store = request.map(|request| match &request.store {
        StoreRef::Label(label, folder) => format!("label:{label}:/{}", folder.display()),
        StoreRef::Uuid(uuid, folder) => format!("uuid:{uuid}:/{}", folder.display()),
        StoreRef::Folder(folder) => folder.display().to_string(),
    });
    json!({
        "event": "start",
        "version": env!("CARGO_PKG_VERSION"),
        "job": parsed.job,
        "disk": request.and_then(|request| request.disk.as_ref()).map(ToString::to_string),
        "store": store,
        "image": request.and_then(|request| request.image.clone()).map(String::from),
    })
}

fn result_line(report: &Report) -> Value {
    let mut line = serde_json::to_value(report).unwrap_or_else(|_| json!({ "outcome": "FAILED" }));
    if let Some(fields) = line.as_object_mut() {
        fields.insert("event".to_owned(), json!("result"));
        fields.insert("exit".to_owned(), json!(report.exit_code()));
    }
    line
}

/// The result for a person, on the console.
fn summary(report: &Report) -> Vec<String> {
    let mut lines = vec![match (&report.image, report.outcome) {
        (Some(image), Outcome::Complete | Outcome::Partial) if report.job == "restore" => format!(
            "restore {}: image {}, {} in use, {} written, {} were there already",
            report.outcome,
            Escaped(image),
            Bytes(report.allocated_bytes),
            Bytes(report.written_bytes),
            Bytes(report.unchanged_bytes)
        ),
        (Some(image), Outcome::Complete | Outcome::Partial) => format!(
            "{} {}: image {}, {} of {} kept, {} new in the store",
            report.job,
            report.outcome,
            Escaped(image),
            Bytes(report.allocated_bytes),
            Bytes(report.disk_bytes),
            Bytes(report.stored_bytes)
        ),
        _ if report.refused => format!("{} {} (refused)", Escaped(&report.job), report.outcome),
        _ => format!("{} {}", Escaped(&report.job), report.outcome),
    }];
    lines.extend(report.error.iter().chain(&report.problems).map(|text| Escaped(text).to_string()));
    lines
}

/// Port and console together. Neither can make the job wait for long: both may be read by nobody.
struct Watch {
    port: Option<Port>,
    console: Option<Lines>,
    /// What progress people saw last, and when.
    shown: Mutex<Option<(Phase, Instant)>>,
}

impl Watch {
    fn new(port: Option<Port>) -> Self {
        // A console that is gone is no reason to stop.
        Self { port, console: Lines::to_console().ok(), shown: Mutex::new(None) }
    }

    /// Sends a line that matters to the port.
    fn tell(&self, line: &Value) {
        if let Some(port) = &self.port {
            port.say(line);
        }
    }

    /// Writes a line for people to the console, if it takes it.
    fn say(&self, text: &str) {
        if let Some(console) = &self.console {
            console.try_say(console_line(text));
        }
    }

    /// Sends the result to the port and writes it to the console, and waits a limited time until it has left.
    fn conclude(&self, report: &Report) {
        let told = self.port.as_ref().is_none_or(|port| port.say_last(&result_line(report)));
        let Some(console) = &self.console else { return };
        let alone = (!told).then(|| "nobody read the report port; the result stands here alone".to_owned());
        for text in alone.into_iter().chain(summary(report)) {
            console.say(console_line(&text), CONSOLE_PATIENCE);
        }
        let _ = console.flush(CONSOLE_PATIENCE);
    }

    /// Tells whether progress of `phase` is to be shown to people now.
    fn is_due(&self, phase: Phase) -> bool {
        let mut last = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|(shown, at)| shown != phase || at.elapsed() >= CONSOLE_PROGRESS);
        if due {
            *last = Some((phase, Instant::now()));
        }
        due
    }
}

impl Monitor for Watch {
    fn event(&self, event: Event) {
        let line = serde_json::to_value(&event).unwrap_or_default();
        match (&event, &self.port) {
            (Event::Progress { .. }, Some(port)) => port.try_say(&line),
            _ => self.tell(&line),
        }
        match event {
            Event::Phase { phase } => self.say(phase.name()),
            Event::Progress { phase, progress } if progress.total > 0 && self.is_due(phase) => {
                self.say(&format!("{} of {}", Bytes(progress.done), Bytes(progress.total)));
            }
            Event::Problem { what } => self.say(&Escaped(&what).to_string()),
            _ => {}
        }
    }
}

fn console_line(text: &str) -> String {
    format!("rescue: {text}\n")
}

fn run(parsed: &Parsed, watch: &Watch, cancel: &Cancel) -> Result<Report, Error> {
    let request = match &parsed.request {
        Some(request) => request,
        None => return Err(Error::Refused(parsed.problems.join("; "))),
    };
    if let (Some(name), None) = (&parsed.report, &watch.port) {
        return Err(Error::Refused(format!("the report port {name} is not there")));
    }
    let mut disks = Patience::new(parsed.wait);
    let disk = match &request.disk {
        Some(wanted) => Some(disks.wait_for(cancel, &mut || look_for_disk(wanted))?),
        None => None,
    };
    let forbidden: Vec<&str> = disk.iter().map(|disk| disk.name.as_str()).collect();
    let (store, mounted) = open_store(request, &forbidden, &mut disks, cancel, watch, disk.as_ref())?;
    let result = run_in(request, store, watch, cancel);
    if let Some(path) = mounted.as_deref() {
        close_store(path, watch);
    }
    result
}

fn run_in(request: &Request, store: PathBuf, watch: &Watch, cancel: &Cancel) -> Result<Report, Error> {
    let job = job(request, store)?;
    let plan = Plan::new(&job, watch, cancel)?;
    watch.say(&Escaped(&plan.view().title).to_string());
    for warning in &plan.view().warnings {
        watch.say(&Escaped(warning).to_string());
    }
    Ok(plan.run(watch, cancel))
}

fn close_store(path: &Path, watch: &Watch) {
    if let Err(error) = unmount_store(path) {
        // PID 1 tries again at the end; what the job calls done was synced by the job.
        watch.say(&Error::failed("the store stays mounted", &error).to_string());
        crate::sys::power::sync();
    }
}

fn job(request: &Request, store: PathBuf) -> Result<Job, Error> {
    let disk = || request.disk.clone().ok_or_else(|| Error::Refused("no disk is named".to_owned()));
    Ok(match request.kind {
        Kind::Capture => Job::Capture(CaptureJob {
            disk: disk()?,
            store,
            level: request.level,
            note: request.note.clone(),
            sector_size: None,
            keep_swap_files: request.keep_swap_files,
        }),
        Kind::Restore => Job::Restore(RestoreJob {
            store,
            image: request.image.clone().ok_or_else(|| Error::Refused("no image is named".to_owned()))?,
            disk: disk()?,
            sector_size: None,
            accept_partial: false,
            free: request.free,
        }),
        Kind::Verify => Job::Verify(VerifyJob { store, image: request.image.clone() }),
    })
}

/// What a look at the machine found.
#[derive(Debug, PartialEq, Eq)]
enum Look<T> {
    /// Not there yet.
    Nothing(String),
    /// Exactly one.
    One(T),
    /// It can only get worse with time.
    Refused(String),
}

/// Waiting for things to appear, all within one time.
struct Patience {
    until: Instant,
    /// Disks must have been quiet for so long.
    quiet: Duration,
    /// Waits up to a limit for the announcement of a block device, and tells whether one came.
    announced: Box<dyn FnMut(Duration) -> bool>,
}

impl Patience {
    fn new(wait: Duration) -> Self {
        // Without announcements it looks again and again.
        let listener = Listener::open().ok();
        let announced = Box::new(move |limit| announced(listener.as_ref(), limit));
        Self { until: Instant::now() + wait, quiet: QUIET, announced }
    }

    /// Looks until there is exactly one, and still exactly one once no disk has come or gone for [`QUIET`].
    fn wait_for<T>(&mut self, cancel: &Cancel, look: &mut dyn FnMut() -> Result<Look<T>, Error>) -> Result<T, Error> {
        loop {
            let seen = matches!(look()?, Look::One(_));
            let quiet = seen && self.is_quiet(cancel);
            if cancel.is_cancelled() {
                return Err(Error::Failed("stopped from outside".to_owned()));
            }
            let late = Instant::now() >= self.until;
            match look()? {
                Look::One(found) if quiet => return Ok(found),
                Look::One(_) if seen && late => return Err(Error::Refused(RESTLESS.to_owned())),
                Look::Refused(reason) => return Err(Error::Refused(reason)),
                Look::Nothing(reason) if late => return Err(Error::Refused(reason)),
                Look::One(_) | Look::Nothing(_) => {}
            }
            if !quiet {
                (self.announced)(POLL);
            }
        }
    }

    /// Waits until no block device was announced for as long as counts as quiet, ten times that at most. Tells whether
    /// it became quiet.
    fn is_quiet(&mut self, cancel: &Cancel) -> bool {
        let start = Instant::now();
        let mut last = start;
        while start.elapsed() < self.quiet * 10 && !cancel.is_cancelled() {
            if (self.announced)(self.quiet / 10) {
                last = Instant::now();
            } else if last.elapsed() >= self.quiet {
                return true;
            }
        }
        false
    }
}

/// Waits for an announcement; tells whether one about a block device came.
fn announced(listener: Option<&Listener>, limit: Duration) -> bool {
    match listener.map(|listener| listener.next(limit)) {
        Some(Ok(Heard::Event(event))) => event.is_block(),
        Some(Ok(Heard::Lost)) => true,
        Some(Ok(Heard::Silence)) => false,
        Some(Err(_)) | None => {
            std::thread::sleep(limit);
            false
        }
    }
}

fn look_for_disk(wanted: &DiskRef) -> Result<Look<DiskInfo>, Error> {
    let all = discovery::disks().map_err(|error| Error::failed("looking for disks", &error))?;
    Ok(match_disk(wanted, &all, &guid_of))
}

/// Finds the one disk that `wanted` names.
fn match_disk(wanted: &DiskRef, all: &[DiskInfo], guid_of: &dyn Fn(&DiskInfo) -> Option<String>) -> Look<DiskInfo> {
    if !wanted.is_identity() {
        return Look::Refused(format!("{wanted} does not stay with the disk"));
    }
    let found = matching(wanted, all, guid_of);
    match only(wanted, &found) {
        Ok(one) => Look::One(one.clone()),
        Err(error) if found.is_empty() => Look::Nothing(error.to_string()),
        Err(error) => Look::Refused(error.to_string()),
    }
}

/// Finds and mounts the store; returns its folder and what was mounted for it.
fn open_store(
    request: &Request,
    forbidden: &[&str],
    patience: &mut Patience,
    cancel: &Cancel,
    watch: &Watch,
    disk: Option<&DiskInfo>,
) -> Result<(PathBuf, Option<PathBuf>), Error> {
    let (name, folder) = match &request.store {
        StoreRef::Folder(folder) => {
            if request.kind == Kind::Capture {
                must_be_on_disk(folder, &mounts().unwrap_or_default())?;
            }
            return Ok((folder.clone(), None));
        }
        StoreRef::Label(label, folder) => (Name::Label(label), folder),
        StoreRef::Uuid(uuid, folder) => (Name::Uuid(uuid), folder),
    };
    let found = patience.wait_for(cancel, &mut || Ok(match_store(&stores::find_stores(), name, forbidden)))?;
    watch.tell(&json!({
        "event": "matched",
        "disk": disk.map(|disk| &disk.identity),
        "store": { "device": found.device, "fs": found.fs, "label": found.label, "uuid": found.uuid },
    }));
    let access = match request.kind {
        Kind::Capture => Access::Write,
        Kind::Restore => Access::PreferWrite,
        Kind::Verify => Access::Read,
    };
    let mounted = mount_store(&found, access)?;
    match folder_in(&mounted.path, folder, access == Access::Write) {
        Ok(store) => Ok((store, Some(mounted.path))),
        Err(stop) => {
            close_store(&mounted.path, watch);
            Err(stop)
        }
    }
}

/// Refuses a folder that is in no file system on a device: in the boot environment that is memory, and an image in it
/// would be COMPLETE and then gone with the power.
fn must_be_on_disk(folder: &Path, all: &[Mounted]) -> Result<(), Error> {
    let there = folder.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or_default();
    match holding(all, &there) {
        Some(mounted) if mounted.is_on_device() => Ok(()),
        other => Err(Error::Refused(format!(
            "rescue.store={} is on no mounted disk but on {}: name the store by label: or uuid:",
            folder.display(),
            other.map_or("nothing", |mounted| &mounted.fs)
        ))),
    }
}

fn match_store(all: &[FoundStore], name: Name<'_>, forbidden: &[&str]) -> Look<FoundStore> {
    match stores::pick(all, name, forbidden) {
        Ok(found) => Look::One(found.clone()),
        Err(error) if stores::matching(all, name).is_empty() => Look::Nothing(error.to_string()),
        Err(error) => Look::Refused(error.to_string()),
    }
}

/// Returns the store's folder below where its file system is mounted; makes it for a capture. A link that leads out
/// of the file system is refused: it would lead onto another disk, or into memory.
fn folder_in(root: &Path, folder: &Path, make: bool) -> Result<PathBuf, Error> {
    let path = root.join(folder);
    let failed = |error: io::Error| {
        Error::Failed(format!("the folder {} in the store's file system: {error}", folder.display()))
    };
    if make {
        std::fs::create_dir_all(&path).map_err(failed)?;
    }
    let real = path.canonicalize().map_err(failed)?;
    if real.starts_with(root) {
        Ok(real)
    } else {
        Err(Error::Refused(format!("{} leads out of the store's file system", folder.display())))
    }
}

#[cfg(test)]
mod tests;

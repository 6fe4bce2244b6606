//! Every word the operator reads, in one place. Strings from disks are escaped on their way through here.

use std::time::Duration;

use super::{
    backend::{Holds, Place},
    state::{Flow, Kind, Screen},
};
use crate::{
    block::Identity,
    escape::Escaped,
    fs::{Detected, State as FsState},
    job::{
        Job, Outcome, Phase, Report,
        view::{DiskView, ImageView},
    },
    table::TableKind,
    units::Bytes,
};

// Hints: short, a key stands before each.
pub const HINT_IMAGE: &str = "Image disk";
pub const HINT_IMAGE_THIS: &str = "Image this disk";
pub const HINT_RESTORE: &str = "Restore";
pub const HINT_VERIFY: &str = "Verify";
pub const HINT_STORES: &str = "Stores";
pub const HINT_DETAILS: &str = "Details";
pub const HINT_CHOOSE: &str = "Choose";
pub const HINT_USE_FOLDER: &str = "Use this folder";
pub const HINT_START: &str = "Go on";
pub const HINT_OVERWRITE: &str = "Overwrite the disk";
pub const HINT_CANCEL: &str = "Cancel";
pub const HINT_DISKS: &str = "Back to the disks";
pub const HINT_VERIFY_IMAGE: &str = "Verify the image";
pub const HINT_ANOTHER: &str = "Restore it to another disk";
pub const HINT_POWER_OFF: &str = "Power off";
pub const HINT_REBOOT: &str = "Restart";
pub const HINT_STOP_JOB: &str = "Yes, stop it";
pub const HINT_GO_ON: &str = "No, go on";
pub const HINT_CLOSE: &str = "Close";
pub const HINT_BACK: &str = "Back";
pub const HINT_LOG: &str = "Log";
pub const HINT_REFRESH: &str = "Refresh";
pub const HINT_POWER: &str = "Power";
pub const HINT_SHELL: &str = "Shell";
pub const HINT_HELP: &str = "Help";
pub const HINT_QUIT: &str = "Quit";

// Pages.
pub const PROGRAM: &str = "rescue";
pub const READING_DISKS: &str = "Looking for disks ...";
pub const NO_DISKS: &str = "No disk found in this machine.";
pub const NO_DISKS_ADVICE: &str =
    "A disk that is plugged in appears here by itself. One that does not may need a driver (L shows the log).";
pub const NO_TABLE: &str = "no partition table";
pub const NOTHING_KNOWN: &str = "nothing known";
pub const IN_USE: &str = "in use";
pub const READ_ONLY: &str = "read-only";
pub const TABLE_DAMAGED: &str = "table damaged";
pub const PARTITION_HEADING: [&str; 7] = ["", "holds", "name", "size", "used", "free", "state"];
pub const LEGEND: &str = "█ used  ░ free  ▒ not known";
pub const MEASURING: &str = "counting what is used ...";
pub const DISK_CHANGED: &str = "another disk is in its place now; choose again";

pub const SEARCHING_STORES: &str = "Looking for file systems on the attached disks ...";
pub const NO_PLACES: &str = "No file system that could hold a store was found on the attached disks.";
pub const OTHER_FOLDER: &str = "Another folder:";
pub const OPENING: &str = "Opening ...";
pub const NEW_STORE: &str = "no store yet: a new one is made";
pub const NOT_LOOKED_INTO: &str = "not mounted: it is looked into when you choose it";
pub const NO_STORE_YET: &str = "no store";
pub const NO_STORE_TITLE: &str = "Cannot use this";
pub const NO_FOLDER_TYPED: &str = "Type the folder the store is in, then press Enter.";
pub const NO_STORE_HERE: &str = "there is no store on it";
pub const ON_THE_SOURCE: &str = "it is on the disk that is to be imaged";
pub const FOLDER_IN_MEMORY: &str = "Folders outside mounted disks are in memory here and are lost at power-off.";

pub const READING_IMAGES: &str = "Reading the list of images ...";
pub const NO_IMAGES: &str = "There is no image in this store yet.";
pub const EVERYTHING: &str = "Everything in this store";
pub const IMAGE_HEADING: [&str; 5] = ["made (UTC)", "machine", "disk", "size", "label"];
pub const PARTIAL_MARK: &str = "PARTIAL";
pub const PARTIAL_WARNING: &str =
    "This image is PARTIAL: sectors of its disk could not be read and come back as zeros.";

pub const UNFIT_TITLE: &str = "Not this disk";
pub const UNFIT_READ_ONLY: &str = "read-only";
pub const UNFIT_TOO_SMALL: &str = "too small";
pub const UNFIT_STORE: &str = "holds the store";
pub const UNFIT_IN_USE: &str = "in use";

pub const PLANNING: &str = "Deciding what to do. Nothing is written yet ...";
pub const REFUSED: &str = "This cannot be done. Nothing was touched.";
pub const NOT_READ: &str = "No plan could be made: something could not be read. Nothing was touched.";
pub const PLAN_HEADING: [&str; 4] = ["part", "size", "handled", "what happens"];
pub const NOW: &str = "now  ";
pub const AFTER: &str = "after";
pub const START_HINT: &str = "Enter starts; the disk is only read.";
pub const START_CHECK_HINT: &str = "Enter starts; nothing is written.";
pub const START_CONFIRM_HINT: &str = "Enter asks for the confirmation; nothing is written yet.";
pub const CONFIRM_TITLE: &str = "OVERWRITE THIS DISK?";
pub const CONFIRM_LOST: &str = "All of this will be lost:";
pub const CONFIRM_WRONG: &str = "That is not it. Nothing was written.";

pub const RUNNING_STARTS: &str = "Starting ...";
pub const CANCEL_TITLE: &str = "Stop the job?";
pub const CANCELLING: &str = "Stopping after the piece under way ...";
pub const NO_PROBLEMS: &str = "No problems so far.";
pub const SPEED: &str = "Speed";
pub const TIME_LEFT: &str = "Time left";
pub const ELAPSED: &str = "So far";
pub const STORED: &str = "New in store";
pub const TO_COME: &str = "to come";
pub const DONE: &str = "done";

pub const POWER_TITLE: &str = "Power";
pub const POWER_QUESTION: &str = "Power this machine off, or restart it?";
pub const LOG_TITLE: &str = "Log";
pub const HELP_TITLE: &str = "Help";
pub const TOO_SMALL: &str = "Too small: 80x24 needed";
pub const MORE_ABOVE: &str = "▲";
pub const MORE_BELOW: &str = "▼";

// The log.
pub const LOG_START: &str = "started";
pub const LOG_DISKS_CHANGED: &str = "a disk came or went";
pub const LOG_PLACES_CLOSED: &str = "all stores are unmounted; their disks may be pulled";
pub const LOG_STARTED: &str = "the job was started";
pub const LOG_CANCELLING: &str = "the job was told to stop";
pub const PLAN_GONE: &str = "there is no plan any more; start again";

/// Makes a string from a disk fit for a line: escaped.
#[must_use]
pub fn clean(raw: &str) -> String {
    Escaped(raw).to_string()
}

/// Returns the title of a page.
#[must_use]
pub fn title(screen: Screen, flow: Option<&Flow>) -> String {
    let steps: &[&str] = match flow.map(|flow| flow.kind) {
        None => return if screen == Screen::Details { "Disk".to_owned() } else { "Disks".to_owned() },
        Some(Kind::Capture) => &["Image a disk", "store", "plan", "running", "result"],
        Some(Kind::Restore) => &["Restore", "store", "image", "target disk", "plan", "running", "result"],
        Some(Kind::Verify) => &["Verify", "store", "image", "plan", "running", "result"],
        Some(Kind::Browse) => &["Stores", "store", "image", "target disk", "plan", "running", "result"],
    };
    let here = match screen {
        Screen::Home | Screen::Details => "",
        Screen::Stores => "store",
        Screen::Images => "image",
        Screen::Targets => "target disk",
        Screen::Plan => "plan",
        Screen::Confirm => "plan",
        Screen::Running => "running",
        Screen::Result => "result",
    };
    let Some((name, steps)) = steps.split_first() else { return String::new() };
    match steps.iter().position(|step| *step == here) {
        Some(at) => format!("{name}: step {} of {}, {here}", at + 1, steps.len()),
        None => format!("{name}: {here}"),
    }
}

/// Returns what the page asks, as the line below the title.
#[must_use]
pub fn question(screen: Screen, flow: &Flow) -> String {
    let disk = || flow.disk.as_ref().map(|disk| disk_name(&disk.identity)).unwrap_or_default();
    match (screen, flow.kind) {
        (Screen::Stores, Kind::Capture) => format!("Where should the image of {} be kept?", disk()),
        (Screen::Stores, Kind::Restore) => "Where is the image to restore?".to_owned(),
        (Screen::Stores, Kind::Verify) => "Which store should be checked?".to_owned(),
        (Screen::Stores, Kind::Browse) => "Which store do you want to look into?".to_owned(),
        (Screen::Images, Kind::Verify) => format!("What should be checked in {}?", flow.store_name),
        (Screen::Images, Kind::Browse) => format!("Images in {}", flow.store_name),
        (Screen::Images, _) => format!("Which image of {} should be restored?", flow.store_name),
        (Screen::Targets, _) => match &flow.image {
            Some(image) => format!("Which disk should be overwritten with {}?", image_name(image)),
            None => "Which disk should be overwritten?".to_owned(),
        },
        _ => String::new(),
    }
}

/// Names a disk in a sentence: path, model, size.
#[must_use]
pub fn disk_name(identity: &Identity) -> String {
    let model = identity.model.as_deref().map(clean).filter(|model| !model.trim().is_empty());
    let path = clean(&identity.path);
    match model {
        Some(model) => format!("{path} ({}, {})", model.trim(), Bytes(identity.len)),
        None => format!("{path} ({})", Bytes(identity.len)),
    }
}

/// Names an image in a sentence.
#[must_use]
pub fn image_name(image: &ImageView) -> String {
    let machine = image.machine.as_deref().map(clean).unwrap_or_else(|| "unnamed machine".to_owned());
    format!("the image of {machine}, {}", when(&image.created))
}

/// Shortens RFC 3339 to minutes.
#[must_use]
pub fn when(time: &str) -> String {
    clean(&time.chars().take(16).collect::<String>().replace('T', " "))
}

/// Names a place for a store.
#[must_use]
pub fn place_name(place: &Place) -> String {
    match place.label.as_deref().filter(|label| !label.is_empty()) {
        Some(label) => format!("\"{}\" on {}", clean(label), clean(&place.device)),
        None => clean(&place.device),
    }
}

/// Tells what a place holds.
#[must_use]
pub fn place_holds(place: &Place, capture: bool) -> String {
    match &place.holds {
        Holds::Unknown => NOT_LOOKED_INTO.to_owned(),
        Holds::NoStore if capture => NEW_STORE.to_owned(),
        Holds::NoStore => NO_STORE_YET.to_owned(),
        Holds::Store(folder) => format!("a store, in {}", clean(&folder.display().to_string())),
    }
}

/// Says that a file system holds no store.
#[must_use]
pub fn no_store_on(device: &str) -> String {
    format!("There is no store on {}, neither at its top nor in one of its folders.", clean(device))
}

/// Says that a file system went away.
#[must_use]
pub fn place_gone(device: &str) -> String {
    format!("{} is not what it was when the list was made. Refresh the list.", clean(device))
}

/// Says that a place cannot be used.
#[must_use]
pub fn place_unusable(device: &str, problem: &str) -> String {
    format!("{}: {}", clean(device), clean(problem))
}

/// Says why a disk cannot be the target.
#[must_use]
pub fn target_unfit(disk: &DiskView, image: &ImageView, why: &str) -> String {
    let name = disk_name(&disk.identity);
    match why {
        UNFIT_TOO_SMALL => {
            format!("{name} is too small: the image needs {}, {} are missing.", Bytes(image.needs), {
                Bytes(image.needs.saturating_sub(disk.identity.len))
            })
        }
        UNFIT_READ_ONLY => format!("{name} is read-only. A switch on the disk or its reader may be set."),
        UNFIT_STORE => format!("{name} holds the store the image is in."),
        _ => {
            let by = disk.in_use.first().map(|used| format!(": {} {}", clean(&used.part), clean(&used.by)));
            format!("{name} is in use{}.", by.unwrap_or_default())
        }
    }
}

/// Names the kind of a table.
#[must_use]
pub const fn table(kind: Option<TableKind>) -> &'static str {
    match kind {
        Some(TableKind::Gpt) => "GPT",
        Some(TableKind::HybridGpt) => "hybrid GPT",
        Some(TableKind::Mbr) => "MBR",
        Some(TableKind::None) => NO_TABLE,
        None => "table cannot be read",
    }
}

/// Names what a region holds: `ext4`, `FAT32`.
#[must_use]
pub fn content(detected: &Detected) -> String {
    match &detected.version {
        Some(version) if version.chars().any(char::is_alphabetic) => clean(version),
        _ => clean(&detected.name),
    }
}

/// Names the state a file system was left in; nothing for an ordinary one.
#[must_use]
pub const fn fs_state(state: FsState) -> &'static str {
    match state {
        FsState::Clean => "clean",
        FsState::Dirty => "not unmounted",
        FsState::Damaged => "damaged",
        FsState::Hibernated => "hibernated",
        FsState::Unknown => "",
    }
}

/// Names a phase.
#[must_use]
pub const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Planning => "Planning",
        Phase::Comparing => "Comparing with the image",
        Phase::Checking => "Checking the image",
        Phase::Capturing => "Reading and storing",
        Phase::Syncing => "Making it durable",
        Phase::Clearing => "Clearing the old start and end",
        Phase::Freeing => "Clearing the free space",
        Phase::Writing => "Writing the disk",
        Phase::ReadingBack => "Reading back and comparing",
        Phase::WritingTable => "Writing the partition table",
        Phase::Verifying => "Checking the store",
    }
}

/// Lists the phases a job usually has.
#[must_use]
pub const fn usual_phases(job: Option<&Job>) -> &'static [Phase] {
    match job {
        Some(Job::Capture(_)) => &[Phase::Capturing, Phase::Syncing],
        Some(Job::Restore(_)) => &[
            Phase::Comparing,
            Phase::Checking,
            Phase::Clearing,
            Phase::Freeing,
            Phase::Writing,
            Phase::ReadingBack,
            Phase::WritingTable,
        ],
        Some(Job::Verify(_)) => &[Phase::Verifying],
        Some(Job::Export(_)) => &[Phase::Writing, Phase::Syncing],
        None => &[],
    }
}

/// Says what cancelling leaves behind.
#[must_use]
pub const fn cancel_leaves(job: Option<&Job>) -> &'static str {
    match job {
        Some(Job::Capture(_)) => {
            "No image will be made. What was stored so far stays in the store and makes the next try faster. The disk is \
             as it was."
        }
        Some(Job::Restore(_)) => {
            "The target disk is half written and will not boot. Starting the same restore again finishes it."
        }
        _ => "Nothing is changed by checking; it can be started again at any time.",
    }
}

/// Says in one sentence how a job ended.
///
/// * `touched`: whether a target was written to.
#[must_use]
pub fn sentence(report: &Report, cancelled: bool, touched: bool) -> String {
    let disk = clean(&report.disk);
    match (report.job.as_str(), report.outcome) {
        (_, Outcome::Failed) if report.refused => "It was refused; nothing was touched.".to_owned(),
        ("capture", Outcome::Complete) => format!("{disk} is safely in the store: every block in use was kept."),
        ("capture", Outcome::Partial) => {
            format!("{disk} was imaged as far as it could be read; the image is marked PARTIAL.")
        }
        ("capture", Outcome::Failed) if cancelled => format!("Stopped. There is no image of {disk} from this run."),
        ("capture", Outcome::Failed) => format!("{disk} was not imaged; there is no image from this run."),
        ("restore", Outcome::Complete) => {
            format!("{disk} now holds the image; all of it was read back and compared.")
        }
        ("restore", Outcome::Partial) => format!("{disk} was written, but parts of the image were missing."),
        ("restore", Outcome::Failed) if !touched => format!("Nothing was written: {disk} is as it was."),
        ("restore", Outcome::Failed) if cancelled => {
            format!("Stopped. {disk} is unfinished and will not boot; the same restore again finishes it.")
        }
        ("restore", Outcome::Failed) => format!("{disk} was not restored. Do not use what is on it."),
        (_, Outcome::Complete) => "Everything that was checked is whole.".to_owned(),
        (_, Outcome::Partial) => "What was checked is partly damaged.".to_owned(),
        (_, Outcome::Failed) if cancelled => "Stopped before everything was checked.".to_owned(),
        (_, Outcome::Failed) => "The check found damage, or could not be finished.".to_owned(),
    }
}

/// Shows a length of time for people.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Shows time left: coarser, so that it does not flicker.
#[must_use]
pub fn time_left(time: Duration) -> String {
    match time.as_secs() {
        0..10 => "a few seconds".to_owned(),
        10..90 => format!("about {} s", time.as_secs().div_ceil(10) * 10),
        90..3600 => format!("about {} min", (time.as_secs() + 30) / 60),
        seconds => format!("about {} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Shows a speed.
#[must_use]
pub fn speed(bytes_per_second: u64) -> String {
    format!("{}/s", Bytes(bytes_per_second))
}

/// Log line: disks were listed.
#[must_use]
pub fn log_disks(count: usize) -> String {
    format!("{count} {} found", if count == 1 { "disk" } else { "disks" })
}

/// Log line: a disk could not be looked at closely.
#[must_use]
pub fn log_not_measured(path: &str, why: &str) -> String {
    format!("what is used on {} is not known: {}", clean(path), clean(why))
}

/// Log line: places were listed.
#[must_use]
pub fn log_places(count: usize) -> String {
    format!("{count} {} for a store found", if count == 1 { "place" } else { "places" })
}

/// Log line: images were listed.
#[must_use]
pub fn log_images(count: usize, store: &str) -> String {
    format!("{count} {} in {store}", if count == 1 { "image" } else { "images" })
}

/// Log line: a job was planned.
#[must_use]
pub fn log_planned(title: &str) -> String {
    format!("planned: {}", clean(title))
}

/// Log line: a job ended.
#[must_use]
pub fn log_finished(report: &Report) -> String {
    format!("{} {}", clean(&report.job), report.outcome)
}

/// Counts problems.
#[must_use]
pub fn problems(count: usize) -> String {
    match count {
        0 => NO_PROBLEMS.to_owned(),
        1 => "1 problem:".to_owned(),
        _ => format!("{count} problems, the latest:"),
    }
}

/// Explains a page, in plain words.
#[must_use]
pub const fn help(screen: Screen) -> &'static str {
    match screen {
        Screen::Home | Screen::Details => HELP_HOME,
        Screen::Stores => HELP_STORES,
        Screen::Images => HELP_IMAGES,
        Screen::Targets => HELP_TARGETS,
        Screen::Plan | Screen::Confirm => HELP_PLAN,
        Screen::Running => HELP_RUNNING,
        Screen::Result => HELP_RESULT,
    }
}

const HELP_HOME: &str = "\
These are the disks of this machine, drawn to scale: every box is a partition with its number, file system and name.

▲▼ mark a disk. I makes an image of the marked disk: it is only read. R writes an image back onto a disk; which \
one is asked, and nothing is overwritten before you typed its serial number. V checks stored images. S shows the \
stores.

An image holds the blocks in use of every partition, and all that is needed to boot. A store is a folder that holds \
images of any number of machines; what two images have in common is kept once.

A disk plugged in now appears by itself.

Ctrl-L draws the screen again when something wrote over it.";

const HELP_STORES: &str = "\
A store is a folder that holds images. The list shows the file systems on the attached disks that hold one, or could.

Choose one with ▲▼ and Enter, or type a folder into the line at the bottom.

When you make an image and there is no store yet, a new one is made. A store cannot be on the disk that is imaged or \
overwritten.";

const HELP_IMAGES: &str = "\
The images in this store, the newest first. Each is complete in itself.

An image marked PARTIAL comes from a disk of which some sectors could not be read.

Enter takes the marked image, V checks it: every piece is read and compared with its fingerprint.";

const HELP_TARGETS: &str = "\
The marked disk will be overwritten with the image. Look at model, size and what is on it now.

Disks that are too small, in use or read-only cannot be chosen; the list says so.

Nothing is written before you saw the plan and typed the confirmation.";

const HELP_PLAN: &str = "\
This is all the job will do. Nothing was written yet.

An image: Enter starts; the disk is only read.

A restore: Enter asks you to type the last characters of the target's serial number, as they stand on its label. \
Esc leads back at any time.";

const HELP_RUNNING: &str = "\
The job runs. The screen stays on, and the bell rings once at the end.

C, Esc or Ctrl-C ask whether to stop, and say what that leaves behind. L shows the log.";

const HELP_RESULT: &str = "\
COMPLETE: everything planned was done, made durable, and for a restore read back and compared.

PARTIAL: something could not be read; what could be is kept and marked.

FAILED: it was not done; the reasons are listed.";

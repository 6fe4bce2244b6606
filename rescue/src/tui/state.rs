//! Everything the screens know, as plain data: which page, which disks and places, which job. Changing it is the business
//! of `app` and the files below it; whoever draws only looks.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use tui_input::Input;

use super::{backend::Place, log::Log, message::Ticket, meter::Meter, theme::Theme};
use crate::{
    block::Identity,
    job::{
        Job, Phase, Progress, Report,
        view::{DiskView, ImageView, PlanView},
    },
};

/// Something that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Load<T> {
    /// Not asked for yet.
    Idle,
    /// On its way.
    Loading,
    /// Here.
    Ready(T),
    /// It could not be had, and why.
    Failed(String),
}

impl<T> Load<T> {
    /// Returns it, where it is here.
    pub const fn ready(&self) -> Option<&T> {
        match self {
            Self::Ready(value) => Some(value),
            _ => None,
        }
    }

    /// Makes it of an answer.
    pub fn from_result(result: Result<T, String>) -> Self {
        match result {
            Ok(value) => Self::Ready(value),
            Err(why) => Self::Failed(why),
        }
    }
}

/// Which page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// The disks of the machine.
    Home,
    /// One disk.
    Details,
    /// Choosing a store.
    Stores,
    /// Choosing an image.
    Images,
    /// Choosing the disk to overwrite.
    Targets,
    /// What will happen.
    Plan,
    /// The typed confirmation, in front of the plan.
    Confirm,
    /// The job runs.
    Running,
    /// The job ended.
    Result,
}

/// A box in front of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// Explains the page; how many lines are scrolled away.
    Help(usize),
    /// The log; how many lines from the end are scrolled away.
    Log(usize),
    /// Power off or restart?
    Power,
    /// Stop the job?
    AskCancel,
    /// Title and text.
    Message(String, String),
}

/// How the program was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// As the screen of the boot environment: there is power and a shell, and no quitting.
    pub booted: bool,
    /// The folder offered for a store.
    pub store: Option<PathBuf>,
    /// The machine's name.
    pub machine: String,
    /// The looks.
    pub theme: Theme,
}

/// The disks of the machine.
#[derive(Clone, Debug)]
pub struct Disks {
    /// As listed.
    pub list: Load<Vec<DiskView>>,
    /// The marked one.
    pub cursor: usize,
    /// Whether a list is on its way, although an older one is shown.
    pub reloading: bool,
    /// The list is out of date.
    pub stale: bool,
    /// Disks looked at closely, or why they could not be.
    pub measured: Vec<(Identity, Result<Box<DiskView>, String>)>,
    /// The one being looked at.
    pub measuring: Option<Identity>,
}

/// Places for a store, kept from one job to the next.
#[derive(Clone, Debug)]
pub struct Places {
    /// As found.
    pub list: Load<Vec<Place>>,
    /// The marked line; the one after the last place is the field for a folder.
    pub cursor: usize,
    /// What is typed in that field.
    pub folder: Input,
}

/// Everything the screens know.
#[derive(Clone, Debug)]
pub struct State {
    /// How the program was started.
    pub options: Options,
    /// Time since the start.
    pub now: Duration,
    /// Which page is shown.
    pub screen: Screen,
    /// The box in front of it.
    pub overlay: Option<Overlay>,
    /// The disks.
    pub disks: Disks,
    /// The places for stores.
    pub places: Places,
    /// The job being put together, run, or just ended.
    pub flow: Option<Flow>,
    /// What happened.
    pub log: Log,
    pub(super) ticket: Ticket,
    pub(super) leave_when_done: bool,
}

impl State {
    /// Returns the state at the start, when nothing was asked for yet.
    #[must_use]
    pub fn blank(options: Options) -> Self {
        let folder = options.store.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        Self {
            options,
            now: Duration::ZERO,
            screen: Screen::Home,
            overlay: None,
            disks: Disks {
                list: Load::Idle,
                cursor: 0,
                reloading: false,
                stale: false,
                measured: Vec::new(),
                measuring: None,
            },
            places: Places { list: Load::Idle, cursor: 0, folder: Input::new(folder) },
            flow: None,
            log: Log::default(),
            ticket: Ticket::default(),
            leave_when_done: false,
        }
    }

    /// Returns how many disks are listed.
    #[must_use]
    pub fn disk_count(&self) -> usize {
        self.disks.list.ready().map_or(0, Vec::len)
    }

    /// Returns a listed disk, as closely as it was looked at.
    #[must_use]
    pub fn disk(&self, index: usize) -> Option<&DiskView> {
        let listed = self.disks.list.ready()?.get(index)?;
        let measured = self.disks.measured.iter().find(|(identity, _)| *identity == listed.identity);
        match measured {
            Some((_, Ok(view))) => Some(view),
            _ => Some(listed),
        }
    }

    /// Lists the disks, as closely as they were looked at.
    pub fn all_disks(&self) -> impl Iterator<Item = &DiskView> {
        (0..self.disk_count()).filter_map(|index| self.disk(index))
    }

    /// Returns why a closer look at a disk failed.
    #[must_use]
    pub fn measure_error(&self, identity: &Identity) -> Option<&str> {
        let measured = self.disks.measured.iter().find(|(other, _)| other == identity)?;
        measured.1.as_ref().err().map(String::as_str)
    }

    /// Returns how many places are listed.
    #[must_use]
    pub fn place_count(&self) -> usize {
        self.places.list.ready().map_or(0, Vec::len)
    }

    /// Hands out a new ticket: answers to older questions no longer count.
    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.ticket = self.ticket.next();
        self.ticket
    }

    pub(super) fn message(&mut self, title: impl Into<String>, words: impl Into<String>) {
        self.overlay = Some(Overlay::Message(title.into(), words.into()));
    }
}

/// What a person set out to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Image a disk.
    Capture,
    /// Write an image back.
    Restore,
    /// Check a store or an image.
    Verify,
    /// Look at what the stores hold.
    Browse,
}

/// A job being put together, running, or ended.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What it is about.
    pub kind: Kind,
    /// The disk that is read, or will be overwritten.
    pub disk: Option<DiskView>,
    /// The store's folder, once it is chosen and open.
    pub store: Option<PathBuf>,
    /// What the person calls that store.
    pub store_name: String,
    /// The place it is in, where it was chosen from the list.
    pub place: Option<Place>,
    /// The store is being opened.
    pub opening: bool,
    /// What is damaged in it, as far as listing it shows.
    pub store_problems: Vec<String>,
    /// Its images.
    pub images: Load<Vec<ImageView>>,
    /// The marked line of the images.
    pub image_cursor: usize,
    /// The chosen one.
    pub image: Option<ImageView>,
    /// The marked disk to overwrite.
    pub target_cursor: usize,
    /// What is planned.
    pub job: Option<Job>,
    /// Its plan.
    pub plan: Load<PlanView>,
    /// Whether there is no plan because the job must not be done.
    pub refused: bool,
    /// Lines of the plan scrolled away.
    pub plan_top: usize,
    /// The typed confirmation.
    pub typed: Input,
    /// It was wrong at the last Enter.
    pub wrong: bool,
    /// The running job.
    pub running: Running,
    /// How it ended.
    pub report: Option<Report>,
}

/// One phase of a running job.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseLine {
    /// Which.
    pub phase: Phase,
    /// When it began.
    pub began: Duration,
    /// When the next one began.
    pub ended: Option<Duration>,
    /// How far it is.
    pub progress: Progress,
}

/// A running job, as told so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// When it began.
    pub began: Duration,
    /// Its phases, in order; the last one is under way.
    pub phases: Vec<PhaseLine>,
    /// Speed and time left of the phase under way.
    pub meter: Meter,
    /// What went wrong, the latest last.
    pub problems: VecDeque<String>,
    /// How much went wrong.
    pub problem_count: usize,
    /// It was told to stop.
    pub cancelling: bool,
}

impl Flow {
    /// Starts one of which nothing is chosen yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            disk: None,
            store: None,
            store_name: String::new(),
            place: None,
            opening: false,
            store_problems: Vec::new(),
            images: Load::Idle,
            image_cursor: 0,
            image: None,
            target_cursor: 0,
            job: None,
            plan: Load::Idle,
            refused: false,
            plan_top: 0,
            typed: Input::default(),
            wrong: false,
            running: Running::default(),
            report: None,
        }
    }

    /// Tells whether the list of images begins with a line for the whole store.
    #[must_use]
    pub fn whole_store_row(&self) -> bool {
        self.kind == Kind::Verify
    }

    /// Returns how many lines the list of images has.
    #[must_use]
    pub fn image_rows(&self) -> usize {
        self.images.ready().map_or(0, |images| images.len() + usize::from(self.whole_store_row()))
    }

    /// Returns the marked image; `None` on the line for the whole store.
    #[must_use]
    pub fn marked_image(&self) -> Option<&ImageView> {
        let index = self.image_cursor.checked_sub(usize::from(self.whole_store_row()))?;
        self.images.ready()?.get(index)
    }

    /// Tells whether the image a job was about can be verified.
    #[must_use]
    pub fn can_verify_result(&self) -> bool {
        let about_image = self.report.as_ref().is_some_and(|report| report.image.is_some());
        about_image && self.store.is_some() && !matches!(self.job, Some(Job::Verify(_)))
    }
}

impl Running {
    /// Tells whether the job came as far as writing to a target.
    #[must_use]
    pub fn touched(&self) -> bool {
        let writes = |phase| matches!(phase, Phase::Clearing | Phase::Freeing | Phase::Writing | Phase::WritingTable);
        self.phases.iter().any(|line| writes(line.phase))
    }

    /// Notes that a phase is under way. One that was seen before goes on where it was: phases may take turns.
    pub fn enter(&mut self, phase: Phase, now: Duration) {
        if self.phases.iter().any(|line| line.phase == phase) {
            return;
        }
        if let Some(line) = self.phases.last_mut() {
            line.ended = Some(now);
        }
        self.phases.push(PhaseLine { phase, began: now, ended: None, progress: Progress::default() });
        self.meter.restart(now);
    }
}

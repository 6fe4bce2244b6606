//! The state of the screens and how messages change it. No terminal, no disk, no clock: keys, ticks and what workers
//! report all arrive as [`Msg`], and what should happen leaves as [`Effect`].

use std::{path::PathBuf, time::Duration};

use crossterm::event::KeyEvent;
use tui_input::Input;

use super::{
    Exit,
    backend::{Need, Place},
    flow::{Flow, Kind},
    keymap::{self, Cmd, Context},
    log::Log,
    text,
    theme::Theme,
};
use crate::{
    block::Identity,
    job::{
        Event, Job, Report,
        view::{DiskView, PlanView, StoreView},
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

    fn from_result(result: Result<T, String>) -> Self {
        match result {
            Ok(value) => Self::Ready(value),
            Err(why) => Self::Failed(why),
        }
    }
}

/// Tells the answer that is waited for from those that come too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket(u64);

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPlan {
    /// Whether it must not be done; otherwise something could not be read.
    pub refused: bool,
    /// Why, as a sentence.
    pub why: String,
}

/// What reaches the state.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key.
    Key(KeyEvent),
    /// Time passes: since the start of the program.
    Tick(Duration),
    /// A disk came or went.
    DisksChanged,
    /// The disks, as asked for.
    Disks(Result<Vec<DiskView>, String>),
    /// What is used of one disk, as asked for.
    Measured(Identity, Result<Box<DiskView>, String>),
    /// Places for stores, as asked for.
    Places(Result<Vec<Place>, String>),
    /// A place was made usable.
    PlaceOpened(Ticket, Result<PathBuf, String>),
    /// The places that were made usable were let go.
    PlacesClosed(Result<(), String>),
    /// What a store holds.
    Images(Ticket, Result<StoreView, String>),
    /// A job was planned.
    Planned(Ticket, Result<Box<PlanView>, NoPlan>),
    /// The running job says something.
    Job(Event),
    /// The job ended.
    Finished(Box<Report>),
    /// Something for the log.
    Log(String),
    /// The system asks the program to end.
    Terminate,
}

/// What should happen outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer with [`Msg::Disks`].
    LoadDisks,
    /// Answer with [`Msg::Measured`].
    Measure(Identity),
    /// Answer with [`Msg::Places`].
    LoadPlaces,
    /// Answer with [`Msg::PlaceOpened`].
    OpenPlace(Ticket, Place, Need),
    /// Let go of the places that were made usable; answer with [`Msg::PlacesClosed`].
    ClosePlaces,
    /// Answer with [`Msg::Images`].
    LoadImages(Ticket, PathBuf),
    /// Keep the plan and answer with [`Msg::Planned`].
    MakePlan(Ticket, Job),
    /// Forget the plan that is kept or being made.
    DropPlan,
    /// Run the plan that is kept; answer with [`Msg::Job`] and at last [`Msg::Finished`].
    RunPlan,
    /// Raise the running job's cancel flag.
    CancelJob,
    /// Ring the bell.
    Beep,
    /// Ask for the terminal's size and draw everything again.
    Repaint,
    /// Leave.
    Exit(Exit),
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
    /// Returns the state at the start, and what to do first.
    #[must_use]
    pub fn new(options: Options) -> (Self, Vec<Effect>) {
        let folder = options.store.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let mut state = Self {
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
        };
        state.log.add(Duration::ZERO, text::LOG_START);
        let effects = state.load_disks();
        (state, effects)
    }

    /// Returns which keys count now.
    #[must_use]
    pub fn context(&self) -> Context {
        match (&self.overlay, self.screen) {
            (Some(Overlay::Help(_) | Overlay::Log(_)), _) => Context::Reading,
            (Some(Overlay::Power), _) => Context::Power,
            (Some(Overlay::AskCancel), _) => Context::AskCancel,
            (Some(Overlay::Message(..)), _) => Context::Message,
            (None, Screen::Home) => Context::Home,
            (None, Screen::Details) => Context::Details,
            (None, Screen::Stores) if self.places.cursor >= self.place_count() => Context::Folder,
            (None, Screen::Stores) => Context::Stores,
            (None, Screen::Images) => Context::Images,
            (None, Screen::Targets) => Context::Targets,
            (None, Screen::Plan) => Context::Plan,
            (None, Screen::Confirm) => Context::Confirm,
            (None, Screen::Running) => Context::Running,
            (None, Screen::Result) => Context::Result,
        }
    }

    /// Tells whether a command of this context can be carried out now; the hint line leaves others away.
    #[must_use]
    pub fn offers(&self, cmd: Cmd) -> bool {
        let flow = self.flow.as_ref();
        match (self.screen, cmd) {
            (Screen::Home, Cmd::Capture | Cmd::Accept) => self.disk_count() > 0,
            (Screen::Plan, Cmd::Accept) => flow.is_some_and(|flow| flow.plan.ready().is_some()),
            (Screen::Images, Cmd::Accept | Cmd::Verify) => flow.is_some_and(|flow| flow.image_rows() > 0),
            (Screen::Targets, Cmd::Accept) => self.disk_count() > 0,
            (Screen::Running, Cmd::Cancel) => flow.is_some_and(|flow| !flow.running.cancelling),
            (Screen::Result, Cmd::Verify) => flow.is_some_and(Flow::can_verify_result),
            (Screen::Result, Cmd::Restore) => flow.is_some_and(|flow| flow.image.is_some()),
            _ => true,
        }
    }

    /// Changes the state by a message and returns what should happen.
    pub fn update(&mut self, msg: Msg) -> Vec<Effect> {
        match msg {
            Msg::Key(key) => match keymap::command(self.context(), self.options.booted, &key) {
                Some(cmd) => self.command(cmd),
                None => Vec::new(),
            },
            Msg::Tick(now) => {
                self.now = now;
                self.tick_job();
                Vec::new()
            }
            Msg::DisksChanged => self.disks_changed(),
            Msg::Disks(result) => self.disks_listed(result),
            Msg::Measured(identity, result) => self.measured(identity, result),
            Msg::Places(result) => {
                self.places_listed(result);
                Vec::new()
            }
            Msg::PlaceOpened(ticket, result) if ticket == self.ticket => self.place_opened(result),
            Msg::Images(ticket, result) if ticket == self.ticket => {
                self.images_listed(result);
                Vec::new()
            }
            Msg::Planned(ticket, result) if ticket == self.ticket => {
                self.planned(result);
                Vec::new()
            }
            Msg::PlacesClosed(result) => {
                self.log.add(self.now, result.err().unwrap_or_else(|| text::LOG_PLACES_CLOSED.to_owned()));
                Vec::new()
            }
            Msg::PlaceOpened(..) | Msg::Images(..) | Msg::Planned(..) => Vec::new(),
            Msg::Job(event) => {
                self.job_event(event);
                Vec::new()
            }
            Msg::Finished(report) => self.finished(*report),
            Msg::Log(line) => {
                self.log.add(self.now, line);
                Vec::new()
            }
            Msg::Terminate => self.terminate(),
        }
    }

    fn command(&mut self, cmd: Cmd) -> Vec<Effect> {
        match cmd {
            Cmd::Repaint => return vec![Effect::Repaint],
            Cmd::Interrupt => return self.interrupt(),
            Cmd::Help if self.overlay.is_none() => self.overlay = Some(Overlay::Help(0)),
            Cmd::Log if self.overlay.is_none() => self.overlay = Some(Overlay::Log(0)),
            _ if self.overlay.is_some() => return self.overlay_command(cmd),
            _ if !self.offers(cmd) => {}
            _ => {
                return match self.screen {
                    Screen::Home => self.home_command(cmd),
                    Screen::Details => self.details_command(cmd),
                    _ => self.flow_command(cmd),
                };
            }
        }
        Vec::new()
    }

    fn overlay_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        const PAGE: usize = 10;
        match (&mut self.overlay, cmd) {
            (Some(Overlay::AskCancel), Cmd::Accept) => {
                self.overlay = None;
                return self.cancel_job();
            }
            (Some(Overlay::Power), Cmd::Power) => return vec![Effect::Exit(Exit::PowerOff)],
            (Some(Overlay::Power), Cmd::Restore) => return vec![Effect::Exit(Exit::Reboot)],
            (_, Cmd::Back) => self.overlay = None,
            (Some(Overlay::Help(top)), _) => match cmd {
                Cmd::Up => *top = top.saturating_sub(1),
                Cmd::Down => *top = top.saturating_add(1),
                Cmd::PageUp => *top = top.saturating_sub(PAGE),
                Cmd::PageDown => *top = top.saturating_add(PAGE),
                Cmd::First => *top = 0,
                _ => {}
            },
            (Some(Overlay::Log(above)), _) => {
                let most = self.log.len().saturating_sub(1);
                *above = match cmd {
                    Cmd::Up => above.saturating_add(1),
                    Cmd::Down => above.saturating_sub(1),
                    Cmd::PageUp => above.saturating_add(PAGE),
                    Cmd::PageDown => above.saturating_sub(PAGE),
                    Cmd::First => most,
                    Cmd::Last => 0,
                    _ => *above,
                }
                .min(most);
            }
            _ => {}
        }
        Vec::new()
    }

    fn home_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        match cmd {
            Cmd::Capture => return self.begin(Kind::Capture),
            Cmd::Restore => return self.begin(Kind::Restore),
            Cmd::Verify => return self.begin(Kind::Verify),
            Cmd::Stores => return self.begin(Kind::Browse),
            Cmd::Refresh => return self.read_again(),
            Cmd::Accept => self.screen = Screen::Details,
            Cmd::Power => self.overlay = Some(Overlay::Power),
            Cmd::Shell => return vec![Effect::Exit(Exit::Shell)],
            Cmd::Quit => return vec![Effect::Exit(Exit::Quit)],
            _ => self.disks.cursor = moved(self.disks.cursor, self.disk_count(), cmd),
        }
        Vec::new()
    }

    fn details_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        match cmd {
            Cmd::Back => self.screen = Screen::Home,
            Cmd::Capture => return self.begin(Kind::Capture),
            Cmd::Refresh => return self.read_again(),
            _ => self.disks.cursor = moved(self.disks.cursor, self.disk_count(), cmd),
        }
        Vec::new()
    }

    /// Ctrl-C: never ends a job without asking, and never the only screen of a machine.
    fn interrupt(&mut self) -> Vec<Effect> {
        match self.screen {
            Screen::Running => {
                if self.offers(Cmd::Cancel) {
                    self.overlay = Some(Overlay::AskCancel);
                }
                Vec::new()
            }
            _ if self.options.booted => Vec::new(),
            _ => vec![Effect::Exit(Exit::Quit)],
        }
    }

    fn terminate(&mut self) -> Vec<Effect> {
        if self.screen == Screen::Running {
            self.leave_when_done = true;
            return self.cancel_job();
        }
        vec![Effect::Exit(Exit::Quit)]
    }

    /// Returns to the disks; the job that was being put together is forgotten.
    pub(super) fn go_home(&mut self) -> Vec<Effect> {
        let opened = self.flow.as_ref().is_some_and(|flow| flow.place.is_some());
        self.screen = Screen::Home;
        self.flow = None;
        self.ticket.0 += 1;
        let mut effects = vec![Effect::DropPlan];
        if opened {
            // A stick may be pulled as soon as the disks are shown again.
            effects.push(Effect::ClosePlaces);
            self.places.list = Load::Idle;
        }
        if self.disks.stale {
            effects.extend(self.load_disks())
        } else {
            effects.extend(self.measure_next())
        }
        effects
    }

    /// Hands out a new ticket: answers to older questions no longer count.
    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.ticket.0 += 1;
        self.ticket
    }

    pub(super) fn message(&mut self, title: impl Into<String>, words: impl Into<String>) {
        self.overlay = Some(Overlay::Message(title.into(), words.into()));
    }
}

/// The disks.
impl State {
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

    pub(super) fn load_disks(&mut self) -> Vec<Effect> {
        if self.disks.reloading {
            self.disks.stale = true;
            return Vec::new();
        }
        self.disks.stale = false;
        self.disks.reloading = true;
        if self.disks.list.ready().is_none() {
            self.disks.list = Load::Loading;
        }
        vec![Effect::LoadDisks]
    }

    fn read_again(&mut self) -> Vec<Effect> {
        self.disks.measured.clear();
        self.places.list = Load::Idle;
        self.load_disks()
    }

    fn disks_changed(&mut self) -> Vec<Effect> {
        self.log.add(self.now, text::LOG_DISKS_CHANGED);
        self.disks.stale = true;
        match self.screen {
            // A running job, and a plan that was made, keep the machine to themselves.
            Screen::Running | Screen::Plan | Screen::Confirm => Vec::new(),
            Screen::Stores => [self.load_disks(), self.load_places()].concat(),
            _ => {
                self.places.list = Load::Idle;
                self.load_disks()
            }
        }
    }

    fn disks_listed(&mut self, result: Result<Vec<DiskView>, String>) -> Vec<Effect> {
        self.disks.reloading = false;
        let marked = self.disk(self.disks.cursor).map(|view| view.identity.clone());
        match &result {
            Ok(list) => {
                self.log.add(self.now, text::log_disks(list.len()));
                self.disks.measured.retain(|(identity, _)| list.iter().any(|view| view.identity == *identity));
                let again = list.iter().position(|view| Some(&view.identity) == marked.as_ref());
                self.disks.cursor = again.unwrap_or(self.disks.cursor).min(list.len().saturating_sub(1));
            }
            Err(why) => self.log.add(self.now, why.clone()),
        }
        self.disks.list = Load::from_result(result);
        self.clamp_targets();
        if self.disks.stale { self.load_disks() } else { self.measure_next() }
    }

    /// Looks closely at the next disk, one at a time, while somebody looks at the disks.
    fn measure_next(&mut self) -> Vec<Effect> {
        let looking = matches!(self.screen, Screen::Home | Screen::Details);
        if !looking || self.disks.measuring.is_some() {
            return Vec::new();
        }
        let Some(list) = self.disks.list.ready() else { return Vec::new() };
        let next = list.iter().find(|view| {
            view.error.is_none() && self.disks.measured.iter().all(|(identity, _)| *identity != view.identity)
        });
        let next = next.map(|view| view.identity.clone());
        self.disks.measuring.clone_from(&next);
        next.map(Effect::Measure).into_iter().collect()
    }

    fn measured(&mut self, identity: Identity, result: Result<Box<DiskView>, String>) -> Vec<Effect> {
        self.disks.measuring = None;
        if let Err(why) = &result {
            self.log.add(self.now, text::log_not_measured(&identity.path, why));
        }
        // A disk that was exchanged meanwhile has another identity; what was read belongs to nobody then.
        let result = match result {
            Ok(view) if view.identity != identity => Err(text::DISK_CHANGED.to_owned()),
            other => other,
        };
        self.disks.measured.push((identity, result));
        self.measure_next()
    }
}

/// Moves a cursor in a list of `count` lines.
pub(super) fn moved(cursor: usize, count: usize, cmd: Cmd) -> usize {
    const PAGE: usize = 5;
    let last = count.saturating_sub(1);
    match cmd {
        Cmd::Up => cursor.saturating_sub(1),
        Cmd::Down => cursor.saturating_add(1),
        Cmd::PageUp => cursor.saturating_sub(PAGE),
        Cmd::PageDown => cursor.saturating_add(PAGE),
        Cmd::First => 0,
        Cmd::Last => last,
        _ => cursor,
    }
    .min(last)
}

//! The steps of a job, from choosing a store to its result. Going back keeps what was chosen; only the typed
//! confirmation is forgotten, so that Enter alone never writes.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use tui_input::Input;

use super::{
    Exit,
    app::{Effect, Load, NoPlan, Overlay, Screen, State, moved},
    backend::{Holds, Need, Place},
    keymap::Cmd,
    meter::Meter,
    text,
};
use crate::{
    block::{DiskRef, Identity},
    job::{
        CaptureJob, Event, ImageRef, Job, Phase, Progress, Report, RestoreJob, VerifyJob, default_level,
        view::{DiskView, ImageView, PlanView, StoreView},
    },
    store::manifest::ImageState,
};

/// Problems kept for the screen; a dying disk has thousands, and the report counts them all.
const PROBLEMS_KEPT: usize = 100;

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
    fn new(kind: Kind) -> Self {
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

/// Choosing.
impl State {
    pub(super) fn begin(&mut self, kind: Kind) -> Vec<Effect> {
        let mut flow = Flow::new(kind);
        if kind == Kind::Capture {
            flow.disk = self.disk(self.disks.cursor).cloned();
        }
        self.flow = Some(flow);
        self.screen = Screen::Stores;
        if matches!(self.places.list, Load::Idle | Load::Failed(_)) { self.load_places() } else { Vec::new() }
    }

    pub(super) fn load_places(&mut self) -> Vec<Effect> {
        self.places.list = Load::Loading;
        vec![Effect::LoadPlaces]
    }

    /// Returns how many places are listed.
    #[must_use]
    pub fn place_count(&self) -> usize {
        self.places.list.ready().map_or(0, Vec::len)
    }

    pub(super) fn places_listed(&mut self, result: Result<Vec<Place>, String>) {
        let typing = !self.places.folder.value().is_empty();
        self.places.list = match result {
            Ok(list) => {
                self.log.add(self.now, text::log_places(list.len()));
                // A store beats a file system without one, and what was typed beats both.
                let usable = |place: &&Place| self.place_problem(place).is_none();
                let store = list.iter().position(|place| matches!(place.holds, Holds::Store(_)) && usable(&place));
                let best = store.or_else(|| list.iter().position(|place| usable(&place)));
                self.places.cursor = if typing { list.len() } else { best.unwrap_or(list.len()) };
                Load::Ready(list)
            }
            Err(why) => {
                self.log.add(self.now, why.clone());
                Load::Failed(why)
            }
        };
    }

    pub(super) fn flow_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        match self.screen {
            Screen::Stores => self.stores_command(cmd),
            Screen::Images => self.images_command(cmd),
            Screen::Targets => self.targets_command(cmd),
            Screen::Plan => self.plan_command(cmd),
            Screen::Confirm => self.confirm_command(cmd),
            Screen::Running => self.running_command(cmd),
            Screen::Result => self.result_command(cmd),
            Screen::Home | Screen::Details => Vec::new(),
        }
    }

    fn stores_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        match cmd {
            Cmd::Accept => return self.choose_store(),
            Cmd::Back => return self.go_home(),
            Cmd::Refresh => return self.load_places(),
            Cmd::Edit(request) => {
                self.places.folder.handle(request);
            }
            _ => self.places.cursor = moved(self.places.cursor, self.place_count() + 1, cmd),
        }
        Vec::new()
    }

    fn choose_store(&mut self) -> Vec<Effect> {
        let place = self.places.list.ready().and_then(|list| list.get(self.places.cursor)).cloned();
        let typed = self.places.folder.value().trim().to_owned();
        let ticket = self.new_ticket();
        let Some(flow) = &mut self.flow else { return Vec::new() };
        let Some(place) = place else {
            if typed.is_empty() {
                self.message(text::NO_STORE_TITLE, text::NO_FOLDER_TYPED);
                return Vec::new();
            }
            flow.store_name.clone_from(&typed);
            flow.place = None;
            return self.store_chosen(PathBuf::from(typed));
        };
        if let Some(problem) = self.place_problem(&place) {
            let words = text::place_unusable(&place.device, problem);
            self.message(text::NO_STORE_TITLE, words);
            return Vec::new();
        }
        let Some(flow) = &mut self.flow else { return Vec::new() };
        flow.store_name = text::place_name(&place);
        flow.opening = true;
        flow.place = Some(place.clone());
        let need = match flow.kind {
            Kind::Capture => Need::Store,
            Kind::Verify => Need::Check,
            Kind::Restore | Kind::Browse => Need::Read,
        };
        vec![Effect::OpenPlace(ticket, place, need)]
    }

    /// Returns why the store cannot be in a place, as far as the list shows it.
    #[must_use]
    pub fn place_problem(&self, place: &Place) -> Option<&'static str> {
        let flow = self.flow.as_ref()?;
        let same_disk = flow.disk.as_ref().is_some_and(|disk| disk.identity.path == place.disk);
        match flow.kind {
            Kind::Capture if same_disk => Some(text::ON_THE_SOURCE),
            Kind::Capture => None,
            _ if place.holds == Holds::NoStore => Some(text::NO_STORE_HERE),
            _ => None,
        }
    }

    pub(super) fn place_opened(&mut self, result: Result<PathBuf, String>) -> Vec<Effect> {
        if let Some(flow) = &mut self.flow {
            flow.opening = false;
        }
        match result {
            Ok(path) if self.screen == Screen::Stores => self.store_chosen(path),
            Ok(_) => Vec::new(),
            Err(why) => {
                self.log.add(self.now, why.clone());
                self.message(text::NO_STORE_TITLE, why);
                Vec::new()
            }
        }
    }

    fn store_chosen(&mut self, path: PathBuf) -> Vec<Effect> {
        let ticket = self.new_ticket();
        let Some(flow) = &mut self.flow else { return Vec::new() };
        let same = flow.store.as_ref() == Some(&path);
        flow.store = Some(path.clone());
        if flow.kind == Kind::Capture {
            let Some(disk) = &flow.disk else { return Vec::new() };
            let job = CaptureJob {
                disk: DiskRef::Path(disk.identity.path.clone()),
                store: path,
                level: default_level(),
                note: None,
                sector_size: None,
            };
            return self.make_plan(Job::Capture(job));
        }
        if !same {
            flow.image_cursor = 0;
            flow.image = None;
        }
        flow.images = Load::Loading;
        self.screen = Screen::Images;
        vec![Effect::LoadImages(ticket, path)]
    }

    pub(super) fn images_listed(&mut self, result: Result<StoreView, String>) {
        let Some(flow) = &mut self.flow else { return };
        match result {
            Ok(store) => {
                self.log.add(self.now, text::log_images(store.images.len(), &flow.store_name));
                for problem in &store.problems {
                    self.log.add(self.now, problem.clone());
                }
                flow.images = Load::Ready(store.images);
                flow.store_problems = store.problems;
                flow.image_cursor = flow.image_cursor.min(flow.image_rows().saturating_sub(1));
            }
            Err(why) => {
                self.log.add(self.now, why.clone());
                flow.images = Load::Failed(why);
            }
        }
    }

    fn images_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        let Some(flow) = &mut self.flow else { return Vec::new() };
        match cmd {
            Cmd::Back => self.screen = Screen::Stores,
            Cmd::Accept if flow.kind == Kind::Verify => return self.verify_marked(),
            Cmd::Verify => return self.verify_marked(),
            Cmd::Accept => {
                flow.image = flow.marked_image().cloned();
                return self.choose_target();
            }
            Cmd::Refresh => {
                let Some(store) = flow.store.clone() else { return Vec::new() };
                flow.images = Load::Loading;
                return vec![Effect::LoadImages(self.new_ticket(), store)];
            }
            _ => flow.image_cursor = moved(flow.image_cursor, flow.image_rows(), cmd),
        }
        Vec::new()
    }

    fn verify_marked(&mut self) -> Vec<Effect> {
        let Some(flow) = &self.flow else { return Vec::new() };
        let Some(store) = flow.store.clone() else { return Vec::new() };
        let image = flow.marked_image().map(|image| ImageRef::Id(image.id.clone()));
        self.make_plan(Job::Verify(VerifyJob { store, image }))
    }

    /// Shows the disks to overwrite, with the likeliest one marked: the disk the image came from, else the first
    /// that is large enough.
    fn choose_target(&mut self) -> Vec<Effect> {
        let Some(image) = self.flow.as_ref().and_then(|flow| flow.image.clone()) else { return Vec::new() };
        let home = image.identity.serial.is_some().then(|| {
            self.all_disks()
                .position(|disk| disk.identity.serial == image.identity.serial && self.unfit(disk, &image).is_none())
        });
        let fit = || self.all_disks().position(|disk| self.unfit(disk, &image).is_none());
        let cursor = home.flatten().or_else(fit).unwrap_or(0);
        if let Some(flow) = &mut self.flow {
            flow.target_cursor = cursor;
            flow.report = None;
        }
        self.screen = Screen::Targets;
        if self.disks.stale { self.load_disks() } else { Vec::new() }
    }

    /// Returns why `image` cannot go onto `disk`, as far as a list shows it; the plan knows better.
    #[must_use]
    pub fn unfit(&self, disk: &DiskView, image: &ImageView) -> Option<String> {
        if disk.read_only {
            return Some(text::UNFIT_READ_ONLY.to_owned());
        }
        if disk.identity.len < image.needs {
            return Some(text::UNFIT_TOO_SMALL.to_owned());
        }
        let place = self.flow.as_ref().and_then(|flow| flow.place.as_ref());
        if place.is_some_and(|place| place.disk == disk.identity.path) {
            return Some(text::UNFIT_STORE.to_owned());
        }
        disk.in_use.first().map(|_| text::UNFIT_IN_USE.to_owned())
    }

    pub(super) fn clamp_targets(&mut self) {
        let last = self.disk_count().saturating_sub(1);
        if let Some(flow) = &mut self.flow {
            flow.target_cursor = flow.target_cursor.min(last);
        }
    }

    fn targets_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        let count = self.disk_count();
        match cmd {
            Cmd::Back => self.screen = Screen::Images,
            Cmd::Refresh => return self.load_disks(),
            Cmd::Accept => return self.restore_to_marked(),
            _ => {
                if let Some(flow) = &mut self.flow {
                    flow.target_cursor = moved(flow.target_cursor, count, cmd);
                }
            }
        }
        Vec::new()
    }

    fn restore_to_marked(&mut self) -> Vec<Effect> {
        let Some(flow) = &self.flow else { return Vec::new() };
        let (Some(image), Some(store)) = (flow.image.clone(), flow.store.clone()) else { return Vec::new() };
        let Some(disk) = self.disk(flow.target_cursor).cloned() else { return Vec::new() };
        if let Some(why) = self.unfit(&disk, &image) {
            let words = text::target_unfit(&disk, &image, &why);
            self.message(text::UNFIT_TITLE, words);
            return Vec::new();
        }
        let job = RestoreJob {
            store,
            image: ImageRef::Id(image.id.clone()),
            disk: DiskRef::Path(disk.identity.path.clone()),
            sector_size: None,
            // The plan says that it is partial, and the typed confirmation is the consent.
            accept_partial: image.state == ImageState::Partial,
        };
        if let Some(flow) = &mut self.flow {
            flow.disk = Some(disk);
        }
        self.make_plan(Job::Restore(job))
    }
}

/// Planning and confirming.
impl State {
    fn make_plan(&mut self, job: Job) -> Vec<Effect> {
        let ticket = self.new_ticket();
        let Some(flow) = &mut self.flow else { return Vec::new() };
        flow.job = Some(job.clone());
        flow.plan = Load::Loading;
        flow.refused = false;
        flow.plan_top = 0;
        self.screen = Screen::Plan;
        vec![Effect::MakePlan(ticket, job)]
    }

    pub(super) fn planned(&mut self, result: Result<Box<PlanView>, NoPlan>) {
        let Some(flow) = &mut self.flow else { return };
        let result = result.and_then(|view| match (&flow.disk, &view.disk) {
            // The disk was chosen by what the screen showed of it; its name may belong to another one by now.
            (Some(chosen), Some(planned)) if !same_disk(&chosen.identity, planned) => {
                Err(NoPlan { refused: true, why: text::DISK_CHANGED.to_owned() })
            }
            _ => Ok(view),
        });
        match result {
            Ok(view) => {
                self.log.add(self.now, text::log_planned(&view.title));
                flow.plan = Load::Ready(*view);
            }
            Err(NoPlan { refused, why }) => {
                self.log.add(self.now, why.clone());
                flow.refused = refused;
                flow.plan = Load::Failed(why);
            }
        }
    }

    fn plan_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        let Some(flow) = &mut self.flow else { return Vec::new() };
        match cmd {
            Cmd::Back => return self.leave_plan(),
            Cmd::Accept => {
                let Load::Ready(plan) = &flow.plan else { return Vec::new() };
                if plan.confirm.is_none() {
                    return self.start();
                }
                flow.typed.reset();
                flow.wrong = false;
                self.screen = Screen::Confirm;
            }
            _ => {
                let rows = flow.plan.ready().map_or(0, |plan| plan.steps.len() + plan.warnings.len());
                flow.plan_top = moved(flow.plan_top, rows, cmd);
            }
        }
        Vec::new()
    }

    fn leave_plan(&mut self) -> Vec<Effect> {
        self.new_ticket();
        let Some(flow) = &mut self.flow else { return Vec::new() };
        self.screen = match &flow.job {
            _ if flow.report.is_some() => Screen::Result,
            Some(Job::Restore(_)) => Screen::Targets,
            Some(Job::Verify(_)) if flow.images.ready().is_some() => Screen::Images,
            _ => Screen::Stores,
        };
        flow.plan = Load::Idle;
        let mut effects = vec![Effect::DropPlan];
        if self.disks.stale {
            effects.extend(self.load_disks());
        }
        effects
    }

    fn confirm_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        let Some(flow) = &mut self.flow else { return Vec::new() };
        match cmd {
            Cmd::Edit(request) => {
                flow.typed.handle(request);
                flow.wrong = false;
            }
            Cmd::Back => {
                flow.typed.reset();
                self.screen = Screen::Plan;
            }
            Cmd::Accept => {
                let answer = flow.plan.ready().and_then(|plan| plan.confirm.as_ref());
                let typed = flow.typed.value().trim();
                if answer.is_some_and(|confirm| !typed.is_empty() && confirm.answer.eq_ignore_ascii_case(typed)) {
                    flow.typed.reset();
                    return self.start();
                }
                flow.wrong = true;
            }
            _ => {}
        }
        Vec::new()
    }

    fn start(&mut self) -> Vec<Effect> {
        let Some(flow) = &mut self.flow else { return Vec::new() };
        flow.running = Running { began: self.now, ..Running::default() };
        flow.report = None;
        self.screen = Screen::Running;
        self.log.add(self.now, text::LOG_STARTED);
        vec![Effect::RunPlan]
    }
}

/// Running and ended.
impl State {
    pub(super) fn job_event(&mut self, event: Event) {
        let now = self.now;
        let Some(flow) = &mut self.flow else { return };
        let running = &mut flow.running;
        match event {
            Event::Phase { phase } => {
                running.enter(phase, now);
                self.log.add(now, text::phase(phase));
            }
            Event::Progress { phase, progress } => {
                running.enter(phase, now);
                if let Some(line) = running.phases.iter_mut().find(|line| line.phase == phase) {
                    line.progress = progress;
                }
            }
            Event::Problem { what } => {
                if running.problems.len() == PROBLEMS_KEPT {
                    running.problems.pop_front();
                }
                running.problems.push_back(what.clone());
                running.problem_count += 1;
                self.log.add(now, what);
            }
        }
    }

    pub(super) fn tick_job(&mut self) {
        let now = self.now;
        if self.screen == Screen::Running
            && let Some(flow) = &mut self.flow
            && let Some(line) = flow.running.phases.last()
        {
            let done = line.progress.done;
            flow.running.meter.note(now, done);
        }
    }

    fn running_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        if cmd == Cmd::Cancel {
            self.overlay = Some(Overlay::AskCancel);
        }
        Vec::new()
    }

    pub(super) fn cancel_job(&mut self) -> Vec<Effect> {
        match &mut self.flow {
            Some(flow) if self.screen == Screen::Running => {
                flow.running.cancelling = true;
                self.log.add(self.now, text::LOG_CANCELLING);
                vec![Effect::CancelJob]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn finished(&mut self, report: Report) -> Vec<Effect> {
        if self.screen != Screen::Running {
            return Vec::new();
        }
        self.log.add(self.now, text::log_finished(&report));
        if let Some(reason) = &report.error {
            self.log.add(self.now, reason.clone());
        }
        self.screen = Screen::Result;
        if matches!(self.overlay, Some(Overlay::AskCancel)) {
            self.overlay = None;
        }
        // What is on the disks and in the stores is no longer what was listed.
        self.disks.stale = true;
        if let Some(written) = self.flow.as_ref().and_then(|flow| flow.disk.as_ref()) {
            self.disks.measured.retain(|(identity, _)| *identity != written.identity);
        }
        self.places.list = Load::Idle;
        if let Some(flow) = &mut self.flow {
            flow.plan = Load::Idle;
            if let Some(line) = flow.running.phases.last_mut() {
                line.ended = Some(self.now);
            }
            flow.report = Some(report);
        }
        let leave = self.leave_when_done.then_some(Effect::Exit(Exit::Quit));
        [Effect::Beep].into_iter().chain(leave).collect()
    }

    fn result_command(&mut self, cmd: Cmd) -> Vec<Effect> {
        match cmd {
            Cmd::Accept | Cmd::Back => return self.go_home(),
            Cmd::Power => self.overlay = Some(Overlay::Power),
            Cmd::Quit => return vec![Effect::Exit(Exit::Quit)],
            Cmd::Restore => return self.choose_target(),
            Cmd::Verify => {
                let Some(flow) = &self.flow else { return Vec::new() };
                let image = flow.report.as_ref().and_then(|report| report.image.clone());
                let (Some(image), Some(store)) = (image, flow.store.clone()) else { return Vec::new() };
                return self.make_plan(Job::Verify(VerifyJob { store, image: Some(ImageRef::Id(image)) }));
            }
            _ => {}
        }
        Vec::new()
    }
}

impl Running {
    /// Tells whether the job came as far as writing to a target.
    #[must_use]
    pub fn touched(&self) -> bool {
        let writes = |phase| matches!(phase, Phase::Clearing | Phase::Writing | Phase::WritingTable);
        self.phases.iter().any(|line| writes(line.phase))
    }

    /// Notes that a phase is under way. One that was seen before goes on where it was: phases may take turns.
    fn enter(&mut self, phase: Phase, now: Duration) {
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

/// Tells whether two identities are of the same disk, whatever it is called now.
fn same_disk(chosen: &Identity, planned: &Identity) -> bool {
    chosen.serial == planned.serial && chosen.wwn == planned.wwn && chosen.len == planned.len
}

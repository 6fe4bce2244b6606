//! The steps of a job, from choosing a store to its result. Going back keeps what was chosen; only the typed
//! confirmation is forgotten, so that Enter alone never writes.

use std::path::PathBuf;

use super::{
    Exit,
    backend::{Holds, Need, Place},
    disks::moved,
    keymap::Cmd,
    message::{Effect, NoPlan},
    state::{Flow, Kind, Load, Overlay, Running, Screen, State},
    text,
};
use crate::{
    block::{DiskRef, Identity},
    job::{
        CaptureJob, ImageRef, Job, RestoreJob, VerifyJob, default_level,
        view::{DiskView, ImageView, PlanView, StoreView},
    },
    store::manifest::ImageState,
};

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
                keep_swap_files: false,
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
            free: None,
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
        let Some(job) = flow.job.clone() else { return Vec::new() };
        flow.running = Running { began: self.now, ..Running::default() };
        flow.report = None;
        self.screen = Screen::Running;
        self.log.add(self.now, text::LOG_STARTED);
        vec![Effect::RunPlan(job)]
    }
}

/// Ended.
impl State {
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

/// Tells whether two identities are of the same disk, whatever it is called now.
fn same_disk(chosen: &Identity, planned: &Identity) -> bool {
    chosen.serial == planned.serial && chosen.wwn == planned.wwn && chosen.len == planned.len
}

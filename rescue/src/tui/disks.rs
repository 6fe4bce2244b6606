//! The disks of the machine as they come and go: the list, the closer look at each, the way back to them. Also the marker
//! that all lists share.

use super::{
    keymap::Cmd,
    message::Effect,
    state::{Load, Screen, State},
    text,
};
use crate::{block::Identity, job::view::DiskView};

impl State {
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

    pub(super) fn read_again(&mut self) -> Vec<Effect> {
        self.disks.measured.clear();
        self.places.list = Load::Idle;
        self.load_disks()
    }

    pub(super) fn disks_listed(&mut self, result: Result<Vec<DiskView>, String>) -> Vec<Effect> {
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

    pub(super) fn measured(&mut self, identity: Identity, result: Result<Box<DiskView>, String>) -> Vec<Effect> {
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

    pub(super) fn disks_changed(&mut self) -> Vec<Effect> {
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

    pub(super) fn load_places(&mut self) -> Vec<Effect> {
        self.places.list = Load::Loading;
        vec![Effect::LoadPlaces]
    }

    pub(super) fn clamp_targets(&mut self) {
        let last = self.disk_count().saturating_sub(1);
        if let Some(flow) = &mut self.flow {
            flow.target_cursor = flow.target_cursor.min(last);
        }
    }

    /// Returns to the disks; the job that was being put together is forgotten.
    pub(super) fn go_home(&mut self) -> Vec<Effect> {
        let opened = self.flow.as_ref().is_some_and(|flow| flow.place.is_some());
        self.screen = Screen::Home;
        self.flow = None;
        self.new_ticket();
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

//! A job that runs, and its end.

use super::{
    Exit,
    keymap::Cmd,
    message::Effect,
    state::{Load, Overlay, Screen, State},
    text,
};
use crate::job::{Event, Report};

/// Problems kept for the screen; a dying disk has thousands, and the report counts them all.
const PROBLEMS_KEPT: usize = 100;

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

    pub(super) fn running_command(&mut self, cmd: Cmd) -> Vec<Effect> {
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
}

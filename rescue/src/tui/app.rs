//! How messages change the state. No terminal, no disk, no clock: keys, ticks and what workers report all arrive as
//! [`Msg`], and what should happen leaves as [`Effect`].

use std::time::Duration;

use super::{
    Exit,
    disks::moved,
    keymap::{self, Cmd, Context},
    message::{Effect, Msg},
    state::{Flow, Kind, Options, Overlay, Screen, State},
    text,
};

impl State {
    /// Returns the state at the start, and what to do first.
    #[must_use]
    pub fn new(options: Options) -> (Self, Vec<Effect>) {
        let mut state = Self::blank(options);
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
}

//! The screens driven by messages, without a terminal: every flow from its first key to its result.

mod engine;
mod flows;
mod pages;
mod real;
mod refusals;

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

use super::{
    Exit,
    backend::{Backend, Planned},
    demo::Demo,
    message::{Effect, Msg, NoPlan},
    screens,
    state::{Options, Screen, State},
    theme::Theme,
};
use crate::job::{Cancel, Event, monitor::Collect, plan};

/// The state with a made-up machine that answers at once.
struct Rig {
    state: State,
    demo: Demo,
    plan: Option<Box<dyn Planned>>,
    cancel: Cancel,
    /// A started job waits for [`Rig::finish_job`].
    hold: bool,
    waiting: bool,
    exit: Option<Exit>,
    beeps: usize,
}

fn options(booted: bool) -> Options {
    Options { booted, store: None, machine: "tower".to_owned(), theme: Theme::colour() }
}

impl Rig {
    fn new(demo: Demo) -> Self {
        Self::with(demo, options(true))
    }

    fn with(demo: Demo, options: Options) -> Self {
        let (state, effects) = State::new(options);
        let cancel = Cancel::new();
        let mut rig = Self { state, demo, plan: None, cancel, hold: false, waiting: false, exit: None, beeps: 0 };
        rig.perform(effects);
        rig
    }

    fn tell(&mut self, message: Msg) {
        let effects = self.state.update(message);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let answer = match effect {
                Effect::LoadDisks => Msg::Disks(self.demo.disks()),
                Effect::Measure(identity) => {
                    let result = self.demo.measure(&identity.path).map(Box::new);
                    Msg::Measured(identity, result)
                }
                Effect::LoadPlaces => Msg::Places(self.demo.places()),
                Effect::OpenPlace(ticket, place, need) => Msg::PlaceOpened(ticket, self.demo.open_place(&place, need)),
                Effect::ClosePlaces => Msg::PlacesClosed(self.demo.close_places()),
                Effect::LoadImages(ticket, store) => Msg::Images(ticket, self.demo.images(&store)),
                Effect::MakePlan(ticket, job) => {
                    self.cancel = Cancel::new();
                    let result = match self.demo.plan(&job, &Collect::default(), &self.cancel) {
                        Ok(plan) => {
                            let view = Box::new(plan.view().clone());
                            self.plan = Some(plan);
                            Ok(view)
                        }
                        Err(plan::Error::Refused(why)) => Err(NoPlan { refused: true, why }),
                        Err(error) => Err(NoPlan { refused: false, why: error.to_string() }),
                    };
                    Msg::Planned(ticket, result)
                }
                Effect::DropPlan => {
                    self.plan = None;
                    continue;
                }
                Effect::RunPlan(_) => {
                    self.waiting = true;
                    if !self.hold {
                        self.finish_job();
                    }
                    continue;
                }
                Effect::CancelJob => {
                    self.cancel.cancel();
                    continue;
                }
                Effect::Beep => {
                    self.beeps += 1;
                    continue;
                }
                Effect::Repaint => continue,
                Effect::Exit(exit) => {
                    self.exit = Some(exit);
                    continue;
                }
            };
            self.tell(answer);
        }
    }

    /// Lets a job that was started run to its end.
    fn finish_job(&mut self) {
        assert!(self.waiting, "no job was started");
        self.waiting = false;
        let monitor = Collect::default();
        let plan = self.plan.take().expect("a started job has a plan");
        let report = plan.run(&monitor, &self.cancel);
        for event in monitor.events() {
            self.tell(Msg::Job(event));
        }
        self.tell(Msg::Finished(Box::new(report)));
    }

    fn event(&mut self, event: Event) {
        self.tell(Msg::Job(event));
    }

    fn tick(&mut self, seconds: u64) {
        self.tell(Msg::Tick(Duration::from_secs(seconds)));
    }

    fn press(&mut self, code: KeyCode) {
        self.tell(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }

    fn ctrl(&mut self, letter: char) {
        self.tell(Msg::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL)));
    }

    /// Presses keys: letters as they are, `<Enter>`, `<Esc>`, `<Up>`, `<Down>`, `<PageDown>`, `<End>` by name.
    fn keys(&mut self, keys: &str) {
        let mut rest = keys;
        while let Some(letter) = rest.chars().next() {
            if let Some((name, after)) = rest.strip_prefix('<').and_then(|named| named.split_once('>')) {
                self.press(match name {
                    "Enter" => KeyCode::Enter,
                    "Esc" => KeyCode::Esc,
                    "Up" => KeyCode::Up,
                    "Down" => KeyCode::Down,
                    "PageDown" => KeyCode::PageDown,
                    "End" => KeyCode::End,
                    "F1" => KeyCode::F(1),
                    "F5" => KeyCode::F(5),
                    "Backspace" => KeyCode::Backspace,
                    other => panic!("no key is called {other}"),
                });
                rest = after;
            } else {
                self.press(KeyCode::Char(letter));
                rest = &rest[letter.len_utf8()..];
            }
        }
    }

    #[track_caller]
    fn at(&self, screen: Screen) -> &Self {
        assert_eq!(self.state.screen, screen, "\n{}", self.text());
        self
    }

    /// Draws on a terminal of 80 columns and 25 rows and returns its text.
    fn text(&self) -> String {
        text_of(&draw(&self.state, 80, 25))
    }

    #[track_caller]
    fn shows(&self, words: &str) -> &Self {
        let text = self.text();
        assert!(text.contains(words), "{words:?} is not on the screen:\n{text}");
        self
    }

    #[track_caller]
    fn hides(&self, words: &str) -> &Self {
        let text = self.text();
        assert!(!text.contains(words), "{words:?} is on the screen:\n{text}");
        self
    }

    fn asked(&self) -> Vec<String> {
        self.demo.asked.lock().unwrap().clone()
    }
}

fn draw(state: &State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screens::draw(state, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|column| buffer[(column, row)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

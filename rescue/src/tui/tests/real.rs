//! The screens in front of the real jobs, with files as disks: state, engine and jobs together.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, unbounded};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{draw, options, text_of};
use crate::{
    block::DiskRef,
    job::{
        Cancel, Job, Monitor, Outcome, plan, survey,
        view::{DiskView, StoreView},
    },
    tui::{
        backend::{Backend, Need, Place, Planned},
        engine::Engine,
        machine::Machine,
        message::Msg,
        state::{Screen, State},
    },
};

/// The real machine, but for its disks, which are files.
struct Files(Vec<PathBuf>, Machine);

impl Backend for Files {
    fn inventory(&self) -> String {
        String::new()
    }

    fn disks(&self) -> Result<Vec<DiskView>, String> {
        self.0.iter().map(|path| self.measure(&path.display().to_string())).collect()
    }

    fn measure(&self, path: &str) -> Result<DiskView, String> {
        let found = survey::disk(&DiskRef::Path(path.to_owned()), None, &crate::fs::Options::default());
        found.map(|found| found.view).map_err(|error| error.to_string())
    }

    fn places(&self) -> Result<Vec<Place>, String> {
        Ok(Vec::new())
    }

    fn open_place(&self, place: &Place, need: Need) -> Result<PathBuf, String> {
        self.1.open_place(place, need)
    }

    fn close_places(&self) -> Result<(), String> {
        self.1.close_places()
    }

    fn images(&self, store: &Path) -> Result<StoreView, String> {
        self.1.images(store)
    }

    fn plan(&self, job: &Job, monitor: &dyn Monitor, cancel: &Cancel) -> Result<Box<dyn Planned>, plan::Error> {
        self.1.plan(job, monitor, cancel)
    }
}

struct Screens {
    state: State,
    engine: Engine,
    answers: Receiver<Msg>,
}

impl Screens {
    fn new(files: Vec<PathBuf>, store: &Path) -> Self {
        let (out, answers) = unbounded();
        let engine = Engine::new(Arc::new(Files(files, Machine::default())), out);
        let mut options = options(true);
        options.store = Some(store.to_owned());
        let (state, effects) = State::new(options);
        effects.into_iter().for_each(|effect| engine.perform(effect));
        Self { state, engine, answers }
    }

    fn tell(&mut self, message: Msg) {
        self.state.update(message).into_iter().for_each(|effect| self.engine.perform(effect));
    }

    fn press(&mut self, code: KeyCode) {
        self.tell(Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }

    /// Takes answers until the screen shows `words`.
    #[track_caller]
    fn wait(&mut self, screen: Screen, words: &str) {
        let limit = Instant::now() + Duration::from_secs(60);
        loop {
            let text = text_of(&draw(&self.state, 80, 25));
            if self.state.screen == screen && text.contains(words) {
                return;
            }
            match self.answers.recv_deadline(limit) {
                Ok(message) => self.tell(message),
                Err(_) => panic!("{words:?} never came:\n{text}"),
            }
        }
    }

    /// Takes answers until no disk is being looked at: a file is opened for that, and a job wants it for itself.
    fn settle(&mut self) {
        while self.state.disks.reloading || self.state.disks.measuring.is_some() {
            let message = self.answers.recv_timeout(Duration::from_secs(60)).expect("the disks are read");
            self.tell(message);
        }
    }
}

#[test]
fn a_file_is_imaged_and_restored_by_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source.raw"), folder.path().join("target.raw"));
    let bytes: Vec<u8> = (0..4u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::write(&source, &bytes).unwrap();
    fs::write(&target, vec![0xa5; bytes.len()]).unwrap();
    let store = folder.path().join("store");

    let mut screens = Screens::new(vec![source.clone(), target.clone()], &store);
    screens.wait(Screen::Home, "source.raw");
    screens.press(KeyCode::Char('i'));
    screens.wait(Screen::Stores, "Another folder");
    screens.settle();
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Plan, "Enter starts");
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Result, "COMPLETE");
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Home, "target.raw");

    screens.press(KeyCode::Char('r'));
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Images, "source.raw");
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Targets, "target.raw");
    screens.settle();
    screens.press(KeyCode::Down);
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Plan, "Enter asks for the confirmation");
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Confirm, "Type");
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Confirm, "That is not it");
    assert!(fs::read(&target).unwrap().iter().all(|byte| *byte == 0xa5), "nothing is written before the answer");
    let plan = screens.state.flow.as_ref().and_then(|flow| flow.plan.ready()).unwrap();
    let answer = plan.confirm.as_ref().unwrap().answer.clone();
    answer.chars().for_each(|letter| screens.press(KeyCode::Char(letter)));
    screens.press(KeyCode::Enter);
    screens.wait(Screen::Result, "COMPLETE");
    assert_eq!(fs::read(&target).unwrap(), bytes);
    let report = screens.state.flow.as_ref().and_then(|flow| flow.report.clone()).unwrap();
    assert_eq!(report.outcome, Outcome::Complete);

    // What a job says is what the running page waits for.
    let running = &screens.state.flow.as_ref().unwrap().running;
    let usual = crate::tui::text::usual_phases(screens.state.flow.as_ref().and_then(|flow| flow.job.as_ref()));
    let seen: Vec<_> = running.phases.iter().map(|line| line.phase).filter(|phase| usual.contains(phase)).collect();
    assert_eq!(seen, usual);
}

//! Carries out effects on worker threads; their answers are messages. A panic in one is an answer as well.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use crossbeam_channel::Sender;

use super::{
    backend::{Backend, Planned},
    message::{Effect, Msg, NoPlan, Ticket},
    text,
};
use crate::job::{Cancel, Event, Job, Monitor, Report, failure::panic_text, plan};

/// The plan that is being made, kept or run.
#[derive(Default)]
struct Slot {
    /// Tells the plan that is wanted from one that was given up while it was made.
    generation: u64,
    plan: Option<Box<dyn Planned>>,
    cancel: Cancel,
}

/// Carries out effects.
pub struct Engine {
    backend: Arc<dyn Backend>,
    out: Sender<Msg>,
    slot: Arc<Mutex<Slot>>,
    /// Looking closely at disks and planning take turns: both open disks for themselves alone.
    disks: Arc<Mutex<()>>,
}

/// Sends a job's events on.
struct Reporter(Sender<Msg>);

impl Monitor for Reporter {
    fn event(&self, event: Event) {
        // Nobody listens any more once the screens are left.
        drop(self.0.send(Msg::Job(event)));
    }
}

impl Engine {
    /// Returns an engine that answers to `out`.
    pub fn new(backend: Arc<dyn Backend>, out: Sender<Msg>) -> Self {
        Self { backend, out, slot: Arc::default(), disks: Arc::default() }
    }

    /// Carries out one effect. Those that concern the terminal are none of its business and are ignored.
    pub fn perform(&self, effect: Effect) {
        let (backend, disks) = (Arc::clone(&self.backend), Arc::clone(&self.disks));
        match effect {
            Effect::LoadDisks => self.answer(move || Msg::Disks(guarded(|| backend.disks()))),
            Effect::Measure(identity) => self.answer(move || {
                let _turn = lock(&disks);
                let result = guarded(|| backend.measure(&identity.path).map(Box::new));
                Msg::Measured(identity, result)
            }),
            Effect::LoadPlaces => self.answer(move || Msg::Places(guarded(|| backend.places()))),
            Effect::OpenPlace(ticket, place, need) => {
                self.answer(move || Msg::PlaceOpened(ticket, guarded(|| backend.open_place(&place, need))));
            }
            Effect::LoadImages(ticket, store) => {
                self.answer(move || Msg::Images(ticket, guarded(|| backend.images(&store))));
            }
            Effect::MakePlan(ticket, job) => self.make_plan(ticket, job),
            Effect::DropPlan => self.stop(),
            Effect::ClosePlaces => self.answer(move || {
                // Whoever plans meanwhile holds a folder that is about to be let go.
                let _turn = lock(&disks);
                Msg::PlacesClosed(guarded(|| backend.close_places()))
            }),
            Effect::RunPlan(job) => self.run_plan(job),
            Effect::CancelJob => lock(&self.slot).cancel.cancel(),
            Effect::Beep | Effect::Repaint | Effect::Exit(_) => {}
        }
    }

    /// Raises the flag of whatever is planned or runs, and gives the plan up.
    pub fn stop(&self) {
        self.renew();
    }

    fn answer(&self, work: impl FnOnce() -> Msg + Send + 'static) {
        let out = self.out.clone();
        // A message that nobody takes belongs to screens that were left.
        let spawned = thread::Builder::new().name("work".to_owned()).spawn(move || drop(out.send(work())));
        if let Err(error) = spawned {
            drop(self.out.send(Msg::Log(format!("no thread could be started: {error}"))));
        }
    }

    /// Gives up the plan there is and returns the number of the next one, with its flag.
    fn renew(&self) -> (u64, Cancel) {
        let mut slot = lock(&self.slot);
        slot.cancel.cancel();
        slot.generation += 1;
        slot.cancel = Cancel::new();
        slot.plan = None;
        (slot.generation, slot.cancel.clone())
    }

    fn make_plan(&self, ticket: Ticket, job: Job) {
        let (generation, cancel) = self.renew();
        let (backend, disks, slot) = (Arc::clone(&self.backend), Arc::clone(&self.disks), Arc::clone(&self.slot));
        let reporter = Reporter(self.out.clone());
        self.answer(move || {
            let _turn = lock(&disks);
            let made = catch_unwind(AssertUnwindSafe(|| backend.plan(&job, &reporter, &cancel)));
            let result = match made {
                Ok(Ok(plan)) => {
                    let view = Box::new(plan.view().clone());
                    let mut slot = lock(&slot);
                    if slot.generation == generation {
                        slot.plan = Some(plan);
                    }
                    Ok(view)
                }
                Ok(Err(plan::Error::Refused(why))) => Err(NoPlan { refused: true, why }),
                Ok(Err(error)) => Err(NoPlan { refused: false, why: error.to_string() }),
                Err(panic) => Err(NoPlan { refused: false, why: panic_text(panic.as_ref()) }),
            };
            Msg::Planned(ticket, result)
        });
    }

    fn run_plan(&self, job: Job) {
        let (plan, cancel) = {
            let mut slot = lock(&self.slot);
            (slot.plan.take(), slot.cancel.clone())
        };
        let reporter = Reporter(self.out.clone());
        self.answer(move || {
            let run = match plan {
                Some(plan) => catch_unwind(AssertUnwindSafe(|| plan.run(&reporter, &cancel)))
                    .map_err(|panic| panic_text(panic.as_ref())),
                None => Err(text::PLAN_GONE.to_owned()),
            };
            let report = run.unwrap_or_else(|why| Report::not_run(&job, &plan::Error::Failed(why)));
            Msg::Finished(Box::new(report))
        });
    }
}

/// Turns a panic into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_text(panic.as_ref())))
}

/// Locks; what a panicking holder left behind is whole, because every change under these locks is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

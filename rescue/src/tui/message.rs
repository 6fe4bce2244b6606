//! What reaches the state, and what it wants done: the two ends of the one loop.

use std::{path::PathBuf, time::Duration};

use crossterm::event::KeyEvent;

use super::{
    Exit,
    backend::{Need, Place},
};
use crate::{
    block::Identity,
    job::{
        Event, Job, Report,
        view::{DiskView, PlanView, StoreView},
    },
};

/// Tells the answer that is waited for from those that come too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket(u64);

impl Ticket {
    /// Returns the next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

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
    /// Run the plan that is kept, which is this job's; answer with [`Msg::Job`] and at last [`Msg::Finished`].
    RunPlan(Job),
    /// Raise the running job's cancel flag.
    CancelJob,
    /// Ring the bell.
    Beep,
    /// Ask for the terminal's size and draw everything again.
    Repaint,
    /// Leave.
    Exit(Exit),
}

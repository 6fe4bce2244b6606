//! The first error among the threads of a job; it stops the others.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
};

use super::{Cancel, error::Error};

/// Holds the first error that was set.
#[derive(Debug, Default)]
pub struct Failure(Mutex<Option<Error>>);

impl Failure {
    /// Keeps `error`, unless there is one already.
    pub fn set(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Tells whether a thread failed.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Runs a thread's work, and keeps its error or panic.
    pub fn guard(&self, work: impl FnOnce() -> Result<(), Error>) {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.set(error),
            Err(panic) => self.set(Error::Failed(panic_text(panic.as_ref()))),
        }
    }

    /// Does `work` with one item after the other of a list that threads share, until it is empty or one of them failed.
    ///
    /// * `cancelled`: what a cancelled job is told.
    ///
    /// # Errors
    /// Those of `work`, and `cancelled` once the job is.
    pub fn each<T>(
        &self,
        items: &Mutex<impl Iterator<Item = T>>,
        cancel: &Cancel,
        cancelled: fn() -> Error,
        mut work: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            if self.is_set() {
                return Ok(());
            }
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(item) = next else { return Ok(()) };
            work(item)?;
        }
    }

    /// Returns the error, if there was one.
    ///
    /// # Errors
    /// The first that was set.
    pub fn result(&self) -> Result<(), Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// Writes what a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a defect in this program stopped it: {}", said.unwrap_or("it said nothing"))
}

//! A backend that fails, cuts short or lies at its n-th write, for tests.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Backend, Listing, Sink};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// From this operation on every write fails: the process was killed, or the stick pulled.
    Stop(u64),
    /// From this many written bytes on the disk is full; reading, removing and empty files go on.
    Full(u64),
    /// This operation fails once.
    Once(u64),
    /// The file that this operation would finish keeps only the first half of its bytes, and nobody says so.
    Cut(u64),
    /// This read fails, counted from 0; those after it succeed.
    ReadOnce(u64),
    /// The file that this operation would finish never appears, and nobody says so.
    Lose(u64),
    /// This operation is done, and then says that it failed.
    Late(u64),
    /// Another writer removes the file that this operation is about to remove.
    Gone(u64),
}

/// Wraps another backend. Operations are counted from 0: each `put`, `create`, `write_all`, `finish` and `delete`.
pub struct FaultyBackend<B> {
    inner: B,
    plan: Plan,
}

#[derive(Clone)]
struct Plan {
    fault: Fault,
    operations: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

/// What is to be done with a file that is about to appear.
enum Fate {
    Keep,
    Cut,
    Lose,
    Late,
    Gone,
}

fn late() -> io::Error {
    io::Error::other("failed by the test after all was done")
}

impl Plan {
    fn step(&self, bytes: u64) -> io::Result<Fate> {
        let operation = self.operations.fetch_add(1, Ordering::SeqCst);
        let written = self.written.fetch_add(bytes, Ordering::SeqCst).saturating_add(bytes);
        match self.fault {
            Fault::Stop(at) if operation >= at => Err(io::Error::other("stopped by the test")),
            Fault::Once(at) if operation == at => Err(io::Error::other("failed once by the test")),
            Fault::Full(at) if bytes > 0 && written > at => {
                self.written.fetch_sub(bytes, Ordering::SeqCst);
                Err(io::ErrorKind::StorageFull.into())
            }
            Fault::Cut(at) if operation == at => Ok(Fate::Cut),
            Fault::Lose(at) if operation == at => Ok(Fate::Lose),
            Fault::Late(at) if operation == at => Ok(Fate::Late),
            Fault::Gone(at) if operation == at => Ok(Fate::Gone),
            _ => Ok(Fate::Keep),
        }
    }
}

impl<B: Backend> FaultyBackend<B> {
    /// Returns `inner` with one fault.
    pub fn new(inner: B, fault: Fault) -> Self {
        Self { inner, plan: Plan { fault, operations: Arc::default(), written: Arc::default(), reads: Arc::default() } }
    }

    /// Returns how many operations were counted.
    pub fn operations(&self) -> u64 {
        self.plan.operations.load(Ordering::SeqCst)
    }
}

impl<B> FaultyBackend<B> {
    /// Returns how many reads were counted.
    pub fn reads(&self) -> u64 {
        self.plan.reads.load(Ordering::SeqCst)
    }
}

impl<B: Backend> Backend for FaultyBackend<B> {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self.plan.step(bytes.len() as u64)? {
            Fate::Keep | Fate::Gone => self.inner.put(name, bytes),
            Fate::Late => self.inner.put(name, bytes).and(Err(late())),
            Fate::Cut => self.inner.put(name, bytes.get(..bytes.len() / 2).unwrap_or_default()),
            Fate::Lose => Ok(()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Sink>> {
        self.plan.step(0)?;
        Ok(Box::new(FaultySink { inner: self.inner.create(name)?, pending: Vec::new(), plan: self.plan.clone() }))
    }

    fn read_range(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let read = self.plan.reads.fetch_add(1, Ordering::SeqCst);
        if self.plan.fault == Fault::ReadOnce(read) {
            return Err(io::Error::other("failed once by the test"));
        }
        self.inner.read_range(name, offset, buf)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.inner.len(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listing>> {
        self.inner.list(folder)
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let fate = self.plan.step(0)?;
        let result = self.inner.delete(name);
        match fate {
            Fate::Late => result.and(Err(late())),
            Fate::Gone => result.and(Err(io::ErrorKind::NotFound.into())),
            Fate::Keep | Fate::Cut | Fate::Lose => result,
        }
    }

    fn lock(&self) -> io::Result<()> {
        self.inner.lock()
    }

    fn free(&self) -> io::Result<Option<u64>> {
        Ok(match self.plan.fault {
            Fault::Full(at) => Some(at.saturating_sub(self.plan.written.load(Ordering::SeqCst))),
            _ => self.inner.free()?,
        })
    }
}

struct FaultySink {
    inner: Box<dyn Sink>,
    /// Bytes not yet handed on, so that the end of the file can still be cut off.
    pending: Vec<u8>,
    plan: Plan,
}

impl Sink for FaultySink {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.plan.step(bytes.len() as u64)?;
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let fate = self.plan.step(0)?;
        match fate {
            Fate::Keep | Fate::Late | Fate::Gone => self.inner.write_all(&self.pending)?,
            Fate::Cut => self.inner.write_all(self.pending.get(..self.pending.len() / 2).unwrap_or_default())?,
            Fate::Lose => return Ok(()),
        }
        self.inner.finish()?;
        if matches!(fate, Fate::Late) { Err(late()) } else { Ok(()) }
    }
}

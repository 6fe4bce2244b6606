//! One connection to an export, with any number of requests in flight.
//!
//! Whoever asks takes a cookie, sends the request and waits on a channel of its own. One thread reads all replies and
//! hands each to the one that waits for its cookie. The first thing that goes wrong with the connection ends it for all:
//! everybody who waits hears of it, and so does everybody who asks later.

use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::errno::Errno;

use super::{
    handshake::Export,
    stream::Stream,
    wire::{
        Command, REPLY_BLOCK_STATUS, REPLY_ERROR, REPLY_FLAG_DONE, REPLY_NONE, REPLY_OFFSET_DATA, REPLY_OFFSET_HOLE,
        Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, bytes, nonsense, u16_from, u32_from, u64_from,
    },
};
use crate::{
    bytes::Fields,
    extent::{Extent, ExtentSet},
};

/// Why a request was not answered as asked.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server says so, by a number of the protocol; the connection goes on.
    Server(u32),
    /// The connection is over.
    Gone(Arc<io::Error>),
}

/// What a request brought.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The bytes of a read.
    pub(super) data: Vec<u8>,
    /// Lengths and states from the offset of a block status request on.
    pub(super) states: Vec<(u32, u32)>,
}

/// Longest error message and longest list of states that is read, in bytes.
const MAX_MESSAGE: u32 = 64 * 1024;
const MAX_STATES: u32 = 1 << 20;

/// A request whose reply has not come, or not all of it.
struct Pending {
    request: Request,
    answer: Answer,
    /// What of a read has come, in bytes of the export.
    covered: ExtentSet,
    error: Option<u32>,
    to: SyncSender<Result<Answer, Failure>>,
}

#[derive(Default)]
struct State {
    waiting: HashMap<u64, Pending>,
    gone: Option<Arc<io::Error>>,
}

/// What the thread that reads and those that ask share.
struct Shared {
    stream: Stream,
    state: Mutex<State>,
    allocation: Option<u32>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for all, for the first reason given.
    fn end(&self, reason: io::Error) -> Arc<io::Error> {
        let mut state = self.state();
        let reason = Arc::clone(state.gone.get_or_insert_with(|| Arc::new(reason)));
        for (_, pending) in state.waiting.drain() {
            // Whoever gave up waiting hears nothing.
            let _ = pending.to.try_send(Err(Failure::Gone(Arc::clone(&reason))));
        }
        drop(state);
        self.stream.shutdown();
        reason
    }
}

/// An open connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Held while a request is sent, so that requests do not mix.
    sending: Mutex<()>,
    next: AtomicU64,
    limit: Duration,
    reader: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("stream", &self.shared.stream).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes over a stream on which `export` was negotiated.
    ///
    /// * `limit`: how long a request may take.
    pub(super) fn new(stream: Stream, export: &Export, limit: Duration) -> io::Result<Self> {
        stream.limit_reads(None)?;
        stream.limit_writes(limit)?;
        let shared = Arc::new(Shared { stream, state: Mutex::new(State::default()), allocation: export.allocation });
        let reader = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("nbd".to_owned()).spawn(move || {
                let reason = match read_replies(&shared) {
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                        io::Error::new(io::ErrorKind::ConnectionAborted, "the server closed the connection")
                    }
                    Err(e) => e,
                    Ok(never) => match never {},
                };
                shared.end(reason);
            })?
        };
        Ok(Self { shared, sending: Mutex::new(()), next: AtomicU64::new(1), limit, reader: Some(reader) })
    }

    /// Sends a request with the data of a write, and waits for its answer.
    pub(super) fn ask(&self, request: Request, data: &[u8]) -> Result<Answer, Failure> {
        let cookie = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.expect(request, cookie)?;
        if let Err(e) = self.send(request, cookie, data) {
            let slow = e.kind() == io::ErrorKind::WouldBlock;
            return Err(Failure::Gone(self.shared.end(if slow { self.timed_out("take a request") } else { e })));
        }
        match answer.recv_timeout(self.limit) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(Failure::Gone(self.shared.end(self.timed_out("answer")))),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Failure::Gone(self.shared.end(io::ErrorKind::ConnectionAborted.into())))
            }
        }
    }

    /// Tells whether the server still answers; a medium error is an answer.
    pub(super) fn is_alive(&self, unit: u32) -> Result<(), Arc<io::Error>> {
        match self.ask(Request { command: Command::Read, offset: 0, len: unit }, &[]) {
            Ok(_) | Err(Failure::Server(_)) => Ok(()),
            Err(Failure::Gone(reason)) => Err(reason),
        }
    }

    fn timed_out(&self, what: &str) -> io::Error {
        let text = format!("the server did not {what} within {:?}", self.limit);
        io::Error::new(io::ErrorKind::TimedOut, text)
    }

    fn expect(&self, request: Request, cookie: u64) -> Result<Receiver<Result<Answer, Failure>>, Failure> {
        let (to, from) = sync_channel(1);
        let mut state = self.shared.state();
        if let Some(reason) = &state.gone {
            return Err(Failure::Gone(Arc::clone(reason)));
        }
        let pending = Pending { request, answer: Answer::default(), covered: ExtentSet::new(), error: None, to };
        state.waiting.insert(cookie, pending);
        Ok(from)
    }

    fn send(&self, request: Request, cookie: u64, data: &[u8]) -> io::Result<()> {
        let _guard = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = &self.shared.stream;
        stream.write_all(&request.header(cookie))?;
        stream.write_all(data)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A goodbye; a server that is gone does not hear it.
        let _ = self.send(Request { command: Command::Disconnect, offset: 0, len: 0 }, 0, &[]);
        self.shared.stream.shutdown();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// What `read_replies` returns when nothing goes wrong: never.
enum Never {}

fn read_replies(shared: &Shared) -> io::Result<Never> {
    let mut from = BufReader::with_capacity(64 * 1024, &shared.stream);
    loop {
        match u32_from(&mut from)? {
            SIMPLE_REPLY_MAGIC => read_simple(shared, &mut from)?,
            STRUCTURED_REPLY_MAGIC => read_structured(shared, &mut from)?,
            other => return Err(nonsense(format!("{other:#x} in the place of a reply"))),
        }
    }
}

/// Takes the request with this cookie out of those that wait. While its reply is read nobody else needs it.
fn take(shared: &Shared, cookie: u64) -> io::Result<Pending> {
    let unknown = || nonsense(format!("a reply to a request nobody made ({cookie})"));
    shared.state().waiting.remove(&cookie).ok_or_else(unknown)
}

fn read_simple(shared: &Shared, from: &mut impl Read) -> io::Result<()> {
    let (error, cookie) = (u32_from(from)?, u64_from(from)?);
    let mut pending = take(shared, cookie)?;
    let result = (|| {
        if error != 0 {
            pending.error = Some(error);
        } else if pending.request.command == Command::Read {
            pending.answer.data = bytes(from, pending.request.len, pending.request.len)?;
            pending.covered = pending.request_extent().into();
        }
        Ok(())
    })();
    settle(shared, cookie, pending, result, true)
}

fn read_structured(shared: &Shared, from: &mut impl Read) -> io::Result<()> {
    let (flags, kind, cookie, len) = (u16_from(from)?, u16_from(from)?, u64_from(from)?, u32_from(from)?);
    let mut pending = take(shared, cookie)?;
    let result = pending.take_chunk(kind, len, from, shared.allocation);
    settle(shared, cookie, pending, result, flags & REPLY_FLAG_DONE != 0)
}

/// Answers a request whose last reply has come, or lets it wait on. A broken reply breaks the connection.
fn settle(shared: &Shared, cookie: u64, pending: Pending, result: io::Result<()>, done: bool) -> io::Result<()> {
    let result = match result {
        Ok(()) if !done => None,
        Ok(()) => Some(pending.check_whole()),
        Err(e) => Some(Err(e)),
    };
    match result {
        None => {
            shared.state().waiting.insert(cookie, pending);
            Ok(())
        }
        Some(Ok(())) => {
            pending.finish();
            Ok(())
        }
        Some(Err(e)) => {
            // Back among those that wait, so that it hears the reason with all the others.
            shared.state().waiting.insert(cookie, pending);
            Err(e)
        }
    }
}

impl Pending {
    fn request_extent(&self) -> Extent {
        Extent::new(self.request.offset, self.request.offset.saturating_add(u64::from(self.request.len)))
    }

    /// Reads one structured reply to this request.
    fn take_chunk(&mut self, kind: u16, len: u32, from: &mut impl Read, allocation: Option<u32>) -> io::Result<()> {
        let wrong = |what: &str| Err(nonsense(format!("{what} of {len} bytes")));
        match kind {
            _ if kind & REPLY_ERROR != 0 => {
                let message = bytes(from, len, MAX_MESSAGE)?;
                let code = Fields(&message).u32_be(0).map_err(|_| nonsense("an error without a number".to_owned()))?;
                // An error of number 0 is an error none the less.
                self.error = Some(if code == 0 { Errno::EIO as u32 } else { code });
                Ok(())
            }
            REPLY_NONE if len == 0 => Ok(()),
            REPLY_OFFSET_DATA if self.request.command == Command::Read && len > 8 => {
                let offset = u64_from(from)?;
                let range = self.place(offset, len - 8)?;
                from.read_exact(self.answer.data.get_mut(range).unwrap_or_default())
            }
            REPLY_OFFSET_HOLE if self.request.command == Command::Read && len == 12 => {
                let (offset, hole) = (u64_from(from)?, u32_from(from)?);
                let range = self.place(offset, hole)?;
                self.answer.data.get_mut(range).unwrap_or_default().fill(0);
                Ok(())
            }
            REPLY_BLOCK_STATUS if self.request.command == Command::BlockStatus && len >= 12 && len % 8 == 4 => {
                let list = bytes(from, len, MAX_STATES)?;
                let (context, states) = list.split_at_checked(4).unwrap_or_default();
                if Fields(context).u32_be(0).ok() == allocation {
                    self.answer.states = states.chunks_exact(8).filter_map(state).collect();
                }
                Ok(())
            }
            _ => wrong(&format!("a reply of type {kind} that does not fit the request,")),
        }
    }

    /// Notes that `len` bytes at `offset` have come; returns where they go. Each byte comes once.
    fn place(&mut self, offset: u64, len: u32) -> io::Result<std::ops::Range<usize>> {
        let part = Extent::with_len(offset, u64::from(len)).filter(|part| {
            !part.is_empty() && self.request_extent().covers(*part) && self.covered.within(*part).next().is_none()
        });
        let part = part.ok_or_else(|| nonsense(format!("{len} bytes at {offset} that were not asked for")))?;
        self.covered.insert(part);
        let index = |at: u64| usize::try_from(at - self.request.offset).map_err(io::Error::other);
        self.answer.data.resize(usize::try_from(self.request.len).map_err(io::Error::other)?, 0);
        Ok(index(part.start)?..index(part.end)?)
    }

    /// Checks that a read that did not fail brought every byte.
    fn check_whole(&self) -> io::Result<()> {
        let is_read = self.request.command == Command::Read;
        if is_read && self.error.is_none() && !self.covered.covers(self.request_extent()) {
            let (have, want) = (self.covered.total(), self.request.len);
            return Err(nonsense(format!("{have} of {want} bytes and called them all")));
        }
        Ok(())
    }

    fn finish(self) {
        let result = match self.error {
            Some(code) => Err(Failure::Server(code)),
            None => Ok(self.answer),
        };
        // Whoever gave up waiting ended the connection as well.
        let _ = self.to.try_send(result);
    }
}

fn state(raw: &[u8]) -> Option<(u32, u32)> {
    Some((Fields(raw).u32_be(0).ok()?, Fields(raw).u32_be(4).ok()?))
}

//! The only loop: one channel in, the state changed, effects out, the screen drawn.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ratatui::{Terminal, layout::Size};

use super::{
    Error, Exit,
    backend::Backend,
    engine::Engine,
    message::{Effect, Msg},
    screens,
    state::{Options, State},
    terminal,
};

/// How often time passes for the state.
const TICK: Duration = Duration::from_millis(250);
/// How long a measuring of the terminal may take: as long as its reader waits for an answer, and a little.
const MEASURE: Duration = Duration::from_millis(2500);

/// What reaches the loop: messages for the state, and two things that concern the terminal alone.
enum Incoming {
    Msg(Msg),
    Resized(Size),
    Gone(io::Error),
}

/// Shows the screens of `backend` until they are left.
///
/// # Errors
/// [`Error`] when there is no terminal or it fails.
pub fn run(options: Options, backend: impl Backend) -> Result<Exit, Error> {
    terminal::enter()?;
    let _restore = Restore;
    let (out, incoming) = unbounded();
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let leave = catch_signals();
    let (messages, worker_messages) = unbounded();
    install_panic_hook(messages.clone());
    // Measured before another thread reads the terminal: on a serial line the answer comes in as keys do.
    let size = terminal::size();
    let measure = start_reader(out.clone());
    forward(worker_messages, out.clone());
    watch(Arc::clone(&backend), messages.clone());
    let engine = Engine::new(Arc::clone(&backend), messages);
    let result = Loop { engine, incoming, measure, leave, began: Instant::now() }.run(options, size);
    // What could not be let go stays mounted; the system that is left alone then will say so itself.
    drop(backend.close_places());
    result
}

/// Gives the terminal back when the loop ends, however it ends.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        drop(std::panic::take_hook());
        terminal::leave();
    }
}

struct Loop {
    engine: Engine,
    incoming: Receiver<Incoming>,
    measure: Sender<Sender<Size>>,
    leave: Arc<AtomicBool>,
    began: Instant,
}

type Screen = Terminal<terminal::Screen>;

impl Loop {
    fn run(&self, options: Options, size: Size) -> Result<Exit, Error> {
        let failed = |source| Error::Terminal { action: "drawing on", source };
        let mut screen = Terminal::new(terminal::Screen::new(size)).map_err(failed)?;
        screen.clear().map_err(failed)?;
        let (mut state, effects) = State::new(options);
        if let Some(exit) = self.perform(effects, &mut screen).map_err(failed)? {
            return Ok(exit);
        }
        let mut next_tick = Instant::now();
        loop {
            screen.draw(|frame| screens::draw(&state, frame)).map_err(failed)?;
            let first = match self.incoming.recv_deadline(next_tick) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => {
                    next_tick = Instant::now() + TICK;
                    Some(Incoming::Msg(self.tick()))
                }
                Err(RecvTimeoutError::Disconnected) => None,
            };
            for message in first.into_iter().chain(self.incoming.try_iter()) {
                let effects = match message {
                    Incoming::Msg(message) => state.update(message),
                    Incoming::Resized(size) => {
                        resize(&mut screen, size).map_err(failed)?;
                        continue;
                    }
                    Incoming::Gone(source) => {
                        self.engine.stop();
                        return Err(Error::Terminal { action: "reading", source });
                    }
                };
                if let Some(exit) = self.perform(effects, &mut screen).map_err(failed)? {
                    return Ok(exit);
                }
            }
        }
    }

    fn tick(&self) -> Msg {
        if self.leave.swap(false, Ordering::Relaxed) { Msg::Terminate } else { Msg::Tick(self.began.elapsed()) }
    }

    fn perform(&self, effects: Vec<Effect>, screen: &mut Screen) -> io::Result<Option<Exit>> {
        for effect in effects {
            match effect {
                Effect::Exit(exit) => {
                    self.engine.stop();
                    return Ok(Some(exit));
                }
                Effect::Beep => screen.backend_mut().beep()?,
                Effect::Repaint => {
                    let (answer, size) = bounded(1);
                    drop(self.measure.send(answer));
                    if let Ok(size) = size.recv_timeout(MEASURE) {
                        resize(screen, size)?;
                    }
                    screen.clear()?;
                }
                other => self.engine.perform(other),
            }
        }
        Ok(None)
    }
}

fn resize(screen: &mut Screen, size: Size) -> io::Result<()> {
    // Drawing resizes to what the backend says.
    screen.backend_mut().set_size(size);
    screen.autoresize()
}

/// Reads the terminal on a thread of its own; returns where to ask for its size.
fn start_reader(out: Sender<Incoming>) -> Sender<Sender<Size>> {
    let (ask, requests) = unbounded();
    thread::spawn(move || {
        terminal::read(&requests, |input| {
            let message = match input {
                terminal::Input::Key(key) => Incoming::Msg(Msg::Key(key)),
                terminal::Input::Resized(size) => Incoming::Resized(size),
                terminal::Input::Gone(error) => Incoming::Gone(error),
            };
            out.send(message).is_ok()
        });
    });
    ask
}

/// Passes what workers say into the one channel.
fn forward(from: Receiver<Msg>, to: Sender<Incoming>) {
    thread::spawn(move || from.iter().all(|message| to.send(Incoming::Msg(message)).is_ok()));
}

/// Tells when disks come and go.
fn watch(backend: Arc<dyn Backend>, out: Sender<Msg>) {
    thread::spawn(move || {
        let mut known = backend.inventory();
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = backend.inventory();
            if now != known {
                known = now;
                if out.send(Msg::DisksChanged).is_err() {
                    return;
                }
            }
        }
    });
}

/// Returns a flag that the signals which end a program raise; the loop then stops a running job and leaves in order.
fn catch_signals() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT] {
        // Where a signal cannot be caught it keeps its ordinary meaning.
        drop(signal_hook::flag::register(signal, Arc::clone(&flag)));
    }
    flag
}

/// A panic of the drawing thread gives the terminal back before it speaks; one of a worker goes to the log, because
/// the job it belonged to ends as FAILED and the screen stays.
fn install_panic_hook(log: Sender<Msg>) {
    let drawing = thread::current().id();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().id() == drawing {
            terminal::leave();
            usual(panic);
        } else {
            drop(log.send(Msg::Log(panic.to_string())));
        }
    }));
}

//! PID 1: mounts, drivers, consoles, supervision, and the orderly end.
//!
//! Rules here: nothing may end this process, for the kernel dies with it. So every step runs behind `catch_unwind`, a
//! step that fails is reported and left out, nothing prints with macros that panic, and waits have limits.

pub mod cmdline;
pub mod console;
pub mod glob;
pub mod hotplug;
pub mod lines;
pub mod log;
pub mod modprobe;
pub mod modules;
pub mod mounts;
pub mod port;
pub mod supervise;
pub mod unattended;

mod attend;
mod machine;

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, unbounded};

pub use self::machine::Ending;
use self::{
    console::{Console, Role},
    hotplug::Devices,
    lines::Lines,
    log::Level,
    machine::{EndSignals, Machine},
    modules::Loader,
    supervise::{Child, Next},
};
use crate::sys::{power, process, tty, uevent::Listener};

/// How long programs have to end before they are killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end waits for a console that does not take its lines.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Is PID 1, for as long as the machine runs.
pub fn main() -> ! {
    // Before any thread: one that was started without the block would die of such a signal, and the kernel with it.
    let signals = EndSignals::block();
    std::panic::set_hook(Box::new(|fault| log::line(Level::Error, fault)));
    let (endings, asked) = unbounded();
    step("mounting", mounts::mount_all);
    step("opening the console", open_console);
    step("setting the kernel up", set_kernel_up);
    log::line(Level::Info, concat!("version ", env!("CARGO_PKG_VERSION"), " is PID 1"));
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let devices = Devices::new(Loader::for_running_kernel(&line));
    let parsed = cmdline::parse(&line);
    let machine = Arc::new(Machine::new(devices, parsed, signals, endings));
    step("starting", || start(&machine, &line));
    loop {
        wait_for_end(&machine, &asked);
    }
}

/// Runs one step. Whatever goes wrong in it is reported, and the next one follows.
fn step(name: &str, work: impl FnOnce() -> io::Result<()>) {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error(name, &error),
        // The hook has told what and where.
        Err(_) => log::line(Level::Error, format!("{name} stopped half-way")),
    }
}

/// Runs `work` in a thread of its own; when it ends or panics it is run again after a pause.
fn forever(name: &'static str, work: impl Fn() + Send + 'static) {
    let body = move || loop {
        step(name, || {
            work();
            Ok(())
        });
        std::thread::sleep(Duration::from_secs(1));
    };
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(body) {
        log::error(name, &error);
    }
}

fn open_console() -> io::Result<()> {
    let console = tty::open(Path::new("/dev/console"))?;
    nix::unistd::dup2_stdin(&console)?;
    nix::unistd::dup2_stdout(&console)?;
    Ok(nix::unistd::dup2_stderr(&console)?)
}

fn set_kernel_up() -> io::Result<()> {
    nix::unistd::sethostname("rescue")?;
    power::catch_ctrl_alt_del()?;
    mounts::provide_modprobe()?;
    // Our own lines are many and wanted; the kernel would drop all but a few a second.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    // Only what is critical may write over a screen; the log has all of it.
    fs::write("/proc/sys/kernel/printk", "3 4 1 7\n")
}

fn start(machine: &Arc<Machine>, line: &str) -> io::Result<()> {
    let reaping = Arc::clone(machine);
    forever("reaper", move || {
        loop {
            reaping.reaper.collect_one();
        }
    });
    listen_for_signals(machine);
    step("loading drivers", || load_drivers(machine));
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let consoles = console::consoles(line, &active, &|name| Path::new("/dev").join(name).exists());
    start_consoles(machine, &consoles);
    Ok(())
}

fn listen_for_signals(machine: &Arc<Machine>) {
    let machine = Arc::clone(machine);
    forever("signals", move || match machine.signals.next() {
        Ok((signal, how)) => {
            log::line(Level::Info, format!("{signal} asks for {how:?}"));
            machine.end(how);
        }
        Err(error) => log::error("waiting for signals", &error),
    });
}

fn load_drivers(machine: &Arc<Machine>) -> io::Result<()> {
    // Before the walk, so that what appears meanwhile is announced.
    let listener = Listener::open()?;
    let listening = Arc::clone(machine);
    forever("hotplug", move || {
        if let Err(error) = listening.devices.listen(&listener) {
            log::error("listening for devices", &error);
        }
    });
    machine.devices.coldplug();
    if !machine.devices.settle(Duration::from_millis(400), Duration::from_secs(8)) {
        log::line(Level::Info, "devices are still coming");
    }
    Ok(())
}

fn start_consoles(machine: &Arc<Machine>, consoles: &[Console]) {
    let unattended = machine.parsed.job.is_some() || !machine.parsed.problems.is_empty();
    let mut first = true;
    for console in consoles {
        let next = match console.role {
            Role::Screen if unattended && first => Next::Start(Child::Unattended { failed: machine.parsed.failed }),
            Role::Screen if unattended => {
                let path = consoles.first().map(|c| c.path.display().to_string()).unwrap_or_default();
                Next::Ask { message: format!("An unattended job is shown on {path}."), limit: None }
            }
            Role::Screen => Next::Start(Child::Tui),
            Role::Shell => Next::Start(Child::Shell),
            Role::Log => {
                let path = console.path.clone();
                forever("log", move || drop(log::show_on(&path)));
                continue;
            }
        };
        first = false;
        let (machine, console) = (Arc::clone(machine), console.clone());
        let begun = AtomicBool::new(false);
        forever("console", move || {
            // Only the first time: a job must not run again because what watched it fell over.
            let next = if begun.swap(true, Ordering::SeqCst) {
                Next::Ask { message: "This console was interrupted.".to_owned(), limit: None }
            } else {
                next.clone()
            };
            attend::attend(&machine, &console, next);
        });
    }
}

fn wait_for_end(machine: &Machine, asked: &Receiver<Ending>) {
    let Ok(how) = asked.recv() else {
        std::thread::sleep(Duration::from_secs(60));
        return;
    };
    step("ending", || {
        say(match how {
            Ending::PowerOff => "Powering off ...",
            Ending::Reboot => "Starting again ...",
        });
        process::end_all(GRACE);
        Ok(())
    });
    step("unmounting", || {
        mounts::unmount_all();
        Ok(())
    });
    power::sync();
    step("writing the last lines", || {
        // What a program wrote at its end may still be on its way to a serial line.
        let _ = Lines::to_console()?.flush(LAST_WORDS);
        Ok(())
    });
    let error = match how {
        Ending::PowerOff => power::power_off(),
        Ending::Reboot => power::restart(),
    };
    log::error("the kernel did not end", &error);
    say("The machine did not end by itself. It is safe to switch it off.");
    // Not again at once: whoever asked may ask again.
    machine.go_on();
}

/// Writes a line to `/dev/console`, and waits for it no longer than [`LAST_WORDS`].
fn say(text: &str) {
    log::line(Level::Info, text);
    match Lines::to_console() {
        Ok(console) => {
            console.try_say(format!("\r\n{text}\r\n"));
            let _ = console.flush(LAST_WORDS);
        }
        Err(error) => log::error("the console", &error),
    }
}

//! Processes below PID 1: starting one with a terminal of its own, and collecting every one that ends.
//!
//! PID 1 inherits orphans, so it waits for *any* child. The standard library also waits for a child of its own when
//! starting it fails; [`Reaper`] therefore looks at an ended child without taking it, and takes it only under the
//! lock that [`Reaper::spawn`] holds while it starts one.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code.
    Code(i32),
    /// By a signal, by number.
    Signal(i32),
}

impl End {
    /// Returns the name of the signal that ended it, `SIGSEGV`.
    #[must_use]
    pub fn signal_name(self) -> Option<&'static str> {
        match self {
            Self::Signal(number) => Signal::try_from(number).ok().map(Signal::as_str),
            Self::Code(_) => None,
        }
    }
}

/// Makes `terminal` the standard input and output of `command`, and its controlling terminal in a session of its own,
/// so that Ctrl-C and hang-ups work. Standard error is the caller's to choose.
///
/// # Errors
/// When the terminal's descriptor cannot be copied.
pub fn give_terminal(command: &mut Command, terminal: &File) -> io::Result<()> {
    command.stdin(Stdio::from(terminal.try_clone()?)).stdout(Stdio::from(terminal.try_clone()?));
    let enter = || {
        nix::unistd::setsid()?;
        // SAFETY: TIOCSCTTY takes an integer and touches no memory of ours. 1 takes the terminal from a session that
        // still holds it: of a crashed program something may live on.
        let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 1) };
        Errno::result(result)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and nothing else: no memory is taken and no
    // lock, whatever the other threads of this process held when it was forked.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

#[derive(Debug, Default)]
struct Children {
    /// Started by [`Reaper::spawn`] and not yet asked for; `None` while they run.
    ends: HashMap<i32, Option<End>>,
}

/// Collects every child of this process that ends. There is one in PID 1, and nothing else there waits for children.
#[derive(Debug, Default)]
pub struct Reaper {
    children: Mutex<Children>,
    changed: Condvar,
}

impl Reaper {
    /// Returns a reaper that knows of no children.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command` with no signal blocked, and returns its process id and the reading end of whatever pipe its
    /// standard error is.
    ///
    /// # Errors
    /// What the kernel said, to fork or to exec.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(i32, Option<std::process::ChildStderr>)> {
        // PID 1 blocks the signals it waits for, and a child would inherit that: it could not even be asked to end.
        let unblock = || Ok(SigSet::empty().thread_set_mask()?);
        // SAFETY: between fork and exec the closure makes one system call and nothing else.
        unsafe { command.pre_exec(unblock) };
        let mut children = self.lock();
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        children.ends.insert(pid, None);
        self.changed.notify_all();
        Ok((pid, child.stderr.take()))
    }

    /// Waits until the process that [`Reaper::spawn`] started as `pid` has ended, and forgets it. `None` when there is
    /// no such process, or it still runs after `limit`.
    pub fn wait(&self, pid: i32, limit: Option<Duration>) -> Option<End> {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut children = self.lock();
        loop {
            if let Some(end) = *children.ends.get(&pid)? {
                children.ends.remove(&pid);
                return Some(end);
            }
            let pause = match until {
                Some(until) => until.checked_duration_since(Instant::now())?,
                None => Duration::from_secs(60),
            };
            children = self.changed.wait_timeout(children, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for one child to end and collects it; when there is none, waits a moment for one to be started.
    pub fn collect_one(&self) {
        match peek_ended() {
            Ok(pid) => self.take(pid),
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                let children = self.lock();
                drop(self.changed.wait_timeout(children, Duration::from_secs(1)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }

    fn take(&self, pid: i32) {
        let mut children = self.lock();
        let Some(end) = collect(pid) else { return };
        if let Some(slot) = children.ends.get_mut(&pid) {
            *slot = Some(end);
        }
        self.changed.notify_all();
    }
}

// nix's wait functions fail, after the fact, for a child that a real-time signal killed, and then hide which it was.

/// Waits until a child has ended and returns its process id; it stays uncollected.
fn peek_ended() -> io::Result<i32> {
    // SAFETY: siginfo_t is plain data, for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is ours and as large as the kernel expects; the other arguments are numbers.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
    Errno::result(result)?;
    // SAFETY: waitid succeeded, so it filled the fields that describe a child.
    Ok(unsafe { info.si_pid() })
}

/// Collects `pid`; `None` when somebody else has.
fn collect(pid: i32) -> Option<End> {
    let mut status = 0;
    // SAFETY: `status` is ours, and an int as the kernel expects.
    let got = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    match got == pid {
        true if libc::WIFSIGNALED(status) => Some(End::Signal(libc::WTERMSIG(status))),
        true => Some(End::Code(libc::WEXITSTATUS(status))),
        false => None,
    }
}

/// Asks every process but this one and the kernel's own to end, gives them `grace`, then kills the rest. Only for
/// PID 1; its reaper must go on running meanwhile.
pub fn end_all(grace: Duration) {
    // Programs end at SIGTERM, shells at SIGHUP, and a stopped one of either only once it goes on.
    let ask: &[Signal] = &[Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT];
    for (signals, limit) in [(ask, grace), (&[Signal::SIGKILL], Duration::from_secs(2))] {
        for signal in signals {
            let _ = kill(EVERYBODY, *signal);
        }
        let until = Instant::now() + limit;
        // ESRCH says that nobody is left.
        while kill(EVERYBODY, None) != Err(Errno::ESRCH) {
            if Instant::now() >= until {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Every process that may be sent a signal, but for the sender.
const EVERYBODY: Pid = Pid::from_raw(-1);

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::Arc};

    use super::*;

    // One test only: a reaper takes every child of the process, so two of them, or a test beside it that starts
    // programs, would steal from each other. It therefore runs in a process of its own.
    #[test]
    fn a_reaper_collects_its_children_and_survives_a_program_that_does_not_exist() {
        if std::env::var_os("RESCUE_TEST_REAPER").is_none() {
            let status = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "sys::process::tests::a_reaper_collects_its_children_and_survives_a_program_that_does_not_exist",
                ])
                .env("RESCUE_TEST_REAPER", "1")
                .status()
                .unwrap();
            assert!(status.success());
            return;
        }
        // As PID 1 does. A child that inherited it would sleep through what is sent at the end.
        SigSet::from(Signal::SIGTERM).thread_block().unwrap();
        let reaper = Arc::new(Reaper::new());
        let collector = Arc::clone(&reaper);
        std::thread::spawn(move || {
            loop {
                collector.collect_one();
            }
        });
        for round in 0..20 {
            assert!(reaper.spawn(&mut Command::new("/nowhere/at/all")).is_err());
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo oops >&2; exit {round}")]).stderr(Stdio::piped());
            let (pid, stderr) = reaper.spawn(&mut command).unwrap();
            let mut text = String::new();
            stderr.unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "oops\n");
            assert_eq!(reaper.wait(pid, Some(Duration::from_secs(20))), Some(End::Code(round)));
            assert_eq!(reaper.wait(pid, None), None, "asked for twice");
        }
        let (pid, _) = reaper.spawn(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap();
        let end = reaper.wait(pid, Some(Duration::from_secs(20))).unwrap();
        assert_eq!(end.signal_name(), Some("SIGKILL"));
        let (pid, _) = reaper.spawn(Command::new("sleep").arg("20")).unwrap();
        assert_eq!(reaper.wait(pid, Some(Duration::from_millis(50))), None, "still running");
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert_eq!(reaper.wait(pid, Some(Duration::from_secs(20))), Some(End::Signal(15)));
    }
}

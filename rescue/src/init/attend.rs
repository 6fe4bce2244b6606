//! One console: running what belongs on it, and asking the person when that has crashed.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, bounded};

use super::{
    cmdline::Then,
    console::Console,
    log::{self, Level},
    machine::{Ending, Machine},
    supervise::{Answer, Child, Next, Supervisor},
    unattended,
};
use crate::{
    escape::Escaped,
    sys::{
        process::{End, give_terminal},
        tty,
    },
};

/// Lines of a child's last words that are kept and shown.
const LAST_LINES: usize = 8;
/// Bytes of one such line; the rest of it is dropped.
const MAX_LINE: u64 = 400;

/// A crash screen: what is cleared before it. Colours off, cursor on, other screen left, mouse off, cleared.
const CLEAR: &str = "\x1b[?1000l\x1b[?1049l\x1b[0m\x1b[?25h\x1b[2J\x1b[H";

/// Runs what `next` says on `console`, and whatever follows, for as long as the machine runs.
pub(super) fn attend(machine: &Machine, console: &Console, mut next: Next) {
    let mut supervisor = Supervisor::default();
    let mut words = LastWords::default();
    let mut clear = false;
    while !machine.is_ending() {
        next = match next {
            Next::Start(child) => {
                clear = child == Child::Tui;
                words = LastWords::default();
                run(machine, console, child, &words, &mut supervisor)
            }
            Next::PowerOff => {
                machine.end(Ending::PowerOff);
                break;
            }
            Next::Reboot => {
                machine.end(Ending::Reboot);
                break;
            }
            Next::Ask { message, limit } => {
                let text = question(&message, &words.lines(), clear, limit);
                supervisor.answered(ask(machine, &console.path, &text, limit))
            }
            Next::Died { message, then } => {
                unattended::report_death(&machine.parsed, &message, &words.lines());
                log::line(Level::Error, &message);
                match then {
                    Then::Poweroff => Next::PowerOff,
                    Then::Reboot => Next::Reboot,
                    Then::Stay => Next::Ask { message: capitalised(&message), limit: None },
                }
            }
        };
    }
    // The end is under way. Were this to return, the console would be started again.
    while machine.is_ending() {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn run(machine: &Machine, console: &Console, child: Child, words: &LastWords, supervisor: &mut Supervisor) -> Next {
    let started = Instant::now();
    match run_once(machine, console, child, words) {
        Ok(end) => {
            log::line(Level::Info, format!("{child:?} on {} ended: {end:?}", console.path.display()));
            supervisor.ended(child, end, started.elapsed())
        }
        Err(error) => {
            log::error(&format!("starting {child:?} on {}", console.path.display()), &error);
            // A console that is not there cannot show the question either: no spinning.
            std::thread::sleep(Duration::from_secs(1));
            supervisor.not_started(child, &error.to_string())
        }
    }
}

fn run_once(machine: &Machine, console: &Console, child: Child, words: &LastWords) -> io::Result<End> {
    let terminal = tty::open(&console.path)?;
    let _ = tty::make_sane(&terminal);
    tty::discard_input(&terminal);
    let mut command = command(child, console);
    give_terminal(&mut command, &terminal)?;
    command.stderr(if child == Child::Shell { Stdio::from(terminal.try_clone()?) } else { Stdio::piped() });
    let (pid, stderr) = machine.reaper.spawn(&mut command)?;
    // Its own copies are in `command`; a terminal nobody else holds is closed when the child ends.
    drop((terminal, command));
    let heard = stderr.map(|stderr| words.listen(stderr));
    let end = loop {
        if let Some(end) = machine.reaper.wait(pid, None) {
            break end;
        }
    };
    if let Some(heard) = heard {
        // What the child started may hold the pipe open; its last words are in it all the same.
        let _ = heard.recv_timeout(Duration::from_millis(500));
    }
    Ok(end)
}

fn command(child: Child, console: &Console) -> Command {
    let mut command = match child {
        Child::Tui => Command::new("/proc/self/exe"),
        Child::Unattended { .. } => Command::new("/proc/self/exe"),
        Child::Shell => Command::new("/bin/sh"),
    };
    match child {
        Child::Tui => command.arg0("rescue").arg("tui"),
        Child::Unattended { .. } => command.arg0("rescue").arg("unattended"),
        Child::Shell => command.arg0("-sh"),
    };
    command.env_clear().current_dir("/").env("TERM", console.term).env("HOME", "/root");
    command.env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").env("LANG", "C.UTF-8").env("PS1", "rescue:\\w# ");
    command
}

/// The last lines a child wrote to its standard error.
#[derive(Clone, Default)]
struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Collects what comes through `pipe`, into the log as well. What it returns yields when the pipe has ended.
    fn listen(&self, pipe: ChildStderr) -> Receiver<()> {
        let (done, wait) = bounded(1);
        let words = self.clone();
        let collect = move || {
            each_line(pipe, |line| {
                log::line(Level::Warning, line);
                words.push(line);
            });
            let _ = done.send(());
        };
        // Without the thread the channel ends at once, and so does the wait.
        if let Err(error) = std::thread::Builder::new().name("last words".to_owned()).spawn(collect) {
            log::error("listening to a child", &error);
        }
        wait
    }
}

/// Calls `take` with every line of `input` that holds something, each cut to [`MAX_LINE`] bytes.
fn each_line(input: impl Read, mut take: impl FnMut(&str)) {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() {
            take(text);
        }
    }
}

fn capitalised(clause: &str) -> String {
    let mut chars = clause.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).chain(['.']).collect()).unwrap_or_default()
}

/// What is written on a console when its child has crashed.
fn question(message: &str, words: &[String], clear: bool, limit: Option<Duration>) -> String {
    let mut text = String::from(if clear { CLEAR } else { "\n" });
    text.push_str(&format!("{}\n\n", Escaped(message)));
    for line in words {
        text.push_str(&format!("    {}\n", Escaped(line)));
    }
    text.push_str("\n[r]estart the screens   [s]hell   [p]ower off   re[b]oot\n");
    if let Some(limit) = limit {
        text.push_str(&format!("Without an answer they start again in {} seconds.\n", limit.as_secs()));
    }
    text
}

/// Shows `text` and waits for an answer; `None` when there is none within `limit`, or no terminal to ask on.
fn ask(machine: &Machine, terminal: &Path, text: &str, limit: Option<Duration>) -> Option<Answer> {
    let pause = limit.unwrap_or(Duration::from_secs(60));
    match ask_on(machine, terminal, text, limit) {
        Ok(answer) => answer,
        Err(error) => {
            log::error(&format!("asking on {}", terminal.display()), &error);
            std::thread::sleep(pause);
            None
        }
    }
}

fn ask_on(machine: &Machine, terminal: &Path, text: &str, limit: Option<Duration>) -> io::Result<Option<Answer>> {
    let mut terminal: File = tty::open(terminal)?;
    let _ = tty::make_sane(&terminal);
    tty::discard_input(&terminal);
    terminal.write_all(text.as_bytes())?;
    let start = Instant::now();
    while !machine.is_ending() && limit.is_none_or(|limit| start.elapsed() < limit) {
        let answer = tty::read_key(&mut terminal, Duration::from_millis(500))?.and_then(Answer::of_key);
        if answer.is_some() {
            return Ok(answer);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_tells_what_happened_and_what_can_be_done() {
        let words = ["thread 'main' panicked at x.rs:1".to_owned(), "evil \x1b[2J".to_owned()];
        let text = question(
            "The screen stopped: it was killed by SIGKILL (signal 9).",
            &words,
            true,
            Some(Duration::from_secs(60)),
        );
        assert!(text.starts_with(CLEAR));
        let rest = &text[CLEAR.len()..];
        assert_eq!(
            rest,
            "The screen stopped: it was killed by SIGKILL (signal 9).\n\n    thread 'main' panicked at x.rs:1\n    \
             evil \\u{1b}[2J\n\n[r]estart the screens   [s]hell   [p]ower off   re[b]oot\n\
             Without an answer they start again in 60 seconds.\n"
        );
    }

    #[test]
    fn last_words_are_the_last_and_bounded() {
        let words = LastWords::default();
        let text = (0..50).map(|n| format!("line {n}\n\n")).collect::<String>() + &"x".repeat(1000);
        each_line(text.as_bytes(), |line| words.push(line));
        let lines = words.lines();
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[4], "line 49");
        assert_eq!(lines[5].len(), 400);
        assert_eq!(lines[7].len(), 200);
    }

    #[test]
    fn a_clause_becomes_a_sentence() {
        assert_eq!(capitalised("the unattended job stopped"), "The unattended job stopped.");
        assert_eq!(capitalised(""), "");
    }
}

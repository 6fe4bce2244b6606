//! The command line: arguments become jobs, reports become text, JSON and exit codes.

mod args;
mod help;
mod map;
mod print;
mod progress;

use std::{
    ffi::OsString,
    io::{BufRead, IsTerminal, Write, stderr, stdin, stdout},
    process::ExitCode,
};

use self::{
    args::{Command, Part},
    progress::Shown,
};
use crate::{
    block::DiskRef,
    exit, fs,
    job::{Cancel, Job, Plan, Report, monitor::Silent, plan, survey, view::PlanView},
    tui,
};

/// Runs the program as a command.
///
/// * `args`: the arguments, without the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match args::parse(args) {
        Ok(command) => command,
        Err(error) => {
            say(&format!("rescue: {error}\n"));
            return exit::USAGE.into();
        }
    };
    let (json, tell) = (command.is_json(), teller(command.takes_stdout()));
    match run(command) {
        Ok(code) => code.into(),
        Err(error) => {
            if json {
                let refused = matches!(error, plan::Error::Refused(_));
                tell(&as_json(&Failed { error: error.to_string(), refused }));
            }
            say(&format!("rescue: {error}\n"));
            exit_code(&error).into()
        }
    }
}

/// What `--json` prints where there is no result.
#[derive(serde::Serialize)]
struct Failed {
    error: String,
    refused: bool,
}

fn exit_code(error: &plan::Error) -> u8 {
    match error {
        plan::Error::Refused(_) => exit::REFUSED,
        plan::Error::Failed(_) => exit::FAILED,
    }
}

fn run(command: Command) -> Result<u8, plan::Error> {
    let tell = teller(command.takes_stdout());
    match command {
        Command::Tui(options) => return screens(&options),
        Command::Help(topic) => print(help::text(topic.as_deref())),
        Command::Version => print(concat!("rescue ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Disks { json } => {
            let found = survey::disks()?;
            if json { print_json(&found) } else { print(&print::disks(&found)) }
        }
        Command::Show { disk, sector_size, keep_swap_files, part, json } => {
            let found = survey::disk(&disk, sector_size, &fs::Options { keep_swap_files })?;
            match (part, json) {
                (Part::Facts, false) => print(&print::disk(&found.view)),
                (Part::Facts, true) => print_json(&found.view),
                (Part::Map, _) => print(&map::picture(&found, map::Marks::of_terminal())),
                (Part::Extents, false) => print(&map::lines(&found)),
                (Part::Extents, true) => print_json(&map::extents(&found).collect::<Vec<_>>()),
            }
        }
        Command::Images { store, json } => {
            let found = survey::images(&store)?;
            if json {
                print_json(&found.images);
                found.problems.iter().for_each(|problem| say(&format!("problem: {problem}\n")));
            } else {
                print(&print::images(&found));
            }
            return Ok(u8::from(!found.problems.is_empty()));
        }
        Command::Run { job, dry_run, yes, json } => return run_job(&job, dry_run, yes, json, tell),
    }
    Ok(0)
}

/// Shows the screens; without a terminal, says what else there is.
fn screens(options: &tui::Options) -> Result<u8, plan::Error> {
    match tui::main(options) {
        Ok(exit) => Ok(exit.code()),
        Err(tui::Error::NoTerminal(_)) => {
            say(help::text(None));
            Ok(exit::USAGE)
        }
        Err(error) => Err(plan::Error::failed("the screens", &error)),
    }
}

/// Plans and runs a job.
///
/// * `tell`: says a plan that was asked for, or the outcome.
fn run_job(job: &Job, dry_run: bool, yes: bool, json: bool, tell: fn(&str)) -> Result<u8, plan::Error> {
    let cancel = Cancel::new();
    // Nothing is held while a person is asked, so a signal then ends the program as it always does.
    let asks = matches!(job, Job::Restore(_)) && !yes;
    if !asks {
        cancel_on_signals(&cancel)?;
    }
    let report = match Plan::new(job, &Silent, &cancel) {
        Ok(plan) if dry_run => {
            tell(&if json { as_json(plan.view()) } else { print::plan(plan.view()) });
            return Ok(0);
        }
        Ok(plan) => {
            if !json || asks {
                say(&print::plan(plan.view()));
            }
            match confirm(plan.view(), job, yes) {
                Ok(()) => {
                    if asks {
                        cancel_on_signals(&cancel)?;
                    }
                    let shown = Shown::new(json);
                    let report = plan.run(&shown, &cancel);
                    shown.end();
                    report
                }
                Err(error) => Report::not_run(job, &error),
            }
        }
        Err(error) => Report::not_run(job, &error),
    };
    // Where standard output is a file, it gets the outcome; the progress went to standard error.
    tell(&if json { as_json(&report) } else { print::report(&report) });
    Ok(report.exit_code())
}

/// Lets the first signal cancel the job and the second end the program.
fn cancel_on_signals(cancel: &Cancel) -> Result<(), plan::Error> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let failed = |error: std::io::Error| plan::Error::failed("handling signals", &error);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, cancel.flag()).map_err(failed)?;
        signal_hook::flag::register(signal, cancel.flag()).map_err(failed)?;
    }
    Ok(())
}

/// Has a write confirmed: by `--yes` where the disk cannot be mistaken, else by typing.
fn confirm(plan: &PlanView, job: &Job, yes: bool) -> Result<(), plan::Error> {
    let Some(confirm) = &plan.confirm else { return Ok(()) };
    if yes {
        return if names_surely(job) {
            Ok(())
        } else {
            Err(plan::Error::Refused(
                "--yes is for files, NBD exports, and disks named by serial:, wwn: or guid:; the kernel's names change \
                 from start to start"
                    .to_owned(),
            ))
        };
    }
    if !stdin().is_terminal() {
        return Err(plan::Error::Refused("nobody is there to confirm; --yes confirms beforehand".to_owned()));
    }
    say(&format!("Everything on it will be lost. Type {}: ", confirm.prompt));
    let mut typed = String::new();
    let read = stdin().lock().read_line(&mut typed);
    match read {
        Ok(_) if confirm.accepts(&typed) => Ok(()),
        Ok(_) => Err(plan::Error::Refused("that is not it; nothing was written".to_owned())),
        Err(error) => Err(plan::Error::failed("reading the confirmation", &error)),
    }
}

/// Tells whether the target's name means the same disk whatever order the kernel finds disks in.
fn names_surely(job: &Job) -> bool {
    let Job::Restore(job) = job else { return true };
    match &job.disk {
        DiskRef::Path(path) => std::fs::metadata(path).is_ok_and(|meta| meta.is_file()),
        DiskRef::Nbd(_) => true,
        identity => identity.is_identity(),
    }
}

/// Writes to standard output. A reader that has gone away has seen enough.
fn print(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}

fn print_json(value: &impl serde::Serialize) {
    print(&as_json(value));
}

/// Writes `value` as one line.
fn as_json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    text + "\n"
}

/// Returns what says a result: on standard output, unless that is for the bytes of a disk.
fn teller(stdout_is_taken: bool) -> fn(&str) {
    if stdout_is_taken { say } else { print }
}

fn say(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

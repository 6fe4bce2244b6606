//! Runs the program as a child of a small process of its own, which learns how much memory it had.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// A run that has not ended by then hangs.
const HANGS: Duration = Duration::from_secs(120);

/// How a run of the program went.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub time: Duration,
    /// The most memory it had, in bytes.
    pub peak: u64,
}

impl Run {
    /// Says how it crashed, if it did.
    pub fn crash(&self) -> Option<String> {
        let defect = "a defect in this program";
        let said = [&self.stderr, &self.stdout].into_iter().flat_map(|text| text.lines());
        let line = said.into_iter().find(|line| line.contains(defect) || line.contains("panicked at"));
        match (line, self.code) {
            (Some(line), _) => Some(line.chars().take(400).collect()),
            (None, None) => Some("it was killed by a signal, or did not end".to_owned()),
            (None, Some(101)) => Some("it panicked".to_owned()),
            _ => None,
        }
    }

    /// Returns what it printed, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_default()
    }
}

/// Runs the program with `args`; `scratch` is a folder for what is learnt of it.
pub fn rescue(scratch: &Path, args: &[&str]) -> Run {
    let report = scratch.join("measured");
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("--measure")
        .arg(&report)
        .arg(env!("CARGO_BIN_EXE_rescue"))
        .args(args)
        .output()
        .unwrap();
    let measured: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    Run {
        code: measured["code"].as_i64().and_then(|code| i32::try_from(code).ok()),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        time: Duration::from_millis(measured["millis"].as_u64().unwrap()),
        peak: measured["peak"].as_u64().unwrap(),
    }
}

/// The small process: `REPORT PROGRAM ARGUMENT…`.
pub fn child(args: &[String]) -> ExitCode {
    let [report, program, args @ ..] = args else { return ExitCode::FAILURE };
    let began = Instant::now();
    let mut child = Command::new(program).args(args).spawn().unwrap();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() > HANGS => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let code = if status.signal().is_some() { None } else { status.code() };
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() << 10;
    let measured = json!({ "code": code, "millis": u64::try_from(began.elapsed().as_millis()).unwrap(), "peak": peak });
    fs::write(report, measured.to_string()).unwrap();
    ExitCode::SUCCESS
}

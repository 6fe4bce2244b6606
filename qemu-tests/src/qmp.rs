//! The control socket of QEMU: one JSON object a line, answers mixed with events.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Error, Result};

/// How long QEMU may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// An open control socket.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    events: Vec<Value>,
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::Qmp(what.to_string())
}

impl Qmp {
    /// Greets QEMU at the other end of `stream`.
    ///
    /// # Errors
    /// [`Error::Qmp`] when it does not greet back.
    pub fn open(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER)).map_err(wrong)?;
        let lines = BufReader::new(stream.try_clone().map_err(wrong)?);
        let mut qmp = Self { stream, lines, events: Vec::new() };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(wrong(format!("no greeting but {greeting}")));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let len = self.lines.read_line(&mut line).map_err(wrong)?;
        if len == 0 {
            return Err(wrong("QEMU closed the socket"));
        }
        serde_json::from_str(&line).map_err(|error| wrong(format!("{error} in {line:?}")))
    }

    /// Executes a command and returns what it returns; events that come meanwhile are kept.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU refuses or says nothing for 20 seconds.
    #[expect(clippy::needless_pass_by_value, reason = "arguments are written in place with json!")]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{line}").map_err(wrong)?;
        loop {
            let mut answer = self.line()?;
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(wrong(format!("{command}: {error}")));
            }
            self.events.push(answer);
        }
    }

    /// Waits for an event of this name, one that came earlier included.
    ///
    /// # Errors
    /// [`Error::Qmp`] when it does not come within `limit`.
    pub fn event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let end = Instant::now() + limit;
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return Ok(self.events.remove(at));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(wrong(format!("no {name} within {limit:?}")));
            }
            self.stream.set_read_timeout(Some(left)).map_err(wrong)?;
            let line = self.line();
            self.stream.set_read_timeout(Some(ANSWER)).map_err(wrong)?;
            self.events.push(line?);
        }
    }
}

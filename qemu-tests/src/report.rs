//! What an unattended job said on its report port: JSON, one object a line, the last one `result`.

use std::{fs, path::Path};

use rescue::job::{Outcome, Report};
use serde_json::Value;

use crate::{Error, Result, ensure, tools::tail};

/// The lines of a report port.
#[derive(Clone, Debug, Default)]
pub struct Lines(Vec<Value>);

impl Lines {
    /// Reads what has come so far; a last line that is still on its way is left out.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        Self(text.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect())
    }

    /// Lists the lines with this event.
    pub fn events<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |line| line["event"] == name)
    }

    /// Tells whether the job has said how it ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.events("result").next().is_some()
    }

    /// Returns how the job ended.
    ///
    /// # Errors
    /// [`Error::Wrong`] when it did not say, or said it twice.
    pub fn result(&self) -> Result<Report> {
        let results: Vec<&Value> = self.events("result").collect();
        let &[result] = results.as_slice() else {
            return Err(Error::Wrong(format!("the report has {} results\n{}", results.len(), self.shown())));
        };
        serde_json::from_value(result.clone())
            .map_err(|error| Error::Wrong(format!("the result cannot be read: {error}\n{result}")))
    }

    /// Returns the report of a job that must have ended as COMPLETE.
    ///
    /// # Errors
    /// [`Error::Wrong`] when it ended in another way.
    pub fn complete(&self) -> Result<Report> {
        let report = self.result()?;
        ensure!(report.outcome == Outcome::Complete, "the job ended as {}\n{}", report.outcome, self.shown());
        Ok(report)
    }

    /// Returns the reason of a job that must have been refused: the line that says so, and a result that says the same.
    ///
    /// # Errors
    /// [`Error::Wrong`] when it was not.
    pub fn refusal(&self) -> Result<String> {
        let report = self.result()?;
        ensure!(report.refused && report.outcome == Outcome::Failed, "the job ran\n{}", self.shown());
        let refused = self.events("refused").next();
        let reason = refused.and_then(|line| line["reason"].as_str()).map(str::to_owned);
        ensure!(reason == report.error, "refusal and result give two reasons\n{}", self.shown());
        reason.ok_or_else(|| Error::Wrong(format!("the refusal has no reason\n{}", self.shown())))
    }

    /// Returns the last lines as text.
    #[must_use]
    pub fn shown(&self) -> String {
        let text: Vec<String> = self.0.iter().map(Value::to_string).collect();
        tail(&text.join("\n"), 12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_and_noise_of_the_port_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let said = "\0{\"event\":\"phase\"\n{\"event\":\"refused\",\"reason\":\"two disks\"}\r\n";
        let result = serde_json::json!({
            "event": "result", "job": "restore", "outcome": "FAILED", "refused": true, "error": "two disks", "disk": "",
            "image": null, "disk_bytes": 0, "allocated_bytes": 0, "stored_bytes": 0, "deduplicated_bytes": 0,
            "stages": [], "problems": [],
        });
        fs::write(&path, format!("{said}{result}\n{{\"event\":\"res")).unwrap();
        let lines = Lines::read(&path);
        assert!(lines.ended());
        assert_eq!(lines.refusal().unwrap(), "two disks");
        assert!(lines.complete().is_err());
        fs::write(&path, said).unwrap();
        let lines = Lines::read(&path);
        assert!(!lines.ended());
        assert!(lines.result().is_err());
    }
}

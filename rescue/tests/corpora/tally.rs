//! What came of all the images, by archive.

use std::{process::ExitCode, time::Duration};

use super::trip::Trip;

#[derive(Default)]
pub struct Tally {
    rows: Vec<Row>,
    passed: usize,
    failed: usize,
}

#[derive(Default)]
struct Row {
    archive: String,
    images: usize,
    /// Images with each kind of failure.
    counts: [usize; FAILURES.len()],
    judged: usize,
    clean: usize,
    files: usize,
    len: u64,
    kept: u64,
    time: Duration,
    peak: u64,
}

const FAILURES: [&str; 8] = ["refused", "crashed", "bytes", "verdict", "names", "files", "whole", "limits"];

impl Tally {
    fn row(&mut self, archive: &str) -> &mut Row {
        if self.rows.last().is_none_or(|row| row.archive != archive) {
            self.rows.push(Row { archive: archive.to_owned(), ..Row::default() });
        }
        self.rows.last_mut().unwrap()
    }

    /// Counts an image.
    pub fn add(&mut self, archive: &str, name: &str, trip: Trip) {
        self.row(archive).add(&Row::of(&trip));
        let mut failed = false;
        for (kind, what) in trip.failures() {
            println!("{archive}/{name}: {kind}: {what}");
            failed = true;
        }
        self.count(failed, &format!("{archive}/{name}"));
    }

    /// Counts what is wrong with an archive, or with the test itself.
    pub fn broken(&mut self, archive: &str, what: String) {
        self.row(archive);
        println!("{archive}: {what}");
        self.count(true, archive);
    }

    fn count(&mut self, failed: bool, name: &str) {
        if failed {
            self.failed += 1;
            println!("test {name} ... FAILED");
        } else {
            self.passed += 1;
        }
    }

    /// Prints the table.
    pub fn print(&self) {
        let failures = FAILURES.map(|name| format!("{name:>7}")).join(" ");
        let figures = "judged clean  files       MiB      kept slowest peak MiB";
        println!("\n{:<14} images {failures} | {figures}", "archive");
        let mut all = Row { archive: "all".to_owned(), ..Row::default() };
        for row in &self.rows {
            row.print();
            all.add(row);
        }
        all.print();
        println!(
            "whole: kept whole though of a kind that is read, and clean; judged: volumes with a verdict; clean: of those,\n\
             the ones of a kind that is read and without fault; files: compared through a second reader\n"
        );
    }

    /// Prints the line that test harnesses end with.
    pub fn result(&self, complete: bool) -> ExitCode {
        let word = if self.failed == 0 { "ok" } else { "FAILED" };
        let (passed, failed) = (self.passed, self.failed);
        println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
        // All of them ran, or what was asked for.
        ExitCode::from(u8::from(failed > 0 || (complete && passed < 421)))
    }
}

impl Row {
    fn of(trip: &Trip) -> Self {
        Self {
            archive: String::new(),
            images: 1,
            counts: FAILURES.map(|name| usize::from(trip.failures().any(|(kind, _)| kind == name))),
            judged: trip.judged,
            clean: trip.clean,
            files: trip.compared,
            len: trip.len,
            kept: trip.kept,
            time: trip.time,
            peak: trip.peak,
        }
    }

    fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.judged += other.judged;
        self.clean += other.clean;
        self.files += other.files;
        self.len += other.len;
        self.kept += other.kept;
        self.time = self.time.max(other.time);
        self.peak = self.peak.max(other.peak);
    }

    fn print(&self) {
        let counts = self.counts.map(|count| format!("{count:>7}")).join(" ");
        println!(
            "{:<14} {:>6} {counts} | {:>6} {:>5} {:>6} {:>9} {:>9} {:>5.1} s {:>8}",
            self.archive,
            self.images,
            self.judged,
            self.clean,
            self.files,
            self.len >> 20,
            self.kept >> 20,
            self.time.as_secs_f64(),
            self.peak >> 20
        );
    }
}

//! From arguments to a command.

use std::{ffi::OsString, path::PathBuf};

use lexopt::prelude::*;

use crate::{
    block::DiskRef,
    job::{CaptureJob, ExportJob, Free, ImageRef, Job, Output, RestoreJob, VerifyJob, default_level},
    table::RegionKind,
    tui,
    units::SectorSize,
};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// The screens.
    Tui(tui::Options),
    /// Help on everything, or on one command.
    Help(Option<String>),
    /// Name and version.
    Version,
    /// List disks.
    Disks {
        /// As JSON.
        json: bool,
    },
    /// Look at one disk.
    Show {
        /// Which.
        disk: DiskRef,
        /// Bytes in a sector, where the disk is a file.
        sector_size: Option<SectorSize>,
        /// Count the contents of swap, page and hibernation files as kept.
        keep_swap_files: bool,
        /// What of it.
        part: Part,
        /// As JSON.
        json: bool,
    },
    /// List images.
    Images {
        /// The store's folder.
        store: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// Plan and run a job.
    Run {
        /// What to do.
        job: Job,
        /// Show the plan and stop.
        dry_run: bool,
        /// Take the confirmation as given.
        yes: bool,
        /// Result as one JSON object, progress as JSON lines on standard error.
        json: bool,
    },
}

impl Command {
    /// Tells whether its result is to be JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        match self {
            Self::Disks { json } | Self::Show { json, .. } | Self::Images { json, .. } | Self::Run { json, .. } => {
                *json
            }
            Self::Tui(_) | Self::Help(_) | Self::Version => false,
        }
    }

    /// Tells whether standard output is for the bytes of a disk, so that nothing else may be said there.
    #[must_use]
    pub const fn takes_stdout(&self) -> bool {
        matches!(self, Self::Run { job: Job::Export(ExportJob { output: Output::Stdout, .. }), .. })
    }
}

/// What `show` shows of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Its table, and what its regions hold.
    #[default]
    Facts,
    /// A picture of what is kept of each region.
    Map,
    /// What is kept, extent by extent.
    Extents,
}

/// A command line that asks for nothing sensible.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option or value is wrong.
    #[error("{0}")]
    Option(#[from] lexopt::Error),
    /// There is no such command.
    #[error("there is no command {0:?}; `rescue help` lists them")]
    Unknown(String),
    /// Arguments are missing.
    #[error("{command} needs {missing}; `rescue help {command}` says more")]
    Missing {
        /// The command.
        command: &'static str,
        /// What it needs.
        missing: &'static str,
    },
    /// Two options ask for different things.
    #[error("{0} and {1} do not go together")]
    Both(&'static str, &'static str),
}

/// Everything that options can say, before it is known which command they belong to.
#[derive(Default)]
struct Options {
    words: Vec<OsString>,
    json: bool,
    dry_run: bool,
    yes: bool,
    accept_partial: bool,
    free: Option<Free>,
    level: Option<i32>,
    note: Option<String>,
    sector_size: Option<SectorSize>,
    store: Option<PathBuf>,
    monochrome: bool,
    keep_swap_files: bool,
    map: bool,
    extents: bool,
    output: Option<PathBuf>,
    region: Option<RegionKind>,
    overwrite: bool,
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// [`Error`] for an unknown command or option, a missing argument, or a value that is none.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut options = Options::default();
    let mut command: Option<String> = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Help(command)),
            Short('V') | Long("version") => return Ok(Command::Version),
            Value(word) if command.is_none() => command = Some(word.string()?),
            Value(word) => options.words.push(word),
            Short(letter) => {
                let name = format!("-{letter}");
                option(command.as_deref().unwrap_or_default(), name, &mut parser, &mut options)?;
            }
            Long(word) => {
                let name = format!("--{word}");
                option(command.as_deref().unwrap_or_default(), name, &mut parser, &mut options)?;
            }
        }
    }
    match command {
        None => Ok(Command::Tui(tui::Options::default())),
        Some(name) => build(&name, options),
    }
}

/// Takes one option of `command`.
fn option(
    command: &str,
    name: String,
    parser: &mut lexopt::Parser,
    options: &mut Options,
) -> Result<(), lexopt::Error> {
    let runs = matches!(command, "capture" | "restore" | "verify" | "export");
    let looks = matches!(command, "disks" | "show" | "images");
    let opens = matches!(command, "show" | "capture" | "restore");
    match name.as_str() {
        "--json" if runs || looks => options.json = true,
        "-n" | "--dry-run" if runs => options.dry_run = true,
        "-y" | "--yes" if command == "restore" => options.yes = true,
        "--accept-partial" if matches!(command, "restore" | "export") => options.accept_partial = true,
        "--free" if command == "restore" => options.free = Some(parser.value()?.parse()?),
        "-l" | "--level" if command == "capture" => options.level = Some(parser.value()?.parse_with(level)?),
        "--map" if command == "show" => options.map = true,
        "--extents" if command == "show" => options.extents = true,
        "--keep-swap-files" if matches!(command, "capture" | "show") => options.keep_swap_files = true,
        "--note" if command == "capture" => options.note = Some(parser.value()?.string()?),
        "--sector-size" if opens => options.sector_size = Some(parser.value()?.parse_with(sector_size)?),
        "-o" | "--output" if command == "export" => options.output = Some(parser.value()?.into()),
        "--region" if command == "export" => options.region = Some(parser.value()?.parse_with(region)?),
        "--overwrite" if command == "export" => options.overwrite = true,
        "--store" if command == "tui" => options.store = Some(parser.value()?.into()),
        "--monochrome" if command == "tui" => options.monochrome = true,
        _ => return Err(lexopt::Error::UnexpectedOption(name)),
    }
    Ok(())
}

fn level(text: &str) -> Result<i32, String> {
    let level = text.parse().ok().filter(|level| (1..=19).contains(level));
    level.ok_or_else(|| format!("{text:?} is not a level from 1 to 19"))
}

fn sector_size(text: &str) -> Result<SectorSize, String> {
    let bytes: u64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    SectorSize::new(bytes).map_err(|error| error.to_string())
}

/// Reads what the first field of `show --extents` prints.
fn region(text: &str) -> Result<RegionKind, String> {
    match text {
        "head" => Ok(RegionKind::Head),
        "gap" => Ok(RegionKind::Gap),
        "tail" => Ok(RegionKind::Tail),
        "whole" => Ok(RegionKind::Whole),
        number => match number.parse() {
            Ok(number) => Ok(RegionKind::Partition(number)),
            Err(_) => Err(format!("{text:?} is no region: head, gap, tail, whole, or the number of a partition")),
        },
    }
}

/// Tells what of a disk is to be shown.
fn part(options: &Options) -> Result<Part, Error> {
    match (options.map, options.extents) {
        (true, true) => Err(Error::Both("--map", "--extents")),
        // A picture is for people; its data is what --extents prints.
        (true, false) if options.json => Err(Error::Both("--map", "--json")),
        (true, false) => Ok(Part::Map),
        (false, true) => Ok(Part::Extents),
        (false, false) => Ok(Part::Facts),
    }
}

fn build(command: &str, options: Options) -> Result<Command, Error> {
    let part = part(&options)?;
    let Options {
        words, json, dry_run, yes, accept_partial, free, level, note, sector_size, store, monochrome, ..
    } = options;
    let Options { keep_swap_files, output, region, overwrite, .. } = options;
    let mut words = words.into_iter();
    let mut next =
        |command: &'static str, missing: &'static str| words.next().ok_or(Error::Missing { command, missing });
    let disk = |word: OsString| -> Result<DiskRef, Error> { Ok(DiskRef::from(word.string()?)) };
    let parsed = match command {
        "help" => Command::Help(next("help", "").ok().map(|word| word.string()).transpose()?),
        "tui" => Command::Tui(tui::Options { store, monochrome }),
        "version" => Command::Version,
        "disks" => Command::Disks { json },
        "show" => Command::Show { disk: disk(next("show", "a disk")?)?, sector_size, keep_swap_files, part, json },
        "images" => Command::Images { store: next("images", "a store")?.into(), json },
        "capture" => {
            let job = CaptureJob {
                disk: disk(next("capture", "a disk and a store")?)?,
                store: next("capture", "a disk and a store")?.into(),
                level: level.unwrap_or(default_level()),
                note,
                sector_size,
                keep_swap_files,
            };
            Command::Run { job: Job::Capture(job), dry_run, yes, json }
        }
        "restore" => {
            let job = RestoreJob {
                store: next("restore", "a store, an image and a disk")?.into(),
                image: ImageRef::from(next("restore", "a store, an image and a disk")?.string()?),
                disk: disk(next("restore", "a store, an image and a disk")?)?,
                sector_size,
                accept_partial,
                free,
            };
            Command::Run { job: Job::Restore(job), dry_run, yes, json }
        }
        "verify" => {
            let store = next("verify", "a store")?.into();
            let image = next("verify", "").ok().map(|word| word.string()).transpose()?.map(ImageRef::from);
            Command::Run { job: Job::Verify(VerifyJob { store, image }), dry_run, yes, json }
        }
        "export" => {
            let missing = "a store, an image and -o FILE";
            let job = ExportJob {
                store: next("export", missing)?.into(),
                image: ImageRef::from(next("export", missing)?.string()?),
                output: Output::from(output.ok_or(Error::Missing { command: "export", missing })?),
                region,
                overwrite,
                accept_partial,
            };
            Command::Run { job: Job::Export(job), dry_run, yes, json }
        }
        unknown => return Err(Error::Unknown(unknown.to_owned())),
    };
    match words.next() {
        Some(word) => Err(lexopt::Error::UnexpectedArgument(word).into()),
        None => Ok(parsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_become_jobs() {
        assert_eq!(parsed(""), Ok(Command::Tui(tui::Options::default())));
        assert_eq!(parsed("disks --json"), Ok(Command::Disks { json: true }));
        let show = |keep_swap_files, part, json| Command::Show {
            disk: DiskRef::Path("d.raw".to_owned()),
            sector_size: None,
            keep_swap_files,
            part,
            json,
        };
        assert_eq!(parsed("show d.raw"), Ok(show(false, Part::Facts, false)));
        assert_eq!(parsed("show d.raw --map --keep-swap-files"), Ok(show(true, Part::Map, false)));
        assert_eq!(parsed("show --extents d.raw --json"), Ok(show(false, Part::Extents, true)));
        assert_eq!(parsed("help capture"), Ok(Command::Help(Some("capture".to_owned()))));
        assert_eq!(parsed("restore --help"), Ok(Command::Help(Some("restore".to_owned()))));
        let Ok(Command::Run { job: Job::Capture(job), dry_run: true, .. }) = parsed("capture -n --level 9 d.raw st")
        else {
            panic!("not a capture")
        };
        assert_eq!((job.disk, job.level), (DiskRef::Path("d.raw".to_owned()), 9));
        let Ok(Command::Run { job: Job::Restore(job), yes: true, .. }) = parsed("restore st latest serial:AB1 --yes")
        else {
            panic!("not a restore")
        };
        assert_eq!((job.image, job.disk, job.free), (ImageRef::Latest, DiskRef::Serial("AB1".to_owned()), None));
        let Ok(Command::Run { job: Job::Restore(job), .. }) = parsed("restore --free discard st latest d.raw") else {
            panic!("not a restore")
        };
        assert_eq!(job.free, Some(Free::Discard));
        let Ok(command) = parsed("export st latest -o - --region 3") else { panic!("not an export") };
        assert!(command.takes_stdout());
        let Command::Run { job: Job::Export(job), .. } = command else { panic!("not an export") };
        assert_eq!((job.output, job.region), (Output::Stdout, Some(RegionKind::Partition(3))));
        let Ok(command) = parsed("export st ab12 --output ./- --region tail") else { panic!("not an export") };
        assert!(!command.takes_stdout());
        let Command::Run { job: Job::Export(job), .. } = command else { panic!("not an export") };
        assert_eq!((job.output, job.region), (Output::File("./-".into()), Some(RegionKind::Tail)));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, want) in [
            ("clone a b", "there is no command \"clone\"; `rescue help` lists them"),
            ("capture d.raw", "capture needs a disk and a store; `rescue help capture` says more"),
            ("capture a b --yes", "invalid option '--yes'"),
            ("capture a b c", "unexpected argument \"c\""),
            ("capture a b --level x", "cannot parse argument \"x\": \"x\" is not a level from 1 to 19"),
            ("capture a b --level 99", "cannot parse argument \"99\": \"99\" is not a level from 1 to 19"),
            (
                "show a --sector-size 513",
                "cannot parse argument \"513\": 513 is not a sector size (a power of two from 512 to 65536)",
            ),
            ("show a --map --extents", "--map and --extents do not go together"),
            ("show a --json --map", "--map and --json do not go together"),
            ("restore a b c --free wipe", "cannot parse argument \"wipe\": \"wipe\" is not leave, discard or zero"),
            ("capture a b --free zero", "invalid option '--free'"),
            ("capture a b --map", "invalid option '--map'"),
            ("export st latest", "export needs a store, an image and -o FILE; `rescue help export` says more"),
            ("export st -o -", "export needs a store, an image and -o FILE; `rescue help export` says more"),
            (
                "export st latest -o a --region p1",
                "cannot parse argument \"p1\": \"p1\" is no region: head, gap, tail, whole, or the number of a partition",
            ),
            ("restore st latest d.raw --overwrite", "invalid option '--overwrite'"),
            ("images", "images needs a store; `rescue help images` says more"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), want, "{line}");
        }
    }
}

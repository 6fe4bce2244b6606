//! Builds the initramfs: a cpio archive from a table of entries, compressed with zstd. Same input, same bytes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use initramfs::entry::{Archive, ArchiveError, Kind};
use initramfs::modules::{ModulesError, Selection};
use initramfs::{kernel, table};

mod layout;

const HELP: &str = "\
Builds the initramfs of the rescue environment. Same input, same bytes.

usage: initramfs --rescue FILE --busybox FILE --modules DIR --output FILE [options]
       initramfs --table

  --rescue FILE     the program: /bin/rescue, /init and /sbin/modprobe
  --busybox FILE    a static busybox for the emergency shell
  --modules DIR     a lib/modules/VERSION folder with modules.dep
  --kernel FILE     the kernel it is for; one of another version than DIR is refused
  --file SRC=PATH   one more file, at PATH in the archive (any number of times)
  --level N         zstd level, 1 to 19 (default 19)
  --output FILE     where the compressed archive goes
  --list            print what is in it
  --table           print the modules that are looked for, and why

Times in the archive are SOURCE_DATE_EPOCH, or 0 where that is not set.
";

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0} (see --help)")]
    Usage(String),
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("writing {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is Linux {kernel}, the modules are for {modules}", path.display())]
    OtherKernel { path: PathBuf, kernel: String, modules: String },
    #[error("choosing kernel modules")]
    Modules(#[from] ModulesError),
    #[error("filling the archive")]
    Archive(#[from] ArchiveError),
}

/// The command line.
#[derive(Debug, Default)]
struct Options {
    rescue: PathBuf,
    busybox: PathBuf,
    modules: PathBuf,
    kernel: Option<PathBuf>,
    files: Vec<(PathBuf, String)>,
    level: i32,
    output: PathBuf,
    list: bool,
}

enum Request {
    Build(Options),
    Table,
    Help,
}

fn main() -> ExitCode {
    let done = match parse(std::env::args_os().skip(1)) {
        Ok(Request::Build(options)) => build(&options),
        Ok(Request::Table) => print(&table_text()),
        Ok(Request::Help) => print(HELP),
        Err(failure) => Err(failure),
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    eprint!("initramfs: {failure}");
    let mut cause = std::error::Error::source(&failure);
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
    ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, Failure> {
    use lexopt::prelude::*;
    let usage = |error: lexopt::Error| Failure::Usage(error.to_string());
    let mut options = Options { level: 19, ..Options::default() };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("rescue") => options.rescue = value(&mut parser)?.into(),
            Long("busybox") => options.busybox = value(&mut parser)?.into(),
            Long("modules") => options.modules = value(&mut parser)?.into(),
            Long("kernel") => options.kernel = Some(value(&mut parser)?.into()),
            Long("file") => options.files.push(parse_file(&value(&mut parser)?.string().map_err(usage)?)?),
            Long("level") => options.level = value(&mut parser)?.parse().map_err(usage)?,
            Long("output") => options.output = value(&mut parser)?.into(),
            Long("list") => options.list = true,
            Long("table") => return Ok(Request::Table),
            Long("help") | Short('h') => return Ok(Request::Help),
            other => return Err(usage(other.unexpected())),
        }
    }
    for (name, path) in [
        ("--rescue", &options.rescue),
        ("--busybox", &options.busybox),
        ("--modules", &options.modules),
        ("--output", &options.output),
    ] {
        if path.as_os_str().is_empty() {
            return Err(Failure::Usage(format!("{name} is missing")));
        }
    }
    if !(1..=19).contains(&options.level) {
        return Err(Failure::Usage(format!("level {} is not between 1 and 19", options.level)));
    }
    Ok(Request::Build(options))
}

fn value(parser: &mut lexopt::Parser) -> Result<OsString, Failure> {
    parser.value().map_err(|error| Failure::Usage(error.to_string()))
}

fn parse_file(text: &str) -> Result<(PathBuf, String), Failure> {
    let (source, path) =
        text.split_once('=').ok_or_else(|| Failure::Usage(format!("--file {text}: SRC=PATH is wanted")))?;
    Ok((source.into(), path.trim_start_matches('/').to_owned()))
}

fn build(options: &Options) -> Result<(), Failure> {
    let folder =
        options.modules.canonicalize().map_err(|e| Failure::Read { path: options.modules.clone(), source: e })?;
    let release = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(kernel) = &options.kernel {
        check_kernel(kernel, &release)?;
    }
    let mut archive = Archive::default();
    layout::add_base(&mut archive, &release)?;
    layout::add_programs(&mut archive, &options.rescue, &options.busybox)?;
    let chosen = layout::add_modules(&mut archive, &folder, &release)?;
    for (source, path) in &options.files {
        archive.file(path, if is_executable(source) { 0o755 } else { 0o644 }, layout::read(source)?)?;
    }
    let mut raw = Vec::new();
    archive.write(&mut raw, source_date()?)?;
    let compressed =
        compress(&raw, options.level).map_err(|e| Failure::Write { path: options.output.clone(), source: e })?;
    replace(&options.output, &compressed)?;
    if options.list {
        print(&listing(&archive))?;
    }
    report(&chosen, &release, raw.len(), compressed.len());
    Ok(())
}

fn check_kernel(path: &Path, modules: &str) -> Result<(), Failure> {
    let image = layout::read(path)?;
    // One that does not tell its version may be fine: not every kernel comes as a bzImage.
    match kernel::release(&image) {
        Some(kernel) if kernel != modules => {
            Err(Failure::OtherKernel { path: path.to_owned(), kernel: kernel.to_owned(), modules: modules.to_owned() })
        }
        _ => Ok(()),
    }
}

fn source_date() -> Result<u32, Failure> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| Failure::Usage(format!("SOURCE_DATE_EPOCH={text} is no time in seconds"))),
        Err(_) => Ok(0),
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

/// One frame by one thread: the bytes depend on level and input alone.
fn compress(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
    encoder.include_checksum(true)?;
    encoder.write_all(raw)?;
    encoder.finish()
}

/// Puts `content` at `path`, which never holds half of it.
fn replace(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let written = File::create(&beside).and_then(|mut file| file.write_all(content));
    written.and_then(|()| fs::rename(&beside, path)).map_err(|source| Failure::Write { path: path.to_owned(), source })
}

fn report(chosen: &Selection, release: &str, raw: usize, compressed: usize) {
    eprintln!(
        "initramfs: Linux {release}, {} modules, {} KiB unpacked, {} KiB compressed",
        chosen.modules.len(),
        raw / 1024,
        compressed / 1024
    );
    if !chosen.missing.is_empty() {
        let names: Vec<_> = chosen.missing.iter().map(|(_, row)| *row).collect();
        eprintln!("initramfs: not in this kernel: {}", names.join(", "));
    }
}

fn listing(archive: &Archive) -> String {
    let mut text = String::new();
    for (path, entry) in archive.entries() {
        let what = match &entry.kind {
            Kind::Folder => "folder".to_owned(),
            Kind::File(content) => content.len().to_string(),
            Kind::Link(to) => format!("-> {to}"),
            Kind::Char { major, minor } => format!("char {major}:{minor}"),
        };
        text += &format!("{:04o} /{path} {what}\n", entry.mode);
    }
    text
}

fn table_text() -> String {
    let group = |group: &table::Group| format!("{}: {}\n  {}\n", group.name, group.why, group.modules.join(" "));
    table::MODULES.iter().map(group).collect()
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Failure::Write { path: "standard output".into(), source })
}

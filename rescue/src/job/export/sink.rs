//! Where an export's bytes go: a sparse file that gets its name last, or a stream.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, FileTypeExt as _},
    },
    path::{Path, PathBuf},
};

use nix::poll::{PollFd, PollFlags, poll};

use crate::{
    job::{Cancel, Output, error::Error, stores::free_bytes},
    store::FileId,
    units::Bytes,
};

/// Holes begin and end at multiples of this: the smallest piece that the usual file systems leave out.
const BLOCK: u64 = 4096;
/// Zeros that a stream writes at once: often enough to look at the cancel flag.
const ZEROS: usize = 1 << 20;
/// How long a stream that takes nothing is waited for before the cancel flag is looked at, in milliseconds.
const PATIENCE: u16 = 200;

/// Takes the bytes of an export, from the first to the last.
pub(super) trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Error::Failed`] with where and why.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error>;

    /// Takes the next `len` bytes, all of them zero.
    ///
    /// # Errors
    /// As [`Sink::data`].
    fn zeros(&mut self, len: u64) -> Result<(), Error>;

    /// Makes durable what was taken, as far as it can be, and gives it its name.
    ///
    /// # Errors
    /// [`Error::Failed`]; there is no file of that name then, unless there was one before.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Refuses an output that must not be written.
///
/// * `store`: the store's folder, which an output must not lie in.
///
/// # Errors
/// [`Error::Refused`] with the reason and the way out; [`Error::Failed`] when it cannot be looked at.
pub(super) fn check(output: &Output, overwrite: bool, store: &Path) -> Result<(), Error> {
    match output {
        Output::Stdout => check_stdout(),
        Output::File(path) => {
            check_folder(path, store)?;
            check_file(path, overwrite)
        }
    }
}

fn check_stdout() -> Result<(), Error> {
    if io::stdout().is_terminal() {
        return Err(Error::Refused("standard output is a terminal; -o FILE writes to a file".to_owned()));
    }
    let meta = stdout().and_then(|file| file.metadata()).map_err(|e| Error::failed("standard output", &e))?;
    if meta.file_type().is_block_device() { Err(is_device("standard output")) } else { Ok(()) }
}

fn is_device(name: &str) -> Error {
    Error::Refused(format!("{name} is a disk; `rescue restore` writes an image onto a disk, and proves it"))
}

fn check_folder(path: &Path, store: &Path) -> Result<(), Error> {
    let (folder, shown) = (folder_of(path), path.display());
    let real = folder.canonicalize().map_err(|e| Error::failed(&format!("the folder of {shown}"), &e))?;
    match store.canonicalize() {
        Ok(store) if real.starts_with(&store) => {
            Err(Error::Refused(format!("{shown} lies in the store {}", store.display())))
        }
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses what is there already, unless it is a file and may be replaced.
fn check_file(path: &Path, overwrite: bool) -> Result<(), Error> {
    let shown = path.display().to_string();
    let kind = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::failed(&format!("looking at {shown}"), &e)),
        Ok(meta) => meta.file_type(),
    };
    // What a link leads to may change before it is replaced, and replacing it would leave what it leads to.
    if kind.is_symlink() {
        let to = fs::metadata(path).map(|meta| meta.file_type());
        return Err(match to {
            Ok(kind) if kind.is_block_device() => is_device(&shown),
            _ => Error::Refused(format!("{shown} is a symbolic link; name the file itself")),
        });
    }
    let refuse = |reason: &str| Err(Error::Refused(format!("{shown} {reason}")));
    match () {
        () if kind.is_block_device() => Err(is_device(&shown)),
        () if kind.is_dir() => refuse("is a folder; name a file in it"),
        () if !kind.is_file() => refuse("is not a file; -o - writes to standard output"),
        () if !overwrite => refuse("exists already; --overwrite replaces it when all of the new one is written"),
        () => Ok(()),
    }
}

/// Says that the file may not fit where it is to go.
///
/// * `needed`: bytes that are no hole, at most.
pub(super) fn short_of_space(output: &Output, needed: u64) -> Option<String> {
    let Output::File(path) = output else { return None };
    let free = free_bytes(folder_of(path)).filter(|free| *free < needed)?;
    Some(format!("{} has {} free; the file needs up to {}", folder_of(path).display(), Bytes(free), Bytes(needed)))
}

/// A file that has another name until it is whole; removed with this, unless it was given its own.
struct Unfinished {
    file: File,
    temp: PathBuf,
    kept: bool,
}

impl Unfinished {
    /// Makes a file beside `path`.
    fn create(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let random = FileId::random()?.to_string();
        // A name that a person knows what to do with, should the power fail.
        name.push(format!(".unfinished-{}", random.get(..8).unwrap_or(&random)));
        let temp = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&temp)?;
        Ok(Self { file, temp, kept: false })
    }

    /// Gives the file its name, durably.
    fn publish(mut self, path: &Path, overwrite: bool) -> io::Result<()> {
        if overwrite {
            fs::rename(&self.temp, path)?;
        } else {
            self.link(path)?;
        }
        self.kept = true;
        match File::open(folder_of(path))?.sync_all() {
            // Some network file systems cannot sync a folder, and say so this way.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }

    /// Names the file `path` where nothing is called so: a rename would replace what came there since the plan.
    fn link(&self, path: &Path) -> io::Result<()> {
        match fs::hard_link(&self.temp, path) {
            Ok(()) => fs::remove_file(&self.temp),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            // FAT and others have no links.
            Err(_) if !path.exists() => fs::rename(&self.temp, path),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.temp);
        }
    }
}

/// A sparse file.
pub(super) struct FileSink {
    unfinished: Unfinished,
    path: PathBuf,
    overwrite: bool,
    /// Where the next byte goes.
    at: u64,
}

impl FileSink {
    /// Makes a file of `len` zeros that will be called `path`.
    ///
    /// # Errors
    /// [`Error::Refused`] as [`check`] does: the plan may be old. [`Error::Failed`] when no such file can be made.
    pub fn begin(path: &Path, len: u64, overwrite: bool) -> Result<Self, Error> {
        check_file(path, overwrite)?;
        let failed = |action: &str, e: &io::Error| Error::failed(&format!("{action} {}", path.display()), e);
        let unfinished = Unfinished::create(path).map_err(|e| failed("making", &e))?;
        let grown = unfinished.file.set_len(len);
        grown.map_err(|e| failed(&format!("making a file of {len} bytes for"), &e))?;
        Ok(Self { unfinished, path: path.to_owned(), overwrite, at: 0 })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        self.unfinished.file.write_all_at(bytes, at).map_err(|e| {
            let what = format!("writing {} bytes at byte {at:#x} of {}", bytes.len(), self.path.display());
            Error::failed(&what, &e)
        })
    }
}

impl Sink for FileSink {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = run(rest, self.at, true);
            let data = run(&rest[zeros..], self.at + zeros as u64, false);
            let (done, behind) = rest.split_at(zeros + data);
            if data > 0 {
                self.write(&done[zeros..], self.at + zeros as u64)?;
            }
            self.at += done.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> Result<(), Error> {
        self.at += len;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        let Self { unfinished, path, overwrite, .. } = *self;
        let failed = |action: &str, e: &io::Error| Error::failed(&format!("{action} {}", path.display()), e);
        unfinished.file.sync_all().map_err(|e| failed("bringing to its medium", &e))?;
        unfinished.publish(&path, overwrite).map_err(|e| failed("giving its name to", &e))
    }
}

/// Returns how many of `bytes` from the first on lie in blocks of the file that are all zero, or that are not.
///
/// * `at`: where the first one lies in the file.
fn run(bytes: &[u8], at: u64, zero: bool) -> usize {
    let mut len = 0;
    while len < bytes.len() {
        let to_next = BLOCK - (at + len as u64) % BLOCK;
        let end = usize::try_from(to_next).map_or(bytes.len(), |step| bytes.len().min(len + step));
        if bytes[len..end].iter().all(|byte| *byte == 0) != zero {
            break;
        }
        len = end;
    }
    len
}

/// A stream, as a pipe is one.
pub(super) struct StreamSink {
    out: File,
    cancel: Cancel,
    zeros: Vec<u8>,
    /// Bytes that were written.
    at: u64,
}

impl StreamSink {
    /// Writes to standard output, past the buffer that text has.
    ///
    /// # Errors
    /// [`Error::Failed`] when there is none.
    pub fn stdout(cancel: &Cancel) -> Result<Self, Error> {
        check_stdout()?;
        Ok(Self::new(stdout().map_err(|e| Error::failed("standard output", &e))?, cancel))
    }

    /// Writes to `out`.
    pub fn new(out: File, cancel: &Cancel) -> Self {
        Self { out, cancel: cancel.clone(), zeros: vec![0; ZEROS], at: 0 }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.cancel.is_cancelled() {
                return Err(Error::Failed(format!("cancelled after {} bytes to standard output", self.at)));
            }
            match self.out.write(bytes) {
                Ok(0) => return Err(self.failed(&io::ErrorKind::WriteZero.into())),
                Ok(taken) => {
                    bytes = bytes.get(taken..).unwrap_or_default();
                    self.at += taken as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares the pipe may have made it so that a write does not wait.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(self.out.as_fd(), PollFlags::POLLOUT)], PATIENCE);
                }
                Err(e) => return Err(self.failed(&e)),
            }
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Error {
        let at = self.at;
        match error.kind() {
            io::ErrorKind::BrokenPipe => Error::failed(
                &format!("whoever read standard output went away after {at} bytes; what they have is not whole"),
                error,
            ),
            _ => Error::failed(&format!("writing to standard output, after {at} bytes"), error),
        }
    }
}

fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

impl Sink for StreamSink {
    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes)
    }

    fn zeros(&mut self, len: u64) -> Result<(), Error> {
        let zeros = std::mem::take(&mut self.zeros);
        let mut left = len;
        let mut written = Ok(());
        while left > 0 && written.is_ok() {
            let part = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
            written = self.write(&zeros[..part]);
            left -= part as u64;
        }
        self.zeros = zeros;
        written
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        match self.out.sync_all() {
            // A pipe has nothing to sync; a file that standard output leads to has.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            Err(e) => Err(self.failed(&e)),
            Ok(()) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::unix::fs::MetadataExt as _,
        thread,
        time::{Duration, Instant},
    };

    use nix::{
        fcntl::{FcntlArg, OFlag, fcntl},
        unistd::pipe,
    };
    use tempfile::TempDir;

    use super::*;

    fn begun(dir: &TempDir, len: u64) -> Box<FileSink> {
        Box::new(FileSink::begin(&dir.path().join("raw"), len, false).unwrap())
    }

    #[test]
    fn blocks_of_zeros_are_holes_wherever_chunks_begin() {
        // Blocks of the file that hold data, by where the first data byte is put.
        for (skip, data_at, data_len, blocks) in
            [(0, 0, 1, 1), (0, 4095, 2, 2), (100, 3996, 1, 1), (100, 3995, 1, 1), (8192, 5, 4096, 2), (1, 9000, 0, 0)]
        {
            let dir = tempfile::tempdir().unwrap();
            let mut sink = begun(&dir, 40_000);
            let mut bytes = vec![0; 20_000];
            bytes[data_at..data_at + data_len].fill(7);
            sink.zeros(skip).unwrap();
            sink.data(&bytes).unwrap();
            sink.zeros(20_000 - skip).unwrap();
            sink.finish().unwrap();
            let mut expected = vec![0; 40_000];
            expected[usize::try_from(skip).unwrap()..][..20_000].copy_from_slice(&bytes);
            let raw = dir.path().join("raw");
            assert!(fs::read(&raw).unwrap() == expected, "{skip} {data_at}");
            assert_eq!(fs::metadata(&raw).unwrap().blocks(), blocks * 8, "{skip} {data_at}");
        }
    }

    #[test]
    fn a_write_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = begun(&dir, 8192);
        sink.data(&[1; 4096]).unwrap();
        sink.unfinished.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = sink.data(&[1; 4096]).unwrap_err().to_string();
        assert!(error.contains("at byte 0x1000 of") && error.contains("No space left"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(sink);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let sink = begun(&dir, 8192);
        fs::write(dir.path().join("raw"), "somebody's").unwrap();
        let error = sink.finish().unwrap_err().to_string();
        assert!(error.contains("File exists"), "{error}");
        assert_eq!(fs::read(dir.path().join("raw")).unwrap(), b"somebody's");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    fn stream(flags: OFlag, cancel: &Cancel) -> (File, StreamSink) {
        let (read, write) = pipe().unwrap();
        fcntl(&write, FcntlArg::F_SETFL(flags)).unwrap();
        (File::from(read), StreamSink::new(File::from(write), cancel))
    }

    #[test]
    fn a_pipe_gets_every_byte_however_slow_its_reader() {
        for flags in [OFlag::empty(), OFlag::O_NONBLOCK] {
            let (mut read, mut sink) = stream(flags, &Cancel::new());
            let reader = thread::spawn(move || {
                thread::sleep(Duration::from_millis(100));
                let mut all = Vec::new();
                read.read_to_end(&mut all).map(|_| all).unwrap()
            });
            sink.data(&[1; 300_000]).unwrap();
            sink.zeros(3_000_000).unwrap();
            sink.data(&[2; 5]).unwrap();
            Box::new(sink).finish().unwrap();
            let all = reader.join().unwrap();
            assert!(all == [vec![1; 300_000], vec![0; 3_000_000], vec![2; 5]].concat(), "{flags:?}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_named_and_a_full_pipe_can_be_cancelled() {
        let (read, mut sink) = stream(OFlag::empty(), &Cancel::new());
        drop(read);
        let error = sink.zeros(1).unwrap_err().to_string();
        assert!(error.starts_with("whoever read standard output went away after 0 bytes"), "{error}");

        let cancel = Cancel::new();
        let (_read, mut sink) = stream(OFlag::O_NONBLOCK, &cancel);
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                cancel.cancel();
            });
            let error = sink.zeros(10_000_000).unwrap_err().to_string();
            assert!(error.starts_with("cancelled after "), "{error}");
        });
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

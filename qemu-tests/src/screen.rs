//! What a serial terminal of 80 by 25 shows, and the keys it sends.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    num::NonZero,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{At as _, Result};

/// Lines of the terminal.
pub const ROWS: NonZero<u16> = NonZero::new(25).expect("not zero");
/// Columns of the terminal.
pub const COLUMNS: NonZero<u16> = NonZero::new(80).expect("not zero");

/// Keys as a terminal sends them.
pub mod key {
    /// The Enter key.
    pub const ENTER: &str = "\r";
    /// The Escape key.
    pub const ESCAPE: &str = "\x1b";
    /// Cursor up.
    pub const UP: &str = "\x1b[A";
    /// Cursor down.
    pub const DOWN: &str = "\x1b[B";
    /// The Tab key.
    pub const TAB: &str = "\t";
}

/// A terminal at the other end of a serial line. Everything that comes is kept in a log file as well.
#[derive(Debug)]
pub struct Terminal {
    line: UnixStream,
    state: Arc<Mutex<State>>,
}

struct State {
    parser: vt100::Parser,
    /// All that came, for texts that have scrolled away.
    heard: Vec<u8>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({} bytes heard)", self.heard.len())
    }
}

impl Terminal {
    /// Begins to read `line`, and keeps a copy of it in `log`.
    ///
    /// # Errors
    /// [`crate::Error::File`] when the log cannot be made.
    pub fn open(line: UnixStream, log: &Path) -> Result<Self> {
        let log = File::create(log).at(log)?;
        let parser = vt100::Parser::new(ROWS, COLUMNS, 0);
        let state = Arc::new(Mutex::new(State { parser, heard: Vec::new() }));
        let reader = line.try_clone().at("the serial line")?;
        let shared = Arc::clone(&state);
        thread::spawn(move || listen(reader, log, &shared));
        Ok(Self { line, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the screen shows now, one line of text for each row.
    #[must_use]
    pub fn text(&self) -> String {
        self.state().parser.screen().contents()
    }

    /// Returns all that came over the line since the start.
    #[must_use]
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.state().heard).into_owned()
    }

    /// Sends keys.
    ///
    /// # Errors
    /// [`crate::Error::File`] when the line is closed.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.line.write_all(keys.as_bytes()).at("the serial line")
    }
}

/// Asks where the cursor is: how a program learns the size of a serial terminal.
const CURSOR_QUESTION: &[u8] = b"\x1b[6n";

fn listen(mut line: UnixStream, mut log: File, state: &Mutex<State>) {
    let mut buffer = [0; 4096];
    // The line ends when QEMU does; nobody is left to be told of an error.
    while let Ok(len @ 1..) = line.read(&mut buffer) {
        let bytes = &buffer[..len];
        let _ = log.write_all(bytes);
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.heard.extend_from_slice(bytes);
        state.parser.process(bytes);
        // A question that arrives in two pieces is found when its last byte comes.
        let from = state.heard.len() - len;
        let window = &state.heard[from.saturating_sub(CURSOR_QUESTION.len() - 1)..];
        if window.windows(CURSOR_QUESTION.len()).any(|part| part == CURSOR_QUESTION) {
            let (row, column) = state.parser.screen().cursor_position();
            let _ = line.write_all(format!("\x1b[{};{}R", row + 1, column + 1).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_terminal_shows_text_answers_for_its_cursor_and_logs() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut terminal = Terminal::open(ours, &log).unwrap();
        theirs.write_all(b"\x1b[2J\x1b[3;5Hhere\x1b[999;999H\x1b[").unwrap();
        thread::sleep(Duration::from_millis(50));
        theirs.write_all(b"6n").unwrap();
        let mut answer = [0; 8];
        theirs.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\x1b[25;80R");
        assert_eq!(terminal.text().lines().nth(2), Some("    here"));
        terminal.send(key::DOWN).unwrap();
        let mut key = [0; 3];
        theirs.read_exact(&mut key).unwrap();
        assert_eq!(&key, b"\x1b[B");
        assert!(std::fs::read(&log).unwrap().starts_with(b"\x1b[2J"));
    }
}

//! The terminal: set up, measured, restored, and read.
//!
//! Serial lines do not know their size: the system says 0x0, so the terminal itself is asked (put the cursor far away,
//! then report where it went). Bytes of one key may arrive apart on such a line; they are joined here.

use std::{
    io::{self, BufWriter, IsTerminal, Stdout, Write, stdin, stdout},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender};
use crossterm::{
    cursor, event,
    event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, terminal,
};
use ratatui::{
    backend::{Backend, ClearType, CrosstermBackend, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
};

use super::Error;

/// What a terminal that does not answer is taken for.
const FALLBACK: Size = Size { width: 80, height: 24 };
/// Sizes beyond this are a terminal's mistake.
const LARGEST: u16 = 1000;
/// How long the rest of a key's bytes may take. At 9600 baud a byte takes one millisecond.
const JOIN: Duration = Duration::from_millis(40);

/// Checks that there is a terminal, and sets it up.
///
/// # Errors
/// [`Error::NoTerminal`], or [`Error::Terminal`] when it refuses.
pub fn enter() -> Result<(), Error> {
    for (name, is) in [("standard input", stdin().is_terminal()), ("standard output", stdout().is_terminal())] {
        if !is {
            return Err(Error::NoTerminal(name));
        }
    }
    let failed = |source| Error::Terminal { action: "setting up", source };
    terminal::enable_raw_mode().map_err(failed)?;
    if std::env::var_os("TERM").is_some_and(|term| term == "linux") {
        // UTF-8, never blank, never power the screen down.
        stdout().write_all(b"\x1b%G\x1b[9;0]\x1b[14;0]").map_err(failed)?;
    }
    execute!(stdout(), terminal::EnterAlternateScreen, cursor::Hide).map_err(failed)
}

/// Gives the terminal back as it was. Safe to call at any time, from a panic as well.
pub fn leave() {
    // The Linux console has no alternate screen: what was drawn is cleared away.
    drop(execute!(
        stdout(),
        crossterm::style::ResetColor,
        terminal::Clear(terminal::ClearType::All),
        cursor::MoveTo(0, 0),
        terminal::LeaveAlternateScreen,
        cursor::Show
    ));
    drop(terminal::disable_raw_mode());
}

/// Returns the size of the terminal: as the system knows it, else as the terminal says, else 80x24.
#[must_use]
pub fn size() -> Size {
    if let Ok((width, height)) = terminal::size()
        && width > 0
        && height > 0
    {
        return Size { width: width.min(LARGEST), height: height.min(LARGEST) };
    }
    let far = execute!(stdout(), cursor::MoveTo(998, 998)).and_then(|()| cursor::position());
    match far {
        Ok((column, row)) if column > 0 && row > 0 => {
            Size { width: (column + 1).min(LARGEST), height: (row + 1).min(LARGEST) }
        }
        _ => FALLBACK,
    }
}

/// The terminal as ratatui draws on it: its size is told, and nothing is ever asked of it, because answers arrive
/// among the keys that another thread reads.
pub struct Screen {
    inner: CrosstermBackend<BufWriter<Stdout>>,
    size: Size,
    cursor: Position,
}

impl Screen {
    /// Returns a screen of this size.
    #[must_use]
    pub fn new(size: Size) -> Self {
        let out = BufWriter::with_capacity(1 << 14, stdout());
        Self { inner: CrosstermBackend::new(out), size, cursor: Position::ORIGIN }
    }

    /// Changes the size.
    pub const fn set_size(&mut self, size: Size) {
        self.size = size;
    }

    /// Rings the bell.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn beep(&mut self) -> io::Result<()> {
        self.inner.write_all(b"\x07")?;
        io::Write::flush(&mut self.inner)
    }
}

impl Backend for Screen {
    type Error = io::Error;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> io::Result<()> {
        self.inner.draw(content)
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.inner.hide_cursor()
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.inner.show_cursor()
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(self.cursor)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        self.cursor = position.into();
        self.inner.set_cursor_position(self.cursor)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.inner.clear()
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        self.inner.clear_region(region)
    }

    fn size(&self) -> io::Result<Size> {
        Ok(self.size)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size, pixels: Size { width: 0, height: 0 } })
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut self.inner)
    }
}

/// What comes from the terminal.
#[derive(Debug)]
pub enum Input {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized(Size),
    /// The terminal is gone.
    Gone(io::Error),
}

/// Reads the terminal until it is gone or nobody listens; answers a request for the size in between, because only one
/// thread can read a terminal.
pub fn read(requests: &Receiver<Sender<Size>>, mut out: impl FnMut(Input) -> bool) {
    loop {
        for request in requests.try_iter() {
            let _ = request.send(size());
        }
        let events = match event::poll(Duration::from_millis(100)) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let listening = match events {
            Ok(Event::Key(key)) => join(key, next_key).into_iter().all(|key| out(Input::Key(key))),
            Ok(Event::Resize(width, height)) if width > 0 && height > 0 => {
                out(Input::Resized(Size { width: width.min(LARGEST), height: height.min(LARGEST) }))
            }
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => {
                out(Input::Gone(error));
                return;
            }
        };
        if !listening {
            return;
        }
    }
}

/// Reads the next key if it comes at once.
fn next_key() -> Option<KeyEvent> {
    match event::poll(JOIN) {
        Ok(true) => match event::read() {
            Ok(Event::Key(key)) => Some(key),
            _ => None,
        },
        _ => None,
    }
}

/// Joins the bytes of a key that arrived apart: `Esc`, `[`, `A` within moments of each other are the arrow up.
fn join(first: KeyEvent, mut next: impl FnMut() -> Option<KeyEvent>) -> Vec<KeyEvent> {
    let plain = |key: &KeyEvent| key.modifiers.difference(KeyModifiers::SHIFT).is_empty();
    if first.code != KeyCode::Esc || first.kind != KeyEventKind::Press {
        return vec![first];
    }
    let mut keys = vec![first];
    let mut word = String::new();
    while word.len() < 4 {
        let Some(key) = next() else { break };
        keys.push(key);
        match key.code {
            KeyCode::Char(letter) if plain(&key) => word.push(letter),
            _ => break,
        }
        if let Some(code) = sequence(&word) {
            return vec![KeyEvent::new(code, KeyModifiers::NONE)];
        }
        if !word.starts_with(['[', 'O']) {
            break;
        }
    }
    keys
}

/// Returns the key that sends `Esc` and this.
fn sequence(word: &str) -> Option<KeyCode> {
    Some(match word {
        "[A" | "OA" => KeyCode::Up,
        "[B" | "OB" => KeyCode::Down,
        "[C" | "OC" => KeyCode::Right,
        "[D" | "OD" => KeyCode::Left,
        "[H" | "OH" | "[1~" => KeyCode::Home,
        "[F" | "OF" | "[4~" => KeyCode::End,
        "[3~" => KeyCode::Delete,
        "[5~" => KeyCode::PageUp,
        "[6~" => KeyCode::PageDown,
        "OP" | "[[A" => KeyCode::F(1),
        "[15~" | "[[E" => KeyCode::F(5),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn joined(bytes: &str) -> Vec<KeyCode> {
        let mut rest = bytes.chars().map(|letter| key(KeyCode::Char(letter)));
        join(key(KeyCode::Esc), || rest.next()).into_iter().map(|key| key.code).collect()
    }

    #[test]
    fn keys_that_arrive_in_pieces_are_joined() {
        for (name, bytes, want) in [
            ("escape alone", "", vec![KeyCode::Esc]),
            ("arrow", "[A", vec![KeyCode::Up]),
            ("arrow of an application keypad", "OB", vec![KeyCode::Down]),
            ("page", "[5~", vec![KeyCode::PageUp]),
            ("function key", "[15~", vec![KeyCode::F(5)]),
            ("escape, then a letter", "q", vec![KeyCode::Esc, KeyCode::Char('q')]),
            ("cut short", "[", vec![KeyCode::Esc, KeyCode::Char('[')]),
        ] {
            assert_eq!(joined(bytes), want, "{name}");
        }
    }

    #[test]
    fn other_keys_wait_for_nothing() {
        assert_eq!(join(key(KeyCode::Enter), || panic!("must not wait")).len(), 1);
    }
}

//! The screens on a terminal that is none of the usual ones: a serial line that does not know its size, and no terminal
//! at all.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZero,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::pty::{Winsize, openpty};

/// The program behind one end of a line, a terminal at the other.
struct Line {
    child: Child,
    keyboard: File,
    bytes: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    raw: Vec<u8>,
}

impl Line {
    /// Starts the screens on a line whose size nobody knows. A terminal that `answers` says 80x24 when it is asked.
    fn start() -> Self {
        let nothing = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&nothing), None).expect("a pseudo terminal");
        let program = File::from(pair.slave);
        let child = Command::new(env!("CARGO_BIN_EXE_rescue"))
            .args(["tui", "--monochrome"])
            .env("TERM", "vt100")
            .stdin(Stdio::from(program.try_clone().expect("a copy")))
            .stdout(Stdio::from(program))
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let keyboard = File::from(pair.master);
        let mut line = keyboard.try_clone().expect("a copy");
        let (out, bytes) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = line.read(&mut buffer) {
                if out.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let size = |count| NonZero::new(count).expect("not zero");
        Self { child, keyboard, bytes, screen: vt100::Parser::new(size(24), size(80), 0), raw: Vec::new() }
    }

    /// Reads until `done`, answering the question for the cursor's place as a terminal of 80x24 does.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            let left = limit.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.bytes.recv_timeout(left) else {
                panic!("{what} never came:\n{}", self.screen.screen().contents());
            };
            if bytes.windows(4).any(|word| word == b"\x1b[6n") {
                self.keyboard.write_all(b"\x1b[24;80R").expect("the line is open");
            }
            self.screen.process(&bytes);
            self.raw.extend(bytes);
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("the line is open");
    }

    fn shows(&self, words: &str) -> bool {
        self.screen.screen().contents().contains(words)
    }
}

#[test]
fn a_serial_line_without_a_size_is_asked_for_it() {
    let mut line = Line::start();
    line.until("home", |line| line.shows("rescue │ Disks") && line.shows("Quit"));
    assert!(!line.shows("Too small"), "{}", line.screen.screen().contents());
    line.press(b"?");
    line.until("help", |line| line.shows("drawn to scale"));
    line.press(b"\x1b");
    line.until("home again", |line| !line.shows("drawn to scale"));
    // Arrow keys whose bytes come one by one are still arrow keys, not an escape.
    line.press(b"s");
    line.until("stores", |line| line.shows("Another folder:"));
    for byte in b"\x1b[B" {
        line.press(&[*byte]);
        thread::sleep(Duration::from_millis(3));
    }
    line.press(b"/x");
    line.until("the folder typed", |line| line.shows("Another folder: /x"));
    line.press(b"\x1b");
    line.until("home at last", |line| line.shows("rescue │ Disks"));
    // Something wrote over the screen: Ctrl-L asks for the size again and draws everything.
    line.screen.process(b"\x1b[2J\x1b[Hkernel: noise");
    line.press(b"\x0c");
    line.until("everything drawn again", |line| line.shows("rescue │ Disks") && !line.shows("noise"));
    line.press(b"q");
    line.until("the cursor back", |line| line.raw.ends_with(b"\x1b[?25h"));
    assert_eq!(line.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn without_a_terminal_there_are_no_screens() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rescue"));
    let output = command.arg("tui").stdin(Stdio::null()).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.iter().all(|byte| *byte != 0x1b), "no terminal codes in a pipe");
}

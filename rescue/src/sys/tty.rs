//! Terminals: opening one without becoming its owner, its modes, and reading a single key.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{
        ControlFlags, FlowArg, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices,
        cfmakeraw, tcdrain, tcflow, tcflush, tcgetattr, tcsetattr,
    },
};

/// Opens a terminal for reading and writing; it never becomes the controlling one by that, and a serial line without
/// a carrier does not make it wait.
///
/// # Errors
/// What the kernel said.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    if let Ok(mut modes) = tcgetattr(&file) {
        modes.control_flags |= ControlFlags::CLOCAL;
        tcsetattr(&file, SetArg::TCSANOW, &modes)?;
    }
    set_blocking(&file)?;
    Ok(file)
}

fn set_blocking(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Puts a terminal back into the modes a shell expects, whatever a program that died left it in.
///
/// # Errors
/// When it is not a terminal.
pub fn make_sane(terminal: &File) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.input_flags |= InputFlags::ICRNL | InputFlags::IXON | InputFlags::BRKINT | InputFlags::IUTF8;
    modes.input_flags -= InputFlags::INLCR | InputFlags::IGNCR | InputFlags::ISTRIP | InputFlags::PARMRK;
    modes.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
    modes.local_flags |= LocalFlags::ISIG | LocalFlags::ICANON | LocalFlags::IEXTEN;
    modes.local_flags |= LocalFlags::ECHO | LocalFlags::ECHOE | LocalFlags::ECHOK | LocalFlags::ECHOCTL;
    modes.local_flags -= LocalFlags::NOFLSH | LocalFlags::TOSTOP;
    modes.control_flags |= ControlFlags::CREAD | ControlFlags::CLOCAL;
    for (index, value) in [
        (SpecialCharacterIndices::VINTR, 3),
        (SpecialCharacterIndices::VQUIT, 0x1c),
        (SpecialCharacterIndices::VERASE, 0x7f),
        (SpecialCharacterIndices::VKILL, 0x15),
        (SpecialCharacterIndices::VEOF, 4),
        (SpecialCharacterIndices::VSUSP, 0x1a),
        (SpecialCharacterIndices::VMIN, 1),
        (SpecialCharacterIndices::VTIME, 0),
    ] {
        if let Some(slot) = modes.control_chars.get_mut(index as usize) {
            *slot = value;
        }
    }
    Ok(tcsetattr(terminal, SetArg::TCSANOW, &modes)?)
}

/// Makes a terminal pass bytes as they are, without echo, for a port that carries data.
///
/// # Errors
/// When it is not a terminal.
pub fn make_raw(terminal: &File) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    cfmakeraw(&mut modes);
    modes.control_flags |= ControlFlags::CLOCAL;
    // A peer that never raises CTS must not stop a result from leaving.
    modes.control_flags -= ControlFlags::CRTSCTS;
    Ok(tcsetattr(terminal, SetArg::TCSANOW, &modes)?)
}

/// Lets output flow, whoever stopped it, and takes from Ctrl-S the power to stop it: where nobody watches nobody presses
/// Ctrl-Q.
///
/// # Errors
/// When it is not a terminal.
pub fn never_stop(terminal: &impl AsFd) -> io::Result<()> {
    let mut modes = tcgetattr(terminal)?;
    modes.input_flags -= InputFlags::IXON;
    tcsetattr(terminal, SetArg::TCSANOW, &modes)?;
    // Scroll Lock stops a screen without IXON. The kernel starts by call only what was stopped by call, whatever else
    // had stopped it.
    tcflow(terminal, FlowArg::TCOOFF)?;
    Ok(tcflow(terminal, FlowArg::TCOON)?)
}

/// Waits until what was written has left the machine; a port that is no terminal has nothing to wait for.
pub fn drain(terminal: &impl AsFd) {
    let _ = tcdrain(terminal);
}

/// Waits up to `limit` for a key and returns its first byte, or `None` when none was pressed.
///
/// # Errors
/// When the terminal is gone.
pub fn read_key(terminal: &mut File, limit: Duration) -> io::Result<Option<u8>> {
    let before = tcgetattr(&*terminal)?;
    let mut single = before.clone();
    single.local_flags -= LocalFlags::ICANON | LocalFlags::ECHO;
    // Read returns at once with what is there: waiting is poll's part.
    for (index, value) in [(SpecialCharacterIndices::VMIN, 0), (SpecialCharacterIndices::VTIME, 0)] {
        if let Some(slot) = single.control_chars.get_mut(index as usize) {
            *slot = value;
        }
    }
    tcsetattr(&*terminal, SetArg::TCSANOW, &single)?;
    let key = wait_and_read(terminal, limit);
    let _ = tcsetattr(&*terminal, SetArg::TCSANOW, &before);
    key
}

fn wait_and_read(terminal: &mut File, limit: Duration) -> io::Result<Option<u8>> {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, timeout)? == 0 {
        return Ok(None);
    }
    let mut key = [0; 1];
    match terminal.read(&mut key)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        _ => Ok(key.first().copied()),
    }
}

/// Throws away keys that were pressed before anybody asked.
pub fn discard_input(terminal: &File) {
    let _ = tcflush(terminal, FlushArg::TCIFLUSH);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::pty::openpty;

    use super::*;

    #[test]
    fn a_terminal_that_was_stopped_flows_again_and_cannot_be_stopped() {
        let pty = openpty(None, None).unwrap();
        let (mut keys, screen) = (File::from(pty.master), File::from(pty.slave));
        // What comes over the line is seen to by a thread of the kernel, soon.
        let flows_within = |want: bool, limit: u64| {
            (0..limit / 20).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                let mut fds = [PollFd::new(screen.as_fd(), PollFlags::POLLOUT)];
                (poll(&mut fds, PollTimeout::ZERO).unwrap() == 1) == want
            })
        };
        make_sane(&screen).unwrap();
        keys.write_all(b"\x13").unwrap();
        assert!(flows_within(false, 5000), "Ctrl-S stops it");
        never_stop(&screen).unwrap();
        assert!(flows_within(true, 5000));
        keys.write_all(b"\x13").unwrap();
        assert!(!flows_within(false, 400), "Ctrl-S is a key like others");
        tcflow(&screen, FlowArg::TCOOFF).unwrap();
        assert!(flows_within(false, 5000));
        never_stop(&screen).unwrap();
        assert!(flows_within(true, 5000));
    }
}

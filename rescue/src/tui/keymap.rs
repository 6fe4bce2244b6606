//! Keys become commands here, in one table; the hint line at the bottom of every screen is read from the same table.
//!
//! Shift-Tab arrives as Tab on the Linux console, and serial lines have no function keys worth relying on: whatever a
//! function key does, a letter or Ctrl does too.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tui_input::InputRequest;

use super::text;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmd {
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// One page up.
    PageUp,
    /// One page down.
    PageDown,
    /// To the first line.
    First,
    /// To the last line.
    Last,
    /// Take what is marked, go on.
    Accept,
    /// One step back.
    Back,
    /// A change of the text in the field.
    Edit(InputRequest),
    /// Image the marked disk.
    Capture,
    /// Write an image back.
    Restore,
    /// Check a store or an image.
    Verify,
    /// Look at the stores.
    Stores,
    /// Read disks or stores again.
    Refresh,
    /// Show the log.
    Log,
    /// Explain this screen.
    Help,
    /// Ask whether to switch off or restart.
    Power,
    /// Leave for a shell.
    Shell,
    /// End the program.
    Quit,
    /// Stop the running job, after asking.
    Cancel,
    /// Ctrl-C: stops a job after asking, ends the program where none runs.
    Interrupt,
    /// Ask for the size of the terminal and draw everything again.
    Repaint,
}

/// Which keys count: one for each screen and each box in front of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// The disks of the machine.
    Home,
    /// One disk.
    Details,
    /// A list of stores.
    Stores,
    /// The field for a folder below the stores.
    Folder,
    /// A list of images.
    Images,
    /// A list of disks to overwrite.
    Targets,
    /// What a job will do.
    Plan,
    /// The typed confirmation.
    Confirm,
    /// A running job.
    Running,
    /// How a job ended.
    Result,
    /// Help, or the log.
    Reading,
    /// Power off or restart?
    Power,
    /// Stop the job?
    AskCancel,
    /// Something to take note of.
    Message,
}

impl Context {
    /// Tells whether letters are text here.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Folder | Self::Confirm)
    }
}

/// Where the program runs, as far as keys depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// Only as the screen of the boot environment.
    Booted,
    /// Only as an ordinary command.
    Command,
}

struct Binding {
    on: &'static [Context],
    keys: &'static [KeyCode],
    cmd: Cmd,
    /// How the hint line calls it; empty where it says nothing.
    hint: &'static str,
    when: When,
}

use Context as C;
use KeyCode as K;

const LISTS: &[Context] =
    &[C::Home, C::Stores, C::Folder, C::Images, C::Targets, C::Plan, C::Details, C::Reading, C::Power, C::Running];
const EVERY_SCREEN: &[Context] =
    &[C::Home, C::Details, C::Stores, C::Folder, C::Images, C::Targets, C::Plan, C::Confirm, C::Running, C::Result];
const LETTER_SCREENS: &[Context] =
    &[C::Home, C::Details, C::Stores, C::Images, C::Targets, C::Plan, C::Running, C::Result];

const fn key(on: &'static [Context], keys: &'static [KeyCode], cmd: Cmd, hint: &'static str) -> Binding {
    Binding { on, keys, cmd, hint, when: When::Always }
}

/// The table. Hints appear in this order.
const TABLE: &[Binding] = &[
    key(&[C::Home], &[K::Char('i')], Cmd::Capture, text::HINT_IMAGE),
    key(&[C::Home], &[K::Char('r')], Cmd::Restore, text::HINT_RESTORE),
    key(&[C::Home], &[K::Char('v')], Cmd::Verify, text::HINT_VERIFY),
    key(&[C::Home], &[K::Char('s')], Cmd::Stores, text::HINT_STORES),
    key(&[C::Home], &[K::Enter], Cmd::Accept, text::HINT_DETAILS),
    key(&[C::Details], &[K::Char('i')], Cmd::Capture, text::HINT_IMAGE_THIS),
    key(&[C::Stores, C::Images, C::Targets], &[K::Enter], Cmd::Accept, text::HINT_CHOOSE),
    key(&[C::Folder], &[K::Enter], Cmd::Accept, text::HINT_USE_FOLDER),
    key(&[C::Images], &[K::Char('v')], Cmd::Verify, text::HINT_VERIFY),
    key(&[C::Plan], &[K::Enter], Cmd::Accept, text::HINT_START),
    key(&[C::Confirm], &[K::Enter], Cmd::Accept, text::HINT_OVERWRITE),
    key(&[C::Running], &[K::Char('c'), K::Esc], Cmd::Cancel, text::HINT_CANCEL),
    key(&[C::Result], &[K::Enter, K::Esc], Cmd::Accept, text::HINT_DISKS),
    key(&[C::Result], &[K::Char('v')], Cmd::Verify, text::HINT_VERIFY_IMAGE),
    key(&[C::Result], &[K::Char('r')], Cmd::Restore, text::HINT_ANOTHER),
    key(&[C::Power], &[K::Char('p')], Cmd::Power, text::HINT_POWER_OFF),
    key(&[C::Power], &[K::Char('r')], Cmd::Restore, text::HINT_REBOOT),
    key(&[C::AskCancel], &[K::Char('y')], Cmd::Accept, text::HINT_STOP_JOB),
    key(&[C::AskCancel], &[K::Char('n'), K::Esc, K::Enter], Cmd::Back, text::HINT_GO_ON),
    key(&[C::Message, C::Reading], &[K::Esc, K::Enter, K::Char('q')], Cmd::Back, text::HINT_CLOSE),
    key(
        &[C::Details, C::Stores, C::Folder, C::Images, C::Targets, C::Plan, C::Confirm, C::Power],
        &[K::Esc],
        Cmd::Back,
        text::HINT_BACK,
    ),
    key(LISTS, &[K::Up], Cmd::Up, ""),
    key(LISTS, &[K::Down, K::Tab], Cmd::Down, ""),
    key(LISTS, &[K::PageUp], Cmd::PageUp, ""),
    key(LISTS, &[K::PageDown], Cmd::PageDown, ""),
    key(LETTER_SCREENS, &[K::Home], Cmd::First, ""),
    key(LETTER_SCREENS, &[K::End], Cmd::Last, ""),
    key(&[C::Reading], &[K::Home], Cmd::First, ""),
    key(&[C::Reading], &[K::End], Cmd::Last, ""),
    key(LETTER_SCREENS, &[K::Char('l')], Cmd::Log, text::HINT_LOG),
    key(&[C::Home, C::Details, C::Stores, C::Images, C::Targets], &[K::F(5)], Cmd::Refresh, text::HINT_REFRESH),
    key(&[C::Folder], &[K::F(5)], Cmd::Refresh, ""),
    Binding {
        on: &[C::Home, C::Result],
        keys: &[K::Char('p')],
        cmd: Cmd::Power,
        hint: text::HINT_POWER,
        when: When::Booted,
    },
    Binding { on: &[C::Home], keys: &[K::Char('x')], cmd: Cmd::Shell, hint: text::HINT_SHELL, when: When::Booted },
    key(LETTER_SCREENS, &[K::Char('?'), K::F(1)], Cmd::Help, text::HINT_HELP),
    key(EVERY_SCREEN, &[K::F(1)], Cmd::Help, text::HINT_HELP),
    Binding {
        on: &[C::Home, C::Result],
        keys: &[K::Char('q')],
        cmd: Cmd::Quit,
        hint: text::HINT_QUIT,
        when: When::Command,
    },
];

/// Finds what `event` asks for in `context`; `booted` as the screen of the boot environment.
#[must_use]
pub fn command(context: Context, booted: bool, event: &KeyEvent) -> Option<Cmd> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    match event.code {
        K::Char('c') if ctrl => return Some(Cmd::Interrupt),
        K::Char('l') if ctrl => return Some(Cmd::Repaint),
        // Serial lines may send Ctrl-H for backspace and have no function keys: Ctrl-R reads again.
        K::Char('r') if ctrl => {
            return lookup(context, booted, K::F(5));
        }
        _ => {}
    }
    if context.is_text()
        && let Some(request) = edit(event)
    {
        return Some(Cmd::Edit(request));
    }
    if ctrl || event.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    let code = match event.code {
        K::Char(letter) => K::Char(letter.to_ascii_lowercase()),
        K::BackTab => K::Up,
        other => other,
    };
    lookup(context, booted, code)
}

fn lookup(context: Context, booted: bool, code: KeyCode) -> Option<Cmd> {
    let mut found = TABLE.iter().filter(|row| row.applies(context, booted) && row.keys.contains(&code));
    found.next().map(|row| row.cmd)
}

impl Binding {
    fn applies(&self, context: Context, booted: bool) -> bool {
        self.on.contains(&context)
            && match self.when {
                When::Always => true,
                When::Booted => booted,
                When::Command => !booted,
            }
    }
}

/// Lists the keys worth naming in `context` with what they do, in the order of the table; only those `offered`.
#[must_use]
pub fn hints(context: Context, booted: bool, offered: impl Fn(Cmd) -> bool) -> Vec<(String, &'static str)> {
    let mut hints: Vec<(String, &'static str)> = Vec::new();
    for row in TABLE.iter().filter(|row| !row.hint.is_empty() && row.applies(context, booted) && offered(row.cmd)) {
        if let Some(first) = row.keys.first()
            && hints.iter().all(|(_, hint)| *hint != row.hint)
        {
            hints.push((label(*first), row.hint));
        }
    }
    hints
}

fn label(code: KeyCode) -> String {
    match code {
        K::Char(letter) => letter.to_ascii_uppercase().to_string(),
        K::F(number) => format!("F{number}"),
        K::Enter => "Enter".to_owned(),
        K::Esc => "Esc".to_owned(),
        other => other.to_string(),
    }
}

/// Reads a key as a change of a line of text.
fn edit(event: &KeyEvent) -> Option<InputRequest> {
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    let alt = event.modifiers.contains(KeyModifiers::ALT);
    Some(match event.code {
        K::Char('h') if ctrl => InputRequest::DeletePrevChar,
        K::Char('u') if ctrl => InputRequest::DeleteLine,
        K::Char('w') if ctrl => InputRequest::DeletePrevWord,
        K::Char('a') if ctrl => InputRequest::GoToStart,
        K::Char('e') if ctrl => InputRequest::GoToEnd,
        K::Char('k') if ctrl => InputRequest::DeleteTillEnd,
        K::Char(letter) if !ctrl && !alt && !letter.is_control() => InputRequest::InsertChar(letter),
        K::Backspace => InputRequest::DeletePrevChar,
        K::Delete => InputRequest::DeleteNextChar,
        K::Left => InputRequest::GoToPrevChar,
        K::Right => InputRequest::GoToNextChar,
        K::Home => InputRequest::GoToStart,
        K::End => InputRequest::GoToEnd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn letters_are_commands_in_lists_and_text_in_fields() {
        for (name, context, code, want) in [
            ("command", C::Home, K::Char('i'), Some(Cmd::Capture)),
            ("capital", C::Home, K::Char('I'), Some(Cmd::Capture)),
            ("text", C::Folder, K::Char('i'), Some(Cmd::Edit(InputRequest::InsertChar('i')))),
            ("question mark in text", C::Confirm, K::Char('?'), Some(Cmd::Edit(InputRequest::InsertChar('?')))),
            ("help everywhere", C::Confirm, K::F(1), Some(Cmd::Help)),
            ("accept in text", C::Confirm, K::Enter, Some(Cmd::Accept)),
            ("nothing", C::Running, K::Char('i'), None),
            ("enter never stops a job", C::AskCancel, K::Enter, Some(Cmd::Back)),
        ] {
            assert_eq!(command(context, false, &press(code)), want, "{name}");
        }
    }

    #[test]
    fn power_and_shell_exist_only_in_the_boot_environment() {
        for (code, booted, as_command) in [
            (K::Char('p'), Some(Cmd::Power), None),
            (K::Char('x'), Some(Cmd::Shell), None),
            (K::Char('q'), None, Some(Cmd::Quit)),
        ] {
            assert_eq!(command(C::Home, true, &press(code)), booted);
            assert_eq!(command(C::Home, false, &press(code)), as_command);
        }
    }

    #[test]
    fn no_key_has_two_meanings_in_one_place() {
        for booted in [false, true] {
            for context in [C::Home, C::Details, C::Stores, C::Folder, C::Images, C::Targets, C::Plan, C::Confirm]
                .into_iter()
                .chain([C::Running, C::Result, C::Reading, C::Power, C::AskCancel, C::Message])
            {
                let mut seen: Vec<(KeyCode, Cmd)> = Vec::new();
                for row in TABLE.iter().filter(|row| row.applies(context, booted)) {
                    for code in row.keys {
                        let clash = seen.iter().find(|(other, cmd)| other == code && *cmd != row.cmd);
                        assert_eq!(clash, None, "{context:?} {code:?} {:?}", row.cmd);
                        seen.push((*code, row.cmd));
                    }
                }
                assert!(!hints(context, booted, |_| true).is_empty(), "{context:?} says nothing");
            }
        }
    }
}

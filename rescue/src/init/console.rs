//! Which consoles there are and what each shows.
//!
//! Screen 1 of the video console has the program, screen 2 a shell, screen 3 the log. Every serial console that the
//! kernel writes to has the program as well: nobody can know which one is looked at.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::path::PathBuf;

use super::cmdline;

/// What a console shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The program, or the unattended job on the first of them.
    Screen,
    /// A shell.
    Shell,
    /// The log.
    Log,
}

/// One console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Its device node.
    pub path: PathBuf,
    /// What it shows.
    pub role: Role,
    /// What `TERM` is for programs on it.
    pub term: &'static str,
}

/// Decides the consoles.
///
/// * `command_line`: `/proc/cmdline`, for `console=`.
/// * `active`: `/sys/class/tty/console/active`, the consoles the kernel writes to; the last one is `/dev/console`.
/// * `exists`: whether there is such a node in `/dev`.
#[must_use]
pub fn consoles(command_line: &str, active: &str, exists: &dyn Fn(&str) -> bool) -> Vec<Console> {
    let on = |name: &str, role, term| Console { path: PathBuf::from("/dev").join(name), role, term };
    let mut out = Vec::new();
    if exists("tty1") {
        out.push(on("tty1", Role::Screen, "linux"));
    }
    for name in serial_names(command_line, active) {
        if exists(&name) {
            // What stands behind a serial line today is a terminal emulator that knows what xterm does.
            out.push(on(&name, Role::Screen, "xterm"));
        }
    }
    for (name, role) in [("tty2", Role::Shell), ("tty3", Role::Log)] {
        if exists(name) {
            out.push(on(name, role, "linux"));
        }
    }
    if out.is_empty() {
        out.push(on("console", Role::Screen, "xterm"));
    }
    // `/dev/console` is the last one the kernel was given: the one its person looks at.
    let preferred =
        cmdline_consoles(command_line).pop().or_else(|| active.split_whitespace().last().map(str::to_owned));
    let at = preferred.and_then(|name| out.iter().position(|c| c.role == Role::Screen && c.path.ends_with(&name)));
    if let Some(at) = at {
        let first = out.remove(at);
        out.insert(0, first);
    }
    out
}

/// Names of consoles that are no virtual terminals, each once.
fn serial_names(command_line: &str, active: &str) -> Vec<String> {
    let mut names = cmdline_consoles(command_line);
    names.extend(active.split_whitespace().map(str::to_owned));
    let mut out: Vec<String> = Vec::new();
    for name in names {
        let virtual_terminal = name.strip_prefix("tty").is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()));
        if !virtual_terminal && is_node_name(&name) && !out.contains(&name) {
            out.push(name);
        }
    }
    out
}

/// The devices of `console=`, in order: `ttyS0,115200n8` is `ttyS0`.
fn cmdline_consoles(command_line: &str) -> Vec<String> {
    let words = cmdline::words(command_line).into_iter();
    let values = words.filter(|(key, _)| key == "console").filter_map(|(_, value)| value);
    values.filter_map(|value| value.split(',').next().map(str::to_owned)).filter(|name| is_node_name(name)).collect()
}

/// `console=null` and `console=` switch consoles off; a slash would leave `/dev`.
fn is_node_name(name: &str) -> bool {
    !name.is_empty() && name != "null" && name.chars().all(|c| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_console_gets_its_screen() {
        let vt = ["tty1", "tty2", "tty3", "ttyS0", "ttyS1", "hvc0", "console"];
        let serial_only = ["ttyS0", "ttyS1", "console"];
        for (name, line, active, nodes, want) in [
            ("video alone", "quiet", "tty0", &vt[..], vec!["tty1", "tty2", "tty3"]),
            ("serial alone", "console=ttyS0", "ttyS0", &vt, vec!["ttyS0", "tty1", "tty2", "tty3"]),
            (
                "both, serial last",
                "console=tty0 console=ttyS0,115200n8",
                "tty0 ttyS0",
                &vt,
                vec!["ttyS0", "tty1", "tty2", "tty3"],
            ),
            (
                "both, video last",
                "console=ttyS0 console=tty1",
                "ttyS0 tty0",
                &vt,
                vec!["tty1", "ttyS0", "tty2", "tty3"],
            ),
            ("paravirtual", "console=hvc0", "hvc0", &vt, vec!["hvc0", "tty1", "tty2", "tty3"]),
            ("no video", "console=ttyS1", "ttyS1", &serial_only, vec!["ttyS1"]),
            ("a console that is not there", "console=ttyUSB0", "", &serial_only, vec!["console"]),
            ("out of /dev", "console=../x console=null", "", &["tty1", "../x"], vec!["tty1"]),
        ] {
            let got = consoles(line, active, &|node| nodes.contains(&node));
            let names: Vec<_> = got.iter().map(|c| c.path.to_str().unwrap().trim_start_matches("/dev/")).collect();
            assert_eq!(names, want, "{name}");
            assert_eq!(got[0].role, Role::Screen, "{name}");
        }
        let got = consoles("console=ttyS0", "", &|node| vt.contains(&node));
        assert_eq!((got[0].term, got[1].term), ("xterm", "linux"));
        assert_eq!((got[2].role, got[3].role), (Role::Shell, Role::Log));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_command_line_makes_it_panic(line in "((console=| |,|tty|S?[0-9]|/|\\.|null)){0,12}", active in "(tty|S|[0-9]| ){0,8}") {
            let got = consoles(&line, &active, &|_| true);
            prop_assert_eq!(got[0].role, Role::Screen);
        }
    }
}

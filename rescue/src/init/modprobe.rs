//! `/sbin/modprobe`: how the kernel asks for a module it needs, a file system or a cipher.
//!
//! The kernel runs `/sbin/modprobe -q -- NAME` with nothing open and nobody watching; a person in the emergency shell
//! may run it too.

use std::{io::Write, process::ExitCode};

use super::{
    log,
    modules::{Error, Loader},
};
use crate::job::plan::chain;

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    names: Vec<String>,
    quiet: bool,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut request = Request { names: Vec::new(), quiet: false };
    let (mut options, mut all) = (true, false);
    for arg in args {
        match arg.as_str() {
            "--" if options => options = false,
            "-a" | "--all" if options => all = true,
            "-q" | "--quiet" if options => request.quiet = true,
            "-b" | "-s" | "-v" | "--verbose" | "--syslog" if options => {}
            other if options && other.starts_with('-') => return Err(format!("{other} is not known here")),
            // `modprobe NAME param=value`: parameters come from the kernel command line alone.
            _ if all || request.names.is_empty() => request.names.push(arg),
            other => return Err(format!("{other}: module parameters go on the kernel command line")),
        }
    }
    if request.names.is_empty() { Err("which module?".to_owned()) } else { Ok(request) }
}

/// Loads what the arguments name. Success when each is loaded, or part of the kernel.
#[must_use]
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let request = match parse(args) {
        Ok(request) => request,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "modprobe: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut loader = Loader::for_running_kernel(&command_line);
    let mut code = ExitCode::SUCCESS;
    for name in &request.names {
        let Err(error) = loader.load(name) else { continue };
        code = ExitCode::FAILURE;
        let text = format!("modprobe: {}", chain(&error));
        if !request.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        // The kernel asks for many names nobody has, and does without; a module that exists and fails is news.
        if matches!(error, Error::Insert { .. }) {
            log::line(log::Level::Warning, text);
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_call_and_a_persons() {
        let words = |line: &str| parse(line.split_whitespace().map(str::to_owned));
        let request = |names: &[&str], quiet| Request { names: names.iter().map(|&n| n.to_owned()).collect(), quiet };
        assert_eq!(words("-q -- fs-ext4"), Ok(request(&["fs-ext4"], true)));
        assert_eq!(words("-q -- -odd"), Ok(request(&["-odd"], true)));
        assert_eq!(words("-a ext4 vfat"), Ok(request(&["ext4", "vfat"], false)));
        for line in ["", "-r ext4", "loop max_loop=8"] {
            assert!(words(line).is_err(), "{line}");
        }
    }
}

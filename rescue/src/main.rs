//! One binary, three lives: PID 1 of the boot environment, the kernel's `/sbin/modprobe`, and a command.

use std::{ffi::OsStr, path::Path, process::ExitCode};

use rescue::{cli, init};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    if Path::new(&called).file_name() == Some(OsStr::new("modprobe")) {
        return init::modprobe::main(args.map(|arg| arg.to_string_lossy().into_owned()));
    }
    if std::process::id() == 1 {
        init::main();
    }
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "unattended") {
        return init::unattended::main();
    }
    cli::main(args)
}

//! KVM only after it was seen to boot a kernel: a `/dev/kvm` that opens and then hangs its guests exists.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use crate::tools::tool;

/// How long a kernel may take to its first line under KVM. It takes less than one second where KVM works.
const FIRST_LINE: Duration = Duration::from_secs(8);

/// What executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's translator: some ten times slower, and everywhere.
    Tcg,
}

impl Accel {
    /// Returns what can be trusted here. Proven once for each boot of the host and kept in a temporary file;
    /// `RESCUE_ACCEL=kvm` or `tcg` decides otherwise.
    #[must_use]
    pub fn get(kernel: &Path) -> Self {
        static PROVEN: OnceLock<Accel> = OnceLock::new();
        *PROVEN.get_or_init(|| match env::var("RESCUE_ACCEL").as_deref() {
            Ok("kvm") => Self::Kvm,
            Ok("tcg") => Self::Tcg,
            _ => Self::remembered(kernel),
        })
    }

    fn remembered(kernel: &Path) -> Self {
        let memory = memory();
        match fs::read_to_string(&memory).as_deref() {
            Ok("kvm") => return Self::Kvm,
            Ok("tcg") => return Self::Tcg,
            _ => {}
        }
        let proven = if boots_under_kvm(kernel) { Self::Kvm } else { Self::Tcg };
        // Without the memory the next process proves it again: slower, never wrong.
        let _ = fs::write(memory, if proven == Self::Kvm { "kvm" } else { "tcg" });
        proven
    }

    /// Returns the QEMU arguments that choose it.
    #[must_use]
    pub const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }

    /// Returns how many processors a guest gets.
    ///
    /// The translator gives it one: with two, the kernel dies now and then while it patches its own code, because QEMU
    /// 7.2 goes on executing the breakpoint that is no longer there (`Oops: int3`).
    #[must_use]
    pub const fn processors(self) -> &'static str {
        match self {
            Self::Kvm => "2",
            Self::Tcg => "1",
        }
    }
}

fn memory() -> PathBuf {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    env::temp_dir().join(format!("rescue-accel-{}-{}", nix::unistd::getuid(), boot.trim()))
}

fn boots_under_kvm(kernel: &Path) -> bool {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let Ok(dir) = tempfile::tempdir() else { return false };
    let console = dir.path().join("console");
    let mut command = tool("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-m", "512", "-machine", "q35"]);
    command.args(Accel::Kvm.arguments()).arg("-kernel").arg(kernel);
    command.args(["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    speaks(command.stdout(Stdio::null()).stderr(Stdio::null()), &console)
}

fn speaks(command: &mut Command, console: &Path) -> bool {
    let Ok(mut child) = command.spawn() else { return false };
    let end = Instant::now() + FIRST_LINE;
    let mut heard = false;
    while !heard && Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(50));
        heard = fs::read(console).is_ok_and(|said| String::from_utf8_lossy(&said).contains("Linux version"));
    }
    // Both fail only for a child that has ended already.
    let _ = child.kill();
    let _ = child.wait();
    heard
}

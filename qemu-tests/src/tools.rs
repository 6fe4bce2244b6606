//! Programs of the distribution, found or named by the package that brings them.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, Result};

/// Program and Debian package, for those whose names differ.
const PACKAGES: &[(&str, &str)] = &[
    ("sgdisk", "gdisk"),
    ("sfdisk", "fdisk"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("dumpe2fs", "e2fsprogs"),
    ("mkfs.fat", "dosfstools"),
    ("fsck.fat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mkswap", "util-linux"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("xfs_repair", "xfsprogs"),
    ("btrfs", "btrfs-progs"),
    ("mkfs.exfat", "exfatprogs"),
    ("fsck.exfat", "exfatprogs"),
    ("mkfs.f2fs", "f2fs-tools"),
    ("fsck.f2fs", "f2fs-tools"),
    ("mkfs.hfsplus", "hfsprogs"),
    ("fsck.hfsplus", "hfsprogs"),
    ("ntfsfix", "ntfs-3g"),
    ("mkntfs", "ntfs-3g"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("sha256sum", "coreutils"),
    ("ldd", "libc-bin"),
    ("lvm", "lvm2"),
    ("mdadm", "mdadm"),
    ("xz", "xz-utils"),
];

/// Returns a command for `name`, looked for in `PATH` and where administrators' programs live.
///
/// # Panics
/// When it is not installed, with the package that has it: a test that cannot run must not pass.
#[must_use]
pub fn tool(name: &str) -> Command {
    let path = find(name).unwrap_or_else(|| {
        let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map_or(name, |(_, package)| package);
        panic!("{name} is not installed: apt-get install {package}")
    });
    let mut command = Command::new(path);
    command.env("LC_ALL", "C").env("MTOOLS_SKIP_CHECK", "1").stdin(Stdio::null());
    command
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// [`Error::Tool`] when it cannot be started or ends with anything but 0.
pub fn run(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command.output().map_err(|error| Error::Tool {
        command: line.clone(),
        status: error.to_string(),
        output: String::new(),
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Tool { command: line, status: output.status.to_string(), output: tail(&said, 40) })
}

/// Returns a command line as a shell would take it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let quote = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy().into_owned();
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=,:@+".contains(c));
        if plain && !word.is_empty() { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect::<Vec<_>>().join(" ")
}

/// Returns the last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Returns the SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`Error::Tool`] when it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let line = run(tool("sha256sum").arg(path))?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_so_that_a_shell_reads_it_back() {
        let mut command = Command::new("echo");
        command.args(["a b", "it's", "x=1", ""]);
        let shell = Command::new("sh").arg("-c").arg(shown(&command)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "a b it's x=1 \n");
    }

    #[test]
    fn a_failing_program_is_an_error_with_its_words() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("out\nerr"), "{error}");
    }
}

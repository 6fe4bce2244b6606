//! The program as `scripts/build` uses it, on a module folder made here; its archive is read by other readers.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const RELEASE: &str = "6.12.0-test";

/// A folder with all that the program reads.
struct Inputs {
    folder: TempDir,
}

impl Inputs {
    fn new() -> Inputs {
        let inputs = Inputs { folder: tempfile::tempdir().unwrap() };
        let modules = format!("modules/{RELEASE}");
        for (path, content) in [
            ("rescue", "the program"),
            ("busybox", "the shell"),
            ("vmlinuz", "no bzImage"),
            (&format!("{modules}/kernel/fs/ext4/ext4.ko.xz"), "ext4, compressed and signed"),
            (&format!("{modules}/kernel/fs/jbd2/jbd2.ko.xz"), "jbd2"),
            (&format!("{modules}/kernel/crypto/crc32c_generic.ko.xz"), "crc32c"),
            (&format!("{modules}/kernel/sound/snd.ko.xz"), "not wanted"),
            (
                &format!("{modules}/modules.dep"),
                "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz\nkernel/fs/jbd2/jbd2.ko.xz:\n\
                 kernel/crypto/crc32c_generic.ko.xz:\nkernel/sound/snd.ko.xz:\n",
            ),
            (
                &format!("{modules}/modules.alias"),
                "alias crypto-crc32c crc32c_generic\nalias fs-ext4 ext4\nalias x snd\n",
            ),
            (&format!("{modules}/modules.softdep"), "softdep ext4 pre: crypto-crc32c\nsoftdep snd pre: x\n"),
            (&format!("{modules}/modules.builtin"), "kernel/drivers/input/serio/i8042.ko\n"),
        ] {
            inputs.write(path, content);
        }
        inputs
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn build(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_initramfs"));
        command.env_remove("SOURCE_DATE_EPOCH").args(more);
        for (option, path) in [("--rescue", "rescue"), ("--busybox", "busybox"), ("--output", "out.zst")] {
            command.args([option, &self.path(path)]);
        }
        command.args(["--modules", &self.path(&format!("modules/{RELEASE}"))]).output().unwrap()
    }

    /// The archive of a run that must succeed, decompressed.
    fn archive(&self, more: &[&str]) -> Vec<u8> {
        let output = self.build(more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        zstd::decode_all(fs::File::open(self.path("out.zst")).unwrap()).unwrap()
    }
}

/// Unpacks or lists with busybox, whose code shares nothing with ours.
fn busybox_cpio(archive: &[u8], options: &[&str], folder: &Path) -> String {
    let stored = folder.join("archive.cpio");
    fs::write(&stored, archive).unwrap();
    let mut command = Command::new("busybox");
    command
        .env("TZ", "UTC")
        .arg("cpio")
        .args(options)
        .current_dir(folder)
        .stdin(Stdio::from(fs::File::open(&stored).unwrap()));
    let output = command.output().expect("busybox is needed: package busybox-static");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn same_input_same_bytes_in_any_folder_at_any_time() {
    let (one, other) = (Inputs::new(), Inputs::new());
    let long_ago = fs::File::open(other.path("rescue")).unwrap();
    long_ago.set_modified(std::time::UNIX_EPOCH).unwrap();
    one.build(&[]);
    other.build(&[]);
    let bytes = |inputs: &Inputs| fs::read(inputs.path("out.zst")).unwrap();
    assert_eq!(bytes(&one), bytes(&other));
    other.write("rescue", "the programme");
    other.build(&[]);
    assert_ne!(bytes(&one), bytes(&other), "another input");
}

#[test]
fn another_reader_finds_every_entry() {
    let inputs = Inputs::new();
    let scratch = tempfile::tempdir().unwrap();
    let listing = busybox_cpio(&inputs.archive(&[]), &["-tv"], scratch.path());
    // Without the length, which is shown for links by some versions only.
    let line_of = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        [&words[..2], &words[3..]].concat().join(" ")
    };
    for want in [
        "lrwxrwxrwx 0/0 1970-01-01 00:00:00 init -> bin/rescue",
        "-rwxr-xr-x 0/0 1970-01-01 00:00:00 bin/rescue",
        "-rwxr-xr-x 0/0 1970-01-01 00:00:00 bin/busybox",
        "lrwxrwxrwx 0/0 1970-01-01 00:00:00 bin/sh -> busybox",
        "lrwxrwxrwx 0/0 1970-01-01 00:00:00 sbin/modprobe -> ../bin/rescue",
        "crw------- 0/0 1970-01-01 00:00:00 dev/console",
        "drwxrwxrwt 0/0 1970-01-01 00:00:00 tmp",
        "-rw-r--r-- 0/0 1970-01-01 00:00:00 lib/modules/6.12.0-test/kernel/fs/jbd2/jbd2.ko.xz",
    ] {
        assert!(listing.lines().any(|line| line_of(line) == want), "{want} is not in\n{listing}");
    }
    assert!(!listing.contains("snd"), "{listing}");
}

#[test]
fn modules_arrive_as_they_were_and_their_index_is_about_them() {
    let inputs = Inputs::new();
    let archive = inputs.archive(&[]);
    let scratch = tempfile::tempdir().unwrap();
    busybox_cpio(&archive, &["-i", "-d", "lib/modules/*"], scratch.path());
    let read = |path: &str| fs::read_to_string(scratch.path().join("lib/modules").join(RELEASE).join(path)).unwrap();
    assert_eq!(read("kernel/fs/ext4/ext4.ko.xz"), "ext4, compressed and signed");
    assert_eq!(read("modules.alias"), "alias crypto-crc32c crc32c_generic\nalias fs-ext4 ext4\n");
    assert_eq!(read("modules.softdep"), "softdep ext4 pre: crypto-crc32c\n");
    assert_eq!(read("modules.builtin"), "kernel/drivers/input/serio/i8042.ko\n");
    assert_eq!(read("modules.dep").lines().count(), 3, "{}", read("modules.dep"));
}

#[test]
fn a_kernel_of_another_version_is_refused() {
    let inputs = Inputs::new();
    let mut image = vec![0; 0x400];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x300..0x30c].copy_from_slice(b"6.1.0 (a) #1");
    inputs.write("vmlinuz", &image);
    let kernel = inputs.path("vmlinuz");
    let refused = inputs.build(&["--kernel", &kernel]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(message, format!("initramfs: {kernel} is Linux 6.1.0, the modules are for 6.12.0-test\n"));
    assert!(!Path::new(&inputs.path("out.zst")).exists());
}

#[test]
fn failures_name_the_file_and_wrong_use_is_told_apart() {
    let inputs = Inputs::new();
    fs::remove_file(inputs.path("busybox")).unwrap();
    let failed = inputs.build(&[]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8(failed.stderr).unwrap().contains(&inputs.path("busybox")));
    for wrong in [&["--nonsense"][..], &["--level", "0"], &["--file", "no-equals-sign"]] {
        assert_eq!(inputs.build(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn more_files_can_be_given_but_not_over_others() {
    let inputs = Inputs::new();
    let rescue = inputs.path("rescue");
    let archive = inputs.archive(&["--file", &format!("{rescue}=/etc/job.json")]);
    let scratch = tempfile::tempdir().unwrap();
    busybox_cpio(&archive, &["-i", "-d", "etc/job.json"], scratch.path());
    assert_eq!(fs::read_to_string(scratch.path().join("etc/job.json")).unwrap(), "the program");
    let refused = inputs.build(&["--file", &format!("{rescue}=/init")]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("/init is there twice"));
}

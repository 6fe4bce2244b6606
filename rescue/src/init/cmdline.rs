//! The kernel command line: its words, and the unattended job it may ask for.
//!
//! ```text
//! rescue.job=capture|restore|verify   what to do; without it the screens start
//! rescue.disk=serial:X|wwn:X|guid:X   the disk, by what stays with it; never a device node
//! rescue.store=label:L[:/FOLDER]      the store: file system by label or UUID, and the folder in it;
//!              uuid:U[:/FOLDER]|PATH  or a folder that is there already, for a capture on a mounted disk
//! rescue.image=ID|latest              restore: which one; verify: only this one
//! rescue.level=N  rescue.note=TEXT    capture: zstd level 1 to 19; a note kept with the image
//! rescue.swap-files=keep              capture: keep what lies in swap, page and hibernation files as well
//! rescue.free=leave|discard|zero      restore: what becomes of free bytes; default: as suits the disk
//! rescue.report=PORT                  JSON lines go there: ttyS1, hvc0, /dev/virtio-ports/NAME
//! rescue.then=poweroff|reboot|stay    what follows the result; default stay
//! rescue.failed=poweroff|reboot|stay  what follows a result that is not COMPLETE; default stay:
//!                                    nobody must take a machine that is off for one that was imaged
//! rescue.wait=SECONDS                 how long disk and store may take to appear; default 30
//! ```
//!
//! A key that is unknown, given twice or of no use to the job is an error: on a machine that nobody watches a
//! misspelt key must not become a default.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    block::DiskRef,
    escape::Escaped,
    job::{Free, ImageRef, default_level},
};

/// Splits a command line as the kernel does: at white space outside double quotes; quotes round a word or round the
/// value after `=` are taken off.
///
/// Source: Linux kernel, lib/cmdline.c, `next_arg`.
#[must_use]
pub fn words(line: &str) -> Vec<(String, Option<String>)> {
    let mut out = Vec::new();
    let mut rest = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0');
    while !rest.is_empty() {
        let mut quoted = false;
        let end = rest.find(|c: char| {
            quoted ^= c == '"';
            c.is_ascii_whitespace() && !quoted
        });
        let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
        out.push(word_parts(word));
        rest = behind.trim_start_matches(|c: char| c.is_ascii_whitespace());
    }
    out
}

fn word_parts(word: &str) -> (String, Option<String>) {
    let word = match word.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => word,
    };
    // A word that starts with `=` has no name, so the kernel takes it whole.
    match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = match value.strip_prefix('"') {
                Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
                None => value,
            };
            (key.to_owned(), Some(value.to_owned()))
        }
        _ => (word.to_owned(), None),
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Images a disk.
    Capture,
    /// Overwrites a disk.
    Restore,
    /// Checks a store.
    Verify,
}

impl Kind {
    /// Returns the word for it, `capture`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Restore => "restore",
            Self::Verify => "verify",
        }
    }
}

/// What follows the result of an unattended job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The machine goes off.
    Poweroff,
    /// The machine starts again.
    Reboot,
    /// The machine stays as it is, with the result on its console.
    #[default]
    Stay,
}

/// How the kernel command line names a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRef {
    /// The one file system with this label, and the folder in it.
    Label(String, PathBuf),
    /// The one file system with this UUID, and the folder in it.
    Uuid(String, PathBuf),
    /// A folder that is there already; for a capture on a mounted disk.
    Folder(PathBuf),
}

/// An unattended job, as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Which disk, by its identity; `None` for a verify.
    pub disk: Option<DiskRef>,
    /// Which store.
    pub store: StoreRef,
    /// Which image; `None` for a capture, and for a verify of everything.
    pub image: Option<ImageRef>,
    /// zstd level.
    pub level: i32,
    /// A note kept with the image.
    pub note: Option<String>,
    /// Keep the contents of swap, page and hibernation files.
    pub keep_swap_files: bool,
    /// What a restore does with free bytes; `None` for what suits the disk.
    pub free: Option<Free>,
}

/// All that the kernel command line says to this program. What it says wrong is in `problems`, and then there is no
/// `request`; report and end are known even then, so that the refusal can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The word after `rescue.job=`, whatever it is: somebody wants an unattended job.
    pub job: Option<String>,
    /// The job, when all of it makes sense.
    pub request: Option<Request>,
    /// The port for JSON lines.
    pub report: Option<String>,
    /// What follows a COMPLETE job.
    pub then: Then,
    /// What follows any other.
    pub failed: Then,
    /// How long disk and store may take to appear.
    pub wait: Duration,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

const KEYS: [&str; 12] =
    ["job", "disk", "store", "image", "level", "note", "swap-files", "free", "report", "then", "failed", "wait"];
const MAX_WAIT: u64 = 3600;

/// Reads the `rescue.` words of a kernel command line.
#[must_use]
pub fn parse(line: &str) -> Parsed {
    let mut keys = Keys::default();
    for (key, value) in words(line) {
        if let Some(key) = key.strip_prefix("rescue.") {
            keys.add(key, value);
        }
    }
    let then = keys.end("then").unwrap_or_default();
    let failed = keys.end("failed").unwrap_or(Then::Stay);
    let report = keys.take("report");
    let wait = Duration::from_secs(keys.number("wait", 0..=MAX_WAIT).unwrap_or(30));
    let job = keys.take("job");
    let request = job.as_deref().and_then(|word| keys.request(word));
    if job.is_none() && (report.is_some() || !keys.given.is_empty()) {
        keys.problems.push("there are rescue. keys and no rescue.job".to_owned());
    }
    let problems = keys.problems;
    Parsed { job, request: request.filter(|_| problems.is_empty()), report, then, failed, wait, problems }
}

#[derive(Default)]
struct Keys {
    given: Vec<(String, String)>,
    problems: Vec<String>,
}

impl Keys {
    fn add(&mut self, key: &str, value: Option<String>) {
        let shown = Escaped(key);
        match value {
            _ if !KEYS.contains(&key) => self.problems.push(format!("rescue.{shown} is not known")),
            None => self.problems.push(format!("rescue.{shown} has no value")),
            Some(value) if value.is_empty() => self.problems.push(format!("rescue.{shown} is empty")),
            Some(_) if self.given.iter().any(|(have, _)| have == key) => {
                self.problems.push(format!("rescue.{shown} is given twice"));
            }
            Some(value) => self.given.push((key.to_owned(), value)),
        }
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.given.iter().position(|(have, _)| have == key)?;
        Some(self.given.remove(at).1)
    }

    fn number(&mut self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let text = self.take(key)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            self.problems.push(format!("rescue.{key}={} is not a number from {low} to {high}", Escaped(&text)));
        }
        number
    }

    fn end(&mut self, key: &str) -> Option<Then> {
        match self.take(key)?.as_str() {
            "poweroff" => Some(Then::Poweroff),
            "reboot" => Some(Then::Reboot),
            "stay" => Some(Then::Stay),
            other => {
                self.problems.push(format!("rescue.{key}={} is not poweroff, reboot or stay", Escaped(other)));
                None
            }
        }
    }

    /// Tells whether `key` says `keep`, the only thing that it can say.
    fn keeps(&mut self, key: &str) -> bool {
        match self.take(key).as_deref() {
            None => false,
            Some("keep") => true,
            Some(other) => {
                self.problems.push(format!("rescue.{key}={} is not keep", Escaped(other)));
                false
            }
        }
    }

    fn free(&mut self) -> Option<Free> {
        let text = self.take("free")?;
        let free = text.parse().ok();
        if free.is_none() {
            self.problems.push(format!("rescue.free={} is not leave, discard or zero", Escaped(&text)));
        }
        free
    }

    /// Takes the keys of the job itself; whatever is left over does not belong to it.
    fn request(&mut self, word: &str) -> Option<Request> {
        let kind = match word {
            "capture" => Kind::Capture,
            "restore" => Kind::Restore,
            "verify" => Kind::Verify,
            other => {
                self.problems.push(format!("rescue.job={} is not capture, restore or verify", Escaped(other)));
                return None;
            }
        };
        let disk = if kind == Kind::Verify { None } else { self.disk() };
        let store = self.store();
        let image = if kind == Kind::Capture { None } else { self.take("image").map(ImageRef::from) };
        if kind == Kind::Restore && image.is_none() {
            self.problems.push("a restore needs rescue.image".to_owned());
        }
        let (level, note, keep_swap_files) = match kind {
            Kind::Capture => (self.number("level", 1..=19), self.take("note"), self.keeps("swap-files")),
            _ => (None, None, false),
        };
        let free = if kind == Kind::Restore { self.free() } else { None };
        for (key, _) in std::mem::take(&mut self.given) {
            self.problems.push(format!("rescue.{key} means nothing to a {word}"));
        }
        let level = level.and_then(|level| i32::try_from(level).ok()).unwrap_or_else(default_level);
        Some(Request { kind, disk, store: store?, image, level, note, keep_swap_files, free })
    }

    fn disk(&mut self) -> Option<DiskRef> {
        let Some(text) = self.take("disk") else {
            self.problems.push("rescue.disk is missing".to_owned());
            return None;
        };
        let disk = DiskRef::from(text.clone());
        let named = text.split_once(':').is_some_and(|(_, name)| !name.trim().is_empty());
        if disk.is_identity() && named {
            return Some(disk);
        }
        self.problems.push(format!(
            "rescue.disk={} does not stay with the disk: name it by serial:, wwn: or guid:",
            Escaped(&text)
        ));
        None
    }

    fn store(&mut self) -> Option<StoreRef> {
        let Some(text) = self.take("store") else {
            self.problems.push("rescue.store is missing".to_owned());
            return None;
        };
        let store = store_ref(&text);
        if store.is_none() {
            let shown = Escaped(&text);
            self.problems.push(format!("rescue.store={shown} is not label:L[:/FOLDER], uuid:U[:/FOLDER] or a folder"));
        }
        store
    }
}

fn store_ref(text: &str) -> Option<StoreRef> {
    if text.starts_with('/') {
        // A device node may be another disk at the next start.
        let folder = PathBuf::from(text);
        return (!folder.starts_with("/dev") && is_plain(text)).then_some(StoreRef::Folder(folder));
    }
    let (make, rest) = match (text.strip_prefix("label:"), text.strip_prefix("uuid:")) {
        (Some(rest), _) => (StoreRef::Label as fn(String, PathBuf) -> StoreRef, rest),
        (_, Some(rest)) => (StoreRef::Uuid as fn(String, PathBuf) -> StoreRef, rest),
        _ => return None,
    };
    let (name, folder) = rest.split_once(":/").unwrap_or((rest, ""));
    (!name.is_empty() && is_plain(folder)).then(|| make(name.to_owned(), PathBuf::from(folder.trim_matches('/'))))
}

/// Tells whether a folder stays below where it starts.
fn is_plain(folder: &str) -> bool {
    !folder.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_split_and_unquoted_as_the_kernel_does() {
        for (line, want) in [
            ("quiet  a=b\n", vec![("quiet", None), ("a", Some("b"))]),
            ("note=\"two words\" x", vec![("note", Some("two words")), ("x", None)]),
            ("\"note=two words\" x", vec![("note", Some("two words")), ("x", None)]),
            ("a=b=c =d e=", vec![("a", Some("b=c")), ("=d", None), ("e", Some(""))]),
            ("a=x\"y z\"", vec![("a", Some("x\"y z\""))]),
            ("open=\"never closed", vec![("open", Some("never closed"))]),
            ("", vec![]),
            ("  \t ", vec![]),
            ("ü=ß", vec![("ü", Some("ß"))]),
        ] {
            let got = words(line);
            let got: Vec<_> = got.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn a_capture_with_everything() {
        let parsed = parse(
            "console=ttyS0 rescue.job=capture rescue.disk=serial:SN-1 rescue.store=label:BACKUP:/stores/a rescue.level=9 \
             rescue.note=\"before the update\" rescue.swap-files=keep rescue.report=ttyS1 rescue.then=poweroff rescue.wait=5 quiet",
        );
        assert_eq!(parsed.problems, Vec::<String>::new());
        assert_eq!(
            parsed.request,
            Some(Request {
                kind: Kind::Capture,
                disk: Some(DiskRef::Serial("SN-1".to_owned())),
                store: StoreRef::Label("BACKUP".to_owned(), "stores/a".into()),
                image: None,
                level: 9,
                note: Some("before the update".to_owned()),
                keep_swap_files: true,
                free: None,
            })
        );
        assert_eq!((parsed.then, parsed.failed, parsed.wait), (Then::Poweroff, Then::Stay, Duration::from_secs(5)));
        assert_eq!(parsed.report.as_deref(), Some("ttyS1"));
    }

    #[test]
    fn restore_and_verify_and_nothing() {
        let restore = parse(
            "rescue.job=restore rescue.disk=wwn:eui.1 rescue.store=uuid:AB-1 rescue.image=latest rescue.failed=reboot rescue.free=zero",
        );
        let request = restore.request.unwrap();
        assert_eq!((request.image, request.free), (Some(ImageRef::Latest), Some(Free::Zero)));
        assert_eq!(request.store, StoreRef::Uuid("AB-1".to_owned(), PathBuf::new()));
        assert_eq!((restore.then, restore.failed), (Then::Stay, Then::Reboot));
        let verify = parse("rescue.job=verify rescue.store=/run/s").request.unwrap();
        assert_eq!((verify.disk, verify.image), (None, None));
        let nothing = parse("root=/dev/sda1 rescue quiet");
        assert_eq!((nothing.job, nothing.request, nothing.problems.len()), (None, None, 0));
    }

    #[test]
    fn what_makes_no_sense_is_said_and_nothing_is_done() {
        let capture = "rescue.job=capture rescue.disk=serial:1 rescue.store=label:B";
        let named = "name it by serial:, wwn: or guid:";
        for (line, want) in [
            (format!("{capture} rescue.levle=3"), "rescue.levle is not known".to_owned()),
            (format!("{capture} rescue.level=20"), "rescue.level=20 is not a number from 1 to 19".to_owned()),
            (format!("{capture} rescue.level=-1"), "rescue.level=-1 is not a number from 1 to 19".to_owned()),
            (format!("{capture} rescue.wait=9999"), "rescue.wait=9999 is not a number from 0 to 3600".to_owned()),
            (format!("{capture} rescue.swap-files=drop"), "rescue.swap-files=drop is not keep".to_owned()),
            (
                "rescue.job=verify rescue.store=/s rescue.swap-files=keep".to_owned(),
                "rescue.swap-files means nothing to a verify".to_owned(),
            ),
            (format!("{capture} rescue.free=zero"), "rescue.free means nothing to a capture".to_owned()),
            (
                "rescue.job=restore rescue.free=wipe".to_owned(),
                "rescue.free=wipe is not leave, discard or zero".to_owned(),
            ),
            (format!("{capture} rescue.image=x"), "rescue.image means nothing to a capture".to_owned()),
            (format!("{capture} rescue.then=off"), "rescue.then=off is not poweroff, reboot or stay".to_owned()),
            (format!("{capture} rescue.disk=serial:2"), "rescue.disk is given twice".to_owned()),
            (format!("{capture} rescue.note"), "rescue.note has no value".to_owned()),
            (format!("{capture} rescue.note="), "rescue.note is empty".to_owned()),
            (
                "rescue.job=capture rescue.disk=/dev/sda rescue.store=label:B".to_owned(),
                format!("rescue.disk=/dev/sda does not stay with the disk: {named}"),
            ),
            (
                "rescue.job=capture rescue.disk=serial: rescue.store=label:B".to_owned(),
                format!("rescue.disk=serial: does not stay with the disk: {named}"),
            ),
            (
                "rescue.job=capture rescue.disk=nbd:h:1 rescue.store=label:B".to_owned(),
                format!("rescue.disk=nbd:h:1 does not stay with the disk: {named}"),
            ),
            ("rescue.job=capture rescue.disk=serial:1".to_owned(), "rescue.store is missing".to_owned()),
            ("rescue.job=capture rescue.store=label:B".to_owned(), "rescue.disk is missing".to_owned()),
            (
                "rescue.job=verify rescue.store=/dev/sdb1".to_owned(),
                "rescue.store=/dev/sdb1 is not label:L[:/FOLDER], uuid:U[:/FOLDER] or a folder".to_owned(),
            ),
            (
                "rescue.job=verify rescue.store=label:B:/../x".to_owned(),
                "rescue.store=label:B:/../x is not label:L[:/FOLDER], uuid:U[:/FOLDER] or a folder".to_owned(),
            ),
            (
                "rescue.job=restore rescue.disk=guid:1 rescue.store=label:B".to_owned(),
                "a restore needs rescue.image".to_owned(),
            ),
            (
                "rescue.job=erase rescue.disk=serial:1".to_owned(),
                "rescue.job=erase is not capture, restore or verify".to_owned(),
            ),
            ("rescue.report=ttyS1".to_owned(), "there are rescue. keys and no rescue.job".to_owned()),
        ] {
            let parsed = parse(&line);
            assert!(parsed.request.is_none(), "{line}");
            assert!(parsed.problems.contains(&want), "{line}: {:?}", parsed.problems);
        }
    }

    #[test]
    fn a_refusal_can_still_be_told() {
        let parsed = parse("rescue.job=capture rescue.disc=serial:1 rescue.report=ttyS1 rescue.then=reboot");
        assert_eq!((parsed.report.as_deref(), parsed.then), (Some("ttyS1"), Then::Reboot));
        assert_eq!(parsed.job.as_deref(), Some("capture"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn no_command_line_makes_it_panic_or_accept_a_device_node(
            line in "(( |\"|=|rescue\\.|job=|capture|restore|disk=|/dev/sda|serial:|store=|label:|:/|image=|latest|x|ü)){0,24}",
        ) {
            let parsed = parse(&line);
            if let Some(request) = parsed.request {
                prop_assert!(request.disk.is_none_or(|disk| disk.is_identity()));
            }
        }

        #[test]
        fn plain_words_come_back(list in proptest::collection::vec("[a-z.]{1,6}(=[a-z0-9:/]{0,6})?", 0..8)) {
            let got: Vec<String> = words(&list.join("  ")).into_iter()
                .map(|(key, value)| value.map_or(key.clone(), |value| format!("{key}={value}"))).collect();
            prop_assert_eq!(got, list);
        }
    }
}

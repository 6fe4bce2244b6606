//! What screens and the command line show of disks, images and plans: plain data, ready to draw or to print as JSON.

use serde::{Deserialize, Serialize};

use crate::{
    block::{Identity, discovery::Use},
    extent::Extent,
    fs::{Detected, Inside, LeftOut, Usage},
    store::manifest::ImageState,
    table::{Partition, Problem, RegionKind, TableKind},
};

/// A disk with its table and what its regions hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskView {
    /// What tells it from others.
    pub identity: Identity,
    /// Whether it has moving parts.
    pub rotational: bool,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// What it is in use by.
    pub in_use: Vec<Use>,
    /// What kind of table it has; `None` where the disk or its table could not be read.
    pub table: Option<TableKind>,
    /// Disk GUID or MBR signature.
    pub disk_id: Option<String>,
    /// Regions, tiling the disk, in order.
    pub regions: Vec<RegionView>,
    /// What is wrong with the table.
    pub problems: Vec<Problem>,
    /// Why the disk or its table could not be read.
    pub error: Option<String>,
}

/// One region of a disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionView {
    /// What it is.
    #[serde(flatten)]
    pub kind: RegionKind,
    /// Its bytes.
    pub range: Extent,
    /// Its entry in the table.
    pub partition: Option<Partition>,
    /// What it holds.
    pub detected: Option<Detected>,
    /// Bytes an image keeps of it; `None` where that was not asked for.
    pub used: Option<u64>,
    /// What the file system's own books say; `None` where there are none, or that was not asked for.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Files whose contents an image does not keep.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// The volumes of a container.
    #[serde(default)]
    pub inside: Vec<Inside>,
    /// Why more is kept than the file system's own books say.
    pub widened: Vec<String>,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

impl RegionView {
    /// A region of which nothing is known but what and where it is.
    #[must_use]
    pub const fn new(kind: RegionKind, range: Extent) -> Self {
        Self {
            kind,
            range,
            partition: None,
            detected: None,
            used: None,
            usage: None,
            left_out: Vec::new(),
            inside: Vec::new(),
            widened: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// One image of a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageView {
    /// Image id.
    pub id: String,
    /// When the capture began, RFC 3339 in UTC.
    pub created: String,
    /// Whether all of the source could be read.
    pub state: ImageState,
    /// The machine's name.
    pub machine: Option<String>,
    /// The disk as a person calls it: model and serial, or its path.
    pub disk: String,
    /// What tells the disk from others.
    pub identity: Identity,
    /// A person's note, or the labels of its file systems.
    pub label: String,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Bytes kept.
    pub allocated: u64,
    /// Bytes that were new in the store with it.
    pub stored: u64,
    /// Smallest disk it can be restored to now, in bytes.
    pub needs: u64,
}

/// What a store holds, newest image first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreView {
    /// Images that can be read.
    pub images: Vec<ImageView>,
    /// Files that should be images and cannot be read, and other damage seen in passing, one sentence each.
    pub problems: Vec<String>,
}

/// A plan, as the confirm screen and `--dry-run` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// `capture`, `restore`, `verify` or `export`.
    pub job: String,
    /// What will happen, in one sentence.
    pub title: String,
    /// The disk that is read or overwritten; `None` for a verify or an export.
    pub disk: Option<Identity>,
    /// What happens, step by step.
    pub steps: Vec<Step>,
    /// Bytes that will be read from or written to the disk, or written by an export.
    pub bytes: u64,
    /// What a person should know before saying yes.
    pub warnings: Vec<String>,
    /// What has to be typed before the job may run; `None` for jobs that overwrite nothing.
    pub confirm: Option<Confirm>,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The region it is about, as a person calls it.
    pub region: String,
    /// Its bytes on the disk.
    pub range: Extent,
    /// What happens to it, as a clause.
    pub what: String,
    /// Bytes read or written for it.
    pub bytes: u64,
}

/// What a person types to allow a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// What to type, in words: `the last 4 letters and digits of the serial number`.
    pub prompt: String,
    /// The answer; never empty.
    pub answer: String,
}

/// How much of a serial number is asked for.
const TYPED: usize = 4;

impl Confirm {
    /// Asks for the end of the disk's serial number, or for its name where the serial number has too little to type.
    #[must_use]
    pub fn of(disk: &Identity) -> Self {
        // What no keyboard has, or what a line trims, cannot be asked for.
        let typable = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<Vec<_>>();
        let serial = typable(disk.serial.as_deref().unwrap_or_default());
        if serial.len() >= TYPED {
            let answer = serial[serial.len() - TYPED..].iter().collect();
            let prompt = format!("the last {TYPED} letters and digits of the target's serial number");
            return Self { prompt, answer };
        }
        let name = disk.path.rsplit('/').next().unwrap_or_default().trim();
        let answer = if name.is_empty() { "overwrite" } else { name };
        let prompt =
            if name.is_empty() { "the word overwrite".to_owned() } else { format!("the name of the target, {name}") };
        Self { prompt, answer: answer.to_owned() }
    }

    /// Tells whether `typed` is the answer; upper and lower case are one, and so are a name and its path.
    #[must_use]
    pub fn accepts(&self, typed: &str) -> bool {
        let typed = typed.trim();
        let name = typed.rsplit('/').next().unwrap_or(typed);
        !self.answer.is_empty() && name.eq_ignore_ascii_case(&self.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::Transport,
        units::{GIB, SectorSize},
    };

    #[test]
    fn what_is_asked_for_can_be_typed_and_is_never_nothing() {
        for (serial, path, answer) in [
            (Some("S4EWNX0R"), "/dev/sda", "NX0R"),
            (Some("S3Z8 123"), "/dev/sda", "8123"),
            (Some("\u{1}\u{2}\u{3}"), "/dev/sdb", "sdb"),
            (Some("A1"), "/dev/sdb", "sdb"),
            (None, "images/disk.raw", "disk.raw"),
            (None, "/", "overwrite"),
        ] {
            let disk = Identity {
                path: path.to_owned(),
                model: None,
                serial: serial.map(str::to_owned),
                wwn: None,
                transport: Transport::Other,
                len: GIB,
                sector_size: SectorSize::B512,
                physical_sector_size: SectorSize::B512,
            };
            let confirm = Confirm::of(&disk);
            assert_eq!(confirm.answer, answer);
            assert!(confirm.accepts(&format!(" {}\n", answer.to_lowercase())));
            assert!(!confirm.accepts("") && !confirm.accepts("\n") && !confirm.accepts("yes"));
        }
    }
}

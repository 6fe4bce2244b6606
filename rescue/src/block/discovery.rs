//! Finding disks through sysfs, and what they are in use by.
//!
//! Nothing here opens a device: sysfs and procfs say all there is to know without touching a medium. Everything takes
//! the two roots as [`Roots`], so that tests run on trees of their own.
//!
//! Source: Linux kernel, `Documentation/ABI/stable/sysfs-block`, `Documentation/ABI/testing/sysfs-class-bdi` and
//! proc(5) on `mountinfo` and `swaps`.

mod identity;
mod uses;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::uses::backing_disks;
pub(crate) use self::uses::loops_over;
use super::{Discard, Error, Identity};
use crate::units::SectorSize;

/// What kind of block device it is. Only [`DiskClass::Disk`] is offered for imaging unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskClass {
    /// A disk.
    Disk,
    /// Memory: `ram`, `zram`.
    Ram,
    /// A file seen as a disk: `loop`.
    Loop,
    /// An optical drive.
    Optical,
    /// A hardware boot or RPMB partition of an eMMC.
    BootPartition,
    /// Made of other devices: device mapper, MD.
    Stacked,
    /// A floppy, or anything else.
    Other,
}

/// One block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The kernel's name, `nvme0n1`.
    pub name: String,
    /// What tells it from others; `path` is its device node.
    pub identity: Identity,
    /// What kind it is.
    pub class: DiskClass,
    /// Whether it has moving parts, as the kernel says.
    pub rotational: bool,
    /// How it takes the news that bytes are not needed any more; `None` where it does not.
    #[serde(default)]
    pub discard: Option<Discard>,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// What it, or a part of it, is in use by.
    pub in_use: Vec<Use>,
}

/// One use of a disk or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The part, by kernel name: `sda1`.
    pub part: String,
    /// By what: `mounted at /`, `swap`, `dm-0 (vg-root)`.
    pub by: String,
    /// Whether that use can write to it.
    pub writes: bool,
}

/// Where sysfs and procfs are mounted.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// `/sys`.
    pub(crate) sys: PathBuf,
    /// `/proc`.
    pub(crate) proc: PathBuf,
}

impl Roots {
    /// The running system's.
    pub(crate) fn system() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }

    fn block(&self) -> PathBuf {
        self.sys.join("block")
    }
}

/// A device number, major and minor.
pub(crate) type DevNo = (u64, u64);

/// One block device as sysfs shows it: a disk or a partition of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The kernel's name.
    pub(crate) name: String,
    /// Its folder in sysfs.
    pub(crate) dir: PathBuf,
    /// Its device number.
    pub(crate) dev: DevNo,
}

impl Node {
    fn at(dir: PathBuf) -> Option<Self> {
        let name = dir.file_name()?.to_str()?.to_owned();
        let dev = parse_dev(&attribute(&dir.join("dev"))?)?;
        Some(Self { name, dir, dev })
    }

    /// Finds the device with this number, wherever sysfs keeps it.
    pub(crate) fn by_number(roots: &Roots, (major, minor): DevNo) -> Option<Self> {
        Self::at(fs::canonicalize(roots.sys.join(format!("dev/block/{major}:{minor}"))).ok()?)
    }

    /// Tells whether it is a partition of another device.
    pub(crate) fn is_partition(&self) -> bool {
        self.dir.join("partition").exists()
    }

    /// Returns the disk it is a partition of; itself for a disk.
    pub(crate) fn whole_disk(&self) -> Option<Self> {
        if self.is_partition() { Self::at(self.dir.parent()?.to_owned()) } else { Some(self.clone()) }
    }

    /// Lists its partitions by name.
    pub(crate) fn partitions(&self) -> Vec<Self> {
        entries(&self.dir).into_iter().filter_map(Self::at).filter(Self::is_partition).collect()
    }

    /// Returns its device node, as devtmpfs names it: sysfs writes `!` where the name has a `/`.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/dev").join(self.name.replace('!', "/"))
    }

    /// Returns an attribute, trimmed; `None` where it is missing, empty or unreadable.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.dir.join(name))
    }

    /// Returns the number that tells this disk from whatever had its name before; kernels before 5.15 have none.
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.attribute("diskseq")?.parse().ok()
    }

    fn flag(&self, name: &str) -> bool {
        self.attribute(name).is_some_and(|value| value != "0")
    }
}

/// Longest sysfs attribute that is read; the kernel's own limit is a page.
const ATTRIBUTE_LIMIT: u64 = 64 * 1024;

fn raw_attribute(path: &Path) -> Option<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(ATTRIBUTE_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn attribute(path: &Path) -> Option<String> {
    let bytes = raw_attribute(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn parse_dev(text: &str) -> Option<DevNo> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lists a folder's entries by name; a folder that is missing has none.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// Lists every block device that is not a partition, in the order of their names. Loop devices without a file, drives
/// without a medium and the hidden paths of a multipath disk are left out.
///
/// # Errors
/// [`Error::Open`] when sysfs cannot be read.
pub fn disks() -> Result<Vec<DiskInfo>, Error> {
    disks_in(&Roots::system())
}

/// A place for a file system: a partition, or a disk without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its device node.
    pub path: PathBuf,
    /// The kernel's name of the disk it is on; its own for a disk.
    pub disk: String,
}

/// Lists partitions, and disks without any, in the order of their names. Memory, optical drives, floppies and loop
/// devices count only where they have partitions.
#[must_use]
pub fn volumes() -> Vec<Volume> {
    volumes_in(&Roots::system())
}

fn volumes_in(roots: &Roots) -> Vec<Volume> {
    let mut disks: Vec<Node> = nodes(roots).filter(|node| !node.flag("hidden")).collect();
    disks.sort_by_cached_key(|disk| natural_key(&disk.name));
    disks.iter().flat_map(volumes_of).collect()
}

fn volumes_of(disk: &Node) -> Vec<Volume> {
    let mut parts = disk.partitions();
    let class = class_of(&disk.name);
    if parts.is_empty() && matches!(class, DiskClass::Disk | DiskClass::BootPartition | DiskClass::Stacked) {
        parts.push(disk.clone());
    }
    parts.sort_by_cached_key(|part| natural_key(&part.name));
    parts.into_iter().map(|part| Volume { path: part.path(), disk: disk.name.clone() }).collect()
}

/// Returns a text that becomes another one when a disk comes or goes, or its medium is changed. Cheap enough to ask for
/// every second.
#[must_use]
pub fn fingerprint() -> String {
    fingerprint_in(&Roots::system())
}

fn fingerprint_in(roots: &Roots) -> String {
    // The kernel's sequence number tells a disk from the next one that gets its name; size follows media changes.
    let line = |node: Node| {
        let word = |name| node.attribute(name).unwrap_or_default();
        format!("{} {} {}\n", node.name, word("diskseq"), word("size"))
    };
    nodes(roots).map(line).collect()
}

/// Lists every block device that is not a partition.
fn nodes(roots: &Roots) -> impl Iterator<Item = Node> {
    entries(&roots.block()).into_iter().filter_map(|link| Node::at(fs::canonicalize(link).ok()?))
}

pub(crate) fn disks_in(roots: &Roots) -> Result<Vec<DiskInfo>, Error> {
    let dir = roots.block();
    fs::read_dir(&dir).map_err(|source| Error::Open { action: "listing", disk: dir.display().to_string(), source })?;
    let uses = uses::Table::read(roots);
    let mut all: Vec<DiskInfo> = nodes(roots).filter_map(|node| describe(&node, &uses)).collect();
    all.sort_by_cached_key(|disk| natural_key(&disk.name));
    Ok(all)
}

/// Describes one disk, by its device number.
pub(crate) fn disk_in(roots: &Roots, node: &Node) -> Option<DiskInfo> {
    describe(node, &uses::Table::read(roots))
}

fn describe(node: &Node, uses: &uses::Table) -> Option<DiskInfo> {
    let class = class_of(&node.name);
    let identity = identity::read(node)?;
    let empty_loop = class == DiskClass::Loop && node.attribute("loop/backing_file").is_none();
    if identity.len == 0 || empty_loop || node.flag("hidden") {
        return None;
    }
    let discard = discard(node, identity.sector_size);
    Some(DiskInfo {
        name: node.name.clone(),
        identity,
        class,
        rotational: node.flag("queue/rotational"),
        discard,
        removable: node.flag("removable"),
        read_only: node.flag("ro"),
        in_use: uses.of(node),
    })
}

/// Tells how a disk takes discards. One that does not says so by a limit of none.
fn discard(node: &Node, sector_size: SectorSize) -> Option<Discard> {
    let number = |name| node.attribute(name)?.parse::<u64>().ok();
    number("queue/discard_max_bytes").filter(|most| *most > 0)?;
    let sector = sector_size.bytes();
    let granularity = number("queue/discard_granularity").unwrap_or(0).max(sector);
    // Whether it has moving parts is taken as said only where it is said.
    let solid_state = number("queue/rotational") == Some(0);
    Some(Discard { granularity: granularity.checked_next_multiple_of(sector)?, solid_state })
}

/// Orders `sda`, `sdb`, …, `sdz`, `sdaa`, and `nvme2n1` before `nvme10n1`.
fn natural_key(name: &str) -> (String, usize, Vec<u64>, String) {
    let letters: String = name.chars().take_while(|c| !c.is_ascii_digit()).collect();
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter_map(|run| run.parse().ok()).collect();
    let family: String = letters.chars().take(2).collect();
    (family, letters.len(), numbers, name.to_owned())
}

fn class_of(name: &str) -> DiskClass {
    let numbered =
        |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let card_part = || name.strip_prefix("mmcblk").is_some_and(|rest| rest.contains("boot") || rest.contains("rpmb"));
    match name {
        _ if numbered("ram") || numbered("zram") => DiskClass::Ram,
        _ if numbered("loop") => DiskClass::Loop,
        _ if numbered("sr") || numbered("scd") => DiskClass::Optical,
        _ if card_part() => DiskClass::BootPartition,
        _ if ["dm-", "md", "bcache", "drbd", "zd", "md_d"].iter().any(|prefix| numbered(prefix)) => DiskClass::Stacked,
        _ if ["fd", "mtdblock", "ubiblock", "gnbd"].iter().any(|prefix| numbered(prefix)) => DiskClass::Other,
        _ => DiskClass::Disk,
    }
}

#[cfg(test)]
pub(super) mod tests;

//! What disks and partitions are in use by: mounts, swap, holders (device mapper, MD), loop devices.

use std::{
    collections::BTreeSet,
    fs,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{DevNo, Node, Roots, Use, attribute, entries, parse_dev};

/// One line of `mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    dev: DevNo,
    point: String,
    fs_type: String,
    source: String,
    writes: bool,
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(field: &str) -> String {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\').then(|| tail.get(..3)).flatten();
        match code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Mount {
    /// Reads `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard`, with any number of fields before the hyphen.
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let mut file_system = file_system.split(' ');
        let id = mount.next()?.parse().ok()?;
        let dev = parse_dev(mount.nth(1)?)?;
        let point = unescape(mount.nth(1)?);
        let fs_type = unescape(file_system.next()?);
        let source = unescape(file_system.next()?);
        // The options before the hyphen are those of one mount point; a read-only bind of a writable file system
        // does not keep that file system from writing.
        let writes = !file_system.next().unwrap_or_default().split(',').any(|option| option == "ro");
        Some(Self { id, dev, point, fs_type, source, writes })
    }

    /// Lists the mounts this process and the first one see, each once. A process in a container sees few.
    fn all(roots: &Roots) -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for process in ["self", "1"] {
            let text = fs::read(roots.proc.join(process).join("mountinfo")).unwrap_or_default();
            for mount in String::from_utf8_lossy(&text).lines().filter_map(Self::parse) {
                if seen.insert((mount.id, mount.dev, mount.point.clone())) {
                    all.push(mount);
                }
            }
        }
        all
    }

    /// Returns the names of the devices it is made of. Btrfs has a device number of its own and may span devices.
    fn devices(&self, roots: &Roots) -> BTreeSet<String> {
        let by_number = Node::by_number(roots, self.dev).map(|node| node.name);
        let first: BTreeSet<String> = by_number.or_else(|| device_name(&self.source)).into_iter().collect();
        if self.fs_type != "btrfs" {
            return first;
        }
        let members = btrfs_members(roots).into_iter().find(|members| !members.is_disjoint(&first));
        members.unwrap_or(first)
    }
}

/// Returns the kernel's name of the device a path leads to; `None` for what is no path below `/dev`.
fn device_name(path: &str) -> Option<String> {
    let path = Path::new(path);
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    Some(real.strip_prefix("/dev").ok()?.to_str()?.replace('/', "!"))
}

/// Lists the devices of each mounted Btrfs, as the file system itself says.
fn btrfs_members(roots: &Roots) -> Vec<BTreeSet<String>> {
    let names = |dir: &Path| entries(dir).iter().filter_map(|e| Some(e.file_name()?.to_str()?.to_owned())).collect();
    entries(&roots.sys.join("fs/btrfs")).iter().map(|one| names(&one.join("devices"))).collect()
}

/// Everything in use on the machine, by the kernel's name of the part.
pub(super) struct Table {
    uses: Vec<Use>,
}

impl Table {
    pub(super) fn read(roots: &Roots) -> Self {
        let mut uses = Vec::new();
        for mount in Mount::all(roots) {
            let by = format!("mounted at {}", mount.point);
            uses.extend(mount.devices(roots).into_iter().map(|part| Use {
                part,
                by: by.clone(),
                writes: mount.writes,
            }));
        }
        uses.extend(swaps(roots).into_iter().map(|part| Use { part, by: "swap".to_owned(), writes: true }));
        for (node, backing) in loops(roots) {
            let writes = !node.flag("ro");
            uses.extend(device_name(&backing).map(|part| Use { part, by: node.name, writes }));
        }
        Self { uses }
    }

    /// Lists the uses of a disk and of its partitions, each once.
    pub(super) fn of(&self, disk: &Node) -> Vec<Use> {
        let mut all: Vec<Use> = Vec::new();
        for node in std::iter::once(disk.clone()).chain(disk.partitions()) {
            let known = self.uses.iter().filter(|one| one.part == node.name).cloned();
            for one in known.chain(holders(&node)) {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }
}

/// Lists the device mapper and MD devices made of `node`.
fn holders(node: &Node) -> impl Iterator<Item = Use> {
    let part = node.name.clone();
    entries(&node.dir.join("holders")).into_iter().filter_map(move |holder| {
        let name = holder.file_name()?.to_str()?.to_owned();
        let by = match attribute(&holder.join("dm/name")) {
            Some(label) => format!("{name} ({label})"),
            None => name,
        };
        Some(Use { part: part.clone(), by, writes: attribute(&holder.join("ro")).is_none_or(|ro| ro == "0") })
    })
}

fn swaps(roots: &Roots) -> Vec<String> {
    let text = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| device_name(&unescape(line.split_whitespace().next()?))).collect()
}

/// Lists the loop devices in use with the path of what is behind each.
fn loops(roots: &Roots) -> Vec<(Node, String)> {
    entries(&roots.block())
        .into_iter()
        .filter_map(|link| Node::at(fs::canonicalize(link).ok()?))
        .filter_map(|node| Some((node.clone(), node.attribute("loop/backing_file")?)))
        .collect()
}

/// Lists the loop devices over the file with this device and inode number, and whether what uses them may write.
pub(crate) fn loops_over(roots: &Roots, dev: u64, inode: u64) -> Vec<Use> {
    let over = |path: &str| fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (dev, inode));
    let table = Table::read(roots);
    loops(roots)
        .into_iter()
        .filter(|(_, backing)| over(backing))
        .map(|(node, backing)| Use {
            part: backing,
            writes: table.of(&node).iter().any(|one| one.writes),
            by: node.name,
        })
        .collect()
}

/// Names the whole disks (`sda`, as below `/dev`) that hold the file system on which `path` lies, or would lie if it were made: through
/// partitions, device mapper, MD, loop devices and the devices of a Btrfs. Empty for what is in memory or on a network.
#[must_use]
pub fn backing_disks(path: &Path) -> Vec<String> {
    backing_disks_in(&Roots::system(), path)
}

fn backing_disks_in(roots: &Roots, path: &Path) -> Vec<String> {
    let mut found = BTreeSet::new();
    for device in devices_under(roots, path) {
        collect_disks(roots, &device, &mut found, 0);
    }
    found.into_iter().collect()
}

/// Returns the devices of the mount that `path` lies on.
fn devices_under(roots: &Roots, path: &Path) -> BTreeSet<String> {
    let mounts = Mount::all(roots);
    let here = mount_id(roots, path).and_then(|id| mounts.iter().find(|mount| mount.id == id));
    here.map(|mount| mount.devices(roots)).unwrap_or_default()
}

/// Asks the kernel for the mount of the nearest part of `path` that exists. Device numbers would not do: a Btrfs
/// gives its files other ones than its mounts.
fn mount_id(roots: &Roots, path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|one| one.exists())?;
    let file = open(existing, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let text = fs::read_to_string(roots.proc.join(format!("self/fdinfo/{}", file.as_raw_fd()))).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Layers of devices upon devices that are followed; real stacks have four or five.
const MAX_DEPTH: u32 = 16;

fn collect_disks(roots: &Roots, name: &str, found: &mut BTreeSet<String>, depth: u32) {
    let node = find(roots, name).and_then(|node| node.whole_disk());
    let Some(disk) = node.filter(|_| depth < MAX_DEPTH) else { return };
    let below = entries(&disk.dir.join("slaves"));
    for slave in below.iter().filter_map(|slave| slave.file_name()?.to_str()) {
        collect_disks(roots, slave, found, depth + 1);
    }
    if let Some(backing) = disk.attribute("loop/backing_file") {
        for device in devices_under(roots, Path::new(&backing)) {
            collect_disks(roots, &device, found, depth + 1);
        }
    }
    found.insert(disk.name.replace('!', "/"));
}

/// Finds a device or partition by the kernel's name.
fn find(roots: &Roots, name: &str) -> Option<Node> {
    let dir: PathBuf = roots.sys.join("class/block").join(name);
    Node::at(fs::canonicalize(dir).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::discovery::tests::Tree;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let mount = |dev, point: &str, fs_type: &str, source: &str, writes| {
            let (point, fs_type, source) = (point.to_owned(), fs_type.to_owned(), source.to_owned());
            Some(Mount { id: 36, dev, point, fs_type, source, writes })
        };
        for (line, want) in [
            ("36 35 8:1 / /mnt rw,noatime - ext4 /dev/sda1 rw", mount((8, 1), "/mnt", "ext4", "/dev/sda1", true)),
            (
                "36 35 8:1 / /a\\040b rw master:1 shared:7 - ext4 /dev/sda1 rw,errors=continue",
                mount((8, 1), "/a b", "ext4", "/dev/sda1", true),
            ),
            ("36 35 8:1 / /mnt ro - ext4 /dev/sda1 ro", mount((8, 1), "/mnt", "ext4", "/dev/sda1", false)),
            ("36 35 8:1 / /mnt ro - ext4 /dev/sda1 rw", mount((8, 1), "/mnt", "ext4", "/dev/sda1", true)),
            ("36 35 8:1 / /mnt rw ext4 /dev/sda1 rw", None),
            ("36 35 8 / /mnt rw - ext4 /dev/sda1 rw", None),
            ("", None),
        ] {
            assert_eq!(Mount::parse(line), want, "{line}");
        }
    }

    #[test]
    fn octal_escapes_are_undone_and_others_kept() {
        for (field, want) in
            [("a\\040b\\134", "a b\\"), ("\\04", "\\04"), ("\\999", "\\999"), ("\\", "\\"), ("\\303\\274", "ü")]
        {
            assert_eq!(unescape(field), want);
        }
    }

    /// Two disks under a volume group, on which there is a file system with a file behind a loop device.
    fn stack() -> Tree {
        let tree = Tree::new();
        tree.disk("sda", "8:0", "devices/pci0/ata1/host0/target0/0:0:0:0").partition("sda", "sda2", "8:2");
        tree.disk("sdb", "8:16", "devices/pci0/ata2/host1/target1/1:0:0:0");
        tree.disk("dm-0", "253:0", "devices/virtual").set("block/dm-0/dm/name", "vg-root");
        tree.holder("sda/sda2", "dm-0").holder("sdb", "dm-0");
        tree
    }

    #[test]
    fn a_folder_is_traced_to_the_disks_below_its_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let id = mount_id(&Roots::system(), dir.path()).unwrap();
        let tree = stack();
        tree.disk("loop0", "7:0", "devices/virtual")
            .set("block/loop0/loop/backing_file", dir.path().join("x").to_str().unwrap());
        tree.link("proc/self/fdinfo", "/proc/self/fdinfo");
        for (name, dev, source, want) in [
            ("partition", "8:2", "/dev/sda2", vec!["sda"]),
            ("whole disk", "8:16", "/dev/sdb", vec!["sdb"]),
            ("volume group", "253:0", "/dev/mapper/vg-root", vec!["dm-0", "sda", "sdb"]),
            ("memory", "0:21", "tmpfs", vec![]),
        ] {
            tree.set("../proc/self/mountinfo", format!("{id} 1 {dev} / / rw - ext4 {source} rw\n"));
            let missing = dir.path().join("not/yet/made");
            assert_eq!(backing_disks_in(&tree.roots(), dir.path()), want, "{name}");
            assert_eq!(backing_disks_in(&tree.roots(), &missing), want, "{name}, a folder not made yet");
        }
        let mut found = BTreeSet::new();
        tree.set("../proc/self/mountinfo", format!("{id} 1 8:2 / / rw - ext4 /dev/sda2 rw\n"));
        collect_disks(&tree.roots(), "loop0", &mut found, 0);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["loop0", "sda"]);
    }

    #[test]
    fn devices_made_of_each_other_do_not_go_round_for_ever() {
        let tree = stack();
        tree.link("devices/virtual/block/dm-0/slaves/dm-0", "../../dm-0");
        let mut found = BTreeSet::new();
        collect_disks(&tree.roots(), "dm-0", &mut found, 0);
        assert!(found.contains("dm-0"));
    }

    #[test]
    fn a_file_behind_a_loop_device_is_known() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = file.as_file().metadata().unwrap();
        let tree = Tree::new();
        tree.disk("loop3", "7:3", "devices/virtual")
            .set("block/loop3/loop/backing_file", file.path().to_str().unwrap());
        tree.disk("loop4", "7:4", "devices/virtual").set("block/loop4/loop/backing_file", "/nonexistent (deleted)");
        let over = |tree: &Tree| loops_over(&tree.roots(), meta.dev(), meta.ino());
        let part = file.path().to_str().unwrap().to_owned();
        assert_eq!(over(&tree), [Use { part: part.clone(), by: "loop3".to_owned(), writes: false }]);
        tree.set("../proc/self/mountinfo", "36 35 7:3 / /mnt rw - ext4 /dev/loop3 rw\n");
        assert_eq!(over(&tree), [Use { part, by: "loop3".to_owned(), writes: true }]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_line_is_read_or_left(line in ".{0,80}", damaged in "[0-9]{1,3} 35 [0-9]{1,3}:?[0-9]{0,3} / /[a-z\\\\0-7]{0,12} r[ow]( - |-)ext4 /dev/[a-z]{1,3} r[ow]") {
            let _ = Mount::parse(&line);
            if let Some(mount) = Mount::parse(&damaged) {
                prop_assert!(mount.point.starts_with('/'));
            }
        }
    }
}

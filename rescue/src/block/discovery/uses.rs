//! What disks and partitions are in use by: mounts, swap, holders (device mapper, MD), loop devices.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Node, Roots, Use, attribute, entries, nodes};
use crate::sys::mount::{Mounted, parse_mountinfo, unescape};

/// Lists the mounts this process and the first one see, each once. A process in a container sees few.
fn mounts(roots: &Roots) -> Vec<Mounted> {
    let mut all: Vec<Mounted> = Vec::new();
    for process in ["self", "1"] {
        let text = fs::read(roots.proc.join(process).join("mountinfo")).unwrap_or_default();
        for mount in parse_mountinfo(&text) {
            let same = |one: &Mounted| (one.id, one.device, &one.target) == (mount.id, mount.device, &mount.target);
            if !all.iter().any(same) {
                all.push(mount);
            }
        }
    }
    all
}

/// Returns the names of the devices a mount is made of. Btrfs has a device number of its own and may span devices.
fn devices(roots: &Roots, mount: &Mounted) -> BTreeSet<String> {
    let by_number = Node::by_number(roots, mount.device).map(|node| node.name);
    let first: BTreeSet<String> = by_number.or_else(|| device_name(Path::new(&mount.source))).into_iter().collect();
    if mount.fs != "btrfs" {
        return first;
    }
    let members = btrfs_members(roots).into_iter().find(|members| !members.is_disjoint(&first));
    members.unwrap_or(first)
}

/// Returns the kernel's name of the device a path leads to; `None` for what is no path below `/dev`.
fn device_name(path: &Path) -> Option<String> {
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
        for mount in mounts(roots) {
            let by = format!("mounted at {}", mount.target.display());
            uses.extend(devices(roots, &mount).into_iter().map(|part| Use {
                part,
                by: by.clone(),
                writes: mount.writes,
            }));
        }
        uses.extend(swaps(roots).into_iter().map(|part| Use { part, by: "swap".to_owned(), writes: true }));
        for (node, backing) in loops(roots) {
            let writes = !node.flag("ro");
            uses.extend(device_name(Path::new(&backing)).map(|part| Use { part, by: node.name, writes }));
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
    let path = |line: &str| Some(OsString::from_vec(unescape(line.split_whitespace().next()?.as_bytes())));
    text.lines().skip(1).filter_map(|line| device_name(Path::new(&path(line)?))).collect()
}

/// Lists the loop devices in use with the path of what is behind each.
fn loops(roots: &Roots) -> Vec<(Node, String)> {
    nodes(roots).filter_map(|node| Some((node.clone(), node.attribute("loop/backing_file")?))).collect()
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
    let mounts = mounts(roots);
    let here = mount_id(roots, path).and_then(|id| mounts.iter().find(|mount| mount.id == id));
    here.map(|mount| devices(roots, mount)).unwrap_or_default()
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
    use super::*;
    use crate::block::discovery::tests::Tree;

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
}

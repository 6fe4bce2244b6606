//! The kinds this program reads, and who judges them.

use super::judges::Judge;

/// A kind of file system or container by the name `rescue show` gives it.
pub struct Kind {
    pub name: &'static str,
    /// Whether its allocation map is read. A clean one must then not be kept whole.
    pub read: bool,
    /// Who says whether it is sound.
    pub checker: Option<Judge>,
    /// Who reads its files.
    pub reader: Option<Judge>,
}

const fn kind(name: &'static str, read: bool, checker: Option<Judge>, reader: Option<Judge>) -> Kind {
    Kind { name, read, checker, reader }
}

/// One line a kind.
pub const KINDS: [Kind; 16] = [
    kind("ext2", true, Some(Judge::E2fsck), Some(Judge::Debugfs)),
    kind("ext3", true, Some(Judge::E2fsck), Some(Judge::Debugfs)),
    kind("ext4", true, Some(Judge::E2fsck), Some(Judge::Debugfs)),
    kind("ext4dev", true, Some(Judge::E2fsck), Some(Judge::Debugfs)),
    kind("vfat", true, Some(Judge::FsckFat), Some(Judge::Mcopy)),
    kind("swap", true, None, None),
    kind("exfat", true, Some(Judge::FsckExfat), Some(Judge::TskRecover)),
    kind("ntfs", true, None, Some(Judge::TskRecover)),
    kind("xfs", true, Some(Judge::XfsRepair), None),
    kind("btrfs", true, Some(Judge::BtrfsCheck), Some(Judge::BtrfsRestore)),
    kind("f2fs", true, Some(Judge::FsckF2fs), None),
    kind("hfs", false, None, Some(Judge::TskRecover)),
    kind("hfsplus", true, Some(Judge::FsckHfs), Some(Judge::TskRecover)),
    kind("apfs", true, Some(Judge::Apfsck), None),
    kind("LVM2_member", true, None, None),
    // Members of mirrors are looked into; the public ones are empty or of other levels.
    kind("linux_raid_member", false, None, None),
];

/// What `blkid` names and this program does not: kept whole, as all that is not recognised.
pub const UNNAMED: [&str; 7] =
    ["adaptec_raid_member", "befs", "drbd", "drbdmanage_control_volume", "hpfs", "minix", "mpool"];

/// Finds a kind.
pub fn of(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Returns who judges the images of an archive that nobody recognises any more: they are damaged on purpose.
pub fn of_archive(archive: &str) -> Option<&'static Kind> {
    of(match archive {
        "btrfs-raw" => "btrfs",
        "dosfstools" => "vfat",
        "e2fsprogs" | "ext4-view" => "ext4",
        "exfatprogs" => "exfat",
        "xfuse" => "xfs",
        _ => return None,
    })
}

//! Why what is recognised but not read is kept whole, in words.

/// Returns the sentence for the format called `name`.
#[must_use]
pub fn reason(name: &str) -> String {
    match name {
        "crypto_LUKS" | "BitLocker" | "cs_fvault2" => {
            format!("kept whole: it is encrypted ({name}), so what is free in it cannot be known")
        }
        "LVM1_member" | "VMFS_volume_member" | "stratis" | "zfs_member" | "vdo" => {
            format!("kept whole: {name} lays out volumes of its own in it, which are not read")
        }
        "DM_snapshot_cow" | "DM_verity_hash" | "DM_integrity" | "bcache" | "drbd" => {
            format!("kept whole: it is a layer below other volumes ({name}), which is not read")
        }
        "jbd" | "xfs_external_log" => {
            format!("kept whole: it is the journal of a file system on another device ({name})")
        }
        raid if raid.ends_with("_raid_member") => {
            format!("kept whole: it is a member of a firmware RAID ({raid}), whose volumes are not read")
        }
        other => format!("kept whole: {other} is not read yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_whole_says_why() {
        for (name, why) in [
            ("cs_fvault2", "it is encrypted (cs_fvault2)"),
            ("zfs_member", "zfs_member lays out volumes of its own"),
            ("bcache", "it is a layer below other volumes (bcache)"),
            ("jbd", "it is the journal of a file system on another device (jbd)"),
            ("isw_raid_member", "it is a member of a firmware RAID (isw_raid_member)"),
            ("jfs", "jfs is not read yet"),
        ] {
            assert!(reason(name).starts_with(&format!("kept whole: {why}")), "{name}: {}", reason(name));
        }
    }
}

//! Why what is recognised but not read is kept whole, in words.

/// Returns the sentence for the format called `name`.
#[must_use]
pub fn reason(name: &str) -> String {
    match name {
        "crypto_LUKS" | "BitLocker" | "cs_fvault2" => {
            format!("kept whole: it is encrypted ({name}), so what is free in it cannot be known")
        }
        "LVM1_member" | "LVM2_member" | "VMFS_volume_member" | "stratis" | "zfs_member" | "vdo" | "bcache" | "drbd" => {
            format!("kept whole: {name} lays out volumes of its own in it, which are not read")
        }
        "DM_snapshot_cow" | "DM_verity_hash" | "DM_integrity" => {
            format!("kept whole: it is a part of other volumes ({name})")
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

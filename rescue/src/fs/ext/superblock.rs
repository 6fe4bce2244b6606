//! The superblock of ext2, ext3 and ext4: 1024 bytes at byte 1024, and what can be computed from it alone.
//!
//! ```text
//!    0 inodes, blocks (low), reserved, free blocks (low), free inodes, first data block
//!   24 log2(block/1K), log2(cluster/1K), blocks, clusters, inodes per group
//!   56 magic ef53, state ..  76 revision ..  88 inode size, group of this copy
//!   92 compatible, incompatible, read-only compatible features
//!  104 UUID, label .. 206 reserved descriptor blocks .. 224 journal inode, device .. 254 descriptor size
//!  336 blocks, free blocks (high) .. 588 backup groups (sparse_super2) .. 624 checksum seed .. 1020 checksum
//! ```
//!
//! Little endian. Source: Linux kernel, Documentation/filesystems/ext4/super.rst, and the checks of its mount.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use uuid::Uuid;

use super::checksum::crc32c;
use crate::{
    bytes::{Fields, Truncated},
    fs::checked::right,
};

/// Where the primary superblock lies.
pub const OFFSET: u64 = 1024;
/// Its length in bytes.
pub const LEN: usize = 1024;
/// Groups we hold in memory at once; with 4 KiB blocks this is 128 TiB.
const MAX_GROUPS: u64 = 1 << 20;

/// Feature bits, by the set they belong to.
pub mod feature {
    #![allow(missing_docs)]
    pub const COMPAT_HAS_JOURNAL: u32 = 0x4;
    pub const COMPAT_SPARSE_SUPER2: u32 = 0x200;
    pub const COMPAT_FAST_COMMIT: u32 = 0x400;
    pub const INCOMPAT_RECOVER: u32 = 0x4;
    pub const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
    pub const INCOMPAT_META_BG: u32 = 0x10;
    pub const INCOMPAT_64BIT: u32 = 0x80;
    pub const INCOMPAT_MMP: u32 = 0x100;
    pub const INCOMPAT_FLEX_BG: u32 = 0x200;
    pub const INCOMPAT_CSUM_SEED: u32 = 0x2000;
    pub const RO_SPARSE_SUPER: u32 = 0x1;
    pub const RO_GDT_CSUM: u32 = 0x10;
    pub const RO_BIGALLOC: u32 = 0x200;
    pub const RO_METADATA_CSUM: u32 = 0x400;
    pub const RO_ORPHAN_PRESENT: u32 = 0x10000;
    /// Journal, extended attributes, hashed directories and the like: nothing that moves where blocks are counted.
    /// Not in here: lazy_bg, the exclude bitmap and whatever is newer than orphan_file.
    pub const COMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000;
    /// Not in here: compression and dirdata, which no current kernel reads.
    pub const INCOMPAT_KNOWN: u32 =
        0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000;
    /// Shared blocks (0x4000) belong to several files, and the bitmap has them as any other. Not in here: snapshots and
    /// replica.
    pub const RO_KNOWN: u32 = 0x7f | 0x700 | 0xf000 | 0x10000;
}
use feature::*;

/// Why a superblock cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few bytes.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// No magic number.
    #[error("the magic number at byte 0x438 is {0:#06x}, not 0xef53")]
    Magic(u16),
    /// The checksum does not match.
    #[error("the superblock's checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// On disk.
        stored: u32,
        /// From the bytes.
        computed: u32,
    },
    /// Features we do not know.
    #[error("unknown {set} features {bits:#x}")]
    Features {
        /// `compatible`, `incompatible`, `read-only compatible`.
        set: &'static str,
        /// The unknown ones.
        bits: u32,
    },
    /// The file system says it is longer than its region.
    #[error("the file system is {need} bytes long, its region {have}")]
    TooLong {
        /// Bytes of the file system.
        need: u128,
        /// Bytes of the region.
        have: u64,
    },
    /// Two numbers that cannot be true together, or one that cannot be at all.
    #[error("the superblock contradicts itself: {0}")]
    Geometry(String),
}

/// The fields of a superblock that we use, unchecked but for the checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the format")]
pub struct Superblock {
    pub s_inodes_count: u32,
    pub s_blocks_count: u64,
    pub s_free_blocks_count: u64,
    pub s_free_inodes_count: u32,
    pub s_first_data_block: u32,
    pub s_log_block_size: u32,
    pub s_log_cluster_size: u32,
    pub s_blocks_per_group: u32,
    pub s_clusters_per_group: u32,
    pub s_inodes_per_group: u32,
    pub s_state: u16,
    pub s_minor_rev_level: u16,
    pub s_creator_os: u32,
    pub s_rev_level: u32,
    pub s_inode_size: u16,
    pub s_block_group_nr: u16,
    pub s_feature_compat: u32,
    pub s_feature_incompat: u32,
    pub s_feature_ro_compat: u32,
    pub s_uuid: [u8; 16],
    pub s_volume_name: [u8; 16],
    pub s_reserved_gdt_blocks: u16,
    pub s_journal_inum: u32,
    pub s_journal_dev: u32,
    pub s_last_orphan: u32,
    pub s_desc_size: u16,
    pub s_first_meta_bg: u32,
    pub s_flags: u32,
    pub s_backup_bgs: [u32; 2],
    pub s_mmp_block: u64,
    pub s_checksum_seed: u32,
}

impl Superblock {
    /// Reads a superblock and checks its checksum where it has one.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Magic`], [`Error::Checksum`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let f = Fields(bytes);
        let magic = f.u16(56)?;
        if magic != 0xef53 {
            return Err(Error::Magic(magic));
        }
        let sb = Self::fields(f)?;
        if sb.has_ro(RO_METADATA_CSUM) {
            let (stored, computed) = (f.u32(1020)?, crc32c(!0, &[f.slice(0, 1020)?]));
            if !right(stored == computed) {
                return Err(Error::Checksum { stored, computed });
            }
        }
        Ok(sb)
    }

    /// Reads the fields, trusting nothing but the magic number: for naming a file system whose checksum is wrong.
    ///
    /// # Errors
    /// [`Error::Truncated`].
    pub fn fields(f: Fields<'_>) -> Result<Self, Truncated> {
        let rev = f.u32(76)?;
        let incompat = f.u32(96)?;
        let wide = incompat & INCOMPAT_64BIT != 0;
        let pair = |low: usize, high: usize| -> Result<u64, Truncated> {
            let high = if wide { u64::from(f.u32(high)?) } else { 0 };
            Ok(high << 32 | u64::from(f.u32(low)?))
        };
        Ok(Self {
            s_inodes_count: f.u32(0)?,
            s_blocks_count: pair(4, 336)?,
            s_free_blocks_count: pair(12, 344)?,
            s_free_inodes_count: f.u32(16)?,
            s_first_data_block: f.u32(20)?,
            s_log_block_size: f.u32(24)?,
            s_log_cluster_size: f.u32(28)?,
            s_blocks_per_group: f.u32(32)?,
            s_clusters_per_group: f.u32(36)?,
            s_inodes_per_group: f.u32(40)?,
            s_state: f.u16(58)?,
            s_minor_rev_level: f.u16(62)?,
            s_creator_os: f.u32(72)?,
            s_rev_level: rev,
            s_inode_size: if rev == 0 { 128 } else { f.u16(88)? },
            s_block_group_nr: if rev == 0 { 0 } else { f.u16(90)? },
            s_feature_compat: f.u32(92)?,
            s_feature_incompat: incompat,
            s_feature_ro_compat: f.u32(100)?,
            s_uuid: f.array(104)?,
            s_volume_name: f.array(120)?,
            s_reserved_gdt_blocks: f.u16(206)?,
            s_journal_inum: f.u32(224)?,
            s_journal_dev: f.u32(228)?,
            s_last_orphan: f.u32(232)?,
            s_desc_size: f.u16(254)?,
            s_first_meta_bg: f.u32(260)?,
            s_flags: f.u32(352)?,
            s_mmp_block: f.u64(360)?,
            s_backup_bgs: [f.u32(588)?, f.u32(592)?],
            s_checksum_seed: f.u32(624)?,
        })
    }

    /// Tells whether a compatible feature is set.
    #[must_use]
    pub const fn has_compat(&self, bit: u32) -> bool {
        self.s_feature_compat & bit != 0
    }

    /// Tells whether an incompatible feature is set.
    #[must_use]
    pub const fn has_incompat(&self, bit: u32) -> bool {
        self.s_feature_incompat & bit != 0
    }

    /// Tells whether a read-only compatible feature is set.
    #[must_use]
    pub const fn has_ro(&self, bit: u32) -> bool {
        self.s_feature_ro_compat & bit != 0
    }

    /// Returns the name the file system goes by: what the oldest driver that can mount it is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        // What the ext3 driver knew: sparse_super, large_file, btree_dir; filetype, recover, meta_bg.
        let ext3 = self.s_feature_ro_compat & !0x7 == 0 && self.s_feature_incompat & !0x16 == 0;
        match (self.has_incompat(INCOMPAT_JOURNAL_DEV), ext3, self.has_compat(COMPAT_HAS_JOURNAL)) {
            (true, ..) => "jbd",
            (_, true, true) => "ext3",
            (_, true, false) => "ext2",
            _ if self.s_flags & 0x4 != 0 => "ext4dev",
            _ => "ext4",
        }
    }

    /// Returns the block size in bytes, where it is one the format can have.
    #[must_use]
    pub const fn block_size(&self) -> Option<u32> {
        if self.s_log_block_size <= 6 { Some(1024 << self.s_log_block_size) } else { None }
    }

    /// Returns the UUID, where there is one.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        (self.s_uuid != [0; 16]).then(|| Uuid::from_bytes(self.s_uuid).to_string())
    }

    /// Returns what metadata checksums start with.
    #[must_use]
    pub fn checksum_seed(&self) -> u32 {
        if self.has_incompat(INCOMPAT_CSUM_SEED) { self.s_checksum_seed } else { crc32c(!0, &[&self.s_uuid]) }
    }

    /// Checks that the features are known and the numbers possible, and computes where everything lies.
    ///
    /// * `region_len`: bytes there are.
    ///
    /// # Errors
    /// [`Error::Features`], [`Error::TooLong`], [`Error::Geometry`].
    pub fn geometry(&self, region_len: u64) -> Result<Geometry, Error> {
        for (set, bits) in [
            ("incompatible", self.s_feature_incompat & !INCOMPAT_KNOWN),
            ("read-only compatible", self.s_feature_ro_compat & !RO_KNOWN),
            ("compatible", self.s_feature_compat & !COMPAT_KNOWN),
        ] {
            if bits != 0 {
                return Err(Error::Features { set, bits });
            }
        }
        // Drivers warn and use the features; a check sets the revision.
        let any = self.s_feature_compat | self.s_feature_incompat | self.s_feature_ro_compat;
        ensure(self.s_rev_level > 0 || any == 0, || "revision 0 has no features".to_owned())?;
        ensure(self.s_rev_level <= 1, || format!("its revision is {}", self.s_rev_level))?;
        Geometry::new(self, region_len)
    }
}

/// Where the parts of a file system lie, in blocks; every number is checked, so sums of them cannot overflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a block: a power of two from 1024 to 65536.
    pub block_size: u64,
    /// Blocks of the file system; they all lie in the region.
    pub blocks: u64,
    /// The first block of group 0.
    pub first_block: u64,
    /// Blocks of a group (the last is usually short).
    pub blocks_per_group: u64,
    /// Blocks that one bit of a bitmap stands for.
    pub cluster_ratio: u64,
    /// How many groups there are.
    pub groups: u64,
    /// Inodes of a group.
    pub inodes_per_group: u64,
    /// Bytes of an inode.
    pub inode_size: u64,
    /// Blocks of an inode table.
    pub itable_blocks: u64,
    /// Bytes of a group descriptor.
    pub desc_size: u64,
    /// Blocks of descriptors in the old layout: behind every copy of the superblock.
    pub old_desc_blocks: u64,
    /// Blocks kept free behind those for growing.
    pub reserved_gdt_blocks: u64,
    /// The first meta group whose descriptors lie in itself.
    pub first_meta_bg: u64,
    meta_bg: bool,
    backups: Backups,
}

/// Which groups have a copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backups {
    All,
    Sparse,
    Two([u32; 2]),
}

fn contradiction(what: impl Into<String>) -> Error {
    Error::Geometry(what.into())
}

fn ensure(ok: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Geometry(what())) }
}

impl Geometry {
    fn new(sb: &Superblock, region_len: u64) -> Result<Self, Error> {
        let block_size = u64::from(
            sb.block_size()
                .ok_or_else(|| contradiction(format!("log2 of its block size is {}", sb.s_log_block_size)))?,
        );
        let cluster_ratio = Self::check_clusters(sb, block_size)?;
        let (blocks, first_block) = (sb.s_blocks_count, u64::from(sb.s_first_data_block));
        let need = u128::from(blocks).saturating_mul(u128::from(block_size));
        if need > u128::from(region_len) {
            return Err(Error::TooLong { need, have: region_len });
        }
        let expected_first = block_size == 1024 && cluster_ratio == 1;
        ensure(first_block == u64::from(expected_first), || format!("its first data block is {first_block}"))?;
        ensure(first_block < blocks, || format!("it has {blocks} blocks"))?;

        let blocks_per_group = u64::from(sb.s_blocks_per_group);
        let groups = blocks.saturating_sub(first_block).div_ceil(blocks_per_group.max(1));
        ensure(groups <= MAX_GROUPS, || format!("{groups} groups are more than {MAX_GROUPS}"))?;
        let (inode_size, inodes_per_group) = (u64::from(sb.s_inode_size), u64::from(sb.s_inodes_per_group));
        ensure(inode_size.is_power_of_two() && (128..=block_size).contains(&inode_size), || {
            format!("its inodes are {inode_size} bytes long")
        })?;
        ensure(inodes_per_group > 0 && inodes_per_group <= block_size.saturating_mul(8), || {
            format!("a group has {inodes_per_group} inodes")
        })?;
        ensure(inodes_per_group.checked_mul(groups) == Some(u64::from(sb.s_inodes_count)), || {
            format!("{groups} groups of {inodes_per_group} inodes are not {} inodes", sb.s_inodes_count)
        })?;
        let itable_blocks = inodes_per_group.saturating_mul(inode_size).div_ceil(block_size);
        let mut geometry = Self {
            block_size,
            blocks,
            first_block,
            blocks_per_group,
            cluster_ratio,
            groups,
            inodes_per_group,
            inode_size,
            itable_blocks,
            desc_size: Self::check_desc_size(sb)?,
            old_desc_blocks: 0,
            reserved_gdt_blocks: u64::from(sb.s_reserved_gdt_blocks),
            first_meta_bg: u64::from(sb.s_first_meta_bg),
            meta_bg: sb.has_incompat(INCOMPAT_META_BG),
            backups: match sb {
                _ if sb.has_compat(COMPAT_SPARSE_SUPER2) => Backups::Two(sb.s_backup_bgs),
                _ if sb.has_ro(RO_SPARSE_SUPER) => Backups::Sparse,
                _ => Backups::All,
            },
        };
        geometry.place_descriptors()?;
        Ok(geometry)
    }

    /// Returns blocks per cluster.
    fn check_clusters(sb: &Superblock, block_size: u64) -> Result<u64, Error> {
        let (per_group, clusters) = (u64::from(sb.s_blocks_per_group), u64::from(sb.s_clusters_per_group));
        let max = block_size.saturating_mul(8);
        let ratio = if sb.has_ro(RO_BIGALLOC) {
            let shift = sb.s_log_cluster_size.checked_sub(sb.s_log_block_size).filter(|shift| *shift < 20);
            let shift =
                shift.ok_or_else(|| contradiction(format!("log2 of its clusters is {}", sb.s_log_cluster_size)))?;
            let ratio = 1u64 << shift;
            ensure(clusters.checked_mul(ratio) == Some(per_group), || {
                format!("{clusters} clusters of {ratio} blocks are not {per_group} blocks")
            })?;
            ensure(clusters <= max, || format!("a group has {clusters} clusters"))?;
            ratio
        } else {
            // Fragments were planned and never made: where the old field has a value, it is the block size.
            ensure(sb.s_rev_level == 0 || sb.s_log_cluster_size == sb.s_log_block_size, || {
                format!("log2 of its clusters is {}, of its blocks {}", sb.s_log_cluster_size, sb.s_log_block_size)
            })?;
            1
        };
        // mke2fs makes no smaller groups; fewer blocks would make reading the bitmaps take as long as the data.
        ensure(per_group >= 256 && per_group <= max.saturating_mul(ratio), || {
            format!("a group has {per_group} blocks")
        })?;
        Ok(ratio)
    }

    fn check_desc_size(sb: &Superblock) -> Result<u64, Error> {
        if !sb.has_incompat(INCOMPAT_64BIT) {
            return Ok(32);
        }
        let size = sb.s_desc_size;
        ensure(size.is_power_of_two() && (64..=1024).contains(&size), || {
            format!("its descriptors are {size} bytes long")
        })?;
        Ok(u64::from(size))
    }

    fn place_descriptors(&mut self) -> Result<(), Error> {
        let all = self.groups.div_ceil(self.descs_per_block());
        self.old_desc_blocks = if self.meta_bg { self.first_meta_bg } else { all };
        ensure(self.old_desc_blocks <= all.max(1), || {
            format!("its first meta group is {}, it has {all} blocks of descriptors", self.first_meta_bg)
        })?;
        ensure(self.reserved_gdt_blocks <= self.block_size / 4, || {
            format!("{} blocks are reserved for descriptors", self.reserved_gdt_blocks)
        })?;
        let front = self.super_block(0).saturating_add(1).saturating_add(self.old_desc_blocks);
        ensure(front <= self.blocks, || format!("its descriptors end at block {front} of {}", self.blocks))
    }

    /// Returns how many descriptors a block holds.
    #[must_use]
    pub const fn descs_per_block(&self) -> u64 {
        // At least 1: a descriptor is at most 1024 bytes, a block at least.
        match self.block_size.checked_div(self.desc_size) {
            Some(count) => count,
            None => 1,
        }
    }

    /// Returns the block that byte `offset` lies in.
    #[must_use]
    pub fn block_of_byte(&self, offset: u64) -> u64 {
        offset.checked_div(self.block_size).unwrap_or(0)
    }

    /// Returns the bits of a whole group's bitmap.
    #[must_use]
    pub fn clusters_per_group(&self) -> u64 {
        self.blocks_per_group.checked_div(self.cluster_ratio).unwrap_or(0)
    }

    /// Returns the first block of `group`.
    #[must_use]
    pub const fn group_start(&self, group: u64) -> u64 {
        self.first_block.saturating_add(group.saturating_mul(self.blocks_per_group))
    }

    /// Returns the block behind the last one of `group`.
    #[must_use]
    pub fn group_end(&self, group: u64) -> u64 {
        self.group_start(group.saturating_add(1)).min(self.blocks)
    }

    /// Returns how many bits of a group's bitmap count.
    #[must_use]
    pub fn clusters_in(&self, group: u64) -> u64 {
        self.group_end(group).saturating_sub(self.group_start(group)).div_ceil(self.cluster_ratio.max(1))
    }

    /// Returns the block of `group` that holds a superblock, where it has one.
    #[must_use]
    pub const fn super_block(&self, group: u64) -> u64 {
        let start = self.group_start(group);
        // With clusters and 1 KiB blocks group 0 begins with the boot block.
        if start == 0 && self.block_size == 1024 { 1 } else { start }
    }

    /// Tells whether `group` has a copy of the superblock.
    #[must_use]
    pub fn has_super(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match self.backups {
            _ if group == 0 => true,
            Backups::All => true,
            Backups::Sparse => group == 1 || power_of(3) || power_of(5) || power_of(7),
            Backups::Two(groups) => groups.iter().any(|backup| u64::from(*backup) == group),
        }
    }

    /// Returns the runs of blocks at the head of `group` that no bitmap may call free: superblock, descriptors in the
    /// old layout with those reserved for growth, descriptors of its meta group. Half open, possibly empty, clipped.
    #[must_use]
    pub fn head_of(&self, group: u64) -> [(u64, u64); 2] {
        let (start, own) = (self.super_block(group), self.has_super(group));
        let meta = group.checked_div(self.descs_per_block()).unwrap_or(0);
        let in_meta = self.meta_bg && meta >= self.first_meta_bg;
        let behind_super = match (own, in_meta) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => self.old_desc_blocks.saturating_add(self.reserved_gdt_blocks).saturating_add(1),
        };
        let old_end = start.saturating_add(behind_super);
        let within = group.checked_rem(self.descs_per_block()).unwrap_or(0);
        let last = self.descs_per_block().saturating_sub(1);
        let holds_descs = in_meta && (within <= 1 || within == last);
        let desc = start.saturating_add(u64::from(own));
        let clip = |block: u64| block.min(self.blocks);
        [(clip(start), clip(old_end)), (clip(desc), clip(desc.saturating_add(u64::from(holds_descs))))]
    }

    /// Returns the block that holds the primary descriptors `n * descs_per_block ..`.
    #[must_use]
    pub fn desc_block(&self, n: u64) -> u64 {
        if !self.meta_bg || n < self.first_meta_bg {
            return self.super_block(0).saturating_add(1).saturating_add(n);
        }
        let group = n.saturating_mul(self.descs_per_block());
        self.super_block(group).saturating_add(u64::from(self.has_super(group)))
    }

    /// Returns the bytes of blocks `start..end`.
    #[must_use]
    pub const fn bytes(&self, start: u64, end: u64) -> crate::extent::Extent {
        crate::extent::Extent::new(start.saturating_mul(self.block_size), end.saturating_mul(self.block_size))
    }
}

//! The superblock and its copies: what kind of file system this is, and where its trees begin.
//!
//! ```text
//!   0 checksum    32 fsid    48 own place    56 flags    64 _BHRfS_M    72 generation
//!  80 root tree    88 chunk tree    96 log tree    112 total bytes    120 bytes used    136 devices
//! 144 sector size    148 node size    160 length of system chunks    164 generation of chunk tree
//! 172 compat    180 compat_ro    188 incompat    196 checksum type    198 levels of root, chunk, log tree
//! 201 this device: id, total bytes, bytes used, …    267 its UUID    299 label    571 metadata UUID
//! 811 system chunks, 2048 bytes    2859 four backups of older roots, 168 bytes each    4096
//! ```
//!
//! Copies are at 64 KiB, 64 MiB and 256 GiB; a fourth place, 1 PiB, is named by the format and not used yet. A
//! commit writes all of them, a synced file only the first: the others know of no log tree.
//!
//! Source: Linux kernel, include/uapi/linux/btrfs_tree.h, `struct btrfs_super_block`; fs/btrfs/disk-io.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{checksum::Checksum, tree::Root};
use crate::{
    block::ReadAt,
    bytes::{Fields, Truncated},
    extent::Extent,
    units::{KIB, MIB},
};

/// Bytes of a superblock.
pub const LEN: usize = 4096;
/// Where the copies are, in bytes from the start of the device.
pub const OFFSETS: [u64; 4] = [64 * KIB, 64 * MIB, 256 << 30, 1 << 50];
const MAGIC: &[u8] = b"_BHRfS_M";
/// The kernel's `BTRFS_MAX_LEVEL`: levels are less.
pub const MAX_LEVEL: u8 = 8;
/// Generations a superblock remembers the roots of.
const BACKUPS: usize = 4;

/// Bits of [`Superblock::incompat`], [`Superblock::compat_ro`] and [`Superblock::flags`].
pub mod feature {
    #![expect(missing_docs, reason = "the names are the kernel's")]
    pub const INCOMPAT_METADATA_UUID: u64 = 1 << 10;
    /// Everything up to `raid1c34`, and simple quotas: none of them changes where things are.
    pub const INCOMPAT_READ: u64 = 0xfff | 1 << 16;
    pub const INCOMPAT_ZONED: u64 = 1 << 12;
    pub const INCOMPAT_EXTENT_TREE_V2: u64 = 1 << 13;
    pub const INCOMPAT_RAID_STRIPE_TREE: u64 = 1 << 14;
    pub const INCOMPAT_REMAP_TREE: u64 = 1 << 17;
    /// Extent references of before 2.6.31 are another format.
    pub const INCOMPAT_MIXED_BACKREF: u64 = 1;
    pub const RO_FREE_SPACE_TREE: u64 = 1;
    pub const RO_FREE_SPACE_TREE_VALID: u64 = 2;
    /// Free-space tree, its validity, verity and the block group tree.
    pub const RO_READ: u64 = 0xf;
    pub const RO_BLOCK_GROUP_TREE: u64 = 8;
    pub const FLAG_ERROR: u64 = 1 << 2;
    pub const FLAG_SEEDING: u64 = 1 << 32;
    pub const FLAG_METADUMP: u64 = 1 << 33;
    pub const FLAG_METADUMP_V2: u64 = 1 << 34;
    pub const FLAG_CHANGING_FSID: u64 = 1 << 35;
    /// Only superblocks change: tree blocks keep the metadata UUID.
    pub const FLAG_CHANGING_FSID_V2: u64 = 1 << 36;
    pub const FLAG_CHANGING_BG_TREE: u64 = 1 << 38;
    pub const FLAG_CHANGING_DATA_CSUM: u64 = 1 << 39;
    pub const FLAG_CHANGING_META_CSUM: u64 = 1 << 40;
}

/// What is wrong with a superblock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable,
    /// There is none.
    #[error("there is none")]
    Magic,
    /// It ends too early.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A checksum we do not know.
    #[error("its checksum type is {0}")]
    ChecksumType(u16),
    /// Its bytes are not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// It names another place as its own.
    #[error("it says it is at byte {0:#x}")]
    Place(u64),
    /// A field has an impossible value.
    #[error("its {0} is {1}")]
    Field(&'static str, u64),
}

/// The roots of an older generation, from the superblock's backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Root, chunk, extent, file, device and checksum tree.
    pub roots: Vec<Root>,
}

/// One superblock, its fields checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the format's")]
pub struct Superblock {
    pub checksum: Checksum,
    pub fsid: [u8; 16],
    pub metadata_uuid: [u8; 16],
    pub flags: u64,
    pub generation: u64,
    pub root: Root,
    pub chunk_root: Root,
    /// The tree of what was synced since the last commit.
    pub log_root: Option<Root>,
    pub bytes_used: u64,
    pub num_devices: u64,
    pub sectorsize: u32,
    pub nodesize: u32,
    pub compat: u64,
    pub compat_ro: u64,
    pub incompat: u64,
    pub devid: u64,
    /// Bytes of this device that the file system uses.
    pub dev_total_bytes: u64,
    /// Bytes of this device that chunks are allocated to.
    pub dev_bytes_used: u64,
    pub dev_uuid: [u8; 16],
    /// The chunks that hold the chunk tree.
    pub sys_chunks: Vec<u8>,
    pub backups: Vec<Backup>,
}

fn ensure(ok: bool, what: &'static str, value: u64) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Field(what, value)) }
}

impl Superblock {
    /// Reads the superblock in the bytes from `offset` of the device.
    ///
    /// # Errors
    /// [`Error`], the first that is found.
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self, Error> {
        let f = Fields(bytes);
        if !f.has(64, MAGIC) {
            return Err(Error::Magic);
        }
        let csum_type = f.u16(196)?;
        let checksum = Checksum::of_type(csum_type).ok_or(Error::ChecksumType(csum_type))?;
        if !checksum.fits(f.slice(0, LEN)?) {
            return Err(Error::Checksum);
        }
        if f.u64(48)? != offset {
            return Err(Error::Place(f.u64(48)?));
        }
        Self::fields(f, checksum)
    }

    fn fields(f: Fields<'_>, checksum: Checksum) -> Result<Self, Error> {
        let (sectorsize, nodesize, generation) = (f.u32(144)?, f.u32(148)?, f.u64(72)?);
        let power = |size: u32| size.is_power_of_two() && (4096..=65536).contains(&size);
        ensure(power(sectorsize), "sector size", sectorsize.into())?;
        ensure(power(nodesize) && nodesize >= sectorsize, "node size", nodesize.into())?;
        let len = f.u32(160)?;
        let sys_len = usize::try_from(len).ok().filter(|len| *len <= 2048);
        let sys_len = sys_len.ok_or(Error::Field("length of system chunks", len.into()))?;
        let root = |place: usize, level: usize, generation: u64| -> Result<Root, Error> {
            let (logical, level) = (f.u64(place)?, f.u8(level)?);
            ensure(level < MAX_LEVEL, "tree level", level.into())?;
            ensure(logical.is_multiple_of(u64::from(sectorsize)), "tree root", logical)?;
            Ok(Root { logical, generation, level })
        };
        let log_root = root(96, 200, generation.saturating_add(1))?;
        let (fsid, incompat) = (f.array(32)?, f.u64(188)?);
        let split = incompat & feature::INCOMPAT_METADATA_UUID != 0;
        Ok(Self {
            checksum,
            fsid,
            metadata_uuid: if split { f.array(571)? } else { fsid },
            flags: f.u64(56)?,
            generation,
            root: root(80, 198, generation)?,
            chunk_root: root(88, 199, f.u64(164)?)?,
            log_root: (log_root.logical != 0).then_some(log_root),
            bytes_used: f.u64(120)?,
            num_devices: f.u64(136)?,
            sectorsize,
            nodesize,
            compat: f.u64(172)?,
            compat_ro: f.u64(180)?,
            incompat,
            devid: f.u64(201)?,
            dev_total_bytes: f.u64(209)?,
            dev_bytes_used: f.u64(217)?,
            dev_uuid: f.array(267)?,
            sys_chunks: f.slice(811, sys_len)?.to_vec(),
            backups: (0..BACKUPS).map(|index| backup(f, index)).collect::<Result<_, _>>()?,
        })
    }

    /// Returns the bytes of a tree block.
    #[must_use]
    pub fn node_len(&self) -> usize {
        usize::try_from(self.nodesize).unwrap_or(0)
    }

    /// Tells whether `other` is a superblock of the same device of the same file system.
    #[must_use]
    pub fn is_copy_of(&self, other: &Self) -> bool {
        (self.metadata_uuid, self.devid, self.dev_uuid) == (other.metadata_uuid, other.devid, other.dev_uuid)
    }
}

/// Reads one of the backups; roots that were never written are left out.
fn backup(f: Fields<'_>, index: usize) -> Result<Backup, Truncated> {
    let own = Fields(f.slice(index.saturating_mul(168).saturating_add(2859), 168)?);
    let mut roots = Vec::new();
    for number in 0..6usize {
        let at = number.saturating_mul(16);
        let (logical, generation) = (own.u64(at)?, own.u64(at.saturating_add(8))?);
        let level = own.u8(number.saturating_add(152))?;
        if logical != 0 && level < MAX_LEVEL {
            roots.push(Root { logical, generation, level });
        }
    }
    Ok(Backup { roots })
}

/// One of the places where a superblock can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its place in bytes.
    pub offset: u64,
    /// What is there.
    pub found: Result<Superblock, Error>,
}

/// Returns the places in a region of `len` bytes where superblocks can be.
#[must_use]
pub fn places(len: u64) -> Vec<Extent> {
    let all = OFFSETS.iter().filter_map(|offset| Extent::with_len(*offset, LEN as u64));
    all.filter(|place| place.end <= len).collect()
}

/// Reads every superblock that fits in `region`.
#[must_use]
pub fn read_all(region: &dyn ReadAt) -> Vec<Copy> {
    places(region.len()).into_iter().map(|place| read(region, place.start)).collect()
}

/// Reads the superblock at `offset`.
#[must_use]
pub fn read(region: &dyn ReadAt, offset: u64) -> Copy {
    let mut bytes = vec![0; LEN];
    let found = match region.read_exact_at(&mut bytes, offset) {
        Ok(()) => Superblock::parse(&bytes, offset),
        Err(_) => Err(Error::Unreadable),
    };
    Copy { offset, found }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::{super::checksum::ROOM, *};
    use crate::fs::ext::checksum::crc32c;

    fn with(changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut out = vec![0; LEN];
        out[48..56].copy_from_slice(&(64 * KIB).to_le_bytes());
        out[64..72].copy_from_slice(MAGIC);
        out[72] = 9;
        out[144..148].copy_from_slice(&4096u32.to_le_bytes());
        out[148..152].copy_from_slice(&16384u32.to_le_bytes());
        out[32..48].fill(3);
        changes.iter().for_each(|(at, bytes)| out[*at..at + bytes.len()].copy_from_slice(bytes));
        let crc = !crc32c(!0, &[&out[ROOM..]]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    #[test]
    fn fields_are_where_the_format_has_them() {
        let sb = Superblock::parse(&with(&[(88, &[0, 0, 1]), (96, &[0, 0, 2]), (164, &[8]), (199, &[1])]), 64 * KIB)
            .unwrap();
        assert_eq!(sb.chunk_root, Root { logical: 65536, generation: 8, level: 1 });
        assert_eq!(sb.log_root, Some(Root { logical: 131_072, generation: 10, level: 0 }));
        assert_eq!(sb.metadata_uuid, [3; 16]);
        let split = Superblock::parse(&with(&[(189, &[4]), (571, &[5; 16])]), 64 * KIB).unwrap();
        assert_eq!((split.fsid, split.metadata_uuid), ([3; 16], [5; 16]));
        let backup =
            Superblock::parse(&with(&[(2859 + 168 + 16, &[0, 16]), (2859 + 168 + 153, &[2])]), 64 * KIB).unwrap();
        assert_eq!(backup.backups[1].roots, [Root { logical: 4096, generation: 0, level: 2 }]);
        assert_eq!(backup.backups[0].roots, []);
    }

    #[test]
    fn broken_superblocks_are_errors() {
        for (name, bytes, want) in [
            ("no magic", with(&[(64, b"X")]), "there is none"),
            ("checksum type", with(&[(196, &[9])]), "its checksum type is 9"),
            ("place", with(&[(50, &[7])]), "it says it is at byte 0x70000"),
            ("sector size", with(&[(145, &[3])]), "its sector size is 768"),
            ("node size", with(&[(149, &[8])]), "its node size is 2048"),
            ("node size, too large", with(&[(148, &[0, 0, 2])]), "its node size is 131072"),
            ("system chunks", with(&[(160, &[1, 8])]), "its length of system chunks is 2049"),
            ("level", with(&[(198, &[8])]), "its tree level is 8"),
            ("root", with(&[(80, &[1])]), "its tree root is 1"),
        ] {
            assert_eq!(Superblock::parse(&bytes, 64 * KIB).unwrap_err().to_string(), want, "{name}");
        }
        let mut bytes = with(&[]);
        bytes[3000] ^= 1;
        assert_eq!(Superblock::parse(&bytes, 64 * KIB), Err(Error::Checksum));
        assert!(matches!(Superblock::parse(&bytes[..2000], 64 * KIB), Err(Error::Truncated(_))));
    }

    #[test]
    fn only_places_in_the_region_are_read() {
        let places = |len| places(len).iter().map(|place| place.start).collect::<Vec<_>>();
        assert_eq!(places(64 * KIB), [] as [u64; 0]);
        assert_eq!(places(64 * MIB + 4095), [64 * KIB]);
        assert_eq!(places(u64::MAX), OFFSETS);
    }
}

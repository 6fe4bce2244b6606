//! From what a person typed to an open disk.

use std::{
    fmt,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Disk, Error, ReadAt, TargetDisk,
    device::DeviceDisk,
    discovery::{self, DiskClass, DiskInfo},
    file::FileDisk,
    nbd::NbdDisk,
    read_vec,
};
use crate::{bytes::Fields, units::SectorSize};

/// How a job names a disk. As text: a path, `nbd:unix:PATH`, `nbd:HOST:PORT`, `serial:…`, `wwn:…`, `guid:…` (GPT disk
/// GUID).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum DiskRef {
    /// A device node or a file.
    Path(String),
    /// An NBD export: what follows `nbd:`.
    Nbd(String),
    /// The one device with this serial number.
    Serial(String),
    /// The one device with this world wide name.
    Wwn(String),
    /// The one device whose GPT has this disk GUID.
    Guid(String),
}

impl DiskRef {
    /// Tells whether the name stays with the disk when the kernel names disks in another order.
    #[must_use]
    pub const fn is_identity(&self) -> bool {
        matches!(self, Self::Serial(_) | Self::Wwn(_) | Self::Guid(_))
    }
}

impl From<String> for DiskRef {
    fn from(text: String) -> Self {
        for (prefix, make) in [
            ("nbd:", Self::Nbd as fn(String) -> Self),
            ("serial:", Self::Serial),
            ("wwn:", Self::Wwn),
            ("guid:", Self::Guid),
        ] {
            if let Some(rest) = text.strip_prefix(prefix) {
                return make(rest.to_owned());
            }
        }
        Self::Path(text)
    }
}

impl From<DiskRef> for String {
    fn from(disk: DiskRef) -> Self {
        disk.to_string()
    }
}

impl fmt::Display for DiskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Nbd(export) => write!(f, "nbd:{export}"),
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::Wwn(wwn) => write!(f, "wwn:{wwn}"),
            Self::Guid(guid) => write!(f, "guid:{guid}"),
        }
    }
}

/// Opens a disk for reading, and keeps everybody else from writing to it for as long as it is open.
///
/// * `sector_size`: for files and NBD exports; a device says its own.
///
/// # Errors
/// [`Error::Refused`] when no disk or more than one matches an identity, or the disk is in use; [`Error::Open`].
pub fn open_source(disk: &DiskRef, sector_size: Option<SectorSize>) -> Result<Box<dyn Disk>, Error> {
    Ok(match locate(disk)? {
        Place::Device(path) => Box::new(DeviceDisk::open_source(&path)?),
        Place::File(path) => Box::new(FileDisk::open_source(&path, sector_size)?),
        Place::Nbd(export) => Box::new(NbdDisk::open_source(&export, sector_size)?),
    })
}

/// Opens a disk for a look at its table and labels: reading, whoever uses it, and without keeping anybody from
/// writing. What is read may change meanwhile; no job reads a disk this way.
///
/// # Errors
/// As [`open_source`], but for disks in use.
pub fn open_look(disk: &DiskRef, sector_size: Option<SectorSize>) -> Result<Box<dyn Disk>, Error> {
    match locate(disk)? {
        Place::Device(path) => Ok(Box::new(DeviceDisk::open_look(&path)?)),
        Place::File(_) | Place::Nbd(_) => open_source(disk, sector_size),
    }
}

/// Opens a disk for writing, exclusively.
///
/// * `sector_size`: for files and NBD exports; a device says its own.
///
/// # Errors
/// As [`open_source`]; also [`Error::Refused`] for a read-only disk or a mounted one.
pub fn open_target(disk: &DiskRef, sector_size: Option<SectorSize>) -> Result<Box<dyn TargetDisk>, Error> {
    Ok(match locate(disk)? {
        Place::Device(path) => Box::new(DeviceDisk::open_target(&path)?),
        Place::File(path) => Box::new(FileDisk::open_target(&path, sector_size)?),
        Place::Nbd(export) => Box::new(NbdDisk::open_target(&export, sector_size)?),
    })
}

/// Where a disk is, once its name is understood.
enum Place {
    Device(PathBuf),
    File(PathBuf),
    Nbd(String),
}

fn locate(disk: &DiskRef) -> Result<Place, Error> {
    match disk {
        DiskRef::Path(path) => locate_path(path),
        DiskRef::Nbd(export) => Ok(Place::Nbd(export.clone())),
        DiskRef::Serial(_) | DiskRef::Wwn(_) | DiskRef::Guid(_) => {
            let all = discovery::disks()?;
            Ok(Place::Device(find(disk, &all, &guid_of)?.identity.path.clone().into()))
        }
    }
}

fn locate_path(path: &str) -> Result<Place, Error> {
    let meta = std::fs::metadata(path).map_err(|source| Error::Open {
        action: "looking at",
        disk: path.to_owned(),
        source,
    })?;
    let kind = meta.file_type();
    let what = if kind.is_block_device() {
        return Ok(Place::Device(path.into()));
    } else if kind.is_file() {
        return Ok(Place::File(path.into()));
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a socket"
    };
    Err(Error::Refused { disk: path.to_owned(), reason: format!("it is {what}, neither a block device nor a file") })
}

/// Finds the one disk of `all` that `disk` names by identity: [`only`] of those [`matching`].
///
/// # Errors
/// As [`only`].
pub fn find<'a>(
    disk: &DiskRef,
    all: &'a [DiskInfo],
    guid_of: &dyn Fn(&DiskInfo) -> Option<String>,
) -> Result<&'a DiskInfo, Error> {
    only(disk, &matching(disk, all, guid_of))
}

/// Finds the disks of `all` that `disk` names by identity. Only real disks count: no loop devices, no stacks. A name
/// that is a place, or says nothing, names none.
///
/// * `guid_of`: reads the GPT disk GUID of a disk, in lower case with hyphens; asked only for [`DiskRef::Guid`].
#[must_use]
pub fn matching<'a>(
    disk: &DiskRef,
    all: &'a [DiskInfo],
    guid_of: &dyn Fn(&DiskInfo) -> Option<String>,
) -> Vec<&'a DiskInfo> {
    let matches = |info: &DiskInfo| match disk {
        DiskRef::Serial(wanted) => info.identity.serial.as_deref().is_some_and(|is| is == wanted.trim()),
        DiskRef::Wwn(wanted) => info.identity.wwn.as_deref().is_some_and(|is| plain_wwn(is) == plain_wwn(wanted)),
        DiskRef::Guid(wanted) => guid_of(info).is_some_and(|is| is.eq_ignore_ascii_case(plain_guid(wanted))),
        DiskRef::Path(_) | DiskRef::Nbd(_) => false,
    };
    let real = all.iter().filter(|info| info.class == DiskClass::Disk && !says_nothing(disk));
    real.filter(|info| matches(info)).collect()
}

/// Returns the one disk of those found for `disk`.
///
/// # Errors
/// [`Error::Refused`] when there is none or more than one, naming those that there are.
pub fn only<'a>(disk: &DiskRef, found: &[&'a DiskInfo]) -> Result<&'a DiskInfo, Error> {
    let refused = |reason: String| Err(Error::Refused { disk: disk.to_string(), reason });
    match found {
        [one] => Ok(one),
        [] if says_nothing(disk) => refused("the name says nothing".to_owned()),
        [] => refused("no disk matches".to_owned()),
        several => {
            let names: Vec<&str> = several.iter().map(|info| info.identity.path.as_str()).collect();
            refused(format!("{} disks match: {}", names.len(), names.join(", ")))
        }
    }
}

/// Tells whether nothing stands behind `serial:` or its like.
fn says_nothing(disk: &DiskRef) -> bool {
    disk.to_string().split_once(':').is_some_and(|(_, wanted)| wanted.trim().is_empty())
}

/// Takes from a world wide name what differs between those who print it: `naa.` or `0x`, case, padding.
fn plain_wwn(wwn: &str) -> String {
    let lower = wwn.trim().to_lowercase();
    let bare = ["naa.", "eui.", "0x"].iter().find_map(|prefix| lower.strip_prefix(prefix)).unwrap_or(&lower);
    bare.split_whitespace().collect::<Vec<_>>().join("_")
}

fn plain_guid(guid: &str) -> &str {
    guid.trim().trim_start_matches('{').trim_end_matches('}')
}

/// Reads the GPT disk GUID of a disk, whoever uses it; `None` where there is none or the disk cannot be read.
#[must_use]
pub fn guid_of(info: &DiskInfo) -> Option<String> {
    let disk = DeviceDisk::open_look(Path::new(&info.identity.path)).ok()?;
    gpt_disk_guid(&disk, disk.sector_size())
}

/// Reads the disk GUID of a GPT from its primary header, or the backup where that one is damaged.
///
/// ```text
///   0          8     12        16    20      56
/// | EFI PART | rev | size    | crc | …     | disk GUID, 16 bytes |
/// ```
///
/// Source: UEFI Specification, "GPT Header".
#[must_use]
pub fn gpt_disk_guid(disk: &dyn ReadAt, sector_size: SectorSize) -> Option<String> {
    let last = disk.len().checked_sub(sector_size.bytes())?;
    [sector_size.bytes(), last].into_iter().find_map(|offset| {
        let sector = read_vec(disk, offset, sector_size.usize()).ok()?;
        header_guid(&sector)
    })
}

fn header_guid(sector: &[u8]) -> Option<String> {
    const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let fields = Fields(sector);
    let len = usize::try_from(fields.u32(12).ok()?).ok().filter(|len| *len >= 92)?;
    let mut header = fields.slice(0, len).ok()?.to_vec();
    header.get_mut(16..20)?.fill(0);
    if !fields.has(0, b"EFI PART") || CRC32.checksum(&header) != fields.u32(16).ok()? {
        return None;
    }
    Some(uuid::Uuid::from_bytes_le(fields.array(56).ok()?).hyphenated().to_string())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::{
        block::{Identity, MemoryDisk, Transport, testing::tool},
        units::MIB,
    };

    fn info(name: &str, class: DiskClass, serial: &str, wwn: &str) -> DiskInfo {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let identity = Identity {
            path: format!("/dev/{name}"),
            model: None,
            serial: some(serial),
            wwn: some(wwn),
            transport: Transport::Other,
            len: MIB,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B512,
        };
        DiskInfo {
            name: name.to_owned(),
            identity,
            class,
            rotational: false,
            discard: None,
            removable: false,
            read_only: false,
            in_use: Vec::new(),
        }
    }

    #[test]
    fn names_survive_the_way_to_text_and_back() {
        for (text, want) in [
            ("/dev/sda", DiskRef::Path("/dev/sda".to_owned())),
            ("nbd:unix:/run/x:y", DiskRef::Nbd("unix:/run/x:y".to_owned())),
            ("serial:WD 1", DiskRef::Serial("WD 1".to_owned())),
            ("wwn:naa.5", DiskRef::Wwn("naa.5".to_owned())),
            ("guid:AB", DiskRef::Guid("AB".to_owned())),
        ] {
            let named = DiskRef::from(text.to_owned());
            assert_eq!(named, want);
            assert_eq!(named.to_string(), text);
        }
    }

    #[test]
    fn an_identity_names_one_disk_or_none() {
        let all = [
            info("sda", DiskClass::Disk, "AAA", "naa.5000C500AABBCCDD"),
            info("sdb", DiskClass::Disk, "TWIN", "t10.ATA     QEMU  X"),
            info("sdc", DiskClass::Disk, "TWIN", ""),
            info("dm-0", DiskClass::Stacked, "AAA", "naa.5000C500AABBCCDD"),
            info("loop0", DiskClass::Loop, "LOOP", ""),
        ];
        let guid = |disk: &DiskInfo| {
            let guid = match disk.name.as_str() {
                "sda" | "loop0" => "0fc63daf-8483-4772-8e79-3d69d8477de4",
                _ => "aaaaaaaa-0000-0000-0000-000000000000",
            };
            Some(guid.to_owned())
        };
        for (named, want) in [
            ("serial:AAA", Ok("sda")),
            ("serial: AAA ", Ok("sda")),
            ("serial:aaa", Err("no disk matches")),
            ("serial:AA", Err("no disk matches")),
            ("serial:LOOP", Err("no disk matches")),
            ("serial:TWIN", Err("2 disks match: /dev/sdb, /dev/sdc")),
            ("serial:", Err("the name says nothing")),
            ("wwn: ", Err("the name says nothing")),
            ("wwn:naa.5000c500aabbccdd", Ok("sda")),
            ("wwn:0x5000c500aabbccdd", Ok("sda")),
            ("wwn:5000C500AABBCCDD", Ok("sda")),
            ("wwn:5000C500AABBCCDE", Err("no disk matches")),
            ("wwn:t10.ATA_QEMU_X", Ok("sdb")),
            ("guid:0FC63DAF-8483-4772-8E79-3D69D8477DE4", Ok("sda")),
            ("guid:{0fc63daf-8483-4772-8e79-3d69d8477de4}", Ok("sda")),
            ("guid:aaaaaaaa-0000-0000-0000-000000000000", Err("2 disks match: /dev/sdb, /dev/sdc")),
            ("/dev/sda", Err("no disk matches")),
        ] {
            let got = find(&DiskRef::from(named.to_owned()), &all, &guid);
            let got = got.map(|disk| disk.name.as_str()).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(|reason| format!("{named}: {reason}")), "{named}");
        }
    }

    #[test]
    fn what_is_neither_device_nor_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, want) in [
            (dir.path().to_str().unwrap(), "it is a folder, neither a block device nor a file"),
            (socket.to_str().unwrap(), "it is a socket, neither a block device nor a file"),
            ("/dev/null", "it is a character device, neither a block device nor a file"),
        ] {
            let named = DiskRef::Path(path.to_owned());
            for error in
                [open_source(&named, None).err(), open_target(&named, None).err(), open_look(&named, None).err()]
            {
                assert_eq!(error.unwrap().to_string(), format!("{path}: {want}"));
            }
        }
        let missing = open_source(&DiskRef::Path("/nonexistent".to_owned()), None).err().unwrap();
        assert!(matches!(missing, Error::Open { .. }), "{missing:?}");
    }

    #[test]
    fn a_file_is_opened_as_a_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MIB).unwrap();
        let named = DiskRef::Path(file.path().display().to_string());
        let disk = open_target(&named, Some(SectorSize::B4096)).unwrap();
        assert_eq!(
            (disk.len(), disk.sector_size(), disk.identity().transport),
            (MIB, SectorSize::B4096, Transport::File)
        );
    }

    /// A disk with a GPT by another program.
    fn gpt(guid: &str) -> Vec<u8> {
        use std::io::Write as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 * MIB).unwrap();
        let mut child = Command::new(tool("sfdisk", "fdisk"))
            .args(["--quiet", "--no-reread", "--no-tell-kernel"])
            .arg(file.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        write!(child.stdin.take().unwrap(), "label: gpt\nlabel-id: {guid}\nsize=1MiB\n").unwrap();
        assert!(child.wait().unwrap().success());
        std::fs::read(file.path()).unwrap()
    }

    #[test]
    fn the_guid_of_a_gpt_is_read_from_either_header_and_only_from_a_whole_one() {
        const GUID: &str = "12345678-9ABC-4DEF-8123-456789ABCDEF";
        let image = gpt(GUID);
        let last = image.len() - 512;
        for (name, damaged, want) in [
            ("whole", vec![], true),
            ("primary damaged", vec![512 + 60], true),
            ("primary without signature", vec![512], true),
            ("backup damaged", vec![last + 60], true),
            ("both damaged", vec![512 + 60, last + 60], false),
            ("both with a wrong length", vec![512 + 13, last + 12], false),
            ("both with a wrong checksum", vec![512 + 16, last + 17], false),
        ] {
            let mut bytes = image.clone();
            damaged.into_iter().for_each(|at| bytes[at] ^= 0x40);
            let got = gpt_disk_guid(&MemoryDisk::new(bytes, SectorSize::B512), SectorSize::B512);
            assert_eq!(got, want.then(|| GUID.to_lowercase()), "{name}");
        }
        let tiny = MemoryDisk::new(vec![0; 512], SectorSize::B512);
        assert_eq!(gpt_disk_guid(&tiny, SectorSize::B512), None);
        assert_eq!(gpt_disk_guid(&tiny, SectorSize::B4096), None);
    }
}

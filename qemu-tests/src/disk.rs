//! Whole disks as sparse raw files, made without root by the distribution's own tools.
//!
//! ```text
//! | table | 1 MiB | partition 1 | partition 2 | ... | backup table (GPT) |
//!                   mke2fs -d at its offset; FAT and swap in a file of their own, copied in without the holes
//! ```
//!
//! Partitions start at multiples of 1 MiB. Logical partitions have their EBR 1 MiB before them.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    At as _, Error, MIB, Result, ensure,
    tools::{self, run, tool},
};

/// A disk that was made, and what is where on it.
#[derive(Clone, Debug)]
pub struct TestDisk {
    /// The raw file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes in a sector.
    pub sector: u64,
    /// Whether its table is a GPT.
    pub gpt: bool,
    /// Its partitions, in disk order.
    pub parts: Vec<Placed>,
}

/// A partition of a [`TestDisk`].
#[derive(Clone, Debug)]
pub struct Placed {
    /// The number the kernel gives it.
    pub number: u32,
    /// First byte, from the start of the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it holds.
    pub holds: Holds,
}

/// What a partition is to hold.
#[derive(Clone, Debug)]
pub enum Holds {
    /// FAT of 12, 16 or 32 bits, with the files of a folder.
    Fat {
        /// Bits of a FAT entry.
        bits: u8,
        /// Volume label, at most 11 characters.
        label: String,
        /// The folder; nothing for an empty volume.
        tree: Option<PathBuf>,
    },
    /// ext2, ext3 or ext4, with the files of a folder, some of them deleted again.
    Ext {
        /// `ext2`, `ext3`, `ext4`: a type that `mke2fs -t` knows.
        kind: &'static str,
        /// Volume label, at most 16 characters.
        label: String,
        /// The folder; nothing for an empty volume.
        tree: Option<PathBuf>,
        /// Paths to delete after the volume was filled: free blocks then hold old data.
        deleted: Vec<PathBuf>,
    },
    /// A swap area.
    Swap {
        /// Its label.
        label: String,
    },
}

/// A disk to be made.
#[derive(Clone, Debug)]
pub struct DiskBuilder {
    len: u64,
    sector: u64,
    gpt: bool,
    parts: Vec<(bool, u64, Holds)>,
}

impl DiskBuilder {
    /// Begins a disk of `len` bytes with a GPT.
    #[must_use]
    pub const fn gpt(len: u64) -> Self {
        Self { len, sector: 512, gpt: true, parts: Vec::new() }
    }

    /// Begins a disk of `len` bytes with an MBR.
    #[must_use]
    pub const fn mbr(len: u64) -> Self {
        Self { len, sector: 512, gpt: false, parts: Vec::new() }
    }

    /// Counts in sectors of `bytes`, 512 or 4096.
    #[must_use]
    pub const fn sector(mut self, bytes: u64) -> Self {
        self.sector = bytes;
        self
    }

    /// Adds a partition of `len` bytes behind the last one; `len` is a multiple of 1 MiB.
    #[must_use]
    pub fn part(mut self, len: u64, holds: Holds) -> Self {
        self.parts.push((false, len, holds));
        self
    }

    /// Adds a logical partition (MBR only); all partitions after it are logical as well.
    #[must_use]
    pub fn logical(mut self, len: u64, holds: Holds) -> Self {
        self.parts.push((true, len, holds));
        self
    }

    /// Adds an EFI system partition with the files of `tree`.
    #[must_use]
    pub fn esp(self, len: u64, tree: &Path) -> Self {
        // A FAT of 32 bits has at least 65525 clusters, and a cluster is at least a sector.
        let bits = if len / self.sector >= 66_000 { 32 } else { 16 };
        self.part(len, Holds::Fat { bits, label: "EFI".to_owned(), tree: Some(tree.to_path_buf()) })
    }

    /// Adds an ext4 partition with the files of `tree`.
    #[must_use]
    pub fn ext4(self, label: &str, len: u64, tree: &Path) -> Self {
        self.part(len, ext4(label, tree))
    }

    /// Adds a swap partition.
    #[must_use]
    pub fn swap(self, len: u64) -> Self {
        self.part(len, Holds::Swap { label: "swap".to_owned() })
    }

    /// Makes the disk.
    ///
    /// # Errors
    /// [`Error::Tool`] or [`Error::File`] from whatever step failed.
    pub fn build(self, path: &Path) -> Result<TestDisk> {
        File::create(path).and_then(|file| file.set_len(self.len)).at(path)?;
        let parts = self.place()?;
        match (self.gpt, self.sector) {
            (true, 512) => sgdisk(path, &parts)?,
            (true, sector) => fdisk(path, sector, &parts)?,
            (false, 512) => sfdisk(path, self.parts.iter().map(|(logical, ..)| *logical), &parts)?,
            (false, sector) => return Err(Error::Wrong(format!("no MBR with sectors of {sector} bytes here"))),
        }
        for part in &parts {
            fill(path, part, self.sector)?;
        }
        Ok(TestDisk { path: path.to_path_buf(), len: self.len, sector: self.sector, gpt: self.gpt, parts })
    }

    fn place(&self) -> Result<Vec<Placed>> {
        let (mut at, mut number, mut parts) = (MIB, 0, Vec::new());
        for (logical, len, holds) in &self.parts {
            ensure!(len % MIB == 0, "a partition of {len} bytes is not a multiple of 1 MiB");
            if *logical {
                at += MIB;
                number = number.max(4);
            }
            number += 1;
            parts.push(Placed { number, start: at, len: *len, holds: holds.clone() });
            at += len;
        }
        ensure!(at + MIB <= self.len, "the partitions need {at} bytes, the disk has {}", self.len);
        Ok(parts)
    }
}

/// Returns an ext4 file system with the files of `tree`.
#[must_use]
pub fn ext4(label: &str, tree: &Path) -> Holds {
    Holds::Ext { kind: "ext4", label: label.to_owned(), tree: Some(tree.to_path_buf()), deleted: Vec::new() }
}

fn sgdisk(path: &Path, parts: &[Placed]) -> Result<()> {
    let mut command = tool("sgdisk");
    command.args(["-a", "1", "-U", "6f1c7a52-4f0e-4b8e-9d57-3a1e5bd0c001"]);
    for part in parts {
        let (first, last) = (part.start / 512, (part.start + part.len) / 512 - 1);
        let (kind, name) = match part.holds {
            Holds::Fat { .. } => ("ef00", "EFI system partition"),
            Holds::Ext { .. } => ("8300", "Linux root"),
            Holds::Swap { .. } => ("8200", "swap"),
        };
        let number = part.number;
        command.args(["-n", &format!("{number}:{first}:{last}")]);
        command.args(["-t", &format!("{number}:{kind}"), "-c", &format!("{number}:{name}")]);
    }
    run(command.arg(path)).map(drop)
}

fn fdisk(path: &Path, sector: u64, parts: &[Placed]) -> Result<()> {
    let mut script = "g\n".to_owned();
    for part in parts {
        let (first, last) = (part.start / sector, (part.start + part.len) / sector - 1);
        script += &format!("n\n{}\n{first}\n{last}\n", part.number);
    }
    feed(tool("fdisk").args(["-b", &sector.to_string()]).arg(path), &format!("{script}w\n"))
}

fn sfdisk(path: &Path, logical: impl Iterator<Item = bool>, parts: &[Placed]) -> Result<()> {
    let mut script = "label: dos\nlabel-id: 0x5ec0de01\n".to_owned();
    let (mut extended, end) = (false, parts.last().map_or(0, |part| part.start + part.len));
    for (part, logical) in parts.iter().zip(logical) {
        if logical && !extended {
            extended = true;
            script += &format!("start={}, size={}, type=5\n", part.start / 512 - 2048, (end - part.start) / 512 + 2048);
        }
        let kind = match part.holds {
            Holds::Fat { .. } => "c",
            Holds::Ext { .. } => "83",
            Holds::Swap { .. } => "82",
        };
        let bootable = if part.number == 1 { ", bootable" } else { "" };
        script += &format!("start={}, size={}, type={kind}{bootable}\n", part.start / 512, part.len / 512);
    }
    feed(tool("sfdisk").arg("-q").arg(path), &script)
}

/// Runs a command with `text` as its standard input.
fn feed(command: &mut Command, text: &str) -> Result<()> {
    let mut file = tempfile::tempfile().at("a temporary file")?;
    file.write_all(text.as_bytes()).at("a temporary file")?;
    std::io::Seek::rewind(&mut file).at("a temporary file")?;
    run(command.stdin(Stdio::from(file))).map(drop)
}

fn fill(disk: &Path, part: &Placed, sector: u64) -> Result<()> {
    match &part.holds {
        Holds::Ext { kind, label, tree, deleted } => {
            mke2fs(disk, part.start, part.len, kind, label, tree.as_deref())?;
            delete(disk, part.start, deleted)
        }
        Holds::Fat { bits, label, tree } => {
            aside(disk, part, |file| mkfs_fat(file, *bits, sector, label, tree.as_deref()))
        }
        Holds::Swap { label } => aside(disk, part, |file| {
            let uuid = "5e0ff5e7-0000-4000-8000-00000000a5a5";
            run(tool("mkswap").args(["-q", "-L", label, "-U", uuid]).arg(file)).map(drop)
        }),
    }
}

/// Makes a volume in a file of its own and copies it to its place on the disk.
fn aside(disk: &Path, part: &Placed, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let file = disk.with_extension(format!("part{}", part.number));
    File::create(&file).and_then(|new| new.set_len(part.len)).at(&file)?;
    make(&file)?;
    copy_data(&file, disk, part.start)?;
    fs::remove_file(&file).at(&file)
}

/// Copies what is not zero of `from` to `offset` of `to`.
fn copy_data(from: &Path, to: &Path, offset: u64) -> Result<()> {
    let source = File::open(from).at(from)?;
    let target = File::options().write(true).open(to).at(to)?;
    let len = source.metadata().at(from)?.len();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        source.read_exact_at(&mut buffer[..step], at).at(from)?;
        for (number, block) in buffer[..step].chunks(4096).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                target.write_all_at(block, offset + at + number as u64 * 4096).at(to)?;
            }
        }
        at += step as u64;
    }
    Ok(())
}

fn mke2fs(file: &Path, offset: u64, len: u64, kind: &str, label: &str, tree: Option<&Path>) -> Result<()> {
    let mut command = tool("mke2fs");
    command.args(["-q", "-F", "-t", kind, "-L", label, "-E", &format!("offset={offset},root_owner=0:0")]);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    run(command.arg(file).arg(format!("{}k", len / 1024))).map(drop)
}

/// Deletes files of an ext volume, as a system that lived on it would have.
fn delete(disk: &Path, offset: u64, files: &[PathBuf]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let script: String = files.iter().map(|file| format!("rm \"{}\"\n", file.display())).collect();
    feed(tool("debugfs").args(["-w", "-f", "/dev/stdin"]).arg(within(disk, offset)), &script)?;
    // debugfs leaves the checksums of nothing stale, but says nothing when a path was wrong.
    run(tool("e2fsck").arg("-fn").arg(within(disk, offset))).map(drop)
}

/// Names a volume inside a disk file as the ext tools take it.
#[must_use]
pub fn within(disk: &Path, offset: u64) -> String {
    format!("{}?offset={offset}", disk.display())
}

fn mkfs_fat(file: &Path, bits: u8, sector: u64, label: &str, tree: Option<&Path>) -> Result<()> {
    let (bits, sector) = (bits.to_string(), sector.to_string());
    let mut command = tool("mkfs.fat");
    command.args(["-F", &bits, "-S", &sector, "-n", label, "-i", "5e5cbead"]);
    if bits != "12" {
        // Volumes of tests are small: with the usual clusters there would be too few of them for 16 or 32 bits.
        command.args(["-s", "1"]);
    }
    run(command.arg(file))?;
    let Some(tree) = tree else { return Ok(()) };
    let mut copy = tool("mcopy");
    copy.arg("-s").arg("-i").arg(file);
    let entries = fs::read_dir(tree).at(tree)?;
    let mut paths = entries.map(|entry| Ok(entry.at(tree)?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort_unstable();
    run(copy.args(paths).arg("::/")).map(drop)
}

/// Makes a disk without a table that holds one file system, to keep a store.
///
/// * `kind`: `ext4`, `vfat`, `xfs`, `btrfs`, `exfat` or `ntfs`.
///
/// # Errors
/// [`Error::Tool`] or [`Error::File`] from whatever step failed.
pub fn store_disk(path: &Path, len: u64, kind: &str, label: &str) -> Result<()> {
    File::create(path).and_then(|file| file.set_len(len)).at(path)?;
    let mut command = match kind {
        "ext4" => return mke2fs(path, 0, len, kind, label, None),
        "vfat" => tool("mkfs.fat"),
        "xfs" => tool("mkfs.xfs"),
        "btrfs" => tool("mkfs.btrfs"),
        "exfat" => tool("mkfs.exfat"),
        "ntfs" => tool("mkntfs"),
        other => return Err(Error::Wrong(format!("no {other} is made here"))),
    };
    match kind {
        "vfat" => command.args(["-F", "32", "-s", "8", "-n", label]),
        "ntfs" => command.args(["-q", "-F", "-L", label]),
        "exfat" => command.args(["-L", label]),
        _ => command.args(["-q", "-L", label]),
    };
    run(command.arg(path)).map(drop)
}

/// Makes a copy of a disk file that takes no more room than its data.
///
/// # Errors
/// [`Error::Tool`] when `cp` fails.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    run(tools::tool("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KIB, extract, tree};

    #[test]
    fn disks_have_the_tables_and_file_systems_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("tree");
        tree::plant(&files, 3 * MIB, 1).unwrap();
        let want = tree::list(&files).unwrap();
        let gpt = |sector| DiskBuilder::gpt(200 * MIB).sector(sector).esp(34 * MIB, &files);
        for (name, builder, check) in [
            ("gpt", gpt(512), "sgdisk"),
            ("gpt of large sectors", gpt(4096), "fdisk"),
            ("mbr", DiskBuilder::mbr(200 * MIB).logical(34 * MIB, ext4("one", &files)), "sfdisk"),
        ] {
            let logical = name == "mbr";
            let add = |builder: DiskBuilder, holds| {
                if logical { builder.logical(20 * MIB, holds) } else { builder.part(20 * MIB, holds) }
            };
            let builder = add(builder, ext4("root", &files));
            let builder = add(builder, Holds::Swap { label: "swap".to_owned() });
            let disk = builder.build(&dir.path().join("disk")).unwrap();
            let said = match check {
                "sgdisk" => run(tool("sgdisk").arg("-v").arg(&disk.path)).unwrap(),
                "fdisk" => run(tool("fdisk").args(["-b", "4096", "-l"]).arg(&disk.path)).unwrap(),
                _ => run(tool("sfdisk").arg("--verify").arg(&disk.path)).unwrap(),
            };
            assert!(!said.contains("Problem"), "{name}: {said}");
            for part in &disk.parts {
                match extract::files(&disk.path, part).unwrap() {
                    Some(found) => assert_eq!(found, want, "{name}, partition {}", part.number),
                    None => assert!(matches!(part.holds, Holds::Swap { .. })),
                }
            }
        }
    }

    #[test]
    fn deleted_files_are_gone_and_their_blocks_remain() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("tree");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("kept"), vec![1; 9000]).unwrap();
        fs::write(files.join("not kept"), b"REMEMBER ME ".repeat(9000)).unwrap();
        let holds =
            Holds::Ext { kind: "ext4", label: "r".into(), tree: Some(files), deleted: vec!["/not kept".into()] };
        let disk = DiskBuilder::gpt(16 * MIB).part(8 * MIB, holds).build(&dir.path().join("disk")).unwrap();
        let found = extract::files(&disk.path, &disk.parts[0]).unwrap().unwrap();
        assert_eq!(found.iter().map(|e| e.path.to_str().unwrap()).collect::<Vec<_>>(), ["kept"]);
        let bytes = fs::read(&disk.path).unwrap();
        let block = usize::try_from(4 * KIB).unwrap();
        assert!(bytes.chunks(block).any(|b| b.starts_with(b"REMEMBER ME ")), "the deleted file's blocks were cleared");
    }
}

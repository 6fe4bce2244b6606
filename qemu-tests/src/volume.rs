//! Volumes: one file system each in a sparse file without a table, made by its own `mkfs`, judged by its own checker.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    At as _, Error, MIB, Result,
    guest::orders::{Fill, Order, Style, Task},
    pairs::pairs,
    tools::{run, shown, tail, tool},
};

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The kernel's driver.
    pub driver: &'static str,
    /// Mount options.
    pub options: &'static str,
    /// Mount options after a power cut.
    pub replay: &'static str,
    /// Whether links, holes and long names may be among its files.
    pub unix: bool,
    /// Whether its checker finds nothing wrong once the kernel has mounted it again after a power cut.
    pub mends: bool,
    /// Whether its allocation is read here; what is not read is kept whole.
    ///
    /// A volume that was unmounted in order must then be kept without a reason to keep more, and an image of it must
    /// hold little of what is free.
    pub read: bool,
}

const fn kind(name: &'static str, driver: &'static str) -> Kind {
    Kind { name, driver, options: "", replay: "", unix: true, mends: true, read: true }
}

/// ext2, without a journal.
pub const EXT2: Kind = Kind { mends: false, ..kind("ext2", "ext2") };
/// ext3.
pub const EXT3: Kind = kind("ext3", "ext3");
/// ext4.
pub const EXT4: Kind = kind("ext4", "ext4");
/// FAT of 12, 16 or 32 bits.
pub const FAT: Kind =
    Kind { unix: false, mends: false, read: true, options: "utf8", replay: "utf8", ..kind("vfat", "vfat") };
/// exFAT.
pub const EXFAT: Kind = Kind { unix: false, mends: false, ..kind("exfat", "exfat") };
/// NTFS. The driver refuses to write on a volume that was not unmounted unless it is forced.
pub const NTFS: Kind = Kind { mends: false, replay: "force", ..kind("ntfs", "ntfs3") };
/// XFS.
pub const XFS: Kind = kind("xfs", "xfs");
/// Btrfs.
pub const BTRFS: Kind = kind("btrfs", "btrfs");
/// F2FS.
pub const F2FS: Kind = kind("f2fs", "f2fs");
/// HFS+. The driver knows no journal, and writes only where there is none.
pub const HFSPLUS: Kind = Kind { mends: false, replay: "force", ..kind("hfsplus", "hfsplus") };

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its name: of the file, of the disk, in failures.
    pub name: String,
    /// Its file system.
    pub kind: Kind,
    /// Its length in MiB.
    pub mib: u64,
    /// Bytes in a sector of its disk.
    pub sector: u64,
    /// Options of its `mkfs`.
    pub options: String,
    /// How it is filled.
    pub style: Style,
}

/// Describes a volume on a disk of 512-byte sectors, filled with files that live for a while.
#[must_use]
pub fn recipe(name: &str, kind: Kind, mib: u64, options: &str) -> Recipe {
    let (name, options) = (name.to_owned(), options.to_owned());
    Recipe { name, kind, mib, sector: 512, options, style: Style::Churned }
}

impl Recipe {
    /// Puts it on a disk of sectors of 4096 bytes.
    #[must_use]
    pub fn large_sectors(mut self) -> Self {
        self.sector = 4096;
        self
    }

    /// Fills it in another manner.
    #[must_use]
    pub const fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Returns its length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.mib * MIB
    }

    /// Tells whether it has no bytes, which no volume is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.mib == 0
    }

    /// Returns the command that makes the file system, but for the path at its end.
    fn command(&self) -> Command {
        let mut command = match self.kind.name {
            "vfat" => tool("mkfs.fat"),
            "ntfs" => tool("mkntfs"),
            "exfat" => tool("mkfs.exfat"),
            "xfs" => tool("mkfs.xfs"),
            "btrfs" => tool("mkfs.btrfs"),
            "f2fs" => tool("mkfs.f2fs"),
            "hfsplus" => tool("mkfs.hfsplus"),
            _ => tool("mke2fs"),
        };
        let label = self.kind.name.to_uppercase();
        match self.kind.name {
            "vfat" => command.args(["-n", &label, "-S", &self.sector.to_string()]),
            "ntfs" => command.args(["-q", "-F", "-f", "-L", &label, "-s", &self.sector.to_string()]),
            "exfat" => command.args(["-L", &label]),
            "xfs" => command.args(["-q", "-L", &label, "-s", &format!("size={}", self.sector)]),
            "btrfs" => command.args(["-q", "-L", &label]),
            "f2fs" => command.args(["-q", "-f", "-l", &label, "-w", &self.sector.to_string()]),
            "hfsplus" => command.args(["-v", &label]),
            name => command.args(["-q", "-F", "-t", name, "-L", &label]),
        };
        command.args(self.options.split_whitespace());
        command
    }

    /// Makes the file, and the file system unless [`Recipe::made_in_guest`] says that only the guest can.
    ///
    /// # Errors
    /// [`Error::Tool`] when `mkfs` fails.
    pub fn make(&self, path: &Path) -> Result<()> {
        File::create(path).and_then(|file| file.set_len(self.len())).at(path)?;
        if self.made_in_guest().is_some() { Ok(()) } else { run(self.command().arg(path)).map(drop) }
    }

    /// Returns the command that makes the file system in the guest: this `mkfs` asks the disk for its sectors, and a
    /// file has none.
    #[must_use]
    pub fn made_in_guest(&self) -> Option<Vec<String>> {
        if self.kind != EXFAT || self.sector == 512 {
            return None;
        }
        let command = self.command();
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
        Some(["mkfs.exfat".to_owned()].into_iter().chain(words).chain(["DEVICE".to_owned()]).collect())
    }

    /// Tells whether its checker finds nothing wrong once the kernel has written on it and unmounted it.
    ///
    /// The driver does not count the folders of an HFS+ that tells capitals from small letters; its checker wants them
    /// counted.
    #[must_use]
    pub fn stays_clean(&self) -> bool {
        !(self.kind == HFSPLUS && self.options.split_whitespace().any(|word| word == "-s"))
    }

    /// Says what it is, for failures: its name and the command that makes it.
    #[must_use]
    pub fn about(&self) -> String {
        format!("{} ({} MiB, sectors of {}: {})", self.name, self.mib, self.sector, shown(&self.command()))
    }

    /// Returns an order about the disk that has its name.
    #[must_use]
    pub fn order(&self, task: Task) -> Order {
        let options = if matches!(task, Task::Replay) { self.kind.replay } else { self.kind.options };
        let (disk, driver, options) = (self.name.clone(), self.kind.driver.to_owned(), options.to_owned());
        Order { disk, device: None, driver, options, task }
    }

    /// Returns the order to fill it.
    #[must_use]
    pub fn fill(&self, seed: u64) -> Order {
        self.order(Task::Fill(Fill { seed, style: self.style, unix: self.kind.unix }))
    }
}

/// What a checker says of a volume.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// How it ended.
    pub status: String,
    /// All it printed, without the name of the file.
    pub output: String,
    /// The lines it printed, or the words, sorted, where threads print them in any order.
    said: Vec<String>,
}

impl Verdict {
    /// Tells whether the same was said of another volume.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        self.status == other.status && self.said == other.said
    }

    /// Returns the end of what was printed, for a failure.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}\n{}", self.status, tail(&self.output, 25))
    }
}

/// Lets the checker of a file system look at a volume; it changes nothing.
///
/// # Errors
/// [`Error::Tool`] when it cannot be started.
pub fn check(kind: Kind, path: &Path) -> Result<Verdict> {
    let mut command = match kind.name {
        "vfat" => tool("fsck.fat"),
        "ntfs" => tool("ntfsfix"),
        "exfat" => tool("fsck.exfat"),
        "xfs" => tool("xfs_repair"),
        "btrfs" => tool("btrfs"),
        "f2fs" => tool("fsck.f2fs"),
        "hfsplus" => tool("fsck.hfsplus"),
        _ => tool("e2fsck"),
    };
    match kind.name {
        "vfat" => command.args(["-n", "-v"]),
        "btrfs" => command.args(["check", "--readonly"]),
        "f2fs" => command.arg("--dry-run"),
        "exfat" | "ntfs" | "xfs" => command.arg("-n"),
        _ => command.args(["-f", "-n"]),
    };
    command.arg(path).stdin(Stdio::null());
    let line = shown(&command);
    let output = command.output().map_err(|error| Error::Tool {
        command: line,
        status: error.to_string(),
        output: String::new(),
    })?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let output_text = text.replace(&path.display().to_string(), "VOLUME");
    let has = |word: &str| output_text.contains(word);
    let clean = output.status.success()
        && match kind.name {
            // These end with 0 whatever they find.
            "f2fs" => !has("[Fail]"),
            "ntfs" => !has("Volume is dirty") && !has("corrupt"),
            _ => true,
        };
    let mut said: Vec<String> = output_text.lines().map(str::to_owned).collect();
    if kind == XFS {
        said = output_text.split_whitespace().map(str::to_owned).collect();
        said.sort_unstable();
    }
    Ok(Verdict { clean, status: output.status.to_string(), output: output_text, said })
}

/// Tells whether a volume says of itself that it was not unmounted; nothing for kinds that do not say it in a place that
/// is found without reading them.
///
/// # Errors
/// [`Error`] when it cannot be read.
pub fn says_dirty(kind: Kind, path: &Path) -> Result<Option<bool>> {
    let file = File::open(path).at(path)?;
    let number = |offset: u64| {
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, offset).at(path).map(|()| u16::from_le_bytes(bytes))
    };
    Ok(match kind.name {
        // s_state: bit 0 is set while it is unmounted; s_feature_incompat: bit 2, the journal is to be replayed.
        "ext2" => Some(number(1024 + 0x3a)? & 1 == 0),
        "ext3" | "ext4" => Some(number(1024 + 0x60)? & 4 != 0),
        // The state of the boot sector, where FATs of 32 bits have it and where others do.
        "vfat" => Some(number(if number(22)? == 0 { 0x41 } else { 0x25 })? & 1 != 0),
        // VolumeFlags.
        "exfat" => Some(number(0x6a)? & 2 != 0),
        // The attributes of the volume header at 1024, big endian: bit 8 is set while it is unmounted.
        "hfsplus" => Some(number(1024 + 6)? & 1 == 0),
        _ => None,
    })
}

/// The volumes of every run: each kind, old and young, empty and full, with small and large sectors.
#[must_use]
pub fn usual() -> Vec<Recipe> {
    vec![
        recipe("ext2", EXT2, 24, "-b 1024"),
        recipe("ext3", EXT3, 32, "-b 2048"),
        recipe("ext4", EXT4, 64, ""),
        recipe("ext4-full", EXT4, 40, "-b 4096").style(Style::Full).large_sectors(),
        recipe("ext4-bigalloc", EXT4, 64, "-O bigalloc,inline_data -C 16384"),
        recipe("fat12", FAT, 4, "-F 12"),
        recipe("fat16", FAT, 32, "-F 16 -s 4").style(Style::Full),
        recipe("fat32-4k", FAT, 300, "-F 32 -s 1").large_sectors(),
        recipe("exfat", EXFAT, 64, "-c 4096"),
        recipe("exfat-4k", EXFAT, 40, "-c 32768").style(Style::Full).large_sectors(),
        recipe("ntfs", NTFS, 64, "-c 4096"),
        recipe("ntfs-4k", NTFS, 64, "-c 65536").style(Style::Full).large_sectors(),
        recipe("xfs", XFS, 300, ""),
        recipe("xfs-v4-4k", XFS, 300, "-m crc=0 -b size=4096").style(Style::Files).large_sectors(),
        recipe("btrfs", BTRFS, 160, ""),
        recipe("btrfs-mixed", BTRFS, 64, "--mixed -n 4096 -s 4096").style(Style::Full),
        recipe("f2fs", F2FS, 80, ""),
        recipe("hfsplus", HFSPLUS, 48, ""),
        recipe("hfsplus-empty", HFSPLUS, 32, "-s -b 4096").style(Style::Empty).large_sectors(),
    ]
}

/// The volumes of a full run: for each kind, all pairs of the options that matter.
#[must_use]
pub fn all() -> Vec<Recipe> {
    let mut out = Vec::new();
    let blocks = &["-b 1024", "-b 2048", "-b 4096"];
    let by_kind: &[(&str, Kind, u64, &[&[&str]])] = &[
        ("ext2", EXT2, 40, &[blocks, &["", "-O ^resize_inode", "-O ^sparse_super,^resize_inode", "-I 128"]]),
        ("ext3", EXT3, 40, &[blocks, &["", "-O ^dir_index", "-g 2048", "-I 128"]]),
        (
            "ext4",
            EXT4,
            40,
            &[
                blocks,
                &["-O 64bit", "-O ^64bit"],
                &[
                    "",
                    "-O metadata_csum_seed",
                    "-O ^metadata_csum,uninit_bg",
                    "-O bigalloc -C 16384",
                    "-O ^flex_bg,meta_bg,^resize_inode",
                ],
                &["", "-O inline_data", "-O ^extent,^64bit"],
            ],
        ),
        ("fat12", FAT, 12, &[&["-F 12 -s 8", "-F 12 -s 16"], &["", "-f 1", "-R 4", "-r 1024"]]),
        ("fat16", FAT, 30, &[&["-F 16 -s 1", "-F 16 -s 8"], &["", "-f 1", "-R 4", "-r 1024"]]),
        ("fat32", FAT, 300, &[&["-F 32 -s 1", "-F 32 -s 2"], &["", "-f 1", "-b 12", "-R 40"]]),
        ("exfat", EXFAT, 48, &[&["-c 4096", "-c 32768", "-c 131072"], &["", "--pack-bitmap", "-b 8M"]]),
        ("ntfs", NTFS, 48, &[&["-c 4096", "-c 16384", "-c 65536"], &["", "-z 4", "-C"]]),
        (
            "xfs",
            XFS,
            300,
            &[
                &[
                    "-m crc=1",
                    "-m crc=0",
                    "-m crc=1,rmapbt=1,reflink=1",
                    "-m crc=1,reflink=0,finobt=0",
                    "-m bigtime=1,inobtcount=1",
                ],
                &["-b size=4096", "-b size=1024", "-b size=2048"],
                &["-d agcount=4", "-d agcount=3"],
            ],
        ),
        (
            "btrfs",
            BTRFS,
            256,
            &[
                &["-m dup -d single", "-m single -d single", "-m dup -d dup", "--mixed -n 4096"],
                &["", "-R ^free-space-tree", "-O ^no-holes"],
                &["--csum crc32c", "--csum xxhash", "--csum sha256", "--csum blake2"],
            ],
        ),
        (
            "f2fs",
            F2FS,
            100,
            &[
                &[
                    "",
                    "-O extra_attr,inode_checksum,sb_checksum",
                    "-O extra_attr,flexible_inline_xattr,inode_crtime",
                    "-O lost_found",
                ],
                &["", "-s 2", "-o 20", "-i"],
            ],
        ),
        ("hfsplus", HFSPLUS, 48, &[&["-b 4096", "-b 512", "-b 16384"], &["", "-s"], &["", "-w", "-n c=8192,e=1024"]]),
    ];
    for (name, kind, mib, options) in by_kind {
        out.extend(combine(name, *kind, *mib, options));
    }
    out
}

/// Combines options of `mkfs` with each other, with the sizes of sectors and the manners of filling.
fn combine(name: &str, kind: Kind, mib: u64, options: &[&[&str]]) -> Vec<Recipe> {
    const STYLES: [Style; 4] = [Style::Churned, Style::Files, Style::Full, Style::Empty];
    let axes: Vec<usize> = options.iter().map(|values| values.len()).chain([STYLES.len(), 2]).collect();
    let recipe_of = |row: &[usize]| {
        let words: Vec<&str> = options.iter().zip(row).map(|(values, at)| values[*at]).collect();
        let style = STYLES[row[options.len()]];
        let made = recipe("", kind, mib, &words.join(" ")).style(style);
        if row[options.len() + 1] == 1 { made.large_sectors() } else { made }
    };
    let rows = pairs(&axes, |row| makes_sense(&recipe_of(row)));
    let named = |(number, row): (usize, &Vec<usize>)| Recipe { name: format!("{name}-{number}"), ..recipe_of(row) };
    rows.iter().enumerate().map(named).collect()
}

/// Tells whether `mkfs` and the kernel take these options together.
fn makes_sense(recipe: &Recipe) -> bool {
    let has = |word: &str| recipe.options.contains(word);
    let large = recipe.sector == 4096;
    let small_block = ["-b 512", "-b 1024", "-b 2048", "size=1024", "size=2048"].iter().any(|word| has(word));
    let no = [
        // A block is at least a sector.
        large && small_block,
        // What large clusters or sectors leave is too few of them for the bits of the FAT, or more reserved than there is.
        has("-F 12") && large && has("-s 16"),
        has("-F 16 -s 8") && large,
        has("-F 32 -s 2") && large,
        has("meta_bg") && has("bigalloc"),
        has("^extent") && (has("-O 64bit") || has("bigalloc")),
        // The wrapper is for systems that know no such names.
        recipe.kind == HFSPLUS && has("-s") && has("-w"),
    ];
    !no.contains(&true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_serial_number() {
        for recipes in [usual(), all()] {
            let names: BTreeSet<_> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
            assert_eq!(names.len(), recipes.len());
            assert!(names.iter().all(|name| name.len() <= 20), "virtio has room for 20 characters");
        }
    }

    #[test]
    fn every_mkfs_takes_its_options() {
        let dir = tempfile::tempdir().unwrap();
        let refused = all().into_iter().filter_map(|recipe| {
            let path = dir.path().join("volume");
            let error = recipe.make(&path).err()?;
            Some(format!("{}: {error}", recipe.about()))
        });
        let refused: Vec<String> = refused.collect();
        assert!(refused.is_empty(), "{} refused\n{}", refused.len(), refused.join("\n"));
    }

    #[test]
    fn every_kind_is_tried_in_every_manner() {
        for kind in [EXT2, EXT3, EXT4, FAT, EXFAT, NTFS, XFS, BTRFS, F2FS, HFSPLUS] {
            for style in [Style::Empty, Style::Files, Style::Churned, Style::Full] {
                assert!(all().iter().any(|r| r.kind == kind && r.style == style), "{} {style:?}", kind.name);
            }
            assert!(usual().iter().any(|r| r.kind == kind), "{}", kind.name);
        }
    }
}

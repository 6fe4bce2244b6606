//! The initramfs of the helper guest: kernel modules, busybox for `modprobe`, the guest's program, and its orders.
//!
//! Modules are unpacked on the way in, and the archive is not compressed: a translated processor would need seconds.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use initramfs::{
    entry::{Archive, Kind},
    kernel,
    modules::ModuleTree,
    table::Group,
};

use super::orders::Order;
use crate::{
    At as _, Error, Result, built, ensure,
    tools::{run, tool},
    workspace,
};

/// What the guest can drive. What these need is found.
const MODULES: &[Group] = &[
    Group { name: "disks", why: "volumes and answers", modules: &["virtio_blk"] },
    Group {
        name: "file systems",
        why: "second readers",
        modules: &[
            "btrfs", "exfat", "ext4", "f2fs", "hfs", "hfsplus", "isofs", "jfs", "nilfs2", "ntfs3", "reiserfs", "udf",
            "vfat", "xfs",
        ],
    },
    Group {
        name: "names in file systems",
        why: "FAT and HFS+ ask for these when they are mounted",
        modules: &["nls_ascii", "nls_cp437", "nls_iso8859_1", "nls_utf8"],
    },
    Group {
        name: "checksums",
        why: "asked for by name when a file system is mounted",
        modules: &["blake2b_generic", "crc32_generic", "crc32c_generic", "sha256_generic", "xxhash_generic"],
    },
    Group {
        name: "several disks as one",
        why: "RAID members and logical volumes",
        modules: &["dm_mod", "md_mod", "raid1"],
    },
];

/// Writes an initramfs for these orders.
///
/// # Errors
/// [`Error`] when something that belongs in it cannot be read.
pub fn write(path: &Path, program: &Path, tools: &[String], orders: &[Order]) -> Result<()> {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    let base = match BASE.get() {
        Some(base) => base,
        // Two threads may make it at once; both make the same.
        None => {
            let made = base_archive()?;
            BASE.get_or_init(|| made)
        }
    };
    let mut own = Archive::default();
    own.file("init", 0o755, fs::read(program).at(program)?).map_err(|error| wrong(&error))?;
    let orders = serde_json::to_vec(orders).map_err(|error| wrong(&error))?;
    own.file("orders.json", 0o644, orders).map_err(|error| wrong(&error))?;
    add_tools(&mut own, tools)?;
    let file = fs::File::create(path).at(path)?;
    let mut out = BufWriter::new(file);
    // The kernel takes archives that follow each other, the next one at a multiple of four bytes.
    out.write_all(base)
        .and_then(|()| out.write_all(&[0; 3][..base.len().next_multiple_of(4) - base.len()]))
        .at(path)?;
    own.write(&mut out, 0).map_err(|error| wrong(&error))?;
    out.flush().at(path)
}

fn wrong(error: &dyn std::fmt::Display) -> Error {
    Error::Wrong(format!("the guest's initramfs: {error}"))
}

/// Returns the folder of `scripts/kernel` that the built kernel came from, and the kernel's release.
fn kernel_folder() -> Result<(PathBuf, String)> {
    let image = built("vmlinuz");
    let release = kernel::release(&fs::read(&image).at(&image)?).map(str::to_owned);
    let release = release.ok_or_else(|| Error::Wrong(format!("{} does not tell its release", image.display())))?;
    let folders = ["kernel", "kernel-given"].map(|name| workspace().join(".cache").join(name));
    let found = folders.into_iter().find(|folder| folder.join("lib/modules").join(&release).is_dir());
    let found = found.ok_or_else(|| Error::Wrong(format!("no modules for {release} in .cache: run scripts/build")))?;
    Ok((found, release))
}

fn base_archive() -> Result<Vec<u8>> {
    let (folder, release) = kernel_folder()?;
    let modules = folder.join("lib/modules").join(&release);
    let root = format!("lib/modules/{release}");
    let tree = ModuleTree::open(&modules).map_err(|error| wrong(&error))?;
    let chosen = tree.select(MODULES).map_err(|error| wrong(&error))?;
    let mut archive = Archive::default();
    fill(&mut archive, &folder).map_err(|error| wrong(&error))?;
    for path in chosen.modules.values() {
        let content = unpacked(&modules.join(path))?;
        archive.file(&format!("{root}/{}", plain(path)), 0o644, content).map_err(|error| wrong(&error))?;
    }
    let text = |name: &str| fs::read_to_string(modules.join(name)).at(modules.join(name));
    for (name, content) in [
        ("modules.dep", plain(&chosen.reduce_dep(&text("modules.dep")?))),
        ("modules.alias", chosen.reduce_alias(&text("modules.alias")?)),
        ("modules.softdep", chosen.reduce_softdep(&text("modules.softdep")?)),
    ] {
        archive.file(&format!("{root}/{name}"), 0o644, content).map_err(|error| wrong(&error))?;
    }
    let mut bytes = Vec::new();
    archive.write(&mut bytes, 0).map_err(|error| wrong(&error))?;
    Ok(bytes)
}

fn fill(archive: &mut Archive, folder: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    for folder in ["dev", "mnt", "proc", "run", "sys", "tmp", "etc"] {
        archive.folder(folder, 0o755)?;
    }
    archive.add("dev/console", 0o600, Kind::Char { major: 5, minor: 1 })?;
    archive.file("bin/busybox", 0o755, fs::read(folder.join("busybox"))?)?;
    archive.link("sbin/modprobe", "../bin/busybox")?;
    Ok(())
}

/// Drops the endings of compression.
fn plain(text: &str) -> String {
    text.replace(".ko.xz", ".ko").replace(".ko.zst", ".ko")
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => {
            let output = tool("xz").arg("-dc").arg(path).output().at(path)?;
            ensure!(output.status.success(), "xz cannot unpack {}", path.display());
            Ok(output.stdout)
        }
        Some("zst") => zstd::decode_all(fs::File::open(path).at(path)?).at(path),
        _ => fs::read(path).at(path),
    }
}

/// Adds programs of this host under `/bin`, and the libraries they are linked with where they look for them.
fn add_tools(archive: &mut Archive, tools: &[String]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in tools {
        let program = PathBuf::from(tool(name).get_program());
        archive.file(&format!("bin/{name}"), 0o755, fs::read(&program).at(&program)?).map_err(|error| wrong(&error))?;
        let said = run(tool("ldd").arg(&program))?;
        // "name => /path (0x...)", or "/path (0x...)" for the loader.
        libraries.extend(said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    for library in libraries {
        let path = library.trim_start_matches('/');
        archive.file(path, 0o755, fs::read(&library).at(&library)?).map_err(|error| wrong(&error))?;
    }
    Ok(())
}

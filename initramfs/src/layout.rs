//! The root folder of the environment, as a table of entries.
//!
//! ```text
//! /init -> bin/rescue           the kernel starts it as process 1
//! /sbin/modprobe -> ../bin/rescue   started by the kernel when it asks for a module by name
//! /bin/rescue  /bin/busybox  /bin/APPLET -> busybox
//! /lib/modules/VERSION/         chosen modules, and modules.{dep,alias,softdep,builtin} about them
//! /dev /proc /sys /run /tmp /mnt    empty, for process 1 to mount on
//! ```

use std::fs;
use std::path::Path;

use initramfs::entry::{Archive, Kind};
use initramfs::modules::{self, ModuleTree, Selection};
use initramfs::table::{APPLETS, MODULES};

use crate::Failure;

/// Adds folders, device nodes and the few files of `/etc`; `release` is the kernel's.
pub fn add_base(archive: &mut Archive, release: &str) -> Result<(), Failure> {
    for folder in ["dev", "etc", "mnt", "proc", "run", "sys"] {
        archive.folder(folder, 0o755)?;
    }
    archive.folder("root", 0o700)?;
    archive.folder("tmp", 0o1777)?;
    // The kernel opens the console for process 1 before anybody can mount devtmpfs.
    for (path, mode, major, minor) in [("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)] {
        archive.add(path, mode, Kind::Char { major, minor })?;
    }
    let about = format!("NAME=rescue\nVERSION={}\nKERNEL={release}\n", env!("CARGO_PKG_VERSION"));
    archive.file("etc/rescue-release", 0o644, about)?;
    archive.file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n")?;
    archive.file("etc/passwd", 0o644, "root::0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", 0o644, "root:x:0:\n")?;
    Ok(())
}

/// Adds the program under its names, and busybox under its own.
pub fn add_programs(archive: &mut Archive, rescue: &Path, busybox: &Path) -> Result<(), Failure> {
    archive.file("bin/rescue", 0o755, read(rescue)?)?;
    archive.link("init", "bin/rescue")?;
    archive.link("sbin/modprobe", "../bin/rescue")?;
    archive.file("bin/busybox", 0o755, read(busybox)?)?;
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    Ok(())
}

/// Adds the modules of the table from `folder`, a `lib/modules/RELEASE`, byte for byte: compressed ones stay so, and
/// a signature stays good.
pub fn add_modules(archive: &mut Archive, folder: &Path, release: &str) -> Result<Selection, Failure> {
    let chosen = ModuleTree::open(folder)?.select(MODULES)?;
    let root = format!("lib/modules/{release}");
    for path in chosen.modules.values() {
        archive.file(&format!("{root}/{path}"), 0o644, read(&folder.join(path))?)?;
    }
    let text = |name: &str| modules::read(&folder.join(name));
    let optional = |name: &str| if folder.join(name).exists() { text(name) } else { Ok(String::new()) };
    for (name, content) in [
        ("modules.dep", chosen.reduce_dep(&text("modules.dep")?)),
        ("modules.alias", chosen.reduce_alias(&optional("modules.alias")?)),
        ("modules.softdep", chosen.reduce_softdep(&optional("modules.softdep")?)),
        ("modules.builtin", optional("modules.builtin")?),
    ] {
        archive.file(&format!("{root}/{name}"), 0o644, content)?;
    }
    Ok(chosen)
}

/// Reads a whole file, for the archive or about it.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|source| Failure::Read { path: path.to_owned(), source })
}

//! Files out of a volume inside a disk file, without mounting and without the product: `debugfs` and `mtools`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rescue::store::manifest::Manifest;

use crate::{
    At as _, Error, Result,
    disk::{Holds, Placed, within},
    ensure,
    tools::{run, tool},
    tree::{self, Entry},
};

/// Lists every file of a partition with its hash, or nothing for one that holds no files.
///
/// # Errors
/// [`Error::Tool`] or [`Error::File`] when they cannot be had.
pub fn files(disk: &Path, part: &Placed) -> Result<Option<Vec<Entry>>> {
    let dir = tempfile::tempdir_in(disk.parent().unwrap_or(Path::new("."))).at(disk)?;
    match part.holds {
        Holds::Swap { .. } => return Ok(None),
        Holds::Ext { .. } => from_ext(disk, part.start, "/", dir.path())?,
        Holds::Fat { .. } => from_fat(disk, part.start, "/", dir.path())?,
    }
    let mut found = tree::list(dir.path())?;
    found.retain(|entry| entry.path != Path::new("lost+found"));
    Ok(Some(found))
}

/// Copies `from` and all below it out of the ext volume at `offset` of `disk`.
///
/// # Errors
/// [`Error::Tool`] when `debugfs` reports anything but missing rights to give files away.
pub fn from_ext(disk: &Path, offset: u64, from: &str, into: &Path) -> Result<()> {
    let mut command = tool("debugfs");
    command.args(["-R", &format!("rdump \"{from}\" \"{}\"", into.display())]).arg(within(disk, offset));
    let output = command.output().at("debugfs")?;
    // Ownership cannot be given to files without root; debugfs says so for each and goes on, and always ends with 0.
    let said = String::from_utf8_lossy(&output.stderr);
    let problem = said.lines().find(|line| !line.starts_with("debugfs ") && !line.contains("changing ownership"));
    ensure!(problem.is_none(), "{}: debugfs: {}", disk.display(), problem.unwrap_or_default());
    open_up(into)
}

/// Tells whether there is anything at `path` of the ext volume that a disk without a table holds.
///
/// # Errors
/// [`Error`] when the volume cannot be read.
pub fn ext_has(disk: &Path, path: &str) -> Result<bool> {
    let output = tool("debugfs").args(["-R", &format!("stat \"{path}\"")]).arg(disk).output().at("debugfs")?;
    let (found, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let missing = said.contains("File not found");
    ensure!(missing || found.contains("Inode:"), "{}: debugfs: {said}", disk.display());
    Ok(!missing)
}

/// Gives the owner the right to read what was copied: rdump keeps the modes of the volume.
fn open_up(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        let meta = path.symlink_metadata().at(&path)?;
        if meta.is_dir() || meta.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.permissions().mode() | 0o700)).at(&path)?;
        }
        if meta.is_dir() {
            open_up(&path)?;
        }
    }
    Ok(())
}

/// Copies `from` and all below it out of the FAT volume at `offset` of `disk`.
///
/// # Errors
/// [`Error::Tool`] when `mcopy` fails.
pub fn from_fat(disk: &Path, offset: u64, from: &str, into: &Path) -> Result<()> {
    let image = format!("{}@@{offset}", disk.display());
    let from = if from == "/" { "::/*".to_owned() } else { format!("::{from}") };
    run(tool("mcopy").args(["-s", "-n", "-i", &image, &from]).arg(into)).map(drop)
}

/// Reads the manifests of the store that a store disk made by [`crate::disk::store_disk`] keeps in `folder`.
///
/// Ordered by the time of capture, oldest first; none where there is no store.
///
/// # Errors
/// [`Error`] when the volume or a manifest cannot be read.
pub fn manifests(disk: &Path, kind: &str, folder: &str) -> Result<Vec<Manifest>> {
    let dir = tempfile::tempdir_in(disk.parent().unwrap_or(Path::new("."))).at(disk)?;
    let images = format!("{folder}/images").replace("//", "/");
    match kind {
        "ext4" if !ext_has(disk, &images)? => return Ok(Vec::new()),
        "ext4" => from_ext(disk, 0, &images, dir.path())?,
        "vfat" => from_fat(disk, 0, &images, dir.path())?,
        other => return Err(Error::Wrong(format!("stores on {other} cannot be read without root"))),
    }
    let mut out = Vec::new();
    for entry in tree::list(dir.path())? {
        let name = entry.path.to_string_lossy().into_owned();
        if name.ends_with(".json.zst") {
            out.push(manifest(&dir.path().join(entry.path))?);
        }
    }
    out.sort_by(|a: &Manifest, b| a.created.cmp(&b.created));
    Ok(out)
}

/// Reads one manifest file.
///
/// # Errors
/// [`Error`] when it is not one.
pub fn manifest(path: &PathBuf) -> Result<Manifest> {
    let bytes = zstd::decode_all(fs::File::open(path).at(path)?).at(path)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Wrong(format!("{}: {error}", path.display())))
}

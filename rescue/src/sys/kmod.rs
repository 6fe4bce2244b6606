//! Handing a module file to the kernel.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    path::Path,
};

use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module, init_module},
};

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel unpacks the file itself. `nix` has no name for it yet.
const COMPRESSED: u32 = 4;

/// No module is larger once unpacked; bounds what a damaged compressed file can make us allocate.
const MAX_MODULE: u64 = 256 << 20;

/// Inserts the module in `file` with `params` (`name=value` separated by spaces). A module that is loaded already is
/// a success.
///
/// Compressed files (`.gz`, `.xz`, `.zst`) go to the kernel as they are. A kernel built without that ability gets an
/// uncompressed `.zst`; the other two it cannot have.
///
/// # Errors
/// What opening the file or the kernel said: `ENOENT` for unknown symbols, `ENODEV` where the hardware is not there.
pub fn insert(file: &Path, params: &str) -> io::Result<()> {
    let params = CString::new(params).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let opened = File::open(file)?;
    let compression = file.extension().and_then(|e| e.to_str()).filter(|e| matches!(*e, "gz" | "xz" | "zst"));
    let flags = match compression {
        Some(_) => ModuleInitFlags::from_bits_retain(COMPRESSED),
        None => ModuleInitFlags::empty(),
    };
    match (finit_module(&opened, &params, flags), compression) {
        (Ok(()) | Err(Errno::EEXIST), _) => Ok(()),
        (Err(Errno::EOPNOTSUPP | Errno::EINVAL), Some("zst")) => insert_unpacked(file, &params),
        (Err(error), _) => Err(error.into()),
    }
}

fn insert_unpacked(file: &Path, params: &CString) -> io::Result<()> {
    let mut image = Vec::new();
    zstd::stream::read::Decoder::new(File::open(file)?)?.take(MAX_MODULE).read_to_end(&mut image)?;
    match init_module(&image, params) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

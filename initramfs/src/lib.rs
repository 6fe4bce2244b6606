//! What an initramfs is made of: entries of an archive, and kernel modules with all they need.
//!
//! ```text
//! entry     the archive as a table of entries      modules   which kernel modules go in
//! kernel    the release a kernel file is           table     the modules and commands of the environment
//! ```

pub mod entry;
pub mod kernel;
pub mod modules;
pub mod table;

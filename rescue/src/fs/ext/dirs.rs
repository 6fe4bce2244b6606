//! Paths and small files of ext: as much of directories as finding a file by its name takes.
//!
//! ```text
//! directory entry: 0 inode  4 length of the entry  6 length of the name  7 type  8 name
//! ```
//!
//! The blocks of a hashed directory look like those of a plain one: what its index holds lies in the room behind
//! entries, so that all are read one after another.
//!
//! Source: Linux kernel, Documentation/filesystems/ext4/directory.rst, inlinedata.rst and attributes.rst.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{
    Volume,
    content::{self, Content},
    inode::Inode,
};
use crate::{block::ReadAt as _, bytes::Fields};

const ROOT: u32 = 2;
const INLINE_DATA: u32 = 0x1000_0000;
const ENCRYPTED: u32 = 0x800;
/// Bytes of one directory read at most: two hundred thousand names.
const MAX_DIR: u64 = 8 << 20;
/// Folders in a path at most.
const MAX_DEPTH: usize = 16;
/// Swap files that a table of file systems names at most.
const MAX_FILES: usize = 32;

/// Finds files by path.
pub(super) struct Dirs<'v, 'a> {
    volume: &'v Volume<'a>,
}

impl<'v, 'a> Dirs<'v, 'a> {
    pub(super) const fn new(volume: &'v Volume<'a>) -> Self {
        Self { volume }
    }

    /// Returns the inode of what stands at `path`, an absolute one; no symbolic link is followed.
    pub(super) fn find(&mut self, path: &str) -> Option<u32> {
        let mut at = ROOT;
        let names = path.split('/').filter(|name| !name.is_empty()).collect::<Vec<_>>();
        if names.is_empty() || names.len() > MAX_DEPTH {
            return None;
        }
        for name in names {
            let inode = self.volume.inode(at).filter(|inode| inode.mode & 0xf000 == 0x4000)?;
            let block = if inode.flags & INLINE_DATA == 0 { self.volume.block_len() } else { usize::MAX };
            let bytes = self.content(at, MAX_DIR)?;
            at = if block == usize::MAX {
                // In an inode the first four bytes are the parent, and what follows in the attribute begins anew.
                let (head, tail) = bytes.split_at_checked(60)?;
                entry(head.get(4..)?, name).or_else(|| entry(tail, name))?
            } else {
                bytes.chunks(block).find_map(|block| entry(block, name))?
            };
        }
        Some(at)
    }

    /// Returns the bytes of a file or directory, at most `limit`.
    pub(super) fn content(&mut self, number: u32, limit: u64) -> Option<Vec<u8>> {
        let inode = self.volume.inode(number).filter(|inode| inode.links > 0 && inode.flags & ENCRYPTED == 0)?;
        if inode.flags & INLINE_DATA != 0 {
            return self.inline(number, &inode);
        }
        let runs = content::runs(self.volume, &inode, 256)?;
        let mut bytes = vec![0; usize::try_from(inode.size.min(limit)).ok()?];
        Content::new(self.volume, &inode, &runs).read_exact_at(&mut bytes, 0).ok()?;
        Some(bytes)
    }

    /// Returns what lies in an inode itself: 60 bytes, and the value of its attribute `system.data`.
    fn inline(&self, number: u32, inode: &Inode) -> Option<Vec<u8>> {
        let raw = self.volume.inode_bytes(number)?;
        let f = Fields(&raw);
        let mut bytes = f.slice(40, 60).ok()?.to_vec();
        bytes.extend(attribute_data(f).unwrap_or_default());
        // A directory fills what there is; a file ends where its length says.
        if inode.mode & 0xf000 == 0x8000 {
            bytes.truncate(usize::try_from(inode.size).ok()?);
        }
        Some(bytes)
    }
}

/// Finds the value of the attribute `system.data` in an inode.
fn attribute_data<'b>(f: Fields<'b>) -> Option<&'b [u8]> {
    let header = 128usize.checked_add(usize::from(f.u16(128).ok()?))?;
    if f.u32(header).ok()? != 0xea02_0000 {
        return None;
    }
    let first = header.checked_add(4)?;
    let mut at = first;
    loop {
        let name_len = usize::from(f.u8(at).ok()?);
        if f.u32(at).ok()? == 0 {
            return None;
        }
        // 7 stands for the prefix `system.`.
        if f.u8(at.checked_add(1)?).ok()? == 7 && f.slice(at.checked_add(16)?, name_len).ok()? == b"data" {
            let offset = usize::from(f.u16(at.checked_add(2)?).ok()?);
            let len = usize::try_from(f.u32(at.checked_add(8)?).ok()?).ok()?;
            return f.slice(first.checked_add(offset)?, len).ok();
        }
        at = at.checked_add(16)?.checked_add(name_len.checked_next_multiple_of(4)?)?;
    }
}

/// Returns the inode that a block of a directory gives `name`.
fn entry(block: &[u8], name: &str) -> Option<u32> {
    let f = Fields(block);
    let mut at = 0usize;
    loop {
        let (inode, len) = (f.u32(at).ok()?, usize::from(f.u16(at.checked_add(4)?).ok()?));
        // In blocks of 64 KiB an entry may be as long as no 16 bits can say.
        let len = if matches!(len, 0 | 65535) && block.len() == 65536 { block.len() } else { len };
        let name_len = usize::from(f.u8(at.checked_add(6)?).ok()?);
        if len < 8 || name_len.checked_add(8)? > len {
            return None;
        }
        if inode != 0 && f.slice(at.checked_add(8)?, name_len).ok()? == name.as_bytes() {
            return Some(inode);
        }
        at = at.checked_add(len)?;
    }
}

/// Lists the files that a table of file systems (`/etc/fstab`) swaps to.
pub(super) fn fstab_paths(table: &[u8]) -> Vec<String> {
    let lines = table.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let paths = lines.filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (spec, kind) = (fields.next()?, fields.nth(1)?);
        let path = spec.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        let file = path.starts_with('/') && !path.starts_with("/dev/") && !path.split('/').any(|name| name == "..");
        (kind == "swap" && file).then_some(path)
    });
    paths.take(MAX_FILES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_are_swapped_to_are_listed() {
        let table = b"# /commented none swap sw 0 0\nUUID=12 none swap sw 0 0\n/dev/sda2 none swap sw 0 0\n\
            /swap\\040file none swap defaults 0 0\n  /var//swap\tswap\tswap\tsw\n/data /mnt ext4 defaults\n/short\n\
            /../escape none swap sw\n\xff /bad none swap\n/last none swap";
        assert_eq!(fstab_paths(table), ["/swap file", "/var//swap", "/last"]);
        let many = "/a none swap\n".repeat(100);
        assert_eq!(fstab_paths(many.as_bytes()).len(), MAX_FILES);
    }

    #[test]
    fn entries_are_found_and_broken_ones_end_the_search() {
        let entry_of = |inode: u32, len: u16, name: &str| {
            let mut bytes =
                [&inode.to_le_bytes()[..], &len.to_le_bytes(), &[u8::try_from(name.len()).unwrap(), 1]].concat();
            bytes.extend(name.as_bytes());
            bytes.resize(usize::from(len), 0);
            bytes
        };
        let block = [entry_of(0, 12, "gone"), entry_of(11, 16, "swapfile"), entry_of(12, 20, "etc")].concat();
        assert_eq!(entry(&block, "swapfile"), Some(11));
        assert_eq!(entry(&block, "etc"), Some(12));
        assert_eq!(entry(&block, "gone"), None);
        assert_eq!(entry(&block, "swap"), None);
        for (at, value) in [(4, 0), (4, 7), (6, 200)] {
            let mut broken = block.clone();
            broken[at] = value;
            assert_eq!(entry(&broken, "etc"), None);
        }
        assert_eq!(entry(&[], "etc"), None);
    }
}

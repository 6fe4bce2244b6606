//! What tests of several disks share.

use std::path::{Path, PathBuf};

use super::{TargetDisk, buffer::AlignedBuf, read_vec};
use crate::extent::Extent;

/// Finds a program; tests do not pass without it.
pub(super) fn tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: install the package {package}"))
}

/// Joins what an error and its causes say.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// Compares random transfers of every alignment with a model in memory.
pub(super) fn compare_with_model(disk: &dyn TargetDisk, seed: u64, rounds: usize) {
    let size = usize::try_from(disk.len()).unwrap();
    // Half of the transfers have their memory aligned as their place on the disk is: direct I/O takes these as they are.
    let (mut model, mut found) = (AlignedBuf::zeroed(size), AlignedBuf::zeroed(size));
    disk.read_exact_at(&mut model, 0).unwrap();
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for round in 0..rounds {
        let start = random(size);
        let len = (1 + random(100_000)).min(size - start);
        let range = Extent::new(start as u64, (start + len) as u64);
        let part = start..start + len;
        match random(3) {
            0 => {
                let byte = u8::try_from(round % 255).unwrap() + 1;
                model[part.clone()].fill(byte);
                match round % 2 {
                    0 => disk.write_all_at(&model[part], range.start).unwrap(),
                    _ => disk.write_all_at(&[&[0][..], &model[part]].concat()[1..], range.start).unwrap(),
                }
            }
            1 => {
                model[part].fill(0);
                disk.write_zeros(range).unwrap();
            }
            _ if round % 2 == 0 => {
                disk.read_exact_at(&mut found[part.clone()], range.start).unwrap();
                assert!(found[part.clone()] == model[part], "{range} differs");
            }
            _ => assert!(read_vec(disk, range.start, len).unwrap() == model[part], "{range} differs"),
        }
    }
    disk.sync().unwrap();
    disk.check_unchanged().unwrap();
    assert!(read_vec(disk, 0, size).unwrap() == model[..]);
}

//! Damaged tree blocks and superblocks, with checksums that are right again: never a panic, never slow, nothing lost.

use std::time::{Duration, Instant};

use rescue::{
    block::{Error, ReadAt},
    fs::{Options, survey},
};

use super::{
    make,
    oracle::{FileRegion, MIB, survey_file, tree_blocks},
};
use crate::tools::{Bench, Noise};

const CASES: usize = 100;

/// A region with some blocks of it replaced.
struct Overlay {
    base: FileRegion,
    blocks: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for Overlay {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        self.base.read_exact_at(buf, offset)?;
        let end = offset + buf.len() as u64;
        for (at, block) in &self.blocks {
            for (place, byte) in (*at..).zip(block) {
                if (offset..end).contains(&place) {
                    buf[usize::try_from(place - offset).unwrap()] = *byte;
                }
            }
        }
        Ok(())
    }
}

/// Changes one to four bytes of a block; most of them where a header, keys and items begin.
fn damaged(block: &[u8], noise: &mut Noise) -> Vec<u8> {
    let mut out = block.to_vec();
    for _ in 0..=noise.next() % 4 {
        let reach = if noise.next().is_multiple_of(4) { out.len() } else { 400.min(out.len()) };
        let at = 32 + usize::try_from(noise.next()).unwrap() % (reach - 32);
        out[at] = match noise.next() % 5 {
            0 => 0,
            1 => 0xff,
            2 => noise.next().to_le_bytes()[0],
            _ => out[at] ^ (1 << (noise.next() % 8)),
        };
    }
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&out[32..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Damages blocks of `len` bytes, each on all its `mirrors` at once.
fn endure(name: &str, image: &str, mirrors: &[Vec<u64>], len: usize) {
    let clean = survey_file(image).allocated;
    let (mut noise, mut narrow) = (Noise(0x5eed), 0);
    for case in 0..CASES {
        let places = &mirrors[usize::try_from(noise.next()).unwrap() % mirrors.len()];
        let mut block = vec![0; len];
        FileRegion::open(image).read_exact_at(&mut block, places[0]).unwrap();
        let changed = damaged(&block, &mut noise);
        let blocks = places.iter().map(|place| (*place, changed.clone())).collect();
        let disk = Overlay { base: FileRegion::open(image), blocks };
        let begun = Instant::now();
        let survey = survey(&disk, &Options::default());
        let at = (0..len)
            .filter(|at| *at >= 32 && block[*at] != changed[*at])
            .map(|at| (at, changed[at]))
            .collect::<Vec<_>>();
        let what = format!("{name} case {case}: {places:#x?} {at:?}: {:?} {:?}", survey.widened, survey.notes);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        assert!(survey.allocated.iter().all(|extent| extent.end <= disk.len()), "{what}");
        let lost = clean.subtract(&survey.allocated);
        // Of the trees of older commits, which nothing counts, a part may go.
        let counted = lost.iter().filter(|lost| !only_old(image, *lost)).collect::<Vec<_>>();
        assert!(counted.is_empty(), "{what} lost {lost:?}");
        narrow += usize::from(survey.allocated.total() < disk.len());
    }
    assert!(narrow > 0, "{name}: the damage reaches no further than the door");
}

/// Tells whether nothing in `extent` is in use.
fn only_old(image: &str, extent: rescue::extent::Extent) -> bool {
    let needed = super::dump(&[image]).on_device(1);
    needed.within(extent).next().is_none()
}

#[test]
fn damaged_tree_blocks_lose_nothing() {
    for options in ["-m single -d single -n 4096", "-m dup -d single -R ^free-space-tree"] {
        let bench = Bench::new();
        let image = make(&bench, options, 128 * MIB);
        let len = usize::try_from(super::dump(&[&image]).nodesize).unwrap();
        for (owner, mirrors) in tree_blocks(&image) {
            endure(&format!("{options} {owner}"), &image, &mirrors, len);
        }
    }
}

#[test]
fn damaged_superblocks_lose_nothing() {
    let bench = Bench::new();
    let image = make(&bench, "", 128 * MIB);
    endure("superblock", &image, &[vec![65536]], 4096);
    endure("superblocks", &image, &[vec![65536, 64 * MIB]], 4096);
}

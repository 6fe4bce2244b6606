//! Reading the target: extents of a chunk as one buffer, and where it holds zeros already.

use crate::{
    block::{Error, ReadAt},
    extent::{Extent, ExtentSet},
    units::{KIB, MIB},
};

/// Free bytes between two allocated extents that are read along with them: cheaper than one more transfer.
const GAP: u64 = 64 * KIB;
/// Bytes that are looked at where zeros were looked for in vain just before.
const PROBE: u64 = 64 * KIB;
/// Bytes that are given up at once at most where nothing is zero.
const MAX_STEP: u64 = 64 * MIB;

/// Fills `buf`, which begins where `chunk` does, with `wanted` of the target and with zeros between.
///
/// * `wanted`: extents on the disk, all inside `chunk`.
///
/// # Errors
/// Those of the target; what `buf` then holds is undefined.
pub(super) fn read_extents(
    target: &dyn ReadAt,
    chunk: Extent,
    wanted: &ExtentSet,
    buf: &mut [u8],
) -> Result<(), Error> {
    let at = |offset: u64| usize::try_from(offset - chunk.start).expect("a chunk lies in memory");
    let mut rest = wanted.as_slice();
    while let Some(first) = rest.first() {
        let count = 1 + rest.windows(2).take_while(|pair| pair[1].start - pair[0].end <= GAP).count();
        let (run, behind) = rest.split_at(count);
        rest = behind;
        let span = Extent::new(first.start, run[count - 1].end);
        let together = target.read_exact_at(&mut buf[at(span.start)..at(span.end)], span.start);
        if count == 1 {
            together?;
        } else if together.is_err() {
            // What cannot be read may be free bytes, which nobody asked for.
            for extent in run {
                target.read_exact_at(&mut buf[at(extent.start)..at(extent.end)], extent.start)?;
            }
        }
    }
    let mut end = chunk.start;
    for extent in wanted.iter() {
        buf[at(end)..at(extent.start)].fill(0);
        end = extent.end;
    }
    buf[at(end)..at(chunk.end)].fill(0);
    Ok(())
}

/// Finds what of `extents` reads as zeros. May miss some: where a target is full of something else, it is looked at
/// in ever larger steps, because writing zeros over all of it is cheaper than looking.
///
/// * `buf`: memory to read into, a sector or more.
/// * `stop`: asked now and then whether to give up.
pub(super) fn zeros_in(target: &dyn ReadAt, extents: &ExtentSet, buf: &mut [u8], stop: &dyn Fn() -> bool) -> ExtentSet {
    let least = buf.len() as u64;
    let (mut found, mut step) = (ExtentSet::new(), least);
    for extent in extents.iter() {
        let mut at = extent.start;
        while at < extent.end && !stop() {
            // A sparse file knows its holes. What cannot be read is not zero: writing may even mend it.
            let Ok(data) = target.next_data(at) else { break };
            let data = data.map(|data| data.intersect(extent)).filter(|data| !data.is_empty());
            let data = data.unwrap_or(Extent::new(extent.end, extent.end));
            found.insert(Extent::new(at, data.start));
            at = data.start;
            while at < data.end && !stop() {
                let look = if step > least { least.min(PROBE) } else { least };
                let part = Extent::new(at, data.end.min(at.saturating_add(look)));
                let bytes = &mut buf[..usize::try_from(part.len()).expect("no longer than the buffer")];
                if target.read_exact_at(bytes, at).is_ok() && is_zero(bytes) {
                    found.insert(part);
                    (at, step) = (part.end, least);
                } else {
                    at = data.end.min(at.saturating_add(step));
                    step = step.saturating_mul(2).min(MAX_STEP.max(least));
                }
            }
        }
    }
    found
}

/// Tells whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Whole blocks at a time, which compilers turn into wide instructions; a search for the first other byte is not.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::{
            MemoryDisk,
            faulty::{FaultyDisk, Kind},
        },
        units::SectorSize,
    };

    const DISK: u64 = 4 * MIB;

    fn disk(zeros: &ExtentSet) -> MemoryDisk {
        let mut bytes = vec![7; usize::try_from(DISK).unwrap()];
        for extent in zeros.iter() {
            bytes[usize::try_from(extent.start).unwrap()..usize::try_from(extent.end).unwrap()].fill(0);
        }
        MemoryDisk::new(bytes, SectorSize::B512)
    }

    fn sectors() -> impl Strategy<Value = ExtentSet> {
        let one = (0..DISK / 512, 0..400u64).prop_map(|(at, len)| Extent::new(at * 512, ((at + len) * 512).min(DISK)));
        proptest::collection::vec(one, 0..20).prop_map(|all| all.into_iter().collect())
    }

    proptest! {
        #[test]
        fn only_zeros_are_called_zeros(zeros in sectors(), wanted in sectors()) {
            let found = zeros_in(&disk(&zeros), &wanted, &mut [0; 4096], &|| false);
            prop_assert!(found.subtract(&zeros).is_empty() && found.subtract(&wanted).is_empty());
        }

        #[test]
        fn a_disk_of_zeros_is_found_to_be_one(wanted in sectors()) {
            let found = zeros_in(&disk(&ExtentSet::full(DISK)), &wanted, &mut [0; 4096], &|| false);
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn extents_come_with_zeros_between(zeros in sectors(), wanted in sectors(), from in 0..DISK / 512) {
            let chunk = Extent::new(from * 512, (from * 512 + MIB).min(DISK));
            let wanted = wanted.clip(chunk);
            let mut buf = vec![9; usize::try_from(chunk.len()).unwrap()];
            read_extents(&disk(&zeros), chunk, &wanted, &mut buf).unwrap();
            for (at, byte) in (chunk.start..).zip(buf) {
                let want = if wanted.contains(at) && !zeros.contains(at) { 7 } else { 0 };
                prop_assert_eq!(byte, want, "{}", at);
            }
        }
    }

    #[test]
    fn what_lies_behind_is_not_looked_at() {
        // Only its last sector holds anything: the data that comes next is far behind what is asked about.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(64 * MIB).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 64 * MIB - 4096).unwrap();
        let sparse = crate::block::file::FileDisk::open_source(&path, None).unwrap();
        let disk = FaultyDisk::new(sparse);
        let log = disk.log();
        let wanted = ExtentSet::from_unsorted(vec![Extent::new(0, 4096), Extent::new(MIB, 2 * MIB)]);
        assert_eq!(zeros_in(&disk, &wanted, &mut [0; 4096], &|| false), wanted);
        assert_eq!(log.count(Kind::Read), 0);
    }

    #[test]
    fn a_disk_of_noise_is_hardly_read() {
        let disk = FaultyDisk::new(disk(&ExtentSet::new()));
        let log = disk.log();
        assert!(zeros_in(&disk, &ExtentSet::full(DISK), &mut [0; 4096], &|| false).is_empty());
        assert!(log.count(Kind::Read) < 20, "{}", log.count(Kind::Read));
    }

    #[test]
    fn a_bad_free_sector_is_nobodys_loss() {
        let bad = Extent::new(4096, 4608);
        let disk = FaultyDisk::new(disk(&ExtentSet::new())).bad_at(Kind::Read, bad);
        let (chunk, mut buf) = (Extent::new(0, 8192), [1; 8192]);
        let wanted = ExtentSet::full(8192).subtract(&ExtentSet::from(bad));
        read_extents(&disk, chunk, &wanted, &mut buf).unwrap();
        assert!(buf[4096..4608].iter().all(|byte| *byte == 0) && buf[..4096] == [7; 4096] && buf[4608..] == [7; 3584]);
        assert!(read_extents(&disk, chunk, &ExtentSet::full(8192), &mut buf).is_err());
    }
}

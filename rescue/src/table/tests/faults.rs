//! Disks that fail while their table is read.

use std::io;

use super::{
    build::{GptSpec, mbr_disk},
    *,
};
use crate::block;

/// A disk on which one sector is unreadable, or which ends there.
struct Failing {
    disk: Sparse,
    at: u64,
    unplugged: bool,
}

impl ReadAt for Failing {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        let (disk, len) = ("bad".to_owned(), buf.len() as u64);
        if !(offset..offset + len).contains(&self.at) {
            return self.disk.read_exact_at(buf, offset);
        }
        if self.unplugged {
            return Err(block::Error::Short { disk, offset, wanted: buf.len(), got: 0 });
        }
        Err(block::Error::Io { action: "reading", disk, offset, len, source: io::Error::other("medium error") })
    }
}

#[test]
fn an_unreadable_sector_of_one_copy_is_damage_and_the_other_copy_is_read() {
    let spec = GptSpec::new(B512, 20_000);
    let wanted = read(&spec.build(), B512).unwrap().partitions;
    for (name, lba, what) in [
        ("primary header", 1, "primary GPT: the sector cannot be read"),
        ("primary entries", 7, "primary GPT: the sector cannot be read"),
        ("backup entries", 19_980, "backup GPT: the sector cannot be read"),
        ("backup header", 19_999, "backup GPT: the sector cannot be read"),
    ] {
        let disk = Failing { disk: spec.build(), at: lba * 512, unplugged: false };
        let layout = read(&disk, B512).unwrap();
        assert!(says(&layout, what), "{name}: {:?}", layout.problems);
        assert_eq!(layout.partitions, wanted, "{name}");
        let (_, back) = moved(&layout, 20_001 * 512);
        assert_eq!((back.partitions, back.problems), (wanted.clone(), vec![]), "{name}");
    }
    let disk = Failing { disk: spec.build(), at: 0, unplugged: false };
    let error = read(&disk, B512).unwrap_err().to_string();
    assert_eq!(error, "partition table at byte 0x0: the sector cannot be read");
}

#[test]
fn an_unreadable_ebr_ends_the_chain_and_is_said() {
    let disk = mbr_disk(
        B512,
        100 * MIB,
        &[(0, &[(4096, 100_000, 0x0f)]), (4096, &[(63, 900, 0x83), (2000, 1000, 0x05)]), (6096, &[(63, 900, 0x82)])],
    );
    let layout = read(&Failing { disk, at: 6096 * 512, unplugged: false }, B512).unwrap();
    assert_eq!(layout.partitions.len(), 1);
    assert!(says(&layout, "the chain of logical partitions breaks off: the sector cannot be read"));
}

#[test]
fn a_disk_that_is_gone_is_an_error_wherever_it_shows() {
    let spec = GptSpec::new(B512, 20_000);
    for lba in [0, 1, 2, 33, 19_967, 19_998, 19_999] {
        let disk = Failing { disk: spec.build(), at: lba * 512, unplugged: true };
        assert!(matches!(read(&disk, B512), Err(Error::Disk(block::Error::Short { .. }))), "{lba}");
    }
}

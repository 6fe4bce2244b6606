//! How the disk is cut, beyond what the other tests see on the way.

use super::{
    build::{GptSpec, mbr_disk},
    *,
};

#[test]
fn the_usual_shapes() {
    let empty = GptSpec { partitions: vec![], ..GptSpec::new(B512, 4096) };
    let odd_end = mbr_disk(B512, MIB + 100, &[(0, &[(100, 200, 0x83), (300, 1748, 0x83)])]);
    let from_lba_0 = mbr_disk(B512, MIB, &[(0, &[(0, 100, 0x17), (200, 100, 0x83)])]);
    let ebr_inside = mbr_disk(B512, MIB, &[(0, &[(10, 500, 0x05)]), (10, &[(1, 90, 0x83), (50, 20, 0x05)]), (60, &[])]);
    for (name, disk, wanted) in [
        ("no table", Sparse::new(MIB), vec!["whole disk 0..1048576"]),
        ("less than a sector", Sparse::new(100), vec!["whole disk 0..100"]),
        ("no bytes", Sparse::new(0), vec![]),
        ("an empty MBR", mbr_disk(B512, MIB, &[(0, &[])]), vec!["whole disk 0..1048576"]),
        ("a GPT without partitions", empty.build(), vec!["head 0..17408", "tail 17408..2097152"]),
        (
            "bytes behind the last sector",
            odd_end,
            vec!["head 0..51200", "partition 1 51200..153600", "partition 2 153600..1048576", "tail 1048576..1048676"],
        ),
        (
            "a partition over LBA 0",
            from_lba_0,
            vec!["head 0..512", "gap 512..102400", "partition 2 102400..153600", "tail 153600..1048576"],
        ),
        ("an EBR in its partition", ebr_inside, vec!["head 0..5632", "gap 5632..51712", "tail 51712..1048576"]),
        (
            "an extended partition alone",
            mbr_disk(B512, MIB, &[(0, &[(10, 500, 0x05)]), (10, &[])]),
            vec!["head 0..512", "tail 512..1048576"],
        ),
    ] {
        let layout = read_sane(&disk, B512).unwrap();
        assert_eq!(shown(&layout), wanted, "{name}");
    }
}

#[test]
fn a_layout_that_contradicts_its_own_promise_still_tiles() {
    let disk = mbr_disk(B512, MIB, &[(0, &[(100, 200, 0x83)])]);
    let mut layout = read(&disk, B512).unwrap();
    layout.partitions[0].range = Extent::new(MIB / 2, u64::MAX);
    let regions = layout.regions();
    assert_eq!(regions.last().unwrap().range.end, MIB);
}

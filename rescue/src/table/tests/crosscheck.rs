//! The second opinion is really asked, and its disagreement really shown.

use super::{
    build::{GptSpec, mbr_disk},
    *,
};
use crate::table::{crosscheck, gpt, gpt::Copies, mbr::Table, sectors::Sectors};

#[test]
fn the_gpt_crate_is_asked_and_heard() {
    for size in [B512, B4096] {
        let disk = GptSpec::new(size, 20_000).build();
        let layout = read(&disk, size).unwrap();
        let sectors = Sectors::new(&disk, size);
        let copies = Copies::find(&sectors).unwrap();
        let (_, header, array) = copies.best().unwrap();
        let entries = gpt::entries(header, array);
        assert_eq!(crosscheck::gpt(&layout, &sectors, &copies, &entries), None);
        let mut other = entries.clone();
        other[1].last_lba += 1;
        let heard = crosscheck::gpt(&layout, &sectors, &copies, &other).unwrap();
        assert_eq!(heard.what, "a second GPT reader sees partition 4 “part 4” other than partition 4");
        let heard = crosscheck::gpt(&layout, &sectors, &copies, &entries[..1]).unwrap();
        assert_eq!(heard.what, "a second GPT reader sees 2 partitions, expected 1");
    }
}

#[test]
fn mbrman_is_asked_and_heard() {
    let disk = mbr_disk(
        B512,
        100 * MIB,
        &[
            (0, &[(2048, 1000, 0x83), (4096, 100_000, 0x0f)]),
            (4096, &[(63, 900, 0x83), (2000, 1000, 0x05)]),
            (6096, &[(63, 900, 0x82)]),
        ],
    );
    let layout = read(&disk, B512).unwrap();
    let sectors = Sectors::new(&disk, B512);
    let table = || Table::read(&sectors, &layout.pieces[0].bytes).unwrap();
    assert!(table().is_plain);
    assert_eq!(crosscheck::mbr(&layout, &sectors, &table()), None);
    let mut other = table();
    other.seen[2].first += 1;
    let heard = crosscheck::mbr(&layout, &sectors, &other).unwrap();
    assert_eq!(heard.what, "a second MBR reader sees partition 6 elsewhere");
    let mut other = table();
    other.seen.pop();
    let heard = crosscheck::mbr(&layout, &sectors, &other).unwrap();
    assert_eq!(heard.what, "a second MBR reader sees 3 partitions, expected 2");
}

#[test]
fn a_crate_is_not_asked_about_what_it_cannot_read() {
    // Each of these makes the crate panic, fail or count wrong; none of it is a problem of the table.
    let odd = GptSpec { entry_size: 256, header_size: 128, array_lba: 700, ..GptSpec::new(B512, 20_000) };
    assert_eq!(read(&odd.build(), B512).unwrap().problems, []);
    let first_unused = mbr_disk(
        B512,
        100 * MIB,
        &[(0, &[(4096, 100_000, 0x0f)]), (4096, &[(0, 0, 0), (2000, 1000, 0x05)]), (6096, &[(63, 900, 0x82)])],
    );
    assert_eq!(read(&first_unused, B512).unwrap().problems, []);
}

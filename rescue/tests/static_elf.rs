//! The program is linked static: it is process 1 of a root folder without libraries and without a loader.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::fs;

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// One program header of a 64-bit little-endian ELF file.
struct Segment {
    kind: u32,
    offset: u64,
    len: u64,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let field = bytes.get(at..at + len).unwrap_or_else(|| panic!("ELF file ends before byte {at} + {len}"));
    field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Lists the program headers. Offsets: System V ABI, "ELF-64 Object File Format".
fn segments(elf: &[u8]) -> Vec<Segment> {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file");
    let at = |offset, len| usize::try_from(number(elf, offset, len)).unwrap();
    let (table, entry_len, entries) = (at(0x20, 8), at(0x36, 2), at(0x38, 2));
    assert!(entry_len >= 56 && entries > 0, "{entries} program headers of {entry_len} bytes");
    let segment = |index: usize| {
        let start = table + index * entry_len;
        let kind = u32::try_from(number(elf, start, 4)).unwrap();
        Segment { kind, offset: number(elf, start + 8, 8), len: number(elf, start + 0x20, 8) }
    };
    (0..entries).map(segment).collect()
}

/// The tags of a dynamic section, up to its end mark.
fn dynamic_tags(elf: &[u8], segment: &Segment) -> Vec<u64> {
    let (start, end) = (segment.offset, segment.offset + segment.len);
    let tags = (start..end).step_by(16).map(|at| number(elf, usize::try_from(at).unwrap(), 8));
    tags.take_while(|&tag| tag != DT_NULL).collect()
}

/// What in this file asks for a loader or a library.
fn demands(elf: &[u8]) -> Vec<&'static str> {
    let mut found = Vec::new();
    for segment in segments(elf) {
        match segment.kind {
            PT_INTERP => found.push("an interpreter"),
            // A static program that may be loaded anywhere has a dynamic section too, to relocate itself.
            PT_DYNAMIC if dynamic_tags(elf, &segment).contains(&DT_NEEDED) => found.push("a library"),
            _ => {}
        }
    }
    found
}

#[test]
fn the_program_needs_no_loader_and_no_library() {
    let elf = fs::read(env!("CARGO_BIN_EXE_rescue")).unwrap();
    assert_eq!(demands(&elf), [""; 0], "built with RUSTFLAGS set? they replace those of .cargo/config.toml");
}

#[test]
fn a_dynamic_program_would_be_noticed() {
    // The shell of the machine the tests run on is linked to its libc.
    let elf = fs::read("/bin/bash").expect("/bin/bash, package bash");
    assert_eq!(demands(&elf), ["an interpreter", "a library"]);
}

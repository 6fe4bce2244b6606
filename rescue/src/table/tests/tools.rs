//! Tables as `sgdisk` and `sfdisk` make them, and their verdict on tables as we move them.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::*;
use crate::block;

/// A file as a disk; holes cost nothing.
pub(super) struct FileDisk(File, u64);

impl ReadAt for FileDisk {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), block::Error> {
        block::check_range("the test file", self.1, offset, buf.len() as u64)?;
        self.0.read_exact_at(buf, offset).unwrap();
        Ok(())
    }
}

struct Image {
    _folder: tempfile::TempDir,
    path: PathBuf,
    len: u64,
}

impl Image {
    fn new(len: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        File::create(&path).unwrap().set_len(len).unwrap();
        Self { _folder: folder, path, len }
    }

    fn with_pieces(len: u64, pieces: &[TablePiece]) -> Self {
        let image = Self::new(len);
        let file = File::options().write(true).open(&image.path).unwrap();
        for piece in pieces {
            assert!(piece.range().end <= len, "{piece:?} leaves a disk of {len} bytes");
            file.write_all_at(&piece.bytes, piece.offset).unwrap();
        }
        image
    }

    fn disk(&self) -> FileDisk {
        FileDisk(File::open(&self.path).unwrap(), self.len)
    }
}

fn tool(name: &str, package: &str) -> Command {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    Command::new(found.unwrap_or_else(|| panic!("{name} is missing: install the package {package}")))
}

fn sgdisk(path: &Path, args: &[&str]) -> String {
    let output = tool("sgdisk", "gdisk").args(args).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sgdisk {args:?}: {said}");
    said
}

fn sfdisk(path: &Path, script: &str) {
    let mut child = tool("sfdisk", "fdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "sfdisk: {}", String::from_utf8_lossy(&output.stderr));
}

/// Asks `sgdisk -v` about the table on a disk of `len` bytes.
fn assert_verified(len: u64, pieces: &[TablePiece]) -> String {
    let image = Image::with_pieces(len, pieces);
    let said = sgdisk(&image.path, &["-v"]);
    assert!(said.contains("No problems found"), "{said}");
    said
}

fn gpt_image(len: u64) -> Image {
    let image = Image::new(len);
    let args = ["-n", "1:2048:+8M", "-t", "1:ef00", "-c", "1:EFI ü", "-n", "3:0:+16M", "-t", "3:8300", "-n", "7:0:0"];
    sgdisk(&image.path, &args);
    image
}

#[test]
fn reads_what_sgdisk_wrote() {
    let image = gpt_image(100 * MIB);
    let layout = read_sane(&image.disk(), B512).unwrap();
    assert_eq!((layout.kind, &layout.problems[..]), (TableKind::Gpt, &[][..]));
    let numbers: Vec<u32> = layout.partitions.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [1, 3, 7], "slots with gaps keep their numbers");
    let esp = &layout.partitions[0];
    assert_eq!(esp.range, Extent::new(MIB, 9 * MIB));
    assert_eq!(esp.name.as_deref(), Some("EFI ü"));
    assert_eq!(esp.type_name.as_deref(), Some("EFI System Partition"));
    assert_eq!(
        shown(&layout)[..3],
        ["head 0..1048576", "partition 1 1048576..9437184", "partition 3 9437184..26214400"]
    );
    let kinds: Vec<PieceKind> = layout.pieces.iter().map(|piece| piece.kind).collect();
    use PieceKind::*;
    assert_eq!(kinds, [Mbr, PrimaryHeader, PrimaryEntries, BackupEntries, BackupHeader]);
}

#[test]
fn sgdisk_finds_no_problem_in_a_table_moved_to_a_larger_disk() {
    let image = gpt_image(100 * MIB);
    let layout = read_sane(&image.disk(), B512).unwrap();
    for new_len in [100 * MIB, 100 * MIB + 512, 101 * MIB, 4 << 40, (2 << 40) + 512 * 7] {
        let pieces = for_target(&layout, new_len).unwrap();
        assert_verified(new_len, &pieces);
        let (_, back) = moved(&layout, new_len);
        assert_eq!(back.problems, [], "{new_len}");
        assert_eq!(back.partitions, layout.partitions, "{new_len}");
        let arrays = |layout: &Layout| layout.piece(PieceKind::PrimaryEntries).unwrap().bytes.clone();
        assert_eq!(arrays(&back), arrays(&layout));
    }
    assert_eq!(for_target(&layout, 100 * MIB).unwrap(), layout.pieces);
}

#[test]
fn a_hybrid_table_keeps_its_own_entries_on_a_larger_disk() {
    let image = gpt_image(100 * MIB);
    sgdisk(&image.path, &["-h", "1:3"]);
    let layout = read_sane(&image.disk(), B512).unwrap();
    assert_eq!((layout.kind, &layout.problems[..]), (TableKind::HybridGpt, &[][..]));
    assert_eq!(layout.partitions.len(), 3);
    let (_, back) = moved(&layout, 300 * MIB);
    assert_eq!((back.kind, &back.problems[..]), (TableKind::HybridGpt, &[][..]));
    let entries = |layout: &Layout| mbr::entries(&layout.pieces[0].bytes).unwrap();
    let hybrid = |layout: &Layout| entries(layout).into_iter().filter(|e| e.kind != 0xee).collect::<Vec<_>>();
    assert_eq!(hybrid(&back), hybrid(&layout));
    assert_verified(300 * MIB, &back.pieces);
}

#[test]
fn reads_logical_partitions_as_sfdisk_wrote_them() {
    let image = Image::new(200 * MIB);
    let script = "label: dos\nlabel-id: 0x1234abcd\n\
        start=2048, size=20480, type=c, bootable\n start=22528, size=40960, type=83\n start=65536, size=200000, type=f\n\
        start=67584, size=20480, type=83\n start=90112, size=20480, type=82\n start=112640, size=20480, type=83\n";
    sfdisk(&image.path, script);
    let layout = read_sane(&image.disk(), B512).unwrap();
    assert_eq!((layout.kind, &layout.problems[..]), (TableKind::Mbr, &[][..]));
    assert_eq!(layout.disk_id.as_deref(), Some("0x1234abcd"));
    let seen: Vec<(u32, u64, &str)> =
        layout.partitions.iter().map(|p| (p.number, p.range.start / 512, p.type_id.as_str())).collect();
    assert_eq!(
        seen,
        [(1, 2048, "0x0c"), (2, 22528, "0x83"), (5, 67584, "0x83"), (6, 90112, "0x82"), (7, 112_640, "0x83"),]
    );
    assert_eq!(layout.partitions[0].attributes, 0x80);
    assert_eq!(layout.pieces.iter().filter(|piece| piece.kind == PieceKind::Ebr).count(), 3);
    let (_, back) = moved(&layout, 3 << 40);
    assert_eq!(back.pieces, layout.pieces, "an MBR stays as it is on a larger disk");
    assert_eq!(back.partitions, layout.partitions);
}

/// Start and length in sectors of each partition as `sfdisk` reads them.
fn sfdisk_list(path: &Path) -> Vec<(u32, u64, u64)> {
    let output = tool("sfdisk", "fdisk").args(["--json"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed = json["partitiontable"]["partitions"].as_array().unwrap().iter().map(|part| {
        let node = part["node"].as_str().unwrap();
        let number = node.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        (number, part["start"].as_u64().unwrap(), part["size"].as_u64().unwrap())
    });
    listed.filter(|(number, ..)| !(1..=4).contains(number) || !is_container(&json, *number)).collect()
}

fn is_container(json: &serde_json::Value, number: u32) -> bool {
    let parts = json["partitiontable"]["partitions"].as_array().unwrap();
    let suffix = format!("raw{number}");
    parts
        .iter()
        .any(|p| p["node"].as_str().unwrap().ends_with(&suffix) && matches!(p["type"].as_str(), Some("5" | "f" | "85")))
}

fn ours(layout: &Layout) -> Vec<(u32, u64, u64)> {
    layout.partitions.iter().map(|p| (p.number, p.range.start / 512, p.range.len() / 512)).collect()
}

#[test]
fn chains_read_as_sfdisk_reads_them() {
    let chain: [build::Record<'_>; 4] = [
        (0, &[(34, 1000, 0x800c), (2048, 100_000, 0x0f), (150_000, 3000, 0x83)]),
        (2048, &[(2048, 1000, 0x83), (50_000, 5000, 0x05)]),
        (52_048, &[(2048, 1000, 0x82), (20_000, 5000, 0x05)]),
        (22_048, &[(63, 1000, 0x07)]),
    ];
    let far: [build::Record<'_>; 3] = [
        (0, &[(2048, 20_000_000, 0x85)]),
        (2048, &[(2048, 1000, 0x83), (18_000_000, 500_000, 0x05)]),
        (18_002_048, &[(2048, 400_000, 0x83)]),
    ];
    for (name, len, records) in [("not ascending", 100 * MIB, &chain[..]), ("at 9 GiB", 12 * GIB, &far[..])] {
        let layout = read_sane(&build::mbr_disk(B512, len, records), B512).unwrap();
        assert_eq!(layout.problems, [], "{name}");
        let image = Image::with_pieces(len, &layout.pieces);
        assert_eq!(ours(&layout), sfdisk_list(&image.path), "{name}");
    }
}

#[test]
fn a_table_is_moved_as_sgdisk_moves_it() {
    let image = Image::new(100 * MIB);
    sgdisk(&image.path, &["-S", "256", "-n", "2:2048:+8M", "-n", "5:0:0"]);
    let layout = read_sane(&image.disk(), B512).unwrap();
    let new_len = 333 * MIB;
    let mine = for_target(&layout, new_len).unwrap();
    let other = Image::with_pieces(new_len, &layout.pieces);
    sgdisk(&other.path, &["-e"]);
    let theirs = read_sane(&other.disk(), B512).unwrap();
    assert_eq!(theirs.problems, []);
    for (mine, theirs) in mine.iter().zip(&theirs.pieces).filter(|(piece, _)| piece.kind != PieceKind::Mbr) {
        assert_eq!((mine.kind, mine.offset, &mine.bytes), (theirs.kind, theirs.offset, &theirs.bytes));
    }
}

#[test]
fn tables_of_other_shapes_pass_sgdisk_after_the_move() {
    let moved_array = gpt_image(100 * MIB);
    sgdisk(&moved_array.path, &["-j", "512"]);
    let by_sfdisk = Image::new(100 * MIB);
    sfdisk(&by_sfdisk.path, "label: gpt\nsize=10M, type=U, name=\"boot\"\nsize=20M\nname=\"rest\"\n");
    let empty = Image::new(100 * MIB);
    sgdisk(&empty.path, &["-o"]);
    for (name, image) in [("array at LBA 512", moved_array), ("sfdisk", by_sfdisk), ("empty", empty)] {
        let layout = read_sane(&image.disk(), B512).unwrap();
        assert_eq!(layout.problems, [], "{name}");
        assert_verified(222 * MIB, &for_target(&layout, 222 * MIB).unwrap());
    }
}

#[test]
fn a_table_with_one_damaged_copy_passes_sgdisk_after_the_move() {
    let image = gpt_image(100 * MIB);
    let last = 100 * MIB / 512 - 1;
    for (name, lba, sectors) in [("primary header", 1, 1), ("primary", 1, 33), ("backup", last - 32, 33)] {
        let layout = read(&image.disk(), B512).unwrap();
        let mut disk = Sparse::with_pieces(100 * MIB, &layout.pieces).unwrap();
        disk.put(lba * 512, &vec![0xa5; 512 * sectors]).unwrap();
        let layout = read_sane(&disk, B512).unwrap();
        assert_eq!(layout.problems.len(), 1, "{name}: {:?}", layout.problems);
        assert_verified(101 * MIB, &for_target(&layout, 101 * MIB).unwrap());
    }
}

#[test]
fn fat_on_the_whole_disk_is_no_table_even_when_it_lists_itself() {
    for args in [&["-I", "-F", "32"][..], &["-I", "-F", "16"], &["-I", "-F", "32", "--mbr=yes"]] {
        let image = Image::new(100 * MIB);
        let output = tool("mkfs.fat", "dosfstools").args(args).arg(&image.path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let layout = read_sane(&image.disk(), B512).unwrap();
        assert_eq!((layout.kind, shown(&layout)), (TableKind::None, vec!["whole disk 0..104857600".to_owned()]));
    }
}

#[test]
fn fresh_tables_pass_sgdisk_and_sfdisk() {
    use crate::table::fresh::{GptPartition, MbrPartition, fresh_gpt, fresh_mbr};
    let type_guid = uuid::Uuid::from_u128(0x0fc6_3daf_8483_4772_8e79_3d69_d847_7de4);
    let one = |n: u64| GptPartition {
        first: Lba(n * 4096),
        len_sectors: 4096,
        type_guid,
        guid: uuid::Uuid::from_u128(n.into()),
        attributes: 0,
        name: format!("part {n}"),
    };
    let pieces = fresh_gpt(50 * MIB, B512, uuid::Uuid::from_u128(7), &[one(1), one(2), one(4)]).unwrap();
    assert_verified(50 * MIB, &pieces);

    let part = |first, len_sectors| MbrPartition { first, len_sectors, kind: 0x83, active: false };
    let logical = [part(8192, 4096), part(20_000, 100), part(24_000_000, 90_000)];
    let pieces = fresh_mbr(12 * GIB, B512, 1, &[part(2048, 4096)], &logical).unwrap();
    let image = Image::with_pieces(12 * GIB, &pieces);
    let wanted = [(1, 2048, 4096), (5, 8192, 4096), (6, 20_000, 100), (7, 24_000_000, 90_000)];
    assert_eq!(sfdisk_list(&image.path), wanted);
}

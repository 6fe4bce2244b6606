//! NTFS volumes of every shape that mkntfs makes and some that it does not, filled and judged by ntfs-3g and its tools.

mod access;
mod edit;
mod states;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use rescue::{
    extent::{Extent, ExtentSet},
    fs::State,
};

use crate::tools::{Bench, Noise, run, survey_bytes, with_noise};
use access::{Mounted, contents, copy_flat, fuse, used_clusters, verdict};
use edit::Image;

const MIB: u64 = 1 << 20;

/// Makes a volume without files and returns its path.
fn format(bench: &Bench, options: &str, len: u64) -> String {
    let image = bench.path("image");
    let _ = fs::remove_file(&image);
    bench.blank("image", len);
    let mut args = vec!["-q", "-F", "-f"];
    args.extend(options.split_whitespace());
    args.push(&image);
    run("mkntfs", &args);
    image
}

/// Fills a volume with everything that NTFS can hold, and removes a third of it.
fn fill(bench: &Bench, tree: &str, image: &str) {
    if !fuse() {
        return copy_flat(Path::new(tree), image);
    }
    let mounted = Mounted::new(bench, image, "compression,streams_interface=windows");
    let root = &mounted.root;
    copy(Path::new(tree), &root.join("tree"));
    fs::rename(root.join("tree/large"), root.join("large")).unwrap();
    let mut noise = Noise(11);
    fs::write(root.join("large:stream"), noise.take(100_000)).unwrap();
    fs::write(root.join("large:second"), b"resident").unwrap();
    fs::hard_link(root.join("large"), root.join("tree/etc/linked")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    (0..20u64).for_each(|index| sparse.write_all_at(&noise.take(5000), index * 200_000).unwrap());
    let deep = (0..20).fold(root.join("deep"), |path, level| path.join(format!("level {level}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), noise.take(9000)).unwrap();
    // Compressed where the volume was made with -C.
    (0..4).for_each(|number| fs::write(root.join(format!("dense {number}")), vec![number; 300_000]).unwrap());
    // Two files that grow in turns are in as many pieces.
    let (one, two) = (File::create(root.join("one")).unwrap(), File::create(root.join("two")).unwrap());
    for index in 0..40u64 {
        one.write_all_at(&noise.take(4096), index * 4096).unwrap();
        two.write_all_at(&noise.take(8192), index * 8192).unwrap();
    }
    for number in (0..24).step_by(3) {
        fs::remove_file(root.join(format!("tree/etc/file{number}.dat"))).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&path, &target),
            kind if kind.is_file() => drop(fs::copy(&path, &target).unwrap()),
            _ => std::os::unix::fs::symlink(fs::read_link(&path).unwrap(), &target).unwrap(),
        }
    }
}

/// Checks that exactly what is in use is kept, and that a copy with noise in all other places is as good.
fn check(bench: &Bench, image: &str, name: &str) {
    let bytes = fs::read(image).unwrap();
    let survey = survey_bytes(&bytes);
    let detected = survey.detected.as_ref().unwrap();
    assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
    assert_eq!((detected.state, detected.version.as_deref()), (State::Clean, Some("3.1")), "{name}");
    let (cluster, used) = used_clusters(bench, image);
    let want = used.iter().map(|number| Extent::new(number * cluster, (number + 1) * cluster)).collect::<ExtentSet>();
    assert_eq!(survey.usage.unwrap().used, want.total(), "{name}");
    let len = bytes.len() as u64;
    let sector = u64::from(u16::from_le_bytes([bytes[11], bytes[12]]));
    let volume = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) * sector;
    let slack = Extent::new(volume / cluster * cluster, len);
    assert_eq!(survey.allocated, want.union(&slack.into()), "{name}: what ntfsclone calls used, and the slack");
    round_trip(bench, image, &bytes, name);
}

/// Compares a volume with its copy in which everything outside the map is noise.
fn round_trip(bench: &Bench, image: &str, bytes: &[u8], name: &str) {
    let survey = survey_bytes(bytes);
    assert!(survey.allocated.total() < bytes.len() as u64, "{name}: kept whole: {:?}", survey.widened);
    let copy = bench.path("copy");
    fs::write(&copy, with_noise(bytes, &survey)).unwrap();
    assert_eq!(verdict(&copy), verdict(image), "{name}");
    let (want, got) = (contents(bench, image), contents(bench, &copy));
    assert!(want.len() > 70, "{name}: {} files", want.len());
    assert_eq!(got, want, "{name}");
}

fn check_all(cases: &[(&str, u64)]) {
    let bench = Bench::new();
    let tree = bench.tree(false);
    for (options, len) in cases {
        let image = format(&bench, options, *len);
        fill(&bench, &tree, &image);
        check(&bench, &image, options);
    }
}

#[test]
fn small_clusters_keep_every_file() {
    check_all(&[
        ("-c 512", 24 * MIB),
        ("-c 1024 -L label", 24 * MIB),
        ("-c 2048 -C", 24 * MIB),
        ("-c 4096 -C", 24 * MIB),
        ("-c 4096 -s 1024", 24 * MIB),
        ("-c 2048 -s 2048", 24 * MIB),
        ("-c 4096 -s 4096", 24 * MIB),
    ]);
}

#[test]
fn large_clusters_keep_every_file() {
    check_all(&[
        ("-c 8192 -I", 32 * MIB),
        ("-c 16384 -s 4096", 32 * MIB),
        ("-c 32768 -z 4", 48 * MIB),
        ("-c 65536", 48 * MIB),
        ("-c 131072 -s 1024", 64 * MIB),
    ]);
}

#[test]
fn huge_clusters_keep_every_file() {
    check_all(&[
        ("-c 524288", 160 * MIB),
        ("-c 1048576 -s 2048", 200 * MIB),
        ("-c 2097152", 200 * MIB),
        ("-c 2097152 -s 4096", 200 * MIB),
    ]);
}

#[test]
fn odd_lengths_and_slack_are_kept() {
    check_all(&[("-c 4096", 24 * MIB + 3 * 512), ("-c 65536", 40 * MIB - 7 * 512), ("-c 512", 20 * MIB + 512)]);
    let bench = Bench::new();
    let tree = bench.tree(false);
    let image = bench.blank("image", 30 * MIB);
    // A volume shorter than its partition: its last sector is not the partition's.
    run("mkntfs", &["-q", "-F", "-f", &image, "50003"]);
    fill(&bench, &tree, &image);
    File::options().write(true).open(&image).unwrap().write_all_at(&[7; 4096], 29 * MIB).unwrap();
    check(&bench, &image, "slack");
}

/// Makes a volume that is full, in tiny pieces, with an MFT that had to grow into the holes.
fn ragged(bench: &Bench, options: &str) -> String {
    let image = format(bench, options, 12 * MIB);
    if !fuse() {
        // Without a file system that removes files there is nothing to grow into: the MFT is cut up afterwards.
        copy_flat(Path::new(&bench.tree(false)), &image);
        let mut edited = Image::new(fs::read(&image).unwrap());
        edited.spread(0, 32768 / edited.cluster, &[], false);
        fs::write(&image, &edited.bytes).unwrap();
        return image;
    }
    let mounted = Mounted::new(bench, &image, "");
    let (root, mut noise) = (&mounted.root, Noise(3));
    let small = |name: String| fs::write(root.join(name), vec![1; 3000]).is_ok();
    let count = (0..4000).take_while(|number| small(format!("small {number}"))).count();
    (0..count).step_by(2).for_each(|number| fs::remove_file(root.join(format!("small {number}"))).unwrap());
    // One record for each that was removed, and then as many again.
    let empty = |number: usize| File::create(root.join(format!("empty {number}"))).is_ok();
    (0..count * 3 / 4).take_while(|number| empty(*number)).count();
    // The first is in so many pieces that one record cannot name them all.
    for number in 0..60 {
        let content = noise.take(if number == 0 { 1_500_000 } else { 40_000 });
        let _ = fs::write(root.join(format!("ragged {number}")), content);
    }
    (1..count).step_by(16).for_each(|number| fs::remove_file(root.join(format!("small {number}"))).unwrap());
    drop(mounted);
    image
}

#[test]
fn full_volumes_with_a_ragged_mft_keep_every_file() {
    for options in ["-c 4096", "-c 512 -s 512", "-c 1024"] {
        let bench = Bench::new();
        let image = ragged(&bench, options);
        let edited = Image::new(fs::read(&image).unwrap());
        let pieces = edited.clusters(0, edit::DATA);
        let runs = pieces.chunk_by(|a, b| a + 1 == *b).count();
        assert!(runs > 8, "{options}: the MFT is in {runs} pieces");
        let continued = edited.continued();
        assert!(continued > 0 || !fuse() || !options.starts_with("-c 512"), "{options}: no file needs a second record");
        check(&bench, &image, options);
    }
}

#[test]
fn an_mft_and_a_bitmap_in_pieces_keep_every_file() {
    for (name, options, number, keep, holders, outside) in [
        ("MFT in pieces", "-c 4096", 0, 8, &[][..], false),
        ("MFT with a list", "-c 4096", 0, 8, &[16, 17], false),
        ("MFT with a list, small clusters", "-c 1024", 0, 32, &[16, 17, 18, 19], false),
        ("MFT with a list outside", "-c 4096", 0, 8, &[18, 16], true),
        ("bitmap in pieces", "-c 512", 6, 0, &[], false),
        ("bitmap with a list", "-c 512", 6, 1, &[16, 17], false),
        ("bitmap with a list outside", "-c 512", 6, 2, &[17, 19, 16], true),
    ] {
        let bench = Bench::new();
        let tree = bench.tree(false);
        let image = format(&bench, options, 24 * MIB);
        fill(&bench, &tree, &image);
        let files = contents(&bench, &image);
        let mut edited = Image::new(fs::read(&image).unwrap());
        edited.spread(number, keep, holders, outside);
        fs::write(&image, &edited.bytes).unwrap();
        let system = |path: &Path| path.to_str().unwrap().starts_with('$');
        let own = |files: &std::collections::BTreeMap<std::path::PathBuf, String>| {
            files.clone().into_iter().filter(|(path, _)| !system(path)).collect::<Vec<_>>()
        };
        assert_eq!(own(&contents(&bench, &image)), own(&files), "{name}: the edited volume is sound");
        check(&bench, &image, name);
    }
}

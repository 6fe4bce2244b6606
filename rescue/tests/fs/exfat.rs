//! exFAT, made by mkfs.exfat and by our own writer, judged by fsck.exfat and read by The Sleuth Kit.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::atomic::Ordering};

use rescue::{
    block::MemoryDisk,
    extent::{Extent, ExtentSet},
    fs::{
        self as volume, Options, State, Usage,
        exfat::{
            boot::Boot,
            fat::Patience,
            walk::{Doubt, Walk},
        },
    },
    units::SectorSize,
};

use crate::{
    exfat_volume::{Shape, Volume},
    tools::{Bench, Counting, Noise, hashes, run, run_any, survey_bytes, with_noise},
};

const MIB: u64 = 1 << 20;

fn verdict(image: &str) -> (Option<i32>, String) {
    let output = run_any("fsck.exfat", &["-n", image]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).replace(image, ""))
}

fn number(dump: &str, key: &str) -> u64 {
    let line = dump.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} in {dump}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// Returns every file by content, read by The Sleuth Kit (which passes over empty ones).
fn contents(bench: &Bench, image: &str, name: &str) -> BTreeMap<PathBuf, String> {
    let out = bench.path(name);
    fs::create_dir(&out).unwrap();
    run("tsk_recover", &["-a", "-f", "exfat", image, &out]);
    hashes(out.as_ref())
}

#[test]
fn volumes_of_mkfs_keep_what_its_own_tool_calls_used() {
    for (options, len) in [
        ("", 16 * MIB),
        ("-L STICK", 100 * MIB),
        ("-c 512", 40 * MIB),
        ("-c 1k -b 4k", 20 * MIB),
        ("-c 4k -b 8m", 64 * MIB),
        ("-c 64k --pack-bitmap", 100 * MIB),
        ("-c 512 --pack-bitmap -b 1m", 200 * MIB),
        ("-c 1m", 200 * MIB),
        ("-c 32m", 300 * MIB),
        ("-c 128k", 100 * MIB + 4096 + 512),
    ] {
        let bench = Bench::new();
        let image = bench.blank("image", len);
        let mut args = options.split_whitespace().collect::<Vec<_>>();
        args.push(&image);
        run("mkfs.exfat", &args);
        let dump = run("dump.exfat", &[&image]);
        let bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{options}");
        assert_eq!(survey.detected.as_ref().unwrap().state, State::Clean, "{options}");
        let (cluster, all) = (number(&dump, "Cluster size:"), number(&dump, "Total Clusters:"));
        let free = number(&dump, "Free Clusters:") * cluster;
        assert_eq!(survey.usage, Some(Usage { used: all * cluster - free, free }), "{options}");
        assert_eq!(survey.allocated.total(), len - free, "{options}: exactly what is not free is kept");
        let copy = bench.path("copy");
        fs::write(&copy, with_noise(&bytes, &survey)).unwrap();
        assert_eq!(verdict(&copy), verdict(&image), "{options}");
        assert_eq!(verdict(&copy).0, Some(0), "{options}");
    }
}

/// Files of all kinds, in directories of both shapes. Name hashes are of capitals, so names are.
fn fill(mut volume: Volume) -> Volume {
    let mut noise = Noise(5);
    let long = "A NAME OF MORE THAN FIFTEEN CHARACTERS, SO THAT IT TAKES ENTRIES";
    let mut level = Vec::new();
    for depth in 0..4 {
        let mut entries = std::mem::take(&mut level);
        for (index, len) in [0, 1, 511, 5000, 70_001].into_iter().enumerate() {
            for shape in [Shape::Run, Shape::Scattered] {
                let name = format!("{long} {depth} {index} {}", if shape == Shape::Run { "RUN" } else { "CHAIN" });
                entries.push(volume.file(&name, &noise.take(len), shape));
            }
        }
        let shape = if depth % 2 == 0 { Shape::Run } else { Shape::Scattered };
        level =
            vec![volume.directory(&format!("DEPTH{depth}"), &entries, shape), volume.directory("EMPTY", &[], shape)];
    }
    level.push(volume.file("LARGE", &noise.take(300_000), Shape::Scattered));
    volume.finish(&level)
}

fn small(fats: usize) -> Volume {
    fill(Volume::new(512, 1024, 4000, fats, Shape::Run))
}

#[test]
fn every_shape_of_volume_keeps_every_file() {
    for (name, sector, cluster, clusters, fats, tables) in [
        ("small", 512, 512, 9000, 1, Shape::Run),
        ("middle", 512, 4096, 1000, 1, Shape::Run),
        ("large clusters", 512, 131_072, 150, 1, Shape::Run),
        ("1024-byte sectors", 1024, 4096, 1003, 1, Shape::Run),
        ("2048-byte sectors", 2048, 2048, 2500, 1, Shape::Run),
        ("4096-byte sectors", 4096, 4096, 1005, 1, Shape::Run),
        ("4096-byte sectors, clusters", 4096, 65_536, 177, 1, Shape::Run),
        ("scattered bitmap", 512, 512, 12_000, 1, Shape::Scattered),
        ("two FATs", 512, 1024, 4000, 2, Shape::Run),
        ("two FATs, scattered bitmaps", 512, 512, 12_000, 2, Shape::Scattered),
    ] {
        let bench = Bench::new();
        let volume = fill(Volume::new(sector, cluster, clusters, fats, tables));
        let image = bench.path("image");
        fs::write(&image, &volume.bytes).unwrap();
        let survey = survey_bytes(&volume.bytes);
        let detected = survey.detected.clone().unwrap();
        assert_eq!((&survey.widened, &survey.notes), (&vec![], &vec![]), "{name}");
        assert_eq!((detected.name.as_str(), detected.state), ("exfat", State::Clean), "{name}");
        assert_eq!((detected.label.as_deref(), detected.uuid.as_deref()), (Some("DATA"), Some("1234-ABCD")), "{name}");
        // Drivers read a table in one run, so that the run is kept beside the chain.
        let runs = volume.bitmaps.iter().map(|own| if tables == Shape::Run { 0 } else { own.len() / 2 }).sum::<usize>();
        let kept = volume.heap + (volume.count() + runs) * cluster;
        assert_eq!(survey.allocated.total(), kept as u64, "{name}: exactly what is used is kept");
        assert!(kept < volume.bytes.len() * 3 / 4, "{name}: {kept} of {}", volume.bytes.len());

        let copy = bench.path("copy");
        fs::write(&copy, with_noise(&volume.bytes, &survey)).unwrap();
        assert_eq!(verdict(&copy), verdict(&image), "{name}");
        if fats == 1 && tables == Shape::Run {
            assert_eq!(verdict(&image).0, Some(0), "{name}: {:?}", verdict(&image));
        }
        let want = contents(&bench, &image, "want");
        assert!(want.len() >= 39, "{name}: {} files", want.len());
        assert_eq!(contents(&bench, &copy, "got"), want, "{name}");
    }
}

#[test]
fn what_contradicts_itself_is_kept_whole_and_said() {
    type Change = fn(&mut Volume);
    let cases: [(&str, Change, &str, State); 12] = [
        ("boot", |volume| volume.bytes[2000] ^= 1, "the boot region is broken: its checksum", State::Damaged),
        (
            "copy",
            |volume| {
                let before = volume.bytes[..12 * 512].to_vec();
                volume.bytes[100] ^= 1;
                volume.seal();
                volume.bytes[..12 * 512].copy_from_slice(&before);
            },
            "the boot region and its backup disagree",
            State::Damaged,
        ),
        (
            "revision",
            |volume| {
                volume.bytes[105] = 2;
                volume.seal();
            },
            "major revision is 2",
            State::Clean,
        ),
        (
            "length",
            |volume| {
                volume.bytes[72..76].copy_from_slice(&80_000u32.to_le_bytes());
                volume.seal();
            },
            "the file system is 40960000 bytes long",
            State::Damaged,
        ),
        (
            "checksum",
            |volume| {
                let at = volume.find("LARGE");
                volume.bytes[at + 2] ^= 1;
            },
            "the checksum of a set of entries",
            State::Damaged,
        ),
        (
            "chain",
            |volume| {
                let own = chain_of(volume, "LARGE");
                volume.link(0, own[7], 0);
            },
            "is followed by 0x0, which is none",
            State::Damaged,
        ),
        (
            "bad cluster",
            |volume| {
                let own = chain_of(volume, "LARGE");
                volume.link(0, own[7], 0xffff_fff7);
            },
            "is followed by 0xfffffff7, which is none",
            State::Damaged,
        ),
        (
            "short chain",
            |volume| {
                let own = chain_of(volume, "LARGE");
                volume.link(0, own[7], u32::MAX);
            },
            "a chain ends after 8 of 293 clusters",
            State::Damaged,
        ),
        (
            "circle",
            |volume| {
                let own = chain_of(volume, "LARGE");
                volume.link(0, own[7], u32::try_from(own[3]).unwrap());
            },
            "are used twice",
            State::Damaged,
        ),
        (
            "up-case table",
            |volume| {
                let at = volume.at(volume.upcase[0]);
                volume.bytes[at + 9] ^= 1;
            },
            "the up-case table's checksum",
            State::Damaged,
        ),
        (
            "no bitmap",
            |volume| {
                let at = volume.bytes.chunks(32).position(|entry| entry[0] == 0x81 && entry[1..20] == [0; 19]).unwrap();
                volume.bytes[at * 32] = 1;
            },
            "it has 1 FATs and 0 allocation bitmaps",
            State::Damaged,
        ),
        (
            "unknown entry",
            |volume| {
                let at = volume.find("LARGE") - 64;
                volume.bytes[at] = 0x86;
            },
            "a critical entry of the unknown type 0x86",
            State::Clean,
        ),
    ];
    for (name, change, says, state) in cases {
        let mut volume = small(1);
        change(&mut volume);
        let survey = survey_bytes(&volume.bytes);
        assert_eq!(survey.allocated.total(), volume.bytes.len() as u64, "{name}: {:?}", survey.widened);
        assert!(survey.widened[0].contains(says), "{name}: {:?}", survey.widened);
        assert_eq!(survey.detected.unwrap().state, state, "{name}");
    }
}

/// Returns the clusters of a scattered file.
fn chain_of(volume: &Volume, name: &str) -> Vec<usize> {
    let stream = volume.find(name) - 32;
    let word = |at: usize| u32::from_le_bytes(volume.bytes[at..at + 4].try_into().unwrap());
    let (mut own, mut at) = (Vec::new(), word(stream + 20));
    while at != u32::MAX {
        own.push(usize::try_from(at).unwrap());
        at = word(volume.fat_offset + usize::try_from(at).unwrap() * 4);
    }
    own
}

#[test]
fn clusters_that_the_bitmap_forgot_are_kept() {
    let mut volume = small(1);
    let clean = survey_bytes(&volume.bytes);
    let own = chain_of(&volume, "LARGE");
    own.iter().skip(5).take(9).for_each(|cluster| volume.mark(0, *cluster, false));
    let survey = survey_bytes(&volume.bytes);
    assert_eq!(survey.allocated, clean.allocated);
    assert_eq!(survey.widened, ["9.00 KiB that files use are free in the allocation bitmap, and kept"]);
    assert_eq!(survey.detected.unwrap().state, State::Damaged);
}

#[test]
fn both_bitmaps_and_both_fats_count() {
    for active in [0, 1] {
        let mut volume = small(2);
        volume.bytes[106] = active;
        let clean = survey_bytes(&volume.bytes);
        assert!(clean.widened.is_empty(), "{:?}", clean.widened);
        assert_eq!(survey_bytes(&small(2).bytes).allocated, clean.allocated);

        let last = volume.clusters + 1;
        let kept = |cluster: usize| Extent::with_len(volume.at(cluster) as u64, 1024).unwrap();
        let (first, second) = (kept(last), kept(last - 1));
        volume.mark(0, last, true);
        volume.mark(1, last - 1, true);
        let survey = survey_bytes(&volume.bytes);
        assert_eq!(survey.widened, ["the two allocation bitmaps differ in 2 clusters; what either calls used is kept"]);
        assert!(survey.allocated.covers(first) && survey.allocated.covers(second));
        assert_eq!(survey.allocated.total(), clean.allocated.total() + 2048);

        let own = chain_of(&volume, "LARGE");
        let tail = *own.last().unwrap();
        volume.mark(0, last, false);
        volume.mark(1, last - 1, false);
        volume.link(1, tail, u32::try_from(last - 3).unwrap());
        volume.link(1, last - 3, u32::MAX);
        let survey = survey_bytes(&volume.bytes);
        let kept = Extent::with_len(volume.at(last - 3) as u64, 1024).unwrap();
        assert!(survey.widened[0].contains("the two FATs differ in 2 links"), "{:?}", survey.widened);
        assert!(survey.allocated.covers(kept), "what the second FAT leads to");
    }
    let mut volume = small(2);
    volume.bytes[110] = 1;
    volume.seal();
    let survey = survey_bytes(&volume.bytes);
    assert!(survey.widened[0].contains("it has 1 FATs and 2 allocation bitmaps"), "{:?}", survey.widened);
}

#[test]
fn flags_are_said_and_a_broken_backup_widens_nothing() {
    for (flags, state, says) in [
        (2, State::Dirty, "it was not unmounted in order"),
        (4, State::Damaged, "it says of itself that its medium had failures"),
    ] {
        let mut volume = small(1);
        let clean = survey_bytes(&volume.bytes);
        volume.bytes[106] = flags;
        let survey = survey_bytes(&volume.bytes);
        assert_eq!((survey.detected.unwrap().state, survey.notes), (state, vec![says.to_owned()]));
        assert_eq!(survey.allocated, clean.allocated, "every file was found all the same");
    }
    let mut volume = small(1);
    let clean = survey_bytes(&volume.bytes);
    volume.bytes[13 * 512] ^= 1;
    let survey = survey_bytes(&volume.bytes);
    assert_eq!((survey.allocated, survey.widened), (clean.allocated, vec![]));
    assert!(survey.notes[0].contains("the backup boot region is broken"), "{:?}", survey.notes);
}

#[test]
fn the_slack_behind_the_last_cluster_is_kept() {
    let mut volume = small(1);
    let end = volume.bytes.len();
    let clean = survey_bytes(&volume.bytes).allocated.total();
    volume.bytes.extend([0x5a; 3000]);
    let survey = survey_bytes(&volume.bytes);
    assert!(survey.allocated.covers(Extent::new(end as u64, end as u64 + 3000)));
    assert_eq!(survey.allocated.total(), clean + 3000);
    assert!(survey.widened.is_empty());
}

#[test]
fn the_noise_is_seen_by_the_oracle() {
    let bench = Bench::new();
    let volume = small(1);
    let mut survey = survey_bytes(&volume.bytes);
    let lost = volume.at(chain_of(&volume, "LARGE")[5]) as u64;
    survey.allocated.remove(Extent::with_len(lost, 512).unwrap());
    let (image, copy) = (bench.path("image"), bench.path("copy"));
    fs::write(&image, &volume.bytes).unwrap();
    fs::write(&copy, with_noise(&volume.bytes, &survey)).unwrap();
    assert_eq!(verdict(&copy).0, Some(0), "a checker does not look into files");
    assert_ne!(contents(&bench, &copy, "got"), contents(&bench, &image, "want"));
}

#[test]
fn a_directory_costs_its_entries_and_not_its_cluster() {
    const DIRECTORIES: usize = 100;
    let mut volume = Volume::new(512, 131_072, 150, 1, Shape::Run);
    let entries = (0..DIRECTORIES).map(|number| volume.directory(&format!("D{number}"), &[], Shape::Run));
    let entries = entries.collect::<Vec<_>>();
    let volume = volume.finish(&entries);
    let disk = Counting::new(MemoryDisk::new(volume.bytes.clone(), SectorSize::B512));
    let survey = volume::survey(&disk, &Options::default());
    assert!(survey.widened.is_empty(), "{:?}", survey.widened);
    assert_eq!(survey.allocated.total(), (volume.heap + volume.count() * 131_072) as u64);
    let read = disk.read.load(Ordering::Relaxed);
    assert!(read < 2 * MIB, "{read} bytes were read for {DIRECTORIES} directories");
    // Four million such directories are within what a walk may cost, and one less than there are is not.
    let boot = Boot::parse(&volume.bytes).unwrap();
    let patience = Patience { loads: 100, jumps: 100 };
    // The root directory has more entries than are read first.
    let need = (DIRECTORIES as u64 + 3) * 4096;
    let within = |budget| Walk::new(&disk, &boot, 0).within(budget, patience).tree(&survey.allocated);
    assert_eq!(within(need), Ok(ExtentSet::new()));
    assert_eq!(within(need - 4096), Err(Doubt::TooMany));
}

#[test]
fn chains_that_leap_about_are_checked_all_at_once() {
    let clean = small(1);
    let map = survey_bytes(&clean.bytes).allocated;
    let own = chain_of(&clean, "LARGE");
    let other = clean.upcase[0];
    let check = |map: &ExtentSet, loads: u64, change: &dyn Fn(&mut Volume)| {
        let mut volume = small(1);
        change(&mut volume);
        let disk = MemoryDisk::new(volume.bytes.clone(), SectorSize::B512);
        let boot = Boot::parse(&volume.bytes).unwrap();
        let missing = Walk::new(&disk, &boot, 0).within(u64::MAX, Patience { loads, jumps: 30 }).tree(map);
        missing.map_err(|doubt| match doubt {
            Doubt::Damage(reason) => reason,
            other => format!("{other:?}"),
        })
    };
    let link = |from: usize, to: usize| move |volume: &mut Volume| volume.link(0, from, u32::try_from(to).unwrap());
    // No chain is followed, or some are and one of them ends in the middle.
    for loads in [0, 100] {
        assert_eq!(check(&map, loads, &|_| {}), Ok(ExtentSet::new()));
        let mut less = map.clone();
        less.remove(Extent::with_len(clean.at(own[250]) as u64, 1024).unwrap());
        let free = format!("a chain leads to cluster {}, which the bitmap calls free", own[250]);
        assert_eq!(check(&less, loads, &|_| {}), Err(free), "{loads}");
        let twice = |cluster: usize| Err(format!("clusters {cluster}+1 are used twice"));
        assert_eq!(check(&map, loads, &link(own[250], own[200])), twice(own[200]), "{loads}");
        assert_eq!(check(&map, loads, &link(own[250], other)), twice(other), "{loads}");
    }
    let circle = check(&map, 0, &link(own[250], own[0]));
    assert_eq!(circle, Err(format!("clusters {}+1 are used twice", own[0])));
}

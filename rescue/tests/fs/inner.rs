//! A partition that became the disk of a virtual machine: what it held before is still recognised, and means nothing.

use std::{fs, io::Write as _, process::Stdio};

use crate::tools::{Bench, run, survey_bytes, tool};

const MIB: u64 = 1 << 20;

#[test]
fn a_partition_table_inside_keeps_everything() {
    for (mkfs, options, start) in [("mkswap", "", 2048), ("mkfs.fat", "-F 32", 65536)] {
        let bench = Bench::new();
        let image = bench.blank("image", 64 * MIB);
        let mut args = options.split_whitespace().collect::<Vec<_>>();
        args.push(&image);
        run(mkfs, &args);
        let before = survey_bytes(&fs::read(&image).unwrap());
        assert!(before.allocated.total() < 4 * MIB, "{mkfs}: {before:?}");

        let mut child = std::process::Command::new(tool("sfdisk"))
            .args(["-q", "--no-reread", "--wipe", "never", "--label", "dos", &image])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("start={start},type=83\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let after = survey_bytes(&fs::read(&image).unwrap());
        assert_eq!(after.allocated.total(), 64 * MIB, "{mkfs}: {after:?}");
        assert!(after.widened[0].contains("partition table inside") || after.detected.is_none(), "{mkfs}: {after:?}");
    }
}

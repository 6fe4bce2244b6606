//! A disk of 2 TiB with little in it costs what it holds: bounded memory, and no time for what is free.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use nix::sys::resource::{UsageWho, getrusage};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn run(command: &mut Command) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a GPT disk of `len` bytes whose one partition is an ext4 with 1 GiB of files in it.
fn disk(dir: &Path, len: u64) {
    let files = dir.join("files");
    fs::create_dir(&files).unwrap();
    let mut state = 1u64;
    for n in 0..128u64 {
        let words = (0..8 * MIB / 8).flat_map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state ^ (state >> 29)).to_le_bytes()
        });
        fs::write(files.join(n.to_string()), words.collect::<Vec<u8>>()).unwrap();
    }
    let path = dir.join("disk");
    File::create(&path).unwrap().set_len(len).unwrap();
    run(Command::new("sgdisk").args(["-n", "1:2048:0", "-t", "1:8300"]).arg(&path));
    let kib = (len - 2 * MIB) / 1024;
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-E", &format!("offset={MIB}"), "-d"])
        .arg(&files)
        .arg(&path)
        .arg(kib.to_string()));
}

#[test]
fn a_sparse_disk_of_two_tebibytes_is_captured_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    disk(dir.path(), 2 * TIB);
    let rescue = || Command::new(env!("CARGO_BIN_EXE_rescue"));
    let (source, store, target) = (dir.path().join("disk"), dir.path().join("store"), dir.path().join("target"));
    let report = run(rescue().args(["capture", "--json"]).arg(&source).arg(&store));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["outcome"], "COMPLETE");
    let stored = report["stored_bytes"].as_u64().unwrap();
    assert!((1000 * MIB..1200 * MIB).contains(&stored), "{report}");

    File::create(&target).unwrap().set_len(2 * TIB).unwrap();
    let report = run(rescue().args(["restore", "--json", "--yes"]).arg(&store).arg("latest").arg(&target));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["outcome"], "COMPLETE");
    run(Command::new("e2fsck").args(["-fn"]).arg(format!("{}?offset={MIB}", target.display())));

    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!("peak memory of any child: {peak} KiB");
    assert!(peak < 200 * 1024, "a child used {peak} KiB");
}

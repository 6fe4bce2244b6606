//! The main job, proven on a disk of real files: capture it in one boot, restore it in the next, compare on the host.

use std::{
    env, fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use qemu_tests::{
    At as _, GIB, MIB, Result, built,
    compare::{Equal, compare},
    disk::{self, DiskBuilder, Holds, TestDisk},
    ensure, extract, noise,
    report::Lines,
    tools::sha256,
    tree::{self, What},
    vm::{Bus, Drive, MINUTE, Machine, Vm, Work},
};
use rescue::{job::Report, units::Bytes};

/// Real files put on the disk, in bytes; some are deleted again.
const FILES: u64 = 460_000_000;
/// Files that are left must hold at least this much.
const AT_LEAST: u64 = 300_000_000;

fn main() -> ExitCode {
    let keep = env::args().nth(1).is_some_and(|word| word == "--keep");
    match demo(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nNOT EQUAL, or not done: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(keep: bool) -> Result<()> {
    let work = Work::new("demo")?;
    let source = say("making a disk of real files", || source(&work))?;
    let (store, target) = (work.path("store.img"), work.path("target.img"));
    disk::store_disk(&store, 2 * GIB, "ext4", "STORE")?;
    say("filling a larger disk with noise", || noise::noise_file(&target, 2 * GIB, 1))?;
    let before = sha256(&source.path)?;

    let machine = Machine::new(&work, "capture")
        .drive(Drive::new(Bus::Virtio, &source.path, "SOURCE-1").read_only())
        .drive(Drive::new(Bus::Sata, &store, "STORE-1"))
        .job("rescue.job=capture rescue.disk=serial:SOURCE-1 rescue.store=label:STORE:/rescue")
        .limit(30 * MINUTE);
    let captured = watch("capturing it in QEMU", machine.boot()?)?.complete()?;
    ensure!(sha256(&source.path)? == before, "the capture changed its source");

    let machine = Machine::new(&work, "restore")
        .drive(Drive::new(Bus::Sata, &store, "STORE-1"))
        .drive(Drive::new(Bus::Nvme, &target, "TARGET-1"))
        .job("rescue.job=restore rescue.disk=serial:TARGET-1 rescue.store=label:STORE:/rescue rescue.image=latest")
        .limit(30 * MINUTE);
    let restored = watch("restoring it in QEMU onto the other disk", machine.boot()?)?.complete()?;

    let manifests = extract::manifests(&store, "ext4", "/rescue")?;
    let [manifest] = manifests.as_slice() else {
        return Err(qemu_tests::Error::Wrong(format!("the store holds {} images, must be 1", manifests.len())));
    };
    let equal = say("comparing the two disks on this machine", || compare(&source, &target, manifest))?;
    ensure!(equal.file_bytes >= AT_LEAST, "only {} bytes of files were compared", equal.file_bytes);
    print(&source, 2 * GIB, [("capture", &captured), ("restore", &restored)], &equal);
    if keep { Ok(()) } else { work.finish() }
}

/// Makes the disk: ESP, ext4 with files of this machine of which some were deleted, swap.
fn source(work: &Work) -> Result<TestDisk> {
    let (esp, root) = (work.path("esp"), work.path("root"));
    fs::create_dir_all(esp.join("EFI/BOOT")).at(&esp)?;
    for (from, to) in [("vmlinuz", "EFI/BOOT/BOOTX64.EFI"), ("initramfs.zst", "EFI/initramfs.zst")] {
        fs::copy(built(from), esp.join(to)).at(&esp)?;
    }
    let copied = tree::copy_real_files(Path::new("/usr"), &root.join("usr"), FILES)?;
    let deleted = deleted(&root)?;
    ensure!(copied >= AT_LEAST, "/usr has only {copied} bytes of files that can be read");
    let holds = Holds::Ext { kind: "ext4", label: "root".to_owned(), tree: Some(root.clone()), deleted };
    let disk = DiskBuilder::gpt(GIB + GIB / 2).esp(100 * MIB, &esp).part(GIB, holds).swap(408 * MIB);
    let disk = disk.build(&work.path("source.img"))?;
    fs::remove_dir_all(&root).at(&root)?;
    Ok(disk)
}

/// Chooses the files to delete again: every seventh, but no more than an eighth of the bytes.
fn deleted(root: &Path) -> Result<Vec<PathBuf>> {
    let mut left = FILES / 8;
    let mut out = Vec::new();
    let files = tree::list(root)?.into_iter().filter(|entry| matches!(entry.what, What::File(..)));
    for entry in files.step_by(7) {
        let What::File(len, _) = entry.what else { continue };
        let path = Path::new("/").join(&entry.path);
        // debugfs has no way to write a quote inside quotes.
        if len <= left && path.to_str().is_some_and(|path| !path.contains(['"', '\n', '\\'])) {
            left -= len;
            out.push(path);
        }
    }
    Ok(out)
}

fn say<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{what} ... ");
    // A terminal that is gone is no reason to stop.
    let _ = std::io::stdout().flush();
    let began = Instant::now();
    let done = act()?;
    println!("{:.1} s", began.elapsed().as_secs_f64());
    Ok(done)
}

/// Waits for a machine's job, and shows how far it is where somebody looks.
fn watch(what: &str, mut vm: Vm) -> Result<Lines> {
    let began = Instant::now();
    let terminal = std::io::stdout().is_terminal();
    let mut shown = Instant::now();
    vm.wait_for("the result", 30 * MINUTE, |vm| {
        if terminal && shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            print!("\r{what} ... {}\x1b[K", progress(&vm.report()));
            let _ = std::io::stdout().flush();
        }
        vm.report().ended().then_some(())
    })?;
    let lines = vm.wait_power_off()?;
    let back = if terminal { "\r\x1b[K" } else { "" };
    println!("{back}{what} ... {:.1} s, boot and power-off included", began.elapsed().as_secs_f64());
    Ok(lines)
}

fn progress(lines: &Lines) -> String {
    lines.events("progress").last().map_or_else(
        || "booting".to_owned(),
        |line| {
            let bytes = |field: &str| line[field].as_u64().unwrap_or(0);
            let phase = line["phase"].as_str().unwrap_or_default();
            format!("{phase} {} of {}", Bytes(bytes("done")), Bytes(bytes("total")))
        },
    )
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn print(source: &TestDisk, target_len: u64, reports: [(&str, &Report); 2], equal: &Equal) {
    println!("\n{:<10}{:>12}{:>12}{:>12}", "", "disk", "allocated", "stored");
    let disk = |len| Bytes(len).to_string();
    let [(_, captured), _] = reports;
    let (allocated, stored) = (Bytes(captured.allocated_bytes), Bytes(captured.stored_bytes));
    println!("{:<10}{:>12}{:>12}{:>12}", "source", disk(source.len), allocated.to_string(), stored.to_string());
    println!("{:<10}{:>12}", "target", disk(target_len));
    println!("\n{:<10}{:<16}{:>12}{:>10}{:>10}", "job", "stage", "bytes", "seconds", "MB/s");
    for (job, report) in reports {
        for stage in &report.stages {
            let seconds = stage.millis as f64 / 1000.0;
            let name = serde_json::to_value(stage.phase).ok();
            let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
            let speed =
                if stage.millis == 0 { String::new() } else { format!("{:.1}", stage.bytes as f64 / 1e6 / seconds) };
            println!("{job:<10}{name:<16}{:>12}{seconds:>10.1}{speed:>10}", Bytes(stage.bytes).to_string());
        }
    }
    println!(
        "\nBoth disks are equal: tables byte for byte ({} pieces), every allocated extent byte for byte ({} in {} \
         extents), e2fsck -fn clean, every file's hash the same ({} files, {}).",
        equal.table_pieces,
        Bytes(equal.extent_bytes),
        equal.extents,
        equal.files,
        Bytes(equal.file_bytes)
    );
}

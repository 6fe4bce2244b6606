//! The guest's side: process 1 of a Linux that mounts volumes, fills them, lists them and powers off.
//!
//! ```text
//! /orders.json           what to do          ttyS1             a JSON line for each order, while it goes on
//! disk "ANSWERS"         all answers at the end, as JSON: length (8 bytes, little endian), then the text
//! ```

use std::{
    error::Error,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        reboot::{RebootMode, reboot},
        statvfs::statvfs,
    },
};
use serde_json::{Value, json};

use super::{
    ANSWERS,
    churn::Churn,
    orders::{Answer, Fill, Order, Seen, Style, Task},
};
use crate::{KIB, MIB, noise::Noise, tree};

type Done<T> = Result<T, Box<dyn Error>>;

/// Volumes are mounted here.
const MOUNT: &str = "/mnt";

/// What is copied as real files: programs for the kernel, each different.
const REAL: &str = "/lib/modules";

/// Does all orders and powers off. Does nothing but say so when it is not process 1.
pub fn main() {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a test machine");
        return;
    }
    if let Err(error) = set_up().and_then(|()| work()) {
        say(&json!({ "event": "failed", "error": error.to_string() }));
    }
    nix::unistd::sync();
    // A kernel that does not power off is caught by the limit of the host.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// Puts a line on the report port.
fn say(event: &Value) {
    if let Ok(mut port) = File::options().write(true).open("/dev/ttyS1") {
        // Without the port the host sees a machine that ends without answers, and fails.
        let _ = writeln!(port, "{event}");
    }
}

fn set_up() -> Done<()> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    fs::create_dir_all(MOUNT)?;
    // What is written is on its way to the disk within a second: a machine that is killed dies in the midst of it.
    fs::write("/proc/sys/vm/dirty_expire_centisecs", "60")?;
    fs::write("/proc/sys/vm/dirty_writeback_centisecs", "20")?;
    let loaded = Command::new("/bin/busybox").args(["modprobe", "virtio_blk"]).status()?;
    if loaded.success() { Ok(()) } else { Err("virtio_blk cannot be loaded".into()) }
}

fn work() -> Done<()> {
    let orders: Vec<Order> = serde_json::from_slice(&fs::read("/orders.json")?)?;
    let answers_disk = device(ANSWERS)?;
    let (mut answers, mut writers) = (Vec::new(), Vec::new());
    for (number, order) in orders.into_iter().enumerate() {
        if let Task::Write { seed } = order.task {
            writers.push((order, seed));
            continue;
        }
        let began = Instant::now();
        let mut answer =
            Answer { disk: order.disk.clone(), millis: 0, error: None, total: 0, free: 0, files: Vec::new() };
        if let Err(error) = obey(&order, &mut answer) {
            answer.error = Some(format!("{error}\n{}", kernel_words()));
        }
        answer.millis = u64::try_from(began.elapsed().as_millis())?;
        say(&json!({ "event": "order", "number": number, "disk": answer.disk, "millis": answer.millis,
            "files": answer.files.len(), "error": answer.error }));
        answers.push(answer);
    }
    if !writers.is_empty() {
        write_for_ever(writers)?;
    }
    let text = serde_json::to_vec(&answers)?;
    let disk = File::options().write(true).open(answers_disk)?;
    disk.write_all_at(&text, 8)?;
    disk.write_all_at(&(text.len() as u64).to_le_bytes(), 0)?;
    disk.sync_all()?;
    Ok(())
}

/// Returns the last lines of the kernel's log.
fn kernel_words() -> String {
    let Ok(output) = Command::new("/bin/busybox").arg("dmesg").output() else { return String::new() };
    crate::tools::tail(&String::from_utf8_lossy(&output.stdout), 12)
}

/// Finds the disk with a serial number; disks come up one after the other.
fn device(serial: &str) -> Done<PathBuf> {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let known = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            let path = Path::new("/dev").join(entry.file_name());
            if known.trim() == serial && path.exists() {
                return Ok(path);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(format!("there is no disk {serial}").into())
}

/// A mounted volume.
struct Mounted(PathBuf);

impl Mounted {
    fn new(order: &Order, at: &Path, flags: MsFlags) -> Done<Self> {
        let device = match &order.device {
            Some(made) => PathBuf::from(made),
            None => device(&order.disk)?,
        };
        fs::create_dir_all(at)?;
        let options = Some(order.options.as_str()).filter(|options| !options.is_empty());
        mount(Some(&device), at, Some(order.driver.as_str()), flags | MsFlags::MS_NOATIME, options)
            .map_err(|error| format!("mounting {} as {} with {options:?}: {error}", order.disk, order.driver))?;
        Ok(Self(at.to_path_buf()))
    }

    /// Unmounts it; only then is all of it on the disk.
    fn close(self) -> Done<()> {
        umount2(&self.0, MntFlags::empty()).map_err(|error| format!("unmounting: {error}").into())
    }
}

fn obey(order: &Order, answer: &mut Answer) -> Done<()> {
    let top = Path::new(MOUNT);
    match &order.task {
        Task::Run(words) => return run(words, &device(&order.disk)?),
        Task::Fill(fill) => {
            let volume = Mounted::new(order, top, MsFlags::empty())?;
            let filled = fill_volume(top, fill);
            volume.close()?;
            filled?;
        }
        Task::Crowd { folders } => {
            let volume = Mounted::new(order, top, MsFlags::empty())?;
            let crowded = (0..*folders).try_for_each(|number| crowd(&top.join(number.to_string())));
            volume.close()?;
            return Ok(crowded?);
        }
        Task::Replay => {
            let volume = Mounted::new(order, top, MsFlags::empty())?;
            let listed = list(top, answer);
            volume.close()?;
            return listed;
        }
        Task::List | Task::Write { .. } => {}
    }
    let volume = Mounted::new(order, top, MsFlags::MS_RDONLY)?;
    let listed = list(top, answer);
    volume.close()?;
    listed
}

fn run(words: &[String], device: &Path) -> Done<()> {
    let (program, rest) = words.split_first().ok_or("no program is named")?;
    let mut command = Command::new(Path::new("/bin").join(program));
    command.args(rest.iter().map(|word| if word == "DEVICE" { device.as_os_str() } else { word.as_ref() }));
    // Nobody answers for devices here but the kernel.
    command.env("PATH", "/bin").env("DM_DISABLE_UDEV", "1").env("MDADM_NO_UDEV", "1");
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{words:?} ended with {}: {}", output.status, String::from_utf8_lossy(&said)).into())
}

/// Returns total and free bytes of the volume mounted at `top`.
fn space(top: &Path) -> Done<(u64, u64)> {
    let said = statvfs(top)?;
    Ok((said.blocks() * said.fragment_size(), said.blocks_free() * said.fragment_size()))
}

fn list(top: &Path, answer: &mut Answer) -> Done<()> {
    (answer.total, answer.free) = space(top)?;
    for entry in tree::list_damaged(top)? {
        let mut seen = Seen { path: entry.path, what: entry.what, mode: 0, links: 0, changed: 0 };
        // What cannot even be looked at is among the unreadable ones already.
        if let Ok(meta) = top.join(&seen.path).symlink_metadata() {
            (seen.mode, seen.links) = (meta.mode(), meta.nlink());
            seen.changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        }
        answer.files.push(seen);
    }
    Ok(())
}

fn fill_volume(top: &Path, fill: &Fill) -> Done<()> {
    let (_, free) = space(top)?;
    let some = (free / 4).min(8 * MIB);
    let planted = top.join("planted");
    fs::create_dir(&planted)?;
    if fill.style == Style::Empty {
        fs::write(planted.join("only one"), b"the only file")?;
        return Ok(());
    }
    if fill.unix && free > 12 * MIB {
        let unix = top.join("unix");
        fs::create_dir(&unix)?;
        tree::plant_unix(&unix)?;
    }
    tree::plant(&planted, some, fill.seed)?;
    tree::copy_real_files(Path::new(REAL), &top.join("real"), some)?;
    let mut churn = Churn::new(&top.join("churned"), fill.seed, some, false)?;
    match fill.style {
        Style::Churned => (0..400).try_for_each(|step| {
            // What is only in memory is never fragmented.
            if step % 50 == 0 {
                nix::unistd::sync();
            }
            churn.step()
        })?,
        Style::Full => fill_up(top, fill.seed)?,
        Style::Empty | Style::Files => {}
    }
    Ok(())
}

/// Makes a folder of a thousand files and deletes some of them again.
fn crowd(folder: &Path) -> io::Result<()> {
    fs::create_dir(folder)?;
    let name = |number: u64| folder.join(format!("a file called {number}"));
    for number in 1..=1000 {
        let content: &[u8] = if number % 8 == 1 { b"x" } else { b"" };
        fs::write(name(number), content)?;
    }
    (9..=1000).step_by(16).try_for_each(|number| fs::remove_file(name(number)))
}

/// Reserves most of a large volume: too much to be written byte by byte.
fn reserve(ballast: &Path) -> Done<()> {
    const STEP: u64 = 8 * MIB;
    let file = File::create(ballast)?;
    let mut len = 0;
    while space(ballast)?.1 > 24 * MIB + STEP {
        match fallocate(&file, FallocateFlags::empty(), i64::try_from(len)?, i64::try_from(STEP)?) {
            Ok(()) => len += STEP,
            // Not all that a driver calls free can be had for content.
            Err(Errno::ENOSPC) => break,
            Err(error) => return Err(format!("reserving {STEP} bytes at {len}: {error}").into()),
        }
    }
    file.sync_all()?;
    Ok(())
}

/// Fills a volume until nothing fits, deletes every third file, and fills the holes.
fn fill_up(top: &Path, seed: u64) -> Done<()> {
    if space(top)?.1 > 64 * MIB {
        reserve(&top.join("ballast"))?;
    }
    let mut noise = Noise::new(seed);
    let rubble = top.join("rubble");
    fs::create_dir(&rubble)?;
    let name = |number: u64| rubble.join(format!("{number:06}.bin"));
    let mut count = 0;
    while write_noise(&name(count), noise.below(120 * KIB), &mut noise)? {
        count += 1;
    }
    for number in (0..count).step_by(3) {
        fs::remove_file(name(number))?;
    }
    nix::unistd::sync();
    let mut more = count + 1;
    while more < 3 * count && write_noise(&name(more), noise.below(400 * KIB), &mut noise)? {
        more += 1;
    }
    Ok(())
}

/// Writes a file of noise; tells whether it fitted. A part of one that did not fit stays.
fn write_noise(path: &Path, len: u64, noise: &mut Noise) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    noise.fill(&mut bytes);
    let written = File::create(path).and_then(|mut file| file.write_all(&bytes));
    match written {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(false),
        other => other.map(|()| true),
    }
}

/// Mounts all volumes and changes them, each in a thread of its own, until the machine is killed.
fn write_for_ever(writers: Vec<(Order, u64)>) -> Done<()> {
    let (report, reports) = mpsc::channel();
    for (number, (order, seed)) in writers.into_iter().enumerate() {
        let top = PathBuf::from(format!("{MOUNT}{number}"));
        std::mem::forget(Mounted::new(&order, &top, MsFlags::empty())?);
        let (_, free) = space(&top)?;
        let mut churn = Churn::new(&top.join("life"), seed, (free / 3).min(12 * MIB), true)?;
        let report = report.clone();
        thread::spawn(move || {
            loop {
                let made = churn.step().map_err(|error| format!("{}: {error}", order.disk));
                let failed = made.is_err();
                if report.send(made.map(|()| order.disk.clone())).is_err() || failed {
                    return;
                }
            }
        });
    }
    let mut steps = std::collections::BTreeMap::<String, u64>::new();
    let mut said = Instant::now();
    loop {
        *steps.entry(reports.recv()?.map_err(|error| format!("{error}\n{}", kernel_words()))?).or_default() += 1;
        if said.elapsed() > Duration::from_millis(100) {
            said = Instant::now();
            say(&json!({ "event": "steps", "least": steps.values().min(), "volumes": steps.len(), "steps": &steps }));
        }
    }
}

//! One QEMU machine: its command line, its disks, its consoles, and a limit on every wait.
//!
//! ```text
//! ttyS0   kernel console and screens, a Unix socket that a Terminal reads      ttyS1   report port, a file
//! QMP     a Unix socket                                                       VGA     kept for screenshots
//! ```
//!
//! The harness listens before QEMU starts and QEMU connects, so that no byte is lost.

use std::{
    env,
    fs::{self, File},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use crate::{
    At as _, Error, Result,
    accel::Accel,
    built,
    qmp::Qmp,
    report::Lines,
    screen::Terminal,
    tools::{shown, tail, tool},
    workspace,
};

/// Machines that may run at once on this host, over all processes: each keeps a core busy.
const MACHINES: u32 = 2;

/// Limits are given in these.
pub const MINUTE: Duration = Duration::from_secs(60);

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A folder for the files of one scenario. It stays when the scenario fails, so that it can be looked into.
#[derive(Debug)]
pub struct Work(PathBuf);

impl Work {
    /// Makes an empty folder for the scenario `name`.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
        let path = target.join("scenarios").join(name);
        if path.exists() {
            fs::remove_dir_all(&path).at(&path)?;
        }
        fs::create_dir_all(&path).at(&path)?;
        Ok(Self(path))
    }

    /// Names a file in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Removes the folder: the scenario went well.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be removed.
    pub fn finish(self) -> Result<()> {
        fs::remove_dir_all(&self.0).at(self.0)
    }
}

/// What a disk hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk, `vda`.
    Virtio,
    /// AHCI, `sda`.
    Sata,
    /// NVMe, `nvme0n1`.
    Nvme,
    /// USB mass storage behind xHCI, `sda`.
    Usb,
}

/// A disk of a machine.
#[derive(Clone, Debug)]
pub struct Drive {
    path: PathBuf,
    bus: Bus,
    serial: String,
    read_only: bool,
    fixed: bool,
    sector: u64,
    bytes_per_second: Option<u64>,
}

impl Drive {
    /// Attaches the raw file `path` with a serial number. Its QEMU device id is the serial in lower case.
    #[must_use]
    pub fn new(bus: Bus, path: &Path, serial: &str) -> Self {
        let (path, serial) = (path.to_path_buf(), serial.to_owned());
        Self { path, bus, serial, read_only: false, fixed: false, sector: 512, bytes_per_second: None }
    }

    /// Lets QEMU refuse every write.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Puts a virtio disk where it cannot be pulled out: a machine takes more of such, and boots faster.
    #[must_use]
    pub const fn fixed(mut self) -> Self {
        self.fixed = true;
        self
    }

    /// Gives it sectors of `bytes`.
    #[must_use]
    pub const fn sector(mut self, bytes: u64) -> Self {
        self.sector = bytes;
        self
    }

    /// Lets no more than `bytes` pass in a second.
    #[must_use]
    pub const fn throttle(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }

    fn arguments(&self, number: usize) -> Vec<String> {
        let mut out = Vec::new();
        let mut arg = |words: [String; 2]| out.extend(words);
        let node = format!("node{number}");
        let path = self.path.display().to_string().replace(',', ",,");
        let mut file = format!("driver=raw,node-name={node},file.driver=file,file.filename={path},discard=unmap");
        if self.read_only {
            file += ",read-only=on";
        }
        arg(["-blockdev".to_owned(), file]);
        let mut top = node;
        if let Some(bytes) = self.bytes_per_second {
            // Small groups keep the flow even: by default a throttle lets a tenth of a second through at once.
            arg(["-object".to_owned(), format!("throttle-group,id=group{number},x-bps-total={bytes}")]);
            let throttle = format!("driver=throttle,node-name=slow{number},throttle-group=group{number},file={top}");
            arg(["-blockdev".to_owned(), throttle]);
            top = format!("slow{number}");
        }
        let sectors = format!("logical_block_size={0},physical_block_size={0}", self.sector);
        let (serial, id) = (&self.serial, format!("disk{number}"));
        let port = if self.fixed { "pcie.0".to_owned() } else { format!("port{number}") };
        if self.bus == Bus::Virtio && !self.fixed {
            // Only what sits behind a port of its own can be pulled out while the machine runs.
            arg(["-device".to_owned(), format!("pcie-root-port,id=port{number},chassis={number},slot={number}")]);
        }
        let device = match self.bus {
            Bus::Virtio => format!("virtio-blk-pci,id={id},bus={port},drive={top},serial={serial},{sectors}"),
            Bus::Sata => format!("ide-hd,id={id},bus=ide.{number},drive={top},serial={serial},{sectors}"),
            Bus::Nvme => format!("nvme,id={id},drive={top},serial={serial},{sectors}"),
            Bus::Usb => format!("usb-storage,id={id},bus=xhci.0,drive={top},serial={serial},{sectors}"),
        };
        arg(["-device".to_owned(), device]);
        out
    }
}

/// A machine to be booted.
#[derive(Clone, Debug)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    memory_mib: u32,
    command_line: String,
    drives: Vec<Drive>,
    limit: Duration,
}

impl Machine {
    /// Prepares a machine with the built environment and no disks; `name` is for its files and for failures.
    #[must_use]
    pub fn new(work: &Work, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: work.0.clone(),
            kernel: built("vmlinuz"),
            initramfs: Some(built("initramfs.zst")),
            memory_mib: 1024,
            // A panic ends the machine at once instead of at the limit.
            command_line: "console=ttyS0 panic=-1".to_owned(),
            drives: Vec::new(),
            limit: 5 * MINUTE,
        }
    }

    /// Attaches a disk; disks are numbered from 0 in this order, and their QEMU ids are `disk0`, `disk1`, ….
    #[must_use]
    pub fn drive(mut self, drive: Drive) -> Self {
        self.drives.push(drive);
        self
    }

    /// Adds words to the kernel command line.
    #[must_use]
    pub fn kernel_words(mut self, words: &str) -> Self {
        self.command_line = format!("{} {words}", self.command_line);
        self
    }

    /// Adds the words of an unattended job that reports on the report port and then powers off.
    #[must_use]
    pub fn job(self, words: &str) -> Self {
        self.kernel_words(&format!("{words} rescue.report=ttyS1 rescue.then=poweroff rescue.failed=poweroff"))
    }

    /// Sets the longest time from start to power-off.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots another kernel, and another or no initramfs.
    #[must_use]
    pub fn kernel(mut self, kernel: PathBuf, initramfs: Option<PathBuf>) -> Self {
        (self.kernel, self.initramfs) = (kernel, initramfs);
        self
    }

    fn file(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}", self.name))
    }

    /// Returns the QEMU command, with sockets for the harness or with the terminal for a person.
    fn command(&self, sockets: Option<&Path>) -> Command {
        let mut command = tool("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-reboot", "-machine", "q35", "-vga", "std", "-display", "none"]);
        let accel = Accel::get(&self.kernel);
        command.args(accel.arguments()).args(["-smp", accel.processors()]);
        command.args(["-m", &self.memory_mib.to_string(), "-kernel"]).arg(&self.kernel);
        if let Some(initramfs) = &self.initramfs {
            command.arg("-initrd").arg(initramfs);
        }
        command.args(["-append", &self.command_line]);
        if let Some(sockets) = sockets {
            for (id, chardev) in [("console", "-serial"), ("control", "-mon")] {
                let path = sockets.join(id);
                command.args(["-chardev", &format!("socket,id={id},path={}", path.display())]);
                let to = if chardev == "-mon" { format!("chardev={id},mode=control") } else { format!("chardev:{id}") };
                command.args([chardev, &to]);
            }
        } else {
            command.args(["-serial", "mon:stdio"]);
        }
        command.args(["-serial", &format!("file:{}", self.file("report").display())]);
        if self.drives.iter().any(|drive| drive.bus == Bus::Usb) {
            command.args(["-device", "qemu-xhci,id=xhci"]);
        }
        command.args(self.drives.iter().enumerate().flat_map(|(number, drive)| drive.arguments(number)));
        command
    }

    /// Starts it, as soon as less than two others run.
    ///
    /// # Errors
    /// [`Error::Machine`] when QEMU does not start.
    pub fn boot(self) -> Result<Vm> {
        let slot = slot()?;
        // Names of sockets are short, at most 107 bytes; paths of workspaces are not.
        let sockets = tempfile::Builder::new().prefix("rescue-vm-").tempdir().at("a temporary folder")?;
        let listen = |name: &str| UnixListener::bind(sockets.path().join(name)).at(sockets.path().join(name));
        let (console, control) = (listen("console")?, listen("control")?);
        let _ = fs::remove_file(self.file("report"));
        let errors = self.file("stderr");
        let mut command = self.command(Some(sockets.path()));
        command.stdout(Stdio::null()).stderr(Stdio::from(File::create(&errors).at(&errors)?));
        let mut child = command.spawn().at("qemu-system-x86_64")?;
        let opened = accept(&console, &mut child).and_then(|console| {
            let control = Qmp::open(accept(&control, &mut child)?)?;
            Ok((Terminal::open(console, &self.file("console"))?, control))
        });
        match opened {
            Ok((terminal, qmp)) => {
                let end = Instant::now() + self.limit;
                Ok(Vm { machine: self, child, terminal, qmp, end, _slot: slot, _sockets: sockets })
            }
            Err(error) => {
                // Both fail only for a child that has ended already, which is the usual case here.
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(&errors).unwrap_or_default();
                Err(Error::Machine {
                    command: shown(&self.command(None)),
                    machine: self.name,
                    what: format!("QEMU does not start: {error}\n{said}"),
                    console: String::new(),
                    report: String::new(),
                })
            }
        }
    }
}

/// Waits for a place among the machines that may run at once.
fn slot() -> Result<Flock<File>> {
    let end = Instant::now() + 30 * MINUTE;
    while Instant::now() < end {
        for number in 0..MACHINES {
            let path = env::temp_dir().join(format!("rescue-vm-{}-{number}.lock", nix::unistd::getuid()));
            let file = File::create(&path).at(&path)?;
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return Ok(lock);
            }
        }
        thread::sleep(Duration::from_millis(200));
    }
    Err(Error::Wrong("other machines run for half an hour already".to_owned()))
}

/// Waits until QEMU connects.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    listener.set_nonblocking(true).at("a socket")?;
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).at("a socket")?;
            return Ok(stream);
        }
        thread::sleep(LOOK);
    }
    Err(Error::Wrong("it does not connect".to_owned()))
}

/// A running machine; it is killed when it is dropped.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    child: Child,
    terminal: Terminal,
    qmp: Qmp,
    end: Instant,
    _slot: Flock<File>,
    _sockets: tempfile::TempDir,
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vm {
    /// Returns an error that says what was expected and shows the machine's last words.
    #[must_use]
    pub fn failure(&self, what: impl Into<String>) -> Error {
        let heard = self.terminal.heard();
        let printable: String = heard.chars().filter(|c| !c.is_control() || *c == '\n').collect();
        Error::Machine {
            machine: self.machine.name.clone(),
            what: format!("{}\n--- the screen\n{}", what.into(), self.terminal.text()),
            console: tail(&printable, 30),
            report: self.report().shown(),
            command: shown(&self.machine.command(None)),
        }
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    /// [`Error::Machine`] when it finds nothing within `limit`, or the machine stops.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T> {
        let end = (Instant::now() + limit).min(self.end);
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                // What it said last may have come after the look.
                thread::sleep(LOOK);
                return look(self).ok_or_else(|| self.failure(format!("stopped before {what}")));
            }
            if Instant::now() >= end {
                return Err(self.failure(format!("{what} did not come within {limit:?}")));
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until the screen shows `text`, and returns all it shows.
    ///
    /// # Errors
    /// As [`Vm::wait_for`].
    pub fn expect_text(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for(&format!("\"{text}\""), limit, |vm| Some(vm.terminal.text()).filter(|shown| shown.contains(text)))
    }

    /// Waits until `text` came over the console at any time since the start.
    ///
    /// # Errors
    /// As [`Vm::wait_for`].
    pub fn expect_heard(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.wait_for(&format!("\"{text}\""), limit, |vm| vm.terminal.heard().contains(text).then_some(()))
    }

    /// Returns what the screen shows now.
    #[must_use]
    pub fn text(&self) -> String {
        self.terminal.text()
    }

    /// Returns all that came over the console.
    #[must_use]
    pub fn heard(&self) -> String {
        self.terminal.heard()
    }

    /// Presses keys on the serial terminal.
    ///
    /// # Errors
    /// [`Error::File`] when the line is closed.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.terminal.send(keys)
    }

    /// Returns what came over the report port so far.
    #[must_use]
    pub fn report(&self) -> Lines {
        Lines::read(&self.machine.file("report"))
    }

    /// Waits until the machine powers itself off, and returns what came over the report port.
    ///
    /// # Errors
    /// [`Error::Machine`] when it does not within its limit, when the kernel panics, or QEMU fails.
    pub fn wait_power_off(mut self) -> Result<Lines> {
        let status = loop {
            match self.child.try_wait().at("qemu-system-x86_64")? {
                Some(status) => break status,
                None if Instant::now() >= self.end => {
                    return Err(self.failure(format!("was not off within {:?}", self.machine.limit)));
                }
                None => thread::sleep(LOOK),
            }
        };
        // The reader of the console may be a few lines behind.
        thread::sleep(LOOK);
        if !status.success() {
            let said = fs::read_to_string(self.machine.file("stderr")).unwrap_or_default();
            return Err(self.failure(format!("QEMU ended with {status}: {said}")));
        }
        if self.heard().contains("Kernel panic") {
            return Err(self.failure("the kernel went down"));
        }
        Ok(self.report())
    }

    /// Ends the machine as a power cut would: what it has written is in the files of its disks, what it had in memory
    /// is gone.
    ///
    /// The host's own cache outlives QEMU, so that every write the guest saw completed is found.
    ///
    /// # Errors
    /// [`Error::Machine`] when it has ended by itself before.
    pub fn kill(mut self) -> Result<()> {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return Err(self.failure("ended before it was to be killed"));
        }
        self.child.kill().and_then(|()| self.child.wait()).at("qemu-system-x86_64").map(drop)
    }

    /// Sends a command to QEMU.
    ///
    /// # Errors
    /// [`Error::Qmp`] when it is refused.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.execute(command, arguments)
    }

    /// Pulls a virtio or USB disk out while the machine runs, and waits until the guest has let go of it.
    ///
    /// * `number`: its place among the disks of the machine.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU refuses or the guest does not let go within 30 seconds.
    pub fn unplug(&mut self, number: usize) -> Result<()> {
        self.qmp.execute("device_del", json!({ "id": format!("disk{number}") }))?;
        self.qmp.event("DEVICE_DELETED", Duration::from_secs(30)).map(drop)
    }

    /// Saves what the VGA console shows as a PNG.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU refuses.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        self.qmp.execute("screendump", json!({ "filename": path, "format": "png" })).map(drop)
    }

    /// Presses keys of the machine's own keyboard at once; names are QEMU key codes such as `ret`, `alt`, `f2`, `a`.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU does not know a key.
    pub fn press_together(&mut self, names: &[&str]) -> Result<()> {
        let keys: Vec<Value> = names.iter().map(|name| json!({ "type": "qcode", "data": name })).collect();
        self.qmp.execute("send-key", json!({ "keys": keys })).map(drop)
    }

    /// Types a line on the machine's own keyboard: lower-case letters, digits, spaces, hyphens and line ends.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU does not know a key.
    pub fn type_keys(&mut self, text: &str) -> Result<()> {
        for letter in text.chars() {
            let name = match letter {
                ' ' => "spc".to_owned(),
                '-' => "minus".to_owned(),
                '\n' => "ret".to_owned(),
                other => other.to_string(),
            };
            self.press_together(&[&name])?;
            // QEMU holds a key for a tenth of a second, and drops what does not fit into its queue.
            thread::sleep(Duration::from_millis(150));
        }
        Ok(())
    }
}

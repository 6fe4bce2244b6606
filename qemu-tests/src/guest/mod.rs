//! A second reader for every file system: the drivers of the kernel, in a small Linux of the test's own.
//!
//! ```text
//! host                                                  guest
//! Guest: disks by serial number, orders  -- initramfs ->  inside: process 1, this crate's own code
//!        answers  <------------- disk "ANSWERS" --------  fills, lists, unmounts, powers off
//!        or: killed in mid-write
//! ```
//!
//! The kernel is the one of the environment. Its modules come from the package `scripts/kernel` has taken apart, and
//! nothing of the product is in it. Two volumes with one UUID must never be in one boot: Btrfs would mix them.

mod archive;
pub mod churn;
pub mod inside;
pub mod orders;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use orders::{Answer, Order};

use crate::{
    At as _, Error, MIB, Result, built, ensure,
    vm::{Bus, Drive, MINUTE, Machine, Vm, Work},
};

/// Serial number of the disk that takes the answers.
const ANSWERS: &str = "ANSWERS";

/// Volumes that one guest takes: each is a device on a bus that has 32 places.
pub const VOLUMES: usize = 28;

/// A helper guest to be booted.
#[derive(Debug)]
pub struct Guest<'a> {
    work: &'a Work,
    name: String,
    program: &'a Path,
    tools: Vec<String>,
    drives: Vec<Drive>,
    orders: Vec<Order>,
    limit: Duration,
}

impl<'a> Guest<'a> {
    /// Prepares a guest without disks.
    ///
    /// * `program`: the static program `guest` of this crate.
    #[must_use]
    pub fn new(work: &'a Work, name: &str, program: &'a Path) -> Self {
        let (drives, orders, tools) = (Vec::new(), Vec::new(), Vec::new());
        Self { work, name: name.to_owned(), program, tools, drives, orders, limit: 15 * MINUTE }
    }

    /// Ends it after `limit` instead of after 15 minutes.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Takes a program of this host along, with the libraries it needs, for [`orders::Task::Run`].
    #[must_use]
    pub fn tool(mut self, name: &str) -> Self {
        if !self.tools.iter().any(|known| known == name) {
            self.tools.push(name.to_owned());
        }
        self
    }

    /// Attaches a disk with one volume on it.
    #[must_use]
    pub fn disk(mut self, path: &Path, serial: &str, sector: u64) -> Self {
        self.drives.push(Drive::new(Bus::Virtio, path, serial).sector(sector).fixed());
        self
    }

    /// Attaches a disk with one volume on it, which cannot be written to.
    #[must_use]
    pub fn read_only_disk(mut self, path: &Path, serial: &str, sector: u64) -> Self {
        self.drives.push(Drive::new(Bus::Virtio, path, serial).sector(sector).fixed().read_only());
        self
    }

    /// Adds an order; they are done one after the other.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.orders.push(order);
        self
    }

    /// Boots it.
    ///
    /// # Errors
    /// [`Error`] when the initramfs cannot be made or QEMU does not start.
    pub fn boot(self) -> Result<Running> {
        ensure!(self.drives.len() <= VOLUMES, "{} disks are too many for one guest", self.drives.len());
        let answers = self.work.path(&format!("{}.answers", self.name));
        File::create(&answers).and_then(|file| file.set_len(64 * MIB)).at(&answers)?;
        let initramfs = self.work.path(&format!("{}.initramfs", self.name));
        archive::write(&initramfs, self.program, &self.tools, &self.orders)?;
        let machine = Machine::new(self.work, &self.name).kernel(built("vmlinuz"), Some(initramfs.clone()));
        let machine = machine.kernel_words("quiet loglevel=4").limit(self.limit);
        let machine = machine.drive(Drive::new(Bus::Virtio, &answers, ANSWERS).fixed());
        let vm = self.drives.into_iter().fold(machine, Machine::drive).boot()?;
        Ok(Running { vm, answers, initramfs, orders: self.orders })
    }

    /// Boots it, waits until all orders are done, and returns an answer for each, in order.
    ///
    /// # Errors
    /// [`Error`] when an order failed: with what the guest's kernel said.
    pub fn run(self) -> Result<Vec<Answer>> {
        self.boot()?.finish()
    }
}

/// A helper guest that runs.
#[derive(Debug)]
pub struct Running {
    vm: Vm,
    answers: PathBuf,
    initramfs: PathBuf,
    orders: Vec<Order>,
}

impl Running {
    /// Waits until all orders are done, and returns an answer for each, in order.
    ///
    /// # Errors
    /// [`Error`] when one failed.
    pub fn finish(self) -> Result<Vec<Answer>> {
        let lines = self.vm.wait_power_off()?;
        let failed = lines.events("failed").next();
        ensure!(failed.is_none(), "the guest gave up\n{}", lines.shown());
        let file = File::open(&self.answers).at(&self.answers)?;
        let mut len = [0; 8];
        file.read_exact_at(&mut len, 0).at(&self.answers)?;
        let wrong = |error: &dyn std::fmt::Display| Error::Wrong(format!("{}: {error}", self.answers.display()));
        let len = usize::try_from(u64::from_le_bytes(len)).map_err(|error| wrong(&error))?;
        ensure!(len > 0, "the guest left no answers\n{}", lines.shown());
        let mut text = vec![0; len];
        file.read_exact_at(&mut text, 8).at(&self.answers)?;
        let answers: Vec<Answer> = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
        for (answer, order) in answers.iter().zip(&self.orders) {
            if let Some(error) = &answer.error {
                return Err(Error::Wrong(format!("{}: {:?} failed in the guest: {error}", answer.disk, order.task)));
            }
        }
        ensure!(answers.len() == self.orders.len(), "{} orders, {} answers", self.orders.len(), answers.len());
        for path in [&self.answers, &self.initramfs] {
            fs::remove_file(path).at(path)?;
        }
        Ok(answers)
    }

    /// Waits until every volume that is written to had `changes` changes, then a little longer, and kills the machine.
    ///
    /// # Errors
    /// [`Error`] when it does not get that far.
    pub fn kill_after(mut self, changes: u64, longer: Duration) -> Result<()> {
        let writers = self.orders.iter().filter(|order| matches!(order.task, orders::Task::Write { .. })).count();
        self.vm.wait_for("writing on all volumes", 10 * MINUTE, |vm| {
            let report = vm.report();
            let last = report.events("steps").last()?;
            let all = last["volumes"].as_u64() == u64::try_from(writers).ok();
            (all && last["least"].as_u64()? >= changes).then_some(())
        })?;
        std::thread::sleep(longer);
        let report = self.vm.report();
        if report.events("failed").next().is_some() {
            return Err(self.vm.failure("writing failed in the guest"));
        }
        self.vm.kill()?;
        for path in [&self.answers, &self.initramfs] {
            fs::remove_file(path).at(path)?;
        }
        Ok(())
    }
}

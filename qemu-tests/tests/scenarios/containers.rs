//! Disks whose file systems lie in logical volumes and RAID members, set up, filled and read by the kernel of a guest.
//!
//! ```text
//! make    programs that turn the disk into devices, and make file systems in them; then these are filled
//! stop    programs that let go of the disk
//! start   programs that find the devices again on the restored disk; then they are read
//! ```

use std::fs::File;

use qemu_tests::{
    At as _, MIB, Result, ensure,
    guest::{
        Guest,
        orders::{Answer, Fill, Order, Style, Task, difference},
    },
    vm::Work,
    volume::{EXT2, EXT4, Kind},
};

use crate::volumes::{file_onto_noise, guest};

/// A disk that holds devices.
struct Container {
    name: &'static str,
    mib: u64,
    /// Whether what lies in it is read; it is kept whole otherwise.
    read: bool,
    make: &'static [&'static str],
    stop: &'static [&'static str],
    start: &'static [&'static str],
    /// Devices, and the file systems in them.
    holds: &'static [(&'static str, Kind)],
}

/// Every disk that is tried. `lvm` stands for the program and its settings here, see [`words`].
const CONTAINERS: &[Container] = &[
    Container {
        name: "lvm",
        mib: 128,
        read: true,
        make: &[
            "lvm pvcreate -q -y DEVICE",
            "lvm vgcreate -q -y group DEVICE",
            "lvm lvcreate -q -y -W n -n one -L 24M group",
            "lvm lvcreate -q -y -W n -n gone -L 12M group",
            "lvm lvcreate -q -y -W n -n two -L 32M group",
            // The first one goes on where the second was.
            "lvm lvremove -q -y group/gone",
            "lvm lvextend -q -y -L 44M group/one",
            "mke2fs -q -F -t ext4 /dev/mapper/group-one",
            "mke2fs -q -F -t ext2 -b 1024 /dev/mapper/group-two",
        ],
        stop: &["lvm vgchange -q -an group"],
        start: &["lvm vgchange -q -ay group"],
        holds: &[("/dev/mapper/group-one", EXT4), ("/dev/mapper/group-two", EXT2)],
    },
    Container {
        name: "raid1-1.2",
        mib: 64,
        read: true,
        make: &[
            "mdadm --create /dev/md1 --run --quiet --metadata=1.2 --level=1 --raid-devices=2 DEVICE missing",
            "mke2fs -q -F -t ext4 /dev/md1",
        ],
        stop: &["mdadm --stop --quiet /dev/md1"],
        start: &["mdadm --assemble --run --quiet /dev/md1 DEVICE"],
        holds: &[("/dev/md1", EXT4)],
    },
    Container {
        name: "raid1-1.0",
        mib: 64,
        read: true,
        make: &[
            "mdadm --create /dev/md2 --run --quiet --metadata=1.0 --level=1 --raid-devices=2 DEVICE missing",
            "mke2fs -q -F -t ext4 /dev/md2",
        ],
        stop: &["mdadm --stop --quiet /dev/md2"],
        start: &["mdadm --assemble --run --quiet /dev/md2 DEVICE"],
        holds: &[("/dev/md2", EXT4)],
    },
    Container {
        name: "raid1-0.90",
        mib: 64,
        read: true,
        make: &[
            "mdadm --create /dev/md3 --run --quiet --metadata=0.90 --level=1 --raid-devices=2 DEVICE missing",
            "mke2fs -q -F -t ext4 /dev/md3",
        ],
        stop: &["mdadm --stop --quiet /dev/md3"],
        start: &["mdadm --assemble --run --quiet /dev/md3 DEVICE"],
        holds: &[("/dev/md3", EXT4)],
    },
];

/// Settings of `lvm` where there is no udev and nothing is to be kept beside the disks.
const LVM: &str = "devices{obtain_device_list_from_udev=0 use_devicesfile=0} activation{udev_sync=0 udev_rules=0 \
                   monitoring=0} backup{backup=0 archive=0} global{event_activation=0}";

/// Takes a line apart; after the subcommand of `lvm` come its settings.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    if words[0] == "lvm" {
        words.splice(2..2, ["--config".to_owned(), LVM.to_owned()]);
    }
    words
}

impl Container {
    fn order(&self, task: Task) -> Order {
        Order { disk: self.name.to_owned(), device: None, driver: String::new(), options: String::new(), task }
    }

    /// Adds orders to run programs, and takes the programs along.
    fn run<'a>(&self, guest: Guest<'a>, lines: &[&str]) -> Guest<'a> {
        lines.iter().map(|line| words(line)).fold(guest, |guest, words| {
            let guest = guest.tool(&words[0]);
            guest.order(self.order(Task::Run(words)))
        })
    }

    /// Adds an order for each file system in it.
    fn each<'a>(&self, guest: Guest<'a>, task: impl Fn(u64) -> Task) -> Guest<'a> {
        (1..).zip(self.holds).fold(guest, |guest, (number, (device, kind))| {
            let made = Some((*device).to_owned());
            guest.order(Order { device: made, driver: kind.driver.to_owned(), ..self.order(task(number)) })
        })
    }
}

fn listed(answers: Vec<Answer>) -> Vec<Answer> {
    answers.into_iter().filter(|answer| !answer.files.is_empty()).collect()
}

#[test]
fn file_systems_in_logical_volumes_and_raid_members_come_back_on_noise() -> Result<()> {
    let work = Work::new("containers")?;
    let paths = |container: &Container| {
        (work.path(&format!("{}.source", container.name)), work.path(&format!("{}.restored", container.name)))
    };
    let mut filler = guest(&work, "fill");
    for container in CONTAINERS {
        let (source, _) = paths(container);
        File::create(&source).and_then(|file| file.set_len(container.mib * MIB)).at(&source)?;
        filler = container.run(filler.disk(&source, container.name, 512), container.make);
        filler = container.each(filler, |seed| Task::Fill(Fill { seed, style: Style::Churned, unix: true }));
        filler = container.run(filler, container.stop);
    }
    let want = listed(filler.run()?);
    let count: usize = CONTAINERS.iter().map(|container| container.holds.len()).sum();
    ensure!(want.len() == count, "{} file systems were filled, must be {count}", want.len());
    let mut reader = guest(&work, "read");
    for container in CONTAINERS {
        let (source, target) = paths(container);
        let image = file_onto_noise(&work, &source, &target, 512)?;
        let (kept, len, name) = (image.allocated.total(), container.mib * MIB, container.name);
        let free: u64 = want.iter().filter(|answer| answer.disk == name).map(|answer| answer.free).sum();
        if container.read {
            ensure!(image.widened.is_empty(), "{name}: more was kept than needed: {:?}", image.widened);
            ensure!(kept <= len - free + MIB, "{name}: {kept} of {len} bytes are kept, {free} are free");
        } else {
            ensure!(kept == len, "{name}: {kept} of {len} bytes are kept: is it read now? Say so in CONTAINERS");
        }
        reader = container.run(reader.disk(&target, name, 512), container.start);
        reader = container.run(container.each(reader, |_| Task::List), container.stop);
    }
    let found = listed(reader.run()?);
    ensure!(found.len() == count, "{} file systems were read, must be {count}", found.len());
    for (want, found) in want.iter().zip(&found) {
        let different = difference(&want.files, &found.files);
        ensure!(different.is_none(), "{}: the kernel reads {}", want.disk, different.unwrap_or_default());
    }
    work.finish()
}

//! The screens are killed under PID 1: the crash is shown, they can be started again, and the kernel stays up. What
//! asks PID 1 for an end gets an orderly one, and a console that takes nothing stops neither job nor end.

use std::time::Duration;

use qemu_tests::{
    MIB, Result, ensure, noise,
    vm::{Bus, Drive, MINUTE, Machine, Vm, Work},
};

const ANSWER: Duration = Duration::from_secs(40);

/// Kills the screens from the shell on the second screen of the video console.
fn kill_screens(vm: &mut Vm) -> Result<()> {
    vm.press_together(&["alt", "f2"])?;
    std::thread::sleep(Duration::from_secs(2));
    vm.type_keys("killall -9 rescue\n")
}

#[test]
fn screens_killed_under_pid_1_are_started_again_and_the_machine_powers_off() -> Result<()> {
    let work = Work::new("supervision")?;
    noise::noise_file(&work.path("disk"), 16 * MIB, 1)?;
    let machine = Machine::new(&work, "screens").drive(Drive::new(Bus::Virtio, &work.path("disk"), "DISK-1"));
    let mut vm = machine.limit(10 * MINUTE).boot()?;
    vm.expect_text("DISK-1", 2 * MINUTE)?;

    for _ in 0..2 {
        kill_screens(&mut vm)?;
        let shown = vm.expect_text("[r]estart", ANSWER)?;
        ensure!(shown.contains("SIGKILL"), "the crash screen does not say what happened:\n{shown}");
        ensure!(shown.contains("[s]hell") && shown.contains("[p]ower off"), "no way out is offered:\n{shown}");
        vm.send("r")?;
        vm.expect_text("DISK-1", ANSWER)?;
    }
    kill_screens(&mut vm)?;
    vm.expect_text("[s]hell", ANSWER)?;
    vm.send("s")?;
    vm.expect_text("rescue:", ANSWER)?;
    vm.send("cat /proc/1/comm && echo up $((40 + 2))\r")?;
    vm.expect_text("up 42", ANSWER)?;
    vm.send("exit\r")?;
    vm.expect_text("DISK-1", ANSWER)?;
    vm.send("p")?;
    vm.expect_text("Power this machine off", ANSWER)?;
    vm.send("p")?;
    vm.wait_power_off()?;
    work.finish()
}

#[test]
fn an_unattended_job_killed_under_pid_1_is_reported_as_failed() -> Result<()> {
    let work = Work::new("supervision-job")?;
    let (source, store) = (work.path("source"), work.path("store"));
    noise::noise_file(&source, 64 * MIB, 1)?;
    qemu_tests::disk::store_disk(&store, 128 * MIB, "ext4", "STORE")?;
    let mut vm = Machine::new(&work, "job")
        .drive(Drive::new(Bus::Virtio, &source, "SRC-1").throttle(MIB))
        .drive(Drive::new(Bus::Virtio, &store, "STO-1"))
        .job("rescue.job=capture rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue")
        .boot()?;
    vm.wait_for("the capture", 2 * MINUTE, |vm| vm.report().events("progress").next().map(drop))?;
    vm.press_together(&["alt", "f2"])?;
    std::thread::sleep(Duration::from_secs(2));
    vm.type_keys("killall -9 rescue\n")?;
    let lines = vm.wait_power_off()?;
    ensure!(lines.ended(), "the report does not say how the job ended\n{}", lines.shown());
    ensure!(lines.complete().is_err(), "a job that was killed is COMPLETE");
    let images = qemu_tests::extract::manifests(&store, "ext4", "/rescue")?;
    ensure!(images.is_empty(), "the store holds an image of a capture that was killed");
    work.finish()
}

/// Boots to the screens, has the end asked for, and waits for an end without a panic.
fn ends_in_order(name: &str, ask: impl FnOnce(&mut Vm) -> Result<()>, says: &str) -> Result<()> {
    let work = Work::new(name)?;
    noise::noise_file(&work.path("disk"), 16 * MIB, 1)?;
    let machine = Machine::new(&work, "screens").drive(Drive::new(Bus::Virtio, &work.path("disk"), "DISK-1"));
    let mut vm = machine.boot()?;
    vm.expect_text("DISK-1", 2 * MINUTE)?;
    ask(&mut vm)?;
    vm.expect_heard(says, ANSWER)?;
    vm.wait_power_off()?;
    work.finish()
}

#[test]
fn ctrl_alt_delete_starts_the_machine_again_in_order() -> Result<()> {
    ends_in_order("end-keys", |vm| vm.press_together(&["ctrl", "alt", "delete"]), "Starting again ...")
}

#[test]
fn poweroff_in_a_shell_powers_the_machine_off_in_order() -> Result<()> {
    let ask = |vm: &mut Vm| {
        vm.press_together(&["alt", "f2"])?;
        std::thread::sleep(Duration::from_secs(2));
        vm.type_keys("poweroff\n")
    };
    ends_in_order("end-shell", ask, "Powering off ...")
}

#[test]
fn an_unattended_job_whose_console_was_stopped_ends_and_powers_off() -> Result<()> {
    let work = Work::new("supervision-stopped")?;
    let (source, store) = (work.path("source"), work.path("store"));
    noise::noise_file(&source, 16 * MIB, 1)?;
    qemu_tests::disk::store_disk(&store, 64 * MIB, "ext4", "STORE")?;
    let mut vm = Machine::new(&work, "job")
        .drive(Drive::new(Bus::Virtio, &source, "SRC-1").throttle(MIB))
        .drive(Drive::new(Bus::Virtio, &store, "STO-1"))
        .job("rescue.job=capture rescue.disk=serial:SRC-1 rescue.store=label:STORE:/rescue")
        .boot()?;
    vm.wait_for("the capture", 2 * MINUTE, |vm| vm.report().events("progress").next().map(drop))?;
    // Ctrl-S, which on a terminal of its own stops whoever writes next.
    vm.send("\x13")?;
    vm.wait_power_off()?.complete()?;
    ensure!(qemu_tests::extract::manifests(&store, "ext4", "/rescue")?.len() == 1, "the image is not in the store");
    work.finish()
}

#[test]
fn a_capture_into_a_folder_in_memory_is_refused() -> Result<()> {
    let work = Work::new("supervision-memory")?;
    noise::noise_file(&work.path("source"), 16 * MIB, 1)?;
    let reason = Machine::new(&work, "job")
        .drive(Drive::new(Bus::Virtio, &work.path("source"), "SRC-1"))
        .job("rescue.job=capture rescue.disk=serial:SRC-1 rescue.store=/tmp/store")
        .boot()?
        .wait_power_off()?
        .refusal()?;
    ensure!(reason.contains("on no mounted disk"), "the refusal does not say why: {reason}");
    work.finish()
}

//! A person at a serial terminal: a disk is imaged and restored onto another by keys alone.

use std::time::Duration;

use qemu_tests::{
    Error, MIB, Result,
    disk::{self, DiskBuilder},
    ensure, extract, noise,
    screen::key,
    tools::sha256,
    vm::{Bus, Drive, MINUTE, Machine, Vm, Work},
};

use crate::common;

/// What a screen may take to answer a key, on a machine ten times slower than any real one.
const ANSWER: Duration = Duration::from_secs(40);

/// Moves the mark down until it stands on the line that shows `text`.
fn mark(vm: &mut Vm, text: &str) -> Result<()> {
    for _ in 0..10 {
        let line = vm.wait_for("a marked line", ANSWER, |vm| {
            vm.text().lines().find(|line| line.contains('►')).map(str::to_owned)
        })?;
        if line.contains(text) {
            return Ok(());
        }
        vm.send(key::DOWN)?;
        vm.wait_for("the mark to move", ANSWER, |vm| {
            let now = vm.text().lines().find(|line| line.contains('►')).map(str::to_owned);
            (now.as_ref() != Some(&line)).then_some(())
        })?;
    }
    Err(vm.failure(format!("\"{text}\" cannot be marked")))
}

/// Presses `keys` and waits for `text`.
fn press(vm: &mut Vm, keys: &str, text: &str) -> Result<String> {
    vm.send(keys)?;
    vm.expect_text(text, ANSWER)
}

/// Waits for the result page, and returns it when it says COMPLETE.
fn complete(vm: &mut Vm) -> Result<String> {
    let page = vm.wait_for("the result", 5 * MINUTE, |vm| {
        let text = vm.text();
        ["COMPLETE", "PARTIAL", "FAILED"].iter().any(|word| text.contains(word)).then_some(text)
    })?;
    if page.contains("COMPLETE") { Ok(page) } else { Err(vm.failure("the job is not COMPLETE")) }
}

#[test]
fn a_disk_is_imaged_and_restored_by_keys_alone() -> Result<()> {
    let work = Work::new("tui")?;
    let (plain, unix) = common::trees(&work, 16 * MIB)?;
    let disk = DiskBuilder::gpt(200 * MIB).esp(36 * MIB, &plain).ext4("root", 120 * MIB, &unix);
    let source = disk.build(&work.path("source"))?;
    let (store, target) = (work.path("store"), work.path("target"));
    disk::store_disk(&store, 200 * MIB, "ext4", "STORE")?;
    noise::noise_file(&target, 240 * MIB, 6)?;
    let (before, noise) = (sha256(&source.path)?, sha256(&target)?);

    let mut vm = Machine::new(&work, "tui")
        .drive(Drive::new(Bus::Virtio, &source.path, "SOURCE-1"))
        .drive(Drive::new(Bus::Virtio, &store, "STORE-1"))
        .drive(Drive::new(Bus::Virtio, &target, "TARGET-9876"))
        .limit(15 * MINUTE)
        .boot()?;
    vm.expect_text("TARGET-9876", 2 * MINUTE)?;

    mark(&mut vm, "SOURCE-1")?;
    press(&mut vm, "i", "Where should the image")?;
    mark(&mut vm, "STORE")?;
    press(&mut vm, key::ENTER, "Enter starts")?;
    press(&mut vm, key::ENTER, "running")?;
    complete(&mut vm)?;
    press(&mut vm, key::ENTER, "SOURCE-1")?;

    press(&mut vm, "r", "Where is the image")?;
    mark(&mut vm, "STORE")?;
    // The page is there before the images are: what one of them needs is shown once they are listed.
    press(&mut vm, key::ENTER, "a disk of at least")?;
    press(&mut vm, key::ENTER, "Which disk should be overwritten")?;
    mark(&mut vm, "TARGET-9876")?;
    press(&mut vm, key::ENTER, "Enter asks for the confirmation")?;
    press(&mut vm, key::ENTER, "OVERWRITE THIS DISK?")?;
    // Enter alone, and a wrong answer, write nothing.
    press(&mut vm, &format!("y{}", key::ENTER), "That is not it")?;
    ensure!(sha256(&target)? == noise, "the target was written to before it was confirmed");
    let asked = vm.text();
    let answer = answer(&asked, "TARGET-9876")?;
    vm.send(&format!("\x15{answer}"))?;
    press(&mut vm, key::ENTER, "running")?;
    complete(&mut vm)?;
    press(&mut vm, "p", "Power this machine off")?;
    vm.send("p")?;
    vm.wait_power_off()?;

    ensure!(sha256(&source.path)? == before, "the source was written to");
    let images = extract::manifests(&store, "ext4", "/rescue")?;
    ensure!(images.len() == 1, "the store holds {} images, must be 1", images.len());
    qemu_tests::compare::compare(&source, &target, &images[0])?;
    work.finish()
}

/// Finds out from the question what has to be typed: the serial number, or its last characters.
fn answer(question: &str, serial: &str) -> Result<String> {
    let words: String = question.split_whitespace().collect::<Vec<_>>().join(" ");
    let last = words.split("the last ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    match last {
        Some(count) if words.contains("serial") => Ok(serial[serial.len() - count..].to_owned()),
        None if words.contains("serial number") => Ok(serial.to_owned()),
        _ => Err(Error::Wrong(format!("the confirmation asks for something else:\n{question}"))),
    }
}

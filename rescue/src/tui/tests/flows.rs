//! The ways through the screens that end well, and the ways back.

use super::*;
use crate::{
    job::{Job, Outcome, Phase, Progress},
    tui::{demo::Fate, state::Overlay},
};

fn outcome(rig: &Rig) -> Option<Outcome> {
    rig.state.flow.as_ref()?.report.as_ref().map(|report| report.outcome)
}

#[test]
fn a_disk_is_imaged_from_the_first_key_to_the_result() {
    let mut rig = Rig::new(Demo::default());
    rig.at(Screen::Home).shows("/dev/nvme0n1").shows("Image disk");
    rig.keys("i");
    rig.at(Screen::Stores).shows("\"BACKUP\" on /dev/sdb1");
    rig.keys("<Enter>");
    rig.at(Screen::Plan).shows("Image /dev/nvme0n1 into /media/backup/rescue").shows("! partition 3");
    assert_eq!(rig.demo.runs.load(std::sync::atomic::Ordering::Relaxed), 1);
    rig.hold = true;
    rig.keys("<Enter>");
    rig.at(Screen::Running);
    rig.finish_job();
    rig.at(Screen::Result).shows("COMPLETE").shows("is safely in the store");
    assert_eq!((rig.beeps, outcome(&rig)), (1, Some(Outcome::Complete)));
    rig.keys("<Enter>");
    rig.at(Screen::Home);
    assert!(rig.asked().iter().any(|asked| asked == "close"), "the store is let go: {:?}", rig.asked());
    assert!(rig.asked().iter().any(|asked| asked == "open /dev/sdb1 Store"), "{:?}", rig.asked());
}

#[test]
fn an_image_is_restored_after_the_serial_was_typed() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("r<Enter>");
    rig.at(Screen::Images).shows("Which image").shows("2026-11-22 18:03");
    rig.keys("<Enter>");
    // The disk the image came from is the likeliest target.
    rig.at(Screen::Targets).shows("► /dev/nvme0n1");
    rig.keys("<Down><Enter>");
    rig.at(Screen::Plan).shows("onto /dev/sda").shows("after");
    rig.keys("<Enter>");
    rig.at(Screen::Confirm).shows("OVERWRITE THIS DISK?").shows("2 ntfs Windows");
    rig.keys("1FTH<Enter>");
    rig.at(Screen::Result).shows("COMPLETE").shows("read back and compared");
    let job = rig.state.flow.as_ref().and_then(|flow| flow.job.clone());
    let Some(Job::Restore(job)) = job else { panic!("{job:?}") };
    assert_eq!(job.disk.to_string(), "/dev/sda");
    assert!(!job.accept_partial);
    // From here the same image goes onto another disk.
    rig.keys("r");
    rig.at(Screen::Targets);
}

#[test]
fn a_store_is_verified_as_a_whole_or_one_image_of_it() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("v<Enter>");
    rig.at(Screen::Images).shows("► Everything in this store");
    rig.keys("<Enter>");
    rig.at(Screen::Plan).shows("Check everything in");
    rig.keys("<Enter>");
    rig.at(Screen::Result).shows("COMPLETE").shows("is whole").hides("Verify the image");
    rig.keys("<Enter>s<Enter><Down>v");
    rig.at(Screen::Plan).shows("Check image 03d1e5f7");
    rig.keys("<Esc>");
    rig.at(Screen::Images).shows("► 2026-11-15");
}

#[test]
fn a_new_image_can_be_verified_from_its_result() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("i<Enter><Enter>");
    rig.at(Screen::Result).shows("Verify the image");
    rig.keys("v");
    rig.at(Screen::Plan).shows("Check image 5b1d0c9e");
    rig.keys("<Esc>");
    rig.at(Screen::Result).shows("COMPLETE");
}

#[test]
fn going_back_keeps_what_was_chosen_and_typed() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("<Down>i<Down><Down><Down>");
    rig.shows("► Another folder:");
    rig.keys("/mnt/i?r q");
    rig.keys("<Enter>");
    rig.at(Screen::Plan).shows("Image /dev/sda into /mnt/i?r q");
    rig.keys("<Esc>");
    rig.at(Screen::Stores).shows("► Another folder: /mnt/i?r q");
    rig.keys("<Esc>");
    rig.at(Screen::Home).shows("► /dev/sda");
    rig.keys("i");
    rig.at(Screen::Stores).shows("/mnt/i?r q");
    rig.keys("<Esc>r");
    rig.shows("/mnt/i?r q");
    rig.keys("<Enter><Down><Enter><Down><Esc>");
    rig.at(Screen::Images).shows("► 2026-11-15");
    rig.keys("<Esc><Enter>");
    rig.at(Screen::Images).shows("► 2026-11-15");
}

#[test]
fn a_disk_is_looked_at_closely_once_it_is_shown() {
    let mut rig = Rig::new(Demo::default());
    rig.shows("33.0 GiB").shows("87.0 GiB").shows("not unmounted");
    rig.keys("<Enter>");
    rig.at(Screen::Details).shows("serial S4EVNX0M802034K").shows("sectors of 512 bytes");
    rig.keys("<Down><Down>");
    rig.shows("sdb1 is mounted at /media/backup").shows("the backup header is damaged");
    rig.keys("<Esc>");
    rig.at(Screen::Home);
}

#[test]
fn a_job_is_stopped_only_after_asking() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    for (name, ask) in [("c", "c"), ("escape", "<Esc>")] {
        rig.keys("i<Enter><Enter>");
        rig.at(Screen::Running);
        rig.keys(ask);
        assert_eq!(rig.state.overlay, Some(Overlay::AskCancel), "{name}");
        rig.shows("Stop the job?").shows("No image will be made");
        rig.keys("<Enter>");
        assert!(!rig.cancel.is_cancelled(), "Enter goes on: {name}");
        rig.keys(ask);
        rig.keys("y");
        assert!(rig.cancel.is_cancelled(), "{name}");
        rig.at(Screen::Running).shows("Stopping");
        rig.keys(ask);
        assert_eq!(rig.state.overlay, None, "it is asked once: {name}");
        rig.finish_job();
        rig.at(Screen::Result).shows("FAILED").shows("Stopped. There is no image");
        rig.keys("<Enter>");
    }
}

#[test]
fn ctrl_c_asks_in_a_job_and_leaves_only_an_ordinary_command() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    rig.ctrl('c');
    assert_eq!(rig.exit, None, "the only screen of a machine stays");
    rig.keys("i<Enter><Enter>");
    rig.ctrl('c');
    assert_eq!(rig.state.overlay, Some(Overlay::AskCancel));
    rig.keys("n");
    rig.at(Screen::Running);
    rig.finish_job();
    rig.shows("COMPLETE");

    let mut rig = Rig::with(Demo::default(), options(false));
    rig.ctrl('c');
    assert_eq!(rig.exit, Some(Exit::Quit));
}

#[test]
fn a_job_that_ends_while_it_is_asked_about_shows_its_result() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    rig.keys("i<Enter><Enter>c");
    rig.finish_job();
    assert_eq!(rig.state.overlay, None);
    rig.at(Screen::Result);
}

#[test]
fn a_signal_stops_the_job_and_leaves_when_it_has_ended() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    rig.keys("i<Enter><Enter>");
    rig.tell(Msg::Terminate);
    assert!(rig.cancel.is_cancelled());
    assert_eq!(rig.exit, None);
    rig.finish_job();
    assert_eq!(rig.exit, Some(Exit::Quit));
}

#[test]
fn power_and_shell_leave_with_their_codes() {
    for (keys, want) in [("pp", Some(80)), ("pr", Some(81)), ("x", Some(82)), ("p<Esc>", None), ("q", None)] {
        let mut rig = Rig::new(Demo::default());
        rig.keys(keys);
        assert_eq!(rig.exit.map(Exit::code), want, "{keys}");
    }
    for (keys, want) in [("q", Some(0)), ("p", None), ("x", None)] {
        let mut rig = Rig::with(Demo::default(), options(false));
        rig.keys(keys);
        assert_eq!(rig.exit.map(Exit::code), want, "as a command: {keys}");
    }
}

#[test]
fn a_running_job_shows_phase_bar_speed_and_time_left() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    rig.keys("r<Enter><Enter><Enter><Enter>034K<Enter>");
    rig.at(Screen::Running).shows("Starting").shows("to come");
    const GIB: u64 = 1 << 30;
    rig.event(Event::Phase { phase: Phase::Checking });
    rig.event(Event::Phase { phase: Phase::Writing });
    for second in 1..=20 {
        let progress = Progress { done: second * GIB, total: 100 * GIB, stored: 0 };
        rig.event(Event::Progress { phase: Phase::Writing, progress });
        rig.tick(second);
    }
    rig.shows("► Writing the disk").shows("20 %").shows("20.0 GiB of 100 GiB").shows("1.00 GiB/s");
    rig.shows("about 80 s").shows("No problems so far");
    for number in 0..150 {
        rig.event(Event::Problem { what: format!("byte {number} could not be read") });
    }
    rig.shows("150 problems").shows("byte 149 could not be read");
    // Phases may take turns, and a job may say less or more than is usual.
    rig.event(Event::Phase { phase: Phase::ReadingBack });
    rig.event(Event::Progress { phase: Phase::Writing, progress: Progress { done: 1, total: 0, stored: 0 } });
    rig.event(Event::Phase { phase: Phase::Planning });
    rig.shows("Planning");
    rig.keys("l");
    rig.shows("byte 149 could not be read");
}

#[test]
fn a_partial_image_says_so_at_every_step() {
    let mut rig = Rig::new(Demo { fate: Fate::Partial, ..Demo::default() });
    rig.keys("r<Enter><Down><Down>");
    rig.shows("PARTIAL System").shows("This image is PARTIAL");
    rig.keys("<Enter><Enter>");
    rig.at(Screen::Plan).shows("! This image is PARTIAL");
    let job = rig.state.flow.as_ref().and_then(|flow| flow.job.clone());
    assert!(matches!(job, Some(Job::Restore(job)) if job.accept_partial));
    rig.keys("<Enter>1FTH<Enter>");
    rig.at(Screen::Result).shows("PARTIAL").shows("could not be read");
}

#[test]
fn help_explains_every_page_and_the_log_can_be_read() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("?");
    rig.shows("drawn to scale");
    rig.keys("<Down><PageDown><Esc>");
    rig.at(Screen::Home);
    rig.keys("i<Down><F1>");
    rig.shows("A store is a folder");
    rig.keys("<Esc><Esc>l");
    rig.shows("3 disks found").shows("3 places for a store found");
    rig.keys("<Esc>");
    rig.hides("3 disks found");
}

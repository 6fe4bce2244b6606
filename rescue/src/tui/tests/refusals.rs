//! What goes wrong, and what must not be possible.

use super::*;
use crate::{
    block::{Transport, discovery::Use},
    job::{Outcome, Phase, Progress},
    tui::{
        demo::{self, Fate, part},
        state::Overlay,
    },
    units::GIB,
};

#[test]
fn enter_alone_never_overwrites() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    rig.keys("r<Enter><Enter><Enter><Enter><Enter><Enter><Enter><Enter><Enter>");
    rig.at(Screen::Confirm).shows("That is not it. Nothing was written.");
    assert!(!rig.waiting);
}

#[test]
fn a_wrong_confirmation_starts_nothing() {
    for (name, typed, starts) in [
        ("right", "034K", true),
        ("right, in small letters", "034k", true),
        ("wrong", "034J", false),
        ("too short", "34K", false),
        ("the whole serial", "S4EVNX0M802034K", false),
        ("yes", "y", false),
        ("nothing", "", false),
        ("corrected", "034J<Backspace>K", true),
        // Going back forgets what was typed, so that coming back and Enter is not enough.
        ("typed, left, and entered again", "034K<Esc><Enter>", false),
    ] {
        let mut rig = Rig::new(Demo::default());
        rig.hold = true;
        rig.keys("r<Enter><Enter><Enter><Enter>");
        rig.at(Screen::Confirm);
        rig.keys(typed);
        rig.keys("<Enter>");
        assert_eq!(rig.waiting, starts, "{name}");
    }
}

#[test]
fn a_plan_whose_answer_is_empty_cannot_be_confirmed() {
    let mut nameless = demo::disk("", "", "", Transport::Ata, 500 * GIB, &[]);
    nameless.identity.serial = None;
    let mut rig = Rig::new(Demo { disks: vec![Demo::default().disks.remove(0), nameless], ..Demo::default() });
    rig.hold = true;
    rig.keys("r<Enter><Enter><Down><Enter><Enter><Enter>");
    rig.at(Screen::Confirm);
    assert!(!rig.waiting);
}

#[test]
fn a_refused_plan_says_why_and_offers_nothing() {
    let mut rig = Rig::new(Demo { fate: Fate::Refuse, ..Demo::default() });
    rig.hold = true;
    rig.keys("i<Enter>");
    rig.at(Screen::Plan).shows("Nothing was touched").shows("12 GiB free").hides("Go on");
    rig.keys("<Enter>");
    rig.at(Screen::Plan);
    assert!(!rig.waiting);
    rig.keys("<Esc>");
    rig.at(Screen::Stores);
}

#[test]
fn a_job_that_fails_says_what_to_make_of_it() {
    let mut rig = Rig::new(Demo { fate: Fate::Fail, ..Demo::default() });
    rig.keys("r<Enter><Enter><Enter><Enter>034K<Enter>");
    rig.at(Screen::Result).shows("FAILED").shows("Nothing was written").shows("Input/output error");
    let progress = Progress { done: 1, total: 2, stored: 0 };
    rig.event(Event::Progress { phase: Phase::Writing, progress });
    rig.shows("Do not use what is on it");
    rig.keys("<Enter>");
    rig.at(Screen::Home);
}

#[test]
fn disks_that_cannot_be_the_target_are_told_apart() {
    let mut disks = Demo::default().disks;
    disks[1].read_only = true;
    disks.push(demo::disk("/dev/sdc", "Tiny", "T1", Transport::Usb, GIB, &[]));
    let mut used = demo::disk("/dev/sdd", "Used", "U1", Transport::Ata, 600 * GIB, &[part("ext4", "", GIB, None)]);
    used.in_use.push(Use { part: "sdd1".to_owned(), by: "mounted at /".to_owned(), writes: true });
    disks.push(used);
    let mut rig = Rig::new(Demo { disks, ..Demo::default() });
    rig.keys("r<Enter><Enter>");
    rig.shows("[read-only]").shows("[holds the store").shows("[too small]").shows("[in use]");
    for (down, words) in
        [(1, "is read-only"), (2, "holds the store the"), (3, "is too small"), (4, "sdd1 mounted at /")]
    {
        rig.keys(&"<Down>".repeat(down));
        rig.keys("<Enter>");
        rig.at(Screen::Targets).shows("Not this disk").shows(words);
        rig.keys("<Esc>");
        rig.keys(&"<Up>".repeat(down));
    }
}

#[test]
fn a_store_on_the_disk_that_is_imaged_is_not_offered() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("i");
    rig.shows("! it is on the disk that is to be imaged");
    rig.keys("<Up><Up><Enter>");
    assert!(matches!(rig.state.overlay, Some(Overlay::Message(..))));
    rig.at(Screen::Stores);
    assert!(rig.asked().is_empty(), "nothing was mounted: {:?}", rig.asked());
}

#[test]
fn a_folder_without_a_store_is_an_error_and_not_the_end() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("r<End>");
    rig.keys("<Down>/nowhere<Enter>");
    rig.at(Screen::Images).shows("there is no store in /nowhere");
    rig.keys("<Enter><Esc>");
    rig.at(Screen::Stores).shows("/nowhere");
    rig.keys("<Enter>");
    rig.at(Screen::Images);
}

#[test]
fn an_empty_folder_field_asks_for_one() {
    let mut rig = Rig::new(Demo { places: Vec::new(), ..Demo::default() });
    rig.keys("i");
    rig.shows("No file system that could hold a store").shows("► Another folder:");
    rig.keys("<Enter>");
    rig.shows("Type the folder");
}

#[test]
fn a_machine_without_disks_says_so() {
    let mut rig = Rig::new(Demo { disks: Vec::new(), places: Vec::new(), ..Demo::default() });
    rig.shows("No disk found").hides("Image disk");
    rig.keys("i<Enter><Down><Up>");
    rig.at(Screen::Home);
    rig.keys("r");
    rig.at(Screen::Stores);
}

#[test]
fn the_disk_a_plan_is_about_must_be_the_one_that_was_chosen() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("r<Enter><Enter>");
    // Between choosing and planning, another disk takes the name.
    rig.demo.disks[0].identity.serial = Some("SOMETHING-ELSE".to_owned());
    rig.keys("<Enter>");
    rig.at(Screen::Plan).shows("another disk is in its place now").hides("Go on");
}

#[test]
fn a_disk_that_comes_or_goes_keeps_the_mark_where_it_was() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("<Down>");
    rig.shows("► /dev/sda");
    rig.demo.disks.remove(0);
    rig.tell(Msg::DisksChanged);
    rig.shows("► /dev/sda").hides("nvme0n1");
    rig.demo.disks.clear();
    rig.tell(Msg::DisksChanged);
    rig.shows("No disk found");
}

#[test]
fn disks_that_change_during_a_job_wait_until_it_has_ended() {
    let mut rig = Rig::new(Demo::default());
    rig.hold = true;
    rig.keys("i<Enter><Enter>");
    rig.demo.disks.remove(1);
    rig.tell(Msg::DisksChanged);
    assert_eq!(rig.state.disk_count(), 3);
    rig.finish_job();
    rig.keys("<Enter>");
    assert_eq!(rig.state.disk_count(), 2);
}

#[test]
fn answers_that_come_too_late_are_ignored() {
    let mut rig = Rig::new(Demo::default());
    rig.keys("i");
    let late = rig.state.update(Msg::Key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE)));
    rig.keys("<Esc>");
    rig.perform(late);
    rig.at(Screen::Home);
    assert!(rig.state.flow.is_none());
    // Events of a job nobody waits for change nothing either.
    rig.event(Event::Problem { what: "late".to_owned() });
    let report = crate::job::Report {
        job: "capture".to_owned(),
        outcome: Outcome::Complete,
        disk: String::new(),
        image: None,
        disk_bytes: 0,
        allocated_bytes: 0,
        stored_bytes: 0,
        deduplicated_bytes: 0,
        written_bytes: 0,
        unchanged_bytes: 0,
        stages: Vec::new(),
        problems: Vec::new(),
        error: None,
        refused: false,
    };
    rig.tell(Msg::Finished(Box::new(report)));
    rig.at(Screen::Home);
}

#[test]
fn a_list_that_cannot_be_made_says_why() {
    let mut rig = Rig::new(Demo::default());
    rig.tell(Msg::Disks(Err("reading /sys failed".to_owned())));
    rig.shows("reading /sys failed");
    rig.keys("<F5>");
    rig.shows("/dev/nvme0n1");
    rig.keys("i");
    rig.tell(Msg::Places(Err("no file systems".to_owned())));
    rig.shows("no file systems");
}

//! What the pages look like: golden texts of the main ones, glyphs, and every size of terminal.
//!
//! `RESCUE_SCREENS=write cargo test -p rescue --lib tui::` writes the golden texts anew; look at the difference.

use std::{fs, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::{
    block::Transport,
    job::{Phase, Progress},
    tui::{
        demo::{self, Fate, part},
        theme::Theme,
    },
    units::GIB,
};

/// Every page and box, one state each.
fn pages() -> Vec<(&'static str, Rig)> {
    let rig = |demo: Demo, keys: &str| {
        let mut rig = Rig::new(demo);
        rig.hold = true;
        rig.keys(keys);
        rig
    };
    let normal = |keys: &str| rig(Demo::default(), keys);
    let mut running = normal("r<Enter><Enter><Enter><Enter>034K<Enter>");
    running.event(Event::Phase { phase: Phase::Checking });
    running.tick(12);
    running.event(Event::Phase { phase: Phase::Writing });
    for second in 13..60u64 {
        let done = (second - 12) * GIB + (second % 7) * GIB / 8;
        running
            .event(Event::Progress { phase: Phase::Writing, progress: Progress { done, total: 214 * GIB, stored: 0 } });
        running.tick(second);
    }
    running.event(Event::Problem { what: "bytes 0x1f400000+0x1000 were written twice".to_owned() });
    let mut result = normal("i<Enter><Enter>");
    result.finish_job();
    let mut failed = rig(Demo { fate: Fate::Fail, ..Demo::default() }, "r<Enter><Enter><Enter><Enter>034K<Enter>");
    failed.finish_job();
    let mut asked = normal("i<Enter><Enter>");
    asked.keys("c");
    vec![
        ("home", normal("")),
        ("details", normal("<Enter>")),
        ("stores", normal("i")),
        ("images", normal("r<Enter>")),
        ("targets", normal("r<Enter><Enter>")),
        ("plan", normal("i<Enter>")),
        ("restore-plan", normal("r<Enter><Enter><Enter>")),
        ("confirm", normal("r<Enter><Enter><Enter><Enter>abc<Enter>")),
        ("running", running),
        ("result", result),
        ("failed", failed),
        ("cancel", asked),
        ("help", normal("?")),
        ("log", normal("l")),
        ("power", normal("p")),
        ("refused", rig(Demo { fate: Fate::Refuse, ..Demo::default() }, "i<Enter>")),
        ("no-disks", rig(Demo { disks: Vec::new(), ..Demo::default() }, "")),
        ("many", rig(Demo { disks: many(), ..Demo::default() }, "<Down><Down><PageDown><PageDown>")),
        ("many-targets", rig(Demo { disks: many(), ..Demo::default() }, "r<Enter><Enter><End>")),
        ("strange", rig(Demo { disks: strange(), ..Demo::default() }, "")),
        ("strange-details", rig(Demo { disks: strange(), ..Demo::default() }, "<Enter>")),
    ]
}

fn many() -> Vec<crate::job::view::DiskView> {
    let named = |number: u8| {
        let parts = [part("vfat", "EFI", GIB, None), part("ext4", "data", 400 * GIB, Some(90 * GIB))];
        let letter = |number: u8| char::from(b'a' + number);
        let path = format!("/dev/sd{}{}", letter(number / 26), letter(number % 26));
        demo::disk(&path, "ST500DM002", &format!("Z6E{number:05}"), Transport::Scsi, 465 * GIB, &parts)
    };
    (0..30).map(named).collect()
}

/// Names that are long, wide, empty, or try to talk to the terminal.
fn strange() -> Vec<crate::job::view::DiskView> {
    const LONG: &str =
        "a label that goes on and on and on and on and on and on and on and on and on and on and on and on";
    let parts: Vec<_> = (0..128).map(|number| part("ext4", LONG, GIB << (number % 8), Some(u64::MAX))).collect();
    let len = parts.iter().map(|part| part.len).sum::<u64>() + 2 * GIB;
    vec![
        demo::disk(
            "/dev/mapper/with-a-very-long-name-indeed-and-more",
            &"M".repeat(300),
            &"S".repeat(300),
            Transport::Virtual,
            len,
            &parts,
        ),
        demo::disk(
            "/dev/sdb",
            "\u{1b}[2J\u{1b}]0;x\u{7}日本語の長い名前のディスク装置",
            "\u{202e}gnirts\t\n",
            Transport::Usb,
            u64::MAX,
            &[part("日本", "語\u{200b}\u{1b}[31m", GIB, None)],
        ),
        demo::disk("", "", "", Transport::Other, 2 * GIB, &[]),
    ]
}

#[test]
fn pages_look_as_they_did() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/screens");
    let write = std::env::var_os("RESCUE_SCREENS").is_some_and(|value| value == "write");
    let golden = ["home", "stores", "images", "restore-plan", "confirm", "running", "result", "failed", "many"];
    let mut differing = Vec::new();
    for (name, rig) in pages().into_iter().filter(|(name, _)| golden.contains(name)) {
        let path = folder.join(format!("{name}.txt"));
        let text = rig.text();
        if write {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let want = fs::read_to_string(&path).unwrap_or_default();
        if text != want {
            differing.push(format!("{name}: is\n{text}\nwas\n{want}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n\n"));
}

#[test]
fn only_glyphs_of_the_linux_console_are_drawn() {
    const ALLOWED: &str = "─│┌┐└┘┬┴├┤┼═║╔╗╚╝░▒▓█▄▌▲▼◄►←↑→↓";
    for (name, rig) in pages().into_iter().filter(|(name, _)| !name.starts_with("strange")) {
        for (width, height) in [(80, 25), (40, 15), (132, 43)] {
            for cell in draw(&rig.state, width, height).content() {
                for glyph in cell.symbol().chars() {
                    assert!(glyph.is_ascii_graphic() || glyph == ' ' || ALLOWED.contains(glyph), "{glyph:?} in {name}");
                }
            }
        }
    }
}

#[test]
fn nothing_a_disk_says_reaches_the_terminal_as_a_command() {
    for (name, rig) in pages().into_iter().filter(|(name, _)| name.starts_with("strange")) {
        for cell in draw(&rig.state, 200, 60).content() {
            for glyph in cell.symbol().chars() {
                let hidden = matches!(glyph, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
                assert!(!glyph.is_control() && !hidden, "{glyph:?} in {name}");
            }
        }
    }
}

#[test]
fn every_page_of_thirty_disks_is_reached() {
    let mut rig = Rig::new(Demo { disks: many(), ..Demo::default() });
    for number in 0..30 {
        let path = rig.state.disk(number).map(|disk| disk.identity.path.clone()).unwrap();
        rig.shows(&format!("► {path}"));
        rig.keys("<Down>");
    }
    rig.shows("▲").hides("▼");
}

#[test]
fn without_colours_no_cell_has_one_and_the_text_is_the_same() {
    for (name, mut rig) in pages() {
        let colourful = rig.text();
        rig.state.options.theme = Theme::monochrome();
        assert_eq!(rig.text(), colourful, "{name}");
        for cell in draw(&rig.state, 80, 25).content() {
            use ratatui::style::Color::Reset;
            assert_eq!((cell.fg, cell.bg), (Reset, Reset), "{name}");
        }
    }
}

#[test]
fn the_keys_are_named_on_every_page() {
    for (name, rig) in pages() {
        let text = rig.text();
        let keys = text.lines().rev().take(2).collect::<String>();
        assert!(["Enter", "Esc", " C ", "?", " N "].iter().any(|key| keys.contains(key)), "{name}: {text}");
    }
}

#[test]
fn a_small_terminal_is_told_so() {
    let rig = Rig::new(Demo::default());
    for (width, height) in [(79, 25), (80, 23), (60, 20), (20, 5)] {
        let text = text_of(&draw(&rig.state, width, height));
        assert!(text.contains("Too small"), "{width}x{height}:\n{text}");
    }
    assert!(!text_of(&draw(&rig.state, 80, 24)).contains("Too small"));
}

#[test]
fn no_size_of_terminal_is_too_strange() {
    let pages = pages();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(30));
    let sizes = (1u16..=300, 1u16..=100);
    runner
        .run(&sizes, |(width, height)| {
            for (_, rig) in &pages {
                draw(&rig.state, width, height);
            }
            Ok(())
        })
        .unwrap();
    for width in (1..90).step_by(4) {
        for height in [1, 8, 9, 12, 24] {
            for (_, rig) in &pages {
                draw(&rig.state, width, height);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_order_of_keys_breaks_the_screens_or_overwrites(keys in proptest::collection::vec(0usize..16, 1..60)) {
        const KEYS: [&str; 16] = [
            "<Enter>", "<Enter>", "<Esc>", "<Up>", "<Down>", "<Down>", "i", "r", "v", "s", "l", "?", "<F5>", "c", "n",
            "<PageDown>",
        ];
        let mut rig = Rig::new(Demo::default());
        rig.hold = true;
        for key in keys {
            rig.keys(KEYS[key]);
            rig.text();
            // None of these keys types a serial number, so no restore ever starts.
            let restore = rig.state.flow.as_ref().is_some_and(|flow| matches!(flow.job, Some(crate::job::Job::Restore(_))));
            prop_assert!(!(rig.waiting && restore));
        }
    }
}

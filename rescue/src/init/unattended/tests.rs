//! Matching on made-up machines, and what is told to whom.

use proptest::prelude::*;

use super::*;
use crate::{
    block::{Identity, Transport, discovery::DiskClass},
    job::Progress,
    units::{GIB, SectorSize},
};

fn disk(name: &str, serial: &str, wwn: &str) -> DiskInfo {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    DiskInfo {
        name: name.to_owned(),
        identity: Identity {
            path: format!("/dev/{name}"),
            model: None,
            serial: some(serial),
            wwn: some(wwn),
            transport: Transport::Virtio,
            len: GIB,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B512,
        },
        class: DiskClass::Disk,
        rotational: false,
        discard: None,
        removable: false,
        read_only: false,
        in_use: Vec::new(),
    }
}

fn disks() -> Vec<DiskInfo> {
    let mut list = vec![
        disk("vda", "SOURCE", "naa.1"),
        disk("vdb", "TWIN", "naa.2"),
        disk("vdc", "TWIN", "naa.3"),
        disk("vdd", "", ""),
        disk("loop0", "LOOP", ""),
    ];
    list[4].class = DiskClass::Loop;
    list
}

fn guid(info: &DiskInfo) -> Option<String> {
    let guid = match info.name.as_str() {
        "vda" => "aaaaaaaa-0000-0000-0000-000000000001",
        "vdb" | "vdd" => "aaaaaaaa-0000-0000-0000-000000000002",
        _ => return None,
    };
    Some(guid.to_owned())
}

#[test]
fn one_match_or_none_or_a_refusal() {
    for (wanted, want) in [
        ("serial:SOURCE", Ok("/dev/vda")),
        ("wwn:naa.3", Ok("/dev/vdc")),
        ("guid:AAAAAAAA-0000-0000-0000-000000000001", Ok("/dev/vda")),
        ("serial:TWIN", Err("serial:TWIN: 2 disks match: /dev/vdb, /dev/vdc")),
        (
            "guid:aaaaaaaa-0000-0000-0000-000000000002",
            Err("guid:aaaaaaaa-0000-0000-0000-000000000002: 2 disks match: /dev/vdb, /dev/vdd"),
        ),
        ("serial:NONE", Err("serial:NONE: no disk matches")),
        ("serial:source", Err("serial:source: no disk matches")),
        ("serial:", Err("serial:: the name says nothing")),
        ("serial:LOOP", Err("serial:LOOP: no disk matches")),
        ("/dev/vda", Err("/dev/vda does not stay with the disk")),
        ("vda", Err("vda does not stay with the disk")),
    ] {
        let got = match match_disk(&DiskRef::from(wanted.to_owned()), &disks(), &guid) {
            Look::One(info) => Ok(info.identity.path),
            Look::Nothing(reason) | Look::Refused(reason) => Err(reason),
        };
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{wanted}");
    }
}

#[test]
fn a_store_that_may_still_come_is_waited_for_and_an_ambiguous_one_is_not() {
    let store = |device: &str, disk: &str, label: &str| FoundStore {
        device: device.into(),
        disk: disk.to_owned(),
        label: Some(label.to_owned()),
        uuid: None,
        fs: "ext4".to_owned(),
        len: GIB,
        mounted_at: None,
    };
    let all = [store("/dev/sda1", "sda", "A"), store("/dev/sdb1", "sdb", "B"), store("/dev/sdc1", "sdc", "B")];
    assert!(matches!(match_store(&all, Name::Label("A"), &[]), Look::One(_)));
    assert!(matches!(match_store(&all, Name::Label("C"), &[]), Look::Nothing(_)));
    assert!(matches!(match_store(&all, Name::Label("B"), &[]), Look::Refused(_)));
    assert!(matches!(match_store(&all, Name::Label("A"), &["sda"]), Look::Refused(_)));
}

/// Patience with a machine that announces nothing.
fn still(wait: Duration) -> Patience {
    let announced = |limit| {
        std::thread::sleep(limit);
        false
    };
    Patience { until: Instant::now() + wait, quiet: Duration::from_millis(50), announced: Box::new(announced) }
}

#[test]
fn one_match_among_disks_that_come_and_go_for_ever_is_refused() {
    let mut patience = still(Duration::ZERO);
    patience.announced = Box::new(|_| true);
    let restless = patience.wait_for(&Cancel::new(), &mut || Ok(Look::One(1)));
    assert!(matches!(restless, Err(Error::Refused(reason)) if reason == RESTLESS));

    let mut left = 5;
    patience.announced = Box::new(move |limit| {
        std::thread::sleep(limit);
        left -= 1;
        left > 0
    });
    assert!(patience.wait_for(&Cancel::new(), &mut || Ok(Look::One(1))).is_ok(), "it became quiet after a while");

    patience.announced = Box::new(|_| true);
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = patience.wait_for(&cancel, &mut || Ok(Look::One(1)));
    assert!(matches!(stopped, Err(Error::Failed(reason)) if reason == "stopped from outside"));
}

#[test]
fn waiting_ends_with_the_first_lasting_match_or_with_the_time() {
    let cancel = Cancel::new();
    let mut looks = 0;
    let mut patience = still(Duration::from_secs(30));
    let found = patience.wait_for(&cancel, &mut || {
        looks += 1;
        Ok(if looks < 3 { Look::Nothing("not yet".to_owned()) } else { Look::One(looks) })
    });
    assert!(found.is_ok_and(|looks| looks >= 4), "looked at again once it was quiet");

    let mut late = still(Duration::ZERO);
    let never = late.wait_for(&cancel, &mut || Ok(Look::<u8>::Nothing("no disk matches x".to_owned())));
    assert!(matches!(never, Err(Error::Refused(reason)) if reason == "no disk matches x"));

    let mut looks = 0;
    let doubled = late.wait_for(&cancel, &mut || {
        looks += 1;
        Ok(if looks == 1 { Look::One(1) } else { Look::Refused("2 disks match".to_owned()) })
    });
    assert!(matches!(doubled, Err(Error::Refused(_))), "a second one appeared while it became quiet");
}

#[test]
fn the_result_line_is_the_report_with_its_exit_code() {
    let parsed = cmdline::parse(
        "rescue.job=restore rescue.disk=serial:X rescue.store=label:B rescue.image=latest rescue.then=poweroff",
    );
    let refused = result_line(&not_run(&parsed, &Error::Refused("2 disks match".to_owned())));
    for (field, want) in [
        ("event", json!("result")),
        ("job", json!("restore")),
        ("outcome", json!("FAILED")),
        ("disk", json!("serial:X")),
        ("image", json!("latest")),
        ("error", json!("2 disks match")),
        ("refused", json!(true)),
        ("exit", json!(3)),
    ] {
        assert_eq!(refused[field], want, "{field}");
    }
    assert_eq!(result_line(&not_run(&parsed, &Error::Failed("x".to_owned())))["exit"], json!(1));
}

#[test]
fn the_end_follows_the_outcome() {
    for (line, complete, otherwise) in [
        ("rescue.then=poweroff", exit::POWER_OFF, exit::STAY),
        ("rescue.then=poweroff rescue.failed=stay", exit::POWER_OFF, exit::STAY),
        ("rescue.then=reboot rescue.failed=poweroff", exit::REBOOT, exit::POWER_OFF),
        ("", exit::STAY, exit::STAY),
    ] {
        let parsed = cmdline::parse(line);
        assert_eq!(end_code(&parsed, Outcome::Complete), complete, "{line}");
        assert_eq!(end_code(&parsed, Outcome::Failed), otherwise, "{line}");
        assert_eq!(end_code(&parsed, Outcome::Partial), otherwise, "{line}");
    }
}

#[test]
fn a_misspelt_request_is_refused_with_every_reason() {
    let parsed = cmdline::parse("rescue.job=capture rescue.disk=/dev/sda rescue.stroe=label:B");
    let watch = Watch::new(None);
    match run(&parsed, &watch, &Cancel::new()) {
        Err(Error::Refused(reason)) => {
            for part in ["rescue.stroe is not known", "rescue.disk=/dev/sda", "rescue.store is missing"] {
                assert!(reason.contains(part), "{reason}");
            }
        }
        _ => panic!("it ran"),
    }
}

#[test]
fn the_folder_stays_in_its_file_system() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("/tmp", root.join("out")).unwrap();
    assert!(folder_in(&root, Path::new("a/b"), true).is_ok_and(|path| path == root.join("a/b")));
    assert!(folder_in(&root, Path::new(""), false).is_ok_and(|path| path == root));
    assert!(matches!(folder_in(&root, Path::new("missing"), false), Err(Error::Failed(_))));
    assert!(matches!(folder_in(&root, Path::new("out"), false), Err(Error::Refused(_))));
}

#[test]
fn a_folder_of_a_capture_lies_on_a_mounted_disk() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("disk")).unwrap();
    std::os::unix::fs::symlink(&root, root.join("disk/out")).unwrap();
    let text = format!(
        "1 1 0:2 / / rw - rootfs rootfs rw\n2 1 0:3 / {root} rw - tmpfs tmpfs rw\n\
         3 2 8:1 / {root}/disk rw - ext4 /dev/sda1 rw\n",
        root = root.display()
    );
    let all = crate::sys::mount::parse_mountinfo(text.as_bytes());
    for (folder, on) in [
        (root.join("disk"), None),
        (root.join("disk/not/yet"), None),
        (root.join("disk/out/a"), Some("tmpfs")),
        (root.join("a"), Some("tmpfs")),
        (PathBuf::from("/nowhere/store"), Some("rootfs")),
    ] {
        let got = must_be_on_disk(&folder, &all).map_err(|error| error.to_string());
        let shown = folder.display();
        let want = on.map(|fs| {
            format!("rescue.store={shown} is on no mounted disk but on {fs}: name the store by label: or uuid:")
        });
        assert_eq!(got.err(), want, "{shown}");
    }
    assert!(must_be_on_disk(&root, &[]).is_err(), "nothing is known");
}

#[test]
fn a_console_that_takes_nothing_does_not_stop_the_job() {
    let (_unread, write) = std::os::unix::net::UnixStream::pair().unwrap();
    let console = Lines::start(std::os::fd::OwnedFd::from(write).into()).unwrap();
    let watch = Watch { port: None, console: Some(console), shown: Mutex::new(None) };
    let start = Instant::now();
    let what = "x".repeat(10_000);
    for _ in 0..1000 {
        watch.event(Event::Problem { what: what.clone() });
        watch.event(Event::Phase { phase: Phase::Writing });
    }
    assert!(start.elapsed() < CONSOLE_PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn progress_reaches_people_now_and_then() {
    let watch = Watch::new(None);
    assert!(watch.is_due(Phase::Writing));
    assert!(!watch.is_due(Phase::Writing));
    assert!(watch.is_due(Phase::ReadingBack));
    watch.event(Event::Progress { phase: Phase::ReadingBack, progress: Progress::default() });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn one_match_is_the_only_disk_with_that_serial(serials in proptest::collection::vec("[ab]{0,2}", 0..6), wanted in "[ab]{0,2}") {
        let list: Vec<_> = serials.iter().enumerate().map(|(n, serial)| disk(&format!("vd{n}"), serial, "")).collect();
        let same = serials.iter().filter(|serial| !serial.is_empty() && **serial == wanted).count();
        match match_disk(&DiskRef::Serial(wanted.clone()), &list, &|_| None) {
            Look::One(info) => {
                prop_assert_eq!(same, 1);
                prop_assert_eq!(info.identity.serial, Some(wanted));
            }
            Look::Nothing(_) => prop_assert_eq!(same, 0),
            Look::Refused(_) => prop_assert!(same > 1),
        }
    }
}

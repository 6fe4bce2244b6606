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
        ("serial:TWIN", Err("2 disks match serial:TWIN: /dev/vdb, /dev/vdc")),
        (
            "guid:aaaaaaaa-0000-0000-0000-000000000002",
            Err("2 disks match guid:aaaaaaaa-0000-0000-0000-000000000002: /dev/vdb, /dev/vdd"),
        ),
        ("serial:NONE", Err("no disk matches serial:NONE")),
        ("serial:source", Err("no disk matches serial:source")),
        ("serial:", Err("no disk matches serial:")),
        ("serial:LOOP", Err("no disk matches serial:LOOP")),
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

#[test]
fn waiting_ends_with_the_first_lasting_match_or_with_the_time() {
    let cancel = Cancel::new();
    let mut looks = 0;
    let mut patience = Patience { until: Instant::now() + Duration::from_secs(30), listener: None };
    let found = patience.wait_for(&cancel, &mut || {
        looks += 1;
        Ok(if looks < 3 { Look::Nothing("not yet".to_owned()) } else { Look::One(looks) })
    });
    assert!(found.is_ok_and(|looks| looks >= 4), "looked at again once it was quiet");

    let mut late = Patience { until: Instant::now(), listener: None };
    let never = late.wait_for(&cancel, &mut || Ok(Look::<u8>::Nothing("no disk matches x".to_owned())));
    assert!(matches!(never, Err(Stop::Refused(reason)) if reason == "no disk matches x"));

    let mut looks = 0;
    let doubled = late.wait_for(&cancel, &mut || {
        looks += 1;
        Ok(if looks == 1 { Look::One(1) } else { Look::Refused("2 disks match".to_owned()) })
    });
    assert!(matches!(doubled, Err(Stop::Refused(_))), "a second one appeared while it became quiet");
}

#[test]
fn the_result_line_is_the_report_with_its_exit_code() {
    let parsed = cmdline::parse(
        "rescue.job=restore rescue.disk=serial:X rescue.store=label:B rescue.image=latest rescue.then=poweroff",
    );
    let refused = result_line(&not_run(&parsed, "2 disks match", true));
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
    assert_eq!(result_line(&not_run(&parsed, "x", false))["exit"], json!(1));
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
        Err(Stop::Refused(reason)) => {
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
    assert!(matches!(folder_in(&root, Path::new("missing"), false), Err(Stop::Failed(_))));
    assert!(matches!(folder_in(&root, Path::new("out"), false), Err(Stop::Refused(_))));
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

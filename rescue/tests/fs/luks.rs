//! LUKS: headers made by `cryptsetup`, named as `blkid` does, and never a byte left out.

use std::fs;

use rescue::fs::State;

use crate::tools::{Bench, Noise, run, survey_bytes};

const MIB: u64 = 1 << 20;

/// Formats a volume of `mib` MiB and returns its path.
pub fn format(bench: &Bench, mib: u64, options: &str) -> String {
    let (image, key) = (bench.blank("image", mib * MIB), bench.path("key"));
    fs::write(&image, Noise(mib).take(usize::try_from(mib * MIB).unwrap())).unwrap();
    fs::write(&key, "secret").unwrap();
    let mut args = vec!["luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    args.extend(options.split_whitespace());
    args.extend([image.as_str(), key.as_str()]);
    run("cryptsetup", &args);
    image
}

#[test]
fn encrypted_volumes_are_named_and_kept_whole() {
    for (mib, options, version, notes) in [
        (4, "--type luks1", "1", &[][..]),
        (20, "--type luks2", "2", &[]),
        (20, "--type luks2 --label disk --subsystem cellar", "2", &["its header names the subsystem cellar"]),
        (20, "--type luks2 --luks2-metadata-size 64k --luks2-keyslots-size 8m", "2", &[]),
        (24, "--type luks2 --luks2-metadata-size 4m --luks2-keyslots-size 8m", "2", &[]),
    ] {
        let bench = Bench::new();
        let image = format(&bench, mib, options);
        let mut bytes = fs::read(&image).unwrap();
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), mib * MIB, "{options}");
        assert_eq!(survey.notes, notes, "{options}");
        let why = format!("kept whole: it is encrypted (LUKS{version}), so what is free in it cannot be known");
        assert_eq!(survey.widened, [why]);
        let found = survey.detected.unwrap();
        let blkid = |key: &str| run("blkid", &["-p", "-o", "value", "-s", key, &image]).trim().to_owned();
        let ours = [Some(found.name.clone()), found.uuid.clone(), found.label.clone(), found.version.clone()];
        assert_eq!(ours.map(Option::unwrap_or_default), ["TYPE", "UUID", "LABEL", "VERSION"].map(blkid), "{options}");
        // LUKS2 is known by its second header as well.
        bytes[..4096].fill(0);
        let survey = survey_bytes(&bytes);
        assert_eq!(survey.allocated.total(), mib * MIB, "{options}");
        if version == "2" {
            let again = survey.detected.unwrap();
            assert_eq!((&again.name, &again.uuid, again.state), (&found.name, &found.uuid, State::Damaged));
            assert!(survey.notes.iter().any(|note| note.contains("its first header is broken")), "{:?}", survey.notes);
        }
    }
}

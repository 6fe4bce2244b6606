//! What plans say of a region's files and free bytes.

use crate::{
    escape::Escaped,
    fs::{LeftOut, Survey},
    units::Bytes,
};

/// Says what a capture reads of a region of `len` bytes, and what it leaves out.
pub fn reading(len: u64, survey: &Survey) -> String {
    let bytes = survey.allocated.total();
    let zeros = match survey.zeros.total() {
        0 => String::new(),
        zeros => format!("; {} of it count as zero without being read", Bytes(zeros)),
    };
    if bytes == len {
        return format!("read all of it{zeros}");
    }
    let files = survey.left_out.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    // What lies in a file is not free: it would not agree with the figures of the system that owns it.
    let free = len.saturating_sub(bytes).saturating_sub(files);
    let files = match survey.left_out.as_slice() {
        [] => String::new(),
        [one] => format!(" and {}, {}", Escaped(&one.path), Bytes(files)),
        many => format!(" and {} in {} files", Bytes(files), many.len()),
    };
    format!("read {} in use, leave out {} free{files}{zeros}", Bytes(bytes), Bytes(free))
}

/// Lists what a person should know of a region before it is captured, one sentence each.
pub fn remarks(survey: &Survey) -> impl Iterator<Item = String> + '_ {
    let files = survey.left_out.iter().map(|file| {
        format!("leave out {}, {}: no system reads what is in it again", Escaped(&file.path), Bytes(file.bytes))
    });
    survey.notes.iter().chain(&survey.widened).cloned().chain(files)
}

/// Says that an image does not hold what was in `file`.
pub fn not_in_image(file: &LeftOut) -> String {
    format!("what was in {}, {}, is not in the image", Escaped(&file.path), Bytes(file.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        extent::{Extent, ExtentSet},
        units::{GIB, MIB},
    };

    fn survey(files: &[(&str, u64)]) -> Survey {
        let kept = ExtentSet::from_unsorted(vec![Extent::new(0, 2 * GIB)]);
        let left_out = files.iter().map(|(path, bytes)| LeftOut { path: (*path).to_owned(), bytes: *bytes });
        Survey { left_out: left_out.collect(), ..Survey::new(None, kept) }
    }

    #[test]
    fn a_file_that_is_left_out_is_named_with_its_bytes_and_is_not_free() {
        for (files, want) in [
            (vec![], "read 2.00 GiB in use, leave out 8.00 GiB free"),
            (
                vec![("pagefile.sys", 4 * GIB)],
                "read 2.00 GiB in use, leave out 4.00 GiB free and pagefile.sys, 4.00 GiB",
            ),
            (
                vec![("pagefile.sys", 4 * GIB), ("swap\u{1b}file.sys", 256 * MIB)],
                "read 2.00 GiB in use, leave out 3.75 GiB free and 4.25 GiB in 2 files",
            ),
            (
                vec![("more than fits", u64::MAX)],
                "read 2.00 GiB in use, leave out 0 B free and more than fits, 16.0 EiB",
            ),
        ] {
            assert_eq!(reading(10 * GIB, &survey(&files)), want);
        }
        assert_eq!(reading(2 * GIB, &survey(&[("a", 1)])), "read all of it");
    }

    #[test]
    fn remarks_are_notes_then_reasons_then_files() {
        let mut survey = survey(&[("swap\u{1b}file", MIB)]);
        survey.notes.push("dirty".to_owned());
        survey.widened.push("bitmap of group 3 is damaged".to_owned());
        let want = [
            "dirty",
            "bitmap of group 3 is damaged",
            "leave out swap\\u{1b}file, 1.00 MiB: no system reads what is in it again",
        ];
        assert_eq!(remarks(&survey).collect::<Vec<_>>(), want);
        assert_eq!(not_in_image(&survey.left_out[0]), "what was in swap\\u{1b}file, 1.00 MiB, is not in the image");
    }
}

//! Tables for people.

use std::{fmt::Write as _, time::Duration};

use super::progress;
use crate::{
    block::Identity,
    escape::Escaped,
    fs::{Detected, State},
    job::{
        Report,
        analysis::region_name,
        report::Stage,
        view::{DiskView, PlanView, RegionView, StoreView},
    },
    store::manifest::ImageState,
    table::TableKind,
    units::Bytes,
};

/// Writes the list of disks, each with its regions.
#[must_use]
pub fn disks(disks: &[DiskView]) -> String {
    let mut out = String::new();
    if disks.is_empty() {
        return "No disks. A file can stand in for one: rescue show disk.raw\n".to_owned();
    }
    for disk in disks {
        out.push_str(&heading(disk));
        for region in disk.regions.iter().filter(|region| region.partition.is_some() || region.detected.is_some()) {
            let _ = writeln!(out, "    {:<44} {:>10}", what(region), Bytes(region.range.len()).to_string());
        }
    }
    out
}

/// Writes one disk with all its regions.
#[must_use]
pub fn disk(disk: &DiskView) -> String {
    let mut out = heading(disk);
    let _ = writeln!(
        out,
        "    sectors of {} bytes ({} physical){}",
        disk.identity.sector_size,
        disk.identity.physical_sector_size,
        disk.disk_id.as_deref().map(|id| format!(", disk id {}", Escaped(id))).unwrap_or_default()
    );
    let heads = ["region", "starts at", "size", "used", "free", "kept"].map(str::to_owned);
    let _ = writeln!(out, "\n{}", row(&heads));
    for region in &disk.regions {
        region_facts(&mut out, region);
    }
    out
}

/// Lays out a line of the table of regions.
fn row(cells: &[String; 6]) -> String {
    let [region, start, size, used, free, kept] = cells;
    format!("    {region:<36} {start:>16} {size:>10} {used:>10} {free:>10} {kept:>10}")
}

/// Writes a region: its line, and below it all that is known of what it holds.
fn region_facts(out: &mut String, region: &RegionView) {
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string());
    let cells = [
        what(region),
        region.range.start.to_string(),
        Bytes(region.range.len()).to_string(),
        shown(region.usage.map(|usage| usage.used)),
        shown(region.usage.map(|usage| usage.free)),
        shown(region.used),
    ];
    let _ = writeln!(out, "{}", row(&cells));
    if let Some(detected) = &region.detected {
        let _ = writeln!(out, "      {}", facts(detected));
    }
    for volume in &region.inside {
        let holds = volume.detected.as_ref().map_or_else(|| "nothing known".to_owned(), named);
        let _ = writeln!(
            out,
            "      inside: {}, {holds}, {}, {} kept",
            Escaped(&volume.name),
            Bytes(volume.bytes),
            Bytes(volume.kept)
        );
        if let Some(detected) = &volume.detected {
            let _ = writeln!(out, "        {}", facts(detected));
        }
    }
    for file in &region.left_out {
        let _ = writeln!(out, "      left out: {}, {}", Escaped(&file.path), Bytes(file.bytes));
    }
    for text in &region.widened {
        let _ = writeln!(out, "      widened: {}", Escaped(text));
    }
    for text in &region.notes {
        let _ = writeln!(out, "      note: {}", Escaped(text));
    }
}

/// Names a file system with its label.
fn named(detected: &Detected) -> String {
    match detected.label.as_deref() {
        Some(label) if !label.is_empty() => format!("{} \"{}\"", Escaped(&detected.name), Escaped(label)),
        _ => Escaped(&detected.name).to_string(),
    }
}

/// Says of a file system what its name and label do not.
fn facts(detected: &Detected) -> String {
    let state = match detected.state {
        State::Clean => "clean",
        State::Dirty => "dirty",
        State::Damaged => "damaged",
        State::Hibernated => "hibernated",
        State::Unknown => "state unknown",
    };
    let mut facts = vec![state.to_owned()];
    facts.extend(detected.version.as_deref().map(|version| format!("version {}", Escaped(version))));
    facts.extend(detected.uuid.as_deref().map(|uuid| format!("UUID {}", Escaped(uuid))));
    facts.extend(detected.block_size.map(|size| format!("blocks of {size} bytes")));
    facts.join(", ")
}

fn heading(disk: &DiskView) -> String {
    let mut out = format!("{}\n", identity(&disk.identity));
    let table = match disk.table {
        Some(TableKind::Gpt) => "GPT",
        Some(TableKind::HybridGpt) => "GPT with hybrid MBR",
        Some(TableKind::Mbr) => "MBR",
        Some(TableKind::None) => "no partition table",
        None => "no readable partition table",
    };
    let mut facts = vec![table.to_owned(), disk.identity.transport.to_string()];
    for (holds, word) in [(disk.rotational, "rotational"), (disk.removable, "removable"), (disk.read_only, "read-only")]
    {
        facts.extend(holds.then(|| word.to_owned()));
    }
    let _ = writeln!(out, "    {}", facts.join(", "));
    for used in &disk.in_use {
        let _ = writeln!(out, "    in use: {} {}", Escaped(&used.part), Escaped(&used.by));
    }
    for problem in &disk.problems {
        let _ = writeln!(out, "    problem: {problem}");
    }
    if let Some(error) = &disk.error {
        let _ = writeln!(out, "    error: {error}");
    }
    out
}

/// Names a disk: path, size, model, serial.
#[must_use]
pub fn identity(disk: &Identity) -> String {
    let mut out = format!("{}  {}", Escaped(&disk.path), Bytes(disk.len));
    for (label, text) in [("", &disk.model), ("serial ", &disk.serial), ("wwn ", &disk.wwn)] {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            let _ = write!(out, "  {label}{}", Escaped(text));
        }
    }
    out
}

fn what(region: &RegionView) -> String {
    let name = region_name(region.kind, region.detected.as_ref());
    match &region.partition {
        Some(partition) if region.detected.is_none() => {
            let kind = partition.type_name.as_deref().unwrap_or(&partition.type_id);
            format!("{name} ({})", Escaped(kind))
        }
        _ => name,
    }
}

/// Shows a time of the form `2026-11-23T15:46:25.123456Z` without its fraction.
fn seconds(time: &str) -> String {
    let whole = time.split('.').next().unwrap_or(time);
    Escaped(whole.trim_end_matches('Z')).to_string().replace('T', " ")
}

/// Writes the list of images.
#[must_use]
pub fn images(store: &StoreView) -> String {
    let mut out = String::new();
    if store.images.is_empty() {
        out.push_str("No images.\n");
    } else {
        let _ = writeln!(
            out,
            "{:<10} {:<20} {:<18} {:<24} {:>9} {:>9} {:>9}  label",
            "id", "created", "machine", "disk", "size", "in use", "stored"
        );
    }
    for image in &store.images {
        let partial = if image.state == ImageState::Partial { "  PARTIAL" } else { "" };
        let _ = writeln!(
            out,
            "{:<10} {:<20} {:<18} {:<24} {:>9} {:>9} {:>9}  {}{partial}",
            image.id.chars().take(8).collect::<String>(),
            seconds(&image.created),
            Escaped(image.machine.as_deref().unwrap_or("-")).to_string(),
            Escaped(&image.disk).to_string(),
            Bytes(image.bytes).to_string(),
            Bytes(image.allocated).to_string(),
            Bytes(image.stored).to_string(),
            Escaped(&image.label)
        );
    }
    for problem in &store.problems {
        let _ = writeln!(out, "problem: {problem}");
    }
    out
}

/// Writes a plan.
#[must_use]
pub fn plan(plan: &PlanView) -> String {
    let mut out = format!("{}\n", plan.title);
    if let Some(disk) = &plan.disk {
        let _ = writeln!(out, "    {}", identity(disk));
    }
    for step in &plan.steps {
        let _ = writeln!(
            out,
            "    {:<36} {:>16} {:>10}  {}",
            step.region,
            step.range.start,
            Bytes(step.range.len()).to_string(),
            step.what
        );
    }
    if plan.bytes > 0 {
        let _ = writeln!(out, "    {} in all", Bytes(plan.bytes));
    }
    for warning in &plan.warnings {
        let _ = writeln!(out, "note: {}", Escaped(warning));
    }
    out
}

/// Writes how a job ended.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for stage in report.stages.iter().filter(|stage| stage.bytes > 0) {
        let elapsed = Duration::from_millis(stage.millis);
        let _ = writeln!(
            out,
            "    {:<22} {:>10} {:>8}.{:03} s {:>10}/s",
            stage.phase.name(),
            Bytes(stage.bytes).to_string(),
            stage.millis / 1000,
            stage.millis % 1000,
            Bytes(progress::rate(stage.bytes, elapsed)).to_string()
        );
        out.push_str(&work(stage));
    }
    let _ = match (&report.error, report.refused) {
        (Some(error), true) => writeln!(out, "REFUSED: {error}"),
        (Some(error), false) => writeln!(out, "{}: {error}", report.outcome),
        (None, _) => writeln!(out, "{}: {}", report.outcome, summary(report)),
    };
    out
}

/// Says what the threads of a phase did, how fast each kind of work was by itself, and which of them the phase waited for.
fn work(stage: &Stage) -> String {
    let parts = stage.work.iter().map(|work| {
        let alone = Duration::from_millis(work.millis.checked_div(work.threads).unwrap_or(0));
        let speed = Bytes(progress::rate(work.bytes, alone));
        format!("{} {} % at {speed}/s", work.effort.name(), stage.share(work))
    });
    let parts = parts.collect::<Vec<_>>().join(", ");
    match stage.bottleneck() {
        _ if parts.is_empty() => String::new(),
        Some(effort) => format!("        busy: {parts}; it waited for {}\n", effort.name()),
        None => format!("        busy: {parts}\n"),
    }
}

fn summary(report: &Report) -> String {
    let image = report.image.as_deref().unwrap_or("-");
    match report.job.as_str() {
        "capture" => format!(
            "image {image} of {} ({}): {} in use, {} new in the store, {} were there already",
            Escaped(&report.disk),
            Bytes(report.disk_bytes),
            Bytes(report.allocated_bytes),
            Bytes(report.stored_bytes),
            Bytes(report.deduplicated_bytes)
        ),
        "restore" => format!(
            "image {image} is on {}: {} in use, {} written and read back, {} were there already",
            Escaped(&report.disk),
            Bytes(report.allocated_bytes),
            Bytes(report.written_bytes),
            Bytes(report.unchanged_bytes)
        ),
        "export" => format!(
            "image {image} is in {}, {} bytes, {} of them in use",
            Escaped(&report.disk),
            report.disk_bytes,
            Bytes(report.allocated_bytes)
        ),
        _ => "everything that was read is as it was written".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        extent::Extent,
        fs::{Inside, LeftOut, Usage},
        table::RegionKind,
        units::{GIB, MIB},
    };

    fn detected(name: &str, label: &str) -> Detected {
        Detected {
            name: name.to_owned(),
            version: Some("3.1".to_owned()),
            label: Some(label.to_owned()),
            uuid: Some("AB-1".to_owned()),
            block_size: Some(4096),
            state: State::Hibernated,
        }
    }

    #[test]
    fn all_that_is_known_of_a_region_is_shown_and_names_from_it_are_escaped() {
        let region = RegionView {
            kind: RegionKind::Partition(2),
            range: Extent::new(MIB, MIB + 10 * GIB),
            partition: None,
            detected: Some(detected("ntfs", "C\u{1b}")),
            used: Some(3 * GIB),
            usage: Some(Usage { used: 7 * GIB, free: 3 * GIB }),
            left_out: vec![LeftOut { path: "page\u{202e}file.sys".to_owned(), bytes: 4 * GIB }],
            inside: vec![
                Inside { name: "vg/ro\not".to_owned(), bytes: GIB, detected: Some(detected("ext4", "r")), kept: MIB },
                Inside { name: "vg/x".to_owned(), bytes: GIB, detected: None, kept: GIB },
            ],
            widened: vec!["the log is not clean".to_owned()],
            notes: vec!["hibernated".to_owned()],
        };
        let mut out = String::new();
        region_facts(&mut out, &region);
        let want = [
            "    partition 2 (ntfs \"C\\u{1b}\")                  1048576   10.0 GiB   7.00 GiB   3.00 GiB   3.00 GiB",
            "      hibernated, version 3.1, UUID AB-1, blocks of 4096 bytes",
            "      inside: vg/ro\\u{a}ot, ext4 \"r\", 1.00 GiB, 1.00 MiB kept",
            "        hibernated, version 3.1, UUID AB-1, blocks of 4096 bytes",
            "      inside: vg/x, nothing known, 1.00 GiB, 1.00 GiB kept",
            "      left out: page\\u{202e}file.sys, 4.00 GiB",
            "      widened: the log is not clean",
            "      note: hibernated",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), want);
        out.clear();
        region_facts(&mut out, &RegionView { usage: None, ..region });
        assert!(out.contains("   10.0 GiB          -          -   3.00 GiB\n"), "{out}");
    }
}

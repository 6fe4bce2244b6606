//! Tables for people.

use std::{fmt::Write as _, time::Duration};

use super::progress;
use crate::{
    block::Identity,
    escape::Escaped,
    job::{
        Report,
        analysis::region_name,
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
    let _ = writeln!(out, "\n    {:<40} {:>16} {:>10} {:>10} {:>10}", "region", "starts at", "size", "kept", "free");
    for region in &disk.regions {
        let len = region.range.len();
        let used = region.used.map(|used| (Bytes(used).to_string(), Bytes(len.saturating_sub(used)).to_string()));
        let (used, free) = used.unwrap_or_default();
        let _ = writeln!(
            out,
            "    {:<40} {:>16} {:>10} {used:>10} {free:>10}",
            what(region),
            region.range.start,
            Bytes(len).to_string()
        );
        if let Some(detected) = &region.detected {
            let mut facts = vec![format!("{:?}", detected.state).to_lowercase()];
            facts.extend(detected.version.as_deref().map(|version| Escaped(version).to_string()));
            facts.extend(detected.uuid.as_deref().map(|uuid| format!("UUID {}", Escaped(uuid))));
            facts.extend(detected.block_size.map(|size| format!("blocks of {size} bytes")));
            let _ = writeln!(out, "      {}", facts.join(", "));
        }
        for text in region.widened.iter().chain(&region.notes) {
            let _ = writeln!(out, "      {text}");
        }
    }
    out
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
        let _ = writeln!(out, "note: {warning}");
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
    }
    let _ = match (&report.error, report.refused) {
        (Some(error), true) => writeln!(out, "REFUSED: {error}"),
        (Some(error), false) => writeln!(out, "{}: {error}", report.outcome),
        (None, _) => writeln!(out, "{}: {}", report.outcome, summary(report)),
    };
    out
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
            "image {image} is on {}, {} written and read back",
            Escaped(&report.disk),
            Bytes(report.allocated_bytes)
        ),
        _ => "everything that was read is as it was written".to_owned(),
    }
}

//! What a disk holds: its table, its regions, and which bytes of each must be kept.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Cancel, error::Error, failure::panic_text};
use crate::{
    block::{Disk, ReadAt, Window},
    escape::Escaped,
    extent::ExtentSet,
    fs::{self, Options, Survey},
    table::{self, Layout, Partition, Problem, Region, RegionKind, TableKind},
};

/// A disk, looked at.
#[derive(Debug)]
pub struct Analysis {
    /// Its table.
    pub layout: Layout,
    /// Its regions, tiling the disk, in order.
    pub regions: Vec<RegionAnalysis>,
    /// Why the table could not be used: the whole disk is then one region, kept whole.
    pub table_error: Option<String>,
}

/// One region, looked at.
#[derive(Debug)]
pub struct RegionAnalysis {
    /// What it is and where.
    pub region: Region,
    /// Its entry in the table.
    pub partition: Option<Partition>,
    /// What it holds and which of its bytes must be kept, in whole sectors.
    pub survey: Survey,
}

impl Analysis {
    /// Returns how many bytes of the disk are kept as zeros without being read.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.regions.iter().map(|region| region.survey.zeros.total()).sum()
    }

    /// Returns how many bytes of the disk must be kept.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.regions.iter().map(|region| region.survey.allocated.total()).sum()
    }
}

/// Reads the table of `disk` and the allocation map of every region.
///
/// # Errors
/// [`Error::Failed`] when the disk cannot be read at all. A table or file system that makes no sense is no error: what
/// it covers is kept whole.
pub fn analyse(disk: &dyn Disk, options: &Options, cancel: &Cancel) -> Result<Analysis, Error> {
    let (layout, table_error) = read_layout(disk)?;
    let partitions = layout.partitions.iter().map(|partition| partition.range).collect::<Vec<_>>();
    // The table of an array's disk may describe partitions that only the whole array has.
    let member = if partitions.is_empty() { None } else { fs::disk::member(disk, &partitions) };
    let mut regions = Vec::new();
    for region in layout.regions() {
        if cancel.is_cancelled() {
            return Err(Error::Failed("cancelled while the disk was looked at; nothing was written".to_owned()));
        }
        regions.push(analyse_region(disk, &layout, region, (table_error.as_deref(), member.as_deref()), options));
    }
    let analysis = Analysis { regions, layout, table_error };
    check_tiling(&analysis, disk.len())?;
    Ok(analysis)
}

/// Reads the table of `disk`; one that makes no sense comes back as a layout without partitions, and the reason.
///
/// # Errors
/// [`Error::Failed`] when the disk cannot be read.
pub fn read_layout(disk: &dyn Disk) -> Result<(Layout, Option<String>), Error> {
    match table::read(disk, disk.sector_size()) {
        Ok(layout) => Ok((layout, None)),
        Err(table::Error::Disk(error)) => Err(Error::failed("reading the partition table", &error)),
        Err(table::Error::Corrupt { offset, what }) => {
            let problems = vec![Problem { offset, what: what.clone() }];
            let layout = Layout {
                kind: TableKind::None,
                sector_size: disk.sector_size(),
                disk_len: disk.len(),
                disk_id: None,
                partitions: Vec::new(),
                pieces: Vec::new(),
                problems,
            };
            Ok((layout, Some(format!("the partition table is damaged at byte {offset:#x}: {what}"))))
        }
        Err(error @ table::Error::Refused(_)) => Err(Error::Refused(error.to_string())),
    }
}

fn analyse_region(
    disk: &dyn Disk,
    layout: &Layout,
    region: Region,
    (table_error, member): (Option<&str>, Option<&str>),
    options: &Options,
) -> RegionAnalysis {
    let window = Window::new(disk, region.range);
    let len = region.range.len();
    let keep_all = Survey::new(None, ExtentSet::full(len));
    let (partition, mut survey) = match region.kind {
        RegionKind::Head | RegionKind::Gap | RegionKind::Tail => (None, keep_all),
        RegionKind::Whole => match table_error {
            Some(reason) => (None, Survey::whole(len, None, format_args!("kept whole: {reason}"))),
            None => (None, survey(&window, options)),
        },
        RegionKind::Partition(number) => {
            let partition = layout.partitions.iter().find(|p| p.number == number).cloned();
            let survey = match (partition.as_ref().and_then(volume_manager), member) {
                (Some(owner), _) => Survey::whole(len, None, format_args!("kept whole: it belongs to {owner}")),
                (None, Some(member)) => Survey::whole(len, None, format_args!("kept whole: {member}")),
                (None, None) => survey(&window, options),
            };
            (partition, survey)
        }
    };
    // Disks are read and written in whole sectors.
    survey.allocated = survey.allocated.round_out(layout.sector_size.bytes(), len);
    survey.zeros = survey.zeros.intersect(&survey.allocated).round_in(layout.sector_size.bytes());
    RegionAnalysis { region, partition, survey }
}

/// Partition types whose contents a volume manager lays out: an old file system's superblock may still lie in them.
const VOLUME_MANAGERS: [(&str, &str); 4] = [
    ("0x42", "a Windows dynamic disk"),
    ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "a Windows dynamic disk"),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "a Windows dynamic disk"),
    ("e75caf8f-f680-4cee-afa3-b001e56efc2d", "Windows storage spaces"),
];

fn volume_manager(partition: &Partition) -> Option<&'static str> {
    VOLUME_MANAGERS.iter().find(|(id, _)| *id == partition.type_id).map(|(_, owner)| *owner)
}

/// Surveys a region; a reader that panics on what it holds counts as one that does not know it.
fn survey(window: &Window<'_>, options: &Options) -> Survey {
    catch_unwind(AssertUnwindSafe(|| fs::survey(window, options))).unwrap_or_else(|panic| {
        let reason = format!("kept whole: {}", panic_text(panic.as_ref()));
        Survey::whole(window.len(), None, reason)
    })
}

/// Everything downstream relies on regions that tile the disk; a hole would be data that no image holds.
fn check_tiling(analysis: &Analysis, disk_len: u64) -> Result<(), Error> {
    let mut at = 0;
    for region in &analysis.regions {
        if region.region.range.start != at {
            return Err(Error::Failed(format!(
                "regions do not tile the disk: {} starts at byte {:#x}, the one before ends at {at:#x}",
                region.region.kind, region.region.range.start
            )));
        }
        at = region.region.range.end;
    }
    if at == disk_len {
        return Ok(());
    }
    Err(Error::Failed(format!("regions end at byte {at:#x}, the disk at {disk_len:#x}")))
}

/// Names a region for a message: `partition 2 (ext4 "root")`.
#[must_use]
pub fn region_name(kind: RegionKind, detected: Option<&fs::Detected>) -> String {
    let Some(detected) = detected else { return kind.to_string() };
    match detected.label.as_deref() {
        Some(label) if !label.is_empty() => format!("{kind} ({} \"{}\")", Escaped(&detected.name), Escaped(label)),
        _ => format!("{kind} ({})", Escaped(&detected.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::MemoryDisk, units::SectorSize};

    /// Makes a disk with an MBR and one partition of 4 MiB at 1 MiB, which holds swap space.
    fn disk() -> Vec<u8> {
        let mut bytes = vec![0; 8 << 20];
        bytes[450] = 0x82;
        bytes[454..458].copy_from_slice(&2048u32.to_le_bytes());
        bytes[458..462].copy_from_slice(&8192u32.to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let swap = &mut bytes[1 << 20..];
        swap[1024] = 1;
        swap[1028..1032].copy_from_slice(&1023u32.to_le_bytes());
        swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
        bytes
    }

    fn partition(bytes: Vec<u8>) -> Survey {
        let disk = MemoryDisk::new(bytes, SectorSize::B512);
        let analysis = analyse(&disk, &Options::default(), &Cancel::default()).unwrap();
        let found = analysis.regions.into_iter().find(|region| region.partition.is_some());
        found.unwrap().survey
    }

    #[test]
    fn partitions_of_a_member_of_a_firmware_raid_are_kept_whole() {
        let mut bytes = disk();
        assert_eq!(partition(bytes.clone()).allocated.total(), 4096);
        let at = bytes.len() - 1024;
        bytes[at..at + 24].copy_from_slice(b"Intel Raid ISM Cfg Sig. ");
        let survey = partition(bytes);
        assert_eq!(survey.allocated.total(), 4 << 20);
        let reason =
            "kept whole: the disk is a member of a firmware RAID (isw_raid_member), which may lay out its partitions";
        assert_eq!(survey.widened, [reason]);
    }
}

//! What is kept of a disk: as a picture for people, as extents for scripts.
//!
//! ```text
//!     partition 2 (ext4 "root")
//!     22.0 MiB, 9.80 MiB kept, each mark 64.0 KiB
//!        1.00 MiB  ██▓░█████████████████▒······█▓··································
//!        5.00 MiB  ························████····································
//! ```

use std::{env, fmt::Write as _};

use serde::Serialize;

use crate::{
    extent::{Extent, ExtentSet},
    job::{
        analysis::region_name,
        survey::Mapped,
        view::{DiskView, RegionView},
    },
    table::RegionKind,
    units::Bytes,
};

/// Marks in a line of the picture.
const COLUMNS: u64 = 64;
/// Lines of a region, at most.
const ROWS: u64 = 8;
/// No mark stands for less: a sector.
const SMALLEST: u64 = 512;

/// The marks for nothing, less than a third, less than two thirds, less than all, and all of a piece kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks([char; 5]);

impl Marks {
    /// Marks that the bare Linux console has, too.
    pub const BLOCKS: Self = Self(['·', '░', '▒', '▓', '█']);
    /// Marks for terminals without UTF-8.
    pub const ASCII: Self = Self(['.', '-', '+', '*', '#']);

    /// Chooses by what the environment says of the terminal's encoding. Where it says nothing, it is a console of our
    /// own making, which has UTF-8.
    #[must_use]
    pub fn of_terminal() -> Self {
        let said = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|value| !value.is_empty());
        Self::of_locale(said.map(|value| value.to_string_lossy().into_owned()).as_deref())
    }

    fn of_locale(locale: Option<&str>) -> Self {
        let locale = locale.map(str::to_ascii_lowercase);
        match locale {
            Some(name) if !name.contains("utf-8") && !name.contains("utf8") => Self::ASCII,
            _ => Self::BLOCKS,
        }
    }

    /// Returns the mark for `kept` of `len` bytes.
    fn mark(self, kept: u64, len: u64) -> char {
        let [nothing, little, half, much, all] = self.0;
        let thirds = u128::from(kept) * 3 / u128::from(len.max(1));
        match (kept, thirds) {
            (0, _) => nothing,
            _ if kept >= len => all,
            (_, 0) => little,
            (_, 1) => half,
            _ => much,
        }
    }
}

/// Draws every region of a disk.
#[must_use]
pub fn picture(disk: &Mapped, marks: Marks) -> String {
    let mut out = format!("{}\n", super::print::identity(&disk.view.identity));
    for (region, kept) in regions(disk) {
        let (len, total) = (region.range.len(), kept.total());
        let _ = writeln!(out, "\n    {}", region_name(region.kind, region.detected.as_ref()));
        if total == len {
            let _ = writeln!(out, "    {} from {}, all kept", Bytes(len), Bytes(region.range.start));
            continue;
        }
        let piece = piece(len);
        let _ = writeln!(out, "    {}, {} kept, each mark {}", Bytes(len), Bytes(total), Bytes(piece));
        draw(&mut out, region.range, kept, piece, marks);
    }
    let [nothing, little, half, much, all] = marks.0;
    let _ = writeln!(
        out,
        "\n    kept:  {nothing} none  {little} less than 1/3  {half} less than 2/3  {much} less than all  {all} all"
    );
    out
}

/// Returns the bytes of a mark: a power of two, so that lines begin at round places.
fn piece(len: u64) -> u64 {
    len.div_ceil(COLUMNS * ROWS).checked_next_power_of_two().unwrap_or(1 << 63).max(SMALLEST)
}

fn draw(out: &mut String, range: Extent, kept: &ExtentSet, piece: u64, marks: Marks) {
    let mut at = 0;
    while at < range.len() {
        let _ = write!(out, "    {:>10}  ", Bytes(range.start.saturating_add(at)).to_string());
        for _ in 0..COLUMNS {
            let part = Extent::new(at, at.saturating_add(piece).min(range.len()));
            if part.is_empty() {
                break;
            }
            out.push(marks.mark(kept.within(part).map(Extent::len).sum(), part.len()));
            at = part.end;
        }
        out.push('\n');
    }
}

/// One extent that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    #[serde(flatten)]
    region: RegionKind,
    /// First byte on the disk.
    start: u64,
    /// Byte after the last on the disk.
    end: u64,
    len: u64,
}

/// Lists what is kept, in the order of the disk.
pub fn extents(disk: &Mapped) -> impl Iterator<Item = Kept> + '_ {
    regions(disk).flat_map(|(region, kept)| {
        let (kind, first) = (region.kind, region.range.start);
        kept.iter().map(move |extent| Kept {
            region: kind,
            start: first.saturating_add(extent.start),
            end: first.saturating_add(extent.end),
            len: extent.len(),
        })
    })
}

/// Writes what is kept, a line an extent: region, first byte, byte after the last, length, with tabs between.
#[must_use]
pub fn lines(disk: &Mapped) -> String {
    let mut out = String::new();
    for kept in extents(disk) {
        let region = match kept.region {
            RegionKind::Head => "head",
            RegionKind::Gap => "gap",
            RegionKind::Tail => "tail",
            RegionKind::Whole => "whole",
            RegionKind::Partition(number) => {
                let _ = writeln!(out, "{number}\t{}\t{}\t{}", kept.start, kept.end, kept.len);
                continue;
            }
        };
        let _ = writeln!(out, "{region}\t{}\t{}\t{}", kept.start, kept.end, kept.len);
    }
    out
}

fn regions(disk: &Mapped) -> impl Iterator<Item = (&RegionView, &ExtentSet)> {
    let DiskView { regions, .. } = &disk.view;
    regions.iter().zip(&disk.kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::{Identity, Transport},
        fs::{Detected, State},
        table::TableKind,
        units::{KIB, MIB, SectorSize},
    };

    /// A disk of 9 MiB: a head, a partition that keeps its first and last MiB and half of its middle, a tail.
    fn disk() -> Mapped {
        let identity = Identity {
            path: "d\u{1b}.raw".to_owned(),
            model: None,
            serial: None,
            wwn: None,
            transport: Transport::File,
            len: 9 * MIB,
            sector_size: SectorSize::B512,
            physical_sector_size: SectorSize::B512,
        };
        let region = |kind, start, end| RegionView::new(kind, Extent::new(start, end));
        let mut regions = vec![
            region(RegionKind::Head, 0, MIB),
            region(RegionKind::Partition(3), MIB, 8 * MIB + 512 * KIB),
            region(RegionKind::Tail, 8 * MIB + 512 * KIB, 9 * MIB),
        ];
        regions[1].detected = Some(Detected {
            name: "ext4".to_owned(),
            version: None,
            label: Some("a\u{7}b".to_owned()),
            uuid: None,
            block_size: None,
            state: State::Clean,
        });
        let len = regions[1].range.len();
        let extents = [(0, MIB), (2 * MIB, 2 * MIB + 4 * KIB), (3 * MIB, 3 * MIB + 8 * KIB), (len - 2 * KIB, len)];
        let kept = extents.into_iter().map(|(start, end)| Extent::new(start, end)).collect();
        let view = DiskView {
            identity,
            rotational: false,
            removable: false,
            read_only: false,
            in_use: Vec::new(),
            table: Some(TableKind::Mbr),
            disk_id: None,
            regions,
            problems: Vec::new(),
            error: None,
        };
        Mapped { view, kept: vec![ExtentSet::full(MIB), kept, ExtentSet::full(512 * KIB)] }
    }

    #[test]
    fn a_map_is_drawn_to_scale_and_names_from_the_disk_are_escaped() {
        let drawn = picture(&disk(), Marks::ASCII);
        let line = |start: &str, marks: &str| format!("    {start:>10}  {marks}\n");
        let want = [
            "d\\u{1b}.raw  9.00 MiB\n\n    head\n    1.00 MiB from 0 B, all kept\n".to_owned(),
            "\n    partition 3 (ext4 \"a\\u{7}b\")\n    7.50 MiB, 1.01 MiB kept, each mark 16.0 KiB\n".to_owned(),
            line("1.00 MiB", &"#".repeat(64)),
            line("2.00 MiB", &".".repeat(64)),
            line("3.00 MiB", &format!("-{}", ".".repeat(63))),
            line("4.00 MiB", &format!("+{}", ".".repeat(63))),
            line("5.00 MiB", &".".repeat(64)),
            line("6.00 MiB", &".".repeat(64)),
            line("7.00 MiB", &".".repeat(64)),
            line("8.00 MiB", &format!("{}-", ".".repeat(31))),
            "\n    tail\n    512 KiB from 8.50 MiB, all kept\n".to_owned(),
            "\n    kept:  . none  - less than 1/3  + less than 2/3  * less than all  # all\n".to_owned(),
        ];
        assert_eq!(drawn, want.concat());
        assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
        assert!(picture(&disk(), Marks::BLOCKS).contains("2.00 MiB  ····"));
    }

    #[test]
    fn no_region_takes_more_lines_than_there_are() {
        for len in [1, 512, 5000, MIB, 511 * MIB + 512, 3 << 40, u64::MAX] {
            let mut out = String::new();
            draw(&mut out, Extent::new(0, len), &ExtentSet::new(), piece(len), Marks::ASCII);
            let lines: Vec<&str> = out.lines().collect();
            assert!((1..=8).contains(&lines.len()) && lines.iter().all(|line| line.len() <= 80), "{len}: {out}");
        }
    }

    #[test]
    fn extents_are_counted_from_the_start_of_the_disk() {
        let mib = MIB;
        let lines = lines(&disk());
        let want = [
            format!("head\t0\t{mib}\t{mib}"),
            format!("3\t{mib}\t{}\t{mib}", 2 * mib),
            format!("3\t{}\t{}\t4096", 3 * mib, 3 * mib + 4096),
            format!("3\t{}\t{}\t8192", 4 * mib, 4 * mib + 8192),
            format!("3\t{}\t{}\t2048", 8 * mib + 522_240, 8 * mib + 524_288),
            format!("tail\t{}\t{}\t524288", 8 * mib + 524_288, 9 * mib),
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), want);
        let json = serde_json::to_value(extents(&disk()).collect::<Vec<_>>()).expect("plain data");
        assert_eq!(json[0], serde_json::json!({ "kind": "head", "start": 0, "end": mib, "len": mib }));
        assert_eq!(json[1]["number"], 3);
    }

    #[test]
    fn blocks_are_for_terminals_with_utf_8() {
        for (locale, want) in [
            (None, Marks::BLOCKS),
            (Some("en_GB.UTF-8"), Marks::BLOCKS),
            (Some("C.utf8"), Marks::BLOCKS),
            (Some("C"), Marks::ASCII),
            (Some("de_DE.ISO-8859-1"), Marks::ASCII),
        ] {
            assert_eq!(Marks::of_locale(locale), want, "{locale:?}");
        }
        for (kept, mark) in [(0, '.'), (1, '-'), (33, '-'), (34, '+'), (66, '+'), (67, '*'), (99, '*'), (100, '#')] {
            assert_eq!(Marks::ASCII.mark(kept, 100), mark, "{kept}");
        }
    }
}

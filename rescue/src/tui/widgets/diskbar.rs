//! A disk drawn to scale.
//!
//! ```text
//! ┌─────┬────────────────────────────────────┬───────────┬─────────┐
//! │1 ESP│2 ext4 root                         │3 swap     │         │
//! │█░░░░│████████████████░░░░░░░░░░░░░░░░░░░░│███████████│         │
//! └─────┴────────────────────────────────────┴───────────┴─────────┘
//! ```
//!
//! Every partition gets at least one column, the rest is shared out by length; empty space smaller than a column is
//! left away.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::{clip, put, share, width};
use crate::{
    job::view::{DiskView, RegionView},
    table::RegionKind,
    tui::{
        text,
        theme::{Content, Theme},
    },
};

/// A piece of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its bytes.
    pub len: u64,
    /// What is written on it; nothing for empty space.
    pub name: String,
    /// Bytes used in it, where known.
    pub used: Option<u64>,
    /// What kind of content it is.
    pub content: Content,
}

/// Lists the pieces of a disk.
#[must_use]
pub fn segments(disk: &DiskView) -> Vec<Segment> {
    disk.regions.iter().filter(|region| !region.range.is_empty()).map(segment).collect()
}

fn segment(region: &RegionView) -> Segment {
    let empty = !matches!(region.kind, RegionKind::Partition(_) | RegionKind::Whole);
    Segment {
        len: region.range.len(),
        name: if empty { String::new() } else { region_name(region) },
        used: if empty { Some(0) } else { region.used },
        content: region.detected.as_ref().map_or(Content::Other, |detected| Content::of(&detected.name)),
    }
}

/// Names a region on its piece of the bar: number, file system, label.
fn region_name(region: &RegionView) -> String {
    let RegionKind::Partition(number) = region.kind else {
        let known = region.detected.as_ref().map(text::content);
        return known.unwrap_or_else(|| text::NOTHING_KNOWN.to_owned());
    };
    let mut words = vec![number.to_string()];
    words.extend(region.detected.as_ref().map(text::content));
    words.extend(label(region));
    words.join(" ")
}

/// Returns what a person calls a region: its label, or the name of its partition or type.
#[must_use]
pub fn label(region: &RegionView) -> Option<String> {
    let own = region.detected.as_ref().and_then(|detected| detected.label.clone());
    let partition = region.partition.as_ref();
    let name = own.filter(|label| !label.trim().is_empty()).or_else(|| partition.and_then(|entry| entry.name.clone()));
    let name = name.filter(|name| !name.trim().is_empty());
    name.or_else(|| partition.and_then(|entry| entry.type_name.clone())).map(|name| text::clean(name.trim()))
}

/// How a bar is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Names only: one row.
    Names,
    /// Names, and what is used below them: two rows.
    Usage,
    /// The same in a box: four rows.
    Boxed,
}

impl Look {
    /// Returns how many rows it takes.
    #[must_use]
    pub const fn rows(self) -> u16 {
        match self {
            Self::Names => 1,
            Self::Usage => 2,
            Self::Boxed => 4,
        }
    }
}

/// Draws pieces to scale into the top rows of `area`.
pub fn draw(buffer: &mut Buffer, area: Rect, segments: &[Segment], look: Look, theme: &Theme) {
    let parts = shares(segments, usize::from(area.width));
    if parts.is_empty() {
        return;
    }
    let first = u16::from(look == Look::Boxed);
    let mut column = 0u16;
    for (at, (segment, wide)) in parts.iter().enumerate() {
        let style = theme.of(segment.content);
        edge(buffer, area, column, look, if at == 0 { ('┌', '└') } else { ('┬', '┴') }, theme);
        column = column.saturating_add(1);
        if look == Look::Boxed {
            let line = "─".repeat(usize::from(*wide));
            put(buffer, area, column, 0, &line, theme.frame);
            put(buffer, area, column, 3, &line, theme.frame);
        }
        put(buffer, area, column, first, &clip(&segment.name, usize::from(*wide)), style);
        if look != Look::Names {
            usage(buffer, area, (column, first + 1), segment, *wide, theme);
        }
        column = column.saturating_add(*wide);
    }
    edge(buffer, area, column, look, ('┐', '┘'), theme);
}

/// Draws the line between two pieces, or at an end.
fn edge(buffer: &mut Buffer, area: Rect, column: u16, look: Look, corners: (char, char), theme: &Theme) {
    let first = u16::from(look == Look::Boxed);
    put(buffer, area, column, first, "│", theme.frame);
    if look != Look::Names {
        put(buffer, area, column, first + 1, "│", theme.frame);
    }
    if look == Look::Boxed {
        put(buffer, area, column, 0, corners.0.encode_utf8(&mut [0; 4]), theme.frame);
        put(buffer, area, column, 3, corners.1.encode_utf8(&mut [0; 4]), theme.frame);
    }
}

/// Draws what is used of one piece.
fn usage(buffer: &mut Buffer, area: Rect, at: (u16, u16), segment: &Segment, wide: u16, theme: &Theme) {
    if segment.name.is_empty() {
        return;
    }
    let bar: String = match segment.used {
        None => "▒".repeat(usize::from(wide)),
        Some(used) => {
            let full = share(used, segment.len, u64::from(wide)).max(u64::from(used > 0));
            (0..u64::from(wide)).map(|column| if column < full { '█' } else { '░' }).collect()
        }
    };
    let style: Style = theme.of(segment.content);
    put(buffer, area, at.0, at.1, &bar, style);
}

/// Shares `columns` out among the pieces, lines between them and at both ends included.
fn shares(segments: &[Segment], columns: usize) -> Vec<(&Segment, u16)> {
    let total: u128 = segments.iter().map(|segment| u128::from(segment.len)).sum();
    let exact = |segment: &Segment, room: usize| u128::from(segment.len) * room as u128 / total.max(1);
    // Space too small to be seen is left away; partitions never are, unless there are more than columns.
    let mut kept: Vec<&Segment> =
        segments.iter().filter(|segment| !segment.name.is_empty() || exact(segment, columns) >= 2).collect();
    kept.truncate(columns.saturating_sub(1) / 2);
    let Some(room) = columns.checked_sub(kept.len() + 1).filter(|_| !kept.is_empty()) else { return Vec::new() };
    let mut wide: Vec<usize> = kept.iter().map(|segment| least(segment, room, kept.len())).collect();
    let asked: u128 = kept.iter().map(|segment| u128::from(segment.len)).sum::<u128>().max(1);
    // Each piece is as wide as its length says, but for those that need more to be seen; these take it from the widest.
    for (segment, wide) in kept.iter().zip(&mut wide) {
        let fair = usize::try_from(u128::from(segment.len) * room as u128 / asked).unwrap_or(room);
        *wide = fair.max(*wide);
    }
    loop {
        let sum: usize = wide.iter().sum();
        match (sum.cmp(&room), wide.iter_mut().max()) {
            (std::cmp::Ordering::Less, Some(widest)) => *widest += room - sum,
            (std::cmp::Ordering::Greater, Some(widest)) if *widest > 1 => *widest -= 1,
            _ => break,
        }
    }
    kept.into_iter().zip(wide).map(|(segment, wide)| (segment, u16::try_from(wide).unwrap_or(u16::MAX))).collect()
}

/// Returns how many columns a piece needs at least: its number and a letter or two, where there is room for that.
fn least(segment: &Segment, room: usize, pieces: usize) -> usize {
    let wish = width(&segment.name).min(6);
    if segment.name.is_empty() || wish * pieces > room { 1 } else { wish }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(len: u64, name: &str) -> Segment {
        Segment { len, name: name.to_owned(), used: None, content: Content::Other }
    }

    #[test]
    fn a_bar_is_exactly_as_wide_as_its_area() {
        for columns in [3usize, 10, 40, 78, 120] {
            for count in [1usize, 3, 8, 40, 200] {
                let pieces: Vec<_> = (0..count).map(|n| piece(1 << (n % 40), &format!("{n} ext4"))).collect();
                let parts = shares(&pieces, columns);
                let sum: usize = parts.iter().map(|(_, wide)| usize::from(*wide)).sum();
                assert_eq!(sum + parts.len() + 1, columns, "{count} pieces in {columns} columns");
                assert!(parts.iter().all(|(_, wide)| *wide > 0));
            }
        }
    }

    #[test]
    fn lengths_are_to_scale_and_slivers_are_left_away() {
        let pieces = [piece(1 << 20, ""), piece(300 << 30, "1 a"), piece(100 << 30, "2 b"), piece(1 << 20, "")];
        let parts: Vec<u16> = shares(&pieces, 83).iter().map(|(_, wide)| *wide).collect();
        assert_eq!(parts, [60, 20]);
    }

    #[test]
    fn nothing_is_drawn_for_a_disk_without_regions() {
        assert_eq!(shares(&[], 80), []);
        assert_eq!(shares(&[piece(0, "x")], 2), []);
    }
}

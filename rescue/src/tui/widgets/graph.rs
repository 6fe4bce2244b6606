//! Throughput over time, one column a second, in half blocks.

use ratatui::{buffer::Buffer, layout::Rect};

use super::put;
use crate::tui::theme::Theme;

/// Draws the last seconds of `rates` (bytes a second, the newest last) and returns the rate of the highest column.
pub fn draw(buffer: &mut Buffer, area: Rect, rates: impl DoubleEndedIterator<Item = u64>, theme: &Theme) -> u64 {
    let shown: Vec<u64> = rates.rev().take(usize::from(area.width)).collect();
    let top = shown.iter().copied().max().unwrap_or(0);
    for (column, rate) in (0u16..).zip(shown.iter().rev()) {
        // At least half a block: a second in which little happened still happened.
        let halves = super::share(*rate, top, u64::from(area.height) * 2).max(1);
        for row in 0..area.height {
            let below = u64::from(area.height - 1 - row) * 2;
            match halves.saturating_sub(below) {
                0 => {}
                1 => put(buffer, area, column, row, "▄", theme.bar),
                _ => put(buffer, area, column, row, "█", theme.bar),
            }
        }
    }
    top
}

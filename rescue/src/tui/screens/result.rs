//! How a job ended: the outcome, one sentence, the figures.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::{
    job::{Outcome, Report},
    tui::{
        state::State,
        text,
        theme::Theme,
        widgets::{fit, put, right, rows, wrap},
    },
    units::Bytes,
};

/// Draws the page.
pub fn draw(state: &State, buffer: &mut Buffer, page: Rect) {
    let Some(flow) = &state.flow else { return };
    let Some(report) = &flow.report else { return };
    let theme = &state.options.theme;
    let style = outcome_style(report.outcome, theme);
    let wide = usize::from(page.width.saturating_sub(4));
    let word = format!("  {}  ", report.outcome);
    let line = "═".repeat(word.len());
    put(buffer, page, 2, 1, &format!("╔{line}╗"), style);
    put(buffer, page, 2, 2, &format!("║{word}║"), style);
    put(buffer, page, 2, 3, &format!("╚{line}╝"), style);
    let mut row = 5;
    for line in wrap(&text::sentence(report, flow.running.cancelling, flow.running.touched()), wide) {
        put(buffer, page, 2, row, &line, theme.text);
        row += 1;
    }
    row += 1;
    for line in figures(report) {
        put(buffer, page, 2, row, &line, theme.text);
        row += 1;
    }
    row += 1;
    trouble(buffer, rows(page, row, page.height), report, theme);
}

fn outcome_style(outcome: Outcome, theme: &Theme) -> Style {
    match outcome {
        Outcome::Complete => theme.good,
        Outcome::Partial => theme.warn,
        Outcome::Failed => theme.bad,
    }
}

fn figures(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{} {value}", fit(name, 14)));
    if let Some(image) = &report.image {
        line("image", text::clean(image));
    }
    if report.disk_bytes > 0 {
        line("disk", format!("{}, {} of it in use", Bytes(report.disk_bytes), Bytes(report.allocated_bytes)));
    }
    if report.job == "capture" && report.outcome != Outcome::Failed {
        let known = Bytes(report.deduplicated_bytes);
        line("store", format!("{} new, {known} were there already", Bytes(report.stored_bytes)));
    }
    if report.job == "restore" && report.outcome != Outcome::Failed {
        let same = Bytes(report.unchanged_bytes);
        line("target", format!("{} written, {same} were there already", Bytes(report.written_bytes)));
    }
    for stage in &report.stages {
        let speed = stage.bytes.saturating_mul(1000).checked_div(stage.millis).map(text::speed).unwrap_or_default();
        let time = text::duration(std::time::Duration::from_millis(stage.millis));
        lines.push(format!(
            "{} {} {}  {}",
            fit(text::phase(stage.phase), 32),
            right(&Bytes(stage.bytes).to_string(), 9),
            right(&time, 13),
            right(&speed, 12),
        ));
    }
    lines
}

/// Draws why it failed, then what went wrong on the way.
fn trouble(buffer: &mut Buffer, area: Rect, report: &Report, theme: &Theme) {
    let wide = usize::from(area.width.saturating_sub(6));
    let mut lines: Vec<(String, Style)> = Vec::new();
    if let Some(reason) = &report.error {
        let wrapped = wrap(&text::clean(reason), wide);
        lines.extend(wrapped.into_iter().enumerate().map(|(at, line)| {
            let mark = if at == 0 { "! " } else { "  " };
            (format!("{mark}{line}"), theme.bad)
        }));
    }
    for problem in &report.problems {
        let wrapped = wrap(&text::clean(problem), wide);
        lines.extend(wrapped.into_iter().enumerate().map(|(at, line)| {
            let mark = if at == 0 { "- " } else { "  " };
            (format!("{mark}{line}"), theme.warn)
        }));
    }
    let room = usize::from(area.height);
    let cut = lines.len() > room;
    let shown = if cut { room.saturating_sub(1) } else { room };
    for (row, (line, style)) in (0..).zip(lines.iter().take(shown)) {
        put(buffer, area, 2, row, line, *style);
    }
    if cut {
        let rest = format!("... and {} more lines; L shows the log", lines.len() - shown);
        put(buffer, area, 2, area.height.saturating_sub(1), &rest, theme.dim);
    }
}

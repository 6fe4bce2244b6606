//! What a job will do, and the typed confirmation in front of it.

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
    style::Style,
};

use super::{home::more, stores::input};
use crate::{
    job::view::PlanView,
    store::manifest::ImageState,
    table::RegionKind,
    tui::{
        state::{Flow, Load, State},
        text,
        theme::Content,
        widgets::{
            cut, dialog,
            diskbar::{self, Look, Segment},
            fit, put, put_all, right, rows, width, wrap,
        },
    },
    units::Bytes,
};

/// Draws the plan.
pub fn draw(state: &State, buffer: &mut Buffer, page: Rect) {
    let Some(flow) = &state.flow else { return };
    let theme = &state.options.theme;
    let wide = usize::from(page.width.saturating_sub(4));
    match &flow.plan {
        Load::Idle | Load::Loading => put(buffer, page, 2, 2, text::PLANNING, theme.text),
        Load::Failed(why) => {
            let title = if flow.refused { text::REFUSED } else { text::NOT_READ };
            put(buffer, page, 2, 2, &cut(title, wide), theme.bad);
            for (row, line) in (4..).zip(wrap(&text::clean(why), wide)) {
                put(buffer, page, 2, row, &line, theme.text);
            }
        }
        Load::Ready(plan) => ready(state, buffer, page, flow, plan),
    }
}

fn ready(state: &State, buffer: &mut Buffer, page: Rect, flow: &Flow, plan: &PlanView) {
    let theme = &state.options.theme;
    let wide = usize::from(page.width.saturating_sub(2));
    let mut row = 1;
    for line in wrap(&text::clean(&plan.title), wide).iter().take(3) {
        put(buffer, page, 1, row, line, theme.heading);
        row += 1;
    }
    row += 1;
    if let Some(disk) = &plan.disk {
        put(buffer, page, 1, row, &cut(&text::disk_name(disk), wide), theme.text);
        row += 1;
        if let Some(serial) = disk.serial.as_deref().filter(|serial| !serial.trim().is_empty()) {
            put(buffer, page, 1, row, &cut(&format!("serial {}", text::clean(serial.trim())), wide), theme.text);
            row += 1;
        }
    }
    row += bars(state, buffer, rows(page, row, page.height), flow, plan);
    let foot = match (&plan.confirm, &plan.disk) {
        (Some(_), _) => text::START_CONFIRM_HINT,
        (None, Some(_)) => text::START_HINT,
        (None, None) => text::START_CHECK_HINT,
    };
    let foot = format!("{} to handle. {foot}", Bytes(plan.bytes));
    put(buffer, page, 1, page.height.saturating_sub(1), &cut(&foot, wide), theme.heading);
    let list = rows(page, row + 1, page.height.saturating_sub(row + 3));
    scroll(state, buffer, list, &lines(state, flow, plan, wide), flow.plan_top);
}

/// Draws the disk as it is, and for a restore as it will be; returns how many rows that took.
fn bars(state: &State, buffer: &mut Buffer, area: Rect, flow: &Flow, plan: &PlanView) -> u16 {
    let theme = &state.options.theme;
    let Some(disk) = &flow.disk else { return 0 };
    if plan.disk.is_none() || area.height < 8 {
        return 0;
    }
    let bar = |top: u16| Rect { x: area.x + 7, width: area.width.saturating_sub(8), ..rows(area, top, 1) };
    put(buffer, area, 1, 1, text::NOW, theme.dim);
    diskbar::draw(buffer, bar(1), &diskbar::segments(disk), Look::Names, theme);
    if plan.confirm.is_none() {
        return 2;
    }
    put(buffer, area, 1, 2, text::AFTER, theme.dim);
    diskbar::draw(buffer, bar(2), &planned_segments(plan, disk.identity.len), Look::Names, theme);
    3
}

/// Draws a restored disk from the steps of its plan, which tell regions and their places.
fn planned_segments(plan: &PlanView, len: u64) -> Vec<Segment> {
    let mut steps: Vec<_> = plan.steps.iter().filter(|step| !step.range.is_empty()).collect();
    steps.sort_by_key(|step| step.range.start);
    let (mut at, mut out) = (0, Vec::new());
    let empty = |len: u64| Segment { len, name: String::new(), used: Some(0), content: Content::Other };
    for step in steps {
        if step.range.start < at || step.range.end > len {
            continue;
        }
        out.push(empty(step.range.start - at));
        let plain = [RegionKind::Head, RegionKind::Gap, RegionKind::Tail].map(|kind| kind.to_string());
        let name = text::clean(step.region.trim_start_matches("partition ").trim());
        let name = if plain.contains(&name) { String::new() } else { name };
        let content = Content::of(name.split([' ', ',']).nth(1).unwrap_or(""));
        out.push(Segment { len: step.range.len(), name, used: Some(step.bytes), content });
        at = step.range.end;
    }
    out.push(empty(len.saturating_sub(at)));
    out.retain(|segment| segment.len > 0);
    out
}

/// Lists the lines of the plan: warnings first, then its steps.
fn lines(state: &State, flow: &Flow, plan: &PlanView, wide: usize) -> Vec<(String, Style)> {
    let theme = &state.options.theme;
    let mut out = Vec::new();
    let partial = flow.image.as_ref().is_some_and(|image| image.state == ImageState::Partial);
    let own = (partial && plan.confirm.is_some()).then(|| text::PARTIAL_WARNING.to_owned());
    for warning in own.iter().chain(&plan.warnings) {
        for (at, line) in wrap(&text::clean(warning), wide.saturating_sub(2)).into_iter().enumerate() {
            out.push((format!("{} {line}", if at == 0 { "!" } else { " " }), theme.warn));
        }
    }
    if !out.is_empty() {
        out.push((String::new(), theme.text));
    }
    if !plan.steps.is_empty() {
        out.push((columns(&text::PLAN_HEADING.map(str::to_owned), wide), theme.heading));
    }
    for step in &plan.steps {
        let cells = [
            text::clean(&step.region),
            Bytes(step.range.len()).to_string(),
            Bytes(step.bytes).to_string(),
            text::clean(&step.what),
        ];
        out.push((columns(&cells, wide), theme.text));
    }
    out
}

fn columns(cells: &[String; 4], wide: usize) -> String {
    let [region, size, bytes, what] = cells;
    cut(&format!("{} {} {}  {what}", fit(region, 22), right(size, 9), right(bytes, 9)), wide)
}

/// Draws lines, scrolled.
fn scroll(state: &State, buffer: &mut Buffer, area: Rect, lines: &[(String, Style)], top: usize) {
    let shown = usize::from(area.height);
    let first = top.min(lines.len().saturating_sub(shown));
    for (row, (line, style)) in (0..).zip(lines.iter().skip(first).take(shown)) {
        put(buffer, area, 1, row, line, *style);
    }
    more(state, buffer, area, first > 0, first + shown < lines.len());
}

/// Draws the typed confirmation in front of the plan; returns where its text cursor is.
pub fn confirm(state: &State, buffer: &mut Buffer, page: Rect) -> Option<Position> {
    draw(state, buffer, page);
    let flow = state.flow.as_ref()?;
    let confirm = flow.plan.ready()?.confirm.as_ref()?;
    let disk = flow.disk.as_ref()?;
    let theme = &state.options.theme;
    let wide = 70.min(page.width);
    let columns = usize::from(wide.saturating_sub(4));
    let mut lines: Vec<(String, Style)> = vec![(text::disk_name(&disk.identity), theme.text)];
    let serial = disk.identity.serial.as_deref().map(|serial| text::clean(serial.trim()));
    lines.extend(serial.map(|serial| (format!("serial {serial}"), theme.text)));
    lines.push((String::new(), theme.text));
    let holds: Vec<String> = diskbar::segments(disk)
        .into_iter()
        .filter(|segment| !segment.name.is_empty())
        .map(|segment| format!("{} ({})", segment.name, Bytes(segment.len)))
        .collect();
    if !holds.is_empty() {
        lines.push((text::CONFIRM_LOST.to_owned(), theme.bad));
        lines.extend(wrap(&holds.join(", "), columns).into_iter().take(4).map(|line| (line, theme.text)));
        lines.push((String::new(), theme.text));
    }
    let prompt = format!("Type {} and press Enter:", text::clean(&confirm.prompt));
    lines.extend(wrap(&prompt, columns).into_iter().map(|line| (line, theme.text)));
    let high = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(6);
    let inner = dialog(buffer, page, (wide, high), text::CONFIRM_TITLE, theme.bad);
    for (row, (line, style)) in (1..).zip(&lines) {
        put(buffer, inner, 0, row, &cut(line, columns), *style);
    }
    let row = inner.height.saturating_sub(3);
    let field = 24.min(columns);
    let cursor = input(buffer, inner, (2, row), field, &flow.typed, theme.field);
    put_all(buffer, inner, 0, row, &[("►", theme.selected)]);
    if flow.wrong {
        let place = u16::try_from(field + 4).unwrap_or(0);
        let room = columns.saturating_sub(usize::from(place));
        if room >= width(text::CONFIRM_WRONG) {
            put(buffer, inner, place, row, text::CONFIRM_WRONG, theme.bad);
        } else {
            put(buffer, inner, 0, row + 1, text::CONFIRM_WRONG, theme.bad);
        }
    }
    cursor
}

//! The pages, each drawn from the state alone.

mod boxes;
mod home;
mod images;
mod plan;
mod result;
mod running;
mod stores;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Position, Rect},
};

use super::{
    keymap,
    state::{Screen, State},
    text,
    widgets::{put, put_all, width},
};

/// Columns and rows every page is laid out for; smaller terminals show what fits, and say so.
const LEAST: (u16, u16) = (80, 24);
/// Below this there is no use in drawing a page.
const HOPELESS: (u16, u16) = (30, 8);

/// Draws everything.
pub fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    let cursor = draw_buffer(state, frame.buffer_mut(), area);
    if let Some(cursor) = cursor.filter(|cursor| area.contains(*cursor)) {
        frame.set_cursor_position(cursor);
    }
}

/// Draws everything into a buffer and returns where the text cursor is, if anywhere.
fn draw_buffer(state: &State, buffer: &mut Buffer, area: Rect) -> Option<Position> {
    if area.width < HOPELESS.0 || area.height < HOPELESS.1 {
        put(buffer, area, 0, 0, text::TOO_SMALL, state.options.theme.warn);
        return None;
    }
    title(state, buffer, area);
    let hints = hint_rows(state, area.width);
    let rows = u16::try_from(hints.len()).unwrap_or(0).min(area.height - 2);
    for (row, pieces) in (area.height - rows..).zip(&hints) {
        hint_row(state, buffer, area, row, pieces);
    }
    let page = Rect { y: area.y + 1, height: area.height - 1 - rows, ..area };
    let cursor = match state.screen {
        Screen::Home => none(|| home::draw(state, buffer, page)),
        Screen::Details => none(|| home::details(state, buffer, page)),
        Screen::Stores => stores::draw(state, buffer, page),
        Screen::Images => none(|| images::draw(state, buffer, page)),
        Screen::Targets => none(|| home::targets(state, buffer, page)),
        Screen::Plan => none(|| plan::draw(state, buffer, page)),
        Screen::Confirm => plan::confirm(state, buffer, page),
        Screen::Running => none(|| running::draw(state, buffer, page)),
        Screen::Result => none(|| result::draw(state, buffer, page)),
    };
    match &state.overlay {
        Some(overlay) => none(|| boxes::draw(state, overlay, buffer, page)),
        None => cursor,
    }
}

/// Draws and leaves no text cursor.
fn none(draw: impl FnOnce()) -> Option<Position> {
    draw();
    None
}

fn title(state: &State, buffer: &mut Buffer, area: Rect) {
    let theme = &state.options.theme;
    let wide = usize::from(area.width);
    put(buffer, area, 0, 0, &" ".repeat(wide), theme.title);
    let left = format!(" {} │ {} ", text::PROGRAM, text::title(state.screen, state.flow.as_ref()));
    put(buffer, area, 0, 0, &left, theme.title);
    let small = area.width < LEAST.0 || area.height < LEAST.1;
    let right = if small { text::TOO_SMALL.to_owned() } else { text::clean(&state.options.machine) };
    if let Some(column) = wide.checked_sub(width(&right) + 1).filter(|column| *column > width(&left)) {
        put(buffer, area, u16::try_from(column).unwrap_or(0), 0, &right, theme.title);
    }
}

type Hint = (String, &'static str);

/// Breaks the hints into as many rows as they need.
fn hint_rows(state: &State, columns: u16) -> Vec<Vec<Hint>> {
    let mut rows: Vec<Vec<Hint>> = vec![Vec::new()];
    let mut taken = 0;
    for hint in keymap::hints(state.context(), state.options.booted, |cmd| state.overlay.is_some() || state.offers(cmd))
    {
        let wide = width(&hint.0) + width(hint.1) + 5;
        if taken + wide > usize::from(columns) + 2 && taken > 0 {
            rows.push(Vec::new());
            taken = 0;
        }
        taken += wide;
        if let Some(row) = rows.last_mut() {
            row.push(hint);
        }
    }
    rows
}

fn hint_row(state: &State, buffer: &mut Buffer, area: Rect, row: u16, hints: &[Hint]) {
    let theme = &state.options.theme;
    let mut column = 0;
    for (key, words) in hints {
        let key = format!(" {key} ");
        put_all(buffer, area, column, row, &[(&key, theme.key), (" ", theme.hint), (words, theme.hint)]);
        column = column.saturating_add(u16::try_from(width(&key) + width(words) + 3).unwrap_or(u16::MAX));
    }
}

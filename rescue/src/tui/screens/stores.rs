//! Choosing a store: file systems on attached disks, or a folder that is typed.

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
};

use super::home::more;
use crate::{
    tui::{
        state::{Kind, Load, State},
        text,
        widgets::{clip, cut, first_shown, fit, put, right, rows, width, wrap},
    },
    units::Bytes,
};

/// Draws the page; returns where the text cursor is while the folder is typed.
pub fn draw(state: &State, buffer: &mut Buffer, page: Rect) -> Option<Position> {
    let flow = state.flow.as_ref()?;
    let theme = &state.options.theme;
    let wide = usize::from(page.width.saturating_sub(2));
    for (row, line) in (1..3).zip(wrap(&text::question(state.screen, flow), wide)) {
        put(buffer, page, 1, row, &line, theme.heading);
    }
    let field_row = page.height.saturating_sub(5);
    places(state, buffer, rows(page, 4, field_row.saturating_sub(5)), flow.kind);
    if flow.opening {
        put(buffer, page, 2, page.height.saturating_sub(1), text::OPENING, theme.warn);
    } else if state.options.booted {
        put(buffer, page, 2, page.height.saturating_sub(2), text::FOLDER_IN_MEMORY, theme.dim);
    }
    field(state, buffer, rows(page, field_row, 2))
}

fn places(state: &State, buffer: &mut Buffer, area: Rect, kind: Kind) {
    let theme = &state.options.theme;
    let wide = usize::from(area.width.saturating_sub(4));
    let list = match &state.places.list {
        Load::Idle | Load::Loading => return put(buffer, area, 2, 0, text::SEARCHING_STORES, theme.text),
        Load::Failed(why) => {
            for (row, line) in (0..).zip(wrap(&text::clean(why), wide)) {
                put(buffer, area, 2, row, &line, theme.bad);
            }
            return;
        }
        Load::Ready(list) if list.is_empty() => {
            for (row, line) in (0..).zip(wrap(text::NO_PLACES, wide)) {
                put(buffer, area, 2, row, &line, theme.text);
            }
            return;
        }
        Load::Ready(list) => list,
    };
    // Two rows each: the place, and what it holds.
    let shown = usize::from(area.height / 3).max(1);
    let first = first_shown(state.places.cursor.min(list.len() - 1), list.len(), shown);
    for (at, place) in list.iter().enumerate().skip(first).take(shown) {
        let top = u16::try_from(at - first).unwrap_or(u16::MAX).saturating_mul(3);
        let marked = at == state.places.cursor;
        let style = if marked { theme.selected } else { theme.text };
        let free = place.free.map(|free| format!("{} free", Bytes(free))).unwrap_or_default();
        let disk = state.all_disks().find(|disk| disk.identity.path == place.disk);
        let model = disk.and_then(|disk| disk.identity.model.as_deref()).map(|model| text::clean(model.trim()));
        let line = format!(
            "{}{} {}{} {}  {}",
            if marked { "► " } else { "  " },
            fit(&text::place_name(place), 30),
            fit(&text::clean(&place.fs), 7),
            right(&Bytes(place.len).to_string(), 9),
            right(&free, 14),
            model.unwrap_or_default(),
        );
        put(buffer, area, 0, top, &cut(&line, usize::from(area.width)), style);
        match state.place_problem(place) {
            Some(problem) => put(buffer, area, 4, top + 1, &cut(&format!("! {problem}"), wide), theme.warn),
            None => {
                let holds = text::place_holds(place, kind == Kind::Capture);
                put(buffer, area, 4, top + 1, &cut(&holds, wide), theme.dim);
            }
        }
    }
    more(state, buffer, area, first > 0, first + shown < list.len());
}

/// Draws the field for a folder.
fn field(state: &State, buffer: &mut Buffer, area: Rect) -> Option<Position> {
    let theme = &state.options.theme;
    let typing = state.places.cursor >= state.place_count();
    let style = if typing { theme.selected } else { theme.text };
    let label = format!("{}{} ", if typing { "► " } else { "  " }, text::OTHER_FOLDER);
    put(buffer, area, 0, 0, &label, style);
    let start = u16::try_from(width(&label)).unwrap_or(0);
    let columns = usize::from(area.width.saturating_sub(start + 2));
    input(buffer, area, (start, 0), columns, &state.places.folder, theme.field).filter(|_| typing)
}

/// Draws a line of text being typed and returns where its cursor is.
pub(super) fn input(
    buffer: &mut Buffer,
    area: Rect,
    at: (u16, u16),
    columns: usize,
    typed: &tui_input::Input,
    style: ratatui::style::Style,
) -> Option<Position> {
    let scroll = typed.visual_scroll(columns.saturating_sub(1));
    let (mut skipped, mut shown) = (0, String::new());
    for letter in typed.value().chars() {
        if skipped < scroll {
            skipped += width(letter.encode_utf8(&mut [0; 4]));
        } else {
            shown.push(letter);
        }
    }
    put(buffer, area, at.0, at.1, &fit(&clip(&shown, columns), columns), style);
    let column = u16::try_from(typed.visual_cursor().saturating_sub(skipped).min(columns)).ok()?;
    Some(Position { x: area.x.saturating_add(at.0).saturating_add(column), y: area.y.saturating_add(at.1) })
}

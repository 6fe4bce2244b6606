//! The images of a store.

use ratatui::{buffer::Buffer, layout::Rect};

use super::home::more;
use crate::{
    job::view::ImageView,
    store::manifest::ImageState,
    tui::{
        state::{Load, State},
        text,
        widgets::{cut, cut_front, first_shown, fit, put, right, rows, rule, wrap},
    },
    units::Bytes,
};

/// Rows for the marked image below the list.
const DETAIL_ROWS: u16 = 7;

/// Draws the page.
pub fn draw(state: &State, buffer: &mut Buffer, page: Rect) {
    let Some(flow) = &state.flow else { return };
    let theme = &state.options.theme;
    let wide = usize::from(page.width.saturating_sub(2));
    put(buffer, page, 1, 1, &cut(&text::question(state.screen, flow), wide), theme.heading);
    let body = rows(page, 3, page.height);
    let images = match &flow.images {
        Load::Idle | Load::Loading => return put(buffer, body, 2, 0, text::READING_IMAGES, theme.text),
        Load::Failed(why) => {
            for (row, line) in (0..).zip(wrap(&text::clean(why), wide - 2)) {
                put(buffer, body, 2, row, &line, theme.bad);
            }
            return;
        }
        Load::Ready(images) if images.is_empty() && !flow.whole_store_row() => {
            return put(buffer, body, 2, 0, text::NO_IMAGES, theme.text);
        }
        Load::Ready(images) => images,
    };
    let list = rows(body, 0, body.height.saturating_sub(DETAIL_ROWS));
    put(buffer, list, 2, 0, &columns(&text::IMAGE_HEADING.map(str::to_owned)), theme.heading);
    let list = rows(list, 1, list.height);
    let lines = flow.whole_store_row().then_some(None).into_iter().chain(images.iter().map(Some));
    let shown = usize::from(list.height).max(1);
    let first = first_shown(flow.image_cursor, flow.image_rows(), shown);
    for (row, (at, image)) in (0..).zip(lines.enumerate().skip(first).take(shown)) {
        let marked = at == flow.image_cursor;
        let style = if marked { theme.selected } else { theme.text };
        put(buffer, list, 0, row, if marked { "►" } else { " " }, style);
        let line = image.map_or_else(|| text::EVERYTHING.to_owned(), line);
        put(buffer, list, 2, row, &cut(&line, wide), style);
    }
    more(state, buffer, list, first > 0, first + shown < flow.image_rows());
    if let Some(image) = flow.marked_image() {
        details(state, buffer, rows(body, body.height.saturating_sub(DETAIL_ROWS), DETAIL_ROWS), image);
    }
}

fn columns(cells: &[String; 5]) -> String {
    let [created, machine, disk, size, label] = cells;
    format!("{} {} {} {}  {label}", fit(created, 16), fit(machine, 11), fit(disk, 18), right(size, 9))
}

fn line(image: &ImageView) -> String {
    let partial = image.state == ImageState::Partial;
    let label = text::clean(&image.label);
    let model = image.identity.model.as_deref().map(str::trim).filter(|model| !model.is_empty());
    columns(&[
        text::when(&image.created),
        image.machine.as_deref().map(text::clean).unwrap_or_default(),
        model.map_or_else(|| cut_front(&text::clean(&image.identity.path), 18), text::clean),
        Bytes(image.bytes).to_string(),
        if partial { format!("{} {label}", text::PARTIAL_MARK) } else { label },
    ])
}

fn details(state: &State, buffer: &mut Buffer, area: Rect, image: &ImageView) {
    let theme = &state.options.theme;
    let wide = usize::from(area.width.saturating_sub(4));
    rule(buffer, area, 0, &text::clean(&image.id), theme);
    let serial = image.identity.serial.as_deref().map(|serial| text::clean(serial.trim())).unwrap_or_default();
    let lines = [
        format!(
            "disk    {}  serial {}",
            text::disk_name(&image.identity),
            if serial.is_empty() { "unknown" } else { &serial }
        ),
        format!(
            "kept    {} of {}, {} of it new in the store",
            Bytes(image.allocated),
            Bytes(image.bytes),
            Bytes(image.stored)
        ),
        format!("needs   a disk of at least {}", Bytes(image.needs)),
        format!("label   {}", text::clean(&image.label)),
    ];
    for (row, line) in (1..).zip(&lines) {
        put(buffer, area, 2, row, &cut(line, wide), theme.text);
    }
    if image.state == ImageState::Partial {
        put(buffer, area, 2, 6, &cut(&format!("! {}", text::PARTIAL_WARNING), wide), theme.warn);
    }
}

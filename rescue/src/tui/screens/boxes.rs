//! Boxes in front of a page: help, log, power, stopping a job, messages.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use super::home::more;
use crate::tui::{
    state::{Overlay, State},
    text,
    widgets::{cut, dialog, put, right, wrap},
};

/// Draws a box.
pub fn draw(state: &State, overlay: &Overlay, buffer: &mut Buffer, page: Rect) {
    let theme = &state.options.theme;
    match overlay {
        Overlay::Help(top) => help(state, buffer, page, *top),
        Overlay::Log(above) => log(state, buffer, page, *above),
        Overlay::Power => words(buffer, page, text::POWER_TITLE, text::POWER_QUESTION, theme.heading, theme.text),
        Overlay::AskCancel => {
            let job = state.flow.as_ref().and_then(|flow| flow.job.as_ref());
            words(buffer, page, text::CANCEL_TITLE, text::cancel_leaves(job), theme.warn, theme.text);
        }
        Overlay::Message(title, body) => words(buffer, page, title, &text::clean(body), theme.warn, theme.text),
    }
}

/// Draws a small box with a few words.
fn words(buffer: &mut Buffer, page: Rect, title: &str, body: &str, frame: Style, style: Style) {
    let wide = 64.min(page.width);
    let lines = wrap(body, usize::from(wide.saturating_sub(4)));
    let high = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(4);
    let inner = dialog(buffer, page, (wide, high), title, frame);
    for (row, line) in (1..).zip(&lines) {
        put(buffer, inner, 0, row, line, style);
    }
}

fn help(state: &State, buffer: &mut Buffer, page: Rect, top: usize) {
    let theme = &state.options.theme;
    let wide = 76.min(page.width);
    let lines = wrap(text::help(state.screen), usize::from(wide.saturating_sub(4)));
    let high = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(4).min(page.height);
    let inner = dialog(buffer, page, (wide, high), text::HELP_TITLE, theme.heading);
    let shown = usize::from(inner.height.saturating_sub(2));
    let first = top.min(lines.len().saturating_sub(shown));
    for (row, line) in (1..).zip(lines.iter().skip(first).take(shown)) {
        put(buffer, inner, 0, row, line, theme.text);
    }
    more(state, buffer, inner, first > 0, first + shown < lines.len());
}

fn log(state: &State, buffer: &mut Buffer, page: Rect, above: usize) {
    let theme = &state.options.theme;
    let inner = dialog(buffer, page, (page.width, page.height), text::LOG_TITLE, theme.heading);
    let wide = usize::from(inner.width);
    let shown = usize::from(inner.height);
    let end = state.log.len().saturating_sub(above);
    let first = end.saturating_sub(shown);
    for (row, (when, line)) in (0..).zip(state.log.lines().skip(first).take(end - first)) {
        let seconds = when.as_secs();
        let time = right(&format!("{}:{:02}", seconds / 60, seconds % 60), 6);
        put(buffer, inner, 0, row, &cut(&format!("{time}  {}", text::clean(line)), wide), theme.text);
    }
    more(state, buffer, inner, first > 0, end < state.log.len());
}

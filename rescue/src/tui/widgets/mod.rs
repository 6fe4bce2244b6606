//! Pieces that several pages are drawn from.
//!
//! Glyphs: only what the built-in font of the Linux console has (box lines, `░▒▓█▄▌`, `▲▼◄►←→↑↓`).

pub mod diskbar;
pub mod graph;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    text::Span,
    widgets::{Block, BorderType, Clear, Widget},
};

use super::theme::Theme;

/// Returns how many columns a text takes.
#[must_use]
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Cuts or pads `text` to exactly `columns`; a cut text ends in `..`.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    let mut out = cut(text, columns);
    out.push_str(&" ".repeat(columns.saturating_sub(width(&out))));
    out
}

/// Pads `text` on the left to `columns`, or cuts it.
#[must_use]
pub fn right(text: &str, columns: usize) -> String {
    let out = cut(text, columns);
    format!("{}{out}", " ".repeat(columns.saturating_sub(width(&out))))
}

/// Cuts `text` to at most `columns`; what was cut shows as `..`.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let dots = if columns > 4 { ".." } else { "" };
    clip(text, columns - dots.len()) + dots
}

/// Cuts `text` to at most `columns`, without a sign.
#[must_use]
pub fn clip(text: &str, columns: usize) -> String {
    let (mut out, mut taken) = (String::new(), 0);
    for letter in text.chars() {
        taken += width(letter.encode_utf8(&mut [0; 4]));
        if taken > columns {
            break;
        }
        out.push(letter);
    }
    out
}

/// Cuts `text` at its front: the end of a path tells more, and the end of a serial number is what has to be typed.
#[must_use]
pub fn cut_front(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let reversed: String = text.chars().rev().collect();
    cut(&reversed, columns).chars().rev().collect()
}

/// Breaks `text` into lines of at most `columns`, at spaces where there are some.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_inclusive(' ') {
            if width(&line) + width(word.trim_end()) > columns && !line.is_empty() {
                lines.push(line.trim_end().to_owned());
                line.clear();
            }
            line.push_str(word);
            while width(&line) > columns {
                // A word longer than a line, say a serial number or a path, is cut where the line ends.
                let head = clip(&line, columns);
                if head.is_empty() || line.trim_end().len() <= head.len() {
                    break;
                }
                line = line.split_off(head.len());
                lines.push(head);
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// Writes one line of text at row `row` of `area`, from column `column` on; nothing outside `area`.
pub fn put(buffer: &mut Buffer, area: Rect, column: u16, row: u16, text: &str, style: Style) {
    if row < area.height && column < area.width {
        let room = usize::from(area.width - column);
        buffer.set_stringn(area.x + column, area.y + row, text, room, style);
    }
}

/// Writes differently styled pieces on one row, one after the other.
pub fn put_all(buffer: &mut Buffer, area: Rect, column: u16, row: u16, pieces: &[(&str, Style)]) {
    let mut at = column;
    for (text, style) in pieces {
        put(buffer, area, at, row, text, *style);
        at = at.saturating_add(u16::try_from(width(text)).unwrap_or(u16::MAX));
    }
}

/// Draws a horizontal line with a title in it.
pub fn rule(buffer: &mut Buffer, area: Rect, row: u16, title: &str, theme: &Theme) {
    put(buffer, area, 0, row, &"─".repeat(usize::from(area.width)), theme.frame);
    if !title.is_empty() {
        put(
            buffer,
            area,
            2,
            row,
            &format!(" {} ", cut(title, usize::from(area.width).saturating_sub(6))),
            theme.heading,
        );
    }
}

/// Returns the rows of `area` from `top` on, at most `height` of them.
#[must_use]
pub fn rows(area: Rect, top: u16, height: u16) -> Rect {
    let top = top.min(area.height);
    Rect { y: area.y + top, height: height.min(area.height - top), ..area }
}

/// Returns the first row to show of a list, so that the marked line stays in view.
#[must_use]
pub fn first_shown(cursor: usize, count: usize, shown: usize) -> usize {
    cursor.saturating_sub(shown / 2).min(count.saturating_sub(shown))
}

/// Draws a box in front of the page and returns the area in it.
pub fn dialog(buffer: &mut Buffer, page: Rect, size: (u16, u16), title: &str, style: Style) -> Rect {
    let (wide, high) = (size.0.min(page.width), size.1.min(page.height));
    let area =
        Rect { x: page.x + (page.width - wide) / 2, y: page.y + (page.height - high) / 2, width: wide, height: high };
    Clear.render(area, buffer);
    let block = Block::bordered()
        .border_type(BorderType::Double)
        .border_style(style)
        .title(format!(" {} ", cut(title, usize::from(wide).saturating_sub(6))))
        .title_style(style);
    let inner = block.inner(area);
    block.render(area, buffer);
    Rect { x: inner.x.saturating_add(1).min(inner.right()), width: inner.width.saturating_sub(2), ..inner }
}

/// Draws a bar that is `done` of `total` full.
pub fn gauge(buffer: &mut Buffer, area: Rect, done: u64, total: u64, theme: &Theme) {
    let wide = u64::from(area.width);
    let full = share(done, total, wide);
    let bar: String = (0..wide).map(|at| if at < full { '█' } else { '░' }).collect();
    put(buffer, area, 0, 0, &bar, theme.bar);
}

/// Returns how much of `whole` the share `part` of `total` is; never more than `whole`.
#[must_use]
pub fn share(part: u64, total: u64, whole: u64) -> u64 {
    if total == 0 {
        return 0;
    }
    let scaled = u128::from(part.min(total)) * u128::from(whole) / u128::from(total);
    u64::try_from(scaled).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_their_columns_whatever_their_letters() {
        for (name, text, columns, want) in [
            ("padded", "ab", 4, "ab  "),
            ("cut", "abcdefgh", 6, "abcd.."),
            ("short column", "abcdefgh", 3, "abc"),
            ("wide letters", "日本語日本語", 7, "日本.. "),
            ("nothing", "abc", 0, ""),
        ] {
            assert_eq!(fit(text, columns), want, "{name}");
            assert_eq!(width(&fit(text, columns)), columns, "{name}");
        }
    }

    #[test]
    fn long_texts_wrap_at_spaces_and_long_words_in_the_middle() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("a\n\nb", 4), ["a", "", "b"]);
        assert_eq!(wrap("日本", 1), ["日本"]);
    }
}

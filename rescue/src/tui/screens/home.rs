//! The disks: home, one disk closely, and choosing the disk to overwrite.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    fs,
    job::view::{DiskView, RegionView},
    table::RegionKind,
    tui::{
        state::{Load, State},
        text,
        widgets::{
            cut, cut_front,
            diskbar::{self, Look},
            first_shown, fit, put, put_all, right, rows, rule, width, wrap,
        },
    },
    units::Bytes,
};

/// Rows kept for the marked disk below the list.
const DETAIL_ROWS: u16 = 8;

/// Draws home: all disks, and what the marked one holds.
pub fn draw(state: &State, buffer: &mut Buffer, page: Rect) {
    if !listed(state, buffer, page) {
        return;
    }
    let theme = &state.options.theme;
    let details = DETAIL_ROWS.min(page.height / 2);
    let list = Rect { height: page.height - details, ..page };
    disk_list(state, buffer, rows(list, 1, list.height), state.disks.cursor, |_| None);
    if let Some(disk) = state.disk(state.disks.cursor) {
        let below = rows(page, page.height - details, details);
        rule(buffer, below, 0, &about(disk), theme);
        contents(state, buffer, rows(below, 1, details), disk);
    }
}

/// Draws one disk closely.
pub fn details(state: &State, buffer: &mut Buffer, page: Rect) {
    let Some(disk) = state.disk(state.disks.cursor) else { return };
    let theme = &state.options.theme;
    heading(state, buffer, rows(page, 1, 1), disk, true, None);
    let identity = &disk.identity;
    let word = |name: &str, value: Option<&str>| {
        value.filter(|value| !value.trim().is_empty()).map(|value| format!("{name} {}   ", text::clean(value.trim())))
    };
    let line = [
        word("serial", identity.serial.as_deref()),
        word("WWN", identity.wwn.as_deref()),
        word("id", disk.disk_id.as_deref()),
    ];
    let line: String = line.into_iter().flatten().collect();
    put(buffer, page, 2, 2, &cut(&line, usize::from(page.width.saturating_sub(2))), theme.dim);
    let sectors = format!(
        "sectors of {} bytes (medium {})   {}   {}",
        identity.sector_size,
        identity.physical_sector_size,
        if disk.rotational { "rotating" } else { "solid state" },
        about_table(disk),
    );
    put(buffer, page, 2, 3, &sectors, theme.dim);
    let bar = Rect { x: page.x + 1, width: page.width.saturating_sub(2), ..rows(page, 5, 4) };
    diskbar::draw(buffer, bar, &diskbar::segments(disk), Look::Boxed, theme);
    let measuring = state.disks.measuring.as_ref() == Some(identity);
    let legend = if measuring { text::MEASURING } else { text::LEGEND };
    put(buffer, page, 2, 9, legend, theme.dim);
    contents(state, buffer, rows(page, 11, page.height), disk);
}

/// Draws the disks to choose the one that will be overwritten.
pub fn targets(state: &State, buffer: &mut Buffer, page: Rect) {
    let Some(flow) = &state.flow else { return };
    let theme = &state.options.theme;
    let question = text::question(state.screen, flow);
    put(buffer, page, 1, 1, &cut(&question, usize::from(page.width.saturating_sub(2))), theme.heading);
    let body = rows(page, 3, page.height);
    if !listed(state, buffer, body) {
        return;
    }
    let unfit = |disk: &DiskView| flow.image.as_ref().and_then(|image| state.unfit(disk, image));
    disk_list(state, buffer, body, flow.target_cursor, unfit);
}

/// Draws why there is no list, if there is none.
fn listed(state: &State, buffer: &mut Buffer, page: Rect) -> bool {
    let theme = &state.options.theme;
    match &state.disks.list {
        Load::Idle | Load::Loading => put(buffer, page, 2, 2, text::READING_DISKS, theme.text),
        Load::Failed(why) => {
            for (row, line) in (2..).zip(wrap(&text::clean(why), usize::from(page.width.saturating_sub(4)))) {
                put(buffer, page, 2, row, &line, theme.bad);
            }
        }
        Load::Ready(list) if list.is_empty() => {
            put(buffer, page, 2, 2, text::NO_DISKS, theme.warn);
            for (row, line) in (4..).zip(wrap(text::NO_DISKS_ADVICE, usize::from(page.width.saturating_sub(4)))) {
                put(buffer, page, 2, row, &line, theme.text);
            }
        }
        Load::Ready(_) => return true,
    }
    false
}

/// Draws a list of disks with their bars, as tall as there is room.
fn disk_list(
    state: &State,
    buffer: &mut Buffer,
    area: Rect,
    cursor: usize,
    unfit: impl Fn(&DiskView) -> Option<String>,
) {
    let count = state.disk_count();
    let theme = &state.options.theme;
    let (look, each) = look(count, area.height);
    let gap = each - 1 - look.rows();
    let shown = usize::from((area.height + gap) / each).max(1);
    let first = first_shown(cursor, count, shown);
    let page = area;
    // The last column is for the marks that say that there are more.
    let area = Rect { width: area.width - if shown < count { 2.min(area.width) } else { 0 }, ..area };
    for (at, disk) in state.all_disks().enumerate().skip(first).take(shown) {
        let top = u16::try_from(at - first).unwrap_or(u16::MAX).saturating_mul(each);
        let item = rows(area, top, each);
        heading(state, buffer, item, disk, at == cursor, unfit(disk));
        let bar = Rect { x: item.x + 2, width: item.width.saturating_sub(3), ..rows(item, 1, look.rows()) };
        if let Some(error) = &disk.error {
            put(buffer, bar, 0, 0, &cut(&text::clean(error), usize::from(bar.width)), theme.warn);
        } else {
            diskbar::draw(buffer, bar, &diskbar::segments(disk), look, theme);
        }
    }
    more(state, buffer, page, first > 0, first + shown < count);
}

/// Chooses how tall disks are drawn: as tall as lets all be seen, else small. Returns the rows of one, with a gap.
fn look(count: usize, height: u16) -> (Look, u16) {
    let fits = |each: u16, gap: usize| count * usize::from(each) <= usize::from(height) + gap;
    match () {
        () if fits(6, 1) => (Look::Boxed, 6),
        () if fits(4, 1) => (Look::Usage, 4),
        () if fits(3, 0) => (Look::Usage, 3),
        () => (Look::Names, 2),
    }
}

/// Draws that a list goes on above or below.
pub(super) fn more(state: &State, buffer: &mut Buffer, area: Rect, above: bool, below: bool) {
    let theme = &state.options.theme;
    let column = area.width.saturating_sub(1);
    if above {
        put(buffer, area, column, 0, text::MORE_ABOVE, theme.warn);
    }
    if below {
        put(buffer, area, column, area.height.saturating_sub(1), text::MORE_BELOW, theme.warn);
    }
}

/// Draws the line that names a disk.
fn heading(state: &State, buffer: &mut Buffer, area: Rect, disk: &DiskView, marked: bool, unfit: Option<String>) {
    let theme = &state.options.theme;
    let identity = &disk.identity;
    let style = if marked { theme.selected } else { theme.text };
    let serial = identity.serial.as_deref().map(|serial| text::clean(serial.trim())).unwrap_or_default();
    let mut flags: Vec<String> = unfit.iter().cloned().collect();
    if unfit.is_none() {
        flags.extend((!disk.in_use.is_empty()).then(|| text::IN_USE.to_owned()));
        flags.extend(disk.read_only.then(|| text::READ_ONLY.to_owned()));
    }
    flags.extend((!disk.problems.is_empty()).then(|| text::TABLE_DAMAGED.to_owned()));
    let flags = if flags.is_empty() { String::new() } else { format!("[{}]", flags.join(", ")) };
    let columns = usize::from(area.width);
    let path = text::clean(&identity.path);
    // The end of a long path tells more than its start.
    let path = fit(&cut_front(&path, 24), width(&path).clamp(12, 24));
    let size = right(&Bytes(identity.len).to_string(), 9);
    let transport = fit(&identity.transport.to_string(), 7);
    let fixed = 2 + width(&path) + 1 + 9 + 2 + 7 + 1;
    let mut serial = cut_front(&serial, 15);
    if columns < fixed + width(&serial) + width(&flags) + 3 {
        // A narrow terminal leaves away what the lines below or another page show as well.
        serial.clear();
    }
    let room = columns.saturating_sub(fixed + width(&serial) + width(&flags) + 3);
    let model = identity.model.as_deref().map(|model| text::clean(model.trim())).unwrap_or_default();
    let model = fit(&model, room);
    let mark = if marked { "► " } else { "  " };
    let pieces = [mark, &path, " ", &size, "  ", &transport, " ", &model, " "].map(|piece| (piece, style));
    put_all(buffer, area, 0, 0, &pieces);
    let tail = columns.saturating_sub(width(&serial) + 1 + width(&flags) + usize::from(!serial.is_empty()));
    let flag_style = if unfit.is_some() { theme.bad } else { theme.warn };
    let tail_pieces = [(flags.as_str(), flag_style), (" ", style), (serial.as_str(), theme.dim)];
    put_all(buffer, area, u16::try_from(tail).unwrap_or(0), 0, &tail_pieces);
}

/// Says in a line what kind of disk it is.
fn about(disk: &DiskView) -> String {
    format!("{} ─ {}", text::clean(&disk.identity.path), about_table(disk))
}

fn about_table(disk: &DiskView) -> String {
    let partitions = disk.regions.iter().filter(|region| matches!(region.kind, RegionKind::Partition(_))).count();
    match partitions {
        0 => text::table(disk.table).to_owned(),
        1 => format!("{}, 1 partition", text::table(disk.table)),
        _ => format!("{}, {partitions} partitions", text::table(disk.table)),
    }
}

/// Draws what a disk holds: one line a partition, then what a person should know of it.
fn contents(state: &State, buffer: &mut Buffer, area: Rect, disk: &DiskView) {
    let theme = &state.options.theme;
    let mut remarks: Vec<String> = Vec::new();
    remarks.extend(disk.error.as_deref().map(text::clean));
    for used in &disk.in_use {
        remarks.push(format!("{} is {}", text::clean(&used.part), text::clean(&used.by)));
    }
    remarks.extend(disk.problems.iter().map(|problem| text::clean(&problem.to_string())));
    remarks.extend(state.measure_error(&disk.identity).map(text::clean));
    for region in &disk.regions {
        remarks.extend(region.notes.iter().map(|note| format!("{}: {}", region.kind, text::clean(note))));
    }
    let regions: Vec<&RegionView> = disk
        .regions
        .iter()
        .filter(|region| matches!(region.kind, RegionKind::Partition(_) | RegionKind::Whole))
        .collect();
    let mut row = 0;
    if !regions.is_empty() {
        put(buffer, area, 1, row, &columns(&text::PARTITION_HEADING.map(str::to_owned)), theme.heading);
        row += 1;
    }
    // Remarks matter more than the tenth partition: they get up to a third of the room.
    let kept = u16::try_from(remarks.len()).unwrap_or(u16::MAX).min(area.height / 3);
    let room = area.height.saturating_sub(row + kept);
    for (at, region) in regions.iter().enumerate() {
        let left = regions.len() - at;
        if row + 1 == room + 1 && left > 1 {
            put(buffer, area, 1, row, &format!("   ... and {left} more"), theme.dim);
            row += 1;
            break;
        }
        put(buffer, area, 1, row, &columns(&line(region)), theme.text);
        row += 1;
    }
    for remark in remarks.iter().take(usize::from(area.height.saturating_sub(row))) {
        put(buffer, area, 1, row, &cut(&format!("! {remark}"), usize::from(area.width.saturating_sub(2))), theme.warn);
        row += 1;
    }
}

/// Lays out one line of the table of partitions.
fn columns(cells: &[String; 7]) -> String {
    let [number, fs, name, size, used, free, state] = cells;
    format!(
        "{} {} {} {} {} {}  {}",
        right(number, 3),
        fit(fs, 10),
        fit(name, 19),
        right(size, 9),
        right(used, 9),
        right(free, 9),
        cut(state, 13),
    )
}

fn line(region: &RegionView) -> [String; 7] {
    let number = match region.kind {
        RegionKind::Partition(number) => number.to_string(),
        _ => String::new(),
    };
    let len = region.range.len();
    let shown = |bytes: u64| Bytes(bytes).to_string();
    let state = region.detected.as_ref().map_or("", |detected| match detected.state {
        fs::State::Clean => "",
        other => text::fs_state(other),
    });
    [
        number,
        region.detected.as_ref().map_or_else(|| text::NOTHING_KNOWN.to_owned(), text::content),
        diskbar::label(region).unwrap_or_default(),
        shown(len),
        region.used.map(shown).unwrap_or_default(),
        region.used.map(|used| shown(len.saturating_sub(used))).unwrap_or_default(),
        state.to_owned(),
    ]
}

//! A running job: phases, how far, how fast, how long, and what went wrong.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::{
    tui::{
        state::{Flow, PhaseLine, State},
        text,
        widgets::{cut, fit, gauge, graph, put, put_all, right, rows, rule, share, wrap},
    },
    units::Bytes,
};

/// Draws the page.
pub fn draw(state: &State, buffer: &mut Buffer, page: Rect) {
    let Some(flow) = &state.flow else { return };
    let theme = &state.options.theme;
    let wide = usize::from(page.width.saturating_sub(2));
    let title = flow.plan.ready().map(|plan| text::clean(&plan.title)).unwrap_or_default();
    let mut row = 1;
    for line in wrap(&title, wide).iter().take(2) {
        put(buffer, page, 1, row, line, theme.heading);
        row += 1;
    }
    row += 1;
    row += phases(state, buffer, rows(page, row, page.height), flow) + 1;
    progress(state, buffer, rows(page, row, 4), flow);
    row += 5;
    let problems = 4.min(page.height.saturating_sub(row));
    let room = page.height.saturating_sub(row + problems + 1);
    if room >= 3 {
        let area = Rect { x: page.x + 1, width: page.width.saturating_sub(2), ..rows(page, row, room.min(6)) };
        throughput(state, buffer, area, flow);
    }
    trouble(state, buffer, rows(page, page.height - problems, problems), flow);
}

/// Draws the phases that were, the one that is, and those that usually follow; returns how many rows that took.
fn phases(state: &State, buffer: &mut Buffer, area: Rect, flow: &Flow) -> u16 {
    let theme = &state.options.theme;
    let seen = &flow.running.phases;
    let mut row = 0;
    for (at, line) in seen.iter().enumerate() {
        let current = at + 1 == seen.len() && line.ended.is_none();
        let end = line.ended.unwrap_or(state.now);
        let took = text::duration(end.saturating_sub(line.began));
        let (mark, style) = if current { ("►", theme.selected) } else { (" ", theme.text) };
        let far = if current { percent(line) } else { text::DONE.to_owned() };
        let words = format!("{mark} {} {}  {}", fit(text::phase(line.phase), 32), right(&far, 6), right(&took, 12));
        put(buffer, area, 1, row, &words, style);
        row += 1;
    }
    // A phase that was passed over does not come any more.
    let usual = text::usual_phases(flow.job.as_ref());
    let passed = usual.iter().rposition(|phase| seen.iter().any(|line| line.phase == *phase)).map_or(0, |at| at + 1);
    for phase in usual.iter().skip(passed) {
        let words = format!("  {} {}", fit(text::phase(*phase), 32), text::TO_COME);
        put(buffer, area, 1, row, &words, theme.dim);
        row += 1;
    }
    row
}

fn percent(line: &PhaseLine) -> String {
    if line.progress.total == 0 {
        return String::new();
    }
    format!("{} %", share(line.progress.done, line.progress.total, 100))
}

/// Draws the bar and the figures of the phase under way.
fn progress(state: &State, buffer: &mut Buffer, area: Rect, flow: &Flow) {
    let theme = &state.options.theme;
    let running = &flow.running;
    let Some(line) = running.phases.last() else {
        return put(buffer, area, 1, 0, text::RUNNING_STARTS, theme.text);
    };
    let far = line.progress;
    let label = right(&percent(line), 6);
    let bar = Rect { x: area.x + 1, width: area.width.saturating_sub(10), ..rows(area, 0, 1) };
    gauge(buffer, bar, far.done, far.total, theme);
    put(buffer, area, area.width.saturating_sub(8), 0, &label, theme.selected);
    let of = if far.total > 0 { format!("{} of {}", Bytes(far.done), Bytes(far.total)) } else { String::new() };
    let speed = running.meter.speed().map(text::speed).unwrap_or_default();
    let left = running.meter.left(far.total).filter(|_| far.total > 0).map(text::time_left).unwrap_or_default();
    let elapsed = text::duration(state.now.saturating_sub(running.began));
    let pair = |name: &str, value: &str| (format!("{} ", fit(name, 12)), fit(value, 24));
    let figures = [
        [pair("Handled", &of), pair(text::TIME_LEFT, &left)],
        [pair(text::SPEED, &speed), pair(text::ELAPSED, &elapsed)],
    ];
    for (row, [first, second]) in (1..).zip(&figures) {
        let pieces =
            [(first.0.as_str(), theme.dim), (&first.1, theme.text), (&second.0, theme.dim), (&second.1, theme.text)];
        put_all(buffer, area, 1, row, &pieces);
    }
    let stored = running.phases.iter().map(|line| line.progress.stored).max().unwrap_or(0);
    if stored > 0 {
        let (name, value) = pair(text::STORED, &Bytes(stored).to_string());
        put_all(buffer, area, 1, 3, &[(&name, theme.dim), (&value, theme.text)]);
    }
}

/// Draws speed over time.
fn throughput(state: &State, buffer: &mut Buffer, area: Rect, flow: &Flow) {
    let theme = &state.options.theme;
    let rates = flow.running.meter.rates();
    if rates.len() == 0 {
        return;
    }
    let graph_area = rows(area, 1, area.height);
    let top = graph::draw(buffer, graph_area, rates, theme);
    rule(buffer, area, 0, &format!("last seconds, up to {}", text::speed(top)), theme);
}

/// Draws what went wrong, or that the job is about to stop.
fn trouble(state: &State, buffer: &mut Buffer, area: Rect, flow: &Flow) {
    let theme = &state.options.theme;
    let running = &flow.running;
    let wide = usize::from(area.width.saturating_sub(3));
    let style = if running.problem_count == 0 { theme.dim } else { theme.warn };
    let mut title = text::problems(running.problem_count);
    if running.cancelling {
        title = format!("{}  {title}", text::CANCELLING);
    }
    put(buffer, area, 1, 0, &cut(&title, wide), if running.cancelling { theme.warn } else { style });
    let room = usize::from(area.height.saturating_sub(1));
    let latest = running.problems.iter().skip(running.problems.len().saturating_sub(room));
    for (row, problem) in (1..).zip(latest) {
        put(buffer, area, 1, row, &cut(&format!("! {}", text::clean(problem)), wide), theme.warn);
    }
}

//! What `terrace top` draws.
//!
//! Eighty columns are enough, and what does not fit the height is left out from below: connections first. Tiers differ by
//! colour and by the pattern of their part of the bar, so that text alone says the same.

use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Row, Table};
use ratatui::{Frame, Terminal};

use crate::serve::interval::{Interval, is_read, is_write};
use crate::serve::report::{ConnectionReport, ExportReport, Report};
use crate::units::{show_bytes, show_bytes_rate, show_count, show_rate, show_seconds, show_us};

/// Of the frame that is printed.
const TEXT_WIDTH: u16 = 80;
/// Lines above the tables.
const HEAD_LINES: u16 = 6;

/// A tier as it is shown: name, its part of the bar, and its reads.
type Tier = (&'static str, &'static str, Color, fn(&Report) -> u64);

const TIERS: [Tier; 3] = [
    ("RAM", "█", Color::Green, |report| report.counters.read_ram_hits),
    ("SSD", "▓", Color::Blue, |report| report.counters.ssd_hits),
    ("disks", "░", Color::Yellow, |report| report.counters.disk_reads),
];

/// The frame as text, as high as it must be.
pub(super) fn text(lately: &Interval<'_>) -> String {
    let tables = [operations(lately).1, exports(lately).1, connections(lately).1];
    let height = HEAD_LINES + tables.iter().map(|lines| lines + 2).sum::<u16>();
    let backend = TestBackend::new(TEXT_WIDTH, height);
    let mut terminal = Terminal::new(backend).expect("memory takes every frame");
    terminal.draw(|frame| draw(frame, lately, None)).expect("memory takes every frame");
    let cells = terminal.backend().buffer().content().chunks(TEXT_WIDTH.into());
    let lines = cells.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

/// Draws what was lately, and a word about an answer that did not come.
pub(super) fn draw(frame: &mut Frame<'_>, lately: &Interval<'_>, notice: Option<&str>) {
    let tables = [operations(lately), exports(lately), connections(lately)];
    let [head, rest] =
        Layout::vertical([Constraint::Length(HEAD_LINES), Constraint::Min(0)]).areas(frame.area());
    draw_head(frame, head, lately, notice);
    let mut top = rest.y;
    for (table, lines) in tables {
        let height = (lines + 2).min(rest.bottom().saturating_sub(top));
        frame.render_widget(table, Rect { y: top, height, ..rest });
        top += height;
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, lately: &Interval<'_>, notice: Option<&str>) {
    let lines = [
        title(lately.later),
        reads(lately),
        bar(lately, area.width),
        dirty(lately.later),
        moved(lately),
        notice.map_or_else(|| state(lately.later), |notice| Line::from(notice.to_string()).bold().red()),
    ];
    for (line, row) in lines.into_iter().zip(area.rows()) {
        frame.render_widget(line, row);
    }
}

fn title(report: &Report) -> Line<'static> {
    let ssd = report.ssd_bytes.map_or_else(
        || "no SSD".into(),
        |bytes| {
            let cached = show_bytes(report.now.ssd_cached_blocks * report.block_bytes);
            format!("SSD {cached} of {}", show_bytes(bytes))
        },
    );
    let rest = format!(
        "  RAM {}  {ssd}  up {}  (q quits)",
        show_bytes(report.ram_bytes),
        show_seconds(report.running_seconds.floor())
    );
    Line::from(vec![Span::from("terrace").bold(), rest.into()])
}

fn reads(lately: &Interval<'_>) -> Line<'static> {
    let all = lately.count(|report| report.counters.reads);
    let mut spans =
        vec![format!("block reads {:>9}  ", show_rate(lately.rate(|report| report.counters.reads))).into()];
    for (name, part, color, of) in TIERS {
        let share = if all == 0 {
            "-".into()
        } else {
            format!("{:.1} %", lately.count(of) as f64 * 100.0 / all as f64)
        };
        spans.push(Span::from(part).fg(color));
        spans.push(format!(" {name} {share:>7}   ").into());
    }
    Line::from(spans)
}

/// As wide as the frame, each tier with its share of the reads.
fn bar(lately: &Interval<'_>, width: u16) -> Line<'static> {
    let all = lately.count(|report| report.counters.reads);
    let (mut seen, mut drawn, mut spans) = (0, 0, Vec::new());
    for (_, part, color, of) in TIERS {
        seen += lately.count(of);
        let end = (u64::from(width) * seen.min(all) + all / 2).checked_div(all).unwrap_or(0);
        spans.push(Span::from(part.repeat((end - drawn) as usize)).fg(color));
        drawn = end;
    }
    Line::from(spans)
}

fn dirty(report: &Report) -> Line<'static> {
    let now = &report.now;
    let in_blocks = |blocks: u64| show_bytes(blocks * report.block_bytes);
    Line::from(format!(
        "dirty RAM {} SSD {}  unsynced {}  queued disks {} SSD {}",
        in_blocks(now.dirty_blocks),
        in_blocks(now.ssd_dirty_blocks),
        in_blocks(now.unsynced_blocks),
        show_count(now.disk_queue_depth),
        show_count(now.ssd_queue_depth),
    ))
}

fn moved(lately: &Interval<'_>) -> Line<'static> {
    let rate = |of: fn(&Report) -> u64| show_bytes_rate(lately.rate(of));
    Line::from(format!(
        "disks read {} write {}  SSD read {} write {}",
        rate(|report| report.counters.disk_read_bytes),
        rate(|report| report.counters.disk_write_bytes),
        rate(|report| report.counters.ssd_read_bytes),
        rate(|report| report.counters.ssd_bytes_written),
    ))
}

fn state(report: &Report) -> Line<'static> {
    let clients = &report.clients;
    let line = format!(
        "clients {}   in flight {}   failed in all {}",
        show_count(clients.connections),
        show_count(clients.requests_in_flight),
        show_count(clients.failures)
    );
    let mut spans = vec![Span::from(line)];
    if let Some(failure) = &report.now.ssd_off_for {
        spans.push(Span::from(format!("   SSD OFF: its {failure} failed")).bold().red());
    }
    if report.now.failing_exports > 0 {
        spans.push(Span::from("   A DISK TAKES NO WRITES").bold().red());
    }
    if report.now.lost_blocks > 0 {
        let lost = show_bytes(report.now.lost_blocks * report.block_bytes);
        spans.push(Span::from(format!("   LOST: {lost}")).bold().red());
    }
    Line::from(spans)
}

/// A table with a line above it, and how many rows it has. The first column takes what room is left, numbers are to the
/// right.
fn table(head: &[&'static str], widths: &[u16], rows: Vec<Vec<String>>) -> (Table<'static>, u16) {
    let count = rows.len() as u16;
    let cell = |(column, text): (usize, String)| {
        let line = Line::from(text);
        Cell::from(if column == 0 { line } else { line.right_aligned() })
    };
    let row = |cells: Vec<String>| Row::new(cells.into_iter().enumerate().map(cell));
    let names = head.iter().map(|name| (*name).to_string()).collect();
    let widths = widths.iter().enumerate().map(|(column, &width)| match column {
        0 => Constraint::Min(width),
        _ => Constraint::Length(width),
    });
    let table = Table::new(rows.into_iter().map(row), widths)
        .header(row(names).style(Style::new().bold()))
        .block(Block::new().borders(Borders::TOP).border_style(Style::new().dim()));
    (table, count)
}

fn p99(quantile: Option<f64>) -> String {
    quantile.map_or_else(|| "-".into(), show_us)
}

/// What was ever asked for, of all exports together.
fn operations(lately: &Interval<'_>) -> (Table<'static>, u16) {
    let mut names: Vec<&str> = Vec::new();
    for operation in lately.later.exports.iter().flat_map(|export| &export.operations) {
        let is_used = operation.count + operation.errors > 0;
        if is_used && !names.contains(&operation.operation.as_str()) {
            names.push(&operation.operation);
        }
    }
    let row = |name: &&str| {
        let work = lately.work(None, |operation| operation == *name);
        vec![
            name.replace('_', " "),
            show_rate(work.per_second),
            show_bytes_rate(work.bytes_per_second),
            p99(work.times.quantile_us(0.5)),
            p99(work.times.quantile_us(0.99)),
            show_count(work.errors),
        ]
    };
    let head = ["operation", "requests", "bytes", "p50", "p99", "errors"];
    table(&head, &[14, 12, 12, 9, 9, 8], names.iter().map(row).collect())
}

fn exports(lately: &Interval<'_>) -> (Table<'static>, u16) {
    let row = |export: &ExportReport| {
        let reads = lately.work(Some(&export.name), is_read);
        let writes = lately.work(Some(&export.name), is_write);
        vec![
            // A name is one line, whatever is in it.
            export.name.escape_debug().to_string(),
            if export.read_only { "read-only".into() } else { export.mode.to_string() },
            show_rate(reads.per_second),
            show_bytes_rate(reads.bytes_per_second),
            p99(reads.times.quantile_us(0.99)),
            show_rate(writes.per_second),
            show_bytes_rate(writes.bytes_per_second),
        ]
    };
    let head = ["export", "mode", "reads", "read", "p99", "writes", "written"];
    table(&head, &[10, 9, 9, 11, 8, 9, 11], lately.later.exports.iter().map(row).collect())
}

fn connections(lately: &Interval<'_>) -> (Table<'static>, u16) {
    let row = |connection: &ConnectionReport| {
        let [requests, bytes] = lately.of_connection(connection);
        vec![
            connection.peer.escape_debug().to_string(),
            connection.export.as_ref().map_or("(handshake)".into(), |name| name.escape_debug().to_string()),
            show_count(connection.requests_in_flight),
            show_rate(requests),
            show_bytes_rate(bytes),
        ]
    };
    let head = ["client", "export", "in flight", "requests", "moved"];
    table(&head, &[24, 14, 9, 10, 11], lately.later.connections.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::report::tests::a_report;

    /// The frame of this size, as lines.
    fn drawn(width: u16, height: u16, later: &Report, notice: Option<&str>) -> Vec<String> {
        let earlier = a_report(10.0);
        let lately = Interval::between(Some(&earlier), later);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
        terminal.draw(|frame| draw(frame, &lately, notice)).expect("memory");
        let cells = terminal.backend().buffer().content().chunks(width.into());
        cells.map(|line| line.iter().map(|cell| cell.symbol()).collect()).collect()
    }

    #[test]
    fn a_frame_of_eighty_columns_has_rates_between_the_two_reports() {
        let lines = drawn(80, 24, &a_report(12.0), None);
        let line = |start: &str| {
            lines.iter().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{lines:#?}"))
        };
        assert!(lines[0].starts_with("terrace  RAM 1 GiB  SSD 16 GiB of 100 GiB  up 12.0 s"), "{lines:#?}");
        assert!(
            line("block reads").contains("910/s  █ RAM  87.9 %   ▓ SSD  11.0 %   ░ disks   1.1 %"),
            "{lines:#?}"
        );
        assert_eq!(lines[2], format!("{}{}{}", "█".repeat(70), "▓".repeat(9), "░"));
        assert!(line("dirty").contains("RAM 48 KiB SSD 16 KiB  unsynced 32 KiB"), "{lines:#?}");
        let words = |start| line(start).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words("read ram"), "read ram 800/s 3.1 MiB/s 2.0 us 33 us 0");
        assert_eq!(words("disk"), "disks read 4 KiB/s write 4 KiB/s SSD read 4 KiB/s write 390.6 KiB/s");
        assert_eq!(words("192.0.2.7"), "192.0.2.7:40000 disk 5 1,010/s 1.1 MiB/s");
    }

    #[test]
    fn a_small_terminal_shows_what_fits_and_none_is_too_small() {
        for (width, height) in [(1, 1), (20, 3), (40, 8), (80, 7), (300, 90)] {
            assert_eq!(drawn(width, height, &a_report(11.0), None).len(), usize::from(height));
        }
    }

    #[test]
    fn eighty_columns_are_enough_for_a_busy_service() {
        let mut report = a_report(12.0);
        let blocks = |mib: u64| mib << 20 >> 14;
        let now = &mut report.now;
        (now.dirty_blocks, now.ssd_dirty_blocks, now.unsynced_blocks) =
            (blocks(999), blocks(999), blocks(999));
        (now.disk_queue_depth, now.ssd_queue_depth) = (128, 64);
        let counters = &mut report.counters;
        for bytes in [
            &mut counters.disk_read_bytes,
            &mut counters.disk_write_bytes,
            &mut counters.ssd_read_bytes,
            &mut counters.ssd_bytes_written,
        ] {
            *bytes += (2 * 999_900) << 10;
        }
        let lines = drawn(80, 24, &report, None);
        for (start, end) in [("dirty ", "queued disks 128 SSD 64"), ("disks read", "write 976.8 MiB/s")] {
            let line = lines.iter().find(|line| line.starts_with(start)).expect(start);
            assert!(line.trim_end().ends_with(end), "{line}");
        }
    }

    #[test]
    fn trouble_is_said() {
        let mut report = a_report(11.0);
        report.now.ssd_off_for = Some("journal".into());
        report.now.lost_blocks = 2;
        let lines = drawn(100, 24, &report, None).join("\n");
        assert!(lines.contains("SSD OFF: its journal failed   LOST: 32 KiB"), "{lines}");
        report.now.ssd_off_for = None;
        report.now.failing_exports = 1;
        let lines = drawn(100, 24, &report, None).join("\n");
        assert!(lines.contains("   A DISK TAKES NO WRITES   LOST: 32 KiB"), "{lines}");
        assert!(drawn(80, 24, &report, Some("no answer")).join("\n").contains("no answer"));
    }

    #[test]
    fn the_text_of_a_frame_has_every_row_of_every_table() {
        let (earlier, mut later) = (a_report(1.0), a_report(2.0));
        let export = later.exports[0].clone();
        later.exports = (0..40)
            .map(|number| ExportReport { name: format!("disk{number}\u{1b}\n"), ..export.clone() })
            .collect();
        let text = text(&Interval::between(Some(&earlier), &later));
        assert_eq!(text.matches("\\u{1b}\\n").count(), 40, "{text}");
        assert!(
            text.contains("192.0.2.7:40000") && text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}

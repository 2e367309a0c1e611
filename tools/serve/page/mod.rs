//! The page of the service: what the tiers do, live and over up to ten minutes before.
//!
//! Everything on it is made here and shown without a script too; the script fetches what changes ([`parts`]) once a second
//! and puts it in place. Nothing comes from elsewhere, and both themes are one drawing: colours are roles, as on the page
//! of `tune` (`tools/page/theme.css`). What a client may have called itself or its export is text, never markup
//! ([`escape`]); besides, no script but the page's own runs, whatever comes.

mod plots;
mod tables;

use std::collections::BTreeMap;

use plots::{DISK, RAM, SSD, Scale, Series, WRITE, plot};

use super::history::{History, Point};
use super::interval::{Interval, is_read, is_write};
use super::report::Report;
use crate::page::escape;
use crate::units::{show_bytes, show_bytes_rate, show_count, show_rate, show_seconds, show_us};

pub(super) const STYLE: &str = concat!(include_str!("../../page/theme.css"), include_str!("page.css"));
pub(super) const SCRIPT: &str = include_str!("page.js");

/// What changes: HTML by the id of the element that it is in. One without anything to say is hidden.
pub(super) type Parts = BTreeMap<&'static str, String>;

/// The plots: name, title, and which parts of [`Parts`] they are.
const FIGURES: [(&str, &str); 5] = [
    ("reads", "Blocks read, by tier"),
    ("throughput", "What clients read and write"),
    ("latency", "Latency, 99th percentile"),
    ("dirty", "Not yet on the disks"),
    ("ssd", "Written to the SSD"),
];

/// The first stands among the plots, the others below.
const TABLES: [(&str, &str); 3] =
    [("sizes", "What other sizes would bring"), ("exports", "Exports"), ("connections", "Connections")];

/// The whole page, with `parts` in it.
pub(super) fn page(parts: &Parts) -> String {
    let part = |id: &str| parts.get(id).map_or("", String::as_str);
    let hidden = |id: &str| if part(id).is_empty() { " hidden" } else { "" };
    let figures: String = FIGURES
        .iter()
        .map(|(id, title)| {
            format!(
                "<figure{}>\n<h2>{title}</h2>\n<div id=\"{id}\">{}</div>\n</figure>\n",
                hidden(id),
                part(id)
            )
        })
        .collect();
    let tables: Vec<String> = TABLES
        .iter()
        .map(|(id, title)| {
            format!(
                "<section{}>\n<h2>{title}</h2>\n<div class=\"scroll\" id=\"{id}\" tabindex=\"0\" role=\"region\" \
                 aria-label=\"{title}\">{}</div>\n</section>\n",
                hidden(id),
                part(id)
            )
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <link rel=\"stylesheet\" href=\"page.css\">\n<title>Terrace: what the tiers do</title>\n</head>\n<body>\n<main>\n\
         <header>\n<div data-part><p class=\"eyebrow\" id=\"about\">{about}</p>\n<h1 id=\"lead\">{lead}</h1></div>\n\
         <button type=\"button\" id=\"pause\" aria-pressed=\"false\" hidden>Pause</button>\n</header>\n\
         <ul class=\"warnings\" id=\"gone\" role=\"status\" hidden><li>The service does not answer.</li></ul>\n\
         <div data-part{hidden_warnings}><ul class=\"warnings\" id=\"warnings\">{warnings}</ul></div>\n\
         <div data-part><dl class=\"tiles\" id=\"tiles\">{tiles}</dl></div>\n\
         <div class=\"figures\">\n{figures}{sizes}</div>\n{tables}\
         <footer>Tiles and tables tell of the last five seconds, what stands below a plot of its last one. <a href=\"metrics\">Metrics for \
         Prometheus</a></footer>\n</main>\n<script src=\"page.js\"></script>\n</body>\n</html>\n",
        about = part("about"),
        lead = part("lead"),
        hidden_warnings = hidden("warnings"),
        warnings = part("warnings"),
        tiles = part("tiles"),
        sizes = tables[0],
        tables = tables[1..].concat(),
    )
}

/// What changes, as it is now.
pub(super) fn parts(history: &History) -> Parts {
    let Some(lately) = history.lately() else { return Parts::new() };
    let points: Vec<Point> = history.points.iter().copied().collect();
    let report = lately.later;
    Parts::from([
        ("about", about(report)),
        ("lead", lead(&lately)),
        ("warnings", warnings(report)),
        ("tiles", tiles(&lately)),
        ("reads", reads(&points)),
        ("throughput", throughput(&points)),
        ("latency", latency(&points)),
        ("dirty", dirty(&points, report)),
        ("ssd", ssd(&points, report)),
        ("sizes", tables::sizes(report)),
        ("exports", tables::exports(&lately)),
        ("connections", tables::connections(&lately)),
    ])
}

fn about(report: &Report) -> String {
    let ssd =
        report.ssd_bytes.map_or_else(|| "no SSD".into(), |bytes| format!("{} of SSD", show_bytes(bytes)));
    format!(
        "Terrace {} · {} of RAM, {ssd} · running for {}",
        env!("CARGO_PKG_VERSION"),
        show_bytes(report.ram_bytes),
        show_seconds(report.running_seconds.floor())
    )
}

/// Where reads come from, in a sentence.
fn lead(lately: &Interval<'_>) -> String {
    let reads = lately.count(|report| report.counters.reads);
    if reads == 0 {
        return "Nobody reads at the moment".into();
    }
    let percent = |count: u64| format!("{:.1} %", count as f64 * 100.0 / reads as f64);
    let ram = percent(lately.count(|report| report.counters.read_ram_hits));
    let ssd = percent(lately.count(|report| report.counters.ssd_hits));
    let disk = percent(lately.count(|report| report.counters.disk_reads));
    if lately.later.ssd_bytes.is_some() {
        format!("{ram} of reads come from RAM, {ssd} from the SSD, {disk} wait for the disks")
    } else {
        format!("{ram} of reads come from RAM, {disk} wait for the disks")
    }
}

fn warnings(report: &Report) -> String {
    let now = &report.now;
    let mut said = Vec::new();
    if let Some(failure) = &now.ssd_off_for {
        said.push(format!(
            "The SSD was switched off, since its {failure} failed. The disks get everything now."
        ));
    }
    if now.lost_blocks > 0 {
        let bytes = show_bytes(now.lost_blocks * report.block_bytes);
        said.push(format!("{bytes} of what was written are lost; terrace ctl lost says which."));
    }
    if now.failing_exports > 0 {
        said.push(format!(
            "{} of the disks takes no writes: what it lacks is kept and tried again, and terrace ctl flush says why.",
            show_count(now.failing_exports)
        ));
    }
    if now.ssd_segments_unread > 0 {
        let segments = show_count(now.ssd_segments_unread);
        said.push(format!("The SSD is not all warm yet: {segments} segments have not been read."));
    }
    if let Some(failure) = report.recording.as_ref().and_then(|recording| recording.failure.as_ref()) {
        said.push(format!("The recording ended: {failure}."));
    }
    said.iter().map(|line| format!("<li>{}</li>", escape(line))).collect()
}

fn tiles(lately: &Interval<'_>) -> String {
    let report = lately.later;
    let (reads, writes) = (lately.work(None, is_read), lately.work(None, is_write));
    let in_blocks = |blocks: u64| show_bytes(blocks * report.block_bytes);
    let rate =
        |work: &super::interval::Work| [show_rate(work.per_second), show_bytes_rate(work.bytes_per_second)];
    let latency = |part| reads.times.quantile_us(part).map_or_else(|| "–".into(), show_us);
    let mut tiles = vec![
        ("reads", rate(&reads)),
        ("writes", rate(&writes)),
        ("read, p99", [latency(0.99), format!("median {}", latency(0.5))]),
        (
            "dirty in RAM",
            [
                in_blocks(report.now.dirty_blocks),
                format!("unsynced {}", in_blocks(report.now.unsynced_blocks)),
            ],
        ),
    ];
    if let Some(bytes) = report.ssd_bytes {
        let log = format!("{} dirty", in_blocks(report.now.ssd_dirty_blocks));
        let cached = in_blocks(report.now.ssd_cached_blocks);
        tiles.push(("on the SSD", [cached, format!("of {}; {log}", show_bytes(bytes))]));
        tiles.push((
            "SSD writes",
            [show_bytes_rate(lately.rate(|report| report.counters.ssd_bytes_written)), a_day(report)],
        ));
    }
    let clients = &report.clients;
    let in_flight = format!("requests in flight: {}", show_count(clients.requests_in_flight));
    tiles.push(("clients", [show_count(clients.connections), in_flight]));
    let errors = lately.count(|report| report.clients.failures);
    tiles.push(("requests failed", [show_count(clients.failures), format!("{} lately", show_count(errors))]));
    let tile = |(name, [value, more]): &(&str, [String; 2])| {
        format!("<div><dt>{name}</dt><dd>{}<small>{}</small></dd></div>", escape(value), escape(more))
    };
    tiles.iter().map(tile).collect()
}

/// What clean blocks write to the SSD in a day, if it goes on as since the start, against the budget.
fn a_day(report: &Report) -> String {
    let days = (report.running_seconds / 86_400.0).max(1e-9);
    let bytes = show_bytes((report.ssd_cached_bytes() as f64 / days) as u64);
    match report.ssd_write_budget_bytes_per_day {
        _ if report.running_seconds < 60.0 => "a day: not known yet".into(),
        Some(budget) => format!("clean: {bytes} a day of {}", show_bytes(budget)),
        None => format!("clean: {bytes} a day"),
    }
}

/// A plot, its legend with what each line is at, and a limit across it.
struct Figure<'a> {
    title: &'a str,
    points: &'a [Point],
    series: &'a [Series],
    scale: Scale,
    /// Behind each value.
    unit: &'a str,
    is_stacked: bool,
    /// A line across, and what it is called.
    limit: Option<(f64, &'a str)>,
}

impl Figure<'_> {
    fn html(&self) -> String {
        let svg = plot(self);
        let value = |value: f64| self.scale.show(value) + self.unit;
        let item = |class: &str, name: &str, value: &str| {
            format!("<li class=\"{class}\">{name} <b>{value}</b></li>")
        };
        let mut legend: String = self
            .series
            .iter()
            .map(|series| {
                let now = self.points.last().and_then(series.value);
                item(class_of(series), series.name, &now.map_or_else(|| "–".into(), value))
            })
            .collect();
        if let Some((limit, name)) = self.limit {
            legend += &item("mark", name, &value(limit));
        }
        format!("{svg}<ul class=\"legend\">{legend}</ul>")
    }
}

/// The role of a line's colour, as the style knows it.
fn class_of(series: &Series) -> &'static str {
    match series.color {
        RAM => "series-2",
        SSD => "series-0",
        DISK => "series-1",
        _ => "series-3",
    }
}

fn series(name: &'static str, color: plotters::style::RGBColor, value: fn(&Point) -> Option<f64>) -> Series {
    Series { name, color, value }
}

fn reads(points: &[Point]) -> String {
    let series = [
        series("RAM", RAM, |point| Some(point.from_ram)),
        series("SSD", SSD, |point| Some(point.from_ssd)),
        series("disks", DISK, |point| Some(point.from_disk)),
    ];
    let title = FIGURES[0].1;
    Figure { title, points, series: &series, scale: Scale::Count, unit: "/s", is_stacked: true, limit: None }
        .html()
}

fn throughput(points: &[Point]) -> String {
    let series = [
        series("read", SSD, |point| Some(point.read_bytes)),
        series("written", WRITE, |point| Some(point.written_bytes)),
    ];
    let title = FIGURES[1].1;
    Figure { title, points, series: &series, scale: Scale::Bytes, unit: "/s", is_stacked: false, limit: None }
        .html()
}

fn latency(points: &[Point]) -> String {
    let series = [
        series("RAM", RAM, |point| point.ram_p99_us),
        series("SSD", SSD, |point| point.ssd_p99_us),
        series("disks", DISK, |point| point.disk_p99_us),
        series("writes", WRITE, |point| point.write_p99_us),
    ];
    let title = FIGURES[2].1;
    Figure { title, points, series: &series, scale: Scale::Latency, unit: "", is_stacked: false, limit: None }
        .html()
}

fn dirty(points: &[Point], report: &Report) -> String {
    let mut series = vec![
        series("dirty in RAM", RAM, |point| Some(point.dirty_bytes)),
        series("written, not synced", WRITE, |point| Some(point.unsynced_bytes)),
    ];
    if report.ssd_bytes.is_some() {
        series.push(self::series("dirty on the SSD", SSD, |point| point.ssd_dirty_bytes));
    }
    let title = FIGURES[3].1;
    Figure { title, points, series: &series, scale: Scale::Bytes, unit: "", is_stacked: false, limit: None }
        .html()
}

/// Nothing without an SSD.
fn ssd(points: &[Point], report: &Report) -> String {
    if report.ssd_bytes.is_none() {
        return String::new();
    }
    let series = [
        series("all", SSD, |point| point.ssd_written_bytes),
        series("clean blocks", RAM, |point| point.ssd_cached_bytes),
    ];
    let budget = report.ssd_write_budget_bytes_per_day;
    let limit = budget.map(|bytes| (bytes as f64 / 86_400.0, "budget of clean blocks"));
    let title = FIGURES[4].1;
    Figure { title, points, series: &series, scale: Scale::Bytes, unit: "/s", is_stacked: false, limit }
        .html()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::report::tests::a_report;

    fn history(seconds: u32) -> History {
        let mut history = History::default();
        let began = std::time::Instant::now();
        for second in 1..=seconds {
            history.note(a_report(f64::from(second)), began + std::time::Duration::from_secs(second.into()));
        }
        history
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_every_part_has_its_place() {
        for seconds in [0, 1, 2, 700] {
            let history = history(seconds);
            assert!(history.points.len() <= crate::serve::history::POINTS_MAX);
            let parts = parts(&history);
            let page = page(&parts).replace("http://www.w3.org/2000/svg", "");
            for word in
                ["http://", "https://", "src=\"//", "@import", "url(", "onclick", "style=\"", "NaN", "inf\""]
            {
                assert!(!page.contains(word) && !STYLE.contains(word), "{word} after {seconds} s");
            }
            for id in parts.keys() {
                assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
            }
            assert_eq!(page.matches("<svg").count(), if seconds == 0 { 0 } else { FIGURES.len() });
            assert_eq!(page.matches("<figure hidden").count(), if seconds == 0 { FIGURES.len() } else { 0 });
        }
    }

    #[test]
    fn a_disk_that_takes_no_writes_is_a_warning() {
        let warned = |failing_exports| {
            let (mut history, mut report) = (History::default(), a_report(1.0));
            report.now.failing_exports = failing_exports;
            history.note(report, std::time::Instant::now());
            parts(&history)["warnings"].contains("1 of the disks takes no writes")
        };
        assert!(warned(1) && !warned(0));
    }

    #[test]
    fn what_a_client_calls_itself_stays_text() {
        let mut history = History::default();
        let mut report = a_report(1.0);
        let name = "</script><img src=x onerror=alert(1)>\"'&";
        report.exports[0].name = name.into();
        report.connections[0].peer = name.into();
        history.note(report, std::time::Instant::now());
        let page = page(&parts(&history));
        assert!(!page.contains("<img") && page.matches("&lt;img src=x").count() == 2, "{page}");
    }

    #[test]
    fn every_colour_in_a_legend_is_the_one_in_its_plot() {
        let parts = parts(&history(5));
        for (id, _) in FIGURES {
            for role in ["series-0", "series-1", "series-2", "series-3"] {
                let has = |text: &str| parts[id].contains(text);
                assert_eq!(
                    has(&format!("<li class=\"{role}\"")),
                    has(&format!("var(--{role})")),
                    "{id}: {role}"
                );
            }
        }
    }
}

//! The answer as text for people.

use std::fmt::Write as _;

use super::candidate::Candidate;
use super::measured::Measured;
use super::report::{Report, sizes};
use crate::table::table;
use crate::units::{show_bytes, show_count, show_seconds, show_us};

/// The whole answer.
pub(crate) fn show(report: &Report) -> String {
    let mut text = heading(report);
    text.push_str(&surface(report));
    let mut rows = Vec::new();
    for (name, candidate) in [
        ("now", &report.present),
        ("recommended", &report.recommendation),
        ("runner-up", &report.runner_up),
        ("fastest", &report.fastest),
    ] {
        rows.extend(candidate.as_ref().map(|candidate| row(name, candidate)));
    }
    if !rows.is_empty() {
        writeln!(text, "\n{}", table(&HEAD, rows)).expect("a string takes everything");
    }
    if !report.variants.is_empty() {
        writeln!(text, "\nAt the recommended sizes:\n{}", variants(report))
            .expect("a string takes everything");
    }
    if !report.measured.is_empty() {
        let rows = report.measured.iter().map(|one| measured_row(one).into()).collect();
        writeln!(text, "\nReplayed, predicted and measured:\n{}", table(&MEASURED_HEAD, rows))
            .expect("a string takes everything");
    }
    for line in changes(report).into_iter().chain(report.warnings.iter().cloned()) {
        writeln!(text, "{line}").expect("a string takes everything");
    }
    write!(text, "\n{}", report.sentence()).expect("a string takes everything");
    text
}

fn heading(report: &Report) -> String {
    let how = match report.method {
        "exact" => "simulated exactly".to_string(),
        "live" => format!("{:.2} % of the blocks simulated while it ran", report.sample_rate * 100.0),
        _ => format!("{} samples of {:.2} % of the blocks", report.samples, report.sample_rate * 100.0),
    };
    let traffic = traffic(report);
    let traffic = traffic.trim_end_matches('.');
    let name = report.format.map_or(String::new(), |format| format!(" ({})", format.name()));
    let units = report.units.as_ref().zip(report.volumes);
    let recorded = units.map(|(units, volumes)| recorded(units, report.trace_seconds, volumes) + "\n");
    format!(
        "{}{name}: {traffic}; {how}\n{}Share of reads that wait for the disk, by RAM and SSD:\n",
        report.trace,
        recorded.unwrap_or_default()
    )
}

/// How a trace was understood: what it counts in, how long it took, how many volumes it has.
pub(crate) fn recorded(units: &str, seconds: Option<f64>, volumes: usize) -> String {
    let time = seconds.map_or(String::new(), |seconds| format!(", {}", show_seconds(seconds)));
    format!("{units}{time}, {volumes} volume{}", if volumes == 1 { "" } else { "s" })
}

/// What was asked for, in a sentence.
pub(crate) fn traffic(report: &Report) -> String {
    let (references, block) = (show_count(report.references), show_bytes(report.block_bytes));
    match (report.requests, report.unique_blocks) {
        (Some(requests), Some(unique)) => format!(
            "{} requests touch {references} blocks of {block}, {} different ones.",
            show_count(requests),
            show_count(unique)
        ),
        _ => format!("{references} references to blocks of {block}."),
    }
}

/// RAM downwards, SSD to the right; `*` is what is recommended, brackets what breaks a constraint.
fn surface(report: &Report) -> String {
    let mut ssds: Vec<u64> = report.surface.iter().map(|one| one.cell.ssd_bytes).collect();
    ssds.sort_unstable();
    ssds.dedup();
    let name = |&bytes: &u64| if bytes == 0 { "no SSD".to_string() } else { show_bytes(bytes) };
    let head: Vec<String> = std::iter::once("RAM".to_string()).chain(ssds.iter().map(name)).collect();
    let rows = report.surface.chunks(ssds.len()).map(|row| {
        let cell = |one: &Candidate| {
            let share = match one.cell.disk_share_error {
                error if error > 0.0 => format!("{:.1} ±{:.1}", one.cell.disk_share * 100.0, error * 100.0),
                _ => format!("{:.1} %", one.cell.disk_share * 100.0),
            };
            let is_taken = report.recommendation.is_some_and(|taken| taken.cell == one.cell);
            match (is_taken, report.constraints.keeps(one)) {
                (true, _) => format!("* {share}"),
                (_, false) => format!("({share})"),
                _ => share,
            }
        };
        std::iter::once(show_bytes(row[0].cell.ram_bytes)).chain(row.iter().map(cell)).collect()
    });
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    table(&head, rows.collect()).to_string()
}

const HEAD: [&str; 10] =
    ["", "RAM", "index", "SSD", "disk reads", "mean", "p99", "written a day", "life", "price"];

fn row(name: &str, one: &Candidate) -> Vec<String> {
    let unknown = || "-".to_string();
    vec![
        name.into(),
        show_bytes(one.cell.ram_bytes),
        show_bytes(one.cell.index_bytes),
        if one.cell.ssd_bytes == 0 { unknown() } else { show_bytes(one.cell.ssd_bytes) },
        format!("{:.2} %", one.cell.disk_share * 100.0),
        show_us(one.read_mean_us),
        show_us(one.read_p99_us),
        one.ssd_bytes_a_day
            .filter(|_| one.cell.ssd_bytes > 0)
            .map_or_else(unknown, |bytes| show_bytes(bytes as u64)),
        one.life_years.map_or_else(unknown, show_years),
        format!("{:.2}", one.price),
    ]
}

/// `40 days`, `3.4 years`; beyond a century nobody knows.
pub(crate) fn show_years(years: f64) -> String {
    match years {
        years if years >= 100.0 => "> 100 years".into(),
        years if years < 1.0 => {
            let days = (years * 365.25).round();
            format!("{days} day{}", if days == 1.0 { "" } else { "s" })
        }
        years => format!("{years:.1} years"),
    }
}

fn variants(report: &Report) -> comfy_table::Table {
    let rows = report.variants.iter().map(|variant| {
        let shift = if variant.shift_bytes == 0 { "-".into() } else { show_bytes(variant.shift_bytes) };
        vec![
            show_bytes(variant.block_bytes),
            shift,
            show_count(variant.references),
            format!("{:.0}", variant.disk_reads_per_1000_requests),
            show_bytes(variant.disk_bytes_read as u64),
            show_bytes(variant.ssd_bytes_written as u64),
            show_bytes(variant.index_bytes),
        ]
    });
    let head =
        ["block", "shift", "references", "disk reads / 1000 requests", "disk read", "SSD written", "index"];
    table(&head, rows.collect())
}

/// Of replays: what was predicted, what was measured, and by how many points shares of reads differ.
pub(crate) const MEASURED_HEAD: [&str; 8] =
    ["replay of", "block", "RAM", "SSD", "from RAM", "from SSD", "from disk", "mean read"];

/// `predicted, measured (difference)` in each column.
pub(crate) fn measured_row(one: &Measured) -> [String; 8] {
    let share = |predicted: f64, measured: f64| {
        let (predicted, measured) = (predicted * 100.0, measured * 100.0);
        format!("{predicted:.2} %, {measured:.2} % ({:+.2})", measured - predicted)
    };
    let (predicted, measured) = (&one.predicted, &one.measured);
    let mean = |us: Option<f64>| us.map_or_else(|| "-".to_string(), show_us);
    [
        one.trace.clone(),
        show_bytes(one.block_bytes),
        show_bytes(one.ram_bytes),
        if one.ssd_bytes == 0 { "-".into() } else { show_bytes(one.ssd_bytes) },
        share(predicted.ram, measured.ram),
        share(predicted.ssd, measured.ssd),
        share(predicted.disk, measured.disk),
        format!("{}, {}", mean(one.predicted_mean_us), mean(one.measured_mean_us)),
    ]
}

/// What would change the answer, a line each.
pub(crate) fn changes(report: &Report) -> Vec<String> {
    let line = |change: &super::choose::Change| {
        let times = if change.factor > 1.0 {
            format!("{:.0} times", change.factor)
        } else {
            format!("1/{:.0} of", 1.0 / change.factor)
        };
        format!("With {times} {}: {}.", change.what, sizes(change.ram_bytes, change.ssd_bytes))
    };
    let said: Vec<String> = report.changes.iter().map(line).collect();
    if said.is_empty() && report.recommendation.is_some() {
        return vec!["No price or latency up to eight times as high or as low changes the answer.".into()];
    }
    said
}

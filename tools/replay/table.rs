//! A report as tables for people.

use std::fmt::Write as _;

use comfy_table::Table;

use super::latency::Percentiles;
use super::live::Recorded;
use super::report::{Measures, Report, Setup};
use crate::table::{share, table};
use crate::units::{show_bytes, show_count, show_seconds, show_us};

/// The whole report.
pub(super) fn show(report: &Report) -> String {
    let total = &report.total;
    let mut text = heading(report);
    writeln!(text, "{}", answers(total)).expect("a string takes everything");
    if !report.setup.simulated {
        writeln!(text, "{}", transfers(report)).expect("a string takes everything");
    }
    if report.passes.len() > 1 {
        writeln!(text, "{}", passes(report)).expect("a string takes everything");
    }
    text.push_str(&summary(report));
    if let Some(recorded) = &report.recorded {
        write!(text, "\n{}", recording(recorded)).expect("a string takes everything");
    }
    if let Some(answer) = &report.what_if {
        write!(text, "\n\n{}", crate::tune::show(answer)).expect("a string takes everything");
    } else if report.is_what_if_short {
        text.push_str("\nwhat other sizes would do: the cache was asked for too little to tell");
    }
    text
}

fn recording(recorded: &Recorded) -> String {
    let mut text = format!(
        "recorded {} requests at {}: {} file{}, {}",
        show_count(recorded.requests),
        recorded.path,
        recorded.files,
        if recorded.files == 1 { "" } else { "s" },
        show_bytes(recorded.bytes)
    );
    if recorded.requests_lost > 0 {
        write!(text, "; {} found no room", show_count(recorded.requests_lost))
            .expect("a string takes everything");
    }
    if let Some(failure) = &recorded.failure {
        write!(text, "; it ended early: {failure}").expect("a string takes everything");
    }
    text
}

/// What was replayed, as the trace's content showed it: two lines.
pub(super) fn trace(setup: &Setup, requests: u64, passes: usize) -> String {
    let requests = show_count(requests);
    let mut text = format!("{} ({}): {requests} requests", setup.trace, setup.format);
    let mut add = |part: String| text.push_str(&part);
    if passes > 1 {
        add(format!(" in {passes} passes"));
    }
    if setup.skipped_commands > 0 {
        add(format!(", {} other commands passed over", show_count(setup.skipped_commands)));
    }
    add(format!("\n{}", setup.units));
    if let Some(seconds) = setup.duration_seconds {
        add(format!(", {}", show_seconds(seconds)));
    }
    if setup.volumes > 1 {
        add(format!(", {} volumes", show_count(setup.volumes as u64)));
    }
    if let Some(shift) = setup.aligning_shift_bytes {
        add(format!("; most requests begin off a page, --shift {shift} aligns them"));
    }
    text
}

fn heading(report: &Report) -> String {
    let setup = &report.setup;
    let size = |bytes: Option<u64>, blocks: Option<u64>| match (bytes, blocks) {
        (Some(bytes), _) => Some(show_bytes(bytes)),
        (_, Some(blocks)) => Some(format!("{} blocks", show_count(blocks))),
        (None, None) => None,
    };
    let ram = size(setup.ram_bytes, setup.ram_blocks).unwrap_or_default();
    let ssd =
        size(setup.ssd_bytes, setup.ssd_blocks).map_or("no SSD tier".into(), |size| format!("SSD {size}"));
    let block = show_bytes(setup.block_bytes);
    let mut text = trace(setup, report.total.requests, report.passes.len());
    let how = match setup.policy {
        Some(policy) => format!("simulated with {}", policy.title()),
        None if setup.simulated => "simulated".into(),
        None => format!("{} thread{}", setup.threads, if setup.threads == 1 { "" } else { "s" }),
    };
    let mode = match setup.write_mode {
        super::args::Write::Around => "write-around",
        super::args::Write::Through => "write-through",
        super::args::Write::Back => "write-back",
        super::args::Write::BackSsd if setup.ordered => "write-back by a log on the SSD, in order",
        super::args::Write::BackSsd => "write-back by a log on the SSD",
    };
    writeln!(text, "\nRAM {ram}, {ssd}, blocks of {block}, {mode}, {how}")
        .expect("a string takes everything");
    text
}

/// Where the blocks came from, and how long requests waited for them.
fn answers(total: &Measures) -> Table {
    let counters = &total.counters;
    let latency = |pick: fn(&super::latency::LatencySummary) -> Option<Percentiles>| {
        total.latency_us.as_ref().and_then(pick)
    };
    let is_timed = total.latency_us.is_some();
    let mut head = vec!["", "blocks", "share"];
    if is_timed {
        head.extend(["requests", "mean", "p50", "p90", "p99", "p99.9", "max"]);
    }
    let row = |name: &str, blocks: u64, whole: u64, times: Option<Percentiles>| {
        let mut row = vec![name.to_string(), show_count(blocks), share(blocks, whole)];
        match times {
            Some(times) => {
                row.push(show_count(times.count));
                let points = [times.mean, times.p50, times.p90, times.p99, times.p99_9, times.max];
                row.extend(points.map(show_us));
            }
            None if is_timed => row.extend(["0", "-", "-", "-", "-", "-", "-"].map(String::from)),
            None => {}
        }
        row
    };
    let (reads, all) = (counters.reads, counters.references);
    let mut rows = vec![
        row("reads from RAM", counters.read_ram_hits, reads, latency(|times| times.ram)),
        row("reads from SSD", counters.ssd_hits, reads, latency(|times| times.ssd)),
        row("reads from disk", counters.disk_reads, reads, latency(|times| times.disk)),
    ];
    if counters.writes > 0 {
        rows.push(row("writes", counters.writes, all, latency(|times| times.write)));
    }
    rows.push(row("all", all, all, latency(|times| times.all)));
    table(&head, rows)
}

/// What the devices had to do.
fn transfers(report: &Report) -> Table {
    let counters = &report.total.counters;
    let mean = |bytes: u64, operations: u64| bytes.checked_div(operations).map_or("-".into(), show_bytes);
    let row = |name: &str, bytes: u64, operations: u64| {
        vec![name.to_string(), show_bytes(bytes), show_count(operations), mean(bytes, operations)]
    };
    let mut rows = vec![
        row("disk read", counters.disk_read_bytes, counters.disk_read_operations),
        row("disk written", counters.disk_write_bytes, counters.disk_write_operations),
    ];
    if report.setup.ssd_bytes.or(report.setup.ssd_blocks).is_some() {
        rows.push(row("SSD read", counters.ssd_read_bytes, counters.ssd_read_operations));
        // Appends alone: what else is written there is a few percent of the bytes.
        let appended =
            (counters.ssd_blocks_written + counters.ssd_blocks_reinserted) * report.setup.block_bytes;
        let mut written = row("SSD written", counters.ssd_bytes_written, counters.ssd_write_operations);
        written[3] = mean(appended, counters.ssd_write_operations);
        rows.push(written);
    }
    table(&["", "bytes", "operations", "mean size"], rows)
}

fn passes(report: &Report) -> Table {
    let row = |(index, pass): (usize, &super::report::PassReport)| {
        let counters = &pass.measures.counters;
        let first = &pass.first_requests.counters;
        vec![
            (index + 1).to_string(),
            share(counters.read_ram_hits, counters.reads),
            share(counters.ssd_hits, counters.reads),
            share(counters.disk_reads, counters.reads),
            share(first.read_ram_hits + first.ssd_hits, first.reads),
            format!("{:.2} s", pass.measures.seconds),
        ]
    };
    let head = ["pass", "RAM", "SSD", "disk", "hits of the first 10,000 requests", "time"];
    table(&head, report.passes.iter().enumerate().map(row).collect())
}

fn summary(report: &Report) -> String {
    let total = &report.total;
    let counters = &total.counters;
    let mut text =
        format!("RAM held {} of all blocks that were touched", share(counters.ram_hits, counters.references));
    if let Some(amplification) = total.ssd_write_amplification {
        let blocks = show_count(counters.ssd_blocks_written);
        write!(text, "; the SSD took {blocks} blocks, {amplification:.2} bytes written for each byte")
            .expect("a string takes everything");
    }
    let rate = show_count(total.requests_per_second as u64);
    write!(text, ".\n{:.2} s, {rate} requests a second", total.seconds).expect("a string takes everything");
    if !report.setup.simulated {
        write!(text, "; durable {:.2} s later", total.settle_seconds).expect("a string takes everything");
        if total.wrong_blocks == 0 {
            let reads = show_count(counters.reads);
            write!(text, "; every byte of {reads} blocks read was right").expect("a string takes everything");
        }
    }
    text.push('.');
    text
}

//! A report as tables for people.

use std::fmt::Write as _;

use comfy_table::Table;

use super::latency::{Class, Percentiles};
use super::live::Recorded;
use super::predict::Prediction;
use super::report::{Measures, Report, Setup};
use crate::mode::Mode;
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
    if let Some(distribution) = &total.distribution {
        writeln!(text, "{}", punctuality(total, distribution)).expect("a string takes everything");
    }
    if let Some(prediction) = &report.prediction {
        writeln!(text, "{}", predicted(total, prediction)).expect("a string takes everything");
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
        if let Some(speed) = setup.speed {
            add(format!(", {} at {speed}x", show_seconds(seconds / speed)));
        }
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
        None if setup.speed.is_some() => format!("at most {} requests under way", setup.threads),
        None => format!("{} thread{}", setup.threads, if setup.threads == 1 { "" } else { "s" }),
    };
    let mode = match setup.write_mode {
        Mode::Around => "write-around",
        Mode::Through => "write-through",
        Mode::Back => "write-back",
        Mode::BackSsd if setup.ordered => "write-back by a log on the SSD, in order",
        Mode::BackSsd => "write-back by a log on the SSD",
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
    for (name, times) in
        [("flushes", latency(|times| times.flush)), ("discards", latency(|times| times.discard))]
    {
        if times.is_some() {
            let mut row = row(name, 0, 0, times);
            (row[1], row[2]) = ("-".into(), "-".into());
            rows.push(row);
        }
    }
    rows.push(row("all", all, all, latency(|times| times.all)));
    table(&head, rows)
}

/// How late requests were in an open loop, beside what they took.
fn punctuality(total: &Measures, distribution: &[Class]) -> String {
    let requests: u64 = distribution.iter().map(|class| class.lateness).sum();
    let class = |class: &Class| {
        let bound = class.up_to_us.map_or("longer".into(), |us| format!("under {}", show_us(us as f64)));
        let counts = [class.lateness, class.latency, class.latency_from_deadline];
        std::iter::once(bound).chain(counts.map(|count| share(count, requests))).collect()
    };
    let all = |times: &Option<super::latency::LatencySummary>| times.as_ref().and_then(|times| times.all);
    let columns = [total.lateness_us, all(&total.latency_us), all(&total.latency_from_deadline_us)];
    let point = |name: &str, pick: fn(&Percentiles) -> f64| {
        let shown = columns.map(|column| column.map_or("-".into(), |times| show_us(pick(&times))));
        std::iter::once(name.to_string()).chain(shown).collect()
    };
    let mut rows: Vec<Vec<String>> = distribution.iter().map(class).collect();
    rows.push(point("mean", |times| times.mean));
    rows.push(point("p50", |times| times.p50));
    rows.push(point("p99", |times| times.p99));
    rows.push(point("p99.9", |times| times.p99_9));
    rows.push(point("max", |times| times.max));
    let head = ["requests", "late by", "answered in", "after they were due"];
    let mut text = table(&head, rows).to_string();
    if let Some(first) = total.first_held_back_seconds {
        let held_back = show_count(total.held_back);
        write!(
            text,
            "\n{held_back} requests were due while as many as --in-flight allows were under way, the first after {}: the \
             loop was not open then",
            show_seconds(first)
        )
        .expect("a string takes everything");
    }
    text
}

/// What a simulation says, beside what was measured.
fn predicted(total: &Measures, prediction: &Prediction) -> String {
    let counters = &total.counters;
    let reads = prediction.read_ram_hits + prediction.ssd_hits + prediction.disk_reads;
    let hits = |name: &str, predicted: u64, measured: u64, points: f64| {
        let shares = [share(predicted, reads), share(measured, counters.reads)];
        vec![name.into(), shares[0].clone(), shares[1].clone(), format!("{points:+.2} points")]
    };
    let more = |predicted: f64, measured: f64| {
        if predicted > 0.0 { format!("{:+.1} %", (measured / predicted - 1.0) * 100.0) } else { "-".into() }
    };
    let amount = |name: &str, predicted: u64, measured: u64, show: fn(u64) -> String| {
        vec![name.into(), show(predicted), show(measured), more(predicted as f64, measured as f64)]
    };
    let mut rows: Vec<Vec<String>> = vec![
        hits("reads from RAM", prediction.read_ram_hits, counters.read_ram_hits, prediction.ram_points),
        hits("reads from SSD", prediction.ssd_hits, counters.ssd_hits, prediction.ssd_points),
        hits("reads from disk", prediction.disk_reads, counters.disk_reads, prediction.disk_points),
        amount("blocks read from disk", prediction.disk_reads, counters.disk_reads, show_count),
        amount("SSD written", prediction.ssd_bytes_written, counters.ssd_bytes_written, show_bytes),
    ];
    for (name, predicted, measured) in [
        ("mean read latency", prediction.read_mean_us, prediction.measured_read_mean_us),
        ("p99 of it", prediction.read_p99_us, prediction.measured_read_p99_us),
    ] {
        if let Some((predicted, measured)) = predicted.zip(measured) {
            rows.push(vec![name.into(), show_us(predicted), show_us(measured), more(predicted, measured)]);
        }
    }
    let mut text = table(&["", "predicted", "measured", "difference"], rows).to_string();
    if counters.demotions_dropped > 0 {
        let dropped = show_count(counters.demotions_dropped);
        write!(text, "\n{dropped} blocks did not get to the SSD because it was busy; the prediction is for one that is not")
            .expect("a string takes everything");
    }
    text
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

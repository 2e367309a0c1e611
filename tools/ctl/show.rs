//! Answers of a service as text for people.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::serve::control::Command;
use crate::serve::report::{
    ConnectionReport, ExportReport, Lost, OperationReport, Report, Unplug, WhatIfReport,
};
use crate::table::{share, table, table_with_text};
use crate::tune::{OutlookReport, ProgressReport};
use crate::units::{show_bytes, show_count, show_seconds, show_us};

/// What `command` was answered with.
pub(super) fn show(command: &Command, answer: Value) -> Result<String> {
    Ok(match command {
        Command::Stats => stats(&read(answer)?),
        Command::Exports => exports(&read::<Vec<ExportReport>>(answer)?),
        Command::Connections => connections(&read::<Vec<ConnectionReport>>(answer)?),
        Command::WhatIf => what_if(&read(answer)?),
        Command::Lost { .. } => lost(&read::<Vec<Lost>>(answer)?),
        Command::SafeToUnplug => {
            let unplug: Unplug = read(answer)?;
            format!("{}: {}", if unplug.safe { "yes" } else { "no" }, unplug.why)
        }
        _ => read(answer)?,
    })
}

/// An answer as an object.
///
/// # Errors
/// When it is none of these.
pub(crate) fn read<T: DeserializeOwned>(answer: Value) -> Result<T> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::caused("the service answers in another way", error)
            .remedy("ask with its own version, or --json")
    })
}

fn stats(report: &Report) -> String {
    let (counters, now) = (&report.counters, &report.now);
    let row = |what: &str, value: String| vec![what.to_string(), value];
    let in_blocks = |blocks: u64| show_bytes(blocks * report.block_bytes);
    let ssd = match (&now.ssd_off_for, report.ssd_bytes) {
        (Some(failure), _) => format!("switched off: {failure}"),
        (None, Some(bytes)) => format!("{} of {}", in_blocks(now.ssd_cached_blocks), show_bytes(bytes)),
        (None, None) => "none".into(),
    };
    let rows = vec![
        row("running for", show_seconds(report.running_seconds)),
        row("RAM", show_bytes(report.ram_bytes)),
        row("on the SSD", ssd),
        row("reads from RAM", share(counters.read_ram_hits, counters.reads)),
        row("reads from the SSD", share(counters.ssd_hits, counters.reads)),
        row("reads from the disks", share(counters.disk_reads, counters.reads)),
        row("dirty in RAM", in_blocks(now.dirty_blocks)),
        row("dirty on the SSD", in_blocks(now.ssd_dirty_blocks)),
        row("lost", in_blocks(now.lost_blocks)),
        row("exports whose disk takes nothing", show_count(now.failing_exports)),
        row("written to the SSD", show_bytes(counters.ssd_bytes_written)),
        row("read from the disks", show_bytes(counters.disk_read_bytes)),
        row("written to the disks, with what failed", show_bytes(counters.disk_write_bytes)),
        row("clients", show_count(report.clients.connections)),
    ];
    let mut text = table(&["tiers", ""], rows).to_string();
    for export in &report.exports {
        text += &format!("\n{}", operations(export));
    }
    text
}

fn operations(export: &ExportReport) -> String {
    let time = |us: Option<f64>| us.map_or_else(|| "-".into(), show_us);
    let used = export.operations.iter().filter(|operation| operation.count + operation.errors > 0);
    let row = |operation: &OperationReport| {
        vec![
            operation.operation.replace('_', " "),
            show_count(operation.count),
            show_bytes(operation.bytes),
            time(operation.mean_us),
            time(operation.p50_us),
            time(operation.p99_us),
            show_count(operation.errors),
        ]
    };
    let head = [export.name.as_str(), "requests", "bytes", "mean", "p50", "p99", "errors"];
    table(&head, used.map(row).collect()).to_string()
}

fn exports(exports: &[ExportReport]) -> String {
    let row = |export: &ExportReport| {
        let mode = if export.read_only { "read-only".into() } else { export.mode.to_string() };
        vec![export.name.clone(), show_bytes(export.bytes), mode, export.backing.clone()]
    };
    table_with_text(&["export", "size", "mode", "backing store"], exports.iter().map(row).collect())
        .to_string()
}

fn lost(lost: &[Lost]) -> String {
    if lost.is_empty() {
        return "nothing is lost".into();
    }
    // Bytes, as `forget` takes them.
    let row = |lost: &Lost| vec![lost.export.clone(), lost.offset.to_string(), lost.bytes.to_string()];
    table_with_text(&["export", "offset", "bytes"], lost.iter().map(row).collect()).to_string()
}

fn connections(connections: &[ConnectionReport]) -> String {
    let row = |connection: &ConnectionReport| {
        vec![
            connection.peer.clone(),
            show_seconds(connection.connected_seconds),
            show_count(connection.requests),
            show_bytes(connection.bytes_read),
            show_bytes(connection.bytes_written),
            if connection.tls { "yes".into() } else { "no".into() },
            connection.export.clone().unwrap_or_else(|| "(handshake)".into()),
        ]
    };
    let head = ["client", "for", "requests", "read", "written", "TLS", "export"];
    table_with_text(&head, connections.iter().map(row).collect()).to_string()
}

fn what_if(report: &WhatIfReport) -> String {
    if report.outlooks.is_empty() {
        return ProgressReport::show(report.progress);
    }
    let percent = |ratio: f64| format!("{:.1} %", ratio * 100.0);
    let with_error = |ratio: f64, error: f64| format!("{} ± {:.1}", percent(ratio), error * 100.0);
    let row = |outlook: &OutlookReport| {
        vec![
            show_bytes(outlook.ram_bytes),
            show_bytes(outlook.ssd_bytes),
            with_error(outlook.read_ram_ratio, outlook.read_ram_ratio_error),
            percent(outlook.read_ssd_ratio),
            with_error(outlook.read_disk_ratio, outlook.read_disk_ratio_error),
            if outlook.is_present { "now".into() } else { String::new() },
        ]
    };
    let head = ["RAM", "SSD", "reads from RAM", "from the SSD", "from the disks", ""];
    table_with_text(&head, report.outlooks.iter().map(row).collect()).to_string()
}

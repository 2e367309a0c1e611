//! The tables of the page.

use crate::page::canvas::heat;
use crate::page::escape;
use crate::serve::interval::{Interval, is_read, is_write};
use crate::serve::report::{ConnectionReport, ExportReport, Report};
use crate::tune::{OutlookReport, ProgressReport};
use crate::units::{show_bytes, show_bytes_rate, show_count, show_rate, show_seconds, show_us};

/// A table whose first columns, `texts` of them, are text and the others numbers. The first names its row.
fn table(head: &[&str], texts: usize, rows: &[Vec<String>]) -> String {
    let class = |column: usize| if column < texts { " class=\"text\"" } else { "" };
    let names: String = head
        .iter()
        .enumerate()
        .map(|(column, name)| format!("<th scope=\"col\"{}>{name}</th>", class(column)))
        .collect();
    let row = |cells: &Vec<String>| {
        let cells = cells.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
            _ => format!("<td{}>{}</td>", class(column), escape(cell)),
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>")
}

/// The disks, busiest last seconds and all: what is done with each.
pub(super) fn exports(lately: &Interval<'_>) -> String {
    let report = lately.later;
    let row = |export: &ExportReport| {
        let of = |is_wanted: fn(&str) -> bool| lately.work(Some(&export.name), is_wanted);
        let (reads, writes, all) = (of(is_read), of(is_write), of(|_| true));
        let p99 = |part: Option<f64>| part.map_or_else(|| "–".into(), show_us);
        let errors: u64 = export.operations.iter().map(|operation| operation.errors).sum();
        let mode = if export.read_only { "read-only".into() } else { export.mode.to_string() };
        vec![
            export.name.clone(),
            mode,
            show_bytes(export.bytes),
            show_rate(reads.per_second),
            show_bytes_rate(reads.bytes_per_second),
            p99(reads.times.quantile_us(0.99)),
            show_rate(writes.per_second),
            show_bytes_rate(writes.bytes_per_second),
            p99(writes.times.quantile_us(0.99)),
            show_bytes(export.dirty_blocks * report.block_bytes),
            if all.errors > 0 {
                format!("{} (+{})", show_count(errors), all.errors)
            } else {
                show_count(errors)
            },
        ]
    };
    let head = [
        "export",
        "mode",
        "size",
        "reads",
        "read",
        "p99",
        "writes",
        "written",
        "p99",
        "dirty in RAM",
        "errors",
    ];
    table(&head, 2, &report.exports.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn connections(lately: &Interval<'_>) -> String {
    let connections = &lately.later.connections;
    if connections.is_empty() {
        return "<p class=\"note\">Nobody is connected.</p>".into();
    }
    let row = |connection: &ConnectionReport| {
        let [requests, bytes] = lately.of_connection(connection);
        vec![
            connection.peer.clone(),
            connection.export.clone().unwrap_or_else(|| "(handshake)".into()),
            if connection.tls { "yes".into() } else { "no".into() },
            show_seconds(connection.connected_seconds.floor()),
            show_count(connection.requests_in_flight),
            show_rate(requests),
            show_bytes_rate(bytes),
            show_bytes(connection.bytes_read),
            show_bytes(connection.bytes_written),
        ]
    };
    let head =
        ["client", "export", "TLS", "for", "in flight", "requests", "moved", "read in all", "written in all"];
    table(&head, 3, &connections.iter().map(row).collect::<Vec<_>>())
}

/// A size in two or three digits: many stand side by side.
fn about(bytes: u64) -> String {
    let unit = 1 << (bytes.max(1).ilog2() / 10 * 10);
    if bytes < 10 * unit { show_bytes(bytes) } else { show_bytes((bytes + unit / 2) / unit * unit) }
}

/// What other sizes would bring: RAM downwards, SSD to the right, the share of reads that wait for the disks in each cell.
pub(super) fn sizes(report: &Report) -> String {
    let outlooks = &report.outlooks;
    if outlooks.is_empty() {
        let lacks = ProgressReport::show(report.outlook_progress);
        let (first, rest) = lacks.split_at(1);
        return format!("<p class=\"note\">{}{rest}.</p>", first.to_uppercase());
    }
    let rows: Vec<&[OutlookReport]> =
        outlooks.chunk_by(|one, other| one.ram_bytes == other.ram_bytes).collect();
    let size = |bytes: u64| if bytes == 0 { "no SSD".into() } else { about(bytes) };
    let head: String =
        rows[0].iter().map(|outlook| format!("<th scope=\"col\">{}</th>", size(outlook.ssd_bytes))).collect();
    let cell = |outlook: &OutlookReport| {
        let step = heat(outlook.read_disk_ratio);
        let ink = if step > 4 { "on-much" } else { "on-little" };
        let (class, now) =
            if outlook.is_present { (" now", "<span class=\"unseen\"> now</span>") } else { ("", "") };
        let percent = outlook.read_disk_ratio * 100.0;
        let digits = usize::from(percent < 10.0);
        format!("<td class=\"heat-{step} {ink}{class}\">{percent:.digits$} %{now}</td>")
    };
    let row = |row: &&[OutlookReport]| {
        let cells: String = row.iter().map(cell).collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", about(row[0].ram_bytes))
    };
    let body: String = rows.iter().map(row).collect();
    format!(
        "<table class=\"heat\"><thead><tr><th scope=\"col\" class=\"text\">RAM \u{2193} SSD \u{2192}</th>{head}</tr></thead><tbody>{body}\
         </tbody></table><p class=\"note\">Share of reads that would wait for the disks, from a sample of the traffic. Framed: as it is now.</p>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_as_short_as_it_can_be() {
        let mib = |tenths: u64| about(tenths * (1 << 20) / 10);
        assert_eq!([mib(33), mib(148), mib(4489), mib(10235)], ["3.3 MiB", "15 MiB", "449 MiB", "1 GiB"]);
        assert_eq!([about(0), about(512)], ["0 B", "512 B"]);
    }
}

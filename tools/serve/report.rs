//! What the service is and has done, as JSON: the objects behind `terrace ctl`.

use serde::{Deserialize, Serialize};

use super::meter::OperationSnapshot;
use super::service::{ExportSnapshot, Snapshot};
use crate::mode::Mode;
use crate::replay::Counters;
use crate::tune::{OutlookReport, ProgressReport};

/// A whole [`Snapshot`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) running_seconds: f64,
    pub(crate) block_bytes: u64,
    pub(crate) ram_bytes: u64,
    /// Null without an SSD.
    pub(crate) ssd_bytes: Option<u64>,
    /// Of clean blocks; null without a limit.
    pub(crate) ssd_write_budget_bytes_per_day: Option<u64>,
    /// Sums since the service began, as `terrace replay --help` explains them.
    pub(crate) counters: Counters,
    pub(crate) now: Now,
    pub(crate) clients: Clients,
    pub(crate) exports: Vec<ExportReport>,
    pub(crate) connections: Vec<ConnectionReport>,
    pub(crate) outlooks: Vec<OutlookReport>,
    /// Towards the first of them, and then those of today's size; null where no other size can be simulated.
    pub(crate) outlook_progress: Option<ProgressReport>,
    /// The recording that runs, or the last one; null when there never was one.
    pub(crate) recording: Option<RecordingReport>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordingReport {
    pub(crate) is_running: bool,
    pub(crate) requests: u64,
    pub(crate) requests_lost: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Why it ended by itself.
    pub(crate) failure: Option<String>,
}

/// What is so at the moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Now {
    /// Newer than below, in RAM.
    pub(crate) dirty_blocks: u64,
    /// Written below, and not synced yet.
    pub(crate) unsynced_blocks: u64,
    /// Newer than the disks, in the log on the SSD.
    pub(crate) ssd_dirty_blocks: u64,
    /// Blocks that nobody can give any more.
    pub(crate) lost_blocks: u64,
    /// Exports whose disk did not take what was last to be written there. It is kept and tried again.
    pub(crate) failing_exports: u64,
    pub(crate) ssd_cached_blocks: u64,
    pub(crate) ssd_capacity_blocks: u64,
    /// Segments of the cache file that a start has not read yet.
    pub(crate) ssd_segments_unread: u64,
    pub(crate) ssd_in_use: bool,
    /// Why the SSD was switched off, when it was.
    pub(crate) ssd_off_for: Option<String>,
    pub(crate) ssd_errors: u64,
    pub(crate) ssd_corrupt_blocks: u64,
    pub(crate) disk_queue_depth: u64,
    pub(crate) ssd_queue_depth: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Clients {
    pub(crate) connections: u64,
    pub(crate) accepted: u64,
    pub(crate) turned_away: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) breaches: u64,
    /// Now, of all: requests whose reply has not gone, and the bytes that are held for them.
    pub(crate) requests_in_flight: u64,
    pub(crate) bytes_in_flight: u64,
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExportReport {
    pub(crate) name: String,
    pub(crate) backing: String,
    pub(crate) bytes: u64,
    pub(crate) mode: Mode,
    pub(crate) read_only: bool,
    pub(crate) dirty_blocks: u64,
    pub(crate) unsynced_blocks: u64,
    pub(crate) lost_blocks: u64,
    pub(crate) operations: Vec<OperationReport>,
}

/// One kind of request, of one export. Quantiles are null while there was none, and an eighth too high at most.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OperationReport {
    pub(crate) operation: String,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) bytes: u64,
    pub(crate) mean_us: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    /// How many took less than so many nanoseconds, at eight ends to each power of two, as far as there were any in
    /// between: the difference of two reports has the times between them.
    pub(crate) count_below_ns: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionReport {
    /// No other connection ever has it.
    pub(crate) id: u64,
    pub(crate) peer: String,
    /// Null in the handshake.
    pub(crate) export: Option<String>,
    pub(crate) tls: bool,
    pub(crate) connected_seconds: f64,
    pub(crate) requests_in_flight: u64,
    pub(crate) requests: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

/// What other sizes would give, or how much traffic is missing to say it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WhatIfReport {
    pub(crate) outlooks: Vec<OutlookReport>,
    pub(crate) progress: Option<ProgressReport>,
}

/// Bytes that were acknowledged, and that nobody can give any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub(crate) export: String,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// Whether the SSD may be pulled out now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Unplug {
    pub(crate) safe: bool,
    pub(crate) why: String,
}

impl Report {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let server = &snapshot.server;
        Self {
            running_seconds: snapshot.running_for.as_secs_f64(),
            block_bytes: snapshot.block_bytes,
            ram_bytes: snapshot.ram_bytes,
            ssd_bytes: snapshot.ssd_bytes,
            ssd_write_budget_bytes_per_day: snapshot.ssd_write_budget,
            counters: Counters::of(&snapshot.stats),
            now: Now::of(snapshot),
            clients: Clients {
                connections: server.connections as u64,
                accepted: server.accepted,
                turned_away: server.turned_away,
                handshakes_failed: server.handshakes_failed,
                breaches: server.breaches,
                requests_in_flight: server.requests_in_flight as u64,
                bytes_in_flight: server.bytes_in_flight,
                requests: server.traffic.requests,
                failures: server.traffic.failures,
                bytes_read: server.traffic.bytes_read,
                bytes_written: server.traffic.bytes_written,
            },
            exports: snapshot.exports.iter().map(ExportReport::of).collect(),
            connections: snapshot.connections.iter().map(ConnectionReport::of).collect(),
            outlooks: OutlookReport::of(&snapshot.outlooks, snapshot.block_bytes),
            outlook_progress: snapshot.outlook_progress.map(ProgressReport::of),
            recording: snapshot.recording.as_ref().map(RecordingReport::of),
        }
    }
}

impl WhatIfReport {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let Report { outlooks, outlook_progress: progress, .. } = Report::of(snapshot);
        Self { outlooks, progress }
    }
}

impl Lost {
    /// Of blocks in ascending order, neighbours in one. The last block of an export may reach past its end.
    pub(super) fn of(export: &str, blocks: &[u64], block_bytes: u64, export_bytes: u64) -> Vec<Self> {
        let range = |blocks: &[u64]| {
            let offset = blocks[0] * block_bytes;
            let bytes = (blocks.len() as u64 * block_bytes).min(export_bytes - offset);
            Self { export: export.to_owned(), offset, bytes }
        };
        blocks.chunk_by(|one, next| one + 1 == *next).map(range).collect()
    }
}

impl Report {
    /// Clean blocks written to the SSD, kept ones among them: what its budget is for.
    pub(crate) fn ssd_cached_bytes(&self) -> u64 {
        (self.counters.ssd_blocks_written + self.counters.ssd_blocks_reinserted) * self.block_bytes
    }
}

impl RecordingReport {
    fn of(status: &terrace::RecordStatus) -> Self {
        Self {
            is_running: status.is_running,
            requests: status.requests,
            requests_lost: status.requests_lost,
            files: status.files,
            bytes: status.bytes,
            failure: status.failure.clone(),
        }
    }
}

impl Now {
    fn of(snapshot: &Snapshot) -> Self {
        let stats = &snapshot.stats;
        Self {
            dirty_blocks: stats.dirty_blocks,
            unsynced_blocks: stats.unsynced_blocks,
            ssd_dirty_blocks: stats.ssd.dirty_blocks,
            lost_blocks: stats.lost_blocks,
            failing_exports: stats.failing_volumes,
            ssd_cached_blocks: stats.ssd.cached_blocks,
            ssd_capacity_blocks: stats.ssd.capacity_blocks,
            ssd_segments_unread: stats.ssd.segments_unread,
            ssd_in_use: stats.ssd_in_use,
            ssd_off_for: stats.ssd_off_for.map(|failure| format!("{failure:?}").to_lowercase()),
            ssd_errors: stats.ssd_errors,
            ssd_corrupt_blocks: stats.ssd.corrupt_blocks,
            disk_queue_depth: stats.disk_queue_depth,
            ssd_queue_depth: stats.ssd_queue_depth,
        }
    }
}

impl ExportReport {
    fn of(export: &ExportSnapshot) -> Self {
        Self {
            name: export.name.clone(),
            backing: export.backing.clone(),
            bytes: export.bytes,
            mode: export.mode,
            read_only: export.read_only,
            dirty_blocks: export.dirty_blocks,
            unsynced_blocks: export.unsynced_blocks,
            lost_blocks: export.lost_blocks,
            operations: export.operations.iter().map(OperationReport::of).collect(),
        }
    }
}

impl OperationReport {
    fn of(operation: &OperationSnapshot) -> Self {
        let latency = &operation.latency;
        let quantile = |part| latency.quantile_ns(part).map(|ns| ns as f64 / 1e3);
        let mean = || latency.sum_ns as f64 / latency.count as f64 / 1e3;
        Self {
            operation: operation.operation.name().into(),
            count: latency.count,
            errors: operation.errors,
            bytes: operation.bytes,
            mean_us: (latency.count > 0).then(mean),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            count_below_ns: latency.below_ends().collect(),
        }
    }
}

impl ConnectionReport {
    fn of(connection: &terrace_nbd::ConnectionStats) -> Self {
        Self {
            id: connection.id,
            peer: connection.peer.clone(),
            export: connection.export.clone(),
            tls: connection.has_tls,
            connected_seconds: connection.connected_for.as_secs_f64(),
            requests_in_flight: connection.requests_in_flight as u64,
            requests: connection.traffic.requests,
            bytes_read: connection.traffic.bytes_read,
            bytes_written: connection.traffic.bytes_written,
        }
    }
}

impl Unplug {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let in_mode: Vec<&str> = snapshot
            .exports
            .iter()
            .filter(|export| export.mode == Mode::BackSsd)
            .map(|export| export.name.as_str())
            .collect();
        let dirty_blocks = snapshot.stats.ssd.dirty_blocks;
        let why = if snapshot.ssd_bytes.is_none() {
            "there is no SSD in use".into()
        } else if !in_mode.is_empty() {
            format!("exports write back to it: {}; give them another mode first", in_mode.join(", "))
        } else if dirty_blocks > 0 {
            format!("{dirty_blocks} blocks are newer there than on the disks; drain first")
        } else {
            "it has nothing that the disks lack; detach-ssd leaves its file warm".into()
        };
        Self { safe: in_mode.is_empty() && dirty_blocks == 0, why }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn lost_blocks_are_ranges_that_end_with_the_export() {
        let lost = Lost::of("disk", &[0, 1, 5, 6], 4096, 6 * 4096 + 512);
        let ranges: Vec<_> = lost.iter().map(|lost| (lost.offset, lost.bytes)).collect();
        assert_eq!(ranges, [(0, 8192), (5 * 4096, 4096 + 512)]);
        assert_eq!(Lost::of("disk", &[], 4096, 8192), []);
    }

    /// Of a service that runs for so many seconds, with one of everything; what only grows is larger the longer it runs.
    pub(crate) fn a_report(seconds: f64) -> Report {
        let grown = |rate: u64| seconds as u64 * rate;
        let operation = |operation: &str, rate: u64, ns: u64| OperationReport {
            operation: operation.into(),
            count: grown(rate),
            errors: 0,
            bytes: grown(rate) * 4096,
            mean_us: Some(1.0),
            p50_us: Some(1.0),
            p99_us: Some(2.0),
            p999_us: Some(3.0),
            count_below_ns: vec![(ns, grown(rate) / 2), (ns * 16, grown(rate))],
        };
        let counters = serde_json::json!({
            "references": grown(1010), "reads": grown(910), "writes": grown(100), "ram_hits": grown(850),
            "read_ram_hits": grown(800), "write_ram_hits": grown(50), "ssd_hits": grown(100), "disk_reads": grown(10),
            "ssd_blocks_written": grown(20), "ssd_blocks_reinserted": grown(2), "ssd_bytes_written": grown(400_000),
            "ssd_log_bytes_written": grown(100_000),
            "ssd_bytes_prepared": 0, "ssd_read_bytes": grown(4096), "ssd_read_operations": grown(1),
            "ssd_write_operations": grown(1), "ssd_syncs": grown(1), "disk_read_bytes": grown(4096),
            "disk_read_operations": grown(1), "disk_write_bytes": grown(4096), "disk_write_operations": grown(1),
            "disk_syncs": grown(1), "demotions_dropped": 0,
        });
        Report {
            running_seconds: seconds,
            block_bytes: 16 << 10,
            ram_bytes: 1 << 30,
            ssd_bytes: Some(100 << 30),
            ssd_write_budget_bytes_per_day: Some(200 << 30),
            counters: serde_json::from_value(counters).expect("all of them"),
            now: Now {
                dirty_blocks: 3,
                unsynced_blocks: 2,
                ssd_dirty_blocks: 1,
                lost_blocks: 0,
                failing_exports: 0,
                ssd_cached_blocks: 1 << 20,
                ssd_capacity_blocks: 6 << 20,
                ssd_segments_unread: 0,
                ssd_in_use: true,
                ssd_off_for: None,
                ssd_errors: 0,
                ssd_corrupt_blocks: 0,
                disk_queue_depth: 4,
                ssd_queue_depth: 2,
            },
            clients: Clients {
                connections: 1,
                accepted: 1,
                turned_away: 0,
                handshakes_failed: 0,
                breaches: 0,
                requests_in_flight: 5,
                bytes_in_flight: 5 << 12,
                requests: grown(1010),
                failures: 0,
                bytes_read: grown(1 << 20),
                bytes_written: grown(1 << 16),
            },
            exports: vec![ExportReport {
                name: "disk".into(),
                backing: "/srv/disk.img".into(),
                bytes: 1 << 40,
                mode: Mode::BackSsd,
                read_only: false,
                dirty_blocks: 3,
                unsynced_blocks: 2,
                lost_blocks: 0,
                operations: vec![
                    operation("read_ram", 800, 2048),
                    operation("read_ssd", 100, 65_536),
                    operation("read_disk", 10, 1 << 20),
                    operation("write", 100, 4096),
                ],
            }],
            connections: vec![ConnectionReport {
                id: 7,
                peer: "192.0.2.7:40000".into(),
                export: Some("disk".into()),
                tls: true,
                connected_seconds: seconds,
                requests_in_flight: 5,
                requests: grown(1010),
                bytes_read: grown(1 << 20),
                bytes_written: grown(1 << 16),
            }],
            outlooks: vec![OutlookReport {
                ram_bytes: 1 << 30,
                ssd_bytes: 100 << 30,
                is_present: true,
                read_ram_ratio: 0.88,
                read_ram_ratio_error: 0.01,
                read_ssd_ratio: 0.11,
                read_disk_ratio: 0.01,
                read_disk_ratio_error: 0.005,
                ssd_writes: 0.02,
                references: grown(1010),
                sample_rate: 0.1,
                samples: 4,
            }],
            outlook_progress: None,
            recording: None,
        }
    }
}

//! A [`Snapshot`] as metrics for Prometheus, in OpenMetrics' text format.
//!
//! Names follow Prometheus' rules: the prefix `terrace_`, base units (bytes, seconds), `_total` behind what only grows.
//! Everything is made at the scrape, of one snapshot, so that what belongs together fits together; nothing is kept.
//!
//! | label       | values                                                                        |
//! |-------------|-------------------------------------------------------------------------------|
//! | `tier`      | `ram`, `ssd`, and where reads are counted `disk`: the backing stores          |
//! | `lane`      | `ssd`, `disk`: who does the I/O                                               |
//! | `export`    | as clients call it                                                            |
//! | `operation` | as [`super::meter::Operation::name`] says; reads by where the slowest part of them was |
//!
//! What only grows begins anew with the process, and that of the SSD with each SSD that is attached.

mod families;

use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Registry, Unit};
use terrace::SsdFailure;

use families::{Families, Labels, no_labels};

use super::history::Ages;
use super::meter::OperationSnapshot;
use super::service::{ExportSnapshot, Snapshot};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const FAILURES: [SsdFailure; 5] =
    [SsdFailure::Journal, SsdFailure::Checkpoint, SsdFailure::Log, SsdFailure::Append, SsdFailure::Read];

/// What is answered to a scrape at `now`.
pub(super) fn exposition(snapshot: Snapshot, ages: Ages, now: Instant) -> String {
    let mut registry = Registry::with_prefix("terrace");
    registry.register_collector(Box::new(Scrape { snapshot, ages, now }));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes everything");
    text
}

#[derive(Debug)]
struct Scrape {
    snapshot: Snapshot,
    ages: Ages,
    now: Instant,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.service(&mut families)?;
        self.blocks(&mut families)?;
        self.dirty(&mut families)?;
        self.lanes(&mut families)?;
        self.ssd(&mut families)?;
        self.clients(&mut families)?;
        self.exports(&mut families)?;
        self.operations(&mut families)?;
        self.outlooks(&mut families)?;
        self.recording(&mut families)
    }
}

fn bytes() -> Option<Unit> {
    Some(Unit::Bytes)
}

fn seconds() -> Option<Unit> {
    Some(Unit::Seconds)
}

impl Scrape {
    fn in_bytes(&self, blocks: u64) -> u64 {
        blocks * self.snapshot.block_bytes
    }

    fn service(&self, to: &mut Families<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        let version = vec![vec![("version", env!("CARGO_PKG_VERSION"))]];
        to.infos("build", "What runs", &version)?;
        let uptime = vec![(no_labels(), snapshot.running_for.as_secs_f64())];
        to.fractions(("uptime", seconds(), "Time since the service was opened"), uptime)?;
        to.gauge(("block_size", bytes(), "Unit of caching"), snapshot.block_bytes)?;
        let mut sizes = vec![(vec![("tier", "ram")], snapshot.ram_bytes)];
        sizes.extend(snapshot.ssd_bytes.map(|bytes| (vec![("tier", "ssd")], bytes)));
        to.gauges(("tier_size", bytes(), "Size that a tier was given, its directory included"), sizes)
    }

    fn blocks(&self, to: &mut Families<'_>) -> fmt::Result {
        let stats = &self.snapshot.stats;
        to.counters(
            (
                "block_reads",
                None,
                "Blocks that were read, by the tier that had them; all tiers together are all reads",
            ),
            vec![
                (vec![("tier", "ram")], stats.read_ram_hits),
                (vec![("tier", "ssd")], stats.read_ssd_hits),
                (vec![("tier", "disk")], stats.disk_reads),
            ],
        )?;
        to.counters(
            ("block_writes", None, "Blocks that were written, by whether RAM had them before"),
            vec![
                (vec![("ram", "hit")], stats.write_ram_hits),
                (vec![("ram", "miss")], stats.writes - stats.write_ram_hits),
            ],
        )?;
        to.counter(
            (
                "fills_joined",
                None,
                "Reads of blocks that waited for a read of the same block by someone else",
            ),
            stats.fills_joined,
        )?;
        to.counter(
            ("demotions_dropped", None, "Blocks that left RAM without a place on the SSD, since it was busy"),
            stats.demotions_dropped,
        )
    }

    fn dirty(&self, to: &mut Families<'_>) -> fmt::Result {
        let stats = &self.snapshot.stats;
        let tiers = [vec![("tier", "ram")], vec![("tier", "ssd")]];
        let dirty = [stats.dirty_blocks, stats.ssd.dirty_blocks].map(|blocks| self.in_bytes(blocks));
        to.gauges(
            ("dirty", bytes(), "What a tier has that is newer than the disks; on the SSD: in its log"),
            tiers.clone().into_iter().zip(dirty).collect(),
        )?;
        let ages = [self.ages.ram(self.now), self.ages.ssd(self.now)].map(|age| age.as_secs_f64());
        to.fractions(
            (
                "dirty_age",
                seconds(),
                "Time since a tier was last seen with nothing dirty; nothing in it has been dirty for longer, give or \
                 take a second",
            ),
            tiers.into_iter().zip(ages).collect(),
        )?;
        to.gauge(
            ("unsynced", bytes(), "What was written to the disks and that no sync covers yet"),
            self.in_bytes(stats.unsynced_blocks),
        )?;
        to.gauge(
            (
                "lost",
                bytes(),
                "What was acknowledged and nobody can give any more; terrace ctl lost has which",
            ),
            self.in_bytes(stats.lost_blocks),
        )
    }

    fn lanes(&self, to: &mut Families<'_>) -> fmt::Result {
        let stats = &self.snapshot.stats;
        to.gauge(
            (
                "failing_exports",
                None,
                "Disks that did not take what was last to be written there; it is kept and tried again",
            ),
            stats.failing_volumes,
        )?;
        let by_lane =
            |ssd: u64, disk: u64| vec![(vec![("lane", "ssd")], ssd), (vec![("lane", "disk")], disk)];
        to.gauges(
            ("lane_queue_depth", None, "Operations that are queued or running"),
            by_lane(stats.ssd_queue_depth, stats.disk_queue_depth),
        )?;
        to.counters(
            (
                "lane_reads",
                None,
                "Reads as they were issued, neighbours joined; of the SSD those that someone asked for",
            ),
            by_lane(stats.ssd_read_operations, stats.disk_read_operations),
        )?;
        to.counters(
            ("lane_read", bytes(), "Bytes of these reads"),
            by_lane(stats.ssd_read_bytes, stats.disk_read_bytes),
        )?;
        to.counters(
            (
                "lane_writes",
                None,
                "Writes as they were issued, neighbours joined; of the SSD those of clean blocks",
            ),
            by_lane(stats.ssd_write_operations, stats.disk_write_operations),
        )?;
        to.counters(
            (
                "lane_written",
                bytes(),
                "Bytes written, on the SSD everything: blocks, log, journal, checkpoints",
            ),
            by_lane(stats.ssd.bytes_written, stats.disk_write_bytes),
        )?;
        to.counters(("lane_syncs", None, "Syncs"), by_lane(stats.ssd_syncs, stats.disk_syncs))
    }

    fn ssd(&self, to: &mut Families<'_>) -> fmt::Result {
        let (stats, ssd) = (&self.snapshot.stats, &self.snapshot.stats.ssd);
        to.gauge(
            ("ssd_in_use", None, "1 while there is an SSD that was not switched off"),
            u64::from(stats.ssd_in_use),
        )?;
        let names = FAILURES.map(|failure| (failure, format!("{failure:?}").to_lowercase()));
        let is_off =
            |(failure, name)| (vec![("reason", name)], u64::from(stats.ssd_off_for == Some(failure)));
        let off = names.iter().map(|(failure, name)| is_off((*failure, name.as_str()))).collect();
        to.gauges(("ssd_off", None, "1 for what the SSD was switched off for, if it was"), off)?;
        to.counter(("ssd_errors", None, "Calls on the SSD that failed"), stats.ssd_errors)?;
        if let Some(budget) = self.snapshot.ssd_write_budget {
            let what = "What clean blocks may write to the SSD in a day; compare terrace_ssd_cached_written_bytes_total";
            to.gauge(("ssd_write_budget_bytes_per_day", None, what), budget)?;
        }
        let cached = self.in_bytes(ssd.blocks_written + ssd.blocks_reinserted);
        to.counter(
            ("ssd_cached_written", bytes(), "Clean blocks written to the SSD, kept ones among them"),
            cached,
        )?;
        to.counter(
            ("ssd_reinserted", bytes(), "Of these, blocks that were written again so that they stay"),
            self.in_bytes(ssd.blocks_reinserted),
        )?;
        to.counter(
            ("ssd_prepared", bytes(), "Written once to a new cache file; not part of any other count"),
            ssd.bytes_prepared,
        )?;
        to.counters(
            (
                "ssd_refused_blocks",
                None,
                "Blocks that left RAM and were not written to the SSD, by the reason",
            ),
            vec![
                (vec![("reason", "not_earned")], ssd.refused_not_earned),
                (vec![("reason", "no_segment")], ssd.refused_no_segment),
            ],
        )?;
        to.counter(("ssd_evicted_blocks", None, "Blocks that left the SSD for others"), ssd.evicted_blocks)?;
        to.counter(("ssd_void_blocks", None, "Copies dropped since something newer was written"), ssd.voids)?;
        to.counter(("ssd_corrupt_blocks", None, "Copies dropped for a wrong checksum"), ssd.corrupt_blocks)?;
        to.counter(
            ("ssd_log_records", None, "Records written to the log of dirty blocks"),
            ssd.records_written,
        )?;
        to.counter(("ssd_log_written", bytes(), "Bytes of these"), ssd.record_bytes_written)?;
        to.counter(
            ("ssd_destaged_blocks", None, "Blocks of the log that the disks have got"),
            ssd.blocks_destaged,
        )?;
        to.gauge(("ssd_cached", bytes(), "Clean blocks that the SSD has"), self.in_bytes(ssd.cached_blocks))?;
        to.gauge(("ssd_capacity", bytes(), "Blocks that fit the SSD"), self.in_bytes(ssd.capacity_blocks))?;
        to.gauge(("ssd_segments", None, "Segments of the cache file"), ssd.segments)?;
        to.gauge(("ssd_segments_free", None, "Of these, free ones"), ssd.segments_free)?;
        to.gauge(
            (
                "ssd_segments_unread",
                None,
                "Of these, those that a start has not read yet; 0 when all is warm",
            ),
            ssd.segments_unread,
        )?;
        to.gauge(("ssd_index", bytes(), "RAM of the SSD's index"), ssd.index_bytes)
    }

    fn clients(&self, to: &mut Families<'_>) -> fmt::Result {
        let server = &self.snapshot.server;
        to.gauge(("connections", None, "Clients that are connected"), server.connections as u64)?;
        to.counter(("connections_accepted", None, "Clients that came"), server.accepted)?;
        to.counter(
            ("connections_turned_away", None, "Of these, those for which there was no room"),
            server.turned_away,
        )?;
        to.counter(
            ("handshakes_failed", None, "Clients that left or were lost before they chose an export"),
            server.handshakes_failed,
        )?;
        to.counter(
            ("protocol_breaches", None, "Clients sent away for breaking the protocol"),
            server.breaches,
        )?;
        to.gauge(
            ("requests_in_flight", None, "Requests that are owed a reply"),
            server.requests_in_flight as u64,
        )?;
        to.counter(("requests", None, "Requests of clients"), server.traffic.requests)?;
        to.counter(
            ("requests_failed", None, "Of these, those answered with an error"),
            server.traffic.failures,
        )?;
        to.counter(("sent", bytes(), "Bytes of replies"), server.traffic.bytes_read)?;
        to.counter(("received", bytes(), "Bytes of what clients wrote"), server.traffic.bytes_written)
    }

    fn exports(&self, to: &mut Families<'_>) -> fmt::Result {
        let exports = &self.snapshot.exports;
        let modes: Vec<String> = exports.iter().map(|export| export.mode.to_string()).collect();
        let infos = exports.iter().zip(&modes).map(|(export, mode)| {
            let read_only = if export.read_only { "true" } else { "false" };
            vec![
                ("export", export.name.as_str()),
                ("mode", mode),
                ("backing", &export.backing),
                ("read_only", read_only),
            ]
        });
        to.infos("export", "A disk that is served", &infos.collect::<Vec<_>>())?;
        let of_each = |value: &dyn Fn(&ExportSnapshot) -> u64| {
            exports
                .iter()
                .map(|export| (vec![("export", export.name.as_str())], value(export)))
                .collect::<Vec<_>>()
        };
        let blocks = |value: fn(&ExportSnapshot) -> u64| of_each(&|export| self.in_bytes(value(export)));
        to.gauges(("export_size", bytes(), "Size of a disk"), of_each(&|export| export.bytes))?;
        to.gauges(
            ("export_dirty", bytes(), "Of a disk, what is newer in RAM"),
            blocks(|export| export.dirty_blocks),
        )?;
        to.gauges(
            ("export_unsynced", bytes(), "Of a disk, what was written to it and that no sync covers yet"),
            blocks(|export| export.unsynced_blocks),
        )?;
        to.gauges(
            ("export_lost", bytes(), "Of a disk, what nobody can give any more"),
            blocks(|export| export.lost_blocks),
        )?;
        let connections = |export: &ExportSnapshot| {
            let all = self.snapshot.connections.iter();
            all.filter(|connection| connection.export.as_ref() == Some(&export.name)).collect::<Vec<_>>()
        };
        to.gauges(
            ("export_connections", None, "Clients of a disk"),
            of_each(&|export| connections(export).len() as u64),
        )?;
        let in_flight = |export: &ExportSnapshot| {
            connections(export).iter().map(|one| one.requests_in_flight as u64).sum::<u64>()
        };
        to.gauges(
            ("export_requests_in_flight", None, "Requests to a disk that are owed a reply"),
            of_each(&in_flight),
        )
    }

    fn operations(&self, to: &mut Families<'_>) -> fmt::Result {
        let exports = self.snapshot.exports.iter();
        let all: Vec<(Labels<'_>, &OperationSnapshot)> = exports
            .flat_map(|export| export.operations.iter().map(move |operation| (&export.name, operation)))
            .map(|(export, operation)| {
                (vec![("export", export.as_str()), ("operation", operation.operation.name())], operation)
            })
            .collect();
        let of_each = |value: fn(&OperationSnapshot) -> u64| {
            all.iter().map(|(labels, operation)| (labels.clone(), value(operation))).collect::<Vec<_>>()
        };
        to.histograms(
            ("operation_duration", seconds(), "Requests that went well, from their coming to their answer"),
            all.iter().map(|(labels, operation)| (labels.clone(), &operation.latency)).collect(),
        )?;
        to.counters(("operation", bytes(), "Bytes of these requests"), of_each(|operation| operation.bytes))?;
        to.counters(("operation_errors", None, "Requests that failed"), of_each(|operation| operation.errors))
    }

    fn outlooks(&self, to: &mut Families<'_>) -> fmt::Result {
        let sizes: Vec<[String; 2]> = self
            .snapshot
            .outlooks
            .iter()
            .map(|outlook| {
                [outlook.size.ram_blocks, outlook.size.ssd_blocks]
                    .map(|blocks| self.in_bytes(blocks).to_string())
            })
            .collect();
        let values = self.snapshot.outlooks.iter().zip(&sizes).map(|(outlook, [ram, ssd])| {
            (vec![("ram_bytes", ram.as_str()), ("ssd_bytes", ssd.as_str())], outlook.read_disk_ratio)
        });
        to.fractions(
            (
                "outlook_disk_read_ratio",
                None,
                "Share of reads that would wait for the disks with tiers of these sizes, from a sample of the traffic",
            ),
            values.collect(),
        )
    }

    fn recording(&self, to: &mut Families<'_>) -> fmt::Result {
        let Some(recording) = &self.snapshot.recording else { return Ok(()) };
        to.gauge(("recording", None, "1 while requests are recorded"), u64::from(recording.is_running))?;
        to.counter(
            ("recording_requests", None, "Requests in the present or last recording"),
            recording.requests,
        )?;
        to.counter(
            ("recording_requests_lost", None, "Requests for which it had no room"),
            recording.requests_lost,
        )
    }
}

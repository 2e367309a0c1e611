//! What the service did lately, for whoever looks at it over HTTP.
//!
//! The thread of HTTP looks once a second; nothing is kept, and nobody looks, where `http` was not asked for. What is kept
//! is bounded: [`POINTS_MAX`] points of a few numbers, and the last [`RECENT_MAX`] reports.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::interval::{Interval, is_read, is_write};
use super::metrics;
use super::page::{self, Parts};
use super::report::Report;
use super::service::Service;

/// How often the service is looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// Ten minutes: a page that is opened late shows what came before.
pub(super) const POINTS_MAX: usize = 600;
/// Rates are those of the last five seconds.
const RECENT_MAX: usize = 6;

/// Looks at a service.
pub(super) struct Watch {
    service: Arc<Service>,
    history: Mutex<History>,
    /// What the page shows, and after how many looks it was made: once for all who watch.
    drawn: Mutex<(u64, Arc<Parts>)>,
}

impl Watch {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service, history: Mutex::default(), drawn: Mutex::default() }
    }

    /// Looks again; once in each [`PERIOD`].
    pub(super) fn look(&self) {
        let report = Report::of(&self.service.snapshot());
        self.history.lock().note(report, Instant::now());
    }

    /// The answer to a scrape.
    pub(super) fn metrics(&self) -> String {
        let (snapshot, now) = (self.service.snapshot(), Instant::now());
        let mut ages = self.history.lock().ages.clone();
        ages.note(snapshot.stats.dirty_blocks, snapshot.stats.ssd.dirty_blocks, now);
        metrics::exposition(snapshot, ages, now)
    }

    /// Whether clients are let in. It takes every lock that requests take, as the watchdog does: where one is never let
    /// go there is no answer.
    pub(super) fn is_serving(&self) -> bool {
        self.service.cache.stats();
        !self.service.is_stopping()
    }

    /// What of the page changes, as it is now.
    pub(super) fn parts(&self) -> Arc<Parts> {
        let history = self.history.lock();
        let mut drawn = self.drawn.lock();
        if drawn.0 != history.looks {
            *drawn = (history.looks, Arc::new(page::parts(&history)));
        }
        drawn.1.clone()
    }
}

/// What was seen.
#[derive(Default)]
pub(super) struct History {
    pub(super) points: VecDeque<Point>,
    /// The oldest first.
    recent: VecDeque<Report>,
    pub(super) ages: Ages,
    looks: u64,
}

/// What a second was like. Rates are a second's; blocks are in bytes.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(super) struct Point {
    /// Seconds since the service began.
    pub(super) at: f64,
    /// Blocks read, by where they were.
    pub(super) from_ram: f64,
    pub(super) from_ssd: f64,
    pub(super) from_disk: f64,
    /// Bytes that clients got and gave.
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
    /// 99th percentile of latency in microseconds; none where nothing was asked for.
    pub(super) ram_p99_us: Option<f64>,
    pub(super) ssd_p99_us: Option<f64>,
    pub(super) disk_p99_us: Option<f64>,
    pub(super) write_p99_us: Option<f64>,
    pub(super) dirty_bytes: f64,
    pub(super) unsynced_bytes: f64,
    /// None without an SSD, as what follows.
    pub(super) ssd_dirty_bytes: Option<f64>,
    pub(super) ssd_written_bytes: Option<f64>,
    /// Of these, clean blocks: what the budget is for.
    pub(super) ssd_cached_bytes: Option<f64>,
}

impl History {
    pub(super) fn note(&mut self, report: Report, now: Instant) {
        if let Some(last) = self.recent.back() {
            self.points.push_back(Point::of(&Interval::between(Some(last), &report)));
        }
        if self.points.len() > POINTS_MAX {
            self.points.pop_front();
        }
        self.ages.note(report.now.dirty_blocks, report.now.ssd_dirty_blocks, now);
        self.recent.push_back(report);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
        self.looks += 1;
    }

    /// The last seconds; none before the first look.
    pub(super) fn lately(&self) -> Option<Interval<'_>> {
        let last = self.recent.back()?;
        Some(Interval::between(self.recent.front(), last))
    }
}

impl Point {
    fn of(second: &Interval<'_>) -> Self {
        let report = second.later;
        let in_bytes = |blocks: u64| (blocks * report.block_bytes) as f64;
        let of_ssd = |bytes: f64| report.ssd_bytes.map(|_| bytes);
        let p99_us =
            |wanted: &str| second.work(None, |operation| operation == wanted).times.quantile_us(0.99);
        Self {
            at: report.running_seconds,
            from_ram: second.rate(|report| report.counters.read_ram_hits),
            from_ssd: second.rate(|report| report.counters.ssd_hits),
            from_disk: second.rate(|report| report.counters.disk_reads),
            read_bytes: second.work(None, is_read).bytes_per_second,
            written_bytes: second.work(None, is_write).bytes_per_second,
            ram_p99_us: p99_us("read_ram"),
            ssd_p99_us: p99_us("read_ssd"),
            disk_p99_us: p99_us("read_disk"),
            write_p99_us: p99_us("write"),
            dirty_bytes: in_bytes(report.now.dirty_blocks),
            unsynced_bytes: in_bytes(report.now.unsynced_blocks),
            ssd_dirty_bytes: of_ssd(in_bytes(report.now.ssd_dirty_blocks)),
            ssd_written_bytes: of_ssd(second.rate(|report| report.counters.ssd_bytes_written)),
            ssd_cached_bytes: of_ssd(second.rate(Report::ssd_cached_bytes)),
        }
    }
}

/// Since when each tier was not seen without a dirty block. Nothing that is dirty there became so more than one [`PERIOD`]
/// before that.
#[derive(Clone, Default, Debug)]
pub(super) struct Ages {
    ram: Option<Instant>,
    ssd: Option<Instant>,
}

impl Ages {
    fn note(&mut self, ram_blocks: u64, ssd_blocks: u64, now: Instant) {
        self.ram = (ram_blocks > 0).then(|| self.ram.unwrap_or(now));
        self.ssd = (ssd_blocks > 0).then(|| self.ssd.unwrap_or(now));
    }

    pub(super) fn ram(&self, now: Instant) -> Duration {
        age(self.ram, now)
    }

    pub(super) fn ssd(&self, now: Instant) -> Duration {
        age(self.ssd, now)
    }
}

fn age(since: Option<Instant>, now: Instant) -> Duration {
    since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dirty_is_as_old_as_the_first_look_that_saw_it_and_has_no_age_once_it_is_clean() {
        let (mut ages, began) = (Ages::default(), Instant::now());
        let second = |count: u64| began + Duration::from_secs(count);
        ages.note(0, 7, second(0));
        ages.note(1, 7, second(1));
        ages.note(5, 9, second(2));
        assert_eq!([ages.ram(second(4)), ages.ssd(second(4))], [3, 4].map(Duration::from_secs));
        ages.note(0, 1, second(4));
        assert_eq!([ages.ram(second(5)), ages.ssd(second(5))], [0, 5].map(Duration::from_secs));
        ages.note(1, 1, second(6));
        assert_eq!(ages.ram(second(6)), Duration::ZERO, "another block, another age");
    }
}

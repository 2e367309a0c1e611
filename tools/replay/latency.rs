//! How long requests took, by where the slowest of their blocks came from.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use terrace::Answer;

use crate::trace::Kind;

/// A day: nothing that anyone waits for is longer, and the histogram stays small.
const LONGEST_NS: u64 = 86_400_000_000_000;

/// One worker's histograms, in nanoseconds.
#[derive(Clone)]
pub(crate) struct Latencies {
    ram: Histogram<u64>,
    ssd: Histogram<u64>,
    disk: Histogram<u64>,
    write: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = || Histogram::new_with_max(LONGEST_NS, 3).expect("the bounds are fixed");
        Self { ram: histogram(), ssd: histogram(), disk: histogram(), write: histogram() }
    }

    pub(crate) fn record(&mut self, kind: Kind, answer: Answer, took: Duration) {
        let histogram = match kind {
            Kind::Write | Kind::Flush | Kind::Discard => &mut self.write,
            Kind::Read if answer.disk_blocks > 0 => &mut self.disk,
            Kind::Read if answer.ssd_blocks > 0 => &mut self.ssd,
            Kind::Read => &mut self.ram,
        };
        histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.ram, &other.ram),
            (&mut self.ssd, &other.ssd),
            (&mut self.disk, &other.disk),
            (&mut self.write, &other.write),
        ] {
            to.add(from).expect("all have the same bounds");
        }
    }

    pub(crate) fn summary(&self) -> LatencySummary {
        let mut all = self.ram.clone();
        for histogram in [&self.ssd, &self.disk, &self.write] {
            all.add(histogram).expect("all have the same bounds");
        }
        LatencySummary {
            ram: Percentiles::of(&self.ram),
            ssd: Percentiles::of(&self.ssd),
            disk: Percentiles::of(&self.disk),
            write: Percentiles::of(&self.write),
            all: Percentiles::of(&all),
        }
    }
}

/// The latencies of a pass; an entry is null when nothing came from there.
#[derive(Clone, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) ram: Option<Percentiles>,
    pub(crate) ssd: Option<Percentiles>,
    pub(crate) disk: Option<Percentiles>,
    pub(crate) write: Option<Percentiles>,
    pub(crate) all: Option<Percentiles>,
}

/// Microseconds, `count` aside.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Some(Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() as f64 / 1e3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_booked_where_its_slowest_block_came_from() {
        let mut latencies = Latencies::new();
        let answer = |ram_blocks, ssd_blocks, disk_blocks| Answer { ram_blocks, ssd_blocks, disk_blocks };
        for (kind, answer) in [
            (Kind::Read, answer(4, 0, 0)),
            (Kind::Read, answer(4, 1, 0)),
            (Kind::Read, answer(4, 1, 1)),
            (Kind::Write, answer(0, 0, 0)),
        ] {
            latencies.record(kind, answer, Duration::from_micros(100));
        }
        let copy = latencies.clone();
        latencies.add(&copy);
        let summary = latencies.summary();
        let counts = [summary.ram, summary.ssd, summary.disk, summary.write, summary.all]
            .map(|percentiles| percentiles.expect("something was booked").count);
        assert_eq!(counts, [2, 2, 2, 2, 8]);
        assert!((summary.ram.expect("booked").p50 - 100.0).abs() < 0.2);
    }
}

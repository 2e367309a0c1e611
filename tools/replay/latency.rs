//! How long requests took, by where the slowest of their blocks came from, and how late they were made.
//!
//! | counted from   | says                                                                                          |
//! |----------------|-----------------------------------------------------------------------------------------------|
//! | the submission | what the cache took                                                                           |
//! | the deadline   | what those waited who wanted it at the recorded time; a stall counts for all that came in it |
//! | (lateness)     | the difference of the two                                                                     |

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use terrace::Answer;

use crate::trace::Kind;

/// A day: nothing that anyone waits for is longer, and the histogram stays small.
const LONGEST_NS: u64 = 86_400_000_000_000;

/// Bounds of the distribution that is shown, in microseconds; one more class is beyond.
const CLASSES_US: [u64; 6] = [10, 100, 1_000, 10_000, 100_000, 1_000_000];

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_NS, 3).expect("the bounds are fixed")
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}

/// Histograms of one kind of time, in nanoseconds.
#[derive(Clone)]
pub(crate) struct Latencies {
    ram: Histogram<u64>,
    ssd: Histogram<u64>,
    disk: Histogram<u64>,
    write: Histogram<u64>,
    flush: Histogram<u64>,
    discard: Histogram<u64>,
}

impl Latencies {
    fn new() -> Self {
        let [ram, ssd, disk, write, flush, discard] = [(); 6].map(|()| histogram());
        Self { ram, ssd, disk, write, flush, discard }
    }

    fn record(&mut self, kind: Kind, answer: Answer, took: Duration) {
        let histogram = match kind {
            Kind::Write => &mut self.write,
            Kind::Flush => &mut self.flush,
            Kind::Discard => &mut self.discard,
            Kind::Read if answer.disk_blocks > 0 => &mut self.disk,
            Kind::Read if answer.ssd_blocks > 0 => &mut self.ssd,
            Kind::Read => &mut self.ram,
        };
        record(histogram, took);
    }

    fn add(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.ram, &other.ram),
            (&mut self.ssd, &other.ssd),
            (&mut self.disk, &other.disk),
            (&mut self.write, &other.write),
            (&mut self.flush, &other.flush),
            (&mut self.discard, &other.discard),
        ] {
            to.add(from).expect("all have the same bounds");
        }
    }

    fn sum(histograms: &[&Histogram<u64>]) -> Histogram<u64> {
        let mut all = histogram();
        histograms.iter().for_each(|part| all.add(*part).expect("all have the same bounds"));
        all
    }

    fn reads(&self) -> Histogram<u64> {
        Self::sum(&[&self.ram, &self.ssd, &self.disk])
    }

    fn all(&self) -> Histogram<u64> {
        Self::sum(&[&self.ram, &self.ssd, &self.disk, &self.write, &self.flush, &self.discard])
    }

    fn summary(&self) -> LatencySummary {
        LatencySummary {
            ram: Percentiles::of(&self.ram),
            ssd: Percentiles::of(&self.ssd),
            disk: Percentiles::of(&self.disk),
            write: Percentiles::of(&self.write),
            flush: Percentiles::of(&self.flush),
            discard: Percentiles::of(&self.discard),
            all: Percentiles::of(&self.all()),
        }
    }
}

/// All that is measured of requests.
#[derive(Clone)]
pub(crate) struct Timings {
    submitted: Latencies,
    /// In an open loop alone: latencies from the deadline, and lateness.
    open: Option<(Latencies, Histogram<u64>)>,
}

impl Timings {
    pub(crate) fn new(is_open: bool) -> Self {
        let open = is_open.then(|| (Latencies::new(), histogram()));
        Self { submitted: Latencies::new(), open }
    }

    /// A request that was due at `due` in an open loop was made at `begun`, and answered after `took`.
    pub(crate) fn record(
        &mut self,
        kind: Kind,
        answer: Answer,
        due: Option<Instant>,
        begun: Instant,
        took: Duration,
    ) {
        self.submitted.record(kind, answer, took);
        if let (Some((from_deadline, lateness)), Some(due)) = (&mut self.open, due) {
            let late = begun.saturating_duration_since(due);
            from_deadline.record(kind, answer, late + took);
            record(lateness, late);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.submitted.add(&other.submitted);
        if let (Some((from_deadline, lateness)), Some((theirs, late))) = (&mut self.open, &other.open) {
            from_deadline.add(theirs);
            lateness.add(late).expect("all have the same bounds");
        }
    }

    pub(crate) fn latency(&self) -> LatencySummary {
        self.submitted.summary()
    }

    /// Of reads alone, from the submission.
    pub(crate) fn reads(&self) -> Option<Percentiles> {
        Percentiles::of(&self.submitted.reads())
    }

    /// None in a closed loop.
    pub(crate) fn open(&self) -> Option<OpenSummary> {
        let (from_deadline, lateness) = self.open.as_ref()?;
        let classes = [lateness, &self.submitted.all(), &from_deadline.all()].map(by_class);
        let bounds = CLASSES_US.into_iter().map(Some).chain([None]);
        let distribution = bounds.enumerate().map(|(class, up_to_us)| Class {
            up_to_us,
            lateness: classes[0][class],
            latency: classes[1][class],
            latency_from_deadline: classes[2][class],
        });
        Some(OpenSummary {
            from_deadline: from_deadline.summary(),
            lateness: Percentiles::of(lateness),
            distribution: distribution.collect(),
        })
    }
}

/// How many values are in each class.
fn by_class(histogram: &Histogram<u64>) -> [u64; CLASSES_US.len() + 1] {
    let mut counts = [0; CLASSES_US.len() + 1];
    for value in histogram.iter_recorded() {
        let us = value.value_iterated_to() / 1000;
        counts[CLASSES_US.partition_point(|&bound| bound <= us)] += value.count_at_value();
    }
    counts
}

/// The latencies of a pass; an entry is null when nothing came from there.
#[derive(Clone, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) ram: Option<Percentiles>,
    pub(crate) ssd: Option<Percentiles>,
    pub(crate) disk: Option<Percentiles>,
    pub(crate) write: Option<Percentiles>,
    pub(crate) flush: Option<Percentiles>,
    pub(crate) discard: Option<Percentiles>,
    pub(crate) all: Option<Percentiles>,
}

/// How an open loop kept to the trace's time.
#[derive(Clone)]
pub(crate) struct OpenSummary {
    pub(crate) from_deadline: LatencySummary,
    pub(crate) lateness: Option<Percentiles>,
    pub(crate) distribution: Vec<Class>,
}

/// Requests whose times are less than `up_to_us` microseconds and no less than the class before; none: all others.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Class {
    pub(crate) up_to_us: Option<u64>,
    pub(crate) lateness: u64,
    pub(crate) latency: u64,
    pub(crate) latency_from_deadline: u64,
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

    fn answer(ram_blocks: u32, ssd_blocks: u32, disk_blocks: u32) -> Answer {
        Answer { ram_blocks, ssd_blocks, disk_blocks }
    }

    #[test]
    fn a_request_is_booked_where_its_slowest_block_came_from() {
        let mut latencies = Latencies::new();
        for (kind, answer) in [
            (Kind::Read, answer(4, 0, 0)),
            (Kind::Read, answer(4, 1, 0)),
            (Kind::Read, answer(4, 1, 1)),
            (Kind::Write, answer(0, 0, 0)),
            (Kind::Flush, answer(0, 0, 0)),
            (Kind::Discard, answer(0, 0, 0)),
        ] {
            latencies.record(kind, answer, Duration::from_micros(100));
        }
        let copy = latencies.clone();
        latencies.add(&copy);
        let summary = latencies.summary();
        let classes = [summary.ram, summary.ssd, summary.disk, summary.write, summary.flush, summary.discard];
        let counts = classes.map(|percentiles| percentiles.expect("something was booked").count);
        assert_eq!(counts, [2; 6]);
        assert_eq!(summary.all.map(|all| all.count), Some(12));
        assert!((summary.ram.expect("booked").p50 - 100.0).abs() < 0.2);
    }

    #[test]
    fn a_late_request_is_slow_from_its_deadline_by_what_it_was_late() {
        let mut timings = Timings::new(true);
        let begun = Instant::now();
        let late = Duration::from_secs(5);
        timings.record(Kind::Read, answer(1, 0, 0), begun.checked_sub(late), begun, Duration::ZERO);
        timings.record(Kind::Read, answer(1, 0, 0), Some(begun), begun, Duration::ZERO);
        let open = timings.open().expect("an open loop");
        let lateness = open.lateness.expect("two requests");
        assert!((lateness.max / 5e6 - 1.0).abs() < 0.01 && lateness.p50 < 1.0);
        assert!(open.from_deadline.all.expect("two requests").max >= 5e6);
        assert!(timings.latency().all.expect("two requests").max < 5e6);
        assert_eq!(open.distribution.len(), CLASSES_US.len() + 1);
        let last = open.distribution[CLASSES_US.len()];
        assert_eq!((last.up_to_us, last.lateness, last.latency_from_deadline), (None, 1, 1));
        let columns = |class: &Class| [class.lateness, class.latency, class.latency_from_deadline];
        for column in 0..3 {
            assert_eq!(open.distribution.iter().map(|class| columns(class)[column]).sum::<u64>(), 2);
        }
        assert!(Timings::new(false).open().is_none());
    }
}

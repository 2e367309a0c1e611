//! What an export did: how often, how many bytes, and how long each took, by operation.
//!
//! A time goes into one of a fixed set of buckets, eight to each power of two, so that counting costs three additions
//! to atomics and takes no lock: a hit in RAM takes a microsecond in all. A bucket's times differ by at most an eighth.
//!
//! Law: `count` of a [`LatencySnapshot`] is the sum of its buckets; each that is taken while requests run is one of the
//! times between its first and its last look.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What clients ask for; reads by where the slowest part of them was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Operation {
    ReadRam,
    ReadSsd,
    ReadDisk,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    Prefetch,
    BlockStatus,
}

impl Operation {
    pub(crate) const ALL: [Self; 9] = [
        Self::ReadRam,
        Self::ReadSsd,
        Self::ReadDisk,
        Self::Write,
        Self::Flush,
        Self::Trim,
        Self::WriteZeroes,
        Self::Prefetch,
        Self::BlockStatus,
    ];

    /// As it is called in answers and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReadRam => "read_ram",
            Self::ReadSsd => "read_ssd",
            Self::ReadDisk => "read_disk",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::WriteZeroes => "write_zeroes",
            Self::Prefetch => "prefetch",
            Self::BlockStatus => "block_status",
        }
    }
}

/// Buckets to a power of two, as a shift.
const STEPS_SHIFT: u32 = 3;
/// Shorter times, 256 ns, count as that: the clock is no better.
const SHORTEST_SHIFT: u32 = 8;
/// Times from 2^37 ns, more than two minutes, on are in the last bucket.
const LONGEST_SHIFT: u32 = 37;
const BUCKETS: usize = ((LONGEST_SHIFT - SHORTEST_SHIFT) << STEPS_SHIFT) as usize;

/// Counts times.
struct Latencies {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Latencies {
    fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn snapshot(&self) -> LatencySnapshot {
        let buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        LatencySnapshot { count: buckets.iter().sum(), sum_ns: self.sum_ns.load(Ordering::Relaxed), buckets }
    }
}

fn bucket_of(ns: u64) -> usize {
    let ns = ns.clamp(1 << SHORTEST_SHIFT, (1 << LONGEST_SHIFT) - 1);
    let power = ns.ilog2();
    let step = (ns >> (power - STEPS_SHIFT)) & ((1 << STEPS_SHIFT) - 1);
    ((power - SHORTEST_SHIFT) << STEPS_SHIFT) as usize + step as usize
}

/// The times of a bucket are below this.
fn end_of_bucket(index: usize) -> u64 {
    let (power, step) = (index as u64 >> STEPS_SHIFT, index as u64 & ((1 << STEPS_SHIFT) - 1));
    ((1 << STEPS_SHIFT) + step + 1) << (power + u64::from(SHORTEST_SHIFT - STEPS_SHIFT))
}

/// The times of one operation so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LatencySnapshot {
    pub(crate) count: u64,
    pub(crate) sum_ns: u64,
    buckets: Vec<u64>,
}

impl LatencySnapshot {
    /// The time that a share of `part`, from 0 to 1, stays below, in nanoseconds, an eighth too high at most; none when
    /// nothing was counted.
    pub(crate) fn quantile_ns(&self, part: f64) -> Option<u64> {
        let wanted = ((self.count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let index = self.buckets.iter().position(|&count| {
            seen += count;
            seen >= wanted
        })?;
        Some(end_of_bucket(index))
    }

    /// For each bucket that has some, how many times are below its end, in nanoseconds.
    pub(crate) fn below_ends(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let used = self.buckets.iter().enumerate().filter(|&(_, &count)| count > 0);
        used.scan(0, |below, (index, count)| {
            *below += count;
            Some((end_of_bucket(index), *below))
        })
    }

    /// For each power of two in nanoseconds, how many times are below it: the buckets of a Prometheus histogram.
    pub(crate) fn below_powers(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut below = 0;
        self.buckets.chunks(1 << STEPS_SHIFT).zip(SHORTEST_SHIFT + 1..).map(move |(buckets, power)| {
            below += buckets.iter().sum::<u64>();
            (1 << power, below)
        })
    }
}

/// One operation so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OperationSnapshot {
    pub(crate) operation: Operation,
    /// Of those that went well.
    pub(crate) latency: LatencySnapshot,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
}

/// Counts what one export does.
#[derive(Default)]
pub(crate) struct Meter {
    operations: [Counter; Operation::ALL.len()],
}

#[derive(Default)]
struct Counter {
    latency: Latencies,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Meter {
    /// An `operation` on `bytes` bytes that began at `since` has ended.
    pub(super) fn count(&self, operation: Operation, since: Instant, bytes: u64, went_well: bool) {
        let counter = &self.operations[operation as usize];
        if went_well {
            counter.latency.record(since.elapsed());
            counter.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            counter.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<OperationSnapshot> {
        let of = |(operation, counter): (Operation, &Counter)| OperationSnapshot {
            operation,
            latency: counter.latency.snapshot(),
            bytes: counter.bytes.load(Ordering::Relaxed),
            errors: counter.errors.load(Ordering::Relaxed),
        };
        Operation::ALL.into_iter().zip(&self.operations).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_falls_into_a_bucket_that_ends_at_most_an_eighth_above_it() {
        for ns in (8..37).flat_map(|power| [1u64 << power, (1 << power) + 1, (3 << (power - 1)) - 1]) {
            let end = end_of_bucket(bucket_of(ns));
            assert!(ns < end && end - ns <= ns / 8, "{ns} in a bucket that ends at {end}");
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!((1..BUCKETS).all(|index| bucket_of(end_of_bucket(index - 1)) == index), "no gap, no overlap");
    }

    #[test]
    fn quantiles_and_powers_of_two_agree_with_the_times_that_were_counted() {
        let latencies = Latencies::default();
        assert_eq!(latencies.snapshot().quantile_ns(0.5), None);
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let snapshot = latencies.snapshot();
        assert_eq!((snapshot.count, snapshot.sum_ns), (1000, 500_500_000));
        for (part, us) in [(0.5, 500), (0.99, 990), (1.0, 1000)] {
            let ns = snapshot.quantile_ns(part).expect("there are some");
            assert!((us * 1000..=us * 1125 + 1).contains(&ns), "{part}: {ns}");
        }
        let below: Vec<(u64, u64)> = snapshot.below_powers().collect();
        assert_eq!(below.first(), Some(&(512, 0)));
        assert_eq!(below.iter().find(|(ns, _)| *ns == 1 << 19), Some(&(1 << 19, 524)));
        assert_eq!(below.last().map(|(_, count)| *count), Some(1000));
        let ends: Vec<(u64, u64)> = snapshot.below_ends().collect();
        assert!(ends.is_sorted_by(|one, other| one.0 < other.0 && one.1 < other.1), "{ends:?}");
        assert!(ends.iter().all(|&(ns, count)| count == ns.div_ceil(1000).min(1001) - 1), "{ends:?}");
    }

    #[test]
    fn what_fails_counts_as_an_error_and_has_no_latency() {
        let meter = Meter::default();
        meter.count(Operation::Write, Instant::now(), 4096, true);
        meter.count(Operation::Write, Instant::now(), 4096, false);
        let write = &meter.snapshot()[Operation::Write as usize];
        assert_eq!(
            (write.operation, write.latency.count, write.bytes, write.errors),
            (Operation::Write, 1, 4096, 1)
        );
    }
}

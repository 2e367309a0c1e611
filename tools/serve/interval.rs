//! What happened between two reports of a service: how often, how fast, and how long it took.
//!
//! A service that was started again in between counts from its start; so does whatever it counts anew.

use std::collections::BTreeMap;

use super::report::{ConnectionReport, OperationReport, Report};

/// From one report to a later one.
#[derive(Clone, Copy)]
pub(crate) struct Interval<'a> {
    earlier: Option<&'a Report>,
    pub(crate) later: &'a Report,
}

/// Requests of some kinds that ended in an interval.
#[derive(Clone, Default, Debug)]
pub(crate) struct Work {
    pub(crate) per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) errors: u64,
    pub(crate) times: Times,
}

/// How long requests took: how many below each end of a bucket, in nanoseconds, and not below the one before.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Times(BTreeMap<u64, u64>);

impl<'a> Interval<'a> {
    /// Without an `earlier` one, since the service began.
    pub(crate) fn between(earlier: Option<&'a Report>, later: &'a Report) -> Self {
        Self { earlier: earlier.filter(|earlier| earlier.running_seconds < later.running_seconds), later }
    }

    pub(crate) fn seconds(&self) -> f64 {
        let began = self.earlier.map_or(0.0, |earlier| earlier.running_seconds);
        (self.later.running_seconds - began).max(1e-9)
    }

    /// By how much what `of` reads grew.
    pub(crate) fn count(&self, of: impl Fn(&Report) -> u64) -> u64 {
        of(self.later).saturating_sub(self.earlier.map_or(0, of))
    }

    /// The same, a second.
    pub(crate) fn rate(&self, of: impl Fn(&Report) -> u64) -> f64 {
        self.count(of) as f64 / self.seconds()
    }

    /// What was done of the operations that are wanted, of one export or of all.
    pub(crate) fn work(&self, export: Option<&str>, is_wanted: impl Fn(&str) -> bool) -> Work {
        let (mut work, mut count, mut bytes) = (Work::default(), 0, 0);
        let exports = self.later.exports.iter().filter(|one| export.is_none_or(|name| one.name == name));
        for now in exports {
            let before =
                self.earlier.and_then(|earlier| earlier.exports.iter().find(|one| one.name == now.name));
            let before = before.map_or(&[][..], |export| &export.operations);
            for now in now.operations.iter().filter(|operation| is_wanted(&operation.operation)) {
                let before = before.iter().find(|operation| operation.operation == now.operation);
                let grew = |of: fn(&OperationReport) -> u64| of(now).saturating_sub(before.map_or(0, of));
                count += grew(|operation| operation.count);
                bytes += grew(|operation| operation.bytes);
                work.errors += grew(|operation| operation.errors);
                work.times.add(&now.count_below_ns, before.map_or(&[], |before| &before.count_below_ns));
            }
        }
        work.per_second = count as f64 / self.seconds();
        work.bytes_per_second = bytes as f64 / self.seconds();
        work
    }

    /// What a connection asked for in a second: requests, and bytes either way.
    pub(crate) fn of_connection(&self, connection: &ConnectionReport) -> [f64; 2] {
        let earlier = self.earlier.map_or(&[][..], |earlier| &earlier.connections);
        let before = earlier.iter().find(|one| one.id == connection.id);
        [|one: &ConnectionReport| one.requests, |one: &ConnectionReport| one.bytes_read + one.bytes_written]
            .map(|of| of(connection).saturating_sub(before.map_or(0, of)) as f64 / self.seconds())
    }
}

/// Whether this operation is a read, from wherever.
pub(crate) fn is_read(operation: &str) -> bool {
    operation.starts_with("read_")
}

/// Whether it changes what is there.
pub(crate) fn is_write(operation: &str) -> bool {
    ["write", "trim", "write_zeroes"].contains(&operation)
}

impl Times {
    /// Adds what came from `before` to `now`, both as [`OperationReport::count_below_ns`] is.
    fn add(&mut self, now: &[(u64, u64)], before: &[(u64, u64)]) {
        let (mut before, mut was, mut last) = (before.iter().peekable(), 0, 0);
        for &(end, below) in now {
            while let Some(&(_, count)) = before.next_if(|(earlier_end, _)| *earlier_end <= end) {
                was = count;
            }
            let grown = below.saturating_sub(was);
            let count = grown.saturating_sub(last);
            if count > 0 {
                *self.0.entry(end).or_default() += count;
            }
            last = grown.max(last);
        }
    }

    /// The time that a share of `part`, from 0 to 1, stays below, an eighth too high at most; none when there were no
    /// requests.
    pub(crate) fn quantile_us(&self, part: f64) -> Option<f64> {
        let count: u64 = self.0.values().sum();
        let wanted = ((count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().find(|&(_, &count)| {
            seen += count;
            seen >= wanted
        });
        found.map(|(&ns, _)| ns as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_an_interval_are_those_that_came_in_it() {
        let mut times = Times::default();
        assert_eq!(times.quantile_us(0.5), None);
        times.add(&[(1000, 10), (2000, 15), (8000, 16)], &[(2000, 4), (8000, 4)]);
        assert_eq!(times, Times([(1000, 10), (2000, 1), (8000, 1)].into()));
        times.add(&[(1000, 5)], &[(1000, 5)]);
        times.add(&[(4000, 100)], &[]);
        assert_eq!(
            [0.01, 0.5, 0.99, 1.0].map(|part| times.quantile_us(part)),
            [1.0, 4.0, 4.0, 8.0].map(Some)
        );
    }

    #[test]
    fn counts_that_begin_anew_are_no_less_than_nothing() {
        let mut times = Times::default();
        times.add(&[(1000, 1), (2000, 3)], &[(1000, 7), (2000, 9)]);
        assert_eq!(times, Times::default());
    }
}

//! Families of metrics, as the library that encodes them wants them.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::serve::meter::LatencySnapshot;

/// Of one value of a family.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

pub(super) fn no_labels() -> Labels<'static> {
    Vec::new()
}

/// Writes families of metrics. Units are part of names: `written` in bytes is `terrace_written_bytes`.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    fn family<T>(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        kind: MetricType,
        values: Vec<(Labels<'_>, T)>,
        write: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            if labels.is_empty() {
                write(&mut encoder, value)?;
            } else {
                write(&mut encoder.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }

    pub(super) fn counters(
        &mut self,
        what: (&str, Option<Unit>, &str),
        values: Vec<(Labels<'_>, u64)>,
    ) -> fmt::Result {
        self.family(what, MetricType::Counter, values, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        })
    }

    pub(super) fn counter(&mut self, what: (&str, Option<Unit>, &str), value: u64) -> fmt::Result {
        self.counters(what, vec![(no_labels(), value)])
    }

    pub(super) fn gauges(
        &mut self,
        what: (&str, Option<Unit>, &str),
        values: Vec<(Labels<'_>, u64)>,
    ) -> fmt::Result {
        self.family(what, MetricType::Gauge, values, |encoder, value| encoder.encode_gauge(&value))
    }

    pub(super) fn gauge(&mut self, what: (&str, Option<Unit>, &str), value: u64) -> fmt::Result {
        self.gauges(what, vec![(no_labels(), value)])
    }

    /// Gauges that are no whole numbers.
    pub(super) fn fractions(
        &mut self,
        what: (&str, Option<Unit>, &str),
        values: Vec<(Labels<'_>, f64)>,
    ) -> fmt::Result {
        self.family(what, MetricType::Gauge, values, |encoder, value| encoder.encode_gauge(&value))
    }

    /// One value for each set of labels that is true of something.
    pub(super) fn infos(&mut self, name: &str, help: &str, values: &[Labels<'_>]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        values.iter().try_for_each(|labels| encoder.encode_info(labels))
    }

    pub(super) fn histograms(
        &mut self,
        what: (&str, Option<Unit>, &str),
        values: Vec<(Labels<'_>, &LatencySnapshot)>,
    ) -> fmt::Result {
        self.family(what, MetricType::Histogram, values, |encoder, latency| {
            encoder.encode_histogram::<NoLabelSet>(
                latency.sum_ns as f64 / 1e9,
                latency.count,
                &buckets(latency),
                None,
            )
        })
    }
}

/// How many times are in each bucket, by its end in seconds; the last one has no end.
fn buckets(latency: &LatencySnapshot) -> Vec<(f64, u64)> {
    let mut below = 0;
    let mut buckets: Vec<(f64, u64)> = latency
        .below_powers()
        .map(|(ns, count)| (ns as f64 / 1e9, count - std::mem::replace(&mut below, count)))
        .collect();
    // The longest times of all are in the last one, however long they were.
    if let Some((end, _)) = buckets.last_mut() {
        *end = f64::INFINITY;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::serve::meter::{Meter, Operation};

    #[test]
    fn the_buckets_of_a_histogram_hold_each_time_once_and_the_last_has_no_end() {
        let meter = Meter::default();
        let began = Instant::now();
        for _ in 0..7 {
            meter.count(Operation::Write, began, 1, true);
        }
        let snapshot = meter.snapshot();
        let buckets = buckets(&snapshot[Operation::Write as usize].latency);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert!(buckets.is_sorted_by(|one, other| one.0 < other.0), "{buckets:?}");
        assert_eq!(buckets.last().map(|(end, _)| *end), Some(f64::INFINITY));
    }
}

//! A set of ids, kept as ranges.

use std::collections::BTreeMap;

/// Ranges of ids, disjoint and not neighbours: the first of each, and its last.
#[derive(Default)]
pub(super) struct IdRanges {
    ranges: BTreeMap<u64, u64>,
}

impl IdRanges {
    pub(super) fn insert(&mut self, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (mut first, mut last) = (first, first.saturating_add(count - 1));
        // What overlaps or touches becomes part of it.
        let around = self.ranges.range(..=last.saturating_add(1)).rev();
        let touched: Vec<(u64, u64)> = around
            .take_while(|&(_, &end)| end >= first.saturating_sub(1))
            .map(|(&start, &end)| (start, end))
            .collect();
        for (start, end) in touched {
            self.ranges.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.ranges.insert(first, last);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.ranges.range(..=id).next_back().is_some_and(|(_, &last)| last >= id)
    }
}

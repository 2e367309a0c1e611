//! Which copies the journal calls void because their block was overwritten or discarded.
//!
//! Single blocks are in a table. Ranges are merged to disjoint ones, by address, once all are known: so that a question
//! costs one look at the table and one binary search, however many entries the journal has.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::block::{BlockId, Version};

type Hasher = foldhash::fast::FixedState;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    first: u64,
    /// Part of it.
    last: u64,
    /// Versions below this one are void.
    version: u64,
}

#[derive(Default)]
pub(super) struct Overwritten {
    blocks: HashMap<u64, u64, Hasher>,
    /// Disjoint and in order once they are merged.
    ranges: Vec<Range>,
}

impl Overwritten {
    pub(super) fn add(&mut self, block: u64, version: u64) {
        let known = self.blocks.entry(block).or_default();
        *known = version.max(*known);
    }

    pub(super) fn add_range(&mut self, first: u64, count: u64, version: u64) {
        if count > 0 {
            self.ranges.push(Range { first, last: first.saturating_add(count - 1), version });
        }
    }

    /// To be called when all are added, before the first question.
    pub(super) fn merge(&mut self) {
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.sort_unstable_by_key(|range| range.first);
        // Each event is where a range begins, or the first block after one.
        let mut events: Vec<(u64, bool, u64)> = Vec::with_capacity(2 * ranges.len());
        for Range { first, last, version } in &ranges {
            events.push((*first, true, *version));
            if *last < u64::MAX {
                events.push((last + 1, false, *version));
            }
        }
        events.sort_unstable();
        // The versions of the ranges around, and how many have each.
        let mut around: BTreeMap<u64, u32> = BTreeMap::new();
        let mut merged: Vec<Range> = Vec::new();
        let mut events = events.into_iter().peekable();
        while let Some((at, begins, version)) = events.next() {
            let count = around.entry(version).or_default();
            *count = if begins { *count + 1 } else { *count - 1 };
            if *count == 0 {
                around.remove(&version);
            }
            let next = events.peek().map(|event| event.0);
            let Some((&version, _)) = around.last_key_value().filter(|_| next != Some(at)) else { continue };
            let last = next.map_or(u64::MAX, |next| next - 1);
            match merged.last_mut() {
                Some(before) if before.version == version && before.last + 1 == at => before.last = last,
                _ => merged.push(Range { first: at, last, version }),
            }
        }
        self.ranges = merged;
    }

    /// Whether there is something newer than this version of `block`.
    pub(super) fn contains(&self, block: BlockId, version: Version) -> bool {
        let (block, version) = (block.as_u64(), version.as_u64());
        let is_below = |void: u64| version < void;
        if !self.blocks.is_empty() && self.blocks.get(&block).is_some_and(|&void| is_below(void)) {
            return true;
        }
        let at = self.ranges.partition_point(|range| range.last < block);
        self.ranges.get(at).is_some_and(|range| range.first <= block && is_below(range.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_ranges_say_what_all_entries_say_one_by_one() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..300 {
            // At both ends of the ids, where counts run over.
            let base = if round % 2 == 0 { 0 } else { u64::MAX - 60 };
            let (mut overwritten, mut twin) = (Overwritten::default(), Vec::new());
            for _ in 0..random.u32(..20) {
                let first = base + random.u64(..60);
                let count = if random.u32(..8) == 0 { u64::MAX } else { random.u64(..20) };
                let version = random.u64(1..6);
                if count == 1 {
                    overwritten.add(first, version);
                } else {
                    overwritten.add_range(first, count, version);
                }
                twin.push((first, count, version));
            }
            overwritten.merge();
            for block in base..=base + 60 {
                for version in 0..6 {
                    let wanted = twin.iter().any(|&(first, count, void)| {
                        version < void && block >= first && block - first < count
                    });
                    let found = overwritten.contains(BlockId::from_u64(block), Version::from_u64(version));
                    assert_eq!(found, wanted, "seed {seed}: block {block}, version {version}, {twin:?}");
                }
            }
        }
    }
}

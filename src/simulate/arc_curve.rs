//! How often the RAM tier's own policy misses, over a trace of dense ids: the points of its miss-ratio curve.
//!
//! ARC has no stack: what a larger cache keeps is not a superset, and each size is a run of its own. The runs share the
//! trace and nothing else, so whoever has processors gives them one size each.
//!
//! Memory: 4 bytes a reference for the trace, and a quarter of one for each run at a time.

use terrace_tiers::block::BlockId;
use terrace_tiers::ram::arc_policy::{Access, ArcPolicy, Timeline};

/// A trace as [`ArcPolicy::over_time`] takes it.
pub struct ArcCurve {
    /// By reference: the number of the one before to the same block, or its own if it is the first.
    previous: Vec<u32>,
    unique: u32,
}

impl ArcCurve {
    /// The most references of one trace.
    pub const REFERENCES_MAX: u32 = ArcPolicy::<Timeline>::REFERENCES_MAX;

    /// Of `references` to blocks with numbers below `unique`.
    ///
    /// # Panics
    /// When there are more than [`Self::REFERENCES_MAX`].
    pub fn of(mut references: Vec<u32>, unique: u32) -> Self {
        const NEVER: u32 = u32::MAX;
        assert!(references.len() <= Self::REFERENCES_MAX as usize, "{} references", references.len());
        let mut last = vec![NEVER; unique as usize];
        for (number, reference) in (0..).zip(&mut references) {
            let before = std::mem::replace(&mut last[*reference as usize], number);
            *reference = if before == NEVER { number } else { before };
        }
        Self { previous: references, unique }
    }

    /// Misses of one undivided directory of `capacity` blocks, first references included.
    ///
    /// # Panics
    /// When `capacity` is 0 or beyond [`ArcPolicy::CAPACITY_MAX`].
    pub fn misses(&self, capacity: u32) -> u64 {
        // A cache that has room for all never evicts, whatever is beyond.
        let capacity = capacity.min(self.unique.max(1));
        let mut policy = ArcPolicy::over_time(capacity, self.previous.len() as u32);
        let is_miss = |&&previous: &&u32| {
            !matches!(policy.reference(BlockId::from_u64(u64::from(previous))), Access::Hit(_))
        };
        self.previous.iter().filter(is_miss).count() as u64
    }

    /// How many references there are.
    pub fn references(&self) -> u64 {
        self.previous.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misses_of_a_hashed_directory(references: &[u32], capacity: u32) -> u64 {
        let mut hashed = ArcPolicy::new(capacity);
        let is_miss = |&&reference: &&u32| {
            !matches!(hashed.reference(BlockId::from_u64(u64::from(reference))), Access::Hit(_))
        };
        references.iter().filter(is_miss).count() as u64
    }

    #[test]
    fn every_size_misses_what_the_hashed_directory_of_that_size_misses() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for unique in [1, 2, 63, 200, 500] {
            // In turns: popular blocks, loops over some of them, anything.
            let reference = |step: u32| match step / 997 % 3 {
                0 => random.u32(..unique).min(random.u32(..unique)),
                1 => step % (unique / 2 + 1),
                _ => random.u32(..unique),
            };
            let references: Vec<u32> = (0..20_000).map(reference).collect();
            let curve = ArcCurve::of(references.clone(), unique);
            for capacity in [1, 2, 3, 10, 64, 100, 199, 200, 499, 500, 5000] {
                let wanted = misses_of_a_hashed_directory(&references, capacity);
                let context = || format!("seed {seed}, {unique} blocks, room for {capacity}");
                assert_eq!(curve.misses(capacity), wanted, "{}", context());
            }
        }
    }

    #[test]
    fn an_empty_trace_misses_nothing() {
        let curve = ArcCurve::of(Vec::new(), 0);
        assert_eq!((curve.misses(5), curve.references()), (0, 0));
    }
}

//! How often the RAM tier's own policy misses, over dense ids: the points of its miss-ratio curve.
//!
//! ARC has no stack: what a larger cache keeps is not a superset, and each size is a run of its own. The runs share
//! nothing, so whoever has processors gives them one size each.

use terrace_tiers::block::BlockId;
use terrace_tiers::ram::arc_policy::{Access, ArcPolicy};

/// So many references before it is asked for a block is looked at: long enough for memory to answer, and short enough for the
/// answer to stay near.
const AHEAD: usize = 16;

/// Misses of one undivided directory of `capacity` blocks over `references`, whose numbers are below `unique`.
///
/// # Panics
/// When `capacity` is 0 or beyond [`ArcPolicy::CAPACITY_MAX`].
pub fn arc_misses(references: &[u32], unique: u32, capacity: u32) -> u64 {
    // A cache that has room for all never evicts; a smaller directory says the same with less memory to walk.
    let mut policy = ArcPolicy::dense(capacity.min(unique.max(1)), unique);
    let mut misses = 0;
    for (index, &reference) in references.iter().enumerate() {
        if let Some(&ahead) = references.get(index + AHEAD) {
            policy.look_ahead(BlockId::from_u64(u64::from(ahead)));
        }
        let access = policy.request(BlockId::from_u64(u64::from(reference)), |_| true);
        misses += u64::from(!matches!(access, Ok(Access::Hit(_))));
    }
    misses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_misses_what_the_hashed_directory_of_that_size_misses() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let references: Vec<u32> = (0..20_000).map(|_| random.u32(..500).min(random.u32(..500))).collect();
        for capacity in [1, 10, 100, 499, 500, 5000] {
            let mut hashed = ArcPolicy::new(capacity);
            let is_miss = |&&reference: &&u32| {
                let access = hashed.request(BlockId::from_u64(u64::from(reference)), |_| true);
                !matches!(access, Ok(Access::Hit(_)))
            };
            let wanted = references.iter().filter(is_miss).count() as u64;
            assert_eq!(arc_misses(&references, 500, capacity), wanted, "seed {seed}, {capacity} blocks");
        }
    }
}

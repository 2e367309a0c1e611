//! Which blocks a scaled-down simulation keeps, of a trace or of what a cache is asked for.
//!
//! Source: Waldspurger, Park, Garthwaite and Ahmad, "Efficient MRC construction with SHARDS", FAST 2015; Waldspurger,
//! Saemundsson, Ahmad and Park, "Cache modeling and optimization using miniature simulations", ATC 2017.
//!
//! A block is kept or not by its id alone, so all references to it or none. A cache scaled by the same rate then keeps
//! the same share of what is kept. Samples with different salts are as good as independent.

use terrace_tiers::block::BlockId;

/// A share of all blocks, told by their hashes.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Hashes below this are in; none: all.
    limit: Option<u64>,
    salt: u64,
}

impl Sample {
    /// So many of all blocks, from 0 to 1.
    pub fn new(rate: f64, salt: u64) -> Self {
        let limit = (rate < 1.0).then_some((rate.max(0.0) * 2f64.powi(64)) as u64);
        Self { limit, salt }
    }

    #[inline]
    pub fn takes(&self, block: BlockId) -> bool {
        self.limit.is_none_or(|limit| place(block, self.salt) < limit)
    }
}

/// Where a sample with this salt has `block`, from nothing to all of 2^64: a rate takes what lies below its share.
#[inline]
pub(crate) fn place(block: BlockId, salt: u64) -> u64 {
    mix(block.as_u64() ^ mix(salt))
}

/// Every bit of the answer depends on every bit of `id`, in neighbours too: xor, shift and multiply three times (the
/// finisher of SplitMix64, Steele, Lea and Flood, OOPSLA 2014).
#[inline]
fn mix(id: u64) -> u64 {
    let id = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^ (id >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: f64, salt: u64, stride: u64) -> Vec<u64> {
        let sample = Sample::new(rate, salt);
        (0..100_000).map(|n| n * stride).filter(|&id| sample.takes(BlockId::from_u64(id))).collect()
    }

    #[test]
    fn a_sample_takes_its_share_of_neighbours_and_of_strides() {
        for stride in [1, 8, 256, 1 << 20] {
            for rate in [0.01, 0.1, 0.5] {
                let (count, wanted) = (taken(rate, 7, stride).len() as f64, rate * 100_000.0);
                // Five standard deviations.
                assert!(
                    (count - wanted).abs() < 5.0 * (wanted * (1.0 - rate)).sqrt(),
                    "{count}, not {wanted}"
                );
            }
        }
        assert_eq!((taken(1.0, 3, 1).len(), taken(0.0, 3, 1).len()), (100_000, 0));
    }

    #[test]
    fn salts_give_samples_that_overlap_no_more_than_chance_and_one_salt_gives_one_sample() {
        let (one, other) = (taken(0.1, 1, 1), taken(0.1, 2, 1));
        let both = one.iter().filter(|id| other.binary_search(id).is_ok()).count();
        assert!((800..1200).contains(&both), "{both}");
        assert_eq!(one, taken(0.1, 1, 1));
        assert!(taken(0.2, 1, 1).iter().filter(|id| one.binary_search(id).is_ok()).count() == one.len());
    }
}

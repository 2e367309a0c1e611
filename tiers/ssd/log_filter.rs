//! Which blocks the log may have: a few bits in place of a look at its tables.
//!
//! While summaries are read nearly every question is about a block that the log does not have, and there are as many as
//! the cache has blocks. A block sets two bits of one word (a Bloom filter of one line); one that finds them set may be in
//! the log. Nothing is ever taken out: there is a filter only as long as summaries are read.

use crate::block::BlockId;

use super::table::mix;

// 16: one in sixty questions about other blocks is answered wrongly.
const BITS_A_BLOCK: usize = 16;
const WORDS_MIN: usize = 1 << 10;

pub(super) struct LogFilter {
    words: Vec<u64>,
}

impl LogFilter {
    /// Made for about so many blocks. With more of them it says yes more often.
    pub(super) fn new(blocks: usize) -> Self {
        Self { words: vec![0; (blocks * BITS_A_BLOCK / u64::BITS as usize).max(WORDS_MIN)] }
    }

    pub(super) fn add(&mut self, block: BlockId) {
        let (word, bits) = self.bits_of(block);
        self.words[word] |= bits;
    }

    /// True for every block that was added, and for some others.
    pub(super) fn may_have(&self, block: BlockId) -> bool {
        let (word, bits) = self.bits_of(block);
        self.words[word] & bits == bits
    }

    fn bits_of(&self, block: BlockId) -> (usize, u64) {
        let hash = mix(block.as_u64());
        let word = (((hash >> 32) * self.words.len() as u64) >> 32) as usize;
        (word, 1 << (hash & 63) | 1 << (hash >> 6 & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_that_was_added_is_found_and_few_others() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut filter = LogFilter::new(50_000);
        let first = random.u64(..1 << 60);
        let blocks = |range: std::ops::Range<u64>| range.map(move |n| BlockId::from_u64(first + n));
        blocks(0..50_000).for_each(|block| filter.add(block));
        assert!(blocks(0..50_000).all(|block| filter.may_have(block)), "seed {seed}");
        let others = blocks(50_000..150_000).filter(|&block| filter.may_have(block)).count();
        assert!(others < 5000, "seed {seed}: {others}");
    }
}

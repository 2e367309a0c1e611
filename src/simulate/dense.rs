//! Block ids numbered off from 0 in order of appearance: hashed once, an index into arrays in every simulation after.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use terrace_tiers::block::BlockId;

/// A sequence of references to blocks whose ids are `0..unique`.
///
/// Invariant: every number in `references` is below `unique`, and the first appearance of `n` comes before that of
/// `n + 1`.
#[derive(Default)]
pub struct DenseTrace {
    references: Vec<u32>,
    /// By number: the block.
    blocks: Vec<u64>,
    numbers: HashTable<u32>,
    hasher: FixedState,
}

impl DenseTrace {
    /// Appends a reference to `block`.
    ///
    /// # Panics
    /// As [`Self::number`].
    #[inline]
    pub fn push(&mut self, block: BlockId) {
        let number = self.number(block);
        self.references.push(number);
    }

    /// The number of `block`, the next one if it has none yet.
    ///
    /// # Panics
    /// When there are more than 2^32 - 1 blocks.
    #[inline]
    pub fn number(&mut self, block: BlockId) -> u32 {
        use std::hash::BuildHasher;
        let (id, blocks, hasher) = (block.as_u64(), &mut self.blocks, &self.hasher);
        let found = self.numbers.entry(
            hasher.hash_one(id),
            |&number| blocks[number as usize] == id,
            |&number| hasher.hash_one(blocks[number as usize]),
        );
        match found {
            hashbrown::hash_table::Entry::Occupied(entry) => *entry.get(),
            hashbrown::hash_table::Entry::Vacant(entry) => {
                let number = u32::try_from(blocks.len()).expect("fewer than 2^32 blocks");
                entry.insert(number);
                blocks.push(id);
                number
            }
        }
    }

    /// The references, in order.
    pub fn references(&self) -> &[u32] {
        &self.references
    }

    /// The references alone.
    pub fn into_references(self) -> Vec<u32> {
        self.references
    }

    /// How many blocks there are.
    pub fn unique(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// The block with this number.
    pub fn block(&self, number: u32) -> BlockId {
        BlockId::from_u64(self.blocks[number as usize])
    }

    /// Forgets what numbers new blocks, which is most of the memory: nothing is to be pushed after this.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.numbers = HashTable::new();
        self.references.shrink_to_fit();
        self
    }
}

impl FromIterator<BlockId> for DenseTrace {
    fn from_iter<I: IntoIterator<Item = BlockId>>(blocks: I) -> Self {
        let mut trace = Self::default();
        blocks.into_iter().for_each(|block| trace.push(block));
        trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_in_order_of_appearance_and_found_by_their_number() {
        let ids = [u64::MAX, 7, u64::MAX, 0, 7, 8];
        let trace: DenseTrace = ids.into_iter().map(BlockId::from_u64).collect();
        assert_eq!(trace.references(), [0, 1, 0, 2, 1, 3]);
        assert_eq!(trace.unique(), 4);
        let back = trace.references().iter().map(|&number| trace.block(number).as_u64());
        assert!(back.eq(ids));
    }
}

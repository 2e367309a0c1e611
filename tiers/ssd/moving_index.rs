//! The index while it gets a table of another size.
//!
//! A table never doubles by itself; when the file is resized a new one is made, and the entries of the old one are moved
//! a few at a time, under as many holds of the owner's lock. Until that is over a block is in one of both tables, never in
//! both: new ones go into the new table, and every other question looks there first.

use crate::block::BlockId;

use super::index::{Found, Index, New, Place};

pub(super) struct MovingIndex {
    table: Index,
    /// The old table, and its first cell that may not be empty.
    before: Option<(Index, usize)>,
}

impl From<Index> for MovingIndex {
    fn from(table: Index) -> Self {
        Self { table, before: None }
    }
}

impl MovingIndex {
    pub(super) fn new(slot_count: usize) -> Self {
        Index::new(slot_count).into()
    }

    /// Begins to move to a table for `slot_count` blocks, which must have room for all there are.
    pub(super) fn begin_move(&mut self, slot_count: usize) {
        while self.step(usize::MAX) {}
        let table = std::mem::replace(&mut self.table, Index::new(slot_count));
        self.before = Some((table, 0));
    }

    /// Moves at most `count` entries; whether some are left.
    pub(super) fn step(&mut self, count: usize) -> bool {
        let Some((before, cursor)) = &mut self.before else { return false };
        let is_left = before.take_some(cursor, count, |block, found| {
            self.table.insert(block, found.place, found.crc);
        });
        if !is_left {
            self.before = None;
        }
        is_left
    }

    fn before(&self) -> Option<&Index> {
        self.before.as_ref().map(|(table, _)| table)
    }

    fn before_mut(&mut self) -> Option<&mut Index> {
        self.before.as_mut().map(|(table, _)| table)
    }

    /// Every block that is in, in no order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.table.blocks().chain(self.before().into_iter().flat_map(Index::blocks))
    }

    pub(super) fn len(&self) -> usize {
        self.table.len() + self.before().map_or(0, Index::len)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.table.bytes() + self.before().map_or(0, Index::bytes)
    }

    pub(super) fn get(&self, block: BlockId) -> Option<Found> {
        self.table.get(block).or_else(|| self.before()?.get(block))
    }

    /// Whether `block` is in `place`.
    pub(super) fn is_at(&self, block: BlockId, place: Place) -> bool {
        self.get(block).is_some_and(|found| found.place == place)
    }

    /// Adds a block that is not in yet.
    pub(super) fn insert(&mut self, block: BlockId, place: Place, crc: u32) {
        debug_assert!(self.get(block).is_none(), "{block} is in the index already");
        self.table.insert(block, place, crc);
    }

    /// Adds all of `news`, but those whose blocks are in: these are given to `known`, by their number, with what is known.
    pub(super) fn insert_all(&mut self, news: &[New], mut known: impl FnMut(usize, Found)) {
        if self.before.is_none() {
            return self.table.insert_all(news, known);
        }
        for (number, new) in news.iter().enumerate() {
            let before = self.before().and_then(|before| before.get(new.block));
            if let Some(found) = before.or_else(|| self.table.insert_new(new)) {
                known(number, found);
            }
        }
    }

    /// Notes the checksum of `block`, if that is in `place` still.
    pub(super) fn confirm(&mut self, block: BlockId, place: Place, crc: u32) -> bool {
        self.table.confirm(block, place, crc)
            || self.before_mut().is_some_and(|before| before.confirm(block, place, crc))
    }

    pub(super) fn remove(&mut self, block: BlockId) -> Option<Found> {
        self.table.remove(block).or_else(|| self.before_mut()?.remove(block))
    }

    /// Takes out every block that `is_out` names, and gives them to it once.
    pub(super) fn remove_where(&mut self, mut is_out: impl FnMut(BlockId, Found) -> bool) {
        self.table.remove_where(&mut is_out);
        if let Some(before) = self.before_mut() {
            before.remove_where(is_out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn an_index_that_moves_to_other_sizes_agrees_with_a_hash_map_through_random_changes() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut index, mut twin) = (MovingIndex::new(300), HashMap::new());
        for step in 0..100_000 {
            let id = random.u64(..400) << 37;
            let block = BlockId::from_u64(id);
            let (place, crc) = (random.u32(..1 << 30), random.u32(..));
            match (twin.get(&id).copied(), random.u32(..4)) {
                (Some(_), 0) => {
                    assert!(index.remove(block).is_some(), "seed {seed}");
                    twin.remove(&id);
                }
                (Some((place, _)), _) => {
                    assert!(index.confirm(block, place, crc) && !index.confirm(block, place + 1, crc));
                    twin.insert(id, (place, crc));
                }
                (None, _) if twin.len() < 200 => {
                    index.insert(block, place, crc);
                    twin.insert(id, (place, crc));
                }
                (None, _) => {}
            }
            if step % 500 == 0 {
                index.begin_move(random.usize(200..900));
            }
            index.step(random.usize(..3));
            if step % 10_007 == 0 {
                let mut seen = 0;
                index.remove_where(|block, _| {
                    seen += 1;
                    (block.as_u64() >> 37).is_multiple_of(3)
                });
                assert_eq!(seen, twin.len(), "seed {seed}");
                twin.retain(|id, _| !(id >> 37).is_multiple_of(3));
            }
            let wanted = twin.get(&id).map(|&(place, crc)| Found { place, crc });
            assert_eq!((index.get(block), index.len()), (wanted, twin.len()), "seed {seed}, step {step}");
        }
        while index.step(10) {}
        for (&id, &(place, crc)) in &twin {
            assert_eq!(index.get(BlockId::from_u64(id)), Some(Found { place, crc }), "seed {seed}");
        }
    }
}

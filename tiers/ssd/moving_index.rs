//! The index while it gets a table of another size.
//!
//! A table never doubles by itself; when the file is resized a new one is made, and the entries of the old one are moved
//! a few at a time, under as many holds of the owner's lock. Until that is over a block is in one of both tables, never in
//! both: new ones go into the new table, and every other question looks there first.
//!
//! Only in a simulated tier, which nobody waits for, the table grows with what it has: a cache that is far larger than its
//! trace then takes no more memory than the trace's blocks.

use std::ops::RangeInclusive;

use crate::block::BlockId;

use super::index::{Cursor, Index, Spread};
use super::table::{Found, New, Place, Table};

pub(super) struct MovingIndex {
    table: Index,
    /// The old table, and how far that is emptied.
    before: Option<(Index, Cursor)>,
    /// How many blocks the table has room for, and how many it may get room for by itself.
    room: Option<(usize, usize)>,
    /// What a table with all that room takes, as a real tier has it: of a growing one that is what is told.
    whole_bytes: u64,
}

/// Room that a growing table begins with.
const GROWING_ROOM: usize = if cfg!(test) { 40 } else { 1 << 14 };

impl From<Index> for MovingIndex {
    fn from(table: Index) -> Self {
        Self { table, before: None, room: None, whole_bytes: 0 }
    }
}

impl MovingIndex {
    pub(super) fn new(slot_count: usize) -> Self {
        Index::new(slot_count).into()
    }

    /// An index for at most `slot_count` blocks that takes memory as they come, all at once each time it grows.
    pub(super) fn growing(slot_count: usize) -> Self {
        let room = slot_count.min(GROWING_ROOM);
        // Pages that nobody touches cost nothing.
        let whole_bytes = Index::new(slot_count).bytes();
        Self { room: Some((room, slot_count)), whole_bytes, ..Self::new(room) }
    }

    /// Begins to move to a table for `slot_count` blocks, which must have room for all there are.
    pub(super) fn begin_move(&mut self, slot_count: usize) {
        while self.step(usize::MAX) {}
        let table = std::mem::replace(&mut self.table, Index::new(slot_count));
        self.before = Some((table, Cursor::default()));
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
        match self.room {
            Some(_) => self.whole_bytes,
            None => self.table.bytes() + self.before().map_or(0, Index::bytes),
        }
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
        self.grow_if_full();
        self.table.insert(block, place, crc);
    }

    fn grow_if_full(&mut self) {
        if let Some((room, room_max)) =
            self.room.filter(|&(room, max)| room < max && self.table.len() >= room)
        {
            // By half: to double would take more than it needs for longer.
            let more = (room + room / 2).min(room_max);
            self.begin_move(more);
            while self.step(usize::MAX) {}
            self.room = Some((more, room_max));
        }
    }

    /// As [`Index::insert_all`]; not while the index moves.
    pub(super) fn insert_all(&mut self, part: usize, news: &[New], known: impl FnMut(usize, Found)) {
        debug_assert!(self.before.is_none(), "a file is not resized before all it holds is found");
        self.table.insert_all(part, news, known);
    }

    /// As [`Index::spread`]; it stays as it is but for [`Self::begin_move`].
    pub(super) fn spread(&self) -> Spread {
        self.table.spread()
    }

    /// As [`Index::is_lent`].
    pub(super) fn is_lent(&self, block: BlockId) -> bool {
        self.table.is_lent(block)
    }

    /// As [`Index::is_part_lent`].
    pub(super) fn is_part_lent(&self, part: usize) -> bool {
        self.table.is_part_lent(part)
    }

    /// As [`Index::lend`]; not while the index moves.
    pub(super) fn lend(&mut self, part: usize) -> Option<Table> {
        debug_assert!(self.before.is_none(), "a file is not resized before all it holds is found");
        self.table.lend(part)
    }

    /// As [`Index::take_back`].
    pub(super) fn take_back(&mut self, part: usize, table: Table, removed: impl FnMut(Found)) {
        self.table.take_back(part, table, removed);
    }

    /// Notes the checksum of `block`, if that is in `place` still.
    pub(super) fn confirm(&mut self, block: BlockId, place: Place, crc: u32) -> bool {
        self.table.confirm(block, place, crc)
            || self.before_mut().is_some_and(|before| before.confirm(block, place, crc))
    }

    pub(super) fn remove(&mut self, block: BlockId) -> Option<Found> {
        self.table.remove(block).or_else(|| self.before_mut()?.remove(block))
    }

    /// As [`Index::remove_ids`].
    pub(super) fn remove_ids(&mut self, ids: &RangeInclusive<u64>, mut removed: impl FnMut(Found)) {
        self.table.remove_ids(ids, &mut removed);
        if let Some(before) = self.before_mut() {
            before.remove_ids(ids, removed);
        }
    }

    /// As [`Index::remove_where`].
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
    fn a_growing_index_has_room_for_all_and_takes_memory_as_they_come() {
        let (mut growing, sized) = (MovingIndex::growing(1000), MovingIndex::new(1000));
        let block = |id: u32| BlockId::from_u64(u64::from(id) << 33);
        assert!(growing.table.bytes() * 10 < sized.bytes(), "{}, {}", growing.table.bytes(), sized.bytes());
        for id in 0..1000 {
            growing.insert(block(id), id, id);
            assert_eq!(growing.len(), id as usize + 1);
        }
        assert_eq!(growing.bytes(), sized.bytes());
        for id in 0..1000 {
            assert_eq!(growing.get(block(id)), Some(Found { place: id, crc: id }));
        }
    }

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

//! Which block is in which place: the ids spread over parts, each a [`Table`] of its own.
//!
//! The parts are there for recovery, which puts as many blocks into the index as the cache has: a part can be lent, and
//! whoever has it fills it beside the owner's lock while others fill other parts (see `install`). At any other time the
//! parts are as one table.
//!
//! | invariant                                                                       | test                          |
//! |---------------------------------------------------------------------------------|-------------------------------|
//! | 1. Of a lent part no block is found: that is a miss, as for what is not found yet. | `what_leaves_a_lent_part_...` |
//! | 2. Nothing goes into a lent part but by who has it.                             | asserted                      |
//! | 3. What leaves a lent part is gone when that comes back, before anyone asks.      | `what_leaves_a_lent_part_...` |

use std::ops::RangeInclusive;

use crate::block::BlockId;

use super::table::{Found, New, Place, Table, mix};

/// A part has at least so many slots: fewer fill a part too unevenly, and make it too small to be worth a turn.
const PART_SLOTS_MIN: usize = if cfg!(test) { 20 } else { 1 << 16 };
// 64: two threads hardly ever want the same one, and of what is read together there is enough for each.
const PARTS_MAX: usize = 64;

/// Which part an id belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spread {
    /// A power of two.
    parts: usize,
}

impl Spread {
    fn new(slot_count: usize) -> Self {
        let parts = (slot_count / PART_SLOTS_MIN).clamp(1, PARTS_MAX);
        Self { parts: 1 << parts.ilog2() }
    }

    pub(super) fn parts(self) -> usize {
        self.parts
    }

    /// By the low bits, which count least for where in its table a block is.
    #[inline]
    pub(super) fn part_of(self, block: BlockId) -> usize {
        mix(block.as_u64()) as usize & (self.parts - 1)
    }
}

struct Part {
    /// None while it is lent.
    table: Option<Table>,
    /// How many blocks it had when it was lent.
    lent_len: usize,
    /// Ids that are out once it is back.
    leaving: Vec<RangeInclusive<u64>>,
}

pub(super) struct Index {
    spread: Spread,
    parts: Vec<Part>,
    /// In all parts; of a lent one as many as it had.
    len: usize,
    cells_bytes: u64,
}

/// How far [`Index::take_some`] is.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    part: usize,
    cell: usize,
}

impl Index {
    /// An index for at most `slot_count` blocks.
    pub(super) fn new(slot_count: usize) -> Self {
        let spread = Spread::new(slot_count);
        let part_slots = slot_count.div_ceil(spread.parts);
        let part = |_| Part { table: Some(Table::new(part_slots)), lent_len: 0, leaving: Vec::new() };
        let parts: Vec<Part> = (0..spread.parts).map(part).collect();
        let cells_bytes = parts.iter().flat_map(|part| &part.table).map(Table::bytes).sum();
        Self { spread, parts, len: 0, cells_bytes }
    }

    pub(super) fn spread(&self) -> Spread {
        self.spread
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        let outside: u64 = self.tables().map(Table::outside_bytes).sum();
        self.cells_bytes + outside
    }

    /// Those that are not lent.
    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.parts.iter().flat_map(|part| &part.table)
    }

    #[inline]
    fn table_of(&self, block: BlockId) -> Option<&Table> {
        self.parts[self.spread.part_of(block)].table.as_ref()
    }

    #[inline]
    fn table_of_mut(&mut self, block: BlockId) -> Option<&mut Table> {
        self.parts[self.spread.part_of(block)].table.as_mut()
    }

    /// Whether the part of `block` is lent, so that it cannot be told whether the block is in.
    pub(super) fn is_lent(&self, block: BlockId) -> bool {
        self.table_of(block).is_none()
    }

    pub(super) fn is_part_lent(&self, part: usize) -> bool {
        self.parts[part].table.is_none()
    }

    pub(super) fn get(&self, block: BlockId) -> Option<Found> {
        self.table_of(block)?.get(block)
    }

    /// Adds a block that is not in yet, and whose part is not lent.
    pub(super) fn insert(&mut self, block: BlockId, place: Place, crc: u32) {
        self.table_of_mut(block).expect("nothing goes into a part that is lent").insert(block, place, crc);
        self.len += 1;
    }

    /// Adds all of `news`, which are of this part, but those whose blocks are in: these are given to `known`, by their
    /// number, with what is known.
    pub(super) fn insert_all(&mut self, part: usize, news: &[New], known: impl FnMut(usize, Found)) {
        let table = self.parts[part].table.as_mut().expect("nothing goes into a part that is lent");
        let before = table.len();
        table.insert_all(news, known);
        self.len += table.len() - before;
    }

    /// Notes the checksum of `block`, if that is in `place` still.
    pub(super) fn confirm(&mut self, block: BlockId, place: Place, crc: u32) -> bool {
        let table = self.table_of_mut(block).expect("no part is lent that has unfinished appends");
        table.confirm(block, place, crc)
    }

    /// Takes `block` out and says where it was; of a lent part it is out once that is back.
    pub(super) fn remove(&mut self, block: BlockId) -> Option<Found> {
        let part = &mut self.parts[self.spread.part_of(block)];
        let Some(table) = &mut part.table else {
            part.leaving.push(block.as_u64()..=block.as_u64());
            return None;
        };
        let removed = table.remove(block)?;
        self.len -= 1;
        Some(removed)
    }

    /// Takes out every block of `ids`, and gives `removed` what was known of those that are in no lent part.
    pub(super) fn remove_ids(&mut self, ids: &RangeInclusive<u64>, mut removed: impl FnMut(Found)) {
        for part in self.parts.iter_mut().filter(|part| part.table.is_none()) {
            part.leaving.push(ids.clone());
        }
        self.remove_where(|block, found| {
            let is_out = ids.contains(&block.as_u64());
            if is_out {
                removed(found);
            }
            is_out
        });
    }

    /// Takes out every block that `is_out` names, and gives them to it once; not those in lent parts.
    pub(super) fn remove_where(&mut self, mut is_out: impl FnMut(BlockId, Found) -> bool) {
        for table in self.parts.iter_mut().flat_map(|part| &mut part.table) {
            let before = table.len();
            table.remove_where(&mut is_out);
            self.len -= before - table.len();
        }
    }

    /// Every block that is in, in no order; not those in lent parts.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.tables().flat_map(Table::blocks)
    }

    /// Takes out about `count` blocks at the most, from the cursor on, below which there are none; whether some are left.
    /// Nothing may be added any more.
    pub(super) fn take_some(
        &mut self,
        cursor: &mut Cursor,
        count: usize,
        taken: impl FnMut(BlockId, Found),
    ) -> bool {
        let Some(part) = self.parts.get_mut(cursor.part) else { return false };
        let table = part.table.as_mut().expect("no part is lent while the index moves");
        let before = table.len();
        if !table.take_some(&mut cursor.cell, count, taken) {
            *cursor = Cursor { part: cursor.part + 1, cell: 0 };
        }
        self.len -= before - table.len();
        cursor.part < self.parts.len()
    }

    /// The table of a part, until [`Self::take_back`]; none when it is lent already.
    pub(super) fn lend(&mut self, part: usize) -> Option<Table> {
        let part = &mut self.parts[part];
        let table = part.table.take()?;
        part.lent_len = table.len();
        Some(table)
    }

    /// A lent part is back, with what was added to it. What left meanwhile is given to `removed`.
    pub(super) fn take_back(&mut self, part: usize, mut table: Table, mut removed: impl FnMut(Found)) {
        let leaving = std::mem::take(&mut self.parts[part].leaving);
        let (single, many): (Vec<_>, Vec<_>) = leaving.into_iter().partition(|ids| ids.start() == ids.end());
        for ids in single {
            table.remove(BlockId::from_u64(*ids.start())).into_iter().for_each(&mut removed);
        }
        if !many.is_empty() {
            table.remove_where(|block, found| {
                let is_out = many.iter().any(|ids| ids.contains(&block.as_u64()));
                if is_out {
                    removed(found);
                }
                is_out
            });
        }
        self.len = self.len - self.parts[part].lent_len + table.len();
        let lent = self.parts[part].table.replace(table);
        assert!(lent.is_none(), "part {part} was not lent");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_leaves_a_lent_part_is_not_found_meanwhile_and_gone_when_that_is_back() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut index, mut twin) = (Index::new(2000), HashMap::new());
        assert!(index.spread().parts() > 4, "there are parts to be lent");
        let mut next = 0;
        for _ in 0..300 {
            let lent: Vec<usize> = (0..index.spread().parts()).filter(|_| random.bool()).collect();
            let mut tables: Vec<(usize, Table)> =
                lent.into_iter().map(|part| (part, index.lend(part).expect("it is here"))).collect();
            for _ in 0..random.u32(..60) {
                let block = BlockId::from_u64(random.u64(..1500));
                let part = index.spread().part_of(block);
                let lent = tables.iter_mut().find(|(lent, _)| *lent == part);
                assert_eq!(index.is_lent(block), lent.is_some());
                let known = twin.get(&block).copied().filter(|_| lent.is_none());
                assert_eq!(index.get(block).map(|found| found.place), known, "seed {seed}");
                next += 1;
                match (random.u32(..6), lent) {
                    (0, _) => {
                        let ids = block.as_u64()..=block.as_u64() + random.u64(..20);
                        let (mut seen, before) = (0, index.len());
                        index.remove_ids(&ids, |_| seen += 1);
                        assert_eq!(before - index.len(), seen, "seed {seed}");
                        twin.retain(|block: &BlockId, _| !ids.contains(&block.as_u64()));
                    }
                    (1 | 2, _) => {
                        assert_eq!(index.remove(block).is_some(), known.is_some(), "seed {seed}");
                        twin.remove(&block);
                    }
                    (_, Some((_, table))) if table.get(block).is_none() => {
                        table.insert(block, next, 0);
                        let mut leaving = index.parts[part].leaving.iter();
                        if !leaving.any(|ids| ids.contains(&block.as_u64())) {
                            twin.insert(block, next);
                        }
                    }
                    (_, None) if !twin.contains_key(&block) => {
                        index.insert(block, next, 0);
                        twin.insert(block, next);
                    }
                    _ => {}
                }
            }
            random.shuffle(&mut tables);
            for (part, table) in tables {
                index.take_back(part, table, |_| {});
            }
            assert_eq!(index.len(), twin.len(), "seed {seed}");
            for (&block, &place) in &twin {
                assert_eq!(index.get(block).map(|found| found.place), Some(place), "seed {seed}");
            }
        }
    }
}

//! Which block is in which place: exact ids, open addressing, sized once.
//!
//! A cell is 16 bytes: the id; the place plus one in the low 31 bits of the second word (0: empty), one bit kept for
//! blocks that are newer than the backing store, and the CRC32C in the upper 32. Linear probing in robin-hood
//! order (a cell is never further from its home than the one it displaced), removal by shifting back, so that there
//! are no tombstones and a miss ends as early as a hit.
//!
//! The table has room for every slot of the file at a load of 0.92 and never grows: 17.4 bytes a block. With the
//! bits of the slots and the ghost list that is below 20.
//!
//! Invariants:
//! 1. `len` is at most the number of slots, below the number of cells: every probe ends.
//! 2. An id is in at most one cell.

use memmap2::MmapMut;

use crate::block::BlockId;

/// A segment and a slot in it: `segment * slots_per_segment + slot`.
pub(super) type Place = u32;

/// One more than the largest place: 31 bits, less one for "empty".
pub(super) const PLACE_LIMIT: u32 = (1 << 31) - 1;

const PLACE_MASK: u64 = (1 << 31) - 1;

/// `[id, crc << 32 | place + 1]`.
type Cell = [u64; 2];

const EMPTY: Cell = [0; 2];
const CELL_BYTES: usize = size_of::<Cell>();

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) crc: u32,
}

/// The table's memory: zero pages until they are written to, and large ones where the system has them. With small pages
/// nearly every look at a large table would wait for the page's address first.
struct Cells {
    bytes: MmapMut,
    count: usize,
}

impl Cells {
    fn new(count: usize) -> Self {
        let bytes = MmapMut::map_anon(count * CELL_BYTES).expect("there is memory for the index");
        // A system without huge pages refuses; the table then works as well.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        Self { bytes, count }
    }

    fn len(&self) -> usize {
        self.count
    }

    #[inline]
    fn get(&self, at: usize) -> Cell {
        let cell = u128::from_le_bytes(self.bytes.as_chunks().0[at]);
        [cell as u64, (cell >> 64) as u64]
    }

    #[inline]
    fn set(&mut self, at: usize, [id, word]: Cell) {
        self.bytes.as_chunks_mut().0[at] = (u128::from(word) << 64 | u128::from(id)).to_le_bytes();
    }
}

pub(super) struct Index {
    cells: Cells,
    len: usize,
}

impl Index {
    /// An index for at most `slot_count` blocks.
    pub(super) fn new(slot_count: usize) -> Self {
        let cells = (slot_count as u64 * 100 / 92) as usize + 8;
        Self { cells: Cells::new(cells), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.cells.len() * CELL_BYTES) as u64
    }

    pub(super) fn get(&self, block: BlockId) -> Option<Found> {
        self.find(block).map(|at| found(self.cells.get(at)))
    }

    /// Adds a block that is not in yet.
    pub(super) fn insert(&mut self, block: BlockId, place: Place, crc: u32) {
        let known = self.insert_new(block, place, crc);
        debug_assert!(known.is_none(), "{block} is in the index already");
    }

    /// Adds `block`, unless it is in: what is known of it stays then, and is the answer.
    pub(super) fn insert_new(&mut self, block: BlockId, place: Place, crc: u32) -> Option<Found> {
        assert!(self.len + 1 < self.cells.len(), "more blocks than slots in the index");
        let mut carried = cell(block, place, crc);
        let mut at = self.home(carried);
        let mut distance = 0;
        loop {
            let here = self.cells.get(at);
            if here == EMPTY {
                break;
            }
            if here[0] == carried[0] {
                return Some(found(here));
            }
            if self.distance(here, at) < distance {
                // It can be no further on.
                break;
            }
            at = self.after(at);
            distance += 1;
        }
        // From here on each cell that is nearer to its home gives way to the one before.
        loop {
            let here = self.cells.get(at);
            if here == EMPTY {
                break;
            }
            let other = self.distance(here, at);
            if other < distance {
                self.cells.set(at, std::mem::replace(&mut carried, here));
                distance = other;
            }
            at = self.after(at);
            distance += 1;
        }
        self.cells.set(at, carried);
        self.len += 1;
        None
    }

    /// Has the memory fetch where `blocks` are or would be, all at once: it is far away, and one insertion after the other
    /// would wait for each.
    pub(super) fn fetch(&self, blocks: impl Iterator<Item = BlockId>) {
        let homes = blocks.map(|block| self.cells.get(self.home([block.as_u64(), 0]))[1]);
        std::hint::black_box(homes.fold(0, |all, word| all ^ word));
    }

    /// Notes the checksum of `block`, if that is in `place` still.
    pub(super) fn confirm(&mut self, block: BlockId, place: Place, crc: u32) -> bool {
        let Some(at) = self.find(block).filter(|&at| found(self.cells.get(at)).place == place) else {
            return false;
        };
        self.cells.set(at, cell(block, place, crc));
        true
    }

    pub(super) fn remove(&mut self, block: BlockId) -> Option<Found> {
        let at = self.find(block)?;
        let removed = found(self.cells.get(at));
        self.close_gap(at);
        Some(removed)
    }

    /// Every block that is in, in no order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        let cells = (0..self.cells.len()).map(|at| self.cells.get(at));
        cells.filter(|&cell| cell != EMPTY).map(|cell| BlockId::from_u64(cell[0]))
    }

    /// Takes out every block that `is_out` names, and gives them to it once.
    pub(super) fn remove_where(&mut self, mut is_out: impl FnMut(BlockId, Found) -> bool) {
        // From a cell after an empty one, so that no run that was seen is shifted into reach again.
        let is_empty = |&at: &usize| self.cells.get(at) == EMPTY;
        let start = (0..self.cells.len()).find(is_empty).expect("there is always an empty cell");
        let mut at = self.after(start);
        while at != start {
            let here = self.cells.get(at);
            if here != EMPTY && is_out(BlockId::from_u64(here[0]), found(here)) {
                self.close_gap(at);
            } else {
                at = self.after(at);
            }
        }
    }

    /// Takes out at most `count` blocks, from the cell `cursor` on, below which there are none; whether some are left.
    pub(super) fn take_some(
        &mut self,
        cursor: &mut usize,
        count: usize,
        mut taken: impl FnMut(BlockId, Found),
    ) -> bool {
        let end = self.cells.len().min(cursor.saturating_add(count.saturating_mul(4)));
        let mut left = count;
        while self.len > 0 && *cursor < end && left > 0 {
            let here = self.cells.get(*cursor);
            if here == EMPTY {
                *cursor += 1;
            } else {
                taken(BlockId::from_u64(here[0]), found(here));
                self.close_gap(*cursor);
                left -= 1;
            }
        }
        self.len > 0
    }

    /// Shifts what follows the cell `hole` back, up to a cell that is at home or empty.
    fn close_gap(&mut self, mut hole: usize) {
        loop {
            let next = self.after(hole);
            let follows = self.cells.get(next);
            if follows == EMPTY || self.distance(follows, next) == 0 {
                break;
            }
            self.cells.set(hole, follows);
            hole = next;
        }
        self.cells.set(hole, EMPTY);
        self.len -= 1;
    }

    fn find(&self, block: BlockId) -> Option<usize> {
        let id = block.as_u64();
        let mut at = self.home([id, 0]);
        let mut distance = 0;
        loop {
            let here = self.cells.get(at);
            if here == EMPTY {
                return None;
            }
            if here[0] == id {
                return Some(at);
            }
            if self.distance(here, at) < distance {
                return None;
            }
            at = self.after(at);
            distance += 1;
        }
    }

    fn home(&self, cell: Cell) -> usize {
        ((u128::from(mix(cell[0])) * self.cells.len() as u128) >> 64) as usize
    }

    /// How far a cell at `at` is from its home.
    fn distance(&self, cell: Cell, at: usize) -> usize {
        let home = self.home(cell);
        if at >= home { at - home } else { at + self.cells.len() - home }
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.cells.len() { 0 } else { at + 1 }
    }
}

fn cell(block: BlockId, place: Place, crc: u32) -> Cell {
    debug_assert!(place < PLACE_LIMIT);
    [block.as_u64(), u64::from(crc) << 32 | u64::from(place + 1)]
}

fn found(cell: Cell) -> Found {
    Found { place: ((cell[1] & PLACE_MASK) - 1) as u32, crc: (cell[1] >> 32) as u32 }
}

/// Spreads ids, which are mostly runs, over 64 bits (the finalizer of MurmurHash3).
pub(super) fn mix(id: u64) -> u64 {
    let id = (id ^ id >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let id = (id ^ id >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    id ^ id >> 33
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_full_index_agrees_with_a_hash_map_through_random_changes() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let slot_count = 1000;
        let mut index = Index::new(slot_count);
        let mut twin: HashMap<u64, (u32, u32)> = HashMap::new();
        for step in 0..200_000 {
            // Ids come in runs, and 0 and the largest are among them.
            let id = if random.bool() { random.u64(..1200) } else { u64::MAX - random.u64(..300) };
            let block = BlockId::from_u64(id);
            let (place, crc) = (random.u32(..PLACE_LIMIT), random.u32(..));
            let known = twin.get(&id).copied();
            assert_eq!(index.get(block), known.map(|(place, crc)| Found { place, crc }), "seed {seed}");
            if known.is_some() && random.u32(..4) == 0 {
                assert!(index.remove(block).is_some());
                twin.remove(&id);
            } else if let Some((place, _)) = known {
                assert!(index.confirm(block, place, crc) && !index.confirm(block, place + 1, crc));
                twin.insert(id, (place, crc));
            } else if index.len() < slot_count {
                index.insert(block, place, crc);
                twin.insert(id, (place, crc));
            }
            if step % 20_000 == 19_999 {
                index.remove_where(|block, _| block.as_u64() % 3 == 0);
                twin.retain(|id, _| id % 3 != 0);
                for (&id, &(place, crc)) in &twin {
                    assert_eq!(index.get(BlockId::from_u64(id)), Some(Found { place, crc }), "seed {seed}");
                }
            }
            assert_eq!(index.len(), twin.len(), "seed {seed}");
        }
    }

    #[test]
    fn removing_by_a_condition_shows_every_block_once_and_leaves_the_others() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let mut index = Index::new(40);
            let ids: Vec<u64> = (0..40).map(|n| n << 40 | random.u64(..1 << 40)).collect();
            for (place, &id) in ids.iter().enumerate() {
                index.insert(BlockId::from_u64(id), place as u32, 0);
            }
            let mut seen = Vec::new();
            index.remove_where(|block, found| {
                seen.push(block.as_u64());
                found.place % 2 == 0
            });
            seen.sort_unstable();
            assert_eq!(seen, ids, "seed {seed}");
            for (place, &id) in ids.iter().enumerate() {
                assert_eq!(index.get(BlockId::from_u64(id)).is_some(), place % 2 == 1, "seed {seed}");
            }
        }
    }
}

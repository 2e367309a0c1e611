//! Which block is in which place: exact ids, sized once.
//!
//! A cell is 16 bytes: the id; the place plus one in the low 31 bits of the second word (0: empty), a mark, and the CRC32C
//! in the upper 32. Four cells are a bucket, one line of the processor's cache. A block has two buckets and lies in the
//! first, or when that was full, in the second; when both are full it takes the cell of another, which goes to its own
//! other bucket (cuckoo hashing with two choices and buckets of four, which fills a table to 0.97). So a question costs
//! one or two lines however full the table is, removal leaves nothing behind, and to add many blocks the lines of all of
//! them can be fetched at once.
//!
//! The table has room for every slot of the file at a load of 0.92 and never grows: 17.4 bytes a block. With the
//! bits of the slots and the ghost list that is below 20.
//!
//! Source: Dietzfelbinger and Weidling, "Balanced allocation and dictionaries with tightly packed constant size bins",
//! 2007. Departures: the first bucket is preferred, and marked when a block went past it, so that most questions look at
//! one bucket alone; the mark stays. What finds no cell in [`MOVES_MAX`] moves is kept in a map beside the table, so that
//! no ids whatever can make the index lose a block.
//!
//! | invariant                                                                 | test                                       |
//! |---------------------------------------------------------------------------|--------------------------------------------|
//! | 1. A block is in one of its two buckets or in `outside`, and once.          | `..._agrees_with_a_hash_map_...`           |
//! | 2. What is not in its first bucket has that bucket marked.                  | the same; without marks blocks are lost    |
//! | 3. `len` counts all; at most the number of slots, below that of the cells.  | the same                                   |
//! | 4. `outside` is empty, but for ids that were made to share their buckets.   | `a_full_table_keeps_nothing_outside`       |

use hashbrown::HashMap;
use memmap2::MmapMut;

use crate::block::BlockId;

/// A segment and a slot in it: `segment * slots_per_segment + slot`.
pub(super) type Place = u32;

/// One more than the largest place: 31 bits, less one for "empty".
pub(super) const PLACE_LIMIT: u32 = (1 << 31) - 1;

const PLACE_MASK: u64 = (1 << 31) - 1;
/// In the first cell of a bucket, empty or not: a block whose first bucket this is lies elsewhere.
const PASSED: u64 = 1 << 31;

/// `[id, crc << 32 | mark << 31 | place + 1]`.
type Cell = [u64; 2];

const EMPTY: Cell = [0; 2];
const CELL_BYTES: usize = size_of::<Cell>();
const BUCKET_CELLS: usize = 4;

/// Cells that give way to one block at the most, before one is put outside.
const MOVES_MAX: usize = 256;

/// Blocks whose lines are fetched together.
// 64: more wait for nothing else, and their lines are in the nearest cache still when their turn comes.
pub(super) const FETCHED: usize = 64;

type Hasher = foldhash::fast::FixedState;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) crc: u32,
}

/// A block to be added.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    pub(super) block: BlockId,
    pub(super) place: Place,
    pub(super) crc: u32,
}

/// The table's memory: zero pages until they are written to, and large ones where the system has them. With small pages
/// nearly every look at a large table would wait for the page's address first.
struct Cells {
    bytes: MmapMut,
    buckets: usize,
}

impl Cells {
    fn new(buckets: usize) -> Self {
        let bytes =
            MmapMut::map_anon(buckets * BUCKET_CELLS * CELL_BYTES).expect("there is memory for the index");
        // A system without huge pages refuses; the table then works as well.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = bytes.advise(memmap2::Advice::HugePage);
        Self { bytes, buckets }
    }

    fn len(&self) -> usize {
        self.buckets * BUCKET_CELLS
    }

    #[inline]
    fn get(&self, at: usize) -> Cell {
        let cell = u128::from_le_bytes(self.bytes.as_chunks().0[at]);
        [cell as u64, (cell >> 64) as u64]
    }

    /// The mark that is there stays.
    #[inline]
    fn set(&mut self, at: usize, [id, word]: Cell) {
        let bytes = &mut self.bytes.as_chunks_mut().0[at];
        let mark = (u128::from_le_bytes(*bytes) >> 64) as u64 & PASSED;
        *bytes = (u128::from(word | mark) << 64 | u128::from(id)).to_le_bytes();
    }

    fn mark_passed(&mut self, bucket: usize) {
        let word_at = bucket * BUCKET_CELLS * CELL_BYTES + size_of::<u64>();
        self.bytes[word_at + 3] |= (PASSED >> 24) as u8;
    }

    #[inline]
    fn bucket(&self, bucket: usize) -> [Cell; BUCKET_CELLS] {
        let bytes: &[u8; BUCKET_CELLS * CELL_BYTES] = &self.bytes.as_chunks().0[bucket];
        let cells = bytes.as_chunks::<CELL_BYTES>().0;
        std::array::from_fn(|at| {
            let cell = u128::from_le_bytes(cells[at]);
            [cell as u64, (cell >> 64) as u64]
        })
    }
}

pub(super) struct Index {
    cells: Cells,
    len: usize,
    outside: HashMap<BlockId, Found, Hasher>,
    /// Says which cell of a bucket gives way next: any of the four, the same for the same calls.
    turn: u32,
}

impl Index {
    /// An index for at most `slot_count` blocks.
    pub(super) fn new(slot_count: usize) -> Self {
        let cells = (slot_count as u64 * 100 / 92) as usize + 8;
        Self { cells: Cells::new(cells.div_ceil(BUCKET_CELLS)), len: 0, outside: HashMap::default(), turn: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> u64 {
        let outside = self.outside.len() * size_of::<(BlockId, Found)>();
        (self.cells.len() * CELL_BYTES + outside) as u64
    }

    pub(super) fn get(&self, block: BlockId) -> Option<Found> {
        match self.find(block) {
            Some(at) => Some(found(self.cells.get(at))),
            None => self.outside.get(&block).copied(),
        }
    }

    /// Adds a block that is not in yet.
    pub(super) fn insert(&mut self, block: BlockId, place: Place, crc: u32) {
        debug_assert!(self.get(block).is_none(), "{block} is in the index already");
        self.add(cell(block, place, crc));
    }

    /// Adds `new`, unless its block is in: what is known of it stays then, and is the answer.
    pub(super) fn insert_new(&mut self, new: &New) -> Option<Found> {
        let known = self.get(new.block);
        if known.is_none() {
            self.add(cell(new.block, new.place, new.crc));
        }
        known
    }

    /// Adds all of `news`, but those whose blocks are in: these are given to `known`, by their number, with what is known.
    ///
    /// The memory is far away, and one insertion after the other would wait for it: so it is fetched for many at once,
    /// and those that do not simply find a free cell in their first bucket come last.
    pub(super) fn insert_all(&mut self, news: &[New], mut known: impl FnMut(usize, Found)) {
        for (part, news) in news.chunks(FETCHED).enumerate() {
            let mut buckets = [0; FETCHED];
            for (bucket, new) in buckets.iter_mut().zip(news) {
                *bucket = self.first_of(mix(new.block.as_u64()));
            }
            self.fetch(buckets[..news.len()].iter().copied());
            let (mut left, mut left_count) = ([0; FETCHED], 0);
            for (number, (new, &bucket)) in news.iter().zip(&buckets).enumerate() {
                if !self.put_first(bucket, new) {
                    left[left_count] = number;
                    left_count += 1;
                }
            }
            let left = &left[..left_count];
            self.fetch(left.iter().map(|&number| self.second_of(mix(news[number].block.as_u64()))));
            for &number in left {
                if let Some(found) = self.insert_new(&news[number]) {
                    known(part * FETCHED + number, found);
                }
            }
        }
    }

    /// Adds `new` to its first bucket, if that has a free cell and was never full, and if the block is not in.
    #[inline]
    fn put_first(&mut self, bucket: usize, new: &New) -> bool {
        let cells = self.cells.bucket(bucket);
        let is_in = position_of(&cells, new.block.as_u64()).is_some();
        let free = cells.iter().position(|&cell| is_empty(cell));
        match free.filter(|_| !is_in && !is_passed(&cells)) {
            Some(at) => {
                self.cells.set(bucket * BUCKET_CELLS + at, cell(new.block, new.place, new.crc));
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Has the memory bring these buckets, all at once.
    fn fetch(&self, buckets: impl Iterator<Item = usize>) {
        let words = buckets.map(|bucket| self.cells.get(bucket * BUCKET_CELLS)[1]);
        std::hint::black_box(words.fold(0, |all, word| all ^ word));
    }

    /// Adds a block that is not in.
    fn add(&mut self, new: Cell) {
        assert!(self.len < self.cells.len(), "more blocks than slots in the index");
        self.len += 1;
        let hash = mix(new[0]);
        let (first, second) = (self.first_of(hash), self.second_of(hash));
        if self.put(first, new) {
            return;
        }
        self.cells.mark_passed(first);
        if !self.put(second, new) {
            self.displace(second, new);
        }
    }

    /// Puts `new` into a free cell of the bucket; false when there is none.
    fn put(&mut self, bucket: usize, new: Cell) -> bool {
        let free = self.cells.bucket(bucket).iter().position(|&cell| is_empty(cell));
        if let Some(at) = free {
            self.cells.set(bucket * BUCKET_CELLS + at, new);
        }
        free.is_some()
    }

    /// Puts `new` into a full bucket, whose first bucket is marked if it is another. What gives way goes to its other
    /// bucket, where something may have to give way in turn.
    fn displace(&mut self, mut bucket: usize, mut new: Cell) {
        for _ in 0..MOVES_MAX {
            // The numbers of Knuth and Lewis; their upper bits are the good ones.
            self.turn = self.turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = bucket * BUCKET_CELLS + (self.turn >> 30) as usize;
            let moved = self.cells.get(at);
            self.cells.set(at, new);
            new = [moved[0], moved[1] & !PASSED];
            let hash = mix(new[0]);
            if bucket == self.first_of(hash) {
                self.cells.mark_passed(bucket);
                bucket = self.second_of(hash);
            } else {
                bucket = self.first_of(hash);
            }
            if self.put(bucket, new) {
                return;
            }
        }
        self.outside.insert(BlockId::from_u64(new[0]), found(new));
    }

    /// Notes the checksum of `block`, if that is in `place` still.
    pub(super) fn confirm(&mut self, block: BlockId, place: Place, crc: u32) -> bool {
        if self.get(block).is_none_or(|found| found.place != place) {
            return false;
        }
        match self.find(block) {
            Some(at) => self.cells.set(at, cell(block, place, crc)),
            None => {
                self.outside.insert(block, Found { place, crc });
            }
        }
        true
    }

    pub(super) fn remove(&mut self, block: BlockId) -> Option<Found> {
        let removed = match self.find(block) {
            Some(at) => {
                let removed = found(self.cells.get(at));
                self.cells.set(at, EMPTY);
                removed
            }
            None => self.outside.remove(&block)?,
        };
        self.len -= 1;
        self.bring_in_one();
        Some(removed)
    }

    /// There may be room now for one that is outside.
    fn bring_in_one(&mut self) {
        if let Some(found) = self.take_outside() {
            self.add(cell(found.0, found.1.place, found.1.crc));
        }
    }

    fn take_outside(&mut self) -> Option<(BlockId, Found)> {
        let block = *self.outside.keys().next()?;
        self.len -= 1;
        self.outside.remove_entry(&block)
    }

    /// Every block that is in, in no order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        let cells = (0..self.cells.len()).map(|at| self.cells.get(at));
        let inside = cells.filter(|&cell| !is_empty(cell)).map(|cell| BlockId::from_u64(cell[0]));
        inside.chain(self.outside.keys().copied())
    }

    /// Takes out every block that `is_out` names, and gives them to it once.
    pub(super) fn remove_where(&mut self, mut is_out: impl FnMut(BlockId, Found) -> bool) {
        for at in 0..self.cells.len() {
            let here = self.cells.get(at);
            if !is_empty(here) && is_out(BlockId::from_u64(here[0]), found(here)) {
                self.cells.set(at, EMPTY);
                self.len -= 1;
            }
        }
        let before = self.outside.len();
        self.outside.retain(|&block, &mut found| !is_out(block, found));
        self.len -= before - self.outside.len();
    }

    /// Takes out at most `count` blocks, from the cell `cursor` on, below which there are none; whether some are left.
    /// Nothing may be added any more.
    pub(super) fn take_some(
        &mut self,
        cursor: &mut usize,
        count: usize,
        mut taken: impl FnMut(BlockId, Found),
    ) -> bool {
        let end = self.cells.len().min(cursor.saturating_add(count.saturating_mul(4)));
        let mut left = count;
        // First, so that a removal has none to bring in below the cursor.
        while left > 0
            && let Some((block, found)) = self.take_outside()
        {
            taken(block, found);
            left -= 1;
        }
        while self.len > 0 && *cursor < end && left > 0 {
            let here = self.cells.get(*cursor);
            if !is_empty(here) {
                taken(BlockId::from_u64(here[0]), found(here));
                self.cells.set(*cursor, EMPTY);
                self.len -= 1;
                left -= 1;
            }
            *cursor += 1;
        }
        self.len > 0
    }

    /// The cell of `block`.
    fn find(&self, block: BlockId) -> Option<usize> {
        let (id, hash) = (block.as_u64(), mix(block.as_u64()));
        let first = self.first_of(hash);
        let cells = self.cells.bucket(first);
        if let Some(at) = position_of(&cells, id) {
            return Some(first * BUCKET_CELLS + at);
        }
        if !is_passed(&cells) {
            return None;
        }
        let second = self.second_of(hash);
        position_of(&self.cells.bucket(second), id).map(|at| second * BUCKET_CELLS + at)
    }

    #[inline]
    fn first_of(&self, hash: u64) -> usize {
        ((hash >> 32) * self.cells.buckets as u64 >> 32) as usize
    }

    /// Another one than the first.
    #[inline]
    fn second_of(&self, hash: u64) -> usize {
        let ahead = (hash & u64::from(u32::MAX)) * (self.cells.buckets as u64 - 1) >> 32;
        let bucket = self.first_of(hash) + 1 + ahead as usize;
        if bucket < self.cells.buckets { bucket } else { bucket - self.cells.buckets }
    }
}

fn cell(block: BlockId, place: Place, crc: u32) -> Cell {
    debug_assert!(place < PLACE_LIMIT);
    [block.as_u64(), u64::from(crc) << 32 | u64::from(place + 1)]
}

fn found(cell: Cell) -> Found {
    Found { place: ((cell[1] & PLACE_MASK) - 1) as u32, crc: (cell[1] >> 32) as u32 }
}

#[inline]
fn is_empty(cell: Cell) -> bool {
    cell[1] & PLACE_MASK == 0
}

#[inline]
fn is_passed(bucket: &[Cell; BUCKET_CELLS]) -> bool {
    bucket[0][1] & PASSED != 0
}

#[inline]
fn position_of(bucket: &[Cell; BUCKET_CELLS], id: u64) -> Option<usize> {
    bucket.iter().position(|&cell| cell[0] == id && !is_empty(cell))
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

    /// Ids that all have the same two buckets in a table for `slot_count` blocks.
    fn rivals(slot_count: usize, count: usize) -> Vec<u64> {
        let index = Index::new(slot_count);
        let buckets = |id: u64| (index.first_of(mix(id)), index.second_of(mix(id)));
        (0..).filter(|&id| buckets(id) == buckets(0)).take(count).collect()
    }

    #[test]
    fn ids_made_to_share_their_buckets_are_all_found_and_leave_as_any_others() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let ids = rivals(60, 40);
        let (mut index, mut twin) = (Index::new(60), HashMap::new());
        let (mut outside, mut brought_in) = (0, 0);
        for step in 0..20_000 {
            let (id, place) = (ids[random.usize(..ids.len())], random.u32(..PLACE_LIMIT));
            let (block, before) = (BlockId::from_u64(id), index.outside.len());
            match random.u32(..8) {
                0 => {
                    let is_out = |block: BlockId| block.as_u64() % 5 == 0;
                    index.remove_where(|block, _| is_out(block));
                    twin.retain(|&id, _| !is_out(BlockId::from_u64(id)));
                }
                1..4 => {
                    assert_eq!(index.remove(block).map(|found| found.place), twin.remove(&id), "seed {seed}");
                    brought_in += before.saturating_sub(index.outside.len());
                }
                _ => {
                    let new = New { block, place, crc: 1 };
                    let known = index.insert_new(&new).map(|found| found.place);
                    assert_eq!(known, twin.get(&id).copied(), "seed {seed}");
                    let place = *twin.entry(id).or_insert(place);
                    assert!(index.confirm(block, place, 2) && !index.confirm(block, place ^ 1, 3));
                }
            }
            outside = outside.max(index.outside.len());
            assert_eq!(index.len(), twin.len(), "seed {seed} step {step}");
            for &id in &ids {
                let place = index.get(BlockId::from_u64(id)).map(|found| found.place);
                assert_eq!(place, twin.get(&id).copied(), "seed {seed} step {step}");
            }
        }
        assert!(outside > 8 && brought_in > 0, "seed {seed}: {outside} {brought_in}");
        let (mut cursor, mut taken) = (0, HashMap::new());
        while index.take_some(&mut cursor, 3, |block, found| {
            assert_eq!(taken.insert(block.as_u64(), found.place), None, "seed {seed}");
        }) {}
        assert_eq!(taken, twin, "seed {seed}");
    }

    #[test]
    fn a_full_table_keeps_nothing_outside_after_any_number_of_changes() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for slot_count in [8, 100, 1000, 30_000] {
            let mut index = Index::new(slot_count);
            let mut ids: Vec<u64> = (0..slot_count as u64).map(|n| n << 20 | random.u64(..1 << 20)).collect();
            ids.iter().for_each(|&id| index.insert(BlockId::from_u64(id), 1, 2));
            for _ in 0..3 * slot_count {
                let at = random.usize(..slot_count);
                assert!(index.remove(BlockId::from_u64(ids[at])).is_some(), "seed {seed}");
                ids[at] = random.u64(1 << 50..);
                index.insert(BlockId::from_u64(ids[at]), 1, 2);
            }
            assert!(index.outside.is_empty(), "seed {seed}: {} of {slot_count}", index.outside.len());
        }
    }

    #[test]
    fn blocks_added_together_are_as_if_added_one_by_one() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let shared = rivals(900, 12);
        for _ in 0..50 {
            let (mut together, mut twin) = (Index::new(900), HashMap::new());
            while twin.len() < 850 {
                let count = random.usize(1..200).min(900 - twin.len());
                let id = |random: &mut fastrand::Rng| match random.u32(..20) {
                    0 => shared[random.usize(..shared.len())],
                    _ => random.u64(..3000),
                };
                let news: Vec<New> = (0..count)
                    .map(|_| (id(&mut random), random.u32(..1000)))
                    .map(|(id, place)| New { block: BlockId::from_u64(id), place, crc: !place })
                    .collect();
                let mut refused = Vec::new();
                together.insert_all(&news, |number, found| refused.push((number, found)));
                for (number, new) in news.iter().enumerate() {
                    if refused.iter().all(|&(other, _)| other != number) {
                        let before = twin.insert(new.block, Found { place: new.place, crc: new.crc });
                        assert_eq!(before, None, "seed {seed}: {} is added twice", new.block);
                    }
                }
                for (number, found) in refused {
                    assert_eq!(twin.get(&news[number].block), Some(&found), "seed {seed}");
                }
            }
            assert_eq!(together.len(), twin.len(), "seed {seed}");
            for (&block, found) in &twin {
                assert_eq!(together.get(block), Some(*found), "seed {seed}");
            }
        }
    }
}

//! Which block is in which place: exact ids, in a table that is sized once.
//!
//! A cell is 16 bytes: the id; the place plus one in the low 31 bits of the second word (0: empty), a mark, and the CRC32C
//! in the upper 32. Four cells are a bucket, one line of the processor's cache. A block has two buckets and lies in the
//! first, or when that was full, in the second; when both are full it takes the cell of another, which goes to its own
//! other bucket (cuckoo hashing with two choices and buckets of four, which fills a table to 0.97). So a question costs
//! one or two lines however full the table is, removal leaves nothing behind, and to add many blocks the lines of all of
//! them can be fetched at once.
//!
//! The table has room for the slots it is made for at a load of 0.92 and never grows: 17.4 bytes a block. With the
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
//! | 3. `len` counts all, in cells and outside.                                | the same                                   |
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
const MOVES_MAX: usize = 64;

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

/// What became of a block to be added.
enum Put {
    Added,
    Known(Found),
    /// Both of its buckets are full; this is the second.
    Full(usize),
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

pub(super) struct Table {
    cells: Cells,
    len: usize,
    outside: HashMap<BlockId, Found, Hasher>,
    /// Says which cell of a bucket gives way next: any of the four, the same for the same calls.
    turn: u32,
}

impl Table {
    /// A table for about `slot_count` blocks. It takes more, but not as quickly.
    pub(super) fn new(slot_count: usize) -> Self {
        let cells = (slot_count as u64 * 100 / 92) as usize + 8;
        Self { cells: Cells::new(cells.div_ceil(BUCKET_CELLS)), len: 0, outside: HashMap::default(), turn: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What the cells take.
    pub(super) fn bytes(&self) -> u64 {
        (self.cells.len() * CELL_BYTES) as u64
    }

    /// And what is beside them.
    pub(super) fn outside_bytes(&self) -> u64 {
        (self.outside.len() * size_of::<(BlockId, Found)>()) as u64
    }

    pub(super) fn get(&self, block: BlockId) -> Option<Found> {
        match self.find(block) {
            Some(at) => Some(found(self.cells.get(at))),
            None => self.outside.get(&block).copied(),
        }
    }

    /// Adds a block that is not in yet.
    pub(super) fn insert(&mut self, block: BlockId, place: Place, crc: u32) {
        let known = self.insert_new(&New { block, place, crc });
        debug_assert!(known.is_none(), "{block} is in the index already");
    }

    /// Adds `new`, unless its block is in: what is known of it stays then, and is the answer.
    pub(super) fn insert_new(&mut self, new: &New) -> Option<Found> {
        match self.put_new(new) {
            Put::Added => None,
            Put::Known(found) => Some(found),
            Put::Full(second) => {
                self.len += 1;
                self.displace(second, cell(new.block, new.place, new.crc));
                None
            }
        }
    }

    /// The same, but for when another block would have to give way.
    fn put_new(&mut self, new: &New) -> Put {
        let (id, hash) = (new.block.as_u64(), mix(new.block.as_u64()));
        let (first, second) = (self.first_of(hash), self.second_of(hash));
        let in_first = self.cells.bucket(first);
        if let Some(at) = position_of(&in_first, id) {
            return Put::Known(found(in_first[at]));
        }
        let free = first_free(&in_first);
        let is_passed = is_passed(&in_first);
        if is_passed || free.is_none() {
            let in_second = self.cells.bucket(second);
            if let Some(at) = position_of(&in_second, id) {
                return Put::Known(found(in_second[at]));
            }
            if let Some(&found) = self.outside.get(&new.block) {
                return Put::Known(found);
            }
            if free.is_none() {
                self.cells.mark_passed(first);
                let Some(at) = first_free(&in_second) else { return Put::Full(second) };
                self.add_at(second * BUCKET_CELLS + at, new);
                return Put::Added;
            }
        }
        let at = free.expect("looked at above");
        self.add_at(first * BUCKET_CELLS + at, new);
        Put::Added
    }

    #[inline]
    fn add_at(&mut self, at: usize, new: &New) {
        self.cells.set(at, cell(new.block, new.place, new.crc));
        self.len += 1;
    }

    /// Adds all of `news`, but those whose blocks are in: these are given to `known`, by their number, with what is known.
    ///
    /// The memory is far away, and one insertion after the other would wait for it: so it is fetched for many at once,
    /// and those that do not simply find a free cell in their first bucket come last.
    pub(super) fn insert_all(&mut self, news: &[New], mut known: impl FnMut(usize, Found)) {
        for (part, news) in news.chunks(FETCHED).enumerate() {
            let mut hashes = [0; FETCHED];
            for (hash, new) in hashes.iter_mut().zip(news) {
                *hash = mix(new.block.as_u64());
            }
            self.fetch(hashes[..news.len()].iter().map(|&hash| self.first_of(hash)));
            let (mut left, mut left_count) = ([0; FETCHED], 0);
            for (number, (new, &hash)) in news.iter().zip(&hashes).enumerate() {
                left[left_count] = number;
                left_count += usize::from(!self.put_first(self.first_of(hash), new));
            }
            let left = &left[..left_count];
            self.fetch(left.iter().map(|&number| self.second_of(hashes[number])));
            let (mut crowded, mut crowded_count) = ([0; FETCHED], 0);
            for &number in left {
                match self.put_new(&news[number]) {
                    Put::Added => {}
                    Put::Known(found) => known(part * FETCHED + number, found),
                    Put::Full(_) => {
                        crowded[crowded_count] = number;
                        crowded_count += 1;
                    }
                }
            }
            let crowded = &crowded[..crowded_count];
            self.fetch(crowded.iter().flat_map(|&number| self.ways_out_for(hashes[number])));
            for &number in crowded {
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
        match first_free(&cells).filter(|_| !is_in && !is_passed(&cells)) {
            Some(at) => {
                self.add_at(bucket * BUCKET_CELLS + at, new);
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

    /// Puts `new` into a free cell of the bucket; false when there is none.
    fn put(&mut self, bucket: usize, new: Cell) -> bool {
        let free = first_free(&self.cells.bucket(bucket));
        if let Some(at) = free {
            self.cells.set(bucket * BUCKET_CELLS + at, new);
        }
        free.is_some()
    }

    /// Puts `new` into a full bucket, in place of a block that finds room in its other bucket. When none does, any of them
    /// goes there nevertheless, in place of another in turn.
    fn displace(&mut self, mut bucket: usize, mut new: Cell) {
        for _ in 0..MOVES_MAX {
            let cells = self.cells.bucket(bucket);
            let others = cells.map(|cell| self.other_of(cell, bucket));
            self.fetch(others.into_iter());
            // The numbers of Knuth and Lewis; their upper bits are the good ones.
            self.turn = self.turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let has_room = |&at: &usize| first_free(&self.cells.bucket(others[at])).is_some();
            let at = (0..BUCKET_CELLS).find(has_room).unwrap_or((self.turn >> 30) as usize);
            if bucket == self.first_of(mix(cells[at][0])) {
                self.cells.mark_passed(bucket);
            }
            self.cells.set(bucket * BUCKET_CELLS + at, new);
            (bucket, new) = (others[at], [cells[at][0], cells[at][1] & !PASSED]);
            if self.put(bucket, new) {
                return;
            }
        }
        self.outside.insert(BlockId::from_u64(new[0]), found(new));
    }

    /// Where what is in the second bucket of this hash may go.
    fn ways_out_for(&self, hash: u64) -> [usize; BUCKET_CELLS] {
        let bucket = self.second_of(hash);
        self.cells.bucket(bucket).map(|cell| self.other_of(cell, bucket))
    }

    /// The other bucket of what is in this one.
    fn other_of(&self, cell: Cell, bucket: usize) -> usize {
        let hash = mix(cell[0]);
        let first = self.first_of(hash);
        if bucket == first { self.second_of(hash) } else { first }
    }

    /// Notes the checksum of `block`, if that is in `place` still.
    pub(super) fn confirm(&mut self, block: BlockId, place: Place, crc: u32) -> bool {
        let at = self.find(block);
        let known =
            at.map_or_else(|| self.outside.get(&block).copied(), |at| Some(found(self.cells.get(at))));
        if known.is_none_or(|known| known.place != place) {
            return false;
        }
        match at {
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
        if let Some((block, Found { place, crc })) = self.take_outside() {
            self.insert(block, place, crc);
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
        (((hash >> 32) * self.cells.buckets as u64) >> 32) as usize
    }

    /// Another one than the first.
    #[inline]
    fn second_of(&self, hash: u64) -> usize {
        let ahead = ((hash & u64::from(u32::MAX)) * (self.cells.buckets as u64 - 1)) >> 32;
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

/// Which of the cells is the one of `id`.
// A bit a cell, and the first of those: which of them it is nobody can foretell, and a wrong guess costs more than all four.
#[inline]
fn position_of(bucket: &[Cell; BUCKET_CELLS], id: u64) -> Option<usize> {
    first_bit(bucket.map(|cell| (cell[0] == id) & !is_empty(cell)))
}

/// The first cell that is empty.
#[inline]
fn first_free(bucket: &[Cell; BUCKET_CELLS]) -> Option<usize> {
    first_bit(bucket.map(is_empty))
}

#[inline]
fn first_bit(bits: [bool; BUCKET_CELLS]) -> Option<usize> {
    let word = bits.iter().zip(0..).fold(0_u32, |word, (&bit, at)| word | u32::from(bit) << at);
    (word != 0).then_some(word.trailing_zeros() as usize)
}

/// Spreads ids, which are mostly runs, over 64 bits (the finalizer of MurmurHash3).
pub(super) fn mix(id: u64) -> u64 {
    let id = (id ^ id >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let id = (id ^ id >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    id ^ id >> 33
}

#[cfg(test)]
mod tests;

//! The copies of every block in the log: a chain a block, the newest first, linked through a slab.
//!
//! Compact, since there are as many as the log has room for: a copy takes a slot of 48 bytes, and its chain a number in a
//! table by hash. What few copies have is kept beside: an epoch, and sectors that are neither one word nor one run.
//!
//! Pure bookkeeping: which copies a chain must have is for `copies` to say.

use std::hash::BuildHasher;
use std::ops::Range;

use hashbrown::HashMap;
use hashbrown::hash_table::{Entry, HashTable};

use crate::block::{BlockId, BlockSize, Version, mask};

use super::super::record::SectorMask;
use super::{CopyState, Hasher, LogCopy};

const CHUNK_SLOTS: usize = 1024;
const NO_SLOT: u32 = u32::MAX;
/// What the table of chains takes a bucket: a number, and a byte of its hash.
const BUCKET_BYTES: usize = size_of::<u32>() + 1;

/// Names a copy for as long as it is in its chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct CopyId(u32);

/// What can be said of a copy without its sectors.
#[derive(Clone, Copy)]
pub(super) struct CopyHead {
    pub(super) generation: u32,
    pub(super) index: u32,
    pub(super) version: Version,
    pub(super) epoch: u64,
    pub(super) state: CopyState,
}

/// The sectors of a copy, as they are kept.
enum Sectors<'a> {
    Word(u64),
    Run(Range<usize>),
    Words(&'a [u64]),
}

#[derive(Clone, Copy)]
struct Slot {
    block: BlockId,
    version: Version,
    /// The word itself of a block that has one. Else a run, its start above its length, and 0 when they are in `masks`.
    sectors: u64,
    /// 0 when the slot is free.
    generation: u32,
    page: u32,
    index: u32,
    crc: u32,
    /// The next copy of the chain, or the next free slot.
    older: u32,
    state: CopyState,
    has_epoch: bool,
}

impl Slot {
    const FREE: Self = Self {
        block: BlockId::from_u64(0),
        version: Version::ZERO,
        sectors: 0,
        generation: 0,
        page: 0,
        index: 0,
        crc: 0,
        older: NO_SLOT,
        state: CopyState::Destaged,
        has_epoch: false,
    };
}

pub(super) struct Chains {
    size: BlockSize,
    hasher: Hasher,
    /// The newest copy of each block.
    newest: HashTable<u32>,
    chunks: Vec<Box<[Slot; CHUNK_SLOTS]>>,
    first_free: u32,
    len: usize,
    epochs: HashMap<u32, u64, Hasher>,
    masks: HashMap<u32, SectorMask, Hasher>,
}

impl Chains {
    pub(super) fn new(size: BlockSize) -> Self {
        Self {
            size,
            hasher: Hasher::default(),
            newest: HashTable::new(),
            chunks: Vec::new(),
            first_free: NO_SLOT,
            len: 0,
            epochs: HashMap::default(),
            masks: HashMap::default(),
        }
    }

    /// Makes room for the chains of so many blocks more at once.
    pub(super) fn reserve(&mut self, blocks: usize) {
        let Self { newest, chunks, hasher, .. } = self;
        newest.reserve(blocks, |&at| hasher.hash_one(block_at(chunks, at)));
    }

    /// Copies of all blocks.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Blocks with a copy.
    pub(super) fn block_count(&self) -> usize {
        self.newest.len()
    }

    /// RAM of all this.
    pub(super) fn bytes(&self) -> usize {
        let buckets = |capacity: usize| if capacity < 8 { capacity + 1 } else { capacity / 7 * 8 };
        let word_bytes = 8 * self.size.mask_words();
        self.chunks.len() * size_of::<[Slot; CHUNK_SLOTS]>()
            + buckets(self.newest.capacity()) * BUCKET_BYTES
            + buckets(self.epochs.capacity()) * (size_of::<(u32, u64)>() + 1)
            + buckets(self.masks.capacity()) * (size_of::<(u32, SectorMask)>() + 1)
            + self.masks.len() * (word_bytes + 16)
    }

    pub(super) fn has(&self, block: BlockId) -> bool {
        self.find(block).is_some()
    }

    pub(super) fn newest(&self, block: BlockId) -> Option<CopyId> {
        self.find(block).map(CopyId)
    }

    /// Blocks with a copy, in no order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.newest.iter().map(|&at| self.slot(at).block)
    }

    /// The copies of `block`, the newest first.
    pub(super) fn ids(&self, block: BlockId) -> impl Iterator<Item = CopyId> + '_ {
        std::iter::successors(self.newest(block), |&id| self.older(id))
    }

    /// The next copy of the chain: to be asked before this one is removed.
    pub(super) fn older(&self, id: CopyId) -> Option<CopyId> {
        Some(self.slot(id.0).older).filter(|&at| at != NO_SLOT).map(CopyId)
    }

    pub(super) fn copy(&self, id: CopyId) -> LogCopy {
        let Slot { page, crc, .. } = *self.slot(id.0);
        let CopyHead { generation, index, version, epoch, state } = self.head(id);
        LogCopy { generation, page, index, crc, version, mask: self.mask(id), epoch, state }
    }

    pub(super) fn head(&self, id: CopyId) -> CopyHead {
        let Slot { generation, index, version, state, has_epoch, .. } = *self.slot(id.0);
        let epoch = if has_epoch { self.epochs[&id.0] } else { 0 };
        CopyHead { generation, index, version, epoch, state }
    }

    pub(super) fn block(&self, id: CopyId) -> BlockId {
        self.slot(id.0).block
    }

    pub(super) fn state(&self, id: CopyId) -> CopyState {
        self.slot(id.0).state
    }

    /// Whether this is still a copy, and in the segment of this generation.
    pub(super) fn is_in(&self, id: CopyId, generation: u32) -> bool {
        let chunk = self.chunks.get(id.0 as usize / CHUNK_SLOTS);
        chunk.is_some_and(|chunk| chunk[id.0 as usize % CHUNK_SLOTS].generation == generation)
    }

    /// Makes a copy the newest of `block`.
    pub(super) fn push(&mut self, block: BlockId, copy: &LogCopy) -> CopyId {
        debug_assert!(copy.generation != 0, "no segment has generation 0");
        let at = self.take_slot();
        let older = self.set_newest(block, at).unwrap_or(NO_SLOT);
        *self.slot_mut(at) = Slot {
            block,
            version: copy.version,
            sectors: 0,
            generation: copy.generation,
            page: copy.page,
            index: copy.index,
            crc: copy.crc,
            older,
            state: copy.state,
            has_epoch: false,
        };
        self.set_mask(at, &copy.mask);
        if copy.epoch > 0 {
            self.set_epoch(CopyId(at), copy.epoch);
        }
        CopyId(at)
    }

    pub(super) fn remove(&mut self, id: CopyId) {
        let Slot { block, older, .. } = *self.slot(id.0);
        let newest = self.find(block).expect("a copy is in the chain of its block");
        if newest != id.0 {
            let mut before = newest;
            while self.slot(before).older != id.0 {
                before = self.slot(before).older;
            }
            self.slot_mut(before).older = older;
        } else if older == NO_SLOT {
            self.forget_chain(block);
        } else {
            self.set_newest(block, older);
        }
        self.epochs.remove(&id.0);
        self.masks.remove(&id.0);
        *self.slot_mut(id.0) = Slot { older: self.first_free, ..Slot::FREE };
        self.first_free = id.0;
        self.len -= 1;
        // A log that is emptied after each write keeps its first chunk.
        if self.len == 0 && self.chunks.len() > 1 {
            *self = Self::new(self.size);
        }
    }

    pub(super) fn set_state(&mut self, id: CopyId, state: CopyState) {
        self.slot_mut(id.0).state = state;
    }

    pub(super) fn set_epoch(&mut self, id: CopyId, epoch: u64) {
        self.slot_mut(id.0).has_epoch = epoch > 0;
        if epoch > 0 {
            self.epochs.insert(id.0, epoch);
        } else {
            self.epochs.remove(&id.0);
        }
    }

    /// Whether `words` have all its sectors.
    pub(super) fn is_covered(&self, id: CopyId, words: &[u64]) -> bool {
        match self.sectors(id) {
            Sectors::Word(word) => mask::covers(words, &[word]),
            Sectors::Run(run) => mask::contains(words, run),
            Sectors::Words(mask) => mask::covers(words, mask),
        }
    }

    /// Whether `words` have any of its sectors.
    pub(super) fn shares_any(&self, id: CopyId, words: &[u64]) -> bool {
        match self.sectors(id) {
            Sectors::Word(word) => mask::shares_any(words, &[word]),
            Sectors::Run(run) => mask::contains_any(words, run),
            Sectors::Words(mask) => mask::shares_any(words, mask),
        }
    }

    /// Adds its sectors to `words`.
    pub(super) fn add_sectors(&self, id: CopyId, words: &mut [u64]) {
        match self.sectors(id) {
            Sectors::Word(word) => mask::add(words, &[word]),
            Sectors::Run(run) => mask::set(words, run),
            Sectors::Words(mask) => mask::add(words, mask),
        }
    }

    fn mask(&self, id: CopyId) -> SectorMask {
        let mut words: SectorMask = vec![0; self.size.mask_words()].into();
        self.add_sectors(id, &mut words);
        words
    }

    fn sectors(&self, id: CopyId) -> Sectors<'_> {
        let word = self.slot(id.0).sectors;
        if self.size.mask_words() == 1 {
            return Sectors::Word(word);
        }
        if word == 0 {
            return Sectors::Words(&self.masks[&id.0]);
        }
        let (start, count) = ((word >> 32) as usize, word as u32 as usize);
        Sectors::Run(start..start + count)
    }

    fn set_mask(&mut self, at: u32, words: &SectorMask) {
        if let [word] = words[..] {
            self.slot_mut(at).sectors = word;
            return;
        }
        let mut runs = mask::runs(words, self.size.sectors());
        let (first, second) = (runs.next(), runs.next());
        drop(runs);
        self.slot_mut(at).sectors = match (first, second) {
            (Some(run), None) => (run.start as u64) << 32 | run.len() as u64,
            _ => {
                self.masks.insert(at, words.clone());
                0
            }
        };
    }

    fn take_slot(&mut self) -> u32 {
        if self.first_free == NO_SLOT {
            let first = (self.chunks.len() * CHUNK_SLOTS) as u32;
            let mut chunk = Box::new([Slot::FREE; CHUNK_SLOTS]);
            for (slot, next) in chunk.iter_mut().zip(first + 1..first + CHUNK_SLOTS as u32) {
                slot.older = next;
            }
            self.chunks.push(chunk);
            self.first_free = first;
        }
        let at = self.first_free;
        self.first_free = self.slot(at).older;
        self.len += 1;
        at
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.chunks[at as usize / CHUNK_SLOTS][at as usize % CHUNK_SLOTS]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[at as usize / CHUNK_SLOTS][at as usize % CHUNK_SLOTS]
    }

    fn find(&self, block: BlockId) -> Option<u32> {
        let is_it = |&at: &u32| self.slot(at).block == block;
        self.newest.find(self.hasher.hash_one(block), is_it).copied()
    }

    /// Puts a slot at the head of the chain of `block`; gives the one that was there.
    fn set_newest(&mut self, block: BlockId, at: u32) -> Option<u32> {
        let Self { hasher, newest, chunks, .. } = self;
        let rehash = |&at: &u32| hasher.hash_one(block_at(chunks, at));
        match newest.entry(hasher.hash_one(block), |&at| block_at(chunks, at) == block, rehash) {
            Entry::Occupied(mut known) => Some(std::mem::replace(known.get_mut(), at)),
            Entry::Vacant(room) => {
                room.insert(at);
                None
            }
        }
    }

    fn forget_chain(&mut self, block: BlockId) {
        let Self { hasher, newest, chunks, .. } = self;
        if let Ok(entry) = newest.find_entry(hasher.hash_one(block), |&at| block_at(chunks, at) == block) {
            entry.remove();
        }
    }
}

fn block_at(chunks: &[Box<[Slot; CHUNK_SLOTS]>], at: u32) -> BlockId {
    chunks[at as usize / CHUNK_SLOTS][at as usize % CHUNK_SLOTS].block
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Map;

    use super::*;
    use crate::block::VolumeId;

    #[test]
    fn chains_are_the_lists_of_copies_that_a_map_has() {
        let seed = fastrand::u64(..);
        for (block_bytes, sectors) in [(16 << 10, 32), (256 << 10, 512)] {
            let size = BlockSize::new(block_bytes).expect("a power of two");
            let mut random = fastrand::Rng::with_seed(seed);
            let mut chains = Chains::new(size);
            let mut model: Map<BlockId, Vec<(CopyId, LogCopy)>> = Map::new();
            for number in 1..6000 {
                let block = BlockId::new(VolumeId::new(1), random.u64(..300));
                let chain = model.entry(block).or_default();
                match random.u32(..8) {
                    0..4 => {
                        let copy = random_copy(&mut random, number, sectors, size);
                        chain.insert(0, (chains.push(block, &copy), copy));
                    }
                    4 if !chain.is_empty() => {
                        let at = random.usize(..chain.len());
                        let (id, copy) = &mut chain[at];
                        (copy.epoch, copy.state) = (random.u64(..2) * 9, CopyState::Bad);
                        chains.set_epoch(*id, copy.epoch);
                        chains.set_state(*id, copy.state);
                    }
                    _ if !chain.is_empty() => chains.remove(chain.remove(random.usize(..chain.len())).0),
                    _ => {}
                }
                let found: Vec<(CopyId, LogCopy)> =
                    chains.ids(block).map(|id| (id, chains.copy(id))).collect();
                assert_eq!(found, *chain, "seed {seed}");
            }
            model.retain(|_, chain| !chain.is_empty());
            assert_eq!(chains.block_count(), model.len(), "seed {seed}");
            assert_eq!(chains.len(), model.values().map(Vec::len).sum::<usize>(), "seed {seed}");
            assert!(chains.blocks().all(|block| model.contains_key(&block)), "seed {seed}");
            for (id, _) in model.into_values().flatten() {
                chains.remove(id);
            }
            assert_eq!((chains.len(), chains.bytes()), (0, Chains::new(size).bytes()), "seed {seed}");
        }
    }

    fn random_copy(random: &mut fastrand::Rng, number: u64, sectors: usize, size: BlockSize) -> LogCopy {
        let mut words = vec![0; size.mask_words()];
        for _ in 0..random.usize(1..3) {
            let start = random.usize(..sectors);
            mask::set(&mut words, start..random.usize(start..sectors) + 1);
        }
        LogCopy {
            generation: random.u32(1..9),
            page: random.u32(..),
            index: random.u32(..),
            crc: random.u32(..),
            version: Version::from_u64(number),
            mask: words.into(),
            epoch: random.u64(..3),
            state: CopyState::Dirty,
        }
    }
}

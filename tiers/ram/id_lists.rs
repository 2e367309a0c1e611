//! Block ids in doubly linked lists, each found by its id: the memory under [`super::arc_policy`].
//!
//! ```text
//!  buckets: u32        entries: 16 bytes               links: u32
//!  +-------+           +----+-------------+------+     +---------------------------+
//!  | first | --------> | id | place, prev | next |     | next entry of its bucket  |
//!  +-------+           +----+-------------+------+     +---------------------------+
//!
//!  entries:  | one sentinel a place | residents ........ | ghosts ........ |
//!            0                      PLACES               first_ghost
//! ```
//!
//! Every entry is in exactly one list, that of its [`Place`]; unused entries are in lists of their own. A list is
//! a ring through its sentinel, whose `next` is the coldest entry and whose `prev` is the hottest: linking and
//! unlinking have no special cases and no branches.
//!
//! Why no hash table off the shelf: an open-addressed one keeps a mark for every deletion. Full of ghosts it would
//! collect those marks with each miss, then rehash everything under the shard's lock or double its memory. Chains
//! need neither: every operation is O(1) always, nothing is allocated after [`IdLists::rebuild`], and the bytes are
//! the same for every capacity, no rounding up to a power of two.
//!
//! Invariants, checked by [`IdLists::assert_invariants`]:
//! 1. Every list is a sound ring of entries that say so, as many as `lengths` says.
//! 2. An id in use is found and is found nowhere else; entries below `first_ghost` never are ghosts.

use crate::block::BlockId;

/// Which list an entry is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Recent,
    Frequent,
    RecentAside,
    FrequentAside,
    RecentGhost,
    FrequentGhost,
    FreeResident,
    FreeGhost,
}

impl Place {
    const ALL: [Self; PLACES] = [
        Self::Recent,
        Self::Frequent,
        Self::RecentAside,
        Self::FrequentAside,
        Self::RecentGhost,
        Self::FrequentGhost,
        Self::FreeResident,
        Self::FreeGhost,
    ];

    /// Where the list starts and ends.
    #[inline]
    fn sentinel(self) -> u32 {
        self as u32
    }

    #[inline]
    pub(super) fn is_resident(self) -> bool {
        (self as u32) < Self::RecentGhost as u32
    }

    #[inline]
    fn is_free(self) -> bool {
        self as u32 >= Self::FreeResident as u32
    }

    /// Where an entry of this place's kind goes when it is given back.
    fn free(self) -> Self {
        if self.is_resident() { Self::FreeResident } else { Self::FreeGhost }
    }
}

pub(super) const PLACES: usize = 8;

/// The upper 3 bits of an entry's `place_and_prev` are its place.
const INDEX_BITS: u32 = 29;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// The most entries there can be.
pub(super) const ENTRIES_MAX: usize = 1 << INDEX_BITS;

/// Ends a bucket's chain; a sentinel has no id and so is in no bucket.
const NONE: u32 = 0;

/// Aligned so that no entry lies across two cache lines.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct Entry {
    id: u64,
    place_and_prev: u32,
    next: u32,
}

impl Entry {
    #[inline]
    fn prev(self) -> u32 {
        self.place_and_prev & INDEX_MASK
    }

    #[inline]
    fn set_prev(&mut self, prev: u32) {
        self.place_and_prev = self.place_and_prev & !INDEX_MASK | prev;
    }

    #[inline]
    fn place(self) -> Place {
        Place::ALL[(self.place_and_prev >> INDEX_BITS) as usize]
    }
}

/// See the head of this file. Entries are named by their index.
pub(super) struct IdLists {
    entries: Vec<Entry>,
    links: Vec<u32>,
    buckets: Vec<u32>,
    first_ghost: u32,
    lengths: [u32; PLACES],
}

impl IdLists {
    /// What one resident and one ghost entry cost: the entry, its link and a bucket each.
    pub(super) const BYTES_PER_PAIR: usize = 2 * (size_of::<Entry>() + 2 * size_of::<u32>());

    /// Room for `residents` and `ghosts` entries.
    pub(super) fn new(residents: u32, ghosts: u32) -> Self {
        let mut lists = Self {
            entries: Vec::new(),
            links: Vec::new(),
            buckets: Vec::new(),
            first_ghost: PLACES as u32,
            lengths: [0; PLACES],
        };
        for place in Place::ALL {
            lists.entries.push(Entry { id: 0, place_and_prev: 0, next: 0 });
            lists.reset(place);
        }
        lists.rebuild(residents, ghosts);
        lists
    }

    /// Makes room for `residents` and `ghosts` entries. Residents stay where they are, so there may not become fewer;
    /// the ghosts must fit. O(entries).
    pub(super) fn rebuild(&mut self, residents: u32, ghosts: u32) {
        let first_new = self.first_ghost;
        assert!(PLACES as u32 + residents >= first_new, "resident entries cannot move");
        let remembered = [Place::RecentGhost, Place::FrequentGhost]
            .map(|place| (place, self.iter(place).map(|entry| self.id(entry)).collect::<Vec<_>>()));
        for place in [Place::RecentGhost, Place::FrequentGhost, Place::FreeGhost] {
            self.reset(place);
        }
        let count = PLACES + residents as usize + ghosts as usize;
        self.first_ghost = PLACES as u32 + residents;
        self.entries.truncate(first_new as usize);
        self.entries.reserve_exact(count - self.entries.len());
        self.entries.resize(count, Entry { id: 0, place_and_prev: 0, next: 0 });
        self.entries.shrink_to_fit();
        for entry in first_new..count as u32 {
            let free = if entry < self.first_ghost { Place::FreeResident } else { Place::FreeGhost };
            self.link_cold(entry, free);
        }
        self.links = vec![NONE; count];
        self.buckets = vec![NONE; count - PLACES];
        for entry in PLACES as u32..self.first_ghost {
            if !self.place(entry).is_free() {
                self.add_to_bucket(entry);
            }
        }
        for (place, ids) in remembered {
            for id in ids {
                self.insert(id, place);
            }
        }
    }

    /// The same lists with room for exactly `residents` and `ghosts` entries, which they must fit; `moved` is told where
    /// each resident was and is. O(entries).
    pub(super) fn compacted(&self, residents: u32, ghosts: u32, mut moved: impl FnMut(u32, u32)) -> Self {
        let mut lists = Self::new(residents, ghosts);
        for place in Place::ALL.into_iter().filter(|place| !place.is_free()) {
            for from in self.iter(place) {
                let to = lists.insert(self.id(from), place);
                if place.is_resident() {
                    moved(from, to);
                }
            }
        }
        lists
    }

    /// The entries that are or may become residents.
    pub(super) fn resident_entries(&self) -> u32 {
        self.first_ghost - PLACES as u32
    }

    /// Every byte allocated.
    pub(super) fn allocated_bytes(&self) -> usize {
        let words = self.links.capacity() + self.buckets.capacity();
        self.entries.capacity() * size_of::<Entry>() + words * size_of::<u32>()
    }

    #[inline]
    pub(super) fn len(&self, place: Place) -> u32 {
        self.lengths[place as usize]
    }

    #[inline]
    pub(super) fn id(&self, entry: u32) -> BlockId {
        BlockId::from_u64(self.entries[entry as usize].id)
    }

    #[inline]
    pub(super) fn place(&self, entry: u32) -> Place {
        self.entries[entry as usize].place()
    }

    /// The entry of `block`.
    #[inline]
    pub(super) fn find(&self, block: BlockId) -> Option<u32> {
        let id = block.as_u64();
        let mut entry = self.buckets[self.bucket(id)];
        while entry != NONE {
            if self.entries[entry as usize].id == id {
                return Some(entry);
            }
            entry = self.links[entry as usize];
        }
        None
    }

    /// The entry of the list that was longest without a use.
    #[inline]
    pub(super) fn coldest(&self, place: Place) -> Option<u32> {
        let entry = self.entries[place.sentinel() as usize].next;
        (entry != place.sentinel()).then_some(entry)
    }

    /// From the coldest to the hottest.
    pub(super) fn iter(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        let mut entry = place.sentinel();
        std::iter::from_fn(move || {
            entry = self.entries[entry as usize].next;
            (entry != place.sentinel()).then_some(entry)
        })
    }

    /// Adds `block`, which must be absent, at the hot end.
    pub(super) fn insert(&mut self, block: BlockId, place: Place) -> u32 {
        let entry = self.take_free(place);
        self.entries[entry as usize].id = block.as_u64();
        self.link_hot(entry, place);
        self.add_to_bucket(entry);
        entry
    }

    /// Gives the entry back.
    pub(super) fn delete(&mut self, entry: u32) {
        self.replace_in_bucket(entry, self.links[entry as usize]);
        self.move_hot(entry, self.place(entry).free());
    }

    /// Makes a ghost of a resident, or the other way round, at the hot end of `place`; its new entry.
    pub(super) fn convert(&mut self, entry: u32, place: Place) -> u32 {
        debug_assert_ne!(self.place(entry).is_resident(), place.is_resident());
        let to = self.take_free(place);
        self.entries[to as usize].id = self.entries[entry as usize].id;
        self.link_hot(to, place);
        self.links[to as usize] = self.links[entry as usize];
        self.replace_in_bucket(entry, to);
        self.move_hot(entry, self.place(entry).free());
        to
    }

    #[inline]
    pub(super) fn move_hot(&mut self, entry: u32, place: Place) {
        self.unlink(entry);
        self.link_hot(entry, place);
    }

    pub(super) fn move_cold(&mut self, entry: u32, place: Place) {
        self.unlink(entry);
        self.link_cold(entry, place);
    }

    /// A free entry that is in no list now: the one freed last, whose cache line may still be near.
    fn take_free(&mut self, place: Place) -> u32 {
        let free = place.free();
        let entry = self.entries[free.sentinel() as usize].prev();
        assert!(entry != free.sentinel(), "no free entry for {place:?}");
        self.unlink(entry);
        entry
    }

    fn reset(&mut self, place: Place) {
        let own = place.sentinel();
        self.entries[own as usize] = Entry { id: 0, place_and_prev: own << INDEX_BITS | own, next: own };
        self.lengths[place as usize] = 0;
    }

    #[inline]
    fn unlink(&mut self, entry: u32) {
        let Entry { next, .. } = self.entries[entry as usize];
        let prev = self.entries[entry as usize].prev();
        self.lengths[self.place(entry) as usize] -= 1;
        self.entries[prev as usize].next = next;
        self.entries[next as usize].set_prev(prev);
    }

    #[inline]
    fn link_hot(&mut self, entry: u32, place: Place) {
        let prev = self.entries[place.sentinel() as usize].prev();
        self.link(entry, place, prev, place.sentinel());
    }

    fn link_cold(&mut self, entry: u32, place: Place) {
        let next = self.entries[place.sentinel() as usize].next;
        self.link(entry, place, place.sentinel(), next);
    }

    #[inline]
    fn link(&mut self, entry: u32, place: Place, prev: u32, next: u32) {
        self.lengths[place as usize] += 1;
        self.entries[prev as usize].next = entry;
        self.entries[next as usize].set_prev(entry);
        let own = &mut self.entries[entry as usize];
        own.place_and_prev = (place as u32) << INDEX_BITS | prev;
        own.next = next;
    }

    /// A multiplication folded in half, its lower bits scaled to the buckets: every bit of an id reaches them, of the
    /// upper ones not (ids of many volumes made chains of four). The constants are this file's own, so
    /// that whatever spreads ids over shards does not leave most of a shard's buckets empty.
    #[inline]
    fn bucket(&self, id: u64) -> usize {
        let wide = u128::from(id ^ 0x6a3c_91f0_b5d2_487e) * 0xd6e8_feb8_6659_fd93;
        let hash = wide as u64 ^ (wide >> 64) as u64;
        (((hash & 0xffff_ffff) * self.buckets.len() as u64) >> 32) as usize
    }

    fn add_to_bucket(&mut self, entry: u32) {
        let bucket = self.bucket(self.entries[entry as usize].id);
        self.links[entry as usize] = self.buckets[bucket];
        self.buckets[bucket] = entry;
    }

    /// Lets what points to `entry` in its bucket's chain point to `to`.
    fn replace_in_bucket(&mut self, entry: u32, to: u32) {
        let bucket = self.bucket(self.entries[entry as usize].id);
        let mut at = self.buckets[bucket];
        if at == entry {
            self.buckets[bucket] = to;
            return;
        }
        while self.links[at as usize] != entry {
            assert!(at != NONE, "entry {entry} is not in its bucket");
            at = self.links[at as usize];
        }
        self.links[at as usize] = to;
    }

    /// Walks everything; see the head of this file.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(super) fn assert_invariants(&self) {
        for place in Place::ALL {
            let mut prev = place.sentinel();
            let mut length = 0;
            for entry in self.iter(place) {
                let own = self.entries[entry as usize];
                assert_eq!((own.place(), own.prev()), (place, prev), "entry {entry}");
                let is_below = place.is_resident() || place == Place::FreeResident;
                assert_eq!(entry < self.first_ghost, is_below, "entry {entry} in {place:?}");
                if !place.is_free() {
                    assert_eq!(self.find(self.id(entry)), Some(entry), "{:?} in {place:?}", self.id(entry));
                }
                prev = entry;
                length += 1;
            }
            assert_eq!(self.entries[place.sentinel() as usize].prev(), prev, "{place:?}");
            assert_eq!(self.len(place), length, "{place:?}");
        }
        let listed: u32 = self.lengths.iter().sum();
        assert_eq!(listed as usize + PLACES, self.entries.len(), "entries in no list");
    }

    /// The longest chain and the sum over entries of the chain steps it takes to find them.
    #[cfg(test)]
    fn chain_lengths(&self) -> (usize, usize) {
        let chain = |&first: &u32| {
            std::iter::successors(Some(first), |&entry| Some(self.links[entry as usize]))
                .take_while(|&entry| entry != NONE)
                .count()
        };
        let lengths: Vec<usize> = self.buckets.iter().map(chain).collect();
        (
            lengths.iter().copied().max().unwrap_or(0),
            lengths.iter().map(|length| length * (length + 1) / 2).sum(),
        )
    }
}

#[cfg(test)]
mod tests;

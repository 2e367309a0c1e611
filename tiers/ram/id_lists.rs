//! Block ids in lists, each found by its hash: the memory under [`super::arc_policy`] in the cache.
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
//! Lists are [`super::rings`]; unused entries are in lists of their own.
//!
//! Why no hash table off the shelf: an open-addressed one keeps a mark for every deletion. Full of ghosts it would
//! collect those marks with each miss, then rehash everything under the shard's lock or double its memory. Chains
//! need neither: every operation is O(1) always, nothing is allocated after [`IdLists::rebuild`], and the bytes are
//! the same for every capacity, no rounding up to a power of two.
//!
//! Invariant, checked by [`IdLists::assert_invariants`]: an id in use is found and is found nowhere else; every entry is
//! in a list; those below `first_ghost` never are ghosts.

use super::block_lists::BlockLists;
use super::rings::{Link, Linked, PLACES, Place, Rings};
use crate::block::BlockId;

/// Ends a bucket's chain; a sentinel has no id and so is in no bucket.
const NONE: u32 = 0;

/// Aligned so that no entry lies across two cache lines.
#[derive(Clone, Copy, Default)]
#[repr(align(16))]
struct Entry {
    id: u64,
    link: Link,
}

impl Linked for Entry {
    #[inline]
    fn link(&self) -> Link {
        self.link
    }

    #[inline]
    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// See the head of this file. Entries are named by their index.
pub struct IdLists {
    rings: Rings<Entry>,
    links: Vec<u32>,
    buckets: Vec<u32>,
    first_ghost: u32,
}

impl IdLists {
    /// What one resident and one ghost entry cost: the entry, its link and a bucket each.
    pub(super) const BYTES_PER_PAIR: usize = 2 * (size_of::<Entry>() + 2 * size_of::<u32>());

    /// Room for `residents` and `ghosts` entries.
    pub(super) fn new(residents: u32, ghosts: u32) -> Self {
        let (links, buckets) = (Vec::new(), Vec::new());
        let mut lists = Self { rings: Rings::new(), links, buckets, first_ghost: PLACES as u32 };
        lists.rebuild(residents, ghosts);
        lists
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

    /// Makes room for `residents` and `ghosts` entries. Residents stay where they are, so there may not become fewer;
    /// the ghosts must fit. O(entries).
    pub(super) fn rebuild(&mut self, residents: u32, ghosts: u32) {
        let first_new = self.first_ghost;
        assert!(PLACES as u32 + residents >= first_new, "resident entries cannot move");
        let remembered = [Place::RecentGhost, Place::FrequentGhost]
            .map(|place| (place, self.iter(place).map(|entry| self.id(entry)).collect::<Vec<_>>()));
        for place in [Place::RecentGhost, Place::FrequentGhost, Place::FreeGhost] {
            self.rings.reset(place);
        }
        let count = PLACES + residents as usize + ghosts as usize;
        self.first_ghost = PLACES as u32 + residents;
        let entries = &mut self.rings.entries;
        entries.truncate(first_new as usize);
        entries.reserve_exact(count - entries.len());
        entries.resize(count, Entry::default());
        entries.shrink_to_fit();
        for entry in first_new..count as u32 {
            let free = if entry < self.first_ghost { Place::FreeResident } else { Place::FreeGhost };
            self.rings.link_cold(entry, free);
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

    #[inline]
    pub(super) fn move_hot(&mut self, entry: u32, place: Place) {
        self.rings.move_hot(entry, place);
    }

    pub(super) fn move_cold(&mut self, entry: u32, place: Place) {
        self.rings.move_cold(entry, place);
    }

    /// A free entry that is in no list now: the one freed last, whose cache line may still be near.
    fn take_free(&mut self, place: Place) -> u32 {
        let entry = self.rings.hottest(place.free()).unwrap_or_else(|| panic!("no free entry for {place:?}"));
        self.rings.unlink(entry);
        entry
    }

    #[inline]
    fn raw_id(&self, entry: u32) -> u64 {
        self.rings.entries[entry as usize].id
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
        let bucket = self.bucket(self.raw_id(entry));
        self.links[entry as usize] = self.buckets[bucket];
        self.buckets[bucket] = entry;
    }

    /// Lets what points to `entry` in its bucket's chain point to `to`.
    fn replace_in_bucket(&mut self, entry: u32, to: u32) {
        let bucket = self.bucket(self.raw_id(entry));
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

impl BlockLists for IdLists {
    fn resident_entries(&self) -> u32 {
        self.first_ghost - PLACES as u32
    }

    fn allocated_bytes(&self) -> usize {
        let words = self.links.capacity() + self.buckets.capacity();
        self.rings.entries.capacity() * size_of::<Entry>() + words * size_of::<u32>()
    }

    #[inline]
    fn len(&self, place: Place) -> u32 {
        self.rings.len(place)
    }

    #[inline]
    fn id(&self, entry: u32) -> BlockId {
        BlockId::from_u64(self.raw_id(entry))
    }

    #[inline]
    fn place(&self, entry: u32) -> Place {
        self.rings.place(entry)
    }

    #[inline]
    fn find(&self, block: BlockId) -> Option<u32> {
        let id = block.as_u64();
        let mut entry = self.buckets[self.bucket(id)];
        while entry != NONE {
            if self.raw_id(entry) == id {
                return Some(entry);
            }
            entry = self.links[entry as usize];
        }
        None
    }

    #[inline]
    fn coldest(&mut self, place: Place) -> Option<u32> {
        self.rings.coldest(place)
    }

    fn iter(&self, place: Place) -> impl Iterator<Item = u32> + '_ {
        self.rings.iter(place)
    }

    fn insert(&mut self, block: BlockId, place: Place) -> u32 {
        let entry = self.take_free(place);
        self.rings.entries[entry as usize].id = block.as_u64();
        self.rings.link_hot(entry, place);
        self.add_to_bucket(entry);
        entry
    }

    fn delete(&mut self, entry: u32, from: Place) {
        self.replace_in_bucket(entry, self.links[entry as usize]);
        self.rings.move_hot(entry, from.free());
    }

    fn convert(&mut self, entry: u32, from: Place, to: Place) -> u32 {
        debug_assert_ne!(from.is_resident(), to.is_resident());
        let new = self.take_free(to);
        self.rings.entries[new as usize].id = self.raw_id(entry);
        self.rings.link_hot(new, to);
        self.links[new as usize] = self.links[entry as usize];
        self.replace_in_bucket(entry, new);
        self.rings.move_hot(entry, from.free());
        new
    }

    #[inline]
    fn touch(&mut self, entry: u32) -> u32 {
        self.rings.move_hot(entry, Place::Frequent);
        entry
    }

    fn assert_invariants(&self) {
        let listed = self.rings.assert_sound(|entry, place| {
            let is_below = place.is_resident() || place == Place::FreeResident;
            assert_eq!(entry < self.first_ghost, is_below, "entry {entry} in {place:?}");
            if !place.is_free() {
                assert_eq!(self.find(self.id(entry)), Some(entry), "{:?} in {place:?}", self.id(entry));
            }
        });
        assert_eq!(listed + PLACES, self.rings.entries.len(), "entries in no list");
    }
}

#[cfg(test)]
mod tests;

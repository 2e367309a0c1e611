//! L1 replacement policy: which block leaves RAM next.
//!
//! Source: Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, Figure 4.
//!
//! | here                  | paper | holds                                              |
//! |-----------------------|-------|----------------------------------------------------|
//! | `List::Recent`        | T1    | resident, used once                                |
//! | `List::Frequent`      | T2    | resident, used at least twice                      |
//! | `List::RecentGhost`   | B1    | ids only, lately evicted from `Recent`             |
//! | `List::FrequentGhost` | B2    | ids only, lately evicted from `Frequent`           |
//! | `recent_target`       | p     | wanted length of `Recent`, in blocks, a real number|
//!
//! Each side's residents are two chains: those that may leave, and those *set aside*. Both count as the side's length.
//!
//! Invariants (the first four after every call in debug builds, all by `assert_invariants`):
//! 1. `T1 + T2 <= capacity`, but for an excess that `set_capacity` makes; one entry for a resident is always free.
//! 2. `T1 + B1 <= capacity`, or B1 is empty; without an excess the former.
//! 3. `T1 + T2 + B1 + B2 <= 2 * capacity`, or there are no ghosts; without an excess the former.
//! 4. `B1 + B2 <= capacity` and `0 <= p <= capacity`.
//! 5. An id is in at most one list; without removal and resize ghosts exist only when the cache is full.
//!
//! What the paper does not say:
//! - *Removal.* A block may be taken out of any list, so the cache may have room while there are ghosts. A block
//!   leaves only when the cache is full; otherwise each ghost met after a removal would shrink the cache for good.
//! - *Blocks that may not leave.* A candidate that is refused is set aside: off its chain, so that no later call
//!   asks for it again, and back at the cold end by `release` (in the order of the releases). A hit takes it to the
//!   hot end of T2 like any other. Each question is paid for by the call that put the block on its chain, so the
//!   cost stays O(1) amortised. When the side that should give has no candidate, the other one gives.
//!   When neither has, nothing is adapted and nothing moves, so that the same request can be made again.
//! - *Resize.* To more: p and the ghosts stay. To less: p is capped, REPLACE makes room (x being in no ghost list), the
//!   coldest ghosts go until the invariants hold. `set_capacity` is the change, `shrink_excess` works the excess off, in
//!   as many steps as its caller likes; meanwhile a miss lets one block go for the one that comes.
//!
//! The lists are a type parameter: for any ids, hashed ([`ArcPolicy::new`]); for ids that were numbered from 0 on, in an
//! array ([`ArcPolicy::dense`]); for a trace that is known beforehand, by time ([`ArcPolicy::over_time`]). The answers are
//! the same. A cache that runs has the first; it alone refuses victims and resizes (`running`).
//!
//! Every request is O(1) but for the questions above; memory is allocated by `new`, `set_capacity` and `compact` alone.
//! Pure bookkeeping: no bytes, no I/O, no locks, no clock. Same calls, same victims, so the tuner replays a trace
//! through this very type.

use super::block_lists::BlockLists;
use super::id_lists::IdLists;
use super::rings::{ENTRIES_MAX, PLACES, Place};
use super::timeline;
use crate::block::BlockId;

mod answers;
mod running;
#[cfg(test)]
mod tests;

pub use super::block_lists::DenseLists;
pub use super::timeline::Timeline;
pub use answers::{Access, Evicted, List, NoVictim, Side, Slot};

/// See the head of this file.
pub struct ArcPolicy<L = IdLists> {
    lists: L,
    capacity: u32,
    recent_target: f64,
}

impl ArcPolicy {
    /// RAM that the directory takes for each block of capacity: an entry, its link and a bucket for the block and for
    /// a ghost. The whole is that and [`Self::FIXED_BYTES`].
    pub const BYTES_PER_BLOCK: usize = IdLists::BYTES_PER_PAIR;
    /// RAM that a directory takes besides.
    pub const FIXED_BYTES: usize = 384;
    /// The largest capacity of one directory, in blocks.
    pub const CAPACITY_MAX: u32 = ((ENTRIES_MAX - PLACES) / 2 - 1) as u32;

    /// Room for `capacity` resident blocks and as many ghosts.
    ///
    /// # Panics
    /// When `capacity` is 0 or above [`Self::CAPACITY_MAX`].
    pub fn new(capacity: u32) -> Self {
        check_capacity(capacity);
        Self { lists: IdLists::new(resident_entries(capacity), capacity), capacity, recent_target: 0.0 }
    }
}

impl ArcPolicy<DenseLists> {
    /// As [`ArcPolicy::new`], for blocks whose [`BlockId::as_u64`] is below `ids`; slots are below `ids` too.
    ///
    /// # Panics
    /// When `capacity` or `ids` is 0 or above [`ArcPolicy::CAPACITY_MAX`].
    pub fn dense(capacity: u32, ids: u32) -> Self {
        check_capacity(capacity);
        check_capacity(ids);
        Self { lists: DenseLists::new(ids), capacity, recent_target: 0.0 }
    }
}

impl ArcPolicy<Timeline> {
    /// The most references there can be.
    pub const REFERENCES_MAX: u32 = timeline::ENTRIES_MAX - PLACES as u32;

    /// As [`ArcPolicy::new`], for `references` that follow one another and are known beforehand. The block of each is named
    /// by the number of the reference before to the same block, or by its own number if it is the first; references count
    /// from 0 on, and hits as well as misses. Slots are below `references`.
    ///
    /// # Panics
    /// When `capacity` is 0 or above [`ArcPolicy::CAPACITY_MAX`], or there are more references than
    /// [`Self::REFERENCES_MAX`].
    pub fn over_time(capacity: u32, references: u32) -> Self {
        check_capacity(capacity);
        let max = Self::REFERENCES_MAX;
        assert!(references <= max, "one trace has room for {max} references, not {references}");
        Self { lists: Timeline::new(references), capacity, recent_target: 0.0 }
    }
}

impl<L: BlockLists> ArcPolicy<L> {
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Resident blocks.
    #[inline]
    pub fn len(&self) -> u32 {
        self.side_len(Side::Recent) + self.side_len(Side::Frequent)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The wanted length of `Recent`: the paper's p.
    pub fn recent_target(&self) -> f64 {
        self.recent_target
    }

    /// Slots are below this: one more than the largest capacity since the last [`ArcPolicy::compact`].
    pub fn slot_limit(&self) -> usize {
        self.lists.resident_entries() as usize
    }

    /// Every byte that the directory has allocated.
    pub fn allocated_bytes(&self) -> usize {
        self.lists.allocated_bytes()
    }

    /// The slot of a resident block; changes nothing.
    #[inline]
    pub fn lookup(&self, block: BlockId) -> Option<Slot> {
        let entry = self.lists.find(block)?;
        self.lists.place(entry).is_resident().then(|| Slot::of(entry))
    }

    /// The resident block that has this slot.
    ///
    /// # Panics
    /// When none has.
    pub fn block_at(&self, slot: Slot) -> BlockId {
        assert!(self.lists.place(slot.entry()).is_resident(), "no block has slot {}", slot.index());
        self.lists.id(slot.entry())
    }

    /// The blocks of a list, from the least to the most recently used, those set aside first.
    pub fn list(&self, list: List) -> impl Iterator<Item = BlockId> + '_ {
        let places = match list {
            List::Recent => &[Place::RecentAside, Place::Recent][..],
            List::Frequent => &[Place::FrequentAside, Place::Frequent],
            List::RecentGhost => &[Place::RecentGhost],
            List::FrequentGhost => &[Place::FrequentGhost],
        };
        places.iter().flat_map(|&place| self.lists.iter(place)).map(|entry| self.lists.id(entry))
    }

    /// The slots of a side's resident blocks, from the cold end, those set aside first: what will be asked to leave
    /// next, for the flusher that cleans ahead.
    pub fn coldest(&self, side: Side) -> impl Iterator<Item = Slot> + '_ {
        [side.aside(), side.chain()].into_iter().flat_map(|place| self.lists.iter(place)).map(Slot::of)
    }

    /// One reference to `block`, as in Figure 4 of the paper: every block may leave.
    ///
    /// # Panics
    /// When the cache is full of blocks that are set aside.
    #[inline]
    pub fn reference(&mut self, block: BlockId) -> Access {
        let access = self.access(block, |policy, side| {
            let coldest = |side: Side| Some((policy.lists.coldest(side.chain())?, side));
            [side, side.other()].into_iter().find_map(coldest)
        });
        self.debug_check();
        access.expect("a full cache has a coldest block")
    }

    /// One reference; `find_victim` names the resident block that leaves and its side, preferably the one it is told.
    #[inline]
    fn access(
        &mut self,
        block: BlockId,
        find_victim: impl FnOnce(&mut Self, Side) -> Option<(u32, Side)>,
    ) -> Result<Access, NoVictim> {
        let found = self.lists.find(block).map(|entry| (entry, self.lists.place(entry)));
        match found {
            // Case I.
            Some((entry, place)) if place.is_resident() => {
                let entry = self.lists.touch(entry);
                Ok(Access::Hit(Slot::of(entry)))
            }
            _ => self.access_absent(block, found, find_victim),
        }
    }

    /// Cases II to IV; `remembered` is its ghost. Decides first, so that a refusal changes nothing.
    fn access_absent(
        &mut self,
        block: BlockId,
        remembered: Option<(u32, Place)>,
        find_victim: impl FnOnce(&mut Self, Side) -> Option<(u32, Side)>,
    ) -> Result<Access, NoVictim> {
        let ghost = remembered.map(|(_, place)| Side::of(place));
        let target = self.adapted_target(ghost);
        let recent_fills_all = self.side_len(Side::Recent) >= self.capacity;
        // Case IV A with B1 empty: a block seen once makes room for another, and no ghost.
        let leaves_no_ghost = ghost.is_none() && recent_fills_all;
        let victim = if self.len() < self.capacity {
            None
        } else {
            let side = if leaves_no_ghost { Side::Recent } else { self.replace_side(target, ghost) };
            Some(find_victim(self, side).ok_or(NoVictim)?)
        };

        self.recent_target = target;
        let entry = match remembered {
            Some((entry, from)) => self.lists.convert(entry, from, Place::Frequent),
            None => {
                self.forget_a_ghost();
                self.lists.insert(block, Place::Recent)
            }
        };
        let evicted = victim.map(|(entry, side)| self.evict(entry, side, leaves_no_ghost));
        Ok(Access::Miss { slot: Slot::of(entry), ghost, evicted })
    }

    /// Takes a block out of whatever list it is in, ghosts too; its slot, if it was resident.
    pub fn remove(&mut self, block: BlockId) -> Option<Slot> {
        let entry = self.lists.find(block)?;
        let place = self.lists.place(entry);
        self.lists.delete(entry, place);
        self.debug_check();
        place.is_resident().then(|| Slot::of(entry))
    }

    #[inline]
    fn side_len(&self, side: Side) -> u32 {
        self.lists.len(side.chain()) + self.lists.len(side.aside())
    }

    fn ghost_len(&self, side: Side) -> u32 {
        self.lists.len(side.ghosts())
    }

    /// p after a ghost of this side was met: the first lines of cases II and III.
    fn adapted_target(&self, ghost: Option<Side>) -> f64 {
        let Some(ghost) = ghost else { return self.recent_target };
        let recent = f64::from(self.ghost_len(Side::Recent));
        let frequent = f64::from(self.ghost_len(Side::Frequent));
        match ghost {
            Side::Recent => (self.recent_target + (frequent / recent).max(1.0)).min(f64::from(self.capacity)),
            Side::Frequent => (self.recent_target - (recent / frequent).max(1.0)).max(0.0),
        }
    }

    /// The side that REPLACE takes from.
    fn replace_side(&self, target: f64, ghost: Option<Side>) -> Side {
        let recent = f64::from(self.side_len(Side::Recent));
        let is_tie = ghost == Some(Side::Frequent) && recent == target;
        if recent > 0.0 && (recent > target || is_tie) { Side::Recent } else { Side::Frequent }
    }

    /// The deletions from ghost lists in case IV.
    fn forget_a_ghost(&mut self) {
        let recent = self.side_len(Side::Recent) + self.ghost_len(Side::Recent);
        let all = self.len() + self.ghost_len(Side::Recent) + self.ghost_len(Side::Frequent);
        if recent >= self.capacity {
            self.forget_coldest(Place::RecentGhost);
        } else if all >= 2 * self.capacity {
            self.forget_coldest(Place::FrequentGhost);
        }
    }

    /// Whether there was one.
    #[inline]
    fn forget_coldest(&mut self, ghosts: Place) -> bool {
        let coldest = self.lists.coldest(ghosts);
        coldest.is_some_and(|entry| {
            self.lists.delete(entry, ghosts);
            true
        })
    }

    fn evict(&mut self, entry: u32, from: Side, leaves_no_ghost: bool) -> Evicted {
        let block = self.lists.id(entry);
        if leaves_no_ghost && from == Side::Recent {
            self.lists.delete(entry, from.chain());
        } else {
            self.lists.convert(entry, from.chain(), from.ghosts());
        }
        Evicted { block, slot: Slot::of(entry), from }
    }

    #[inline]
    fn debug_check(&self) {
        #[cfg(debug_assertions)]
        self.assert_lengths();
    }

    fn assert_lengths(&self) {
        let [t1, t2] = [Side::Recent, Side::Frequent].map(|side| self.side_len(side));
        let [b1, b2] = [Side::Recent, Side::Frequent].map(|side| self.ghost_len(side));
        let capacity = self.capacity;
        let lengths = (t1, t2, b1, b2, capacity);
        let room = self.lists.resident_entries();
        assert!(t1 + t2 < room, "{lengths:?} in {room} entries");
        assert!(t1 + b1 <= capacity || b1 == 0, "{lengths:?}");
        assert!(t1 + t2 + b1 + b2 <= 2 * capacity || b1 + b2 == 0, "{lengths:?}");
        assert!(b1 + b2 <= capacity, "{lengths:?}");
        assert!((0.0..=f64::from(capacity)).contains(&self.recent_target), "p = {}", self.recent_target);
    }

    /// Walks all lists; for tests.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn assert_invariants(&self) {
        self.assert_lengths();
        self.lists.assert_invariants();
    }
}

/// One more than the capacity: a block comes before its victim goes, so that their slots differ.
fn resident_entries(capacity: u32) -> u32 {
    capacity + 1
}

fn check_capacity(capacity: u32) {
    let max = ArcPolicy::CAPACITY_MAX;
    assert!((1..=max).contains(&capacity), "a directory has room for 1 to {max} blocks, not {capacity}");
}

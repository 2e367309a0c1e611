//! What a cache that runs asks beyond the paper: blocks that may not leave now, and other sizes. Rules: head of [`super`].

use super::*;

impl ArcPolicy {
    /// How many blocks more than its capacity the cache holds, because they may not leave.
    pub fn excess(&self) -> u32 {
        self.len().saturating_sub(self.capacity)
    }

    /// Whether the block with this slot was refused as a victim and not released yet.
    pub fn is_set_aside(&self, slot: Slot) -> bool {
        matches!(self.lists.place(slot.entry()), Place::RecentAside | Place::FrequentAside)
    }

    /// As [`Self::reference`], where not every block may leave. `may_leave` says of a resident block whether it may be the
    /// victim; one that may not is set aside until [`Self::release`].
    ///
    /// # Errors
    /// [`NoVictim`] when the cache is full and no block may leave. Make the same request again after a `release`.
    #[inline]
    pub fn request(
        &mut self,
        block: BlockId,
        may_leave: impl FnMut(Slot) -> bool,
    ) -> Result<Access, NoVictim> {
        let access = self.access(block, |policy, side| policy.find_victim(side, may_leave));
        if self.len() > self.capacity {
            self.trim_ghosts();
        }
        self.debug_check();
        access
    }

    /// One reference to the resident block in `slot`, which [`Self::lookup`] has just given: Case I of [`Self::request`]
    /// without looking the block up again.
    pub fn hit(&mut self, slot: Slot) {
        debug_assert!(self.lists.place(slot.entry()).is_resident(), "slot {} is free", slot.index());
        self.lists.touch(slot.entry());
        self.debug_check();
    }

    /// Whether a request for an absent block would find a place now. Those that may not leave are set aside, as by
    /// [`Self::request`].
    pub fn has_room(&mut self, may_leave: impl FnMut(Slot) -> bool) -> bool {
        let has_room = self.len() < self.capacity || self.find_victim(Side::Recent, may_leave).is_some();
        self.debug_check();
        has_room
    }

    /// A block that was refused as a victim may leave again. Nothing happens when it was not set aside.
    pub fn release(&mut self, slot: Slot) {
        match self.lists.place(slot.entry()) {
            Place::RecentAside => self.lists.move_cold(slot.entry(), Place::Recent),
            Place::FrequentAside => self.lists.move_cold(slot.entry(), Place::Frequent),
            _ => {}
        }
        self.debug_check();
    }

    /// Changes the capacity; no block leaves yet: see [`Self::excess`] and [`Self::shrink_excess`]. Slots stay.
    /// O(capacity).
    ///
    /// # Panics
    /// As [`ArcPolicy::new`].
    pub fn set_capacity(&mut self, capacity: u32) {
        check_capacity(capacity);
        self.capacity = capacity;
        self.recent_target = self.recent_target.min(f64::from(capacity));
        self.trim_ghosts();
        self.lists.rebuild(resident_entries(capacity).max(self.lists.resident_entries()), capacity);
        self.debug_check();
    }

    /// Lets blocks go until the cache is down to its capacity, no more may leave, or `count_max` went; appends them to
    /// `evicted`.
    pub fn shrink_excess(
        &mut self,
        count_max: usize,
        mut may_leave: impl FnMut(Slot) -> bool,
        evicted: &mut Vec<Evicted>,
    ) {
        let evicted_max = evicted.len().saturating_add(count_max);
        while self.len() > self.capacity && evicted.len() < evicted_max {
            let side = self.replace_side(self.recent_target, None);
            let Some((victim, side)) = self.find_victim(side, &mut may_leave) else { break };
            evicted.push(self.evict(victim, side, false));
            self.trim_ghosts();
        }
        self.debug_check();
    }

    /// Gives back the memory of what a smaller capacity does not need, when there is no excess. Every resident block gets
    /// a new slot: `moved` is told the old and the new one of each. O(capacity).
    ///
    /// # Panics
    /// When there is an excess.
    pub fn compact(&mut self, mut moved: impl FnMut(Slot, Slot)) {
        assert_eq!(self.excess(), 0, "blocks beyond the capacity have no slot to go to");
        self.lists = self.lists.compacted(resident_entries(self.capacity), self.capacity, |from, to| {
            moved(Slot::of(from), Slot::of(to));
        });
        self.debug_check();
    }

    /// The coldest block that may leave and its side, this one if it has one; sets aside those that may not.
    fn find_victim(&mut self, side: Side, mut may_leave: impl FnMut(Slot) -> bool) -> Option<(u32, Side)> {
        for side in [side, side.other()] {
            while let Some(entry) = self.lists.coldest(side.chain()) {
                if may_leave(Slot::of(entry)) {
                    return Some((entry, side));
                }
                self.lists.move_hot(entry, side.aside());
            }
        }
        None
    }

    /// Forgets the coldest ghosts until invariants 2 to 4 hold; only a resize can have broken them.
    fn trim_ghosts(&mut self) {
        while self.side_len(Side::Recent) + self.ghost_len(Side::Recent) > self.capacity
            && self.forget_coldest(Place::RecentGhost)
        {}
        let resident = self.len().max(self.capacity);
        while resident + self.ghost_len(Side::Recent) + self.ghost_len(Side::Frequent) > 2 * self.capacity
            && [Place::FrequentGhost, Place::RecentGhost]
                .into_iter()
                .any(|ghosts| self.forget_coldest(ghosts))
        {}
    }
}

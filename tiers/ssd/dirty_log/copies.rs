//! Which copies a chain must have: see the invariants at the head of the module.
//!
//! Every change of a chain is between `unlist` and `list`, which keep the order of destage and the list of bad blocks. One
//! that can only add to the order does that alone.

use crate::block::{BlockId, Version};

use super::super::tombstones::Tombstone;
use super::chains::{CopyHead, CopyId};
use super::{CopyState, DirtyLog, LogCopy, NO_SECTORS};

impl DirtyLog {
    /// Makes a durable copy the newest of `block`. What it supersedes goes.
    pub(super) fn install(&mut self, block: BlockId, copy: &LogCopy) {
        let id = self.chains.push(block, copy);
        self.segment_mut(copy.generation).add(id);
        // Then no copy changes its epoch, and none is the last of its epoch that goes.
        let is_plain = copy.state == CopyState::Dirty
            && !self.bad.contains(&block)
            && self.chains.older(id).is_none_or(|older| self.chains.head(older).epoch <= copy.epoch);
        if is_plain {
            if self.drop_under(id, copy) {
                self.drop_superseded(block);
            }
            return self.order.insert(copy.epoch, block);
        }
        self.unlist(block);
        self.drop_under(id, copy);
        self.drop_superseded(block);
        self.list(block);
    }

    /// Drops what this newest copy alone takes the place of. Whether one is left that it may do so of together with others:
    /// all that it shares no sector with are needed as before.
    fn drop_under(&mut self, newest: CopyId, copy: &LogCopy) -> bool {
        let mut is_one_left = false;
        let mut next = self.chains.older(newest);
        while let Some(id) = next {
            next = self.chains.older(id);
            let old = self.chains.head(id);
            let is_below = copy.state == CopyState::Destaged && old.epoch <= copy.epoch;
            if is_below || old.state == CopyState::Destaged {
                self.drop_copy(id);
                continue;
            }
            if old.epoch > copy.epoch {
                // Its volume has no epochs any more: it goes below with what is newer, not after it.
                self.chains.set_epoch(id, copy.epoch);
            }
            let counts = old.epoch >= copy.epoch || old.state == CopyState::Bad;
            if !counts || !self.chains.shares_any(id, &copy.mask) {
                continue;
            }
            if self.chains.is_covered(id, &copy.mask) {
                self.drop_copy(id);
            } else {
                is_one_left = true;
            }
        }
        is_one_left
    }

    /// Drops what newer copies of the same epoch have; of a bad copy, what newer ones of any have.
    fn drop_superseded(&mut self, block: BlockId) {
        let (mut newer, mut newer_in_epoch, mut epoch) = (NO_SECTORS, NO_SECTORS, 0);
        let mut next = self.chains.newest(block);
        while let Some(id) = next {
            next = self.chains.older(id);
            let copy = self.chains.head(id);
            if copy.epoch != epoch {
                (epoch, newer_in_epoch) = (copy.epoch, NO_SECTORS);
            }
            let counts = if copy.state == CopyState::Bad { &newer } else { &newer_in_epoch };
            if self.chains.is_covered(id, counts) {
                self.drop_copy(id);
                continue;
            }
            self.chains.add_sectors(id, &mut newer);
            self.chains.add_sectors(id, &mut newer_in_epoch);
        }
    }

    /// Takes a copy out, which must not be used any more.
    fn drop_copy(&mut self, id: CopyId) {
        let copy = self.chains.head(id);
        self.chains.remove(id);
        let segment = self.segment_mut(copy.generation);
        segment.set_dead(copy.index);
        segment.needed -= u32::from(copy.state != CopyState::Destaged);
    }

    fn drop_where(&mut self, block: BlockId, is_out: impl Fn(&CopyHead) -> bool) {
        let mut next = self.chains.newest(block);
        while let Some(id) = next {
            next = self.chains.older(id);
            if is_out(&self.chains.head(id)) {
                self.drop_copy(id);
            }
        }
    }

    fn unlist(&mut self, block: BlockId) {
        let Self { bad, chains, order, .. } = self;
        bad.remove(&block);
        // A chain is in the order of its epochs.
        let mut last = None;
        for epoch in chains.ids(block).map(|id| chains.head(id).epoch) {
            if last.replace(epoch) != Some(epoch) {
                order.remove(epoch, block);
            }
        }
    }

    fn list(&mut self, block: BlockId) {
        let Self { bad, chains, order, .. } = self;
        let copies = || chains.ids(block).map(|id| chains.head(id));
        if copies().any(|copy| copy.state == CopyState::Bad) {
            bad.insert(block);
            return;
        }
        let mut last = None;
        for copy in copies().filter(|copy| copy.state == CopyState::Dirty) {
            if last.replace(copy.epoch) != Some(copy.epoch) {
                order.insert(copy.epoch, block);
            }
        }
    }

    /// No copy of `block` may be used any more, whatever state it is in. True when recovery might find one.
    pub(in super::super) fn void(&mut self, block: BlockId) -> bool {
        let may_be_found = self.chains.has(block) || self.given_up.contains(&block);
        self.unlist(block);
        self.drop_where(block, |_| true);
        let Some(pending) = self.pending.get_mut(&block) else { return may_be_found };
        pending.is_void = true;
        // At once, since a checkpoint made now takes the place of the journal's entry.
        let (generation, index) = (pending.generation, pending.index);
        self.segment_mut(generation).set_dead(index);
        true
    }

    /// A tombstone takes the place of what is older, but for what goes below in an earlier epoch.
    pub(in super::super) fn bury(&mut self, tombstone: Tombstone) {
        let Tombstone { version, epoch, .. } = tombstone;
        for block in self.blocks_within(&tombstone.ids) {
            self.unlist(block);
            self.drop_where(block, |copy| {
                let goes_before = copy.state == CopyState::Dirty && copy.epoch < epoch;
                copy.version < version && !goes_before
            });
            self.list(block);
        }
        self.tombstones.insert(tombstone);
    }

    /// The backing store has the copies of this epoch up to this version, synced. False when it had them before.
    pub(in super::super) fn destaged(&mut self, block: BlockId, epoch: u64, version: Version) -> bool {
        let newest = self.chains.newest(block);
        self.unlist(block);
        let mut is_news = false;
        let mut next = newest;
        while let Some(id) = next {
            next = self.chains.older(id);
            let copy = self.chains.head(id);
            if copy.epoch != epoch || copy.version > version || copy.state == CopyState::Destaged {
                continue;
            }
            is_news = true;
            // What a tombstone hides must not come to light when that is below.
            if Some(id) == newest && !self.tombstones.bury(block, copy.version) {
                self.chains.set_state(id, CopyState::Destaged);
                self.segment_mut(copy.generation).needed -= 1;
            } else {
                self.drop_copy(id);
            }
        }
        self.list(block);
        is_news
    }

    /// The copy of this version cannot be read. True when the backing store has it, so that it just went.
    pub(in super::super) fn spoil(&mut self, block: BlockId, version: Version) -> bool {
        let Some(id) = self.find_version(block, version) else { return false };
        let is_read = self.read_ids(block).any(|needed| needed == id);
        let is_below = self.chains.state(id) == CopyState::Destaged;
        self.unlist(block);
        if is_read && !is_below {
            self.chains.set_state(id, CopyState::Bad);
        } else {
            // Nobody reads an older one but its destage, and there is nothing better to write below in its epoch.
            self.drop_copy(id);
        }
        self.list(block);
        is_below
    }

    /// Destaged copies are as good as those of the backing store, and a file that is closed need not remember them.
    pub(in super::super) fn drop_destaged(&mut self) {
        let is_destaged = |block: &BlockId| {
            let newest = self.chains.newest(*block);
            newest.is_some_and(|id| self.chains.state(id) == CopyState::Destaged)
        };
        for block in self.chains.blocks().filter(is_destaged).collect::<Vec<_>>() {
            self.void(block);
        }
    }
}

//! Which copies a chain must have: see the invariants at the head of the module.
//!
//! Every change of a chain is between `unlist` and `list`, which keep the order of destage and the list of bad blocks.

use crate::block::{BlockId, Version, mask};

use super::super::tombstones::Tombstone;
use super::chains::CopyId;
use super::{CopyState, DirtyLog, LogCopy};

impl DirtyLog {
    /// Makes a durable copy the newest of `block`. What it supersedes goes.
    pub(super) fn install(&mut self, block: BlockId, copy: &LogCopy) {
        let (id, is_only) = self.chains.push(block, copy);
        self.segment_mut(copy.generation).add(id);
        if is_only && copy.state == CopyState::Dirty {
            return self.order.insert(copy.epoch, block);
        }
        self.unlist(block);
        for id in self.chains.ids(block).into_iter().skip(1) {
            let old = self.chains.copy(id);
            let is_below = copy.state == CopyState::Destaged && old.epoch <= copy.epoch;
            if is_below || old.state == CopyState::Destaged {
                self.drop_copy(id, &old);
            } else if old.epoch > copy.epoch {
                // Its volume has no epochs any more: it goes below with what is newer, not after it.
                self.chains.set_epoch(id, copy.epoch);
            }
        }
        self.drop_superseded(block);
        self.list(block);
    }

    /// Drops what newer copies of the same epoch have; of a bad copy, what newer ones of any have.
    fn drop_superseded(&mut self, block: BlockId) {
        let mut newer = vec![0; self.size.mask_words()];
        let (mut epoch, mut newer_in_epoch) = (0, newer.clone());
        for id in self.chains.ids(block) {
            let copy = self.chains.copy(id);
            if copy.epoch != epoch {
                epoch = copy.epoch;
                newer_in_epoch.fill(0);
            }
            let counts = if copy.state == CopyState::Bad { &newer } else { &newer_in_epoch };
            if mask::covers(counts, &copy.mask) {
                self.drop_copy(id, &copy);
            }
            mask::add(&mut newer, &copy.mask);
            mask::add(&mut newer_in_epoch, &copy.mask);
        }
    }

    /// Takes a copy out, which must not be used any more.
    fn drop_copy(&mut self, id: CopyId, copy: &LogCopy) {
        self.chains.remove(id);
        let segment = self.segment_mut(copy.generation);
        segment.set_dead(copy.index);
        segment.needed -= u32::from(copy.state != CopyState::Destaged);
    }

    fn drop_where(&mut self, block: BlockId, is_out: impl Fn(&LogCopy) -> bool) {
        for id in self.chains.ids(block) {
            let copy = self.chains.copy(id);
            if is_out(&copy) {
                self.drop_copy(id, &copy);
            }
        }
    }

    fn unlist(&mut self, block: BlockId) {
        self.bad.remove(&block);
        for id in self.chains.ids(block) {
            self.order.remove(self.chains.copy(id).epoch, block);
        }
    }

    fn list(&mut self, block: BlockId) {
        let copies = self.copies_of(block);
        if copies.iter().any(|copy| copy.state == CopyState::Bad) {
            self.bad.insert(block);
            return;
        }
        for copy in copies.iter().filter(|copy| copy.state == CopyState::Dirty) {
            self.order.insert(copy.epoch, block);
        }
    }

    /// No copy of `block` may be used any more, whatever state it is in. True when recovery might find one.
    pub(in super::super) fn void(&mut self, block: BlockId) -> bool {
        let had_copies = self.chains.has(block);
        self.unlist(block);
        self.drop_where(block, |_| true);
        let Some(pending) = self.pending.get_mut(&block) else { return had_copies };
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
        for id in self.chains.ids(block) {
            let copy = self.chains.copy(id);
            if copy.epoch != epoch || copy.version > version || copy.state == CopyState::Destaged {
                continue;
            }
            is_news = true;
            // What a tombstone hides must not come to light when that is below.
            if Some(id) == newest && !self.tombstones.bury(block, copy.version) {
                self.chains.set_state(id, CopyState::Destaged);
                self.segment_mut(copy.generation).needed -= 1;
            } else {
                self.drop_copy(id, &copy);
            }
        }
        self.list(block);
        is_news
    }

    /// The copy of this version cannot be read. True when the backing store has it, so that it just went.
    pub(in super::super) fn spoil(&mut self, block: BlockId, version: Version) -> bool {
        let Some(id) = self.find_version(block, version) else { return false };
        let copy = self.chains.copy(id);
        let is_read = self.read_copies(block).iter().any(|needed| needed.version == version);
        let is_below = copy.state == CopyState::Destaged;
        self.unlist(block);
        if is_read && !is_below {
            self.chains.set_state(id, CopyState::Bad);
        } else {
            // Nobody reads an older one but its destage, and there is nothing better to write below in its epoch.
            self.drop_copy(id, &copy);
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

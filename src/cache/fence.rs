//! Fences: stretches of blocks that a discard or a forget has taken hold of.
//!
//! A fence stands in every shard, put there under the shard's lock in the same hold in which what the shard knows of
//! those blocks is taken out. That hold is the moment in which the discard or forget happens to them.
//!
//! | while it stands          | discard                                       | forget                                |
//! |--------------------------|-----------------------------------------------|---------------------------------------|
//! | a block is read          | as zeros, around what was written since       | from below, never from the SSD        |
//! | a fill was under way     | its bytes count as zeros                      | it is waited for, and not kept        |
//! | a write below was        | it is waited for before the range is discarded | it is waited for, and the block goes |
//! | a block is written       | in RAM; not below before the fence is lifted  | the same                              |
//!
//! Invariants:
//! 1. No write-back of a block begins while a fence covers it: `take_group` puts it aside, into `fenced`.
//! 2. A fence is lifted only when no write below is under way that began before it stood.
//! 3. What is dirty is counted in an epoch until it is below, discarded or forgotten; so is a discard until it is below.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use terrace_tiers::block::{BlockId, VolumeId};
use terrace_tiers::ram::arc_policy::Side;
use terrace_tiers::ssd::VoidMark;

use super::Inner;
use super::dirty::{Dirty, VolumeState};
use super::entry::Entry;
use super::fill::Runner;
use super::index::Shard;
use super::write::WriteWaiter;
use crate::pool::Priority;
use crate::sync::{Wake, wake_all};

/// Numbers of blocks of one volume.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) volume: VolumeId,
    pub(super) blocks: Range<u64>,
}

impl Stretch {
    pub(super) fn new(volume: &VolumeState, blocks: Range<u64>) -> Self {
        Self { volume: volume.id, blocks }
    }

    pub(super) fn contains(&self, block: BlockId) -> bool {
        block.volume() == self.volume && self.blocks.contains(&block.number())
    }

    pub(super) fn first(&self) -> BlockId {
        BlockId::new(self.volume, self.blocks.start)
    }

    pub(super) fn count(&self) -> u64 {
        self.blocks.end - self.blocks.start
    }
}

/// What a shard knows of a discard or forget that is not over.
pub(super) struct Fence {
    /// Unique in the volume.
    pub(super) id: u64,
    pub(super) stretch: Stretch,
    pub(super) is_discard: bool,
}

/// What a volume knows of its fences.
#[derive(Default)]
pub(super) struct Fences {
    last_id: u64,
    pub(super) discards: Vec<Discard>,
    pub(super) forgets: Vec<Forget>,
    /// Dirty blocks that may not go below before a fence is lifted; they are neither waiting nor held back.
    pub(super) fenced: BTreeSet<u64>,
}

/// A discard that is not durable below.
pub(super) struct Discard {
    pub(super) id: u64,
    pub(super) blocks: Range<u64>,
    /// The flush epoch that counts it, until it is below: its own, or that of the first block whose place it takes.
    pub(super) epoch: u64,
    pub(super) step: Step,
    /// Blocks whose writes below have to end first.
    pub(super) waits_for: BTreeSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Its fence is not in every shard yet.
    Placing,
    /// To be run once it waits for nothing.
    Waiting,
    Running,
    /// The device refused it: it is tried again after a pause.
    HeldBack,
    /// There is no room for its tombstone before something is destaged.
    PutOff,
    /// It is below, and its fence lifted; the sync of this number will cover it.
    Written {
        covered_by: u64,
    },
}

pub(super) struct Forget {
    pub(super) id: u64,
    /// Blocks with a fill or a write below under way, which go when that ends.
    pub(super) waits_for: BTreeSet<u64>,
}

impl Fences {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn discard(&mut self, id: u64) -> &mut Discard {
        let found = self.discards.iter_mut().find(|discard| discard.id == id);
        found.expect("a discard stays known until it is durable")
    }

    /// Whether a discard is below that no sync covers.
    pub(super) fn needs_sync(&self) -> bool {
        self.discards.iter().any(|discard| matches!(discard.step, Step::Written { .. }))
    }

    /// The sync numbered `number` succeeded.
    pub(super) fn synced(&mut self, number: u64) {
        self.discards.retain(|discard| match discard.step {
            Step::Written { covered_by } => covered_by > number,
            _ => true,
        });
    }

    /// Whether something waits for the end of writes that are under way.
    pub(super) fn waits_for_writes(&self) -> bool {
        let discards = self.discards.iter().map(|discard| &discard.waits_for);
        discards.chain(self.forgets.iter().map(|forget| &forget.waits_for)).any(|blocks| !blocks.is_empty())
    }

    /// A write below ended, and did not begin behind a fence.
    pub(super) fn write_ended(&mut self, block: u64) {
        for discard in &mut self.discards {
            discard.waits_for.remove(&block);
        }
    }

    /// A block that a forget waited for has gone.
    pub(super) fn forgotten(&mut self, block: u64) {
        for forget in &mut self.forgets {
            forget.waits_for.remove(&block);
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.discards.iter().any(|discard| discard.step == Step::Running)
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.discards.iter().any(|discard| discard.step == Step::PutOff)
    }

    /// Something was destaged. Whether any waited for that.
    pub(super) fn take_put_off(&mut self) -> bool {
        let mut any = false;
        for discard in self.discards.iter_mut().filter(|discard| discard.step == Step::PutOff) {
            (discard.step, any) = (Step::Waiting, true);
        }
        any
    }

    /// The pause after a failure is over.
    pub(super) fn take_held_back(&mut self) {
        for discard in self.discards.iter_mut().filter(|discard| discard.step == Step::HeldBack) {
            discard.step = Step::Waiting;
        }
    }

    pub(super) fn is_forgetting(&self) -> bool {
        !self.forgets.is_empty()
    }

    /// For [`Inner::assert_quiet`].
    pub(super) fn count(&self) -> u64 {
        (self.discards.len() + self.forgets.len() + self.fenced.len()) as u64
    }
}

impl Dirty {
    /// A dirty block is behind a fence.
    pub(super) fn put_behind_fence(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.put_off.remove(&number);
        self.later.remove(&number);
        self.fences.fenced.insert(number);
    }

    /// A discard takes the place of what RAM has of a block: a flush that waits for that waits for the discard, or older
    /// bytes would be all that is durable.
    pub(super) fn discard_in_place_of(&mut self, id: u64, entry: &Entry) {
        let epoch = match entry {
            // It may fail, whichever epoch it is of.
            Entry { writing: true, .. } => self.first_epoch(),
            Entry { dirty: true, dirty_epoch, .. } => *dirty_epoch,
            _ => return,
        };
        let discard = self.fences.discard(id);
        if epoch < discard.epoch {
            let later = std::mem::replace(&mut discard.epoch, epoch);
            self.count_in(epoch, 1);
            self.count_in(later, -1);
        }
    }

    /// A dirty block has nothing more to write below.
    fn drop_dirty(&mut self, number: u64, epoch: u64) {
        self.waiting.remove(&number);
        self.held_back.remove(&number);
        self.put_off.remove(&number);
        self.later.remove(&number);
        self.fences.fenced.remove(&number);
        self.count_in(epoch, -1);
    }

    /// Blocks of `range` that stood behind a fence wait like the others; one that another fence covers goes back there
    /// when its turn comes.
    fn release_fenced(&mut self, range: &Range<u64>) {
        let mut rest = self.fences.fenced.split_off(&range.start);
        let mut later = rest.split_off(&range.end);
        self.fences.fenced.append(&mut later);
        self.waiting.append(&mut rest);
    }
}

impl Shard {
    pub(super) fn is_fenced(&self, block: BlockId) -> bool {
        self.fences.iter().any(|fence| fence.stretch.contains(block))
    }

    pub(super) fn is_discarded(&self, block: BlockId) -> bool {
        self.fences.iter().any(|fence| fence.is_discard && fence.stretch.contains(block))
    }

    fn is_being_forgotten(&self, block: BlockId) -> bool {
        self.fences.iter().any(|fence| !fence.is_discard && fence.stretch.contains(block))
    }

    /// The blocks of `stretch` that are here, or on their way: found without a look at those that are not, when there
    /// are more of them.
    pub(super) fn blocks_in(&self, stretch: &Stretch) -> Vec<BlockId> {
        if stretch.count() <= u64::from(self.policy.len()) {
            let blocks = stretch.blocks.clone().map(|number| BlockId::new(stretch.volume, number));
            return blocks.filter(|&block| self.knows(block)).collect();
        }
        let slots = [Side::Recent, Side::Frequent].into_iter().flat_map(|side| self.policy.coldest(side));
        let resident = slots.map(|slot| self.policy.block_at(slot));
        let filled = self.fills.keys().copied().filter(|&block| self.policy.lookup(block).is_none());
        resident.chain(filled).filter(|&block| stretch.contains(block)).collect()
    }

    fn knows(&self, block: BlockId) -> bool {
        self.policy.lookup(block).is_some() || self.fills.contains_key(&block)
    }
}

/// Who is to be told, once no lock is held, of blocks that were taken out.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) wakes: Vec<Wake>,
    waiters: Vec<WriteWaiter>,
    has_any: bool,
}

impl Swept {
    pub(super) fn finish(self, inner: &Inner) {
        wake_all(self.wakes);
        // What they wrote is superseded: nobody will see whether it went below.
        for waiter in self.waiters {
            waiter.deliver(Ok(()));
        }
        if self.has_any {
            inner.announce_release();
        }
    }
}

impl Inner {
    /// Takes what RAM has of `block`, and what the books say of it. A place that a fill or a write below still needs
    /// stays, empty: the fill puts its bytes there, the end of the write changes nothing.
    pub(super) fn empty_entry(
        &self,
        volume: &VolumeState,
        shard: &mut Shard,
        block: BlockId,
        swept: &mut Swept,
    ) {
        swept.has_any = true;
        swept.waiters.extend(shard.write_waiters.remove(&block).into_iter().flatten());
        let size = self.size;
        let Some((slot, entry)) = shard.entry_of(block) else { return };
        let was_pinned = entry.is_pinned();
        let old = std::mem::take(entry);
        (entry.filling, entry.writing, entry.is_void_write) = (old.filling, old.writing, old.writing);
        let is_needed = old.filling || old.writing;
        entry.is_forgotten = old.is_forgotten && is_needed;
        if old.writing {
            // None of them valid.
            entry.sectors_mut(size);
        }
        if old.dirty {
            volume.dirty.lock().drop_dirty(block.number(), old.dirty_epoch);
        }
        if is_needed {
            shard.settle_entry(slot);
        } else {
            shard.policy.remove(block);
        }
        if was_pinned && !old.writing {
            swept.wakes.append(&mut self.throttle.remove());
        }
    }

    /// A write below ended whose block was discarded or forgotten meanwhile; `epoch` had counted it.
    pub(super) fn finish_unwanted_write(
        &self,
        volume: &VolumeState,
        shard: &mut Shard,
        block: BlockId,
        epoch: u64,
        swept: &mut Swept,
    ) {
        let (slot, entry) = shard.entry_of(block).expect("a block that is being written stays");
        entry.is_void_write = false;
        let goes = entry.is_forgotten && !entry.filling;
        let (is_dirty, is_pinned) = (entry.dirty, entry.is_pinned());
        {
            let mut dirty = volume.dirty.lock();
            dirty.count_in(epoch, -1);
            dirty.fences.write_ended(block.number());
            if goes {
                dirty.fences.forgotten(block.number());
            } else if is_dirty {
                dirty.waiting.insert(block.number());
            }
        }
        if !is_pinned {
            shard.settle_entry(slot);
            swept.wakes.append(&mut self.throttle.remove());
        }
        if goes {
            self.empty_entry(volume, shard, block, swept);
        }
    }

    /// A fill ended whose block was forgotten meanwhile, or lost.
    pub(super) fn finish_stale_fill(
        &self,
        volume: &VolumeState,
        shard: &mut Shard,
        block: BlockId,
        swept: &mut Swept,
    ) {
        let is_forgotten = shard.is_being_forgotten(block);
        if let Some((_, entry)) = shard.entry_of(block).filter(|(_, entry)| entry.is_pinned()) {
            if !is_forgotten {
                // Lost, and written again: that stays.
                return;
            }
            if entry.writing {
                // The end of the write takes it out.
                entry.is_forgotten = true;
                return;
            }
        }
        self.empty_entry(volume, shard, block, swept);
        volume.dirty.lock().fences.forgotten(block.number());
    }

    /// What was read of these blocks since they were written below is not kept: nobody knows what they will be (rule 7).
    pub(super) fn drop_lost(&self, volume: &VolumeState, lost: &BTreeSet<u64>) {
        for &number in lost {
            let block = BlockId::new(volume.id, number);
            let mut swept = Swept::default();
            let mut shard = self.shard(block);
            let is_filled = shard.fills.get_mut(&block).map(|fill| fill.is_stale = true).is_some();
            let is_kept = shard.entry_of(block).is_some_and(|(_, entry)| entry.is_pinned());
            if !is_filled && !is_kept {
                self.empty_entry(volume, &mut shard, block, &mut swept);
            }
            if let Some(ssd) = self.ssd() {
                ssd.void(block, self.next_version(), VoidMark::Exact);
            }
            drop(shard);
            swept.finish(self);
        }
    }

    /// What waited for a write or a fill to end may go on.
    pub(super) fn go_on_behind_fences(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        self.start_discards(volume);
        volume.fence_changed.notify_all();
    }

    /// Takes a fence out of every shard, and lets what stood behind it go below. A discard is no longer counted in
    /// `epoch`.
    pub(super) fn lift_fence(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        id: u64,
        blocks: Range<u64>,
        epoch: Option<u64>,
    ) {
        let stretch = Stretch::new(volume, blocks);
        let mut awaited = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.fences.retain(|fence| fence.id != id || fence.stretch.volume != stretch.volume);
            let blocks = shard.write_waiters.keys().filter(|&&block| stretch.contains(block));
            awaited.extend(blocks.map(|block| block.number()));
        }
        awaited.sort_unstable();
        let mut dirty = volume.dirty.lock();
        if let Some(epoch) = epoch {
            dirty.count_in(epoch, -1);
        }
        dirty.fences.forgets.retain(|forget| forget.id != id);
        dirty.release_fenced(&stretch.blocks);
        let (logged, starts) = self.take_ended_flushes(volume, &mut dirty);
        drop(dirty);
        logged.into_iter().for_each(|done| done(Ok(())));
        volume.fence_changed.notify_all();
        if starts {
            self.start_sync(volume);
        }
        self.write_back_blocks(volume, &awaited, Runner::Pool(Priority::Awaited));
        self.pump(volume);
    }
}

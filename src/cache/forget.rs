//! Forgetting: what the tiers hold of a range goes, dirty blocks too, and the backing store stays as it is.
//!
//! 1. Discards of the range that are not below are taken back; one that is running is waited for.
//! 2. A fence keeps write-back off the range (see [`super::fence`]). What is in RAM goes at once, or when the fill or
//!    the write below ends that was under way.
//! 3. The copies on the SSD are void, durably, those in the log too. Until then no read of the range looks there.
//! 4. The fence is lifted; flushes that waited for nothing else go on.
//!
//! All the while nothing of a volume with a log is destaged. A write that runs beside it counts as before it or after it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::dirty::{Dirty, VolumeState};
use super::fence::{Discard, Fence, Forget, Step, Stretch, Swept};
use super::{Inner, Result};
use crate::error::Error;

/// A discard that a forget cut: its number, and what is left of it on both sides.
struct Cut {
    id: u64,
    step: Step,
    rests: Vec<(u64, Range<u64>)>,
}

/// A forget that is in the books and has no fence yet.
struct Begun {
    id: u64,
    cuts: Vec<Cut>,
}

impl Inner {
    /// See [`super::Volume::forget`].
    pub(super) fn forget(self: &Arc<Self>, volume: &Arc<VolumeState>, offset: u64, bytes: u64) -> Result<()> {
        self.check_volume(volume)?;
        volume.check_stretch(offset, bytes)?;
        let (block_bytes, end) = (self.size.bytes() as u64, offset + bytes);
        let is_whole = end.is_multiple_of(block_bytes) || end == volume.len_bytes;
        if bytes > 0 && !(offset.is_multiple_of(block_bytes) && is_whole) {
            return Err(Error::NotWholeBlocks { offset, bytes, block_bytes });
        }
        if bytes == 0 {
            return Ok(());
        }
        self.forget_blocks(volume, offset / block_bytes..end.div_ceil(block_bytes))
    }

    fn forget_blocks(self: &Arc<Self>, volume: &Arc<VolumeState>, blocks: Range<u64>) -> Result<()> {
        if !volume.may_have_log() {
            return self.forget_at_rest(volume, blocks, false);
        }
        // What was read from the log must not be written below after this returned, nor after a read behind the fence.
        self.without_destage(volume, || {
            self.sync_what_was_destaged(volume);
            self.forget_at_rest(volume, blocks, true)
        })
    }

    /// Nothing is being destaged, if the volume `has_log`.
    fn forget_at_rest(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        blocks: Range<u64>,
        has_log: bool,
    ) -> Result<()> {
        let taken = self.begin_forget(volume, &blocks, |inner| inner.check_volume(volume))?;
        let id = taken.id;
        self.take_out(volume, &blocks, taken);
        {
            let syncs = &mut volume.dirty.lock().syncs;
            syncs.is_given_up |= syncs.failures > 0;
        }
        let voided = self.void_forgotten(volume, &blocks, has_log);
        self.lift_fence(volume, id, blocks, None);
        voided
    }

    /// What the SSD has of `blocks` goes.
    fn void_forgotten(
        self: &Arc<Self>,
        volume: &VolumeState,
        blocks: &Range<u64>,
        has_log: bool,
    ) -> Result<()> {
        let Some(ssd) = self.ssd() else { return Ok(()) };
        let stretch = Stretch::new(volume, blocks.clone());
        let version = self.next_version();
        volume.raise_version(version);
        if !has_log {
            ssd.void_range(stretch.first(), stretch.count(), version);
            self.make_voids_durable();
            return Ok(());
        }
        ssd.void_range_durably(stretch.first(), stretch.count(), version)?;
        Ok(())
    }

    /// Takes what RAM has of a volume that was flushed, once no call on it is under way; the SSD keeps its copies.
    pub(super) fn drop_resident(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        {
            let mut dirty = volume.dirty.lock();
            while dirty.fences.is_forgetting() {
                volume.fence_changed.wait(&mut dirty);
            }
        }
        let blocks = 0..self.size.blocks_for(volume.len_bytes);
        let begun = self.begin_forget(volume, &blocks, |_| Ok(()));
        let taken = begun.expect("nothing was asked for that can be refused");
        let id = taken.id;
        self.take_out(volume, &blocks, taken);
        self.lift_fence(volume, id, blocks, None);
    }

    /// Enters a forget in the books and takes discards of `blocks` back, unless `check` refuses it then.
    fn begin_forget(
        &self,
        volume: &VolumeState,
        blocks: &Range<u64>,
        check: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Begun> {
        let mut dirty = volume.dirty.lock();
        while dirty.fences.has_running(blocks) {
            volume.fence_changed.wait(&mut dirty);
        }
        // Under the lock in which whoever detaches looks for forgets after it said so.
        check(self)?;
        let cuts = dirty.cut_discards(blocks);
        let id = dirty.fences.next_id();
        dirty.fences.forgets.push(Forget { id, waits_for: BTreeSet::new() });
        Ok(Begun { id, cuts })
    }

    /// Puts the fence up, and waits until nothing of `blocks` is in RAM or on its way.
    fn take_out(self: &Arc<Self>, volume: &Arc<VolumeState>, blocks: &Range<u64>, begun: Begun) {
        let Begun { id, cuts } = begun;
        self.place_forget(volume, id, &Stretch::new(volume, blocks.clone()), &cuts);
        self.finish_cuts(volume, cuts);
        self.hurry_log(volume);
        let mut dirty = volume.dirty.lock();
        while dirty.fences.forgets.iter().any(|forget| forget.id == id && !forget.waits_for.is_empty()) {
            volume.fence_changed.wait(&mut dirty);
        }
        dirty.forget_syncs(blocks);
        drop(dirty);
        volume.make_readable(blocks);
    }

    fn place_forget(&self, volume: &VolumeState, id: u64, stretch: &Stretch, cuts: &[Cut]) {
        for shard in &self.shards {
            let mut swept = Swept::default();
            let mut shard = shard.lock();
            for cut in cuts.iter().filter(|cut| !matches!(cut.step, Step::Written { .. })) {
                shard.fences.retain(|fence| fence.id != cut.id || fence.stretch.volume != stretch.volume);
                shard.fences.extend(cut.rests.iter().map(|(id, blocks)| {
                    let stretch = Stretch::new(volume, blocks.clone());
                    Fence { id: *id, stretch, is_discard: true }
                }));
            }
            shard.fences.push(Fence { id, stretch: stretch.clone(), is_discard: false });
            for block in shard.blocks_in(stretch) {
                let is_filled = shard.fills.get_mut(&block).map(|fill| fill.is_stale = true).is_some();
                let mut is_needed = is_filled;
                if let Some((_, entry)) = shard.entry_of(block) {
                    is_needed |= entry.writing;
                    entry.is_forgotten = is_needed;
                }
                if is_needed {
                    let mut dirty = volume.dirty.lock();
                    let forget = dirty.fences.forgets.iter_mut().find(|forget| forget.id == id);
                    forget.expect("it is not over").waits_for.insert(block.number());
                } else {
                    self.empty_entry(volume, &mut shard, block, &mut swept);
                }
            }
            drop(shard);
            swept.finish(self);
        }
    }

    /// What is left of discards that were cut goes on.
    fn finish_cuts(self: &Arc<Self>, volume: &Arc<VolumeState>, cuts: Vec<Cut>) {
        let mut dirty = volume.dirty.lock();
        for Cut { step, rests, .. } in cuts {
            if matches!(step, Step::Written { .. }) {
                continue;
            }
            for (id, _) in rests {
                dirty.fences.discard(id).step = step;
            }
        }
        drop(dirty);
        self.go_on_behind_fences(volume);
    }
}

impl super::fence::Fences {
    /// Whether a discard that touches `blocks` cannot be taken back just now.
    fn has_running(&self, blocks: &Range<u64>) -> bool {
        let is_busy = |discard: &Discard| matches!(discard.step, Step::Placing | Step::Running);
        self.discards.iter().any(|discard| is_busy(discard) && overlap(&discard.blocks, blocks))
    }
}

impl Dirty {
    /// Takes `blocks` out of every discard; those were all not running.
    fn cut_discards(&mut self, blocks: &Range<u64>) -> Vec<Cut> {
        let all = std::mem::take(&mut self.fences.discards);
        let (hit, rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|discard| overlap(&discard.blocks, blocks));
        self.fences.discards = rest;
        hit.into_iter().map(|discard| self.cut_discard(discard, blocks)).collect()
    }

    fn cut_discard(&mut self, discard: Discard, blocks: &Range<u64>) -> Cut {
        let Discard { id, blocks: whole, epoch, step, waits_for } = discard;
        let is_counted = !matches!(step, Step::Written { .. });
        let parts = [whole.start..blocks.start, blocks.end..whole.end];
        let mut rests = Vec::new();
        for part in parts.into_iter().filter(|part| part.start < part.end) {
            let id = self.fences.next_id();
            let waits_for = waits_for.iter().copied().filter(|number| part.contains(number)).collect();
            // A discard that waits for its sync stays as it is; the others stand still until the shards know the rests.
            let step = if is_counted { Step::Placing } else { step };
            self.fences.discards.push(Discard { id, blocks: part.clone(), epoch, step, waits_for });
            if is_counted {
                self.count_in(epoch, 1);
            }
            rests.push((id, part));
        }
        if is_counted {
            self.count_in(epoch, -1);
        }
        Cut { id, step, rests }
    }

    /// No sync has anything to cover in `blocks`, and nothing there is named lost.
    fn forget_syncs(&mut self, blocks: &Range<u64>) {
        self.syncs.unsynced.retain(|(number, _)| !blocks.contains(number));
        self.syncs.passed.retain(|number| !blocks.contains(number));
        self.syncs.lost.retain(|number| !blocks.contains(number));
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

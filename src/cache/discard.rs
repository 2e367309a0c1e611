//! Discards: ranges that read as zeros from now on, and are given back below.
//!
//! 1. **Edges**: what covers a block in part is a write of zeros like any other.
//! 2. **Place**: whole blocks get a fence (see [`super::fence`]), which answers reads from now on; what RAM has of them
//!    goes. That is all a caller waits for, and it takes as long as there are blocks in RAM, however large the range is.
//! 3. **Run**: when no older write to the range is under way, what the SSD has of it is void, durably (rule 1), and the
//!    device discards it. Only then the fence is lifted and newer writes go below. In mode `back-ssd` one tombstone in
//!    the log does for both (rule 2: what it voids may be all there is), and `destage` has the device discard; when there are
//!    too many tombstones and none can be run, see [`super::full_log`].
//! 4. **Sync**: a discard that a failed sync should have covered is placed and run again, and so is every write below
//!    after it (rule 7).
//!
//! A flush waits for the discards before it like for dirty blocks. There are at most [`DISCARDS_MAX`] that are not durable;
//! with more, a discard flushes first.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use terrace_tiers::block::{BlockId, Version};
use terrace_tiers::device::PageBuf;

use super::dirty::{Began, VolumeState};
use super::fence::{Discard, Fence, Step, Stretch, Swept};
use super::flush::FlushDone;
use super::full_log::RefusedDiscard;
use super::index::Shard;
use super::mode::Route;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::TierError;
use crate::pool::Priority;

/// Each stands in every shard and is looked at by every miss, so there are few.
const DISCARDS_MAX: usize = 64;

/// Zeros are written in pieces of so many bytes where a device cannot discard.
const ZEROS_BYTES: usize = 1 << 20;

/// Parts of blocks at the two ends of a range: offset and length in bytes.
type Edges = SmallVec<[(u64, usize); 2]>;

impl Inner {
    /// Runs `done` once `bytes` bytes from `offset` on read as zeros.
    pub(super) fn discard(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        bytes: u64,
        done: FlushDone,
    ) {
        let checked = self.check_volume(volume).and_then(|()| volume.check_stretch(offset, bytes));
        if let Err(error) = checked {
            return done(Err(error));
        }
        let (edges, blocks) = volume.split_range(offset, bytes);
        self.discard_parts(volume, edges, blocks, done);
    }

    /// The edges, one after the other, and then the blocks between.
    fn discard_parts(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        mut edges: Edges,
        blocks: Range<u64>,
        done: FlushDone,
    ) {
        let Some((offset, bytes)) = edges.pop() else { return self.discard_blocks(volume, blocks, done) };
        let (inner, volume_again) = (self.clone(), volume.clone());
        let next = move |written: Result<_>| match written {
            Ok(_) => inner.discard_parts(&volume_again, edges, blocks, done),
            Err(error) => done(Err(error)),
        };
        self.write_with(volume, offset, vec![0; bytes], Box::new(next));
    }

    fn discard_blocks(self: &Arc<Self>, volume: &Arc<VolumeState>, blocks: Range<u64>, done: FlushDone) {
        if blocks.is_empty() {
            return done(Ok(()));
        }
        let id = match self.count_discard(volume, &blocks) {
            Ok(Some(id)) => id,
            Ok(None) => {
                let (inner, volume_again) = (self.clone(), volume.clone());
                let again = move |flushed: Result<()>| match flushed {
                    Ok(()) => inner.discard_blocks(&volume_again, blocks, done),
                    Err(error) => done(Err(error)),
                };
                return self.flush(volume, Box::new(again));
            }
            Err(error) => return done(Err(error)),
        };
        let stretch = Stretch::new(volume, blocks);
        self.place_discard(volume, id, &stretch, |inner, shard, block, swept| {
            inner.empty_entry(volume, shard, block, swept);
        });
        volume.make_readable(&stretch.blocks);
        volume.dirty.lock().fences.discard(id).step = Step::Waiting;
        self.ticker.watch(volume);
        self.hurry_log(volume);
        self.go_on_behind_fences(volume);
        done(Ok(()));
    }

    /// Enters a discard in the books, so that a flush waits for it; none when there are too many.
    fn count_discard(&self, volume: &VolumeState, blocks: &Range<u64>) -> Result<Option<u64>> {
        let mut dirty = volume.dirty.lock();
        // Under the lock that a flush takes: what closes looks at the books after it said so.
        self.check_volume(volume)?;
        if dirty.fences.discards.len() >= DISCARDS_MAX {
            return Ok(None);
        }
        let (id, epoch) = (dirty.fences.next_id(), dirty.epoch);
        dirty.count_in(epoch, 1);
        let (blocks, waits_for) = (blocks.clone(), BTreeSet::new());
        dirty.fences.discards.push(Discard { id, blocks, epoch, step: Step::Placing, waits_for });
        Ok(Some(id))
    }

    /// Puts the fence of a discard into every shard, and has `sweep` see to each block that is there.
    fn place_discard(
        &self,
        volume: &VolumeState,
        id: u64,
        stretch: &Stretch,
        sweep: impl Fn(&Self, &mut Shard, BlockId, &mut Swept),
    ) {
        for shard in &self.shards {
            let mut swept = Swept::default();
            let mut shard = shard.lock();
            shard.fences.push(Fence { id, stretch: stretch.clone(), is_discard: true });
            for block in shard.blocks_in(stretch) {
                if let Some(fill) = shard.fills.get_mut(&block) {
                    fill.is_void = true;
                }
                if let Some((_, entry)) = shard.entry_of(block) {
                    volume.dirty.lock().discard_in_place_of(id, entry);
                }
                sweep(self, &mut shard, block, &mut swept);
                if shard.entry_of(block).is_some_and(|(_, entry)| entry.writing) {
                    volume.dirty.lock().fences.discard(id).waits_for.insert(block.number());
                }
            }
            drop(shard);
            swept.finish(self);
        }
    }

    /// Starts the discards that wait for nothing more.
    pub(super) fn start_discards(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        loop {
            let (id, began, is_logged) = {
                let mut dirty = volume.dirty.lock();
                let route = volume.route();
                if route == Route::Changing {
                    return;
                }
                let is_ready = |discard: &&Discard| {
                    let is_first = route == Route::Below || !volume.must_keep_order(&dirty, discard.epoch);
                    discard.step == Step::Waiting && discard.waits_for.is_empty() && is_first
                };
                let Some(id) = dirty.fences.discards.iter().find(is_ready).map(|discard| discard.id) else {
                    return;
                };
                dirty.fences.discard(id).step = Step::Running;
                dirty.logging += u32::from(route == Route::Log);
                (id, dirty.begin(), route == Route::Log)
            };
            let (inner, volume_again) = (self.clone(), volume.clone());
            let job = move || {
                if is_logged {
                    inner.log_discard(&volume_again, id, began);
                    volume_again.end_logging();
                } else {
                    inner.run_discard(&volume_again, id, began);
                }
            };
            volume.lane.task(Priority::Awaited, Box::new(job));
        }
    }

    fn run_discard(self: &Arc<Self>, volume: &Arc<VolumeState>, id: u64, began: Began) {
        let (blocks, epoch) = volume.blocks_of_discard(id);
        let version = self.date_discard(volume);
        if let Some(ssd) = self.ssd() {
            let stretch = Stretch::new(volume, blocks.clone());
            ssd.void_range(stretch.first(), stretch.count(), version);
        }
        let prepared = self.before_write_below(volume);
        if let Err(cause) = prepared.and_then(|()| self.discard_now(volume, &blocks)) {
            return self.discard_failed(volume, id, began, &cause);
        }
        let mut dirty = volume.dirty.lock();
        let covered_by = dirty.syncs.started + 1;
        // A sync that failed meanwhile may have dropped what this gave to the device.
        let is_again = dirty.syncs.failures != began.sync_failures;
        dirty.fences.discard(id).step = if is_again { Step::Waiting } else { Step::Written { covered_by } };
        drop(dirty);
        if is_again {
            return self.go_on_behind_fences(volume);
        }
        self.lift_fence(volume, id, blocks, Some(epoch));
    }

    /// Has the device discard `blocks`, of which the SSD's copies are void.
    pub(super) fn discard_now(&self, volume: &VolumeState, blocks: &Range<u64>) -> Result<(), TierError> {
        let start = blocks.start << volume.block_shift;
        let end = volume.len_bytes.min(blocks.end << volume.block_shift);
        let result = discard_below(volume, start, end - start).map_err(Arc::new);
        self.note_below(volume);
        result
    }

    /// The log has the discard of a volume in mode `back-ssd`, as a tombstone; `destage` brings it below.
    fn log_discard(self: &Arc<Self>, volume: &Arc<VolumeState>, id: u64, began: Began) {
        let ssd = self.ssd().expect("a volume in this mode has an SSD");
        let (blocks, epoch) = volume.blocks_of_discard(id);
        let stretch = Stretch::new(volume, blocks.clone());
        let date = || self.date_discard(volume);
        let before = ssd.room();
        let result = ssd.put_tombstone(&stretch, date, volume.log_epoch(epoch));
        let mut dirty = volume.dirty.lock();
        match result {
            Ok(true) => {
                dirty.fences.discards.retain(|discard| discard.id != id);
                drop(dirty);
                self.lift_fence(volume, id, blocks, Some(epoch));
            }
            Ok(false) => {
                drop(dirty);
                let refused = RefusedDiscard { id, blocks, epoch, began, before };
                self.go_on_without_tombstone(volume, &ssd, refused);
            }
            Err(_) if ssd.is_off() => {
                drop(dirty);
                return self.discard_without_log(volume, id);
            }
            Err(cause) => {
                drop(dirty);
                return self.discard_failed(volume, id, began, &cause);
            }
        }
        self.start_destage(volume);
    }

    /// The SSD was switched off: the discard goes below when all that the log has is there.
    pub(super) fn discard_without_log(self: &Arc<Self>, volume: &Arc<VolumeState>, id: u64) {
        volume.dirty.lock().fences.discard(id).step = Step::PutOff;
        volume.fence_changed.notify_all();
        self.leave_log_if_off(volume, None);
        if volume.mode() != WriteMode::BackSsd {
            self.take_put_off(volume);
        }
    }

    /// The version of a discard that is run: higher than that of every copy from before its fence stood, and lower than
    /// that of every one from after it is lifted.
    pub(super) fn date_discard(&self, volume: &VolumeState) -> Version {
        let version = self.next_version();
        volume.raise_version(version);
        version
    }

    pub(super) fn discard_failed(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        id: u64,
        began: Began,
        cause: &TierError,
    ) {
        let mut dirty = volume.dirty.lock();
        dirty.fences.discard(id).step = Step::HeldBack;
        dirty.note_failure();
        let flushes = dirty.take_failed_flushes(began);
        let blocks = dirty.dirty_blocks();
        drop(dirty);
        volume.fence_changed.notify_all();
        self.tell_still_dirty(volume, flushes, blocks, cause);
        self.pump(volume);
    }

    /// A sync failed: discards that it should have covered are to be run again, and then all that was written below
    /// after them. Nobody wrote to those ranges and was synced since: a sync covers the discard with the write.
    pub(super) fn discard_again(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let mut again = Vec::new();
        {
            let mut guard = volume.dirty.lock();
            let dirty = &mut *guard;
            for index in 0..dirty.fences.discards.len() {
                if !matches!(dirty.fences.discards[index].step, Step::Written { .. }) {
                    continue;
                }
                let (id, epoch) = (dirty.fences.next_id(), dirty.epoch);
                let discard = &mut dirty.fences.discards[index];
                (discard.id, discard.epoch, discard.step) = (id, epoch, Step::Placing);
                again.push((id, discard.blocks.clone()));
                dirty.count_in(epoch, 1);
            }
        }
        for (id, blocks) in &again {
            let stretch = Stretch::new(volume, blocks.clone());
            self.place_discard(volume, *id, &stretch, |inner, shard, block, _| {
                inner.make_dirty_again(volume, shard, block);
                if shard.entry_of(block).is_some_and(|(_, entry)| entry.writing) {
                    // What it writes may be zeroed: its end finds that a sync failed meanwhile.
                    volume.dirty.lock().syncs.failures += 1;
                }
            });
        }
        let mut dirty = volume.dirty.lock();
        for (id, _) in again {
            dirty.fences.discard(id).step = Step::Waiting;
        }
        drop(dirty);
        self.go_on_behind_fences(volume);
    }
}

impl VolumeState {
    fn blocks_of_discard(&self, id: u64) -> (Range<u64>, u64) {
        let mut dirty = self.dirty.lock();
        let discard = dirty.fences.discard(id);
        (discard.blocks.clone(), discard.epoch)
    }

    /// `bytes` bytes from `offset` on: the parts of blocks at both ends, and the whole blocks between. The last block of
    /// the volume is whole when all of it that lies in the volume is.
    fn split_range(&self, offset: u64, bytes: u64) -> (Edges, Range<u64>) {
        let (end, shift) = (offset + bytes, self.block_shift);
        let first = offset.div_ceil(1 << shift);
        let last = if end == self.len_bytes { end.div_ceil(1 << shift) } else { end >> shift };
        if last <= first {
            // Both ends in one block, or in two neighbours.
            let middle = (first << shift).clamp(offset, end);
            let parts = [(offset, (middle - offset) as usize), (middle, (end - middle) as usize)];
            return (parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect(), 0..0);
        }
        let (start, stop) = (first << shift, (last << shift).min(end));
        let parts = [(offset, (start - offset) as usize), (stop, (end - stop) as usize)];
        (parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect(), first..last)
    }
}

/// Discards, or writes zeros where the device says that it cannot.
pub(super) fn discard_below(volume: &VolumeState, offset: u64, bytes: u64) -> terrace_tiers::Result<()> {
    let is_unsupported = |error: &terrace_tiers::Error| match error {
        terrace_tiers::Error::Device { source, .. } => source.kind() == io::ErrorKind::Unsupported,
        _ => false,
    };
    match volume.device.discard(offset, bytes) {
        Err(error) if is_unsupported(&error) => {}
        result => return result,
    }
    let zeros = PageBuf::zeroed(ZEROS_BYTES.min(bytes as usize));
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(zeros.len() as u64);
        let zeros = IoSlice::new(&zeros[..length as usize]);
        volume.lane.write_in_task(&*volume.device, offset + at, &[zeros])?;
        at += length;
    }
    Ok(())
}

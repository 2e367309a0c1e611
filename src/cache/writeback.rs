//! Write-back: how dirty blocks get below.
//!
//! A dirty block is *waiting*, then *writing* (its frame lent to one write below; newer writes go to a new frame and
//! make it dirty again), then *unsynced* until a sync that started after that write ended. Only then may it leave RAM.
//!
//! - Runs: waiting blocks are taken in address order, neighbours together; only sectors that were written go below.
//! - Void first (rule 1): before a run is written below, the SSD's journal is durable as far as it was when the run
//!   was planned.
//! - A write that fails makes its blocks dirty again. So does one that overlaps a sync that failed: what it gave to the
//!   device may have been dropped (rule 7).

use std::sync::Arc;

use smallvec::SmallVec;
use terrace_tiers::block::{BlockId, SECTOR_BYTES, Version, mask};
use terrace_tiers::ram::frames::FrameRef;

use super::dirty::{Began, Dirty, VolumeState};
use super::fence::Swept;
use super::fill::Runner;
use super::flush::FlushDone;
use super::index::Shard;
use super::mode::Route;
use super::write::WriteWaiter;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::{Error, TierError};
use crate::pool::{Lane, Priority, WritePiece, WriteRequest};
use crate::sync::Mutex;

/// A block lent to a write below.
pub(super) struct TakenBlock {
    pub(super) block: BlockId,
    pub(super) version: Version,
    pub(super) epoch: u64,
    /// The sectors that are written.
    pub(super) sectors: SmallVec<[u64; 1]>,
    /// The sectors that mean something in the frame.
    valid: SmallVec<[u64; 1]>,
    pub(super) frame: FrameRef,
}

impl TakenBlock {
    /// Whether all sectors of `wanted` are in the frame.
    pub(super) fn has(&self, wanted: &[u64]) -> bool {
        mask::covers(&self.valid, wanted)
    }

    /// The writes that this one ends, since it failed or has what they wrote; later ones stay.
    pub(super) fn take_waiters(&self, shard: &mut Shard, has_failed: bool) -> Vec<WriteWaiter> {
        let Some(waiters) = shard.write_waiters.remove(&self.block) else { return Vec::new() };
        let is_ended = |waiter: &WriteWaiter| has_failed || waiter.version <= self.version;
        let (ended, later): (Vec<_>, Vec<_>) = waiters.into_iter().partition(is_ended);
        if !later.is_empty() {
            shard.write_waiters.insert(self.block, later);
        }
        ended
    }
}

/// Neighbouring blocks that are written below together, or to the log.
pub(super) struct Group {
    pub(super) blocks: Vec<TakenBlock>,
    /// They go to the log.
    is_logged: bool,
    run_bytes_max: usize,
    /// Of what goes below: stretches of bytes without a hole, where each starts, and its pieces.
    runs: Vec<(u64, Vec<WritePiece>)>,
}

impl Inner {
    /// Takes those of `numbers` (ascending) that are dirty and not being written.
    pub(super) fn take_group(&self, volume: &VolumeState, numbers: &[u64]) -> Group {
        let route = volume.begin_route();
        let mut group = Group {
            blocks: Vec::with_capacity(numbers.len()),
            is_logged: route == Route::Log,
            run_bytes_max: self.limits.run_bytes_max,
            runs: Vec::new(),
        };
        for &number in numbers {
            let block = BlockId::new(volume.id, number);
            let mut shard = self.shard(block);
            let is_fenced = shard.is_fenced(block);
            let Some((_, entry)) = shard.entry_of(block) else { continue };
            if !entry.dirty || entry.writing {
                continue;
            }
            if is_fenced {
                volume.dirty.lock().put_behind_fence(number);
                continue;
            }
            if route == Route::Log {
                let mut dirty = volume.dirty.lock();
                if volume.must_keep_order(&dirty, entry.dirty_epoch) {
                    dirty.waiting.remove(&number);
                    dirty.later.insert(number);
                    continue;
                }
            }
            if route == Route::Changing && self.ssd().is_some_and(|ssd| ssd.holds_back(block)) {
                let mut dirty = volume.dirty.lock();
                dirty.waiting.remove(&number);
                dirty.put_off.insert(number);
                continue;
            }
            let frame = entry.frame.clone().expect("a dirty block has a frame");
            let (version, epoch) = (entry.version, entry.dirty_epoch);
            (entry.dirty, entry.writing) = (false, true);
            let masks = entry.sectors_mut(self.size);
            let sectors = SmallVec::from_slice(masks.dirty());
            let valid = SmallVec::from_slice(masks.valid());
            masks.dirty_mut().fill(0);
            drop(shard);
            if !group.is_logged {
                group.push_pieces(
                    block.byte_offset(self.size),
                    volume.bytes_of_block(number),
                    &sectors,
                    &frame,
                );
            }
            group.blocks.push(TakenBlock { block, version, epoch, sectors, valid, frame });
        }
        if group.is_logged && group.blocks.is_empty() {
            volume.end_logging();
        }
        group
    }

    /// Writes a group below, on this thread, and finishes it.
    pub(super) fn run_group(self: &Arc<Self>, volume: &Arc<VolumeState>, group: Group, priority: Priority) {
        if group.is_logged {
            return self.log_group(volume, group, priority);
        }
        self.submit_group(volume, group, priority, Lane::run_write);
    }

    /// Gives the runs of a group to `submit`; the last one that ends finishes it.
    fn submit_group(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        group: Group,
        priority: Priority,
        submit: fn(&Lane, WriteRequest),
    ) {
        self.void_destaged(volume, &group.blocks);
        if let Err(error) = self.before_write_below(volume) {
            let began = volume.dirty.lock().begin();
            return self.finish_group(volume, &group.blocks, began, Err(error));
        }
        self.submit_runs(volume, group, priority, submit);
    }

    /// The same of what may go below now.
    pub(super) fn submit_runs(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        group: Group,
        priority: Priority,
        submit: fn(&Lane, WriteRequest),
    ) {
        let under_way = Arc::new(GroupUnderWay {
            blocks: group.blocks,
            began: volume.dirty.lock().begin(),
            left: Mutex::new((group.runs.len(), Ok(()))),
        });
        for (offset, pieces) in group.runs {
            let (inner, volume_again, under_way) = (self.clone(), volume.clone(), under_way.clone());
            let done = Box::new(move |result| {
                if let Some(result) = under_way.run_ended(result) {
                    inner.finish_group(&volume_again, &under_way.blocks, under_way.began, result);
                }
            });
            let device = volume.device.clone();
            submit(&volume.lane, WriteRequest { priority, device, offset, pieces, done });
        }
    }

    /// The writes of a group ended.
    pub(super) fn finish_group(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        blocks: &[TakenBlock],
        began: Began,
        result: Result<(), TierError>,
    ) {
        self.note_below(volume);
        let mut acknowledged = Vec::new();
        let mut again = Vec::new();
        let (mut any_passed, mut unwanted, mut swept) = (false, 0, Swept::default());
        for taken in blocks {
            let mut shard = self.shard(taken.block);
            let size = self.size;
            let (slot, entry) = shard.entry_of(taken.block).expect("a block that is being written stays");
            entry.writing = false;
            if entry.is_void_write || entry.is_forgotten {
                unwanted += 1;
                self.finish_unwanted_write(volume, &mut shard, taken.block, taken.epoch, &mut swept);
                continue;
            }
            let passes = entry.passes && !entry.is_pinned() && !entry.filling;
            let masks = entry.sectors_mut(size);
            let mut dirty = volume.dirty.lock();
            // A sync that failed meanwhile may have dropped what this write gave to the device.
            let is_below = result.is_ok() && dirty.syncs.failures == began.sync_failures;
            // What a discard that is run again would take with it stays until that is synced.
            let has_passed = is_below && passes && dirty.fences.discards.is_empty();
            if has_passed {
                dirty.syncs.passed.insert(taken.block.number());
                dirty.count_in(taken.epoch, -1);
            } else if is_below {
                mask::add(masks.unsynced_mut(), &taken.sectors);
                let covered_by = dirty.syncs.started + 1;
                if !entry.unsynced || entry.covered_by != covered_by {
                    dirty.syncs.unsynced.push((taken.block.number(), covered_by));
                }
                (entry.unsynced, entry.covered_by) = (true, covered_by);
                dirty.count_in(taken.epoch, -1);
            } else {
                mask::add(masks.dirty_mut(), &taken.sectors);
                if entry.dirty {
                    dirty.count_in(entry.dirty_epoch, -1);
                }
                (entry.dirty, entry.dirty_epoch) = (true, taken.epoch);
            }
            if result.is_err() && blocks.len() == 1 {
                dirty.hold_back(taken.block.number());
            } else if entry.dirty {
                dirty.held_back.remove(&taken.block.number());
                dirty.waiting.insert(taken.block.number());
            }
            let is_dirty = entry.dirty;
            dirty.fences.write_ended(taken.block.number());
            drop(dirty);
            any_passed |= has_passed;
            if has_passed {
                shard.settle_entry(slot);
                swept.wakes.append(&mut self.throttle.remove());
            }
            acknowledged.extend(taken.take_waiters(&mut shard, result.is_err()));
            if shard.write_waiters.contains_key(&taken.block) {
                debug_assert!(is_dirty, "a later write to {} is not dirty", taken.block);
                again.push(taken.block.number());
            }
        }
        swept.finish(self);
        if any_passed {
            self.announce_release();
        }
        self.go_on_behind_fences(volume);
        for waiter in acknowledged {
            waiter.deliver(result.clone());
        }
        match result {
            Err(cause) if unwanted < blocks.len() => {
                self.after_failed_group(volume, blocks.len() as u64, began, &cause);
            }
            _ => self.after_group(volume),
        }
        if !again.is_empty() {
            self.write_back_blocks(volume, &again, Runner::Pool(Priority::Awaited));
        }
    }

    /// Blocks are below, or in the log: goes on with the flushes that waited for them, starts a sync if one is due.
    pub(super) fn after_group(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let mut dirty = volume.dirty.lock();
        if dirty.held_back.is_empty() {
            dirty.failure = None;
        }
        let (logged, starts) = self.take_ended_flushes(volume, &mut dirty);
        drop(dirty);
        if starts {
            self.start_sync(volume);
        }
        logged.into_iter().for_each(|done| done(Ok(())));
        self.sync_if_due(volume);
    }

    /// So many blocks are as dirty as before: notes the failure, tells the flushes that were there when the write of them
    /// began.
    pub(super) fn after_failed_group(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        blocks: u64,
        began: Began,
        cause: &TierError,
    ) {
        let mut dirty = volume.dirty.lock();
        if blocks > 1 {
            dirty.careful_runs = 2 * blocks;
        } else {
            dirty.note_failure();
        }
        let failed = dirty.take_failed_flushes(began);
        let blocks = dirty.dirty_blocks();
        drop(dirty);
        self.tell_still_dirty(volume, failed, blocks, cause);
        self.pump(volume);
        self.sync_if_due(volume);
    }

    /// These flushes failed, and all that they waited for is tried again.
    pub(super) fn tell_still_dirty(
        &self,
        volume: &Arc<VolumeState>,
        flushes: Vec<FlushDone>,
        blocks: u64,
        cause: &TierError,
    ) {
        for done in flushes {
            let (volume, cause) = (volume.name.clone(), cause.clone());
            done(Err(Error::StillDirty { volume, blocks, cause }));
        }
        self.ticker.watch(volume);
    }

    /// Takes the flushes that wait for no block any more: those that are done, and whether a sync is to be started, for
    /// which the others wait.
    #[must_use]
    pub(super) fn take_ended_flushes(
        &self,
        volume: &VolumeState,
        dirty: &mut Dirty,
    ) -> (Vec<FlushDone>, bool) {
        let is_logged = volume.mode() == WriteMode::BackSsd;
        let logged = if is_logged { dirty.take_logged_flushes() } else { Vec::new() };
        (logged, dirty.await_sync_of_written())
    }

    /// Writes these blocks (ascending) below now, those that are dirty and not being written already.
    pub(super) fn write_back_blocks(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        numbers: &[u64],
        runner: Runner,
    ) {
        let group = self.take_group(volume, numbers);
        if group.blocks.is_empty() {
            return;
        }
        {
            let mut dirty = volume.dirty.lock();
            for taken in &group.blocks {
                dirty.waiting.remove(&taken.block.number());
                dirty.held_back.remove(&taken.block.number());
                dirty.put_off.remove(&taken.block.number());
                dirty.later.remove(&taken.block.number());
                dirty.fences.fenced.remove(&taken.block.number());
            }
        }
        match runner {
            Runner::Caller => self.run_group(volume, group, Priority::Foreground),
            Runner::Near => unreachable!("it is of reads alone"),
            // Neighbours that other calls write meanwhile go along.
            Runner::Pool(priority) if !self.must_prepare_write(volume) && !group.is_logged => {
                self.submit_group(volume, group, priority, Lane::write);
            }
            Runner::Pool(priority) => {
                let (inner, volume_again) = (self.clone(), volume.clone());
                volume.lane.task(priority, Box::new(move || inner.run_group(&volume_again, group, priority)));
            }
        }
    }
}

/// A group whose runs are with the pool.
struct GroupUnderWay {
    blocks: Vec<TakenBlock>,
    began: Began,
    /// Runs that have not ended, and what the others came to.
    left: Mutex<(usize, Result<(), TierError>)>,
}

impl GroupUnderWay {
    /// What the group came to, when this was its last run.
    fn run_ended(&self, result: Result<(), TierError>) -> Option<Result<(), TierError>> {
        let mut left = self.left.lock();
        left.0 -= 1;
        if result.is_err() {
            left.1 = result;
        }
        (left.0 == 0).then(|| left.1.clone())
    }
}

impl Group {
    /// Of nothing yet, for the backing store, in runs of so many bytes.
    pub(super) fn for_below(run_bytes_max: usize) -> Self {
        Self { blocks: Vec::new(), is_logged: false, run_bytes_max, runs: Vec::new() }
    }

    /// Adds these sectors of the block that starts at `block_start` and has so many bytes in its volume.
    pub(super) fn push_pieces(&mut self, block_start: u64, bytes: usize, sectors: &[u64], frame: &FrameRef) {
        for run in mask::runs(sectors, frame.len() / SECTOR_BYTES) {
            let range = run.start * SECTOR_BYTES..(run.end * SECTOR_BYTES).min(bytes);
            self.push_piece(block_start, WritePiece { frame: frame.clone(), range });
        }
    }

    /// Adds bytes of the block that starts at `block_start`: to the last run, if they follow it.
    fn push_piece(&mut self, block_start: u64, piece: WritePiece) {
        let offset = block_start + piece.range.start as u64;
        if let Some((start, pieces)) = self.runs.last_mut() {
            let bytes: usize = pieces.iter().map(|piece| piece.range.len()).sum();
            if *start + bytes as u64 == offset && bytes + piece.range.len() <= self.run_bytes_max {
                pieces.push(piece);
                return;
            }
        }
        self.runs.push((offset, vec![piece]));
    }
}

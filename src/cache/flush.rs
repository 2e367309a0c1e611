//! Syncs and flushes: how what was written below becomes durable there, and who is told.
//!
//! - Syncs are shared: a sync that has started covers only what ended before; whoever comes later waits for the next.
//! - The first flush of a volume syncs whatever it finds: a process that died may have left writes below that were
//!   acknowledged and not synced, and whoever asks now means them too.
//! - A sync that fails makes all that it should have covered dirty again: it is written again before the next sync, and
//!   a failed sync is never taken for a success because a second one succeeds (rule 7). So every flush that waits then
//!   fails, whichever sync it waits for.

use std::sync::Arc;

use smallvec::SmallVec;
use terrace_tiers::block::{BlockId, mask};

use super::dirty::VolumeState;
use super::fill::Runner;
use super::index::Shard;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::Error;
use crate::pool::Priority;
use crate::sync::atomic::Ordering;
use crate::sync::{Blocker, wake_all};

/// A sync is due when so many blocks that `around` writes wrote wait for one: the books of them stay small.
const PASSED_MAX: usize = 4096;

/// The end of a flush.
pub(super) type FlushDone = Box<dyn FnOnce(Result<()>) + Send>;

impl Inner {
    /// Flushes all that is dirty, one volume after the other, and then runs `done`.
    pub(super) fn flush_watched(self: &Arc<Self>, done: FlushDone) {
        let mut volumes = self.ticker.watched_volumes();
        volumes.retain(|volume| !volume.dirty.lock().is_clean());
        let Some(volume) = volumes.pop() else { return done(Ok(())) };
        let inner = self.clone();
        let next: FlushDone = Box::new(move |result| match result {
            Ok(()) => inner.flush_watched(done),
            Err(error) => done(Err(error)),
        });
        self.flush_open(&volume, Runner::Pool(Priority::Awaited), next);
    }

    /// Starts a sync when blocks wait for one to leave RAM, and someone waits for them or many are.
    pub(super) fn sync_if_due(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let dirty = volume.dirty.lock();
        let unsynced = dirty.unsynced_blocks();
        if unsynced == 0 || dirty.syncs.is_running {
            return;
        }
        let all_written = dirty.waiting.is_empty() && dirty.writing_runs == 0;
        let is_half = unsynced * 2 >= self.throttle.pinned_blocks();
        let is_due = if self.throttle.is_urgent() {
            all_written || is_half
        } else {
            dirty.syncs.passed.len() >= PASSED_MAX || self.throttle.is_over_low() && is_half
        };
        drop(dirty);
        if is_due && self.is_continuous() {
            self.sync_volume(volume, Box::new(|_| ()));
        }
    }

    /// Syncs the backing store; `done` runs when a sync that started after this call has ended.
    pub(super) fn sync_volume(self: &Arc<Self>, volume: &Arc<VolumeState>, done: FlushDone) {
        let starts = volume.dirty.lock().await_sync(done);
        if starts {
            self.start_sync(volume);
        }
    }

    pub(super) fn start_sync(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let (inner, volume_again) = (self.clone(), volume.clone());
        volume.lane.task(Priority::Awaited, Box::new(move || inner.run_sync(&volume_again)));
    }

    fn run_sync(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let (through, number, mut covered, mut passed) = {
            let mut dirty = volume.dirty.lock();
            let syncs = &mut dirty.syncs;
            syncs.started += 1;
            syncs.covers_blocks = !(syncs.unsynced.is_empty() && syncs.passed.is_empty());
            syncs.is_behind = false;
            let through = self.last_version();
            (through, syncs.started, std::mem::take(&mut syncs.unsynced), std::mem::take(&mut syncs.passed))
        };
        let result = volume.device.sync().map_err(Arc::new);
        self.counters.disk_syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &result {
            // Writes that ended while it ran are no safer than those before it.
            let mut dirty = volume.dirty.lock();
            dirty.syncs.failures += 1;
            covered.append(&mut dirty.syncs.unsynced);
            passed.append(&mut dirty.syncs.passed);
            dirty.note_lost(passed.clone(), error);
            drop(dirty);
            self.drop_lost(volume, &passed);
        }
        covered.sort_unstable();
        covered.dedup();
        for &(block, _) in &covered {
            self.finish_synced(volume, BlockId::new(volume.id, block), number, result.is_ok());
        }
        if result.is_err() {
            self.discard_again(volume);
        }
        let mut dirty = volume.dirty.lock();
        dirty.syncs.covers_blocks = false;
        if result.is_ok() {
            dirty.fences.synced(number);
            if dirty.syncs.failures == 0 {
                dirty.syncs.synced_through = through;
            }
        }
        let (mut ready, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut dirty.syncs.waiting)
            .into_iter()
            .partition(|(wanted, _)| *wanted <= number || result.is_err());
        dirty.syncs.waiting = rest;
        if result.is_err() {
            // They too cover blocks that are dirty again, in an epoch after theirs.
            ready.append(&mut dirty.flushes);
            dirty.note_failure();
        }
        let goes_on = !dirty.syncs.waiting.is_empty();
        dirty.syncs.is_running = goes_on;
        let blocks = dirty.dirty_blocks();
        drop(dirty);
        for (_, done) in ready {
            done(match &result {
                Ok(()) => Ok(()),
                Err(cause) => {
                    Err(Error::StillDirty { volume: volume.name.clone(), blocks, cause: cause.clone() })
                }
            });
        }
        if goes_on {
            self.start_sync(volume);
        }
        if result.is_err() {
            self.ticker.watch(volume);
        }
        if !covered.is_empty() {
            self.announce_release();
        }
        self.pump(volume);
    }

    /// A sync that should have covered `block` ended.
    fn finish_synced(self: &Arc<Self>, volume: &Arc<VolumeState>, block: BlockId, number: u64, is_ok: bool) {
        let mut shard = self.shard(block);
        let size = self.size;
        let Some((slot, entry)) = shard.entry_of(block) else { return };
        // Written again since the sync started: the next one covers it. But not the sectors that only this one had.
        if !entry.unsynced || is_ok && entry.covered_by > number {
            return;
        }
        if !is_ok {
            return self.make_dirty_again(volume, &mut shard, block);
        }
        entry.unsynced = false;
        let masks = entry.sectors_mut(size);
        masks.unsynced_mut().fill(0);
        if entry.is_pinned() {
            return;
        }
        shard.settle_entry(slot);
        drop(shard);
        wake_all(self.throttle.remove());
    }

    /// What a failed sync left undone of `block` is unknown: it is written again before the next one (rule 7).
    pub(super) fn make_dirty_again(&self, volume: &VolumeState, shard: &mut Shard, block: BlockId) {
        let size = self.size;
        let Some((_, entry)) = shard.entry_of(block).filter(|(_, entry)| entry.unsynced) else { return };
        entry.unsynced = false;
        let is_dirty = entry.dirty;
        let masks = entry.sectors_mut(size);
        let unsynced: SmallVec<[u64; 4]> = SmallVec::from_slice(masks.unsynced());
        mask::add(masks.dirty_mut(), &unsynced);
        masks.unsynced_mut().fill(0);
        if !is_dirty {
            let epoch = volume.dirty.lock().mark(block.number());
            (entry.dirty, entry.dirty_epoch) = (true, epoch);
        }
        volume.dirty.lock().hold_back(block.number());
    }

    /// Runs `done` when every write acknowledged before this call is durable below.
    pub(super) fn flush(self: &Arc<Self>, volume: &Arc<VolumeState>, done: FlushDone) {
        if let Err(error) = self.check_volume(volume) {
            return done(Err(error));
        }
        self.flush_open(volume, Runner::Pool(Priority::Awaited), done);
    }

    pub(super) fn flush_open(self: &Arc<Self>, volume: &Arc<VolumeState>, runner: Runner, done: FlushDone) {
        let Some(done) = self.leave_log_if_off(volume, Some(done)) else { return };
        let bad = self.bad_in_log(volume).len() as u64;
        let bad = (bad > 0).then(|| volume.unreadable_error(bad));
        let mut dirty = volume.dirty.lock();
        let done = match dirty.lost_error(&volume.name).or(bad) {
            Some(error) => Box::new(move |result: Result<()>| done(result.and(Err(error)))),
            None => done,
        };
        let epoch = dirty.close_epoch();
        dirty.end_pause();
        if dirty.is_written(epoch) {
            let is_logged = volume.mode() == WriteMode::BackSsd && dirty.is_log_enough();
            if is_logged || !dirty.needs_sync() && dirty.syncs.is_all_covered() {
                drop(dirty);
                return done(Ok(()));
            }
            let starts = dirty.await_sync(done);
            drop(dirty);
            if starts {
                self.start_sync(volume);
            }
            return;
        }
        dirty.flushes.push((epoch, done));
        drop(dirty);
        if volume.mode() == WriteMode::BackSsd && matches!(runner, Runner::Caller) {
            self.log_here(volume, epoch);
        }
        self.pump(volume);
    }

    pub(super) fn flush_blocking(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        self.check_volume(volume)?;
        self.flush_while_closing(volume)
    }

    /// A blocking flush that also works while the cache closes.
    pub(super) fn flush_while_closing(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        let blocker = Arc::new(Blocker::default());
        let set = blocker.clone();
        self.flush_open(volume, Runner::Caller, Box::new(move |result| set.set(result)));
        blocker.wait()
    }
}

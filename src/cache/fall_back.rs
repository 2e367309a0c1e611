//! What becomes of a volume in mode `back-ssd` when its SSD is switched off, and of blocks that nobody can read any more.
//!
//! The log takes nothing from then on. What it has goes below as far as it can be read, and then the volume goes on in
//! mode `back`:
//!
//! ```text
//! switch_off -> leave_log: blocks that were to go to the log wait (`put_off`), destage runs to its end
//!            -> log_left:  mode `back`; what waited goes below, and flushes are done when that is synced there
//! ```
//!
//! Invariants, which `tests/ssd_faults.rs` holds:
//! 1. Nothing newer goes below before all that the log had of the volume is there, or is known to be unreadable: so no
//!    destage writes over it.
//! 2. A flush that is called, or waits, after the SSD was switched off is done when the backing store is synced.
//! 3. A block that only the log had and that cannot be read is *lost*: reading it is an error and never an older copy, and
//!    every flush says so, until it is written whole, discarded or forgotten. One that is whole in RAM is not lost.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use terrace_tiers::block::{BlockId, mask};

use super::dirty::VolumeState;
use super::fill::Runner;
use super::flush::FlushDone;
use super::mode::Route;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::Error;
use crate::pool::Priority;
use crate::sync::atomic::Ordering;

impl Inner {
    /// The SSD was switched off.
    pub(super) fn leave_logs(self: &Arc<Self>) {
        for volume in self.volumes() {
            self.leave_log_if_off(&volume, None);
        }
    }

    /// Has the volume leave a log that takes nothing any more; `flush` goes on when it has. Otherwise gives it back.
    pub(super) fn leave_log_if_off(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        flush: Option<FlushDone>,
    ) -> Option<FlushDone> {
        let is_off = volume.mode() == WriteMode::BackSsd && self.ssd_in_use().is_none();
        if !is_off {
            return flush;
        }
        let mut destage = volume.destage.lock();
        destage.flushes.extend(flush);
        if std::mem::replace(&mut destage.is_leaving, true) {
            return None;
        }
        let (inner, volume_again) = (self.clone(), volume.clone());
        destage.drains.push(Box::new(move |drained| inner.log_left(&volume_again, &drained)));
        drop(destage);
        self.start_destage(volume);
        None
    }

    /// The log has nothing of the volume any more that can be read; or something could not be written below.
    fn log_left(self: &Arc<Self>, volume: &Arc<VolumeState>, drained: &Result<()>) {
        if drained.is_ok() {
            self.go_on_without_log(volume);
        }
        let flushes = {
            let mut destage = volume.destage.lock();
            destage.is_leaving = false;
            std::mem::take(&mut destage.flushes)
        };
        // After a failure the ticker has it tried again.
        self.ticker.watch(volume);
        for done in flushes {
            match drained {
                Ok(()) => self.flush_open(volume, Runner::Pool(Priority::Awaited), done),
                Err(error) => done(Err(error.clone())),
            }
        }
        self.pump(volume);
    }

    fn go_on_without_log(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let Some(ssd) = self.ssd() else { return };
        let bad = ssd.with(|tier| tier.bad_blocks_of(volume.id));
        let is_lost = |block: &BlockId| {
            let mask = ssd.dirty_mask(*block);
            mask.is_some_and(|mask| !self.write_from_ram(volume, *block, &mask))
        };
        let lost: BTreeSet<u64> = bad.into_iter().filter(is_lost).map(|block| block.number()).collect();
        let mut dirty = volume.dirty.lock();
        volume.has_unreadable.store(!lost.is_empty(), Ordering::SeqCst);
        dirty.unreadable = lost;
        volume.set_mode(WriteMode::Back);
        // Who waits means what the log had too, and that is dirty in RAM only since now.
        let epoch = dirty.close_epoch();
        dirty.flushes.iter_mut().for_each(|(wanted, _)| *wanted = epoch);
        volume.set_route(Route::Below);
        volume.fence_changed.notify_all();
        dirty.fences.take_put_off();
        let mut put_off = std::mem::take(&mut dirty.put_off);
        dirty.waiting.append(&mut put_off);
        let flushes =
            if dirty.unreadable.is_empty() { Vec::new() } else { std::mem::take(&mut dirty.flushes) };
        let error = dirty.lost_error(&volume.name);
        drop(dirty);
        for (_, done) in flushes {
            done(error.clone().map_or(Ok(()), Err));
        }
    }

    /// Makes the sectors of `mask` dirty in RAM, if they are all there: they are as new as those of the log.
    fn write_from_ram(&self, volume: &VolumeState, block: BlockId, mask: &[u64]) -> bool {
        let size = self.size;
        let mut shard = self.shard(block);
        let Some((_, entry)) = shard.entry_of(block) else { return false };
        if !mask::runs(mask, size.sectors()).all(|run| entry.has(run)) {
            return false;
        }
        let was_pinned = entry.is_pinned();
        mask::add(entry.sectors_mut(size).dirty_mut(), mask);
        if !entry.dirty {
            let epoch = volume.dirty.lock().mark(block.number());
            (entry.dirty, entry.dirty_epoch) = (true, epoch);
        }
        if !was_pinned {
            self.throttle.add();
        }
        true
    }

    /// See [`super::Volume::lost_blocks`].
    pub(super) fn lost_blocks(&self, volume: &VolumeState) -> Vec<u64> {
        let mut lost: BTreeSet<u64> =
            self.bad_in_log(volume).into_iter().map(|block| block.number()).collect();
        let dirty = volume.dirty.lock();
        lost.extend(dirty.unreadable.iter().chain(&dirty.syncs.lost));
        lost.into_iter().collect()
    }

    /// Blocks that only the log has, and that it cannot give.
    pub(super) fn bad_in_log(&self, volume: &VolumeState) -> Vec<BlockId> {
        let ssd = self.ssd().filter(|ssd| ssd.has_bad.load(Ordering::Relaxed));
        let ssd = ssd.filter(|_| volume.mode() == WriteMode::BackSsd);
        ssd.map_or(Vec::new(), |ssd| ssd.with(|tier| tier.bad_blocks_of(volume.id)))
    }
}

impl VolumeState {
    /// Whether `block` was only on an SSD that cannot be read.
    pub(super) fn is_unreadable(&self, block: BlockId) -> bool {
        self.has_unreadable.load(Ordering::SeqCst) && self.dirty.lock().unreadable.contains(&block.number())
    }

    /// These blocks have new content, or none.
    pub(super) fn make_readable(&self, blocks: &Range<u64>) {
        if !self.has_unreadable.load(Ordering::SeqCst) {
            return;
        }
        let mut dirty = self.dirty.lock();
        dirty.unreadable.retain(|number| !blocks.contains(number));
        self.has_unreadable.store(!dirty.unreadable.is_empty(), Ordering::SeqCst);
    }

    pub(super) fn unreadable_error(&self, blocks: u64) -> Error {
        Error::LostWithSsd { volume: self.name.clone(), blocks }
    }
}

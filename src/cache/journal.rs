//! The journal and the checkpoint of the SSD.
//!
//! The journal is written by whoever needs it durable; the others wait for that one (group commit). One that cannot be
//! written switches the SSD off: voids could no longer be made durable. It stays off until the cache is opened again; its
//! file says that it was not closed in order.

use std::sync::Arc;

use terrace_tiers::ssd::{JournalPlan, JournalSeq};

use super::ssd::{SsdState, SsdTier};
use super::{Inner, Result};
use crate::error::TierError;
use crate::pool::Priority;
use crate::stats::SsdFailure;
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;

/// The checkpoint's own, and one for each copy of the superblock.
const SYNCS_A_CHECKPOINT: u64 = 3;

impl SsdTier {
    /// Makes the journal durable up to `through`, or as far as it is now. Whether that took a sync of this call's own,
    /// which then covers all that was written before the call as well.
    pub(super) fn make_durable(&self, through: Option<JournalSeq>) -> Result<bool, TierError> {
        let mut has_synced = false;
        let mut state = self.state.lock();
        let Some(through) = through.or_else(|| state.tier.journal_pending()) else { return Ok(false) };
        while state.tier.journal_durable() < through {
            if self.is_off() {
                return Ok(false);
            }
            if state.journal_is_writing {
                self.changed.wait(&mut state);
                continue;
            }
            state.journal_is_writing = true;
            let result = match state.tier.plan_journal() {
                JournalPlan::Nothing => {
                    state.journal_is_writing = false;
                    self.changed.notify_all();
                    return Ok(has_synced);
                }
                JournalPlan::Write(write) => {
                    drop(state);
                    let result = write.run(&*self.device);
                    self.syncs.fetch_add(1, Ordering::Relaxed);
                    state = self.state.lock();
                    state.tier.finish_journal(&write, result.is_ok());
                    has_synced = result.is_ok();
                    result
                }
                JournalPlan::Full => {
                    state.journal_is_writing = false;
                    self.changed.notify_all();
                    drop(state);
                    // No checkpoint absorbs anything before.
                    self.finish_scan();
                    self.run_checkpoint(false)?;
                    state = self.state.lock();
                    continue;
                }
            };
            state.journal_is_writing = false;
            self.changed.notify_all();
            if let Err(error) = result {
                drop(state);
                self.note(SsdFailure::Journal, false);
                return Err(Arc::new(error));
            }
        }
        Ok(has_synced)
    }

    /// Whether the journal is filling up, and no checkpoint is under way.
    pub(super) fn wants_checkpoint(&self) -> bool {
        let state = self.state.lock();
        !state.checkpoint_is_running && state.tier.wants_checkpoint()
    }

    pub(super) fn wait_for_checkpoint(&self) {
        let mut state = self.state.lock();
        while state.checkpoint_is_running {
            self.changed.wait(&mut state);
        }
    }

    /// Writes a checkpoint, or waits for the one that is under way; one of a closed file is always written.
    pub(super) fn run_checkpoint(&self, is_clean: bool) -> Result<(), TierError> {
        let mut state = self.state.lock();
        while state.checkpoint_is_running {
            self.changed.wait(&mut state);
            if !is_clean && !state.checkpoint_is_running {
                return Ok(());
            }
        }
        self.write_checkpoint(state, is_clean)
    }

    pub(super) fn write_checkpoint(
        &self,
        mut state: MutexGuard<'_, SsdState>,
        is_clean: bool,
    ) -> Result<(), TierError> {
        state.checkpoint_is_running = true;
        // What it writes is part of the checkpoint, or comes after it.
        while state.journal_is_writing {
            self.changed.wait(&mut state);
        }
        let plan = state.tier.plan_checkpoint(is_clean);
        drop(state);
        let result = plan.run(&*self.device);
        self.syncs.fetch_add(SYNCS_A_CHECKPOINT, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.tier.finish_checkpoint(plan, result.is_ok());
        state.checkpoint_is_running = false;
        self.changed.notify_all();
        drop(state);
        result.map_err(|error| {
            self.note(SsdFailure::Checkpoint, false);
            Arc::new(error)
        })
    }
}

impl Inner {
    /// Every void that was asked for so far is durable on the SSD, unless that fails and is switched off.
    pub(super) fn make_voids_durable(self: &Arc<Self>) {
        let Some(ssd) = self.ssd_in_use() else { return };
        // An SSD that fails here is switched off, and its file is not one that was closed in order: the backing store
        // has changed since, so its clean copies are not believed again.
        if ssd.make_durable(None).is_ok() && ssd.wants_checkpoint() {
            let lane = ssd.lane.clone();
            // A failure has switched the SSD off.
            let job = move || drop(ssd.run_wanted_checkpoint());
            lane.task(Priority::Background, Box::new(job));
        }
    }
}

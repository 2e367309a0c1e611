//! Clean copies of an opened cache file are found again while the cache serves.
//!
//! A few tasks on the SSD's lane read summaries, a handful a task, so that readers' requests go between. Without work in
//! the background they are read in `settle`. Whoever cannot go on before all are read (a full journal, a close) reads
//! along: it may be on the lane's only thread. The one that finishes the last does what waited for it: a checkpoint that
//! takes the place of the journal, the reclaim of segments, blocks that found no room in the log.

use std::sync::Arc;

use terrace_tiers::ssd::{ScanPlan, Ssd};

use super::Inner;
use super::dirty::VolumeState;
use super::ssd::SsdTier;
use crate::error::TierError;
use crate::pool::Priority;
use crate::sync::Wake;
use crate::sync::atomic::Ordering;

/// Tasks that read summaries at once: one waits for the device while others judge what was read.
// 4: with fewer a device of 100 us a read keeps two processors idle, with more readers wait longer for the lock.
const SCANS: u32 = 4;

impl SsdTier {
    /// Returns when all summaries are read, or the SSD is off; reads along.
    pub(super) fn finish_scan(&self) {
        while let Some(plan) = self.next_scan() {
            self.run_scan(&plan);
        }
    }

    /// Summaries that nobody reads yet; none when all are read.
    fn next_scan(&self) -> Option<ScanPlan> {
        let mut state = self.state.lock();
        while state.tier.is_scanning() && !self.is_off() {
            let plan = state.tier.plan_scan();
            if plan.is_some() {
                return plan;
            }
            self.changed.wait(&mut state);
        }
        None
    }

    fn run_scan(&self, plan: &ScanPlan) {
        let mut scanned = plan.run(&*self.device);
        let (mut install, mut is_over) = (None, false);
        loop {
            install = self.with(|tier| {
                install.take().into_iter().for_each(|done| tier.finish_install(done));
                let next = tier.plan_install(&mut scanned);
                is_over = !tier.is_scanning();
                next
            });
            let Some(install) = &mut install else { break };
            install.run();
        }
        // Who waits for the end may have more to read: ghosts come one frame after the other.
        self.changed.notify_all();
        if is_over {
            let when_scanned = self.when_scanned.lock().take();
            when_scanned.into_iter().for_each(|wake: Wake| wake());
        }
    }

    /// Writes a checkpoint if one is wanted.
    pub(super) fn run_wanted_checkpoint(&self) -> Result<(), TierError> {
        let state = self.state.lock();
        if state.checkpoint_is_running || !state.tier.wants_checkpoint() {
            return Ok(());
        }
        self.write_checkpoint(state, false)
    }
}

impl Inner {
    /// Starts to find what the cache file holds; `prepares` when it is to be written through afterwards.
    pub(super) fn start_scan(self: &Arc<Self>, ssd: &Arc<SsdTier>, prepares: bool) {
        if !ssd.with(|tier| tier.is_scanning()) {
            return;
        }
        let weak = (Arc::downgrade(self), Arc::downgrade(ssd));
        *ssd.when_scanned.lock() = Some(Box::new(move || {
            if let (Some(inner), Some(ssd)) = (weak.0.upgrade(), weak.1.upgrade()) {
                inner.after_scan(&ssd, prepares);
            }
        }));
        if self.is_continuous() {
            (0..SCANS.min(self.limits.ssd_threads)).for_each(|_| self.queue_scan(ssd));
        }
    }

    /// A task for some of the summaries, which goes on with the next when the lane has nothing more urgent.
    fn queue_scan(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        let (inner, ssd_of_job) = (self.clone(), ssd.clone());
        let job = move || {
            let ssd = ssd_of_job;
            let Some(plan) = ssd.with(Ssd::plan_scan).filter(|_| !ssd.is_off()) else { return };
            ssd.run_scan(&plan);
            // Whoever closes the cache reads the rest.
            if !inner.closed.load(Ordering::Relaxed) {
                inner.queue_scan(&ssd);
            }
        };
        ssd.lane.task(Priority::Background, Box::new(job));
    }

    fn after_scan(self: &Arc<Self>, ssd: &Arc<SsdTier>, prepares: bool) {
        // A failure has switched the SSD off.
        if ssd.is_off() || ssd.run_wanted_checkpoint().is_err() {
            return;
        }
        self.start_reclaim_early(ssd);
        self.ticker.watched_volumes().iter().for_each(|volume| self.take_put_off(volume));
        if prepares {
            self.start_preparing(ssd);
        }
    }

    /// Blocks of `volume` found no room in the log, which gives nothing back before the scan is over. Whoever ends it takes
    /// them up again, but may just have looked.
    pub(super) fn retry_after_scan(self: &Arc<Self>, volume: &Arc<VolumeState>, ssd: &SsdTier) {
        if !self.is_continuous() {
            ssd.finish_scan();
        }
        if !ssd.with(|tier| tier.is_recovering()) {
            self.take_put_off(volume);
        }
    }
}

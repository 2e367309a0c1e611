//! Blocks that leave RAM go to the SSD.
//!
//! A block that leaves RAM gets its place in the log at once, under the lock of its shard, and its frame queues for the
//! write: until that is done the block is read from the frame. Workers take what queued meanwhile as one write, so the
//! batches grow as the SSD falls behind. When too much is queued the demotion is dropped and counted: SSD writes never
//! delay a read.
//!
//! An SSD that fails an append loses those blocks, which the backing store has; one that fails many of them in a row is
//! switched off.
use std::sync::Arc;

use terrace_tiers::device::PageBuf;
use terrace_tiers::ram::frames::FrameRef;
use terrace_tiers::ssd::{self, Demote, SlotPlan, Ssd};

use super::index::Departed;
use super::ssd::{SsdState, SsdTier};
use super::{Inner, Result};
use crate::pool::Priority;
use crate::stats::SsdFailure;
use crate::sync::atomic::Ordering;

/// An append takes at most so many bytes: what was just summed is still at hand for the write (bench ssd/append).
pub(super) const APPEND_BYTES_MAX: usize = 512 << 10;

/// Appends under way at once: with fewer the SSD idles while checksums are made (bench ssd/append).
const APPENDS_MAX: u32 = 5;

/// Another append starts when so many blocks are queued.
const APPEND_BLOCKS_MIN: usize = 32;

impl SsdTier {
    /// Counts an append as under way if what is queued is worth one, and says so; `start_appends` starts it.
    pub(super) fn want_append(&self, state: &mut SsdState) -> bool {
        let is_enough = state.appends == 0 || state.queue.len() >= APPEND_BLOCKS_MIN;
        let is_wanted = !state.queue.is_empty() && state.appends < APPENDS_MAX && is_enough;
        if is_wanted {
            state.appends += 1;
            self.appends_wanted.fetch_add(1, Ordering::Relaxed);
        }
        is_wanted
    }

    /// Takes the next neighbours in the log that wait for their append.
    pub(super) fn take_batch(&self) -> Vec<(SlotPlan, FrameRef)> {
        let mut state = self.state.lock();
        let count_max = (APPEND_BYTES_MAX / self.size.bytes()).max(1);
        let mut batch: Vec<(SlotPlan, FrameRef)> = Vec::new();
        while batch.len() < count_max {
            let Some((plan, _)) = state.queue.front() else { break };
            let follows = batch
                .last()
                .is_none_or(|(last, _)| last.segment == plan.segment && last.slot + 1 == plan.slot);
            if !follows {
                break;
            }
            batch.extend(state.queue.pop_front());
        }
        if batch.is_empty() {
            state.appends -= 1;
            self.changed.notify_all();
        }
        batch
    }
}

impl Inner {
    /// A block left RAM: gives it to the SSD, if it earns that and there is room. Called under the lock of its shard.
    pub(super) fn demote(self: &Arc<Self>, departed: Departed) {
        let Some(ssd) = self.ssd().filter(|_| !self.is_closed()) else { return };
        let Departed { block, frame, earned } = departed;
        let version = self.last_version();
        let mut state = ssd.state.lock();
        if ssd.is_off() || ssd.is_leaving.load(Ordering::Relaxed) {
            return;
        }
        if state.held_frames >= self.limits.demoting_max.load(Ordering::Relaxed) {
            if !state.tier.contains(block) {
                self.counters.demotions_dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let Demote::Append(plan) = state.tier.plan_demote(block, version, earned, self.clock.now_us()) else {
            return;
        };
        state.on_the_way.insert(block, (plan, frame.clone()));
        state.queue.push_back((plan, frame));
        state.held_frames += 1;
        if self.is_continuous() && ssd.want_append(&mut state) {
            self.appends_are_wanted.store(true, Ordering::Release);
        }
    }

    /// Starts the appends that demotions asked for. Not under a lock: a pool that has shut down runs them at once.
    pub(super) fn start_wanted_appends(self: &Arc<Self>) {
        // A hit in RAM comes here too, and looks no further.
        if !self.appends_are_wanted.load(Ordering::Relaxed) {
            return;
        }
        if self.appends_are_wanted.swap(false, Ordering::Acquire)
            && let Some(ssd) = self.ssd()
        {
            self.start_appends(&ssd);
        }
    }

    fn start_appends(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        for _ in 0..ssd.appends_wanted.swap(0, Ordering::AcqRel) {
            let (inner, ssd_again) = (self.clone(), ssd.clone());
            ssd.lane.task(Priority::Background, Box::new(move || inner.run_appends(&ssd_again)));
        }
    }

    /// Appends what is queued until nothing is.
    fn run_appends(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        loop {
            let batch = ssd.take_batch();
            if batch.is_empty() {
                return;
            }
            let plans: Vec<SlotPlan> = batch.iter().map(|(plan, _)| *plan).collect();
            let data: Vec<&[u8]> = batch.iter().map(|(_, frame)| &frame[..]).collect();
            let result = ssd::append(&*ssd.device, &plans, &data);
            ssd.write_operations.fetch_add(1, Ordering::Relaxed);
            ssd.note(SsdFailure::Append, result.is_ok());
            let seal = {
                let mut state = ssd.state.lock();
                state.held_frames -= plans.len();
                let seal = state.tier.finish_append(&plans, result.as_deref().ok());
                for plan in &plans {
                    if state.on_the_way.get(&plan.block).is_some_and(|(other, _)| other == plan) {
                        state.on_the_way.remove(&plan.block);
                    }
                }
                // Here, so that frames that are not counted any more are not held either.
                drop(batch);
                ssd.changed.notify_all();
                seal
            };
            if seal.is_some_and(|seal| ssd.queue_seal(seal)) {
                let (inner, ssd_again) = (self.clone(), ssd.clone());
                ssd.lane.task(Priority::Background, Box::new(move || inner.run_seals(&ssd_again)));
            }
            self.start_reclaim_early(ssd);
        }
    }

    /// Starts whatever the SSD has to do, and waits for the end of it.
    pub(super) fn settle_ssd(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        ssd.finish_scan();
        ssd.want_append(&mut ssd.state.lock());
        self.start_appends(ssd);
        ssd.wait_idle();
        self.start_reclaim(ssd);
        ssd.wait_idle();
    }

    /// Writes segments through that were never written, one after the other, as long as there are some.
    pub(super) fn start_preparing(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        if ssd.is_off() {
            return;
        }
        let Some((segment, offset, bytes)) = ssd.with(Ssd::plan_prepare) else { return };
        let (inner, lane, ssd) = (self.clone(), ssd.lane.clone(), ssd.clone());
        let job = move || {
            let zeros = PageBuf::zeroed(APPEND_BYTES_MAX.min(bytes as usize));
            let ends = || inner.closed.load(Ordering::Relaxed) || ssd.is_leaving.load(Ordering::Relaxed);
            let mut at = 0;
            while at < bytes && !ends() {
                let length = (bytes - at).min(zeros.len() as u64);
                // A failure shows again at the first append, where it is counted.
                if ssd.device.write(offset + at, &[std::io::IoSlice::new(&zeros[..length as usize])]).is_err()
                {
                    break;
                }
                at += length;
            }
            ssd.with(|tier| tier.finish_prepare(segment));
            if !ends() {
                inner.start_preparing(&ssd);
            }
        };
        lane.task(Priority::Background, Box::new(job));
    }

    /// Leaves the cache file in order: everything appended and sealed, and a checkpoint that says so.
    pub(super) fn close_ssd(self: &Arc<Self>, ssd: &Arc<SsdTier>) -> Result<()> {
        self.settle_ssd(ssd);
        let seals = ssd.with(Ssd::plan_seal_open);
        if !seals.is_empty() {
            ssd.seal(seals);
        }
        ssd.make_durable(None)?;
        ssd.wait_for_checkpoint();
        Ok(ssd.run_checkpoint(true)?)
    }
}

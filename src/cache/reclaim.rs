//! Segments of the SSD from full to free: their summaries, and the reclaim of the oldest.

use std::sync::Arc;

use terrace_tiers::device::PageBuf;
use terrace_tiers::ssd::{self, Move, ReclaimPlan, SealPlan, SlotPlan};

use super::Inner;
use super::demote::APPEND_BYTES_MAX;
use super::ssd::SsdTier;
use crate::pool::Priority;
use crate::stats::SsdFailure;
use crate::sync::atomic::Ordering;

impl SsdTier {
    /// Puts a full segment in line for its summary. Whether the caller is to see to it, by [`Inner::run_seals`].
    pub(super) fn queue_seal(&self, plan: SealPlan) -> bool {
        let mut state = self.state.lock();
        state.seals.push(plan);
        !std::mem::replace(&mut state.is_sealing, true)
    }

    /// All that are in line; none ends the run.
    pub(super) fn take_seals(&self) -> Option<Vec<SealPlan>> {
        let mut state = self.state.lock();
        let plans = std::mem::take(&mut state.seals);
        if plans.is_empty() {
            state.is_sealing = false;
            self.changed.notify_all();
            return None;
        }
        Some(plans)
    }

    /// Writes the summaries of full segments, with one sync of their data for all.
    pub(super) fn seal(&self, plans: Vec<SealPlan>) {
        let synced = self.make_durable(None).and_then(|is_synced| {
            if !is_synced {
                self.device.sync()?;
                self.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        if synced.is_err() {
            // It may have been the only one that was told of what happened to a record.
            self.give_records_up();
        }
        for plan in plans {
            let is_written = synced.is_ok() && plan.run(&*self.device).is_ok();
            self.note(SsdFailure::Append, is_written);
            self.with(|tier| tier.finish_seal(plan, is_written));
        }
    }

    /// Empties one segment: blocks that were hit move on, the others are forgotten. `may_wait` says that nobody needs it
    /// free before the next seal. Segments that became full on the way are to be sealed.
    pub(super) fn reclaim(&self, plan: &ReclaimPlan, may_wait: bool) -> Vec<SealPlan> {
        let entries = plan.run(&*self.device);
        let moves = self.with(|tier| tier.plan_moves(plan, entries.as_deref().ok()));
        let chunk_max = (APPEND_BYTES_MAX / self.size.bytes()).max(1);
        let mut seals = Vec::new();
        let mut rest = &moves[..];
        while let Some(first) = rest.first() {
            let neighbours = rest.iter().enumerate().take(chunk_max).take_while(|(index, step)| {
                step.to.segment == first.to.segment && step.to.slot == first.to.slot + *index as u32
            });
            let (now, later) = rest.split_at(neighbours.count());
            seals.extend(self.move_blocks(now));
            rest = later;
        }
        self.with(|tier| tier.finish_reclaim(plan));
        // The segment is free once the journal says that it is empty: the next seal syncs that in passing.
        if !may_wait || self.with(|tier| tier.is_short_of_segments()) {
            let _ = self.make_durable(None);
        }
        seals
    }

    /// Copies blocks within the log, to neighbouring places.
    pub(super) fn move_blocks(&self, moves: &[Move]) -> Option<SealPlan> {
        let block_bytes = self.size.bytes();
        let mut buffer = PageBuf::zeroed(moves.len() * block_bytes);
        let mut is_good = true;
        for (step, bytes) in moves.iter().zip(buffer.chunks_exact_mut(block_bytes)) {
            let read = self.device.read(step.from.offset, &mut [std::io::IoSliceMut::new(bytes)]);
            is_good &= read.is_ok() && step.from.verify(bytes);
        }
        let plans: Vec<SlotPlan> = moves.iter().map(|step| step.to).collect();
        let data: Vec<&[u8]> = buffer.chunks_exact(block_bytes).collect();
        // One bad block spoils its batch: these are clean copies, and the store below has them all.
        let crcs = if is_good { ssd::append(&*self.device, &plans, &data).ok() } else { None };
        self.write_operations.fetch_add(1, Ordering::Relaxed);
        self.with(|tier| tier.finish_moves(moves, crcs.as_deref()))
    }
}

impl Inner {
    /// Seals what is full until nothing is: segments that fill up while a sync runs share the next.
    pub(super) fn run_seals(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        while let Some(plans) = ssd.take_seals() {
            // Durable before the summaries are, as all that the journal has.
            self.note_synced(ssd);
            ssd.seal(plans);
            self.start_reclaim_early(ssd);
        }
    }

    /// As [`Self::start_reclaim`], but not where `settle` starts it when all is appended, so that the order of the log
    /// does not depend on time.
    pub(super) fn start_reclaim_early(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        if self.is_continuous() {
            self.start_reclaim(ssd);
        }
    }

    pub(super) fn start_reclaim(self: &Arc<Self>, ssd: &Arc<SsdTier>) {
        let mut state = ssd.state.lock();
        if state.is_reclaiming || ssd.is_off() {
            return;
        }
        let Some(plan) = state.tier.plan_reclaim() else { return };
        state.is_reclaiming = true;
        drop(state);
        let (inner, ssd_again) = (self.clone(), ssd.clone());
        ssd.lane.task(Priority::Background, Box::new(move || inner.run_reclaims(&ssd_again, plan)));
    }

    /// Empties segments until enough are free.
    fn run_reclaims(self: &Arc<Self>, ssd: &Arc<SsdTier>, first: ReclaimPlan) {
        let mut next = Some(first);
        while let Some(plan) = next {
            let seals = ssd.reclaim(&plan, self.is_continuous());
            if seals.into_iter().fold(false, |is_mine, seal| is_mine | ssd.queue_seal(seal)) {
                self.run_seals(ssd);
            }
            let mut state = ssd.state.lock();
            next = if ssd.is_off() { None } else { state.tier.plan_reclaim() };
            if next.is_none() {
                state.is_reclaiming = false;
                state.times_room_was_made += 1;
                ssd.changed.notify_all();
            }
        }
        self.ticker.watched_volumes().iter().for_each(|volume| self.take_put_off(volume));
    }
}

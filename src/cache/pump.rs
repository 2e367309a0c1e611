//! What write-back does next, and how much of it at once.
//!
//! Pace: nothing for `writeback_delay`, then one run at a time while blocks are dirty, two above the low mark, all
//! threads while someone waits. Never "when idle", never all at once.

use std::sync::Arc;

use super::Inner;
use super::dirty::{Dirty, VolumeState};
use super::log::LoggedGroups;
use super::ssd::SsdTier;
use super::writeback::{Group, TakenBlock};
use crate::config::WriteMode;
use crate::pool::{Lane, Priority};

/// What write-back does next.
enum Work {
    /// Brings these blocks below, or to the log.
    Run(Vec<u64>),
    /// Writes this below, past the log of this SSD.
    PastLog(Group, Arc<SsdTier>),
    /// Makes these durable, which are in the log.
    Settle(LoggedGroups),
}

impl Inner {
    /// Keeps as many runs of the volume under way as its pace asks for.
    pub(super) fn pump(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        self.start_discards(volume);
        loop {
            let (work, priority) = {
                let mut dirty = volume.dirty.lock();
                dirty.take_held_back();
                let Some(priority) = self.pace(&dirty) else { return };
                let Some(work) = self.take_work(volume, &mut dirty) else {
                    dirty.is_due = false;
                    return;
                };
                (work, priority)
            };
            // A slow disk must not hold up what goes to the SSD.
            let ssd = self.ssd().filter(|_| volume.mode() == WriteMode::BackSsd);
            let lane = ssd.as_ref().map_or(&volume.lane, |ssd| &ssd.lane);
            let (inner, volume_again) = (self.clone(), volume.clone());
            lane.task(priority, Box::new(move || inner.run_work(&volume_again, work, priority)));
        }
    }

    /// Runs on this thread what of `epoch` waits for the log: the caller would only wait, and the log takes blocks in any
    /// order, so that no queue could sort or merge them.
    pub(super) fn log_here(self: &Arc<Self>, volume: &Arc<VolumeState>, epoch: u64) {
        loop {
            let mut dirty = volume.dirty.lock();
            let is_over = dirty.is_written(epoch);
            let Some(work) = (!is_over).then(|| self.take_work(volume, &mut dirty)).flatten() else { return };
            drop(dirty);
            self.run_work(volume, work, Priority::Awaited);
        }
    }

    /// Has blocks written below that were taken to go to the log, which has nothing of them that is not there.
    pub(super) fn write_past_log(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        ssd: &Arc<SsdTier>,
        blocks: Vec<TakenBlock>,
        priority: Priority,
    ) {
        let mut group = Group::for_below(self.limits.run_bytes_max);
        for taken in blocks {
            let number = taken.block.number();
            let start = taken.block.byte_offset(self.size);
            group.push_pieces(start, volume.bytes_of_block(number), &taken.sectors, &taken.frame);
            group.blocks.push(taken);
        }
        volume.dirty.lock().writing_runs += 1;
        let (inner, volume_again, ssd) = (self.clone(), volume.clone(), ssd.clone());
        let job = move || inner.run_work(&volume_again, Work::PastLog(group, ssd), priority);
        volume.lane.task(priority, Box::new(job));
    }

    /// The SSD itself has to know that its copies are void. One that cannot is to be left, and first goes below what the log
    /// has of the volume (see `fall_back`).
    fn run_past_log(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        group: Group,
        ssd: &SsdTier,
        priority: Priority,
    ) {
        let began = volume.dirty.lock().begin();
        self.void_destaged(volume, &group.blocks);
        self.make_voids_durable();
        if let Err(error) = ssd.make_all_durable() {
            return self.refuse_group(volume, ssd, &group.blocks, began, error);
        }
        self.submit_runs(volume, group, priority, Lane::run_write);
    }

    /// What is to be done next; whoever takes it runs it.
    fn take_work(&self, volume: &VolumeState, dirty: &mut Dirty) -> Option<Work> {
        let is_logged = volume.mode() == WriteMode::BackSsd;
        let count =
            if dirty.careful_runs > 0 { 1 } else { (self.limits.run_bytes_max / self.size.bytes()).max(1) };
        let numbers = if is_logged { dirty.take_any(count) } else { dirty.take_run(count) };
        let work = if !numbers.is_empty() {
            dirty.careful_runs = dirty.careful_runs.saturating_sub(1);
            Work::Run(numbers)
        } else if !dirty.logged.is_empty() && dirty.writing_runs == 0 && self.must_sync_log(volume, dirty) {
            // A run under way would take them along.
            Work::Settle(dirty.take_logged())
        } else {
            return None;
        };
        dirty.writing_runs += 1;
        Some(work)
    }

    fn run_work(self: &Arc<Self>, volume: &Arc<VolumeState>, work: Work, priority: Priority) {
        match work {
            Work::Run(numbers) => {
                let group = self.take_group(volume, &numbers);
                if !group.blocks.is_empty() {
                    self.run_group(volume, group, priority);
                }
            }
            Work::PastLog(group, ssd) => self.run_past_log(volume, group, &ssd, priority),
            Work::Settle(groups) => self.settle_logged(volume, groups),
        }
        volume.dirty.lock().writing_runs -= 1;
        self.pump(volume);
        self.sync_if_due(volume);
    }

    /// Whether another run may start, and how urgent it is.
    fn pace(&self, dirty: &Dirty) -> Option<Priority> {
        let is_awaited = !dirty.flushes.is_empty() || self.throttle.is_urgent();
        let depth = if is_awaited {
            self.limits.disk_threads
        } else if !self.is_continuous() {
            0
        } else if self.throttle.is_over_low() {
            2
        } else {
            u32::from(dirty.is_due || dirty.log_is_due)
        };
        (dirty.writing_runs < depth).then_some(if is_awaited {
            Priority::Awaited
        } else {
            Priority::Background
        })
    }

    /// Someone waits until blocks may leave: write-back goes on with all threads, and syncs as soon as that helps.
    pub(super) fn hurry(self: &Arc<Self>) {
        for volume in self.ticker.watched_volumes() {
            self.pump(&volume);
            self.sync_if_due(&volume);
        }
    }
}

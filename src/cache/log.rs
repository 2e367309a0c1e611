//! Volumes in mode `back-ssd`: write-back goes to the log on the SSD, and a flush is done when the log is synced.
//!
//! The books of what is dirty are those of every mode (see `dirty`); only the way of a group differs. Its blocks become
//! one record or a few, and are clean as far as RAM goes when a sync of the SSD has covered those. `destage` brings them
//! below later.
//!
//! - A blocking flush does all of it on its own thread: plan, write, sync, finish. What others took it waits for.
//! - A sync is shared: it starts when the records that it covers are written, and nobody joins one that has started.
//! - A group that nobody waits for does not sync. It stays as it is, its frames lent, until the sync of a flush covers it
//!   too, until writers or reads want frames, or for one tick; whoever needs it takes all such groups of the volume.
//! - A block has one record under way at a time, since one write-back has it at a time and waits for the sync.
//! - A copy has the sectors that were written, and a block in the log is all of its copies together. Only when they are
//!   too many, or one is bad, the next is to have them all (`wanted_mask`): then a partial write to a block of which RAM
//!   lacks some of these sectors waits for a fill.
//! - A record or a sync that fails gives up everything that is not durable; the blocks are dirty again, and the log goes
//!   on after a checkpoint that says where it ended (rule 7).
//! - When the log is full the blocks stay dirty in RAM until destage has made room, and writers wait at the high mark; but
//!   when destage can make none they go below (see `full_log`).

use crate::sync::atomic::Ordering;
use std::io::IoSliceMut;
use std::sync::Arc;

use smallvec::SmallVec;
use terrace_tiers::block::{BlockId, BlockSize, SECTOR_BYTES, Version, mask};
use terrace_tiers::device::PageBuf;
use terrace_tiers::ssd::{LogFate, LogTicket, NewCopy, ReadVerdict, SectorMask};

use super::Inner;
use super::dirty::{Began, Dirty, VolumeState};
use super::fence::Swept;
use super::fill::{PlannedFill, Runner, Source};
use super::full_log::Refused;
use super::mode::Route;
use super::ssd::SsdTier;
use super::writeback::{Group, TakenBlock};
use crate::config::WriteMode;
use crate::error::TierError;
use crate::pool::Priority;
use crate::stats::SsdFailure;
use crate::sync::wake_all;

impl SsdTier {
    /// The clean copy of `block` is older than what is written now; the one in the log stays until that is durable.
    pub(super) fn void_clean(&self, block: BlockId, version: Version) {
        let mut state = self.state.lock();
        state.tier.void_clean(block, version);
        state.on_the_way.remove(&block);
    }

    /// Whether nothing newer than `block` may go below by another way than through the log.
    pub(super) fn holds_back(&self, block: BlockId) -> bool {
        self.with(|tier| tier.holds_back(block))
    }

    /// The sectors of `block` that only the log has.
    pub(super) fn dirty_mask(&self, block: BlockId) -> Option<SectorMask> {
        self.with(|tier| tier.dirty_mask(block))
    }

    /// The sectors that the next copy of `block` is to have whatever is written, where they are at hand.
    pub(super) fn wanted_mask(&self, block: BlockId) -> Option<SectorMask> {
        self.with(|tier| tier.wanted_mask(block))
    }

    /// Writes `copies` to the log, whose whole blocks are `blocks`: the records of those, from the first on, that found
    /// room, and how many these are. They are not durable yet.
    fn write_records(
        &self,
        copies: &[NewCopy],
        blocks: &[&[u8]],
        now_us: u64,
    ) -> Result<(Tickets, usize), TierError> {
        let (mut tickets, mut logged) = (Tickets::new(), 0);
        while logged < copies.len() {
            if self.with(|tier| tier.log_must_restart()) && !self.is_off() {
                self.run_checkpoint(false)?;
            }
            let plan = {
                let mut state = self.state.lock();
                if self.is_off() {
                    return Err(given_up());
                }
                state.tier.plan_record(&copies[logged..], now_us)
            };
            let Some(mut plan) = plan else { break };
            let (ticket, count) = (plan.ticket(), plan.block_count());
            let result = plan.run(&*self.device, &blocks[logged..logged + count]);
            self.write_operations.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = result {
                self.give_records_up();
                self.note(SsdFailure::Log, false);
                return Err(Arc::new(error));
            }
            self.with(|tier| tier.finish_record(plan));
            self.changed.notify_all();
            logged += count;
            tickets.push(ticket);
        }
        Ok((tickets, logged))
    }

    pub(super) fn give_records_up(&self) {
        self.with(|tier| tier.give_records_up());
        self.changed.notify_all();
    }

    /// Returns when this record, and so every one before it, is durable.
    fn make_log_durable(&self, ticket: LogTicket) -> Result<(), TierError> {
        let mut state = self.state.lock();
        loop {
            match state.tier.log_fate(ticket) {
                LogFate::Durable => return Ok(()),
                LogFate::GivenUp => return Err(given_up()),
                LogFate::UnderWay => {}
            }
            let sync = state.tier.plan_log_sync().filter(|sync| !state.log_is_syncing && sync.covers(ticket));
            let Some(sync) = sync else {
                self.changed.wait(&mut state);
                continue;
            };
            state.log_is_syncing = true;
            drop(state);
            let result = self.device.sync();
            self.syncs.fetch_add(1, Ordering::Relaxed);
            state = self.state.lock();
            state.log_is_syncing = false;
            match &result {
                Ok(()) => state.tier.finish_log_sync(sync),
                Err(_) => state.tier.give_records_up(),
            }
            self.changed.notify_all();
            if let Err(error) = result {
                drop(state);
                self.note(SsdFailure::Log, false);
                return Err(Arc::new(error));
            }
            self.note(SsdFailure::Log, true);
        }
    }
}

fn given_up() -> TierError {
    Arc::new(terrace_tiers::Error::Damaged { what: "a write or a sync of its log failed".into() })
}

/// Records that one group became.
type Tickets = SmallVec<[LogTicket; 2]>;

/// A group whose records are written and not durable: its frames stay lent to it.
pub(super) struct LoggedGroup {
    /// Whose log it is in.
    ssd: Arc<SsdTier>,
    blocks: Vec<TakenBlock>,
    tickets: Tickets,
    began: Began,
}

/// One, when a blocking flush takes what it has just written.
pub(super) type LoggedGroups = SmallVec<[LoggedGroup; 1]>;

impl Inner {
    /// Writes a group to the log, on this thread; syncs it if someone waits for that, and else leaves that to others.
    pub(super) fn log_group(self: &Arc<Self>, volume: &Arc<VolumeState>, group: Group, priority: Priority) {
        let ssd = self.ssd().expect("a volume in this mode has an SSD");
        let began = volume.dirty.lock().begin();
        let copy_of = |taken: &TakenBlock| {
            let mut mask: SectorMask = taken.sectors.as_slice().into();
            // What came to be wanted since the write may not be there: then the next write sees to it.
            if let Some(wanted) = ssd.wanted_mask(taken.block).filter(|wanted| taken.has(wanted)) {
                mask::add(&mut mask, &wanted);
            }
            // Of its own: later than every discard that was let go before, which a write behind its fence may not be.
            let version = self.next_version();
            volume.raise_version(version);
            NewCopy { block: taken.block, version, mask, epoch: volume.log_epoch(taken.epoch) }
        };
        // A flush of one write has one of each: such lists stay on the stack.
        let copies: SmallVec<[NewCopy; 1]> = group.blocks.iter().map(copy_of).collect();
        let data: SmallVec<[&[u8]; 1]> = group.blocks.iter().map(|taken| &taken.frame[..]).collect();
        let before = ssd.room();
        let result = ssd.write_records(&copies, &data, self.clock.now_us());
        drop(data);
        self.start_reclaim_early(&ssd);
        let mut blocks = group.blocks;
        let (tickets, count) = match result {
            Ok(written) => written,
            Err(error) => {
                self.refuse_group(volume, &ssd, &blocks, began, error);
                return volume.end_logging();
            }
        };
        if count < blocks.len() {
            let refused = Refused { blocks: blocks.split_off(count), began, before, priority };
            self.go_on_without_room(volume, &ssd, refused);
        }
        let mut dirty = volume.dirty.lock();
        let is_empty = blocks.is_empty();
        if !is_empty {
            dirty.logged.push(LoggedGroup { ssd, blocks, tickets, began });
        }
        // One hold of the lock: a flush that comes later finds the group, one that came before is seen here.
        let logged =
            if self.must_sync_log(volume, &dirty) { dirty.take_logged() } else { LoggedGroups::new() };
        drop(dirty);
        if is_empty {
            volume.end_logging();
        }
        self.settle_logged(volume, logged);
    }

    /// Something waits for the end of what is on its way to the log: it is not left for a later sync.
    pub(super) fn hurry_log(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let logged = {
            let mut dirty = volume.dirty.lock();
            if self.must_sync_log(volume, &dirty) { dirty.take_logged() } else { return }
        };
        if let Some(ssd) = self.ssd().filter(|_| !logged.is_empty()) {
            let (inner, volume_again) = (self.clone(), volume.clone());
            ssd.lane.task(Priority::Awaited, Box::new(move || inner.settle_logged(&volume_again, logged)));
        }
    }

    /// Whether a sync of the log is wanted: by a flush, a discard, a forget or a change of mode, by callers that need
    /// frames, or by writers soon.
    pub(super) fn must_sync_log(&self, volume: &VolumeState, dirty: &Dirty) -> bool {
        let is_awaited = dirty.log_is_due || !dirty.flushes.is_empty() || self.throttle.is_urgent();
        let is_awaited = is_awaited || dirty.fences.waits_for_writes() || volume.route() == Route::Changing;
        is_awaited || self.throttle.is_half_of_room(dirty.logged.iter().map(|group| group.blocks.len()).sum())
    }

    /// Makes these groups durable, and finishes them.
    pub(super) fn settle_logged(self: &Arc<Self>, volume: &Arc<VolumeState>, groups: LoggedGroups) {
        if groups.is_empty() {
            return;
        }
        // The newest record first: its sync covers the others. But each is asked for: the first may have been given up
        // by another's failure before the last was planned.
        let make_durable = |group: &LoggedGroup| {
            group.tickets.iter().rev().try_for_each(|&ticket| group.ssd.make_log_durable(ticket))
        };
        let mut results: SmallVec<[Result<(), TierError>; 1]> =
            groups.iter().rev().map(make_durable).collect();
        let mut is_any_finished = false;
        for group in groups {
            match results.pop().expect("one a group") {
                Ok(()) => {
                    self.finish_logged(volume, &group.blocks);
                    is_any_finished = true;
                }
                Err(error) => {
                    self.refuse_group(volume, &group.ssd, &group.blocks, group.began, error);
                }
            }
            volume.end_logging();
        }
        if is_any_finished {
            self.announce_release();
            self.after_group(volume);
        }
        self.go_on_behind_fences(volume);
        let load = |ssd: Arc<SsdTier>| ssd.with(|tier| tier.dirty_load());
        if self.ssd().map(load).is_some_and(|load| load >= self.limits.log_low) {
            self.start_destage(volume);
        }
    }

    /// The log did not take this group.
    pub(super) fn refuse_group(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        ssd: &SsdTier,
        blocks: &[TakenBlock],
        began: Began,
        error: TierError,
    ) {
        if !ssd.is_off() {
            return self.finish_group(volume, blocks, began, Err(error));
        }
        // They go below when all that the log has is there.
        self.put_off(volume, blocks);
        self.leave_log_if_off(volume, None);
        if volume.mode() != WriteMode::BackSsd {
            self.take_put_off(volume);
        }
    }

    /// These blocks go below by another way than through the log, which has none of them that is newer.
    pub(super) fn void_destaged(&self, volume: &VolumeState, blocks: &[TakenBlock]) {
        let Some(ssd) = self.ssd() else { return };
        let version = self.next_version();
        volume.raise_version(version);
        ssd.with(|tier| tier.void_destaged(blocks.iter().map(|taken| taken.block), version));
    }

    /// The log has these blocks, durably.
    fn finish_logged(self: &Arc<Self>, volume: &Arc<VolumeState>, blocks: &[TakenBlock]) {
        let (mut writers, mut swept) = (Vec::new(), Swept::default());
        let (mut acknowledged, mut again) = (Vec::new(), Vec::new());
        for taken in blocks {
            let mut shard = self.shard(taken.block);
            let (slot, entry) = shard.entry_of(taken.block).expect("a block that is being written stays");
            entry.writing = false;
            if entry.is_void_write || entry.is_forgotten {
                self.finish_unwanted_write(volume, &mut shard, taken.block, taken.epoch, &mut swept);
                continue;
            }
            let is_free = !entry.is_pinned();
            {
                let mut dirty = volume.dirty.lock();
                dirty.finish_taken(taken.block.number(), taken.epoch, entry.dirty);
                dirty.fences.write_ended(taken.block.number());
            }
            if is_free {
                shard.settle_entry(slot);
                writers.extend(self.throttle.remove());
            }
            // Of writes that began in another mode: the log is as good to them.
            acknowledged.extend(taken.take_waiters(&mut shard, false));
            if shard.write_waiters.contains_key(&taken.block) {
                again.push(taken.block.number());
            }
        }
        wake_all(writers);
        swept.finish(self);
        acknowledged.into_iter().for_each(|waiter| waiter.deliver(Ok(())));
        if !again.is_empty() {
            self.write_back_blocks(volume, &again, Runner::Pool(Priority::Awaited));
        }
    }

    /// The log had no room for these blocks: they are dirty as before, and wait until something is destaged.
    pub(super) fn put_off(self: &Arc<Self>, volume: &Arc<VolumeState>, blocks: &[TakenBlock]) {
        let mut swept = Swept::default();
        for taken in blocks {
            let mut shard = self.shard(taken.block);
            let size = self.size;
            let (_, entry) = shard.entry_of(taken.block).expect("a block that is being written stays");
            entry.writing = false;
            if entry.is_void_write || entry.is_forgotten {
                self.finish_unwanted_write(volume, &mut shard, taken.block, taken.epoch, &mut swept);
                continue;
            }
            mask::add(entry.sectors_mut(size).dirty_mut(), &taken.sectors);
            let mut dirty = volume.dirty.lock();
            if entry.dirty {
                dirty.count_in(entry.dirty_epoch, -1);
            }
            (entry.dirty, entry.dirty_epoch) = (true, taken.epoch);
            dirty.waiting.remove(&taken.block.number());
            dirty.put_off.insert(taken.block.number());
            dirty.fences.write_ended(taken.block.number());
        }
        swept.finish(self);
    }
}

impl Inner {
    /// Brings a fill from the log on its way.
    pub(super) fn start_log_fill(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        fill: PlannedFill,
        runner: Runner,
    ) {
        if runner == Runner::Caller {
            return self.run_log_fill(volume, fill);
        }
        let lane = match &fill.source {
            Source::Log(ssd, read) if read.is_whole() => ssd.lane.clone(),
            _ => volume.lane.clone(),
        };
        let (inner, volume) = (self.clone(), volume.clone());
        lane.task(runner.priority(), Box::new(move || inner.run_log_fill(&volume, fill)));
    }

    /// Reads what the log has of a block, around that what the backing store has, and finishes the fill.
    fn run_log_fill(self: &Arc<Self>, volume: &Arc<VolumeState>, fill: PlannedFill) {
        let PlannedFill { block, source, mut frame } = fill;
        let read = self.read_logged(volume, block, &source, &mut frame);
        self.finish_fill(volume, block, read.map(|()| frame), &source);
    }

    pub(super) fn read_logged(
        &self,
        volume: &VolumeState,
        block: BlockId,
        source: &Source,
        frame: &mut [u8],
    ) -> Result<(), TierError> {
        let Source::Log(ssd, read) = source else { unreachable!("this fill is one from the log") };
        let mut next = Some(read.clone());
        // A copy goes elsewhere when a newer one is in the log, or when the backing store has it.
        while let Some(read) = next {
            if !read.is_whole() && read.is_on_zeros {
                frame.fill(0);
            } else if !read.is_whole() {
                read_below(volume, block, self.size, frame)?;
            }
            let mut scratch = (!read.is_whole()).then(|| PageBuf::zeroed(self.size.bytes()));
            let target = scratch.as_deref_mut().unwrap_or(frame);
            let result = read.run(&*ssd.device, target);
            ssd.note(SsdFailure::Read, result.is_ok());
            let spoilt = match result {
                Ok(spoilt) => spoilt,
                // Unread is not bad: the copy stays what it is, and goes below when it can be read.
                Err(error) if read.is_dirty => {
                    next = ssd.with(|tier| tier.plan_log_read(block));
                    if next.as_ref() == Some(&read) {
                        return Err(Arc::new(error));
                    }
                    continue;
                }
                Err(_) => Some(read.version),
            };
            match ssd.with(|tier| tier.finish_log_read(&read, spoilt)) {
                ReadVerdict::Valid => {
                    if let Some(scratch) = scratch {
                        for run in mask::runs(&read.mask, self.size.sectors()) {
                            let run = run.start * SECTOR_BYTES..run.end * SECTOR_BYTES;
                            frame[run.clone()].copy_from_slice(&scratch[run]);
                        }
                    }
                    return Ok(());
                }
                ReadVerdict::Corrupt if read.is_dirty => {
                    ssd.has_bad.store(true, Ordering::Relaxed);
                    return Err(bad(block));
                }
                ReadVerdict::Corrupt | ReadVerdict::Moved => {
                    next = ssd.with(|tier| tier.plan_log_read(block));
                }
            }
        }
        if ssd.with(|tier| tier.is_buried(block)) {
            frame.fill(0);
            return Ok(());
        }
        read_below(volume, block, self.size, frame)
    }
}

fn read_below(
    volume: &VolumeState,
    block: BlockId,
    size: BlockSize,
    frame: &mut [u8],
) -> Result<(), TierError> {
    volume.device.read(block.byte_offset(size), &mut [IoSliceMut::new(frame)]).map_err(Arc::new)
}

fn bad(block: BlockId) -> TierError {
    Arc::new(terrace_tiers::Error::Damaged {
        what: format!("the only copy of block {block} fails its checksum"),
    })
}

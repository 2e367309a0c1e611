//! The SSD: appends of demoted blocks, seals, reclaim, journal and checkpoint, all on the pool.
//!
//! A block that leaves RAM gets its place in the log at once, under the lock of its shard, and its frame queues for the
//! write: until that is done the block is read from the frame. Workers take what queued meanwhile as one write, so the
//! batches grow as the SSD falls behind. When too much is queued the demotion is dropped and counted: SSD writes never
//! delay a read.
//!
//! The journal is written by whoever needs it durable; the others wait for that one (group commit).
//!
//! An SSD that fails an append loses those blocks. One that fails its journal is switched off: voids could no longer be
//! made durable. It stays off until the cache is opened again; its file says that it was not closed in order.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use terrace_tiers::block::{BlockId, BlockSize, Version};
use terrace_tiers::device::{Device, PageBuf};
use terrace_tiers::ram::frames::FrameRef;
use terrace_tiers::ssd::{
    self, Demote, JournalPlan, JournalSeq, LogRead, Move, ReadPlan, ReadVerdict, ReclaimPlan, SealPlan,
    SlotPlan, Ssd, VoidMark,
};

use super::index::{Departed, FastHash};
use super::{Inner, Result};
use crate::error::TierError;
use crate::pool::{Lane, Priority};
use crate::stats::Stats;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// An append takes at most so many bytes: what was just summed is still at hand for the write (bench ssd/append).
const APPEND_BYTES_MAX: usize = 512 << 10;

/// Appends under way at once: with fewer the SSD idles while checksums are made (bench ssd/append).
const APPENDS_MAX: u32 = 5;

/// The checkpoint's own, and one for each copy of the superblock.
const SYNCS_A_CHECKPOINT: u64 = 3;

/// Another append starts when so many blocks are queued.
const APPEND_BLOCKS_MIN: usize = 32;

/// The SSD as the cache drives it.
pub(super) struct SsdTier {
    pub(super) device: Arc<dyn Device>,
    pub(super) lane: Lane,
    pub(super) is_direct: bool,
    pub(super) state: Mutex<SsdState>,
    /// The journal's writer is done, a record or a sync of the log, or nothing is under way any more.
    pub(super) changed: Condvar,
    is_off: AtomicBool,
    size: BlockSize,
    /// Frames that may be on their way at once: fewer than the slack, so that a read finds one whatever the SSD does.
    frames_max: usize,
    /// Appends that are counted in the state and not started yet.
    appends_wanted: AtomicU32,
    pub(super) write_operations: AtomicU64,
    pub(super) syncs: AtomicU64,
    /// Calls on the device that failed.
    pub(super) errors: AtomicU64,
}

pub(super) struct SsdState {
    pub(super) tier: Ssd,
    /// Blocks whose append is queued or under way, with the place they go to.
    pub(super) on_the_way: HashMap<BlockId, (SlotPlan, FrameRef), FastHash>,
    /// In the order of the log.
    queue: VecDeque<(SlotPlan, FrameRef)>,
    /// Frames in the queue, and of appends under way.
    held_frames: usize,
    /// Appends under way.
    appends: u32,
    /// Full segments that wait for their summary.
    seals: Vec<SealPlan>,
    is_sealing: bool,
    is_reclaiming: bool,
    journal_is_writing: bool,
    checkpoint_is_running: bool,
    /// A sync of the device for records is under way.
    pub(super) log_is_syncing: bool,
}

/// Where the SSD tier has a block.
pub(super) enum OnSsd {
    /// Still in RAM, on its way.
    OnTheWay(FrameRef),
    Stored(ReadPlan),
    /// In the log, maybe only in part; it may be newer than the backing store.
    Logged(LogRead),
}

impl SsdTier {
    pub(super) fn new(
        tier: Ssd,
        device: Arc<dyn Device>,
        is_direct: bool,
        lane: Lane,
        frames_max: usize,
    ) -> Self {
        let size = tier.geometry().block_size;
        let state = SsdState {
            tier,
            on_the_way: HashMap::default(),
            queue: VecDeque::new(),
            held_frames: 0,
            appends: 0,
            seals: Vec::new(),
            is_sealing: false,
            is_reclaiming: false,
            journal_is_writing: false,
            checkpoint_is_running: false,
            log_is_syncing: false,
        };
        Self {
            device,
            lane,
            is_direct,
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_off: AtomicBool::new(false),
            size,
            frames_max,
            appends_wanted: AtomicU32::new(0),
            write_operations: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    fn switch_off(&self) {
        self.is_off.store(true, Ordering::SeqCst);
        let mut state = self.state.lock();
        state.held_frames -= state.queue.len();
        state.queue.clear();
        state.on_the_way.clear();
        self.changed.notify_all();
    }

    /// Counts an append as under way if what is queued is worth one; `start_wanted_appends` starts it.
    fn want_append(&self, state: &mut SsdState) {
        let is_enough = state.appends == 0 || state.queue.len() >= APPEND_BLOCKS_MIN;
        if !state.queue.is_empty() && state.appends < APPENDS_MAX && is_enough {
            state.appends += 1;
            self.appends_wanted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `work` on the tier's bookkeeping.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Ssd) -> T) -> T {
        work(&mut self.state.lock().tier)
    }

    /// Where `block` is, counted as a hit of the tier.
    pub(super) fn find(&self, block: BlockId) -> Option<OnSsd> {
        let mut state = self.state.lock();
        // Also when the tier is switched off: what is older must not be read in its place.
        if let Some(read) = state.tier.plan_log_read(block) {
            return Some(OnSsd::Logged(read));
        }
        if self.is_off() {
            return None;
        }
        if let Some((_, frame)) = state.on_the_way.get(&block) {
            let frame = frame.clone();
            state.tier.note_hit_on_the_way(block);
            return Some(OnSsd::OnTheWay(frame));
        }
        state.tier.plan_read(block).map(OnSsd::Stored)
    }

    pub(super) fn finish_read(
        &self,
        plan: &ReadPlan,
        verified: bool,
        error: Option<&TierError>,
    ) -> ReadVerdict {
        if error.is_some() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.state.lock().tier.finish_read(plan, verified)
    }

    /// No copy of `block` older than `version` may be read again, not after a crash either.
    pub(super) fn void(&self, block: BlockId, version: Version, mark: VoidMark) {
        if self.is_off() {
            return;
        }
        let mut state = self.state.lock();
        state.tier.void(block, version, mark);
        state.on_the_way.remove(&block);
    }

    /// The same for `count` blocks from `first` on.
    pub(super) fn void_range(&self, first: BlockId, count: u64, version: Version) {
        if self.is_off() {
            return;
        }
        let mut state = self.state.lock();
        state.tier.void_range(first, count, version);
        let is_in = |block: BlockId| block >= first && block.as_u64() - first.as_u64() < count;
        state.on_the_way.retain(|&block, _| !is_in(block));
    }

    pub(super) fn add_stats(&self, stats: &mut Stats) {
        let io = self.lane.stats();
        stats.ssd_read_operations = io.read_operations;
        stats.ssd_read_bytes = io.read_bytes;
        stats.ssd_queue_depth = self.lane.depth() as u64;
        stats.ssd_write_operations = self.write_operations.load(Ordering::Relaxed);
        stats.ssd_syncs = self.syncs.load(Ordering::Relaxed);
        stats.ssd_errors = self.errors.load(Ordering::Relaxed);
        stats.ssd_in_use = !self.is_off();
        stats.ssd_direct = self.is_direct;
        stats.ssd = self.state.lock().tier.stats();
    }

    /// Whether frames wait for their append.
    pub(super) fn holds_frames(&self) -> bool {
        self.state.lock().held_frames > 0
    }

    /// For [`Inner::assert_quiet`].
    pub(super) fn what_is_left(&self) -> Option<String> {
        let state = self.state.lock();
        let counts = [state.on_the_way.len(), state.queue.len(), state.held_frames, state.appends as usize];
        let is_busy = state.is_sealing || state.is_reclaiming || state.journal_is_writing;
        let is_left = is_busy || counts.iter().any(|&count| count > 0);
        is_left.then(|| format!("blocks on their way to the SSD, queued, frames held, appends: {counts:?}"))
    }

    /// Waits until no append, seal or reclaim is under way.
    pub(super) fn wait_idle(&self) {
        let mut state = self.state.lock();
        let is_busy = |state: &SsdState| {
            state.appends > 0 || !state.queue.is_empty() || state.is_sealing || state.is_reclaiming
        };
        while !self.is_off() && is_busy(&state) {
            self.changed.wait(&mut state);
        }
    }

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
                    self.run_checkpoint(false)?;
                    state = self.state.lock();
                    continue;
                }
            };
            state.journal_is_writing = false;
            self.changed.notify_all();
            if let Err(error) = result {
                drop(state);
                self.switch_off();
                return Err(Arc::new(error));
            }
        }
        Ok(has_synced)
    }

    /// Whether the journal is filling up, and no checkpoint is under way.
    fn wants_checkpoint(&self) -> bool {
        let state = self.state.lock();
        !state.checkpoint_is_running && state.tier.wants_checkpoint()
    }

    fn wait_for_checkpoint(&self) {
        let mut state = self.state.lock();
        while state.checkpoint_is_running {
            self.changed.wait(&mut state);
        }
    }

    /// Writes a checkpoint, or waits for the one that is under way.
    pub(super) fn run_checkpoint(&self, is_clean: bool) -> Result<(), TierError> {
        let mut state = self.state.lock();
        if state.checkpoint_is_running {
            drop(state);
            self.wait_for_checkpoint();
            return Ok(());
        }
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
            self.errors.fetch_add(1, Ordering::Relaxed);
            self.switch_off();
            Arc::new(error)
        })
    }

    /// Takes the next neighbours in the log that wait for their append.
    fn take_batch(&self) -> Vec<(SlotPlan, FrameRef)> {
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

    /// Puts a full segment in line for its summary. Whether the caller is to see to it, by [`Inner::run_seals`].
    fn queue_seal(&self, plan: SealPlan) -> bool {
        let mut state = self.state.lock();
        state.seals.push(plan);
        !std::mem::replace(&mut state.is_sealing, true)
    }

    /// All that are in line; none ends the run.
    fn take_seals(&self) -> Option<Vec<SealPlan>> {
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
    fn seal(&self, plans: Vec<SealPlan>) {
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
            self.errors.fetch_add(u64::from(!is_written), Ordering::Relaxed);
            self.with(|tier| tier.finish_seal(plan, is_written));
        }
    }
}

impl Inner {
    /// A block left RAM: gives it to the SSD, if it earns that and there is room. Called under the lock of its shard.
    pub(super) fn demote(self: &Arc<Self>, departed: Departed) {
        let Some(ssd) = self.ssd.as_ref().filter(|_| !self.is_closed()) else { return };
        let Departed { block, frame, version, earned } = departed;
        let mut state = ssd.state.lock();
        if ssd.is_off() {
            return;
        }
        if state.held_frames >= ssd.frames_max {
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
        if self.is_continuous() {
            ssd.want_append(&mut state);
        }
    }

    /// Starts the appends that demotions asked for. Not under a lock: a pool that has shut down runs them at once.
    pub(super) fn start_wanted_appends(self: &Arc<Self>) {
        let Some(ssd) = &self.ssd else { return };
        if ssd.appends_wanted.load(Ordering::Relaxed) == 0 {
            return;
        }
        for _ in 0..ssd.appends_wanted.swap(0, Ordering::Relaxed) {
            let inner = self.clone();
            ssd.lane.task(Priority::Background, Box::new(move || inner.run_appends()));
        }
    }

    /// Appends what is queued until nothing is.
    fn run_appends(self: &Arc<Self>) {
        let Some(ssd) = &self.ssd else { return };
        loop {
            let batch = ssd.take_batch();
            if batch.is_empty() {
                return;
            }
            let plans: Vec<SlotPlan> = batch.iter().map(|(plan, _)| *plan).collect();
            let data: Vec<&[u8]> = batch.iter().map(|(_, frame)| &frame[..]).collect();
            let result = ssd::append(&*ssd.device, &plans, &data);
            ssd.write_operations.fetch_add(1, Ordering::Relaxed);
            if result.is_err() {
                ssd.errors.fetch_add(1, Ordering::Relaxed);
            }
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
                seal
            };
            if seal.is_some_and(|seal| ssd.queue_seal(seal)) {
                let inner = self.clone();
                ssd.lane.task(Priority::Background, Box::new(move || inner.run_seals()));
            }
            self.start_reclaim_early(ssd);
        }
    }

    /// Seals what is full until nothing is: segments that fill up while a sync runs share the next.
    fn run_seals(self: &Arc<Self>) {
        let Some(ssd) = &self.ssd else { return };
        while let Some(plans) = ssd.take_seals() {
            ssd.seal(plans);
            self.start_reclaim_early(ssd);
        }
    }

    /// As [`Self::start_reclaim`], but not where `settle` starts it when all is appended, so that the order of the log
    /// does not depend on time.
    pub(super) fn start_reclaim_early(self: &Arc<Self>, ssd: &SsdTier) {
        if self.is_continuous() {
            self.start_reclaim(ssd);
        }
    }

    pub(super) fn start_reclaim(self: &Arc<Self>, ssd: &SsdTier) {
        let mut state = ssd.state.lock();
        if state.is_reclaiming || ssd.is_off() {
            return;
        }
        let Some(plan) = state.tier.plan_reclaim() else { return };
        state.is_reclaiming = true;
        drop(state);
        let inner = self.clone();
        ssd.lane.task(Priority::Background, Box::new(move || inner.run_reclaims(plan)));
    }

    /// Empties segments until enough are free.
    fn run_reclaims(self: &Arc<Self>, first: ReclaimPlan) {
        let Some(ssd) = &self.ssd else { return };
        let mut next = Some(first);
        while let Some(plan) = next {
            let seals = ssd.reclaim(&plan, self.is_continuous());
            if seals.into_iter().fold(false, |is_mine, seal| is_mine | ssd.queue_seal(seal)) {
                self.run_seals();
            }
            let mut state = ssd.state.lock();
            next = if ssd.is_off() { None } else { state.tier.plan_reclaim() };
            if next.is_none() {
                state.is_reclaiming = false;
                ssd.changed.notify_all();
            }
        }
        self.ticker.watched_volumes().iter().for_each(|volume| self.take_put_off(volume));
    }

    /// Before a write below: every void that was asked for so far is durable on the SSD (rule 1).
    pub(super) fn make_voids_durable(self: &Arc<Self>) {
        let Some(ssd) = self.ssd.as_ref().filter(|ssd| !ssd.is_off()) else { return };
        // An SSD that fails here is switched off, and its file is not one that was closed in order: the backing store
        // has changed since, so its clean copies are not believed again.
        if ssd.make_durable(None).is_ok() && ssd.wants_checkpoint() {
            let inner = self.clone();
            let job = move || {
                // A failure has switched the SSD off.
                let _ = inner.ssd.as_ref().map(|ssd| ssd.run_checkpoint(false));
            };
            ssd.lane.task(Priority::Background, Box::new(job));
        }
    }

    /// Whether a write below would have to wait for the SSD's journal.
    pub(super) fn has_pending_voids(&self) -> bool {
        let ssd = self.ssd.as_ref().filter(|ssd| !ssd.is_off());
        ssd.is_some_and(|ssd| ssd.with(|tier| tier.journal_pending().is_some()))
    }

    /// Starts whatever the SSD has to do, and waits for the end of it.
    pub(super) fn settle_ssd(self: &Arc<Self>) {
        let Some(ssd) = &self.ssd else { return };
        ssd.want_append(&mut ssd.state.lock());
        self.start_wanted_appends();
        ssd.wait_idle();
        self.start_reclaim(ssd);
        ssd.wait_idle();
    }

    /// Writes segments through that were never written, one after the other, as long as there are some.
    pub(super) fn start_preparing(self: &Arc<Self>) {
        let Some(ssd) = self.ssd.as_ref().filter(|ssd| !ssd.is_off()) else { return };
        let Some((segment, offset, bytes)) = ssd.with(Ssd::plan_prepare) else { return };
        let inner = self.clone();
        let job = move || {
            let Some(ssd) = &inner.ssd else { return };
            let zeros = PageBuf::zeroed(APPEND_BYTES_MAX.min(bytes as usize));
            let mut at = 0;
            while at < bytes && !inner.closed.load(Ordering::Relaxed) {
                let length = (bytes - at).min(zeros.len() as u64);
                // A failure shows again at the first append, where it is counted.
                if ssd.device.write(offset + at, &[std::io::IoSlice::new(&zeros[..length as usize])]).is_err()
                {
                    break;
                }
                at += length;
            }
            ssd.with(|tier| tier.finish_prepare(segment));
            if !inner.closed.load(Ordering::Relaxed) {
                inner.start_preparing();
            }
        };
        ssd.lane.task(Priority::Background, Box::new(job));
    }

    /// Leaves the cache file in order: everything appended and sealed, and a checkpoint that says so.
    pub(super) fn close_ssd(self: &Arc<Self>) -> Result<()> {
        let Some(ssd) = self.ssd.as_ref().filter(|ssd| !ssd.is_off()) else { return Ok(()) };
        self.settle_ssd();
        let seals = ssd.with(Ssd::plan_seal_open);
        if !seals.is_empty() {
            ssd.seal(seals);
        }
        ssd.make_durable(None)?;
        ssd.wait_for_checkpoint();
        Ok(ssd.run_checkpoint(true)?)
    }
}

impl SsdTier {
    /// Empties one segment: blocks that were hit move on, the others are forgotten. `may_wait` says that nobody needs it
    /// free before the next seal. Segments that became full on the way are to be sealed.
    fn reclaim(&self, plan: &ReclaimPlan, may_wait: bool) -> Vec<SealPlan> {
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
    fn move_blocks(&self, moves: &[Move]) -> Option<SealPlan> {
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

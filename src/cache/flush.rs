//! Write-back, sync and flush: how dirty blocks get below, durably.
//!
//! A dirty block is *waiting*, then *writing* (its frame lent to one write below; newer writes go to a new frame and
//! make it dirty again), then *unsynced* until a sync that started after that write ended. Only then may it leave RAM.
//!
//! - Runs: waiting blocks are taken in address order, neighbours together; only sectors that were written go below.
//! - Epochs: a flush closes the current epoch. It is done when every block that became dirty in it or before is
//!   below, and a sync that started after that has returned. A block that is written again while it is being written
//!   is dirty in its new epoch; the old one ends with the write under way.
//! - Syncs are shared: a sync that has started covers only what ended before; whoever comes later waits for the next.
//! - Void first (rule 1): before a run is written below, the SSD's journal is durable as far as it was when the run
//!   was planned.
//! - A write that fails makes its blocks dirty again; they are tried again one by one, and those that fail alone are
//!   held back for a pause that doubles. A
//!   sync that fails makes all that it should have covered dirty again: it is written again before the next sync, and
//!   a failed sync is never taken for a success because a second one succeeds (rule 7). So every flush that waits then
//!   fails, whichever sync it waits for.
//!
//! Pace: nothing for `writeback_delay`, then one run at a time while blocks are dirty, two above the low mark, all
//! threads while someone waits. Never "when idle", never all at once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use terrace_tiers::block::{BlockId, BlockSize, SECTOR_BYTES, Version, VolumeId, mask};
use terrace_tiers::device::Device;

use super::read::Runner;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::{Error, TierError};
use crate::pool::{Lane, Priority, WritePiece, WriteRequest};
use crate::sync::{Blocker, Condvar, Mutex, wake_all};

/// The pause after a first failed write; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The end of a flush.
pub(super) type FlushDone = Box<dyn FnOnce(Result<()>) + Send>;

/// A volume that is attached.
pub(super) struct VolumeState {
    pub(super) id: VolumeId,
    pub(super) name: String,
    /// Reads as zeros past its end, so that the last block is one like the others.
    pub(super) device: Arc<dyn Device>,
    pub(super) len_bytes: u64,
    pub(super) lane: Lane,
    pub(super) dirty: Mutex<Dirty>,
    block_shift: u32,
    mode: WriteMode,
    /// The newest version of any block of the volume.
    version: AtomicU64,
    /// The ticker knows the volume.
    is_watched: AtomicBool,
}

/// What a volume is made of when it is attached.
pub(super) struct VolumeParts {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) device: Arc<dyn Device>,
    pub(super) lane: Lane,
    pub(super) mode: WriteMode,
    pub(super) version: Version,
}

impl VolumeState {
    pub(super) fn new(parts: VolumeParts, size: BlockSize) -> Self {
        let VolumeParts { id, name, device, lane, mode, version } = parts;
        let len_bytes = device.len_bytes();
        Self {
            id,
            name,
            device,
            len_bytes,
            lane,
            dirty: Mutex::new(Dirty::default()),
            block_shift: size.shift(),
            mode,
            version: AtomicU64::new(version.as_u64()),
            is_watched: AtomicBool::new(false),
        }
    }

    pub(super) fn mode(&self) -> WriteMode {
        self.mode
    }

    pub(super) fn version(&self) -> Version {
        Version::from_u64(self.version.load(Ordering::Acquire))
    }

    pub(super) fn raise_version(&self, version: Version) {
        self.version.fetch_max(version.as_u64(), Ordering::AcqRel);
    }

    pub(super) fn block_number(&self, offset: u64) -> u64 {
        offset >> self.block_shift
    }

    /// The bytes of a block that lie inside the volume.
    pub(super) fn bytes_of_block(&self, number: u64) -> usize {
        let start = number << self.block_shift;
        (self.len_bytes - start).min(1 << self.block_shift) as usize
    }

    pub(super) fn check_range(&self, offset: u64, bytes: usize) -> Result<()> {
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= self.len_bytes => Ok(()),
            _ => Err(Error::OutOfRange { offset, bytes: bytes as u64, volume_bytes: self.len_bytes }),
        }
    }
}

/// What of a volume is not durable below.
#[derive(Default)]
pub(super) struct Dirty {
    /// Numbers of blocks that are dirty and not being written. One that is being written may be here too, and is
    /// then passed over: the end of its write puts it back.
    waiting: BTreeSet<u64>,
    /// The epoch of writes made now.
    epoch: u64,
    /// Blocks dirty or being written, by the epoch they became dirty in; the last is `epoch`'s.
    outstanding: VecDeque<u64>,
    flushes: Vec<(u64, FlushDone)>,
    /// Runs under way.
    writing_runs: u32,
    /// Where the next run is looked for: write-back sweeps upwards.
    cursor: u64,
    /// Blocks were dirty for `writeback_delay`: write-back goes on until none is waiting.
    is_due: bool,
    syncs: Syncs,
    /// Dirty blocks that could not be written, or not be synced: they wait until the failure may be tried again.
    held_back: BTreeSet<u64>,
    failure: Option<Failure>,
    /// So many runs take one block each: a run failed, and one bad block must not hold its neighbours up.
    careful_runs: u64,
}

#[derive(Default)]
struct Syncs {
    /// How many syncs started.
    started: u64,
    /// How many of them failed.
    failures: u64,
    is_running: bool,
    /// Written below, no sync since: block and the sync that will cover it.
    unsynced: Vec<(u64, u64)>,
    /// Who waits for which sync.
    waiting: Vec<(u64, FlushDone)>,
}

struct Failure {
    pause: Duration,
    retry_at: Instant,
}

impl Dirty {
    /// A block became dirty; gives its epoch.
    pub(super) fn mark(&mut self, number: u64) -> u64 {
        self.waiting.insert(number);
        self.count_in(self.epoch, 1);
        self.epoch
    }

    pub(super) fn dirty_blocks(&self) -> u64 {
        self.outstanding.iter().sum()
    }

    pub(super) fn unsynced_blocks(&self) -> u64 {
        self.syncs.unsynced.len() as u64
    }

    fn is_clean(&self) -> bool {
        self.dirty_blocks() == 0 && self.syncs.unsynced.is_empty()
    }

    /// For [`Inner::assert_quiet`].
    pub(super) fn what_is_left(&self) -> Option<String> {
        let counts = [
            self.dirty_blocks(),
            self.unsynced_blocks(),
            self.waiting.len() as u64,
            self.held_back.len() as u64,
            self.flushes.len() as u64,
            self.writing_runs.into(),
            self.syncs.waiting.len() as u64,
            self.syncs.is_running.into(),
        ];
        counts.iter().any(|&count| count > 0).then(|| {
            format!(
                "dirty, unsynced, waiting, held back, flushes, runs, who waits for a sync, syncs: {counts:?}"
            )
        })
    }

    fn first_epoch(&self) -> u64 {
        self.epoch + 1 - self.outstanding.len().max(1) as u64
    }

    fn count_in(&mut self, epoch: u64, change: i64) {
        if self.outstanding.is_empty() {
            self.outstanding.push_back(0);
        }
        let index = (epoch - self.first_epoch()) as usize;
        self.outstanding[index] =
            self.outstanding[index].checked_add_signed(change).expect("epochs count up and down");
        while self.outstanding.len() > 1 && self.outstanding[0] == 0 {
            self.outstanding.pop_front();
        }
    }

    /// Closes the current epoch and gives it.
    fn close_epoch(&mut self) -> u64 {
        let closed = self.epoch;
        self.epoch += 1;
        if !self.outstanding.is_empty() {
            self.outstanding.push_back(0);
        }
        self.count_in(self.epoch, 0);
        closed
    }

    fn is_written(&self, epoch: u64) -> bool {
        epoch < self.first_epoch()
    }

    /// A dirty block failed: it is not tried again before a pause has passed, its neighbours are.
    fn hold_back(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.held_back.insert(number);
    }

    /// Blocks were held back: those that fail before they are tried again share the pause.
    fn note_failure(&mut self) {
        let now = Instant::now();
        let pause = match &self.failure {
            Some(before) if now < before.retry_at => return,
            Some(before) => (before.pause * 2).min(RETRY_MAX),
            None => RETRY_MIN,
        };
        self.failure = Some(Failure { pause, retry_at: now + pause });
    }

    /// Blocks that were held back long enough wait like the others again.
    fn take_held_back(&mut self) {
        if self.failure.as_ref().is_none_or(|failure| Instant::now() >= failure.retry_at) {
            self.waiting.append(&mut self.held_back);
        }
    }

    /// Takes up to `count` waiting neighbours, from the cursor on and round.
    fn take_run(&mut self, count: usize) -> Vec<u64> {
        let from = self.waiting.range(self.cursor..).next().or_else(|| self.waiting.first());
        let Some(&first) = from else { return Vec::new() };
        let run: Vec<u64> = (first..).take(count).take_while(|number| self.waiting.remove(number)).collect();
        self.cursor = first + run.len() as u64;
        run
    }

    /// The flushes whose blocks are all below wait for a sync from now on; true when the caller has to start it.
    #[must_use]
    fn await_sync_of_written(&mut self) -> bool {
        let first = self.first_epoch();
        let (ready, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flushes).into_iter().partition(|(epoch, _)| *epoch < first);
        self.flushes = rest;
        ready.into_iter().fold(false, |starts, (_, done)| self.await_sync(done) || starts)
    }

    /// `done` waits for a sync that starts after this; true when the caller has to start it.
    ///
    /// From the look at what is written to this it takes one hold of the lock: a sync that fails must find every flush
    /// that has to fail with it.
    #[must_use]
    fn await_sync(&mut self, done: FlushDone) -> bool {
        self.syncs.waiting.push((self.syncs.started + 1, done));
        !std::mem::replace(&mut self.syncs.is_running, true)
    }
}

/// A block lent to a write below.
struct TakenBlock {
    block: BlockId,
    version: Version,
    epoch: u64,
    /// The sectors that are written.
    sectors: SmallVec<[u64; 1]>,
}

/// Neighbouring blocks that are written below together.
struct Group {
    blocks: Vec<TakenBlock>,
    run_bytes_max: usize,
    /// Stretches of bytes without a hole: where each starts, and its pieces.
    runs: Vec<(u64, Vec<WritePiece>)>,
}

impl Inner {
    /// Takes those of `numbers` (ascending) that are dirty and not being written.
    fn take_group(&self, volume: &VolumeState, numbers: &[u64]) -> Group {
        let mut group =
            Group { blocks: Vec::new(), run_bytes_max: self.limits.run_bytes_max, runs: Vec::new() };
        for &number in numbers {
            let block = BlockId::new(volume.id, number);
            let mut shard = self.shard(block);
            let Some((_, entry)) = shard.entry_of(block) else { continue };
            if !entry.dirty || entry.writing {
                continue;
            }
            let frame = entry.frame.clone().expect("a dirty block has a frame");
            let (version, epoch) = (entry.version, entry.dirty_epoch);
            (entry.dirty, entry.writing) = (false, true);
            let masks = entry.sectors_mut(self.size);
            let sectors = SmallVec::from_slice(masks.dirty());
            masks.dirty_mut().fill(0);
            drop(shard);
            let start = block.byte_offset(self.size);
            for run in mask::runs(&sectors, self.size.sectors()) {
                let end = (run.end * SECTOR_BYTES).min(volume.bytes_of_block(number));
                group.push_piece(
                    start,
                    WritePiece { frame: frame.clone(), range: run.start * SECTOR_BYTES..end },
                );
            }
            group.blocks.push(TakenBlock { block, version, epoch, sectors });
        }
        group
    }

    /// Writes a group below, on this thread, and finishes it.
    fn run_group(self: &Arc<Self>, volume: &Arc<VolumeState>, group: Group, priority: Priority) {
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
        self.make_voids_durable();
        let under_way = Arc::new(GroupUnderWay {
            blocks: group.blocks,
            failures_before: volume.dirty.lock().syncs.failures,
            left: Mutex::new((group.runs.len(), Ok(()))),
        });
        for (offset, pieces) in group.runs {
            let (inner, volume_again, under_way) = (self.clone(), volume.clone(), under_way.clone());
            let done = Box::new(move |result| {
                if let Some(result) = under_way.run_ended(result) {
                    inner.finish_group(&volume_again, &under_way.blocks, under_way.failures_before, result);
                }
            });
            let device = volume.device.clone();
            submit(&volume.lane, WriteRequest { priority, device, offset, pieces, done });
        }
    }

    /// The writes of a group ended, which began when so many syncs had failed.
    fn finish_group(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        blocks: &[TakenBlock],
        failures_before: u64,
        result: Result<(), TierError>,
    ) {
        let mut acknowledged = Vec::new();
        let mut again = Vec::new();
        for taken in blocks {
            let mut shard = self.shard(taken.block);
            let size = self.size;
            let (_, entry) = shard.entry_of(taken.block).expect("a block that is being written stays");
            entry.writing = false;
            let masks = entry.sectors_mut(size);
            let mut dirty = volume.dirty.lock();
            // A sync that failed meanwhile may have dropped what this write gave to the device.
            if result.is_ok() && dirty.syncs.failures == failures_before {
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
            drop(dirty);
            if let Some(waiters) = shard.write_waiters.remove(&taken.block) {
                let (ready, later): (Vec<_>, Vec<_>) = waiters
                    .into_iter()
                    .partition(|waiter| result.is_err() || waiter.version <= taken.version);
                acknowledged.extend(ready);
                if !later.is_empty() {
                    debug_assert!(is_dirty, "a later write to {} is not dirty", taken.block);
                    shard.write_waiters.insert(taken.block, later);
                    again.push(taken.block.number());
                }
            }
        }
        for waiter in acknowledged {
            waiter.deliver(result.clone());
        }
        self.after_group(volume, blocks.len() as u64, result);
        if !again.is_empty() {
            self.write_back_blocks(volume, &again, Runner::Pool(Priority::Awaited));
        }
    }

    /// Tells the flushes, notes the failure, starts a sync if one is due.
    fn after_group(self: &Arc<Self>, volume: &Arc<VolumeState>, blocks: u64, result: Result<(), TierError>) {
        let mut dirty = volume.dirty.lock();
        match result {
            Ok(()) => {
                if dirty.held_back.is_empty() {
                    dirty.failure = None;
                }
                let starts = dirty.await_sync_of_written();
                drop(dirty);
                if starts {
                    self.start_sync(volume);
                }
            }
            Err(error) => {
                if blocks > 1 {
                    dirty.careful_runs = 2 * blocks;
                } else {
                    dirty.note_failure();
                }
                let failed = std::mem::take(&mut dirty.flushes);
                let blocks = dirty.dirty_blocks();
                drop(dirty);
                for (_, done) in failed {
                    done(Err(Error::StillDirty {
                        volume: volume.name.clone(),
                        blocks,
                        cause: error.clone(),
                    }));
                }
                self.ticker.watch(volume);
            }
        }
        self.sync_if_due(volume);
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
            }
        }
        match runner {
            Runner::Caller => self.run_group(volume, group, Priority::Foreground),
            // Neighbours that other calls write meanwhile go along.
            Runner::Pool(priority) if !self.has_pending_voids() => {
                self.submit_group(volume, group, priority, Lane::write);
            }
            Runner::Pool(priority) => {
                let (inner, volume_again) = (self.clone(), volume.clone());
                volume.lane.task(priority, Box::new(move || inner.run_group(&volume_again, group, priority)));
            }
        }
    }

    /// Keeps as many runs of the volume under way as its pace asks for.
    pub(super) fn pump(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        loop {
            let (numbers, priority) = {
                let mut dirty = volume.dirty.lock();
                dirty.take_held_back();
                let Some(priority) = self.pace(&dirty) else { return };
                let count = if dirty.careful_runs > 0 {
                    1
                } else {
                    (self.limits.run_bytes_max / self.size.bytes()).max(1)
                };
                dirty.careful_runs = dirty.careful_runs.saturating_sub(1);
                let numbers = dirty.take_run(count);
                if numbers.is_empty() {
                    dirty.is_due = false;
                    return;
                }
                dirty.writing_runs += 1;
                (numbers, priority)
            };
            let (inner, volume_again) = (self.clone(), volume.clone());
            let job = move || {
                let group = inner.take_group(&volume_again, &numbers);
                if !group.blocks.is_empty() {
                    inner.run_group(&volume_again, group, priority);
                }
                volume_again.dirty.lock().writing_runs -= 1;
                inner.pump(&volume_again);
                inner.sync_if_due(&volume_again);
            };
            volume.lane.task(priority, Box::new(job));
        }
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
            u32::from(dirty.is_due)
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
        self.flush_open(&volume, next);
    }

    /// Starts a sync when blocks wait for one to leave RAM, and someone waits for them or many are.
    fn sync_if_due(self: &Arc<Self>, volume: &Arc<VolumeState>) {
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
            self.throttle.is_over_low() && is_half
        };
        drop(dirty);
        if is_due && self.is_continuous() {
            self.sync_volume(volume, Box::new(|_| ()));
        }
    }

    /// Syncs the backing store; `done` runs when a sync that started after this call has ended.
    fn sync_volume(self: &Arc<Self>, volume: &Arc<VolumeState>, done: FlushDone) {
        let starts = volume.dirty.lock().await_sync(done);
        if starts {
            self.start_sync(volume);
        }
    }

    fn start_sync(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let (inner, volume_again) = (self.clone(), volume.clone());
        volume.lane.task(Priority::Awaited, Box::new(move || inner.run_sync(&volume_again)));
    }

    fn run_sync(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let (number, mut covered) = {
            let mut dirty = volume.dirty.lock();
            dirty.syncs.started += 1;
            (dirty.syncs.started, std::mem::take(&mut dirty.syncs.unsynced))
        };
        let result = volume.device.sync().map_err(Arc::new);
        self.counters.disk_syncs.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            // Writes that ended while it ran are no safer than those before it.
            let mut dirty = volume.dirty.lock();
            dirty.syncs.failures += 1;
            covered.append(&mut dirty.syncs.unsynced);
        }
        covered.sort_unstable();
        covered.dedup();
        for &(block, _) in &covered {
            self.finish_synced(volume, BlockId::new(volume.id, block), number, result.is_ok());
        }
        let mut dirty = volume.dirty.lock();
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
        entry.unsynced = false;
        let is_dirty = entry.dirty;
        let masks = entry.sectors_mut(size);
        if !is_ok {
            // What the failed sync left undone is unknown: the block is written again before the next one (rule 7).
            let unsynced: SmallVec<[u64; 4]> = SmallVec::from_slice(masks.unsynced());
            mask::add(masks.dirty_mut(), &unsynced);
            masks.unsynced_mut().fill(0);
            if !is_dirty {
                let epoch = volume.dirty.lock().mark(block.number());
                (entry.dirty, entry.dirty_epoch) = (true, epoch);
            }
            volume.dirty.lock().hold_back(block.number());
            return;
        }
        masks.unsynced_mut().fill(0);
        if entry.is_pinned() {
            return;
        }
        shard.settle_entry(slot);
        drop(shard);
        wake_all(self.throttle.remove());
    }

    /// Runs `done` when every write acknowledged before this call is durable below.
    pub(super) fn flush(self: &Arc<Self>, volume: &Arc<VolumeState>, done: FlushDone) {
        if let Err(error) = self.check_open() {
            return done(Err(error));
        }
        self.flush_open(volume, done);
    }

    fn flush_open(self: &Arc<Self>, volume: &Arc<VolumeState>, done: FlushDone) {
        let mut dirty = volume.dirty.lock();
        let epoch = dirty.close_epoch();
        // Someone waits: a pause after a failure ends here.
        if let Some(failure) = &mut dirty.failure {
            failure.retry_at = Instant::now();
        }
        dirty.take_held_back();
        if dirty.is_written(epoch) {
            if dirty.syncs.unsynced.is_empty() && !dirty.syncs.is_running {
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
        self.pump(volume);
    }

    pub(super) fn flush_blocking(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        self.check_open()?;
        self.flush_while_closing(volume)
    }

    /// A blocking flush that also works while the cache closes.
    pub(super) fn flush_while_closing(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        let blocker = Arc::new(Blocker::default());
        let set = blocker.clone();
        self.flush_open(volume, Box::new(move |result| set.set(result)));
        blocker.wait()
    }
}

/// A group whose runs are with the pool.
struct GroupUnderWay {
    blocks: Vec<TakenBlock>,
    failures_before: u64,
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

/// A thread that looks at volumes with dirty blocks from time to time, so that none stays dirty longer than it must,
/// and wakes callers that wait for a release. It sleeps while there is neither.
pub(super) struct Ticker {
    watched: Mutex<Watched>,
    changed: Condvar,
}

#[derive(Default)]
struct Watched {
    volumes: Vec<Arc<VolumeState>>,
    wants_wake: bool,
    is_stopped: bool,
}

/// What the ticker's thread does next.
enum Turn {
    Wake,
    Tick(Vec<Arc<VolumeState>>),
    Stop,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self { watched: Mutex::new(Watched::default()), changed: Condvar::new() }
    }

    /// Has the callers woken that wait for a release. Takes no other lock and runs nothing.
    pub(super) fn want_wake(&self) {
        self.watched.lock().wants_wake = true;
        self.changed.notify_one();
    }

    /// Sees to it that what is dirty in `volume` goes below in time.
    pub(super) fn watch(&self, volume: &Arc<VolumeState>) {
        if !volume.is_watched.load(Ordering::SeqCst) && !volume.is_watched.swap(true, Ordering::SeqCst) {
            self.watched.lock().volumes.push(volume.clone());
            self.changed.notify_one();
        }
    }

    fn watched_volumes(&self) -> Vec<Arc<VolumeState>> {
        self.watched.lock().volumes.clone()
    }

    /// Leaves `volume` be until the next `watch`.
    fn forget(&self, volume: &Arc<VolumeState>) {
        self.watched.lock().volumes.retain(|other| !Arc::ptr_eq(other, volume));
        volume.is_watched.store(false, Ordering::SeqCst);
        // A write that came before the flag fell was not told to watch: look once more.
        if !volume.dirty.lock().is_clean() {
            self.watch(volume);
        }
    }

    pub(super) fn stop(&self) {
        self.watched.lock().is_stopped = true;
        self.changed.notify_one();
    }

    /// The ticker's thread; without a `delay` it only wakes.
    pub(super) fn run(&self, inner: &std::sync::Weak<Inner>, delay: Option<Duration>) {
        let mut next_tick = None;
        loop {
            let turn = self.next_turn(&mut next_tick, delay);
            let Some(inner) = inner.upgrade() else { return };
            match turn {
                Turn::Stop => return,
                Turn::Wake => wake_all(inner.released.take_parked()),
                Turn::Tick(volumes) => volumes.iter().for_each(|volume| inner.tick(volume)),
            }
        }
    }

    fn next_turn(&self, next_tick: &mut Option<Instant>, delay: Option<Duration>) -> Turn {
        let mut watched = self.watched.lock();
        loop {
            if watched.is_stopped {
                return Turn::Stop;
            }
            if std::mem::take(&mut watched.wants_wake) {
                return Turn::Wake;
            }
            let Some(delay) = delay.filter(|_| !watched.volumes.is_empty()) else {
                *next_tick = None;
                self.changed.wait(&mut watched);
                continue;
            };
            let at = *next_tick.get_or_insert_with(|| Instant::now() + delay);
            if Instant::now() >= at {
                *next_tick = None;
                return Turn::Tick(watched.volumes.clone());
            }
            self.changed.wait_until(&mut watched, at);
        }
    }
}

impl Inner {
    /// `writeback_delay` passed: what was dirty then is due, what was written is synced, and a clean volume is left be.
    fn tick(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let (is_clean, wants_sync) = {
            let mut dirty = volume.dirty.lock();
            dirty.take_held_back();
            dirty.is_due = !dirty.waiting.is_empty();
            // What is held back must not keep the others from being durable, and in RAM.
            let is_written = dirty.waiting.is_empty() && dirty.writing_runs == 0;
            let wants_sync = is_written && !dirty.syncs.unsynced.is_empty() && !dirty.syncs.is_running;
            (dirty.is_clean() && !dirty.syncs.is_running, wants_sync)
        };
        if wants_sync {
            self.sync_volume(volume, Box::new(|_| ()));
        }
        self.pump(volume);
        if is_clean {
            self.ticker.forget(volume);
        }
    }
}

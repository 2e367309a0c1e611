//! Destage: what the log on the SSD has and the backing store lacks goes below, in address order, one run of neighbours
//! after the other, round and round while there is something.
//!
//! - Tombstones first: a range that was discarded is discarded below before anything newer of it is written there, and
//!   what is older has been written by then, or never is.
//!
//! A run is read from the log and written below; after some of them a sync of the backing store, and only then the
//! copies in the log are no longer dirty. Only this writes below for a volume in mode `back-ssd`, one run at a time, so
//! that the last version is the last one below. It runs on the disk's lane behind every read, and hurries only when the
//! log is filled to its high mark or someone waits for its end. Below the low mark it begins with the ticker alone.
//!
//! What cannot be read or written holds up nothing but itself: a run that fails is written block by block, and the
//! next one begins behind the block that failed. Only when some failed and nothing at all could be written since the
//! last sync it rests for a while, and who waits is told; then it goes on behind them. After a discard that fails
//! nothing is written before that is tried again, since it may be on top of it.
//!
//! | situation                                        | test in `tests/back_ssd`                             |
//! |--------------------------------------------------|------------------------------------------------------|
//! | a block below cannot be written                  | `a_block_that_cannot_be_written_below_keeps_no_...`   |
//! | a block cannot be read from the log              | `a_block_that_cannot_be_read_keeps_no_other_...`      |

use std::io::IoSlice;
use std::sync::Arc;

use terrace_tiers::block::{SECTOR_BYTES, Version, mask};
use terrace_tiers::device::PageBuf;
use terrace_tiers::ssd::{DestageRun, LogRead, ReadVerdict, Tombstone};

use super::dirty::{Began, Failure, RETRY_MAX, RETRY_MIN, VolumeState};
use super::discard::discard_below;
use super::flush::FlushDone;
use super::ssd::SsdTier;
use super::{Inner, Result};
use crate::error::{Error, TierError};
use crate::pool::Priority;
use crate::stats::SsdFailure;
use crate::sync::atomic::Ordering;
use crate::sync::{Blocker, Instant};

/// Runs are synced together up to so many bytes.
const SYNC_BYTES: u64 = 64 << 20;
/// After so many blocks that cannot be read or written what was written is synced, and when that is nothing, it rests.
// 4: a few bad places are passed by at once, and of a device that is gone not every block is tried.
const FAILURES_MAX: u32 = 4;

/// Where the destage of a volume stands.
#[derive(Default)]
pub(super) struct Destage {
    is_running: bool,
    /// How many wait for its end, or need it to rest.
    holds: u32,
    /// Where the next run is looked for.
    cursor: u64,
    /// Who waits until the log has nothing of the volume.
    pub(super) drains: Vec<FlushDone>,
    failure: Option<Failure>,
    /// Something was written or discarded below that no sync has covered since: the log has it too.
    is_unsynced: bool,
    /// The volume is on its way out of a log that takes nothing any more: see `fall_back`.
    pub(super) is_leaving: bool,
    /// Who waits for the end of that.
    pub(super) flushes: Vec<FlushDone>,
}

/// Runs that are written below and not synced.
#[derive(Default)]
struct Written {
    /// Nothing of another goes with it.
    epoch: Option<u64>,
    reads: Vec<LogRead>,
    /// What runs are read into, one after the other: fresh pages for each would cost the threads that answer meanwhile an
    /// interrupt apiece when they are given back.
    buffer: Option<PageBuf>,
    tombstones: Vec<Tombstone>,
    bytes: u64,
    /// Syncs below that had failed when the first of them was written.
    failures_before: u64,
    /// How things stood then: a flush that came later is not told of what failed.
    began: Option<Began>,
    /// What could not be done since, and why the last of it; that ends the round if nothing else could.
    failures: u32,
    failure: Option<TierError>,
}

impl SsdTier {
    /// Reads a block from the log; which copy is not what was written. Of an SSD that is off there is no other time to read
    /// it.
    fn read_for_destage(&self, read: &LogRead, block: &mut [u8]) -> Result<Option<Version>, TierError> {
        let result = read.run(&*self.device, block);
        self.note(SsdFailure::Read, result.is_ok());
        match result {
            Err(error) if !self.is_off() => Err(Arc::new(error)),
            Err(_) => Ok(read.run(&*self.device, block).unwrap_or(Some(read.version))),
            Ok(spoilt) => Ok(spoilt),
        }
    }
}

impl Inner {
    /// Sees to it that the dirty blocks of `volume` in the log go below.
    pub(super) fn start_destage(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let Some(ssd) = self.ssd() else { return };
        let is_needed = self.needs_room(volume);
        let mut destage = volume.destage.lock();
        let is_early = destage.failure.as_ref().is_some_and(|failure| Instant::now() < failure.retry_at);
        let is_wanted = !destage.drains.is_empty()
            || !is_early && (is_needed || self.is_continuous() && !self.is_out(volume));
        if destage.is_running || destage.holds > 0 || !is_wanted {
            return;
        }
        destage.is_running = ssd.with(|tier| tier.has_destage(volume.id));
        if !destage.is_running {
            let drains = std::mem::take(&mut destage.drains);
            drop(destage);
            return drains.into_iter().for_each(|done| done(Ok(())));
        }
        drop(destage);
        self.submit_destage(volume, Written::default());
    }

    /// Waits until nothing of `volume` is dirty in the log.
    pub(super) fn drain_log(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        if self.ssd().is_none() {
            return Ok(());
        }
        let blocker = Arc::new(Blocker::default());
        let set = blocker.clone();
        volume.destage.lock().drains.push(Box::new(move |result| set.set(result)));
        self.start_destage(volume);
        blocker.wait()
    }

    /// Waits until no destage of `volume` is under way; none starts once the cache closes.
    pub(super) fn wait_for_destage(&self, volume: &VolumeState) {
        let mut destage = volume.destage.lock();
        while destage.is_running {
            volume.destage_ended.wait(&mut destage);
        }
    }

    /// Runs `work` while nothing of `volume` is being destaged. What is under way is synced first.
    pub(super) fn without_destage<T>(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        work: impl FnOnce() -> T,
    ) -> T {
        {
            let mut destage = volume.destage.lock();
            destage.holds += 1;
            while destage.is_running {
                volume.destage_ended.wait(&mut destage);
            }
        }
        let result = work();
        volume.destage.lock().holds -= 1;
        self.start_destage(volume);
        result
    }

    /// The log is about to lose what it has of `volume`, of which nothing is being destaged: what was written below, and could
    /// not be synced, is synced now. A backing store that takes nothing any more is given up.
    pub(super) fn sync_what_was_destaged(&self, volume: &VolumeState) {
        if volume.destage.lock().is_unsynced {
            let result = volume.device.sync();
            self.counters.disk_syncs.fetch_add(1, Ordering::Relaxed);
            volume.destage.lock().is_unsynced = result.is_err();
        }
    }

    /// Whether dirty blocks or discards wait for room in the log: a flush that closes the cache may be behind them. What
    /// fills the log may be another volume's, which nothing else has destaged then.
    fn needs_room(&self, volume: &VolumeState) -> bool {
        let waits = |volume: &VolumeState| {
            let dirty = volume.dirty.lock();
            !dirty.put_off.is_empty() || dirty.fences.waits_for_room()
        };
        waits(volume)
            || self.leaves_logs_be() && self.ticker.watched_volumes().iter().any(|other| waits(other))
    }

    /// Whether no volume is destaged by itself.
    fn leaves_logs_be(&self) -> bool {
        self.is_closed() || !self.is_continuous()
    }

    /// Dirty blocks of `volume` wait for room in the log.
    pub(super) fn make_room(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        self.start_destage(volume);
        if self.leaves_logs_be() {
            self.volumes().iter().for_each(|other| self.start_destage(other));
        }
    }

    /// Whether something of `volume` is to go below, and nothing could when that was tried last.
    pub(super) fn fails_to_destage(&self, volume: &VolumeState) -> bool {
        let has_failed = volume.destage.lock().failure.is_some();
        has_failed && self.ssd().is_some_and(|ssd| ssd.with(|tier| tier.has_destage(volume.id)))
    }

    pub(super) fn is_destaging(&self, volume: &VolumeState) -> bool {
        let destage = volume.destage.lock();
        destage.is_running || destage.failure.is_some()
    }

    fn submit_destage(self: &Arc<Self>, volume: &Arc<VolumeState>, written: Written) {
        let ssd = self.ssd().expect("there is a log to destage");
        let is_awaited = !volume.destage.lock().drains.is_empty();
        let is_pressed = is_awaited || ssd.with(|tier| tier.dirty_load()) >= self.limits.log_high;
        let priority = if is_pressed { Priority::Awaited } else { Priority::Background };
        let (inner, volume_again) = (self.clone(), volume.clone());
        volume.lane.task(priority, Box::new(move || inner.run_destage(&volume_again, written)));
    }

    /// One run, and what comes after it.
    fn run_destage(self: &Arc<Self>, volume: &Arc<VolumeState>, mut written: Written) {
        if written.is_empty() && written.failures == 0 {
            let began = volume.dirty.lock().begin();
            (written.failures_before, written.began) = (began.sync_failures, Some(began));
        }
        let run = if self.may_destage(volume) { self.next_run(volume, &written) } else { None };
        match run {
            None => return self.sync_destaged(volume, written),
            Some(DestageRun::Discard(tombstone)) => {
                written.epoch = Some(tombstone.epoch());
                match self.destage_discard(volume, &tombstone) {
                    Ok(()) => written.tombstones.push(tombstone),
                    // What comes next may be on top of it.
                    Err(error) => (written.failures, written.failure) = (FAILURES_MAX, Some(error)),
                }
            }
            Some(DestageRun::Write(run)) => {
                written.epoch = run.first().map(|read| read.epoch);
                self.destage_run(volume, run, &mut written);
            }
        }
        if written.failures >= FAILURES_MAX || written.bytes >= SYNC_BYTES {
            self.sync_destaged(volume, written);
        } else {
            self.submit_destage(volume, written);
        }
    }

    /// Whether another run may begin.
    fn may_destage(&self, volume: &VolumeState) -> bool {
        let needs_room = self.needs_room(volume);
        let destage = volume.destage.lock();
        destage.holds == 0 && (needs_room || !destage.drains.is_empty() || !self.is_out(volume))
    }

    /// The tombstones, and then the next neighbours from the cursor on; none at the end of the round.
    ///
    /// A block that is written over a tombstone goes to the log when that is durable, and so after the blocks that are
    /// planned here with it: what is read then is older, or in a round after the tombstone.
    fn next_run(&self, volume: &VolumeState, written: &Written) -> Option<DestageRun> {
        let ssd = self.ssd().expect("there is a log to destage");
        let count = (self.limits.run_bytes_max / self.size.bytes()).max(1);
        let mut destage = volume.destage.lock();
        let (after, from) = (written.tombstones.last(), destage.cursor);
        let run = ssd.with(|tier| tier.plan_destage(volume.id, written.epoch, after, from, count));
        if let DestageRun::Write(reads) = &run {
            destage.cursor = reads.last().map_or(0, |read| read.block.number() + 1);
            return (!reads.is_empty()).then_some(run);
        }
        Some(run)
    }

    fn destage_discard(
        self: &Arc<Self>,
        volume: &VolumeState,
        tombstone: &Tombstone,
    ) -> Result<(), TierError> {
        self.before_write_below(volume)?;
        let blocks = tombstone.blocks();
        let (start, end) = (blocks.start << volume.block_shift, blocks.end << volume.block_shift);
        let bytes = end.min(volume.len_bytes).saturating_sub(start);
        volume.destage.lock().is_unsynced = true;
        let discarded =
            if bytes == 0 { Ok(()) } else { discard_below(volume, start, bytes).map_err(Arc::new) };
        self.note_below(volume);
        discarded
    }

    /// Reads a run from the log and writes it below, what can be.
    fn destage_run(self: &Arc<Self>, volume: &Arc<VolumeState>, run: Vec<LogRead>, written: &mut Written) {
        let ssd = self.ssd().expect("there is a log to destage");
        let block_bytes = self.size.bytes();
        let bytes = run.len() * block_bytes;
        let buffer = written.buffer.take().filter(|buffer| buffer.len() >= bytes);
        let mut buffer = buffer.unwrap_or_else(|| PageBuf::zeroed(bytes));
        let mut reads: Vec<(LogRead, usize)> = Vec::new();
        for (index, read) in run.into_iter().enumerate() {
            let start = index * block_bytes;
            let spoilt = match ssd.read_for_destage(&read, &mut buffer[start..start + block_bytes]) {
                Ok(spoilt) => spoilt,
                Err(error) => {
                    written.note_failure(error);
                    continue;
                }
            };
            // A bad copy stays, named by an error to whoever reads it; one that went elsewhere has its own turn.
            match ssd.with(|tier| tier.finish_log_read(&read, spoilt)) {
                ReadVerdict::Valid => reads.push((read, start)),
                ReadVerdict::Corrupt => ssd.has_bad.store(true, Ordering::Relaxed),
                ReadVerdict::Moved => {}
            }
        }
        self.make_voids_durable();
        volume.destage.lock().is_unsynced = true;
        if self.write_destaged(volume, &reads, &buffer).is_err() {
            let alone =
                reads.iter().map(|read| self.write_destaged(volume, std::slice::from_ref(read), &buffer));
            if let Some((index, Err(error))) = alone.enumerate().find(|(_, result)| result.is_err()) {
                written.note_failure(Arc::new(error));
                volume.destage.lock().cursor = reads[index].0.block.number() + 1;
                reads.truncate(index);
            }
        }
        self.note_below(volume);
        written.bytes += reads.iter().map(|(read, _)| read.bytes()).sum::<u64>();
        written.reads.extend(reads.into_iter().map(|(read, _)| read));
        written.buffer = Some(buffer);
    }

    /// Writes below what was read from the log, each block to its place in `buffer`.
    fn write_destaged(
        &self,
        volume: &VolumeState,
        reads: &[(LogRead, usize)],
        buffer: &[u8],
    ) -> terrace_tiers::Result<()> {
        let mut pieces: Vec<(u64, Vec<IoSlice<'_>>, u64)> = Vec::new();
        for (read, start) in reads {
            let offset = read.block.byte_offset(self.size);
            let inside = volume.bytes_of_block(read.block.number());
            for run in mask::runs(&read.mask, self.size.sectors()) {
                let run = run.start * SECTOR_BYTES..(run.end * SECTOR_BYTES).min(inside);
                if run.is_empty() {
                    continue;
                }
                let slice = &buffer[start + run.start..start + run.end];
                let at = offset + run.start as u64;
                match pieces.last_mut() {
                    Some((_, slices, end)) if *end == at => {
                        slices.push(IoSlice::new(slice));
                        *end += slice.len() as u64;
                    }
                    _ => pieces.push((at, vec![IoSlice::new(slice)], at + slice.len() as u64)),
                }
            }
        }
        let write = |(offset, slices, _): (u64, Vec<IoSlice<'_>>, u64)| {
            volume.lane.write_in_task(&*volume.device, offset, &slices)
        };
        pieces.into_iter().try_for_each(write)
    }

    /// Ends a round, or a part of it, with a sync below.
    fn sync_destaged(self: &Arc<Self>, volume: &Arc<VolumeState>, written: Written) {
        if written.is_empty() {
            return self.end_destage(volume, written.began, written.failure.map_or(Ok(()), Err));
        }
        let (inner, volume_again) = (self.clone(), volume.clone());
        let done = move |result| inner.finish_destaged(&volume_again, &written, result);
        self.sync_volume(volume, Box::new(done));
    }

    fn finish_destaged(self: &Arc<Self>, volume: &Arc<VolumeState>, written: &Written, result: Result<()>) {
        let ssd = self.ssd().expect("there is a log to destage");
        // A sync that failed meanwhile may have dropped what was written before it (rule 7): these go below once more.
        let has_failed = volume.dirty.lock().syncs.failures != written.failures_before;
        match result {
            Ok(()) if !has_failed => {
                if let Err(cause) = self.finish_tombstones(&written.tombstones) {
                    return self.end_destage(volume, written.began, Err(cause));
                }
                ssd.with(|tier| {
                    written.reads.iter().for_each(|read| tier.finish_destage(read));
                    tier.retire_unneeded();
                });
                self.make_voids_durable();
                ssd.state.lock().times_room_was_made += 1;
                self.take_put_off(volume);
                if self.leaves_logs_be() {
                    self.ticker.watched_volumes().iter().for_each(|other| self.take_put_off(other));
                }
                {
                    let mut destage = volume.destage.lock();
                    (destage.failure, destage.is_unsynced) = (None, false);
                }
                self.submit_destage(volume, Written::default());
            }
            Ok(()) => self.submit_destage(volume, Written::default()),
            Err(Error::StillDirty { cause, .. }) => self.end_destage(volume, written.began, Err(cause)),
            Err(_) => self.end_destage(volume, written.began, Ok(())),
        }
    }

    /// Durably, before what was written over one counts as being below: a crash that brought the tombstone back would have
    /// it discarded once more, and a newer copy of such a block need not have what is below any more.
    fn finish_tombstones(&self, tombstones: &[Tombstone]) -> Result<(), TierError> {
        let ssd = self.ssd().expect("there is a log to destage");
        if tombstones.is_empty() {
            return Ok(());
        }
        ssd.with(|tier| tombstones.iter().for_each(|tombstone| tier.finish_tombstone(tombstone)));
        // Of one that is off nothing is brought back.
        ssd.make_all_durable().or_else(|cause| if ssd.is_off() { Ok(()) } else { Err(cause) })
    }

    /// There is room in the log again.
    pub(super) fn take_put_off(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let mut dirty = volume.dirty.lock();
        let mut put_off = std::mem::take(&mut dirty.put_off);
        let is_some = !put_off.is_empty() | dirty.fences.take_put_off();
        dirty.waiting.append(&mut put_off);
        drop(dirty);
        if is_some {
            self.pump(volume);
        }
    }

    /// The round found nothing, or failed, or the cache closes.
    fn end_destage(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        began: Option<Began>,
        result: Result<(), TierError>,
    ) {
        let ssd = self.ssd().expect("there is a log to destage");
        let is_needed = self.needs_room(volume);
        let mut destage = volume.destage.lock();
        let blocks = ssd.with(|tier| tier.dirty_blocks_of(volume.id));
        let is_runnable = ssd.with(|tier| tier.has_destage(volume.id));
        if result.is_ok() && destage.holds > 0 {
            destage.is_running = false;
            volume.destage_ended.notify_all();
            return;
        }
        let is_closing = self.is_out(volume) && !is_needed && destage.drains.is_empty();
        if result.is_ok() && is_runnable && !is_closing {
            destage.cursor = 0;
            drop(destage);
            return self.submit_destage(volume, Written::default());
        }
        destage.is_running = false;
        if result.is_err() {
            let pause =
                destage.failure.as_ref().map_or(RETRY_MIN, |before| (before.pause * 2).min(RETRY_MAX));
            destage.failure = Some(Failure { pause, retry_at: Instant::now() + pause });
        }
        let drains = std::mem::take(&mut destage.drains);
        volume.destage_ended.notify_all();
        drop(destage);
        for done in drains {
            done(match &result {
                Ok(()) if blocks == 0 => Ok(()),
                Ok(()) => Err(still_dirty(volume, blocks, unreadable())),
                Err(cause) => Err(still_dirty(volume, blocks, cause.clone())),
            });
        }
        let may_stay_full = result.is_err() || ssd.has_bad.load(Ordering::Relaxed);
        if let Err(error) = result {
            let (waits_for_room, began) = {
                let dirty = volume.dirty.lock();
                (dirty.put_off.len() as u64, began.unwrap_or_else(|| dirty.begin()))
            };
            // An opened file has room that nobody may use before all of it is read: that comes without destage.
            if waits_for_room > 0 && !ssd.with(|tier| tier.is_recovering()) {
                self.after_failed_group(volume, waits_for_room, began, &error);
            }
            self.ticker.watch(volume);
        }
        if may_stay_full {
            self.look_past_log(&ssd);
        }
    }
}

impl Written {
    fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.tombstones.is_empty()
    }

    fn note_failure(&mut self, cause: TierError) {
        (self.failures, self.failure) = (self.failures + 1, Some(cause));
    }
}

fn still_dirty(volume: &VolumeState, blocks: u64, cause: TierError) -> Error {
    Error::StillDirty { volume: volume.name.clone(), blocks, cause }
}

fn unreadable() -> TierError {
    Arc::new(terrace_tiers::Error::Damaged { what: "dirty blocks in its log cannot be read".into() })
}

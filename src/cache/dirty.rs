//! What of a volume is not durable below: the books of write-back, syncs and flushes.
//!
//! - Epochs: a flush closes the current epoch. It is done when every block that became dirty in it or before is below,
//!   and a sync that started after that has returned. A block that is written again while it is being written is dirty
//!   in its new epoch; the old one ends with the write under way.
//! - Syncs are numbered as they start. What is written below while one runs is covered by the next.
//! - Blocks that fail are taken one by one, and held back for a pause that doubles.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use terrace_tiers::block::{BlockSize, Version, VolumeId};
use terrace_tiers::device::Device;

use super::Result;
use super::destage::Destage;
use super::fence::Fences;
use super::flush::FlushDone;
use super::log::LoggedGroups;
use super::mark::VolumeMark;
use super::mode::Route;
use crate::config::WriteMode;
use crate::error::{Error, TierError};
use crate::pool::Lane;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Condvar, Instant, Mutex};

/// The pause after a first failed write; it doubles up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_millis(50);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);

/// A volume that is attached.
pub(super) struct VolumeState {
    pub(super) id: VolumeId,
    pub(super) name: String,
    /// Reads as zeros past its end, so that the last block is one like the others.
    pub(super) device: Arc<dyn Device>,
    pub(super) len_bytes: u64,
    pub(super) lane: Lane,
    pub(super) dirty: Mutex<Dirty>,
    pub(super) block_shift: u32,
    mode: AtomicU8,
    /// Changes under the lock of `dirty`.
    route: AtomicU8,
    pub(super) destage: Mutex<Destage>,
    pub(super) destage_ended: Condvar,
    /// See [`VolumeParts::first_epoch`].
    first_epoch: Option<u64>,
    /// The newest version of any block of the volume.
    pub(super) version: AtomicU64,
    /// The ticker knows the volume.
    pub(super) is_watched: AtomicBool,
    /// Calls are refused: it is detached, or about to be.
    pub(super) is_detached: AtomicBool,
    /// Some of its blocks cannot be read: `dirty` names them, and this changes under its lock.
    pub(super) has_unreadable: AtomicBool,
    /// With `dirty`: what a forget or a change of mode waits for may have ended.
    pub(super) fence_changed: Condvar,
    pub(super) mark: Option<VolumeMark>,
    /// Its clean copies are to outlive a crash.
    pub(super) is_exclusive: bool,
}

/// What a volume is made of when it is attached.
pub(super) struct VolumeParts {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) device: Arc<dyn Device>,
    pub(super) lane: Lane,
    pub(super) mode: WriteMode,
    pub(super) version: Version,
    /// Where what goes below by the log goes there in order: the log's number of the volume's epoch 0.
    pub(super) first_epoch: Option<u64>,
    pub(super) mark: Option<VolumeMark>,
    pub(super) is_exclusive: bool,
}

impl VolumeState {
    pub(super) fn new(parts: VolumeParts, size: BlockSize) -> Self {
        let VolumeParts { id, name, device, lane, mode, version, first_epoch, mark, is_exclusive } = parts;
        let len_bytes = device.len_bytes();
        Self {
            id,
            name,
            device,
            len_bytes,
            lane,
            dirty: Mutex::new(Dirty::default()),
            block_shift: size.shift(),
            mode: AtomicU8::new(mode as u8),
            route: AtomicU8::new(Route::of(mode) as u8),
            destage: Mutex::new(Destage::default()),
            destage_ended: Condvar::new(),
            first_epoch,
            version: AtomicU64::new(version.as_u64()),
            is_watched: AtomicBool::new(false),
            is_detached: AtomicBool::new(false),
            has_unreadable: AtomicBool::new(false),
            fence_changed: Condvar::new(),
            mark,
            is_exclusive,
        }
    }

    /// How a write that starts now is acknowledged.
    pub(super) fn mode(&self) -> WriteMode {
        let mode = self.mode.load(Ordering::Acquire);
        let modes = [WriteMode::Around, WriteMode::Through, WriteMode::Back, WriteMode::BackSsd];
        modes.into_iter().find(|&known| known as u8 == mode).expect("only modes are stored")
    }

    pub(super) fn set_mode(&self, mode: WriteMode) {
        self.mode.store(mode as u8, Ordering::Release);
    }

    /// See [`super::mode`]; it is what it is for as long as the lock of `dirty` is held.
    pub(super) fn route(&self) -> Route {
        let route = self.route.load(Ordering::Acquire);
        let routes = [Route::Below, Route::Changing, Route::Log];
        routes.into_iter().find(|&known| known as u8 == route).expect("only routes are stored")
    }

    /// The log's number of an epoch, or 0 where the log keeps no order.
    pub(super) fn log_epoch(&self, epoch: u64) -> u64 {
        self.first_epoch.map_or(0, |first| first + epoch)
    }

    /// Whether what goes below by the log goes there in order.
    pub(super) fn has_epochs(&self) -> bool {
        self.first_epoch.is_some()
    }

    /// Whether what became dirty in `epoch` may not go to the log yet, since not all before it is there: so whatever is in
    /// the log of an epoch, all of the ones before is there too.
    pub(super) fn must_keep_order(&self, dirty: &Dirty, epoch: u64) -> bool {
        self.first_epoch.is_some() && epoch > dirty.first_epoch()
    }

    /// Under the lock of `dirty`.
    pub(super) fn set_route(&self, route: Route) {
        self.route.store(route as u8, Ordering::Release);
    }

    /// Whether the log may have blocks of this volume that the backing store lacks, or soon will.
    pub(super) fn may_have_log(&self) -> bool {
        self.route() != Route::Below
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
        self.check_stretch(offset, bytes as u64)
    }

    /// As [`Self::check_range`], of what need not fit the memory.
    pub(super) fn check_stretch(&self, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len_bytes => Ok(()),
            _ => Err(Error::OutOfRange { offset, bytes, volume_bytes: self.len_bytes }),
        }
    }
}

/// What of a volume is not durable below.
#[derive(Default)]
pub(super) struct Dirty {
    /// Numbers of blocks that are dirty and not being written. One that is being written may be here too, and is
    /// then passed over: the end of its write puts it back.
    pub(super) waiting: BTreeSet<u64>,
    /// The epoch of writes made now.
    pub(super) epoch: u64,
    /// Blocks dirty or being written, and discards that are not below, by the epoch they became so in; the last is
    /// `epoch`'s.
    pub(super) outstanding: VecDeque<u64>,
    pub(super) flushes: Vec<(u64, FlushDone)>,
    /// Runs under way.
    pub(super) writing_runs: u32,
    /// Groups and discards on their way to the log.
    pub(super) logging: u32,
    /// Where the next run is looked for: write-back sweeps upwards.
    pub(super) cursor: u64,
    /// Blocks were dirty for `writeback_delay`: write-back goes on until none is waiting.
    pub(super) is_due: bool,
    pub(super) syncs: Syncs,
    pub(super) fences: Fences,
    /// Dirty blocks that could not be written, or not be synced: they wait until the failure may be tried again.
    pub(super) held_back: BTreeSet<u64>,
    /// Dirty blocks that found no room in the log: they wait for destage.
    pub(super) put_off: BTreeSet<u64>,
    /// Dirty blocks of an epoch that waits for the first one to be in the log.
    pub(super) later: BTreeSet<u64>,
    /// In the log and not durable, the oldest first: they wait for someone who needs a sync.
    pub(super) logged: LoggedGroups,
    /// `logged` has waited for `writeback_delay`.
    pub(super) log_is_due: bool,
    /// Blocks that only an SSD had which cannot be read.
    pub(super) unreadable: BTreeSet<u64>,
    pub(super) failure: Option<Failure>,
    /// So many runs take one block each: a run failed, and one bad block must not hold its neighbours up.
    pub(super) careful_runs: u64,
}

#[derive(Default)]
pub(super) struct Syncs {
    /// How many syncs started.
    pub(super) started: u64,
    /// How many of them failed.
    pub(super) failures: u64,
    /// Something was given to the backing store since the last one started.
    pub(super) is_behind: bool,
    /// See `synced`.
    pub(super) synced_through: Version,
    pub(super) is_running: bool,
    /// A sync failed, flushes said so, and then the caller forgot what it should have covered.
    pub(super) is_given_up: bool,
    /// The one that runs is to cover blocks in RAM.
    pub(super) covers_blocks: bool,
    /// Written below, no sync since: block and the sync that will cover it.
    pub(super) unsynced: Vec<(u64, u64)>,
    /// Blocks that `around` writes wrote below, no sync since: they are not in RAM.
    pub(super) passed: BTreeSet<u64>,
    /// Those of a sync that failed, and why: they cannot be written again.
    pub(super) lost: BTreeSet<u64>,
    pub(super) lost_by: Option<TierError>,
    /// Who waits for which sync.
    pub(super) waiting: Vec<(u64, FlushDone)>,
}

/// The state in which a write below, or a discard, began: what failed since concerns it, and what was asked for since is
/// not concerned when it fails.
#[derive(Clone, Copy)]
pub(super) struct Began {
    pub(super) sync_failures: u64,
    epoch: u64,
}

pub(super) struct Failure {
    pub(super) pause: Duration,
    pub(super) retry_at: Instant,
}

impl Syncs {
    /// Whether a sync that went well has covered all that was ever written below, by whomever.
    pub(super) fn is_all_covered(&self) -> bool {
        let is_settled = self.started > self.failures || self.is_given_up;
        self.unsynced.is_empty() && !self.is_running && is_settled
    }

    /// Whether no block waits for a sync of the backing store, so that one whose writes are in the log has nothing to
    /// wait for.
    pub(super) fn is_log_enough(&self) -> bool {
        self.unsynced.is_empty() && self.passed.is_empty() && !self.covers_blocks
    }
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
        (self.syncs.unsynced.len() + self.syncs.passed.len()) as u64
    }

    /// Whether something below waits for a sync.
    pub(super) fn needs_sync(&self) -> bool {
        self.unsynced_blocks() > 0 || self.fences.needs_sync()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.dirty_blocks() == 0 && !self.needs_sync()
    }

    /// For [`Inner::assert_quiet`].
    pub(super) fn what_is_left(&self) -> Option<String> {
        let counts = [
            self.dirty_blocks(),
            self.unsynced_blocks(),
            self.waiting.len() as u64,
            self.held_back.len() as u64,
            (self.put_off.len() + self.later.len()) as u64,
            self.logged.len() as u64,
            self.fences.count(),
            self.flushes.len() as u64,
            self.writing_runs.into(),
            self.syncs.waiting.len() as u64,
            self.syncs.is_running.into(),
        ];
        counts.iter().any(|&count| count > 0).then(|| {
            format!(
                "dirty, unsynced, waiting, held back, put off or for later, logged, fences, flushes, runs, who waits for a sync, syncs: \
                 {counts:?}"
            )
        })
    }

    /// A sync failed that should have covered these, which nobody holds.
    pub(super) fn note_lost(&mut self, mut passed: BTreeSet<u64>, cause: &TierError) {
        if !passed.is_empty() {
            self.syncs.lost.append(&mut passed);
            self.syncs.lost_by = Some(cause.clone());
        }
    }

    pub(super) fn lost_blocks(&self) -> u64 {
        (self.syncs.lost.len() + self.unreadable.len()) as u64
    }

    pub(super) fn lost_error(&self, volume: &str) -> Option<Error> {
        if !self.unreadable.is_empty() {
            let (volume, blocks) = (volume.to_owned(), self.unreadable.len() as u64);
            return Some(Error::LostWithSsd { volume, blocks });
        }
        let cause = self.syncs.lost_by.clone().filter(|_| !self.syncs.lost.is_empty())?;
        Some(Error::Lost { volume: volume.to_owned(), blocks: self.syncs.lost.len() as u64, cause })
    }

    pub(super) fn first_epoch(&self) -> u64 {
        self.epoch + 1 - self.outstanding.len().max(1) as u64
    }

    pub(super) fn count_in(&mut self, epoch: u64, change: i64) {
        if self.outstanding.is_empty() {
            self.outstanding.push_back(0);
        }
        let index = (epoch - self.first_epoch()) as usize;
        self.outstanding[index] =
            self.outstanding[index].checked_add_signed(change).expect("epochs count up and down");
        while self.outstanding.len() > 1 && self.outstanding[0] == 0 {
            self.outstanding.pop_front();
            self.waiting.append(&mut self.later);
        }
    }

    /// Closes the current epoch and gives it.
    pub(super) fn close_epoch(&mut self) -> u64 {
        let closed = self.epoch;
        self.epoch += 1;
        if !self.outstanding.is_empty() {
            self.outstanding.push_back(0);
        }
        self.count_in(self.epoch, 0);
        closed
    }

    pub(super) fn is_written(&self, epoch: u64) -> bool {
        epoch < self.first_epoch()
    }

    /// A block that became dirty in `epoch` is clean, or dirty again since it was taken.
    pub(super) fn finish_taken(&mut self, number: u64, epoch: u64, is_dirty: bool) {
        self.count_in(epoch, -1);
        if is_dirty {
            self.held_back.remove(&number);
            self.waiting.insert(number);
        }
    }

    /// A dirty block failed: it is not tried again before a pause has passed, its neighbours are.
    pub(super) fn hold_back(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.held_back.insert(number);
    }

    pub(super) fn begin(&self) -> Began {
        Began { sync_failures: self.syncs.failures, epoch: self.epoch }
    }

    /// Something that began so failed: the flushes that are to be told.
    ///
    /// For one that came since, that is the past: it waits, and what was held back is tried again at once.
    #[must_use]
    pub(super) fn take_failed_flushes(&mut self, began: Began) -> Vec<FlushDone> {
        let failed = self.take_flushes_before(began.epoch);
        if !self.flushes.is_empty() {
            self.end_pause();
        }
        failed
    }

    /// Someone waits: a pause after a failure ends here.
    pub(super) fn end_pause(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.retry_at = Instant::now();
        }
        self.take_held_back();
    }

    /// Blocks were held back: those that fail before they are tried again share the pause.
    /// Whether something is to go below, and nothing could when that was tried last.
    pub(super) fn is_failing(&self) -> bool {
        self.failure.is_some() && self.dirty_blocks() + self.unsynced_blocks() > 0
    }

    pub(super) fn note_failure(&mut self) {
        let now = Instant::now();
        let pause = match &self.failure {
            Some(before) if now < before.retry_at => return,
            Some(before) => (before.pause * 2).min(RETRY_MAX),
            None => RETRY_MIN,
        };
        self.failure = Some(Failure { pause, retry_at: now + pause });
    }

    /// Blocks that were held back long enough wait like the others again.
    pub(super) fn take_held_back(&mut self) {
        if self.failure.as_ref().is_none_or(|failure| Instant::now() >= failure.retry_at) {
            self.waiting.append(&mut self.held_back);
            self.fences.take_held_back();
        }
    }

    /// Takes up to `count` waiting neighbours, from the cursor on and round.
    pub(super) fn take_run(&mut self, count: usize) -> Vec<u64> {
        let from = self.waiting.range(self.cursor..).next().or_else(|| self.waiting.first());
        let Some(&first) = from else { return Vec::new() };
        let run: Vec<u64> = (first..).take(count).take_while(|number| self.waiting.remove(number)).collect();
        self.cursor = first + run.len() as u64;
        run
    }

    /// Takes up to `count` waiting blocks for the log, from the cursor on and round, in ascending order: there neighbours
    /// gain nothing, and what goes together is one record.
    pub(super) fn take_any(&mut self, count: usize) -> Vec<u64> {
        let round = self.waiting.range(self.cursor..).chain(self.waiting.range(..self.cursor));
        let mut taken: Vec<u64> = round.take(count).copied().collect();
        for number in &taken {
            self.waiting.remove(number);
        }
        self.cursor = taken.last().map_or(self.cursor, |last| last + 1);
        taken.sort_unstable();
        taken
    }

    /// What is in the log and not durable, for the caller to make it so.
    pub(super) fn take_logged(&mut self) -> LoggedGroups {
        self.log_is_due = false;
        std::mem::take(&mut self.logged)
    }

    /// Whether nothing waits for a sync of the backing store, so that a flush of what is in the log waits for nothing.
    pub(super) fn is_log_enough(&self) -> bool {
        self.syncs.is_log_enough() && !self.fences.needs_sync()
    }

    /// The flushes whose blocks are all in the log, when no sync of the backing store is left for any of them.
    pub(super) fn take_logged_flushes(&mut self) -> Vec<FlushDone> {
        if self.is_log_enough() { self.take_written_flushes() } else { Vec::new() }
    }

    /// The flushes whose blocks are all below, or in the log.
    fn take_written_flushes(&mut self) -> Vec<FlushDone> {
        self.take_flushes_before(self.first_epoch())
    }

    fn take_flushes_before(&mut self, epoch: u64) -> Vec<FlushDone> {
        let taken = self.flushes.extract_if(.., |(wanted, _)| *wanted < epoch);
        taken.map(|(_, done)| done).collect()
    }

    /// The flushes whose blocks are all below wait for a sync from now on; true when the caller has to start it.
    #[must_use]
    pub(super) fn await_sync_of_written(&mut self) -> bool {
        let mut starts = false;
        for done in self.take_written_flushes() {
            starts |= self.await_sync(done);
        }
        starts
    }

    /// `done` waits for a sync that starts after this; true when the caller has to start it.
    ///
    /// From the look at what is written to this it takes one hold of the lock: a sync that fails must find every flush
    /// that has to fail with it.
    #[must_use]
    pub(super) fn await_sync(&mut self, done: FlushDone) -> bool {
        self.syncs.waiting.push((self.syncs.started + 1, done));
        !std::mem::replace(&mut self.syncs.is_running, true)
    }
}

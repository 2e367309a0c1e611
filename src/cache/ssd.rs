//! The SSD as the cache drives it: where a block is, what is void, how it is doing.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use hashbrown::HashMap;
use terrace_tiers::block::{BlockId, BlockSize, Version};
use terrace_tiers::device::Device;
use terrace_tiers::ram::frames::FrameRef;
use terrace_tiers::ssd::{LogRead, ReadPlan, ReadVerdict, SealPlan, SlotPlan, Ssd, VoidMark};

use super::Inner;
use super::attach_ssd::Gone;
use super::fence::Stretch;
use super::index::FastHash;
use super::recover::SsdParts;
use super::steady::Steady;
use super::ticker::Ticker;
use crate::config::WriteMode;
use crate::error::TierError;
use crate::pool::Lane;
use crate::stats::{SsdFailure, Stats};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, Wake};

/// So many calls of a kind may fail one after the other before the SSD is switched off.
fn failures_max(kind: SsdFailure) -> u32 {
    match kind {
        // Without them voids are not durable.
        SsdFailure::Journal | SsdFailure::Checkpoint => 1,
        // Each has failed a flush.
        SsdFailure::Log => 3,
        // One bad place in the file, or a file system that is full for a moment, is not the end of it.
        SsdFailure::Append => 8,
        SsdFailure::Read => 32,
    }
}

/// The SSD as the cache drives it.
pub(super) struct SsdTier {
    pub(super) device: Arc<dyn Device>,
    pub(super) lane: Lane,
    pub(super) is_direct: bool,
    pub(super) state: Mutex<SsdState>,
    /// Frames were let go, the journal's writer is done, a record or a sync of the log, or nothing is under way any more.
    pub(super) changed: Condvar,
    /// Runs when the last summary of an opened file is read.
    pub(super) when_scanned: Mutex<Option<Wake>>,
    pub(super) is_off: AtomicBool,
    pub(super) size: BlockSize,
    /// Appends that are counted in the state and not started yet.
    pub(super) appends_wanted: AtomicU32,
    pub(super) write_operations: AtomicU64,
    pub(super) syncs: AtomicU64,
    /// Calls on the device that failed.
    pub(super) errors: AtomicU64,
    /// The log has blocks that it cannot give, and nobody else has.
    pub(super) has_bad: AtomicBool,
    /// Calls of each kind that failed, since one went well.
    failures: [AtomicU32; SsdFailure::ALL.len()],
    /// What it was switched off for; meaningful while it is off.
    off_for: AtomicU32,
    ticker: Arc<Ticker>,
    /// It is being detached: whoever still finds it demotes nothing to it. Set under the lock of its state.
    pub(super) is_leaving: AtomicBool,
    /// The last field: it goes after the device.
    pub(super) gone: Gone,
}

pub(super) struct SsdState {
    pub(super) tier: Ssd,
    /// Blocks whose append is queued or under way, with the place they go to.
    pub(super) on_the_way: HashMap<BlockId, (SlotPlan, FrameRef), FastHash>,
    /// In the order of the log.
    pub(super) queue: VecDeque<(SlotPlan, FrameRef)>,
    /// Frames in the queue, and of appends under way.
    pub(super) held_frames: usize,
    /// Appends under way.
    pub(super) appends: u32,
    /// Full segments that wait for their summary.
    pub(super) seals: Vec<SealPlan>,
    pub(super) is_sealing: bool,
    pub(super) is_reclaiming: bool,
    /// How often there may have come to be room in the log, since something was destaged or segments were emptied, or a way
    /// past it.
    pub(super) times_room_was_made: u64,
    pub(super) journal_is_writing: bool,
    pub(super) checkpoint_is_running: bool,
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
    /// It was discarded, and the backing store may still have it.
    Zeros,
}

impl SsdState {
    fn forget_on_the_way(&mut self, first: BlockId, count: u64) {
        let is_in = |block: BlockId| block >= first && block.as_u64() - first.as_u64() < count;
        self.on_the_way.retain(|&block, _| !is_in(block));
    }
}

impl SsdTier {
    pub(super) fn new(tier: Ssd, device: Arc<dyn Device>, is_direct: bool, parts: SsdParts) -> Self {
        let SsdParts { ticker, lane } = parts;
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
            times_room_was_made: 0,
            journal_is_writing: false,
            checkpoint_is_running: false,
            log_is_syncing: false,
        };
        Self {
            device: Arc::new(Steady(device)),
            lane,
            is_direct,
            state: Mutex::new(state),
            changed: Condvar::new(),
            when_scanned: Mutex::new(None),
            is_off: AtomicBool::new(false),
            size,
            appends_wanted: AtomicU32::new(0),
            write_operations: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            has_bad: AtomicBool::new(false),
            failures: Default::default(),
            off_for: AtomicU32::new(0),
            ticker,
            is_leaving: AtomicBool::new(false),
            gone: Gone::default(),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Why nothing can be made durable on it any more.
    pub(super) fn off_error(&self) -> TierError {
        Arc::new(terrace_tiers::Error::Damaged { what: "it failed and is switched off".into() })
    }

    /// Whether it is asked for blocks of a volume in this mode: once it is off, only for what nothing else has.
    pub(super) fn serves(&self, mode: WriteMode) -> bool {
        !self.is_off() || mode == WriteMode::BackSsd
    }

    /// Counts how a call on the device ended. So many of its kind that fail one after the other switch the SSD off.
    pub(super) fn note(&self, kind: SsdFailure, is_good: bool) {
        let failures = &self.failures[kind as usize];
        if is_good {
            if failures.load(Ordering::Relaxed) > 0 {
                failures.store(0, Ordering::Relaxed);
            }
            return;
        }
        self.errors.fetch_add(1, Ordering::Relaxed);
        if failures.fetch_add(1, Ordering::Relaxed) + 1 >= failures_max(kind) {
            self.switch_off(kind);
        }
    }

    /// Nothing is written to it from now on, and nothing clean is read. What waits for a record of the log is told.
    fn switch_off(&self, why: SsdFailure) {
        let mut state = self.state.lock();
        if self.is_off.swap(true, Ordering::SeqCst) {
            return;
        }
        self.off_for.store(why as u32, Ordering::Relaxed);
        // Under this lock, so that a record is either given up here or sees that it comes too late.
        state.tier.give_records_up();
        state.held_frames -= state.queue.len();
        state.queue.clear();
        state.on_the_way.clear();
        self.changed.notify_all();
        drop(state);
        self.ticker.want_logs_left();
    }

    /// Runs `work` on the tier's bookkeeping.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Ssd) -> T) -> T {
        work(&mut self.state.lock().tier)
    }

    /// Where `block` is, counted as a hit of the tier.
    pub(super) fn find(&self, block: BlockId) -> Option<OnSsd> {
        let mut state = self.state.lock();
        // Also when the tier is switched off, if nothing else has it: what is older must not be read in its place.
        let is_off = self.is_off();
        if let Some(read) = state.tier.plan_log_read(block).filter(|read| read.is_dirty || !is_off) {
            return Some(OnSsd::Logged(read));
        }
        if state.tier.is_buried(block) {
            return Some(OnSsd::Zeros);
        }
        if is_off {
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
        self.note(SsdFailure::Read, error.is_none());
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
        state.forget_on_the_way(first, count);
    }

    /// The same whether it is switched off or not, since what the log has is read all the same; and the journal entry
    /// that says so is durable.
    pub(super) fn void_range_durably(
        &self,
        first: BlockId,
        count: u64,
        version: Version,
    ) -> Result<(), TierError> {
        {
            let mut state = self.state.lock();
            if !state.tier.may_void_range(first, count) {
                let what = "it has too many discarded ranges that are not below yet".into();
                return Err(Arc::new(terrace_tiers::Error::Damaged { what }));
            }
            state.tier.void_range(first, count, version);
            state.forget_on_the_way(first, count);
        }
        self.make_all_durable()
    }

    /// The blocks of `stretch` read as zeros, durably, until they are discarded below; false when there is no room
    /// for another tombstone. `date` gives its version, under the lock that puts it among the others.
    pub(super) fn put_tombstone(
        &self,
        stretch: &Stretch,
        date: impl FnOnce() -> Version,
        epoch: u64,
    ) -> Result<bool, TierError> {
        let (first, count) = (stretch.first(), stretch.count());
        if self.is_off() {
            return Err(self.off_error());
        }
        {
            let mut state = self.state.lock();
            if state.tier.put_tombstone(first, count, date(), epoch).is_none() {
                return Ok(false);
            }
            state.forget_on_the_way(first, count);
        }
        let durable = self.make_all_durable();
        if durable.is_err() && self.is_off() {
            self.with(|tier| tier.withdraw_tombstones());
        }
        durable.map(|()| true)
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
        let off_for = self.off_for.load(Ordering::Relaxed);
        stats.ssd_off_for = SsdFailure::ALL.into_iter().find(|&why| self.is_off() && why as u32 == off_for);
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
        let is_busy = state.is_sealing
            || state.is_reclaiming
            || state.journal_is_writing
            || state.checkpoint_is_running
            || state.tier.is_scanning() && !self.is_off();
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
}

/// Its device, held together with it.
impl Device for SsdTier {
    fn name(&self) -> String {
        self.device.name()
    }

    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> terrace_tiers::Result<()> {
        self.device.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> terrace_tiers::Result<()> {
        self.device.write(offset, buffers)
    }

    fn sync(&self) -> terrace_tiers::Result<()> {
        self.device.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> terrace_tiers::Result<()> {
        self.device.discard(offset, bytes)
    }

    fn alignment(&self) -> usize {
        self.device.alignment()
    }
}

impl Inner {
    /// The SSD as it is now, if there is one.
    pub(super) fn ssd(&self) -> Option<Arc<SsdTier>> {
        self.ssd.read().clone()
    }

    /// The same, unless it was switched off.
    pub(super) fn ssd_in_use(&self) -> Option<Arc<SsdTier>> {
        self.ssd().filter(|ssd| !ssd.is_off())
    }
}

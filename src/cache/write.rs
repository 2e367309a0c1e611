//! Writing: bytes go into RAM at once, block by block; what happens then depends on the volume's mode.
//!
//! `back` is acknowledged there. `through` is the same, and then writes the blocks below and waits for that; so in
//! both modes a block is written below by one write-back at a time, and the last write to RAM is the last one below.
//! `around` is `through` whose blocks leave RAM when they are below, and go nowhere:
//!
//! 1. While it is under way its sectors are valid in RAM, so a fill that was planned before puts its bytes around them,
//!    and a block that is being filled stays until that fill has ended: no fill keeps what an `around` write replaced.
//! 2. A block with sectors that nobody wrote below yet, or that no sync covers and an earlier write left in RAM, stays
//!    until it is clean. What only `around` writes wrote is not held until the sync; if that fails, it is named lost.
//! 3. A later write of another mode keeps the block.
//!
//! A write waits only when it must:
//!
//! | it waits for | because                                                              | until                      |
//! |--------------|----------------------------------------------------------------------|----------------------------|
//! | room         | dirty and unsynced blocks reached the high mark                      | they are at the low mark   |
//! | a release    | no frame is free, or nothing in the block's shard may leave          | a block or a frame is freed|
//! | a fill       | it changes part of a sector that is not in RAM                       | the block is read          |
//!
//! The version of a write is taken, the copy on the SSD voided and the bytes stored under one hold of the shard's lock.

use std::sync::Arc;

use terrace_tiers::block::{BlockId, SECTOR_BYTES, Version, mask};
use terrace_tiers::ram::arc_policy::Slot;
use terrace_tiers::ssd::VoidMark;

use super::answer::Answer;
use super::dirty::VolumeState;
use super::fill::Runner;
use super::index::Shard;
use super::read::{Call, Piece, Wanted, pieces};
use super::tap::ReferenceKind;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::{Error, TierError};
use crate::pool::Priority;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Blocker, Instant, Mutex, Observed, wake_all};

/// The end of a write.
pub(super) type WriteDone = Box<dyn FnOnce(Result<Answer>) + Send>;

/// A `through` or `around` write whose blocks are not all below yet.
pub(super) struct WriteOperation {
    /// Blocks not yet below, and one for whoever plans the write.
    pending: AtomicU32,
    state: Mutex<WriteState>,
}

struct WriteState {
    answer: Answer,
    error: Option<Error>,
    done: Option<WriteDone>,
}

/// One block that a `through` write waits for, at its version or a later one.
pub(super) struct WriteWaiter {
    pub(super) version: Version,
    operation: Arc<WriteOperation>,
}

impl WriteWaiter {
    pub(super) fn deliver(self, result: Result<(), TierError>) {
        if let Err(error) = result {
            self.operation.state.lock().error = Some(Error::Tier(error));
        }
        self.operation.part_done();
    }
}

impl WriteOperation {
    fn new(done: WriteDone) -> Arc<Self> {
        let state = WriteState { answer: Answer::default(), error: None, done: Some(done) };
        Arc::new(Self { pending: AtomicU32::new(1), state: Mutex::new(state) })
    }

    fn part_done(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut state = self.state.lock();
        let done = state.done.take().expect("an operation completes once");
        let result = state.error.take().map_or(Ok(state.answer), Err);
        drop(state);
        done(result);
    }
}

/// What a write has to wait for before it can go on.
#[derive(Clone, Copy)]
enum Wait {
    Room,
    /// A block of its shard that may leave.
    Victim(Observed),
    Frame(Observed),
    Fill(BlockId),
    /// Nothing: the cache closes, or the volume is detached.
    Closed,
}

/// Runs when what was waited for has come, or cannot come.
type Resume = Box<dyn FnOnce(Result<()>) + Send>;

/// A write on its way through its blocks.
pub(super) struct WriteProgress {
    mode: WriteMode,
    offset: u64,
    /// Bytes of the data that are stored.
    stored_bytes: usize,
    answer: Answer,
    /// The end of a `through` write, until there is an operation, and then that.
    done: Option<WriteDone>,
    operation: Option<Arc<WriteOperation>>,
    blocks: Vec<u64>,
}

impl WriteProgress {
    fn new(mode: WriteMode, offset: u64, done: Option<WriteDone>) -> Self {
        Self {
            mode,
            offset,
            stored_bytes: 0,
            answer: Answer::default(),
            done,
            operation: None,
            blocks: Vec::new(),
        }
    }
}

impl Inner {
    /// Writes `data` at `offset`; returns when the mode's promise is kept.
    pub(super) fn write_blocking(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        data: &[u8],
    ) -> Result<Answer> {
        self.check_volume(volume)?;
        volume.check_range(offset, data.len())?;
        let mode = volume.mode();
        let blocker = mode.waits_for_backing().then(|| Arc::new(Blocker::default()));
        let done =
            blocker.clone().map(|blocker| -> WriteDone { Box::new(move |result| blocker.set(result)) });
        let mut progress = WriteProgress::new(mode, offset, done);
        while let Some(wait) = self.store_pieces(volume, data, &mut progress) {
            self.wait_blocking(volume, wait)?;
        }
        let answer = self.finish_stored(volume, progress, Runner::Caller);
        match (answer, blocker) {
            (None, Some(blocker)) => blocker.wait(),
            (answer, _) => Ok(answer.unwrap_or_default()),
        }
    }

    /// As [`Self::write_blocking`] with an end that is called, on whatever thread brings the last part.
    pub(super) fn write_with<D: AsRef<[u8]> + Send + 'static>(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        data: D,
        done: WriteDone,
    ) {
        if let Err(error) =
            self.check_volume(volume).and_then(|()| volume.check_range(offset, data.as_ref().len()))
        {
            return done(Err(error));
        }
        self.advance(volume, data, WriteProgress::new(volume.mode(), offset, Some(done)));
    }

    /// Goes on with a write of the callback entry until it is done or must wait.
    fn advance<D: AsRef<[u8]> + Send + 'static>(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        data: D,
        mut progress: WriteProgress,
    ) {
        let Some(wait) = self.store_pieces(volume, data.as_ref(), &mut progress) else {
            let done = progress.done.take();
            if let (Some(answer), Some(done)) =
                (self.finish_stored(volume, progress, Runner::Pool(Priority::Awaited)), done)
            {
                done(Ok(answer));
            }
            return;
        };
        let (inner, volume_again) = (self.clone(), volume.clone());
        let resume = move |result: Result<()>| match result {
            Ok(()) => inner.advance(&volume_again, data, progress),
            Err(error) => progress.fail(error),
        };
        self.park(volume, wait, Box::new(resume));
    }

    /// Stores block after block until all are stored (none), or one has to wait.
    fn store_pieces(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        data: &[u8],
        progress: &mut WriteProgress,
    ) -> Option<Wait> {
        let left = progress.stored_bytes..data.len();
        for piece in pieces(volume.id, progress.offset + left.start as u64, left.len(), self.size) {
            let bytes = &data[progress.stored_bytes..progress.stored_bytes + piece.bytes.len()];
            match self.store_piece(volume, &piece, bytes, progress) {
                Ok(was_resident) => progress.answer.ram_blocks += u32::from(was_resident),
                Err(wait) => return Some(wait),
            }
            progress.stored_bytes += bytes.len();
        }
        None
    }

    /// Stores the part of one block; tells whether it was resident.
    fn store_piece(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        piece: &Piece,
        data: &[u8],
        progress: &mut WriteProgress,
    ) -> Result<bool, Wait> {
        if self.is_out(volume) {
            return Err(Wait::Closed);
        }
        if self.throttle.must_wait() {
            return Err(Wait::Room);
        }
        let observed = self.released.observe();
        let spare = self.alloc_frame().ok_or(Wait::Frame(observed))?;
        let block = piece.block;
        let mut shard = self.shard(block);
        // Again, under the lock that whoever closes or detaches takes once before the flush: nothing is stored after that.
        if self.is_out(volume) {
            return Err(Wait::Closed);
        }
        let is_whole =
            [piece.bytes.start, piece.bytes.end].iter().all(|edge| edge.is_multiple_of(SECTOR_BYTES));
        let mut is_resident = shard.policy.lookup(block);
        if !is_whole {
            is_resident =
                is_resident.filter(|&slot| shard.edges_are_valid(slot, piece.bytes.start, piece.bytes.end));
            if is_resident.is_none() {
                // A block without a place would be read past the directory, and be as absent as before.
                let has_place = shard.has_place_for(block);
                return Err(if has_place { Wait::Fill(block) } else { Wait::Victim(observed) });
            }
        }
        if let Some(wait) = self.must_widen(volume, &shard, piece, is_resident) {
            return Err(wait);
        }
        let Ok((slot, departed)) = shard.find_for_write(block) else { return Err(Wait::Victim(observed)) };
        let passes = volume.mode() == WriteMode::Around;
        self.tap.note(block, if passes { ReferenceKind::Pass } else { ReferenceKind::Write });
        if let Some(departed) = departed {
            self.demote(departed);
        }
        let version = self.next_version();
        volume.raise_version(version);
        let (was_dirty, was_pinned) = {
            let entry = &shard.entries[slot.index()];
            (entry.dirty, entry.is_pinned())
        };
        if !was_dirty && let Some(ssd) = self.ssd() {
            match progress.mode {
                // Whatever the mode: the log's copy goes when something newer is durable.
                _ if volume.may_have_log() => ssd.void_clean(block, version),
                WriteMode::Through | WriteMode::Around => ssd.void(block, version, VoidMark::Region),
                WriteMode::Back | WriteMode::BackSsd => ssd.void(block, version, VoidMark::Exact),
            }
        }
        let left_over = shard.store(slot, piece.bytes.start, data, version, spare);
        if piece.bytes.len() >= volume.bytes_of_block(block.number()) {
            volume.make_readable(&(block.number()..block.number() + 1));
        }
        if !was_dirty {
            let epoch = volume.dirty.lock().mark(block.number());
            let entry = &mut shard.entries[slot.index()];
            (entry.dirty, entry.dirty_epoch) = (true, epoch);
        }
        if !was_pinned {
            self.throttle.add();
        }
        shard.entries[slot.index()].passes = progress.mode == WriteMode::Around;
        if progress.mode.waits_for_backing() {
            let operation = progress.operation();
            operation.pending.fetch_add(1, Ordering::Relaxed);
            let waiter = WriteWaiter { version, operation };
            shard.write_waiters.entry(block).or_default().push(waiter);
            progress.blocks.push(block.number());
        }
        drop(shard);
        drop(left_over);
        self.start_wanted_appends();
        if !was_dirty {
            self.ticker.watch(volume);
        }
        Ok(is_resident.is_some())
    }

    /// Whether the write must wait for a fill because the log's next copy is to have sectors of the block that RAM will not
    /// have.
    fn must_widen(
        &self,
        volume: &VolumeState,
        shard: &Shard,
        piece: &Piece,
        resident: Option<Slot>,
    ) -> Option<Wait> {
        if !volume.may_have_log() {
            return None;
        }
        let wanted = self.ssd()?.wanted_mask(piece.block)?;
        let entry = resident.map(|slot| &shard.entries[slot.index()]);
        let written = piece.sectors();
        let has = |sector: usize| {
            written.contains(&sector) || entry.is_some_and(|entry| entry.has(sector..sector + 1))
        };
        let is_wide = mask::runs(&wanted, self.size.sectors()).flatten().all(has);
        (!is_wide).then_some(Wait::Fill(piece.block))
    }

    /// All bytes are in RAM: a `back` write is done, a `through` write goes below.
    fn finish_stored(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        progress: WriteProgress,
        runner: Runner,
    ) -> Option<Answer> {
        let Some(operation) = progress.operation else {
            if self.throttle.is_over_low() {
                self.pump(volume);
            }
            return Some(progress.answer);
        };
        operation.state.lock().answer = progress.answer;
        self.write_back_blocks(volume, &progress.blocks, runner);
        operation.part_done();
        None
    }

    /// A frame, if one is free, or is now that the first try asked for it.
    pub(super) fn alloc_frame(&self) -> Option<terrace_tiers::ram::frames::FrameMut> {
        self.frames.alloc().or_else(|| {
            self.frames.want();
            self.frames.alloc()
        })
    }

    /// Runs `resume` when what `wait` names has come; sees to it that it comes.
    fn park(self: &Arc<Self>, volume: &Arc<VolumeState>, wait: Wait, resume: Resume) {
        match wait {
            Wait::Closed => resume(self.check_volume(volume)),
            Wait::Room | Wait::Victim(_) if !self.is_continuous() => self.flush_watched(resume),
            Wait::Room => {
                self.throttle.park(Box::new(|| resume(Ok(()))));
                self.hurry();
            }
            Wait::Victim(observed) | Wait::Frame(observed) => {
                self.throttle.pressed.fetch_add(1, Ordering::SeqCst);
                let inner = self.clone();
                let wake = move || {
                    inner.throttle.pressed.fetch_sub(1, Ordering::SeqCst);
                    resume(Ok(()));
                };
                self.released.park(observed, Box::new(wake));
                self.hurry();
            }
            Wait::Fill(block) => {
                let (offset, bytes) = (block.byte_offset(self.size), volume.bytes_of_block(block.number()));
                let runner = Runner::Pool(Priority::Foreground);
                let (inner, volume_again, observed) = (self.clone(), volume.clone(), self.released.observe());
                let filled = move |read: Result<_>| match read {
                    // The frame that was free before has gone to another call.
                    Err(Error::WouldBlock) => inner.park(&volume_again, Wait::Frame(observed), resume),
                    read => resume(read.map(drop)),
                };
                self.read_with(volume, offset, bytes, runner, Box::new(filled));
            }
        }
        if self.is_out(volume) {
            // Whoever closed or detached may have woken all that waited before this one did.
            self.wake_writers();
        }
    }

    /// Lets all that wait for a frame, a block or room look again; at once, on this thread, which holds no lock.
    pub(super) fn wake_writers(&self) {
        self.released.change();
        wake_all(self.released.take_parked());
        wake_all(self.throttle.open());
    }

    fn wait_blocking(self: &Arc<Self>, volume: &Arc<VolumeState>, wait: Wait) -> Result<()> {
        if let Wait::Fill(block) = wait {
            let (offset, bytes) = (block.byte_offset(self.size), volume.bytes_of_block(block.number()));
            return self.read_blocking(volume, offset, bytes, (Call::Part, Wanted::All)).map(drop);
        }
        // Readers may hold frames for as long as they like; what is dirty is on its way.
        if let Wait::Frame(observed) = wait {
            self.throttle.pressed.fetch_add(1, Ordering::SeqCst);
            self.hurry();
            let came = self.wait_for_frame(observed, Instant::now() + self.limits.frame_wait);
            self.throttle.pressed.fetch_sub(1, Ordering::SeqCst);
            return if came { Ok(()) } else { Err(Error::WouldBlock) };
        }
        let blocker = Arc::new(Blocker::default());
        let wake = blocker.clone();
        self.park(volume, wait, Box::new(move |result| wake.set(result)));
        blocker.wait()
    }

    /// Waits for a release after `observed`; false when none came until then and it is readers who hold the frames, not
    /// I/O under way, which ends however slow it is.
    pub(super) fn wait_for_frame(&self, observed: Observed, mut until: Instant) -> bool {
        while !self.wait_for_release(observed, until) {
            let is_under_way = self.shards.iter().any(|shard| !shard.lock().fills.is_empty())
                || self.ssd().is_some_and(|ssd| ssd.holds_frames())
                || self.lanes.lock().values().any(|lane| lane.depth() > 0);
            if !is_under_way {
                return false;
            }
            until = Instant::now() + self.limits.frame_wait;
        }
        true
    }

    /// Waits for a release after `observed`; false when none came until then.
    pub(super) fn wait_for_release(&self, observed: Observed, until: Instant) -> bool {
        let blocker = Arc::new(Blocker::default());
        let wake = blocker.clone();
        let ticket = self.released.park(observed, Box::new(move || wake.set(())));
        let came = blocker.wait_for(until.saturating_duration_since(Instant::now())).is_some();
        if !came {
            self.released.unpark(ticket);
        }
        came
    }
}

impl WriteProgress {
    fn operation(&mut self) -> Arc<WriteOperation> {
        let done = &mut self.done;
        let new = || WriteOperation::new(done.take().expect("a `through` write has an end"));
        self.operation.get_or_insert_with(new).clone()
    }

    /// The write cannot go on; what it stored stays, and goes below with the next flush.
    fn fail(self, error: Error) {
        match (self.operation, self.done) {
            (Some(operation), _) => {
                operation.state.lock().error = Some(error);
                operation.part_done();
            }
            (None, Some(done)) => done(Err(error)),
            (None, None) => {}
        }
    }
}

//! A volume as callers see it: three entries over one engine.
//!
//! | entry    | a hit                                  | a miss                                                         |
//! |----------|----------------------------------------|----------------------------------------------------------------|
//! | blocking | on the caller's thread                 | the caller runs its own I/O, or waits for another's            |
//! | callback | on the caller's thread, before it returns | on the pool, or with the I/O of another caller              |
//! | future   | at the first poll                      | the same                                                       |
//!
//! A caller that has nothing else to do while an SSD reads says so ([`Volume::read_near_with`]), and saves the hand-off.
//!
//! The callback, or the waker of the task, runs on the thread that brings the last part: a worker, or another caller
//! that runs the I/O it shares.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use terrace_recording::Kind;
use terrace_tiers::block::{BlockSize, VolumeId};
use terrace_tiers::device::{Device, Extent};

use super::answer::{Answer, Blocks};
use super::dirty::VolumeState;
use super::fill::Runner;
use super::place::BlockPlace;
use super::read::{Call, ReadDone, Wanted};
use super::{Cache, Handle, Inner, Result};
use crate::config::{AttachOptions, WriteMode};
use crate::error::Error;
use crate::pool::Priority;
use crate::sync::atomic::Ordering;
use crate::sync::{Blocker, Instant, Mutex};

impl Cache {
    /// Puts the cache in front of `device`, whose size must not change while it is attached.
    ///
    /// `name` is how the cache file remembers the volume: a volume that comes back under its name, with a backing
    /// store that was not changed meanwhile (size, time of change, inode, or what [`AttachOptions::generation`] says in their
    /// place), finds its copies on the SSD again. Not for callbacks to call.
    ///
    /// # Errors
    /// [`Error::AlreadyAttached`], and [`Error::Config`] when the device has more blocks than ids.
    pub fn attach(&self, name: &str, device: Arc<dyn Device>, mode: WriteMode) -> Result<Volume> {
        self.attach_with(name, device, mode, &AttachOptions::default())
    }

    /// As [`Self::attach`], with what else can be chosen.
    ///
    /// # Errors
    /// [`Error::SsdMissing`] and [`Error::SsdOlder`] when the SSD that has the volume's newer blocks is not this one, or is
    /// not to be believed, and the options do not say what to do then.
    pub fn attach_with(
        &self,
        name: &str,
        device: Arc<dyn Device>,
        mode: WriteMode,
        options: &AttachOptions,
    ) -> Result<Volume> {
        let state = self.handle.inner.attach(name, device, mode, options)?;
        Ok(Volume { handle: self.handle.clone(), state })
    }
}

/// One backing store seen through the cache. A cheap handle; it keeps the cache open.
#[derive(Clone)]
pub struct Volume {
    handle: Arc<Handle>,
    state: Arc<VolumeState>,
}

impl Volume {
    pub fn id(&self) -> VolumeId {
        self.state.id
    }

    pub fn len_bytes(&self) -> u64 {
        self.state.len_bytes
    }

    /// The cache's unit, in which it keeps what is read and written.
    pub fn block_size(&self) -> BlockSize {
        self.handle.inner.size
    }

    /// How writes are acknowledged that start now.
    pub fn mode(&self) -> WriteMode {
        self.state.mode()
    }

    /// Has the writes that start from now on acknowledged as `mode` says. Those that are under way keep their mode, what
    /// is dirty stays on its way, and the next [`Self::flush`] covers the writes of either mode.
    ///
    /// Leaving `back-ssd` waits until the backing store has all that the log has; until then the old mode is in force, and
    /// writes and reads go on. Not for callbacks to call.
    ///
    /// # Errors
    /// The volume keeps its mode then. [`Error::Closed`] and [`Error::Detached`]: what was left in order takes no writes of
    /// any mode. To `back-ssd`: [`Error::Config`] when there is no SSD that could remember the volume. From there:
    /// [`Error::StillDirty`] when the backing store does not take what the log has, or that cannot be read.
    pub fn set_mode(&self, mode: WriteMode) -> Result<()> {
        self.handle.inner.set_mode(&self.state, mode)
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Tier`] when the backing store cannot be read; [`Error::WouldBlock`] when readers
    /// hold every frame for longer than `frame_wait_ms`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<Answer> {
        let inner = &self.handle.inner;
        self.state.check_range(offset, buffer.len())?;
        let mut answer = Answer::default();
        let mut call = Call::Whole;
        if inner.chunk_from(offset, buffer.len()) < buffer.len() {
            inner.note(&self.state, Kind::Read, offset, buffer.len() as u64);
            call = Call::Part;
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let bytes = inner.chunk_from(at, rest.len());
            let now = std::mem::replace(&mut call, Call::Part);
            let blocks = match inner.read_blocking(&self.state, at, bytes, (now, Wanted::AsFar)) {
                // RAM shrank meanwhile: so many blocks are more than the slack allows for now.
                Err(Error::WouldBlock) if inner.chunk_from(at, rest.len()) < bytes => continue,
                read => read?,
            };
            let (now, later) = rest.split_at_mut(blocks.len_bytes());
            blocks.copy_to(now);
            answer.add(blocks.answer());
            (at, rest) = (at + now.len() as u64, later);
        }
        Ok(answer)
    }

    /// The `bytes` bytes from `offset` on, by reference and without a copy. See [`super::BlockRef`] for what holding
    /// them costs; all of them are held at once, so ask for few.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_ref(&self, offset: u64, bytes: usize) -> Result<Blocks> {
        self.handle.inner.read_blocking(&self.state, offset, bytes, (Call::Whole, Wanted::All))
    }

    /// As [`Self::read_ref`], if all is in RAM; else none, and it counts as no use: the caller reads by another entry, which
    /// also says what is wrong with a range that does not fit.
    pub fn try_read(&self, offset: u64, bytes: usize) -> Option<Blocks> {
        let inner = &self.handle.inner;
        inner
            .read_hit(&self.state, offset, bytes, Call::Whole)
            .or_else(|| inner.read_hits(&self.state, offset, bytes))
    }

    /// As [`Self::read_ref`]; `done` runs exactly once: before this call returns, when all is in RAM or the read is
    /// refused, and else on the thread that brings the last part, which it must not block. It is told
    /// [`Error::WouldBlock`] at once when no frame is free. That was a call like any other: it is recorded, and the blocks
    /// before the one without a frame were used. Whoever calls again uses them again, so let that wait until a reference was
    /// dropped.
    pub fn read_with(&self, offset: u64, bytes: usize, done: impl FnOnce(Result<Blocks>) + Send + 'static) {
        self.read_by(Runner::Pool(Priority::Foreground), offset, bytes, done);
    }

    /// As [`Self::read_with`], by a caller with nothing else to do for as long as an SSD takes to read: what the SSD has in
    /// one place it reads itself, which saves waking another thread for it. It never waits for the backing store, nor
    /// for room in its queue, which such callers exceed by what one read of each lacks.
    pub fn read_near_with(
        &self,
        offset: u64,
        bytes: usize,
        done: impl FnOnce(Result<Blocks>) + Send + 'static,
    ) {
        self.read_by(Runner::Near, offset, bytes, done);
    }

    fn read_by(
        &self,
        runner: Runner,
        offset: u64,
        bytes: usize,
        done: impl FnOnce(Result<Blocks>) + Send + 'static,
    ) {
        // Behind no queue, and with nothing built for those that wait in one.
        if let Some(blocks) = self.try_read(offset, bytes) {
            return done(Ok(blocks));
        }
        if runner != Runner::Near {
            self.state.lane.wait_for_room();
        }
        self.note(Kind::Read, offset, bytes as u64);
        self.handle.inner.read_with(&self.state, offset, bytes, runner, Box::new(done));
    }

    /// Brings the blocks of `bytes` bytes from `offset` on into RAM, behind all reads that someone waits for. `done` runs
    /// once, as with [`Self::read_with`].
    pub fn prefetch_with(&self, offset: u64, bytes: usize, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.note(Kind::Read, offset, bytes as u64);
        let done = Box::new(move |read: Result<Blocks>| done(read.map(drop)));
        self.handle.inner.read_with(&self.state, offset, bytes, Runner::Pool(Priority::Prefetch), done);
    }

    /// As [`Self::read_ref`], for a task of any executor. The read starts at the first poll, which never waits: without a free
    /// frame it is told [`Error::WouldBlock`] at once, as [`Self::read_with`] is.
    pub fn read_async(&self, offset: u64, bytes: usize) -> ReadFuture {
        let volume = self.clone();
        Started::future(move |set| {
            volume.note(Kind::Read, offset, bytes as u64);
            let runner = Runner::Pool(Priority::Foreground);
            volume.handle.inner.read_with(&volume.state, offset, bytes, runner, set);
        })
    }

    /// Writes `data` at `offset`; returns when the volume's [`WriteMode`] says that it is acknowledged.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::WouldBlock`] as [`Self::read`]; of a `through` volume [`Error::Tier`] when the
    /// backing store refuses: what was stored so far stays dirty, and is tried again. Blocks before the failing one
    /// are written.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<Answer> {
        self.note(Kind::Write, offset, data.len() as u64);
        self.handle.inner.write_blocking(&self.state, offset, data)
    }

    /// As [`Self::write`]; `done` runs exactly once, before this call returns or on a thread of the cache or of another
    /// caller, which it must not block. A write that has to wait for a frame or for room waits without a limit.
    pub fn write_with(
        &self,
        offset: u64,
        data: impl AsRef<[u8]> + Send + 'static,
        done: impl FnOnce(Result<Answer>) + Send + 'static,
    ) {
        self.state.lane.wait_for_room();
        self.note(Kind::Write, offset, data.as_ref().len() as u64);
        self.handle.inner.write_with(&self.state, offset, data, Box::new(done));
    }

    /// As [`Self::write`], for a task of any executor. The write starts at the first poll, and goes on when the future is
    /// dropped after that.
    pub fn write_async(&self, offset: u64, data: impl AsRef<[u8]> + Send + 'static) -> WriteFuture {
        let volume = self.clone();
        Started::future(move |set| {
            volume.note(Kind::Write, offset, data.as_ref().len() as u64);
            volume.handle.inner.write_with(&volume.state, offset, data, set);
        })
    }

    /// When this returns, every write that was acknowledged before the call is durable: on the backing store, or in mode
    /// [`WriteMode::BackSsd`] in the log on the SSD.
    ///
    /// # Errors
    /// [`Error::StillDirty`] when it is not: the blocks are kept and tried again, and so may the caller. [`Error::Lost`] and
    /// [`Error::LostWithSsd`], each time, while blocks are lost for good ([`Self::lost_blocks`]).
    pub fn flush(&self) -> Result<()> {
        self.note(Kind::Flush, 0, 0);
        self.handle.inner.flush_blocking(&self.state)
    }

    /// As [`Self::flush`]; `done` runs exactly once, before this call returns or on a worker, which it must not block.
    pub fn flush_with(&self, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.note(Kind::Flush, 0, 0);
        self.handle.inner.flush(&self.state, Box::new(done));
    }

    /// Makes `bytes` bytes from `offset` on read as zeros, from when this returns. It is durable at the next flush, and
    /// the backing store discards the range, or has zeros written where it cannot. Parts of blocks at both ends are
    /// written with zeros, as [`Self::write`] does. It takes no longer for a huge range than for as many blocks as are
    /// in RAM.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; of the edges as [`Self::write`]; [`Error::StillDirty`] when many discards wait for a
    /// backing store that refuses them. Those are kept and tried again, and every flush says so.
    pub fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        let blocker = Arc::new(Blocker::default());
        let set = blocker.clone();
        self.discard_with(offset, bytes, move |result| set.set(result));
        blocker.wait()
    }

    /// As [`Self::discard`]; `done` runs exactly once, before this call returns or on a thread of the cache or of another
    /// caller, which it must not block.
    pub fn discard_with(&self, offset: u64, bytes: u64, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.note(Kind::Discard, offset, bytes);
        self.handle.inner.discard(&self.state, offset, bytes, Box::new(done));
    }

    /// As [`Self::discard`], for a task of any executor. It starts at the first poll.
    pub fn discard_async(&self, offset: u64, bytes: u64) -> DiscardFuture {
        let volume = self.clone();
        Started::future(move |set| {
            volume.note(Kind::Discard, offset, bytes);
            volume.handle.inner.discard(&volume.state, offset, bytes, set);
        })
    }

    /// Drops what is cached of `bytes` bytes from `offset` on, dirty blocks and discards too: reads that come after this
    /// returned come from the backing store, which stays as it is but for a write or discard that was under way there;
    /// that is waited for. Both ends lie between blocks, or at the end of the volume.
    ///
    /// What was acknowledged and not flushed is lost: this is for a backing store that was changed behind the cache, or
    /// one that takes no writes any more. A flush does not wait for blocks that were forgotten. Of what was on its way from
    /// the log on the SSD when a sync of the backing store failed, that one has what it has: it is synced once more, and
    /// given up if it cannot be. Not for callbacks to call.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::NotWholeBlocks`].
    pub fn forget(&self, offset: u64, bytes: u64) -> Result<()> {
        self.handle.inner.forget(&self.state, offset, bytes)
    }

    /// Flushes the volume and takes it out of the cache, while others go on. Calls on any handle of it are refused from
    /// now on, and those under way are waited for. A backing store that is attached again under this name and was not
    /// changed meanwhile finds its copies on the SSD. Not for callbacks to call.
    ///
    /// # Errors
    /// [`Error::StillDirty`] or [`Error::Lost`] when not all could be made durable below: the volume stays attached, and
    /// its handles work as before. [`Self::forget`] is the way out when that never will be. [`Error::Detached`] when it is
    /// already.
    pub fn detach(&self) -> Result<()> {
        self.handle.inner.detach(&self.state)
    }

    /// Where the blocks with the numbers `blocks` are, one answer for each. It takes a lock for each block: ask for some
    /// thousands at a time.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when the volume has not so many; [`Error::Closed`] and [`Error::Detached`].
    pub fn places(&self, blocks: Range<u64>) -> Result<Vec<BlockPlace>> {
        self.handle.inner.places(&self.state, blocks)
    }

    /// Which parts of `bytes` bytes from `offset` on are holes, seen through the tiers: pieces in the order of addresses, at
    /// least one and at most `count_max`, which may end before the range does. A hole reads as zeros; what was written
    /// before this call and not discarded is none.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Closed`] and [`Error::Detached`]; [`Error::Tier`] when the backing store cannot say.
    pub fn extents(&self, offset: u64, bytes: u64, count_max: usize) -> Result<Vec<Extent>> {
        self.handle.inner.extents(&self.state, offset, bytes, count_max)
    }

    /// Blocks newer in RAM than below, now; a discard that is not below yet counts as one.
    pub fn dirty_blocks(&self) -> u64 {
        self.state.dirty.lock().dirty_blocks()
    }

    /// Blocks written below that no sync covers yet, now.
    pub fn unsynced_blocks(&self) -> u64 {
        self.state.dirty.lock().unsynced_blocks()
    }

    /// The numbers of the blocks that nobody can give any more, ascending: acknowledged, and since then lost with an SSD
    /// that fails, or with a sync that failed. Reading one that was lost with the SSD is an error; every flush says that
    /// there are some. One is named no longer when it is written whole, discarded, or told to [`Self::forget`].
    pub fn lost_blocks(&self) -> Vec<u64> {
        self.handle.inner.lost_blocks(&self.state)
    }

    /// As [`Self::flush`], for a task of any executor. It covers the writes acknowledged before the first poll.
    pub fn flush_async(&self) -> FlushFuture {
        let volume = self.clone();
        Started::future(move |set| {
            volume.note(Kind::Flush, 0, 0);
            volume.handle.inner.flush(&volume.state, set);
        })
    }

    fn note(&self, kind: Kind, offset: u64, bytes: u64) {
        self.handle.inner.note(&self.state, kind, offset, bytes);
    }
}

impl Inner {
    /// How many of the next `bytes` bytes a blocking call takes at once: whole blocks, as far as frames allow.
    fn chunk_from(&self, offset: u64, bytes: usize) -> usize {
        let block_bytes = self.size.bytes();
        let into_block = (offset & (block_bytes as u64 - 1)) as usize;
        bytes.min(self.limits.chunk_blocks.load(Ordering::Relaxed) * block_bytes - into_block)
    }

    pub(super) fn read_with(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        bytes: usize,
        runner: Runner,
        done: ReadDone,
    ) {
        let mut done = Some(done);
        let mut take = || done.take().expect("a read has one end");
        if let Some(result) = self.read(volume, offset, bytes, (runner, Wanted::All), &mut take) {
            take()(result);
        }
    }

    pub(super) fn read_blocking(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        bytes: usize,
        (call, wanted): (Call, Wanted),
    ) -> Result<Blocks> {
        match self.read_hit(volume, offset, bytes, call) {
            Some(blocks) => Ok(blocks),
            None => self.read_missing(volume, offset, bytes, (call, wanted)),
        }
    }

    /// What [`Self::read_blocking`] does when not all is in RAM, or when the call is refused.
    #[inline(never)]
    fn read_missing(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        offset: u64,
        bytes: usize,
        (call, wanted): (Call, Wanted),
    ) -> Result<Blocks> {
        if call == Call::Whole {
            self.note(volume, Kind::Read, offset, bytes as u64);
        }
        let mut until = None;
        loop {
            let observed = self.released.observe();
            let mut blocker: Option<Arc<Blocker<Result<Blocks>>>> = None;
            let answer = self.read(volume, offset, bytes, (Runner::Caller, wanted), &mut || {
                let set = blocker.insert(Arc::default()).clone();
                Box::new(move |result| set.set(result))
            });
            let answer = answer.or_else(|| blocker.map(|blocker| blocker.wait()));
            let answer = answer.expect("a read answers at once or later");
            if !matches!(answer, Err(Error::WouldBlock)) {
                return answer;
            }
            let now = Instant::now();
            let until = *until.get_or_insert(now + self.limits.frame_wait);
            if now >= until {
                return answer;
            }
            // No frame was free: wait until one is. Ask first, and look whether one came between.
            if self.alloc_frame().is_none() && !self.wait_for_frame(observed, until) {
                return Err(Error::WouldBlock);
            }
        }
    }
}

/// What a future and the call it started share.
struct Shared<T> {
    answer: Option<Result<T>>,
    waker: Option<Waker>,
}

type SetAnswer<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// A call of the callback entry as a future: started at the first poll, woken by the callback.
pub struct Started<T> {
    start: Option<Box<dyn FnOnce(SetAnswer<T>) + Send>>,
    shared: Arc<Mutex<Shared<T>>>,
}

/// The answer of [`Volume::read_async`].
pub type ReadFuture = Started<Blocks>;
/// The answer of [`Volume::write_async`].
pub type WriteFuture = Started<Answer>;
/// The answer of [`Volume::flush_async`].
pub type FlushFuture = Started<()>;
/// The answer of [`Volume::discard_async`].
pub type DiscardFuture = Started<()>;

impl<T: Send + 'static> Started<T> {
    fn future(start: impl FnOnce(SetAnswer<T>) + Send + 'static) -> Self {
        Self {
            start: Some(Box::new(start)),
            shared: Arc::new(Mutex::new(Shared { answer: None, waker: None })),
        }
    }
}

impl<T: Send + 'static> Future for Started<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(start) = self.start.take() {
            let shared = self.shared.clone();
            start(Box::new(move |answer| {
                let mut shared = shared.lock();
                shared.answer = Some(answer);
                let waker = shared.waker.take();
                drop(shared);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }));
        }
        let mut shared = self.shared.lock();
        match shared.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

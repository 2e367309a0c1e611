//! Another size for the RAM tier while the cache is used.
//!
//! ```text
//! grow:    frames, then what follows from the size, then the shards one by one
//! shrink:  what follows from the size, then the shards let blocks go until none has too many, then frames, last the
//!          memory of the directories
//! ```
//!
//! What follows from the size are the marks of dirty blocks, the chunk of a call, and how many frames may be on their way
//! to the SSD. The number of shards stays.
//!
//! Invariants:
//! 1. There are as many frames as all shards have room for, and the slack, at every moment: frames come before the room
//!    for blocks, and go when no shard has too many. So a resize has no call run short of frames, but for one that read
//!    more at once than the new slack allows, which goes on in smaller pieces.
//! 2. Nobody's bytes change or move: a block in a frame that is to go is copied to one that stays, under the lock of its
//!    shard, and whoever holds the old frame keeps it.
//! 3. A shrink waits for dirty blocks to be durable, and while it does writers wait: otherwise they could keep it waiting
//!    for ever. When the blocks cannot be written it is taken back, and the size is what it was.
//! 4. The lock of a shard is held for at most [`STEP_BLOCKS`] blocks at a time, and once for a walk through its
//!    directory when that is made anew.
//! 5. One resize at a time: `resizing` is held for the whole of it.

use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::index::{Departed, Shard};
use super::{Inner, Result};
use crate::config::{Config, RamLayout, RamSize};
use crate::error::Error;
use crate::sync::atomic::Ordering;
use crate::sync::{Blocker, Instant, Mutex};

/// Blocks that leave or move under one hold of a shard's lock.
// A copy of 16 KiB takes 2 us.
const STEP_BLOCKS: usize = 32;

/// What [`super::Cache::resize_ram`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamResized {
    /// Blocks that RAM has room for now.
    pub blocks: u64,
    /// Frames beyond that whose memory is still taken, because readers (or very slow I/O) hold them. It is given back as
    /// they are let go.
    pub held_blocks: u64,
}

impl Inner {
    /// See [`super::Cache::resize_ram`].
    pub(super) fn resize_ram(self: &Arc<Self>, ram: RamSize) -> Result<RamResized> {
        let mut config = self.resizing.lock();
        self.check_open()?;
        let before = config.ram_layout()?;
        let wanted = Config { ram, ..config.clone() };
        let layout = wanted.ram_layout()?;
        self.check_address_space(&wanted, layout)?;
        if layout.frames() > self.frames.count() {
            self.frames.set_count(layout.frames())?;
        }
        self.set_limits(layout);
        if let Err(error) = self.set_capacities(layout) {
            self.set_limits(before);
            self.set_shards(before);
            return Err(error);
        }
        *config = wanted;
        if layout.frames() < self.frames.count() {
            self.frames.set_count(layout.frames())?;
        }
        let held_blocks = self.empty_surplus().into();
        self.frames.give_memory_back();
        self.shards.iter().for_each(|shard| shard.lock().compact());
        Ok(RamResized { blocks: layout.capacity.into(), held_blocks })
    }

    fn check_address_space(&self, wanted: &Config, layout: RamLayout) -> Result<()> {
        let frames_max = self.frames.count_max();
        if layout.frames() <= frames_max {
            return Ok(());
        }
        Err(Error::Config(format!(
            "RAM of {} blocks was not provided for, only of {} with their slack; set `ram_bytes_max` to {} or more when \
             the cache is opened",
            layout.capacity,
            frames_max,
            wanted.bytes_of_frames(layout.frames())
        )))
    }

    /// What follows from the size, but for shards and frames.
    fn set_limits(&self, layout: RamLayout) {
        self.limits.chunk_blocks.store(layout.chunk_blocks(), Ordering::Relaxed);
        self.limits.demoting_max.store(layout.demoting_max(), Ordering::Relaxed);
        self.throttle.set_marks(layout.dirty_low, layout.dirty_high);
    }

    fn set_shards(&self, layout: RamLayout) {
        for (shard, index) in self.shards.iter().zip(0..) {
            shard.lock().set_capacity(layout.shard_capacity(index));
        }
    }

    /// Gives the shards their new room, and has blocks leave until they fit.
    ///
    /// # Errors
    /// [`Error::StillDirty`] when some cannot, because they cannot be written; [`Error::Closed`].
    fn set_capacities(self: &Arc<Self>, layout: RamLayout) -> Result<()> {
        self.set_shards(layout);
        let mut held_writers = None;
        loop {
            let observed = self.released.observe();
            if self.shed_all() {
                return Ok(());
            }
            self.check_open()?;
            // A run without work in the background has one caller, and that is this one.
            if self.is_continuous() {
                held_writers.get_or_insert_with(|| HeldWriters::new(self));
            }
            self.flush_dirty()?;
            if self.shed_all() {
                return Ok(());
            }
            // What is left is being filled, or was written before the writers were held.
            self.wait_for_release(observed, Instant::now() + self.limits.frame_wait);
        }
    }

    fn flush_dirty(self: &Arc<Self>) -> Result<()> {
        let blocker = Arc::new(Blocker::default());
        let set = blocker.clone();
        self.flush_watched(Box::new(move |result| set.set(result)));
        blocker.wait()
    }

    /// Has blocks leave where there are too many; whether there are no more of those.
    fn shed_all(self: &Arc<Self>) -> bool {
        self.shards.iter().filter(|shard| !self.shed(shard)).count() == 0
    }

    fn shed(self: &Arc<Self>, shard: &CachePadded<Mutex<Shard>>) -> bool {
        loop {
            // As many as find room on their way to the SSD, so that what earned its place there is not dropped.
            let room = (self.limits.demoting_max.load(Ordering::Relaxed) / 2).clamp(1, STEP_BLOCKS);
            let (excess, left) = {
                let mut shard = shard.lock();
                let (left, departed) = shard.shed(room);
                departed.into_iter().for_each(|departed: Departed| self.demote(departed));
                (shard.policy.excess(), left)
            };
            self.start_wanted_appends();
            if excess == 0 || left < room {
                return excess == 0;
            }
            self.wait_for_demotions();
        }
    }

    /// Returns when about half of the frames that may be on their way to the SSD are.
    fn wait_for_demotions(&self) {
        let Some(ssd) = self.ssd().filter(|_| self.is_continuous() && !self.is_closed()) else { return };
        let mut state = ssd.state.lock();
        while state.held_frames * 2 > self.limits.demoting_max.load(Ordering::Relaxed) && !ssd.is_off() {
            ssd.changed.wait(&mut state);
        }
    }

    /// Has the frames let go that are to go. How many are held all the same: readers hold them, or I/O that took longer
    /// than `frame_wait_ms`.
    fn empty_surplus(&self) -> u32 {
        let (mut least, mut until) = (u32::MAX, Instant::now());
        loop {
            let observed = self.released.observe();
            self.frames.want();
            self.shards.iter().for_each(|shard| self.move_blocks_down(shard));
            let left = self.frames.surplus_count();
            if left < least {
                (least, until) = (left, Instant::now() + self.limits.frame_wait);
            }
            if left == 0 || self.is_closed() || Instant::now() >= until {
                return left;
            }
            self.wait_for_release(observed, until);
        }
    }

    /// Copies blocks out of frames that are to go.
    fn move_blocks_down(&self, shard: &CachePadded<Mutex<Shard>>) {
        let mut first = 0;
        while self.frames.surplus_count() > 0 {
            let mut old = Vec::new();
            let mut shard = shard.lock();
            let Some(rest) = shard.entries.get_mut(first..).filter(|rest| !rest.is_empty()) else { return };
            let step = rest.len().min(8 * STEP_BLOCKS);
            let held = rest[..step].iter_mut().filter_map(|entry| entry.frame.as_mut());
            for frame in held.filter(|frame| frame.is_surplus()).take(STEP_BLOCKS) {
                let Some(mut lower) = self.frames.alloc() else { return };
                lower.copy_from_slice(frame);
                old.push(std::mem::replace(frame, lower.freeze()));
            }
            drop(shard);
            if old.len() < STEP_BLOCKS {
                first += step;
            }
        }
    }
}

/// While it lives no write goes on.
struct HeldWriters<'a>(&'a Inner);

impl<'a> HeldWriters<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.throttle.hold(true);
        Self(inner)
    }
}

impl Drop for HeldWriters<'_> {
    fn drop(&mut self) {
        self.0.throttle.hold(false);
    }
}

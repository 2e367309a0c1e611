//! The pool: threads that run blocking vectored calls on devices, and nothing else. It knows no block and no cache.
//!
//! ```text
//!   read, write, task ──► queue by priority ──► worker ──► one vectored call ──► done, one after the other
//!        (a lane)             (`queue`)         (`threads`)    on the `Device`       on the worker
//! ```
//!
//! A **lane** has its own queue and its own threads, so that a slow device holds up nobody else's requests.
//!
//! Rules:
//! 1. `read`, `write` and `task` never wait. Who wants to be held back calls [`Lane::wait_for_room`] first; it does
//!    not hold back what runs on the pool itself, so that a completion may submit.
//! 2. Requests that are queued together run in any order. What must come after something is submitted when that is
//!    done; two requests on the same bytes are never under way together.
//! 3. Every `done` is called exactly once and every task runs, also after [`Pool::shutdown`]: at once then, on the
//!    submitting thread, a `done` with an error. So never submit while holding a lock that a completion takes.
//! 4. A device that panics is a device that failed: its request gets an error. A `done` or a task that panics is a
//!    bug above; it is counted in [`LaneStats::panics`], its worker lives on, and whatever it held is dropped, so
//!    that a waiter who is to learn of it answers from `Drop`.
//!
//! No globals and no signals: two pools in one process do not know of each other.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use terrace_tiers::device::Device;
use terrace_tiers::ram::frames::{FrameMut, FrameRef};
use terrace_tiers::{Error, Result};

mod queue;
mod run;
mod threads;

#[cfg(test)]
mod tests;

pub(crate) use threads::Pool;

/// Who waits for a request, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Priority {
    /// A reader.
    Foreground,
    /// A flush that someone waits for.
    Awaited,
    /// Someone who will soon ask.
    Prefetch,
    /// Nobody.
    Background,
}

pub(crate) type ReadDone = Box<dyn FnOnce(Vec<FrameMut>, Result<(), Arc<Error>>) + Send>;
pub(crate) type WriteDone = Box<dyn FnOnce(Result<(), Arc<Error>>) + Send>;
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Fills `frames`, one after the other, from `offset` on; they come back in `done`, filled or not.
pub(crate) struct ReadRequest {
    pub(crate) priority: Priority,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) offset: u64,
    pub(crate) frames: Vec<FrameMut>,
    pub(crate) done: ReadDone,
}

/// A part of a frame.
pub(crate) struct WritePiece {
    pub(crate) frame: FrameRef,
    /// In bytes from the start of the frame.
    pub(crate) range: Range<usize>,
}

/// Writes `pieces`, one after the other, from `offset` on; the frames are let go before `done` is called.
pub(crate) struct WriteRequest {
    pub(crate) priority: Priority,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) offset: u64,
    pub(crate) pieces: Vec<WritePiece>,
    pub(crate) done: WriteDone,
}

/// Requests that one call answers; nearly always one or two.
type Batch = SmallVec<[Request; 2]>;

/// What can be queued.
pub(crate) enum Request {
    Read(ReadRequest),
    Write(WriteRequest),
    Task(Priority, Job),
}

/// How a lane is made.
#[derive(Clone, Debug)]
pub(crate) struct LaneConfig {
    /// Names the threads.
    pub(crate) name: String,
    pub(crate) threads: u32,
    /// From so many queued requests on, [`Lane::wait_for_room`] waits.
    pub(crate) queue_max: usize,
    /// Requests are merged into calls of at most so many bytes.
    pub(crate) merge_bytes_max: usize,
}

/// What a lane has done. `read_operations + write_operations + merged - merges_failed` reads and writes have run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct LaneStats {
    /// Calls on the device, after merging, and below the bytes they asked for; failed ones too.
    pub(crate) read_operations: u64,
    pub(crate) read_bytes: u64,
    pub(crate) write_operations: u64,
    pub(crate) write_bytes: u64,
    /// Requests that needed no call of their own, because they went along in another's.
    pub(crate) merged: u64,
    /// Calls for several requests that failed; each of the requests then got a call of its own.
    pub(crate) merges_failed: u64,
    pub(crate) tasks: u64,
    /// Threads woken from sleep.
    pub(crate) wake_ups: u64,
    /// Panics in devices, completions and tasks; each is a bug.
    pub(crate) panics: u64,
    /// Requests that came after the shutdown.
    pub(crate) refused: u64,
}

/// What runs the requests of a lane: threads with blocking calls, or whatever else can keep the rules above.
pub(crate) trait Engine: Send + Sync {
    /// Takes a request for later; never waits.
    fn submit(&self, request: Request);
    /// Runs a request now, on this thread.
    fn run_here(&self, request: Request);
    /// The same for a read of one buffer, with nothing to build for it.
    fn read_here(&self, device: &dyn Device, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes buffers now, for a task that this lane runs.
    fn write_in_task(&self, device: &dyn Device, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()>;
    fn wait_for_room(&self);
    /// Requests that are queued or running.
    fn depth(&self) -> usize;
    /// Waits until nothing is queued or running.
    fn wait_idle(&self);
    fn stats(&self) -> LaneStats;
}

/// One queue and what serves it; a cheap handle.
#[derive(Clone)]
pub(crate) struct Lane {
    engine: Arc<dyn Engine>,
}

impl Lane {
    pub(crate) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    pub(crate) fn read(&self, request: ReadRequest) {
        self.engine.submit(Request::Read(request));
    }

    pub(crate) fn write(&self, request: WriteRequest) {
        self.engine.submit(Request::Write(request));
    }

    /// Anything else that blocks: a sync, a summary, a checkpoint.
    pub(crate) fn task(&self, priority: Priority, job: Job) {
        self.engine.submit(Request::Task(priority, job));
    }

    /// Runs the read now, on this thread: a blocking caller needs no hand-off.
    pub(crate) fn run_read(&self, request: ReadRequest) {
        self.engine.run_here(Request::Read(request));
    }

    /// Fills `buffer` from `offset` on now, on this thread.
    pub(crate) fn read_here(&self, device: &dyn Device, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.engine.read_here(device, offset, buffer)
    }

    /// Runs the write now, on this thread.
    pub(crate) fn run_write(&self, request: WriteRequest) {
        self.engine.run_here(Request::Write(request));
    }

    /// Writes `buffers` from `offset` on now, for a task of this lane.
    pub(crate) fn write_in_task(
        &self,
        device: &dyn Device,
        offset: u64,
        buffers: &[IoSlice<'_>],
    ) -> Result<()> {
        self.engine.write_in_task(device, offset, buffers)
    }

    /// Waits while as many requests are queued as may be; at once on a thread that runs something for the pool.
    pub(crate) fn wait_for_room(&self) {
        self.engine.wait_for_room();
    }

    /// Requests that are queued or running.
    pub(crate) fn depth(&self) -> usize {
        self.engine.depth()
    }

    /// Waits until nothing is queued or running; not for a completion or a task to call.
    pub(crate) fn wait_idle(&self) {
        self.engine.wait_idle();
    }

    pub(crate) fn stats(&self) -> LaneStats {
        self.engine.stats()
    }
}

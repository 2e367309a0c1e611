//! The engine of threads: each takes a batch, runs it with blocking calls, and takes the next.
//!
//! Lock order: the pool's `state`, then the `state` of one lane; a lane takes the pool's only after giving up its own.
//! No lock is held while a request runs.
//!
//! Waking a thread costs more than a short read, so a submission wakes one only when more is queued than the threads
//! that are on their way will take; a thread that finishes something takes the next without sleeping.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use terrace_tiers::Result;
use terrace_tiers::device::Device;

use super::queue::{CallBounds, Queue};
use super::run::{Counters, closed_error, read_buffers, refuse, run, write_buffers};
use super::{Batch, Engine, Lane, LaneConfig, LaneStats, Request};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Mutex, thread, thread_local};

/// Buffers that one call on a file takes (`IOV_MAX`).
const PIECES_MAX: usize = 1024;

thread_local! {
    /// The pool that this thread runs something for, by its address; zero: none.
    static RUNNING_FOR: Cell<usize> = const { Cell::new(0) };
}

/// Owns the threads of all lanes. [`Self::shutdown`] and `Drop` wait until everything that was submitted is done.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Requests of all lanes that are queued or running. It falls to zero only when nothing runs that could submit
    /// more, so that the shutdown may end the threads then.
    pending: AtomicUsize,
    is_closing: AtomicBool,
    state: Mutex<PoolState>,
    /// All is done, while closing.
    quiet: Condvar,
}

#[derive(Default)]
struct PoolState {
    lanes: Vec<Arc<ThreadLane>>,
    threads: Vec<JoinHandle<()>>,
    is_closed: bool,
}

struct ThreadLane {
    shared: Arc<Shared>,
    queue_max: usize,
    state: Mutex<LaneState>,
    /// A thread has something to do.
    work: Condvar,
    /// The queue fell below its bound.
    room: Condvar,
    /// Nothing is queued or running.
    idle: Condvar,
    waiting_for_idle: AtomicUsize,
    /// What callers run on their own threads, which need no lock for it.
    running_here: AtomicUsize,
    counters: Counters,
}

struct LaneState {
    queue: Queue,
    running: usize,
    /// Threads that wait for work and have not been woken.
    sleeping: usize,
    /// Threads that were woken and have not taken anything yet.
    waking: usize,
    waiting_for_room: usize,
    is_closed: bool,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                pending: AtomicUsize::new(0),
                is_closing: AtomicBool::new(false),
                state: Mutex::new(PoolState::default()),
                quiet: Condvar::new(),
            }),
        }
    }

    /// Starts a lane and its threads.
    ///
    /// # Panics
    /// When the operating system gives not a single thread for it; with fewer than asked for it works more slowly.
    pub(crate) fn lane(&self, config: LaneConfig) -> Lane {
        let LaneConfig { name, threads, queue_max, merge_bytes_max } = config;
        let bounds = CallBounds { bytes: merge_bytes_max as u64, pieces: PIECES_MAX };
        let mut state = self.shared.state.lock();
        let lane = Arc::new(ThreadLane {
            shared: self.shared.clone(),
            queue_max: queue_max.max(1),
            state: Mutex::new(LaneState {
                queue: Queue::new(bounds),
                running: 0,
                sleeping: 0,
                waking: 0,
                waiting_for_room: 0,
                is_closed: state.is_closed,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            idle: Condvar::new(),
            waiting_for_idle: AtomicUsize::new(0),
            running_here: AtomicUsize::new(0),
            counters: Counters::default(),
        });
        let wanted = if state.is_closed { 0 } else { threads.max(1) };
        for number in 0..wanted {
            let worker = lane.clone();
            let started =
                thread::Builder::new().name(format!("{name} {number}")).spawn(move || worker.work());
            match started {
                Ok(thread) => state.threads.push(thread),
                Err(error) => assert!(number > 0, "no thread can be started for lane {name}: {error}"),
            }
        }
        if !state.is_closed {
            state.lanes.push(lane.clone());
        }
        Lane::new(lane)
    }

    /// Whether this thread runs something for the pool just now.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.shared.is_own_thread()
    }

    /// Waits until everything submitted is done, with all that its completions submit, and ends the threads. What
    /// other threads submit from now on is refused (rule 3 of the pool). May be called again.
    ///
    /// On a thread of the pool itself, which cannot wait for its own end, it only sets the shutdown off.
    pub(crate) fn shutdown(&self) {
        self.shared.is_closing.store(true, Ordering::SeqCst);
        let mut state = self.shared.state.lock();
        if self.shared.pending.load(Ordering::SeqCst) == 0 {
            state.close(&self.shared);
        }
        if self.shared.is_own_thread() {
            return;
        }
        while !state.is_closed {
            self.shared.quiet.wait(&mut state);
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            // A worker catches every panic of what it runs; its own would have been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl PoolState {
    fn close(&mut self, shared: &Shared) {
        self.is_closed = true;
        for lane in self.lanes.drain(..) {
            let mut state = lane.state.lock();
            state.is_closed = true;
            state.waking += std::mem::take(&mut state.sleeping);
            lane.work.notify_all();
            lane.room.notify_all();
        }
        shared.quiet.notify_all();
    }
}

impl Shared {
    fn is_own_thread(&self) -> bool {
        RUNNING_FOR.with(Cell::get) == std::ptr::from_ref(self).addr()
    }

    /// Counts `count` requests in; false when the pool takes none from this thread any more.
    fn enter(&self, count: usize) -> bool {
        // Counted before the look at `is_closing`, which the shutdown sets before it looks at the count: at least
        // one of the two sees the other.
        self.pending.fetch_add(count, Ordering::SeqCst);
        if self.is_closing.load(Ordering::SeqCst) && !self.is_own_thread() {
            self.leave(count);
            return false;
        }
        true
    }

    fn leave(&self, count: usize) {
        if self.pending.fetch_sub(count, Ordering::SeqCst) == count && self.is_closing.load(Ordering::SeqCst)
        {
            let mut state = self.state.lock();
            if !state.is_closed {
                state.close(self);
            }
        }
    }
}

/// While it lives, this thread is one of the pool's.
struct OwnThread {
    before: usize,
}

impl OwnThread {
    fn new(shared: &Shared) -> Self {
        let own = std::ptr::from_ref(shared).addr();
        Self { before: RUNNING_FOR.with(|running_for| running_for.replace(own)) }
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        RUNNING_FOR.with(|running_for| running_for.set(self.before));
    }
}

impl ThreadLane {
    fn work(&self) {
        let _own = OwnThread::new(&self.shared);
        while let Some(batch) = self.next() {
            let count = batch.len();
            run(batch, &self.counters);
            self.finish(count);
        }
    }

    /// Waits for something to run; none once the lane is closed.
    fn next(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        loop {
            let batch = state.queue.pop();
            if !batch.is_empty() {
                state.running += batch.len();
                if state.waiting_for_room > 0 && state.queue.len() < self.queue_max {
                    self.room.notify_all();
                }
                return Some(batch);
            }
            if state.is_closed {
                return None;
            }
            state.sleeping += 1;
            // Whoever wakes a thread counts it from `sleeping` to `waking`, so that a wait that ends by itself
            // takes nobody's turn.
            while state.waking == 0 {
                self.work.wait(&mut state);
            }
            state.waking -= 1;
        }
    }

    fn finish(&self, count: usize) {
        let mut state = self.state.lock();
        state.running -= count;
        if self.waiting_for_idle.load(Ordering::SeqCst) > 0 && state.depth() == 0 {
            self.idle.notify_all();
        }
        drop(state);
        self.shared.leave(count);
    }

    /// Runs `work` on this thread as a part of the lane; none when the pool takes nothing any more.
    fn run_inline<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        if !self.shared.enter(1) {
            return None;
        }
        self.running_here.fetch_add(1, Ordering::SeqCst);
        let own = OwnThread::new(&self.shared);
        let result = work();
        drop(own);
        // Whoever waits says so before it looks at the count: at least one of the two sees the other.
        if self.running_here.fetch_sub(1, Ordering::SeqCst) == 1
            && self.waiting_for_idle.load(Ordering::SeqCst) > 0
        {
            let _state = self.state.lock();
            self.idle.notify_all();
        }
        self.shared.leave(1);
        Some(result)
    }
}

impl LaneState {
    fn depth(&self) -> usize {
        self.queue.len() + self.running
    }
}

impl Engine for ThreadLane {
    fn submit(&self, request: Request) {
        if !self.shared.enter(1) {
            return refuse(request, &self.counters);
        }
        let mut state = self.state.lock();
        state.queue.push(request);
        if state.sleeping > 0 && state.queue.len() > state.waking {
            state.sleeping -= 1;
            state.waking += 1;
            self.work.notify_one();
            drop(state);
            self.counters.wake_ups.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run_here(&self, request: Request) {
        let mut request = Some(request);
        self.run_inline(|| run(request.take().into_iter().collect(), &self.counters));
        if let Some(request) = request {
            refuse(request, &self.counters);
        }
    }

    fn read_here(&self, device: &dyn Device, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = buffer.len() as u64;
        let buffers = &mut [IoSliceMut::new(buffer)];
        self.run_inline(|| read_buffers(device, offset, bytes, buffers, &self.counters))
            .unwrap_or_else(|| Err(closed_error(device, "read", offset, bytes, &self.counters)))
    }

    fn write_in_task(&self, device: &dyn Device, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        write_buffers(device, offset, buffers, &self.counters)
    }

    fn wait_for_room(&self) {
        if self.shared.is_own_thread() {
            return;
        }
        let mut state = self.state.lock();
        state.waiting_for_room += 1;
        while state.queue.len() >= self.queue_max && !state.is_closed {
            self.room.wait(&mut state);
        }
        state.waiting_for_room -= 1;
    }

    fn depth(&self) -> usize {
        self.state.lock().depth() + self.running_here.load(Ordering::Relaxed)
    }

    fn wait_idle(&self) {
        assert!(!self.shared.is_own_thread(), "a pool thread would wait for itself");
        let mut state = self.state.lock();
        self.waiting_for_idle.fetch_add(1, Ordering::SeqCst);
        while state.depth() > 0 || self.running_here.load(Ordering::SeqCst) > 0 {
            self.idle.wait(&mut state);
        }
        self.waiting_for_idle.fetch_sub(1, Ordering::SeqCst);
    }

    fn stats(&self) -> LaneStats {
        self.counters.snapshot()
    }
}

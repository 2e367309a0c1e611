//! Running one batch: a call on the device for all of it, its parts alone when that fails, then the completions.

use std::io::{self, IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smallvec::SmallVec;
use terrace_tiers::device::Device;
use terrace_tiers::{Error, Result};

use super::{Batch, Job, LaneStats, Priority, ReadRequest, Request, WriteRequest};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Buffers of a call that need no allocation.
const BUFFERS_INLINE: usize = 16;

/// As [`LaneStats`], counting.
#[derive(Default)]
pub(super) struct Counters {
    read_operations: AtomicU64,
    read_bytes: AtomicU64,
    write_operations: AtomicU64,
    write_bytes: AtomicU64,
    merged: AtomicU64,
    merges_failed: AtomicU64,
    tasks: AtomicU64,
    pub(super) wake_ups: AtomicU64,
    panics: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> LaneStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LaneStats {
            read_operations: get(&self.read_operations),
            read_bytes: get(&self.read_bytes),
            write_operations: get(&self.write_operations),
            write_bytes: get(&self.write_bytes),
            merged: get(&self.merged),
            merges_failed: get(&self.merges_failed),
            tasks: get(&self.tasks),
            wake_ups: get(&self.wake_ups),
            panics: get(&self.panics),
            refused: get(&self.refused),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Request {
    pub(super) fn priority(&self) -> Priority {
        match self {
            Self::Read(read) => read.priority,
            Self::Write(write) => write.priority,
            Self::Task(priority, _) => *priority,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Read(read) => read.frames.iter().map(|frame| frame.len() as u64).sum(),
            Self::Write(write) => write.pieces.iter().map(|piece| piece.range.len() as u64).sum(),
            Self::Task(..) => 0,
        }
    }
}

/// Runs a batch as the queue gives it: one task, or neighbours of one kind on one device, by address.
pub(super) fn run(batch: Batch, counters: &Counters) {
    let (mut reads, mut writes) = (SmallVec::new(), SmallVec::new());
    for request in batch {
        match request {
            Request::Read(read) => reads.push(read),
            Request::Write(write) => writes.push(write),
            Request::Task(_, job) => run_task(job, counters),
        }
    }
    run_reads(reads, counters);
    run_writes(writes, counters);
}

/// Answers a request that came too late with an error; a task runs.
pub(super) fn refuse(request: Request, counters: &Counters) {
    let bytes = request.bytes();
    match request {
        Request::Read(read) => {
            let error = closed_error(&*read.device, "read", read.offset, bytes, counters);
            guarded(counters, || (read.done)(read.frames, Err(Arc::new(error))));
        }
        Request::Write(write) => {
            let error = closed_error(&*write.device, "write", write.offset, bytes, counters);
            drop(write.pieces);
            guarded(counters, || (write.done)(Err(Arc::new(error))));
        }
        Request::Task(_, job) => {
            add(&counters.refused, 1);
            run_task(job, counters);
        }
    }
}

/// What a call gets that comes too late.
pub(super) fn closed_error(
    device: &dyn Device,
    action: &'static str,
    offset: u64,
    bytes: u64,
    counters: &Counters,
) -> Error {
    add(&counters.refused, 1);
    let source = io::Error::new(io::ErrorKind::NotConnected, "the pool is shut down");
    Error::Device { action, device: device.name(), offset, bytes, source }
}

fn run_task(job: Job, counters: &Counters) {
    add(&counters.tasks, 1);
    guarded(counters, job);
}

fn run_reads(mut reads: SmallVec<[ReadRequest; 4]>, counters: &Counters) {
    let shared = (reads.len() > 1).then(|| read(&mut reads, counters));
    count_merge(&shared, reads.len(), counters);
    for mut request in reads {
        let result = match &shared {
            Some(Ok(())) => Ok(()),
            _ => read(std::slice::from_mut(&mut request), counters),
        };
        guarded(counters, || (request.done)(request.frames, result.map_err(Arc::new)));
    }
}

fn run_writes(writes: SmallVec<[WriteRequest; 4]>, counters: &Counters) {
    let shared = (writes.len() > 1).then(|| write(&writes, counters));
    count_merge(&shared, writes.len(), counters);
    for request in writes {
        let result = match &shared {
            Some(Ok(())) => Ok(()),
            _ => write(std::slice::from_ref(&request), counters),
        };
        drop(request.pieces);
        guarded(counters, || (request.done)(result.map_err(Arc::new)));
    }
}

fn count_merge(shared: &Option<Result<()>>, requests: usize, counters: &Counters) {
    match shared {
        Some(Ok(())) => add(&counters.merged, requests as u64 - 1),
        Some(Err(_)) => add(&counters.merges_failed, 1),
        None => {}
    }
}

/// One call for neighbours.
fn read(reads: &mut [ReadRequest], counters: &Counters) -> Result<()> {
    let (device, offset) = (reads[0].device.clone(), reads[0].offset);
    let mut buffers: SmallVec<[IoSliceMut<'_>; BUFFERS_INLINE]> =
        reads.iter_mut().flat_map(|read| &mut read.frames).map(|frame| IoSliceMut::new(frame)).collect();
    let bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
    read_buffers(&*device, offset, bytes, &mut buffers, counters)
}

/// One call that fills `buffers`, `bytes` bytes in all.
pub(super) fn read_buffers(
    device: &dyn Device,
    offset: u64,
    bytes: u64,
    buffers: &mut [IoSliceMut<'_>],
    counters: &Counters,
) -> Result<()> {
    add(&counters.read_operations, 1);
    add(&counters.read_bytes, bytes);
    call(device, "read", offset, bytes, counters, || device.read(offset, buffers))
}

fn write(writes: &[WriteRequest], counters: &Counters) -> Result<()> {
    let (device, offset) = (&writes[0].device, writes[0].offset);
    let pieces = writes.iter().flat_map(|write| &write.pieces);
    let buffers: SmallVec<[IoSlice<'_>; BUFFERS_INLINE]> =
        pieces.map(|piece| IoSlice::new(&piece.frame[piece.range.clone()])).collect();
    write_buffers(&**device, offset, &buffers, counters)
}

/// One call that writes `buffers`, one after the other.
pub(super) fn write_buffers(
    device: &dyn Device,
    offset: u64,
    buffers: &[IoSlice<'_>],
    counters: &Counters,
) -> Result<()> {
    let bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
    add(&counters.write_operations, 1);
    add(&counters.write_bytes, bytes);
    call(device, "write", offset, bytes, counters, || device.write(offset, buffers))
}

/// A device that panics has failed.
fn call(
    device: &dyn Device,
    action: &'static str,
    offset: u64,
    bytes: u64,
    counters: &Counters,
    run: impl FnOnce() -> Result<()>,
) -> Result<()> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        add(&counters.panics, 1);
        let source = io::Error::other("the device panicked");
        Err(Error::Device { action, device: device.name(), offset, bytes, source })
    })
}

/// Runs what the cache above gave; a panic in it ends neither the worker nor the rest of the batch.
fn guarded(counters: &Counters, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        add(&counters.panics, 1);
    }
}

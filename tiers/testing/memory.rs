//! A device in RAM.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::journal::{Change, Event, Journal};
use super::pages::Pages;
use super::{Random, TEAR_BYTES};
use crate::device::{Device, Identity, check_range, total_bytes};
use crate::error::{Error, Result};

/// What a device can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Read,
    Write,
    Sync,
    Discard,
}

/// An error that is to come.
#[derive(Clone, Debug)]
pub struct Fault {
    pub operation: Operation,
    /// Only operations that touch these bytes. A sync touches all.
    pub range: Range<u64>,
    /// So many that match go well first.
    pub skip: u64,
    /// Then so many fail.
    pub count: u64,
    pub kind: io::ErrorKind,
}

impl Fault {
    /// Every `operation`, wherever, from now on.
    pub fn every(operation: Operation) -> Self {
        Self { operation, range: 0..u64::MAX, skip: 0, count: u64::MAX, kind: io::ErrorKind::Other }
    }

    /// Only the `number`th from now on, the next being the first (0).
    pub fn nth(operation: Operation, number: u64) -> Self {
        Self { skip: number, count: 1, ..Self::every(operation) }
    }

    #[must_use]
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.range = range;
        self
    }
}

/// What a device was asked for, failures too.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub syncs: u64,
    pub discards: u64,
}

/// A device in RAM; pages that were never written cost nothing, so that it may be of any size.
pub struct MemoryDevice {
    name: String,
    len_bytes: u64,
    inode: u64,
    state: Mutex<State>,
    /// A stall began to hold somebody, or ended.
    stall: Condvar,
}

struct State {
    pages: Pages,
    /// Writes and discards so far: when the content changed, as far as [`Device::identity`] tells.
    changes: u64,
    random: Random,
    counters: Counters,
    faults: Vec<Fault>,
    latency: Vec<(Operation, Duration)>,
    stalled: Vec<Operation>,
    held: usize,
    recording: Option<(Arc<Journal>, usize)>,
}

impl MemoryDevice {
    /// `len_bytes` zeros.
    pub fn new(len_bytes: u64) -> Self {
        Self::with_pages(len_bytes, Pages::default(), 0)
    }

    /// Bytes made from `seed`, which also decides what a failing write leaves behind.
    pub fn patterned(len_bytes: u64, seed: u64) -> Self {
        Self::with_pages(len_bytes, Pages::patterned(seed), seed)
    }

    fn with_pages(len_bytes: u64, pages: Pages, seed: u64) -> Self {
        static INODES: AtomicU64 = AtomicU64::new(1);
        let state = State {
            pages,
            changes: 0,
            random: Random(seed),
            counters: Counters::default(),
            faults: Vec::new(),
            latency: Vec::new(),
            stalled: Vec::new(),
            held: 0,
            recording: None,
        };
        let inode = INODES.fetch_add(1, Ordering::Relaxed);
        Self { name: "memory".into(), len_bytes, inode, state: Mutex::new(state), stall: Condvar::new() }
    }

    /// What a device was after a power cut: the same device to [`Device::identity`].
    pub(super) fn image(of: &Registered, pages: Pages, changes: u64, seed: u64) -> Self {
        let image = Self::with_pages(of.len_bytes, pages, seed);
        image.lock().changes = changes;
        Self { name: of.name.clone(), inode: of.inode, ..image }
    }

    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Writes down in `journal` what is done from now on. The content so far counts as durable.
    #[must_use]
    pub fn recorded_in(self, journal: &Arc<Journal>) -> Self {
        let mut state = self.lock();
        let (name, len_bytes, inode) = (self.name.clone(), self.len_bytes, self.inode);
        let base = Registered { name, len_bytes, inode, changes: state.changes, pages: state.pages.clone() };
        state.recording = Some((journal.clone(), journal.register(base)));
        drop(state);
        self
    }

    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Silently changes one bit of what is stored.
    pub fn flip_bit(&self, offset: u64, bit: u32) {
        self.lock().pages.flip_bit(offset, bit);
    }

    /// How long each `operation` takes from now on.
    pub fn set_latency(&self, operation: Operation, latency: Duration) {
        let mut state = self.lock();
        state.latency.retain(|(other, _)| *other != operation);
        state.latency.push((operation, latency));
    }

    /// Holds every `operation` before it does anything, until [`Self::resume`].
    pub fn stall(&self, operation: Operation) {
        self.lock().stalled.push(operation);
    }

    /// Ends all stalls.
    pub fn resume(&self) {
        self.lock().stalled.clear();
        self.stall.notify_all();
    }

    /// Ends those of `operation`.
    pub fn resume_only(&self, operation: Operation) {
        self.lock().stalled.retain(|&stalled| stalled != operation);
        self.stall.notify_all();
    }

    /// Waits until stalls hold `count` calls.
    pub fn wait_until_held(&self, count: usize) {
        let mut state = self.lock();
        while state.held < count {
            state = self.stall.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, once no stall holds `operation`.
    fn enter(&self, operation: Operation) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if state.stalled.contains(&operation) {
            state.held += 1;
            self.stall.notify_all();
            while state.stalled.contains(&operation) {
                state = self.stall.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.held -= 1;
        }
        state
    }

    /// Gives the state up and takes as long as `operation` takes.
    fn take_time(&self, state: MutexGuard<'_, State>, operation: Operation) {
        let latency =
            state.latency.iter().find(|(other, _)| *other == operation).map(|(_, latency)| *latency);
        drop(state);
        if let Some(latency) = latency {
            std::thread::sleep(latency);
        }
    }

    fn error(&self, action: &'static str, offset: u64, bytes: u64, kind: io::ErrorKind) -> Error {
        let source = io::Error::new(kind, "a fault was asked for");
        Error::Device { action, device: self.name.clone(), offset, bytes, source }
    }

    /// Makes a change, whole or (when it is to fail) to some of its sectors.
    fn change(&self, operation: Operation, action: &'static str, offset: u64, change: &Change) -> Result<()> {
        let bytes = change.bytes();
        check_range(offset, bytes, self.len_bytes)?;
        let mut state = self.enter(operation);
        match operation {
            Operation::Discard => state.counters.discards += 1,
            _ => {
                state.counters.writes += 1;
                state.counters.write_bytes += bytes;
            }
        }
        let fault = state.fault(operation, offset, bytes);
        state.changes += 1;
        let id = state.record(|device| Event::Changed { device, offset, change: change.clone() });
        for (at, range) in sectors(offset, bytes) {
            if fault.is_none() || state.random.coin() {
                change.apply(&mut state.pages, at, range);
            }
        }
        let recording = state.recording.clone();
        self.take_time(state, operation);
        match fault {
            Some(kind) => Err(self.error(action, offset, bytes, kind)),
            None => {
                if let (Some((journal, _)), Some(id)) = (recording, id) {
                    journal.push(Event::Returned { id });
                }
                Ok(())
            }
        }
    }
}

impl State {
    /// The error that this operation is to fail with.
    fn fault(&mut self, operation: Operation, offset: u64, bytes: u64) -> Option<io::ErrorKind> {
        let end = offset.saturating_add(bytes);
        for fault in &mut self.faults {
            let touches =
                operation == Operation::Sync || (fault.range.start < end && offset < fault.range.end);
            if fault.operation != operation || !touches {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.count > 0 {
                fault.count -= 1;
                return Some(fault.kind);
            }
        }
        None
    }

    /// Writes an event down; its number.
    fn record(&self, event: impl FnOnce(usize) -> Event) -> Option<usize> {
        self.recording.as_ref().map(|(journal, device)| journal.push(event(*device)))
    }
}

impl Device for MemoryDevice {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// A read that fails leaves rubbish in the buffers, as a device may.
    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let bytes = total_bytes(buffers);
        check_range(offset, bytes, self.len_bytes)?;
        let mut state = self.enter(Operation::Read);
        state.counters.reads += 1;
        state.counters.read_bytes += bytes;
        let fault = state.fault(Operation::Read, offset, bytes);
        let mut at = offset;
        for buffer in buffers {
            match fault {
                None => state.pages.read(at, buffer),
                Some(_) => buffer.fill(0xee),
            }
            at += buffer.len() as u64;
        }
        self.take_time(state, Operation::Read);
        fault.map_or(Ok(()), |kind| Err(self.error("read", offset, bytes, kind)))
    }

    /// A write that fails has changed some sectors and not others.
    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let data: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.change(Operation::Write, "write", offset, &Change::Data(data.into()))
    }

    /// A sync that fails makes nothing durable, and what it should have covered no later sync does: it must be
    /// written again. That is what Linux does.
    fn sync(&self) -> Result<()> {
        let mut state = self.enter(Operation::Sync);
        state.counters.syncs += 1;
        let fault = state.fault(Operation::Sync, 0, self.len_bytes);
        let started = state.record(|_| Event::SyncStarted);
        let recording = state.recording.clone();
        self.take_time(state, Operation::Sync);
        if let (Some((journal, device)), Some(started)) = (recording, started) {
            journal.push(Event::Synced { device, started, is_done: fault.is_none() });
        }
        fault.map_or(Ok(()), |kind| Err(self.error("sync", 0, self.len_bytes, kind)))
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.change(Operation::Discard, "discard", offset, &Change::Zeros(bytes))
    }

    fn identity(&self) -> Option<Identity> {
        let modified_ns = i128::from(self.lock().changes);
        Some(Identity { bytes: self.len_bytes, modified_ns, inode: self.inode, device: 0 })
    }
}

/// A device as it was when its recording began.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) name: String,
    pub(super) len_bytes: u64,
    pub(super) inode: u64,
    pub(super) changes: u64,
    pub(super) pages: Pages,
}

/// A range cut where a write may tear: where each part lies, and which bytes of the range it is.
pub(super) fn sectors(offset: u64, bytes: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done;
        let count = (TEAR_BYTES - at % TEAR_BYTES).min(bytes - done);
        let range = done..done + count;
        done += count;
        (count > 0).then_some((at, range))
    })
}

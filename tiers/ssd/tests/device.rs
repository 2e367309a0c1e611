//! A device in memory that keeps every write, so that a test can cut the power anywhere.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Mutex, MutexGuard};

use crate::block::SECTOR_BYTES;
use crate::device::Device;
use crate::error::{Error, Result};

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    /// What the bytes were when the log of writes was last cleared.
    base: Vec<u8>,
    steps: Vec<Step>,
    /// Fail from this step on.
    fails_from: Option<usize>,
    keeps_steps: bool,
}

impl Inner {
    fn fails(&self) -> bool {
        self.fails_from.is_some_and(|first| self.steps.len() >= first)
    }
}

enum Step {
    Write { offset: usize, bytes: Vec<u8> },
    Sync,
}

#[derive(Default)]
pub(super) struct MemoryDevice {
    inner: Mutex<Inner>,
}

impl MemoryDevice {
    pub(super) fn new(len_bytes: u64) -> Self {
        Self::holding(vec![0; len_bytes as usize])
    }

    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        Self { inner: Mutex::new(Inner { bytes, ..Inner::default() }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics with it")
    }

    /// From now on every write is kept.
    pub(super) fn keep_steps(&self) {
        let mut inner = self.inner();
        (inner.base, inner.keeps_steps) = (inner.bytes.clone(), true);
        inner.steps.clear();
    }

    pub(super) fn step_count(&self) -> usize {
        self.inner().steps.len()
    }

    pub(super) fn fail_from_now_on(&self, fails: bool) {
        let mut inner = self.inner();
        inner.fails_from = fails.then_some(0);
    }

    /// So many more steps go well.
    pub(super) fn fail_after(&self, count: usize) {
        let mut inner = self.inner();
        inner.fails_from = Some(inner.steps.len() + count);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.inner().bytes.clone()
    }

    pub(super) fn change(&self, offset: u64, change: impl FnOnce(&mut [u8])) {
        change(&mut self.inner().bytes[offset as usize..]);
    }

    /// What is left when the power fails after `kept` steps: all that was synced by then, and of the later writes
    /// the sectors that `keeps` says.
    pub(super) fn after_power_loss(&self, kept: usize, mut keeps: impl FnMut() -> bool) -> Self {
        let inner = self.inner();
        let mut bytes = inner.base.clone();
        let synced = inner.steps[..kept].iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
        for (index, step) in inner.steps[..kept].iter().enumerate() {
            let Step::Write { offset, bytes: written } = step else { continue };
            for (sector, piece) in written.chunks(SECTOR_BYTES).enumerate() {
                if index < synced || keeps() {
                    bytes[offset + sector * SECTOR_BYTES..][..piece.len()].copy_from_slice(piece);
                }
            }
        }
        Self::holding(bytes)
    }
}

impl Device for MemoryDevice {
    fn name(&self) -> String {
        "memory".into()
    }

    fn len_bytes(&self) -> u64 {
        self.inner().bytes.len() as u64
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let inner = self.inner();
        let mut at = offset as usize;
        for buffer in buffers {
            let len = buffer.len();
            let Some(bytes) = inner.bytes.get(at..at + len) else {
                return Err(Error::OutOfRange { offset, bytes: len as u64, end: inner.bytes.len() as u64 });
            };
            buffer.copy_from_slice(bytes);
            at += len;
        }
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let mut inner = self.inner();
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if inner.fails() || end > inner.bytes.len() {
            return Err(Error::OutOfRange {
                offset,
                bytes: bytes.len() as u64,
                end: inner.bytes.len() as u64,
            });
        }
        inner.bytes[start..end].copy_from_slice(&bytes);
        if inner.keeps_steps {
            inner.steps.push(Step::Write { offset: start, bytes });
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut inner = self.inner();
        if inner.fails() {
            return Err(Error::OutOfRange { offset: 0, bytes: 0, end: 0 });
        }
        if inner.keeps_steps {
            inner.steps.push(Step::Sync);
        }
        Ok(())
    }

    fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.write(offset, &[IoSlice::new(&vec![0; bytes as usize])])
    }
}

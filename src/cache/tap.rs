//! A tap on the traffic: every reference that calls make to a sample of the blocks, in order and without the bytes.
//!
//! A hit in RAM must stay as fast as it is, so a reference pays for one look at a number while nobody listens, and for a
//! hash of its block while someone does. What is taken waits in a queue with a bound; what finds it full is dropped and
//! counted, and nobody waits.

use crossbeam::queue::ArrayQueue;
use terrace_tiers::block::BlockId;

use crate::sample::place;
use crate::sync::atomic::{AtomicU64, Ordering};

/// References that wait for whoever listens, at most; 16 bytes each.
const QUEUE_MAX: usize = 16 << 10;

/// One touch of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) block: BlockId,
    pub(crate) kind: ReferenceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReferenceKind {
    Read,
    Write,
    /// In mode `around`.
    Pass,
}

pub(crate) struct Tap {
    /// Blocks whose place is below it are taken; zero: nobody listens.
    limit: AtomicU64,
    queue: ArrayQueue<Reference>,
    dropped: AtomicU64,
}

impl Tap {
    pub(super) fn new() -> Self {
        Self { limit: AtomicU64::new(0), queue: ArrayQueue::new(QUEUE_MAX), dropped: AtomicU64::new(0) }
    }

    /// Takes the references to such a share of the blocks from now on; zero takes none. Those of other shares that were
    /// taken before are gone.
    pub(crate) fn set_rate(&self, rate: f64) {
        // A rate of 1 misses one block in 2^64.
        self.limit.store((rate.clamp(0.0, 1.0) * 2f64.powi(64)) as u64, Ordering::Relaxed);
        while self.queue.pop().is_some() {}
        self.dropped.store(0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn note(&self, block: BlockId, kind: ReferenceKind) {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit > 0 && place(block, 0) < limit {
            self.take(Reference { block, kind });
        }
    }

    #[cold]
    fn take(&self, reference: Reference) {
        if self.queue.push(reference).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn next(&self) -> Option<Reference> {
        self.queue.pop()
    }

    /// References that found the queue full since the rate was set, or since this was asked.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

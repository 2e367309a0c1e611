//! What holds writers back while too much of RAM may not leave it.
//!
//! Invariants:
//! 1. Shut from the moment the high mark is reached until no more than the low mark is left, so that writers wait in long
//!    breaks and not at every block.
//! 2. Whoever parks is woken: who opens it takes the lock to empty the list, and who parks looks under the lock whether it
//!    is still shut.

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, Wake, wake_all};

/// Bounds the blocks that may not leave RAM (dirty, being written, or unsynced), so that reads always find victims.
pub(super) struct Throttle {
    pinned_blocks: AtomicU64,
    high: AtomicU64,
    low: AtomicU64,
    is_shut: AtomicBool,
    /// Shut whatever is dirty: see [`Self::hold`].
    is_held: AtomicBool,
    waiting: Mutex<Vec<Wake>>,
    /// Callers that wait for a release: write-back hurries for them too.
    pub(super) pressed: AtomicU32,
}

impl Throttle {
    pub(super) fn new(low: u64, high: u64) -> Self {
        Self {
            pinned_blocks: AtomicU64::new(0),
            high: AtomicU64::new(high),
            low: AtomicU64::new(low),
            is_shut: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            pressed: AtomicU32::new(0),
        }
    }

    pub(super) fn pinned_blocks(&self) -> u64 {
        self.pinned_blocks.load(Ordering::Relaxed)
    }

    pub(super) fn is_over_low(&self) -> bool {
        self.pinned_blocks() >= self.low.load(Ordering::Relaxed)
    }

    /// Whether so many blocks are half of what may be pinned: writers would soon wait for them.
    pub(super) fn is_half_of_room(&self, blocks: usize) -> bool {
        blocks as u64 * 2 >= self.high.load(Ordering::Relaxed)
    }

    /// Whether someone waits until blocks may leave.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_shut.load(Ordering::Relaxed) || self.pressed.load(Ordering::Relaxed) > 0
    }

    /// Whether a writer has to wait now.
    pub(super) fn must_wait(&self) -> bool {
        let is_full = self.pinned_blocks.load(Ordering::SeqCst) >= self.high.load(Ordering::SeqCst);
        if is_full || self.is_held.load(Ordering::SeqCst) {
            self.is_shut.store(true, Ordering::SeqCst);
            // Blocks that left between the two lines saw it open, and would never open it.
            if self.may_open(self.pinned_blocks.load(Ordering::SeqCst)) {
                wake_all(self.open());
            }
        }
        self.is_shut.load(Ordering::SeqCst)
    }

    fn may_open(&self, pinned_blocks: u64) -> bool {
        pinned_blocks <= self.low.load(Ordering::SeqCst) && !self.is_held.load(Ordering::SeqCst)
    }

    /// Bounds them by other marks. Writers that wait look again.
    pub(super) fn set_marks(&self, low: u64, high: u64) {
        self.low.store(low, Ordering::SeqCst);
        self.high.store(high, Ordering::SeqCst);
        wake_all(self.open());
    }

    /// While it is held no writer goes on.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::SeqCst);
        if !is_held {
            wake_all(self.open());
        }
    }

    /// Runs `wake` once there is room again; at once, if there is.
    pub(super) fn park(&self, wake: Wake) {
        let mut waiting = self.waiting.lock();
        waiting.push(wake);
        // Whoever opens the throttle takes the lock to empty the list: either it finds this entry, or we see it open.
        if self.is_shut.load(Ordering::SeqCst) {
            return;
        }
        let wakes = std::mem::take(&mut *waiting);
        drop(waiting);
        wake_all(wakes);
    }

    pub(super) fn add(&self) {
        self.pinned_blocks.fetch_add(1, Ordering::SeqCst);
    }

    /// A block may leave again; gives the writers that may go on.
    #[must_use]
    pub(super) fn remove(&self) -> Vec<Wake> {
        let left = self.pinned_blocks.fetch_sub(1, Ordering::SeqCst) - 1;
        if !self.may_open(left) || !self.is_shut.load(Ordering::SeqCst) {
            return Vec::new();
        }
        self.open()
    }

    #[must_use]
    pub(super) fn open(&self) -> Vec<Wake> {
        let mut waiting = self.waiting.lock();
        self.is_shut.store(false, Ordering::SeqCst);
        std::mem::take(&mut *waiting)
    }
}

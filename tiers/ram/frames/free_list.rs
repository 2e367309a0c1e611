//! A stack of frames, linked by number: the one freed last, whose bytes are warm, is used first.
//!
//! A pop reads the link of a frame that another thread may be popping, using and pushing again, here or to another list.
//! The tag counts every change of `top`, so that such a pop fails (until 2^32 changes happen within one pop).

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// No frame: the end of a list.
pub(super) const NO_FRAME: u32 = u32::MAX;

/// Tag in the upper half, the first frame in the lower.
pub(super) struct FreeList(AtomicU64);

impl FreeList {
    pub(super) fn new(first: u32) -> Self {
        Self(AtomicU64::new(first.into()))
    }

    pub(super) fn pop(&self, next: &[AtomicU32]) -> Option<u32> {
        let mut top = self.0.load(SeqCst);
        loop {
            let frame = top as u32;
            if frame == NO_FRAME {
                return None;
            }
            let after = next[frame as usize].load(Relaxed);
            // Acquire, within SeqCst: what the last holder did with the frame comes before what the next one does.
            match self.0.compare_exchange_weak(top, retagged(top, after), SeqCst, SeqCst) {
                Ok(_) => return Some(frame),
                Err(now) => top = now,
            }
        }
    }

    pub(super) fn push(&self, next: &[AtomicU32], frame: u32) {
        let mut top = self.0.load(Relaxed);
        loop {
            next[frame as usize].store(top as u32, Relaxed);
            match self.0.compare_exchange_weak(top, retagged(top, frame), SeqCst, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    #[cfg(test)]
    pub(super) fn top(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// `top` after one more change, with `frame` first.
fn retagged(top: u64, frame: u32) -> u64 {
    ((top >> 32).wrapping_add(1) << 32) | u64::from(frame)
}

//! Syncs of one file, one at a time, so that a failure is told to everyone whom it concerns.
//!
//! The kernel tells a failed write-back to only one of two that sync at once, and has forgotten it when the next one
//! asks; the other would believe that its writes are durable.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::device::Device;
use crate::error::{Error, Result};

/// Whose turn it is to sync a file.
#[derive(Default)]
pub(crate) struct SyncTurn {
    turn: Mutex<()>,
    failures: AtomicU64,
}

impl SyncTurn {
    /// How many syncs have failed. Whoever asks before it takes note of what a sync is to cover learns of every
    /// failure since.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Runs `sync` when it is this call's turn; fails as well when another has failed since `failures_before`.
    pub(crate) fn run(
        &self,
        failures_before: u64,
        device: &impl Device,
        sync: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = sync();
        if synced.is_err() {
            self.failures.fetch_add(1, Ordering::Release);
        } else if self.failures() != failures_before {
            let source = io::Error::other("a sync that ran at the same time failed");
            let (action, bytes) = ("sync", device.len_bytes());
            return Err(Error::Device { action, device: device.name(), offset: 0, bytes, source });
        }
        synced
    }
}

//! The cache's one thread of its own: it looks at what is dirty from time to time, and wakes who waits.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use super::dirty::VolumeState;
use crate::sync::atomic::Ordering;
use crate::sync::{Condvar, Instant, Mutex, wake_all};

/// A thread that looks at volumes with dirty blocks from time to time, so that none stays dirty longer than it must,
/// and wakes callers that wait for a release. It sleeps while there is neither.
pub(super) struct Ticker {
    pub(super) watched: Mutex<Watched>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Watched {
    pub(super) volumes: Vec<Arc<VolumeState>>,
    pub(super) wants_wake: bool,
    wants_logs_left: bool,
    pub(super) is_stopped: bool,
}

/// What the ticker's thread does next.
pub(super) enum Turn {
    Wake,
    LeaveLogs,
    Tick(Vec<Arc<VolumeState>>),
    Stop,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self { watched: Mutex::new(Watched::default()), changed: Condvar::new() }
    }

    /// Has the callers woken that wait for a release. Takes no other lock and runs nothing.
    pub(super) fn want_wake(&self) {
        self.watched.lock().wants_wake = true;
        self.changed.notify_one();
    }

    /// Has the volumes leave the log of an SSD that was switched off. As [`Self::want_wake`].
    pub(super) fn want_logs_left(&self) {
        self.watched.lock().wants_logs_left = true;
        self.changed.notify_one();
    }

    /// Sees to it that what is dirty in `volume` goes below in time.
    pub(super) fn watch(&self, volume: &Arc<VolumeState>) {
        if !volume.is_watched.load(Ordering::SeqCst) && !volume.is_watched.swap(true, Ordering::SeqCst) {
            self.watched.lock().volumes.push(volume.clone());
            self.changed.notify_one();
        }
    }

    pub(super) fn watched_volumes(&self) -> Vec<Arc<VolumeState>> {
        self.watched.lock().volumes.clone()
    }

    /// Leaves `volume` be until the next `watch`.
    pub(super) fn forget(&self, volume: &Arc<VolumeState>) {
        self.watched.lock().volumes.retain(|other| !Arc::ptr_eq(other, volume));
        volume.is_watched.store(false, Ordering::SeqCst);
        // A write that came before the flag fell was not told to watch: look once more.
        if !volume.dirty.lock().is_clean() {
            self.watch(volume);
        }
    }

    pub(super) fn stop(&self) {
        self.watched.lock().is_stopped = true;
        self.changed.notify_one();
    }

    /// The ticker's thread; without a `delay` it only wakes.
    pub(super) fn run(&self, inner: &Weak<Inner>, delay: Option<Duration>) {
        let mut next_tick = None;
        loop {
            let turn = self.next_turn(&mut next_tick, delay);
            let Some(inner) = inner.upgrade() else { return };
            match turn {
                Turn::Stop => return,
                Turn::Wake => wake_all(inner.released.take_parked()),
                Turn::LeaveLogs => inner.leave_logs(),
                Turn::Tick(volumes) => volumes.iter().for_each(|volume| inner.tick(volume)),
            }
        }
    }

    pub(super) fn next_turn(&self, next_tick: &mut Option<Instant>, delay: Option<Duration>) -> Turn {
        let mut watched = self.watched.lock();
        loop {
            if watched.is_stopped {
                return Turn::Stop;
            }
            if std::mem::take(&mut watched.wants_wake) {
                return Turn::Wake;
            }
            if std::mem::take(&mut watched.wants_logs_left) {
                return Turn::LeaveLogs;
            }
            let Some(delay) = delay.filter(|_| !watched.volumes.is_empty()) else {
                *next_tick = None;
                self.changed.wait(&mut watched);
                continue;
            };
            let at = *next_tick.get_or_insert_with(|| Instant::now() + delay);
            if Instant::now() >= at {
                *next_tick = None;
                return Turn::Tick(watched.volumes.clone());
            }
            self.changed.wait_until(&mut watched, at);
        }
    }
}

impl Inner {
    /// `writeback_delay` passed: what was dirty then is due, what was written is synced, and a clean volume is left be.
    pub(super) fn tick(self: &Arc<Self>, volume: &Arc<VolumeState>) {
        let (is_clean, wants_sync) = {
            let mut dirty = volume.dirty.lock();
            dirty.take_held_back();
            dirty.is_due = !dirty.waiting.is_empty();
            dirty.log_is_due = !dirty.logged.is_empty();
            // What is held back must not keep the others from being durable, and in RAM.
            let is_written = dirty.waiting.is_empty() && dirty.writing_runs == 0;
            let wants_sync = is_written && dirty.needs_sync() && !dirty.syncs.is_running;
            (dirty.is_clean() && !dirty.syncs.is_running, wants_sync)
        };
        if wants_sync {
            self.sync_volume(volume, Box::new(|_| ()));
        }
        self.leave_log_if_off(volume, None);
        self.take_put_off(volume);
        self.pump(volume);
        self.start_destage(volume);
        if is_clean && !self.is_destaging(volume) {
            self.ticker.forget(volume);
        }
    }
}

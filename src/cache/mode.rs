//! Changing the mode of a volume that is in use.
//!
//! Among `around`, `through` and `back` only the moment of acknowledgement differs, and a change is one store. From and to
//! `back-ssd` the way of dirty blocks changes too: a volume has a *route*, and on the way from one to the other it is
//! changing. It keeps its old mode until that is over, so nobody's write waits for it.
//!
//! | route      | a dirty block goes                                        | a discard goes             |
//! |------------|-----------------------------------------------------------|----------------------------|
//! | `Below`    | below                                                     | below                      |
//! | `Log`      | to the log                                                | to the log, as a tombstone |
//! | `Changing` | below, once the log has nothing of it that is not there   | nowhere before it is over  |
//!
//! - Leaving the log: what was on its way there has arrived, and nothing follows it; so the log is drained in the end
//!   however much is written. A block that is dirty in the log and in RAM waits for its destage, as one does that found no
//!   room: the newer one goes below after the older one, and the log's copy is void only then (rule 2).
//! - Entering it: what an earlier discard gave to the device is synced before the first record, since a discard that is
//!   run again after a failed sync knows nothing of destaged blocks. The cache file knows the volume, durably.
//! - A block takes its route when it is taken for writing, under the lock of the books, and keeps it to the end.
//! - Every copy in the log that is written below by another way is void before that (`void_destaged`, rule 1).
//!
//! A flush covers the writes of either mode whenever it comes, because it waits for epochs and syncs, not for routes. A
//! write that is under way meanwhile keeps the promise of one of the two modes; in the log it is safer than below.

use std::sync::Arc;

use super::dirty::VolumeState;
use super::{Inner, Result};
use crate::config::WriteMode;
use crate::error::Error;
use crate::sync::Blocker;

/// Where what is dirty of a volume goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Route {
    Below,
    Changing,
    Log,
}

impl Route {
    pub(super) fn of(mode: WriteMode) -> Self {
        if mode == WriteMode::BackSsd { Self::Log } else { Self::Below }
    }
}

impl VolumeState {
    /// The route of what starts now; whoever goes to the log says so when it has ended ([`Self::end_logging`]).
    pub(super) fn begin_route(&self) -> Route {
        let mut dirty = self.dirty.lock();
        let route = self.route();
        dirty.logging += u32::from(route == Route::Log);
        route
    }

    pub(super) fn end_logging(&self) {
        let mut dirty = self.dirty.lock();
        dirty.logging -= 1;
        if dirty.logging == 0 {
            self.fence_changed.notify_all();
        }
    }
}

impl Inner {
    /// See [`super::Volume::set_mode`].
    pub(super) fn set_mode(self: &Arc<Self>, volume: &Arc<VolumeState>, mode: WriteMode) -> Result<()> {
        let before = {
            let mut dirty = volume.dirty.lock();
            while volume.route() == Route::Changing {
                volume.fence_changed.wait(&mut dirty);
            }
            self.check_volume(volume)?;
            let before = volume.mode();
            if Route::of(before) == Route::of(mode) {
                volume.set_mode(mode);
                return Ok(());
            }
            volume.set_route(Route::Changing);
            before
        };
        // Whoever stored a block and saw another route has done so.
        self.wait_for_stores();
        let changed = match mode {
            WriteMode::BackSsd => self.enter_log(volume),
            _ => self.leave_log(volume),
        };
        {
            let _dirty = volume.dirty.lock();
            // Unless the SSD failed meanwhile and the volume has left its log for that (see [`super::fall_back`]).
            if volume.route() == Route::Changing {
                let mode = if changed.is_ok() { mode } else { before };
                volume.set_mode(mode);
                volume.set_route(Route::of(mode));
            }
            volume.fence_changed.notify_all();
        }
        self.start_discards(volume);
        self.take_put_off(volume);
        self.start_destage(volume);
        if volume.mode() != WriteMode::BackSsd {
            self.release_mark(volume);
        }
        changed
    }

    fn enter_log(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        self.record_for_log(volume)?;
        loop {
            let must_sync = {
                let mut dirty = volume.dirty.lock();
                while dirty.fences.is_running() {
                    volume.fence_changed.wait(&mut dirty);
                }
                dirty.fences.needs_sync()
            };
            if !must_sync {
                return Ok(());
            }
            let blocker = Arc::new(Blocker::default());
            let set = blocker.clone();
            self.sync_volume(volume, Box::new(move |result| set.set(result)));
            blocker.wait()?;
        }
    }

    fn leave_log(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        self.hurry_log(volume);
        {
            let mut dirty = volume.dirty.lock();
            while dirty.logging > 0 {
                volume.fence_changed.wait(&mut dirty);
            }
        }
        self.drain_log(volume)?;
        // A tombstone that a crash brought back would take what goes below from now on.
        let Some(ssd) = self.ssd() else { return Ok(()) };
        ssd.make_all_durable()?;
        match ssd.with(|tier| tier.bad_blocks_of(volume.id)).len() as u64 {
            0 => Ok(()),
            blocks => Err(volume.unreadable_error(blocks)),
        }
    }

    /// Sees to it that the cache file finds the dirty blocks of `volume` again, however this process ends.
    pub(super) fn record_for_log(&self, volume: &VolumeState) -> Result<()> {
        let ssd = self.ssd_in_use().filter(|ssd| ssd.with(|tier| tier.is_recorded(volume.id)));
        let Some(ssd) = ssd else {
            return Err(Error::Config(format!(
                "volume {} cannot write back to an SSD: there is none that works, or its table of volumes is full or the name too long",
                volume.name
            )));
        };
        // Its records are believed only once its name is on the device.
        self.mark_holder(volume, &ssd)?;
        ssd.make_all_durable()?;
        Ok(())
    }
}

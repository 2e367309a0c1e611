//! Detaching one volume while the others go on.
//!
//! 1. Calls that start from now on are refused. Those that were let in before have done their part under the lock of a
//!    shard, or find the volume detached there.
//! 2. A flush, as when the cache closes. If blocks stay dirty the volume is not detached, and calls are let in again.
//! 3. What RAM has of the volume goes, by a fence over all of it; reads that are under way are waited for.
//! 4. How the backing store looks is noted, durably, so that a volume which comes back unchanged finds its copies on
//!    the SSD: also after a crash, since nothing is written to it meanwhile.

use crate::sync::atomic::Ordering;
use std::sync::Arc;

use super::dirty::VolumeState;
use super::{Inner, Result};
use crate::error::Error;

impl Inner {
    /// See [`super::Volume::detach`].
    pub(super) fn detach(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        self.check_volume(volume)?;
        if volume.is_detached.swap(true, Ordering::SeqCst) {
            return Err(volume.detached_error());
        }
        self.wait_for_stores();
        // Those that wait for a frame or for room learn of it.
        self.wake_writers();
        let detached = self.flush_while_closing(volume).and_then(|()| {
            self.wait_for_destage(volume);
            self.drop_resident(volume);
            self.ticker.forget(volume);
            self.note_detached(volume)
        });
        if detached.is_err() {
            volume.is_detached.store(false, Ordering::SeqCst);
        } else if let Some(ssd) = self.ssd() {
            // What it leaves in the log stays.
            self.look_past_log(&ssd);
        }
        detached
    }

    fn note_detached(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        // A cache that closes beside this notes it itself.
        let _closing = self.closing.lock();
        self.check_open()?;
        if let Some(ssd) = self.ssd() {
            let identity = volume.device.identity();
            ssd.with(|tier| tier.detach_volume(volume.id, identity));
            self.make_voids_durable();
            self.release_mark(volume);
        }
        let mut volumes = self.volumes.write();
        volumes.by_id.remove(&volume.id);
        volumes.names.remove(&volume.name);
        Ok(())
    }
}

impl VolumeState {
    pub(super) fn is_detached(&self) -> bool {
        self.is_detached.load(Ordering::SeqCst)
    }

    pub(super) fn detached_error(&self) -> Error {
        Error::Detached { name: self.name.clone() }
    }
}

//! Rule 3: unsynced is not clean. What a volume keeps of its clean copies when nobody left it in order.
//!
//! A clean copy on the SSD is what the backing store gave at some moment, maybe before a sync: after a crash the store may
//! have something older, and when the copy leaves, what was seen once would turn back into that. So every copy is dated as
//! it leaves RAM, by the version that was given out last, and the cache file learns, now and then, through which version
//! the store is synced. After an unclean stop the younger copies are void, if the volume is attached as `exclusive`; all
//! are if it is not, since then the store itself may have changed.
//!
//! "Synced through V" is said of a volume only when this holds: whatever was below when a copy of a version up to V left
//! RAM is covered by a sync that went well.
//!
//! 1. What was given to the backing store takes a version of its own when it has ended, well or not, before any of it can
//!    be read there (`note_below`): a copy that has it is younger than the start of every sync that does not cover it.
//! 2. V is the version given out last when a sync started. With nothing given to the store since, it is the version of now.
//! 3. Zeros of a discard that is not below do not go to the SSD (`Shard::take`).
//! 4. Once a sync has failed V stays (rule 7): what is below then is not known.
//! 5. The file learns nothing new before all of its summaries are read: of what is unread it believes what is not younger
//!    than the V that it had (`terrace_tiers::ssd::Ssd::note_synced`).
//! 6. Every attach gives the volume's mark a new serial: what is written while the file is away, or after a copy of it was
//!    made, is written past that (rule 8).
//!
//! The file learns V with the summary of a segment, whose blocks nobody would find before; so it costs no sync.
//!
//! `tests/crash_sweep` holds all of it: its scripts that are `exclusive` demand after each crash that no clean copy differs
//! from what the backing store has.

use std::sync::Arc;

use terrace_tiers::block::Version;

use super::dirty::VolumeState;
use super::mode::Route;
use super::ssd::SsdTier;
use super::{Inner, Result};
use crate::sync::Blocker;
use crate::sync::atomic::Ordering;

impl Inner {
    pub(super) fn last_version(&self) -> Version {
        Version::from_u64(self.version.load(Ordering::SeqCst))
    }

    /// Something that was given to the backing store has ended, well or not, and cannot be read there yet.
    pub(super) fn note_below(&self, volume: &VolumeState) {
        volume.dirty.lock().syncs.is_behind = true;
        self.next_version();
    }

    /// Tells the cache file through which versions the volumes are synced that are to outlive a crash; not durably.
    pub(super) fn note_synced(&self, ssd: &SsdTier) {
        for volume in self.volumes().iter().filter(|volume| volume.is_exclusive) {
            let through = self.synced_through(volume);
            ssd.with(|tier| tier.note_synced(volume.id, through));
        }
    }

    fn synced_through(&self, volume: &VolumeState) -> Version {
        let dirty = volume.dirty.lock();
        let syncs = &dirty.syncs;
        let is_settled = !syncs.is_behind && !syncs.is_running && syncs.failures == 0;
        let is_below = dirty.fences.discards.is_empty() && volume.route() == Route::Below;
        let is_all = syncs.synced_through > Version::ZERO && is_settled && is_below;
        if is_all { self.last_version() } else { syncs.synced_through }
    }

    /// A volume that is to outlive a crash was attached: from its first sync on it does.
    pub(super) fn begin_exclusive(self: &Arc<Self>, volume: &Arc<VolumeState>) -> Result<()> {
        let Some(ssd) = self.ssd_in_use().filter(|_| volume.is_exclusive) else { return Ok(()) };
        self.renew_mark(volume, &ssd)?;
        let blocker = Arc::new(Blocker::default());
        let set = blocker.clone();
        self.sync_volume(volume, Box::new(move |result| set.set(result)));
        blocker.wait()
    }
}

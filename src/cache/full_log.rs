//! What becomes of blocks when the log is full: they wait until destage has made room, and when it can make none they go
//! below past the log.
//!
//! Segments of the log are given back in their order, so one copy that cannot leave the first keeps all of them. Destage
//! makes no room then, however much it brings below. A copy *stays* when
//!
//! - it is bad, or in the chain of one that is; or
//! - its volume is not attached, or nothing of it could be written below when that was tried last. A disk that is only slow
//!   makes room: whoever finds the log full of its copies waits.
//!
//! ```text
//! refused -> destage makes room  -> put off, and to the log when there is room
//!         -> a copy stays        -> the log has nothing of the block that is not below -> written below, as in mode `back`
//!                                -> destage has it to do                               -> put off, and refused again then
//!                                -> it cannot, a copy of the block being bad           -> its flush is told
//! ```
//!
//! Invariants, which `tests/back_ssd/full_log.rs` and the crash sweep hold:
//! 1. A block that goes past the log is on no other way. It is taken for writing from before the log refuses it until it is
//!    below, so no record of it is or comes under way; and `holds_back` says that there is no dirty copy nor tombstone of
//!    it, so no destage writes or discards it. Of a discard the same holds of each of its blocks, behind its fence.
//! 2. What the log had of it is void, durably, before any of it is written below (rule 1); all of that is below, synced, so
//!    nothing is lost with it (rule 2). An SSD that cannot be told is left in the order of `fall_back`: first what it has.
//! 3. A flush waits for the sync below of what went past, and for the log's of the rest: it looks at both books.
//! 4. Nothing is remembered: every group asks the log first. So what went past once goes to the log again when there is room.
//! 5. A volume whose own copies stay since its backing store fails goes nowhere, and its flushes are told why. One with
//!    epochs waits for room: what goes past would be below before all of an earlier epoch is.
//! 6. Whoever waits for room looks again when it has become known that a copy stays.
//!
//! A discard needs none of the log's segments, but there are only so many tombstones for all volumes. When every one is of a
//! volume that cannot have it run, a discard goes past them; its fence stands until it is synced below, since one that had
//! to be run again would take what the log got meanwhile with it.

use std::ops::Range;
use std::sync::Arc;

use terrace_tiers::block::VolumeId;
use terrace_tiers::ssd::LogKeepers;

use super::dirty::{Began, VolumeState};
use super::fence::{Step, Stretch};
use super::ssd::SsdTier;
use super::writeback::TakenBlock;
use super::{Inner, Result};
use crate::error::TierError;
use crate::pool::Priority;

/// What there may come to be room by.
#[derive(Clone, Copy)]
pub(super) struct LogRoom {
    /// Nothing is given back before that is over.
    is_recovering: bool,
    /// See [`super::ssd::SsdState`].
    times_made: u64,
}

/// The log had no room for these blocks, which are still taken for it.
pub(super) struct Refused {
    pub(super) blocks: Vec<TakenBlock>,
    pub(super) began: Began,
    /// What room there was when it was asked.
    pub(super) before: LogRoom,
    pub(super) priority: Priority,
}

/// There was no tombstone for this discard, which is running.
pub(super) struct RefusedDiscard {
    pub(super) id: u64,
    pub(super) blocks: Range<u64>,
    pub(super) epoch: u64,
    pub(super) began: Began,
    /// What room there was when the log was asked.
    pub(super) before: LogRoom,
}

impl SsdTier {
    /// To be asked before the log is asked for room, so that who is refused sees what came in between.
    pub(super) fn room(&self) -> LogRoom {
        let state = self.state.lock();
        LogRoom { is_recovering: state.tier.is_recovering(), times_made: state.times_room_was_made }
    }
}

impl Inner {
    /// Has what the log refused go past it, or wait for room.
    pub(super) fn go_on_without_room(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        ssd: &Arc<SsdTier>,
        refused: Refused,
    ) {
        let before = refused.before;
        self.start_reclaim(ssd);
        self.retire_refusing(ssd);
        let waiting = if self.goes_past_log(volume, ssd) {
            self.go_past_log(volume, ssd, refused)
        } else {
            refused.blocks
        };
        self.put_off(volume, &waiting);
        self.go_on_behind_fences(volume);
        self.make_room(volume);
        if before.is_recovering {
            self.retry_after_scan(volume, ssd);
        }
        self.retry_if_room_was_made(volume, ssd, before);
    }

    /// What nothing keeps any more, by whatever way, is room: not only destage frees segments.
    fn retire_refusing(self: &Arc<Self>, ssd: &SsdTier) {
        if ssd.with(|tier| tier.retire_refusing()) {
            self.make_voids_durable();
            ssd.state.lock().times_room_was_made += 1;
        }
    }

    /// Something of `volume` was put off that was refused when there was as much room as `before`: whoever made room since
    /// may not have seen it, and there may be nobody left who makes more.
    pub(super) fn retry_if_room_was_made(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        ssd: &SsdTier,
        before: LogRoom,
    ) {
        if ssd.room().times_made != before.times_made {
            self.take_put_off(volume);
        }
    }

    /// Whether a full log stays full for now, so that `volume` does not wait for room in it. Has those destaged who keep it
    /// full, so that this is known soon.
    fn goes_past_log(self: &Arc<Self>, volume: &VolumeState, ssd: &SsdTier) -> bool {
        if !self.may_go_past(volume) {
            return false;
        }
        let LogKeepers { volumes, has_bad } = ssd.with(|tier| tier.log_keepers());
        has_bad || volumes.iter().any(|&keeper| !self.makes_room(keeper))
    }

    fn may_go_past(&self, volume: &VolumeState) -> bool {
        !volume.has_epochs() && !self.fails_to_destage(volume)
    }

    /// Whether what the log has of this volume goes below, sooner or later; sees to it.
    fn makes_room(self: &Arc<Self>, keeper: VolumeId) -> bool {
        let keeper = self.volumes.read().by_id.get(&keeper).cloned();
        let keeper = keeper.filter(|keeper| !self.fails_to_destage(keeper));
        keeper.as_ref().inspect(|keeper| self.start_destage(keeper)).is_some()
    }

    /// Writes below what the log has nothing newer of; gives back what waits for destage.
    fn go_past_log(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        ssd: &Arc<SsdTier>,
        refused: Refused,
    ) -> Vec<TakenBlock> {
        let Refused { blocks, began, priority, .. } = refused;
        let (held, past): (Vec<_>, Vec<_>) =
            blocks.into_iter().partition(|taken| ssd.holds_back(taken.block));
        let (bad, waiting): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|taken| ssd.with(|tier| tier.is_bad(taken.block)));
        if !past.is_empty() {
            self.write_past_log(volume, ssd, past, priority);
        }
        if !bad.is_empty() {
            self.finish_group(volume, &bad, began, Err(kept_by_bad()));
        }
        waiting
    }

    /// Has a discard go past the log, or wait for a tombstone.
    pub(super) fn go_on_without_tombstone(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        ssd: &SsdTier,
        refused: RefusedDiscard,
    ) {
        if self.discards_past_log(volume, ssd, &refused.blocks) {
            return self.discard_past_log(volume, ssd, refused);
        }
        volume.dirty.lock().fences.discard(refused.id).step = Step::PutOff;
        volume.fence_changed.notify_all();
        self.retry_if_room_was_made(volume, ssd, refused.before);
    }

    fn discards_past_log(self: &Arc<Self>, volume: &VolumeState, ssd: &SsdTier, blocks: &Range<u64>) -> bool {
        let stretch = Stretch::new(volume, blocks.clone());
        let (keepers, is_held) = ssd
            .with(|tier| (tier.tombstone_keepers(), tier.holds_any_back(stretch.first(), stretch.count())));
        self.may_go_past(volume) && !keepers.into_iter().any(|keeper| self.makes_room(keeper)) && !is_held
    }

    fn discard_past_log(self: &Arc<Self>, volume: &Arc<VolumeState>, ssd: &SsdTier, refused: RefusedDiscard) {
        let RefusedDiscard { id, began, .. } = refused;
        let stretch = Stretch::new(volume, refused.blocks.clone());
        let version = self.date_discard(volume);
        let voided = ssd.void_range_durably(stretch.first(), stretch.count(), version);
        if voided.is_err() && ssd.is_off() {
            return self.discard_without_log(volume, id);
        }
        if let Err(cause) = voided.and_then(|()| self.discard_now(volume, &refused.blocks)) {
            return self.discard_failed(volume, id, began, &cause);
        }
        let (inner, volume_again) = (self.clone(), volume.clone());
        let done = move |synced| inner.finish_discard_past(&volume_again, refused, &synced);
        self.sync_volume(volume, Box::new(done));
    }

    /// A sync below that began after the discard ended. One that failed has told the flushes.
    fn finish_discard_past(
        self: &Arc<Self>,
        volume: &Arc<VolumeState>,
        discard: RefusedDiscard,
        synced: &Result<()>,
    ) {
        let RefusedDiscard { id, blocks, epoch, began, .. } = discard;
        let mut dirty = volume.dirty.lock();
        if synced.is_ok() && dirty.syncs.failures == began.sync_failures {
            dirty.fences.discards.retain(|discard| discard.id != id);
            drop(dirty);
            return self.lift_fence(volume, id, blocks, Some(epoch));
        }
        dirty.fences.discard(id).step = Step::HeldBack;
        dirty.note_failure();
        drop(dirty);
        volume.fence_changed.notify_all();
        self.ticker.watch(volume);
        self.pump(volume);
    }

    /// What keeps the log full may have been found to stay: who waits for room looks again, and may go past it.
    pub(super) fn look_past_log(self: &Arc<Self>, ssd: &SsdTier) {
        ssd.state.lock().times_room_was_made += 1;
        for volume in self.ticker.watched_volumes().iter().filter(|volume| self.may_go_past(volume)) {
            self.take_put_off(volume);
        }
    }
}

fn kept_by_bad() -> TierError {
    let what =
        "its log is full, and keeps a copy of the block that cannot be read; forget or discard the block";
    Arc::new(terrace_tiers::Error::Damaged { what: what.into() })
}

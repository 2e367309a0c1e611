//! What must hold when nothing is under way: nobody waits, nothing is counted that is not there, no frame is lost.

use std::time::Duration;

use super::Inner;
use crate::sync::{Instant, thread};

impl Inner {
    /// See [`super::Cache::assert_quiet`].
    pub(super) fn assert_quiet(&self) {
        for lane in self.lanes.lock().values().chain(self.ssd().map(|ssd| ssd.lane.clone()).iter()) {
            assert_eq!(lane.stats().panics, 0, "what runs on the pool does not panic");
        }
        let until = Instant::now() + Duration::from_secs(20);
        while let Some(what) = self.what_is_left() {
            assert!(Instant::now() < until, "not quiet: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// See [`super::Cache::assert_nobody_waits`].
    pub(super) fn assert_nobody_waits(&self) {
        assert_eq!(self.released.parked_count(), 0);
        assert!(!self.throttle.is_urgent());
    }

    /// The first thing that is still there and should not be.
    fn what_is_left(&self) -> Option<String> {
        let (mut frames, mut pinned) = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock();
            shard.policy.assert_invariants();
            if !shard.fences.is_empty() {
                return Some(format!("{} fences in a shard", shard.fences.len()));
            }
            if !shard.fills.is_empty() || !shard.write_waiters.is_empty() {
                return Some(format!(
                    "{} fills and {} blocks that writes wait for",
                    shard.fills.len(),
                    shard.write_waiters.len()
                ));
            }
            for entry in &shard.entries {
                frames += u32::from(entry.frame.is_some());
                pinned += u64::from(entry.is_pinned());
                if entry.filling {
                    return Some("an entry waits for a fill that is over".into());
                }
            }
        }
        if pinned != 0 || self.throttle.pinned_blocks() != 0 || self.throttle.is_urgent() {
            let (counted, urgent) = (self.throttle.pinned_blocks(), self.throttle.is_urgent());
            return Some(format!("{pinned} pinned entries, {counted} counted, urgent: {urgent}"));
        }
        for volume in self.volumes() {
            if let Some(what) = volume.dirty.lock().what_is_left() {
                return Some(format!("{what} of volume {}", volume.name));
            }
        }
        if let Some(what) = self.ssd().and_then(|ssd| ssd.what_is_left()) {
            return Some(what);
        }
        let out = self.frames.count() - self.frames.free_count();
        (out != frames).then(|| format!("{out} frames are out, {frames} in the directory"))
    }
}

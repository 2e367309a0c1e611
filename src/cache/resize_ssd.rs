//! Another size for the SSD tier while the cache is used; `tiers/ssd/resize.rs` has the steps and what makes them safe.
//!
//! - A grow takes the space first: when the disk is full nothing has changed. Then the tier uses it after one checkpoint.
//! - A shrink has the segments beyond the new end destaged and emptied, as ever: what was hit often moves on, the rest goes.
//!   Reads and writes go on, to what is left. It is given up, and nothing has changed, when a dirty block cannot go below.
//! - The SSD's lock is held as for any append or reclaim, for one walk through the segments, the slots' bits (3 bits a slot)
//!   and the ghosts (2 bytes a block), and for 2048 entries of the index at a time.
//! - Reads that were planned before a shrink may find the end of the file: the block is not there any more, and they are
//!   read from below, like all reads of blocks that moved meanwhile.

use std::sync::Arc;
use std::time::Duration;

use terrace_tiers::ssd::{Geometry, Ssd};

use super::ssd::SsdTier;
use super::{Inner, Result};
use crate::config::SsdSize;
use crate::error::Error;
use crate::sync::{Instant, Mutex};

/// How often a shrink looks whether there is something to empty, in case nobody says so.
const LOOK: Duration = Duration::from_millis(10);

/// So often it finds nothing that it could bring below, before it gives up.
const IDLE_LOOKS_MAX: u32 = 100;

/// What [`super::Cache::resize_ssd`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SsdResized {
    /// Of the cache file: at most what was asked for.
    pub file_bytes: u64,
    /// Blocks that it has room for now.
    pub blocks: u64,
}

/// How draining the log of the volumes goes.
#[derive(Default)]
struct Drains {
    running: usize,
    failure: Option<Error>,
}

impl Inner {
    /// See [`super::Cache::resize_ssd`].
    pub(super) fn resize_ssd(self: &Arc<Self>, size: SsdSize) -> Result<SsdResized> {
        let _config = self.resizing.lock();
        self.check_open()?;
        let ssd = self.ssd_in_use();
        let ssd =
            ssd.ok_or_else(|| Error::Config("there is no SSD in use whose size could change".into()))?;
        let before = ssd.with(|tier| tier.geometry());
        let file_bytes = self.file_bytes_of(size, before)?;
        let geometry = ssd.with(|tier| tier.plan_resize(file_bytes))?;
        if geometry != before {
            self.finish_recovery(&ssd)?;
        }
        if geometry.segment_count > before.segment_count {
            ssd.device.resize(geometry.file_bytes())?;
            ssd.with(|tier| tier.begin_grow(geometry));
            self.finish_resize(&ssd)?;
        } else if geometry != before {
            self.empty_end(&ssd, geometry)?;
            ssd.with(|tier| tier.begin_fewer(geometry));
            self.finish_resize(&ssd)?;
            ssd.device.resize(geometry.file_bytes())?;
        }
        Ok(SsdResized { file_bytes: geometry.file_bytes(), blocks: geometry.capacity_blocks() })
    }

    /// A file that was opened with another size than it has gets that. One with dirty blocks does not become smaller: they
    /// may be at its end, and nobody has attached the volumes yet that they belong to.
    pub(super) fn fit_ssd(self: &Arc<Self>, size: SsdSize) -> Result<()> {
        let Some(ssd) = self.ssd_in_use() else { return Ok(()) };
        let found = ssd.with(|tier| tier.geometry());
        let file_bytes = self.file_bytes_of(size, found)?;
        let keeps_size = file_bytes < found.file_bytes() && ssd.with(|tier| tier.dirty_blocks() > 0);
        if keeps_size { Ok(()) } else { self.resize_ssd(size).map(drop) }
    }

    /// What the file held when it was opened is known, and a checkpoint says so: until then checkpoints say what others said
    /// before them, of the old layout.
    fn finish_recovery(&self, ssd: &SsdTier) -> Result<()> {
        ssd.finish_scan();
        while ssd.with(|tier| tier.is_recovering()) {
            if ssd.is_off() {
                return Err(switched_off());
            }
            ssd.run_checkpoint(false)?;
        }
        Ok(())
    }

    fn file_bytes_of(&self, size: SsdSize, found: Geometry) -> Result<u64> {
        Ok(match size {
            SsdSize::AsFound => found.file_bytes(),
            SsdSize::Bytes(bytes) => bytes,
            SsdSize::Blocks(blocks) => Geometry::for_blocks(self.size, blocks)?.file_bytes(),
        })
    }

    /// Makes the new layout durable, and moves what is in RAM to it.
    fn finish_resize(self: &Arc<Self>, ssd: &Arc<SsdTier>) -> Result<()> {
        // One that was under way may have begun with the old layout.
        while !ssd.with(|tier| tier.is_resize_durable()) {
            if ssd.is_off() {
                return Err(switched_off());
            }
            ssd.run_checkpoint(false)?;
        }
        while ssd.with(Ssd::step_resize) {}
        if self.is_continuous() && self.prepares {
            self.start_preparing(ssd);
        }
        Ok(())
    }

    /// Has everything go that `geometry` has no segments for.
    fn empty_end(self: &Arc<Self>, ssd: &Arc<SsdTier>, geometry: Geometry) -> Result<()> {
        let seals = ssd.with(|tier| tier.begin_shrink(geometry));
        if seals.into_iter().fold(false, |is_mine, seal| is_mine | ssd.queue_seal(seal)) {
            self.run_seals(ssd);
        }
        let emptied = self.destage_end(ssd).and_then(|()| self.reclaim_end(ssd));
        if emptied.is_err() {
            ssd.with(Ssd::give_shrink_up);
        }
        emptied
    }

    /// Has the log leave the end of the file. Its segments go in their order, so what is logged meanwhile may have to go
    /// below too.
    fn destage_end(self: &Arc<Self>, ssd: &Arc<SsdTier>) -> Result<()> {
        let drains = Arc::new(Mutex::new(Drains::default()));
        let mut idle_looks = 0;
        loop {
            ssd.with(Ssd::retire_unneeded);
            if !ssd.with(|tier| tier.has_log_leaving()) {
                return Ok(());
            }
            if ssd.is_off() {
                return Err(switched_off());
            }
            self.check_open()?;
            if let Some(error) = drains.lock().failure.take() {
                return Err(error);
            }
            let is_idle = self.drain_again(ssd, &drains) == 0 && ssd.with(|tier| tier.is_log_settled());
            idle_looks = if is_idle { idle_looks + 1 } else { 0 };
            if idle_looks == IDLE_LOOKS_MAX {
                return Err(Error::Config(
                    "the cache file has dirty blocks where it is to end, of volumes that are not attached or that cannot \
                     be read; leave it its size, attach them, or forget the blocks, and ask again"
                        .into(),
                ));
            }
            ssd.changed.wait_until(&mut ssd.state.lock(), Instant::now() + LOOK);
        }
    }

    /// Starts to drain the log of volumes that have something in it, unless that is under way; how many are.
    fn drain_again(self: &Arc<Self>, ssd: &SsdTier, drains: &Arc<Mutex<Drains>>) -> usize {
        let running = drains.lock().running;
        if running > 0 {
            return running;
        }
        let mut volumes = self.volumes();
        volumes.retain(|volume| ssd.with(|tier| tier.dirty_blocks_of(volume.id)) > 0);
        drains.lock().running = volumes.len();
        for volume in &volumes {
            let drains = drains.clone();
            let done = move |result: Result<()>| {
                let mut drains = drains.lock();
                drains.running -= 1;
                drains.failure = result.err().or(drains.failure.take());
            };
            volume.destage.lock().drains.push(Box::new(done));
            self.start_destage(volume);
        }
        volumes.len()
    }

    fn reclaim_end(self: &Arc<Self>, ssd: &Arc<SsdTier>) -> Result<()> {
        loop {
            self.start_reclaim(ssd);
            ssd.make_durable(None)?;
            if ssd.with(|tier| tier.is_emptied()) {
                return Ok(());
            }
            if ssd.is_off() {
                return Err(switched_off());
            }
            self.check_open()?;
            if !self.is_continuous() {
                self.settle_ssd(ssd);
            }
            ssd.changed.wait_until(&mut ssd.state.lock(), Instant::now() + LOOK);
        }
    }
}

fn switched_off() -> Error {
    Error::Config("the SSD was switched off while its size changed; `Stats::ssd_off_for` says why".into())
}

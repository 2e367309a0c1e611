//! The SSD comes and goes while the cache is in use.
//!
//! Detaching: no call finds the SSD from some moment on; what began with it goes on with it, and is waited for. Then its file
//! is left in order. A volume in mode `back-ssd` needs its log, so that it has to be given another mode first: what a flush
//! of it promises must not change behind the caller's back.
//!
//! Attaching: the file is opened, and made to hold nothing of the volumes that are attached, before any call finds it. What
//! is dirty in RAM, or was written below while there was no SSD, so has no older copy there. Volumes that are attached
//! later find their copies as usual.
//!
//! Invariants:
//! 1. A version that is given out once the SSD can be found is higher than all in its file (`begin_after`).
//! 2. Clean copies in a file that was detached are believed again only if nothing was written below since (the volume's
//!    mark), and if all that was before is synced there (rule 3); else its volumes count as not left in order.
//! 3. When the detach returns nothing uses the device any more.

use std::sync::{Arc, OnceLock};

use terrace_tiers::block::Version;

use super::dirty::VolumeState;
use super::mode::Route;
use super::recover::SsdParts;
use super::ssd::SsdTier;
use super::{Inner, Result};
use crate::config::{Background, SsdConfig, WriteMode};
use crate::error::Error;
use crate::sync::Blocker;
use crate::sync::atomic::Ordering;

/// The last part of an [`SsdTier`] to go: says that its device is let go.
#[derive(Default)]
pub(super) struct Gone(OnceLock<Arc<Blocker<()>>>);

impl Gone {
    fn awaited(&self) -> Arc<Blocker<()>> {
        self.0.get_or_init(Arc::default).clone()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.get() {
            waiting.set(());
        }
    }
}

impl Inner {
    /// See [`super::Cache::detach_ssd`].
    pub(super) fn detach_ssd(self: &Arc<Self>) -> Result<()> {
        let _closing = self.closing.lock();
        let _resizing = self.resizing.lock();
        self.check_open()?;
        let Some(ssd) = self.take_ssd()? else { return Ok(()) };
        let in_order = if ssd.is_off() { Ok(()) } else { self.leave_ssd(&ssd) };
        let gone = ssd.gone.awaited();
        drop(ssd);
        gone.wait();
        in_order
    }

    /// No call finds the SSD any more, unless a volume needs it.
    fn take_ssd(&self) -> Result<Option<Arc<SsdTier>>> {
        let volumes = self.volumes.write();
        let needs_log = |volume: &&Arc<VolumeState>| {
            volume.mode() == WriteMode::BackSsd || volume.route() != Route::Below
        };
        if let Some(volume) = volumes.by_id.values().find(needs_log) {
            return Err(Error::SsdInUse { volume: volume.name.clone() });
        }
        let ssd = self.ssd.write().take();
        if let Some(ssd) = &ssd {
            let _state = ssd.state.lock();
            ssd.is_leaving.store(true, Ordering::Relaxed);
        }
        Ok(ssd)
    }

    fn leave_ssd(self: &Arc<Self>, ssd: &Arc<SsdTier>) -> Result<()> {
        for volume in self.volumes() {
            let identity = if volume.can_be_left() { volume.device.identity() } else { None };
            ssd.with(|tier| tier.detach_volume(volume.id, identity));
        }
        self.close_ssd(ssd)
    }

    /// See [`super::Cache::attach_ssd`].
    pub(super) fn attach_ssd(self: &Arc<Self>, config: &SsdConfig) -> Result<()> {
        let _closing = self.closing.lock();
        self.check_open()?;
        if self.ssd().is_some() {
            return Err(Error::Config("the cache has an SSD already; detach it first".into()));
        }
        let parts = SsdParts {
            ticker: self.ticker.clone(),
            lane: self.ssd_lane.get_or_init(|| self.pool.lane(self.limits.ssd_lane.clone())).clone(),
        };
        let ssd = Arc::new(parts.open(config, config.geometry(self.size)?)?);
        // Then a checkpoint takes the place of the journal, whatever has been there.
        ssd.finish_scan();
        // Under `closing` no volume comes or goes.
        for volume in self.volumes() {
            self.adopt(&volume, &ssd)?;
        }
        ssd.with(|tier| tier.begin_after(Version::from_u64(self.version.load(Ordering::SeqCst))));
        // It has all of this, and nothing void is left in the journal that newer copies of a low version could be taken for.
        ssd.run_checkpoint(false)?;
        self.version.fetch_max(ssd.with(|tier| tier.first_version()).as_u64(), Ordering::SeqCst);
        *self.ssd.write() = Some(ssd.clone());
        if let Err(error) = self.fit_ssd(config.size) {
            // It is of no use as it is; that it cannot be left in order says less than why.
            let _ = self.take_ssd().map(|_| self.leave_ssd(&ssd));
            return Err(error);
        }
        if self.limits.background == Background::Continuous && config.prepare {
            self.start_preparing(&ssd);
        }
        Ok(())
    }

    fn adopt(&self, volume: &VolumeState, ssd: &SsdTier) -> Result<()> {
        let in_the_way = ssd.with(|tier| tier.adopt_volume(&volume.name, volume.id));
        if let Some((name, dirty_blocks)) = in_the_way {
            return Err(Error::SsdHasNewer { volume: name, dirty_blocks });
        }
        if let Some(mark) = &volume.mark {
            ssd.with(|tier| tier.set_mark(volume.id, mark.expect_ssd()));
        }
        Ok(())
    }
}

impl VolumeState {
    /// Whether the backing store durably has all that was ever written there.
    fn can_be_left(&self) -> bool {
        let dirty = self.dirty.lock();
        self.mark.is_some() && !dirty.needs_sync() && dirty.syncs.is_all_covered()
    }
}

//! Rule 8: an SSD that was away is not believed.
//!
//! A volume with a place for a mark ([`MarkPlace`]) has one from when it first needs it; `tiers/mark.rs` says what it says
//! and when. Here is who writes it, and what a volume that is attached makes of it.
//!
//! | the mark says                 | and the SSD               | attaching the volume                                 |
//! |-------------------------------|---------------------------|------------------------------------------------------|
//! | held by another cache file    | whichever                 | is refused, or (`Forget`) goes on without that file  |
//! | held by this file, or nobody  | knows the serial          | believes it                                          |
//! | the same                      | knows an older one, has newer blocks | is refused, or drops them (`Forget`), or takes them (`Believe`) |
//! | held by nobody                | knows an older one, has none | drops its clean copies                            |
//!
//! Invariants, which `tests/returning_ssd.rs` and the crash sweep hold:
//! 1. Before a volume in mode `back-ssd` writes to a log, its mark names that file, durably, and the file knows its serial.
//! 2. Before the first write below that an SSD does not learn of, since it is off or away, the serial is one that no cache
//!    file knows, durably.
//! 3. A mark names a holder until the log has nothing of the volume that recovery could find.

use std::sync::Arc;

use terrace_tiers::mark::{FileMark, Mark, MarkPlace};

use super::dirty::VolumeState;
use super::ssd::SsdTier;
use super::{Inner, Result};
use crate::config::{AttachOptions, StaleSsd, WriteMode};
use crate::error::{Error, TierError};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The mark of a volume that is attached.
pub(super) struct VolumeMark {
    place: Arc<dyn MarkPlace>,
    /// Held while it is stored.
    mark: Mutex<Mark>,
    /// No cache file that is away can be believed: there is none, or the mark says so.
    is_past: AtomicBool,
}

/// What attaching a volume makes of its mark.
pub(super) struct Judged {
    place: Option<Arc<dyn MarkPlace>>,
    mark: Mark,
    /// A cache file elsewhere was given up: that must be durable at once.
    gives_up: bool,
}

impl Judged {
    /// Whether there is a mark that a cache file which is believed knows.
    pub(super) fn has_serial(&self) -> bool {
        self.place.is_some() && self.mark.serial > 0
    }

    pub(super) fn has_place(&self) -> bool {
        self.place.is_some()
    }

    /// Loads the mark of a volume. Takes no lock; may ask the file system.
    pub(super) fn load(device: &dyn terrace_tiers::device::Device, options: &AttachOptions) -> Result<Self> {
        let beside =
            || device.mark_path().map(|path| -> Arc<dyn MarkPlace> { Arc::new(FileMark::new(path)) });
        let place = options.mark.clone().or_else(beside);
        let mark = place.as_ref().map_or(Ok(None), |place| place.load())?.unwrap_or_default();
        Ok(Self { place, mark, gives_up: false })
    }

    /// Looks at what the SSD, if there is one, has of the volume of this name, and sees to it that it is attached with no
    /// more than is believed.
    pub(super) fn settle(&mut self, name: &str, ssd: Option<&SsdTier>, stale: StaleSsd) -> Result<()> {
        let volume = name.to_owned();
        let is_elsewhere = |holder: u64| ssd.is_none_or(|ssd| ssd.with(|tier| tier.file_id()) != holder);
        if let Some(cache_file) = self.mark.holder.filter(|&holder| is_elsewhere(holder)) {
            if stale != StaleSsd::Forget {
                return Err(Error::SsdMissing { volume, cache_file });
            }
            (self.mark.holder, self.gives_up) = (None, true);
            self.mark.serial += 1;
        }
        let Some(ssd) = ssd.filter(|ssd| ssd.with(|tier| tier.mark_of(name)) < self.mark.serial) else {
            return Ok(());
        };
        let dirty_blocks = ssd.with(|tier| tier.dirty_blocks_of_name(name));
        match stale {
            StaleSsd::Refuse if dirty_blocks > 0 || self.mark.holder.is_some() => {
                return Err(Error::SsdOlder { volume, dirty_blocks });
            }
            StaleSsd::Believe => ssd.with(|tier| tier.trust_volume(name)),
            StaleSsd::Refuse | StaleSsd::Forget => ssd.with(|tier| tier.forget_volume(name)),
        }
        Ok(())
    }

    /// What the volume keeps of it.
    ///
    /// # Errors
    /// When it has to be durable at once, and cannot be.
    pub(super) fn into_mark(self, ssd: Option<&SsdTier>, is_given: bool) -> Result<Option<VolumeMark>> {
        let Self { place: Some(place), mark, gives_up } = self else { return Ok(None) };
        if gives_up {
            place.store(mark)?;
        }
        let can_be_believed = ssd.is_some() || !gives_up && (is_given || mark.serial > 0);
        let is_past = AtomicBool::new(!can_be_believed);
        Ok(Some(VolumeMark { place, mark: Mutex::new(mark), is_past }))
    }
}

impl VolumeMark {
    fn store(&self, held: &mut Mark, new: Mark) -> Result<(), TierError> {
        self.place.store(new).map_err(Arc::new)?;
        *held = new;
        Ok(())
    }

    /// An SSD was attached that learns of what is written below from now on; it is to know this serial.
    pub(super) fn expect_ssd(&self) -> u64 {
        let mark = self.mark.lock();
        self.is_past.store(false, Ordering::Release);
        mark.serial
    }

    /// What is written below from now on is written past every cache file that knows this volume.
    fn go_past(&self) -> Result<(), TierError> {
        if self.is_past.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut mark = self.mark.lock();
        if !self.is_past.load(Ordering::Acquire) {
            let new = Mark { serial: mark.serial + 1, ..*mark };
            self.store(&mut mark, new)?;
            self.is_past.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl Inner {
    /// The SSD knows the mark of a volume that was just attached; before the next write below it does so durably.
    pub(super) fn show_mark(&self, volume: &VolumeState) {
        let Some((mark, ssd)) = volume.mark.as_ref().zip(self.ssd_in_use()) else { return };
        let serial = mark.mark.lock().serial;
        if serial > 0 {
            ssd.with(|tier| tier.set_mark(volume.id, serial));
        }
    }

    /// Before a volume writes to the log: the mark says so.
    pub(super) fn mark_holder(&self, volume: &VolumeState, ssd: &SsdTier) -> Result<()> {
        let file = ssd.with(|tier| tier.file_id());
        self.raise_serial(volume, ssd, |_| Some(file))
    }

    /// Before a volume whose clean copies are to outlive a crash is used: no other copy of the file is as new as its mark.
    pub(super) fn renew_mark(&self, volume: &VolumeState, ssd: &SsdTier) -> Result<()> {
        self.raise_serial(volume, ssd, |holder| holder)
    }

    /// The file learns the next serial, and the mark becomes that of this holder.
    fn raise_serial(
        &self,
        volume: &VolumeState,
        ssd: &SsdTier,
        holder: impl FnOnce(Option<u64>) -> Option<u64>,
    ) -> Result<()> {
        let Some(mark) = &volume.mark else { return Ok(ssd.make_durable(None).map(drop)?) };
        let mut held = mark.mark.lock();
        let known = ssd.with(|tier| tier.mark_of(&volume.name));
        let new = Mark { serial: held.serial.max(known) + 1, holder: holder(held.holder) };
        ssd.with(|tier| tier.set_mark(volume.id, new.serial));
        // First the file, so that it is never older than its own mark.
        ssd.make_durable(None)?;
        Ok(mark.store(&mut held, new)?)
    }

    /// If the log has nothing of the volume any more, whoever opens it without this SSD misses nothing. A mark that cannot
    /// be stored goes on naming its holder, which costs a question later, and no data.
    pub(super) fn release_mark(&self, volume: &VolumeState) {
        let Some((mark, ssd)) = volume.mark.as_ref().zip(self.ssd()) else { return };
        let is_held = if ssd.is_off() {
            volume.mode() == WriteMode::BackSsd || volume.has_unreadable.load(Ordering::SeqCst)
        } else {
            ssd.with(|tier| tier.has_logged(volume.id))
        };
        let mut held = mark.mark.lock();
        if !is_held && held.holder.is_some() {
            let new = Mark { holder: None, ..*held };
            let _ = mark.store(&mut held, new);
        }
    }

    /// Before a write below: what the SSD has of older copies is void, durably (rule 1); an SSD that does not learn of it is
    /// not believed when it comes back (rule 8).
    pub(super) fn before_write_below(self: &Arc<Self>, volume: &VolumeState) -> Result<(), TierError> {
        self.make_voids_durable();
        if self.ssd_in_use().is_some() {
            return Ok(());
        }
        volume.mark.as_ref().map_or(Ok(()), VolumeMark::go_past)
    }

    /// Whether a write below would have to wait for that.
    pub(super) fn must_prepare_write(&self, volume: &VolumeState) -> bool {
        match self.ssd_in_use() {
            Some(ssd) => ssd.with(|tier| tier.journal_pending().is_some()),
            None => volume.mark.as_ref().is_some_and(|mark| !mark.is_past.load(Ordering::Acquire)),
        }
    }
}

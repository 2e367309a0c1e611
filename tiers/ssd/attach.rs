//! The part of [`Ssd`] for the volumes that it knows: attached, left in order, taken over, forgotten.

use super::Ssd;
use super::encoding::JournalEntry;
use super::volumes::VolumeRecord;
use crate::block::{Version, VolumeId};
use crate::device::Identity;
use crate::error::{Error, Result};

impl Ssd {
    /// As [`Self::attach_again`], of a volume that others may have written to.
    ///
    /// # Errors
    /// As that.
    pub fn attach_volume(&mut self, name: &str, identity: Option<Identity>) -> Result<VolumeId> {
        self.attach_again(name, identity, false)
    }

    /// The number for a volume of this name: the old one, its copies warm, when `identity` is what the last clean
    /// stop saw; else a new one. A volume with dirty blocks here keeps its number, and after an unclean stop nothing but
    /// these. With `keeps`, nobody else wrote to it: then it also keeps the clean copies that a sync covers
    /// ([`Self::note_synced`]).
    ///
    /// # Errors
    /// [`Error::VolumeChanged`] when the volume has dirty blocks here and was changed since it was left in order.
    pub fn attach_again(&mut self, name: &str, identity: Option<Identity>, keeps: bool) -> Result<VolumeId> {
        let known = self.volumes.find(name);
        let dirty_blocks = known.map_or(0, |(id, _)| self.dirty_blocks_of(id));
        let left_as = known.and_then(|(_, identity)| identity);
        if dirty_blocks > 0 && left_as.is_some() && left_as != identity {
            return Err(Error::VolumeChanged { name: name.to_owned(), dirty_blocks });
        }
        let Self { volumes, dirty, .. } = self;
        let may_go = |volume| !dirty.has_dirty(volume);
        let is_synced = keeps && known.is_some_and(|(id, _)| volumes.synced_through(id).is_some());
        let (id, entries) = volumes.attach(name, identity, dirty_blocks > 0 || is_synced, keeps, may_go);
        if dirty_blocks > 0 && left_as.is_none() && !is_synced {
            self.cool(id);
        }
        for entry in entries {
            if let JournalEntry::VolumeDropped { volume } = entry {
                self.void_unread_of(VolumeId::new(volume));
            }
            self.queue(entry);
        }
        Ok(id)
    }

    /// What tells this file from every other.
    pub fn file_id(&self) -> u64 {
        self.file_id
    }

    /// The mark that the file knows of the volume of this name, attached or not; 0 when it knows none.
    pub fn mark_of(&self, name: &str) -> u64 {
        self.volumes.mark_of(name)
    }

    /// The file knows this mark of `volume`, once the journal is durable.
    pub fn set_mark(&mut self, volume: VolumeId, serial: u64) {
        if let Some(entry) = self.volumes.set_mark(volume, serial) {
            self.queue(entry);
        }
    }

    /// Blocks of the volume of this name, which is not attached, that its backing store does not have.
    pub fn dirty_blocks_of_name(&self, name: &str) -> u64 {
        self.volumes.find(name).map_or(0, |(id, _)| self.dirty_blocks_of(id))
    }

    /// Drops all that is known of the volume of this name, which is not attached, its dirty blocks too.
    pub fn forget_volume(&mut self, name: &str) {
        let Some((id, _)) = self.volumes.find(name) else { return };
        for block in self.dirty.blocks_of(id) {
            self.dirty.void(block);
        }
        self.void_unread_of(id);
        self.dirty.tombstones.retain(|tombstone| tombstone.volume() != id);
        if let Some(entry) = self.volumes.forget(name) {
            self.queue(entry);
        }
        self.retire_unneeded();
    }

    /// The volume of this name is attached next with its dirty blocks, though it was changed since it was left.
    pub fn trust_volume(&mut self, name: &str) {
        self.volumes.trust(name);
    }

    /// Has the volume `id` of this name be one of the file, which has nothing of it then. Gives the volume that stands in
    /// the way, and how many of its blocks its backing store lacks: nothing is done then.
    pub fn adopt_volume(&mut self, name: &str, id: VolumeId) -> Option<(String, u64)> {
        let others = self.volumes.records().filter(|other| other.name == name || other.id == id);
        let others: Vec<(String, VolumeId)> = others.map(|other| (other.name.clone(), other.id)).collect();
        for (other, other_id) in &others {
            let dirty_blocks = self.dirty_blocks_of(*other_id);
            if dirty_blocks > 0 {
                return Some((other.clone(), dirty_blocks));
            }
        }
        others.iter().for_each(|(other, _)| self.forget_volume(other));
        self.cool(id);
        for entry in self.volumes.adopt(name, id) {
            self.queue(entry);
        }
        None
    }

    /// Every version of this opening is higher than `version`, once a checkpoint is durable.
    pub fn begin_after(&mut self, version: Version) {
        self.opening = self.opening.max(version.opening() + 1);
    }

    /// Whether recovery could find blocks of `volume` that are newer than its backing store.
    pub fn has_logged(&self, volume: VolumeId) -> bool {
        self.dirty.has_dirty(volume) || self.dirty.may_find_any_of(volume)
    }

    /// Whether the file knows `volume`, so that dirty blocks of it are found again.
    pub fn is_recorded(&self, volume: VolumeId) -> bool {
        self.volumes.contains(volume)
    }

    /// Whoever is attached under this name next gets the dirty blocks of the volume, however it looks; what is clean
    /// here is not believed then. Nothing when it is attached, or not known.
    pub fn forget_identity(&mut self, name: &str) {
        let known = self.volumes.find(name).filter(|(_, identity)| identity.is_some());
        if let Some((volume, _)) = known {
            self.detach_volume(volume, None);
        }
    }

    /// Of `volume`, which is attached, a sync of the backing store covers all copies up to this version. Part of what the
    /// journal has, the next time that someone needs it durable; nothing while an opened file is not known in full: an
    /// unread copy is believed if it is not younger than what was synced when the file was left.
    pub fn note_synced(&mut self, volume: VolumeId, through: Version) {
        if self.scan.is_none()
            && let Some(entry) = self.volumes.raise_synced(volume, through)
        {
            self.queue(entry);
        }
    }

    /// What the volume looks like as it is left in order.
    pub fn detach_volume(&mut self, volume: VolumeId, identity: Option<Identity>) {
        // As it looks now all copies in its segments would be believed, those too that were void when it was attached.
        let identity = identity.filter(|_| self.scan.is_none() || !self.volumes.is_kept(volume));
        if let Some(entry) = self.volumes.detach(volume, identity) {
            self.queue(entry);
        }
    }

    /// The volumes that the file knows, attached or not.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.records()
    }
}

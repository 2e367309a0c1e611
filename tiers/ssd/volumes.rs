//! The volumes that a cache file knows, by name.
//!
//! A volume keeps its number, and so its cached blocks, when it is attached looking exactly as it was left by
//! [`Volumes::detach`]. While it is attached its record says that it was not left in order; so after a crash it is
//! given a new number, and the copies under the old one are never believed again. Numbers are not reused.
//!
//! One with blocks in the cache file that its backing store lacks keeps its number over a crash as well, with these
//! blocks alone. One that nobody else writes to keeps it with the clean copies that were synced below
//! ([`JournalEntry::SyncedThrough`]).
//!
//! The table is bounded by [`Geometry::volume_table_bytes`]: the volume detached with the lowest number gives way, but
//! none with such blocks. One that finds no room (or has too long a name) is used unrecorded, and is cold the next time.

use std::collections::BTreeMap;

use crate::block::{Version, VolumeId};
use crate::device::Identity;

use super::encoding::{CheckpointItem, JournalEntry, VolumeEntry};
use super::geometry::Geometry;

/// A longer name is not recorded.
const NAME_BYTES_MAX: usize = 1024;

/// What an open cache file knows of one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord {
    pub id: VolumeId,
    pub name: String,
    /// What it looked like when it was left in order; none while it is attached.
    pub identity: Option<Identity>,
}

#[derive(Clone)]
struct Volume {
    record: VolumeRecord,
    synced_through: Version,
    /// The backing store has all up to this epoch.
    destaged_epoch: u64,
    is_attached: bool,
    /// It was not left in order, and kept its number for its clean copies.
    is_kept: bool,
    /// The serial number of the mark that the file knows.
    mark: u64,
}

impl Volume {
    fn entry(&self) -> VolumeEntry {
        let VolumeRecord { id, name, identity } = &self.record;
        VolumeEntry::new(*id, name.clone(), *identity, self.synced_through)
    }
}

#[derive(Clone)]
pub(super) struct Volumes {
    volumes: BTreeMap<u32, Volume>,
    next: u32,
    bytes: u64,
    bytes_max: u64,
}

impl Volumes {
    pub(super) fn new(geometry: &Geometry, next: u32) -> Self {
        Self { volumes: BTreeMap::new(), next, bytes: 0, bytes_max: geometry.volume_table_bytes() }
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn contains(&self, volume: VolumeId) -> bool {
        self.volumes.contains_key(&volume.number())
    }

    /// What a checkpoint says of them.
    pub(super) fn items(&self) -> impl Iterator<Item = CheckpointItem> + '_ {
        self.volumes.iter().flat_map(|(&number, volume)| {
            let mark = CheckpointItem::VolumeMark { volume: number, serial: volume.mark };
            [CheckpointItem::Volume(volume.entry())].into_iter().chain((volume.mark > 0).then_some(mark))
        })
    }

    /// The mark that the file knows of the volume of this name.
    pub(super) fn mark_of(&self, name: &str) -> u64 {
        let known = self.volumes.values().find(|volume| volume.record.name == name);
        known.map_or(0, |volume| volume.mark)
    }

    /// The file knows this mark from now on; none when the volume is not recorded.
    pub(super) fn set_mark(&mut self, volume: VolumeId, serial: u64) -> Option<JournalEntry> {
        let number = volume.number();
        self.volumes.get_mut(&number)?.mark = serial;
        Some(JournalEntry::VolumeMark { volume: number, serial })
    }

    /// The volume of this name comes back looking however it does.
    pub(super) fn trust(&mut self, name: &str) {
        if let Some(volume) = self.volumes.values_mut().find(|volume| volume.record.name == name) {
            volume.record.identity = None;
        }
    }

    /// The volume of this name, which is not attached, is gone, and every copy of its blocks.
    pub(super) fn forget(&mut self, name: &str) -> Option<JournalEntry> {
        let (id, _) = self.find(name)?;
        Some(self.drop_volume(id.number()))
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.volumes.values().map(|volume| &volume.record)
    }

    /// The number that the volume of this name had, and what it looked like when it was left in order.
    pub(super) fn find(&self, name: &str) -> Option<(VolumeId, Option<Identity>)> {
        let known = self.volumes.values().find(|volume| volume.record.name == name && !volume.is_attached);
        known.map(|volume| (volume.record.id, volume.record.identity))
    }

    /// The number for the volume of this name, and what the journal must say about it. It keeps the one that it had when
    /// it looks like it did, or when `keeps_number`. Unless `keeps_synced` nothing is known of its syncs any more.
    pub(super) fn attach(
        &mut self,
        name: &str,
        identity: Option<Identity>,
        keeps_number: bool,
        keeps_synced: bool,
        may_go: impl Fn(VolumeId) -> bool,
    ) -> (VolumeId, Vec<JournalEntry>) {
        let known = self.volumes.values_mut().find(|volume| volume.record.name == name);
        if let Some(volume) = known {
            let is_same = identity.is_some() && volume.record.identity == identity;
            if (is_same || keeps_number) && !volume.is_attached {
                volume.is_kept = keeps_synced && volume.record.identity.is_none();
                (volume.record.identity, volume.is_attached) = (None, true);
                if !keeps_synced {
                    volume.synced_through = Version::ZERO;
                }
                return (volume.record.id, vec![JournalEntry::Volume(Box::new(volume.entry()))]);
            }
            let number = volume.record.id.number();
            let mut entries = vec![self.drop_volume(number)];
            let (id, more) = self.attach_new(name, may_go);
            entries.extend(more);
            return (id, entries);
        }
        self.attach_new(name, may_go)
    }

    /// Records a volume that has its number already, which no other has here; what the journal must say about it.
    pub(super) fn adopt(&mut self, name: &str, id: VolumeId) -> Vec<JournalEntry> {
        let next = std::mem::replace(&mut self.next, id.number());
        let (_, entries) = self.attach_new(name, |_| false);
        self.next = self.next.max(next);
        entries
    }

    fn attach_new(&mut self, name: &str, may_go: impl Fn(VolumeId) -> bool) -> (VolumeId, Vec<JournalEntry>) {
        let id = VolumeId::new(self.next);
        self.next += 1;
        let mut entries = Vec::new();
        let needed = VolumeEntry::bytes_max(name.len());
        while self.bytes + needed > self.bytes_max {
            let detached =
                self.volumes.values().find(|volume| !volume.is_attached && may_go(volume.record.id));
            let Some(number) = detached.map(|volume| volume.record.id.number()) else { break };
            entries.push(self.drop_volume(number));
        }
        if name.len() > NAME_BYTES_MAX || self.bytes + needed > self.bytes_max {
            entries.push(JournalEntry::VolumeUsed { volume: id.number() });
            return (id, entries);
        }
        let record = VolumeRecord { id, name: name.to_owned(), identity: None };
        let (synced_through, destaged_epoch) = (Version::ZERO, 0);
        let volume =
            Volume { record, synced_through, destaged_epoch, is_attached: true, is_kept: false, mark: 0 };
        entries.push(JournalEntry::Volume(Box::new(volume.entry())));
        self.bytes += needed;
        self.volumes.insert(id.number(), volume);
        (id, entries)
    }

    /// The volume is left looking like this; none when it is not recorded.
    pub(super) fn detach(&mut self, volume: VolumeId, identity: Option<Identity>) -> Option<JournalEntry> {
        let volume = self.volumes.get_mut(&volume.number())?;
        (volume.record.identity, volume.is_attached) = (identity, false);
        Some(JournalEntry::Volume(Box::new(volume.entry())))
    }

    fn drop_volume(&mut self, number: u32) -> JournalEntry {
        if let Some(volume) = self.volumes.remove(&number) {
            self.bytes -= VolumeEntry::bytes_max(volume.record.name.len());
        }
        JournalEntry::VolumeDropped { volume: number }
    }

    /// What a checkpoint or the journal said. False when it says something impossible; whether they all fit the table is
    /// known at the end ([`Self::fits`]), since an entry of the journal may be part of the checkpoint already.
    pub(super) fn restore(&mut self, entry: &VolumeEntry) -> bool {
        let Some(id) = entry.id() else { return false };
        if entry.name.len() > NAME_BYTES_MAX {
            return false;
        }
        let destaged_epoch = self.destaged_epoch(id);
        let mark = self.volumes.get(&id.number()).map_or(0, |volume| volume.mark);
        self.drop_volume(id.number());
        let record = VolumeRecord { id, name: entry.name.clone(), identity: entry.identity() };
        let synced_through = Version::from_u64(entry.synced_through);
        let volume =
            Volume { record, synced_through, destaged_epoch, is_attached: false, is_kept: false, mark };
        self.volumes.insert(id.number(), volume);
        self.bytes += VolumeEntry::bytes_max(entry.name.len());
        self.used(id.number());
        true
    }

    /// Whether the table has room for what was restored.
    pub(super) fn fits(&self) -> bool {
        self.bytes <= self.bytes_max
    }

    pub(super) fn restore_dropped(&mut self, number: u32) {
        self.drop_volume(number);
    }

    pub(super) fn restore_mark(&mut self, number: u32, serial: u64) {
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.mark = serial;
        }
    }

    pub(super) fn restore_synced(&mut self, number: u32, version: Version) {
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.synced_through = volume.synced_through.max(version);
        }
    }

    /// A sync of the backing store covers the clean copies of `volume` up to this version; what the journal must say, if
    /// that is news.
    pub(super) fn raise_synced(&mut self, volume: VolumeId, through: Version) -> Option<JournalEntry> {
        let number = volume.number();
        let known = self.volumes.get_mut(&number).filter(|known| known.synced_through < through)?;
        known.synced_through = through;
        Some(JournalEntry::SyncedThrough { volume: number, version: through.as_u64() })
    }

    /// Through which version the clean copies of a volume are covered by a sync that was not left in order; none when it
    /// was, or nothing is known.
    pub(super) fn synced_through(&self, volume: VolumeId) -> Option<Version> {
        let known = self.volumes.get(&volume.number()).filter(|known| known.record.identity.is_none())?;
        (known.synced_through > Version::ZERO).then_some(known.synced_through)
    }

    pub(super) fn is_kept(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume.number()).is_some_and(|known| known.is_kept)
    }

    /// The epoch up to which the backing store has all of the volume.
    pub(super) fn destaged_epoch(&self, volume: VolumeId) -> u64 {
        self.volumes.get(&volume.number()).map_or(0, |volume| volume.destaged_epoch)
    }

    /// Whether that is news.
    pub(super) fn raise_destaged_epoch(&mut self, number: u32, epoch: u64) -> bool {
        let known = self.volumes.get_mut(&number).filter(|volume| volume.destaged_epoch < epoch);
        known.map(|volume| volume.destaged_epoch = epoch).is_some()
    }

    pub(super) fn destaged_items(&self) -> impl Iterator<Item = CheckpointItem> + '_ {
        let with_epochs = self.volumes.iter().filter(|(_, volume)| volume.destaged_epoch > 0);
        with_epochs.map(|(&volume, known)| CheckpointItem::Destaged { volume, epoch: known.destaged_epoch })
    }

    /// `number` is never given out again.
    pub(super) fn used(&mut self, number: u32) {
        self.next = self.next.max(number.saturating_add(1));
    }
}

//! L2: clean blocks in a log of segments on an SSD.
//!
//! | file       | what it knows                                                                      |
//! |------------|------------------------------------------------------------------------------------|
//! | geometry   | where things lie in the file                                                       |
//! | format     | the bytes of superblock, frame and summary                                         |
//! | encoding   | the bytes of journal entries and checkpoint items                                  |
//! | plan       | the plans given out, and their I/O                                                 |
//! | table, index | which block is in which place; and in parts, which can be lent                    |
//! | moving_index | the same, while it gets tables of another size                                   |
//! | log        | segments and slots: who is written to, who goes next                               |
//! | segment    | the states of one segment                                                          |
//! | slot_bits  | three bits a slot: live, and how often it was hit                                  |
//! | admission  | policy: which blocks are written, which are kept                                   |
//! | log_filter | which blocks the log of dirty blocks may have, in a few bits                        |
//! | journal    | what recovery must know beyond the last checkpoint                                 |
//! | record     | the bytes of records of dirty blocks                                               |
//! | header_pages | the memory in which their headers are put together                               |
//! | dirty_log  | blocks newer than the backing store: the copies of each, until they are below      |
//! | dirty, log_read | writing, reading and destaging them                                            |
//! | recover_log | finding them again                                                                |
//! | memory     | the RAM that all this takes at the most                                            |
//! | tombstones | ranges that read as zeros and are not discarded below                              |
//! | volumes    | numbers and identities of volumes                                                  |
//! | checkpoint | writing and reading one                                                            |
//! | resize     | another size of the file                                                           |
//! | recover    | which copies of a file at rest are believed                                        |
//! | inspect    | what a file at rest holds, explained and verified; never writes                    |
//! | overwritten | what of them the journal calls void                                               |
//! | scan, install | finds clean copies again while the tier serves                                  |
//! | id_ranges  | ranges of ids                                                                      |
//! | stats      | the counters                                                                       |
//! | fuzz       | any bytes in place of a file's, for tests                                          |
//! | mod, void  | [`Ssd`]: all of them together, in plan, run, finish                                |
//!
//! ```text
//! demote: plan_demote -> append -> finish_append -> SealPlan::run -> finish_seal
//! read:   plan_read -> Device::read, ReadPlan::verify -> finish_read
//! space:  plan_reclaim -> ReclaimPlan::run -> plan_moves -> read, append -> finish_moves -> finish_reclaim
//! open:   open_early -> plan_scan -> ScanPlan::run -> plan_install -> Install::run -> finish_install, beside all of these
//! write:  void -> plan_journal -> JournalWrite::run -> finish_journal -> the write below
//! ```
//!
//! Invariants:
//! 1. The index names at most one copy of a block. Any other copy that recovery could believe is covered by a journal
//!    entry; while that is not durable, [`Ssd::journal_pending`] says so, and writes below wait for it.
//! 2. What the index names is in a segment that is open, sealing, sealed, or being emptied.
//! 3. A slot is written once in a generation, and the checksum knows the generation: bytes read from a segment that
//!    was reused meanwhile never pass.
//! 4. Decisions depend on the calls alone: a simulated tier makes the same ones as one with a device.

mod admission;
mod checkpoint;
mod dirty;
mod dirty_log;
mod encoding;
mod format;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod geometry;
mod header_pages;
mod id_ranges;
mod index;
mod inspect;
mod install;
mod journal;
mod log;
mod log_filter;
mod log_read;
mod memory;
mod moving_index;
mod overwritten;
mod plan;
mod record;
mod recover;
mod recover_log;
mod resize;
mod scan;
mod segment;
mod slot_bits;
mod stats;
mod table;
mod tombstones;
mod void;
mod volumes;

#[cfg(test)]
mod tests;

use std::io::{IoSlice, IoSliceMut};

use std::collections::BTreeSet;

use crate::block::{BlockId, PAGE_BYTES, Version, VolumeId};
use crate::device::{Device, Identity};
use crate::error::{Error, Result};

pub use admission::SsdPolicy;
pub use checkpoint::CheckpointPlan;
pub use dirty::DestageRun;
pub use dirty_log::{LogFate, LogKeepers, LogSync, LogTicket, NewCopy};
pub use geometry::Geometry;
pub use inspect::{
    CopyPlace, Explanation, FileAtRest, FileCounters, FileInfo, Finding, FoundCopy, Row, SegmentCounts,
    Severity, Structure, Verdict, VolumeInfo, Warmth, Watcher, verify,
};
pub use install::Install;
pub use journal::{JournalPlan, JournalSeq, JournalWrite};
pub use log_read::LogRead;
pub use plan::{
    Demote, Entry, Move, ReadPlan, ReadVerdict, ReclaimPlan, Refusal, SealPlan, SlotPlan, append,
};
pub use record::{RecordPlan, SectorMask};
pub use recover::Doubt;
pub use scan::{ScanPlan, Scanned};
pub use stats::SsdStats;
pub use tombstones::Tombstone;
pub use void::VoidMark;
pub use volumes::VolumeRecord;

use admission::Admission;
use dirty_log::DirtyLog;
use encoding::JournalEntry;
use format::{Pages, crc32c};
use header_pages::SparePages;
use journal::Journal;
use log::Log;
use moving_index::MovingIndex;
use scan::Scan;
use segment::Stream;
use table::{Found, Place};
use void::region_of;
use volumes::Volumes;

/// The bookkeeping of the SSD tier.
pub struct Ssd {
    geometry: Geometry,
    /// What the superblocks say.
    durable_geometry: Geometry,
    file_id: u64,
    opening: u32,
    is_simulated: bool,
    log: Log,
    index: MovingIndex,
    dirty: DirtyLog,
    spare_pages: SparePages,
    admission: Admission,
    journal: Journal,
    volumes: Volumes,
    /// Until a checkpoint after the last summary of an opened file is durable.
    scan: Option<Scan>,
    /// Regions whose clean copies recovery drops, by a mark since the last checkpoint that absorbed the journal.
    marked: BTreeSet<(u32, u64)>,
    /// The cache has not been full yet.
    fills: bool,
    superblock_sequence: u64,
    /// The copy of the superblock that a checkpoint writes first: after a crash it is not the one that was believed.
    superblock_first: usize,
    checkpoint_area: u32,
    checkpoint_number: u64,
    checkpoint_is_running: bool,
    stats: SsdStats,
}

impl Ssd {
    /// With no device behind it: the same decisions, no bytes. Entries of sealed segments are kept in RAM.
    pub fn simulated(geometry: Geometry, policy: SsdPolicy) -> Self {
        Self::empty(geometry, policy, 0, true)
    }

    fn empty(geometry: Geometry, policy: SsdPolicy, file_id: u64, is_simulated: bool) -> Self {
        Self {
            geometry,
            durable_geometry: geometry,
            file_id,
            opening: 1,
            is_simulated,
            log: Log::new(geometry, file_id, is_simulated),
            index: if is_simulated {
                MovingIndex::growing(geometry.slot_count())
            } else {
                MovingIndex::new(geometry.slot_count())
            },
            dirty: DirtyLog::new(&geometry),
            spare_pages: SparePages::default(),
            admission: Admission::new(policy, geometry.capacity_blocks()),
            journal: Journal::new(geometry, file_id, is_simulated),
            volumes: Volumes::new(&geometry, 0),
            scan: None,
            marked: BTreeSet::new(),
            fills: true,
            superblock_sequence: 0,
            superblock_first: 0,
            checkpoint_area: 1,
            checkpoint_number: 0,
            checkpoint_is_running: false,
            stats: SsdStats::default(),
        }
    }

    /// Makes a new, empty cache file on `device`. What was there before is gone, also when this fails.
    ///
    /// # Errors
    /// Those of the device; [`Error::OutOfRange`] when it is too small.
    pub fn create(device: &dyn Device, geometry: Geometry, policy: SsdPolicy) -> Result<Self> {
        if device.len_bytes() < geometry.file_bytes() {
            let (bytes, end) = (geometry.file_bytes(), device.len_bytes());
            return Err(Error::OutOfRange { offset: 0, bytes, end });
        }
        let file_id = new_file_id(device, &geometry)?;
        // No superblock of before may outlive the journal that belongs to it.
        device.write(0, &[IoSlice::new(&Pages::new(2 * PAGE_BYTES))])?;
        device.sync()?;
        let mut ssd = Self::empty(geometry, policy, file_id, false);
        ssd.stats.bytes_written = 2 * PAGE_BYTES as u64;
        ssd.checkpoint(device)?;
        Ok(ssd)
    }

    /// Whether `device` begins with zeros, or with what a [`Self::create`] left that the power cut short: there is
    /// nothing to open, and nothing to lose.
    ///
    /// # Errors
    /// Those of the device.
    pub fn is_unmade(device: &dyn Device) -> Result<bool> {
        recover::is_unmade(device)
    }

    /// Opens an existing one: superblock, checkpoint, journal, log, summaries. Its layout is the one that it has; of
    /// `wanted` the block size must be the same.
    ///
    /// # Errors
    /// Those of the device; [`Error::NotACacheFile`], [`Error::Mismatch`] with the field, [`Error::Damaged`].
    pub fn open(device: &dyn Device, wanted: Geometry, policy: SsdPolicy) -> Result<Self> {
        let mut ssd = Self::recover(device, wanted, policy)?;
        ssd.scan_all(device);
        ssd.checkpoint(device)?;
        Ok(ssd)
    }

    /// The same, but for the summaries, which are read while the tier serves: [`Self::plan_scan`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_early(device: &dyn Device, wanted: Geometry, policy: SsdPolicy) -> Result<Self> {
        let mut ssd = Self::recover(device, wanted, policy)?;
        ssd.checkpoint(device)?;
        Ok(ssd)
    }

    fn recover(device: &dyn Device, wanted: Geometry, policy: SsdPolicy) -> Result<Self> {
        // What a process that died wrote and did not sync is read as if it were durable. Were it lost later, with the
        // checkpoint of before written over already, there would be none.
        device.sync()?;
        let found = recover::recover(device, wanted.block_size)?;
        let geometry = found.superblock.geometry;
        let unread = found.log.unread().collect();
        let index = MovingIndex::new(geometry.slot_count());
        let mut scan =
            Scan::new(found.believed, found.counters, unread, found.dirty.restored(), index.spread());
        scan.ghosts = found.more_ghosts;
        let mut ssd = Self {
            geometry,
            durable_geometry: geometry,
            file_id: found.superblock.file_id,
            opening: found.superblock.opening + 1,
            is_simulated: false,
            fills: false,
            log: found.log,
            index,
            dirty: found.dirty,
            spare_pages: SparePages::default(),
            admission: Admission::new(policy, geometry.capacity_blocks()),
            journal: found.journal,
            volumes: found.volumes,
            scan: Some(scan),
            marked: BTreeSet::new(),
            superblock_sequence: found.superblock.sequence,
            superblock_first: 1 - found.copy,
            checkpoint_area: found.superblock.checkpoint_area,
            checkpoint_number: found.superblock.checkpoint_number,
            checkpoint_is_running: false,
            stats: SsdStats::default(),
        };
        for entry in &found.ghosts {
            ssd.admission.restore_ghosts(entry);
        }
        if !ssd.is_scanning() {
            ssd.end_scan();
        }
        Ok(ssd)
    }

    /// How the cache file on `device` is laid out.
    ///
    /// # Errors
    /// Those of the device; [`Error::NotACacheFile`], [`Error::Mismatch`] with the format, [`Error::Damaged`].
    pub fn geometry_of(device: &dyn Device) -> Result<Geometry> {
        recover::geometry_of(device)
    }

    fn checkpoint(&mut self, device: &dyn Device) -> Result<()> {
        let plan = self.plan_checkpoint(false);
        plan.run(device)?;
        self.finish_checkpoint(plan, true);
        Ok(())
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub fn stats(&self) -> SsdStats {
        let segments = u64::from(self.geometry.segment_count);
        let segments_free = self.log.free_count() as u64;
        SsdStats {
            capacity_blocks: self.geometry.capacity_blocks(),
            cached_blocks: self.index.len() as u64,
            segments,
            segments_free,
            segments_in_use: segments - segments_free,
            segments_unread: self.segments_unread(),
            dirty_blocks: self.dirty_blocks(),
            index_bytes: self.dirty.bytes() + self.index.bytes() + self.log.bytes() + self.admission.bytes(),
            ..self.stats
        }
    }

    /// The first version of this opening.
    pub fn first_version(&self) -> Version {
        Version::first_of_opening(self.opening)
    }

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

    /// Whether a copy of `block` is here or on its way.
    pub fn contains(&self, block: BlockId) -> bool {
        self.index.get(block).is_some() || self.dirty.may_be_found(block) || self.is_buried(block)
    }

    /// Where to read `block` from, if this tier holds it; the caller reads and then calls [`Self::finish_read`].
    /// A copy on its way is none yet.
    pub fn plan_read(&mut self, block: BlockId) -> Option<ReadPlan> {
        let found = self.index.get(block).filter(|found| self.log.is_written(found.place))?;
        self.log.hit(found.place, self.admission.hits_max());
        self.stats.reads_planned += 1;
        Some(self.read_plan(block, found))
    }

    /// A copy of `block` that is still on its way was used, from wherever its owner keeps it until it is written: a
    /// hit like one of a written copy.
    pub fn note_hit_on_the_way(&mut self, block: BlockId) {
        if let Some(found) = self.index.get(block) {
            self.log.hit(found.place, self.admission.hits_max());
        }
    }

    fn read_plan(&self, block: BlockId, found: Found) -> ReadPlan {
        let (segment, slot) = self.log.segment_and_slot(found.place);
        let generation = self.log.segments[segment as usize].generation;
        let offset = self.geometry.slot_offset(segment, slot);
        ReadPlan { block, segment, generation, slot, offset, crc: found.crc, file_id: self.file_id }
    }

    /// What the bytes read by `plan` are worth; `is_verified` as [`ReadPlan::verify`] says, false when the device
    /// could not read them.
    pub fn finish_read(&mut self, plan: &ReadPlan, is_verified: bool) -> ReadVerdict {
        let (segment, place) = (&self.log.segments[plan.segment as usize], self.place_of(plan));
        if segment.generation != plan.generation || !self.index.is_at(plan.block, place) {
            self.stats.reads_moved += 1;
            return ReadVerdict::Moved;
        }
        if is_verified {
            self.stats.hits += 1;
            return ReadVerdict::Valid;
        }
        self.stats.corrupt_blocks += 1;
        if self.drop_copy(plan.block) {
            let ReadPlan { segment, generation, slot, .. } = *plan;
            self.queue(JournalEntry::VoidSlot { segment, generation, slot });
        }
        ReadVerdict::Corrupt
    }

    fn place_of(&self, plan: &ReadPlan) -> Place {
        self.log.place(plan.segment, plan.slot)
    }

    /// Whether and where `block` of this `version` is written as it leaves RAM. `is_earned`: it was evicted from T2,
    /// or met again through a ghost. Lookups see it from now on.
    pub fn plan_demote(&mut self, block: BlockId, version: Version, is_earned: bool, now_us: u64) -> Demote {
        if self.contains(block) {
            return Demote::Present;
        }
        if self.index.is_lent(block) {
            self.stats.refused_scanning += 1;
            return Demote::Refused(Refusal::Scanning);
        }
        if !self.admission.admits(block, is_earned, self.fills, now_us) {
            self.stats.refused_not_earned += 1;
            return Demote::Refused(Refusal::NotEarned);
        }
        let Some(plan) = self.log.allocate(Stream::Clean, block, version) else {
            self.stats.refused_no_segment += 1;
            return Demote::Refused(Refusal::NoSegment);
        };
        self.note_append(block);
        self.admission.charge(self.geometry.block_size.bytes() as u64);
        self.index.insert(block, self.log.place(plan.segment, plan.slot), 0);
        Demote::Append(plan)
    }

    /// The slots of one write are written: `crcs` as [`append`] gave them, or none when the write failed.
    /// A block that was voided meanwhile does not come back.
    pub fn finish_append(&mut self, plans: &[SlotPlan], crcs: Option<&[u32]>) -> Option<SealPlan> {
        for (index, plan) in plans.iter().enumerate() {
            let place = self.log.place(plan.segment, plan.slot);
            self.note_append_done(plan.block);
            match crcs.map(|crcs| crcs[index]) {
                Some(crc) if self.index.confirm(plan.block, place, crc) => {
                    self.log.settle(plan, Some(crc));
                }
                _ => {
                    if self.index.is_at(plan.block, place) {
                        self.drop_copy(plan.block);
                    }
                    self.log.settle(plan, None);
                }
            }
        }
        if crcs.is_some() {
            self.stats.blocks_written += plans.len() as u64;
            self.stats.bytes_written += (plans.len() * self.geometry.block_size.bytes()) as u64;
        }
        self.seal_one(plans.iter().map(|plan| plan.segment))
    }

    /// The first of `segments` that is complete. Neighbours are of one segment, so there is no second.
    fn seal_one(&mut self, segments: impl Iterator<Item = u32>) -> Option<SealPlan> {
        let summary = segments.into_iter().find_map(|segment| self.log.seal_if_complete(segment))?;
        self.admission.charge(self.geometry.summary_bytes());
        Some(SealPlan {
            segment: summary.segment,
            generation: summary.generation,
            summary_offset: self.geometry.summary_offset(summary.segment),
            summary: (!self.is_simulated).then(|| summary.to_pages()),
        })
    }

    /// Closes the open segments as they are. Those with writes in flight come from `finish_append` as ever.
    pub fn plan_seal_open(&mut self) -> Vec<SealPlan> {
        let closed = self.log.close_open();
        closed.into_iter().filter_map(|segment| self.seal_one(std::iter::once(segment))).collect()
    }

    /// The summary was written, or that failed: the segment serves on, but a restart forgets it.
    pub fn finish_seal(&mut self, plan: SealPlan, is_written: bool) {
        let SealPlan { segment, generation, summary, .. } = plan;
        self.log.finish_seal(segment, generation);
        if is_written {
            self.stats.bytes_written += summary.map_or(0, |pages| pages.len() as u64);
        }
    }

    /// Whether so few segments are free that appends may soon find none: emptied ones are worth a sync then.
    pub fn is_short_of_segments(&self) -> bool {
        self.log.is_short()
    }

    /// A segment never written before, to be written through once (segment, offset, bytes); it is handed to nobody
    /// meanwhile.
    pub fn plan_prepare(&mut self) -> Option<(u32, u64, u64)> {
        let segment = self.log.plan_prepare()?;
        Some((segment, self.geometry.segment_offset(segment), self.geometry.segment_bytes))
    }

    pub fn finish_prepare(&mut self, segment: u32) {
        self.log.finish_prepare(segment);
        self.stats.bytes_prepared += self.geometry.segment_bytes;
    }

    /// Takes the copy of `block` out of the index. True when recovery might still find it.
    fn drop_copy(&mut self, block: BlockId) -> bool {
        let may_be_in = self.index.is_lent(block);
        self.index.remove(block).is_some_and(|found| self.log.drop_copy(found.place)) || may_be_in
    }

    fn queue(&mut self, entry: JournalEntry) -> JournalSeq {
        self.admission.charge_journal_entry();
        self.journal.queue(entry)
    }
}

/// A number that no cache file on `device` had before: from what is there now and what the device says of itself.
fn new_file_id(device: &dyn Device, geometry: &Geometry) -> Result<u64> {
    let mut pages = Pages::new(4 * PAGE_BYTES);
    let (superblocks, rest) = pages.split_at_mut(2 * PAGE_BYTES);
    let (journal, checkpoint) = rest.split_at_mut(PAGE_BYTES);
    device.read(0, &mut [IoSliceMut::new(superblocks)])?;
    device.read(geometry.journal_offset, &mut [IoSliceMut::new(journal)])?;
    device.read(geometry.checkpoint_offset, &mut [IoSliceMut::new(checkpoint)])?;
    let said = format!("{} {:?} {geometry:?}", device.name(), device.identity());
    let low = crc32c(&[&pages, said.as_bytes()]);
    let high = crc32c(&[said.as_bytes(), &low.to_le_bytes(), &pages]);
    Ok(u64::from(high) << 32 | u64::from(low))
}

//! Opening a cache file: which of the copies on the device are believed.
//!
//! 1. The superblock: the newer of the two whose checkpoint is whole. Its block size must be the one asked for.
//! 2. The checkpoint: segments with their live bits, volumes, counters.
//! 3. The journal after it, which says what became void since.
//! 4. The log of dirty blocks (see `recover_log`).
//!
//! Then the tier serves. The summaries of all segments that may hold something, sealed in the checkpoint or since, are
//! read beside that (see `scan`); each is judged by itself, by the pure function [`Believed::survivors`].
//!
//! A segment is believed when its summary is whole and not retired, and its generation is the one in the checkpoint
//! or later than any there. A copy in it is believed when the checkpoint does not call its slot dead, nothing voids
//! its version, no mark covers it, and its volume is known.
//!
//! Nothing else is: not the open segments of before, and not what an unreadable summary names. All that costs hits.
//! A hole in the journal costs the file, because it could hide a void.
//!
//! Opening ends in a new checkpoint and a superblock with the next `opening`, durable before the first call can
//! write: so no version, generation or position in the journal is ever given out twice. As long as summaries are unread
//! a checkpoint absorbs nothing of the journal: what that voids may be in them. So applying an entry of the journal must
//! make no difference to a state that has it, and those after it, already.

use std::io::IoSliceMut;
use std::path::PathBuf;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::{HashMap, HashSet};

use crate::block::{BlockId, BlockSize, PAGE_BYTES, Version, VolumeId};
use crate::device::Device;
use crate::error::{Error, Result};

use super::checkpoint::{self, Checkpoint, GhostFrames};
use super::dirty_log::DirtyLog;
use super::encoding::{CheckpointItem, Counters, DirtySegmentEntry, GhostEntry, JournalEntry, SegmentEntry};
use super::format::{Pages, Summary, Superblock, SuperblockFault};
use super::geometry::Geometry;
use super::journal::{Journal, JournalSeq, Replayed, replay};
use super::log::Log;
use super::overwritten::Overwritten;
use super::plan::Entry;
use super::recover_log::recover_log;
use super::region_of;
use super::slot_bits::{hits_in, is_live_in};
use super::tombstones::{PIECES_MAX, Tombstone, Tombstones};
use super::volumes::Volumes;

/// Counters beyond these are no file of ours: nothing writes as often.
const COUNTER_MAX: u64 = 1 << 62;
const GENERATION_MAX: u32 = u32::MAX - (1 << 28);
/// Leaves room for the volumes of one opening.
const VOLUME_MAX: u32 = VolumeId::LIMIT - (1 << 16);
const OPENING_MAX: u32 = (1 << 24) - 2;

type Hasher = foldhash::fast::FixedState;

/// What a cache file held, but for what the summaries say.
pub(super) struct Recovered {
    pub(super) superblock: Superblock,
    /// Which copy of it was believed, 0 or 1; the other may be torn or older.
    pub(super) copy: usize,
    pub(super) counters: Counters,
    /// Segments that may hold something are unread in it.
    pub(super) log: Log,
    pub(super) dirty: DirtyLog,
    pub(super) journal: Journal,
    pub(super) volumes: Volumes,
    pub(super) ghosts: Vec<GhostEntry>,
    /// The others, which are not read.
    pub(super) more_ghosts: Option<GhostFrames>,
    pub(super) believed: Believed,
}

/// What a cache file says of its copies, before any of them is looked at.
pub(super) struct Loaded {
    pub(super) superblock: Superblock,
    /// Which copy of it is believed, 0 or 1.
    pub(super) copy: usize,
    pub(super) counters: Counters,
    pub(super) replayed: Replayed,
    pub(super) believed: Believed,
    more_ghosts: Option<GhostFrames>,
}

/// Superblock, checkpoint and journal.
pub(super) fn load(device: &dyn Device, block_size: BlockSize) -> Result<Loaded> {
    let ((copy, superblock), Checkpoint { counters, items, ghosts }) = load_newest(device, block_size)?;
    let (geometry, file_id) = (superblock.geometry, superblock.file_id);
    let mut believed = Believed::new(&superblock, &counters, items)?;
    let (absorbed, generation) = (counters.absorbed, counters.journal_generation);
    let apply = |entry| believed.apply(entry);
    let replayed = replay(device, &geometry, file_id, absorbed, generation, apply)?;
    believed.settle(&counters, replayed.count)?;
    Ok(Loaded { superblock, copy, counters, replayed, believed, more_ghosts: ghosts })
}

pub(super) fn recover(device: &dyn Device, block_size: BlockSize) -> Result<Recovered> {
    let Loaded { superblock, copy, counters, replayed, mut believed, more_ghosts } =
        load(device, block_size)?;
    let (geometry, file_id) = (superblock.geometry, superblock.file_id);

    let dirty = recover_log(device, &believed, &counters)?;
    let mut log = Log::new(geometry, file_id, false);
    for segment in &dirty.segments {
        log.restore_dirty(segment.segment, segment.generation);
    }
    log.next_generation = believed.next_generation;
    // A segment is sealed once in a generation, and some may have been open when the checkpoint was made.
    let skipped = believed.next_generation - counters.next_generation + geometry.segment_count;
    log.next_sequence = counters.next_sequence + if believed.is_clean { 0 } else { skipped.into() };
    believed.restore_segments(&mut log);
    let next_volume = believed.volumes.next();
    if log.next_generation > GENERATION_MAX || log.next_sequence > COUNTER_MAX || next_volume > VOLUME_MAX {
        return Err(Error::Damaged { what: "its counters are used up".into() });
    }
    let journal = Journal::resume(geometry, file_id, JournalSeq(counters.absorbed), &replayed);
    let (volumes, ghosts) = (believed.volumes.clone(), std::mem::take(&mut believed.ghosts));
    Ok(Recovered { superblock, copy, counters, log, dirty, journal, volumes, ghosts, more_ghosts, believed })
}

/// One of the two copies of the superblock, and which.
type SuperblockCopy = (usize, Superblock);

/// The newest superblock with a whole checkpoint, and that checkpoint.
fn load_newest(device: &dyn Device, block_size: BlockSize) -> Result<(SuperblockCopy, Checkpoint)> {
    let mut damage = Error::Damaged { what: "both superblocks".into() };
    for (copy, superblock) in read_superblocks(device)? {
        check(&superblock.geometry, block_size, device)?;
        match checkpoint::load(device, &superblock) {
            Ok(checkpoint) => {
                let counters = &checkpoint.counters;
                let is_sane = counters.absorbed < COUNTER_MAX
                    && counters.journal_generation < COUNTER_MAX
                    && counters.next_sequence < COUNTER_MAX
                    && counters.next_generation <= GENERATION_MAX
                    && (1..COUNTER_MAX).contains(&counters.next_record)
                    && counters.records_synced < COUNTER_MAX
                    && counters.next_volume <= VolumeId::LIMIT
                    && superblock.sequence < COUNTER_MAX
                    && superblock.checkpoint_number < COUNTER_MAX;
                if is_sane && superblock.opening <= OPENING_MAX {
                    return Ok(((copy, superblock), checkpoint));
                }
                damage = Error::Damaged { what: "its counters are used up".into() };
            }
            Err(error @ Error::Damaged { .. }) => damage = error,
            Err(error) => return Err(error),
        }
    }
    Err(damage)
}

/// See [`super::Ssd::is_unmade`].
pub(super) fn is_unmade(device: &dyn Device) -> Result<bool> {
    if device.len_bytes() < 2 * PAGE_BYTES as u64 {
        return Ok(false);
    }
    let mut pages = Pages::new(2 * PAGE_BYTES);
    device.read(0, &mut [IoSliceMut::new(&mut pages)])?;
    let (first, second) = pages.split_at(PAGE_BYTES);
    let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    // A making that was finished has left the second copy whole, and it is not touched before the first is again.
    let is_of_a_making = match Superblock::from_page(first) {
        Ok(_) | Err(SuperblockFault::OtherFormat { .. }) => false,
        Err(SuperblockFault::Checksum) => true,
        // Of a torn first copy only the checksum may be there.
        Err(SuperblockFault::Foreign) => is_zero(&first[..PAGE_BYTES - 4]),
    };
    Ok(is_of_a_making && is_zero(second))
}

/// The valid superblocks, the newest first; never none.
pub(super) fn read_superblocks(device: &dyn Device) -> Result<Vec<SuperblockCopy>> {
    let foreign = |found: String| Error::NotACacheFile { path: PathBuf::from(device.name()), found };
    if device.len_bytes() < 2 * PAGE_BYTES as u64 {
        return Err(foreign(format!("{} bytes long", device.len_bytes())));
    }
    let mut pages = Pages::new(2 * PAGE_BYTES);
    device.read(0, &mut [IoSliceMut::new(&mut pages)])?;
    let (mut valid, mut faults) = (Vec::new(), Vec::new());
    for (copy, page) in pages.chunks_exact(PAGE_BYTES).enumerate() {
        match Superblock::from_page(page) {
            Ok(superblock) => valid.push((copy, superblock)),
            Err(fault) => faults.push(fault),
        }
    }
    valid.sort_by_key(|(_, superblock)| std::cmp::Reverse(superblock.sequence));
    if !valid.is_empty() {
        return Ok(valid);
    }
    for fault in &faults {
        if let SuperblockFault::OtherFormat { field, in_file, wanted } = *fault {
            let shown = |format: u8| char::from(format).escape_default().to_string();
            let remedy = "use the release that made it, `terrace inspect drain` with it, or remove the file";
            return Err(Error::Mismatch { field, in_file: shown(in_file), wanted: shown(wanted), remedy });
        }
    }
    if faults.contains(&SuperblockFault::Checksum) {
        return Err(Error::Damaged { what: "both superblocks".into() });
    }
    Err(foreign(format!("it begins with {:02x?}", &pages[..8])))
}

/// The layout of the file on `device`, as the newest superblock has it.
pub(super) fn geometry_of(device: &dyn Device) -> Result<Geometry> {
    let superblocks = read_superblocks(device)?;
    let possible = superblocks.iter().map(|(_, superblock)| superblock.geometry).find(Geometry::is_possible);
    let geometry = possible.ok_or_else(|| Error::Damaged { what: "its layout is impossible".into() })?;
    check(&geometry, geometry.block_size, device)?;
    Ok(geometry)
}

/// Whether a file of this layout can be opened on `device` with blocks of this size.
fn check(found: &Geometry, block_size: BlockSize, device: &dyn Device) -> Result<()> {
    if found.block_size != block_size {
        let (in_file, wanted) = (found.block_size.bytes().to_string(), block_size.bytes().to_string());
        let remedy = "open it with the block size it was made with, or remove it";
        return Err(Error::Mismatch { field: "block bytes", in_file, wanted, remedy });
    }
    if !found.is_possible() {
        return Err(Error::Damaged { what: "the layout in its superblock is impossible".into() });
    }
    if device.len_bytes() < found.file_bytes() {
        let what = format!("{} of its {} bytes are left", device.len_bytes(), found.file_bytes());
        return Err(Error::Damaged { what });
    }
    Ok(())
}

/// Why a copy that is whole is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// The checkpoint has it as one not to be used.
    DeadAtCheckpoint,
    /// The number of its volume is nobody's any more.
    NoVolume,
    /// A mark covers its region.
    RegionMarked,
    /// The journal voids its slot.
    SlotVoid,
    /// The clean copies of its volume are void up to its generation.
    VolumeCold,
    /// The journal says that there is something newer.
    Overwritten,
    /// Its block was discarded, and the backing store was not told yet.
    Tombstone,
    /// It is younger than the last sync of the backing store, and its volume was not left in order.
    Unsynced,
}

/// What tells the copies that are believed from the others.
pub(super) struct Believed {
    pub(super) geometry: Geometry,
    pub(super) file_id: u64,
    pub(super) is_clean: bool,
    /// The last one: it gave out all versions that the file has.
    opening: u32,
    checkpointed: BTreeMap<u32, SegmentEntry>,
    pub(super) dirty_segments: BTreeMap<u32, DirtySegmentEntry>,
    /// Segments of this generation or later may be sealed without the checkpoint knowing them.
    believed_from: u32,
    /// Higher than any generation that was given out.
    pub(super) next_generation: u32,
    pub(super) retired: BTreeSet<(u32, u32)>,
    /// Volumes whose clean copies in lower generations than this are void.
    cold: HashMap<u32, u32, Hasher>,
    overwritten: Overwritten,
    void_slots: HashSet<(u32, u32, u32), Hasher>,
    marks: HashSet<(u32, u64), Hasher>,
    pub(super) tombstones: Tombstones,
    pub(super) volumes: Volumes,
    ghosts: Vec<GhostEntry>,
}

impl Believed {
    pub(super) fn new(
        superblock: &Superblock,
        counters: &Counters,
        items: Vec<CheckpointItem>,
    ) -> Result<Self> {
        let geometry = superblock.geometry;
        let mut believed = Self {
            geometry,
            file_id: superblock.file_id,
            is_clean: superblock.is_clean,
            opening: superblock.opening,
            checkpointed: BTreeMap::new(),
            dirty_segments: BTreeMap::new(),
            cold: HashMap::default(),
            believed_from: counters.believed_from,
            next_generation: counters.next_generation,
            retired: BTreeSet::new(),
            overwritten: Overwritten::default(),
            void_slots: HashSet::default(),
            marks: HashSet::default(),
            tombstones: Tombstones::default(),
            volumes: Volumes::new(&geometry, counters.next_volume),
            ghosts: Vec::new(),
        };
        for item in items {
            let fits = match item {
                CheckpointItem::Counters(_) => false,
                CheckpointItem::Ghosts(entry) => {
                    believed.ghosts.push(entry);
                    true
                }
                CheckpointItem::Volume(entry) => believed.volumes.restore(&entry),
                CheckpointItem::VolumeMark { volume, serial } => {
                    believed.volumes.restore_mark(volume, serial);
                    true
                }
                CheckpointItem::DirtySegment(entry) => {
                    let fits = entry.segment < geometry.segment_count
                        && (1..counters.next_generation).contains(&entry.generation)
                        && (1..COUNTER_MAX).contains(&entry.first_sequence)
                        && entry.dead.len() <= geometry.copy_words();
                    believed.dirty_segments.insert(entry.segment, entry);
                    fits
                }
                CheckpointItem::Tombstone { first, count, version, epoch } => {
                    believed.restore_tombstone(first, count, version, epoch)
                }
                CheckpointItem::Destaged { volume, epoch } => {
                    believed.volumes.raise_destaged_epoch(volume, epoch)
                }
                CheckpointItem::Segment(entry) => {
                    let has_bits = entry.generation == 0
                        || entry.live.len() == geometry.live_words()
                            && entry.hits.len() == geometry.hit_words();
                    let fits = entry.segment < geometry.segment_count
                        && entry.generation < counters.next_generation
                        && has_bits;
                    believed.checkpointed.insert(entry.segment, entry);
                    fits
                }
            };
            if !fits {
                return Err(Error::Damaged { what: "an item of the checkpoint is impossible".into() });
            }
        }
        Ok(believed)
    }

    /// What follows when so many entries of the journal were applied, and no more come.
    pub(super) fn settle(&mut self, counters: &Counters, applied: u64) -> Result<()> {
        if self.dirty_segments.keys().any(|&segment| self.is_checkpointed(segment)) {
            return Err(Error::Damaged { what: "a segment is in the checkpoint twice".into() });
        }
        if self.tombstones.len() > PIECES_MAX {
            return Err(Error::Damaged { what: "more tombstones than there is room for".into() });
        }
        if !self.volumes.fits() {
            return Err(Error::Damaged { what: "more volumes than there is room for".into() });
        }
        if counters.believed_from > counters.next_generation || counters.next_sequence > COUNTER_MAX {
            return Err(Error::Damaged { what: "its counters are impossible".into() });
        }
        self.is_clean &= applied == 0;
        if !self.is_clean {
            // A generation given out since is retired durably, or the one of a segment as it is now.
            let later = |&&(_, generation): &&(u32, u32)| generation >= counters.next_generation;
            let given = self.retired.iter().filter(later).count() as u64;
            let next = u64::from(self.next_generation) + given + u64::from(self.geometry.segment_count);
            let damage = Error::Damaged { what: "its generations are used up".into() };
            self.next_generation = u32::try_from(next).map_err(|_| damage)?;
        }
        self.overwritten.merge();
        Ok(())
    }

    /// Says in `log` which segments are still to be read, and the bits that the checkpoint has of them.
    fn restore_segments(&self, log: &mut Log) {
        for entry in self.checkpointed.values() {
            log.segments[entry.segment as usize].is_prepared = entry.is_prepared;
        }
        for segment in (0..self.geometry.segment_count).filter(|&segment| self.may_hold(segment)) {
            let known = self.checkpointed.get(&segment).filter(|_| self.is_checkpointed(segment));
            log.restore_unread(segment, known);
        }
        log.take_out_of_free();
    }

    fn apply(&mut self, entry: JournalEntry) -> Result<()> {
        match entry {
            JournalEntry::Void { block, version } => self.overwritten.add(block, version),
            JournalEntry::VoidRange { first, count, version } => {
                self.overwritten.add_range(first, count, version);
                let ids = first..first.saturating_add(count);
                self.tombstones.cut(&ids, Version::from_u64(version));
                if self.tombstones.len() > 2 * PIECES_MAX {
                    return Err(Error::Damaged { what: "more tombstones than there is room for".into() });
                }
            }
            JournalEntry::Destaged { volume, epoch } => {
                self.volumes.raise_destaged_epoch(volume, epoch);
            }
            JournalEntry::Tombstone { first, count, version, epoch } => {
                if !self.restore_tombstone(first, count, version, epoch) {
                    return Err(Error::Damaged { what: "a tombstone in the journal is impossible".into() });
                }
            }
            JournalEntry::VoidSlot { segment, generation, slot } => {
                self.void_slots.insert((segment, generation, slot));
            }
            JournalEntry::RegionMark { volume, region } => {
                self.marks.insert((volume, region));
            }
            JournalEntry::Retire { segment, generation } => {
                self.retired.insert((segment, generation));
            }
            JournalEntry::Volume(entry) => {
                if !self.volumes.restore(&entry) {
                    return Err(Error::Damaged { what: "a volume in the journal is impossible".into() });
                }
            }
            JournalEntry::VolumeDropped { volume } => {
                self.volumes.restore_dropped(volume);
                self.tombstones.retain(|tombstone| tombstone.volume().number() != volume);
            }
            JournalEntry::VolumeUsed { volume } => self.volumes.used(volume),
            JournalEntry::SyncedThrough { volume, version } => {
                self.volumes.restore_synced(volume, Version::from_u64(version));
            }
            JournalEntry::VolumeMark { volume, serial } => self.volumes.restore_mark(volume, serial),
            JournalEntry::VolumeCold { volume, generation } => {
                let known = self.cold.entry(volume).or_default();
                *known = generation.max(*known);
            }
        }
        Ok(())
    }

    /// False when there can be no such tombstone.
    fn restore_tombstone(&mut self, first: u64, count: u64, version: u64, epoch: u64) -> bool {
        let has_room = self.tombstones.len() < 2 * PIECES_MAX;
        // One of a later opening would hide what is written from now on.
        let is_known = Version::from_u64(version).opening() <= self.opening;
        let tombstone = Tombstone::new(first, count, version, epoch).filter(|_| has_room && is_known);
        tombstone.map(|tombstone| self.tombstones.insert(tombstone)).is_some()
    }

    /// Whether a summary of this generation is believed in `segment`.
    pub(super) fn believes(&self, segment: u32, generation: u32) -> bool {
        let known = self.checkpointed.get(&segment).map_or(0, |entry| entry.generation);
        let is_expected = generation != 0 && generation == known;
        let is_later = (self.believed_from..self.next_generation).contains(&generation);
        (is_expected || is_later) && !self.retired.contains(&(segment, generation))
    }

    /// Whether the checkpoint knows a segment here that is not retired, so that nothing else can be.
    pub(super) fn is_checkpointed(&self, segment: u32) -> bool {
        self.checkpointed_generation(segment) != 0
    }

    /// The generation that the checkpoint knows here and that is not retired; 0 when there is none.
    pub(super) fn checkpointed_generation(&self, segment: u32) -> u32 {
        let known = self.checkpointed.get(&segment).map_or(0, |entry| entry.generation);
        if self.retired.contains(&(segment, known)) { 0 } else { known }
    }

    /// Whether `segment` can hold anything at all, so that its summary is worth reading.
    pub(super) fn may_hold(&self, segment: u32) -> bool {
        !self.is_clean || self.checkpointed.get(&segment).is_some_and(|entry| entry.generation != 0)
    }

    /// The entries of a believed segment that are valid, with their hits in `flags`. Depends on nothing else.
    pub(super) fn survivors(&self, summary: &Summary) -> impl Iterator<Item = Entry> {
        let known = self.checkpointed_as(summary);
        let hits =
            move |entry: &Entry| (entry.flags & 3).max(known.map_or(0, |k| hits_in(&k.hits, entry.slot)));
        let valid =
            summary.entries.iter().filter(move |entry| self.doubt_as(known, summary, entry).is_none());
        valid.map(move |entry| Entry { flags: hits(entry), ..*entry })
    }

    /// What the checkpoint says of the very segment that `summary` is of.
    fn checkpointed_as(&self, summary: &Summary) -> Option<&SegmentEntry> {
        let known = self.checkpointed.get(&summary.segment);
        known.filter(|known| known.generation == summary.generation && known.generation != 0)
    }

    /// Why the copy in a believed segment is not valid; none when it is.
    pub(super) fn doubt(&self, summary: &Summary, entry: &Entry) -> Option<Doubt> {
        self.doubt_as(self.checkpointed_as(summary), summary, entry)
    }

    /// The same, when it is known already what the checkpoint says of the segment.
    fn doubt_as(&self, known: Option<&SegmentEntry>, summary: &Summary, entry: &Entry) -> Option<Doubt> {
        let (volume, region) = (entry.block.volume().number(), region_of(entry.block));
        let is_live = |known: &SegmentEntry| is_live_in(&known.live, entry.slot);
        if !known.is_none_or(is_live) {
            Some(Doubt::DeadAtCheckpoint)
        } else if !self.volumes.contains(entry.block.volume()) {
            Some(Doubt::NoVolume)
        } else if self.marks.contains(&(volume, region)) {
            Some(Doubt::RegionMarked)
        } else if self.void_slots.contains(&(summary.segment, summary.generation, entry.slot)) {
            Some(Doubt::SlotVoid)
        } else if self.cold.get(&volume).is_some_and(|&generation| summary.generation < generation) {
            Some(Doubt::VolumeCold)
        } else if self.is_overwritten(entry.block, entry.version) {
            Some(Doubt::Overwritten)
        } else if self.tombstones.covers(entry.block) {
            Some(Doubt::Tombstone)
        } else {
            let through = self.volumes.synced_through(entry.block.volume());
            through.is_some_and(|through| entry.version > through).then_some(Doubt::Unsynced)
        }
    }

    /// Whether the journal says that there is something newer than this version of `block`.
    pub(super) fn is_overwritten(&self, block: BlockId, version: Version) -> bool {
        self.overwritten.contains(block, version)
    }
}

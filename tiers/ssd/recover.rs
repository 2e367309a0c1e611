//! Opening a cache file: which of the copies on the device are believed.
//!
//! 1. The superblock: the newer of the two whose checkpoint is whole. Its geometry must be the one asked for.
//! 2. The checkpoint: segments with their live bits, volumes, counters.
//! 3. The journal after it, which says what became void since.
//! 4. The summaries of all segments that may hold something: sealed in the checkpoint, or since. Each is judged by
//!    itself, by the pure function [`Believed::survivors`].
//!
//! A segment is believed when its summary is whole and not retired, and its generation is the one in the checkpoint
//! or later than any there. A copy in it is believed when the checkpoint does not call its slot dead, nothing voids
//! its version, no mark covers it, and its volume is known. Of several copies the one with the highest version is.
//!
//! Nothing else is: not the open segments of before, and not what an unreadable summary names. All that costs hits.
//! A hole in the journal costs the file, because it could hide a void.
//!
//! Opening ends in a new checkpoint and a superblock with the next `opening`, durable before the first call can
//! write: so no version, generation or position in the journal is ever given out twice.

use std::io::IoSliceMut;
use std::path::PathBuf;

use std::collections::{BTreeMap, BTreeSet};

use crate::block::{BlockId, PAGE_BYTES, Version, VolumeId};
use crate::device::Device;
use crate::error::{Error, Result};

use super::dirty_log::DirtyLog;
use super::encoding::{CheckpointItem, Counters, DirtySegmentEntry, GhostEntry, JournalEntry, SegmentEntry};
use super::format::{Pages, Summary, Superblock, SuperblockFault};
use super::geometry::Geometry;
use super::index::Index;
use super::journal::{Journal, Replayed, Seq, replay};
use super::log::Log;
use super::plan::Entry;
use super::recover_log::recover_log;
use super::slot_bits::{hits_in, is_live_in};
use super::volumes::Volumes;
use super::{checkpoint, region_of};

/// A jump over entries that a torn frame may still show to a later opening.
const JOURNAL_SKIP: u64 = 1 << 20;
/// Counters beyond these are no file of ours: nothing writes as often.
const COUNTER_MAX: u64 = 1 << 62;
const GENERATION_MAX: u32 = u32::MAX - (1 << 28);
/// Leaves room for the volumes of one opening.
const VOLUME_MAX: u32 = VolumeId::LIMIT - (1 << 16);
const OPENING_MAX: u32 = (1 << 24) - 2;

/// What a cache file held.
pub(super) struct Recovered {
    pub(super) superblock: Superblock,
    /// Which copy of it was believed, 0 or 1; the other may be torn or older.
    pub(super) copy: usize,
    pub(super) log: Log,
    pub(super) index: Index,
    pub(super) dirty: DirtyLog,
    pub(super) journal: Journal,
    pub(super) volumes: Volumes,
    pub(super) ghosts: Vec<GhostEntry>,
}

/// What a cache file says of its copies, before any of them is looked at.
pub(super) struct Loaded {
    pub(super) superblock: Superblock,
    /// Which copy of it is believed, 0 or 1.
    pub(super) copy: usize,
    pub(super) counters: Counters,
    /// The last entry of the journal, and the generation of the half that it is in.
    pub(super) journal_last: Seq,
    pub(super) journal_generation: u64,
    pub(super) believed: Believed,
}

/// Superblock, checkpoint and journal.
pub(super) fn load(device: &dyn Device, wanted: &Geometry) -> Result<Loaded> {
    let ((copy, superblock), (counters, items)) = load_newest(device, wanted)?;
    let (geometry, file_id) = (superblock.geometry, superblock.file_id);
    let replayed = replay(device, &geometry, file_id, counters.absorbed, counters.journal_generation)?;
    let (journal_generation, journal_last) = (replayed.generation, replayed.last);
    let believed = Believed::new(&superblock, &counters, items, replayed)?;
    Ok(Loaded { superblock, copy, counters, journal_last, journal_generation, believed })
}

pub(super) fn recover(device: &dyn Device, wanted: &Geometry) -> Result<Recovered> {
    let loaded = load(device, wanted)?;
    let Loaded { superblock, copy, counters, believed, .. } = loaded;
    let (generation, last) = (loaded.journal_generation, loaded.journal_last);
    let (geometry, file_id) = (superblock.geometry, superblock.file_id);

    let mut log = Log::new(geometry, file_id, false);
    for entry in believed.checkpointed.values() {
        log.segments[entry.segment as usize].is_prepared = entry.is_prepared;
    }
    let mut index = Index::new(geometry.slot_count());
    let dirty = recover_log(device, &believed, &counters)?;
    let sealed = read_segments(device, &believed, &mut log, &mut index)?;
    log.next_generation = believed.next_generation_after(&sealed);
    log.next_sequence = sealed.last().map_or(0, |summary| summary.0).max(counters.next_sequence) + 1;
    let next_volume = believed.volumes.next();
    if log.next_generation > GENERATION_MAX || log.next_sequence > COUNTER_MAX || next_volume > VOLUME_MAX {
        return Err(Error::Damaged { what: "its counters are used up".into() });
    }
    let order: Vec<_> =
        sealed.iter().map(|&(_, segment, generation, used)| (segment, generation, used)).collect();
    for segment in &dirty.segments {
        log.restore_dirty(segment.segment, segment.generation);
        log.next_generation = log.next_generation.max(segment.generation + 1);
    }
    log.restore(&order);
    // A copy in the log is newer than a clean one, or the same.
    for block in dirty.restored_blocks() {
        remove(&mut log, &mut index, block);
    }
    let journal = Journal::new(geometry, file_id, Seq(last.0 + JOURNAL_SKIP), generation + 1, false);
    let Believed { volumes, ghosts, .. } = believed;
    Ok(Recovered { superblock, copy, log, index, dirty, journal, volumes, ghosts })
}

/// One of the two copies of the superblock, and which.
type SuperblockCopy = (usize, Superblock);

/// The newest superblock with a whole checkpoint, and that checkpoint.
fn load_newest(
    device: &dyn Device,
    wanted: &Geometry,
) -> Result<(SuperblockCopy, (Counters, Vec<CheckpointItem>))> {
    let mut damage = Error::Damaged { what: "both superblocks".into() };
    for (copy, superblock) in read_superblocks(device)? {
        compare(&superblock.geometry, wanted)?;
        check_length(device, wanted)?;
        match checkpoint::load(device, &superblock) {
            Ok((counters, items)) => {
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
                    return Ok(((copy, superblock), (counters, items)));
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
    check_length(device, &geometry)?;
    Ok(geometry)
}

fn check_length(device: &dyn Device, geometry: &Geometry) -> Result<()> {
    if device.len_bytes() >= geometry.file_bytes() {
        return Ok(());
    }
    let what = format!("{} of its {} bytes are left", device.len_bytes(), geometry.file_bytes());
    Err(Error::Damaged { what })
}

fn compare(found: &Geometry, wanted: &Geometry) -> Result<()> {
    let remedy = "open it with the sizes it was made with, or remove it";
    let fields: [(&'static str, u64, u64); 6] = [
        ("block bytes", found.block_size.bytes() as u64, wanted.block_size.bytes() as u64),
        ("file bytes", file_bytes(found), file_bytes(wanted)),
        ("segment bytes", found.segment_bytes, wanted.segment_bytes),
        ("segments", found.segment_count.into(), wanted.segment_count.into()),
        ("capacity segments", found.capacity_segments.into(), wanted.capacity_segments.into()),
        ("journal bytes", found.journal_bytes, wanted.journal_bytes),
    ];
    for (field, in_file, wanted) in fields {
        if in_file != wanted {
            let (in_file, wanted) = (in_file.to_string(), wanted.to_string());
            return Err(Error::Mismatch { field, in_file, wanted, remedy });
        }
    }
    if found != wanted {
        let (in_file, wanted) = (format!("{found:?}"), format!("{wanted:?}"));
        return Err(Error::Mismatch { field: "layout", in_file, wanted, remedy });
    }
    Ok(())
}

/// As [`Geometry::file_bytes`], of numbers that nobody has checked.
fn file_bytes(geometry: &Geometry) -> u64 {
    let segments = u64::from(geometry.segment_count).saturating_mul(geometry.segment_bytes);
    geometry.segments_offset.saturating_add(segments)
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
}

/// What tells the copies that are believed from the others.
pub(super) struct Believed {
    pub(super) geometry: Geometry,
    pub(super) file_id: u64,
    pub(super) is_clean: bool,
    checkpointed: BTreeMap<u32, SegmentEntry>,
    pub(super) dirty_segments: BTreeMap<u32, DirtySegmentEntry>,
    /// Segments of this generation or later were opened after the checkpoint.
    next_generation: u32,
    pub(super) retired: BTreeSet<(u32, u32)>,
    /// Volumes whose clean copies in lower generations than this are void.
    cold: BTreeMap<u32, u32>,
    voids: BTreeMap<u64, u64>,
    void_ranges: Vec<(u64, u64, u64)>,
    void_slots: BTreeSet<(u32, u32, u32)>,
    marks: BTreeSet<(u32, u64)>,
    pub(super) volumes: Volumes,
    ghosts: Vec<GhostEntry>,
}

impl Believed {
    pub(super) fn new(
        superblock: &Superblock,
        counters: &Counters,
        items: Vec<CheckpointItem>,
        replayed: Replayed,
    ) -> Result<Self> {
        let geometry = superblock.geometry;
        let mut believed = Self {
            geometry,
            file_id: superblock.file_id,
            is_clean: superblock.is_clean && replayed.entries.is_empty(),
            checkpointed: BTreeMap::new(),
            dirty_segments: BTreeMap::new(),
            cold: BTreeMap::new(),
            next_generation: counters.next_generation,
            retired: BTreeSet::new(),
            voids: BTreeMap::new(),
            void_ranges: Vec::new(),
            void_slots: BTreeSet::new(),
            marks: BTreeSet::new(),
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
                CheckpointItem::DirtySegment(entry) => {
                    let fits = entry.segment < geometry.segment_count
                        && entry.generation != 0
                        && (1..COUNTER_MAX).contains(&entry.first_sequence)
                        && entry.dead.len() <= geometry.copy_words();
                    believed.dirty_segments.insert(entry.segment, entry);
                    fits
                }
                CheckpointItem::Segment(entry) => {
                    let has_bits = entry.generation == 0
                        || entry.live.len() == geometry.live_words()
                            && entry.hits.len() == geometry.hit_words();
                    let fits = entry.segment < geometry.segment_count && has_bits;
                    believed.checkpointed.insert(entry.segment, entry);
                    fits
                }
            };
            if !fits {
                return Err(Error::Damaged { what: "an item of the checkpoint is impossible".into() });
            }
        }
        for entry in replayed.entries {
            believed.apply(entry)?;
        }
        if believed.dirty_segments.keys().any(|&segment| believed.is_checkpointed(segment)) {
            return Err(Error::Damaged { what: "a segment is in the checkpoint twice".into() });
        }
        Ok(believed)
    }

    fn apply(&mut self, entry: JournalEntry) -> Result<()> {
        match entry {
            JournalEntry::Void { block, version } => {
                let known = self.voids.entry(block).or_default();
                *known = version.max(*known);
            }
            JournalEntry::VoidRange { first, count, version } => {
                self.void_ranges.push((first, count, version));
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
            JournalEntry::VolumeDropped { volume } => self.volumes.restore_dropped(volume),
            JournalEntry::VolumeUsed { volume } => self.volumes.used(volume),
            JournalEntry::SyncedThrough { volume, version } => {
                self.volumes.restore_synced(volume, Version::from_u64(version));
            }
            JournalEntry::VolumeCold { volume, generation } => {
                let known = self.cold.entry(volume).or_default();
                *known = generation.max(*known);
            }
        }
        Ok(())
    }

    /// Whether a summary of this generation is believed in `segment`.
    pub(super) fn believes(&self, segment: u32, generation: u32) -> bool {
        let known = self.checkpointed.get(&segment).map_or(0, |entry| entry.generation);
        let is_expected = generation != 0 && generation == known;
        (is_expected || generation >= self.next_generation) && !self.retired.contains(&(segment, generation))
    }

    /// Whether the checkpoint knows a segment here that is not retired, so that nothing else can be.
    pub(super) fn is_checkpointed(&self, segment: u32) -> bool {
        let known = self.checkpointed.get(&segment).map_or(0, |entry| entry.generation);
        known != 0 && !self.retired.contains(&(segment, known))
    }

    /// Whether `segment` can hold anything at all, so that its summary is worth reading.
    pub(super) fn may_hold(&self, segment: u32) -> bool {
        !self.is_clean || self.checkpointed.get(&segment).is_some_and(|entry| entry.generation != 0)
    }

    /// The entries of a believed segment that are valid, with their hits in `flags`. Depends on nothing else.
    pub(super) fn survivors(&self, summary: &Summary) -> Vec<Entry> {
        let known = self.checkpointed_as(summary);
        let hits = |entry: &Entry| (entry.flags & 3).max(known.map_or(0, |k| hits_in(&k.hits, entry.slot)));
        summary
            .entries
            .iter()
            .filter(|entry| self.doubt(summary, entry).is_none())
            .map(|entry| Entry { flags: hits(entry), ..*entry })
            .collect()
    }

    /// What the checkpoint says of the very segment that `summary` is of.
    fn checkpointed_as(&self, summary: &Summary) -> Option<&SegmentEntry> {
        let known = self.checkpointed.get(&summary.segment);
        known.filter(|known| known.generation == summary.generation && known.generation != 0)
    }

    /// Why the copy in a believed segment is not valid; none when it is.
    pub(super) fn doubt(&self, summary: &Summary, entry: &Entry) -> Option<Doubt> {
        let (volume, region) = (entry.block.volume().number(), region_of(entry.block));
        let is_live = |known: &SegmentEntry| is_live_in(&known.live, entry.slot);
        if !self.checkpointed_as(summary).is_none_or(is_live) {
            Some(Doubt::DeadAtCheckpoint)
        } else if !self.volumes.contains(entry.block.volume()) {
            Some(Doubt::NoVolume)
        } else if self.marks.contains(&(volume, region)) {
            Some(Doubt::RegionMarked)
        } else if self.void_slots.contains(&(summary.segment, summary.generation, entry.slot)) {
            Some(Doubt::SlotVoid)
        } else if self.cold.get(&volume).is_some_and(|&generation| summary.generation < generation) {
            Some(Doubt::VolumeCold)
        } else {
            self.is_overwritten(entry.block, entry.version).then_some(Doubt::Overwritten)
        }
    }

    /// Whether the journal says that there is something newer than this version of `block`.
    pub(super) fn is_overwritten(&self, block: BlockId, version: Version) -> bool {
        let (block, version) = (block.as_u64(), version.as_u64());
        let is_in = |&(first, count, void): &(u64, u64, u64)| {
            version < void && block >= first && block - first < count
        };
        self.voids.get(&block).is_some_and(|&void| version < void) || self.void_ranges.iter().any(is_in)
    }

    fn next_generation_after(&self, sealed: &[Sealed]) -> u32 {
        let seen = sealed.iter().map(|&(_, _, generation, _)| generation);
        let retired = self.retired.iter().map(|&(_, generation)| generation);
        let last = seen.chain(retired).max().unwrap_or(0).max(self.next_generation);
        // Segments that were open, or cannot be read now, may have had later ones; at most all of them.
        let skipped = if self.is_clean { 0 } else { self.geometry.segment_count };
        last.saturating_add(1).saturating_add(skipped)
    }
}

/// Sequence, segment, generation, slots used.
type Sealed = (u64, u32, u32, u32);

/// Reads the believed summaries into index and log, and lists their segments, the first to go first.
fn read_segments(
    device: &dyn Device,
    believed: &Believed,
    log: &mut Log,
    index: &mut Index,
) -> Result<Vec<Sealed>> {
    let mut sealed = Vec::new();
    let mut rivals = Vec::new();
    for segment in (0..believed.geometry.segment_count).filter(|&segment| believed.may_hold(segment)) {
        let Some(summary) = read_summary(device, believed, segment) else { continue };
        for entry in believed.survivors(&summary) {
            if index.get(entry.block).is_some() {
                rivals.push((summary.segment, summary.generation, entry));
            } else {
                install(log, index, segment, &entry);
            }
        }
        sealed.push((summary.sequence, segment, summary.generation, summary.slots_used));
    }
    for (segment, generation, entry) in rivals {
        settle_rivals(device, believed, log, index, segment, generation, &entry);
    }
    sealed.sort_unstable();
    Ok(sealed)
}

/// The believed summary of `segment`; none when there is none, or it cannot be read: its copies are gone then.
pub(super) fn read_summary(device: &dyn Device, believed: &Believed, segment: u32) -> Option<Summary> {
    let geometry = &believed.geometry;
    let mut pages = Pages::new(geometry.summary_bytes() as usize);
    let (offset, file_id) = (geometry.summary_offset(segment), believed.file_id);
    device.read(offset, &mut [IoSliceMut::new(&mut pages[..PAGE_BYTES])]).ok()?;
    let generation = Summary::peek_generation(&pages, file_id, segment)?;
    if !believed.believes(segment, generation) {
        return None;
    }
    let rest = offset + PAGE_BYTES as u64;
    if pages.len() > PAGE_BYTES {
        device.read(rest, &mut [IoSliceMut::new(&mut pages[PAGE_BYTES..])]).ok()?;
    }
    Summary::from_bytes(&pages, file_id, segment, geometry.slots_per_segment)
        .filter(|summary| summary.sequence < COUNTER_MAX && summary.generation <= GENERATION_MAX)
}

fn install(log: &mut Log, index: &mut Index, segment: u32, entry: &Entry) {
    index.insert(entry.block, log.place(segment, entry.slot), entry.crc);
    log.bits.restore(segment, entry.slot, entry.flags);
}

/// Two copies of a block are believed: keeps the later one. Rare, so the other's version is read once more.
fn settle_rivals(
    device: &dyn Device,
    believed: &Believed,
    log: &mut Log,
    index: &mut Index,
    segment: u32,
    generation: u32,
    entry: &Entry,
) {
    let Some(other) = index.get(entry.block) else { return };
    let (other_segment, other_slot) = log.segment_and_slot(other.place);
    let version = read_summary(device, believed, other_segment).and_then(|summary| {
        let entry = summary.entries.iter().find(|entry| entry.slot == other_slot)?;
        Some((entry.version, summary.generation))
    });
    if version < Some((entry.version, generation)) {
        remove(log, index, entry.block);
        install(log, index, segment, entry);
    }
}

fn remove(log: &mut Log, index: &mut Index, block: BlockId) {
    if let Some(found) = index.remove(block) {
        log.drop_copy(found.place);
    }
}

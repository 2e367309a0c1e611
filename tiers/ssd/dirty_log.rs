//! The dirty stream: blocks newer than the backing store, in records (see `record`), until they are destaged.
//!
//! ```text
//!            plan_record          finish_record, all before it too    plan_sync, finish_sync       finish_destage
//!   in RAM ------------> planned ------------------> written ------------------> durable, dirty ------------> destaged
//! ```
//!
//! Invariants:
//! 1. Sequences have no gaps, and a sync counts for the records before the first that is not written yet: so what
//!    recovery finds whole, from the last one known to be synced up to the first gap, is all that was promised, in the
//!    order in which it was written.
//! 2. A block has at most one copy that is not durable. Its older copy stays until that one is.
//! 3. Segments are retired in the order in which they were opened: no copy outlives one that supersedes it.
//! 4. A copy has at least the sectors of the one that it supersedes while that is dirty.
//! 5. A copy that is superseded in a later epoch stays until it is below (`older`): the backing store of a volume with
//!    epochs is at any time one epoch and a part of the next. Of a volume without, all is of epoch 0.
//! 6. `copies` has the newest durable copy of every block of which recovery could find one. So whoever writes a block
//!    below by another way sees here that a void is needed, also when its copy was destaged long ago.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Range, RangeInclusive};

use hashbrown::HashMap;

use crate::block::{BlockId, BlockSize, PAGE_BYTES, Version, VolumeId};

use super::geometry::Geometry;
use super::log_filter::LogFilter;
use super::record::{RecordEntry, RecordHeader, SectorMask, header_pages, page_count};
use super::tombstones::{Tombstone, Tombstones};

type Hasher = foldhash::fast::FixedState;

/// A record takes at most so many blocks: it is planned under a lock, and one call takes so many buffers.
const ENTRIES_MAX: usize = 256;

/// A block as it is to go to the log.
#[derive(Clone, Debug)]
pub struct NewCopy {
    pub block: BlockId,
    pub version: Version,
    /// The sectors that the copy is to have, none of them without content.
    pub mask: SectorMask,
    /// Nothing of a later epoch of the volume goes below before all of this one is synced there; 0 for any order.
    pub epoch: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyState {
    /// The backing store does not have it.
    Dirty,
    /// The backing store has it, synced.
    Destaged,
    /// It cannot be read, and there is no other.
    Bad,
}

/// Where a durable copy is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LogCopy {
    pub(super) segment: u32,
    pub(super) generation: u32,
    /// Of its first page in the segment.
    pub(super) page: u32,
    /// Its number among the copies of the segment.
    pub(super) index: u32,
    pub(super) crc: u32,
    pub(super) version: Version,
    pub(super) mask: SectorMask,
    pub(super) epoch: u64,
    pub(super) state: CopyState,
}

/// A record that is not durable yet.
struct OpenRecord {
    segment: u32,
    generation: u32,
    page: u32,
    /// Of its first entry's data.
    data_page: u32,
    /// How many blocks are in it.
    copies: u32,
    epoch: u64,
    /// Of its first entry.
    first_index: u32,
    /// With checksums once it is written.
    entries: Vec<RecordEntry>,
    is_written: bool,
}

/// A copy that is not durable yet.
struct PendingCopy {
    generation: u32,
    index: u32,
    /// It was overwritten by another way, or discarded, meanwhile.
    is_void: bool,
}

/// A segment of the dirty stream.
pub(super) struct DirtySegment {
    pub(super) segment: u32,
    pub(super) generation: u32,
    pub(super) first_sequence: u64,
    pub(super) next_page: u32,
    /// Nothing after this page is part of it; known of segments of an earlier opening.
    pub(super) end_page: Option<u32>,
    /// A bit a copy: 1 when it must not be used any more.
    pub(super) dead: Vec<u64>,
    /// Its copies, in their order.
    pub(super) blocks: Vec<BlockId>,
    /// Copies that keep it: not durable, dirty or bad.
    pub(super) needed: u32,
    pub(super) is_closed: bool,
}

impl LogCopy {
    /// Whether it begins on this page of the segment of this generation.
    pub(super) fn is_at(&self, generation: u32, page: u32) -> bool {
        (self.generation, self.page) == (generation, page)
    }
}

impl DirtySegment {
    pub(super) fn new(segment: u32, generation: u32, first_sequence: u64) -> Self {
        Self {
            segment,
            generation,
            first_sequence,
            next_page: 0,
            end_page: None,
            dead: Vec::new(),
            blocks: Vec::new(),
            needed: 0,
            is_closed: false,
        }
    }

    fn set_dead(&mut self, index: u32) {
        let word = index as usize / 64;
        if self.dead.len() <= word {
            self.dead.resize(word + 1, 0);
        }
        self.dead[word] |= 1 << (index % 64);
    }

    pub(super) fn is_dead(&self, index: u32) -> bool {
        is_dead_in(&self.dead, index)
    }
}

/// Whether copy number `index` is dead in a segment's words.
pub(super) fn is_dead_in(words: &[u64], index: u32) -> bool {
    words.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

/// What a record finds room in.
pub(super) enum Room {
    /// The open segment.
    Here,
    /// A new one.
    Next,
}

type DirtyKey = (VolumeId, u64, BlockId);

fn keys_of(volume: VolumeId) -> RangeInclusive<DirtyKey> {
    let all = all_of(volume);
    (volume, 0, *all.start())..=(volume, u64::MAX, *all.end())
}

fn all_of(volume: VolumeId) -> RangeInclusive<BlockId> {
    BlockId::new(volume, 0)..=BlockId::new(volume, BlockId::NUMBER_LIMIT - 1)
}

/// The records up to `through`, to be covered by one sync of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSync {
    through: u64,
    round: usize,
}

impl LogSync {
    /// Whether the record of `ticket` is among them.
    pub fn covers(&self, ticket: LogTicket) -> bool {
        ticket.round == self.round && ticket.sequence <= self.through
    }
}

/// Names one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogTicket {
    pub(super) sequence: u64,
    pub(super) round: usize,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFate {
    UnderWay,
    Durable,
    GivenUp,
}

pub(super) struct DirtyLog {
    size: BlockSize,
    segment_pages: u32,
    segments_max: usize,
    copies: HashMap<BlockId, LogCopy, Hasher>,
    /// Copies that were superseded in a later epoch than theirs and go below before the newer one.
    older: BTreeMap<(BlockId, u64), LogCopy>,
    /// Those of `copies` and `older` that are dirty: volume, epoch and block.
    dirty: BTreeSet<DirtyKey>,
    /// Those of `copies` that are bad.
    bad: BTreeSet<BlockId>,
    /// Blocks in `records`.
    pending: HashMap<BlockId, PendingCopy, Hasher>,
    records: BTreeMap<u64, OpenRecord>,
    /// Has all of `copies`, `older` and `pending`; only while summaries are read.
    filter: Option<LogFilter>,
    pub(super) tombstones: Tombstones,
    pub(super) next_sequence: u64,
    pub(super) synced_through: u64,
    /// The first to go first; the last may be open.
    pub(super) segments: VecDeque<DirtySegment>,
    /// What was given up last is not in a checkpoint yet.
    must_restart: bool,
    /// From which sequence on records were given up, each time that this happened: a sequence is used again then.
    given_up_from: Vec<u64>,
}

/// The clean stream and reinsertion keep half of the room.
fn segments_max(geometry: &Geometry) -> usize {
    (geometry.capacity_segments as usize).div_ceil(2).max(1)
}

impl DirtyLog {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            size: geometry.block_size,
            segment_pages: (geometry.segment_bytes / PAGE_BYTES as u64) as u32,
            segments_max: segments_max(geometry),
            copies: HashMap::default(),
            older: BTreeMap::new(),
            dirty: BTreeSet::new(),
            bad: BTreeSet::new(),
            pending: HashMap::default(),
            records: BTreeMap::new(),
            filter: None,
            tombstones: Tombstones::default(),
            next_sequence: 1,
            synced_through: 0,
            segments: VecDeque::new(),
            must_restart: false,
            given_up_from: Vec::new(),
        }
    }

    /// The file has another size, or will have.
    pub(super) fn set_capacity(&mut self, geometry: &Geometry) {
        self.segments_max = segments_max(geometry);
    }

    /// What comes goes to another segment, if the open one is `first` or a later one.
    pub(super) fn leave_segments_from(&mut self, first: u32) {
        if self.segments.back().is_some_and(|last| last.segment >= first) {
            self.close_open();
        }
    }

    /// RAM of what grows with the number of copies.
    pub(super) fn bytes(&self) -> u64 {
        let copy = size_of::<BlockId>() + size_of::<LogCopy>() + 8 * self.size.mask_words();
        ((self.copies.len() + self.older.len()) * (copy + 4 * size_of::<BlockId>())) as u64
    }

    pub(super) fn get(&self, block: BlockId) -> Option<&LogCopy> {
        self.copies.get(&block)
    }

    /// The copy of this epoch.
    pub(super) fn get_of(&self, block: BlockId, epoch: u64) -> Option<&LogCopy> {
        let newest = self.copies.get(&block).filter(|copy| copy.epoch == epoch);
        newest.or_else(|| self.older.get(&(block, epoch)))
    }

    /// The copies of `block` that are to go below, the last one to do so first.
    pub(super) fn dirty_copies(&self, block: BlockId) -> impl Iterator<Item = &LogCopy> {
        let older = self.older.range((block, 0)..=(block, u64::MAX)).rev().map(|(_, copy)| copy);
        self.copies.get(&block).into_iter().chain(older).filter(|copy| copy.state == CopyState::Dirty)
    }

    /// Whether the copy of this version is still one that counts.
    pub(super) fn has_version(&self, block: BlockId, version: Version) -> bool {
        let is_it = |copy: &LogCopy| copy.version == version;
        let mut older = self.older.range((block, 0)..=(block, u64::MAX));
        self.copies.get(&block).is_some_and(is_it) || older.any(|(_, copy)| is_it(copy))
    }

    /// What the backing stores lack and can be given: blocks, and tombstones.
    pub(super) fn dirty_count(&self) -> usize {
        self.dirty.len() + self.tombstones.len()
    }

    pub(super) fn dirty_count_of(&self, volume: VolumeId) -> usize {
        self.dirty.range(keys_of(volume)).count() + self.tombstones.of(volume).count()
    }

    /// Blocks of `volume` with a copy or a record under way.
    pub(super) fn blocks_of(&self, volume: VolumeId) -> Vec<BlockId> {
        let all = all_of(volume);
        self.blocks_within(&(all.start().as_u64()..all.end().as_u64() + 1))
    }

    pub(super) fn bad_blocks_of(&self, volume: VolumeId) -> Vec<BlockId> {
        self.bad.range(all_of(volume)).copied().collect()
    }

    pub(super) fn has_dirty(&self, volume: VolumeId) -> bool {
        self.dirty.range(keys_of(volume)).next().is_some()
            || self.bad.range(all_of(volume)).next().is_some()
            || self.tombstones.of(volume).next().is_some()
    }

    /// The share of the allowed segments that is in use.
    pub(super) fn load(&self) -> f64 {
        let used = self.segments.iter().map(|segment| u64::from(segment.next_page)).sum::<u64>();
        used as f64 / (self.segments_max as f64 * f64::from(self.segment_pages))
    }

    /// Whether every planned record is durable.
    pub(super) fn is_settled(&self) -> bool {
        self.records.is_empty()
    }

    /// Copies are restored now, about so many, and summaries read then, until [`Self::end_scan`].
    pub(super) fn begin_scan(&mut self, copies: usize) {
        self.filter = Some(LogFilter::new(copies));
        self.copies.reserve(copies);
    }

    pub(super) fn end_scan(&mut self) {
        self.filter = None;
    }

    /// Whether recovery might find a copy of `block`.
    pub(super) fn may_be_found(&self, block: BlockId) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_have(block)) && self.is_found(block)
    }

    fn is_found(&self, block: BlockId) -> bool {
        self.copies.contains_key(&block) || self.pending.contains_key(&block) || self.has_older(block)
    }

    fn has_older(&self, block: BlockId) -> bool {
        self.older.range((block, 0)..=(block, u64::MAX)).next().is_some()
    }

    /// How many of `copies` fit one record, and where; none when a segment is needed and no more are allowed.
    pub(super) fn room_for(&self, copies: &[NewCopy]) -> Option<(usize, Room)> {
        let left = self.segments.back().filter(|last| !last.is_closed);
        let left = left.map_or(0, |last| self.segment_pages - last.next_page);
        match self.count_in(copies, left) {
            0 if self.segments.len() >= self.segments_max => None,
            0 => Some((self.count_in(copies, self.segment_pages), Room::Next)),
            count => Some((count, Room::Here)),
        }
    }

    fn count_in(&self, copies: &[NewCopy], pages: u32) -> usize {
        let mut data = 0;
        let of_one_epoch = copies.iter().take_while(|copy| copy.epoch == copies[0].epoch);
        let fits = of_one_epoch.take(ENTRIES_MAX).enumerate().take_while(|(index, copy)| {
            data += page_count(&copy.mask, self.size);
            header_pages(index + 1, self.size) + data <= pages
        });
        fits.count()
    }

    pub(super) fn close_open(&mut self) {
        if let Some(last) = self.segments.back_mut() {
            last.is_closed = true;
        }
    }

    pub(super) fn open_segment(&mut self, segment: u32, generation: u32) {
        self.close_open();
        self.segments.push_back(DirtySegment::new(segment, generation, self.next_sequence));
    }

    /// Gives the next place in the open segment to `copies`, which fit it: the header, and its page.
    pub(super) fn plan(&mut self, file_id: u64, copies: &[NewCopy], now_s: u32) -> (RecordHeader, u32) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let segment = self.segments.back_mut().expect("an open segment");
        let page = segment.next_page;
        let entries = copies
            .iter()
            .map(|copy| RecordEntry {
                block: copy.block,
                version: copy.version,
                crc: 0,
                mask: copy.mask.clone(),
            })
            .collect();
        let header = RecordHeader {
            file_id,
            segment: segment.segment,
            generation: segment.generation,
            sequence,
            synced_through: self.synced_through,
            epoch: copies[0].epoch,
            written_s: now_s,
            entries,
        };
        let first_index = segment.blocks.len() as u32;
        segment.next_page += header.pages(self.size);
        segment.blocks.extend(copies.iter().map(|copy| copy.block));
        segment.needed += copies.len() as u32;
        let generation = segment.generation;
        for (copy, index) in copies.iter().zip(first_index..) {
            if let Some(filter) = &mut self.filter {
                filter.add(copy.block);
            }
            let before = self.pending.insert(copy.block, PendingCopy { generation, index, is_void: false });
            assert!(before.is_none(), "{} goes to the log twice at once", copy.block);
        }
        let record = OpenRecord {
            segment: header.segment,
            generation,
            page,
            copies: copies.len() as u32,
            epoch: copies[0].epoch,
            data_page: page + header_pages(copies.len(), self.size),
            first_index,
            entries: Vec::new(),
            is_written: false,
        };
        self.records.insert(sequence, record);
        (header, page)
    }

    /// The record of `ticket` is written, if it was not given up meanwhile.
    pub(super) fn finish(&mut self, ticket: LogTicket, header: RecordHeader) {
        if ticket.round == self.round() {
            let record = self.records.get_mut(&ticket.sequence).expect("a record is finished once");
            (record.entries, record.is_written) = (header.entries, true);
        }
    }

    pub(super) fn round(&self) -> usize {
        self.given_up_from.len()
    }

    pub(super) fn fate(&self, ticket: LogTicket) -> LogFate {
        if self.given_up_from[ticket.round..].iter().any(|&first| ticket.sequence >= first) {
            LogFate::GivenUp
        } else if ticket.sequence <= self.synced_through {
            LogFate::Durable
        } else {
            LogFate::UnderWay
        }
    }

    /// What a sync that starts now covers; none when nothing is written that is not durable.
    pub(super) fn plan_sync(&self) -> Option<LogSync> {
        let written = self.records.iter().take_while(|(_, record)| record.is_written);
        written.last().map(|(&through, _)| LogSync { through, round: self.round() })
    }

    /// What a sync covers is durable.
    pub(super) fn finish_sync(&mut self, sync: LogSync) {
        if sync.round != self.round() {
            return;
        }
        let rest = self.records.split_off(&(sync.through + 1));
        let records = std::mem::replace(&mut self.records, rest);
        self.synced_through = self.synced_through.max(sync.through);
        for record in records.into_values() {
            let (mut page, mut index) = (record.data_page, record.first_index);
            for RecordEntry { block, version, crc, mask } in record.entries {
                let pages = page_count(&mask, self.size);
                let OpenRecord { segment, generation, epoch, .. } = record;
                let state = CopyState::Dirty;
                let copy = LogCopy { segment, generation, page, index, crc, version, mask, epoch, state };
                let pending = self.pending.remove(&block).expect("a block of a record is pending");
                if pending.is_void {
                    self.segment_mut(generation).needed -= 1;
                } else {
                    self.install(block, copy);
                }
                (page, index) = (page + pages, index + 1);
            }
        }
    }

    /// A record or a sync failed: what is not durable is given up, and the log goes on in another segment once a
    /// checkpoint has the end of this one ([`Self::restart`]).
    pub(super) fn give_up(&mut self) {
        let records = std::mem::take(&mut self.records);
        let Some((&first, record)) = records.first_key_value() else { return };
        self.next_sequence = first;
        let generation = record.generation;
        for record in records.values() {
            self.segment_mut(record.generation).needed -= record.copies;
        }
        for pending in self.pending.drain() {
            let PendingCopy { generation, index, .. } = pending.1;
            let at = self.segments.partition_point(|other| other.generation < generation);
            self.segments[at].set_dead(index);
        }
        let (first_page, end) =
            (record.page, self.segments.partition_point(|other| other.generation < generation));
        for (at, segment) in self.segments.iter_mut().enumerate().skip(end) {
            let end_page = if at == end { first_page } else { 0 };
            (segment.end_page, segment.is_closed) = (Some(end_page), true);
            segment.first_sequence = segment.first_sequence.min(first);
        }
        self.must_restart = true;
        self.given_up_from.push(first);
    }

    /// Whether a checkpoint must be made before the log takes more.
    pub(super) fn must_restart(&self) -> bool {
        self.must_restart
    }

    /// A checkpoint with the end of the log in it is durable.
    pub(super) fn restart(&mut self) {
        self.must_restart = false;
    }

    /// Puts a durable copy in place of an older one.
    fn install(&mut self, block: BlockId, copy: LogCopy) {
        let (epoch, state) = (copy.epoch, copy.state);
        if let Some(old) = self.copies.insert(block, copy) {
            self.supersede(block, old, epoch);
        }
        if epoch == 0 {
            self.drop_older(block, |_| true);
        }
        self.bad.remove(&block);
        if state == CopyState::Dirty {
            self.dirty.insert((block.volume(), epoch, block));
        }
    }

    /// What was the newest copy of `block` is not any more, by something of this epoch.
    fn supersede(&mut self, block: BlockId, old: LogCopy, epoch: u64) {
        if old.state == CopyState::Dirty && old.epoch < epoch {
            self.older.insert((block, old.epoch), old);
        } else {
            self.dirty.remove(&(block.volume(), old.epoch, block));
            self.let_go(&old, old.state != CopyState::Destaged);
        }
    }

    /// Those copies of `block` in `older` that `is_out` names must not be used any more.
    fn drop_older(&mut self, block: BlockId, is_out: impl Fn(&LogCopy) -> bool) -> bool {
        let all = self.older.range((block, 0)..=(block, u64::MAX));
        let out: Vec<u64> = all.filter(|(_, copy)| is_out(copy)).map(|((_, epoch), _)| *epoch).collect();
        for epoch in &out {
            let copy = self.older.remove(&(block, *epoch)).expect("it was just looked at");
            self.dirty.remove(&(block.volume(), *epoch, block));
            self.let_go(&copy, true);
        }
        !out.is_empty()
    }

    /// A copy must not be used any more.
    fn let_go(&mut self, copy: &LogCopy, is_needed: bool) {
        let segment = self.segment_mut(copy.generation);
        segment.set_dead(copy.index);
        segment.needed -= u32::from(is_needed);
    }

    /// The segment of this generation; they are in that order.
    fn segment_mut(&mut self, generation: u32) -> &mut DirtySegment {
        let at = self.segments.partition_point(|other| other.generation < generation);
        let segment = self.segments.get_mut(at).filter(|segment| segment.generation == generation);
        segment.expect("a copy lies in a segment of the log")
    }

    /// No copy of `block` may be used any more, whatever state it is in. True when recovery might find one.
    pub(super) fn void(&mut self, block: BlockId) -> bool {
        let copy = self.copies.remove(&block);
        self.bad.remove(&block);
        if let Some(copy) = &copy {
            self.dirty.remove(&(block.volume(), copy.epoch, block));
            self.let_go(copy, copy.state != CopyState::Destaged);
        }
        let had_older = self.drop_older(block, |_| true);
        let Some(pending) = self.pending.get_mut(&block) else { return copy.is_some() || had_older };
        pending.is_void = true;
        // At once, since a checkpoint made now takes the place of the journal's entry.
        let (generation, index) = (pending.generation, pending.index);
        self.segment_mut(generation).set_dead(index);
        true
    }

    /// Those of `ids` with a copy or a record under way, found without a look at the others when there are more of them.
    pub(super) fn blocks_within(&self, ids: &Range<u64>) -> Vec<BlockId> {
        if ids.end.saturating_sub(ids.start) <= (self.copies.len() + self.pending.len()) as u64 {
            let blocks = ids.clone().map(BlockId::from_u64);
            return blocks.filter(|&block| self.may_be_found(block)).collect();
        }
        let rest = self.pending.keys().chain(self.older.keys().map(|(block, _)| block));
        let rest = rest.filter(|block| !self.copies.contains_key(*block));
        let known: BTreeSet<BlockId> = self.copies.keys().chain(rest).copied().collect();
        known.into_iter().filter(|block| ids.contains(&block.as_u64())).collect()
    }

    /// A tombstone takes the place of what is older.
    pub(super) fn bury(&mut self, tombstone: Tombstone) {
        let Tombstone { version, epoch, .. } = tombstone;
        for block in self.blocks_within(&tombstone.ids) {
            self.drop_older(block, |copy| copy.version < version && (epoch == 0 || copy.epoch >= epoch));
            if self.copies.get(&block).is_some_and(|copy| copy.version < version) {
                let copy = self.copies.remove(&block).expect("it was just looked at");
                self.bad.remove(&block);
                self.supersede(block, copy, epoch);
            }
        }
        self.tombstones.insert(tombstone);
    }

    /// Whether the backing store lacks something of `block`, or will by a record that is under way.
    pub(super) fn holds_back(&self, block: BlockId) -> bool {
        self.is_to_be_destaged(block) || self.bad.contains(&block)
    }

    /// The same, but for a copy that cannot be read.
    pub(super) fn is_to_be_destaged(&self, block: BlockId) -> bool {
        self.copies.get(&block).is_some_and(|copy| copy.state == CopyState::Dirty)
            || self.pending.contains_key(&block)
            || self.has_older(block)
            || self.tombstones.covers(block)
    }

    /// The first epoch of which the volume has dirty blocks.
    pub(super) fn first_epoch(&self, volume: VolumeId) -> Option<u64> {
        self.dirty.range(keys_of(volume)).next().map(|(_, epoch, _)| *epoch)
    }

    /// The last epoch of the volume of which anything is to be destaged; 0 when there is nothing.
    pub(super) fn last_epoch(&self, volume: VolumeId) -> u64 {
        let blocks = self.dirty.range(keys_of(volume)).next_back().map(|(_, epoch, _)| *epoch);
        self.tombstones.of(volume).map(|tombstone| tombstone.epoch).chain(blocks).max().unwrap_or(0)
    }

    /// Dirty blocks of one volume and epoch by address: from `from` on, the first run of neighbours, at most `count`.
    pub(super) fn dirty_run(&self, epoch: u64, from: BlockId, count: usize) -> Vec<BlockId> {
        let mut run: Vec<BlockId> = Vec::new();
        let (volume, last) = (from.volume(), *all_of(from.volume()).end());
        for &(_, _, block) in self.dirty.range((volume, epoch, from)..=(volume, epoch, last)).take(count) {
            let follows = run.last().is_none_or(|before| before.as_u64() + 1 == block.as_u64());
            if !follows {
                break;
            }
            run.push(block);
        }
        run
    }

    /// The backing store has the copy of this version, synced. False when there is a newer one, or none.
    pub(super) fn destaged(&mut self, block: BlockId, version: Version) -> bool {
        let Some(copy) = self.copies.get_mut(&block).filter(|copy| copy.version == version) else {
            return self.drop_older(block, |copy| copy.version == version);
        };
        if copy.state == CopyState::Destaged {
            return false;
        }
        copy.state = CopyState::Destaged;
        let (generation, epoch) = (copy.generation, copy.epoch);
        self.dirty.remove(&(block.volume(), epoch, block));
        self.bad.remove(&block);
        self.segment_mut(generation).needed -= 1;
        true
    }

    /// The copy of this version cannot be read.
    pub(super) fn spoil(&mut self, block: BlockId, version: Version) {
        // Nobody reads an older one but its destage, and there is nothing better to write below in its epoch.
        if self.drop_older(block, |copy| copy.version == version) {
            return;
        }
        if let Some(copy) = self.copies.get_mut(&block)
            && copy.version == version
        {
            let epoch = copy.epoch;
            match copy.state {
                CopyState::Dirty => {
                    copy.state = CopyState::Bad;
                    self.bad.insert(block);
                }
                // The backing store has it.
                CopyState::Destaged => {
                    self.void(block);
                }
                CopyState::Bad => {}
            }
            self.dirty.remove(&(block.volume(), epoch, block));
        }
    }

    /// Destaged copies are as good as those of the backing store, and a file that is closed need not remember them.
    pub(super) fn drop_destaged(&mut self) {
        let destaged = self.copies.iter().filter(|(_, copy)| copy.state == CopyState::Destaged);
        for block in destaged.map(|(&block, _)| block).collect::<Vec<_>>() {
            self.void(block);
        }
    }

    /// The next segment that nothing keeps, with its generation; out of the log with this call.
    pub(super) fn take_unneeded(&mut self) -> Option<(u32, u32)> {
        let first = self.segments.front().filter(|first| first.is_closed && first.needed == 0)?;
        let (segment, generation) = (first.segment, first.generation);
        let gone = self.segments.pop_front().expect("it was just looked at");
        for block in gone.blocks {
            if self.copies.get(&block).is_some_and(|copy| copy.generation == generation) {
                self.copies.remove(&block);
            }
        }
        Some((segment, generation))
    }

    /// Puts a recovered segment in line, behind those before it.
    pub(super) fn restore_segment(&mut self, segment: DirtySegment) {
        self.segments.push_back(DirtySegment { is_closed: true, ..segment });
    }

    /// Puts a recovered copy in the newest segment, in the order of their writing; `is_void` when it must not be used.
    pub(super) fn restore_copy(&mut self, block: BlockId, copy: LogCopy, is_void: bool) {
        let segment = self.segment_mut(copy.generation);
        segment.blocks.push(block);
        if is_void || segment.is_dead(copy.index) {
            segment.set_dead(copy.index);
        } else {
            segment.needed += u32::from(copy.state == CopyState::Dirty);
            if let Some(filter) = &mut self.filter {
                filter.add(block);
            }
            self.install(block, copy);
        }
    }

    /// The number of the next copy that is restored in the segment of this generation.
    pub(super) fn next_index(&mut self, generation: u32) -> u32 {
        self.segment_mut(generation).blocks.len() as u32
    }
}

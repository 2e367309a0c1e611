//! The dirty stream: blocks newer than the backing store, in records (see `record`), until they are destaged.
//!
//! | file     | what it knows                                                                       |
//! |----------|-------------------------------------------------------------------------------------|
//! | segments | the segments of the stream, in line, and which copies in them are out of use        |
//! | records  | what is on its way to them, and what a sync makes durable                           |
//! | chains   | the durable copies of each block, compactly                                         |
//! | copies   | which of those there must be: what supersedes, voids, destages and spoils them      |
//! | order    | which blocks are to be destaged, by address                                         |
//!
//! ```text
//!            plan_record          finish_record, all before it too    plan_sync, finish_sync       finish_destage
//!   in RAM ------------> planned ------------------> written ------------------> durable, dirty ------------> destaged
//! ```
//!
//! A copy has the sectors that were written since the one before, and no more: what a flush writes does not depend on the
//! size of a block. So a block has a chain of copies, ordered by version, and each sector is that of the newest copy that
//! has it; a sector that none has is that of the backing store, or zeros under a tombstone.
//!
//! Of records and segments:
//! 1. Sequences have no gaps, and a sync counts for the records before the first that is not written yet: so what
//!    recovery finds whole, from the last one known to be synced up to the first gap, is all that was promised, in the
//!    order in which it was written.
//! 2. A block has at most one copy that is not durable, and that is in no chain: nothing goes on account of it.
//! 3. Segments are retired in the order in which they were opened, and none that has a dirty or bad copy of any chain. So
//!    what recovery finds of a chain is its newest copies from some copy on, and the backing store has all before that.
//! 4. What was given up may be on the device all the same, and recovery finds it until a checkpoint has the end of the log:
//!    so a void of such a block goes into the journal, though the log has nothing of it (`given_up`).
//!
//! Of the chain of a block:
//! 5. It is in the order of the copies' versions, their records and their epochs: `install` adds the newest.
//! 6. A dirty copy stays until durable newer copies of its epoch have all its sectors between them, or until the backing
//!    store has it, synced. Of one that was superseded in part the rest counts as before.
//! 7. Each epoch has what was written in it, so that the backing store of a volume with epochs is at any time one epoch and
//!    a part of the next: a copy is not superseded by those of a later epoch. Of a volume without, all is of epoch 0.
//! 8. Only the newest copy is ever kept as destaged, and none that a tombstone hides. It stays for as long as recovery
//!    could find it: whoever writes the block below by another way sees here that a void is needed, also when its copies
//!    were destaged long ago.
//! 9. A void, and a tombstone that is in no later epoch, takes every copy out that is older, by version: none of a chain
//!    comes back without the newer ones.
//! 10. While a copy that reads need is bad the block is: reads of it fail, nothing of the chain is destaged, until one
//!    newer copy, or a few, have all the sectors of the bad one, or a void.
//! 11. A read needs at most [`chain_max`] copies, and one that was on its way: then the next has all sectors of them, and
//!    reads need no other.
//!
//! `ssd/tests/dirty.rs` cuts the power after every step of random runs and compares with what each sector may be (1 to 9),
//! `ssd/tests/log_chains.rs` has a case each for 6 to 11, and breaks 3, 5, 6 and 9 to see that this is found; the crash
//! sweep does all of it with a cache on top.

mod chains;
mod copies;
mod order;
mod records;
mod segments;

use std::collections::{BTreeSet, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::block::{BlockId, BlockSize, PAGE_BYTES, SECTOR_BYTES, Version, VolumeId};

use super::geometry::Geometry;
use super::log_filter::LogFilter;
use super::record::SectorMask;
use super::tombstones::Tombstones;
use chains::{Chains, CopyId};
use order::DestageOrder;
pub(super) use records::Room;
pub use records::{LogFate, LogSync, LogTicket, NewCopy};
use records::{OpenRecord, PendingCopy};
pub use segments::LogKeepers;
pub(super) use segments::{DirtySegment, is_dead_in};

type Hasher = foldhash::fast::FixedState;

/// How many copies a read of a block may need before the next one has all sectors, while there is room for copies.
///
/// A block that is written page by page has a copy a page, and one on its way: it never comes to this, in whatever order
/// and however often it is written. One that is written in smaller pieces does, and then so many flushes share one more
/// write of the block: less than a page each.
pub(super) fn chain_max(size: BlockSize) -> usize {
    (size.bytes() / PAGE_BYTES + 2).max(CHAIN_MAX_WHEN_SCARCE)
}

/// The same once half of the copies that there may be are in use: a few blocks with many must not keep others out.
// 64: then that costs a block of 1 MiB 16 KiB a flush at the most, and smaller ones less than a page.
const CHAIN_MAX_WHEN_SCARCE: usize = 64;

/// Sectors of a block of whatever size.
type Sectors = [u64; BlockSize::MAX_BYTES / SECTOR_BYTES / u64::BITS as usize];

const NO_SECTORS: Sectors = [0; BlockSize::MAX_BYTES / SECTOR_BYTES / u64::BITS as usize];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyState {
    /// The backing store does not have it.
    Dirty,
    /// The backing store has it, synced.
    Destaged,
    /// It cannot be read, and there is no other.
    Bad,
}

/// A durable copy, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LogCopy {
    /// Of its segment.
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

impl LogCopy {
    /// Whether it begins on this page of the segment of this generation.
    pub(super) fn is_at(&self, generation: u32, page: u32) -> bool {
        (self.generation, self.page) == (generation, page)
    }
}

/// Copies of one block, the newest first.
pub(super) type Copies = Vec<LogCopy>;

fn all_of(volume: VolumeId) -> RangeInclusive<BlockId> {
    BlockId::new(volume, 0)..=BlockId::new(volume, BlockId::NUMBER_LIMIT - 1)
}

fn ids_of(volume: VolumeId) -> Range<u64> {
    let all = all_of(volume);
    all.start().as_u64()..all.end().as_u64() + 1
}

pub(super) struct DirtyLog {
    size: BlockSize,
    segment_pages: u32,
    segments_max: usize,
    copies_max: u64,
    chains: Chains,
    /// Of the dirty copies in chains without a bad one.
    order: DestageOrder,
    /// Blocks with a bad copy.
    bad: BTreeSet<BlockId>,
    /// Blocks in `records`.
    pending: HashMap<BlockId, PendingCopy, Hasher>,
    /// Those that are not durable, up to `next_sequence`.
    records: VecDeque<OpenRecord>,
    /// Has all blocks of `chains` and `pending`; only while summaries are read.
    filter: Option<Arc<LogFilter>>,
    /// Blocks that came to the log since the filter is in use elsewhere too.
    late: HashSet<BlockId, Hasher>,
    pub(super) tombstones: Tombstones,
    pub(super) next_sequence: u64,
    pub(super) synced_through: u64,
    /// The first to go first; the last may be open.
    pub(super) segments: VecDeque<DirtySegment>,
    /// Where in it one was looked for last: copies of a record come one after another.
    last_used: usize,
    /// What was given up last is not in a checkpoint yet.
    must_restart: bool,
    /// The blocks of that.
    given_up: HashSet<BlockId, Hasher>,
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
            copies_max: geometry.log_copies_max(),
            chains: Chains::new(geometry.block_size),
            order: DestageOrder::default(),
            bad: BTreeSet::new(),
            pending: HashMap::default(),
            records: VecDeque::new(),
            filter: None,
            late: HashSet::default(),
            tombstones: Tombstones::default(),
            next_sequence: 1,
            synced_through: 0,
            segments: VecDeque::new(),
            last_used: 0,
            must_restart: false,
            given_up: HashSet::default(),
            given_up_from: Vec::new(),
        }
    }

    /// The file has another size, or will have.
    pub(super) fn set_capacity(&mut self, geometry: &Geometry) {
        (self.segments_max, self.copies_max) = (segments_max(geometry), geometry.log_copies_max());
    }

    /// RAM of what grows with the number of copies.
    pub(super) fn bytes(&self) -> u64 {
        let in_segments: usize = self.segments.iter().map(DirtySegment::bytes).sum();
        let pending = self.pending.len() * 2 * size_of::<(BlockId, PendingCopy)>();
        (self.chains.bytes() + self.order.bytes() + in_segments + pending) as u64
    }

    /// What the backing stores lack and can be given: blocks of an epoch, and tombstones.
    pub(super) fn dirty_count(&self) -> usize {
        self.order.count() + self.tombstones.len()
    }

    pub(super) fn dirty_count_of(&self, volume: VolumeId) -> usize {
        self.order.count_of(volume) + self.tombstones.of(volume).count()
    }

    /// Blocks of `volume` with a copy or a record under way.
    pub(super) fn blocks_of(&self, volume: VolumeId) -> Vec<BlockId> {
        self.blocks_within(&ids_of(volume))
    }

    /// Whether recovery might find anything of `volume`.
    pub(super) fn may_find_any_of(&self, volume: VolumeId) -> bool {
        !self.blocks_of(volume).is_empty() || self.has_given_up(&ids_of(volume))
    }

    pub(super) fn bad_blocks_of(&self, volume: VolumeId) -> Vec<BlockId> {
        self.bad.range(all_of(volume)).copied().collect()
    }

    pub(super) fn has_dirty(&self, volume: VolumeId) -> bool {
        self.order.first_epoch(volume).is_some()
            || self.bad.range(all_of(volume)).next().is_some()
            || self.tombstones.of(volume).next().is_some()
    }

    /// The share of the allowed segments that is in use, or of the allowed copies when that is larger.
    pub(super) fn load(&self) -> f64 {
        let used = self.segments.iter().map(|segment| u64::from(segment.next_page)).sum::<u64>();
        let of_segments = used as f64 / (self.segments_max as f64 * f64::from(self.segment_pages));
        of_segments.max(self.copy_count() as f64 / self.copies_max as f64)
    }

    /// Durable ones, and those on their way.
    fn copy_count(&self) -> u64 {
        (self.chains.len() + self.pending.len()) as u64
    }

    /// Copies are restored now, about so many, and summaries read then, until [`Self::end_scan`].
    pub(super) fn begin_scan(&mut self, copies: usize) {
        self.filter = Some(Arc::new(LogFilter::new(copies)));
        self.chains.reserve(copies);
    }

    pub(super) fn end_scan(&mut self) {
        self.filter = None;
        self.late = HashSet::default();
    }

    /// Which blocks were restored; of those that come to the log from now on it says nothing. None but between
    /// [`Self::begin_scan`] and [`Self::end_scan`].
    pub(super) fn restored(&self) -> Option<Arc<LogFilter>> {
        self.filter.clone()
    }

    /// Whether some came since.
    pub(super) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// The log is to have a copy of `block`.
    fn note(&mut self, block: BlockId) {
        match self.filter.as_mut().map(Arc::get_mut) {
            Some(Some(filter)) => filter.add(block),
            Some(None) => {
                self.late.insert(block);
            }
            None => {}
        }
    }

    /// Whether recovery might find a copy of `block`.
    pub(super) fn may_be_found(&self, block: BlockId) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_have(block) || self.late.contains(&block))
            && (self.chains.has(block) || self.pending.contains_key(&block))
    }

    /// Whether recovery might find a record of one of `ids` that was given up.
    pub(super) fn has_given_up(&self, ids: &Range<u64>) -> bool {
        self.given_up.iter().any(|block| ids.contains(&block.as_u64()))
    }

    /// Those of `ids` with a copy or a record under way, found without a look at the others when there are more of them.
    pub(super) fn blocks_within(&self, ids: &Range<u64>) -> Vec<BlockId> {
        let known_count = self.chains.block_count() + self.pending.len();
        if ids.end.saturating_sub(ids.start) <= known_count as u64 {
            let blocks = ids.clone().map(BlockId::from_u64);
            return blocks.filter(|&block| self.may_be_found(block)).collect();
        }
        let pending = self.pending.keys().copied().filter(|&block| !self.chains.has(block));
        let known: BTreeSet<BlockId> =
            self.chains.blocks().chain(pending).filter(|block| ids.contains(&block.as_u64())).collect();
        known.into_iter().collect()
    }

    /// Whether the backing store lacks something of `block`, or will by a record that is under way.
    pub(super) fn holds_back(&self, block: BlockId) -> bool {
        self.is_to_be_destaged(block) || self.bad.contains(&block)
    }

    /// The same, but for what cannot be read.
    pub(super) fn is_to_be_destaged(&self, block: BlockId) -> bool {
        let is_dirty = |id: CopyId| self.chains.state(id) == CopyState::Dirty;
        !self.bad.contains(&block) && self.chains.ids(block).any(is_dirty)
            || self.pending.contains_key(&block)
            || self.tombstones.covers(block)
    }

    pub(super) fn is_bad(&self, block: BlockId) -> bool {
        self.bad.contains(&block)
    }

    /// The first epoch of which the volume has dirty blocks.
    pub(super) fn first_epoch(&self, volume: VolumeId) -> Option<u64> {
        self.order.first_epoch(volume)
    }

    /// The last epoch of the volume of which anything is to be destaged; 0 when there is nothing.
    pub(super) fn last_epoch(&self, volume: VolumeId) -> u64 {
        let blocks = self.order.last_epoch(volume);
        self.tombstones.of(volume).map(|tombstone| tombstone.epoch).chain(blocks).max().unwrap_or(0)
    }

    /// Dirty blocks of one volume and epoch by address: from `from` on, the first run of neighbours, at most `count`.
    pub(super) fn dirty_run(&self, epoch: u64, from: BlockId, count: usize) -> Vec<BlockId> {
        self.order.run(epoch, from, count)
    }

    /// All dirty blocks, each with the epoch in which it goes below.
    pub(super) fn all_dirty(&self) -> Vec<(u64, BlockId)> {
        self.order.blocks().collect()
    }

    fn copies_of(&self, block: BlockId) -> Copies {
        self.chains.ids(block).map(|id| self.chains.copy(id)).collect()
    }

    /// The copies that a read of `block` is made of, each with sectors that no newer one has.
    pub(super) fn read_copies(&self, block: BlockId) -> Copies {
        self.read_ids(block).map(|id| self.chains.copy(id)).collect()
    }

    fn read_ids(&self, block: BlockId) -> impl Iterator<Item = CopyId> + '_ {
        let is_buried = self.tombstones.covers(block);
        let mut found = NO_SECTORS;
        self.chains.ids(block).filter(move |&id| {
            let is_hidden = is_buried && self.tombstones.bury(block, self.chains.head(id).version);
            let is_covered = self.chains.is_covered(id, &found);
            self.chains.add_sectors(id, &mut found);
            !is_hidden && !is_covered
        })
    }

    /// The copies of `block` that go below in this epoch.
    pub(super) fn copies_in(&self, block: BlockId, epoch: u64) -> Copies {
        let mut copies = self.dirty_copies(block);
        copies.retain(|copy| copy.epoch == epoch);
        copies
    }

    /// The copies of `block` that are to go below, the last one to do so first.
    pub(super) fn dirty_copies(&self, block: BlockId) -> Copies {
        let mut copies = self.copies_of(block);
        copies.retain(|copy| copy.state == CopyState::Dirty);
        copies
    }

    /// The sectors of `block` that reads take from the log and that the backing store lacks; none when there are none.
    pub(super) fn dirty_mask(&self, block: BlockId) -> Option<SectorMask> {
        let is_dirty = |id: &CopyId| self.chains.state(*id) != CopyState::Destaged;
        let mut dirty = self.read_ids(block).filter(is_dirty).peekable();
        dirty.peek()?;
        let mut all: SectorMask = vec![0; self.size.mask_words()].into();
        dirty.for_each(|id| self.chains.add_sectors(id, &mut all));
        Some(all)
    }

    /// The sectors that the next copy of `block` must have at least; none for any.
    pub(super) fn wanted_mask(&self, block: BlockId) -> Option<SectorMask> {
        let is_scarce = self.copy_count() * 2 >= self.copies_max;
        let most = if is_scarce { CHAIN_MAX_WHEN_SCARCE } else { chain_max(self.size) };
        let most = most - usize::from(self.pending.contains_key(&block));
        // Few chains are so long, and of those some copies may be of no use to a read.
        let is_long = self.chains.ids(block).nth(most - 1).is_some() && self.read_ids(block).count() >= most;
        let is_wanted = is_long || self.bad.contains(&block);
        if is_wanted { self.dirty_mask(block) } else { None }
    }

    /// Whether the copy of this version is still one that counts.
    pub(super) fn has_version(&self, block: BlockId, version: Version) -> bool {
        self.find_version(block, version).is_some()
    }

    fn find_version(&self, block: BlockId, version: Version) -> Option<CopyId> {
        self.chains.ids(block).find(|&id| self.chains.head(id).version == version)
    }
}

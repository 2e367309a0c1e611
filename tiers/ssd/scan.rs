//! The part of [`Ssd`] that finds clean copies again: the summaries of an opened file are read beside everything else.
//!
//! ```text
//! open_early --> plan_scan -> ScanPlan::run -> install what was found, in any number at once --> checkpoint: it is over
//!                (under the lock)  (without)     (see `install`)
//! ```
//!
//! Dirty blocks are known before the first call, and clean copies are never needed to be right: whatever is not found
//! yet is a miss. What must hold is that none is found which something newer has taken the place of:
//!
//! 1. While summaries are unread, a write, discard, forget or cold attach counts as having an old copy: it is noted here,
//!    so that `install` does not put it into the index, and in the journal, so that no later opening does.
//! 2. That goes on until a checkpoint that absorbs the journal is durable: a summary that could not be read now may be
//!    readable after a crash. Checkpoints before that absorb nothing (see `recover`) and list unread segments with the
//!    bits that the one before had of them.
//! 3. A copy in the log hides a clean one, which is older or the same. The segments of the log are not given back before
//!    that checkpoint, so nothing that hid a copy is gone when that copy is found.
//! 4. An unread segment is not free, and one that turns out to hold nothing only once its retirement is durable. None is
//!    emptied before all are read: their order is not known.
//! 5. The list of ids lately refused or evicted is read last, frame by frame, and put behind what came to it meanwhile.
//! 6. A block that is in the index when a copy of it is found was demoted meanwhile, and stays; or the file was damaged,
//!    since one opening leaves at most one copy that is believed: then neither is.
//!
//! | situation                                          | test                                                            |
//! |----------------------------------------------------|-----------------------------------------------------------------|
//! | written, discarded, forgotten, demoted meanwhile   | `tests/scan.rs`                                                  |
//! | crash in the middle, with any of these before it   | `tests/scan.rs`; `tests/crash_sweep`, the scripts that open early |
//! | beside reads and writes of other threads           | `tests/schedules.rs`                                             |

use std::sync::Arc;

use hashbrown::HashSet;

use crate::block::{BlockId, PAGE_BYTES, VolumeId};
use crate::device::Device;

use super::Ssd;
use super::checkpoint::GhostFrames;
use super::encoding::{Counters, GhostEntry};
use super::format::{Pages, Summary};
use super::id_ranges::IdRanges;
use super::index::Spread;
use super::install::PartState;
use super::log_filter::LogFilter;
use super::recover::Believed;
use super::slot_bits::FoundBits;
use super::table::New;

/// A plan has about so many slots, in at most so many segments.
// 16384: 256 blocks for each of 64 parts of the index, a few thousand instructions between two looks at the lock.
const SLOTS_A_PLAN: u32 = 16_384;
const SEGMENTS_A_PLAN: u32 = if cfg!(test) { 4 } else { 16 };
type Hasher = foldhash::fast::FixedState;

/// What is known of an opened file until everything it holds is.
pub(super) struct Scan {
    believed: Arc<Believed>,
    /// Those of the checkpoint that was believed.
    pub(super) counters: Counters,
    /// The last is next.
    unread: Vec<u32>,
    /// Unread, or planned and not installed in full.
    pub(super) left: u32,
    /// Sequence and segment.
    pub(super) sealed: Vec<(u64, u32)>,
    /// Segments of this generation or later are of this opening.
    pub(super) first_generation: u32,
    /// What the log had when the file was opened.
    logged: Option<Arc<LogFilter>>,
    /// Of the parts of the index.
    pub(super) parts: Vec<PartState>,
    pub(super) parts_lent: u32,
    /// Read after the last segment; none while a plan has them.
    pub(super) ghosts: Option<GhostFrames>,
    pub(super) ghosts_are_planned: bool,
    /// Whose copies are older than something of this opening.
    overwritten: HashSet<BlockId, Hasher>,
    overwritten_ranges: IdRanges,
}

/// Summaries to be read.
pub struct ScanPlan {
    believed: Arc<Believed>,
    logged: Option<Arc<LogFilter>>,
    spread: Spread,
    segments: Vec<u32>,
    ghosts: Option<GhostFrames>,
}

/// What [`ScanPlan::run`] found and [`Ssd::plan_install`] did not take yet.
pub struct Scanned {
    /// How many were read.
    pub(super) segment_count: u32,
    pub(super) segments: Vec<(u32, Option<Found>)>,
    /// The blocks in them, by parts of the index.
    pub(super) news: Vec<Vec<New>>,
    /// Those that the log may hide.
    pub(super) doubtful: Vec<New>,
    pub(super) ghosts: Option<FoundGhosts>,
}

/// Ghosts, and where there are more.
type FoundGhosts = (Vec<GhostEntry>, Option<GhostFrames>);

/// A believed segment.
pub(super) struct Found {
    pub(super) sequence: u64,
    pub(super) generation: u32,
    pub(super) slots_used: u32,
    pub(super) bits: FoundBits,
}

impl Scan {
    pub(super) fn new(
        believed: Believed,
        counters: Counters,
        mut unread: Vec<u32>,
        logged: Option<Arc<LogFilter>>,
        spread: Spread,
    ) -> Self {
        let first_generation = believed.next_generation;
        // First what may turn out to be free, then what was written last.
        unread.sort_by_cached_key(|&segment| match believed.checkpointed_generation(segment) {
            0 => (1, 0, u32::MAX - segment),
            generation => (0, generation, 0),
        });
        Self {
            believed: Arc::new(believed),
            counters,
            left: unread.len() as u32,
            unread,
            sealed: Vec::new(),
            first_generation,
            logged,
            parts: (0..spread.parts()).map(|_| PartState::default()).collect(),
            parts_lent: 0,
            ghosts: None,
            ghosts_are_planned: false,
            overwritten: HashSet::default(),
            overwritten_ranges: IdRanges::default(),
        }
    }

    /// What tells the copies of before that are believed from the others.
    pub(super) fn believed(&self) -> &Believed {
        &self.believed
    }

    pub(super) fn is_over(&self) -> bool {
        self.left == 0 && self.parts_lent == 0 && self.ghosts.is_none() && !self.ghosts_are_planned
    }

    /// Nothing of before may be used of `block`. True when recovery might still find something.
    pub(super) fn void(&mut self, block: BlockId) -> bool {
        let may_be_found = self.believed.volumes.contains(block.volume());
        if may_be_found && !self.is_over() {
            self.overwritten.insert(block);
        }
        may_be_found
    }

    fn void_range(&mut self, first: u64, count: u64) -> bool {
        if !self.is_over() {
            self.overwritten_ranges.insert(first, count);
        }
        count > 0
    }

    /// Whether something of this opening took the place of what may still be found.
    pub(super) fn has_void(&self) -> bool {
        !self.overwritten.is_empty() || !self.overwritten_ranges.is_empty()
    }

    pub(super) fn is_void(&self, block: BlockId) -> bool {
        !self.overwritten.is_empty() && self.overwritten.contains(&block)
            || self.overwritten_ranges.contains(block.as_u64())
    }
}

impl ScanPlan {
    /// Reads the summaries and judges what they name. Those that cannot be read are as good as none.
    pub fn run(&self, device: &dyn Device) -> Scanned {
        let mut pages = Pages::new(self.believed.geometry.summary_bytes() as usize);
        let (mut news, mut doubtful) = (self.empty_news(), Vec::new());
        let read = |&segment: &u32| {
            let summary = read_summary(device, &self.believed, segment, &mut pages);
            (segment, summary.map(|summary| self.judge(&summary, &mut news, &mut doubtful)))
        };
        let segments: Vec<(u32, Option<Found>)> = self.segments.iter().map(read).collect();
        let ghosts = self.ghosts.map(|ghosts| ghosts.read(device).unwrap_or_default());
        Scanned { segment_count: segments.len() as u32, segments, news, doubtful, ghosts }
    }

    /// A list for each part, with room for its share of what may be found.
    fn empty_news(&self) -> Vec<Vec<New>> {
        let slots = self.segments.len() * self.believed.geometry.slots_per_segment as usize;
        let share = slots / self.spread.parts();
        (0..self.spread.parts()).map(|_| Vec::with_capacity(share + share / 4)).collect()
    }

    /// Puts what is believed of a summary to `news`, and to `doubtful` what the log may hide.
    fn judge(&self, summary: &Summary, news: &mut [Vec<New>], doubtful: &mut Vec<New>) -> Found {
        let geometry = &self.believed.geometry;
        let mut bits = FoundBits::new(geometry);
        for entry in self.believed.survivors(summary) {
            bits.put(entry.slot, entry.flags);
            let place = geometry.place(summary.segment, entry.slot);
            let new = New { block: entry.block, place, crc: entry.crc };
            if self.logged.as_ref().is_some_and(|logged| logged.may_have(new.block)) {
                doubtful.push(new);
            } else {
                news[self.spread.part_of(new.block)].push(new);
            }
        }
        let Summary { sequence, generation, slots_used, .. } = *summary;
        Found { sequence, generation, slots_used, bits }
    }
}

/// The believed summary of `segment`, by way of `pages`; none when there is none, or it cannot be read.
pub(super) fn read_summary(
    device: &dyn Device,
    believed: &Believed,
    segment: u32,
    pages: &mut Pages,
) -> Option<Summary> {
    let (geometry, file_id) = (&believed.geometry, believed.file_id);
    let offset = geometry.summary_offset(segment);
    // Where there is probably none, one page tells.
    let first = if believed.is_checkpointed(segment) { pages.len() } else { PAGE_BYTES };
    device.read(offset, &mut [std::io::IoSliceMut::new(&mut pages[..first])]).ok()?;
    let generation = Summary::peek_generation(pages, file_id, segment)?;
    if !believed.believes(segment, generation) {
        return None;
    }
    if first < pages.len() {
        let rest = std::io::IoSliceMut::new(&mut pages[first..]);
        device.read(offset + first as u64, &mut [rest]).ok()?;
    }
    Summary::from_bytes(pages, file_id, segment, geometry.slots_per_segment)
}

impl Ssd {
    /// The next summaries to be read, and ghosts after them; none when all are, or are under way. Any number of plans may
    /// be under way.
    pub fn plan_scan(&mut self) -> Option<ScanPlan> {
        let count_max = (SLOTS_A_PLAN / self.geometry.slots_per_segment).clamp(1, SEGMENTS_A_PLAN) as usize;
        let spread = self.index.spread();
        let scan = self.scan.as_mut()?;
        let count = scan.unread.len().min(count_max);
        let segments: Vec<u32> = (0..count).filter_map(|_| scan.unread.pop()).collect();
        let ghosts = if segments.is_empty() { scan.ghosts.take() } else { None };
        scan.ghosts_are_planned |= ghosts.is_some();
        (count > 0 || ghosts.is_some()).then(|| ScanPlan {
            believed: scan.believed.clone(),
            logged: scan.logged.clone(),
            spread,
            segments,
            ghosts,
        })
    }

    /// Everything is read.
    pub(super) fn end_scan(&mut self) {
        let Some(scan) = &mut self.scan else { return };
        scan.sealed.sort_unstable();
        (scan.overwritten, scan.overwritten_ranges) = Default::default();
        self.dirty.end_scan();
        self.log.restore_order(std::mem::take(&mut scan.sealed).into_iter().map(|(_, segment)| segment));
        self.fills = self.log.has_room();
    }

    /// Reads all summaries, on this thread.
    pub(super) fn scan_all(&mut self, device: &dyn Device) {
        while let Some(plan) = self.plan_scan() {
            self.finish_scan(plan.run(device));
        }
    }

    /// Whether an opened file is not as if it had been open all the time: summaries are unread, or no checkpoint says that
    /// all are read.
    pub fn is_recovering(&self) -> bool {
        self.scan.is_some()
    }

    /// Whether summaries are unread.
    pub fn is_scanning(&self) -> bool {
        self.scan.as_ref().is_some_and(|scan| !scan.is_over())
    }

    /// Segments of which it is not known yet what they hold.
    pub(super) fn segments_unread(&self) -> u64 {
        self.scan.as_ref().map_or(0, |scan| scan.left.into())
    }

    /// Takes the copy of `block` out, for something newer. True when recovery might still find one.
    pub(super) fn void_copy(&mut self, block: BlockId) -> bool {
        let is_unread = self.void_unread(block);
        self.drop_copy(block) || is_unread
    }

    /// What summaries may name of `block` is out of date. True when recovery might still find it.
    pub(super) fn void_unread(&mut self, block: BlockId) -> bool {
        self.scan.as_mut().is_some_and(|scan| scan.void(block))
    }

    /// The same for these blocks.
    pub(super) fn void_unread_range(&mut self, first: u64, count: u64) -> bool {
        self.scan.as_mut().is_some_and(|scan| scan.void_range(first, count))
    }

    /// The same for all blocks of `volume`.
    pub(super) fn void_unread_of(&mut self, volume: VolumeId) {
        self.void_unread_range(BlockId::new(volume, 0).as_u64(), BlockId::NUMBER_LIMIT);
    }
}

//! The part of [`Ssd`] that finds clean copies again: the summaries of an opened file are read beside everything else.
//!
//! ```text
//! open_early --> plan_scan -> ScanPlan::run -> finish_scan, in any number at once --> checkpoint: it is over
//!                (under the lock)  (without)     (under the lock)
//! ```
//!
//! Dirty blocks are known before the first call, and clean copies are never needed to be right: whatever is not found
//! yet is a miss. What must hold is that none is found which something newer has taken the place of:
//!
//! 1. While summaries are unread, a write, discard, forget or cold attach counts as having an old copy: it is noted here,
//!    so that [`Ssd::finish_scan`] does not install it, and in the journal, so that no later opening does.
//! 2. That goes on until a checkpoint that absorbs the journal is durable: a summary that could not be read now may be
//!    readable after a crash. Checkpoints before that absorb nothing (see `recover`) and list unread segments with the
//!    bits that the one before had of them.
//! 3. A copy in the log hides a clean one, which is older or the same. The segments of the log are not given back before
//!    that checkpoint, so nothing that hid a copy is gone when that copy is found.
//! 4. An unread segment is not free, and one that turns out to hold nothing only once its retirement is durable. None is
//!    emptied before all are read: their order is not known.
//! 5. A block that is in the index when a copy of it is found was demoted meanwhile, and stays; or the file was damaged,
//!    since one opening leaves at most one copy that is believed: then neither is.
//!
//! | situation                                          | test                                                            |
//! |----------------------------------------------------|-----------------------------------------------------------------|
//! | written, discarded, forgotten, demoted meanwhile   | `tests/scan.rs`                                                  |
//! | crash in the middle, with any of these before it   | `tests/scan.rs`; `tests/crash_sweep`, the scripts that open early |
//! | beside reads and writes of other threads           | `tests/schedules.rs`                                             |

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::block::{BlockId, PAGE_BYTES, VolumeId};
use crate::device::Device;

use super::encoding::{self, Counters, JournalEntry};
use super::format::{Pages, Summary};
use super::index::{FETCHED, New};
use super::recover::Believed;
use super::{Entry, Ssd};

/// A plan has about so many slots: what is installed under the lock takes a fraction of a millisecond.
const SLOTS_A_PLAN: u32 = 4096;
const SEGMENTS_A_PLAN: u32 = 4;
type Hasher = foldhash::fast::FixedState;

/// What is known of an opened file until everything it holds is.
pub(super) struct Scan {
    believed: Arc<Believed>,
    /// Those of the checkpoint that was believed.
    pub(super) counters: Counters,
    /// The last is next.
    unread: Vec<u32>,
    /// Unread, or planned and not finished.
    left: u32,
    /// Sequence and segment.
    sealed: Vec<(u64, u32)>,
    /// Segments of this generation or later are of this opening.
    first_generation: u32,
    /// Whose copies are older than something of this opening.
    overwritten: HashSet<BlockId, Hasher>,
    overwritten_ranges: IdRanges,
}

/// Summaries to be read.
pub struct ScanPlan {
    believed: Arc<Believed>,
    segments: Vec<u32>,
}

/// What [`ScanPlan::run`] found.
pub struct Scanned {
    segments: Vec<(u32, Option<Found>)>,
}

/// A believed segment.
struct Found {
    sequence: u64,
    generation: u32,
    slots_used: u32,
    survivors: Vec<Entry>,
}

impl Scan {
    pub(super) fn new(believed: Believed, counters: Counters, mut unread: Vec<u32>) -> Self {
        let first_generation = believed.next_generation;
        // First what may turn out to be free, then what was written last.
        unread.sort_by_key(|&segment| match believed.checkpointed_generation(segment) {
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
            overwritten: HashSet::default(),
            overwritten_ranges: IdRanges::default(),
        }
    }

    /// What tells the copies of before that are believed from the others.
    pub(super) fn believed(&self) -> &Believed {
        &self.believed
    }

    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Nothing of before may be used of `block`. True when recovery might still find something.
    fn void(&mut self, block: BlockId) -> bool {
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

    fn is_void(&self, block: BlockId) -> bool {
        !self.overwritten.is_empty() && self.overwritten.contains(&block)
            || self.overwritten_ranges.contains(block.as_u64())
    }
}

impl ScanPlan {
    /// Reads the summaries and judges what they name. Those that cannot be read are as good as none.
    pub fn run(&self, device: &dyn Device) -> Scanned {
        let mut pages = Pages::new(self.believed.geometry.summary_bytes() as usize);
        let read = |&segment: &u32| {
            let summary = read_summary(device, &self.believed, segment, &mut pages);
            let found = summary.map(|summary| Found {
                sequence: summary.sequence,
                generation: summary.generation,
                slots_used: summary.slots_used,
                survivors: self.believed.survivors(&summary),
            });
            (segment, found)
        };
        Scanned { segments: self.segments.iter().map(read).collect() }
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
    /// The next summaries to be read; none when all are, or are under way. Any number of plans may be under way.
    pub fn plan_scan(&mut self) -> Option<ScanPlan> {
        let count_max = (SLOTS_A_PLAN / self.geometry.slots_per_segment).clamp(1, SEGMENTS_A_PLAN) as usize;
        let scan = self.scan.as_mut()?;
        let count = scan.unread.len().min(count_max);
        let segments: Vec<u32> = (0..count).filter_map(|_| scan.unread.pop()).collect();
        (count > 0).then(|| ScanPlan { believed: scan.believed.clone(), segments })
    }

    /// Summaries of a plan were read: their copies are found from now on, but for those that are out of date.
    pub fn finish_scan(&mut self, scanned: Scanned) {
        for (segment, found) in scanned.segments {
            match found {
                Some(found) => self.install_found(segment, &found),
                None => self.give_back(segment),
            }
            let scan = self.scan.as_mut().expect("a scan is there until all of its plans are finished");
            scan.left -= 1;
        }
        if self.scan.as_ref().is_some_and(Scan::is_over) {
            self.end_scan();
        }
    }

    /// Nothing is found in `segment`. A checkpoint may list it still, so that an opening would look for nothing else there.
    fn give_back(&mut self, segment: u32) {
        match self.log.segments[segment as usize].generation {
            0 => self.log.restore_free(segment),
            generation => {
                let seq = self.queue(JournalEntry::Retire { segment, generation });
                self.log.restore_retired(segment, seq);
            }
        }
    }

    fn install_found(&mut self, segment: u32, found: &Found) {
        let Found { sequence, generation, slots_used, ref survivors } = *found;
        self.log.restore_sealed(segment, generation, slots_used);
        if let Some(scan) = &mut self.scan {
            scan.sealed.push((sequence, segment));
        }
        let mut news = Vec::with_capacity(FETCHED);
        for some in survivors.chunks(FETCHED) {
            news.clear();
            for entry in some {
                if self.is_wanted(segment, generation, entry) {
                    let place = self.log.place(segment, entry.slot);
                    news.push(New { block: entry.block, place, crc: entry.crc });
                    self.log.bits.restore(segment, entry.slot, entry.flags);
                }
            }
            let mut rivals = Vec::new();
            self.index.insert_all(&news, |number, known| rivals.push((news[number], known.place)));
            for (new, known) in rivals {
                self.log.drop_copy(new.place);
                self.settle_rival(new.block, known);
            }
        }
    }

    /// Whether nothing takes the place of this copy; what the log hides is void.
    fn is_wanted(&mut self, segment: u32, generation: u32, entry: &Entry) -> bool {
        if self.scan.as_ref().is_some_and(|scan| scan.is_void(entry.block)) {
            return false;
        }
        let is_hidden = self.dirty.may_be_found(entry.block);
        if is_hidden {
            // The log's copy may be gone at the next opening.
            self.queue(JournalEntry::VoidSlot { segment, generation, slot: entry.slot });
        }
        !is_hidden
    }

    /// A second copy of `block` was found; the first is in `place`.
    fn settle_rival(&mut self, block: BlockId, place: super::Place) {
        let (segment, _) = self.log.segment_and_slot(place);
        let scan = self.scan.as_mut().expect("there is a scan");
        if self.log.segments[segment as usize].generation >= scan.first_generation {
            return;
        }
        scan.void(block);
        self.drop_copy(block);
        let version = self.first_version();
        self.queue(encoding::void(block, version));
    }

    /// Everything is read.
    pub(super) fn end_scan(&mut self) {
        let Some(scan) = &mut self.scan else { return };
        scan.sealed.sort_unstable();
        (scan.overwritten, scan.overwritten_ranges) = Default::default();
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

/// Ranges of ids, disjoint and not neighbours: the first of each, and its last.
#[derive(Default)]
struct IdRanges {
    ranges: BTreeMap<u64, u64>,
}

impl IdRanges {
    fn insert(&mut self, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (mut first, mut last) = (first, first.saturating_add(count - 1));
        // What overlaps or touches becomes part of it.
        let around = self.ranges.range(..=last.saturating_add(1)).rev();
        let touched: Vec<(u64, u64)> = around
            .take_while(|&(_, &end)| end >= first.saturating_sub(1))
            .map(|(&start, &end)| (start, end))
            .collect();
        for (start, end) in touched {
            self.ranges.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.ranges.insert(first, last);
    }

    fn contains(&self, id: u64) -> bool {
        !self.ranges.is_empty() && self.ranges.range(..=id).next_back().is_some_and(|(_, &last)| last >= id)
    }
}

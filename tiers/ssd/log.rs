//! Segments, and the slots in them: who is written to, who is next to go.
//!
//! ```text
//!            open                     all slots written          plan_reclaim         finish_reclaim, and the
//!   Free ----------> Open --closed--> Sealing ----> Sealed ------> Reclaiming ----> retirement durable --> Free
//!    ^  prepare
//!    +------------ Preparing
//!
//!   Unread ----> Sealed, or Free     (see `scan`)
//! ```
//!
//! A slot is handed out once in a generation of its segment, in ascending order, to one of two streams: `Clean` for
//! blocks from RAM, `Reinserted` for those kept from a segment that is emptied. A segment is closed when its last slot is
//! handed out, or by `close_open`; it is sealed when nothing is in flight to it any more. Blocks newer than the backing
//! store have segments of their own (`Dirty`), without slots: see `dirty_log`.
//!
//! Invariants:
//! 1. A generation is given to one opening of one segment, ever.
//! 2. `fifo` has the sealing and sealed segments, in the order in which they were closed for good: the first is the
//!    next to go. So the order does not depend on when a summary was written.
//! 3. `used_slots` counts the slots handed out in all segments that are open, sealing or sealed.
//! 4. A live bit is 1 in slots not handed out yet, so that a checkpoint of an open segment voids nothing to come.
//! 5. Only [`Log::take_free`] takes segments off `free`, and a clean stream never the last one.

use std::collections::{BTreeMap, VecDeque};

use crate::block::{BlockId, Version};

use super::encoding::SegmentEntry;
use super::format::Summary;
use super::geometry::Geometry;
use super::journal::Seq;
use super::plan::{Entry, SlotPlan};
use super::segment::{Segment, State, Stream};
use super::slot_bits::{FoundBits, SlotBits};
use super::table::Place;

/// Segments that only reinsertion may open, so that reclaim can always go on.
const RESERVED_SEGMENTS: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Planned,
    Written,
    Dead,
}

/// What becomes a summary.
pub(super) struct Draft {
    stream: Stream,
    slots: Vec<(Entry, Slot)>,
    in_flight: u32,
    pub(super) is_closed: bool,
}

/// An emptied segment on its way to `Free`.
struct Retiring {
    segment: u32,
    /// Durable when the journal is durable up to here.
    seq: Seq,
    /// Kept blocks that are not finished yet.
    moves: usize,
    is_finished: bool,
}

pub(super) struct Log {
    pub(super) geometry: Geometry,
    pub(super) file_id: u64,
    pub(super) segments: Vec<Segment>,
    /// Segments from this on are not handed out: they are not on the device yet, or are to go from there.
    pub(super) usable: u32,
    /// Reclaim empties those first.
    pub(super) is_shrinking: bool,
    pub(super) free: VecDeque<u32>,
    fifo: VecDeque<u32>,
    pub(super) open: [Option<u32>; Stream::COUNT],
    pub(super) drafts: BTreeMap<u32, Draft>,
    retiring: Vec<Retiring>,
    /// Segments of the dirty stream.
    dirty_count: usize,
    pub(super) bits: SlotBits,
    used_slots: u64,
    pub(super) next_generation: u32,
    pub(super) next_sequence: u64,
    /// What is in sealed segments, in a simulated tier only.
    kept: Option<BTreeMap<u32, Kept>>,
}

/// The blocks of a segment and their slots: all that a simulated tier, which has no summaries, needs to empty it.
struct Kept {
    blocks: Box<[BlockId]>,
    slots: Box<[u32]>,
}

impl Log {
    pub(super) fn new(geometry: Geometry, file_id: u64, keeps_entries: bool) -> Self {
        let count = geometry.segment_count as usize;
        Self {
            geometry,
            file_id,
            segments: vec![Segment::UNUSED; count],
            usable: geometry.segment_count,
            is_shrinking: false,
            free: (0..geometry.segment_count).collect(),
            fifo: VecDeque::new(),
            open: [None; Stream::COUNT],
            drafts: BTreeMap::new(),
            retiring: Vec::new(),
            dirty_count: 0,
            bits: SlotBits::new(&geometry),
            used_slots: 0,
            next_generation: 1,
            next_sequence: 1,
            kept: keeps_entries.then(BTreeMap::new),
        }
    }

    /// RAM of what grows with the number of slots and segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bits.bytes() + (self.segments.len() * (size_of::<Segment>() + 2 * 4)) as u64
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Whether there is not one free segment more than each stream may open next.
    pub(super) fn is_short(&self) -> bool {
        self.free.len() <= RESERVED_SEGMENTS + Stream::COUNT
    }

    pub(super) fn place(&self, segment: u32, slot: u32) -> Place {
        self.geometry.place(segment, slot)
    }

    pub(super) fn segment_and_slot(&self, place: Place) -> (u32, u32) {
        (place / self.geometry.slots_per_segment, place % self.geometry.slots_per_segment)
    }

    /// A slot for `block` in the open segment of `stream`; none when no segment is free to be opened.
    pub(super) fn allocate(&mut self, stream: Stream, block: BlockId, version: Version) -> Option<SlotPlan> {
        let segment = match self.open[stream as usize] {
            Some(segment) => segment,
            None => self.open_segment(stream)?,
        };
        let draft = self.drafts.get_mut(&segment).expect("an open segment has a draft");
        let slot = draft.slots.len() as u32;
        draft.slots.push((Entry { block, version, crc: 0, slot, flags: 0 }, Slot::Planned));
        draft.in_flight += 1;
        if slot + 1 == self.geometry.slots_per_segment {
            draft.is_closed = true;
            self.open[stream as usize] = None;
        }
        self.used_slots += 1;
        self.segments[segment as usize].slots_used += 1;
        let generation = self.segments[segment as usize].generation;
        let offset = self.geometry.slot_offset(segment, slot);
        Some(SlotPlan { block, version, segment, generation, slot, offset, file_id: self.file_id })
    }

    fn open_segment(&mut self, stream: Stream) -> Option<u32> {
        let reserved = if stream == Stream::Clean { RESERVED_SEGMENTS } else { 0 };
        let (segment, _) = self.start_generation(reserved, State::Open)?;
        self.bits.open(segment);
        let slots = Vec::with_capacity(self.geometry.slots_per_segment as usize);
        self.drafts.insert(segment, Draft { stream, slots, in_flight: 0, is_closed: false });
        self.open[stream as usize] = Some(segment);
        Some(segment)
    }

    /// A segment for the dirty stream, with its generation.
    pub(super) fn open_dirty(&mut self) -> Option<(u32, u32)> {
        let opened = self.start_generation(RESERVED_SEGMENTS, State::Dirty)?;
        self.dirty_count += 1;
        Some(opened)
    }

    /// Nothing keeps a segment of the dirty stream: it is free once the journal is durable up to `seq`.
    pub(super) fn retire_dirty(&mut self, segment: u32, seq: Seq) {
        self.segments[segment as usize].state = State::Reclaiming;
        self.dirty_count -= 1;
        self.retiring.push(Retiring { segment, seq, moves: 0, is_finished: true });
    }

    pub(super) fn restore_dirty(&mut self, segment: u32, generation: u32) {
        self.segments[segment as usize] =
            Segment { state: State::Dirty, is_prepared: true, generation, slots_used: 0 };
        self.dirty_count += 1;
    }

    /// Takes a free segment into use.
    fn start_generation(&mut self, reserved: usize, state: State) -> Option<(u32, u32)> {
        let segment = self.take_free(reserved)?;
        let generation = self.next_generation;
        self.next_generation =
            generation.checked_add(1).expect("recovery refuses a file near the last generation");
        self.segments[segment as usize] = Segment { state, is_prepared: false, generation, slots_used: 0 };
        Some((segment, generation))
    }

    fn take_free(&mut self, reserved: usize) -> Option<u32> {
        if self.free.len() > reserved { self.free.pop_front() } else { None }
    }

    /// A planned slot was written (with this checksum), or it is dead. False when the plan is of another generation.
    pub(super) fn settle(&mut self, plan: &SlotPlan, crc: Option<u32>) -> bool {
        if self.segments[plan.segment as usize].generation != plan.generation {
            return false;
        }
        let Some(draft) = self.drafts.get_mut(&plan.segment) else { return false };
        let Some((entry, slot)) = draft.slots.get_mut(plan.slot as usize) else { return false };
        draft.in_flight -= 1;
        match crc {
            Some(crc) => (entry.crc, *slot) = (crc, Slot::Written),
            None => *slot = Slot::Dead,
        }
        true
    }

    /// Takes the copy in `place` out. True when recovery might find it, so that the journal must know.
    pub(super) fn drop_copy(&mut self, place: Place) -> bool {
        let (segment, slot) = self.segment_and_slot(place);
        self.bits.set_dead(segment, slot);
        if let Some(draft) = self.draft_of(segment) {
            // What is still in flight becomes dead when it is finished: the index does not point to it any more.
            let state = &mut draft.slots[slot as usize].1;
            if *state == Slot::Written {
                *state = Slot::Dead;
            }
            return false;
        }
        match self.segments[segment as usize].state {
            State::Sealing | State::Sealed => true,
            // Once it is retired the journal says so of all its copies.
            State::Reclaiming => !self.is_retired(segment),
            State::Free | State::Preparing | State::Open => false,
            State::Unread | State::Dirty => unreachable!("the index names no copy there"),
        }
    }

    /// Whether the data in `place` are on the device, or at least were given to it.
    pub(super) fn is_written(&self, place: Place) -> bool {
        let (segment, slot) = self.segment_and_slot(place);
        self.segments[segment as usize].state != State::Open
            || self.drafts[&segment].slots[slot as usize].1 == Slot::Written
    }

    fn draft_of(&mut self, segment: u32) -> Option<&mut Draft> {
        if self.segments[segment as usize].state == State::Open {
            self.drafts.get_mut(&segment)
        } else {
            None
        }
    }

    pub(super) fn hit_count(&self, place: Place) -> u32 {
        let (segment, slot) = self.segment_and_slot(place);
        self.bits.hit_count(segment, slot)
    }

    /// One more hit of the copy in `place`, up to `max`.
    pub(super) fn hit(&mut self, place: Place, max: u32) {
        let (segment, slot) = self.segment_and_slot(place);
        self.bits.hit(segment, slot, max);
    }

    /// The summary of `segment` if it is closed and nothing is in flight to it; it is sealing from now on.
    pub(super) fn seal_if_complete(&mut self, segment: u32) -> Option<Summary> {
        if !self.drafts.get(&segment).is_some_and(|draft| draft.is_closed && draft.in_flight == 0) {
            return None;
        }
        let draft = self.drafts.remove(&segment)?;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.segments[segment as usize].state = State::Sealing;
        self.fifo.push_back(segment);
        let entries: Vec<Entry> = draft
            .slots
            .iter()
            .filter(|(_, slot)| *slot == Slot::Written)
            .map(|(entry, _)| Entry { flags: self.bits.hit_count(segment, entry.slot), ..*entry })
            .collect();
        if let Some(kept) = &mut self.kept {
            let blocks = entries.iter().map(|entry| entry.block).collect();
            kept.insert(segment, Kept { blocks, slots: entries.iter().map(|entry| entry.slot).collect() });
        }
        let Segment { generation, slots_used, .. } = self.segments[segment as usize];
        let (file_id, stream) = (self.file_id, draft.stream);
        Some(Summary { file_id, segment, generation, sequence, stream, slots_used, entries })
    }

    /// Closes the open segments as they are, and names all that are not sealed yet.
    pub(super) fn close_open(&mut self) -> Vec<u32> {
        self.open = [None; Stream::COUNT];
        for draft in self.drafts.values_mut() {
            draft.is_closed = true;
        }
        let mut closed: Vec<u32> = self.drafts.keys().copied().collect();
        closed.sort_unstable_by_key(|&segment| self.segments[segment as usize].generation);
        closed
    }

    pub(super) fn finish_seal(&mut self, segment: u32, generation: u32) {
        let segment = &mut self.segments[segment as usize];
        if segment.generation == generation && segment.state == State::Sealing {
            segment.state = State::Sealed;
        }
    }

    /// The segment to be emptied now, which is out of the queue with this call; none when there is room enough or
    /// the first in the queue still waits for its summary.
    pub(super) fn take_victim(&mut self) -> Option<u32> {
        let in_use = self.fifo.len() + self.drafts.len() + self.dirty_count;
        let is_over = self.used_slots > self.geometry.capacity_blocks()
            || in_use > self.geometry.capacity_segments as usize + Stream::COUNT;
        let first = self.first_leaving().or_else(|| is_over.then_some(0));
        let (at, &segment) = first.and_then(|at| Some((at, self.fifo.get(at)?)))?;
        if self.segments[segment as usize].state != State::Sealed {
            return None;
        }
        self.fifo.remove(at);
        self.segments[segment as usize].state = State::Reclaiming;
        self.used_slots -= u64::from(self.segments[segment as usize].slots_used);
        Some(segment)
    }

    /// Where in the queue the first sealed segment is that is to go from the device.
    fn first_leaving(&self) -> Option<usize> {
        let is_leaving =
            |&segment: &u32| segment >= self.usable && self.segments[segment as usize].state == State::Sealed;
        if self.is_shrinking { self.fifo.iter().position(is_leaving) } else { None }
    }

    /// The blocks that a simulated tier kept of `segment`, and their slots; it knows no versions and no checksums.
    pub(super) fn kept_entries(&self, segment: u32) -> Vec<Entry> {
        let kept = self.kept.as_ref().and_then(|kept| kept.get(&segment));
        let entry = |(&block, &slot)| Entry { block, version: Version::ZERO, crc: 0, slot, flags: 0 };
        kept.map_or(Vec::new(), |kept| kept.blocks.iter().zip(&kept.slots).map(entry).collect())
    }

    /// Whether `segment` was taken as a victim in this generation and is not retired yet.
    pub(super) fn is_victim(&self, segment: u32, generation: u32) -> bool {
        let is_reclaiming = self.segments[segment as usize].state == State::Reclaiming;
        is_reclaiming && self.segments[segment as usize].generation == generation && !self.is_retired(segment)
    }

    fn is_retired(&self, segment: u32) -> bool {
        self.retiring.iter().any(|retiring| retiring.segment == segment)
    }

    /// The generation of `segment` if recovery may believe its summary, 0 otherwise.
    pub(super) fn believed_generation(&self, segment: u32) -> u32 {
        let Segment { state, generation, .. } = self.segments[segment as usize];
        match state {
            State::Free | State::Preparing => 0,
            State::Reclaiming if self.is_retired(segment) => 0,
            State::Unread
            | State::Open
            | State::Sealing
            | State::Sealed
            | State::Reclaiming
            | State::Dirty => generation,
        }
    }

    /// `segment` is out of recovery once the journal is durable up to `seq`.
    pub(super) fn retire(&mut self, segment: u32, seq: Seq) {
        self.retiring.push(Retiring { segment, seq, moves: 0, is_finished: false });
    }

    /// So many blocks of the retired `segment` are on their way to another place.
    pub(super) fn start_moves(&mut self, segment: u32, count: usize) {
        for retiring in self.retiring.iter_mut().filter(|retiring| retiring.segment == segment) {
            retiring.moves += count;
        }
    }

    pub(super) fn finish_move(&mut self, segment: u32, generation: u32) {
        if self.segments[segment as usize].generation == generation {
            for retiring in self.retiring.iter_mut().filter(|retiring| retiring.segment == segment) {
                retiring.moves = retiring.moves.saturating_sub(1);
            }
        }
    }

    /// The segment may be freed. True when moves out of it were never finished, so that the index may still name it.
    pub(super) fn finish_reclaim(&mut self, segment: u32, generation: u32) -> bool {
        let is_same = self.segments[segment as usize].generation == generation;
        let mut is_named = false;
        for retiring in self.retiring.iter_mut().filter(|retiring| is_same && retiring.segment == segment) {
            retiring.is_finished = true;
            is_named |= retiring.moves > 0;
        }
        is_named
    }

    /// Frees what is emptied and durably out of recovery.
    pub(super) fn free_retired(&mut self, durable: Seq) {
        let (free, segments, kept) = (&mut self.free, &mut self.segments, &mut self.kept);
        let usable = self.usable;
        self.retiring.retain(|retiring| {
            let is_free = retiring.is_finished && retiring.seq <= durable;
            if is_free {
                let segment = &mut segments[retiring.segment as usize];
                (segment.state, segment.is_prepared) = (State::Free, true);
                if retiring.segment < usable {
                    free.push_back(retiring.segment);
                }
                if let Some(kept) = kept {
                    kept.remove(&retiring.segment);
                }
            }
            !is_free
        });
    }

    /// A free segment that was never written, out of the free ones until [`Self::finish_prepare`].
    pub(super) fn plan_prepare(&mut self) -> Option<u32> {
        // Not the next ones to be opened: they are written through by use.
        if self.free.len() <= RESERVED_SEGMENTS + 2 * Stream::COUNT {
            return None;
        }
        let at = self.free.iter().rposition(|&segment| !self.segments[segment as usize].is_prepared)?;
        let segment = self.free.remove(at)?;
        self.segments[segment as usize].state = State::Preparing;
        Some(segment)
    }

    pub(super) fn finish_prepare(&mut self, segment: u32) {
        if self.segments[segment as usize].state == State::Preparing {
            (self.segments[segment as usize].state, self.segments[segment as usize].is_prepared) =
                (State::Free, true);
            if segment < self.usable {
                self.free.push_back(segment);
            }
        }
    }

    /// What `segment` holds is not known yet, unless it is of the dirty stream; `known` is what the checkpoint says of it.
    pub(super) fn restore_unread(&mut self, segment: u32, known: Option<&SegmentEntry>) {
        let here = &mut self.segments[segment as usize];
        if here.state == State::Dirty {
            return;
        }
        (here.state, here.generation) = (State::Unread, known.map_or(0, |known| known.generation));
        if let Some(known) = known {
            self.bits.load(segment, &known.live, &known.hits);
        }
    }

    /// Takes what is not free out of the free ones, after the last [`Self::restore_unread`].
    pub(super) fn take_out_of_free(&mut self) {
        self.free.retain(|&segment| self.segments[segment as usize].state == State::Free);
    }

    pub(super) fn unread(&self) -> impl Iterator<Item = u32> + '_ {
        let all = (0..).zip(&self.segments);
        all.filter(|(_, segment)| segment.state == State::Unread).map(|(index, _)| index)
    }

    /// An unread segment is sealed, and has these bits. It has its place in line by [`Self::restore_order`].
    pub(super) fn restore_sealed(
        &mut self,
        segment: u32,
        generation: u32,
        slots_used: u32,
        bits: &FoundBits,
    ) {
        self.segments[segment as usize] =
            Segment { state: State::Sealed, is_prepared: true, generation, slots_used };
        self.used_slots += u64::from(slots_used);
        self.bits.load(segment, &bits.live, &bits.hits);
    }

    /// An unread segment holds nothing, and no checkpoint says otherwise.
    pub(super) fn restore_free(&mut self, segment: u32) {
        self.segments[segment as usize].state = State::Free;
        self.free.push_back(segment);
    }

    /// An unread segment holds nothing, though a checkpoint lists it: it is free when the journal is durable up to `seq`.
    pub(super) fn restore_retired(&mut self, segment: u32, seq: Seq) {
        self.segments[segment as usize].state = State::Reclaiming;
        self.bits.clear(segment);
        self.retiring.push(Retiring { segment, seq, moves: 0, is_finished: true });
    }

    /// Puts the recovered segments in line, the first to go first, before those of this opening.
    pub(super) fn restore_order(&mut self, sealed: impl DoubleEndedIterator<Item = u32>) {
        sealed.rev().for_each(|segment| self.fifo.push_front(segment));
    }

    /// Whether the cache has not been full yet, as far as can be told.
    pub(super) fn has_room(&self) -> bool {
        let slack = u64::from(self.geometry.slots_per_segment) * Stream::COUNT as u64;
        self.used_slots + slack <= self.geometry.capacity_blocks()
    }
}

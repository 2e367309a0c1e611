//! The part of [`Ssd`] that takes copies out: eviction, voids, and the journal and checkpoints that make them stick.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use crate::block::{BlockId, Version};

use super::encoding::{self, CheckpointItem, Counters, JournalEntry, SegmentEntry};
use super::format::Superblock;
use super::segment::{State, Stream};
use super::{CheckpointPlan, Entry, JournalPlan, JournalSeq, JournalWrite, Move, ReclaimPlan, SealPlan, Ssd};

/// How a write tells the tier that an older copy must never be read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoidMark {
    /// One journal entry for this block.
    Exact,
    /// One mark for the region around it, free when the region is marked already. After an unclean stop the clean
    /// copies of the whole region are dropped.
    Region,
}

// 4096 blocks: 64 MiB of the usual ones, so that a sequential write waits for a mark every 64 MiB.
const REGION_BLOCKS_SHIFT: u32 = 12;

pub(super) fn region_of(block: BlockId) -> u64 {
    block.number() >> REGION_BLOCKS_SHIFT
}

impl Ssd {
    /// The segment to be emptied next, when there is less room than there should be. Emptying it ends with
    /// [`Self::finish_reclaim`], whatever happens in between.
    pub fn plan_reclaim(&mut self) -> Option<ReclaimPlan> {
        if self.is_scanning() {
            return None;
        }
        let segment = self.log.take_victim()?;
        self.fills = false;
        Some(ReclaimPlan {
            segment,
            generation: self.log.segments[segment as usize].generation,
            summary_offset: self.geometry.summary_offset(segment),
            summary_bytes: self.geometry.summary_bytes(),
            file_id: self.file_id,
            slots: self.geometry.slots_per_segment,
        })
    }

    /// What a simulated tier has in place of [`ReclaimPlan::run`].
    pub fn simulated_entries(&self, plan: &ReclaimPlan) -> Vec<Entry> {
        self.log.kept_entries(plan.segment)
    }

    /// Which blocks of the segment are kept, to be read and written elsewhere; the others leave the cache now. With
    /// no entries (the summary could not be read) all do. Retires the segment in the journal.
    pub fn plan_moves(&mut self, plan: &ReclaimPlan, entries: Option<&[Entry]>) -> Vec<Move> {
        if !self.log.is_victim(plan.segment, plan.generation) {
            return Vec::new();
        }
        let ReclaimPlan { segment, generation, .. } = *plan;
        // Retired before its blocks are safe elsewhere: all are clean, and a void of one that has left the index
        // already needs no entry of its own then.
        let seq = self.queue(JournalEntry::Retire { segment, generation });
        self.log.retire(segment, seq);
        let Some(entries) = entries else {
            self.evict_unlisted(segment);
            return Vec::new();
        };
        let mut moves = Vec::new();
        let slots = self.geometry.slots_per_segment;
        for entry in entries.iter().filter(|entry| entry.slot < slots) {
            let place = self.log.place(segment, entry.slot);
            let Some(found) = self.index.get(entry.block).filter(|found| found.place == place) else {
                continue;
            };
            let keeps = self.admission.keeps(self.log.hit_count(place), moves.len() as u32, slots);
            let to =
                if keeps { self.log.allocate(Stream::Reinserted, entry.block, entry.version) } else { None };
            if let Some(to) = to {
                self.admission.charge(self.geometry.block_size.bytes() as u64);
                moves.push(Move { from: self.read_plan(entry.block, found), to });
            } else {
                self.drop_copy(entry.block);
                self.admission.evicted(entry.block);
                self.stats.evicted_blocks += 1;
            }
        }
        self.log.start_moves(segment, moves.len());
        moves
    }

    fn evict_unlisted(&mut self, segment: u32) {
        let Self { index, log, admission, stats, .. } = self;
        index.remove_where(|block, found| {
            let is_out = log.segment_and_slot(found.place).0 == segment;
            if is_out {
                log.drop_copy(found.place);
                admission.evicted(block);
                stats.evicted_blocks += 1;
            }
            is_out
        });
    }

    /// The moves of one write are done: `crcs` as [`super::append`] gave them, or none when the read or write failed
    /// (the blocks leave then). A block that went elsewhere or was voided meanwhile stays as it is.
    pub fn finish_moves(&mut self, moves: &[Move], crcs: Option<&[u32]>) -> Option<SealPlan> {
        for (index, Move { from, to }) in moves.iter().enumerate() {
            let is_wanted = self.index.is_at(from.block, self.place_of(from));
            self.log.finish_move(from.segment, from.generation);
            match crcs.map(|crcs| crcs[index]) {
                Some(crc) if is_wanted => {
                    self.drop_copy(from.block);
                    self.index.insert(to.block, self.log.place(to.segment, to.slot), crc);
                    self.log.settle(to, Some(crc));
                }
                _ => {
                    if is_wanted {
                        self.drop_copy(from.block);
                        self.stats.evicted_blocks += 1;
                    }
                    self.log.settle(to, None);
                }
            }
        }
        if crcs.is_some() {
            self.stats.blocks_reinserted += moves.len() as u64;
            self.stats.bytes_written += (moves.len() * self.geometry.block_size.bytes()) as u64;
        }
        self.seal_one(moves.iter().map(|moved| moved.to.segment))
    }

    /// The segment is empty; moves that were not finished are lost. It is written to again once its retirement is
    /// durable.
    pub fn finish_reclaim(&mut self, plan: &ReclaimPlan) {
        self.plan_moves(plan, None);
        if self.log.finish_reclaim(plan.segment, plan.generation) {
            self.evict_unlisted(plan.segment);
        }
        self.log.free_retired(self.journal.durable());
    }

    /// No copy of `block` older than `version` may be read again. True when a write below has to wait for the
    /// journal, for this entry or an earlier one.
    pub fn void(&mut self, block: BlockId, version: Version, mark: VoidMark) -> bool {
        if self.contains(block) {
            self.stats.voids += 1;
        }
        if self.void_logged(block, version) {
            // The entry is for the clean copy as well.
            self.void_copy(block);
        } else if self.void_copy(block) {
            let (volume, region) = (block.volume().number(), region_of(block));
            match mark {
                VoidMark::Exact => {
                    self.queue(encoding::void(block, version));
                }
                VoidMark::Region => {
                    if self.marked.insert((volume, region)) {
                        self.queue(JournalEntry::RegionMark { volume, region });
                    }
                }
            }
        }
        self.journal_pending().is_some()
    }

    /// The same for `count` blocks from `first` on, in one entry.
    pub fn void_range(&mut self, first: BlockId, count: u64, version: Version) {
        let ids = first.as_u64()..first.as_u64().saturating_add(count);
        let logged = self.dirty.blocks_within(&ids);
        let mut may_be_found = !logged.is_empty() || self.dirty.has_given_up(&ids);
        for block in logged {
            self.dirty.void(block);
        }
        may_be_found |= self.dirty.tombstones.cut(&ids, version);
        may_be_found |= self.drop_clean(&ids);
        if may_be_found {
            let (first, version) = (first.as_u64(), version.as_u64());
            self.queue(JournalEntry::VoidRange { first, count, version });
        }
    }

    /// Takes the clean copies of these blocks out of the index, without a look at those that are not there when there are
    /// more of them. True when recovery might still find one.
    pub(super) fn drop_clean(&mut self, ids: &Range<u64>) -> bool {
        if ids.is_empty() {
            return false;
        }
        let (mut may_be_found, mut dropped) = (false, 0);
        if ids.end.saturating_sub(ids.start) < self.index.len() as u64 {
            for block in ids.clone().map(BlockId::from_u64) {
                dropped += u64::from(self.index.get(block).is_some());
                may_be_found |= self.drop_copy(block);
            }
        } else {
            let Self { index, log, .. } = self;
            index.remove_ids(&(ids.start..=ids.end - 1), |found| {
                dropped += 1;
                may_be_found |= log.drop_copy(found.place);
            });
        }
        self.stats.voids += dropped;
        let is_unread = self.void_unread_range(ids.start, ids.end.saturating_sub(ids.start));
        may_be_found || is_unread
    }

    /// What a write below must wait for before it is submitted; none when all is durable. Covers every entry: voids,
    /// marks, retirements of segments whose blocks have left the index already, and volumes.
    pub fn journal_pending(&self) -> Option<JournalSeq> {
        self.journal.awaited()
    }

    pub fn journal_durable(&self) -> JournalSeq {
        self.journal.durable()
    }

    pub fn plan_journal(&mut self) -> JournalPlan {
        self.journal.plan()
    }

    /// Not durable: the entries stay pending and are written again.
    pub fn finish_journal(&mut self, write: &JournalWrite, is_durable: bool) {
        self.journal.finish(write, is_durable);
        if is_durable {
            self.stats.bytes_written += write.bytes();
            self.log.free_retired(self.journal.durable());
        }
    }

    /// A simulated tier's journal is durable at once.
    pub fn settle_simulated_journal(&mut self) {
        assert!(self.is_simulated, "a journal on a device is durable when it was written");
        self.journal.settle();
        self.log.free_retired(self.journal.durable());
    }

    /// Everything known up to now, to be written; `is_clean` when nothing will change any more before the file is
    /// closed, and all summaries are read. One at a time. What the journal waits for is durable with it, unless summaries
    /// are unread.
    pub fn plan_checkpoint(&mut self, is_clean: bool) -> CheckpointPlan {
        assert!(!self.checkpoint_is_running, "one checkpoint at a time");
        self.checkpoint_is_running = true;
        self.superblock_sequence += 1;
        self.checkpoint_number += 1;
        let before = self.scan.as_ref().filter(|scan| !scan.is_over()).map(|scan| scan.counters);
        assert!(!is_clean || before.is_none(), "a file is not closed before it is known what it holds");
        if before.is_none() {
            // Copies voided under these marks are dead in the live bits; what is voided from now on needs new marks.
            self.marked.clear();
        }
        let absorbed = if before.is_some() { self.journal.absorbed() } else { self.journal.last() };
        let counters = Counters {
            absorbed: absorbed.0,
            journal_generation: before.map_or(self.journal.generation(), |before| before.journal_generation),
            believed_from: before.map_or(self.log.next_generation, |before| before.believed_from),
            next_generation: self.log.next_generation,
            next_sequence: self.log.next_sequence,
            next_volume: self.volumes.next(),
            next_record: self.dirty.next_sequence,
            records_synced: self.dirty.synced_through,
        };
        if is_clean {
            self.dirty.drop_destaged();
        }
        let mut items = vec![CheckpointItem::Counters(counters)];
        items.extend(self.volumes.items());
        items.extend((0..self.geometry.segment_count).filter_map(|segment| self.segment_entry(segment)));
        items.extend(self.dirty_segment_entries());
        items.extend(self.tombstone_items());
        items.extend(self.volumes.destaged_items());
        if is_clean {
            items.extend(self.admission.ghosts().map(CheckpointItem::Ghosts));
        }
        CheckpointPlan {
            items,
            absorbed,
            superfluous_bytes: if before.is_none() { self.journal.start_checkpoint() } else { 0 },
            ends_scan: before.is_none(),
            superblock_first: self.superblock_first,
            superblock: Superblock {
                file_id: self.file_id,
                sequence: self.superblock_sequence,
                geometry: self.geometry,
                opening: self.opening,
                is_clean,
                checkpoint_area: 1 - self.checkpoint_area,
                checkpoint_items: 0,
                checkpoint_number: self.checkpoint_number,
                checkpoint_bytes: 0,
            },
            restarts_log: self.dirty.must_restart(),
            bytes_written: AtomicU64::new(0),
        }
    }

    fn segment_entry(&self, segment: u32) -> Option<CheckpointItem> {
        if self.log.segments[segment as usize].state == State::Dirty {
            return None;
        }
        let generation = self.log.believed_generation(segment);
        let is_prepared = self.log.segments[segment as usize].is_prepared;
        let (live, hits) = if generation == 0 {
            (Vec::new(), Vec::new())
        } else {
            (self.log.bits.live(segment).to_vec(), self.log.bits.hits(segment).to_vec())
        };
        let entry = SegmentEntry { segment, generation, is_prepared, live: live.into(), hits: hits.into() };
        (generation != 0 || is_prepared).then_some(CheckpointItem::Segment(entry))
    }

    /// Not durable: the file is as it was, and the journal before it is still needed.
    pub fn finish_checkpoint(&mut self, plan: CheckpointPlan, is_durable: bool) {
        let CheckpointPlan { absorbed, superfluous_bytes, superblock, bytes_written, .. } = plan;
        let CheckpointPlan { restarts_log, ends_scan, .. } = plan;
        self.checkpoint_is_running = false;
        self.stats.bytes_written += bytes_written.into_inner();
        self.journal.finish_checkpoint(absorbed, superfluous_bytes, is_durable);
        if is_durable {
            self.checkpoint_area = superblock.checkpoint_area;
            self.note_durable_geometry(superblock.geometry);
            if restarts_log {
                self.dirty.restart();
            }
            if ends_scan && self.scan.take().is_some() {
                self.retire_unneeded();
            }
            self.log.free_retired(self.journal.durable());
        }
    }

    /// Whether the journal is filling up, or all summaries are read and no checkpoint says so. None helps before they are.
    pub fn wants_checkpoint(&self) -> bool {
        let is_scanned = self.scan.as_ref().is_some_and(|scan| scan.is_over());
        !self.checkpoint_is_running && !self.is_scanning() && (is_scanned || self.journal.wants_checkpoint())
    }
}

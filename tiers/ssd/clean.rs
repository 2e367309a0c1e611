//! The part of [`Ssd`] for clean copies: written as they leave RAM, read, and sealed with their segment.
//!
//! ```text
//! demote: plan_demote -> append -> finish_append -> SealPlan::run -> finish_seal
//! read:   plan_read -> Device::read, ReadPlan::verify -> finish_read
//! ```

use super::Ssd;
use super::encoding::JournalEntry;
use super::plan::{Demote, ReadPlan, ReadVerdict, Refusal, SealPlan, SlotPlan};
use super::segment::Stream;
use super::table::{Found, Place};
use crate::block::{BlockId, Version};

impl Ssd {
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

    pub(super) fn read_plan(&self, block: BlockId, found: Found) -> ReadPlan {
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

    pub(super) fn place_of(&self, plan: &ReadPlan) -> Place {
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

    /// The slots of one write are written: `crcs` as [`super::append`] gave them, or none when the write failed.
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
    pub(super) fn seal_one(&mut self, segments: impl Iterator<Item = u32>) -> Option<SealPlan> {
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
}

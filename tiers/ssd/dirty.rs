//! The part of [`Ssd`] for blocks newer than the backing store: they go to the log, are read from it, and leave it
//! when the backing store has them.
//!
//! ```text
//! log:     plan_record -> RecordPlan::run -> finish_record; plan_log_sync -> Device::sync -> finish_log_sync
//! read:    plan_log_read -> LogRead::run -> finish_log_read
//! destage: plan_destage -> LogRead::run, write and sync below -> finish_destage -> retire_unneeded
//! discard: put_tombstone -> plan_destage -> discard and sync below -> finish_tombstone
//! ```

use std::collections::BTreeSet;

use crate::block::{BlockId, PAGE_BYTES, Version, VolumeId, mask};

use super::Ssd;
use super::dirty_log::{Copies, CopyState, LogFate, LogKeepers, LogSync, LogTicket, NewCopy, Room};
use super::encoding::{self, CheckpointItem, DirtySegmentEntry, JournalEntry};
use super::log_read::{LogPart, LogRead};
use super::plan::ReadVerdict;
use super::record::{RecordPlan, SectorMask, header_bytes};
use super::tombstones::Tombstone;

/// What is to be done below next.
#[derive(Clone, Debug)]
pub enum DestageRun {
    /// To be discarded.
    Discard(Tombstone),
    /// Neighbours by address, to be written; none at the end of a round.
    Write(Vec<LogRead>),
}

impl Ssd {
    /// Where the first of `copies` go, as many as fit one record; none when there is no room before something is
    /// destaged. No block may be on its way already. The record, and then a sync, make them durable, when the journal was
    /// made durable since their volume was attached. `now_us`, microseconds of any clock, says later how old they are.
    pub fn plan_record(&mut self, copies: &[NewCopy], now_us: u64) -> Option<RecordPlan> {
        assert!(!copies.is_empty(), "a record is of blocks");
        if self.dirty.must_restart() {
            return None;
        }
        // Until 2106.
        let now_s = u32::try_from(now_us / 1_000_000).unwrap_or(u32::MAX);
        let (count, room) = self.dirty.room_for(copies)?;
        assert!(count > 0, "every block fits a segment");
        if let Room::Next = room {
            let (segment, generation) = self.log.open_dirty()?;
            self.dirty.open_segment(segment, generation);
        }
        let (header, page) = self.dirty.plan(self.file_id, &copies[..count], now_s);
        let offset = self.geometry.segment_offset(header.segment) + u64::from(page) * PAGE_BYTES as u64;
        let ticket = LogTicket { sequence: header.sequence, round: self.dirty.round() };
        let size = self.geometry.block_size;
        let pages = self.spare_pages.take(header_bytes(count, size));
        let plan = RecordPlan { ticket, header, pages, offset, size };
        self.admission.charge(plan.bytes());
        Some(plan)
    }

    /// The record was written.
    pub fn finish_record(&mut self, plan: RecordPlan) {
        self.stats.bytes_written += plan.bytes();
        self.stats.record_bytes_written += plan.bytes();
        self.stats.records_written += 1;
        self.spare_pages.keep(plan.pages);
        self.dirty.finish(plan.ticket, plan.header);
    }

    /// A record could not be written, or a sync failed: all records that are not durable are given up, whoever planned
    /// them. The log takes more when the next checkpoint is durable.
    pub fn give_records_up(&mut self) {
        self.dirty.give_up();
    }

    /// Whether the log takes nothing before a checkpoint is made.
    pub fn log_must_restart(&self) -> bool {
        self.dirty.must_restart()
    }

    pub fn log_fate(&self, ticket: LogTicket) -> LogFate {
        self.dirty.fate(ticket)
    }

    /// What a sync of the device that starts now makes durable; none when all that is written is durable.
    pub fn plan_log_sync(&self) -> Option<LogSync> {
        self.dirty.plan_sync()
    }

    /// That sync went well.
    pub fn finish_log_sync(&mut self, sync: LogSync) {
        self.dirty.finish_sync(sync);
    }

    /// Where the log has `block`, durable; prefer it to any other copy.
    pub fn plan_log_read(&mut self, block: BlockId) -> Option<LogRead> {
        self.plan_read_of(block, self.dirty.read_copies(block))
    }

    fn plan_read_of(&mut self, block: BlockId, copies: Copies) -> Option<LogRead> {
        let newest = copies.first()?;
        let (version, epoch, is_dirty) = (newest.version, newest.epoch, newest.state != CopyState::Destaged);
        let is_on_zeros = self.dirty.tombstones.covers(block);
        self.stats.log_reads_planned += 1;
        let parts = copies.into_iter().map(|copy| {
            let segment = self.dirty.segment_of(copy.generation);
            let offset = self.geometry.segment_offset(segment) + u64::from(copy.page) * PAGE_BYTES as u64;
            LogPart {
                version: copy.version,
                mask: copy.mask,
                generation: copy.generation,
                offset,
                crc: copy.crc,
            }
        });
        let parts: Vec<LogPart> = parts.collect();
        let mut mask: SectorMask = vec![0; self.geometry.block_size.mask_words()].into();
        parts.iter().for_each(|part| mask::add(&mut mask, &part.mask));
        let (file_id, size) = (self.file_id, self.geometry.block_size);
        Some(LogRead { block, version, mask, epoch, is_dirty, is_on_zeros, parts, file_id, size })
    }

    /// What the bytes read by `read` are worth; `spoilt` as [`LogRead::run`] says, or the version of the read when the
    /// device could not read it. `Corrupt`: there is no other copy of them, if it was dirty.
    pub fn finish_log_read(&mut self, read: &LogRead, spoilt: Option<Version>) -> ReadVerdict {
        let Some(spoilt) = spoilt else {
            // What was verified is this version of the block, wherever it is now.
            self.stats.log_hits += 1;
            return ReadVerdict::Valid;
        };
        if !self.dirty.has_version(read.block, spoilt) {
            return ReadVerdict::Moved;
        }
        self.stats.corrupt_blocks += 1;
        if self.dirty.spoil(read.block, spoilt) {
            // What is below has taken its place, and that of any older copy; a newer one may be on its way.
            self.void_clean(read.block, spoilt);
            self.queue(encoding::void(read.block, spoilt.next()));
        }
        ReadVerdict::Corrupt
    }

    /// Which sectors the log has that the backing store lacks; none when it has none.
    pub fn dirty_mask(&self, block: BlockId) -> Option<SectorMask> {
        self.dirty.dirty_mask(block)
    }

    /// The sectors that the next copy of `block` in the log is to have whatever is written, where they are at hand: its
    /// copies are too many, or one of them is bad. None for any.
    pub fn wanted_mask(&self, block: BlockId) -> Option<SectorMask> {
        self.dirty.wanted_mask(block)
    }

    /// What of `volume` goes below next, all of the first epoch that there is, and nothing when that is not the one asked
    /// for: the next tombstone after that one, or else the first run of neighbours that are dirty here, from block number
    /// `from` on, at most `count`. What is planned here is older than every tombstone that comes later.
    pub fn plan_destage(
        &mut self,
        volume: VolumeId,
        epoch: Option<u64>,
        after: Option<&Tombstone>,
        from: u64,
        count: usize,
    ) -> DestageRun {
        let tombstone = self.next_tombstone(volume, after);
        let blocks = self.dirty.first_epoch(volume);
        let first = tombstone.as_ref().map(|tombstone| tombstone.epoch).into_iter().chain(blocks).min();
        let Some(first) = first.filter(|first| epoch.is_none_or(|epoch| epoch == *first)) else {
            return DestageRun::Write(Vec::new());
        };
        self.begin_epoch(volume, first);
        if let Some(tombstone) = tombstone.filter(|tombstone| tombstone.epoch == first) {
            return DestageRun::Discard(tombstone);
        }
        let run = self.dirty.dirty_run(first, BlockId::new(volume, from), count);
        let read = |block| self.plan_read_of(block, self.dirty.copies_in(block, first));
        DestageRun::Write(run.into_iter().filter_map(read).collect())
    }

    /// All before `epoch` is below and synced: recovery must not bring it there again, over what follows. Durable before
    /// anything of `epoch` is written there, as voids are.
    fn begin_epoch(&mut self, volume: VolumeId, epoch: u64) {
        if epoch > 1 && self.volumes.raise_destaged_epoch(volume.number(), epoch - 1) {
            self.queue(JournalEntry::Destaged { volume: volume.number(), epoch: epoch - 1 });
        }
    }

    /// The last epoch of `volume` that anything here was of.
    pub fn last_epoch(&self, volume: VolumeId) -> u64 {
        self.dirty.last_epoch(volume).max(self.volumes.destaged_epoch(volume))
    }

    /// Whether [`Self::plan_destage`] finds anything in a round that begins now.
    pub fn has_destage(&self, volume: VolumeId) -> bool {
        self.dirty.first_epoch(volume).is_some() || self.next_tombstone(volume, None).is_some()
    }

    /// Blocks and discarded ranges of `volume` that the backing store does not have.
    pub fn dirty_blocks_of(&self, volume: VolumeId) -> u64 {
        self.dirty.dirty_count_of(volume) as u64
    }

    /// Blocks of `volume` that the backing store does not have and that cannot be read here.
    pub fn bad_blocks_of(&self, volume: VolumeId) -> Vec<BlockId> {
        self.dirty.bad_blocks_of(volume)
    }

    /// Whether nothing newer than `block` may go below by another way: the log has something of it that the backing store
    /// lacks, or a record of it is under way.
    pub fn holds_back(&self, block: BlockId) -> bool {
        self.dirty.holds_back(block)
    }

    /// The same of any of `count` blocks from `first` on.
    pub fn holds_any_back(&self, first: BlockId, count: u64) -> bool {
        let ids = first.as_u64()..first.as_u64().saturating_add(count);
        self.dirty.tombstones.touches(&ids)
            || self.dirty.blocks_within(&ids).into_iter().any(|block| self.dirty.holds_back(block))
    }

    /// Whether a copy of `block` cannot be read, so that nothing of it goes below.
    pub fn is_bad(&self, block: BlockId) -> bool {
        self.dirty.is_bad(block)
    }

    /// What keeps a full log full. Nothing before recovery is over: there may be more room then.
    pub fn log_keepers(&self) -> LogKeepers {
        if self.scan.is_some() { LogKeepers::default() } else { self.dirty.keepers() }
    }

    /// The volumes that have tombstones: so many are all that there may be.
    pub fn tombstone_keepers(&self) -> BTreeSet<VolumeId> {
        self.dirty.tombstones.iter().map(Tombstone::volume).collect()
    }

    /// Takes the copies of `blocks` in the log out, which the backing store all has, or which are bad: something newer goes
    /// there by another way.
    pub fn void_destaged(&mut self, blocks: impl Iterator<Item = BlockId>, version: Version) {
        for block in blocks {
            debug_assert!(!self.dirty.is_to_be_destaged(block), "{block} overtakes what the log has of it");
            self.void_logged(block, version);
        }
    }

    /// Blocks and discarded ranges of all volumes that their backing stores do not have, and that can be read.
    pub fn dirty_blocks(&self) -> u64 {
        self.dirty.dirty_count() as u64
    }

    /// The share of the room for dirty blocks that is taken, in segments: from 0 to 1.
    pub fn dirty_load(&self) -> f64 {
        self.dirty.load()
    }

    /// The backing store has the copies that `read` read, and was synced since. A newer one stays dirty.
    pub fn finish_destage(&mut self, read: &LogRead) {
        if self.dirty.destaged(read.block, read.epoch, read.version) {
            self.stats.blocks_destaged += 1;
        }
    }

    /// What a simulated tier does in place of destaging: the backing stores have all that the log has.
    pub fn settle_simulated_log(&mut self) {
        assert!(self.is_simulated, "what is in a log on a device goes below before it is let go");
        for (epoch, block) in self.dirty.all_dirty() {
            self.stats.blocks_destaged +=
                u64::from(self.dirty.destaged(block, epoch, Version::from_u64(u64::MAX)));
        }
        self.retire_unneeded();
    }

    /// Gives segments back that nothing keeps; they are free when the journal is durable. Whether there were any.
    pub fn retire_unneeded(&mut self) -> bool {
        // What is in the log tells which copies are old that summaries name, now or to the next opening.
        if self.scan.is_some() {
            return false;
        }
        if self.dirty.dirty_count() == 0 && self.dirty.is_settled() {
            self.dirty.close_open();
        }
        let mut any = false;
        while let Some((segment, generation)) = self.dirty.take_unneeded() {
            let seq = self.queue(JournalEntry::Retire { segment, generation });
            self.log.retire_dirty(segment, seq);
            any = true;
        }
        any
    }

    /// The same for a log that just refused room: nothing fits its open segment.
    pub fn retire_refusing(&mut self) -> bool {
        if self.dirty.is_open_unneeded() {
            self.dirty.close_open();
        }
        self.retire_unneeded()
    }

    /// The clean copy of `block` is older than what comes into RAM now; the one in the log stays (rule 2).
    pub fn void_clean(&mut self, block: BlockId, version: Version) {
        if self.index.get(block).is_some() {
            self.stats.voids += 1;
        }
        // An entry of the journal would be for an older copy in the log as well, which hides what summaries name.
        let is_hidden = self.dirty.may_be_found(block);
        // Of a part that is lent it is not known what it has; the log hides that too.
        let is_lent = self.index.is_lent(block);
        let is_unknown = self.void_unread(block) || is_lent;
        if self.drop_copy(block) && !is_lent || is_unknown && !is_hidden {
            self.queue(encoding::void(block, version));
        }
    }

    /// Takes the copies of `block` in the log out, and says so in the journal.
    pub(super) fn void_logged(&mut self, block: BlockId, version: Version) -> bool {
        let may_be_found = self.dirty.void(block);
        if may_be_found {
            self.queue(encoding::void(block, version));
        }
        may_be_found
    }

    pub(super) fn dirty_segment_entries(&self) -> impl Iterator<Item = CheckpointItem> + '_ {
        self.dirty.segments.iter().map(|segment| {
            CheckpointItem::DirtySegment(DirtySegmentEntry {
                segment: segment.segment,
                generation: segment.generation,
                first_sequence: segment.first_sequence,
                end_page: segment.end_page,
                dead: segment.dead.clone().into(),
            })
        })
    }

    /// The volume comes back with nothing but its dirty copies: what is clean may be older than its backing store.
    pub(super) fn cool(&mut self, volume: VolumeId) {
        self.void_unread_of(volume);
        let Self { index, log, .. } = self;
        let last = BlockId::new(volume, BlockId::NUMBER_LIMIT - 1).as_u64();
        index.remove_ids(&(BlockId::new(volume, 0).as_u64()..=last), |found| {
            log.drop_copy(found.place);
        });
        let generation = self.log.next_generation;
        self.queue(JournalEntry::VolumeCold { volume: volume.number(), generation });
    }
}

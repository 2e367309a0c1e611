//! Records on their way to the log: planned, written, and durable when a sync covers them and all before them.

use hashbrown::HashSet;

use crate::block::{BlockId, Version};

use super::super::record::{RecordEntry, RecordHeader, SectorMask, header_pages, page_count};
use super::{CopyState, DirtyLog, LogCopy};

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

/// A record that is not durable yet.
pub(super) struct OpenRecord {
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
pub(super) struct PendingCopy {
    pub(super) generation: u32,
    pub(super) index: u32,
    /// It was overwritten by another way, or discarded, meanwhile.
    pub(super) is_void: bool,
}

/// What a record finds room in.
pub(in super::super) enum Room {
    /// The open segment.
    Here,
    /// A new one.
    Next,
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
    pub(in super::super) sequence: u64,
    pub(in super::super) round: usize,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFate {
    UnderWay,
    Durable,
    GivenUp,
}

impl DirtyLog {
    /// Whether every planned record is durable.
    pub(in super::super) fn is_settled(&self) -> bool {
        self.records.is_empty()
    }

    /// How many of `copies` fit one record, and where; none when a segment or a copy is needed and no more are allowed.
    pub(in super::super) fn room_for(&self, copies: &[NewCopy]) -> Option<(usize, Room)> {
        let allowed = self.copies_max.saturating_sub(self.copy_count());
        if allowed == 0 {
            return None;
        }
        let copies = &copies[..copies.len().min(allowed as usize)];
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

    /// Gives the next place in the open segment to `copies`, which fit it: the header, and its page.
    pub(in super::super) fn plan(
        &mut self,
        file_id: u64,
        copies: &[NewCopy],
        now_s: u32,
    ) -> (RecordHeader, u32) {
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
        let first_index = segment.copy_count;
        segment.next_page += header.pages(self.size);
        segment.copy_count += copies.len() as u32;
        segment.needed += copies.len() as u32;
        let generation = segment.generation;
        for (copy, index) in copies.iter().zip(first_index..) {
            self.note(copy.block);
            let before = self.pending.insert(copy.block, PendingCopy { generation, index, is_void: false });
            assert!(before.is_none(), "{} goes to the log twice at once", copy.block);
        }
        let record = OpenRecord {
            generation,
            page,
            copies: copies.len() as u32,
            epoch: copies[0].epoch,
            data_page: page + header_pages(copies.len(), self.size),
            first_index,
            entries: Vec::new(),
            is_written: false,
        };
        self.records.push_back(record);
        (header, page)
    }

    /// The record of `ticket` is written, if it was not given up meanwhile.
    pub(in super::super) fn finish(&mut self, ticket: LogTicket, header: RecordHeader) {
        if ticket.round == self.round() {
            let index = (ticket.sequence - self.first_open()) as usize;
            let record = self.records.get_mut(index).expect("a record is finished once");
            (record.entries, record.is_written) = (header.entries, true);
        }
    }

    /// The sequence of the first record that is not durable, or of the next one: sequences have no gaps.
    fn first_open(&self) -> u64 {
        self.next_sequence - self.records.len() as u64
    }

    pub(in super::super) fn round(&self) -> usize {
        self.given_up_from.len()
    }

    pub(in super::super) fn fate(&self, ticket: LogTicket) -> LogFate {
        if self.given_up_from[ticket.round..].iter().any(|&first| ticket.sequence >= first) {
            LogFate::GivenUp
        } else if ticket.sequence <= self.synced_through {
            LogFate::Durable
        } else {
            LogFate::UnderWay
        }
    }

    /// What a sync that starts now covers; none when nothing is written that is not durable.
    pub(in super::super) fn plan_sync(&self) -> Option<LogSync> {
        let written = self.records.iter().take_while(|record| record.is_written).count() as u64;
        (written > 0).then(|| LogSync { through: self.first_open() + written - 1, round: self.round() })
    }

    /// What a sync covers is durable.
    pub(in super::super) fn finish_sync(&mut self, sync: LogSync) {
        if sync.round != self.round() {
            return;
        }
        self.synced_through = self.synced_through.max(sync.through);
        for _ in self.first_open()..=sync.through {
            let record = self.records.pop_front().expect("a sync covers what was written");
            self.install_record(record);
        }
    }

    /// A record is durable: its copies are the newest of their blocks.
    fn install_record(&mut self, record: OpenRecord) {
        let OpenRecord { generation, epoch, .. } = record;
        let (mut page, mut index) = (record.data_page, record.first_index);
        for RecordEntry { block, version, crc, mask } in record.entries {
            let pages = page_count(&mask, self.size);
            let state = CopyState::Dirty;
            let copy = LogCopy { generation, page, index, crc, version, mask, epoch, state };
            let pending = self.pending.remove(&block).expect("a block of a record is pending");
            if pending.is_void {
                self.segment_mut(generation).needed -= 1;
            } else {
                self.install(block, &copy);
            }
            (page, index) = (page + pages, index + 1);
        }
    }

    /// A record or a sync failed: what is not durable is given up, and the log goes on in another segment once a
    /// checkpoint has the end of this one ([`Self::restart`]).
    pub(in super::super) fn give_up(&mut self) {
        let first = self.first_open();
        let records = std::mem::take(&mut self.records);
        let Some(record) = records.front() else { return };
        self.next_sequence = first;
        let generation = record.generation;
        for record in &records {
            self.segment_mut(record.generation).needed -= record.copies;
        }
        for (block, pending) in self.pending.drain() {
            let PendingCopy { generation, index, .. } = pending;
            let at = self.segments.partition_point(|other| other.generation < generation);
            self.segments[at].set_dead(index);
            self.given_up.insert(block);
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
    pub(in super::super) fn must_restart(&self) -> bool {
        self.must_restart
    }

    /// A checkpoint with the end of the log in it is durable.
    pub(in super::super) fn restart(&mut self) {
        self.must_restart = false;
        self.given_up = HashSet::default();
    }
}

//! Every copy of one block that is in a cache file, and why recovery takes the one and not the others.
//!
//! Copies are looked for in the summaries and records of *all* segments, also those that recovery passes over; data
//! that neither names any more is no copy. The winner is the one that recovery put into its index or its log, and the
//! reason against another is the one by which recovery itself leaves it out.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IoSliceMut;

use crate::block::{BlockId, Version};
use crate::error::Result;

use super::super::dirty_log::{CopyState, LogCopy};
use super::super::encoding::JournalEntry;
use super::super::format::{Pages, Summary};
use super::super::journal::replay;
use super::super::plan::{Entry, ReadPlan};
use super::super::record::{RecordEntry, RecordHeader};
use super::super::recover::Doubt;
use super::super::recover_log;
use super::super::region_of;
use super::{FileAtRest, Located, SectorMask};

/// What there is of a block.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub block: BlockId,
    /// A tombstone covers it: what no copy that wins has of it reads as zeros.
    pub is_buried: bool,
    /// The one that wins first, if any does; the others from the newest on.
    pub copies: Vec<FoundCopy>,
}

/// One copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundCopy {
    pub place: CopyPlace,
    pub version: Version,
    /// Its bytes are what was written there.
    pub is_whole: bool,
    pub verdict: Verdict,
}

/// Where a copy is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyPlace {
    /// Clean, in a slot.
    Slot { segment: u32, generation: u32, slot: u32 },
    /// In the log, from this page of the segment on, and the sectors of the block that it has.
    Record { segment: u32, generation: u32, record: u64, page: u32, sectors: SectorMask },
}

/// What recovery makes of a copy; a journal entry is named by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It answers reads; of the log, the backing store does not have it.
    Wins,
    /// Of the log: it answers reads, and the backing store has it.
    WinsDestaged,
    /// There are newer ones, in the log, that have some of its sectors or none.
    WinsTheRest,
    /// There is a newer one, of a later epoch of the volume: this one goes below before it, in its own.
    EarlierEpoch(u64),
    /// There is a newer one.
    Older,
    /// Another clean copy is as good, which cannot be: neither is taken.
    Rivals,
    /// Left out, for this reason, by this entry of the journal if it is one of those.
    LeftOut(Doubt, Option<u64>),
    /// Nobody was promised this record, and the log ends before it: with this record at the latest.
    PastTheEnd(u64),
    /// Its segment was emptied, by this entry of the journal.
    Retired(u64),
    /// Its segment was emptied or given up before the last checkpoint.
    NotExpected,
}

impl Verdict {
    /// Whether the copy answers reads.
    pub fn wins(self) -> bool {
        matches!(self, Self::Wins | Self::WinsDestaged | Self::WinsTheRest)
    }
}

impl fmt::Display for CopyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot { segment, generation, slot } => {
                write!(f, "slot {slot} of segment {segment}, generation {generation}")
            }
            Self::Record { segment, generation, record, page, .. } => {
                write!(f, "log record {record}, page {page} of segment {segment}, generation {generation}")
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by =
            |entry: &Option<u64>| entry.map_or(String::new(), |entry| format!(" by journal entry {entry}"));
        match self {
            Self::Wins => f.write_str("wins: the newest that is valid"),
            Self::WinsDestaged => f.write_str("wins: the newest that is valid, and the backing store has it"),
            Self::WinsTheRest => f.write_str("wins those of its sectors that no newer one has"),
            Self::EarlierEpoch(epoch) => {
                write!(
                    f,
                    "loses: there is a newer one, but this goes below first, in epoch {epoch} of the volume"
                )
            }
            Self::Older => f.write_str("loses: there is a newer one"),
            Self::Rivals => f.write_str("loses: another clean copy is as good, so neither is taken"),
            Self::LeftOut(doubt, entry) => {
                let why = match doubt {
                    Doubt::DeadAtCheckpoint => "out of use at the last checkpoint",
                    Doubt::NoVolume => "its volume was dropped",
                    Doubt::RegionMarked => "its region was marked as written to",
                    Doubt::SlotVoid => "its slot was voided as bad",
                    Doubt::VolumeCold => "its volume was made cold",
                    Doubt::Overwritten => "voided as overwritten or discarded",
                    Doubt::Tombstone => "discarded, which the backing store was not told yet",
                    Doubt::Unsynced => "younger than the last sync of the backing store before a crash",
                };
                write!(f, "loses: {why}{}", by(entry))
            }
            Self::PastTheEnd(end) => {
                write!(f, "loses: never promised, the log ends before record {end}, which is missing or torn")
            }
            Self::Retired(entry) => write!(f, "loses: its segment was emptied by journal entry {entry}"),
            Self::NotExpected => f.write_str(
                "loses: left over, its segment was emptied or given up before the last checkpoint",
            ),
        }
    }
}

impl FileAtRest<'_> {
    /// Where the copies of `block` are, and which one wins and why.
    ///
    /// # Errors
    /// Those of the device.
    pub fn explain(&self, block: BlockId) -> Result<Explanation> {
        let journal = self.journal()?;
        let mut copies = self.log_copies(block, &journal)?;
        for segment in 0..self.geometry().segment_count {
            copies.extend(self.slot_copies(block, segment, &journal)?);
        }
        copies.sort_by_key(|copy| (!copy.verdict.wins(), std::cmp::Reverse(copy.version)));
        Ok(Explanation { block, is_buried: self.ssd.is_buried(block), copies })
    }

    /// The entries after the checkpoint, each with its number.
    fn journal(&self) -> Result<Vec<(u64, JournalEntry)>> {
        let counters = &self.scan().counters;
        let (geometry, file_id) = (self.geometry(), self.ssd.file_id);
        let (absorbed, generation) = (counters.absorbed, counters.journal_generation);
        let mut entries = Vec::new();
        let apply = |entry| {
            entries.push(entry);
            Ok(())
        };
        replay(self.device, &geometry, file_id, absorbed, generation, apply)?;
        Ok((absorbed + 1..).zip(entries).collect())
    }

    fn slot_copies(
        &self,
        block: BlockId,
        segment: u32,
        journal: &[(u64, JournalEntry)],
    ) -> Result<Vec<FoundCopy>> {
        let (geometry, file_id) = (self.geometry(), self.ssd.file_id);
        let mut pages = Pages::new(geometry.summary_bytes() as usize);
        self.device.read(geometry.summary_offset(segment), &mut [IoSliceMut::new(&mut pages)])?;
        let Some(summary) = Summary::from_bytes(&pages, file_id, segment, geometry.slots_per_segment) else {
            return Ok(Vec::new());
        };
        let mut copies = Vec::new();
        for entry in summary.entries.iter().filter(|entry| entry.block == block) {
            let (generation, slot) = (summary.generation, entry.slot);
            copies.push(FoundCopy {
                place: CopyPlace::Slot { segment, generation, slot },
                version: entry.version,
                is_whole: self.is_slot_whole(&summary, entry)?,
                verdict: self.judge_slot(&summary, entry, journal),
            });
        }
        Ok(copies)
    }

    fn is_slot_whole(&self, summary: &Summary, entry: &Entry) -> Result<bool> {
        let geometry = self.geometry();
        let Summary { segment, generation, file_id, .. } = *summary;
        let Entry { block, slot, crc, .. } = *entry;
        let offset = geometry.slot_offset(segment, slot);
        let mut data = Pages::new(geometry.block_size.bytes());
        self.device.read(offset, &mut [IoSliceMut::new(&mut data)])?;
        Ok(ReadPlan { block, segment, generation, slot, offset, crc, file_id }.verify(&data))
    }

    fn judge_slot(&self, summary: &Summary, entry: &Entry, journal: &[(u64, JournalEntry)]) -> Verdict {
        let believed = self.believed();
        let Summary { segment, generation, .. } = *summary;
        if !believed.may_hold(segment) || !believed.believes(segment, generation) {
            return unbelieved(segment, generation, journal);
        }
        if let Some(doubt) = believed.doubt(summary, entry) {
            let place = (segment, generation, entry.slot);
            return Verdict::LeftOut(doubt, number_of(journal, doubt, entry.block, entry.version, place));
        }
        let place = self.ssd.log.place(segment, entry.slot);
        if self.ssd.index.is_at(entry.block, place) {
            Verdict::Wins
        } else if self.ssd.contains(entry.block) {
            Verdict::Older
        } else {
            Verdict::Rivals
        }
    }

    fn log_copies(&self, block: BlockId, journal: &[(u64, JournalEntry)]) -> Result<Vec<FoundCopy>> {
        let believed = self.believed();
        let (segments, mut records) = recover_log::read_records(self.device, believed)?;
        let known: Vec<u32> = segments.iter().map(|segment| segment.segment).collect();
        for segment in (0..self.geometry().segment_count).filter(|segment| !known.contains(segment)) {
            records.extend(recover_log::any_records(self.device, believed, segment)?);
        }
        let mut copies = Vec::new();
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for record in &records {
            let RecordHeader { segment, generation, sequence, .. } = record.header;
            let next = counts.entry(segment).or_default();
            for (page, entry) in record.copies(self.geometry().block_size) {
                let index = *next;
                *next += 1;
                if entry.block != block {
                    continue;
                }
                let is_known = known.contains(&segment);
                let sectors = entry.mask.clone();
                copies.push(FoundCopy {
                    place: CopyPlace::Record { segment, generation, record: sequence, page, sectors },
                    version: entry.version,
                    is_whole: recover_log::is_copy_whole(
                        self.device,
                        &self.geometry(),
                        &record.header,
                        page,
                        entry,
                    )?,
                    verdict: if is_known {
                        self.judge_logged(record, entry, page, index, journal)
                    } else {
                        unbelieved(segment, generation, journal)
                    },
                });
            }
        }
        Ok(copies)
    }

    fn judge_logged(
        &self,
        record: &Located,
        entry: &RecordEntry,
        page: u32,
        index: u32,
        journal: &[(u64, JournalEntry)],
    ) -> Verdict {
        let RecordHeader { segment, generation, sequence, .. } = record.header;
        let end = self.ssd.dirty.next_sequence;
        if sequence >= end {
            return Verdict::PastTheEnd(end);
        }
        let place = (segment, generation, index);
        let believed = self.believed();
        if let Some(doubt) = believed.doubt_in_log(place, entry.block, entry.version) {
            return Verdict::LeftOut(doubt, number_of(journal, doubt, entry.block, entry.version, place));
        }
        let is_this = |copy: &LogCopy| copy.is_at(generation, page);
        let read = self.ssd.dirty.read_copies(entry.block);
        match read.iter().position(is_this) {
            Some(0) if read[0].state == CopyState::Destaged => return Verdict::WinsDestaged,
            Some(0) => return Verdict::Wins,
            Some(_) => return Verdict::WinsTheRest,
            None => {}
        }
        if let Some(earlier) = self.ssd.dirty.dirty_copies(entry.block).into_iter().find(is_this) {
            return Verdict::EarlierEpoch(earlier.epoch);
        }
        if !believed.tombstones.bury(entry.block, entry.version) {
            return Verdict::Older;
        }
        let doubt = Doubt::Tombstone;
        Verdict::LeftOut(doubt, number_of(journal, doubt, entry.block, entry.version, place))
    }
}

/// Why a segment of this generation is passed over.
fn unbelieved(segment: u32, generation: u32, journal: &[(u64, JournalEntry)]) -> Verdict {
    let retired = JournalEntry::Retire { segment, generation };
    let entry = journal.iter().find(|(_, entry)| *entry == retired);
    entry.map_or(Verdict::NotExpected, |&(number, _)| Verdict::Retired(number))
}

/// The first entry of the journal that is the reason for `doubt`.
fn number_of(
    journal: &[(u64, JournalEntry)],
    doubt: Doubt,
    block: BlockId,
    version: Version,
    place: (u32, u32, u32),
) -> Option<u64> {
    let (block_number, version) = (block.as_u64(), version.as_u64());
    let volume_number = block.volume().number();
    let is_it = |entry: &JournalEntry| match (doubt, entry) {
        (Doubt::NoVolume, &JournalEntry::VolumeDropped { volume }) => volume == volume_number,
        (Doubt::RegionMarked, &JournalEntry::RegionMark { volume, region }) => {
            (volume, region) == (volume_number, region_of(block))
        }
        (Doubt::SlotVoid, &JournalEntry::VoidSlot { segment, generation, slot }) => {
            (segment, generation, slot) == place
        }
        (Doubt::VolumeCold, &JournalEntry::VolumeCold { volume, generation }) => {
            volume == volume_number && place.1 < generation
        }
        (Doubt::Overwritten, &JournalEntry::Void { block, version: void }) => {
            block == block_number && version < void
        }
        (Doubt::Overwritten, &JournalEntry::VoidRange { first, count, version: void }) => {
            version < void && block_number >= first && block_number - first < count
        }
        (Doubt::Tombstone, &JournalEntry::Tombstone { first, count, version: buried, .. }) => {
            version < buried && block_number >= first && block_number - first < count
        }
        _ => false,
    };
    journal.iter().find(|(_, entry)| is_it(entry)).map(|&(number, _)| number)
}

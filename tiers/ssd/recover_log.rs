//! Opening a cache file: the blocks in it that are newer than the backing store.
//!
//! 1. The segments of the dirty stream: those in the checkpoint, and those that begin with a record of a later
//!    generation; none that is retired.
//! 2. The chain of records in each, by their headers alone.
//! 3. All records by sequence. Up to the last one that is known to be synced every one must be there: a missing one is
//!    damage, and the file is not opened; so is a torn header before a record which says that all before it was synced.
//!    After it, every record is read whole, data included, and the first that is
//!    missing or torn ends the log: neither it nor what follows was promised to anyone. The end goes into the checkpoint
//!    that opening writes, so that what is forgotten now is never found later.
//! 4. The tombstones of the checkpoint and the journal take the place of every copy with a lower version.
//!
//! Where the log begins matters as much (`first_record`). A segment that no checkpoint lists is known by its first header
//! alone: when that is torn it is not found, and in an empty log the next segment would seem to be the first. So the log
//! begins where the checkpoint says, with its oldest segment or its next record, and what is missing there is a gap like
//! any other. Only when segments were retired since does it begin with what is found, for nobody knows which records
//! those had. Then a torn segment before that is not missed. That breaks no promise: what was synced is not torn by a
//! crash, and what was not needs none of the others, since a record has blocks whose older copies are all durable, and in
//! order nothing of an epoch before all of the one before is. All that was ever synced before it is below, for segments are
//! retired in their order. Only when that first header is not torn but damaged later, records that were synced go unmissed.
//!
//! | situation                                                      | test in `tests/log_gap.rs`                             |
//! |----------------------------------------------------------------|--------------------------------------------------------|
//! | the first header of a log that was not synced is torn          | `nothing_behind_a_first_segment_with_a_torn_header_...` |
//! | the same, and what follows says that it was synced             | `a_first_segment_with_a_torn_header_is_damage_...`      |
//! | the first segments are retired                                 | `what_is_left_behind_retired_segments_is_the_log_...`   |
//! | the same, and the next one is torn                             | `a_torn_segment_behind_retired_ones_is_forgotten_...`   |
//! | a record is there again behind the last one                    | `a_record_that_is_there_again_behind_the_last_one_...`  |

use std::io::IoSliceMut;

use hashbrown::HashMap;

use crate::block::{BlockId, BlockSize, PAGE_BYTES, Version};
use crate::device::{Device, PageBuf};
use crate::error::{Error, Result};

use super::dirty_log::{CopyState, DirtyLog, DirtySegment, LogCopy, is_dead_in};
use super::encoding::Counters;
use super::format::block_crc_of;
use super::geometry::Geometry;
use super::record::{RecordEntry, RecordHeader, RecordPlace, header_pages, page_count};
use super::recover::{Believed, Doubt};

/// Headers that are near each other are read in pieces of so many bytes.
const WINDOW_BYTES: usize = 64 << 10;

type Hasher = foldhash::fast::FixedState;

/// A record and its place in its segment, in pages.
pub(super) struct Located {
    pub(super) header: RecordHeader,
    pub(super) page: u32,
}

impl Located {
    /// Its copies, each with the page of the segment that its data begin on.
    pub(super) fn copies(&self, size: BlockSize) -> impl Iterator<Item = (u32, &RecordEntry)> {
        let mut next = self.page + header_pages(self.header.entries.len(), size);
        self.header.entries.iter().map(move |entry| {
            let page = next;
            next += page_count(&entry.mask, size);
            (page, entry)
        })
    }
}

/// The dirty stream as it was.
///
/// # Errors
/// Those of the device; [`Error::Damaged`] when a record that was synced is missing.
pub(super) fn recover_log(device: &dyn Device, believed: &Believed, counters: &Counters) -> Result<DirtyLog> {
    let geometry = &believed.geometry;
    let mut found = read_segments(device, believed)?;
    for (segment, records) in &found {
        check_behind(device, believed, segment, records)?;
    }
    found.sort_unstable_by_key(|(segment, _)| segment.generation);
    let (segments, records): (Vec<DirtySegment>, Vec<Vec<Located>>) = found.into_iter().unzip();
    let mut records: Vec<Located> = records.into_iter().flatten().collect();
    records.sort_by_key(|record| record.header.sequence);

    let in_order = |a: &DirtySegment, b: &DirtySegment| {
        a.generation < b.generation && a.first_sequence <= b.first_sequence
    };
    if !segments.is_sorted_by(in_order) {
        return Err(Error::Damaged { what: "the order of its segments of dirty blocks".into() });
    }

    let mut log = DirtyLog::new(geometry);
    let synced = records.iter().map(|record| record.header.synced_through).max().unwrap_or(0);
    let synced = synced.max(counters.records_synced);
    let first = first_record(believed, counters, segments.first());
    let whole = count_whole(device, geometry, &records, first, synced, !segments.is_empty())?;
    records.truncate(whole);
    log.next_sequence = first + whole as u64;
    log.synced_through = log.next_sequence - 1;

    restore_segments(&mut log, segments, &records, geometry.block_size);
    log.begin_scan(records.iter().map(|record| record.header.entries.len()).sum());
    for record in records {
        restore(&mut log, believed, record);
    }
    let known = believed.tombstones.iter().filter(|known| believed.volumes.contains(known.volume()));
    known.cloned().for_each(|tombstone| log.bury(tombstone));
    Ok(log)
}

/// The record that the log begins with. That is not always the first that is found: a segment of which not even the first
/// header is whole is not found at all, and what follows in the next is behind a gap.
fn first_record(believed: &Believed, counters: &Counters, first: Option<&DirtySegment>) -> u64 {
    let Some(first) = first else { return counters.next_record };
    let is_listed =
        believed.dirty_segments.get(&first.segment).is_some_and(|known| known.generation == first.generation);
    // One that was opened since the checkpoint and is retired took its records with it: which those were nobody knows, but
    // what comes next in line begins behind them.
    let may_be_behind_retired = believed.retired.iter().any(|&(segment, generation)| {
        let was_listed =
            believed.dirty_segments.get(&segment).is_some_and(|known| known.generation == generation);
        was_listed || (counters.next_generation..first.generation).contains(&generation)
    });
    if is_listed || may_be_behind_retired { first.first_sequence } else { counters.next_record }
}

/// Puts the segments in line, each up to the end of its last one of `records`.
fn restore_segments(log: &mut DirtyLog, segments: Vec<DirtySegment>, records: &[Located], size: BlockSize) {
    let mut ends: HashMap<u32, u32, Hasher> = HashMap::default();
    for record in records {
        let end = ends.entry(record.header.generation).or_default();
        *end = (record.page + record.header.pages(size)).max(*end);
    }
    for segment in segments {
        let end_page = ends.get(&segment.generation).copied().unwrap_or(0);
        // One that began after the end of the log has nothing, and the next record takes the number of what is forgotten:
        // while something keeps it in line it must not seem to come after that.
        let first_sequence = segment.first_sequence.min(log.next_sequence);
        let cut = DirtySegment { first_sequence, end_page: Some(end_page), next_page: end_page, ..segment };
        log.restore_segment(cut);
    }
}

/// A segment of the dirty stream, and every record that is found in it.
type FoundSegment = (DirtySegment, Vec<Located>);

fn read_segments(device: &dyn Device, believed: &Believed) -> Result<Vec<FoundSegment>> {
    let segments = 0..believed.geometry.segment_count;
    segments.filter_map(|segment| read_segment(device, believed, segment).transpose()).collect()
}

/// The segments of the dirty stream, and every record that is found in them.
pub(super) fn read_records(
    device: &dyn Device,
    believed: &Believed,
) -> Result<(Vec<DirtySegment>, Vec<Located>)> {
    let (segments, records): (Vec<_>, Vec<Vec<_>>) = read_segments(device, believed)?.into_iter().unzip();
    Ok((segments, records.into_iter().flatten().collect()))
}

/// The records that are found from the start of `segment` on, whatever generation the first is of.
pub(super) fn any_records(device: &dyn Device, believed: &Believed, segment: u32) -> Result<Vec<Located>> {
    let mut chain = Chain::new(device, &believed.geometry, believed.file_id, segment);
    let mut records = Vec::new();
    while let Some(record) = chain.next()? {
        chain.generation = Some(record.header.generation);
        records.push(record);
    }
    Ok(records)
}

/// The segment and the chain of records in it, if it is one of the dirty stream.
pub(super) fn read_segment(
    device: &dyn Device,
    believed: &Believed,
    segment: u32,
) -> Result<Option<FoundSegment>> {
    let known = believed.dirty_segments.get(&segment);
    let known = known.filter(|known| !believed.retired.contains(&(segment, known.generation)));
    if known.is_none() && (believed.is_clean || believed.is_checkpointed(segment)) {
        return Ok(None);
    }
    let mut chain = Chain::new(device, &believed.geometry, believed.file_id, segment);
    chain.end_page = known.and_then(|known| known.end_page).unwrap_or(chain.end_page).min(chain.end_page);
    chain.generation = known.map(|known| known.generation);
    let mut records = Vec::new();
    while let Some(record) = chain.next()? {
        let generation = record.header.generation;
        if known.is_none() && !believed.believes(segment, generation) {
            return Ok(None);
        }
        chain.generation = Some(generation);
        records.push(record);
    }
    let found = match (known, records.first()) {
        (Some(known), _) => DirtySegment {
            dead: known.dead.to_vec(),
            ..DirtySegment::new(segment, known.generation, known.first_sequence)
        },
        (None, Some(first)) => DirtySegment::new(segment, first.header.generation, first.header.sequence),
        (None, None) => return Ok(None),
    };
    Ok(Some((found, records)))
}

/// Whether no record behind the chain of `segment` says that one was synced which the chain has not.
fn check_behind(
    device: &dyn Device,
    believed: &Believed,
    segment: &DirtySegment,
    records: &[Located],
) -> Result<()> {
    let mut chain = Chain::new(device, &believed.geometry, believed.file_id, segment.segment);
    let known = believed.dirty_segments.get(&segment.segment);
    let known_end =
        known.filter(|known| known.generation == segment.generation).and_then(|known| known.end_page);
    chain.end_page = known_end.unwrap_or(chain.end_page).min(chain.end_page);
    chain.generation = Some(segment.generation);
    chain.last_sequence = segment.first_sequence - 1;
    if let Some(record) = records.last() {
        chain.page = record.page + record.header.pages(believed.geometry.block_size);
        chain.last_sequence = record.header.sequence;
    }
    let last = chain.last_sequence;
    chain.reads_ahead = true;
    while chain.page < chain.end_page {
        match chain.next()? {
            Some(record) if record.header.synced_through > last => return Err(missing(last + 1)),
            Some(_) => {}
            None => chain.page += 1,
        }
    }
    Ok(())
}

/// Walks the records of a segment. What an earlier use of it left behind the last one is told from the next twice, by a
/// lower generation and by a sequence that is not higher. Of a log that goes round either alone would do; but sequences
/// that were given up are given out again, and then the generation alone tells.
struct Chain<'a> {
    device: &'a dyn Device,
    size: BlockSize,
    file_id: u64,
    segment: u32,
    segment_offset: u64,
    generation: Option<u32>,
    page: u32,
    end_page: u32,
    last_sequence: u64,
    /// The next header is near, so that it is worth reading with this one.
    reads_ahead: bool,
    window: PageBuf,
    /// The first page in the window; none when there is nothing in it.
    window_page: Option<u32>,
    window_bytes: usize,
}

impl<'a> Chain<'a> {
    fn new(device: &'a dyn Device, geometry: &Geometry, file_id: u64, segment: u32) -> Self {
        Self {
            device,
            size: geometry.block_size,
            file_id,
            segment,
            segment_offset: geometry.segment_offset(segment),
            generation: None,
            page: 0,
            end_page: (geometry.segment_bytes / PAGE_BYTES as u64) as u32,
            last_sequence: 0,
            reads_ahead: false,
            window: PageBuf::zeroed(0),
            window_page: None,
            window_bytes: 0,
        }
    }

    fn next(&mut self) -> Result<Option<Located>> {
        if self.page >= self.end_page {
            return Ok(None);
        }
        let place = RecordPlace {
            file_id: self.file_id,
            segment: self.segment,
            generation: self.generation,
            pages_left: self.end_page - self.page,
        };
        let at = self.load(1)?;
        let Some(pages) = RecordHeader::peek_pages(&self.window[at..at + PAGE_BYTES], place, self.size)
        else {
            return Ok(None);
        };
        if pages > place.pages_left {
            return Ok(None);
        }
        let at = self.load(pages)?;
        let bytes = &self.window[at..at + pages as usize * PAGE_BYTES];
        let header = RecordHeader::from_bytes(bytes, place, self.size);
        let Some(header) = header.filter(|header| header.sequence > self.last_sequence) else {
            return Ok(None);
        };
        let page = self.page;
        let length = header.pages(self.size);
        self.page += length;
        self.reads_ahead = length as usize * PAGE_BYTES <= WINDOW_BYTES / 4;
        self.last_sequence = header.sequence;
        Ok(Some(Located { header, page }))
    }

    /// Where in the window the current page is, with at least `pages` pages from it on.
    fn load(&mut self, pages: u32) -> Result<usize> {
        let bytes = pages as usize * PAGE_BYTES;
        let at = self
            .window_page
            .and_then(|first| self.page.checked_sub(first))
            .map(|ahead| ahead as usize * PAGE_BYTES);
        if let Some(at) = at.filter(|at| at + bytes <= self.window_bytes) {
            return Ok(at);
        }
        let left = (self.end_page - self.page) as usize * PAGE_BYTES;
        let length = if self.reads_ahead { bytes.max(WINDOW_BYTES) } else { bytes }.min(left);
        if length > self.window.len() {
            self.window = PageBuf::zeroed(length);
        }
        let offset = self.segment_offset + u64::from(self.page) * PAGE_BYTES as u64;
        self.device.read(offset, &mut [IoSliceMut::new(&mut self.window[..length])])?;
        (self.window_page, self.window_bytes) = (Some(self.page), length);
        Ok(0)
    }
}

/// How many of `records`, which are in order, belong to the log: up to the first that was not promised and is not whole.
fn count_whole(
    device: &dyn Device,
    geometry: &Geometry,
    records: &[Located],
    first: u64,
    synced: u64,
    is_there: bool,
) -> Result<usize> {
    let mut wanted = first;
    for (index, record) in records.iter().enumerate() {
        let is_next = record.header.sequence == wanted;
        if wanted <= synced {
            if !is_next {
                return Err(missing(wanted));
            }
        } else if !is_next || !is_whole(device, geometry, record)? {
            return Ok(index);
        }
        wanted += 1;
    }
    if is_there && wanted <= synced { Err(missing(wanted)) } else { Ok(records.len()) }
}

fn missing(record: u64) -> Error {
    Error::Damaged { what: format!("record {record} of its dirty blocks is missing") }
}

/// Whether the data of the record are what was written.
fn is_whole(device: &dyn Device, geometry: &Geometry, record: &Located) -> Result<bool> {
    for (page, entry) in record.copies(geometry.block_size) {
        if !is_copy_whole(device, geometry, &record.header, page, entry)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the data of one copy, from this page of its segment on, are what was written.
pub(super) fn is_copy_whole(
    device: &dyn Device,
    geometry: &Geometry,
    header: &RecordHeader,
    page: u32,
    entry: &RecordEntry,
) -> Result<bool> {
    let pages = page_count(&entry.mask, geometry.block_size);
    let mut data = PageBuf::zeroed(pages as usize * PAGE_BYTES);
    let offset = geometry.segment_offset(header.segment) + u64::from(page) * PAGE_BYTES as u64;
    device.read(offset, &mut [IoSliceMut::new(&mut data)])?;
    let data = std::iter::once(&data[..]);
    Ok(block_crc_of(header.file_id, entry.block, header.generation, data) == entry.crc)
}

/// Puts the copies of a record in place of older ones.
fn restore(log: &mut DirtyLog, believed: &Believed, record: Located) {
    let size = believed.geometry.block_size;
    let RecordHeader { generation, epoch, entries, .. } = record.header;
    let mut page = record.page + header_pages(entries.len(), size);
    for RecordEntry { block, version, crc, mask } in entries {
        let pages = page_count(&mask, size);
        // What the checkpoint calls dead the log knows by the bits of its segment.
        let doubt = believed.doubt_of_logged(block, version);
        // Of an epoch that is below an older copy would go over a newer one there.
        let is_below = (1..=believed.volumes.destaged_epoch(block.volume())).contains(&epoch);
        let state = if is_below { CopyState::Destaged } else { CopyState::Dirty };
        let copy = LogCopy { generation, page, index: 0, crc, version, mask, epoch, state };
        log.restore_next_copy(block, copy, doubt.is_some());
        page += pages;
    }
}

impl Believed {
    /// Why the copy in this place of the log (segment, generation, number of the copy) is not to be used, whatever
    /// else there is of its block; none when it may be.
    pub(super) fn doubt_in_log(
        &self,
        (segment, generation, index): (u32, u32, u32),
        block: BlockId,
        version: Version,
    ) -> Option<Doubt> {
        let known = self.dirty_segments.get(&segment).filter(|known| known.generation == generation);
        if known.is_some_and(|known| is_dead_in(&known.dead, index)) {
            return Some(Doubt::DeadAtCheckpoint);
        }
        self.doubt_of_logged(block, version)
    }

    /// The same of a copy that the checkpoint does not call dead.
    fn doubt_of_logged(&self, block: BlockId, version: Version) -> Option<Doubt> {
        if !self.volumes.contains(block.volume()) {
            return Some(Doubt::NoVolume);
        }
        self.is_overwritten(block, version).then_some(Doubt::Overwritten)
    }
}

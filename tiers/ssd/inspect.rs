//! A cache file at rest, looked at without writing to it.
//!
//! | file    | what it answers                                        |
//! |---------|--------------------------------------------------------|
//! | inspect | what the file holds, by volume                         |
//! | explain | which copies of a block there are, and which one wins  |
//! | verify  | what of the file is damaged, and what that costs       |
//!
//! Invariants:
//! 1. Nothing here writes: a [`Device`] is read and never written, synced or discarded.
//! 2. What is believed is what recovery believes: [`FileAtRest::open`] is opening up to where that would write, and
//!    reasons come from [`Believed::doubt`] and [`Believed::doubt_in_log`], which say what recovery itself asks.

mod explain;
mod verify;

use std::collections::BTreeMap;

use crate::block::{SECTOR_BYTES, VolumeId, mask};
use crate::device::{Device, Identity};
use crate::error::Result;

use super::format::Pages;
use super::geometry::Geometry;
use super::record::SectorMask;
use super::recover::{self, Believed};
use super::recover_log::{self, Located};
use super::scan::{self, Scan};
use super::segment::{State, Stream};
use super::{Ssd, SsdPolicy};

pub use explain::{CopyPlace, Explanation, FoundCopy, Verdict};
pub use verify::{Finding, Row, Severity, Structure, Watcher, verify};

/// A cache file that nobody has open, as the next opening will find it.
pub struct FileAtRest<'a> {
    device: &'a dyn Device,
    /// Opened up to where it would write: nothing of it is ever run or planned.
    ssd: Ssd,
}

/// What a cache file holds.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// The version of the format.
    pub format: u32,
    pub file_id: u64,
    pub geometry: Geometry,
    /// Nothing was changed since it was closed by its owner.
    pub is_closed_in_order: bool,
    /// How many entries recovery takes from the journal.
    pub journal_entries: u64,
    pub volumes: Vec<VolumeInfo>,
    pub segments: SegmentCounts,
    pub counters: FileCounters,
}

/// One volume in a cache file.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    pub id: VolumeId,
    pub name: String,
    /// What its backing store looked like when it was left in order.
    pub identity: Option<Identity>,
    pub warmth: Warmth,
    /// Blocks whose clean copy is believed; a cold volume loses them when it is attached.
    pub clean_blocks: u64,
    /// Blocks that its backing store does not have.
    pub dirty_blocks: u64,
    /// Bytes of these that were written.
    pub dirty_bytes: u64,
    /// Ranges that were discarded, which its backing store was not told yet: it still has what was in them.
    pub discarded_ranges: u64,
    /// When the oldest dirty copy was written, by the cache's clock: seconds since 1970, where that was the
    /// system's.
    pub oldest_dirty_s: Option<u32>,
    /// Where the last block starts in the volume that is dirty, or discarded.
    pub last_dirty_offset: Option<u64>,
    /// The serial number of the volume's mark that the file knows (see `crate::mark`); 0 for none.
    pub mark: u64,
}

impl VolumeInfo {
    /// Whether its backing store lacks anything of what the file has.
    pub fn is_dirty(&self) -> bool {
        self.dirty_blocks > 0 || self.discarded_ranges > 0
    }
}

/// Whether clean copies of a volume serve again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warmth {
    /// If the backing store looks as it is recorded.
    Warm,
    /// It was in use when the file was left.
    ColdNotDetached,
    /// The same, and copies that a sync covers serve again when nobody else wrote to its backing store.
    WarmIfExclusive,
    /// It was left in order, but its backing store does not say whether it changed.
    ColdNoIdentity,
}

/// What the segments of a file are to recovery.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SegmentCounts {
    /// Sealed, of blocks from RAM.
    pub clean: u32,
    /// Sealed, of blocks kept when another segment was emptied.
    pub reinserted: u32,
    /// Of the log of dirty blocks.
    pub dirty: u32,
    /// Free, those not written yet and those forgotten included.
    pub free: u32,
    /// Of the free ones: never written.
    pub unwritten: u32,
    /// Of the free ones: in use when the file was left, and without a summary, so that what was in them is forgotten.
    pub forgotten: u32,
}

/// What is counted on from opening to opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileCounters {
    pub openings: u32,
    pub checkpoints: u64,
    pub superblock_sequence: u64,
    pub journal_last: u64,
    pub next_generation: u32,
    pub next_sequence: u64,
    pub next_volume: u32,
    pub next_record: u64,
    /// Every record up to this one was durable.
    pub records_synced: u64,
}

impl<'a> FileAtRest<'a> {
    /// Reads what an opening reads. Takes as much memory as that: 20 bytes for every block there is room for.
    ///
    /// # Errors
    /// Those of [`Ssd::open`]; whatever refuses to open is refused here for the same reason.
    pub fn open(device: &'a dyn Device) -> Result<Self> {
        let geometry = recover::geometry_of(device)?;
        let mut ssd = Ssd::recover(device, geometry, SsdPolicy::default())?;
        ssd.scan_all(device);
        Ok(Self { device, ssd })
    }

    pub fn geometry(&self) -> Geometry {
        self.ssd.geometry
    }

    /// The number of the volume of this name.
    pub fn volume(&self, name: &str) -> Option<VolumeId> {
        self.ssd.volumes.find(name).map(|(id, _)| id)
    }

    fn scan(&self) -> &Scan {
        self.ssd.scan.as_ref().expect("a scan is there until a checkpoint is durable, and none is made")
    }

    fn believed(&self) -> &Believed {
        self.scan().believed()
    }

    /// What the file holds.
    ///
    /// # Errors
    /// Those of the device.
    pub fn info(&self) -> Result<FileInfo> {
        let (ssd, counters) = (&self.ssd, &self.scan().counters);
        let journal_last = ssd.journal.durable().0;
        let file_counters = FileCounters {
            openings: ssd.opening - 1,
            checkpoints: ssd.checkpoint_number,
            superblock_sequence: ssd.superblock_sequence,
            journal_last,
            next_generation: ssd.log.next_generation,
            next_sequence: ssd.log.next_sequence,
            next_volume: ssd.volumes.next(),
            next_record: ssd.dirty.next_sequence,
            records_synced: counters.records_synced,
        };
        Ok(FileInfo {
            format: super::format::FORMAT,
            file_id: ssd.file_id,
            geometry: ssd.geometry,
            is_closed_in_order: self.believed().is_clean,
            journal_entries: journal_last - counters.absorbed,
            volumes: self.volumes()?,
            segments: self.count_segments(),
            counters: file_counters,
        })
    }

    fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        let believed = self.believed();
        let mut volumes: BTreeMap<VolumeId, VolumeInfo> = BTreeMap::new();
        for record in self.ssd.volumes.records() {
            let warmth = match record.identity {
                Some(_) => Warmth::Warm,
                None if self.ssd.volumes.synced_through(record.id).is_some() => Warmth::WarmIfExclusive,
                None if believed.is_clean => Warmth::ColdNoIdentity,
                None => Warmth::ColdNotDetached,
            };
            let info = VolumeInfo {
                id: record.id,
                name: record.name.clone(),
                identity: record.identity,
                warmth,
                clean_blocks: 0,
                dirty_blocks: 0,
                dirty_bytes: 0,
                discarded_ranges: 0,
                oldest_dirty_s: None,
                last_dirty_offset: None,
                mark: self.ssd.volumes.mark_of(&record.name),
            };
            volumes.insert(record.id, info);
        }
        for block in self.ssd.index.blocks() {
            if let Some(volume) = volumes.get_mut(&block.volume()) {
                volume.clean_blocks += 1;
            }
        }
        let (_, records) = recover_log::read_records(self.device, believed)?;
        for record in &records {
            self.add_dirty(record, &mut volumes);
        }
        for tombstone in self.ssd.dirty.tombstones.iter() {
            let Some(volume) = volumes.get_mut(&tombstone.volume()) else { continue };
            let last = tombstone.last().byte_offset(self.geometry().block_size);
            volume.discarded_ranges += 1;
            volume.last_dirty_offset = volume.last_dirty_offset.max(Some(last));
        }
        Ok(volumes.into_values().collect())
    }

    /// Counts the blocks whose last copy to go below is in `record`, and the age of every copy there that does.
    fn add_dirty(&self, record: &Located, volumes: &mut BTreeMap<VolumeId, VolumeInfo>) {
        let size = self.geometry().block_size;
        for (page, entry) in record.copies(size) {
            let dirty = self.ssd.dirty.dirty_copies(entry.block);
            let Some(at) = dirty.iter().position(|copy| copy.is_at(record.header.generation, page)) else {
                continue;
            };
            let Some(volume) = volumes.get_mut(&entry.block.volume()) else { continue };
            let (oldest, written) = (volume.oldest_dirty_s, record.header.written_s);
            volume.oldest_dirty_s = Some(oldest.map_or(written, |oldest| oldest.min(written)));
            if at > 0 {
                continue;
            }
            volume.dirty_blocks += 1;
            let mut sectors = entry.mask.clone();
            dirty.iter().for_each(|copy| mask::add(&mut sectors, &copy.mask));
            let sectors = mask::runs(&sectors, size.sectors()).map(|run| run.len()).sum::<usize>();
            volume.dirty_bytes += (sectors * SECTOR_BYTES) as u64;
            volume.last_dirty_offset = volume.last_dirty_offset.max(Some(entry.block.byte_offset(size)));
        }
    }

    fn count_segments(&self) -> SegmentCounts {
        let believed = self.believed();
        let mut counts = SegmentCounts::default();
        for (number, segment) in (0..).zip(&self.ssd.log.segments) {
            match segment.state {
                State::Dirty => counts.dirty += 1,
                State::Sealed => match self.stream_of(number) {
                    Some(Stream::Reinserted) => counts.reinserted += 1,
                    _ => counts.clean += 1,
                },
                _ => {
                    counts.free += 1;
                    counts.unwritten += u32::from(!segment.is_prepared);
                    counts.forgotten += u32::from(believed.is_checkpointed(number));
                }
            }
        }
        counts
    }

    fn stream_of(&self, segment: u32) -> Option<Stream> {
        let mut pages = Pages::new(self.geometry().summary_bytes() as usize);
        let summary = scan::read_summary(self.device, self.believed(), segment, &mut pages);
        summary.map(|summary| summary.stream)
    }
}

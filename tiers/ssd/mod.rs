//! L2: clean blocks in a log of segments on an SSD.
//!
//! | file       | what it knows                                                                      |
//! |------------|------------------------------------------------------------------------------------|
//! | geometry   | where things lie in the file                                                       |
//! | format     | the bytes of superblock, frame and summary                                         |
//! | encoding   | the bytes of journal entries and checkpoint items                                  |
//! | plan       | the plans given out, and their I/O                                                 |
//! | table, index | which block is in which place; and in parts, which can be lent                    |
//! | moving_index | the same, while it gets tables of another size                                   |
//! | log        | segments and slots: who is written to, who goes next                               |
//! | segment    | the states of one segment                                                          |
//! | slot_bits  | three bits a slot: live, and how often it was hit                                  |
//! | admission  | policy: which blocks are written, which are kept                                   |
//! | clean      | writing, reading and sealing clean copies                                          |
//! | log_filter | which blocks the log of dirty blocks may have, in a few bits                        |
//! | journal    | what recovery must know beyond the last checkpoint                                 |
//! | record     | the bytes of records of dirty blocks                                               |
//! | header_pages | the memory in which their headers are put together                               |
//! | dirty_log  | blocks newer than the backing store: the copies of each, until they are below      |
//! | dirty, log_read | writing, reading and destaging them                                            |
//! | recover_log | finding them again                                                                |
//! | memory     | the RAM that all this takes at the most                                            |
//! | tombstones | ranges that read as zeros and are not discarded below                              |
//! | volumes, attach | numbers and identities of volumes; attaching and leaving them                 |
//! | checkpoint | writing and reading one                                                            |
//! | resize     | another size of the file                                                           |
//! | recover    | which copies of a file at rest are believed                                        |
//! | inspect    | what a file at rest holds, explained and verified; never writes                    |
//! | overwritten | what of them the journal calls void                                               |
//! | scan, install | finds clean copies again while the tier serves                                  |
//! | id_ranges  | ranges of ids                                                                      |
//! | stats      | the counters                                                                       |
//! | fuzz       | any bytes in place of a file's, for tests                                          |
//! | mod, void  | [`Ssd`]: all of them together, in plan, run, finish                                |
//!
//! ```text
//! demote: plan_demote -> append -> finish_append -> SealPlan::run -> finish_seal
//! read:   plan_read -> Device::read, ReadPlan::verify -> finish_read
//! space:  plan_reclaim -> ReclaimPlan::run -> plan_moves -> read, append -> finish_moves -> finish_reclaim
//! open:   open_early -> plan_scan -> ScanPlan::run -> plan_install -> Install::run -> finish_install, beside all of these
//! write:  void -> plan_journal -> JournalWrite::run -> finish_journal -> the write below
//! ```
//!
//! Invariants:
//! 1. The index names at most one copy of a block. Any other copy that recovery could believe is covered by a journal
//!    entry; while that is not durable, [`Ssd::journal_pending`] says so, and writes below wait for it.
//! 2. What the index names is in a segment that is open, sealing, sealed, or being emptied.
//! 3. A slot is written once in a generation, and the checksum knows the generation: bytes read from a segment that
//!    was reused meanwhile never pass.
//! 4. Decisions depend on the calls alone: a simulated tier makes the same ones as one with a device.

mod admission;
mod attach;
mod checkpoint;
mod clean;
mod dirty;
mod dirty_log;
mod encoding;
mod format;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod geometry;
mod header_pages;
mod id_ranges;
mod index;
mod inspect;
mod install;
mod journal;
mod log;
mod log_filter;
mod log_read;
mod memory;
mod moving_index;
mod overwritten;
mod plan;
mod record;
mod recover;
mod recover_log;
mod resize;
mod scan;
mod segment;
mod slot_bits;
mod stats;
mod table;
mod tombstones;
mod void;
mod volumes;

#[cfg(test)]
mod tests;

use std::io::{IoSlice, IoSliceMut};

use std::collections::BTreeSet;

use crate::block::{BlockId, PAGE_BYTES, Version};
use crate::device::Device;
use crate::error::{Error, Result};

pub use admission::SsdPolicy;
pub use checkpoint::CheckpointPlan;
pub use dirty::DestageRun;
pub use dirty_log::{LogFate, LogKeepers, LogSync, LogTicket, NewCopy};
pub use geometry::Geometry;
pub use inspect::{
    CopyPlace, Explanation, FileAtRest, FileCounters, FileInfo, Finding, FoundCopy, Row, SegmentCounts,
    Severity, Structure, Verdict, VolumeInfo, Warmth, Watcher, verify,
};
pub use install::Install;
pub use journal::{JournalPlan, JournalSeq, JournalWrite};
pub use log_read::LogRead;
pub use plan::{
    Demote, Entry, Move, ReadPlan, ReadVerdict, ReclaimPlan, Refusal, SealPlan, SlotPlan, append,
};
pub use record::{RecordPlan, SectorMask, record_bytes};
pub use recover::Doubt;
pub use scan::{ScanPlan, Scanned};
pub use stats::SsdStats;
pub use tombstones::Tombstone;
pub use void::VoidMark;
pub use volumes::VolumeRecord;

use admission::Admission;
use dirty_log::DirtyLog;
use encoding::JournalEntry;
use format::{Pages, crc32c};
use header_pages::SparePages;
use journal::Journal;
use log::Log;
use moving_index::MovingIndex;
use scan::Scan;
use void::region_of;
use volumes::Volumes;

/// The bookkeeping of the SSD tier.
pub struct Ssd {
    geometry: Geometry,
    /// What the superblocks say.
    durable_geometry: Geometry,
    file_id: u64,
    opening: u32,
    is_simulated: bool,
    log: Log,
    index: MovingIndex,
    dirty: DirtyLog,
    spare_pages: SparePages,
    admission: Admission,
    journal: Journal,
    volumes: Volumes,
    /// Until a checkpoint after the last summary of an opened file is durable.
    scan: Option<Scan>,
    /// Regions whose clean copies recovery drops, by a mark since the last checkpoint that absorbed the journal.
    marked: BTreeSet<(u32, u64)>,
    /// The cache has not been full yet.
    fills: bool,
    superblock_sequence: u64,
    /// The copy of the superblock that a checkpoint writes first: after a crash it is not the one that was believed.
    superblock_first: usize,
    checkpoint_area: u32,
    checkpoint_number: u64,
    checkpoint_is_running: bool,
    stats: SsdStats,
}

impl Ssd {
    /// With no device behind it: the same decisions, no bytes. Entries of sealed segments are kept in RAM.
    pub fn simulated(geometry: Geometry, policy: SsdPolicy) -> Self {
        Self::empty(geometry, policy, 0, true)
    }

    fn empty(geometry: Geometry, policy: SsdPolicy, file_id: u64, is_simulated: bool) -> Self {
        Self {
            geometry,
            durable_geometry: geometry,
            file_id,
            opening: 1,
            is_simulated,
            log: Log::new(geometry, file_id, is_simulated),
            index: if is_simulated {
                MovingIndex::growing(geometry.slot_count())
            } else {
                MovingIndex::new(geometry.slot_count())
            },
            dirty: DirtyLog::new(&geometry),
            spare_pages: SparePages::default(),
            admission: Admission::new(policy, geometry.capacity_blocks()),
            journal: Journal::new(geometry, file_id, is_simulated),
            volumes: Volumes::new(&geometry, 0),
            scan: None,
            marked: BTreeSet::new(),
            fills: true,
            superblock_sequence: 0,
            superblock_first: 0,
            checkpoint_area: 1,
            checkpoint_number: 0,
            checkpoint_is_running: false,
            stats: SsdStats::default(),
        }
    }

    /// Makes a new, empty cache file on `device`. What was there before is gone, also when this fails.
    ///
    /// # Errors
    /// Those of the device; [`Error::OutOfRange`] when it is too small.
    pub fn create(device: &dyn Device, geometry: Geometry, policy: SsdPolicy) -> Result<Self> {
        if device.len_bytes() < geometry.file_bytes() {
            let (bytes, end) = (geometry.file_bytes(), device.len_bytes());
            return Err(Error::OutOfRange { offset: 0, bytes, end });
        }
        let file_id = new_file_id(device, &geometry)?;
        // No superblock of before may outlive the journal that belongs to it.
        device.write(0, &[IoSlice::new(&Pages::new(2 * PAGE_BYTES))])?;
        device.sync()?;
        let mut ssd = Self::empty(geometry, policy, file_id, false);
        ssd.stats.bytes_written = 2 * PAGE_BYTES as u64;
        ssd.checkpoint(device)?;
        Ok(ssd)
    }

    /// Whether `device` begins with zeros, or with what a [`Self::create`] left that the power cut short: there is
    /// nothing to open, and nothing to lose.
    ///
    /// # Errors
    /// Those of the device.
    pub fn is_unmade(device: &dyn Device) -> Result<bool> {
        recover::is_unmade(device)
    }

    /// Opens an existing one: superblock, checkpoint, journal, log, summaries. Its layout is the one that it has; of
    /// `wanted` the block size must be the same.
    ///
    /// # Errors
    /// Those of the device; [`Error::NotACacheFile`], [`Error::Mismatch`] with the field, [`Error::Damaged`].
    pub fn open(device: &dyn Device, wanted: Geometry, policy: SsdPolicy) -> Result<Self> {
        let mut ssd = Self::recover(device, wanted, policy)?;
        ssd.scan_all(device);
        ssd.checkpoint(device)?;
        Ok(ssd)
    }

    /// The same, but for the summaries, which are read while the tier serves: [`Self::plan_scan`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_early(device: &dyn Device, wanted: Geometry, policy: SsdPolicy) -> Result<Self> {
        let mut ssd = Self::recover(device, wanted, policy)?;
        ssd.checkpoint(device)?;
        Ok(ssd)
    }

    fn recover(device: &dyn Device, wanted: Geometry, policy: SsdPolicy) -> Result<Self> {
        // What a process that died wrote and did not sync is read as if it were durable. Were it lost later, with the
        // checkpoint of before written over already, there would be none.
        device.sync()?;
        let found = recover::recover(device, wanted.block_size)?;
        let geometry = found.superblock.geometry;
        let unread = found.log.unread().collect();
        let index = MovingIndex::new(geometry.slot_count());
        let mut scan =
            Scan::new(found.believed, found.counters, unread, found.dirty.restored(), index.spread());
        scan.ghosts = found.more_ghosts;
        let mut ssd = Self {
            geometry,
            durable_geometry: geometry,
            file_id: found.superblock.file_id,
            opening: found.superblock.opening + 1,
            is_simulated: false,
            fills: false,
            log: found.log,
            index,
            dirty: found.dirty,
            spare_pages: SparePages::default(),
            admission: Admission::new(policy, geometry.capacity_blocks()),
            journal: found.journal,
            volumes: found.volumes,
            scan: Some(scan),
            marked: BTreeSet::new(),
            superblock_sequence: found.superblock.sequence,
            superblock_first: 1 - found.copy,
            checkpoint_area: found.superblock.checkpoint_area,
            checkpoint_number: found.superblock.checkpoint_number,
            checkpoint_is_running: false,
            stats: SsdStats::default(),
        };
        for entry in &found.ghosts {
            ssd.admission.restore_ghosts(entry);
        }
        if !ssd.is_scanning() {
            ssd.end_scan();
        }
        Ok(ssd)
    }

    /// How the cache file on `device` is laid out.
    ///
    /// # Errors
    /// Those of the device; [`Error::NotACacheFile`], [`Error::Mismatch`] with the format, [`Error::Damaged`].
    pub fn geometry_of(device: &dyn Device) -> Result<Geometry> {
        recover::geometry_of(device)
    }

    fn checkpoint(&mut self, device: &dyn Device) -> Result<()> {
        let plan = self.plan_checkpoint(false);
        plan.run(device)?;
        self.finish_checkpoint(plan, true);
        Ok(())
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub fn stats(&self) -> SsdStats {
        let segments = u64::from(self.geometry.segment_count);
        let segments_free = self.log.free_count() as u64;
        SsdStats {
            capacity_blocks: self.geometry.capacity_blocks(),
            cached_blocks: self.index.len() as u64,
            segments,
            segments_free,
            segments_in_use: segments - segments_free,
            segments_unread: self.segments_unread(),
            dirty_blocks: self.dirty_blocks(),
            index_bytes: self.dirty.bytes() + self.index.bytes() + self.log.bytes() + self.admission.bytes(),
            ..self.stats
        }
    }

    /// The first version of this opening.
    pub fn first_version(&self) -> Version {
        Version::first_of_opening(self.opening)
    }

    /// Takes the copy of `block` out of the index. True when recovery might still find it.
    fn drop_copy(&mut self, block: BlockId) -> bool {
        let may_be_in = self.index.is_lent(block);
        self.index.remove(block).is_some_and(|found| self.log.drop_copy(found.place)) || may_be_in
    }

    fn queue(&mut self, entry: JournalEntry) -> JournalSeq {
        self.admission.charge_journal_entry();
        self.journal.queue(entry)
    }
}

/// A number that no cache file on `device` had before: from what is there now and what the device says of itself.
fn new_file_id(device: &dyn Device, geometry: &Geometry) -> Result<u64> {
    let mut pages = Pages::new(4 * PAGE_BYTES);
    let (superblocks, rest) = pages.split_at_mut(2 * PAGE_BYTES);
    let (journal, checkpoint) = rest.split_at_mut(PAGE_BYTES);
    device.read(0, &mut [IoSliceMut::new(superblocks)])?;
    device.read(geometry.journal_offset, &mut [IoSliceMut::new(journal)])?;
    device.read(geometry.checkpoint_offset, &mut [IoSliceMut::new(checkpoint)])?;
    let said = format!("{} {:?} {geometry:?}", device.name(), device.identity());
    let low = crc32c(&[&pages, said.as_bytes()]);
    let high = crc32c(&[said.as_bytes(), &low.to_le_bytes(), &pages]);
    Ok(u64::from(high) << 32 | u64::from(low))
}

//! Reads all of a cache file that recovery could ever believe, and names what is damaged and what that costs.
//!
//! Structure after structure, in the order in which recovery needs them, then segment after segment. What a crash may
//! leave (a torn end of the journal or the log, a segment without its summary) is *unfinished*: nobody was promised
//! it. Anything else that is not as it was written is *damage*.
//!
//! It holds the index of dirty blocks and one window of [`WINDOW_BYTES`], whatever the size of the file.

use std::io::IoSliceMut;

use crate::block::{BlockId, PAGE_BYTES};
use crate::device::Device;
use crate::error::{Error, Result};

use super::super::checkpoint::{self, GhostFrames};
use super::super::dirty_log::{DirtyLog, LogCopy};
use super::super::format::{Pages, Summary, Superblock};
use super::super::geometry::Geometry;
use super::super::journal::read_half;
use super::super::plan::{Entry, ReadPlan};
use super::super::record::{RecordEntry, RecordHeader};
use super::super::recover::{self, Loaded};
use super::super::recover_log::{self, Located};
use super::super::scan;

/// Blocks are read in pieces of so many bytes, or one at a time when they are larger.
const WINDOW_BYTES: usize = 1 << 20;

/// What is checked, each with its own row in the outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    Superblock,
    Checkpoint,
    JournalFrame,
    Summary,
    /// A block in a slot.
    CleanBlock,
    Record,
    /// A block in a record.
    DirtyBlock,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    Damage,
    /// What a crash may leave; nobody was promised more.
    Unfinished,
}

/// Something that is not whole.
#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    pub structure: Structure,
    /// Where it is.
    pub place: String,
    pub what: String,
    /// What recovery will do about it.
    pub consequence: String,
}

/// What was checked of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    pub structure: Structure,
    pub checked: u64,
    pub bytes: u64,
    pub damaged: u64,
    pub unfinished: u64,
}

/// Who is told of the progress, in bytes of the file, and of what is found.
pub trait Watcher {
    fn at(&mut self, bytes: u64);
    fn found(&mut self, finding: Finding);
}

/// Checks the file on `device`, and tells `watcher` what is not whole.
///
/// # Errors
/// Those of the device where the file says what is in it (elsewhere they are damage); [`Error::NotACacheFile`] and
/// [`Error::Mismatch`] when there is nothing to check.
pub fn verify(device: &dyn Device, watcher: &mut dyn Watcher) -> Result<[Row; 7]> {
    use Structure::{Checkpoint, CleanBlock, DirtyBlock, JournalFrame, Record, Summary, Superblock};
    let kinds = [Superblock, Checkpoint, JournalFrame, Summary, CleanBlock, Record, DirtyBlock];
    let rows = kinds.map(|structure| Row { structure, checked: 0, bytes: 0, damaged: 0, unfinished: 0 });
    let mut verifier = Verifier { device, watcher, rows };
    match verifier.check_all() {
        Ok(()) => Ok(verifier.rows),
        Err(error) => Err(error),
    }
}

struct Verifier<'a> {
    device: &'a dyn Device,
    watcher: &'a mut dyn Watcher,
    rows: [Row; 7],
}

const REFUSED: &str = "the file is refused: its clean copies are lost, its dirty blocks out of reach";

impl Verifier<'_> {
    fn row(&mut self, structure: Structure) -> &mut Row {
        self.rows.iter_mut().find(|row| row.structure == structure).expect("every kind has a row")
    }

    fn checked(&mut self, structure: Structure, bytes: u64) {
        let row = self.row(structure);
        row.checked += 1;
        row.bytes += bytes;
    }

    fn found(
        &mut self,
        severity: Severity,
        structure: Structure,
        place: String,
        what: impl Into<String>,
        consequence: impl Into<String>,
    ) {
        let row = self.row(structure);
        match severity {
            Severity::Damage => row.damaged += 1,
            Severity::Unfinished => row.unfinished += 1,
        }
        let (what, consequence) = (what.into(), consequence.into());
        self.watcher.found(Finding { severity, structure, place, what, consequence });
    }

    fn damage(&mut self, structure: Structure, place: String, what: impl Into<String>, consequence: &str) {
        self.found(Severity::Damage, structure, place, what, consequence);
    }

    fn unfinished(&mut self, structure: Structure, place: String, what: &str, consequence: &str) {
        self.found(Severity::Unfinished, structure, place, what, consequence);
    }

    fn check_all(&mut self) -> Result<()> {
        let Some(geometry) = self.check_superblocks()? else { return Ok(()) };
        self.watcher.at(2 * PAGE_BYTES as u64);
        self.check_checkpoints(&geometry)?;
        let loaded = match recover::load(self.device, geometry.block_size) {
            Ok(loaded) => loaded,
            Err(Error::Damaged { what }) => {
                if self.rows.iter().all(|row| row.damaged == 0) {
                    self.damage(Structure::JournalFrame, "journal".into(), what, REFUSED);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.check_journal(&loaded)?;
        self.watcher.at(geometry.segments_offset);
        let log = match recover_log::recover_log(self.device, &loaded.believed, &loaded.counters) {
            Ok(log) => Some(log),
            Err(Error::Damaged { what }) => {
                self.damage(Structure::Record, "log of dirty blocks".into(), what, REFUSED);
                None
            }
            Err(error) => return Err(error),
        };
        for segment in 0..geometry.segment_count {
            match recover_log::read_segment(self.device, &loaded.believed, segment)? {
                Some((_, records)) => self.check_records(&loaded, log.as_ref(), segment, &records),
                None => self.check_segment(&loaded, log.as_ref(), segment),
            }
            self.watcher.at(geometry.segment_offset(segment) + geometry.segment_bytes);
        }
        Ok(())
    }

    /// The layout, if a superblock is whole.
    fn check_superblocks(&mut self) -> Result<Option<Geometry>> {
        let structure = Structure::Superblock;
        let geometry = match recover::geometry_of(self.device) {
            Ok(geometry) => geometry,
            Err(Error::Damaged { what }) => {
                self.damage(structure, "offset 0".into(), what, REFUSED);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut pages = Pages::new(2 * PAGE_BYTES);
        self.device.read(0, &mut [IoSliceMut::new(&mut pages)])?;
        for (copy, page) in pages.chunks_exact(PAGE_BYTES).enumerate() {
            self.checked(structure, PAGE_BYTES as u64);
            if Superblock::from_page(page).is_err() {
                let place = format!("copy {copy} at offset {}", copy * PAGE_BYTES);
                let consequence = "recovery takes the other copy, and the next opening writes both anew";
                self.damage(structure, place, "it fails its checksum", consequence);
            }
        }
        Ok(Some(geometry))
    }

    fn check_checkpoints(&mut self, geometry: &Geometry) -> Result<()> {
        let superblocks = recover::read_superblocks(self.device)?;
        let mut checked: Vec<(u64, u32, bool)> = Vec::new();
        // One of another layout is refused by `load`, and says nothing that could be read.
        for (copy, superblock) in superblocks.into_iter().filter(|(_, found)| found.geometry == *geometry) {
            let (number, area) = (superblock.checkpoint_number, superblock.checkpoint_area);
            if checked.iter().any(|&(known, known_area, _)| (known, known_area) == (number, area)) {
                continue;
            }
            let (damage, ghosts) = match checkpoint::load(self.device, &superblock) {
                Ok(checkpoint) => (None, checkpoint.ghosts),
                Err(Error::Damaged { what }) => (Some(what), None),
                Err(error) => return Err(error),
            };
            self.checked(Structure::Checkpoint, superblock.checkpoint_bytes);
            checked.push((number, area, damage.is_none()));
            if let Some(what) = damage {
                let place = format!("checkpoint {number}, named by superblock copy {copy}");
                // The newest comes first: an older one is only a fallback.
                let is_fallback = checked.iter().any(|&(.., is_whole)| is_whole);
                let consequence = if is_fallback {
                    "none while the newer checkpoint is whole"
                } else {
                    "recovery goes back to an older checkpoint if there is one, else the file is refused"
                };
                self.damage(Structure::Checkpoint, place, what, consequence);
            } else if let Some(chunk) = ghosts.and_then(|ghosts| self.first_torn(ghosts)) {
                let (place, what) =
                    (format!("checkpoint {number}"), format!("chunk {chunk} fails its checksum"));
                let consequence = "some ids lately refused or evicted are forgotten, which costs hits";
                self.damage(Structure::Checkpoint, place, what, consequence);
            }
        }
        Ok(())
    }

    /// The number of the first frame of ghosts that is not whole.
    fn first_torn(&self, ghosts: GhostFrames) -> Option<u64> {
        let mut next = Some(ghosts);
        while let Some(ghosts) = next {
            let Some((_, more)) = ghosts.read(self.device) else { return Some(ghosts.chunk_index()) };
            next = more;
        }
        None
    }

    fn check_journal(&mut self, loaded: &Loaded) -> Result<()> {
        let (geometry, file_id) = (loaded.superblock.geometry, loaded.superblock.file_id);
        for half in 0..2 {
            let generation = loaded.counters.journal_generation;
            let end = read_half(self.device, &geometry, file_id, half, generation, |_| Ok(()))?;
            let row = self.row(Structure::JournalFrame);
            row.checked += end.frames;
            row.bytes += end.bytes;
            if end.is_torn {
                let place = format!("offset {}", geometry.journal_half_offset(half) + end.bytes);
                let what = "the last frame fails its checksum";
                self.unfinished(Structure::JournalFrame, place, what, "recovery takes what is before it");
            }
        }
        Ok(())
    }

    /// A segment that is none of the log.
    fn check_segment(&mut self, loaded: &Loaded, log: Option<&DirtyLog>, segment: u32) {
        let believed = &loaded.believed;
        if !believed.may_hold(segment) {
            return;
        }
        let geometry = believed.geometry;
        let place = format!("segment {segment}");
        let mut pages = Pages::new(geometry.summary_bytes() as usize);
        if let Err(error) = self.read(geometry.summary_offset(segment), &mut pages) {
            let consequence = "recovery forgets the copies in it; reads go to the backing store";
            return self.damage(Structure::Summary, place, error, consequence);
        }
        let generation = Summary::peek_generation(&pages, believed.file_id, segment);
        let is_expected = generation.is_some_and(|generation| believed.believes(segment, generation));
        let summary = scan::read_summary(self.device, believed, segment, &mut pages);
        if let Some(summary) = &summary {
            self.checked(Structure::Summary, geometry.summary_bytes());
            return self.check_blocks(loaded, log, summary);
        }
        let consequence = "recovery forgets the copies in it; reads go to the backing store";
        let (what, is_lost) = if is_expected {
            ("its summary fails its checksum", true)
        } else {
            ("it has no summary", believed.is_checkpointed(segment))
        };
        if is_lost && believed.is_clean {
            self.damage(Structure::Summary, place, what, consequence);
        } else if is_lost {
            self.unfinished(Structure::Summary, place, what, consequence);
        }
    }

    /// The copies that recovery believes in a sealed segment; neighbours are read together.
    fn check_blocks(&mut self, loaded: &Loaded, log: Option<&DirtyLog>, summary: &Summary) {
        let geometry = loaded.believed.geometry;
        let block_bytes = geometry.block_size.bytes();
        let survivors: Vec<Entry> = loaded.believed.survivors(summary).collect();
        let slots_at_once = (WINDOW_BYTES / block_bytes).min(survivors.len()).max(1);
        let mut window = Pages::new(slots_at_once * block_bytes);
        let mut rest = &survivors[..];
        while let Some(first) = rest.first() {
            let is_next = |(index, entry): &(usize, &Entry)| entry.slot == first.slot + *index as u32;
            let count = rest.iter().take(slots_at_once).enumerate().take_while(is_next).count();
            let (run, later) = rest.split_at(count);
            let bytes = &mut window[..count * block_bytes];
            let offset = geometry.slot_offset(summary.segment, first.slot);
            let is_read = self.read(offset, bytes).is_ok();
            for (entry, bytes) in run.iter().zip(window.chunks_exact_mut(block_bytes)) {
                let offset = geometry.slot_offset(summary.segment, entry.slot);
                // One bad sector makes the whole call fail: then each for itself.
                let failure = if is_read { None } else { self.read(offset, bytes).err() };
                self.check_block(loaded, log, summary, entry, failure.map_or(Ok(&*bytes), Err));
            }
            rest = later;
        }
    }

    fn check_block(
        &mut self,
        loaded: &Loaded,
        log: Option<&DirtyLog>,
        summary: &Summary,
        entry: &Entry,
        bytes: std::result::Result<&[u8], String>,
    ) {
        let Summary { segment, generation, file_id, .. } = *summary;
        let Entry { block, slot, crc, .. } = *entry;
        let offset = loaded.believed.geometry.slot_offset(segment, slot);
        self.checked(Structure::CleanBlock, loaded.believed.geometry.block_size.bytes() as u64);
        let plan = ReadPlan { block, segment, generation, slot, offset, crc, file_id };
        let what = match bytes {
            Ok(bytes) if plan.verify(bytes) => return,
            Ok(_) => "it fails its checksum".to_owned(),
            Err(error) => error,
        };
        let place = format!("{}, in slot {slot} of segment {segment}", name_of(loaded, block));
        let consequence = if log.is_some_and(|log| !log.read_copies(block).is_empty()) {
            "none: the log has a newer copy"
        } else {
            "the copy is dropped when it is read; reads go to the backing store"
        };
        self.damage(Structure::CleanBlock, place, what, consequence);
    }

    /// The records in a segment of the log.
    fn check_records(&mut self, loaded: &Loaded, log: Option<&DirtyLog>, segment: u32, records: &[Located]) {
        let size = loaded.believed.geometry.block_size;
        for record in records {
            let sequence = record.header.sequence;
            self.checked(Structure::Record, u64::from(record.header.pages(size)) * PAGE_BYTES as u64);
            if let Some(log) = log.filter(|log| sequence >= log.next_sequence) {
                let place = format!("record {sequence} in segment {segment}");
                let what =
                    format!("the log ends before record {}, which is missing or torn", log.next_sequence);
                let consequence = "recovery forgets it: nobody was promised it";
                self.unfinished(Structure::Record, place, &what, consequence);
                continue;
            }
            for (page, entry) in record.copies(size) {
                self.check_copy(loaded, log, &record.header, page, entry);
            }
        }
    }

    fn check_copy(
        &mut self,
        loaded: &Loaded,
        log: Option<&DirtyLog>,
        header: &RecordHeader,
        page: u32,
        entry: &RecordEntry,
    ) {
        let geometry = &loaded.believed.geometry;
        let bytes = u64::from(super::super::record::page_count(&entry.mask, geometry.block_size));
        self.checked(Structure::DirtyBlock, bytes * PAGE_BYTES as u64);
        let what = match recover_log::is_copy_whole(self.device, geometry, header, page, entry) {
            Ok(true) => return,
            Ok(false) => "it fails its checksum".to_owned(),
            Err(error) => show(&error),
        };
        let place = format!("{}, in record {}", name_of(loaded, entry.block), header.sequence);
        let is_this = |copy: &LogCopy| copy.is_at(header.generation, page);
        let is_dirty = log.is_none_or(|log| log.dirty_copies(entry.block).iter().any(is_this));
        let consequence = if is_dirty {
            "nothing else has it: reads of it fail, and it stays behind when the others are destaged"
        } else {
            "none: this copy is out of use"
        };
        self.damage(Structure::DirtyBlock, place, what, consequence);
    }

    /// As the device does it; the error in words.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> std::result::Result<(), String> {
        self.device.read(offset, &mut [IoSliceMut::new(bytes)]).map_err(|error| show(&error))
    }
}

fn show(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn name_of(loaded: &Loaded, block: BlockId) -> String {
    let mut records = loaded.believed.volumes.records();
    let name = records.find(|record| record.id == block.volume()).map_or("?", |record| &record.name);
    format!("block {} of volume {name}", block.number())
}

//! SKELETON: shapes only.
use crate::block::{BlockId, BlockSize, Version, VolumeId};
use crate::device::{Device, Identity};
use crate::error::Result;

/// How a cache file is laid out. All offsets and lengths are multiples of 4096.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub block_size: BlockSize,
    pub segment_bytes: u64,
    pub slots_per_segment: u32,
    pub segment_count: u32,
    /// Segments that may hold cached blocks for long; the rest are spare, so that there is always one to write to.
    pub capacity_segments: u32,
    pub journal_offset: u64,
    pub journal_bytes: u64,
    pub checkpoint_offset: u64,
    /// Of one of the two checkpoint areas.
    pub checkpoint_bytes: u64,
    pub segments_offset: u64,
}
impl Geometry {
    /// The best layout in a file of at most `file_bytes`.
    pub fn for_bytes(_block_size: BlockSize, _file_bytes: u64) -> Result<Self> { unimplemented!() }
    /// A layout that caches exactly `blocks` blocks (the file is larger by the spare segments).
    pub fn for_blocks(_block_size: BlockSize, _blocks: u64) -> Result<Self> { unimplemented!() }
    pub fn file_bytes(&self) -> u64 { unimplemented!() }
    pub fn capacity_blocks(&self) -> u64 { unimplemented!() }
}

/// What the tier does with what it has room for; every field documented with unit and default.
#[derive(Clone, Debug)]
pub struct SsdPolicy {
    /// Bytes a day that may be written; none: as many as come.
    pub write_budget_bytes_per_day: Option<u64>,
}
impl Default for SsdPolicy { fn default() -> Self { Self { write_budget_bytes_per_day: None } } }

/// Where one block is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotPlan { pub block: BlockId, pub version: Version, pub segment: u32, pub generation: u32, pub slot: u32, pub offset: u64 }

/// Where a block can be read, and what it must look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPlan { pub block: BlockId, pub segment: u32, pub generation: u32, pub slot: u32, pub offset: u64, pub crc: u32 }
impl ReadPlan {
    /// Whether `data` is what was written there for this block.
    pub fn verify(&self, _data: &[u8]) -> bool { unimplemented!() }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadVerdict { /// install and serve
    Valid, /// the segment was reused meanwhile: ask again
    Moved, /// the copy is bad: dropped and voided; a miss
    Corrupt }

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demote { /// write it there, then `finish_append`
    Append(SlotPlan), /// a copy is there already
    Present, Refused(Refusal) }
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal { NotEarned, NoSegment }

/// One block in a segment's summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry { pub block: BlockId, pub version: Version, pub crc: u32, pub slot: u32, pub flags: u32 }

/// A full segment waits for its summary.
pub struct SealPlan { pub segment: u32, pub generation: u32 }
impl SealPlan {
    /// Syncs the data, then writes the summary. Make the journal durable before.
    pub fn run(&self, _device: &dyn Device) -> Result<()> { unimplemented!() }
}

/// A segment is to be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReclaimPlan { pub segment: u32, pub generation: u32, pub summary_offset: u64, pub summary_bytes: u64 }
impl ReclaimPlan {
    /// Reads and verifies the summary.
    pub fn run(&self, _device: &dyn Device) -> Result<Vec<Entry>> { unimplemented!() }
}
/// A block that is kept when its segment is reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move { pub from: ReadPlan, pub to: SlotPlan }

/// A position in the journal: all entries up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct JournalSeq(pub u64);
pub enum JournalPlan { /// all is durable
    Nothing, /// run it, then `finish_journal`
    Write(JournalWrite), /// a checkpoint must be made first
    Full }
pub struct JournalWrite { pub through: JournalSeq }
impl JournalWrite { /// Writes and syncs.
    pub fn run(&self, _device: &dyn Device) -> Result<()> { unimplemented!() } }

pub struct CheckpointPlan {}
impl CheckpointPlan { /// Writes the checkpoint, syncs, writes the superblock, syncs.
    pub fn run(&self, _device: &dyn Device) -> Result<()> { unimplemented!() } }

/// How a write tells the tier that an older copy must never be read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoidMark { /// one journal entry for this block
    Exact, /// one mark for the region around it, free when the region is marked already
    Region }

/// What an open cache file knows of one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeRecord { pub id: VolumeId, pub name: String, pub identity: Option<Identity> }

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct SsdStats { pub cached_blocks: u64, pub blocks_written: u64, pub bytes_written: u64 /* ...all bytes, metadata too; more fields */ }

/// The bookkeeping of the SSD tier.
pub struct Ssd {}

impl Ssd {
    /// With no device behind it: the same decisions, no bytes. Entries of sealed segments are kept in RAM.
    pub fn simulated(_geometry: Geometry, _policy: SsdPolicy) -> Self { unimplemented!() }
    /// Makes a new, empty cache file on `device`.
    pub fn create(_device: &dyn Device, _geometry: Geometry, _policy: SsdPolicy) -> Result<Self> { unimplemented!() }
    /// Opens an existing one: superblock, checkpoint, journal, summaries.
    pub fn open(_device: &dyn Device, _wanted: Geometry, _policy: SsdPolicy) -> Result<Self> { unimplemented!() }

    pub fn geometry(&self) -> Geometry { unimplemented!() }
    pub fn stats(&self) -> SsdStats { unimplemented!() }
    /// The first version of this opening.
    pub fn first_version(&self) -> Version { unimplemented!() }
    /// The number for a volume of this name: the old one, its copies warm, when `identity` is what the last clean
    /// stop saw; else a new one.
    pub fn attach_volume(&mut self, _name: &str, _identity: Option<Identity>) -> VolumeId { unimplemented!() }
    /// What the volume looks like as it is left in order.
    pub fn detach_volume(&mut self, _volume: VolumeId, _identity: Option<Identity>) { unimplemented!() }

    pub fn contains(&self, _block: BlockId) -> bool { unimplemented!() }
    pub fn plan_read(&mut self, _block: BlockId) -> Option<ReadPlan> { unimplemented!() }
    pub fn finish_read(&mut self, _plan: &ReadPlan, _verified: bool) -> ReadVerdict { unimplemented!() }

    pub fn plan_demote(&mut self, _block: BlockId, _version: Version, _earned: bool, _now_us: u64) -> Demote { unimplemented!() }
    /// `crcs` as [`append`] gave them, or none when the write failed.
    pub fn finish_append(&mut self, _plans: &[SlotPlan], _crcs: Option<&[u32]>) -> Option<SealPlan> { unimplemented!() }
    /// Closes the open segments as they are.
    pub fn plan_seal_open(&mut self) -> Vec<SealPlan> { unimplemented!() }
    pub fn finish_seal(&mut self, _plan: SealPlan, _written: bool) { unimplemented!() }

    pub fn plan_reclaim(&mut self) -> Option<ReclaimPlan> { unimplemented!() }
    /// What a simulated tier has in place of [`ReclaimPlan::run`].
    pub fn simulated_entries(&self, _plan: &ReclaimPlan) -> Vec<Entry> { unimplemented!() }
    pub fn plan_moves(&mut self, _plan: &ReclaimPlan, _entries: Option<&[Entry]>) -> Vec<Move> { unimplemented!() }
    pub fn finish_moves(&mut self, _moves: &[Move], _crcs: Option<&[u32]>) -> Option<SealPlan> { unimplemented!() }
    pub fn finish_reclaim(&mut self, _plan: &ReclaimPlan) { unimplemented!() }

    /// No copy of `block` older than `version` may be read again. True when there may be one, so that a journal entry waits.
    pub fn void(&mut self, _block: BlockId, _version: Version, _mark: VoidMark) -> bool { unimplemented!() }
    pub fn void_range(&mut self, _first: BlockId, _count: u64, _version: Version) { unimplemented!() }
    /// What a write below must wait for before it is submitted; none when all is durable.
    pub fn journal_pending(&self) -> Option<JournalSeq> { unimplemented!() }
    pub fn journal_durable(&self) -> JournalSeq { unimplemented!() }
    pub fn plan_journal(&mut self) -> JournalPlan { unimplemented!() }
    pub fn finish_journal(&mut self, _write: &JournalWrite, _durable: bool) { unimplemented!() }
    /// A simulated tier's journal is durable at once.
    pub fn settle_simulated_journal(&mut self) { unimplemented!() }

    pub fn plan_checkpoint(&mut self, _clean: bool) -> CheckpointPlan { unimplemented!() }
    pub fn finish_checkpoint(&mut self, _plan: CheckpointPlan, _durable: bool) { unimplemented!() }
    pub fn wants_checkpoint(&self) -> bool { unimplemented!() }

    /// A segment never written before, to be written through once; it is handed to nobody meanwhile.
    pub fn plan_prepare(&mut self) -> Option<(u32, u64, u64)> { unimplemented!() }
    pub fn finish_prepare(&mut self, _segment: u32) { unimplemented!() }
}

/// Writes `data` (one slice a plan, neighbours on the device) in one call, and gives the checksums.
pub fn append(_device: &dyn Device, _plans: &[SlotPlan], _data: &[&[u8]]) -> Result<Vec<u32>> { unimplemented!() }

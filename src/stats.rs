//! Counters with stated laws.

use terrace_tiers::ssd::SsdStats;

/// What an SSD was switched off for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SsdFailure {
    /// Its journal could not be written or synced.
    Journal,
    /// A checkpoint could not.
    Checkpoint,
    /// Records of the log of dirty blocks, or their syncs, failed several times in a row.
    Log,
    /// Appends of clean blocks, or the summaries of their segments, failed many times in a row: it may be full.
    Append,
    /// Many reads in a row failed.
    Read,
}

impl SsdFailure {
    pub(crate) const ALL: [Self; 5] = [Self::Journal, Self::Checkpoint, Self::Log, Self::Append, Self::Read];
}

/// What a cache did since it opened, in blocks touched unless a name says otherwise.
///
/// Laws, at any moment in which no call is under way:
/// `reads + writes == references`; `read_ram_hits + read_ssd_hits + disk_reads == reads`;
/// `read_ram_hits + write_ram_hits == ram_hits`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks that calls touched; a block that two calls touch counts twice.
    pub references: u64,
    pub reads: u64,
    pub writes: u64,
    /// References to blocks that were resident in RAM.
    pub ram_hits: u64,
    pub read_ram_hits: u64,
    pub write_ram_hits: u64,
    /// Reads whose bytes came from the SSD tier (or were on their way to it).
    pub read_ssd_hits: u64,
    /// Reads whose bytes came from the backing store.
    pub disk_reads: u64,
    /// Reads that waited for the fill of another call (counted under its source as well).
    pub fills_joined: u64,
    /// Blocks that left RAM and would have gone to the SSD, but too many were on their way.
    pub demotions_dropped: u64,
    /// Blocks newer in RAM than below, now; a discard that is not below yet counts as one.
    pub dirty_blocks: u64,
    /// Blocks written below that no sync covers yet, now; those of `around` writes too, which are not in RAM.
    pub unsynced_blocks: u64,
    /// Blocks that nobody can give any more, now; [`crate::Volume::lost_blocks`] names them.
    pub lost_blocks: u64,
    /// Volumes whose backing store does not take what they have for it, now: the last write, sync or discard there failed. What
    /// it was for is kept and tried again, and [`crate::Volume::flush`] says why.
    pub failing_volumes: u64,
    /// Operations on the backing stores as they were issued, adjacent ones merged.
    pub disk_read_operations: u64,
    pub disk_read_bytes: u64,
    pub disk_write_operations: u64,
    pub disk_write_bytes: u64,
    pub disk_syncs: u64,
    /// Requests to the backing stores that are queued or running, now.
    pub disk_queue_depth: u64,
    pub ssd_queue_depth: u64,
    /// Reads of blocks that callers asked for; what recovery and reclaim read is not counted.
    pub ssd_read_operations: u64,
    pub ssd_read_bytes: u64,
    /// Appends of blocks; the bytes of all that goes to the SSD are in `ssd`.
    pub ssd_write_operations: u64,
    pub ssd_syncs: u64,
    /// Calls on the SSD that failed; what they were for is read from below or not kept.
    pub ssd_errors: u64,
    /// False once an SSD that failed was switched off, or when there is none.
    pub ssd_in_use: bool,
    /// Why it was switched off.
    pub ssd_off_for: Option<SsdFailure>,
    /// Whether the cache file is read and written with direct I/O.
    pub ssd_direct: bool,
    pub ssd: SsdStats,
}

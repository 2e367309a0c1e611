//! The counters of the tier.

/// What the tier has done since it was opened, and what it holds.
///
/// Laws: `reads_planned == hits + reads_moved + corrupt_blocks` when no read is in flight;
/// `segments_free + segments_in_use == segments`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct SsdStats {
    pub capacity_blocks: u64,
    /// In the index now, those on their way included.
    pub cached_blocks: u64,
    /// Blocks appended that came from RAM.
    pub blocks_written: u64,
    /// Blocks appended that were kept from a segment that was emptied.
    pub blocks_reinserted: u64,
    /// All bytes that were written with success: blocks, summaries, journal, checkpoints, superblocks.
    pub bytes_written: u64,
    /// Segments written through once, before anything was in them; not part of `bytes_written`.
    pub bytes_prepared: u64,
    pub reads_planned: u64,
    /// Reads that found what they were to find.
    pub hits: u64,
    /// Reads whose block went elsewhere meanwhile.
    pub reads_moved: u64,
    /// Copies that failed their checksum or could not be read, and were dropped.
    pub corrupt_blocks: u64,
    pub refused_not_earned: u64,
    pub refused_no_segment: u64,
    /// Refused because what was found in the file was on its way to the index.
    pub refused_scanning: u64,
    /// Blocks dropped because their segment was emptied.
    pub evicted_blocks: u64,
    /// Copies dropped because something newer was written or they were discarded.
    pub voids: u64,
    /// Blocks in the log that the backing store does not have.
    pub dirty_blocks: u64,
    /// Records of the dirty stream written.
    pub records_written: u64,
    /// Their bytes, part of `bytes_written`.
    pub record_bytes_written: u64,
    /// Blocks of it that the backing store has got.
    pub blocks_destaged: u64,
    pub log_reads_planned: u64,
    /// Reads of the dirty stream that found what they were to find.
    pub log_hits: u64,
    pub segments: u64,
    pub segments_free: u64,
    /// Open, sealing, sealed, being emptied or written through.
    pub segments_in_use: u64,
    /// Segments of an opened file of which it is not known yet what they hold; 0 from when all is warm. Part of those in
    /// use.
    pub segments_unread: u64,
    /// RAM of the index, of the slots' bits and of the ghost list.
    pub index_bytes: u64,
}

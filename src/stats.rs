//! Counters with stated laws.
use terrace_tiers::ssd::SsdStats;

/// `reads + writes == references`; `read_ram_hits + read_ssd_hits + disk_reads == reads`;
/// `read_ram_hits + write_ram_hits == ram_hits`. All count blocks touched, not calls.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Stats {
    pub references: u64, pub reads: u64, pub writes: u64,
    pub ram_hits: u64, pub read_ram_hits: u64, pub write_ram_hits: u64,
    /// Reads answered by the SSD tier.
    pub read_ssd_hits: u64,
    /// Reads answered by the backing store.
    pub disk_reads: u64,
    pub demotions_dropped: u64,
    pub dirty_blocks: u64,
    pub disk_read_operations: u64, pub disk_read_bytes: u64,
    pub disk_write_operations: u64, pub disk_write_bytes: u64,
    pub ssd_read_operations: u64, pub ssd_read_bytes: u64,
    pub ssd_write_operations: u64,
    pub disk_syncs: u64, pub ssd_syncs: u64,
    pub ssd: SsdStats,
}

//! Everything that is chosen when a cache opens.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use terrace_tiers::block::BlockSize;
use terrace_tiers::ssd::SsdPolicy;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RamSize {
    /// The whole budget of the RAM tier: frames, slack and directory.
    Bytes(u64),
    /// Exactly so many resident blocks; frames for the slack and the directory come on top.
    Blocks(u64),
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SsdSize { /// the cache file's size
    Bytes(u64), /// exactly so many cached blocks
    Blocks(u64) }

#[derive(Clone, Debug)]
pub struct SsdConfig {
    pub path: PathBuf,
    pub size: SsdSize,
    pub policy: SsdPolicy,
    /// O_DIRECT; buffered where the file system refuses, and the stats say which.
    pub direct: bool,
    /// Write the file through once, in the background, so that appends never meet a hole.
    pub prepare: bool,
}
impl SsdConfig { pub fn new(path: impl Into<PathBuf>, size: SsdSize) -> Self { unimplemented!() } }

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteMode { /// the backing store has it
    Through, /// RAM has it
    Back }

/// Where the cache takes the time from that the SSD write budget runs on.
#[derive(Clone, Debug)]
pub enum Clock { System, /// microseconds, set by the owner: a replay puts the trace's time here
    Manual(Arc<AtomicU64>) }

#[derive(Clone, Debug)]
pub struct Config {
    pub block_size: BlockSize,
    pub ram: RamSize,
    /// Shards of the RAM directory; none: as many as keep 1,000 blocks each, at most 16.
    pub shards: Option<u32>,
    pub ssd: Option<SsdConfig>,
    pub clock: Clock,
    // more: threads, queue bound, dirty marks
}
impl Config { pub fn new(ram: RamSize) -> Self { unimplemented!() } }

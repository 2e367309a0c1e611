//! SKELETON of the cache.
use std::sync::Arc;
use terrace_tiers::device::Device;
use terrace_tiers::block::VolumeId;
use crate::{Config, Result, Stats, WriteMode};

/// Where the blocks of one call came from: counts of blocks; `ram + ssd + disk` is what the call touched
/// (a write counts a block under `ram` when it was resident, else under none).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Answer { pub ram_blocks: u32, pub ssd_blocks: u32, pub disk_blocks: u32 }

/// The cache; a cheap handle.
#[derive(Clone)]
pub struct Cache {}
impl Cache {
    pub fn open(config: Config) -> Result<Self> { unimplemented!() }
    /// Puts the cache in front of `device`. `name` is how the cache file remembers the volume.
    pub fn attach(&self, name: &str, device: Arc<dyn Device>, mode: WriteMode) -> Result<Volume> { unimplemented!() }
    pub fn stats(&self) -> Stats { unimplemented!() }
    /// Waits until nothing is under way: fills, demotions, reclaim, and every dirty block written and synced.
    pub fn settle(&self) -> Result<()> { unimplemented!() }
    /// Flushes everything, leaves the cache file in order, ends all threads. Idempotent.
    pub fn close(&self) -> Result<()> { unimplemented!() }
}

/// One backing store seen through the cache; a cheap handle.
#[derive(Clone)]
pub struct Volume {}
impl Volume {
    pub fn id(&self) -> VolumeId { unimplemented!() }
    pub fn len_bytes(&self) -> u64 { unimplemented!() }
    /// Blocks until `buffer` holds the bytes from `offset` on.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<Answer> { unimplemented!() }
    /// Blocks until the write is acknowledged, as the mode says.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<Answer> { unimplemented!() }
    /// Every write acknowledged before this call is durable when it returns.
    pub fn flush(&self) -> Result<()> { unimplemented!() }
}

//! The same policies without data.
use crate::{Config, Result, Stats};
use terrace_tiers::block::BlockId;

/// Runs the cache's own directory and SSD bookkeeping over ids.
pub struct Simulation {}
impl Simulation {
    /// Takes of `config` the block size, RAM size, shards, SSD size and policy; paths are not touched.
    pub fn new(config: &Config) -> Result<Self> { unimplemented!() }
    /// One request that reads whole blocks `first`, `first + 1`, ...; all that it set off is done before the next.
    pub fn read(&mut self, first: BlockId, count: u64, now_us: u64) { unimplemented!() }
    pub fn write(&mut self, first: BlockId, count: u64, now_us: u64) { unimplemented!() }
    pub fn stats(&self) -> Stats { unimplemented!() }
}

//! All three tiers on real files, under more blocks than RAM and SSD hold together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use terrace::tiers::backing::file::FileBacking;
use terrace::{
    Cache, Config, RamSize, RecordConfig, RecordStatus, Result, SsdConfig, SsdSize, Stats, Volume, WhatIf,
    WriteMode,
};

use super::BLOCK_BYTES;
use crate::measure::time_callers;
use crate::workload::{Pattern, Workload};

/// 256 MiB below, 96 MiB on the SSD, 24 MiB in RAM.
const DISK_BLOCKS: u32 = 16 << 10;
const SSD_BLOCKS: u64 = 6 << 10;
const RAM_BLOCKS: u64 = 3 << 9;
const EXPONENT: f64 = 0.9;
/// One request of so many writes.
const WRITE_EVERY: usize = 4;

pub const CALLERS: usize = 4;

pub struct Whole {
    cache: Cache,
    config: Config,
    volume: Volume,
    /// What the next requests are drawn from, one a caller.
    seed: u64,
}

impl Whole {
    /// `folder` gets the backing file and the cache file.
    pub fn new(folder: &Path) -> Self {
        let backing = FileBacking::create(folder.join("disk"), u64::from(DISK_BLOCKS) * BLOCK_BYTES as u64)
            .expect("the backing file can be made");
        let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
        config.ssd = Some(SsdConfig::new(folder.join("ssd"), SsdSize::Blocks(SSD_BLOCKS)));
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = cache.attach("bench", Arc::new(backing), WriteMode::Back).expect("a volume attaches");
        // Written once, so that no read meets a hole; what is written last stays in the tiers.
        let mut random = Rng::with_seed(1);
        let mut data = vec![0; BLOCK_BYTES];
        for block in 0..u64::from(DISK_BLOCKS) {
            random.fill(&mut data);
            volume.write(block * BLOCK_BYTES as u64, &data).expect("the backing file can be written");
        }
        cache.settle().expect("the backing file can be written");
        Self { cache, config, volume, seed: 1 }
    }

    /// `count` requests by [`CALLERS`] threads together.
    pub fn time(&mut self, count: usize) -> Duration {
        self.seed += 1;
        let requests: Vec<Vec<u64>> = (0..CALLERS)
            .map(|caller| {
                // All callers want the same blocks most, and each its own sequence of them.
                let mut workload = Workload::new(Pattern::Zipf { exponent: EXPONENT }, DISK_BLOCKS, 1);
                workload.reseed(self.seed * CALLERS as u64 + caller as u64);
                workload.offsets(count.div_ceil(CALLERS), BLOCK_BYTES)
            })
            .collect();
        time_callers(CALLERS, |caller| {
            self.run(&requests[caller]).expect("the files can be read and written");
        })
    }

    /// As [`Self::time`], recorded at `path`; and what the recording came to, which ends behind the time.
    pub fn time_recorded(&mut self, count: usize, path: &Path) -> (Duration, RecordStatus) {
        self.cache.start_recording(&RecordConfig::new(path)).expect("the folder can be written");
        let took = self.time(count);
        (took, self.cache.stop_recording().expect("it runs"))
    }

    /// As [`Self::time`], while a [`WhatIf`] watches.
    pub fn time_watched(&mut self, count: usize) -> Duration {
        let _watcher = WhatIf::start(&self.cache, &self.config, WhatIf::BUSY_SHARE).expect("it opened so");
        self.time(count)
    }

    fn run(&self, offsets: &[u64]) -> Result<()> {
        let mut buffer = vec![0; BLOCK_BYTES];
        for (index, &offset) in offsets.iter().enumerate() {
            if index % WRITE_EVERY == 0 {
                self.volume.write(offset, &buffer)?;
            } else {
                self.volume.read(offset, &mut buffer)?;
            }
        }
        Ok(())
    }

    pub fn stats(&self) -> Stats {
        self.cache.stats()
    }
}

//! All three tiers on real files, under more blocks than RAM and SSD hold together.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use terrace::tiers::backing::file::FileBacking;
use terrace::{
    Cache, Config, RamSize, RecordConfig, RecordStatus, Result, SsdConfig, SsdSize, Stats, Volume, WhatIf,
    WriteMode,
};

use super::BLOCK_BYTES;
use crate::is_trial;
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
/// Requests of each of the callers that go on and on: drawn ahead, and walked round and round.
const ROUND: usize = 1 << 17;

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
        let requests = self.draw(count.div_ceil(CALLERS));
        time_callers(CALLERS, |caller| {
            self.run(&requests[caller]).expect("the files can be read and written");
        })
    }

    /// Has [`CALLERS`] threads make requests for as long as `beside` takes.
    pub fn while_busy<T>(&mut self, beside: impl FnOnce(&Self, &Callers) -> T) -> T {
        let requests = self.draw(if is_trial() { 1 << 10 } else { ROUND });
        let (whole, callers) = (&*self, Callers::default());
        std::thread::scope(|scope| {
            for (number, requests) in requests.iter().enumerate() {
                let callers = &callers;
                scope.spawn(move || {
                    whole.run_on(number, requests, callers).expect("the files can be read and written");
                });
            }
            // Also when `beside` panics: the scope waits for them.
            let _over = Over(&callers);
            beside(whole, &callers)
        })
    }

    pub fn start_recording(&self, config: &RecordConfig) {
        self.cache.start_recording(config).expect("the folder can be written");
    }

    pub fn stop_recording(&self) -> RecordStatus {
        self.cache.stop_recording().expect("it runs")
    }

    pub fn watch(&self) -> WhatIf {
        WhatIf::start(&self.cache, &self.config, WhatIf::BUSY_SHARE).expect("it opened so")
    }

    /// As [`Self::time`], recorded at `path`; and what the recording came to, which ends behind the time.
    pub fn time_recorded(&mut self, count: usize, path: &Path) -> (Duration, RecordStatus) {
        self.start_recording(&RecordConfig::new(path));
        let took = self.time(count);
        (took, self.stop_recording())
    }

    /// As [`Self::time`], while a [`WhatIf`] watches.
    pub fn time_watched(&mut self, count: usize) -> Duration {
        let _watcher = self.watch();
        self.time(count)
    }

    /// `count` requests of each caller: all want the same blocks most, and each has its own sequence of them.
    fn draw(&mut self, count: usize) -> Vec<Vec<u64>> {
        self.seed += 1;
        let draw = |caller| {
            let mut workload = Workload::new(Pattern::Zipf { exponent: EXPONENT }, DISK_BLOCKS, 1);
            workload.reseed(self.seed * CALLERS as u64 + caller);
            workload.offsets(count, BLOCK_BYTES)
        };
        (0..CALLERS as u64).map(draw).collect()
    }

    fn run(&self, offsets: &[u64]) -> Result<()> {
        let mut buffer = vec![0; BLOCK_BYTES];
        offsets.iter().enumerate().try_for_each(|(index, &offset)| self.request(index, offset, &mut buffer))
    }

    /// The requests of one of `callers`, round and round, until it is over.
    fn run_on(&self, number: usize, offsets: &[u64], callers: &Callers) -> Result<()> {
        let mut buffer = vec![0; BLOCK_BYTES];
        for (made, (index, &offset)) in (1..).zip(offsets.iter().enumerate().cycle()) {
            self.request(index, offset, &mut buffer)?;
            callers.made[number].0.store(made, Ordering::Relaxed);
            callers.spin();
            if callers.is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    fn request(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if index.is_multiple_of(WRITE_EVERY) {
            self.volume.write(offset, buffer)?;
        } else {
            self.volume.read(offset, buffer)?;
        }
        Ok(())
    }

    pub fn stats(&self) -> Stats {
        self.cache.stats()
    }
}

/// Callers that go on until it is over.
#[derive(Default)]
pub struct Callers {
    made: [Made; CALLERS],
    spin_ns: AtomicU64,
    is_over: AtomicBool,
}

/// Requests that one caller has made; a cache line of its own, so that counting costs nothing.
#[derive(Default)]
#[repr(align(128))]
struct Made(AtomicU64);

/// Ends the callers when it is dropped.
struct Over<'a>(&'a Callers);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Callers {
    /// Requests that all of them have made.
    pub fn made(&self) -> u64 {
        self.made.iter().map(|made| made.0.load(Ordering::Relaxed)).sum()
    }

    /// From now on each request takes its caller so many nanoseconds more: a cost that is known, to see whether it shows.
    pub fn make_dearer_by(&self, nanoseconds: u64) {
        self.spin_ns.store(nanoseconds, Ordering::Relaxed);
    }

    fn spin(&self) {
        let nanoseconds = self.spin_ns.load(Ordering::Relaxed);
        if nanoseconds > 0 {
            let until = Instant::now() + Duration::from_nanos(nanoseconds);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
    }
}

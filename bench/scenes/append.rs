//! Appending to the SSD, three ways:
//!
//! - [`Demotions`]: blocks that leave RAM, by the cache and its threads. This is what the goal is about.
//! - [`Appender`]: the tier alone by one thread, which also seals full segments and reclaims old ones, and so waits for
//!   each sync itself: what the cache has its threads for.
//! - [`PlainAppender`]: as many bytes in calls of the same size, over the blocks of the same file: two files may lie in
//!   places of the disk that differ by more than what is measured.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use terrace::{
    BlockId, BlockSize, Cache, Config, RamSize, SsdConfig, SsdSize, Stats, Volume, VolumeId, WriteMode,
};
use terrace_tiers::block::Version;
use terrace_tiers::device::Device;
use terrace_tiers::file_device::{FileDevice, FileOptions};
use terrace_tiers::ram::frames::{FrameRef, Frames};
use terrace_tiers::ssd::{self, Demote, Geometry, JournalPlan, SealPlan, SlotPlan, Ssd, SsdPolicy};

use super::{BLOCK_BYTES, NoDisk};
use crate::plain::PlainFile;

/// Frames that are written, in turns: more than the processor keeps at hand.
const SOURCE_FRAMES: u32 = 4096;

/// Blocks of RAM in front of the SSD.
const RAM_BLOCKS: u64 = 16 << 10;
/// Frames for blocks under way.
const SLACK_FRAMES: u32 = 4096;
/// Blocks under way to the SSD at once: enough for whole appends however late the reading thread is woken, and not so
/// many that some are dropped.
const WINDOW: u64 = 2560;
/// Blocks that one call reads, between two looks at how many are under way.
const STRIDE: u64 = 32;

/// A cache whose RAM is full, in front of no disk: each block that is read drives one out to the SSD.
pub struct Demotions {
    cache: Cache,
    volume: Volume,
    path: PathBuf,
    geometry: Geometry,
    next: u64,
    /// Blocks that were read before the first was driven out.
    stayed: u64,
}

impl Demotions {
    pub fn new(path: &Path, file_bytes: u64) -> Self {
        let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
        let mut ssd = SsdConfig::new(path, SsdSize::Bytes(file_bytes));
        ssd.policy.admit_unearned = true;
        config.ssd = Some(ssd);
        config.slack_blocks = Some(SLACK_FRAMES);
        let cache = Cache::open(&config).expect("the cache opens");
        // The first round fills the frames with noise, which then stays in them.
        let content_bytes = 2 * RAM_BLOCKS * BLOCK_BYTES as u64;
        let disk = NoDisk { len_bytes: 1 << 50, content_bytes };
        let volume = cache.attach("bench", Arc::new(disk), WriteMode::Through).expect("a volume attaches");
        let geometry = Geometry::for_bytes(BlockSize::DEFAULT, file_bytes).expect("the layout fits");
        let mut demotions = Self { cache, volume, path: path.to_owned(), geometry, next: 0, stayed: 0 };
        demotions.fill(content_bytes / BLOCK_BYTES as u64);
        demotions
    }

    fn fill(&mut self, noisy_blocks: u64) {
        self.read(noisy_blocks);
        self.settle();
        let stats = self.cache.stats();
        assert!(stats.ssd_direct, "the temporary folder has direct I/O; TMPDIR names another one");
        self.stayed = self.next - left(&stats);
        // Until every append takes the place of an older one.
        while self.cache.stats().ssd.evicted_blocks < stats.ssd.capacity_blocks / 8 {
            self.append(64);
        }
    }

    fn read(&mut self, blocks: u64) {
        let mut rest = blocks;
        while rest > 0 {
            let now = rest.min(STRIDE);
            let offset = self.next * BLOCK_BYTES as u64;
            self.volume.read_ref(offset, now as usize * BLOCK_BYTES).expect("no disk never fails");
            self.next += now;
            rest -= now;
        }
    }

    /// Waits until nothing is under way.
    pub fn settle(&self) {
        self.cache.settle().expect("nothing is dirty");
    }

    /// Writes over the blocks on the SSD, which nobody will read.
    pub fn plain<'a>(&self, source: &'a [FrameRef]) -> PlainAppender<'a> {
        PlainAppender::new(&self.path, self.geometry, source)
    }

    /// Reads until `blocks` more are on the SSD. How many of them one write took, on average.
    pub fn append(&mut self, blocks: u64) -> f64 {
        let before = self.cache.stats();
        loop {
            let now = self.cache.stats();
            let written = now.ssd.blocks_written - before.ssd.blocks_written;
            if written >= blocks {
                return written as f64 / (now.ssd_write_operations - before.ssd_write_operations) as f64;
            }
            if self.next - self.stayed - left(&now) < WINDOW {
                self.read(STRIDE);
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }
}

/// Blocks that left RAM and are not under way any more.
fn left(stats: &Stats) -> u64 {
    let refused = stats.ssd.refused_not_earned + stats.ssd.refused_no_segment;
    stats.ssd.blocks_written + stats.demotions_dropped + refused
}

/// Frames full of noise.
pub fn source() -> Vec<FrameRef> {
    let frames = Frames::new(BLOCK_BYTES, SOURCE_FRAMES).expect("the frames fit RAM");
    let mut random = Rng::with_seed(1);
    let noisy = || {
        let mut frame = frames.alloc()?;
        random.fill(&mut frame);
        Some(frame.freeze())
    };
    std::iter::from_fn(noisy).collect()
}

/// The tier on a file, full: every append takes the place of an older one.
pub struct Appender<'a> {
    device: FileDevice,
    path: PathBuf,
    tier: Ssd,
    volume: VolumeId,
    source: &'a [FrameRef],
    next: u64,
}

impl<'a> Appender<'a> {
    pub fn new(path: &Path, file_bytes: u64, source: &'a [FrameRef]) -> Self {
        let geometry = Geometry::for_bytes(BlockSize::DEFAULT, file_bytes).expect("the layout fits");
        let options = FileOptions { create: Some(geometry.file_bytes()), ..FileOptions::new(path) };
        let device = FileDevice::open(&options).expect("the cache file can be made");
        device.allocate(geometry.file_bytes()).expect("there is room for the cache file");
        assert!(device.is_direct(), "the temporary folder has direct I/O; TMPDIR names another one");
        let mut tier = Ssd::create(&device, geometry, SsdPolicy::default()).expect("the tier can be made");
        let volume = tier.attach_volume("bench", None).expect("attaches");
        let mut appender = Self { device, path: path.to_owned(), tier, volume, source, next: 0 };
        while appender.tier.stats().evicted_blocks < geometry.capacity_blocks() {
            appender.append(64);
        }
        appender
    }

    /// Writes over the blocks in the file, which nobody will read.
    pub fn plain(&self) -> PlainAppender<'a> {
        PlainAppender::new(&self.path, self.tier.geometry(), self.source)
    }

    /// Appends `count` new blocks.
    pub fn append(&mut self, count: usize) {
        let plans: Vec<SlotPlan> = (0..count).map(|_| self.plan()).collect();
        let mut rest = &plans[..];
        while let Some(first) = rest.first() {
            let follows = |plan: &&SlotPlan| plan.segment == first.segment;
            let (now, later) = rest.split_at(rest.iter().take_while(follows).count());
            self.write(now);
            rest = later;
        }
    }

    fn plan(&mut self) -> SlotPlan {
        let block = BlockId::new(self.volume, self.next);
        self.next += 1;
        let version = self.tier.first_version();
        match self.tier.plan_demote(block, Version::from_u64(version.as_u64() + self.next), true, 0) {
            Demote::Append(plan) => plan,
            other => panic!("{other:?}: reclaim keeps a segment free"),
        }
    }

    fn write(&mut self, plans: &[SlotPlan]) {
        let frames =
            plans.iter().map(|plan| &self.source[plan.block.number() as usize % self.source.len()][..]);
        let data: Vec<&[u8]> = frames.collect();
        let crcs = ssd::append(&self.device, plans, &data).expect("the cache file can be written");
        if let Some(seal) = self.tier.finish_append(plans, Some(&crcs)) {
            self.seal(seal);
            self.reclaim();
        }
    }

    fn seal(&mut self, plan: SealPlan) {
        self.make_durable();
        self.device.sync().expect("the cache file can be synced");
        plan.run(&self.device).expect("the cache file can be written");
        self.tier.finish_seal(plan, true);
    }

    fn reclaim(&mut self) {
        while let Some(plan) = self.tier.plan_reclaim() {
            let entries = plan.run(&self.device).expect("a summary reads as it was written");
            let moves = self.tier.plan_moves(&plan, Some(&entries));
            assert!(moves.is_empty(), "nothing was read, so nothing is kept");
            self.tier.finish_reclaim(&plan);
            self.make_durable();
        }
    }

    fn make_durable(&mut self) {
        loop {
            match self.tier.plan_journal() {
                JournalPlan::Nothing => return,
                JournalPlan::Write(write) => {
                    write.run(&self.device).expect("the cache file can be written");
                    self.tier.finish_journal(&write, true);
                }
                JournalPlan::Full => {
                    let plan = self.tier.plan_checkpoint(false);
                    plan.run(&self.device).expect("the cache file can be written");
                    self.tier.finish_checkpoint(plan, true);
                }
            }
        }
    }
}

/// Plain writes over the blocks of a cache file, from its first segment to its last and again.
pub struct PlainAppender<'a> {
    file: PlainFile,
    geometry: Geometry,
    source: &'a [FrameRef],
    segment: u32,
    slot: usize,
    next: usize,
}

impl<'a> PlainAppender<'a> {
    fn new(path: &Path, geometry: Geometry, source: &'a [FrameRef]) -> Self {
        Self { file: PlainFile::open(path), geometry, source, segment: 0, slot: 0, next: 0 }
    }

    /// One write of `count` blocks.
    pub fn append(&mut self, count: usize) {
        // The summaries behind the blocks stay as they are.
        if self.slot + count > self.geometry.slots_per_segment as usize {
            (self.segment, self.slot) = ((self.segment + 1) % self.geometry.segment_count, 0);
        }
        let frames =
            (0..count).map(|index| IoSlice::new(&self.source[(self.next + index) % self.source.len()]));
        let buffers: Vec<IoSlice<'_>> = frames.collect();
        let segment_offset = u64::from(self.segment) * self.geometry.segment_bytes;
        let slot_offset = (self.slot * BLOCK_BYTES) as u64;
        self.file.write(self.geometry.segments_offset + segment_offset + slot_offset, &buffers);
        (self.slot, self.next) = (self.slot + count, self.next + count);
    }
}

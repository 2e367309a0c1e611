//! Appending to the SSD tier by one thread, in the way the cache does: neighbours in one call, full segments sealed,
//! old ones reclaimed, the journal durable before either. And the same bytes into a plain file.

use std::io::IoSlice;
use std::path::Path;

use fastrand::Rng;
use terrace::{BlockId, BlockSize, VolumeId};
use terrace_tiers::block::Version;
use terrace_tiers::file_device::{FileDevice, FileOptions};
use terrace_tiers::ram::frames::{FrameRef, Frames};
use terrace_tiers::ssd::{self, Demote, Geometry, JournalPlan, SealPlan, SlotPlan, Ssd, SsdPolicy};

use super::BLOCK_BYTES;
use crate::plain::PlainFile;

/// Frames that are written, in turns: more than the processor keeps at hand.
const SOURCE_FRAMES: u32 = 4096;

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
        let volume = tier.attach_volume("bench", None);
        let mut appender = Self { device, tier, volume, source, next: 0 };
        while appender.tier.stats().evicted_blocks < geometry.capacity_blocks() {
            appender.append(64);
        }
        appender
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

/// The same bytes in calls of the same size into a plain file, from its start to its end and again.
pub struct PlainAppender<'a> {
    file: PlainFile,
    file_bytes: u64,
    source: &'a [FrameRef],
    offset: u64,
    next: usize,
}

impl<'a> PlainAppender<'a> {
    pub fn new(path: &Path, file_bytes: u64, source: &'a [FrameRef]) -> Self {
        Self { file: PlainFile::create(path, file_bytes), file_bytes, source, offset: 0, next: 0 }
    }

    pub fn append(&mut self, count: usize) {
        if self.offset + (count * BLOCK_BYTES) as u64 > self.file_bytes {
            self.offset = 0;
        }
        let frames =
            (0..count).map(|index| IoSlice::new(&self.source[(self.next + index) % self.source.len()]));
        let buffers: Vec<IoSlice<'_>> = frames.collect();
        self.file.write(self.offset, &buffers);
        self.offset += (count * BLOCK_BYTES) as u64;
        self.next += count;
    }
}

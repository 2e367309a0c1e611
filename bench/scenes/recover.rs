//! A cache file to be opened: sealed segments with whole summaries. The blocks themselves are holes, since opening
//! reads none of them.

use std::path::{Path, PathBuf};

use terrace::{BlockId, BlockSize};
use terrace_tiers::block::Version;
use terrace_tiers::device::{Device, Identity};
use terrace_tiers::file_device::{FileDevice, FileOptions};
use terrace_tiers::ssd::{Demote, Geometry, JournalPlan, Ssd, SsdPolicy};

use super::BLOCK_BYTES;
use crate::workload::{Pattern, Workload};

/// The volume's file, as the tier was told.
const IDENTITY: Identity = Identity { bytes: 1 << 40, modified_ns: 1, inode: 1, device: 1 };

pub struct CacheFile {
    path: PathBuf,
    geometry: Geometry,
    /// Blocks that opening finds.
    pub entries: u64,
}

impl CacheFile {
    /// Made in `folder`, of `blocks` blocks.
    pub fn new(folder: &Path, blocks: u64) -> Self {
        let path = folder.join(format!("recover-{blocks}"));
        let geometry = Geometry::for_blocks(BlockSize::DEFAULT, blocks).expect("the layout fits");
        let options = FileOptions { create: Some(geometry.file_bytes()), ..FileOptions::new(&path) };
        let device = FileDevice::open(&options).expect("the cache file can be made");
        let mut tier = Ssd::create(&device, geometry, SsdPolicy::default()).expect("the tier can be made");
        let entries = fill(&mut tier, &device);
        Self { path, geometry, entries }
    }

    /// Opens the file as a cache does, without what a cache puts around the tier.
    pub fn open(&self) -> Ssd {
        let device = FileDevice::open(&FileOptions::new(&self.path)).expect("the cache file is there");
        let tier = Ssd::open(&device, self.geometry, SsdPolicy::default()).expect("the cache file opens");
        assert_eq!(tier.stats().cached_blocks, self.entries, "opening finds every block");
        tier
    }

    /// How many times this file holds what 1 TB of blocks is.
    pub fn times_to_terabyte(&self) -> f64 {
        1e12 / (self.entries as f64 * BLOCK_BYTES as f64)
    }
}

/// Plans every block and seals every segment, but writes none of the blocks.
fn fill(tier: &mut Ssd, device: &FileDevice) -> u64 {
    let volume = tier.attach_volume("bench", Some(IDENTITY)).expect("attaches");
    let capacity = tier.geometry().capacity_blocks();
    let mut numbers = Workload::new(Pattern::Shuffled, capacity as u32, 1);
    let first_version = tier.first_version().as_u64();
    for count in 0..capacity {
        let block = BlockId::new(volume, numbers.block().into());
        let version = Version::from_u64(first_version + count);
        let Demote::Append(plan) = tier.plan_demote(block, version, true, 0) else {
            panic!("there is room for {block}");
        };
        let checksum = count as u32;
        if let Some(seal) = tier.finish_append(&[plan], Some(&[checksum])) {
            finish_seal(tier, device, seal);
        }
    }
    for seal in tier.plan_seal_open() {
        finish_seal(tier, device, seal);
    }
    tier.detach_volume(volume, Some(IDENTITY));
    let plan = tier.plan_checkpoint(true);
    plan.run(device).expect("the cache file can be written");
    tier.finish_checkpoint(plan, true);
    capacity
}

fn finish_seal(tier: &mut Ssd, device: &FileDevice, seal: terrace_tiers::ssd::SealPlan) {
    if let JournalPlan::Write(write) = tier.plan_journal() {
        write.run(device).expect("the cache file can be written");
        tier.finish_journal(&write, true);
    }
    device.sync().expect("the cache file can be synced");
    seal.run(device).expect("the cache file can be written");
    tier.finish_seal(seal, true);
}

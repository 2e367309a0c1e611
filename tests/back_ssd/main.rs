//! Volumes in mode `back-ssd`: what a flush promises, what is left after a crash, and what happens when a device fails.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod discards;
mod failures;
mod flushes;
mod full_log;
mod parts;

use std::sync::Arc;

use common::{BLOCK, bytes_of, content, small, ssd_bytes, stored};
use terrace::tiers::testing::{Journal, Loss, MemoryDevice};
use terrace::{Cache, Config, SsdConfig, SsdSize, Volume, WriteMode};

pub(crate) const SSD_BLOCKS: u64 = 256;

pub(crate) const DISK_BYTES: u64 = 512 * BLOCK as u64;

pub(crate) struct Devices {
    pub(crate) ssd: Arc<MemoryDevice>,
    pub(crate) disk: Arc<MemoryDevice>,
}

impl Devices {
    pub(crate) fn new() -> Self {
        Self {
            ssd: Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd")),
            disk: Arc::new(MemoryDevice::new(DISK_BYTES).named("disk")),
        }
    }

    pub(crate) fn recorded(journal: &Arc<Journal>) -> Self {
        Self {
            ssd: Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd").recorded_in(journal)),
            disk: Arc::new(MemoryDevice::new(DISK_BYTES).named("disk").recorded_in(journal)),
        }
    }

    /// What is left of both when the power fails now and everything that was not synced is lost.
    pub(crate) fn after_power_loss(journal: &Journal) -> Self {
        let mut cut = journal.first_cut();
        while cut.advance() {}
        let mut images = cut.images(Loss::All, 1).into_iter().map(Arc::new);
        let (ssd, disk) = (images.next().expect("the SSD"), images.next().expect("the disk"));
        Self { ssd, disk }
    }

    pub(crate) fn config(&self) -> Config {
        self.config_of(&Config { writeback_delay_ms: 5, ..small(64) })
    }

    pub(crate) fn config_of(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.ssd = Some(SsdConfig::on_device(self.ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        config
    }

    pub(crate) fn open(&self) -> (Cache, Volume) {
        self.open_as(WriteMode::BackSsd)
    }

    pub(crate) fn open_as(&self, mode: WriteMode) -> (Cache, Volume) {
        self.open_with(&self.config(), mode)
    }

    pub(crate) fn open_with(&self, config: &Config, mode: WriteMode) -> (Cache, Volume) {
        let cache = Cache::open(&self.config_of(config)).expect("the cache opens");
        let volume = cache.attach("disk", self.disk.clone(), mode).expect("the volume attaches");
        (cache, volume)
    }
}

pub(crate) fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK as u64, &content(block, number)).expect("a write succeeds");
}

pub(crate) fn check(volume: &Volume, block: u64, number: u64) {
    assert!(bytes_of(volume, block * BLOCK as u64, BLOCK) == content(block, number), "block {block}");
}

/// What is left of a power failure now: the content of `blocks` to a new cache, and then on the disk once all is below.
pub(crate) fn check_after_power_loss(journal: &Journal, blocks: impl IntoIterator<Item = (u64, Vec<u8>)>) {
    let left = Devices::after_power_loss(journal);
    let (cache, volume) = left.open();
    let blocks: Vec<_> = blocks.into_iter().collect();
    for (block, wanted) in &blocks {
        assert!(bytes_of(&volume, block * BLOCK as u64, BLOCK) == *wanted, "block {block} after a crash");
    }
    cache.settle().expect("all goes below");
    for (block, wanted) in &blocks {
        assert!(stored(&*left.disk, block * BLOCK as u64, BLOCK) == *wanted, "block {block} below");
    }
    assert_eq!(cache.stats().ssd.dirty_blocks, 0);
}

pub(crate) fn zeros() -> Vec<u8> {
    vec![0; BLOCK]
}

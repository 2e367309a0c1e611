//! Parts of large blocks, which go to the log alone.

use std::sync::Arc;

use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::{Journal, MemoryDevice};
use terrace::{Background, BlockSize, Cache, Config, SsdConfig, SsdSize, Volume, WriteMode};

use crate::Devices;
use crate::common::{bytes_of, held, stored};

/// A volume of large blocks that nothing is destaged of, so that what is in the log stays there.
fn open_large(devices: &Devices, ram_blocks: u64) -> (Cache, Volume) {
    let size = BlockSize::new(LARGE as u64).expect("a block size");
    let mut config = Config { block_size: size, background: Background::OnSettle, ..held(ram_blocks) };
    config.ssd = Some(SsdConfig::on_device(devices.ssd.clone(), SsdSize::Blocks(LARGE_SSD_BLOCKS)));
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    (cache, volume)
}

const LARGE: usize = 256 << 10;

const LARGE_SSD_BLOCKS: u64 = 64;

fn large_devices(journal: &Arc<Journal>) -> Devices {
    let size = BlockSize::new(LARGE as u64).expect("a block size");
    let geometry = Geometry::for_blocks(size, LARGE_SSD_BLOCKS).expect("a layout");
    let new = |bytes, name| Arc::new(MemoryDevice::new(bytes).named(name).recorded_in(journal));
    Devices { ssd: new(geometry.file_bytes(), "ssd"), disk: new(40 * LARGE as u64, "disk") }
}

#[test]
fn a_flush_writes_no_more_for_what_else_of_the_block_is_in_the_log() {
    let journal = Arc::new(Journal::default());
    let devices = large_devices(&journal);
    let (cache, volume) = open_large(&devices, 16);
    let mut wanted = vec![0; LARGE];
    let (mut bytes_before, mut widest) = (cache.stats().ssd.bytes_written, 0);
    for page in 0..LARGE / 4096 {
        let at = page * 4096;
        wanted[at..at + 4096].fill(page as u8 + 1);
        volume.write(at as u64, &wanted[at..at + 4096]).expect("a write succeeds");
        volume.flush().expect("the log is there");
        let bytes = cache.stats().ssd.bytes_written;
        widest = widest.max(bytes - bytes_before);
        bytes_before = bytes;
    }
    assert_eq!(widest, 8192, "a header and a page, each time");
    assert!(bytes_of(&volume, 0, LARGE) == wanted);
    let left = Devices::after_power_loss(&journal);
    let (_cache, volume) = open_large(&left, 16);
    assert!(bytes_of(&volume, 0, LARGE) == wanted, "after a crash");
}

#[test]
fn a_block_that_is_flushed_piece_by_piece_for_long_is_now_and_then_written_as_one() {
    let journal = Arc::new(Journal::default());
    let devices = large_devices(&journal);
    let (cache, volume) = open_large(&devices, 16);
    let mut wanted = vec![0; LARGE];
    let reads = devices.ssd.counters().reads;
    for at in (0..LARGE).step_by(1024) {
        wanted[at..at + 512].fill((at >> 10) as u8 | 1);
        volume.write(at as u64, &wanted[at..at + 512]).expect("a write succeeds");
        volume.flush().expect("the log is there");
    }
    let flushes = (LARGE / 1024) as u64;
    let stats = cache.stats();
    assert_eq!(stats.ssd.records_written, flushes);
    assert_eq!(devices.ssd.counters().reads, reads, "what is written as one is in RAM");
    let pages = stats.ssd.bytes_written / 4096;
    assert!(
        pages > flushes * 2 + 15 + 31 + 47,
        "{pages}: after each 64 flushes one has all that is dirty, 16 pages more"
    );
    let left = Devices::after_power_loss(&journal);
    let (cache, volume) = open_large(&left, 16);
    let reads = left.ssd.counters().reads;
    assert!(bytes_of(&volume, 0, LARGE) == wanted, "after a crash");
    assert!((1..=65).contains(&(left.ssd.counters().reads - reads)), "a copy a read");
    cache.settle().expect("all goes below");
    assert!(stored(&*left.disk, 0, LARGE) == wanted);
}

#[test]
fn a_partial_write_to_a_block_that_only_the_log_has_waits_for_no_fill() {
    let journal = Arc::new(Journal::default());
    let devices = large_devices(&journal);
    let (_cache, volume) = open_large(&devices, 16);
    let mut wanted = vec![3; LARGE];
    volume.write(0, &wanted).expect("a write succeeds");
    volume.flush().expect("the log is there");
    (1..30).for_each(|block| drop(bytes_of(&volume, block * LARGE as u64, LARGE)));
    let reads = || (devices.ssd.counters().reads, devices.disk.counters().reads);
    let before = reads();
    wanted[8192..12288].fill(4);
    let answer = volume.write(8192, &wanted[8192..12288]).expect("a write succeeds");
    volume.flush().expect("the log is there");
    assert_eq!(answer.ram_blocks, 0, "it had left RAM");
    assert_eq!(reads(), before);
    assert!(bytes_of(&volume, 0, LARGE) == wanted, "the read has both copies");
    let left = Devices::after_power_loss(&journal);
    let (_cache, volume) = open_large(&left, 16);
    assert!(bytes_of(&volume, 0, LARGE) == wanted, "after a crash");
}

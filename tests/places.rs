//! Where blocks are, as a map of them says.

mod common;

use std::sync::Arc;

use common::{BLOCK, bytes_of, content, held, ssd_bytes};
use terrace::tiers::testing::{MemoryDevice, Operation};
use terrace::{BlockPlace, Cache, Config, Error, SsdConfig, SsdSize, Volume, WriteMode};

const BLOCK_U64: u64 = BLOCK as u64;
const DISK_BLOCKS: u64 = 64;
const RAM_BLOCKS: u64 = 16;
const SSD_BLOCKS: u64 = 1024;

const BELOW: BlockPlace = BlockPlace { in_ram: false, on_ssd: false, is_dirty: false };
const IN_RAM: BlockPlace = BlockPlace { in_ram: true, ..BELOW };
const ON_SSD: BlockPlace = BlockPlace { on_ssd: true, ..BELOW };
const DIRTY: BlockPlace = BlockPlace { is_dirty: true, ..BELOW };

fn open(mode: WriteMode, has_ssd: bool) -> (Cache, Volume) {
    let (cache, volume, _) = open_over(mode, has_ssd);
    (cache, volume)
}

fn open_over(mode: WriteMode, has_ssd: bool) -> (Cache, Volume, Arc<MemoryDevice>) {
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd"));
    let ssd = has_ssd.then(|| SsdConfig::on_device(ssd, SsdSize::Blocks(SSD_BLOCKS)));
    let cache = Cache::open(&Config { ssd, ..held(RAM_BLOCKS) }).expect("the cache opens");
    let disk = Arc::new(MemoryDevice::new(DISK_BLOCKS * BLOCK_U64).named("disk"));
    let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
    (cache, volume, disk)
}

fn place(volume: &Volume, block: u64) -> BlockPlace {
    volume.places(block..block + 1).expect("the block is in the volume")[0]
}

#[test]
fn a_block_that_is_read_is_in_ram_and_then_on_the_ssd() {
    let (cache, volume) = open(WriteMode::Through, true);
    assert_eq!(place(&volume, 0), BELOW);
    for block in 0..DISK_BLOCKS {
        bytes_of(&volume, block * BLOCK_U64, BLOCK);
        assert!(place(&volume, block).in_ram);
        cache.settle().expect("the cache settles");
    }
    let places = volume.places(0..DISK_BLOCKS).expect("all are in the volume");
    assert_eq!(places.iter().filter(|place| place.in_ram).count() as u64, RAM_BLOCKS);
    assert_eq!(places[0], ON_SSD);
    assert!(places.iter().all(|&place| place != BELOW), "what left RAM went to the SSD: {places:?}");
}

#[test]
fn each_volume_counts_what_is_dirty_and_unsynced_of_its_own() {
    let (cache, volume) = open(WriteMode::Through, false);
    let other = Arc::new(MemoryDevice::new(BLOCK_U64));
    let other = cache.attach("other", other, WriteMode::Back).expect("the volume attaches");
    for block in 0..3 {
        volume.write(block * BLOCK_U64, &content(block, 1)).expect("a write succeeds");
    }
    other.write(0, &content(0, 1)).expect("a write succeeds");
    assert_eq!([volume.dirty_blocks(), volume.unsynced_blocks()], [0, 3]);
    assert_eq!([other.dirty_blocks(), other.unsynced_blocks()], [1, 0]);
    assert_eq!([cache.stats().dirty_blocks, cache.stats().unsynced_blocks], [1, 3]);
    volume.flush().expect("the disk takes all");
    assert_eq!([volume.unsynced_blocks(), other.dirty_blocks()], [0, 1]);
}

#[test]
fn a_block_is_dirty_until_a_flush_has_it_below() {
    let (_cache, volume, disk) = open_over(WriteMode::Back, false);
    disk.stall(Operation::Discard);
    volume.write(0, &content(0, 1)).expect("a write succeeds");
    volume.write(BLOCK_U64, &[7; 512]).expect("a write succeeds");
    volume.discard(2 * BLOCK_U64, BLOCK_U64).expect("a discard succeeds");
    assert_eq!(place(&volume, 0), BlockPlace { in_ram: true, ..DIRTY });
    assert_eq!(place(&volume, 1), DIRTY, "RAM has only a part of it");
    assert_eq!(place(&volume, 2), DIRTY, "what is below is to be discarded");
    disk.resume();
    volume.flush().expect("the disk takes all");
    assert_eq!(place(&volume, 0), IN_RAM);
    assert_eq!(place(&volume, 1), BELOW);
    assert_eq!(place(&volume, 2), BELOW);
}

#[test]
fn what_the_log_has_is_on_the_ssd_and_dirty_until_it_is_destaged() {
    let (cache, volume, disk) = open_over(WriteMode::BackSsd, true);
    // So that no destage is done before it may be.
    disk.stall(Operation::Sync);
    volume.write(0, &content(0, 1)).expect("a write succeeds");
    volume.flush().expect("the log takes it");
    volume.discard(BLOCK_U64, BLOCK_U64).expect("a discard succeeds");
    volume.flush().expect("the log takes it");
    assert_eq!(place(&volume, 0), BlockPlace { in_ram: true, on_ssd: true, is_dirty: true });
    assert!(place(&volume, 1).is_dirty);
    disk.resume();
    volume.set_mode(WriteMode::Through).expect("the log is destaged");
    assert!(!place(&volume, 0).is_dirty && !place(&volume, 1).is_dirty);
    cache.close().expect("nothing is dirty");
}

#[test]
fn asking_where_blocks_are_counts_as_no_use_of_them() {
    let (cache, volume) = open(WriteMode::Through, false);
    (0..RAM_BLOCKS).for_each(|block| drop(bytes_of(&volume, block * BLOCK_U64, BLOCK)));
    let before = cache.stats();
    assert_eq!(volume.places(0..DISK_BLOCKS).expect("all are in the volume").len() as u64, DISK_BLOCKS);
    assert_eq!(cache.stats(), before);
    bytes_of(&volume, RAM_BLOCKS * BLOCK_U64, BLOCK);
    assert_eq!(place(&volume, 0), BELOW, "the least recently used block is still the first");
}

#[test]
fn blocks_that_the_volume_has_not_are_an_error() {
    let (_cache, volume) = open(WriteMode::Through, false);
    assert!(matches!(volume.places(0..DISK_BLOCKS + 1), Err(Error::OutOfRange { .. })));
    assert!(matches!(volume.places(u64::MAX - 1..u64::MAX), Err(Error::OutOfRange { .. })));
    assert!(volume.places(DISK_BLOCKS..DISK_BLOCKS).expect("an empty range is in it").is_empty());
}

//! Writes around the cache, and a mode that changes while blocks are dirty.

use std::sync::{Arc, mpsc};

use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{Config, Error, WriteMode};

use crate::common::{BLOCK, content, eventually, held, small, stored, without_hanging};
use crate::{BLOCK_U64, answered, below, open, read, with_ssd, write};

#[test]
fn a_write_around_is_below_when_it_is_acknowledged_and_nothing_of_it_is_kept() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let (cache, volume) = open(&held(32), &device, WriteMode::Around);
    let resident: Vec<u64> = (0..16).collect();
    resident.iter().for_each(|&block| drop(read(&volume, block)));
    for block in 100..200 {
        write(&volume, block, 1);
        assert!(below(&device, block) == content(block, 1), "block {block}");
    }
    let reads = device.counters().reads;
    resident.iter().for_each(|&block| drop(read(&volume, block)));
    assert_eq!(device.counters().reads, reads, "a hundred blocks that pass displace nobody");
    write(&volume, 3, 1);
    assert!(read(&volume, 3) == content(3, 1));
    assert_eq!(device.counters().reads, reads + 1, "a block that was resident is void");
    volume.write(150 * BLOCK_U64 + 100, &[7; 700]).expect("a write of parts of sectors succeeds");
    let mut wanted = content(150, 1);
    wanted[100..800].fill(7);
    assert!(below(&device, 150) == wanted && read(&volume, 150) == wanted);
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

/// A read was on its way when the block was written past the cache; the old bytes it brought were kept.
#[test]
fn a_fill_that_races_with_a_write_around_keeps_no_old_bytes() {
    for bytes in [BLOCK, 1024] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, WriteMode::Around);
        let mut wanted = below(&device, 5);
        wanted[..bytes].fill(9);
        device.stall(Operation::Read);
        let (sender, receiver) = mpsc::channel();
        volume.read_with(5 * BLOCK_U64, BLOCK, move |answer| drop(sender.send(answer.map(drop))));
        device.wait_until_held(1);
        volume.write(5 * BLOCK_U64, &wanted[..bytes]).expect("a write succeeds");
        assert_eq!(device.counters().writes, 1, "it is below while the read hangs");
        device.resume();
        answered(&receiver).expect("the read succeeds");
        assert!(below(&device, 5) == wanted);
        assert!(read(&volume, 5) == wanted, "{bytes} bytes");
        volume.flush().expect("a flush succeeds");
        cache.assert_quiet();
    }
}

#[test]
fn a_copy_on_the_ssd_is_void_before_a_write_around_goes_below() {
    let device = Arc::new(MemoryDevice::patterned(256 * BLOCK_U64, 1));
    let (config, ssd) = with_ssd(held(16), 200);
    let (cache, volume) = open(&config, &device, WriteMode::Around);
    (0..64).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    assert!(cache.stats().ssd.bytes_written > 0);
    ssd.stall(Operation::Sync);
    let (sender, receiver) = mpsc::channel();
    let writes = device.counters().writes;
    volume.write_with(0, content(0, 1), move |answer| drop(sender.send(answer.map(drop))));
    ssd.wait_until_held(1);
    assert_eq!(device.counters().writes, writes, "the void is not durable yet");
    assert!(receiver.try_recv().is_err());
    ssd.resume();
    answered(&receiver).expect("a write succeeds");
    let from_ssd = cache.stats().read_ssd_hits;
    assert!(read(&volume, 0) == content(0, 1));
    assert_eq!(cache.stats().read_ssd_hits, from_ssd);
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

#[test]
fn what_was_written_around_before_a_sync_that_failed_is_named_lost() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Around);
    write(&volume, 3, 1);
    read(&volume, 3);
    device.fail(Fault::nth(Operation::Sync, 0));
    assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })));
    let reads = device.counters().reads;
    read(&volume, 3);
    assert_eq!(device.counters().reads, reads + 1, "a clean copy may be of what the device drops");
    for _ in 0..3 {
        assert!(matches!(volume.flush(), Err(Error::Lost { blocks: 1, .. })), "it stays named");
    }
    drop(cache);
}

#[test]
fn a_mode_switched_with_dirty_blocks_loses_and_delays_nothing() {
    let modes = [WriteMode::Around, WriteMode::Through, WriteMode::Back];
    for (from, to) in modes.iter().flat_map(|&from| modes.map(|to| (from, to))) {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, from);
        (0..8).for_each(|block| write(&volume, block, 1));
        device.stall(Operation::Write);
        volume.set_mode(to).expect("the mode is switched");
        assert_eq!(volume.mode(), to);
        device.resume();
        // Into sectors that are dirty, beside them, and into a block that was not touched.
        volume.write(2 * BLOCK_U64 + 300, &[5; 1000]).expect("a write succeeds");
        volume.write(20 * BLOCK_U64 + 300, &[5; 1000]).expect("a write succeeds");
        let mut wanted = content(2, 1);
        wanted[300..1300].fill(5);
        assert!(read(&volume, 2) == wanted, "{from:?} {to:?}");
        if to != WriteMode::Back {
            assert!(below(&device, 2) == wanted, "{from:?} {to:?}: acknowledged as the new mode says");
        }
        volume.flush().expect("a flush succeeds");
        assert!(below(&device, 2) == wanted, "{from:?} {to:?}");
        (0..8)
            .filter(|&block| block != 2)
            .for_each(|block| assert!(below(&device, block) == content(block, 1)));
        assert!(stored(&*device, 20 * BLOCK_U64 + 300, 1000) == [5; 1000]);
        cache.assert_quiet();
        cache.close().expect("the cache closes");
        assert!(matches!(volume.set_mode(from), Err(Error::Closed)));
    }
}

#[test]
fn a_write_around_that_fails_below_is_kept_and_tried_again() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let config = Config { writeback_delay_ms: 2, ..small(32) };
    let (cache, volume) = open(&config, &device, WriteMode::Around);
    device.fail(Fault::nth(Operation::Write, 0));
    assert!(matches!(volume.write(0, &content(0, 1)), Err(Error::Tier(_))));
    assert!(read(&volume, 0) == content(0, 1));
    eventually("a flush succeeds", || volume.flush().is_ok());
    assert!(below(&device, 0) == content(0, 1));
    let reads = device.counters().reads;
    read(&volume, 0);
    assert_eq!(device.counters().reads, reads + 1, "it has left RAM");
    without_hanging(move || cache.assert_quiet());
}

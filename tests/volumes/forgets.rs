//! Ranges that are forgotten: what only the cache has of them is gone.

use std::io::IoSlice;
use std::sync::{Arc, mpsc};

use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{Config, Device, Error, WriteMode};

use crate::common::{BLOCK, bytes_of, content, eventually, held, seed, small, without_hanging};
use crate::{BLOCK_U64, answered, below, open, read, told, with_ssd, write};

#[test]
fn what_is_forgotten_is_read_from_below_and_dirty_bytes_are_gone() {
    let device = Arc::new(MemoryDevice::patterned(65 * BLOCK_U64 - 100, 1));
    let (config, _ssd) = with_ssd(held(16), 200);
    let (cache, volume) = open(&config, &device, WriteMode::Back);
    (0..64).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    (0..8).for_each(|block| write(&volume, block, 1));
    // Behind the cache.
    let other = MemoryDevice::patterned(64 * BLOCK_U64, 2);
    (0..64).for_each(|block| {
        let bytes = below(&other, block);
        device.write(block * BLOCK_U64, &[IoSlice::new(&bytes)]).expect("a write succeeds");
    });
    volume.forget(0, 0).expect("an empty forget succeeds");
    for (offset, bytes) in [(1, BLOCK_U64), (0, BLOCK_U64 - 1), (512, 512)] {
        assert!(matches!(volume.forget(offset, bytes), Err(Error::NotWholeBlocks { .. })));
    }
    assert!(matches!(volume.forget(0, 65 * BLOCK_U64), Err(Error::OutOfRange { .. })));
    volume.forget(4 * BLOCK_U64, 61 * BLOCK_U64 - 100).expect("a forget succeeds");
    let from_ssd = cache.stats().read_ssd_hits;
    (4..64).for_each(|block| assert!(read(&volume, block) == below(&other, block), "block {block}"));
    assert_eq!(cache.stats().read_ssd_hits, from_ssd);
    (0..4).for_each(|block| assert!(read(&volume, block) == content(block, 1), "block {block}"));
    volume.flush().expect("a flush succeeds");
    (0..4).for_each(|block| assert!(below(&device, block) == content(block, 1)));
    (4..64).for_each(|block| assert!(below(&device, block) == below(&other, block), "block {block}"));
    cache.assert_quiet();
}

#[test]
fn a_device_that_takes_nothing_any_more_is_left_by_forgetting() {
    for operation in [Operation::Write, Operation::Sync, Operation::Discard] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let config = Config { writeback_delay_ms: 1, ..small(32) };
        let (cache, volume) = open(&config, &device, WriteMode::Back);
        device.fail(Fault::every(operation));
        (0..8).for_each(|block| write(&volume, block, 1));
        volume.discard(10 * BLOCK_U64, 10 * BLOCK_U64).expect("a discard succeeds");
        for _ in 0..3 {
            assert!(matches!(volume.flush(), Err(Error::StillDirty { .. })), "{operation:?}");
        }
        assert!(cache.close().is_err(), "it has blocks that nobody else has");
        // In two parts, which cut the discard.
        volume.forget(0, 15 * BLOCK_U64).expect("a forget succeeds");
        assert!(read(&volume, 16) == vec![0; BLOCK]);
        // Where discards go through, none is left.
        let is_left = volume.flush().is_err();
        assert!(
            is_left || operation == Operation::Write,
            "{operation:?}: half of the discard is still there"
        );
        volume.forget(15 * BLOCK_U64, 49 * BLOCK_U64).expect("a forget succeeds");
        eventually("a flush succeeds", || volume.flush().is_ok());
        if operation == Operation::Write {
            let fresh = MemoryDevice::patterned(64 * BLOCK_U64, 1);
            assert!(read(&volume, 30) == below(&fresh, 30), "it is as it was");
        }
        (0..64).for_each(|block| assert!(read(&volume, block) == below(&device, block), "{operation:?}"));
        cache.assert_quiet();
        cache.close().expect("the cache closes");
    }
}

#[test]
fn forgetting_waits_for_what_is_under_way_below_and_flushes_that_waited_go_on() {
    for mode in [WriteMode::Back, WriteMode::Through] {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let (cache, volume) = open(&held(32), &device, mode);
        device.stall(Operation::Write);
        device.stall(Operation::Read);
        let (sender, receiver) = mpsc::channel();
        let (writes, flushes) = (sender.clone(), sender.clone());
        volume.write_with(3 * BLOCK_U64 + 512, [7; 1024], move |answer| drop(writes.send(answer.map(drop))));
        volume.flush_with(told(&flushes));
        device.wait_until_held(1);
        // Around the written sectors, and of a block that nobody wrote.
        for block in [3, 5] {
            let sender = sender.clone();
            volume.read_with(block * BLOCK_U64, BLOCK, move |answer| drop(sender.send(answer.map(drop))));
        }
        device.wait_until_held(3);
        let forgetting = {
            let (volume, sender) = (volume.clone(), sender.clone());
            std::thread::spawn(move || {
                sender.send(volume.forget(0, 64 * BLOCK_U64)).expect("it is waited for");
            })
        };
        if mode == WriteMode::Back {
            answered(&receiver).expect("a `back` write is in RAM");
        }
        assert!(receiver.try_recv().is_err(), "the rest hangs");
        device.resume();
        let rest = if mode == WriteMode::Back { 4 } else { 5 };
        (0..rest).for_each(|_| answered(&receiver).expect("all are told of success"));
        forgetting.join().expect("it ends");
        let reads = device.counters().reads;
        for block in [3, 5] {
            assert!(read(&volume, block) == below(&device, block), "block {block}");
        }
        assert!(device.counters().reads >= reads + 2, "nothing was kept");
        volume.flush().expect("a flush succeeds");
        cache.assert_quiet();
    }
}

#[test]
fn a_block_that_was_lost_is_not_named_any_more_once_it_is_forgotten() {
    let device = Arc::new(MemoryDevice::new(64 * BLOCK_U64));
    let (cache, volume) = open(&held(32), &device, WriteMode::Around);
    (3..5).for_each(|block| write(&volume, block, 1));
    device.fail(Fault::nth(Operation::Sync, 0));
    assert!(volume.flush().is_err());
    assert!(matches!(volume.flush(), Err(Error::Lost { blocks: 2, .. })));
    volume.forget(3 * BLOCK_U64, BLOCK_U64).expect("a forget succeeds");
    assert!(matches!(volume.flush(), Err(Error::Lost { blocks: 1, .. })));
    volume.forget(0, 64 * BLOCK_U64).expect("a forget succeeds");
    volume.flush().expect("a flush succeeds");
    cache.assert_quiet();
}

/// Writers, readers, discards, forgets and flushes on the same blocks: nothing hangs, and the books agree in the end.
#[test]
fn discards_and_forgets_among_other_traffic_leave_the_books_right() {
    let seed = seed();
    let cache = without_hanging(move || {
        let device = Arc::new(MemoryDevice::patterned(64 * BLOCK_U64, 1));
        let config = Config { writeback_delay_ms: 1, shards: Some(2), ..small(24) };
        let (config, _ssd) = with_ssd(config, 200);
        let (cache, volume) = open(&config, &device, WriteMode::Back);
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (volume, device) = (volume.clone(), device.clone());
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(thread));
                scope.spawn(move || {
                    for number in 0..600 {
                        let first = random.u64(..64);
                        let count = random.u64(1..16).min(64 - first);
                        match random.u8(..12) {
                            0 => volume.discard(first * BLOCK_U64, count * BLOCK_U64).expect("it succeeds"),
                            1 => volume.forget(first * BLOCK_U64, count * BLOCK_U64).expect("it succeeds"),
                            2 => drop(volume.flush()),
                            3 if random.u8(..4) == 0 => device.fail(Fault::nth(Operation::Sync, 0)),
                            3 if random.u8(..4) == 0 => device.fail(Fault::nth(Operation::Discard, 0)),
                            3 => {
                                let modes = [WriteMode::Around, WriteMode::Through, WriteMode::Back];
                                volume.set_mode(modes[random.usize(..3)]).expect("the mode is switched");
                            }
                            4..8 => drop(bytes_of(&volume, first * BLOCK_U64, count as usize * BLOCK)),
                            _ => drop(volume.write(first * BLOCK_U64 + 300, &[number as u8; 5000][..3000])),
                        }
                    }
                });
            }
        });
        device.clear_faults();
        // What was lost around a failed sync is told until it is forgotten.
        eventually("a flush succeeds", || match volume.flush() {
            Err(Error::Lost { .. }) => {
                volume.forget(0, 64 * BLOCK_U64).expect("a forget succeeds");
                false
            }
            flushed => flushed.is_ok(),
        });
        cache.settle().expect("the cache settles");
        (0..64).for_each(|block| assert!(read(&volume, block) == below(&device, block), "seed {seed}"));
        cache
    });
    cache.assert_quiet();
}

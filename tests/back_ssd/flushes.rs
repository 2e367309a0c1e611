//! What a flush promises, and what writes of the background cost it.

use std::sync::Arc;

use terrace::tiers::testing::{Fault, Journal, Operation};
use terrace::{Config, Device, WriteMode};

use crate::common::{BLOCK, bytes_of, content, eventually, held, stored, without_hanging};
use crate::{Devices, check, write};

#[test]
fn a_flush_returns_when_the_log_has_it_whatever_the_backing_store_does() {
    without_hanging(|| {
        let devices = Devices::new();
        let (cache, volume) = devices.open();
        devices.disk.stall(Operation::Write);
        (0..20).for_each(|block| write(&volume, block, 1));
        volume.flush().expect("the log is there");
        assert_eq!(stored(&*devices.disk, 0, BLOCK), vec![0; BLOCK]);
        assert_eq!(cache.stats().ssd.dirty_blocks, 20);
        devices.disk.resume();
        cache.settle().expect("all goes below");
        assert_eq!(cache.stats().ssd.dirty_blocks, 0);
        (0..20).for_each(|block| {
            assert_eq!(stored(&*devices.disk, block * BLOCK as u64, BLOCK), content(block, 1));
        });
        cache.assert_quiet();
    });
}

#[test]
fn what_was_flushed_is_read_after_a_crash_and_goes_below() {
    let journal = Arc::new(Journal::default());
    let devices = Devices::recorded(&journal);
    devices.disk.fail(Fault::every(Operation::Write));
    let (_cache, volume) = devices.open();
    (0..30).for_each(|block| write(&volume, block, 1));
    volume.write(5 * BLOCK as u64 + 100, &[7; 1000]).expect("a write succeeds");
    volume.flush().expect("the log is there");
    write(&volume, 6, 2);
    let left = Devices::after_power_loss(&journal);
    let (cache, volume) = left.open();
    let mut fifth = content(5, 1);
    fifth[100..1100].fill(7);
    assert_eq!(bytes_of(&volume, 5 * BLOCK as u64, BLOCK), fifth);
    for block in (0..30).filter(|&block| block != 5) {
        check(&volume, block, 1);
    }
    cache.settle().expect("the disk works now");
    assert_eq!(stored(&*left.disk, 5 * BLOCK as u64, BLOCK), fifth);
    assert_eq!(stored(&*left.disk, 6 * BLOCK as u64, BLOCK), content(6, 1));
}

#[test]
fn a_part_of_a_block_goes_to_the_log_without_a_fill() {
    let devices = Devices::new();
    let below: Vec<u8> = (0..BLOCK).map(|at| (at % 199) as u8).collect();
    devices.disk.write(0, &[std::io::IoSlice::new(&below)]).expect("in range");
    let (cache, volume) = devices.open();
    let reads = devices.disk.counters().reads;
    volume.write(512, &[1; 1024]).expect("a write succeeds");
    volume.flush().expect("the log is there");
    assert_eq!(devices.disk.counters().reads, reads, "nothing was read for it");
    drop((cache, volume));
    let (cache, volume) = devices.open();
    let mut wanted = below.clone();
    wanted[512..1536].fill(1);
    assert_eq!(bytes_of(&volume, 0, BLOCK), wanted, "the log's sectors lie over those of the disk");
    // A second part, of a block that is in RAM no more: the log must not lose the first.
    (100..300).for_each(|block| drop(bytes_of(&volume, block * BLOCK as u64, BLOCK)));
    volume.write(2048, &[2; 512]).expect("a write succeeds");
    volume.flush().expect("the log is there");
    wanted[2048..2560].fill(2);
    (100..300).for_each(|block| drop(bytes_of(&volume, block * BLOCK as u64, BLOCK)));
    assert_eq!(bytes_of(&volume, 0, BLOCK), wanted);
    cache.settle().expect("all goes below");
    assert_eq!(stored(&*devices.disk, 0, BLOCK), wanted);
}

#[test]
fn flushes_that_come_while_the_log_is_being_synced_share_the_next_sync() {
    without_hanging(|| {
        let devices = Devices::new();
        let (_cache, volume) = devices.open_with(&held(64), WriteMode::BackSsd);
        let before = devices.ssd.counters();
        devices.ssd.stall(Operation::Sync);
        std::thread::scope(|scope| {
            for block in 0..8 {
                let volume = &volume;
                scope.spawn(move || {
                    write(volume, block, 1);
                    volume.flush().expect("the log is there");
                });
                let writes = before.writes + block + 1;
                eventually("its record is written", || devices.ssd.counters().writes == writes);
                devices.ssd.wait_until_held(1);
            }
            devices.ssd.resume();
        });
        let syncs = devices.ssd.counters().syncs - before.syncs;
        assert_eq!(syncs, 2, "the one that had started covers the first record alone, the next all others");
    });
}

#[test]
fn what_goes_to_the_log_in_the_background_waits_for_the_sync_of_a_flush() {
    let journal = Arc::new(Journal::default());
    let devices = Devices::recorded(&journal);
    let config = Config { dirty_low: 0.05, ..held(64) };
    let (cache, volume) = devices.open_with(&config, WriteMode::BackSsd);
    let before = (devices.ssd.counters().syncs, cache.stats().ssd);
    (0..20).for_each(|block| write(&volume, block, 1));
    eventually("all of them are in records", || {
        let now = cache.stats().ssd;
        let headers = now.records_written - before.1.records_written;
        now.bytes_written - before.1.bytes_written == (headers + 20) * BLOCK as u64
    });
    assert_eq!(devices.ssd.counters().syncs, before.0, "nobody waits for any of it");
    assert_eq!(cache.stats().dirty_blocks, 20);
    // Destage, which may begin as soon as the log is synced, does not get to its own sync of the SSD.
    devices.disk.stall(Operation::Write);
    volume.flush().expect("the log is there");
    assert_eq!(devices.ssd.counters().syncs, before.0 + 1);
    devices.disk.resume();
    let left = Devices::after_power_loss(&journal);
    let (_cache, volume) = left.open();
    (0..20).for_each(|block| check(&volume, block, 1));
}

#[test]
fn what_goes_to_the_log_in_the_background_is_synced_when_writers_need_its_frames() {
    without_hanging(|| {
        let devices = Devices::new();
        let config = Config { dirty_low: 0.05, ..held(64) };
        let (_cache, volume) = devices.open_with(&config, WriteMode::BackSsd);
        (0..512).for_each(|block| write(&volume, block, 1));
        (0..512).for_each(|block| check(&volume, block, 1));
    });
}

#[test]
fn what_goes_to_the_log_and_nobody_flushes_is_durable_some_ticks_later() {
    let devices = Devices::new();
    let (cache, volume) = devices.open();
    write(&volume, 0, 1);
    eventually("a tick syncs it", || cache.stats().dirty_blocks == 0);
}

#[test]
fn what_was_flushed_begins_to_go_below_at_the_low_mark() {
    let flushes_until_it_begins = |log_low| {
        let devices = Devices::new();
        let config = Config { log_low, log_high: 0.9, ..held(64) };
        let (_cache, volume) = devices.open_with(&devices.config_of(&config), WriteMode::BackSsd);
        let begins = (0..10_000).find(|&block| {
            write(&volume, block % 200, 1);
            volume.flush().expect("the log is there");
            // Time for those who bring it below.
            std::thread::sleep(std::time::Duration::from_millis(1));
            devices.disk.counters().writes > 0
        });
        begins.expect("the log is full by then")
    };
    let (early, late) = (flushes_until_it_begins(0.1), flushes_until_it_begins(0.8));
    assert!(late >= 3 * early, "it began after {early} and {late} flushes");
}

#[test]
fn marks_of_the_log_that_cannot_work_are_refused() {
    for (log_low, log_high) in [(0.5, 0.4), (-0.1, 0.5), (0.2, 0.95), (f64::NAN, 0.5)] {
        let refused = Config { log_low, log_high, ..held(64) }.ram_blocks().expect_err("they cannot");
        assert!(refused.to_string().contains("0 <= low <= high <= 0.9"), "{refused}");
    }
}

//! Closing, detaching and changing the mode while the log has newer blocks.

use std::sync::Arc;
use std::time::Duration;

use terrace::tiers::testing::{Fault, Journal, MemoryDevice, Operation};
use terrace::{Cache, Config, Device, Error, WriteMode};

use crate::common::{BLOCK, content, eventually, small, stored, without_hanging};
use crate::{DISK_BYTES, Devices, check, check_after_power_loss, write};

#[test]
fn a_close_leaves_the_log_and_another_mode_begins_with_its_end() {
    let devices = Devices::new();
    devices.disk.set_latency(Operation::Write, Duration::from_millis(20));
    let (cache, volume) = devices.open();
    (0..60).for_each(|block| write(&volume, block * 2, 1));
    volume.flush().expect("the log is there");
    cache.close().expect("closes");
    drop(volume);
    assert!(cache.stats().ssd.dirty_blocks > 0, "a slow disk has not got all of it");
    let (cache, volume) = devices.open_as(WriteMode::Through);
    assert_eq!(cache.stats().ssd.dirty_blocks, 0, "a through volume never has newer blocks on the SSD");
    (0..60).for_each(|block| {
        assert_eq!(stored(&*devices.disk, block * 2 * BLOCK as u64, BLOCK), content(block * 2, 1));
    });
    write(&volume, 4, 2);
    check(&volume, 4, 2);
}

#[test]
fn a_store_that_changed_while_the_log_had_newer_blocks_is_refused() {
    let devices = Devices::new();
    devices.disk.fail(Fault::every(Operation::Write));
    let (cache, volume) = devices.open();
    write(&volume, 0, 1);
    volume.flush().expect("the log is there");
    cache.close().expect("closes");
    drop((cache, volume));
    devices.disk.clear_faults();
    devices.disk.write(0, &[std::io::IoSlice::new(&[9; 512])]).expect("in range");
    let cache = Cache::open(&devices.config()).expect("the cache opens");
    let refused = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd);
    let error = refused.err().expect("it was changed").to_string();
    assert!(error.contains("1 blocks that are newer"), "{error}");
}

#[test]
fn a_volume_is_detached_with_newer_blocks_in_the_log_and_comes_back_with_them() {
    let devices = Devices::new();
    let (cache, volume) = devices.open();
    devices.disk.fail(Fault::every(Operation::Write));
    (0..8).for_each(|block| write(&volume, block, 1));
    volume.detach().expect("the log has all of it");
    devices.disk.clear_faults();
    assert_eq!(
        stored(&*devices.disk, 0, BLOCK),
        vec![0; BLOCK],
        "nothing is written to a volume that is detached"
    );
    let volume = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd).expect("attaches");
    (0..8).for_each(|block| check(&volume, block, 1));
    cache.settle().expect("all goes below");
    assert_eq!(stored(&*devices.disk, 0, BLOCK), content(0, 1));
}

#[test]
fn a_mode_is_changed_to_and_from_the_log_and_everything_is_as_durable_as_each_says() {
    let journal = Arc::new(Journal::default());
    let devices = Devices::recorded(&journal);
    let (cache, volume) = devices.open_as(WriteMode::Back);
    let (blocks, mut number) = (24, 0);
    let modes =
        [WriteMode::BackSsd, WriteMode::Through, WriteMode::BackSsd, WriteMode::Around, WriteMode::BackSsd];
    for mode in modes.into_iter().chain([WriteMode::Back]) {
        number += 1;
        (0..blocks).for_each(|block| write(&volume, block, number));
        if number % 2 == 0 {
            volume.flush().expect("a flush succeeds");
        }
        volume.set_mode(mode).expect("the mode changes");
        assert_eq!(volume.mode(), mode);
        volume.flush().expect("a flush of writes of the old mode");
        if mode != WriteMode::BackSsd {
            assert_eq!(cache.stats().ssd.dirty_blocks, 0, "nothing newer on the SSD in {mode:?}");
        }
        check_after_power_loss(&journal, (0..blocks).map(|block| (block, content(block, number))));
        // In the mode before this one some went below, or to the log, and is not what counts after a crash.
        number += 1;
        (0..blocks / 2).for_each(|block| write(&volume, block, number));
        volume.flush().expect("a flush succeeds");
        let wanted = |block: u64| content(block, if block < blocks / 2 { number } else { number - 1 });
        check_after_power_loss(&journal, (0..blocks).map(|block| (block, wanted(block))));
    }
    cache.assert_quiet();
}

/// A segment of the log stays for the blocks of one volume, with a destaged copy of another. That one left its log, and a
/// block that was written before goes below after: a crash must not bring the copy back.
#[test]
fn what_the_log_had_does_not_come_back_over_what_went_below_after_it_was_left() {
    let journal = Arc::new(Journal::default());
    let devices = Devices::recorded(&journal);
    let other = Arc::new(MemoryDevice::new(DISK_BYTES).named("other"));
    other.fail(Fault::every(Operation::Write));
    let config =
        Config { writeback_delay_ms: 3_600_000, dirty_high: 0.9, dirty_low: 0.9, ..devices.config() };
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    let beside = cache.attach("other", other, WriteMode::BackSsd).expect("the volume attaches");
    for (volume, block) in [(&volume, 3), (&beside, 0)] {
        write(volume, block, 1);
        volume.flush().expect("the log is there");
    }
    write(&volume, 3, 2);
    volume.set_mode(WriteMode::Back).expect("the log is left");
    assert_eq!(stored(&*devices.disk, 3 * BLOCK as u64, BLOCK), content(3, 1), "the newer one is in RAM");
    volume.flush().expect("a flush succeeds");
    assert_eq!(stored(&*devices.disk, 3 * BLOCK as u64, BLOCK), content(3, 2));
    let (_cache, volume) = Devices::after_power_loss(&journal).open();
    check(&volume, 3, 2);
}

#[test]
fn in_order_a_dead_ssd_leaves_the_backing_store_as_some_flush_left_it() {
    let devices = Devices::new();
    let config = Config { ordered_destage: true, ..devices.config() };
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    // Block 0 says to what the others were set before: a log of changes, as a file system has one.
    for number in 1..60 {
        for block in 1..6 {
            write(&volume, block, number);
        }
        volume.flush().expect("the log is there");
        write(&volume, 0, number);
        volume.flush().expect("the log is there");
        // At any moment: what it says is there.
        let below = |block: u64| {
            let bytes = stored(&*devices.disk, block * BLOCK as u64, 8);
            u64::from(u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")))
        };
        let said = below(0);
        (1..6).for_each(|block| assert!(below(block) >= said, "block {block} was to be of {said}"));
    }
    cache.settle().expect("all goes below");
    (0..6).for_each(|block| {
        assert_eq!(stored(&*devices.disk, block * BLOCK as u64, BLOCK), content(block, 59));
    });
    cache.assert_quiet();
}

#[test]
fn a_mode_that_the_state_does_not_allow_is_refused_and_the_old_one_goes_on() {
    without_hanging(|| {
        let devices = Devices::new();
        let (cache, volume) = devices.open();
        devices.disk.fail(Fault::every(Operation::Write));
        (0..8).for_each(|block| write(&volume, block, 1));
        volume.flush().expect("the log is there");
        let refused = volume.set_mode(WriteMode::Through);
        assert!(matches!(refused, Err(Error::StillDirty { .. })), "{refused:?}");
        assert_eq!(volume.mode(), WriteMode::BackSsd);
        (0..8).for_each(|block| write(&volume, block, 2));
        eventually("what the attempt left on its way below goes to the log", || volume.flush().is_ok());
        (0..8).for_each(|block| check(&volume, block, 2));
        devices.disk.clear_faults();
        volume.set_mode(WriteMode::Through).expect("the disk works now");
        (0..8).for_each(|block| {
            assert_eq!(stored(&*devices.disk, block * BLOCK as u64, BLOCK), content(block, 2));
        });
        cache.assert_quiet();
    });
}

#[test]
fn writes_flushes_and_discards_go_on_while_the_mode_changes_to_and_fro() {
    const ROUNDS: u64 = 80;
    without_hanging(|| {
        let devices = Devices::new();
        let (cache, volume) = devices.open();
        let worker = |first: u64| {
            let volume = volume.clone();
            std::thread::spawn(move || {
                for number in 1..=ROUNDS {
                    (first..first + 30).for_each(|block| write(&volume, block, number));
                    if number % 3 == 0 {
                        volume
                            .discard((first + 10) * BLOCK as u64, 8 * BLOCK as u64)
                            .expect("a discard succeeds");
                        write(&volume, first + 12, number);
                    }
                    if number % 4 == 0 {
                        volume.flush().expect("a flush succeeds");
                    }
                    (first..first + 10).for_each(|block| check(&volume, block, number));
                    check(&volume, first + 12, number);
                }
            })
        };
        let workers = [worker(0), worker(100)];
        let modes =
            [WriteMode::Back, WriteMode::BackSsd, WriteMode::Through, WriteMode::BackSsd, WriteMode::Around];
        let mut changes = 0;
        for mode in modes.into_iter().cycle() {
            volume.set_mode(mode).expect("the mode changes");
            changes += 1;
            if workers.iter().all(|worker| worker.is_finished()) {
                break;
            }
        }
        workers.into_iter().for_each(|worker| worker.join().expect("it does not panic"));
        assert!(changes > 4, "{changes} changes of mode");
        cache.settle().expect("all goes below");
        for block in (0..10).chain(100..110) {
            assert!(
                stored(&*devices.disk, block * BLOCK as u64, BLOCK) == content(block, ROUNDS),
                "block {block}"
            );
        }
        cache.assert_quiet();
    });
}

#[test]
fn without_an_ssd_the_mode_is_refused() {
    let cache = Cache::open(&small(64)).expect("the cache opens");
    let refused = cache.attach("disk", Arc::new(MemoryDevice::new(DISK_BYTES)), WriteMode::BackSsd);
    assert!(matches!(refused, Err(Error::Config(_))));
    let volume =
        cache.attach("disk", Arc::new(MemoryDevice::new(DISK_BYTES)), WriteMode::Back).expect("attaches");
    let refused = volume.set_mode(WriteMode::BackSsd);
    assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
    assert_eq!(volume.mode(), WriteMode::Back);
}

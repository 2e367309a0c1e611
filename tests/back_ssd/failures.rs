//! A log that is full, and devices that fail.

use std::sync::Arc;

use terrace::tiers::testing::{Fault, Journal, MemoryDevice, Operation};
use terrace::{Background, Cache, Config, Device, Error, WriteMode};

use crate::common::{BLOCK, content, eventually, small, stored, without_hanging};
use crate::{DISK_BYTES, Devices, check, write, zeros};

#[test]
fn writers_wait_for_destage_when_the_log_is_full() {
    without_hanging(|| {
        let devices = Devices::new();
        let (cache, volume) = devices.open();
        for round in 1..20 {
            (0..512).for_each(|block| write(&volume, block, round));
        }
        volume.flush().expect("the log is there");
        (0..512).for_each(|block| check(&volume, block, 19));
        let ssd = cache.stats().ssd;
        assert!(ssd.blocks_destaged > 512, "the log is far smaller than what was written: {ssd:?}");
        cache.settle().expect("all goes below");
        cache.assert_quiet();
    });
}

/// Closing brought nothing below of a volume that had been flushed, so one whose last blocks found the log full of that
/// one's waited for ever.
#[test]
fn a_close_makes_room_in_a_log_that_another_volume_has_filled() {
    without_hanging(|| {
        let devices = Devices::new();
        let config = Config { background: Background::OnSettle, ..small(300) };
        let (cache, first) = devices.open_with(&config, WriteMode::BackSsd);
        let other = Arc::new(MemoryDevice::new(DISK_BYTES).named("other"));
        let second = cache.attach("other", other.clone(), WriteMode::BackSsd).expect("the volume attaches");
        (0..100).for_each(|block| write(&first, block, 1));
        first.flush().expect("the log has room");
        (0..100).for_each(|block| write(&second, block, 2));
        cache.close().expect("room is made");
        let on = |disk: &MemoryDevice, block: u64| stored(disk, block * BLOCK as u64, BLOCK);
        assert!(
            (0..100).any(|block| on(&devices.disk, block) == content(block, 1)),
            "the log had no room for all"
        );
        let cache = Cache::open(&devices.config_of(&config)).expect("the cache opens");
        let second = cache.attach("other", other, WriteMode::BackSsd).expect("the volume attaches");
        (0..100).for_each(|block| check(&second, block, 2));
    });
}

#[test]
fn a_full_log_before_a_dead_disk_is_an_error_and_not_a_hang() {
    without_hanging(|| {
        let devices = Devices::new();
        let (cache, volume) = devices.open();
        devices.disk.fail(Fault::every(Operation::Write));
        let error = (1..100).find_map(|round| {
            (0..32).for_each(|block| write(&volume, (round * 32 + block) % 512, round));
            volume.flush().err()
        });
        assert!(matches!(error, Some(Error::StillDirty { .. })), "{error:?}");
        devices.disk.clear_faults();
        eventually("the disk works again", || volume.flush().is_ok());
        cache.settle().expect("all goes below");
    });
}

#[test]
fn a_record_or_a_sync_that_fails_is_written_again_and_never_taken_for_a_success() {
    for operation in [Operation::Write, Operation::Sync] {
        let journal = Arc::new(Journal::default());
        let devices = Devices::recorded(&journal);
        devices.disk.fail(Fault::every(Operation::Write));
        let (_cache, volume) = devices.open();
        write(&volume, 1, 1);
        volume.flush().expect("the log is there");
        devices.ssd.fail(Fault::nth(operation, 0));
        (1..9).for_each(|block| write(&volume, block, 2));
        let failed = volume.flush();
        assert!(matches!(failed, Err(Error::StillDirty { .. })), "{operation:?}: {failed:?}");
        eventually("the log goes on", || volume.flush().is_ok());
        let left = Devices::after_power_loss(&journal);
        let (_cache, volume) = left.open();
        (1..9).for_each(|block| check(&volume, block, 2));
    }
}

#[test]
fn a_disk_that_fails_keeps_its_blocks_dirty_and_gets_them_when_it_works_again() {
    let devices = Devices::new();
    let (cache, volume) = devices.open();
    devices.disk.fail(Fault { count: 3, ..Fault::every(Operation::Write) });
    devices.disk.fail(Fault { count: 2, ..Fault::every(Operation::Sync) });
    (0..10).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    eventually("destage tries again", || cache.stats().ssd.dirty_blocks == 0);
    (0..10).for_each(|block| {
        assert_eq!(stored(&*devices.disk, block * BLOCK as u64, BLOCK), content(block, 1));
    });
}

/// A block that could not be written ended the round, and what that had written before was not counted: one bad place of
/// a disk kept all that was written with it in the log for ever.
#[test]
fn a_block_that_cannot_be_written_below_keeps_no_other_from_going_there() {
    let devices = Devices::new();
    let config = Config { background: Background::OnSettle, ..devices.config() };
    let (cache, volume) = devices.open_with(&config, WriteMode::BackSsd);
    let blocks = || (0..30).chain(40..50).chain([200]);
    let bad = [7, 8, 21, 45];
    for block in bad {
        let range = block * BLOCK as u64..(block + 1) * BLOCK as u64;
        devices.disk.fail(Fault::every(Operation::Write).within(range));
    }
    blocks().for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    let error = cache.settle().expect_err("some cannot be written");
    assert!(matches!(error, Error::StillDirty { blocks: 4, .. }), "{error}");
    assert_eq!(cache.stats().ssd.dirty_blocks, bad.len() as u64);
    blocks().filter(|block| !bad.contains(block)).for_each(|block| {
        assert!(stored(&*devices.disk, block * BLOCK as u64, BLOCK) == content(block, 1), "block {block}");
    });
    devices.disk.clear_faults();
    cache.settle().expect("the disk works now");
    blocks().for_each(|block| {
        assert!(stored(&*devices.disk, block * BLOCK as u64, BLOCK) == content(block, 1), "block {block}");
    });
    cache.assert_quiet();
}

#[test]
fn a_block_that_cannot_be_read_from_the_log_keeps_no_other_from_going_below() {
    let devices = Devices::new();
    let config = Config { background: Background::OnSettle, ..devices.config() };
    let (cache, volume) = devices.open_with(&config, WriteMode::BackSsd);
    (0..20).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    // One read fails, of whichever block: fewer than would have the SSD switched off.
    devices.ssd.fail(Fault::nth(Operation::Read, 4));
    cache.settle().expect("it can be read when it is tried again");
    (0..20).for_each(|block| {
        assert!(stored(&*devices.disk, block * BLOCK as u64, BLOCK) == content(block, 1), "block {block}");
    });
    assert!(cache.stats().ssd_errors == 1 && cache.stats().ssd_in_use);
    cache.assert_quiet();
}

#[test]
fn a_discard_that_fails_below_comes_before_all_that_is_newer_and_what_went_before_it_counts() {
    let devices = Devices::new();
    let config = Config { background: Background::OnSettle, ..devices.config() };
    let (cache, volume) = devices.open_with(&config, WriteMode::BackSsd);
    let old = content(12, 9);
    devices.disk.write(12 * BLOCK as u64, &[std::io::IoSlice::new(&old)]).expect("in range");
    volume.discard(0, 4 * BLOCK as u64).expect("a discard succeeds");
    volume.flush().expect("the log is there");
    volume.discard(10 * BLOCK as u64, 4 * BLOCK as u64).expect("a discard succeeds");
    volume.flush().expect("the log is there");
    write(&volume, 11, 1);
    volume.flush().expect("the log is there");
    devices.disk.fail(Fault::every(Operation::Discard).within(10 * BLOCK as u64..14 * BLOCK as u64));
    cache.settle().expect_err("one cannot be discarded");
    assert_eq!(cache.stats().ssd.dirty_blocks, 2, "the discard that failed, and what is on top of it");
    assert!(stored(&*devices.disk, 11 * BLOCK as u64, BLOCK) == zeros(), "nothing was written before it");
    devices.disk.clear_faults();
    cache.settle().expect("the disk works now");
    assert!(stored(&*devices.disk, 11 * BLOCK as u64, BLOCK) == content(11, 1));
    assert!(stored(&*devices.disk, 12 * BLOCK as u64, BLOCK) == zeros());
    cache.assert_quiet();
}

#[test]
fn what_is_destaged_is_counted_as_written_to_the_disk() {
    let devices = Devices::new();
    let config = Config { background: Background::OnSettle, ..devices.config() };
    let (cache, volume) = devices.open_with(&config, WriteMode::BackSsd);
    (0..10).chain([20]).for_each(|block| write(&volume, block, 1));
    volume.write(30 * BLOCK as u64 + 512, &[7; 1024]).expect("a write succeeds");
    volume.flush().expect("the log is there");
    let before = cache.stats();
    assert_eq!((before.disk_write_operations, before.disk_write_bytes), (0, 0), "nothing went below");
    cache.settle().expect("the disk works");
    let (stats, counted) = (cache.stats(), devices.disk.counters());
    assert_eq!((stats.disk_write_operations, stats.disk_write_bytes), (3, 11 * BLOCK as u64 + 1024));
    assert_eq!(stats.disk_write_operations, counted.writes, "as the disk counts");
}

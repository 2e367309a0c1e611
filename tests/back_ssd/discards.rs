//! Ranges that are discarded and forgotten while the log has blocks of them.

use std::sync::Arc;

use terrace::tiers::testing::{Fault, Journal, MemoryDevice, Operation};
use terrace::{Background, Cache, Config, Device, SsdConfig, SsdSize, WriteMode};

use crate::common::{BLOCK, bytes_of, content, small, ssd_bytes, stored};
use crate::{Devices, SSD_BLOCKS, check, check_after_power_loss, write, zeros};

#[test]
fn a_discard_reads_as_zeros_and_is_durable_at_the_next_flush_whatever_the_backing_store_does() {
    let journal = Arc::new(Journal::default());
    let devices = Devices::recorded(&journal);
    (0..40).for_each(|block| {
        let bytes = content(block, 7);
        devices.disk.write(block * BLOCK as u64, &[std::io::IoSlice::new(&bytes)]).expect("in range");
    });
    devices.disk.sync().expect("works");
    for operation in [Operation::Write, Operation::Discard, Operation::Sync] {
        devices.disk.fail(Fault::every(operation));
    }
    let (cache, volume) = devices.open();
    (0..20).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    volume.discard(5 * BLOCK as u64 + 512, 25 * BLOCK as u64).expect("a discard succeeds");
    write(&volume, 8, 2);
    volume.write(9 * BLOCK as u64 + 1024, &[9; 512]).expect("a write succeeds");
    let mut ninth = zeros();
    ninth[1024..1536].fill(9);
    let (mut fifth, mut last) = (content(5, 1), content(30, 7));
    fifth[512..].fill(0);
    last[..512].fill(0);
    let wanted = move |block: u64| match block {
        0..5 => content(block, 1),
        5 => fifth.clone(),
        8 => content(8, 2),
        9 => ninth.clone(),
        6..30 => zeros(),
        30 => last.clone(),
        _ => content(block, 7),
    };
    let check =
        || (0..40).for_each(|block| assert!(bytes_of(&volume, block * BLOCK as u64, BLOCK) == wanted(block)));
    check();
    volume.flush().expect("the log is there");
    // All leaves RAM.
    (100..300).for_each(|block| drop(bytes_of(&volume, block * BLOCK as u64, BLOCK)));
    check();
    check_after_power_loss(&journal, (0..40).map(|block| (block, wanted(block))));
    devices.disk.clear_faults();
    cache.settle().expect("the disk works now");
    (0..40).for_each(|block| assert!(stored(&*devices.disk, block * BLOCK as u64, BLOCK) == wanted(block)));
    check();
    cache.assert_quiet();
    check_after_power_loss(&journal, (0..40).map(|block| (block, wanted(block))));
}

#[test]
fn empty_and_huge_ranges_are_discarded_and_forgotten_as_fast_as_small_ones() {
    let blocks: u64 = 1 << 30;
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)));
    let disk = Arc::new(MemoryDevice::new(blocks * BLOCK as u64));
    // Nothing goes below by itself: the simulated disk discards page by page.
    let mut config = Config { background: Background::OnSettle, ..small(64) };
    config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
    let cache = Cache::open(&config).expect("opens");
    let volume = cache.attach("disk", disk.clone(), WriteMode::BackSsd).expect("attaches");
    (0..8).for_each(|block| write(&volume, block << 26, 1));
    volume.flush().expect("the log is there");
    let written = cache.stats().ssd.bytes_written;
    for at in [0, BLOCK as u64, blocks * BLOCK as u64] {
        volume.discard(at, 0).expect("nothing to do");
        volume.forget(at, 0).expect("nothing to do");
    }
    assert_eq!(cache.stats().ssd.bytes_written, written, "nothing was done");
    volume.discard(BLOCK as u64, (blocks - 1) * BLOCK as u64).expect("a discard succeeds");
    volume.flush().expect("the log is there");
    check(&volume, 0, 1);
    for block in [1, 1 << 26, blocks - 1] {
        assert!(bytes_of(&volume, block * BLOCK as u64, BLOCK) == zeros());
    }
    assert!(cache.stats().ssd.bytes_written <= written + 4 * BLOCK as u64, "a page or two");
    volume.forget(0, blocks * BLOCK as u64).expect("a forget succeeds");
    assert_eq!(cache.stats().ssd.dirty_blocks, 0);
    cache.settle().expect("nothing is left");
    cache.assert_quiet();
}

#[test]
fn what_is_forgotten_does_not_come_back_from_the_log_after_a_crash_nor_go_below() {
    let journal = Arc::new(Journal::default());
    let devices = Devices::recorded(&journal);
    // Nothing goes below by itself.
    let config = Config { background: Background::OnSettle, ..devices.config() };
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    (0..12).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    volume.discard(20 * BLOCK as u64, 10 * BLOCK as u64).expect("a discard succeeds");
    volume.flush().expect("the log is there");
    write(&volume, 3, 2);
    volume.forget(2 * BLOCK as u64, 6 * BLOCK as u64).expect("a forget succeeds");
    volume.forget(24 * BLOCK as u64, 2 * BLOCK as u64).expect("a forget succeeds");
    let wanted = |block: u64| match block {
        0..2 | 8..12 => content(block, 1),
        _ => zeros(),
    };
    (0..12).for_each(|block| {
        assert!(bytes_of(&volume, block * BLOCK as u64, BLOCK) == wanted(block), "block {block}");
    });
    let left = Devices::after_power_loss(&journal);
    let bytes = content(25, 7);
    left.disk.write(25 * BLOCK as u64, &[std::io::IoSlice::new(&bytes)]).expect("in range");
    left.disk.write(26 * BLOCK as u64, &[std::io::IoSlice::new(&bytes)]).expect("in range");
    let (after, volume_after) = left.open();
    (0..12).for_each(|block| assert!(bytes_of(&volume_after, block * BLOCK as u64, BLOCK) == wanted(block)));
    after.settle().expect("the disk works");
    assert!(
        stored(&*left.disk, 25 * BLOCK as u64, BLOCK) == bytes,
        "nothing is to be discarded there any more"
    );
    assert!(
        stored(&*left.disk, 26 * BLOCK as u64, BLOCK) == zeros(),
        "the rest of the discard is still to be done"
    );
    cache.settle().expect("the disk works now");
    (0..12).for_each(|block| assert!(stored(&*devices.disk, block * BLOCK as u64, BLOCK) == wanted(block)));
    cache.assert_quiet();
}

/// It read as it was written, a flush came back, and after a crash it was older: the crash sweep found it.
#[test]
fn what_a_destage_wrote_and_could_not_sync_is_synced_before_the_log_forgets_it() {
    let devices = Devices::recorded(&Arc::new(Journal::default()));
    // Nothing goes below by itself.
    let config = Config { background: Background::OnSettle, ..devices.config() };
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", devices.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    let log_what_cannot_be_synced = || {
        (0..8).for_each(|block| write(&volume, block, 1));
        volume.flush().expect("the log is there");
        devices.disk.fail(Fault::every(Operation::Sync));
        cache.settle().expect_err("what is below cannot be synced");
    };
    let syncs_of_a_forget = || {
        let before = devices.disk.counters().syncs;
        volume.forget(0, 8 * BLOCK as u64).expect("a forget succeeds");
        volume.flush().expect("nothing is dirty");
        devices.disk.counters().syncs - before
    };
    log_what_cannot_be_synced();
    devices.disk.clear_faults();
    assert_eq!([syncs_of_a_forget(), syncs_of_a_forget()], [1, 0]);
    log_what_cannot_be_synced();
    assert_eq!(syncs_of_a_forget(), 1, "a disk that is dead is given up");
}

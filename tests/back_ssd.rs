//! Volumes in mode `back-ssd`: what a flush promises, what is left after a crash, and what happens when a device fails.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{BLOCK, bytes_of, content, eventually, held, small, ssd_bytes, stored, without_hanging};
use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::{Background, BlockSize, Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode};

const SSD_BLOCKS: u64 = 256;
const DISK_BYTES: u64 = 512 * BLOCK as u64;

struct Devices {
    ssd: Arc<MemoryDevice>,
    disk: Arc<MemoryDevice>,
}

impl Devices {
    fn new() -> Self {
        Self {
            ssd: Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd")),
            disk: Arc::new(MemoryDevice::new(DISK_BYTES).named("disk")),
        }
    }

    fn recorded(journal: &Arc<Journal>) -> Self {
        Self {
            ssd: Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd").recorded_in(journal)),
            disk: Arc::new(MemoryDevice::new(DISK_BYTES).named("disk").recorded_in(journal)),
        }
    }

    /// What is left of both when the power fails now and everything that was not synced is lost.
    fn after_power_loss(journal: &Journal) -> Self {
        let mut cut = journal.first_cut();
        while cut.advance() {}
        let mut images = cut.images(Loss::All, 1).into_iter().map(Arc::new);
        let (ssd, disk) = (images.next().expect("the SSD"), images.next().expect("the disk"));
        Self { ssd, disk }
    }

    fn config(&self) -> Config {
        self.config_of(&Config { writeback_delay_ms: 5, ..small(64) })
    }

    fn config_of(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.ssd = Some(SsdConfig::on_device(self.ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        config
    }

    fn open(&self) -> (Cache, Volume) {
        self.open_as(WriteMode::BackSsd)
    }

    fn open_as(&self, mode: WriteMode) -> (Cache, Volume) {
        self.open_with(&self.config(), mode)
    }

    fn open_with(&self, config: &Config, mode: WriteMode) -> (Cache, Volume) {
        let cache = Cache::open(&self.config_of(config)).expect("the cache opens");
        let volume = cache.attach("disk", self.disk.clone(), mode).expect("the volume attaches");
        (cache, volume)
    }
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK as u64, &content(block, number)).expect("a write succeeds");
}

fn check(volume: &Volume, block: u64, number: u64) {
    assert!(bytes_of(volume, block * BLOCK as u64, BLOCK) == content(block, number), "block {block}");
}

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

/// What is left of a power failure now: the content of `blocks` to a new cache, and then on the disk once all is below.
fn check_after_power_loss(journal: &Journal, blocks: impl IntoIterator<Item = (u64, Vec<u8>)>) {
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

fn zeros() -> Vec<u8> {
    vec![0; BLOCK]
}

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

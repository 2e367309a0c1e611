//! Volumes in mode `back-ssd`: what a flush promises, what is left after a crash, and what happens when a device fails.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{BLOCK, bytes_of, content, eventually, held, small, ssd_bytes, stored, without_hanging};
use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::{Cache, Config, Device, Error, SsdConfig, SsdSize, Volume, WriteMode};

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
    volume.flush().expect("the log is there");
    assert_eq!(devices.ssd.counters().syncs, before.0 + 1);
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
    for refused in [volume.discard(0, 4096), volume.forget(0, 4096), volume.set_mode(WriteMode::Back)] {
        assert!(matches!(refused, Err(Error::NotWithLog { .. })), "{refused:?}");
    }
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
fn without_an_ssd_the_mode_is_refused() {
    let cache = Cache::open(&small(64)).expect("the cache opens");
    let refused = cache.attach("disk", Arc::new(MemoryDevice::new(DISK_BYTES)), WriteMode::BackSsd);
    assert!(matches!(refused, Err(Error::Config(_))));
    assert!(cache.attach("disk", Arc::new(MemoryDevice::new(DISK_BYTES)), WriteMode::Back).is_ok());
}

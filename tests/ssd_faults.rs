//! An SSD that fails: when it is switched off, what that costs, and what becomes of blocks that only it had.

mod common;

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{BLOCK, bytes_of, content, eventually, held, seed, small, ssd_bytes, stored, without_hanging};
use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{
    Background, BlockSize, Cache, Config, Device, Error, SsdConfig, SsdFailure, SsdSize, Stats, Volume,
    WriteMode,
};

const BLOCK_U64: u64 = BLOCK as u64;
const SSD_BLOCKS: u64 = 256;
const DISK_BLOCKS: u64 = 512;
const MODES: [WriteMode; 4] = [WriteMode::Around, WriteMode::Through, WriteMode::Back, WriteMode::BackSsd];

struct World {
    ssd: Arc<MemoryDevice>,
    disk: Arc<MemoryDevice>,
    cache: Cache,
    volume: Volume,
}

impl World {
    fn new(mode: WriteMode) -> Self {
        Self::tuned(mode, small(32))
    }

    fn tuned(mode: WriteMode, config: Config) -> Self {
        let ssd = Arc::new(MemoryDevice::new(ssd_bytes(SSD_BLOCKS)).named("ssd"));
        let disk = Arc::new(MemoryDevice::patterned(DISK_BLOCKS * BLOCK_U64, 7).named("disk"));
        Self::on(ssd, disk, mode, config)
    }

    fn on(ssd: Arc<MemoryDevice>, disk: Arc<MemoryDevice>, mode: WriteMode, mut config: Config) -> Self {
        config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
        Self { ssd, disk, cache, volume }
    }

    fn stats(&self) -> Stats {
        self.cache.stats()
    }

    fn write(&self, block: u64, number: u64) {
        self.volume.write(block * BLOCK_U64, &content(block, number)).expect("a write succeeds");
    }

    fn check(&self, block: u64, number: u64) {
        assert!(bytes_of(&self.volume, block * BLOCK_U64, BLOCK) == content(block, number), "block {block}");
    }

    fn check_below(&self, block: u64, number: u64) {
        assert!(
            stored(&*self.disk, block * BLOCK_U64, BLOCK) == content(block, number),
            "block {block} below"
        );
    }

    /// Reads blocks that nobody writes, until nothing else is in RAM.
    fn drive_out(&self) {
        (DISK_BLOCKS - 200..DISK_BLOCKS)
            .for_each(|block| drop(bytes_of(&self.volume, block * BLOCK_U64, BLOCK)));
    }

    /// Blocks 0 to `count` are in the log alone: as `1` there, and not in RAM.
    fn with_blocks_on_the_ssd_alone(count: u64) -> Self {
        // All of them in one record, and none is destaged before it has to be.
        let config = Config { background: Background::OnSettle, ..held(32) };
        let world = Self::tuned(WriteMode::BackSsd, config);
        (0..count).for_each(|block| world.write(block, 1));
        world.volume.flush().expect("the log is there");
        world.drive_out();
        world
    }

    fn break_ssd(&self, operations: &[Operation]) {
        operations.iter().for_each(|&operation| self.ssd.fail(Fault::every(operation)));
    }
}

/// The bytes of the file in which blocks lie.
fn segments() -> std::ops::Range<u64> {
    let size = BlockSize::new(BLOCK_U64).expect("a size");
    Geometry::for_blocks(size, SSD_BLOCKS).expect("a layout").segments_offset..u64::MAX
}

#[test]
fn an_ssd_whose_appends_always_fail_or_that_is_full_is_switched_off_and_the_cache_goes_on() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let world = World::new(WriteMode::Back);
        world.ssd.fail(Fault { kind, ..Fault::every(Operation::Write).within(segments()) });
        eventually("it is switched off", || {
            world.drive_out();
            !world.stats().ssd_in_use
        });
        let stats = world.stats();
        assert_eq!(stats.ssd_off_for, Some(SsdFailure::Append));
        assert!(stats.ssd_errors >= 8, "{stats:?}");
        (0..64).for_each(|block| world.write(block, 1));
        world.volume.flush().expect("a flush needs no SSD");
        (0..64).for_each(|block| world.check_below(block, 1));
        let writes = world.ssd.counters().writes;
        world.drive_out();
        assert_eq!(world.ssd.counters().writes, writes, "nothing more is given to it");
        world.cache.settle().expect("the cache settles");
        world.cache.assert_quiet();
        world.cache.close().expect("the cache closes");
    }
}

#[test]
fn appends_that_fail_now_and_then_do_not_switch_it_off() {
    let world = World::new(WriteMode::Back);
    for number in 0..40 {
        world.ssd.fail(Fault::nth(Operation::Write, number * 2).within(segments()));
    }
    eventually("many failed", || {
        world.drive_out();
        world.cache.settle().expect("the cache settles");
        world.stats().ssd_errors >= 16
    });
    assert!(world.stats().ssd_in_use, "{:?}", world.stats());
    assert_eq!(world.stats().ssd_off_for, None);
}

#[test]
fn an_ssd_that_cannot_be_read_any_more_is_switched_off_and_every_read_is_right() {
    let world = World::new(WriteMode::Back);
    let read_all = || {
        for block in 0..200 {
            let found = bytes_of(&world.volume, block * BLOCK_U64, BLOCK);
            assert!(found == stored(&*world.disk, block * BLOCK_U64, BLOCK), "block {block}");
            if block % 10 == 0 {
                // So that no demotion is dropped.
                world.cache.settle().expect("the cache settles");
            }
        }
    };
    read_all();
    world.ssd.fail(Fault::every(Operation::Read).within(segments()));
    read_all();
    assert_eq!(world.stats().ssd_off_for, Some(SsdFailure::Read), "{:?}", world.stats());
    let reads = world.ssd.counters().reads;
    read_all();
    assert_eq!(world.ssd.counters().reads, reads, "it is not asked any more");
    world.cache.close().expect("the cache closes");
}

#[test]
fn a_flush_goes_to_the_backing_store_when_the_log_fails_for_ever() {
    for (operation, kind) in [
        (Operation::Write, io::ErrorKind::Other),
        (Operation::Write, io::ErrorKind::StorageFull),
        (Operation::Sync, io::ErrorKind::Other),
    ] {
        without_hanging(move || {
            let world = World::new(WriteMode::BackSsd);
            (0..8).for_each(|block| world.write(block, 1));
            world.volume.flush().expect("the log is there");
            let range = if operation == Operation::Write { segments() } else { 0..u64::MAX };
            world.ssd.fail(Fault { kind, ..Fault::every(operation).within(range) });
            (4..12).for_each(|block| world.write(block, 2));
            // The first ones may be told that the log failed; then it is given up.
            eventually("a flush succeeds", || world.volume.flush().is_ok());
            assert_eq!(world.volume.mode(), WriteMode::Back, "the mode that it is in from now on");
            assert!(!world.stats().ssd_in_use);
            assert!(world.stats().ssd_off_for.is_some());
            (0..4).for_each(|block| world.check_below(block, 1));
            (4..12).for_each(|block| world.check_below(block, 2));
            assert!(world.volume.lost_blocks().is_empty());
            (4..12).for_each(|block| world.write(block, 3));
            world.volume.flush().expect("nothing is left of the SSD");
            (4..12).for_each(|block| world.check_below(block, 3));
            world.drive_out();
            (4..12).for_each(|block| world.check(block, 3));
            world.cache.settle().expect("the cache settles");
            world.cache.assert_quiet();
            world.cache.close().expect("the cache closes");
        });
    }
}

/// The disk takes no writes while the SSD fails: nothing may be said to be durable, and when the disk works again what
/// the log had goes below before what is newer.
#[test]
fn what_the_log_had_never_covers_what_was_written_after_it_failed() {
    without_hanging(|| {
        let world = World::tuned(WriteMode::BackSsd, held(64));
        world.disk.fail(Fault::every(Operation::Write));
        (0..20).for_each(|block| world.write(block, 1));
        world.volume.flush().expect("the log is there");
        world.ssd.fail(Fault::every(Operation::Write));
        (0..20).step_by(2).for_each(|block| world.write(block, 2));
        for _ in 0..6 {
            let refused = world.volume.flush();
            assert!(matches!(refused, Err(Error::StillDirty { .. })), "{refused:?}");
        }
        assert!(!world.stats().ssd_in_use);
        assert_eq!(world.volume.mode(), WriteMode::BackSsd, "the log has not been left");
        world.disk.clear_faults();
        eventually("a flush succeeds", || world.volume.flush().is_ok());
        for block in 0..20 {
            world.check_below(block, if block % 2 == 0 { 2 } else { 1 });
        }
        world.cache.settle().expect("the cache settles");
        world.cache.assert_quiet();
    });
}

#[test]
fn a_flush_that_waits_when_the_ssd_fails_is_done_below() {
    without_hanging(|| {
        let world = World::tuned(WriteMode::BackSsd, held(64));
        world.ssd.stall(Operation::Sync);
        (0..8).for_each(|block| world.write(block, 1));
        let (sender, receiver) = std::sync::mpsc::channel();
        world.volume.flush_with(move |result| sender.send(result).expect("it is waited for"));
        world.ssd.wait_until_held(1);
        world.ssd.fail(Fault::every(Operation::Sync));
        world.ssd.fail(Fault::every(Operation::Write));
        world.ssd.resume();
        let _ = receiver.recv().expect("it is answered");
        eventually("a flush succeeds", || world.volume.flush().is_ok());
        (0..8).for_each(|block| world.check_below(block, 1));
    });
}

#[test]
fn a_dead_ssd_loses_no_block_that_is_in_ram() {
    without_hanging(|| {
        let world = World::tuned(WriteMode::BackSsd, held(64));
        world.disk.fail(Fault::every(Operation::Write));
        (0..20).for_each(|block| world.write(block, 1));
        world.volume.write(30 * BLOCK_U64 + 512, &[9; 1024]).expect("a write succeeds");
        world.volume.flush().expect("the log is there");
        world.break_ssd(&[Operation::Read, Operation::Write, Operation::Sync]);
        world.disk.clear_faults();
        world.write(40, 1);
        eventually("a flush succeeds", || world.volume.flush().is_ok());
        assert!(!world.stats().ssd_in_use);
        assert!(world.volume.lost_blocks().is_empty());
        (0..20).for_each(|block| world.check_below(block, 1));
        assert_eq!(stored(&*world.disk, 30 * BLOCK_U64 + 512, 1024), vec![9; 1024]);
        world.cache.settle().expect("the cache settles");
        world.cache.assert_quiet();
    });
}

#[test]
fn blocks_that_only_a_dead_ssd_had_are_named_and_never_read_as_older_ones() {
    without_hanging(|| {
        let world = World::with_blocks_on_the_ssd_alone(6);
        world.break_ssd(&[Operation::Read, Operation::Write, Operation::Sync]);
        world.write(40, 1);
        eventually("it is switched off", || {
            let _ = world.volume.flush();
            world.volume.mode() == WriteMode::Back
        });
        assert_eq!(world.volume.lost_blocks(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(world.stats().lost_blocks, 6);
        let mut bytes = vec![0; BLOCK];
        for block in 0..6 {
            let refused = world.volume.read(block * BLOCK_U64, &mut bytes);
            assert!(matches!(refused, Err(Error::LostWithSsd { blocks: 1, .. })), "{refused:?}");
        }
        let told = world.volume.flush();
        assert!(matches!(told, Err(Error::LostWithSsd { blocks: 6, .. })), "{told:?}");
        // A part is not enough, a whole block is; so are a discard and a forget.
        world.volume.write(512, &[3; 512]).expect("a write succeeds");
        assert!(world.volume.read(0, &mut bytes).is_err(), "the rest of it is unknown");
        world.write(1, 2);
        world.volume.discard(2 * BLOCK_U64, BLOCK_U64).expect("a discard succeeds");
        world.volume.forget(3 * BLOCK_U64, BLOCK_U64).expect("a forget succeeds");
        assert_eq!(world.volume.lost_blocks(), [0, 4, 5]);
        world.drive_out();
        assert!(matches!(world.volume.flush(), Err(Error::LostWithSsd { blocks: 3, .. })));
        world.check(1, 2);
        assert_eq!(bytes_of(&world.volume, 2 * BLOCK_U64, BLOCK), vec![0; BLOCK]);
        assert_eq!(bytes_of(&world.volume, 3 * BLOCK_U64, BLOCK), stored(&*world.disk, 3 * BLOCK_U64, BLOCK));
        [0, 4, 5].into_iter().for_each(|block| world.write(block, 2));
        world.volume.flush().expect("nothing is lost any more");
        [0, 1, 4, 5].into_iter().for_each(|block| world.check_below(block, 2));
        world.cache.close().expect("the cache closes");
    });
}

#[test]
fn blocks_of_a_failing_log_that_can_still_be_read_go_below() {
    without_hanging(|| {
        let world = World::with_blocks_on_the_ssd_alone(6);
        // One of them was changed by the SSD itself, and one cannot be read: the records begin with the first segment.
        let first = segments().start;
        world.ssd.flip_bit(first + BLOCK_U64 + 17, 3);
        world.ssd.fail(Fault::every(Operation::Read).within(first + 3 * BLOCK_U64..first + 4 * BLOCK_U64));
        world.ssd.fail(Fault::every(Operation::Write));
        world.write(40, 1);
        eventually("the log is left", || {
            let _ = world.volume.flush();
            world.volume.mode() == WriteMode::Back
        });
        let lost = world.volume.lost_blocks();
        assert_eq!(lost.len(), 2, "{lost:?}");
        // It says so, and brings the rest below all the same.
        assert!(matches!(world.volume.flush(), Err(Error::LostWithSsd { blocks: 2, .. })));
        for block in (0..6).filter(|block| !lost.contains(block)) {
            world.check_below(block, 1);
            world.check(block, 1);
        }
        world.check_below(40, 1);
    });
}

#[test]
fn a_bad_dirty_copy_is_named_while_the_ssd_works() {
    without_hanging(|| {
        let world = World::with_blocks_on_the_ssd_alone(3);
        for page in 0..8 {
            world.ssd.flip_bit(segments().start + page * BLOCK_U64 + 99, 1);
        }
        let mut bytes = vec![0; BLOCK];
        assert!(world.volume.read(BLOCK_U64, &mut bytes).is_err(), "an error, and nothing older");
        assert!(world.volume.lost_blocks().contains(&1));
        assert!(matches!(world.volume.flush(), Err(Error::LostWithSsd { .. })));
        assert!(world.stats().ssd_in_use);
        (0..3).for_each(|block| world.write(block, 2));
        eventually("a flush succeeds", || world.volume.flush().is_ok());
        assert!(world.volume.lost_blocks().is_empty());
        world.drive_out();
        (0..3).for_each(|block| world.check(block, 2));
    });
}

/// A copy in the log that was destaged stays readable there. Then the SSD was switched off: what was written below since
/// must not be covered by it.
#[test]
fn a_destaged_copy_is_not_read_any_more_once_the_ssd_is_off() {
    let world = World::new(WriteMode::BackSsd);
    (0..8).for_each(|block| world.write(block, 1));
    world.cache.settle().expect("all goes below");
    world.ssd.fail(Fault::every(Operation::Write));
    (0..8).for_each(|block| world.write(block, 2));
    eventually("a flush succeeds", || world.volume.flush().is_ok());
    world.drive_out();
    (0..8).for_each(|block| world.check(block, 2));
}

#[test]
fn whatever_the_ssd_fails_no_call_of_another_mode_does() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    for mode in &MODES[..3] {
        for operation in [Operation::Read, Operation::Write, Operation::Sync] {
            for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
                let world = World::new(*mode);
                let skip = random.u64(..40);
                world.ssd.fail(Fault { skip, kind, ..Fault::every(operation) });
                let mut now = vec![0; 200];
                for number in 1..=300 {
                    let block = random.usize(..200);
                    if random.bool() {
                        world.write(block as u64, number);
                        now[block] = number;
                    } else if now[block] > 0 {
                        world.check(block as u64, now[block]);
                    } else {
                        bytes_of(&world.volume, block as u64 * BLOCK_U64, BLOCK);
                    }
                    if random.u8(..20) == 0 {
                        world.volume.flush().expect("a flush needs no SSD");
                    }
                }
                world.cache.settle().expect("the cache settles");
                world.cache.assert_quiet();
                for (block, &number) in now.iter().enumerate().filter(|(_, number)| **number > 0) {
                    world.check_below(block as u64, number);
                }
                // Whether the file could be left in order is the only thing that is said about the SSD.
                let _ = world.cache.close();
            }
        }
    }
}

/// The SSD answers late, now and then very late; the writes and reads that need it not do not notice.
#[test]
fn an_ssd_with_spikes_of_latency_delays_no_flush_of_another_mode() {
    let world = World::new(WriteMode::Back);
    (0..100).for_each(|block| drop(bytes_of(&world.volume, block * BLOCK_U64, BLOCK)));
    world.ssd.set_latency(Operation::Write, Duration::from_millis(30));
    world.ssd.set_latency(Operation::Read, Duration::from_millis(5));
    for number in 1..4 {
        (0..60).for_each(|block| world.write(block, number));
        (0..60).for_each(|block| world.check(block, number));
        world.volume.flush().expect("a flush succeeds");
    }
    assert!(world.stats().ssd_in_use, "slow is not broken");
    world.cache.settle().expect("the cache settles");
    world.cache.assert_quiet();
}

/// A device that panics in place of an answer, while it is told to.
struct Panicking {
    inner: Arc<MemoryDevice>,
    in_sync: AtomicBool,
    in_write: AtomicBool,
}

impl Device for Panicking {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn len_bytes(&self) -> u64 {
        self.inner.len_bytes()
    }

    fn read(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> terrace::tiers::Result<()> {
        self.inner.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> terrace::tiers::Result<()> {
        assert!(!self.in_write.load(Ordering::SeqCst), "a panic that the test asked for");
        self.inner.write(offset, buffers)
    }

    fn sync(&self) -> terrace::tiers::Result<()> {
        assert!(!self.in_sync.load(Ordering::SeqCst), "a panic that the test asked for");
        self.inner.sync()
    }

    fn discard(&self, offset: u64, bytes: u64) -> terrace::tiers::Result<()> {
        self.inner.discard(offset, bytes)
    }
}

fn panicking(bytes: u64) -> Arc<Panicking> {
    let inner = Arc::new(MemoryDevice::new(bytes));
    Arc::new(Panicking { inner, in_sync: AtomicBool::new(false), in_write: AtomicBool::new(false) })
}

#[test]
fn a_device_that_panics_in_a_call_is_one_that_fails_it_and_nobody_waits_for_ever() {
    for mode in MODES {
        without_hanging(move || {
            let (ssd, disk) = (panicking(ssd_bytes(SSD_BLOCKS)), panicking(DISK_BLOCKS * BLOCK_U64));
            let mut config = small(32);
            config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
            let cache = Cache::open(&config).expect("the cache opens");
            let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
            let write = |number| {
                (0..8).for_each(|block| {
                    // A `through` write is told when the disk panics in it.
                    let _ = volume.write(block * BLOCK_U64, &content(block, number));
                });
            };
            let flags = [&disk.in_sync, &disk.in_write, &ssd.in_sync, &ssd.in_write];
            for (number, flag) in flags.into_iter().enumerate() {
                if number == 0 && mode == WriteMode::Around {
                    // A sync that fails loses what `around` writes wrote, and says so.
                    continue;
                }
                write(2 * number as u64 + 1);
                flag.store(true, Ordering::SeqCst);
                write(2 * number as u64 + 2);
                let _ = volume.flush();
                flag.store(false, Ordering::SeqCst);
                eventually("a flush succeeds", || volume.flush().is_ok());
            }
            (0..8).for_each(|block| {
                assert!(bytes_of(&volume, block * BLOCK_U64, BLOCK) == content(block, 8), "{mode:?} {block}");
            });
            eventually("it settles", || cache.settle().is_ok());
            cache.assert_quiet();
        });
    }
}

//! Whole caches under a checker of schedules: a few threads on a few blocks, in as many orders as time allows.
//!
//! Built only with `--cfg terrace_shuttle`, which has `src/sync.rs` take the checker's locks, atomics and threads; so
//! every step of the cache and of its pool is one that the checker orders. Frames and simulated devices are not: what
//! they do is one step with what came before it. ARCHITECTURE.md has the command.
//!
//! Each scenario runs under batches of schedules, half of them chosen at random at every step, half by priorities that
//! change at a few random steps. A failure names the seed of its batch: with that as `TERRACE_SEED` and
//! `TERRACE_SCHEDULES=100` the same batch runs again.

#![cfg(terrace_shuttle)]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::mpsc;
use shuttle::{Runner, thread};
use terrace::tiers::ssd::Geometry;
use terrace::tiers::testing::{Fault, Journal, Loss, MemoryDevice, Operation};
use terrace::{
    BlockSize, Cache, Clock, Config, Device, Error, RamSize, SsdConfig, SsdSize, Volume, WriteMode,
};

/// Schedules that share a seed.
const BATCH: usize = 100;
/// Steps at which a batch of priorities changes them.
const CHANGES: usize = 3;
/// All scenarios together run 100,000 schedules in the slow part.
const SLOW_SCHEDULES: usize = 5300;
const SCHEDULES: usize = 200;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

/// Names the seed of a batch that fails.
struct Named<'a>(&'a str, u64);

impl Drop for Named<'_> {
    #[expect(clippy::print_stderr, reason = "a failing test names its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails with TERRACE_SEED={} TERRACE_SCHEDULES={BATCH}", self.0, self.1);
        }
    }
}

#[expect(clippy::print_stdout, reason = "how much was run is the result")]
fn explore(name: &str, scenario: fn()) {
    let usual = if std::env::var_os("TERRACE_SLOW").is_some() { SLOW_SCHEDULES } else { SCHEDULES };
    let schedules = number_from("TERRACE_SCHEDULES").map_or(usual, |number| number as usize);
    let first = number_from("TERRACE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{name}: {schedules} schedules from seed {first} on");
    for batch in 0..schedules.div_ceil(BATCH) {
        let seed = first.wrapping_add(batch as u64);
        let _named = Named(name, seed);
        let mut config = shuttle::Config::new();
        config.stack_size = 256 << 10;
        config.silence_warnings = true;
        if seed.is_multiple_of(2) {
            Runner::new(RandomScheduler::new_from_seed(seed, BATCH), config).run(scenario);
        } else {
            Runner::new(PctScheduler::new_from_seed(seed, CHANGES, BATCH), config).run(scenario);
        }
    }
}

const BLOCK: usize = 4096;
const RAM_BLOCKS: u64 = 8;
/// Frames beyond those.
const SLACK_BLOCKS: u64 = 4;
const SSD_BLOCKS: u64 = 16;
/// The last ones are for [`World::drive_out`].
const DISK_BLOCKS: u64 = 48;

fn block_size() -> BlockSize {
    BlockSize::new(BLOCK as u64).expect("a block size")
}

/// Block `block` as of its value `value`; all start with 1.
fn content(block: u64, value: u64) -> Vec<u8> {
    (block << 32 | value).to_le_bytes().repeat(BLOCK / 8)
}

/// The value that these bytes of `block` show.
fn value_of(block: u64, bytes: &[u8]) -> u64 {
    let value = u64::from(u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")));
    assert!(bytes == content(block, value), "block {block} is torn, or another's");
    value
}

/// A cache on simulated devices; the smallest there is, so that few steps fill it.
#[derive(Clone)]
struct World {
    cache: Cache,
    volume: Volume,
    disk: Arc<MemoryDevice>,
    ssd: Arc<MemoryDevice>,
    journal: Arc<Journal>,
}

impl World {
    fn new(mode: WriteMode) -> Self {
        Self::tuned(mode, |_| ())
    }

    fn tuned(mode: WriteMode, tune: impl FnOnce(&mut Config)) -> Self {
        let journal = Arc::new(Journal::default());
        let disk = MemoryDevice::new(DISK_BLOCKS * BLOCK as u64);
        for block in 0..DISK_BLOCKS {
            let bytes = content(block, 1);
            disk.write(block * BLOCK as u64, &[std::io::IoSlice::new(&bytes)])
                .expect("no fault was asked for");
        }
        let disk = Arc::new(disk.recorded_in(&journal));
        let geometry = Geometry::for_blocks(block_size(), SSD_BLOCKS).expect("a layout");
        let ssd = Arc::new(MemoryDevice::new(geometry.file_bytes()).recorded_in(&journal));
        Self::open(mode, disk, ssd, journal, tune)
    }

    /// The same devices with another cache, which finds on the SSD what this one leaves there.
    fn reopened(self, mode: WriteMode) -> Self {
        self.cache.close().expect("the cache closes");
        let Self { disk, ssd, journal, .. } = self;
        Self::open(mode, disk, ssd, journal, |_| ())
    }

    /// A cache on devices as they are.
    fn open(
        mode: WriteMode,
        disk: Arc<MemoryDevice>,
        ssd: Arc<MemoryDevice>,
        journal: Arc<Journal>,
        tune: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new(RamSize::Blocks(RAM_BLOCKS));
        config.block_size = block_size();
        config.slack_blocks = Some(SLACK_BLOCKS as u32);
        config.shards = Some(1);
        config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        config.writeback_delay_ms = 1;
        config.disk_threads = 2;
        config.ssd_threads = 1;
        config.clock = Clock::Manual(Arc::new(AtomicU64::new(0)));
        tune(&mut config);
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
        Self { cache, volume, disk, ssd, journal }
    }

    fn write(&self, block: u64, value: u64) {
        self.volume.write(block * BLOCK as u64, &content(block, value)).expect("a write succeeds");
    }

    fn read(&self, block: u64) -> u64 {
        let mut bytes = vec![0; BLOCK];
        self.volume.read(block * BLOCK as u64, &mut bytes).expect("a read succeeds");
        value_of(block, &bytes)
    }

    /// Reads `blocks`, which nobody writes, so that others leave RAM.
    fn churn(&self, blocks: std::ops::Range<u64>) {
        blocks.for_each(|block| assert_eq!(self.read(block), 1));
    }

    /// Has every other block leave RAM, whatever the policy thought of it: what is read next comes from the SSD, if that
    /// has a copy, or from the disk.
    fn drive_out(&self) {
        for block in DISK_BLOCKS - 2 * RAM_BLOCKS..DISK_BLOCKS {
            self.churn(block..block + 1);
            self.churn(block..block + 1);
        }
    }

    /// Reads `block` again and again: a newer value is never followed by an older one.
    fn watch(&self, block: u64, times: u32) {
        let mut newest = 0;
        for _ in 0..times {
            let value = self.read(block);
            assert!(value >= newest, "block {block} went back from {newest} to {value}");
            newest = value;
        }
    }

    fn on_disk(&self, block: u64) -> u64 {
        let mut bytes = vec![0; BLOCK];
        let buffers = &mut [std::io::IoSliceMut::new(&mut bytes)];
        self.disk.read(block * BLOCK as u64, buffers).expect("no fault was asked for");
        value_of(block, &bytes)
    }

    /// Runs `work` on a thread of its own.
    fn spawn(&self, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || work(&world))
    }

    /// Everything comes to rest, the books agree, and `block` is `value` wherever it is looked for.
    fn rests_with(self, values: &[(u64, u64)]) {
        for &(block, value) in values {
            assert_eq!(self.read(block), value, "block {block}");
        }
        self.volume.flush().expect("a flush succeeds");
        if self.volume.mode() == WriteMode::BackSsd {
            self.cache.settle().expect("the log is destaged");
        }
        for &(block, value) in values {
            assert_eq!(self.on_disk(block), value, "block {block} on the disk");
        }
        self.drive_out();
        for &(block, value) in values {
            assert_eq!(self.read(block), value, "block {block} after it left RAM");
        }
        self.cache.settle().expect("the cache settles");
        self.cache.assert_quiet();
        self.cache.close().expect("the cache closes");
    }
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
}

fn miss_write_and_eviction(mode: WriteMode) {
    let world = World::new(mode);
    world.churn(16..24);
    join([
        world.spawn(|world| world.watch(0, 2)),
        world.spawn(|world| {
            world.write(0, 2);
            assert_eq!(world.read(0), 2);
        }),
        world.spawn(|world| world.churn(9..13)),
    ]);
    world.rests_with(&[(0, 2)]);
}

#[test]
fn a_read_that_misses_meets_a_write_and_an_eviction() {
    explore("a_read_that_misses_meets_a_write_and_an_eviction", || miss_write_and_eviction(WriteMode::Back));
}

#[test]
fn a_read_that_misses_meets_a_write_through_and_an_eviction() {
    let scenario = || miss_write_and_eviction(WriteMode::Through);
    explore("a_read_that_misses_meets_a_write_through_and_an_eviction", scenario);
}

/// Blocks go to the SSD while one of them is written and read.
fn demotion_and_overwriting(mode: WriteMode) {
    let world = World::new(mode);
    world.churn(0..8);
    join([
        world.spawn(|world| world.churn(8..15)),
        world.spawn(|world| {
            world.write(0, 2);
            world.volume.flush().expect("a flush succeeds");
            assert_eq!(world.on_disk(0), 2);
        }),
        world.spawn(|world| world.watch(0, 3)),
    ]);
    world.rests_with(&[(0, 2), (1, 1)]);
}

/// Of a block that is on the SSD alone a copy is read while it is overwritten.
fn copy_and_overwriting(mode: WriteMode) {
    let world = World::new(mode);
    world.churn(0..2);
    world.drive_out();
    world.cache.settle().expect("the cache settles");
    join([
        world.spawn(|world| world.watch(0, 2)),
        world.spawn(|world| {
            world.write(0, 2);
            assert_eq!(world.read(0), 2);
        }),
        world.spawn(|world| {
            world.churn(2..6);
            world.watch(0, 1);
        }),
    ]);
    world.rests_with(&[(0, 2), (1, 1)]);
}

#[test]
fn a_read_from_the_ssd_meets_a_write() {
    explore("a_read_from_the_ssd_meets_a_write", || copy_and_overwriting(WriteMode::Back));
}

#[test]
fn a_read_from_the_ssd_meets_a_write_through() {
    explore("a_read_from_the_ssd_meets_a_write_through", || copy_and_overwriting(WriteMode::Through));
}

/// What is on the SSD is found again while one block of it is overwritten.
fn scan_and_overwriting(mode: WriteMode) {
    let world = World::new(mode);
    world.churn(0..2);
    world.drive_out();
    world.cache.settle().expect("the cache settles");
    let world = world.reopened(mode);
    join([
        world.spawn(|world| world.watch(0, 2)),
        world.spawn(|world| {
            world.write(0, 2);
            assert_eq!(world.read(0), 2);
        }),
        world.spawn(|world| {
            world.churn(2..6);
            world.watch(0, 1);
        }),
    ]);
    // A flush of the log is not one of the disk.
    world.cache.settle().expect("the cache settles");
    world.rests_with(&[(0, 2), (1, 1)]);
}

#[test]
fn a_scan_of_summaries_meets_a_read_and_a_write() {
    explore("a_scan_of_summaries_meets_a_read_and_a_write", || scan_and_overwriting(WriteMode::Back));
}

#[test]
fn a_scan_of_summaries_meets_a_read_and_a_write_to_the_log() {
    let scenario = || scan_and_overwriting(WriteMode::BackSsd);
    explore("a_scan_of_summaries_meets_a_read_and_a_write_to_the_log", scenario);
}

#[test]
fn a_close_waits_for_a_scan_of_summaries_and_nothing_is_forgotten() {
    explore("a_close_waits_for_a_scan_of_summaries_and_nothing_is_forgotten", || {
        let world = World::new(WriteMode::Back);
        world.churn(0..2);
        world.drive_out();
        world.cache.settle().expect("the cache settles");
        let copies = world.cache.stats().ssd.cached_blocks;
        let world = world.reopened(WriteMode::Back);
        join([
            world.spawn(|world| world.cache.close().expect("the cache closes")),
            world.spawn(|world| world.cache.close().expect("the cache closes")),
        ]);
        let world = world.reopened(WriteMode::Back);
        world.cache.settle().expect("the cache settles");
        assert_eq!(world.cache.stats().ssd.cached_blocks, copies);
        world.rests_with(&[(0, 1), (1, 1)]);
    });
}

#[test]
fn reads_from_segments_that_are_emptied_meanwhile() {
    explore("reads_from_segments_that_are_emptied_meanwhile", || {
        let world = World::new(WriteMode::Back);
        // The log goes round: blocks of 0 to 32 are in segments that go next.
        world.churn(0..32);
        world.cache.settle().expect("the cache settles");
        join([
            world.spawn(|world| world.churn(0..6)),
            world.spawn(|world| (20..26).rev().for_each(|block| assert!(world.read(block) < 3))),
            world.spawn(|world| (22..25).for_each(|block| world.write(block, 2))),
        ]);
        world.rests_with(&[(22, 2), (23, 2), (24, 2), (5, 1)]);
    });
}

#[test]
fn readers_of_several_blocks_run_short_of_frames() {
    explore("readers_of_several_blocks_run_short_of_frames", || {
        let world = World::new(WriteMode::Back);
        world.churn(40..48);
        let reader = |first: u64| {
            move |world: &World| {
                for block in (first..first + 6).step_by(2) {
                    let read = world.volume.read_ref(block * BLOCK as u64, 2 * BLOCK);
                    let read = read.expect("frames come back");
                    read.parts().iter().zip(block..).for_each(|(part, block)| {
                        assert_eq!(value_of(block, part), 1);
                    });
                }
            }
        };
        join([world.spawn(reader(0)), world.spawn(reader(8)), world.spawn(|world| world.write(20, 2))]);
        world.cache.assert_nobody_waits();
        world.rests_with(&[(20, 2)]);
    });
}

#[test]
fn a_frame_that_a_reader_lets_go_wakes_who_waits_for_one() {
    explore("a_frame_that_a_reader_lets_go_wakes_who_waits_for_one", || {
        let world = World::tuned(WriteMode::Back, |config| config.ssd = None);
        // Every frame there is; the first ones have left RAM, and are free when they are let go.
        let held = (0..RAM_BLOCKS + SLACK_BLOCKS)
            .map(|block| world.volume.read_ref(block * BLOCK as u64, BLOCK).expect("a frame is left"));
        let mut held: Vec<_> = held.collect();
        let rest = held.split_off(2);
        join([
            world.spawn(|world| assert_eq!(world.read(20), 1)),
            world.spawn(|world| world.write(21, 2)),
            world.spawn(move |_| held.into_iter().for_each(drop)),
        ]);
        drop(rest);
        world.rests_with(&[(20, 1), (21, 2)]);
    });
}

#[test]
fn callbacks_of_reads_writes_and_flushes_come_once_each() {
    explore("callbacks_of_reads_writes_and_flushes_come_once_each", || {
        let world = World::new(WriteMode::Through);
        let (sender, ended) = mpsc::channel();
        let end = move |what: &'static str| {
            let sender = sender.clone();
            move |is_ok: bool| sender.send((what, is_ok)).expect("someone listens")
        };
        let (read, write, flush) = (end("read"), end("write"), end("flush"));
        drop(end);
        join([
            world.spawn(move |world| {
                world.volume.read_with(0, BLOCK, move |blocks| {
                    read(blocks.is_ok_and(|blocks| value_of(0, &blocks.parts()[0]) < 3));
                });
            }),
            world.spawn(move |world| {
                world.volume.write_with(0, content(0, 2), move |answer| write(answer.is_ok()));
            }),
            world.spawn(move |world| world.volume.flush_with(move |result| flush(result.is_ok()))),
        ]);
        let mut all: Vec<_> = ended.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [("flush", true), ("read", true), ("write", true)]);
        world.rests_with(&[(0, 2)]);
    });
}

#[test]
fn a_demoted_copy_meets_what_overwrites_it() {
    explore("a_demoted_copy_meets_what_overwrites_it", || demotion_and_overwriting(WriteMode::Back));
}

#[test]
fn a_demoted_copy_meets_what_overwrites_it_through() {
    let scenario = || demotion_and_overwriting(WriteMode::Through);
    explore("a_demoted_copy_meets_what_overwrites_it_through", scenario);
}

/// What every cut of the power from `mark` on leaves on the disk, when all that was not synced is lost.
fn check_durable_from(world: &World, mark: u64, is_right: impl Fn(&World) -> bool) {
    let mut cut = world.journal.first_cut();
    loop {
        if cut.marks().contains(&mark) {
            let disk = Arc::new(cut.images(Loss::All, 0).remove(0));
            assert!(is_right(&World { disk, ..world.clone() }), "flush {mark} was told too early");
        }
        if !cut.advance() {
            return;
        }
    }
}

/// The same of the last moment.
fn check_durable_at_the_end(world: &World, is_right: impl Fn(&World) -> bool) {
    let mut cut = world.journal.first_cut();
    while cut.advance() {}
    let disk = Arc::new(cut.images(Loss::All, 0).remove(0));
    assert!(is_right(&World { disk, ..world.clone() }), "the last write is not durable");
}

#[test]
fn a_flush_covers_what_was_written_before_it_beside_other_writes() {
    explore("a_flush_covers_what_was_written_before_it_beside_other_writes", || {
        let world = World::new(WriteMode::Back);
        let writer = |value: u64| {
            move |world: &World| {
                world.write(0, value);
                world.write(value, 2);
                world.volume.flush().expect("a flush succeeds");
                world.journal.mark(value);
            }
        };
        join([world.spawn(writer(2)), world.spawn(writer(3)), world.spawn(|world| world.watch(9, 2))]);
        for value in 2..4 {
            check_durable_from(&world, value, |world| world.on_disk(0) > 1 && world.on_disk(value) == 2);
        }
        let last = world.read(0);
        world.rests_with(&[(0, last), (2, 2), (3, 2)]);
    });
}

/// What a cut of the power right after `mark` leaves of the log, when all that was not synced is lost.
fn check_logged_at(world: &World, mark: u64, is_right: impl Fn(&World) -> bool) {
    let mut cut = world.journal.first_cut();
    while !cut.marks().contains(&mark) {
        assert!(cut.advance(), "flush {mark} ended");
    }
    let mut images = cut.images(Loss::All, 0).into_iter().map(Arc::new);
    let (disk, ssd) = (images.next().expect("the disk"), images.next().expect("the SSD"));
    let left = World::open(WriteMode::BackSsd, disk, ssd, Arc::default(), |config| {
        config.background = terrace::Background::OnSettle;
    });
    assert!(is_right(&left), "flush {mark} was told too early");
    left.cache.close().expect("the cache closes");
}

#[test]
fn flushes_to_the_log_meet_each_other_and_groups_that_nobody_waits_for() {
    explore("flushes_to_the_log_meet_each_other_and_groups_that_nobody_waits_for", || {
        // From the first dirty block on, groups go to the log in the background.
        let world = World::tuned(WriteMode::BackSsd, |config| config.dirty_low = 0.01);
        let writer = |value: u64| {
            move |world: &World| {
                world.write(0, value);
                world.write(value, 2);
                world.volume.flush().expect("a flush succeeds");
                world.journal.mark(value);
            }
        };
        join([world.spawn(writer(2)), world.spawn(writer(3)), world.spawn(|world| world.write(9, 2))]);
        let last = world.read(0);
        world.cache.settle().expect("the cache settles");
        for value in 2..4 {
            check_logged_at(&world, value, |left| left.read(0) > 1 && left.read(value) == 2);
        }
        world.rests_with(&[(0, last), (2, 2), (3, 2), (9, 2)]);
    });
}

#[test]
fn two_fills_of_a_block_meet_a_write_to_part_of_a_sector() {
    explore("two_fills_of_a_block_meet_a_write_to_part_of_a_sector", || {
        let world = World::new(WriteMode::Back);
        let patched = || {
            let mut bytes = content(0, 1);
            bytes[700..900].fill(0xab);
            bytes
        };
        let read = |world: &World| {
            let mut bytes = vec![0; BLOCK];
            world.volume.read(0, &mut bytes).expect("a read succeeds");
            bytes
        };
        let reader = move |world: &World| {
            let bytes = read(world);
            assert!(bytes == content(0, 1) || bytes == patched(), "neither before nor after");
        };
        join([
            world.spawn(reader),
            world.spawn(reader),
            world.spawn(move |world| {
                world.volume.write(700, &[0xab; 200]).expect("a write succeeds");
                assert!(read(world) == patched());
            }),
        ]);
        assert!(read(&world) == patched());
        world.rests_with(&[]);
    });
}

#[test]
fn write_backs_of_a_block_end_with_the_last_write_to_it() {
    explore("write_backs_of_a_block_end_with_the_last_write_to_it", || {
        let world = World::new(WriteMode::Through);
        let writer = |value: u64| {
            move |world: &World| {
                world.write(0, value);
                assert!(world.on_disk(0) > 1, "acknowledged and not below");
                world.write(1, value);
            }
        };
        join([world.spawn(writer(2)), world.spawn(writer(3)), world.spawn(|world| world.watch(2, 1))]);
        let (first, second) = (world.read(0), world.read(1));
        world.rests_with(&[(0, first), (1, second)]);
    });
}

#[test]
fn ram_shrinks_and_grows_beside_reads_writes_and_evictions() {
    explore("ram_shrinks_and_grows_beside_reads_writes_and_evictions", || {
        let world = World::tuned(WriteMode::Back, |config| config.ram = RamSize::Blocks(2 * RAM_BLOCKS));
        world.churn(16..30);
        world.write(0, 2);
        let resize = |blocks: u64| {
            move |world: &World| {
                let resized = world.cache.resize_ram(RamSize::Blocks(blocks)).expect("a size that works");
                // Time passes as the checker likes, so what readers and appends hold may outlast the wait for it.
                assert_eq!(resized.blocks, blocks);
            }
        };
        join([
            world.spawn(resize(RAM_BLOCKS)),
            world.spawn(resize(3 * RAM_BLOCKS)),
            world.spawn(|world| {
                world.watch(0, 2);
                world.churn(9..12);
            }),
            world.spawn(|world| (3..6).for_each(|value| world.write(0, value))),
        ]);
        world.cache.settle().expect("the disk takes writes");
        // Nothing is under way, so nothing may hold a frame.
        let resized = world.cache.resize_ram(RamSize::Blocks(RAM_BLOCKS)).expect("a size that works");
        assert_eq!((resized.blocks, resized.held_blocks), (RAM_BLOCKS, 0));
        world.cache.assert_nobody_waits();
        world.rests_with(&[(0, 5)]);
    });
}

#[test]
fn a_close_meets_writes() {
    explore("a_close_meets_writes", || {
        let world = World::new(WriteMode::Back);
        let (sender, acknowledged) = mpsc::channel();
        let writer = world.spawn(move |world| {
            for value in 2..5 {
                match world.volume.write(0, &content(0, value)) {
                    Ok(_) => sender.send(value).expect("someone listens"),
                    Err(error) => return assert!(matches!(error, Error::Closed), "{error}"),
                }
            }
        });
        let closer = world.spawn(|world| world.cache.close().expect("the cache closes"));
        join([writer, closer]);
        assert_eq!(world.on_disk(0), acknowledged.iter().last().unwrap_or(1));
    });
}

#[test]
fn appends_that_fail_meet_reads() {
    explore("appends_that_fail_meet_reads", || {
        let world = World::new(WriteMode::Back);
        world.churn(0..8);
        world.ssd.fail(Fault { count: 2, ..Fault::every(Operation::Write) });
        join([
            world.spawn(|world| world.churn(8..14)),
            world.spawn(|world| world.watch(0, 3)),
            world.spawn(|world| world.write(1, 2)),
        ]);
        world.rests_with(&[(0, 1), (1, 2)]);
    });
}

fn ssd_that_comes_and_goes(mode: WriteMode) {
    let world = World::new(mode);
    world.churn(0..8);
    join([
        world.spawn(|world| {
            world.cache.detach_ssd().expect("nothing needs it");
            let ssd = SsdConfig::on_device(world.ssd.clone(), SsdSize::Blocks(SSD_BLOCKS));
            world.cache.attach_ssd(&ssd).expect("it comes back");
        }),
        world.spawn(|world| {
            world.write(0, 2);
            world.volume.flush().expect("a flush succeeds");
            assert_eq!(world.on_disk(0), 2);
        }),
        world.spawn(|world| {
            world.churn(8..14);
            world.watch(0, 2);
        }),
    ]);
    world.rests_with(&[(0, 2), (1, 1)]);
}

#[test]
fn an_ssd_is_detached_and_attached_beside_reads_and_writes() {
    let scenario = || ssd_that_comes_and_goes(WriteMode::Back);
    explore("an_ssd_is_detached_and_attached_beside_reads_and_writes", scenario);
}

#[test]
fn an_ssd_is_detached_and_attached_beside_reads_and_writes_through() {
    let scenario = || ssd_that_comes_and_goes(WriteMode::Through);
    explore("an_ssd_is_detached_and_attached_beside_reads_and_writes_through", scenario);
}

/// The log fails for ever while blocks go to it; whoever flushes is told so a few times at the most.
#[test]
fn a_log_that_fails_is_left_beside_writes_and_flushes() {
    explore("a_log_that_fails_is_left_beside_writes_and_flushes", || {
        let world = World::new(WriteMode::BackSsd);
        world.write(0, 2);
        world.write(1, 2);
        world.volume.flush().expect("the log is there");
        world.ssd.fail(Fault::every(Operation::Write));
        let flush = |world: &World| {
            let done = (0..10).any(|_| world.volume.flush().is_ok());
            assert!(done, "the log is left after a few failures");
        };
        join([
            world.spawn(move |world| {
                world.write(0, 3);
                flush(world);
                assert_eq!(world.on_disk(0), 3);
            }),
            world.spawn(move |world| {
                world.write(2, 2);
                flush(world);
            }),
            world.spawn(|world| world.watch(1, 2)),
        ]);
        flush(&world);
        world.rests_with(&[(0, 3), (1, 2), (2, 2)]);
    });
}

#[test]
fn an_ssd_whose_syncs_fail_is_switched_off_beside_writes() {
    explore("an_ssd_whose_syncs_fail_is_switched_off_beside_writes", || {
        let world = World::new(WriteMode::Through);
        world.churn(0..14);
        world.ssd.fail(Fault::every(Operation::Sync));
        join([
            world.spawn(|world| world.write(0, 2)),
            world.spawn(|world| world.watch(0, 3)),
            world.spawn(|world| world.churn(14..18)),
        ]);
        world.rests_with(&[(0, 2)]);
    });
}

#[test]
fn writers_wait_for_room_and_all_of_them_go_on() {
    explore("writers_wait_for_room_and_all_of_them_go_on", || {
        let world =
            World::tuned(WriteMode::Back, |config| (config.dirty_low, config.dirty_high) = (0.15, 0.25));
        let writer =
            |first: u64| move |world: &World| (first..first + 3).for_each(|block| world.write(block, 2));
        join([world.spawn(writer(0)), world.spawn(writer(10)), world.spawn(writer(20))]);
        world.cache.assert_nobody_waits();
        world.rests_with(&[(0, 2), (11, 2), (22, 2)]);
    });
}

#[test]
fn a_write_below_and_a_sync_fail_beside_flushes() {
    explore("a_write_below_and_a_sync_fail_beside_flushes", || {
        let world = World::new(WriteMode::Back);
        world.disk.fail(Fault::nth(Operation::Write, 0));
        world.disk.fail(Fault::nth(Operation::Sync, 0));
        let writer = |block: u64| {
            move |world: &World| {
                world.write(block, 2);
                while world.volume.flush().is_err() {}
                world.journal.mark(block);
            }
        };
        join([world.spawn(writer(0)), world.spawn(writer(1))]);
        for block in 0..2 {
            check_durable_from(&world, block, |world| world.on_disk(block) == 2);
        }
        world.rests_with(&[(0, 2), (1, 2)]);
    });
}

#[test]
fn a_sync_fails_beside_writes_to_what_an_earlier_one_covered() {
    explore("a_sync_fails_beside_writes_to_what_an_earlier_one_covered", || {
        let world = World::new(WriteMode::Back);
        world.disk.fail(Fault::nth(Operation::Sync, 1));
        let writer = |value: u64| {
            move |world: &World| {
                world.write(0, value);
                while world.volume.flush().is_err() {}
                world.journal.mark(value);
            }
        };
        join([world.spawn(writer(2)), world.spawn(writer(3)), world.spawn(writer(4))]);
        let last = world.read(0);
        for value in 2..5 {
            check_durable_from(&world, value, |world| world.on_disk(0) > 1);
        }
        check_durable_at_the_end(&world, |world| world.on_disk(0) == last);
        world.rests_with(&[(0, last)]);
    });
}

#[test]
fn a_write_to_the_log_meets_its_destage_a_read_and_an_eviction() {
    explore("a_write_to_the_log_meets_its_destage_a_read_and_an_eviction", || {
        let world = World::new(WriteMode::BackSsd);
        world.write(0, 2);
        world.volume.flush().expect("a flush succeeds");
        join([
            world.spawn(|world| {
                world.write(0, 3);
                world.volume.flush().expect("a flush succeeds");
                assert_eq!(world.read(0), 3);
            }),
            world.spawn(|world| world.watch(0, 3)),
            world.spawn(|world| world.churn(16..26)),
        ]);
        world.rests_with(&[(0, 3), (1, 1)]);
    });
}

impl World {
    fn is_zeros(&self, block: u64) -> bool {
        let mut bytes = vec![0; BLOCK];
        self.volume.read(block * BLOCK as u64, &mut bytes).expect("a read succeeds");
        bytes.iter().all(|&byte| byte == 0)
    }

    fn discard(&self, block: u64, count: u64) {
        self.volume.discard(block * BLOCK as u64, count * BLOCK as u64).expect("a discard succeeds");
    }
}

#[test]
fn a_discard_in_the_log_meets_destage_writes_and_flushes() {
    explore("a_discard_in_the_log_meets_destage_writes_and_flushes", || {
        let world = World::new(WriteMode::BackSsd);
        (0..4).for_each(|block| world.write(block, 2));
        world.volume.flush().expect("a flush succeeds");
        join([
            world.spawn(|world| {
                world.discard(0, 3);
                assert!(world.is_zeros(0) && world.is_zeros(2));
                world.write(1, 3);
                world.volume.flush().expect("a flush succeeds");
                assert!(world.is_zeros(0) && world.read(1) == 3);
            }),
            world.spawn(|world| world.watch(3, 2)),
            world.spawn(|world| {
                world.write(3, 3);
                world.volume.flush().expect("a flush succeeds");
                world.churn(16..24);
            }),
        ]);
        world.drive_out();
        assert!(world.is_zeros(0) && world.is_zeros(2));
        world.rests_with(&[(1, 3), (3, 3)]);
    });
}

#[test]
fn a_mode_is_changed_from_the_log_and_back_beside_writes_flushes_and_discards() {
    explore("a_mode_is_changed_from_the_log_and_back_beside_writes_flushes_and_discards", || {
        let world = World::new(WriteMode::BackSsd);
        (0..3).for_each(|block| world.write(block, 2));
        world.volume.flush().expect("a flush succeeds");
        join([
            world.spawn(|world| {
                world.volume.set_mode(WriteMode::Through).expect("the mode changes");
                world.write(4, 2);
                assert_eq!(world.on_disk(4), 2, "acknowledged and not below");
                world.volume.set_mode(WriteMode::BackSsd).expect("the mode changes");
            }),
            world.spawn(|world| {
                world.write(0, 3);
                world.volume.flush().expect("a flush succeeds");
                world.write(0, 4);
                assert_eq!(world.read(0), 4);
            }),
            world.spawn(|world| {
                world.discard(1, 2);
                world.write(2, 3);
                assert!(world.is_zeros(1) && world.read(2) == 3);
            }),
        ]);
        assert!(world.is_zeros(1));
        world.rests_with(&[(0, 4), (2, 3), (4, 2)]);
    });
}

#[test]
fn two_changes_of_mode_meet_writes_that_wait_for_the_disk() {
    explore("two_changes_of_mode_meet_writes_that_wait_for_the_disk", || {
        let world = World::new(WriteMode::Through);
        let change = |modes: [WriteMode; 2]| {
            move |world: &World| {
                modes.into_iter().for_each(|mode| world.volume.set_mode(mode).expect("the mode changes"));
            }
        };
        join([
            world.spawn(change([WriteMode::BackSsd, WriteMode::Back])),
            world.spawn(change([WriteMode::Through, WriteMode::BackSsd])),
            world.spawn(|world| {
                (2..5).for_each(|value| world.write(0, value));
                world.volume.flush().expect("a flush succeeds");
                assert_eq!(world.read(0), 4);
            }),
        ]);
        world.rests_with(&[(0, 4)]);
    });
}

#[test]
fn a_forget_meets_the_destage_of_what_it_forgets() {
    explore("a_forget_meets_the_destage_of_what_it_forgets", || {
        let world = World::new(WriteMode::BackSsd);
        (0..3).for_each(|block| world.write(block, 2));
        world.volume.flush().expect("a flush succeeds");
        join([
            world.spawn(|world| {
                world.volume.forget(0, 2 * BLOCK as u64).expect("a forget succeeds");
                let (left, below) = (world.read(0), world.on_disk(0));
                assert_eq!(left, below, "nothing goes below any more");
            }),
            world.spawn(|world| {
                world.write(2, 3);
                world.volume.flush().expect("a flush succeeds");
            }),
            world.spawn(|world| assert!(world.read(1) < 3)),
        ]);
        let (first, second) = (world.read(0), world.read(1));
        world.rests_with(&[(0, first), (1, second), (2, 3)]);
    });
}

#[test]
fn a_volume_with_a_log_is_detached_beside_writes_and_a_change_of_mode() {
    explore("a_volume_with_a_log_is_detached_beside_writes_and_a_change_of_mode", || {
        let world = World::new(WriteMode::BackSsd);
        world.write(0, 2);
        let (sender, acknowledged) = mpsc::channel();
        let is_out = |error: Error| assert!(matches!(error, Error::Detached { .. }), "{error}");
        join([
            world.spawn(move |world| {
                for value in 3..5 {
                    match world.volume.write(0, &content(0, value)) {
                        Ok(_) => sender.send(value).expect("someone listens"),
                        Err(error) => return is_out(error),
                    }
                }
            }),
            world.spawn(move |world| {
                if let Err(error) = world.volume.set_mode(WriteMode::Back) {
                    is_out(error);
                }
            }),
            world.spawn(|world| world.volume.detach().expect("it is detached")),
        ]);
        let last = acknowledged.iter().last().unwrap_or(2);
        let volume =
            world.cache.attach("disk", world.disk.clone(), WriteMode::BackSsd).expect("it comes back");
        World { volume, ..world }.rests_with(&[(0, last)]);
    });
}

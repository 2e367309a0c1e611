//! The ways in which caches have lost data, one test each: see the table in `main`.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use terrace::tiers::ram::arc_policy::{ArcPolicy, List};
use terrace::tiers::testing::{Fault, Loss, MemoryDevice, Operation};
use terrace::{
    Background, BlockId, Cache, Config, Device, RamSize, SsdConfig, SsdSize, Volume, VolumeId, WriteMode,
};

use crate::common::{
    BLOCK, Files, bytes_of, content, eventually, held, seed, small, stored, without_hanging,
};
use crate::hostile::{At, Hostile, POISON};
use crate::world::{BLOCK_U64, DISK_BLOCKS, SSD_BLOCKS, World, number_of, read, sector_numbers, write};

const MODES: [WriteMode; 4] = [WriteMode::Around, WriteMode::Through, WriteMode::Back, WriteMode::BackSsd];

#[track_caller]
fn answer<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).expect("it is answered")
}

#[test]
fn a_read_that_races_a_write_around_installs_no_old_bytes() {
    let world = World::new();
    world.disk.write(0, &[IoSlice::new(&content(0, 1))]).expect("in range");
    let disk = Arc::new(Hostile::new(world.disk.clone()));
    let (cache, volume) = world.open_through(disk.clone(), held(16), WriteMode::Around);
    disk.hold_next_read(At::End);
    let (sender, receiver) = mpsc::channel();
    volume.read_with(0, BLOCK, move |answer| drop(sender.send(answer.map(drop))));
    disk.wait_until_held();
    write(&volume, 0, 2);
    disk.release();
    answer(&receiver).expect("the read succeeds");
    assert_eq!(number_of(0, &read(&volume, 0)), 2);
    // Neither RAM nor the SSD has what was read.
    (100..164).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    assert_eq!(number_of(0, &read(&volume, 0)), 2);
}

#[test]
fn what_is_dirty_after_a_crash_is_what_the_log_says_and_nothing_less() {
    let world = World::new();
    world.disk.fail(Fault::every(Operation::Write));
    let (_cache, volume) = world.open(held(64), WriteMode::BackSsd);
    (0..40).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    for loss in Loss::ALL {
        let left = world.after_power_loss(loss);
        left.disk.fail(Fault::every(Operation::Write));
        let (cache, volume) = left.open(held(64), WriteMode::BackSsd);
        assert_eq!(cache.stats().ssd.dirty_blocks, 40, "{loss:?}");
        left.disk.clear_faults();
        eventually("all goes below", || cache.settle().is_ok());
        (0..40).for_each(|block| assert_eq!(number_of(block, &left.below(block)), 1));
        drop(volume);
    }
}

#[test]
fn a_flush_waits_for_the_writes_under_way_before_it_syncs() {
    without_hanging(|| {
        let world = World::new();
        let (_cache, volume) = world.open(held(16), WriteMode::Back);
        write(&volume, 0, 1);
        world.disk.stall(Operation::Write);
        let (sender, receiver) = mpsc::channel();
        volume.flush_with(move |result| drop(sender.send(result)));
        world.disk.wait_until_held(1);
        assert_eq!(world.disk.counters().syncs, 0);
        world.disk.resume();
        answer(&receiver).expect("a flush succeeds");
        assert_eq!(number_of(0, &world.after_power_loss(Loss::All).below(0)), 1);
    });
}

#[test]
fn a_cache_file_is_refused_until_its_owner_has_ended_and_whole_after_it() {
    let files = Files::new();
    let mut config = held(16);
    config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(SSD_BLOCKS)));
    let cache = Cache::open(&config).expect("the cache opens");
    let disk = Arc::new(files.backing(DISK_BLOCKS * BLOCK_U64));
    let volume = cache.attach("disk", disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    (0..12).for_each(|block| write(&volume, block, 1));
    assert!(Cache::open(&config).is_err(), "two owners would read what the other is writing");
    drop((cache, volume));
    let cache = Cache::open(&config).expect("the first has ended");
    let volume = cache.attach("disk", disk, WriteMode::BackSsd).expect("the volume attaches");
    (0..12).for_each(|block| assert_eq!(number_of(block, &read(&volume, block)), 1));
}

#[test]
fn blocks_of_a_volume_of_8_tib_that_differ_above_32_bits_stay_apart() {
    const VOLUME_BYTES: u64 = 8 << 40;
    let offsets = [0, 1 << 32, 1 << 41, (1 << 41) + (1 << 32), 3 << 41, VOLUME_BYTES - BLOCK_U64];
    for mode in MODES {
        let world = World { disk: Arc::new(MemoryDevice::new(VOLUME_BYTES)), ..World::new() };
        let (cache, volume) = world.open(held(16), mode);
        let numbered = |number: usize| content(number as u64, 1);
        for (number, &offset) in offsets.iter().enumerate() {
            volume.write(offset, &numbered(number)).expect("a write succeeds");
        }
        for round in 0..2 {
            for (number, &offset) in offsets.iter().enumerate() {
                assert!(bytes_of(&volume, offset, BLOCK) == numbered(number), "{mode:?} {offset}");
            }
            volume.flush().expect("a flush succeeds");
            // From RAM first, then from wherever they went.
            (1000..1040 + round).for_each(|block| drop(read(&volume, block)));
        }
        cache.settle().expect("all goes below");
        for (number, &offset) in offsets.iter().enumerate() {
            assert!(stored(&*world.disk, offset, BLOCK) == numbered(number), "{mode:?} {offset} below");
        }
        assert!(volume.write(VOLUME_BYTES - 511, &[1; 512]).is_err(), "past the end");
    }
    let files = Files::new();
    let cache = Cache::open(&held(16)).expect("the cache opens");
    let sparse = Arc::new(files.backing(VOLUME_BYTES));
    let volume = cache.attach("sparse", sparse, WriteMode::Through).expect("the volume attaches");
    volume.write(VOLUME_BYTES - BLOCK_U64, &content(7, 1)).expect("a sparse file takes it");
    volume.discard(1 << 33, 5 << 40).expect("a discard succeeds");
    volume.flush().expect("a flush succeeds");
    assert!(bytes_of(&volume, VOLUME_BYTES - BLOCK_U64, BLOCK) == content(7, 1));
}

#[test]
fn a_log_reopened_and_appended_to_at_every_page_keeps_all_of_it() {
    let mut world = World::new();
    let mut newest = [0; 8];
    for life in 1..=40 {
        world.disk.fail(Fault::every(Operation::Write));
        let (cache, volume) = world.open(held(64), WriteMode::BackSsd);
        for (block, &number) in newest.iter().enumerate() {
            let found = number_of(block as u64, &read(&volume, block as u64));
            assert_eq!(found, number, "life {life}: block {block}");
        }
        // Records of one page of data up to eight; a short one after a long one leaves blocks that only the older has.
        for block in 0..1 + life * 3 % 8 {
            write(&volume, block, life);
            newest[block as usize] = life;
        }
        volume.flush().expect("the log is there");
        if life % 4 == 0 {
            // Each life takes a segment: room for the next ones.
            world.disk.clear_faults();
            eventually("all goes below", || cache.settle().is_ok());
        }
        if life % 3 == 0 {
            cache.close().expect("the cache closes");
        } else {
            world = world.after_power_loss(Loss::All);
        }
    }
}

/// Every record is as long as every other, so that a newer one ends where an older one begins.
#[test]
fn a_log_that_went_round_many_times_replays_only_its_newest_generation() {
    let world = World::new();
    let (cache, volume) = world.open(held(64), WriteMode::BackSsd);
    let mut round = 0;
    let flush_eight = |volume: &Volume, first: u64, round| {
        (first..first + 8).for_each(|block| write(volume, block, round));
        volume.flush().expect("the log is there");
    };
    while cache.stats().ssd.blocks_destaged < 6 * SSD_BLOCKS {
        round += 1;
        (0..6).for_each(|record| flush_eight(&volume, record * 8, round));
        cache.settle().expect("all goes below");
    }
    world.disk.fail(Fault::every(Operation::Write));
    // What follows these in their segment is of earlier generations.
    (0..2).for_each(|record| flush_eight(&volume, record * 8, round + 1));
    for loss in Loss::ALL {
        let (cache, volume) = world.after_power_loss(loss).open(held(64), WriteMode::BackSsd);
        for block in 0..48 {
            let wanted = round + u64::from(block < 16);
            assert_eq!(number_of(block, &read(&volume, block)), wanted, "{loss:?}: block {block}");
        }
        drop(cache);
    }
}

#[test]
fn a_read_overtaken_by_the_reuse_of_its_segment_gets_the_right_bytes() {
    without_hanging(|| {
        let world = World::new();
        let volume_bytes = 8192 * BLOCK_U64;
        let disk = Arc::new(MemoryDevice::patterned(volume_bytes, 1));
        let ssd = Arc::new(Hostile::new(world.ssd.clone()));
        let mut config = held(16);
        let mut on_ssd = SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS));
        on_ssd.policy.admit_unearned = true;
        config.ssd = Some(on_ssd);
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = cache.attach("disk", disk.clone(), WriteMode::Back).expect("the volume attaches");
        (0..64).for_each(|block| drop(read(&volume, block)));
        cache.settle().expect("the cache settles");
        let reads = disk.counters().reads;
        ssd.hold_next_read(At::Start);
        let (sender, receiver) = mpsc::channel();
        volume.read_with(0, BLOCK, move |blocks| {
            let mut bytes = vec![0; BLOCK];
            drop(sender.send(blocks.map(|blocks| {
                blocks.copy_to(&mut bytes);
                bytes
            })));
        });
        ssd.wait_until_held();
        assert_eq!(disk.counters().reads, reads, "it reads from the SSD");
        let evicted = cache.stats().ssd.evicted_blocks;
        let mut next = 64;
        while cache.stats().ssd.evicted_blocks < evicted + 2 * SSD_BLOCKS {
            (next..next + 8).for_each(|block| drop(read(&volume, block % 8192)));
            next += 8;
            // What does not find room on its way is dropped.
            eventually("appends end", || cache.stats().ssd_queue_depth <= 1);
        }
        ssd.release();
        let found = answer(&receiver).expect("the read succeeds");
        assert!(found == stored(&*disk, 0, BLOCK));
    });
}

#[test]
fn no_buffer_changes_while_a_device_writes_it_and_none_that_failed_is_believed() {
    let seed = seed();
    for mode in MODES {
        let world = World::new();
        let hostile = |device: &Arc<MemoryDevice>| Arc::new(Hostile::new(device.clone()));
        let (ssd, disk) = (hostile(&world.ssd), hostile(&world.disk));
        let mut config = Config { writeback_delay_ms: 1, ..small(32) };
        config.ssd = Some(SsdConfig::on_device(ssd.clone(), SsdSize::Blocks(SSD_BLOCKS)));
        let cache = Cache::open(&config).expect("the cache opens");
        let volume = cache.attach("disk", disk.clone(), mode).expect("the volume attaches");
        disk.fails_every.store(7, Ordering::Relaxed);
        // Destage goes on only while some of its rounds end well.
        ssd.fails_every.store(if mode == WriteMode::BackSsd { 101 } else { 7 }, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let volume = &volume;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed + thread);
                    for number in 1..400 {
                        let block = random.u64(..16) * 3 + thread;
                        write(volume, block, number);
                        let mut bytes = vec![0; BLOCK];
                        let other = random.u64(..64);
                        if volume.read(other * BLOCK_U64, &mut bytes).is_ok() {
                            // One byte of it may be a number's.
                            let is_poison = bytes.chunks(8).any(|word| word == [POISON; 8]);
                            assert!(!is_poison, "seed {seed} {mode:?}: block {other}");
                        }
                        if random.u8(..20) == 0 {
                            // A log that is full and cannot be read says so.
                            let is_flushed = volume.flush().is_ok();
                            assert!(is_flushed || mode == WriteMode::BackSsd, "seed {seed} {mode:?}");
                        }
                    }
                });
            }
        });
        for device in [&ssd, &disk] {
            device.fails_every.store(0, Ordering::Relaxed);
            assert_eq!(device.changed.load(Ordering::Relaxed), 0, "seed {seed} {mode:?}: {}", device.name());
        }
        eventually("the cache settles", || cache.settle().is_ok());
    }
}

#[test]
fn after_a_crash_no_other_mode_begins_before_the_log_is_drained() {
    for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
        let world = World::new();
        world.disk.fail(Fault::every(Operation::Write));
        let (_cache, volume) = world.open(held(32), WriteMode::BackSsd);
        (0..8).for_each(|block| write(&volume, block, 1));
        volume.flush().expect("the log is there");
        let left = world.after_power_loss(Loss::All);
        left.disk.fail(Fault::every(Operation::Write));
        let cache = Cache::open(&left.config(held(32))).expect("the cache opens");
        assert!(cache.attach("disk", left.disk.clone(), mode).is_err(), "{mode:?}: it cannot be drained");
        left.disk.clear_faults();
        let volume = cache.attach("disk", left.disk.clone(), mode).expect("it can now");
        (0..8).for_each(|block| assert_eq!(number_of(block, &left.below(block)), 1, "{mode:?}"));
        write(&volume, 0, 2);
        volume.flush().expect("a flush succeeds");
        cache.close().expect("the cache closes");
        assert_eq!(number_of(0, &left.below(0)), 2, "{mode:?}");
    }
}

/// Lists and target from figure 4 of the paper. With the lengths of the ghost lists as they are after the block left
/// them, or after REPLACE as well, the target would be 3, or 4, and block 9 would have left in place of 1.
#[test]
fn the_policy_adapts_before_the_block_moves() {
    let mut policy = ArcPolicy::new(5);
    let volume = VolumeId::new(1);
    for number in [9, 4, 5, 8, 8, 2, 5, 7, 6, 2, 1, 9, 4, 3, 6, 8] {
        policy.request(BlockId::new(volume, number), |_| true).expect("all may leave");
    }
    let numbers = |list| policy.list(list).map(BlockId::number).collect::<Vec<_>>();
    let lists = [List::Recent, List::Frequent, List::RecentGhost, List::FrequentGhost].map(numbers);
    assert_eq!(lists, [vec![3], vec![9, 4, 6, 8], vec![7, 1], vec![5, 2]]);
    assert_eq!(policy.recent_target(), 2.0);
}

#[test]
fn two_overwrites_without_a_sync_between_them_leave_one_of_the_three_whole() {
    let (world, seed) = (World::new(), seed());
    world.disk.fail(Fault::every(Operation::Write));
    // From the first dirty block on groups go to the log, and nobody waits for a sync.
    let (cache, volume) = world.open(Config { dirty_low: 0.001, ..held(64) }, WriteMode::BackSsd);
    (0..4).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    world.journal.mark(1);
    for number in [2, 3] {
        let records = cache.stats().ssd.records_written;
        (0..4).for_each(|block| write(&volume, block, number));
        eventually("some are in records", || number == 3 || cache.stats().ssd.records_written > records);
    }
    volume.flush().expect("the log is there");
    world.journal.mark(3);
    world.each_loss(1, 1, seed, |left, flushed, place| {
        let (_cache, volume) = left.open(held(64), WriteMode::BackSsd);
        for block in 0..4 {
            let found = number_of(block, &read(&volume, block));
            assert!((flushed..=3).contains(&found), "{place}: block {block} is {found}");
        }
    });
}

#[test]
fn what_the_ssd_cannot_take_is_counted_when_clean_and_waited_for_when_dirty() {
    without_hanging(|| {
        let world = World::new();
        let (cache, volume) = world.open(held(16), WriteMode::BackSsd);
        world.ssd.stall(Operation::Write);
        (0..256).for_each(|block| drop(read(&volume, block)));
        let dropped = cache.stats().demotions_dropped;
        let writer = {
            let volume = volume.clone();
            std::thread::spawn(move || (0..DISK_BLOCKS).for_each(|block| write(&volume, block, 1)))
        };
        eventually("dirty blocks fill what they may of RAM", || cache.stats().dirty_blocks >= 14);
        let fits_ram = writer.is_finished();
        // And then of the log, which cannot go below.
        world.disk.stall(Operation::Write);
        world.ssd.resume();
        eventually("dirty blocks fill what they may of both", || {
            let stats = cache.stats();
            stats.dirty_blocks >= 14 && stats.ssd.dirty_blocks >= SSD_BLOCKS / 4
        });
        let fits_both = writer.is_finished();
        world.disk.resume();
        writer.join().expect("no write fails");
        assert!(dropped > 0 && !fits_ram && !fits_both, "{dropped} dropped, {DISK_BLOCKS} blocks to write");
        (0..DISK_BLOCKS).for_each(|block| assert_eq!(number_of(block, &read(&volume, block)), 1));
    });
}

#[test]
fn reads_are_answered_while_every_write_below_hangs() {
    without_hanging(|| {
        let world = World::new();
        let (_cache, volume) = world.open(Config { writeback_delay_ms: 1, ..small(64) }, WriteMode::Back);
        world.disk.stall(Operation::Write);
        (0..20).for_each(|block| write(&volume, block * 2, 1));
        let (sender, receiver) = mpsc::channel();
        volume.flush_with(move |result| drop(sender.send(result)));
        // With every thread that the disk has.
        world.disk.wait_until_held(4);
        for block in (0..20).chain(100..DISK_BLOCKS) {
            assert_eq!(number_of(block, &read(&volume, block)), u64::from(block < 40 && block % 2 == 0));
        }
        world.disk.resume();
        answer(&receiver).expect("a flush succeeds");
    });
}

#[test]
fn write_back_goes_on_beside_readers_that_never_pause() {
    for mode in [WriteMode::Back, WriteMode::BackSsd] {
        let world = World::new();
        let (cache, volume) = world.open(Config { writeback_delay_ms: 1, ..small(64) }, mode);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for first in 0..2 {
                let (volume, is_over) = (&volume, &is_over);
                scope.spawn(move || {
                    for block in (first..).step_by(7) {
                        drop(read(volume, 200 + block % 256));
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            // So few that nobody needs their room.
            (0..10).for_each(|block| write(&volume, block, 1));
            eventually("all of it is below", || (0..10).all(|block| world.below(block) == content(block, 1)));
            is_over.store(true, Ordering::Relaxed);
        });
        drop(cache);
    }
}

/// A lane that is never idle: one read hangs on it for as long as it takes.
#[test]
fn write_back_goes_on_while_a_read_hangs() {
    without_hanging(|| {
        for mode in [WriteMode::Back, WriteMode::BackSsd] {
            let world = World::new();
            let (_cache, volume) = world.open(Config { writeback_delay_ms: 1, ..small(64) }, mode);
            world.disk.stall(Operation::Read);
            let (sender, receiver) = mpsc::channel();
            volume.read_with(300 * BLOCK_U64, BLOCK, move |result| {
                let _ = sender.send(result.is_ok());
            });
            world.disk.wait_until_held(1);
            (0..10).for_each(|block| write(&volume, block, 1));
            // The disk answers no reads: what is below is known by its counters.
            eventually("all of it is below", || world.disk.counters().write_bytes >= 10 * BLOCK_U64);
            world.disk.resume();
            assert!(answer(&receiver), "{mode:?}");
            (0..10).for_each(|block| assert!(world.below(block) == content(block, 1), "{mode:?}"));
        }
    });
}

#[test]
fn a_dirty_copy_that_could_not_be_read_once_is_an_error_and_neither_gone_nor_stuck() {
    let world = World::new();
    world.disk.fail(Fault::every(Operation::Write));
    let (cache, volume) = world.open(held(16), WriteMode::BackSsd);
    write(&volume, 0, 1);
    volume.flush().expect("the log is there");
    (100..164).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect_err("the disk takes nothing");
    world.ssd.fail(Fault::every(Operation::Read));
    let mut bytes = vec![0; BLOCK];
    assert!(volume.read(0, &mut bytes).is_err(), "what the disk has is older");
    world.ssd.clear_faults();
    assert_eq!(number_of(0, &read(&volume, 0)), 1);
    world.disk.clear_faults();
    eventually("it goes below", || cache.settle().is_ok());
    assert_eq!(number_of(0, &world.below(0)), 1);
}

#[test]
fn a_cache_file_has_its_size_from_the_start_and_keeps_it() {
    let files = Files::new();
    let mut config = Config { writeback_delay_ms: 1, ..small(32) };
    config.ssd = Some(SsdConfig::new(files.ssd(), SsdSize::Blocks(SSD_BLOCKS)));
    let cache = Cache::open(&config).expect("the cache opens");
    let bytes = || std::fs::metadata(files.ssd()).expect("it is there").len();
    let size = bytes();
    let disk = Arc::new(files.backing(4 * DISK_BLOCKS * BLOCK_U64));
    let volume = cache.attach("disk", disk, WriteMode::BackSsd).expect("the volume attaches");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let volume = &volume;
            scope.spawn(move || {
                for block in (0..4 * DISK_BLOCKS).filter(|block| block % 4 == thread) {
                    write(volume, block, 1);
                    drop(read(volume, block / 2));
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(bytes(), size);
            let ssd = cache.stats().ssd;
            assert!(ssd.cached_blocks <= ssd.capacity_blocks, "{ssd:?}");
        }
    });
    cache.close().expect("the cache closes");
    assert_eq!(bytes(), size);
}

#[test]
fn ram_holds_no_more_than_it_was_given_and_the_index_no_more_than_20_bytes_a_block() {
    const RAM_BYTES: u64 = 4 << 20;
    let world = World::new();
    let disk = Arc::new(MemoryDevice::patterned(16 * RAM_BYTES, 1));
    let config = Config { ram: RamSize::Bytes(RAM_BYTES), shards: None, ..held(16) };
    let cache = Cache::open(&world.config(config)).expect("the cache opens");
    let volume = cache.attach("disk", disk, WriteMode::Through).expect("the volume attaches");
    let blocks = 16 * RAM_BYTES / BLOCK_U64;
    for _ in 0..2 {
        (0..blocks).for_each(|block| drop(read(&volume, block)));
    }
    let held: Vec<_> = (0..blocks)
        .map_while(|block| {
            let before = cache.stats().read_ram_hits;
            let blocks = volume.read_ref(block * BLOCK_U64, BLOCK).ok()?;
            Some((blocks, cache.stats().read_ram_hits - before))
        })
        .take((RAM_BYTES / BLOCK_U64) as usize + 1)
        .collect();
    assert!(held.len() as u64 <= RAM_BYTES / BLOCK_U64, "readers hold more than there is");
    drop(held);
    let ssd = cache.stats().ssd;
    // The table is sized once; a small one has its fixed part beside it.
    assert!(ssd.index_bytes <= 20 * ssd.capacity_blocks + (64 << 10), "{ssd:?}");
}

#[test]
fn blocks_in_the_log_take_no_more_ram_than_the_configuration_says() {
    let world = World::new();
    let config = world.config(Config { background: Background::OnSettle, ..held(64) });
    let ssd = config.ssd.clone().expect("there is one");
    let most = ssd.index_bytes_max(config.block_size).expect("its size is known");
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", world.disk.clone(), WriteMode::BackSsd).expect("the volume attaches");
    let clean = cache.stats().ssd.index_bytes;
    for block in 0..40 {
        volume.write(block * BLOCK_U64 + 512, &[1; 512]).expect("a write succeeds");
        volume.flush().expect("the log is there");
    }
    let dirty = cache.stats().ssd.index_bytes;
    assert!(clean < dirty && dirty <= most + (64 << 10), "{clean}, then {dirty}, of {most}");
    let as_found = SsdConfig { size: SsdSize::AsFound, ..ssd };
    assert!(as_found.index_bytes_max(config.block_size).is_err(), "the file alone knows");
}

#[test]
fn empty_reads_writes_discards_and_forgets_do_nothing_anywhere() {
    for mode in [WriteMode::Around, WriteMode::Through, WriteMode::Back] {
        let world = World::new();
        let (cache, volume) = world.open(held(16), mode);
        write(&volume, 3, 1);
        volume.flush().expect("a flush succeeds");
        let before = (world.disk.counters(), cache.stats().references);
        let end = DISK_BLOCKS * BLOCK_U64;
        for offset in [0, 1, 3 * BLOCK_U64, 3 * BLOCK_U64 + 700, end] {
            volume.read(offset, &mut []).expect("an empty read succeeds");
            volume.write(offset, &[]).expect("an empty write succeeds");
            volume.discard(offset, 0).expect("an empty discard succeeds");
            if offset % BLOCK_U64 == 0 {
                volume.forget(offset, 0).expect("an empty forget succeeds");
            }
        }
        assert!(volume.discard(end + 1, 0).is_err() && volume.discard(1, u64::MAX).is_err());
        assert_eq!((world.disk.counters(), cache.stats().references), before, "{mode:?}");
        volume.flush().expect("a flush succeeds");
        assert_eq!(number_of(3, &read(&volume, 3)), 1);
        cache.assert_quiet();
    }
}

#[test]
fn the_power_may_fail_in_every_step_of_attaching_switching_detaching_and_closing() {
    let (world, seed) = (World::new(), seed());
    let (cache, volume) = world.open(held(32), WriteMode::BackSsd);
    (0..8).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("the log is there");
    world.journal.mark(1);
    volume.detach().expect("it is detached");
    let volume = cache.attach("disk", world.disk.clone(), WriteMode::Back).expect("it attaches");
    (0..8).for_each(|block| write(&volume, block, 2));
    volume.flush().expect("a flush succeeds");
    world.journal.mark(2);
    volume.set_mode(WriteMode::Through).expect("the mode is switched");
    (0..8).for_each(|block| write(&volume, block, 3));
    volume.flush().expect("a flush succeeds");
    world.journal.mark(3);
    volume.set_mode(WriteMode::BackSsd).expect("the mode is switched");
    (0..8).for_each(|block| write(&volume, block, 4));
    volume.flush().expect("the log is there");
    world.journal.mark(4);
    volume.set_mode(WriteMode::Back).expect("the mode is switched");
    (0..4).for_each(|block| write(&volume, block, 5));
    volume.flush().expect("a flush succeeds");
    (0..4).for_each(|block| write(&volume, block, 6));
    volume.detach().expect("it is detached");
    let volume = cache.attach("disk", world.disk.clone(), WriteMode::BackSsd).expect("it attaches");
    (4..8).for_each(|block| write(&volume, block, 6));
    cache.close().expect("the cache closes");
    world.journal.mark(6);
    let mut opened = 0;
    world.each_loss(1, 1, seed, |left, flushed, place| {
        // Both the mode it had and another one: whatever it says, nothing is lost.
        for mode in [WriteMode::BackSsd, WriteMode::Back] {
            let (_cache, volume) = left.open(held(32), mode);
            for block in 0..8 {
                // Below each sector is there or lost, in the log each block.
                for found in sector_numbers(block, &read(&volume, block)) {
                    assert!((flushed..=6).contains(&found), "{place} {mode:?}: block {block} is {found}");
                }
            }
            opened += 1;
        }
    });
    assert!(opened > 200, "only {opened} openings");
}

#[test]
fn copies_that_changed_places_on_the_ssd_are_never_taken_for_each_other() {
    let world = World::new();
    let (cache, volume) = world.open(held(16), WriteMode::Back);
    (0..64).for_each(|block| write(&volume, block, 1));
    volume.flush().expect("a flush succeeds");
    (100..200).for_each(|block| drop(read(&volume, block)));
    cache.settle().expect("the cache settles");
    let pages: Vec<u64> = (0..world.ssd.len_bytes() / BLOCK_U64)
        .filter(|page| (0..64).any(|block| stored(&*world.ssd, page * BLOCK_U64, BLOCK) == content(block, 1)))
        .collect();
    assert!(pages.len() > 16, "copies are there");
    let bytes: Vec<Vec<u8>> = pages.iter().map(|page| stored(&*world.ssd, page * BLOCK_U64, BLOCK)).collect();
    for (page, bytes) in pages.iter().zip(bytes.iter().cycle().skip(1)) {
        world.ssd.write(page * BLOCK_U64, &[IoSlice::new(bytes)]).expect("in range");
    }
    (0..64).for_each(|block| assert_eq!(number_of(block, &read(&volume, block)), 1));
    assert!(cache.stats().ssd.corrupt_blocks > 0);
}

#[test]
fn blocks_that_were_hit_outlive_the_others_also_over_a_restart() {
    let left = |restarts: bool, hits: u32, others: u64| {
        let world = World::new();
        let disk = Arc::new(MemoryDevice::patterned(4096 * BLOCK_U64, 1));
        let mut config = Config { background: Background::OnSettle, ..held(16) };
        let mut ssd = SsdConfig::on_device(world.ssd.clone(), SsdSize::Blocks(SSD_BLOCKS));
        ssd.policy.admit_unearned = true;
        config.ssd = Some(ssd);
        let open = || {
            let cache = Cache::open(&config).expect("the cache opens");
            let volume = cache.attach("disk", disk.clone(), WriteMode::Back).expect("the volume attaches");
            (cache, volume)
        };
        let (mut cache, mut volume) = open();
        let pass = |cache: &Cache, volume: &terrace::Volume, blocks: std::ops::Range<u64>, step| {
            for block in blocks.step_by(step) {
                drop(read(volume, block));
                cache.settle().expect("the cache settles");
            }
        };
        pass(&cache, &volume, 0..200, 1);
        for _ in 0..hits {
            pass(&cache, &volume, 0..160, 5);
        }
        if restarts {
            cache.close().expect("the cache closes");
            drop((cache, volume));
            (cache, volume) = open();
        }
        pass(&cache, &volume, 1000..1000 + others, 1);
        let is_there = |block: u64| {
            let before = cache.stats().read_ssd_hits;
            drop(read(&volume, block));
            cache.stats().read_ssd_hits > before
        };
        let there: Vec<u64> = (0..160).filter(|&block| is_there(block)).collect();
        let hot = there.iter().filter(|&&block| block % 5 == 0).count();
        let late = (100..160).filter(|block| there.contains(block)).count();
        (hot, there.len() - hot, late)
    };
    for restarts in [false, true] {
        let (hot, cold, _) = left(restarts, 2, SSD_BLOCKS);
        assert!(hot > 16 && hot > 2 * cold, "restarts {restarts}: {hot} of 32 that were hit, {cold} others");
        // So few new ones that only the oldest leave.
        let (hot, cold, late) = left(restarts, 0, SSD_BLOCKS / 2);
        let early = hot + cold - late;
        assert!(
            late == 60 && early < 80,
            "restarts {restarts}: {late} of the last 60, {early} of the first 100"
        );
    }
}

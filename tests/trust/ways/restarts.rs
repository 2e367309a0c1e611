//! What the next process finds.

use std::io::IoSlice;
use std::sync::Arc;

use terrace::tiers::testing::{Fault, Loss, MemoryDevice, Operation};
use terrace::{Background, Cache, Config, Device, SsdConfig, SsdSize, Volume, WriteMode};

use crate::common::{BLOCK, Files, content, eventually, held, seed, stored};
use crate::world::{BLOCK_U64, DISK_BLOCKS, SSD_BLOCKS, World, number_of, read, sector_numbers, write};

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

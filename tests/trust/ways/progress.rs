//! What hangs, fails or is full holds nothing else up, and is not dropped in silence.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use terrace::tiers::testing::{Fault, Operation};
use terrace::{Config, WriteMode};

use super::answer;
use crate::common::{BLOCK, content, eventually, held, small, without_hanging};
use crate::world::{BLOCK_U64, DISK_BLOCKS, SSD_BLOCKS, World, number_of, read, write};

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

/// All that may be dirty is: RAM as far as its mark, and the log where there is one. Writers wait.
#[test]
fn reads_are_answered_while_nothing_more_may_be_dirty() {
    without_hanging(|| {
        for (mode, log_blocks) in [(WriteMode::Back, 0), (WriteMode::BackSsd, SSD_BLOCKS / 4)] {
            let world = World::new();
            let (cache, volume) = world.open(held(16), mode);
            world.disk.stall(Operation::Write);
            let writer = {
                let volume = volume.clone();
                std::thread::spawn(move || (0..DISK_BLOCKS).for_each(|block| write(&volume, block, 1)))
            };
            eventually("writers wait", || {
                let stats = cache.stats();
                stats.dirty_blocks >= 14 && stats.ssd.dirty_blocks >= log_blocks
            });
            let blocks = [0..8, 100..140, 500..512, 0..8];
            let numbers =
                blocks.into_iter().flatten().map(|block| (block, number_of(block, &read(&volume, block))));
            assert!(numbers.into_iter().all(|(block, number)| number == 1 || block >= 8), "{mode:?}");
            assert!(!writer.is_finished(), "{mode:?}");
            world.disk.resume();
            writer.join().expect("no write fails");
        }
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

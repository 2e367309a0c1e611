//! Reads that miss, demotions and evictions beside writes.

use terrace::WriteMode;

use super::checker::explore;
use super::world::{BLOCK, RAM_BLOCKS, SLACK_BLOCKS, World, content, join, value_of};

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
fn a_demoted_copy_meets_what_overwrites_it() {
    explore("a_demoted_copy_meets_what_overwrites_it", || demotion_and_overwriting(WriteMode::Back));
}

#[test]
fn a_demoted_copy_meets_what_overwrites_it_through() {
    let scenario = || demotion_and_overwriting(WriteMode::Through);
    explore("a_demoted_copy_meets_what_overwrites_it_through", scenario);
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

//! Devices that fail beside reads, writes and flushes.

use terrace::WriteMode;
use terrace::tiers::testing::{Fault, Operation};

use super::checker::explore;
use super::world::{World, check_durable_at_the_end, check_durable_from, join};

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

/// What a dead disk keeps in the log fills it; another volume goes past it, and through it again when the disk works.
#[test]
fn a_log_that_a_dead_disk_keeps_full_is_passed_beside_writes_reads_and_discards() {
    explore("a_log_that_a_dead_disk_keeps_full_is_passed_beside_writes_reads_and_discards", || {
        let sick = World::new(WriteMode::BackSsd);
        let sound = sick.beside(WriteMode::BackSsd);
        sick.disk.fail(Fault::every(Operation::Write));
        sick.write(0, 2);
        sick.volume.flush().expect("the log has room");
        let rewrite = |values: std::ops::Range<u64>| {
            move |world: &World| {
                for value in values {
                    (0..3).for_each(|block| world.write(block, value));
                    world.volume.flush().expect("the other volume is none of its business");
                }
            }
        };
        rewrite(2..5)(&sound);
        join([
            sound.spawn(rewrite(5..8)),
            sound.spawn(|world| {
                world.write(3, 2);
                world.discard(3, 2);
                world.write(4, 3);
                world.volume.flush().expect("the other volume is none of its business");
                assert!(world.is_zeros(3) && world.read(4) == 3);
            }),
            sound.spawn(|world| world.watch(0, 2)),
            sick.spawn(|world| world.disk.clear_faults()),
        ]);
        sound.cache.settle().expect("the disk works again");
        assert_eq!((sick.read(0), sick.on_disk(0)), (2, 2));
        sound.drive_out();
        assert!(sound.is_zeros(3));
        sound.rests_with(&[(0, 7), (1, 7), (2, 7), (4, 3)]);
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

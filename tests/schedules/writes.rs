//! What is on its way down: write-back, the log, destage, discards, and the flushes that wait for them.

use shuttle::sync::mpsc;
use terrace::WriteMode;

use super::checker::explore;
use super::world::{BLOCK, World, check_durable_from, check_logged_at, content, join, value_of};

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
fn discards_in_the_log_at_once_leave_what_is_written_over_them() {
    explore("discards_in_the_log_at_once_leave_what_is_written_over_them", || {
        let world = World::tuned(WriteMode::BackSsd, |config| config.disk_threads = 3);
        (0..5).for_each(|block| world.write(block, 2));
        world.volume.flush().expect("a flush succeeds");
        let rewrite = |blocks: std::ops::Range<u64>| {
            move |world: &World| {
                for block in blocks {
                    world.discard(block, 1);
                    world.write(block, 3);
                }
                world.volume.flush().expect("a flush succeeds");
            }
        };
        join([
            world.spawn(rewrite(0..1)),
            world.spawn(rewrite(1..4)),
            world.spawn(|world| world.watch(4, 2)),
        ]);
        world.rests_with(&[(0, 3), (1, 3), (3, 3), (4, 2)]);
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

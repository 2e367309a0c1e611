//! Sizes, modes, SSDs and volumes that change, and caches that close, beside reads and writes.

use shuttle::sync::mpsc;
use terrace::{Error, RamSize, SsdConfig, SsdSize, WriteMode};

use super::checker::explore;
use super::world::{RAM_BLOCKS, SSD_BLOCKS, World, content, join};

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

//! What happens at the same time: a read and a write, a flush and a write, a read and the reuse of its place.

use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use terrace::tiers::testing::{Loss, MemoryDevice, Operation};
use terrace::{Cache, Config, Device, SsdConfig, SsdSize, WriteMode};

use super::{MODES, answer};
use crate::common::{BLOCK, content, eventually, held, seed, small, stored, without_hanging};
use crate::hostile::{At, Hostile, POISON};
use crate::world::{BLOCK_U64, SSD_BLOCKS, World, number_of, read, write};

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

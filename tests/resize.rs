//! RAM grows and shrinks while the cache is used.

mod common;

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{BLOCK, bytes_of, content, eventually, held, seed, small, ssd_bytes, stored, without_hanging};
use terrace::tiers::testing::{Fault, MemoryDevice, Operation};
use terrace::{Cache, Config, Device, Error, RamSize, SsdConfig, SsdSize, Volume, WriteMode};

fn disk_of(blocks: u64) -> Arc<MemoryDevice> {
    let disk = MemoryDevice::new(blocks * BLOCK as u64);
    for block in 0..blocks {
        disk.write(block * BLOCK as u64, &[IoSlice::new(&content(block, 1))]).expect("a disk takes bytes");
    }
    Arc::new(disk)
}

fn on(disk: &Arc<MemoryDevice>, config: &Config) -> (Cache, Volume) {
    let cache = Cache::open(config).expect("the cache opens");
    let volume = cache.attach("disk", disk.clone(), WriteMode::Back).expect("the volume attaches");
    (cache, volume)
}

fn read(volume: &Volume, block: u64) -> Vec<u8> {
    bytes_of(volume, block * BLOCK as u64, BLOCK)
}

fn write(volume: &Volume, block: u64, number: u64) {
    volume.write(block * BLOCK as u64, &content(block, number)).expect("a write succeeds");
}

/// Of `blocks`, each read once to see, how many were in RAM.
fn in_ram(volume: &Volume, blocks: std::ops::Range<u64>) -> u64 {
    let mut bytes = vec![0; BLOCK];
    let hits = blocks.map(|block| {
        let answer = volume.read(block * BLOCK as u64, &mut bytes).expect("a read succeeds");
        u64::from(answer.ram_blocks)
    });
    hits.sum()
}

#[test]
fn a_grown_cache_holds_more_and_a_shrunk_one_keeps_what_was_used_last() {
    let disk = disk_of(400);
    let (cache, volume) = on(&disk, &Config { slack_blocks: Some(32), ..small(50) });
    assert_eq!(in_ram(&volume, 0..50), 0);
    let resized = cache.resize_ram(RamSize::Blocks(200)).expect("there is address space");
    assert_eq!((resized.blocks, resized.held_blocks), (200, 0));
    assert_eq!(in_ram(&volume, 0..200), 50, "nothing left while it grew");
    assert_eq!(in_ram(&volume, 0..200), 200);
    let resized = cache.resize_ram(RamSize::Blocks(60)).expect("all may leave");
    assert_eq!((resized.blocks, resized.held_blocks), (60, 0));
    assert_eq!(in_ram(&volume, 140..200), 60);
    assert_eq!(in_ram(&volume, 0..100), 0);
    cache.assert_quiet();
    assert!((0..400).all(|block| read(&volume, block) == content(block, 1)));
    cache.close().expect("the cache closes");
}

#[test]
fn a_size_that_cannot_work_is_refused_with_one_that_does_and_nothing_changes() {
    let disk = disk_of(100);
    let config = Config { ram_bytes_max: Some(8 << 20), shards: Some(2), ..small(64) };
    let (cache, volume) = on(&disk, &config);
    assert_eq!(in_ram(&volume, 0..40), 0);
    for ram in [RamSize::Blocks(0), RamSize::Blocks(15), RamSize::Bytes(4096)] {
        let error = cache.resize_ram(ram).expect_err("too small").to_string();
        assert!(error.contains("give"), "{error}");
    }
    let error = cache.resize_ram(RamSize::Bytes(100 << 20)).expect_err("too large").to_string();
    assert!(error.contains("ram_bytes_max"), "{error}");
    assert_eq!(in_ram(&volume, 0..40), 40);
    let error = cache.resize_ram(RamSize::Bytes(100_000)).expect_err("too small").to_string();
    let bytes = error.split(' ').filter_map(|word| word.parse::<u64>().ok()).last().expect("a size is named");
    let resized = cache.resize_ram(RamSize::Bytes(bytes)).expect("the size that was named works");
    assert_eq!(resized.blocks, 16);
    let resized = cache.resize_ram(RamSize::Bytes(8 << 20)).expect("the largest that was provided for");
    assert!(resized.blocks > 1500, "{resized:?}");
    cache.close().expect("the cache closes");
    assert!(matches!(cache.resize_ram(RamSize::Blocks(64)), Err(Error::Closed)));
}

#[test]
fn dirty_blocks_that_are_too_many_are_durable_before_they_leave() {
    let disk = disk_of(100);
    let (cache, volume) = on(&disk, &held(100));
    (0..80).for_each(|block| write(&volume, block, 2));
    assert_eq!(cache.stats().dirty_blocks, 80);
    let resized = cache.resize_ram(RamSize::Blocks(10)).expect("the disk takes them");
    assert_eq!((resized.blocks, resized.held_blocks), (10, 0));
    assert!(cache.stats().disk_syncs > 0 && cache.stats().unsynced_blocks == 0);
    for block in 0..80 {
        assert_eq!(stored(&*disk, block * BLOCK as u64, BLOCK), content(block, 2), "block {block} below");
        assert_eq!(read(&volume, block), content(block, 2));
    }
    cache.assert_quiet();
}

#[test]
fn a_shrink_past_blocks_that_cannot_be_written_is_taken_back() {
    let disk = disk_of(200);
    let (cache, volume) = on(&disk, &held(100));
    (0..80).for_each(|block| write(&volume, block, 2));
    disk.fail(Fault::every(Operation::Write));
    let error = cache.resize_ram(RamSize::Blocks(10)).expect_err("they may not leave");
    assert!(matches!(error, Error::StillDirty { .. }), "{error}");
    assert!((0..80).all(|block| read(&volume, block) == content(block, 2)));
    // The old size holds: these go beside the dirty ones, and no writer waits.
    assert_eq!(in_ram(&volume, 100..120), 0);
    assert_eq!(in_ram(&volume, 100..120), 20);
    write(&volume, 0, 3);
    disk.clear_faults();
    assert_eq!(cache.resize_ram(RamSize::Blocks(10)).expect("the disk takes them again").blocks, 10);
    assert_eq!(stored(&*disk, 0, BLOCK), content(0, 3));
    cache.close().expect("the cache closes");
}

#[test]
fn readers_keep_the_blocks_they_hold_and_the_answer_counts_them() {
    let disk = disk_of(300);
    let (cache, volume) = on(&disk, &Config { frame_wait_ms: 1, ..small(200) });
    assert_eq!(in_ram(&volume, 0..200), 0);
    let references: Vec<_> =
        (0..200).map(|block| volume.read_ref(block * BLOCK as u64, BLOCK).expect("in RAM")).collect();
    let resized = cache.resize_ram(RamSize::Blocks(20)).expect("all may leave");
    // 20 blocks and a slack of 32 stay, whoever holds them.
    assert_eq!((resized.blocks, resized.held_blocks), (20, 200 - 52));
    for (held, block) in references.iter().zip(0..) {
        assert!(held.parts()[0][..] == content(block, 1), "block {block}");
    }
    drop(references);
    assert_eq!(cache.resize_ram(RamSize::Blocks(20)).expect("the same size").held_blocks, 0);
    assert!((0..300).all(|block| read(&volume, block) == content(block, 1)));
    cache.assert_quiet();
}

#[test]
fn what_leaves_a_shrinking_cache_goes_to_the_ssd() {
    let disk = disk_of(600);
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(2000)));
    let mut config = small(500);
    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(2000)));
    let (cache, volume) = on(&disk, &config);
    (0..500).for_each(|block| drop(read(&volume, block)));
    cache.resize_ram(RamSize::Blocks(8)).expect("all may leave");
    cache.settle().expect("the cache settles");
    let stats = cache.stats();
    assert_eq!((stats.demotions_dropped, stats.ssd.cached_blocks), (0, 492));
    cache.close().expect("the cache closes");
}

/// Writes and reads of threads that each have a stretch of the volume, until it is over.
fn traffic(volume: &Volume, thread: u64, seed: u64, is_over: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(thread));
    let mut model = vec![1; 100];
    while !is_over.load(Ordering::Relaxed) {
        let index = random.usize(..model.len());
        let (block, number) = (thread * 100 + index as u64, model[index]);
        match random.u8(..10) {
            0..4 => {
                model[index] += 1;
                write(volume, block, number + 1);
            }
            4 => {
                let length = random.usize(1..=model.len() - index);
                let bytes = bytes_of(volume, block * BLOCK as u64, length * BLOCK);
                for (at, bytes) in bytes.chunks(BLOCK).enumerate() {
                    assert!(bytes == content(block + at as u64, model[index + at]), "seed {seed}");
                }
            }
            5 if random.u8(..8) == 0 => volume.flush().expect("a flush succeeds"),
            _ => assert!(read(volume, block) == content(block, number), "seed {seed}, block {block}"),
        }
    }
}

fn resizes_beside_traffic(mode: WriteMode, shards: u32) {
    let seed = seed();
    let disk = disk_of(400);
    let ssd = Arc::new(MemoryDevice::new(ssd_bytes(300)));
    let mut config = Config { shards: Some(shards), writeback_delay_ms: 1, ..small(200) };
    config.ssd = Some(SsdConfig::on_device(ssd, SsdSize::Blocks(300)));
    let cache = Cache::open(&config).expect("the cache opens");
    let volume = cache.attach("disk", disk, mode).expect("the volume attaches");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic: Vec<_> = (0..4)
            .map(|thread| (volume.clone(), thread))
            .map(|(volume, thread)| {
                let is_over = &is_over;
                scope.spawn(move || traffic(&volume, thread, seed, is_over))
            })
            .collect();
        // Two at a time, which come one after the other.
        let resizers: Vec<_> = (0..2)
            .map(|resizer: u64| {
                let cache = cache.clone();
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed ^ resizer << 32);
                    for step in 0..40 {
                        let blocks = if step % 5 == 0 { 8 * u64::from(shards) } else { random.u64(64..600) };
                        let resized = cache.resize_ram(RamSize::Blocks(blocks)).expect("a size that works");
                        assert_eq!(resized.blocks, blocks, "seed {seed}");
                    }
                })
            })
            .collect();
        resizers.into_iter().for_each(|resizer| resizer.join().expect("no resize fails"));
        is_over.store(true, Ordering::Relaxed);
        traffic.into_iter().for_each(|thread| thread.join().expect("no call fails"));
    });
    cache.resize_ram(RamSize::Blocks(8 * u64::from(shards))).expect("a size that works");
    cache.settle().expect("the cache settles");
    cache.assert_quiet();
    cache.assert_nobody_waits();
    cache.close().expect("the cache closes");
}

#[test]
fn resizes_in_a_row_and_beside_each_other_disturb_no_reader_and_no_writer() {
    without_hanging(|| resizes_beside_traffic(WriteMode::Back, 4));
}

#[test]
fn resizes_beside_writes_through_and_to_a_log_disturb_nobody() {
    without_hanging(|| resizes_beside_traffic(WriteMode::Through, 1));
    without_hanging(|| resizes_beside_traffic(WriteMode::BackSsd, 2));
}

#[test]
fn a_resize_beside_a_close_ends_before_it_or_says_that_the_cache_is_closed() {
    for round in 0..20 {
        let disk = disk_of(100);
        let (cache, volume) = on(&disk, &held(100));
        (0..60).for_each(|block| write(&volume, block, 2));
        without_hanging(move || {
            std::thread::scope(|scope| {
                let closer = cache.clone();
                scope.spawn(move || closer.close().expect("the cache closes"));
                for blocks in [20 + round, 90, 8] {
                    match cache.resize_ram(RamSize::Blocks(blocks)) {
                        Ok(resized) => assert_eq!(resized.blocks, blocks),
                        Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
                    }
                }
            });
        });
        for block in 0..60 {
            assert_eq!(stored(&*disk, block * BLOCK as u64, BLOCK), content(block, 2), "block {block}");
        }
    }
}

#[test]
fn a_writer_that_waited_while_ram_shrank_goes_on() {
    let disk = disk_of(100);
    let (cache, volume) = on(&disk, &held(60));
    (0..50).for_each(|block| write(&volume, block, 2));
    // Its blocks are dirty for as long as the disk does not write them.
    disk.fail(Fault::every(Operation::Write));
    let shrinks = cache.clone();
    let resizer = std::thread::spawn(move || shrinks.resize_ram(RamSize::Blocks(8)));
    let writer = {
        let volume = volume.clone();
        std::thread::spawn(move || (50..60).for_each(|block| write(&volume, block, 2)))
    };
    assert!(resizer.join().expect("it does not panic").is_err());
    disk.clear_faults();
    without_hanging(move || writer.join().expect("no write fails"));
    eventually("the writers are let go", || in_ram(&volume, 50..51) == 1);
    cache.close().expect("the cache closes");
}
